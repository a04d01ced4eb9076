//! Which files there are now. Names and facts only: nothing is opened for reading.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use super::Place;
use super::live::{self, Inode};
use super::open::{self, Facts};
use super::patterns::{Excluded, Patterns, Wanted};
use crate::fileset::{MAX_FILE_BYTES, MAX_FILES, MAX_SET_BYTES, RelativePath};
use crate::layout::MARKER;

/// Names that one look reads in directories.
const MAX_NAMES: usize = 20_000;
/// Directories within each other that a pattern with `**` goes through.
const MAX_DEPTH: usize = 16;
/// What is told of what is left out.
const MAX_TOLD: usize = 100;

/// Why a file that somebody wants is not in the set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    Missing,
    /// It looks like a secret: this pattern keeps it out.
    Secret(String),
    TooLarge(u64),
    TooMany,
    /// The set is full.
    NoRoom,
    /// A link that leads out of the folder, or a file behind such a link.
    Link,
    NoFile(&'static str),
    /// A file of a database that is replicated, or of a replica.
    Database,
    Name,
    Unreadable(String),
    /// It changed each time that it was read.
    Changing,
    /// More names than a look reads.
    Crowded,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Missing => f.write_str("there is no such file"),
            Why::Secret(pattern) => write!(f, "looks like a secret ({pattern}); `exclude` can take it in"),
            Why::TooLarge(bytes) => write!(f, "has {bytes} bytes, and a file may have {MAX_FILE_BYTES}"),
            Why::TooMany => write!(f, "a set has at most {MAX_FILES} files"),
            Why::NoRoom => write!(f, "a set has at most {MAX_SET_BYTES} bytes"),
            Why::Link => f.write_str("is a link that leads out of the folder, or is not relative"),
            Why::NoFile(what) => write!(f, "is {what}, not a file"),
            Why::Database => f.write_str("belongs to a database or a replica"),
            Why::Name => f.write_str("its name is not Unicode, too long, or has control characters"),
            Why::Unreadable(error) => write!(f, "cannot be read: {error}"),
            Why::Changing => f.write_str("changed each time that it was read; tried again with the next look"),
            Why::Crowded => write!(f, "more than {MAX_NAMES} names to look at"),
        }
    }
}

/// A file that is not in the set, or a pattern that could not be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    pub what: String,
    pub why: Why,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

/// A file that belongs into the set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub path: RelativePath,
    pub facts: Facts,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Look {
    /// By path.
    pub files: Vec<Seen>,
    pub left_out: Vec<LeftOut>,
}

impl Look {
    pub fn leave_out(&mut self, what: impl fmt::Display, why: Why) {
        if self.left_out.len() < MAX_TOLD {
            self.left_out.push(LeftOut { what: what.to_string(), why });
        }
    }
}

pub(super) fn look(place: &Place, patterns: &Patterns) -> io::Result<Look> {
    let folder = open::folder(place.folder())?;
    let mut looker = Looker { place, folder, found: BTreeMap::new(), look: Look::default(), names: 0 };
    for wanted in &patterns.wanted {
        match wanted {
            Wanted::File(path) => _ = looker.found.insert(path.clone(), true),
            Wanted::Matching { below, depth, .. } => {
                looker.walk(wanted, below, depth.map_or(MAX_DEPTH, |depth| depth - 1));
            }
        }
    }
    Ok(looker.finish(patterns))
}

struct Looker<'a> {
    place: &'a Place,
    folder: OwnedFd,
    /// And whether it was named, not only matched.
    found: BTreeMap<RelativePath, bool>,
    look: Look,
    names: usize,
}

impl Looker<'_> {
    /// Reads a directory and those in it. Links to directories are not followed here: a path through one can be named.
    fn walk(&mut self, wanted: &Wanted, below: &str, depth: usize) {
        let at = if below.is_empty() { self.place.folder().to_owned() } else { self.place.folder().join(below) };
        if below.split('/').any(|name| !name.is_empty() && self.is_ours(name)) || is_replica(&at, below) {
            return;
        }
        let entries = match fs::read_dir(&at) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.look.leave_out(below, Why::Unreadable(error.to_string())),
            Ok(entries) => entries,
        };
        for entry in entries.flatten() {
            self.names += 1;
            if self.names > MAX_NAMES {
                return self.look.leave_out(if below.is_empty() { "." } else { below }, Why::Crowded);
            }
            let name = entry.file_name();
            let shown = name.to_string_lossy();
            let path = if below.is_empty() { shown.to_string() } else { format!("{below}/{shown}") };
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_directory && path.split('/').count() <= depth && !self.is_state_dir(&entry) {
                self.walk(wanted, &path, depth);
            } else if !is_directory && wanted.matches(&path) {
                match path.parse::<RelativePath>() {
                    Ok(path) if name.to_str().is_some() => _ = self.found.entry(path).or_insert(false),
                    _ => self.look.leave_out(path.escape_debug(), Why::Name),
                }
            }
        }
    }

    /// A directory in which some database keeps its state.
    fn is_ours(&self, name: &str) -> bool {
        name.starts_with('.') && name.ends_with("-replicate")
    }

    fn is_state_dir(&self, entry: &fs::DirEntry) -> bool {
        let inode = |found: fs::Metadata| (found.dev(), found.ino());
        let own = fs::metadata(&self.place.state_dir).map(inode);
        matches!((own, entry.metadata().map(inode)), (Ok(own), Ok(found)) if own == found)
    }

    /// Is a file of this path one of ours, which a set must not hold?
    fn is_inside_ours(&self, path: &RelativePath) -> bool {
        let folder = self.place.folder();
        let state_dir = self.place.state_dir.strip_prefix(folder).ok().and_then(|dir| dir.to_str());
        path.folders().any(|inner| {
            let name = inner.rsplit('/').next().unwrap_or(inner);
            self.is_ours(name) || Some(inner) == state_dir || is_replica(&folder.join(inner), inner)
        })
    }

    fn finish(mut self, patterns: &Patterns) -> Look {
        let own: BTreeSet<Inode> = live::inodes_of(&self.place.database).into_iter().collect();
        let mut total = 0;
        for (path, is_named) in std::mem::take(&mut self.found) {
            match patterns.excluded(&path) {
                Some(Excluded::AsConfigured) => continue,
                Some(Excluded::ByDefault(pattern)) => {
                    self.look.leave_out(&path, Why::Secret(pattern));
                    continue;
                }
                None => {}
            }
            let is_own = live::belongs_to(&self.place.database, path.as_str()) || self.is_inside_ours(&path);
            let facts = if is_own { Err(Why::Database) } else { open::facts(&self.folder, &path) };
            let facts = facts.and_then(|facts| if facts.is_one_of(&own) { Err(Why::Database) } else { Ok(facts) });
            let why = match facts {
                Ok(facts) if facts.bytes > MAX_FILE_BYTES => Why::TooLarge(facts.bytes),
                Ok(_) if self.look.files.len() >= MAX_FILES => Why::TooMany,
                Ok(facts) if total + facts.bytes > MAX_SET_BYTES => Why::NoRoom,
                Ok(facts) => {
                    total += facts.bytes;
                    self.look.files.push(Seen { path, facts });
                    continue;
                }
                // A pattern speaks of what is there, and not of what is in it by chance.
                Err(Why::Database | Why::Missing | Why::NoFile("a directory")) if !is_named => continue,
                Err(why) => why,
            };
            self.look.leave_out(path, why);
        }
        self.look
    }
}

/// A directory below the database's that holds a replica.
fn is_replica(at: &std::path::Path, below: &str) -> bool {
    !below.is_empty() && at.join(MARKER).exists()
}
