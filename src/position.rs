//! Where something stands in the history of a database: generation, term, txid, commit.
//!
//! Every number orders, prints with a fixed width and parses back, so that a sorted listing of names is a history.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::extent::PageGrid;

/// A text that is not the number it should be. Carries what was expected and what was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not {expected}")]
pub struct ParseError {
    pub expected: &'static str,
    pub found: String,
}

fn parse_hex(text: &str, digits: usize, expected: &'static str) -> Result<u64, ParseError> {
    let error = || ParseError { expected, found: text.chars().take(64).collect() };
    let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() != digits || !text.bytes().all(lower_hex) {
        return Err(error());
    }
    u64::from_str_radix(text, 16).map_err(|_| error())
}

/// One unbroken history of a database. Sorts by the moment it began: 44 bits of Unix milliseconds, 20 random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl Generation {
    /// A new generation that begins at `now`; `random` keeps two that begin in the same millisecond apart.
    pub fn new(now: TimeMs, random: u32) -> Self {
        Generation((now.0 << 20) | u64::from(random & 0xF_FFFF))
    }

    /// The moment it began.
    pub fn began(self) -> TimeMs {
        TimeMs(self.0 >> 20)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Generation {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse_hex(text, 16, "a generation (16 hexadecimal digits)").map(Generation)
    }
}

/// Fencing number of a writer: every process that takes over a replica claims the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u32);

impl Term {
    pub fn next(self) -> Option<Term> {
        self.0.checked_add(1).map(Term)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl FromStr for Term {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let number = parse_hex(text, 8, "a term (8 hexadecimal digits)")?;
        u32::try_from(number).map(Term).map_err(|_| ParseError { expected: "a term", found: text.into() })
    }
}

/// Number of a captured commit within its generation: from 1, without holes. 0 stands before the first.
///
/// Displays and parses as fixed-width hexadecimal (names in a store). People read and write it in decimal: `txid:123`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Txid(pub u64);

impl Txid {
    /// Before any commit.
    pub const ZERO: Txid = Txid(0);

    /// The next commit. Panics after 2^64-1 commits, which no history reaches; numbers from disk go through
    /// `checked_next`.
    pub fn next(self) -> Txid {
        Txid(self.0.checked_add(1).expect("2^64 commits"))
    }

    pub fn checked_next(self) -> Option<Txid> {
        self.0.checked_add(1).map(Txid)
    }
}

impl fmt::Display for Txid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Txid {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse_hex(text, 16, "a txid (16 hexadecimal digits)").map(Txid)
    }
}

/// A length of time in the unit of moments; longer than any is the longest.
pub fn whole_ms(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

/// A moment: milliseconds since the Unix epoch, UTC. Displays and parses as 12 hexadecimal digits (48 bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TimeMs(pub u64);

impl TimeMs {
    /// The last moment that a name can carry: the year 10889.
    pub const MAX: TimeMs = TimeMs((1 << 48) - 1);
}

impl fmt::Display for TimeMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

impl FromStr for TimeMs {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse_hex(text, 12, "a time in milliseconds (12 hexadecimal digits)").map(TimeMs)
    }
}

/// Lengths in bytes of the database's files after a commit. `wal` is 0 for SQLite: its WAL is folded in as page writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lengths {
    pub main: u64,
    pub wal: u64,
}

/// Why a commit stands in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitKind {
    /// One transaction of the application, captured by itself.
    Captured,
    /// The state in which the database was first seen. Its content is in the first snapshot.
    Initial,
    /// Brings the replica level with the file where single commits could not be captured. Everything that was
    /// committed between the commit before it and this one is in it, but is not restorable one by one.
    Repair(RepairReason),
}

/// What cost the granularity that a repairing commit bridges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairReason {
    /// The replicator was not running, and the engine discarded log meanwhile.
    Away,
    /// A foreign checkpoint or a lost lock let the engine discard log before it was captured.
    LogDiscarded,
    /// The file was replaced, deleted and created again, or rewritten with another page size.
    FileReplaced,
    /// The replica held commits that the database no longer has (power cut, an old copy put back). They stay restorable.
    ReplicaAhead,
    /// The spool was full, so capture paused.
    SpoolFull,
}

/// One point of a history: what `--at` can name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    pub txid: Txid,
    /// When it was seen; never earlier than the commit before it.
    pub time: TimeMs,
    pub lengths: Lengths,
    /// The database checksum after it (`checksum.rs`).
    pub checksum: u64,
    pub kind: CommitKind,
    pub grid: PageGrid,
}
