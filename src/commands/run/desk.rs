//! What the panel asks for is done as the commands do it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::super::prune::{self, PruneOptions};
use super::super::reading::surroundings;
use super::super::source::open;
use super::proving::{Proving, Work};
use crate::config::{DatabaseConfig, ReplicaConfig};
use crate::error::Error;
use crate::status::{Status, system_clock};
use crate::store::Store;
use crate::web::{Desk, Task};

/// Between a mark and the deletion, as `replicate prune` has it.
const GRACE: Duration = Duration::from_secs(3600);

/// One database.
pub struct Clerk {
    pub database: Arc<DatabaseConfig>,
    pub status: Status,
    pub config_file: Option<PathBuf>,
    /// Verifications and drills: one at a time in the whole process, those by the clock among them.
    pub turn: Arc<Semaphore>,
}

impl fmt::Debug for Clerk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clerk").field(&self.database.path).finish()
    }
}

#[async_trait]
impl Desk for Clerk {
    fn source(&self) -> Vec<String> {
        let path = std::path::absolute(&self.database.path).unwrap_or_else(|_| self.database.path.clone());
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        match (&self.config_file, self.database.replicas.first()) {
            (Some(file), _) => {
                let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
                vec![text(path), "--config".to_owned(), text(file)]
            }
            // What stands in the command line of this process only: the place itself, without what may be secret.
            (None, Some(replica)) if !self.database.default_replica => vec![replica.shown_url().to_owned()],
            (None, _) => vec![text(path)],
        }
    }

    fn store(&self, replica: usize) -> Result<Arc<dyn Store>, String> {
        let replica = self.database.replicas.get(replica).ok_or("there is no such replica")?;
        open(replica).map_err(|error| error.report())
    }

    async fn work(&self, task: Task) -> Result<String, String> {
        // The semaphore is never closed.
        let _turn = match task {
            Task::Verify | Task::Drill => self.turn.acquire().await.ok(),
            Task::PlanPrune | Task::Prune => None,
        };
        let many = self.database.replicas.len() > 1;
        let (mut told, mut failed) = (String::new(), false);
        for (index, replica) in self.database.replicas.iter().enumerate() {
            let done = match task {
                Task::Verify => self.prove(Work::Verify, index, replica).await,
                Task::Drill => self.prove(Work::Drill, index, replica).await,
                Task::PlanPrune => self.prune(replica, true).await,
                Task::Prune => self.prune(replica, false).await,
            };
            // A plan begins with the name itself.
            let is_named = done.is_ok() && matches!(task, Task::PlanPrune | Task::Prune);
            if many && !is_named {
                told.push_str(&format!("replica {}\n", replica.shown_url()));
            }
            // What is wrong with one replica does not hide the others.
            match done {
                Ok(text) => told.push_str(&text),
                Err(error) => {
                    failed = true;
                    told.push_str(&format!("{}\n", error.report()));
                }
            }
        }
        if failed { Err(told) } else { Ok(told) }
    }
}

impl Clerk {
    async fn prove(&self, work: Work, index: usize, replica: &ReplicaConfig) -> Result<String, Error> {
        let (database, status) = (self.database.clone(), self.status.clone());
        Proving { database, status, clock: system_clock() }.prove(work, index, replica).await
    }

    async fn prune(&self, replica: &ReplicaConfig, dry_run: bool) -> Result<String, Error> {
        let Some(policy) = self.database.policy(replica) else {
            return Ok(format!("{}: everything is kept, nothing of it goes\n", replica.shown_url()));
        };
        let options = PruneOptions { policy, grace: GRACE, dry_run, json: false, now: surroundings().now };
        let mut told = Vec::new();
        prune::run(open(replica)?, &options, &mut told).await?;
        Ok(String::from_utf8_lossy(&told).into_owned())
    }
}
