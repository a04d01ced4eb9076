//! What a running replicator does by the clock: verifications and drills of each replica, beside everything else.
//!
//! One at a time in the whole process. What could not be done in time, because another one was at work or the machine was asleep, is done
//! once as soon as possible, however often it was due. Nothing that goes wrong here ends anything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::super::source::open;
use super::proving::{Proving, Work};
use crate::config::{DatabaseConfig, ReplicaConfig};
use crate::cron::Cron;
use crate::drill::Records;
use crate::error::Error;
use crate::position::TimeMs;
use crate::replicator::verified;
use crate::status::{Status, system_clock};

/// The wall clock is looked at so often: it may jump, and the machine may sleep.
const LOOK: Duration = Duration::from_secs(30);
/// How long an end waits for what is under way to clean up.
const STOP: Duration = Duration::from_secs(5);

/// When one kind of work is due next. Pure.
#[derive(Debug)]
struct Due {
    work: Work,
    cron: Cron,
    at: Option<TimeMs>,
}

impl Due {
    fn new(work: Work, cron: Cron, now: TimeMs) -> Due {
        Due { work, at: cron.next_after(now), cron }
    }

    /// Is it due now? A clock that was set back brings the next time nearer again.
    fn is_due(&mut self, now: TimeMs) -> bool {
        let is_due = self.at.is_some_and(|at| at <= now);
        if !is_due {
            self.at = self.at.into_iter().chain(self.cron.next_after(now)).min();
        }
        is_due
    }

    /// It was done. What was missed meanwhile is not made up for.
    fn done(&mut self, now: TimeMs) {
        self.at = self.cron.next_after(now);
    }
}

/// The work of all databases.
#[derive(Debug)]
pub(super) struct Scheduled {
    /// One at a time.
    turn: Arc<Semaphore>,
    tasks: BTreeMap<PathBuf, JoinHandle<()>>,
}

impl Default for Scheduled {
    fn default() -> Self {
        Scheduled { turn: Arc::new(Semaphore::new(1)), tasks: BTreeMap::new() }
    }
}

impl Scheduled {
    /// Whoever holds it may verify or drill.
    pub fn turn(&self) -> Arc<Semaphore> {
        self.turn.clone()
    }

    /// Begins with what is configured for a database.
    pub fn add(&mut self, database: &Arc<DatabaseConfig>, status: Status) {
        let clock = system_clock();
        let schedule = &database.settings.schedule;
        let crons = [(Work::Verify, &schedule.verify), (Work::Drill, &schedule.drill)];
        let due = |(work, cron): (Work, &Option<Cron>)| Some(Due::new(work, cron.clone()?, clock()));
        let due: Vec<Due> = crons.into_iter().filter_map(due).collect();
        if due.is_empty() {
            return;
        }
        let (path, turn) = (database.path.clone(), self.turn.clone());
        let proving = Proving { database: database.clone(), status, clock };
        let worker = Worker { proving, turn, look: LOOK, due };
        self.tasks.insert(path, tokio::spawn(worker.run()));
    }

    /// Of a database that is gone.
    pub fn remove(&mut self, path: &Path) {
        if let Some(task) = self.tasks.remove(path) {
            task.abort();
        }
    }

    /// Ends what is under way; its scratch directory is removed.
    pub async fn stop(&mut self) {
        for task in self.tasks.values() {
            task.abort();
        }
        let tasks = std::mem::take(&mut self.tasks);
        let ended = async {
            for task in tasks.into_values() {
                // Cancelled, or ended before.
                task.await.ok();
            }
        };
        // What is too slow is left behind, and goes with the next drill.
        tokio::time::timeout(STOP, ended).await.ok();
    }
}

struct Worker {
    proving: Proving,
    turn: Arc<Semaphore>,
    look: Duration,
    due: Vec<Due>,
}

impl Worker {
    async fn run(mut self) {
        self.recall().await;
        loop {
            let now = (self.proving.clock)();
            match self.due.iter_mut().position(|due| due.is_due(now)) {
                Some(number) => {
                    let work = self.due[number].work;
                    // The semaphore is never closed.
                    let _turn = self.turn.clone().acquire_owned().await.ok();
                    for (index, replica) in self.proving.database.replicas.iter().enumerate() {
                        self.work(work, index, replica).await;
                    }
                    let now = (self.proving.clock)();
                    self.due[number].done(now);
                }
                None => {
                    let next = self.due.iter().filter_map(|due| due.at).min();
                    let wait = next.map_or(self.look, |at| Duration::from_millis(at.0.saturating_sub(now.0)));
                    tokio::time::sleep(wait.clamp(Duration::from_millis(1), self.look)).await;
                }
            }
        }
    }

    /// What is known of times before this process, so that a restart is not taken for a long silence.
    async fn recall(&self) {
        for (index, replica) in self.proving.database.replicas.iter().enumerate() {
            let last_verified = verified::read(&self.proving.database.state_dir, index);
            let drilled = match open(replica) {
                Ok(store) => Records::new(store).list().await.map_err(Error::from),
                Err(error) => Err(error),
            };
            let drilled = drilled.unwrap_or_else(|error| {
                tracing::debug!(replica = replica.shown_url(), "its drills cannot be listed: {}", error.report());
                Vec::new()
            });
            let drilled = drilled.iter().filter(|name| name.passed).map(|name| name.time).max();
            self.proving.status.replica(index, |status| {
                status.verify.last_success = status.verify.last_success.max(last_verified);
                status.drill.last_success = status.drill.last_success.max(drilled);
            });
        }
    }

    async fn work(&self, work: Work, index: usize, replica: &ReplicaConfig) {
        let (database, shown) = (self.proving.database.path.display(), replica.shown_url());
        let (word, began) = (work.word(), Instant::now());
        match self.proving.prove(work, index, replica).await {
            Ok(_) => {
                let took_ms = began.elapsed().as_millis();
                tracing::info!(%database, replica = shown, took_ms, "{word}: passed");
            }
            Err(error) => {
                tracing::error!(%database, replica = shown, "THE SCHEDULED {} FAILED: {}", word.to_uppercase(), error.report());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::config::Config;
    use crate::cron::Zone;
    use crate::status::Clock;

    const MINUTE: u64 = 60_000;

    fn due(expression: &str, now: u64) -> Due {
        Due::new(Work::Verify, Cron::parse(expression, &Zone::UTC).expect("a cron expression"), TimeMs(now))
    }

    /// Work is due at its time and not before; what was missed any number of times is done once; and after a clock that was wrong for a
    /// while the next time is right again.
    #[test]
    fn missed_runs_do_not_pile_up() {
        let mut hourly = due("@hourly", 10 * MINUTE);
        assert!(!hourly.is_due(TimeMs(60 * MINUTE - 1)));
        assert!(hourly.is_due(TimeMs(60 * MINUTE)));
        // Asleep for ten hours, or waiting for another one.
        assert!(hourly.is_due(TimeMs(11 * 60 * MINUTE + 5)));
        hourly.done(TimeMs(11 * 60 * MINUTE + 6));
        assert!(!hourly.is_due(TimeMs(11 * 60 * MINUTE + 7)));
        assert!(hourly.is_due(TimeMs(12 * 60 * MINUTE)));
        // Done while the clock was years ahead.
        hourly.done(TimeMs(1 << 40));
        assert!(!hourly.is_due(TimeMs(12 * 60 * MINUTE + 1)));
        assert_eq!(hourly.at, Some(TimeMs(13 * 60 * MINUTE)));
    }

    /// A worker whose clock can be set, for a database with a replica that does not exist.
    fn worker(folder: &std::path::Path, now: &Arc<AtomicU64>) -> Worker {
        let clock: Clock = {
            let now = now.clone();
            Arc::new(move || TimeMs(now.load(Ordering::Relaxed)))
        };
        let database = DatabaseConfig::new(&folder.join("a.db"), &Config::default()).expect("a database");
        let status = Status::new("a.db", ["replica".to_owned()], 1, clock.clone());
        let due = vec![due("@hourly", clock().0)];
        let proving = Proving { database: Arc::new(database), status, clock };
        Worker { proving, turn: Arc::new(Semaphore::new(1)), look: Duration::from_millis(20), due }
    }

    /// What fails by the clock is told by the status with its reason, ends nothing, and is done again when it is due again.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_failure_is_told_and_ends_nothing() {
        let folder = tempfile::tempdir().expect("a directory");
        let now = Arc::new(AtomicU64::new(60 * MINUTE - 20));
        let worker = worker(folder.path(), &now);
        let status = worker.proving.status.clone();
        let task = tokio::spawn(worker.run());
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(status.snapshot().replicas[0].verify.failures, 0, "nothing is done before it is due");
        for run in 1..=2u64 {
            // Again and again: on a slow machine the end of one run may see the clock only after it was put forward.
            let mut hours = 0;
            loop {
                now.fetch_add(60 * MINUTE, Ordering::Relaxed);
                let done = status.wait_for(|status| status.replicas[0].verify.failures >= run);
                if tokio::time::timeout(Duration::from_secs(1), done).await.is_ok() {
                    break;
                }
                hours += 1;
                assert!(hours < 120 && !task.is_finished(), "not done when it is due");
            }
            let verify = status.snapshot().replicas[0].verify.clone();
            let (_, why) = verify.last_failure.clone().expect("a failure");
            assert!(verify.is_failing() && why.contains("no replica"), "{verify:?}");
            assert_eq!((verify.running_since, verify.successes), (None, 0));
        }
        assert!(status.snapshot().errors["verify"] >= 2 && !task.is_finished());
        task.abort();
    }
}
