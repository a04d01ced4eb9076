//! What `run` tells its operator: changes that matter, gaps loudly, and now and then a summary if anything happened.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::oneshot;

use super::memory::Activity;
use crate::config::units::show_duration;
use crate::position::Txid;
use crate::status::{ReplicaState, ReplicaStatus, State, Status, StatusSnapshot};

/// After a change, so many more may come before they are looked at together.
const COALESCE: Duration = Duration::from_millis(250);
const SUMMARY: Duration = Duration::from_secs(10 * 60);
const FINAL_SYNC: Duration = Duration::from_secs(2);

/// Watches one database until `end`, with one last look then.
pub async fn report(path: PathBuf, status: Status, activity: Activity, mut end: oneshot::Receiver<()>) {
    let name = path.display().to_string();
    let mut changes = status.watch();
    let mut summary = tokio::time::interval(SUMMARY);
    summary.tick().await;
    let mut last: Option<StatusSnapshot> = None;
    let mut summed_up = Txid::ZERO;
    loop {
        let now = status.snapshot();
        tell_changes(&name, last.as_ref(), &now);
        last = Some(now);
        tokio::select! {
            biased;
            _ = &mut end => {
                tell_changes(&name, last.as_ref(), &status.snapshot());
                return;
            }
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                tokio::time::sleep(COALESCE).await;
                changes.mark_unchanged();
                activity.notify_one();
            }
            _ = summary.tick() => {
                let now = status.snapshot();
                if now.captured != summed_up {
                    summed_up = now.captured;
                    tell_summary(&name, &now);
                }
            }
        }
    }
}

fn tell_changes(name: &str, last: Option<&StatusSnapshot>, now: &StatusSnapshot) {
    let is_new_state =
        last.is_none_or(|last| std::mem::discriminant(&last.state) != std::mem::discriminant(&now.state));
    if is_new_state {
        tell_state(name, now);
    }
    let gaps_before = last.map_or(0, |last| last.gaps_total);
    let new_gaps = usize::try_from(now.gaps_total.saturating_sub(gaps_before)).unwrap_or(usize::MAX);
    for gap in now.gaps.iter().rev().take(new_gaps).rev().filter(|gap| gap.replica.is_none()) {
        tracing::warn!(
            database = name,
            after = gap.after.0,
            at = gap.at.0,
            "GAP: {}. Commit {} brings the replica level; what was committed between is in it, but not restorable one by one",
            gap.reason,
            gap.at.0
        );
    }
    for (number, replica) in now.replicas.iter().enumerate() {
        tell_replica(name, last.and_then(|last| last.replicas.get(number)), replica, now);
    }
}

fn tell_state(name: &str, now: &StatusSnapshot) {
    match &now.state {
        State::Starting | State::Stopped => {}
        State::WaitingForReplica => {
            tracing::warn!(
                database = name,
                "no local state, and no replica answers: waiting for one, to know where to go on"
            );
        }
        State::Absent => tracing::info!(database = name, "there is no database yet; capture begins when it appears"),
        State::NotCapturable(why) => tracing::warn!(database = name, "NOT CAPTURED: {why}"),
        State::FirstRead { total, .. } => tracing::info!(database = name, bytes = total, "reading the database once"),
        State::Running => {
            let generation = now.generation.map(|generation| generation.to_string()).unwrap_or_default();
            tracing::info!(database = name, generation, commit = now.captured.0, "capturing every commit");
        }
        State::SpoolFull { used_bytes, limit_bytes } => tracing::error!(
            database = name,
            used_bytes,
            limit_bytes,
            "THE SPOOL IS FULL: capture pauses until a replica takes something; raise spool-limit to bridge longer outages"
        ),
        State::Paused => tracing::warn!(database = name, "PAUSED: nothing is captured until `replicate resume`"),
        State::Failed(why) => tracing::error!(database = name, "CAPTURE ENDED: {why}"),
    }
}

fn tell_replica(name: &str, last: Option<&ReplicaStatus>, now: &ReplicaStatus, all: &StatusSnapshot) {
    let was_down = last.is_some_and(|last| matches!(last.state, ReplicaState::Unreachable(_)));
    let is_down = matches!(now.state, ReplicaState::Unreachable(_));
    if was_down && now.state == ReplicaState::Connected {
        tracing::info!(database = name, replica = now.name, bytes_to_ship = now.lag_bytes, "the store is back");
    }
    if is_down && !was_down {
        tracing::warn!(
            database = name,
            replica = now.name,
            spool_limit_bytes = all.spool_limit_bytes,
            "the store is down; capture goes on into the spool"
        );
    }
    let snapshot_before = last.and_then(|last| last.snapshot);
    if let Some((txid, _)) = now.snapshot
        && snapshot_before.map(|(txid, _)| txid) != Some(txid)
    {
        let why = now.snapshot_reason.map_or(String::new(), |reason| format!(", taken because {reason}"));
        tracing::info!(database = name, replica = now.name, commit = txid.0, "the replica has a whole snapshot{why}");
    }
}

fn tell_summary(name: &str, now: &StatusSnapshot) {
    for replica in &now.replicas {
        tracing::info!(
            database = name,
            replica = replica.name,
            captured = now.captured.0,
            shipped = replica.shipped.txid.0,
            shipped_bytes = replica.shipped_bytes,
            lag = show_duration(replica.lag),
            gaps = now.gaps_total,
            "so far"
        );
    }
}

/// Says every few seconds what the final sync still has to ship.
pub async fn final_sync(status: Status) {
    loop {
        tokio::time::sleep(FINAL_SYNC).await;
        let now = status.snapshot();
        for replica in now.replicas.iter().filter(|replica| replica.lag_bytes > 0) {
            tracing::info!(
                database = now.database,
                replica = replica.name,
                bytes_to_ship = replica.lag_bytes,
                captured = now.captured.0,
                shipped = replica.shipped.txid.0,
                "final sync"
            );
        }
    }
}
