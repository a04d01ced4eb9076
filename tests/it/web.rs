//! `/metrics`, `/healthz`, `/readyz` and `/status` of the whole program, above all while something is wrong.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::ledger::rig::{eventually, stop};

mod failures;
mod metrics;
mod notify;
mod panel;
mod server;

/// Longer than anything takes; only a failing test waits for it.
const LONG: Duration = Duration::from_secs(180);

/// An answer of the server.
#[derive(Debug)]
struct Answer {
    code: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Sends raw bytes and reads to the end.
fn raw(address: SocketAddr, request: &[u8]) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LONG))?;
    stream.write_all(request)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Ok(Answer { code, head: head.to_owned(), body: body.to_owned() })
}

/// A configuration, and the program that serves it.
struct Scene {
    folder: tempfile::TempDir,
    environment: Vec<(&'static str, String)>,
    apps: Vec<rusqlite::Connection>,
}

impl Scene {
    /// Databases `0.db`, `1.db`, … in WAL mode.
    fn new(databases: usize) -> Scene {
        let folder = tempfile::tempdir().expect("a directory");
        let open = |n: usize| {
            let app = rusqlite::Connection::open(folder.path().join(format!("{n}.db"))).expect("opened");
            app.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(v)").expect("made");
            app
        };
        let apps = (0..databases).map(open).collect();
        Scene { folder, environment: Vec::new(), apps }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn database(&self, n: usize) -> PathBuf {
        self.path(&format!("{n}.db"))
    }

    fn insert(&self, n: usize) {
        self.apps[n].execute("INSERT INTO t VALUES (1)", []).expect("inserted");
    }

    /// Commits so many MiB that cannot be compressed.
    fn insert_mib(&self, n: usize, mib: usize) {
        for _ in 0..mib {
            self.apps[n].execute("INSERT INTO t VALUES (randomblob(1048576))", []).expect("inserted");
        }
    }

    /// Starts it with this configuration, in which `DIR` stands for the folder, and `listen` is added where it is not there.
    fn start(&self, config: &str) -> Serving {
        let config = config.replace("DIR", &self.folder.path().display().to_string());
        let listen = if config.starts_with("listen:") { "" } else { "listen: 127.0.0.1:0\n" };
        std::fs::write(self.path("replicate.yml"), format!("{listen}{config}")).expect("written");
        let log = self.path("log");
        std::fs::remove_file(&log).ok();
        let file = std::fs::File::options().create(true).append(true).open(&log).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_replicate"));
        command.args(["run", "--config"]).arg(self.path("replicate.yml"));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let child = command.env_remove("REPLICATE_LISTEN").stdin(Stdio::null()).stderr(file).spawn().expect("started");
        let serving = Serving { child: Some(child), log, address: None };
        serving.listening()
    }
}

/// Killed when a test fails.
struct Serving {
    child: Option<Child>,
    log: PathBuf,
    address: Option<SocketAddr>,
}

impl Serving {
    fn listening(mut self) -> Serving {
        let is_there = eventually(LONG, || {
            let log = self.log();
            let rest = log.split_once("serving http://").map(|(_, rest)| rest.to_owned());
            self.address = rest.and_then(|rest| rest.split('/').next()?.parse().ok());
            self.address.is_some()
        });
        assert!(is_there, "{}", self.log());
        self
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    fn address(&self) -> SocketAddr {
        self.address.expect("it listens")
    }

    fn get(&self, path: &str) -> Answer {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        raw(self.address(), request.as_bytes()).expect("an answer")
    }

    fn is_ready(&self) -> bool {
        self.get("/readyz").code == 200
    }

    /// One sample by its name with labels, where `DB` stands for the path of the only database.
    fn metric(&self, series: &str) -> f64 {
        let body = self.get("/metrics").body;
        let series = series.replace("DB", &self.log.with_file_name("0.db").display().to_string());
        let line = body.lines().find_map(|line| line.strip_prefix(&series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{series} is not in\n{body}")).parse().expect("a number")
    }

    /// Waits until `test` is true.
    #[track_caller]
    fn wait_for(&self, what: &str, test: impl FnMut() -> bool) {
        let last = || format!("{}\n{}\n{}", self.get("/readyz").body, self.get("/status").body, self.log());
        assert!(eventually(LONG, test), "{what}: not in time\n{}", last());
    }

    fn wait_until_ready(&self) {
        self.wait_for("ready", || self.is_ready());
    }

    fn stop(mut self) {
        stop(self.child.take().expect("it runs"), "replicate run");
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn json(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

fn repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}
