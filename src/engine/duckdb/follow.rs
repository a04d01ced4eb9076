//! Following the WAL of the captured iteration, commit by commit.

use std::time::{Duration, Instant};

use super::disk::{WalFile, io_error, side_wal_path};
use super::source::{DuckdbSource, ENCRYPTED_MARKER, Flow, SOON, Step, Still};
use super::tail::{Located, Tail, framing, header, locate, pieces, relocate};
use super::wal::{Framing, Scan, WalCommit, WalHeader, scan};
use crate::engine::{EngineError, TransactionSink};
use crate::extent::{Extent, FileId};
use crate::position::RepairReason;

/// Bytes of the WAL that one poll looks through.
const BUDGET_BYTES: u64 = 64 * 1024 * 1024;
/// How much longer than a look through a transaction that is not whole yet the pause after it is.
const RESTS_PER_SCAN: u32 = 5;
/// How long a WAL may carry another iteration than the file: DuckDB replaces it within moments.
const ITERATION_PATIENCE: Duration = Duration::from_secs(10);
/// How long a WAL entry may fail to verify while more bytes follow it.
const BROKEN_PATIENCE: Duration = Duration::from_secs(10);

/// Which file a commit stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    Wal,
    Side,
}

impl DuckdbSource {
    /// Hands on every commit that is in the WAL and was not captured. When to look again, and whether nothing was left behind.
    pub(super) fn follow(
        &mut self,
        sink: &mut dyn TransactionSink,
        commits: &mut u64,
    ) -> Step<(Option<Duration>, bool)> {
        let Some(head) = self.find_wal()? else {
            let waits = self.waits.iteration.is_some();
            return Ok((waits.then_some(SOON), !waits));
        };
        let begin = Instant::now();
        if let Some(rest) = self.waits.rest_until.map(|until| until.saturating_duration_since(begin))
            && !rest.is_zero()
        {
            return Ok((Some(rest), false));
        }
        let (found, framing) = self.scan_wal(&head)?;
        // A large transaction is looked through anew until it is whole: that must not cost more the longer it takes.
        let rest = begin.elapsed() * RESTS_PER_SCAN;
        self.waits.rest_until = (found.unfinished > 0 && found.commits.is_empty()).then(|| begin + rest);
        self.check_broken(&found)?;
        let mut ready = found.commits.clone();
        self.hold_back(&found, framing, &mut ready)?;
        let cut = ready.len() < found.commits.len();
        if !ready.is_empty() {
            self.prove_pairing()?;
            self.hand_on(sink, From::Wal, &ready, head.len, commits)?;
        }
        if found.more {
            return Ok((Some(Duration::ZERO), false));
        }
        let mut pending = cut;
        if !cut && found.unfinished == 0 && found.marker.is_some() {
            pending = self.main.is_held()?;
            self.follow_side(sink, head.len, commits)?;
        }
        let in_flight = found.unfinished > 0 && self.main.is_held()?;
        let again = if in_flight { SOON.max(rest) } else { SOON };
        Ok(((pending || in_flight).then_some(again), !cut))
    }

    /// Opens the iteration's WAL, or stays with the one that is held. `None` when there is none to read (yet).
    fn find_wal(&mut self) -> Step<Option<WalHeader>> {
        let Some(iteration) = &self.captured else { return Ok(None) };
        let Located::File(wal) = locate(&self.path, iteration)? else {
            if self.tail.len > 0 {
                return Err(self.lost_wal("its WAL is gone")?);
            }
            self.waits.iteration = None;
            return Ok(None);
        };
        let held = self.tail.wal.as_ref().is_some_and(|held| held.key == wal.key);
        if !held && self.tail.len == 0 {
            let stale_iteration = self.tail.stale_iteration;
            self.tail = Tail { wal: Some(wal), stale_iteration, ..Tail::default() };
        } else if !held {
            // After a crash DuckDB 1.5 and newer writes a new file with the same beginning.
            match relocate(&self.path, iteration, wal, self.tail.len, self.tail.hash.value())? {
                Some(tail) => self.tail = tail,
                None => return Err(self.lost_wal("its WAL was replaced by another one")?),
            }
        }
        let Some(wal) = &self.tail.wal else { return Ok(None) };
        if wal.size()? < self.tail.at {
            return Err(self.lost_wal("its WAL lost commits that had been captured")?);
        }
        let Some(head) = header(wal)? else { return Ok(None) };
        let foreign = match head.iteration {
            None | Some(0) => false,
            Some(number) if iteration.is_encrypted() => Some(number) == self.tail.stale_iteration,
            Some(number) => number != iteration.number(),
        };
        if !foreign {
            self.waits.iteration = None;
            self.tail.iteration = head.iteration;
            return Ok(Some(head));
        }
        self.prove_pairing()?;
        let since = *self.waits.iteration.get_or_insert_with(Instant::now);
        if since.elapsed() > ITERATION_PATIENCE && self.main.is_held()? {
            return Err(Flow::Fail(EngineError::Damaged(
                "the WAL belongs to another state of the file than the one its headers show".into(),
            )));
        }
        self.tail = Tail { stale_iteration: self.tail.stale_iteration, ..Tail::default() };
        Ok(None)
    }

    /// The WAL is not what was captured: either a new iteration began, or the database went back.
    fn lost_wal(&mut self, detail: &str) -> Step<Flow> {
        self.prove_pairing()?;
        Ok(Flow::Fail(EngineError::Gap { reason: RepairReason::ReplicaAhead, detail: detail.into() }))
    }

    /// What was read of the WAL belongs to the captured iteration only if that still lasts.
    fn prove_pairing(&mut self) -> Step<()> {
        if self.main.slots_are(&self.chain.iteration.head)? { Ok(()) } else { Err(Flow::Restart) }
    }

    fn scan_wal(&self, head: &WalHeader) -> Step<(Scan, Framing)> {
        let (Some(wal), Some(iteration)) = (&self.tail.wal, &self.captured) else { return Err(Flow::Restart) };
        let framing = framing(iteration, head)?;
        let from = self.tail.at.max(head.len);
        let found = scan(wal, framing, from, wal.size()?, BUDGET_BYTES).map_err(io_error("cannot read the WAL"))?;
        Ok((found, framing))
    }

    /// DuckDB 1.0 and 1.1 append behind a torn entry after a crash, and lose it all at the next start. Say so.
    fn check_broken(&mut self, found: &Scan) -> Step<()> {
        if !found.broken {
            self.waits.broken = None;
            return Ok(());
        }
        match self.waits.broken {
            Some((at, since)) if at == found.end => {
                if since.elapsed() > BROKEN_PATIENCE {
                    return Err(Flow::Fail(EngineError::Damaged(format!(
                        "an entry of the WAL at byte {at} does not verify, and DuckDB writes on behind it; what comes \
                         after will be lost by DuckDB itself at its next start: run CHECKPOINT now"
                    ))));
                }
            }
            _ => self.waits.broken = Some((found.end, Instant::now())),
        }
        Ok(())
    }

    /// Leaves out commits that cannot be captured now.
    fn hold_back(&mut self, found: &Scan, framing: Framing, ready: &mut Vec<WalCommit>) -> Step<()> {
        if framing == Framing::Plain {
            let bulk = ready.iter().position(|commit| commit.bulk);
            if let Some(bulk) = bulk
                && self.chain.iteration.head.older_than_2_0()
                && self.checkpoint_is_announced()?
            {
                ready.truncate(bulk);
            }
            return Ok(());
        }
        let Some(last) = ready.last().filter(|last| last.like_marker && found.unfinished == 0) else {
            self.waits.like_marker = None;
            return Ok(());
        };
        let since = match self.waits.like_marker {
            Some((start, since)) if start == last.start => since,
            _ => Instant::now(),
        };
        self.waits.like_marker = Some((last.start, since));
        if since.elapsed() < ENCRYPTED_MARKER && self.main.is_held()? {
            ready.pop();
        }
        Ok(())
    }

    /// While a checkpoint runs, DuckDB 1.5 and newer puts new commits into `.wal.checkpoint`.
    fn follow_side(&mut self, sink: &mut dyn TransactionSink, wal_header: u64, commits: &mut u64) -> Step<()> {
        let Some(side) = WalFile::open(&side_wal_path(&self.path))? else { return Ok(()) };
        let (Some(wal), Some(iteration)) = (&self.tail.wal, &self.captured) else { return Ok(()) };
        // One that a crash left behind is removed at the beginning of a checkpoint, just after the marker was written.
        if side.modified()? < wal.modified()? {
            return Ok(());
        }
        let Some(head) = header(&side)? else { return Ok(()) };
        let framing = framing(iteration, &head)?;
        if head.iteration.is_some_and(|number| number != 0 && number != iteration.number() + 1) {
            return Ok(());
        }
        let from = match &self.tail.side {
            Some((held, at)) if held.key == side.key => (*at).max(head.len),
            Some(_) => {
                self.prove_pairing()?;
                return Err(Flow::Fail(EngineError::Gap {
                    reason: RepairReason::ReplicaAhead,
                    detail: "its WAL of a running checkpoint was replaced".into(),
                }));
            }
            None => head.len,
        };
        let size = side.size()?;
        let found = scan(&side, framing, from, size, BUDGET_BYTES).map_err(io_error("cannot read the WAL"))?;
        let mut ready = found.commits;
        if iteration.head.older_than_2_0() {
            // Blocks may be taken anew before the headers say so: these rows arrive with the next iteration.
            let bulk = ready.iter().position(|commit| commit.bulk);
            ready.truncate(bulk.unwrap_or(ready.len()));
        }
        if ready.is_empty() {
            return Ok(());
        }
        self.prove_pairing()?;
        if self.tail.side.is_none() {
            self.tail.side = Some((side, 0));
        }
        self.hand_on(sink, From::Side, &ready, wal_header, commits)
    }

    /// Hands commits to the sink. Blocks that bulk commits refer to travel with the first of these.
    pub(super) fn hand_on(
        &mut self,
        sink: &mut dyn TransactionSink,
        from: From,
        ready: &[WalCommit],
        wal_header: u64,
        commits: &mut u64,
    ) -> Step<()> {
        let mut with_blocks = false;
        for commit in ready {
            let blocks = commit.bulk && !with_blocks;
            with_blocks |= blocks;
            self.transaction(sink, |this, sink| {
                let mut plan = this.plan();
                if blocks {
                    this.ship_bulk(sink, from, ready, &mut plan)?;
                    match this.still()? {
                        Still::Yes => {}
                        Still::Flipped => return Err(Flow::Restart),
                        Still::Announced => return Err(Flow::Wait(SOON)),
                    }
                }
                this.put_wal_commit(sink, from, commit, wal_header, &mut plan)
            })?;
            *commits += 1;
        }
        Ok(())
    }

    /// Appends a commit's bytes to the logical WAL and commits `plan`.
    pub(super) fn put_wal_commit(
        &mut self,
        sink: &mut dyn TransactionSink,
        from: From,
        commit: &WalCommit,
        wal_header: u64,
        plan: &mut super::commit::Plan,
    ) -> Step<()> {
        let side = self.tail.side.as_ref().map(|(side, _)| side);
        let (Some(wal), Some(iteration)) = (&self.tail.wal, &self.captured) else { return Err(Flow::Restart) };
        let file = if from == From::Wal { wal } else { side.ok_or(Flow::Restart)? };
        let mut put = |file: &WalFile, start, end| {
            pieces(file, start, end, |data| {
                sink.extent(Extent { file: FileId::Wal, offset: plan.wal_len, data })?;
                plan.wal_hash.append(data);
                plan.wal_len += data.len() as u64;
                Ok::<(), Flow>(())
            })
        };
        if self.tail.len == 0 {
            put(wal, 0, wal_header)?;
        }
        put(file, commit.start, commit.end)?;
        let head = iteration.head.clone();
        self.finish(sink, plan, &head)?;
        (self.tail.len, self.tail.hash) = (plan.wal_len, plan.wal_hash.clone());
        match (from, &mut self.tail.side) {
            (From::Wal, _) => self.tail.at = commit.end,
            (From::Side, Some((_, at))) => *at = commit.end,
            (From::Side, None) => {}
        }
        Ok(())
    }
}
