//! The capturing thread of one database: woken by events, it polls the source, seals, keeps the page map file and reads
//! slices of full copies between polls. It never waits for the network.
//!
//! When a segment is sealed: at once when the last one was sealed `sync-interval` ago or earlier, otherwise that long after
//! it; or when it reaches `segment-size`. So the first commit after a pause is shipped immediately, and under load one
//! segment is shipped per interval: a commit waits half an interval at the median.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::End;
use super::attach::Loss;
use super::begin::{Beginning, Begun, Ended, new_course};
use super::copy::{Copy, Step};
use super::crew::{Leave, Sight};
use super::pace::{LOOK, Pace};
use super::shared::{Backoff, Command, Course, Shared};
use crate::engine::choice::Choice;
use crate::engine::{Engine, EngineError, Poll, Resume, Source, TransactionSink};
use crate::position::{RepairReason, Term, Txid};
use crate::spool::{OpenSegment, Origin, PageMapFile};
use crate::status::{Place, State};
use crate::watcher::Watcher;

/// The page map file is written this long after the first change that it lacks.
const PAGE_MAP_DELAY: Duration = Duration::from_secs(5);
/// Polls of a last look: more commits than fit into these are left to the next start, where nothing is lost.
const LAST_POLLS: usize = 1000;
/// How long a last look waits for what keeps it from looking.
const LAST_LOOK: Duration = Duration::from_secs(5);
/// While paused, the thread wakes for commands; and this often, to show that it lives.
const PAUSED_ROUND: Duration = Duration::from_secs(60);
const LAST_LOOK_PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Capture {
    pub(super) shared: Arc<Shared>,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) runtime: Handle,
    pub(super) open: OpenSegment,
    pub(super) page_map_file: PageMapFile,
    /// `None` while the database cannot be captured.
    pub(super) source: Option<Box<dyn Source>>,
    /// For the first time that the source is opened; later it comes from local state.
    pub(super) resume: Option<Resume>,
    /// Why single commits are lost, where that is known before the source is opened again.
    pub(super) repair: Option<RepairReason>,
    pub(super) watcher: Option<Watcher>,
    /// What the source said when it was parked, for when it is opened again.
    pub(super) rested: Option<Vec<u8>>,
    pub(super) retry_at: Instant,
    pub(super) backoff: Backoff,
    next_poll: Instant,
    pace: Pace,
    last_seal: Option<Instant>,
    save_at: Option<Instant>,
    /// The first is being served.
    pub(super) copies: Vec<Copy>,
    pub(super) syncs: Vec<oneshot::Sender<Place>>,
    /// Somebody asked for the database to be let go of.
    pub(super) is_paused: bool,
    /// When this database got its thread, and when it last had a commit.
    pub(super) turn_since: Instant,
    pub(super) busy_at: Instant,
    /// The last look found nothing more to capture.
    pub(super) is_level: bool,
    /// The files as they were when the database was parked.
    pub(super) parked: Option<Sight>,
    /// Dropped last.
    pub(super) end: End,
}

/// Works on one database to its end, or until it is parked. `deferred` are commands that came before it could be.
pub(super) fn run(shared: Arc<Shared>, choice: Choice, runtime: Handle, mut deferred: Vec<Command>, end: End) {
    match end.own() {
        Ok(()) => {}
        Err(None) => return,
        Err(Some(until)) => return run_at(until, shared, choice, runtime, deferred, end),
    }
    let turn_since = Instant::now();
    let beginning =
        Beginning { shared: &shared, choice: &choice, runtime: &runtime, deferred: &mut deferred, turn_since };
    match beginning.run() {
        Ok((engine, begun)) => Capture::new(shared, engine, runtime, begun, end).run(deferred),
        Err(Ended::GaveWay(until)) => {
            end.lock.rest();
            run_at(until, shared, choice, runtime, deferred, end);
        }
        Err(Ended::ForGood) => {
            if !matches!(shared.status.state(), State::Failed(_)) {
                shared.status.set_state(State::Stopped);
            }
        }
    }
}

/// Begins again then, or when something happens.
fn run_at(until: Instant, shared: Arc<Shared>, choice: Choice, runtime: Handle, deferred: Vec<Command>, end: End) {
    let leave = Leave { sight: Sight::default(), is_watched: false, until: Some(until) };
    let again = shared.clone();
    shared.crew.park(&shared, leave, Box::new(move || run(again, choice, runtime, deferred, end)));
}

fn open_segment(shared: &Shared, course: &Course) -> OpenSegment {
    let origin = Origin { generation: course.generation, engine: course.engine, term: course.term.clone() };
    OpenSegment::new(shared.spool.clone(), shared.status.clone(), shared.clock.clone(), origin, course.base.clone())
}

impl Capture {
    fn new(shared: Arc<Shared>, engine: Arc<dyn Engine>, runtime: Handle, begun: Begun, end: End) -> Capture {
        let open = open_segment(&shared, &begun.course);
        shared.course.send_replace(Some(begun.course));
        let now = Instant::now();
        let repair = begun.resume.as_ref().and_then(|resume| resume.repair);
        Capture {
            engine,
            runtime,
            open,
            page_map_file: begun.page_map_file,
            source: None,
            resume: begun.resume,
            repair,
            watcher: None,
            rested: None,
            retry_at: now,
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(10)),
            next_poll: now,
            pace: Pace::default(),
            last_seal: None,
            save_at: None,
            copies: Vec::new(),
            syncs: Vec::new(),
            is_paused: false,
            turn_since: now,
            busy_at: now,
            is_level: false,
            parked: None,
            end,
            shared,
        }
    }

    pub(super) fn run(mut self, deferred: Vec<Command>) {
        let mut commands = deferred;
        loop {
            commands.extend(self.shared.take_commands());
            for command in std::mem::take(&mut commands) {
                match command {
                    Command::Sync(answer) => self.syncs.push(answer),
                    Command::Copy(messages, before) => self.copies.push(Copy::new(messages, before)),
                    Command::NewGeneration(why) => self.new_generation(&why),
                    Command::Pause(answer) => self.pause(answer),
                    Command::Resume => self.go_on(),
                    Command::Stop(answer) => return self.stop(answer),
                }
            }
            self.work();
            let deadline = self.deadline();
            if self.gives_way(deadline) {
                return self.park(deadline);
            }
            self.shared.status.rests(deadline.saturating_duration_since(Instant::now()));
            let rung = self.shared.bell.wait_until(deadline);
            if rung {
                let now = Instant::now();
                self.next_poll = now;
                self.retry_soon(now);
            }
        }
    }

    /// One round: everything that is due.
    fn work(&mut self) {
        let now = Instant::now();
        if self.is_paused {
            return;
        }
        if self.source.is_none() && now >= self.retry_at {
            self.attach();
        }
        if self.source.is_none() && self.shared.status.state() == State::Absent {
            // There is nothing to capture, so everything is.
            self.answer_syncs();
        }
        if self.source.is_some() && (now >= self.next_poll || !self.syncs.is_empty()) {
            self.poll();
        }
        if self.seal_at().is_some_and(|at| Instant::now() >= at) {
            self.seal();
        }
        if self.save_at.is_some_and(|at| Instant::now() >= at) {
            self.save_page_map();
        }
        if self.source.is_some() {
            self.copy();
        }
        self.arm();
    }

    /// File events while the database is quiet, the timer while it is busy.
    fn arm(&mut self) {
        let wanted = self.source.is_none() || !self.pace.is_busy();
        let Some(watcher) = self.watcher.as_mut().filter(|watcher| watcher.is_armed() != wanted) else { return };
        match watcher.set_armed(wanted) {
            // What happened while nobody watched is seen by one more look.
            Ok(()) => self.next_poll = self.next_poll.min(Instant::now() + if wanted { Duration::ZERO } else { LOOK }),
            Err(error) => {
                tracing::warn!("cannot watch {}: {error}", self.shared.settings.path.display());
                // The timer does the work until the watch begins anew with the next attachment.
                self.watcher = None;
            }
        }
    }

    fn deadline(&self) -> Instant {
        let now = Instant::now();
        if self.is_paused {
            return now + PAUSED_ROUND;
        }
        let can_copy = self.source.is_some() && self.copies.first().is_some_and(Copy::can_go);
        if can_copy && self.open.last().is_some() || self.source.is_some() && !self.syncs.is_empty() {
            return now;
        }
        let look = if self.source.is_some() { self.next_poll } else { self.retry_at };
        let seal = self.seal_at().filter(|_| self.source.is_some());
        let save = self.save_at.filter(|_| self.source.is_some());
        [Some(look), seal, save].into_iter().flatten().min().unwrap_or(look)
    }

    fn seal_at(&self) -> Option<Instant> {
        let since = self.open.since()?;
        if self.open.raw_bytes() >= self.shared.settings.segment_size {
            return Some(since);
        }
        let interval = self.shared.settings.sync_interval;
        Some(self.last_seal.map_or(since, |sealed| since.max(sealed + interval)))
    }

    /// One look at the database. `None`: the source is gone.
    fn poll(&mut self) -> Option<Poll> {
        let source = self.source.as_mut()?;
        let polled = source.poll(&mut self.open);
        let poll = match polled {
            Ok(poll) => poll,
            Err(error) => {
                self.open.abandon();
                self.lose(error);
                return None;
            }
        };
        self.backoff.reset();
        let now = Instant::now();
        self.pace.looked(now, poll.commits);
        let longest = if self.pace.is_busy() { LOOK } else { self.shared.settings.poll_interval };
        self.next_poll = now + poll.again_in.unwrap_or(Duration::MAX).min(longest);
        self.shared.status.wal(poll.wal_bytes, poll.checkpoints);
        if poll.first_read.is_none() && (poll.commits > 0 || poll.is_level) {
            self.shared.status.level(self.next_poll - now);
        }
        self.shared.status.set_state(match poll.first_read {
            Some((done, total)) => State::FirstRead { done, total },
            None => State::Running,
        });
        self.is_level = poll.commits == 0 && poll.is_level && poll.first_read.is_none();
        if poll.commits > 0 {
            self.busy_at = now;
            self.save_at.get_or_insert_with(|| Instant::now() + PAGE_MAP_DELAY);
        }
        if poll.commits == 0 && poll.first_read.is_none() && poll.is_level {
            self.answer_syncs();
        }
        Some(poll)
    }

    /// Everything that was committed is captured: seals it and says where it ends.
    fn answer_syncs(&mut self) {
        if self.syncs.is_empty() || !self.seal() {
            return;
        }
        let place = self.open.place();
        for answer in self.syncs.drain(..) {
            // Who no longer waits needs no answer.
            answer.send(place).ok();
        }
    }

    /// Seals what is open. Is nothing open now?
    pub(super) fn seal(&mut self) -> bool {
        match self.open.seal() {
            Ok(false) => true,
            Ok(true) => {
                self.last_seal = Some(Instant::now());
                // The first page map must be on disk soon: without it, local state is worth nothing. And what it does not
                // hold yet cannot be removed from a spool that fills up.
                let is_filling = self.shared.spool.used_bytes() > self.shared.spool.limit_bytes() / 2;
                if self.page_map_file.place() == Place::ZERO || self.open.changes().is_many() || is_filling {
                    self.save_page_map();
                }
                true
            }
            Err(error) => {
                self.lose(EngineError::Sink(error));
                false
            }
        }
    }

    /// Writes the page map, which must be as of a sealed commit; when one is open, after the next seal.
    fn save_page_map(&mut self) {
        if self.open.since().is_some() && !self.seal() {
            return;
        }
        self.save_at = None;
        let (Some(point), Some(map)) = (self.open.last().cloned(), self.source.as_ref().and_then(|s| s.page_map()))
        else {
            return;
        };
        if self.open.changes().is_empty() && self.page_map_file.place() == point.place() {
            return;
        }
        match self.page_map_file.save(&point, map, self.open.changes()) {
            Ok(()) => self.shared.spool.set_in_page_map(self.page_map_file.place()),
            Err(error) => {
                tracing::warn!("cannot write the page map: {error}");
                self.shared.status.error("spool", format!("cannot write the page map: {error}"));
                self.save_at = Some(Instant::now() + PAGE_MAP_DELAY);
            }
        }
    }

    /// The next step of the full copy that is being served.
    fn copy(&mut self) {
        let (Some(copy), Some(source)) = (self.copies.first_mut(), self.source.as_mut()) else { return };
        if self.open.last().is_none() {
            return;
        }
        match copy.step(source.as_mut(), self.open.place().txid) {
            Ok(Step::Went | Step::Blocked) => {}
            Ok(Step::Gone) => drop(self.copies.remove(0)),
            Ok(Step::Read) => self.end_copy(),
            Err(error) => self.lose(error),
        }
    }

    /// The copy is read: what was captured meanwhile is sealed, and the copy is exact from the last of it on.
    fn end_copy(&mut self) {
        if self.poll().is_none() || !self.seal() {
            return;
        }
        let (Some(source), Some(point)) = (&self.source, self.open.last()) else { return };
        let Some(map) = source.page_map() else { return };
        let term = Term(self.open.origin().term.load(Ordering::Acquire));
        if self.copies[0].end(point, term, map.hashes().to_vec()) {
            self.copies.remove(0);
        }
    }

    /// Lets go of the database; what was handed over stays.
    pub(super) fn detach(&mut self) {
        self.source = None;
        for copy in &mut self.copies {
            copy.restart();
        }
    }

    fn new_generation(&mut self, why: &str) {
        self.detach();
        if !self.seal() {
            // Its commits are in the old generation's open segment; the next start seals them.
            tracing::error!("the last segment of the old generation could not be sealed");
        }
        let newest = self.shared.contacts().iter().flatten().filter_map(super::resume::Contact::generation).max();
        let course = new_course(&self.shared, self.engine.kind(), newest, why);
        self.begin_course(course);
    }

    pub(super) fn begin_course(&mut self, course: Course) {
        self.open = open_segment(&self.shared, &course);
        self.page_map_file = PageMapFile::new(&self.shared.spool);
        (self.resume, self.repair) = (None, None);
        self.retry_at = Instant::now();
        self.shared.course.send_replace(Some(course));
    }

    /// Nothing is asked for, and nothing is left to be done for what was captured.
    pub(super) fn has_nothing_to_do(&self) -> bool {
        self.copies.is_empty() && self.syncs.is_empty() && self.open.since().is_none()
    }

    pub(super) fn poll_at_once(&mut self) {
        self.next_poll = Instant::now();
    }

    pub(super) fn poll_not_before(&mut self, at: Instant) {
        self.next_poll = at;
    }

    fn stop(mut self, answer: oneshot::Sender<Place>) {
        self.look_again();
        let place = self.let_go();
        self.shared.status.set_state(State::Stopped);
        // Nobody may be waiting for the answer any more.
        answer.send(place).ok();
    }

    fn pause(&mut self, answer: oneshot::Sender<Place>) {
        self.look_again();
        let place = self.let_go();
        // Its events are news for nobody.
        self.watcher = None;
        self.is_paused = true;
        self.shared.status.set_state(State::Paused);
        answer.send(place).ok();
    }

    fn go_on(&mut self) {
        if self.is_paused {
            self.is_paused = false;
            self.shared.status.set_state(State::Starting);
            self.retry_at = Instant::now();
        }
    }

    /// A last look, and nothing of the database is held any more: where captured history ends.
    pub(super) fn let_go(&mut self) -> Place {
        let end = Instant::now() + LAST_LOOK;
        for _ in 0..LAST_POLLS {
            match self.poll() {
                Some(poll) if poll.commits > 0 => {}
                // A checkpoint is under way, or the like; it passes.
                Some(poll) if !poll.is_level && poll.first_read.is_none() && Instant::now() < end => {
                    std::thread::sleep(poll.again_in.unwrap_or(LOOK).min(LAST_LOOK_PAUSE));
                }
                _ => break,
            }
        }
        if self.seal() {
            self.save_page_map();
        }
        self.rested = self.source.as_mut().filter(|_| self.is_level).and_then(|source| source.rest());
        self.detach();
        let place = self.open.place();
        if place.txid == Txid::ZERO { Place::ZERO } else { place }
    }

    fn lose(&mut self, error: EngineError) {
        let loss = Loss::of(&error);
        self.lost(loss, &error);
    }
}
