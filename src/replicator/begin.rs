//! Before capture: local state is made whole, the replicas are asked, and it is decided where to go on.
//!
//! An outage at start: with local state, capture begins after `PATIENCE_WITH_STATE` whether or not a replica answered,
//! because the spool holds what they lack. Without local state it waits until one replica answered, however long that
//! takes, and gives the others `PATIENCE`: a new generation begun blindly would cut a history in two. Nothing is lost by
//! waiting, because the database itself holds what is not captured yet. A replica that answers later and turns out to
//! contradict the line that was chosen makes capture begin a new generation (`ship.rs`).

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::rebuild;
use super::resume::{Contact, Decision, decide, next_term};
use super::shared::{Backoff, Command, Course, Shared};
use crate::checksum::PageMap;
use crate::engine::choice::Choice;
use crate::engine::{Engine, EngineKind, Resume};
use crate::position::{Generation, RepairReason, Term, TimeMs, Txid};
use crate::spool::{Changes, PageMapFile, ResumePoint, disk, roll_forward};
use crate::status::{Place, State};
use crate::watcher::Watcher;

const PATIENCE_WITH_STATE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);
/// A database that gave its thread to another one before it could begin tries again so soon.
const AGAIN: Duration = Duration::from_secs(5);

/// Where capture goes on.
pub(super) struct Begun {
    pub course: Course,
    pub page_map_file: PageMapFile,
    pub resume: Option<Resume>,
}

/// Why capture does not begin.
pub(super) enum Ended {
    /// It was asked to stop, or cannot go on.
    ForGood,
    /// Another database needs the thread; to begin again then, or when the bell rings.
    GaveWay(Instant),
}

pub(super) struct Beginning<'a> {
    pub shared: &'a Shared,
    pub choice: &'a Choice,
    pub runtime: &'a Handle,
    /// Commands that came meanwhile and wait for capture.
    pub deferred: &'a mut Vec<Command>,
    /// When this database got its thread.
    pub turn_since: Instant,
}

impl Beginning<'_> {
    pub fn run(mut self) -> Result<(Arc<dyn Engine>, Begun), Ended> {
        self.salvage()?;
        let mut page_map_file = PageMapFile::new(&self.shared.spool);
        let local = self.local(&mut page_map_file);
        let engine = self.engine(local.as_ref().map(|(point, _)| point.engine))?;
        let begun = self.begin(engine.kind(), page_map_file, local)?;
        Ok((engine, begun))
    }

    fn begin(
        &mut self,
        engine: EngineKind,
        mut page_map_file: PageMapFile,
        local: Option<(ResumePoint, PageMap)>,
    ) -> Result<Begun, Ended> {
        self.wait_for_replicas(local.is_some())?;
        let contacts = self.shared.contacts().clone();
        let (point, map, repair) = match decide(local.as_ref().map(|(point, _)| point), &self.shared.spool, &contacts) {
            Decision::Local => local.map(|(point, map)| (point, map, None)).ok_or(Ended::ForGood)?,
            Decision::Adopt { replica, is_rollback } => match self.adopt(engine, replica, &contacts, is_rollback)? {
                Some((point, map)) => {
                    page_map_file = PageMapFile::new(&self.shared.spool);
                    (point, map, is_rollback.then_some(RepairReason::ReplicaAhead))
                }
                None => {
                    return Ok(self.new_generation(
                        engine,
                        "its page map can be rebuilt from nowhere",
                        page_map_file,
                        &contacts,
                    ));
                }
            },
            Decision::First => {
                return Ok(self.new_generation(engine, "there is no history anywhere", page_map_file, &contacts));
            }
            Decision::Contradiction => {
                return Ok(self.new_generation(engine, "histories contradict each other", page_map_file, &contacts));
            }
        };
        if page_map_file.place() != point.place() {
            // What was rolled forward or fetched is not to be rolled forward or fetched again.
            if let Err(error) = page_map_file.save(&point, &map, &mut Changes::default()) {
                self.shared.status.error("spool", format!("cannot write the page map: {error}"));
            }
        }
        self.shared.spool.set_in_page_map(page_map_file.place());
        let term = self.term(point.generation, &contacts)?;
        let course = Course {
            generation: point.generation,
            engine,
            term: Arc::new(AtomicU32::new(term.0)),
            base: Some(point.clone()),
        };
        self.shared.status.generation(point.generation, point.commit.txid, false);
        let resume = Resume {
            rested: None,
            txid: point.commit.txid,
            lengths: point.commit.lengths,
            position: point.position,
            page_map: map,
            repair,
        };
        Ok(Begun { course, page_map_file, resume: Some(resume) })
    }

    /// Seals what a crash left open; again and again where there is no room for that.
    fn salvage(&mut self) -> Result<(), Ended> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        while let Err(error) = self.shared.spool.salvage() {
            self.shared.status.error("spool", format!("cannot finish the open segment: {error}"));
            if disk::is_full(&error) {
                let (used_bytes, limit_bytes) = (self.shared.spool.used_bytes(), self.shared.spool.limit_bytes());
                self.shared.status.set_state(State::SpoolFull { used_bytes, limit_bytes });
            }
            self.wait(backoff.deadline())?;
        }
        self.shared.status.set_state(State::Starting);
        Ok(())
    }

    fn local(&mut self, file: &mut PageMapFile) -> Option<(ResumePoint, PageMap)> {
        file.load(&self.shared.spool).unwrap_or_else(|error| {
            self.shared.status.error("spool", format!("cannot read the page map: {error}"));
            None
        })
    }

    /// The engine: that of local state, else that of the file. Without either, waits for the file.
    fn engine(&mut self, local: Option<EngineKind>) -> Result<Arc<dyn Engine>, Ended> {
        if let Some(kind) = local {
            return self.choice.of_kind(kind).ok_or_else(|| {
                self.fail(format!("the state directory is that of a {kind} database: remove it or name another"))
            });
        }
        let path = self.shared.settings.path.clone();
        let mut backoff = Backoff::new(Duration::from_millis(50), self.shared.settings.poll_interval);
        let mut watcher = None;
        loop {
            // Before the look, so that nothing can come between. The directory may not exist yet: then the timer looks.
            watcher = watcher.or_else(|| Watcher::start(&path, self.shared.bell.clone()).ok());
            match self.choice.look(&path) {
                Ok(Some(engine)) => {
                    self.shared.status.set_state(State::Starting);
                    return Ok(engine);
                }
                Ok(None) => self.shared.status.set_state(State::Absent),
                Err(error) => self.shared.status.set_state(State::NotCapturable(error.to_string())),
            }
            self.wait(backoff.deadline())?;
            // There is nothing to capture, so everything is.
            for command in std::mem::take(self.deferred) {
                match command {
                    Command::Sync(answer) => _ = answer.send(Place::ZERO),
                    command => self.deferred.push(command),
                }
            }
        }
    }

    fn fail(&self, text: String) -> Ended {
        tracing::error!("{text}");
        self.shared.status.error("start", &text);
        self.shared.status.set_state(State::Failed(text));
        Ended::ForGood
    }

    /// Waits, and takes note of commands. A wish to stop ends everything.
    fn wait(&mut self, deadline: Instant) -> Result<(), Ended> {
        self.shared.bell.wait_until(deadline);
        for command in self.shared.take_commands() {
            match command {
                Command::Stop(answer) => {
                    let place = self.shared.spool.last().map_or(Place::ZERO, |object| object.last());
                    // Nobody may be waiting for the answer any more.
                    answer.send(place).ok();
                    return Err(Ended::ForGood);
                }
                command => self.deferred.push(command),
            }
        }
        let waited = self.turn_since.elapsed();
        match self.shared.crew.gives_way(waited, waited) {
            true => Err(Ended::GaveWay(Instant::now() + AGAIN)),
            false => Ok(()),
        }
    }

    fn wait_for_replicas(&mut self, has_state: bool) -> Result<(), Ended> {
        let began = self.shared.began;
        loop {
            let replicas = self.shared.status.snapshot().replicas;
            let contacts = self.shared.contacts().clone();
            let is_final = |n: usize| replicas[n].state.is_final();
            if (0..contacts.len()).all(is_final) {
                return Err(self.fail("no replica can be written to".to_owned()));
            }
            if contacts.iter().enumerate().all(|(n, contact)| contact.is_some() || is_final(n)) {
                return Ok(());
            }
            let any = contacts.iter().any(Option::is_some);
            let patience = if has_state { PATIENCE_WITH_STATE } else { PATIENCE };
            if (has_state || any) && began.elapsed() >= patience {
                tracing::warn!("not every replica answered; going on without");
                return Ok(());
            }
            if !any && began.elapsed() >= PATIENCE_WITH_STATE {
                self.shared.status.set_state(State::WaitingForReplica);
            }
            self.wait(Instant::now() + Duration::from_millis(500))?;
        }
    }

    /// The state that a replica holds, with what the spool holds behind it. `None` when it cannot be rebuilt.
    fn adopt(
        &mut self,
        engine: EngineKind,
        replica: usize,
        contacts: &[Option<Contact>],
        is_rollback: bool,
    ) -> Result<Option<(ResumePoint, PageMap)>, Ended> {
        let Some((contact, point)) = contacts[replica].as_ref().and_then(|c| Some((c, c.point.as_ref()?))) else {
            return Ok(None);
        };
        if point.engine != engine {
            let text = format!("the replica is that of a {} database: give each database its own prefix", point.engine);
            return Err(self.fail(text));
        }
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        let map = loop {
            match self.runtime.block_on(rebuild::page_map(&self.shared.replicas[replica], contact)) {
                Ok(map) => break map,
                Err(error) if error.is_retryable() => {
                    self.shared.status.replica_error(replica, error.kind(), &error);
                    self.wait(backoff.deadline())?;
                }
                Err(error) => {
                    self.shared.status.replica_error(replica, error.kind(), &error);
                    break None;
                }
            }
        };
        let Some(map) = map else { return Ok(None) };
        let (place, name) = (point.place(), self.shared.replicas[replica].describe());
        if is_rollback {
            tracing::warn!(at = %place, replica = name, "the replica holds commits that local state does not know; going on behind them");
        } else {
            tracing::info!(at = %place, replica = name, "no local state; going on behind what the replica holds");
            if let Some(state) = roll_forward(&self.shared.spool, point.clone(), map.clone()) {
                return Ok(Some(state));
            }
        }
        match self.shared.spool.discard_after(place) {
            Ok(0) => {}
            Ok(count) => tracing::warn!(count, "segments in the spool contradict the replica and were set aside"),
            Err(error) => return Err(self.fail(format!("cannot set segments in the spool aside: {error}"))),
        }
        Ok(Some((point.clone(), map)))
    }

    fn new_generation(
        &self,
        engine: EngineKind,
        why: &str,
        page_map_file: PageMapFile,
        contacts: &[Option<Contact>],
    ) -> Begun {
        let newest = contacts.iter().flatten().filter_map(Contact::generation).max();
        let course = new_course(self.shared, engine, newest, why);
        Begun { course, page_map_file, resume: None }
    }

    /// Claims are made by the shipping tasks; this is what they begin with. It survives in local state, so that it moves on
    /// even while no replica can be reached.
    fn term(&self, generation: Generation, contacts: &[Option<Contact>]) -> Result<Term, Ended> {
        let path = self.shared.spool.state_dir().join("term");
        let stored = std::fs::read_to_string(&path).unwrap_or_default();
        let mut words = stored.split_whitespace();
        let of: Option<Generation> = words.next().and_then(|word| word.parse().ok());
        let local: Option<Term> = words.next().and_then(|word| word.parse().ok()).filter(|_| of == Some(generation));
        let in_spool = self.shared.spool.objects().into_iter().filter(|o| o.name.generation == generation);
        let local = in_spool.map(|object| object.name.term).chain(local).max();
        let Some(term) = next_term(generation, local, contacts) else {
            return Err(self.fail("every term of this generation was claimed".to_owned()));
        };
        if let Err(error) = self.shared.spool.disk().replace(&path, format!("{generation} {term}\n").as_bytes()) {
            // Another start would claim the same term and be refused where this process used it.
            self.shared.status.error("spool", format!("cannot write {}: {error}", path.display()));
        }
        Ok(term)
    }
}

/// Begins a new generation, after every one that is known of.
pub(super) fn new_course(shared: &Shared, engine: EngineKind, newest: Option<Generation>, why: &str) -> Course {
    let in_spool = shared.spool.last().map(|object| object.name.generation);
    let newest = newest.max(in_spool).max(shared.course.borrow().as_ref().map(|course| course.generation));
    let after = newest.map_or(TimeMs(0), |generation| TimeMs(generation.began().0 + 1));
    let generation = Generation::new((shared.clock)().max(after), rand::random());
    if newest.is_none() {
        tracing::info!(%generation, "the first generation begins: {why}");
    } else {
        tracing::warn!(%generation, "a new generation begins: {why}");
    }
    shared.status.generation(generation, Txid::ZERO, true);
    Course { generation, engine, term: Arc::new(AtomicU32::new(1)), base: None }
}
