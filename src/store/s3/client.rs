//! The SDK's client: made at the first request, made again when credentials have expired.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{
    RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::runtime;

use crate::store::{ChecksumMode, Outcome, StoreOptions};

/// Time to a connection, where nothing else is configured.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Where an endpoint is given, the region is a word in the signature that most servers do not look at.
const REGION_OFF_AWS: &str = "us-east-1";

/// The client in use, if there is one already.
type Current = tokio::sync::Mutex<Option<Client>>;

/// Stores with the same options share a client, with its connections, credentials and certificates. A connection belongs to the
/// runtime that made it, so a client does too.
static SHARED: Mutex<Vec<(StoreOptions, runtime::Id, Weak<Current>)>> = Mutex::new(Vec::new());

/// The way to a client.
pub(super) struct Clients {
    options: StoreOptions,
    current: OnceLock<Arc<Current>>,
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Why there is no client.
#[derive(Debug)]
pub(super) struct Problem {
    pub outcome: Outcome,
    pub detail: String,
}

impl Clients {
    pub(super) fn new(options: StoreOptions) -> Clients {
        Clients { options, current: OnceLock::new() }
    }

    fn current(&self) -> &Current {
        self.current.get_or_init(|| {
            let runtime = runtime::Handle::current().id();
            let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
            let is_same =
                |(options, of, _): &&(StoreOptions, runtime::Id, _)| *of == runtime && *options == self.options;
            if let Some(current) = shared.iter().find(is_same).and_then(|(_, _, current)| current.upgrade()) {
                return current;
            }
            let current = Arc::new(Current::default());
            shared.retain(|(_, _, other)| other.strong_count() > 0);
            shared.push((self.options.clone(), runtime, Arc::downgrade(&current)));
            current
        })
    }

    pub(super) async fn get(&self) -> Result<Client, Problem> {
        let mut current = self.current().lock().await;
        if let Some(client) = &*current {
            return Ok(client.clone());
        }
        let client = build(&self.options).await?;
        *current = Some(client.clone());
        Ok(client)
    }

    /// The next request reads credentials from their sources.
    pub(super) async fn forget(&self) {
        *self.current().lock().await = None;
    }
}

async fn build(options: &StoreOptions) -> Result<Client, Problem> {
    let connect_timeout = options.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http_client(options)?)
        .timeout_config(TimeoutConfig::builder().connect_timeout(connect_timeout).build());
    match (&options.region, &options.endpoint) {
        (Some(region), _) => loader = loader.region(Region::new(region.clone())),
        // The default chain would ask the instance's metadata service, which a server elsewhere knows nothing about.
        (None, Some(_)) => {
            let chain = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
                .or_else(ProfileFileRegionProvider::new())
                .or_else(REGION_OFF_AWS);
            loader = loader.region(chain);
        }
        (None, None) => {}
    }
    if let Some(endpoint) = &options.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let (Some(id), Some(secret)) = (&options.access_key_id, &options.secret_access_key) {
        let token = options.session_token.as_ref().map(|token| token.expose().to_owned());
        loader = loader.credentials_provider(Credentials::new(id, secret.expose(), token, None, "configuration"));
    }
    let shared = loader.load().await;
    if shared.region().is_none() {
        let detail = "no region is known: add ?region=… to the URL, or set `region` or AWS_REGION";
        return Err(Problem { outcome: Outcome::Invalid, detail: detail.to_owned() });
    }
    // The SDK finds an endpoint in its own variables and files, too.
    let elsewhere = options.endpoint.is_some()
        || shared.endpoint_url().is_some()
        || std::env::var_os("AWS_ENDPOINT_URL_S3").is_some_and(|url| !url.is_empty());
    let mut config = aws_sdk_s3::config::Builder::from(&shared)
        .force_path_style(options.path_style.unwrap_or(elsewhere))
        .retry_config(RetryConfig::disabled())
        // Every request of ours has its own bound, which knows how many bytes it moves.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    config = match checksum_mode(options, elsewhere) {
        ChecksumMode::WhenSupported => config
            .request_checksum_calculation(RequestChecksumCalculation::WhenSupported)
            .response_checksum_validation(ResponseChecksumValidation::WhenSupported),
        ChecksumMode::WhenRequired => config
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired),
    };
    Ok(Client::from_conf(config.build()))
}

/// Many servers, and old ones above all, refuse the checksums that the SDK sends by default.
fn checksum_mode(options: &StoreOptions, elsewhere: bool) -> ChecksumMode {
    let default = if elsewhere { ChecksumMode::WhenRequired } else { ChecksumMode::WhenSupported };
    options.checksum.unwrap_or(default)
}

/// HTTP over rustls, with the system's root certificates (those of `SSL_CERT_FILE` where that is set) and those of
/// `AWS_CA_BUNDLE`.
fn http_client(options: &StoreOptions) -> Result<SharedHttpClient, Problem> {
    let plain = options.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    let roots = match plain && options.access_key_id.is_some() {
        // Nothing is asked over TLS, so that the 150 certificates of the system need no room.
        true => TrustStore::empty(),
        false => roots(std::env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty()).map(PathBuf::from))?,
    };
    let context = TlsContext::builder().with_trust_store(roots).build();
    let context = context.map_err(|e| Problem { outcome: Outcome::Invalid, detail: format!("setting up TLS: {e}") })?;
    let builder = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring));
    Ok(builder.tls_context(context).build_https())
}

fn roots(bundle: Option<PathBuf>) -> Result<TrustStore, Problem> {
    let roots = TrustStore::default();
    let Some(path) = bundle else { return Ok(roots) };
    let problem = |what: String| Problem {
        outcome: Outcome::Invalid,
        detail: format!("AWS_CA_BUNDLE names {}: {what}", path.display()),
    };
    let text = std::fs::read(&path).map_err(|e| problem(e.to_string()))?;
    let certificates = usable_certificates(&text);
    if certificates.is_empty() {
        return Err(problem("it holds no usable certificate (PEM)".to_owned()));
    }
    Ok(roots.with_pem_certificate(certificates))
}

/// The certificates of a bundle that TLS will take. One that it cannot read would end the process when the first
/// connection is made.
fn usable_certificates(bundle: &[u8]) -> Vec<u8> {
    const END: &str = "-----END CERTIFICATE-----";
    let text = String::from_utf8_lossy(bundle);
    let mut usable = String::new();
    for piece in text.split_inclusive(END) {
        let Some(begin) = piece.find("-----BEGIN CERTIFICATE-----") else { continue };
        let piece = &piece[begin..];
        let read = CertificateDer::from_pem_slice(piece.as_bytes());
        match read.map(|der| rustls::RootCertStore::empty().add(der)) {
            Ok(Ok(())) => {
                usable.push_str(piece);
                usable.push('\n');
            }
            _ => tracing::warn!("a certificate in AWS_CA_BUNDLE cannot be used and is left out"),
        }
    }
    usable.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bundle that cannot be read, or holds nothing of use, is an error with its path, never a panic later.
    #[test]
    fn a_bad_bundle_is_told() {
        let missing = roots(Some("/nowhere/ca.pem".into())).unwrap_err();
        assert!(missing.detail.contains("/nowhere/ca.pem"), "{}", missing.detail);
        for garbage in [
            &b""[..],
            b"\xff\xfe not PEM",
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
            b"-----END CERTIFICATE----------BEGIN CERTIFICATE-----",
        ] {
            assert!(usable_certificates(garbage).is_empty());
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), garbage).unwrap();
            assert!(roots(Some(file.path().into())).is_err());
        }
    }

    /// Checksums are sent by default only to AWS.
    #[test]
    fn checksums_by_default() {
        let mut options = StoreOptions::default();
        assert_eq!(checksum_mode(&options, false), ChecksumMode::WhenSupported);
        assert_eq!(checksum_mode(&options, true), ChecksumMode::WhenRequired);
        options.checksum = Some(ChecksumMode::WhenSupported);
        assert_eq!(checksum_mode(&options, true), ChecksumMode::WhenSupported);
    }
}
