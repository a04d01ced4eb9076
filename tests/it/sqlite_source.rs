//! Capture of live SQLite databases that other processes write.

mod app;
mod driver;
mod sink;

use app::{App, Library};
use driver::Driver;

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
