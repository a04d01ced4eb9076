//! Parts and manifests: round trips, every single damage, and what contradicts itself.

use proptest::prelude::*;

use super::*;
use crate::checksum::{PageMap, page_hash};
use crate::extent::{Extent, FileId};
use crate::layout::PartHash;
use crate::position::{Commit, CommitKind, Lengths, TimeMs};

fn part(extents: &[(u64, Vec<u8>)], start: u64, end: u64, codec: Codec) -> (PartRef, Vec<u8>) {
    let mut writer = PartWriter::new(FileId::Main, start, codec).expect("writer");
    for (offset, data) in extents {
        writer.extent(Extent { file: FileId::Main, offset: *offset, data }).expect("extent");
    }
    let (part, object) = writer.finish(end).expect("finish");
    (part, object.to_vec())
}

/// The range's bytes, as a restore writes them.
fn content(object: &[u8], part: &PartRef) -> Result<Vec<u8>, SegmentError> {
    let mut bytes = vec![0; part.len as usize];
    decode_part(object, part, |extent| {
        let at = (extent.offset - part.offset) as usize;
        bytes[at..at + extent.data.len()].copy_from_slice(extent.data);
        Ok(())
    })?;
    Ok(bytes)
}

/// Pages that are all different, and none of them zero.
fn pages(count: u64, zero: impl Fn(u64) -> bool) -> Vec<(u64, Vec<u8>)> {
    let page = |number: u64| (8192 + number * 512, (1..=512).map(|at: u64| (at * number + 1) as u8).collect());
    (0..count).filter(|&number| !zero(number)).map(page).collect()
}

fn manifest() -> (Manifest, Vec<u64>) {
    let grid = PageGrid::new(0, 512).expect("valid grid");
    let hashes: Vec<u64> = (0..200).map(|page| page_hash(page, &[page as u8; 512])).collect();
    let sum = PageMap::from_hashes(grid, hashes.clone()).sum();
    let part =
        |file, offset, len| PartRef { file, offset, len, hash: PartHash(u128::from(offset) << 70 | 5), stored_len: 99 };
    let commit = Commit {
        txid: Txid(9),
        time: TimeMs(1_700_000_000_000),
        lengths: Lengths { main: 200 * 512, wal: 0 },
        checksum: sum,
        kind: CommitKind::Captured,
        grid,
    };
    let parts = vec![part(FileId::Main, 0, 51_200), part(FileId::Main, 51_200, 60_000), part(FileId::Wal, 0, 77)];
    let manifest = Manifest {
        generation: Generation(5 << 20),
        term: Term(3),
        engine: EngineKind::Sqlite,
        base: Txid(7),
        commit,
        parts,
        position: b"here".to_vec(),
        layers: Layers::default(),
    };
    (manifest, hashes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// A part's content comes back, and its name depends on the content alone: not on how it was cut into extents, whether
    /// zeros were left out, or on the codec.
    #[test]
    fn a_part_is_named_by_its_content(count in 1u64..900, hole in 0u64..900) {
        let (start, end) = (8192, 8192 + count * 512);
        let expected: Vec<u8> = pages(count, |_| false).into_iter().flat_map(|(_, data)| data).collect();
        let with_hole: Vec<u8> = expected.iter().enumerate()
            .map(|(at, &byte)| if at as u64 / 512 == hole { 0 } else { byte }).collect();
        let (left_out, object) = part(&pages(count, |number| number == hole), start, end, Codec::Zstd { level: 1 });
        prop_assert_eq!(content(&object, &left_out).expect("readable"), with_hole.clone());
        let (written, object) = part(&[(start, with_hole.clone())], start, end, Codec::Stored);
        prop_assert_eq!(content(&object, &written).expect("readable"), with_hole);
        prop_assert_eq!(written.hash, left_out.hash);
        let (other, _) = part(&[(start, expected.clone())], start, end, Codec::Lz4);
        prop_assert_eq!(other.hash == written.hash, hole >= count);
        let mut moved = PartWriter::new(FileId::Wal, start, Codec::Lz4).expect("writer");
        moved.extent(Extent { file: FileId::Wal, offset: start, data: &expected }).expect("extent");
        prop_assert_ne!(moved.finish(end).expect("finish").0.hash, other.hash);
    }
}

/// A flip of any byte of a part is seen, with every codec and with no content at all.
#[test]
fn every_flipped_byte_of_a_part_is_detected() {
    for codec in [Codec::Stored, Codec::Lz4, Codec::Zstd { level: 3 }] {
        for count in [0, 4] {
            let (part, object) = part(&pages(count, |_| false), 8192, 8192 + 2048, codec);
            content(&object, &part).expect("whole");
            for at in 0..object.len() {
                for flip in [0x01, 0x80, 0xFF] {
                    let mut damaged = object.clone();
                    damaged[at] ^= flip;
                    assert!(content(&damaged, &part).is_err(), "byte {at}");
                }
                assert!(content(&object[..at], &part).is_err());
                assert!(content(&object[at + 1..], &part).is_err());
            }
        }
    }
}

/// A part under another part's name is refused, and extents out of order never become one.
#[test]
fn parts_are_checked_against_their_name() {
    let (right, object) = part(&pages(4, |_| false), 8192, 10_240, Codec::Lz4);
    assert_eq!(read_part_ref(&object).expect("readable"), right);
    for wrong in [
        PartRef { offset: 0, ..right },
        PartRef { len: right.len + 1, ..right },
        PartRef { hash: PartHash(right.hash.0 ^ 1), ..right },
        PartRef { file: FileId::Wal, ..right },
    ] {
        assert!(matches!(content(&object, &wrong), Err(SegmentError::Misnamed { .. })));
    }
    let mut writer = PartWriter::new(FileId::Main, 8192, Codec::Lz4).expect("writer");
    let extent = |offset| Extent { file: FileId::Main, offset, data: &[1; 100] };
    assert!(matches!(writer.extent(extent(8000)), Err(SegmentError::Refused(_))));
    writer.extent(extent(9000)).expect("in order");
    assert!(matches!(writer.extent(extent(9050)), Err(SegmentError::Refused(_))));
    assert!(matches!(writer.extent(extent(8192 + MAX_PART_BYTES)), Err(SegmentError::Refused(_))));
    assert!(matches!(writer.finish(9099), Err(SegmentError::Refused(_))));
}

/// A manifest comes back, whole and from its tail, also with more page hashes than one block holds.
#[test]
fn a_manifest_round_trips() {
    let (small, hashes) = manifest();
    let object = small.encode(&hashes).expect("encode");
    assert_eq!(Manifest::decode(&object).expect("decode"), (small.clone(), hashes));
    assert_eq!(Manifest::from_tail(&object[100..], object.len() as u64).expect("tail"), Tail::Whole(small.clone()));

    let mut large = small;
    let hashes: Vec<u64> = (0..300_001u64).map(|page| page << 17).collect();
    large.commit.lengths.main = 512 * 300_000 + 1;
    large.commit.checksum = hashes.iter().fold(0, |sum, hash| sum ^ hash);
    let object = large.encode(&hashes).expect("encode");
    assert_eq!(Manifest::decode(&object).expect("decode"), (large.clone(), hashes));
    let tail = &object[object.len() - TAIL_READ_BYTES as usize..];
    assert_eq!(Manifest::from_tail(tail, object.len() as u64).expect("tail"), Tail::Whole(large));
}

/// A flip of any byte of a manifest, its page hashes included, is seen.
#[test]
fn every_flipped_byte_of_a_manifest_is_detected() {
    let (manifest, hashes) = manifest();
    let object = manifest.encode(&hashes).expect("encode");
    for at in 0..object.len() {
        for flip in [0x01, 0x80, 0xFF] {
            let mut damaged = object.to_vec();
            damaged[at] ^= flip;
            assert!(Manifest::decode(&damaged).is_err(), "byte {at}");
        }
        assert!(Manifest::decode(&object[..at]).is_err());
        assert!(Manifest::decode(&object[at + 1..]).is_err());
    }
}

/// A manifest that contradicts itself is not written.
#[test]
fn loss_26_a_contradictory_manifest_is_refused() {
    let (good, hashes) = manifest();
    assert!(matches!(good.encode(&hashes[1..]), Err(SegmentError::Refused(_))));
    let mut other = hashes.clone();
    other[5] ^= 1;
    assert!(matches!(good.encode(&other), Err(SegmentError::Refused(_))));
    let mut gap = good.clone();
    gap.parts[1].offset += 1;
    let mut late = good.clone();
    late.base = Txid(10);
    let mut long = good.clone();
    long.position = vec![0; 5000];
    let mut doubled = good.clone();
    doubled.parts.push(good.parts[0]);
    for bad in [gap, late, long, doubled] {
        assert!(matches!(bad.encode(&hashes), Err(SegmentError::Refused(_))));
    }
}

/// Objects of one kind are not read as another.
#[test]
fn kinds_are_told_apart() {
    let (manifest, hashes) = manifest();
    let object = manifest.encode(&hashes).expect("encode");
    assert!(matches!(SegmentReader::open(object.clone()), Err(SegmentError::WrongKind { expected: 1, found: 3 })));
    assert!(matches!(read_part_ref(&object), Err(SegmentError::WrongKind { expected: 2, found: 3 })));
}

type Extents = Vec<(u64, Vec<u8>)>;

/// Every third page from `first` on, none of them zero but the last.
fn patch(first: u64, count: u64) -> (PatchRef, Vec<u8>, Extents) {
    let page = |n: u64| (first + n * 1536, vec![if n + 1 == count { 0 } else { n as u8 + 1 }; 512]);
    let extents: Vec<(u64, Vec<u8>)> = (0..count).map(page).collect();
    let mut writer = PatchWriter::new(Codec::Lz4).expect("writer");
    extents.iter().for_each(|(offset, data)| writer.extent(*offset, data).expect("extent"));
    let (patch, object) = writer.finish().expect("finish").expect("not empty");
    (patch, object.to_vec(), extents)
}

fn decoded(object: &[u8], patch: &PatchRef) -> Result<Vec<(u64, Vec<u8>)>, SegmentError> {
    let mut extents = Vec::new();
    decode_patch(object, patch, |extent| {
        extents.push((extent.offset, extent.data.to_vec()));
        Ok(())
    })?;
    Ok(extents)
}

/// A patch comes back as it was written, zeros too; its name does not depend on how it was cut; every flipped byte and every
/// other length is refused, and so is a part in its place.
#[test]
fn a_patch_is_its_extents() {
    let (whole, object, extents) = patch(8192, 20);
    assert_eq!(decoded(&object, &whole).expect("whole"), extents);
    assert_eq!(read_patch_ref(&object).expect("readable"), whole);
    let mut cut = PatchWriter::new(Codec::Stored).expect("writer");
    for (offset, data) in &extents {
        cut.extent(*offset, &data[..100]).expect("extent");
        cut.extent(*offset + 100, &data[100..]).expect("extent");
    }
    let (same, _) = cut.finish().expect("finish").expect("not empty");
    assert_eq!(same.hash, whole.hash);
    assert_ne!(patch(8192 + 512, 20).0.hash, whole.hash);
    for at in 0..object.len() {
        for flip in [1u8, 0x80, 0xFF] {
            let mut broken = object.clone();
            broken[at] ^= flip;
            assert!(decoded(&broken, &whole).is_err(), "byte {at}");
        }
        assert!(decoded(&object[..at], &whole).is_err(), "{at} bytes");
    }
    let (part, of_part) = part(&extents, 8192, 8192 + 65536, Codec::Lz4);
    assert!(matches!(decoded(&of_part, &whole), Err(SegmentError::WrongKind { expected: 4, found: 2 })));
    assert!(matches!(decode_part(&object, &part, |_| Ok(())), Err(SegmentError::WrongKind { expected: 2, found: 4 })));
    let mut writer = PatchWriter::new(Codec::Lz4).expect("writer");
    writer.extent(4096, &[1; 512]).expect("extent");
    assert!(writer.extent(4100, &[1]).is_err() && writer.extent(8192, &[]).is_err());
    assert!(PatchWriter::new(Codec::Lz4).expect("writer").finish().expect("finish").is_none());
}

/// What lies over parts comes back; only a manifest with patches asks for a newer reader; what contradicts itself is refused.
#[test]
fn layers_come_back() {
    let (mut manifest, hashes) = manifest();
    let versions = |manifest: &Manifest| {
        let object = manifest.encode(&hashes).expect("encodes");
        assert_eq!(Manifest::decode(&object).expect("decodes").0, *manifest);
        (object[6], object[8])
    };
    assert_eq!(versions(&manifest), (1, 1));
    manifest.layers.differing = Some(Vec::new());
    assert_eq!(versions(&manifest), (2, 1));
    manifest.layers.differing = Some(vec![PageRun { first: 0, count: 2 }, PageRun { first: 9, count: 1 }]);
    assert_eq!(versions(&manifest), (2, 1));
    let parts = manifest.main_parts().len();
    manifest.layers.patches = vec![patch(0, 3).0, patch(512, 9).0];
    manifest.layers.over = (0..parts).map(|n| Over { first_patch: n % 3, bytes: n as u64 * 512 }).collect();
    assert_eq!(versions(&manifest), (2, 2));
    manifest.layers.differing = None;
    assert_eq!(versions(&manifest), (2, 2));
    let refused = |change: &dyn Fn(&mut Layers)| {
        let mut wrong = manifest.clone();
        change(&mut wrong.layers);
        assert!(matches!(wrong.encode(&hashes), Err(SegmentError::Refused(_))), "{:?}", wrong.layers);
    };
    refused(&|layers| _ = layers.over.pop());
    refused(&|layers| layers.over[0].first_patch = 3);
    refused(&|layers| layers.patches.clear());
    refused(&|layers| layers.patches[0].len = 0);
    refused(&|layers| layers.patches[0].offset = u64::MAX);
    let run = |first, count| PageRun { first, count };
    refused(&|layers| layers.differing = Some(vec![run(5, 2), run(6, 1)]));
    refused(&|layers| layers.differing = Some(vec![run(5, 0)]));
}

/// Only what lies over parts that are not newer than the patch counts, cut at their bounds.
#[test]
fn pieces_lie_over_parts() {
    let part = |offset| PartRef { file: FileId::Main, offset, len: 100, hash: PartHash(1), stored_len: 9 };
    let parts = [part(0), part(100), part(200)];
    let over = [0, 2, 1].map(|first_patch| Over { first_patch, bytes: 1 });
    let pieces = |number, offset, data: &[u8]| {
        let mut found = Vec::new();
        let extent = Extent { file: FileId::Main, offset, data };
        pieces_over(&parts, &over, number, extent, |piece| {
            found.push((piece.offset, piece.data.len()));
            Ok(())
        })
        .expect("taken");
        found
    };
    assert_eq!(pieces(2, 50, &[1; 300]), [(50, 50), (100, 100), (200, 100)]);
    assert_eq!(pieces(1, 50, &[1; 300]), [(50, 50), (200, 100)]);
    assert_eq!(pieces(0, 100, &[1; 10]), []);
    assert_eq!(pieces(0, 300, &[1; 10]), []);
}
