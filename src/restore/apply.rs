//! Laying the transactions of segments over a restored snapshot, up to one commit.

use std::ops::Range;
use std::path::PathBuf;

use bytes::Bytes;

use crate::engine::EngineKind;
use crate::inventory::Listed;
use crate::layout::{ObjectName, SegmentName};
use crate::position::{Commit, Generation, Txid};
use crate::restore::error::Fault;
use crate::restore::files::Files;
use crate::restore::plan::RestorePlan;
use crate::segment::{Block, CommitEntry, Index, Op, SegmentReader};
use crate::store::Key;

/// Where the files stand: everything up to and including this commit is applied.
#[derive(Debug)]
pub struct Apply {
    files: Files,
    path: PathBuf,
    generation: Generation,
    engine: EngineKind,
    snapshot_commit: Commit,
    /// The last commit that is applied.
    applied: Txid,
    /// Its checksum, once a segment told it.
    checksum: Option<u64>,
    target: Commit,
}

impl Apply {
    pub fn new(plan: &RestorePlan, files: Files, path: PathBuf) -> Apply {
        Apply {
            files,
            path,
            generation: plan.generation,
            engine: plan.engine,
            applied: plan.base,
            checksum: (plan.base == plan.snapshot_commit.txid).then_some(plan.snapshot_commit.checksum),
            snapshot_commit: plan.snapshot_commit.clone(),
            target: plan.commit.clone(),
        }
    }

    /// A whole segment.
    pub fn segment(&mut self, segment: &Listed<SegmentName>, bytes: Bytes) -> Result<(), Fault> {
        let key = ObjectName::Segment(segment.name).key();
        let reader = SegmentReader::open(bytes).map_err(|error| Fault::segment(&key, error))?;
        let index = reader.index();
        index.check_name(&segment.name).map_err(|error| Fault::segment(&key, error))?;
        self.begin(&key, index)?;
        for number in self.needed_blocks(index) {
            let block = reader.block(number).map_err(|error| Fault::segment(&key, error))?;
            self.block(&key, index, number, &block)?;
        }
        self.end(&key, index)
    }

    /// Proves that a segment belongs here: same database, and joined to what is applied.
    pub fn begin(&mut self, key: &Key, index: &Index) -> Result<(), Fault> {
        let header = &index.header;
        if header.generation != self.generation || header.engine != self.engine {
            return Err(Fault::object(key, "belongs to another database"));
        }
        if header.first.0 > self.applied.0.saturating_add(1) {
            return Err(Fault::object(key, "does not join what comes before it"));
        }
        // What the segment says of the last commit that is applied must be what is known of it.
        let told = match index.commit(self.applied) {
            Some(entry) => Some(entry.commit.checksum),
            None => (header.first.0 - 1 == self.applied.0).then_some(header.checksum_before),
        };
        if let (Some(told), Some(known)) = (told, self.checksum)
            && told != known
        {
            let problem = format_args!("its checksum of commit {} is {told:016x}, not {known:016x}", self.applied.0);
            return Err(Fault::object(key, problem));
        }
        if let Some(entry) = index.commit(self.snapshot_commit.txid)
            && entry.commit != self.snapshot_commit
        {
            let problem = format_args!("its commit {} is not that of the snapshot", self.snapshot_commit.txid.0);
            return Err(Fault::object(key, problem));
        }
        Ok(())
    }

    /// Numbers of the blocks in which the operations after what is applied and up to the target stand.
    pub fn needed_blocks(&self, index: &Index) -> Range<usize> {
        needed_blocks(index, self.applied, self.target.txid)
    }

    /// The operations of one block. Those of commits that are applied already are passed over, and so is everything behind
    /// the target.
    pub fn block(&mut self, key: &Key, index: &Index, number: usize, block: &Block<'_>) -> Result<(), Fault> {
        let mut commits =
            index.commits[index.commits.partition_point(|entry| (entry.block as usize) < number)..].iter();
        let mut next = commits.next();
        for op in block.ops() {
            if self.applied >= self.target.txid {
                return Ok(());
            }
            let op = op.map_err(|error| Fault::segment(key, error))?;
            let Some(CommitEntry { commit, .. }) = next else {
                return Err(Fault::object(key, "has operations behind its last commit"));
            };
            match op {
                _ if commit.txid <= self.applied => {}
                Op::Page { .. } => {}
                Op::Extent(extent) => {
                    self.files.write(extent, commit.lengths).map_err(Fault::io("cannot write", &self.path))?;
                }
                Op::Commit(_) => {
                    self.files.cut(commit.lengths).map_err(Fault::io("cannot write", &self.path))?;
                    self.applied = commit.txid;
                    self.checksum = Some(commit.checksum);
                }
            }
            if let Op::Commit(_) = op {
                next = commits.next();
            }
        }
        Ok(())
    }

    /// All needed blocks of a segment were handed in.
    pub fn end(&self, key: &Key, index: &Index) -> Result<(), Fault> {
        let last = index.last().txid.min(self.target.txid);
        if self.applied >= last {
            return Ok(());
        }
        Err(Fault::object(key, format_args!("ends before its commit {}", last.0)))
    }

    /// All segments are applied: the files are as they were at the target, or it is an error.
    pub fn finish(mut self) -> Result<Files, Fault> {
        // With no segment at all, the snapshot is the target.
        if self.applied == self.target.txid && self.checksum == Some(self.target.checksum) {
            self.files.finish(self.target.lengths).map_err(Fault::io("cannot write", &self.path))?;
            return Ok(self.files);
        }
        Err(Fault::Result(format!("the segments end at commit {}, not at {}", self.applied.0, self.target.txid.0)))
    }
}

/// Numbers of the blocks in which the operations after `applied` and up to `target` stand.
pub fn needed_blocks(index: &Index, applied: Txid, target: Txid) -> Range<usize> {
    let block = |entry: &CommitEntry| entry.block as usize;
    let first = index.commit(applied).map_or(0, block);
    let last = index.commit(target).map_or(index.blocks.len(), |entry| block(entry) + 1);
    first..last.max(first)
}
