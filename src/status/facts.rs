//! What a status says: plain data.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::{Aims, Place};
use crate::position::{Generation, TimeMs, Txid};

/// What capture of a database is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Local state is being read and the replicas are being asked where they stand.
    Starting,
    /// There is no local state and no replica answers: without either, where to go on cannot be known.
    WaitingForReplica,
    /// There is no database yet.
    Absent,
    /// The database is there and cannot be captured as it is. Tried again by itself.
    NotCapturable(String),
    /// The first full read is going on.
    FirstRead {
        done: u64,
        total: u64,
    },
    /// Every commit is captured as it comes.
    Running,
    /// Capture let go of the database until the spool has room again.
    SpoolFull {
        used_bytes: u64,
        limit_bytes: u64,
    },
    /// Somebody asked capture to let go of the database; commits wait in it until it is resumed.
    Paused,
    Stopped,
    /// Capture ended for good.
    Failed(String),
}

/// What shipping to one replica is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicaState {
    /// It has not answered yet.
    Connecting,
    /// It answers, and everything sealed is in it or on its way.
    Connected,
    /// The last request failed; tried again by itself.
    Unreachable(String),
    /// Another writer took this replica over. Final: nothing more is shipped to it by this process.
    Fenced(String),
    /// It cannot be written to: another engine's, or a newer version's. Final.
    Refused(String),
}

impl ReplicaState {
    /// Will this process never ship to it again?
    pub fn is_final(&self) -> bool {
        matches!(self, ReplicaState::Fenced(_) | ReplicaState::Refused(_))
    }
}

/// Commits that cannot be restored one by one, or at all, from some replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapRecord {
    /// `None`: in the history itself, and so in every replica.
    pub replica: Option<String>,
    pub generation: Generation,
    /// The last commit before the gap and the first one behind it.
    pub after: Txid,
    pub at: Txid,
    pub time: TimeMs,
    pub reason: String,
}

/// The kinds of errors that are counted, for who wants to tell of those too that did not happen.
pub const ERROR_KINDS: [&str; 23] = [
    "capture",
    "compaction",
    "compaction-input",
    "drill",
    "final",
    "gap",
    "include",
    "not-capturable",
    "panic",
    "prune",
    "replica-conflict",
    "replica-damaged",
    "replica-refused",
    "snapshot",
    "spool",
    "spool-full",
    "start",
    "store-denied",
    "store-exists",
    "store-invalid",
    "store-not-found",
    "store-unavailable",
    "verify",
];

/// Upper bounds in milliseconds of the buckets of `Histogram`; one more bucket is above them all.
pub const HISTOGRAM_BOUNDS_MS: [u64; 14] =
    [5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000, 600_000];

/// Counts of durations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    pub counts: [u64; HISTOGRAM_BOUNDS_MS.len() + 1],
    pub sum_ms: u64,
}

impl Histogram {
    pub fn add(&mut self, ms: u64) {
        self.counts[HISTOGRAM_BOUNDS_MS.partition_point(|&bound| bound < ms)] += 1;
        self.sum_ms = self.sum_ms.saturating_add(ms);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotProgress {
    pub done_bytes: u64,
    pub total_bytes: u64,
}

/// What is known of the verifications, or of the drills, of one replica.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proofs {
    /// One is under way since then.
    pub running_since: Option<TimeMs>,
    /// When the newest one that found everything well ended; one before this process among them, where that is known.
    pub last_success: Option<TimeMs>,
    /// When the newest one of this process that did not ended, and why.
    pub last_failure: Option<(TimeMs, String)>,
    /// Of the newest one of this process, however it ended.
    pub last_duration: Option<Duration>,
    /// How many of this process ended so.
    pub successes: u64,
    pub failures: u64,
}

impl Proofs {
    /// The one that was under way has ended.
    pub fn ended(&mut self, now: TimeMs, took: Duration, result: Result<(), String>) {
        (self.running_since, self.last_duration) = (None, Some(took));
        match result {
            Ok(()) => {
                self.successes += 1;
                self.last_success = Some(now);
            }
            Err(why) => {
                self.failures += 1;
                self.last_failure = Some((now, why));
            }
        }
    }

    /// The newest one that ended was not well.
    pub fn is_failing(&self) -> bool {
        let failed = self.last_failure.as_ref().map(|(time, _)| *time);
        failed.is_some_and(|failed| self.last_success.is_none_or(|passed| passed < failed))
    }
}

/// Why a snapshot is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotReason {
    /// The replica has none of this generation.
    First,
    /// Somebody asked for it.
    Asked,
    /// Something before it is missing or damaged in the replica.
    Bridge,
    Interval,
    Schedule,
    /// A restore would read so many bytes of segments behind the last one.
    Way {
        bytes: u64,
        limit_bytes: u64,
    },
}

impl fmt::Display for SnapshotReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotReason::First => f.write_str("there is none yet"),
            SnapshotReason::Asked => f.write_str("it was asked for"),
            SnapshotReason::Bridge => f.write_str("segments before it are missing or damaged in the replica"),
            SnapshotReason::Interval => f.write_str("the last one is as old as snapshot-interval"),
            SnapshotReason::Schedule => f.write_str("the schedule says so"),
            SnapshotReason::Way { bytes, limit_bytes } => {
                write!(f, "the way from the last one is {bytes} bytes long, and {limit_bytes} are allowed")
            }
        }
    }
}

/// One replica at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaStatus {
    pub name: String,
    pub state: ReplicaState,
    /// Everything up to here is in it.
    pub shipped: Place,
    pub shipped_bytes: u64,
    /// Age of the oldest commit that is not in it, or that may be there without having been seen.
    pub lag: Duration,
    /// Bytes in the spool that are not in it.
    pub lag_bytes: u64,
    pub last_success: Option<TimeMs>,
    pub last_error: Option<(TimeMs, String)>,
    /// Does the store keep two writers apart? `None`: that was not seen yet.
    pub fencing: Option<bool>,
    /// The newest whole snapshot that this process knows of: its commit, and the time of that.
    pub snapshot: Option<(Txid, TimeMs)>,
    /// Why that was taken, if by this process.
    pub snapshot_reason: Option<SnapshotReason>,
    pub snapshot_progress: Option<SnapshotProgress>,
    pub snapshot_duration: Option<Duration>,
    /// Since when new commits cannot be restored from it: it lacks a snapshot for them, or takes nothing any more.
    pub stale_since: Option<TimeMs>,
    /// The newest file set that this process knows of, and how many files are in it.
    pub files: Option<(Txid, TimeMs, usize)>,
    /// Files beside the database that somebody wants kept and that are not.
    pub files_left_out: usize,
    /// The look at the files that was asked for with this number, and all before it, was taken.
    pub files_looked: u64,
    /// Segments that this process made of others, and up to which commit, for levels 1 to 3.
    pub compacted: [(u64, Txid); 3],
    pub verify: Proofs,
    pub drill: Proofs,
    /// From when a commit was seen to when it was in the replica.
    pub capture_to_store: Histogram,
}

/// One database and its replicas at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusSnapshot {
    pub database: String,
    pub state: State,
    /// Nothing of the database is held just now: it is at rest, or others are at work. An event wakes it.
    pub is_parked: bool,
    pub generation: Option<Generation>,
    pub captured: Txid,
    pub captured_time: Option<TimeMs>,
    pub sealed: Txid,
    pub captured_bytes: u64,
    pub spool_bytes: u64,
    pub spool_limit_bytes: u64,
    pub database_bytes: u64,
    pub wal_bytes: u64,
    /// Checkpoints of the engine that were seen.
    pub checkpoints_total: u64,
    pub gaps: Vec<GapRecord>,
    pub gaps_total: u64,
    /// Generations that this process began.
    pub generations_total: u64,
    /// Errors by kind.
    pub errors: BTreeMap<&'static str, u64>,
    pub last_error: Option<(TimeMs, String)>,
    pub aims: Aims,
    /// How long the capturing thread has been overdue.
    pub overdue: Duration,
    pub replicas: Vec<ReplicaStatus>,
}
