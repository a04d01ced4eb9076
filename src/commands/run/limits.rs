//! How many databases are held open at a time, by what the system gives.

use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::replicator::Crew;

/// Descriptors of one database that is held open: two connections with the file, its WAL and the wal-index, and a segment.
const PER_DATABASE: usize = 8;
/// Descriptors that are counted on where the system does not tell.
const UNKNOWN: usize = 1024;

/// Threads for at most `wanted` databases at a time, or for as many as there are descriptors for; says so if those are fewer.
pub fn crew(wanted: usize) -> Arc<Crew> {
    let descriptors = descriptors();
    // Half for databases, an eighth for the locks of parked ones; the rest for stores and whoever asks.
    let possible = (descriptors / 2 / PER_DATABASE).max(1);
    if possible < wanted {
        tracing::warn!(
            descriptors,
            databases = possible,
            "few open files are allowed (ulimit -n): no more than so many databases are held open at a time, and the others are parked in turn"
        );
    }
    let active = wanted.min(possible);
    Crew::new(active, active / 2, descriptors / 8)
}

/// As many as this process may have, after asking for all that it may ask for.
fn descriptors() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return UNKNOWN };
    let got = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) => {
            tracing::debug!("cannot raise the number of open files: {error}");
            soft
        }
    };
    usize::try_from(got).unwrap_or(usize::MAX)
}
