//! The seam to a store: bytes under names. Objects are created once and never changed.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

pub mod compare;
pub mod file;
mod gate;
pub mod limited;
pub mod limits;
pub mod memory;
pub mod options;
pub mod probe;
pub mod requests;
pub mod retry;
pub mod s3;
pub mod traffic;
pub mod url;

pub use compare::{read_surely, same_content};
use limited::Limited;
pub use limits::Limits;
pub use options::{ChecksumMode, OptionError, Secret, Sse, StoreOptions};
pub use probe::{CreateOnly, probe, race};
pub use requests::Requests;
use traffic::{Limiter, Traffic};
pub use url::{Location, UrlError, UrlProblem};

/// Objects in one listing, a bound for memory: 10 million are a GB, and years of segments.
pub const LIST_MAX: usize = 10_000_000;

/// Tries of one call to a store with limits may be spread over this much more: each of them may have to wait for its turn.
const LIMITED_TOTAL: Duration = Duration::from_secs(3600);

/// The name of an object, relative to the replica's prefix: segments of `[a-z0-9._-]`, joined by `/`, none of them
/// `.` or `..`, at most `MAX_BYTES` long.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// A name that a store would not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a name of an object")]
pub struct InvalidKey(String);

impl Key {
    pub const MAX_BYTES: usize = 512;

    pub fn new(text: impl Into<String>) -> Result<Key, InvalidKey> {
        let text = text.into();
        let good_byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
        let good_part = |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(good_byte);
        if text.len() <= Self::MAX_BYTES && text.split('/').all(good_part) {
            Ok(Key(text))
        } else {
            Err(InvalidKey(text.chars().take(Self::MAX_BYTES).collect()))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is put under a name.
#[derive(Debug, Clone)]
pub enum Body {
    Bytes(Bytes),
    /// A finished local file, streamed in bounded pieces. `len` is its length when it was finished.
    File {
        path: PathBuf,
        len: u64,
    },
}

impl Body {
    pub fn len(&self) -> u64 {
        match self {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::File { len, .. } => *len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutMode {
    /// Fails with `AlreadyExists` where something has that name, as far as the store can tell (S3: `If-None-Match: *`).
    Create,
    /// Replaces what has that name.
    Replace,
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    pub key: Key,
    pub size: u64,
}

/// The outcome of a request, as far as a caller can act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    NotFound,
    AlreadyExists,
    /// The store answered and refuses: credentials, permission, a retention lock.
    Denied,
    /// No answer, or one that asks to come again: time-outs, resets, 409, 429, 500, 502, 503, 504.
    Unavailable,
    /// Anything else: a request the store does not understand, an answer that we do not, a range outside the object.
    Invalid,
}

#[derive(Debug, thiserror::Error)]
#[error("{operation} {key}: {detail}")]
pub struct StoreError {
    pub outcome: Outcome,
    /// `put`, `get`, `list` or `delete`.
    pub operation: &'static str,
    /// The name, or the prefix of a listing.
    pub key: String,
    /// What the store said, with the operator's next step where one is known. Holds no secret.
    pub detail: String,
    /// What the store asked to wait (`Retry-After`).
    pub retry_after: Option<Duration>,
}

impl StoreError {
    pub fn new(outcome: Outcome, operation: &'static str, key: impl fmt::Display, detail: impl Into<String>) -> Self {
        StoreError { outcome, operation, key: key.to_string(), detail: detail.into(), retry_after: None }
    }

    /// May the same request succeed later, with nothing changed on our side?
    pub fn is_retryable(&self) -> bool {
        self.outcome == Outcome::Unavailable
    }
}

/// Bytes under names, all below one prefix. Refuses to change an object in place, to rename and to guess: a listing or a
/// body that came back incomplete is an error.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Durable in the store when it returns. After an error the object may or may not be there.
    async fn put(&self, key: &Key, body: Body, mode: PutMode) -> Result<(), StoreError>;
    /// The whole object or exactly the bytes of `range`; a range outside the object is `Invalid`.
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError>;
    /// Every object whose name begins with `prefix` (a text: `"a/b"` finds `a/bc` too; `""` finds all), in order of names;
    /// with `after`, only those behind it. A name that is no `Key` is left out and logged.
    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>, StoreError>;
    /// The distinct next parts of names below `folder` (`""` or ending in `/`) that are folders themselves, in order.
    async fn list_folders(&self, folder: &str) -> Result<Vec<String>, StoreError>;
    /// Absent names are success.
    async fn delete(&self, keys: &[Key]) -> Result<(), StoreError>;
    /// The URL for messages, without secrets.
    fn describe(&self) -> String;
}

/// A store and what it has been asked.
#[derive(Debug, Clone)]
pub struct Opened {
    pub store: Arc<dyn Store>,
    pub requests: Arc<Requests>,
}

/// Opens the store that `url` names: `s3://bucket/prefix?endpoint=…`, `file:///directory`, a plain path, or
/// `memory://name` for tests. Sends nothing; what is wrong with the store itself is told by the first request.
pub fn open(url: &str, options: &StoreOptions) -> Result<Arc<dyn Store>, UrlError> {
    Ok(open_counted(url, options)?.store)
}

/// Opens a store whose every attempt is counted, retried by the rules of `retry`.
pub fn open_counted(url: &str, options: &StoreOptions) -> Result<Opened, UrlError> {
    let (location, options) = url::parse(url, options)?;
    let requests = Arc::new(Requests::default());
    let limiter = (!options.limits.is_empty()).then(|| Limiter::shared(&location.store(&options), &options.limits));
    let mut policy = retry::RetryPolicy::default();
    if let Some(retries) = options.max_retries {
        policy.max_tries = retries.saturating_add(1);
    }
    // A request that hangs is bounded by its own time-out, and must leave time to try again; so must one that waited for its limits.
    policy.max_total += options.request_timeout.unwrap_or(s3::REQUEST_TIMEOUT) * 2;
    policy.max_total += if limiter.is_some() { LIMITED_TOTAL } else { Duration::ZERO };
    let traffic = Arc::new(Traffic::new(requests.clone(), limiter));
    let inner: Arc<dyn Store> = match location {
        Location::S3 { bucket, prefix } => Arc::new(s3::S3Store::new(bucket, prefix, &options).through(traffic)),
        Location::Directory(root) => Arc::new(Limited::new(Arc::new(file::FileStore::new(root)), traffic)),
        Location::Memory(name) => Arc::new(Limited::new(Arc::new(memory::MemoryStore::shared(&name)), traffic)),
    };
    let counted = Arc::new(requests::Counted::new(inner, requests.clone()));
    let gated = Arc::new(gate::Gated::new(counted));
    let store = Arc::new(retry::Retrying::new(gated, policy, Arc::new(retry::RealPace::default())));
    Ok(Opened { store, requests })
}

/// A range must lie within the object; an empty one may.
fn check_range(key: &Key, range: &Range<u64>, len: u64) -> Result<(), StoreError> {
    if range.start <= range.end && range.end <= len {
        return Ok(());
    }
    let detail = format!("bytes {}..{} of an object of {len}", range.start, range.end);
    Err(StoreError::new(Outcome::Invalid, "get", key, detail))
}
