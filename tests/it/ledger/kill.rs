//! The kill loop: writer and replicator die at random moments, and nothing acknowledged is lost.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::from_environment;
use super::rig::{Rig, eventually, remove, seed, stop};
use super::verify::verify;
use super::writer::{WriterPlan, create_database};

/// After 200 rounds of SIGKILL to the writer, the replicator or both, every commit that was listed as shipped in any
/// round is still restorable with the same content, and the newest state is the live one.
#[test]
fn nothing_shipped_is_lost_when_writer_and_replicator_are_killed() {
    let seed = seed("kill loop");
    let rounds = from_environment("REPLICATE_KILL_ROUNDS", 200);
    let mut random = StdRng::seed_from_u64(seed);
    let mut rig = Rig::new(&[]);
    create_database(&rig.database, 4096, 0);
    let ledger_file = rig.ledger_file("ledger.writer");
    let start_writer = |rig: &Rig, round: u64| {
        let mut plan = WriterPlan::new(&rig.database, &ledger_file, "writer", seed + round, 3600.0);
        (plan.pause_us, plan.checkpoint, plan.autocheckpoint) = (4_000, 0.02, 300);
        plan.spawn()
    };
    let (mut writer, mut replicator) = (start_writer(&rig, 0), rig.start("20ms"));
    let mut shipped = Vec::new();
    for round in 1..=rounds {
        std::thread::sleep(Duration::from_millis(random.random_range(20..400)));
        let victim = random.random_range(0..3);
        if victim != 0 {
            writer.kill().expect("the writer is killed");
            writer.wait().expect("the writer is gone");
        }
        if victim != 1 {
            replicator.kill().expect("the replicator is killed");
            replicator.wait().expect("the replicator is gone");
            std::thread::sleep(Duration::from_millis(random.random_range(0..100)));
        }
        if round % 20 == 0 && rig_is_listed(&rig) {
            shipped.extend(rig.commits(&rig.urls[0]).into_iter().map(|commit| (round, commit)));
        }
        if victim != 0 {
            writer = start_writer(&rig, round);
        }
        if victim != 1 {
            replicator = rig.start("20ms");
        }
    }
    writer.kill().expect("the writer is killed");
    writer.wait().expect("the writer is gone");
    let live = live_seq(&rig);
    let caught_up = eventually(Duration::from_secs(60), || {
        rig.restore(&rig.urls[0], "now", "newest.db").is_ok_and(|path| verify(&path, &rig.ledger()) == live)
    });
    assert!(caught_up, "the newest state {live} is not in the replica: {}", rig.log());
    stop(replicator, "replicate run");

    let (ledger, commits) = (rig.ledger(), rig.commits(&rig.urls[0]));
    assert!(live >= ledger.last(), "the database itself lost acknowledged commits");
    for (round, commit) in &shipped {
        assert!(commits.contains(commit), "{commit:?}, shipped in round {round}, is gone");
    }
    for _ in 0..from_environment("REPLICATE_KILL_POINTS", 100) {
        let commit = &commits[random.random_range(0..commits.len())];
        let point = format!("txid:{}", commit.txid);
        let path =
            rig.restore(&rig.urls[0], &point, "sample.db").unwrap_or_else(|output| panic!("{point}: {output:?}"));
        verify(&path, &ledger);
        remove(&path);
    }
    let repairs = commits.iter().filter(|commit| commit.kind == "repair").count();
    println!("kill loop: {rounds} rounds, {live} commits, {} listed, {repairs} repairs", commits.len());
}

fn rig_is_listed(rig: &Rig) -> bool {
    let output = rig.replicate().args(["list", &rig.urls[0], "--json"]).output().expect("replicate runs");
    output.status.success()
}

/// The number of the newest commit in the live database, read by a process of its own would; the writer is gone.
fn live_seq(rig: &Rig) -> i64 {
    let connection = rusqlite::Connection::open(&rig.database).expect("database opens");
    connection.query_row("SELECT seq FROM account", [], |row| row.get(0)).expect("account is there")
}
