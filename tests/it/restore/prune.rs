//! Pruning a replica that is written from a model: every promised point restores to the model's bytes, whenever it is interrupted,
//! whatever the store refuses and wherever the clock jumps.

use std::collections::BTreeSet;
use std::time::Duration;

use replicate::commands::verify::{self, VerifyOptions};
use replicate::error::ExitCode;
use replicate::label::{Description, Labels, Named, Retain};
use replicate::layout::ObjectName;
use replicate::prune::{Outcomes, Pruning, Surveyor, look, spare};
use replicate::replica::Replica;
use replicate::retention::{Count, Mark, Policy};
use replicate::store::memory::MemoryStore;
use replicate::store::{Body, Key, PutMode};

use super::damage::{copy, keys};
use super::history::Random;
use super::*;

mod faults;

use faults::{Breaking, Locking};

const HOUR_MS: u64 = 3_600_000;
const HOUR: Duration = Duration::from_millis(HOUR_MS);

fn policy(random: &mut Random) -> Policy {
    let mut count = |n: u64| Some(Count::Number(1 + random.below(n) as u32));
    let (last, min) = (count(3), count(4));
    let commits = (random.below(3) > 0).then(|| Duration::from_millis(1 + random.below(40_000)));
    let within = random.one_in(2).then(|| Duration::from_millis(1 + random.below(60_000)));
    let keep_min = if random.one_in(3) { min } else { None };
    Policy { commits, keep_within: within, keep_last: last, keep_min, calendar: [None; 5] }
}

/// One look at `now`; a mark counts when it is `grace` old.
async fn look_at(store: &Arc<dyn Store>, policy: &Policy, now: u64, grace: Duration) -> Result<Outcomes, String> {
    let how = Pruning { policy, grace, now: TimeMs(now), too_young: &BTreeSet::new() };
    let looked = look(&mut Surveyor::new(store.clone()), &how).await;
    looked.map(|(_, outcomes)| outcomes).map_err(|error| error.to_string())
}

/// Marks, waits, deletes.
async fn prune(store: &Arc<dyn Store>, policy: &Policy, now: u64) -> Outcomes {
    look_at(store, policy, now, HOUR).await.expect("marked");
    look_at(store, policy, now + HOUR_MS, HOUR).await.expect("deleted")
}

/// What `policy` promises of the model: the newest snapshots it counts, every commit of the window from the first snapshot on, and
/// the newest commit.
fn promised(writer: &Writer, policy: &Policy) -> BTreeSet<(usize, u64)> {
    let mut snapshots = Vec::new();
    for (number, model) in writer.models.iter().enumerate() {
        let mut own: Vec<u64> = model.snapshots.iter().map(|txid| txid.0).collect();
        own.sort_unstable();
        snapshots.extend(own.into_iter().map(|txid| (number, txid)));
    }
    let newest = writer.models.len() - 1;
    let end = writer.model().newest().commit.time.0;
    let mut promised = BTreeSet::from([(newest, writer.model().newest().commit.txid.0)]);
    let Some(Count::Number(last)) = policy.keep_last else { panic!("counted") };
    promised.extend(snapshots.iter().rev().take(last as usize));
    let start = |span: Duration| end.saturating_sub(span.as_millis() as u64);
    for (number, model) in writer.models.iter().enumerate() {
        for state in &model.states {
            let (txid, time) = (state.commit.txid, state.commit.time.0);
            let within = |span: Option<Duration>| span.is_some_and(|span| time >= start(span));
            // No level is merged here, so that the way through keep-within is every commit too.
            if txid >= oldest(model) && (within(policy.commits) || within(policy.keep_within)) {
                promised.insert((number, txid.0));
            }
        }
    }
    promised
}

/// Restores every commit: the promised ones exactly, the others exactly or not at all. Gives how many were right.
async fn check(store: &Arc<dyn Store>, writer: &Writer, promised: &BTreeSet<(usize, u64)>, what: &str) -> usize {
    let folder = scratch();
    let mut right = 0;
    for (number, model) in writer.models.iter().enumerate() {
        for state in &model.states {
            let at = format!("{}/{}", model.generation, state.commit.txid.0);
            match bytes_at(store, folder.path(), &at).await {
                Ok(bytes) => {
                    assert!(bytes == state.content, "{what}, {at}: wrong bytes");
                    right += 1;
                }
                Err(error) => {
                    let is_promised = promised.contains(&(number, state.commit.txid.0));
                    assert!(!is_promised, "{what}, {at}: {}", error.report());
                    // Whatever is in no window any more is a point that is not there, never a sign of damage.
                    assert_eq!(error.exit(), ExitCode::NothingToRestore, "{what}, {at}: {}", error.report());
                }
            }
        }
    }
    right
}

async fn assert_sound(store: &Arc<dyn Store>, deep: bool, what: &str) {
    let mut out = Vec::new();
    let scratch = scratch();
    let options = VerifyOptions { deep, scratch: scratch.path().to_owned(), ..VerifyOptions::default() };
    let result = verify::run(store.clone(), &options, &around(u64::MAX >> 20), &mut out).await;
    assert!(result.is_ok(), "{what}: {}", String::from_utf8_lossy(&out));
}

/// On many histories and policies: what was promised restores exactly, the replica is sound, and a second pruning finds nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_28_what_is_promised_restores() {
    let (mut deleted, mut right, mut all) = (0, 0, 0);
    for seed in 300..325 {
        let writer = history(seed, 1 + seed % 3, 50).await;
        let policy = policy(&mut Random(seed));
        let store = store_of(&writer);
        let what = format!("seed {seed}, {policy:?}");
        assert_sound(&store, true, &format!("before, {what}")).await;
        let outcomes = prune(&store, &policy, writer.now).await;
        assert!(outcomes.locked.is_empty() && outcomes.waiting == 0, "{what}: {outcomes:?}");
        deleted += outcomes.deleted.len();
        assert_sound(&store, true, &what).await;
        right += check(&store, &writer, &promised(&writer, &policy), &what).await;
        all += writer.models.iter().map(|model| model.states.len()).sum::<usize>();
        let again = prune(&store, &policy, writer.now + 2 * HOUR_MS).await;
        assert!(again.deleted.is_empty(), "{what}: {again:?}");
    }
    assert!(deleted > 500 && right < all, "{deleted} {right} {all}");
}

/// Killed at every single deletion, and at every mark: what was promised restores, the replica is sound, and the next look ends where
/// an undisturbed one ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_28_killed_at_every_deletion() {
    let mut kills = 0;
    for seed in 330..333 {
        let writer = history(seed, 2, 24).await;
        let policy = policy(&mut Random(seed));
        let promised = promised(&writer, &policy);
        let whole: Arc<dyn Store> = copy(&*writer.store).await;
        prune(&whole, &policy, writer.now).await;
        let is_object = |key: &Key| !matches!(ObjectName::parse(key.as_str()), Some(ObjectName::Mark { .. }));
        let end: Vec<Key> = keys(&*whole).await.into_iter().filter(is_object).collect();
        for limit in 0.. {
            let store: Arc<dyn Store> = copy(&*writer.store).await;
            let breaking: Arc<dyn Store> = Arc::new(Breaking::new(store.clone(), limit));
            let marked = look_at(&breaking, &policy, writer.now, HOUR).await;
            let mut ended = marked.is_ok();
            if ended {
                ended = look_at(&breaking, &policy, writer.now + HOUR_MS, HOUR).await.is_ok();
            }
            let what = format!("seed {seed}, killed after {limit}");
            if !ended {
                kills += 1;
                assert_sound(&store, limit % 5 == 0, &what).await;
                check(&store, &writer, &promised, &what).await;
                // As often as it takes: what was marked late waits for its own time.
                for hours in 2..5 {
                    look_at(&store, &policy, writer.now + hours * HOUR_MS, HOUR).await.expect("resumed");
                }
            }
            let left: Vec<Key> = keys(&*store).await.into_iter().filter(is_object).collect();
            assert_eq!(left, end, "{what}");
            if ended {
                break;
            }
        }
    }
    assert!(kills > 60, "{kills}");
}

/// What the store does not let go is told and is no failure; a snapshot that stays keeps everything it needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_28_an_object_lock_is_no_failure() {
    for seed in 340..352 {
        let writer = history(seed, 2, 40).await;
        let policy = policy(&mut Random(seed));
        let is_locked: fn(&ObjectName, u64) -> bool = match seed % 3 {
            0 => |_, _| true,
            1 => |name, _| matches!(name, ObjectName::Snapshot(_)),
            _ => |_, chance| chance % 2 == 0,
        };
        let store: Arc<dyn Store> = Arc::new(Locking::new(store_of(&writer), is_locked));
        let mut promised = promised(&writer, &policy);
        if seed % 3 == 1 {
            let listed = writer.models.iter().enumerate();
            promised.extend(listed.flat_map(|(n, model)| model.snapshots.iter().map(move |txid| (n, txid.0))));
        }
        let outcomes = prune(&store, &policy, writer.now).await;
        let what = format!("seed {seed}: {policy:?}");
        assert!(seed % 3 != 0 || (outcomes.deleted.is_empty() && !outcomes.locked.is_empty()), "{what}");
        assert_sound(&store, true, &what).await;
        check(&store, &writer, &promised, &what).await;
        let marks = |keys: Vec<Key>| keys.into_iter().filter(|key| key.as_str().contains("/prune/")).count();
        let before = marks(keys(&*store).await);
        prune(&store, &policy, writer.now + 9 * HOUR_MS).await;
        assert_eq!(marks(keys(&*store).await), before, "{what}: locked objects make no more marks");
    }
}

/// A mark waits for its time by the clock of whoever looks; a clock that went back deletes nothing, a mark from a time that has not
/// come is no mark, and in the end it is replaced.
#[tokio::test]
async fn loss_28_clocks_jump() {
    let writer = history(361, 2, 40).await;
    let store = store_of(&writer);
    let policy = Policy { keep_last: Some(Count::Number(1)), ..Policy::default() };
    let all = keys(&*store).await.len();
    let far = writer.now + 1000 * HOUR_MS;
    let marked = look_at(&store, &policy, far, HOUR).await.expect("marked");
    assert!(marked.marked > 10 && marked.deleted.is_empty());
    let marks = keys(&*store).await.len() - all;
    for now in [far, far + HOUR_MS - 1, writer.now, writer.now + HOUR_MS - 1] {
        let outcomes = look_at(&store, &policy, now, HOUR).await.expect("looked");
        assert!(outcomes.deleted.is_empty(), "{now}");
    }
    // The clock is right again: the marks from the future were replaced by the ones of now.
    assert_eq!(keys(&*store).await.len() - all, marks);
    let outcomes = look_at(&store, &policy, writer.now + HOUR_MS, HOUR).await.expect("deleted");
    assert_eq!(outcomes.deleted.len() as u64, marked.marked);
    check(&store, &writer, &promised(&writer, &policy), "after all jumps").await;
}

/// The second look spares what is needed again: a rule that was added, a part that a new snapshot names.
#[tokio::test]
async fn loss_28_a_second_look_is_taken() {
    let mut writer = history(371, 1, 40).await;
    let store = store_of(&writer);
    let narrow = Policy { keep_last: Some(Count::Number(1)), ..Policy::default() };
    let wide = Policy { keep_last: Some(Count::Number(1000)), ..narrow };
    let marked = look_at(&store, &narrow, writer.now, HOUR).await.expect("marked");
    assert!(marked.marked > 0);
    let spared = look_at(&store, &wide, writer.now + HOUR_MS, HOUR).await.expect("looked");
    let kept: Vec<&str> = spared.deleted.iter().map(Key::as_str).filter(|key| key.contains("/snapshot/")).collect();
    assert!(kept.is_empty(), "{kept:?}");
    // The content of an older snapshot comes back, and with it its parts.
    let first = writer.model().at(oldest(writer.model()).0).content.clone();
    writer.commit_content(first).await;
    writer.snapshot(0).await;
    prune(&store, &narrow, writer.now + 3 * HOUR_MS).await;
    assert_sound(&store, true, "after a snapshot in between").await;
    check(&store, &writer, &promised(&writer, &narrow), "after a snapshot in between").await;
}

/// Whoever makes a snapshot takes back the marks that name its parts, and learns when some are gone; what else they said stays.
#[tokio::test]
async fn loss_28_a_snapshot_takes_marks_back() {
    let writer = history(381, 1, 30).await;
    let (store, generation) = (store_of(&writer), writer.model().generation);
    let replica = Replica::new(store.clone());
    let listed = keys(&*store).await.into_iter();
    let parts: Vec<_> = listed
        .filter_map(|key| match ObjectName::parse(key.as_str()) {
            Some(ObjectName::Part { hash, .. }) => Some(hash),
            _ => None,
        })
        .collect();
    let key = |hash| ObjectName::Part { generation, hash }.key();
    let names = |hashes: &[_]| hashes.iter().map(|hash| key(*hash).to_string()).collect::<BTreeSet<_>>();
    let mark = Mark { pruned: vec![(Txid(2), Txid(3))], delete: names(&parts[..2]) };
    replica.put_mark(generation, TimeMs(5), &mark).await.expect("marked");
    let mine = BTreeSet::from([parts[0], parts[2]]);
    let spared = spare(&replica, generation, &mine, TimeMs(9), Duration::ZERO).await.expect("asked");
    let left = replica.marks(generation).await.expect("read");
    assert!(spared && left.len() == 1 && left[0].mark == Mark { delete: names(&parts[1..2]), ..mark }, "{left:?}");
    replica
        .put_mark(generation, TimeMs(10), &Mark { delete: names(&parts[..1]), ..Mark::default() })
        .await
        .expect("marked");
    store.delete(&[key(parts[0])]).await.expect("deleted");
    assert!(!spare(&replica, generation, &mine, TimeMs(11), Duration::ZERO).await.expect("asked"));
}

/// An old generation goes whole, its claims and marks last; the newest one's stay.
#[tokio::test]
async fn an_old_generation_goes_whole() {
    let writer = history(391, 3, 20).await;
    let store = store_of(&writer);
    let policy = Policy { keep_last: Some(Count::Number(1)), ..Policy::default() };
    prune(&store, &policy, writer.now).await;
    let newest = writer.model().generation.to_string();
    for key in keys(&*store).await {
        assert!(key.as_str() == "replicate.json" || key.as_str().starts_with(&newest), "{key} is left");
    }
    assert!(keys(&*store).await.iter().any(|key| key.as_str().contains("/term/")));
    assert_sound(&store, true, "one generation").await;
}

/// Verification is silent while a replica grows and is pruned, and finds what is lost afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_28_verify_does_not_cry_wolf() {
    let mut writer = history(401, 1, 30).await;
    let store = store_of(&writer);
    let policy =
        Policy { commits: Some(Duration::from_secs(20)), keep_last: Some(Count::Number(2)), ..Policy::default() };
    let pruned = store.clone();
    let growing = tokio::spawn(async move {
        for round in 0..200 {
            writer.commit().await;
            if round % 9 == 0 {
                writer.snapshot(3).await;
            }
            if round % 5 == 0 {
                look_at(&pruned, &policy, writer.now, Duration::from_secs(3)).await.expect("looked");
            }
            tokio::task::yield_now().await;
        }
        writer.seal().await;
    });
    let mut rounds = 0;
    while !growing.is_finished() || rounds < 3 {
        assert_sound(&store, true, "while it is pruned").await;
        rounds += 1;
    }
    growing.await.expect("written");
    let segments: Vec<Key> = keys(&*store).await.into_iter().filter(|key| key.as_str().contains("/0/")).collect();
    let lost = &segments[segments.len() / 2];
    store.delete(std::slice::from_ref(lost)).await.expect("lost");
    let mut out = Vec::new();
    let options = VerifyOptions::default();
    let error = verify::run(store, &options, &around(u64::MAX >> 20), &mut out).await.expect_err("found");
    assert_eq!(error.exit(), ExitCode::Damaged);
}

/// Names that are none of ours are never touched, and marks that cannot be read are never acted on.
#[tokio::test]
async fn what_is_not_understood_stays() {
    let writer = history(411, 1, 30).await;
    let (store, memory) = (store_of(&writer), writer.store.clone());
    let generation = writer.model().generation;
    let strange = Key::new(format!("{generation}/0/strange.seg")).expect("a key");
    put_bytes(&memory, &strange, b"?").await;
    put_bytes(&memory, &ObjectName::Mark { generation, time: TimeMs(1) }.key(), b"{\"format\":2}").await;
    let policy = Policy { keep_last: Some(Count::Number(1)), ..Policy::default() };
    prune(&store, &policy, writer.now).await;
    assert!(keys(&*store).await.contains(&strange));
    check(&store, &writer, &promised(&writer, &policy), "with strangers").await;
}

async fn put_bytes(store: &MemoryStore, key: &Key, bytes: &'static [u8]) {
    store.put(key, Body::Bytes(bytes.into()), PutMode::Create).await.expect("put");
}

/// A commit that has a label stays restorable as long as the label asks for it, and goes when it was retired.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_28_a_label_keeps_its_commit() {
    let writer = history(421, 2, 40).await;
    let store = store_of(&writer);
    let policy = Policy { keep_last: Some(Count::Number(1)), ..Policy::default() };
    let model = &writer.models[0];
    let state = model.at(oldest(model).0 + 2);
    let commit = Named { generation: model.generation, txid: state.commit.txid, time: state.commit.time };
    let (labels, name) = (Labels::new(store.clone()), "before-migration".parse().expect("a name"));
    let description = Description {
        created_by: "ann".to_owned(),
        ticket: None,
        purpose: None,
        description: None,
        retain: Retain::Forever,
    };
    labels.create(&name, commit, TimeMs(writer.now), &description).await.expect("created");
    prune(&store, &policy, writer.now).await;
    let mut promised = promised(&writer, &policy);
    promised.insert((0, state.commit.txid.0));
    check(&store, &writer, &promised, "with a label").await;
    assert_sound(&store, true, "with a label").await;
    labels.retire(&name, TimeMs(writer.now), "bob").await.expect("retired");
    prune(&store, &policy, writer.now + 9 * HOUR_MS).await;
    let first = format!("{}/", model.generation);
    assert!(!keys(&*store).await.iter().any(|key| key.as_str().starts_with(&first)));
}
