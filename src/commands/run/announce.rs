//! What systemd is told of a running `run`.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::{Working, settled};
use crate::config::Environment;
use crate::status::{Status, StatusSnapshot};
use crate::systemd::Notifier;

/// Nobody who cannot be told keeps anything from being replicated.
pub fn notifier(environment: Environment<'_>) -> Option<Arc<Notifier>> {
    match Notifier::from_environment(environment) {
        Ok(notifier) => notifier.map(Arc::new),
        Err(error) => {
            tracing::warn!("the notification socket cannot be used: {error}");
            None
        }
    }
}

/// Ends when it is dropped.
pub struct Announcing(Option<JoinHandle<()>>);

impl Drop for Announcing {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// Ready when every database is captured, or will be from its first commit on; well as long as no capturing thread hangs.
pub fn announce(notifier: Option<&Arc<Notifier>>, all: &[Working]) -> Announcing {
    let statuses: Vec<Status> = all.iter().map(|working| working.replicator.status().clone()).collect();
    Announcing(notifier.cloned().map(|notifier| tokio::spawn(run(notifier, statuses))))
}

async fn run(notifier: Arc<Notifier>, statuses: Vec<Status>) {
    for status in &statuses {
        settled(status).await;
    }
    let mut told = summary(&statuses);
    notifier.ready(&told);
    let Some(watchdog) = notifier.watchdog() else { return };
    // Half of it, as its manual advises.
    let mut ticks = tokio::time::interval((watchdog / 2).max(Duration::from_millis(1)));
    loop {
        ticks.tick().await;
        if !statuses.iter().any(|status| status.snapshot().hangs()) {
            notifier.well();
        }
        let now = summary(&statuses);
        if now != told {
            notifier.status(&now);
            told = now;
        }
    }
}

/// One line for `systemctl status`.
fn summary(statuses: &[Status]) -> String {
    let snapshots: Vec<StatusSnapshot> = statuses.iter().map(Status::snapshot).collect();
    let count = match snapshots.len() {
        1 => "1 database".to_owned(),
        many => format!("{many} databases"),
    };
    let troubled: Vec<_> =
        snapshots.iter().filter_map(|s| Some((&s.database, s.troubles().into_iter().next()?))).collect();
    match troubled.first() {
        None => format!("{count} replicated"),
        Some((database, trouble)) => format!("{count}, {} of them in trouble; {database}: {trouble}", troubled.len()),
    }
}
