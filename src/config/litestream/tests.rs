use super::values::{address, duration, endpoint, host, variables};
use super::*;

fn no_environment(_: &str) -> Option<String> {
    None
}

fn converted(text: &str) -> Converted {
    convert(text, &no_environment).unwrap_or_else(|error| panic!("{text}: {}", error.report()))
}

fn refused(text: &str) -> String {
    convert(text, &no_environment).unwrap_err().report()
}

/// One replica of one database, converted.
fn replica(entry: &str) -> Value {
    let converted = converted(&format!("dbs: [{{path: /a.db, replicas: [{entry}]}}]"));
    let tree: Value = serde_yaml_ng::from_str(&converted.yaml).unwrap();
    tree["databases"][0]["replicas"][0].clone()
}

/// Every way that Litestream has to name a bucket or a directory leads to the same place in ours.
#[test]
fn every_place_is_understood() {
    for (entry, url) in [
        ("{url: 's3://b/p/q'}", "s3://b/p/q/replicate"),
        ("{url: 's3://b'}", "s3://b/replicate"),
        ("{type: s3, bucket: b, path: /p/}", "s3://b/p/replicate"),
        ("{type: s3, bucket: $BUCKET, path: '${P}'}", "s3://${BUCKET}/${P}/replicate"),
        ("{url: 's3://b.s3.eu-west-1.amazonaws.com/p'}", "s3://b/p/replicate"),
        ("{path: /mnt/x}", "/mnt/x/replicate"),
        ("{type: file, path: '~/x'}", "${HOME}/x/replicate"),
        ("{url: 'file:///mnt/x y'}", "/mnt/x y/replicate"),
        ("{url: $REPLICA}", "${REPLICA}/replicate"),
    ] {
        assert_eq!(replica(entry)["url"], url, "{entry}");
    }
    let spaces = replica("{url: 's3://b.fra1.digitaloceanspaces.com/p'}");
    assert_eq!(
        (&spaces["region"], &spaces["endpoint"]),
        (&"fra1".into(), &"https://fra1.digitaloceanspaces.com".into())
    );
    let local = replica("{url: 's3://b.localhost:9000/p', force-path-style: false}");
    assert_eq!((&local["endpoint"], &local["path-style"]), (&"http://localhost:9000".into(), &false.into()));
    let query = replica("{url: 's3://b/p?endpoint=minio.local:9000&region=x'}");
    assert_eq!((&query["endpoint"], &query["region"]), (&"http://minio.local:9000".into(), &"x".into()));
    let kms = replica("{url: 's3://b/p', sse-kms-key-id: k}");
    assert_eq!((&kms["sse"], &kms["kms-key-id"]), (&"aws:kms".into(), &"k".into()));
}

/// What the top says for all replicas reaches each that does not say otherwise, and no directory.
#[test]
fn shared_settings_reach_every_replica() {
    let text = "
        access-key-id: ${ID}
        secret-access-key: ${SECRET}
        region: eu
        sync-interval: 5s
        dbs:
          - {path: /a.db, replica: {url: 's3://b/a'}}
          - {path: /b.db, replica: {url: 's3://b/b', region: us, sync-interval: 2s}}
          - {path: /c.db, replica: {path: /mnt/c}}";
    let converted = converted(text);
    let tree: Value = serde_yaml_ng::from_str(&converted.yaml).unwrap();
    let regions: Vec<_> = (0..3).map(|n| tree["databases"][n]["replicas"][0]["region"].as_str()).collect();
    assert_eq!(regions, [Some("eu"), Some("us"), None]);
    let syncs: Vec<_> = (0..3).map(|n| tree["databases"][n]["sync-interval"].as_str()).collect();
    assert_eq!(syncs, [Some("5s"), Some("2s"), Some("5s")]);
    assert_eq!(tree["databases"][0]["replicas"][0]["secret-access-key"], "${SECRET}");
    assert!(tree["databases"][2]["replicas"][0].get("access-key-id").is_none());
}

/// What would be a loss when it is left out is refused with the database and the next step; a secret is never repeated.
#[test]
fn what_must_not_be_left_out_is_refused() {
    for (entry, parts) in [
        ("{type: sftp, host: h, password: hunter2}", ["/a.db", "copy that directory", "sftp"].as_slice()),
        ("{url: 'abs://hunter2@account/c/p'}", &["/a.db", "Azure"]),
        ("{url: 'gs://b/p'}", &["https://storage.googleapis.com"]),
        ("{url: 'webdavs://h/p'}", &["WebDAV"]),
        ("{type: nats, url: 'nats://h/b', token: hunter2}", &["NATS"]),
        ("{type: ftp}", &["neither s3 nor file"]),
        ("{url: 's3://b/p', age: {recipients: [hunter2]}}", &["/a.db", "age", "encrypted"]),
        ("{url: 's3://b/p', sse-customer-key: hunter2}", &["sse-customer-key"]),
        ("{url: 's3://arn:aws:s3:eu:1:accesspoint/x/p'}", &["alias"]),
        ("{url: 's3://b/p', retention: soon}", &["retention", "1h30m"]),
        ("{url: 's3://b/p', access-key-id: hunter2}", &["secret-access-key"]),
        ("{type: s3}", &["bucket"]),
    ] {
        let report = refused(&format!("dbs: [{{path: /a.db, replicas: [{entry}]}}]"));
        assert!(parts.iter().all(|part| report.contains(part)), "{entry}: {report}");
        assert!(!report.contains("hunter2"), "{entry}: {report}");
    }
    assert!(refused("databases: []").contains("no key `dbs`"));
    assert!(refused("dbs: [{path: /a.db, dir: /b, replicas: [{path: /c}]}]").contains("one of `path` and `dir`"));
    let twice = refused("dbs: [{path: /a.db, replica: {path: /x}}, {path: /b.db, replica: {path: /x}}]");
    assert!(twice.contains("the same replica"), "{twice}");
}

/// What cannot be as it was is told: moved into bounds, said twice, unknown, or not set here.
#[test]
fn what_changes_is_told() {
    let text = "
        dbs:
          - path: /a.db
            monitor-interval: 1us
            replicas: [{path: /x, sync-interval: 3h, nmae: x}, {url: 's3://b/${P}', sync-interval: 1s}]";
    let converted = converted(text);
    for part in [
        "dbs[0].monitor-interval: is 1us and becomes 10ms",
        "becomes 1h:",
        "the shortest",
        "nmae: no key",
        "not set here: P",
    ] {
        assert!(converted.notes.iter().any(|note| note.contains(part)), "{part}: {:#?}", converted.notes);
    }
    let tree: Value = serde_yaml_ng::from_str(&converted.yaml).unwrap();
    assert_eq!(tree["databases"][0]["sync-interval"], "1s");
}

/// Values are read as Litestream reads them.
#[test]
fn values_are_read_as_litestream_does() {
    for (text, ms) in [("1h30m", 5_400_000), ("1.5h", 5_400_000), ("500ms", 500), ("10s", 10_000), ("1us", 1), ("0", 0)]
    {
        assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
    }
    for text in ["", "10", "1d", "s", "-1s", "1..5s", "1e99999h", "999999999999999999999h"] {
        assert_eq!(duration(text), None, "{text}");
    }
    assert_eq!(variables("$A/${B}/c$1$"), "${A}/${B}/c$1$");
    assert_eq!(
        (address(":9090"), address("localhost:1"), address("h:2")),
        ("0.0.0.0:9090".into(), "127.0.0.1:1".into(), "h:2".into())
    );
    for (text, full) in [
        ("10.0.0.1:9000", "http://10.0.0.1:9000"),
        ("s3.example.org", "https://s3.example.org"),
        ("http://h", "http://h"),
    ] {
        assert_eq!(endpoint(text), full);
    }
    assert_eq!(host("a.b.s3.eu-central-003.backblazeb2.com").0, "a.b");
    assert_eq!(host("plain.bucket"), ("plain.bucket".to_owned(), None, None));
}
