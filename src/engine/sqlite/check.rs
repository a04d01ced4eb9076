//! The proof, by SQLite itself, that a restored file is sound.

use std::ffi::{c_char, c_int, c_void};
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{ptr, slice};

use rusqlite::{Connection, OpenFlags, ffi};

use crate::engine::EngineError;

/// Findings that are reported; more say nothing new.
const FINDINGS_MAX: usize = 3;

/// Runs SQLite's integrity check over a file that nobody else has open. Leaves nothing beside it.
pub(super) fn check(database: &Path) -> Result<(), EngineError> {
    let failed =
        |error: rusqlite::Error| EngineError::Damaged(format!("SQLite cannot check {}: {error}", database.display()));
    let connection = open_immutable(database).map_err(failed)?;
    let unknown_order = AtomicBool::new(false);
    stand_in_for_collations(&connection, &unknown_order);
    let mut findings = ask(&connection, "PRAGMA integrity_check(3)").map_err(failed)?;
    if findings != ["ok"] && unknown_order.load(Ordering::Relaxed) {
        // An index in an order that only the application knows looks unsorted; all else is still checked.
        findings = ask(&connection, "PRAGMA quick_check(3)").map_err(failed)?;
    }
    if findings == ["ok"] {
        return Ok(());
    }
    Err(EngineError::Damaged(format!("SQLite's integrity check of {}: {}", database.display(), findings.join("; "))))
}

/// Opens a file that nobody else has open, to read it. Without `immutable`, opening a database in WAL mode would create a WAL
/// beside it.
pub(super) fn open_immutable(database: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(immutable_uri(database), flags)
}

fn ask(connection: &Connection, pragma: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(pragma)?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
    rows.take(FINDINGS_MAX).collect()
}

/// Lets the check run where the schema names a collation that the application defines: it is taken for the order of bytes,
/// and `asked` is set. `asked` must outlive every use of the connection.
fn stand_in_for_collations(connection: &Connection, asked: &AtomicBool) {
    unsafe extern "C" fn compare(
        _: *mut c_void,
        left_length: c_int,
        left: *const c_void,
        right_length: c_int,
        right: *const c_void,
    ) -> c_int {
        // SAFETY: SQLite hands over two strings with their lengths; an empty one may be null.
        let bytes = |text: *const c_void, length: c_int| match usize::try_from(length) {
            Ok(length) if length > 0 && !text.is_null() => unsafe { slice::from_raw_parts(text.cast::<u8>(), length) },
            _ => &[],
        };
        bytes(left, left_length).cmp(bytes(right, right_length)) as c_int
    }
    unsafe extern "C" fn needed(asked: *mut c_void, database: *mut ffi::sqlite3, encoding: c_int, name: *const c_char) {
        // SAFETY: `asked` is the AtomicBool below; the handle and the name are SQLite's own.
        unsafe {
            (*asked.cast::<AtomicBool>()).store(true, Ordering::Relaxed);
            ffi::sqlite3_create_collation_v2(database, name, encoding, ptr::null_mut(), Some(compare), None);
        }
    }
    // SAFETY: the handle is open, and the flag lives as long as the caller uses the connection.
    unsafe {
        let flag = ptr::from_ref(asked).cast_mut().cast();
        ffi::sqlite3_collation_needed(connection.handle(), flag, Some(needed));
    }
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

    extern "C" fn backwards(
        _: *mut c_void,
        left_length: c_int,
        left: *const c_void,
        right_length: c_int,
        right: *const c_void,
    ) -> c_int {
        // SAFETY: as SQLite promises for collations; the texts of this test are not empty.
        let bytes = |text: *const c_void, length: c_int| unsafe {
            slice::from_raw_parts(text.cast::<u8>(), usize::try_from(length).expect("a length"))
        };
        bytes(right, right_length).cmp(bytes(left, left_length)) as c_int
    }

    /// A collation that only the application knows does not make a sound file unsound, nor a damaged one sound.
    #[test]
    fn collations_of_the_application_are_no_damage() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.db");
        let database = Connection::open(&path).expect("a database");
        // SAFETY: the handle is open and the function needs no data.
        let code = unsafe {
            let name = c"BACKWARDS".as_ptr();
            ffi::sqlite3_create_collation_v2(
                database.handle(),
                name,
                ffi::SQLITE_UTF8,
                ptr::null_mut(),
                Some(backwards),
                None,
            )
        };
        assert_eq!(code, ffi::SQLITE_OK);
        let create = "CREATE TABLE t(x COLLATE BACKWARDS); CREATE INDEX i ON t(x);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<2000) INSERT INTO t SELECT 'x' || i FROM n";
        database.execute_batch(create).expect("content");
        drop(database);
        check(&path).expect("sound");
        let mut bytes = std::fs::read(&path).expect("the file");
        bytes[8192..12288].fill(0x5a);
        std::fs::write(&path, &bytes).expect("the file");
        assert!(matches!(check(&path), Err(EngineError::Damaged(_))));
    }
}
