//! Giving a database's thread to another one, and going on when something happens.

use std::time::{Duration, Instant};

use super::End;
use super::capture::Capture;
use super::crew::{Leave, Sight};
use super::lock::NotAgain;
use crate::status::State;

/// When the lock of a parked database could not be taken.
const LOCK_AGAIN: Duration = Duration::from_millis(500);

impl End {
    /// Local state is this process' own from here on. Otherwise, when to try again; `None`: never, and that is told.
    pub(super) fn own(&self) -> Result<(), Option<Instant>> {
        match self.lock.take_again() {
            Ok(()) => Ok(()),
            Err(NotAgain::ForGood(why)) => {
                self.status.error("start", &why);
                tracing::error!("{why}");
                self.status.set_state(State::Failed(why));
                Err(None)
            }
            Err(NotAgain::Yet(why)) => {
                self.status.error("start", &why);
                tracing::warn!("{why}; trying again");
                Err(Some(Instant::now() + LOCK_AGAIN))
            }
        }
    }
}

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

    /// Stays parked until then, or until something happens.
    fn park_until(self, until: Instant) {
        let sight = self.parked.clone().unwrap_or_default();
        let (shared, leave) = (self.shared.clone(), Leave { sight, is_watched: false, until: Some(until) });
        shared.crew.park(&shared, leave, Box::new(move || self.wake()));
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
        match self.end.own() {
            Ok(()) => {}
            Err(None) => return,
            Err(Some(until)) => return self.park_until(until),
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
