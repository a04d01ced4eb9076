//! Reading an object, or exactly the bytes of a range.

use std::ops::Range;

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use bytes::{Bytes, BytesMut};

use super::{S3Store, What, errors};
use crate::store::limits::Unit;
use crate::store::requests::Kind;
use crate::store::traffic::Waiting;
use crate::store::{Key, Outcome, StoreError, check_range};

/// Room made for a body before any of it came: a server may announce anything.
const ROOM_MAX: u64 = 16 << 20;

pub(super) async fn get(store: &S3Store, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
    let what = What { operation: "get", kind: Kind::Get, key: key.as_str() };
    if let Some(range) = &range {
        check_range(key, range, u64::MAX)?;
        if range.is_empty() {
            return get_nothing(store, key, range).await;
        }
    }
    let header = range.as_ref().map(|range| format!("bytes={}-{}", range.start, range.end - 1));
    let request = |client: Client| {
        client.get_object().bucket(&store.bucket).key(store.name(key)).set_range(header.clone()).send()
    };
    let answer = store.send(what, 0, request).await?;
    let announced = answer.content_length().and_then(|len| u64::try_from(len).ok());
    let expected = match &range {
        Some(range) => {
            check_answered_range(what, key, &answer, range)?;
            Some(range.end - range.start)
        }
        None => announced,
    };
    let waiting = Waiting::default();
    let body = collect(store, what, answer, expected, &waiting);
    let bytes = store.within(what, expected.unwrap_or_default(), &waiting, body).await??;
    match expected {
        Some(expected) if expected != bytes.len() as u64 => {
            Err(what.error(Outcome::Unavailable, format!("{} of {expected} bytes arrived", bytes.len())))
        }
        _ => Ok(bytes),
    }
}

/// What came waits before more of it is read: the connection's own flow control holds the server back.
async fn collect(
    store: &S3Store,
    what: What<'_>,
    answer: GetObjectOutput,
    expected: Option<u64>,
    waiting: &Waiting,
) -> Result<Bytes, StoreError> {
    let mut body = answer.body;
    let mut bytes = BytesMut::with_capacity(expected.unwrap_or_default().min(ROOM_MAX) as usize);
    while let Some(piece) = body.next().await {
        let piece = piece
            .map_err(|e| what.error(Outcome::Unavailable, format!("the body broke off: {}", errors::chain(&e))))?;
        store.traffic.moved(Unit::Download, piece.len() as u64, Some(waiting)).await;
        bytes.extend_from_slice(&piece);
        if expected.is_some_and(|expected| bytes.len() as u64 > expected) {
            return Err(what.error(Outcome::Unavailable, "more bytes arrived than were announced"));
        }
    }
    Ok(bytes.freeze())
}

/// A server may cut a range at the end of the object, or not know ranges at all.
fn check_answered_range(
    what: What<'_>,
    key: &Key,
    answer: &GetObjectOutput,
    range: &Range<u64>,
) -> Result<(), StoreError> {
    let Some(text) = answer.content_range() else {
        return Err(what.error(Outcome::Invalid, "the server sent the whole object for a range of it"));
    };
    let Some((first, last, total)) = parse_content_range(text) else {
        return Err(what.error(Outcome::Invalid, format!("the server sent range {text:?}")));
    };
    if let Some(total) = total {
        check_range(key, range, total)?;
    }
    if (first, last) != (range.start, range.end - 1) {
        return Err(what.error(Outcome::Invalid, format!("the server sent range {text:?} for {range:?}")));
    }
    Ok(())
}

/// `bytes 0-9/20`, or `bytes 0-9/*`.
fn parse_content_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((first.parse().ok()?, last.parse().ok()?, total))
}

/// HTTP has no empty range; whether it lies within the object can be asked.
async fn get_nothing(store: &S3Store, key: &Key, range: &Range<u64>) -> Result<Bytes, StoreError> {
    let what = What { operation: "get", kind: Kind::Head, key: key.as_str() };
    let request = |client: Client| client.head_object().bucket(&store.bucket).key(store.name(key)).send();
    let len = store.send(what, 0, request).await?.content_length().and_then(|len| u64::try_from(len).ok());
    let len = len.ok_or_else(|| what.error(Outcome::Invalid, "an object without a length"))?;
    check_range(key, range, len)?;
    Ok(Bytes::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header reads as the protocol has it, and nothing else does.
    #[test]
    fn content_ranges() {
        assert_eq!(parse_content_range("bytes 5-9/20"), Some((5, 9, Some(20))));
        assert_eq!(parse_content_range("bytes 0-0/*"), Some((0, 0, None)));
        for bad in ["", "bytes", "bytes */20", "bytes 5-/20", "bytes -5/20", "bytes 5-9", "items 0-1/2"] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }
}
