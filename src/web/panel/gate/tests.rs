//! Every way in, and every way that must be none.

use super::*;
use crate::store::Secret;

fn gate(address: &str, password: Option<&str>, token: Option<&str>, hosts: &[&str]) -> Gate {
    let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
    let config = PanelConfig { hosts, ..PanelConfig::default() };
    let secret = |text: Option<&str>| text.map(Secret::new);
    let credentials = Credentials { user: "admin".into(), password: secret(password), token: secret(token) };
    Gate::new(&config, &credentials, address.parse().expect("an address"), [7; 32])
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name: HeaderName = name.parse().expect("a name");
        headers.append(name, value.parse().expect("a value"));
    }
    headers
}

fn basic(text: &str) -> String {
    format!("Basic {}", STANDARD.encode(text))
}

const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const NOW: TimeMs = TimeMs(1_000_000);

fn admit(gate: &Gate, pairs: &[(&str, &str)]) -> Result<Pass, Refusal> {
    gate.admit(&headers(pairs), PEER, NOW).map(|visitor| visitor.pass)
}

/// Without a secret, loopback may look by its own names only, and nobody beyond it may anything.
#[test]
fn without_a_secret() {
    let open = gate("127.0.0.1:1", None, None, &["panel.test"]);
    for host in ["127.0.0.1:9187", "localhost", "LOCALHOST:1", "[::1]:9187", "127.8.9.1", "panel.test:9187"] {
        assert_eq!(admit(&open, &[("host", host)]), Ok(Pass::Open), "{host}");
    }
    for host in ["evil.example:9187", "127.0.0.1.evil.example", "localhost.evil.example", "[::2]", "", "10.0.0.1"] {
        assert_eq!(admit(&open, &[("host", host)]), Err(Refusal::ForeignHost), "{host}");
    }
    assert_eq!(admit(&open, &[]), Err(Refusal::ForeignHost));
    assert_eq!(admit(&open, &[("host", "localhost"), ("host", "evil.example")]), Err(Refusal::ForeignHost));
    for mark in ["forwarded", "via", "x-forwarded-for", "x-real-ip"] {
        assert_eq!(admit(&open, &[("host", "localhost"), (mark, "x")]), Err(Refusal::Proxied), "{mark}");
    }
    let visitor = open.admit(&headers(&[("host", "localhost")]), PEER, NOW).expect("let in");
    let own = headers(&[("host", "localhost"), ("origin", "http://localhost")]);
    assert_eq!(open.permit(&visitor, &own, Some(open.form_word())), Err(Refusal::ReadOnly));
    for address in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1"] {
        let beyond = gate(address, None, None, &[]);
        assert_eq!(admit(&beyond, &[("host", "localhost")]), Err(Refusal::NeedsSecret), "{address}");
    }
}

/// The right password or token and nothing else; names of hosts count where they are configured.
#[test]
fn with_a_secret() {
    let both = gate("0.0.0.0:1", Some("correct horse"), Some("a long token"), &[]);
    let unauthorized = Err(Refusal::Unauthorized { with_password: true });
    let with = |said: &str| {
        // A gate of its own: nobody is to be kept out for what others guessed.
        let gate = gate("0.0.0.0:1", Some("correct horse"), Some("a long token"), &[]);
        admit(&gate, &[("host", "any.where"), ("authorization", said)])
    };
    assert_eq!(admit(&both, &[("host", "any.where")]), unauthorized);
    assert_eq!(with(&basic("admin:correct horse")), Ok(Pass::Password));
    assert_eq!(with("bearer a long token"), Ok(Pass::Token));
    for wrong in ["admin:correct hors", "admin:correct horse ", "Admin:correct horse", ":correct horse", "admin:", ""] {
        assert_eq!(with(&basic(wrong)), unauthorized, "{wrong}");
    }
    for wrong in
        ["Basic ***", "Basic", "Bearer", "Bearer correct horse", "Digest a long token", "Bearer admin:correct horse"]
    {
        assert_eq!(with(wrong), unauthorized, "{wrong}");
    }
    assert_eq!(with(&basic("admin:a long token")), unauthorized, "a token is no password");
    let named = gate("127.0.0.1:1", Some("correct horse"), None, &["panel.test"]);
    let right = basic("admin:correct horse");
    assert_eq!(admit(&named, &[("host", "evil.example"), ("authorization", &right)]), Err(Refusal::ForeignHost));
    assert_eq!(admit(&named, &[("host", "panel.test"), ("authorization", &right)]), Ok(Pass::Password));
}

/// After ten wrong ones not even the right one is looked at for a while; that is counted.
#[test]
fn guessing_is_bounded() {
    let gate = gate("0.0.0.0:1", Some("correct horse"), None, &[]);
    for _ in 0..10 {
        assert!(matches!(admit(&gate, &[("authorization", &basic("admin:x"))]), Err(Refusal::Unauthorized { .. })));
    }
    let right = headers(&[("authorization", &basic("admin:correct horse"))]);
    assert!(matches!(gate.admit(&right, PEER, NOW), Err(Refusal::TooOften { .. })));
    assert!(gate.admit(&right, "10.0.0.9".parse().expect("an address"), NOW).is_ok(), "another one is not concerned");
    assert!(gate.admit(&right, PEER, TimeMs(NOW.0 + 6_000)).is_ok());
    assert_eq!(gate.failures(), (10, 1));
}

/// An action needs an origin of ours and the word of our own forms; a script with a token needs neither, but no foreign origin.
#[test]
fn actions_come_from_our_own_pages() {
    let gate = gate("127.0.0.1:1", Some("correct horse"), Some("a long token"), &["panel.test"]);
    let by = |pass| Visitor { name: "x".into(), pass };
    let permit = |pass, pairs: &[(&str, &str)], word: Option<&str>| gate.permit(&by(pass), &headers(pairs), word);
    let word = Some(gate.form_word());
    let host = ("host", "localhost:9187");
    for good in [
        &[host, ("origin", "http://localhost:9187")][..],
        &[host, ("origin", "https://panel.test")],
        &[host, ("sec-fetch-site", "same-origin")],
    ] {
        assert_eq!(permit(Pass::Password, good, word), Ok(()), "{good:?}");
        assert_eq!(permit(Pass::Token, good, None), Ok(()), "{good:?}");
        for stale in [None, Some(""), Some("0707"), Some("another")] {
            assert_eq!(permit(Pass::Password, good, stale), Err(Refusal::StaleForm), "{stale:?}");
        }
        assert_eq!(permit(Pass::Open, good, word), Err(Refusal::ReadOnly));
    }
    for foreign in [
        &[host, ("origin", "http://evil.example")][..],
        &[host, ("origin", "http://localhost:1")],
        &[host, ("origin", "null")],
        &[host, ("origin", "http://localhost:9187"), ("origin", "http://localhost:9187")],
        &[host, ("origin", "http://localhost:9187"), ("sec-fetch-site", "cross-site")],
        &[host, ("sec-fetch-site", "same-site")],
        &[host, ("sec-fetch-site", "none")],
    ] {
        assert_eq!(permit(Pass::Password, foreign, word), Err(Refusal::ForeignOrigin), "{foreign:?}");
        assert_eq!(permit(Pass::Token, foreign, None), Err(Refusal::ForeignOrigin), "{foreign:?}");
    }
    assert_eq!(permit(Pass::Password, &[host], word), Err(Refusal::ForeignOrigin), "no browser leaves both out");
    assert_eq!(permit(Pass::Token, &[host], None), Ok(()));
}
