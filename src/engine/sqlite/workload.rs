//! A writer for demonstrations, of SQLite.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, params};

use crate::engine::workload::{Content, Entry, Pace, Random, WorkloadError, row_hash};
use crate::position::TimeMs;

impl From<rusqlite::Error> for WorkloadError {
    fn from(error: rusqlite::Error) -> WorkloadError {
        WorkloadError::Database(error.to_string())
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::workload::read_ledger;

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
