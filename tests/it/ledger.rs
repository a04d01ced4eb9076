//! The ledger test, the heart of the suite: writers record a content hash per commit, replication runs, and random
//! commits and moments are restored during and after the load. Every restored database must be what was recorded.

mod faulty;
mod kill;
mod kill_prune;
pub mod rig;
mod verify;
mod writer;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::s3_server::S3Server;
use rig::{Listed, Rig, eventually, remove, seed, stop, wait};
use verify::{Ledger, verify};
use writer::{WriterPlan, create_database};

/// Seconds of load and restores to make: short in CI, longer by `REPLICATE_LEDGER_SECONDS` and `REPLICATE_LEDGER_POINTS`.
#[expect(clippy::disallowed_methods, reason = "what a test is to do comes from its environment")]
pub fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Two writers that do everything an application may do, with checkpoints of all modes, as the ledger test needs them.
fn writers(rig: &mut Rig, seed: u64, seconds: f64) -> Vec<WriterPlan> {
    let first = rig.ledger_file("ledger.first");
    let second = rig.ledger_file("ledger.second");
    let mut calm = WriterPlan::new(&rig.database, &first, "first", seed, seconds);
    calm.large = 0.02;
    let mut wild = WriterPlan::new(&rig.database, &second, "second", seed + 1, seconds);
    wild.autocheckpoint = 200;
    wild.checkpoint = 0.03;
    wild.vacuum = 0.01;
    vec![calm, wild]
}

/// Restores random points until `count` are done; counts the distinct commits.
struct Sampler<'a> {
    rig: &'a Rig,
    random: StdRng,
    restored: u64,
    /// What each txid was found to hold: the same in every replica and at every time.
    known: BTreeMap<u64, i64>,
}

impl Sampler<'_> {
    /// One random commit by its txid and one random moment, from a random replica.
    fn sample(&mut self, commits: &[Listed], ledger: &Ledger) {
        let url = &self.rig.urls[self.random.random_range(0..self.rig.urls.len())];
        let commit = &commits[self.random.random_range(0..commits.len())];
        let point = format!("txid:{}", commit.txid);
        let path = self.rig.restore(url, &point, "sample.db").unwrap_or_else(|output| panic!("{point}: {output:?}"));
        let seq = verify(&path, ledger);
        self.remember(commit.txid, seq);
        remove(&path);

        let (from, to) = (commits[0].time_ms, commits[commits.len() - 1].time_ms);
        let moment = self.random.random_range(from..=to);
        let expected = commits.iter().rev().find(|commit| commit.time_ms <= moment).expect("within the window");
        let point = jiff::Timestamp::from_millisecond(moment as i64).expect("a moment").to_string();
        let path = self.rig.restore(url, &point, "sample.db").unwrap_or_else(|output| panic!("{point}: {output:?}"));
        let seq = verify(&path, ledger);
        self.remember(expected.txid, seq);
        // Nothing from the future: whatever is in it was begun before the moment that was asked for.
        if let Some(entry) = ledger.0.get(&seq) {
            assert!(entry.before_ms <= moment, "commit {seq} of {} is in a restore to {moment}", entry.before_ms);
        }
        remove(&path);
        self.restored += 2;
    }

    fn remember(&mut self, txid: u64, seq: i64) {
        let before = *self.known.entry(txid).or_insert(seq);
        assert_eq!(before, seq, "txid {txid} held commit {before} and now {seq}");
        let lower = self.known.range(..txid).next_back().map_or(i64::MIN, |(_, seq)| *seq);
        assert!(lower <= seq, "txid {txid} holds commit {seq}, an earlier txid holds {lower}");
    }
}

/// Commits that can be restored from every replica now.
fn common_commits(rig: &Rig) -> Vec<Listed> {
    let lists: Vec<Vec<Listed>> = rig.urls.iter().map(|url| restorable(rig, url)).collect();
    let (first, rest) = lists.split_first().expect("a replica");
    first.iter().filter(|commit| rest.iter().all(|list| list.contains(commit))).cloned().collect()
}

fn restorable(rig: &Rig, url: &str) -> Vec<Listed> {
    rig.commits(url)
}

/// Every one of 1,000 random commits and moments, from a directory and from S3, during and after the load, is what was
/// recorded; every commit is captured by itself; the newest restored state is the live one.
#[test]
fn every_restored_commit_is_what_its_writer_recorded() {
    let seed = seed("ledger");
    let seconds = from_environment("REPLICATE_LEDGER_SECONDS", 20);
    let points = from_environment("REPLICATE_LEDGER_POINTS", 1000);
    let server = S3Server::start(seed);
    let mut rig = Rig::new(&[server.url("ledger")]);
    rig.environment = server.env().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    create_database(&rig.database, 4096, 2);
    let replicator = rig.start("100ms");
    let load: Vec<_> = writers(&mut rig, seed, seconds as f64).iter().map(WriterPlan::spawn).collect();
    assert!(eventually(Duration::from_secs(30), || rig_has_commits(&rig)), "nothing arrived: {}", rig.log());

    let mut sampler = Sampler { rig: &rig, random: StdRng::seed_from_u64(seed), restored: 0, known: BTreeMap::new() };
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        let commits = common_commits(&rig);
        let ledger = rig.ledger();
        if !commits.is_empty() {
            sampler.sample(&commits, &ledger);
        }
    }
    for mut child in load {
        let status = wait(&mut child, Duration::from_secs(120)).expect("the writer ends");
        assert!(status.success(), "a writer failed: {status}");
    }
    stop(replicator, "replicate run");

    let (commits, ledger) = (common_commits(&rig), rig.ledger());
    let during = sampler.restored;
    while sampler.restored < points {
        sampler.sample(&commits, &ledger);
    }
    let newest = rig.restore(&rig.urls[0], "now", "newest.db").expect("the newest restores");
    assert_eq!(verify(&newest, &ledger), ledger.last(), "the newest state is the last recorded commit");
    let repairs = commits.iter().filter(|commit| commit.kind == "repair").count();
    println!(
        "ledger: {} recorded commits, {} listed, {repairs} repairs, {during} restores during and {} after the load",
        ledger.last(),
        commits.len(),
        sampler.restored - during
    );
    assert!(commits.len() as i64 >= ledger.last() / 2, "most commits are restorable by themselves");
}

fn rig_has_commits(rig: &Rig) -> bool {
    rig.urls.iter().all(|url| {
        let output = rig.replicate().args(["list", url, "--commits", "--json"]).output().expect("replicate runs");
        output.status.success() && !rig.commits(url).is_empty()
    })
}
