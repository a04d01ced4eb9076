//! A database that was let go of while at rest: what proves that no commit was missed, and what does not.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use replicate::position::RepairReason;

use super::app::App;
use super::driver::Driver;
use super::{BOTH, start};

const BIG: &str = "INSERT INTO t(v) VALUES (randomblob(200000))";
/// A file that was written longer ago than this is settled.
const SETTLED: Duration = Duration::from_millis(2100);

/// A database whose WAL is folded into its file, let go of.
fn folded(path: &Path, app: &mut App) -> Driver {
    let mut driver = Driver::attached(path);
    app.sql("INSERT INTO t(v) VALUES ('first')");
    driver.settle();
    app.sql("PRAGMA wal_checkpoint(PASSIVE)");
    driver.settle();
    sleep(SETTLED);
    driver.settle();
    driver
}

/// The WAL started over, and its frames cover those that were captured: the file, which nobody touched, proves that they are all
/// that happened. Each commit arrives by itself.
#[test]
fn loss_7_an_untouched_file_proves_what_the_log_holds() {
    for library in BOTH {
        let (_directory, path, mut app) = start(library, "");
        let mut driver = folded(&path, &mut app);
        assert!(driver.park(), "it is at rest");
        let before = driver.sink.captured();
        for _ in 0..3 {
            app.sql(BIG);
        }
        driver.settle();
        assert_eq!((driver.sink.captured() - before, driver.sink.repairs().len()), (3, 0));
        assert_eq!(driver.ask("SELECT sum(length(v)) FROM t"), app.sql("SELECT sum(length(v)) FROM t"));
        // Without what was noted, the same cannot be told from a log that started over twice.
        drop(driver);
        let mut driver = folded(&path, &mut app);
        driver.detach();
        for _ in 0..9 {
            app.sql(BIG);
        }
        driver.settle();
        assert_eq!(driver.sink.repairs(), [RepairReason::Away]);
    }
}

/// A file that was written to meanwhile proves nothing: it is compared, and the replica is level.
#[test]
fn loss_7_a_file_that_was_touched_proves_nothing() {
    for end in ["PRAGMA wal_checkpoint(PASSIVE)", "PRAGMA wal_checkpoint(TRUNCATE)", ""] {
        let (_directory, path, mut app) = start(BOTH[0], "");
        let mut driver = folded(&path, &mut app);
        assert!(driver.park());
        app.sql(BIG);
        match end {
            "" => app.close(),
            checkpoint => {
                app.sql(checkpoint);
                app.sql(BIG);
                app.sql(BIG);
            }
        }
        driver.settle();
        assert_eq!(driver.sink.repairs(), [RepairReason::Away], "{end:?}");
        let count = if end.is_empty() { "2" } else { "4" };
        assert_eq!(driver.ask("SELECT count(*) FROM t"), count, "{end:?}");
    }
}

/// While something is only in the WAL, or the file was written a moment ago, nothing is noted; and the WAL goes on where it was.
#[test]
fn nothing_is_noted_of_a_database_that_is_not_at_rest() {
    let (_directory, path, mut app) = start(BOTH[0], "");
    let mut driver = Driver::attached(&path);
    app.sql(BIG);
    driver.settle();
    assert!(!driver.park(), "it is in the WAL only");
    app.sql(BIG);
    driver.settle();
    app.sql("PRAGMA wal_checkpoint(PASSIVE)");
    driver.settle();
    assert!(!driver.park(), "the file was written just now");
    app.sql(BIG);
    driver.settle();
    assert_eq!(driver.sink.repairs(), []);
    assert_eq!(driver.ask("SELECT count(*) FROM t"), "3");
}
