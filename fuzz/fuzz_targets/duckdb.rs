//! Any bytes, through the parsers of DuckDB's file and WAL. Checksums are put right first, so that changed bytes reach what
//! stands behind them.
//!
//! `cargo +nightly fuzz run duckdb fuzz/corpus/duckdb fixtures/duckdb -- -malloc_limit_mb=768 -max_len=65536`

#![no_main]

use libfuzzer_sys::fuzz_target;
use replicate::engine::duckdb::file::{FileError, HEAD_BYTES, Head, checksum, read_free_list};
use replicate::engine::duckdb::wal::{Framing, block_numbers, marker_at_end, parse_header, scan};

const PAGE: usize = 4096;

/// The three header pages, each with the checksum that its bytes have.
fn check_head(data: &[u8]) {
    let mut raw = data.to_vec();
    raw.resize(HEAD_BYTES, 0);
    for page in raw.chunks_exact_mut(PAGE) {
        let sum = checksum(&page[8..]);
        page[..8].copy_from_slice(&sum.to_le_bytes());
    }
    let Ok(head) = Head::parse(&raw) else { return };
    assert_eq!(head.raw(), raw);
    let grid = head.grid();
    let Some(active) = head.active else { return };
    // Blocks of the rest of the input, as often as they are asked for; a file has no more than it has room for.
    let blocks = &data[data.len().min(HEAD_BYTES)..];
    let mut header = active;
    header.block_count = header.block_count.min(64);
    let list = read_free_list::<FileError>(&header, |id, buffer| {
        buffer.clear();
        buffer.extend(blocks.iter().cycle().skip(id as usize % 7).take(grid.size as usize));
        buffer.resize(grid.size as usize, 0);
        Ok(())
    });
    if let Ok(list) = list {
        assert!(list.free.iter().chain(list.metadata.iter()).all(|block| block < header.block_count));
    }
}

/// The input as bodies of entries, each with its length and the checksum that its bytes have.
fn wal_of(data: &[u8]) -> Vec<u8> {
    let mut wal = Vec::new();
    let mut rest = data;
    while let [len, more @ ..] = rest {
        let (body, more) = more.split_at(more.len().min(usize::from(*len)));
        wal.extend_from_slice(&(body.len() as u64).to_le_bytes());
        wal.extend_from_slice(&checksum(body).to_le_bytes());
        wal.extend_from_slice(body);
        rest = more;
    }
    wal
}

fn check_wal(wal: &[u8]) {
    let size = wal.len() as u64;
    let marker = marker_at_end(wal, size).expect("memory is readable");
    if let Some(marker) = marker {
        assert!(marker.start < marker.end && marker.end == size);
    }
    for framing in [Framing::Plain, Framing::Encrypted { overhead: 28 }, Framing::Encrypted { overhead: 12 }] {
        let found = scan(wal, framing, 0, size, u64::MAX).expect("memory is readable");
        let mut end = 0;
        for commit in &found.commits {
            assert!(commit.start >= end && commit.end > commit.start && commit.end <= size);
            end = commit.end;
        }
        assert_eq!(found.unfinished, size - found.end);
        // In pieces, it is the same.
        let (mut at, mut again) = (0, Vec::new());
        loop {
            let piece = scan(wal, framing, at, size, 100).expect("memory is readable");
            again.extend(piece.commits);
            if !piece.more {
                break;
            }
            assert!(piece.end > at);
            at = piece.end;
        }
        assert_eq!(again, found.commits);
    }
}

fuzz_target!(|data: &[u8]| {
    check_head(data);
    if let Ok(Some(header)) = parse_header(data) {
        assert!(header.len <= data.len() as u64);
    }
    check_wal(data);
    check_wal(&wal_of(data));
    block_numbers(data, |_| {});
});
