//! The segments that a job reads: in files, proven one by one and against each other.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::CompactionError;
use crate::inventory::Listed;
use crate::layout::SegmentName;
use crate::position::Commit;
use crate::segment::{Index, Op, SegmentError, SegmentHeader};

/// A segment in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    pub segment: Listed<SegmentName>,
    pub path: PathBuf,
}

/// Those inputs, from the first one on, that can become one segment.
pub(super) struct Inputs<'a> {
    inputs: &'a [Input],
    pub header: SegmentHeader,
    pub last: Commit,
    /// Where capture resumes after the last commit.
    pub position: Vec<u8>,
    stop: &'a dyn Fn() -> bool,
}

fn damaged(number: usize) -> impl Fn(SegmentError) -> CompactionError {
    move |source| CompactionError::Input { number, source }
}

fn open(path: &Path, name: &SegmentName) -> Result<(File, Index), SegmentError> {
    let mut file = File::open(path)?;
    let index = Index::from_file(&mut file)?;
    index.check_name(name)?;
    Ok((file, index))
}

impl<'a> Inputs<'a> {
    /// Reads the end of each. What has another page grid begins another segment, and is left for the next job.
    pub fn open(inputs: &'a [Input], stop: &'a dyn Fn() -> bool) -> Result<Inputs<'a>, CompactionError> {
        let mut found: Option<Inputs<'a>> = None;
        for (number, input) in inputs.iter().enumerate() {
            let (_, index) = open(&input.path, &input.segment.name).map_err(damaged(number))?;
            let (header, last) = (index.header, index.last().clone());
            match &mut found {
                None => {
                    found = Some(Inputs { inputs: &inputs[..1], header, last, position: index.position, stop });
                }
                Some(so_far) if so_far.header.grid != header.grid => break,
                Some(so_far) => {
                    so_far.check_next(&header).map_err(|what| damaged(number)(SegmentError::Refused(what)))?;
                    (so_far.inputs, so_far.last, so_far.position) = (&inputs[..=number], last, index.position);
                }
            }
        }
        found.ok_or(CompactionError::Output(SegmentError::Refused("there is nothing to compact")))
    }

    fn check_next(&self, next: &SegmentHeader) -> Result<(), &'static str> {
        if (next.generation, next.engine) != (self.header.generation, self.header.engine) {
            Err("it belongs to another database than the segment before it")
        } else if Some(next.first) != self.last.txid.checked_next() {
            Err("it does not join the segment before it")
        } else if next.checksum_before != self.last.checksum {
            Err("what it says of the commit before it is not what the segment before it says")
        } else {
            Ok(())
        }
    }

    pub fn len(&self) -> usize {
        self.inputs.len()
    }

    /// Every operation of every input, oldest first. Holds one index and one block in memory.
    pub fn scan(
        &self,
        mut take: impl FnMut(&Index, &Op<'_>) -> Result<(), SegmentError>,
    ) -> Result<(), CompactionError> {
        for (number, input) in self.inputs.iter().enumerate() {
            let (mut file, index) = open(&input.path, &input.segment.name).map_err(damaged(number))?;
            for block in 0..index.blocks.len() {
                if (self.stop)() {
                    return Err(CompactionError::Stopped);
                }
                let block = index.read_block(&mut file, block).map_err(damaged(number))?;
                for op in block.ops() {
                    let op = op.map_err(damaged(number))?;
                    take(&index, &op).map_err(CompactionError::Output)?;
                }
            }
        }
        Ok(())
    }
}
