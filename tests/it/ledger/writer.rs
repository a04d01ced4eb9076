//! The writing application of the ledger tests: a process of its own, the test binary started again.
//!
//! Every transaction moves a content sum kept in the database itself and is recorded in a ledger file once it is
//! acknowledged, so that any restored state can be compared with what was recorded for it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use rusqlite::{Connection, OptionalExtension};

/// What one writer does. Passed to the child in its environment, as `key=value` pairs.
#[derive(Debug, Clone)]
pub struct WriterPlan {
    pub database: PathBuf,
    pub ledger: PathBuf,
    pub name: String,
    pub seed: u64,
    pub seconds: f64,
    /// Upper bound of the pause between transactions, microseconds.
    pub pause_us: u64,
    pub autocheckpoint: u32,
    pub synchronous: &'static str,
    /// Probability after each transaction of an explicit checkpoint of a random mode.
    pub checkpoint: f64,
    /// Probability after each transaction of a VACUUM or incremental vacuum.
    pub vacuum: f64,
    /// Probability that a transaction is a large one (thousands of rows).
    pub large: f64,
}

impl WriterPlan {
    pub fn new(database: &Path, ledger: &Path, name: &str, seed: u64, seconds: f64) -> Self {
        WriterPlan {
            database: database.into(),
            ledger: ledger.into(),
            name: name.into(),
            seed,
            seconds,
            pause_us: 8_000,
            autocheckpoint: 1000,
            synchronous: "normal",
            checkpoint: 0.0,
            vacuum: 0.0,
            large: 0.01,
        }
    }

    /// Starts the writer in a process of its own.
    pub fn spawn(&self) -> Child {
        let text = format!(
            "{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}",
            self.database.display(),
            self.ledger.display(),
            self.name,
            self.seed,
            self.seconds,
            self.pause_us,
            self.autocheckpoint,
            self.synchronous,
            self.checkpoint,
            self.vacuum,
            self.large
        );
        Command::new(std::env::current_exe().expect("the test binary has a path"))
            .args(["ledger::writer::writer_process", "--exact", "--ignored", "--nocapture"])
            .env("LEDGER_WRITER", text)
            .stdout(Stdio::null())
            .spawn()
            .expect("the test binary starts again")
    }

    #[expect(clippy::disallowed_methods, reason = "what a test is to do comes from its environment")]
    fn from_environment() -> Option<WriterPlan> {
        let text = std::env::var("LEDGER_WRITER").ok()?;
        let fields: Vec<&str> = text.lines().collect();
        let number = |i: usize| fields[i].parse::<f64>().expect("a number");
        Some(WriterPlan {
            database: fields[0].into(),
            ledger: fields[1].into(),
            name: fields[2].into(),
            seed: fields[3].parse().expect("a seed"),
            seconds: number(4),
            pause_us: number(5) as u64,
            autocheckpoint: number(6) as u32,
            synchronous: if fields[7] == "full" { "full" } else { "normal" },
            checkpoint: number(8),
            vacuum: number(9),
            large: number(10),
        })
    }
}

/// What a row weighs in the content sum.
pub fn row_weight(id: i64, value: &[u8]) -> i64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(value, id as u64) as i64
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

/// Creates the database, in WAL mode, with an empty content of sum 0.
pub fn create_database(path: &Path, page_size: u32, auto_vacuum: u32) {
    let connection = Connection::open(path).expect("database opens");
    connection
        .execute_batch(&format!(
            "PRAGMA page_size={page_size}; PRAGMA auto_vacuum={auto_vacuum}; PRAGMA journal_mode=WAL;
             CREATE TABLE account(id INTEGER PRIMARY KEY, seq INTEGER, sum INTEGER);
             CREATE TABLE item(id INTEGER PRIMARY KEY, value BLOB);
             CREATE INDEX item_value ON item(value);
             INSERT INTO account VALUES(1, 0, 0);"
        ))
        .expect("schema");
}

/// The body of the child process.
#[test]
#[ignore = "a child process of the ledger tests, not a test"]
fn writer_process() {
    let plan = WriterPlan::from_environment().expect("started by the ledger tests only");
    Writer::open(plan).run();
}

struct Writer {
    plan: WriterPlan,
    connection: Connection,
    ledger: File,
    random: StdRng,
}

/// A transaction that another connection refused; anything else ends the writer.
fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked))
}

impl Writer {
    fn open(plan: WriterPlan) -> Writer {
        let connection = Connection::open(&plan.database).expect("database opens");
        connection.busy_timeout(Duration::from_secs(20)).expect("busy timeout");
        connection
            .execute_batch(&format!(
                "PRAGMA wal_autocheckpoint={}; PRAGMA synchronous={}; PRAGMA cache_size=50;",
                plan.autocheckpoint, plan.synchronous
            ))
            .expect("pragmas");
        let ledger = OpenOptions::new().create(true).append(true).open(&plan.ledger).expect("ledger opens");
        let random = StdRng::seed_from_u64(plan.seed);
        Writer { plan, connection, ledger, random }
    }

    fn run(mut self) {
        let end = Instant::now() + Duration::from_secs_f64(self.plan.seconds);
        while Instant::now() < end {
            match self.transaction() {
                Ok(()) => {}
                Err(error) if is_busy(&error) => self.rollback_if_open(),
                Err(error) => panic!("writer {}: {error}", self.plan.name),
            }
            self.maintenance();
            std::thread::sleep(Duration::from_micros(self.random.random_range(0..=self.plan.pause_us)));
        }
    }

    fn rollback_if_open(&self) {
        if !self.connection.is_autocommit() {
            self.connection.execute_batch("ROLLBACK").expect("rollback");
        }
    }

    fn transaction(&mut self) -> rusqlite::Result<()> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let (seq, mut sum): (i64, i64) =
            self.connection.query_row("SELECT seq, sum FROM account", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        if self.random.random_bool(0.1) {
            // A savepoint that is taken back: its pages may have been spilled into the WAL.
            self.connection.execute_batch("SAVEPOINT inner")?;
            let mut lost = sum;
            for _ in 0..self.random.random_range(1..80) {
                self.change(&mut lost)?;
            }
            self.connection.execute_batch("ROLLBACK TO inner; RELEASE inner")?;
        }
        let changes = if self.random.random_bool(self.plan.large) {
            self.random.random_range(500..4000)
        } else {
            [1, 1, 1, 2, 3, 5, 8, 20][self.random.random_range(0..8)]
        };
        for _ in 0..changes {
            self.change(&mut sum)?;
        }
        if self.random.random_bool(0.06) {
            for _ in 0..self.random.random_range(1..150) {
                self.change(&mut sum)?;
            }
            return self.connection.execute_batch("ROLLBACK");
        }
        self.connection.execute("UPDATE account SET seq=?, sum=?", (seq + 1, sum))?;
        let before = now_ms();
        self.connection.execute_batch("COMMIT")?;
        let line = format!("{} {} {} {}\n", seq + 1, sum, before, now_ms());
        self.ledger.write_all(line.as_bytes()).expect("ledger is written");
        Ok(())
    }

    /// Replaces, inserts or deletes one row and moves the sum with it.
    fn change(&mut self, sum: &mut i64) -> rusqlite::Result<()> {
        let id = self.random.random_range(0..4000i64);
        let old: Option<Vec<u8>> = self
            .connection
            .prepare_cached("SELECT value FROM item WHERE id=?")?
            .query_row([id], |row| row.get(0))
            .optional()?;
        if let Some(old) = &old {
            *sum = sum.wrapping_sub(row_weight(id, old));
        }
        if old.is_some() && self.random.random_bool(0.25) {
            self.connection.prepare_cached("DELETE FROM item WHERE id=?")?.execute([id])?;
        } else {
            let mut value = vec![0u8; self.random.random_range(8..500)];
            self.random.fill_bytes(&mut value);
            // Half of each value is text-like, so that pages are neither random nor constant.
            let half = value.len() / 2;
            value[..half].fill(b'x');
            self.connection.prepare_cached("INSERT OR REPLACE INTO item VALUES(?, ?)")?.execute((id, &value))?;
            *sum = sum.wrapping_add(row_weight(id, &value));
        }
        Ok(())
    }

    /// Checkpoints of all modes and vacuums, which may find the database busy.
    fn maintenance(&mut self) {
        if self.random.random_bool(self.plan.checkpoint) {
            let mode = ["TRUNCATE", "TRUNCATE", "RESTART", "FULL", "PASSIVE"][self.random.random_range(0..5)];
            let timeout = [0, 50, 1000][self.random.random_range(0..3)];
            self.connection.busy_timeout(Duration::from_millis(timeout)).expect("busy timeout");
            let row = self.connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()));
            self.connection.busy_timeout(Duration::from_secs(20)).expect("busy timeout");
            assert!(row.as_ref().map_or_else(is_busy, |()| true), "checkpoint: {row:?}");
        }
        if self.random.random_bool(self.plan.vacuum) {
            let sql = ["VACUUM", "PRAGMA incremental_vacuum(20)"][self.random.random_range(0..2)];
            let done = self.connection.execute_batch(sql);
            assert!(done.as_ref().map_or_else(is_busy, |()| true), "vacuum: {done:?}");
        }
    }
}
