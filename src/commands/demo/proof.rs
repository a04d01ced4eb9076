//! Restores, and compares with what the writer noted. Knows nothing of how the restored database came about.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use super::Scene;
use crate::commands::duckdb_child::CONTENT;
use crate::commands::engine_of;
use crate::commands::print;
use crate::engine::duckdb::check::CHILD_COMMAND;
use crate::engine::workload::{Content, Entry, read_ledger};
use crate::engine::{EngineKind, sqlite};
use crate::error::Error;
use crate::position::TimeMs;
use crate::restore::point::{Point, format_time};
use crate::restore::{DEFAULT_JOBS, Execution, Reading, Request, Restored, Silent, restore};
use crate::status::system_clock;
use crate::store::Store;

/// Restores to `moment` and proves the result against the ledger.
pub async fn to_moment(scene: &Scene, store: Arc<dyn Store>, moment: TimeMs) -> Result<(), Error> {
    let target = scene.folder.join(format!("middle.{}", scene.engine));
    let restored = restore_to(scene, store, Point::At(moment), &target).await?;
    let content = read(scene, &target)?;
    let entries = read_ledger(&scene.ledger)?;
    let entry = entry_of(&entries, content)?;
    let commit = &restored.plan.commit;
    if commit.time > moment || entry.before > commit.time {
        return Err(Error::failed(format!(
            "the commit is not of that moment: asked for {}, seen {}, written {}",
            format_time(moment),
            format_time(commit.time),
            format_time(entry.before)
        )));
    }
    print(&format!("  asked for     {}\n", format_time(moment)))?;
    tell(commit.txid.0, commit.time, entry)?;
    let next = entries.iter().find(|next| next.content.sequence == entry.content.sequence + 1);
    let next = next.map_or("none yet".to_owned(), |next| format_time(next.after));
    print(&format!("  its next one  committed {next}\n"))
}

/// Restores the newest commit and proves the result against the end of the ledger and against the live database.
pub async fn newest(scene: &Scene, store: Arc<dyn Store>) -> Result<(), Error> {
    let target = scene.folder.join(format!("newest.{}", scene.engine));
    let restored = restore_to(scene, store, Point::Newest, &target).await?;
    let content = read(scene, &target)?;
    let entries = read_ledger(&scene.ledger)?;
    let entry = entry_of(&entries, content)?;
    if entries.last() != Some(entry) {
        return Err(Error::failed(format!("the newest commit is transaction {}, not the last one", content.sequence)));
    }
    if read(scene, &scene.database)? != content {
        return Err(Error::failed("the restored database is not what the live one is"));
    }
    tell(restored.plan.commit.txid.0, restored.plan.commit.time, entry)
}

async fn restore_to(scene: &Scene, store: Arc<dyn Store>, point: Point, target: &Path) -> Result<Restored, Error> {
    let began = Instant::now();
    let how = Execution {
        target: PathBuf::from(target),
        overwrite: false,
        jobs: DEFAULT_JOBS,
        engine: engine_of,
        check: true,
        fold: true,
        spare_bytes: 0,
        now: system_clock()(),
        random: rand::random(),
        progress: Arc::new(Silent),
    };
    let restored = restore(&Reading::new(store), &Request { point, generation: None }, &how).await?;
    print(&format!(
        "  restored      {} in {} ms, checksum and {}'s own check passed\n",
        target.display(),
        began.elapsed().as_millis(),
        scene.product()
    ))?;
    Ok(restored)
}

/// What a database holds. The DuckDB library never runs in this process.
fn read(scene: &Scene, database: &Path) -> Result<Content, Error> {
    if scene.engine == EngineKind::Sqlite {
        return Ok(sqlite::workload::read(database)?);
    }
    let failed = |error| Error::failed("cannot start the reader").because(error);
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    let output = command.arg(CHILD_COMMAND).arg(CONTENT).arg(database).output().map_err(failed)?;
    let said = String::from_utf8_lossy(&output.stdout);
    said.trim().parse().map_err(|()| {
        let complaint = String::from_utf8_lossy(&output.stderr);
        Error::failed(format!("{} does not read: {said}{complaint}", database.display()))
    })
}

/// The line of the ledger that the restored content claims to be; it must be equal in everything.
fn entry_of(entries: &[Entry], content: Content) -> Result<&Entry, Error> {
    let entry = entries.iter().find(|entry| entry.content.sequence == content.sequence);
    match entry {
        Some(entry) if entry.content == content => Ok(entry),
        Some(entry) => Err(Error::failed(format!(
            "NOT what the writer recorded: it noted {:?}, restored was {content:?}",
            entry.content
        ))),
        None => Err(Error::failed(format!("the writer never recorded transaction {}", content.sequence))),
    }
}

fn tell(txid: u64, seen: TimeMs, entry: &Entry) -> Result<(), Error> {
    let Content { sequence, rows, hash } = entry.content;
    print(&format!(
        "  got           commit {txid}, seen {}, the writer's transaction {sequence}, committed {}\n  proven        {rows} rows, \
         hash {hash:016x}: as the writer recorded\n",
        format_time(seen),
        format_time(entry.after)
    ))
}
