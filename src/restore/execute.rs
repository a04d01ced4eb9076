//! Carrying a plan out: fetch, write, prove, check, put in place. Until the last step, nothing at the target changes.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::engine::choice::EngineOf;
use crate::layout::ObjectName;
use crate::position::TimeMs;
use crate::restore::apply::Apply;
use crate::restore::beside::{FilesPlan, FilesTo, plan_files};
use crate::restore::error::{Fault, RestoreError};
use crate::restore::fetch::{self, Advance, in_background};
use crate::restore::files::{EarlySync, Files, Unfinished};
use crate::restore::finish;
use crate::restore::plan::RestorePlan;
use crate::restore::planner::{Planner, Request};
use crate::restore::reading::Reading;
use crate::restore::stage::{Staged, stage};
use crate::restore::target::Target;

/// Requests at a time, where nothing else is asked for.
pub const DEFAULT_JOBS: usize = 8;
/// Requests at a time at most: each holds up to `fetch::PIECE_BYTES`.
pub const MAX_JOBS: usize = 256;

/// Hears how far a restore has come.
pub trait Progress: fmt::Debug + Send + Sync {
    /// A stretch of work of `total` bytes begins.
    fn begin(&self, doing: &'static str, total: u64);
    fn advance(&self, bytes: u64);
    /// Something that people should read now.
    fn note(&self, text: &str);
}

/// Hears nothing.
#[derive(Debug)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &'static str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn note(&self, _: &str) {}
}

/// How to restore, once it is known what.
#[derive(Clone)]
pub struct Execution {
    pub target: PathBuf,
    /// Replace what is at the target; it is kept under another name.
    pub overwrite: bool,
    /// Requests at a time.
    pub jobs: usize,
    pub engine: EngineOf,
    /// Have the engine check the restored file, beyond the checksum.
    pub check: bool,
    /// Have the engine make one file of a main file and its WAL.
    pub fold: bool,
    /// Must be free beyond what the restored files need.
    pub spare_bytes: u64,
    pub now: TimeMs,
    /// Sets the names of unfinished files apart.
    pub random: u32,
    pub progress: Arc<dyn Progress>,
}

/// What was restored.
#[derive(Debug, Clone)]
pub struct Restored {
    pub plan: RestorePlan,
    pub target: PathBuf,
    /// Where the file is that was there before.
    pub kept: Option<PathBuf>,
    /// The engine has accepted the file.
    pub checked: bool,
    /// A WAL lies beside the file, and belongs to it.
    pub has_wal: bool,
    /// What was restored beside it, where that was asked for.
    pub files: Option<RestoredFiles>,
}

/// The files that were restored beside a database.
#[derive(Debug, Clone)]
pub struct RestoredFiles {
    pub plan: FilesPlan,
    /// Where those are that were there before.
    pub kept: Vec<PathBuf>,
}

/// Restores what is asked for. When an object turns out to be missing or broken, another way is looked for; only when there
/// is none does it end, with what is lost and what is not.
pub async fn restore(reading: &Reading, request: &Request, how: &Execution) -> Result<Restored, RestoreError> {
    restore_with_files(reading, request, how, None).await
}

/// The same together with the files beside the database, where it is said where to: all of them, or nothing.
pub async fn restore_with_files(
    reading: &Reading,
    request: &Request,
    how: &Execution,
    files_to: Option<&FilesTo>,
) -> Result<Restored, RestoreError> {
    let mut planner = Planner::new(reading.clone());
    loop {
        let plan = planner.plan(request).await?;
        let target = Target::new(&how.target, plan.engine)?;
        target.check(how.overwrite)?;
        let files = match files_to {
            Some(to) => Some(plan_files(reading, &plan, request, to, &target).await?),
            None => None,
        };
        let file_bytes =
            files.as_ref().map_or(Ok(0), |files| files.check(how.overwrite).map(|()| files.write_bytes()))?;
        target.check_space(plan.target_bytes().saturating_add(how.spare_bytes).saturating_add(file_bytes))?;
        for note in &plan.notes {
            how.progress.note(note);
        }
        for path in target.left_behind() {
            how.progress.note(&format!("{} is of a restore that still runs or was killed", path.display()));
        }
        // Small and soon there: what is wrong with them is known before the database is fetched.
        let staged = match &files {
            Some(files) => Some(Arc::new(stage(reading, files, &target, how).await?)),
            None => None,
        };
        let fault = match attempt(reading, &plan, &target, how, staged.clone()).await {
            Ok((kept, has_wal)) => {
                let kept_files = staged.map_or_else(Vec::new, |staged| staged.kept());
                let files = files.map(|plan| RestoredFiles { plan, kept: kept_files });
                let target = target.path().to_owned();
                return Ok(Restored { plan, target, kept, checked: how.check, has_wal, files });
            }
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Fault(fault)) => fault,
        };
        let problem = fault.to_string();
        how.progress.note(&problem);
        let broken = match &fault {
            Fault::Object { object, .. } => ObjectName::parse(object.as_str()),
            _ => None,
        };
        // A part has no other meaning than its snapshot's, and a wrong result points at no object but the one it began with.
        let broken = broken.filter(|name| matches!(name, ObjectName::Segment(_)));
        planner.avoid(broken.unwrap_or(ObjectName::Snapshot(plan.snapshot.name)), problem);
        if planner.has_given_up() {
            let inventory = planner.inventory(plan.generation).await?;
            return Err(planner.damaged(&inventory).await);
        }
    }
}

enum Failure {
    /// Another way may lead there.
    Fault(Fault),
    Final(RestoreError),
}

impl From<RestoreError> for Failure {
    fn from(error: RestoreError) -> Failure {
        Failure::Final(error)
    }
}

/// The old file's new name, and whether a WAL lies beside the restored one.
async fn attempt(
    reading: &Reading,
    plan: &RestorePlan,
    target: &Target,
    how: &Execution,
    staged: Option<Arc<Staged>>,
) -> Result<(Option<PathBuf>, bool), Failure> {
    let unfinished = target.unfinished(plan.engine, how.random);
    let fail = |fault| failure(fault, plan, target);
    let files = write_files(reading, plan, &unfinished, target, how).await.map_err(fail)?;
    // The engine reads the same bytes at the same time. Whose word is heard first matters: a wrong checksum is the cause.
    let checking = tokio::spawn(finish::check(plan.engine, unfinished.main.clone(), how.clone()));
    let proven = finish::prove(plan, files, &unfinished.main, how).await;
    // How long the engine takes is its own matter.
    how.progress.begin("checking", 0);
    let checked = checking.await.map_err(|error| ended_early(&unfinished.main, error))?;
    proven.map_err(fail)?;
    checked?;
    let has_wal = finish::fold(plan, &unfinished.main, how).await?;
    let (target, how, main) = (target.clone(), how.clone(), unfinished.main.clone());
    let installed = tokio::task::spawn_blocking(move || {
        finish::sync(&unfinished.main)?;
        target.install(&unfinished, has_wal, how.overwrite, how.now, staged.as_deref())
    });
    let kept = installed.await.map_err(|error| ended_early(&main, error))??;
    Ok((kept, has_wal))
}

pub(super) fn ended_early(path: &Path, error: tokio::task::JoinError) -> RestoreError {
    RestoreError::io("cannot finish", path)(io::Error::other(error))
}

fn failure(fault: Fault, plan: &RestorePlan, target: &Target) -> Failure {
    match fault {
        Fault::Object { .. } | Fault::Result(_) => Failure::Fault(fault),
        Fault::Store(error) => Failure::Final(RestoreError::Store(error)),
        Fault::Newer { .. } => Failure::Final(RestoreError::Newer(fault.to_string())),
        Fault::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
            Failure::Final(target.no_space(plan.target_bytes()))
        }
        Fault::Io { doing, path, source } => Failure::Final(RestoreError::Io { doing, path, source }),
    }
}

/// Writes the database beside its target.
async fn write_files(
    reading: &Reading,
    plan: &RestorePlan,
    unfinished: &Unfinished,
    target: &Target,
    how: &Execution,
) -> Result<Files, Fault> {
    let path = unfinished.main.clone();
    let mut files = Files::create(unfinished).map_err(Fault::io("cannot create", &path))?;
    target.copy_permissions(files.main()).map_err(Fault::io("cannot set the permissions of", &path))?;
    let jobs = how.jobs.clamp(1, MAX_JOBS);
    let progress = how.progress.clone();
    let advance: Advance = Arc::new(move |bytes| progress.advance(bytes));
    how.progress.begin("restoring", plan.fetch_bytes());
    let early = EarlySync::start(files.main());
    fetch::parts(reading, plan, &files, jobs, &advance).await?;
    fetch::patches(reading, plan, &files, jobs, &advance).await?;
    files.parts_written(&plan.parts);
    let apply = Apply::new(plan, files, path.clone());
    let files = fetch::segments(reading, plan, apply, jobs, &advance).await?;
    in_background(move || early.finish().map_err(Fault::io("cannot sync", &path))).await?;
    if plan.commit.lengths.wal == 0 {
        // An engine would take an empty file for a WAL.
        std::fs::remove_file(&unfinished.wal).map_err(Fault::io("cannot remove", &unfinished.wal))?;
    }
    Ok(files)
}
