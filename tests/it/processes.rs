//! The whole program, in processes of its own: ways in which a replicator loses data by how it starts, ends or meets another
//! one. docs/known-losses.md.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::s3_server::S3Server;
use crate::sqlite_source::app::{App, Library};
use crate::sqlite_source::locks;

/// Longer than anything takes; only a failing test waits for it.
const LONG: Duration = Duration::from_secs(60);
/// An application that commits one row and ends at once.
const AT_ONCE: &str = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=5); \
    c.execute('INSERT INTO t(v) VALUES (?)', (sys.argv[2],)); c.commit(); sys.exit(int(sys.argv[3]))";

/// A database, and the program with a configuration for it.
struct Scene {
    folder: PathBuf,
    url: String,
    environment: Vec<(&'static str, String)>,
}

impl Scene {
    fn new(folder: &Path, url: &str, environment: Vec<(&'static str, String)>) -> Scene {
        fs::create_dir_all(folder).expect("made");
        let scene = Scene { folder: folder.to_owned(), url: url.to_owned(), environment };
        let text = format!(
            "shutdown-timeout: 1s\ndatabases:\n  - path: {}\n    sync-interval: 10ms\n    replicas: [{{ url: \"{url}\" }}]\n",
            scene.database().display()
        );
        fs::write(folder.join("replicate.yml"), text).expect("written");
        scene
    }

    fn database(&self) -> PathBuf {
        self.folder.join("a.db")
    }

    fn app(&self) -> App {
        let mut app = App::start(Library::System, &self.database());
        app.sql("PRAGMA journal_mode=WAL");
        app.sql("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v)");
        app
    }

    fn replicate(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_replicate"));
        command.args(args).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn run(&self, more: &[&str]) -> Command {
        let config = self.folder.join("replicate.yml");
        let mut command = self.replicate(&["run", "--config", config.to_str().expect("text")]);
        let log = fs::File::options().create(true).append(true).open(self.folder.join("log")).expect("a log");
        command.args(more).stdin(Stdio::null()).stderr(log);
        command
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Starts it, and waits until it captures.
    fn start(&self) -> Child {
        fs::remove_file(self.folder.join("log")).ok();
        let child = self.run(&[]).spawn().expect("started");
        self.wait_for("it captures", || self.log().contains("capturing every commit"));
        child
    }

    fn wait_for(&self, what: &str, done: impl Fn() -> bool) {
        let end = Instant::now() + LONG;
        while !done() {
            assert!(Instant::now() < end, "{what}: not in time\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Brings the replica level.
    fn level(&self) {
        let status = self.run(&["--once"]).status().expect("started");
        assert!(status.success(), "{status}\n{}", self.log());
    }

    fn restore(&self, at: &str) -> Result<String, Output> {
        let target = tempfile::tempdir().expect("a directory");
        let file = target.path().join("restored.db");
        let mut command = self.replicate(&["restore", &self.url, "--at", at, "-o", file.to_str().expect("text")]);
        let output = command.output().expect("started");
        if !output.status.success() {
            return Err(output);
        }
        let connection = rusqlite::Connection::open(&file).expect("opened");
        let query = "SELECT coalesce(group_concat(v), '') FROM (SELECT v FROM t ORDER BY id)";
        Ok(connection.query_row(query, [], |row| row.get(0)).expect("the rows"))
    }

    fn newest(&self) -> String {
        self.restore("now").unwrap_or_else(|output| panic!("{output:?}\n{}", self.log()))
    }
}

/// Ends it with TERM. Panics when it does not end.
fn end(child: Child) -> ExitStatus {
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("it runs");
    wait(child)
}

fn wait(mut child: Child) -> ExitStatus {
    let limit = Instant::now() + LONG;
    loop {
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            return status;
        }
        if Instant::now() > limit {
            child.kill().expect("it runs");
            panic!("it hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn directory_scene() -> (tempfile::TempDir, Scene) {
    let folder = tempfile::tempdir().expect("a directory");
    let url = folder.path().join("replica");
    let scene = Scene::new(&folder.path().join("one"), url.to_str().expect("text"), Vec::new());
    (folder, scene)
}

/// The locks of the whole program, seen from outside, while `check`, `list`, `verify`, `restore` and a second `run` of the same
/// database come and go; then the last application to close the database does not remove the WAL, and its commit is captured.
#[test]
fn loss_8_the_programs_locks_survive_its_other_commands() {
    let (_folder, scene) = directory_scene();
    let mut app = scene.app();
    app.sql("INSERT INTO t(v) VALUES ('one')");
    let running = scene.start();
    scene.wait_for("a snapshot", || scene.log().contains("the replica has a whole snapshot"));
    let config = scene.folder.join("replicate.yml");
    let config = config.to_str().expect("text");
    for command in [
        &["check", "--connect", "--config", config][..],
        &["list", "--config", config, "a.db"],
        &["verify", "--config", config, "a.db"],
    ] {
        let output = scene.replicate(command).output().expect("started");
        assert!(output.status.success(), "{command:?}: {output:?}");
    }
    let database = scene.database();
    let over = ["restore", &scene.url, "--overwrite", "-o", database.to_str().expect("text")];
    assert_eq!(scene.replicate(&over).output().expect("started").status.code(), Some(4), "it is in use");
    let second = scene.run(&[]).output().expect("started");
    assert_eq!(second.status.code(), Some(4), "another process replicates it: {}", scene.log());
    app.close();
    let held = locks::held_by(&scene.database(), running.id());
    assert!(held.file && held.index_alive && held.read_mark, "{held:?}");
    let mut app = scene.app();
    app.sql("INSERT INTO t(v) VALUES ('two')");
    app.close();
    assert!(scene.database().with_extension("db-wal").exists(), "the WAL was removed under it");
    assert!(end(running).success(), "{}", scene.log());
    assert_eq!(scene.newest(), "one,two");
    assert!(!scene.log().contains("GAP"), "{}", scene.log());
}

fn names(folder: &Path, part: &str, found: &mut Vec<(PathBuf, std::time::SystemTime)>) {
    for entry in fs::read_dir(folder).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            names(&path, part, found);
        } else if path.to_str().expect("text").contains(part) {
            found.push((path.clone(), path.metadata().expect("there").modified().expect("a time")));
        }
    }
}

/// Killed and started again and again, it goes on in one generation with every commit, and never uploads the database again.
#[test]
fn loss_14_a_killed_process_goes_on_where_it_was() {
    let (_folder, scene) = directory_scene();
    let mut app = scene.app();
    app.sql("INSERT INTO t(v) VALUES ('0')");
    scene.level();
    let copied = |part: &str| {
        let mut found = Vec::new();
        names(Path::new(&scene.url), part, &mut found);
        found.sort();
        found
    };
    let before = (copied("/part/"), copied("/snapshot/"));
    let mut rows = "0".to_owned();
    for round in 1..=4 {
        let mut running = scene.start();
        app.sql(&format!("INSERT INTO t(v) VALUES ('{round}')"));
        rows.push_str(&format!(",{round}"));
        std::thread::sleep(Duration::from_millis(round * 15));
        running.kill().expect("it runs");
        running.wait().expect("it ran");
    }
    assert!(end(scene.start()).success(), "{}", scene.log());
    assert_eq!(scene.newest(), rows);
    assert!(!before.0.is_empty() && (copied("/part/"), copied("/snapshot/")) == before);
    assert_eq!(
        fs::read_dir(&scene.url).expect("listed").filter(|e| e.as_ref().expect("one").path().is_dir()).count(),
        1
    );
}

/// Two processes on two hosts write into one replica: what the later one wrote is what is restored, and every commit that is
/// listed restores or was never mixed with the other's.
#[test]
fn loss_16_two_processes_leave_one_restorable_history() {
    let (folder, first) = directory_scene();
    let mut app = first.app();
    app.sql("INSERT INTO t(v) VALUES ('common')");
    first.level();
    let second = Scene::new(&folder.path().join("two"), &first.url, Vec::new());
    app.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    fs::copy(first.database(), second.database()).expect("copied");
    let running = [first.start(), second.start()];
    let mut other = second.app();
    for n in 0..5 {
        app.sql(&format!("INSERT INTO t(v) VALUES ('first {n}')"));
        other.sql(&format!("INSERT INTO t(v) VALUES ('second {n}')"));
        std::thread::sleep(Duration::from_millis(40));
    }
    for child in running {
        // The one that was taken over may have noticed, or not.
        end(child);
    }
    let expected = "common,second 0,second 1,second 2,second 3,second 4";
    assert_eq!(second.newest(), expected, "{}\n{}", first.log(), second.log());
    let output = second.replicate(&["list", &second.url, "--commits", "--json"]).output().expect("started");
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let generations = list["generations"].as_array().expect("generations");
    assert_eq!(generations.len(), 1, "{list}");
    let commits = generations[0]["commits"].as_array().expect("commits");
    assert!(commits.len() > 5, "{list}");
    for commit in commits.iter().filter(|commit| commit["restorable"] == true) {
        let at = format!("txid:{}", commit["txid"]);
        let rows = second.restore(&at).unwrap_or_else(|output| panic!("{at}: {output:?}"));
        assert!(!(rows.contains("first") && rows.contains("second")), "{at}: a mixture: {rows}");
    }
    let verified = second.replicate(&["verify", &second.url]).output().expect("started");
    assert!(verified.status.success(), "{verified:?}");
}

/// A command that commits and ends at once: its exit code is passed on, and what it committed is in the replica.
#[test]
fn loss_19_what_a_short_command_committed_is_shipped() {
    let (_folder, scene) = directory_scene();
    let app = scene.app();
    let database = scene.database();
    let database = database.to_str().expect("text");
    let run = |row: &str, code: &str| {
        scene.run(&["--", "python3", "-c", AT_ONCE, database, row, code]).status().expect("started").code()
    };
    assert_eq!(run("one", "0"), Some(0), "{}", scene.log());
    app.close();
    assert_eq!(run("two", "3"), Some(3), "{}", scene.log());
    assert_eq!(scene.newest(), "one,two");
}

/// A store that hangs when everything is to be shipped at last: it ends within its time, and the exit code says that something
/// is not shipped: 7 with a command that ended well, 1 without a command. The next run ships it.
#[test]
fn loss_19_a_final_sync_that_fails_is_told() {
    let server = S3Server::start(19);
    let folder = tempfile::tempdir().expect("a directory");
    let scene = Scene::new(folder.path(), &server.url("p"), server.env());
    let mut app = scene.app();
    app.sql("INSERT INTO t(v) VALUES ('zero')");
    scene.level();
    let database = scene.database();
    let hangs = |on| server.set(|manners| &manners.outage, on);
    hangs(true);
    let command = ["--", "python3", "-c", AT_ONCE, database.to_str().expect("text"), "one", "0"];
    let code = wait(scene.run(&command).spawn().expect("started")).code();
    assert_eq!(code, Some(7), "{}", scene.log());
    let running = scene.start();
    app.sql("INSERT INTO t(v) VALUES ('two')");
    assert_eq!(end(running).code(), Some(1), "{}", scene.log());
    assert!(scene.log().contains("not everything was shipped in time"), "{}", scene.log());
    hangs(false);
    assert_eq!(scene.newest(), "zero");
    scene.level();
    assert_eq!(scene.newest(), "zero,one,two");
}

/// A replica that lost its newest object still hangs together; what this machine knows to have shipped tells.
#[test]
fn loss_27_a_lost_tail_is_told() {
    let folder = tempfile::tempdir().expect("a directory");
    let replica = folder.path().join("replica");
    let scene = Scene::new(folder.path(), &format!("file://{}", replica.display()), Vec::new());
    let mut app = scene.app();
    scene.level();
    app.sql("INSERT INTO t(v) VALUES ('last')");
    scene.level();
    let config = folder.path().join("replicate.yml");
    let args = ["verify", "a.db", "--config", config.to_str().expect("text")];
    assert!(scene.replicate(&args).status().expect("started").success());
    let level = fs::read_dir(&replica).expect("readable").flatten().map(|entry| entry.path().join("0"));
    let level = level.into_iter().find(|path| path.is_dir()).expect("a generation with segments");
    let newest = fs::read_dir(level).expect("readable").flatten().map(|entry| entry.path()).max().expect("a segment");
    fs::remove_file(newest).expect("removed");
    let output = scene.replicate(&args).output().expect("started");
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("lost its end"), "{output:?}");
}

/// Started again after its database was closed in good order, it finds the same pages and records no repair.
#[test]
fn an_unchanged_database_is_not_repaired() {
    let folder = tempfile::tempdir().expect("a directory");
    let replica = folder.path().join("replica");
    let scene = Scene::new(folder.path(), &format!("file://{}", replica.display()), Vec::new());
    let mut app = scene.app();
    app.sql("INSERT INTO t(v) VALUES ('a')");
    scene.level();
    drop(app);
    // As the last connection to close does: everything is in the file, and the WAL is gone.
    let connection = rusqlite::Connection::open(scene.database()).expect("opened");
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("checkpointed");
    drop(connection);
    scene.level();
    let list = scene.replicate(&["list", &scene.url, "--commits"]).output().expect("started");
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(list.contains("txid:1 ") && !list.contains("repair"), "{list}");
}
