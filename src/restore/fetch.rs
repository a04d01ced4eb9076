//! What a plan needs, fetched with a bounded number of requests at a time and a bounded number of bytes in memory.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use crate::extent::FileId;
use crate::inventory::Listed;
use crate::layout::{ObjectName, SegmentName};
use crate::position::Txid;
use crate::restore::apply::{Apply, needed_blocks};
use crate::restore::error::Fault;
use crate::restore::files::Files;
use crate::restore::plan::RestorePlan;
use crate::restore::reading::{Reading, prove_part, prove_patch};
use crate::segment::{Index, Over, PartRef, PatchRef, pieces_over};
use crate::store::Key;

/// Bytes of a segment that is fetched whole; a larger one is fetched in ranges of about this size. With the number of
/// jobs, this bounds the memory of a restore: (jobs + 2) × (this + one part while it is decoded).
pub const PIECE_BYTES: u64 = 8 * 1024 * 1024;

/// Hears what was fetched, in bytes of the replica.
pub type Advance = Arc<dyn Fn(u64) + Send + Sync>;

/// Writes every part of the plan, in any order.
pub async fn parts(
    reading: &Reading,
    plan: &RestorePlan,
    files: &Files,
    jobs: usize,
    advance: &Advance,
) -> Result<(), Fault> {
    let mut running = JoinSet::new();
    // Dropping the set on an early return ends what still runs.
    for part in &plan.parts {
        while running.len() >= jobs.max(1) {
            joined(running.join_next().await)?;
        }
        let (reading, part, advance) = (reading.clone(), *part, advance.clone());
        let key = ObjectName::Part { generation: plan.generation, hash: part.hash }.key();
        let write = files.part_writer();
        running.spawn(async move {
            let object = reading.part(&key).await?;
            advance(part.stored_len);
            in_background(move || prove_part(&key, &object, &part, write)).await
        });
    }
    while let Some(result) = running.join_next().await {
        joined(Some(result))?;
    }
    Ok(())
}

/// Lays every patch of the plan over the parts, in order, while those that follow are being fetched.
pub async fn patches(
    reading: &Reading,
    plan: &RestorePlan,
    files: &Files,
    jobs: usize,
    advance: &Advance,
) -> Result<(), Fault> {
    let parts: Arc<[PartRef]> = plan.parts.iter().filter(|part| part.file == FileId::Main).copied().collect();
    let over: Arc<[Over]> = plan.layers.over.clone().into();
    let fetch = |patch: &PatchRef| {
        let key = ObjectName::Part { generation: plan.generation, hash: patch.hash }.key();
        let (reading, patch) = (reading.clone(), *patch);
        async move { reading.part(&key).await.map(|object| (key, patch, object)) }
    };
    let fetches: Vec<_> = plan.layers.patches.iter().map(fetch).collect();
    let mut fetched = std::pin::pin!(stream::iter(fetches).buffered(jobs.max(1)).enumerate());
    while let Some((number, result)) = fetched.next().await {
        let (key, patch, object) = result?;
        let (write, parts, over) = (files.part_writer(), parts.clone(), over.clone());
        advance(patch.stored_len);
        in_background(move || {
            prove_patch(&key, &object, &patch, |extent| pieces_over(&parts, &over, number, extent, &write))
        })
        .await?;
    }
    Ok(())
}

fn joined(result: Option<Result<Result<(), Fault>, tokio::task::JoinError>>) -> Result<(), Fault> {
    match result {
        None => Ok(()),
        Some(Ok(result)) => result,
        Some(Err(error)) => Err(Fault::Result(format!("a task of the restore ended early: {error}"))),
    }
}

/// Runs blocking work where it holds up nobody.
pub async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Fault::Result(format!("a task of the restore ended early: {error}"))),
    }
}

/// A piece of the history on its way, in order.
enum Piece {
    Whole {
        segment: Listed<SegmentName>,
        bytes: Fetching,
    },
    /// Consecutive blocks of a large segment; `first` and `last` of those that are needed.
    Blocks {
        key: Key,
        index: Arc<Index>,
        blocks: std::ops::Range<usize>,
        bytes: Fetching,
        is_first: bool,
        is_last: bool,
    },
}

/// A request that runs by itself and ends when nobody waits for it any more.
struct Fetching(JoinHandle<Result<Bytes, Fault>>);

impl Drop for Fetching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Fetching {
    fn start(request: impl Future<Output = Result<Bytes, Fault>> + Send + 'static) -> Fetching {
        Fetching(tokio::spawn(request))
    }

    /// On a thread where blocking is allowed.
    fn wait(mut self, runtime: &Handle) -> Result<Bytes, Fault> {
        match runtime.block_on(&mut self.0) {
            Ok(result) => result,
            Err(error) => Err(Fault::Result(format!("a task of the restore ended early: {error}"))),
        }
    }
}

/// Applies every segment of the plan, in order, while those that follow are being fetched.
pub async fn segments(
    reading: &Reading,
    plan: &RestorePlan,
    mut apply: Apply,
    jobs: usize,
    advance: &Advance,
) -> Result<Files, Fault> {
    let (sender, mut receiver) = mpsc::channel::<Piece>(jobs.max(1));
    let (runtime, heard) = (Handle::current(), advance.clone());
    let applying = in_background(move || {
        while let Some(piece) = receiver.blocking_recv() {
            apply_piece(&mut apply, piece, &runtime, &heard)?;
        }
        apply.finish()
    });
    let fetching = async {
        let mut applied = plan.base;
        for segment in &plan.segments {
            if !send(reading, plan, segment, applied, &sender).await? {
                // The other side met an error and says which.
                break;
            }
            applied = segment.name.last;
        }
        drop(sender);
        Ok::<(), Fault>(())
    };
    let (applied, fetched) = tokio::join!(applying, fetching);
    // What the fetching side says comes first: without all pieces, the other one cannot end well.
    fetched?;
    applied
}

/// Sends the pieces of one segment. `false`: nobody takes them any more.
async fn send(
    reading: &Reading,
    plan: &RestorePlan,
    segment: &Listed<SegmentName>,
    applied: Txid,
    sender: &mpsc::Sender<Piece>,
) -> Result<bool, Fault> {
    let key = ObjectName::Segment(segment.name).key();
    if segment.size <= PIECE_BYTES {
        let (reading, size) = (reading.clone(), segment.size);
        let bytes = Fetching::start(async move { reading.whole(&key, size).await });
        return Ok(sender.send(Piece::Whole { segment: *segment, bytes }).await.is_ok());
    }
    let index = Arc::new(reading.index(segment).await?);
    let needed = needed_blocks(&index, applied, plan.commit.txid);
    let mut start = needed.start;
    while start < needed.end {
        let end = piece_end(&index, start, needed.end);
        let range = index.blocks[start].offset..index.blocks[end - 1].range().end;
        let bytes = Fetching::start({
            let (reading, key) = (reading.clone(), key.clone());
            async move { reading.range(&key, range).await }
        });
        let (is_first, is_last) = (start == needed.start, end == needed.end);
        let piece =
            Piece::Blocks { key: key.clone(), index: index.clone(), blocks: start..end, bytes, is_first, is_last };
        if sender.send(piece).await.is_err() {
            return Ok(false);
        }
        start = end;
    }
    Ok(true)
}

/// The end of the run of blocks that is fetched at once: at least one block, and about `PIECE_BYTES`.
fn piece_end(index: &Index, start: usize, end: usize) -> usize {
    let limit = index.blocks[start].offset.saturating_add(PIECE_BYTES);
    let fits = index.blocks[start..end].iter().take_while(|block| block.range().end <= limit).count();
    start + fits.max(1)
}

fn apply_piece(apply: &mut Apply, piece: Piece, runtime: &Handle, advance: &Advance) -> Result<(), Fault> {
    match piece {
        Piece::Whole { segment, bytes } => {
            apply.segment(&segment, bytes.wait(runtime)?)?;
            advance(segment.size);
        }
        Piece::Blocks { key, index, blocks, bytes, is_first, is_last } => {
            let bytes = bytes.wait(runtime)?;
            if is_first {
                apply.begin(&key, &index)?;
            }
            let start = index.blocks[blocks.start].offset;
            for number in blocks {
                let range = index.blocks[number].range();
                let at = |offset: u64| usize::try_from(offset - start).expect("blocks of one piece fit in memory");
                let stored = &bytes[at(range.start)..at(range.end)];
                let block = index.decode_block(number, stored).map_err(|error| Fault::segment(&key, error))?;
                apply.block(&key, &index, number, &block)?;
            }
            if is_last {
                apply.end(&key, &index)?;
            }
            advance(bytes.len() as u64);
        }
    }
    Ok(())
}
