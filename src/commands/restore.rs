//! `replicate restore`: a database as it was after one commit.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::commands::progress::Bar;
use crate::engine::EngineError;
use crate::engine::choice::EngineOf;
use crate::error::{Error, ExitCode};
use crate::label::Labels;
use crate::layout::LabelName;
use crate::position::{ParseError, TimeMs};
use crate::restore::point::{self, Point, PointError};
use crate::restore::{
    Action, Execution, FilesPlan, FilesTo, Planner, Reading, Request, RestoreError, RestorePlan, Restored,
    RestoredFiles, Target, commit_json, exists, plan_files, restore_with_files,
};
use crate::store::Store;

/// What is asked for, as plain data.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// The file to restore to.
    pub target: PathBuf,
    /// As in `--at`; `None`: the newest commit.
    pub at: Option<String>,
    pub generation: Option<String>,
    /// Do nothing, and succeed, where the target exists.
    pub if_missing: bool,
    /// Do nothing, and succeed, where there is nothing to restore.
    pub if_replica_exists: bool,
    pub overwrite: bool,
    /// Print the plan only.
    pub dry_run: bool,
    /// Have the engine check the result.
    pub check: bool,
    /// Leave a DuckDB database as main file and WAL.
    pub keep_wal: bool,
    /// Together with the files that were kept with it.
    pub files: Option<FilesTo>,
    pub jobs: usize,
    pub json: bool,
    /// Show how far it has come, on stderr.
    pub progress: bool,
}

impl RestoreOptions {
    /// The newest commit, to a path that does not exist.
    pub fn to(target: impl Into<PathBuf>) -> RestoreOptions {
        RestoreOptions {
            target: target.into(),
            at: None,
            generation: None,
            if_missing: false,
            if_replica_exists: false,
            overwrite: false,
            dry_run: false,
            check: true,
            keep_wal: false,
            files: None,
            jobs: crate::restore::DEFAULT_JOBS,
            json: false,
            progress: false,
        }
    }
}

/// What comes from outside: clock, place, chance and the engines of this build.
#[derive(Debug, Clone)]
pub struct Surroundings {
    pub now: TimeMs,
    pub zone: TimeZone,
    pub random: u32,
    pub engine: EngineOf,
}

/// Restores and prints what was restored. Nothing at the target changes unless it succeeds.
pub async fn run(
    store: Arc<dyn Store>,
    options: &RestoreOptions,
    around: &Surroundings,
    out: &mut (dyn Write + Send),
) -> Result<(), Error> {
    let request = request(&store, options.at.as_deref(), options.generation.as_deref(), around).await?;
    if options.if_missing && exists(&options.target)? {
        return nothing_done(options, "the target exists", out);
    }
    let reading = Reading::new(store);
    let result = match options.dry_run {
        true => plans(&reading, &request, options).await.map(|(plan, files)| print_plan(&plan, files, options, out)),
        false => {
            let how = execution(options, around);
            let restored = restore_with_files(&reading, &request, &how, options.files.as_ref()).await;
            restored.map(|restored| print_restored(&restored, options, out))
        }
    };
    match result {
        Ok(printed) => printed,
        Err(RestoreError::Nothing(what)) if options.if_replica_exists => nothing_done(options, &what, out),
        Err(error) => Err(error.into()),
    }
}

/// What would be done, with the files where they are asked for.
async fn plans(
    reading: &Reading,
    request: &Request,
    options: &RestoreOptions,
) -> Result<(RestorePlan, Option<FilesPlan>), RestoreError> {
    let plan = Planner::new(reading.clone()).plan(request).await?;
    let Some(to) = &options.files else { return Ok((plan, None)) };
    let target = Target::new(&options.target, plan.engine)?;
    let files = plan_files(reading, &plan, request, to, &target).await?;
    Ok((plan, Some(files)))
}

/// What `--at` and `--generation` ask for.
pub(super) async fn request(
    store: &Arc<dyn Store>,
    at: Option<&str>,
    generation: Option<&str>,
    around: &Surroundings,
) -> Result<Request, Error> {
    if let Some(name) = at.and_then(point::label) {
        let name: LabelName = name.parse().map_err(|error: ParseError| Error::usage(error.to_string()))?;
        let commit = Labels::new(store.clone()).find(&name).await?.commit;
        return Ok(Request { point: Point::Commit(commit.generation, commit.txid), generation: None });
    }
    let point = point::parse(at.unwrap_or("now"), around.now, &around.zone)?;
    let generation = generation.map(point::parse_generation).transpose()?;
    Ok(Request { point, generation })
}

fn execution(options: &RestoreOptions, around: &Surroundings) -> Execution {
    Execution {
        target: options.target.clone(),
        overwrite: options.overwrite,
        jobs: options.jobs,
        engine: around.engine,
        check: options.check,
        fold: !options.keep_wal,
        spare_bytes: 0,
        now: around.now,
        random: around.random,
        progress: Arc::new(Bar::new(options.progress)),
    }
}

fn nothing_done(options: &RestoreOptions, why: &str, out: &mut (dyn Write + Send)) -> Result<(), Error> {
    match options.json {
        true => print_value(out, &json!({ "restored": false, "reason": why, "target": shown(&options.target) })),
        false => print_text(out, &format!("nothing restored: {why}\n")),
    }
}

fn print_plan(
    plan: &RestorePlan,
    files: Option<FilesPlan>,
    options: &RestoreOptions,
    out: &mut (dyn Write + Send),
) -> Result<(), Error> {
    if options.json {
        let files = files.map(|files| files.to_json());
        return print_value(out, &json!({ "restored": false, "plan": plan.to_json(), "files": files }));
    }
    let files = files.map_or(String::new(), |files| format!("{files}\n"));
    print_text(out, &format!("{plan}\n{files}"))
}

fn print_restored(restored: &Restored, options: &RestoreOptions, out: &mut (dyn Write + Send)) -> Result<(), Error> {
    let plan = &restored.plan;
    if options.json {
        return print_value(
            out,
            &json!({
                "restored": true,
                "target": shown(&restored.target),
                "generation": plan.generation.to_string(),
                "commit": commit_json(&plan.commit),
                "engine": plan.engine.to_string(),
                "checked_by_engine": restored.checked,
                "has_wal": restored.has_wal,
                "kept": restored.kept.as_deref().map(shown),
                "notes": plan.notes,
                "files": restored.files.as_ref().map(files_json),
            }),
        );
    }
    let commit = &plan.commit;
    let mut text = format!("restored {}\n", restored.target.display());
    text.push_str(&format!("  commit   {}/{}\n", plan.generation, commit.txid.0));
    text.push_str(&format!("  time     {}\n", point::format_time(commit.time)));
    text.push_str(&format!("  size     {} bytes\n", plan.target_bytes()));
    text.push_str(&format!("  checksum {:016x}, proven\n", commit.checksum));
    let checked = if restored.checked { "accepted the file" } else { "was not asked (--no-check)" };
    text.push_str(&format!("  engine   {} {checked}\n", plan.engine));
    if restored.has_wal {
        text.push_str(&format!("  its WAL lies beside it and belongs to it: {}.wal\n", restored.target.display()));
    } else if commit.lengths.wal > 0 {
        text.push_str(&format!("  its WAL of {} bytes was folded into the file\n", commit.lengths.wal));
    }
    if let Some(kept) = &restored.kept {
        text.push_str(&format!("  the old file is kept as {}\n", kept.display()));
    }
    text.push_str(&restored.files.as_ref().map_or(String::new(), files_text));
    print_text(out, &text)
}

fn files_json(files: &RestoredFiles) -> Value {
    let mut value = files.plan.to_json();
    value["kept"] = files.kept.iter().map(|path| shown(path)).collect();
    value
}

fn files_text(files: &RestoredFiles) -> String {
    let (count, plan) = (files.plan.files.len(), &files.plan);
    let time = point::format_time(plan.set.time);
    let mut text = format!("  files    {count} as of {time}, in {}\n", plan.folder.display());
    for planned in &plan.files {
        let done = match planned.action {
            Action::Leave => " (was there already)",
            _ => "",
        };
        text.push_str(&format!("           {}{done}\n", planned.file.path));
    }
    for kept in &files.kept {
        text.push_str(&format!("  the old file is kept as {}\n", kept.display()));
    }
    text
}

fn shown(path: &Path) -> Value {
    json!(path.to_string_lossy())
}

/// Prints one JSON document.
pub(super) fn print_value(out: &mut (dyn Write + Send), value: &Value) -> Result<(), Error> {
    print_text(out, &format!("{value:#}\n"))
}

/// Prints a result. A reader that has gone away is no error of ours.
pub(super) fn print_text(out: &mut (dyn Write + Send), text: &str) -> Result<(), Error> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::failed("the result could not be written").because(error))
        }
        _ => Ok(()),
    }
}

impl From<PointError> for Error {
    fn from(error: PointError) -> Error {
        Error::usage(error.to_string())
    }
}

impl From<RestoreError> for Error {
    fn from(error: RestoreError) -> Error {
        let text = error.to_string();
        match error {
            RestoreError::Nothing(_) => Error::new(ExitCode::NothingToRestore, text),
            RestoreError::NoSuchPoint(_) => Error::new(ExitCode::NothingToRestore, text)
                .next_step("name one of the commits above, or see what there is: replicate list"),
            RestoreError::Damaged(_) => Error::new(ExitCode::Damaged, text)
                .next_step("restore one of the points above with --at; see all that is wrong: replicate verify --deep"),
            RestoreError::Refused { next_step, .. } => Error::new(ExitCode::Refused, text).next_step(next_step),
            RestoreError::Newer(_) => Error::failed(text),
            RestoreError::NotAccepted { source: EngineError::NotCapturable { reason, next_step }, .. } => {
                Error::failed(format!("every byte is as it was captured, but {reason}")).next_step(next_step)
            }
            RestoreError::NotAccepted { source, .. } => Error::failed("the engine does not accept the restored database")
                .because(source)
                .next_step(
                    "every byte is as it was captured, so the database was damaged already then; try an older --at, or look at it \
                     with --no-check",
                ),
            RestoreError::NoEngine(_) => Error::failed(text).next_step("restore with --no-check, and check it elsewhere"),
            RestoreError::NoSpace { .. } => {
                Error::failed(text).next_step("make room, or restore to another disk with -o; nothing was changed")
            }
            RestoreError::Store(error) => error.into(),
            RestoreError::Io { source, .. } => Error::failed(text).because(source),
        }
    }
}
