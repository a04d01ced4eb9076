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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::EngineKind;
    use crate::fileset::{FileSet, encode_blob};
    use crate::layout::FileSetName;
    use crate::position::{Generation, Term, Txid};
    use crate::restore::beside::Action;
    use crate::restore::execute::Silent;
    use crate::store::memory::MemoryStore;

    fn all(folder: &Path) -> Vec<(String, String)> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut found: Vec<_> = entries
            .map(|path| {
                let content = if path.is_dir() { "a directory".to_owned() } else { fs::read_to_string(&path).unwrap() };
                (path.file_name().unwrap().to_string_lossy().into_owned(), content)
            })
            .collect();
        found.sort();
        found
    }

    /// When one of the names turns out to be taken at the very end, everything is as it was before: the database, the files that were
    /// replaced already, and the directories that were made.
    #[tokio::test]
    async fn all_names_are_given_or_none() {
        let (folder, generation) = (tempfile::tempdir().unwrap(), Generation(7));
        let store: Arc<dyn crate::store::Store> = Arc::new(MemoryStore::new());
        let contents = [("a.yml", "new a"), ("sub/b.yml", "new b"), ("z.yml", "new z")];
        let mut files = Vec::new();
        for (path, content) in contents {
            let file = IncludedFile::new(path.parse().unwrap(), 0o600, TimeMs(5_000), content.as_bytes());
            let object = encode_blob(content.as_bytes()).unwrap();
            FileSets::new(store.clone()).put_blob(generation, file.hash, object).await.unwrap();
            files.push(file);
        }
        for (name, content) in [("back.db", "old database"), ("a.yml", "old a")] {
            fs::write(folder.path().join(name), content).unwrap();
        }
        let before = all(folder.path());
        let (path, at) = (folder.path().join("back.db"), folder.path().to_owned());
        let planned = FileSet::new(files).files.into_iter().map(|file| {
            let path = at.join(file.path.as_str());
            let action = if path.exists() { Action::Replace } else { Action::Create };
            PlannedFile { file, path, action }
        });
        let set = FileSetName { generation, txid: Txid(1), term: Term(1), time: TimeMs(1), hash: 0 };
        let plan = FilesPlan { set, folder: at.clone(), files: planned.collect(), note: None };
        let how = Execution {
            target: path.clone(),
            overwrite: true,
            jobs: 2,
            engine: |_| None,
            check: false,
            fold: false,
            spare_bytes: 0,
            now: TimeMs(1),
            random: 1,
            progress: Arc::new(Silent),
        };
        let target = Target::new(&path, EngineKind::Sqlite).unwrap();
        let install = |staged: &Staged| {
            let unfinished = target.unfinished(EngineKind::Sqlite, 1);
            fs::write(&unfinished.main, "new database").unwrap();
            target.install(&unfinished, false, true, TimeMs(1), Some(staged))
        };
        let staged = stage(&Reading::new(store.clone()), &plan, &target, &how).await.unwrap();
        fs::create_dir(at.join("z.yml")).unwrap();
        assert!(matches!(install(&staged), Err(RestoreError::Refused { .. })));
        drop(staged);
        fs::remove_dir(at.join("z.yml")).unwrap();
        assert_eq!(all(folder.path()), before);
        let staged = stage(&Reading::new(store), &plan, &target, &how).await.unwrap();
        install(&staged).unwrap();
        drop(staged);
        let texts: Vec<String> = all(folder.path()).into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["new a", "old a", "new database", "old database", "a directory", "new z"]);
        assert_eq!(fs::read_to_string(at.join("sub/b.yml")).unwrap(), "new b");
    }
}
