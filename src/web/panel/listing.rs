//! What a replica holds, for the timeline: read when a page asks for it, in bounded time and size, and kept for some seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::drill::Records;
use crate::inventory::{Gap, Moment, Window};
use crate::label::{Label, Labels};
use crate::layout::DrillName;
use crate::position::{Generation, TimeMs};
use crate::restore::{Planner, Reading, no_object};
use crate::store::Store;

/// A store that takes longer is told to be slow, on the page.
const READ_TIME: Duration = Duration::from_secs(8);
/// So long what was read counts as what is there.
const FRESH: Duration = Duration::from_secs(15);
/// Replicas that are read at a time, for everyone who looks.
const READS_AT_A_TIME: usize = 4;
/// Replicas that are remembered.
const MAX_CACHED: usize = 64;
/// Generations that are looked into, the newest ones.
const MAX_GENERATIONS: usize = 4;
/// Windows, gaps, snapshots, labels and drills that are shown, the newest ones.
const MAX_SHOWN: usize = 50;

/// What one replica holds.
#[derive(Debug, Clone, Default)]
pub struct Held {
    pub windows: Vec<(Generation, Window)>,
    /// Lost, not pruned.
    pub gaps: Vec<(Generation, Gap)>,
    pub snapshots: Vec<(Generation, Moment)>,
    pub labels: Vec<Label>,
    pub drills: Vec<DrillName>,
    /// What could not be told.
    pub problems: Vec<String>,
    pub read: TimeMs,
}

impl Held {
    /// The first and the last moment that is shown.
    pub fn span(&self) -> Option<(TimeMs, TimeMs)> {
        let windows = self.windows.iter().flat_map(|(_, window)| [window.from.time, window.to.time]);
        let gaps =
            self.gaps.iter().flat_map(|(_, gap)| gap.before.into_iter().chain(gap.after).map(|moment| moment.time));
        let all = windows.chain(gaps).chain(self.labels.iter().map(|label| label.commit.time));
        let (first, last) = (all.clone().min()?, all.max()?);
        Some((first, last))
    }
}

/// What was read, or why nothing could be.
pub type Read = Result<Arc<Held>, String>;

#[derive(Debug)]
pub struct Listings {
    cache: Mutex<HashMap<(u64, usize), (Instant, Read)>>,
    turns: Semaphore,
}

impl Default for Listings {
    fn default() -> Self {
        Listings { cache: Mutex::default(), turns: Semaphore::new(READS_AT_A_TIME) }
    }
}

impl Listings {
    /// The replica `number` of a database.
    pub async fn of(&self, id: u64, number: usize, store: Result<Arc<dyn Store>, String>, now: TimeMs) -> Read {
        let cached = |listings: &Listings| {
            let cache = listings.cache.lock().unwrap_or_else(PoisonError::into_inner);
            cache.get(&(id, number)).filter(|(at, _)| at.elapsed() < FRESH).map(|(_, read)| read.clone())
        };
        if let Some(read) = cached(self) {
            return read;
        }
        let work = async {
            // The semaphore is never closed.
            let _turn = self.turns.acquire().await.ok();
            match cached(self) {
                Some(read) => read,
                None => read(store?, now).await.map(Arc::new),
            }
        };
        let slow = || Err(format!("the store did not answer within {} s", READ_TIME.as_secs()));
        let read = tokio::time::timeout(READ_TIME, work).await.unwrap_or_else(|_| slow());
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.retain(|_, (at, _)| at.elapsed() < FRESH);
        if cache.len() < MAX_CACHED {
            cache.insert((id, number), (Instant::now(), read.clone()));
        }
        read
    }

    /// What was done to a database has changed what its replicas hold.
    pub fn forget(&self, id: u64) {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _), _| *of != id);
    }
}

async fn read(store: Arc<dyn Store>, now: TimeMs) -> Result<Held, String> {
    let reading = Reading::new(store.clone());
    let told = |fault| no_object(fault).to_string();
    if reading.marker().await.map_err(told)?.is_none() {
        return Err("there is no replica there yet".to_owned());
    }
    let generations = reading.generations().await.map_err(told)?;
    let mut held = Held { read: now, ..Held::default() };
    let older = generations.len().saturating_sub(MAX_GENERATIONS);
    if older > 0 {
        held.problems.push(format!("{older} older generations are not shown: replicate list"));
    }
    for generation in generations.into_iter().skip(older) {
        let inventory = reading.inventory(generation).await.map_err(told)?;
        let windows = Planner::new(reading.clone()).windows(&inventory).await;
        let gaps = reading.gaps(&inventory).await.map_err(told)?;
        held.windows.extend(windows.into_iter().map(|window| (generation, window)));
        held.gaps.extend(gaps.lost.into_iter().map(|gap| (generation, gap)));
        let snapshots = inventory.snapshots.iter().map(|s| Moment { txid: s.name.txid, time: s.name.time });
        held.snapshots.extend(snapshots.map(|moment| (generation, moment)));
    }
    let (labels, drills) = (Labels::new(store.clone()), Records::new(store));
    match tokio::join!(labels.all(), drills.list()) {
        (Ok(labels), Ok(drills)) => (held.labels, held.drills) = (labels, drills),
        (labels, drills) => {
            let (no_labels, no_drills) = (labels.err(), drills.err());
            held.problems.extend(no_labels.map(|error| format!("labels cannot be read: {error}")));
            held.problems.extend(no_drills.map(|error| format!("drills cannot be listed: {error}")));
        }
    }
    held.labels.sort_by_key(|label| label.commit.time);
    for what in [
        newest(&mut held.windows, "windows"),
        newest(&mut held.gaps, "gaps"),
        newest(&mut held.snapshots, "snapshots"),
        newest(&mut held.labels, "labels"),
        newest(&mut held.drills, "drills"),
    ] {
        held.problems.extend(what);
    }
    Ok(held)
}

/// Keeps the newest ones, and says how many there were.
fn newest<T>(all: &mut Vec<T>, what: &str) -> Option<String> {
    let excess = all.len().saturating_sub(MAX_SHOWN);
    all.drain(..excess);
    (excess > 0).then(|| format!("of {} {what}, the newest {MAX_SHOWN} are shown", excess + MAX_SHOWN))
}
