//! What the first bytes of a file say about it: enough to name the engine and to warn before capture is tried.

use super::EngineKind;

/// Bytes that are enough to tell.
pub const HEAD_BYTES: usize = 100;

const SQLITE_MAGIC: &[u8] = b"SQLite format 3\0";
const DUCKDB_MAGIC: &[u8] = b"DUCK";
/// Where DuckDB's magic stands: after the checksum of its first header page.
const DUCKDB_MAGIC_OFFSET: usize = 8;
/// SQLite: file format write and read version; 2 means WAL mode, 1 a rollback journal (https://sqlite.org/fileformat2.html).
const SQLITE_VERSIONS_OFFSET: usize = 18;

/// What a file is, as far as its head tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub engine: EngineKind,
    /// SQLite: is it in WAL mode? Always true for an engine that has no other.
    pub wal_mode: bool,
}

/// `None` for a file that belongs to no known engine.
pub fn read(head: &[u8]) -> Option<Head> {
    if head.starts_with(SQLITE_MAGIC) {
        let versions = head.get(SQLITE_VERSIONS_OFFSET..SQLITE_VERSIONS_OFFSET + 2)?;
        return Some(Head { engine: EngineKind::Sqlite, wal_mode: versions == [2, 2] });
    }
    let duckdb = head.get(DUCKDB_MAGIC_OFFSET..)?.starts_with(DUCKDB_MAGIC);
    duckdb.then_some(Head { engine: EngineKind::Duckdb, wal_mode: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both engines are told apart, WAL mode is seen, and anything else is nothing.
    #[test]
    fn heads_are_told_apart() {
        let mut sqlite = [0u8; HEAD_BYTES];
        sqlite[..16].copy_from_slice(SQLITE_MAGIC);
        (sqlite[18], sqlite[19]) = (1, 1);
        assert_eq!(read(&sqlite), Some(Head { engine: EngineKind::Sqlite, wal_mode: false }));
        (sqlite[18], sqlite[19]) = (2, 2);
        assert_eq!(read(&sqlite), Some(Head { engine: EngineKind::Sqlite, wal_mode: true }));
        assert_eq!(read(&sqlite[..18]), None);
        let mut duckdb = [0u8; HEAD_BYTES];
        duckdb[8..12].copy_from_slice(DUCKDB_MAGIC);
        assert_eq!(read(&duckdb).map(|head| head.engine), Some(EngineKind::Duckdb));
        for other in [&[][..], &[0; 7], &[0; HEAD_BYTES], b"SQLite format 2\0"] {
            assert_eq!(read(other), None);
        }
    }
}
