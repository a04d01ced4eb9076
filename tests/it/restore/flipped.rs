//! Every byte of every object of a small replica, changed once: verification names the object, and no restore brings wrong bytes.

use std::collections::BTreeSet;

use replicate::checksum::Sha256;
use replicate::commands::verify::{self, VerifyOptions};
use replicate::drill::{Record, Records};
use replicate::extent::PageGrid;
use replicate::fileset::{FileSet, FileSets, IncludedFile, Moment, encode_blob};
use replicate::label::{Description, Labels, Named, Retain};
use replicate::layout::{BlobHash, LABEL_FOLDER, LabelName, ObjectName};
use replicate::position::{Generation, Term};
use replicate::replica::Replica;
use replicate::retention::Mark;
use replicate::store::{Body, Key, PutMode};

use super::*;

/// Copies of a replica that are changed side by side.
const AT_A_TIME: usize = 4;
const LABEL: &str = "before-release";
const FILE: &[u8] = b"level: 7\n";

/// Puts one of everything that may stand beside the objects of the database itself.
async fn with_everything(store: &Arc<dyn Store>, generation: Generation, txid: Txid) {
    let now = TimeMs(1_763_700_000_000);
    let (labels, name): (_, LabelName) = (Labels::new(store.clone()), LABEL.parse().expect("a name"));
    let purpose = Some("release 7".to_owned());
    let description =
        Description { created_by: "ann".into(), ticket: None, purpose, description: None, retain: Retain::Forever };
    labels.create(&name, Named { generation, txid, time: now }, now, &description).await.expect("created");
    labels.verify(&name, now, "bob").await.expect("verified");
    labels.retire(&name, now, "eve").await.expect("retired");
    let mark = Mark { pruned: vec![(Txid(1), Txid(1))], delete: BTreeSet::from([format!("{generation}/part/gone")]) };
    Replica::new(store.clone()).put_mark(generation, now, &mark).await.expect("marked");
    let (sets, hash) = (FileSets::new(store.clone()), BlobHash(Sha256::of(FILE)));
    let blob = encode_blob(FILE).expect("a blob");
    sets.put_blob(generation, hash, blob).await.expect("put");
    let file = IncludedFile::new("app.yml".parse().expect("a path"), 0o644, now, FILE);
    let moment = Moment { generation, txid, term: Term(u32::MAX), time: now };
    sets.put(moment, &FileSet::new(vec![file])).await.expect("put");
    Records::new(store.clone()).put(&record()).await.expect("recorded");
}

fn record() -> Record {
    let text = |text: &str| text.to_owned();
    Record {
        format: 1,
        version: text("0.1.0"),
        engine: text("sqlite"),
        point: text("now"),
        passed: true,
        damaged: false,
        problem: None,
        began_ms: 1_763_700_000_000,
        duration_ms: 5,
        phases: Vec::new(),
        commit: None,
        bytes: 1,
        checked: true,
        files: 0,
        assertions: Vec::new(),
    }
}

/// Changes every byte of every object once; what is restored, where anything is, must be `content`.
async fn every_byte(whole: Arc<dyn Store>, content: Arc<Vec<u8>>) -> usize {
    let mut all: Vec<(Key, usize)> = Vec::new();
    for key in damage::keys(&*whole).await {
        let length = whole.get(&key, None).await.expect("read").len();
        all.extend((0..length).map(|at| (key.clone(), at)));
    }
    let all = Arc::new(all);
    let tasks = (0..AT_A_TIME).map(|task| {
        let (all, whole, content) = (all.clone(), whole.clone(), content.clone());
        tokio::spawn(async move {
            let folder = scratch();
            let store: Arc<dyn Store> = damage::copy(&*whole).await;
            for (key, at) in all.iter().skip(task).step_by(AT_A_TIME) {
                one_byte(&store, key, *at, folder.path(), &content).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("every changed byte is found");
    }
    all.len()
}

async fn one_byte(store: &Arc<dyn Store>, key: &Key, at: usize, folder: &Path, content: &[u8]) {
    let good = store.get(key, None).await.expect("read");
    let mut bytes = good.to_vec();
    bytes[at] ^= 1 << (at % 8);
    store.put(key, Body::Bytes(bytes.into()), PutMode::Replace).await.expect("put");
    let options =
        VerifyOptions { deep: true, json: true, scratch: folder.to_owned(), jobs: 2, ..VerifyOptions::default() };
    let error = verify::run(store.clone(), &options, &around(0), &mut Vec::new()).await;
    let error = error.expect_err(&format!("{key}, byte {at}: not found")).report();
    assert!(error.contains(key.as_str()), "{key}, byte {at}: {error}");
    let label = format!("label:{LABEL}");
    let at_label = key.as_str().starts_with(LABEL_FOLDER).then_some(label.as_str());
    for point in ["now"].into_iter().chain(at_label) {
        match restored(store, folder, point).await {
            Ok(restored) => assert!(restored == content, "{key}, byte {at}, {point}: wrong bytes"),
            Err(error) => {
                assert!(error.report().contains(key.as_str()), "{key}, byte {at}, {point}: {}", error.report())
            }
        }
    }
    store.put(key, Body::Bytes(good), PutMode::Replace).await.expect("put");
}

/// The bytes of everything that a restore makes: without its engine, a DuckDB database is a main file and a WAL.
async fn restored(store: &Arc<dyn Store>, folder: &Path, at: &str) -> Result<Vec<u8>, Error> {
    let options = RestoreOptions { at: Some(at.to_owned()), ..options(&folder.join("restored.db")) };
    let result = restore(store.clone(), &options).await;
    let (made, mut bytes) = (files(folder), Vec::new());
    for name in &made {
        bytes.extend(std::fs::read(folder.join(name)).expect("restored"));
        std::fs::remove_file(folder.join(name)).expect("removed");
    }
    assert_eq!(result.is_err(), made.is_empty(), "{made:?}");
    result.map(|_| bytes)
}

async fn restored_now(store: &Arc<dyn Store>) -> Vec<u8> {
    restored(store, scratch().path(), "now").await.expect("sound")
}

/// Which kinds of objects there are: the first folder below the generation, or the name.
async fn kinds(store: &Arc<dyn Store>) -> BTreeSet<String> {
    let keys = damage::keys(&**store).await;
    let kind = |key: &Key| match ObjectName::parse(key.as_str()) {
        Some(ObjectName::Marker | ObjectName::Drill(_)) | None => key.as_str().split('/').next().map(str::to_owned),
        Some(_) => key.as_str().split('/').nth(1).map(str::to_owned),
    };
    keys.iter().filter_map(kind).collect()
}

/// Of a replica of a SQLite database with segments of two levels and one of everything else: no byte is left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn loss_27_every_changed_byte_is_found() {
    let mut writer = Writer::new(232).await;
    let content = |fill: u8| [[1; 512], [fill; 512]].concat();
    writer.begin_with(PageGrid::new(0, 512).expect("a grid"), content(1)).await;
    writer.snapshot(0).await;
    for commit in 2..6 {
        writer.commit_content(content(commit)).await;
    }
    writer.seal().await;
    let (model, store) = (writer.model(), store_of(&writer));
    compaction::raise(&store, model.generation, 1, &mut history::Random(1)).await;
    with_everything(&store, model.generation, model.newest().commit.txid).await;
    assert_eq!(super::verify::deep(&store).await["sound"], true);
    let content = restored_now(&store).await;
    assert!(content == model.newest().content);
    let kinds = kinds(&store).await;
    let all = ["0", "1", "drill", "file", "files", "label", "part", "prune", "replicate.json", "snapshot", "term"];
    assert_eq!(kinds, all.map(str::to_owned).into());
    let changed = every_byte(store, Arc::new(content)).await;
    assert!(changed > 2500, "{changed}");
}

/// What an earlier version wrote has no checksum of its own: it is no damage, and it is not called proven.
#[tokio::test]
async fn what_is_unproven_is_told() {
    let writer = history(233, 1, 3).await;
    let store = store_of(&writer);
    let notes = |said: &serde_json::Value| said["notes"].to_string();
    let said = super::verify::deep(&store).await;
    assert!(!notes(&said).contains("unproven"), "{said:#}");
    let old = include_bytes!("../../../fixtures/document/old-marker.json");
    store.put(&ObjectName::Marker.key(), Body::Bytes(old[..].into()), PutMode::Replace).await.expect("put");
    let said = super::verify::deep(&store).await;
    assert_eq!(said["sound"], true);
    assert!(notes(&said).contains("unproven (replicate.json)"), "{said:#}");
}

/// The same of a replica of a DuckDB database, made by the program itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn loss_27_every_changed_byte_of_a_duckdb_replica_is_found() {
    let folder = scratch();
    let (database, replica) = (folder.path().join("a.duckdb"), folder.path().join("replica"));
    std::fs::write(&database, include_bytes!("../../../fixtures/duckdb/tiny.db")).expect("written");
    std::fs::write(folder.path().join("a.duckdb.wal"), include_bytes!("../../../fixtures/duckdb/tiny.db.wal"))
        .expect("written");
    let url = format!("file://{}", replica.display());
    let mut run = std::process::Command::new(env!("CARGO_BIN_EXE_replicate"));
    let output = run.args(["run", "--once"]).arg(&database).arg(&url).output().expect("replicate runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let directory = replicate::store::open(&url, &Default::default()).expect("a store");
    let store: Arc<dyn Store> = damage::copy(&*directory).await;
    let held = Replica::new(store.clone());
    let generation = *held.generations().await.expect("listed").last().expect("a generation");
    let newest = held.inventory(generation).await.expect("listed").newest.expect("a commit");
    with_everything(&store, generation, newest.txid).await;
    let content = restored_now(&store).await;
    let changed = every_byte(store, Arc::new(content)).await;
    assert!(changed > 2000, "{changed}");
}
