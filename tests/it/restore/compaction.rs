//! Restores from replicas whose segments were compacted by chance: before, during and after, and without what is covered.

use std::io::Cursor;

use replicate::compaction::{Input, Order, compact};
use replicate::inventory::{Inventory, Listed};
use replicate::layout::{Level, ObjectName, SegmentName};
use replicate::position::{Generation, Term};
use replicate::segment::{SegmentFile, SegmentReader};

use super::history::{Random, put};
use super::*;

/// Takes what a writer writes; the test keeps the bytes.
#[derive(Default)]
struct Shared(Arc<std::sync::Mutex<Cursor<Vec<u8>>>>);

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Cursor<Vec<u8>>> {
        self.0.lock().expect("one thread")
    }
}

impl std::io::Read for Shared {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.lock().read(buffer)
    }
}

impl std::io::Write for Shared {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.lock().write(data)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl std::io::Seek for Shared {
    fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
        self.lock().seek(to)
    }
}

impl SegmentFile for Shared {
    fn set_len(&mut self, len: u64) -> std::io::Result<()> {
        SegmentFile::set_len(&mut *self.lock(), len)
    }
}

pub async fn inventory(store: &Arc<dyn Store>, generation: Generation) -> Inventory {
    replicate::replica::Replica::new(store.clone()).inventory(generation).await.expect("listed")
}

pub fn of_level(inventory: &Inventory, level: u8) -> Vec<Listed<SegmentName>> {
    inventory.segments.iter().filter(|segment| segment.name.level == Level(level)).copied().collect()
}

/// Makes segments of `level` of those below it, of a few at a time; often not to the end.
pub async fn raise(store: &Arc<dyn Store>, generation: Generation, level: u8, random: &mut Random) {
    let held = inventory(store, generation).await;
    let folder = scratch();
    let end = of_level(&held, level).last().map_or(Txid::ZERO, |segment| segment.name.last);
    let mut waiting: Vec<Input> = Vec::new();
    for (number, segment) in of_level(&held, level - 1).into_iter().filter(|s| s.name.first > end).enumerate() {
        let bytes = store.get(&ObjectName::Segment(segment.name).key(), None).await.expect("read");
        let path = folder.path().join(number.to_string());
        std::fs::write(&path, bytes).expect("written");
        waiting.push(Input { segment, path });
    }
    let mut waiting = &waiting[..];
    while !waiting.is_empty() && !random.one_in(8) {
        let together = (1 + random.below(6) as usize).min(waiting.len());
        let term = held.segments.iter().map(|segment| segment.name.term).max().unwrap_or(Term(1));
        let file = Shared::default();
        let bytes = file.0.clone();
        let order = Order { level: Level(level), term };
        let done = compact(order, &waiting[..together], file, &|| false).expect("compacted");
        let bytes = std::mem::take(bytes.lock().expect("one thread").get_mut());
        SegmentReader::open(bytes.clone().into()).expect("a segment").verify().expect("sound");
        put(&**store, &ObjectName::Segment(done.segment.name).key(), bytes).await;
        waiting = &waiting[done.inputs..];
    }
}

/// Does a snapshot need it to become exact? Copies of these histories begin at most five commits before they end.
pub fn is_needed(model: &GenerationModel, name: &SegmentName) -> bool {
    model.snapshots.iter().any(|txid| name.first <= *txid && name.last.0 + 5 > txid.0)
}

/// Removes what a higher level covers, but for what a snapshot needs to become exact.
async fn remove_covered(store: &Arc<dyn Store>, generation: Generation, level: u8, model: &GenerationModel) {
    let held = inventory(store, generation).await;
    let end = of_level(&held, level + 1).last().map_or(Txid::ZERO, |segment| segment.name.last);
    let is_needed = |name: &SegmentName| level > 0 && is_needed(model, name);
    let covered = of_level(&held, level).into_iter().filter(|s| s.name.last <= end && !is_needed(&s.name));
    let keys: Vec<_> = covered.map(|segment| ObjectName::Segment(segment.name).key()).collect();
    store.delete(&keys).await.expect("deleted");
}

/// Restores each of these commits and compares it with the model.
pub async fn are_exact(
    store: &Arc<dyn Store>,
    model: &GenerationModel,
    txids: impl Iterator<Item = u64>,
    what: &str,
) -> u64 {
    let folder = scratch();
    let mut count = 0;
    for txid in txids {
        let at = format!("{}/{txid}", model.generation);
        let bytes = bytes_at(store, folder.path(), &at).await;
        let bytes = bytes.unwrap_or_else(|error| panic!("{what}, {at}: {}", error.report()));
        assert!(bytes == model.at(txid).content, "{what}, {at}: other bytes");
        count += 1;
    }
    count
}

/// Random histories with fuzzy snapshots, other page sizes, other terms and new generations, compacted by chance: every commit
/// that any level holds is exact, whatever else is there or gone, and a verification finds nothing wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compacted_histories_restore_exactly() {
    let mut points = 0;
    for seed in 700..708 {
        let writer = history(seed, 1 + seed % 2, 60).await;
        let (store, mut random) = (store_of(&writer), Random(seed));
        for model in &writer.models {
            let (generation, oldest) = (model.generation, oldest(model).0);
            let all = oldest..=model.newest().commit.txid.0;
            for level in 1..=3 {
                raise(&store, generation, level, &mut random).await;
                points +=
                    are_exact(&store, model, all.clone().step_by(3), &format!("seed {seed}, up to level {level}"))
                        .await;
            }
            remove_covered(&store, generation, 0, model).await;
            points += are_exact(&store, model, all.clone(), &format!("seed {seed}, without level 0")).await;
            let said = verify::deep(&store).await;
            assert_eq!(said["findings"].as_array().map(Vec::len), Some(0), "seed {seed}: {said:#}");
            for level in 1..=2 {
                remove_covered(&store, generation, level, model).await;
                let held = inventory(&store, generation).await;
                let ends = held.segments.iter().map(|segment| segment.name.last.0).filter(|&last| last >= oldest);
                let ends: std::collections::BTreeSet<u64> = ends.chain([*all.end()]).collect();
                points +=
                    are_exact(&store, model, ends.into_iter(), &format!("seed {seed}, without level {level}")).await;
                let said = verify::deep(&store).await;
                assert_eq!(said["findings"].as_array().map(Vec::len), Some(0), "seed {seed}: {said:#}");
            }
        }
    }
    assert!(points > 1000, "{points}");
}

/// Bytes of memory that this process took at most.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") * 1024
}

/// Prints what a large join and a large merge take: 64 segments of 1,000 commits, each of which changes 40 runs of bytes in a
/// database of 1 GiB, and 64 segments of 16 MiB that do not compress.
#[test]
#[ignore = "a measurement"]
fn measure_large_jobs() {
    use replicate::engine::EngineKind;
    use replicate::extent::{Extent, FileId, PageGrid};
    use replicate::position::{Commit, CommitKind, Lengths};
    use replicate::segment::{Codec, SegmentHeader, SegmentWriter};
    let grid = PageGrid::new(0, 4096).expect("a grid");
    let lengths = Lengths { main: 1 << 30, wal: 0 };
    for (what, commits, runs, length) in [("sparse", 1000u64, 40u64, 60usize), ("bulk", 16, 256, 4096)] {
        let folder = tempfile::tempdir().expect("a directory");
        let mut random = Random(1);
        let inputs: Vec<Input> = (0..64u64)
            .map(|number| {
                let path = folder.path().join(number.to_string());
                let file = std::fs::File::options().read(true).write(true).create_new(true).open(&path).expect("made");
                let first = Txid(number * commits + 1);
                let (generation, term, engine) = (Generation(1), Term(1), EngineKind::Sqlite);
                let header = SegmentHeader {
                    generation,
                    term,
                    engine,
                    level: Level(0),
                    grid,
                    first,
                    checksum_before: first.0 - 1,
                };
                let mut writer = SegmentWriter::new(file, header, Codec::for_deltas()).expect("a writer");
                for txid in first.0..first.0 + commits {
                    writer.begin_transaction().expect("begin");
                    for _ in 0..runs {
                        let data: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
                        let page = random.below((1 << 30) / 4096);
                        let within = random.below(4096 - length as u64 + 1);
                        writer.page(page, random.next()).expect("page");
                        let extent = Extent { file: FileId::Main, offset: page * 4096 + within, data: &data[..length] };
                        writer.extent(extent).expect("extent");
                    }
                    let time = TimeMs(txid);
                    let (txid, kind, checksum) = (Txid(txid), CommitKind::Captured, txid);
                    writer.commit(&Commit { txid, time, lengths, checksum, kind, grid }, &[]).expect("commit");
                }
                let summary = writer.finish().expect("finished");
                Input { segment: Listed { name: summary.name, size: summary.len }, path }
            })
            .collect();
        let read: u64 = inputs.iter().map(|input| input.segment.size).sum();
        for level in [1, 2] {
            let path = folder.path().join(format!("out{level}"));
            let file = std::fs::File::options().read(true).write(true).create_new(true).open(&path).expect("made");
            let before = std::time::Instant::now();
            let order = Order { level: Level(level), term: Term(1) };
            let done = compact(order, &inputs, file, &|| false).expect("compacted");
            println!(
                "{what}, level {level}: {} MiB in, {} MiB out, {:.1} s, peak memory of the process {} MiB",
                read >> 20,
                done.segment.size >> 20,
                before.elapsed().as_secs_f64(),
                peak_memory() >> 20
            );
        }
    }
}
