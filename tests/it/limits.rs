//! Limits and counts at the wire: with a server on loopback, every request is counted by its kind, bodies take their time, and
//! nothing is lost by it.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use replicate::store::limits::{Limits, Rate, Unit};
use replicate::store::requests::{Kind, Requests};
use replicate::store::{self, Body, Key, Opened, PutMode, Store, StoreOptions};

use crate::s3_server::{ACCESS_KEY, Fault, Op, Rule, S3Server, SECRET_KEY, When};

fn key(text: &str) -> Key {
    Key::new(text).expect("a name")
}

fn opened(server: &S3Server, upload: u64, download: u64) -> Opened {
    let rate = |units| Rate::new(units, Duration::from_secs(1));
    let limits = Limits { always: [rate(upload), rate(download), None], ..Limits::default() };
    let options = StoreOptions { limits, request_timeout: Some(Duration::from_secs(3)), ..server.options() };
    store::open_counted(&server.url("p"), &options).expect("opened")
}

async fn put(store: &dyn Store, name: &str, bytes: usize) {
    let body = Body::Bytes((0..bytes).map(|i| (i % 251) as u8).collect::<Vec<_>>().into());
    store.put(&key(name), body, PutMode::Create).await.expect("put");
}

fn assert_counted(server: &S3Server, requests: &Requests) {
    let ops = [
        Op::Put,
        Op::BeginUpload,
        Op::Part,
        Op::Complete,
        Op::Abort,
        Op::Get,
        Op::Head,
        Op::List,
        Op::Delete,
        Op::DeleteMany,
    ];
    for (kind, op) in Kind::ALL.into_iter().zip(ops) {
        assert_eq!(requests.of_kind(kind), server.requests_of(op) as u64, "{kind:?}");
    }
    assert_eq!(Kind::ALL.map(|kind| requests.of_kind(kind)).iter().sum::<u64>(), server.requests() as u64);
}

/// The counts by kind are those of the server: parts of an upload, pages of a listing, retries, and an upload that is given up.
#[tokio::test]
async fn every_kind_of_request_is_counted() {
    let server = S3Server::start(41);
    let opened = store::open_counted(&server.url("p"), &server.options()).expect("opened");
    let store = &opened.store;
    for name in ["a", "b", "c", "d", "e"] {
        put(&**store, name, 100).await;
    }
    put(&**store, "large", 17 << 20).await;
    server.inject(Rule::new(When::Before, Fault::Answer(503, "SlowDown", None)).times(2));
    assert_eq!(store.get(&key("a"), None).await.expect("got").len(), 100);
    store.get(&key("a"), Some(5..5)).await.expect("nothing");
    server.manners().page_size.store(2, Ordering::Relaxed);
    assert_eq!(store.list("", None).await.expect("listed").len(), 6);
    server.inject(Rule::new(When::Before, Fault::Answer(403, "AccessDenied", None)).op(Op::Part).skip(2).times(1));
    let body = Body::Bytes(vec![1; 17 << 20].into());
    store.put(&key("refused"), body, PutMode::Create).await.expect_err("refused");
    store.delete(&[key("a"), key("b")]).await.expect("deleted");
    assert_counted(&server, &opened.requests);
    let counted = |kind| opened.requests.of_kind(kind);
    assert_eq!((counted(Kind::Put), counted(Kind::Get), counted(Kind::List)), (5, 3, 3));
    assert_eq!((counted(Kind::CreateUpload), counted(Kind::CompleteUpload), counted(Kind::AbortUpload)), (2, 1, 1));
    assert!(opened.requests.bytes_moved(Unit::Upload) >= (17 << 20) + 500);
    assert_eq!(opened.requests.bytes_moved(Unit::Download), 100);
    assert_eq!(opened.requests.waiting_time(), Duration::ZERO);
}

/// Bodies take the time that the limits say, in one request, in parts and in answers, longer than any time-out; and arrive whole.
#[tokio::test]
async fn bodies_take_their_time() {
    let server = S3Server::start(42);
    let slow = opened(&server, 16 << 10, 16 << 10);
    let began = Instant::now();
    put(&*slow.store, "slow", 112 << 10).await;
    assert!(began.elapsed() > Duration::from_secs(6), "{:?}", began.elapsed());
    let began = Instant::now();
    let bytes = slow.store.get(&key("slow"), None).await.expect("got");
    assert_eq!(bytes, server.object("p/slow").expect("there"));
    // What comes last need not wait for itself.
    slow.store.get(&key("slow"), Some(0..1)).await.expect("got");
    assert!(began.elapsed() > Duration::from_secs(6), "{:?}", began.elapsed());
    let large = opened(&server, 8 << 20, 1 << 30);
    let began = Instant::now();
    put(&*large.store, "large", 17 << 20).await;
    assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(server.object("p/large").expect("there").len(), 17 << 20);
    assert_eq!(slow.requests.of_kind(Kind::Put), 1, "no time-out made it try again");
    assert!(slow.requests.waiting_time() > Duration::from_secs(12));
}

fn replicate(server: &S3Server, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_replicate"));
    for name in ["DATABASE", "URL", "CONFIG", "LISTEN"] {
        command.env_remove(format!("REPLICATE_{name}"));
    }
    command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    command.env("URL", server.url("app")).args(arguments).stdin(Stdio::null());
    command
}

/// A replicator with narrow limits gets everything into its replica, only later; a restore is not held back by them.
#[test]
fn nothing_is_lost_by_a_limit() {
    let server = Arc::new(S3Server::start(43));
    let folder = tempfile::tempdir().expect("a directory");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (database, restored, config) = (at("app.db"), at("restored.db"), at("replicate.yaml"));
    let connection = rusqlite::Connection::open(&database).expect("opened");
    connection.pragma_update(None, "journal_mode", "wal").expect("WAL");
    let table = "CREATE TABLE t(v); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60)
        INSERT INTO t SELECT randomblob(4000) FROM n";
    connection.execute_batch(table).expect("written");
    let yaml = format!(
        "defaults: {{limits: {{requests: 10/s}}}}
databases: [{{path: '{database}', replicas: [{{url: '${{URL}}', limits: {{upload: 100KB/s, download: 16KiB/s}}}}]}}]"
    );
    std::fs::write(&config, yaml).expect("written");
    let began = Instant::now();
    let output = replicate(&server, &["run", "--once", "--config", &config]).output().expect("started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(began.elapsed() > Duration::from_secs(2), "240 KB of noise cannot go faster");
    let shown = replicate(&server, &["check", "--config", &config]).output().expect("started").stdout;
    assert!(String::from_utf8_lossy(&shown).contains("limits: upload: 100KB/s; download: 16KiB/s\n"));
    let began = Instant::now();
    let output =
        replicate(&server, &["restore", "app.db", "--config", &config, "-o", &restored]).output().expect("started");
    let took = began.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let sum = |path: &str| -> (i64, String) {
        let connection = rusqlite::Connection::open(path).expect("opened");
        let sql = "SELECT count(*), hex(max(v)) FROM t";
        connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).expect("read")
    };
    assert_eq!(sum(&restored), sum(&database));
    println!("restored in {took:?}, without limits");
}
