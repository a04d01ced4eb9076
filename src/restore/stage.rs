//! Files beside a database while they are restored: written and proven where nobody looks, then named together with the database.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::fileset::{FileSets, IncludedFile};
use crate::position::TimeMs;
use crate::restore::beside::{FilesPlan, PlannedFile, facts, from_file_set, in_the_way};
use crate::restore::error::RestoreError;
use crate::restore::execute::{Execution, MAX_JOBS};
use crate::restore::moved::Moved;
use crate::restore::reading::Reading;
use crate::restore::target::{Target, kept_name, sync_folder};

/// Files that are fetched at a time: each is in memory, stored and decoded.
const MAX_FILES_AT_A_TIME: usize = 4;

/// Finished files that wait for their names. Removed when dropped.
#[derive(Debug)]
pub struct Staged {
    folder: PathBuf,
    overwrite: bool,
    plan: FilesPlan,
    /// In the order in which they are to be written.
    finished: Vec<PathBuf>,
    /// The new names of files that were replaced.
    kept: Mutex<Vec<PathBuf>>,
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(path = %self.folder.display(), %error, "unfinished files could not be removed");
        }
    }
}

/// Fetches, proves and writes every file that is to be written.
pub(super) async fn stage(
    reading: &Reading,
    plan: &FilesPlan,
    target: &Target,
    how: &Execution,
) -> Result<Staged, RestoreError> {
    let folder = target.staging(&plan.folder, how.random);
    fs::create_dir(&folder).map_err(RestoreError::io("cannot create", &folder))?;
    let mut staged = Staged {
        finished: Vec::new(),
        overwrite: how.overwrite,
        plan: plan.clone(),
        folder: folder.clone(),
        kept: Mutex::default(),
    };
    how.progress.begin("restoring files", plan.write_bytes());
    let (sets, generation) = (FileSets::new(reading.replica().store().clone()), plan.set.generation);
    let fetch = |(number, planned): (usize, &PlannedFile)| {
        let (sets, file, path) = (sets.clone(), planned.file.clone(), folder.join(number.to_string()));
        async move {
            let content = sets.content(generation, &file).await.map_err(from_file_set)?;
            let (bytes, written) = (file.bytes, path.clone());
            let writing = tokio::task::spawn_blocking(move || write(&written, &file, &content));
            writing.await.map_err(|error| super::execute::ended_early(&path, error))??;
            how.progress.advance(bytes);
            Ok::<PathBuf, RestoreError>(path)
        }
    };
    let fetches: Vec<_> = plan.to_write().enumerate().map(fetch).collect();
    let jobs = how.jobs.clamp(1, MAX_JOBS).min(MAX_FILES_AT_A_TIME);
    staged.finished = stream::iter(fetches).buffered(jobs).try_collect().await?;
    Ok(staged)
}

/// Writes a file with its permissions and its time, durably.
fn write(path: &Path, file: &IncludedFile, content: &[u8]) -> Result<(), RestoreError> {
    let fail = || RestoreError::io("cannot write", path);
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fail())?;
    out.write_all(content).map_err(fail())?;
    out.set_permissions(Permissions::from_mode(file.mode)).map_err(fail())?;
    out.set_modified(UNIX_EPOCH + Duration::from_millis(file.modified.0)).map_err(fail())?;
    out.sync_all().map_err(fail())
}

impl Staged {
    /// Gives all of them their names. What is there is moved out of the way, where that is allowed.
    pub(super) fn install(&self, moved: &mut Moved, now: TimeMs) -> Result<(), RestoreError> {
        // The folder itself, where new ones are made in it.
        let mut folders = vec![self.plan.folder.clone()];
        for (planned, finished) in self.plan.to_write().zip(&self.finished) {
            let refused = |problem: &str| RestoreError::Refused {
                problem: format!("{} {problem}", planned.path.display()),
                next_step: "look at what it is",
            };
            // Something may have changed since the plan was made.
            if let Some(problem) = in_the_way(&self.plan.folder, &planned.file)? {
                return Err(refused(&format!("cannot be restored: {problem}")));
            }
            let parent = planned.path.parent().unwrap_or(&self.plan.folder).to_owned();
            moved.make_folder(&parent)?;
            match facts(&planned.path)? {
                Some(found) if found.is_dir() || !self.overwrite => {
                    return Err(refused("was created by somebody else meanwhile"));
                }
                Some(_) => {
                    let kept = kept_name(&planned.path, &[], now)?;
                    moved.rename(&planned.path, &kept)?;
                    self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
                }
                None => {}
            }
            moved.place(finished, &planned.path)?;
            folders
                .extend(planned.path.ancestors().skip(1).take_while(|at| *at != self.plan.folder).map(Path::to_owned));
        }
        folders.sort_unstable();
        folders.dedup();
        folders.iter().try_for_each(|folder| sync_folder(folder))
    }

    /// The new names of files that were replaced.
    pub(super) fn kept(&self) -> Vec<PathBuf> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
