//! Ways in which tools of this kind have lost commits between the application and themselves: docs/known-losses.md.

use std::fs;
use std::io::Write;
use std::path::Path;

use replicate::engine::Engine;
use replicate::engine::sqlite::Sqlite;
use replicate::position::RepairReason;

use super::app::{App, Library};
use super::driver::Driver;
use super::wal::{Order, turn, unpublished_frame};
use super::{BOTH, locks, start};

fn wal_length(path: &Path) -> u64 {
    path.with_extension("db-wal").metadata().expect("the WAL").len()
}

/// A WAL that was started over while nobody looked and grew to the very same size is another life, not nothing new.
#[test]
fn loss_1_a_wal_of_equal_size_is_another_life() {
    for (library, restarts) in [(Library::Bundled, 1), (Library::System, 2)] {
        let (_directory, path, mut app) = start(library, "");
        app.sql("PRAGMA wal_autocheckpoint=0");
        app.sql("INSERT INTO t(id, v) VALUES (1, 0)");
        app.sql("PRAGMA wal_checkpoint(TRUNCATE)");
        let mut driver = Driver::attached(&path);
        (1..=4).for_each(|v| drop(app.sql(&format!("UPDATE t SET v = {v}"))));
        driver.settle();
        driver.detach();
        let length = wal_length(&path);
        for _ in 0..restarts {
            app.sql("PRAGMA wal_checkpoint(RESTART)");
            (1..=4).for_each(|v| drop(app.sql(&format!("UPDATE t SET v = v + {v} * 100"))));
        }
        assert_eq!(wal_length(&path), length, "the test is about equal sizes");
        driver.settle();
        assert_eq!(driver.sink.repairs(), [RepairReason::Away]);
        assert_eq!(driver.ask("SELECT v FROM t"), (4 + 1000 * restarts).to_string());
    }
}

/// A WAL whose checksums are in the other byte order, as another machine leaves it and SQLite goes on with it, is captured
/// commit by commit, also across a stop.
#[test]
fn loss_2_a_wal_of_the_other_byte_order_is_captured() {
    for library in BOTH {
        let (directory, path, mut app) = start(library, "PRAGMA page_size=1024");
        app.sql("PRAGMA wal_checkpoint(TRUNCATE)");
        app.sql("INSERT INTO t(v) VALUES ('before')");
        app.kill();
        let wal = directory.path().join("a.db-wal");
        let own = Order::of(&fs::read(&wal).expect("the WAL"));
        let turned = turn(&fs::read(&wal).expect("the WAL"), own.other());
        fs::write(&wal, turned).expect("written");
        fs::remove_file(directory.path().join("a.db-shm")).expect("it is there");
        let mut app = App::start(library, &path);
        assert_eq!(app.sql("SELECT v FROM t"), "before", "SQLite takes it for what it is");
        let mut driver = Driver::attached(&path);
        for v in ["one", "two"] {
            app.sql(&format!("INSERT INTO t(v) VALUES ('{v}')"));
        }
        driver.settle();
        driver.detach();
        app.sql("INSERT INTO t(v) VALUES ('three')");
        driver.settle();
        assert_eq!((driver.sink.captured(), driver.gaps.len(), driver.sink.repairs().len()), (3, 0, 0));
        assert_eq!(Order::of(&fs::read(&wal).expect("the WAL")), own.other(), "it was the other order all the time");
        assert_eq!(driver.ask("SELECT group_concat(v) FROM t"), "before,one,two,three");
    }
}

/// Attached when everything was checkpointed, so that the read mark is 0: the WAL may start over under it once, and never
/// a second time unseen.
#[test]
fn loss_3_a_read_mark_of_zero_loses_nothing() {
    for library in BOTH {
        let (_directory, path, mut app) = start(library, "");
        app.sql("PRAGMA wal_autocheckpoint=0; PRAGMA busy_timeout=20");
        app.sql("PRAGMA wal_checkpoint(RESTART)");
        let mut driver = Driver::attached(&path);
        for round in 0..5 {
            // Nobody looks while the application commits, checkpoints as far as it can and starts the WAL over.
            for _ in 0..3 {
                app.sql("INSERT INTO t(v) VALUES (randomblob(3000))");
                app.sql("PRAGMA wal_checkpoint(TRUNCATE)");
            }
            driver.settle();
            assert_eq!((driver.sink.captured(), driver.gaps.len()), ((round + 1) * 3, 0), "{:?}", driver.gaps);
        }
        assert_eq!(driver.sink.repairs(), []);
        assert_eq!(driver.ask("SELECT count(*) FROM t"), "15");
    }
}

/// With no checkpoint but ours the WAL starts over, and only behind commits that were made durable: the sink asserts it.
#[test]
fn loss_4_our_checkpoints_follow_what_is_durable() {
    for library in BOTH {
        let (_directory, path, mut app) = start(library, "PRAGMA page_size=4096");
        app.sql("PRAGMA wal_autocheckpoint=0");
        let mut driver = Driver::attached(&path);
        let mut written = 0;
        for round in 1..=100 {
            app.sql("INSERT INTO t(v) VALUES (randomblob(100000))");
            written += 26 * 4120;
            driver.until("the commit", |driver| driver.sink.captured() == round);
        }
        driver.settle();
        assert!(wal_length(&path) < written / 2, "it was never started over");
        assert!(driver.sink.persists > 0);
        assert_eq!((driver.sink.captured(), driver.gaps.len(), driver.sink.repairs().len()), (100, 0, 0));
    }
}

/// Bytes behind the published end of the WAL, from half a frame header to a whole commit with a valid checksum, are neither
/// captured nor taken for damage; what is written over them later is captured.
#[test]
fn loss_6_a_torn_tail_is_neither_data_nor_damage() {
    for bytes in [10, 24, 24 + 1000, 24 + 4096] {
        let (_directory, path, mut app) = start(Library::Bundled, "PRAGMA page_size=4096");
        app.sql("PRAGMA wal_autocheckpoint=0");
        let mut driver = Driver::attached(&path);
        app.sql("INSERT INTO t(v) VALUES ('first')");
        driver.settle();
        let wal = path.with_extension("db-wal");
        let frame = unpublished_frame(&fs::read(&wal).expect("the WAL"));
        let mut file = fs::OpenOptions::new().append(true).open(&wal).expect("the WAL");
        file.write_all(&frame[..bytes]).expect("written");
        drop(file);
        for _ in 0..20 {
            driver.poll().expect("no damage");
        }
        driver.settle();
        assert_eq!((driver.sink.captured(), driver.gaps.len()), (1, 0), "{bytes} bytes");
        app.sql("INSERT INTO t(v) VALUES ('second')");
        driver.settle();
        assert_eq!((driver.sink.captured(), driver.gaps.len()), (2, 0), "{bytes} bytes: {:?}", driver.gaps);
        assert_eq!(driver.ask("SELECT group_concat(v) FROM t"), "first,second");
    }
}

/// Seen from another process, our locks on the file and on the wal-index are there after everything that we do while we are
/// attached; and the last application to close the database does not remove the WAL.
#[test]
fn loss_8_our_locks_survive_whatever_we_do() {
    let (_directory, path, app) = start(Library::Bundled, "");
    let mut driver = Driver::attached(&path);
    app.close();
    let mut commits = 0;
    let mut prove = |driver: &mut Driver, what: &str| {
        let held = locks::held_by(&path, std::process::id());
        assert!(held.file && held.index_alive && held.read_mark, "{what}: {held:?}");
        let mut app = App::start(Library::System, &path);
        app.sql("INSERT INTO t(v) VALUES (1)");
        app.close();
        commits += 1;
        assert!(path.with_extension("db-wal").exists(), "{what}: the WAL was removed under us");
        driver.settle();
        assert_eq!((driver.sink.captured(), driver.gaps.len()), (commits, 0), "{what}: {:?}", driver.gaps);
    };
    prove(&mut driver, "attached");
    drop(Sqlite.open(&path, None).expect("a second source"));
    prove(&mut driver, "a second source was opened and closed");
    let mut resume = driver.sink.resume(Some(RepairReason::Away)).expect("a position");
    resume.position.clear();
    drop(Sqlite.open(&path, Some(resume)).expect("a second source"));
    prove(&mut driver, "a second source was opened with a position that does not connect");
    let link = path.with_file_name("link.db");
    std::os::unix::fs::symlink(&path, &link).expect("linked");
    drop(Sqlite.open(&link, None).expect("a second source"));
    prove(&mut driver, "a second source was opened by another name");
    let mut copy = driver.fuzzy_start();
    while !driver.fuzzy_step(&mut copy) {}
    prove(&mut driver, "a full copy was taken");
    driver.ask("SELECT count(*) FROM t");
    prove(&mut driver, "an image was checked");
    driver.detach();
    let held = locks::held_by(&path, std::process::id());
    assert!(!held.file && !held.index_alive && !held.read_mark, "the probe sees what is not there: {held:?}");
}
