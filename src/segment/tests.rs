//! Round trips, every single damage, and bounds.

use std::io::Cursor;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::extent::{Extent, FileId};
use crate::position::{Commit, CommitKind, Lengths, RepairReason, TimeMs};

pub(super) type Memory = Cursor<Vec<u8>>;

/// A transaction as a test states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Transaction {
    pub(super) extents: Vec<(FileId, u64, Vec<u8>)>,
    pub(super) pages: Vec<(u64, u64)>,
    pub(super) commit: Commit,
    pub(super) position: Vec<u8>,
}

pub(super) fn grid() -> PageGrid {
    PageGrid::new(0, 4096).expect("valid grid")
}

pub(super) fn header(level: u8) -> SegmentHeader {
    SegmentHeader {
        generation: Generation(0x0019_A8C3_5F00_1234),
        term: Term(7),
        engine: EngineKind::Sqlite,
        level: Level(level),
        grid: grid(),
        first: Txid(41),
        checksum_before: 0xFEED_F00D,
    }
}

pub(super) fn commit(txid: u64, time: u64, main: u64) -> Commit {
    let kind = if txid.is_multiple_of(5) { CommitKind::Repair(RepairReason::Away) } else { CommitKind::Captured };
    let checksum = txid.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    Commit { txid: Txid(txid), time: TimeMs(time), lengths: Lengths { main, wal: 0 }, checksum, kind, grid: grid() }
}

pub(super) fn write_transaction<F: SegmentFile>(writer: &mut SegmentWriter<F>, tx: &Transaction) {
    writer.begin_transaction().expect("begin");
    for (file, offset, data) in &tx.extents {
        writer.extent(Extent { file: *file, offset: *offset, data }).expect("extent");
    }
    for &(page, hash) in &tx.pages {
        writer.page(page, hash).expect("page");
    }
    writer.commit(&tx.commit, &tx.position).expect("commit");
}

pub(super) fn new_writer(codec: Codec) -> SegmentWriter<Memory> {
    SegmentWriter::new(Memory::default(), header(0), codec).expect("writer")
}

pub(super) fn segment(transactions: &[Transaction], codec: Codec) -> Vec<u8> {
    let mut writer = new_writer(codec);
    transactions.iter().for_each(|tx| write_transaction(&mut writer, tx));
    let summary = writer.finish().expect("finish");
    let bytes = writer.into_file().into_inner();
    assert_eq!(summary.len, bytes.len() as u64);
    bytes
}

/// Reads everything back; extents that the writer split are joined again.
pub(super) fn read_all(bytes: &[u8]) -> Result<Vec<Transaction>, SegmentError> {
    let reader = SegmentReader::open(Bytes::copy_from_slice(bytes))?;
    reader.verify()?;
    let index = reader.index();
    let mut found = Vec::new();
    let (mut extents, mut pages) = (Vec::<(FileId, u64, Vec<u8>)>::new(), Vec::new());
    for block in reader.blocks() {
        for op in block?.ops() {
            match op? {
                Op::Page { page, hash } => pages.push((page, hash)),
                Op::Extent(extent) => match extents.last_mut() {
                    Some((file, offset, data))
                        if *file == extent.file
                            && *offset + data.len() as u64 == extent.offset
                            && data.len().is_multiple_of(MAX_EXTENT_BYTES) =>
                    {
                        data.extend_from_slice(extent.data);
                    }
                    _ => extents.push((extent.file, extent.offset, extent.data.to_vec())),
                },
                Op::Commit(txid) => {
                    let commit = index.commit(txid).expect("the index has every commit").commit.clone();
                    let (extents, pages) = (std::mem::take(&mut extents), std::mem::take(&mut pages));
                    found.push(Transaction { extents, pages, commit, position: Vec::new() });
                }
            }
        }
    }
    if let Some(last) = found.last_mut() {
        last.position = index.position.clone();
    }
    Ok(found)
}

/// What reading gives: only the last position is kept.
pub(super) fn as_read(transactions: &[Transaction]) -> Vec<Transaction> {
    let mut expected = transactions.to_vec();
    let keep = expected.len().saturating_sub(1);
    expected[..keep].iter_mut().for_each(|tx| tx.position.clear());
    expected
}

pub(super) fn transactions(count: std::ops::Range<usize>, longest: usize) -> impl Strategy<Value = Vec<Transaction>> {
    let file = prop_oneof![4 => Just(FileId::Main), 1 => Just(FileId::Wal)];
    let extent = (file, 0u64..1 << 30, prop::collection::vec(0u8..4, 1..longest));
    let page = (0u64..1 << 20, any::<u64>());
    let position = prop::collection::vec(any::<u8>(), 0..60);
    let body =
        (prop::collection::vec(extent, 0..6), prop::collection::vec(page, 0..6), 0u64..5000, 0u64..1 << 40, position);
    prop::collection::vec(body, count).prop_map(|bodies| {
        let mut time = 1_700_000_000_000;
        let with_txid = |(number, (extents, pages, step, main, position))| {
            time += step;
            Transaction { extents, pages, commit: commit(41 + number as u64, time, main), position }
        };
        bodies.into_iter().enumerate().map(with_txid).collect()
    })
}

/// A few small transactions, as in a segment of one second.
pub(super) fn small() -> Vec<Transaction> {
    let tx = |txid: u64| Transaction {
        extents: vec![
            (FileId::Main, txid * 4096 + 12, vec![7; 90]),
            (FileId::Main, txid * 4096 + 300, b"some text".to_vec()),
            (FileId::Wal, 32 * txid, vec![1, 2, 3]),
        ],
        pages: vec![(txid, txid << 32 | 0xABCD)],
        commit: commit(txid, 1_700_000_000_000 + txid, 4096 * txid),
        position: format!("position {txid}").into_bytes(),
    };
    (41..47).map(tx).collect()
}

/// A large transaction between two small ones: several blocks, most of them without a commit.
pub(super) fn with_large() -> Vec<Transaction> {
    let mut all = small();
    all.truncate(3);
    let mut seed = 1u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 56) as u8
    };
    all[1].extents = vec![(FileId::Main, 8192, (0..900_000).map(|_| random()).collect())];
    all
}

const CODECS: [Codec; 3] = [Codec::Stored, Codec::Lz4, Codec::Zstd { level: 1 }];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What is written is read, with every codec.
    #[test]
    fn round_trip(all in transactions(1..12, 2000), codec in prop::sample::select(CODECS.to_vec())) {
        prop_assert_eq!(read_all(&segment(&all, codec)).expect("readable"), as_read(&all));
    }

    /// No bytes make the operations' reader panic.
    #[test]
    fn loss_26_any_operations_are_read_or_refused(raw in prop::collection::vec(prop_oneof![0u8..6, any::<u8>()], 0..300)) {
        let decoder = ops::Decoder::new(&raw, Some(grid()), 0);
        prop_assert!(decoder.count() <= raw.len());
    }
}

/// Every byte of every kind of segment is covered by a check: a flip of any of them is seen.
#[test]
fn every_flipped_byte_is_detected() {
    for codec in CODECS {
        let bytes = segment(&small(), codec);
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xFF] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                let error = read_all(&damaged).expect_err("a flipped byte was read as good");
                assert!(
                    error.is_damage() || matches!(error, SegmentError::UnsupportedVersion { .. }),
                    "byte {at}: {error}"
                );
            }
        }
    }
}

/// A segment cut short, or with bytes added or taken out anywhere, is refused.
#[test]
fn every_other_length_is_detected() {
    let bytes = segment(&small(), Codec::Lz4);
    for at in 0..bytes.len() {
        assert!(read_all(&bytes[..at]).is_err());
        assert!(read_all(&bytes[at + 1..]).is_err());
        let mut longer = bytes.clone();
        longer.insert(at, bytes[at]);
        assert!(read_all(&longer).is_err(), "byte doubled at {at}");
    }
}

/// A transaction larger than many blocks is written and read block by block; its extents are split and rejoined.
#[test]
fn a_large_transaction_round_trips() {
    for codec in CODECS {
        let all = with_large();
        let bytes = segment(&all, codec);
        assert_eq!(read_all(&bytes).expect("readable"), as_read(&all));
        let reader = SegmentReader::open(Bytes::from(bytes)).expect("open");
        assert!(reader.index().blocks.len() > 3);
        for number in 0..reader.index().blocks.len() {
            assert!(reader.index().blocks[number].raw_len <= MAX_BLOCK_BYTES);
        }
    }
}

/// Abandoned transactions leave no trace in the bytes, whether they stayed in memory or reached the file.
#[test]
fn abandoned_transactions_vanish() {
    for size in [100, 300_000, 2_000_000] {
        let all = small();
        let mut writer = new_writer(Codec::Lz4);
        for tx in &all {
            writer.begin_transaction().expect("begin");
            writer.extent(Extent { file: FileId::Main, offset: 5, data: &vec![3; size] }).expect("extent");
            writer.page(9, 9).expect("page");
            writer.abandon();
            write_transaction(&mut writer, tx);
        }
        writer.begin_transaction().expect("begin");
        writer.extent(Extent { file: FileId::Main, offset: 5, data: &vec![3; size] }).expect("extent");
        let summary = writer.finish().expect("finish");
        let bytes = writer.into_file().into_inner();
        assert_eq!(summary.len, bytes.len() as u64);
        assert_eq!(read_all(&bytes).expect("readable"), as_read(&all));
    }
}

/// The index is found with one read of the tail, or with a second one where the answer says.
#[test]
fn the_tail_gives_the_index() {
    let bytes = segment(&with_large(), Codec::Lz4);
    let length = bytes.len() as u64;
    let whole = SegmentReader::open(Bytes::from(bytes.clone())).expect("open");
    let tail = &bytes[bytes.len() - 65536..];
    assert_eq!(Index::from_tail(tail, length).expect("tail"), Tail::Whole(whole.index().clone()));
    let Tail::ReadFrom(offset) = Index::from_tail(&bytes[bytes.len() - 40..], length).expect("tail") else {
        panic!("forty bytes hold no index");
    };
    let again = Index::from_tail(&bytes[offset as usize..], length).expect("tail");
    assert_eq!(again, Tail::Whole(whole.index().clone()));
    assert_eq!(Index::from_file(&mut Cursor::new(&bytes)).expect("file"), *whole.index());
    let index = whole.index();
    assert_eq!(index.at_or_before(TimeMs(1_700_000_000_042)).map(|entry| entry.commit.txid), Some(Txid(42)));
    assert_eq!(index.at_or_before(TimeMs(1_700_000_000_040)), None);
    assert!(index.blocks_with(2).count() >= 1);
    assert_eq!(index.blocks_with(1 << 30).count(), 0);
    for number in 0..index.blocks.len() {
        let block = index.read_block(&mut Cursor::new(&bytes), number).expect("block");
        assert!(block.ops().all(|op| op.is_ok()));
    }
}

/// Merged segments hold one commit for a range of txids.
#[test]
fn a_merged_segment_has_only_the_last_commit() {
    let mut writer = SegmentWriter::new(Memory::default(), header(2), Codec::Lz4).expect("writer");
    let mut tx = small().remove(0);
    tx.commit = commit(99, 5, 4096);
    write_transaction(&mut writer, &tx);
    writer.begin_transaction().expect("begin");
    assert!(matches!(writer.commit(&commit(100, 5, 4096), b""), Err(SegmentError::Refused(_))));
    let summary = writer.finish().expect("finish");
    assert_eq!((summary.name.first, summary.name.last), (Txid(41), Txid(99)));
    let bytes = writer.into_file().into_inner();
    assert_eq!(read_all(&bytes).expect("readable").len(), 1);
}

/// A commit that cannot follow is refused and changes nothing.
#[test]
fn commits_out_of_order_are_refused() {
    let mut writer = new_writer(Codec::Stored);
    write_transaction(&mut writer, &small()[0]);
    writer.begin_transaction().expect("begin");
    let good = commit(42, 1_700_000_000_041, 4096);
    let other_grid = PageGrid::new(0, 512).expect("valid grid");
    for bad in [
        Commit { txid: Txid(43), ..good.clone() },
        Commit { txid: Txid(41), ..good.clone() },
        Commit { time: TimeMs(1_700_000_000_040), ..good.clone() },
        Commit { grid: other_grid, ..good.clone() },
        Commit { lengths: Lengths { main: MAX_FILE_BYTES + 1, wal: 0 }, ..good.clone() },
    ] {
        assert!(matches!(writer.commit(&bad, b""), Err(SegmentError::Refused(_))), "{bad:?}");
    }
    writer.commit(&good, b"").expect("good");
    assert_eq!(writer.commits().len(), 2);
}
