use super::*;

const FILES: [(&str, &[u8]); 4] = [
    ("1.2.2", include_bytes!("../../../fixtures/duckdb/1.2.2.db")),
    ("1.4.5", include_bytes!("../../../fixtures/duckdb/1.4.5.db")),
    ("1.5.6", include_bytes!("../../../fixtures/duckdb/1.5.6.db")),
    ("2.0.0", include_bytes!("../../../fixtures/duckdb/2.0.0.db")),
];

fn block(file: &[u8], header: &DatabaseHeader, id: u64, buffer: &mut Vec<u8>) -> Result<(), FileError> {
    let start = HEAD_BYTES + id as usize * header.block_bytes as usize;
    let bytes = file.get(start..start + header.block_bytes as usize).ok_or(FileError::Short)?;
    buffer.clear();
    buffer.extend_from_slice(bytes);
    if is_sound(bytes) { Ok(()) } else { Err(FileError::Torn { page: 0 }) }
}

/// Files of every version parse: headers, free list, and the checksum of every used block.
#[test]
fn golden_files_parse() {
    for (version, file) in FILES {
        let head = Head::parse(&file[..HEAD_BYTES]).unwrap();
        let active = head.active.unwrap();
        assert_eq!((active.iteration, active.block_bytes), (2, 16_384), "{version}");
        assert_eq!(head.older_than_2_0(), version != "2.0.0");
        let list = read_free_list(&active, |id, buffer| block(file, &active, id, buffer)).unwrap();
        assert_eq!(list.free, (1..=10).collect(), "{version}");
        assert!(list.metadata.contains(0), "{version}");
        let mut buffer = Vec::new();
        for id in (0..active.block_count).filter(|&id| !list.free.contains(id)) {
            block(file, &active, id, &mut buffer).unwrap_or_else(|error| panic!("{version} block {id}: {error}"));
        }
    }
}

/// A changed byte anywhere in the headers is refused, and so is every version that is not known.
#[test]
fn damaged_and_unknown_heads_are_refused() {
    let good = &FILES[3].1[..HEAD_BYTES];
    for position in (0..HEAD_BYTES).step_by(97).chain([8, 12, 20, 4096, 8200]) {
        let mut bad = good.to_vec();
        bad[position] ^= 1;
        assert!(Head::parse(&bad).is_err(), "byte {position}");
    }
    let with = |offset: usize, value: u64| {
        let page = offset / HEADER_BYTES * HEADER_BYTES;
        let mut bytes = good.to_vec();
        bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
        let sum = checksum(&bytes[page + 8..page + HEADER_BYTES]);
        bytes[page..page + 8].copy_from_slice(&sum.to_le_bytes());
        Head::parse(&bytes)
    };
    assert_eq!(with(12, 63), Err(FileError::Version(63)));
    assert_eq!(with(12, 69), Err(FileError::Version(69)));
    assert_eq!(with(8192 + 56, 70), Err(FileError::Compat(70)));
    assert!(matches!(with(8192 + 40, 1000), Err(FileError::Impossible { .. })));
    assert!(matches!(with(8192 + 32, u64::MAX), Err(FileError::Impossible { .. })));
    assert_eq!(Head::parse(&good[..4096]), Err(FileError::Short));
    assert_eq!(Head::parse(&[0; HEAD_BYTES]), Err(FileError::Magic));
}

/// The checksum is the same however its input is cut into pieces.
#[test]
fn the_checksum_does_not_depend_on_the_pieces() {
    let data: Vec<u8> = (0..1000u32).map(|i| (i * 7 + i / 256) as u8).collect();
    for len in [0, 1, 7, 8, 9, 15, 16, 63, 999, 1000] {
        for cut in [1, 3, 8, 13, 64] {
            let mut sum = Checksum::default();
            data[..len].chunks(cut).for_each(|piece| sum.update(piece));
            assert_eq!(sum.finish(), checksum(&data[..len]), "{len} bytes in pieces of {cut}");
        }
    }
    assert_eq!(checksum(&[0; 4088]), 5381);
    assert!(!is_sound(&[0; 4096]));
}

proptest::proptest! {
    /// Any bytes in place of the free list end in a list or an error, without a panic or endless work.
    #[test]
    fn any_free_list_ends(seed: u64, pointer: u64, garbage in proptest::collection::vec(0u8..=255, 16_384)) {
        let file = FILES[3].1;
        let mut active = Head::parse(&file[..HEAD_BYTES]).unwrap().active.unwrap();
        active.free_list = pointer % (20 << 56);
        let _ = read_free_list::<FileError>(&active, |id, buffer| {
            *buffer = garbage.clone();
            buffer[(seed % 16_000) as usize] = id as u8;
            // Circles are likely: pointers to sub-blocks of a few blocks.
            for sub in 0..64 {
                buffer[8 + sub * 248 + 1..8 + sub * 248 + 7].fill(0);
                buffer[8 + sub * 248 + 7] &= 63;
                buffer[8 + sub * 248] %= 14;
            }
            Ok(())
        });
    }

    /// Any bytes in place of the headers are parsed or refused.
    #[test]
    fn any_head_is_parsed_or_refused(offset in 0usize..HEAD_BYTES, bytes in proptest::collection::vec(0u8..=255, 0..64)) {
        let mut file = FILES[0].1[..HEAD_BYTES].to_vec();
        let end = (offset + bytes.len()).min(HEAD_BYTES);
        file[offset..end].copy_from_slice(&bytes[..end - offset]);
        for page in 0..3 {
            let page = page * HEADER_BYTES;
            let sum = checksum(&file[page + 8..page + HEADER_BYTES]);
            file[page..page + 8].copy_from_slice(&sum.to_le_bytes());
        }
        let _ = Head::parse(&file).map(|head| head.grid());
    }
}
