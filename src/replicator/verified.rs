//! When a replica was last found whole, noted in the state directory by `replicate verify` for the metrics of `run`.

use std::io;
use std::path::{Path, PathBuf};

use crate::position::TimeMs;

fn path_of(state_dir: &Path, index: usize) -> PathBuf {
    state_dir.join(format!("verified-{index}"))
}

/// Notes that the replica with this number, in the order of the configuration, is whole.
pub fn write(state_dir: &Path, index: usize, now: TimeMs) -> io::Result<()> {
    let path = path_of(state_dir, index);
    let unfinished = path.with_extension("new");
    std::fs::write(&unfinished, format!("{}\n", now.0)).and_then(|()| std::fs::rename(&unfinished, &path))
}

/// `None`: never, or nothing is known of it.
pub fn read(state_dir: &Path, index: usize) -> Option<TimeMs> {
    let text = std::fs::read_to_string(path_of(state_dir, index)).ok()?;
    text.trim().parse().ok().map(TimeMs).filter(|time| *time <= TimeMs::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was noted is read; nothing, and anything else, is no note.
    #[test]
    fn a_note_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a directory");
        assert_eq!(read(folder.path(), 1), None);
        write(folder.path(), 1, TimeMs(12_345)).expect("written");
        assert_eq!((read(folder.path(), 1), read(folder.path(), 0)), (Some(TimeMs(12_345)), None));
        std::fs::write(path_of(folder.path(), 1), "18446744073709551615").expect("written");
        assert_eq!(read(folder.path(), 1), None);
    }
}
