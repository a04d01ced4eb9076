//! What `limits` says: how fast a store may be used, and when.

use std::time::Duration;

use serde_yaml_ng::Value;

use super::ConfigError;
use super::fields::Fields;
use super::units::{parse_size, show_size};
use crate::cron::Zone;
use crate::store::limits::{Limits, Rate, Unit, Window};

const KEYS: [&str; 4] = ["upload", "download", "requests", "windows"];
const WINDOW_KEYS: [&str; 6] = ["between", "days", "time-zone", "upload", "download", "requests"];
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const EVERY_DAY: [bool; 7] = [true; 7];
const SECOND: Duration = Duration::from_secs(1);
/// Below it, a single segment would take minutes and a fault hours to be found.
const SLOWEST_BYTES: u64 = 16 << 10;
/// No request may have to wait for longer.
const SLOWEST_REQUEST: Duration = Duration::from_secs(60);
const MAX_WINDOWS: usize = 100;

/// Takes the key `limits` out of `fields`; `None` where it is missing. The nearest `limits` says everything.
pub(super) fn read(fields: &mut Fields) -> Result<Option<Limits>, ConfigError> {
    let path = fields.path_to("limits");
    let mut own = match fields.value("limits") {
        None => return Ok(None),
        Some(Value::String(text)) if text == "none" => return Ok(Some(Limits::default())),
        Some(value @ Value::Mapping(_)) => Fields::new(value, &path, &KEYS)?,
        Some(_) => return Err(ConfigError::at(&path, "is neither `none` nor a mapping of limits")),
    };
    let mut limits = Limits::default();
    for unit in Unit::ALL {
        limits.always[unit as usize] = rate(&mut own, unit)?.flatten();
    }
    let windows = own.list("windows")?.unwrap_or_default();
    if windows.len() > MAX_WINDOWS {
        return Err(own.error("windows", format!("has more than {MAX_WINDOWS} entries")));
    }
    let at = own.path_to("windows");
    let each = windows.into_iter().enumerate().map(|(i, item)| window(item, &format!("{at}[{i}]")));
    limits.windows = each.collect::<Result<_, _>>()?;
    if limits.is_empty() {
        return Err(ConfigError::at(&path, "limits nothing; write `upload: 10MiB/s`, `requests: 20/s`, or `none`"));
    }
    Ok(Some(limits))
}

fn window(item: Value, at: &str) -> Result<Window, ConfigError> {
    let mut fields = Fields::new(item, at, &WINDOW_KEYS)?;
    let between = fields.text("between")?.ok_or_else(|| ConfigError::at(at, "needs the key `between`"))?;
    let between = parse_between(&between).map_err(|problem| fields.error("between", problem))?;
    let days = match fields.text("days")? {
        None => EVERY_DAY,
        Some(text) => parse_days(&text).map_err(|problem| fields.error("days", problem))?,
    };
    let zone = match fields.text("time-zone")? {
        None => Zone::UTC,
        Some(name) => Zone::parse(&name).map_err(|error| fields.error("time-zone", error.to_string()))?,
    };
    let mut rates = [None; 3];
    for unit in Unit::ALL {
        rates[unit as usize] = rate(&mut fields, unit)?;
    }
    match rates.iter().all(Option::is_none) {
        true => Err(ConfigError::at(at, "limits nothing; write `upload: 2MiB/s` or `upload: unlimited`")),
        false => Ok(Window { between, days, zone, rates }),
    }
}

/// The inner `None` is `unlimited`.
fn rate(fields: &mut Fields, unit: Unit) -> Result<Option<Option<Rate>>, ConfigError> {
    let Some(text) = fields.text(unit.key())? else { return Ok(None) };
    if text == "unlimited" {
        return Ok(Some(None));
    }
    let parsed = match unit {
        Unit::Upload | Unit::Download => parse_bytes(&text),
        Unit::Request => parse_requests(&text),
    };
    parsed.map(|rate| Some(Some(rate))).map_err(|problem| fields.error(unit.key(), problem))
}

/// `10MiB/s`.
fn parse_bytes(text: &str) -> Result<Rate, String> {
    let low = show_size(SLOWEST_BYTES);
    let problem = || format!("{text:?} is no rate; write a size and /s, at least {low}/s: 10MiB/s, or unlimited");
    let size = text.strip_suffix("/s").ok_or_else(problem)?;
    let bytes = parse_size(size.trim_end()).ok().filter(|bytes| *bytes >= SLOWEST_BYTES).ok_or_else(problem)?;
    Rate::new(bytes, SECOND).ok_or_else(problem)
}

/// `20/s`, `600/m`, `36000/h`.
fn parse_requests(text: &str) -> Result<Rate, String> {
    let problem =
        || format!("{text:?} is no rate; write a number and /s, /m or /h, at least one a minute: 20/s, or unlimited");
    let (number, unit) = text.split_once('/').ok_or_else(problem)?;
    let seconds = match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(problem()),
    };
    let number = number.trim().parse().map_err(|_| problem())?;
    let rate = Rate::new(number, Duration::from_secs(seconds)).ok_or_else(problem)?;
    Some(rate).filter(|rate| rate.time_of(1) <= SLOWEST_REQUEST).ok_or_else(problem)
}

/// `08:00-18:00`, in minutes of the day.
fn parse_between(text: &str) -> Result<(u16, u16), String> {
    let problem = || format!("{text:?} is no time of the day; write it as 08:00-18:00, or 22:00-06:00 for a night");
    let minutes = |time: &str| {
        let (hour, minute) = time.trim().split_once(':')?;
        let two = |digits: &str| (digits.len() == 2).then(|| digits.parse::<u16>().ok()).flatten();
        let (hour, minute) = (two(hour)?, two(minute)?);
        (minute < 60 && (hour < 24 || (hour, minute) == (24, 0))).then_some(hour * 60 + minute)
    };
    let (from, to) = text.split_once('-').ok_or_else(problem)?;
    let (from, to) = (minutes(from).ok_or_else(problem)?, minutes(to).ok_or_else(problem)?);
    if from == to || from == 24 * 60 {
        return Err(format!("{text:?} is no time at all; a whole day is 00:00-24:00"));
    }
    Ok((from, to))
}

/// `mon-fri`, `sat,sun`, `fri-mon`.
fn parse_days(text: &str) -> Result<[bool; 7], String> {
    let problem = || format!("{text:?} are no days; write mon-fri, or sat,sun");
    let day = |name: &str| {
        let name = name.trim().to_ascii_lowercase();
        DAYS.iter().position(|known| *known == name).ok_or_else(problem)
    };
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        (0..=(last + 7 - first) % 7).for_each(|n| days[(first + n) % 7] = true);
    }
    Ok(days)
}

/// As they are understood, for people.
pub fn show(limits: &Limits) -> String {
    let of_unit = |(unit, rate): (Unit, Option<Rate>)| format!("{unit}: {}", show_rate(unit, rate));
    let always = Unit::ALL.into_iter().zip(limits.always).filter(|(_, rate)| rate.is_some()).map(of_unit);
    let windows = limits.windows.iter().map(|window| {
        let rates = Unit::ALL.into_iter().zip(window.rates).filter_map(|(unit, rate)| Some((unit, rate?)));
        let rates: Vec<String> = rates.map(of_unit).collect();
        format!("{}: {}", show_window(window), rates.join(", "))
    });
    let all: Vec<String> = always.chain(windows).collect();
    if all.is_empty() { "none".to_owned() } else { all.join("; ") }
}

fn show_rate(unit: Unit, rate: Option<Rate>) -> String {
    let Some(rate) = rate else { return "unlimited".to_owned() };
    match (unit, rate.per().as_secs()) {
        (Unit::Upload | Unit::Download, _) => format!("{}/s", show_size(rate.units())),
        (Unit::Request, 1) => format!("{}/s", rate.units()),
        (Unit::Request, 60) => format!("{}/m", rate.units()),
        (Unit::Request, _) => format!("{}/h", rate.units()),
    }
}

fn show_window(window: &Window) -> String {
    let time = |minutes: u16| format!("{:02}:{:02}", minutes / 60, minutes % 60);
    let (from, to) = window.between;
    let names: Vec<&str> = DAYS.into_iter().zip(window.days).filter(|(_, on)| *on).map(|(name, _)| name).collect();
    let days = if window.days == EVERY_DAY { String::new() } else { format!("{} ", names.join(",")) };
    format!("{days}{}-{} ({})", time(from), time(to), window.zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Option<Limits>, ConfigError> {
        let value: Value = serde_yaml_ng::from_str(text).unwrap();
        read(&mut Fields::new(value, "defaults", &["limits"])?)
    }

    /// Every documented form is understood, and shown as it was.
    #[test]
    fn every_form_is_understood() {
        let text = "limits: {upload: 10MiB/s, requests: 600/m, windows: [
            {between: '08:00-18:00', days: mon-fri, time-zone: Europe/Berlin, upload: 2MiB/s, download: 500KB/s},
            {between: '22:00-06:00', days: 'sat,sun', upload: unlimited, requests: 1/s}]}";
        let limits = read_text(text).unwrap().unwrap();
        let shown = "upload: 10MiB/s; requests: 600/m; mon,tue,wed,thu,fri 08:00-18:00 (Europe/Berlin): upload: 2MiB/s, \
                     download: 500KB/s; sat,sun 22:00-06:00 (UTC): upload: unlimited, requests: 1/s";
        assert_eq!(show(&limits), shown);
        let slowest = limits.slowest(Unit::Upload).unwrap();
        assert_eq!((slowest.units(), limits.slowest(Unit::Download).map(Rate::units)), (2 << 20, Some(500_000)));
        assert_eq!(read_text("limits: none").unwrap(), Some(Limits::default()));
        assert_eq!(read_text("{}").unwrap(), None);
        assert_eq!(show(&Limits::default()), "none");
        assert_eq!(parse_days("fri-mon").unwrap(), [true, false, false, false, true, true, true]);
        assert_eq!(parse_between("00:00-24:00"), Ok((0, 1440)));
    }

    /// What says nothing, or nothing possible, is refused with the way to it and an example.
    #[test]
    fn impossible_limits_are_refused() {
        for (text, at, part) in [
            ("{}", "defaults.limits`", "upload: 10MiB/s"),
            ("5MiB/s", "defaults.limits`", "neither `none`"),
            ("{upload: 10MiB}", "defaults.limits.upload`", "10MiB/s"),
            ("{upload: 1KiB/s}", "defaults.limits.upload`", "at least 16KiB/s"),
            ("{requests: 0/s}", "defaults.limits.requests`", "20/s"),
            ("{requests: 59/h}", "defaults.limits.requests`", "one a minute"),
            ("{uplod: 1MiB/s}", "defaults.limits.uplod`", "\"upload\""),
            ("{windows: [{upload: 1MiB/s}]}", "defaults.limits.windows[0]`", "`between`"),
            ("{windows: [{between: '08:00-18:00'}]}", "defaults.limits.windows[0]`", "limits nothing"),
            ("{windows: [{between: '8-18', upload: 1MiB/s}]}", "windows[0].between`", "08:00-18:00"),
            ("{windows: [{between: '08:00-08:00', upload: 1MiB/s}]}", "windows[0].between`", "00:00-24:00"),
            ("{windows: [{between: '08:00-25:00', upload: 1MiB/s}]}", "windows[0].between`", "08:00-18:00"),
            ("{windows: [{between: '08:00-09:00', days: monday, upload: 1MiB/s}]}", "windows[0].days`", "mon-fri"),
            ("{windows: [{between: '08:00-09:00', time-zone: X, upload: 1MiB/s}]}", "windows[0].time-zone`", "UTC"),
        ] {
            let message = read_text(&format!("limits: {text}")).unwrap_err().to_string();
            assert!(message.contains(at) && message.contains(part), "{text}: {message}");
        }
    }
}
