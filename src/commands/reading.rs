//! The commands that read a replica: from arguments to plain options, and from one replica to the next.

use std::io::IsTerminal;
use std::path::Path;

use jiff::tz::TimeZone;

use super::drill;
use super::list::{self, ListOptions, ListWhat};
use super::restore::{self, RestoreOptions, Surroundings};
use super::source::{Source, open};
use super::verify::{self, VerifyOptions};
use super::{engine_of, print, runtime};
use crate::cli::{ListArgs, RestoreArgs, VerifyArgs};
use crate::config::units::{parse_duration, parse_share};
use crate::config::{Environment, ReplicaConfig};
use crate::error::{Error, ExitCode};
use crate::restore::{DEFAULT_JOBS, FilesTo};
use crate::status::system_clock;

/// Clock, place and chance of this machine.
pub fn surroundings() -> Surroundings {
    Surroundings { now: system_clock()(), zone: TimeZone::system(), random: rand::random(), engine: engine_of }
}

pub fn execute_restore(args: RestoreArgs, environment: Environment<'_>) -> Result<(), Error> {
    let source = Source::resolve(&args.source, environment)?;
    let target = args.output.unwrap_or_else(|| source.target.clone());
    let files = args.files_to.map(FilesTo::Folder).or(args.with_files.then_some(FilesTo::Beside));
    let options = RestoreOptions {
        target,
        at: args.at,
        generation: args.generation,
        if_missing: args.if_missing,
        if_replica_exists: args.if_replica_exists,
        overwrite: args.overwrite,
        dry_run: args.dry_run,
        check: !args.no_check,
        keep_wal: args.keep_wal,
        files,
        jobs: args.jobs.map_or(DEFAULT_JOBS, usize::from),
        json: args.json.on,
        progress: std::io::stderr().is_terminal(),
    };
    runtime()?.block_on(restore_from_any(&source.replicas, &options, &surroundings(), &mut std::io::stdout()))
}

/// Lists every replica of the source, one after the other.
pub fn execute_list(args: ListArgs, environment: Environment<'_>) -> Result<(), Error> {
    let source = Source::resolve(&args.source, environment)?;
    let asked = [
        (args.generations, ListWhat::Generations),
        (args.snapshots, ListWhat::Snapshots),
        (args.segments, ListWhat::Segments),
        (args.commits, ListWhat::Commits),
        (args.files, ListWhat::Files),
    ];
    let what = asked.into_iter().find(|(is_asked, _)| *is_asked).map_or(ListWhat::Summary, |(_, what)| what);
    let options = ListOptions { what, from: args.from, to: args.to, json: args.json.on };
    let around = surroundings();
    let runtime = runtime()?;
    for_each_replica(&source, options.json, |_, replica| {
        let (store, out) = (open(replica)?, &mut std::io::stdout());
        match args.drills {
            true => runtime.block_on(drill::list(store, &options, &around, out)),
            false => runtime.block_on(list::run(store, &options, &around, out)),
        }
    })
}

/// Verifies every replica of the source, one after the other.
pub fn execute_verify(args: VerifyArgs, environment: Environment<'_>) -> Result<(), Error> {
    let source = Source::resolve(&args.source, environment)?;
    let max_age = args.max_age.as_deref().map(parse_duration).transpose().map_err(Error::usage)?;
    let sample = args.sample.as_deref().map(parse_share).transpose().map_err(Error::usage)?;
    let options = VerifyOptions {
        deep: args.deep,
        sample,
        max_age,
        json: args.json.on,
        progress: std::io::stderr().is_terminal(),
        ..VerifyOptions::default()
    };
    let around = surroundings();
    let runtime = runtime()?;
    for_each_replica(&source, options.json, |number, replica| {
        let store = open(replica)?;
        let options = VerifyOptions { shipped: source.shipped(number), ..options.clone() };
        runtime.block_on(verify::run(store, &options, &around, &mut std::io::stdout()))?;
        source.note_verified(number, around.now);
        Ok(())
    })
}

/// What is wrong with one replica does not hide the others; the first error is the command's. As JSON, every replica is a
/// document of its own.
pub(super) fn for_each_replica(
    source: &Source,
    json: bool,
    mut look: impl FnMut(usize, &ReplicaConfig) -> Result<(), Error>,
) -> Result<(), Error> {
    let many = source.replicas.len() > 1;
    let mut first_error = None;
    for (number, replica) in source.replicas.iter().enumerate() {
        if many && !json {
            print(&format!("replica {}\n", replica.shown_url()))?;
        }
        match look(number, replica) {
            Err(error) if first_error.is_none() => {
                first_error = Some(if many { error.context(replica.shown_url()) } else { error });
            }
            Err(error) => tracing::error!(replica = replica.shown_url(), "{}", error.report()),
            Ok(()) => {}
        }
    }
    first_error.map_or(Ok(()), Err)
}

/// Restores from the first replica that can. Where none can, the first one's error is told; but a replica that does not
/// answer is told before one that has nothing, because it may have what is missing.
pub async fn restore_from_any(
    replicas: &[ReplicaConfig],
    options: &RestoreOptions,
    around: &Surroundings,
    out: &mut (dyn std::io::Write + Send),
) -> Result<(), Error> {
    let mut errors: Vec<Error> = Vec::new();
    for (number, replica) in replicas.iter().enumerate() {
        // Success where there is nothing to restore is only right when every replica has answered that it has nothing.
        let is_last = number + 1 == replicas.len();
        let lenient = options.if_replica_exists && is_last && errors.iter().all(has_nothing);
        let options = RestoreOptions { if_replica_exists: lenient, ..options.clone() };
        let error = match restore::run(open(&replica.unlimited())?, &options, around, out).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let elsewhere = matches!(error.exit(), ExitCode::NothingToRestore | ExitCode::Damaged | ExitCode::Unreachable);
        if !elsewhere {
            return Err(error);
        }
        if !is_last {
            tracing::warn!(replica = replica.shown_url(), "cannot restore from this replica: {}", error.report());
        }
        errors.push(error);
    }
    let told = errors.iter().position(|error| !has_nothing(error)).unwrap_or(0);
    match errors.into_iter().nth(told) {
        Some(error) => Err(error),
        None => Err(Error::usage("no replica is configured")),
    }
}

fn has_nothing(error: &Error) -> bool {
    error.exit() == ExitCode::NothingToRestore
}

/// Brings a missing database back from the first replica that has it; does nothing where no replica has it.
pub async fn restore_if_missing(path: &Path, replicas: &[ReplicaConfig]) -> Result<(), Error> {
    let options = RestoreOptions {
        if_missing: true,
        if_replica_exists: true,
        progress: std::io::stderr().is_terminal(),
        ..RestoreOptions::to(path)
    };
    // What was restored goes to the log: stdout belongs to the command that is started next.
    let mut told = Vec::new();
    restore_from_any(replicas, &options, &surroundings(), &mut told).await?;
    let told = String::from_utf8_lossy(&told).split_whitespace().collect::<Vec<_>>().join(" ");
    tracing::info!(database = %path.display(), "{told}");
    Ok(())
}
