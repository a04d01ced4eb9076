//! One live database being captured: what a look at it does, in order.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use super::attach::{Attached, attach};
use super::files::{Files, Touched};
use super::history::{Captured, History, Output, gap};
use super::hold::Hold;
use super::pace::{Ladder, Pace, Step};
use super::reading::{Reading, Slice};
use super::rested::note;
use super::wal::Salts;
use super::wal_index::IndexHeader;
use crate::checksum::PageMap;
use crate::engine::{
    EngineError, ExtentSink, Poll, Progress, Resume, SinkError, SnapshotStart, Source, TransactionSink,
};
use crate::position::RepairReason;

/// Commits handed out in one look, so that the caller can seal and report in between.
const COMMITS_PER_POLL: u64 = 1024;
/// Steps about the hold in one look: a checkpoint, the roll behind it, the release.
const STEPS_PER_POLL: u32 = 4;
/// Frames that may be left to capture under the write lock: this many, or this part of a WAL that grows because writers
/// never leave it alone.
const FRAMES_UNDER_WRITE_LOCK: u32 = 64;
const PART_UNDER_WRITE_LOCK: u32 = 8;
/// How long the write lock is tried for, and how often. A writer that never pauses leaves it free between two transactions,
/// and once its WAL is long, while its own automatic checkpoint runs.
const WRITE_LOCK_PATIENCE: Duration = Duration::from_millis(100);
const WRITE_LOCK_AGAIN: Duration = Duration::from_micros(50);
/// How long a look at the names of the files is good for while commits keep coming.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// When a lock was busy or a header torn.
const BUSY_AGAIN: Duration = Duration::from_millis(1);

pub(super) struct SqliteSource {
    pub(super) hold: Hold,
    pub(super) history: History,
    files: Files,
    /// When the files were last looked at, and what was seen.
    looked: Option<(Instant, Touched)>,
    /// The first full read, while it goes on.
    reading: Option<Reading>,
    /// Commits were handed out that are not known to be durable.
    unpersisted: bool,
    pace: Pace,
    ladder: Ladder<(Touched, IndexHeader)>,
    /// The life of the WAL at the end of the last look: another one means that SQLite folded it into the file.
    life: Salts,
    /// Why this source is of no use any more.
    lost: Option<RepairReason>,
    /// Offset of the next slice of the full copy, while one goes on.
    pub(super) copied: Option<u64>,
}

impl SqliteSource {
    pub(super) fn open(path: &Path, resume: Option<Resume>) -> Result<SqliteSource, EngineError> {
        // Whether the commits before are durable is not known here, so the WAL that has them is not let go before.
        let unpersisted = resume.is_some();
        let Attached { hold, history, files, reading } = attach(path, resume)?;
        let life = history.position.salts;
        Ok(SqliteSource {
            hold,
            history,
            files,
            life,
            looked: None,
            reading,
            unpersisted,
            pace: Pace::new(),
            ladder: Ladder::new(),
            lost: None,
            copied: None,
        })
    }

    fn poll_once(&mut self, sink: &mut dyn TransactionSink) -> Result<Poll, EngineError> {
        let captured = self.capture(sink, COMMITS_PER_POLL)?;
        let mut commits = captured.commits;
        let touched = self.look(commits > 0)?;
        let first_read = self.read_slice(sink, &mut commits)?;
        let more = captured.more || first_read.is_some();
        let mut again_in = more.then_some(Duration::ZERO);
        if captured.level || captured.more {
            again_in = earlier(again_in, self.keep_pace(sink, &mut commits)?);
        } else {
            again_in = earlier(again_in, Some(BUSY_AGAIN));
        }
        if let Some(published) = self.hold.reader().index_header()? {
            let (modified, news) = (touched.latest(), commits > 0);
            let pause = self.ladder.next((touched, published), modified, news, SystemTime::now());
            again_in = earlier(again_in, pause);
        }
        let life = std::mem::replace(&mut self.life, self.history.position.salts);
        let checkpoints = u64::from(life != self.life);
        let wal_bytes = self.hold.reader().wal_length()?;
        Ok(Poll { commits, again_in, first_read, is_level: captured.level, wal_bytes, checkpoints })
    }

    /// Proves that the files are still ours. Not again at once while commits keep coming.
    fn look(&mut self, news: bool) -> Result<Touched, EngineError> {
        if let Some((at, touched)) = self.looked
            && news
            && at.elapsed() < LOOK_INTERVAL
        {
            return Ok(touched);
        }
        let touched = self.files.look()?;
        self.looked = Some((Instant::now(), touched));
        Ok(touched)
    }

    /// Captures through the hold's open transaction.
    fn capture(&mut self, sink: &mut dyn TransactionSink, commits_max: u64) -> Result<Captured, EngineError> {
        let mut output = if self.reading.is_some() { Output::PageMap } else { Output::Sink(sink) };
        let outcome = self.history.capture(self.hold.reader(), &mut output, commits_max);
        // Of a capture that failed half-way, some commits may have been handed out.
        self.unpersisted |= outcome.as_ref().map_or(true, |captured| captured.commits > 0);
        outcome
    }

    /// Captures everything that is published now. `false` when the wal-index could not be read.
    fn capture_all(&mut self, sink: &mut dyn TransactionSink, commits: &mut u64) -> Result<bool, EngineError> {
        let Some(target) = self.hold.reader().index_header()? else { return Ok(false) };
        loop {
            let captured = self.capture(sink, u64::MAX)?;
            *commits += captured.commits;
            let position = &self.history.position;
            let reached = position.salts != target.salts || position.frame >= target.last_frame;
            if captured.level || (captured.more && reached) {
                return Ok(true);
            }
            if !captured.more {
                return Ok(false);
            }
        }
    }

    fn persist(&mut self, sink: &mut dyn TransactionSink) -> Result<(), EngineError> {
        if self.unpersisted {
            sink.persist()?;
            self.unpersisted = false;
        }
        Ok(())
    }

    /// Goes on with the first full read. What is left of it, or `None` when there is none.
    fn read_slice(
        &mut self,
        sink: &mut dyn TransactionSink,
        commits: &mut u64,
    ) -> Result<Option<(u64, u64)>, EngineError> {
        let Some(reading) = &mut self.reading else { return Ok(None) };
        match reading.slice(self.hold.reader(), &mut self.history)? {
            Slice::Read { done, total } => Ok(Some((done, total))),
            Slice::Complete => {
                let reading = self.reading.take().expect("it was there a moment ago");
                if reading.finish(self.hold.reader(), &mut self.history, sink)? {
                    self.unpersisted = true;
                    *commits += 1;
                }
                Ok(None)
            }
        }
    }

    /// Moves the hold and has SQLite checkpoint as far as is due. When to come back for it.
    fn keep_pace(
        &mut self,
        sink: &mut dyn TransactionSink,
        commits: &mut u64,
    ) -> Result<Option<Duration>, EngineError> {
        for _ in 0..STEPS_PER_POLL {
            let Some(published) = self.hold.reader().index_header()? else { return Ok(Some(BUSY_AGAIN)) };
            let heal = self.history.chain_was_broken;
            let done = match self.pace.next(&published, self.hold.mark(), heal, Instant::now()) {
                Step::Rest => return Ok(None),
                Step::Wait(wait) => return Ok(Some(wait)),
                Step::Roll => self.roll(&published, sink, commits)?,
                Step::Release => {
                    let done = self.roll(&published, sink, commits)?;
                    self.pace.released(published.last_frame, Instant::now());
                    done
                }
                Step::Soft => {
                    self.pace.soft_done(published.last_frame);
                    let rolled = self.roll(&published, sink, commits)?;
                    self.hold.checkpoint()?;
                    rolled
                }
                Step::Hard => self.hard(&published, sink, commits)?,
            };
            if !done {
                return Ok(Some(BUSY_AGAIN));
            }
        }
        Ok(Some(Duration::ZERO))
    }

    /// Moves the hold to the newest commit. `false` when a lock was busy; the old hold stays.
    fn roll(
        &mut self,
        published: &IndexHeader,
        sink: &mut dyn TransactionSink,
        commits: &mut u64,
    ) -> Result<bool, EngineError> {
        if !self.hold.fence(published, Instant::now())? {
            return Ok(false);
        }
        let Some(mark) = self.hold.begin_next()? else { return Ok(false) };
        if !self.capture_all(sink, commits)? {
            self.hold.cancel_next();
            return Ok(false);
        }
        if mark.may_be_zero {
            // Only now may the WAL start over, so only now must everything in it be safe elsewhere.
            self.persist(sink).inspect_err(|_| self.hold.cancel_next())?;
        }
        self.hold.end_previous();
        self.pace.rolled(Instant::now());
        Ok(true)
    }

    /// Checkpoints the whole WAL and takes slot 0, with writers locked out for as long as the last frames need.
    fn hard(
        &mut self,
        published: &IndexHeader,
        sink: &mut dyn TransactionSink,
        commits: &mut u64,
    ) -> Result<bool, EngineError> {
        if !self.roll(published, sink, commits)? {
            return Ok(false);
        }
        // The bulk is copied and synced, and made durable with us, before any writer has to wait.
        self.hold.checkpoint()?;
        if !self.capture_all(sink, commits)? {
            return Ok(false);
        }
        self.persist(sink)?;
        if !self.lock_writers(sink, commits)? {
            self.pace.hard_refused(Instant::now());
            return Ok(true);
        }
        let outcome = self.hard_locked(sink, commits);
        self.hold.unlock_writers();
        if outcome? {
            let now = self.hold.reader().index_header_waiting()?;
            if now.salts != published.salts || now.backfilled >= published.last_frame {
                self.history.chain_was_broken = false;
            } else {
                // Readers of others stopped it.
                self.pace.hard_refused(Instant::now());
            }
            self.pace.hard_done(published.last_frame);
            self.pace.rolled(Instant::now());
            return Ok(true);
        }
        Err(gap(RepairReason::LogDiscarded, "the hold could not be taken again after a checkpoint"))
    }

    /// Takes the write lock at a moment at which little is left to capture.
    fn lock_writers(&mut self, sink: &mut dyn TransactionSink, commits: &mut u64) -> Result<bool, EngineError> {
        let begin = Instant::now();
        while begin.elapsed() < WRITE_LOCK_PATIENCE {
            if !self.hold.lock_writers()? {
                std::thread::sleep(WRITE_LOCK_AGAIN);
                continue;
            }
            let (position, now) = (&self.history.position, self.hold.reader().index_header()?);
            let behind = now.filter(|now| now.salts == position.salts).map(|now| {
                let limit = FRAMES_UNDER_WRITE_LOCK.max(now.last_frame / PART_UNDER_WRITE_LOCK);
                now.last_frame.saturating_sub(position.frame) < limit
            });
            if behind == Some(true) {
                return Ok(true);
            }
            self.hold.unlock_writers();
            if !self.capture_all(sink, commits)? {
                return Ok(false);
            }
        }
        Ok(false)
    }

    fn hard_locked(&mut self, sink: &mut dyn TransactionSink, commits: &mut u64) -> Result<bool, EngineError> {
        if !self.capture_all(sink, commits)? {
            // The hold has not been touched: nothing is lost, it is tried again later.
            return Err(EngineError::Busy("the wal-index is being rewritten".into()));
        }
        self.persist(sink)?;
        self.hold.checkpoint_all()
    }
}

fn earlier(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

impl Source for SqliteSource {
    fn poll(&mut self, sink: &mut dyn TransactionSink) -> Result<Poll, EngineError> {
        if let Some(reason) = self.lost {
            return Err(gap(reason, "this source was given up"));
        }
        let outcome = self.poll_once(sink);
        self.lost = match &outcome {
            Ok(_) | Err(EngineError::Busy(_)) => None,
            Err(EngineError::Gap { reason, .. }) => Some(*reason),
            // The page map may have gone ahead of what the sink took.
            Err(EngineError::Sink(SinkError::Full { .. })) => Some(RepairReason::SpoolFull),
            Err(_) => Some(RepairReason::LogDiscarded),
        };
        outcome
    }

    fn never_lock(&mut self) {
        self.pace.never_lock();
    }

    fn rest(&mut self) -> Option<Vec<u8>> {
        let before = self.hold.reader().index_header().ok().flatten().filter(|_| self.reading.is_none())?;
        let noted = note(&before, &self.history.position, &self.files.main().ok()?)?;
        (self.hold.reader().index_header().ok().flatten()? == before).then_some(noted)
    }

    fn snapshot_start(&mut self) -> Result<SnapshotStart, EngineError> {
        if self.reading.is_some() || self.history.catching_up {
            return Err(EngineError::Busy("the first read of the database is not done".into()));
        }
        self.copied = Some(0);
        Ok(SnapshotStart { total: self.history.position.length(), grid: self.history.grid(), base: None })
    }

    fn snapshot_slice(&mut self, sink: &mut dyn ExtentSink) -> Result<Progress, EngineError> {
        if let Some(reason) = self.lost {
            return Err(gap(reason, "this source was given up"));
        }
        self.copy_slice(sink)
    }

    fn page_map(&self) -> Option<&PageMap> {
        self.reading.is_none().then_some(&self.history.map)
    }
}
