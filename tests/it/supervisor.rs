//! `run -- COMMAND` as process 1, and with commands that do not behave.

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn replicate_in(folder: &Path, before: &[&str], script: &str) -> Output {
    let database = folder.join("app.db");
    let connection = rusqlite::Connection::open(&database).expect("opened");
    connection.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS t(v)").expect("made");
    drop(connection);
    let all: Vec<&str> = before.iter().copied().chain([env!("CARGO_BIN_EXE_replicate")]).collect();
    let mut command = Command::new(all[0]);
    command.args(&all[1..]).arg("run").arg(&database).args(["--", "sh", "-c", script]);
    command.env_remove("REPLICATE_LISTEN").stdin(Stdio::null()).output().expect("started")
}

/// As process 1 it reaps what its command leaves behind, and still gets the command's own exit code.
#[test]
fn process_1_reaps_orphans() {
    let namespace = ["unshare", "--pid", "--fork", "--mount-proc"];
    let may = Command::new(namespace[0]).args(&namespace[1..]).arg("true").output();
    if !may.is_ok_and(|output| output.status.success()) {
        eprintln!(
            "process_1_reaps_orphans: SKIPPED, because this process may not make a PID namespace; run it as root"
        );
        return;
    }
    let folder = tempfile::tempdir().expect("a directory");
    // Twenty orphans end after their parents; within a minute no zombie may be left.
    let script = r#"
        for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do (sleep 0.5 & ); done
        grep -qs '^PPid:.1$' /proc/$$/status || exit 8
        sleep 1
        for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do
            grep -qs '^State:.Z' /proc/[0-9]*/status || exit 42
            sleep 2
        done
        exit 9"#;
    let output = replicate_in(folder.path(), &namespace, script);
    assert_eq!(output.status.code(), Some(42), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A command that floods its output and one that ends before it began: nothing is held up, and the exit code is theirs.
#[test]
fn commands_that_do_not_behave() {
    let folder = tempfile::tempdir().expect("a directory");
    let output = replicate_in(folder.path(), &["env"], "yes flood | head -c 20000000; exit 5");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(5), 20_000_000));
    let output = replicate_in(folder.path(), &["env"], "kill -KILL $$");
    assert_eq!(output.status.code(), Some(137), "{}", String::from_utf8_lossy(&output.stderr));
    // What it leaves running does not keep the program.
    let output = replicate_in(folder.path(), &["env"], "(sleep 30 >/dev/null 2>&1 &) ; exit 6");
    assert_eq!(output.status.code(), Some(6), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A command that ignores TERM is killed where that is configured, in time for what it committed to be shipped; otherwise it lives.
#[test]
fn a_command_that_ignores_term() {
    let folder = tempfile::tempdir().expect("a directory");
    for kill_after in [true, false] {
        let config = folder.path().join("replicate.yml");
        let (database, replica) = (folder.path().join("app.db"), folder.path().join("replica"));
        let connection = rusqlite::Connection::open(&database).expect("opened");
        connection.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS t(v)").expect("made");
        drop(connection);
        let first = if kill_after { "kill-after: 500ms\n" } else { "" };
        let text = format!("{first}databases: [{{path: {}, replicas: [{}]}}]\n", database.display(), replica.display());
        std::fs::write(&config, text).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_replicate"));
        let script = "trap '' TERM; kill -TERM $PPID; sleep 0.1; n=0; while [ $n -lt 40 ]; do sleep 0.1; n=$((n+1)); done; exit 3";
        command.args(["run", "--config"]).arg(&config).args(["--", "sh", "-c", script]).env_remove("REPLICATE_LISTEN");
        let output = command.stdin(Stdio::null()).output().expect("started");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(if kill_after { 137 } else { 3 }), "{told}");
        assert_eq!(told.contains("it gets KILL"), kill_after, "{told}");
        assert!(told.contains("everything is in every replica"), "{told}");
    }
}

/// Copies the database, lets another process take its replica over, and commits until something happens.
const TAKEN_OVER: &str = "import os, sqlite3, subprocess, sys, time
program, folder, seconds = sys.argv[1:]
c = sqlite3.connect(folder + '/app.db', timeout=30)
copy = sqlite3.connect(folder + '/copy.db')
c.backup(copy)
copy.execute('PRAGMA journal_mode=WAL')
copy.execute('INSERT INTO t VALUES (0)')
copy.commit()
subprocess.run([program, 'run', '--once', folder + '/copy.db', folder + '/replica'], check=True)
end = time.time() + float(seconds)
while time.time() < end:
    c.execute('INSERT INTO t VALUES (1)')
    c.commit()
    time.sleep(0.5)
sys.exit(5)";

/// Runs that under `run` and answers its exit code and its log.
fn taken_over(on_error: &str, seconds: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let connection = rusqlite::Connection::open(path("app.db")).expect("opened");
    connection.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(v)").expect("made");
    drop(connection);
    let database = format!("{{ path: {}, sync-interval: 10ms, replicas: [{}] }}", path("app.db"), path("replica"));
    let text = format!("on-error: {on_error}\nshutdown-timeout: 1s\ndatabases: [{database}]\n");
    std::fs::write(path("replicate.yml"), text).expect("written");
    let program = env!("CARGO_BIN_EXE_replicate");
    let mut command = Command::new(program);
    command.args(["run", "--config", &path("replicate.yml"), "--", "python3", "-c", TAKEN_OVER, program]);
    let output = command.args([&path(""), seconds]).env_remove("REPLICATE_LISTEN").stdin(Stdio::null()).output();
    let output = output.expect("started");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// When another writer took its only replica over, the command goes on to its own end all the same.
#[test]
fn on_error_keep_running() {
    let (code, log) = taken_over("keep-running", "60");
    assert_eq!(code, Some(5), "{log}");
    assert!(log.contains("NOTHING IS REPLICATED ANY MORE; the command goes on"), "{log}");
}

/// With `on-error: stop` it gets TERM then, and the exit code says why.
#[test]
fn on_error_stop() {
    let (code, log) = taken_over("stop", "600");
    assert_eq!(code, Some(4), "{log}");
    assert!(log.contains("NOTHING IS REPLICATED ANY MORE; the command is stopped"), "{log}");
}
