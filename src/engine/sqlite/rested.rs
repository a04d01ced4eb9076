//! Letting go of a database at rest, and proving later that nothing happened meanwhile but what is in the WAL.
//!
//! While the whole WAL is folded into the file, the file alone is the database. Commits made after that are in the WAL until a
//! checkpoint writes them into the file, and only then can the WAL start over, be truncated or be removed. So a file that is
//! untouched under our lock says that every commit made since is in the WAL as it is now, from its first frame on.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use super::position::Position;
use super::wal_index::IndexHeader;

const MAGIC: [u8; 4] = *b"SQR1";
const LENGTH: usize = 4 + 6 * 8;
/// A file that was written so long ago gets another time with the next write, whatever the file system's clock resolves.
const SETTLED: Duration = Duration::from_secs(2);

fn encode(metadata: &Metadata) -> Vec<u8> {
    let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
    let mut out = Vec::with_capacity(LENGTH);
    out.extend(MAGIC);
    out.extend(metadata.ino().to_le_bytes());
    out.extend(metadata.size().to_le_bytes());
    out.extend(times.iter().flat_map(|time| time.to_le_bytes()));
    out
}

/// Does the file alone hold everything that is captured? `published` was read before `metadata`, and again after it.
pub(super) fn note(published: &IndexHeader, position: &Position, metadata: &Metadata) -> Option<Vec<u8>> {
    let is_level =
        published.last_frame == 0 || (published.salts == position.salts && published.last_frame == position.frame);
    let is_folded = published.backfilled >= published.last_frame;
    let age = metadata.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
    (is_level && is_folded && age.is_some_and(|age| age >= SETTLED)).then(|| encode(metadata))
}

/// Is the file untouched since? `metadata` was read under the hold.
pub(super) fn is_untouched(rested: &[u8], metadata: &Metadata) -> bool {
    rested.len() == LENGTH && rested == encode(metadata)
}
