//! The end of an iteration's WAL, read after the headers moved on.

use super::blocks::BlockSet;
use super::commit::Plan;
use super::disk::{BlockRead, io_error, plain_key};
use super::file::is_sound;
use super::follow::From;
use super::iteration::Iteration;
use super::source::{DuckdbSource, Flow, Step};
use super::tail::{framing, header};
use super::wal::{Framing, WalCommit, scan};
use crate::checksum::page_hash;
use crate::engine::TransactionSink;

const BUDGET_BYTES: u64 = 64 * 1024 * 1024;

/// Hands on the commits that are left in the held WAL of `old`. `true` when nothing can have been missed: the WAL was
/// read up to the marker of the checkpoint that ended the iteration.
pub(super) fn drain_held(
    source: &mut DuckdbSource,
    sink: &mut dyn TransactionSink,
    old: &Iteration,
    commits: &mut u64,
) -> Step<bool> {
    loop {
        let Some(wal) = &source.tail.wal else { return Ok(false) };
        let Some(head) = header(wal)? else { return Ok(false) };
        let framing = framing(old, &head)?;
        let from = source.tail.at.max(head.len);
        let found = scan(wal, framing, from, wal.size()?, BUDGET_BYTES).map_err(io_error("cannot read the WAL"))?;
        if framing != Framing::Plain {
            // Without the key, all that can be told is whether more than a marker is left.
            return Ok(match found.commits.as_slice() {
                [] => true,
                [only] => only.like_marker,
                _ => false,
            });
        }
        let bulk = found.commits.iter().position(|commit| commit.bulk).unwrap_or(found.commits.len());
        let (plain, rest) = found.commits.split_at(bulk);
        source.hand_on(sink, From::Wal, plain, head.len, commits)?;
        if !rest.is_empty() && !rescue(source, sink, old, rest, head.len, commits)? {
            return Ok(false);
        }
        if !found.more {
            return Ok(found.marker.is_some());
        }
    }
}

/// Commits that refer to blocks can still be told one by one if every block that was written for them lives on in the
/// new iteration, which protects it. `false` when that cannot be proven.
fn rescue(
    source: &mut DuckdbSource,
    sink: &mut dyn TransactionSink,
    old: &Iteration,
    rest: &[WalCommit],
    wal_header: u64,
    commits: &mut u64,
) -> Step<bool> {
    if !source.chain.iteration.follows(old) {
        return Ok(false);
    }
    let first = source.transaction(sink, |source, sink| {
        let mut plan = source.plan();
        if !collect(source, sink, old, rest, &mut plan)? {
            return Err(Flow::Restart);
        }
        source.put_wal_commit(sink, From::Wal, &rest[0], wal_header, &mut plan)
    });
    match first {
        Ok(()) => {}
        Err(Flow::Restart) => return Ok(false),
        Err(flow) => return Err(flow),
    }
    *commits += 1;
    // Their blocks are all there now.
    for commit in &rest[1..] {
        source.transaction(sink, |source, sink| {
            let mut plan = source.plan();
            source.put_wal_commit(sink, From::Wal, commit, wal_header, &mut plan)
        })?;
        *commits += 1;
    }
    Ok(true)
}

/// Adds every block that was written during `old` to `plan`; `false` if one of them may be gone.
fn collect(
    source: &DuckdbSource,
    sink: &mut dyn TransactionSink,
    old: &Iteration,
    rest: &[WalCommit],
    plan: &mut Plan,
) -> Step<bool> {
    let next = &source.chain.iteration;
    let mut buffer = Vec::new();
    let freed: BlockSet = old.free.iter().filter(|&block| source.map.get(block + 1) == 0).collect();
    let named = source.named_by(From::Wal, rest, &freed)?;
    for block in old.free.iter().chain(old.count..next.count) {
        let key = source.main.block_key(&next.head, block)?;
        let known = source.key(block);
        if known != 0 && key == Some(known) && !named.contains(block) {
            continue;
        }
        if next.uses(block) {
            if source.main.used_block(&next.head, block, &mut buffer)? == BlockRead::Flipped {
                return Ok(false);
            }
            source.put_block(sink, plan, block, &buffer, Some(plain_key(&buffer)))?;
            continue;
        }
        // The next iteration does not protect it: only what is proven to be the old content counts.
        let whole = source.main.block(next.head.grid(), block, &mut buffer)?;
        if named.contains(block) && whole && is_sound(&buffer) && plain_key(&buffer) == known {
            source.put_block(sink, plan, block, &buffer, Some(known))?;
        } else if known != 0 || !whole || page_hash(block + 1, &buffer) != source.map.get(block + 1) {
            return Ok(false);
        }
    }
    Ok(source.main.slots_are(&next.head)?)
}
