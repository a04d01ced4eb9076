//! Arguments beat the environment, the environment beats the file: seen through the program.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

fn replicate(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_replicate"));
    for name in ["DATABASE", "URL", "CONFIG", "LISTEN", "LOG", "LOG_FORMAT"] {
        command.env_remove(format!("REPLICATE_{name}"));
    }
    let output = command.args(arguments).envs(environment.iter().copied()).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A database in WAL mode with one table.
fn database(path: &Path) {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.execute_batch("PRAGMA journal_mode=wal; CREATE TABLE t (x); INSERT INTO t VALUES (1);").unwrap();
}

struct Case {
    folder: tempfile::TempDir,
}

impl Case {
    fn new() -> Case {
        let folder = tempfile::tempdir().unwrap();
        database(&folder.path().join("a.db"));
        let yaml = "{databases: [{path: FOLDER/a.db, sync-interval: 7ms, replicas: [FOLDER/from-file]}]}";
        let yaml = yaml.replace("FOLDER", &folder.path().display().to_string());
        std::fs::write(folder.path().join("c.yaml"), yaml).unwrap();
        Case { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn replicas(&self) -> Vec<&'static str> {
        let all = ["from-file", "from-environment", "from-argument", "a.db.replica"];
        all.into_iter().filter(|name| self.folder.path().join(name).exists()).collect()
    }
}

/// Each source alone, and each pair of them: the nearer one wins.
#[test]
fn precedence() {
    for (arguments, environment, replica) in [
        (&["--config", "c.yaml"][..], &[][..], "from-file"),
        (&[], &[("REPLICATE_CONFIG", "c.yaml")], "from-file"),
        (&["a.db"], &[("REPLICATE_CONFIG", "c.yaml")], "from-file"),
        (&["a.db", "from-argument"], &[("REPLICATE_CONFIG", "c.yaml")], "from-argument"),
        (&[], &[("REPLICATE_DATABASE", "a.db"), ("REPLICATE_URL", "from-environment")], "from-environment"),
        (&["a.db", "from-argument"], &[("REPLICATE_URL", "from-environment")], "from-argument"),
        (&["a.db"], &[], "a.db.replica"),
        (&["--config", "c.yaml"], &[("REPLICATE_CONFIG", "/no/such/file")], "from-file"),
    ] {
        let case = Case::new();
        let within = |text: &&str| if text.starts_with('-') { text.to_string() } else { case.path(text) };
        let arguments: Vec<String> =
            ["run", "--once"].iter().map(ToString::to_string).chain(arguments.iter().map(within)).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let environment: Vec<(&str, String)> =
            environment.iter().map(|(name, value)| (*name, case.path(value))).collect();
        let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let (code, _, err) = replicate(&arguments, &environment);
        assert_eq!((code, case.replicas()), (Some(0), vec![replica]), "{arguments:?} {environment:?}: {err}");
    }
}

/// `check` sees what `run` would: the file, the environment on top of it, and the state of the database.
#[test]
fn check_sees_what_run_would() {
    let case = Case::new();
    let config = case.path("c.yaml");
    let facts = |environment: &[(&str, &str)]| -> Value {
        let (code, out, err) = replicate(&["check", "--json", "--connect", "--config", &config], environment);
        assert_eq!(code, Some(0), "{err}");
        serde_json::from_str(&out).unwrap()
    };
    let file = &facts(&[])["databases"][0];
    assert_eq!(
        (&file["settings"]["sync-interval"], &file["file"]["engine"]),
        (&Value::from("7ms"), &Value::from("sqlite"))
    );
    assert_eq!(
        (&file["file"]["wal-mode"], &file["replicas"][0]["reachable"]),
        (&Value::from(true), &Value::from(true))
    );
    let (path, url) = (case.path("a.db"), case.path("from-environment"));
    let both = facts(&[("REPLICATE_DATABASE", &path), ("REPLICATE_URL", &url)]);
    assert_eq!(both["databases"][0]["replicas"][0]["url"], url.as_str());
    assert_eq!(both["databases"][0]["settings"]["sync-interval"], "7ms");
}

/// A file that is no database is refused before anything is made.
#[test]
fn other_files_are_refused() {
    let case = Case::new();
    std::fs::write(case.path("text"), "this is no database at all, but it is long enough to look at").unwrap();
    let (code, _, err) = replicate(&["run", "--once", &case.path("text")], &[]);
    assert_eq!((code, err.contains("no database of a known engine")), (Some(1), true), "{err}");
    assert!(case.replicas().is_empty());
}
