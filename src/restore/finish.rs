//! The end of a restore: the files are written; they are proven, checked by their engine, and made one file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::engine::{Engine, EngineError, EngineKind};
use crate::restore::error::{Fault, RestoreError};
use crate::restore::execute::{Execution, ended_early};
use crate::restore::fetch::in_background;
use crate::restore::files::Files;
use crate::restore::plan::RestorePlan;
use crate::restore::prove::database_checksum;

/// Proves the files: their bytes as read back, lengths, checksum, and that they are on the disk.
pub async fn prove(plan: &RestorePlan, files: Files, path: &Path, how: &Execution) -> Result<(), Fault> {
    let (commit, path, progress) = (plan.commit.clone(), path.to_owned(), how.progress.clone());
    progress.begin("proving", commit.lengths.main);
    in_background(move || {
        // Bytes go to the disk while they are hashed.
        let (main, syncing) = (files.main().clone(), path.clone());
        let synced = std::thread::spawn(move || main.sync_all().map_err(Fault::io("cannot sync", &syncing)));
        let advance = |bytes| progress.advance(bytes);
        let found = database_checksum(files.main(), files.wal(), commit.lengths, commit.grid, &advance)
            .map_err(Fault::io("cannot read back", &path))?;
        if found != commit.checksum {
            let (txid, expected) = (commit.txid.0, commit.checksum);
            let problem =
                format!("the restored file's checksum is {found:016x}, that of commit {txid} is {expected:016x}");
            return Err(Fault::Result(problem));
        }
        files.wal().sync_all().map_err(Fault::io("cannot sync", &path))?;
        synced.join().unwrap_or_else(|_| Err(Fault::Result("a thread of the restore ended early".to_owned())))
    })
    .await
}

/// Asks the engine itself, if that is wanted.
pub async fn check(kind: EngineKind, main: PathBuf, how: Execution) -> Result<(), RestoreError> {
    if !how.check {
        return Ok(());
    }
    let engine = (how.engine)(kind).ok_or(RestoreError::NoEngine(kind))?;
    ask(engine, main, |engine, main| engine.check(main)).await
}

/// Makes one file of a main file and its WAL, if that is wanted and this build can. Whether a WAL stays.
pub async fn fold(plan: &RestorePlan, main: &Path, how: &Execution) -> Result<bool, RestoreError> {
    let has_wal = plan.commit.lengths.wal > 0;
    let engine = match (how.engine)(plan.engine) {
        Some(engine) if how.fold && has_wal => engine,
        _ => return Ok(has_wal),
    };
    how.progress.begin("folding the WAL in", 0);
    ask(engine, main.to_owned(), |engine, main| engine.fold(main)).await
}

async fn ask<T: Send + 'static>(
    engine: Arc<dyn Engine>,
    main: PathBuf,
    what: impl FnOnce(&dyn Engine, &Path) -> Result<T, EngineError> + Send + 'static,
) -> Result<T, RestoreError> {
    let (kind, path) = (engine.kind(), main.clone());
    match tokio::task::spawn_blocking(move || what(&*engine, &main)).await {
        Ok(answer) => answer.map_err(|source| RestoreError::NotAccepted { engine: kind, source }),
        Err(error) => Err(ended_early(&path, error)),
    }
}

/// Makes a file's bytes durable: the engine may have written to it.
pub fn sync(path: &Path) -> Result<(), RestoreError> {
    std::fs::File::open(path).and_then(|file| file.sync_all()).map_err(RestoreError::io("cannot sync", path))
}
