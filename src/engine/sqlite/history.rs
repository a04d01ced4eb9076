//! What is captured: the position, the page map as of it, and where each page's newest version lies.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use super::batch::{After, Batch};
use super::connection::Connection;
use super::delta::changed_runs;
use super::position::Position;
use super::wal::lock_page;
use super::wal_index::IndexHeader;
use crate::checksum::{PageMap, page_hash};
use crate::engine::{EngineError, NewCommit, TransactionSink};
use crate::extent::{Extent, FileId, PageGrid};
use crate::position::{CommitKind, Lengths, RepairReason};

/// How often published frames that do not verify are read again before the wal-index is taken at its word.
const READS_BEFORE_TRUST: u32 = 4;
/// Pause between these.
pub(super) const READ_AGAIN_AFTER: Duration = Duration::from_millis(1);

/// Where captured transactions go.
pub(super) enum Output<'a> {
    /// To the sink, as commits.
    Sink(&'a mut dyn TransactionSink),
    /// Only into the page map: its first read is not done.
    PageMap,
}

/// How far one capture came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Captured {
    pub commits: u64,
    /// Everything published is captured.
    pub level: bool,
    /// There is more to capture at once. Neither: the wal-index could not be read just now.
    pub more: bool,
}

/// The captured history's present end.
pub(super) struct History {
    pub position: Position,
    pub map: PageMap,
    /// Newest captured frame of each page (1-based) in the life of the WAL that the position is in.
    pub(super) frames: HashMap<u32, u32>,
    /// `IndexHeader::change` at the position, once known.
    change: Option<u32>,
    /// Proven transactions that are being handed out, and the next of them.
    pending: Option<(Batch, usize)>,
    /// The first batch after an attach: a foreign checkpoint may have copied frames of it into the file already.
    pub catching_up: bool,
    /// Set when frames were taken on the word of the wal-index, until a checkpoint has made them safe.
    pub chain_was_broken: bool,
    pub(super) scratch: Scratch,
}

/// Buffers that are used again and again.
#[derive(Default)]
pub(super) struct Scratch {
    /// A frame: header and page.
    pub frame: Vec<u8>,
    /// A frame or a page, new.
    pub new: Vec<u8>,
    /// A page as it was before.
    pub old: Vec<u8>,
    runs: Vec<Range<usize>>,
}

pub(super) fn gap(reason: RepairReason, detail: impl Into<String>) -> EngineError {
    EngineError::Gap { reason, detail: detail.into() }
}

impl History {
    /// A history that ends at `position`. `change` as published with it, if it is known.
    pub(super) fn new(position: Position, map: PageMap, change: Option<u32>) -> History {
        History {
            position,
            map,
            frames: HashMap::new(),
            change,
            pending: None,
            catching_up: false,
            chain_was_broken: false,
            scratch: Scratch::default(),
        }
    }

    /// Notes what the wal-index counts at the position.
    pub(super) fn set_change(&mut self, change: u32) {
        self.change = Some(change);
    }

    pub(super) fn grid(&self) -> PageGrid {
        PageGrid { head: 0, size: self.position.page_size }
    }

    pub(super) fn lengths(&self) -> Lengths {
        Lengths { main: self.position.length(), wal: 0 }
    }

    /// Is the 0-based `page` the one that holds SQLite's lock bytes? It counts as zeros everywhere.
    pub(super) fn is_lock_page(&self, page: u64) -> bool {
        page + 1 == u64::from(lock_page(self.position.page_size))
    }

    /// Learns from the wal-index where the pages of the frames up to the position lie. Called once, under the hold.
    pub(super) fn learn_frames(&mut self, connection: &Connection) -> Result<(), EngineError> {
        if self.position.frame == 0 {
            return Ok(());
        }
        let pages = connection.frame_pages(1, self.position.frame)?;
        let pages = pages.ok_or_else(|| EngineError::Busy("the wal-index is being rebuilt".into()))?;
        self.frames = pages.into_iter().zip(1..).collect();
        Ok(())
    }

    /// Captures what is published beyond the position: at most about `commits_max` commits.
    pub(super) fn capture(
        &mut self,
        connection: &Connection,
        output: &mut Output<'_>,
        commits_max: u64,
    ) -> Result<Captured, EngineError> {
        let mut commits = 0;
        for reads in 0..=READS_BEFORE_TRUST {
            if self.pending.is_none() {
                let Some(published) = connection.index_header()? else {
                    return Ok(Captured { commits, level: false, more: false });
                };
                if self.is_level(&published)? {
                    return Ok(Captured { commits, level: true, more: false });
                }
                if !self.read_ahead(connection, &published, reads == READS_BEFORE_TRUST)? {
                    std::thread::sleep(READ_AGAIN_AFTER);
                    continue;
                }
            }
            commits += self.hand_out(connection, output, commits_max - commits.min(commits_max))?;
            if self.pending.is_some() || commits >= commits_max {
                return Ok(Captured { commits, level: false, more: true });
            }
            let level = match connection.index_header()? {
                Some(published) => self.is_level(&published)?,
                None => false,
            };
            return Ok(Captured { commits, level, more: !level });
        }
        Err(gap(RepairReason::LogDiscarded, "published frames of the WAL cannot be read"))
    }

    /// Is everything that is published captured? A life of the WAL that has no frame yet does not move the position.
    fn is_level(&self, published: &IndexHeader) -> Result<bool, EngineError> {
        let position = &self.position;
        if published.salts != position.salts {
            return Ok(published.last_frame == 0);
        }
        if published.last_frame < position.frame {
            return Err(gap(RepairReason::LogDiscarded, "the WAL became shorter under our lock"));
        }
        if published.last_frame == position.frame && position.frame != 0 && published.checksum != position.checksum {
            return Err(gap(RepairReason::LogDiscarded, "the last captured frame was replaced under our lock"));
        }
        Ok(published.last_frame == position.frame)
    }

    /// Reads and proves everything up to `published`, and accounts for each commit. `false`: to be read again.
    pub(super) fn read_ahead(
        &mut self,
        connection: &Connection,
        published: &IndexHeader,
        trust: bool,
    ) -> Result<bool, EngineError> {
        let same_life = published.salts == self.position.salts;
        let after = if same_life {
            After { frame: self.position.frame, checksum: self.position.checksum }
        } else {
            After { frame: 0, checksum: Default::default() }
        };
        if published.page_size != self.position.page_size {
            return Err(gap(RepairReason::FileReplaced, "the page size changed"));
        }
        let Some(batch) = Batch::read(connection, after, published, trust)? else { return Ok(false) };
        if let Some(change) = self.change {
            account(&batch, change, same_life)?;
        }
        if batch.trusted {
            tracing::warn!(
                first = after.frame + 1,
                last = published.last_frame,
                "the WAL's checksums are broken (a defect of SQLite before 3.50); its frames were captured by the wal-index"
            );
            self.chain_was_broken = true;
        }
        self.pending = Some((batch, 0));
        Ok(true)
    }

    /// Hands out transactions of the pending batch.
    fn hand_out(
        &mut self,
        connection: &Connection,
        output: &mut Output<'_>,
        commits_max: u64,
    ) -> Result<u64, EngineError> {
        let Some((batch, mut next)) = self.pending.take() else { return Ok(0) };
        let mut commits = 0;
        while next < batch.commits.len() && commits < commits_max {
            self.check_commit(&batch, next)?;
            match output {
                Output::Sink(sink) => {
                    self.emit(connection, &batch, next, &mut **sink).inspect_err(|_| sink.abandon())?;
                    commits += 1;
                }
                Output::PageMap => self.absorb(connection, &batch, next)?,
            }
            next += 1;
        }
        if next < batch.commits.len() {
            self.pending = Some((batch, next));
        } else {
            self.change = Some(batch.change_after);
            self.catching_up = false;
        }
        Ok(commits)
    }

    fn check_commit(&mut self, batch: &Batch, index: usize) -> Result<(), EngineError> {
        if batch.salts != self.position.salts {
            // The life before is folded into the file whole, or it could not have ended.
            self.frames.clear();
            self.chain_was_broken = false;
        }
        if batch.frames(index).any(|(_, page)| page == 0) {
            return Err(EngineError::Damaged("a frame of the WAL belongs to page 0".into()));
        }
        Ok(())
    }

    /// The pages that commit `index` changed and that exist after it: 0-based page and frame.
    fn changed_pages(&self, batch: &Batch, index: usize) -> Vec<(u64, u32)> {
        let pages = batch.commits[index].pages;
        let lock_page = lock_page(self.position.page_size);
        let wanted = batch.versions(index).into_iter().filter(|&(page, _)| page <= pages && page != lock_page);
        wanted.map(|(page, frame)| (u64::from(page) - 1, frame)).collect()
    }

    /// Hands one transaction to the sink and moves the position behind it.
    fn emit(
        &mut self,
        connection: &Connection,
        batch: &Batch,
        index: usize,
        sink: &mut dyn TransactionSink,
    ) -> Result<(), EngineError> {
        let mut scratch = std::mem::take(&mut self.scratch);
        sink.begin(self.grid())?;
        let known_pages = self.map.len();
        let mut updates = Vec::new();
        for (page, frame) in self.changed_pages(batch, index) {
            let new = batch.page(connection, frame, &mut scratch.new)?.ok_or_else(frame_vanished)?;
            let hash = page_hash(page, new);
            if self.map.get(page) == hash {
                continue;
            }
            scratch.runs.clear();
            scratch.runs.push(0..new.len());
            if page < known_pages && self.read_previous(connection, page, &mut scratch.old, &mut scratch.frame)? {
                changed_runs(&scratch.old, new, &mut scratch.runs);
            }
            let offset = self.grid().offset(page);
            for run in &scratch.runs {
                let at = offset + run.start as u64;
                sink.extent(Extent { file: FileId::Main, offset: at, data: &new[run.clone()] })?;
            }
            sink.page(page, hash)?;
            updates.push((page, hash));
        }
        self.still_readable(connection, batch)?;
        self.advance(batch, index, &updates);
        self.commit(CommitKind::Captured, sink)?;
        self.scratch = scratch;
        Ok(())
    }

    /// Ends the sink's transaction with the present state.
    pub(super) fn commit(&self, kind: CommitKind, sink: &mut dyn TransactionSink) -> Result<(), EngineError> {
        let position = self.position.encode();
        sink.commit(NewCommit { lengths: self.lengths(), checksum: self.map.sum(), kind, position: &position })?;
        Ok(())
    }

    /// Takes one transaction into the page map only.
    fn absorb(&mut self, connection: &Connection, batch: &Batch, index: usize) -> Result<(), EngineError> {
        let mut buffer = std::mem::take(&mut self.scratch.new);
        let mut updates = Vec::new();
        for (page, frame) in self.changed_pages(batch, index) {
            let new = batch.page(connection, frame, &mut buffer)?.ok_or_else(frame_vanished)?;
            updates.push((page, page_hash(page, new)));
        }
        self.still_readable(connection, batch)?;
        self.advance(batch, index, &updates);
        self.scratch.new = buffer;
        Ok(())
    }

    /// A batch that was read a second time is proven only if the WAL is still in the same life.
    fn still_readable(&self, connection: &Connection, batch: &Batch) -> Result<(), EngineError> {
        if batch.is_kept() || connection.index_header_waiting()?.salts == batch.salts {
            return Ok(());
        }
        Err(frame_vanished())
    }

    fn advance(&mut self, batch: &Batch, index: usize, updates: &[(u64, u64)]) {
        let mark = batch.commits[index];
        self.map.set_len(u64::from(mark.pages));
        for &(page, hash) in updates {
            self.map.set(page, hash);
        }
        self.frames.extend(batch.frames(index).map(|(frame, page)| (page, frame)));
        self.position = Position {
            salts: batch.salts,
            frame: mark.last_frame,
            checksum: mark.checksum,
            checkpoint_sequence: batch.checkpoint_sequence,
            pages: mark.pages,
            ..self.position
        };
    }
}

/// Every commit that the wal-index counted must be in the batch.
fn account(batch: &Batch, change: u32, same_life: bool) -> Result<(), EngineError> {
    let counted = batch.change_after.wrapping_sub(change);
    let found = batch.commits.len() as u32;
    let padded = found > counted && found - counted <= batch.repeats;
    // A recovery of the wal-index counts from 0 again; within one life the chain itself proves that nothing is missing.
    let recovered = same_life && !batch.trusted && (counted as i32) < 0;
    if counted == found || padded || recovered {
        return Ok(());
    }
    Err(gap(RepairReason::LogDiscarded, format!("{counted} commits were counted, {found} are in the WAL")))
}

fn frame_vanished() -> EngineError {
    gap(RepairReason::LogDiscarded, "the WAL was started over while it was read")
}
