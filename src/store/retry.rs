//! Tries again what may succeed later: exponential back-off with full jitter, bounded in number and time, and a circuit
//! breaker that spares a store that is down.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;

use super::compare::same_content;
use super::{Body, Key, ObjectMeta, Outcome, PutMode, Store, StoreError};

mod breaker;

use breaker::Breaker;

/// How often and how long to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries in all, at least one.
    pub max_tries: u32,
    /// The longest wait before the second try; it doubles with every further one.
    pub first_delay: Duration,
    /// The longest wait there is, unless the store asks for a longer one.
    pub max_delay: Duration,
    /// No try begins later than this after the first.
    pub max_total: Duration,
    /// So many tries without an answer in a row, over all requests, and the breaker opens.
    pub breaker_after: u32,
    /// So long nothing is sent; then one request finds out for all whether the store is back.
    pub breaker_pause: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            max_tries: 8,
            first_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(10),
            max_total: Duration::from_secs(60),
            breaker_after: 10,
            breaker_pause: Duration::from_secs(15),
        }
    }
}

/// Time and chance, so that a test can have its own.
#[async_trait]
pub trait Pace: Send + Sync + 'static {
    /// Time since some fixed moment.
    fn now(&self) -> Duration;
    async fn sleep(&self, time: Duration);
    /// Evenly from `0.0..1.0`.
    fn random(&self) -> f64;
}

/// The machine's own.
#[derive(Debug)]
pub struct RealPace(Instant);

impl Default for RealPace {
    fn default() -> Self {
        RealPace(Instant::now())
    }
}

#[async_trait]
impl Pace for RealPace {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn random(&self) -> f64 {
        rand::random()
    }
}

/// A store that is asked again. A create whose answer was lost is recognised by its content.
pub struct Retrying {
    inner: Arc<dyn Store>,
    policy: RetryPolicy,
    pace: Arc<dyn Pace>,
    breaker: Breaker,
}

impl fmt::Debug for Retrying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retrying").field("inner", &self.inner).field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Retrying {
    pub fn new(inner: Arc<dyn Store>, policy: RetryPolicy, pace: Arc<dyn Pace>) -> Retrying {
        Retrying { inner, policy, pace, breaker: Breaker::new(policy.breaker_after, policy.breaker_pause) }
    }

    async fn run<T, F, Fut>(&self, operation: &'static str, key: &str, attempt: F) -> Result<T, StoreError>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, StoreError>>,
    {
        let deadline = self.pace.now() + self.policy.max_total;
        let mut last: Option<StoreError> = None;
        let mut tries = 0;
        while tries < self.policy.max_tries.max(1) {
            let permit = match self.breaker.admit(self.pace.now()) {
                Ok(permit) => permit,
                Err(wait) if self.pace.now() + wait <= deadline => {
                    self.pace.sleep(wait.max(self.policy.first_delay)).await;
                    continue;
                }
                Err(wait) => return Err(last.unwrap_or_else(|| spared(operation, key, wait))),
            };
            let done = attempt().await;
            permit.report(self.pace.now(), !done.as_ref().is_err_and(StoreError::is_retryable));
            tries += 1;
            let error = match done {
                Err(error) if error.is_retryable() => error,
                done => return done,
            };
            let wait = self.delay(tries).max(error.retry_after.unwrap_or_default());
            if tries >= self.policy.max_tries || self.pace.now() + wait > deadline {
                return Err(error);
            }
            tracing::debug!(%error, tries, ?wait, "the store is asked again");
            last = Some(error);
            self.pace.sleep(wait).await;
        }
        Err(last.expect("at least one try was made and failed"))
    }

    /// Somewhere between nothing and the exponential bound, so that many clients do not come back together.
    fn delay(&self, failed_tries: u32) -> Duration {
        let doubled = self.policy.first_delay.saturating_mul(1 << (failed_tries - 1).min(20));
        doubled.min(self.policy.max_delay).mul_f64(self.pace.random().clamp(0.0, 1.0))
    }
}

fn spared(operation: &'static str, key: &str, wait: Duration) -> StoreError {
    let detail = format!("the store has not been answering; it is left alone for {} s", wait.as_secs() + 1);
    let error = StoreError::new(Outcome::Unavailable, operation, key, detail);
    StoreError { retry_after: Some(wait), ..error }
}

#[async_trait]
impl Store for Retrying {
    async fn put(&self, key: &Key, body: Body, mode: PutMode) -> Result<(), StoreError> {
        // An earlier try of this very call may have been carried out although its answer was lost.
        let unsure = AtomicBool::new(false);
        let attempt = || async {
            let done = self.inner.put(key, body.clone(), mode).await;
            let outcome = done.as_ref().err().map(|e| e.outcome);
            if outcome == Some(Outcome::Unavailable) {
                unsure.store(true, Ordering::Relaxed);
            }
            let may_be_ours = outcome == Some(Outcome::AlreadyExists) && unsure.load(Ordering::Relaxed);
            if may_be_ours && same_content(&*self.inner, key, &body).await? {
                return Ok(());
            }
            done
        };
        self.run("put", key.as_str(), attempt).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        self.run("get", key.as_str(), || self.inner.get(key, range.clone())).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>, StoreError> {
        self.run("list", prefix, || self.inner.list(prefix, after)).await
    }

    async fn list_folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        self.run("list", folder, || self.inner.list_folders(folder)).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        self.run("delete", keys.first().map_or("", Key::as_str), || self.inner.delete(keys)).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[cfg(test)]
mod tests;
