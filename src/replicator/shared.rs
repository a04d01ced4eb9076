//! What the tasks of one database share.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::engine::EngineKind;
use crate::include::Live;
use crate::layout::PartHash;
use crate::position::Generation;
use crate::replica::Replica;
use crate::replicator::Settings;
use crate::replicator::copy::CopyMessage;
use crate::replicator::crew::Crew;
use crate::replicator::delta::Base;
use crate::replicator::resume::Contact;
use crate::spool::{ResumePoint, Spool};
use crate::status::{Clock, Place, Status};
use crate::watcher::Bell;

/// Where this process writes.
#[derive(Debug, Clone)]
pub(super) struct Course {
    pub generation: Generation,
    pub engine: EngineKind,
    /// The highest term that was claimed; what new segments carry.
    pub term: Arc<AtomicU32>,
    /// Where this process went on; `None` in a new generation.
    pub base: Option<ResumePoint>,
}

/// What capture is asked to do, from outside its thread.
#[derive(Debug)]
pub(super) enum Command {
    /// Everything committed by now is to be sealed; answers with the last commit's place.
    Sync(oneshot::Sender<Place>),
    /// A full copy for one replica, which holds this already.
    Copy(mpsc::Sender<CopyMessage>, Option<Arc<Base>>),
    /// No line suits every replica: a new generation, for this reason.
    NewGeneration(String),
    /// A last look, then the database is let go of, with every lock and connection; answers with the last commit's place.
    Pause(oneshot::Sender<Place>),
    /// Capture goes on where it was paused.
    Resume,
    /// A last look at the database; answers when everything is sealed and the thread is about to end.
    Stop(oneshot::Sender<Place>),
}

pub(super) struct Shared {
    pub settings: Settings,
    pub status: Status,
    pub spool: Arc<Spool>,
    pub bell: Arc<Bell>,
    pub clock: Clock,
    pub crew: Arc<Crew>,
    /// Since then the replicas have had time to answer.
    pub began: Instant,
    /// Random, one per process.
    pub writer: String,
    pub replicas: Vec<Replica>,
    pub course: watch::Sender<Option<Course>>,
    /// Per replica: somebody wants a snapshot now.
    pub asked: Vec<Notify>,
    /// Per replica: somebody wants the files beside the database looked at now.
    pub asked_for_files: Vec<Notify>,
    /// How often somebody wanted that.
    pub looks_asked: AtomicU64,
    /// No file of it is opened as one that lies beside another database.
    _live: Live,
    contacts: Mutex<Vec<Option<Contact>>>,
    commands: Mutex<Vec<Command>>,
}

impl Shared {
    pub fn new(
        settings: Settings,
        status: Status,
        spool: Arc<Spool>,
        clock: Clock,
        crew: Arc<Crew>,
        replicas: Vec<Replica>,
    ) -> Shared {
        Shared {
            contacts: Mutex::new(vec![None; replicas.len()]),
            _live: Live::new(&settings.path),
            settings,
            status,
            spool,
            bell: Arc::new(Bell::default()),
            clock,
            crew,
            began: Instant::now(),
            writer: format!("{:032x}", rand::random::<u128>()),
            course: watch::channel(None).0,
            asked: replicas.iter().map(|_| Notify::new()).collect(),
            asked_for_files: replicas.iter().map(|_| Notify::new()).collect(),
            looks_asked: AtomicU64::new(0),
            replicas,
            commands: Mutex::new(Vec::new()),
        }
    }

    /// What the replicas said when they were first asked; `None` until they answer.
    pub fn contacts(&self) -> MutexGuard<'_, Vec<Option<Contact>>> {
        self.contacts.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn command(&self, command: Command) {
        self.commands.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(command);
        self.bell.ring();
    }

    pub fn take_commands(&self) -> Vec<Command> {
        std::mem::take(&mut *self.commands.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}

/// Pauses that double from `first` to `most`.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(first: Duration, most: Duration) -> Backoff {
        Backoff { first, most, next: first }
    }

    pub fn reset(&mut self) {
        self.next = self.first;
    }

    /// The next pause, with up to a quarter of it added at random, so that many databases do not come back at once.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.most);
        pause.mul_f64(1.0 + rand::random::<f64>() / 4.0)
    }

    pub fn deadline(&mut self) -> Instant {
        Instant::now() + self.pause()
    }
}

/// The parts that a replica is known to have.
pub(super) type KnownParts = HashSet<PartHash>;

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).field("status", &self.status).finish_non_exhaustive()
    }
}
