//! Restores from replicas that are written from a model, compared with the model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use replicate::commands::restore::{RestoreOptions, Surroundings, run};
use replicate::engine::EngineKind;
use replicate::error::Error;
use replicate::position::{TimeMs, Txid};
use replicate::store::Store;

mod compaction;
mod damage;
mod drill;
mod engine;
mod flipped;
mod full;
mod history;
mod hostile;
mod list;
mod meanwhile;
mod points;
mod prune;
mod target;
mod thorough;
mod verify;

use history::{GenerationModel, Writer, history};

/// Somewhere to restore to; in memory where there is such a place, because every restore syncs to the disk.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a temporary directory")
}

fn around(now: u64) -> Surroundings {
    let engine = |_: EngineKind| None;
    Surroundings { now: TimeMs(now), zone: jiff::tz::TimeZone::UTC, random: 7, engine }
}

/// Contents of the model are no SQLite databases, so no engine is asked.
fn options(target: &Path) -> RestoreOptions {
    RestoreOptions { check: false, json: true, ..RestoreOptions::to(target) }
}

async fn restore(store: Arc<dyn Store>, options: &RestoreOptions) -> Result<serde_json::Value, Error> {
    let mut out = Vec::new();
    run(store, options, &around(u64::MAX >> 20), &mut out).await?;
    Ok(serde_json::from_slice(&out).expect("one JSON document"))
}

/// Restores `at` into a new file and gives its bytes.
pub async fn bytes_at(store: &Arc<dyn Store>, folder: &Path, at: &str) -> Result<Vec<u8>, Error> {
    let target: PathBuf = folder.join("restored.db");
    let options = RestoreOptions { at: Some(at.to_owned()), ..options(&target) };
    let result = restore(store.clone(), &options).await;
    let left = files(folder);
    match result {
        Ok(_) => {
            assert_eq!(left, ["restored.db"], "nothing else is left behind");
            let bytes = std::fs::read(&target).expect("restored");
            std::fs::remove_file(&target).expect("removed");
            Ok(bytes)
        }
        Err(error) => {
            assert_eq!(left, [""; 0], "an error leaves nothing behind: {}", error.report());
            Err(error)
        }
    }
}

fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("readable");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn store_of(writer: &Writer) -> Arc<dyn Store> {
    writer.store.clone()
}

/// The first commit of a generation that can be restored.
fn oldest(model: &GenerationModel) -> Txid {
    *model.snapshots.iter().min().expect("a snapshot")
}
