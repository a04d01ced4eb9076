//! Which file sets and blobs stay.

use super::*;
use crate::fileset::{current, living};
use crate::layout::{BlobHash, FileSetName};

fn name(generation: Generation, txid: u64, term: u32, time: u64) -> FileSetName {
    FileSetName { generation, txid: Txid(txid), term: Term(term), time: TimeMs(time), hash: time }
}

fn blob(n: u64) -> BlobHash {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&n.to_le_bytes());
    BlobHash(hash)
}

/// Sets with the numbers of the blobs in them, and all of these blobs and one that no set names.
fn files(sets: &[(FileSetName, &[u64])]) -> FilesView {
    let blobs: BTreeSet<u64> = sets.iter().flat_map(|(_, blobs)| blobs.iter().copied()).chain([u64::MAX]).collect();
    let mut listed: Vec<_> = sets.iter().map(|(name, _)| Listed { name: *name, size: 1 }).collect();
    listed.sort_unstable();
    FilesView {
        sets: listed,
        blobs: blobs.into_iter().map(|n| Listed { name: blob(n), size: 1 }).collect(),
        contents: sets.iter().map(|(name, blobs)| (*name, blobs.iter().map(|n| blob(*n)).collect())).collect(),
    }
}

/// Times of the sets that stay, and the first bytes of the blobs that do.
fn stay(view: &GenerationView, policy: &Policy, now: u64) -> (Vec<u64>, Vec<u8>) {
    let plan = plan(std::slice::from_ref(view), policy, TimeMs(now), &BTreeSet::new());
    let kept = || plan.generations[0].decisions.iter().filter(|decision| decision.reason.keeps());
    let sets = kept().filter_map(|d| if let ObjectName::FileSet(name) = d.object { Some(name.time.0) } else { None });
    let blobs =
        kept().filter_map(|d| if let ObjectName::Blob { hash, .. } = d.object { Some(hash.0[0]) } else { None });
    (sets.collect(), blobs.collect())
}

/// A set stays as long as a commit between it and the next one can be restored; of several of one commit the older ones as long as the
/// commit window reaches back to them; a blob as long as a set that stays names it.
#[test]
fn sets_stay_as_long_as_they_are_needed() {
    let mut view = simple(&[(1, 0), (50, 50 * DAY), (90, 90 * DAY)], &[(0, 2, 89, 89 * DAY), (0, 90, 99, 99 * DAY)]);
    let generation = view.inventory.generation;
    let at = |txid, day| name(generation, txid, 1, day * DAY);
    view.files = files(&[
        (at(1, 1), &[1]),
        (at(20, 20), &[1, 2]),
        (at(40, 40), &[3]),
        (at(60, 60), &[3, 4]),
        (at(91, 98), &[5]),
        (at(99, 99), &[6]),
        (at(99, 103), &[7]),
        (at(99, 104), &[8]),
        // What a dead term says counts for nothing.
        (name(generation, 99, 0, 105 * DAY), &[9]),
    ]);
    let everything = Policy { keep_within: Some(Duration::from_millis(1000 * DAY)), ..Policy::default() };
    let (sets, blobs) = stay(&view, &everything, 110 * DAY);
    assert_eq!(sets, [1, 20, 40, 60, 98, 104].map(|day| day * DAY));
    assert_eq!(blobs, [1, 2, 3, 4, 5, 8]);
    // The last snapshot and what follows it, and two days of commits: the set of day 60 is the one of commit 90.
    let policy = Policy { commits: Some(Duration::from_millis(2 * DAY)), ..Policy::default() };
    let (sets, blobs) = stay(&view, &policy, 110 * DAY);
    assert_eq!(sets, [60, 98, 103, 104].map(|day| day * DAY));
    assert_eq!(blobs, [3, 4, 5, 7, 8]);
    // The label asks for a commit, and so for its files.
    view.named.insert(Txid(50));
    assert_eq!(stay(&view, &policy, 110 * DAY).0, [40, 60, 98, 103, 104].map(|day| day * DAY));
    // A clock that jumped ahead takes nothing.
    assert_eq!(stay(&view, &policy, 10_000 * DAY).0, [40, 60, 98, 103, 104].map(|day| day * DAY));
    // What cannot be read stays, and with it whatever it may need.
    view.files.contents.remove(&at(1, 1));
    let (sets, blobs) = stay(&view, &policy, 110 * DAY);
    assert_eq!((sets[0], blobs), (DAY, vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 255]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// On any history and policy: every commit that can still be restored has the files that it had before, with all their blobs; the newest
    /// set of the newest generation stays; and planning again finds nothing more to do.
    #[test]
    fn every_restorable_commit_keeps_its_files(story in stories(), dice in prop::collection::vec((1u64..90, 0u64..200, 0u64..20), 0..20)) {
        let Story { mut views, policy, now } = story;
        for view in &mut views {
            let generation = view.inventory.generation;
            let begin = generation.began().0;
            let term = view.inventory.terms.last().map_or(1, |term| term.0);
            let mut sets: BTreeMap<FileSetName, Vec<u64>> = BTreeMap::new();
            for (txid, time, content) in &dice {
                sets.insert(name(generation, *txid, 1 + *content as u32 % term, begin + time * DAY / 4), vec![*content, content / 2]);
            }
            let sets: Vec<(FileSetName, &[u64])> = sets.iter().map(|(name, blobs)| (*name, blobs.as_slice())).collect();
            view.files = files(&sets);
        }
        let plan = plan(&views, &policy, now, &BTreeSet::new());
        let rest: Vec<GenerationView> = all_reduced(&views, &plan).into_iter().zip(&views).zip(&plan.generations).map(|((mut rest, view), plan)| {
            let kept: BTreeSet<ObjectName> = plan.decisions.iter().filter(|d| d.reason.keeps()).map(|d| d.object).collect();
            rest.files = view.files.clone();
            rest.files.sets.retain(|set| kept.contains(&ObjectName::FileSet(set.name)));
            let generation = view.inventory.generation;
            rest.files.blobs.retain(|blob| kept.contains(&ObjectName::Blob { generation, hash: blob.name }));
            rest
        }).collect();
        for (at, (view, after)) in views.iter().zip(&rest).enumerate() {
            let sets = |view: &GenerationView| living(&view.files.sets, &view.inventory);
            for txid in points(after) {
                let had = current(&sets(view), txid, None);
                prop_assert_eq!(had, current(&sets(after), txid, None), "of commit {}", txid.0);
                let there: BTreeSet<BlobHash> = after.files.blobs.iter().map(|blob| blob.name).collect();
                let needs = had.map(|name| view.files.contents[&name].clone()).unwrap_or_default();
                prop_assert!(needs.iter().all(|hash| there.contains(hash)));
            }
            let is_last = at + 1 == views.len();
            prop_assert!(!is_last || sets(view).last() == sets(after).last());
        }
        let again = super::super::plan(&rest, &policy, now, &BTreeSet::new());
        for generation in again.generations {
            let is_of_files = |d: &&Decision| matches!(d.stage, Stage::FileSets | Stage::Blobs);
            let more: Vec<_> = generation.deletions().filter(is_of_files).collect();
            prop_assert!(more.is_empty(), "{more:?}");
        }
    }
}
