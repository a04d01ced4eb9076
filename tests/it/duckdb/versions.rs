//! Ledger runs: every DuckDB release line, every hard circumstance. `REPLICATE_DUCKDB_SECONDS` and
//! `REPLICATE_DUCKDB_POINTS` make them longer.

use super::ledger::Run;

/// A live DuckDB 2.0: every kind of commit is captured, and restored points hold what the writer had recorded.
#[test]
fn duckdb_ledger_2_0() {
    Run::default().go();
}

/// The same with DuckDB 1.5, where blocks may be reused before the headers say so.
#[test]
fn duckdb_ledger_1_5() {
    Run { writers: &["1.5.6"], ..Run::default() }.go();
}

/// The same with DuckDB 1.4.
#[test]
fn duckdb_ledger_1_4() {
    Run { writers: &["1.4.5"], ..Run::default() }.go();
}

/// The same with DuckDB 1.3.
#[test]
fn duckdb_ledger_1_3() {
    Run { writers: &["1.3.2"], ..Run::default() }.go();
}

/// The same with DuckDB 1.2.
#[test]
fn duckdb_ledger_1_2() {
    Run { writers: &["1.2.2"], ..Run::default() }.go();
}

/// The same with DuckDB 1.1.
#[test]
fn duckdb_ledger_1_1() {
    Run { writers: &["1.1.3"], ..Run::default() }.go();
}
