//! What is told of a running database, as JSON.

use std::path::Path;

use serde_json::{Value, json};

use crate::position::{TimeMs, whole_ms};
use crate::replicator::Handle;
use crate::status::{Place, Proofs, ReplicaState, ReplicaStatus, State};
use crate::store::Requests;
use crate::store::limits::Unit;
use crate::store::requests::Kind;

/// One database and its replicas.
pub fn status_value(path: &Path, handle: &Handle) -> Value {
    let status = handle.status().snapshot();
    let troubles = status.troubles();
    json!({
        "database": path.to_string_lossy(),
        "name": status.database,
        "state": state_word(&status.state),
        "parked": status.is_parked,
        "reason": state_reason(&status.state),
        "ready": troubles.is_empty(),
        "troubles": troubles,
        "max_lag_ms": whole_ms(status.aims.max_lag),
        "generation": status.generation.map(|generation| generation.to_string()),
        "captured": status.captured.0,
        "captured_time_ms": status.captured_time.map(|time| time.0),
        "database_bytes": status.database_bytes,
        "wal_bytes": status.wal_bytes,
        "spool_bytes": status.spool_bytes,
        "spool_limit_bytes": status.spool_limit_bytes,
        "gaps": status.gaps_total,
        "last_error": status.last_error.map(|(time, text)| json!({ "time_ms": time.0, "text": text })),
        "replicas": status.replicas.iter().map(replica_value).collect::<Vec<_>>(),
    })
}

/// The same with what was asked of each replica.
pub(super) fn asked_value((path, handle, requests): &super::Asked) -> Value {
    let mut value = status_value(path, handle);
    for (replica, requests) in value["replicas"].as_array_mut().into_iter().flatten().zip(requests) {
        replica["used"] = used_value(requests);
    }
    value
}

fn used_value(requests: &Requests) -> Value {
    let kinds = Kind::ALL.into_iter().map(|kind| (kind.name().to_owned(), requests.of_kind(kind).into()));
    json!({
        "for_ms": whole_ms(requests.counted_for()),
        "requests": kinds.collect::<serde_json::Map<_, _>>(),
        "uploaded_bytes": requests.bytes_moved(Unit::Upload),
        "downloaded_bytes": requests.bytes_moved(Unit::Download),
        "waited_ms": whole_ms(requests.waiting_time()),
    })
}

fn replica_value(replica: &ReplicaStatus) -> Value {
    let (state, reason) = match &replica.state {
        ReplicaState::Connecting => ("connecting", None),
        ReplicaState::Connected => ("connected", None),
        ReplicaState::Unreachable(text) => ("unreachable", Some(text)),
        ReplicaState::Fenced(text) => ("fenced", Some(text)),
        ReplicaState::Refused(text) => ("refused", Some(text)),
    };
    json!({
        "replica": replica.name,
        "state": state,
        "reason": reason,
        "shipped": replica.shipped.txid.0,
        "lag_ms": whole_ms(replica.lag),
        "lag_bytes": replica.lag_bytes,
        "fencing": replica.fencing,
        "stored_bytes": replica.shipped_bytes,
        "snapshot": replica.snapshot.map(|(txid, time)| {
            let why = replica.snapshot_reason.map(|reason| reason.to_string());
            json!({ "txid": txid.0, "time_ms": time.0, "why": why })
        }),
        "files": replica.files.map(|(txid, time, count)| {
            json!({ "txid": txid.0, "time_ms": time.0, "files": count, "left_out": replica.files_left_out })
        }),
        "verify": proofs_value(&replica.verify),
        "drill": proofs_value(&replica.drill),
    })
}

fn proofs_value(proofs: &Proofs) -> Value {
    json!({
        "running_since_ms": proofs.running_since.map(|time| time.0),
        "last_success_ms": proofs.last_success.map(|time| time.0),
        "last_failure": proofs.last_failure.as_ref().map(|(time, text)| json!({ "time_ms": time.0, "text": text })),
        "last_duration_ms": proofs.last_duration.map(whole_ms),
        "successes": proofs.successes,
        "failures": proofs.failures,
        "failing": proofs.is_failing(),
    })
}

/// One word for each state.
pub fn state_word(state: &State) -> &'static str {
    match state {
        State::Starting => "starting",
        State::WaitingForReplica => "waiting-for-replica",
        State::Absent => "absent",
        State::NotCapturable(_) => "not-capturable",
        State::FirstRead { .. } => "first-read",
        State::Running => "running",
        State::SpoolFull { .. } => "spool-full",
        State::Paused => "paused",
        State::Stopped => "stopped",
        State::Failed(_) => "failed",
    }
}

fn state_reason(state: &State) -> Option<String> {
    match state {
        State::NotCapturable(text) | State::Failed(text) => Some(text.clone()),
        State::FirstRead { done, total } => Some(format!("{done} of {total} bytes")),
        State::SpoolFull { used_bytes, limit_bytes } => Some(format!("{used_bytes} of {limit_bytes} bytes")),
        _ => None,
    }
}

pub(super) fn place_value(place: &Place) -> Value {
    json!({ "generation": place.generation.to_string(), "txid": place.txid.0 })
}

/// Snapshots per replica.
pub(super) fn taken_value(taken: &[(String, Place, TimeMs)]) -> Value {
    let one = |(replica, place, time): &(String, Place, TimeMs)| json!({ "replica": replica, "generation": place.generation.to_string(), "txid": place.txid.0, "time_ms": time.0 });
    json!({ "snapshots": taken.iter().map(one).collect::<Vec<_>>() })
}
