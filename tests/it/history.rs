//! The ledger over days: an application commits on and on while segments are joined and merged, snapshots are taken and what no
//! rule keeps is pruned. Whatever is restored, at any time and by any name, is what the application had committed; every
//! commit of the window is there by itself; and what is gone is refused.

mod app;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use replicate::engine::duckdb::Duckdb;
use replicate::engine::sqlite::Sqlite;
use replicate::engine::{Engine, EngineKind};
use replicate::inventory::Inventory;
use replicate::layout::Level;
use replicate::position::{Generation, TimeMs, Txid};
use replicate::replicator::{Replicator, Settings};
use replicate::restore::point::Point;
use replicate::restore::{Execution, Planner, Reading, Request, RestoreError, Restored, Silent, restore};
use replicate::retention::{Count, Policy};
use replicate::store::Store;
use replicate::store::file::FileStore;

use crate::ledger::from_environment;
use crate::ledger::rig::seed;
use crate::replicator::compaction::nothing_is_found;
use app::{Application, expected};

/// Longer than anything takes; only a failing test waits for it.
const LONG: Duration = Duration::from_secs(120);
const HOUR: u64 = 60 * 60 * 1000;
/// From the first commit to the last.
const SPAN: u64 = 84 * HOUR;
const BATCH: u64 = 100;
/// What is kept: each commit of so many hours, and snapshots of so many.
const COMMITS: u64 = 12 * HOUR;
const SNAPSHOTS: u64 = 36 * HOUR;

struct History {
    folder: tempfile::TempDir,
    app: Application,
    store: Arc<dyn Store>,
    clock: Arc<AtomicU64>,
    /// The time between two commits.
    step: u64,
    random: StdRng,
    /// Which commit of the application each txid was found to hold.
    known: BTreeMap<Txid, u64>,
    /// The newest commit that is shipped.
    newest: Txid,
    restored: u64,
    refused: u64,
}

fn engine(kind: EngineKind) -> Option<Arc<dyn Engine>> {
    Some(match kind {
        EngineKind::Sqlite => Arc::new(Sqlite),
        EngineKind::Duckdb => Arc::new(Duckdb::default()),
    })
}

impl History {
    fn new(folder: tempfile::TempDir, app: Application, commits: u64, seed: u64) -> History {
        let store = Arc::new(FileStore::new(folder.path().join("replica")));
        let clock = Arc::new(AtomicU64::new(1_790_000_000_000));
        let random = StdRng::seed_from_u64(seed);
        let (step, known, newest) = (SPAN / commits, BTreeMap::new(), Txid::ZERO);
        History { folder, app, store, clock, step, random, known, newest, restored: 0, refused: 0 }
    }

    fn start(&self) -> Replicator {
        let mut settings = Settings::new(database(&self.folder));
        settings.sync_interval = Duration::from_millis(5);
        settings.poll_interval = Duration::from_millis(20);
        settings.snapshots.interval = Duration::from_millis(8 * HOUR);
        settings.compaction.join_segments = 8;
        let policy = Policy {
            commits: Some(Duration::from_millis(COMMITS)),
            keep_within: Some(Duration::from_millis(SNAPSHOTS)),
            keep_last: Some(Count::Number(2)),
            ..Policy::default()
        };
        settings.retention = vec![Some(policy)];
        settings.prune_interval = Duration::from_millis(300);
        // Longer than a restore takes, on the other clock as well.
        settings.prune_grace = Duration::from_secs(3);
        let clock = self.clock.clone();
        let clock = Arc::new(move || TimeMs(clock.load(Ordering::SeqCst)));
        let replicas = vec![("directory".to_owned(), self.store.clone())];
        Replicator::start(settings, self.app.engine(), replicas, clock).expect("started")
    }

    async fn restore(&self, point: Point) -> Result<Restored, RestoreError> {
        let target = self.folder.path().join("restored.db");
        for ending in ["", ".wal", "-wal", "-shm"] {
            crate::ledger::rig::remove(&PathBuf::from(format!("{}{ending}", target.display())));
        }
        let how = Execution {
            target,
            overwrite: false,
            jobs: 4,
            engine,
            check: false,
            fold: false,
            now: TimeMs(self.clock.load(Ordering::SeqCst)),
            random: 1,
            spare_bytes: 0,
            progress: Arc::new(Silent),
        };
        restore(&Reading::new(self.store.clone()), &Request { point, generation: None }, &how).await
    }

    /// Restores a point and compares it with what the application committed. A refusal names no point, nothing else.
    async fn sample(&mut self, point: Point) -> bool {
        let restored = match self.restore(point).await {
            Ok(restored) => restored,
            Err(RestoreError::NoSuchPoint(_)) => {
                self.refused += 1;
                return false;
            }
            Err(error) => panic!("{point}: {error}"),
        };
        let commit = &restored.plan.commit;
        match point {
            Point::Txid(txid) => assert_eq!(commit.txid, txid),
            Point::At(time) => assert!(commit.time <= time, "{point}: {commit:?}"),
            Point::Newest | Point::Commit(..) => {}
        }
        self.restored += 1;
        let Some(state) = self.app.read(&restored.target) else {
            assert!(commit.txid < *self.known.keys().next().unwrap_or(&Txid(100)), "{point} holds nothing");
            return true;
        };
        assert_eq!(state, expected(state[0]), "{point}: {:?}", restored.plan);
        let number = *self.known.entry(commit.txid).or_insert(state[0]);
        assert_eq!(number, state[0], "{point} held another commit before");
        let before = self.known.range(..commit.txid).next_back().map_or(0, |(_, &number)| number);
        let after = self.known.range(Txid(commit.txid.0 + 1)..).next().map_or(u64::MAX, |(_, &number)| number);
        assert!((before..=after).contains(&number), "{point}: commit {number}, between {before} and {after}");
        true
    }

    async fn inventory(&self, generation: Generation) -> Inventory {
        Reading::new(self.store.clone()).replica().inventory(generation).await.expect("listed")
    }

    /// Any commit and any moment, be they still kept or not.
    async fn sample_any(&mut self) {
        let txid = Txid(self.random.random_range(2..=self.newest.0));
        self.sample(Point::Txid(txid)).await;
        let now = self.clock.load(Ordering::SeqCst);
        let time = TimeMs(now - self.random.random_range(0..now - 1_790_000_000_000 + HOUR));
        self.sample(Point::At(time)).await;
    }

    async fn load(&mut self, replicator: &Replicator, commits: u64) {
        while self.app.last < commits {
            // Small steps, so that the moments that commits are seen at are told apart.
            for _ in 0..10 {
                self.app.commits(BATCH / 10);
                self.clock.fetch_add(self.step * BATCH / 10, Ordering::SeqCst);
            }
            if self.app.last.is_multiple_of(10 * BATCH) {
                self.app.checkpoint();
            }
            self.newest = replicator.sync(LONG).await.expect("synced").txid;
            if self.app.last.is_multiple_of(2 * BATCH) {
                self.sample_any().await;
            }
        }
    }

    /// Of the window, every commit is there by itself.
    async fn window_is_exact(&mut self) {
        let newest = self.restore(Point::Newest).await.expect("the newest restores").plan.commit;
        assert_eq!(newest.txid, self.newest);
        let mut planner = Planner::new(Reading::new(self.store.clone()));
        let (mut txid, mut count) = (newest.txid, 0);
        loop {
            let plan = planner.plan(&Request { point: Point::Txid(txid), generation: None }).await;
            let plan = plan.unwrap_or_else(|error| panic!("{txid} of the window up to {newest:?}: {error}"));
            if plan.commit.time.0 + COMMITS < newest.time.0 {
                break;
            }
            count += 1;
            txid = Txid(txid.0 - self.random.random_range(1..=5));
        }
        assert!(count > 50, "{count}");
        for _ in 0..20 {
            let txid = Txid(self.random.random_range(txid.0 + 5..=newest.txid.0));
            assert!(self.sample(Point::Txid(txid)).await);
        }
    }
}

fn database(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("app.db")
}

async fn days(start: impl FnOnce(&Path) -> Option<Application>, name: &str, commits: u64) {
    let seed = seed(&format!("history of {name}"));
    let folder = tempfile::tempdir().expect("a folder");
    let Some(app) = start(&database(&folder)) else { return };
    let mut history = History::new(folder, app, commits, seed);
    let replicator = history.start();
    let first = replicator.settle(LONG).await.expect("settled");
    history.load(&replicator, commits / 2).await;
    // A new process goes on with what the last one left, in the middle of whatever that was doing.
    assert!(replicator.stop(LONG).await.is_complete());
    let replicator = history.start();
    history.load(&replicator, commits).await;
    history.window_is_exact().await;

    // Time goes on without commits until nothing is left to be done.
    let deadline = Instant::now() + LONG;
    let (mut before, mut held) = (0, history.inventory(first.generation).await);
    while before != held.segments.len() + held.snapshots.len() {
        assert!(Instant::now() < deadline, "it goes on and on");
        before = held.segments.len() + held.snapshots.len();
        tokio::time::sleep(Duration::from_secs(4)).await;
        held = history.inventory(first.generation).await;
    }
    history.window_is_exact().await;
    for _ in 0..20 {
        history.sample_any().await;
    }
    for snapshot in &held.snapshots {
        assert!(history.sample(Point::Txid(snapshot.name.txid)).await, "{:?} is exact", snapshot.name);
    }
    assert!(history.sample(Point::Newest).await);
    assert_eq!(history.known.last_key_value().map(|(_, &number)| number), Some(commits));
    assert!(replicator.stop(LONG).await.is_complete());
    nothing_is_found(history.store.clone(), TimeMs(history.clock.load(Ordering::SeqCst))).await;
    let of_level = |level: u8| held.segments.iter().filter(|segment| segment.name.level == Level(level)).count();
    let levels = [0, 1, 2, 3].map(of_level);
    println!(
        "{name}: {} commits of the application, {} captured; {} restored, {} refused; segments by level {levels:?}, {} snapshots",
        commits,
        history.newest.0,
        history.restored,
        history.refused,
        held.snapshots.len()
    );
    assert!(levels[1..].iter().all(|&count| count > 0), "every level was made: {levels:?}");
    assert!(history.refused > 0, "something was pruned");
}

/// Ten thousand commits of SQLite over three days and a half. `REPLICATE_HISTORY_COMMITS` sets another number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_days_of_history_stay_exact() {
    let commits = from_environment("REPLICATE_HISTORY_COMMITS", 10_000);
    days(|database| Some(Application::sqlite(database)), "SQLite", commits).await;
}

/// The same with DuckDB, over checkpoints; fewer commits, because each waits for the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duckdb_days_of_history_stay_exact() {
    let commits = from_environment("REPLICATE_HISTORY_COMMITS", 4_000);
    days(|database| Application::duckdb("2.0.0", database), "DuckDB", commits).await;
}
