//! Ledger runs under hard circumstances.

use super::ledger::{Run, env_or};

/// SIGKILLs per run; `REPLICATE_DUCKDB_KILLS` makes them more, and the run should then be longer.
fn kills() -> u32 {
    env_or("REPLICATE_DUCKDB_KILLS", 4.0) as u32
}

/// The writer is killed and started again: torn tails, stale markers, recovered WALs.
#[test]
fn duckdb_kills_2_0() {
    Run { kills: kills(), restarts: kills() / 2, ..Run::default() }.go();
}

/// The same with 1.4, which leaves markers in the middle of its WAL.
#[test]
fn duckdb_kills_1_4() {
    Run { writers: &["1.4.5"], kills: kills(), restarts: kills() / 2, ..Run::default() }.go();
}

/// The same with 1.5.
#[test]
fn duckdb_kills_1_5() {
    Run { writers: &["1.5.6"], kills: kills(), restarts: kills() / 2, ..Run::default() }.go();
}

/// Capture is stopped and goes on from what was stored: no new history, nothing lost.
#[test]
fn duckdb_restarts_of_capture() {
    Run { restarts: 4, ..Run::default() }.go();
}

/// Capture pauses for seconds, so that whole iterations go by unseen.
#[test]
fn duckdb_paused_capture_2_0() {
    Run { pause: 2.0, ..Run::default() }.go();
}

/// The same with 1.5.
#[test]
fn duckdb_paused_capture_1_5() {
    Run { writers: &["1.5.6"], pause: 2.0, ..Run::default() }.go();
}

/// Each kill is followed by a newer DuckDB.
#[test]
fn duckdb_upgrade_chain() {
    Run { writers: &["1.2.2", "1.4.5", "1.5.6", "2.0.0"], kills: 3, ..Run::default() }.go();
}

/// The file is a mapping of 256 GiB with holes.
#[test]
fn duckdb_mmap_mode() {
    Run { env: &[("ATTACH", "(IO_MODE 'MMAP')")], ..Run::default() }.go();
}

/// Blocks of 16 KiB.
#[test]
fn duckdb_small_blocks() {
    Run { env: &[("ATTACH", "(BLOCK_SIZE 16384)")], ..Run::default() }.go();
}

/// Insert-only commits during checkpoints that take long, with kills between.
#[test]
fn duckdb_commits_during_checkpoints_2_0() {
    let env = [("INSONLY", "1"), ("SLEEPCK", "700"), ("BIGP", "0.1"), ("AUTOCKPT", "16KB")];
    Run { env: &env, kills: 2, ..Run::default() }.go();
}

/// The same with 1.5.
#[test]
fn duckdb_commits_during_checkpoints_1_5() {
    let env = [("INSONLY", "1"), ("SLEEPCK", "700"), ("BIGP", "0.1"), ("AUTOCKPT", "16KB")];
    Run { writers: &["1.5.6"], env: &env, kills: 2, ..Run::default() }.go();
}

/// The storage version of 1.4, whose WAL names the iteration that it belongs to.
#[test]
fn duckdb_storage_1_4() {
    Run { writers: &["1.4.5"], env: &[("ATTACH", "(STORAGE_VERSION 'v1.4.0')")], ..Run::default() }.go();
}

/// The storage version of 1.5.
#[test]
fn duckdb_storage_1_5() {
    Run { writers: &["1.5.6"], env: &[("ATTACH", "(STORAGE_VERSION 'v1.5.0')")], kills: 2, ..Run::default() }.go();
}

/// Encrypted, captured without the key; only the check is told it.
#[test]
fn duckdb_encrypted_2_0() {
    let env = [("ATTACH", "(ENCRYPTION_KEY 'secret')"), ("UNSAFE", "1"), ("NOIDX", "1")];
    Run { env: &env, check_args: &["secret"], ..Run::default() }.go();
}

/// Encrypted with the other cipher.
#[test]
fn duckdb_encrypted_2_0_ctr() {
    let env = [("ATTACH", "(ENCRYPTION_KEY 'secret', ENCRYPTION_CIPHER 'CTR')"), ("UNSAFE", "1"), ("NOIDX", "1")];
    Run { env: &env, check_args: &["secret", "CTR"], ..Run::default() }.go();
}
