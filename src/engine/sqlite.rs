//! SQLite: the WAL is captured as page writes, one commit for every transaction of the application.
//!
//! Two connections of our own alternate in holding a read transaction (`hold`), so that SQLite itself keeps every committed
//! frame until it is captured. What is committed is what the wal-index says (`wal_index`), never what the WAL file seems to
//! say. All reading goes through SQLite's handles (`connection`). Nothing is written to the database.

use std::path::Path;

use crate::engine::{Answer, Engine, EngineError, EngineKind, QUESTION_TIMEOUT, Resume, Source};

mod ask;
mod attach;
mod batch;
mod check;
mod connection;
mod continuity;
mod copy;
mod delta;
mod files;
mod history;
mod hold;
mod pace;
mod pages;
mod position;
mod reading;
mod rested;
mod source;
mod wal;
mod wal_index;
pub mod workload;

/// The SQLite engine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sqlite;

impl Engine for Sqlite {
    fn kind(&self) -> EngineKind {
        EngineKind::Sqlite
    }

    fn recognises(&self, head: &[u8]) -> bool {
        head.starts_with(attach::FILE_MAGIC)
    }

    fn open(&self, path: &Path, resume: Option<Resume>) -> Result<Box<dyn Source>, EngineError> {
        Ok(Box::new(source::SqliteSource::open(path, resume)?))
    }

    fn check(&self, database: &Path) -> Result<(), EngineError> {
        check::check(database)
    }

    /// Its WAL travels as page writes: a restored file is always one.
    fn fold(&self, _database: &Path) -> Result<bool, EngineError> {
        Ok(false)
    }

    fn ask(&self, database: &Path, questions: &[String]) -> Result<Vec<Answer>, EngineError> {
        ask::ask(database, questions, QUESTION_TIMEOUT)
    }
}

/// The first bytes of a file that may be a live SQLite database, read through SQLite: opening and closing the file in any
/// other way would drop the locks that this process holds on it.
pub fn read_head(path: &Path) -> Result<Vec<u8>, EngineError> {
    let (canonical, _) = files::existing(path)?;
    let mut head = vec![0u8; attach::FILE_HEADER_BYTES];
    let connection = connection::Connection::open(&canonical)?;
    let length = usize::try_from(connection.main_length()?).unwrap_or(usize::MAX);
    connection.read_main(0, &mut head)?;
    head.truncate(length);
    Ok(head)
}
