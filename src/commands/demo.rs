//! `replicate demo`: a live database with a writer, replicated, restored and proven while one watches.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};

use super::{engine_of, print, runtime};
use crate::cli::{DemoArgs, DemoWriterArgs};
use crate::config::units::show_duration;
use crate::engine::EngineKind;
use crate::engine::sqlite;
use crate::engine::workload::{Entry, Pace, WorkloadError, read_ledger};
use crate::error::Error;
use crate::position::{TimeMs, whole_ms};
use crate::replicator::{Replicator, Settings};
use crate::status::{StatusSnapshot, system_clock};
use crate::store::{self, Store, StoreOptions};
use crate::supervisor::{STOPPING, Signals};

mod proof;

/// Fast enough that the lag can be seen to be small, slow enough to be an ordinary setting.
const SYNC_INTERVAL: Duration = Duration::from_millis(250);
const REFRESH: Duration = Duration::from_millis(500);
/// From a commit to the moment that capture notes for it, at most.
const SEEN_WITHIN_MS: u64 = 1000;
/// Bound for everything that must happen beside the writing itself.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn execute(args: &DemoArgs) -> Result<(), Error> {
    let folder = Folder::create(args.keep)?;
    let runtime = runtime()?;
    let end = runtime.block_on(async {
        let mut signals = Signals::listen(&STOPPING)?;
        tokio::select! {
            end = both(&folder.path, args) => end,
            which = signals.next_stop() => Err(Error::failed(format!("{which}: the demo was ended early"))),
        }
    });
    runtime.shutdown_background();
    folder.remove()?;
    end
}

/// Everything of the demo is below one temporary directory.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn create(keep: bool) -> Result<Folder, Error> {
        let path = std::env::temp_dir().join(format!("replicate-demo-{:08x}", rand::random::<u32>()));
        let failed = |error| Error::failed(format!("cannot create {}", path.display())).because(error);
        std::fs::create_dir(&path).map_err(failed)?;
        Ok(Folder { path, keep })
    }

    fn remove(self) -> Result<(), Error> {
        if self.keep {
            return print(&format!("\nEverything is left in {}\n", self.path.display()));
        }
        let failed = |error| Error::failed(format!("cannot remove {}", self.path.display())).because(error);
        std::fs::remove_dir_all(&self.path).map_err(failed)
    }
}

/// The files of one database's show.
struct Scene {
    engine: EngineKind,
    database: PathBuf,
    ledger: PathBuf,
    replica: PathBuf,
    folder: PathBuf,
}

impl Scene {
    fn new(engine: EngineKind, folder: &Path) -> Scene {
        let name = match engine {
            EngineKind::Sqlite => "app.db",
            EngineKind::Duckdb => "app.duckdb",
        };
        let path = |ending: &str| folder.join(format!("{name}{ending}"));
        Scene {
            engine,
            database: path(""),
            ledger: path(".ledger"),
            replica: path(".replica"),
            folder: folder.to_owned(),
        }
    }

    fn product(&self) -> &'static str {
        match self.engine {
            EngineKind::Sqlite => "SQLite",
            EngineKind::Duckdb => "DuckDB",
        }
    }
}

async fn both(folder: &Path, args: &DemoArgs) -> Result<(), Error> {
    for engine in [EngineKind::Sqlite, EngineKind::Duckdb] {
        if args.engine.is_some_and(|only| only != engine) {
            continue;
        }
        if engine == EngineKind::Duckdb && !cfg!(feature = "duckdb") {
            print("\nDuckDB is left out: this build has no DuckDB library to write a database with.\n")?;
            continue;
        }
        show_one(Scene::new(engine, folder), args.seconds).await?;
    }
    Ok(())
}

async fn show_one(scene: Scene, seconds: u32) -> Result<(), Error> {
    print(&format!(
        "\nA live {} database, {}\n  a writer in a process of its own commits to it and notes a hash of its content per \
         commit\n  replicated to {}\n  (what was written before capture first saw the database counts as one commit)\n\n",
        scene.product(),
        scene.database.display(),
        scene.replica.display()
    ))?;
    let mut writer = start_writer(&scene)?;
    // Taken out, because waiting for a child closes its input.
    let input = writer.stdin.take();
    let url = scene.replica.display().to_string();
    let store = store::open(&url, &StoreOptions::default()).map_err(|error| Error::failed(error.to_string()))?;
    let replicator = start_replicator(&scene, store.clone())?;
    let middle = watch(&scene, &replicator, &mut writer, seconds).await?;
    replicator.sync(PATIENCE).await.map_err(|error| Error::failed(error.to_string()))?;
    print("\nRestoring to a moment in the middle, while the writer goes on:\n")?;
    proof::to_moment(&scene, store.clone(), middle).await?;

    // End of input is what stops the writer; so it also stops when this process dies.
    drop(input);
    let ended = writer.wait().await.map_err(|error| Error::failed("cannot wait for the writer").because(error))?;
    if !ended.success() {
        return Err(Error::failed(format!("the writer failed: {ended}")));
    }
    let report = replicator.stop(PATIENCE).await;
    if !report.is_complete() {
        return Err(Error::failed(format!("not everything was shipped: {report:?}")));
    }
    print("\nThe writer has ended. Restoring the newest commit:\n")?;
    proof::newest(&scene, store).await?;
    print("\nBoth restored databases are exactly what the writer had recorded.\n")
}

fn start_writer(scene: &Scene) -> Result<Child, Error> {
    let failed = |error| Error::failed("cannot start the writer").because(error);
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.arg("demo-writer").arg(&scene.database).arg(&scene.ledger).args(["--engine", &scene.engine.to_string()]);
    command.stdin(Stdio::piped()).kill_on_drop(true).spawn().map_err(failed)
}

fn start_replicator(scene: &Scene, store: Arc<dyn Store>) -> Result<Replicator, Error> {
    let settings = Settings { sync_interval: SYNC_INTERVAL, ..Settings::new(&scene.database) };
    let engine = engine_of(scene.engine).ok_or_else(|| Error::failed(format!("this build has no {}", scene.engine)))?;
    let replicas = vec![("the replica".to_owned(), store)];
    Replicator::start(settings, engine, replicas, system_clock()).map_err(|error| Error::failed(error.to_string()))
}

/// Shows where everything stands until the time is over and there is a middle to go back to: that moment.
async fn watch(scene: &Scene, replicator: &Replicator, writer: &mut Child, seconds: u32) -> Result<TimeMs, Error> {
    let began = Instant::now();
    let length = Duration::from_secs(seconds.into());
    let on_terminal = std::io::stdout().is_terminal();
    loop {
        tokio::select! {
            () = tokio::time::sleep(REFRESH) => {}
            ended = writer.wait() => return Err(Error::failed(format!("the writer ended early: {ended:?}"))),
            end = replicator.failed() => return Err(Error::failed("replication failed").because(end)),
        }
        let status = replicator.status().snapshot();
        let entries = read_ledger(&scene.ledger).unwrap_or_default();
        show(on_terminal, &line(began.elapsed(), entries.len(), &status))?;
        if let (true, Some(middle)) = (began.elapsed() >= length, middle_of(&status, &entries)) {
            return if on_terminal { print("\n").map(|()| middle) } else { Ok(middle) };
        }
        if began.elapsed() > length + PATIENCE {
            return Err(Error::failed(format!("no snapshot after {PATIENCE:?}: {:?}", status.state)));
        }
    }
}

fn line(elapsed: Duration, written: usize, status: &StatusSnapshot) -> String {
    let (shipped, lag, stored) =
        status.replicas.first().map_or((0, Duration::ZERO, 0), |r| (r.shipped.txid.0, r.lag, r.shipped_bytes));
    format!(
        "{:5.1} s   written {written:>5}   captured {:>5}   in the replica {shipped:>5}   lag {:>6}   {:>6} KiB stored",
        elapsed.as_secs_f64(),
        status.captured.0,
        show_duration(Duration::from_millis(whole_ms(lag))),
        stored / 1024
    )
}

/// On a terminal the line is replaced; else each is a line of its own.
fn show(on_terminal: bool, line: &str) -> Result<(), Error> {
    if on_terminal { print(&format!("\r\x1b[K{line}")) } else { print(&format!("{line}\n")) }
}

/// Halfway between the first moment that can be restored and the newest commit, once the writer's first transaction, which a slow
/// machine makes late, was certainly seen before that.
fn middle_of(status: &StatusSnapshot, entries: &[Entry]) -> Option<TimeMs> {
    let first = status.replicas.first().and_then(|replica| replica.snapshot).map(|(_, time)| time)?;
    let middle = TimeMs(first.0 + status.captured_time?.0.checked_sub(first.0)? / 2);
    let recorded = entries.first()?.after.0.saturating_add(SEEN_WITHIN_MS);
    (middle.0 > recorded).then_some(middle)
}

/// The writer's process: writes until its input ends.
pub fn execute_writer(args: &DemoWriterArgs) -> Result<(), Error> {
    let stop = Arc::new(AtomicBool::new(false));
    let heard = stop.clone();
    std::thread::spawn(move || {
        // An error ends the input as well.
        std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()).ok();
        heard.store(true, Ordering::Relaxed);
    });
    let pace = Pace { commits_per_second: args.rate, seed: args.seed };
    let clock = system_clock();
    match args.engine {
        EngineKind::Sqlite => sqlite::workload::write(&args.database, &args.ledger, pace, &*clock, &stop)?,
        #[cfg(feature = "duckdb")]
        EngineKind::Duckdb => {
            crate::engine::duckdb::workload::write(&args.database, &args.ledger, pace, &*clock, &stop)?
        }
        #[cfg(not(feature = "duckdb"))]
        EngineKind::Duckdb => return Err(Error::usage("this build has no DuckDB library")),
    };
    Ok(())
}

impl From<WorkloadError> for Error {
    fn from(error: WorkloadError) -> Error {
        Error::failed("the demo's writer failed").because(error)
    }
}
