//! Blocks that bulk commits wrote straight into the main file. The WAL only points at them.

use super::disk::{BlockRead, plain_key, sampled_key};
use super::file::is_sound;
use super::source::{Change, DuckdbSource, Flow, Step};
use crate::checksum::page_hash;
use crate::engine::TransactionSink;
use crate::extent::{Extent, FileId};

impl DuckdbSource {
    /// Ships every block outside the captured iteration that changed since it was last accounted for. Those that no
    /// visible commit refers to, or that a transaction rolled back, do no harm: nothing points at them.
    pub(super) fn ship_bulk(&mut self, sink: &mut dyn TransactionSink, plan: &mut super::commit::Plan) -> Step<()> {
        let Some(iteration) = &self.captured else { return Err(Flow::Restart) };
        let first_beyond = if iteration.is_encrypted() { 0 } else { iteration.count };
        let beyond = self.main.allocated(iteration.head.grid(), first_beyond)?;
        let candidates: Vec<u64> = iteration.free.iter().chain(beyond.into_iter().flatten()).collect();
        let head = iteration.head.clone();
        let mut buffer = Vec::new();
        for block in candidates {
            let key = self.main.block_key(&head, block)?;
            if key.is_none_or(|key| key == self.key(block)) {
                continue;
            }
            let key = if head.encryption.is_some() {
                if self.main.used_block(&head, block, &mut buffer)? == BlockRead::Flipped {
                    return Err(Flow::Restart);
                }
                sampled_key(&buffer)
            } else {
                // Not whole: still being written or never was, so that no visible commit can refer to it.
                if !self.main.block(head.grid(), block, &mut buffer)? || !is_sound(&buffer) {
                    continue;
                }
                plain_key(&buffer)
            };
            self.put_block(sink, plan, block, &buffer, Some(key))?;
        }
        Ok(())
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
