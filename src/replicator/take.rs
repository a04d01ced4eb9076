//! One look at the files beside a database, for one replica: what changed is sent, blobs first, the set that names them last.
//!
//! Killed anywhere, it leaves blobs that nothing names; the next look names them, or they are pruned.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinError;

use super::Final;
use super::shared::Shared;
use crate::fileset::{
    FileSet, FileSetError, FileSets, IncludedFile, MAX_SET_BYTES, Moment, RelativePath, encode_blob, living,
};
use crate::include::{self, Content, Facts, Include, LeftOut, Look, Seen, Why};
use crate::layout::{BlobHash, FileSetName};
use crate::position::{Generation, Term, TimeMs, Txid};
use crate::prune::{SETTLE, spare_blobs};
use crate::replica::{Replica, ReplicaError};
use crate::segment::SegmentError;
use crate::status::Place;
use crate::store::StoreError;

/// Files that are in memory at the same time in one process, whatever the number of databases: each takes up to 48 MiB.
static TURN: Semaphore = Semaphore::const_new(2);

/// Where something was written just now, it is looked again after this time, so often.
const QUIET: Duration = Duration::from_millis(300);
const ROUNDS: u32 = 4;

/// What is known from one look to the next.
pub(super) struct Memory {
    sets: FileSets,
    /// The replica was asked for its newest set.
    is_listed: bool,
    newest: Option<(FileSetName, FileSet)>,
    /// Files as they were read last: with the same facts they are the same.
    read: BTreeMap<RelativePath, (Facts, IncludedFile)>,
    /// Put, and in no set yet.
    put: BTreeSet<BlobHash>,
}

impl Memory {
    pub fn new(replica: &Replica) -> Memory {
        let sets = FileSets::new(replica.store().clone());
        Memory { sets, is_listed: false, newest: None, read: BTreeMap::new(), put: BTreeSet::new() }
    }

    pub fn newest(&self) -> Option<(Txid, TimeMs, usize)> {
        self.newest.as_ref().map(|(name, set)| (name.txid, name.time, set.files.len()))
    }

    /// The blobs of the newest set are in the replica: it is never pruned.
    fn has(&self, hash: BlobHash) -> bool {
        self.put.contains(&hash)
            || self.newest.iter().any(|(_, set)| set.files.iter().any(|file| file.bytes > 0 && file.hash == hash))
    }
}

/// Why a look came to nothing.
pub(super) enum Problem {
    Final(Final),
    /// Worth another try later. The kind is for counting.
    Failed {
        kind: &'static str,
        text: String,
    },
}

impl From<ReplicaError> for Problem {
    fn from(error: ReplicaError) -> Problem {
        Problem::Failed { kind: error.kind(), text: error.to_string() }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        ReplicaError::Store(error).into()
    }
}

impl From<JoinError> for Problem {
    fn from(error: JoinError) -> Problem {
        failed(error)
    }
}

fn failed(text: impl ToString) -> Problem {
    Problem::Failed { kind: "include", text: text.to_string() }
}

pub(super) struct Take {
    pub shared: Arc<Shared>,
    pub index: usize,
    pub generation: Generation,
    /// Ours, as claimed.
    pub term: Term,
    pub include: Include,
    pub memory: Memory,
}

impl Take {
    pub async fn run(mut self) -> (Memory, Result<Vec<LeftOut>, Problem>) {
        let result = self.attempt().await;
        (self.memory, result)
    }

    fn replica(&self) -> &Replica {
        &self.shared.replicas[self.index]
    }

    /// What is left out.
    async fn attempt(&mut self) -> Result<Vec<LeftOut>, Problem> {
        let (mut look, captured, now) = self.look().await?;
        if !self.memory.is_listed {
            self.ask_for_newest(captured.txid).await?;
        }
        let set = self.read_all(&mut look, now).await?;
        let is_same = match &self.memory.newest {
            Some((_, newest)) => newest.is_same(&set),
            None => set.files.is_empty(),
        };
        if !is_same {
            self.put(captured, now, set).await?;
        }
        Ok(look.left_out)
    }

    /// The files, and the newest commit and the moment before they were looked at: none of them is older than the commit that it is kept
    /// with. What is being written at this moment is given a little time.
    async fn look(&self) -> Result<(Look, Place, TimeMs), Problem> {
        let mut round = 1;
        loop {
            let status = self.shared.status.snapshot();
            let captured = status.generation.map(|generation| Place { generation, txid: status.captured });
            let Some(captured) = captured.filter(|place| place.generation == self.generation) else {
                return Err(failed("another generation begins"));
            };
            let now = (self.shared.clock)();
            let (place, include) = (self.place(), self.include.clone());
            let look = tokio::task::spawn_blocking(move || include::look(&place, &include)).await?;
            let look = look.map_err(|error| failed(format_args!("cannot look at the folder: {error}")))?;
            if round == ROUNDS || !look.files.iter().any(|seen| seen.facts.is_fresh(now)) {
                return Ok((look, captured, now));
            }
            round += 1;
            tokio::time::sleep(QUIET).await;
        }
    }

    fn place(&self) -> include::Place {
        let settings = &self.shared.settings;
        include::Place { database: settings.path.clone(), state_dir: settings.state_dir.clone() }
    }

    /// Once for each process and generation. What a writer before this one had of commits that are not in this history is not looked at.
    async fn ask_for_newest(&mut self, captured: Txid) -> Result<(), Problem> {
        let (mut sets, _) = self.memory.sets.list(self.generation).await?;
        sets.retain(|listed| listed.name.txid <= captured);
        if sets.iter().any(|listed| listed.name.term < self.term) {
            sets = living(&sets, &self.replica().inventory(self.generation).await?);
        }
        if let Some(listed) = sets.last() {
            match self.memory.sets.read(listed.name).await {
                Ok(set) => self.memory.newest = Some((listed.name, set)),
                Err(FileSetError::Store(error)) => return Err(error.into()),
                // A new one is put beside it, and says everything anew.
                Err(error) => {
                    tracing::warn!(replica = self.replica().describe(), "{error}");
                    self.shared.status.replica_error(self.index, "include", &error);
                    self.memory.newest = Some((listed.name, FileSet::default()));
                }
            }
        }
        self.memory.is_listed = true;
        Ok(())
    }

    /// The files as they are now, the content of each of them in the replica.
    async fn read_all(&mut self, look: &mut Look, now: TimeMs) -> Result<FileSet, Problem> {
        let (mut files, mut read, mut total) = (Vec::new(), BTreeMap::new(), 0);
        for seen in std::mem::take(&mut look.files) {
            let file = match self.read(&seen).await? {
                Ok((facts, file)) => {
                    if facts.is_settled(now) {
                        read.insert(seen.path.clone(), (facts, file.clone()));
                    }
                    Some(file)
                }
                // Gone since it was found.
                Err(Why::Missing) => None,
                Err(why) => {
                    let is_changing = why == Why::Changing;
                    look.leave_out(&seen.path, why);
                    let before = self.memory.newest.as_ref().and_then(|(_, set)| set.find(&seen.path));
                    before.filter(|_| is_changing).cloned()
                }
            };
            let Some(file) = file else { continue };
            total += file.bytes;
            if total > MAX_SET_BYTES {
                total -= file.bytes;
                look.leave_out(&file.path, Why::NoRoom);
                continue;
            }
            files.push(file);
        }
        self.memory.read = read;
        Ok(FileSet::new(files))
    }

    /// A file, from memory where it did not change. The inner error keeps it out of the set.
    async fn read(&mut self, seen: &Seen) -> Result<Result<(Facts, IncludedFile), Why>, Problem> {
        if let Some((facts, file)) = self.memory.read.get(&seen.path).filter(|(facts, _)| *facts == seen.facts)
            && (file.bytes == 0 || self.memory.has(file.hash))
        {
            return Ok(Ok((*facts, file.clone())));
        }
        let _turn = TURN.acquire().await.map_err(failed)?;
        let (place, path) = (self.place(), seen.path.clone());
        let read = tokio::task::spawn_blocking(move || {
            let Content { bytes, facts } = include::read(&place, &path)?;
            let file = IncludedFile::new(path, facts.mode, facts.modified(), &bytes);
            Ok((facts, file, bytes))
        });
        let (facts, file, bytes) = match read.await? {
            Ok(read) => read,
            Err(why) => return Ok(Err(why)),
        };
        if file.bytes > 0 && !self.memory.has(file.hash) {
            let object = tokio::task::spawn_blocking(move || encode_blob(&bytes)).await?;
            let object = object.map_err(|error: SegmentError| failed(error))?;
            self.memory.sets.put_blob(self.generation, file.hash, object).await?;
            self.memory.put.insert(file.hash);
        }
        Ok(Ok((facts, file)))
    }

    /// Makes a set visible: when its commit is in the replica, nobody else has taken over, and all its blobs are there.
    async fn put(&mut self, captured: Place, now: TimeMs, set: FileSet) -> Result<(), Problem> {
        set.check().map_err(failed)?;
        let index = self.index;
        self.shared.status.wait_for(|status| status.replicas[index].shipped >= captured).await;
        let newest = self.replica().terms(self.generation).await?.last().copied();
        if let Some(newest) = newest.filter(|newest| *newest > self.term) {
            let replica = self.replica().describe();
            return Err(Problem::Final(Final::Fenced(format!(
                "another writer claimed term {} of {replica}",
                newest.0
            ))));
        }
        let (generation, term) = (self.generation, self.term);
        if !spare_blobs(self.replica(), generation, &set.blobs(), (self.shared.clock)(), SETTLE).await? {
            // Whatever they are, all of them are put again.
            let name = self.memory.newest.as_ref().map(|(name, _)| *name);
            self.memory.newest = name.map(|name| (name, FileSet::default()));
            self.memory.put.clear();
            return Err(failed("some of what is needed was pruned by somebody else"));
        }
        let after = self.memory.newest.as_ref().map_or(TimeMs(0), |(name, _)| TimeMs(name.time.0.saturating_add(1)));
        let time = now.max(after).min(TimeMs::MAX);
        let moment = Moment { generation, txid: captured.txid, term, time };
        let name = self.memory.sets.put(moment, &set).await?;
        let (replica, files, bytes) = (self.replica().describe(), set.files.len(), set.total_bytes());
        tracing::info!(
            replica,
            files,
            bytes,
            commit = name.txid.0,
            "the files beside the database are kept as they are now"
        );
        self.memory.newest = Some((name, set));
        self.memory.put.clear();
        Ok(())
    }
}
