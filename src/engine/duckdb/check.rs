//! Is a restored database sound? Its structure is proven here, its rows by DuckDB itself in a child process.
//!
//! The library never runs in this process: a crash of it must not be ours, and closing a file that it has open would drop
//! the locks of both.

use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::disk::{MainFile, WalFile, io_error, wal_path};
use super::iteration::Iteration;
use super::tail::{framing, header};
use super::wal::{Framing, scan};
use crate::engine::{Answer, EngineError, QUESTION_TIMEOUT};

/// The hidden command that the child process runs, and its tasks.
pub const CHILD_COMMAND: &str = "duckdb-child";
pub const CHILD_CHECK: &str = "check";
pub const CHILD_FOLD: &str = "fold";
/// Reads questions as JSON from its stdin and writes the answers as JSON to its stdout.
pub const CHILD_ASK: &str = "ask";
/// The variable in which the child gets the key of an encrypted database: arguments can be seen by everyone.
pub const KEY_VARIABLE: &str = "REPLICATE_DUCKDB_KEY";
/// How the child ends when it lacks that key.
pub const CHILD_NEEDS_KEY: i32 = 2;
/// How long the child may take: this, and as much again for every `TIMEOUT_BYTES` of the files.
const TIMEOUT: Duration = Duration::from_secs(300);
const TIMEOUT_BYTES: u64 = 1 << 30;
const CHILD_PAUSE: Duration = Duration::from_millis(10);
/// Bytes that are read of what the child says, and of its answers.
const MAX_SAID_BYTES: u64 = 64 << 10;
const MAX_OUTPUT_BYTES: u64 = 16 << 20;

/// Proves headers, the free list, every used block and every WAL entry of a pair that nobody has open.
pub fn structure(database: &Path) -> Result<(), EngineError> {
    let main = MainFile::open(database)?;
    let head = main.head()?;
    let Some(iteration) = main.iteration(head)? else {
        return Err(EngineError::Damaged("its headers change while it is checked".into()));
    };
    if !iteration.is_encrypted() {
        let mut buffer = Vec::new();
        for block in (0..iteration.count).filter(|&block| iteration.uses(block)) {
            main.used_block(&iteration.head, block, &mut buffer)?;
        }
    }
    match WalFile::open(&wal_path(database))? {
        Some(wal) if wal.size()? > 0 => wal_structure(&iteration, &wal),
        _ => Ok(()),
    }
}

fn wal_structure(iteration: &Iteration, wal: &WalFile) -> Result<(), EngineError> {
    let header = header(wal)?.ok_or_else(|| EngineError::Damaged("its WAL is cut".into()))?;
    let (framing, size) = (framing(iteration, &header)?, wal.size()?);
    let found = scan(wal, framing, header.len, size, u64::MAX).map_err(io_error("cannot read the WAL"))?;
    if found.unfinished > 0 || (framing == Framing::Plain && found.marker.is_some()) {
        let at = found.end;
        return Err(EngineError::Damaged(format!(
            "its WAL does not end with a commit: {at} of {size} bytes are sound"
        )));
    }
    Ok(())
}

/// Runs a task on `database` in a child process: the hidden command of `program`. The key of an encrypted database is its
/// environment's, as it is ours.
pub fn in_child(program: &Path, task: &str, database: &Path) -> Result<(), EngineError> {
    let bytes = [database.to_owned(), wal_path(database)];
    let bytes: u64 = bytes.iter().filter_map(|path| std::fs::metadata(path).ok()).map(|file| file.len()).sum();
    let timeout = TIMEOUT.saturating_mul(u32::try_from(1 + bytes / TIMEOUT_BYTES).unwrap_or(u32::MAX));
    run(command(program, task, database), Vec::new(), timeout).map(|_| ())
}

/// Puts questions to `database` in a child process.
pub fn ask_in_child(program: &Path, database: &Path, questions: &[String]) -> Result<Vec<Answer>, EngineError> {
    let input = serde_json::to_vec(questions).expect("texts are plain data");
    let timeout = QUESTION_TIMEOUT.saturating_mul(u32::try_from(questions.len()).unwrap_or(u32::MAX));
    let output = run(command(program, CHILD_ASK, database), input, timeout)?;
    let answers: Option<Vec<Answer>> = serde_json::from_slice(&output).ok();
    answers.filter(|answers| answers.len() == questions.len()).ok_or_else(|| EngineError::Io {
        context: "the child process gave no answers".to_owned(),
        source: ErrorKind::InvalidData.into(),
    })
}

fn command(program: &Path, task: &str, database: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg(CHILD_COMMAND).arg(task).arg(database);
    command
}

/// Reads a pipe in a thread of its own, so that a child that says much never blocks. What it wrote before the pipe broke is
/// all that there is to tell.
fn listen(pipe: Option<impl Read + Send + 'static>, most: u64) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            pipe.by_ref().take(most).read_to_end(&mut bytes).ok();
            std::io::copy(&mut pipe, &mut std::io::sink()).ok();
        }
        bytes
    })
}

/// Runs the child to its end, and gives what it wrote to stdout. However it ends other than well, the check has failed.
fn run(mut command: Command, input: Vec<u8>, timeout: Duration) -> Result<Vec<u8>, EngineError> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(io_error("cannot start a child process"))?;
    let (said, output) = (listen(child.stderr.take(), MAX_SAID_BYTES), listen(child.stdout.take(), MAX_OUTPUT_BYTES));
    let stdin = child.stdin.take();
    // A child that reads nothing has its own reasons; what it ends with tells.
    std::thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(&input)));
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(io_error("cannot wait for a child process"))? {
            break Some(status);
        }
        if begin.elapsed() > timeout {
            // It may have ended this moment; both are fine.
            child.kill().ok();
            child.wait().map_err(io_error("cannot wait for a child process"))?;
            break None;
        }
        std::thread::sleep(CHILD_PAUSE);
    };
    let said = String::from_utf8_lossy(&said.join().unwrap_or_default()).trim().to_owned();
    let output = output.join().unwrap_or_default();
    match status {
        Some(status) if status.success() => Ok(output),
        Some(status) if status.code().is_none() => {
            Err(EngineError::Damaged(format!("DuckDB crashed on it ({status}) {said}")))
        }
        Some(status) if status.code() == Some(CHILD_NEEDS_KEY) => Err(EngineError::NotCapturable {
            reason: said,
            next_step: "set REPLICATE_DUCKDB_KEY, or restore with --no-check",
        }),
        Some(status) if said.is_empty() => {
            Err(EngineError::Damaged(format!("its check ended without a word ({status})")))
        }
        Some(_) => Err(EngineError::Damaged(said)),
        None => Err(EngineError::Damaged(format!("DuckDB was not done after {} s", timeout.as_secs()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    /// A child that fails, crashes or hangs is a failed check that says what happened; only exit code 0 is none.
    #[test]
    fn only_a_good_end_is_good() {
        let long = Duration::from_secs(60);
        run(shell("exit 0"), Vec::new(), long).expect("a good end");
        assert_eq!(run(shell("exec cat"), b"heard".to_vec(), long).expect("a good end"), b"heard");
        let failed = |script, timeout| run(shell(script), Vec::new(), timeout).expect_err("a failed check").to_string();
        assert!(failed("echo broken rows >&2; exit 1", long).contains("broken rows"));
        assert!(failed("kill -SEGV $$", long).contains("crashed"));
        assert!(failed("exec sleep 100", Duration::from_millis(50)).contains("not done"));
    }

    /// The golden files are sound as they are; one changed byte in a used block or in the WAL is seen.
    #[test]
    fn damage_is_seen() {
        let directory = tempfile::tempdir().expect("a directory");
        let (main, wal) = (directory.path().join("a.db"), directory.path().join("a.db.wal"));
        let golden: [(&[u8], &[u8]); 2] = [
            (
                include_bytes!("../../../fixtures/duckdb/1.4.5.db"),
                include_bytes!("../../../fixtures/duckdb/1.4.5.db.wal"),
            ),
            (
                include_bytes!("../../../fixtures/duckdb/2.0.0.db"),
                include_bytes!("../../../fixtures/duckdb/2.0.0.db.wal"),
            ),
        ];
        let put = |path: &Path, bytes: &[u8]| std::fs::write(path, bytes).expect("written");
        for (good_main, good_wal) in golden {
            put(&main, good_main);
            put(&wal, good_wal);
            structure(&main).expect("sound");
            let mut bad = good_main.to_vec();
            bad[super::super::file::HEAD_BYTES + 100] ^= 1;
            put(&main, &bad);
            assert!(matches!(structure(&main), Err(EngineError::Damaged(_))));
            put(&main, good_main);
            for bad in [&good_wal[..good_wal.len() - 1], &[good_wal, &[0]].concat()] {
                put(&wal, bad);
                assert!(matches!(structure(&main), Err(EngineError::Damaged(_))));
            }
        }
    }
}
