//! The kill loop over compaction and pruning: whatever is killed, what the rules keep is there and exact.

use std::process::Stdio;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::from_environment;
use super::rig::{Listed, Rig, remove, seed, wait};
use super::verify::verify;
use super::writer::{WriterPlan, create_database};

/// Commits of this time are kept one by one.
const WINDOW_MS: u64 = 2000;

/// The replicator dies while it ships, joins and takes snapshots, and then `prune` while it marks and deletes; after every
/// round the replica is sound by names, every commit of the window is listed, and random ones of them restore exactly.
#[test]
fn what_the_rules_keep_survives_kills_of_replicator_and_prune() {
    let seed = seed("kill loop of prune");
    let rounds = from_environment("REPLICATE_PRUNE_ROUNDS", 25);
    let mut random = StdRng::seed_from_u64(seed);
    let mut rig = Rig::new(&[]);
    rig.snapshot_interval = "1s";
    create_database(&rig.database, 4096, 0);
    let ledger = rig.ledger_file("ledger.writer");
    let mut plan = WriterPlan::new(&rig.database, &ledger, "writer", seed, 3600.0);
    (plan.pause_us, plan.checkpoint, plan.autocheckpoint) = (4_000, 0.02, 300);
    let mut writer = plan.spawn();
    let (mut known, mut killed, mut joined) = (Vec::new(), 0, false);
    for round in 1..=rounds {
        let mut replicator = rig.start("10ms");
        std::thread::sleep(Duration::from_millis(random.random_range(800..2000)));
        replicator.kill().expect("the replicator is killed");
        replicator.wait().expect("the replicator is gone");
        if !rig.path("replica").join("replicate.json").exists() {
            continue;
        }
        for _ in 0..random.random_range(1..4) {
            killed += u64::from(prune(&rig, Some(Duration::from_millis(random.random_range(1..150)))));
        }
        let commits = rig.commits(&rig.urls[0]);
        let Some(newest) = commits.last().cloned() else { continue };
        // The first of the window may lie before the oldest snapshot that there ever was.
        let kept = |commit: &&Listed| commit.time_ms + WINDOW_MS > newest.time_ms;
        for commit in known.iter().filter(kept) {
            assert!(commits.contains(commit), "round {round}: {commit:?} is gone, the newest is {newest:?}");
        }
        let output = rig.replicate().args(["verify", &rig.urls[0]]).output().expect("replicate runs");
        assert!(output.status.success(), "round {round}: {output:?}");
        let ledger = rig.ledger();
        for _ in 0..3 {
            let commit = &commits[random.random_range(0..commits.len())];
            let point = format!("txid:{}", commit.txid);
            let path =
                rig.restore(&rig.urls[0], &point, "sample.db").unwrap_or_else(|output| panic!("{point}: {output:?}"));
            verify(&path, &ledger);
            remove(&path);
        }
        joined |= has_level_1(&rig);
        known = commits;
    }
    writer.kill().expect("the writer is killed");
    writer.wait().expect("the writer is gone");
    assert!(!prune(&rig, None), "a pruning that is left alone ends");
    assert!(joined && killed > 0, "joined: {joined}, killed: {killed}");
    let first = rig.commits(&rig.urls[0])[0].txid;
    assert!(first > 2, "something was pruned, and yet the first commit is {first}");
    println!("kill loop of prune: {rounds} rounds, {killed} prunings killed, {} commits left", known.len());
}

/// Deletes what no rule keeps at once; was it killed?
fn prune(rig: &Rig, after: Option<Duration>) -> bool {
    let window = format!("{WINDOW_MS}ms");
    let rules = ["--commits", &window, "--keep-last", "1", "--grace", "0s"];
    let mut command = rig.replicate();
    command.args(["prune", &rig.urls[0]]).args(rules).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("replicate starts");
    if let Some(after) = after {
        std::thread::sleep(after);
        child.kill().expect("killed, or gone already");
    }
    let status = wait(&mut child, Duration::from_secs(60)).expect("it ends");
    // A replica that was just begun has no snapshot yet.
    assert!(status.success() || status.code().is_none(), "prune ended with {status}");
    status.code().is_none()
}

fn has_level_1(rig: &Rig) -> bool {
    let generations =
        std::fs::read_dir(rig.path("replica")).expect("a replica").map(|entry| entry.expect("read").path());
    let folders = generations.map(|generation| generation.join("1"));
    folders.filter_map(|folder| std::fs::read_dir(folder).ok()).any(|mut entries| entries.next().is_some())
}
