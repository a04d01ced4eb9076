//! The files that were kept with a database: which set is the one of a commit, and what restoring it would do.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde_json::{Value, json};

use crate::checksum::Sha256;
use crate::fileset::{FileSet, FileSetError, FileSets, IncludedFile, current, living};
use crate::layout::{BlobHash, FileSetName, ObjectName};
use crate::restore::error::RestoreError;
use crate::restore::losses::{no_object, no_object_named};
use crate::restore::plan::RestorePlan;
use crate::restore::planner::Request;
use crate::restore::point::{Point, format_time};
use crate::restore::reading::Reading;
use crate::restore::target::Target;

/// Files that a message names.
const MAX_NAMED: usize = 3;

/// Where the files go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilesTo {
    /// Where they were: into the folder of the database.
    Beside,
    Folder(PathBuf),
}

/// What becomes of a file at its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing is there.
    Create,
    /// The same content is there, and stays as it is.
    Leave,
    /// Something else is there.
    Replace,
    /// What is there is never replaced, for this reason.
    Refuse(String),
}

#[derive(Debug, Clone)]
pub struct PlannedFile {
    pub file: IncludedFile,
    pub path: PathBuf,
    pub action: Action,
}

/// What restoring the files would do, as data that `--dry-run` prints.
#[derive(Debug, Clone)]
pub struct FilesPlan {
    pub set: FileSetName,
    pub folder: PathBuf,
    pub files: Vec<PlannedFile>,
    pub note: Option<String>,
}

/// A set that was kept with a commit.
#[derive(Debug, Clone)]
pub struct KeptFiles {
    pub name: FileSetName,
    pub set: FileSet,
    /// What somebody who asked for this point should know.
    pub note: Option<String>,
}

/// The set of the commit that a plan ends with. Reads the set, and nothing of its content.
pub async fn kept_files(reading: &Reading, plan: &RestorePlan, request: &Request) -> Result<KeptFiles, RestoreError> {
    let until = match request.point {
        Point::At(time) => Some(time),
        _ => None,
    };
    let sets = FileSets::new(reading.replica().store().clone());
    let inventory = reading.inventory(plan.generation).await.map_err(no_object)?;
    let all = living(&sets.list(plan.generation).await?.0, &inventory);
    let txid = plan.commit.txid;
    let Some(name) = current(&all, txid, until) else {
        let oldest = all.iter().map(|set| set.name).min();
        let oldest = oldest.map_or("there is none at all".to_owned(), |name| {
            format!("the oldest is of txid:{} ({})", name.txid.0, format_time(name.time))
        });
        let problem = format!("no files were kept with txid:{} of generation {}: {oldest}", txid.0, plan.generation);
        return Err(RestoreError::Nothing(format!("{problem}; without --with-files the database alone is restored")));
    };
    let is_late = until.is_some_and(|until| name.time > until);
    let note =
        is_late.then(|| format!("files were first kept at {}, after the moment asked for", format_time(name.time)));
    let set = sets.read(name).await.map_err(from_file_set)?;
    Ok(KeptFiles { name, set, note })
}

/// The files of the commit that a plan ends with, and what stands in their way.
pub async fn plan_files(
    reading: &Reading,
    plan: &RestorePlan,
    request: &Request,
    to: &FilesTo,
    target: &Target,
) -> Result<FilesPlan, RestoreError> {
    let KeptFiles { name, set, note } = kept_files(reading, plan, request).await?;
    let folder = folder(to, target)?;
    let files = set.files.into_iter().map(|file| {
        let path = folder.join(file.path.as_str());
        let action = action(&folder, &path, &file, target)?;
        Ok(PlannedFile { file, path, action })
    });
    let files = files.collect::<Result<_, RestoreError>>()?;
    Ok(FilesPlan { set: name, folder, files, note })
}

/// An object that is missing or damaged has no other in its place.
pub fn from_file_set(error: FileSetError) -> RestoreError {
    match error {
        FileSetError::Store(error) => RestoreError::Store(error),
        damaged => no_object_named(damaged.to_string()),
    }
}

fn folder(to: &FilesTo, target: &Target) -> Result<PathBuf, RestoreError> {
    let FilesTo::Folder(folder) = to else { return Ok(target.folder().to_owned()) };
    let absolute = std::path::absolute(folder).map_err(RestoreError::io("cannot use", folder))?;
    if absolute.is_dir() {
        return Ok(absolute);
    }
    Err(RestoreError::Refused {
        problem: format!("the directory {} does not exist", folder.display()),
        next_step: "create it first",
    })
}

fn action(folder: &Path, path: &Path, file: &IncludedFile, target: &Target) -> Result<Action, RestoreError> {
    if target.claims(path) {
        return Ok(Action::Refuse("has the name of a file of the database".to_owned()));
    }
    if let Some(problem) = in_the_way(folder, file)? {
        return Ok(Action::Refuse(problem));
    }
    let Some(found) = facts(path)? else { return Ok(Action::Create) };
    if found.is_dir() {
        return Ok(Action::Refuse("is a directory".to_owned()));
    }
    let is_same = found.is_file() && found.len() == file.bytes && has_content(path, file)?;
    Ok(if is_same { Action::Leave } else { Action::Replace })
}

/// What of the way to a file is there must be directories, and no links: they may lead anywhere.
pub(super) fn in_the_way(folder: &Path, file: &IncludedFile) -> Result<Option<String>, RestoreError> {
    for inner in file.path.folders() {
        match facts(&folder.join(inner))? {
            None => return Ok(None),
            Some(found) if !found.is_dir() => return Ok(Some(format!("{inner} is there and is no directory"))),
            Some(_) => {}
        }
    }
    Ok(None)
}

/// Of a name itself: a link is not followed.
pub(super) fn facts(path: &Path) -> Result<Option<Metadata>, RestoreError> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(RestoreError::io("cannot look at", path)(error)),
    }
}

fn has_content(path: &Path, file: &IncludedFile) -> Result<bool, RestoreError> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mut content = Vec::new();
    let read = File::options().read(true).custom_flags(flags.bits()).open(path);
    read.and_then(|found| found.take(file.bytes + 1).read_to_end(&mut content))
        .map_err(RestoreError::io("cannot read", path))?;
    Ok(BlobHash(Sha256::of(&content)) == file.hash)
}

impl FilesPlan {
    /// Refuses what would change something that must not be changed.
    pub fn check(&self, overwrite: bool) -> Result<(), RestoreError> {
        let refused = self.files.iter().filter_map(|file| match &file.action {
            Action::Refuse(problem) => Some(format!("{}: {problem}", file.path.display())),
            _ => None,
        });
        let refused: Vec<String> = refused.collect();
        if !refused.is_empty() {
            let problem = named(&refused);
            return Err(RestoreError::Refused {
                problem,
                next_step: "restore the files to another place with --files-to",
            });
        }
        let other = self.files.iter().filter(|file| file.action == Action::Replace && !overwrite);
        let other: Vec<String> = other.map(|file| file.path.display().to_string()).collect();
        if other.is_empty() {
            return Ok(());
        }
        let problem = format!("{} exists and holds something else", named(&other));
        let next_step =
            "replace with --overwrite (the old files are kept), or restore to another place with --files-to";
        Err(RestoreError::Refused { problem, next_step })
    }

    /// Those that will be written.
    pub(super) fn to_write(&self) -> impl Iterator<Item = &PlannedFile> {
        self.files.iter().filter(|file| matches!(file.action, Action::Create | Action::Replace))
    }

    pub fn write_bytes(&self) -> u64 {
        self.to_write().map(|file| file.file.bytes).fold(0, u64::saturating_add)
    }

    pub fn to_json(&self) -> Value {
        json!({
            "set": ObjectName::FileSet(self.set).key().as_str(),
            "txid": self.set.txid.0,
            "time": format_time(self.set.time),
            "folder": self.folder.to_string_lossy(),
            "note": self.note,
            "files": self.files.iter().map(|planned| json!({
                "path": planned.file.path.as_str(),
                "bytes": planned.file.bytes,
                "mode": format!("{:o}", planned.file.mode),
                "modified": format_time(planned.file.modified),
                "sha256": planned.file.hash.to_string(),
                "action": planned.action.to_string(),
            })).collect::<Vec<_>>(),
        })
    }
}

fn named(all: &[String]) -> String {
    let more = all.len().saturating_sub(MAX_NAMED);
    let shown = all[..all.len() - more].join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Create => f.write_str("create"),
            Action::Leave => f.write_str("there already"),
            Action::Replace => f.write_str("replace"),
            Action::Refuse(problem) => write!(f, "refused: {problem}"),
        }
    }
}

impl fmt::Display for FilesPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (txid, time) = (self.set.txid.0, format_time(self.set.time));
        write!(f, "files      {} as of {time} (txid:{txid}), to {}", self.files.len(), self.folder.display())?;
        for PlannedFile { file, action, .. } in &self.files {
            write!(f, "\n           {} ({} bytes): {action}", file.path, file.bytes)?;
        }
        if let Some(note) = &self.note {
            write!(f, "\nnote       {note}")?;
        }
        Ok(())
    }
}
