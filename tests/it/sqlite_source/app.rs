//! Applications: separate processes that write the database, told what to do line by line.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use rusqlite::fallible_iterator::FallibleIterator;

/// Which SQLite library the application uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// The one that is built in, in this test binary run once more.
    Bundled,
    /// That of the system's Python, usually older.
    System,
}

/// A running application. Killed when dropped.
pub struct App {
    child: Child,
    input: ChildStdin,
    output: std::sync::mpsc::Receiver<String>,
}

const PYTHON: &str = include_str!("app.py");
const DATABASE_VARIABLE: &str = "REPLICATE_TEST_APP_DATABASE";

impl App {
    pub fn start(library: Library, database: &Path) -> App {
        let mut command = match library {
            Library::Bundled => {
                let mut command = Command::new(std::env::current_exe().expect("this binary"));
                command.args(["--exact", "sqlite_source::app::process", "--nocapture", "--test-threads=1"]);
                command
            }
            Library::System => {
                let mut command = Command::new("python3");
                command.args(["-c", PYTHON]);
                command
            }
        };
        let command = command.env(DATABASE_VARIABLE, database).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the application starts");
        let input = child.stdin.take().expect("piped");
        let (sender, output) = std::sync::mpsc::channel();
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        App { child, input, output }
    }

    /// Sends SQL without waiting for its end.
    pub fn send(&mut self, sql: &str) {
        writeln!(self.input, "{}", sql.replace('\n', " ")).expect("the application listens");
        self.input.flush().expect("the application listens");
    }

    /// The outcome of the oldest statement sent: the first row's columns joined by `|`.
    pub fn outcome(&mut self) -> Result<String, String> {
        loop {
            let line = self.output.recv().expect("the application speaks");
            if let Some(outcome) = parse(&line) {
                return outcome;
            }
        }
    }

    /// Like `outcome`, if it is there.
    pub fn ready(&mut self) -> Option<Result<String, String>> {
        self.output.try_iter().find_map(|line| parse(&line))
    }

    pub fn run(&mut self, sql: &str) -> Result<String, String> {
        self.send(sql);
        self.outcome()
    }

    pub fn sql(&mut self, sql: &str) -> String {
        self.run(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it runs");
    }

    /// Closes the connection as an application that ends well does.
    pub fn close(mut self) {
        self.sql(".close");
        self.kill();
    }
}

fn parse(line: &str) -> Option<Result<String, String>> {
    let ok = line.split_once("=ok=").map(|(_, row)| Ok(row.to_owned()));
    ok.or_else(|| line.split_once("=error=").map(|(_, error)| Err(error.to_owned())))
}

impl Drop for App {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Not a test: the application process itself, when this binary is run as one.
#[test]
fn process() {
    let Some(database) = std::env::var_os(DATABASE_VARIABLE) else { return };
    let mut connection = Some(rusqlite::Connection::open(database).expect("the database"));
    connection.as_ref().expect("open").busy_timeout(std::time::Duration::from_secs(5)).expect("a timeout");
    for line in std::io::stdin().lines() {
        let line = line.expect("the test speaks");
        // After an error the transaction is rolled back, unless the line begins with an exclamation mark.
        let keeps = line.starts_with('!');
        let line = line.trim_start_matches('!').to_owned();
        if let Some(pause) = line.strip_prefix(".measure ") {
            let pause = pause.parse().expect("microseconds");
            println!("=ok={}", measure(connection.as_ref().expect("open"), pause));
            continue;
        }
        if line == ".close" {
            connection = None;
            println!("=ok=");
            continue;
        }
        let outcome = connection.as_ref().ok_or("closed".to_owned()).and_then(|c| execute(c, &line));
        match outcome {
            Ok(row) => println!("=ok={row}"),
            Err(error) => {
                let open = connection.as_ref().filter(|connection| !keeps && !connection.is_autocommit());
                if let Some(connection) = open {
                    connection.execute_batch("ROLLBACK").expect("a rollback");
                }
                println!("=error={error}");
            }
        }
    }
}

/// Latencies of small commits, each after a pause.
fn measure(connection: &rusqlite::Connection, pause_us: u64) -> String {
    let mut insert = connection.prepare("INSERT INTO t(v) VALUES (randomblob(100))").expect("a table");
    let count = if pause_us == 0 { 60_000 } else { 4000 };
    let mut latencies: Vec<std::time::Duration> = (0..count)
        .map(|_| {
            if pause_us > 0 {
                std::thread::sleep(std::time::Duration::from_micros(pause_us));
            }
            let start = std::time::Instant::now();
            insert.execute([]).expect("a commit");
            start.elapsed()
        })
        .collect();
    latencies.sort();
    format!("p50 {:?}, p99 {:?}, max {:?}", latencies[count / 2], latencies[count / 100 * 99], latencies[count - 1])
}

fn execute(connection: &rusqlite::Connection, sql: &str) -> Result<String, String> {
    let mut first = None;
    let mut batch = rusqlite::Batch::new(connection, sql);
    while let Some(mut statement) = batch.next().map_err(|error| error.to_string())? {
        let columns = statement.column_count();
        let mut rows = statement.query([]).map_err(|error| error.to_string())?;
        while let Some(row) = rows.next().map_err(|error| error.to_string())? {
            let value = |column| match row.get_ref(column).expect("a column") {
                rusqlite::types::ValueRef::Integer(value) => value.to_string(),
                rusqlite::types::ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                other => format!("{other:?}"),
            };
            first.get_or_insert_with(|| (0..columns).map(value).collect::<Vec<_>>().join("|"));
        }
    }
    Ok(first.unwrap_or_default())
}
