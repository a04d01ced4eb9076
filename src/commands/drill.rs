//! `replicate drill`: a restore that nobody needs, and what came of it.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use super::list::{ListOptions, Span};
use super::progress::Bar;
use super::reading::{for_each_replica, surroundings};
use super::restore::{Surroundings, print_text, print_value, request};
use super::runtime;
use super::source::{Source, open};
use crate::cli::DrillArgs;
use crate::config::Environment;
use crate::config::units::show_duration;
use crate::drill::{Assertion, Drilling, Record, RecordError, Records, drill};
use crate::error::{Error, ExitCode};
use crate::layout::ObjectName;
use crate::position::TimeMs;
use crate::restore::point::format_time;
use crate::restore::{DEFAULT_JOBS, Reading, RestoreError, no_object};
use crate::status::{Clock, system_clock};
use crate::store::{Key, Store};
use crate::supervisor::{STOPPING, Signals};

/// Records that are read at a time.
const READS_AT_A_TIME: usize = 8;

/// What is asked for, as plain data.
#[derive(Debug, Clone)]
pub struct DrillOptions {
    /// As in `--at`; `None`: the newest commit.
    pub at: Option<String>,
    /// Where the scratch directory is made.
    pub scratch: PathBuf,
    pub assertions: Vec<Assertion>,
    /// Keep a record in the replica.
    pub record: bool,
    pub json: bool,
    /// Show how far it has come, on stderr.
    pub progress: bool,
}

pub fn execute(args: DrillArgs, environment: Environment<'_>) -> Result<u8, Error> {
    let source = Source::resolve(&args.source, environment)?;
    let more = args.assertions.into_iter().map(|sql| Assertion { name: sql.clone(), sql, expected: None });
    let options = DrillOptions {
        at: args.at,
        scratch: args.scratch.unwrap_or_else(|| source.scratch()),
        assertions: source.assertions().into_iter().chain(more).collect(),
        record: !args.no_record,
        json: args.json.on,
        progress: std::io::stderr().is_terminal(),
    };
    let around = surroundings();
    let runtime = runtime()?;
    let mut signals = runtime.block_on(async { Signals::listen(&STOPPING) })?;
    let mut stopped = None;
    for_each_replica(&source, options.json, |_, replica| {
        if stopped.is_some() {
            return Ok(());
        }
        let (store, mut out) = (open(replica)?, std::io::stdout());
        runtime.block_on(async {
            tokio::select! {
                done = run(store, &options, &around, &mut out) => done,
                // What was restored so far is removed on the way out.
                which = signals.next_stop() => {
                    stopped = Some(128 + which as u8);
                    Ok(())
                }
            }
        })
    })?;
    Ok(stopped.unwrap_or(super::DONE))
}

/// Drills one replica and prints what came of it. A drill that failed is an error, with the exit code of a damaged replica where
/// that was the reason.
pub async fn run(
    store: Arc<dyn Store>,
    options: &DrillOptions,
    around: &Surroundings,
    out: &mut (dyn Write + Send),
) -> Result<(), Error> {
    let (record, key) = drilled(&store, options, around, system_clock()).await?;
    match options.json {
        true => print_value(out, &value(&record, key.as_ref()))?,
        false => print_text(out, &text(&record, key.as_ref()))?,
    }
    match record.problem {
        None => Ok(()),
        Some(problem) if record.damaged => Err(Error::new(ExitCode::Damaged, format!("the drill failed: {problem}"))
            .next_step("see all that is wrong: replicate verify --deep")),
        Some(problem) => Err(Error::failed(format!("the drill failed: {problem}"))
            .next_step("restore it and look: replicate restore, with --no-check if the engine refuses it")),
    }
}

/// Drills one replica and keeps the record there.
pub async fn drilled(
    store: &Arc<dyn Store>,
    options: &DrillOptions,
    around: &Surroundings,
    clock: Clock,
) -> Result<(Record, Option<Key>), Error> {
    let how = Drilling {
        request: request(store, options.at.as_deref(), None, around).await?,
        point: options.at.clone().unwrap_or_else(|| "now".to_owned()),
        folder: options.scratch.clone(),
        assertions: options.assertions.clone(),
        jobs: DEFAULT_JOBS,
        engine: around.engine,
        clock,
        random: around.random,
        progress: Arc::new(Bar::new(options.progress)),
    };
    let record = drill(&Reading::new(store.clone()), &how).await?;
    if !options.record {
        return Ok((record, None));
    }
    let key = Records::new(store.clone()).put(&record).await.map_err(|error| {
        let outcome = record.problem.as_deref().unwrap_or("it passed");
        let context = format!("the drill is over ({outcome}), but its record cannot be kept in the replica");
        Error::from(error).context(context)
    })?;
    Ok((record, Some(key)))
}

impl From<RecordError> for Error {
    fn from(error: RecordError) -> Error {
        match error {
            RecordError::Store(error) => error.into(),
            error @ RecordError::Damaged { .. } => Error::new(ExitCode::Damaged, error.to_string()),
        }
    }
}

/// Prints the history of a replica's drills, oldest first.
pub async fn list(
    store: Arc<dyn Store>,
    options: &ListOptions,
    around: &Surroundings,
    out: &mut (dyn Write + Send),
) -> Result<(), Error> {
    let span = Span::new(options, around)?;
    let (source, records) = (store.describe(), Records::new(store.clone()));
    if Reading::new(store).marker().await.map_err(no_object)?.is_none() {
        return Err(RestoreError::Nothing(format!("there is no replica in {source}")).into());
    }
    let names = records.list().await?.into_iter().filter(|name| span.holds(name.time));
    let read = stream::iter(names).map(|name| {
        let records = &records;
        async move { (ObjectName::Drill(name).key(), records.read(name).await) }
    });
    let mut read = std::pin::pin!(read.buffered(READS_AT_A_TIME));
    let (mut facts, mut damage, mut lines) = (Vec::new(), Vec::new(), String::new());
    while let Some((key, record)) = read.next().await {
        match record {
            Ok(record) => {
                lines.push_str(&line(&record));
                facts.push(value(&record, Some(&key)));
            }
            Err(RecordError::Damaged { problem, .. }) => damage.push(format!("{key}: {problem}")),
            Err(error) => return Err(error.into()),
        }
    }
    match options.json {
        true => print_value(out, &json!({ "source": source, "drills": facts, "damage": damage }))?,
        false if lines.is_empty() => print_text(out, "no drill so far: replicate drill\n")?,
        false => print_text(out, &lines)?,
    }
    match damage.is_empty() {
        true => Ok(()),
        false => Err(Error::new(ExitCode::Damaged, format!("records that cannot be read:\n  {}", damage.join("\n  ")))),
    }
}

fn line(record: &Record) -> String {
    let (word, time) = (if record.passed { "passed" } else { "FAILED" }, format_time(TimeMs(record.began_ms)));
    let took = show_duration(std::time::Duration::from_millis(record.duration_ms));
    let commit =
        record.commit.as_ref().map_or("-".to_owned(), |commit| format!("{}/{}", commit.generation, commit.txid));
    let problem = record.problem.as_ref().and_then(|problem| problem.lines().next()).unwrap_or_default();
    format!("{time}  {word}  {took}  {commit}  {} assertions  {problem}", record.assertions.len()).trim_end().to_owned()
        + "\n"
}

/// A record as JSON, with the name of its object.
pub fn value(record: &Record, key: Option<&Key>) -> Value {
    let mut value = json!(record);
    value["began"] = json!(format_time(TimeMs(record.began_ms)));
    value["object"] = json!(key.map(Key::as_str));
    value
}

fn text(record: &Record, key: Option<&Key>) -> String {
    let ms = |ms| show_duration(std::time::Duration::from_millis(ms));
    let mut text = String::new();
    if let Some(commit) = &record.commit {
        let (time, age) = (format_time(TimeMs(commit.time_ms)), ms(commit.age_ms));
        text.push_str(&format!("restored  {}/{}, {time}, {age} old\n", commit.generation, commit.txid));
        let checked = if record.checked { "accepted by its engine" } else { "not checked" };
        text.push_str(&format!("          {} bytes, checksum {} proven, {checked}\n", record.bytes, commit.checksum));
    }
    if record.files > 0 {
        text.push_str(&format!("          {} files beside it, each proven\n", record.files));
    }
    for phase in &record.phases {
        text.push_str(&format!("time      {} {}\n", ms(phase.duration_ms), phase.name));
    }
    for assertion in &record.assertions {
        let word = if assertion.passed { "holds " } else { "FAILS " };
        text.push_str(&format!("{word}    {}: {}\n", assertion.name, assertion.found));
    }
    if let Some(key) = key {
        text.push_str(&format!("record    {key}\n"));
    }
    match &record.problem {
        None => text.push_str(&format!("passed in {}\n", ms(record.duration_ms))),
        Some(problem) => text.push_str(&format!("FAILED: {problem}\n")),
    }
    text
}
