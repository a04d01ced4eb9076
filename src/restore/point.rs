//! What `--at` can say: a moment or a commit, as people write it.

use std::fmt;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

use crate::position::{Generation, TimeMs, Txid};

/// A point of a replica's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The newest commit: the default, and `now`.
    Newest,
    /// The last commit seen at or before this moment.
    At(TimeMs),
    /// This commit of the newest generation, or of the one asked for beside it.
    Txid(Txid),
    /// This commit of this generation.
    Commit(Generation, Txid),
}

/// What a text like `label:NAME` names, if it is one.
pub fn label(text: &str) -> Option<&str> {
    text.trim().strip_prefix("label:")
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Point::Newest => f.write_str("the newest commit"),
            Point::At(time) => f.write_str(&format_time(*time)),
            Point::Txid(txid) => write!(f, "txid:{}", txid.0),
            Point::Commit(generation, txid) => write!(f, "{generation}/{}", txid.0),
        }
    }
}

/// A text that names no point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PointError {
    #[error(
        "{0:?} is no point in time and no commit; write 2026-11-20T10:15:00Z, \"2026-11-20 10:15\" (local time), \"5m ago\", now, \
         txid:123 or GENERATION/TXID"
    )]
    Unknown(String),
    #[error("a label does not say when here: {0:?}; name a time or a commit")]
    Label(String),
    #[error("the local time {text:?} {problem}; write it with its offset, like {example}")]
    Ambiguous { text: String, problem: &'static str, example: String },
    #[error("{0:?} is before 1970 or after the year 10000")]
    OutOfRange(String),
}

/// Reads a point. `now` and `zone` are the caller's clock and place.
pub fn parse(text: &str, now: TimeMs, zone: &TimeZone) -> Result<Point, PointError> {
    let text = text.trim();
    let unknown = || PointError::Unknown(text.chars().take(100).collect());
    if text.eq_ignore_ascii_case("now") {
        return Ok(Point::Newest);
    }
    if let Some(name) = text.strip_prefix("label:") {
        return Err(PointError::Label(name.chars().take(100).collect()));
    }
    if let Some(number) = text.strip_prefix("txid:") {
        return parse_txid(number).map(Point::Txid).ok_or_else(unknown);
    }
    // A slash also stands in the names of time zones: 2026-11-20T11:15[Europe/Berlin].
    if let Some((generation, txid)) = text.split_once('/').filter(|_| !text.contains('[')) {
        let generation = generation.parse().map_err(|_| unknown())?;
        return Ok(Point::Commit(generation, parse_txid(txid).ok_or_else(unknown)?));
    }
    if text.to_ascii_lowercase().ends_with("ago") {
        return parse_ago(text, now, zone)?.map(Point::At).ok_or_else(unknown);
    }
    parse_time(text, zone)?.map(Point::At).ok_or_else(unknown)
}

/// A generation as people write it after `--generation`: 16 hexadecimal digits.
pub fn parse_generation(text: &str) -> Result<Generation, PointError> {
    text.trim().parse().map_err(|_| PointError::Unknown(text.chars().take(100).collect()))
}

/// Decimal, or the 16 hexadecimal digits that stand in names.
fn parse_txid(text: &str) -> Option<Txid> {
    let txid = if text.len() == 16 {
        text.parse::<Txid>().ok()?
    } else {
        let decimal = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        Txid(decimal.then(|| text.parse::<u64>().ok())??)
    };
    (txid > Txid::ZERO).then_some(txid)
}

fn parse_ago(text: &str, now: TimeMs, zone: &TimeZone) -> Result<Option<TimeMs>, PointError> {
    // "5m ago" reads as a negative span. Days and more follow the calendar of the zone.
    let Ok(span) = text.to_ascii_lowercase().parse::<Span>() else { return Ok(None) };
    let out_of_range = || PointError::OutOfRange(text.to_owned());
    let now = i64::try_from(now.0).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).ok_or_else(out_of_range)?;
    let then = now.to_zoned(zone.clone()).checked_add(span).map_err(|_| out_of_range())?;
    to_ms(then.timestamp(), text).map(Some)
}

fn parse_time(text: &str, zone: &TimeZone) -> Result<Option<TimeMs>, PointError> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return to_ms(time, text).map(Some);
    }
    if let Ok(time) = text.parse::<Zoned>() {
        return to_ms(time.timestamp(), text).map(Some);
    }
    let Ok(local) = text.parse::<DateTime>() else { return Ok(None) };
    let ambiguous = zone.to_ambiguous_zoned(local);
    if ambiguous.is_ambiguous() {
        let earlier = ambiguous.clone().earlier().map_err(|_| PointError::OutOfRange(text.to_owned()))?;
        let problem = match ambiguous.offset() {
            jiff::tz::AmbiguousOffset::Gap { .. } => "did not exist when the clocks were put forward",
            _ => "came twice when the clocks were put back",
        };
        let example = Timestamp::to_string(&earlier.timestamp());
        return Err(PointError::Ambiguous { text: text.to_owned(), problem, example });
    }
    let time = ambiguous.unambiguous().map_err(|_| PointError::OutOfRange(text.to_owned()))?;
    to_ms(time.timestamp(), text).map(Some)
}

/// Fractions of a millisecond are cut, as they are in the times of commits.
fn to_ms(time: Timestamp, text: &str) -> Result<TimeMs, PointError> {
    match u64::try_from(time.as_millisecond()) {
        Ok(ms) if ms <= TimeMs::MAX.0 && time >= Timestamp::UNIX_EPOCH => Ok(TimeMs(ms)),
        _ => Err(PointError::OutOfRange(text.chars().take(100).collect())),
    }
}

/// A moment as it is printed everywhere, and as `--at` reads it: RFC 3339 in UTC with milliseconds.
pub fn format_time(time: TimeMs) -> String {
    match i64::try_from(time.0).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()) {
        Some(time) => format!("{time:.3}"),
        None => format!("{} ms after 1970", time.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: TimeMs = TimeMs(1_795_169_700_000); // 2026-11-20T10:15:00Z

    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone")
    }

    fn at(text: &str) -> Result<Point, PointError> {
        parse(text, NOW, &berlin())
    }

    fn ms(text: &str) -> TimeMs {
        match at(text) {
            Ok(Point::At(time)) => time,
            other => panic!("{text:?} gave {other:?}"),
        }
    }

    /// Every way to write a moment names the same one.
    #[test]
    fn moments() {
        for text in [
            "2026-11-20T10:15:00Z",
            "2026-11-20 10:15:00Z",
            "2026-11-20T11:15:00+01:00",
            "2026-11-20T11:15:00",
            "2026-11-20 11:15",
            "2026-11-20T11:15:00[Etc/GMT-1]",
            "2026-11-20T10:15:00.0009Z",
        ] {
            if text.contains('[') && TimeZone::get("Etc/GMT-1").is_err() {
                continue;
            }
            assert_eq!(ms(text), NOW, "{text}");
        }
        assert_eq!(ms("2026-11-20T10:15:00.250Z"), TimeMs(NOW.0 + 250));
        assert_eq!(ms("2026-11-20"), TimeMs(NOW.0 - (11 * 60 + 15) * 60_000));
        assert_eq!(format_time(TimeMs(NOW.0 + 7)), "2026-11-20T10:15:00.007Z");
        assert_eq!(ms(&format_time(TimeMs(NOW.0 + 7))), TimeMs(NOW.0 + 7));
    }

    /// Durations count back from now.
    #[test]
    fn durations_ago() {
        let minute = 60_000;
        for (text, minutes) in
            [("5m ago", 5), ("2 hours ago", 120), ("1h30m ago", 90), ("5 Minutes AGO", 5), ("1 day ago", 1440)]
        {
            assert_eq!(ms(text), TimeMs(NOW.0 - minutes * minute), "{text}");
        }
        assert!(at("5m").is_err());
        assert!(at("ago").is_err());
        assert!(at("9999 years ago").is_err());
    }

    /// Commits are read in decimal, or as they stand in names.
    #[test]
    fn commits() {
        assert_eq!(at("now"), Ok(Point::Newest));
        assert_eq!(at("txid:123"), Ok(Point::Txid(Txid(123))));
        assert_eq!(at("txid:00000000000000ff"), Ok(Point::Txid(Txid(255))));
        let generation = Generation(0x1a2b);
        assert_eq!(at("0000000000001a2b/12"), Ok(Point::Commit(generation, Txid(12))));
        assert_eq!(at("0000000000001a2b/0000000000000012"), Ok(Point::Commit(generation, Txid(0x12))));
        for text in ["txid:0", "txid:", "txid:-1", "txid:1x", "1a2b/1", "/1", "0000000000001a2b/", "", "yesterday-ish"]
        {
            assert!(at(text).is_err(), "{text:?}");
        }
    }

    /// What cannot be answered is refused in words: labels, local times that came twice or never.
    #[test]
    fn refusals_say_why() {
        assert!(matches!(at("label:before-migration"), Err(PointError::Label(name)) if name == "before-migration"));
        let twice = at("2026-10-25T02:30:00").expect_err("came twice").to_string();
        assert!(twice.contains("came twice"), "{twice}");
        let never = at("2026-03-29T02:30:00").expect_err("never came").to_string();
        assert!(never.contains("did not exist"), "{never}");
        assert!(matches!(at("1950-01-01T00:00:00Z"), Err(PointError::OutOfRange(_))));
    }
}
