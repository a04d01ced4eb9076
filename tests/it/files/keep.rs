//! Pruning, verifying and auditing what is kept of files.

use std::fs;
use std::path::{Path, PathBuf};

use replicate::checksum::content_hash;
use replicate::layout::{FileSetName, ObjectName};

use super::*;

fn scene() -> Scene {
    let scene = Scene::new("include: ['*.yml']\ninclude-interval: 1s");
    scene.write("a.yml", "first");
    let replicator = scene.start();
    for n in 1..=4 {
        scene.insert(n);
        scene.write("a.yml", &format!("version {n}"));
        scene.write("constant.yml", "always");
        scene.sync();
    }
    stop(replicator, "replicate run");
    scene
}

fn replica(scene: &Scene) -> PathBuf {
    scene.rig.path("replica")
}

fn objects(scene: &Scene, folder: &str) -> Vec<PathBuf> {
    let all = content(&replica(scene), "").into_iter().map(|(name, _)| replica(scene).join(name));
    let of_folder = all.filter(|path| path.parent().is_some_and(|parent| parent.ends_with(folder)));
    of_folder.collect()
}

/// What no restorable commit needs goes in two looks, blobs after sets; what is left restores, and verifies.
#[test]
fn files_are_pruned_with_their_commits() {
    let scene = scene();
    // And perhaps what a look met between two of these.
    assert!(objects(&scene, "files").len() >= 4 && objects(&scene, "file").len() >= 5);
    let plan = scene.done(&["prune", "app.db", "--keep-last", "1", "--dry-run"]);
    assert!(plan.contains("no file set that stays has it") && plan.contains("the newest file set"), "{plan}");
    scene.done(&["prune", "app.db", "--keep-last", "1", "--grace", "0s"]);
    assert_eq!((objects(&scene, "files").len(), objects(&scene, "file").len()), (1, 2));
    let found = scene.done(&["verify", "app.db", "--deep"]);
    assert!(found.contains("1 file sets, 2 blobs") && found.contains("sound"), "{found}");
    let files = [("a.yml", "version 4"), ("constant.yml", "always")];
    assert_eq!(scene.restored("now", "back"), (10, owned(&files)));
    // And the writer goes on from what is left.
    scene.write("a.yml", "version 5");
    scene.insert(5);
    scene.done(&["run", "--once"]);
    assert_eq!((objects(&scene, "files").len(), objects(&scene, "file").len()), (2, 3));
    scene.done(&["verify", "app.db", "--deep"]);
}

/// A flipped bit, a missing blob and a missing or changed set are found and named; a restore with them changes nothing.
#[test]
fn damage_of_files_is_found() {
    let scene = scene();
    scene.done(&["verify", "app.db", "--deep"]);
    let newest_set = objects(&scene, "files").pop().expect("a set");
    let set: Value = serde_json::from_str(&text(&fs::read(&newest_set).expect("there"))).expect("JSON");
    let hash = set["files"][0]["sha256"].as_str().expect("a hash").to_owned();
    let blob = objects(&scene, "file").into_iter().find(|path| path.to_string_lossy().contains(&hash)).expect("there");
    let finds = |arguments: &[&str], object: &Path| {
        let output = scene.ask(arguments);
        let name = object.file_name().expect("a name").to_string_lossy().into_owned();
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{arguments:?} {said}");
        assert!(said.contains(&name), "{arguments:?} names {name}: {said}");
    };
    let target = scene.rig.path("never.db");
    let restore = ["restore", "app.db", "-o", target.to_str().expect("text"), "--with-files"];
    for object in [&blob, &newest_set] {
        let whole = fs::read(object).expect("there");
        let mut broken = whole.clone();
        let middle = broken.len() / 2;
        broken[middle] ^= 1;
        fs::write(object, &broken).expect("broken");
        finds(&["verify", "app.db", "--deep"], object);
        finds(&restore, object);
        if object == &newest_set {
            finds(&["verify", "app.db"], object);
        } else {
            fs::remove_file(object).expect("removed");
            finds(&["verify", "app.db"], object);
            finds(&["verify", "app.db", "--deep"], object);
            finds(&restore, object);
        }
        assert!(
            !target.exists()
                && content(scene.rig.folder.path(), "").iter().all(|(name, _)| !name.contains(".restore-"))
        );
        fs::write(object, &whole).expect("put back");
    }
    scene.done(&["verify", "app.db", "--deep"]);
    scene.done(&restore);
}

/// A set that somebody made up, with the right name and framing, leads nowhere: it is refused as a whole.
#[test]
fn a_hostile_set_writes_nothing() {
    let scene = scene();
    let newest_set = objects(&scene, "files").pop().expect("a set");
    let whole = text(&fs::read(&newest_set).expect("there"));
    let key = newest_set.strip_prefix(replica(&scene)).expect("below").display().to_string();
    let Some(ObjectName::FileSet(name)) = ObjectName::parse(&key) else { panic!("{key}") };
    fs::remove_file(&newest_set).expect("removed");
    let folder = scene.rig.path("in/a/folder");
    fs::create_dir_all(&folder).expect("made");
    let target = folder.join("back.db").display().to_string();
    let outside = scene.rig.path("in/evil.yml");
    for path in
        ["../../evil.yml", &outside.display().to_string(), "x/../../../evil.yml", "", "..", "a\\u0000b", "constant.yml"]
    {
        let hostile = whole.replace("\"a.yml\"", &format!("\"{}\"", path));
        assert_ne!(hostile, whole);
        let name = FileSetName { hash: content_hash(hostile.as_bytes()), ..name };
        let place = replica(&scene).join(ObjectName::FileSet(name).key().as_str());
        fs::write(&place, &hostile).expect("written");
        let refused = scene.ask(&["restore", "app.db", "-o", &target, "--with-files"]);
        assert_eq!(refused.status.code(), Some(5), "{path}: {}", text(&refused.stderr));
        assert_eq!(content(&scene.rig.path("in"), ""), [], "{path}");
        fs::remove_file(&place).expect("removed");
    }
    // The names of the database itself are good names of files, and refused where it is restored.
    let hostile = whole.replace("\"a.yml\"", "\"back.db-wal\"");
    let name = FileSetName { hash: content_hash(hostile.as_bytes()), ..name };
    fs::write(replica(&scene).join(ObjectName::FileSet(name).key().as_str()), &hostile).expect("written");
    let refused = scene.ask(&["restore", "app.db", "-o", &target, "--with-files", "--overwrite"]);
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused.stderr));
    assert_eq!(content(&scene.rig.path("in"), ""), []);
}

/// An audit by hand covers the files, a drill proves them, and `check` tells beforehand what would be kept.
#[test]
fn files_are_audited_and_drilled() {
    let scene = scene();
    let sums = scene.done(&["manifest", "app.db", "--with-files", "--format", "sha256sum"]);
    for (folder, count) in [("/files/", 1), ("/file/", 2)] {
        assert_eq!(sums.lines().filter(|line| line.contains(folder)).count(), count, "{sums}");
    }
    for line in sums.lines() {
        let (sum, key) = line.split_once("  ").expect("two columns");
        let found = replicate::checksum::Sha256::of(&fs::read(replica(&scene).join(key)).expect("there"));
        assert_eq!(BlobHash(found).to_string(), sum, "{key}");
    }
    assert!(!scene.done(&["manifest", "app.db", "--format", "sha256sum"]).contains("/file"));
    let drill: Value = serde_json::from_str(&scene.done(&["drill", "app.db", "--json"])).expect("JSON");
    assert_eq!((&drill["passed"], &drill["files"]), (&Value::from(true), &Value::from(2)), "{drill}");
    for blob in objects(&scene, "file") {
        fs::remove_file(blob).expect("removed");
    }
    let broken = scene.ask(&["drill", "app.db"]);
    assert_eq!(broken.status.code(), Some(5), "{}", text(&broken.stdout));
    scene.write("x.key", "secret");
    scene.write("big.yml", "soon");
    fs::File::create(scene.beside("big.yml")).and_then(|file| file.set_len(1 << 30)).expect("grown");
    let checked: Value = serde_json::from_str(&scene.done(&["check", "--json"])).expect("JSON");
    let files = &checked["databases"][0]["files"];
    assert_eq!(files["taken"].as_array().map(Vec::len), Some(2), "{files}");
    assert_eq!(files["left_out"][0]["path"], "big.yml", "{files}");
    assert!(scene.done(&["check"]).contains("NOT KEPT: big.yml: has 1073741824 bytes"));
}

/// The same in S3, beside a directory: each has its own sets, and both restore the same.
#[test]
fn files_go_to_every_store() {
    let server = crate::s3_server::S3Server::start(51);
    let mut scene = Scene::new("include: [config.yml]");
    scene.rig.urls.push(server.url("files"));
    scene.rig.environment = server.env().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    scene.write("config.yml", "one");
    let replicator = scene.start();
    scene.insert(1);
    scene.sync();
    scene.write("config.yml", "two");
    scene.insert(1);
    scene.sync();
    stop(replicator, "replicate run");
    let of = |folder: &str| server.names().iter().filter(|name| name.contains(folder)).count();
    assert!(of("/files/") >= 2 && of("/file/") == 2, "{:?}", server.names());
    fs::remove_dir_all(replica(&scene)).expect("removed");
    assert_eq!(scene.restored("now", "back"), (2, owned(&[("config.yml", "two")])));
    let url = server.url("files");
    scene.done(&["verify", &url, "--deep"]);
    assert_eq!(server.overwrites(), 0);
}

/// The same beside a DuckDB file, which is captured as it was left: with its log.
#[test]
fn files_of_a_duckdb_database_are_kept() {
    let scene = Scene::new("include: [config.yml]");
    let golden = |name: &str| {
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/duckdb").join(name)).expect("golden")
    };
    for suffix in ["-wal", "-shm"] {
        fs::remove_file(scene.beside(&format!("app.db{suffix}"))).expect("removed");
    }
    fs::write(scene.beside("app.db"), golden("2.0.0.db")).expect("written");
    fs::write(scene.beside("app.db.wal"), golden("2.0.0.db.wal")).expect("written");
    scene.write("config.yml", "one");
    let replicator = scene.start();
    scene.sync();
    scene.write("config.yml", "two");
    stop(replicator, "replicate run");
    let folder = scene.rig.path("back");
    fs::create_dir(&folder).expect("made");
    let target = folder.join("back.db").display().to_string();
    scene.done(&["restore", "app.db", "-o", &target, "--with-files", "--no-check", "--keep-wal"]);
    assert_eq!(fs::read_to_string(folder.join("config.yml")).expect("restored"), "two");
    assert!(fs::read(folder.join("back.db.wal")).expect("restored") == golden("2.0.0.db.wal"), "another log");
    assert_eq!(objects(&scene, "files").len(), 2);
    scene.done(&["verify", "app.db", "--deep"]);
}
