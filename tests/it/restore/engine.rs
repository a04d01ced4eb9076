//! The engine has the last word.

use replicate::engine::Engine;
use replicate::engine::sqlite::Sqlite;
use replicate::error::ExitCode;
use replicate::extent::PageGrid;

use super::*;

fn sqlite(kind: EngineKind) -> Option<Arc<dyn Engine>> {
    match kind {
        EngineKind::Sqlite => Some(Arc::new(Sqlite)),
        EngineKind::Duckdb => None,
    }
}

/// Contents of a real database after each of some transactions.
fn contents(folder: &Path) -> Vec<Vec<u8>> {
    let path = folder.join("source.db");
    let connection = rusqlite::Connection::open(&path).expect("opened");
    connection.execute_batch("PRAGMA journal_mode = DELETE; CREATE TABLE t (id INTEGER PRIMARY KEY, v)").expect("made");
    let mut contents = vec![std::fs::read(&path).expect("read")];
    for round in 0..20 {
        for _ in 0..20 {
            connection.execute("INSERT INTO t (v) VALUES (randomblob(300))", []).expect("inserted");
        }
        if round == 10 {
            connection.execute_batch("DELETE FROM t; VACUUM").expect("shrunk");
        }
        contents.push(std::fs::read(&path).expect("read"));
    }
    contents
}

async fn with_engine(store: Arc<dyn Store>, options: &RestoreOptions) -> Result<serde_json::Value, Error> {
    let mut out = Vec::new();
    let around = Surroundings { engine: sqlite, ..around(u64::MAX >> 20) };
    run(store, options, &around, &mut out).await?;
    Ok(serde_json::from_slice(&out).expect("one JSON document"))
}

/// A real database restores to every commit, is accepted by SQLite, and nothing but the file is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_accepts_every_commit_of_a_real_database() {
    let (source, folder) = (scratch(), scratch());
    let contents = contents(source.path());
    let mut writer = Writer::new(51).await;
    writer.begin_with(PageGrid::new(0, 4096).expect("a grid"), contents[0].clone()).await;
    writer.snapshot(0).await;
    for (number, content) in contents.iter().enumerate().skip(1) {
        writer.commit_content(content.clone()).await;
        if number % 6 == 0 {
            writer.snapshot(4).await;
        }
    }
    writer.seal().await;
    let target = folder.path().join("a.db");
    for (number, content) in contents.iter().enumerate() {
        let at = Some(format!("txid:{}", number + 1));
        let options = RestoreOptions { at, check: true, ..options(&target) };
        let said = with_engine(store_of(&writer), &options).await.expect("restored");
        assert_eq!(said["checked_by_engine"], true);
        assert!(std::fs::read(&target).expect("there") == *content, "{number}");
        assert_eq!(files(folder.path()), ["a.db"]);
        std::fs::remove_file(&target).expect("removed");
    }
}

/// What SQLite refuses is not put in place, unless it was not to be asked; every byte is then as it was captured.
#[tokio::test]
async fn what_the_engine_refuses_is_not_put_in_place() {
    let writer = history(52, 1, 10).await;
    let folder = scratch();
    let target = folder.path().join("a.db");
    let options = RestoreOptions { check: true, ..options(&target) };
    let error = with_engine(store_of(&writer), &options).await.expect_err("no database");
    assert_eq!(error.exit(), ExitCode::Failed);
    assert_eq!(files(folder.path()), [""; 0]);
    let unchecked = RestoreOptions { check: false, ..options };
    let said = with_engine(store_of(&writer), &unchecked).await.expect("restored");
    assert_eq!(said["checked_by_engine"], false);
    assert!(std::fs::read(&target).expect("there") == writer.model().newest().content);
}
