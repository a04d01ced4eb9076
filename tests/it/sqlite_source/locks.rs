//! The locks that a process holds on a database, asked for by F_GETLK from another process: one that asked for itself would
//! be told of none, and would drop its own when it closed the file.

use std::path::Path;
use std::process::Command;

/// Which of a reader's locks are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// On the database file: nobody may delete the WAL.
    pub file: bool,
    /// On the wal-index: somebody uses it.
    pub index_alive: bool,
    /// On one of the read marks: frames from there on stay.
    pub read_mark: bool,
}

/// One line for each locked range: name, first byte, process. Where two processes hold a lock, one of them is told.
const PROBE: &str = r#"
import fcntl, struct, sys
for name, start, length in [("-db", 0x40000002, 510)] + [("-shm", byte, 1) for byte in range(120, 129)]:
    with open(sys.argv[1] + name.replace("-db", ""), "r+b") as file:
        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, start, length, 0)
        kind, _, _, _, process = struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, asked))
        if kind != fcntl.F_UNLCK:
            print(name, start, process)
"#;

/// What `process` holds of the locks that a reader takes. No other process may have the database open.
pub fn held_by(database: &Path, process: u32) -> Held {
    let output = Command::new("python3").args(["-c", PROBE]).arg(database).output().expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut held = Held::default();
    for line in String::from_utf8(output.stdout).expect("text").lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if words[2] != process.to_string() {
            continue;
        }
        match (words[0], words[1].parse::<u32>().expect("a number")) {
            ("-db", _) => held.file = true,
            ("-shm", 123..=127) => held.read_mark = true,
            ("-shm", 128) => held.index_alive = true,
            _ => {}
        }
    }
    held
}
