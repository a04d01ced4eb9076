//! Writers for demonstrations: ordinary applications as far as their engine is concerned, which note in a ledger what the
//! database held after each of their commits. They know nothing of replication. Here is what they share.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::checksum::page_hash;
use crate::position::TimeMs;

#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    #[error("the writer's database: {0}")]
    Database(String),
    #[error("the writer's ledger: {0}")]
    Io(#[from] std::io::Error),
    #[error("line {0} of the ledger is not one of ours")]
    Ledger(usize),
}

/// What a database of a writer holds: equal exactly when every row of it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Content {
    /// Number of the writer's transaction that left this.
    pub sequence: i64,
    pub rows: i64,
    /// XOR over the hashes of all rows, so that the writer can carry it along.
    pub hash: u64,
}

/// One line of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Just before COMMIT was called, and just after it returned.
    pub before: TimeMs,
    pub after: TimeMs,
    pub content: Content,
}

/// How a writer goes about it.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub commits_per_second: u32,
    pub seed: u64,
}

/// A connection to a writer's database: all that its engine decides. The tables are `note (id, body)` and `progress (sequence)`.
pub trait Notes {
    /// How a transaction begins.
    const BEGIN: &'static str;
    /// Rows that a large transaction changes: at least this many, and up to so many more.
    const LARGE: (u64, u64);

    fn run(&self, sql: &str) -> Result<(), WorkloadError>;
    fn sequence(&self) -> Result<i64, WorkloadError>;
    fn set_sequence(&self, sequence: i64) -> Result<(), WorkloadError>;
    /// 0 when there is none.
    fn last_id(&self) -> Result<i64, WorkloadError>;
    fn body_of(&self, id: i64) -> Result<Option<Vec<u8>>, WorkloadError>;
    fn insert(&self, id: i64, body: &[u8]) -> Result<(), WorkloadError>;
    fn update(&self, id: i64, body: &[u8]) -> Result<(), WorkloadError>;
    fn delete(&self, id: i64) -> Result<(), WorkloadError>;
    /// Tells every row.
    fn rows(&self, each: &mut dyn FnMut(i64, &[u8])) -> Result<(), WorkloadError>;
}

/// Commits to an empty database until `stop` is set; returns the number of commits.
pub fn write(
    notes: &impl Notes,
    ledger: &Path,
    pace: Pace,
    clock: &dyn Fn() -> TimeMs,
    stop: &AtomicBool,
) -> Result<i64, WorkloadError> {
    let mut ledger = File::create(ledger)?;
    let mut random = Random(pace.seed);
    let mut content = Content::default();
    let pause = Duration::from_secs(1) / pace.commits_per_second.max(1);
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let after = transaction(notes, content, &mut random)?;
        if random.below(20) == 0 {
            // What is rolled back must never be seen in a restored database.
            notes.run("ROLLBACK")?;
            continue;
        }
        let before = clock();
        notes.run("COMMIT")?;
        content = after;
        let entry = Entry { before, after: clock(), content };
        writeln!(ledger, "{entry}")?;
        next += pause;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    ledger.sync_all()?;
    Ok(content.sequence)
}

/// One transaction, left open: mostly a few rows, now and then many; inserts, updates and deletions.
fn transaction<N: Notes>(notes: &N, mut content: Content, random: &mut Random) -> Result<Content, WorkloadError> {
    notes.run(N::BEGIN)?;
    content.sequence += 1;
    notes.set_sequence(content.sequence)?;
    let steps = if random.below(25) == 0 { N::LARGE.0 + random.below(N::LARGE.1) } else { 1 + random.below(8) };
    let mut last_id = notes.last_id()?;
    for _ in 0..steps {
        let some_id = 1 + i64::try_from(random.below(last_id.unsigned_abs() + 1)).unwrap_or(0);
        match random.below(10) {
            0..6 => {
                last_id += 1;
                let body = random.bytes();
                notes.insert(last_id, &body)?;
                content.rows += 1;
                content.hash ^= row_hash(last_id, &body);
            }
            6..9 => {
                if let Some(old) = notes.body_of(some_id)? {
                    let body = random.bytes();
                    notes.update(some_id, &body)?;
                    content.hash ^= row_hash(some_id, &old) ^ row_hash(some_id, &body);
                }
            }
            _ => {
                if let Some(old) = notes.body_of(some_id)? {
                    notes.delete(some_id)?;
                    content.rows -= 1;
                    content.hash ^= row_hash(some_id, &old);
                }
            }
        }
    }
    Ok(content)
}

/// What a database holds, counted row by row through SQL.
pub fn read(notes: &impl Notes) -> Result<Content, WorkloadError> {
    let mut content = Content { sequence: notes.sequence()?, rows: 0, hash: 0 };
    notes.rows(&mut |id, body| {
        content.rows += 1;
        content.hash ^= row_hash(id, body);
    })?;
    Ok(content)
}

fn row_hash(id: i64, body: &[u8]) -> u64 {
    page_hash(id.unsigned_abs(), body)
}

/// Every finished line of a ledger; one that is just being written is left out.
pub fn read_ledger(ledger: &Path) -> Result<Vec<Entry>, WorkloadError> {
    let text = std::fs::read_to_string(ledger)?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |(number, line): (usize, &str)| line.parse().map_err(|()| WorkloadError::Ledger(number + 1));
    whole.lines().enumerate().map(parse).collect()
}

impl std::fmt::Display for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {:016x}", self.sequence, self.rows, self.hash)
    }
}

impl FromStr for Content {
    type Err = ();

    fn from_str(text: &str) -> Result<Content, ()> {
        let fields: Vec<&str> = text.split(' ').collect();
        let [sequence, rows, hash] = fields.as_slice() else { return Err(()) };
        Ok(Content {
            sequence: sequence.parse().map_err(|_| ())?,
            rows: rows.parse().map_err(|_| ())?,
            hash: u64::from_str_radix(hash, 16).map_err(|_| ())?,
        })
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.before.0, self.after.0, self.content)
    }
}

impl FromStr for Entry {
    type Err = ();

    fn from_str(line: &str) -> Result<Entry, ()> {
        let mut fields = line.splitn(3, ' ');
        let (Some(before), Some(after), Some(content)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(());
        };
        Ok(Entry {
            before: TimeMs(before.parse().map_err(|_| ())?),
            after: TimeMs(after.parse().map_err(|_| ())?),
            content: content.parse()?,
        })
    }
}

/// SplitMix64: repeatable from its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = 20 + self.below(400);
        // Words repeat, as they do in real data.
        let words = [b"alpha ", b"beta  ", b"gamma ", b"delta "];
        let mut bytes = self.next().to_le_bytes().to_vec();
        while (bytes.len() as u64) < length {
            bytes.extend_from_slice(words[self.below(4) as usize]);
        }
        bytes
    }
}
