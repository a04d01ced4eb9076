//! The checksum of a restored database, from its bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::checksum::{WalHash, page_hash};
use crate::extent::PageGrid;
use crate::position::Lengths;

/// Bytes that one thread reads at a time.
const CHUNK_BYTES: u64 = 1024 * 1024;
/// Threads that read and hash: memory bandwidth ends before more of them help.
const MAX_THREADS: usize = 8;

/// The database checksum of these files; `advance` hears of bytes as they are hashed.
pub fn database_checksum(
    main: &File,
    wal: &File,
    lengths: Lengths,
    grid: PageGrid,
    advance: &(dyn Fn(u64) + Sync),
) -> io::Result<u64> {
    let pages = grid.pages(lengths.main);
    let chunk_pages = (CHUNK_BYTES / u64::from(grid.size)).max(1);
    let chunks = pages.div_ceil(chunk_pages);
    let next = AtomicU64::new(0);
    let work = || -> io::Result<u64> {
        let mut buffer = Vec::new();
        let mut sum = 0;
        loop {
            let chunk = next.fetch_add(1, Ordering::Relaxed);
            if chunk >= chunks {
                return Ok(sum);
            }
            let first = chunk * chunk_pages;
            let range = first..(first + chunk_pages).min(pages);
            sum ^= hash_pages(main, lengths.main, grid, range, &mut buffer)?;
            advance(buffer.len() as u64);
        }
    };
    let threads = thread::available_parallelism().map_or(1, |n| n.get()).min(MAX_THREADS);
    let threads = threads.min(usize::try_from(chunks).unwrap_or(MAX_THREADS)).max(1);
    let sum = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mine = work();
        others.into_iter().fold(mine, |sum, other| {
            let other = other.join().unwrap_or_else(|_| Err(io::Error::other("a hashing thread panicked")));
            Ok(sum? ^ other?)
        })
    })?;
    Ok(sum ^ wal_hash(wal, lengths.wal)?)
}

/// XOR of the hashes of a range of pages.
fn hash_pages(
    file: &File,
    length: u64,
    grid: PageGrid,
    pages: std::ops::Range<u64>,
    buffer: &mut Vec<u8>,
) -> io::Result<u64> {
    let start = grid.offset(pages.start);
    let end = grid.offset(pages.end).min(length);
    buffer.resize(usize::try_from(end - start).map_err(io::Error::other)?, 0);
    file.read_exact_at(buffer, start)?;
    let mut sum = 0;
    let mut rest = buffer.as_slice();
    for page in pages {
        let (data, more) = rest.split_at(rest.len().min(grid.len(page) as usize));
        sum ^= page_hash(page, data);
        rest = more;
    }
    Ok(sum)
}

fn wal_hash(file: &File, length: u64) -> io::Result<u64> {
    let mut hash = WalHash::default();
    let mut buffer = Vec::new();
    let mut at = 0;
    while at < length {
        let bytes = CHUNK_BYTES.min(length - at);
        buffer.resize(usize::try_from(bytes).map_err(io::Error::other)?, 0);
        file.read_exact_at(&mut buffer, at)?;
        hash.append(&buffer);
        at += bytes;
    }
    Ok(hash.value())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Many threads and cut last pages give the same checksum as one page after the other.
    #[test]
    fn any_length_and_grid() {
        let data: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for (head, size, length) in [(0, 512, 3_000_000), (0, 4096, 8192), (12288, 16384, 1_234_567), (0, 65536, 0)] {
            let grid = PageGrid::new(head, size).expect("a grid");
            let (main, wal) = (tempfile::tempfile().expect("file"), tempfile::tempfile().expect("file"));
            main.write_all_at(&data[..length], 0).expect("write");
            wal.write_all_at(&data[..1000], 0).expect("write");
            let lengths = Lengths { main: length as u64, wal: 1000 };
            let found = database_checksum(&main, &wal, lengths, grid, &|_| {}).expect("readable");
            let pages = (0..grid.pages(length as u64)).map(|page| {
                let start = grid.offset(page) as usize;
                page_hash(page, &data[start..(start + grid.len(page) as usize).min(length)])
            });
            let mut hash = WalHash::default();
            hash.append(&data[..1000]);
            assert_eq!(found, pages.fold(hash.value(), |sum, hash| sum ^ hash));
        }
    }
}
