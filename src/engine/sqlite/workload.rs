//! A writer for demonstrations: an ordinary application as far as SQLite is concerned, which notes in a ledger what the
//! database held after each of its commits. It knows nothing of replication.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, params};

use crate::checksum::page_hash;
use crate::position::TimeMs;

#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    #[error("the writer's database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("the writer's ledger: {0}")]
    Io(#[from] std::io::Error),
    #[error("line {0} of the ledger is not one of ours")]
    Ledger(usize),
}

/// What a database of the writer holds: equal exactly when every row of it is.
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

/// How the writer goes about it.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub commits_per_second: u32,
    pub seed: u64,
}

const SCHEMA: &str = "
    CREATE TABLE note (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
    CREATE INDEX note_length ON note (length(body));
    CREATE TABLE progress (id INTEGER PRIMARY KEY CHECK (id = 1), sequence INTEGER NOT NULL);
    INSERT INTO progress VALUES (1, 0);
";

/// Creates the database and commits to it until `stop` is set; returns the number of commits.
pub fn write(
    database: &Path,
    ledger: &Path,
    pace: Pace,
    clock: &dyn Fn() -> TimeMs,
    stop: &AtomicBool,
) -> Result<i64, WorkloadError> {
    let mut connection = Connection::open(database)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.busy_timeout(Duration::from_secs(10))?;
    let mut ledger = File::create(ledger)?;
    let mut random = Random(pace.seed);
    let mut content = Content::default();
    connection.execute_batch(&format!("BEGIN;{SCHEMA}COMMIT;"))?;
    let pause = Duration::from_secs(1) / pace.commits_per_second.max(1);
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let after = change(&transaction, content, &mut random)?;
        if random.below(20) == 0 {
            // What is rolled back must never be seen in a restored database.
            transaction.rollback()?;
            continue;
        }
        let before = clock();
        transaction.commit()?;
        content = after;
        let entry = Entry { before, after: clock(), content };
        writeln!(ledger, "{entry}")?;
        next += pause;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    ledger.sync_all()?;
    Ok(content.sequence)
}

/// One transaction: mostly a few rows, now and then hundreds; inserts, updates and deletions.
fn change(tx: &Transaction<'_>, mut content: Content, random: &mut Random) -> Result<Content, WorkloadError> {
    content.sequence += 1;
    tx.execute("UPDATE progress SET sequence = ?1", params![content.sequence])?;
    let steps = if random.below(25) == 0 { 200 + random.below(400) } else { 1 + random.below(8) };
    let mut last_id: i64 = tx.query_row("SELECT coalesce(max(id), 0) FROM note", [], |row| row.get(0))?;
    for _ in 0..steps {
        let some_id = 1 + i64::try_from(random.below(last_id.unsigned_abs() + 1)).unwrap_or(0);
        match random.below(10) {
            0..6 => {
                last_id += 1;
                let body = random.bytes();
                tx.prepare_cached("INSERT INTO note VALUES (?1, ?2)")?.execute(params![last_id, body])?;
                content.rows += 1;
                content.hash ^= row_hash(last_id, &body);
            }
            6..9 => {
                if let Some(old) = body_of(tx, some_id)? {
                    let body = random.bytes();
                    tx.prepare_cached("UPDATE note SET body = ?2 WHERE id = ?1")?.execute(params![some_id, body])?;
                    content.hash ^= row_hash(some_id, &old) ^ row_hash(some_id, &body);
                }
            }
            _ => {
                if let Some(old) = body_of(tx, some_id)? {
                    tx.prepare_cached("DELETE FROM note WHERE id = ?1")?.execute(params![some_id])?;
                    content.rows -= 1;
                    content.hash ^= row_hash(some_id, &old);
                }
            }
        }
    }
    Ok(content)
}

fn body_of(connection: &Connection, id: i64) -> Result<Option<Vec<u8>>, WorkloadError> {
    let mut statement = connection.prepare_cached("SELECT body FROM note WHERE id = ?1")?;
    let mut rows = statement.query(params![id])?;
    Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
}

fn row_hash(id: i64, body: &[u8]) -> u64 {
    page_hash(id.unsigned_abs(), body)
}

/// What a database holds, counted row by row through SQL.
pub fn read(database: &Path) -> Result<Content, WorkloadError> {
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let sequence = connection.query_row("SELECT sequence FROM progress", [], |row| row.get(0))?;
    let mut content = Content { sequence, rows: 0, hash: 0 };
    let mut statement = connection.prepare("SELECT id, body FROM note")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (id, body): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
        content.rows += 1;
        content.hash ^= row_hash(id, &body);
    }
    Ok(content)
}

/// Every finished line of a ledger; one that is just being written is left out.
pub fn read_ledger(ledger: &Path) -> Result<Vec<Entry>, WorkloadError> {
    let text = std::fs::read_to_string(ledger)?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |(number, line): (usize, &str)| line.parse().map_err(|()| WorkloadError::Ledger(number + 1));
    whole.lines().enumerate().map(parse).collect()
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Content { sequence, rows, hash } = self.content;
        write!(f, "{sequence} {} {} {rows} {hash:016x}", self.before.0, self.after.0)
    }
}

impl FromStr for Entry {
    type Err = ();

    fn from_str(line: &str) -> Result<Entry, ()> {
        let fields: Vec<&str> = line.split(' ').collect();
        let [sequence, before, after, rows, hash] = fields.as_slice() else { return Err(()) };
        Ok(Entry {
            before: TimeMs(before.parse().map_err(|_| ())?),
            after: TimeMs(after.parse().map_err(|_| ())?),
            content: Content {
                sequence: sequence.parse().map_err(|_| ())?,
                rows: rows.parse().map_err(|_| ())?,
                hash: u64::from_str_radix(hash, 16).map_err(|_| ())?,
            },
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The last line of the ledger is what the database holds, and every line reads back.
    #[test]
    fn the_ledger_tells_the_truth() {
        let folder = tempfile::tempdir().unwrap();
        let (database, ledger) = (folder.path().join("a.db"), folder.path().join("ledger"));
        let ticks = std::cell::Cell::new(0);
        let stop = AtomicBool::new(false);
        let clock = || {
            ticks.set(ticks.get() + 1);
            stop.store(ticks.get() >= 200, Ordering::Relaxed);
            TimeMs(ticks.get())
        };
        let commits = write(&database, &ledger, Pace { commits_per_second: 100_000, seed: 7 }, &clock, &stop).unwrap();
        let entries = read_ledger(&ledger).unwrap();
        assert_eq!(entries.len(), 100);
        assert_eq!(commits, 100);
        assert_eq!(entries.last().unwrap().content, read(&database).unwrap());
        assert!(entries.iter().all(|entry| entry.to_string().parse() == Ok(*entry)));
    }
}
