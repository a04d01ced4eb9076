//! What a look takes and what it leaves out.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn include(include: &[&str], exclude: &[&str], place: &Place) -> Include {
    let texts = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect::<Vec<_>>();
    let patterns = Patterns::new(&texts(include), &texts(exclude), &place.database).unwrap();
    Include { patterns, interval: Duration::from_secs(1) }
}

fn scene() -> (tempfile::TempDir, Place) {
    let folder = tempfile::tempdir().unwrap();
    let place = Place { database: folder.path().join("app.db"), state_dir: folder.path().join(".app.db-replicate") };
    for name in ["sub/deep", ".app.db-replicate", "app.db.replica/x", "empty"] {
        fs::create_dir_all(folder.path().join(name)).unwrap();
    }
    for (name, text) in [
        ("app.db", "db"),
        ("app.db-wal", "wal"),
        ("config.yml", "a: 1"),
        ("server.KEY", "secret"),
        (".env", "secret"),
        (".hidden", "h"),
        ("sub/one.json", "1"),
        ("sub/deep/two.json", "2"),
        ("sub/id_rsa", "secret"),
        ("app.json", "of app"),
        ("old.yml.before-restore-20261120T101500Z", "old"),
        (".app.db-replicate/page-map", "m"),
        ("app.db.replica/replicate.json", "{}"),
        ("app.db.replica/x/y.json", "part"),
    ] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    (folder, place)
}

fn taken(look: &Look) -> Vec<&str> {
    look.files.iter().map(|seen| seen.path.as_str()).collect()
}

fn told(look: &Look) -> Vec<String> {
    look.left_out.iter().map(ToString::to_string).collect()
}

/// Names and patterns are taken as they say; what belongs to databases and replicas, and secrets, are not.
#[test]
fn what_is_taken() {
    let (_folder, place) = scene();
    let look_for = |names: &[&str], exclude: &[&str]| look(&place, &include(names, exclude, &place)).unwrap();
    let found = look_for(&["config.yml", "sub/one.json", "{stem}.json"], &[]);
    assert_eq!((taken(&found), told(&found)), (vec!["app.json", "config.yml", "sub/one.json"], vec![]));
    let found = look_for(&["*"], &[]);
    assert_eq!(taken(&found), ["app.json", "config.yml"]);
    assert_eq!(found.left_out, [LeftOut { what: "server.KEY".into(), why: Why::Secret("*.key".into()) }]);
    let found = look_for(&["**/*.json"], &[]);
    assert_eq!(taken(&found), ["app.json", "sub/deep/two.json", "sub/one.json"]);
    let found = look_for(&["sub/*"], &[]);
    assert_eq!((taken(&found), found.left_out.len()), (vec!["sub/one.json"], 1));
    let found = look_for(&["sub/**/*", ".hidden"], &["deep", "!sub/id_rsa"]);
    assert_eq!((taken(&found), told(&found)), (vec![".hidden", "sub/id_rsa", "sub/one.json"], vec![]));
    // What is named and cannot be had is told.
    let found = look_for(
        &["gone.yml", "sub", "app.db", "app.db-wal", "app.db.replica/x/y.json", ".app.db-replicate/page-map"],
        &[],
    );
    let why: Vec<&Why> = found.left_out.iter().map(|one| &one.why).collect();
    let database = &Why::Database;
    assert_eq!(why, [database, database, database, database, &Why::Missing, &Why::NoFile("a directory")]);
    assert!(found.files.is_empty());
}

/// What a configuration cannot mean is refused before anything is looked at.
#[test]
fn patterns_that_lead_elsewhere_are_refused() {
    for text in ["/etc/passwd", "../x", "a/../b", "", ".", "a//b", "a/***", "x\ny", "[a"] {
        let refused = Patterns::new(&[text.to_owned()], &[], Path::new("/data/app.db"));
        assert!(refused.is_err(), "{text:?}");
    }
    assert!(Patterns::new(&[], &["[".to_owned()], Path::new("/data/app.db")).is_err());
}

/// A link is followed within the folder and never out of it, wherever on the way it stands; other names of a database that is open are
/// not opened.
#[test]
fn links_lead_nowhere_else() {
    let (folder, place) = scene();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("passwd"), "root").unwrap();
    let at = |name: &str| folder.path().join(name);
    symlink("config.yml", at("inside.yml")).unwrap();
    symlink("sub", at("sublink")).unwrap();
    symlink(outside.path().join("passwd"), at("absolute.yml")).unwrap();
    symlink(format!("../{}/passwd", outside.path().file_name().unwrap().to_str().unwrap()), at("relative.yml"))
        .unwrap();
    symlink(outside.path(), at("outlink")).unwrap();
    symlink("loop.yml", at("loop.yml")).unwrap();
    symlink("app.db", at("alias.yml")).unwrap();
    fs::hard_link(at("app.db"), at("hard.yml")).unwrap();
    let names = ["inside.yml", "sublink/one.json", "absolute.yml", "relative.yml", "outlink/passwd", "loop.yml"];
    let found = look(&place, &include(&names, &[], &place)).unwrap();
    assert_eq!(taken(&found), ["inside.yml", "sublink/one.json"]);
    assert!(found.left_out.len() == 4 && found.left_out.iter().all(|one| one.why == Why::Link), "{:?}", told(&found));
    assert_eq!(read(&place, &"inside.yml".parse().unwrap()).unwrap().bytes, b"a: 1");
    for path in ["absolute.yml", "relative.yml", "outlink/passwd", "loop.yml"] {
        assert_eq!(read(&place, &path.parse().unwrap()).unwrap_err(), Why::Link, "{path}");
    }
    let found = look(&place, &include(&["alias.yml", "hard.yml"], &[], &place)).unwrap();
    assert!(found.files.is_empty() && found.left_out.iter().all(|one| one.why == Why::Database), "{:?}", told(&found));
    // Of a database that this process replicates, whichever it is.
    let elsewhere = Place { database: at("other.db"), state_dir: at("state") };
    let live = Live::new(&at("app.db"));
    assert_eq!(read(&elsewhere, &"hard.yml".parse().unwrap()).unwrap_err(), Why::Database);
    drop(live);
    assert!(read(&elsewhere, &"hard.yml".parse().unwrap()).is_ok());
}

/// Nothing but a regular file is opened: a pipe without a writer holds nobody up.
#[test]
fn pipes_are_not_opened() {
    let (folder, place) = scene();
    nix::unistd::mkfifo(&folder.path().join("pipe.yml"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let found = look(&place, &include(&["pipe.yml", "*.yml"], &[], &place)).unwrap();
    assert_eq!(taken(&found), ["config.yml"]);
    assert_eq!(found.left_out.len(), 1, "{:?}", told(&found));
    assert!(matches!(read(&place, &"pipe.yml".parse().unwrap()), Err(Why::NoFile(_))));
}

/// What is more than a set may hold is left out and told, and the rest is taken.
#[test]
fn bounds_are_kept() {
    let (folder, place) = scene();
    let make = |name: &str, bytes: u64| fs::File::create(folder.path().join(name)).unwrap().set_len(bytes).unwrap();
    make("b1.bin", MAX_FILE_BYTES + 1);
    (2..7).for_each(|n| make(&format!("b{n}.bin"), MAX_FILE_BYTES));
    make("b8.bin", 0);
    let found = look(&place, &include(&["*.bin"], &[], &place)).unwrap();
    assert_eq!(taken(&found), ["b2.bin", "b3.bin", "b4.bin", "b5.bin", "b8.bin"]);
    let why: Vec<&Why> = found.left_out.iter().map(|one| &one.why).collect();
    assert_eq!(why, [&Why::TooLarge(MAX_FILE_BYTES + 1), &Why::NoRoom]);
    (0..1003).for_each(|n| make(&format!("empty/{n:04}"), 0));
    let found = look(&place, &include(&["empty/*"], &[], &place)).unwrap();
    assert_eq!((found.files.len(), found.left_out.len()), (1000, 3));
    assert_eq!(read(&place, &"b1.bin".parse().unwrap()).unwrap_err(), Why::TooLarge(MAX_FILE_BYTES + 1));
}

/// A file that changes each time that it is read is left for the next look, and nobody waits for long.
#[test]
fn what_changes_is_left_for_later() {
    let (folder, place) = scene();
    let (path, go_on) = (folder.path().join("busy.yml"), std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true)));
    fs::write(&path, vec![1u8; 1 << 20]).unwrap();
    let writer = std::thread::spawn({
        let go_on = go_on.clone();
        move || {
            use std::io::Write;
            let mut file = fs::File::options().append(true).open(path).unwrap();
            let mut written = 1 << 20;
            while go_on.load(std::sync::atomic::Ordering::Relaxed) && written < MAX_FILE_BYTES / 2 {
                file.write_all(b"x").unwrap();
                written += 1;
            }
        }
    });
    let result = read(&place, &"busy.yml".parse().unwrap());
    go_on.store(false, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();
    match result {
        Err(why) => assert_eq!(why, Why::Changing),
        // The writer was not given any time.
        Ok(content) => assert_eq!(content.bytes.len() as u64, content.facts.bytes),
    }
    assert!(read(&place, &"busy.yml".parse().unwrap()).is_ok());
    fs::set_permissions(folder.path().join("config.yml"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(read(&place, &"config.yml".parse().unwrap()).unwrap().facts.mode & 0o777, 0o600);
}
