//! A writer for demonstrations, of SQLite.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, params};

use crate::engine::workload::{self, Content, Notes, Pace, WorkloadError};
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
    let connection = Connection::open(database)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.execute_batch(&format!("BEGIN;{SCHEMA}COMMIT;"))?;
    workload::write(&connection, ledger, pace, clock, stop)
}

pub fn read(database: &Path) -> Result<Content, WorkloadError> {
    workload::read(&Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?)
}

impl Notes for Connection {
    const BEGIN: &'static str = "BEGIN IMMEDIATE";
    const LARGE: (u64, u64) = (200, 400);

    fn run(&self, sql: &str) -> Result<(), WorkloadError> {
        Ok(self.execute_batch(sql)?)
    }

    fn sequence(&self) -> Result<i64, WorkloadError> {
        Ok(self.query_row("SELECT sequence FROM progress", [], |row| row.get(0))?)
    }

    fn set_sequence(&self, sequence: i64) -> Result<(), WorkloadError> {
        self.execute("UPDATE progress SET sequence = ?1", params![sequence])?;
        Ok(())
    }

    fn last_id(&self) -> Result<i64, WorkloadError> {
        Ok(self.query_row("SELECT coalesce(max(id), 0) FROM note", [], |row| row.get(0))?)
    }

    fn body_of(&self, id: i64) -> Result<Option<Vec<u8>>, WorkloadError> {
        let mut statement = self.prepare_cached("SELECT body FROM note WHERE id = ?1")?;
        let mut rows = statement.query(params![id])?;
        Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
    }

    fn insert(&self, id: i64, body: &[u8]) -> Result<(), WorkloadError> {
        self.prepare_cached("INSERT INTO note VALUES (?1, ?2)")?.execute(params![id, body])?;
        Ok(())
    }

    fn update(&self, id: i64, body: &[u8]) -> Result<(), WorkloadError> {
        self.prepare_cached("UPDATE note SET body = ?2 WHERE id = ?1")?.execute(params![id, body])?;
        Ok(())
    }

    fn delete(&self, id: i64) -> Result<(), WorkloadError> {
        self.prepare_cached("DELETE FROM note WHERE id = ?1")?.execute(params![id])?;
        Ok(())
    }

    fn rows(&self, each: &mut dyn FnMut(i64, &[u8])) -> Result<(), WorkloadError> {
        let mut statement = self.prepare("SELECT id, body FROM note")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            each(row.get(0)?, &row.get::<_, Vec<u8>>(1)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

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
