//! What an error of the operating system means for the caller.

use std::io;

use crate::store::{Outcome, StoreError};

/// The outcome, with the operator's next step where there is one.
pub(super) fn outcome(error: &io::Error) -> (Outcome, Option<&'static str>) {
    let step = match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => {
            return (Outcome::Unavailable, Some("the disk or the quota of the replica is full: free some space"));
        }
        Some(libc::EACCES | libc::EPERM) => {
            "give this user read and write permission to the directory and what is in it"
        }
        Some(libc::EROFS) => "the directory is on a file system that is mounted read-only",
        Some(libc::ELOOP) => "a symbolic link stands where an object should be; it is not followed",
        Some(libc::ENOTDIR | libc::EISDIR | libc::ENAMETOOLONG | libc::EINVAL | libc::ENOTSUP) => {
            return (Outcome::Invalid, None);
        }
        Some(libc::ENOENT) => return (Outcome::NotFound, None),
        // Interrupted, stale handles of a network file system, I/O errors, too many open files: may pass.
        _ => return (Outcome::Unavailable, None),
    };
    (Outcome::Denied, Some(step))
}

pub(super) fn error(operation: &'static str, key: &str, doing: &str, error: &io::Error) -> StoreError {
    let (outcome, step) = outcome(error);
    let detail = match step {
        Some(step) => format!("{doing}: {error} ({step})"),
        None => format!("{doing}: {error}"),
    };
    StoreError::new(outcome, operation, key, detail)
}
