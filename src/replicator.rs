//! One database and its replicas: a capturing thread on one side of the spool, shipping tasks on the other.
//!
//! | file | does |
//! |---|---|
//! | `begin.rs`, `resume.rs`, `rebuild.rs` | where to go on: local state, the replicas, or a new generation |
//! | `capture.rs`, `attach.rs` | the capturing thread |
//! | `pace.rs` | events or a timer |
//! | `crew.rs`, `park.rs` | which databases have a thread, and how the others are looked after |
//! | `lock.rs` | one process per state directory |
//! | `due.rs`, `snapshot.rs` | when a snapshot begins, and why |
//! | `copy.rs`, `upload.rs` | the two halves of a snapshot |
//! | `delta.rs` | what of a copy is sent |
//! | `ship.rs` | one replica |
//! | `handle.rs` | what a running one can be asked for |
//! | `prune.rs` | what its retention deletes |
//! | `include.rs`, `take.rs` | files beside the database: when to look, and one look |
//! | `maintain.rs`, `compact.rs` | compaction in one replica: when, and one job |
//! | `shared.rs` | what they share |
//! | `shipped.rs`, `verified.rs` | notes of what a replica has, for `verify`, and of what that found |

use std::io;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::compaction;
use crate::cron::Cron;
use crate::engine::choice::Choice;
use crate::include::Include;
use crate::prune::GRACE;
use crate::replica::Replica;
use crate::retention::Policy;
use crate::spool::{Disk, Spool};
use crate::status::{Aims, Clock, Place, State, Status};
use crate::store::Store;

mod attach;
mod begin;
mod capture;
mod compact;
mod copy;
mod crew;
mod delta;
pub mod due;
mod handle;
mod include;
mod lock;
mod maintain;
mod pace;
mod park;
mod prune;
mod rebuild;
pub mod resume;
mod shared;
mod ship;
pub mod shipped;
mod snapshot;
mod take;
mod upload;
pub mod verified;

pub use crew::Crew;
pub use handle::{Handle, LabelledError};
pub use upload::release_memory;

use due::Rules;
use lock::StateLock;
use shared::{Command, Shared};

/// What one database is replicated with. Plain data: the configuration maps onto it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The database's main file.
    pub path: PathBuf,
    /// For messages and metrics.
    pub name: String,
    /// Local state. One process at a time; made where it is missing.
    pub state_dir: PathBuf,
    /// A segment is sealed at this age …
    pub sync_interval: Duration,
    /// … or at this many bytes before compression.
    pub segment_size: u64,
    /// How often to look when no file event arrives.
    pub poll_interval: Duration,
    /// No writer may ever wait for a lock of ours; the WAL may grow for that.
    pub never_lock: bool,
    /// When a full copy is made.
    pub snapshots: Rules,
    /// When one is made by the clock, besides.
    pub snapshot_schedule: Option<Cron>,
    /// Bytes of segments that may wait for a replica.
    pub spool_limit: u64,
    /// What is kept in each replica, in their order; `None`, or none at all: everything.
    pub retention: Vec<Option<Policy>>,
    /// While something is shipped, what may be pruned is looked for this often, and after every snapshot.
    pub prune_interval: Duration,
    /// Between the moment when something is marked and the one when it is deleted.
    pub prune_grace: Duration,
    /// When segments become fewer.
    pub compaction: compaction::Policy,
    /// While something is shipped, another writer's claim is noticed within this time.
    pub fence_interval: Duration,
    pub aims: Aims,
    /// Which files beside the database are kept with it.
    pub include: Option<Include>,
}

impl Settings {
    /// The defaults, with local state beside the database.
    pub fn new(path: impl Into<PathBuf>) -> Settings {
        let path = path.into();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Settings {
            state_dir: path.with_file_name(format!(".{name}-replicate")),
            path,
            name,
            sync_interval: Duration::from_secs(1),
            segment_size: 4 * 1024 * 1024,
            poll_interval: Duration::from_secs(1),
            never_lock: false,
            snapshots: Rules::default(),
            snapshot_schedule: None,
            spool_limit: 10 * 1024 * 1024 * 1024,
            retention: Vec::new(),
            prune_interval: Duration::from_secs(60 * 60),
            prune_grace: GRACE,
            compaction: compaction::Policy::default(),
            fence_interval: Duration::from_secs(30),
            aims: Aims::default(),
            include: None,
        }
    }
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("another process replicates this database: {} is locked", path.display())]
    Locked { path: PathBuf },
    #[error("cannot use the state directory {}: {source}", path.display())]
    StateDir { path: PathBuf, source: io::Error },
}

/// Why something ended for good although nobody asked for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Final {
    /// Another writer took a replica over.
    #[error("{0}; this process ships nothing more to it")]
    Fenced(String),
    /// A replica cannot be written to.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Failed(String),
}

/// Why not everything is in every replica.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SyncError {
    #[error("not finished in {} s: {behind}", waited.as_secs_f64())]
    TimedOut { waited: Duration, behind: String },
    #[error(transparent)]
    Final(Final),
}

/// How a replicator ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopReport {
    /// The last commit that was captured; `None` when capture did not end in time.
    pub captured: Option<Place>,
    /// Per replica: its name, what is in it, and whether that is everything.
    pub replicas: Vec<(String, Place, bool)>,
}

impl StopReport {
    /// Is everything in every replica?
    pub fn is_complete(&self) -> bool {
        self.captured.is_some() && self.replicas.iter().all(|(_, _, complete)| *complete)
    }
}

/// A running replicator. Dropping it stops the work without a last sync; what is captured stays in the spool.
#[derive(Debug)]
pub struct Replicator {
    handle: Handle,
    tasks: Vec<JoinHandle<()>>,
    /// Closed when capture has ended.
    capture: oneshot::Receiver<()>,
    /// Held by capture too: whichever ends last lets go of the state directory.
    _lock: Arc<StateLock>,
}

impl Replicator {
    /// Starts capture and shipping. Must be called within a tokio runtime. Replicas are given with their names.
    pub fn start(
        settings: Settings,
        engine: impl Into<Choice>,
        replicas: Vec<(String, Arc<dyn Store>)>,
        clock: Clock,
    ) -> Result<Replicator, StartError> {
        Replicator::start_on(Disk::default(), Crew::unlimited(), settings, engine, replicas, clock)
    }

    /// The same with threads that are shared with other databases, and with another way to the disk: tests stop it at any step.
    pub fn start_on(
        disk: Disk,
        crew: Arc<Crew>,
        settings: Settings,
        engine: impl Into<Choice>,
        replicas: Vec<(String, Arc<dyn Store>)>,
        clock: Clock,
    ) -> Result<Replicator, StartError> {
        let engine = engine.into();
        let unusable = |source| StartError::StateDir { path: settings.state_dir.clone(), source };
        disk.create_dirs(&settings.state_dir).map_err(unusable)?;
        let lock = Arc::new(StateLock::take(&settings.state_dir, crew.clone())?);
        // Nobody may have it, and it waits for its turn: of many databases, not all can keep theirs meanwhile.
        lock.rest();
        let names: Vec<String> = replicas.iter().map(|(name, _)| name.clone()).collect();
        let status = Status::new(&settings.name, names, settings.spool_limit, clock.clone());
        status.set_aims(settings.aims);
        let spool = Spool::open(&settings.state_dir, settings.spool_limit, replicas.len(), disk, status.clone());
        let spool = Arc::new(spool.map_err(unusable)?);
        let replicas = replicas.into_iter().map(|(_, store)| Replica::new(store)).collect();
        let shared = Arc::new(Shared::new(settings, status, spool, clock, crew, replicas));
        let runtime = runtime::Handle::current();
        let tasks = (0..shared.replicas.len()).map(|index| runtime.spawn(ship::run(shared.clone(), index))).collect();
        let (ended, capture) = oneshot::channel();
        let end = End { status: shared.status.clone(), lock: lock.clone(), _ended: ended };
        let (crew, working) = (shared.crew.clone(), shared.clone());
        crew.work(Box::new(move || capture::run(working, engine, runtime, Vec::new(), end)));
        Ok(Replicator { handle: Handle { shared }, tasks, capture, _lock: lock })
    }

    /// To ask it for something, from anywhere, as long as it runs.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// A last look at the database, then everything is shipped, within `timeout`.
    pub async fn stop(mut self, timeout: Duration) -> StopReport {
        let deadline = tokio::time::Instant::now() + timeout;
        // Some of the time is left for what is captured meanwhile.
        tokio::time::timeout(timeout / 4 * 3, self.wait_for_first_snapshots()).await.ok();
        let (answer, place) = oneshot::channel();
        self.handle.shared.command(Command::Stop(answer));
        let captured = match tokio::time::timeout_at(deadline, place).await {
            Ok(Ok(place)) => Some(place),
            // The thread had ended before: what is in the spool is everything.
            Ok(Err(_)) => Some(self.handle.shared.spool.last().map_or(Place::ZERO, |object| object.last())),
            Err(_) => None,
        };
        if let Some(place) = captured {
            let shipped = self.wait_for_shipped(place, false);
            // Whether it got there is in the report.
            tokio::time::timeout_at(deadline, shipped).await.ok();
            if place > Place::ZERO && tokio::time::timeout_at(deadline, self.wait_for_files()).await.is_err() {
                tracing::warn!(
                    database = self.handle.shared.settings.name,
                    "the files beside it were not looked at in time"
                );
            }
            // Nothing is ever sent: it is closed.
            (&mut self.capture).await.ok();
        }
        for task in self.tasks.drain(..) {
            task.abort();
            // Cancelled, or ended before.
            task.await.ok();
        }
        let replicas = self.status().snapshot().replicas.into_iter().map(|replica| {
            let is_restorable = captured == Some(Place::ZERO) || replica.snapshot.is_some();
            let is_shipped = captured.is_some_and(|place| replica.shipped >= place);
            let complete = is_shipped && is_restorable && !replica.state.is_final();
            (replica.name, replica.shipped, complete)
        });
        StopReport { captured, replicas: replicas.collect() }
    }
}

impl Deref for Replicator {
    type Target = Handle;
    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Replicator {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        let (answer, _) = oneshot::channel();
        self.handle.shared.command(Command::Stop(answer));
    }
}

/// Goes with capture, from thread to thread, to its end. A panic ends the work on one database only: without this, nobody would
/// learn of it.
#[derive(Debug)]
struct End {
    status: Status,
    lock: Arc<StateLock>,
    _ended: oneshot::Sender<()>,
}

impl Drop for End {
    fn drop(&mut self) {
        // What is left is shipped. With many databases there are not descriptors enough for the locks of all.
        self.lock.rest();
        if thread::panicking() {
            let text = "the capturing thread panicked; its message is in the log";
            self.status.error("panic", text);
            self.status.set_state(State::Failed(text.to_owned()));
        }
    }
}
