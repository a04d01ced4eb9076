//! `replicate manifest`, and the real `sha256sum` over a directory replica.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn replicate(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_replicate"));
    for name in ["DATABASE", "URL", "CONFIG", "LISTEN", "LOG", "LOG_FORMAT"] {
        command.env_remove(format!("REPLICATE_{name}"));
    }
    command.args(arguments).stdin(Stdio::null()).output().expect("the program runs")
}

#[track_caller]
fn expect(code: i32, arguments: &[&str]) -> (String, String) {
    let output = replicate(arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "stdout: {out}\nstderr: {err}");
    (out, err)
}

/// What `sha256sum --check` says of `lines` in `folder`.
fn sha256sum(folder: &Path, lines: &str) -> (bool, String) {
    let mut command = Command::new("sha256sum");
    command.args(["--check", "--strict"]).current_dir(folder);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("sha256sum runs");
    child.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("it ends");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The manifest of a point names every object that its restore reads, and nothing else; `sha256sum` agrees with it, finds a
/// flipped byte in any of them and a missing one, and what the manifest does not name can be gone.
#[test]
fn sha256sum_agrees_and_finds_a_flipped_byte() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (database, replica) = (path("app.db"), path("app.db.replica"));
    let sqlite = rusqlite::Connection::open(&database).unwrap();
    sqlite.execute_batch("PRAGMA journal_mode=wal; CREATE TABLE t (x)").unwrap();
    drop(sqlite);
    for round in 0..3 {
        let sqlite = rusqlite::Connection::open(&database).unwrap();
        sqlite.execute("INSERT INTO t VALUES (?1)", [round]).unwrap();
        drop(sqlite);
        expect(0, &["run", &database, "--once"]);
    }
    let whole: Value = serde_json::from_str(&expect(0, &["manifest", &replica]).0).unwrap();
    let commit = whole["commit"]["txid"].as_u64().unwrap();
    assert!(commit >= 3 && whole["format"] == 1, "{whole:#}");
    assert_eq!(whole["commit"]["checksum"].as_str().unwrap().len(), 16);
    let objects = whole["objects"].as_array().unwrap();
    let line =
        |object: &Value| format!("{}  {}\n", object["sha256"].as_str().unwrap(), object["key"].as_str().unwrap());
    let lines: String = objects.iter().map(line).collect();
    assert_eq!(lines, expect(0, &["manifest", &replica, "--format", "sha256sum"]).0);
    let bytes: u64 = objects.iter().map(|object| object["bytes"].as_u64().unwrap()).sum();
    assert_eq!(whole["total_bytes"], bytes);

    let top = Path::new(&replica);
    let (agrees, told) = sha256sum(top, &lines);
    assert!(agrees && told.matches(": OK").count() == objects.len(), "{told}");
    for object in objects {
        let key = object["key"].as_str().unwrap();
        let good = std::fs::read(top.join(key)).unwrap();
        assert_eq!(object["bytes"], good.len());
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 1;
        std::fs::write(top.join(key), flipped).unwrap();
        let (agrees, told) = sha256sum(top, &lines);
        assert!(!agrees && told.contains(&format!("{key}: FAILED")), "{told}");
        std::fs::write(top.join(key), good).unwrap();
    }
    // An earlier point needs fewer objects, and those alone are enough to restore it.
    let at = format!("txid:{}", commit - 1);
    let earlier = path("earlier.sha256");
    expect(0, &["manifest", &replica, "--at", &at, "--format", "sha256sum", "-o", &earlier]);
    let (_, err) = expect(4, &["manifest", &replica, "-o", &earlier]);
    assert!(err.contains("exists"), "{err}");
    let lines = std::fs::read_to_string(&earlier).unwrap();
    assert!(lines.lines().count() < objects.len(), "{lines}");
    let alone = folder.path().join("alone");
    for key in lines.lines().map(|line| &line[66..]) {
        let copy = alone.join(key);
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(top.join(key), copy).unwrap();
    }
    assert!(sha256sum(&alone, &lines).0);
    expect(0, &["restore", &alone.display().to_string(), "--at", &at, "-o", &path("out.db")]);
    expect(3, &["manifest", &path("nothing")]);
    expect(3, &["manifest", &replica, "--at", "txid:999"]);
}
