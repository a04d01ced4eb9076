use proptest::prelude::*;

use super::*;
use crate::label::Act;
use crate::replica::{Claim, Marker};
use crate::retention::Mark;

const MOST: usize = 4096;

fn claim() -> Claim {
    Claim { writer: "a1b2".to_owned(), claimed_ms: 1_763_700_000_000 }
}

/// What is written is one JSON object that any tool reads, and is read back as it was, proven.
#[test]
fn a_document_is_read_back() {
    let bytes = encode(&claim());
    let text = std::str::from_utf8(&bytes).unwrap();
    assert!(text.starts_with(r#"{"format":2,"writer":"a1b2","claimed_ms":1763700000000,"checksum":""#), "{text}");
    let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((&json["writer"], &json["format"]), (&"a1b2".into(), &2.into()));
    assert_eq!(decode(&bytes, MOST).unwrap(), Document { value: claim(), format: 2, is_proven: true });
    assert!(matches!(decode::<Claim>(&bytes, bytes.len() - 1), Err(DocumentError::TooLong { .. })));
}

/// Every byte changed to every other value, every cut and every byte more is refused: none makes an object that needs no checksum.
#[test]
fn no_changed_byte_is_taken() {
    let good = encode(&claim());
    for at in 0..good.len() {
        for value in (0..=u8::MAX).filter(|value| *value != good[at]) {
            let mut bytes = good.clone();
            bytes[at] = value;
            assert!(decode::<Claim>(&bytes, MOST).is_err(), "byte {at} as {value}");
        }
        assert!(decode::<Claim>(&good[..at], MOST).is_err(), "cut to {at}");
        assert!(decode::<Claim>(&[&good[..at], &good[at + 1..]].concat(), MOST).is_err(), "without byte {at}");
    }
    for more in [b' ', b'\n', b'}', 0] {
        assert!(decode::<Claim>(&[&good[..], &[more]].concat(), MOST).is_err(), "{more} behind it");
        assert!(decode::<Claim>(&[&[more], &good[..]].concat(), MOST).is_err(), "{more} before it");
    }
}

/// What was written before there were checksums is read, and known as unproven; what a newer version wrote is known as such.
#[test]
fn other_formats_are_told_apart() {
    for old in [
        r#"{"writer":"a1b2","claimed_ms":1763700000000}"#,
        r#"{"format":1,"writer":"a1b2","claimed_ms":1763700000000}"#,
    ] {
        let read: Document<Claim> = decode(old.as_bytes(), MOST).unwrap().known().unwrap();
        assert_eq!((read.value, read.is_proven), (claim(), false));
    }
    let mut newer = br#"{"format":3,"writer":"a1b2","claimed_ms":1763700000000"#.to_vec();
    assert!(matches!(
        decode::<Claim>(&[&newer[..], b"}"].concat(), MOST),
        Err(DocumentError::NoChecksum { format: 3 })
    ));
    let sum = digits(&newer);
    newer.extend(format!(r#","checksum":"{sum}"}}"#).into_bytes());
    let read: Document<Claim> = decode(&newer, MOST).unwrap();
    assert_eq!((&read.value, read.is_proven), (&claim(), true));
    assert!(matches!(read.known(), Err(DocumentError::Newer { format: 3 })));
}

fn any_reader_takes_or_refuses(bytes: &[u8]) {
    let _ = decode::<Marker>(bytes, MOST);
    let _ = decode::<Claim>(bytes, MOST);
    let _ = decode::<Act>(bytes, MOST);
    if let Ok(Document { value: mark, .. }) = decode::<Mark>(bytes, MOST) {
        assert!(mark.pruned.iter().all(|(first, last)| first <= last));
        assert_eq!(decode::<Mark>(&encode(&mark), usize::MAX).unwrap().value, mark);
    }
}

proptest! {
    /// No bytes make a reader panic, also where a right checksum lets them through to what stands behind it.
    #[test]
    fn any_bytes_are_read_or_refused(noise in prop::collection::vec(any::<u8>(), 0..200), text in r#"\{("format":[0-4],)?("(pruned|delete|engine|min_reader|writer|claimed_ms|at_ms|by)":("x"|\[\]|\[\["[0-9a-f]{16}","[0-9a-f]{16}"\]\]|[0-9]{1,20}|null|-1|1e9),){0,6}"a":1"#) {
        any_reader_takes_or_refuses(&noise);
        for mut bytes in [noise, text.clone().into_bytes()] {
            let sum = digits(&bytes);
            bytes.extend(format!(r#","checksum":"{sum}"}}"#).into_bytes());
            any_reader_takes_or_refuses(&bytes);
        }
        any_reader_takes_or_refuses(format!("{text}}}").as_bytes());
    }
}
