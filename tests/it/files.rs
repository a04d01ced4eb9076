//! Files beside a database, as a user has them kept and gets them back, with a real SQLite database.

mod group;
mod keep;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Child, Output};

use replicate::checksum::Sha256;
use replicate::layout::BlobHash;
use serde_json::Value;

use crate::ledger::rig::{Rig, stop};

pub struct Scene {
    pub rig: Rig,
    app: rusqlite::Connection,
    include: String,
}

impl Scene {
    /// A database in whose folder the files that `include` (lines of YAML) names are kept with it.
    pub fn new(include: &str) -> Scene {
        let rig = Rig::new(&[]);
        let app = rusqlite::Connection::open(&rig.database).expect("opened");
        app.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(v)").expect("made");
        let include = include.lines().map(|line| format!("    {line}\n")).collect();
        Scene { rig, app, include }
    }

    pub fn insert(&self, v: i64) {
        self.app.execute("INSERT INTO t VALUES (?1)", [v]).expect("inserted");
    }

    /// In the folder of the database.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.rig.path("app").join(name)
    }

    pub fn write(&self, name: &str, content: &str) {
        let path = self.beside(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, content).expect("written");
    }

    pub fn start(&self) -> Child {
        fs::remove_file(self.beside(".app.db-replicate/control")).ok();
        let child = self.rig.start_with("50ms", &self.include);
        let listening = || self.beside(".app.db-replicate/control").exists();
        let is_up = crate::ledger::rig::eventually(std::time::Duration::from_secs(60), listening);
        assert!(is_up, "{}", self.rig.log());
        child
    }

    pub fn ask(&self, arguments: &[&str]) -> Output {
        let mut run = self.rig.replicate();
        run.args(arguments).arg("--config").arg(self.rig.path("replicate.yml"));
        run.output().expect("replicate runs")
    }

    pub fn done(&self, arguments: &[&str]) -> String {
        let output = self.ask(arguments);
        assert!(output.status.success(), "{arguments:?}: {}\n{}", text(&output.stderr), self.rig.log());
        text(&output.stdout)
    }

    /// Everything as it is now is in the replica; the newest commit there.
    pub fn sync(&self) -> u64 {
        self.done(&["sync", "app.db"]);
        // There is a first snapshot.
        self.done(&["snapshot", "app.db"]);
        let status: Value = serde_json::from_str(&self.done(&["status", "app.db", "--json"])).expect("JSON");
        status["databases"][0]["captured"].as_u64().expect("a txid")
    }

    /// Restores with the files into a new directory; the sum in the table and the files there.
    pub fn restored(&self, point: &str, name: &str) -> (i64, Vec<(String, String)>) {
        let folder = self.rig.path(name);
        fs::create_dir(&folder).expect("made");
        let target = folder.join("back.db").display().to_string();
        self.done(&["restore", "app.db", "-o", &target, "--with-files", "--at", point]);
        let connection = rusqlite::Connection::open(folder.join("back.db")).expect("opened");
        let sum = connection.query_row("SELECT coalesce(sum(v), 0) FROM t", [], |row| row.get(0)).expect("a sum");
        drop(connection);
        (sum, content(&folder, "back.db"))
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Every file below a folder but for one, by path.
pub fn content(folder: &std::path::Path, except: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at).expect("readable") {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(folder).expect("below").display().to_string();
            if path.is_dir() {
                folders.push(path);
            } else if name != except {
                found.push((name, text(&fs::read(&path).expect("readable"))));
            }
        }
    }
    found.sort();
    found
}

fn owned(files: &[(&str, &str)]) -> Vec<(String, String)> {
    files.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect()
}

/// Files come back as they were at the commit that is restored, with its database; what looks like a secret, leads out of the folder, is
/// no file or is too large never leaves the machine, and that is told.
#[test]
fn files_are_restored_with_their_database() {
    let scene = Scene::new("include: [config.yml, 'conf/**/*', missing.yml, pipe, huge]\ninclude-interval: 1s");
    scene.write("config.yml", "version: 1");
    scene.write("conf/a.json", "{}");
    scene.write("conf/server.key", "SECRET");
    scene.write("conf/.env", "SECRET");
    scene.write("conf/deep/empty", "");
    symlink("/etc/passwd", scene.beside("conf/passwd")).expect("linked");
    nix::unistd::mkfifo(&scene.beside("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("made");
    fs::File::create(scene.beside("huge")).and_then(|file| file.set_len((16 << 20) + 1)).expect("made");
    fs::set_permissions(scene.beside("conf/a.json"), fs::Permissions::from_mode(0o750)).expect("set");
    let replicator = scene.start();
    scene.insert(1);
    let first = scene.sync();
    scene.write("config.yml", "version: 2");
    fs::remove_file(scene.beside("conf/a.json")).expect("removed");
    scene.insert(10);
    let second = scene.sync();
    scene.write("config.yml", "version: 3");
    stop(replicator, "replicate run");
    // The last change was seen at the stop, although nothing was committed after it.
    let v1 = [("conf/a.json", "{}"), ("conf/deep/empty", ""), ("config.yml", "version: 1")];
    let last = [("conf/deep/empty", ""), ("config.yml", "version: 3")];
    assert_eq!(scene.restored(&format!("txid:{first}"), "one"), (1, owned(&v1)));
    assert_eq!(scene.restored(&format!("txid:{second}"), "two"), (11, owned(&last)));
    assert_eq!(scene.restored("now", "three"), (11, owned(&last)));
    let mode = fs::metadata(scene.rig.path("one/conf/a.json")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o750);
    // Each set is there still: asked for a moment, what came later does not count, although it is of the same commit.
    scene.insert(100);
    scene.done(&["run", "--once"]);
    let sets: Value = serde_json::from_str(&scene.done(&["list", "app.db", "--files", "--json"])).expect("JSON");
    let sets = sets["generations"][0]["files"].as_array().expect("sets").clone();
    let second_hash = BlobHash(Sha256::of(b"version: 2")).to_string();
    let is_second =
        |set: &&Value| set["files"].as_array().is_some_and(|all| all.iter().any(|f| f["sha256"] == second_hash));
    let of_second = sets.iter().rev().find(is_second).expect("a set")["time"].as_str().expect("a time");
    let between = scene.restored(of_second, "four");
    assert_eq!(between.1, owned(&[("conf/deep/empty", ""), ("config.yml", "version: 2")]));
    // Nothing that must not be is anywhere in the replica, and all of that was said.
    let log = scene.rig.log();
    for told in ["missing.yml: there is no such file", "pipe: is a pipe", "huge: has", "conf/passwd: is a link"] {
        assert!(log.contains(told), "{told}\n{log}");
    }
    assert!(log.contains("conf/server.key: looks like a secret"), "{log}");
    assert_eq!(log.matches("huge: has").count(), 1, "told once: {log}");
}

/// After a restart nothing is sent that is there already, and a change while nobody looked is seen.
#[test]
fn a_restart_sends_what_changed_only() {
    let scene = Scene::new("include: ['*.yml']\ninclude-interval: 1s");
    scene.write("a.yml", "a");
    scene.write("b.yml", "b");
    let replicator = scene.start();
    scene.insert(1);
    scene.sync();
    stop(replicator, "replicate run");
    let objects = || {
        let all = content(&scene.rig.path("replica"), "");
        let of = |folder: &str| all.iter().filter(|(name, _)| name.contains(folder)).count();
        (of("/file/"), of("/files/"))
    };
    assert_eq!(objects(), (2, 1));
    let replicator = scene.start();
    scene.insert(2);
    scene.sync();
    stop(replicator, "replicate run");
    assert_eq!(objects(), (2, 1));
    scene.write("b.yml", "c");
    scene.write("d.yml", "a");
    scene.done(&["run", "--once"]);
    assert_eq!(objects(), (3, 2));
    assert_eq!(scene.restored("now", "back").1, owned(&[("a.yml", "a"), ("b.yml", "c"), ("d.yml", "a")]));
}
