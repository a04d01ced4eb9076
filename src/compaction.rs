//! Compaction: segments of one level become fewer segments of the next, so that the way from a snapshot stays short.
//!
//! Level 1 joins what was shipped and still holds every commit. Levels 2 and 3 merge an hour and a day: of every place the
//! newest bytes, and only the last commit as a point. Here it is decided what is due (pure: names, a clock and a policy in,
//! a job out); `write.rs` does it, from files to a file.
//!
//! | file | holds |
//! |---|---|
//! | `input.rs` | segments in files, read in order and proven to belong together |
//! | `overlay.rs` | which extent holds the newest bytes of each place |
//! | `write.rs` | join, merge, and the proof of what was written |
//!
//! Compaction only goes forward: a level is continued behind its own end and never filled in before it, so that segments of
//! one level never overlap, and a higher term never buries what a lower one did well.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::inventory::{Inventory, Listed};
use crate::layout::{Level, SegmentName};
use crate::position::{TimeMs, Txid, whole_ms};

mod input;
mod overlay;
mod write;

pub use input::Input;
pub use write::{Compacted, CompactionError, Order, compact};

/// Segments that one job takes at most: each is a file in the state directory while it runs.
const MAX_INPUTS: usize = 1024;
/// Commits that one join takes at most, beyond its first segment: their table is held in memory, at about 100 bytes each.
const MAX_JOINED_COMMITS: u64 = 1 << 17;

/// When to compact what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// So many segments of level 0 are joined …
    pub join_segments: usize,
    /// … or fewer with so many bytes.
    pub join_bytes: u64,
    /// The stretch of time that a segment of level 2 covers, and one of level 3.
    pub merge_every: [Duration; 2],
    /// Bytes that one job reads at most, but for a single segment that is larger. The state directory needs room for
    /// twice as many while it runs.
    pub job_bytes: u64,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            join_segments: 64,
            join_bytes: 32 * 1024 * 1024,
            merge_every: [Duration::from_secs(60 * 60), Duration::from_secs(24 * 60 * 60)],
            job_bytes: 1024 * 1024 * 1024,
        }
    }
}

/// Segments, each behind the one before it, that are to become one of `level`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub level: Level,
    pub inputs: Vec<Listed<SegmentName>>,
}

/// The segments of one generation that are not in the next level yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Per level that can be compacted: by first commit.
    segments: [BTreeMap<Txid, Listed<SegmentName>>; 3],
    /// Per level: everything up to here is in it or in a higher one.
    ends: [Txid; 4],
}

/// The consecutive segments at the beginning of a level, as many as may become one.
struct Run {
    inputs: Vec<Listed<SegmentName>>,
    bytes: u64,
    /// Whatever is shipped from now on, it does not grow.
    is_closed: bool,
}

impl Policy {
    fn is_enough(&self, run: &Run) -> bool {
        run.inputs.len() >= self.join_segments || run.bytes >= self.join_bytes
    }
}

impl Waiting {
    /// Of a generation that has no segment yet.
    pub fn empty() -> Waiting {
        Waiting { segments: Default::default(), ends: [Txid::ZERO; 4] }
    }

    pub fn new(inventory: &Inventory) -> Waiting {
        let mut waiting = Waiting::empty();
        // From above, so that what is covered is not even taken in.
        for level in (0..=Level::MAX.0).rev() {
            let of_level = inventory.segments.iter().filter(|segment| segment.name.level.0 == level);
            of_level.for_each(|segment| waiting.add(*segment));
        }
        waiting
    }

    /// A segment is in the replica.
    pub fn add(&mut self, segment: Listed<SegmentName>) {
        let level = usize::from(segment.name.level.0);
        for lower in 1..=level {
            self.ends[lower] = self.ends[lower].max(segment.name.last);
            let end = self.ends[lower];
            self.segments[lower - 1].retain(|&first, _| first > end);
        }
        let covered = self.ends.get(level + 1);
        if let (Some(waiting), Some(&covered)) = (self.segments.get_mut(level), covered)
            && segment.name.first > covered
        {
            waiting.insert(segment.name.first, segment);
        }
    }

    /// A segment is gone, and waits for nothing.
    pub fn remove(&mut self, name: &SegmentName) {
        if let Some(waiting) = self.segments.get_mut(usize::from(name.level.0))
            && waiting.get(&name.first).is_some_and(|segment| segment.name == *name)
        {
            waiting.remove(&name.first);
        }
    }

    /// The replica was listed again. What was shipped since then stays.
    pub fn refresh(&mut self, inventory: &Inventory) {
        let newest = inventory.segments.iter().map(|segment| segment.name.last).max().unwrap_or(Txid::ZERO);
        let shipped = std::mem::take(&mut self.segments[0]).split_off(&Txid(newest.0.saturating_add(1)));
        *self = Waiting::new(inventory);
        shipped.into_values().for_each(|segment| self.add(segment));
    }

    /// What is to be done next, if anything.
    pub fn plan(&self, now: TimeMs, policy: &Policy) -> Option<Job> {
        let join = || {
            let run = self.run(0, policy, |_, _| true)?;
            let is_due = run.is_closed || run.inputs.len() >= policy.join_segments || run.bytes >= policy.join_bytes;
            is_due.then_some(Job { level: Level(1), inputs: run.inputs })
        };
        join().or_else(|| self.merge(1, now, policy)).or_else(|| self.merge(2, now, policy))
    }

    /// The oldest stretch of time at a level, once it is over.
    fn merge(&self, from: usize, now: TimeMs, policy: &Policy) -> Option<Job> {
        let every_ms = whole_ms(policy.merge_every[from - 1]).max(1);
        let stretch = |time: TimeMs| time.0 / every_ms;
        let run = self.run(from, policy, |a, b| stretch(a.time) == stretch(b.time))?;
        let is_over = run.inputs.first().is_some_and(|first| stretch(first.name.time) < stretch(now));
        let level = Level(u8::try_from(from + 1).unwrap_or(Level::MAX.0));
        (run.is_closed || is_over).then_some(Job { level, inputs: run.inputs })
    }

    fn run(
        &self,
        level: usize,
        policy: &Policy,
        belong_together: impl Fn(&SegmentName, &SegmentName) -> bool,
    ) -> Option<Run> {
        let mut segments = self.segments[level].values();
        let first = *segments.next()?;
        let mut run = Run { bytes: first.size, inputs: vec![first], is_closed: false };
        for segment in segments {
            if level == 0 && policy.is_enough(&run) {
                break;
            }
            let (name, last) = (&segment.name, &run.inputs[run.inputs.len() - 1].name);
            let commits = name.last.0 - first.name.first.0;
            let fits = run.inputs.len() < MAX_INPUTS
                && run.bytes.saturating_add(segment.size) <= policy.job_bytes
                && (level > 0 || commits < MAX_JOINED_COMMITS);
            let follows = last.last.checked_next() == Some(name.first);
            if !fits || !follows || !belong_together(&first.name, name) {
                run.is_closed = true;
                break;
            }
            run.bytes += segment.size;
            run.inputs.push(*segment);
        }
        Some(run)
    }
}

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
