//! Durations and sizes as people write them: `1s`, `500ms`, `1h30m`, `30d`; `4MiB`, `500MB`, `10GiB`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::position::whole_ms;

const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1000), ("m", 60 * 1000), ("h", 3600 * 1000), ("d", 24 * 3600 * 1000)];

const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// A duration in whole milliseconds: one or more numbers, each with its unit.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let problem = || format!("{text:?} is not a duration; write a number and ms, s, m, h or d: 500ms, 1s, 24h");
    let mut total: u64 = 0;
    let mut rest = text;
    loop {
        let (number, unit, after) = number_and_unit(rest).ok_or_else(problem)?;
        let (_, factor) = DURATION_UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(problem)?;
        let part = number.checked_mul(factor).ok_or_else(problem)?;
        total = total.checked_add(part).ok_or_else(problem)?;
        if after.is_empty() {
            return Ok(Duration::from_millis(total));
        }
        rest = after;
    }
}

/// Where to listen: `127.0.0.1:9187`, `[::1]:9187`, or a port alone, on loopback.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let port = text.parse().map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    port.or_else(|_| text.parse()).map_err(|_| {
        format!("{text:?} is not an address to listen on; write 127.0.0.1:9187, [::1]:9187, 0.0.0.0:9187 or a port")
    })
}

/// A size in bytes: one number with its unit; 1 KiB is 1024 bytes, 1 KB is 1000.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let problem =
        || format!("{text:?} is not a size; write a number and B, KB, MB, GB, TB, KiB, MiB, GiB or TiB: 4MiB");
    let (number, unit, after) = number_and_unit(text).ok_or_else(problem)?;
    let (_, factor) = SIZE_UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(problem)?;
    if !after.is_empty() {
        return Err(problem());
    }
    number.checked_mul(factor).ok_or_else(problem)
}

/// A share of a whole in hundredths of a percent, more than nothing: `10%`, `0.5%`.
pub fn parse_share(text: &str) -> Result<u32, String> {
    let problem = || format!("{text:?} is not a share; write a percentage from 0.01% to 100%, such as 10%");
    let number = text.trim().strip_suffix('%').ok_or_else(problem)?.trim();
    let (percents, hundredths) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(percents) || !is_number(hundredths) || percents.len() > 3 || hundredths.len() > 2 {
        return Err(problem());
    }
    let percents: u32 = percents.parse().map_err(|_| problem())?;
    let hundredths: u32 = format!("{hundredths:0<2}").parse().map_err(|_| problem())?;
    Some(percents * 100 + hundredths).filter(|share| (1..=10_000).contains(share)).ok_or_else(problem)
}

/// Digits, letters, and what follows them.
fn number_and_unit(text: &str) -> Option<(u64, &str, &str)> {
    let text = text.trim_start();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(digits);
    let rest = rest.trim_start();
    let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
    let (unit, after) = rest.split_at(letters);
    Some((number.parse().ok()?, unit, after.trim()))
}

/// The shortest exact way to write a duration.
pub fn show_duration(duration: Duration) -> String {
    show(whole_ms(duration), &DURATION_UNITS)
}

/// The shortest exact way to write a size, in binary units where they fit.
pub fn show_size(bytes: u64) -> String {
    let binary = show(bytes, &[SIZE_UNITS[0], SIZE_UNITS[5], SIZE_UNITS[6], SIZE_UNITS[7], SIZE_UNITS[8]]);
    let decimal = show(bytes, &SIZE_UNITS[..5]);
    if decimal.len() < binary.len() { decimal } else { binary }
}

fn show(number: u64, units: &[(&str, u64)]) -> String {
    let exact = |(_, factor): &&(&str, u64)| number.is_multiple_of(*factor) && number >= *factor;
    let (name, factor) = units.iter().rev().find(exact).unwrap_or(&units[0]);
    format!("{}{name}", number / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every documented form reads as documented and prints back.
    #[test]
    fn forms() {
        for (text, ms) in [("1s", 1000), ("500ms", 500), ("24h", 86_400_000), ("30d", 2_592_000_000), ("0s", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("1 h 30 m"), Ok(Duration::from_secs(5400)));
        for (text, bytes) in [("4MiB", 4 << 20), ("10GiB", 10 << 30), ("500MB", 500_000_000), ("1B", 1), ("7 KB", 7000)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        assert_eq!(show_duration(Duration::from_secs(86_400)), "1d");
        assert_eq!(show_duration(Duration::from_millis(1500)), "1500ms");
        assert_eq!(show_duration(Duration::ZERO), "0ms");
        assert_eq!((show_size(4 << 20).as_str(), show_size(500_000_000).as_str()), ("4MiB", "500MB"));
        for text in ["1500ms", "30d", "61s"] {
            assert_eq!(parse_duration(&show_duration(parse_duration(text).unwrap())), parse_duration(text));
        }
    }

    /// Shares are read to the hundredth of a percent, and nothing else is taken for one.
    #[test]
    fn shares() {
        for (text, share) in
            [("10%", 1000), ("100%", 10_000), ("0.5%", 50), ("0.01%", 1), ("12.34 %", 1234), ("99.9%", 9990)]
        {
            assert_eq!(parse_share(text), Ok(share), "{text}");
        }
        for text in
            ["", "%", "10", "0%", "0.00%", "100.01%", "101%", "-1%", "1.%", ".5%", "1.234%", "1e1%", "999999999999%"]
        {
            assert!(parse_share(text).is_err(), "{text}");
        }
    }

    /// A missing unit, an unknown one, a sign, a fraction and an overflow are refused.
    #[test]
    fn refusals() {
        for text in ["", "1", "s", "-1s", "1.5s", "1x", "1s2", "99999999999999999999s", "18446744073709551615d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for text in ["", "1", "MiB", "-1B", "1.5GiB", "1mib", "1MiB2MiB", "99999999999TiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
