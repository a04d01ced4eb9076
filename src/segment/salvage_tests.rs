//! Files that a crash or a full disk left unfinished.

use std::io::{self, Read, Seek, SeekFrom, Write};

use proptest::prelude::*;

use super::codec::Packer;
use super::frame::{FrameKind, append};
use super::ops::{CommitRecord, Encoder};
use super::tests::*;
use super::*;
use crate::extent::Extent;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A file cut anywhere, with anything behind the cut, salvages to whole transactions from the first one on, at least
    /// those that were flushed, and reads back.
    #[test]
    fn salvage_keeps_what_was_flushed(all in transactions(2..8, 3000), flushed in 1usize..8, cut in any::<prop::sample::Index>(),
                                      rubbish in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut writer = new_writer(Codec::Lz4);
        let flushed = flushed.min(all.len());
        all[..flushed].iter().for_each(|tx| write_transaction(&mut writer, tx));
        writer.flush().expect("flush");
        let safe = writer.file.get_ref().len();
        for tx in &all[flushed..] {
            write_transaction(&mut writer, tx);
            writer.flush().expect("flush");
        }
        writer.finish().expect("finish");
        let mut bytes = writer.into_file().into_inner();
        bytes.truncate(safe + cut.index(bytes.len() - safe + 1));
        bytes.extend_from_slice(&rubbish);
        let mut salvaged = salvage(Memory::new(bytes), Codec::Lz4).expect("salvage").expect("flushed commits");
        let kept = salvaged.commits().len();
        prop_assert!(kept >= flushed);
        salvaged.finish().expect("finish");
        let found = read_all(salvaged.into_file().get_ref()).expect("readable");
        prop_assert_eq!(found, as_read(&all[..kept]));
    }
}

/// Salvage takes nothing that a reader would refuse: a block whose position does not follow its last commit, or whose
/// commit is not the next one, ends the file.
#[test]
fn salvage_takes_only_what_a_reader_takes() {
    let next = CommitRecord::of(&commit(42, 1_700_000_000_042, 4096));
    let skipped = CommitRecord::of(&commit(43, 1_700_000_000_043, 4096));
    let block = |build: &dyn Fn(&mut Encoder, &mut Vec<u8>)| {
        let (mut encoder, mut raw) = (Encoder::default(), Vec::new());
        build(&mut encoder, &mut raw);
        raw
    };
    let good = block(&|encoder, raw| {
        encoder.commit(raw, &next);
        encoder.position(raw, b"there");
    });
    let bad = [
        block(&|encoder, raw| encoder.commit(raw, &next)),
        block(&|encoder, raw| {
            encoder.commit(raw, &next);
            encoder.page(raw, grid(), 3, 3);
            encoder.position(raw, b"there");
        }),
        block(&|encoder, raw| {
            encoder.commit(raw, &skipped);
            encoder.position(raw, b"there");
        }),
        block(&|encoder, raw| encoder.position(raw, b"there")),
        vec![9],
    ];
    let salvaged = |raw: &[u8]| {
        let mut writer = new_writer(Codec::Stored);
        write_transaction(&mut writer, &small()[0]);
        writer.flush().expect("flush");
        let mut file = writer.into_file();
        let mut packer = Packer::new(Codec::Stored).expect("a packer");
        append(file.get_mut(), FrameKind::Block, raw, &mut packer).expect("a block");
        let mut writer = salvage(file, Codec::Stored).expect("salvage").expect("one commit");
        writer.finish().expect("finish");
        read_all(writer.into_file().get_ref()).expect("readable").len()
    };
    assert_eq!(salvaged(&good), 2);
    bad.iter().for_each(|raw| assert_eq!(salvaged(raw), 1, "{raw:?}"));
}

/// A file in which nothing was ever flushed holds nothing; one that begins with other bytes is kept by being an error.
#[test]
fn salvage_of_nothing() {
    let mut writer = new_writer(Codec::Lz4);
    write_transaction(&mut writer, &small()[0]);
    let head = writer.into_file().into_inner();
    for length in 0..=head.len() {
        assert!(salvage(Memory::new(head[..length].to_vec()), Codec::Lz4).expect("no error").is_none());
    }
    let mut damaged = head;
    damaged[8] ^= 1;
    assert!(salvage(Memory::new(damaged), Codec::Lz4).is_err());
}

/// A disk that is full beyond `limit`, with half of what does not fit written before it says so.
#[derive(Debug, Default)]
struct SmallDisk {
    file: Memory,
    limit: u64,
}

impl Read for SmallDisk {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.file.read(out)
    }
}

impl Seek for SmallDisk {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl Write for SmallDisk {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.file.position() + data.len() as u64 > self.limit {
            self.file.write_all(&data[..data.len() / 2])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SegmentFile for SmallDisk {
    fn set_len(&mut self, len: u64) -> io::Result<()> {
        SegmentFile::set_len(&mut self.file, len)
    }
}

/// A disk that fills up in the middle of a transaction, a flush or the end costs no commit: what was committed is written
/// when there is room again.
#[test]
fn a_full_disk_costs_no_commit() {
    let all = with_large();
    let whole = segment(&all, Codec::Stored);
    for limit in (200..whole.len() as u64).step_by(7001).chain([whole.len() as u64 - 1]) {
        let disk = SmallDisk { limit, ..SmallDisk::default() };
        let mut writer = SegmentWriter::new(disk, header(0), Codec::Stored).expect("room for the header");
        let mut failures = 0;
        for tx in &all {
            let result = writer.begin_transaction().and_then(|()| {
                tx.extents
                    .iter()
                    .try_for_each(|(file, offset, data)| writer.extent(Extent { file: *file, offset: *offset, data }))
            });
            if let Err(error) = result {
                assert!(matches!(error, SegmentError::Io(_)) && !error.is_damage());
                failures += 1;
                writer.abandon();
                writer.file.limit = u64::MAX;
                write_transaction(&mut writer, tx);
                continue;
            }
            tx.pages.iter().for_each(|&(page, hash)| writer.page(page, hash).expect("fits in memory"));
            writer.commit(&tx.commit, &tx.position).expect("commits do no I/O");
        }
        if writer.finish().is_err() {
            failures += 1;
            writer.file.limit = u64::MAX;
            writer.finish().expect("there is room now");
        }
        assert_eq!(failures, 1, "limit {limit}");
        assert_eq!(read_all(writer.into_file().file.get_ref()).expect("readable"), as_read(&all));
    }
}
