//! Many databases in one process: started together, stopped together.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::engine::Engine;
use crate::replicator::{Final, Replicator, Settings, StartError, StopReport};
use crate::status::{Clock, Status};
use crate::store::Store;

/// One database, as it is to be replicated.
pub struct Job {
    pub settings: Settings,
    pub engine: Arc<dyn Engine>,
    /// With their names.
    pub replicas: Vec<(String, Arc<dyn Store>)>,
}

/// Running replicators.
#[derive(Debug)]
pub struct Daemon {
    replicators: Vec<Replicator>,
}

impl Daemon {
    /// Starts all or none. Must be called within a tokio runtime.
    pub fn start(jobs: Vec<Job>, clock: &Clock) -> Result<Daemon, StartError> {
        let started =
            jobs.into_iter().map(|job| Replicator::start(job.settings, job.engine, job.replicas, clock.clone()));
        Ok(Daemon { replicators: started.collect::<Result<_, _>>()? })
    }

    pub fn replicators(&self) -> &[Replicator] {
        &self.replicators
    }

    /// For renderings, in the order of the jobs.
    pub fn statuses(&self) -> Vec<Status> {
        self.replicators.iter().map(|replicator| replicator.status().clone()).collect()
    }

    /// Waits until every database is captured, or will be as soon as it exists. An error is final.
    pub async fn wait_until_running(&self) -> Result<(), Final> {
        for result in join_all(self.replicators.iter().map(Replicator::wait_until_running)).await {
            result?;
        }
        Ok(())
    }

    /// Waits until one of the databases cannot be replicated any more; the others go on until they are stopped.
    pub async fn failed(&self) -> Final {
        if self.replicators.is_empty() {
            return std::future::pending().await;
        }
        let waits = self.replicators.iter().map(|replicator| Box::pin(replicator.failed()));
        futures_util::future::select_all(waits).await.0
    }

    /// Stops all at the same time, each with a last look and a last shipping within `timeout`. In the order of the jobs.
    pub async fn stop(self, timeout: Duration) -> Vec<StopReport> {
        join_all(self.replicators.into_iter().map(|replicator| replicator.stop(timeout))).await
    }
}
