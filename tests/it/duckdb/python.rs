//! DuckDB itself, of any version, from PyPI: a virtual environment per version, made once.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

/// The Python of a virtual environment with this DuckDB; `None`, said loudly, where none can be had.
pub fn interpreter(version: &str) -> Option<PathBuf> {
    let root = std::env::var_os("REPLICATE_DUCKDB_VENVS")
        .map_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("duckdb-venvs"), PathBuf::from);
    let venv = root.join(version);
    let python = venv.join("bin/python");
    if !python.exists() {
        let made = root.join(format!("{version}.{}", std::process::id()));
        std::fs::create_dir_all(&root).ok()?;
        let run = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let ok = run(Command::new("python3").args(["-m", "venv"]).arg(&made))
            && run(Command::new(made.join("bin/pip")).args(["install", "-q", &format!("duckdb=={version}")]));
        if !ok || (std::fs::rename(&made, &venv).is_err() && !python.exists()) {
            eprintln!("SKIPPED: DuckDB {version} for Python cannot be installed here; nothing was tested with it");
            return None;
        }
    }
    Some(python)
}

pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/duckdb").join(name)
}

/// A live writer in its own process.
pub struct Writer {
    pub child: Child,
    log: PathBuf,
}

impl Writer {
    pub fn start(python: &Path, database: &Path, acks: &Path, seconds: f64, env: &[(&str, &str)]) -> Writer {
        let log = acks.with_extension("log");
        let out = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut command = Command::new(python);
        command.arg(script("writer.py")).arg(database).arg(acks).arg(seconds.to_string());
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        command.envs(env.iter().copied());
        Writer { child: command.spawn().unwrap(), log }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Opens a restored database with that Python's DuckDB, scans everything, and says what it holds.
pub fn check(python: &Path, database: &Path, mode: &str, extra: &[&str]) -> Value {
    let output = Command::new(python).arg(script("check.py")).arg(database).arg(mode).args(extra).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_else(|| {
        serde_json::json!({ "ok": false, "exc": format!("{:?} {}", output.status, String::from_utf8_lossy(&output.stderr)) })
    })
}

/// One connection in its own process, told what to do step by step.
pub struct Session {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Session {
    pub fn start(python: &Path) -> Session {
        let mut command = Command::new(python);
        let mut child = command.arg(script("session.py")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Session { child, input, output }
    }

    /// The rows of the answer.
    pub fn run(&mut self, sql: &str) -> Value {
        writeln!(self.input, "{sql}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(answer["ok"], true, "{sql}: {answer}");
        answer["rows"].clone()
    }

    /// Attaches the database as the one that statements mean.
    pub fn open(python: &Path, database: &Path) -> Session {
        let mut session = Session::start(python);
        session.run(&format!("attach '{}' as d", database.display()));
        session.run("use d");
        session
    }

    /// Ends without closing anything.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn close(mut self) {
        self.run("use memory");
        self.run("detach d");
        writeln!(self.input, "!").unwrap();
        self.child.wait().unwrap();
    }
}
