//! The threads that capture, and who works on them: with many databases only some are held at a time. The others are parked:
//! no thread, no connection and no descriptor, only a watch on their directory and a look at the times of their files now
//! and then. Whatever happens to one of them wakes it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::shared::Shared;
use crate::status::{State, Status};
use crate::watcher::Bell;

/// How often the files of a parked database are looked at although no event came.
pub const SWEEP: Duration = Duration::from_secs(30);
/// The same where its directory cannot be watched.
const UNWATCHED_SWEEP: Duration = Duration::from_secs(2);
/// Between two rounds over those that are due.
const ROUND: Duration = Duration::from_secs(1);
/// A database without commits for so long is at rest.
const AT_REST: Duration = Duration::from_secs(60);
/// The same while others wait for a thread.
const AT_REST_WANTED: Duration = Duration::from_secs(5);
/// While others have waited for so long, one that is level gives way however busy it is …
const STARVING: Duration = Duration::from_secs(1);
/// … after so long on its thread.
const TURN: Duration = Duration::from_millis(500);

type Job = Box<dyn FnOnce() + Send>;

/// What of a database's files tells that something happened: inode, size, times of modification and of change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Sight {
    files: Vec<PathBuf>,
    seen: Vec<Option<(u64, u64, [i64; 4])>>,
}

impl Sight {
    /// Of the main file and of what either engine keeps beside it.
    pub fn of(database: &Path) -> Sight {
        let beside = |suffix: &str| {
            let mut name = database.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        let files = vec![database.to_owned(), beside("-wal"), beside("-journal"), beside(".wal")];
        let seen = files.iter().map(|path| look(path)).collect();
        Sight { files, seen }
    }

    /// Nothing happened since.
    pub fn is_same(&self) -> bool {
        self.files.iter().zip(&self.seen).all(|(path, seen)| look(path) == *seen)
    }
}

fn look(path: &Path) -> Option<(u64, u64, [i64; 4])> {
    let m = path.metadata().ok()?;
    Some((m.ino(), m.size(), [m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()]))
}

struct Parked {
    bell: Arc<Bell>,
    status: Status,
    leave: Leave,
    look_at: Instant,
}

impl Parked {
    fn every(&self) -> Duration {
        if self.leave.is_watched { SWEEP } else { UNWATCHED_SWEEP }
    }

    /// A look that finds nothing is a look: everything that was committed is captured.
    fn shows_itself(&self) {
        if self.status.state() == State::Running {
            let next = self.every() + SWEEP;
            self.status.level(next);
            self.status.rests(next);
        }
    }

    /// Is it to be woken?
    fn is_due(&mut self, now: Instant) -> bool {
        if self.leave.until.is_some_and(|until| until <= now) || !self.leave.sight.is_same() {
            return true;
        }
        self.shows_itself();
        self.look_at = self.leave.until.unwrap_or(now + self.every()).min(now + self.every());
        false
    }
}

#[derive(Default)]
struct Inner {
    at_work: usize,
    waiting: VecDeque<(Instant, Job)>,
    /// Of those at work, how many are about to make room for one that waits.
    leaving: usize,
    parked: BTreeMap<u64, Parked>,
    next_id: u64,
    has_sweeper: bool,
}

/// Shared by all databases of a process.
pub struct Crew {
    /// Threads at the same time.
    limit: usize,
    /// Databases at rest that keep their thread all the same.
    kept: usize,
    /// How many more parked databases may keep the lock on their state directory, which is a descriptor for each.
    locks: AtomicUsize,
    inner: Mutex<Inner>,
}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crew").field("limit", &self.limit).finish_non_exhaustive()
    }
}

/// What is looked after while a database is parked.
pub(super) struct Leave {
    /// Every file whose change means something, as they were before the last look at the database.
    pub sight: Sight,
    /// Its directory is watched.
    pub is_watched: bool,
    /// To be woken then at the latest.
    pub until: Option<Instant>,
}

impl Crew {
    /// At most `limit` databases are held at a time; while more than `kept` are, those at rest are parked. Of
    /// these, so many keep their locks.
    pub fn new(limit: usize, kept: usize, locks: usize) -> Arc<Crew> {
        Arc::new(Crew { limit: limit.max(1), kept, locks: locks.into(), inner: Mutex::default() })
    }

    /// Every database keeps its thread.
    pub fn unlimited() -> Arc<Crew> {
        Crew::new(usize::MAX, usize::MAX, usize::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a thread do this: at once, or when one is free.
    pub(super) fn work(self: &Arc<Crew>, job: Job) {
        let mut inner = self.lock();
        inner.waiting.push_back((Instant::now(), job));
        if inner.at_work < self.limit {
            inner.at_work += 1;
            let crew = self.clone();
            let spawned = thread::Builder::new().name("capture".to_owned()).spawn(move || crew.run());
            if let Err(error) = spawned {
                inner.at_work -= 1;
                // Whoever works now takes it when he is done; without anybody, the next one who comes tries again.
                tracing::error!("cannot start a thread for a database: {error}; it waits until another one is done");
            }
        }
    }

    /// One thread: whatever waits, until nothing does.
    fn run(self: Arc<Crew>) {
        loop {
            let mut inner = self.lock();
            let Some((_, job)) = inner.waiting.pop_front() else {
                inner.at_work -= 1;
                inner.leaving = inner.leaving.min(inner.at_work);
                return;
            };
            drop(inner);
            // A panic is told by what it unwinds through; the thread is others' as well.
            let ended = catch_unwind(AssertUnwindSafe(job));
            let mut inner = self.lock();
            inner.leaving = inner.leaving.saturating_sub(1);
            drop(inner);
            if ended.is_err() {
                tracing::error!("a capturing thread panicked");
            }
        }
    }

    /// Should a database make room that has been without commits for `rest`, and on its thread for `turn`? Whoever is told so
    /// once ends its work.
    pub(super) fn gives_way(&self, rest: Duration, turn: Duration) -> bool {
        let mut inner = self.lock();
        let wanted = inner.waiting.len() > inner.leaving;
        let is_starving =
            inner.waiting.get(inner.leaving).is_some_and(|(since, _)| since.elapsed() >= STARVING) && turn >= TURN;
        let gives_way = match wanted {
            true => rest >= AT_REST_WANTED || is_starving,
            false => rest >= AT_REST && inner.at_work - inner.leaving > self.kept,
        };
        inner.leaving += usize::from(gives_way);
        gives_way
    }

    /// May a database keep its lock while it is parked? Said once, until `lock_is_taken_again`.
    pub(super) fn may_keep_lock(&self) -> bool {
        let less = |room: usize| room.checked_sub(1);
        self.locks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
    }

    pub(super) fn lock_is_taken_again(&self) {
        self.locks.fetch_add(1, Ordering::SeqCst);
    }

    /// Looks after a database until its bell rings, which this does when one of its files has changed; then has a thread do
    /// `wake`.
    pub(super) fn park(self: &Arc<Crew>, shared: &Shared, leave: Leave, wake: Job) {
        let (bell, status) = (shared.bell.clone(), shared.status.clone());
        let mut parked = Parked { bell, status, leave, look_at: Instant::now() };
        parked.shows_itself();
        parked.look_at = parked.leave.until.unwrap_or_else(|| Instant::now() + parked.every());
        let mut inner = self.lock();
        let id = inner.next_id;
        inner.next_id += 1;
        inner.parked.insert(id, parked);
        if !inner.has_sweeper {
            let crew = Arc::downgrade(self);
            match thread::Builder::new().name("parked".to_owned()).spawn(move || sweep(&crew)) {
                Ok(_) => inner.has_sweeper = true,
                // File events still wake it, and the next one that is parked tries again.
                Err(error) => tracing::error!("cannot start the thread that looks after parked databases: {error}"),
            }
        }
        drop(inner);
        let crew = self.clone();
        let on_ring: Job = Box::new(move || {
            crew.lock().parked.remove(&id);
            crew.work(wake);
        });
        if let Some(rung) = shared.bell.leave(on_ring) {
            rung();
        }
    }

    /// Rings for those that are due. `false`: nothing is parked any more.
    fn look(&self) -> bool {
        let now = Instant::now();
        let mut due = Vec::new();
        let mut inner = self.lock();
        for parked in inner.parked.values_mut().filter(|parked| parked.look_at <= now) {
            if parked.is_due(now) {
                // Rung once: what wakes it takes it out.
                parked.look_at = now + SWEEP;
                due.push(parked.bell.clone());
            }
        }
        inner.has_sweeper = !inner.parked.is_empty();
        let goes_on = inner.has_sweeper;
        drop(inner);
        due.iter().for_each(|bell| bell.ring());
        goes_on
    }

    /// For metrics: databases on a thread, those that wait for one, and those that are parked.
    pub fn counts(&self) -> (usize, usize, usize) {
        let inner = self.lock();
        (inner.at_work, inner.waiting.len(), inner.parked.len())
    }
}

/// Looks after what is parked, for as long as something is.
fn sweep(crew: &Weak<Crew>) {
    while crew.upgrade().is_some_and(|crew| crew.look()) {
        thread::sleep(ROUND);
    }
}
