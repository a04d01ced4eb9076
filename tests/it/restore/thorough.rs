//! Verification of what is not read whole, of what is there twice, and of the other engine's replicas.

use bytes::Bytes;
use replicate::commands::verify::{self, VerifyOptions};
use replicate::drill::Records;
use replicate::error::ExitCode;
use replicate::extent::PageGrid;
use replicate::layout::ObjectName;
use replicate::store::{Body, Key, PutMode};
use replicate::verify::sample::Sample;

use super::*;

const DAY_MS: u64 = 24 * 3600 * 1000;
const FIRST_DAY: u64 = 20_000;

/// A quarter of everything.
const QUARTER: u32 = 2500;

/// What a verification of a quarter says on one day.
async fn quarter(store: &Arc<dyn Store>, day: u64) -> Result<serde_json::Value, Error> {
    let mut out = Vec::new();
    let options = VerifyOptions { deep: true, sample: Some(QUARTER), json: true, ..VerifyOptions::default() };
    verify::run(store.clone(), &options, &around(day * DAY_MS), &mut out).await?;
    Ok(serde_json::from_slice(&out).expect("one JSON document"))
}

async fn replace(store: &dyn Store, key: &Key, bytes: impl Into<Bytes>) {
    store.put(key, Body::Bytes(bytes.into()), PutMode::Replace).await.expect("put");
}

/// A sample reads less, is silent on a sound replica on every day, and finds a changed byte of any object within as many days as it takes to
/// read everything: on the object's own day for certain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_27_a_sample_finds_every_changed_object_in_its_turn() {
    let folder = scratch();
    let writer = super::drill::users(folder.path()).await;
    let store = damage::copy(&*writer.store).await;
    let shared: Arc<dyn Store> = store.clone();
    let (_, result) = super::drill::drilled(&shared, &super::drill::options(folder.path(), &[])).await;
    result.expect("passed");
    let days = FIRST_DAY..FIRST_DAY + 4;
    let mut read = 0;
    for day in days.clone() {
        let said = quarter(&shared, day).await.expect("sound");
        read += said["read_bytes"].as_u64().expect("a number");
        assert_eq!((said["sample"]["days"].as_u64(), said["sample"]["percent"].as_f64()), (Some(4), Some(25.0)));
    }
    let all = super::verify::deep(&shared).await["read_bytes"].as_u64().expect("a number");
    assert!(read >= all, "{read} of {all} bytes");
    assert_eq!(Records::new(shared.clone()).list().await.expect("listed").len(), 1);
    for key in damage::keys(&*store).await {
        let good = store.get(&key, None).await.expect("read");
        let mut bytes = good.to_vec();
        bytes[good.len() / 2] ^= 0x10;
        replace(&*store, &key, bytes).await;
        let mut turns = 0;
        for day in days.clone().filter(|&day| Sample::of(QUARTER, TimeMs(day * DAY_MS)).holds(&key)) {
            let error = quarter(&shared, day).await.expect_err(&format!("{key} on day {day}: not found"));
            assert!(error.report().contains(key.as_str()), "{key}: {}", error.report());
            turns += 1;
        }
        assert!(turns > 0, "{key} has no turn");
        replace(&*store, &key, good).await;
    }
}

/// Two histories that say the same of all commits but one, with the same names, one segment for each commit.
async fn twins() -> [Writer; 2] {
    let mut twins = [Writer::new(301).await, Writer::new(301).await];
    for (number, writer) in twins.iter_mut().enumerate() {
        let content = |fill: u8| [[1; 512], [fill; 512]].concat();
        writer.begin_with(PageGrid::new(0, 512).expect("a grid"), content(1)).await;
        writer.snapshot(0).await;
        for commit in 2..12u8 {
            let other = commit == 6 && number == 1;
            writer.commit_content(content(if other { 200 } else { commit })).await;
            writer.seal().await;
        }
    }
    twins
}

/// A segment that is whole by itself and belongs to another history is found by what its neighbours state of its commits, also where only
/// a part is read: on the day of the segment behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_25_a_sample_proves_the_chain() {
    let [one, other] = twins().await;
    let keys = damage::keys(&*one.store).await;
    assert_eq!(keys, damage::keys(&*other.store).await, "the same names");
    let begins = |key: &&Key, first: u64| matches!(ObjectName::parse(key.as_str()), Some(ObjectName::Segment(name)) if name.first.0 == first);
    let [foreign, behind] = [6, 7].map(|first| keys.iter().find(|key| begins(key, first)).expect("a segment").clone());
    let store = damage::copy(&*one.store).await;
    replace(&*store, &foreign, other.store.get(&foreign, None).await.expect("read")).await;
    let store: Arc<dyn Store> = store;
    assert_eq!(super::verify::deep(&store).await["sound"], false);
    let turn = |day: &u64| Sample::of(QUARTER, TimeMs(day * DAY_MS)).holds(&behind);
    let day = (FIRST_DAY..FIRST_DAY + 4).find(turn).expect("a turn");
    let error = quarter(&store, day).await.expect_err("found").report();
    assert!(error.contains(behind.as_str()) && error.contains("commit 6"), "{error}");
    assert!(quarter(&store_of(&one), day).await.is_ok());
}

/// Of a replica that was compacted much is there twice. Each object removed is found, or every commit still restores exactly without it;
/// each object that is cut is found and named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_27_what_is_missing_is_found_or_not_needed() {
    let (mut found, mut unneeded) = (0, 0);
    for seed in 302..305 {
        let writer = history(seed, 1, 50).await;
        let (model, mut random) = (writer.model().clone(), history::Random(seed));
        let whole = store_of(&writer);
        for level in 1..=3 {
            compaction::raise(&whole, model.generation, level, &mut random).await;
        }
        for key in damage::keys(&*whole).await {
            match is_missed(&whole, &model, &key).await {
                true => found += 1,
                false => unneeded += 1,
            }
            a_cut_is_found(&whole, &key).await;
        }
        the_end_is_missed(&whole, &model).await;
    }
    assert!(found > 20 && unneeded > 10, "{found} found, {unneeded} unneeded");
}

fn deep_with_end(model: &GenerationModel) -> VerifyOptions {
    let shipped = Some((model.generation, model.newest().commit.txid));
    VerifyOptions { deep: true, shipped, json: true, ..VerifyOptions::default() }
}

/// Is an object found to be missing? Where it is not, every commit restores without it.
async fn is_missed(whole: &Arc<dyn Store>, model: &GenerationModel, key: &Key) -> bool {
    let store = damage::copy(&**whole).await;
    store.delete(std::slice::from_ref(key)).await.expect("deleted");
    let store: Arc<dyn Store> = store;
    let newest = model.newest().commit.txid.0;
    if let Err(error) = verify::run(store.clone(), &deep_with_end(model), &around(0), &mut Vec::new()).await {
        assert_eq!(error.exit(), ExitCode::Damaged, "{key}: {}", error.report());
        return true;
    }
    // A snapshot is a beginning: what stands before the next one goes with it.
    let is_segment = matches!(ObjectName::parse(key.as_str()), Some(ObjectName::Segment(_)));
    let commits = if is_segment { oldest(model).0..=newest } else { newest..=newest };
    compaction::are_exact(&store, model, commits, &format!("without {key}")).await;
    false
}

async fn a_cut_is_found(whole: &Arc<dyn Store>, key: &Key) {
    let store = damage::copy(&**whole).await;
    let good = whole.get(key, None).await.expect("read");
    for left in [good.len() - 1, good.len() / 2, 0] {
        replace(&*store, key, good.slice(..left)).await;
        let options = VerifyOptions { deep: true, json: true, ..VerifyOptions::default() };
        let error = verify::run(store.clone(), &options, &around(0), &mut Vec::new()).await;
        let error = error.expect_err(&format!("{key} cut to {left}: not found")).report();
        assert!(error.contains(key.as_str()), "{key} cut to {left}: {error}");
    }
}

/// The newest commit is taken away at every level: found by names, for who knows what was shipped.
async fn the_end_is_missed(whole: &Arc<dyn Store>, model: &GenerationModel) {
    let (store, newest) = (damage::copy(&**whole).await, model.newest().commit.txid);
    let at_the_end = |key: &Key| match ObjectName::parse(key.as_str()) {
        Some(ObjectName::Segment(name)) => name.last == newest,
        Some(ObjectName::Snapshot(name)) => name.txid == newest,
        _ => false,
    };
    let end: Vec<Key> = damage::keys(&*store).await.into_iter().filter(at_the_end).collect();
    store.delete(&end).await.expect("deleted");
    let options = VerifyOptions { deep: false, ..deep_with_end(model) };
    let error = verify::run(store, &options, &around(0), &mut Vec::new()).await.expect_err("cut");
    assert!(error.report().contains("lost its end"), "{}", error.report());
}

/// The bytes of a replica of a DuckDB database, some of each object changed, are found like those of any other; so is every missing object.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_27_a_duckdb_replica_is_verified_too() {
    let folder = scratch();
    let (database, replica) = (folder.path().join("a.duckdb"), folder.path().join("replica"));
    std::fs::write(&database, include_bytes!("../../../fixtures/duckdb/2.0.0.db")).expect("written");
    std::fs::write(folder.path().join("a.duckdb.wal"), include_bytes!("../../../fixtures/duckdb/2.0.0.db.wal"))
        .expect("written");
    let url = format!("file://{}", replica.display());
    let mut run = std::process::Command::new(env!("CARGO_BIN_EXE_replicate"));
    let output = run.args(["run", "--once"]).arg(&database).arg(&url).output().expect("replicate runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let directory = replicate::store::open(&url, &Default::default()).expect("a store");
    let store = damage::copy(&*directory).await;
    let shared: Arc<dyn Store> = store.clone();
    let options = VerifyOptions { deep: true, json: true, ..VerifyOptions::default() };
    verify::run(shared.clone(), &options, &around(0), &mut Vec::new()).await.expect("sound");
    let mut changed = 0;
    for key in damage::keys(&*store).await {
        let good = store.get(&key, None).await.expect("read");
        // The ends of an object, where its index is, and its content now and then.
        let near = |at: &usize| *at < 64 || at + 64 >= good.len() || at.is_multiple_of(997);
        for at in (0..good.len()).filter(near) {
            let mut bytes = good.to_vec();
            bytes[at] ^= 1 << (at % 8);
            replace(&*store, &key, bytes).await;
            let error = verify::run(shared.clone(), &options, &around(0), &mut Vec::new()).await;
            let error = error.expect_err(&format!("{key}, byte {at}: not found")).report();
            assert!(error.contains(key.as_str()), "{key}, byte {at}: {error}");
            changed += 1;
        }
        replace(&*store, &key, good.clone()).await;
        store.delete(std::slice::from_ref(&key)).await.expect("deleted");
        let is_needed =
            !matches!(ObjectName::parse(key.as_str()), Some(ObjectName::Snapshot(_) | ObjectName::Term { .. }));
        let removed = verify::run(shared.clone(), &options, &around(0), &mut Vec::new()).await;
        let first = matches!(ObjectName::parse(key.as_str()), Some(ObjectName::Segment(name)) if name.first.0 == 1);
        assert!(removed.is_err() || !is_needed || first, "{key}: not missed");
        replace(&*store, &key, good).await;
    }
    assert!(changed > 300, "{changed}");
}
