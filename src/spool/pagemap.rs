//! The page map on disk: where capture resumes after a restart without asking a replica.
//!
//! ```text
//! 0      header (HEADER_BYTES): magic, from, point, sum, XXH3 of what stands before it, zeros
//! 8192   hashes of all pages, 8 bytes each, little endian, page 0 first
//! ```
//!
//! Changed entries are written in place. Before that, the header says durably from which commit to which one the
//! entries are going and what their XOR will be then. So a file that was cut short by a crash shows, and is completed
//! from the segments between the two commits, which the spool keeps until the next header is durable.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use xxhash_rust::xxh3::xxh3_64;

use super::disk::{Disk, DiskFile};
use super::{Spool, apply_file};
use crate::checksum::PageMap;
use crate::engine::{EngineKind, MAX_POSITION_BYTES};
use crate::extent::PageGrid;
use crate::position::{Commit, CommitKind, Generation, Lengths, Term, TimeMs, Txid};
use crate::status::Place;

/// A commit behind which capture can go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumePoint {
    pub generation: Generation,
    /// The term under which the commit was captured.
    pub term: Term,
    pub engine: EngineKind,
    pub commit: Commit,
    /// The engine's own bytes.
    pub position: Vec<u8>,
}

impl ResumePoint {
    pub fn place(&self) -> Place {
        Place { generation: self.generation, txid: self.commit.txid }
    }
}

/// Which pages changed since the file was last written.
#[derive(Debug, Default)]
pub struct Changes {
    pages: Vec<u64>,
    /// The least length that the main file had meanwhile: entries behind it are not what they were.
    least_pages: Option<u64>,
    /// More than are worth remembering: the file is written anew.
    too_many: bool,
}

/// 256 KiB of page numbers.
const MAX_CHANGES: usize = 32 * 1024;

impl Changes {
    pub fn page(&mut self, page: u64) {
        if self.pages.len() == MAX_CHANGES {
            self.pages.sort_unstable();
            self.pages.dedup();
            self.too_many |= self.pages.len() > MAX_CHANGES / 2;
        }
        if self.too_many {
            self.pages = Vec::new();
        } else {
            self.pages.push(page);
        }
    }

    pub fn commit(&mut self, commit: &Commit) {
        let pages = commit.grid.pages(commit.lengths.main);
        self.least_pages = Some(self.least_pages.map_or(pages, |least| least.min(pages)));
    }

    /// Was there a commit since the file was last written?
    pub fn is_empty(&self) -> bool {
        self.least_pages.is_none()
    }

    /// Is it time to write the file, lest all of it must be written?
    pub fn is_many(&self) -> bool {
        self.too_many || self.pages.len() > MAX_CHANGES / 2
    }
}

const MAGIC: [u8; 8] = *b"rplpmap1";
const HEADER_BYTES: u64 = 8192;
const ENTRY_BYTES: u64 = 8;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Header {
    from: Txid,
    point: ResumePoint,
    /// XOR of the entries as of `point`.
    sum: u64,
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let (point, commit) = (&self.point, &self.point.commit);
        let engine = match point.engine {
            EngineKind::Sqlite => 0,
            EngineKind::Duckdb => 1,
        };
        let numbers = [
            self.from.0,
            point.generation.0,
            u64::from(point.term.0),
            engine,
            commit.txid.0,
            commit.time.0,
            commit.lengths.main,
            commit.lengths.wal,
            commit.checksum,
            u64::from(commit.grid.head),
            u64::from(commit.grid.size),
            self.sum,
            point.position.len() as u64,
        ];
        let mut bytes = MAGIC.to_vec();
        for number in numbers {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&point.position);
        bytes.extend_from_slice(&xxh3_64(&bytes).to_le_bytes());
        bytes.resize(HEADER_BYTES as usize, 0);
        bytes
    }

    /// `None` for anything but a whole header: the file is a cache.
    fn decode(mut bytes: &[u8]) -> Option<Header> {
        let all = bytes;
        let magic = bytes.split_off(..8)?;
        let mut number = || Some(u64::from_le_bytes(bytes.split_off(..8)?.try_into().ok()?));
        let from = Txid(number()?);
        let generation = Generation(number()?);
        let term = Term(u32::try_from(number()?).ok()?);
        let engine = match number()? {
            0 => EngineKind::Sqlite,
            1 => EngineKind::Duckdb,
            _ => return None,
        };
        let (txid, time) = (Txid(number()?), TimeMs(number()?));
        let lengths = Lengths { main: number()?, wal: number()? };
        let checksum = number()?;
        let grid = PageGrid::new(u32::try_from(number()?).ok()?, u32::try_from(number()?).ok()?)?;
        let sum = number()?;
        let length = usize::try_from(number()?).ok().filter(|&length| length <= MAX_POSITION_BYTES)?;
        let position = bytes.split_off(..length)?.to_vec();
        let proof = xxh3_64(&all[..all.len() - bytes.len()]);
        let stored = u64::from_le_bytes(bytes.split_off(..8)?.try_into().ok()?);
        // The kind is not kept: it says nothing about where to go on.
        let commit = Commit { txid, time, lengths, checksum, kind: CommitKind::Captured, grid };
        let point = ResumePoint { generation, term, engine, commit, position };
        (magic == MAGIC && stored == proof).then_some(Header { from, point, sum })
    }
}

/// The page map file of a state directory.
#[derive(Debug)]
pub struct PageMapFile {
    path: PathBuf,
    disk: Disk,
    /// The commit that the file holds whole; `None` before it was written or read by this process.
    holds: Option<(Place, PageGrid)>,
}

impl PageMapFile {
    pub fn new(spool: &Spool) -> PageMapFile {
        PageMapFile { path: spool.state_dir().join("pagemap"), disk: spool.disk().clone(), holds: None }
    }

    /// Writes `map`, which is as of `point`, a commit that is sealed. `changes` since the last call are forgotten.
    pub fn save(&mut self, point: &ResumePoint, map: &PageMap, changes: &mut Changes) -> io::Result<()> {
        let grid = point.commit.grid;
        let pages = grid.pages(point.commit.lengths.main);
        if map.grid() != grid || map.len() != pages {
            return Err(io::Error::other("the engine's page map is not that of its last commit"));
        }
        let holds = self.holds.take();
        let from = holds.filter(|&(place, held)| held == grid && place.generation == point.generation);
        match from {
            Some((place, _)) if !changes.too_many => self.save_changes(place.txid, point, map, changes)?,
            _ => self.save_all(point, map)?,
        }
        *changes = Changes::default();
        self.holds = Some((point.place(), grid));
        Ok(())
    }

    fn save_all(&self, point: &ResumePoint, map: &PageMap) -> io::Result<()> {
        let temporary = self.path.with_extension("tmp");
        let mut file = self.disk.create(&temporary)?;
        let header = Header { from: point.commit.txid, point: point.clone(), sum: map.sum() };
        file.write_all(&header.encode())?;
        let mut buffer = Vec::new();
        for hashes in map.hashes().chunks(8192) {
            buffer.clear();
            buffer.extend(hashes.iter().flat_map(|hash| hash.to_le_bytes()));
            file.write_all(&buffer)?;
        }
        file.sync()?;
        self.disk.rename(&temporary, &self.path)?;
        self.disk.sync_dir(self.path.parent().expect("the file stands in the state directory"))
    }

    fn save_changes(&self, from: Txid, point: &ResumePoint, map: &PageMap, changes: &mut Changes) -> io::Result<()> {
        let file = self.disk.open(&self.path)?;
        let header = Header { from, point: point.clone(), sum: map.sum() };
        file.write_at(0, &header.encode())?;
        file.sync()?;
        if let Some(least) = changes.least_pages.filter(|&least| least < map.len()) {
            file.cut(HEADER_BYTES + least * ENTRY_BYTES)?;
        }
        file.cut(HEADER_BYTES + map.len() * ENTRY_BYTES)?;
        changes.pages.sort_unstable();
        changes.pages.dedup();
        for run in changes.pages.chunk_by(|a, b| a + 1 == *b) {
            write_run(&file, run[0], run.len() as u64, map)?;
        }
        file.sync()
    }

    /// The page map as of the newest commit that local state proves, and that commit. `None` when there is none: then a
    /// replica must tell.
    pub fn load(&mut self, spool: &Spool) -> io::Result<Option<(ResumePoint, PageMap)>> {
        let Some((header, hashes)) = self.read()? else { return Ok(None) };
        let mut map = PageMap::from_hashes(header.point.commit.grid, hashes);
        let place = header.point.place();
        let is_whole = |map: &PageMap| {
            map.sum() == header.sum && map.len() == header.point.commit.grid.pages(header.point.commit.lengths.main)
        };
        if !is_whole(&map) {
            tracing::info!(from = header.from.0, to = place.txid.0, "completing the page map from the spool");
            let between = Place { txid: header.from, ..place };
            if roll(spool, &mut map, between, Some(place)).is_none() || !is_whole(&map) {
                tracing::warn!("the page map file is incomplete; a replica must tell");
                return Ok(None);
            }
        }
        let grid = header.point.commit.grid;
        let rolled = roll_forward(spool, header.point, map);
        // Entries that change from here on are written in place, but those that the spool changed are not known singly.
        if rolled.as_ref().is_some_and(|(point, _)| point.place() == place) {
            self.holds = Some((place, grid));
        }
        Ok(rolled)
    }

    /// The file holds everything up to here; the spool may forget it.
    pub fn place(&self) -> Place {
        self.holds.map_or(Place::ZERO, |(place, _)| place)
    }

    fn read(&self) -> io::Result<Option<(Header, Vec<u64>)>> {
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut bytes = Vec::new();
        (&mut file).take(HEADER_BYTES).read_to_end(&mut bytes)?;
        let Some(header) = Header::decode(&bytes) else { return Ok(None) };
        let mut hashes = Vec::new();
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let mut filled = 0;
            while filled < chunk.len() {
                match file.read(&mut chunk[filled..])? {
                    0 => break,
                    count => filled += count,
                }
            }
            hashes.extend(chunk[..filled].as_chunks::<8>().0.iter().map(|entry| u64::from_le_bytes(*entry)));
            if filled < chunk.len() {
                return Ok(Some((header, hashes)));
            }
        }
    }
}

fn write_run(file: &DiskFile, first: u64, count: u64, map: &PageMap) -> io::Result<()> {
    let pages = first..(first + count).min(map.len());
    let bytes: Vec<u8> = pages.flat_map(|page| map.get(page).to_le_bytes()).collect();
    if bytes.is_empty() {
        return Ok(());
    }
    file.write_at(HEADER_BYTES + first * ENTRY_BYTES, &bytes)
}

/// Lays the spool's segments behind `after`, up to `until`, over the map. `None` when they do not connect or cannot be
/// read; otherwise the last of them.
fn roll(spool: &Spool, map: &mut PageMap, after: Place, until: Option<Place>) -> Option<Option<ResumePoint>> {
    let mut place = after;
    let mut reached = None;
    let is_wanted = |last: Place| last > after && until.is_none_or(|until| last <= until);
    for object in spool.objects() {
        if object.name.generation != after.generation || !is_wanted(object.last()) {
            continue;
        }
        if Some(object.name.first) != place.txid.checked_next() {
            return None;
        }
        let index = apply_file(map, &object.path)
            .inspect_err(
                |error| tracing::warn!(path = %object.path.display(), "cannot read a segment in the spool: {error}"),
            )
            .ok()?;
        place = object.last();
        reached = Some(ResumePoint {
            generation: object.name.generation,
            term: object.name.term,
            engine: index.header.engine,
            commit: index.last().clone(),
            position: index.position.clone(),
        });
    }
    (until.is_none_or(|until| place == until)).then_some(reached)
}

/// Rolls `map`, as of `point`, forward by what the spool holds behind it. `None` when that does not lead to a proven map.
pub fn roll_forward(spool: &Spool, point: ResumePoint, mut map: PageMap) -> Option<(ResumePoint, PageMap)> {
    if !spool.connects(point.place(), point.commit.checksum) {
        tracing::warn!("the segments in the spool do not connect to the page map");
        return None;
    }
    let point = roll(spool, &mut map, point.place(), None)?.unwrap_or(point);
    // Where the WAL travels as a file, its hash is in the checksum too; then the engine proves the map as it resumes.
    let is_proven = point.commit.lengths.wal > 0 || map.sum() == point.commit.checksum;
    let is_long = map.len() == point.commit.grid.pages(point.commit.lengths.main);
    (is_proven && is_long).then_some((point, map))
}
