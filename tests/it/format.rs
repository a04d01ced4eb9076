//! Golden objects: today's reader reads what was written once, and today's writer writes the same bytes.

use std::fmt::Write as _;
use std::io::Cursor;
use std::path::PathBuf;

use bytes::Bytes;
use replicate::checksum::{PageMap, page_hash};
use replicate::engine::EngineKind;
use replicate::extent::{Extent, FileId, PageGrid};
use replicate::layout::{Level, ObjectName};
use replicate::position::{Commit, CommitKind, Generation, Lengths, RepairReason, Term, TimeMs, Txid};
use replicate::segment::{
    Codec, Layers, Manifest, Op, Over, PageRun, PartRef, PartWriter, PatchRef, PatchWriter, SegmentHeader,
    SegmentReader, SegmentWriter, decode_part, decode_patch, read_part_ref, salvage,
};

const GENERATION: Generation = Generation(0x0019_A8C3_5F00_1234);
const TIME: u64 = 1_763_700_000_000;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/segment").join(name)
}

/// Compares with the golden bytes, or writes them where that was asked for.
fn golden(name: &str, found: &[u8]) {
    let path = path(name);
    let stored = std::fs::read(&path).ok();
    if stored.as_deref() == Some(found) {
        return;
    }
    assert!(std::env::var_os("UPDATE_FIXTURES").is_some(), "{name} differs from what is written today");
    std::fs::write(path, found).expect("fixtures can be written");
}

/// The golden bytes of an object that is only read; written when there is none yet.
fn golden_read_only(name: &str, found: &[u8]) -> Vec<u8> {
    if !path(name).exists() {
        golden(name, found);
    }
    std::fs::read(path(name)).expect("a golden object")
}

/// Bytes that do not compress, the same everywhere.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 42u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn header(engine: EngineKind, level: u8, grid: PageGrid, first: u64) -> SegmentHeader {
    let checksum_before = if first == 1 { 0 } else { 0x0123_4567_89AB_CDEF };
    let (generation, term, level, first) = (GENERATION, Term(3), Level(level), Txid(first));
    SegmentHeader { generation, term, engine, level, grid, first, checksum_before }
}

fn commit(txid: u64, main: u64, wal: u64, kind: CommitKind, grid: PageGrid) -> Commit {
    let checksum = txid.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    Commit { txid: Txid(txid), time: TimeMs(TIME + 250 * txid), lengths: Lengths { main, wal }, checksum, kind, grid }
}

type Writer = SegmentWriter<Cursor<Vec<u8>>>;

fn writer(header: SegmentHeader, codec: Codec) -> Writer {
    SegmentWriter::new(Cursor::default(), header, codec).expect("a writer")
}

fn write(writer: &mut Writer, pages: &[u64], extents: &[(FileId, u64, &[u8])], commit: &Commit) {
    writer.begin_transaction().expect("begins");
    for &page in pages {
        writer.page(page, page_hash(page, &[page as u8 + 1; 64])).expect("a page");
    }
    for &(file, offset, data) in extents {
        writer.extent(Extent { file, offset, data }).expect("an extent");
    }
    writer.commit(commit, format!("after {}", commit.txid.0).as_bytes()).expect("commits");
}

fn finish(mut writer: Writer) -> Vec<u8> {
    writer.finish().expect("finishes");
    writer.into_file().into_inner()
}

fn sqlite(codec: Codec) -> Vec<u8> {
    let grid = PageGrid::new(0, 512).expect("a grid");
    let mut writer = writer(header(EngineKind::Sqlite, 0, grid, 1), codec);
    write(&mut writer, &[], &[], &commit(1, 1024, 0, CommitKind::Initial, grid));
    let sparse: [(FileId, u64, &[u8]); 3] =
        [(FileId::Main, 24, &[0, 0, 0, 2]), (FileId::Main, 92, &[0, 0, 0, 2]), (FileId::Main, 700, b"a changed row")];
    write(&mut writer, &[0, 1], &sparse, &commit(2, 1024, 0, CommitKind::Captured, grid));
    writer.flush().expect("flushes");
    let repair = CommitKind::Repair(RepairReason::LogDiscarded);
    write(&mut writer, &[1], &[(FileId::Main, 512, &[7; 512])], &commit(3, 2048, 0, repair, grid));
    finish(writer)
}

fn duckdb() -> Vec<u8> {
    let grid = PageGrid::new(12288, 16384).expect("a grid");
    let mut writer = writer(header(EngineKind::Duckdb, 1, grid, 255), Codec::Lz4);
    write(
        &mut writer,
        &[],
        &[(FileId::Wal, 0, b"WAL of one"), (FileId::Wal, 10, b" commit")],
        &commit(255, 12288, 17, CommitKind::Captured, grid),
    );
    let block: Vec<u8> = (0..300_000u32).map(|at| (at / 500) as u8).collect();
    write(
        &mut writer,
        &[1, 19, 0],
        &[(FileId::Main, 12288, &block), (FileId::Main, 4096, &[9; 100])],
        &commit(256, 400_000, 0, CommitKind::Captured, grid),
    );
    finish(writer)
}

fn merged() -> Vec<u8> {
    let grid = PageGrid::new(0, 65536).expect("a grid");
    let mut writer = writer(header(EngineKind::Sqlite, 2, grid, 100), Codec::Lz4);
    write(
        &mut writer,
        &[3],
        &[(FileId::Main, 3 << 16, &[5; 1000])],
        &commit(4000, 1 << 20, 0, CommitKind::Captured, grid),
    );
    finish(writer)
}

fn part(codec: Codec, extents: &[(u64, Vec<u8>)], start: u64, end: u64) -> (PartRef, Vec<u8>) {
    let mut writer = PartWriter::new(FileId::Main, start, codec).expect("a writer");
    for (offset, data) in extents {
        writer.extent(Extent { file: FileId::Main, offset: *offset, data }).expect("in order");
    }
    let (part, object) = writer.finish(end).expect("finishes");
    (part, object.to_vec())
}

/// What is in a segment, as the texts beside the golden objects say it.
fn describe_segment(object: &[u8]) -> String {
    let reader = SegmentReader::open(Bytes::copy_from_slice(object)).expect("readable");
    reader.verify().expect("whole");
    let index = reader.index();
    let mut text = format!("name {}\n{:?}\n", ObjectName::Segment(index.name()).key(), index.header);
    for number in 0..index.blocks.len() {
        let _ = writeln!(text, "block {number}, pages {:?}", index.page_runs(number));
        for op in reader.block(number).expect("whole").ops() {
            let _ = match op.expect("whole") {
                Op::Page { page, hash } => writeln!(text, "  page {page} {hash:016x}"),
                Op::Extent(extent) => writeln!(text, "  {}", describe_extent(&extent)),
                Op::Commit(txid) => writeln!(text, "  {:?}", index.commit(txid).expect("in the index")),
            };
        }
    }
    let _ = writeln!(text, "position {:?}", String::from_utf8_lossy(&index.position));
    text
}

fn describe_extent(extent: &Extent<'_>) -> String {
    let first = &extent.data[..extent.data.len().min(16)];
    format!("extent {:?} at {}: {} bytes, beginning {first:02x?}", extent.file, extent.offset, extent.data.len())
}

fn describe_part(object: &[u8]) -> String {
    let part = read_part_ref(object).expect("readable");
    let mut text = format!("{part:x?}\n");
    decode_part(object, &part, |extent| {
        let _ = writeln!(text, "  {}", describe_extent(&extent));
        Ok(())
    })
    .expect("whole");
    text
}

/// Segments of every level and both engines are read as they were meant and written as they were.
#[test]
fn golden_segments() {
    for (name, object) in [
        ("sqlite-stored", sqlite(Codec::Stored)),
        ("sqlite-lz4", sqlite(Codec::Lz4)),
        ("duckdb-lz4", duckdb()),
        ("merged-lz4", merged()),
    ] {
        golden(&format!("{name}.seg"), &object);
        golden(&format!("{name}.txt"), describe_segment(&object).as_bytes());
    }
    let zstd = golden_read_only("sqlite-zstd.seg", &sqlite(Codec::Zstd { level: 3 }));
    golden("sqlite-zstd.txt", describe_segment(&zstd).as_bytes());
}

/// A segment that a crash cut off is salvaged up to its last whole block with a commit.
#[test]
fn golden_unfinished_segment() {
    let whole = sqlite(Codec::Stored);
    let second = SegmentReader::open(Bytes::from(whole.clone())).expect("readable").index().blocks[1].offset;
    let unfinished = &whole[..second as usize + 100];
    golden("unfinished.seg", unfinished);
    let salvaged = salvage(Cursor::new(unfinished.to_vec()), Codec::Stored).expect("salvaged").expect("has commits");
    golden("unfinished.txt", describe_segment(&finish(salvaged)).as_bytes());
}

/// Parts and a manifest of them are read as they were meant and written as they were.
#[test]
fn golden_snapshot() {
    let content = [(0, noise(512)), (1024, vec![b'x'; 1000])];
    let (lz4, object) = part(Codec::Lz4, &content, 0, 4096);
    golden("part-lz4.seg", &object);
    golden("part-lz4.txt", describe_part(&object).as_bytes());
    let (zstd, object) = part(Codec::Zstd { level: 1 }, &content, 0, 4096);
    assert_eq!(zstd.hash, lz4.hash);
    let object = golden_read_only("part-zstd.seg", &object);
    golden("part-zstd.txt", describe_part(&object).as_bytes());
    let (zeros, object) = part(Codec::Lz4, &[], 4096, 6144);
    golden("part-zeros.seg", &object);
    golden("part-zeros.txt", describe_part(&object).as_bytes());

    let grid = PageGrid::new(0, 512).expect("a grid");
    let hashes: Vec<u64> = (0..12).map(|page| page_hash(page, &[page as u8; 512])).collect();
    let checksum = PageMap::from_hashes(grid, hashes.clone()).sum();
    let manifest = Manifest {
        generation: GENERATION,
        term: Term(3),
        engine: EngineKind::Sqlite,
        base: Txid(2),
        commit: Commit { checksum, ..commit(3, 6144, 0, CommitKind::Captured, grid) },
        parts: vec![lz4, zeros],
        position: b"after 3".to_vec(),
        layers: Layers::default(),
    };
    let object = manifest.encode(&hashes).expect("encodes");
    golden("manifest.seg", &object);
    let (found, found_hashes) = Manifest::decode(&object).expect("readable");
    let text = format!("{found:#x?}\n");
    let without_layers = &text[..text.find("    layers:").expect("the last field")];
    let name = ObjectName::Snapshot(found.name()).key();
    golden("manifest.txt", format!("name {name}\n{without_layers}}}\n{found_hashes:016x?}\n").as_bytes());

    let (first, second) = (patch(&[(512, vec![1; 512]), (4096, vec![2; 512])]), patch(&[(1024, vec![3; 1024])]));
    golden("patch-lz4.seg", &first.1);
    golden("patch-lz4.txt", describe_patch(&first).as_bytes());
    let over = vec![Over { first_patch: 1, bytes: 1024 }, Over { first_patch: 0, bytes: 512 }];
    let differing = Some(vec![PageRun { first: 2, count: 3 }, PageRun { first: 11, count: 1 }]);
    let layers = Layers { patches: vec![first.0, second.0], over, differing };
    let object = Manifest { layers, ..manifest }.encode(&hashes).expect("encodes");
    golden("manifest-patched.seg", &object);
    let (found, found_hashes) = Manifest::decode(&object).expect("readable");
    golden("manifest-patched.txt", format!("name {name}\n{found:#x?}\n{found_hashes:016x?}\n").as_bytes());
}

fn patch(extents: &[(u64, Vec<u8>)]) -> (PatchRef, Vec<u8>) {
    let mut writer = PatchWriter::new(Codec::Lz4).expect("a writer");
    extents.iter().for_each(|(offset, data)| writer.extent(*offset, data).expect("in order"));
    let (patch, object) = writer.finish().expect("finishes").expect("not empty");
    (patch, object.to_vec())
}

fn describe_patch((patch, object): &(PatchRef, Vec<u8>)) -> String {
    let mut text = format!("{patch:x?}\n");
    decode_patch(object, patch, |extent| {
        let _ = writeln!(text, "  {}", describe_extent(&extent));
        Ok(())
    })
    .expect("whole");
    text
}
