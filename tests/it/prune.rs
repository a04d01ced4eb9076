//! `replicate prune` as a person or a script meets it.

use std::process::{Command, Output};

use serde_json::Value;

fn replicate(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_replicate"));
    for name in ["DATABASE", "URL", "CONFIG", "LISTEN", "LOG", "LOG_FORMAT"] {
        command.env_remove(format!("REPLICATE_{name}"));
    }
    command.args(arguments).output().expect("the program runs")
}

#[track_caller]
fn expect(code: i32, arguments: &[&str]) -> String {
    let output = replicate(arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "stdout: {out}\nstderr: {err}");
    if code == 0 { out } else { err }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("one JSON document")
}

/// A life with retention: every run adds a snapshot; the plan is printed, marked, and carried out; what is left verifies and
/// restores.
#[test]
fn loss_28_plan_mark_delete() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (database, replica, config) = (path("app.db"), path("app.db.replica"), path("c.yaml"));
    let yaml = |more: &str| format!("databases: [{{path: {database}, snapshot-interval: 1s{more}}}]");
    let without = path("without.yaml");
    std::fs::write(&config, yaml(", retention: {keep-last: 1}")).unwrap();
    std::fs::write(&without, yaml(", retention: forever")).unwrap();
    let sqlite = rusqlite::Connection::open(&database).unwrap();
    sqlite.execute_batch("PRAGMA journal_mode=wal; CREATE TABLE t (x)").unwrap();
    drop(sqlite);
    for round in 0..3 {
        let sqlite = rusqlite::Connection::open(&database).unwrap();
        sqlite.execute("INSERT INTO t VALUES (?1)", [round]).unwrap();
        drop(sqlite);
        // A snapshot is due when the last one is a second old.
        expect(0, &["run", "--config", &without, "--", "sleep", "2"]);
    }
    let count = |listed: &str| listed.matches("  snapshot  ").count();
    let before = expect(0, &["list", &replica, "--snapshots"]);
    assert!(count(&before) > 1, "{before}");

    expect(3, &["prune", &path("nothing"), "--keep-last", "1"]);
    let err = expect(2, &["prune", &replica]);
    assert!(err.contains("retention") && err.contains("--keep-within"), "{err}");
    let plan = json(&expect(0, &["prune", "app.db", "--config", &config, "--dry-run", "--json"]));
    let decisions = plan["decisions"].as_array().unwrap();
    assert!(decisions.iter().any(|d| d["decision"] == "delete" && d["reason"] == "no rule keeps it"), "{plan:#}");
    assert!(decisions.iter().all(|d| d["object"].is_string() && d["bytes"].is_u64()), "{plan:#}");
    assert!(plan["done"].is_null() && plan["dry_run"] == true);
    let text = expect(0, &["prune", &replica, "--keep-last", "1", "--dry-run"]);
    assert!(text.contains("keep    ") && text.contains("delete  ") && text.contains("nothing was changed"), "{text}");
    assert_eq!(before, expect(0, &["list", &replica, "--snapshots"]));

    let marked = json(&expect(0, &["prune", "app.db", "--config", &config, "--json"]));
    assert_eq!(marked["done"]["deleted"]["objects"], 0);
    assert_eq!(marked["done"]["marked"], plan["may_go"]["objects"]);
    assert_eq!(before, expect(0, &["list", &replica, "--snapshots"]));
    let done = json(&expect(0, &["prune", "app.db", "--config", &config, "--json", "--grace", "0s"]));
    assert_eq!(done["done"]["deleted"]["objects"], plan["may_go"]["objects"], "{done:#}");
    assert_eq!(count(&expect(0, &["list", &replica, "--snapshots"])), 1);
    expect(0, &["verify", "app.db", "--config", &config, "--deep"]);
    expect(0, &["restore", &replica, "-o", &path("out.db")]);
    let rows: i64 = rusqlite::Connection::open(path("out.db"))
        .unwrap()
        .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 3);
    let at_once = json(&expect(0, &["prune", &replica, "--keep-last", "1", "--grace", "0s", "--json"]));
    assert_eq!(at_once["may_go"]["objects"], 0, "{at_once:#}");
    let shown = expect(0, &["check", "--config", &config]);
    assert!(shown.contains("retention: keep-last: 1"), "{shown}");
}
