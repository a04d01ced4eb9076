//! What really goes to a store and comes from it: every request and every byte is counted here, and waits here for its turn.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::limits::{Limits, Unit};
use super::requests::{Kind, Requests};
use super::retry::{Pace, RealPace};
use crate::status::{Clock, system_clock};

/// Bytes move in pieces of what a tenth of a second allows, within these bounds.
const PIECE: Duration = Duration::from_millis(100);
const PIECE_BYTES: (u64, u64) = (1 << 10, 64 << 10);

/// Lets units through one after the other, none before its time. Shared by all replicas in one store with the same limits.
pub struct Limiter {
    limits: Limits,
    /// By unit: when the next one may go, as `pace` counts.
    next: [Mutex<Duration>; 3],
    /// For the windows.
    clock: Clock,
    pace: Arc<dyn Pace>,
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// The limiters in use in this process, each with the store it is for.
static SHARED: Mutex<Vec<(String, Weak<Limiter>)>> = Mutex::new(Vec::new());

impl Limiter {
    pub fn new(limits: Limits, clock: Clock, pace: Arc<dyn Pace>) -> Limiter {
        Limiter { limits, next: Default::default(), clock, pace }
    }

    /// The one for this store and these limits: a limit is the line's and the service's, not the single replica's.
    pub fn shared(store: &str, limits: &Limits) -> Arc<Limiter> {
        let mut all = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, limiter)| limiter.strong_count() > 0);
        let mut same = all.iter().filter(|(of, _)| of == store).filter_map(|(_, limiter)| limiter.upgrade());
        if let Some(limiter) = same.find(|limiter| limiter.limits == *limits) {
            return limiter;
        }
        let limiter = Arc::new(Limiter::new(limits.clone(), system_clock(), Arc::new(RealPace::default())));
        all.push((store.to_owned(), Arc::downgrade(&limiter)));
        limiter
    }

    /// How many bytes may go at a time.
    fn piece(&self, unit: Unit) -> u64 {
        let rate = self.limits.at((self.clock)(), unit);
        rate.map_or(PIECE_BYTES.1, |rate| rate.in_time(PIECE).clamp(PIECE_BYTES.0, PIECE_BYTES.1))
    }

    /// How long `n` units have to wait from `now` on. Those who ask later wait for them, too.
    fn turn(&self, unit: Unit, n: u64, now: Duration) -> Duration {
        let Some(rate) = self.limits.at((self.clock)(), unit) else { return Duration::ZERO };
        let mut next = self.next[unit as usize].lock().unwrap_or_else(PoisonError::into_inner);
        let turn = (*next).max(now);
        *next = turn.saturating_add(rate.time_of(n));
        turn - now
    }
}

/// One replica's way to its store.
pub struct Traffic {
    requests: Arc<Requests>,
    limiter: Option<Arc<Limiter>>,
    pace: Arc<dyn Pace>,
}

impl fmt::Debug for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traffic").field("limiter", &self.limiter).finish_non_exhaustive()
    }
}

impl Default for Traffic {
    fn default() -> Self {
        Traffic::new(Arc::default(), None)
    }
}

impl Traffic {
    pub fn new(requests: Arc<Requests>, limiter: Option<Arc<Limiter>>) -> Traffic {
        let pace = limiter.as_ref().map(|limiter| limiter.pace.clone());
        Traffic { requests, limiter, pace: pace.unwrap_or_else(|| Arc::new(RealPace::default())) }
    }

    /// Before a request is sent: waits for its turn, and counts it.
    pub async fn request(&self, kind: Kind) {
        self.wait(Unit::Request, 1, None).await;
        self.requests.sent(kind);
    }

    /// How many bytes the next call of `moved` should be about.
    pub fn piece(&self, unit: Unit) -> u64 {
        self.limiter.as_ref().map_or(u64::MAX, |limiter| limiter.piece(unit))
    }

    /// Waits until `n` bytes may go, and counts them.
    pub async fn moved(&self, unit: Unit, n: u64, waiting: Option<&Waiting>) {
        self.wait(unit, n, waiting).await;
        self.requests.moved(unit, n);
    }

    /// The same for many bytes, piece by piece.
    pub async fn moved_all(&self, unit: Unit, mut n: u64) {
        while n > 0 {
            let piece = n.min(self.piece(unit));
            self.moved(unit, piece, None).await;
            n -= piece;
        }
    }

    async fn wait(&self, unit: Unit, n: u64, waiting: Option<&Waiting>) {
        let Some(limiter) = &self.limiter else { return };
        let began = self.pace.now();
        let wait = limiter.turn(unit, n, began);
        if wait.is_zero() {
            return;
        }
        waiting.inspect(|waiting| waiting.begin(began));
        self.pace.sleep(wait).await;
        let ended = self.pace.now();
        waiting.inspect(|waiting| waiting.end(ended));
        self.requests.waited(ended.saturating_sub(began));
    }

    /// Bounds `work` in the time in which it does not wait for its turns. `None`: it took longer.
    pub async fn bounded<T>(&self, time: Duration, waiting: &Waiting, work: impl Future<Output = T>) -> Option<T> {
        let began = self.pace.now();
        let mut work = std::pin::pin!(work);
        loop {
            let now = self.pace.now();
            let left = (time + waiting.so_far(now)).saturating_sub(now.saturating_sub(began));
            if left.is_zero() {
                return None;
            }
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                () = self.pace.sleep(left) => {}
            }
        }
    }
}

/// How long one request has waited for its turns: time that no time-out may count.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<(Duration, Option<Duration>)>);

impl Waiting {
    fn begin(&self, now: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1 = Some(now);
    }

    fn end(&self, now: Duration) {
        let mut waited = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(began) = waited.1.take() {
            waited.0 += now.saturating_sub(began);
        }
    }

    /// The wait that is going on included.
    fn so_far(&self, now: Duration) -> Duration {
        let waited = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waited.0 + waited.1.map_or(Duration::ZERO, |began| now.saturating_sub(began))
    }
}

#[cfg(test)]
mod tests;
