//! Figures, printed and not judged. Run with `REPLICATE_MEASURE=1` and `--nocapture`.

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use notify::{RecursiveMode, Watcher};
use replicate::engine::sqlite::Sqlite;
use replicate::engine::{Engine, NewCommit, SinkError, TransactionSink};
use replicate::extent::{Extent, PageGrid};
use replicate::position::Txid;

use super::app::{App, Library};
use super::driver::Driver;

/// Counts, and keeps nothing.
#[derive(Default)]
struct CountingSink {
    commits: u64,
    bytes: u64,
    persists: u64,
}

impl TransactionSink for CountingSink {
    fn begin(&mut self, _: PageGrid) -> Result<(), SinkError> {
        Ok(())
    }
    fn extent(&mut self, extent: Extent<'_>) -> Result<(), SinkError> {
        self.bytes += extent.data.len() as u64;
        Ok(())
    }
    fn page(&mut self, _: u64, _: u64) -> Result<(), SinkError> {
        Ok(())
    }
    fn commit(&mut self, _: NewCommit<'_>) -> Result<Txid, SinkError> {
        self.commits += 1;
        Ok(Txid(self.commits))
    }
    fn abandon(&mut self) {}
    fn persist(&mut self) -> Result<(), SinkError> {
        self.persists += 1;
        Ok(())
    }
}

/// CPU time of this thread.
fn cpu() -> Duration {
    // SAFETY: getrusage fills the struct it is given.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &mut usage), 0);
        usage
    };
    let time = |value: libc::timeval| Duration::new(value.tv_sec as u64, value.tv_usec as u32 * 1000);
    time(usage.ru_utime) + time(usage.ru_stime)
}

fn wanted() -> bool {
    std::env::var_os("REPLICATE_MEASURE").is_some()
}

/// What wakes the capture.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Wake {
    Events,
    /// File events, gathered for this long.
    Gathered(Duration),
    Timer(Duration),
}

/// Captures while the application works.
fn capture_while(
    path: &Path,
    sink: &mut CountingSink,
    app: &mut App,
    (work, wake): (&str, Wake),
) -> (String, Duration, u64) {
    let (sender, events) = mpsc::channel();
    let mut watcher = notify::recommended_watcher(move |_| sender.send(()).unwrap_or_default()).expect("a watcher");
    if !matches!(wake, Wake::Timer(_)) {
        watcher.watch(path.parent().expect("a directory"), RecursiveMode::NonRecursive).expect("a watch");
    }
    let mut source = Sqlite.open(path, None).expect("open");
    while source.poll(sink).expect("captured").first_read.is_some() {}
    app.send(work);
    let (start, mut polls) = (cpu(), 0);
    let outcome = loop {
        if let Some(outcome) = app.ready() {
            break outcome.expect("figures");
        }
        let poll = source.poll(sink).expect("captured");
        polls += 1;
        if let Wake::Timer(pause) = wake {
            std::thread::sleep(pause);
        } else if let Ok(()) = events.recv_timeout(poll.again_in.unwrap_or(Duration::from_millis(100))) {
            if let Wake::Gathered(pause) = wake {
                std::thread::sleep(pause);
            }
            events.try_iter().for_each(drop);
        }
    };
    (outcome, cpu() - start, polls)
}

/// Prints the writer's commit latency alone and with us, and our CPU per commit.
#[test]
fn commit_latency_with_and_without_us() {
    if !wanted() {
        return;
    }
    for (name, pause_us) in [("hot", 0), ("1 ms pause", 1000)] {
        let (_directory, path, mut app) = super::start(Library::Bundled, "");
        app.sql("PRAGMA synchronous=NORMAL");
        println!("{name}, alone: {}", app.sql(&format!(".measure {pause_us}")));
        println!("{name}, alone: {}", app.sql(&format!(".measure {pause_us}")));
        let work = format!(".measure {pause_us}");
        let gathered = Wake::Gathered(Duration::from_millis(2));
        for wake in [Wake::Events, gathered, Wake::Timer(Duration::from_millis(5))] {
            let mut sink = CountingSink::default();
            let (outcome, cpu, polls) = capture_while(&path, &mut sink, &mut app, (&work, wake));
            println!("{name}, with us by {wake:?}: {outcome}");
            let each = cpu / u32::try_from(sink.commits).expect("few").max(1);
            println!(
                "{name}: {} commits, {} bytes, {} persists, {polls} polls, CPU {each:?} per commit",
                sink.commits, sink.bytes, sink.persists
            );
        }
    }
}

/// Prints the throughput of the first full read.
#[test]
fn first_read_throughput() {
    if !wanted() {
        return;
    }
    let (_directory, path, mut app) = super::start(Library::Bundled, "");
    let rows = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 500) SELECT randomblob(1000000) FROM c";
    app.sql(&format!("INSERT INTO t(v) {rows}"));
    app.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    let length = std::fs::metadata(&path).expect("the file").len();
    let mut source = Sqlite.open(&path, None).expect("open");
    let (mut sink, start, cpu_start) = (CountingSink::default(), Instant::now(), cpu());
    while sink.commits == 0 {
        source.poll(&mut sink).expect("captured");
    }
    let (wall, used) = (start.elapsed(), cpu() - cpu_start);
    let rate = |time: Duration| length as f64 / 1e6 / time.as_secs_f64();
    println!("first read of {} MB: {:.0} MB/s, {:.0} MB per CPU second", length / 1_000_000, rate(wall), rate(used));
}

/// A database beyond 1 GiB with 64 KiB pages: the page that holds the lock bytes is skipped everywhere. Heavy, so on demand.
#[test]
fn loss_9_the_lock_page_is_skipped() {
    if std::env::var_os("REPLICATE_LONG").is_none() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.db");
    let mut app = App::start(Library::Bundled, &path);
    app.sql("PRAGMA page_size=65536; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF");
    app.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    app.sql("INSERT INTO t(v) VALUES (zeroblob(900000000)), (zeroblob(172000000))");
    app.sql("PRAGMA journal_mode=WAL");
    let mut driver = Driver::attached(&path);
    let before = driver.sink.image.len() as u64;
    app.sql("INSERT INTO t(v) VALUES (randomblob(5000000))");
    driver.settle();
    app.sql("UPDATE t SET v = randomblob(5000000) WHERE id = 3");
    driver.settle();
    assert!(before < 1 << 30 && driver.sink.image.len() as u64 > (1 << 30) + 65536);
    assert_eq!((driver.sink.captured(), driver.gaps.len()), (2, 0));
    assert_eq!(driver.ask("SELECT sum(length(v)) FROM t"), "1077000000");
    let hashes = driver.sink.map.as_ref().expect("a map");
    assert!(hashes.get(16384) == 0 && hashes.get(16383) != 0 && hashes.get(16385) != 0);
    driver.detach();
    app.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    app.sql("UPDATE t SET v = randomblob(5000000) WHERE id = 3");
    driver.settle();
    assert_eq!(driver.sink.repairs().len(), 1);
}
