//! What a replica is known to have, noted in the state directory: `verify` can then tell when a replica lost its end.
//!
//! A lower bound. It is written now and then and at the end, is no part of any decision of the replicator, and need not
//! survive a power cut.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::position::{Generation, Txid};
use crate::status::Place;

const PAUSE: Duration = Duration::from_secs(10);

/// The note for one replica.
#[derive(Debug)]
pub(super) struct ShippedNote {
    path: PathBuf,
    written: Option<(Place, Instant)>,
}

fn path_of(state_dir: &Path, index: usize) -> PathBuf {
    state_dir.join(format!("shipped-{index}"))
}

impl ShippedNote {
    pub fn new(state_dir: &Path, index: usize) -> ShippedNote {
        ShippedNote { path: path_of(state_dir, index), written: None }
    }

    /// Notes `place` unless that was done moments ago.
    pub fn now_and_then(&mut self, place: Place) {
        if self.written.is_none_or(|(_, at)| at.elapsed() >= PAUSE) {
            self.write(place);
        }
    }

    pub fn write(&mut self, place: Place) {
        if place.txid == Txid::ZERO || self.written.is_some_and(|(written, _)| written == place) {
            return;
        }
        self.written = Some((place, Instant::now()));
        let unfinished = self.path.with_extension("new");
        let text = format!("{}/{}\n", place.generation, place.txid.0);
        let result = std::fs::write(&unfinished, text).and_then(|()| std::fs::rename(&unfinished, &self.path));
        if let Err(error) = result {
            tracing::debug!("cannot write {}: {error}", self.path.display());
        }
    }
}

/// What the replica with this number, in the order of the configuration, is known to have.
pub fn read(state_dir: &Path, index: usize) -> Option<(Generation, Txid)> {
    let text = std::fs::read_to_string(path_of(state_dir, index)).ok()?;
    let (generation, txid) = text.trim().split_once('/')?;
    Some((generation.parse().ok()?, Txid(txid.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was noted is read; nothing, and anything else, is no note.
    #[test]
    fn a_note_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a directory");
        let place = Place { generation: Generation(77 << 20), txid: Txid(123) };
        assert_eq!(read(folder.path(), 1), None);
        let mut note = ShippedNote::new(folder.path(), 1);
        note.now_and_then(place);
        assert_eq!(read(folder.path(), 1), Some((place.generation, place.txid)));
        let later = Place { txid: Txid(124), ..place };
        note.now_and_then(later);
        assert_eq!(read(folder.path(), 1), Some((place.generation, place.txid)));
        note.write(later);
        assert_eq!(read(folder.path(), 1), Some((place.generation, later.txid)));
        assert_eq!(read(folder.path(), 0), None);
        std::fs::write(path_of(folder.path(), 0), "garbage").expect("written");
        assert_eq!(read(folder.path(), 0), None);
    }
}
