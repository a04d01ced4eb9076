//! What a replica says of its newest generation, and the page map as of its newest commit.

use crate::checksum::PageMap;
use crate::layout::ObjectName;
use crate::position::Txid;
use crate::replica::{Replica, ReplicaError, newest_segment, newest_snapshot};
use crate::replicator::resume::{Contact, point_of};
use crate::segment::{Manifest, SegmentError};
use crate::spool::{ResumePoint, apply_block};

/// Segments up to this size are fetched whole, larger ones block by block.
const WHOLE_SEGMENT_BYTES: u64 = 16 * 1024 * 1024;

/// Asks a replica where it stands: its newest generation's names, and the end of its newest segment.
pub(super) async fn contact(replica: &Replica) -> Result<Contact, ReplicaError> {
    // Refuses a replica of a newer version before anything in it is interpreted.
    replica.engine().await?;
    let generations = replica.generations().await?;
    let Some(&generation) = generations.last() else { return Ok(Contact { inventory: None, point: None }) };
    let inventory = replica.inventory(generation).await?;
    let segment = newest_segment(&inventory);
    let snapshot = newest_snapshot(&inventory, Txid(u64::MAX));
    let is_behind = |txid: Txid| segment.is_none_or(|segment| segment.name.last < txid);
    let point = match (segment, snapshot) {
        // Its segments were pruned: the snapshot says the same of its own commit.
        (_, Some(snapshot)) if is_behind(snapshot.name.txid) => {
            Some(point_of_manifest(&replica.read_manifest(snapshot.name).await?.0))
        }
        (Some(segment), _) => Some(point_of(&replica.read_index(segment).await?)),
        (None, _) => None,
    };
    Ok(Contact { inventory: Some(inventory), point })
}

fn point_of_manifest(manifest: &Manifest) -> ResumePoint {
    ResumePoint {
        generation: manifest.generation,
        term: manifest.term,
        engine: manifest.engine,
        commit: manifest.commit.clone(),
        position: manifest.position.clone(),
    }
}

/// The page map as of the newest commit in a replica: the newest snapshot's, rolled forward by the segments behind it.
/// `None` when there is no snapshot or the way from it has a gap.
pub(super) async fn page_map(replica: &Replica, contact: &Contact) -> Result<Option<PageMap>, ReplicaError> {
    let (Some(inventory), Some(point)) = (&contact.inventory, &contact.point) else { return Ok(None) };
    let target = point.commit.txid;
    let Some(snapshot) = newest_snapshot(inventory, target) else { return Ok(None) };
    let Ok(chain) = inventory.chain(snapshot.name.txid, target) else { return Ok(None) };
    let (manifest, hashes) = replica.read_manifest(snapshot.name).await?;
    let mut map = PageMap::from_hashes(manifest.grid(), hashes);
    for listed in chain {
        let key = ObjectName::Segment(listed.name).key();
        let damaged = |source: SegmentError| ReplicaError::Damaged { name: key.to_string(), source };
        if listed.size <= WHOLE_SEGMENT_BYTES {
            let reader = replica.read_segment(listed.name).await?;
            for block in reader.blocks() {
                let block = block.map_err(damaged)?;
                apply_block(&mut map, reader.index(), &block).map_err(damaged)?;
            }
            continue;
        }
        let index = replica.read_index(listed).await?;
        for number in 0..index.blocks.len() {
            let stored = replica.store().get(&key, Some(index.blocks[number].range())).await?;
            let block = index.decode_block(number, &stored).map_err(damaged)?;
            apply_block(&mut map, &index, &block).map_err(damaged)?;
        }
    }
    let commit = &point.commit;
    let is_proven = commit.lengths.wal > 0 || map.sum() == commit.checksum;
    let is_whole = map.grid() == commit.grid && map.len() == commit.grid.pages(commit.lengths.main);
    Ok((is_proven && is_whole).then_some(map))
}
