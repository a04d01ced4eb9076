//! What systemd is told of a running `run`.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::settled;
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

/// Of the databases at work, as they come and go.
pub type Statuses = Arc<RwLock<Vec<Status>>>;

/// Ready when every database is captured, or will be from its first commit on; well as long as no capturing thread hangs.
pub fn announce(notifier: Option<&Arc<Notifier>>, statuses: Statuses) -> Announcing {
    Announcing(notifier.cloned().map(|notifier| tokio::spawn(run(notifier, statuses))))
}

async fn run(notifier: Arc<Notifier>, statuses: Statuses) {
    let at_work = || statuses.read().unwrap_or_else(PoisonError::into_inner).clone();
    for status in at_work() {
        settled(&status).await;
    }
    let mut told = summary(&at_work());
    notifier.ready(&told);
    let Some(watchdog) = notifier.watchdog() else { return };
    // Half of it, as its manual advises.
    let mut ticks = tokio::time::interval((watchdog / 2).max(Duration::from_millis(1)));
    loop {
        ticks.tick().await;
        let statuses = at_work();
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
