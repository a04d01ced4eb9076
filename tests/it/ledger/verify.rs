//! Compares a restored database with what the writers recorded.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::writer::row_weight;

/// What a writer recorded of one commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub sum: i64,
    /// The commit happened between these two moments, Unix milliseconds.
    pub before_ms: u64,
    pub after_ms: u64,
}

/// All ledgers together: commit number → what was recorded.
pub struct Ledger(pub BTreeMap<i64, Entry>);

impl Ledger {
    /// Reads what complete lines the files hold. Panics if two of them contradict each other.
    pub fn read(files: &[PathBuf]) -> Ledger {
        let mut entries = BTreeMap::new();
        for file in files {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
                let numbers: Vec<i64> = line.split_whitespace().map(|n| n.parse().expect("a number")).collect();
                let entry = Entry { sum: numbers[1], before_ms: numbers[2] as u64, after_ms: numbers[3] as u64 };
                assert_eq!(entries.insert(numbers[0], entry), None, "commit {} was recorded twice", numbers[0]);
            }
        }
        Ledger(entries)
    }

    pub fn last(&self) -> i64 {
        self.0.last_key_value().map_or(0, |(seq, _)| *seq)
    }
}

/// Proves that a restored database is sound in itself and equals what was recorded for its commit; returns the commit's
/// number. A commit whose writer was killed before it could record it is compared with its own sum only.
pub fn verify(database: &Path, ledger: &Ledger) -> i64 {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let uri = format!("file:{}?immutable=1", database.display());
    let connection = Connection::open_with_flags(uri, flags).expect("restored database opens");
    let report: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("integrity check runs");
    assert_eq!(report, "ok", "{}", database.display());
    let (seq, recorded): (i64, i64) = connection
        .query_row("SELECT seq, sum FROM account", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .expect("account is there");
    let mut statement = connection.prepare("SELECT id, value FROM item").expect("items are there");
    let mut rows = statement.query([]).expect("items are read");
    let mut sum = 0i64;
    while let Some(row) = rows.next().expect("items are read") {
        let value: Vec<u8> = row.get(1).expect("a value");
        sum = sum.wrapping_add(row_weight(row.get(0).expect("an id"), &value));
    }
    assert_eq!(sum, recorded, "the content of commit {seq} contradicts itself in {}", database.display());
    if let Some(entry) = ledger.0.get(&seq) {
        assert_eq!(sum, entry.sum, "commit {seq} is not what its writer recorded");
    }
    seq
}
