use proptest::prelude::*;

use super::*;
use crate::store::Key;

const G: Generation = Generation(7);

fn segment(level: u8, first: u64, last: u64, term: u32) -> ObjectMeta {
    let name = SegmentName {
        generation: G,
        level: Level(level),
        first: Txid(first),
        last: Txid(last),
        term: Term(term),
        time: TimeMs(last * 1000),
    };
    ObjectMeta { key: ObjectName::Segment(name).key(), size: 100 }
}

fn snapshot(txid: u64, term: u32) -> ObjectMeta {
    let name = SnapshotName { generation: G, txid: Txid(txid), term: Term(term), time: TimeMs(txid * 1000) };
    ObjectMeta { key: ObjectName::Snapshot(name).key(), size: 100 }
}

fn ranges(chain: &[Listed<SegmentName>]) -> Vec<(u64, u64)> {
    chain.iter().map(|s| (s.name.first.0, s.name.last.0)).collect()
}

fn window(from: u64, to: u64) -> Window {
    let moment = |txid: u64| Moment { txid: Txid(txid), time: TimeMs(txid * 1000) };
    Window { from: moment(from), to: moment(to) }
}

/// A chain joins segment to segment, stops inside one, and names the gap where one is missing.
#[test]
fn chains_and_gaps() {
    let objects = [segment(0, 2, 5, 1), segment(0, 6, 6, 1), segment(0, 10, 12, 1), snapshot(1, 1), snapshot(11, 1)];
    let inventory = Inventory::new(G, objects);
    let chain = inventory.chain(Txid(1), Txid(6)).expect("joined");
    assert_eq!(ranges(&chain), [(2, 5), (6, 6)]);
    assert_eq!(ranges(&inventory.chain(Txid(3), Txid(4)).expect("inside one")), [(2, 5)]);
    assert_eq!(inventory.chain(Txid(6), Txid(6)), Ok(vec![]));
    let gap = inventory.chain(Txid(1), Txid(11)).expect_err("7..=9 are missing");
    assert_eq!((gap.first, gap.last), (Txid(7), Txid(9)));
    assert_eq!(gap.before.map(|m| m.txid), Some(Txid(6)));
    assert_eq!(inventory.gaps(), [gap]);
    assert_eq!(inventory.windows(|_| None), [window(1, 6), window(11, 12)]);
    // The copy behind snapshot 11 began before the gap ended: it cannot be made exact.
    assert_eq!(inventory.windows(|s| Some(Txid(s.txid.0.saturating_sub(4).max(1)))), [window(1, 6)]);
}

/// A writer that was replaced is ignored at every level from where its successor has shipped on; what the successor made of
/// older segments buries nothing.
#[test]
fn dead_terms_are_dead_at_every_level() {
    let objects = [
        segment(0, 2, 5, 1),
        segment(0, 6, 9, 1),
        segment(1, 2, 5, 1),
        segment(1, 6, 9, 1),
        segment(2, 2, 9, 1),
        segment(0, 8, 8, 2),
        segment(1, 2, 7, 2),
        snapshot(1, 1),
    ];
    let inventory = Inventory::new(G, objects);
    let dead: Vec<_> =
        inventory.dead_segments.iter().map(|s| (s.name.level.0, s.name.first.0, s.name.last.0)).collect();
    assert_eq!(dead, [(0, 6, 9), (1, 2, 5), (1, 6, 9), (2, 2, 9)]);
    assert_eq!(ranges(&inventory.chain(Txid(1), Txid(8)).expect("joined")), [(2, 7), (8, 8)]);
}

/// Of several ways the one with the least to fetch is taken: a day of which only the end is needed is passed by.
#[test]
fn the_shortest_way_is_taken() {
    let sized = |object: ObjectMeta, size| ObjectMeta { size, ..object };
    let large = 100 * REQUEST_COST_BYTES;
    let objects = [
        snapshot(1, 1),
        sized(segment(3, 2, 100, 1), large),
        segment(2, 2, 50, 1),
        segment(2, 51, 90, 1),
        segment(2, 91, 100, 1),
        segment(1, 91, 95, 1),
        segment(1, 96, 100, 1),
    ];
    let inventory = Inventory::new(G, objects);
    assert_eq!(ranges(&inventory.chain(Txid(92), Txid(100)).expect("the end")), [(91, 100)]);
    assert_eq!(inventory.chain(Txid(1), Txid(100)).expect("all").len(), 3);
    assert_eq!(ranges(&inventory.chain(Txid(1), Txid(95)).expect("a part")), [(2, 50), (51, 90), (91, 95)]);
    let lost = [ObjectName::Segment(inventory.segments.iter().find(|s| s.name.first == Txid(51)).expect("one").name)];
    let without = inventory.without(&lost.into());
    assert_eq!(ranges(&without.chain(Txid(1), Txid(100)).expect("the day still leads there")), [(2, 100)]);
}

/// Merged segments make the way short but are never stopped in.
#[test]
fn merged_segments_are_used_whole() {
    let small = (2..=20).map(|n| segment(0, n, n, 1));
    let inventory = Inventory::new(G, small.chain([segment(2, 2, 10, 1), segment(1, 11, 20, 1), snapshot(1, 1)]));
    assert_eq!(ranges(&inventory.chain(Txid(1), Txid(15)).expect("joined")), [(2, 10), (11, 20)]);
    assert_eq!(inventory.chain(Txid(1), Txid(4)).expect("joined").len(), 3);
    assert_eq!(ranges(&inventory.chain(Txid(5), Txid(20)).expect("joined")), [(2, 10), (11, 20)]);
    let merged_only = Inventory::new(G, [segment(2, 2, 10, 1), snapshot(1, 1)]);
    assert!(merged_only.chain(Txid(1), Txid(4)).is_err());
    assert!(merged_only.chain(Txid(1), Txid(10)).is_ok());
}

/// A way is found wherever there is one: a merged segment is entered in its middle when a segment before it ends there.
#[test]
fn merged_segments_are_entered_anywhere() {
    let objects = [segment(1, 2, 14, 1), segment(2, 11, 20, 1), segment(3, 12, 40, 1), snapshot(1, 1)];
    let inventory = Inventory::new(G, objects);
    assert_eq!(ranges(&inventory.chain(Txid(1), Txid(40)).expect("joined")), [(2, 14), (12, 40)]);
    assert_eq!(ranges(&inventory.chain(Txid(1), Txid(20)).expect("joined")), [(2, 14), (11, 20)]);
    assert!(inventory.chain(Txid(1), Txid(30)).is_err());
}

/// What a dead term wrote over or after a higher term is ignored, whatever its numbers.
#[test]
fn loss_16_a_dead_term_is_ignored() {
    let objects = [
        snapshot(1, 1),
        segment(0, 2, 5, 1),
        segment(0, 6, 9, 1),
        segment(0, 6, 8, 2),
        segment(0, 9, 9, 2),
        segment(0, 10, 12, 1),
        snapshot(12, 1),
    ];
    let inventory = Inventory::new(G, objects);
    assert_eq!(ranges(&inventory.segments), [(2, 5), (6, 8), (9, 9)]);
    assert_eq!(ranges(&inventory.dead_segments), [(6, 9), (10, 12)]);
    assert_eq!(inventory.dead_snapshots.len(), 1);
    assert_eq!(inventory.newest.map(|m| m.txid), Some(Txid(9)));
    assert_eq!(inventory.windows(|_| None), [window(1, 9)]);
}

/// The newest commit stays known when the object that holds it is broken, so that nobody takes an older one for it.
#[test]
fn a_broken_end_is_still_known() {
    let inventory = Inventory::new(G, [snapshot(1, 1), segment(0, 2, 5, 1), segment(0, 6, 9, 1)]);
    let broken = [ObjectName::Segment(inventory.segments[1].name)].into();
    let rest = inventory.without(&broken);
    assert_eq!(rest.newest, inventory.newest);
    assert_eq!(rest.gaps().len(), 1);
    let gap = rest.chain(Txid(1), Txid(9)).expect_err("the end is broken");
    assert_eq!((gap.first, gap.last, gap.after), (Txid(6), Txid(9), None));
}

/// Names of another generation and names that are no names of ours are set apart, never guessed at.
#[test]
fn unknown_names_are_set_apart() {
    let other = ObjectMeta { key: Key::new("0000000000000007/9/x.seg").expect("key"), size: 1 };
    let foreign = SnapshotName { generation: Generation(8), txid: Txid(1), term: Term(1), time: TimeMs(1) };
    let foreign = ObjectMeta { key: ObjectName::Snapshot(foreign).key(), size: 1 };
    let inventory = Inventory::new(G, [other, foreign, snapshot(1, 1)]);
    assert_eq!(inventory.unknown.len(), 2);
    assert_eq!(inventory.snapshots.len(), 1);
}

proptest! {
    /// On any listing: chains are joined and end where asked, gaps and chains never both hold, and nothing loops or panics.
    #[test]
    fn any_listing_is_sound(lines in prop::collection::vec((0u8..4, 1u64..40, 0u64..8, 1u32..4), 0..30),
                            snapshots in prop::collection::vec((1u64..40, 1u32..4), 0..4),
                            base in 0u64..40, target in 0u64..48) {
        let segments = lines.iter().map(|&(level, first, more, term)| segment(level, first, first + more, term));
        let inventory = Inventory::new(G, segments.chain(snapshots.iter().map(|&(txid, term)| snapshot(txid, term))));
        inventory.gaps();
        inventory.windows(|_| None);
        if let Ok(chain) = inventory.chain(Txid(base), Txid(target)) {
            let mut reached = base;
            for s in &chain {
                prop_assert!(s.name.first.0 <= reached + 1 && s.name.last.0 > reached);
                reached = s.name.last.0;
            }
            prop_assert!(reached >= target.min(reached));
            prop_assert!(base >= target || reached >= target);
        }
    }
}
