use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};

use super::disk::Step;
use super::*;
use crate::checksum::{PageMap, page_hash};
use crate::engine::{EngineKind, NewCommit, SinkError, TransactionSink};
use crate::extent::{Extent, FileId, PageGrid};
use crate::position::{CommitKind, Generation, Lengths};
use crate::status::Clock;

const PAGE: usize = 512;
const GENERATION: Generation = Generation(7);

fn grid() -> PageGrid {
    PageGrid::new(0, PAGE as u32).expect("a valid grid")
}

/// What a power cut leaves: names whose directory was synced, with the bytes that were synced.
#[derive(Debug, Default)]
struct Model {
    steps: usize,
    stop_at: usize,
    synced: BTreeMap<PathBuf, Vec<u8>>,
    durable: BTreeMap<PathBuf, Vec<u8>>,
}

impl Model {
    fn take(&mut self, step: Step<'_>) -> io::Result<()> {
        if self.steps >= self.stop_at {
            return Err(io::Error::other("the power is cut"));
        }
        self.steps += 1;
        match step {
            Step::Sync(path) => {
                let content = std::fs::read(path)?;
                if let Some(durable) = self.durable.get_mut(path) {
                    durable.clone_from(&content);
                }
                self.synced.insert(path.to_owned(), content);
            }
            Step::Rename { from, to } => {
                if let Some(content) = self.synced.remove(from) {
                    self.synced.insert(to.to_owned(), content);
                }
            }
            Step::Create(path) | Step::Remove(path) => drop(self.synced.remove(path)),
            Step::SyncDir(folder) => self.sync_dir(folder)?,
            Step::Write(_) | Step::SetLen(_) | Step::CreateDir(_) => {}
        }
        Ok(())
    }

    fn sync_dir(&mut self, folder: &Path) -> io::Result<()> {
        let before = std::mem::take(&mut self.durable);
        self.durable = before
            .iter()
            .filter(|(path, _)| path.parent() != Some(folder))
            .map(|(p, c)| (p.clone(), c.clone()))
            .collect();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_file() {
                let content = self.synced.get(&path).or(before.get(&path)).cloned().unwrap_or_default();
                self.durable.insert(path, content);
            }
        }
        Ok(())
    }

    fn cut(&self, root: &Path) {
        let mut files = Vec::new();
        all_files(root, &mut files);
        for path in files {
            std::fs::remove_file(path).expect("removed");
        }
        for (path, content) in &self.durable {
            std::fs::write(path, content).expect("written");
        }
    }
}

fn all_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { all_files(&path, files) } else { files.push(path) }
    }
}

fn clock() -> Clock {
    Arc::new(|| TimeMs(1000))
}

fn status() -> Status {
    Status::new("test", ["one".to_owned()], u64::MAX, clock())
}

fn open(root: &Path, limit: u64, disk: Disk) -> io::Result<Arc<Spool>> {
    Spool::open(root, limit, 1, disk, status()).map(Arc::new)
}

fn open_segment(spool: &Arc<Spool>, last: Option<ResumePoint>) -> OpenSegment {
    let origin = Origin { generation: GENERATION, engine: EngineKind::Sqlite, term: Arc::new(AtomicU32::new(1)) };
    OpenSegment::new(spool.clone(), status(), clock(), origin, last)
}

/// One transaction: some pages change, the file grows or shrinks.
fn commit(open: &mut OpenSegment, map: &mut PageMap, number: u64) -> Result<Txid, SinkError> {
    let length = 6 + number % 5;
    open.begin(grid())?;
    map.set_len(length);
    for page in [number % 4, number % 3 + 4] {
        if page < length {
            let data = vec![number as u8 + 1; PAGE];
            open.extent(Extent { file: FileId::Main, offset: page * PAGE as u64, data: &data })?;
            open.page(page, page_hash(page, &data))?;
            map.set(page, page_hash(page, &data));
        }
    }
    let lengths = Lengths { main: length * PAGE as u64, wal: 0 };
    let kind = if number == 0 { CommitKind::Initial } else { CommitKind::Captured };
    open.commit(NewCommit { lengths, checksum: map.sum(), kind, position: &number.to_le_bytes() })
}

/// What had been promised when the power was cut.
#[derive(Debug, Default)]
struct Promised {
    /// This commit and all before it were said to be durable.
    durable: u64,
    /// The page map was said to be saved as of this commit.
    saved: u64,
    /// This commit and all before it are in the replica, and may be forgotten.
    shipped: u64,
}

fn script(root: &Path, disk: Disk, maps: &mut Vec<PageMap>, promised: &mut Promised) -> Result<(), SinkError> {
    let spool = open(root, u64::MAX, disk)?;
    let mut file = PageMapFile::new(&spool);
    let mut open = open_segment(&spool, None);
    let mut map = PageMap::new(grid());
    for number in 0..9u64 {
        let txid = commit(&mut open, &mut map, number)?.0;
        maps.push(map.clone());
        if number % 3 == 1 {
            open.persist()?;
            promised.durable = txid;
        }
        if number % 4 == 2 {
            // An abandoned transaction leaves nothing.
            open.begin(grid())?;
            open.extent(Extent { file: FileId::Main, offset: 0, data: &[9; PAGE] })?;
            open.abandon();
        }
        if number % 2 == 0 {
            open.seal()?;
            promised.durable = txid;
        }
        if number % 4 == 0 {
            let point = open.last().cloned().expect("a commit");
            file.save(&point, &map, open.changes())?;
            promised.saved = txid;
            spool.set_in_page_map(file.place());
        }
        if number % 6 == 0 && number > 0 {
            promised.shipped = txid;
            spool.set_shipped(0, Some(Place { generation: GENERATION, txid: Txid(txid) }));
        }
    }
    Ok(())
}

fn check(root: &Path, maps: &[PageMap], promised: &Promised) {
    let spool = open(root, u64::MAX, Disk::default()).expect("opened");
    spool.salvage().expect("salvaged");
    let objects = spool.objects();
    for pair in objects.windows(2) {
        assert_eq!(pair[0].name.last.next(), pair[1].name.first, "{promised:?}");
        assert_eq!(pair[0].checksum, pair[1].checksum_before);
    }
    let last = objects.last().map_or(0, |object| object.name.last.0);
    assert!(last >= promised.durable || promised.durable <= promised.shipped, "{last} {promised:?}");
    if let Some(first) = objects.first() {
        assert!(first.name.first.0 <= promised.shipped + 1, "{promised:?}");
    }
    let loaded = PageMapFile::new(&spool).load(&spool).expect("read");
    assert!(loaded.is_some() || promised.saved == 0, "{promised:?}");
    if let Some((point, map)) = loaded {
        assert!(point.commit.txid.0 >= promised.durable, "{} {promised:?}", point.commit.txid.0);
        assert_eq!(map, maps[point.commit.txid.0 as usize - 1]);
        assert_eq!(point.position, (point.commit.txid.0 - 1).to_le_bytes());
    }
}

/// Stopped at any single step, by a kill or by a power cut, local state goes on with every commit that was promised to be
/// durable, with no hole, and with a page map that is proven.
#[test]
fn loss_17_a_crash_at_any_step_keeps_what_was_promised() {
    let mut stop_at = 0;
    loop {
        for is_power_cut in [false, true] {
            let directory = tempfile::tempdir().expect("a directory");
            let root = directory.path().join("state");
            std::fs::create_dir(&root).expect("made");
            let model = Arc::new(Mutex::new(Model { stop_at, ..Model::default() }));
            let hook = {
                let model = model.clone();
                Disk::with_hook(move |step| model.lock().expect("not poisoned").take(step))
            };
            let (mut maps, mut promised) = (Vec::new(), Promised::default());
            let result = script(&root, hook, &mut maps, &mut promised);
            if is_power_cut {
                model.lock().expect("not poisoned").cut(&root);
            }
            // A commit whose seal failed was handed over all the same.
            check(&root, &maps, &promised);
            if result.is_ok() && is_power_cut {
                println!("{stop_at} steps");
                assert!(stop_at > 40, "the script makes few steps: {stop_at}");
                return;
            }
        }
        stop_at += 1;
    }
}

/// The limit is kept while a transaction arrives; what was committed before stays, and can be sealed.
#[test]
fn a_full_spool_refuses_and_keeps_what_is_committed() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = open(directory.path(), 300 * 1024, Disk::default()).expect("opened");
    let mut open = open_segment(&spool, None);
    let mut map = PageMap::new(grid());
    commit(&mut open, &mut map, 0).expect("committed");
    open.begin(grid()).expect("begun");
    let page =
        |number: u64| -> Vec<u8> { (0..PAGE as u64).map(|n| (n * n * number + n * 31 + number) as u8).collect() };
    let refused = (0..100_000u64).find_map(|n| {
        let data = page(n);
        open.extent(Extent { file: FileId::Main, offset: n * PAGE as u64, data: &data }).err()
    });
    assert!(matches!(refused, Some(SinkError::Full { .. })));
    open.abandon();
    assert!(open.seal().expect("sealed"));
    assert_eq!(spool.objects().len(), 1);
    assert!(spool.used_bytes() < 10 * 1024, "{}", spool.used_bytes());
}

/// Time never goes back within a history, whatever the clock does.
#[test]
fn loss_20_a_clock_that_jumps_back_does_not_reorder() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = open(directory.path(), u64::MAX, Disk::default()).expect("opened");
    let origin = Origin { generation: GENERATION, engine: EngineKind::Sqlite, term: Arc::new(AtomicU32::new(1)) };
    let times = Mutex::new(vec![10, 5000, 20]);
    let clock: Clock = Arc::new(move || TimeMs(times.lock().expect("not poisoned").pop().unwrap_or(30)));
    let mut open = OpenSegment::new(spool, status(), clock, origin, None);
    let mut map = PageMap::new(grid());
    let mut seen = Vec::new();
    for number in 0..4 {
        commit(&mut open, &mut map, number).expect("committed");
        seen.push(open.last().expect("a commit").commit.time.0);
    }
    assert_eq!(seen, [20, 5000, 5000, 5000]);
}

/// A lagging replica does not stop capture for the others: what another one has is removed to make room.
#[test]
fn a_dead_replica_does_not_fill_the_spool_for_the_others() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = Arc::new(Spool::open(directory.path(), 2048, 2, Disk::default(), status()).expect("opened"));
    let mut file = PageMapFile::new(&spool);
    let mut open = open_segment(&spool, None);
    let mut map = PageMap::new(grid());
    for number in 0..40 {
        commit(&mut open, &mut map, number).expect("there is room");
        open.seal().expect("sealed");
        let point = open.last().cloned().expect("a commit");
        file.save(&point, &map, open.changes()).expect("saved");
        spool.set_in_page_map(file.place());
        spool.set_shipped(0, Some(point.place()));
    }
    assert!(spool.next_after(Place::ZERO).expect("some are left").name.first > Txid(1));
}
