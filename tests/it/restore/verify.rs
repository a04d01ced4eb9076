//! Verification: silent on a sound replica, even on one that grows, and never on a damaged one.

use replicate::commands::verify::{self, VerifyOptions};
use replicate::error::ExitCode;
use replicate::layout::ObjectName;

use super::*;

async fn verified(store: &Arc<dyn Store>, options: VerifyOptions) -> (serde_json::Value, Option<ExitCode>) {
    let mut out = Vec::new();
    let scratch = scratch();
    let options = VerifyOptions { json: true, scratch: scratch.path().to_owned(), ..options };
    let result = verify::run(store.clone(), &options, &around(u64::MAX >> 20), &mut out).await;
    assert_eq!(files(scratch.path()), [""; 0], "nothing is left behind");
    match serde_json::from_slice(&out) {
        Ok(value) => (value, result.err().map(|error| error.exit())),
        Err(_) => panic!("{}", result.expect_err("nothing was printed").report()),
    }
}

pub async fn deep(store: &Arc<dyn Store>) -> serde_json::Value {
    verified(store, VerifyOptions { deep: true, ..VerifyOptions::default() }).await.0
}

/// A sound replica has no findings, whatever its history.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_replica_has_no_findings() {
    for seed in 200..230 {
        let writer = history(seed, 1 + seed % 3, 60).await;
        let store = store_of(&writer);
        for deep in [false, true] {
            let (said, exit) = verified(&store, VerifyOptions { deep, ..VerifyOptions::default() }).await;
            assert_eq!(exit, None, "seed {seed}: {said:#}");
            assert_eq!(said["sound"], true);
        }
        let commits: usize = writer.models.iter().map(|m| m.states.len()).sum();
        assert_eq!(deep(&store).await["commits"], commits, "seed {seed}");
    }
}

/// A replica that grows while it is verified is not called damaged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_27_a_growing_replica_is_sound() {
    let mut writer = history(231, 1, 30).await;
    let store = store_of(&writer);
    let growing = tokio::spawn(async move {
        for round in 0..300 {
            writer.commit().await;
            if round % 7 == 0 {
                writer.snapshot(3).await;
            }
            tokio::task::yield_now().await;
        }
    });
    let mut rounds = 0;
    while !growing.is_finished() || rounds < 3 {
        let said = deep(&store).await;
        assert_eq!(said["findings"].as_array().map(Vec::len), Some(0), "{said:#}");
        rounds += 1;
    }
    growing.await.expect("written");
}

/// Any missing object but a claim is found without reading the others.
#[tokio::test]
async fn loss_27_a_missing_object_is_found_by_names() {
    let writer = history(233, 1, 60).await;
    let newest = writer.model().newest().commit.txid;
    for key in damage::keys(&*writer.store).await {
        let store = damage::copy(&*writer.store).await;
        store.delete(std::slice::from_ref(&key)).await.expect("deleted");
        let store: Arc<dyn Store> = store;
        // The end and the snapshots are known only to whoever shipped them.
        let shipped = Some((writer.model().generation, newest));
        let options = VerifyOptions { shipped, ..VerifyOptions::default() };
        let (said, exit) = verified(&store, options).await;
        let unneeded = match ObjectName::parse(key.as_str()) {
            Some(ObjectName::Snapshot(_)) => true,
            Some(ObjectName::Segment(name)) => name.first.0 == 1,
            _ => false,
        };
        assert_eq!(exit, (!unneeded).then_some(ExitCode::Damaged), "{key}: {said:#}");
    }
}

/// A newest commit that is too old, or not the one that was shipped, is a finding only for who asked.
#[tokio::test]
async fn age_and_end_are_checked_where_asked() {
    let writer = history(234, 1, 10).await;
    let store = store_of(&writer);
    let day = std::time::Duration::from_secs(86_400);
    let old = VerifyOptions { max_age: Some(day), ..VerifyOptions::default() };
    assert_eq!(verified(&store, old).await.1, Some(ExitCode::Damaged));
    let newest = writer.model().newest().commit.txid;
    for (txid, exit) in [(newest, None), (newest.next(), Some(ExitCode::Damaged))] {
        let shipped = Some((writer.model().generation, txid));
        assert_eq!(verified(&store, VerifyOptions { shipped, ..VerifyOptions::default() }).await.1, exit);
    }
}
