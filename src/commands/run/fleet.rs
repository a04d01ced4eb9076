//! The databases at work, as they come and go, and whoever may ask about them.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::super::source::open_counted;
use super::announce::Statuses;
use super::discovery::{Changes, Discovery};
use super::schedule::Scheduled;
use super::{memory, report};
use crate::config::DatabaseConfig;
use crate::control::{self, Control};
use crate::engine::choice::Choice;
use crate::error::{Error, ExitCode};
use crate::replicator::{Crew, Final, Handle, Replicator, Settings, StartError, StopReport};
use crate::spool::Disk;
use crate::status::system_clock;
use crate::store::Requests;
use crate::web::{Server, Watched};

/// One database at work.
pub struct Working {
    pub path: PathBuf,
    pub state_dir: PathBuf,
    pub replicator: Replicator,
    /// Of each replica.
    requests: Vec<Arc<Requests>>,
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
    discovery: Option<Discovery>,
    server: Option<Server>,
    control: Option<Control>,
    /// What is done by the clock; `None` where nothing is.
    scheduled: Option<Scheduled>,
    statuses: Statuses,
    crew: Arc<Crew>,
    shutdown_timeout: Duration,
}

impl Fleet {
    /// Databases that are named, and those that patterns match now.
    pub fn start(
        named: Vec<(DatabaseConfig, Choice)>,
        mut discovery: Option<Discovery>,
        server: Option<Server>,
        scheduled: Option<Scheduled>,
        crew: Arc<Crew>,
        shutdown_timeout: Duration,
    ) -> Result<Fleet, Error> {
        let found = discovery.as_mut().map(Discovery::look).unwrap_or_default();
        let (all, resting, control) = (Vec::new(), Vec::new(), None);
        let statuses = Statuses::default();
        let mut fleet = Fleet { all, resting, discovery, server, control, scheduled, statuses, crew, shutdown_timeout };
        for (database, engine) in named {
            fleet.add(&database, engine)?;
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

    /// Takes in what comes and goes, until nothing is replicated any more: the reason. Nothing is lost when it is given up.
    pub async fn ended(&mut self) -> Error {
        loop {
            let changes = match &mut self.discovery {
                // More may come.
                Some(discovery) => discovery.changed().await,
                None => return all_ended(&self.all).await,
            };
            self.apply(changes);
        }
    }

    fn add(&mut self, database: &DatabaseConfig, engine: Choice) -> Result<(), Error> {
        let working = start(database, engine, self.crew.clone())?;
        if let Some(scheduled) = &mut self.scheduled {
            scheduled.add(database, working.replicator.status().clone());
        }
        self.all.push(working);
        Ok(())
    }

    /// Nothing is done by the clock from now on.
    pub async fn stop_scheduled(&mut self) {
        if let Some(mut scheduled) = self.scheduled.take() {
            scheduled.stop().await;
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
            let Some(at) = self.all.iter().position(|working| working.path == database.path) else { continue };
            tracing::warn!(database = %database.path.display(), "the file is gone: its replica stays as it is");
            if let Some(scheduled) = &mut self.scheduled {
                scheduled.remove(&database.path);
            }
            self.resting.push(self.all.remove(at).stop(self.shutdown_timeout));
        }
        self.resting.retain(|stopping| !stopping.report.is_finished());
        self.show();
    }

    /// Whoever asks from now on is told about these. Replication matters more than being asked about it.
    fn show(&mut self) {
        if let Some(server) = &self.server {
            server.show(self.all.iter().map(Working::watched).collect());
        }
        let statuses = self.all.iter().map(|working| working.replicator.status().clone()).collect();
        *self.statuses.write().unwrap_or_else(PoisonError::into_inner) = statuses;
        let all: Vec<(PathBuf, PathBuf, Handle)> = self.all.iter().map(Working::controlled).collect();
        let shown = match &mut self.control {
            Some(control) => control.show(all),
            None if all.is_empty() => Ok(()),
            None => control::listen(all).map(|control| self.control = Some(control)),
        };
        if let Err(error) = shown {
            tracing::warn!(
                "no control socket: {error}; `replicate sync`, `snapshot` and `status` cannot ask this process"
            );
        }
    }
}

impl Working {
    fn watched(&self) -> Watched {
        let (path, handle) = (self.path.clone(), self.replicator.handle().clone());
        Watched { path, handle, requests: self.requests.clone() }
    }

    fn controlled(&self) -> (PathBuf, PathBuf, Handle) {
        (self.path.clone(), self.state_dir.clone(), self.replicator.handle().clone())
    }
}

pub fn start(database: &DatabaseConfig, engine: Choice, crew: Arc<Crew>) -> Result<Working, Error> {
    let s = &database.settings;
    let settings = Settings {
        path: database.path.clone(),
        name: database.name.clone(),
        state_dir: database.state_dir.clone(),
        sync_interval: s.sync_interval,
        segment_size: s.segment_size,
        poll_interval: s.poll_interval,
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
    let (path, state_dir) = (database.path.clone(), database.state_dir.clone());
    // Ends with the replicator's status.
    tokio::spawn(memory::give_back_at_rest(replicator.status().clone()));
    let reporter = tokio::spawn(report::report(path.clone(), replicator.status().clone(), end));
    Ok(Working { path, state_dir, replicator, requests, reporter, end_of_report })
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
