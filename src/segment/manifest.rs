//! The manifest of a snapshot: its parts, the commit at which it is exact, and the page map at that commit.

use bytes::Bytes;
use prost::Message;

use super::codec::{Codec, Packer, StoredCodec};
use super::frame::{self, FrameKind, Identity, ObjectKind, PROLOGUE_BYTES, Tail};
use super::layers;
use super::ops::{CommitRecord, kind_code, kind_from_code};
use super::patch::{Over, PatchRef};
use super::runs::PageRun;
use super::snapshot::PartRef;
use super::table::{engine_code, engine_from_code, first_block_offset, grid_from, grid_message};
use super::{MAX_BLOCK_BYTES, SegmentError, proto};
use crate::engine::{EngineKind, MAX_POSITION_BYTES};
use crate::extent::{FileId, PageGrid};
use crate::layout::{ObjectName, PartHash, SnapshotName};
use crate::position::{Commit, Generation, Lengths, Term, TimeMs, Txid};

/// Page hashes in one block.
const HASHES_PER_BLOCK: usize = MAX_BLOCK_BYTES as usize / 8;

/// A snapshot, but for its page map, which is written and read beside it.
///
/// Restoring: write the parts, then lay the transactions `base + 1` up to the target over them, where the target is
/// `commit` or a later one. Bytes in parts are as of some commit between `base` and `commit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub generation: Generation,
    pub term: Term,
    pub engine: EngineKind,
    /// Last captured commit when the copy began.
    pub base: Txid,
    /// Last captured commit when the copy ended: the first that can be restored from this snapshot.
    pub commit: Commit,
    /// In ascending order; those of the main file first. In each file they follow each other from 0 on.
    pub parts: Vec<PartRef>,
    /// Where capture resumes after `commit`: the engine's own bytes.
    pub position: Vec<u8>,
    pub layers: Layers,
}

/// What lies over the parts, and what is known of the bytes that come of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layers {
    /// Oldest first.
    pub patches: Vec<PatchRef>,
    /// For each part of the main file; empty without patches.
    pub over: Vec<Over>,
    /// Pages whose bytes in parts and patches are not what the page map says. `None` where that is not known.
    pub differing: Option<Vec<PageRun>>,
}

impl Manifest {
    pub fn grid(&self) -> PageGrid {
        self.commit.grid
    }

    /// Every object that it needs besides segments: its name, and its bytes.
    pub fn objects(&self) -> impl Iterator<Item = (PartHash, u64)> + '_ {
        let patches = self.layers.patches.iter().map(|patch| (patch.hash, patch.stored_len));
        self.parts.iter().map(|part| (part.hash, part.stored_len)).chain(patches)
    }

    /// The parts of the main file.
    pub fn main_parts(&self) -> &[PartRef] {
        let count = self.parts.iter().filter(|part| part.file == FileId::Main).count();
        &self.parts[..count]
    }

    /// As old readers as possible are to read it: without patches, they restore it as it is.
    fn identity(&self) -> Identity {
        let min_reader = if self.layers.patches.is_empty() { 1 } else { 2 };
        let version = if self.layers.differing.is_some() { 2 } else { min_reader };
        Identity { kind: ObjectKind::Manifest, version, min_reader }
    }

    /// The name under which it is stored.
    pub fn name(&self) -> SnapshotName {
        let Commit { txid, time, .. } = self.commit;
        SnapshotName { generation: self.generation, txid, term: self.term, time }
    }

    /// Refuses a manifest that stands under another one's name.
    pub fn check_name(&self, name: &SnapshotName) -> Result<(), SegmentError> {
        if self.name() == *name {
            return Ok(());
        }
        let text = |name: SnapshotName| ObjectName::Snapshot(name).key().to_string();
        Err(SegmentError::Misnamed { name: text(*name), found: text(self.name()) })
    }

    /// The object. `page_hashes` is the page map at `commit`, page 0 first.
    pub fn encode(&self, page_hashes: &[u64]) -> Result<Bytes, SegmentError> {
        self.problem().map_or(Ok(()), |problem| Err(SegmentError::Refused(problem)))?;
        self.page_map_problem(page_hashes).map_or(Ok(()), |problem| Err(SegmentError::Refused(problem)))?;
        let mut message = self.message();
        let mut object = frame::prologue(self.identity()).to_vec();
        // Hashes do not compress; and uncompressed, a reader never allocates more than it was given.
        let mut stored = Packer::new(Codec::Stored)?;
        for hashes in page_hashes.chunks(HASHES_PER_BLOCK) {
            let raw: Vec<u8> = hashes.iter().flat_map(|hash| hash.to_le_bytes()).collect();
            let head = frame::append(&mut object, FrameKind::Block, &raw, &mut stored)?;
            message.block_raw.push(head.raw_len);
            message.block_crc.push(head.crc);
        }
        let offset = object.len() as u64;
        let mut packer = Packer::new(Codec::for_index())?;
        let head = frame::append(&mut object, FrameKind::Index, &message.encode_to_vec(), &mut packer)?;
        object.extend_from_slice(&frame::footer(self.identity(), offset, head.frame_len()));
        Ok(Bytes::from(object))
    }

    /// Reads a manifest without its page map from `tail`, the last bytes of an object of `object_len` bytes, as
    /// `Index::from_tail` does.
    pub fn from_tail(tail: &[u8], object_len: u64) -> Result<Tail<Manifest>, SegmentError> {
        Ok(match frame::read_index(tail, object_len, ObjectKind::Manifest)? {
            Tail::ReadFrom(offset) => Tail::ReadFrom(offset),
            Tail::Whole((raw, offset)) => Tail::Whole(read_message(&raw, offset)?.0),
        })
    }

    /// Reads and proves a whole object: the manifest and the page hashes at its commit.
    pub fn decode(object: &[u8]) -> Result<(Manifest, Vec<u64>), SegmentError> {
        let Tail::Whole((raw, offset)) = frame::read_index(object, object.len() as u64, ObjectKind::Manifest)? else {
            return Err(SegmentError::Corrupt { what: "place of the index", offset: 0 });
        };
        frame::check_prologue(object, ObjectKind::Manifest)?;
        let (manifest, message) = read_message(&raw, offset)?;
        let mut hashes = Vec::new();
        let mut at = PROLOGUE_BYTES as u64;
        for (&raw_len, &crc) in message.block_raw.iter().zip(&message.block_crc) {
            // The frames up to the index were checked to fill the object, so `at` lies within it.
            let (head, payload) = frame::read(&object[at as usize..], FrameKind::Block, at)?;
            if (head.codec, head.raw_len, head.crc) != (StoredCodec::Stored, raw_len, crc) {
                return Err(SegmentError::Corrupt { what: "block that the index does not describe", offset: at });
            }
            hashes.extend(payload.as_chunks::<8>().0.iter().map(|&bytes| u64::from_le_bytes(bytes)));
            at += head.frame_len();
        }
        match manifest.page_map_problem(&hashes) {
            Some(what) => Err(SegmentError::Corrupt { what, offset: 0 }),
            None => Ok((manifest, hashes)),
        }
    }

    /// What contradicts itself in it.
    fn problem(&self) -> Option<&'static str> {
        if self.base > self.commit.txid {
            return Some("a snapshot's copy ends before it began");
        }
        if !CommitRecord::of(&self.commit).is_good() {
            return Some("the snapshot's commit is beyond the format's bounds");
        }
        if self.position.len() > MAX_POSITION_BYTES {
            return Some("the position is longer than the format's bound");
        }
        let mut end = 0;
        let mut file = FileId::Main;
        for part in &self.parts {
            if part.file > file {
                (file, end) = (part.file, 0);
            }
            if !part.is_good() || part.file != file || part.offset != end {
                return Some("a snapshot's parts do not follow each other");
            }
            end = part.end();
        }
        layers::problem(&self.layers, self.main_parts())
    }

    fn page_map_problem(&self, hashes: &[u64]) -> Option<&'static str> {
        let lengths = self.commit.lengths;
        if hashes.len() as u64 != self.grid().pages(lengths.main) {
            return Some("the page map is not as long as the main file");
        }
        // With a WAL of its own, the database checksum covers that too, and its hash is not here.
        let sum = hashes.iter().fold(0, |sum, hash| sum ^ hash);
        (lengths.wal == 0 && sum != self.commit.checksum).then_some("the page map contradicts the database checksum")
    }

    fn message(&self) -> proto::Manifest {
        let mut message = proto::Manifest {
            generation: self.generation.0,
            term: self.term.0,
            engine: engine_code(self.engine),
            grid: grid_message(self.commit.grid),
            base: self.base.0,
            txid: self.commit.txid.0,
            time: self.commit.time.0,
            main_len: self.commit.lengths.main,
            wal_len: self.commit.lengths.wal,
            checksum: self.commit.checksum,
            kind: i32::from(kind_code(self.commit.kind)),
            position: self.position.clone(),
            main_parts: self.main_parts().len() as u64,
            part_len: self.parts.iter().map(|part| part.len).collect(),
            part_stored: self.parts.iter().map(|part| part.stored_len).collect(),
            part_hash: self.parts.iter().flat_map(|part| part.hash.0.to_be_bytes()).collect(),
            ..proto::Manifest::default()
        };
        layers::put(&self.layers, &mut message);
        message
    }
}

/// Decodes and checks the message whose frame begins at `index_offset`; its blocks are checked to fill what is before it.
fn read_message(raw: &[u8], index_offset: u64) -> Result<(Manifest, proto::Manifest), SegmentError> {
    let corrupt = |what| SegmentError::Corrupt { what, offset: index_offset };
    let message = proto::Manifest::decode(raw).map_err(|_| corrupt("manifest message"))?;
    let grid = grid_from(message.grid).ok_or(corrupt("page grid"))?;
    let kind = u32::try_from(message.kind).ok().and_then(kind_from_code).ok_or(corrupt("kind of commit"))?;
    let commit = Commit {
        txid: Txid(message.txid),
        time: TimeMs(message.time),
        lengths: Lengths { main: message.main_len, wal: message.wal_len },
        checksum: message.checksum,
        kind,
        grid,
    };
    let manifest = Manifest {
        generation: Generation(message.generation),
        term: Term(message.term),
        engine: engine_from_code(message.engine).ok_or(corrupt("engine"))?,
        base: Txid(message.base),
        commit,
        parts: part_table(&message).ok_or(corrupt("table of parts"))?,
        position: message.position.clone(),
        layers: layers::take(&message).ok_or(corrupt("table of patches"))?,
    };
    manifest.problem().map_or(Ok(()), |problem| Err(corrupt(problem)))?;
    check_blocks(&message, manifest.commit.lengths.main, grid, index_offset).map_err(corrupt)?;
    Ok((manifest, message))
}

fn part_table(message: &proto::Manifest) -> Option<Vec<PartRef>> {
    let count = message.part_len.len();
    let (hashes, rest) = message.part_hash.as_chunks::<16>();
    let main_parts = usize::try_from(message.main_parts).ok().filter(|&main_parts| main_parts <= count)?;
    if message.part_stored.len() != count || hashes.len() != count || !rest.is_empty() {
        return None;
    }
    let mut offset = 0u64;
    let mut parts = Vec::with_capacity(count);
    for (number, hash) in hashes.iter().enumerate() {
        if number == main_parts {
            offset = 0;
        }
        let (len, stored_len) = (message.part_len[number], message.part_stored[number]);
        let file = if number < main_parts { FileId::Main } else { FileId::Wal };
        let part = PartRef { file, offset, len, hash: PartHash(u128::from_be_bytes(*hash)), stored_len };
        if !part.is_good() {
            return None;
        }
        offset = part.end();
        parts.push(part);
    }
    Some(parts)
}

/// All blocks are full but the last, and hold one hash for each page.
fn check_blocks(message: &proto::Manifest, main: u64, grid: PageGrid, index_offset: u64) -> Result<(), &'static str> {
    let mut left = grid.pages(main);
    for &raw in &message.block_raw {
        let hashes = left.min(HASHES_PER_BLOCK as u64);
        if hashes == 0 || u64::from(raw) != hashes * 8 {
            return Err("length of a block of page hashes");
        }
        left -= hashes;
    }
    let filled = first_block_offset(&message.block_raw, index_offset) == Some(PROLOGUE_BYTES as u64);
    if left != 0 || message.block_crc.len() != message.block_raw.len() || !filled {
        return Err("blocks of page hashes");
    }
    Ok(())
}
