//! Opening the database, and letting go of it: what each error means for capture.

use std::time::{Duration, Instant};

use super::begin::new_course;
use super::capture::Capture;
use super::rebuild;
use crate::checksum::PageMap;
use crate::engine::{EngineError, Resume, SinkError};
use crate::position::RepairReason;
use crate::spool::{ResumePoint, disk, roll_forward};
use crate::status::State;
use crate::watcher::Watcher;

/// A database that cannot be captured is looked at this soon after an event, and no sooner.
const SOON: Duration = Duration::from_millis(100);
/// The same where a look is expensive: the page map is read for it.
const LATER: Duration = Duration::from_secs(1);

/// What an error of the engine means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// Nothing to capture; an event tells.
    Absent,
    NotCapturable,
    /// The source is good; soon again.
    Busy,
    /// Single commits are lost: opening again repairs.
    Gap(RepairReason),
    /// No room: the database is let go until there is.
    Full,
    /// Anything else; opening again may help.
    Failed,
}

impl Loss {
    pub fn of(error: &EngineError) -> Loss {
        match error {
            EngineError::Absent { .. } => Loss::Absent,
            EngineError::NotCapturable { .. } => Loss::NotCapturable,
            EngineError::Busy(_) => Loss::Busy,
            EngineError::Gap { reason, .. } => Loss::Gap(*reason),
            EngineError::Sink(SinkError::Full { .. }) => Loss::Full,
            EngineError::Damaged(_) | EngineError::Io { .. } | EngineError::Sink(_) => Loss::Failed,
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Loss::Absent => "absent",
            Loss::NotCapturable => "not-capturable",
            Loss::Busy => "busy",
            Loss::Gap(_) => "gap",
            Loss::Full => "spool-full",
            Loss::Failed => "capture",
        }
    }
}

impl Capture {
    /// An event came: a database that is not captured is worth a look, but not one per event.
    pub(super) fn retry_soon(&mut self, now: Instant) {
        if self.source.is_none() {
            let soon = if matches!(self.shared.status.state(), State::NotCapturable(_)) { LATER } else { SOON };
            self.retry_at = self.retry_at.min(now + soon);
        }
    }

    /// Tries to open the database where capture left off.
    pub(super) fn attach(&mut self) {
        self.retry_at = self.backoff.deadline();
        // What was captured before must be whole first: where to go on is read from it.
        if !self.seal() {
            return;
        }
        if self.watcher.is_none() {
            self.watch();
        }
        if !self.shared.settings.path.exists() {
            let path = self.shared.settings.path.clone();
            return self.lost(Loss::Absent, &EngineError::Absent { path });
        }
        let Some(resume) = self.resume() else { return };
        if self.is_full() {
            self.resume = resume;
            return;
        }
        match self.engine.open(&self.shared.settings.path, resume) {
            Ok(mut source) => {
                if self.shared.settings.never_lock {
                    source.never_lock();
                }
                self.source = Some(source);
                (self.repair, self.rested, self.parked) = (None, None, None);
                self.poll_at_once();
            }
            Err(error) => self.lost(Loss::of(&error), &error),
        }
    }

    fn watch(&mut self) {
        match Watcher::start(&self.shared.settings.path, self.shared.bell.clone()) {
            Ok(watcher) => self.watcher = Some(watcher),
            // The directory may not exist yet. Until it can be watched, the timer does the work.
            Err(error) => tracing::debug!("cannot watch {}: {error}", self.shared.settings.path.display()),
        }
    }

    fn is_full(&self) -> bool {
        self.shared.spool.evict();
        let (used_bytes, limit_bytes) = (self.shared.spool.used_bytes(), self.shared.spool.limit_bytes());
        let is_full =
            matches!(self.shared.status.state(), State::SpoolFull { .. }) && used_bytes > limit_bytes / 10 * 9;
        if is_full {
            self.shared.status.set_state(State::SpoolFull { used_bytes, limit_bytes });
        }
        is_full
    }

    /// What the engine is opened with. The outer `None`: not now.
    fn resume(&mut self) -> Option<Option<Resume>> {
        if self.open.last().is_none() {
            // Nothing was captured in this generation yet.
            return Some(None);
        }
        if let Some(resume) = self.resume.take() {
            return Some(Some(resume));
        }
        let loaded = self.page_map_file.load(&self.shared.spool);
        match loaded {
            Ok(Some((point, page_map))) if self.open.last().is_some_and(|last| last.place() == point.place()) => {
                self.keep(&point, &page_map);
                let ResumePoint { commit, position, .. } = point;
                let (txid, lengths, repair) = (commit.txid, commit.lengths, self.repair);
                let rested = self.rested.clone();
                Some(Some(Resume { txid, lengths, position, page_map, rested, repair }))
            }
            Ok(_) => self.resume_from_replica(),
            Err(error) => {
                self.shared.status.error("spool", format!("cannot read the page map: {error}"));
                None
            }
        }
    }

    /// Writes a page map that was rolled forward, so that the spool may forget the segments that it was rolled over.
    fn keep(&mut self, point: &ResumePoint, map: &PageMap) {
        if self.page_map_file.place() != point.place()
            && let Err(error) = self.page_map_file.save(point, map, self.open.changes())
        {
            self.shared.status.error("spool", format!("cannot write the page map: {error}"));
            if disk::is_full(&error) {
                // Better to ask a replica for the page map after the next crash than to stand still now.
                self.shared.spool.forget_shipped();
            }
        }
        self.shared.spool.set_in_page_map(self.page_map_file.place());
    }

    /// The page map was lost under a running process: a replica and the spool tell it, or a new generation begins.
    fn resume_from_replica(&mut self) -> Option<Option<Resume>> {
        let last = self.open.last()?.clone();
        for replica in &self.shared.replicas {
            let rebuilt = self.runtime.block_on(async {
                let contact = rebuild::contact(replica).await?;
                let map = rebuild::page_map(replica, &contact).await?;
                Ok::<_, crate::replica::ReplicaError>(contact.point.zip(map))
            });
            match rebuilt {
                Ok(Some((point, map))) if point.generation == last.generation => {
                    let state =
                        roll_forward(&self.shared.spool, point, map).filter(|(at, _)| at.place() == last.place());
                    if let Some((point, page_map)) = state {
                        let (txid, lengths) = (point.commit.txid, point.commit.lengths);
                        let (position, repair) = (point.position, self.repair);
                        return Some(Some(Resume { txid, lengths, position, page_map, rested: None, repair }));
                    }
                }
                Ok(_) => {}
                // Without an answer nothing is decided.
                Err(error) if error.is_retryable() => return None,
                Err(error) => tracing::warn!(replica = replica.describe(), "cannot rebuild the page map: {error}"),
            }
        }
        let course =
            new_course(&self.shared, self.engine.kind(), Some(last.generation), "the page map is lost everywhere");
        self.begin_course(course);
        None
    }

    /// The engine reported an error.
    pub(super) fn lost(&mut self, loss: Loss, error: &EngineError) {
        let is_new = !matches!(loss, Loss::Absent | Loss::Busy);
        if is_new {
            self.shared.status.error(loss.kind(), error);
        }
        match loss {
            Loss::Busy => {
                let again = self.backoff.deadline();
                self.poll_not_before(again);
                self.retry_at = again;
                return;
            }
            Loss::Absent => self.shared.status.set_state(State::Absent),
            Loss::NotCapturable => {
                let text = error.to_string();
                if self.shared.status.state() != State::NotCapturable(text.clone()) {
                    tracing::warn!("{error}");
                }
                self.shared.status.set_state(State::NotCapturable(text));
            }
            Loss::Gap(reason) => {
                tracing::warn!("{error}; comparing the database with what was captured");
                self.repair = Some(reason);
            }
            Loss::Full => {
                let (used_bytes, limit_bytes) = (self.shared.spool.used_bytes(), self.shared.spool.limit_bytes());
                tracing::error!("{error}");
                self.shared.status.set_state(State::SpoolFull { used_bytes, limit_bytes });
                self.repair = Some(RepairReason::SpoolFull);
            }
            Loss::Failed => {
                let text = error.to_string();
                if self.shared.status.state() != State::NotCapturable(text.clone()) {
                    tracing::error!("{error}");
                }
                self.shared.status.set_state(State::NotCapturable(text));
            }
        }
        self.detach();
        self.retry_at = self.backoff.deadline();
    }
}
