//! Months of history in names: generations, terms, segments of every level, snapshots behind their copies, holes, strays.

use super::*;

/// A replica, a policy and a clock.
#[derive(Debug, Clone)]
pub struct Story {
    pub views: Vec<GenerationView>,
    pub policy: Policy,
    pub now: TimeMs,
}

/// A small generator whose numbers come from one seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }
}

pub fn stories() -> impl Strategy<Value = Story> {
    any::<u64>().prop_map(|seed| {
        let mut dice = Dice(seed);
        let mut time = 1_750_000_000_000 + dice.roll(400 * DAY);
        let mut views = Vec::new();
        for _ in 0..1 + dice.roll(3) {
            views.push(generation(&mut dice, &mut time));
        }
        let now = match dice.roll(4) {
            0 => TimeMs(time.saturating_sub(dice.roll(100 * DAY))),
            1 => TimeMs(time + dice.roll(1000 * DAY)),
            _ => TimeMs(time + dice.roll(DAY)),
        };
        Story { views, policy: policy(&mut dice), now }
    })
}

fn policy(dice: &mut Dice) -> Policy {
    let mut policy = Policy::default();
    while policy.is_empty() {
        let span = |dice: &mut Dice, most: u64| dice.one_in(2).then(|| Duration::from_millis(1 + dice.roll(most)));
        policy.commits = span(dice, 5 * DAY);
        policy.keep_within = span(dice, 40 * DAY);
        let count = |dice: &mut Dice| match dice.roll(6) {
            0 => Some(Count::Forever),
            1 | 2 => Some(Count::Number(1 + dice.roll(6) as u32)),
            _ => None,
        };
        policy.keep_last = count(dice).filter(|count| *count != Count::Forever);
        policy.keep_min = count(dice);
        policy.calendar = std::array::from_fn(|_| count(dice));
    }
    policy
}

fn generation(dice: &mut Dice, time: &mut u64) -> GenerationView {
    let generation = Generation::new(TimeMs(*time), dice.roll(1 << 20) as u32);
    let commits = 1 + dice.roll(80);
    // Bursts, pauses, and a clock that stands still.
    let times: Vec<u64> = (0..commits)
        .map(|_| {
            *time += match dice.roll(5) {
                0 => 0,
                1 => dice.roll(10_000),
                2 => dice.roll(3_600_000),
                3 => dice.roll(DAY),
                _ => dice.roll(6 * DAY),
            };
            *time
        })
        .collect();
    *time += 1 + dice.roll(DAY);
    let mut term = Term(1);
    let mut objects = vec![ObjectName::Term { generation, term }];
    let at = |txid: u64| TimeMs(times[txid as usize - 1]);
    let segment = |level: u8, first: u64, last: u64, term: Term| {
        let (level, time) = (Level(level), at(last));
        SegmentName { generation, level, first: Txid(first), last: Txid(last), term, time }
    };
    let mut shipped = Vec::new();
    let mut first = 1 + dice.roll(2).min(commits - 1);
    while first <= commits {
        let last = (first + dice.roll(5)).min(commits);
        if dice.one_in(15) {
            term = term.next().expect("few terms");
            objects.push(ObjectName::Term { generation, term });
        }
        shipped.push(segment(0, first, last, term));
        first = last + 1;
    }
    let mut segments = shipped.clone();
    if dice.one_in(4) && term > Term(1) {
        // A dead term went on for a while.
        let begin = shipped.iter().filter(|s| s.term == term).map(|s| s.first.0).min().unwrap_or(1);
        let last = (begin + dice.roll(6)).min(commits);
        segments.push(segment(0, begin, last, Term(1)));
    }
    let begin = shipped.first().map_or(1, |s| s.first.0);
    for level in 1..=3u8 {
        segments.extend(ranges(dice, level, begin, commits).into_iter().map(|(f, l)| segment(level, f, l, term)));
    }
    // Some were lost, or pruned before.
    segments.retain(|_| !dice.one_in(40));
    segments.sort_unstable();
    segments.dedup();
    let (mut facts, mut parts) = (BTreeMap::new(), BTreeSet::new());
    for _ in 0..dice.roll(9) {
        let txid = 1 + dice.roll(commits);
        let name = SnapshotName { generation, txid: Txid(txid), term, time: at(txid) };
        let base = Txid(txid - dice.roll(6).min(txid - 1));
        let own: Arc<[PartHash]> = (0..dice.roll(4)).map(|_| PartHash(u128::from(dice.roll(12)))).collect();
        parts.extend(own.iter().copied());
        facts.insert(name, Facts { base, parts: own });
    }
    parts.insert(PartHash(99));
    objects.extend(segments.into_iter().map(ObjectName::Segment));
    objects.extend(facts.keys().map(|name| ObjectName::Snapshot(*name)));
    let listing = objects.iter().map(|name| ObjectMeta { key: name.key(), size: 1 });
    let parts = parts.into_iter().map(|name| Listed { name, size: 1 }).collect();
    let named = (0..dice.roll(3)).map(|_| Txid(1 + dice.roll(commits))).collect();
    GenerationView { inventory: Inventory::new(generation, listing), parts, facts, named, files: FilesView::default() }
}

/// What a level holds: mostly joined, sometimes overlapping or with a hole.
fn ranges(dice: &mut Dice, level: u8, mut first: u64, commits: u64) -> Vec<(u64, u64)> {
    let width = [0, 4, 12, 30][usize::from(level)];
    let mut ranges = Vec::new();
    while first <= commits && !dice.one_in(4) {
        let last = (first + dice.roll(width)).min(commits);
        ranges.push((first, last));
        first = match dice.roll(8) {
            0 => last + 2,
            1 => last.max(first + 1),
            _ => last + 1,
        };
    }
    ranges
}
