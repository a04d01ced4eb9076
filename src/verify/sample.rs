//! A part of all objects, another one each day. Pure.

use crate::checksum::content_hash;
use crate::position::TimeMs;
use crate::store::Key;

/// All objects, in hundredths of a percent.
pub const WHOLE: u32 = 10_000;

const DAY_MS: u64 = 24 * 3600 * 1000;

/// Which objects are read on one day.
///
/// The hash of its name gives each object a place on a circle. A day looks at a stretch of it, and the next day's begins where it ends: so
/// an object that stays is read once in as many days as it takes to go round, whatever comes and goes beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// In hundredths of a percent: 1 to `WHOLE`.
    pub share: u32,
    pub day: u64,
}

impl Sample {
    /// The part of `share` that the day (UTC) of `now` looks at.
    pub fn of(share: u32, now: TimeMs) -> Sample {
        Sample { share: share.clamp(1, WHOLE), day: now.0 / DAY_MS }
    }

    /// Days after which everything was looked at.
    pub fn days(&self) -> u32 {
        WHOLE.div_ceil(self.share)
    }

    pub fn holds(&self, key: &Key) -> bool {
        let (whole, share) = (u64::from(WHOLE), u64::from(self.share));
        let begin = (self.day % whole) * share % whole;
        let place = content_hash(key.as_str().as_bytes()) % whole;
        (place + whole - begin) % whole < share
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every object is read in each round of days, and about as many in a day as was asked for.
        #[test]
        fn everything_has_its_day(share in 1u32..=WHOLE, day in 0u64..1_000_000, names in proptest::collection::vec("[a-f0-9/]{1,30}[a-f0-9]", 1..4)) {
            let today = Sample { share, day };
            let keys: Vec<Key> = names.into_iter().filter_map(|name| Key::new(name).ok()).collect();
            for key in &keys {
                let round = (0..u64::from(today.days())).filter(|d| Sample { day: day + d, ..today }.holds(key)).count();
                prop_assert!((1..=2).contains(&round), "{key}: {round}");
            }
        }
    }

    /// The share is what was asked for.
    #[test]
    fn a_share_is_a_share() {
        let sample = Sample::of(1000, TimeMs(20_000 * DAY_MS + 5));
        assert_eq!((sample.day, sample.days()), (20_000, 10));
        let key = |number: u32| Key::new(format!("{number:032x}.seg")).expect("a key");
        let held = (0..10_000).filter(|number| sample.holds(&key(*number))).count();
        assert!((900..1100).contains(&held), "{held}");
        assert!((0..100).all(|number| Sample::of(WHOLE, TimeMs(0)).holds(&key(number))));
    }
}
