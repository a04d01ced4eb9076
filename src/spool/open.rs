//! The open segment: where captured transactions go, and the one place that numbers and dates them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::disk::{self, DiskFile};
use super::pagemap::Changes;
use super::{Object, ResumePoint, Spool};
use crate::engine::{EngineKind, NewCommit, SinkError, TransactionSink};
use crate::extent::{Extent, PageGrid};
use crate::layout::Level;
use crate::position::{Commit, Generation, Term, TimeMs, Txid};
use crate::segment::{Codec, SegmentError, SegmentHeader, SegmentWriter, salvage};
use crate::status::{Clock, Place, Status};

/// What every segment of this process carries.
#[derive(Debug, Clone)]
pub struct Origin {
    pub generation: Generation,
    pub engine: EngineKind,
    /// The highest term that was claimed; moves when a replica that came late needs a higher one.
    pub term: Arc<AtomicU32>,
}

/// A segment's writer, and the file that it writes to, which only we make durable.
struct Writer {
    segment: SegmentWriter<DiskFile>,
    file: DiskFile,
}

/// The segment being written, and what it follows.
pub struct OpenSegment {
    spool: Arc<Spool>,
    status: Status,
    clock: Clock,
    origin: Origin,
    codec: Codec,
    path: PathBuf,
    /// `None` while there is no commit to hold: an idle database keeps no buffers.
    writer: Option<Writer>,
    /// The directory entry of the file is not durable yet.
    is_new: bool,
    /// The writer holds commits that a power cut would take.
    is_dirty: bool,
    /// When the oldest commit in it was handed over.
    since: Option<Instant>,
    /// The last commit, in this segment or before it; `None` at the beginning of a generation.
    last: Option<ResumePoint>,
    grid: Option<PageGrid>,
    /// Page hashes that are not in the page map file yet.
    changes: Changes,
}

impl OpenSegment {
    /// Goes on behind `last`. An unfinished segment must have been salvaged before.
    pub fn new(
        spool: Arc<Spool>,
        status: Status,
        clock: Clock,
        origin: Origin,
        last: Option<ResumePoint>,
    ) -> OpenSegment {
        let path = spool.state_dir().join("open.seg");
        OpenSegment {
            spool,
            status,
            clock,
            origin,
            codec: Codec::for_deltas(),
            path,
            writer: None,
            is_new: false,
            is_dirty: false,
            since: None,
            last,
            grid: None,
            changes: Changes::default(),
        }
    }

    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    pub fn last(&self) -> Option<&ResumePoint> {
        self.last.as_ref()
    }

    /// The last commit's place.
    pub fn place(&self) -> Place {
        Place {
            generation: self.origin.generation,
            txid: self.last.as_ref().map_or(Txid::ZERO, |last| last.commit.txid),
        }
    }

    /// When its oldest commit was handed over; `None` while it holds none.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Bytes of operations before compression: what `segment-size` is compared with.
    pub fn raw_bytes(&self) -> u64 {
        self.writer.as_ref().map_or(0, |writer| writer.segment.raw_bytes())
    }

    pub fn changes(&mut self) -> &mut Changes {
        &mut self.changes
    }

    /// Finishes the segment and puts it into the spool, durably. `false` when it held no commit. After an error it is as
    /// it was, and can be sealed again.
    pub fn seal(&mut self) -> Result<bool, SinkError> {
        let Some(writer) = self.writer.as_mut() else { return Ok(false) };
        if writer.segment.commits().len() == 0 {
            self.writer = None;
            self.spool.set_open_bytes(0);
            self.spool.disk().remove(&self.path).map_err(|error| self.full_or(error))?;
            return Ok(false);
        }
        let synced = finish(&self.spool, writer, &self.path).map_err(|error| self.full(error))?;
        self.writer = None;
        (self.is_dirty, self.since) = (false, None);
        synced.map_err(|error| self.full_or(error))?;
        Ok(true)
    }

    fn full(&self, error: SegmentError) -> SinkError {
        match error {
            SegmentError::Io(error) => self.full_or(error),
            error => SinkError::Io(io::Error::other(error)),
        }
    }

    fn full_or(&self, error: io::Error) -> SinkError {
        if disk::is_full(&error) { self.is_full() } else { SinkError::Io(error) }
    }

    fn is_full(&self) -> SinkError {
        SinkError::Full { used_bytes: self.spool.used_bytes(), limit_bytes: self.spool.limit_bytes() }
    }

    fn start(&mut self, grid: PageGrid) -> Result<(), SinkError> {
        let first = self.place().txid.next();
        let header = SegmentHeader {
            generation: self.origin.generation,
            term: Term(self.origin.term.load(Ordering::Acquire)),
            engine: self.origin.engine,
            level: Level(0),
            grid,
            first,
            checksum_before: self.last.as_ref().map_or(0, |last| last.commit.checksum),
        };
        let file = self.spool.disk().create(&self.path).map_err(|error| self.full_or(error))?;
        let segment = SegmentWriter::new(file.clone(), header, self.codec).map_err(|error| self.full(error))?;
        self.writer = Some(Writer { segment, file });
        self.is_new = true;
        Ok(())
    }

    fn writer(&mut self) -> Result<&mut SegmentWriter<DiskFile>, SinkError> {
        let writer = self.writer.as_mut().map(|writer| &mut writer.segment);
        writer.ok_or_else(|| SinkError::Io(io::Error::other("no transaction is in progress")))
    }
}

impl TransactionSink for OpenSegment {
    fn begin(&mut self, grid: PageGrid) -> Result<(), SinkError> {
        if !self.spool.set_open_bytes(self.writer.as_ref().map_or(0, |writer| writer.segment.stored_bytes())) {
            return Err(self.is_full());
        }
        if self.writer.as_ref().is_some_and(|writer| writer.segment.header().grid != grid || writer.segment.is_full()) {
            self.seal()?;
        }
        if self.writer.is_none() {
            self.start(grid)?;
        }
        self.grid = Some(grid);
        let begun = self.writer()?.begin_transaction();
        begun.map_err(|error| self.full(error))
    }

    fn extent(&mut self, extent: Extent<'_>) -> Result<(), SinkError> {
        let writer = self.writer()?;
        let before = writer.stored_bytes();
        let written = writer.extent(extent);
        let after = writer.stored_bytes();
        written.map_err(|error| self.full(error))?;
        // The limit is looked at as bytes arrive, so that one large transaction cannot pass it by far.
        if after != before && !self.spool.set_open_bytes(after) {
            return Err(self.is_full());
        }
        Ok(())
    }

    fn page(&mut self, page: u64, hash: u64) -> Result<(), SinkError> {
        let written = self.writer()?.page(page, hash);
        written.map_err(|error| self.full(error))?;
        self.changes.page(page);
        Ok(())
    }

    fn commit(&mut self, new: NewCommit<'_>) -> Result<Txid, SinkError> {
        let grid = self.grid.ok_or_else(|| SinkError::Io(io::Error::other("no transaction is in progress")))?;
        let before = self.last.as_ref().map_or(TimeMs(0), |last| last.commit.time);
        let commit = Commit {
            txid: self.place().txid.next(),
            time: (self.clock)().max(before).min(TimeMs::MAX),
            lengths: new.lengths,
            checksum: new.checksum,
            kind: new.kind,
            grid,
        };
        let committed = self.writer()?.commit(&commit, new.position);
        committed.map_err(|error| self.full(error))?;
        self.is_dirty = true;
        self.since.get_or_insert_with(Instant::now);
        self.changes.commit(&commit);
        self.status.captured(self.origin.generation, &commit);
        let txid = commit.txid;
        self.last = Some(ResumePoint {
            generation: self.origin.generation,
            term: Term(self.origin.term.load(Ordering::Acquire)),
            engine: self.origin.engine,
            commit,
            position: new.position.to_vec(),
        });
        Ok(txid)
    }

    fn abandon(&mut self) {
        if let Some(writer) = self.writer.as_mut() {
            writer.segment.abandon();
            self.spool.set_open_bytes(writer.segment.stored_bytes());
        }
    }

    fn persist(&mut self) -> Result<(), SinkError> {
        let Some(writer) = self.writer.as_mut().filter(|_| self.is_dirty) else { return Ok(()) };
        let flushed = writer.segment.flush();
        let synced = flushed.and_then(|()| writer.file.sync().map_err(SegmentError::Io));
        synced.map_err(|error| self.full(error))?;
        if self.is_new {
            let synced = self.spool.disk().sync_dir(self.spool.state_dir());
            synced.map_err(|error| self.full_or(error))?;
            self.is_new = false;
        }
        self.is_dirty = false;
        Ok(())
    }
}

/// Finishes a segment with commits and moves it into the spool: content first, then its name, each durable before the
/// next step. `Ok(Err(_))`: it is in the spool, but its name may not survive a power cut.
fn finish(spool: &Spool, writer: &mut Writer, path: &Path) -> Result<io::Result<()>, SegmentError> {
    let summary = writer.segment.finish()?;
    writer.file.sync()?;
    let target = spool.path(&summary.name);
    let folder = target.parent().unwrap_or(spool.state_dir());
    spool.disk().create_dirs(folder)?;
    spool.disk().rename(path, &target)?;
    let object = Object::describe(target.clone(), summary.len, writer.segment.index());
    let synced = spool.disk().sync_dir(folder);
    spool.push(object);
    Ok(synced)
}

impl Spool {
    /// Seals what a crash left in `open.seg`. Capture must not begin before this succeeded.
    pub fn salvage(&self) -> io::Result<()> {
        let path = self.state_dir().join("open.seg");
        let file = match self.disk().open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        match salvage(file.clone(), Codec::for_deltas()) {
            Ok(Some(segment)) => {
                let commits = segment.commits().len();
                finish(self, &mut Writer { segment, file }, &path).map_err(into_io)??;
                tracing::info!(commits, "sealed the segment that was open when replicate ended");
                Ok(())
            }
            Ok(None) => self.disk().remove(&path),
            Err(SegmentError::Io(error)) => Err(error),
            Err(error) => {
                let aside = path.with_extension("damaged");
                tracing::error!(aside = %aside.display(), "the open segment is unreadable and was moved aside: {error}");
                self.disk().rename(&path, &aside)
            }
        }
    }
}

fn into_io(error: SegmentError) -> io::Error {
    match error {
        SegmentError::Io(error) => error,
        error => io::Error::other(error),
    }
}
