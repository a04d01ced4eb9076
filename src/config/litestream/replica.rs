//! The replicas of one database of Litestream's.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_yaml_ng::{Mapping, Value};

use super::super::database::{SNAPSHOT_INTERVAL, SYNC_INTERVAL};
use super::super::units::show_duration;
use super::{Findings, Part, advice, values};

/// Ours are kept apart from Litestream's, below the place that credentials are known to reach.
const FOLDER: &str = "/replicate";
/// Keys that, at the top, stand for those of every replica.
const SHARED: [&str; 22] = [
    "sync-interval",
    "validation-interval",
    "auto-recover",
    "access-key-id",
    "secret-access-key",
    "region",
    "bucket",
    "endpoint",
    "force-path-style",
    "sign-payload",
    "require-content-md5",
    "skip-verify",
    "part-size",
    "concurrency",
    "sse-customer-algorithm",
    "sse-customer-key",
    "sse-customer-key-path",
    "sse-kms-key-id",
    "age",
    "account-name",
    "account-key",
    "host",
];
/// Those of them that only S3 has a use for.
const ONLY_S3: [&str; 10] = [
    "access-key-id",
    "secret-access-key",
    "region",
    "bucket",
    "endpoint",
    "force-path-style",
    "sign-payload",
    "require-content-md5",
    "part-size",
    "concurrency",
];
const RETENTION: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(100 * 365 * 24 * 3600);

/// What the top says for all replicas.
pub struct Shared(Mapping);

impl Shared {
    pub fn take(top: &mut Part) -> Shared {
        Shared(SHARED.iter().filter_map(|key| Some((Value::from(*key), top.take(key)?))).collect())
    }
}

/// The database of the replicas.
#[derive(Clone, Copy)]
pub struct Of<'a> {
    /// For messages.
    pub name: &'a str,
    /// What each URL needs at its end where the database is many.
    pub placeholder: &'a str,
}

/// Writes the replicas into `ours`, and what Litestream says of a replica but we of a database.
pub fn convert_all(replicas: Vec<Part>, shared: &Shared, of: Of<'_>, ours: &mut Mapping, findings: &mut Findings) {
    let mut converted: Vec<Value> = Vec::new();
    let (mut syncs, mut snapshots) = (Vec::new(), Vec::new());
    for mut part in replicas {
        for (key, value) in &shared.0 {
            part.entries.entry(key.clone()).or_insert_with(|| value.clone());
        }
        syncs.extend(part.duration("sync-interval", &SYNC_INTERVAL, findings));
        snapshots.extend(part.duration("snapshot-interval", &SNAPSHOT_INTERVAL, findings));
        converted.extend(convert(part, of, findings).map(Value::from));
    }
    for (key, mut values) in [("sync-interval", syncs), ("snapshot-interval", snapshots)] {
        values.sort_unstable();
        values.dedup();
        if values.len() > 1 {
            findings.note(of.name, format!("`{key}` is said for a database here, and the shortest one counts"));
        }
        if let Some(shortest) = values.first() {
            ours.insert(key.into(), show_duration(*shortest).into());
        }
    }
    ours.insert("replicas".into(), converted.into());
}

/// What `retention` says: how far back every commit, and every snapshot, is kept.
pub fn retention(part: &mut Part, findings: &mut Findings) -> Option<Value> {
    let time = show_duration(part.duration("retention", &RETENTION, findings)?);
    let rules = [("commits", time.clone()), ("keep-within", time)];
    Some(Value::Mapping(rules.into_iter().map(|(key, time)| (key.into(), time.into())).collect()))
}

fn convert(mut part: Part, of: Of<'_>, findings: &mut Findings) -> Option<Mapping> {
    let url = part.text("url", findings);
    let scheme = url.as_deref().and_then(|url| Some(url.split_once("://")?.0.to_owned()));
    let written = part.text("type", findings);
    let unknown = url.as_deref().is_some_and(|url| url.starts_with("${"));
    let kind = scheme.or(written).unwrap_or_else(|| if unknown { "variable" } else { "file" }.to_owned());
    for key in ["age", "sse-customer-key", "sse-customer-key-path"] {
        if part.take(key).is_some_and(|value| value.as_mapping().is_none_or(|keys| !keys.is_empty())) {
            let step = "objects are not encrypted here but by the store (`sse`, see docs/stores.md); if that will do, \
                        take the key out";
            findings.problem(&format!("{} of {}", part.path_to(key), of.name), step);
        }
    }
    part.take("sse-customer-algorithm");
    let mut ours = Mapping::new();
    match kind.as_str() {
        "s3" => s3(&mut part, url, of, &mut ours, findings)?,
        "file" => directory(&mut part, url, of, &mut ours, findings)?,
        "variable" => {
            let url = url.unwrap_or_default();
            findings.note(
                &part.path_to("url"),
                format!("is a variable; {FOLDER} is put behind it, and it must be S3 or a directory"),
            );
            ours.insert("url".into(), placed(&url, of).into());
        }
        other => {
            let kind = other.trim_end_matches('s');
            let known = advice::TYPES.iter().find(|(name, _)| *name == other || *name == kind);
            let step = known.map_or("it is neither s3 nor file", |(_, step)| *step);
            findings.problem(&format!("{} of {}", part.at, of.name), format!("type {other}: {step}"));
            return None;
        }
    }
    if let Some(rules) = retention(&mut part, findings) {
        ours.insert("retention".into(), rules);
    }
    part.tell_rest(advice::REPLICA, findings);
    Some(ours)
}

/// Where ours is, beside Litestream's.
fn placed(base: &str, of: Of<'_>) -> String {
    format!("{}{FOLDER}{}", base.trim_end_matches('/'), of.placeholder)
}

fn directory(
    part: &mut Part,
    url: Option<String>,
    of: Of<'_>,
    ours: &mut Mapping,
    findings: &mut Findings,
) -> Option<()> {
    ONLY_S3.iter().for_each(|key| _ = part.take(key));
    part.take("skip-verify");
    let path = part.text("path", findings);
    let path = match (url.as_deref().and_then(|url| url.strip_prefix("file://")), path) {
        (Some(path), None) => path.split('?').next().unwrap_or(path).to_owned(),
        (None, Some(path)) => path,
        _ => {
            findings.problem(&format!("{} of {}", part.at, of.name), "needs one of `url` and `path`");
            return None;
        }
    };
    ours.insert("url".into(), placed(&values::home(&path), of).into());
    Some(())
}

fn s3(part: &mut Part, url: Option<String>, of: Of<'_>, ours: &mut Mapping, findings: &mut Findings) -> Option<()> {
    let at = format!("{} of {}", part.at, of.name);
    let mut text = |key: &str| part.text(key, findings);
    let (bucket, path) = (text("bucket"), text("path"));
    let (mut region, mut endpoint, mut style) = (text("region"), text("endpoint"), text("force-path-style"));
    let (id, secret, kms) = (text("access-key-id"), text("secret-access-key"), text("sse-kms-key-id"));
    let mut place = bucket.map(|bucket| (bucket, path.clone().unwrap_or_default()));
    if let Some(url) = url {
        let rest = url.strip_prefix("s3://").unwrap_or(&url);
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, under) = rest.split_once('/').unwrap_or((rest, ""));
        if host.starts_with("arn:") {
            findings
                .problem(&at, "the ARN of an access point cannot stand in a URL here; name its alias as the bucket");
            return None;
        }
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "endpoint" => _ = endpoint.get_or_insert_with(|| value.into_owned()),
                "region" => _ = region.get_or_insert_with(|| value.into_owned()),
                "forcePathStyle" => _ = style.get_or_insert_with(|| value.into_owned()),
                name => findings
                    .note(&at, format!("`{name}` in the URL is left out; see docs/stores.md for what a URL can say")),
            }
        }
        let (bucket, of_host, at_host) = values::host(host);
        region = region.or(of_host);
        endpoint = endpoint.or(at_host);
        place.get_or_insert((bucket, path.unwrap_or_else(|| under.to_owned())));
    }
    let Some((bucket, path)) = place else {
        findings.problem(&at, "needs `url` or `bucket`");
        return None;
    };
    let base = [bucket.as_str(), path.trim_matches('/')].join("/");
    ours.insert("url".into(), placed(&format!("s3://{base}"), of).into());
    let kms_on = kms.as_ref().map(|_| "aws:kms".to_owned());
    if id.is_none() {
        findings.note(&at, "names no credentials: LITESTREAM_ACCESS_KEY_ID is not read here, AWS_ACCESS_KEY_ID is");
    }
    let options = [
        ("endpoint", endpoint.map(|endpoint| values::endpoint(&endpoint))),
        ("region", region),
        ("access-key-id", id),
        ("secret-access-key", secret),
        ("sse", kms_on),
        ("kms-key-id", kms),
    ];
    for (key, value) in options.into_iter().filter_map(|(key, value)| Some((key, value?))) {
        ours.insert(key.into(), value.into());
    }
    if let Some(style) = style {
        ours.insert("path-style".into(), style.parse().map_or(Value::String(style), Value::Bool));
    }
    Some(())
}
