//! A replica is verified, or a restore from it is practised, beside everything else; the status tells of it.

use std::sync::Arc;
use std::time::Instant;

use super::super::drill::{self, DrillOptions};
use super::super::reading::surroundings;
use super::super::source::open;
use super::super::verify::{self, VerifyOptions};
use crate::config::{DatabaseConfig, ReplicaConfig};
use crate::error::Error;
use crate::replicator::{shipped, verified};
use crate::status::{Clock, Proofs, ReplicaStatus, Status};

/// What is done to prove a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    Verify,
    Drill,
}

impl Work {
    pub fn word(self) -> &'static str {
        match self {
            Work::Verify => "verify",
            Work::Drill => "drill",
        }
    }

    fn proofs(self, replica: &mut ReplicaStatus) -> &mut Proofs {
        match self {
            Work::Verify => &mut replica.verify,
            Work::Drill => &mut replica.drill,
        }
    }
}

/// Of one database.
pub struct Proving {
    pub database: Arc<DatabaseConfig>,
    pub status: Status,
    pub clock: Clock,
}

impl Proving {
    /// Does it for the replica with this number: what was found, in words.
    pub async fn prove(&self, work: Work, index: usize, replica: &ReplicaConfig) -> Result<String, Error> {
        let (began, now) = (Instant::now(), (self.clock)());
        self.status.replica(index, |status| work.proofs(status).running_since = Some(now));
        // Whoever gives it up leaves nothing under way behind.
        let running = Running { status: &self.status, work, index };
        let mut told = Vec::new();
        let result = match work {
            Work::Verify => self.verify(index, replica, &mut told).await,
            Work::Drill => self.drill(replica, &mut told).await,
        };
        let (took, now) = (began.elapsed(), (self.clock)());
        let outcome = result.as_ref().copied().map_err(|error| {
            let why = error.report().split_whitespace().collect::<Vec<_>>().join(" ");
            self.status.replica_error(index, work.word(), &why);
            why
        });
        drop(running);
        self.status.replica(index, |status| work.proofs(status).ended(now, took, outcome));
        let told = String::from_utf8_lossy(&told).into_owned();
        result.map(|()| told)
    }

    async fn verify(&self, index: usize, replica: &ReplicaConfig, out: &mut Vec<u8>) -> Result<(), Error> {
        let settings = &self.database.settings.verify;
        let options = VerifyOptions {
            deep: settings.deep,
            sample: settings.sample,
            max_age: settings.max_age,
            shipped: shipped::read(&self.database.state_dir, index),
            scratch: self.database.scratch(),
            ..VerifyOptions::default()
        };
        let around = surroundings();
        verify::run(open(replica)?, &options, &around, out).await?;
        let noted = verified::write(&self.database.state_dir, index, (self.clock)());
        noted.unwrap_or_else(|error| tracing::warn!("cannot note that {} is whole: {error}", replica.shown_url()));
        Ok(())
    }

    async fn drill(&self, replica: &ReplicaConfig, out: &mut Vec<u8>) -> Result<(), Error> {
        let options = DrillOptions {
            at: None,
            scratch: self.database.scratch(),
            assertions: self.database.settings.drill.assertions.clone(),
            record: true,
            json: false,
            progress: false,
        };
        drill::run(open(replica)?, &options, &surroundings(), out).await
    }
}

struct Running<'a> {
    status: &'a Status,
    work: Work,
    index: usize,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.status.replica(self.index, |status| self.work.proofs(status).running_since = None);
    }
}
