//! The seam to a database engine: what must be known about one file format to capture it and to check a restored file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::checksum::PageMap;
use crate::extent::{Extent, PageGrid};
use crate::position::{CommitKind, Lengths, ParseError, RepairReason, Txid};

pub mod choice;
pub mod duckdb;
pub mod head;
pub mod sqlite;
pub mod workload;

/// The engines that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineKind {
    Sqlite,
    Duckdb,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EngineKind::Sqlite => "sqlite",
            EngineKind::Duckdb => "duckdb",
        })
    }
}

impl FromStr for EngineKind {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "sqlite" => Ok(EngineKind::Sqlite),
            "duckdb" => Ok(EngineKind::Duckdb),
            _ => Err(ParseError { expected: "an engine (sqlite or duckdb)", found: text.chars().take(64).collect() }),
        }
    }
}

/// From where capture goes on: what the newest segment says of itself, and the page map as of that commit.
#[derive(Debug, Clone)]
pub struct Resume {
    pub txid: Txid,
    pub lengths: Lengths,
    /// The engine's own position, as it handed it to `TransactionSink::commit`; versioned by the engine.
    pub position: Vec<u8>,
    pub page_map: PageMap,
    /// What the source said of the files when this process let go of them, where they were at rest: it proves later that nothing
    /// happened meanwhile but what the engine's log holds.
    pub rested: Option<Vec<u8>>,
    /// Set when the caller knows already that single commits were lost or that the database fell behind the replica:
    /// the engine then repairs, with this reason, even if it could prove continuity.
    pub repair: Option<RepairReason>,
}

/// A commit as the engine reports it; the sink gives it its txid and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewCommit<'a> {
    pub lengths: Lengths,
    pub checksum: u64,
    pub kind: CommitKind,
    /// Where capture resumes after this commit: the engine's own bytes, at most `MAX_POSITION_BYTES`.
    pub position: &'a [u8],
}

/// Bytes of an engine's position; what a reader accepts from a segment.
pub const MAX_POSITION_BYTES: usize = 4096;

/// Takes captured transactions, oldest first. Implemented by the open segment in the spool.
///
/// Order of calls: `begin`, any number of `extent` and `page`, `commit`; or `begin`, …, `abandon`.
pub trait TransactionSink {
    /// A transaction begins in a file divided like this.
    fn begin(&mut self, grid: PageGrid) -> Result<(), SinkError>;
    fn extent(&mut self, extent: Extent<'_>) -> Result<(), SinkError>;
    /// The page's hash after this transaction; once for every page of the main file that it changed.
    fn page(&mut self, page: u64, hash: u64) -> Result<(), SinkError>;
    fn commit(&mut self, commit: NewCommit<'_>) -> Result<Txid, SinkError>;
    /// Forgets what came since `begin`.
    fn abandon(&mut self);
    /// Everything committed to this sink so far survives a crash and a power cut when this returns. The engine calls it
    /// before it lets go of anything that it could not read a second time.
    fn persist(&mut self) -> Result<(), SinkError>;
}

/// Takes a full copy of the main file, in ascending order of offsets. Whole pages; zero pages may be left out.
pub trait ExtentSink {
    fn extent(&mut self, extent: Extent<'_>) -> Result<(), SinkError>;
}

/// Why a sink took nothing more.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The spool's bound or the disk is full; capture must let go of the database and repair later.
    #[error(
        "the spool is full ({used_bytes} of {limit_bytes} bytes): make room or raise spool-limit; capture goes on by itself then"
    )]
    Full { used_bytes: u64, limit_bytes: u64 },
    #[error("cannot write to the spool: {0}")]
    Io(#[from] std::io::Error),
    /// The receiving side was shut down.
    #[error("the receiving side is gone")]
    Closed,
}

/// What one look at the database brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Poll {
    /// Commits handed to the sink.
    pub commits: u64,
    /// When to look again even if no file event arrives: short while something is in flight (a commit that is written but
    /// not published, a checkpoint of the application that waits for us), `None` when only an event can bring news.
    pub again_in: Option<Duration>,
    /// The first full read of the database is still going on: no commit can be handed out yet. Bytes done and in all.
    pub first_read: Option<(u64, u64)>,
    /// Everything that was committed when this look began has been handed out, if this look brought nothing. `false` where
    /// something kept it from looking, and a commit may be waiting.
    pub is_level: bool,
    /// Bytes of the engine's own WAL, for the metrics.
    pub wal_bytes: u64,
    /// Checkpoints that were seen to have ended since the last look; of several in a row, at least one.
    pub checkpoints: u64,
}

/// How far a full copy has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The slice `[start, end)` of the main file was handed out whole.
    Slice { start: u64, end: u64, total: u64 },
    /// The copy is complete.
    Done,
}

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// There is no database yet; look again when a file event arrives.
    #[error("{} does not exist yet", path.display())]
    Absent { path: PathBuf },
    /// The database cannot be captured as it is. Not final: the state may change.
    #[error("{reason}; {next_step}")]
    NotCapturable { reason: String, next_step: &'static str },
    /// Another process holds a lock that we need for a moment; try again soon.
    #[error("the database is busy: {0}")]
    Busy(String),
    /// Continuity is lost: drop this source and open it anew with a `Resume`; `open` then repairs.
    #[error("capture lost its place: {detail}")]
    Gap { reason: RepairReason, detail: String },
    /// The bytes of the database contradict themselves.
    #[error("the database is damaged: {0}")]
    Damaged(String),
    #[error("{context}: {source}")]
    Io { context: String, source: std::io::Error },
    #[error(transparent)]
    Sink(#[from] SinkError),
}

/// What `replicate` must know about one database file format.
pub trait Engine: Send + Sync {
    fn kind(&self) -> EngineKind;
    /// Do these first bytes of a file (at least 100 unless the file is shorter) belong to this engine?
    fn recognises(&self, head: &[u8]) -> bool;
    /// Begins capture at `resume`, or anew. What cannot be proven to connect to `resume` arrives as a repairing commit
    /// with the first polls; without `resume` the first commit is `CommitKind::Initial` and has no extents.
    fn open(&self, path: &Path, resume: Option<Resume>) -> Result<Box<dyn Source>, EngineError>;
    /// Proves with the engine itself that a restored file is sound. Never given a live file.
    fn check(&self, database: &Path) -> Result<(), EngineError>;
    /// Makes a restored database that passed its check one file, where the engine's own WAL came as a file of its own.
    /// `true` when a WAL stays beside it all the same: the pair is what the engine opens. Never given a live file.
    fn fold(&self, database: &Path) -> Result<bool, EngineError>;
    /// Puts questions in SQL to a restored database, read-only; one answer for each. Never given a live file.
    fn ask(&self, database: &Path, questions: &[String]) -> Result<Vec<Answer>, EngineError>;
}

/// What a question to a database came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The value of the one row and column that came, as text; no longer than `MAX_ANSWER_CHARS`.
    Value(String),
    /// What happened instead: no row, several of them, or an error.
    Other(String),
}

impl Answer {
    /// From the values of the first column of what came, as far as it was read, and the number of columns.
    pub fn of(columns: usize, values: Vec<String>) -> Answer {
        match (columns, <[String; 1]>::try_from(values)) {
            (1, Ok([value])) => Answer::Value(value.chars().take(MAX_ANSWER_CHARS).collect()),
            (1, Err(values)) if values.is_empty() => Answer::Other("no row came".to_owned()),
            (1, Err(_)) => Answer::Other("several rows came".to_owned()),
            (columns, _) => Answer::Other(format!("{columns} columns came")),
        }
    }
}

/// Characters of an answer that are kept.
pub const MAX_ANSWER_CHARS: usize = 200;
/// How long one question may take.
pub const QUESTION_TIMEOUT: Duration = Duration::from_secs(600);

/// A live database being captured. Blocking; used by one thread at a time. Never writes to the database.
pub trait Source: Send {
    /// Hands every transaction committed since the last call to `sink`, oldest first, within a budget of its own.
    fn poll(&mut self, sink: &mut dyn TransactionSink) -> Result<Poll, EngineError>;
    /// Begins a full copy as of the last captured commit, in place of one already begun.
    fn snapshot_start(&mut self) -> Result<SnapshotStart, EngineError>;
    /// Hands the next slice of the copy to `sink`: always a whole `SNAPSHOT_SLICE_BYTES` range (the last may be
    /// shorter). Each page is as of some commit between the copy's first and its last captured one, so that the
    /// transactions captured meanwhile, laid over it, make it exact. No lock is held for its length.
    fn snapshot_slice(&mut self, sink: &mut dyn ExtentSink) -> Result<Progress, EngineError>;
    /// From now on it takes no lock that a writer could wait for, whatever that costs. An engine that never does has nothing to change.
    fn never_lock(&mut self) {}
    /// Before this source is let go of for a while: what a later `Resume` of the same process should know of the files.
    fn rest(&mut self) -> Option<Vec<u8>> {
        None
    }
    /// The page map as of the last captured commit; `None` until the first full read is done.
    fn page_map(&self) -> Option<&PageMap>;
}

/// Where a full copy begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotStart {
    /// Bytes that it will cover unless the database grows or shrinks meanwhile.
    pub total: u64,
    pub grid: PageGrid,
    /// The commit after which transactions have to be laid over the copy, where that is earlier than the last captured
    /// one: a copy of the main file holds nothing of a WAL that travels as a file of its own.
    pub base: Option<Txid>,
}

/// Bytes of the main file in one slice of a full copy, and so in one part of a snapshot.
pub const SNAPSHOT_SLICE_BYTES: u64 = 4 * 1024 * 1024;
