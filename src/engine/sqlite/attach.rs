//! Taking hold of a live database: what must be true of it, its locks, and where capture goes on.

use std::path::Path;

use super::connection::{Connection, not_in_wal_mode};
use super::continuity::{Continuity, prove};
use super::files::{FileIdentity, Files, beside, existing, refuse_network};
use super::history::History;
use super::hold::Hold;
use super::position::Position;
use super::reading::{Purpose, Reading};
use super::wal::is_page_size;
use super::wal_index::IndexHeader;
use crate::checksum::PageMap;
use crate::engine::{EngineError, Resume};
use crate::extent::PageGrid;
use crate::position::RepairReason;

/// Bytes of the header of a database file.
pub(super) const FILE_HEADER_BYTES: usize = 100;
/// How every SQLite database begins.
pub(super) const FILE_MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Where the header states the versions of the file format for writing and for reading: 1 rollback journal, 2 WAL.
const VERSIONS_OFFSET: usize = 18;

/// A database that is held.
pub(super) struct Attached {
    pub hold: Hold,
    pub history: History,
    pub files: Files,
    pub reading: Option<Reading>,
}

/// Takes the locks and finds out whether `resume` connects.
pub(super) fn attach(path: &Path, resume: Option<Resume>) -> Result<Attached, EngineError> {
    let (canonical, opened) = existing(path)?;
    refuse_network(&canonical)?;
    if beside(&canonical, "-wal2").exists() {
        return Err(unknown_wal("there is a -wal2 file"));
    }
    // Before anything is locked: beginning a transaction in another journal mode could roll back a hot journal.
    wal_mode_page_size(&Connection::open(&canonical)?)?;
    let (hold, published) = Hold::take(&canonical)?;
    let page_size = wal_mode_page_size(hold.reader())?;
    let files = Files::note(path, &canonical, opened)?;
    if published.page_size != page_size && published.last_frame != 0 {
        return Err(EngineError::Damaged(format!(
            "pages have {page_size} bytes in the file and {} in the WAL",
            published.page_size
        )));
    }
    let Some(resume) = resume else {
        let history = at_present(&hold, &published, page_size, opened)?;
        return Ok(Attached { hold, history, files, reading: Some(Reading::new(Purpose::Initial)) });
    };
    let position = Position::decode(&resume.position);
    let continuity = prove(hold.reader(), &published, &resume, position.as_ref(), &files.main()?, page_size)?;
    let repair = match (continuity, position) {
        (Continuity::Proven, Some(position)) => match resumed(&hold, &published, position, resume.page_map.clone())? {
            Some(history) => return Ok(Attached { hold, history, files, reading: None }),
            None => RepairReason::Away,
        },
        (Continuity::Proven, None) => RepairReason::Away,
        (Continuity::Repair(reason), _) => reason,
    };
    tracing::info!(database = %path.display(), reason = ?repair, "continuity cannot be proven: the file is compared");
    let history = at_present(&hold, &published, page_size, opened)?;
    let purpose = Purpose::Repair { replica: resume.page_map, reason: repair };
    Ok(Attached { hold, history, files, reading: Some(Reading::new(purpose)) })
}

/// A history that begins now, with an empty page map.
fn at_present(
    hold: &Hold,
    published: &IndexHeader,
    page_size: u32,
    file: FileIdentity,
) -> Result<History, EngineError> {
    let sequence = hold.reader().wal_header()?.map_or(0, |header| header.checkpoint_sequence);
    let pages = match published.pages {
        0 => hold.reader().main_length()?.div_ceil(u64::from(page_size)),
        pages => u64::from(pages),
    };
    let pages = u32::try_from(pages).map_err(|_| EngineError::Damaged(format!("{pages} pages")))?;
    let position = Position {
        device: file.device,
        inode: file.inode,
        salts: published.salts,
        frame: published.last_frame,
        checksum: published.checksum,
        checkpoint_sequence: sequence,
        page_size,
        pages,
    };
    let mut map = PageMap::new(PageGrid { head: 0, size: page_size });
    map.set_len(u64::from(pages));
    let mut history = History::new(position, map, Some(published.change));
    history.learn_frames(hold.reader())?;
    Ok(history)
}

/// A history that goes on at `position`, which was proven to connect: everything up to `published` is read and proven at
/// once, because a checkpoint may already have copied it, so that the WAL may start over before the next look.
fn resumed(
    hold: &Hold,
    published: &IndexHeader,
    position: Position,
    map: PageMap,
) -> Result<Option<History>, EngineError> {
    let mut history = History::new(position, map, None);
    if published.salts == position.salts {
        history.learn_frames(hold.reader())?;
    }
    let nothing_new =
        published.last_frame == 0 || (published.salts == position.salts && published.last_frame == position.frame);
    if nothing_new {
        history.set_change(published.change);
        return Ok(Some(history));
    }
    history.catching_up = true;
    for trust in [false, false, true] {
        if history.read_ahead(hold.reader(), published, trust)? {
            return Ok(Some(history));
        }
    }
    Ok(None)
}

/// The page size of a database in WAL mode; anything else is refused.
fn wal_mode_page_size(connection: &Connection) -> Result<u32, EngineError> {
    let mut header = [0u8; FILE_HEADER_BYTES];
    let whole = connection.read_main(0, &mut header)?;
    let stored = u32::from(u16::from_be_bytes([header[16], header[17]]));
    let page_size = if stored == 1 { 65536 } else { stored };
    if !whole || &header[..16] != FILE_MAGIC || !is_page_size(page_size) {
        return Err(EngineError::NotCapturable {
            reason: "the file is not a SQLite database, or it is encrypted".into(),
            next_step: "check the path; encrypted databases cannot be captured",
        });
    }
    match (header[VERSIONS_OFFSET], header[VERSIONS_OFFSET + 1]) {
        (2, 2) => Ok(page_size),
        (1, 1) => Err(not_in_wal_mode("its journal is a rollback journal")),
        (write, read) => Err(unknown_wal(&format!("its file format has versions {write} and {read}"))),
    }
}

fn unknown_wal(found: &str) -> EngineError {
    EngineError::NotCapturable {
        reason: format!("the database uses a log that is not SQLite's own WAL ({found})"),
        next_step: "run PRAGMA journal_mode=WAL in the application; wal2 and similar branches are not supported",
    }
}
