//! `replicate cost`: what is estimated is consistent, and what is told as used is what the server was asked.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::s3_server::{ACCESS_KEY, Op, S3Server, SECRET_KEY};

const PATIENCE: Duration = Duration::from_secs(120);

fn replicate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_replicate"));
    for name in ["DATABASE", "URL", "CONFIG", "LISTEN"] {
        command.env_remove(format!("REPLICATE_{name}"));
    }
    command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    command.args(arguments).stdin(Stdio::null());
    command
}

#[track_caller]
fn told(arguments: &[&str]) -> String {
    let output = replicate(arguments).output().expect("started");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&told(&[arguments, &["--json"]].concat())).expect("JSON")
}

fn write_config(folder: &Path, urls: &[&str]) -> String {
    let file = folder.join("replicate.yaml");
    let database = folder.join("app.db");
    let yaml = format!("databases: [{{path: '{}', replicas: {urls:?}}}]", database.display());
    fs::write(&file, yaml).expect("written");
    file.display().to_string()
}

/// Nothing runs and nothing is sent: the estimate is from the arguments alone, free where the store is a directory, and wrong
/// arguments are told with what is right.
#[test]
fn an_estimate_needs_nobody() {
    let folder = tempfile::tempdir().expect("a directory");
    let config = write_config(folder.path(), &["s3://bucket/app?endpoint=http://127.0.0.1:1", "/mnt/backup/app"]);
    let asked = ["cost", "--config", &config, "--database-size", "2GiB", "--commits-per-second", "5"];
    let facts = json(&asked);
    let replicas = &facts["databases"][0]["replicas"];
    assert_eq!((&replicas[0]["prices"], &replicas[1]["prices"]), (&"aws-s3".into(), &"none".into()));
    let cost = &replicas[0]["month"]["cost"];
    let sum: f64 = ["requests", "stored", "download"].iter().map(|key| cost[key].as_f64().expect("a number")).sum();
    assert!(sum > 1.0 && (sum - facts["total_per_month"]["USD"].as_f64().expect("a number")).abs() < 1e-6, "{facts}");
    let text = told(&asked);
    assert!(text.contains("together") && text.contains("examples of"), "{text}");
    let idle = json(&[&asked[..5], &["--commits-per-second", "0"]].concat());
    let requests = idle["databases"][0]["replicas"][0]["month"]["requests"].as_object().expect("kinds");
    assert!(requests.values().all(|count| *count == 0), "{requests:?}");
    let own = json(&[&asked[..], &["--prices", "cloudflare-r2", "--price", "stored=0", "--price", "write=0"]].concat());
    assert_eq!(own["databases"][0]["replicas"][0]["month"]["cost"]["stored"], 0.0);
    for (arguments, part) in [
        (["--prices", "cheap"], "cloudflare-r2"),
        (["--price", "stored"], "write=0.005"),
        (["--price", "sorted=1"], "stored"),
        (["--commits-per-second", "-1"], "0.5"),
        (["--changed-per-day", "ten"], "10%"),
        (["--bytes-per-commit", "1"], "KiB"),
    ] {
        let flag = format!("{}={}", arguments[0], arguments[1]);
        let output = replicate(&["cost", "--config", &config, &flag]).output().expect("started");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && error.contains(part), "{flag}: {error}");
    }
}

/// Of a running replicator, the requests by kind and the bytes are those that its server saw; what is stored is what the server has.
#[test]
fn what_was_used_is_what_the_server_saw() {
    let server = S3Server::start(44);
    let folder = tempfile::tempdir().expect("a directory");
    let url = server.url("app");
    let config = write_config(folder.path(), &[&url]);
    let connection = rusqlite::Connection::open(folder.path().join("app.db")).expect("opened");
    connection.pragma_update(None, "journal_mode", "wal").expect("WAL");
    connection.execute_batch("CREATE TABLE t(v); INSERT INTO t VALUES (1)").expect("written");
    assert!(json(&["cost", "--config", &config])["databases"][0]["replicas"][0].get("used").is_none());
    let mut running = replicate(&["run", "--config", &config]).stderr(Stdio::null()).spawn().expect("started");
    let began = Instant::now();
    let facts = loop {
        let before = server.requests();
        let facts = json(&["cost", "--config", &config]);
        let used = &facts["databases"][0]["replicas"][0]["used"];
        let snapshot = server.names().iter().any(|name| name.contains("/snapshot/"));
        // At rest, so that the two are of the same moment.
        if used.is_object() && snapshot && before == server.requests() {
            break facts;
        }
        assert!(began.elapsed() < PATIENCE, "{facts}");
        std::thread::sleep(Duration::from_millis(300));
    };
    let used = &facts["databases"][0]["replicas"][0]["used"];
    for (name, op) in
        [("put", Op::Put), ("get", Op::Get), ("list", Op::List), ("head", Op::Head), ("delete", Op::Delete)]
    {
        assert_eq!(used["requests"][name], server.requests_of(op), "{name}: {used}");
    }
    let stored = json(&["cost", "--config", &config, "--stored"]);
    let stored = stored["databases"][0]["replicas"][0]["stored"].as_object().expect("kinds").clone();
    let objects: u64 = stored.values().map(|kind| kind[0].as_u64().expect("a number")).sum();
    let bytes: u64 = stored.values().map(|kind| kind[1].as_u64().expect("a number")).sum();
    let there: u64 = server.names().iter().map(|name| server.object(name).expect("there").len() as u64).sum();
    assert_eq!((objects, bytes), (server.names().len() as u64, there));
    assert!(stored.contains_key("snapshots") && !stored.contains_key("unknown"), "{stored:?}");
    assert!(used["uploaded_bytes"].as_u64().expect("a number") >= bytes);
    assert!(told(&["cost", "--config", &config]).contains("a month of that"));
    kill(Pid::from_raw(i32::try_from(running.id()).expect("a pid")), Signal::SIGTERM).expect("told");
    assert!(running.wait().expect("ended").success());
}
