//! DuckDB: capture of a live file and its WAL from outside, without a lock, without the DuckDB library.
//!
//! The map: `file` and `wal` parse bytes without I/O; `disk` reads; `iteration` knows which blocks a checkpoint left and
//! which the next one may have changed; `source` looks at the database, `base` turns a checkpoint into a commit, `follow`
//! and `bulk` the WAL's commits, `drain` what is left of a WAL whose iteration ended; `survey` compares the file with the page
//! map; `snapshot` copies it. `docs/duckdb.md` says why this is right.

use std::path::Path;

use crate::engine::{Engine, EngineError, EngineKind, Resume, Source};

mod base;
pub mod blocks;
mod bulk;
pub mod check;
mod commit;
mod disk;
mod drain;
pub mod file;
mod follow;
mod iteration;
#[cfg(feature = "duckdb")]
pub mod library;
mod position;
mod snapshot;
mod source;
mod survey;
mod tail;
pub mod wal;

pub use source::DuckdbSource;

/// Knowledge of the DuckDB file format.
#[derive(Clone, Default)]
pub struct Duckdb {
    /// The key of encrypted databases. Capture and restore do not need it; the check of a restored one does.
    key: Option<String>,
}

impl std::fmt::Debug for Duckdb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Duckdb").field("has_key", &self.key.is_some()).finish()
    }
}

impl Duckdb {
    pub fn new(key: Option<String>) -> Duckdb {
        Duckdb { key }
    }

    /// Proves the rows, not only the structure, if this build has the library.
    fn check_rows(&self, database: &Path) -> Result<(), EngineError> {
        if !cfg!(feature = "duckdb") {
            tracing::warn!("this build has no DuckDB library: of the restored database only the structure was checked");
            return Ok(());
        }
        if is_encrypted(database)? && self.key.is_none() {
            return Err(EngineError::NotCapturable {
                reason: "the restored database is encrypted, and its rows cannot be checked without the key".into(),
                next_step: "set REPLICATE_DUCKDB_KEY, or restore with --no-check",
            });
        }
        check::in_child(check::CHILD_CHECK, database, self.key.as_deref())
    }
}

fn is_encrypted(database: &Path) -> Result<bool, EngineError> {
    Ok(disk::MainFile::open(database)?.head()?.encryption.is_some())
}

impl Engine for Duckdb {
    fn kind(&self) -> EngineKind {
        EngineKind::Duckdb
    }

    fn recognises(&self, head: &[u8]) -> bool {
        head.get(8..12) == Some(b"DUCK".as_slice())
    }

    fn open(&self, path: &Path, resume: Option<Resume>) -> Result<Box<dyn Source>, EngineError> {
        Ok(Box::new(DuckdbSource::open(path, resume)?))
    }

    fn check(&self, database: &Path) -> Result<(), EngineError> {
        check::structure(database)?;
        self.check_rows(database)
    }

    /// By a checkpoint of DuckDB in a child process. Without the library, and where the database is encrypted, the pair
    /// stays as it is.
    fn fold(&self, database: &Path) -> Result<bool, EngineError> {
        let wal = disk::wal_path(database);
        let size = |path: &Path| match std::fs::metadata(path) {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(disk::io_error("cannot look at the WAL")(error)),
        };
        if size(&wal)? == 0 {
            return Ok(false);
        }
        // To write encrypted files DuckDB needs an extension that this build does not carry.
        if !cfg!(feature = "duckdb") || is_encrypted(database)? {
            return Ok(true);
        }
        check::in_child(check::CHILD_FOLD, database, self.key.as_deref())?;
        check::structure(database)?;
        match size(&wal)? {
            0 => Ok(false),
            bytes => Err(EngineError::Damaged(format!("{bytes} bytes of WAL are left after a checkpoint"))),
        }
    }
}
