//! The proof, by SQLite itself, that a restored file is sound.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::engine::EngineError;

/// Findings that are reported; more say nothing new.
const FINDINGS_MAX: usize = 3;

/// Runs SQLite's integrity check over a file that nobody else has open. Leaves nothing beside it.
pub(super) fn check(database: &Path) -> Result<(), EngineError> {
    let failed =
        |error: rusqlite::Error| EngineError::Damaged(format!("SQLite cannot check {}: {error}", database.display()));
    // Without `immutable`, opening a database in WAL mode would create a WAL beside it.
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(immutable_uri(database), flags).map_err(failed)?;
    let mut statement = connection.prepare("PRAGMA integrity_check(3)").map_err(failed)?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).map_err(failed)?;
    let findings = rows.take(FINDINGS_MAX).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if findings == ["ok"] {
        return Ok(());
    }
    Err(EngineError::Damaged(format!("SQLite's integrity check of {}: {}", database.display(), findings.join("; "))))
}

/// The file's name as a URI, every byte that could mean something else escaped.
fn immutable_uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    if path.is_absolute() {
        uri.push_str("//");
    }
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            write!(uri, "%{byte:02x}").expect("writing to a string cannot fail");
        }
    }
    uri.push_str("?immutable=1");
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sound file in WAL mode passes and nothing is created beside it; a damaged one is refused. The name is taken literally.
    #[test]
    fn damage_is_found_and_no_file_is_left() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a?mode=rw#%20.db");
        let database = Connection::open(&path).expect("a database");
        let create = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); CREATE INDEX i ON t(x);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<2000) INSERT INTO t SELECT i FROM n";
        database.execute_batch(create).expect("content");
        drop(database);
        check(&path).expect("sound");
        assert_eq!(std::fs::read_dir(directory.path()).expect("a directory").count(), 1);
        let mut bytes = std::fs::read(&path).expect("the file");
        let half = bytes.len() / 2;
        bytes[half..half + 4096].fill(0x5a);
        std::fs::write(&path, &bytes).expect("the file");
        assert!(matches!(check(&path), Err(EngineError::Damaged(_))));
        assert!(matches!(check(&directory.path().join("none.db")), Err(EngineError::Damaged(_))));
    }
}
