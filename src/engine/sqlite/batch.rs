//! A stretch of committed frames of the WAL, proven to be what the wal-index published.

use super::connection::Connection;
use super::wal::{ByteOrder, Checksum, FRAME_HEADER_BYTES, FrameHeader, Salts, frame_offset};
use super::wal_index::IndexHeader;
use crate::engine::EngineError;

/// Bytes of the WAL read at once.
const READ_BYTES: usize = 1 << 20;
/// A stretch up to this many bytes is kept in memory, so that its pages need not be read again.
const KEPT_BYTES: usize = 8 << 20;

/// Where one transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CommitMark {
    pub last_frame: u32,
    /// Pages of the database after it.
    pub pages: u32,
    pub checksum: Checksum,
}

/// Whole transactions, ready to be handed out. Memory: 4 bytes for each frame, 16 for each commit, and `KEPT_BYTES`.
#[derive(Debug)]
pub(super) struct Batch {
    pub salts: Salts,
    pub checkpoint_sequence: u32,
    pub page_size: u32,
    /// `IndexHeader::change` after the last commit.
    pub change_after: u32,
    /// The chain did not verify: taken on the authority of the wal-index.
    pub trusted: bool,
    /// Commit frames that repeat the one before them, as SQLite pads to a sector when it cannot trust the disk.
    pub repeats: u32,
    pub commits: Vec<CommitMark>,
    first: u32,
    frame_pages: Vec<u32>,
    /// The frames themselves, unless they are too many.
    kept: Option<Vec<u8>>,
}

/// Where the stretch begins: behind this frame, whose checksum is given.
#[derive(Debug, Clone, Copy)]
pub(super) struct After {
    pub frame: u32,
    pub checksum: Checksum,
}

/// The chain as it is followed through the stretch.
struct Chain {
    order: ByteOrder,
    salts: Salts,
    checksum: Checksum,
    broken: bool,
}

impl Batch {
    /// Reads and proves the frames behind `after` up to what `published` says. `after.frame` 0 begins with the first frame.
    ///
    /// `None` when the bytes do not fit: they are read again later. With `trust`, frames whose checksums do not fit are
    /// accepted when the wal-index knows their page numbers: SQLite libraries before 3.50 commit such frames.
    pub(super) fn read(
        connection: &Connection,
        after: After,
        published: &IndexHeader,
        trust: bool,
    ) -> Result<Option<Batch>, EngineError> {
        let Some(header) = connection.wal_header()? else { return Ok(None) };
        if header.salts != published.salts || header.page_size != published.page_size {
            return Ok(None);
        }
        let seed = if after.frame == 0 { header.checksum } else { after.checksum };
        let mut chain = Chain { order: header.order, salts: header.salts, checksum: seed, broken: false };
        let mut batch = Batch {
            salts: header.salts,
            checkpoint_sequence: header.checkpoint_sequence,
            page_size: header.page_size,
            change_after: published.change,
            trusted: false,
            repeats: 0,
            commits: Vec::new(),
            first: after.frame + 1,
            frame_pages: Vec::new(),
            kept: None,
        };
        if !batch.read_frames(connection, published, trust, &mut chain)? {
            return Ok(None);
        }
        if chain.broken || chain.checksum != published.checksum {
            if !trust || !batch.known_to_index(connection, published)? {
                return Ok(None);
            }
            batch.trusted = true;
            if let Some(last) = batch.commits.last_mut() {
                // Later frames continue from the published checksum.
                last.checksum = published.checksum;
            }
        }
        let ends_well = batch
            .commits
            .last()
            .is_some_and(|last| last.last_frame == published.last_frame && last.pages == published.pages);
        Ok(ends_well.then_some(batch))
    }

    /// Follows the chain through the frames; `false` when they are not there or do not fit.
    fn read_frames(
        &mut self,
        connection: &Connection,
        published: &IndexHeader,
        trust: bool,
        chain: &mut Chain,
    ) -> Result<bool, EngineError> {
        let frame_bytes = self.page_size as usize + FRAME_HEADER_BYTES;
        let total = (published.last_frame + 1).saturating_sub(self.first) as usize;
        let keep = total.saturating_mul(frame_bytes) <= KEPT_BYTES;
        let at_once = if keep { total } else { (READ_BYTES / frame_bytes).max(1) };
        let mut buffer = vec![0u8; at_once.min(total) * frame_bytes];
        let mut next = self.first;
        while next <= published.last_frame {
            let count = at_once.min((published.last_frame - next + 1) as usize);
            let bytes = &mut buffer[..count * frame_bytes];
            if !connection.read_wal(frame_offset(next, self.page_size), bytes)? {
                return Ok(false);
            }
            for frame in bytes.chunks_exact(frame_bytes) {
                let header = FrameHeader::parse(frame);
                if !chain.broken && header.continues(frame, chain.order, chain.salts, chain.checksum) {
                    chain.checksum = header.checksum;
                } else if trust {
                    chain.broken = true;
                } else {
                    return Ok(false);
                }
                self.take(&header);
            }
            next += count as u32;
        }
        self.kept = keep.then_some(buffer);
        Ok(true)
    }

    fn take(&mut self, header: &FrameHeader) {
        let frame = self.first + self.frame_pages.len() as u32;
        if header.truncate != 0 {
            let previous = self.commits.last().filter(|last| last.last_frame + 1 == frame);
            let repeated = previous.is_some_and(|last| last.pages == header.truncate)
                && self.frame_pages.last() == Some(&header.page);
            self.repeats += u32::from(repeated);
            self.commits.push(CommitMark { last_frame: frame, pages: header.truncate, checksum: header.checksum });
        }
        self.frame_pages.push(header.page);
    }

    /// Does the wal-index name the same page for every frame, and is it still the same life of the WAL?
    fn known_to_index(&self, connection: &Connection, published: &IndexHeader) -> Result<bool, EngineError> {
        let pages = connection.frame_pages(self.first, published.last_frame)?;
        let now = connection.index_header_waiting()?;
        Ok(pages.as_ref() == Some(&self.frame_pages) && now.salts == self.salts)
    }

    /// The first frame of commit number `index` in this batch.
    fn first_frame(&self, index: usize) -> u32 {
        index.checked_sub(1).map_or(self.first, |before| self.commits[before].last_frame + 1)
    }

    /// All frames of commit number `index`: frame and 1-based page, in the order of the WAL.
    pub(super) fn frames(&self, index: usize) -> impl Iterator<Item = (u32, u32)> + '_ {
        let (first, last) = (self.first_frame(index), self.commits[index].last_frame);
        (first..=last).map(|frame| (frame, self.frame_pages[(frame - self.first) as usize]))
    }

    /// The last version of each page in commit number `index`, by ascending page: 1-based page and frame.
    pub(super) fn versions(&self, index: usize) -> Vec<(u32, u32)> {
        let mut versions: Vec<(u32, u32)> = self.frames(index).map(|(frame, page)| (page, frame)).collect();
        versions.sort_unstable();
        // Of equal pages the one with the highest frame stands last, and stays.
        versions.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                *earlier = *later;
            }
            same
        });
        versions
    }

    /// The page that `frame` of this batch holds, into `page`. `None` when the WAL no longer has it.
    pub(super) fn page<'a>(
        &'a self,
        connection: &Connection,
        frame: u32,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<&'a [u8]>, EngineError> {
        let frame_bytes = self.page_size as usize + FRAME_HEADER_BYTES;
        if let Some(kept) = &self.kept {
            let start = (frame - self.first) as usize * frame_bytes;
            return Ok(kept.get(start + FRAME_HEADER_BYTES..start + frame_bytes));
        }
        buffer.resize(frame_bytes, 0);
        let whole = connection.read_wal(frame_offset(frame, self.page_size), buffer)?;
        let expected = self.frame_pages[(frame - self.first) as usize];
        let good = whole && FrameHeader::parse(buffer).page == expected;
        Ok(good.then_some(&buffer[FRAME_HEADER_BYTES..]))
    }

    /// Were the frames kept in memory, so that nothing that happens to the WAL can change them?
    pub(super) fn is_kept(&self) -> bool {
        self.kept.is_some()
    }
}
