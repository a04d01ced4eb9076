//! Writers of two library versions, checkpoints in a loop, and kills, at random; seeds are printed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::RngExt;
use replicate::position::RepairReason;

use super::app::{App, Library};
use super::driver::Driver;
use super::workload::{self, Workload};

/// What the threads around the capture share.
#[derive(Clone)]
struct Stage {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    /// The highest number that a commit was acknowledged for.
    acknowledged: Arc<AtomicI64>,
}

impl Stage {
    fn writer(&self, library: Library, seed: u64) -> JoinHandle<u32> {
        let stage = self.clone();
        std::thread::spawn(move || {
            let mut workload = Workload::new(seed, 2000);
            let (mut app, mut kills) = (stage.app(library), 0);
            while !stage.stop.load(Ordering::Relaxed) {
                let (sql, commits) = workload.transaction();
                app.send(&sql);
                if workload.random.random_bool(0.02) {
                    std::thread::sleep(Duration::from_micros(workload.random.random_range(0..8000)));
                    app.kill();
                    kills += 1;
                    app = stage.app(library);
                    continue;
                }
                if app.outcome().is_ok() && commits {
                    let seq = app.run(workload::SEQ).ok().and_then(|seq| seq.parse().ok());
                    stage.acknowledged.fetch_max(seq.unwrap_or(0), Ordering::Relaxed);
                }
                if workload.random.random_bool(0.005) {
                    app.run("VACUUM").ok();
                }
            }
            kills
        })
    }

    fn app(&self, library: Library) -> App {
        let mut app = App::start(library, &self.path);
        app.run("PRAGMA cache_size=20").ok();
        app
    }

    /// Checkpoints without end. How many succeeded.
    fn checkpoints(&self, library: Library, seed: u64) -> JoinHandle<u32> {
        let stage = self.clone();
        std::thread::spawn(move || {
            let mut random = Workload::new(seed, 1).random;
            let (mut app, mut done) = (App::start(library, &stage.path), 0);
            app.sql("PRAGMA busy_timeout=300");
            while !stage.stop.load(Ordering::Relaxed) {
                let mode = ["TRUNCATE", "TRUNCATE", "RESTART", "FULL", "PASSIVE"][random.random_range(0..5)];
                let outcome = app.run(&format!("PRAGMA wal_checkpoint({mode})"));
                done += u32::from(outcome.is_ok_and(|outcome| outcome.starts_with("0|")));
                std::thread::sleep(Duration::from_millis(random.random_range(0..60)));
            }
            done
        })
    }
}

/// What the capture itself suffers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    /// It stops and starts again.
    Stops,
    /// Its locks on the wal-index vanish.
    LostLocks,
}

fn seconds() -> u64 {
    std::env::var_os("REPLICATE_CHAOS_SECONDS").and_then(|text| text.to_str()?.parse().ok()).unwrap_or(6)
}

fn chaos(directory: &Path, trouble: Trouble, seed: u64) -> Driver {
    println!("seed {seed}");
    let path = directory.join("a.db");
    let mut setup = App::start(Library::Bundled, &path);
    setup.sql("PRAGMA auto_vacuum=INCREMENTAL");
    setup.sql("PRAGMA journal_mode=WAL");
    workload::create(&mut setup);
    let mut driver = Driver::attached(&path);
    driver.sink.locks_vanish = trouble == Trouble::LostLocks;
    let stage = Stage { path: path.clone(), stop: Arc::default(), acknowledged: Arc::default() };
    let writers = [stage.writer(Library::Bundled, seed + 1), stage.writer(Library::System, seed + 2)];
    let checkpoints = stage.checkpoints(Library::Bundled, seed + 3);
    let mut random = Workload::new(seed, 1).random;
    let end = Instant::now() + Duration::from_secs(seconds());
    let (mut points, mut last_seq) = (0, 0);
    while Instant::now() < end {
        let poll = driver.poll().expect("it can be captured");
        if !driver.sink.commits.is_empty() && random.random_bool(0.01) {
            driver.sink.prove_image();
            assert_eq!(driver.ask(workload::CHECK), "1");
            let seq: i64 = driver.ask(workload::SEQ).parse().expect("a number");
            assert!(seq >= last_seq, "history went back");
            (points, last_seq) = (points + 1, seq);
        }
        if trouble == Trouble::Stops && random.random_bool(0.004) {
            driver.detach();
            std::thread::sleep(Duration::from_millis(random.random_range(0..150)));
        }
        if trouble == Trouble::LostLocks && random.random_bool(0.01) {
            drop(std::fs::File::open(path.with_extension("db-shm")));
            std::thread::sleep(Duration::from_millis(random.random_range(0..60)));
        }
        let pause = poll.and_then(|poll| poll.again_in).unwrap_or(Duration::from_millis(1));
        std::thread::sleep(pause.min(Duration::from_millis(1)));
    }
    stage.stop.store(true, Ordering::Relaxed);
    while !writers.iter().all(JoinHandle::is_finished) || !checkpoints.is_finished() {
        driver.poll().expect("it can be captured");
    }
    let kills: u32 = writers.into_iter().map(|writer| writer.join().expect("a writer")).sum();
    let done = checkpoints.join().expect("the checkpoints");
    driver.settle();
    let seq = setup.sql(workload::SEQ);
    assert_eq!(driver.ask(workload::SEQ), seq);
    assert_eq!(driver.ask(workload::CHECK), "1");
    let seq: i64 = seq.parse().expect("a number");
    assert!(seq >= stage.acknowledged.load(Ordering::Relaxed));
    println!(
        "{seq} transactions, {} captured, {points} points proven, {kills} kills, {done} checkpoints done, {} persists, repairs {:?}, gaps {:?}",
        driver.sink.captured(),
        driver.sink.persists,
        driver.sink.repairs(),
        driver.gaps
    );
    if trouble == Trouble::None {
        assert!(driver.sink.captured() as i64 >= seq, "a commit is missing");
    }
    driver
}

/// Two writers that are killed, and checkpoints in a loop: every commit by itself, no gap, no repair.
#[test]
fn chaos_of_writers_and_checkpoints_costs_no_commit() {
    let directory = tempfile::tempdir().expect("a directory");
    let driver = chaos(directory.path(), Trouble::None, 11);
    assert_eq!((driver.gaps.len(), driver.sink.repairs().len()), (0, 0), "{:?}", driver.gaps);
}

/// The capture stops and starts again among them: what it missed is repaired, never wrong.
#[test]
fn chaos_with_stops_of_the_capture_is_repaired() {
    let directory = tempfile::tempdir().expect("a directory");
    let driver = chaos(directory.path(), Trouble::Stops, 21);
    assert_eq!(driver.gaps.len(), 0, "{:?}", driver.gaps);
    assert!(driver.sink.repairs().iter().all(|reason| *reason == RepairReason::Away));
}

/// Its locks vanish again and again: every loss that mattered is noticed.
#[test]
fn chaos_with_lost_locks_is_noticed() {
    let directory = tempfile::tempdir().expect("a directory");
    chaos(directory.path(), Trouble::LostLocks, 31);
}
