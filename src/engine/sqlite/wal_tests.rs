use super::*;

const SALTS: Salts = Salts(0x1234_5678, 0x9abc_def0);

/// A WAL as SQLite on a machine of this byte order writes it.
fn synthesise(order: ByteOrder, page_size: u32, frames: &[(u32, u32, u8)]) -> Vec<u8> {
    let magic = if order == ByteOrder::Big { MAGIC_BIG_ENDIAN } else { MAGIC_LITTLE_ENDIAN };
    let mut wal: Vec<u8> = [magic, FORMAT_VERSION, page_size, 3, SALTS.0, SALTS.1].map(u32::to_be_bytes).concat();
    let mut sum = Checksum::default().append(order, &wal);
    wal.extend([sum.0, sum.1].map(u32::to_be_bytes).concat());
    for &(page, truncate, fill) in frames {
        let head = [page, truncate].map(u32::to_be_bytes).concat();
        let body = vec![fill; page_size as usize];
        sum = sum.append(order, &head).append(order, &body);
        wal.extend(head);
        wal.extend([SALTS.0, SALTS.1, sum.0, sum.1].map(u32::to_be_bytes).concat());
        wal.extend(body);
    }
    wal
}

/// Both byte orders and all page sizes are read, and no flipped byte of a frame goes unseen.
#[test]
fn loss_2_both_byte_orders_and_all_page_sizes_are_read() {
    for order in [ByteOrder::Little, ByteOrder::Big] {
        for page_size in (9..=16).map(|bits| 1u32 << bits) {
            let wal = synthesise(order, page_size, &[(1, 0, 5), (7, 9, 6)]);
            let header = WalHeader::parse(wal[..32].try_into().expect("32 bytes")).expect("valid header");
            assert_eq!((header.order, header.page_size, header.salts), (order, page_size, SALTS));
            let mut chain = header.checksum;
            for frame in 1..=2 {
                let start = frame_offset(frame, page_size) as usize;
                let bytes = &wal[start..start + page_size as usize + FRAME_HEADER_BYTES];
                let parsed = FrameHeader::parse(bytes);
                assert!(parsed.continues(bytes, order, SALTS, chain));
                assert!(!parsed.continues(bytes, order, Salts(SALTS.0 + 1, SALTS.1), chain));
                let mut flipped = bytes.to_vec();
                for at in (0..24).chain([24, bytes.len() - 1]) {
                    flipped[at] ^= 1;
                    let seen = !FrameHeader::parse(&flipped).continues(&flipped, order, SALTS, chain);
                    assert!(seen, "byte {at} of frame {frame}");
                    flipped[at] ^= 1;
                }
                chain = parsed.checksum;
            }
        }
    }
}

/// SQLite itself takes the synthesised WALs of both byte orders, so the test above tests the right thing.
#[test]
fn loss_2_sqlite_recovers_the_synthesised_wal() {
    for order in [ByteOrder::Little, ByteOrder::Big] {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.db");
        let database = rusqlite::Connection::open(&path).expect("a database");
        database
            .execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (41)")
            .expect("content");
        drop(database);
        // The same page again as one WAL commit, with the row's byte changed.
        let mut page: Vec<u8> = std::fs::read(&path).expect("the file")[4096..8192].to_vec();
        let row = page.iter().rposition(|&byte| byte == 41).expect("the row");
        page[row] = 42;
        let head = [2u32, 2].map(u32::to_be_bytes).concat();
        let mut wal = synthesise(order, 4096, &[]);
        let seed = WalHeader::parse(wal[..32].try_into().expect("32 bytes")).expect("valid header").checksum;
        let sum = seed.append(order, &head).append(order, &page);
        wal.extend(head);
        wal.extend([SALTS.0, SALTS.1, sum.0, sum.1].map(u32::to_be_bytes).concat());
        wal.extend(&page);
        std::fs::write(directory.path().join("a.db-wal"), &wal).expect("the WAL");
        let database = rusqlite::Connection::open(&path).expect("a database");
        let found: i64 = database.query_row("SELECT x FROM t", [], |row| row.get(0)).expect("the row");
        assert_eq!(found, 42, "{order:?}");
    }
}

/// Headers that SQLite would not take are refused: magic, version, page size, checksum.
#[test]
fn foreign_headers_are_refused() {
    let wal = synthesise(ByteOrder::Little, 4096, &[]);
    let header: [u8; 32] = wal[..32].try_into().expect("32 bytes");
    assert!(WalHeader::parse(&header).is_some());
    for at in 0..32 {
        let mut other = header;
        other[at] ^= 0x40;
        assert_eq!(WalHeader::parse(&other), None, "byte {at}");
    }
}

/// Offsets beyond 4 GiB are exact.
#[test]
fn offsets_are_64_bit() {
    assert_eq!(frame_offset(1, 4096), 32);
    assert_eq!(frame_offset(u32::MAX, 65536), 32 + (u64::from(u32::MAX) - 1) * (65536 + 24));
    assert_eq!(lock_page(65536), 16385);
    assert_eq!(lock_page(512), 2_097_153);
}
