//! When to look at the database by a timer instead of waiting for file events.
//!
//! A commit is two events, and each wakes a thread while the writer is at work: at a thousand commits a second that made a
//! writer's commit twice as slow. A timer at the pace below costs it nothing that can be measured.

use std::time::{Duration, Instant};

/// Commits closer together than this make a database busy.
const CLOSE: Duration = Duration::from_millis(20);
/// A busy database is looked at this often.
pub(super) const LOOK: Duration = Duration::from_millis(5);
/// Without a commit for this long it is busy no more.
const QUIET: Duration = Duration::from_millis(60);

#[derive(Debug, Default)]
pub(super) struct Pace {
    last_commit: Option<Instant>,
    is_busy: bool,
}

impl Pace {
    /// Takes note of a look that found this many commits.
    pub fn looked(&mut self, now: Instant, commits: u64) {
        let since = self.last_commit.map(|at| now.saturating_duration_since(at));
        if commits > 0 {
            self.is_busy = self.is_busy || commits > 1 || since.is_some_and(|since| since < CLOSE);
            self.last_commit = Some(now);
        } else if since.is_none_or(|since| since > QUIET) {
            self.is_busy = false;
        }
    }

    pub fn is_busy(&self) -> bool {
        self.is_busy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Single commits leave a database quiet, commits close together make it busy, and a pause makes it quiet again.
    #[test]
    fn commits_close_together_are_a_busy_time() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        pace.looked(at(0), 1);
        pace.looked(at(100), 1);
        assert!(!pace.is_busy());
        pace.looked(at(110), 1);
        assert!(pace.is_busy());
        pace.looked(at(150), 0);
        assert!(pace.is_busy());
        pace.looked(at(171), 0);
        assert!(!pace.is_busy());
    }
}
