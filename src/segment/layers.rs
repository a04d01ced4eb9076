//! What a manifest says of patches, as stored and back.

use super::manifest::Layers;
use super::patch::{Over, PatchRef};
use super::runs::PageRun;
use super::snapshot::PartRef;
use super::{MAX_FILE_BYTES, proto};
use crate::layout::PartHash;

/// What contradicts itself.
pub(super) fn problem(layers: &Layers, main_parts: &[PartRef]) -> Option<&'static str> {
    let Layers { patches, over, differing } = layers;
    if !patches.iter().all(PatchRef::is_good) {
        return Some("a patch is beyond the format's bounds");
    }
    let expected = if patches.is_empty() { 0 } else { main_parts.len() };
    if over.len() != expected || over.iter().any(|over| over.first_patch > patches.len()) {
        return Some("which patches count for which part is not said for every part");
    }
    let mut reached = 0;
    for run in differing.iter().flatten() {
        let end = run.first.checked_add(run.count).filter(|&end| end <= MAX_FILE_BYTES);
        let (true, Some(end)) = (run.first >= reached && run.count > 0, end) else {
            return Some("the pages that differ are not in order");
        };
        reached = end;
    }
    None
}

pub(super) fn put(layers: &Layers, message: &mut proto::Manifest) {
    let Layers { patches, over, differing } = layers;
    message.patch_offset = patches.iter().map(|patch| patch.offset).collect();
    message.patch_len = patches.iter().map(|patch| patch.len).collect();
    message.patch_stored = patches.iter().map(|patch| patch.stored_len).collect();
    message.patch_hash = patches.iter().flat_map(|patch| patch.hash.0.to_be_bytes()).collect();
    message.part_first_patch = over.iter().map(|over| over.first_patch as u64).collect();
    message.part_patched = over.iter().map(|over| over.bytes).collect();
    message.tells_differing = differing.is_some();
    let mut reached = 0;
    for run in differing.iter().flatten() {
        message.differing.extend([run.first - reached, run.count]);
        reached = run.end();
    }
}

/// `None` where columns are not as long as each other. What they say is checked by `problem`.
pub(super) fn take(message: &proto::Manifest) -> Option<Layers> {
    let count = message.patch_offset.len();
    let (hashes, rest) = message.patch_hash.as_chunks::<16>();
    let columns = [message.patch_len.len(), message.patch_stored.len(), hashes.len()];
    if columns != [count; 3] || !rest.is_empty() || message.part_first_patch.len() != message.part_patched.len() {
        return None;
    }
    let patches = hashes.iter().enumerate().map(|(number, hash)| PatchRef {
        offset: message.patch_offset[number],
        len: message.patch_len[number],
        hash: PartHash(u128::from_be_bytes(*hash)),
        stored_len: message.patch_stored[number],
    });
    let over = message.part_first_patch.iter().zip(&message.part_patched);
    let over = over.map(|(&first, &bytes)| Some(Over { first_patch: usize::try_from(first).ok()?, bytes }));
    Some(Layers { patches: patches.collect(), over: over.collect::<Option<_>>()?, differing: differing(message)? })
}

fn differing(message: &proto::Manifest) -> Option<Option<Vec<PageRun>>> {
    let (pairs, rest) = message.differing.as_chunks::<2>();
    if !rest.is_empty() || !(message.tells_differing || pairs.is_empty()) {
        return None;
    }
    let mut reached = 0u64;
    let mut runs = Vec::with_capacity(pairs.len());
    for &[between, count] in pairs {
        let first = reached.checked_add(between)?;
        reached = first.checked_add(count)?;
        runs.push(PageRun { first, count });
    }
    Some(message.tells_differing.then_some(runs))
}
