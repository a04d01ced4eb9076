//! Drives a source as the replicator does: opens, polls, copies, and opens anew after a gap.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use replicate::checksum::{PageMap, page_hash};
use replicate::engine::sqlite::Sqlite;
use replicate::engine::{Engine, EngineError, Poll, Progress, Source};
use replicate::position::RepairReason;

use super::sink::{CopySink, ImageSink};

pub struct Driver {
    pub path: PathBuf,
    pub source: Option<Box<dyn Source>>,
    pub sink: ImageSink,
    pub gaps: Vec<(RepairReason, String)>,
}

/// A copy under way.
#[derive(Default)]
pub struct FuzzyCopy {
    sink: CopySink,
    pub slices: u32,
}

/// How long the driver sleeps at most where the replicator would wait for a file event.
const TICK: Duration = Duration::from_millis(2);

impl Driver {
    pub fn new(path: &Path) -> Driver {
        Driver { path: path.to_owned(), source: None, sink: ImageSink::default(), gaps: Vec::new() }
    }

    /// Opens, and polls until nothing is left to do at once.
    pub fn attached(path: &Path) -> Driver {
        let mut driver = Driver::new(path);
        driver.settle();
        driver
    }

    pub fn detach(&mut self) {
        self.source = None;
        self.sink.rested = None;
    }

    /// Lets go of a database at rest. Does its file alone hold everything?
    pub fn park(&mut self) -> bool {
        self.sink.rested = self.source.as_mut().and_then(|source| source.rest());
        self.source = None;
        self.sink.rested.is_some()
    }

    /// One look. `None` when the database cannot be captured just now.
    pub fn poll(&mut self) -> Result<Option<Poll>, EngineError> {
        if self.source.is_none() {
            let resume = self.sink.resume(None);
            self.sink.reopened = true;
            self.source = match Sqlite.open(&self.path, resume) {
                Ok(source) => Some(source),
                Err(EngineError::Busy(_)) => return Ok(None),
                Err(error) => return Err(error),
            };
        }
        let source = self.source.as_mut().expect("just opened");
        match source.poll(&mut self.sink) {
            Ok(poll) => {
                if self.sink.needs_copy {
                    self.copy();
                }
                Ok(Some(poll))
            }
            Err(EngineError::Gap { reason, detail }) => {
                self.gaps.push((reason, detail));
                self.source = None;
                Ok(None)
            }
            Err(EngineError::Busy(_)) => Ok(None),
            Err(error) => {
                self.source = None;
                Err(error)
            }
        }
    }

    /// Takes the first copy. Nothing is captured meanwhile, so it must be exact.
    fn copy(&mut self) {
        let mut copy = CopySink::default();
        let source = self.source.as_mut().expect("open");
        let start = source.snapshot_start().expect("a copy begins");
        let mut expected = 0;
        while let Progress::Slice { start, end, .. } = source.snapshot_slice(&mut copy).expect("a slice") {
            assert_eq!(start, expected);
            expected = end;
        }
        assert_eq!(expected, start.total);
        copy.image.resize(start.total as usize, 0);
        let map = source.page_map().expect("complete");
        let size = start.grid.size as usize;
        let hashes = copy.image.chunks(size).zip(0..).map(|(page, number)| page_hash(number, page)).collect();
        assert_eq!(&PageMap::from_hashes(start.grid, hashes), map, "the copy is not what the map says");
        self.sink.image = copy.image;
        self.sink.map = Some(map.clone());
        self.sink.needs_copy = false;
    }

    /// Polls until the engine asks for nothing more and `done` holds.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&Driver) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let poll = self.poll().unwrap_or_else(|error| panic!("{what}: {error}"));
            if poll.is_some_and(|poll| poll.commits == 0 && poll.first_read.is_none()) && done(self) {
                return;
            }
            assert!(Instant::now() < deadline, "{what} did not come; gaps {:?}", self.gaps);
            std::thread::sleep(poll.and_then(|poll| poll.again_in).unwrap_or(TICK).min(TICK));
        }
    }

    /// Polls until everything is captured and the engine has nothing more to do soon.
    pub fn settle(&mut self) {
        self.settle_until(Duration::from_millis(50));
    }

    /// Polls until the engine wants to be left alone for longer than `rest`.
    pub fn settle_until(&mut self, rest: Duration) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let poll = self.poll().expect("it can be captured");
            match poll {
                Some(Poll { again_in, commits: 0, first_read: None, .. })
                    if again_in.is_none_or(|time| time > rest) =>
                {
                    break;
                }
                Some(poll) => std::thread::sleep(poll.again_in.unwrap_or_default()),
                None => std::thread::sleep(TICK),
            }
            assert!(Instant::now() < deadline, "no rest; gaps {:?}", self.gaps);
        }
        self.sink.prove_image();
    }

    /// Begins a copy that is read between commits. `fuzzy_step` goes on with it.
    pub fn fuzzy_start(&mut self) -> FuzzyCopy {
        self.source.as_mut().expect("open").snapshot_start().expect("a copy begins");
        self.sink.log = Some(Vec::new());
        FuzzyCopy::default()
    }

    /// The next slice. `true` when the copy, with what was captured meanwhile laid over it, was proven exact.
    pub fn fuzzy_step(&mut self, copy: &mut FuzzyCopy) -> bool {
        let source = self.source.as_mut().expect("open");
        if source.snapshot_slice(&mut copy.sink).expect("a slice") != Progress::Done {
            copy.slices += 1;
            return false;
        }
        let mut image = std::mem::take(&mut copy.sink.image);
        for (length, extents) in self.sink.log.take().expect("it was kept") {
            image.resize(length, 0);
            for (offset, data) in extents {
                image[offset as usize..offset as usize + data.len()].copy_from_slice(&data);
            }
        }
        image.resize(self.sink.image.len(), 0);
        assert!(image == self.sink.image, "the copy is not exact");
        true
    }

    /// Opens the image with SQLite, proves it sound, and answers `query`.
    pub fn ask(&self, query: &str) -> String {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("restored.db");
        std::fs::write(&path, &self.sink.image).expect("the image");
        Sqlite.check(&path).expect("sound");
        let restored = rusqlite::Connection::open(&path).expect("the image opens");
        let value = restored.query_row(query, [], |row| row.get::<_, rusqlite::types::Value>(0)).expect("an answer");
        match value {
            rusqlite::types::Value::Integer(value) => value.to_string(),
            rusqlite::types::Value::Text(text) => text,
            other => format!("{other:?}"),
        }
    }
}
