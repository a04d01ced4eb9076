//! What replicating a database comes to in a month: requests, bytes and money, from its settings and from what is written to it.
//!
//! Everything here is arithmetic on assumptions, which are named. What the planners really do with a month of commits is compared
//! with it by a test.

use std::time::Duration;

use crate::compaction;
use crate::store::requests::Kind;

pub mod prices;

pub use prices::{Bill, EXAMPLES, Prices};

/// A month, for every number here.
pub const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);
const DAY_SECONDS: f64 = 86_400.0;
const HOUR_SECONDS: f64 = 3600.0;
/// As in docs/benchmarks.md: what joining takes off the bytes of shipped segments.
const JOINED: f64 = 0.9;
/// Of a page or a block, what is stored of it; real ones lie between a tenth and all of it.
const STORED_SHARE: f64 = 0.5;
/// Parts of snapshots lie between 1 and 16 MiB; most in the middle.
const PART_BYTES: f64 = (4 << 20) as f64;
/// What was joined or merged goes with the second look after this.
const GRACE_SECONDS: f64 = 2.0 * HOUR_SECONDS;
/// A look of prune: levels, snapshots, parts and marks are listed, a thousand names to a page.
const LISTS_OF_A_LOOK: f64 = 8.0;
const NAMES_OF_A_PAGE: f64 = 1000.0;

/// What is done to a database; all of it is assumed or observed by whoever asks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Workload {
    pub database_bytes: u64,
    /// On average, over the whole month.
    pub commits_per_second: f64,
    /// As shipped.
    pub bytes_per_commit: u64,
    /// Of the database, so much is not the same after a day.
    pub changed_bytes_per_day: u64,
}

/// What the configuration says of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    pub sync_interval: Duration,
    pub segment_size: u64,
    pub snapshot_interval: Duration,
    /// Bytes of the way from a snapshot after which there is another one; `None`: never for that.
    pub snapshot_after: Option<u64>,
    pub snapshot_spacing: Duration,
    /// How long every commit is kept; `None`: for ever, which is counted as a month.
    pub commits: Option<Duration>,
    /// How long snapshots and the way between them are kept; `None` as above.
    pub keep: Option<Duration>,
}

/// A month of one replica, once it is as full as it gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// By kind.
    pub requests: [f64; Kind::ALL.len()],
    pub uploaded_bytes: f64,
    pub downloaded_bytes: f64,
    pub stored_bytes: f64,
    pub stored_objects: f64,
}

impl Estimate {
    pub fn of_kind(&self, kind: Kind) -> f64 {
        self.requests[kind as usize]
    }

    /// An idle database costs what is stored of it, and not one request.
    pub fn new(workload: &Workload, terms: &Terms) -> Estimate {
        let days = MONTH.as_secs_f64() / DAY_SECONDS;
        let kept_days = |time: Option<Duration>| time.map_or(days, |time| time.as_secs_f64() / DAY_SECONDS);
        let full = workload.database_bytes as f64 * STORED_SHARE;
        let mut requests = [0.0; Kind::ALL.len()];
        if workload.commits_per_second <= 0.0 {
            let parts = (full / PART_BYTES).ceil() + 1.0;
            let nothing = Estimate {
                requests,
                uploaded_bytes: 0.0,
                downloaded_bytes: 0.0,
                stored_bytes: full,
                stored_objects: parts,
            };
            return nothing;
        }
        let shipped = Shipped::new(workload, terms);
        let raw_day = shipped.bytes_per_second * DAY_SECONDS;
        let changed = (workload.changed_bytes_per_day as f64 * STORED_SHARE).min(full.max(1.0));
        let merged = |raw: f64| raw.min(changed);
        let hours = 24.0_f64.min(shipped.per_second * DAY_SECONDS);
        let (merged_hours, merged_day) = (hours * merged(raw_day / hours), merged(raw_day));
        let joined = shipped.joined_per_second() * DAY_SECONDS;

        let snapshots = snapshots_per_day(terms, merged_hours);
        let changed_parts = (changed / snapshots / PART_BYTES).ceil().min((full / PART_BYTES).ceil());
        let of_snapshot = merged(raw_day / snapshots).min(changed);
        let puts = shipped.per_second * DAY_SECONDS + joined + hours + 1.0 + snapshots * (changed_parts + 1.0);
        let looks = 24.0_f64.min(shipped.per_second * DAY_SECONDS) + snapshots;

        let (commits, keep) = (kept_days(terms.commits), kept_days(terms.keep).max(1.0 / snapshots));
        let waiting_days = (GRACE_SECONDS / DAY_SECONDS).max(64.0 / (shipped.per_second * DAY_SECONDS)).min(commits);
        let objects = [
            shipped.per_second * DAY_SECONDS * waiting_days,
            joined * (commits + GRACE_SECONDS / DAY_SECONDS),
            (hours + 1.0) * keep,
            snapshots * keep * (changed_parts + 1.0),
            (full / PART_BYTES).ceil(),
        ];
        let bytes = [
            raw_day * waiting_days,
            raw_day * JOINED * (commits + GRACE_SECONDS / DAY_SECONDS),
            (merged_hours + merged_day) * keep,
            of_snapshot * snapshots * keep,
            full,
        ];
        let stored_objects = objects.iter().sum();
        requests[Kind::Put as usize] = puts * days;
        requests[Kind::List as usize] = looks * days * (LISTS_OF_A_LOOK + stored_objects / NAMES_OF_A_PAGE);
        // What an hour and a day merge is read again where it is not in the state directory any more.
        requests[Kind::Get as usize] = (joined + hours) * days;
        requests[Kind::DeleteMany as usize] = looks * days;
        let uploaded = raw_day * (1.0 + JOINED) + merged_hours + merged_day + of_snapshot * snapshots;
        Estimate {
            requests,
            uploaded_bytes: uploaded * days,
            downloaded_bytes: (raw_day * JOINED + merged_hours) * days,
            stored_bytes: bytes.iter().sum(),
            stored_objects,
        }
    }
}

/// What leaves as segments of level 0.
struct Shipped {
    per_second: f64,
    bytes_per_second: f64,
}

impl Shipped {
    /// A segment begins with a commit and ends at its age, or its size; the next one begins with the next commit.
    fn new(workload: &Workload, terms: &Terms) -> Shipped {
        let commits = workload.commits_per_second;
        let bytes_per_second = commits * workload.bytes_per_commit as f64;
        // Commits that come faster than segments end leave no pause between them.
        let pause = if commits * terms.sync_interval.as_secs_f64() >= 2.0 { 0.0 } else { 1.0 / commits };
        let by_age = 1.0 / (terms.sync_interval.as_secs_f64() + pause);
        let by_size = bytes_per_second / terms.segment_size as f64;
        Shipped { per_second: by_age.max(by_size).min(commits.max(by_size)), bytes_per_second }
    }

    fn joined_per_second(&self) -> f64 {
        let policy = compaction::Policy::default();
        let by_number = self.per_second / policy.join_segments as f64;
        let by_bytes = self.bytes_per_second / policy.join_bytes as f64;
        // What is left of an hour is joined with it.
        by_number.max(by_bytes).max((1.0 / HOUR_SECONDS).min(self.per_second))
    }
}

/// By the clock, or because the way from the last one grew too long.
fn snapshots_per_day(terms: &Terms, way_bytes_of_a_day: f64) -> f64 {
    let by_time = DAY_SECONDS / terms.snapshot_interval.as_secs_f64().max(1.0);
    let at_most = DAY_SECONDS / terms.snapshot_spacing.as_secs_f64().max(1.0);
    let by_way = terms.snapshot_after.map_or(0.0, |bytes| way_bytes_of_a_day / (bytes as f64 * STORED_SHARE).max(1.0));
    by_time.max(by_way.min(at_most))
}

#[cfg(test)]
mod tests;
