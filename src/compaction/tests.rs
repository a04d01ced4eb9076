//! What is due, decided from names.

use super::*;
use crate::position::{Generation, Term};

const HOUR: u64 = 60 * 60 * 1000;

fn segment(level: u8, first: u64, last: u64, time: u64) -> Listed<SegmentName> {
    let (generation, term) = (Generation(1), Term(1));
    let (first, last, time) = (Txid(first), Txid(last), TimeMs(time));
    Listed { name: SegmentName { generation, level: Level(level), first, last, term, time }, size: 100 }
}

fn policy() -> Policy {
    Policy { join_segments: 4, join_bytes: 1000, job_bytes: 10_000, ..Policy::default() }
}

fn waiting(segments: &[Listed<SegmentName>]) -> Waiting {
    let mut waiting = Waiting::empty();
    segments.iter().for_each(|segment| waiting.add(*segment));
    waiting
}

/// The level and the first and last commit of what is due.
fn due(waiting: &Waiting, now: u64) -> Option<(u8, u64, u64)> {
    let job = waiting.plan(TimeMs(now), &policy())?;
    let (first, last) = (job.inputs.first()?.name.first.0, job.inputs.last()?.name.last.0);
    Some((job.level.0, first, last))
}

/// Segments are joined when there are enough of them, or enough bytes, and not before.
#[test]
fn enough_segments_are_joined() {
    let mut waiting = waiting(&[segment(0, 1, 5, 0), segment(0, 6, 9, 0), segment(0, 10, 10, 0)]);
    assert_eq!(due(&waiting, 100 * HOUR), None);
    waiting.add(segment(0, 11, 12, 0));
    assert_eq!(due(&waiting, 0), Some((1, 1, 12)));
    waiting.add(segment(1, 1, 12, 0));
    assert_eq!(due(&waiting, 0), None);
    waiting.add(Listed { size: 5000, ..segment(0, 13, 14, 0) });
    assert_eq!(due(&waiting, 0), Some((1, 13, 14)));
    waiting.add(segment(0, 15, 15, 0));
    assert_eq!(due(&waiting, 0), Some((1, 13, 14)));
}

/// A hole ends what is joined; what stands before it is joined at once, because nothing can come to it any more.
#[test]
fn a_hole_is_not_joined_over() {
    let mut waiting = waiting(&[segment(0, 1, 5, 0), segment(0, 9, 9, 0)]);
    assert_eq!(due(&waiting, 0), Some((1, 1, 5)));
    waiting.add(segment(1, 1, 5, 0));
    assert_eq!(due(&waiting, 0), None);
}

/// What a merge took the place of is never looked at again, and nothing is filled in before the end of a level.
#[test]
fn compaction_goes_forward_only() {
    let mut waiting =
        waiting(&[segment(2, 1, 50, 0), segment(1, 1, 50, 0), segment(0, 1, 10, 0), segment(0, 40, 60, 0)]);
    assert_eq!((waiting.segments[0].len(), waiting.segments[1].len(), waiting.segments[2].len()), (0, 0, 1));
    waiting.add(segment(3, 1, 50, 0));
    assert!(waiting.segments.iter().all(BTreeMap::is_empty));
    assert_eq!(waiting.ends, [Txid(0), Txid(50), Txid(50), Txid(50)]);
}

/// An hour is merged when it is over: by the clock, or because a segment of a later one is there. A day likewise.
#[test]
fn an_hour_is_merged_when_it_is_over() {
    let mut waiting = waiting(&[segment(1, 1, 5, HOUR), segment(1, 6, 9, HOUR + 5)]);
    assert_eq!(due(&waiting, 2 * HOUR - 1), None);
    assert_eq!(due(&waiting, 2 * HOUR), Some((2, 1, 9)));
    waiting.add(segment(1, 10, 11, 2 * HOUR));
    assert_eq!(due(&waiting, HOUR), Some((2, 1, 9)), "whatever the clock says");
    waiting.add(segment(2, 1, 9, HOUR + 5));
    assert_eq!(due(&waiting, 2 * HOUR), None);
    waiting.add(segment(2, 10, 11, 2 * HOUR));
    assert_eq!(due(&waiting, 23 * HOUR), None);
    assert_eq!(due(&waiting, 24 * HOUR), Some((3, 1, 11)));
    waiting.add(segment(3, 1, 11, 2 * HOUR));
    assert_eq!(due(&waiting, 100 * HOUR), None);
}

/// A job takes no more bytes than it may, but always one segment.
#[test]
fn a_job_is_bounded() {
    let large = |first, last| Listed { size: 6000, ..segment(1, first, last, 0) };
    let mut waiting = waiting(&[large(1, 2), large(3, 4), large(5, 6)]);
    assert_eq!(due(&waiting, HOUR), Some((2, 1, 2)));
    waiting.add(segment(2, 1, 2, 0));
    waiting.add(segment(2, 3, 4, 0));
    assert_eq!(due(&waiting, HOUR), Some((2, 5, 6)));
    let huge = Listed { size: 1 << 40, ..segment(0, 7, 7, 0) };
    waiting.add(segment(2, 5, 6, 0));
    waiting.add(huge);
    assert_eq!(due(&waiting, HOUR), Some((1, 7, 7)));
}
