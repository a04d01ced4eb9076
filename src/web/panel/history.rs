//! How the lag of each replica was in the last hour, in little memory: a database at rest costs next to nothing.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Between two samples.
pub const STEP: Duration = Duration::from_secs(10);
/// Samples that are remembered: an hour.
pub const SAMPLES: u32 = 360;
/// Lags are kept in these: what is smaller is no news.
const UNIT: Duration = Duration::from_millis(100);

/// The lag of one replica: a value for each sample that differs from the one before it, at most 8 bytes for each of
/// `SAMPLES`.
#[derive(Debug, Default)]
struct Ring(VecDeque<(u32, u32)>);

impl Ring {
    fn add(&mut self, sample: u32, lag: Duration) {
        let lag = u32::try_from(lag.as_millis() / UNIT.as_millis()).unwrap_or(u32::MAX);
        if self.0.back().is_none_or(|(_, last)| *last != lag) {
            self.0.push_back((sample, lag));
        }
        // The last one before the hour says how the hour began.
        let begin = sample.saturating_sub(SAMPLES - 1);
        while self.0.get(1).is_some_and(|(next, _)| *next <= begin) {
            self.0.pop_front();
        }
    }

    fn read(&self, now: u32) -> Vec<Option<Duration>> {
        let begin = now.saturating_sub(SAMPLES - 1);
        let (mut at, mut value) = (0, None);
        let samples = (begin..=now).map(|sample| {
            while let Some((_, lag)) = self.0.get(at).filter(|(from, _)| *from <= sample) {
                (at, value) = (at + 1, Some(UNIT * *lag));
            }
            value
        });
        samples.collect()
    }
}

/// Of all databases, by their numbers.
#[derive(Debug, Default)]
pub struct History {
    sample: u32,
    rings: HashMap<u64, Vec<Ring>>,
}

impl History {
    /// Takes one sample of everything; what is not among it any more is forgotten.
    pub fn sample(&mut self, all: impl Iterator<Item = (u64, Vec<Duration>)>) {
        // A sample each ten seconds: enough for 1,300 years.
        self.sample = self.sample.saturating_add(1);
        let mut before = std::mem::take(&mut self.rings);
        for (id, lags) in all {
            let mut rings = before.remove(&id).unwrap_or_default();
            rings.resize_with(lags.len(), Ring::default);
            for (ring, lag) in rings.iter_mut().zip(lags) {
                ring.add(self.sample, lag);
            }
            self.rings.insert(id, rings);
        }
    }

    /// The lag of one replica, oldest first; `None`: it was not known then.
    pub fn read(&self, id: u64, replica: usize) -> Vec<Option<Duration>> {
        self.rings.get(&id).and_then(|rings| rings.get(replica)).map(|ring| ring.read(self.sample)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Option<Duration> {
        Some(Duration::from_millis(ms))
    }

    /// What was sampled is read again, for an hour; what did not change takes no room; what is gone is forgotten.
    #[test]
    fn an_hour_is_remembered() {
        let mut history = History::default();
        let add = |history: &mut History, lag: u64| {
            history.sample([(1, vec![Duration::from_millis(lag), Duration::ZERO])].into_iter());
        };
        for lag in [0, 0, 250, 0] {
            add(&mut history, lag);
        }
        assert_eq!(history.read(1, 0), [None, ms(0), ms(0), ms(200), ms(0)]);
        assert_eq!(history.read(1, 1).last(), Some(&ms(0)));
        assert_eq!((history.read(1, 2), history.read(2, 0)), (vec![], vec![]));
        for _ in 0..10_000 {
            add(&mut history, 7_000);
        }
        let (first, second) = (&history.rings[&1][0], &history.rings[&1][1]);
        assert_eq!((first.0.len(), second.0.len()), (1, 1));
        assert_eq!(history.read(1, 0), vec![ms(7_000); SAMPLES as usize]);
        for lag in 0..10_000 {
            add(&mut history, lag * 100);
        }
        assert!(history.rings[&1][0].0.len() <= SAMPLES as usize);
        assert_eq!(history.read(1, 0).first(), Some(&ms((10_000 - u64::from(SAMPLES)) * 100)));
        history.sample(std::iter::empty());
        assert!(history.rings.is_empty());
    }
}
