//! The bytes of a DuckDB WAL, parsed without I/O of its own: the header, commits, checkpoint markers.
//!
//! The first entry is never checksummed nor encrypted: `64 00 62 | 65 00 version | [66 00 10 id | 67 00 iteration] | FF FF`,
//! integers as LEB128. Every other entry is `u64 size | u64 checksum | body` (version 2) or
//! `u64 size | nonce | encrypted | tag` (version 3). Facts from `write_ahead_log.cpp` and `wal_replay.cpp`, v1.0.0 to v2.0.0.

use std::io;

use super::file::{Checksum, u64_at};

/// A WAL_FLUSH entry ends every commit; nothing else has a body of this size, which shows in encrypted WALs too.
const FLUSH_SIZE: u64 = 5;
/// Bytes of a whole WAL_FLUSH entry in a plain WAL.
const FLUSH_BYTES: usize = 21;
const ROW_GROUP_DATA: u8 = 29;
const WAL_VERSION: u8 = 98;
const CHECKPOINT: u8 = 99;
const WAL_FLUSH: u8 = 100;
/// No entry is larger; a size word beyond it is garbage.
const MAX_ENTRY_BYTES: u64 = 1 << 40;
/// The longest header there can be: every byte of the id and the iteration in its longest encoding.
pub const MAX_HEADER_BYTES: usize = 80;
const WINDOW_BYTES: usize = 256 * 1024;
/// Bytes of a body's beginning that are kept to be looked at; a checkpoint marker's body is at most 23.
const PEEK_BYTES: usize = 40;

/// Bytes that can be read at any offset. Fewer than asked for only at the end.
pub trait ReadAt {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

impl ReadAt for [u8] {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

/// A WAL that this program does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    #[error("the WAL does not begin like one")]
    NotAWal,
    #[error("the WAL has version {0}, which this program does not know")]
    Version(u64),
}

/// The WAL's first entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalHeader {
    /// 2 plain, 3 encrypted.
    pub version: u64,
    /// The iteration of the main file that it continues, from storage version 1.4 on.
    pub iteration: Option<u64>,
    /// Its bytes.
    pub len: u64,
}

struct Fields<'a> {
    data: &'a [u8],
    at: usize,
}

impl Fields<'_> {
    /// `None` at the end of the bytes.
    fn field(&mut self) -> Option<u16> {
        let bytes = self.data.get(self.at..self.at + 2)?;
        self.at += 2;
        Some(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    fn leb(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = *self.data.get(self.at)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                break;
            }
        }
        Some(value)
    }
}

/// Parses the header at the beginning of `data`; `None` when it is not all there yet.
pub fn parse_header(data: &[u8]) -> Result<Option<WalHeader>, WalError> {
    let mut fields = Fields { data, at: 0 };
    let (Some(first), Some(kind)) = (fields.field(), fields.leb()) else { return Ok(None) };
    if first != 100 || kind != u64::from(WAL_VERSION) {
        return Err(WalError::NotAWal);
    }
    let (mut version, mut iteration) = (0, None);
    loop {
        let Some(field) = fields.field() else { return unfinished(data) };
        match field {
            101 => match fields.leb() {
                Some(value) => version = value,
                None => return unfinished(data),
            },
            102 => {
                let Some(count) = fields.leb() else { return unfinished(data) };
                if count != 16 {
                    return Err(WalError::NotAWal);
                }
                for _ in 0..count {
                    if fields.leb().is_none() {
                        return unfinished(data);
                    }
                }
            }
            103 => match fields.leb() {
                Some(value) => iteration = Some(value),
                None => return unfinished(data),
            },
            0xffff => break,
            _ => return Err(WalError::NotAWal),
        }
        if fields.at > MAX_HEADER_BYTES {
            return Err(WalError::NotAWal);
        }
    }
    if !matches!(version, 2 | 3) {
        return Err(WalError::Version(version));
    }
    Ok(Some(WalHeader { version, iteration, len: fields.at as u64 }))
}

fn unfinished(data: &[u8]) -> Result<Option<WalHeader>, WalError> {
    if data.len() >= MAX_HEADER_BYTES { Err(WalError::NotAWal) } else { Ok(None) }
}

/// How entries are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Plain,
    /// Bytes of an entry after its size word, beyond its size.
    Encrypted {
        overhead: u64,
    },
}

/// One commit: entries that end with a WAL_FLUSH. Checkpoint markers are in none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalCommit {
    pub start: u64,
    pub end: u64,
    /// Rows of it stand in blocks of the main file (ROW_GROUP_DATA). Unknown, so assumed, when encrypted.
    pub bulk: bool,
    /// In an encrypted WAL: it may as well be a checkpoint's marker, by its size.
    pub like_marker: bool,
}

/// The announcement of a checkpoint: a CHECKPOINT entry and its WAL_FLUSH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    pub start: u64,
    pub end: u64,
    /// The `meta_block` that the header of the checkpoint will have.
    pub meta_block: u64,
}

/// What lies in a WAL after a commit boundary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    pub commits: Vec<WalCommit>,
    /// The marker that comes last, with no commit after it.
    pub marker: Option<Marker>,
    /// Where the scan ended: after the last commit or marker.
    pub end: u64,
    /// The scan ended because of its budget; there may be more.
    pub more: bool,
    /// Bytes after `end` that are no commit yet, as of the size that was given.
    pub unfinished: u64,
    /// An entry after `end` is there in full length with a wrong checksum, and more bytes follow it.
    pub broken: bool,
}

struct Window<'a, R: ReadAt + ?Sized> {
    source: &'a R,
    start: u64,
    bytes: Vec<u8>,
}

impl<R: ReadAt + ?Sized> Window<'_, R> {
    /// At least one byte at `offset` and at most `want`, or nothing at the end.
    fn at(&mut self, offset: u64, want: usize) -> io::Result<&[u8]> {
        let inside = |start: u64, len: usize| offset.checked_sub(start).is_some_and(|skip| skip < len as u64);
        // A short look is refilled so that a size word never falls apart at the window's end.
        let enough = inside(self.start, self.bytes.len())
            && (self.start + self.bytes.len() as u64 - offset >= want.min(64) as u64);
        if !enough {
            self.bytes.resize(WINDOW_BYTES, 0);
            let len = self.source.read_at(offset, &mut self.bytes)?;
            self.bytes.truncate(len);
            self.start = offset;
        }
        let skip = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        let rest = self.bytes.get(skip..).unwrap_or_default();
        Ok(&rest[..rest.len().min(want)])
    }
}

enum Entry {
    Whole { end: u64, size: u64, kind: u8, marker: Option<u64> },
    Unfinished,
    Broken { end: u64 },
}

fn read_entry<R: ReadAt + ?Sized>(
    window: &mut Window<'_, R>,
    framing: Framing,
    at: u64,
    size_of_wal: u64,
) -> io::Result<Entry> {
    let head = window.at(at, 16)?;
    let Some(size) = u64_at(head, 0) else { return Ok(Entry::Unfinished) };
    let stored = u64_at(head, 8);
    if size == 0 || size > MAX_ENTRY_BYTES {
        return Ok(Entry::Unfinished);
    }
    let body_at = match framing {
        Framing::Plain => at + 16,
        Framing::Encrypted { overhead } => at + 8 + overhead,
    };
    let end = body_at + size;
    if end > size_of_wal {
        return Ok(Entry::Unfinished);
    }
    if framing != Framing::Plain {
        let kind = if size == FLUSH_SIZE { WAL_FLUSH } else { ROW_GROUP_DATA };
        return Ok(Entry::Whole { end, size, kind, marker: None });
    }
    let (mut sum, mut peek, mut offset) = (Checksum::default(), Vec::with_capacity(PEEK_BYTES), body_at);
    while offset < end {
        let want = usize::try_from(end - offset).unwrap_or(WINDOW_BYTES).min(WINDOW_BYTES);
        let piece = window.at(offset, want)?;
        if piece.is_empty() {
            return Ok(Entry::Unfinished);
        }
        sum.update(piece);
        let missing = PEEK_BYTES - peek.len();
        peek.extend_from_slice(&piece[..piece.len().min(missing)]);
        offset += piece.len() as u64;
    }
    if stored != Some(sum.finish()) {
        return Ok(Entry::Broken { end });
    }
    let kind = if peek.starts_with(&[100, 0]) { peek.get(2).copied().unwrap_or(0) } else { 0 };
    let marker = if kind == CHECKPOINT { marker_meta(&peek) } else { None };
    Ok(Entry::Whole { end, size, kind, marker })
}

/// The block pointer in a CHECKPOINT body: `64 00 63 65 00 {64 00 pointer 65 00 offset FF FF} FF FF`. A pointer of 0, the
/// first sub-block of block 0, is left out.
fn marker_meta(body: &[u8]) -> Option<u64> {
    let mut fields = Fields { data: body, at: 3 };
    if fields.field()? != 101 {
        return None;
    }
    let mut pointer = 0;
    loop {
        match fields.field()? {
            100 => pointer = fields.leb()?,
            101 => _ = fields.leb()?,
            0xffff => return Some(pointer),
            _ => return None,
        }
    }
}

/// Looks at the entries from the commit boundary `from` on, in a WAL of `size` bytes; ends soon after `budget` bytes.
pub fn scan<R: ReadAt + ?Sized>(wal: &R, framing: Framing, from: u64, size: u64, budget: u64) -> io::Result<Scan> {
    let mut window = Window { source: wal, start: 0, bytes: Vec::new() };
    let mut scan = Scan { end: from, ..Scan::default() };
    let (mut at, mut bulk, mut entries, mut only_size) = (from, false, 0u64, 0);
    let mut pending_marker = None;
    loop {
        if entries == 0 && at.saturating_sub(from) >= budget {
            scan.more = true;
            break;
        }
        let (end, entry_size, kind, marker) = match read_entry(&mut window, framing, at, size)? {
            Entry::Whole { end, size, kind, marker } => (end, size, kind, marker),
            Entry::Unfinished => break,
            Entry::Broken { end } => {
                scan.broken = end < size;
                break;
            }
        };
        if kind != WAL_FLUSH {
            bulk |= kind == ROW_GROUP_DATA;
            pending_marker = (entries == 0).then_some(marker).flatten();
            entries += 1;
            only_size = entry_size;
        } else {
            let start = scan.end;
            scan.end = end;
            match pending_marker.take() {
                Some(meta_block) => scan.marker = Some(Marker { start, end, meta_block }),
                None => {
                    scan.marker = None;
                    let like_marker = framing != Framing::Plain && entries == 1 && matches!(only_size, 12 | 15..=24);
                    scan.commits.push(WalCommit { start, end, bulk, like_marker });
                }
            }
            (bulk, entries) = (false, 0);
        }
        at = end;
    }
    scan.unfinished = size.saturating_sub(scan.end);
    Ok(scan)
}

/// Bytes of a block's number: `file::MAX_BLOCKS` needs no more.
pub const BLOCK_NUMBER_BYTES: usize = 6;

/// Tells the number that begins at each byte of `data`, read as LEB128, which is the same for signed and unsigned numbers
/// that are not negative. Whatever the structure of an entry, the numbers of the blocks that it names are among them; so is
/// 0, which may be left out of an entry but stands in the name of every field.
pub fn block_numbers(data: &[u8], mut each: impl FnMut(u64)) {
    for start in 0..data.len() {
        let mut value = 0u64;
        for (index, &byte) in data[start..].iter().take(BLOCK_NUMBER_BYTES).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                each(value);
                break;
            }
        }
    }
}

/// The marker with which a plain WAL of `size` bytes ends, found without reading the rest.
pub fn marker_at_end<R: ReadAt + ?Sized>(wal: &R, size: u64) -> io::Result<Option<Marker>> {
    let look = size.min(160);
    let mut tail = vec![0; look as usize];
    let got = wal.read_at(size - look, &mut tail)?;
    if got < tail.len() || tail.len() < FLUSH_BYTES + 16 {
        return Ok(None);
    }
    let entry_end = tail.len() - FLUSH_BYTES;
    let is_entry = |from: usize, to: usize, size: u64| {
        let body = &tail[from + 16..to];
        let mut sum = Checksum::default();
        sum.update(body);
        u64_at(&tail, from) == Some(size) && u64_at(&tail, from + 8) == Some(sum.finish())
    };
    if !is_entry(entry_end, tail.len(), FLUSH_SIZE) || tail[entry_end + 16..entry_end + 19] != [100, 0, WAL_FLUSH] {
        return Ok(None);
    }
    for body in 9..=40usize {
        let Some(from) = entry_end.checked_sub(16 + body) else { break };
        if tail[from + 16..from + 19] == [100, 0, CHECKPOINT] && is_entry(from, entry_end, body as u64) {
            let start = size - look + from as u64;
            let meta = marker_meta(&tail[from + 16..entry_end]);
            return Ok(meta.map(|meta_block| Marker { start, end: size, meta_block }));
        }
    }
    Ok(None)
}

#[cfg(test)]
#[path = "wal_tests.rs"]
mod tests;
