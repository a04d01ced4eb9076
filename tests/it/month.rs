//! A month of ten commits a second, by names alone: what compaction and retention leave in a replica, and what a restore has to
//! fetch. Nothing is written: the planners of the program decide over a simulated clock. Sizes are assumptions, stated below.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use replicate::compaction::{self, Job, Waiting};
use replicate::cost::{Estimate, Terms, Workload};
use replicate::inventory::{Inventory, Listed};
use replicate::layout::{Level, ObjectName, PartHash, SegmentName, SnapshotName};
use replicate::position::{Generation, Term, TimeMs, Txid};
use replicate::retention::{Count, Facts, FilesView, GenerationView, Policy, plan};
use replicate::store::ObjectMeta;
use replicate::store::requests::Kind;

use crate::ledger::rig::seed;

const HOUR: u64 = 60 * 60 * 1000;
const DAY: u64 = 24 * HOUR;
const BEGIN: u64 = 1_790_000_000_000;
/// One segment a second.
const COMMITS_PER_SEGMENT: u64 = 10;
/// As measured for three updated rows a commit (docs/benchmarks.md), and what joining takes off it.
const BYTES_PER_COMMIT: u64 = 600;
const JOINED_PERCENT: u64 = 89;
/// Every commit changes this many of the database's busy pages, each of which takes so many bytes in a merged segment.
const PAGES_PER_COMMIT: f64 = 3.0;
const BUSY_PAGES: f64 = 20_000.0;
const BYTES_PER_PAGE: f64 = 1000.0;
/// A database of a gigabyte in parts.
const PARTS: u64 = 256;
const PART_BYTES: u64 = 2 << 20;

struct Replica {
    generation: Generation,
    segments: BTreeMap<SegmentName, u64>,
    snapshots: BTreeSet<SnapshotName>,
    waiting: Waiting,
    /// Everything that was put, in objects and bytes.
    put: (u64, u64),
}

impl Replica {
    fn segment(&mut self, level: u8, first: Txid, last: Txid, time: TimeMs, size: u64) {
        let name = SegmentName { generation: self.generation, level: Level(level), first, last, term: Term(1), time };
        self.segments.insert(name, size);
        self.waiting.add(Listed { name, size });
        self.put = (self.put.0 + 1, self.put.1 + size);
    }

    fn compact(&mut self, now: TimeMs) {
        while let Some(Job { level, inputs }) = self.waiting.plan(now, &compaction::Policy::default()) {
            let (first, last) = (inputs[0].name, inputs[inputs.len() - 1].name);
            let bytes: u64 = inputs.iter().map(|input| input.size).sum();
            let commits = (last.last.0 - first.first.0 + 1) as f64;
            let pages = BUSY_PAGES * (1.0 - (1.0 - 1.0 / BUSY_PAGES).powf(PAGES_PER_COMMIT * commits));
            let size = if level == Level(1) { bytes * JOINED_PERCENT / 100 } else { (pages * BYTES_PER_PAGE) as u64 };
            self.segment(level.0, first.first, last.last, last.time, size.min(bytes));
        }
    }

    /// All parts change from one snapshot to the next: the worst case.
    fn parts(&self, snapshot: &SnapshotName) -> Arc<[PartHash]> {
        (0..PARTS).map(|part| PartHash(u128::from(snapshot.txid.0) << 64 | u128::from(part))).collect()
    }

    fn inventory(&self) -> Inventory {
        let segments = self.segments.iter().map(|(name, &size)| (ObjectName::Segment(*name), size));
        let snapshots = self.snapshots.iter().map(|name| (ObjectName::Snapshot(*name), 100_000));
        let objects = segments.chain(snapshots).map(|(name, size)| ObjectMeta { key: name.key(), size });
        Inventory::new(self.generation, objects)
    }

    fn prune(&mut self, policy: &Policy, now: TimeMs) {
        let facts = self.snapshots.iter().map(|name| (*name, Facts { base: name.txid, parts: self.parts(name) }));
        let view = GenerationView {
            inventory: self.inventory(),
            parts: Vec::new(),
            facts: facts.collect(),
            named: BTreeSet::new(),
            files: FilesView::default(),
        };
        for decision in plan(&[view], policy, now, &BTreeSet::new()).generations[0].deletions() {
            match decision.object {
                ObjectName::Segment(name) => {
                    self.segments.remove(&name).expect("it was there");
                    self.waiting.remove(&name);
                }
                ObjectName::Snapshot(name) => assert!(self.snapshots.remove(&name)),
                _ => {}
            }
        }
    }

    /// Requests and bytes of a restore: listings of 1,000 names, marker, manifest, table, then every object once.
    fn restore(&self, inventory: &Inventory, target: Txid) -> (u64, u64, usize) {
        let snapshot = inventory.snapshots.iter().rev().find(|s| s.name.txid <= target).expect("a snapshot");
        let way = inventory.chain(snapshot.name.txid, target).expect("a way");
        let pages = |objects: usize| 1 + objects as u64 / 1000;
        let of_level = |level| inventory.segments.iter().filter(|s| s.name.level == Level(level)).count();
        let lists: u64 = (0..4).map(|level| pages(of_level(level))).sum::<u64>() + pages(self.snapshots.len()) + 2;
        let bytes: u64 = way.iter().map(|s| s.size).sum::<u64>() + PARTS * PART_BYTES + snapshot.size;
        (lists + 3 + PARTS + way.len() as u64, bytes, way.len())
    }
}

/// The same month, from its assumptions alone.
fn estimate() -> Estimate {
    let workload = Workload {
        database_bytes: 2 * PARTS * PART_BYTES,
        commits_per_second: COMMITS_PER_SEGMENT as f64,
        bytes_per_commit: BYTES_PER_COMMIT,
        changed_bytes_per_day: (2.0 * BUSY_PAGES * BYTES_PER_PAGE) as u64,
    };
    let day = Duration::from_millis(DAY);
    let terms = Terms {
        sync_interval: Duration::from_secs(1),
        segment_size: 4 << 20,
        snapshot_interval: day,
        snapshot_after: None,
        snapshot_spacing: day,
        commits: Some(day),
        keep: Some(30 * day),
    };
    Estimate::new(&workload, &terms)
}

/// What `cost` estimates of the same month is what the planners made of it.
fn assert_estimated(replica: &Replica, segment_bytes: u64) {
    let estimate = estimate();
    let near = |estimated: f64, found: f64| (0.85..1.15).contains(&(estimated / found));
    let puts = (replica.put.0 - replica.snapshots.len() as u64 * PARTS) as f64 * 30.0 / 31.0;
    println!("estimated: {} puts, {} MB stored", estimate.of_kind(Kind::Put), estimate.stored_bytes / 1e6);
    assert!(near(estimate.of_kind(Kind::Put), puts), "{puts} puts were found");
    // Of the snapshots here all parts change, which is the worst case; the estimate has the first one, and what is new in the others.
    let snapshots = (PARTS * PART_BYTES) as f64 + BUSY_PAGES * BYTES_PER_PAGE * (replica.snapshots.len() - 1) as f64;
    assert!(
        near(estimate.stored_bytes, segment_bytes as f64 + snapshots),
        "{segment_bytes} bytes of segments were found"
    );
}

/// After a month any kept commit is at most a snapshot, a day of hours and the last joined and shipped segments away, and the replica
/// holds a few thousand objects, not the millions that were put.
#[test]
fn a_month_of_commits_restores_in_few_requests() {
    let mut random = StdRng::seed_from_u64(seed("a month"));
    let generation = Generation::new(TimeMs(BEGIN), 1);
    let policy = Policy {
        commits: Some(Duration::from_millis(DAY)),
        keep_within: Some(Duration::from_millis(30 * DAY)),
        keep_last: Some(Count::Number(2)),
        ..Policy::default()
    };
    let (segments, snapshots) = (BTreeMap::new(), BTreeSet::new());
    let mut replica = Replica { generation, segments, snapshots, waiting: Waiting::empty(), put: (0, 0) };
    let (mut last, mut most) = (Txid(0), 0);
    for second in 0..31 * DAY / 1000 {
        let now = TimeMs(BEGIN + second * 1000);
        let first = Txid(last.0 + 1);
        last = Txid(last.0 + COMMITS_PER_SEGMENT);
        replica.segment(0, first, last, now, COMMITS_PER_SEGMENT * BYTES_PER_COMMIT);
        if second % (DAY / 1000) == 0 {
            replica.snapshots.insert(SnapshotName { generation, txid: last, term: Term(1), time: now });
            replica.put = (replica.put.0 + PARTS + 1, replica.put.1 + PARTS * PART_BYTES);
        }
        if second % 64 == 0 {
            replica.compact(now);
        }
        if second % (HOUR / 1000) == 0 {
            most = most.max(replica.segments.len());
            replica.prune(&policy, now);
        }
    }
    let inventory = replica.inventory();
    assert_eq!((inventory.gaps(), inventory.newest.map(|newest| newest.txid)), (vec![], Some(last)));
    let count = |level: u8| inventory.segments.iter().filter(|s| s.name.level == Level(level)).count();
    let levels = [0, 1, 2, 3].map(count);
    let bytes: u64 = replica.segments.values().sum();
    let parts = replica.snapshots.len() as u64 * PARTS;
    println!(
        "{} commits; put {} objects, {} MB. Held: segments by level {levels:?} (at most {most} between two looks), {} MB of them; {} \
         snapshots with {parts} parts, {} MB",
        last.0,
        replica.put.0,
        replica.put.1 / 1_000_000,
        bytes / 1_000_000,
        replica.snapshots.len(),
        parts * PART_BYTES / 1_000_000
    );
    assert_estimated(&replica, bytes);
    let newest = replica.restore(&inventory, last);
    println!("restore of the newest: {} requests, {} MB, {} segments", newest.0, newest.1 / 1_000_000, newest.2);
    let day = COMMITS_PER_SEGMENT * DAY / 1000;
    let mut worst = (0, 0, 0);
    for _ in 0..1000 {
        let target = Txid(last.0 - random.random_range(0..day));
        let cost = replica.restore(&inventory, target);
        worst = (worst.0.max(cost.0), worst.1.max(cost.1), worst.2.max(cost.2));
    }
    println!(
        "restore of any commit of the last day: at most {} requests, {} MB, {} segments",
        worst.0,
        worst.1 / 1_000_000,
        worst.2
    );
    // Hours of a day, what an hour joins, and what is not joined yet.
    assert!(newest.2.max(worst.2) <= 24 + 3600 / 64 + 2 + 2 * 64, "{worst:?}");
    assert!(replica.segments.len() + replica.snapshots.len() < 10_000, "{levels:?}");
}
