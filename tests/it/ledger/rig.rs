//! A database, its replicator as a user would start it, and restores by the command line.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::verify::Ledger;

/// One commit as `list --commits --json` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub txid: u64,
    pub time_ms: u64,
    /// `captured`, `initial` or `repair`.
    pub kind: String,
}

pub struct Rig {
    pub folder: tempfile::TempDir,
    pub database: PathBuf,
    pub ledgers: Vec<PathBuf>,
    pub urls: Vec<String>,
    pub snapshot_interval: &'static str,
    /// For the credentials of a store.
    pub environment: Vec<(String, String)>,
}

impl Rig {
    /// A rig that replicates into a directory beside the database, and into `more` replicas.
    pub fn new(more: &[String]) -> Rig {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let database = folder.path().join("app").join("app.db");
        std::fs::create_dir(database.parent().expect("has a parent")).expect("folder");
        let mut urls = vec![format!("file://{}", folder.path().join("replica").display())];
        urls.extend_from_slice(more);
        Rig { folder, database, ledgers: Vec::new(), urls, snapshot_interval: "15s", environment: Vec::new() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn ledger_file(&mut self, name: &str) -> PathBuf {
        let path = self.path(name);
        if !self.ledgers.contains(&path) {
            self.ledgers.push(path.clone());
        }
        path
    }

    pub fn ledger(&self) -> Ledger {
        Ledger::read(&self.ledgers)
    }

    pub fn replicate(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_replicate"));
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
        command
    }

    /// Starts `replicate run` with short intervals.
    pub fn start(&self, sync_interval: &str) -> Child {
        self.start_with(sync_interval, "")
    }

    /// The same with more lines of the database's configuration.
    pub fn start_with(&self, sync_interval: &str, more: &str) -> Child {
        let config = self.path("replicate.yml");
        let replicas: Vec<String> = self.urls.iter().map(|url| format!("{{ url: \"{url}\" }}")).collect();
        let text = format!(
            "databases:\n  - path: {}\n    sync-interval: {sync_interval}\n    snapshot-interval: {}\n    replicas: [{}]\n{more}",
            self.database.display(),
            self.snapshot_interval,
            replicas.join(", ")
        );
        std::fs::write(&config, text).expect("configuration");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("replicate.log")).expect("log");
        self.replicate()
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("replicate starts")
    }

    /// Restores `point` from `url` to a new file and returns its path.
    pub fn restore(&self, url: &str, point: &str, name: &str) -> Result<PathBuf, Output> {
        let target = self.path(name);
        let _ = std::fs::remove_file(&target);
        let output = self
            .replicate()
            .args(["restore", url, "-o"])
            .arg(&target)
            .args(["--at", point, "--no-check", "--json"])
            .output()
            .expect("replicate runs");
        if output.status.success() { Ok(target) } else { Err(output) }
    }

    pub fn commits(&self, url: &str) -> Vec<Listed> {
        let output = self.replicate().args(["list", url, "--commits", "--json"]).output().expect("replicate runs");
        assert!(output.status.success(), "list: {}", String::from_utf8_lossy(&output.stderr));
        let list: Value = serde_json::from_slice(&output.stdout).expect("list prints JSON");
        let generations = list["generations"].as_array().expect("a list of generations");
        assert_eq!(generations.len(), 1, "history goes on in one generation");
        let commits = generations[0]["commits"].as_array().expect("a list of commits");
        commits.iter().filter(|commit| commit["restorable"] == true).map(listed).collect()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("replicate.log")).unwrap_or_default()
    }
}

fn listed(commit: &Value) -> Listed {
    let time: jiff::Timestamp = commit["time"].as_str().expect("a time").parse().expect("RFC 3339");
    Listed {
        txid: commit["txid"].as_u64().expect("a txid"),
        time_ms: time.as_millisecond().try_into().expect("after 1970"),
        kind: commit["kind"].as_str().expect("a kind").to_owned(),
    }
}

/// Sends TERM and waits; panics when it does not end well.
pub fn stop(mut child: Child, what: &str) {
    signal(&child, nix::sys::signal::Signal::SIGTERM);
    let status = wait(&mut child, Duration::from_secs(60)).unwrap_or_else(|| panic!("{what} did not end"));
    assert!(status.success(), "{what} ended with {status}");
}

pub fn signal(child: &Child, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    nix::sys::signal::kill(pid, signal).expect("the child is there");
}

/// Waits for the child to end, at most this long.
pub fn wait(child: &mut Child, limit: Duration) -> Option<std::process::ExitStatus> {
    let end = Instant::now() + limit;
    while Instant::now() < end {
        if let Some(status) = child.try_wait().expect("the child can be waited for") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("the child can be killed");
    child.wait().expect("the child can be waited for");
    None
}

/// Calls `test` until it is true or the time is up; the last answer.
pub fn eventually(limit: Duration, mut test: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if test() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A seed from the environment variable `REPLICATE_SEED`, or a new one; printed, so that a failure can be replayed.
#[expect(clippy::disallowed_methods, reason = "what a test is to do comes from its environment")]
pub fn seed(test: &str) -> u64 {
    let given = std::env::var("REPLICATE_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| rand::random::<u32>().into());
    println!("{test}: REPLICATE_SEED={seed}");
    seed
}

/// Removes a file that a test made, if it is there.
pub fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{}", path.display());
    }
}
