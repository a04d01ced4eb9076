//! What was asked for on the panel: under way, or lately done.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;

use crate::position::TimeMs;
use crate::status::Clock;

/// Those that are remembered; the oldest that is done is forgotten first.
const MAX_JOBS: usize = 50;
/// Those that are under way at a time, in the whole process.
const MAX_RUNNING: usize = 8;
/// Of what a job said, its beginning and its end are kept.
const MAX_HEAD_BYTES: usize = 96 * 1024;
const MAX_TAIL_BYTES: usize = 16 * 1024;
/// How long an end waits for what is under way to clean up.
const STOP: Duration = Duration::from_secs(5);

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Backup,
    Sync,
    Verify,
    Drill,
    PlanPrune,
    Prune,
    Pause,
    Resume,
}

impl Action {
    /// With the word of its URL, and what its button says.
    const ALL: [(Action, &str, &str); 8] = [
        (Action::Backup, "backup", "Create backup"),
        (Action::Sync, "sync", "Sync"),
        (Action::Verify, "verify", "Verify"),
        (Action::Drill, "drill", "Drill"),
        (Action::PlanPrune, "plan-prune", "Plan a prune"),
        (Action::Prune, "prune", "Prune"),
        (Action::Pause, "pause", "Pause"),
        (Action::Resume, "resume", "Resume"),
    ];

    pub fn word(self) -> &'static str {
        Action::ALL.iter().find(|(one, ..)| *one == self).map_or("", |(_, word, _)| word)
    }

    pub fn title(self) -> &'static str {
        Action::ALL.iter().find(|(one, ..)| *one == self).map_or("", |(.., title)| title)
    }

    pub fn parse(word: &str) -> Option<Action> {
        Action::ALL.iter().find(|(_, known, _)| *known == word).map(|(action, ..)| *action)
    }

    /// Done in a moment, and wanted most when something else is stuck.
    fn is_quick(self) -> bool {
        matches!(self, Action::Pause | Action::Resume)
    }
}

#[derive(Debug, Clone)]
pub struct Job {
    pub number: u64,
    /// The number of its database, and the path.
    pub id: u64,
    pub path: String,
    pub action: Action,
    pub by: String,
    pub began: TimeMs,
    /// When it ended, and what it said.
    pub end: Option<(TimeMs, Result<String, String>)>,
}

/// Why something was not begun.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    #[error("{0} is under way for this database; one thing at a time")]
    Database(&'static str),
    #[error("{MAX_RUNNING} things are under way in this process; try again when one of them is done")]
    Process,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    jobs: VecDeque<Job>,
    handles: Vec<AbortHandle>,
}

#[derive(Clone)]
pub struct Jobs {
    inner: Arc<Mutex<Inner>>,
    clock: Clock,
}

impl Jobs {
    pub fn new(clock: Clock) -> Jobs {
        Jobs { inner: Arc::default(), clock }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins something in the background: its number.
    pub fn begin(
        &self,
        (id, path): (u64, String),
        action: Action,
        by: String,
        work: impl Future<Output = Result<String, String>> + Send + 'static,
    ) -> Result<u64, Busy> {
        let mut inner = self.lock();
        let running = inner.jobs.iter().filter(|job| job.end.is_none());
        if !action.is_quick() {
            if let Some(other) = running.clone().find(|job| job.id == id && !job.action.is_quick()) {
                return Err(Busy::Database(other.action.word()));
            }
            if running.filter(|job| !job.action.is_quick()).count() >= MAX_RUNNING {
                return Err(Busy::Process);
            }
        }
        if inner.jobs.len() >= MAX_JOBS
            && let Some(oldest) = inner.jobs.iter().position(|job| job.end.is_some())
        {
            inner.jobs.remove(oldest);
        }
        inner.last += 1;
        let number = inner.last;
        let began = (self.clock)();
        inner.jobs.push_back(Job { number, id, path, action, by, began, end: None });
        let jobs = self.clone();
        // However it ends, also by a panic or when it is given up before it began, it does not stay under way.
        let given_up = Err("it was given up, or failed within; the log says why".to_owned());
        let ending = Ending { jobs, number, said: given_up };
        let task = tokio::spawn(async move { ending.with(work.await.map(bounded).map_err(bounded)) });
        inner.handles.retain(|handle| !handle.is_finished());
        inner.handles.push(task.abort_handle());
        Ok(number)
    }

    pub fn find(&self, number: u64) -> Option<Job> {
        self.lock().jobs.iter().find(|job| job.number == number).cloned()
    }

    /// Those of one database, newest first.
    pub fn of(&self, id: u64) -> Vec<Job> {
        self.lock().jobs.iter().rev().filter(|job| job.id == id).cloned().collect()
    }

    /// Gives up what is under way, and lets it clean up.
    pub async fn stop(&self) {
        self.lock().handles.iter().for_each(AbortHandle::abort);
        let ended = async {
            while self.lock().handles.iter().any(|handle| !handle.is_finished()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(STOP, ended).await.ok();
    }
}

struct Ending {
    jobs: Jobs,
    number: u64,
    said: Result<String, String>,
}

impl Ending {
    fn with(mut self, said: Result<String, String>) {
        self.said = said;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let now = (self.jobs.clock)();
        let said = std::mem::replace(&mut self.said, Ok(String::new()));
        let mut inner = self.jobs.lock();
        let Some(job) = inner.jobs.iter_mut().find(|job| job.number == self.number) else { return };
        let (action, by) = (job.action.word(), &job.by);
        match &said {
            Ok(_) => tracing::info!(database = job.path, by, "{action}, asked for on the panel: done"),
            Err(why) => {
                let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
                let why: String = why.chars().take(1000).collect();
                tracing::warn!(database = job.path, by, "{action}, asked for on the panel, failed: {why}");
            }
        }
        job.end = Some((now, said));
    }
}

fn bounded(text: String) -> String {
    if text.len() <= MAX_HEAD_BYTES + MAX_TAIL_BYTES {
        return text;
    }
    let (head, tail) = (text.floor_char_boundary(MAX_HEAD_BYTES), text.ceil_char_boundary(text.len() - MAX_TAIL_BYTES));
    format!("{}\n… {} bytes are left out; the command line tells all …\n{}", &text[..head], tail - head, &text[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::system_clock;

    fn begin(jobs: &Jobs, id: u64, action: Action, said: Option<Result<String, String>>) -> Result<u64, Busy> {
        let work = async move {
            match said {
                Some(said) => said,
                None => std::future::pending().await,
            }
        };
        jobs.begin((id, format!("{id}.db")), action, "ann".to_owned(), work)
    }

    async fn ended(jobs: &Jobs, number: u64) -> Result<String, String> {
        loop {
            if let Some((_, said)) = jobs.find(number).expect("it is remembered").end {
                return said;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// One thing at a time for a database and a few in the process; pausing and resuming is always possible.
    #[tokio::test]
    async fn one_thing_at_a_time() {
        let jobs = Jobs::new(system_clock());
        let first = begin(&jobs, 0, Action::Verify, None).expect("begun");
        assert_eq!(begin(&jobs, 0, Action::Drill, None), Err(Busy::Database("verify")));
        let pause = begin(&jobs, 0, Action::Pause, Some(Ok(String::new()))).expect("begun");
        assert_eq!(ended(&jobs, pause).await, Ok(String::new()));
        for id in 1..MAX_RUNNING as u64 {
            begin(&jobs, id, Action::Drill, None).expect("begun");
        }
        assert_eq!(begin(&jobs, 99, Action::Drill, None), Err(Busy::Process));
        assert!(begin(&jobs, 99, Action::Resume, Some(Ok(String::new()))).is_ok());
        jobs.stop().await;
        assert!(ended(&jobs, first).await.is_err(), "what was given up is not under way any more");
        assert!(begin(&jobs, 0, Action::Drill, None).is_ok());
    }

    /// What is remembered is bounded, in number and in length; what failed within is no job for ever.
    #[tokio::test]
    async fn memory_is_bounded() {
        let jobs = Jobs::new(system_clock());
        let long = "ä".repeat(100_000) + "the end";
        for _ in 0..200 {
            let number = begin(&jobs, 0, Action::PlanPrune, Some(Ok(long.clone()))).expect("begun");
            let said = ended(&jobs, number).await.expect("done");
            assert!(said.len() < 120_000 && said.ends_with("the end"), "{}", said.len());
        }
        let remembered = jobs.lock().jobs.len();
        assert_eq!((remembered, jobs.of(0).len(), jobs.of(1).len()), (MAX_JOBS, MAX_JOBS, 0));
        let number = jobs.begin((0, "x".into()), Action::Sync, "ann".into(), async { panic!("on purpose") });
        assert!(ended(&jobs, number.expect("begun")).await.is_err());
    }
}
