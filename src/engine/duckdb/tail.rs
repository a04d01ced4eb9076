//! The logical WAL of an iteration: what of DuckDB's WAL files was captured, and where its next bytes are.
//!
//! The logical WAL is the one that a restored database gets: the WAL file without checkpoint markers, then the entries
//! of `.wal.checkpoint`, which DuckDB 1.5 and newer writes while a checkpoint runs. DuckDB itself merges them so after a
//! crash. Markers are left out because DuckDB 1.5 and newer refuses a WAL with one that is not at its end.

use std::path::Path;

use super::disk::{WalFile, io_error, side_wal_path, wal_path};
use super::iteration::Iteration;
use super::wal::{Framing, MAX_HEADER_BYTES, Marker, ReadAt, WalError, WalHeader, marker_at_end, parse_header, scan};
use crate::checksum::WalHash;
use crate::engine::EngineError;

/// Bytes of the WAL that are read and handed on at a time.
pub const PIECE_BYTES: usize = 256 * 1024;

impl From<WalError> for EngineError {
    fn from(error: WalError) -> Self {
        match error {
            WalError::NotAWal => EngineError::Damaged(error.to_string()),
            WalError::Version(_) => EngineError::NotCapturable {
                reason: error.to_string(),
                next_step: "use a release of replicate that lists this DuckDB version as supported",
            },
        }
    }
}

/// How far the logical WAL of the captured iteration was captured. What is held stays readable after DuckDB let go of it.
#[derive(Debug, Default)]
pub struct Tail {
    /// The WAL file, once it was seen.
    pub wal: Option<WalFile>,
    /// Offset in it after the last captured commit; 0 when none was.
    pub at: u64,
    /// `.wal.checkpoint`, once something of it was captured, and the offset after that.
    pub side: Option<(WalFile, u64)>,
    /// Bytes of the logical WAL, and their hash.
    pub len: u64,
    pub hash: WalHash,
    /// The iteration in the WAL's header, and that of the iteration before, whose WAL may still lie there.
    pub iteration: Option<u64>,
    pub stale_iteration: Option<u64>,
}

/// Which file the logical WAL of an iteration begins with.
pub enum Located {
    None,
    File(WalFile),
}

/// Finds the WAL of `iteration`. The caller proves afterwards that the iteration still lasts.
pub fn locate(database: &Path, iteration: &Iteration) -> Result<Located, EngineError> {
    let Some(wal) = WalFile::open(&wal_path(database))? else { return Ok(Located::None) };
    let Some(meta_block) = iteration.meta_block() else { return Ok(Located::File(wal)) };
    let size = wal.size()?;
    let marker = marker_at_end(&wal, size).map_err(io_error("cannot read the WAL"))?;
    match marker {
        // The checkpoint that it announced is this iteration: the WAL is about to be removed or to be replaced.
        Some(marker) if marker.meta_block == meta_block => Ok(match WalFile::open(&side_wal_path(database))? {
            Some(side) => Located::File(side),
            None => Located::None,
        }),
        _ => Ok(Located::File(wal)),
    }
}

/// The header of a WAL file; `None` while it is not all there.
pub fn header(wal: &WalFile) -> Result<Option<WalHeader>, EngineError> {
    let mut bytes = [0; MAX_HEADER_BYTES];
    let len = wal.read_at(0, &mut bytes).map_err(io_error("cannot read the WAL"))?;
    Ok(parse_header(&bytes[..len])?)
}

/// The framing of `iteration`'s WAL; an error when the WAL's header says otherwise.
pub fn framing(iteration: &Iteration, header: &WalHeader) -> Result<Framing, EngineError> {
    match (iteration.head.encryption, header.version) {
        (None, 2) => Ok(Framing::Plain),
        (Some(encryption), 3) => Ok(Framing::Encrypted { overhead: encryption.wal_overhead() }),
        _ => Err(EngineError::Damaged("the file and its WAL do not agree on whether they are encrypted".into())),
    }
}

/// Reads `[start, end)` in pieces.
pub fn pieces<E: From<EngineError>>(
    wal: &WalFile,
    start: u64,
    end: u64,
    mut each: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut buffer = vec![0; PIECE_BYTES.min(usize::try_from(end - start).unwrap_or(PIECE_BYTES))];
    let mut at = start;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(PIECE_BYTES).min(buffer.len());
        let len = wal.read_at(at, &mut buffer[..want]).map_err(io_error("cannot read the WAL"))?;
        if len == 0 {
            return Err(EngineError::Busy("the WAL became shorter while it was read".into()).into());
        }
        each(&buffer[..len])?;
        at += len as u64;
    }
    Ok(())
}

/// Walks a WAL from its beginning until `len` logical bytes with this hash were found; then capture can go on there.
/// `None` when the WAL is another one.
pub fn relocate(
    database: &Path,
    iteration: &Iteration,
    wal: WalFile,
    len: u64,
    hash: u64,
) -> Result<Option<Tail>, EngineError> {
    if len == 0 {
        return Ok(Some(Tail { wal: Some(wal), ..Tail::default() }));
    }
    let mut tail = Tail::default();
    let (end, marker) = walk(iteration, &wal, true, len, &mut tail)?;
    (tail.at, tail.wal) = (end, Some(wal));
    if tail.len < len
        && marker.is_some()
        && let Some(side) = WalFile::open(&side_wal_path(database))?
    {
        let (end, _) = walk(iteration, &side, false, len, &mut tail)?;
        tail.side = Some((side, end));
    }
    Ok((tail.len == len && tail.hash.value() == hash).then_some(tail))
}

/// Adds the commits of `wal` to `tail` until it is `limit` bytes long. Where that was, and the marker that comes last.
fn walk(
    iteration: &Iteration,
    wal: &WalFile,
    with_header: bool,
    limit: u64,
    tail: &mut Tail,
) -> Result<(u64, Option<Marker>), EngineError> {
    const BUDGET_BYTES: u64 = 64 * 1024 * 1024;
    let Some(header) = header(wal)? else { return Ok((0, None)) };
    let (framing, size) = (framing(iteration, &header)?, wal.size()?);
    let append = |tail: &mut Tail, start, end| {
        tail.len += end - start;
        pieces(wal, start, end, |piece| {
            tail.hash.append(piece);
            Ok::<(), EngineError>(())
        })
    };
    if with_header {
        append(tail, 0, header.len)?;
    }
    let mut at = header.len;
    loop {
        let found = scan(wal, framing, at, size, BUDGET_BYTES).map_err(io_error("cannot read the WAL"))?;
        for commit in &found.commits {
            if tail.len >= limit {
                return Ok((at, None));
            }
            append(tail, commit.start, commit.end)?;
            at = commit.end;
        }
        if !found.more {
            return Ok((at, found.marker));
        }
        at = found.end;
    }
}
