//! A new iteration as a commit: its changed blocks, the headers last, and a WAL that begins anew.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::commit::Plan;
use super::disk::{BlockRead, WalFile, io_error, plain_key, sampled_key, side_wal_path, wal_path};
use super::file::HEAD_BYTES;
use super::iteration::Iteration;
use super::source::{Change, DuckdbSource, Flow, SOON, Step, Still};
use super::tail::{Tail, header, pieces};
use crate::checksum::{WalHash, page_hash};
use crate::engine::{EngineError, TransactionSink};
use crate::extent::{Extent, FileId};
use crate::position::{CommitKind, RepairReason};

/// Blocks that are read between two looks at the headers.
const CHUNK_BLOCKS: usize = 16;
/// How long a new iteration of a file that a DuckDB before 2.0 may have open must last before its copy counts: 1.5 may reuse
/// blocks before the headers say so, and a checkpoint of an empty WAL has no marker.
const SETTLE: Duration = Duration::from_millis(500);
/// How long one poll runs after iterations that do not last; then it lets the caller breathe.
const COPY_SLICE: Duration = Duration::from_secs(3);
/// How long checkpoints may leave no time for a copy before it is said aloud.
const UNSETTLED_PATIENCE: Duration = Duration::from_secs(60);

impl DuckdbSource {
    /// Brings the replica to the newest iteration.
    pub(super) fn take_base(&mut self, sink: &mut dyn TransactionSink, commits: &mut u64) -> Step<()> {
        if self.chain.iteration.is_encrypted() && self.encrypted_marker()? {
            return Err(Flow::Wait(SOON));
        }
        let since = *self.waits.unsettled.get_or_insert_with(Instant::now);
        let result = if self.learning { self.take_first(sink) } else { self.take_next(sink) };
        match result {
            Ok(()) => {
                *commits += 1;
                Ok(())
            }
            Err(Flow::Restart | Flow::Wait(_)) if since.elapsed() > UNSETTLED_PATIENCE => {
                Err(Flow::Fail(EngineError::Busy(format!(
                    "for {} s checkpoints have followed each other too fast to be copied",
                    since.elapsed().as_secs()
                ))))
            }
            Err(flow) => Err(flow),
        }
    }

    /// The first commit: the page map was learnt, the content travels with the first snapshot.
    fn take_first(&mut self, sink: &mut dyn TransactionSink) -> Step<()> {
        match self.settle()? {
            Still::Yes => {}
            Still::Flipped => return Err(Flow::Restart),
            Still::Announced => return Err(Flow::Wait(SOON)),
        }
        let iteration = self.chain.iteration.clone();
        let grid = iteration.head.grid();
        self.map.set_len(iteration.count + 1);
        for block in (0..iteration.count).filter(|&block| !iteration.uses(block)) {
            self.map.set(block + 1, 0);
        }
        self.map.set(0, page_hash(0, iteration.head.raw()));
        let mut plan = self.plan();
        (plan.kind, plan.since_flip, plan.main_len) = (CommitKind::Initial, 0, grid.offset(iteration.count + 1));
        self.transaction(sink, |this, sink| this.finish(sink, &plan, &iteration.head))?;
        self.learning = false;
        self.begin_iteration(iteration, Tail::default());
        Ok(())
    }

    fn begin_iteration(&mut self, iteration: Iteration, mut tail: Tail) {
        tail.stale_iteration = self.tail.iteration;
        // Blocks beyond the count may come back with anything.
        self.keys.truncate(usize::try_from(iteration.count).unwrap_or(usize::MAX));
        self.checkpoints += u64::from(self.captured.is_some());
        (self.captured, self.tail) = (Some(iteration), tail);
        (self.drained, self.unseen, self.repair, self.stale_len) = (false, false, None, 0);
        self.unfit = Default::default();
    }

    fn take_next(&mut self, sink: &mut dyn TransactionSink) -> Step<()> {
        let mut plan = self.plan();
        let result = self.transaction(sink, |this, sink| {
            this.copy_dirty(sink, &mut plan)?;
            this.finish_next(sink, &mut plan)
        });
        if result.is_err() {
            // What was handed on in vain has to be read again.
            for block in plan.changes.keys().filter_map(|page| page.checked_sub(1)) {
                if self.chain.iteration.uses(block) {
                    self.chain.dirty.insert(block);
                }
            }
        }
        result
    }

    /// Reads every dirty block of the chain's iteration and hands it on, until the iteration is proven to have lasted.
    fn copy_dirty(&mut self, sink: &mut dyn TransactionSink, plan: &mut Plan) -> Step<()> {
        let begin = Instant::now();
        let mut buffers: Vec<Vec<u8>> = vec![Vec::new(); CHUNK_BLOCKS];
        loop {
            if !self.chain.unsure.is_empty() {
                return Err(Flow::Restart);
            }
            let chunk = self.chain.dirty.first(CHUNK_BLOCKS);
            let mut flipped = false;
            for (&block, buffer) in chunk.iter().zip(&mut buffers) {
                flipped |= self.main.used_block(&self.chain.iteration.head, block, buffer)? == BlockRead::Flipped;
            }
            let still = if chunk.is_empty() { self.settle()? } else { self.still()? };
            match still {
                Still::Yes if !flipped => {}
                _ if begin.elapsed() > COPY_SLICE => return Err(Flow::Wait(SOON)),
                Still::Announced => {
                    std::thread::sleep(SOON / 4);
                    continue;
                }
                Still::Yes | Still::Flipped => {
                    self.observe()?;
                    continue;
                }
            }
            if chunk.is_empty() {
                return Ok(());
            }
            for (&block, buffer) in chunk.iter().zip(&buffers) {
                let encrypted = self.chain.iteration.is_encrypted();
                let key = if encrypted { sampled_key(buffer) } else { plain_key(buffer) };
                self.put_block(sink, plan, block, buffer, Some(key))?;
                self.chain.dirty.remove(block);
            }
        }
    }

    /// Waits until the iteration has lasted long enough to be believed.
    fn settle(&mut self) -> Step<Still> {
        let begin = Instant::now();
        loop {
            let still = self.still()?;
            let must_wait =
                self.chain.iteration.head.older_than_2_0() && begin.elapsed() < SETTLE && self.main.is_held()?;
            if still != Still::Yes || !must_wait {
                return Ok(still);
            }
            std::thread::sleep(SOON);
        }
    }

    /// Freed blocks become zeros, then the headers, then what the new WAL carries over.
    fn finish_next(&mut self, sink: &mut dyn TransactionSink, plan: &mut Plan) -> Step<()> {
        let next = self.chain.iteration.clone();
        let grid = next.head.grid();
        let carried = self.carried(&next)?;
        let kept = if carried.is_some() { self.map.len() } else { 0 };
        let pages = (next.count + 1).max(kept);
        plan.main_len = grid.offset(pages);
        if plan.changes.range(pages..).next().is_some() {
            return Err(Flow::Restart);
        }
        self.zero_freed(sink, plan, &next)?;
        sink.extent(Extent { file: FileId::Main, offset: 0, data: next.head.raw() })?;
        plan.changes.insert(0, Change { hash: page_hash(0, next.head.raw()), key: None });
        // A WAL that is carried over comes with this commit, so that a full copy has to be laid under it as well.
        (plan.wal_len, plan.wal_hash, plan.since_flip) = (0, WalHash::default(), u64::from(carried.is_some()));
        let tail = match carried {
            Some(tail) => self.carry(sink, plan, tail)?,
            None => Tail::default(),
        };
        plan.kind = match (self.repair, self.unseen) {
            (Some(reason), _) => CommitKind::Repair(reason),
            (None, true) => CommitKind::Repair(RepairReason::LogDiscarded),
            (None, false) => CommitKind::Captured,
        };
        self.finish(sink, plan, &next.head)?;
        self.begin_iteration(next, tail);
        Ok(())
    }

    /// A block that the iteration before used and this one does not becomes zeros, in the replica: its bytes in the file may
    /// change at any time from now on, and the page map must be something that a later snapshot can still read. Blocks
    /// that bulk commits wrote stay: a commit to come may refer to them.
    fn zero_freed(&mut self, sink: &mut dyn TransactionSink, plan: &mut Plan, next: &Iteration) -> Step<()> {
        let grid = next.head.grid();
        if next.is_encrypted() {
            return Ok(());
        }
        let zeros = vec![0; grid.size as usize];
        for block in (0..grid.pages(plan.main_len).saturating_sub(1)).filter(|&block| !next.uses(block)) {
            let page = block + 1;
            let copied = plan.changes.contains_key(&page);
            let used_before = self.captured.as_ref().is_some_and(|captured| captured.uses(block));
            let ours = self.map.get(page) != 0 && (used_before || self.captured.is_none());
            if copied || ours || grid.offset(page) < self.stale_len {
                sink.extent(Extent { file: FileId::Main, offset: grid.offset(page), data: &zeros })?;
                // The old content's key stays known: only a commit whose WAL names the block can have written it anew.
                let key = if used_before && !copied { None } else { Some(0) };
                plan.changes.insert(page, Change { hash: 0, key });
            }
        }
        Ok(())
    }

    /// The WAL that DuckDB wrote during the checkpoint continues the new iteration: what was captured of it stays captured.
    fn carried(&mut self, next: &Iteration) -> Step<Option<Tail>> {
        let follows = self.captured.as_ref().is_some_and(|captured| next.follows(captured));
        let Some((side, at)) = self.tail.side.take() else { return Ok(None) };
        if at == 0 || !follows {
            self.tail.side = Some((side, at));
            return Ok(None);
        }
        let is_at = |path: std::path::PathBuf| {
            Ok::<_, EngineError>(WalFile::open(&path)?.is_some_and(|file| file.key == side.key))
        };
        // Its own name first: it is renamed, so asking the other way round could miss it under both.
        let lives = is_at(side_wal_path(&self.path))? || is_at(wal_path(&self.path))?;
        if !lives {
            self.unseen = true;
            self.tail.side = Some((side, at));
            // Either a further checkpoint has folded it in, or the database really lost it.
            return if self.main.slots_are(&next.head)? { Ok(None) } else { Err(Flow::Restart) };
        }
        Ok(Some(Tail { wal: Some(side), at, ..Tail::default() }))
    }

    fn carry(&mut self, sink: &mut dyn TransactionSink, plan: &mut Plan, mut tail: Tail) -> Step<Tail> {
        let Some(wal) = &tail.wal else { return Ok(tail) };
        pieces(wal, 0, tail.at, |data| {
            sink.extent(Extent { file: FileId::Wal, offset: plan.wal_len, data })?;
            plan.wal_hash.append(data);
            plan.wal_len += data.len() as u64;
            Ok::<(), Flow>(())
        })?;
        (tail.len, tail.hash) = (plan.wal_len, plan.wal_hash.clone());
        tail.iteration = header(wal)?.and_then(|header| header.iteration);
        Ok(tail)
    }

    /// Blocks whose bytes in the file are no longer those of the page map, though no commit changed them, so that a
    /// snapshot could never end: a rolled-back bulk write, metadata rewritten by a checkpoint that did not come about.
    /// They are brought level in a commit of their own.
    pub(super) fn refresh(&mut self, sink: &mut dyn TransactionSink, commits: &mut u64) -> Step<()> {
        if self.unfit.is_empty() || self.still()? != Still::Yes {
            return Ok(());
        }
        let Some(iteration) = self.captured.clone() else { return Ok(()) };
        let pages = self.unfit.first(usize::MAX);
        let mut buffer = Vec::new();
        let mut level = BTreeMap::new();
        self.transaction(sink, |this, sink| {
            let mut plan = this.plan();
            for &page in pages.iter().filter(|&&page| page < this.map.len()) {
                let Some(block) = page.checked_sub(1) else {
                    this.main.raw_head(&mut buffer)?;
                    if buffer.len() != HEAD_BYTES || buffer[4096..] != *iteration.head.slots() {
                        return Err(Flow::Restart);
                    }
                    sink.extent(Extent { file: FileId::Main, offset: 0, data: &buffer })?;
                    plan.changes.insert(0, Change { hash: page_hash(0, &buffer), key: None });
                    continue;
                };
                let mut key = 0;
                if iteration.uses(block) || iteration.is_encrypted() {
                    if this.main.used_block(&iteration.head, block, &mut buffer)? == BlockRead::Flipped {
                        return Err(Flow::Restart);
                    }
                    key = if iteration.is_encrypted() { sampled_key(&buffer) } else { plain_key(&buffer) };
                } else {
                    buffer.clear();
                    buffer.resize(this.map.grid().size as usize, 0);
                }
                this.put_block(sink, &mut plan, block, &buffer, Some(key))?;
            }
            if this.still()? != Still::Yes {
                return Err(Flow::Restart);
            }
            std::mem::swap(&mut level, &mut plan.changes);
            if level.iter().all(|(&page, change)| this.map.get(page) == change.hash) {
                sink.abandon();
                return Ok(());
            }
            std::mem::swap(&mut level, &mut plan.changes);
            this.finish(sink, &plan, &iteration.head)?;
            *commits += 1;
            Ok(())
        })?;
        self.unfit = Default::default();
        Ok(())
    }

    /// The headers moved on: hands on what is left in the WAL of the captured iteration, which stays readable while held.
    pub(super) fn drain(&mut self, sink: &mut dyn TransactionSink, commits: &mut u64) -> Step<()> {
        let Some(old) = self.captured.clone() else { return Ok(()) };
        if self.drained || old.is(&self.chain.iteration.head) {
            return Ok(());
        }
        let follows = self.chain.iteration.follows(&old);
        if self.tail.wal.is_none() && follows {
            self.adopt_finished_wal()?;
        }
        let before = *commits;
        let complete = super::drain::drain_held(self, sink, &old, commits)?;
        self.unseen |= !complete;
        if *commits > before {
            // The only copy of what was just handed on goes with the descriptor.
            sink.persist()?;
        }
        self.drained = true;
        Ok(())
    }

    /// A WAL that was begun, folded in and not yet removed between two looks.
    fn adopt_finished_wal(&mut self) -> Step<()> {
        let Some(wal) = WalFile::open(&wal_path(&self.path))? else { return Ok(()) };
        let size = wal.size()?;
        let marker = super::wal::marker_at_end(&wal, size).map_err(io_error("cannot read the WAL"))?;
        if marker.is_some_and(|marker| Some(marker.meta_block) == self.chain.iteration.meta_block()) {
            self.tail = Tail { wal: Some(wal), stale_iteration: self.tail.stale_iteration, ..Tail::default() };
        }
        Ok(())
    }
}
