//! Signs of life of capture. Without them, a capture that stands still would look like a database at rest.

use std::time::Duration;

use super::State;
use crate::position::{TimeMs, whole_ms};

/// A look, or a round of the thread, may come this much late before that means anything: machines pause.
const TOLERANCE: Duration = Duration::from_secs(2);

/// When capture was last known to be level, and when it should show itself again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pulse {
    /// Everything that was committed before is captured.
    level_at: TimeMs,
    /// The next look was promised for this time.
    look_by: TimeMs,
    /// The capturing thread promised to be awake again by this time.
    awake_by: TimeMs,
}

fn later(time: TimeMs, by: Duration) -> TimeMs {
    TimeMs(time.0.saturating_add(whole_ms(by)))
}

fn since(time: TimeMs, now: TimeMs) -> Duration {
    Duration::from_millis(now.0.saturating_sub(time.0))
}

impl Pulse {
    /// At the start of the process nothing is known yet.
    pub fn new(now: TimeMs) -> Pulse {
        Pulse { level_at: now, look_by: now, awake_by: now }
    }

    /// A look handed out all that there was; the next one comes within `next`.
    pub fn level(&mut self, now: TimeMs, next: Duration) {
        (self.level_at, self.look_by) = (now, later(now, next));
    }

    /// The thread rests for `rest` at most.
    pub fn rests(&mut self, now: TimeMs, rest: Duration) {
        self.awake_by = later(now, rest);
    }

    /// There is no database, and so nothing that is not captured.
    pub fn absent(&mut self, now: TimeMs) {
        self.level_at = now;
    }

    /// Commits may have been made for so long without having been seen.
    pub fn unseen(&self, state: &State, now: TimeMs) -> Duration {
        match state {
            State::Absent | State::Stopped => Duration::ZERO,
            State::Running if now <= later(self.look_by, TOLERANCE) => Duration::ZERO,
            _ => since(self.level_at, now),
        }
    }

    /// The thread that should capture is overdue for so long. Only where every commit is said to be captured: before that, a
    /// step may take as long as the network lets it.
    pub fn overdue(&self, state: &State, now: TimeMs) -> Duration {
        match state {
            State::Running if now > later(self.awake_by, TOLERANCE) => since(self.awake_by, now),
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> TimeMs {
        TimeMs(seconds * 1000)
    }

    /// A database at rest is level as long as looks keep coming; from the first one that does not come, what is unseen is as
    /// old as the last that did.
    #[test]
    fn unseen_counts_from_the_last_look() {
        let second = Duration::from_secs(1);
        let mut pulse = Pulse::new(at(100));
        assert_eq!(pulse.unseen(&State::Starting, at(107)), 7 * second);
        pulse.level(at(110), second);
        assert_eq!(pulse.unseen(&State::Running, at(113)), Duration::ZERO);
        assert_eq!(pulse.unseen(&State::Running, at(114)), 4 * second);
        for state in [State::SpoolFull { used_bytes: 1, limit_bytes: 1 }, State::NotCapturable(String::new())] {
            assert_eq!(pulse.unseen(&state, at(111)), second, "{state:?}");
        }
        assert_eq!(pulse.unseen(&State::Failed(String::new()), at(910)), 800 * second);
        assert_eq!(pulse.unseen(&State::Absent, at(910)), Duration::ZERO);
        // It appears: only since then can there be commits.
        pulse.absent(at(920));
        assert_eq!(pulse.unseen(&State::FirstRead { done: 0, total: 1 }, at(921)), second);
    }

    /// A thread is overdue when it does not come back from its rest.
    #[test]
    fn a_thread_that_does_not_come_back_is_overdue() {
        let second = Duration::from_secs(1);
        let mut pulse = Pulse::new(at(0));
        assert_eq!(pulse.overdue(&State::Starting, at(1000)), Duration::ZERO);
        pulse.rests(at(1000), 3600 * second);
        assert_eq!(pulse.overdue(&State::Running, at(4602)), Duration::ZERO);
        assert_eq!(pulse.overdue(&State::Running, at(4603)), 3 * second);
    }
}
