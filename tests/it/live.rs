//! A running replicator is asked: snapshot with a label, sync, status. And labels, which live in the replica alone.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use crate::ledger::rig::{Rig, eventually, stop};

struct Live {
    rig: Rig,
    app: rusqlite::Connection,
}

impl Live {
    fn new() -> Live {
        let rig = Rig::new(&[]);
        let app = rusqlite::Connection::open(&rig.database).expect("opened");
        app.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(v)").expect("made");
        Live { rig, app }
    }

    fn insert(&self, v: i64) {
        self.app.execute("INSERT INTO t VALUES (?1)", [v]).expect("inserted");
    }

    fn config(&self) -> PathBuf {
        self.rig.path("replicate.yml")
    }

    /// Runs a command for this database.
    fn ask(&self, command: &[&str], more: &[&str]) -> Output {
        let mut run = self.rig.replicate();
        run.args(command).arg("app.db").args(more).arg("--config").arg(self.config());
        run.output().expect("replicate runs")
    }

    fn done(&self, command: &[&str], more: &[&str]) -> String {
        let output = self.ask(command, more);
        assert!(output.status.success(), "{command:?} {more:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn code(&self, command: &[&str], more: &[&str]) -> Option<i32> {
        self.ask(command, more).status.code()
    }

    fn state_dir(&self) -> PathBuf {
        self.rig.path("app").join(".app.db-replicate")
    }

    fn start(&self, sync_interval: &str) -> std::process::Child {
        // One of a killed process may still lie there.
        std::fs::remove_file(self.state_dir().join("control")).ok();
        let child = self.rig.start(sync_interval);
        let listening = || self.state_dir().join("control").exists();
        assert!(eventually(Duration::from_secs(60), listening), "{}", self.rig.log());
        child
    }

    /// The sum of the table at a point of the replica.
    fn sum_at(&self, point: &str) -> i64 {
        let path = self.rig.restore(&self.rig.urls[0], point, "restored.db").expect("restored");
        let restored = rusqlite::Connection::open(path).expect("opened");
        restored.query_row("SELECT coalesce(sum(v), 0) FROM t", [], |row| row.get(0)).expect("a sum")
    }
}

/// `sync` returns when what was committed before is in the replica, `status` tells where it is, and only the user may ask.
#[test]
fn a_running_replicator_answers() {
    let live = Live::new();
    let replicator = live.start("10s");
    live.insert(7);
    live.done(&["sync"], &["--timeout", "30s"]);
    let status: Value = serde_json::from_str(&live.done(&["status"], &["--json"])).expect("JSON");
    let database = &status["databases"][0];
    assert_eq!(database["state"], "running", "{status}");
    assert_eq!(database["captured"], database["replicas"][0]["shipped"], "{status}");
    // Restorable as soon as the first snapshot is there too.
    live.done(&["snapshot"], &[]);
    assert_eq!(live.sum_at("now"), 7);
    let mode = std::fs::metadata(live.state_dir().join("control.sock")).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    stop(replicator, "replicate run");
    assert!(!live.state_dir().join("control").exists() && !live.state_dir().join("control.sock").exists());
    assert_eq!(live.code(&["sync"], &[]), Some(1));
}

/// What a killed replicator left behind is not taken for a running one.
#[test]
fn a_dead_socket_is_nobody() {
    let live = Live::new();
    let mut replicator = live.start("10ms");
    replicator.kill().expect("killed");
    replicator.wait().expect("gone");
    assert!(live.state_dir().join("control").exists());
    assert_eq!(live.code(&["status"], &[]), Some(1));
    live.insert(1);
    // Without one that runs, the command replicates by itself for as long as it takes.
    live.done(&["snapshot"], &[]);
    assert_eq!(live.sum_at("now"), 1);
    stop(live.start("10ms"), "replicate run");
}

/// A label brings back the commit that it was made at, goes through its states once each, and is used once.
#[test]
fn a_label_is_a_way_back() {
    let live = Live::new();
    let replicator = live.start("10s");
    live.insert(1);
    live.done(&["snapshot"], &["--label", "before", "--ticket", "T-1", "--created-by", "ann"]);
    live.insert(10);
    live.done(&["snapshot"], &["--label", "after", "--retain", "30d"]);
    live.insert(100);
    assert_eq!(live.code(&["snapshot"], &["--label", "after"]), Some(1), "a name is used once");
    stop(replicator, "replicate run");
    assert_eq!((live.sum_at("label:before"), live.sum_at("label:after"), live.sum_at("now")), (1, 11, 111));
    let missing = live.rig.restore(&live.rig.urls[0], "label:never", "x.db").expect_err("there is none");
    assert_eq!(missing.status.code(), Some(3));

    live.done(&["label", "verify"], &["before", "--by", "bob"]);
    assert_eq!(live.code(&["label", "verify"], &["before", "--by", "eve"]), Some(4));
    live.done(&["label", "retire"], &["after"]);
    assert_eq!(live.code(&["label", "show"], &["never"]), Some(3));
    let list: Value = serde_json::from_str(&live.done(&["label", "list"], &["--json"])).expect("JSON");
    let states: Vec<_> =
        list["labels"].as_array().expect("labels").iter().map(|label| label["state"].clone()).collect();
    assert_eq!(states, ["retired", "verified"]);
    assert_eq!(list["labels"][1]["verified"]["by"], "bob");
    assert_eq!(list["labels"][1]["ticket"], "T-1");
}

/// `--label-before-start` names what was there before the command ran.
#[test]
fn the_state_before_a_command_has_a_name() {
    let live = Live::new();
    live.insert(5);
    stop(live.start("10ms"), "replicate run");
    let script = format!(
        "import sqlite3; c = sqlite3.connect('{}'); c.execute('DELETE FROM t'); c.commit()",
        live.rig.database.display()
    );
    let config = live.config();
    let more = ["--label-before-start", "--config", config.to_str().expect("text"), "--", "python3", "-c", &script];
    let output = live.rig.replicate().arg("run").args(more).output().expect("replicate runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let list: Value = serde_json::from_str(&live.done(&["label", "list"], &["--json"])).expect("JSON");
    let name = list["labels"][0]["name"].as_str().expect("a label").to_owned();
    assert!(name.starts_with("before-start-"), "{name}");
    assert_eq!((live.sum_at(&format!("label:{name}")), live.sum_at("now")), (5, 0));
}

/// A running replicator verifies and drills by the clock, keeps the record in the replica, leaves nothing behind, and tells of it; a
/// drill that fails is told loudly and ends nothing.
#[test]
fn proven_by_the_clock() {
    let live = Live::new();
    live.insert(1);
    let more = "    schedule: { verify: '* * * * *', drill: '* * * * *' }\n    verify: { deep: true }\n    \
                drill: { assertions: ['SELECT count(*) < 2 FROM t'] }\n";
    let replicator = live.rig.start_with("10ms", more);
    let status = |what: &str, fact: &str| -> Value {
        let asked = live.ask(&["status"], &["--json"]);
        let status: Value = serde_json::from_slice(&asked.stdout).unwrap_or_default();
        status["databases"][0]["replicas"][0][what][fact].clone()
    };
    let limit = Duration::from_secs(300);
    let passed =
        || status("verify", "successes").as_u64() >= Some(1) && status("drill", "successes").as_u64() >= Some(1);
    assert!(eventually(limit, passed), "{}", live.rig.log());
    live.insert(2);
    assert!(eventually(limit, || status("drill", "failing") == true), "{}", live.rig.log());
    assert!(live.done(&["status"], &[]).contains("drill FAILED: the drill failed: the assertion"));
    live.insert(3);
    live.done(&["sync"], &["--timeout", "30s"]);
    stop(replicator, "replicate run");
    let log = live.rig.log();
    assert!(log.contains("THE SCHEDULED DRILL FAILED") && !log.contains("THE SCHEDULED VERIFY FAILED"), "{log}");
    let drills: Value = serde_json::from_str(&live.done(&["list"], &["--drills", "--json"])).expect("JSON");
    let drills = drills["drills"].as_array().expect("drills").clone();
    assert!(drills[0]["passed"] == true && drills.last().expect("a drill")["passed"] == false, "{drills:?}");
    let left = std::fs::read_dir(live.state_dir().join("scratch")).expect("a directory").count();
    assert_eq!(left, 0, "nothing is left behind");
    assert!(live.state_dir().join("verified-0").exists());
    assert_eq!(live.sum_at("now"), 6);
}

/// A paused replicator holds nothing of the database: its application can leave WAL mode, which it cannot before. It says so, and goes on
/// with everything that was committed meanwhile.
#[test]
fn a_paused_replicator_lets_go() {
    let live = Live::new();
    let replicator = live.start("20ms");
    live.insert(1);
    live.done(&["sync"], &["--timeout", "30s"]);
    // Restorable as soon as the first snapshot is there too.
    live.done(&["snapshot"], &[]);
    let mode =
        |mode: &str| live.app.query_row(&format!("PRAGMA journal_mode={mode}"), [], |row| row.get::<_, String>(0));
    assert!(mode("DELETE").is_err(), "somebody is attached");
    live.insert(2);
    live.done(&["pause"], &["--timeout", "30s"]);
    let state = || {
        let status: Value = serde_json::from_str(&live.done(&["status"], &["--json"])).expect("JSON");
        (status["databases"][0]["state"].as_str().map(str::to_owned), status["databases"][0]["ready"].clone())
    };
    assert_eq!(state(), (Some("paused".to_owned()), Value::Bool(false)));
    // What was committed before is captured, and shipped all the same.
    assert!(eventually(Duration::from_secs(60), || live.sum_at("now") == 3));
    assert_eq!(mode("DELETE").expect("nobody is attached"), "delete");
    live.insert(4);
    assert_eq!(mode("WAL").expect("nobody is attached"), "wal");
    live.insert(8);
    assert_eq!(live.code(&["sync"], &["--timeout", "1s"]), Some(1), "nothing is captured");
    live.done(&["resume"], &[]);
    live.done(&["sync"], &["--timeout", "60s"]);
    assert_eq!(live.sum_at("now"), 15);
    live.done(&["resume"], &[]);
    live.insert(16);
    live.done(&["sync"], &["--timeout", "60s"]);
    assert_eq!((live.sum_at("now"), state().0), (31, Some("running".to_owned())));
    stop(replicator, "replicate run");
}

/// A command that ends before the first snapshot is whole: the end waits for it, because without one nothing could be restored.
#[test]
fn a_command_that_ends_at_once_leaves_a_replica_that_restores() {
    let live = Live::new();
    live.app.execute_batch("CREATE TABLE big(v); PRAGMA wal_autocheckpoint=0").expect("made");
    for _ in 0..40 {
        live.app.execute("INSERT INTO big VALUES (randomblob(1000000))", []).expect("inserted");
    }
    live.insert(3);
    let mut run = live.rig.replicate();
    run.arg("run").arg(&live.rig.database).arg(&live.rig.urls[0]).args(["--", "true"]);
    let output = run.output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(live.sum_at("now"), 3);
}

/// A stop in the middle of a scheduled drill ends it in time, and nothing of it is left. After a kill there, what was left behind goes with the
/// next drill. Neither of the two is taken for one that went well, or badly.
#[test]
fn a_drill_that_is_cut_short() {
    let live = Live::new();
    live.insert(1);
    let endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c";
    let more = format!("    schedule: {{ drill: '* * * * *' }}\n    drill: {{ assertions: ['{endless}'] }}\n");
    let left = || {
        let all = std::fs::read_dir(live.state_dir().join("scratch")).into_iter().flatten().flatten();
        all.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let in_the_middle = || left().iter().any(|path| path.join("database").exists());
    let limit = Duration::from_secs(300);
    let replicator = live.rig.start_with("10ms", &more);
    assert!(eventually(limit, in_the_middle), "{}", live.rig.log());
    stop(replicator, "replicate run");
    assert_eq!(left(), Vec::<PathBuf>::new());
    let mut replicator = live.rig.start_with("10ms", &more);
    assert!(eventually(limit, in_the_middle), "{}", live.rig.log());
    replicator.kill().expect("it runs");
    replicator.wait().expect("it ends");
    assert_eq!(left().len(), 1);
    assert!(!live.rig.log().contains("THE SCHEDULED DRILL FAILED"), "{}", live.rig.log());
    stop(live.start("10ms"), "replicate run");
    live.done(&["drill"], &[]);
    assert_eq!(left(), Vec::<PathBuf>::new());
    let drills: Value = serde_json::from_str(&live.done(&["list"], &["--drills", "--json"])).expect("JSON");
    let drills = drills["drills"].as_array().expect("drills");
    assert!(drills.len() == 1 && drills[0]["passed"] == true, "{drills:?}");
}
