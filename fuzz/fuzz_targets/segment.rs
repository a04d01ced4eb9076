//! Any bytes, through everything that reads stored objects. Under the fuzzer, checksums are taken as right (`frame.rs`), so that
//! changed bytes reach what stands behind them.
//!
//! `cargo +nightly fuzz run segment fuzz/corpus/segment fixtures/segment -- -malloc_limit_mb=768 -max_len=65536`

#![no_main]

use std::io::Cursor;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use replicate::extent::Extent;
use replicate::position::Txid;
use replicate::segment::{
    Codec, Index, MAX_BLOCK_BYTES, MAX_FILE_BYTES, Manifest, Op, SegmentReader, Tail, decode_part, decode_patch,
    read_part_ref, read_patch_ref, salvage,
};

fn check_extent(extent: &Extent<'_>) {
    assert!(!extent.data.is_empty() && extent.offset + extent.data.len() as u64 <= MAX_FILE_BYTES);
}

fn read_segment(reader: &SegmentReader) {
    let index = reader.index();
    let mut last = Txid::ZERO;
    for (number, block) in reader.blocks().enumerate() {
        assert!(index.blocks[number].raw_len <= MAX_BLOCK_BYTES);
        let Ok(block) = block else { continue };
        for op in block.ops() {
            match op {
                Ok(Op::Extent(extent)) => check_extent(&extent),
                Ok(Op::Page { page, .. }) => assert!(index.header.grid.offset(page) < MAX_FILE_BYTES),
                Ok(Op::Commit(txid)) => {
                    assert!(txid > last && index.commit(txid).is_some());
                    last = txid;
                }
                Err(_) => break,
            }
        }
    }
    if reader.verify().is_ok() {
        assert_eq!(last, index.last().txid);
        assert!(index.at_or_before(index.last().time).is_some());
        let _ = index.check_name(&index.name());
    }
}

/// What was salvaged is a whole segment when it is finished.
fn salvage_segment(data: &[u8]) {
    let Ok(Some(mut writer)) = salvage(Cursor::new(data.to_vec()), Codec::Lz4) else { return };
    let summary = writer.finish().expect("salvaged commits can be finished");
    let bytes = writer.into_file().into_inner();
    assert_eq!(summary.len, bytes.len() as u64);
    let reader = SegmentReader::open(Bytes::from(bytes)).expect("what was salvaged is readable");
    reader.verify().expect("what was salvaged is whole");
}

fuzz_target!(|data: &[u8]| {
    if let Ok(reader) = SegmentReader::open(Bytes::copy_from_slice(data)) {
        read_segment(&reader);
    }
    if let Ok(Tail::ReadFrom(offset)) = Index::from_tail(data, data.len() as u64 + 4096) {
        assert!(offset < 4096 + data.len() as u64);
    }
    salvage_segment(data);
    if let Ok((manifest, hashes)) = Manifest::decode(data) {
        let again = manifest.encode(&hashes).expect("what was read can be written");
        assert_eq!(Manifest::decode(&again).expect("what was written can be read"), (manifest, hashes));
    }
    if let Ok(part) = read_part_ref(data) {
        let mut end = part.offset;
        let _ = decode_part(data, &part, |extent| {
            check_extent(&extent);
            assert!(extent.offset >= end);
            end = extent.offset + extent.data.len() as u64;
            assert!(end <= part.end());
            Ok(())
        });
    }
    if let Ok(patch) = read_patch_ref(data) {
        let mut end = patch.offset;
        let _ = decode_patch(data, &patch, |extent| {
            check_extent(&extent);
            assert!(extent.offset >= end);
            end = extent.offset + extent.data.len() as u64;
            assert!(end <= patch.end());
            Ok(())
        });
    }
});
