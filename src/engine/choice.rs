//! Which engine a database belongs to.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use super::{Engine, EngineError, EngineKind, head};

/// Finds the engine of a kind, where this build has it.
pub type EngineOf = fn(EngineKind) -> Option<Arc<dyn Engine>>;

/// An engine, or how to find it.
#[derive(Clone)]
pub enum Choice {
    Known(Arc<dyn Engine>),
    /// Told by the first bytes of the file, as soon as there are any.
    ByContent(EngineOf),
}

impl Choice {
    /// The engine of this kind, if that is not another one than is known.
    pub fn of_kind(&self, kind: EngineKind) -> Option<Arc<dyn Engine>> {
        match self {
            Choice::Known(engine) => (engine.kind() == kind).then(|| engine.clone()),
            Choice::ByContent(engine_of) => engine_of(kind),
        }
    }

    /// The engine of the file at `path`; `None` while there is no file or nothing in it.
    ///
    /// Only for a file that this process has not open: closing it drops the process' locks on it.
    pub fn look(&self, path: &Path) -> Result<Option<Arc<dyn Engine>>, EngineError> {
        let engine_of = match self {
            Choice::Known(engine) => return Ok(Some(engine.clone())),
            Choice::ByContent(engine_of) => engine_of,
        };
        let mut bytes = Vec::new();
        match File::open(path).and_then(|file| file.take(head::HEAD_BYTES as u64).read_to_end(&mut bytes)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(EngineError::Io { context: format!("cannot read {}", path.display()), source }),
            Ok(0) => return Ok(None),
            Ok(_) => {}
        }
        let unknown = |reason| EngineError::NotCapturable { reason, next_step: "check the path" };
        let Some(head) = head::read(&bytes) else {
            return Err(unknown(format!("{} is no database of a known engine", path.display())));
        };
        match engine_of(head.engine) {
            Some(engine) => Ok(Some(engine)),
            None => Err(unknown(format!("{} is a {} database: not in this build", path.display(), head.engine))),
        }
    }
}

impl std::fmt::Debug for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Choice::Known(engine) => write!(f, "Known({})", engine.kind()),
            Choice::ByContent(_) => f.write_str("ByContent"),
        }
    }
}

impl From<Arc<dyn Engine>> for Choice {
    fn from(engine: Arc<dyn Engine>) -> Choice {
        Choice::Known(engine)
    }
}

impl<E: Engine + 'static> From<Arc<E>> for Choice {
    fn from(engine: Arc<E>) -> Choice {
        Choice::Known(engine)
    }
}
