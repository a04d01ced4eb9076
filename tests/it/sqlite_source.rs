//! Capture of live SQLite databases that other processes write.

pub(crate) mod app;
mod chaos;
mod driver;
pub(crate) mod locks;
mod losses;
mod measure;
mod never_lock;
mod rested;
mod scenarios;
mod sink;
mod wal;
mod workload;

use app::{App, Library};
use driver::Driver;
use workload::Workload;

const BOTH: [Library; 2] = [Library::Bundled, Library::System];

/// A directory with a database in WAL mode, and an application that has it open.
fn start(library: Library, setup: &str) -> (tempfile::TempDir, std::path::PathBuf, App) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.db");
    let mut app = App::start(library, &path);
    app.sql(setup);
    app.sql("PRAGMA journal_mode=WAL");
    app.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    (directory, path, app)
}

/// Every commit arrives as a commit of its own, and the image after it is the database after it.
#[test]
fn every_commit_arrives_by_itself() {
    for library in BOTH {
        let (_directory, path, mut app) = start(library, "");
        let mut driver = Driver::attached(&path);
        assert_eq!(driver.sink.commits.len(), 1);
        for number in 1..=50 {
            app.sql(&format!("INSERT INTO t(v) VALUES (hex(randomblob({})))", number * 20));
            driver.until("a commit", |driver| driver.sink.captured() == number);
            driver.sink.prove_image();
            assert_eq!(driver.ask("SELECT count(*) FROM t"), number.to_string());
        }
        driver.settle();
        assert_eq!((driver.sink.commits.len(), driver.gaps.len()), (51, 0));
        app.close();
    }
}

/// Small changes travel as small runs, and after a stop without a reset of the WAL capture goes on without a repair.
#[test]
fn a_stop_and_a_start_lose_no_commit() {
    for library in BOTH {
        let (_directory, path, mut app) = start(library, "PRAGMA page_size=4096");
        app.sql("INSERT INTO t(id, v) VALUES (1, hex(randomblob(1000)))");
        let mut driver = Driver::attached(&path);
        for round in 1..=5 {
            driver.detach();
            app.sql("UPDATE t SET v = hex(randomblob(10)) || substr(v, 21)");
            app.sql("UPDATE t SET v = hex(randomblob(10)) || substr(v, 21)");
            driver.settle();
            assert_eq!((driver.sink.captured(), driver.sink.repairs().len()), (2 * round, 0));
        }
        app.sql("UPDATE t SET v = hex(randomblob(10)) || substr(v, 21)");
        driver.settle();
        assert!(driver.sink.commits.last().expect("a commit").bytes < 200, "a delta");
        assert_eq!(driver.ask("SELECT v FROM t"), app.sql("SELECT v FROM t"));
    }
}

/// All page sizes, with small caches that spill, rollbacks, savepoints and vacuums: the image stays exact throughout.
#[test]
fn loss_9_all_page_sizes_survive_spills_rollbacks_and_vacuums() {
    for (bits, library) in (9..=16).zip(BOTH.into_iter().cycle()) {
        let vacuum = ["NONE", "INCREMENTAL", "FULL"][bits % 3];
        let setup = format!("PRAGMA page_size={}; PRAGMA auto_vacuum={vacuum}", 1 << bits);
        let (_directory, path, mut app) = start(library, &setup);
        app.sql("DROP TABLE t");
        workload::create(&mut app);
        app.sql("PRAGMA cache_size=10");
        let mut driver = Driver::attached(&path);
        let mut workload = Workload::new(bits as u64, 300);
        for round in 0..40 {
            let (sql, _) = workload.transaction();
            app.sql(&sql);
            match round {
                15 => drop(app.sql("VACUUM")),
                25 => drop(app.sql("PRAGMA incremental_vacuum(5)")),
                _ => {}
            }
            driver.poll().expect("captured");
        }
        driver.settle();
        let seq = app.sql(workload::SEQ);
        assert_eq!(driver.ask(workload::SEQ), seq, "page size {}", 1 << bits);
        assert_eq!(driver.ask(workload::CHECK), "1");
        assert_eq!((driver.gaps.len(), driver.sink.repairs().len()), (0, 0), "{:?}", driver.gaps);
        assert!(driver.sink.captured() >= seq.parse::<usize>().expect("a number"));
    }
}

/// Foreign checkpoints of every mode succeed while we are attached, and cost nothing.
#[test]
fn loss_4_foreign_checkpoints_of_every_mode_lose_nothing() {
    for library in BOTH {
        let (_directory, path, mut app) = start(library, "");
        let mut other = App::start(library, &path);
        let mut driver = Driver::attached(&path);
        let mut committed = 0;
        for round in 0..40 {
            for _ in 0..3 {
                app.sql("INSERT INTO t(v) VALUES (hex(randomblob(3000)))");
                committed += 1;
            }
            let mode = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][round % 4];
            // No mode waits for a checkpoint that happens to run, and ours are some of those: SQLite
            // answers `1|-1|-1` at once, whatever the time-out. Asked again it must succeed.
            let mut outcome = String::new();
            for _ in 0..20 {
                outcome = foreign_checkpoint(&mut other, &mut driver, mode, committed);
                if outcome != "1|-1|-1" {
                    break;
                }
            }
            assert!(outcome.starts_with("0|") || mode == "PASSIVE", "{mode} was refused: {outcome}");
        }
        driver.settle();
        assert_eq!((driver.gaps.len(), driver.sink.repairs().len()), (0, 0), "{:?}", driver.gaps);
        assert_eq!(driver.ask("SELECT count(*) FROM t"), committed.to_string());
    }
}

fn foreign_checkpoint(other: &mut App, driver: &mut Driver, mode: &str, committed: usize) -> String {
    other.send(&format!("PRAGMA wal_checkpoint({mode})"));
    driver.until("the commits", |driver| driver.sink.captured() == committed);
    loop {
        driver.poll().expect("captured");
        if let Some(outcome) = other.ready() {
            return outcome.expect("a checkpoint");
        }
    }
}

/// A transaction too large to be kept in memory is one commit, and exact.
#[test]
fn a_large_transaction_is_one_commit() {
    let (_directory, path, mut app) = start(Library::Bundled, "PRAGMA cache_size=50");
    let mut driver = Driver::attached(&path);
    let fill =
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 12000) SELECT i, randomblob(3000)";
    app.sql(&format!("INSERT INTO t {fill} FROM c"));
    driver.settle();
    app.sql("UPDATE t SET v = randomblob(3000) WHERE id % 2 = 0");
    driver.settle();
    app.sql("DELETE FROM t WHERE id > 1000");
    app.sql("VACUUM");
    driver.settle();
    assert_eq!((driver.sink.captured(), driver.gaps.len()), (4, 0));
    assert_eq!(driver.ask("SELECT count(*) FROM t"), "1000");
}

/// A copy read slice by slice while commits, checkpoints and vacuums go on is exact where it ends.
#[test]
fn a_copy_taken_meanwhile_is_exact_where_it_ends() {
    let (_directory, path, mut app) = start(Library::System, "");
    let rows = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 9000) SELECT i, randomblob(3000) FROM c";
    app.sql(&format!("INSERT INTO t {rows}"));
    let mut driver = Driver::attached(&path);
    for round in 0..4 {
        let mut copy = driver.fuzzy_start();
        loop {
            app.sql("UPDATE t SET v = randomblob(3000) WHERE id % 500 = abs(random()) % 500");
            app.sql("INSERT INTO t(v) VALUES (randomblob(30000))");
            match (round, copy.slices) {
                (1, 3) => drop(app.sql("DELETE FROM t WHERE id % 2 = 0")),
                (1, 4) => drop(app.sql("VACUUM")),
                (2, 2) => drop(app.sql("PRAGMA wal_checkpoint(RESTART)")),
                _ => {}
            }
            driver.settle();
            if driver.fuzzy_step(&mut copy) {
                break;
            }
        }
        assert!(copy.slices > 3);
    }
    assert_eq!((driver.gaps.len(), driver.sink.repairs().len()), (0, 0));
}

/// Attached and detached, we leave the database file, its WAL and its directory as they are; idle, we ask for nothing.
#[test]
fn nothing_is_written_and_an_idle_database_costs_nothing() {
    let (directory, path, mut app) = start(Library::Bundled, "");
    app.sql("PRAGMA wal_autocheckpoint=0");
    app.sql("INSERT INTO t(v) VALUES (1)");
    let files = || {
        let read = |name| std::fs::read(directory.path().join(name)).expect("a file");
        (read("a.db"), read("a.db-wal"), std::fs::read_dir(directory.path()).expect("a directory").count())
    };
    let before = files();
    let mut driver = Driver::attached(&path);
    driver.settle_until(std::time::Duration::from_secs(3600));
    assert_eq!(driver.poll().expect("captured").and_then(|poll| poll.again_in), None);
    assert_eq!((driver.sink.commits.len(), driver.sink.persists), (1, 0));
    driver.detach();
    assert!(files() == before);
}
