//! One compaction: inputs from the spool or the store, the work on a thread of its own, the output into the store.
//!
//! Killed at any step, it leaves the inputs and either nothing or the whole output: the output is created with one request,
//! after it was read again and compared, and after it was made sure that nobody else has taken over.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Semaphore;

use super::Final;
use super::shared::Shared;
use crate::compaction::{Compacted, CompactionError, Input, Job, Order, compact};
use crate::inventory::{Inventory, Listed};
use crate::layout::{ObjectName, SegmentName};
use crate::position::{Generation, Term, Txid};
use crate::replica::{Replica, ReplicaError, newest_snapshot};
use crate::spool::{Disk, DiskFile};
use crate::store::{Outcome as StoreOutcome, StoreError};

/// Bytes of a segment that are fetched at a time.
const PIECE_BYTES: u64 = 8 * 1024 * 1024;
/// Merges that work at the same time in one process, whatever the number of databases: each takes memory and a core.
static TURN: Semaphore = Semaphore::const_new(1);

/// What came of a job.
pub(super) enum Outcome {
    Done(Listed<SegmentName>),
    /// An input was removed from the replica, which needs it no more.
    Gone {
        name: SegmentName,
        inventory: Inventory,
    },
    /// An input is missing or damaged. Without a newer snapshot, what comes after it cannot be restored.
    Broken {
        name: SegmentName,
        problem: String,
        needs_snapshot: bool,
        inventory: Inventory,
    },
    /// Anything else; worth another try later.
    Failed(String),
}

/// One job on its way.
pub(super) struct Work {
    pub shared: Arc<Shared>,
    pub replica: Replica,
    pub index: usize,
    pub generation: Generation,
    /// Ours, as claimed.
    pub term: Term,
    pub job: Job,
    pub stop: Arc<AtomicBool>,
}

enum Problem {
    Final(Final),
    /// This input of the job.
    Input(usize, String),
    Failed(String),
}

impl From<ReplicaError> for Problem {
    fn from(error: ReplicaError) -> Problem {
        Problem::Failed(error.to_string())
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Problem {
        Problem::Failed(format!("cannot use the state directory: {error}"))
    }
}

/// The folder of one job, removed with what is in it.
struct Scratch {
    path: PathBuf,
    disk: Disk,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = self.disk.remove_dir(&self.path) {
            // The next start removes it.
            tracing::debug!("cannot remove {}: {error}", self.path.display());
        }
    }
}

fn folder(shared: &Shared) -> PathBuf {
    shared.settings.state_dir.join("compact")
}

/// Removes what an earlier process left behind for this replica.
pub(super) fn clean(shared: &Shared, index: usize) {
    let Ok(entries) = std::fs::read_dir(folder(shared)) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(&format!("{index}-"))
            && let Err(error) = shared.spool.disk().remove_dir(&path)
        {
            tracing::debug!("cannot remove {}: {error}", path.display());
        }
    }
}

impl Work {
    pub async fn run(self) -> Result<Outcome, Final> {
        match self.attempt().await {
            Ok(segment) => Ok(Outcome::Done(segment)),
            Err(Problem::Final(end)) => Err(end),
            Err(Problem::Failed(problem)) => Ok(Outcome::Failed(problem)),
            Err(Problem::Input(number, problem)) => {
                let name = self.job.inputs[number].name;
                Ok(self.examine(name, problem).await.unwrap_or_else(|error| Outcome::Failed(error.to_string())))
            }
        }
    }

    async fn attempt(&self) -> Result<Listed<SegmentName>, Problem> {
        let disk = self.shared.spool.disk().clone();
        let path = folder(&self.shared).join(format!("{}-{:016x}", self.index, rand::random::<u64>()));
        let scratch = Scratch { path, disk };
        scratch.disk.create_dirs(&scratch.path)?;
        let mut is_local = Vec::new();
        let mut inputs = Vec::new();
        for (number, segment) in self.job.inputs.iter().enumerate() {
            let path = scratch.path.join(format!("{number}.seg"));
            let found = self.link(*segment, &path, &scratch.disk);
            if !found {
                self.fetch(number, &path, &scratch.disk).await?;
            }
            is_local.push(found);
            inputs.push(Input { segment: *segment, path });
        }
        let output = scratch.path.join("output.seg");
        let compacted = loop {
            match self.compact(&inputs, scratch.disk.create(&output)?).await {
                Ok(compacted) => break compacted,
                Err(error) => match error.broken_input() {
                    // What the replica holds is what counts.
                    Some(number) if is_local[number] => {
                        tracing::warn!(path = %inputs[number].path.display(), "a local copy of a segment is damaged: {error}");
                        scratch.disk.remove(&inputs[number].path)?;
                        self.fetch(number, &inputs[number].path, &scratch.disk).await?;
                        is_local[number] = false;
                    }
                    Some(number) => return Err(Problem::Input(number, error.to_string())),
                    None => return Err(Problem::Failed(error.to_string())),
                },
            }
        };
        self.put(&compacted, &output).await?;
        if let Err(error) = self.shared.spool.keep_recent(compacted.segment.name, &output, compacted.segment.size) {
            tracing::debug!("a compacted segment is not kept: {error}");
        }
        Ok(compacted.segment)
    }

    /// A second name for a local copy, if there is one.
    fn link(&self, segment: Listed<SegmentName>, to: &Path, disk: &Disk) -> bool {
        let is_whole = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|found| found.len() == segment.size);
        let copies = self.shared.spool.copies(&segment.name);
        copies.iter().filter(|path| is_whole(path)).any(|path| disk.link(path, to).is_ok())
    }

    async fn fetch(&self, number: usize, to: &Path, disk: &Disk) -> Result<(), Problem> {
        let segment = self.job.inputs[number];
        let key = ObjectName::Segment(segment.name).key();
        let file = disk.create(to)?;
        let mut start = 0;
        while start < segment.size {
            let end = (start + PIECE_BYTES).min(segment.size);
            let bytes = match self.replica.store().get(&key, Some(start..end)).await {
                Ok(bytes) if bytes.len() as u64 == end - start => bytes,
                Ok(_) => return Err(Problem::Input(number, "it is shorter than it was".to_owned())),
                Err(error) if is_lost(&error) => return Err(Problem::Input(number, error.to_string())),
                Err(error) => return Err(Problem::Failed(error.to_string())),
            };
            file.write_at(start, &bytes)?;
            start = end;
        }
        Ok(())
    }

    async fn compact(&self, inputs: &[Input], output: DiskFile) -> Result<Compacted, CompactionError> {
        let order = Order { level: self.job.level, term: self.term };
        let (inputs, stop) = (inputs.to_vec(), self.stop.clone());
        let turn = TURN.acquire().await.map_err(|_| CompactionError::Stopped)?;
        let work = move || {
            // Held by the thread: an aborted task must not let another one in before it ends.
            let _turn = turn;
            compact(order, &inputs, output, &|| stop.load(Ordering::Relaxed))
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| CompactionError::Stopped)?
    }

    async fn put(&self, compacted: &Compacted, path: &Path) -> Result<(), Problem> {
        let segment = compacted.segment;
        let newest = self.replica.terms(self.generation).await?.last().copied();
        if newest > Some(self.term) {
            let (term, replica) = (newest.map_or(0, |term| term.0), self.replica.describe());
            return Err(Problem::Final(Final::Fenced(format!("another writer claimed term {term} of {replica}"))));
        }
        // One that is there already with other bytes is not ours: what one process makes of the same segments is the same.
        self.replica.put_segment(segment.name, path, segment.size).await?;
        if self.replica.read_index(segment).await? == compacted.index {
            return Ok(());
        }
        Err(Problem::Failed(format!("{} is not as it was put", ObjectName::Segment(segment.name).key())))
    }

    /// An input cannot be read: is it still needed, and is there a snapshot that does without it?
    async fn examine(&self, name: SegmentName, problem: String) -> Result<Outcome, ReplicaError> {
        let inventory = self.replica.inventory(self.generation).await?;
        let is_listed = inventory.segments.iter().any(|segment| segment.name == name);
        let base = match newest_snapshot(&inventory, Txid(u64::MAX)) {
            Some(snapshot) => match self.replica.read_manifest(snapshot.name).await {
                Ok((manifest, _)) => Some(manifest.base),
                Err(ReplicaError::Damaged { .. }) => None,
                Err(error) => return Err(error),
            },
            None => None,
        };
        let needs_snapshot = base.is_none_or(|base| base < name.last);
        if !is_listed && !needs_snapshot {
            return Ok(Outcome::Gone { name, inventory });
        }
        Ok(Outcome::Broken { name, problem, needs_snapshot, inventory })
    }
}

/// Does this say that the object is not there, or not as it was?
fn is_lost(error: &StoreError) -> bool {
    matches!(error.outcome, StoreOutcome::NotFound | StoreOutcome::Invalid)
}
