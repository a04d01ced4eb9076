//! Is everything that was committed since a stored position still in the WAL? Proven under the hold, or not believed.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use super::connection::Connection;
use super::position::Position;
use super::rested::is_untouched;
use super::wal::{ByteOrder, Checksum, FRAME_HEADER_BYTES, FrameHeader, Salts, frame_offset};
use super::wal_index::IndexHeader;
use crate::engine::{EngineError, Resume};
use crate::position::RepairReason;

/// What can be said about the time since the position was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Continuity {
    /// Every commit since is in the WAL: capture goes on.
    Proven,
    /// It cannot be proven: the file must be compared with the page map.
    Repair(RepairReason),
}

use Continuity::{Proven, Repair};

/// Decides from where capture goes on. `published` and `file` were read under the hold; `page_size` is that of the file.
pub(super) fn prove(
    connection: &Connection,
    published: &IndexHeader,
    resume: &Resume,
    position: Option<&Position>,
    file: &Metadata,
    page_size: u32,
) -> Result<Continuity, EngineError> {
    let Some(position) = position else { return Ok(Repair(RepairReason::Away)) };
    // The device's number may change when the machine starts again; the inode's does not.
    if file.ino() != position.inode || page_size != position.page_size {
        return Ok(Repair(RepairReason::FileReplaced));
    }
    if let Some(reason) = resume.repair {
        return Ok(Repair(reason));
    }
    let map = &resume.page_map;
    let map_fits = map.grid().head == 0 && map.grid().size == page_size && map.len() == u64::from(position.pages);
    if !map_fits || resume.lengths.main != position.length() {
        return Ok(Repair(RepairReason::Away));
    }
    let continuity = match published.salts == position.salts {
        true => same_life(connection, published, position)?,
        false => one_restart(connection, published, position)?,
    };
    let is_untouched = resume.rested.as_ref().is_some_and(|rested| is_untouched(rested, file));
    Ok(if continuity == Repair(RepairReason::Away) && is_untouched { Proven } else { continuity })
}

/// The WAL is in the life it was in: its prefix must be unchanged.
fn same_life(connection: &Connection, published: &IndexHeader, position: &Position) -> Result<Continuity, EngineError> {
    if position.frame == 0 {
        // Salts of zeros belong to a WAL that was never written, not to one life of it.
        let named = position.salts != Salts::default();
        return Ok(if named { Proven } else { Repair(RepairReason::Away) });
    }
    if published.last_frame < position.frame || !frame_is_intact(connection, position)? {
        return Ok(Repair(RepairReason::ReplicaAhead));
    }
    Ok(Proven)
}

/// The WAL was started over. Nothing was missed if that happened exactly once and the old life ended at the position.
fn one_restart(
    connection: &Connection,
    published: &IndexHeader,
    position: &Position,
) -> Result<Continuity, EngineError> {
    let away = Ok(Repair(RepairReason::Away));
    let Some(header) = connection.wal_header()? else { return away };
    let once = published.salts.0 == position.salts.0.wrapping_add(1) && position.frame > 0;
    // Until the new life's first frame is written, the file still shows the old one.
    let shown = header.salts == published.salts || (published.last_frame == 0 && header.salts == position.salts);
    if !once || !shown || published.last_frame >= position.frame || header.page_size != position.page_size {
        return away;
    }
    // Frames are written in ascending order, so while this one is of the old life, so is everything behind it.
    if !frame_is_intact(connection, position)? || !ended_at(connection, header.order, position)? {
        return away;
    }
    let now = connection.index_header_waiting()?;
    Ok(if now.salts == published.salts { Proven } else { Repair(RepairReason::Away) })
}

fn frame_is_intact(connection: &Connection, position: &Position) -> Result<bool, EngineError> {
    let mut bytes = [0u8; FRAME_HEADER_BYTES];
    let whole = connection.read_wal(frame_offset(position.frame, position.page_size), &mut bytes)?;
    let frame = FrameHeader::parse(&bytes);
    Ok(whole && frame.salts == position.salts && frame.checksum == position.checksum)
}

/// Did the old life end with the frame of the position? No frame behind it may continue its chain.
fn ended_at(connection: &Connection, order: ByteOrder, position: &Position) -> Result<bool, EngineError> {
    let Some(next) = position.frame.checked_add(1) else { return Ok(false) };
    let offset = frame_offset(next, position.page_size);
    let mut frame = vec![0u8; position.page_size as usize + FRAME_HEADER_BYTES];
    if !connection.read_wal(offset, &mut frame)? {
        return Ok(connection.wal_length()? == offset);
    }
    let header = FrameHeader::parse(&frame);
    // Old SQLite libraries commit frames without salts and checksums: such a one may have been committed.
    let blank = header.salts == Salts::default() && header.checksum == Checksum::default();
    Ok(!blank && !header.continues(&frame, order, position.salts, position.checksum))
}
