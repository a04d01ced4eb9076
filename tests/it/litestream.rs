//! `check --litestream`: what it makes of whole configurations, as the program prints it, is understood by the program itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// What stands for the secrets in the environment of these tests.
const SECRET: &str = "hunter2";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/litestream").join(name)
}

fn check(arguments: &[&str], file: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_replicate"));
    for name in ["DATABASE", "URL", "CONFIG", "LISTEN"] {
        command.env_remove(format!("REPLICATE_{name}"));
    }
    for name in ["LITESTREAM_ACCESS_KEY_ID", "LITESTREAM_SECRET_ACCESS_KEY"] {
        command.env(name, SECRET);
    }
    command
        .arg("check")
        .args(arguments)
        .arg(file)
        .env("HOME", "/home/app")
        .stdin(Stdio::null())
        .output()
        .expect("started")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn assert_golden(name: &str, found: &str) {
    if std::env::var_os("REGENERATE_LITESTREAM").is_some() {
        fs::write(fixture(name), found).expect("written");
    }
    assert_eq!(
        found,
        fs::read_to_string(fixture(name)).expect("there"),
        "{name} differs; see fixtures/litestream/README.md"
    );
}

/// A configuration of either version becomes the golden one of ours, which `check --config` understands; secrets stay variables.
#[test]
fn whole_configurations_are_converted() {
    for version in ["v0.3", "v0.5"] {
        let converted = check(&["--litestream"], &fixture(&format!("{version}.yml")));
        let (yaml, notes) = (text(&converted.stdout), text(&converted.stderr));
        assert!(converted.status.success(), "{version}: {notes}");
        assert!(!yaml.contains(SECRET) && !notes.contains(SECRET) && yaml.contains("${LITESTREAM_SECRET_ACCESS_KEY}"));
        assert_golden(&format!("{version}.replicate.yaml"), &yaml);
        assert_golden(&format!("{version}.notes.txt"), &notes);
        let understood = check(&["--config"], &fixture(&format!("{version}.replicate.yaml")));
        assert!(understood.status.success(), "{version}: {}", text(&understood.stderr));
        let shown = text(&understood.stdout);
        assert!(shown.contains("replica s3://backups/app/replicate") && !shown.contains(SECRET), "{shown}");
    }
}

/// What cannot be converted is a wrong configuration: nothing on stdout, every database that is concerned on stderr.
#[test]
fn what_cannot_be_converted_is_told_by_database() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("litestream.yml");
    let yaml =
        "dbs: [{path: /a.db, replicas: [{type: sftp, password: hunter2}]}, {path: /b.db, replicas: [{type: abs}]}]";
    fs::write(&file, yaml).expect("written");
    let output = check(&["--litestream"], &file);
    let told = text(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), b"".as_slice()), "{told}");
    for part in ["dbs[0].replicas[0] of /a.db: type sftp", "dbs[1].replicas[0] of /b.db: type abs", "next: "] {
        assert!(told.contains(part), "{told}");
    }
    assert!(!told.contains(SECRET), "{told}");
}
