//! Comparing the file with the page map: the first read, repairs, iterations that were missed, and the scrub.

use std::time::{Duration, Instant};

use super::disk::{BlockRead, plain_key, sampled_key};
use super::source::{DuckdbSource, Flow, SOON, Step, Still};
use crate::checksum::page_hash;

/// Blocks that are read between two looks at the headers.
const CHUNK_BLOCKS: usize = 32;
/// How long one poll compares before it returns.
const SLICE: Duration = Duration::from_millis(250);

/// What was found of one block.
enum Finding {
    /// As in the page map; its key, if that was not known.
    Same(Option<u64>),
    Changed,
    /// Hash and key, in the first read.
    Learnt(u64, u64),
}

impl DuckdbSource {
    /// Compares the blocks of which it is unknown whether they changed. A chunk is final once the headers are proven
    /// unchanged after it, even if the iteration ends later; so this ends although checkpoints go on.
    pub(super) fn resolve(&mut self) -> Step<()> {
        if self.learning {
            let pages = self.chain.iteration.count + 1;
            if self.map.len() < pages {
                self.map.set_len(pages);
            }
            for block in std::mem::take(&mut self.chain.dirty).iter() {
                self.set_key(block, 0);
                self.chain.unsure.insert(block);
            }
        }
        let begin = Instant::now();
        let mut buffer = Vec::new();
        while !self.chain.unsure.is_empty() {
            if begin.elapsed() > SLICE {
                return Err(Flow::Wait(Duration::ZERO));
            }
            let chunk = self.chain.unsure.first(CHUNK_BLOCKS);
            let mut findings = Vec::with_capacity(chunk.len());
            for &block in &chunk {
                findings.push(self.compare(block, &mut buffer)?);
            }
            match self.still()? {
                Still::Yes => {}
                Still::Flipped => return Err(Flow::Restart),
                Still::Announced => return Err(Flow::Wait(SOON)),
            }
            for (block, finding) in chunk.into_iter().zip(findings) {
                self.chain.unsure.remove(block);
                match finding {
                    Finding::Same(None) => {}
                    Finding::Same(Some(key)) => self.set_key(block, key),
                    Finding::Changed => self.chain.dirty.insert(block),
                    Finding::Learnt(hash, key) => {
                        self.map.set(block + 1, hash);
                        self.set_key(block, key);
                    }
                }
            }
        }
        Ok(())
    }

    fn compare(&self, block: u64, buffer: &mut Vec<u8>) -> Step<Finding> {
        let head = &self.chain.iteration.head;
        let known = self.key(block);
        // A freed block is zeros in the page map, and may be used again with the content whose key is known.
        if known != 0 && (self.learning || self.map.get(block + 1) != 0) {
            let same = self.main.block_key(head, block)? == Some(known);
            if same || !self.learning {
                return Ok(if same { Finding::Same(None) } else { Finding::Changed });
            }
        }
        if self.main.used_block(head, block, buffer)? == BlockRead::Flipped {
            return Err(Flow::Restart);
        }
        let hash = page_hash(block + 1, buffer);
        let key = if head.encryption.is_some() { sampled_key(buffer) } else { plain_key(buffer) };
        Ok(match self.learning {
            true => Finding::Learnt(hash, key),
            false if hash == self.map.get(block + 1) => Finding::Same(Some(key)),
            false => Finding::Changed,
        })
    }

    /// When nothing else is to be done, compares some blocks whole: keys are no proof.
    pub(super) fn scrub_some(&mut self, commits: u64) -> Step<()> {
        let (Some(from), Some(iteration)) = (self.scrub, &self.captured) else { return Ok(()) };
        if commits > 0 || iteration.is_encrypted() {
            return Ok(());
        }
        let chunk: Vec<u64> =
            (from..iteration.count).filter(|&block| iteration.uses(block)).take(CHUNK_BLOCKS).collect();
        let Some(&last) = chunk.last() else {
            self.scrub = None;
            return Ok(());
        };
        let head = iteration.head.clone();
        let (mut buffer, mut found) = (Vec::new(), Vec::new());
        for &block in &chunk {
            if self.main.used_block(&head, block, &mut buffer)? == BlockRead::Flipped {
                return Ok(());
            }
            if page_hash(block + 1, &buffer) != self.map.get(block + 1) {
                found.push(block);
            }
        }
        if self.still()? != Still::Yes {
            return Ok(());
        }
        self.scrub = Some(last + 1);
        for block in found {
            if self.chain.iteration.metadata.contains(block) {
                // Rewritten in place by a checkpoint that did not come about: the same content, other bytes.
                self.unfit.insert(block + 1);
            } else {
                self.chain.dirty.insert(block);
                self.unseen = true;
            }
        }
        Ok(())
    }
}
