//! An application that can wait for nothing.

use super::driver::Driver;
use super::{BOTH, start};

/// Writes without a pause and with a busy time-out of 0 are never refused, and all of them are captured. Once nobody writes any more, the
/// WAL starts over.
#[test]
fn no_write_is_ever_refused() {
    for library in BOTH {
        let (_directory, path, mut app) = start(library, "PRAGMA busy_timeout=0");
        let mut driver = Driver::attached(&path);
        driver.source.as_mut().expect("open").never_lock();
        let before = driver.sink.captured();
        let rounds = 400;
        for _ in 0..rounds {
            for _ in 0..10 {
                app.send("INSERT INTO t(v) VALUES (randomblob(3000))");
            }
            driver.poll().expect("it can be captured");
        }
        driver.until("all of them", |driver| driver.sink.captured() - before == rounds * 10);
        let refused: Vec<String> = (0..rounds * 10).filter_map(|_| app.outcome().err()).collect();
        assert_eq!(refused, Vec::<String>::new(), "{library:?}");
        assert_eq!((driver.gaps.len(), driver.sink.repairs().len()), (0, 0), "{:?}", driver.gaps);
        driver.settle_until(std::time::Duration::from_millis(150));
        let wal = path.with_extension("db-wal");
        let length = wal.metadata().expect("there").len();
        app.sql("INSERT INTO t(v) VALUES (1)");
        driver.settle();
        assert_eq!(wal.metadata().expect("there").len(), length, "written from its start");
        assert_eq!(driver.ask("SELECT count(*) FROM t"), (rounds * 10 + 1).to_string());
    }
}
