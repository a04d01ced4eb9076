//! One SQLite connection that never writes, and the view through it of the file, the WAL and the wal-index.
//!
//! Everything is read through SQLite's own file handles: closing any other descriptor of the file or of the `-shm` would
//! silently drop the locks of this whole process.

use std::ffi::{c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::Duration;

use rusqlite::{OpenFlags, ffi};

use super::wal::{HEADER_BYTES, WalHeader};
use super::wal_index::{self, IndexHeader, IndexState, PREFIX_WORDS, REGION_BYTES};
use crate::engine::EngineError;

/// How often a torn wal-index header is read again at once; a writer publishes it within nanoseconds.
const TORN_READS: usize = 200;

/// How often, and how far apart, it is read again where there is no later: 100 ms in all.
const TORN_WAITS: u32 = 200;
const TORN_WAIT: Duration = Duration::from_micros(500);

/// An open connection. Holds at most one read transaction.
pub(super) struct Connection {
    inner: rusqlite::Connection,
    path: PathBuf,
}

/// What a passive checkpoint reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checkpoint {
    Ran,
    /// Another connection checkpoints just now.
    Busy,
}

/// A page cache begins with one page: ours read next to nothing through it, and by default each would begin with 87 KB.
fn allocate_few_pages() {
    let (none, any_size, one_page) = (ptr::null_mut::<c_void>(), 0 as c_int, 1 as c_int);
    // SAFETY: the arguments are those that are documented for this option: without memory of ours, only the number counts.
    let code = unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_PAGECACHE, none, any_size, one_page) };
    if code != ffi::SQLITE_OK {
        // SQLite was used before: it works as well, with more memory.
        tracing::debug!(code, "SQLite's page cache keeps its default");
    }
}

impl Connection {
    /// Opens an existing database. Nothing is read or locked yet.
    pub(super) fn open(path: &Path) -> Result<Connection, EngineError> {
        static LEAN: Once = Once::new();
        LEAN.call_once(allocate_few_pages);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let inner =
            rusqlite::Connection::open_with_flags(path, flags).map_err(|error| failure(path, "open", &error))?;
        let connection = Connection { inner, path: path.to_owned() };
        connection.configure()?;
        Ok(connection)
    }

    /// No checkpoints but those asked for, also none on close; no waiting inside SQLite; little memory.
    /// No pragma is used: some would read the schema.
    fn configure(&self) -> Result<(), EngineError> {
        let handle = self.handle();
        // SAFETY: `handle` is open; the variadic arguments are those that sqlite3_db_config documents for each option.
        let results = unsafe {
            [
                ffi::sqlite3_db_config(
                    handle,
                    ffi::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE,
                    1 as c_int,
                    ptr::null_mut::<c_int>(),
                ),
                ffi::sqlite3_db_config(
                    handle,
                    ffi::SQLITE_DBCONFIG_LOOKASIDE,
                    ptr::null_mut::<c_void>(),
                    0 as c_int,
                    0 as c_int,
                ),
                ffi::sqlite3_wal_autocheckpoint(handle, 0),
                ffi::sqlite3_busy_timeout(handle, 0),
            ]
        };
        for code in results {
            self.expect_ok(code, "configure")?;
        }
        Ok(())
    }

    fn handle(&self) -> *mut ffi::sqlite3 {
        // SAFETY: the pointer is used only while `self.inner` is borrowed and by the thread that owns it.
        unsafe { self.inner.handle() }
    }

    fn expect_ok(&self, code: c_int, doing: &str) -> Result<(), EngineError> {
        match code & 0xff {
            ffi::SQLITE_OK => Ok(()),
            ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => Err(EngineError::Busy(format!("cannot {doing}"))),
            _ => Err(failure(&self.path, doing, &rusqlite::Error::SqliteFailure(ffi::Error::new(code), None))),
        }
    }

    /// Runs one statement to its first row.
    fn run(&self, sql: &str) -> Result<(), EngineError> {
        let outcome = self.inner.prepare_cached(sql).and_then(|mut statement| {
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
            Ok(())
        });
        outcome.map_err(|error| failure(&self.path, sql, &error))
    }

    /// Begins a read transaction and takes its lock. Reads the schema's number only, never the schema.
    pub(super) fn begin(&self) -> Result<(), EngineError> {
        self.run("BEGIN")?;
        self.run("PRAGMA schema_version").inspect_err(|_| self.end())
    }

    /// Takes the write lock, if it is free, with a read transaction at the newest commit. Writes nothing.
    pub(super) fn try_write_lock(&self) -> Result<bool, EngineError> {
        match self.run("BEGIN IMMEDIATE") {
            Ok(()) => Ok(true),
            Err(EngineError::Busy(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Ends the transaction, if one is open. Ending a transaction that wrote nothing cannot fail.
    pub(super) fn end(&self) {
        if !self.inner.is_autocommit()
            && let Err(error) = self.run("ROLLBACK")
        {
            tracing::warn!(database = %self.path.display(), %error, "a read transaction did not end");
        }
    }

    /// Lets SQLite copy committed frames into the file as far as readers allow, without waiting for anyone.
    pub(super) fn checkpoint(&self) -> Result<Checkpoint, EngineError> {
        let (mut log, mut done) = (-1, -1);
        // SAFETY: the handle is open, the schema name is a C string, the out pointers live across the call.
        let code = unsafe {
            ffi::sqlite3_wal_checkpoint_v2(
                self.handle(),
                c"main".as_ptr(),
                ffi::SQLITE_CHECKPOINT_PASSIVE,
                &mut log,
                &mut done,
            )
        };
        match self.expect_ok(code, "checkpoint") {
            Ok(()) => Ok(Checkpoint::Ran),
            Err(EngineError::Busy(_)) => Ok(Checkpoint::Busy),
            Err(error) => Err(error),
        }
    }

    /// SQLite's handle of the database file or of the WAL.
    fn file(&self, which: c_int) -> Result<OpenFile, EngineError> {
        let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
        let out: *mut *mut ffi::sqlite3_file = &mut file;
        // SAFETY: both file controls store one pointer to a sqlite3_file that lives as long as the connection.
        let code = unsafe { ffi::sqlite3_file_control(self.handle(), c"main".as_ptr(), which, out.cast()) };
        self.expect_ok(code, "reach the open file")?;
        // SAFETY: SQLite zeroes a file object before it opens it, so pMethods is null or valid.
        let methods = unsafe { file.as_ref().and_then(|file| file.pMethods.as_ref()) };
        match methods {
            Some(methods) if methods.iVersion >= 2 => Ok(OpenFile { file, methods: *methods }),
            _ => Err(not_in_wal_mode("it has no WAL")),
        }
    }

    fn main_file(&self) -> Result<OpenFile, EngineError> {
        self.file(ffi::SQLITE_FCNTL_FILE_POINTER)
    }

    fn wal_file(&self) -> Result<OpenFile, EngineError> {
        self.file(ffi::SQLITE_FCNTL_JOURNAL_POINTER)
    }

    /// Reads the database file. `false` when it ends before `buffer` is full; the rest is zeros then.
    pub(super) fn read_main(&self, offset: u64, buffer: &mut [u8]) -> Result<bool, EngineError> {
        self.main_file()?.read(offset, buffer).map_err(|code| self.read_failure(code))
    }

    /// Reads the WAL file, like `read_main`.
    pub(super) fn read_wal(&self, offset: u64, buffer: &mut [u8]) -> Result<bool, EngineError> {
        self.wal_file()?.read(offset, buffer).map_err(|code| self.read_failure(code))
    }

    pub(super) fn main_length(&self) -> Result<u64, EngineError> {
        self.main_file()?.length().map_err(|code| self.read_failure(code))
    }

    pub(super) fn wal_length(&self) -> Result<u64, EngineError> {
        self.wal_file()?.length().map_err(|code| self.read_failure(code))
    }

    fn read_failure(&self, code: c_int) -> EngineError {
        failure(&self.path, "read", &rusqlite::Error::SqliteFailure(ffi::Error::new(code), None))
    }

    /// The header of the WAL file; `None` while there is no valid one.
    pub(super) fn wal_header(&self) -> Result<Option<WalHeader>, EngineError> {
        let mut bytes = [0u8; HEADER_BYTES];
        let whole = self.read_wal(0, &mut bytes)?;
        Ok(whole.then(|| WalHeader::parse(&bytes)).flatten())
    }

    /// The published state of the WAL; `None` while someone rewrites it. Needs a transaction begun at least once.
    pub(super) fn index_header(&self) -> Result<Option<IndexHeader>, EngineError> {
        let file = self.main_file()?;
        let Some(region) = file.index_region(0).map_err(|code| self.read_failure(code))? else {
            return Ok(None);
        };
        for _ in 0..TORN_READS {
            match wal_index::parse(&region.prefix()) {
                IndexState::Valid(header) => return Ok(Some(header)),
                IndexState::UnknownVersion(version) => {
                    return Err(EngineError::NotCapturable {
                        reason: format!("the wal-index has version {version}, which is unknown"),
                        next_step: "use a newer replicate, or a SQLite library without changes to the WAL",
                    });
                }
                IndexState::Torn => std::hint::spin_loop(),
            }
        }
        Ok(None)
    }

    /// Like `index_header`, but waits for a writer that was interrupted while it published.
    pub(super) fn index_header_waiting(&self) -> Result<IndexHeader, EngineError> {
        for _ in 0..TORN_WAITS {
            if let Some(header) = self.index_header()? {
                return Ok(header);
            }
            std::thread::sleep(TORN_WAIT);
        }
        Err(EngineError::Busy("the wal-index is being rewritten".into()))
    }

    /// The page numbers of the frames `first..=last` as the wal-index has them; `None` if it does not reach that far.
    pub(super) fn frame_pages(&self, first: u32, last: u32) -> Result<Option<Vec<u32>>, EngineError> {
        let file = self.main_file()?;
        let mut pages = Vec::new();
        let mut mapped: Option<(u32, Region)> = None;
        for frame in first..=last {
            let (number, word) = wal_index::page_word(frame);
            let region = match mapped {
                Some((at, region)) if at == number => region,
                _ => match file.index_region(number).map_err(|code| self.read_failure(code))? {
                    Some(region) => mapped.insert((number, region)).1,
                    None => return Ok(None),
                },
            };
            pages.push(region.word(word));
        }
        Ok(Some(pages))
    }
}

/// A file that SQLite has open, with the functions to read it.
struct OpenFile {
    file: *mut ffi::sqlite3_file,
    methods: ffi::sqlite3_io_methods,
}

impl OpenFile {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<bool, c_int> {
        let read = self.methods.xRead.ok_or(ffi::SQLITE_MISUSE)?;
        let length = c_int::try_from(buffer.len()).map_err(|_| ffi::SQLITE_TOOBIG)?;
        let offset = i64::try_from(offset).map_err(|_| ffi::SQLITE_TOOBIG)?;
        // SAFETY: `file` is open while the connection is borrowed, and `buffer` has `length` bytes.
        match unsafe { read(self.file, buffer.as_mut_ptr().cast(), length, offset) } {
            ffi::SQLITE_OK => Ok(true),
            // SQLite has filled the rest with zeros.
            ffi::SQLITE_IOERR_SHORT_READ => Ok(false),
            code => Err(code),
        }
    }

    fn length(&self) -> Result<u64, c_int> {
        let size = self.methods.xFileSize.ok_or(ffi::SQLITE_MISUSE)?;
        let mut length = 0i64;
        // SAFETY: `file` is open while the connection is borrowed.
        match unsafe { size(self.file, &mut length) } {
            ffi::SQLITE_OK => Ok(u64::try_from(length).unwrap_or(0)),
            code => Err(code),
        }
    }

    /// SQLite's own mapping of one region of the wal-index; `None` if the file does not have it yet.
    fn index_region(&self, number: u32) -> Result<Option<Region>, c_int> {
        let map = self.methods.xShmMap.ok_or(ffi::SQLITE_MISUSE)?;
        let number = c_int::try_from(number).map_err(|_| ffi::SQLITE_TOOBIG)?;
        let mut memory: *mut c_void = ptr::null_mut();
        // SAFETY: `file` is open; 0 forbids SQLite to extend the wal-index.
        match unsafe { map(self.file, number, REGION_BYTES, 0, &mut memory) } {
            ffi::SQLITE_OK => Ok(ptr::NonNull::new(memory.cast::<u32>()).map(|words| Region { words })),
            code => Err(code),
        }
    }
}

/// One mapped region of the wal-index. Other processes write it: every access is atomic.
#[derive(Clone, Copy)]
struct Region {
    words: ptr::NonNull<u32>,
}

impl Region {
    fn word(self, index: u32) -> u32 {
        assert!(index < REGION_BYTES as u32 / 4, "a word lies within its region");
        // SAFETY: SQLite keeps the aligned mapping of REGION_BYTES as long as the connection has its WAL open, which
        // the callers' borrow of the connection outlives; `index` is within it.
        unsafe { AtomicU32::from_ptr(self.words.as_ptr().add(index as usize)).load(Ordering::Relaxed) }
    }

    /// The words of both header copies and of `nBackfill`, in the order in which a reader must take them.
    fn prefix(self) -> [u32; PREFIX_WORDS] {
        let mut words = [0u32; PREFIX_WORDS];
        for (index, word) in words.iter_mut().enumerate() {
            if index == wal_index::HEADER_WORDS {
                fence(Ordering::SeqCst);
            }
            *word = self.word(index as u32);
        }
        words
    }
}

/// The database is not in WAL mode, so there is no log to capture.
pub(super) fn not_in_wal_mode(found: &str) -> EngineError {
    EngineError::NotCapturable {
        reason: format!("the database is not in WAL mode ({found})"),
        next_step: "run PRAGMA journal_mode=WAL once in the application",
    }
}

fn failure(path: &Path, doing: &str, error: &rusqlite::Error) -> EngineError {
    let context = format!("cannot {doing} {}", path.display());
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
            EngineError::Busy(format!("{context}: {error}"))
        }
        Some(rusqlite::ErrorCode::NotADatabase) => EngineError::NotCapturable {
            reason: format!("{context}: {error}"),
            next_step: "check that the file is a SQLite database and that it is not encrypted",
        },
        Some(rusqlite::ErrorCode::DatabaseCorrupt) => EngineError::Damaged(format!("{context}: {error}")),
        _ => EngineError::Io { context, source: std::io::Error::other(error.to_string()) },
    }
}
