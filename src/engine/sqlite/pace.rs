//! When to move the hold, when to let SQLite checkpoint, and when to look again. Pure: state and time come in.

use std::time::{Duration, Instant, SystemTime};

use super::hold::Mark;
use super::wal::Salts;
use super::wal_index::IndexHeader;

/// Frames not yet copied into the file at which we checkpoint, outside any lock of a writer.
const SOFT_FRAMES: u32 = 300;
/// Frames in the WAL at which we checkpoint under the write lock. Below SQLite's automatic checkpoint at 1000, so that the
/// application's commits do not pay for it.
const HARD_FRAMES: u32 = 700;
/// Frames between two attempts of the latter in one life of the WAL.
const HARD_AGAIN_FRAMES: u32 = 350;
/// Pause after the write lock was not to be had: its holder may keep it long.
const HARD_REFUSED: Duration = Duration::from_millis(50);
/// The hold moves at most this often while commits keep coming, or at once when this many frames wait.
const ROLL_INTERVAL: Duration = Duration::from_millis(10);
const ROLL_FRAMES: u32 = 128;
/// A long WAL that writers may not be locked out for is folded in when no commit came for so long.
const QUIET: Duration = Duration::from_millis(100);
/// Letting the WAL start over demands durability; at most this often.
const RELEASE_INTERVAL: Duration = Duration::from_millis(20);
/// A transaction may miss slot 0 while a checkpointer holds it for an instant; pauses before each further try.
const RELEASE_AGAIN: [Duration; 3] = [Duration::from_millis(2), Duration::from_millis(20), Duration::from_millis(100)];
/// Pauses before looking again after something was written and nothing is published yet: a commit is published after its
/// frames are written, with `synchronous=FULL` after they are synced; a checkpoint likewise.
const LADDER: [Duration; 11] = [
    Duration::from_micros(100),
    Duration::from_micros(300),
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(500),
];
/// Where the ladder begins when a look brought commits: the next commit has an event of its own, unless it was being
/// written at that very moment.
const RUNG_AFTER_NEWS: usize = 2;
/// A file modified this shortly before it was looked at may be modified again without its time changing.
const TIME_GRAIN: Duration = Duration::from_millis(20);

/// What to do next about the hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Rest,
    Wait(Duration),
    /// Move the hold to the newest commit.
    Roll,
    /// Everything is copied into the file: move the hold to slot 0, so that the WAL may start over.
    Release,
    /// Checkpoint, then move the hold.
    Soft,
    /// Checkpoint under the write lock.
    Hard,
}

/// What was done about the hold in the present life of the WAL.
#[derive(Debug)]
pub(super) struct Pace {
    salts: Salts,
    rolled: Option<Instant>,
    released: Option<Instant>,
    release_tries: usize,
    released_frame: u32,
    soft_at: u32,
    hard_at: u32,
    hard_refused: Option<Instant>,
    never_lock: bool,
}

impl Pace {
    pub(super) fn new() -> Pace {
        Pace {
            never_lock: false,
            salts: Salts::default(),
            rolled: None,
            released: None,
            release_tries: 0,
            released_frame: 0,
            soft_at: SOFT_FRAMES,
            hard_at: HARD_FRAMES,
            hard_refused: None,
        }
    }

    /// The next step. `heal` demands a checkpoint of the whole WAL.
    pub(super) fn next(&mut self, published: &IndexHeader, mark: Mark, heal: bool, now: Instant) -> Step {
        if self.salts != published.salts {
            let Pace { rolled, released, never_lock, .. } = *self;
            *self = Pace { salts: published.salts, rolled, released, never_lock, ..Pace::new() };
        }
        let uncopied = published.last_frame.saturating_sub(published.backfilled);
        let hard = !self.never_lock && uncopied > 0 && (published.last_frame >= self.hard_at || heal);
        let hard_wait = left(self.hard_refused, HARD_REFUSED, now);
        match (hard, hard_wait) {
            (false, _) => self.next_but_hard(published, mark, now),
            (true, Duration::ZERO) => Step::Hard,
            (true, hard_wait) => match self.next_but_hard(published, mark, now) {
                Step::Rest => Step::Wait(hard_wait),
                Step::Wait(wait) => Step::Wait(wait.min(hard_wait)),
                step => step,
            },
        }
    }

    fn next_but_hard(&mut self, published: &IndexHeader, mark: Mark, now: Instant) -> Step {
        let last = published.last_frame;
        if last == 0 {
            return Step::Rest;
        }
        let uncopied = last.saturating_sub(published.backfilled);
        if uncopied >= SOFT_FRAMES && last >= self.soft_at {
            return Step::Soft;
        }
        if mark.salts != published.salts || mark.frame < last {
            let waiting = if mark.salts == published.salts { last - mark.frame } else { last };
            let wait = left(self.rolled, ROLL_INTERVAL, now);
            return if wait.is_zero() || waiting >= ROLL_FRAMES { Step::Roll } else { Step::Wait(wait) };
        }
        if uncopied > 0 {
            let is_long = self.never_lock && last >= HARD_FRAMES && self.soft_at != last.saturating_add(SOFT_FRAMES);
            return match left(self.rolled, QUIET, now) {
                _ if !is_long => Step::Rest,
                Duration::ZERO => Step::Soft,
                wait => Step::Wait(wait),
            };
        }
        if !mark.may_be_zero || self.released_frame != last {
            let wait = left(self.released, RELEASE_INTERVAL, now);
            return if wait.is_zero() { Step::Release } else { Step::Wait(wait) };
        }
        match RELEASE_AGAIN.get(self.release_tries) {
            None => Step::Rest,
            Some(&pause) => match left(self.released, pause, now) {
                Duration::ZERO => Step::Release,
                wait => Step::Wait(wait),
            },
        }
    }

    /// From now on no writer is ever locked out.
    pub(super) fn never_lock(&mut self) {
        self.never_lock = true;
    }

    pub(super) fn rolled(&mut self, now: Instant) {
        self.rolled = Some(now);
    }

    pub(super) fn released(&mut self, frame: u32, now: Instant) {
        self.release_tries = if self.released_frame == frame { self.release_tries + 1 } else { 0 };
        self.released_frame = frame;
        self.released = Some(now);
        self.rolled = Some(now);
    }

    /// A checkpoint ran outside the write lock; readers of others may have stopped it, so not again at once.
    pub(super) fn soft_done(&mut self, last_frame: u32) {
        self.soft_at = last_frame.saturating_add(SOFT_FRAMES);
    }

    /// Others held the write lock, or wrote too fast.
    pub(super) fn hard_refused(&mut self, now: Instant) {
        self.hard_refused = Some(now);
    }

    pub(super) fn hard_done(&mut self, last_frame: u32) {
        self.hard_at = last_frame.max(HARD_FRAMES).saturating_add(HARD_AGAIN_FRAMES);
    }
}

/// What is left of `interval` since `last`.
fn left(last: Option<Instant>, interval: Duration, now: Instant) -> Duration {
    last.map_or(Duration::ZERO, |last| interval.saturating_sub(now.saturating_duration_since(last)))
}

/// How long to go on looking after something was written.
#[derive(Debug)]
pub(super) struct Ladder<T> {
    seen: Option<T>,
    /// The time of modification was so young that it proves nothing about later writes.
    young: bool,
    rung: usize,
}

impl<T: PartialEq> Ladder<T> {
    pub(super) fn new() -> Ladder<T> {
        Ladder { seen: None, young: false, rung: 0 }
    }

    /// When to look again: `seen` and `modified` describe the files as they are now; `news` when this look brought any.
    pub(super) fn next(
        &mut self,
        seen: T,
        modified: Option<SystemTime>,
        news: bool,
        now: SystemTime,
    ) -> Option<Duration> {
        let age = modified.and_then(|modified| now.duration_since(modified).ok());
        let changed = self.seen.as_ref() != Some(&seen) || self.young;
        self.young = age.is_some_and(|age| age < TIME_GRAIN);
        if news {
            self.rung = RUNG_AFTER_NEWS;
        } else if changed {
            self.rung = 0;
        }
        self.seen = Some(seen);
        let pause = LADDER.get(self.rung).copied();
        self.rung = (self.rung + 1).min(LADDER.len());
        pause
    }
}

#[cfg(test)]
#[path = "pace_tests.rs"]
mod tests;
