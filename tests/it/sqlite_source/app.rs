//! Applications: separate processes that write the database, told what to do line by line.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

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
    output: BufReader<ChildStdout>,
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
        let output = BufReader::new(child.stdout.take().expect("piped"));
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
            let mut line = String::new();
            let length = self.output.read_line(&mut line).expect("the application speaks");
            assert!(length > 0, "the application ended");
            let line = line.trim_end();
            if let Some((_, row)) = line.split_once("=ok=") {
                return Ok(row.to_owned());
            }
            if let Some((_, error)) = line.split_once("=error=") {
                return Err(error.to_owned());
            }
        }
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
    for line in std::io::stdin().lines() {
        let line = line.expect("the test speaks");
        if line == ".close" {
            connection = None;
            println!("=ok=");
            continue;
        }
        let outcome = connection.as_ref().ok_or("closed".to_owned()).and_then(|c| execute(c, &line));
        match outcome {
            Ok(row) => println!("=ok={row}"),
            Err(error) => println!("=error={error}"),
        }
    }
    std::process::exit(0);
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
