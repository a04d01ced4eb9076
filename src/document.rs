//! Small JSON objects that prove themselves: the marker, claims, labels and marks.
//!
//! ```text
//! {"format":2, …,"checksum":"<XXH3-64 of every byte before this member's comma, 16 lower-case hexadecimal digits>"}
//! ```
//!
//! Before format 2 there was no checksum. Such objects are read and known as unproven; but what says that it is of format 2 or newer must
//! end with its checksum. So no single changed byte turns one into the other: either the format or the checksum still stands.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::checksum::content_hash;
use crate::store::{Key, Store, StoreError, read_surely};

/// What is written, and the newest whose members this version knows. All from this one on end with a checksum.
pub const FORMAT: u32 = 2;

/// What stands before the digits of the checksum and behind them.
const BEFORE_DIGITS: &[u8] = br#","checksum":""#;
const BEHIND_DIGITS: &[u8] = br#""}"#;
const DIGITS: usize = 16;

/// An object as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document<T> {
    pub value: T,
    pub format: u32,
    /// Its bytes are those that were written. Not known of what was written before there were checksums.
    pub is_proven: bool,
}

impl<T> Document<T> {
    /// For what must not be guessed at where a newer version wrote it.
    pub fn known(self) -> Result<Document<T>, DocumentError> {
        if self.format > FORMAT { Err(DocumentError::Newer { format: self.format }) } else { Ok(self) }
    }
}

/// Why bytes are not taken for what they should be.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("has {bytes} bytes, more than any object of its kind")]
    TooLong { bytes: usize },
    #[error("is damaged: its checksum is {stated:?}, and its bytes give {found}")]
    Changed { stated: String, found: String },
    #[error("is damaged: an object of format {format} ends with its checksum, and this one does not")]
    NoChecksum { format: u32 },
    #[error("is not what its name says: {0}")]
    Foreign(#[from] serde_json::Error),
    #[error("was written by a newer version (format {format})")]
    Newer { format: u32 },
}

#[derive(Serialize)]
struct Written<'a, T> {
    format: u32,
    #[serde(flatten)]
    value: &'a T,
}

#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    format: u32,
}

/// The bytes of an object. The same value gives the same bytes.
///
/// # Panics
///
/// Where `T` is no plain struct: one with names for its members, and no maps with other keys than texts.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(&Written { format: FORMAT, value }).expect("documents are plain data");
    assert_eq!(bytes.pop(), Some(b'}'), "a document is one JSON object");
    let digits = digits(&bytes);
    bytes.extend_from_slice(BEFORE_DIGITS);
    bytes.extend_from_slice(digits.as_bytes());
    bytes.extend_from_slice(BEHIND_DIGITS);
    bytes
}

/// Reads what `encode` wrote, now or in an earlier or later version. `most` bounds what is looked at, in bytes.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], most: usize) -> Result<Document<T>, DocumentError> {
    if bytes.len() > most {
        return Err(DocumentError::TooLong { bytes: bytes.len() });
    }
    let stated = checksum_at_end(bytes);
    if let Some((proven, stated)) = stated {
        let found = digits(proven);
        if stated != found.as_bytes() {
            return Err(DocumentError::Changed { stated: String::from_utf8_lossy(stated).into_owned(), found });
        }
    }
    let Head { format } = serde_json::from_slice(bytes)?;
    if stated.is_none() && format >= FORMAT {
        return Err(DocumentError::NoChecksum { format });
    }
    Ok(Document { value: serde_json::from_slice(bytes)?, format, is_proven: stated.is_some() })
}

/// Reads an object. What is not proven at once may have been garbled on its way: it is read until two reads agree.
pub async fn read<T: DeserializeOwned>(
    store: &dyn Store,
    key: &Key,
    most: usize,
) -> Result<Result<Document<T>, DocumentError>, StoreError> {
    match decode(&store.get(key, None).await?, most) {
        Ok(document @ Document { is_proven: true, .. }) => Ok(Ok(document)),
        _ => Ok(decode(&read_surely(store, key).await?, most)),
    }
}

/// What a checksum at the end covers, and its digits. `None` where the end does not have its form.
fn checksum_at_end(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = bytes.strip_suffix(BEHIND_DIGITS)?;
    let (rest, digits) = rest.split_at_checked(rest.len().checked_sub(DIGITS)?)?;
    Some((rest.strip_suffix(BEFORE_DIGITS)?, digits))
}

fn digits(bytes: &[u8]) -> String {
    format!("{:016x}", content_hash(bytes))
}

#[cfg(test)]
mod tests;
