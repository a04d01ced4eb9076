//! What tests/e2e.sh shows a user, with the program and the S3 server of this build.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::duckdb::python::interpreter;
use crate::s3_server::serve_until_killed;

/// A machine is killed and deleted: every acknowledged commit comes back from S3, a moment in the middle is exact, and the history goes
/// on; for SQLite, and for DuckDB where a Python for it can be had.
#[test]
fn a_lost_machine_comes_back() {
    let python = Command::new("python3").args(["-c", "import sqlite3"]).stdin(Stdio::null()).status();
    if !python.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: there is no Python here for the application; the end-to-end script was not run");
        return;
    }
    let server = std::env::current_exe().expect("the test binary has a path");
    let mut script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e.sh"));
    script.arg(env!("CARGO_BIN_EXE_replicate")).stdin(Stdio::null());
    script.env("S3_SERVER", format!("{} e2e::s3_server_process --exact --ignored --nocapture", server.display()));
    script.env("HAS_DUCKDB", if cfg!(feature = "duckdb") { "yes" } else { "no" });
    // Without one, the script says itself that DuckDB is skipped.
    script.env("DUCKDB_PYTHON", interpreter("2.0.0").unwrap_or_else(|| "false".into()));
    let output = script.output().expect("the script starts");
    let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}\n{complaint}");
    assert!(output.status.success(), "{:?}", output.status);
    assert!(said.ends_with("all is as it was recorded\n"));
}

/// The store of the script.
#[test]
#[ignore = "a child process of the end-to-end test, not a test"]
fn s3_server_process() {
    serve_until_killed();
}
