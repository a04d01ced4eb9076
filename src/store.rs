//! The seam to a store: bytes under names. Objects are created once and never changed.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

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
