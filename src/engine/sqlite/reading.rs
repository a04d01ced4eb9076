//! The first full read: it builds the page map, in slices, while capture goes on. At its end stands the first commit, or
//! one that repairs.
//!
//! Every page is read as of the position of that moment, and every commit captured later corrects the map, so that the
//! map is exact at the position where the read ends; nothing is held for its length.

use super::connection::Connection;
use super::history::History;
use crate::checksum::{PageMap, page_hash};
use crate::engine::{EngineError, TransactionSink};
use crate::extent::{Extent, FileId};
use crate::position::{CommitKind, RepairReason};

/// Bytes of the file read in one look at the database.
const SLICE_BYTES: u64 = 32 << 20;
/// Bytes of the file read at once.
const READ_BYTES: u64 = 1 << 20;

/// What the read is for.
pub(super) enum Purpose {
    Initial,
    /// Compare with what the replica has.
    Repair {
        replica: PageMap,
        reason: RepairReason,
    },
}

pub(super) struct Reading {
    purpose: Purpose,
    /// The next page to read.
    next: u64,
    buffer: Vec<u8>,
}

/// How far the read came.
pub(super) enum Slice {
    /// Bytes read, and in all.
    Read {
        done: u64,
        total: u64,
    },
    Complete,
}

impl Reading {
    pub(super) fn new(purpose: Purpose) -> Reading {
        Reading { purpose, next: 0, buffer: Vec::new() }
    }

    /// Reads on, as of the position.
    pub(super) fn slice(&mut self, connection: &Connection, history: &mut History) -> Result<Slice, EngineError> {
        let page_bytes = u64::from(history.position.page_size);
        let limit = self.next + SLICE_BYTES / page_bytes;
        while self.next < history.map.len() && self.next < limit {
            let pages = (READ_BYTES / page_bytes).min(history.map.len() - self.next);
            self.buffer.resize((pages * page_bytes) as usize, 0);
            connection.read_main(self.next * page_bytes, &mut self.buffer)?;
            for (page, bytes) in (self.next..).zip(self.buffer.chunks_exact(page_bytes as usize)) {
                let hash = match () {
                    () if history.is_lock_page(page) => 0,
                    () if history.is_in_wal(page) => history.hash_unproven(connection, page)?,
                    () => page_hash(page, bytes),
                };
                history.map.set(page, hash);
            }
            self.next += pages;
        }
        if self.next >= history.map.len() {
            self.buffer = Vec::new();
            return Ok(Slice::Complete);
        }
        Ok(Slice::Read { done: self.next * page_bytes, total: history.position.length() })
    }

    /// Hands out the commit that the read was for, as of the position. `false`: the file is what the replica has, so that there
    /// is nothing to repair. It was only not known.
    pub(super) fn finish(
        self,
        connection: &Connection,
        history: &mut History,
        sink: &mut dyn TransactionSink,
    ) -> Result<bool, EngineError> {
        if let Purpose::Repair { replica, .. } = &self.purpose
            && replica.grid() == history.grid()
            && replica.hashes() == history.map.hashes()
        {
            return Ok(false);
        }
        sink.begin(history.grid())?;
        let outcome = match self.purpose {
            Purpose::Initial => history.commit(CommitKind::Initial, sink),
            Purpose::Repair { replica, reason } => differences(connection, history, &replica, sink)
                .and_then(|()| history.commit(CommitKind::Repair(reason), sink)),
        };
        outcome.inspect_err(|_| sink.abandon())?;
        Ok(true)
    }
}

/// Hands out every page that the replica has not, whole.
fn differences(
    connection: &Connection,
    history: &History,
    replica: &PageMap,
    sink: &mut dyn TransactionSink,
) -> Result<(), EngineError> {
    let grid = history.grid();
    let same_grid = replica.grid() == grid;
    let (mut page_buffer, mut frame_buffer) = (Vec::new(), Vec::new());
    for page in 0..history.map.len() {
        let hash = history.map.get(page);
        // Of another grid nothing is known by page: bytes of a page that is zeros now may be anything in the replica.
        if same_grid && replica.get(page) == hash {
            continue;
        }
        if history.is_lock_page(page) {
            page_buffer.clear();
            page_buffer.resize(grid.size as usize, 0);
        } else {
            history.read_page(connection, page, &mut page_buffer, &mut frame_buffer)?;
        }
        sink.extent(Extent { file: FileId::Main, offset: grid.offset(page), data: &page_buffer })?;
        sink.page(page, hash)?;
    }
    Ok(())
}
