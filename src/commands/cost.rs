//! `replicate cost`: what a month comes to, and what was used.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::check::configured;
use super::control::asked;
use super::source::open;
use super::{print, print_json, runtime};
use crate::cli::CostArgs;
use crate::config::units::{parse_share, parse_size, show_duration};
use crate::config::{Config, DatabaseConfig, Environment, ReplicaConfig};
use crate::control::Request;
use crate::cost::prices::{DATED, KEYS, per_month};
use crate::cost::{Bill, EXAMPLES, Estimate, Prices, Terms, Workload};
use crate::error::Error;
use crate::layout::ObjectName;
use crate::replicator::due::WayLimit;
use crate::store::requests::Kind;

/// The size of a database that is not there yet.
const UNKNOWN_BYTES: u64 = 1 << 30;
const MAX_COMMITS_PER_SECOND: f64 = 1e9;

/// What the arguments assume.
struct Assumed {
    commits_per_second: f64,
    bytes_per_commit: u64,
    database_bytes: Option<u64>,
    /// In hundredths of a percent.
    changed: u32,
    prices: Option<Prices>,
    own: Vec<(String, f64)>,
}

impl Assumed {
    fn read(args: &CostArgs) -> Result<Assumed, Error> {
        let size = |text: &str| parse_size(text).map_err(Error::usage);
        if !(0.0..=MAX_COMMITS_PER_SECOND).contains(&args.commits_per_second) {
            return Err(Error::usage("--commits-per-second: write a number from 0 on, such as 0.5"));
        }
        let named = |name: &String| {
            let names: Vec<&str> = EXAMPLES.iter().map(|prices| prices.name).collect();
            let unknown = || Error::usage(format!("no prices are known for {name:?}"));
            Prices::named(name).ok_or_else(|| unknown().next_step(format!("write one of {}", names.join(", "))))
        };
        let own = args.own_prices.iter().map(|text| {
            let read = text.split_once('=').and_then(|(key, price)| Some((key.to_owned(), price.parse::<f64>().ok()?)));
            let good = read.filter(|(key, price)| KEYS.contains(&key.as_str()) && price.is_finite() && *price >= 0.0);
            good.ok_or_else(|| {
                Error::usage(format!(
                    "{text:?} is no price; write one of {} with a number: write=0.005",
                    KEYS.join(", ")
                ))
            })
        });
        Ok(Assumed {
            commits_per_second: args.commits_per_second,
            bytes_per_commit: size(&args.bytes_per_commit)?,
            database_bytes: args.database_size.as_deref().map(size).transpose()?,
            changed: parse_share(&args.changed_per_day).map_err(Error::usage)?,
            prices: args.prices.as_ref().map(named).transpose()?,
            own: own.collect::<Result<_, _>>()?,
        })
    }

    fn workload(&self, path: &Path) -> Workload {
        let found = || std::fs::metadata(path).map_or(UNKNOWN_BYTES, |metadata| metadata.len());
        let database_bytes = self.database_bytes.unwrap_or_else(found);
        let changed = u128::from(database_bytes) * u128::from(self.changed) / 10_000;
        Workload {
            database_bytes,
            commits_per_second: self.commits_per_second,
            bytes_per_commit: self.bytes_per_commit,
            changed_bytes_per_day: u64::try_from(changed).unwrap_or(u64::MAX),
        }
    }

    fn prices(&self, replica: &ReplicaConfig) -> Prices {
        let guessed = || Prices::guess(&replica.url, replica.all_options().endpoint.as_deref());
        let mut prices = self.prices.unwrap_or_else(guessed);
        self.own.iter().for_each(|(key, price)| _ = prices.set(key, *price));
        prices
    }
}

pub fn execute(args: &CostArgs, environment: Environment<'_>) -> Result<(), Error> {
    let assumed = Assumed::read(args)?;
    let databases = databases(args, environment)?;
    let (mut text, mut facts) = (String::new(), Vec::new());
    let mut total: BTreeMap<&str, f64> = BTreeMap::new();
    let mut running = Running::default();
    for database in &databases {
        let workload = assumed.workload(&database.path);
        writeln!(text, "database {}, {}", database.path.display(), show_bytes(workload.database_bytes as f64)).ok();
        let mut replicas = Vec::new();
        for (number, replica) in database.replicas.iter().enumerate() {
            let prices = assumed.prices(replica);
            let estimate = Estimate::new(&workload, &terms(database, replica, workload.database_bytes));
            let bill = prices.bill(&estimate);
            *total.entry(prices.currency).or_default() += bill.total();
            writeln!(text, "  replica {}", replica.shown_url()).ok();
            text.push_str(&estimate_text(&estimate, &bill, &prices));
            let mut fact = estimate_json(replica, &estimate, &bill, &prices);
            if let Some(used) = running.used(database, number) {
                text.push_str(&used_text(&used, &prices));
                fact["used"] = used;
            }
            if args.stored {
                let stored = stored(replica)?;
                text.push_str(&stored_text(&stored));
                fact["stored"] = json!(stored);
            }
            replicas.push(fact);
        }
        facts.push(json!({ "database": database.path, "bytes": workload.database_bytes, "replicas": replicas }));
    }
    if args.json.on {
        let assumptions = json!({
            "commits_per_second": assumed.commits_per_second, "bytes_per_commit": assumed.bytes_per_commit,
            "changed_per_day_percent": f64::from(assumed.changed) / 100.0, "prices_dated": DATED,
        });
        return print_json(&json!({ "assumed": assumptions, "databases": facts, "total_per_month": total }));
    }
    writeln!(
        text,
        "\nassumed for each: {} commits a second of {} each, {}% of it changes in a day; a month has 30 days",
        assumed.commits_per_second,
        show_bytes(assumed.bytes_per_commit as f64),
        f64::from(assumed.changed) / 100.0
    )
    .ok();
    writeln!(text, "prices are examples of {DATED}; --prices and --price take others, docs/cost.md tells more").ok();
    for (currency, sum) in total {
        writeln!(text, "together {sum:.2} {currency} a month").ok();
    }
    print(&text)
}

/// Those that are meant, with what patterns match now.
fn databases(args: &CostArgs, environment: Environment<'_>) -> Result<Vec<DatabaseConfig>, Error> {
    let usage = |error: crate::config::ConfigError| Error::usage(error.to_string());
    if let Some(path) = &args.database {
        let config = Config::load(args.config.file.as_deref(), environment)?;
        let found = config.find(path)?.map_or_else(|| DatabaseConfig::new(path, &config).map_err(usage), Ok)?;
        return Ok(vec![found]);
    }
    let config = configured(&args.config, environment)?;
    let mut all = config.databases.clone();
    for group in &config.groups {
        let (files, _) = group.look();
        for file in files.iter().filter(|file| config.databases.iter().all(|database| database.path != **file)) {
            all.push(group.database(file, &config).map_err(usage)?);
        }
    }
    match all.is_empty() {
        true => Err(Error::usage("no database is configured")
            .next_step("name one: `replicate cost DATABASE`, or --config FILE")),
        false => Ok(all),
    }
}

fn terms(database: &DatabaseConfig, replica: &ReplicaConfig, database_bytes: u64) -> Terms {
    let settings = &database.settings;
    let policy = database.policy(replica);
    let commits = policy.as_ref().map(|policy| policy.commits.unwrap_or(Duration::ZERO));
    Terms {
        sync_interval: settings.sync_interval,
        segment_size: settings.segment_size,
        snapshot_interval: settings.snapshots.interval,
        snapshot_after: match settings.snapshots.way {
            WayLimit::Never => None,
            WayLimit::Bytes(bytes) => Some(bytes),
            WayLimit::Percent(percent) => Some(database_bytes.saturating_mul(percent.into()) / 100),
        },
        snapshot_spacing: settings.snapshots.spacing,
        commits,
        keep: policy.as_ref().map(|policy| policy.keep_within.or(policy.commits).unwrap_or(Duration::ZERO)),
    }
}

fn estimate_text(month: &Estimate, bill: &Bill, prices: &Prices) -> String {
    let requests: Vec<String> = Kind::ALL
        .into_iter()
        .filter(|kind| month.of_kind(*kind) >= 0.5)
        .map(|kind| format!("{:.0} {}", month.of_kind(kind), kind.name()))
        .collect();
    let requests = if requests.is_empty() { "no request".to_owned() } else { requests.join(", ") };
    let (money, stored) = (prices.currency, show_bytes(month.stored_bytes));
    let (sent, received) = (show_bytes(month.uploaded_bytes), show_bytes(month.downloaded_bytes));
    format!(
        "    a month, by the prices of {}: {:.2} {money}\n      requests  {:>10.2}  {requests}\n      stored    {:>10.2}  {stored} in \
         {:.0} objects\n      transfer  {:>10.2}  {sent} sent, {received} received\n",
        prices.name,
        bill.total(),
        bill.requests,
        bill.stored,
        month.stored_objects,
        bill.download,
    )
}

fn estimate_json(replica: &ReplicaConfig, month: &Estimate, bill: &Bill, prices: &Prices) -> Value {
    let requests: BTreeMap<&str, u64> =
        Kind::ALL.into_iter().map(|kind| (kind.name(), month.of_kind(kind).round() as u64)).collect();
    json!({
        "replica": replica.shown_url(),
        "prices": prices.name,
        "currency": prices.currency,
        "month": {
            "requests": requests,
            "uploaded_bytes": month.uploaded_bytes.round() as u64,
            "downloaded_bytes": month.downloaded_bytes.round() as u64,
            "stored_bytes": month.stored_bytes.round() as u64,
            "stored_objects": month.stored_objects.round() as u64,
            "cost": { "requests": bill.requests, "stored": bill.stored, "download": bill.download, "total": bill.total() },
        },
    })
}

/// What running replicators have told, by database.
#[derive(Default)]
struct Running(BTreeMap<String, Value>);

impl Running {
    /// What the replica at this place was asked since its replicator started; `None` where none runs.
    fn used(&mut self, database: &DatabaseConfig, number: usize) -> Option<Value> {
        let path = database.path.to_string_lossy().into_owned();
        if !self.0.contains_key(&path) {
            match asked(database, &Request::Status) {
                Ok(told) => {
                    // One process tells of all its databases.
                    for one in told.iter().flat_map(|told| told["databases"].as_array().into_iter().flatten()) {
                        self.0.insert(one["database"].as_str().unwrap_or_default().to_owned(), one.clone());
                    }
                    self.0.entry(path.clone()).or_default();
                }
                Err(error) => tracing::warn!("what was used is not known: {}", error.report()),
            }
        }
        let used = &self.0.get(&path)?["replicas"][number]["used"];
        used.is_object().then(|| used.clone())
    }
}

fn used_text(used: &Value, prices: &Prices) -> String {
    let number = |value: &Value| value.as_u64().unwrap_or(0) as f64;
    let seconds = number(&used["for_ms"]) / 1000.0;
    let of_kind = |kind: Kind| number(&used["requests"][kind.name()]);
    let requests: Vec<String> = Kind::ALL
        .into_iter()
        .filter(|kind| of_kind(*kind) > 0.0)
        .map(|kind| format!("{} {}", of_kind(kind), kind.name()))
        .collect();
    let requests = if requests.is_empty() { "no request".to_owned() } else { requests.join(", ") };
    let download = number(&used["downloaded_bytes"]) / 1e9 * prices.download;
    let month = per_month(prices.requests(of_kind) + download, seconds);
    format!(
        "    used in {}: {requests}; {} sent, {} received; a month of that, without storage: {month:.2} {}\n",
        show_duration(Duration::from_secs(seconds as u64)),
        show_bytes(number(&used["uploaded_bytes"])),
        show_bytes(number(&used["downloaded_bytes"])),
        prices.currency
    )
}

/// Objects and bytes in a replica, by what they are.
fn stored(replica: &ReplicaConfig) -> Result<BTreeMap<&'static str, (u64, u64)>, Error> {
    let listed = runtime()?.block_on(open(replica)?.list("", None))?;
    let mut stored: BTreeMap<&'static str, (u64, u64)> = BTreeMap::new();
    for object in listed {
        let kind = match ObjectName::parse(object.key.as_str()) {
            Some(ObjectName::Segment(name)) => {
                ["level 0", "level 1", "level 2", "level 3"][usize::from(name.level.0.min(3))]
            }
            Some(ObjectName::Part { .. }) => "parts",
            Some(ObjectName::Snapshot(_)) => "snapshots",
            Some(_) => "other",
            None => "unknown",
        };
        let (objects, bytes) = stored.entry(kind).or_default();
        (*objects, *bytes) = (*objects + 1, bytes.saturating_add(object.size));
    }
    Ok(stored)
}

fn stored_text(stored: &BTreeMap<&'static str, (u64, u64)>) -> String {
    let all = stored.values().fold((0, 0_u64), |(n, b), (objects, bytes)| (n + objects, b.saturating_add(*bytes)));
    let each: Vec<String> = stored
        .iter()
        .map(|(kind, (objects, bytes))| format!("{kind}: {objects}, {}", show_bytes(*bytes as f64)))
        .collect();
    format!("    stored now: {} objects, {} ({})\n", all.0, show_bytes(all.1 as f64), each.join("; "))
}

/// As bills have them: thousands, not 1024.
fn show_bytes(bytes: f64) -> String {
    let units = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)];
    let fit = units.into_iter().find(|(_, factor)| bytes >= *factor);
    fit.map_or_else(|| format!("{bytes:.0} B"), |(unit, factor)| format!("{:.1} {unit}", bytes / factor))
}
