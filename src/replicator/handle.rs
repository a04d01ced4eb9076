//! What a running replicator can be asked for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::shared::{Command, Shared};
use super::{Final, SyncError, verified};
use crate::label::{Description, LabelError, Labels, Named};
use crate::layout::LabelName;
use crate::position::{TimeMs, Txid};
use crate::status::{Place, ReplicaState, ReplicaStatus, State, Status, StatusSnapshot};

/// Why there is no labelled snapshot.
#[derive(Debug, thiserror::Error)]
pub enum LabelledError {
    #[error(transparent)]
    Sync(#[from] SyncError),
    #[error(transparent)]
    Label(#[from] LabelError),
}

/// A way to ask. It outlives the replicator, and then answers that it has ended.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
}

impl Handle {
    pub fn status(&self) -> &Status {
        &self.shared.status
    }

    /// When `replicate verify` last found the replica with this number whole. Reads a small file.
    pub fn verified(&self, index: usize) -> Option<TimeMs> {
        verified::read(&self.shared.settings.state_dir, index)
    }

    /// Waits until every commit is captured as it comes, or there is no database yet: then the first one will be. An
    /// error is final.
    pub async fn wait_until_running(&self) -> Result<(), Final> {
        let is_settled = |state: &State| matches!(state, State::Running | State::Absent | State::Failed(_));
        self.status().wait_for(|status| is_settled(&status.state)).await;
        match self.status().state() {
            State::Failed(text) => Err(Final::Failed(text)),
            _ => Ok(()),
        }
    }

    /// Waits until nothing can be done any more: capture failed, or no replica takes anything.
    pub async fn failed(&self) -> Final {
        let is_final = |status: &StatusSnapshot| final_error(status).is_some();
        loop {
            self.status().wait_for(is_final).await;
            if let Some(end) = final_error(&self.status().snapshot()) {
                return end;
            }
        }
    }

    /// Waits until everything that was committed before the call is in every replica that still takes anything.
    pub async fn sync(&self, timeout: Duration) -> Result<Place, SyncError> {
        let (answer, place) = oneshot::channel();
        self.shared.command(Command::Sync(answer));
        let wait = async {
            let place = tokio::select! {
                place = place => place.map_err(|_| Final::Failed("capture ended".to_owned()))?,
                end = self.failed() => return Err(end),
            };
            self.wait_for_shipped(place, false).await?;
            self.wait_for_files().await.map(|()| place)
        };
        self.within(timeout, wait).await
    }

    /// A last look, then capture lets go of the database: of every lock, connection and file. It goes on with `resume`, or with the next
    /// start. Answers where captured history ends; what is captured is shipped all the same.
    pub async fn pause(&self, timeout: Duration) -> Result<Place, SyncError> {
        let (answer, place) = oneshot::channel();
        self.shared.command(Command::Pause(answer));
        let wait = async { place.await.map_err(|_| Final::Failed("capture ended".to_owned())) };
        self.within(timeout, wait).await
    }

    /// Capture goes on where it was paused.
    pub fn resume(&self) {
        self.shared.command(Command::Resume);
    }

    /// `sync`, and every replica has a snapshot from which that can be restored.
    pub async fn settle(&self, timeout: Duration) -> Result<Place, SyncError> {
        let began = tokio::time::Instant::now();
        let place = self.sync(timeout).await?;
        if place == Place::ZERO || self.status().state() == State::Absent {
            return Ok(place);
        }
        let wait = async { self.wait_for_shipped(place, true).await.map(|()| place) };
        self.within(timeout.saturating_sub(began.elapsed()), wait).await
    }

    /// A replica without a whole snapshot cannot be restored, and only while capture goes on can one be made.
    pub(super) async fn wait_for_first_snapshots(&self) {
        let can_come = |replica: &ReplicaStatus| {
            matches!(replica.state, ReplicaState::Connecting | ReplicaState::Connected) && replica.snapshot.is_none()
        };
        let is_there = |status: &StatusSnapshot| {
            let is_captured = matches!(status.state, State::Running | State::FirstRead { .. });
            !is_captured || !status.replicas.iter().any(can_come)
        };
        self.status().wait_for(is_there).await;
    }

    pub(super) async fn wait_for_shipped(&self, place: Place, with_snapshot: bool) -> Result<(), Final> {
        let is_there = |status: &StatusSnapshot| {
            let living = status.replicas.iter().filter(|replica| !replica.state.is_final());
            final_error(status).is_some()
                || living.clone().all(|r| r.shipped >= place && (!with_snapshot || r.snapshot.is_some()))
        };
        self.status().wait_for(is_there).await;
        final_error(&self.status().snapshot()).map_or(Ok(()), Err)
    }

    /// Waits until the files beside the database, as they are now, are in every replica that has a commit to keep them with.
    pub(super) async fn wait_for_files(&self) -> Result<(), Final> {
        if self.shared.settings.include.is_none() {
            return Ok(());
        }
        let number = self.shared.looks_asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.shared.asked_for_files.iter().for_each(Notify::notify_one);
        let is_there = |status: &StatusSnapshot| {
            let mut waiting = status.replicas.iter().filter(|r| !r.state.is_final() && r.shipped.txid > Txid::ZERO);
            final_error(status).is_some() || waiting.all(|replica| replica.files_looked >= number)
        };
        self.status().wait_for(is_there).await;
        final_error(&self.status().snapshot()).map_or(Ok(()), Err)
    }

    /// `snapshot`, and a label for that commit in every replica. Nothing is done where one of them has the name already.
    pub async fn snapshot_labelled(
        &self,
        name: &LabelName,
        description: &Description,
        timeout: Duration,
    ) -> Result<Vec<(String, Place, TimeMs)>, LabelledError> {
        let labels: Vec<Labels> =
            self.shared.replicas.iter().map(|replica| Labels::new(replica.store().clone())).collect();
        for one in &labels {
            match one.find(name).await {
                Ok(_) => return Err(LabelError::Exists(name.clone()).into()),
                Err(LabelError::Unknown(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let taken = self.snapshot(timeout).await?;
        // Every replica has everything up to the newest of these, or is about to have it.
        let newest = taken.iter().max_by_key(|(_, place, _)| *place);
        let Some((_, place, time)) = newest else { return Ok(taken) };
        self.within(timeout, self.wait_for_shipped(*place, true)).await?;
        let commit = Named { generation: place.generation, txid: place.txid, time: *time };
        let now = (self.shared.clock)();
        for one in &labels {
            one.create(name, commit, now, description).await?;
        }
        Ok(taken)
    }

    async fn within<T>(&self, timeout: Duration, wait: impl Future<Output = Result<T, Final>>) -> Result<T, SyncError> {
        match tokio::time::timeout(timeout, wait).await {
            Ok(result) => result.map_err(SyncError::Final),
            Err(_) => Err(SyncError::TimedOut { waited: timeout, behind: self.behind() }),
        }
    }

    /// For people: what is not finished.
    fn behind(&self) -> String {
        let status = self.status().snapshot();
        let mut text = format!("{:?}, captured commit {}", status.state, status.captured.0);
        for replica in status.replicas {
            text.push_str(&format!("; {} has {} ({:?})", replica.name, replica.shipped.txid.0, replica.state));
        }
        text
    }

    /// Begins a snapshot in every replica now.
    pub fn snapshot_now(&self) {
        for asked in &self.shared.asked {
            asked.notify_one();
        }
    }

    /// `sync`, and every replica has a snapshot of that commit or a later one. Per replica: its name, and the snapshot.
    pub async fn snapshot(&self, timeout: Duration) -> Result<Vec<(String, Place, TimeMs)>, SyncError> {
        let began = tokio::time::Instant::now();
        let place = self.sync(timeout).await?;
        if place.txid == Txid::ZERO {
            return Err(SyncError::Final(Final::Failed("there is no database yet".to_owned())));
        }
        let has = |replica: &ReplicaStatus| replica.snapshot.is_some_and(|(txid, _)| txid >= place.txid);
        for (asked, replica) in self.shared.asked.iter().zip(self.status().snapshot().replicas) {
            if !has(&replica) {
                asked.notify_one();
            }
        }
        let wait = async {
            let is_there = |status: &StatusSnapshot| {
                final_error(status).is_some() || status.replicas.iter().filter(|r| !r.state.is_final()).all(has)
            };
            self.status().wait_for(is_there).await;
            final_error(&self.status().snapshot()).map_or(Ok(()), Err)
        };
        self.within(timeout.saturating_sub(began.elapsed()), wait).await?;
        let taken = self.status().snapshot().replicas.into_iter().filter_map(|replica| {
            let (txid, time) = replica.snapshot?;
            Some((replica.name, Place { txid, ..place }, time))
        });
        Ok(taken.collect())
    }
}

/// What ended for good, when nothing goes on any more.
fn final_error(status: &StatusSnapshot) -> Option<Final> {
    if let State::Failed(text) = &status.state {
        return Some(Final::Failed(text.clone()));
    }
    let mut last = None;
    for replica in &status.replicas {
        last = match (&replica.state, last) {
            (ReplicaState::Fenced(text), _) => Some(Final::Fenced(text.clone())),
            (ReplicaState::Refused(_), Some(fenced @ Final::Fenced(_))) => Some(fenced),
            (ReplicaState::Refused(text), _) => Some(Final::Refused(text.clone())),
            _ => return None,
        };
    }
    last
}
