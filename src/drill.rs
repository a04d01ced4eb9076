//! Drills: a restore that nobody needs, so that the one that somebody needs works.
//!
//! A point is restored to a scratch directory exactly as `restore` would, its engine checks it, assertions in SQL are put to it, every phase
//! is timed, and a record of it is kept in the replica.
//!
//! | file | holds |
//! |---|---|
//! | `record.rs` | what a drill came to, and the history of all drills of a replica |
//! | `scratch.rs` | the directory that is removed afterwards |
//! | `stopwatch.rs` | how long each phase took |

use std::path::PathBuf;
use std::sync::Arc;

use crate::engine::choice::EngineOf;
use crate::engine::{Answer, EngineError};
use crate::fileset::FileSets;
use crate::position::TimeMs;
use crate::restore::{
    Execution, Progress, Reading, Request, RestoreError, RestorePlan, Restored, from_file_set, kept_files, no_object,
    restore,
};
use crate::status::Clock;

mod record;
mod scratch;
mod stopwatch;

pub use record::{Asserted, MAX_RECORDS, Phase, Record, RecordError, Records, RestoredCommit};
pub use scratch::Scratch;
use stopwatch::Stopwatch;

/// What must be true of a restored database: a query that gives one row with one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion {
    pub name: String,
    pub sql: String,
    /// The value that must come, as text; `None`: one that SQL takes for true.
    pub expected: Option<String>,
}

impl Assertion {
    /// The word true, or a number other than zero; or what is expected.
    fn accepts(&self, value: &str) -> bool {
        match &self.expected {
            Some(expected) => value == expected,
            None => value.eq_ignore_ascii_case("true") || value.parse().is_ok_and(|n: f64| n != 0.0 && !n.is_nan()),
        }
    }

    fn judge(&self, answer: &Answer) -> Asserted {
        let (found, passed) = match answer {
            Answer::Value(value) => (value.clone(), self.accepts(value)),
            Answer::Other(what) => (what.clone(), false),
        };
        let expected = self.expected.clone().unwrap_or_else(|| "true".to_owned());
        Asserted { name: self.name.clone(), sql: self.sql.clone(), expected, found, passed }
    }
}

/// How to drill.
pub struct Drilling {
    pub request: Request,
    /// The point as it was asked for, for the record.
    pub point: String,
    /// Where the scratch directory is made.
    pub folder: PathBuf,
    pub assertions: Vec<Assertion>,
    /// Requests at a time.
    pub jobs: usize,
    pub engine: EngineOf,
    pub clock: Clock,
    pub random: u32,
    pub progress: Arc<dyn Progress>,
}

/// Free for what an engine needs beside the restored files, and so that a drill fills no disk to the brim.
const SPARE_BYTES: u64 = 64 << 20;

/// Restores, checks and asks. A replica that is found wanting is a record that says so; an error is what says nothing about
/// the replica: there is none, it does not answer, or this machine has no room.
pub async fn drill(reading: &Reading, how: &Drilling) -> Result<Record, RestoreError> {
    let engine = reading.marker().await.map_err(no_object)?;
    let Some(engine) = engine else {
        return Err(RestoreError::Nothing(format!("there is no replica in {}", reading.describe())));
    };
    let began = (how.clock)();
    let scratch = Scratch::new(&how.folder, how.random)?;
    let watch = Arc::new(Stopwatch::new(how.progress.clone()));
    let mut record = Record::new(began, engine, &how.point);
    let execution = Execution {
        target: scratch.path().join("database"),
        overwrite: false,
        jobs: how.jobs,
        engine: how.engine,
        check: true,
        fold: true,
        spare_bytes: SPARE_BYTES,
        now: began,
        random: how.random,
        progress: watch.clone(),
    };
    match restore(reading, &how.request, &execution).await {
        Ok(restored) => {
            record.restored(&restored);
            match prove_files(reading, &restored.plan, &how.request, &watch).await {
                Ok(count) => record.files = count,
                Err(error @ RestoreError::Damaged(_)) => {
                    (record.damaged, record.problem) = (true, Some(error.to_string()));
                }
                Err(error) => return Err(error),
            }
            if record.problem.is_none() && !how.assertions.is_empty() {
                watch.begin("asserting", 0);
                record.assertions = assert(&restored, how).await.unwrap_or_else(|error| {
                    record.problem = Some(error.to_string());
                    Vec::new()
                });
            }
        }
        Err(error @ RestoreError::Damaged(_)) => {
            (record.damaged, record.problem) = (true, Some(error.to_string()));
        }
        Err(error @ RestoreError::NotAccepted { .. }) => record.problem = Some(error.to_string()),
        Err(error) => return Err(error),
    }
    record.phases = watch.phases();
    record.finish((how.clock)());
    // Removing much takes a while, and is no part of what a restore costs.
    tokio::task::spawn_blocking(move || drop(scratch)).await.ok();
    Ok(record)
}

/// Reads every file that was kept with the commit, proves it against its SHA-256, and counts them.
async fn prove_files(
    reading: &Reading,
    plan: &RestorePlan,
    request: &Request,
    watch: &Stopwatch,
) -> Result<u64, RestoreError> {
    let kept = match kept_files(reading, plan, request).await {
        // None was kept then.
        Err(RestoreError::Nothing(_)) => return Ok(0),
        kept => kept?,
    };
    watch.begin("proving files", kept.set.total_bytes());
    let sets = FileSets::new(reading.replica().store().clone());
    for file in &kept.set.files {
        sets.content(plan.generation, file).await.map_err(from_file_set)?;
    }
    Ok(kept.set.files.len() as u64)
}

/// Puts the assertions to the restored database.
async fn assert(restored: &Restored, how: &Drilling) -> Result<Vec<Asserted>, EngineError> {
    let Some(engine) = (how.engine)(restored.plan.engine) else {
        return Err(EngineError::NotCapturable {
            reason: format!("this version cannot ask a {} database anything", restored.plan.engine),
            next_step: "leave the assertions out",
        });
    };
    let (path, sql) = (restored.target.clone(), how.assertions.iter().map(|a| a.sql.clone()).collect::<Vec<_>>());
    let answers = tokio::task::spawn_blocking(move || engine.ask(&path, &sql)).await;
    let ended =
        |error| EngineError::Io { context: "asking ended early".to_owned(), source: std::io::Error::other(error) };
    let answers = answers.map_err(ended)??;
    Ok(how.assertions.iter().zip(&answers).map(|(assertion, answer)| assertion.judge(answer)).collect())
}

/// Age of what a drill restored: what would be lost now.
fn age(began: TimeMs, commit: TimeMs) -> u64 {
    began.0.saturating_sub(commit.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What counts as true, and what as the value that was expected.
    #[test]
    fn truth() {
        let assertion = |expected: Option<&str>| Assertion {
            name: "n".into(),
            sql: "q".into(),
            expected: expected.map(str::to_owned),
        };
        for (value, is_true) in
            [("1", true), ("-3", true), ("0.5", true), ("true", true), ("TRUE", true)].into_iter().chain([
                ("0", false),
                ("0.0", false),
                ("false", false),
                ("NULL", false),
                ("", false),
                ("yes", false),
                ("NaN", false),
            ])
        {
            assert_eq!(assertion(None).accepts(value), is_true, "{value:?}");
        }
        assert!(assertion(Some("0")).accepts("0") && !assertion(Some("0")).accepts("0.0"));
        let judged = assertion(None).judge(&Answer::Other("no row came".into()));
        assert_eq!((judged.passed, judged.expected.as_str(), judged.found.as_str()), (false, "true", "no row came"));
    }
}
