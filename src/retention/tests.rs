//! Simulated months of history against a reference model that is written without any of the code it judges: rules as loops over
//! all snapshots, reachability by trying every segment at every commit.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::document;
use crate::inventory::Moment;
use crate::layout::{Level, SegmentName};
use crate::store::ObjectMeta;

mod files;
mod history;
mod model;

use history::{Story, stories};
use model::{Model, points};

const DAY: u64 = 86_400_000;

/// What is left of a generation when a plan was carried out.
fn reduced(view: &GenerationView, plan: &GenerationPlan) -> GenerationView {
    let kept: BTreeSet<ObjectName> = plan.decisions.iter().filter(|d| d.reason.keeps()).map(|d| d.object).collect();
    let objects = kept.iter().map(|name| ObjectMeta { key: name.key(), size: 1 });
    let inventory = Inventory::new(view.inventory.generation, objects);
    let mut rest = view.clone();
    rest.facts.retain(|name, _| kept.contains(&ObjectName::Snapshot(*name)));
    let generation = inventory.generation;
    rest.parts.retain(|part| kept.contains(&ObjectName::Part { generation, hash: part.name }));
    rest.inventory = inventory;
    rest
}

/// A generation and what was decided, in few words.
fn told(view: &GenerationView, plan: &Plan) -> String {
    let mut text = format!("newest {:?}\n", view.inventory.newest);
    let of = plan.generations.iter().find(|plan| plan.generation == view.inventory.generation);
    for Decision { object, reason, .. } in of.iter().flat_map(|plan| &plan.decisions) {
        let (base, key) = match object {
            ObjectName::Snapshot(name) => (view.facts.get(name).map(|facts| facts.base.0), object.key()),
            ObjectName::Segment(_) => (None, object.key()),
            _ => continue,
        };
        text.push_str(&format!("{} {key} {base:?} {reason}\n", if reason.keeps() { "keep" } else { "GOES" }));
    }
    text
}

fn all_reduced(views: &[GenerationView], plan: &Plan) -> Vec<GenerationView> {
    views.iter().zip(&plan.generations).map(|(view, plan)| reduced(view, plan)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// On any history, policy and clock: the snapshots that stay are those of the model, every promised point is restorable after
    /// the plan was carried out, nothing that was not restorable becomes so, and planning again finds nothing more to do.
    #[test]
    fn loss_28_every_promised_point_survives(story in stories()) {
        let Story { views, policy, now } = &story;
        let plan = plan(views, policy, *now, &BTreeSet::new());
        let rest = all_reduced(views, &plan);
        let model = Model::new(views, policy, *now);
        for (view, after) in views.iter().zip(&rest) {
            let had: BTreeSet<Txid> = points(view);
            let has: BTreeSet<Txid> = points(after);
            prop_assert!(has.is_subset(&had), "new points {:?}", has.difference(&had).collect::<Vec<_>>());
            let promised = model.promised(view);
            prop_assert!(promised.is_subset(&had));
            let broken: Vec<_> = promised.difference(&has).collect();
            prop_assert!(broken.is_empty(), "{broken:?} went: {policy:?} {}", told(view, &plan));
            let stay: BTreeSet<SnapshotName> = after.inventory.snapshots.iter().map(|s| s.name).collect();
            prop_assert_eq!(stay, model.snapshots(view));
            let dead = after.inventory.dead_segments.len() + after.inventory.dead_snapshots.len();
            prop_assert!(dead == 0 || model.is_untouchable(view));
            let newest = |view: &GenerationView| view.inventory.newest;
            let is_last = view.inventory.generation == views[views.len() - 1].inventory.generation;
            prop_assert!(!is_last || newest(view) == newest(after));
        }
        let again = super::plan(&rest, policy, *now, &BTreeSet::new());
        for generation in again.generations {
            let more: Vec<_> = generation.deletions().filter(|d| d.stage != Stage::Claims).collect();
            prop_assert!(more.is_empty(), "{more:?}");
        }
    }

    /// Interrupted after any deletion, in the order of the plan: every promised point is restorable, and whatever any snapshot that is
    /// listed leads to is as it was.
    #[test]
    fn loss_28_an_interruption_strands_nothing(story in stories(), cut in 0.0f64..1.0) {
        let Story { views, policy, now } = &story;
        let plan = plan(views, policy, *now, &BTreeSet::new());
        let model = Model::new(views, policy, *now);
        for (view, mut plan) in views.iter().zip(plan.generations) {
            let total = plan.deletions().count();
            let mut left = (total as f64 * cut) as usize;
            for decision in plan.decisions.iter_mut().filter(|d| !d.reason.keeps()) {
                match left {
                    0 => decision.reason = Reason::Locked,
                    _ => left -= 1,
                }
            }
            let after = reduced(view, &plan);
            let has = points(&after);
            let promised = model.promised(view);
            let broken: Vec<_> = promised.difference(&has).collect();
            prop_assert!(broken.is_empty(), "{broken:?} went: {policy:?} {}", told(view, &Plan { generations: vec![plan] }));
            prop_assert!(has.is_subset(&points(view)));
            for listed in &after.inventory.snapshots {
                let base = view.facts[&listed.name].base;
                let was = view.inventory.chain(base, listed.name.txid).is_ok();
                prop_assert!(!was || after.inventory.chain(base, listed.name.txid).is_ok(), "{:?}", listed.name);
                let parts: BTreeSet<PartHash> = after.parts.iter().map(|part| part.name).collect();
                prop_assert!(view.facts[&listed.name].parts.iter().all(|hash| parts.contains(hash)));
            }
        }
    }

    /// A clock that is wrong by any amount keeps the newest point and all that is behind the newest snapshot, and where it is ahead,
    /// it takes nothing that the right one does not take.
    #[test]
    fn loss_28_a_clock_that_jumped_takes_nothing_more(story in stories(), ahead in 0u64..400) {
        let Story { views, policy, now } = &story;
        let newest = views.iter().rev().find_map(|view| view.inventory.newest);
        let right = newest.map_or(*now, |newest| newest.time);
        let wrong = TimeMs(right.0 + ahead * DAY);
        prop_assert_eq!(plan(views, policy, wrong, &BTreeSet::new()), plan(views, policy, right, &BTreeSet::new()));
        let back = plan(views, policy, TimeMs(right.0.saturating_sub(ahead * DAY)), &BTreeSet::new());
        let went = |plan: &Plan| -> BTreeSet<ObjectName> {
            plan.generations.iter().flat_map(|g| g.deletions().map(|d| d.object)).collect()
        };
        // Counted rules do not ask the clock; spans of time only grow.
        let spans_only = Policy { keep_min: None, ..*policy };
        let of_right = plan(views, &spans_only, right, &BTreeSet::new());
        let of_back = plan(views, &spans_only, TimeMs(right.0.saturating_sub(ahead * DAY)), &BTreeSet::new());
        let more: Vec<ObjectName> = went(&of_back).difference(&went(&of_right)).copied().collect();
        let is_snapshot = |name: &ObjectName| matches!(name, ObjectName::Snapshot(_));
        prop_assert!(!more.iter().any(is_snapshot), "{more:?}");
        prop_assert!(back.generations.len() == views.len());
    }

    /// What was pruned is told from what was lost: no gap after pruning is called lost that was not lost before, and any segment that
    /// is lost afterwards and leaves a gap is found.
    #[test]
    fn loss_28_pruned_is_told_from_lost(story in stories()) {
        let Story { views, policy, now } = &story;
        let plan = plan(views, policy, *now, &BTreeSet::new());
        for (view, plan) in views.iter().zip(&plan.generations) {
            let after = reduced(view, plan);
            let before = view.inventory.gaps();
            for gap in Gaps::new(&after.inventory, &plan.pruned).lost {
                let was = before.iter().any(|old| old.first <= gap.first && gap.last <= old.last);
                prop_assert!(was || before.iter().any(|old| old.last >= gap.first && old.first <= gap.last), "{gap:?}");
            }
            for lost in &after.inventory.segments {
                let rest = after.inventory.without(&[ObjectName::Segment(lost.name)].into());
                let pruned_before = Gaps::new(&after.inventory, &plan.pruned).pruned;
                let gaps = Gaps::new(&rest, &plan.pruned);
                let grew = rest.gaps().len() > after.inventory.gaps().len();
                prop_assert!(!grew || !gaps.lost.is_empty(), "{lost:?} {pruned_before:?} {gaps:?}");
            }
        }
    }

    /// Marks read back as they were written.
    #[test]
    fn marks_round_trip(ranges in prop::collection::vec((1u64..1000, 0u64..50), 0..10), keys in prop::collection::btree_set("[a-z0-9/]{1,30}", 0..10)) {
        let pruned = union(ranges.into_iter().map(|(first, more)| (Txid(first), Txid(first + more))).collect());
        let mark = Mark { pruned, delete: keys };
        prop_assert_eq!(document::decode::<Mark>(&document::encode(&mark), MAX_MARK_BYTES).unwrap().value, mark);
    }
}

/// Ranges: joined, taken apart, and asked for.
#[test]
fn ranges_of_commits() {
    let r = |first, last| (Txid(first), Txid(last));
    let joined = union(vec![r(5, 9), r(1, 3), r(4, 4), r(20, 30)]);
    assert_eq!(joined, [r(1, 9), r(20, 30)]);
    assert!(holds(&joined, Txid(2), Txid(9)) && !holds(&joined, Txid(9), Txid(10)));
    assert_eq!(without(&joined, &[r(1, 1), r(3, 4), r(9, 21)]), [r(2, 2), r(5, 8), r(22, 30)]);
    assert_eq!(without(&joined, &[]), joined);
    assert_eq!(without(&joined, &[r(1, 100)]), []);
}

fn simple(snapshots: &[(u64, u64)], segments: &[(u8, u64, u64, u64)]) -> GenerationView {
    let generation = Generation(7);
    let mut objects = vec![ObjectName::Term { generation, term: Term(1) }];
    let mut facts = BTreeMap::new();
    for &(txid, time) in snapshots {
        let name = SnapshotName { generation, txid: Txid(txid), term: Term(1), time: TimeMs(time) };
        objects.push(ObjectName::Snapshot(name));
        facts.insert(name, Facts { base: Txid(txid), parts: Arc::from([PartHash(u128::from(txid))]) });
    }
    for &(level, first, last, time) in segments {
        let (level, first, last, time) = (Level(level), Txid(first), Txid(last), TimeMs(time));
        objects.push(ObjectName::Segment(SegmentName { generation, level, first, last, term: Term(1), time }));
    }
    let parts = snapshots.iter().map(|&(txid, _)| Listed { name: PartHash(u128::from(txid)), size: 1 }).collect();
    let listing = objects.iter().map(|name| ObjectMeta { key: name.key(), size: 1 });
    GenerationView {
        inventory: Inventory::new(generation, listing),
        parts,
        facts,
        named: BTreeSet::new(),
        files: FilesView::default(),
    }
}

/// A snapshot that cannot be read keeps everything of its generation.
#[test]
fn what_cannot_be_read_is_not_judged() {
    let mut view = simple(&[(1, 0), (5, 5 * DAY), (9, 9 * DAY)], &[(0, 2, 9, 9 * DAY)]);
    let policy = Policy { keep_last: Some(Count::Number(1)), ..Policy::default() };
    let deleted = |view: &GenerationView| {
        plan(std::slice::from_ref(view), &policy, TimeMs(10 * DAY), &BTreeSet::new()).generations[0].deletions().count()
    };
    assert_eq!(deleted(&view), 4, "two snapshots and their parts; the segment holds the newest commit");
    let first = view.inventory.snapshots[0].name;
    view.facts.remove(&first);
    assert_eq!(deleted(&view), 0);
}

/// A snapshot that the store does not let go keeps its parts and what makes it exact.
#[test]
fn a_locked_snapshot_keeps_what_it_needs() {
    let view = simple(&[(1, 0), (5, 5 * DAY), (9, 9 * DAY)], &[(0, 2, 4, 4 * DAY), (0, 5, 9, 9 * DAY)]);
    let policy = Policy { keep_last: Some(Count::Number(1)), ..Policy::default() };
    let locked = [view.inventory.snapshots[1].name].into();
    let plan = plan(&[view], &policy, TimeMs(10 * DAY), &locked);
    let stays: Vec<_> = plan.generations[0].decisions.iter().filter(|d| d.reason.keeps()).collect();
    let part = |n| ObjectName::Part { generation: Generation(7), hash: PartHash(n) };
    assert!(stays.iter().any(|d| d.reason == Reason::Locked) && stays.iter().any(|d| d.object == part(5)));
    assert!(!stays.iter().any(|d| d.object == part(1)));
}

/// Weeks begin on Monday, months and years are those of the calendar, all in UTC.
#[test]
fn units_of_the_calendar() {
    let monday = 1_795_392_000_000; // 2026-11-23T00:00:00Z
    let year = 1_798_761_600_000; // 2027-01-01T00:00:00Z
    let view = simple(&[(1, monday - 1), (2, monday), (3, year - 1), (4, year)], &[(0, 2, 4, year)]);
    let kept = |unit: Calendar| {
        let mut calendar = [None; 5];
        calendar[unit as usize] = Some(Count::Forever);
        let policy = Policy { calendar, ..Policy::default() };
        let plan = plan(std::slice::from_ref(&view), &policy, TimeMs(year + DAY), &BTreeSet::new());
        let stays = plan.generations[0].decisions.iter().filter(|d| d.stage == Stage::Snapshots && d.reason.keeps());
        stays.map(|d| if let ObjectName::Snapshot(s) = d.object { s.txid.0 } else { 0 }).collect::<Vec<_>>()
    };
    assert_eq!(kept(Calendar::Hourly), [1, 2, 3, 4]);
    assert_eq!(kept(Calendar::Weekly), [1, 2, 4]);
    assert_eq!(kept(Calendar::Monthly), [2, 3, 4]);
    assert_eq!(kept(Calendar::Yearly), [3, 4]);
}
