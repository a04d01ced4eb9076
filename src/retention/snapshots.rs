//! Which snapshots stay, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::policy::{Calendar, Count, Policy};
use super::{GenerationView, Reason};
use crate::layout::SnapshotName;
use crate::position::{TimeMs, Txid, whole_ms};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Chooses among `candidates`, which are restorable and in order of generation and txid.
pub(super) fn choose(policy: &Policy, candidates: &[SnapshotName], anchor: TimeMs) -> BTreeMap<SnapshotName, Reason> {
    let mut kept = BTreeMap::new();
    let mut keep = |name: &SnapshotName, reason: Reason| _ = kept.entry(*name).or_insert(reason);
    if let Some(newest) = candidates.last() {
        keep(newest, Reason::Newest);
    }
    for (window, reason) in [(policy.commits, Reason::InCommits), (policy.keep_within, Reason::Within)] {
        let Some(window) = window else { continue };
        let start = before(anchor, window);
        candidates.iter().filter(|name| name.time >= start).for_each(|name| keep(name, reason));
    }
    let newest_first = || candidates.iter().rev().enumerate();
    if let Some(count) = policy.keep_last {
        newest_first().take_while(|(taken, _)| count.exceeds(*taken)).for_each(|(_, name)| keep(name, Reason::Last));
    }
    for unit in Calendar::ALL {
        let Some(count) = policy.by(unit) else { continue };
        of_calendar(unit, count, candidates).iter().for_each(|name| keep(name, Reason::Calendar(unit)));
    }
    if let Some(count) = policy.keep_min {
        for name in candidates.iter().rev() {
            if kept.contains_key(name) {
                continue;
            }
            if !count.exceeds(kept.len()) {
                break;
            }
            kept.insert(*name, Reason::Min);
        }
    }
    kept
}

/// The newest snapshot of each of the last `count` units that have one. Newest is by txid: a clock that jumped puts a snapshot
/// into another unit, never in front of another.
fn of_calendar(unit: Calendar, count: Count, candidates: &[SnapshotName]) -> Vec<SnapshotName> {
    let (mut seen, mut chosen) = (BTreeSet::new(), Vec::new());
    for name in candidates.iter().rev() {
        if seen.contains(&number(unit, name.time)) {
            continue;
        }
        if !count.exceeds(chosen.len()) {
            break;
        }
        seen.insert(number(unit, name.time));
        chosen.push(*name);
    }
    chosen
}

/// The number of the unit in which a moment lies, counted from some beginning.
fn number(unit: Calendar, time: TimeMs) -> u64 {
    let date = || {
        let ms = i64::try_from(time.0).unwrap_or(i64::MAX);
        // Behind the calendar's end everything is in its last unit.
        Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX).to_zoned(TimeZone::UTC).date()
    };
    let positive = |number: i64| u64::try_from(number).unwrap_or(0);
    match unit {
        Calendar::Hourly => time.0 / HOUR_MS,
        Calendar::Daily => time.0 / DAY_MS,
        // 1970-01-01 was a Thursday.
        Calendar::Weekly => (time.0 / DAY_MS + 3) / 7,
        Calendar::Monthly => positive(i64::from(date().year()) * 12 + i64::from(date().month())),
        Calendar::Yearly => positive(i64::from(date().year())),
    }
}

pub(super) fn before(time: TimeMs, duration: Duration) -> TimeMs {
    TimeMs(time.0.saturating_sub(whole_ms(duration)))
}

/// A span of time up to the newest commit, in one generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// The last commit that is known to be before it.
    pub before: Txid,
    /// The snapshot that leads into it, where one is restorable at or before its beginning.
    pub leads: Option<SnapshotName>,
}

/// `None`: the generation ended before `start`.
pub(super) fn span(view: &GenerationView, restorable: &[SnapshotName], start: TimeMs) -> Option<Span> {
    view.inventory.newest.filter(|newest| newest.time >= start)?;
    // By txid from here on: commits may share a moment, and what comes after it in the history is never judged by a clock.
    let before = view.inventory.moments().filter(|moment| moment.time < start).map(|moment| moment.txid).max();
    let before = before.unwrap_or(Txid::ZERO);
    let leads = restorable.iter().filter(|name| name.txid <= before).max_by_key(|name| name.txid).copied();
    Some(Span { before, leads })
}
