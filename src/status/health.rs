//! Is a database replicated as it should be? Judged from what its status says at one moment.

use std::time::Duration;

use super::{ReplicaState, ReplicaStatus, State, StatusSnapshot};

/// Default of the lag with which a database still counts as replicated.
pub const MAX_LAG: Duration = Duration::from_secs(60);
/// A capturing thread that is overdue for this long is told as a trouble …
const STALLED: Duration = Duration::from_secs(10);
/// … and for this long, hangs: nothing in this process will bring it back.
const HANGS: Duration = Duration::from_secs(60);

/// What is aimed at for one database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aims {
    /// The lag of any replica with which the database still counts as replicated.
    pub max_lag: Duration,
    /// Recovery point objective: so much may be lost with the machine.
    pub rpo: Option<Duration>,
    /// Recovery time objective: so long may a restore take.
    pub rto: Option<Duration>,
}

impl Default for Aims {
    fn default() -> Self {
        Aims { max_lag: MAX_LAG, rpo: None, rto: None }
    }
}

impl StatusSnapshot {
    /// Why this database is not replicated as it should be, for people; none: it is.
    pub fn troubles(&self) -> Vec<String> {
        let mut troubles: Vec<String> = self.trouble_of_capture().into_iter().collect();
        troubles.extend(self.replicas.iter().filter_map(|replica| self.trouble_of(replica)));
        troubles
    }

    /// Is every commit captured as it comes?
    pub fn is_capturing(&self) -> bool {
        self.state == State::Running && self.overdue < STALLED
    }

    /// Does its capturing thread hang? Only a new process helps then.
    pub fn hangs(&self) -> bool {
        self.overdue >= HANGS
    }

    fn trouble_of_capture(&self) -> Option<String> {
        match &self.state {
            State::Running if self.overdue >= STALLED => {
                Some(format!("capture stands still: it has been overdue for {} s", self.overdue.as_secs()))
            }
            State::Running => None,
            // There never was one: nothing can be missing anywhere.
            State::Absent if self.captured.0 == 0 => None,
            State::Absent => Some("the database is gone".to_owned()),
            State::Starting => Some("starting".to_owned()),
            State::WaitingForReplica => {
                Some("no local state, and no replica answers: where to go on is not known".to_owned())
            }
            State::NotCapturable(why) => Some(format!("not captured: {why}")),
            State::FirstRead { done, total } => Some(format!("the first read is at {done} of {total} bytes")),
            State::SpoolFull { used_bytes, limit_bytes } => {
                Some(format!("the spool is full ({used_bytes} of {limit_bytes} bytes): capture pauses"))
            }
            State::Paused => Some("paused: nothing is captured until `replicate resume`".to_owned()),
            State::Stopped => Some("stopped".to_owned()),
            State::Failed(why) => Some(format!("capture ended: {why}")),
        }
    }

    fn trouble_of(&self, replica: &ReplicaStatus) -> Option<String> {
        let name = &replica.name;
        let behind = replica.lag > self.aims.max_lag;
        let lag = || format!("lag {} s, more than {} s", replica.lag.as_secs(), self.aims.max_lag.as_secs());
        match &replica.state {
            ReplicaState::Fenced(why) | ReplicaState::Refused(why) => {
                Some(format!("{name}: nothing more is shipped to it: {why}"))
            }
            // Nothing is there yet that it could lack.
            ReplicaState::Connecting if self.state == State::Absent && self.captured.0 == 0 => None,
            ReplicaState::Connecting => Some(format!("{name}: has not answered yet")),
            ReplicaState::Unreachable(why) if behind => Some(format!("{name}: {}: {why}", lag())),
            ReplicaState::Connected | ReplicaState::Unreachable(_) if behind && replica.stale_since.is_some() => {
                Some(format!("{name}: {}: it waits for a whole snapshot", lag()))
            }
            ReplicaState::Connected | ReplicaState::Unreachable(_) => behind.then(|| format!("{name}: {}", lag())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Generation, TimeMs, Txid};
    use crate::status::{Place, Status};

    fn status() -> Status {
        Status::new("a.db", ["one".to_owned()], 1000, std::sync::Arc::new(|| TimeMs(1_000_000)))
    }

    fn connected(status: &Status) {
        status.replica(0, |replica| replica.state = ReplicaState::Connected);
    }

    /// A database that runs is well; every other state of it or of a replica is told, but for one that never existed.
    #[test]
    fn every_state_but_good_ones_is_a_trouble() {
        let status = status();
        assert_eq!(status.snapshot().troubles().len(), 2, "starting, and no answer yet");
        status.set_state(State::Absent);
        assert!(status.snapshot().troubles().is_empty());
        status.generation(Generation(1 << 20), Txid(7), false);
        connected(&status);
        assert_eq!(status.snapshot().troubles(), ["the database is gone"]);
        for state in [
            State::Starting,
            State::WaitingForReplica,
            State::NotCapturable("x".into()),
            State::FirstRead { done: 1, total: 2 },
            State::SpoolFull { used_bytes: 1, limit_bytes: 1 },
            State::Stopped,
            State::Failed("x".into()),
        ] {
            status.set_state(state.clone());
            assert_eq!(status.snapshot().troubles().len(), 1, "{state:?}");
            assert!(!status.snapshot().is_capturing(), "{state:?}");
        }
        status.set_state(State::Running);
        assert!(status.snapshot().troubles().is_empty() && status.snapshot().is_capturing());
        status.replica(0, |replica| replica.state = ReplicaState::Unreachable("x".into()));
        assert!(status.snapshot().troubles().is_empty(), "within its lag");
        for state in [ReplicaState::Connecting, ReplicaState::Fenced("x".into()), ReplicaState::Refused("x".into())] {
            status.replica(0, |replica| replica.state = state.clone());
            assert_eq!(status.snapshot().troubles().len(), 1, "{state:?}");
        }
    }

    /// The lag counts from the first commit that is not in the replica, and one millisecond more than allowed is too much.
    #[test]
    fn lag_beyond_its_bound_is_a_trouble() {
        let status = status();
        connected(&status);
        status.set_state(State::Running);
        let place = Place { generation: Generation(1 << 20), txid: Txid(1) };
        status.sealed(place, TimeMs(1_000_000 - 60_000), 10);
        assert!(status.snapshot().troubles().is_empty());
        status.set_aims(Aims { max_lag: Duration::from_millis(59_999), ..Aims::default() });
        assert_eq!(status.snapshot().troubles(), ["one: lag 60 s, more than 59 s"]);
        status.shipped(0, place, 10);
        assert!(status.snapshot().troubles().is_empty());
    }

    /// Without a snapshot a replica is worth nothing: the lag goes on until there is one.
    #[test]
    fn a_replica_without_a_snapshot_lags() {
        let status = status();
        connected(&status);
        status.set_state(State::Running);
        let place = Place { generation: Generation(1 << 20), txid: Txid(1) };
        status.sealed(place, TimeMs(999_000), 10);
        status.generation(place.generation, place.txid, true);
        status.shipped(0, place, 10);
        status.replica(0, |replica| replica.stale_since = Some(TimeMs(900_000)));
        assert_eq!(status.snapshot().replicas[0].lag, Duration::from_secs(100));
        assert_eq!(status.snapshot().troubles(), ["one: lag 100 s, more than 60 s: it waits for a whole snapshot"]);
        status.replica(0, |replica| replica.stale_since = None);
        assert!(status.snapshot().troubles().is_empty());
    }
}
