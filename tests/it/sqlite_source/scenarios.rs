//! What happens to a database besides commits: stops, replacements, other modes, lost locks, old libraries.

use std::fs;

use replicate::engine::sqlite::Sqlite;
use replicate::engine::{Engine, EngineError};
use replicate::position::RepairReason;

use super::app::{App, Library};
use super::driver::Driver;
use super::{BOTH, start};

/// The WAL was folded in and cut while we were away: one repairing commit with the changed pages, in the same history.
#[test]
fn loss_7_a_log_discarded_while_away_is_repaired() {
    for library in BOTH {
        let (_directory, path, mut app) = start(library, "");
        let fill =
            "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 200) SELECT randomblob(3000)";
        app.sql(&format!("INSERT INTO t(v) {fill} FROM c"));
        let mut driver = Driver::attached(&path);
        driver.detach();
        for _ in 0..2 {
            app.sql("UPDATE t SET v = randomblob(3000) WHERE id < 10");
            app.sql("PRAGMA wal_checkpoint(TRUNCATE)");
        }
        app.sql("INSERT INTO t(v) VALUES (1)");
        driver.settle();
        assert_eq!(driver.sink.repairs(), [RepairReason::Away]);
        assert!(driver.sink.commits.last().expect("a commit").bytes < 40 * 4096, "only changed pages");
        assert_eq!(driver.ask("SELECT sum(length(v)) FROM t"), app.sql("SELECT sum(length(v)) FROM t"));
        // The last process closes the database, so the WAL vanishes.
        driver.detach();
        app.sql("DELETE FROM t WHERE id > 100");
        app.close();
        assert!(!path.with_extension("db-wal").exists());
        driver.settle();
        assert_eq!(driver.sink.repairs().len(), 2);
        assert_eq!(driver.ask("SELECT count(*) FROM t"), "100");
    }
}

/// One restart of the WAL while away, nothing missed: every commit still arrives by itself.
#[test]
fn loss_7_one_restart_while_away_is_proven() {
    let (_directory, path, mut app) = start(Library::Bundled, "");
    for _ in 0..20 {
        app.sql("INSERT INTO t(v) VALUES (randomblob(3000))");
    }
    let mut driver = Driver::attached(&path);
    driver.detach();
    app.sql("PRAGMA wal_checkpoint(PASSIVE)");
    app.sql("INSERT INTO t(v) VALUES (1)");
    app.sql("INSERT INTO t(v) VALUES (2)");
    driver.settle();
    assert_eq!((driver.sink.captured(), driver.sink.repairs().len()), (2, 0));
    // Not proven when the old life went on after the position.
    driver.detach();
    app.sql("INSERT INTO t(v) VALUES (randomblob(9000))");
    app.sql("PRAGMA wal_checkpoint(PASSIVE)");
    app.sql("INSERT INTO t(v) VALUES (4)");
    driver.settle();
    assert_eq!((driver.sink.captured(), driver.sink.repairs()), (2, vec![RepairReason::Away]));
    assert_eq!(driver.ask("SELECT count(*) FROM t"), "24");
}

/// Replacement by rename and deletion with recreation are noticed while attached, and repaired from the new file.
#[test]
fn loss_9_a_replaced_file_is_repaired() {
    for recreate in [false, true] {
        let (directory, path, mut app) = start(Library::Bundled, "PRAGMA page_size=4096");
        app.sql("INSERT INTO t(v) VALUES ('old')");
        let mut driver = Driver::attached(&path);
        app.close();
        let files = ["a.db", "a.db-wal", "a.db-shm"].map(|name| directory.path().join(name));
        let other = directory.path().join(if recreate { "a.db" } else { "b.db" });
        if recreate {
            files.iter().for_each(|file| fs::remove_file(file).expect("it is there"));
            driver.poll().expect("a gap, not an error");
            assert!(matches!(driver.poll(), Err(EngineError::Absent { .. })));
        }
        let mut app = App::start(Library::System, &other);
        app.sql(if recreate { "PRAGMA page_size=1024" } else { "PRAGMA page_size=4096" });
        app.sql("PRAGMA journal_mode=WAL");
        app.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
        app.sql("INSERT INTO t(v) VALUES ('new')");
        app.close();
        if !recreate {
            files[1..].iter().for_each(|file| fs::remove_file(file).expect("it is there"));
            fs::rename(&other, &path).expect("a rename");
        }
        driver.settle();
        assert_eq!(driver.gaps.first().map(|gap| gap.0), Some(RepairReason::FileReplaced));
        assert_eq!(driver.sink.repairs(), [RepairReason::FileReplaced]);
        assert_eq!(driver.ask("SELECT group_concat(v) FROM t"), "new");
    }
}

/// While attached the journal mode cannot leave WAL. Offline it can, also with another page size; both are repaired.
#[test]
fn loss_9_journal_mode_and_page_size_may_change_offline() {
    let (_directory, path, mut app) = start(Library::System, "PRAGMA page_size=1024");
    app.sql("INSERT INTO t(v) SELECT hex(randomblob(20000))");
    let mut driver = Driver::attached(&path);
    app.sql("PRAGMA busy_timeout=10");
    assert_eq!(app.run("PRAGMA journal_mode=DELETE"), Err("database is locked".into()));
    driver.detach();
    assert_eq!(app.sql("PRAGMA journal_mode=DELETE"), "delete");
    assert!(matches!(driver.poll(), Err(EngineError::NotCapturable { .. })));
    app.sql("PRAGMA page_size=8192");
    app.sql("VACUUM");
    app.sql("PRAGMA journal_mode=WAL");
    app.sql("INSERT INTO t(v) VALUES ('after')");
    driver.settle();
    assert_eq!(driver.sink.repairs(), [RepairReason::FileReplaced]);
    assert_eq!(driver.ask("SELECT sum(length(v)) FROM t"), "40005");
    assert_eq!(driver.ask("PRAGMA page_size"), "8192");
}

/// An old copy put back, WAL and all, is behind the replica: repaired with that reason.
#[test]
fn loss_15_an_old_copy_put_back_is_a_replica_ahead() {
    let (directory, path, mut app) = start(Library::Bundled, "");
    let mut driver = Driver::attached(&path);
    app.sql("INSERT INTO t(v) VALUES ('first')");
    driver.settle();
    let files = ["a.db", "a.db-wal"].map(|name| directory.path().join(name));
    let copies = files.clone().map(|file| fs::read(file).expect("a file"));
    app.sql("INSERT INTO t(v) VALUES ('second')");
    driver.settle();
    driver.detach();
    app.kill();
    for (file, copy) in files.iter().zip(copies) {
        fs::write(file, copy).expect("written in place");
    }
    fs::remove_file(directory.path().join("a.db-shm")).expect("it is there");
    driver.settle();
    assert_eq!(driver.sink.repairs(), [RepairReason::ReplicaAhead]);
    assert_eq!(driver.ask("SELECT group_concat(v) FROM t"), "first");
}

/// Frames of a transaction that spilled into the WAL and whose writer was killed are never captured.
#[test]
fn loss_5_a_spilled_and_killed_transaction_is_not_captured() {
    for library in BOTH {
        let (_directory, path, mut app) = start(library, "");
        let mut driver = Driver::attached(&path);
        app.sql("PRAGMA cache_size=5");
        app.sql("INSERT INTO t(v) VALUES ('whole')");
        let fill =
            "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 200) SELECT randomblob(3000)";
        app.sql("BEGIN");
        app.sql(&format!("INSERT INTO t(v) {fill} FROM c"));
        driver.settle();
        app.kill();
        driver.settle();
        let mut app = App::start(library, &path);
        app.sql("INSERT INTO t(v) VALUES ('next')");
        driver.settle();
        assert_eq!((driver.sink.captured(), driver.gaps.len()), (2, 0));
        assert_eq!(driver.ask("SELECT group_concat(v) FROM t"), "whole,next");
    }
}

/// Our own locks lost (a descriptor of the -shm closed in this process): the reset behind our back is noticed and repaired.
#[test]
fn loss_8_a_lost_lock_is_noticed_by_the_count_of_commits() {
    let (_directory, path, mut app) = start(Library::Bundled, "");
    app.sql("PRAGMA wal_autocheckpoint=0");
    let mut driver = Driver::attached(&path);
    for _ in 0..5 {
        app.sql("INSERT INTO t(v) VALUES (randomblob(2000))");
    }
    driver.settle();
    drop(fs::File::open(path.with_extension("db-shm")).expect("the wal-index"));
    app.sql("INSERT INTO t(v) VALUES ('missed')");
    app.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    app.sql("INSERT INTO t(v) VALUES ('seen')");
    driver.settle();
    assert_eq!(driver.gaps.len(), 1, "{:?}", driver.gaps);
    assert_eq!(driver.gaps[0].0, RepairReason::LogDiscarded);
    assert_eq!(driver.sink.repairs().len(), 1);
    assert_eq!(driver.ask("SELECT count(*) FROM t"), "7");
}

/// A SQLite before 3.50 commits frames without checksums after a failed bulk insert: they are captured nevertheless.
#[test]
fn a_broken_checksum_chain_is_captured_by_the_index() {
    let (_directory, path, mut app) = start(Library::System, "");
    app.sql("INSERT INTO t(id, v) VALUES (1000000, 1)");
    app.sql("PRAGMA cache_size=50");
    let mut driver = Driver::attached(&path);
    app.sql("CREATE INDEX tv ON t(v)");
    let rows = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 30000)
         SELECT i, hex(randomblob(20)) FROM c";
    app.sql("BEGIN");
    app.run(&format!("!INSERT INTO t {rows} UNION ALL SELECT 1000000, 2")).expect_err("not unique");
    app.sql("INSERT INTO t(v) VALUES ('after')");
    app.sql("COMMIT");
    for _ in 0..50 {
        app.sql("INSERT INTO t(v) VALUES ('more')");
    }
    let old = app.sql("SELECT sqlite_version() < '3.5'");
    let wal = fs::read(path.with_extension("db-wal")).expect("the WAL");
    let blank = wal[32..].chunks(4096 + 24).filter(|frame| frame[..4] != [0; 4] && frame[8..24] == [0; 16]).count();
    assert!(blank > 0 || old == "0", "this library is to have the defect");
    driver.settle();
    assert_eq!((driver.sink.captured(), driver.gaps.len()), (52, 0), "{:?}", driver.gaps);
    assert_eq!(driver.ask("SELECT count(*) FROM t"), "52");
}

/// A full spool ends the source; a new one goes on, and nothing is lost as long as the WAL is there.
#[test]
fn a_full_spool_ends_the_source_and_a_new_one_goes_on() {
    let (_directory, path, mut app) = start(Library::Bundled, "");
    let mut driver = Driver::attached(&path);
    driver.sink.full = true;
    app.sql("INSERT INTO t(v) VALUES (1)");
    let error = loop {
        if let Err(error) = driver.poll() {
            break error;
        }
    };
    assert!(matches!(error, EngineError::Sink(_)), "{error}");
    app.sql("INSERT INTO t(v) VALUES (2)");
    driver.sink.full = false;
    driver.settle();
    assert_eq!((driver.sink.captured(), driver.sink.repairs().len()), (2, 0));
}

/// What cannot be captured is refused with a next step, and nothing is created: absent, empty, no database, rollback
/// journal, wal2, held exclusively.
#[test]
fn what_cannot_be_captured_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.db");
    let open = || Sqlite.open(&path, None).map(|_| ());
    assert!(matches!(open(), Err(EngineError::Absent { .. })));
    fs::write(&path, b"").expect("an empty file");
    assert!(matches!(open(), Err(EngineError::Absent { .. })));
    fs::write(&path, [7u8; 8192]).expect("a file");
    assert!(matches!(open(), Err(EngineError::NotCapturable { .. })));
    fs::remove_file(&path).expect("it is there");
    let mut app = App::start(Library::System, &path);
    app.sql("CREATE TABLE t(v)");
    let refused = open().expect_err("a rollback journal");
    assert!(refused.to_string().contains("PRAGMA journal_mode=WAL"), "{refused}");
    assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 1);
    app.sql("PRAGMA locking_mode=EXCLUSIVE");
    app.sql("PRAGMA journal_mode=WAL");
    app.sql("INSERT INTO t VALUES (1)");
    assert!(matches!(open(), Err(EngineError::Busy(_))));
    app.close();
    let mut bytes = fs::read(&path).expect("the file");
    (bytes[18], bytes[19]) = (3, 3);
    fs::write(&path, bytes).expect("the file");
    assert!(matches!(open(), Err(EngineError::NotCapturable { .. })));
}
