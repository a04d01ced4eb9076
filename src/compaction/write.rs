//! From segments in files to one in a file: joined with every commit, or merged to the last one; then read again and compared.
//!
//! Memory, whatever the size of the inputs: one index and one block of an input, one block and the index of the output, and
//! for a merge the positions that one round of `Overlay` holds, at most 60 MB. An index takes some 100 bytes for each commit
//! and 40 for each block: a few MB in common use, 100 MB at the format's bounds.

use super::Input;
use super::input::Inputs;
use super::overlay::{Begin, MAX_ENTRIES, Overlay};
use crate::checksum::WalHash;
use crate::extent::{Extent, FileId};
use crate::inventory::{EVERY_COMMIT, Listed};
use crate::layout::{Level, SegmentName};
use crate::position::{Commit, Term};
use crate::segment::{Codec, Index, MAX_EXTENT_BYTES, Op, SegmentError, SegmentFile, SegmentHeader, SegmentWriter};

/// What to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    pub level: Level,
    /// The writer's.
    pub term: Term,
}

/// A written and proven segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compacted {
    pub segment: Listed<SegmentName>,
    pub index: Index,
    /// So many of the inputs, from the first one on, are in it.
    pub inputs: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum CompactionError {
    /// Input `number` of the job cannot be read, or does not belong where it stands.
    #[error("an input cannot be used: {source}")]
    Input { number: usize, source: SegmentError },
    #[error("cannot write the compacted segment: {0}")]
    Output(SegmentError),
    /// What was read back is not what was written.
    #[error("the compacted segment is not what it should be ({0}); it is not used")]
    Unproven(&'static str),
    #[error("the compaction was stopped")]
    Stopped,
}

impl CompactionError {
    /// The input whose bytes are at fault, so that trying again with the same bytes cannot help.
    pub fn broken_input(&self) -> Option<usize> {
        match self {
            CompactionError::Input { number, source } => {
                (source.is_damage() || matches!(source, SegmentError::Refused(_))).then_some(*number)
            }
            _ => None,
        }
    }
}

/// Makes one segment of as many inputs as have one page grid, in an empty file, and proves it. `stop` is asked at every
/// block.
pub fn compact<F: SegmentFile>(
    order: Order,
    inputs: &[Input],
    file: F,
    stop: &dyn Fn() -> bool,
) -> Result<Compacted, CompactionError> {
    compact_within(order, inputs, file, stop, MAX_ENTRIES)
}

/// `compact` with another bound on what a round holds.
pub(super) fn compact_within<F: SegmentFile>(
    order: Order,
    inputs: &[Input],
    file: F,
    stop: &dyn Fn() -> bool,
    most: usize,
) -> Result<Compacted, CompactionError> {
    let inputs = Inputs::open(inputs, stop)?;
    let header = SegmentHeader { level: order.level, term: order.term, ..inputs.header };
    let writer = SegmentWriter::new(file, header, Codec::for_joined()).map_err(CompactionError::Output)?;
    let mut output = Output { writer, written: Digest::default(), in_transaction: false };
    match order.level <= EVERY_COMMIT {
        true => join(&inputs, &mut output)?,
        false => merge(&inputs, &mut output, most)?,
    }
    let summary = output.writer.finish().map_err(CompactionError::Output)?;
    let expected = Expected {
        commits: output.writer.commits().cloned().collect(),
        header,
        position: &inputs.position,
        written: output.written.value(),
    };
    let index = prove(output.writer.into_file(), &expected)?;
    if summary.name != index.name() || index.last() != &inputs.last {
        return Err(CompactionError::Unproven("name"));
    }
    Ok(Compacted { segment: Listed { name: summary.name, size: summary.len }, index, inputs: inputs.len() })
}

/// Every operation as it is.
fn join<F: SegmentFile>(inputs: &Inputs<'_>, output: &mut Output<F>) -> Result<(), CompactionError> {
    let mut read = Digest::default();
    inputs.scan(|index, op| {
        read.op(op);
        match op {
            Op::Page { page, hash } => output.page(*page, *hash),
            Op::Extent(extent) => output.extent(*extent),
            Op::Commit(txid) => {
                let entry = index.commit(*txid).ok_or(SegmentError::Refused("a commit that the index lacks"))?;
                // Of an input, the position after its last commit is known.
                let is_last = entry.commit.txid == index.last().txid;
                output.commit(&entry.commit, if is_last { &index.position } else { &[] })
            }
        }
    })?;
    if read.value() != output.written.value() {
        return Err(CompactionError::Unproven("operations"));
    }
    Ok(())
}

/// The newest bytes of each place, the newest hash of each page, and the last commit.
fn merge<F: SegmentFile>(inputs: &Inputs<'_>, output: &mut Output<F>, most: usize) -> Result<(), CompactionError> {
    let grid = inputs.header.grid;
    let mut begin = Begin::FIRST;
    while !begin.is_end() {
        let mut overlay = Overlay::new(begin, most);
        let mut number = 0;
        inputs.scan(|index, op| {
            match op {
                Op::Page { page, hash } => overlay.page(*page, *hash),
                Op::Extent(extent) => {
                    overlay.insert(extent.file, extent.offset, extent.offset + extent.data.len() as u64, number);
                    number += 1;
                }
                Op::Commit(txid) => {
                    let entry = index.commit(*txid).ok_or(SegmentError::Refused("a commit that the index lacks"))?;
                    overlay.commit(grid, entry.commit.lengths);
                }
            }
            Ok(())
        })?;
        write_round(inputs, output, &overlay).map_err(|error| match error {
            RoundError::Scan(error) => error,
            RoundError::Write(error) => CompactionError::Output(error),
        })?;
        begin = overlay.next();
    }
    output.commit(&inputs.last, &inputs.position).map_err(CompactionError::Output)
}

enum RoundError {
    Scan(CompactionError),
    Write(SegmentError),
}

impl From<SegmentError> for RoundError {
    fn from(error: SegmentError) -> RoundError {
        RoundError::Write(error)
    }
}

fn write_round<F: SegmentFile>(
    inputs: &Inputs<'_>,
    output: &mut Output<F>,
    overlay: &Overlay,
) -> Result<(), RoundError> {
    let (grid, lengths) = (inputs.header.grid, inputs.last.lengths);
    for (page, hash) in overlay.pages(grid, lengths) {
        output.page(page, hash)?;
    }
    for file in [FileId::Main, FileId::Wal] {
        let mut failed = Ok(());
        overlay.zeros(file, lengths, |start, end| {
            if failed.is_ok() {
                failed = output.zeros(file, start, end);
            }
        });
        failed?;
    }
    let mut number = 0;
    let scanned = inputs.scan(|_, op| {
        let Op::Extent(Extent { file, offset, data }) = *op else { return Ok(()) };
        for (start, end) in overlay.newest(file, offset, offset + data.len() as u64, number) {
            let at = |place: u64| (place - offset) as usize;
            output.extent(Extent { file, offset: start, data: &data[at(start)..at(end)] })?;
        }
        number += 1;
        Ok(())
    });
    scanned.map_err(RoundError::Scan)
}

/// The segment being written, and what went into it.
struct Output<F> {
    writer: SegmentWriter<F>,
    written: Digest,
    in_transaction: bool,
}

static ZEROS: [u8; MAX_EXTENT_BYTES] = [0; MAX_EXTENT_BYTES];

impl<F: SegmentFile> Output<F> {
    fn begin(&mut self) -> Result<(), SegmentError> {
        if !self.in_transaction {
            self.writer.begin_transaction()?;
            self.in_transaction = true;
        }
        Ok(())
    }

    fn page(&mut self, page: u64, hash: u64) -> Result<(), SegmentError> {
        self.begin()?;
        self.written.op(&Op::Page { page, hash });
        self.writer.page(page, hash)
    }

    /// Extents of a segment are no longer than `MAX_EXTENT_BYTES`, so that none is split again.
    fn extent(&mut self, extent: Extent<'_>) -> Result<(), SegmentError> {
        self.begin()?;
        self.written.op(&Op::Extent(extent));
        self.writer.extent(extent)
    }

    fn zeros(&mut self, file: FileId, mut start: u64, end: u64) -> Result<(), SegmentError> {
        while start < end {
            let data = &ZEROS[..(end - start).min(MAX_EXTENT_BYTES as u64) as usize];
            self.extent(Extent { file, offset: start, data })?;
            start += data.len() as u64;
        }
        Ok(())
    }

    fn commit(&mut self, commit: &Commit, position: &[u8]) -> Result<(), SegmentError> {
        self.begin()?;
        self.written.op(&Op::Commit(commit.txid));
        self.in_transaction = false;
        self.writer.commit(commit, position)
    }
}

/// A checksum of a stream of operations.
#[derive(Debug, Clone, Default)]
struct Digest(WalHash);

impl Digest {
    fn op(&mut self, op: &Op<'_>) {
        let mut number = |tag: u8, a: u64, b: u64| {
            let mut bytes = [tag; 17];
            bytes[1..9].copy_from_slice(&a.to_le_bytes());
            bytes[9..].copy_from_slice(&b.to_le_bytes());
            self.0.append(&bytes);
        };
        match *op {
            Op::Page { page, hash } => number(1, page, hash),
            Op::Extent(Extent { file, offset, data }) => {
                number(if file == FileId::Main { 2 } else { 3 }, offset, data.len() as u64);
                self.0.append(data);
            }
            Op::Commit(txid) => number(4, txid.0, 0),
        }
    }

    fn value(&self) -> u64 {
        self.0.value()
    }
}

/// What a reader must find.
struct Expected<'a> {
    header: SegmentHeader,
    commits: Vec<Commit>,
    position: &'a [u8],
    written: u64,
}

/// Reads a finished segment again, every byte of its blocks and its index.
fn prove(mut file: impl SegmentFile, expected: &Expected<'_>) -> Result<Index, CompactionError> {
    let index = Index::from_file(&mut file).map_err(CompactionError::Output)?;
    let has_commits = index.commits.iter().map(|entry| &entry.commit).eq(&expected.commits);
    if index.header != expected.header || !has_commits || index.position != expected.position {
        return Err(CompactionError::Unproven("commit table"));
    }
    let mut found = Digest::default();
    for number in 0..index.blocks.len() {
        let block = index.read_block(&mut file, number).map_err(CompactionError::Output)?;
        for op in block.ops() {
            found.op(&op.map_err(CompactionError::Output)?);
        }
    }
    if found.value() != expected.written {
        return Err(CompactionError::Unproven("content"));
    }
    Ok(index)
}
