//! Listing a directory as a store. Blocking; follows no symbolic link.

use std::fs::{self, DirEntry};
use std::io;
use std::path::Path;

use super::{TEMPORARY, errors};
use crate::store::{Key, LIST_MAX, ObjectMeta, Outcome, StoreError};

pub(super) fn list(root: &Path, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>, StoreError> {
    let mut found = Vec::new();
    // Only the folder part of the prefix is a path; what is behind the last slash begins a name in it.
    let mut folders = vec![prefix.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in entries(root, &folder, prefix)? {
            let name = if folder.is_empty() { entry.name } else { format!("{folder}/{}", entry.name) };
            if entry.is_folder {
                // What is below begins with the name and a slash: beside the prefix, or all of it before `after`?
                let begins = format!("{name}/");
                let beside = !begins.starts_with(prefix) && !prefix.starts_with(&begins);
                let before = after.is_some_and(|after| after > begins.as_str() && !after.starts_with(&begins));
                if !beside && !before {
                    folders.push(name);
                }
                continue;
            }
            if !name.starts_with(prefix) || after.is_some_and(|after| name.as_str() <= after) {
                continue;
            }
            if found.len() >= LIST_MAX {
                let detail = format!("more than {LIST_MAX} objects");
                return Err(StoreError::new(Outcome::Invalid, "list", prefix, detail));
            }
            if let Some(meta) = meta(name, &entry.entry, prefix)? {
                found.push(meta);
            }
        }
    }
    found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    Ok(found)
}

pub(super) fn folders(root: &Path, folder: &str) -> Result<Vec<String>, StoreError> {
    let entries = entries(root, folder.trim_end_matches('/'), folder)?;
    let mut names: Vec<String> = entries.into_iter().filter(|e| e.is_folder).map(|e| e.name).collect();
    names.sort_unstable();
    Ok(names)
}

struct Entry {
    name: String,
    is_folder: bool,
    entry: DirEntry,
}

/// The files and folders in a folder whose names are parts of keys. A folder that is not there is empty.
fn entries(root: &Path, folder: &str, prefix: &str) -> Result<Vec<Entry>, StoreError> {
    let failed = |e: io::Error| errors::error("list", prefix, "reading the directory", &e);
    let Some(path) = folder_path(root, folder) else { return Ok(Vec::new()) };
    let listing = match fs::read_dir(&path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(Vec::new()),
        listing => listing.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in listing {
        let entry = entry.map_err(failed)?;
        let kind = match entry.file_type() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            kind => kind.map_err(failed)?,
        };
        let name = entry.file_name();
        match name.to_str() {
            Some(name) if name.starts_with(TEMPORARY) => {}
            Some(name) if (kind.is_file() || kind.is_dir()) && Key::new(name).is_ok() => {
                found.push(Entry { name: name.to_owned(), is_folder: kind.is_dir(), entry });
            }
            _ => tracing::warn!(path = %entry.path().display(), "not an object: left out of the listing"),
        }
    }
    Ok(found)
}

/// `None` where the folder cannot hold objects: its name is no key, or a symbolic link is on the way.
fn folder_path(root: &Path, folder: &str) -> Option<std::path::PathBuf> {
    let mut path = root.to_owned();
    if folder.is_empty() {
        return Some(path);
    }
    Key::new(folder).ok()?;
    for part in folder.split('/') {
        path.push(part);
        if fs::symlink_metadata(&path).is_ok_and(|m| m.is_symlink()) {
            tracing::warn!(path = %path.display(), "a symbolic link is not followed");
            return None;
        }
    }
    Some(path)
}

/// `None` for a file that was deleted since the directory was read.
fn meta(name: String, entry: &DirEntry, prefix: &str) -> Result<Option<ObjectMeta>, StoreError> {
    let Ok(key) = Key::new(name) else {
        tracing::warn!(path = %entry.path().display(), "not the name of an object: left out of the listing");
        return Ok(None);
    };
    match entry.metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        metadata => {
            let metadata = metadata.map_err(|e| errors::error("list", prefix, "reading a length", &e))?;
            Ok(Some(ObjectMeta { key, size: metadata.len() }))
        }
    }
}
