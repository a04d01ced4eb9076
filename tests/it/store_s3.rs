//! What S3 and its relatives do wrong, and what comes of it.

use std::sync::Arc;
use std::time::Duration;

use replicate::store::requests::Operation;
use replicate::store::retry::{RealPace, RetryPolicy, Retrying};
use replicate::store::s3::S3Store;
use replicate::store::{self, Body, CreateOnly, Key, Outcome, PutMode, Secret, Sse, Store, StoreOptions};

use crate::s3_server::{BUCKET, Fault, Op, Rule, S3Server, SESSION_ACCESS_KEY, SESSION_TOKEN, When};

/// Long enough for every answer, short enough to wait for one that does not come.
const TIMEOUT: Duration = Duration::from_millis(1500);

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn options(server: &S3Server) -> StoreOptions {
    StoreOptions { endpoint: Some(server.endpoint()), request_timeout: Some(TIMEOUT), ..server.options() }
}

/// The store alone: every request once.
fn once(options: &StoreOptions) -> S3Store {
    S3Store::new(BUCKET.to_owned(), "p".to_owned(), options)
}

/// As `once`, but tried again at once and nearly for ever.
fn stubborn(server: &S3Server) -> Retrying {
    let policy = RetryPolicy {
        max_tries: 200,
        first_delay: Duration::from_millis(1),
        max_delay: Duration::from_millis(5),
        breaker_after: u32::MAX,
        ..RetryPolicy::default()
    };
    Retrying::new(Arc::new(once(&options(server))), policy, Arc::new(RealPace::default()))
}

async fn create(store: &dyn Store, name: &str, text: &str) -> Result<(), store::StoreError> {
    store.put(&key(name), Body::Bytes(text.to_owned().into()), PutMode::Create).await
}

/// Every answer has its outcome in every operation, the wait that the server asks for arrives, and a next step is told
/// wherever the operator has one.
#[tokio::test]
async fn every_answer_has_its_outcome() {
    let server = S3Server::start(1);
    let store = once(&options(&server));
    create(&store, "a", "x").await.unwrap();
    let table = [
        (301, "PermanentRedirect", Outcome::Invalid),
        (400, "InvalidArgument", Outcome::Invalid),
        (401, "Unauthorized", Outcome::Denied),
        (403, "AccessDenied", Outcome::Denied),
        (404, "NoSuchBucket", Outcome::Denied),
        (405, "MethodNotAllowed", Outcome::Invalid),
        (409, "ConditionalRequestConflict", Outcome::Unavailable),
        (411, "MissingContentLength", Outcome::Invalid),
        (429, "TooManyRequests", Outcome::Unavailable),
        (500, "InternalError", Outcome::Unavailable),
        (501, "NotImplemented", Outcome::Invalid),
        (502, "BadGateway", Outcome::Unavailable),
        (503, "SlowDown", Outcome::Unavailable),
        (504, "GatewayTimeout", Outcome::Unavailable),
    ];
    for (status, code, outcome) in table {
        server.clear_faults();
        server.inject(Rule::new(When::Before, Fault::Answer(status, code, Some(7))));
        let errors = [
            create(&store, "b", "x").await.unwrap_err(),
            store.get(&key("a"), None).await.unwrap_err(),
            store.list("", None).await.unwrap_err(),
            store.list_folders("").await.unwrap_err(),
            store.delete(&[key("a")]).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.outcome, outcome, "{status}: {error}");
            assert_eq!(error.retry_after, Some(Duration::from_secs(7)), "{status}: {error}");
            assert!(error.detail.contains(code), "{status}: {error}");
            assert!(outcome != Outcome::Denied || error.detail.contains('('), "no next step: {error}");
        }
    }
    server.clear_faults();
    server.inject(Rule::new(When::Before, Fault::Answer(412, "PreconditionFailed", None)));
    assert_eq!(create(&store, "b", "x").await.unwrap_err().outcome, Outcome::AlreadyExists);
}

/// No answer, half an answer and a bucket that vanished are told apart from an object that is not there.
#[tokio::test]
async fn broken_connections_and_bodies() {
    let server = S3Server::start(2);
    let store = once(&options(&server));
    create(&store, "a", &"x".repeat(100_000)).await.unwrap();
    for fault in [Fault::Reset, Fault::Hang, Fault::Truncate] {
        server.clear_faults();
        server.inject(Rule::new(When::Before, fault));
        for range in [None, Some(10..50_000)] {
            let error = store.get(&key("a"), range).await.unwrap_err();
            assert_eq!(error.outcome, Outcome::Unavailable, "{fault:?}: {error}");
        }
        let error = store.list("", None).await.unwrap_err();
        assert_eq!(error.outcome, Outcome::Unavailable, "{fault:?}: {error}");
    }
    server.clear_faults();
    // A flipped byte is found by the checksums inside our objects, not by the store.
    server.inject(Rule::new(When::Before, Fault::FlipByte).op(Op::Get));
    assert_ne!(store.get(&key("a"), None).await.unwrap(), "x".repeat(100_000));
    server.clear_faults();
    server.set_bucket_exists(false);
    let error = store.get(&key("a"), None).await.unwrap_err();
    assert!(error.outcome == Outcome::Denied && error.detail.contains("create the bucket"), "{error}");
    assert_eq!(create(&store, "b", "x").await.unwrap_err().outcome, Outcome::Denied);

    let nobody = StoreOptions { endpoint: Some("http://127.0.0.1:9".into()), ..options(&server) };
    let error = once(&nobody).list("", None).await.unwrap_err();
    assert_eq!(error.outcome, Outcome::Unavailable, "{error}");
}

/// loss 21: under every transient fault at once, before and after requests are carried out, nothing that was
/// acknowledged is lost, nothing is written twice with other bytes, and no upload stays unfinished.
#[tokio::test]
async fn loss_21_nothing_is_lost_or_doubled() {
    let seed = 21;
    eprintln!("seed {seed}");
    let server = S3Server::start(seed);
    let store = stubborn(&server);
    for when in [When::Before, When::After] {
        for (status, code) in [(500, "InternalError"), (503, "SlowDown"), (429, "TooManyRequests"), (409, "Conflict")] {
            server.inject(Rule::new(when, Fault::Answer(status, code, None)).probability(0.05));
        }
        server.inject(Rule::new(when, Fault::Reset).probability(0.05));
    }
    server.inject(Rule::new(When::Before, Fault::Truncate).probability(0.05));
    server.inject(Rule::new(When::After, Fault::Hang).times(2).skip(20));
    let names: Vec<String> = (0..150).map(|n| format!("n/{n:03}")).collect();
    let puts = names.iter().map(|name| create(&store, name, name));
    for done in futures_util::future::join_all(puts).await {
        done.unwrap();
    }
    let large: Vec<u8> = (0..18u32 << 18).flat_map(u32::to_le_bytes).collect();
    store.put(&key("large"), Body::Bytes(large.clone().into()), PutMode::Create).await.unwrap();
    for name in &names {
        assert_eq!(store.get(&key(name), None).await.unwrap(), name.as_str());
    }
    let listed: Vec<String> = store.list("n/", None).await.unwrap().iter().map(|m| m.key.to_string()).collect();
    assert_eq!(listed, names);
    assert!(store.get(&key("large"), None).await.unwrap() == large, "the large object differs");
    assert_eq!(server.overwrites(), 0);
    let keys: Vec<Key> = names.iter().map(|name| key(name)).collect();
    store.delete(&keys[..100]).await.unwrap();
    assert_eq!(server.names().len(), 51);
    assert!(server.faults_injected() > 50, "{} faults", server.faults_injected());
}

/// An upload in parts that fails, or whose caller goes away, is aborted.
#[tokio::test]
async fn unfinished_uploads_are_aborted() {
    let server = S3Server::start(3);
    let store = once(&options(&server));
    let large = Body::Bytes(vec![7; 20 << 20].into());
    for (op, fault) in [(Op::Part, Fault::Answer(500, "InternalError", None)), (Op::Complete, Fault::Reset)] {
        server.clear_faults();
        server.inject(Rule::new(When::Before, fault).op(op).skip(u32::from(op == Op::Part)));
        let error = store.put(&key("a"), large.clone(), PutMode::Create).await.unwrap_err();
        assert_eq!(error.outcome, Outcome::Unavailable, "{error}");
        assert_eq!((server.unfinished_uploads(), server.names().len()), (0, 0));
    }
    server.clear_faults();
    server.inject(Rule::new(When::Before, Fault::Hang).op(Op::Part));
    let a = key("a");
    let put = store.put(&a, large.clone(), PutMode::Create);
    assert!(tokio::time::timeout(TIMEOUT / 3, put).await.is_err());
    while server.requests_of(Op::Abort) < 3 || server.unfinished_uploads() > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The end of the upload was carried out, its answer lost: the next try finds its own bytes.
    server.clear_faults();
    server.inject(Rule::new(When::After, Fault::Reset).op(Op::Complete).times(1));
    stubborn(&server).put(&key("a"), large, PutMode::Create).await.unwrap();
    assert_eq!((server.unfinished_uploads(), server.overwrites()), (0, 0));
}

/// A server that refuses every checksum takes what is sent to it by default, and is deleted from one by one.
#[tokio::test]
async fn a_server_that_refuses_checksums() {
    let server = S3Server::start(4);
    server.set(|m| &m.refuses_checksums, true);
    let store = once(&options(&server));
    create(&store, "a/1", "x").await.unwrap();
    create(&store, "a/2", "x").await.unwrap();
    store.put(&key("a/large"), Body::Bytes(vec![7; 17 << 20].into()), PutMode::Create).await.unwrap();
    assert_eq!(store.get(&key("a/1"), None).await.unwrap(), "x");
    let keys = [key("a/1"), key("a/2"), key("a/none")];
    store.delete(&keys).await.unwrap();
    store.delete(&keys).await.unwrap();
    assert_eq!(server.names(), ["p/a/large"]);
    assert_eq!(server.requests_of(Op::DeleteMany), 1, "what the server does not know is not asked twice");
    let asked = StoreOptions { checksum: Some(store::ChecksumMode::WhenSupported), ..options(&server) };
    assert_eq!(create(&once(&asked), "b", "x").await.unwrap_err().outcome, Outcome::Invalid);
}

/// Keys, session tokens and their ends: refusals are `Denied`, say what to do and show no secret.
#[tokio::test]
async fn credentials() {
    let server = S3Server::start(5);
    let wrong = StoreOptions { secret_access_key: Some(Secret::new("hunter2")), ..options(&server) };
    let error = create(&once(&wrong), "a", "x").await.unwrap_err();
    assert_eq!(error.outcome, Outcome::Denied, "{error}");
    assert!(!error.to_string().contains("hunter2") && error.detail.contains("secret"), "{error}");

    let without_token = StoreOptions { access_key_id: Some(SESSION_ACCESS_KEY.into()), ..options(&server) };
    assert_eq!(create(&once(&without_token), "a", "x").await.unwrap_err().outcome, Outcome::Denied);
    let session = StoreOptions { session_token: Some(Secret::new(SESSION_TOKEN)), ..without_token };
    let store = once(&session);
    create(&store, "a", "x").await.unwrap();
    server.set(|m| &m.session_expired, true);
    let error = store.get(&key("a"), None).await.unwrap_err();
    assert!(error.outcome == Outcome::Denied && error.detail.contains("renew"), "{error}");
    assert!(!format!("{store:?} {error:?}").contains(SESSION_TOKEN));
    // Renewed where they come from, they serve again without a restart.
    server.set(|m| &m.session_expired, false);
    assert_eq!(store.get(&key("a"), None).await.unwrap(), "x");
}

/// The probe sees servers that ignore the condition, or check it first and write later.
#[tokio::test]
async fn probing_for_create_only() {
    let server = S3Server::start(6);
    let store = once(&options(&server));
    assert_eq!(store::probe(&store, &key("probe")).await.unwrap(), CreateOnly::Atomic);
    server.set(|m| &m.checks_then_writes, true);
    assert_eq!(store::probe(&store, &key("probe")).await.unwrap(), CreateOnly::NotHonoured);
    server.set(|m| &m.ignores_conditions, true);
    assert_eq!(store::probe(&store, &key("probe")).await.unwrap(), CreateOnly::NotHonoured);
    server.inject(Rule::new(When::Before, Fault::Answer(409, "ConditionalRequestConflict", None)).op(Op::Put));
    assert_eq!(store::probe(&store, &key("probe")).await.unwrap(), CreateOnly::Unknown);
    assert_eq!(server.names(), Vec::<String>::new());
}

/// Listings and ranges of servers that do not keep to the protocol are complete, or an error.
#[tokio::test]
async fn careless_servers() {
    let server = S3Server::start(7);
    let store = once(&options(&server));
    for name in ["a/1", "a/2", "a/3"] {
        create(&store, name, "0123456789").await.unwrap();
    }
    server.put_raw("p/a/Not A Key", "x");
    server.put_raw("q/a/4", "x");
    server.set(|m| &m.ignores_start_after, true);
    let behind = store.list("a/", Some("a/1")).await.unwrap();
    assert_eq!(behind.iter().map(|m| m.key.as_str()).collect::<Vec<_>>(), ["a/2", "a/3"]);
    server.set(|m| &m.ignores_ranges, true);
    assert_eq!(store.get(&key("a/1"), Some(2..4)).await.unwrap_err().outcome, Outcome::Invalid);
    server.set(|m| &m.lists_in_circles, true);
    let error = store.list("a/", None).await.unwrap_err();
    assert!(error.outcome == Outcome::Invalid && error.detail.contains("circles"), "{error}");
}

/// What may not be deleted is told by name; the rest of the batch is gone.
#[tokio::test]
async fn a_locked_object() {
    let server = S3Server::start(8);
    let store = once(&options(&server));
    for name in ["a", "x/locked", "z"] {
        create(&store, name, "x").await.unwrap();
    }
    let error = store.delete(&[key("a"), key("x/locked"), key("z")]).await.unwrap_err();
    assert_eq!((error.outcome, error.key.as_str()), (Outcome::Denied, "x/locked"), "{error}");
    assert_eq!(server.names(), ["p/x/locked"]);
}

/// Encryption is asked for with every object, small or in parts.
#[tokio::test]
async fn encryption_headers() {
    let server = S3Server::start(9);
    let small = Body::Bytes("x".into());
    let large = Body::Bytes(vec![7; 17 << 20].into());
    for (sse, kms_key_id, text) in [(Sse::Aes256, None, "AES256"), (Sse::AwsKms, Some("key".to_owned()), "aws:kms")] {
        let store = once(&StoreOptions { sse: Some(sse), kms_key_id, ..options(&server) });
        for (name, body) in [("small", &small), ("large", &large)] {
            store.put(&key(name), body.clone(), PutMode::Replace).await.unwrap();
            assert_eq!(server.encryption(&format!("p/{name}")).as_deref(), Some(text));
        }
    }
    once(&options(&server)).put(&key("small"), small, PutMode::Replace).await.unwrap();
    assert_eq!(server.encryption("p/small"), None);
}

/// Opening asks the server nothing, and every request is counted once.
#[tokio::test]
async fn opening_is_free_and_requests_are_counted() {
    let server = S3Server::start(10);
    let opened = store::open_counted(&server.url("p"), &server.options()).unwrap();
    assert_eq!((server.requests(), opened.requests.total()), (0, 0));
    create(&*opened.store, "a", "x").await.unwrap();
    server.inject(Rule::new(When::Before, Fault::Answer(503, "SlowDown", None)).times(2));
    opened.store.get(&key("a"), None).await.unwrap();
    assert_eq!(server.requests(), 4);
    assert_eq!(opened.requests.count(Operation::Get, Some(Outcome::Unavailable)), 2);
    assert_eq!(opened.requests.count(Operation::Get, None), 1);
    assert_eq!(opened.requests.total(), 4);
    assert!(opened.store.describe().starts_with("s3://bucket/p at http://127.0.0.1:"), "{}", opened.store.describe());
}

/// After an outage the store serves again, through the same connections and breaker.
#[tokio::test]
async fn an_outage_ends() {
    let server = S3Server::start(11);
    let store = stubborn(&server);
    create(&store, "a", "x").await.unwrap();
    server.set(|m| &m.outage, true);
    let b = key("b");
    let waiting = store.put(&b, Body::Bytes("y".into()), PutMode::Create);
    let end = async {
        while server.requests() < 10 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(server.names(), ["p/a"]);
        server.set(|m| &m.outage, false);
    };
    let (done, ()) = futures_util::future::join(waiting, end).await;
    done.unwrap();
    assert_eq!(server.object("p/b").unwrap(), "y");
}
