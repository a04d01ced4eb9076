//! Opening what is below a folder, and nothing else.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::Mode;

use super::live::{self, Inode};
use super::look::Why;
use crate::fileset::RelativePath;
use crate::position::TimeMs;

/// Many programs empty a file before they write it: what they leave for a moment is not what anybody wants back.
const FRESH_MS: u64 = 250;

/// What the system says of a file: the same again means that it did not change, unless both times are of this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    pub bytes: u64,
    pub mode: u32,
    inode: Inode,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Facts {
    pub fn of(metadata: &Metadata) -> Facts {
        Facts {
            bytes: metadata.len(),
            mode: metadata.mode(),
            inode: (metadata.dev(), metadata.ino()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// When its content was last changed, as its file system says.
    pub fn modified(&self) -> TimeMs {
        let ms = i128::from(self.modified.0) * 1000 + i128::from(self.modified.1) / 1_000_000;
        TimeMs(u64::try_from(ms).unwrap_or(0).min(TimeMs::MAX.0))
    }

    /// Was it changed so long before `now` that a later change must have another time?
    pub fn is_settled(&self, now: TimeMs) -> bool {
        let settled = |(seconds, _): (i64, i64)| seconds.saturating_add(2) < i64::try_from(now.0 / 1000).unwrap_or(0);
        settled(self.modified) && settled(self.changed)
    }
}

/// The folder, to open things below it; whatever path leads to it was given by whoever configured it.
pub(super) fn folder(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}

/// A handle that can only be asked what it is of: nothing happens to a device, a pipe or a lock by it. Links are followed as long as they
/// do not lead out of the folder.
fn handle(folder: &OwnedFd, path: &RelativePath) -> Result<File, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(flags).resolve(resolve);
    match openat2(folder, path.as_str(), how) {
        // A kernel, or a sandbox, that does not know the call: then no link is followed at all.
        Err(Errno::ENOSYS | Errno::EPERM) => without_links(folder, path),
        found => found.map(File::from),
    }
}

fn without_links(folder: &OwnedFd, path: &RelativePath) -> Result<File, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let mut names = path.as_str().split('/').peekable();
    let mut at = folder.try_clone().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
    while let Some(name) = names.next() {
        let directory = if names.peek().is_some() { OFlag::O_DIRECTORY } else { OFlag::empty() };
        at = openat(&at, name, flags | directory, Mode::empty())?;
    }
    Ok(File::from(at))
}

/// What a path leads to.
pub(super) fn facts(folder: &OwnedFd, path: &RelativePath) -> Result<Facts, Why> {
    regular(folder, path).map(|(_, facts)| facts)
}

fn regular(folder: &OwnedFd, path: &RelativePath) -> Result<(File, Facts), Why> {
    let handle = handle(folder, path).map_err(|errno| match errno {
        Errno::ENOENT | Errno::ENOTDIR => Why::Missing,
        Errno::EXDEV | Errno::ELOOP => Why::Link,
        // Something on the way was moved at this moment.
        Errno::EAGAIN => Why::Changing,
        errno => Why::Unreadable(errno.desc().to_owned()),
    })?;
    let metadata = handle.metadata().map_err(|error| Why::Unreadable(error.to_string()))?;
    if metadata.is_symlink() {
        return Err(Why::Link);
    }
    if !metadata.is_file() {
        return Err(Why::NoFile(if metadata.is_dir() { "a directory" } else { "a pipe, a socket or a device" }));
    }
    Ok((handle, Facts::of(&metadata)))
}

/// Opens a regular file for reading, unless it is one of `own`, or of another database that this process has open.
pub(super) fn to_read(folder: &OwnedFd, path: &RelativePath, own: &[Inode]) -> Result<(File, Facts), Why> {
    let unreadable = |error: io::Error| Why::Unreadable(error.to_string());
    let (handle, facts) = regular(folder, path)?;
    // By the handle, so that it is this file and no other that has taken its name since.
    let same = PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()));
    let real = fs::read_link(&same).map_err(unreadable)?;
    if own.contains(&facts.inode) || live::is_live(&real, &handle.metadata().map_err(unreadable)?) {
        return Err(Why::Database);
    }
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = File::options().read(true).custom_flags(flags.bits()).open(same).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    Ok((file, Facts::of(&metadata)))
}

impl Facts {
    /// Was it changed so shortly before `now` that whoever did may not be done with it?
    pub fn is_fresh(&self, now: TimeMs) -> bool {
        self.modified().0.abs_diff(now.0) < FRESH_MS
    }

    pub(super) fn is_one_of(&self, inodes: &BTreeSet<Inode>) -> bool {
        inodes.contains(&self.inode)
    }
}
