use super::*;
use crate::replicator::due::{Rules, WayLimit};
use crate::status::Aims;

fn environment(name: &str) -> Option<String> {
    match name {
        "KEY" => Some("AKIA-key".to_owned()),
        "SECRET" => Some("hunter2".to_owned()),
        _ => None,
    }
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, &environment)
}

fn message(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

const WHOLE: &str = "
state-dir: /var/lib/replicate
shutdown-timeout: 1m
listen: '[::1]:9187'
defaults: { sync-interval: 500ms, segment-size: 8MiB, poll-interval: 2s, snapshot-interval: 12h, spool-limit: 1GiB }
databases:
  - path: /data/app.db
    sync-interval: 10ms
    max-lag: 30s
    rpo: 1m
    rto: 2h
    replicas:
      - url: s3://bucket/app
        endpoint: https://s3.example.org
        region: eu-central-1
        access-key-id: ${KEY}
        secret-access-key: ${SECRET}
        path-style: ${STYLE:-true}
        sse: aws:kms
        kms-key-id: k
        checksum: when-required
        connect-timeout: 5s
        request-timeout: 30s
        max-retries: 3
      - url: file:///mnt/backup/app
      - /mnt/third/app
  - path: /data/other.db
    state-dir: /ssd/other
";

/// Every documented key reads as documented; what a database does not say comes from `defaults`.
#[test]
fn every_key_is_understood() {
    let config = parse(WHOLE).unwrap();
    assert_eq!(config.shutdown_timeout, Duration::from_secs(60));
    let [app, other] = config.databases.as_slice() else { panic!("two databases") };
    assert_eq!((app.name.as_str(), app.path.as_path()), ("app.db", Path::new("/data/app.db")));
    assert_eq!(app.state_dir, Path::new("/var/lib/replicate/.app.db-replicate"));
    assert_eq!((app.settings.sync_interval, app.settings.segment_size), (Duration::from_millis(10), 8 << 20));
    assert_eq!((app.settings.snapshots.interval, app.settings.spool_limit), (Duration::from_secs(43_200), 1 << 30));
    assert_eq!(config.listen, Some("[::1]:9187".parse().unwrap()));
    let seconds = Duration::from_secs;
    let aims = Aims { max_lag: seconds(30), rpo: Some(seconds(60)), rto: Some(seconds(7200)) };
    assert_eq!((app.settings.aims(), config.databases[1].settings.aims()), (aims, Aims::default()));
    let options = &app.replicas[0].options;
    assert_eq!(options.secret_access_key.as_ref().map(|s| s.expose()), Some("hunter2"));
    assert_eq!((options.access_key_id.as_deref(), options.path_style), (Some("AKIA-key"), Some(true)));
    assert_eq!((options.max_retries, options.connect_timeout), (Some(3), Some(Duration::from_secs(5))));
    let urls: Vec<_> = app.replicas.iter().map(|replica| replica.url.as_str()).collect();
    assert_eq!(urls, ["s3://bucket/app", "file:///mnt/backup/app", "/mnt/third/app"]);
    assert_eq!(other.state_dir, Path::new("/ssd/other"));
    assert_eq!(other.settings.sync_interval, Duration::from_millis(500));
    assert!(other.default_replica && !app.default_replica);
    assert_eq!(other.replicas[0].url, "/data/other.db.replica");
}

/// A misspelt key is refused with the way to it and the nearest known one, at every depth.
#[test]
fn loss_30_unknown_keys_are_refused_with_the_nearest_known_one() {
    for (text, path, hint) in [
        ("databasse: []", "`databasse`", "\"databases\""),
        ("defaults: {sync-intervall: 1s}", "`defaults.sync-intervall`", "\"sync-interval\""),
        ("databases: [{path: a, snapshot_interval: 1h}]", "`databases[0].snapshot_interval`", "\"snapshot-interval\""),
        ("databases: [{path: a, replicas: [{url: b, regoin: c}]}]", "`databases[0].replicas[0].regoin`", "\"region\""),
        ("databases: [{path: a, replicas: [{url: b, zzzzzzzzzzz: c}]}]", "zzzzzzzzzzz", "known here: url"),
        ("databases: [{path: a}, {pth: b}]", "`databases[1].pth`", "\"path\""),
    ] {
        let message = message(text);
        assert!(message.contains(path) && message.contains(hint), "{message}");
    }
}

/// A database that is named by its path may have its name and path in a URL too.
#[test]
fn a_url_asks_for_the_name() {
    let config = parse("databases: [{path: /data/a.db, replicas: ['s3://b/{name}/x', 'file:///m/{path}']}]").unwrap();
    let urls: Vec<&str> = config.databases[0].replicas.iter().map(|replica| replica.url.as_str()).collect();
    assert_eq!(urls, ["s3://b/a.db/x", "file:///m/data/a.db"]);
}

/// Retention is set for all, for a database or for one replica; the nearest says. Each rule reads as documented.
#[test]
fn retention_of_each_replica() {
    let text = "
defaults: {retention: {commits: 24h, snapshots: 30d, keep-last: 2, keep-min: 3, hourly: 4, daily: 5, weekly: 6, monthly: 7, yearly: forever}}
databases:
  - path: a
    replicas: [/x, {url: /y, retention: {commits: 1h, keep-last: 2}}, {url: /z, retention: forever}]
  - {path: b, retention: {keep-within: 2d}}
  - {path: c, retention: forever}
";
    let config = parse(text).unwrap();
    let shown: Vec<String> = config
        .databases
        .iter()
        .flat_map(|d| d.replicas.iter().map(|r| super::retention::show(d.policy(r).as_ref())))
        .collect();
    let all = "commits: 1d, keep-within: 30d, keep-last: 2, keep-min: 3, hourly: 4, daily: 5, weekly: 6, monthly: 7, yearly: forever";
    assert_eq!(shown, [all, "commits: 1h, keep-last: 2", "forever", "keep-within: 2d", "forever"]);
    let silent = &parse("databases: [{path: a}]").unwrap().databases[0];
    assert_eq!(silent.settings.retention, Retention::Inherited);
    assert_eq!(
        super::retention::show(silent.policy(&silent.replicas[0]).as_ref()),
        "commits: 1d, keep-within: 30d, keep-last: 2"
    );
}

/// An empty policy, an impossible rule and a misspelt one are refused with the way to them.
#[test]
fn loss_28_impossible_retention_is_refused() {
    for (rules, part) in [
        ("{}", "has no rule"),
        ("{commits: null}", "has no rule"),
        ("[]", "neither `forever` nor a mapping"),
        ("never", "neither `forever` nor a mapping"),
        ("{keep-last: 0}", "neither `forever` nor a number"),
        ("{keep-last: -1}", "neither `forever` nor a number"),
        ("{daily: ever}", "neither `forever` nor a number"),
        ("{commits: forever}", "not a duration"),
        ("{commits: 0s}", "out of bounds"),
        ("{keep-within: 1d, snapshots: 1d}", "another word"),
        ("{keep_last: 1}", "\"keep-last\""),
    ] {
        for at in ["databases[0].retention", "databases[0].replicas[0].retention"] {
            let text = match at.contains("replicas") {
                true => format!("databases: [{{path: a, replicas: [{{url: /x, retention: {rules}}}]}}]"),
                false => format!("databases: [{{path: a, retention: {rules}}}]"),
            };
            let message = message(&text);
            assert!(message.contains(part) && message.contains(at), "{message}");
        }
    }
}

/// Values of the wrong kind, out of bounds or contradicting each other are refused with the way to them.
#[test]
fn impossible_values_are_refused() {
    for (text, part) in [
        ("[]", "not a mapping"),
        ("databases: {}", "`databases`: is not a list"),
        ("databases: [x]", "not a mapping"),
        ("databases: [{}]", "needs the key `path`"),
        ("databases: [{path: ''}]", "is empty"),
        ("databases: [{path: /}]", "not the path of a file"),
        ("databases: [{path: a, replicas: []}]", "0 entries"),
        ("databases: [{path: a, replicas: [{}]}]", "needs the key `url`"),
        ("databases: [{path: a, replicas: ['gs://b']}]", "gs://"),
        ("databases: [{path: a, replicas: [{url: 's3://b', path-style: 1}]}]", "neither true nor false"),
        ("databases: [{path: a, replicas: [{url: 's3://b', access-key-id: k}]}]", "secret-access-key"),
        ("databases: [{path: a, replicas: [{url: /b, region: k}]}]", "region"),
        ("databases: [{path: a, replicas: [{url: 's3://b', sse: x}]}]", "AES256"),
        ("defaults: {sync-interval: 0ms}", "out of bounds: 1ms to 1h"),
        ("defaults: {sync-interval: 1}", "not a duration"),
        ("defaults: {sync-interval: [1s]}", "not a text"),
        ("defaults: {spool-limit: 1MB}", "out of bounds"),
        ("defaults: {snapshot-after: 0%}", "1% to 10000%, 1MiB to 1024TiB, or never"),
        ("defaults: {snapshot-after: 100}", "1% to 10000%"),
        ("defaults: {snapshot-after: 1KB}", "1% to 10000%"),
        ("defaults: {spool-limit: 20MiB, segment-size: 16MiB}", "two segments"),
        ("databases: [{path: a, path: b}]", "duplicate"),
        ("databases: [{path: '${NONE}'}]", "NONE is not set"),
        ("a: [", "did not find"),
        ("on-error: panic", "neither keep-running nor stop"),
        ("listen: nowhere", "`listen`: \"nowhere\" is not an address"),
        ("listen: 127.0.0.1:99999", "not an address"),
        ("defaults: {sync-interval: 1m, max-lag: 60s}", "longer than sync-interval"),
        ("databases: [{path: a, max-lag: 1ms}]", "out of bounds"),
    ] {
        let message = message(text);
        assert!(message.contains(part), "{text}: {message}");
    }
}

/// The limit of the way from a snapshot is a share of it, a size, or none; what is not said is inherited.
#[test]
fn the_way_from_a_snapshot() {
    let settings = |text: &str| parse(text).unwrap().databases[0].settings.snapshots;
    for (written, way) in [
        ("50%", WayLimit::Percent(50)),
        ("1GiB", WayLimit::Bytes(1 << 30)),
        ("never", WayLimit::Never),
        ("null", WayLimit::Percent(100)),
    ] {
        let found = settings(&format!("databases: [{{path: a, snapshot-after: {written}}}]"));
        assert_eq!(found, Rules { way, ..Rules::default() });
    }
    let inherited = settings("defaults: {snapshot-after: 7MiB, snapshot-spacing: 0s}\ndatabases: [{path: a}]");
    assert_eq!((inherited.way, inherited.spacing), (WayLimit::Bytes(7 << 20), Duration::ZERO));
}

/// Two databases cannot share a file, a state directory or a replica.
#[test]
fn shared_places_are_refused() {
    for (text, part) in [
        ("databases: [{path: /a}, {path: /a}]", "`databases[1].path`: the same database as `databases[0].path`"),
        ("databases: [{path: /a, state-dir: /s}, {path: /b, state-dir: /s}]", "the same state directory"),
        ("databases: [{path: /a, replicas: [/r]}, {path: /b, replicas: [/r/]}]", "the same replica"),
        ("state-dir: /s\ndatabases: [{path: /a/x}, {path: /b/x}]", "the same state directory"),
    ] {
        let message = message(text);
        assert!(message.contains(part), "{message}");
    }
}

/// Nothing that prints the configuration or an error about it shows a secret.
#[test]
fn secrets_are_never_printed() {
    let printed = format!("{:?}", parse(WHOLE).unwrap());
    assert!(!printed.contains("hunter2"), "{printed}");
    let wrong = "databases: [{path: a, replicas: [{url: /b, access-key-id: k, secret-access-key: '${SECRET}'}]}]";
    assert!(!message(wrong).contains("hunter2"));
}

/// A database is found by path and by name; a name that two share is refused; an argument beats the file.
#[test]
fn databases_are_found_and_overridden() {
    let config = parse(WHOLE).unwrap();
    assert_eq!(config.find(Path::new("app.db")).unwrap().unwrap().path, Path::new("/data/app.db"));
    assert_eq!(config.find(Path::new("/data/./other.db")).unwrap().unwrap().name, "other.db");
    assert!(config.find(Path::new("nothing")).unwrap().is_none());
    let only = config.clone().only(Path::new("app.db"), &["/elsewhere".to_owned()]).unwrap();
    assert_eq!(only.databases.len(), 1);
    assert_eq!(only.databases[0].replicas[0].url, "/elsewhere");
    assert_eq!(only.databases[0].settings.sync_interval, Duration::from_millis(10));
    let new = config.clone().only(Path::new("/x/new.db"), &[]).unwrap();
    assert_eq!(new.databases[0].settings.sync_interval, Duration::from_millis(500));
    assert_eq!(new.databases[0].replicas[0].url, "/x/new.db.replica");
    assert!(config.only(Path::new("app.db"), &["gs://x".to_owned()]).is_err());
    let twins = parse("databases: [{path: /a/x}, {path: /b/x}]").unwrap();
    assert!(twins.find(Path::new("x")).unwrap_err().to_string().contains("/a/x, /b/x"));
}
