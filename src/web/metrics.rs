//! `/metrics`: every database and every replica of the configuration, from the first moment on, with 0 where nothing has
//! happened yet.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Watched;
use super::text::{Kind, Text};
use crate::position::TimeMs;
use crate::status::{ERROR_KINDS, HISTOGRAM_BOUNDS_MS, ReplicaState, ReplicaStatus, StatusSnapshot};
use crate::store::Requests;
use crate::store::limits::Unit;
use crate::store::requests::{DURATION_BOUNDS, ENDINGS, Kind as Request, Operation};

use Kind::{Counter, Gauge, Histogram};

/// With more databases than this, what has never happened to one is left out of the families that have many series for each:
/// errors by kind, requests and times.
const MANY: usize = 500;

/// Name, kind, help, and where the value comes from.
type Metric<T> = (&'static str, Kind, &'static str, fn(&T) -> f64);

/// Labelled `database`.
const OF_DATABASES: [Metric<StatusSnapshot>; 16] = [
    ("replicate_up", Gauge, "1 while every commit of the database is captured as it comes.", |s| {
        flag(s.is_capturing())
    }),
    ("replicate_ready", Gauge, "1 while it is captured and every replica is within max-lag, as /readyz says.", |s| {
        flag(s.troubles().is_empty())
    }),
    ("replicate_parked", Gauge, "1 while the database is at rest and nothing of it is held open.", |s| {
        flag(s.is_parked)
    }),
    ("replicate_captured_txid", Gauge, "Number of the last captured commit in its generation.", |s| {
        s.captured.0 as f64
    }),
    ("replicate_captured_timestamp_seconds", Gauge, "When the last captured commit was seen; 0: none was.", |s| {
        s.captured_time.map_or(0.0, timestamp)
    }),
    ("replicate_captured_bytes_total", Counter, "Bytes of segments that were finished.", |s| s.captured_bytes as f64),
    ("replicate_spool_bytes", Gauge, "Bytes that wait for a replica.", |s| s.spool_bytes as f64),
    ("replicate_spool_limit_bytes", Gauge, "Bytes that may wait for a replica.", |s| s.spool_limit_bytes as f64),
    ("replicate_gaps_total", Counter, "Gaps between commits that cannot be restored one by one.", |s| {
        s.gaps_total as f64
    }),
    ("replicate_generations_total", Counter, "Generations that this process began.", |s| s.generations_total as f64),
    ("replicate_database_size_bytes", Gauge, "Size of the database's main file at the last captured commit.", |s| {
        s.database_bytes as f64
    }),
    ("replicate_wal_size_bytes", Gauge, "Size of the database's own WAL.", |s| s.wal_bytes as f64),
    ("replicate_checkpoint_total", Counter, "Checkpoints of the engine that were seen.", |s| {
        s.checkpoints_total as f64
    }),
    ("replicate_max_lag_seconds", Gauge, "The lag with which the database counts as replicated.", |s| {
        s.aims.max_lag.as_secs_f64()
    }),
    ("replicate_rpo_target_seconds", Gauge, "Recovery point objective of the configuration; 0: none is set.", |s| {
        seconds(s.aims.rpo)
    }),
    ("replicate_rto_target_seconds", Gauge, "Recovery time objective of the configuration; 0: none is set.", |s| {
        seconds(s.aims.rto)
    }),
];

/// Labelled `database` and `replica`.
const OF_REPLICAS: [Metric<OfReplica>; 16] = [
    ("replicate_replica_up", Gauge, "1 while the replica's store answered when it was last asked.", |r| {
        flag(r.status.state == ReplicaState::Connected)
    }),
    (
        "replicate_fencing_available",
        Gauge,
        "0 when the store was seen not to keep two writers of one object apart.",
        |r| flag(r.status.fencing != Some(false)),
    ),
    (
        "replicate_lag_seconds",
        Gauge,
        "Age of the oldest commit that is not in the replica, or may not have been seen.",
        |r| r.status.lag.as_secs_f64(),
    ),
    ("replicate_lag_bytes", Gauge, "Bytes in the spool that are not in the replica.", |r| r.status.lag_bytes as f64),
    ("replicate_last_success_timestamp_seconds", Gauge, "When a segment was last shipped; 0: none was.", |r| {
        r.status.last_success.map_or(0.0, timestamp)
    }),
    ("replicate_shipped_txid", Gauge, "Number of the last commit in the replica.", |r| r.status.shipped.txid.0 as f64),
    ("replicate_shipped_bytes_total", Counter, "Bytes of segments that were shipped.", |r| {
        r.status.shipped_bytes as f64
    }),
    (
        "replicate_snapshot_last_timestamp_seconds",
        Gauge,
        "Time of the newest snapshot's commit; 0: there is none.",
        |r| r.status.snapshot.map_or(0.0, |(_, time)| timestamp(time)),
    ),
    (
        "replicate_snapshot_duration_seconds",
        Gauge,
        "How long the last snapshot took; 0: this process took none.",
        |r| seconds(r.status.snapshot_duration),
    ),
    (
        "replicate_snapshot_progress_ratio",
        Gauge,
        "How much of the snapshot that is being taken is done; 0: none is.",
        |r| r.status.snapshot_progress.map_or(0.0, |p| p.done_bytes as f64 / p.total_bytes.max(1) as f64),
    ),
    (
        "replicate_verify_last_success_timestamp_seconds",
        Gauge,
        "When `replicate verify` last found the replica whole, on this machine; 0: never.",
        |r| r.verified.map_or(0.0, timestamp),
    ),
    (
        "replicate_verify_duration_seconds",
        Gauge,
        "How long the last verification of this process took; 0: none did.",
        |r| seconds(r.status.verify.last_duration),
    ),
    (
        "replicate_verify_failures_total",
        Counter,
        "Verifications of this process that found the replica damaged.",
        |r| r.status.verify.failures as f64,
    ),
    (
        "replicate_drill_last_success_timestamp_seconds",
        Gauge,
        "When a drill last went well; 0: none is known of.",
        |r| r.status.drill.last_success.map_or(0.0, timestamp),
    ),
    ("replicate_drill_duration_seconds", Gauge, "How long the last drill of this process took; 0: none did.", |r| {
        seconds(r.status.drill.last_duration)
    }),
    ("replicate_drill_failures_total", Counter, "Drills of this process that failed.", |r| {
        r.status.drill.failures as f64
    }),
];

fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}

fn timestamp(time: TimeMs) -> f64 {
    time.0 as f64 / 1000.0
}

fn seconds(duration: Option<Duration>) -> f64 {
    duration.map_or(0.0, |duration| duration.as_secs_f64())
}

/// One database at one moment.
struct OfDatabase {
    label: String,
    status: StatusSnapshot,
    replicas: Vec<OfReplica>,
}

struct OfReplica {
    label: String,
    status: ReplicaStatus,
    verified: Option<TimeMs>,
    requests: Arc<Requests>,
}

impl OfDatabase {
    fn look(watched: &Watched) -> OfDatabase {
        let status = watched.handle.status().snapshot();
        let mut replicas: Vec<OfReplica> = Vec::new();
        for (index, (replica, requests)) in status.replicas.iter().zip(&watched.requests).enumerate() {
            // URLs that differ in their parameters only look the same; series must not.
            let same = replicas.iter().filter(|other| other.status.name == replica.name).count();
            let label = if same == 0 { replica.name.clone() } else { format!("{} ({})", replica.name, same + 1) };
            // Of a command on this machine, or of this process.
            let verified = watched.handle.verified(index).max(replica.verify.last_success);
            replicas.push(OfReplica { label, status: replica.clone(), verified, requests: requests.clone() });
        }
        OfDatabase { label: label_of(&watched.path), status, replicas }
    }
}

/// Paths tell databases apart; file names may be the same.
fn label_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Everything, as of now. Of the panel: logins that were wrong, and those that were not looked at.
pub fn render(watched: &[Watched], version: &str, (wrong, refused): (u64, u64)) -> String {
    let all: Vec<OfDatabase> = watched.iter().map(OfDatabase::look).collect();
    let mut text = Text::default();
    text.family("replicate_build_info", Gauge, "1, labelled with what is running.");
    text.sample(&[("version", version)], 1.0);
    let help = "Logins to the panel that were wrong, or refused unseen because too many were wrong.";
    text.family("replicate_panel_login_failures_total", Counter, help);
    text.sample(&[("reason", "wrong")], wrong as f64);
    text.sample(&[("reason", "too-many")], refused as f64);
    for (name, kind, help, value) in OF_DATABASES {
        text.family(name, kind, help);
        for database in &all {
            text.sample(&[("database", &database.label)], value(&database.status));
        }
    }
    text.skip_zeros(all.len() > MANY);
    text.family("replicate_errors_total", Counter, "Errors by kind; most are tried again by themselves.");
    for database in &all {
        let mut errors: BTreeMap<&str, u64> = ERROR_KINDS.into_iter().map(|kind| (kind, 0)).collect();
        errors.extend(&database.status.errors);
        for (kind, count) in errors {
            text.sample(&[("database", &database.label), ("kind", kind)], count as f64);
        }
    }
    text.skip_zeros(false);
    for (name, kind, help, value) in OF_REPLICAS {
        text.family(name, kind, help);
        for (database, replica) in of_replicas(&all) {
            text.sample(&[("database", &database.label), ("replica", &replica.label)], value(replica));
        }
    }
    text.skip_zeros(all.len() > MANY);
    text.family("replicate_capture_to_store_seconds", Histogram, "From when a commit was seen to when it was shipped.");
    for (database, replica) in of_replicas(&all) {
        let labels = [("database", database.label.as_str()), ("replica", &replica.label)];
        let bounds = HISTOGRAM_BOUNDS_MS.iter().map(|&ms| ms as f64 / 1000.0);
        let times = &replica.status.capture_to_store;
        text.histogram(&labels, bounds, &times.counts, times.sum_ms as f64 / 1000.0);
    }
    requests(&mut text, &all);
    text.finish()
}

fn requests(text: &mut Text, all: &[OfDatabase]) {
    text.family("replicate_store_requests_total", Counter, "Requests to the store; every attempt counts.");
    for (database, replica) in of_replicas(all) {
        for operation in Operation::ALL {
            for (ending, outcome) in ENDINGS {
                let labels = [
                    ("database", database.label.as_str()),
                    ("replica", &replica.label),
                    ("operation", operation.name()),
                    ("outcome", outcome),
                ];
                text.sample(&labels, replica.requests.count(operation, ending) as f64);
            }
        }
    }
    text.family(
        "replicate_store_sent_total",
        Counter,
        "What went to the store, by kind of request, as a store bills it.",
    );
    for (database, replica) in of_replicas(all) {
        for kind in Request::ALL {
            let labels = [("database", database.label.as_str()), ("replica", &replica.label), ("kind", kind.name())];
            text.sample(&labels, replica.requests.of_kind(kind) as f64);
        }
    }
    text.family("replicate_store_bytes_total", Counter, "Bytes of bodies that went to and came from the store.");
    for (database, replica) in of_replicas(all) {
        for (unit, direction) in [(Unit::Upload, "upload"), (Unit::Download, "download")] {
            let labels = [("database", database.label.as_str()), ("replica", &replica.label), ("direction", direction)];
            text.sample(&labels, replica.requests.bytes_moved(unit) as f64);
        }
    }
    text.family("replicate_store_waiting_seconds_total", Counter, "How long requests waited for the store's limits.");
    for (database, replica) in of_replicas(all) {
        let labels = [("database", database.label.as_str()), ("replica", &replica.label)];
        text.sample(&labels, replica.requests.waiting_time().as_secs_f64());
    }
    text.family("replicate_store_request_duration_seconds", Histogram, "How long requests to the store took.");
    for (database, replica) in of_replicas(all) {
        for operation in Operation::ALL {
            let labels =
                [("database", database.label.as_str()), ("replica", &replica.label), ("operation", operation.name())];
            let bounds = DURATION_BOUNDS.iter().map(Duration::as_secs_f64);
            let sum = replica.requests.time(operation).as_secs_f64();
            text.histogram(&labels, bounds, &replica.requests.durations(operation), sum);
        }
    }
}

fn of_replicas(all: &[OfDatabase]) -> impl Iterator<Item = (&OfDatabase, &OfReplica)> {
    all.iter().flat_map(|database| database.replicas.iter().map(move |replica| (database, replica)))
}
