//! Listings show what there is, and what is missing.

use replicate::commands::list::{ListOptions, ListWhat, run};
use replicate::layout::ObjectName;
use replicate::position::CommitKind;
use replicate::restore::point::format_time;

use super::*;

async fn listed(store: &Arc<dyn Store>, what: ListWhat, from: Option<String>, to: Option<String>) -> serde_json::Value {
    let mut out = Vec::new();
    let options = ListOptions { what, from, to, json: true };
    run(store.clone(), &options, &around(u64::MAX >> 20), &mut out).await.expect("listed");
    serde_json::from_slice(&out).expect("one JSON document")
}

/// Every commit is listed with its time, size, kind and reason; a span of time cuts the list.
#[tokio::test]
async fn commits_are_listed() {
    let writer = history(301, 2, 80).await;
    let store = store_of(&writer);
    let all = listed(&store, ListWhat::Commits, None, None).await;
    for (model, said) in writer.models.iter().zip(all["generations"].as_array().expect("generations")) {
        let lines = said["commits"].as_array().expect("commits");
        assert_eq!(lines.len(), model.states.len());
        for (state, line) in model.states.iter().zip(lines) {
            assert_eq!(line["txid"], state.commit.txid.0);
            assert_eq!(line["time"], format_time(state.commit.time));
            assert_eq!(line["bytes"], state.content.len());
            assert_eq!(line["reason"].is_string(), matches!(state.commit.kind, CommitKind::Repair(_)));
            assert_eq!(line["restorable"], true);
        }
    }
    let states = &writer.model().states;
    let (from, to) = (states[20].commit.time, states[50].commit.time);
    let some = listed(&store, ListWhat::Commits, Some(format_time(from)), Some(format_time(to))).await;
    let expected = states.iter().filter(|s| (from..=to).contains(&s.commit.time)).count();
    assert_eq!(some["generations"][1]["commits"].as_array().map(Vec::len), Some(expected));
}

/// A summary shows windows, repairs with their reasons, and gaps.
#[tokio::test]
async fn the_summary_shows_repairs_and_gaps() {
    let writer = history(302, 1, 80).await;
    let model = writer.model();
    let sound = listed(&store_of(&writer), ListWhat::Summary, None, None).await;
    let repairs = model.states.iter().filter(|s| matches!(s.commit.kind, CommitKind::Repair(_))).count();
    assert_eq!(sound["generations"][0]["repairs"].as_array().map(Vec::len), Some(repairs));
    assert_eq!(sound["generations"][0]["gaps"].as_array().map(Vec::len), Some(0));
    let window = &sound["generations"][0]["windows"][0];
    assert_eq!(window["to"]["txid"], model.newest().commit.txid.0);

    let store = damage::copy(&*writer.store).await;
    let last = *model.snapshots.last().expect("one");
    let name = |key: &replicate::store::Key| match ObjectName::parse(key.as_str()) {
        Some(ObjectName::Segment(name)) => Some(name),
        _ => None,
    };
    let keys = damage::keys(&*store).await;
    let lost = keys.iter().find(|key| name(key).is_some_and(|name| name.first > last)).expect("a segment");
    store.delete(std::slice::from_ref(lost)).await.expect("deleted");
    let lost = name(lost).expect("a segment");
    let store: Arc<dyn Store> = store;
    let damaged = listed(&store, ListWhat::Summary, None, None).await;
    let gap = &damaged["generations"][0]["gaps"][0];
    if lost.last != model.newest().commit.txid {
        assert_eq!((gap["first"].as_u64(), gap["last"].as_u64()), (Some(lost.first.0), Some(lost.last.0)));
    }
    let mut out = Vec::new();
    let options = ListOptions { what: ListWhat::Summary, from: None, to: None, json: false };
    run(store, &options, &around(0), &mut out).await.expect("listed");
    let text = String::from_utf8_lossy(&out);
    assert!(text.contains("restorable  txid:1 ("), "{text}");
}

/// Generations, snapshots and segments are listed by name.
#[tokio::test]
async fn names_are_listed() {
    let writer = history(303, 2, 40).await;
    let store = store_of(&writer);
    let generations = listed(&store, ListWhat::Generations, None, None).await;
    assert_eq!(generations["generations"].as_array().map(Vec::len), Some(2));
    let snapshots = listed(&store, ListWhat::Snapshots, None, None).await;
    for (model, said) in writer.models.iter().zip(snapshots["generations"].as_array().expect("some")) {
        assert_eq!(said["snapshots"].as_array().map(Vec::len), Some(model.snapshots.len()));
    }
    let segments = listed(&store, ListWhat::Segments, None, None).await;
    let last = segments["generations"][1]["segments"].as_array().and_then(|all| all.last()).expect("some");
    assert_eq!(last["last"], writer.model().newest().commit.txid.0);
}
