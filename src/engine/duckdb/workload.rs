//! A writer for demonstrations, of DuckDB.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use duckdb::{AccessMode, Config, Connection, Transaction, params};

use crate::engine::workload::{Content, Entry, Pace, Random, WorkloadError, row_hash};
use crate::position::TimeMs;

impl From<duckdb::Error> for WorkloadError {
    fn from(error: duckdb::Error) -> WorkloadError {
        WorkloadError::Database(error.to_string())
    }
}

/// Checkpoints come often, so that the demonstration shows them too.
const SCHEMA: &str = "
    SET wal_autocheckpoint = '256KB';
    CREATE TABLE note (id BIGINT NOT NULL, body BLOB NOT NULL);
    CREATE TABLE progress (sequence BIGINT NOT NULL);
    INSERT INTO progress VALUES (0);
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
    connection.execute_batch(SCHEMA)?;
    let mut ledger = File::create(ledger)?;
    let mut random = Random(pace.seed);
    let mut content = Content::default();
    let pause = Duration::from_secs(1) / pace.commits_per_second.max(1);
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let transaction = connection.transaction()?;
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
    connection.close().map_err(|(_, error)| error)?;
    Ok(content.sequence)
}

/// One transaction: mostly a few rows, now and then a hundred; inserts, updates and deletions.
fn change(tx: &Transaction<'_>, mut content: Content, random: &mut Random) -> Result<Content, WorkloadError> {
    content.sequence += 1;
    tx.execute("UPDATE progress SET sequence = ?", params![content.sequence])?;
    let steps = if random.below(25) == 0 { 50 + random.below(100) } else { 1 + random.below(8) };
    let mut last_id: i64 = tx.query_row("SELECT coalesce(max(id), 0) FROM note", [], |row| row.get(0))?;
    for _ in 0..steps {
        let some_id = 1 + i64::try_from(random.below(last_id.unsigned_abs() + 1)).unwrap_or(0);
        match random.below(10) {
            0..6 => {
                last_id += 1;
                let body = random.bytes();
                tx.prepare_cached("INSERT INTO note VALUES (?, ?)")?.execute(params![last_id, body])?;
                content.rows += 1;
                content.hash ^= row_hash(last_id, &body);
            }
            6..9 => {
                if let Some(old) = body_of(tx, some_id)? {
                    let body = random.bytes();
                    tx.prepare_cached("UPDATE note SET body = ? WHERE id = ?")?.execute(params![body, some_id])?;
                    content.hash ^= row_hash(some_id, &old) ^ row_hash(some_id, &body);
                }
            }
            _ => {
                if let Some(old) = body_of(tx, some_id)? {
                    tx.prepare_cached("DELETE FROM note WHERE id = ?")?.execute(params![some_id])?;
                    content.rows -= 1;
                    content.hash ^= row_hash(some_id, &old);
                }
            }
        }
    }
    Ok(content)
}

fn body_of(connection: &Connection, id: i64) -> Result<Option<Vec<u8>>, WorkloadError> {
    let mut statement = connection.prepare_cached("SELECT body FROM note WHERE id = ?")?;
    let mut rows = statement.query(params![id])?;
    Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
}

/// What a database holds, counted row by row through SQL.
pub fn read(database: &Path) -> Result<Content, WorkloadError> {
    let connection = Connection::open_with_flags(database, Config::default().access_mode(AccessMode::ReadOnly)?)?;
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

    /// The last line of the ledger is what the database holds.
    #[test]
    fn the_ledger_tells_the_truth() {
        let folder = tempfile::tempdir().unwrap();
        let (database, ledger) = (folder.path().join("a.duckdb"), folder.path().join("ledger"));
        let ticks = std::cell::Cell::new(0);
        let stop = AtomicBool::new(false);
        let clock = || {
            ticks.set(ticks.get() + 1);
            stop.store(ticks.get() >= 40, Ordering::Relaxed);
            TimeMs(ticks.get())
        };
        let commits = write(&database, &ledger, Pace { commits_per_second: 100_000, seed: 7 }, &clock, &stop).unwrap();
        let entries = read_ledger(&ledger).unwrap();
        assert_eq!((entries.len(), commits), (20, 20));
        assert_eq!(entries.last().unwrap().content, read(&database).unwrap());
    }
}
