//! The whole program with live DuckDB writers: `run`, `list` and `restore` as a user calls them, and SIGKILL.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

use super::ledger::{Acks, env_or};
use super::python::{Writer, check, interpreter};
use crate::ledger::rig::{Listed, Rig, eventually, seed, stop};

const CHECKER: &str = "2.0.0";

struct Product {
    rig: Rig,
    writer: PathBuf,
    checker: PathBuf,
}

impl Product {
    fn new(version: &str) -> Option<Product> {
        Some(Product { rig: Rig::new(&[]), writer: interpreter(version)?, checker: interpreter(CHECKER)? })
    }

    fn acks(&self) -> PathBuf {
        self.rig.path("acks")
    }

    fn start_writer(&self, seconds: f64, seed: u64) -> Writer {
        let (seed, slow) = (seed.to_string(), "4");
        Writer::start(&self.writer, &self.rig.database, &self.acks(), seconds, &[("SEED", &seed), ("SLOW", slow)])
    }

    /// Restores a point, scans all of it with DuckDB, and gives the writer's counters in it.
    fn counters_at(&self, point: &str, more: &[&str]) -> Result<Value, String> {
        let target = self.rig.path("restored.db");
        for path in [target.clone(), wal_of(&target)] {
            crate::ledger::rig::remove(&path);
        }
        let url = &self.rig.urls[0];
        let output = self.rig.replicate().args(["restore", url, "--at", point, "-o"]).arg(&target).args(more).output();
        let output = output.expect("replicate runs");
        if !output.status.success() {
            return Err(format!("{point}: {}", String::from_utf8_lossy(&output.stderr)));
        }
        assert!(more.contains(&"--keep-wal") || !wal_of(&target).exists(), "{point}: one file");
        let found = check(&self.checker, &target, "ro", &[]);
        assert_eq!(found["ok"], true, "{point}: {found}");
        Ok(found["ctr"].clone())
    }

    /// The counters in the live database, whose writer is gone: of a copy, so that nobody else opens it.
    fn live_counters(&self) -> Value {
        let copy = self.rig.path("copy.db");
        for (from, to) in [(self.rig.database.clone(), copy.clone()), (wal_of(&self.rig.database), wal_of(&copy))] {
            crate::ledger::rig::remove(&to);
            if from.exists() {
                std::fs::copy(from, to).expect("copied");
            }
        }
        let found = check(&self.checker, &copy, "rw", &[]);
        assert_eq!(found["ok"], true, "the live database: {found}");
        found["ctr"].clone()
    }

    /// Restores random commits, and demands that the counters never go back from one to the next.
    fn sample(&self, commits: &[Listed], count: usize, random: &mut StdRng) {
        let mut chosen: Vec<u64> = (0..count).map(|_| commits[random.random_range(0..commits.len())].txid).collect();
        chosen.sort_unstable();
        let mut before = [0; 3];
        for (number, txid) in chosen.into_iter().enumerate() {
            let more: &[&str] = if number % 2 == 0 { &["--no-check", "--keep-wal"] } else { &[] };
            let found = self.counters_at(&format!("txid:{txid}"), more).unwrap_or_else(|error| panic!("{error}"));
            let now = ["A", "B", "D"].map(|name| found[name].as_u64().unwrap_or(0));
            assert!(
                now.iter().zip(before).all(|(now, before)| *now >= before),
                "txid {txid}: {now:?} after {before:?}"
            );
            before = now;
        }
    }

    /// The newest restored state is that of the live database, and holds everything that was acknowledged.
    fn newest_is_live(&self) {
        let live = self.live_counters();
        let mut last = String::new();
        let level = eventually(Duration::from_secs(60), || match self.counters_at("now", &["--no-check"]) {
            Ok(found) => {
                last = found.to_string();
                found == live
            }
            Err(error) => {
                last = error;
                false
            }
        });
        assert!(level, "the newest state is {last}, live is {live}: {}", self.rig.log());
        let acks = Acks::read(&self.acks());
        for name in ["A", "B", "D"] {
            let acknowledged = acks.last_done(name);
            assert!(live[name].as_u64().unwrap_or(0) >= acknowledged, "{name}: {live}, {acknowledged} acknowledged");
        }
    }
}

fn wal_of(database: &Path) -> PathBuf {
    PathBuf::from(format!("{}.wal", database.display()))
}

fn ledger(version: &str) {
    let seed = seed(&format!("DuckDB {version} through the program"));
    let Some(product) = Product::new(version) else { return };
    let mut random = StdRng::seed_from_u64(seed);
    // The replicator comes first and waits for the database.
    let replicator = product.rig.start("50ms");
    let seconds = env_or("REPLICATE_DUCKDB_SECONDS", 5.0);
    let mut writer = product.start_writer(seconds, seed);
    while writer.is_running() {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(writer.said().contains("fatal []"), "{}", writer.said());
    product.newest_is_live();
    stop(replicator, "replicate run");
    let commits = product.rig.commits(&product.rig.urls[0]);
    println!("{version}: {} commits", commits.len());
    product.sample(&commits, env_or("REPLICATE_DUCKDB_POINTS", 8.0) as usize, &mut random);
}

/// From a database that does not exist yet to restored points, each of which DuckDB reads in full.
#[test]
fn duckdb_from_the_first_commit_to_restored_points_2_0() {
    ledger("2.0.0");
}

/// The same with the release line before.
#[test]
fn duckdb_from_the_first_commit_to_restored_points_1_4() {
    ledger("1.4.5");
}

fn kill_loop(version: &str) {
    let seed = seed(&format!("DuckDB {version} kill loop"));
    let Some(product) = Product::new(version) else { return };
    let mut random = StdRng::seed_from_u64(seed);
    let rounds = env_or("REPLICATE_DUCKDB_ROUNDS", 8.0) as u64;
    let kill = |mut child: Child| {
        child.kill().expect("killed");
        child.wait().expect("gone");
    };
    let (mut writer, mut replicator) = (product.start_writer(3600.0, seed), product.rig.start("20ms"));
    let (mut shipped, mut killed) = (Vec::new(), [0; 3]);
    for round in 1..=rounds {
        std::thread::sleep(Duration::from_millis(random.random_range(300..2500)));
        let victim = random.random_range(0..3);
        killed[victim] += 1;
        if victim != 0 {
            writer.kill();
        }
        if victim != 1 {
            kill(replicator);
            std::thread::sleep(Duration::from_millis(random.random_range(0..300)));
            replicator = product.rig.start("20ms");
        }
        if victim != 0 {
            writer = product.start_writer(3600.0, seed + round);
        }
        if round % 4 == 0 {
            shipped.extend(product.rig.commits(&product.rig.urls[0]).into_iter().map(|commit| (round, commit)));
        }
    }
    writer.kill();
    product.newest_is_live();
    stop(replicator, "replicate run");
    let commits = product.rig.commits(&product.rig.urls[0]);
    for (round, commit) in &shipped {
        assert!(commits.contains(commit), "{commit:?}, shipped in round {round}, is gone");
    }
    product.sample(&commits, env_or("REPLICATE_DUCKDB_POINTS", 8.0) as usize, &mut random);
    let repairs = commits.iter().filter(|commit| commit.kind == "repair").count();
    println!("{version}: {rounds} rounds {killed:?}, {} commits, {repairs} repairs", commits.len());
}

/// Writer and replicator die at random moments: what was listed as shipped stays restorable, and the newest state is the
/// live one. `REPLICATE_DUCKDB_ROUNDS` makes it longer.
#[test]
fn duckdb_nothing_shipped_is_lost_to_kills_2_0() {
    kill_loop("2.0.0");
}

/// The same with the release line before.
#[test]
fn duckdb_nothing_shipped_is_lost_to_kills_1_4() {
    kill_loop("1.4.5");
}
