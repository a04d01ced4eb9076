//! One life of the main file between two header flips, and the chain of the ones that were seen.

use super::blocks::BlockSet;
use super::disk::{BlockRead, MainFile};
use super::file::{DatabaseHeader, FileError, HEAD_BYTES, Head, read_free_list};
use crate::engine::EngineError;

/// The main file as one checkpoint left it: which blocks belong to it. Their content does not change while it lasts,
/// but for metadata, which is rewritten in place with the same used content.
#[derive(Debug, Clone)]
pub struct Iteration {
    pub head: Head,
    pub free: BlockSet,
    pub metadata: BlockSet,
    /// Blocks below this number that are not free are in use. Of an encrypted file: all that there are.
    pub count: u64,
}

/// Blocks that headers may count beyond the end of the file.
const MAX_UNWRITTEN_BLOCKS: u64 = 1 << 20;

enum ReadError {
    Engine(EngineError),
    Flipped,
    File(FileError),
}

impl From<FileError> for ReadError {
    fn from(error: FileError) -> Self {
        ReadError::File(error)
    }
}

impl Iteration {
    /// `None` when the headers changed while the free list was read.
    pub fn read(main: &MainFile, head: Head) -> Result<Option<Iteration>, EngineError> {
        let Some(active) = head.active else {
            let count = main.allocated(head.grid(), 0)?.last().map_or(0, |run| run.end);
            return Ok(Some(Iteration { head, free: BlockSet::default(), metadata: BlockSet::default(), count }));
        };
        // What is counted decides how much memory a free list may take. Blocks that were taken and never written are counted too.
        let room = main.len()?.saturating_sub(HEAD_BYTES as u64) / u64::from(head.block_bytes());
        if active.block_count > room + MAX_UNWRITTEN_BLOCKS {
            return Err(FileError::Impossible { what: "the number of blocks", value: active.block_count }.into());
        }
        let read = |block, buffer: &mut Vec<u8>| match main.used_block(&head, block, buffer) {
            Ok(BlockRead::Sound) => Ok(()),
            Ok(BlockRead::Flipped) => Err(ReadError::Flipped),
            Err(error) => Err(ReadError::Engine(error)),
        };
        let list = match read_free_list(&active, read) {
            Ok(list) => list,
            Err(ReadError::Flipped) => return Ok(None),
            Err(_) if !main.slots_are(&head)? => return Ok(None),
            Err(ReadError::Engine(error)) => return Err(error),
            Err(ReadError::File(error)) => return Err(error.into()),
        };
        if !main.slots_are(&head)? {
            return Ok(None);
        }
        Ok(Some(Iteration { head, free: list.free, metadata: list.metadata, count: active.block_count }))
    }

    /// Is its headers' content this one's? The main header page is left out: it changes only together with them.
    pub fn is(&self, head: &Head) -> bool {
        self.head.slots() == head.slots()
    }

    pub fn uses(&self, block: u64) -> bool {
        block < self.count && !self.free.contains(block)
    }

    pub fn used(&self) -> BlockSet {
        (0..self.count).filter(|&block| !self.free.contains(block)).collect()
    }

    pub fn is_encrypted(&self) -> bool {
        self.head.encryption.is_some()
    }

    fn active(&self) -> Option<&DatabaseHeader> {
        self.head.active.as_ref()
    }

    /// Was no iteration between `before` and this one?
    pub fn follows(&self, before: &Iteration) -> bool {
        match (self.active(), before.active()) {
            (Some(this), Some(before)) => {
                Some(this.iteration) == before.iteration.checked_add(1) && this.block_bytes == before.block_bytes
            }
            _ => false,
        }
    }

    pub fn number(&self) -> u64 {
        self.active().map_or(0, |active| active.iteration)
    }

    pub fn meta_block(&self) -> Option<u64> {
        self.active().map(|active| active.meta_block)
    }
}

/// The newest iteration that was seen, and what it may differ in from the page map.
#[derive(Debug)]
pub struct Chain {
    pub iteration: Iteration,
    /// Used blocks of which it is not known whether they changed: their keys or hashes must be compared.
    pub unsure: BlockSet,
    /// Used blocks that have to be read.
    pub dirty: BlockSet,
}

impl Chain {
    /// Nothing of `iteration` is known to be as in the page map.
    pub fn unknown(iteration: Iteration) -> Chain {
        Chain { unsure: iteration.used(), dirty: BlockSet::default(), iteration }
    }

    /// `iteration` is what the page map shows.
    pub fn level(iteration: Iteration) -> Chain {
        Chain { unsure: BlockSet::default(), dirty: BlockSet::default(), iteration }
    }

    /// Moves on to `next`. The delta rule: a block that `next` uses, that was below the count and not free before, and
    /// that holds no metadata, has the same content in both. It needs every iteration to have been seen; `true` if so.
    pub fn advance(&mut self, next: Iteration) -> bool {
        let exact = next.follows(&self.iteration);
        let before = &self.iteration;
        let (mut unsure, mut dirty) = (BlockSet::default(), BlockSet::default());
        for block in (0..next.count).filter(|&block| next.uses(block)) {
            let changed =
                exact && (!before.uses(block) || before.metadata.contains(block) || next.metadata.contains(block));
            if changed || self.dirty.contains(block) {
                dirty.insert(block);
            } else if !exact || self.unsure.contains(block) {
                unsure.insert(block);
            }
        }
        (self.unsure, self.dirty, self.iteration) = (unsure, dirty, next);
        exact
    }

    pub fn is_level(&self) -> bool {
        self.unsure.is_empty() && self.dirty.is_empty()
    }
}
