//! Giving a database's thread to another one, and going on when something happens.

use std::time::Instant;

use super::capture::Capture;
use super::crew::{Leave, Sight};
use crate::status::State;

impl Capture {
    /// May this database do without a thread until `deadline`, and is one wanted?
    pub(super) fn gives_way(&mut self, deadline: Instant) -> bool {
        let now = Instant::now();
        if deadline <= now {
            return false;
        }
        let rest = match (&self.source, self.has_nothing_to_do() && self.is_level) {
            (Some(_), true) => now - self.busy_at,
            (Some(_), false) => return false,
            // There is nothing to be captured just now, for whatever reason.
            (None, _) => now - self.turn_since,
        };
        self.shared.crew.gives_way(rest, now - self.turn_since)
    }

    /// Lets go of the database and of this thread. What happens to the files from here on wakes it.
    pub(super) fn park(mut self, deadline: Instant) {
        let sight = Sight::of(&self.shared.settings.path);
        let until = match self.source.is_some() {
            true => {
                self.let_go();
                None
            }
            false if self.is_paused => None,
            false => Some(deadline),
        };
        self.set_watched();
        // What a last look captured is sealed; where it could not be, or more is known to come, this is only a short rest.
        let until = if self.has_nothing_to_do() && self.is_level || self.is_paused { until } else { Some(deadline) };
        let is_watched = self.watcher.as_ref().is_some_and(|watcher| watcher.is_armed());
        self.parked = Some(sight.clone());
        // Many databases are parked: nothing is kept that is only needed at work.
        self.copies.shrink_to_fit();
        self.syncs.shrink_to_fit();
        self.shared.status.set_parked(true);
        self.end.lock.rest();
        let shared = self.shared.clone();
        let wake = Box::new(move || self.wake());
        shared.crew.park(&shared, Leave { sight, is_watched, until }, wake);
    }

    /// While it is parked, only events tell.
    fn set_watched(&mut self) {
        if self.is_paused {
            return;
        }
        if let Some(watcher) = self.watcher.as_mut().filter(|watcher| !watcher.is_armed())
            && let Err(error) = watcher.set_armed(true)
        {
            tracing::debug!("cannot watch {}: {error}", self.shared.settings.path.display());
            self.watcher = None;
        }
    }

    fn wake(mut self) {
        if let Err(why) = self.end.lock.take_again() {
            self.shared.status.error("start", &why);
            tracing::error!("{why}");
            return self.shared.status.set_state(State::Failed(why));
        }
        self.shared.status.set_parked(false);
        let now = Instant::now();
        // Whatever rang may have been an event: a database that cannot be captured is looked at, though not at once.
        (self.turn_since, self.busy_at) = (now, now);
        if self.shared.status.state() == State::Running {
            self.retry_at = now;
        }
        self.retry_soon(now);
        self.run(Vec::new());
    }

    /// Before a last look, where the database was parked and something happened to it since.
    pub(super) fn look_again(&mut self) {
        let Some(parked) = self.parked.take() else { return };
        if self.source.is_none() && self.shared.status.state() == State::Running && !parked.is_same() {
            self.attach();
        }
    }
}
