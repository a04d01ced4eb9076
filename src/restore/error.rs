//! Why a restore did not happen, as far as a caller can act on it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::engine::{EngineError, EngineKind};
use crate::inventory::{Moment, Window};
use crate::position::{Generation, Txid};
use crate::restore::point::format_time;
use crate::segment::SegmentError;
use crate::store::{Key, Outcome, StoreError};

/// Why one step failed. What the step was for decides what that means.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// This object is missing, or not what it should be. Another one may serve in its place.
    #[error("{object}: {problem}")]
    Object { object: Key, problem: String },
    /// Every object was whole by itself, and yet the result is not what was captured.
    #[error("{0}")]
    Result(String),
    /// This object was written by a newer version: what it holds must not be guessed.
    #[error("{object}: {source}")]
    Newer { object: Key, source: SegmentError },
    #[error(transparent)]
    Store(StoreError),
    #[error("{doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

impl Fault {
    pub fn object(object: &Key, problem: impl fmt::Display) -> Fault {
        Fault::Object { object: object.clone(), problem: problem.to_string() }
    }

    /// What reading `object` in the stored format ended with.
    pub fn segment(object: &Key, error: SegmentError) -> Fault {
        match error {
            SegmentError::UnsupportedVersion { .. } => Fault::Newer { object: object.clone(), source: error },
            error => Fault::object(object, error),
        }
    }

    /// What a request for `object` ended with: an object that a listing or another object named must be there.
    pub fn request(object: &Key, error: StoreError) -> Fault {
        match error.outcome {
            Outcome::NotFound => Fault::object(object, "is missing"),
            _ => Fault::Store(error),
        }
    }

    pub fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Fault {
        let path = path.to_owned();
        move |source| Fault::Io { doing, path, source }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Fault {
        Fault::Store(error)
    }
}

/// A replica that cannot give what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// `None` when what is damaged stands above all generations.
    pub generation: Option<Generation>,
    /// The objects at fault and what is wrong with each; or the commits that no object holds.
    pub problems: Vec<String>,
    /// Ranges of commits that cannot be restored any more.
    pub lost: Vec<(Txid, Txid)>,
    /// What still can be.
    pub windows: Vec<Window>,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the replica is damaged")?;
        if let Some(generation) = self.generation {
            write!(f, " in generation {generation}")?;
        }
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        for (first, last) in &self.lost {
            write!(f, "\n  lost: txid:{} to txid:{}", first.0, last.0)?;
        }
        if self.windows.is_empty() && self.generation.is_some() {
            write!(f, "\n  nothing of this generation can be restored")?;
        }
        for window in &self.windows {
            write!(f, "\n  still restorable: {}", DisplayWindow(window))?;
        }
        Ok(())
    }
}

/// A window as people read it.
pub struct DisplayWindow<'a>(pub &'a Window);

impl fmt::Display for DisplayWindow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", DisplayMoment(&self.0.from), DisplayMoment(&self.0.to))
    }
}

/// A moment as people read it and `--at` takes it.
pub struct DisplayMoment<'a>(pub &'a Moment);

impl fmt::Display for DisplayMoment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "txid:{} ({})", self.0.txid.0, format_time(self.0.time))
    }
}

/// A point that is not there, and those nearest to it that are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoSuchPoint {
    pub generation: Generation,
    pub problem: String,
    pub before: Option<Moment>,
    pub after: Option<Moment>,
}

impl fmt::Display for NoSuchPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.problem)?;
        for (word, moment) in [("before", &self.before), ("after", &self.after)] {
            if let Some(moment) = moment {
                write!(f, "\n  nearest restorable commit {word} it: {}", DisplayMoment(moment))?;
            }
        }
        write!(f, "\n  generation {}", self.generation)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is no replica, no generation or no whole snapshot there.
    #[error("{0}")]
    Nothing(String),
    #[error("{0}")]
    NoSuchPoint(NoSuchPoint),
    #[error("{0}")]
    Damaged(Damage),
    /// The target is there, or somebody uses it.
    #[error("{problem}")]
    Refused { problem: String, next_step: &'static str },
    /// The replica, or an object of it, asks for a newer reader.
    #[error("{0}")]
    Newer(String),
    #[error("the engine does not accept the restored {engine} database: {source}")]
    NotAccepted { engine: EngineKind, source: EngineError },
    #[error("this version cannot check a {0} database")]
    NoEngine(EngineKind),
    #[error("{needed_bytes} bytes are needed in {} and {free_bytes} are free", folder.display())]
    NoSpace { folder: PathBuf, needed_bytes: u64, free_bytes: u64 },
    #[error(transparent)]
    Store(StoreError),
    #[error("{doing} {}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

impl RestoreError {
    pub fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
        let path = path.to_owned();
        move |source| RestoreError::Io { doing, path, source }
    }
}

impl From<StoreError> for RestoreError {
    fn from(error: StoreError) -> RestoreError {
        RestoreError::Store(error)
    }
}
