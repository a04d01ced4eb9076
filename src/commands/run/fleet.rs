//! The databases at work, as they come and go, and whoever may ask about them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::super::source::open_counted;
use super::announce::Statuses;
use super::discovery::{Changes, Discovery};
use super::memory::{self, Activity};
use super::report;
use super::schedule::Scheduled;
use super::serving::Serving;
use crate::config::DatabaseConfig;
use crate::control::{self, Control, ReloadAnswer};
use crate::engine::choice::Choice;
use crate::error::{Error, ExitCode};
use crate::replicator::{Crew, Final, Replicator, Settings, StartError, StopReport};
use crate::spool::Disk;
use crate::status::system_clock;
use crate::store::Requests;

/// How soon a database that waits for its own stop is looked at again.
const AGAIN: Duration = Duration::from_millis(50);

/// One database at work.
pub struct Working {
    pub path: PathBuf,
    pub state_dir: PathBuf,
    /// What it was started with.
    pub config: Arc<DatabaseConfig>,
    pub engine: Choice,
    pub replicator: Replicator,
    /// Of each replica.
    pub requests: Vec<Arc<Requests>>,
    reporter: JoinHandle<()>,
    end_of_report: oneshot::Sender<()>,
}

/// One that ships its rest.
pub struct Stopping {
    pub path: PathBuf,
    pub state_dir: PathBuf,
    pub report: JoinHandle<StopReport>,
}

impl Working {
    /// A last look at the database, and everything shipped, within the time.
    pub fn stop(self, timeout: Duration) -> Stopping {
        let Working { path, state_dir, replicator, reporter, end_of_report, .. } = self;
        let progress = tokio::spawn(report::final_sync(replicator.status().clone()));
        let report = tokio::spawn(async move {
            let report = replicator.stop(timeout).await;
            progress.abort();
            // What happened last is told before the end is.
            end_of_report.send(()).ok();
            reporter.await.ok();
            report
        });
        Stopping { path, state_dir, report }
    }
}

pub struct Fleet {
    pub all: Vec<Working>,
    /// Databases that vanished: what was captured of them is still being shipped.
    pub resting: Vec<Stopping>,
    /// Databases that start again, with another configuration, as soon as they have stopped.
    pub(super) waiting: Vec<(Arc<DatabaseConfig>, Choice)>,
    pub(super) discovery: Option<Discovery>,
    server: Option<Serving>,
    control: Option<Control>,
    /// What is done by the clock; `None` where nothing is.
    scheduled: Option<Scheduled>,
    statuses: Statuses,
    crew: Arc<Crew>,
    activity: Activity,
    pub(super) shutdown_timeout: Duration,
    asks: (mpsc::Sender<ReloadAnswer>, mpsc::Receiver<ReloadAnswer>),
}

/// What the databases at work need somebody for.
pub enum Event {
    /// None is replicated any more, and why.
    Ended(Error),
    /// The configuration is to be read again; who asks waits for what came of it.
    Reload(ReloadAnswer),
}

impl Fleet {
    /// Databases that are named, and those that patterns match now.
    pub fn start(
        named: Vec<(DatabaseConfig, Choice)>,
        mut discovery: Option<Discovery>,
        server: Option<Serving>,
        scheduled: Option<Scheduled>,
        crew: Arc<Crew>,
        shutdown_timeout: Duration,
    ) -> Result<Fleet, Error> {
        let found = discovery.as_mut().map(Discovery::look).unwrap_or_default();
        let mut fleet = Fleet {
            all: Vec::new(),
            resting: Vec::new(),
            waiting: Vec::new(),
            discovery,
            server,
            control: None,
            scheduled,
            statuses: Statuses::default(),
            crew,
            activity: Activity::default(),
            shutdown_timeout,
            asks: mpsc::channel(1),
        };
        tokio::spawn(memory::give_back_at_rest(fleet.activity.clone()));
        for (database, engine) in named {
            fleet.add(&Arc::new(database), engine)?;
        }
        fleet.apply(found);
        if fleet.all.is_empty() {
            tracing::info!("no database matches yet; waiting for the first one");
        }
        Ok(fleet)
    }

    /// Of all, now and later.
    pub fn statuses(&self) -> Statuses {
        self.statuses.clone()
    }

    /// Takes in what comes and goes, until somebody is needed. Nothing is lost when it is given up.
    pub async fn event(&mut self) -> Event {
        loop {
            let changes = tokio::select! {
                Some(answer) = self.asks.1.recv() => return Event::Reload(answer),
                () = tokio::time::sleep(AGAIN), if !self.waiting.is_empty() => self.ready_again(),
                changes = changed(&mut self.discovery) => changes,
                // While there are patterns, or some wait, more may come.
                error = all_ended(&self.all), if self.discovery.is_none() && self.waiting.is_empty() => {
                    return Event::Ended(error);
                }
            };
            self.apply(changes);
        }
    }

    /// Those that waited for their own stop, which has come.
    fn ready_again(&mut self) -> Changes {
        self.resting.retain(|stopping| !stopping.report.is_finished());
        let stops = |database: &DatabaseConfig| {
            self.resting.iter().any(|other| other.path == database.path || other.state_dir == database.state_dir)
        };
        let (waiting, appeared) = std::mem::take(&mut self.waiting).into_iter().partition(|(one, _)| stops(one));
        self.waiting = waiting;
        Changes { appeared, vanished: Vec::new() }
    }

    pub(super) fn add(&mut self, database: &Arc<DatabaseConfig>, engine: Choice) -> Result<(), Error> {
        let working = start(database, engine, self.crew.clone(), self.activity.clone())?;
        if let Some(scheduled) = &mut self.scheduled {
            scheduled.add(&working.config, working.replicator.status().clone());
        }
        self.all.push(working);
        Ok(())
    }

    /// Nothing is done by the clock or for the panel from now on.
    pub async fn stop_scheduled(&mut self) {
        if let Some(mut scheduled) = self.scheduled.take() {
            scheduled.stop().await;
        }
        if let Some(server) = &self.server {
            server.stop_jobs().await;
        }
    }

    fn apply(&mut self, changes: Changes) {
        for (database, engine) in changes.appeared {
            if let Err(error) = self.add(&database, engine) {
                // A later look meets it again.
                tracing::error!(database = %database.path.display(), "NOT REPLICATED: {}", error.report());
                self.discovery.as_mut().map(|discovery| discovery.forget(&database.path));
            }
        }
        for database in changes.vanished {
            tracing::warn!(database = %database.path.display(), "the file is gone: its replica stays as it is");
            self.put_to_rest(&database.path);
        }
        self.resting.retain(|stopping| !stopping.report.is_finished());
        self.show();
    }

    /// Ships what was captured of a database, and ends.
    pub(super) fn put_to_rest(&mut self, path: &Path) {
        let Some(at) = self.all.iter().position(|working| working.path == path) else { return };
        if let Some(scheduled) = &mut self.scheduled {
            scheduled.remove(path);
        }
        self.resting.push(self.all.remove(at).stop(self.shutdown_timeout));
    }

    /// Whoever asks from now on is told about these. Replication matters more than being asked about it.
    pub(super) fn show(&mut self) {
        if let Some(server) = &self.server {
            server.show(&self.all);
        }
        let statuses = self.all.iter().map(|working| working.replicator.status().clone()).collect();
        *self.statuses.write().unwrap_or_else(PoisonError::into_inner) = statuses;
        let all: Vec<(PathBuf, control::Asked)> = self.all.iter().map(Working::controlled).collect();
        let shown = match &mut self.control {
            Some(control) => control.show(all),
            None if all.is_empty() => Ok(()),
            None => control::listen(all, self.asks.0.clone()).map(|control| self.control = Some(control)),
        };
        if let Err(error) = shown {
            tracing::warn!(
                "no control socket: {error}; `replicate sync`, `snapshot` and `status` cannot ask this process"
            );
        }
    }
}

impl Working {
    fn controlled(&self) -> (PathBuf, control::Asked) {
        let asked = (self.path.clone(), self.replicator.handle().clone(), self.requests.clone());
        (self.state_dir.clone(), asked)
    }
}

pub fn start(
    database: &Arc<DatabaseConfig>,
    engine: Choice,
    crew: Arc<Crew>,
    activity: Activity,
) -> Result<Working, Error> {
    let chosen = engine.clone();
    let s = &database.settings;
    let settings = Settings {
        path: database.path.clone(),
        name: database.name.clone(),
        state_dir: database.state_dir.clone(),
        sync_interval: s.sync_interval,
        segment_size: s.segment_size,
        poll_interval: s.poll_interval,
        never_lock: s.never_lock,
        snapshots: s.snapshots,
        snapshot_schedule: s.schedule.snapshot.clone(),
        spool_limit: s.spool_limit,
        retention: database.replicas.iter().map(|replica| database.policy(replica)).collect(),
        aims: s.aims(),
        include: s.include.of(&database.path).map_err(|problem| Error::usage(format!("include: {problem}")))?,
        ..Settings::new(&database.path)
    };
    let (mut replicas, mut requests) = (Vec::new(), Vec::new());
    for replica in &database.replicas {
        let beside = if database.default_replica { " (no replica was named: beside the database)" } else { "" };
        tracing::info!(database = %database.path.display(), "replicating to {}{beside}", replica.shown_url());
        let opened = open_counted(replica)?;
        replicas.push((replica.shown_url().to_owned(), opened.store));
        requests.push(opened.requests);
    }
    let started = Replicator::start_on(Disk::default(), crew, settings, engine, replicas, system_clock());
    let replicator = started.map_err(|error| match error {
        StartError::Locked { .. } => Error::new(ExitCode::Refused, error.to_string())
            .next_step("stop the other process, or give this one another database"),
        StartError::StateDir { .. } => {
            Error::failed(error.to_string()).next_step("make it writable, or set state-dir in the configuration")
        }
    })?;
    let (end_of_report, end) = oneshot::channel();
    let (path, state_dir, config) = (database.path.clone(), database.state_dir.clone(), database.clone());
    let reporter = tokio::spawn(report::report(path.clone(), replicator.status().clone(), activity, end));
    Ok(Working { path, state_dir, config, engine: chosen, replicator, requests, reporter, end_of_report })
}

/// Waits for what comes and goes; for ever where nothing does.
async fn changed(discovery: &mut Option<Discovery>) -> Changes {
    match discovery {
        Some(discovery) => discovery.changed().await,
        None => std::future::pending().await,
    }
}

/// Waits until no database is replicated any more; the first one's reason.
async fn all_ended(all: &[Working]) -> Error {
    let mut first = None;
    for working in all {
        let end = working.replicator.failed().await;
        first.get_or_insert_with(|| {
            let exit = match end {
                Final::Fenced(_) | Final::Refused(_) => ExitCode::Refused,
                Final::Failed(_) => ExitCode::Failed,
            };
            Error::new(exit, format!("{} is not replicated any more", working.path.display())).because(end)
        });
    }
    match first {
        Some(error) => error,
        None => std::future::pending().await,
    }
}
