//! A live DuckDB database being captured: what is known of it, and one look at it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::blocks::BlockSet;
use super::disk::{FileKey, MainFile, WalFile, io_error, wal_path};
use super::iteration::{Chain, Iteration};
use super::position::Position;
use super::tail::{Located, Tail, framing, header, locate, relocate};
use super::wal::{marker_at_end, scan};
use crate::checksum::PageMap;
use crate::engine::{EngineError, ExtentSink, Poll, Progress, Resume, SnapshotStart, Source, TransactionSink};
use crate::extent::PageGrid;
use crate::position::{RepairReason, Txid};

/// How soon to look again while something is in flight.
pub(super) const SOON: Duration = Duration::from_millis(20);
/// How often one poll starts over because the database moved on under it.
const MAX_RESTARTS: u32 = 50;
/// A marker after which nothing was written for so long is one that a crash left behind (DuckDB up to 1.4 keeps it).
const STALE_MARKER: Duration = Duration::from_secs(5);

/// How long a commit of an encrypted WAL that may be a marker is taken for one.
pub(super) const ENCRYPTED_MARKER: Duration = Duration::from_millis(1500);

/// Why a step ended early.
pub(super) enum Flow {
    /// The database moved on: look again at once.
    Restart,
    /// Something is in flight: look again after this.
    Wait(Duration),
    Fail(EngineError),
}

pub(super) type Step<T> = Result<T, Flow>;

/// Is what was read still valid for the iteration?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Still {
    Yes,
    Flipped,
    /// A checkpoint was announced, and a DuckDB before 2.0 may already be overwriting blocks of the iteration.
    Announced,
}

/// What a page or block becomes with a commit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    pub hash: u64,
    /// Its new key; `None` leaves the key as it is.
    pub key: Option<u64>,
}

/// The state of capture. `map` and `keys` are as of the last commit.
pub struct DuckdbSource {
    pub(super) path: PathBuf,
    pub(super) main: MainFile,
    pub(super) map: PageMap,
    /// Per block: the key of a content that is accounted for, so that nothing need be captured while the key is this.
    /// 0 when unknown.
    pub(super) keys: Vec<u64>,
    /// The iteration of the last commit; `None` while the first read or a repair is under way.
    pub(super) captured: Option<Iteration>,
    pub(super) chain: Chain,
    /// The first read: the page map is being learnt, and no commit exists.
    pub(super) learning: bool,
    pub(super) repair: Option<RepairReason>,
    /// Commits may have been folded into the newest iteration unseen.
    pub(super) unseen: bool,
    /// What could be read of the captured iteration's WAL after its end was read.
    pub(super) drained: bool,
    pub(super) tail: Tail,
    pub(super) txid: Txid,
    pub(super) since_flip: u64,
    /// Iterations that replaced a captured one since the last look was told of: each ends a checkpoint.
    pub(super) checkpoints: u64,
    /// Bytes of an earlier file with other blocks that have to be overwritten by zeros.
    pub(super) stale_len: u64,
    /// Blocks whose content in the file is not that of the page map, though no commit changed it.
    pub(super) unfit: BlockSet,
    /// The next block of a scrub that compares the file with the page map.
    pub(super) scrub: Option<u64>,
    pub(super) copy: super::snapshot::Copy,
    pub(super) marker: Option<MarkerWatch>,
    pub(super) waits: Waits,
}

/// A marker that was seen at the WAL's end, and since when nothing moved.
pub(super) struct MarkerWatch {
    wal: FileKey,
    wal_size: u64,
    modified: (i64, i64),
    since: Instant,
}

/// Since when something has been waited for that should pass in moments.
#[derive(Default)]
pub(super) struct Waits {
    /// For a WAL of another iteration to go.
    pub iteration: Option<Instant>,
    /// For a WAL entry that does not verify, at this offset.
    pub broken: Option<(u64, Instant)>,
    /// For a commit of an encrypted WAL that looks like a checkpoint's marker, at this offset.
    pub like_marker: Option<(u64, Instant)>,
    /// For checkpoints to leave time for a copy.
    pub unsettled: Option<Instant>,
    /// Before a transaction that was not whole is looked through again.
    pub rest_until: Option<Instant>,
}

impl DuckdbSource {
    pub fn open(path: &Path, resume: Option<Resume>) -> Result<DuckdbSource, EngineError> {
        let main = MainFile::open(path)?;
        let iteration = loop {
            if let Some(iteration) = main.iteration(main.head()?)? {
                break iteration;
            }
        };
        let grid = iteration.head.grid();
        let mut source = DuckdbSource {
            path: path.to_owned(),
            map: PageMap::new(grid),
            keys: Vec::new(),
            captured: None,
            chain: Chain::unknown(iteration),
            learning: resume.is_none(),
            repair: None,
            unseen: false,
            drained: false,
            tail: Tail::default(),
            txid: Txid::ZERO,
            since_flip: 0,
            checkpoints: 0,
            stale_len: 0,
            unfit: BlockSet::default(),
            scrub: None,
            copy: super::snapshot::Copy::default(),
            marker: None,
            waits: Waits::default(),
            main,
        };
        if let Some(resume) = resume {
            source.resume(resume, grid)?;
        }
        Ok(source)
    }

    /// Goes on where `resume` ended if the headers and the WAL prove it; else everything is compared with the page map.
    fn resume(&mut self, resume: Resume, grid: PageGrid) -> Result<(), EngineError> {
        self.txid = resume.txid;
        let position = Position::decode(&resume.position);
        if resume.page_map.grid() == grid {
            self.map = resume.page_map;
        } else {
            self.stale_len = resume.lengths.main;
        }
        let same_file = position.is_some_and(|position| position.file == self.main.key);
        let same_iteration = position.is_some_and(|position| position.head == self.chain.iteration.head.slots_hash());
        self.repair = Some(match resume.repair {
            Some(reason) => reason,
            None if !same_file => RepairReason::FileReplaced,
            // A moment's WAL that is gone under unchanged headers: the database is behind the replica.
            None if same_iteration => RepairReason::ReplicaAhead,
            None => RepairReason::Away,
        });
        let Some(position) = position else { return Ok(()) };
        if resume.repair.is_some() || !same_iteration || !same_file || self.stale_len > 0 {
            return Ok(());
        }
        let tail = match locate(&self.path, &self.chain.iteration)? {
            Located::File(wal) => {
                relocate(&self.path, &self.chain.iteration, wal, position.wal_len, position.wal_hash)?
            }
            Located::None => (position.wal_len == 0).then(Tail::default),
        };
        let Some(tail) = tail else { return Ok(()) };
        self.tail = tail;
        self.since_flip = position.since_flip;
        self.captured = Some(self.chain.iteration.clone());
        self.chain = Chain::level(self.chain.iteration.clone());
        self.repair = None;
        Ok(())
    }

    /// One look, from the headers on.
    fn step(&mut self, sink: &mut dyn TransactionSink, commits: &mut u64) -> Step<Poll> {
        if !self.main.is_at_path()? {
            return Err(Flow::Fail(EngineError::Gap {
                reason: RepairReason::FileReplaced,
                detail: format!("{} is another file now", self.path.display()),
            }));
        }
        self.observe()?;
        if self.needs_new_base() {
            self.drain(sink, commits)?;
            self.resolve()?;
            self.take_base(sink, commits)?;
        }
        self.refresh(sink, commits)?;
        let (again_in, is_level) = self.follow(sink, commits)?;
        self.scrub_some(*commits)?;
        Ok(Poll { commits: *commits, again_in, first_read: None, is_level, wal_bytes: 0, checkpoints: 0 })
    }

    /// Is the newest iteration another one than that of the last commit?
    fn needs_new_base(&self) -> bool {
        let same = self.captured.as_ref().is_some_and(|captured| captured.is(&self.chain.iteration.head));
        !same || !self.chain.is_level()
    }

    /// Looks at the headers; a new iteration joins the chain.
    pub(super) fn observe(&mut self) -> Step<()> {
        if self.main.slots_are(&self.chain.iteration.head)? {
            return Ok(());
        }
        let head = self.main.head()?;
        let Some(next) = self.main.iteration(head)? else { return Err(Flow::Restart) };
        let before = &self.chain.iteration;
        if next.head.grid() != before.head.grid() || next.is_encrypted() != before.is_encrypted() {
            return Err(Flow::Fail(EngineError::Gap {
                reason: RepairReason::FileReplaced,
                detail: "the file has other blocks now".into(),
            }));
        }
        if next.number() < before.number() {
            return Err(Flow::Fail(EngineError::Gap {
                reason: RepairReason::ReplicaAhead,
                detail: format!("its iteration went back from {} to {}", before.number(), next.number()),
            }));
        }
        let was_captured = self.captured.as_ref().is_some_and(|captured| captured.is(&before.head));
        // Of encrypted iterations it cannot be told whether they follow each other: their WAL alone shows what was missed.
        let can_tell = !next.is_encrypted();
        let exact = self.chain.advance(next);
        let seen_whole = exact && was_captured;
        if can_tell && !seen_whole {
            self.unseen = true;
            // A key is a strong hint, not a proof: the whole of every block is compared when there is time.
            self.scrub = (!exact && !self.learning).then_some(0).or(self.scrub);
        }
        Ok(())
    }

    /// Proves after reading that what was read belongs to the chain's iteration.
    pub(super) fn still(&mut self) -> Step<Still> {
        if !self.main.slots_are(&self.chain.iteration.head)? {
            return Ok(Still::Flipped);
        }
        if self.chain.iteration.head.older_than_2_0() && self.checkpoint_is_announced()? {
            return Ok(Still::Announced);
        }
        Ok(Still::Yes)
    }

    /// Does the WAL end with the marker of a checkpoint that is under way?
    pub(super) fn checkpoint_is_announced(&mut self) -> Step<bool> {
        let Some(meta_block) = self.chain.iteration.meta_block() else { return Ok(false) };
        let Some(wal) = WalFile::open(&wal_path(&self.path))? else { return Ok(false) };
        let size = wal.size()?;
        let marker = marker_at_end(&wal, size).map_err(io_error("cannot read the WAL"))?;
        if marker.is_none_or(|marker| marker.meta_block == meta_block) || !self.main.is_held()? {
            self.marker = None;
            return Ok(false);
        }
        let modified = self.main.modified()?;
        let now = Instant::now();
        let same = |watch: &MarkerWatch| (watch.wal, watch.wal_size, watch.modified) == (wal.key, size, modified);
        match &self.marker {
            Some(watch) if same(watch) => Ok(now.duration_since(watch.since) < STALE_MARKER),
            _ => {
                self.marker = Some(MarkerWatch { wal: wal.key, wal_size: size, modified, since: now });
                Ok(true)
            }
        }
    }

    /// Does an encrypted WAL end with what may be a marker? Either a checkpoint is under way, or it has just ended and the
    /// WAL is about to go; both pass within moments.
    pub(super) fn encrypted_marker(&mut self) -> Step<bool> {
        let Some(wal) = WalFile::open(&wal_path(&self.path))? else { return Ok(false) };
        let (Some(head), size) = (header(&wal)?, wal.size()?) else { return Ok(false) };
        let framing = framing(&self.chain.iteration, &head)?;
        let found = scan(&wal, framing, head.len, size, u64::MAX).map_err(io_error("cannot read the WAL"))?;
        if !found.commits.last().is_some_and(|last| last.like_marker) || !self.main.is_held()? {
            return Ok(false);
        }
        let seen = (wal.key, size, (0, 0));
        match &self.marker {
            Some(watch) if (watch.wal, watch.wal_size, watch.modified) == seen => {
                Ok(watch.since.elapsed() < ENCRYPTED_MARKER)
            }
            _ => {
                let (wal, wal_size, modified) = seen;
                self.marker = Some(MarkerWatch { wal, wal_size, modified, since: Instant::now() });
                Ok(true)
            }
        }
    }

    pub(super) fn key(&self, block: u64) -> u64 {
        usize::try_from(block).ok().and_then(|block| self.keys.get(block)).copied().unwrap_or(0)
    }

    pub(super) fn set_key(&mut self, block: u64, key: u64) {
        let block = usize::try_from(block).expect("a block number fits");
        if block >= self.keys.len() {
            self.keys.resize(block + 1, 0);
        }
        self.keys[block] = key;
    }

    /// Length of the main file as of the last commit.
    pub(super) fn main_len(&self) -> u64 {
        if self.map.is_empty() { 0 } else { self.map.grid().offset(self.map.len()) }
    }
}

impl Source for DuckdbSource {
    fn poll(&mut self, sink: &mut dyn TransactionSink) -> Result<Poll, EngineError> {
        let mut commits = 0;
        let mut poll =
            Poll { commits, again_in: Some(SOON), first_read: None, is_level: false, wal_bytes: 0, checkpoints: 0 };
        for _ in 0..MAX_RESTARTS {
            match self.step(sink, &mut commits) {
                Ok(done) => poll = done,
                Err(Flow::Restart) => continue,
                Err(Flow::Wait(pause)) => poll.again_in = Some(pause),
                // What was read is gone before it could be handed on; the next look finds out why.
                Err(Flow::Fail(EngineError::Busy(_))) if self.waits.unsettled.is_none() => {}
                Err(Flow::Fail(error)) => return Err(error),
            }
            break;
        }
        if self.learning {
            let total = self.chain.iteration.used().len();
            let left = (self.chain.unsure.len() + self.chain.dirty.len()).min(total);
            let bytes = u64::from(self.map.grid().size);
            poll.first_read = Some(((total - left) * bytes, total * bytes));
        }
        poll.commits = commits;
        poll.checkpoints = std::mem::take(&mut self.checkpoints);
        poll.wal_bytes = std::fs::metadata(wal_path(&self.path)).map_or(0, |metadata| metadata.len());
        Ok(poll)
    }

    fn snapshot_start(&mut self) -> Result<SnapshotStart, EngineError> {
        self.start_copy()
    }

    fn snapshot_slice(&mut self, sink: &mut dyn ExtentSink) -> Result<Progress, EngineError> {
        self.copy_slice(sink)
    }

    fn page_map(&self) -> Option<&PageMap> {
        (self.txid > Txid::ZERO).then_some(&self.map)
    }
}
