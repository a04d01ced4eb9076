//! A file set as data, and as it is stored: versioned JSON. What is read is checked as if it came from an enemy.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::blob::MAX_FILE_BYTES;
use super::path::RelativePath;
use crate::checksum::Sha256;
use crate::layout::BlobHash;
use crate::position::TimeMs;

/// Bytes of all files of a set.
pub const MAX_SET_BYTES: u64 = 64 << 20;
/// Files of a set.
pub const MAX_FILES: usize = 1000;
/// Permissions for owner, group and others; nothing that makes a program run as somebody else.
const MODE_BITS: u32 = 0o777;
const VERSION: u32 = 1;

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncludedFile {
    pub path: RelativePath,
    pub bytes: u64,
    /// Its permissions.
    pub mode: u32,
    /// When its content was last changed.
    pub modified: TimeMs,
    /// SHA-256 of its content, and the name of the blob that holds it. An empty file has no blob.
    pub hash: BlobHash,
}

impl IncludedFile {
    pub fn new(path: RelativePath, mode: u32, modified: TimeMs, content: &[u8]) -> IncludedFile {
        let hash = BlobHash(Sha256::of(content));
        IncludedFile { path, bytes: content.len() as u64, mode: mode & MODE_BITS, modified, hash }
    }

    /// Nothing of it changed but, perhaps, when it was last written.
    fn is_same(&self, other: &IncludedFile) -> bool {
        (&self.path, self.bytes, self.mode, self.hash) == (&other.path, other.bytes, other.mode, other.hash)
    }
}

/// Files as they were at one moment, by path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileSet {
    pub files: Vec<IncludedFile>,
}

#[derive(Serialize, Deserialize)]
struct Written {
    format: u32,
    files: Vec<WrittenFile>,
}

#[derive(Serialize, Deserialize)]
struct WrittenFile {
    path: String,
    bytes: u64,
    mode: u32,
    modified_ms: u64,
    sha256: String,
}

impl FileSet {
    /// Puts them in order.
    pub fn new(mut files: Vec<IncludedFile>) -> FileSet {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        FileSet { files }
    }

    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add)
    }

    /// The blobs that it needs, each once.
    pub fn blobs(&self) -> BTreeSet<BlobHash> {
        self.files.iter().filter(|file| file.bytes > 0).map(|file| file.hash).collect()
    }

    /// The same files with the same content and permissions.
    pub fn is_same(&self, other: &FileSet) -> bool {
        self.files.len() == other.files.len() && self.files.iter().zip(&other.files).all(|(a, b)| a.is_same(b))
    }

    pub fn find(&self, path: &RelativePath) -> Option<&IncludedFile> {
        self.files.binary_search_by(|file| file.path.cmp(path)).ok().map(|at| &self.files[at])
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let file = |file: &IncludedFile| WrittenFile {
            path: file.path.as_str().to_owned(),
            bytes: file.bytes,
            mode: file.mode,
            modified_ms: file.modified.0,
            sha256: file.hash.to_string(),
        };
        let written = Written { format: VERSION, files: self.files.iter().map(file).collect() };
        serde_json::to_vec(&written).expect("a file set is plain data")
    }

    /// What is wrong with it, where it is none that may be acted on.
    pub(super) fn decode(bytes: &[u8]) -> Result<FileSet, String> {
        let written: Written = serde_json::from_slice(bytes)
            .map_err(|error| format!("is no file set that this version reads: {error}"))?;
        if written.format != VERSION {
            return Err(format!("is a file set of format {}; use a newer replicate", written.format));
        }
        let files: Result<Vec<IncludedFile>, String> = written.files.into_iter().map(checked).collect();
        let set = FileSet { files: files? };
        set.check().map(|()| set)
    }

    /// Is it one that may be stored, and that a reader takes?
    pub fn check(&self) -> Result<(), String> {
        let paths: BTreeSet<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
        let is_folder = |file: &IncludedFile| file.path.folders().any(|folder| paths.contains(folder));
        if !self.files.is_sorted_by(|a, b| a.path < b.path) || self.files.iter().any(is_folder) {
            return Err("names a file twice, as a folder, or out of order".to_owned());
        }
        if self.files.len() > MAX_FILES || self.total_bytes() > MAX_SET_BYTES {
            return Err("has more files or more bytes than a set may have".to_owned());
        }
        Ok(())
    }
}

fn checked(file: WrittenFile) -> Result<IncludedFile, String> {
    let path: RelativePath = file.path.parse().map_err(|error| format!("{error}"))?;
    let hash: BlobHash = file.sha256.parse().map_err(|error| format!("{path}: {error}"))?;
    let is_bounded = file.bytes <= MAX_FILE_BYTES && file.mode & !MODE_BITS == 0 && file.modified_ms <= TimeMs::MAX.0;
    let is_empty = hash == BlobHash(Sha256::of(b""));
    if !is_bounded || is_empty != (file.bytes == 0) {
        return Err(format!("{path}: its size, mode or time cannot be"));
    }
    Ok(IncludedFile { path, bytes: file.bytes, mode: file.mode, modified: TimeMs(file.modified_ms), hash })
}
