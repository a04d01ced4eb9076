//! Random histories through segments, joins and merges, compared with a model that simply holds every state.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;

use proptest::prelude::*;

use super::write::compact_within;
use super::*;
use crate::checksum::{PageMap, WalHash, page_hash};
use crate::engine::EngineKind;
use crate::extent::{Extent, FileId, PageGrid};
use crate::position::{Commit, CommitKind, Generation, Lengths, RepairReason, Term};
use crate::segment::{Codec, Op, SegmentHeader, SegmentReader, SegmentWriter};
use crate::spool::apply_block;

/// Content of both files after a commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Files {
    main: Vec<u8>,
    wal: Vec<u8>,
}

impl Files {
    fn of(&mut self, file: FileId) -> &mut Vec<u8> {
        if file == FileId::Main { &mut self.main } else { &mut self.wal }
    }

    fn write(&mut self, extent: &Extent<'_>) {
        let (start, end) = (extent.offset as usize, extent.offset as usize + extent.data.len());
        let file = self.of(extent.file);
        file.resize(file.len().max(end), 0);
        file[start..end].copy_from_slice(extent.data);
    }

    fn cut(&mut self, lengths: Lengths) {
        self.main.resize(lengths.main as usize, 0);
        self.wal.resize(lengths.wal as usize, 0);
    }

    fn page_map(&self, grid: PageGrid) -> PageMap {
        let pages = (0..grid.pages(self.main.len() as u64)).map(|page| {
            let start = grid.offset(page) as usize;
            let end = (start + grid.len(page) as usize).min(self.main.len());
            page_hash(page, &self.main[start..end])
        });
        PageMap::from_hashes(grid, pages.collect())
    }

    fn checksum(&self, grid: PageGrid) -> u64 {
        let mut wal = WalHash::default();
        wal.append(&self.wal);
        self.page_map(grid).sum() ^ wal.value()
    }
}

/// One change: writes, then lengths. Numbers are cut to size by the model.
#[derive(Debug, Clone)]
struct Change {
    writes: Vec<(bool, usize, usize, u8)>,
    main: Option<usize>,
    wal: Option<usize>,
    regrid: bool,
    ends_segment: bool,
}

fn change() -> impl Strategy<Value = Change> {
    let write = (any::<bool>(), 0usize..9000, 1usize..1500, any::<u8>());
    let main = prop::option::weighted(0.4, 0usize..9000);
    let wal = prop::option::weighted(0.3, prop_oneof![Just(0usize), 0usize..3000]);
    let tuple = (prop::collection::vec(write, 0..6), main, wal, prop::bool::weighted(0.03), prop::bool::weighted(0.4));
    tuple.prop_map(|(writes, main, wal, regrid, ends_segment)| Change { writes, main, wal, regrid, ends_segment })
}

struct Model {
    folder: tempfile::TempDir,
    /// `states[i]` is commit `i + 1`.
    states: Vec<(Commit, Files)>,
    /// What the history begins with: before commit 1.
    initial: Files,
    segments: Vec<Input>,
    open: Option<SegmentWriter<Cursor<Vec<u8>>>>,
}

const GRIDS: [(u32, u32); 2] = [(0, 512), (1024, 1024)];

fn keep(folder: &Path, bytes: &[u8]) -> Input {
    let reader = SegmentReader::open(bytes.to_vec().into()).expect("a segment");
    reader.verify().expect("a sound segment");
    let name = reader.index().name();
    let path = folder.join(format!("{}-{}-{}", name.level.0, name.first, name.last));
    std::fs::write(&path, bytes).expect("written");
    Input { segment: Listed { name, size: bytes.len() as u64 }, path }
}

impl Model {
    fn new(changes: &[Change]) -> Model {
        let folder = tempfile::tempdir().expect("a directory");
        let initial = Files { main: (0..4000u32).map(|at| (at / 100) as u8).collect(), wal: Vec::new() };
        let mut model = Model { folder, states: Vec::new(), initial, segments: Vec::new(), open: None };
        changes.iter().for_each(|change| model.commit(change));
        model.seal();
        model
    }

    fn commit(&mut self, change: &Change) {
        let number = self.states.len() as u64 + 1;
        let (before, grid) = match self.states.last() {
            Some((commit, files)) => (files.clone(), commit.grid),
            None => (self.initial.clone(), PageGrid::new(GRIDS[0].0, GRIDS[0].1).expect("a grid")),
        };
        let is_first = self.states.is_empty();
        let other = *GRIDS.iter().find(|&&(head, size)| (head, size) != (grid.head, grid.size)).expect("two grids");
        let regrid = change.regrid && !is_first;
        let grid = if regrid { PageGrid::new(other.0, other.1).expect("a grid") } else { grid };
        let (mut files, mut extents) = (before.clone(), Vec::new());
        for &(in_wal, offset, length, fill) in change.writes.iter().filter(|_| !is_first) {
            let file = if in_wal { FileId::Wal } else { FileId::Main };
            let data: Vec<u8> = (0..length).map(|at| fill.wrapping_add((at / 64) as u8)).collect();
            files.write(&Extent { file, offset: offset as u64, data: &data });
            extents.push((file, offset as u64, data));
        }
        if !is_first {
            files.main.resize(change.main.unwrap_or(files.main.len()), 0);
            files.wal.resize(change.wal.unwrap_or(files.wal.len()), 0);
        }
        let kind = match (is_first, regrid) {
            (true, _) => CommitKind::Initial,
            (_, true) => CommitKind::Repair(RepairReason::FileReplaced),
            _ => CommitKind::Captured,
        };
        if regrid {
            self.seal();
            extents.push((FileId::Main, 0, files.main.clone()));
        }
        let lengths = Lengths { main: files.main.len() as u64, wal: files.wal.len() as u64 };
        let time = TimeMs(1_000_000 + number * 1000);
        let commit = Commit { txid: Txid(number), time, lengths, checksum: files.checksum(grid), kind, grid };
        let (old, new) = (before.page_map(grid), files.page_map(grid));
        self.write(&commit, &extents, |page| regrid || (!is_first && old.get(page) != new.get(page)), &new);
        self.states.push((commit, files));
        if change.ends_segment {
            self.seal();
        }
    }

    fn write(
        &mut self,
        commit: &Commit,
        extents: &[(FileId, u64, Vec<u8>)],
        has_changed: impl Fn(u64) -> bool,
        map: &PageMap,
    ) {
        let checksum_before = self.states.last().map_or(0, |(commit, _)| commit.checksum);
        let writer = self.open.get_or_insert_with(|| {
            let header = SegmentHeader {
                generation: Generation(1),
                term: Term(1),
                engine: EngineKind::Duckdb,
                level: Level(0),
                grid: commit.grid,
                first: commit.txid,
                checksum_before,
            };
            SegmentWriter::new(Cursor::new(Vec::new()), header, Codec::Lz4).expect("a writer")
        });
        writer.begin_transaction().expect("begin");
        for (page, &hash) in (0..).zip(map.hashes()).filter(|&(page, _)| has_changed(page)) {
            writer.page(page, hash).expect("page");
        }
        for (file, offset, data) in extents.iter().filter(|(.., data)| !data.is_empty()) {
            writer.extent(Extent { file: *file, offset: *offset, data }).expect("extent");
        }
        writer.commit(commit, &commit.txid.0.to_le_bytes()).expect("commit");
    }

    fn seal(&mut self) {
        let Some(mut writer) = self.open.take() else { return };
        writer.finish().expect("finished");
        self.segments.push(keep(self.folder.path(), &writer.into_file().into_inner()));
    }

    fn after(&self, txid: u64) -> &Files {
        if txid == 0 { &self.initial } else { &self.states[txid as usize - 1].1 }
    }

    /// Compacts all of `inputs`, `together` at a time at most; less where the grid changes.
    fn compact(&self, level: u8, mut inputs: &[Input], together: usize, most: usize) -> Vec<Input> {
        let mut outputs = Vec::new();
        let order = Order { level: Level(level), term: Term(9) };
        while !inputs.is_empty() {
            let mut file = Cursor::new(Vec::new());
            let job = &inputs[..together.min(inputs.len())];
            let compacted = compact_within(order, job, BorrowedFile(&mut file), &|| false, most).expect("compacted");
            let output = keep(self.folder.path(), file.get_ref());
            assert_eq!(output.segment, compacted.segment);
            outputs.push(output);
            inputs = &inputs[compacted.inputs..];
        }
        outputs
    }

    /// Applies segments to a state, and compares with the model after every commit that they hold.
    fn replay(&self, mut files: Files, mut applied: u64, segments: &[Input]) {
        let mut map: Option<PageMap> = (applied > 0).then(|| {
            let (commit, files) = &self.states[applied as usize - 1];
            files.page_map(commit.grid)
        });
        for input in segments {
            let reader = SegmentReader::open(std::fs::read(&input.path).expect("read").into()).expect("a segment");
            let index = reader.index();
            let expected_before = applied.checked_sub(1).map_or(0, |at| self.states[at as usize].0.checksum);
            if index.header.first.0 == applied + 1 {
                assert_eq!(index.header.checksum_before, expected_before);
            }
            let last = &self.states[index.last().txid.0 as usize - 1].0;
            assert_eq!((index.last(), &index.position[..]), (last, &last.txid.0.to_le_bytes()[..]));
            for block in reader.blocks() {
                let block = block.expect("a block");
                for op in block.ops() {
                    match op.expect("an operation") {
                        Op::Extent(extent) => files.write(&extent),
                        Op::Page { .. } => {}
                        Op::Commit(txid) => {
                            let commit = &index.commit(txid).expect("in the index").commit;
                            let (expected, content) = &self.states[txid.0 as usize - 1];
                            files.cut(commit.lengths);
                            assert_eq!(commit, expected);
                            assert!(&files == content, "commit {} of {:?}", txid.0, input.segment.name);
                            applied = txid.0;
                        }
                    }
                }
                if let Some(map) = &mut map {
                    apply_block(map, index, &block).expect("applied");
                }
            }
            if let Some(map) = &map {
                assert_eq!(*map, self.after(applied).page_map(last.grid), "the page map after commit {applied}");
            }
        }
        assert_eq!(applied, self.states.len() as u64);
    }
}

/// The writer takes its file; a test wants it back.
struct BorrowedFile<'a>(&'a mut Cursor<Vec<u8>>);

impl std::io::Read for BorrowedFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl std::io::Write for BorrowedFile<'_> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.write(data)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl std::io::Seek for BorrowedFile<'_> {
    fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
        self.0.seek(to)
    }
}

impl crate::segment::SegmentFile for BorrowedFile<'_> {
    fn set_len(&mut self, len: u64) -> std::io::Result<()> {
        crate::segment::SegmentFile::set_len(self.0, len)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Every commit from level 1, and every end of a segment of levels 2 and 3, is what the model says: content, commit,
    /// position and page map; from the beginning, and entered in the middle from a state between two commits.
    #[test]
    fn every_level_says_the_same(
        changes in prop::collection::vec(change(), 2..40),
        together in 1usize..9,
        most in prop_oneof![4usize..40, Just(1usize << 19)],
        entered in any::<prop::sample::Index>(),
    ) {
        let model = Model::new(&changes);
        let joined = model.compact(1, &model.segments, together, most);
        let hours = model.compact(2, &joined, together, most);
        let days = model.compact(3, &hours, together, most);
        for segments in [&model.segments, &joined, &hours, &days] {
            model.replay(model.initial.clone(), 0, segments);
        }
        // A snapshot as of a commit in the middle of a merged segment of one grid: the segment is laid over it.
        let base = 1 + entered.index(model.states.len()) as u64;
        for segments in [&hours, &days] {
            let from = segments.iter().position(|input| input.segment.name.last.0 > base).unwrap_or(segments.len());
            if from < segments.len() || base == model.states.len() as u64 {
                model.replay(model.after(base).clone(), base, &segments[from..]);
            }
        }
    }
}

/// A merge holds of every place the newest bytes only, however often it was written.
#[test]
fn a_merge_holds_each_place_once() {
    let write = |fill| Change {
        writes: vec![(false, 512, 512, fill)],
        main: None,
        wal: None,
        regrid: false,
        ends_segment: fill % 7 == 0,
    };
    let model = Model::new(&(0..200).map(write).collect::<Vec<_>>());
    let merged = model.compact(2, &model.compact(1, &model.segments, 50, 1000), 50, 1000);
    assert_eq!(merged.len(), 1);
    let mut places: BTreeMap<u64, u64> = BTreeMap::new();
    let reader = SegmentReader::open(std::fs::read(&merged[0].path).expect("read").into()).expect("a segment");
    for block in reader.blocks() {
        for op in block.expect("a block").ops() {
            if let Op::Extent(extent) = op.expect("an operation") {
                *places.entry(extent.offset).or_default() += extent.data.len() as u64;
            }
        }
    }
    assert_eq!(places, BTreeMap::from([(512, 512)]));
}

/// What does not belong together, is damaged, or is to be stopped, gives no segment, and it is said which input is at fault.
#[test]
fn inputs_that_do_not_fit_are_refused() {
    let write =
        |n: u8| Change { writes: vec![(false, 0, 900, n)], main: None, wal: None, regrid: false, ends_segment: true };
    let model = Model::new(&(0..6).map(write).collect::<Vec<_>>());
    let order = Order { level: Level(1), term: Term(1) };
    let attempt = |inputs: &[Input], stop: bool| {
        compact(order, inputs, Cursor::new(Vec::new()), &|| stop).map_err(|error| (error.broken_input(), error))
    };
    assert!(attempt(&model.segments, false).is_ok());
    let hole = [model.segments[0].clone(), model.segments[2].clone()];
    assert!(matches!(attempt(&hole, false), Err((Some(1), _))));
    assert!(matches!(attempt(&model.segments, true), Err((None, CompactionError::Stopped))));
    let path = &model.segments[3].path;
    let good = std::fs::read(path).expect("read");
    for at in (0..good.len()).step_by(7).filter(|&at| at > 200) {
        let mut bytes = good.clone();
        bytes[at] ^= 8;
        std::fs::write(path, &bytes).expect("written");
        assert!(matches!(attempt(&model.segments, false), Err((Some(3), _))), "byte {at}");
    }
    std::fs::write(path, &good[..good.len() / 2]).expect("written");
    assert!(matches!(attempt(&model.segments, false), Err((Some(3), _))));
    std::fs::remove_file(path).expect("removed");
    assert!(matches!(attempt(&model.segments, false), Err((None, CompactionError::Input { number: 3, .. }))));
}
