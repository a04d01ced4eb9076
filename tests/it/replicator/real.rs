//! The whole way with SQLite: an application in another process, capture, a directory, restore.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use replicate::engine::EngineKind;
use replicate::engine::sqlite::Sqlite;
use replicate::position::Txid;
use replicate::replicator::{Replicator, Settings};
use replicate::restore::point::Point;
use replicate::restore::{Execution, Reading, Request, Silent, restore};
use replicate::status::{State, system_clock};
use replicate::store::Store;
use replicate::store::file::FileStore;

use super::rig::LONG;
use crate::sqlite_source::app::{App, Library};

fn start(database: &Path, store: &Arc<dyn Store>) -> Replicator {
    let mut settings = Settings::new(database);
    settings.sync_interval = Duration::from_millis(10);
    let replicas = vec![("directory".to_owned(), store.clone())];
    Replicator::start(settings, Arc::new(Sqlite), replicas, system_clock()).expect("started")
}

/// Restores a commit and returns the sum that the application keeps in its table.
async fn sum_at(store: &Arc<dyn Store>, point: Point, target: &Path) -> i64 {
    let how = Execution {
        target: target.to_owned(),
        overwrite: false,
        jobs: 4,
        engine: |kind| (kind == EngineKind::Sqlite).then(|| Arc::new(Sqlite) as _),
        check: true,
        fold: true,
        spare_bytes: 0,
        now: system_clock()(),
        random: 1,
        progress: Arc::new(Silent),
    };
    let request = Request { point, generation: None };
    restore(&Reading::new(store.clone()), &request, &how).await.expect("restored");
    let connection = rusqlite::Connection::open(target).expect("opened");
    connection.query_row("SELECT coalesce(sum(v), 0) FROM t", [], |row| row.get(0)).expect("a sum")
}

/// Every commit of an application can be restored, across a restart, a checkpoint while nobody looked, and an absent file at
/// the beginning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_commits_are_restorable_one_by_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let database = directory.path().join("app.db");
    let store: Arc<dyn Store> = Arc::new(FileStore::new(directory.path().join("replica")));
    let replicator = start(&database, &store);
    replicator.wait_until_running().await.expect("waiting");
    assert_eq!(replicator.status().state(), State::Absent);
    let mut app = App::start(Library::Bundled, &database);
    app.sql("PRAGMA journal_mode=WAL");
    app.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    replicator.status().wait_for(|status| status.state == State::Running).await;
    let first = replicator.settle(LONG).await.expect("settled");
    // The sum after n rows of 1, 2, 4, … is 2^n - 1.
    for n in 0..10 {
        app.sql(&format!("INSERT INTO t(v) VALUES ({})", 1u64 << n));
    }
    let last = replicator.sync(LONG).await.expect("synced");
    assert_eq!(last.txid.0, first.txid.0 + 10);
    assert!(replicator.stop(LONG).await.is_complete());
    for n in [0u64, 1, 4, 10] {
        let target = directory.path().join(format!("restored-{n}.db"));
        let point = Point::Txid(Txid(first.txid.0 + n));
        assert_eq!(sum_at(&store, point, &target).await, (1i64 << n) - 1);
    }
    app.sql("INSERT INTO t(v) VALUES (1024)");
    app.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    app.sql("INSERT INTO t(v) VALUES (2048)");
    let replicator = start(&database, &store);
    replicator.wait_until_running().await.expect("running");
    let place = replicator.sync(LONG).await.expect("synced");
    assert_eq!(place.generation, first.generation);
    app.sql("INSERT INTO t(v) VALUES (4096)");
    app.close();
    assert!(replicator.stop(LONG).await.is_complete());
    assert_eq!(sum_at(&store, Point::Newest, &directory.path().join("newest.db")).await, 8191);
}
