//! Drills: what a restore would come to, told, recorded in the replica, and nothing left behind.

use replicate::commands::drill::{self, DrillOptions};
use replicate::commands::list::{ListOptions, ListWhat};
use replicate::drill::Assertion;
use replicate::engine::Engine;
use replicate::engine::sqlite::Sqlite;
use replicate::error::ExitCode;
use replicate::extent::PageGrid;
use replicate::layout::{DRILL_FOLDER, ObjectName};
use serde_json::Value;

use super::*;

fn with_sqlite() -> Surroundings {
    let engine = |kind: EngineKind| (kind == EngineKind::Sqlite).then(|| Arc::new(Sqlite) as Arc<dyn Engine>);
    Surroundings { engine, ..around(u64::MAX >> 20) }
}

pub fn options(folder: &Path, assertions: &[(&str, Option<&str>)]) -> DrillOptions {
    let assertion = |(sql, expected): &(&str, Option<&str>)| Assertion {
        name: (*sql).to_owned(),
        sql: (*sql).to_owned(),
        expected: expected.map(str::to_owned),
    };
    let assertions = assertions.iter().map(assertion).collect();
    DrillOptions { at: None, scratch: folder.join("scratch"), assertions, record: true, json: true, progress: false }
}

/// Drills, and sees that the scratch directory is gone whatever came of it.
pub async fn drilled(store: &Arc<dyn Store>, options: &DrillOptions) -> (Value, Result<(), Error>) {
    let mut out = Vec::new();
    let result = drill::run(store.clone(), options, &with_sqlite(), &mut out).await;
    assert_eq!(files(&options.scratch), [""; 0], "nothing is left behind");
    (serde_json::from_slice(&out).unwrap_or_default(), result)
}

async fn history_of(store: &Arc<dyn Store>) -> Value {
    let mut out = Vec::new();
    let options = ListOptions { what: ListWhat::Summary, from: None, to: None, json: true };
    drill::list(store.clone(), &options, &with_sqlite(), &mut out).await.expect("listed");
    serde_json::from_slice(&out).expect("one JSON document")
}

/// A replica of a real database with three users, one more with every commit.
pub async fn users(folder: &Path) -> Writer {
    let path = folder.join("source.db");
    let connection = rusqlite::Connection::open(&path).expect("opened");
    connection.execute_batch("PRAGMA journal_mode = DELETE; CREATE TABLE users (name)").expect("made");
    let mut writer = Writer::new(61).await;
    writer.begin_with(PageGrid::new(0, 4096).expect("a grid"), std::fs::read(&path).expect("read")).await;
    writer.snapshot(0).await;
    for name in ["ann", "bob", "eve"] {
        connection.execute("INSERT INTO users VALUES (?1)", [name]).expect("inserted");
        writer.commit_content(std::fs::read(&path).expect("read")).await;
    }
    writer.seal().await;
    writer
}

/// A drill restores the point, lets the engine check it, puts the assertions to it, and its record stands in the replica with the time
/// of every phase. Verification knows what it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_passes_and_is_recorded() {
    let folder = scratch();
    let writer = users(folder.path()).await;
    let store = store_of(&writer);
    assert_eq!(history_of(&store).await["drills"], serde_json::json!([]));
    let asserted = options(
        folder.path(),
        &[("SELECT count(*) > 2 FROM users", None), ("SELECT max(name) FROM users", Some("eve"))],
    );
    let (said, result) = drilled(&store, &asserted).await;
    result.expect("passed");
    assert_eq!(
        (&said["passed"], &said["checked"], &said["damaged"]),
        (&Value::from(true), &Value::from(true), &Value::from(false))
    );
    assert_eq!(said["commit"]["txid"], writer.model().newest().commit.txid.0);
    let phases: Vec<&str> =
        said["phases"].as_array().expect("phases").iter().filter_map(|p| p["name"].as_str()).collect();
    assert_eq!(phases, ["planning", "restoring", "proving", "checking", "asserting"]);
    assert_eq!(said["assertions"][1]["found"], "eve");
    // An older point, of which one assertion does not hold.
    let older = DrillOptions { at: Some("txid:2".to_owned()), ..asserted.clone() };
    let (said, result) = drilled(&store, &older).await;
    let error = result.expect_err("one user is not three");
    assert_eq!(error.exit(), ExitCode::Failed);
    assert!(error.to_string().contains("count(*) > 2") && error.to_string().contains("1 more"), "{error}");
    assert_eq!((&said["passed"], said["assertions"][0]["found"].as_str()), (&Value::from(false), Some("0")));
    let all = history_of(&store).await;
    let outcomes: Vec<_> = all["drills"].as_array().expect("drills").iter().map(|d| d["passed"].clone()).collect();
    assert_eq!(outcomes, [true, false], "{all:#}");
    let verified = super::verify::deep(&store).await;
    assert_eq!(
        (&verified["sound"], &verified["notes"].to_string().contains("no name")),
        (&Value::from(true), &false),
        "{verified:#}"
    );
}

/// What is missing from the replica fails the drill as damage, with exit code 5 and a record of it; so does a changed byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_replica_fails_the_drill() {
    let folder = scratch();
    let writer = users(folder.path()).await;
    let is_part =
        |key: &replicate::store::Key| matches!(ObjectName::parse(key.as_str()), Some(ObjectName::Part { .. }));
    let part = damage::keys(&*writer.store).await.into_iter().find(is_part).expect("a part");
    writer.store.delete(std::slice::from_ref(&part)).await.expect("deleted");
    let store = store_of(&writer);
    let (said, result) = drilled(&store, &options(folder.path(), &[("SELECT 1", None)])).await;
    let error = result.expect_err("damaged");
    assert_eq!(error.exit(), ExitCode::Damaged);
    assert!(error.report().contains(part.as_str()), "{}", error.report());
    assert_eq!((&said["damaged"], &said["passed"]), (&Value::from(true), &Value::from(false)));
    assert_eq!(history_of(&store).await["drills"][0]["damaged"], true);
}

/// A file that is exact and that the engine refuses fails the drill without being damage; nothing is recorded where that is not
/// wanted, or where there is nothing to drill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_engine_refuses_fails_the_drill() {
    let folder = scratch();
    let writer = history(62, 1, 5).await;
    let store = store_of(&writer);
    let (said, result) = drilled(&store, &DrillOptions { record: false, ..options(folder.path(), &[]) }).await;
    assert_eq!(result.expect_err("refused").exit(), ExitCode::Failed);
    assert_eq!((&said["damaged"], &said["object"]), (&Value::from(false), &Value::Null), "{said:#}");
    assert_eq!(store.list(DRILL_FOLDER, None).await.expect("listed"), []);
    let empty: Arc<dyn Store> = Arc::new(replicate::store::memory::MemoryStore::default());
    std::fs::create_dir_all(folder.path().join("scratch")).expect("made");
    let (_, result) = drilled(&empty, &options(folder.path(), &[])).await;
    assert_eq!(result.expect_err("nothing").exit(), ExitCode::NothingToRestore);
    assert_eq!(empty.list("", None).await.expect("listed"), []);
}
