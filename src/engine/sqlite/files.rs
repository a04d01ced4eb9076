//! Which files a database consists of on disk, without opening them.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::sys::statfs::{FsType, statfs};

use super::history::gap;
use crate::engine::EngineError;
use crate::position::RepairReason;

/// A file, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileIdentity {
    pub device: u64,
    pub inode: u64,
}

impl FileIdentity {
    fn of(metadata: &Metadata) -> FileIdentity {
        FileIdentity { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// The database's files as they were when their locks were taken.
#[derive(Debug)]
pub(super) struct Files {
    /// As the user names it: may be a symbolic link.
    named: PathBuf,
    wal: PathBuf,
    index: PathBuf,
    pub main_identity: FileIdentity,
    wal_identity: FileIdentity,
    index_identity: FileIdentity,
}

/// What last happened to the files: when it changes, something was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Touched {
    main: (Option<SystemTime>, u64),
    wal: (Option<SystemTime>, u64),
}

impl Touched {
    /// The later of the two times of modification.
    pub(super) fn latest(&self) -> Option<SystemTime> {
        self.main.0.max(self.wal.0)
    }
}

/// The file that `path` leads to, before anything of it is opened.
pub(super) fn existing(path: &Path) -> Result<(PathBuf, FileIdentity), EngineError> {
    let absent = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => EngineError::Absent { path: path.to_owned() },
        _ => EngineError::Io { context: format!("cannot look at {}", path.display()), source: error },
    };
    let canonical = path.canonicalize().map_err(absent)?;
    let metadata = canonical.metadata().map_err(absent)?;
    if !metadata.is_file() {
        return Err(EngineError::NotCapturable {
            reason: format!("{} is not a file", path.display()),
            next_step: "name the database file itself",
        });
    }
    if metadata.len() == 0 {
        return Err(EngineError::Absent { path: path.to_owned() });
    }
    Ok((canonical, FileIdentity::of(&metadata)))
}

/// Refuses file systems on which SQLite's WAL does not work between machines.
pub(super) fn refuse_network(path: &Path) -> Result<(), EngineError> {
    let found = statfs(path).map_err(|error| EngineError::Io {
        context: format!("cannot look at the file system of {}", path.display()),
        source: error.into(),
    })?;
    let FsType(kind) = found.filesystem_type();
    // AFS, Ceph, CIFS, Coda, NFS, SMB, SMB2, 9p; as in statfs(2).
    let network = [0x5346_414f, 0x00c3_6400, 0xff53_4d42, 0x7375_7245, 0x6969, 0x517b, 0xfe53_4d42, 0x0102_1997];
    if network.contains(&kind) {
        return Err(EngineError::NotCapturable {
            reason: format!("{} is on a network file system (type {kind:#x})", path.display()),
            next_step: "keep the database on a local disk: SQLite's WAL mode needs memory shared between processes",
        });
    }
    Ok(())
}

/// `path` with a suffix behind its last component.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

impl Files {
    /// Notes the files of the database at `canonical`; called under the hold, so that they are the ones that are locked.
    pub(super) fn note(named: &Path, canonical: &Path, opened: FileIdentity) -> Result<Files, EngineError> {
        let (wal, index) = (beside(canonical, "-wal"), beside(canonical, "-shm"));
        let identity = |path: &Path| match path.metadata() {
            Ok(metadata) => Ok(FileIdentity::of(&metadata)),
            Err(error) => Err(gap(RepairReason::FileReplaced, format!("cannot look at {}: {error}", path.display()))),
        };
        let files = Files {
            named: named.to_owned(),
            main_identity: identity(canonical)?,
            wal_identity: identity(&wal)?,
            index_identity: identity(&index)?,
            wal,
            index,
        };
        if files.main_identity != opened {
            return Err(gap(RepairReason::FileReplaced, "the file was replaced while it was opened"));
        }
        Ok(files)
    }

    /// The main file as it is now, which is the one that is locked.
    pub(super) fn main(&self) -> Result<Metadata, EngineError> {
        same(&self.named, self.main_identity, RepairReason::FileReplaced)
    }

    /// Proves that the names still lead to the files that are locked, and says when they were last written.
    pub(super) fn look(&self) -> Result<Touched, EngineError> {
        let main = self.main()?;
        // Our lock forbids SQLite to remove these; if they are gone or others, the lock was lost.
        let wal = same(&self.wal, self.wal_identity, RepairReason::LogDiscarded)?;
        same(&self.index, self.index_identity, RepairReason::LogDiscarded)?;
        let touched = |metadata: &Metadata| (metadata.modified().ok(), metadata.len());
        Ok(Touched { main: touched(&main), wal: touched(&wal) })
    }
}

fn same(path: &Path, expected: FileIdentity, reason: RepairReason) -> Result<Metadata, EngineError> {
    let metadata = path.metadata().map_err(|error| gap(reason, format!("{}: {error}", path.display())))?;
    if FileIdentity::of(&metadata) != expected {
        return Err(gap(reason, format!("{} is another file now", path.display())));
    }
    Ok(metadata)
}
