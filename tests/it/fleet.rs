//! Many databases from one configuration: files that a pattern matches come, go and are renamed while `run` goes on.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::ledger::rig::{eventually, stop};

const LONG: Duration = Duration::from_secs(60);

struct Fleet {
    folder: tempfile::TempDir,
}

impl Fleet {
    fn new() -> Fleet {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["data", "data/a", "replicas"] {
            std::fs::create_dir(folder.path().join(name)).expect("made");
        }
        Fleet { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().expect("a folder").join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_replicate"));
        for name in ["DATABASE", "URL", "CONFIG", "LISTEN", "LOG", "LOG_FORMAT"] {
            command.env_remove(format!("REPLICATE_{name}"));
        }
        command
    }

    fn config(&self) -> PathBuf {
        let (data, replicas) = (self.path("data"), self.path("replicas"));
        let text = format!(
            "defaults: {{sync-interval: 20ms}}\ndatabases:\n  - {{glob: '{0}/*/*.db', replicas: ['{1}/{{name}}']}}\n  \
             - {{path: '{0}/a/named.db', replicas: ['{1}/elsewhere']}}\n",
            data.display(),
            replicas.display()
        );
        let path = self.path("replicate.yml");
        std::fs::write(&path, text).expect("written");
        path
    }

    fn run(&self) -> Child {
        self.start(self.command())
    }

    fn start(&self, mut command: Command) -> Child {
        let log = std::fs::File::create(self.path("log")).expect("a log");
        command.args(["run", "--config"]).arg(self.config()).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a log")).stderr(log).spawn().expect("it starts")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The rows of a restored replica; `None` where there is nothing to restore.
    fn rows(&self, source: &str) -> Option<i64> {
        let target = self.path("restored.db");
        crate::ledger::rig::remove(&target);
        let mut command = self.command();
        let output =
            command.args(["restore", source, "--config"]).arg(self.path("replicate.yml")).arg("-o").arg(&target);
        let output = output.output().expect("it runs");
        output.status.success().then(|| count(&target))
    }

    fn has(&self, source: &str, rows: i64) {
        assert!(
            eventually(LONG, || self.rows(source) == Some(rows)),
            "{source}: {:?} instead of {rows}\n{}",
            self.rows(source),
            self.log()
        );
    }

    /// Does the running process speak of this database?
    fn is_at_work(&self, path: &str) -> bool {
        let output =
            self.command().args(["status", "--json"]).arg(self.path("data/a/named.db")).output().expect("it runs");
        assert!(output.status.success(), "{output:?}\n{}", self.log());
        let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let all = status["databases"].as_array().expect("a list");
        all.iter().any(|database| database["database"] == path)
    }
}

fn count(path: &Path) -> i64 {
    let connection = rusqlite::Connection::open(path).expect("opened");
    connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("a table")
}

fn insert(path: &Path, rows: i64) {
    let connection = rusqlite::Connection::open(path).expect("opened");
    connection.busy_timeout(LONG).expect("set");
    connection.execute_batch("PRAGMA journal_mode=wal; CREATE TABLE IF NOT EXISTS t (x)").expect("a table");
    for row in 0..rows {
        connection.execute("INSERT INTO t VALUES (?1)", [row]).expect("a row");
    }
}

/// Databases that are there, that appear (also in a new folder, and as empty files first), that are renamed, vanish and come back are each
/// replicated to a place of their own; what is no database is told and left alone; one that is named keeps its own entry.
#[test]
fn databases_come_and_go() {
    let fleet = Fleet::new();
    insert(&fleet.path("data/a/first.db"), 3);
    insert(&fleet.path("data/a/named.db"), 4);
    std::fs::write(fleet.path("data/a/text.db"), "not a database at all, and long enough to be told from one")
        .expect("written");
    let run = fleet.run();
    fleet.has("first.db", 3);
    fleet.has(&fleet.path("replicas/elsewhere").display().to_string(), 4);
    assert!(!fleet.path("replicas/named.db").exists(), "one database, one entry");
    assert!(eventually(LONG, || fleet.log().contains("NOT REPLICATED")), "{}", fleet.log());

    std::fs::create_dir(fleet.path("data/b")).expect("made");
    std::fs::write(fleet.path("data/b/second.db"), "").expect("an empty file");
    insert(&fleet.path("data/b/second.db"), 5);
    fleet.has("second.db", 5);
    insert(&fleet.path("data/a/first.db"), 2);
    fleet.has("first.db", 5);

    std::fs::rename(fleet.path("data/a/first.db"), fleet.path("data/a/renamed.db")).expect("renamed");
    for companion in ["-wal", "-shm"] {
        let (from, to) = (format!("data/a/first.db{companion}"), format!("data/a/renamed.db{companion}"));
        // The last connection may have removed it.
        std::fs::rename(fleet.path(&from), fleet.path(&to)).ok();
    }
    fleet.has("renamed.db", 5);
    let first = fleet.path("data/a/first.db").display().to_string();
    assert!(eventually(LONG, || !fleet.is_at_work(&first)), "{}", fleet.log());
    // What was replicated of it is still there, and can be named by its path.
    assert_eq!(fleet.rows(&first), Some(5));

    insert(&fleet.path("data/a/first.db"), 1);
    assert!(eventually(LONG, || fleet.is_at_work(&first)), "{}", fleet.log());
    fleet.has(&first, 1);
    stop(run, "replicate run");
    assert!(!fleet.path("replicas/text.db").exists());
}

/// Without a match nothing is wrong: the first database may come later.
#[test]
fn the_first_one_may_come_later() {
    let fleet = Fleet::new();
    let run = fleet.run();
    assert!(eventually(LONG, || fleet.log().contains("replicating to")), "{}", fleet.log());
    insert(&fleet.path("data/a/late.db"), 2);
    fleet.has("late.db", 2);
    stop(run, "replicate run");
}

impl Fleet {
    fn write_config(&self, databases: &str) {
        let text = format!("defaults: {{sync-interval: 20ms}}\ndatabases: {databases}\n");
        let text = text.replace("DATA", &self.path("data").display().to_string());
        let text = text.replace("REPLICAS", &self.path("replicas").display().to_string());
        std::fs::write(self.path("replicate.yml"), text).expect("written");
    }

    /// `replicate reload`, asked of the process that has this database.
    fn reload(&self, source: &str) -> Result<Value, String> {
        let mut command = self.command();
        let output = command.args(["reload", source, "--json", "--config"]).arg(self.path("replicate.yml")).output();
        let output = output.expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.code() {
            Some(0) => Ok(serde_json::from_slice(&output.stdout).expect("JSON")),
            _ => Err(text(&output.stderr)),
        }
    }

    fn generation(&self, source: &str) -> String {
        let mut command = self.command();
        let output = command.args(["list", source, "--json", "--config"]).arg(self.path("replicate.yml")).output();
        let listed: Value = serde_json::from_slice(&output.expect("it runs").stdout).expect("JSON");
        listed["generations"][0]["generation"].as_str().unwrap_or_default().to_owned()
    }
}

/// A configuration that is read again: what is the same goes on, what changed goes on in its own history, what is new is replicated, what
/// is gone is put to rest, files move between entries and patterns, and a mistake changes nothing.
#[test]
fn a_configuration_is_read_again() {
    let fleet = Fleet::new();
    for name in ["same", "changed", "removed", "found"] {
        insert(&fleet.path(&format!("data/a/{name}.db")), 2);
    }
    fleet.config();
    let of = |name: &str, more: &str| format!("{{path: DATA/a/{name}.db, replicas: [REPLICAS/{name}.db]{more}}}");
    let found = "{glob: 'DATA/a/fou*.db', replicas: ['REPLICAS/{name}']}";
    fleet.write_config(&format!("[{}, {}, {}, {found}]", of("same", ""), of("changed", ""), of("removed", "")));
    let log = std::fs::File::create(fleet.path("log")).expect("a log");
    let mut command = fleet.command();
    command.args(["run", "--config"]).arg(fleet.path("replicate.yml")).stdin(Stdio::null());
    let run = command.stdout(log.try_clone().expect("a log")).stderr(log).spawn().expect("it starts");
    for name in ["same.db", "changed.db", "removed.db", "found.db"] {
        fleet.has(name, 2);
    }
    let before = ["same.db", "changed.db", "found.db"].map(|name| fleet.generation(name));

    let same = fleet.path("data/a/same.db").display().to_string();
    let good = std::fs::read_to_string(fleet.path("replicate.yml")).expect("read");
    std::fs::write(fleet.path("replicate.yml"), good.replace("replicas:", "replica:")).expect("written");
    crate::ledger::rig::signal(&run, nix::sys::signal::Signal::SIGHUP);
    assert!(eventually(LONG, || fleet.log().contains("THE CONFIGURATION WAS NOT TAKEN OVER")), "{}", fleet.log());
    std::fs::write(fleet.path("replicate.yml"), &good).expect("written");
    assert_eq!(fleet.reload("same.db").expect("reloaded")["unchanged"], 4);
    insert(&fleet.path("data/a/same.db"), 1);
    fleet.has("same.db", 3);

    // One that was found is named now, one that was named is found.
    insert(&fleet.path("data/a/new.db"), 4);
    let entries = [of("same", ""), of("new", ""), of("found", ", spool-limit: 1GiB")].join(", ");
    fleet.write_config(&format!("[{entries}, {{glob: 'DATA/a/cha*.db', replicas: ['REPLICAS/{{name}}']}}]"));
    let told = fleet.reload(&same).expect("reloaded");
    let paths = |what: &str| -> Vec<String> {
        let list = told[what].as_array().expect("a list");
        list.iter().map(|path| path.as_str().expect("a path").rsplit('/').next().expect("a name").to_owned()).collect()
    };
    assert_eq!((paths("added"), paths("removed")), (vec!["new.db".to_owned()], vec!["removed.db".to_owned()]));
    // The names of replicas differ, or a setting does.
    assert!(paths("changed").contains(&"found.db".to_owned()), "{told}");
    fleet.has("new.db", 4);
    for name in ["same", "changed", "found"] {
        insert(&fleet.path(&format!("data/a/{name}.db")), 3);
    }
    for (name, rows) in [("same.db", 6), ("changed.db", 5), ("found.db", 5)] {
        fleet.has(name, rows);
    }
    insert(&fleet.path("data/a/removed.db"), 1);
    assert_eq!(
        ["same.db", "changed.db", "found.db"].map(|name| fleet.generation(name)),
        before,
        "each history goes on"
    );
    let removed = fleet.path("replicas/removed.db").display().to_string();
    assert_eq!(fleet.rows(&removed), Some(2), "nothing more is captured of it");
    stop(run, "replicate run");
}

/// Where fewer files may be open than databases are there, they take turns and that is told; each commit is captured all the same, and a stop
/// ships everything.
#[test]
fn few_descriptors_are_enough() {
    const NUMBER: usize = 120;
    let fleet = Fleet::new();
    let path = |n: usize| fleet.path(&format!("data/a/{n}.db"));
    (0..NUMBER).for_each(|n| insert(&path(n), 1));
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 160; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_replicate")]);
    let replicator = fleet.start(limited);
    let snapshots = || fleet.log().matches("the replica has a whole snapshot").count();
    assert!(eventually(LONG, || snapshots() == NUMBER), "{} snapshots\n{}", snapshots(), fleet.log());
    (0..NUMBER).step_by(7).for_each(|n| insert(&path(n), 2));
    stop(replicator, "replicate run");
    let log = fleet.log();
    assert!(log.contains("few open files are allowed"), "{log}");
    assert!(!log.contains("Too many open files"), "{log}");
    for n in [0, 7, 8, 119] {
        fleet.has(&path(n).display().to_string(), if n % 7 == 0 { 3 } else { 1 });
    }
}
