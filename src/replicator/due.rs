//! When the next snapshot of a replica begins, and why: pure, from what is known of the replica and a moment.
//!
//! Whatever the reason, nothing is due while the newest snapshot holds the newest commit: a database at rest costs no request.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::inventory::Listed;
use crate::layout::SegmentName;
use crate::position::{TimeMs, Txid};
use crate::status::SnapshotReason;

/// Below this, a way is short, whatever it is compared with: a restore reads it in a second or two.
pub const SHORT_WAY_BYTES: u64 = 64 * 1024 * 1024;

/// When the way from the last snapshot costs too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WayLimit {
    Never,
    /// Bytes in relation to the snapshot's; but never less than `SHORT_WAY_BYTES`.
    Percent(u32),
    Bytes(u64),
}

/// When to snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Since the commit of the last one.
    pub interval: Duration,
    pub way: WayLimit,
    /// For the sake of a shorter way, none is taken so soon after the last one.
    pub spacing: Duration,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            interval: Duration::from_secs(24 * 60 * 60),
            way: WayLimit::Percent(100),
            spacing: Duration::from_secs(15 * 60),
        }
    }
}

/// The newest snapshot, and what leads on from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stand {
    /// Time of its commit.
    pub time: TimeMs,
    /// What a restore reads of it.
    pub bytes: u64,
    /// What a restore of the newest commit reads of segments.
    pub way_bytes: u64,
    /// The first moment after `time` that the schedule names.
    pub scheduled: Option<TimeMs>,
}

impl Rules {
    /// Bytes of segments from which on a snapshot is wanted.
    pub fn most_way_bytes(&self, snapshot_bytes: u64) -> u64 {
        match self.way {
            WayLimit::Never => u64::MAX,
            WayLimit::Bytes(bytes) => bytes,
            WayLimit::Percent(percent) => {
                let share = u128::from(snapshot_bytes) * u128::from(percent) / 100;
                u64::try_from(share).unwrap_or(u64::MAX).max(SHORT_WAY_BYTES)
            }
        }
    }

    /// How long until the next one is due, and for which reason; of several, the one that comes first.
    pub fn next(&self, stand: &Stand, now: TimeMs) -> (Duration, SnapshotReason) {
        let age = Duration::from_millis(now.0.saturating_sub(stand.time.0));
        let mut next = (self.interval.saturating_sub(age), SnapshotReason::Interval);
        if let Some(at) = stand.scheduled {
            let scheduled = Duration::from_millis(at.0.saturating_sub(now.0));
            next = if scheduled < next.0 { (scheduled, SnapshotReason::Schedule) } else { next };
        }
        let limit_bytes = self.most_way_bytes(stand.bytes);
        let spaced = self.spacing.saturating_sub(age);
        if stand.way_bytes >= limit_bytes && spaced < next.0 {
            next = (spaced, SnapshotReason::Way { bytes: stand.way_bytes, limit_bytes });
        }
        next
    }
}

/// The segments behind the newest snapshot that a restore of the newest commit reads: those that no other one replaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Way {
    /// By first commit; none lies within another.
    segments: BTreeMap<Txid, Listed<SegmentName>>,
}

impl Way {
    /// A segment is in the replica: what lies within it need not be read any more.
    pub fn add(&mut self, segment: Listed<SegmentName>) {
        let (first, last) = (segment.name.first, segment.name.last);
        let covers = |other: &SegmentName| other.first <= first && last <= other.last;
        let before = self.segments.range(..=first).next_back();
        if before.is_some_and(|(_, other)| covers(&other.name) && other.name.level > segment.name.level) {
            return;
        }
        let within = self.segments.range(first..=last).filter(|(_, other)| other.name.last <= last);
        let within: Vec<Txid> = within.map(|(&first, _)| first).collect();
        for first in within {
            self.segments.remove(&first);
        }
        self.segments.insert(first, segment);
    }

    /// A snapshot whose copy began at `base` leads past these.
    pub fn forget(&mut self, base: Txid) {
        self.segments.retain(|_, segment| segment.name.last > base);
    }

    pub fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.size).fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Level;
    use crate::position::{Generation, Term};

    const MINUTE: Duration = Duration::from_secs(60);
    const MIB: u64 = 1 << 20;

    fn segment(level: u8, first: u64, last: u64, size: u64) -> Listed<SegmentName> {
        let (first, last, time) = (Txid(first), Txid(last), TimeMs(last));
        let name = SegmentName { generation: Generation(1), level: Level(level), first, last, term: Term(1), time };
        Listed { name, size }
    }

    fn after(minutes: u64) -> TimeMs {
        TimeMs(1_000_000 + minutes * 60_000)
    }

    fn stand(bytes: u64, way_bytes: u64) -> Stand {
        Stand { time: after(0), bytes, way_bytes, scheduled: None }
    }

    /// The interval counts from the last snapshot; a long way comes before it, but not before the spacing is over.
    #[test]
    fn the_first_reason_decides() {
        let rules = Rules { interval: 60 * MINUTE, way: WayLimit::Percent(50), spacing: 10 * MINUTE };
        let short = stand(1000 * MIB, 499 * MIB);
        assert_eq!(rules.next(&short, after(2)), (58 * MINUTE, SnapshotReason::Interval));
        assert_eq!(rules.next(&short, after(61)), (Duration::ZERO, SnapshotReason::Interval));
        let long = stand(1000 * MIB, 500 * MIB);
        let reason = SnapshotReason::Way { bytes: 500 * MIB, limit_bytes: 500 * MIB };
        assert_eq!(rules.next(&long, after(2)), (8 * MINUTE, reason));
        assert_eq!(rules.next(&long, after(10)), (Duration::ZERO, reason));
        // A clock that went back makes nothing due at once.
        assert_eq!(rules.next(&long, TimeMs(0)), (10 * MINUTE, reason));
        let scheduled = Stand { scheduled: Some(after(5)), ..long };
        assert_eq!(rules.next(&scheduled, after(2)), (3 * MINUTE, SnapshotReason::Schedule));
        assert_eq!(rules.next(&scheduled, after(30)).0, Duration::ZERO);
    }

    /// A way is never long below 64 MiB in relation to a small database; an absolute limit is taken as it is; `never` is never.
    #[test]
    fn limits() {
        let limit = |way| Rules { way, ..Rules::default() }.most_way_bytes(MIB);
        assert_eq!(limit(WayLimit::Percent(100)), SHORT_WAY_BYTES);
        assert_eq!(limit(WayLimit::Bytes(7)), 7);
        assert_eq!(limit(WayLimit::Never), u64::MAX);
        assert_eq!(Rules::default().most_way_bytes(u64::MAX), u64::MAX);
    }

    /// A day of heavy writes on an injected clock: never two snapshots within the spacing, and the way never longer than the
    /// limit and what is written within the spacing.
    #[test]
    fn a_day_of_heavy_writes() {
        let rules = Rules { interval: 24 * 60 * MINUTE, way: WayLimit::Percent(100), spacing: 15 * MINUTE };
        for (per_minute, expected) in [(40 * MIB, 24 * 60 * 40 / 1000), (MIB, 1), (500 * MIB, 24 * 4)] {
            let (mut now, mut way_bytes, mut taken) = (stand(1000 * MIB, 0), 0, Vec::new());
            for minute in 1..=24 * 60 {
                way_bytes += per_minute;
                now.way_bytes = way_bytes;
                assert!(way_bytes <= 1000 * MIB + 15 * per_minute, "{way_bytes}");
                if rules.next(&now, after(minute)).0.is_zero() {
                    taken.push(minute);
                    (now.time, way_bytes) = (after(minute), 0);
                }
            }
            let pauses: Vec<u64> = taken.windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert!(pauses.iter().all(|pause| *pause >= 15), "{pauses:?}");
            assert!(taken.len().abs_diff(expected) <= 1, "{per_minute}: {} for {expected}", taken.len());
        }
    }

    /// A merged segment takes the place of what it was made of, in whatever order they are told; a snapshot ends the way.
    #[test]
    fn the_way_is_what_a_restore_reads() {
        let all = [segment(0, 1, 10, 100), segment(0, 11, 20, 100), segment(1, 1, 20, 150), segment(2, 1, 20, 60)];
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
            let mut way = Way::default();
            order.iter().for_each(|&n| way.add(all[n]));
            assert_eq!(way.bytes(), 60, "{order:?}");
        }
        let mut way = Way::default();
        all[..3].iter().for_each(|s| way.add(*s));
        way.add(segment(0, 21, 30, 7));
        assert_eq!(way.bytes(), 157);
        way.forget(Txid(19));
        assert_eq!(way.bytes(), 157);
        way.forget(Txid(20));
        assert_eq!(way.bytes(), 7);
    }
}
