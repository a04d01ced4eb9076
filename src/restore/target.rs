//! The place where a restored database goes: refused when something is there, replaced only as a whole.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::statvfs::statvfs;

use crate::engine::EngineKind;
use crate::position::TimeMs;
use crate::restore::error::RestoreError;
use crate::restore::files::{Unfinished, with_ending};
use crate::restore::moved::Moved;
use crate::restore::point::format_time;
use crate::restore::stage::Staged;

/// Endings of the names of files that an engine keeps beside a database and would apply to whatever file is there.
const SQLITE_COMPANIONS: &[&str] = &["-wal", "-shm", "-journal"];
const DUCKDB_COMPANIONS: &[&str] = &[".wal", ".wal.checkpoint", ".wal.recovery"];

/// What stands between a look at the target and putting a file there is at most this many kept copies of one second.
const MAX_KEPT_NAMES: u32 = 1000;

/// Where a database is restored to.
#[derive(Debug, Clone)]
pub struct Target {
    path: PathBuf,
    folder: PathBuf,
    /// Endings of the names of what the engine keeps beside the database.
    endings: &'static [&'static str],
}

fn companions(engine: EngineKind) -> &'static [&'static str] {
    match engine {
        EngineKind::Sqlite => SQLITE_COMPANIONS,
        EngineKind::Duckdb => DUCKDB_COMPANIONS,
    }
}

/// Is something there? A link that leads nowhere counts.
pub fn exists(path: &Path) -> Result<bool, RestoreError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(RestoreError::io("cannot look at", path)(error)),
    }
}

impl Target {
    /// The target that `path` names; a link is followed, so that what it leads to is replaced and not the link.
    pub fn new(path: &Path, engine: EngineKind) -> Result<Target, RestoreError> {
        let refused = |problem: &str| RestoreError::Refused {
            problem: format!("{} {problem}", path.display()),
            next_step: "name the file to restore to with -o",
        };
        let path_now = if path.is_symlink() {
            fs::canonicalize(path).map_err(|_| refused("is a link that leads nowhere"))?
        } else {
            path.to_owned()
        };
        if path_now.is_dir() {
            return Err(refused("is a directory"));
        }
        let absolute = std::path::absolute(&path_now).map_err(RestoreError::io("cannot use", path))?;
        let (Some(folder), Some(_)) = (absolute.parent(), absolute.file_name()) else {
            return Err(refused("is not the name of a file"));
        };
        if !folder.is_dir() {
            return Err(RestoreError::Refused {
                problem: format!("the directory {} does not exist", folder.display()),
                next_step: "create it first",
            });
        }
        let folder = folder.to_owned();
        Ok(Target { path: absolute, folder, endings: companions(engine) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses a target that must not be touched.
    pub fn check(&self, overwrite: bool) -> Result<(), RestoreError> {
        for ending in std::iter::once("").chain(self.endings.iter().copied()) {
            let path = &with_ending(&self.path, ending);
            if !exists(path)? {
                continue;
            }
            if !overwrite {
                let what =
                    if ending.is_empty() { "" } else { ", left beside it, would be applied to the restored file" };
                return Err(RestoreError::Refused {
                    problem: format!("{} exists{what}", path.display()),
                    next_step: "restore to another path, or replace it with --overwrite (the old files are kept)",
                });
            }
            if let Some(pid) = locked_by(path)? {
                return Err(RestoreError::Refused {
                    problem: format!("{} is in use by process {pid}", path.display()),
                    next_step: "stop it first",
                });
            }
        }
        Ok(())
    }

    /// Refuses a file that the disk has no room for.
    pub fn check_space(&self, needed_bytes: u64) -> Result<(), RestoreError> {
        let free_bytes = self.free_bytes()?;
        if free_bytes >= needed_bytes {
            return Ok(());
        }
        Err(RestoreError::NoSpace { folder: self.folder.clone(), needed_bytes, free_bytes })
    }

    pub fn free_bytes(&self) -> Result<u64, RestoreError> {
        let stat =
            statvfs(&self.folder).map_err(|errno| RestoreError::io("cannot look at", &self.folder)(errno.into()))?;
        // Their types differ between systems.
        #[allow(clippy::useless_conversion)]
        let (blocks, size) = (u64::from(stat.blocks_available()), u64::from(stat.fragment_size()));
        Ok(blocks.saturating_mul(size))
    }

    pub fn no_space(&self, needed_bytes: u64) -> RestoreError {
        let free_bytes = self.free_bytes().unwrap_or(0);
        RestoreError::NoSpace { folder: self.folder.clone(), needed_bytes, free_bytes }
    }

    /// How the names of unfinished files of this target begin.
    fn unfinished_prefix(&self) -> String {
        format!(".{}.restore-", self.path.file_name().unwrap_or_default().to_string_lossy())
    }

    /// Files that other restores of this target have not finished: they run still, or were killed.
    pub fn left_behind(&self) -> Vec<PathBuf> {
        let prefix = self.unfinished_prefix();
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok().map(|entry| entry.file_name()));
        names.filter(|name| name.to_string_lossy().starts_with(&prefix)).map(|name| self.folder.join(name)).collect()
    }

    /// Names beside the target that nobody else uses.
    pub fn unfinished(&self, engine: EngineKind, random: u32) -> Unfinished {
        let name = format!("{}{}-{random:08x}", self.unfinished_prefix(), std::process::id());
        let main = self.folder.join(name);
        let wal = with_ending(&main, ".wal");
        Unfinished::new(main, wal, companions(engine))
    }

    /// Puts finished and durable files at the target, and with them those beside the database. What was there before is kept, and
    /// its new name is returned; after an error, all of it is back where it was.
    pub fn install(
        &self,
        from: &Unfinished,
        has_wal: bool,
        overwrite: bool,
        now: TimeMs,
        beside: Option<&Staged>,
    ) -> Result<Option<PathBuf>, RestoreError> {
        self.check(overwrite)?;
        let mut moved = Moved::default();
        if let Some(staged) = beside {
            staged.install(&mut moved, now)?;
        }
        let kept = self.keep_old(&mut moved, now)?;
        if has_wal {
            // The database's own log first: a database without it would be an older one.
            moved.place(&from.wal, &with_ending(&self.path, ".wal"))?;
        }
        moved.place(&from.main, &self.path)?;
        sync_folder(&self.folder)?;
        moved.done();
        Ok(kept)
    }

    /// Moves what is there out of the way, the database first: until the new one is in place, there is none.
    fn keep_old(&self, moved: &mut Moved, now: TimeMs) -> Result<Option<PathBuf>, RestoreError> {
        let mut old = Vec::new();
        for ending in std::iter::once("").chain(self.endings.iter().copied()) {
            if exists(&with_ending(&self.path, ending))? {
                old.push(ending);
            }
        }
        if old.is_empty() {
            return Ok(None);
        }
        let kept = self.kept_name(now)?;
        for ending in old {
            moved.rename(&with_ending(&self.path, ending), &with_ending(&kept, ending))?;
        }
        Ok(Some(kept))
    }

    fn kept_name(&self, now: TimeMs) -> Result<PathBuf, RestoreError> {
        kept_name(&self.path, self.endings, now)
    }

    /// Is this the name of the database, of something that its engine keeps beside it, or of an unfinished restore of it?
    pub fn claims(&self, path: &Path) -> bool {
        let is_own = |ending: &&str| with_ending(&self.path, ending) == path;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_unfinished = path.parent() == Some(&self.folder) && name.starts_with(&self.unfinished_prefix());
        std::iter::once(&"").chain(self.endings).any(is_own) || is_unfinished
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A name in `folder` that nobody else uses, for what is restored beside the database.
    pub fn staging(&self, folder: &Path, random: u32) -> PathBuf {
        folder.join(format!("{}{}-{random:08x}.files", self.unfinished_prefix(), std::process::id()))
    }

    /// Gives a new file the permissions and, where allowed, the owner of the file that it is about to replace.
    pub fn copy_permissions(&self, to: &File) -> io::Result<()> {
        let old = match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            old => old?,
        };
        to.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
        let new = to.metadata()?;
        if (new.uid(), new.gid()) == (old.uid(), old.gid()) {
            return Ok(());
        }
        match fchown(to, Some(old.uid()), Some(old.gid())) {
            // Only the superuser can give files away.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                tracing::warn!(path = %self.path.display(), "the restored file has another owner than the old one");
                Ok(())
            }
            result => result,
        }
    }
}

/// The name under which what is at `path` is kept, with what has its name and one of `endings`.
pub(super) fn kept_name(path: &Path, endings: &[&str], now: TimeMs) -> Result<PathBuf, RestoreError> {
    let stamp: String =
        format_time(TimeMs(now.0 / 1000 * 1000)).chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    let base = with_ending(path, &format!(".before-restore-{}", stamp.replace("000Z", "Z")));
    for number in 1..MAX_KEPT_NAMES {
        let name = if number == 1 { base.clone() } else { with_ending(&base, &format!("-{number}")) };
        let mut taken = exists(&name)?;
        for ending in endings {
            taken |= exists(&with_ending(&name, ending))?;
        }
        if !taken {
            return Ok(name);
        }
    }
    Err(RestoreError::Refused {
        problem: format!("too many files are kept as {}", base.display()),
        next_step: "remove those that are not needed any more",
    })
}

/// Makes names in a directory survive a power cut.
pub fn sync_folder(folder: &Path) -> Result<(), RestoreError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(RestoreError::io("cannot sync", folder))
}

/// Another process that holds a POSIX lock on the file, as both engines do: SQLite while a connection reads or writes, and in
/// WAL mode as long as it is open; DuckDB as long as it is open. An idle SQLite connection in another journal mode holds
/// none and cannot be seen.
///
/// Opening and closing a database drops this process's own locks on it: a process that has it open does not restore over it.
fn locked_by(path: &Path) -> Result<Option<i32>, RestoreError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(RestoreError::io("cannot open", path))?,
    };
    let (l_type, l_whence) = (libc::F_WRLCK as libc::c_short, libc::SEEK_SET as libc::c_short);
    // From the start of the file to its end, however long it is.
    let mut lock = libc::flock { l_type, l_whence, l_start: 0, l_len: 0, l_pid: 0 };
    fcntl(&file, FcntlArg::F_GETLK(&mut lock))
        .map_err(|errno| RestoreError::io("cannot look at", path)(errno.into()))?;
    Ok((lock.l_type != libc::F_UNLCK as libc::c_short).then_some(lock.l_pid))
}
