//! Blocks that bulk commits wrote straight into the main file. The WAL only points at them.

use super::blocks::BlockSet;
use super::disk::{BlockRead, plain_key, sampled_key};
use super::file::{Head, is_sound};
use super::follow::From;
use super::source::{Change, DuckdbSource, Flow, Step};
use super::tail::pieces;
use super::wal::{BLOCK_NUMBER_BYTES, WalCommit, block_numbers};
use crate::checksum::page_hash;
use crate::engine::TransactionSink;
use crate::extent::{Extent, FileId};

impl DuckdbSource {
    /// Ships every block outside the captured iteration that changed since it was last accounted for. Those that no
    /// visible commit refers to, or that a transaction rolled back, do no harm: nothing points at them.
    pub(super) fn ship_bulk(
        &mut self,
        sink: &mut dyn TransactionSink,
        from: From,
        ready: &[WalCommit],
        plan: &mut super::commit::Plan,
    ) -> Step<()> {
        let Some(iteration) = &self.captured else { return Err(Flow::Restart) };
        let first_beyond = if iteration.is_encrypted() { 0 } else { iteration.count };
        let beyond = self.main.allocated(iteration.head.grid(), first_beyond)?;
        let candidates: Vec<u64> = iteration.free.iter().chain(beyond.into_iter().flatten()).collect();
        let head = iteration.head.clone();
        let (mut buffer, mut same) = (Vec::new(), BlockSet::default());
        for &block in &candidates {
            if self.key_is(&head, block)? {
                if self.map.get(block + 1) == 0 {
                    same.insert(block);
                }
                continue;
            }
            self.ship_free_block(sink, plan, &head, block, &mut buffer)?;
        }
        for block in self.named_by(from, ready, &same)?.iter() {
            self.ship_free_block(sink, plan, &head, block, &mut buffer)?;
        }
        Ok(())
    }

    /// Does the block still show the content that is accounted for, or is there nothing to show?
    fn key_is(&self, head: &Head, block: u64) -> Step<bool> {
        let key = self.main.block_key(head, block)?;
        Ok(key.is_none_or(|key| key == self.key(block)))
    }

    /// Of `blocks`, those whose number stands anywhere in the entries of bulk commits. A freed block is zeros in the replica,
    /// and may have been written anew with the very content that it had; then nothing but the WAL tells it. Numbers that
    /// stand there by chance cost the bytes of a block and do no harm.
    pub(super) fn named_by(&self, from: From, ready: &[WalCommit], blocks: &BlockSet) -> Step<BlockSet> {
        let mut named = BlockSet::default();
        let side = self.tail.side.as_ref().map(|(side, _)| side);
        let file = if from == From::Wal { self.tail.wal.as_ref() } else { side };
        let Some(file) = file.filter(|_| !blocks.is_empty()) else { return Ok(named) };
        for commit in ready.iter().filter(|commit| commit.bulk) {
            let mut before = Vec::new();
            pieces(file, commit.start, commit.end, |data| {
                before.extend_from_slice(data);
                block_numbers(&before, |number| {
                    if blocks.contains(number) {
                        named.insert(number);
                    }
                });
                // A number may go on in the next piece.
                before.drain(..before.len().saturating_sub(BLOCK_NUMBER_BYTES));
                Ok::<(), Flow>(())
            })?;
        }
        Ok(named)
    }

    fn ship_free_block(
        &self,
        sink: &mut dyn TransactionSink,
        plan: &mut super::commit::Plan,
        head: &Head,
        block: u64,
        buffer: &mut Vec<u8>,
    ) -> Step<()> {
        let key = if head.encryption.is_some() {
            if self.main.used_block(head, block, buffer)? == BlockRead::Flipped {
                return Err(Flow::Restart);
            }
            sampled_key(buffer)
        } else {
            // Not whole: still being written or never was, so that no visible commit can refer to it.
            if !self.main.block(head.grid(), block, buffer)? || !is_sound(buffer) {
                return Ok(());
            }
            plain_key(buffer)
        };
        self.put_block(sink, plan, block, buffer, Some(key))
    }

    /// Adds a block to `plan`, unless the page map shows that content already.
    pub(super) fn put_block(
        &self,
        sink: &mut dyn TransactionSink,
        plan: &mut super::commit::Plan,
        block: u64,
        data: &[u8],
        key: Option<u64>,
    ) -> Step<()> {
        let (page, grid) = (block + 1, self.map.grid());
        let hash = page_hash(page, data);
        let before = plan.changes.get(&page).map_or_else(|| self.map.get(page), |change| change.hash);
        if hash != before {
            sink.extent(Extent { file: FileId::Main, offset: grid.offset(page), data })?;
            plan.main_len = plan.main_len.max(grid.offset(page + 1));
        }
        plan.changes.insert(page, Change { hash, key });
        Ok(())
    }
}
