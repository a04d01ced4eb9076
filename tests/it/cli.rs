//! The program as a person or a script meets it: exit codes, help, JSON, secrets.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

pub const COMMANDS: [&str; 19] = [
    "reload",
    "run",
    "restore",
    "list",
    "verify",
    "manifest",
    "drill",
    "prune",
    "snapshot",
    "label",
    "sync",
    "status",
    "check",
    "cost",
    "demo",
    "completions",
    "man",
    "pause",
    "resume",
];

/// Without the variables of whoever runs the tests.
fn replicate<S: AsRef<OsStr>>(arguments: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_replicate"));
    for name in ["DATABASE", "URL", "CONFIG", "LISTEN", "LOG", "LOG_FORMAT"] {
        command.env_remove(format!("REPLICATE_{name}"));
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

fn output<S: AsRef<OsStr>>(arguments: &[S]) -> Output {
    replicate(arguments).output().expect("the program runs")
}

/// Runs, expects an exit code, and gives stdout and stderr.
#[track_caller]
fn expect<S: AsRef<OsStr>>(code: i32, arguments: &[S]) -> (String, String) {
    let output = output(arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "stdout: {out}\nstderr: {err}");
    (out, err)
}

fn in_folder(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

/// A database in WAL mode with some rows, made by SQLite's own shell of this test: the writer of the demo.
fn write_for(database: &str, ledger: &str, time: Duration) {
    let mut command = replicate(&["demo-writer", database, ledger, "--rate", "200"]);
    let mut writer = command.stdin(Stdio::piped()).spawn().expect("the writer starts");
    std::thread::sleep(time);
    drop(writer.stdin.take());
    assert!(writer.wait().expect("it ends").success());
}

/// Every command's help has the exit codes, on the screen and in the manual; the hidden command is in neither.
#[test]
fn every_help_has_the_exit_codes() {
    let (manual, _) = expect(0, &["man"]);
    for command in COMMANDS {
        for flag in ["-h", "--help"] {
            let (help, _) = expect(0, &[command, flag]);
            assert!(help.contains("the store could not be reached") && help.contains("\n  7  "), "{command}: {help}");
        }
        assert!(manual.contains(&format!("replicate\\-{command}")), "{command}");
    }
    let (help, _) = expect(0, &["--help"]);
    assert!(!help.contains("demo-writer") && !manual.contains("demo\\-writer"));
    assert_eq!(manual.matches("EXIT STATUS").count(), COMMANDS.len() + 1);
    let folder = tempfile::tempdir().unwrap();
    expect(0, &["man", "--directory", &in_folder(folder.path(), "m")]);
    assert_eq!(std::fs::read_dir(folder.path().join("m")).unwrap().count(), COMMANDS.len() + 1);
}

/// Completions exist for every shell and know the commands.
#[test]
fn completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (script, _) = expect(0, &["completions", shell]);
        assert!(COMMANDS.iter().all(|command| script.contains(command)), "{shell}");
    }
}

/// Wrong usage and wrong configuration end with 2 and touch nothing.
#[test]
fn code_2_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    let config = in_folder(folder.path(), "c.yaml");
    std::fs::write(&config, "databases: [{path: a.db, sync-intervall: 1s}]").unwrap();
    let cases: [&[&str]; 17] = [
        &[],
        &["nonsense"],
        &["run"],
        &["run", "x.db", "gs://bucket"],
        &["run", "x.db", "--nonsense"],
        &["run", "x.db", "--once", "--", "true"],
        &["run", "--config", &config],
        &["run", "--config", "/no/such/file"],
        &["restore"],
        &["restore", "/x", "--at", "yesterday-ish", "-o", "/nowhere/x"],
        &["restore", "/x", "--delta"],
        &["restore", "/x", "--if-missing", "--overwrite"],
        &["list", "/x", "--commits", "--segments"],
        &["verify", "/x", "--max-age", "5"],
        &["prune", "/x"],
        &["prune", "/x", "--keep-last", "0"],
        &["prune", "/x", "--keep-last", "1", "--grace", "5"],
    ];
    for arguments in cases {
        let (out, err) = expect(2, arguments);
        assert!(out.is_empty() && !err.is_empty(), "{arguments:?}: {err}");
    }
    let (_, err) = expect(2, &["check", "--config", &config]);
    assert!(err.contains("databases[0].sync-intervall") && err.contains("\"sync-interval\""), "{err}");
    assert!(!folder.path().join("x.db.replica").exists());
}

/// Variables of a later version and impossible ones are refused, not ignored.
#[test]
fn code_2_wrong_environment() {
    for (name, value, part) in [
        ("REPLICATE_LISTEN", "nowhere", "is not an address"),
        ("REPLICATE_LOG", "a=b=c=d", "not a filter"),
        ("REPLICATE_LOG_FORMAT", "xml", "neither text nor json"),
    ] {
        let output = replicate(&["check"]).env(name, value).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), err.contains(part)), (Some(2), true), "{name}: {err}");
    }
}

/// Restoring from where nothing is ends with 3; with --if-replica-exists that is a success.
#[test]
fn loss_31_code_3_nothing_to_restore() {
    let folder = tempfile::tempdir().unwrap();
    let (nothing, target) = (in_folder(folder.path(), "none"), in_folder(folder.path(), "out.db"));
    let (out, err) = expect(3, &["restore", &nothing, "-o", &target]);
    assert!(out.is_empty() && err.contains("no replica"), "{err}");
    expect(3, &["list", &nothing]);
    expect(0, &["restore", &nothing, "-o", &target, "--if-replica-exists"]);
    assert!(!Path::new(&target).exists());
}

/// A whole life: replicate once, list, verify, restore, refuse, damage.
#[test]
fn codes_of_a_life() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| in_folder(folder.path(), name);
    let (database, ledger, target) = (path("app.db"), path("ledger"), path("out.db"));
    let (_, err) = expect(1, &["run", &database, "--once"]);
    assert!(err.contains("there is no database"), "{err}");
    write_for(&database, &ledger, Duration::from_millis(400));
    expect(0, &["run", &database, "--once"]);
    for what in ["--generations", "--snapshots", "--segments", "--commits"] {
        let (out, _) = expect(0, &["list", &database, "--json", what]);
        serde_json::from_str::<Value>(&out).expect(what);
    }
    for arguments in [["list", &database, "--json"], ["verify", &database, "--json"]] {
        let (out, _) = expect(0, &arguments);
        serde_json::from_str::<Value>(&out).expect("JSON");
    }
    let (plan, _) = expect(0, &["restore", &database, "-o", &target, "--dry-run", "--json"]);
    assert!(serde_json::from_str::<Value>(&plan).unwrap()["plan"].is_object(), "{plan}");
    assert!(!Path::new(&target).exists());
    let (restored, _) = expect(0, &["restore", &database, "-o", &target, "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&restored).unwrap()["restored"], true);

    // The target is the database itself where no other is named, and it exists.
    expect(4, &["restore", &database]);
    expect(4, &["restore", &database, "-o", &target]);
    expect(0, &["restore", &database, "-o", &target, "--if-missing"]);
    expect(0, &["restore", &database, "-o", &target, "--overwrite"]);
    expect(3, &["restore", &database, "-o", &path("x"), "--at", "2001-01-01T00:00:00Z"]);
    expect(3, &["restore", &database, "-o", &path("x"), "--at", "txid:999999"]);

    damage_parts(&folder.path().join("app.db.replica"));
    let (_, err) = expect(5, &["restore", &database, "-o", &path("y")]);
    assert!(err.contains(".seg"), "{err}");
    expect(5, &["verify", &database, "--deep"]);
    assert!(!Path::new(&path("y")).exists());
}

/// Flips a byte in every part: a snapshot without whole parts is none.
fn damage_parts(replica: &Path) {
    let mut damaged = 0;
    for generation in std::fs::read_dir(replica).unwrap().map(|entry| entry.unwrap().path()) {
        for part in std::fs::read_dir(generation.join("part")).into_iter().flatten() {
            let part = part.unwrap().path();
            let mut bytes = std::fs::read(&part).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x40;
            std::fs::write(&part, bytes).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0);
}

/// A store that does not answer ends a command with 6.
#[test]
fn code_6_unreachable() {
    let url = "s3://bucket/x?endpoint=http://127.0.0.1:9&region=eu&max-retries=0&connect-timeout=1s";
    let output = replicate(&["list", url])
        .env("AWS_ACCESS_KEY_ID", "someone")
        .env("AWS_SECRET_ACCESS_KEY", "hunter2")
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(6), "{err}");
    assert!(err.contains("next:") && !err.contains("hunter2"), "{err}");
}

/// A second process on the same database is refused with 4.
#[test]
fn code_4_another_process() {
    let folder = tempfile::tempdir().unwrap();
    let database = in_folder(folder.path(), "app.db");
    let mut first = replicate(&["run", &database, "--", "sleep", "100"]).spawn().unwrap();
    let lock = folder.path().join(".app.db-replicate/lock");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !lock.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let (_, err) = expect(4, &["run", &database]);
    assert!(err.contains("another process"), "{err}");
    kill(Pid::from_raw(first.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(first.wait().unwrap().code(), Some(143));
}

/// `run -- COMMAND` ends with the command's code, forwards signals, and captures what it wrote up to its end.
#[test]
fn codes_of_a_command() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| in_folder(folder.path(), name);
    let database = path("app.db");
    for (script, code) in [("exit 0", 0), ("exit 42", 42), ("kill -9 $$", 137), ("kill -TERM $PPID; sleep 100", 143)] {
        expect(code, &["run", &database, "--", "sh", "-c", script]);
    }
    expect(1, &["run", &database, "--", "/no/such/program"]);
    let script = format!("(sleep 1) | {} demo-writer {database} {}", env!("CARGO_BIN_EXE_replicate"), path("ledger"));
    expect(0, &["run", &database, "--", "sh", "-c", &script]);
    expect(0, &["restore", &database, "-o", &path("out.db")]);
    let written = std::fs::read_to_string(path("ledger")).unwrap();
    let last: i64 = written.lines().last().unwrap().split(' ').nth(2).unwrap().parse().unwrap();
    let restored = rusqlite::Connection::open(path("out.db")).unwrap();
    let sequence: i64 = restored.query_row("SELECT sequence FROM progress", [], |row| row.get(0)).unwrap();
    assert_eq!(sequence, last);
}

/// When the final sync cannot finish, a command that ended well counts as 7 and one that failed keeps its code.
#[test]
fn loss_19_code_7_final_sync() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| in_folder(folder.path(), name);
    write_for(&path("app.db"), &path("ledger"), Duration::from_millis(200));
    expect(0, &["run", &path("app.db"), "--once"]);
    let config = path("c.yaml");
    let yaml = "
shutdown-timeout: 300ms
databases:
  - path: FOLDER/app.db
    replicas:
      - FOLDER/app.db.replica
      - {url: s3://bucket/x, endpoint: 'http://127.0.0.1:9', region: eu, access-key-id: k, secret-access-key: hunter2}
";
    std::fs::write(&config, yaml.replace("FOLDER", &folder.path().display().to_string())).unwrap();
    for (script, code) in [("exit 0", 7), ("exit 3", 3)] {
        let (_, err) = expect(code, &["run", "--config", &config, "--", "sh", "-c", script]);
        assert!(err.contains("the next start ships it") && !err.contains("hunter2"), "{err}");
    }
}

/// TERM stops in good order with 0; a second one ends at once although the store is still down.
#[test]
fn signals_stop_and_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| in_folder(folder.path(), name);
    write_for(&path("app.db"), &path("ledger"), Duration::from_millis(100));
    let run = |url: &str| {
        let mut command = replicate(&["run", &path("app.db"), &path("app.db.replica"), url]);
        command.env("AWS_ACCESS_KEY_ID", "k").env("AWS_SECRET_ACCESS_KEY", "s").stderr(Stdio::piped()).spawn().unwrap()
    };
    let stop = |child: &std::process::Child| kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    let mut good = run(&path("second"));
    wait_for_line(&mut good, "capturing every commit");
    stop(&good);
    assert_eq!(good.wait().unwrap().code(), Some(0));

    rusqlite::Connection::open(path("app.db")).unwrap().execute_batch("CREATE TABLE more (x)").unwrap();
    let mut down = run("s3://bucket/x?endpoint=http://127.0.0.1:9&region=eu");
    wait_for_line(&mut down, "capturing every commit");
    let began = Instant::now();
    stop(&down);
    wait_for_line(&mut down, "shipping what is captured");
    // Sooner, it would be an echo of the first one.
    std::thread::sleep(Duration::from_millis(500));
    stop(&down);
    assert_eq!(down.wait().unwrap().code(), Some(1));
    // Not a measurement: without the second signal it would be the whole shutdown time-out of 30 s.
    assert!(began.elapsed() < Duration::from_secs(25));
}

/// Reads the child's log until a line has `text`. Lines that were read ahead with it are forgotten.
fn wait_for_line(child: &mut std::process::Child, text: &str) {
    use std::io::{BufRead, BufReader};
    let mut log = BufReader::new(child.stderr.take().expect("its log is ours"));
    let mut line = String::new();
    while !line.contains(text) {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "the log ended before {text:?}");
    }
    child.stderr = Some(log.into_inner());
}

/// `check` shows everything but secrets, as text and as JSON, and finds what is wrong with a database.
#[test]
fn check_shows_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let config = in_folder(folder.path(), "c.yaml");
    let yaml = "
databases:
  - path: app.db
    replicas: [{url: s3://bucket/x, region: eu, access-key-id: '${KEY}', secret-access-key: '${SECRET}'}]
";
    std::fs::write(&config, yaml).unwrap();
    for json in [false, true] {
        let mut command = replicate(&["check", "--config", &config]);
        if json {
            command.arg("--json");
        }
        let output =
            command.env("KEY", "AKIAKEY").env("SECRET", "hunter2").env("REPLICATE_LOG", "trace").output().unwrap();
        let all = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{all}");
        assert!(!all.contains("hunter2") && !all.contains("AKIAKEY"), "{all}");
        assert!(all.contains("s3://bucket/x") && all.contains("set"), "{all}");
        if json {
            let facts: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(facts["databases"][0]["replicas"][0]["secret-access-key"], "set");
            assert_eq!(facts["databases"][0]["file"]["exists"], false);
        }
    }
}

/// The demo proves itself and leaves nothing behind.
#[test]
fn the_demo() {
    let folder = tempfile::tempdir().unwrap();
    let output = replicate(&["demo", "--seconds", "2"]).env("TMPDIR", folder.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    // One database per engine of this build, two restores of each.
    let engines = if cfg!(feature = "duckdb") { 2 } else { 1 };
    assert_eq!(text.matches("as the writer recorded").count(), 2 * engines, "{text}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
