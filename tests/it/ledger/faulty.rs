//! The faulty store: everything a store can do wrong, while an application writes.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::from_environment;
use super::rig::{Rig, eventually, remove, seed, stop, wait};
use super::verify::verify;
use super::writer::{WriterPlan, create_database};
use crate::s3_server::{Fault, Op, Rule, S3Server, When};

/// One bad time after the other: what goes wrong, for how many requests in a hundred.
fn bad_times() -> Vec<(&'static str, Rule)> {
    let rule = Rule::new;
    vec![
        ("503 before", rule(When::Before, Fault::Answer(503, "SlowDown", None)).probability(0.4)),
        ("429 with Retry-After", rule(When::Before, Fault::Answer(429, "TooManyRequests", Some(1))).probability(0.3)),
        (
            "409 on put",
            rule(When::Before, Fault::Answer(409, "ConditionalRequestConflict", None)).op(Op::Put).probability(0.3),
        ),
        ("lost responses", rule(When::After, Fault::Answer(500, "InternalError", None)).op(Op::Put).probability(0.4)),
        ("resets after the work", rule(When::After, Fault::Reset).op(Op::Put).probability(0.4)),
        ("resets", rule(When::Before, Fault::Reset).probability(0.3)),
        ("cut bodies", rule(When::After, Fault::Truncate).op(Op::Get).probability(0.3)),
        ("flipped bytes", rule(When::After, Fault::FlipByte).op(Op::Get).probability(0.3)),
        ("slow answers", rule(When::Before, Fault::Slow(Duration::from_millis(300))).probability(0.3)),
    ]
}

/// With 503, 429, 409, lost responses, resets, cut and corrupted bodies, slow answers, a few hangs and an outage of the
/// whole store, nothing is lost, nothing is written twice under one name, and afterwards every commit restores.
#[test]
fn a_faulty_store_costs_time_and_nothing_else() {
    let seed = seed("faulty store");
    let mut random = StdRng::seed_from_u64(seed);
    let server = S3Server::start(seed);
    let mut rig = Rig::new(&[]);
    rig.urls = vec![server.url("faulty")];
    rig.environment = server.env().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    create_database(&rig.database, 4096, 0);
    let times = bad_times();
    let seconds = from_environment("REPLICATE_FAULT_SECONDS", 2) as f64;
    let ledger_file = rig.ledger_file("ledger.writer");
    let mut plan = WriterPlan::new(&rig.database, &ledger_file, "writer", seed, seconds * (times.len() + 2) as f64);
    plan.checkpoint = 0.01;
    let replicator = rig.start("50ms");
    let mut writer = plan.spawn();
    for (name, rule) in times {
        println!("faulty store: {name}");
        server.inject(rule);
        std::thread::sleep(Duration::from_secs_f64(seconds));
        server.clear_faults();
    }
    println!("faulty store: two hangs and an outage");
    server.inject(Rule::new(When::Before, Fault::Hang).op(Op::Put).times(2));
    std::thread::sleep(Duration::from_secs_f64(seconds / 2.0));
    server.set(|manners| &manners.outage, true);
    std::thread::sleep(Duration::from_secs_f64(seconds));
    server.set(|manners| &manners.outage, false);
    server.clear_faults();
    assert!(wait(&mut writer, Duration::from_secs(120)).expect("the writer ends").success(), "the writer failed");
    // How many there are depends on how fast the machine is: each costs a pause before the next request.
    assert!(server.faults_injected() >= 8, "only {} faults happened", server.faults_injected());

    let (url, ledger) = (rig.urls[0].clone(), rig.ledger());
    let caught_up = eventually(Duration::from_secs(180), || {
        rig.restore(&url, "now", "newest.db").is_ok_and(|path| verify(&path, &ledger) == ledger.last())
    });
    assert!(caught_up, "commit {} did not arrive: {}", ledger.last(), rig.log());
    stop(replicator, "replicate run");

    assert_eq!(server.overwrites(), 0, "an object was written twice");
    assert_eq!(server.unfinished_uploads(), 0, "an upload was left behind");
    let commits = rig.commits(&url);
    let holes = commits.windows(2).filter(|pair| pair[1].txid != pair[0].txid + 1).count();
    assert_eq!(holes, 0, "the history has holes");
    assert!(commits.iter().all(|commit| commit.kind != "repair"), "a fault of the store cost granularity");
    for _ in 0..from_environment("REPLICATE_FAULT_POINTS", 60) {
        let commit = &commits[random.random_range(0..commits.len())];
        let point = format!("txid:{}", commit.txid);
        let path = rig.restore(&url, &point, "sample.db").unwrap_or_else(|output| panic!("{point}: {output:?}"));
        verify(&path, &ledger);
        remove(&path);
    }
    println!(
        "faulty store: {} faults, {} commits, {} requests",
        server.faults_injected(),
        commits.len(),
        server.requests()
    );
}

/// An idle database causes no request at all, and a busy one about one for every interval with commits in it.
#[test]
fn an_idle_database_causes_no_request() {
    let server = S3Server::start(seed("idle"));
    let mut rig = Rig::new(&[]);
    rig.urls = vec![server.url("idle")];
    rig.environment = server.env().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    create_database(&rig.database, 4096, 0);
    let replicator = rig.start("1s");
    let arrived = || server.names().iter().any(|name| name.contains("/snapshot/"));
    assert!(eventually(Duration::from_secs(60), arrived), "no snapshot arrived: {}", rig.log());
    std::thread::sleep(Duration::from_secs(3));
    let before = server.requests();
    // Nothing of ours runs on a shorter interval than the poll's and the ship task's: ten seconds would show a timer.
    std::thread::sleep(Duration::from_secs(10));
    assert_eq!(server.requests(), before, "requests while idle: {:?}", &server.log()[before..]);

    let ledger = rig.ledger_file("ledger.writer");
    let mut plan = WriterPlan::new(&rig.database, &ledger, "writer", 1, 8.0);
    (plan.pause_us, plan.large) = (20_000, 0.0);
    assert!(wait(&mut plan.spawn(), Duration::from_secs(60)).expect("the writer ends").success());
    std::thread::sleep(Duration::from_secs(2));
    let busy = server.requests() - before;
    println!("requests: 0 in 10 s idle, {busy} in 8 s busy at sync-interval 1s");
    assert!((4..=40).contains(&busy), "{busy} requests: {:?}", &server.log()[before..]);
    stop(replicator, "replicate run");
}
