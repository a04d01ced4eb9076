//! One step at a time: what is captured of each, with a writer that does nothing else.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use replicate::engine::duckdb::{Duckdb, DuckdbSource};
use replicate::engine::{Engine, EngineError, Source};
use replicate::position::{CommitKind, RepairReason, Txid};

use super::python::{Session, interpreter};
use super::recorder::Recorder;

const VERSION: &str = "2.0.0";

struct Bench {
    python: PathBuf,
    dir: tempfile::TempDir,
    recorder: Recorder,
    source: Option<DuckdbSource>,
}

impl Bench {
    fn new(version: &str) -> Option<Bench> {
        let python = interpreter(version)?;
        let dir = tempfile::Builder::new().prefix("duckdb-steps").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let recorder = Recorder::new(&dir.path().join("store"));
        Some(Bench { python, dir, recorder, source: None })
    }

    fn database(&self) -> PathBuf {
        self.dir.path().join("live.db")
    }

    fn session(&self) -> Session {
        Session::open(&self.python, &self.database())
    }

    /// Polls until there is nothing more to capture; takes the first copy.
    fn level(&mut self) {
        let begin = Instant::now();
        loop {
            assert!(begin.elapsed() < Duration::from_secs(60), "capture does not come to an end");
            let database = self.database();
            let resume = self.recorder.resume();
            let source = self.source.get_or_insert_with(|| DuckdbSource::open(&database, resume).unwrap());
            let poll = source.poll(&mut self.recorder).unwrap();
            if source.page_map().is_some() && self.recorder.copies.is_empty() {
                self.recorder.copy(source);
            }
            match poll.again_in {
                None if self.recorder.last() > Txid::ZERO => return,
                again => std::thread::sleep(again.unwrap_or_default()),
            }
        }
    }

    fn kinds(&self) -> Vec<CommitKind> {
        self.recorder.commits.iter().map(|commit| commit.kind).collect()
    }

    /// Restores a commit and asks it.
    fn ask(&self, txid: Txid, sql: &str) -> String {
        let assembly = self.restored(txid, &self.dir.path().join("restored"));
        let target = self.dir.path().join("asked.db");
        assembly.copy_to(&target);
        Duckdb::with_program(env!("CARGO_BIN_EXE_replicate")).check(&target).unwrap();
        let mut session = Session::open(&self.python, &target);
        let answer = session.run(sql).to_string();
        session.kill();
        answer
    }

    fn restored(&self, txid: Txid, dir: &Path) -> super::recorder::Assembly {
        let mut assembly = self.recorder.assemble(&self.recorder.copies[0], dir);
        assembly.advance(&self.recorder, txid);
        assembly.prove(&self.recorder.commits[txid.0 as usize - 1]);
        assembly
    }
}

/// Bulk rows stand in the main file and only their places in the WAL: they travel with the commit that shows them, and a
/// restored point can read every one.
#[test]
fn loss_10_duckdb_bulk_rows_travel_with_their_commit() {
    let Some(mut bench) = Bench::new(VERSION) else { return };
    let mut session = bench.session();
    session.run("create table t(i bigint, h ubigint)");
    bench.level();
    session.run("insert into t select i, hash(i) from range(300000) r(i)");
    bench.level();
    let bulk = bench.recorder.commits.last().unwrap();
    assert!(bulk.lengths.wal > 0 && bulk.main_bytes > 0, "{bulk:?}");
    let expected = session.run("select count(*), bit_xor(h), sum(i) from t").to_string();
    assert_eq!(bench.ask(bench.recorder.last(), "select count(*), bit_xor(h), sum(i) from t"), expected);
    session.close();
}

/// A table is dropped and made again with the same rows: its blocks were freed, so they are zeros in the replica, and are
/// written with the very content that they had. They travel all the same.
#[test]
fn loss_10_duckdb_the_same_rows_in_a_freed_block_travel_again() {
    for version in ["1.2.2", "1.4.5", "1.5.6", VERSION] {
        let Some(mut bench) = Bench::new(version) else { continue };
        let mut session = bench.session();
        let make = "create table t as select i, hash(i) h from range(600000) r(i)";
        session.run(make);
        session.run("checkpoint");
        bench.level();
        for _ in 0..2 {
            session.run("drop table t");
            session.run("checkpoint");
            bench.level();
            session.run(make);
            bench.level();
            let sum = "select count(*), bit_xor(h), sum(i) from t";
            let expected = session.run(sum).to_string();
            assert_eq!(bench.ask(bench.recorder.last(), sum), expected, "{version}");
        }
        session.close();
    }
}

/// Each commit is one, before and after checkpoints that replace the WAL, and each is restored as it was.
#[test]
fn loss_11_duckdb_the_wal_is_paired_with_its_headers() {
    for version in ["1.4.5", VERSION] {
        let Some(mut bench) = Bench::new(version) else { continue };
        let mut session = bench.session();
        session.run("create table t(i bigint)");
        session.run("checkpoint");
        bench.level();
        let (mut expected, mut number) = (Vec::new(), 0);
        for round in 0..4 {
            for _ in 0..3 {
                number += 1;
                session.run(&format!("insert into t values ({number})"));
                bench.level();
                expected.push((bench.recorder.last(), number));
            }
            if round < 3 {
                session.run("checkpoint");
                bench.level();
                expected.push((bench.recorder.last(), number));
            }
        }
        let told = bench.recorder.commits.iter().map(|one| (one.kind, one.lengths.wal, one.main_bytes, one.wal_bytes));
        let told: Vec<_> = told.collect();
        assert_eq!(told.len(), 1 + 4 * 3 + 3, "{version}: {told:?}");
        assert!(told[1..].iter().all(|one| one.0 == CommitKind::Captured), "{version}: {told:?}");
        for (txid, number) in expected {
            assert_eq!(bench.ask(txid, "select max(i), count(*) from t"), format!("[[{number},{number}]]"));
        }
        session.close();
    }
}

/// Closed between two commits, a replicator goes on without a repair if nothing was missed, and with one if something was.
#[test]
fn duckdb_capture_goes_on_where_it_ended() {
    let Some(mut bench) = Bench::new(VERSION) else { return };
    let mut session = bench.session();
    session.run("create table t(i bigint)");
    bench.level();
    session.run("insert into t select i from range(200000) r(i)");
    bench.level();
    bench.source = None;
    session.run("insert into t values (-1)");
    bench.level();
    assert_eq!(bench.kinds().last(), Some(&CommitKind::Captured));
    bench.source = None;
    session.run("insert into t values (-2)");
    session.run("checkpoint");
    bench.level();
    assert_eq!(bench.kinds().last(), Some(&CommitKind::Repair(RepairReason::Away)));
    assert_eq!(bench.ask(bench.recorder.last(), "select count(*), min(i) from t"), "[[200002,-2]]");
    session.close();
}

/// A database that went back to an older state, and one that is another file: both are seen, repaired, and what the
/// replica held before stays restorable.
#[test]
fn duckdb_older_and_other_files_are_seen() {
    let Some(mut bench) = Bench::new(VERSION) else { return };
    let mut session = bench.session();
    session.run("create table t(i bigint)");
    session.run("checkpoint");
    session.run("insert into t values (1)");
    bench.level();
    session.run("insert into t values (2)");
    bench.level();
    let ahead = bench.recorder.last();
    session.kill();
    let wal = bench.dir.path().join("live.db.wal");
    let cut = bench.recorder.commits[bench.recorder.commits.len() - 2].lengths.wal;
    std::fs::OpenOptions::new().write(true).open(&wal).unwrap().set_len(cut).unwrap();
    let gap = bench.source.as_mut().unwrap().poll(&mut bench.recorder).unwrap_err();
    assert!(matches!(gap, EngineError::Gap { reason: RepairReason::ReplicaAhead, .. }), "{gap}");
    bench.source = None;
    bench.level();
    assert!(bench.kinds().contains(&CommitKind::Repair(RepairReason::ReplicaAhead)));
    assert_eq!(bench.ask(bench.recorder.last(), "select max(i) from t"), "[[1]]");
    assert_eq!(bench.ask(ahead, "select max(i) from t"), "[[2]]");

    std::fs::remove_file(bench.database()).unwrap();
    std::fs::remove_file(&wal).unwrap();
    let gone = bench.source.as_mut().unwrap().poll(&mut bench.recorder).unwrap_err();
    assert!(matches!(gone, EngineError::Absent { .. }), "{gone}");
    let mut session = bench.session();
    session.run("create table other as select 7 k");
    let gap = bench.source.as_mut().unwrap().poll(&mut bench.recorder).unwrap_err();
    assert!(matches!(gap, EngineError::Gap { reason: RepairReason::FileReplaced, .. }), "{gap}");
    bench.source = None;
    bench.level();
    assert!(bench.kinds().contains(&CommitKind::Repair(RepairReason::FileReplaced)));
    assert_eq!(bench.ask(bench.recorder.last(), "select k from other"), "[[7]]");
    assert_eq!(bench.ask(ahead, "select max(i) from t"), "[[2]]");
    session.close();
}

/// What does not exist, is empty or is of an unknown version is said to be so, by name.
#[test]
fn duckdb_what_cannot_be_captured_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let open = || DuckdbSource::open(&path, None).err().unwrap();
    assert!(matches!(open(), EngineError::Absent { .. }));
    std::fs::write(&path, b"").unwrap();
    assert!(matches!(open(), EngineError::NotCapturable { .. }));
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/duckdb/2.0.0.db");
    let mut bytes = std::fs::read(fixture).unwrap();
    bytes[12] = 70;
    bytes[13] = 0;
    let sum = replicate::engine::duckdb::file::checksum(&bytes[8..4096]);
    bytes[..8].copy_from_slice(&sum.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    assert!(matches!(open(), EngineError::NotCapturable { .. }));
    bytes[5000] ^= 1;
    bytes[100] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert!(matches!(open(), EngineError::Damaged(_)));
}

/// What the first read and a small checkpoint of a large file cost; prints, proves nothing. `REPLICATE_DUCKDB_ROWS`.
#[test]
#[ignore = "a measurement"]
fn duckdb_measure_a_checkpoint() {
    let Some(mut bench) = Bench::new(VERSION) else { return };
    let mut session = bench.session();
    let rows = super::ledger::env_or("REPLICATE_DUCKDB_ROWS", 60e6) as u64;
    session.run(&format!("create table t as select i, hash(i) h, hash(i+1) k from range({rows}) r(i)"));
    session.run("create table small(i bigint)");
    session.run("checkpoint");
    let size = std::fs::metadata(bench.database()).unwrap().len() >> 20;
    let begin = Instant::now();
    let mut source = DuckdbSource::open(&bench.database(), None).unwrap();
    while source.page_map().is_none() {
        source.poll(&mut bench.recorder).unwrap();
    }
    eprintln!("{size} MB: first read {:?}", begin.elapsed());
    for what in ["insert into small select * from range(10)", "update t set h = 1 where i < 100000"] {
        session.run(what);
        session.run("checkpoint");
        let begin = Instant::now();
        source.poll(&mut bench.recorder).unwrap();
        let last = bench.recorder.commits.last().unwrap();
        eprintln!("{what}: {} KB as {:?} in {:?}", last.main_bytes >> 10, last.kind, begin.elapsed());
    }
    for _ in 0..2 {
        let begin = Instant::now();
        source.poll(&mut bench.recorder).unwrap();
        eprintln!("idle poll {:?}", begin.elapsed());
    }
    session.close();
}
