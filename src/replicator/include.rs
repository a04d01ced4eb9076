//! Files beside the database, in one replica: when they are looked at, and what came of it.
//!
//! They are looked at every now and then, after each snapshot, and when somebody asks; a look at files that did not change causes no
//! request. Whatever goes wrong here is told and tried again, and never holds up the database.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::task::{JoinError, JoinHandle};

use super::Final;
use super::shared::{Backoff, Course, Shared};
use super::take::{Memory, Problem, Take};
use crate::include::{LeftOut, Why};
use crate::layout::SnapshotName;
use crate::position::{Generation, Term, Txid};
use crate::status::Place;

/// After a look that failed, the next one waits this long, and then twice as long each time, up to the second one.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(10 * 60);

type Took = (Memory, Result<Vec<LeftOut>, Problem>);

/// The file sets of one replica.
pub(super) struct Files {
    shared: Arc<Shared>,
    index: usize,
    generation: Generation,
    /// `None` while a look is under way.
    memory: Option<Memory>,
    running: Option<JoinHandle<Took>>,
    ended: Option<Result<Took, JoinError>>,
    /// When the last look began, and with which snapshot.
    looked_at: Option<Instant>,
    looked_on: Option<SnapshotName>,
    /// The newest wish for a look that the one under way answers, and the newest that was answered.
    answering: u64,
    answered: u64,
    told: Vec<LeftOut>,
    backoff: Backoff,
    not_before: Option<Instant>,
}

impl Files {
    pub fn new(shared: Arc<Shared>, index: usize, course: &Course) -> Files {
        Files {
            memory: Some(Memory::new(&shared.replicas[index])),
            shared,
            index,
            generation: course.generation,
            running: None,
            ended: None,
            looked_at: None,
            looked_on: None,
            answering: 0,
            answered: 0,
            told: Vec::new(),
            backoff: Backoff::new(AGAIN, AGAIN_AT_MOST),
            not_before: None,
        }
    }

    /// A new generation began: nothing of it is kept there yet.
    pub fn set_course(&mut self, course: &Course) {
        self.abort();
        (self.running, self.ended, self.looked_at, self.not_before) = (None, None, None, None);
        self.generation = course.generation;
        self.memory = Some(Memory::new(&self.shared.replicas[self.index]));
        self.shared.status.replica(self.index, |replica| replica.files = None);
    }

    fn abort(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// When the next look is to begin; `None`: not before something changes.
    pub fn due(
        &self,
        claimed: Option<(Generation, Term)>,
        shipped: Place,
        newest: Option<SnapshotName>,
    ) -> Option<Instant> {
        let include = self.shared.settings.include.as_ref()?;
        let has_claimed = claimed.is_some_and(|(of, _)| of == self.generation);
        let is_begun = shipped.generation == self.generation && shipped.txid > Txid::ZERO;
        if self.is_running() || self.ended.is_some() || !has_claimed || !is_begun {
            return None;
        }
        let now = Instant::now();
        let is_asked = self.shared.looks_asked.load(Ordering::Acquire) > self.answered || self.looked_on != newest;
        let due = self.looked_at.filter(|_| !is_asked).map_or(now, |at| at + include.interval);
        Some(self.not_before.map_or(due, |at| due.max(at)))
    }

    /// Takes note of a look that ended, and begins one that is due.
    pub fn advance(
        &mut self,
        claimed: Option<(Generation, Term)>,
        shipped: Place,
        newest: Option<SnapshotName>,
    ) -> Result<(), Final> {
        match self.ended.take() {
            Some(Ok((memory, result))) => {
                self.memory = Some(memory);
                self.note(result)?;
            }
            Some(Err(error)) => {
                self.memory = Some(Memory::new(&self.shared.replicas[self.index]));
                self.failed("include", &error.to_string());
            }
            None => {}
        }
        if self.due(claimed, shipped, newest).is_some_and(|due| due <= Instant::now())
            && let (Some((_, term)), Some(include)) = (claimed, self.shared.settings.include.clone())
            && let Some(memory) = self.memory.take()
        {
            (self.looked_at, self.looked_on, self.not_before) = (Some(Instant::now()), newest, None);
            self.answering = self.shared.looks_asked.load(Ordering::Acquire);
            let (shared, index, generation) = (self.shared.clone(), self.index, self.generation);
            let take = Take { shared, index, generation, term, include, memory };
            self.running = Some(tokio::spawn(take.run()));
        }
        Ok(())
    }

    fn note(&mut self, result: Result<Vec<LeftOut>, Problem>) -> Result<(), Final> {
        match result {
            Err(Problem::Final(end)) => return Err(end),
            Err(Problem::Failed { kind, text }) => self.failed(kind, &text),
            Ok(left_out) => {
                self.tell(left_out);
                self.backoff.reset();
                self.answered = self.answering;
                let newest = self.memory.as_ref().and_then(Memory::newest);
                let (answered, left_out) = (self.answered, self.told.len());
                self.shared.status.replica(self.index, |replica| {
                    (replica.files, replica.files_looked, replica.files_left_out) = (newest, answered, left_out);
                });
            }
        }
        Ok(())
    }

    /// Says once what is left out, as long as it stays so.
    fn tell(&mut self, left_out: Vec<LeftOut>) {
        let replica = self.shared.replicas[self.index].describe();
        for one in left_out.iter().filter(|one| !self.told.contains(one)) {
            if matches!(one.why, Why::Secret(_)) {
                tracing::info!(replica, "not kept with the database: {one}");
            } else {
                tracing::warn!(replica, "NOT KEPT WITH THE DATABASE: {one}");
                self.shared.status.replica_error(self.index, "include", format!("not kept: {one}"));
            }
        }
        self.told = left_out;
    }

    fn failed(&mut self, kind: &'static str, problem: &str) {
        let pause = self.backoff.pause();
        let replica = self.shared.replicas[self.index].describe();
        tracing::warn!(replica, "files beside the database: {problem}; trying again in {} s", pause.as_secs());
        self.shared.status.replica_error(self.index, kind, problem);
        self.not_before = Some(Instant::now() + pause);
        // Otherwise the next look would come with the next interval only.
        self.looked_at = None;
    }

    /// Waits for the end of the look that is under way. Nothing is lost when the wait is given up.
    pub async fn finished(&mut self) {
        match &mut self.running {
            Some(running) => {
                self.ended = Some(running.await);
                self.running = None;
            }
            None => std::future::pending().await,
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.abort();
    }
}
