//! The small objects of a replica: their golden bytes, and what a damaged one does to a writer and to a restore.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use replicate::engine::EngineKind;
use replicate::error::ExitCode;
use replicate::label::{Description, Labels, Named, Retain};
use replicate::layout::{LabelEvent, LabelName, ObjectName};
use replicate::position::{Generation, Term, TimeMs, Txid};
use replicate::replica::{Claim, Replica, ReplicaError};
use replicate::retention::Mark;
use replicate::store::memory::MemoryStore;
use replicate::store::{Body, Key, PutMode, Store};

const GENERATION: Generation = Generation(0x0019_A8C3_5F00_1234);
const NOW: TimeMs = TimeMs(1_763_700_000_000);

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/document").join(name)
}

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).expect("a golden object")
}

fn claim() -> Claim {
    Claim { writer: "0f3c9a".to_owned(), claimed_ms: NOW.0 }
}

fn mark() -> Mark {
    let part = format!("{GENERATION}/part/00112233445566778899aabbccddeeff.seg");
    Mark { pruned: vec![(Txid(2), Txid(9))], delete: [part].into() }
}

fn keys() -> [(&'static str, Key); 5] {
    let label: LabelName = "pre-migration-42".parse().expect("a name");
    [
        ("marker.json", ObjectName::Marker.key()),
        ("claim.json", ObjectName::Term { generation: GENERATION, term: Term(1) }.key()),
        ("mark.json", ObjectName::Mark { generation: GENERATION, time: NOW }.key()),
        ("label-created.json", label.key(LabelEvent::Created)),
        ("label-verified.json", label.key(LabelEvent::Verified)),
    ]
}

async fn put(store: &dyn Store, key: &Key, bytes: Vec<u8>) {
    store.put(key, Body::Bytes(Bytes::from(bytes)), PutMode::Replace).await.expect("put");
}

/// One byte is another, and the JSON as good as before: only the checksum tells.
async fn damage(store: &dyn Store, key: &Key, good: &str, bad: &str) {
    let text = String::from_utf8(store.get(key, None).await.expect("read").to_vec()).expect("text");
    assert!(text.contains(good) && good.len() == bad.len(), "{text}");
    put(store, key, text.replace(good, bad).into_bytes()).await;
}

async fn written() -> Arc<dyn Store> {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let (replica, labels) = (Replica::new(store.clone()), Labels::new(store.clone()));
    replica.ensure_marker(EngineKind::Sqlite, "app.db").await.expect("a marker");
    assert!(replica.claim(GENERATION, Term(1), &claim(), 1).await.expect("claimed").0);
    assert_eq!(replica.put_mark(GENERATION, NOW, &mark()).await.expect("marked"), NOW);
    let name: LabelName = "pre-migration-42".parse().expect("a name");
    let commit = Named { generation: GENERATION, txid: Txid(7), time: NOW };
    let (ticket, purpose) = (Some("OPS-7".to_owned()), Some("schema 42".to_owned()));
    let retain = Retain::UntilVerified;
    let description = Description { created_by: "ann".to_owned(), ticket, purpose, description: None, retain };
    labels.create(&name, commit, NOW, &description).await.expect("created");
    labels.verify(&name, TimeMs(NOW.0 + 100_000), "bob").await.expect("verified");
    store
}

/// Today's writer writes the golden bytes, and any tool that reads JSON reads them.
#[tokio::test]
async fn small_objects_are_written_as_ever() {
    let store = written().await;
    for (name, key) in keys() {
        let found = store.get(&key, None).await.expect("read");
        if std::env::var_os("UPDATE_FIXTURES").is_some() {
            std::fs::write(path(name), &found).expect("fixtures can be written");
        }
        assert!(golden(name) == found, "{name} differs from what is written today");
        let json: serde_json::Value = serde_json::from_slice(&found).expect("JSON");
        assert_eq!((&json["format"], json["checksum"].as_str().map(str::len)), (&2.into(), Some(16)), "{name}");
    }
}

/// What format 1 wrote is read as the same, and known as unproven.
#[tokio::test]
async fn objects_without_checksums_are_read() {
    let store = written().await;
    let (replica, labels) = (Replica::new(store.clone()), Labels::new(store.clone()));
    let name: LabelName = "pre-migration-42".parse().expect("a name");
    let before = labels.find(&name).await.expect("a label");
    for ((_, key), old) in
        keys().iter().zip(["marker", "claim", "mark", "", "label-verified"]).filter(|(_, old)| !old.is_empty())
    {
        put(&*store, key, golden(&format!("old-{old}.json"))).await;
    }
    assert_eq!(replica.engine().await.expect("a marker"), Some(EngineKind::Sqlite));
    let held = replica.claimant(GENERATION, Term(1)).await.expect("read").expect("a claim");
    assert_eq!((held.value, held.is_proven), (claim(), false));
    let held = replica.read_mark(GENERATION, NOW).await.expect("read").expect("a mark");
    assert_eq!((held.value, held.is_proven), (mark(), false));
    assert_eq!(labels.prove(&name, LabelEvent::Verified).await.expect("read"), Some(false));
    assert_eq!(labels.find(&name).await.expect("a label"), before);
    let reading = replicate::restore::Reading::new(store);
    assert_eq!(reading.proven_marker().await.expect("a marker"), Some((EngineKind::Sqlite, false)));
}

/// The answer to a claim was lost: it is ours. Where its object is damaged nobody has the term, everybody is told, and the next term is free.
#[tokio::test]
async fn loss_16_a_damaged_claim_lets_nobody_in() {
    let store = written().await;
    let replica = Replica::new(store.clone());
    let (again, other) = (Claim { claimed_ms: 5, ..claim() }, Claim { writer: "other".to_owned(), claimed_ms: NOW.0 });
    assert!(replica.claim(GENERATION, Term(1), &again, 1).await.expect("ours").0);
    assert!(!replica.claim(GENERATION, Term(1), &other, 1).await.expect("not theirs").0);
    let key = ObjectName::Term { generation: GENERATION, term: Term(1) }.key();
    damage(&*store, &key, "0f3c9a", "0f3c9b").await;
    for writer in [&again, &other] {
        let error = replica.claim(GENERATION, Term(1), writer, 1).await.expect_err("nobody's");
        assert!(matches!(error, ReplicaError::Refused { .. }) && !error.is_retryable());
        assert!(error.to_string().contains(key.as_str()) && error.to_string().contains("next term"), "{error}");
    }
    assert_eq!(replica.terms(GENERATION).await.expect("listed"), [Term(1)], "its name still counts");
    assert!(replica.claim(GENERATION, Term(2), &other, 1).await.expect("claimed").0);
}

/// A writer does not touch a replica whose marker is damaged, says so, and writes the same marker again once it was removed.
#[tokio::test]
async fn a_damaged_marker_stops_a_writer() {
    let store = written().await;
    let (replica, key) = (Replica::new(store.clone()), ObjectName::Marker.key());
    damage(&*store, &key, "app.db", "apq.db").await;
    let error = replica.ensure_marker(EngineKind::Sqlite, "app.db").await.expect_err("damaged");
    assert!(matches!(error, ReplicaError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("replicate.json") && error.to_string().contains("damaged"), "{error}");
    store.delete(std::slice::from_ref(&key)).await.expect("deleted");
    replica.ensure_marker(EngineKind::Sqlite, "app.db").await.expect("written anew");
    assert!(store.get(&key, None).await.expect("read") == golden("marker.json"));
}

/// A mark that is damaged is never acted on, and verification is told.
#[tokio::test]
async fn a_damaged_mark_is_no_mark() {
    let store = written().await;
    let replica = Replica::new(store.clone());
    assert_eq!(replica.marks(GENERATION).await.expect("read").len(), 1);
    damage(&*store, &ObjectName::Mark { generation: GENERATION, time: NOW }.key(), "00000009", "00000008").await;
    assert!(replica.marks(GENERATION).await.expect("read").is_empty());
    assert!(replica.read_mark(GENERATION, NOW).await.expect("read").is_err());
}

/// Exit codes are those of damage, not of a store that cannot be reached.
#[tokio::test]
async fn a_replica_with_nothing_but_a_damaged_marker_is_damaged() {
    let store = written().await;
    damage(&*store, &ObjectName::Marker.key(), "app.db", "apq.db").await;
    let mut out = Vec::new();
    let around = replicate::commands::restore::Surroundings {
        now: NOW,
        zone: jiff::tz::TimeZone::UTC,
        random: 1,
        engine: |_| None,
    };
    let options = replicate::commands::restore::RestoreOptions::to("/nowhere/to/be/found.db");
    let error = replicate::commands::restore::run(store, &options, &around, &mut out).await.expect_err("damaged");
    assert_eq!(error.exit(), ExitCode::Damaged, "{}", error.report());
    assert!(error.report().contains("replicate.json"), "{}", error.report());
}
