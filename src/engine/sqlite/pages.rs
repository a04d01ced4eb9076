//! Pages of the database as of the captured position: from the WAL while its newest version lies there, else from the file.
//!
//! The file never runs ahead of what is captured: a checkpoint copies frames only up to our read mark, and everything up
//! to the mark is captured before a newer mark is set.

use super::connection::Connection;
use super::history::{History, READ_AGAIN_AFTER, gap};
use super::wal::{FRAME_HEADER_BYTES, FrameHeader, frame_offset};
use crate::checksum::page_hash;
use crate::engine::EngineError;
use crate::position::RepairReason;

/// How often a page that does not have its expected hash is read again.
const PAGE_READS: u32 = 20;

impl History {
    /// Reads the 0-based `page` as of the position into `page_buffer`, proven by its hash in the page map.
    pub(super) fn read_page(
        &self,
        connection: &Connection,
        page: u64,
        page_buffer: &mut Vec<u8>,
        frame_buffer: &mut Vec<u8>,
    ) -> Result<(), EngineError> {
        for attempt in 0..PAGE_READS {
            if self.try_page(connection, page, page_buffer, frame_buffer)? {
                return Ok(());
            }
            if attempt > 2 {
                std::thread::sleep(READ_AGAIN_AFTER);
            }
        }
        Err(gap(RepairReason::LogDiscarded, format!("page {} is not what was captured last", page + 1)))
    }

    /// Like `read_page`, for the version that a delta is made against. `false` when it is gone, which is as it should be
    /// only in the first batch after an attach.
    pub(super) fn read_previous(
        &self,
        connection: &Connection,
        page: u64,
        page_buffer: &mut Vec<u8>,
        frame_buffer: &mut Vec<u8>,
    ) -> Result<bool, EngineError> {
        if !self.catching_up {
            return self.read_page(connection, page, page_buffer, frame_buffer).map(|()| true);
        }
        self.try_page(connection, page, page_buffer, frame_buffer)
    }

    /// One attempt at `read_page`; `false` when neither place has the bytes that the hash is of.
    pub(super) fn try_page(
        &self,
        connection: &Connection,
        page: u64,
        page_buffer: &mut Vec<u8>,
        frame_buffer: &mut Vec<u8>,
    ) -> Result<bool, EngineError> {
        let expected = self.map.get(page);
        if self.read_frame(connection, page, frame_buffer)?.is_some() {
            page_buffer.clear();
            page_buffer.extend_from_slice(&frame_buffer[FRAME_HEADER_BYTES..]);
            if page_hash(page, page_buffer) == expected {
                return Ok(true);
            }
        }
        // Also when the frame is known: a life of the WAL that has just ended is in the file whole.
        page_buffer.resize(self.position.page_size as usize, 0);
        connection.read_main(self.grid().offset(page), page_buffer)?;
        Ok(page_hash(page, page_buffer) == expected)
    }

    /// Reads the newest captured frame of the 0-based `page`, header and page, if the page has one in this life of the WAL
    /// and the bytes there still claim to be of that page.
    fn read_frame(&self, connection: &Connection, page: u64, buffer: &mut Vec<u8>) -> Result<Option<()>, EngineError> {
        let number = u32::try_from(page + 1).ok();
        let Some((number, &frame)) = number.and_then(|number| Some((number, self.frames.get(&number)?))) else {
            return Ok(None);
        };
        let page_size = self.position.page_size;
        buffer.resize(page_size as usize + FRAME_HEADER_BYTES, 0);
        let whole = connection.read_wal(frame_offset(frame, page_size), buffer)?;
        Ok((whole && FrameHeader::parse(buffer).page == number).then_some(()))
    }

    /// Has the 0-based `page` a captured frame in this life of the WAL?
    pub(super) fn is_in_wal(&self, page: u64) -> bool {
        u32::try_from(page + 1).is_ok_and(|number| self.frames.contains_key(&number))
    }

    /// The hash of the 0-based `page` as of the position, without a page map to prove it by.
    pub(super) fn hash_unproven(&mut self, connection: &Connection, page: u64) -> Result<u64, EngineError> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let found = self.read_frame(connection, page, &mut scratch.frame)?;
        let now = connection.index_header_waiting()?;
        let hash = if now.salts != self.position.salts {
            // The life of the WAL that the position is in has ended, so the file has everything of it.
            scratch.new.resize(self.position.page_size as usize, 0);
            connection.read_main(self.grid().offset(page), &mut scratch.new)?;
            page_hash(page, &scratch.new)
        } else if found.is_some() {
            // A new life is announced in the wal-index before its first frame is written: this frame is the captured one.
            page_hash(page, &scratch.frame[FRAME_HEADER_BYTES..])
        } else {
            return Err(gap(RepairReason::LogDiscarded, format!("the frame of page {} is not in the WAL", page + 1)));
        };
        self.scratch = scratch;
        Ok(hash)
    }
}
