//! When something is due by the clock: a cron expression in a time zone -> the next moment it names.

use std::fmt;

use croner::Cron as Pattern;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::position::TimeMs;

/// What an expression may look like, for messages.
pub const EXAMPLE: &str = "\"30 4 * * *\" (every day at 04:30), \"0 4 * * SUN\", @hourly, @daily, @weekly";

/// Above any real expression, below what would take long to read.
const MAX_CHARS: usize = 200;

/// Expressions are tried from here on, whenever they are read: 2024-01-01, the beginning of a leap year.
const TRIAL_SECONDS: i64 = 1_704_067_200;

/// A text that is no cron expression, or a name that is no time zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    #[error(
        "{text:?} is no cron expression ({why}); write minute, hour, day of the month, month and day of the week: {EXAMPLE}"
    )]
    Expression { text: String, why: String },
    #[error("{text:?} names no moment that ever comes; write one that does, such as {EXAMPLE}")]
    Never { text: String },
    #[error(
        "{0:?} is no known time zone; write UTC or a name of the time zone database, such as Europe/Berlin (where the name is right: \
             this machine has no time zone database, install tzdata)"
    )]
    Zone(String),
}

/// A place whose clocks decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Zone {
    pub const UTC: Zone = Zone(TimeZone::UTC);

    /// `UTC`, or a name of the time zone database.
    pub fn parse(name: &str) -> Result<Zone, CronError> {
        TimeZone::get(name).map(Zone).map_err(|_| CronError::Zone(name.chars().take(MAX_CHARS).collect()))
    }

    /// The day of the week, from Monday (0) on, and the minute of the day that its clocks show. Before and after what a calendar
    /// knows, its first moment.
    pub fn clock(&self, now: TimeMs) -> (usize, u16) {
        let moment = i64::try_from(now.0).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or_default();
        let local = moment.to_zoned(self.0.clone());
        let day = usize::try_from(local.weekday().to_monday_zero_offset()).unwrap_or(0);
        (day, u16::try_from(i32::from(local.hour()) * 60 + i32::from(local.minute())).unwrap_or(0))
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.iana_name().unwrap_or("UTC"))
    }
}

/// A cron expression in a time zone.
///
/// A moment that the clocks skip in spring comes right after the gap; one that they repeat in autumn comes once, where the
/// expression names a time of the day, and in both hours, where it names every so many minutes or hours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    text: String,
    pattern: Pattern,
    zone: Zone,
}

impl Cron {
    /// The five usual fields, with names of months and days, or one of `@hourly`, `@daily`, `@weekly`, `@monthly` and `@yearly`.
    /// A day is meant where the day of the month or the day of the week fits, when both are given.
    pub fn parse(text: &str, zone: &Zone) -> Result<Cron, CronError> {
        let text: String = text.trim().chars().take(MAX_CHARS).collect();
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let refused = |why: String| CronError::Expression { text: text.clone(), why };
        let pattern = parser.parse(&text).map_err(|error| refused(error.to_string()))?;
        let cron = Cron { text: text.clone(), pattern, zone: zone.clone() };
        match cron.next(Timestamp::from_second(TRIAL_SECONDS).unwrap_or_default()) {
            Some(_) => Ok(cron),
            None => Err(CronError::Never { text }),
        }
    }

    /// The first moment named that is later than `now`. `None` only when the calendar itself ends before it.
    pub fn next_after(&self, now: TimeMs) -> Option<TimeMs> {
        let next = self.next(Timestamp::from_millisecond(i64::try_from(now.0).ok()?).ok()?)?;
        u64::try_from(next.as_millisecond()).ok().map(TimeMs)
    }

    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let after = after.to_zoned(self.zone.0.clone());
        self.pattern.find_next_occurrence(&after, false).ok().map(|next| next.timestamp())
    }
}

/// As it was written, with its zone.
impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.zone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(text: &str) -> TimeMs {
        TimeMs(u64::try_from(text.parse::<Timestamp>().unwrap().as_millisecond()).unwrap())
    }

    fn next(expression: &str, zone: &str, now: &str) -> String {
        let cron = Cron::parse(expression, &Zone::parse(zone).unwrap()).unwrap();
        let next = cron.next_after(ms(now)).unwrap();
        Timestamp::from_millisecond(i64::try_from(next.0).unwrap()).unwrap().to_string()
    }

    /// The usual five fields, names and nicknames mean what they mean everywhere, with Sunday as 0, 7 and SUN; a day is meant
    /// where either of two given day fields fits; the answer is later than the question, even by less than a second.
    #[test]
    fn the_usual_expressions() {
        // 2026-11-21 is a Saturday.
        for (expression, now, then) in [
            ("30 4 * * *", "2026-11-21T04:29:59.999Z", "2026-11-21T04:30:00Z"),
            ("30 4 * * *", "2026-11-21T04:30:00Z", "2026-11-22T04:30:00Z"),
            ("30 4 * * *", "2026-11-21T04:30:00.500Z", "2026-11-22T04:30:00Z"),
            ("*/15 * * * *", "2026-11-21T08:01:06Z", "2026-11-21T08:15:00Z"),
            ("0 4 * * 0", "2026-11-21T08:00:00Z", "2026-11-22T04:00:00Z"),
            ("0 4 * * 7", "2026-11-21T08:00:00Z", "2026-11-22T04:00:00Z"),
            ("0 4 * * sun", "2026-11-21T08:00:00Z", "2026-11-22T04:00:00Z"),
            ("0 4 1 feb *", "2026-11-21T08:00:00Z", "2027-02-01T04:00:00Z"),
            ("0 0 13 * 1", "2026-11-21T08:00:00Z", "2026-11-23T00:00:00Z"),
            ("@hourly", "2026-11-21T08:00:00Z", "2026-11-21T09:00:00Z"),
            ("@daily", "2026-11-21T08:00:00Z", "2026-11-22T00:00:00Z"),
            (" @weekly ", "2026-11-21T08:00:00Z", "2026-11-22T00:00:00Z"),
            ("@monthly", "2026-11-21T08:00:00Z", "2026-12-01T00:00:00Z"),
            ("0 0 29 2 *", "2026-11-21T08:00:00Z", "2028-02-29T00:00:00Z"),
        ] {
            assert_eq!(next(expression, "UTC", now), then, "{expression} after {now}");
        }
        assert_eq!(next("30 4 * * *", "Europe/Berlin", "2026-11-21T00:00:00Z"), "2026-11-21T03:30:00Z");
        let shown = Cron::parse(" @daily ", &Zone::parse("Europe/Berlin").unwrap()).unwrap().to_string();
        assert_eq!(shown, "@daily (Europe/Berlin)");
    }

    /// A time of the day comes exactly once on the days when the clocks are changed; every half hour goes on in both of the
    /// hours that look alike.
    #[test]
    fn clocks_that_are_changed() {
        let berlin = |expression, now| next(expression, "Europe/Berlin", now);
        // 2026-03-29 02:00 becomes 03:00: half past two does not exist.
        assert_eq!(berlin("30 2 * * *", "2026-03-28T12:00:00Z"), "2026-03-29T01:00:00Z");
        assert_eq!(berlin("30 2 * * *", "2026-03-29T01:00:00Z"), "2026-03-30T00:30:00Z");
        // 2026-10-25 03:00 becomes 02:00: half past two comes twice.
        assert_eq!(berlin("30 2 * * *", "2026-10-24T12:00:00Z"), "2026-10-25T00:30:00Z");
        assert_eq!(berlin("30 2 * * *", "2026-10-25T00:30:00Z"), "2026-10-26T01:30:00Z");
        assert_eq!(berlin("*/30 * * * *", "2026-10-25T00:30:00Z"), "2026-10-25T01:00:00Z");
        assert_eq!(berlin("*/30 * * * *", "2026-10-25T01:00:00Z"), "2026-10-25T01:30:00Z");
    }

    /// What is no expression, never comes or is no zone is refused, with an example of what would do.
    #[test]
    fn refusals() {
        for text in
            ["", "daily", "@never", "* * * *", "0 0 4 * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "a * * * *"]
        {
            let error = Cron::parse(text, &Zone::UTC).unwrap_err();
            assert!(matches!(error, CronError::Expression { .. }), "{text}: {error}");
            assert!(error.to_string().contains("@daily"), "{error}");
        }
        assert!(matches!(Cron::parse("0 0 30 2 *", &Zone::UTC), Err(CronError::Never { .. })));
        let error = Zone::parse("Berlin/Europe").unwrap_err();
        assert!(error.to_string().contains("Europe/Berlin"), "{error}");
    }

    proptest! {
        /// No text makes the reader panic, and whatever is taken always answers with a later moment.
        #[test]
        fn any_text_is_read_or_refused(text in "[-0-9*/,@LW# a-z]{0,24}|.{0,30}", now in 0u64..4_000_000_000_000) {
            if let Ok(cron) = Cron::parse(&text, &Zone::UTC) {
                prop_assert!(cron.next_after(TimeMs(now)).is_none_or(|next| next > TimeMs(now)));
            }
        }
    }
}
