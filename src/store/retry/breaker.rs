//! The circuit breaker: after many tries without an answer nothing is sent for a while, then one request at a time.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Breaker {
    after: u32,
    pause: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Requests go through; so many in a row had no answer.
    Closed { unanswered: u32 },
    /// Nothing goes through until then, by the clock of the caller.
    Open { until: Duration },
    /// One request is on its way to find out.
    Probing,
}

/// One try. Dropped without a report (the caller went away), it tells nothing.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    breaker: &'a Breaker,
    is_probe: bool,
    reported: bool,
}

impl Breaker {
    pub(super) fn new(after: u32, pause: Duration) -> Breaker {
        Breaker { after: after.max(1), pause, state: Mutex::new(State::Closed { unanswered: 0 }) }
    }

    /// Leave to try, or how long to wait before asking again.
    pub(super) fn admit(&self, now: Duration) -> Result<Permit<'_>, Duration> {
        let mut state = self.state();
        let is_probe = match *state {
            State::Closed { .. } => false,
            State::Probing => return Err(Duration::ZERO),
            State::Open { until } if now < until => return Err(until - now),
            State::Open { .. } => true,
        };
        if is_probe {
            *state = State::Probing;
        }
        Ok(Permit { breaker: self, is_probe, reported: false })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    pub(super) fn report(mut self, now: Duration, answered: bool) {
        self.reported = true;
        let mut state = self.breaker.state();
        let open = State::Open { until: now + self.breaker.pause };
        *state = match (answered, *state) {
            (true, _) => State::Closed { unanswered: 0 },
            (false, _) if self.is_probe => open,
            (false, State::Closed { unanswered }) if unanswered + 1 >= self.breaker.after => {
                tracing::warn!(unanswered = unanswered + 1, pause = ?self.breaker.pause, "the store does not answer");
                open
            }
            (false, State::Closed { unanswered }) => State::Closed { unanswered: unanswered + 1 },
            // Sent before the breaker opened: known already.
            (false, state) => state,
        };
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.is_probe && !self.reported {
            *self.breaker.state() = State::Open { until: Duration::ZERO };
        }
    }
}
