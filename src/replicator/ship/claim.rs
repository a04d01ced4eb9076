//! The claim of a writer: made before the first object of a term, and read again now and then.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Shipping, new_backoff, pause};
use crate::position::{Generation, Term};
use crate::replica::{Claim, ReplicaError};
use crate::replicator::Final;
use crate::store::CreateOnly;

/// Creators of the first claim at once.
const RACERS: u64 = 3;

impl Shipping {
    /// Claims a term, at least `at_least`, and above `known`, what was seen there before.
    pub(super) async fn claim(
        &mut self,
        generation: Generation,
        at_least: Term,
        known: Option<Term>,
    ) -> Result<(), Final> {
        let mut backoff = new_backoff();
        loop {
            match self.try_claim(generation, at_least, known).await? {
                Ok(()) => return Ok(()),
                Err(error) => pause(&self.shared, self.index, error, &mut backoff).await?,
            }
        }
    }

    async fn try_claim(
        &mut self,
        generation: Generation,
        at_least: Term,
        known: Option<Term>,
    ) -> Result<Result<(), ReplicaError>, Final> {
        let newest = match self.marked_terms(generation).await {
            Ok(terms) => terms.last().copied().max(known),
            Err(error) => return Ok(Err(error)),
        };
        let mut term = at_least.max(Term(self.course_term(generation)));
        let ours = self.claimed.filter(|&(of, _)| of == generation).map(|(_, term)| term);
        if ours.is_some_and(|ours| newest > Some(ours)) {
            return Err(self.fenced(newest));
        }
        if let Some(newest) = newest.filter(|&newest| newest >= term && ours.is_none()) {
            // Claimed by somebody whom we did not know of when the term was chosen. A higher one wins, and what was
            // sealed under ours until now must not mix with what they wrote.
            self.dead = Some((generation, newest));
            term = newest.next().ok_or_else(|| Final::Refused("every term was claimed".to_owned()))?;
        }
        let claim = Claim { writer: self.shared.writer.clone(), claimed_ms: (self.shared.clock)().0 };
        let racers = if self.keeps_apart.is_none() { RACERS } else { 1 };
        match self.replica.claim(generation, term, &claim, racers).await {
            Ok((is_ours, seen)) => {
                self.learn(seen);
                if !is_ours {
                    return Err(self.fenced(Some(term)));
                }
            }
            Err(error) => return Ok(Err(error)),
        }
        if generation == self.course.generation {
            self.course.term.fetch_max(term.0, Ordering::AcqRel);
        }
        (self.claimed, self.checked_at) = (Some((generation, term)), Instant::now());
        Ok(Ok(()))
    }

    /// Whether the store keeps two writers apart.
    fn learn(&mut self, seen: CreateOnly) {
        self.keeps_apart = match seen {
            CreateOnly::Atomic => Some(true),
            CreateOnly::NotHonoured => Some(false),
            CreateOnly::Unknown => return,
        };
        if self.keeps_apart == Some(false) {
            tracing::warn!(
                replica = self.replica.describe(),
                "THE STORE DOES NOT KEEP WRITERS APART: of several who create one object at once, more than one is told to have done it. Two \
                 replicators of one database may not learn of each other here: see to it that only one runs"
            );
        }
        self.shared.status.replica(self.index, |replica| replica.fencing = self.keeps_apart);
    }

    async fn marked_terms(&self, generation: Generation) -> Result<Vec<Term>, ReplicaError> {
        let name = self.shared.settings.path.file_name().unwrap_or_default().to_string_lossy();
        self.replica.ensure_marker(self.course.engine, &name).await?;
        self.replica.terms(generation).await
    }

    fn course_term(&self, generation: Generation) -> u32 {
        if generation == self.course.generation { self.course.term.load(Ordering::Acquire) } else { 0 }
    }

    /// Has another writer taken over?
    pub(super) async fn check_fence(&mut self) -> Result<Result<(), ReplicaError>, Final> {
        let Some((generation, ours)) = self.claimed else { return Ok(Ok(())) };
        let (terms, generations) = match self.claims(generation).await {
            Ok(claims) => claims,
            Err(error) => return Ok(Err(error)),
        };
        self.checked_at = Instant::now();
        let newest = terms.last().copied();
        let course = self.shared.course.borrow().as_ref().map(|course| course.generation);
        if newest > Some(ours) {
            return Err(self.fenced(newest));
        }
        if generations.last().copied() > course.max(Some(generation)) {
            return Err(Final::Fenced(format!("another writer began a new generation in {}", self.replica.describe())));
        }
        Ok(Ok(()))
    }

    async fn claims(&self, generation: Generation) -> Result<(Vec<Term>, Vec<Generation>), ReplicaError> {
        Ok((self.replica.terms(generation).await?, self.replica.generations().await?))
    }

    fn fenced(&self, term: Option<Term>) -> Final {
        let term = term.map_or(0, |term| term.0);
        Final::Fenced(format!("another writer claimed term {term} of {}", self.replica.describe()))
    }
}
