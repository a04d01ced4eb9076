//! How long each phase of a drill took.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::record::Phase;
use crate::position::whole_ms;
use crate::restore::Progress;

/// Hears what a restore is doing, and passes it on.
#[derive(Debug)]
pub(super) struct Stopwatch {
    heard_by: Arc<dyn Progress>,
    /// What began, and when; the first is planning.
    begun: Mutex<Vec<(&'static str, Instant)>>,
}

impl Stopwatch {
    pub fn new(heard_by: Arc<dyn Progress>) -> Stopwatch {
        Stopwatch { heard_by, begun: Mutex::new(vec![("planning", Instant::now())]) }
    }

    fn begun(&self) -> MutexGuard<'_, Vec<(&'static str, Instant)>> {
        self.begun.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Each phase once, in the order in which they first began. The last one ends now.
    pub fn phases(&self) -> Vec<Phase> {
        let begun = self.begun();
        let mut phases: Vec<(&'static str, Duration)> = Vec::new();
        for (at, (name, from)) in begun.iter().enumerate() {
            let to = begun.get(at + 1).map_or_else(Instant::now, |(_, next)| *next);
            let took = to.saturating_duration_since(*from);
            match phases.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum += took,
                None => phases.push((name, took)),
            }
        }
        phases.into_iter().map(|(name, took)| Phase { name: name.to_owned(), duration_ms: whole_ms(took) }).collect()
    }
}

impl Progress for Stopwatch {
    fn begin(&self, doing: &'static str, total: u64) {
        self.begun().push((doing, Instant::now()));
        self.heard_by.begin(doing, total);
    }

    fn advance(&self, bytes: u64) {
        self.heard_by.advance(bytes);
    }

    fn note(&self, text: &str) {
        self.heard_by.note(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::Silent;

    /// Every phase is there once, also when a restore has to begin again.
    #[test]
    fn phases_are_told_apart() {
        let watch = Stopwatch::new(Arc::new(Silent));
        for doing in ["restoring", "proving", "restoring", "proving", "checking"] {
            watch.begin(doing, 0);
        }
        let names: Vec<String> = watch.phases().into_iter().map(|phase| phase.name).collect();
        assert_eq!(names, ["planning", "restoring", "proving", "checking"]);
    }
}
