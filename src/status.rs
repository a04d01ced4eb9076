//! The live state of one database and its replicas: written by the tasks that work on it, rendered elsewhere.
//!
//! A `Status` is cheap to clone and to read. `snapshot` copies everything at one moment, so that what is rendered is
//! consistent in itself.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

use crate::position::{Commit, CommitKind, Generation, RepairReason, TimeMs, Txid, whole_ms};

mod facts;
mod health;
mod pulse;

pub use facts::{
    ERROR_KINDS, GapRecord, HISTOGRAM_BOUNDS_MS, Histogram, Proofs, ReplicaState, ReplicaStatus, SnapshotProgress,
    SnapshotReason, State, StatusSnapshot,
};
pub use health::{Aims, MAX_LAG};
use pulse::Pulse;

/// Tells the wall clock's time. Injected, so that tests decide what time it is.
pub type Clock = Arc<dyn Fn() -> TimeMs + Send + Sync>;

/// The machine's own clock.
pub fn system_clock() -> Clock {
    Arc::new(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        TimeMs(whole_ms(since).min(TimeMs::MAX.0))
    })
}

/// A commit among all generations of a database: orders them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub generation: Generation,
    pub txid: Txid,
}

impl Place {
    /// Before any commit of any generation.
    pub const ZERO: Place = Place { generation: Generation(0), txid: Txid::ZERO };
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.generation, self.txid.0)
    }
}

/// Gaps that are remembered by one process; the replicas themselves say all of them.
const MAX_GAP_RECORDS: usize = 100;

/// Sealed or open commits that are not in every replica: to tell the lag.
#[derive(Debug, Clone, Copy)]
struct Pending {
    last: Place,
    first_time: TimeMs,
    bytes: u64,
}

#[derive(Debug)]
struct Inner {
    now: StatusSnapshot,
    /// Sealed segments, oldest first, until every replica has them.
    sealed: VecDeque<Pending>,
    /// Time of the first commit of the open segment.
    open_since: Option<TimeMs>,
    pulse: Pulse,
}

impl Inner {
    fn behind(&self, replica: &ReplicaStatus) -> impl Iterator<Item = &Pending> {
        let shipped = replica.shipped;
        self.sealed.iter().filter(move |pending| pending.last > shipped)
    }

    fn lag(&self, replica: &ReplicaStatus, now: TimeMs) -> Duration {
        let oldest = self.behind(replica).map(|pending| pending.first_time).next().or(self.open_since);
        // Where nothing was ever captured, there is nothing that a snapshot could lack.
        let bridging = replica.stale_since.filter(|_| self.now.captured > Txid::ZERO);
        let since = oldest.into_iter().chain(bridging).min();
        let seen = since.map_or(Duration::ZERO, |time| Duration::from_millis(now.0.saturating_sub(time.0)));
        seen.max(self.pulse.unseen(&self.now.state, now))
    }
}

/// Shared by every task that works on one database.
#[derive(Clone)]
pub struct Status {
    inner: Arc<Mutex<Inner>>,
    changed: Arc<watch::Sender<u64>>,
    sealed: Arc<watch::Sender<Place>>,
    clock: Clock,
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Status").field(&self.inner).finish()
    }
}

impl Status {
    pub fn new(
        database: &str,
        replicas: impl IntoIterator<Item = String>,
        spool_limit_bytes: u64,
        clock: Clock,
    ) -> Status {
        let replicas = replicas.into_iter().map(|name| ReplicaStatus {
            name,
            state: ReplicaState::Connecting,
            shipped: Place::ZERO,
            shipped_bytes: 0,
            lag: Duration::ZERO,
            lag_bytes: 0,
            last_success: None,
            last_error: None,
            fencing: None,
            snapshot: None,
            snapshot_reason: None,
            snapshot_progress: None,
            snapshot_duration: None,
            stale_since: None,
            files: None,
            files_left_out: 0,
            files_looked: 0,
            compacted: [(0, Txid::ZERO); 3],
            verify: Proofs::default(),
            drill: Proofs::default(),
            capture_to_store: Histogram::default(),
        });
        let now = StatusSnapshot {
            database: database.to_owned(),
            state: State::Starting,
            is_parked: false,
            generation: None,
            captured: Txid::ZERO,
            captured_time: None,
            sealed: Txid::ZERO,
            captured_bytes: 0,
            spool_bytes: 0,
            spool_limit_bytes,
            database_bytes: 0,
            wal_bytes: 0,
            checkpoints_total: 0,
            gaps: Vec::new(),
            gaps_total: 0,
            generations_total: 0,
            errors: BTreeMap::new(),
            last_error: None,
            aims: Aims::default(),
            overdue: Duration::ZERO,
            replicas: replicas.collect(),
        };
        let inner = Inner { now, sealed: VecDeque::new(), open_since: None, pulse: Pulse::new(clock()) };
        Status {
            inner: Arc::new(Mutex::new(inner)),
            changed: Arc::new(watch::channel(0).0),
            sealed: Arc::new(watch::channel(Place::ZERO).0),
            clock,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn update<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
        result
    }

    /// Everything, as of now. Lag goes on growing while a store is down.
    pub fn snapshot(&self) -> StatusSnapshot {
        let now = (self.clock)();
        let inner = self.lock();
        let mut snapshot = inner.now.clone();
        for replica in &mut snapshot.replicas {
            replica.lag_bytes = inner.behind(replica).map(|pending| pending.bytes).sum();
            replica.lag = inner.lag(replica, now);
        }
        snapshot.overdue = inner.pulse.overdue(&snapshot.state, now);
        snapshot
    }

    /// The lag of each replica, as of now, without a copy of everything.
    pub fn lags(&self) -> Vec<Duration> {
        let now = (self.clock)();
        let inner = self.lock();
        inner.now.replicas.iter().map(|replica| inner.lag(replica, now)).collect()
    }

    /// Wakes whenever something changes.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Waits until `is_there` holds.
    pub async fn wait_for(&self, is_there: impl Fn(&StatusSnapshot) -> bool) {
        let mut changes = self.watch();
        while !is_there(&self.lock().now) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    pub fn state(&self) -> State {
        self.lock().now.state.clone()
    }

    pub fn set_aims(&self, aims: Aims) {
        self.lock().now.aims = aims;
    }

    /// Everything that was committed is captured; the next look comes within `next`. Wakes nobody.
    pub fn level(&self, next: Duration) {
        let now = (self.clock)();
        self.lock().pulse.level(now, next);
    }

    /// The capturing thread is alive, and will be again after `rest` at most. Wakes nobody.
    pub fn rests(&self, rest: Duration) {
        let now = (self.clock)();
        self.lock().pulse.rests(now, rest);
    }

    /// Nothing of the database is held: it is at rest, or others are at work.
    pub fn set_parked(&self, is_parked: bool) {
        self.lock().now.is_parked = is_parked;
    }

    pub fn set_state(&self, state: State) {
        if state == State::Absent {
            let now = (self.clock)();
            self.lock().pulse.absent(now);
        }
        if self.lock().now.state != state {
            self.update(|inner| inner.now.state = state);
        }
    }

    /// Counts an error and remembers it as the last one.
    pub fn error(&self, kind: &'static str, message: impl fmt::Display) {
        let now = (self.clock)();
        let message = message.to_string();
        self.update(|inner| {
            *inner.now.errors.entry(kind).or_default() += 1;
            inner.now.last_error = Some((now, message));
        });
    }

    pub fn gap(&self, gap: GapRecord) {
        self.update(|inner| {
            inner.now.gaps_total += 1;
            inner.now.gaps.push(gap);
            let excess = inner.now.gaps.len().saturating_sub(MAX_GAP_RECORDS);
            inner.now.gaps.drain(..excess);
        });
    }

    pub fn generation(&self, generation: Generation, at: Txid, is_new: bool) {
        self.update(|inner| {
            inner.now.generation = Some(generation);
            (inner.now.captured, inner.now.sealed) = (at, at);
            inner.now.generations_total += u64::from(is_new);
        });
    }

    /// A commit went into the open segment.
    pub fn captured(&self, generation: Generation, commit: &Commit) {
        self.update(|inner| {
            if let CommitKind::Repair(reason) = commit.kind {
                inner.now.gaps_total += 1;
                let after = Txid(commit.txid.0.saturating_sub(1));
                let reason = reason_text(reason).to_owned();
                let gap = GapRecord { replica: None, generation, after, at: commit.txid, time: commit.time, reason };
                inner.now.gaps.push(gap);
            }
            inner.now.captured = commit.txid;
            inner.now.captured_time = Some(commit.time);
            inner.now.database_bytes = commit.lengths.main;
            inner.open_since.get_or_insert(commit.time);
        });
    }

    /// A segment is finished and in the spool.
    pub fn sealed(&self, last: Place, first_time: TimeMs, bytes: u64) {
        self.update(|inner| {
            inner.open_since = None;
            inner.now.sealed = last.txid;
            inner.now.captured_bytes += bytes;
            inner.sealed.push_back(Pending { last, first_time, bytes });
        });
        self.sealed.send_replace(last);
    }

    /// Wakes whenever a segment is sealed: there is something to ship.
    pub fn watch_sealed(&self) -> watch::Receiver<Place> {
        self.sealed.subscribe()
    }

    /// A segment was found in the spool at start.
    pub fn found(&self, last: Place, first_time: TimeMs, bytes: u64) {
        self.update(|inner| inner.sealed.push_back(Pending { last, first_time, bytes }));
    }

    pub fn spool_bytes(&self, bytes: u64) {
        if self.lock().now.spool_bytes != bytes {
            self.update(|inner| inner.now.spool_bytes = bytes);
        }
    }

    /// What a look saw of the engine's WAL. Wakes nobody.
    pub fn wal(&self, bytes: u64, checkpoints: u64) {
        let now = &mut self.lock().now;
        now.wal_bytes = bytes;
        now.checkpoints_total += checkpoints;
    }

    pub fn replica_name(&self, index: usize) -> String {
        self.lock().now.replicas[index].name.clone()
    }

    pub fn replica(&self, index: usize, change: impl FnOnce(&mut ReplicaStatus)) {
        self.update(|inner| change(&mut inner.now.replicas[index]));
    }

    pub fn replica_error(&self, index: usize, kind: &'static str, message: impl fmt::Display) {
        let now = (self.clock)();
        let message = message.to_string();
        self.error(kind, &message);
        self.replica(index, |replica| replica.last_error = Some((now, message)));
    }

    /// Everything up to `place` is in the replica.
    pub fn shipped(&self, index: usize, place: Place, bytes: u64) {
        let now = (self.clock)();
        self.update(|inner| {
            for pending in &inner.sealed {
                let replica = &mut inner.now.replicas[index];
                if bytes > 0 && pending.last > replica.shipped && pending.last <= place {
                    replica.capture_to_store.add(now.0.saturating_sub(pending.first_time.0));
                }
            }
            let replica = &mut inner.now.replicas[index];
            replica.shipped = place;
            replica.shipped_bytes += bytes;
            if bytes > 0 {
                replica.last_success = Some(now);
            }
            let everywhere = inner.now.replicas.iter().filter(|r| !r.state.is_final()).map(|r| r.shipped).min();
            while let (Some(front), Some(everywhere)) = (inner.sealed.front(), everywhere) {
                if front.last > everywhere {
                    break;
                }
                inner.sealed.pop_front();
            }
        });
    }
}

/// For people: why single commits are missing.
pub fn reason_text(reason: RepairReason) -> &'static str {
    match reason {
        RepairReason::Away => "replicate was not running while the database discarded log",
        RepairReason::LogDiscarded => "the database's log was discarded before it was captured",
        RepairReason::FileReplaced => "the database's file was replaced or rewritten",
        RepairReason::ReplicaAhead => "the replica held commits that the database no longer has",
        RepairReason::SpoolFull => "the spool was full",
    }
}
