//! Names that are given to finished files, all of them or none.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::restore::error::RestoreError;

/// Steps that are taken back, the last one first, unless they are declared done.
#[derive(Debug, Default)]
pub(super) struct Moved(Vec<Step>);

#[derive(Debug)]
enum Step {
    Renamed { from: PathBuf, to: PathBuf },
    Named(PathBuf),
    Made(PathBuf),
}

impl Moved {
    pub fn rename(&mut self, from: &Path, to: &Path) -> Result<(), RestoreError> {
        fs::rename(from, to).map_err(RestoreError::io("cannot move", from))?;
        self.0.push(Step::Renamed { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    /// Makes a directory, and those that lead to it, below one that exists.
    pub fn make_folder(&mut self, path: &Path) -> Result<(), RestoreError> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.make_folder(parent)?;
        }
        fs::create_dir(path).map_err(RestoreError::io("cannot create", path))?;
        self.0.push(Step::Made(path.to_owned()));
        Ok(())
    }

    /// Gives a finished file its name, unless something has it meanwhile.
    pub fn place(&mut self, from: &Path, to: &Path) -> Result<(), RestoreError> {
        match fs::hard_link(from, to) {
            Ok(()) => {
                // The name under which it was written goes when the unfinished files are dropped.
                self.0.push(Step::Named(to.to_owned()));
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(RestoreError::Refused {
                problem: format!("{} was created by somebody else meanwhile", to.display()),
                next_step: "look at what it is",
            }),
            // A file system without links.
            Err(_) => self.rename(from, to),
        }
    }

    pub fn done(mut self) {
        self.0.clear();
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        for step in self.0.iter().rev() {
            let (path, result) = match step {
                Step::Renamed { from, to } => (from, fs::rename(to, from)),
                Step::Named(path) => (path, fs::remove_file(path)),
                Step::Made(path) => (path, fs::remove_dir(path)),
            };
            if let Err(error) = result {
                tracing::error!(path = %path.display(), %error, "what was there could not be put back");
            }
        }
    }
}
