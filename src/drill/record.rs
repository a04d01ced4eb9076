//! The record of a drill, in the replica: one object for each, created once, named by its time, its outcome and its content.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::age;
use crate::checksum::content_hash;
use crate::engine::EngineKind;
use crate::layout::{DRILL_FOLDER, DrillName, ObjectName};
use crate::position::TimeMs;
use crate::restore::Restored;
use crate::store::{Body, Key, Outcome, PutMode, Store, StoreError};

const VERSION: u32 = 1;
/// Bytes of a record that are read; ours have a thousand or two.
const MAX_RECORD_BYTES: usize = 1 << 20;
/// Records that a replica keeps, the newest ones; and beyond them the newest that passed.
pub const MAX_RECORDS: usize = 1000;
/// Characters of what went wrong that are kept.
const MAX_PROBLEM_CHARS: usize = 4000;

/// What a drill came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub format: u32,
    /// Version of the program.
    pub version: String,
    pub engine: String,
    /// As it was asked for.
    pub point: String,
    pub passed: bool,
    /// Objects of the replica are missing or broken, so that this point cannot be restored.
    pub damaged: bool,
    pub problem: Option<String>,
    pub began_ms: u64,
    pub duration_ms: u64,
    pub phases: Vec<Phase>,
    pub commit: Option<RestoredCommit>,
    /// The restored file, in bytes, its WAL with it.
    pub bytes: u64,
    /// The engine has accepted the file.
    pub checked: bool,
    /// Files beside the database that were kept with the commit, each read and proven.
    #[serde(default)]
    pub files: u64,
    pub assertions: Vec<Asserted>,
}

/// A stretch of a drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    pub name: String,
    pub duration_ms: u64,
}

/// The commit that was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredCommit {
    pub generation: String,
    pub txid: u64,
    pub time_ms: u64,
    pub checksum: String,
    /// How old it was when the drill began.
    pub age_ms: u64,
}

/// An assertion and what came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asserted {
    pub name: String,
    pub sql: String,
    pub expected: String,
    pub found: String,
    pub passed: bool,
}

impl Record {
    pub(super) fn new(began: TimeMs, engine: EngineKind, point: &str) -> Record {
        Record {
            format: VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            engine: engine.to_string(),
            point: point.to_owned(),
            passed: false,
            damaged: false,
            problem: None,
            began_ms: began.0,
            duration_ms: 0,
            phases: Vec::new(),
            commit: None,
            bytes: 0,
            checked: false,
            files: 0,
            assertions: Vec::new(),
        }
    }

    pub(super) fn restored(&mut self, restored: &Restored) {
        let (plan, commit) = (&restored.plan, &restored.plan.commit);
        self.commit = Some(RestoredCommit {
            generation: plan.generation.to_string(),
            txid: commit.txid.0,
            time_ms: commit.time.0,
            checksum: format!("{:016x}", commit.checksum),
            age_ms: age(TimeMs(self.began_ms), commit.time),
        });
        (self.bytes, self.checked) = (plan.target_bytes(), restored.checked);
    }

    /// The drill is over: did it pass?
    pub(super) fn finish(&mut self, now: TimeMs) {
        self.duration_ms = now.0.saturating_sub(self.began_ms);
        let failed: Vec<&Asserted> = self.assertions.iter().filter(|assertion| !assertion.passed).collect();
        if let (None, Some(first)) = (&self.problem, failed.first()) {
            let more = if failed.len() > 1 { format!(" ({} more failed)", failed.len() - 1) } else { String::new() };
            let (name, expected, found) = (&first.name, &first.expected, &first.found);
            self.problem = Some(format!("the assertion {name:?} expects {expected}: {found}{more}"));
        }
        self.problem = self.problem.take().map(|problem| problem.chars().take(MAX_PROBLEM_CHARS).collect());
        self.passed = self.problem.is_none();
    }

    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a record is plain data")
    }
}

/// Why a record was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("{key}: {problem}")]
    Damaged { key: Key, problem: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The drills of one replica.
#[derive(Debug, Clone)]
pub struct Records {
    store: Arc<dyn Store>,
}

impl Records {
    pub fn new(store: Arc<dyn Store>) -> Records {
        Records { store }
    }

    /// Every drill of which there is a record, oldest first. One request.
    pub async fn list(&self) -> Result<Vec<DrillName>, StoreError> {
        let listing = self.store.list(DRILL_FOLDER, None).await?;
        let name = |key: &Key| match ObjectName::parse(key.as_str()) {
            Some(ObjectName::Drill(name)) => Some(name),
            _ => None,
        };
        Ok(listing.iter().filter_map(|object| name(&object.key)).collect())
    }

    pub async fn read(&self, name: DrillName) -> Result<Record, RecordError> {
        let key = ObjectName::Drill(name).key();
        let damaged = |problem: String| RecordError::Damaged { key: key.clone(), problem };
        let bytes = match self.store.get(&key, None).await {
            Err(error) if error.outcome == Outcome::NotFound => return Err(damaged("is missing".to_owned())),
            bytes => bytes?,
        };
        if bytes.len() > MAX_RECORD_BYTES || content_hash(&bytes) != name.hash {
            return Err(damaged("its content is not what its name says".to_owned()));
        }
        let record: Record =
            serde_json::from_slice(&bytes).map_err(|error| damaged(format!("is no record of a drill: {error}")))?;
        match record.format {
            VERSION => Ok(record),
            format => Err(damaged(format!("was written by a newer version (format {format})"))),
        }
    }

    /// Keeps a record, and removes those that are too many. Where nothing may be deleted, they stay.
    pub async fn put(&self, record: &Record) -> Result<Key, RecordError> {
        let bytes = record.encode();
        let time = TimeMs(record.began_ms.min(TimeMs::MAX.0));
        let name = DrillName { time, passed: record.passed, hash: content_hash(&bytes) };
        let key = ObjectName::Drill(name).key();
        match self.store.put(&key, Body::Bytes(bytes.into()), PutMode::Create).await {
            // What has this name has this content: the answer to an attempt before was lost.
            Err(error) if error.outcome != Outcome::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        let many = too_many(&self.list().await?, MAX_RECORDS);
        let many: Vec<Key> = many.into_iter().map(|name| ObjectName::Drill(name).key()).collect();
        match self.store.delete(&many).await {
            Err(error) if error.outcome != Outcome::Denied => Err(error.into()),
            _ => Ok(key),
        }
    }
}

/// Those of the records, oldest first, that need not be kept.
fn too_many(all: &[DrillName], most: usize) -> Vec<DrillName> {
    let newest_passed = all.iter().rposition(|name| name.passed);
    let old = all[..all.len().saturating_sub(most)].iter().enumerate();
    old.filter(|(at, _)| Some(*at) != newest_passed).map(|(_, name)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    fn record(began_ms: u64, problem: Option<&str>) -> Record {
        let mut record = Record::new(TimeMs(began_ms), EngineKind::Sqlite, "now");
        record.problem = problem.map(str::to_owned);
        record.finish(TimeMs(began_ms + 5));
        record
    }

    /// Records come back as they were written, in order, with their outcome in their names; one changed byte is found.
    #[tokio::test]
    async fn records_are_kept() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let records = Records::new(store.clone());
        assert_eq!(records.list().await.unwrap(), []);
        for one in [record(20, Some("broken")), record(10, None)] {
            let key = records.put(&one).await.unwrap();
            // The same again is a lost answer.
            assert_eq!(records.put(&one).await.unwrap(), key);
        }
        let names = records.list().await.unwrap();
        assert_eq!(names.iter().map(|n| (n.time.0, n.passed)).collect::<Vec<_>>(), [(10, true), (20, false)]);
        assert_eq!(records.read(names[0]).await.unwrap(), record(10, None));
        let key = ObjectName::Drill(names[1]).key();
        // Still a record, of another failure.
        let text = String::from_utf8(store.get(&key, None).await.unwrap().to_vec()).unwrap();
        let bytes = text.replace("broken", "brokem").into_bytes();
        store.put(&key, Body::Bytes(bytes.into()), PutMode::Replace).await.unwrap();
        assert!(matches!(records.read(names[1]).await, Err(RecordError::Damaged { .. })));
    }

    /// The newest are kept, and the newest that passed however old it is.
    #[test]
    fn records_are_bounded() {
        let name = |ms, passed| DrillName { time: TimeMs(ms), passed, hash: ms };
        let all = [name(1, true), name(2, true), name(3, false), name(4, false), name(5, false)];
        assert_eq!(too_many(&all, 2), [name(1, true), name(3, false)]);
        assert_eq!(too_many(&all, 5), []);
        assert_eq!(too_many(&[], 5), []);
        assert_eq!(too_many(&all[2..], 1), [name(3, false), name(4, false)]);
    }
}
