//! `replicate check`: the configuration as understood, and what is found where it points.

use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{litestream, print, print_json, runtime};
use crate::cli::{CheckArgs, ConfigArg};
use crate::config::limits;
use crate::config::proofs::VerifySettings;
use crate::config::retention::show;
use crate::config::units::{show_duration, show_size};
use crate::config::{Config, DatabaseConfig, Environment, ReplicaConfig};
use crate::engine::EngineKind;
use crate::engine::head::{self, HEAD_BYTES};
use crate::error::Error;
use crate::replicator::due::WayLimit;
use crate::store::{self, ChecksumMode, Sse, Store, StoreError, StoreOptions};

mod files;

/// What one database was found to be. The facts of the file itself, no lock taken.
struct Found {
    facts: Value,
    text: String,
}

pub fn execute(args: &CheckArgs, environment: Environment<'_>) -> Result<(), Error> {
    if let Some(file) = &args.litestream {
        return litestream::execute(file, environment);
    }
    let config = configured(&args.config, environment)?;
    let mut text = format!("shutdown-timeout: {}\n", show_duration(config.shutdown_timeout));
    let listen = listening(&config, &mut text)?;
    let mut databases = Vec::new();
    let mut first_error = None;
    for database in &config.databases {
        let found = look_at(&database.path);
        let settings = settings_json(database);
        writeln!(text, "\ndatabase {}", database.path.display()).ok();
        writeln!(text, "  {}", found.text).ok();
        writeln!(text, "  state-dir: {}", database.state_dir.display()).ok();
        for (key, value) in settings.as_object().into_iter().flatten() {
            writeln!(text, "  {key}: {}", value.as_str().unwrap_or_default()).ok();
        }
        let files = files::found(database, &mut text)?;
        let mut replicas = Vec::new();
        for replica in &database.replicas {
            let answer = if args.connect { Some(connect(replica)?) } else { None };
            let beside = if database.default_replica { " (none configured: beside the database)" } else { "" };
            writeln!(text, "  replica {}{beside}", replica.shown_url()).ok();
            let (mut facts, lines) = options_shown(&replica.all_options());
            lines.iter().for_each(|line| text.push_str(&format!("    {line}\n")));
            facts["url"] = json!(replica.shown_url());
            let policy = show(database.policy(replica).as_ref());
            for (key, value) in [("retention", policy), ("limits", limits::show(&replica.options.limits))] {
                writeln!(text, "    {key}: {value}").ok();
                facts[key] = json!(value);
            }
            match answer {
                None => {}
                Some(Ok(what)) => {
                    writeln!(text, "    reachable: {what}").ok();
                    facts["reachable"] = json!(true);
                    facts["holds"] = json!(what);
                }
                Some(Err(error)) => {
                    writeln!(text, "    not reachable: {error}").ok();
                    facts["reachable"] = json!(false);
                    facts["error"] = json!(error.to_string());
                    first_error.get_or_insert(error);
                }
            }
            replicas.push(facts);
        }
        databases.push(json!({
            "path": database.path, "name": database.name, "state-dir": database.state_dir, "file": found.facts,
            "settings": settings, "replicas": replicas, "default-replica": database.default_replica, "files": files,
        }));
    }
    let groups = groups_of(&config, &mut text)?;
    if config.databases.is_empty() && config.groups.is_empty() {
        text.push_str("\nno database is configured; name one: `replicate run DATABASE [URL…]`, or `--config FILE`\n");
    }
    if args.json.on {
        let shutdown = show_duration(config.shutdown_timeout);
        print_json(&json!({
            "shutdown-timeout": shutdown, "listen": listen, "panel": config.panel.shown(), "databases": databases,
            "globs": groups,
        }))?;
    } else {
        print(&text)?;
    }
    // The facts were printed; a store that does not answer is the command's result all the same.
    first_error.map_or(Ok(()), |error| Err(error.into()))
}

/// What `run` without arguments would replicate.
pub fn configured(config: &ConfigArg, environment: Environment<'_>) -> Result<Config, Error> {
    let all = Config::load(config.file.as_deref(), environment)?.with_environment(environment)?;
    let Some(path) = environment("REPLICATE_DATABASE").filter(|path| !path.is_empty()) else { return Ok(all) };
    let urls: Vec<String> = environment("REPLICATE_URL").filter(|url| !url.is_empty()).into_iter().collect();
    all.only(&PathBuf::from(path), &urls)
}

/// Where it listens, and who may use the panel there.
fn listening(config: &Config, text: &mut String) -> Result<Option<String>, Error> {
    let listen = config.listen.map(|address| address.to_string());
    writeln!(text, "listen: {}", listen.as_deref().unwrap_or("nowhere")).ok();
    if listen.is_some() {
        config.panel.credentials()?;
        writeln!(text, "panel: {}", config.panel.shown()).ok();
    }
    Ok(listen)
}

/// The patterns, and what each matches now.
fn groups_of(config: &Config, text: &mut String) -> Result<Vec<Value>, Error> {
    let mut groups = Vec::new();
    for group in &config.groups {
        let (files, _) = group.look();
        writeln!(text, "\nglob {}\n  matches now: {} files", group.pattern(), files.len()).ok();
        let mut matched = Vec::new();
        for path in &files {
            let database = group.database(path, config).map_err(|error| Error::usage(error.to_string()))?;
            let replicas: Vec<&str> = database.replicas.iter().map(|replica| replica.shown_url()).collect();
            writeln!(text, "  {} -> {}", path.display(), replicas.join(", ")).ok();
            matched.push(json!({ "path": path, "state-dir": database.state_dir, "replicas": replicas }));
        }
        groups.push(json!({ "glob": group.pattern(), "databases": matched }));
    }
    Ok(groups)
}

fn settings_json(database: &DatabaseConfig) -> Value {
    let s = &database.settings;
    json!({
        "sync-interval": show_duration(s.sync_interval),
        "segment-size": show_size(s.segment_size),
        "poll-interval": show_duration(s.poll_interval),
        "never-lock": s.never_lock.to_string(),
        "snapshot-interval": show_duration(s.snapshots.interval),
        "snapshot-after": match s.snapshots.way {
            WayLimit::Never => "never".to_owned(),
            WayLimit::Percent(percent) => format!("{percent}%"),
            WayLimit::Bytes(bytes) => show_size(bytes),
        },
        "snapshot-spacing": show_duration(s.snapshots.spacing),
        "spool-limit": show_size(s.spool_limit),
        "schedule": s.schedule.show(),
        "verify": verify_shown(&s.verify),
        "drill": format!("{} assertions, in {}", s.drill.assertions.len(), database.scratch().display()),
        "max-lag": show_duration(s.aims().max_lag),
        "rpo": s.rpo.map_or("not set".to_owned(), show_duration),
        "rto": s.rto.map_or("not set".to_owned(), show_duration),
        "include": s.include.show(),
    })
}

fn verify_shown(verify: &VerifySettings) -> String {
    let depth = match (verify.deep, verify.sample) {
        (false, _) => "names and tables".to_owned(),
        (true, None) => "everything".to_owned(),
        (true, Some(share)) => format!("{} % of everything", f64::from(share) / 100.0),
    };
    verify.max_age.map_or(depth.clone(), |age| format!("{depth}, max-age: {}", show_duration(age)))
}

/// Reads the head of the file. This process holds no lock on any database, so that closing the file drops none.
fn look_at(path: &Path) -> Found {
    let found = |exists: bool, facts: Value, text: String| {
        let mut all = json!({ "exists": exists });
        if let (Some(all), Some(facts)) = (all.as_object_mut(), facts.as_object()) {
            all.extend(facts.clone());
        }
        Found { facts: all, text }
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return found(false, json!({}), "there is no such file yet; capture begins when it appears".to_owned());
        }
        Err(error) => return found(true, json!({ "error": error.to_string() }), format!("cannot be read: {error}")),
    };
    let mut bytes = Vec::with_capacity(HEAD_BYTES);
    let length = match file.metadata().and_then(|m| file.take(HEAD_BYTES as u64).read_to_end(&mut bytes).map(|_| m)) {
        Ok(metadata) => metadata.len(),
        Err(error) => return found(true, json!({ "error": error.to_string() }), format!("cannot be read: {error}")),
    };
    let note = match head::read(&bytes) {
        None if length == 0 => return found(true, json!({ "bytes": 0 }), "an empty file, no database yet".to_owned()),
        None => return found(true, json!({ "bytes": length }), "is no database of a known engine".to_owned()),
        Some(head) if head.engine == EngineKind::Duckdb => (head, ""),
        Some(head) if !head.wal_mode => (head, "; not in WAL mode: run `PRAGMA journal_mode=wal` once"),
        Some(head) => (head, ", WAL mode"),
    };
    let (head, remark) = note;
    let facts = json!({ "bytes": length, "engine": head.engine.to_string(), "wal-mode": head.wal_mode });
    found(true, facts, format!("{}, {length} bytes{remark}", head.engine))
}

/// Every option that is set; of a secret only that it is.
fn options_shown(options: &StoreOptions) -> (Value, Vec<String>) {
    let text = |option: &Option<String>| option.clone();
    let secret = |is_set: bool| is_set.then(|| "set".to_owned());
    let pairs = [
        ("endpoint", text(&options.endpoint)),
        ("region", text(&options.region)),
        ("access-key-id", secret(options.access_key_id.is_some())),
        ("secret-access-key", secret(options.secret_access_key.is_some())),
        ("session-token", secret(options.session_token.is_some())),
        ("path-style", options.path_style.map(|on| on.to_string())),
        ("sse", options.sse.map(|sse| sse_name(sse).to_owned())),
        ("kms-key-id", text(&options.kms_key_id)),
        ("checksum", options.checksum.map(|mode| checksum_name(mode).to_owned())),
        ("connect-timeout", options.connect_timeout.map(show_duration)),
        ("request-timeout", options.request_timeout.map(show_duration)),
        ("max-retries", options.max_retries.map(|tries| tries.to_string())),
    ];
    let set: Vec<_> = pairs.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    let lines = set.iter().map(|(key, value)| format!("{key}: {value}")).collect();
    let facts = set.into_iter().map(|(key, value)| (key.to_owned(), Value::from(value))).collect();
    (Value::Object(facts), lines)
}

fn sse_name(sse: Sse) -> &'static str {
    match sse {
        Sse::Aes256 => "AES256",
        Sse::AwsKms => "aws:kms",
    }
}

fn checksum_name(mode: ChecksumMode) -> &'static str {
    match mode {
        ChecksumMode::WhenSupported => "when-supported",
        ChecksumMode::WhenRequired => "when-required",
    }
}

/// Asks the store for the replica's format marker: one small read, nothing is written.
fn connect(replica: &ReplicaConfig) -> Result<Result<&'static str, StoreError>, Error> {
    let opened = store::open(&replica.url, &replica.options).map_err(|error| Error::usage(error.to_string()))?;
    Ok(runtime()?.block_on(holds_replica(&*opened)))
}

async fn holds_replica(store: &dyn Store) -> Result<&'static str, StoreError> {
    let marker = crate::layout::ObjectName::Marker.key();
    match store.get(&marker, None).await {
        Ok(_) => Ok("holds a replica"),
        Err(error) if error.outcome == store::Outcome::NotFound => Ok("holds no replica yet"),
        Err(error) => Err(error),
    }
}
