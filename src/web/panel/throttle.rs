//! Guessing is slow: each address may fail a few times at once, and then now and then. Pure: the time comes in.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::position::TimeMs;

/// So often an address may fail at once …
const AT_ONCE: u64 = 10;
/// … and then once more each time so much has passed.
const PER_FAILURE_MS: u64 = 6_000;
/// Addresses that are remembered.
const MAX_ADDRESSES: usize = 1024;

#[derive(Debug, Default)]
pub struct Throttle {
    /// When everything that an address did wrong is forgotten.
    until: BTreeMap<IpAddr, u64>,
    failed: u64,
    refused: u64,
}

impl Throttle {
    /// May this address try a secret? Otherwise, how long it has to wait.
    pub fn may_try(&mut self, address: IpAddr, now: TimeMs) -> Result<(), Duration> {
        let until = self.until.get(&place_of(address)).copied().unwrap_or(0);
        let ahead = until.saturating_sub(now.0).min(AT_ONCE * PER_FAILURE_MS);
        let allowed = (AT_ONCE - 1) * PER_FAILURE_MS;
        if ahead <= allowed {
            return Ok(());
        }
        self.refused += 1;
        Err(Duration::from_millis(ahead - allowed))
    }

    /// It was wrong.
    pub fn failed(&mut self, address: IpAddr, now: TimeMs) {
        self.failed += 1;
        self.until.retain(|_, until| *until > now.0);
        let place = place_of(address);
        if self.until.len() >= MAX_ADDRESSES && !self.until.contains_key(&place) {
            // The one that is forgotten soonest anyway.
            let soonest = self.until.iter().min_by_key(|(_, until)| **until).map(|(place, _)| *place);
            soonest.map(|place| self.until.remove(&place));
        }
        let until = self.until.entry(place).or_insert(now.0);
        // A clock that was set back must not keep anybody out for longer than the rest does.
        *until = (*until).clamp(now.0, now.0 + AT_ONCE * PER_FAILURE_MS) + PER_FAILURE_MS;
    }

    /// Secrets that were wrong, and those that were not looked at.
    pub fn counts(&self) -> (u64, u64) {
        (self.failed, self.refused)
    }
}

/// Whoever has one address of IPv6 has a network of them.
fn place_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    /// Ten wrong ones at once, then one every six seconds; others are not concerned; and all of it is forgotten.
    #[test]
    fn guessing_is_slow() {
        let mut throttle = Throttle::default();
        let mut now = TimeMs(1_000_000);
        let tries = |throttle: &mut Throttle, now: TimeMs, who: IpAddr| {
            let mut done = 0;
            while done < 1000 && throttle.may_try(who, now).is_ok() {
                throttle.failed(who, now);
                done += 1;
            }
            done
        };
        assert_eq!(tries(&mut throttle, now, address(1)), 10);
        assert_eq!(throttle.may_try(address(1), now), Err(Duration::from_secs(6)));
        assert_eq!(tries(&mut throttle, now, address(2)), 10);
        now.0 += 6_000;
        assert_eq!(tries(&mut throttle, now, address(1)), 1);
        now.0 += 3_600_000;
        assert_eq!(tries(&mut throttle, now, address(1)), 10);
        // The clock is set back by an hour: no one waits longer than a minute.
        now.0 -= 3_600_000;
        assert!(throttle.may_try(address(1), now).is_err_and(|wait| wait <= Duration::from_secs(60)));
        assert_eq!(throttle.counts().0, 31);
    }

    /// What is remembered is bounded, and an address of IPv6 stands for its network.
    #[test]
    fn memory_is_bounded() {
        let mut throttle = Throttle::default();
        for number in 0..10_000 {
            throttle.failed(address(number), TimeMs(u64::from(number)));
        }
        assert_eq!(throttle.until.len(), MAX_ADDRESSES);
        assert_eq!(place_of("2001:db8:1:2:3::4".parse().unwrap()), place_of("2001:db8:1:2::9".parse().unwrap()));
        assert_eq!(place_of("::ffff:10.0.0.1".parse().unwrap()), address(0x0a00_0001));
    }
}
