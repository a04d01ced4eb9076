//! What the panel needs of those who know how: the seam to the commands.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::store::Store;

/// What takes long and reads or changes replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    Verify,
    Drill,
    /// What a prune would do; changes nothing.
    PlanPrune,
    Prune,
}

/// One database, as the commands see it.
#[async_trait]
pub trait Desk: fmt::Debug + Send + Sync {
    /// The arguments by which `replicate` on the command line finds the database.
    fn source(&self) -> Vec<String>;

    /// The store of one of its replicas, for reading. Sends nothing.
    fn store(&self, replica: usize) -> Result<Arc<dyn Store>, String>;

    /// Does it for every replica, and says what came of it, in words; in `Err` if anything went wrong.
    async fn work(&self, task: Task) -> Result<String, String>;
}
