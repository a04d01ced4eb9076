//! DuckDB: capture of a live file and its WAL from outside, without a lock, without the DuckDB library.
//!
//! The map: `file` and `wal` parse bytes without I/O; `disk` reads; `iteration` knows which blocks a checkpoint left and
//! which the next one may have changed; `source` looks at the database, `base` turns a checkpoint into a commit, `follow`
//! and `bulk` the WAL's commits, `drain` what is left of a WAL whose iteration ended; `survey` compares the file with the page
//! map; `snapshot` copies it. `docs/duckdb.md` says why this is right.

use std::path::{Path, PathBuf};

use crate::engine::{Answer, Engine, EngineError, EngineKind, Resume, Source};

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
#[cfg(feature = "duckdb")]
pub mod workload;

pub use source::DuckdbSource;

/// Knowledge of the DuckDB file format.
#[derive(Debug, Clone)]
pub struct Duckdb {
    /// The program whose hidden command runs the DuckDB library.
    program: PathBuf,
}

impl Default for Duckdb {
    /// This program: on Linux whatever runs now, even if the file was replaced meanwhile.
    fn default() -> Duckdb {
        let running = Path::new("/proc/self/exe");
        let program = if running.exists() { Ok(running.to_owned()) } else { std::env::current_exe() };
        // A name that cannot be started becomes an error with the first use.
        Duckdb { program: program.unwrap_or_else(|_| PathBuf::from("replicate")) }
    }
}

impl Duckdb {
    /// Has another program, which must be a `replicate`, run the library.
    pub fn with_program(program: impl Into<PathBuf>) -> Duckdb {
        Duckdb { program: program.into() }
    }

    /// Proves the rows, not only the structure, if this build has the library.
    fn check_rows(&self, database: &Path) -> Result<(), EngineError> {
        if !cfg!(feature = "duckdb") {
            tracing::warn!("this build has no DuckDB library: of the restored database only the structure was checked");
            return Ok(());
        }
        check::in_child(&self.program, check::CHILD_CHECK, database)
    }
}

/// Is what is stored there unreadable without a key?
pub fn is_encrypted(database: &Path) -> Result<bool, EngineError> {
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
        check::in_child(&self.program, check::CHILD_FOLD, database)?;
        check::structure(database)?;
        match size(&wal)? {
            0 => Ok(false),
            bytes => Err(EngineError::Damaged(format!("{bytes} bytes of WAL are left after a checkpoint"))),
        }
    }

    /// By DuckDB in a child process, which this build may lack.
    fn ask(&self, database: &Path, questions: &[String]) -> Result<Vec<Answer>, EngineError> {
        if !cfg!(feature = "duckdb") {
            return Err(EngineError::NotCapturable {
                reason: "this build has no DuckDB library to ask it anything with".to_owned(),
                next_step: "use a build with the feature duckdb, or ask nothing",
            });
        }
        check::ask_in_child(&self.program, database, questions)
    }
}
