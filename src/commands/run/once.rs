//! `run --once`: until every replica is level with its database, or nothing moves any more.

use std::time::Duration;

use super::Working;
use crate::error::{Error, ExitCode};
use crate::replicator::{Replicator, SyncError};
use crate::status::{ReplicaState, State, StatusSnapshot};

/// A first copy takes as long as it takes; but when nothing has moved for this long, something is wrong.
const STANDSTILL: Duration = Duration::from_secs(30);
/// How often to look whether something moves.
const LOOK: Duration = Duration::from_millis(250);
/// Longer than any copy: what ends a wait is the standstill.
const NO_LIMIT: Duration = Duration::from_secs(365 * 24 * 3600);

pub async fn settle_all(all: &[Working]) -> Result<(), Error> {
    for working in all {
        settle(&working.replicator).await.map_err(|error| error.context(format!("{}", working.path.display())))?;
    }
    Ok(())
}

async fn settle(replicator: &Replicator) -> Result<(), Error> {
    tokio::select! {
        error = standstill(replicator) => Err(error),
        settled = async {
            replicator.wait_until_running().await.map_err(|end| Error::failed(end.to_string()))?;
            if replicator.status().state() == State::Absent {
                return Err(Error::failed("there is no database").next_step("check the path"));
            }
            replicator.settle(NO_LIMIT).await.map_err(|error| match error {
                SyncError::Final(end) => Error::new(ExitCode::Refused, end.to_string()),
                SyncError::TimedOut { .. } => Error::failed(error.to_string()),
            })?;
            // `settle` is content with the replicas that still take something; `--once` promises all of them.
            let refused = replicator.status().snapshot().replicas.into_iter().find(|r| r.state.is_final());
            refused.map_or(Ok(()), |replica| Err(Error::new(ExitCode::Refused, why(&replica.state))))
        } => settled,
    }
}

/// Ends, with the reason, when nothing has moved for `STANDSTILL`.
async fn standstill(replicator: &Replicator) -> Error {
    let mut last = progress(&replicator.status().snapshot());
    let mut since = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        let status = replicator.status().snapshot();
        let now = progress(&status);
        if now != last {
            (last, since) = (now, tokio::time::Instant::now());
        } else if since.elapsed() >= STANDSTILL {
            return reason(&status);
        }
    }
}

/// Everything that moves while a database is brought level.
fn progress(status: &StatusSnapshot) -> Vec<u64> {
    let mut all = vec![status.captured.0, status.captured_bytes];
    if let State::FirstRead { done, .. } = status.state {
        all.push(done);
    }
    for replica in &status.replicas {
        all.push(replica.shipped.txid.0);
        all.push(replica.shipped_bytes);
        all.push(replica.snapshot_progress.map_or(0, |progress| progress.done_bytes));
    }
    all
}

fn reason(status: &StatusSnapshot) -> Error {
    match &status.state {
        State::NotCapturable(why) => return Error::failed(why.clone()),
        State::SpoolFull { .. } => return Error::failed("the spool is full").next_step("raise spool-limit"),
        _ => {}
    }
    match status.replicas.iter().find(|replica| !matches!(replica.state, ReplicaState::Connected)) {
        Some(replica) => Error::new(ExitCode::Unreachable, format!("{}: {}", replica.name, why(&replica.state)))
            .next_step("check the endpoint, the credentials and the network, then run it again"),
        None => Error::failed(format!("nothing has moved for {} s", STANDSTILL.as_secs()))
            .next_step("see what it waits for with REPLICATE_LOG=debug"),
    }
}

fn why(state: &ReplicaState) -> String {
    match state {
        ReplicaState::Connecting => "the store has not answered".to_owned(),
        ReplicaState::Connected => "the store answers".to_owned(),
        ReplicaState::Unreachable(text) | ReplicaState::Fenced(text) | ReplicaState::Refused(text) => text.clone(),
    }
}
