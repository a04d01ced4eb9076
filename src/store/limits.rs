//! How fast a store may be used: bytes and requests in a time, other ones at other times of the day.

use std::fmt;
use std::time::Duration;

use crate::cron::Zone;
use crate::position::TimeMs;

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A byte of a body that is sent.
    Upload,
    /// A byte of a body that is received.
    Download,
    Request,
}

impl Unit {
    pub const ALL: [Unit; 3] = [Unit::Upload, Unit::Download, Unit::Request];

    /// Its key in the configuration.
    pub fn key(self) -> &'static str {
        ["upload", "download", "requests"][self as usize]
    }
}

/// So many units in each `per`, evenly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    units: u64,
    per: Duration,
}

impl Rate {
    /// `None` where it would be nothing at all.
    pub fn new(units: u64, per: Duration) -> Option<Rate> {
        (units > 0 && !per.is_zero()).then_some(Rate { units, per })
    }

    /// What `n` units take.
    pub fn time_of(self, n: u64) -> Duration {
        let nanos = self.per.as_nanos().saturating_mul(u128::from(n)) / u128::from(self.units);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// What fits in `time`.
    pub fn in_time(self, time: Duration) -> u64 {
        let units = time.as_nanos().saturating_mul(u128::from(self.units)) / self.per.as_nanos();
        u64::try_from(units).unwrap_or(u64::MAX)
    }

    pub fn units(self) -> u64 {
        self.units
    }

    pub fn per(self) -> Duration {
        self.per
    }
}

/// By unit; `None` is as fast as can be.
pub type Rates = [Option<Rate>; 3];

/// A part of the week with rates of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Minutes of the day: from the first one to before the second, past midnight where that is smaller.
    pub between: (u16, u16),
    /// From Monday on: the days on which it begins.
    pub days: [bool; 7],
    pub zone: Zone,
    /// By unit: the outer `None` leaves what counts otherwise.
    pub rates: [Option<Option<Rate>>; 3],
}

impl Window {
    fn holds(&self, now: TimeMs) -> bool {
        let (day, minute) = self.zone.clock(now);
        let (from, to) = self.between;
        let yesterday = (day + 6) % 7;
        match from < to {
            true => self.days[day] && (from..to).contains(&minute),
            false => (self.days[day] && minute >= from) || (self.days[yesterday] && minute < to),
        }
    }
}

/// What is said of a store; nothing by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    pub always: Rates,
    /// The first one that holds and says something of a unit counts.
    pub windows: Vec<Window>,
}

impl Limits {
    pub fn is_empty(&self) -> bool {
        *self == Limits::default()
    }

    /// What counts at a moment.
    pub fn at(&self, now: TimeMs, unit: Unit) -> Option<Rate> {
        let index = unit as usize;
        let holding = self.windows.iter().filter(|window| window.rates[index].is_some());
        let mut holding = holding.filter(|window| window.holds(now)).filter_map(|window| window.rates[index]);
        holding.next().unwrap_or(self.always[index])
    }

    /// The slowest that ever counts.
    pub fn slowest(&self, unit: Unit) -> Option<Rate> {
        let index = unit as usize;
        let in_windows = self.windows.iter().filter_map(|window| window.rates[index].flatten());
        self.always[index].into_iter().chain(in_windows).max_by_key(|rate| rate.time_of(1 << 20))
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-21 was a Saturday.
    fn at(text: &str) -> TimeMs {
        let timestamp: jiff::Timestamp = text.parse().unwrap();
        TimeMs(u64::try_from(timestamp.as_millisecond()).unwrap())
    }

    fn window(between: (u16, u16), days: [bool; 7], zone: &str) -> Window {
        Window { between, days, zone: Zone::parse(zone).unwrap(), rates: [Some(None), None, None] }
    }

    /// A window holds on its days, at its times, in its zone, past midnight too; it says nothing of what it does not name.
    #[test]
    fn windows_hold_when_they_say() {
        let week = [true, true, true, true, true, false, false];
        let office = window((8 * 60, 18 * 60), week, "Europe/Berlin");
        let night = window((22 * 60, 6 * 60), [false, false, false, false, true, false, false], "UTC");
        for (window, time, holds) in [
            (&office, "2026-11-20T07:00:00Z", true),
            (&office, "2026-11-20T06:59:59Z", false),
            (&office, "2026-11-20T16:59:59Z", true),
            (&office, "2026-11-20T17:00:00Z", false),
            (&office, "2026-11-21T10:00:00Z", false),
            (&office, "2026-07-03T06:00:00Z", true),
            (&night, "2026-11-20T22:00:00Z", true),
            (&night, "2026-11-21T05:59:00Z", true),
            (&night, "2026-11-21T06:00:00Z", false),
            (&night, "2026-11-21T22:00:00Z", false),
            (&night, "2026-11-20T05:00:00Z", false),
        ] {
            assert_eq!(window.holds(at(time)), holds, "{time}");
        }
        let rate = Rate::new(5, Duration::from_secs(1));
        let limits = Limits { always: [rate, rate, None], windows: vec![office] };
        assert_eq!(limits.at(at("2026-11-20T10:00:00Z"), Unit::Upload), None, "lifted");
        assert_eq!(limits.at(at("2026-11-20T10:00:00Z"), Unit::Download), rate);
        assert_eq!(limits.at(at("2026-11-21T10:00:00Z"), Unit::Upload), rate);
    }

    /// Times and amounts fit each other, and no number is too large.
    #[test]
    fn rates_are_exact() {
        let rate = Rate::new(20, Duration::from_secs(60)).unwrap();
        assert_eq!((rate.time_of(1), rate.in_time(Duration::from_secs(9))), (Duration::from_secs(3), 3));
        let fast = Rate::new(u64::MAX, Duration::from_nanos(1)).unwrap();
        assert_eq!((fast.time_of(1), fast.in_time(Duration::MAX)), (Duration::ZERO, u64::MAX));
        assert_eq!(Rate::new(0, Duration::from_secs(1)), None);
        let slow = Rate::new(1, Duration::MAX).unwrap();
        assert_eq!(slow.time_of(u64::MAX), Duration::from_nanos(u64::MAX));
    }
}
