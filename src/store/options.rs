//! What can be said about a store beside its URL.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::limits::Limits;

/// A text that is never printed: not by `Debug`, not by `Display`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself, for the one place that signs with it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Encryption at rest by the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Sse {
    #[serde(rename = "AES256")]
    Aes256,
    #[serde(rename = "aws:kms")]
    AwsKms,
}

impl FromStr for Sse {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Sse, OptionError> {
        match text {
            "AES256" => Ok(Sse::Aes256),
            "aws:kms" => Ok(Sse::AwsKms),
            _ => Err(OptionError::value("sse", text, "AES256 or aws:kms")),
        }
    }
}

/// When a checksum of its own goes along with a body (the body's SHA-256 is part of the signature in any case).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChecksumMode {
    /// A CRC32 with every upload, and checked on every answer that carries one.
    WhenSupported,
    /// Only where the protocol demands one. What servers from before 2025 accept.
    WhenRequired,
}

impl FromStr for ChecksumMode {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<ChecksumMode, OptionError> {
        match text {
            "when-supported" => Ok(ChecksumMode::WhenSupported),
            "when-required" => Ok(ChecksumMode::WhenRequired),
            _ => Err(OptionError::value("checksum", text, "when-supported or when-required")),
        }
    }
}

/// Everything beside the URL; what is `None` has the default stated here. An option that a store has no use for is an
/// error of `store::open`, not ignored.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct StoreOptions {
    /// URL of an S3-compatible service. Default: the SDK's (`AWS_ENDPOINT_URL_S3`, …), else AWS.
    pub endpoint: Option<String>,
    /// Default: the SDK's own chain; `us-east-1` where an endpoint is given and the chain has none.
    pub region: Option<String>,
    /// With `secret-access-key`; default: the SDK's own credential chain.
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<Secret>,
    pub session_token: Option<Secret>,
    /// The bucket in the path instead of the host name. Default: true where an endpoint is given.
    pub path_style: Option<bool>,
    pub sse: Option<Sse>,
    /// Only with `sse: aws:kms`; default: the account's own key.
    pub kms_key_id: Option<String>,
    /// Default: `when-required` where an endpoint is given, else `when-supported`.
    pub checksum: Option<ChecksumMode>,
    /// Time to a connection. Default: 10 s.
    #[serde(deserialize_with = "friendly_duration")]
    pub connect_timeout: Option<Duration>,
    /// Time to the answer of one request, beside what its bytes take at a slow line. Default: 30 s.
    #[serde(deserialize_with = "friendly_duration")]
    pub request_timeout: Option<Duration>,
    /// Tries after the first one. Default: 7.
    pub max_retries: Option<u32>,
    /// How fast the store may be used. Default: as fast as can be. Read by the configuration.
    #[serde(skip)]
    pub limits: Limits,
}

/// An option that is unknown, has an impossible value or does not fit the others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    #[error("unknown option {name:?}; did you mean {nearest:?}?")]
    Unknown { name: String, nearest: &'static str },
    #[error("option {name}: {value:?} is not {expected}")]
    Value { name: &'static str, value: String, expected: &'static str },
    #[error("option {0} is a secret and must not stand in a URL: use the environment or the configuration")]
    SecretInUrl(&'static str),
    #[error("option {name} has no meaning for {store}")]
    Unused { name: &'static str, store: &'static str },
    #[error("option {name} needs option {needs}")]
    Needs { name: &'static str, needs: &'static str },
}

impl OptionError {
    fn value(name: &'static str, value: &str, expected: &'static str) -> OptionError {
        OptionError::Value { name, value: value.to_owned(), expected }
    }
}

/// Options that may stand in a URL.
const IN_URL: [&str; 9] = [
    "endpoint",
    "region",
    "path-style",
    "sse",
    "kms-key-id",
    "checksum",
    "connect-timeout",
    "request-timeout",
    "max-retries",
];
const SECRET: [&str; 3] = ["access-key-id", "secret-access-key", "session-token"];

impl StoreOptions {
    /// Sets one option by its name in a URL.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), OptionError> {
        let text = || Some(value.to_owned());
        match name {
            "endpoint" => self.endpoint = text(),
            "region" => self.region = text(),
            "path-style" => {
                let parsed = value.parse().map_err(|_| OptionError::value("path-style", value, "true or false"))?;
                self.path_style = Some(parsed);
            }
            "sse" => self.sse = Some(value.parse()?),
            "kms-key-id" => self.kms_key_id = text(),
            "checksum" => self.checksum = Some(value.parse()?),
            "connect-timeout" => self.connect_timeout = Some(parse_duration("connect-timeout", value)?),
            "request-timeout" => self.request_timeout = Some(parse_duration("request-timeout", value)?),
            "max-retries" => {
                let parsed = value.parse().map_err(|_| OptionError::value("max-retries", value, "a number"))?;
                self.max_retries = Some(parsed);
            }
            _ => return Err(unknown(name)),
        }
        Ok(())
    }

    /// The names of the options that only S3 has a use for and that are set.
    pub(super) fn only_for_s3(&self) -> Option<&'static str> {
        let set = [
            ("endpoint", self.endpoint.is_some()),
            ("region", self.region.is_some()),
            ("access-key-id", self.access_key_id.is_some()),
            ("secret-access-key", self.secret_access_key.is_some()),
            ("session-token", self.session_token.is_some()),
            ("path-style", self.path_style.is_some()),
            ("sse", self.sse.is_some()),
            ("kms-key-id", self.kms_key_id.is_some()),
            ("checksum", self.checksum.is_some()),
            ("connect-timeout", self.connect_timeout.is_some()),
            ("request-timeout", self.request_timeout.is_some()),
        ];
        set.into_iter().find(|(_, is_set)| *is_set).map(|(name, _)| name)
    }

    /// Options that only make sense together.
    pub(super) fn check(&self) -> Result<(), OptionError> {
        let needs = |name, needs| Err(OptionError::Needs { name, needs });
        match (&self.access_key_id, &self.secret_access_key) {
            (Some(_), None) => return needs("access-key-id", "secret-access-key"),
            (None, Some(_)) => return needs("secret-access-key", "access-key-id"),
            (None, None) if self.session_token.is_some() => return needs("session-token", "access-key-id"),
            _ => {}
        }
        if self.kms_key_id.is_some() && self.sse != Some(Sse::AwsKms) {
            return needs("kms-key-id", "sse=aws:kms");
        }
        for (name, time) in [("connect-timeout", self.connect_timeout), ("request-timeout", self.request_timeout)] {
            if time == Some(Duration::ZERO) {
                return Err(OptionError::value(name, "0s", "longer than nothing"));
            }
        }
        if let Some(endpoint) = &self.endpoint {
            let good = |u: url::Url| matches!(u.scheme(), "http" | "https") && u.has_host();
            // A password in it would be printed with every error.
            let bare = |u: &url::Url| u.username().is_empty() && u.password().is_none() && u.query().is_none();
            if !url::Url::parse(endpoint).is_ok_and(|u| bare(&u) && good(u)) {
                let endpoint = endpoint.rsplit('@').next().unwrap_or_default();
                return Err(OptionError::value("endpoint", endpoint, "a URL such as https://s3.example.org"));
            }
        }
        Ok(())
    }
}

fn unknown(name: &str) -> OptionError {
    if let Some(secret) = SECRET.into_iter().find(|s| *s == name) {
        return OptionError::SecretInUrl(secret);
    }
    let nearest = IN_URL.into_iter().min_by_key(|known| strsim::damerau_levenshtein(known, name));
    OptionError::Unknown { name: name.to_owned(), nearest: nearest.expect("the list is not empty") }
}

fn parse_duration(name: &'static str, text: &str) -> Result<Duration, OptionError> {
    let parsed = text.parse::<jiff::SignedDuration>().ok().and_then(|d| Duration::try_from(d).ok());
    parsed.ok_or_else(|| OptionError::value(name, text, "a duration such as 30s"))
}

fn friendly_duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let Some(signed) = Option::<jiff::SignedDuration>::deserialize(from)? else { return Ok(None) };
    Duration::try_from(signed).map(Some).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No way of printing the options shows a secret.
    #[test]
    fn secrets_are_never_printed() {
        let secret = Secret::new("hunter2");
        let options = StoreOptions {
            secret_access_key: Some(secret.clone()),
            session_token: Some(secret.clone()),
            ..StoreOptions::default()
        };
        let printed = format!("{options:?} {options:#?} {secret} {secret:?}");
        assert!(!printed.contains("hunter2"), "{printed}");
    }

    /// An unknown name is refused with the nearest known one, a secret with the way to give it.
    #[test]
    fn unknown_names_and_secrets_are_refused() {
        let mut options = StoreOptions::default();
        let error = options.set("regoin", "x").unwrap_err();
        assert_eq!(error, OptionError::Unknown { name: "regoin".into(), nearest: "region" });
        assert_eq!(options.set("session-token", "x"), Err(OptionError::SecretInUrl("session-token")));
        assert!(options.set("sse", "aes").is_err());
        assert!(options.set("request-timeout", "-1s").is_err());
        options.set("request-timeout", "1m 30s").unwrap();
        assert_eq!(options.request_timeout, Some(Duration::from_secs(90)));
    }

    /// What must come together is refused alone.
    #[test]
    fn half_of_a_pair_is_refused() {
        let alone = StoreOptions { access_key_id: Some("a".into()), ..StoreOptions::default() };
        assert!(matches!(alone.check(), Err(OptionError::Needs { needs: "secret-access-key", .. })));
        let alone = StoreOptions { kms_key_id: Some("a".into()), sse: Some(Sse::Aes256), ..StoreOptions::default() };
        assert!(alone.check().is_err());
        let endpoint = StoreOptions { endpoint: Some("localhost:9000".into()), ..StoreOptions::default() };
        assert!(endpoint.check().is_err());
    }

    /// The options read from the configuration as documented, strictly.
    #[test]
    fn read_from_yaml() {
        let yaml = "{endpoint: 'http://h:1', sse: aws:kms, kms-key-id: k, checksum: when-supported, request-timeout: 5s, max-retries: 3}";
        let options: StoreOptions = serde_yaml_ng::from_str(yaml).unwrap();
        options.check().unwrap();
        assert_eq!(options.sse, Some(Sse::AwsKms));
        assert_eq!(options.request_timeout, Some(Duration::from_secs(5)));
        assert!(serde_yaml_ng::from_str::<StoreOptions>("{endpiont: x}").is_err());
    }
}
