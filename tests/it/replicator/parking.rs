//! More databases than threads: those at rest are parked, and whatever happens to one wakes it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use replicate::engine::sqlite::Sqlite;
use replicate::replicator::{Crew, Replicator, Settings};
use replicate::spool::Disk;
use replicate::status::{State, system_clock};
use replicate::store::memory::MemoryStore;
use replicate::store::{Requests, Store, requests};
use rusqlite::Connection;

use super::rig::LONG;
use crate::ledger::rig::eventually;

const DATABASES: usize = 10;
const THREADS: usize = 2;

struct Parking {
    folder: tempfile::TempDir,
    crew: Arc<Crew>,
    apps: Vec<Connection>,
    requests: Vec<Arc<Requests>>,
    all: Vec<Replicator>,
}

impl Parking {
    fn path(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("{number}.db"))
    }

    fn new(locks: usize) -> Parking {
        let (folder, crew) = (tempfile::tempdir().expect("a folder"), Crew::new(THREADS, 0, locks));
        let mut parking = Parking { folder, crew, apps: Vec::new(), requests: Vec::new(), all: Vec::new() };
        for number in 0..DATABASES {
            let app = Connection::open(parking.path(number)).expect("opened");
            app.busy_timeout(LONG).expect("set");
            app.execute_batch("PRAGMA journal_mode=wal; CREATE TABLE t (v)").expect("a table");
            parking.apps.push(app);
            let requests = Arc::new(Requests::default());
            let store = Arc::new(requests::Counted::new(Arc::new(MemoryStore::new()), requests.clone()));
            parking.requests.push(requests);
            parking.start(number, store);
        }
        parking
    }

    fn start(&mut self, number: usize, store: Arc<dyn Store>) {
        let mut settings = Settings::new(self.path(number));
        settings.sync_interval = Duration::from_millis(10);
        let replicas = vec![("memory".to_owned(), store)];
        let engine = Arc::new(Sqlite);
        let started =
            Replicator::start_on(Disk::default(), self.crew.clone(), settings, engine, replicas, system_clock());
        self.all.push(started.expect("started"));
    }

    fn insert(&self, number: usize, rows: i64) {
        for row in 0..rows {
            self.apps[number].execute("INSERT INTO t VALUES (?1)", [row]).expect("a row");
        }
    }

    fn parked(&self) -> BTreeSet<usize> {
        let is_parked = |number: &usize| self.all[*number].status().snapshot().is_parked;
        (0..self.all.len()).filter(is_parked).collect()
    }

    async fn settle(&self) {
        for replicator in &self.all {
            replicator.settle(LONG).await.expect("settled");
        }
        // Whoever waits gets a thread, and those at rest give theirs back.
        assert!(eventually(LONG, || self.parked().len() >= DATABASES - THREADS), "{:?}", self.parked());
    }

    fn requests(&self) -> u64 {
        self.requests.iter().map(|requests| requests.total()).sum()
    }
}

/// Every database is captured by two threads. Commits wake theirs, each commit arrives by itself, none is a repair, and a parked
/// database is level and causes no request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parked_databases_are_woken_by_commits() {
    let parking = Parking::new(usize::MAX);
    parking.settle().await;
    let before: Vec<u64> = parking.all.iter().map(|one| one.status().snapshot().captured.0).collect();
    for round in 1..=3u64 {
        for number in 0..DATABASES {
            parking.insert(number, 5);
        }
        for (number, one) in parking.all.iter().enumerate() {
            // Nobody asks: the files do.
            let is_there = || {
                let now = one.status().snapshot();
                now.captured.0 == before[number] + 5 * round && now.replicas[0].shipped.txid == now.captured
            };
            assert!(eventually(LONG, is_there), "{number}: {:?}", one.status().snapshot());
            assert_eq!(one.status().snapshot().gaps_total, 0, "{number}");
        }
        let (at_work, _, _) = parking.crew.counts();
        assert!(at_work <= THREADS);
    }
    parking.settle().await;
    let (requests, parked) = (parking.requests(), parking.parked());
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(parking.requests(), requests, "no request while all are at rest");
    for number in parked.intersection(&parking.parked()) {
        let now = parking.all[*number].status().snapshot();
        assert_eq!((&now.state, now.replicas[0].lag), (&State::Running, Duration::ZERO), "{number}");
        assert!(now.is_capturing() && now.troubles().is_empty(), "{:?}", now.troubles());
    }
    for (number, one) in parking.all.into_iter().enumerate() {
        let report = one.stop(LONG).await;
        assert!(report.is_complete(), "{number}: {report:?}");
    }
}

/// A stop takes a last look at a parked database to which something happened that no event told of in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_looks_once_more() {
    let mut parking = Parking::new(0);
    parking.settle().await;
    let number = *parking.parked().first().expect("one is parked");
    let before = parking.all[number].status().snapshot().captured.0;
    parking.insert(number, 7);
    let report = parking.all.remove(number).stop(LONG).await;
    assert!(report.is_complete());
    assert_eq!(report.captured.map(|place| place.txid.0), Some(before + 7));
    // The others stop while they are parked and at work.
    for one in parking.all {
        assert!(one.stop(LONG).await.is_complete());
    }
}

/// Whoever replicates a database while it is parked, without its lock, is noticed: nothing is written over what he left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_16_another_process_meanwhile_is_noticed() {
    let parking = Parking::new(0);
    parking.settle().await;
    let number = *parking.parked().first().expect("one is parked");
    let mut settings = Settings::new(parking.path(number));
    settings.sync_interval = Duration::from_millis(10);
    let replicas = vec![("memory".to_owned(), Arc::new(MemoryStore::new()) as Arc<dyn Store>)];
    let other = Replicator::start(settings, Arc::new(Sqlite), replicas, system_clock()).expect("it is not locked");
    other.settle(LONG).await.expect("settled");
    assert!(other.stop(LONG).await.is_complete());
    parking.insert(number, 1);
    let is_told =
        || matches!(parking.all[number].status().state(), State::Failed(why) if why.contains("another process"));
    assert!(eventually(LONG, is_told), "{:?}", parking.all[number].status().state());
}
