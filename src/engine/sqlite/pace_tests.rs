use super::*;
use crate::engine::sqlite::wal::{ByteOrder, Checksum};

const LIFE: Salts = Salts(7, 7);

fn published(last_frame: u32, backfilled: u32) -> IndexHeader {
    IndexHeader {
        change: 0,
        order: ByteOrder::Little,
        page_size: 4096,
        last_frame,
        pages: 10,
        checksum: Checksum::default(),
        salts: LIFE,
        backfilled,
    }
}

fn mark(frame: u32, may_be_zero: bool) -> Mark {
    Mark { salts: LIFE, frame, may_be_zero }
}

/// An idle database whose commits are all pinned needs nothing more, copied into the file or not.
#[test]
fn an_idle_database_rests() {
    let (mut pace, start) = (Pace::new(), Instant::now());
    assert_eq!(pace.next(&published(0, 0), mark(0, true), false, start), Step::Rest);
    assert_eq!(pace.next(&published(9, 3), mark(9, false), false, start), Step::Rest);
    let mut now = start;
    for _ in 0..10 {
        match pace.next(&published(9, 9), mark(9, true), false, now) {
            Step::Release => pace.released(9, now),
            Step::Wait(wait) => now += wait,
            Step::Rest => return,
            step => panic!("{step:?}"),
        }
    }
    panic!("no rest after ten steps");
}

/// A new commit moves the hold at once when it stood still, and at most every interval while commits keep coming.
#[test]
fn the_hold_follows_commits_at_a_bounded_rate() {
    let (mut pace, now) = (Pace::new(), Instant::now());
    assert_eq!(pace.next(&published(9, 0), mark(8, false), false, now), Step::Roll);
    pace.rolled(now);
    assert_eq!(pace.next(&published(10, 0), mark(9, false), false, now), Step::Wait(ROLL_INTERVAL));
    assert_eq!(pace.next(&published(9 + ROLL_FRAMES, 0), mark(9, false), false, now), Step::Roll);
    assert_eq!(pace.next(&published(10, 0), mark(9, false), false, now + ROLL_INTERVAL), Step::Roll);
    let other_life = Mark { salts: Salts(6, 6), frame: 500, may_be_zero: true };
    assert_eq!(pace.next(&published(1, 0), other_life, false, now + ROLL_INTERVAL), Step::Roll);
}

/// A WAL that is wholly copied is released, even if the hold's mark was set before it was.
#[test]
fn a_copied_wal_is_released() {
    let (mut pace, now) = (Pace::new(), Instant::now());
    assert_eq!(pace.next(&published(9, 9), mark(9, false), false, now), Step::Release);
    pace.released(9, now);
    assert!(matches!(pace.next(&published(12, 12), mark(12, false), false, now), Step::Wait(_)));
    assert_eq!(pace.next(&published(12, 12), mark(12, false), false, now + RELEASE_INTERVAL), Step::Release);
}

/// The two kinds of checkpoint come at their thresholds and, when readers of others stop them, not again at once.
#[test]
fn checkpoints_come_at_their_thresholds_and_back_off() {
    let (mut pace, now) = (Pace::new(), Instant::now());
    assert_eq!(pace.next(&published(299, 0), mark(299, false), false, now), Step::Rest);
    assert_eq!(pace.next(&published(300, 0), mark(300, false), false, now), Step::Soft);
    pace.soft_done(300);
    assert_eq!(pace.next(&published(320, 0), mark(320, false), false, now), Step::Rest);
    assert_eq!(pace.next(&published(600, 0), mark(600, false), false, now), Step::Soft);
    assert_eq!(pace.next(&published(700, 600), mark(700, false), false, now), Step::Hard);
    pace.hard_done(700);
    assert_eq!(pace.next(&published(710, 600), mark(710, false), false, now), Step::Rest);
    assert_eq!(pace.next(&published(1050, 1000), mark(1050, false), false, now), Step::Hard);
    assert_eq!(pace.next(&published(5, 0), mark(5, false), true, now), Step::Hard);
    pace.hard_refused(now);
    assert_eq!(pace.next(&published(5, 0), mark(5, false), true, now), Step::Wait(HARD_REFUSED));
    assert_eq!(pace.next(&published(6, 0), mark(5, false), true, now), Step::Roll);
    assert_eq!(pace.next(&published(5, 0), mark(5, false), true, now + HARD_REFUSED), Step::Hard);
}

/// The ladder starts over with every write and comes to its end without one.
#[test]
fn the_ladder_ends_when_nothing_is_written() {
    let mut ladder = Ladder::new();
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    let late = modified + Duration::from_secs(1);
    assert_eq!(ladder.next(1, Some(modified), false, modified), Some(LADDER[0]));
    // Looked at within the clock's grain: the next look counts as a change once more.
    assert_eq!(ladder.next(1, Some(modified), false, late), Some(LADDER[0]));
    for rung in &LADDER[1..] {
        assert_eq!(ladder.next(1, Some(modified), false, late), Some(*rung));
    }
    assert_eq!(ladder.next(1, Some(modified), false, late), None);
    assert_eq!(ladder.next(2, Some(modified), false, late), Some(LADDER[0]));
    assert_eq!(ladder.next(3, Some(modified), true, late), Some(LADDER[RUNG_AFTER_NEWS]));
}

/// Where no writer may wait, the write lock is never a step, however long the WAL gets, also in its next life; checkpoints without it are.
#[test]
fn writers_are_never_locked_out_where_they_must_not_be() {
    let (mut pace, now) = (Pace::new(), Instant::now());
    assert_eq!(pace.next(&published(HARD_FRAMES, 0), mark(HARD_FRAMES, false), false, now), Step::Hard);
    pace.never_lock();
    for life in [LIFE, Salts(8, 8)] {
        for (frames, heal) in [(HARD_FRAMES, false), (1_000_000, true)] {
            let index = IndexHeader { salts: life, ..published(frames, 0) };
            assert_eq!(pace.next(&index, Mark { salts: life, ..mark(frames, false) }, heal, now), Step::Soft);
        }
    }
    // The rest of a long WAL waits for a moment without commits, and is tried once.
    let (long, mark) =
        (IndexHeader { salts: Salts(8, 8), ..published(9000, 8990) }, Mark { salts: Salts(8, 8), ..mark(9000, false) });
    pace.rolled(now);
    assert_eq!(pace.next(&long, mark, false, now), Step::Wait(QUIET));
    assert_eq!(pace.next(&long, mark, false, now + QUIET), Step::Soft);
    pace.soft_done(9000);
    assert_eq!(pace.next(&long, mark, false, now + QUIET), Step::Rest);
}
