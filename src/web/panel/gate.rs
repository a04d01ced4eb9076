//! Who may see the panel, and who may do something there: judged from the head of a request and, for an action, its form.
//!
//! Beyond loopback nobody may anything without a password or a token. On loopback, where every user of the machine can connect, everybody may
//! look and nobody may act without one. What a browser sends on behalf of another site is refused: by the name it asked for
//! (a name that was rebound to this address is none of ours), by the origin of the action, and by a word that only our own pages know.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, FORWARDED, HOST, HeaderName, ORIGIN, VIA};
use subtle::ConstantTimeEq;

use super::throttle::Throttle;
use crate::checksum::Sha256;
use crate::config::panel::{Credentials, PanelConfig};
use crate::position::TimeMs;

const MARKS_OF_PROXIES: [&str; 3] = ["x-forwarded-for", "x-forwarded-host", "x-real-ip"];
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// What is read of a header; ours are far shorter.
const MAX_HEADER_BYTES: usize = 4096;

/// A hash of a secret: comparing these takes the same time whatever is compared, and however long it is.
#[derive(Clone, Copy)]
pub struct Sealed([u8; 32]);

impl Sealed {
    pub fn new(secret: &str) -> Sealed {
        Sealed(Sha256::of(secret.as_bytes()))
    }

    pub fn is(&self, given: &[u8]) -> bool {
        self.0.ct_eq(&Sha256::of(given)).into()
    }
}

/// Somebody who was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visitor {
    /// As the log tells.
    pub name: String,
    pub pass: Pass,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// None is configured, and none was asked for.
    Open,
    Password,
    Token,
}

/// Why somebody was not let in, or may not do what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    Off,
    NeedsSecret,
    Proxied,
    ForeignHost,
    Unauthorized { with_password: bool },
    TooOften { wait: Duration },
    ReadOnly,
    ForeignOrigin,
    StaleForm,
}

pub struct Gate {
    is_on: bool,
    is_loopback: bool,
    hosts: Vec<String>,
    user: String,
    /// Of user, colon and password, as Basic authentication sends them.
    password: Option<Sealed>,
    token: Option<Sealed>,
    /// In the forms of this process's own pages.
    form_word: String,
    sealed_form_word: Sealed,
    throttle: Mutex<Throttle>,
}

impl Gate {
    /// `address` is where it listens; `random` is nobody's guess.
    pub fn new(config: &PanelConfig, credentials: &Credentials, address: SocketAddr, random: [u8; 32]) -> Gate {
        let form_word: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let Credentials { user, password, token } = credentials;
        Gate {
            is_on: config.is_on,
            is_loopback: address.ip().is_loopback(),
            hosts: config.hosts.clone(),
            user: user.clone(),
            password: password.as_ref().map(|password| Sealed::new(&format!("{user}:{}", password.expose()))),
            token: token.as_ref().map(|token| Sealed::new(token.expose())),
            sealed_form_word: Sealed::new(&form_word),
            form_word,
            throttle: Mutex::default(),
        }
    }

    fn has_secret(&self) -> bool {
        self.password.is_some() || self.token.is_some()
    }

    /// What a form of our own pages carries.
    pub fn form_word(&self) -> &str {
        &self.form_word
    }

    /// Why nobody is let in at all, for the log.
    pub fn is_closed(&self) -> Option<Refusal> {
        match (self.is_on, self.is_loopback || self.has_secret()) {
            (false, _) => Some(Refusal::Off),
            (true, false) => Some(Refusal::NeedsSecret),
            (true, true) => None,
        }
    }

    pub fn may_act(&self) -> bool {
        self.has_secret()
    }

    /// Logins that failed, and those that were not even looked at because there were too many.
    pub fn failures(&self) -> (u64, u64) {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner).counts()
    }

    /// May this one see the panel?
    pub fn admit(&self, headers: &HeaderMap, peer: IpAddr, now: TimeMs) -> Result<Visitor, Refusal> {
        if let Some(refusal) = self.is_closed() {
            return Err(refusal);
        }
        if !self.has_secret() {
            // Whoever comes through a proxy comes from anywhere.
            if [FORWARDED, VIA].iter().any(|name| headers.contains_key(name))
                || MARKS_OF_PROXIES.iter().any(|name| headers.contains_key(*name))
            {
                return Err(Refusal::Proxied);
            }
            return match host(headers).is_some_and(|host| is_loopback_name(host) || self.is_own(host)) {
                true => Ok(Visitor { name: peer.to_string(), pass: Pass::Open }),
                false => Err(Refusal::ForeignHost),
            };
        }
        if !self.hosts.is_empty() && !host(headers).is_some_and(|host| is_loopback_name(host) || self.is_own(host)) {
            return Err(Refusal::ForeignHost);
        }
        self.authenticate(headers, peer, now)
    }

    fn authenticate(&self, headers: &HeaderMap, peer: IpAddr, now: TimeMs) -> Result<Visitor, Refusal> {
        let unauthorized = Refusal::Unauthorized { with_password: self.password.is_some() };
        // Who says nothing has not guessed: that is how every browser begins.
        let Some(said) = single(headers, &AUTHORIZATION) else { return Err(unauthorized) };
        let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        throttle.may_try(peer, now).map_err(|wait| Refusal::TooOften { wait })?;
        let visitor = match said.split_once(' ') {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("basic") => {
                let given = STANDARD.decode(rest.trim()).unwrap_or_default();
                let is_right = self.password.is_some_and(|password| password.is(&given));
                is_right.then(|| Visitor { name: self.user.clone(), pass: Pass::Password })
            }
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => {
                let is_right = self.token.is_some_and(|token| token.is(rest.trim().as_bytes()));
                is_right.then(|| Visitor { name: "token".to_owned(), pass: Pass::Token })
            }
            _ => None,
        };
        visitor.ok_or_else(|| {
            throttle.failed(peer, now);
            unauthorized
        })
    }

    /// May a visitor do something? `form_word` is what the form carried.
    pub fn permit(&self, visitor: &Visitor, headers: &HeaderMap, form_word: Option<&str>) -> Result<(), Refusal> {
        let site = single(headers, &FETCH_SITE);
        let is_foreign_site = site.is_some_and(|site| site != "same-origin");
        let origin =
            headers.contains_key(ORIGIN).then(|| single(headers, &ORIGIN).is_some_and(|o| self.is_ours(o, headers)));
        match visitor.pass {
            Pass::Open => return Err(Refusal::ReadOnly),
            // No browser sends a token by itself; but none shall send one for another site either.
            Pass::Token if is_foreign_site || origin == Some(false) => return Err(Refusal::ForeignOrigin),
            Pass::Token => return Ok(()),
            Pass::Password => {}
        }
        if is_foreign_site || origin == Some(false) || (origin.is_none() && site.is_none()) {
            return Err(Refusal::ForeignOrigin);
        }
        match form_word.is_some_and(|word| self.sealed_form_word.is(word.as_bytes())) {
            true => Ok(()),
            false => Err(Refusal::StaleForm),
        }
    }

    /// Is this origin the place that was asked, or one that the configuration names?
    fn is_ours(&self, origin: &str, headers: &HeaderMap) -> bool {
        let Some((_, authority)) = origin.split_once("://") else { return false };
        let asked = single(headers, &HOST);
        asked.is_some_and(|asked| asked.eq_ignore_ascii_case(authority)) || self.is_own(name_of(authority))
    }

    fn is_own(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.');
        self.hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
    }
}

/// A header that is there once, and readable.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut all = headers.get_all(name).iter();
    let (first, more) = (all.next()?, all.next());
    first.to_str().ok().filter(|text| more.is_none() && text.len() <= MAX_HEADER_BYTES)
}

fn host(headers: &HeaderMap) -> Option<&str> {
    single(headers, &HOST).map(name_of)
}

/// A host without its port; an IPv6 address without its brackets.
fn name_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    authority.split_once(':').map_or(authority, |(name, _)| name)
}

fn is_loopback_name(name: &str) -> bool {
    name.trim_end_matches('.').eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests;
