//! An application whose every commit holds what its number says, with either engine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use replicate::engine::Engine;
use replicate::engine::duckdb::Duckdb;
use replicate::engine::sqlite::Sqlite;

use crate::duckdb::python::{Session, interpreter};
use crate::sqlite_source::app::{App, Library};

/// Rows that are rewritten in turn.
const SLOTS: u64 = 40;
/// So often the oldest rows go, and so many of the newest stay then.
const TRIM_EVERY: u64 = 97;
const KEPT_ROWS: u64 = 500;

const READ: &str =
    "SELECT (SELECT max(k) FROM t), (SELECT count(*) FROM t), (SELECT sum(p) FROM t), (SELECT sum(i * v) FROM slots)";

/// What the application's tables hold: the number of its last commit, rows, and two sums over their content.
pub type State = [u64; 4];

/// What they must hold after commit `number`.
pub fn expected(number: u64) -> State {
    let trimmed = number / TRIM_EVERY * TRIM_EVERY;
    let oldest = (trimmed.saturating_sub(KEPT_ROWS)).max(1);
    let sum = (oldest..=number).map(payload).sum();
    let last_of = |slot: u64| if number < slot { 0 } else { number - (number - slot) % SLOTS };
    let slots = (0..SLOTS).map(|slot| (slot + 1) * last_of(slot)).sum();
    [number, number + 1 - oldest, sum, slots]
}

fn payload(number: u64) -> u64 {
    number * 7919 % 10007
}

fn commit(number: u64) -> String {
    let trim = match number % TRIM_EVERY {
        0 => format!("DELETE FROM t WHERE k < {};", number.saturating_sub(KEPT_ROWS)),
        _ => String::new(),
    };
    format!(
        "BEGIN; INSERT INTO t VALUES ({number}, {}); UPDATE slots SET v = {number} WHERE i = {}; {trim} COMMIT; ",
        payload(number),
        number % SLOTS + 1
    )
}

enum Kind {
    Sqlite(App),
    Duckdb { session: Session, python: PathBuf },
}

pub struct Application {
    kind: Kind,
    pub last: u64,
}

impl Application {
    pub fn sqlite(database: &Path) -> Application {
        let app = App::start(Library::Bundled, database);
        Application { kind: Kind::Sqlite(app), last: 0 }.begin("PRAGMA journal_mode=WAL; ")
    }

    /// `None`, said loudly, where this DuckDB cannot be had.
    pub fn duckdb(version: &str, database: &Path) -> Option<Application> {
        let python = interpreter(version)?;
        let session = Session::open(&python, database);
        Some(Application { kind: Kind::Duckdb { session, python }, last: 0 }.begin(""))
    }

    fn begin(mut self, first: &str) -> Application {
        self.run(&format!("{first}CREATE TABLE t(k BIGINT, p BIGINT)"));
        self.run("CREATE TABLE slots(i BIGINT, v BIGINT)");
        let slots: Vec<String> = (1..=SLOTS).map(|slot| format!("({slot}, 0)")).collect();
        self.run(&format!("INSERT INTO slots VALUES {}", slots.join(", ")));
        self
    }

    pub fn engine(&self) -> Arc<dyn Engine> {
        match &self.kind {
            Kind::Sqlite(_) => Arc::new(Sqlite),
            Kind::Duckdb { .. } => Arc::new(Duckdb::default()),
        }
    }

    fn run(&mut self, sql: &str) {
        match &mut self.kind {
            Kind::Sqlite(app) => drop(app.sql(sql)),
            Kind::Duckdb { session, .. } => drop(session.run(sql)),
        }
    }

    pub fn commits(&mut self, count: u64) {
        let sql: String = (self.last + 1..=self.last + count).map(commit).collect();
        self.run(&sql);
        self.last += count;
    }

    pub fn checkpoint(&mut self) {
        match &self.kind {
            Kind::Sqlite(_) => self.run("PRAGMA wal_checkpoint(PASSIVE)"),
            Kind::Duckdb { .. } => self.run("CHECKPOINT"),
        }
    }

    /// Of a restored database: `None` before its first commit.
    pub fn read(&self, restored: &Path) -> Option<State> {
        match &self.kind {
            Kind::Sqlite(_) => {
                let connection = rusqlite::Connection::open(restored).expect("opened");
                let row = connection.query_row(READ, [], |row| {
                    Ok([row.get::<_, Option<i64>>(0)?, row.get(1)?, row.get(2)?, row.get(3)?])
                });
                whole(row.ok()?.map(|value| value?.try_into().ok()))
            }
            Kind::Duckdb { python, .. } => {
                let mut session = Session::open(python, restored);
                let tables = session.run("SELECT count(*) FROM duckdb_tables() WHERE database_name = 'd'");
                let row = (tables[0][0] == 2).then(|| session.run(READ));
                session.kill();
                let number = |value: &serde_json::Value| match value {
                    serde_json::Value::String(text) => text.parse().ok(),
                    value => value.as_u64(),
                };
                whole([0, 1, 2, 3].map(|column| row.as_ref().and_then(|row| number(&row[0][column]))))
            }
        }
    }
}

fn whole(row: [Option<u64>; 4]) -> Option<State> {
    let [number, count, sum, slots] = row;
    Some([number?, count?, sum?, slots?])
}
