//! Objects that are well-formed and lie.

use std::io::Cursor;

use replicate::error::ExitCode;
use replicate::extent::{Extent, FileId};
use replicate::layout::{Level, ObjectName};
use replicate::position::{Commit, CommitKind, Lengths, Term};
use replicate::segment::{Codec, SegmentHeader, SegmentWriter};

use super::*;

/// Longest file that the format knows.
const LONGEST: u64 = 1 << 48;

/// A replica whose last segment has a commit with these lengths and an extent at this offset, and one commit more that is as
/// long as the one before the lie.
async fn with_lie(length: u64, offset: u64) -> Writer {
    let writer = history(61, 1, 20).await;
    let newest = writer.model().newest().commit.clone();
    let header = SegmentHeader {
        generation: writer.model().generation,
        term: Term(writer.term.0),
        engine: EngineKind::Sqlite,
        level: Level(0),
        grid: newest.grid,
        first: newest.txid.next(),
        checksum_before: newest.checksum,
    };
    let mut segment = SegmentWriter::new(Cursor::new(Vec::new()), header, Codec::Stored).expect("a segment");
    segment.begin_transaction().expect("begun");
    segment.extent(Extent { file: FileId::Main, offset, data: b"elsewhere" }).expect("an extent");
    let lie = Commit {
        txid: newest.txid.next(),
        lengths: Lengths { main: length, wal: 0 },
        kind: CommitKind::Captured,
        ..newest.clone()
    };
    segment.commit(&lie, b"").expect("a commit");
    segment.begin_transaction().expect("begun");
    segment.commit(&Commit { txid: lie.txid.next(), ..newest }, b"").expect("a commit");
    let summary = segment.finish().expect("finished");
    let key = ObjectName::Segment(summary.name).key();
    history::put(&*writer.store, &key, segment.into_file().into_inner()).await;
    writer
}

/// Enormous lengths and offsets are refused before anything is allocated or written, and bytes never land elsewhere.
#[tokio::test]
async fn loss_26_hostile_sizes_are_refused() {
    for (length, offset) in [(LONGEST, LONGEST - 9), (LONGEST, 0), (512, 1 << 40)] {
        let writer = with_lie(length, offset).await;
        let folder = scratch();
        let lie = writer.model().newest().commit.txid.next();
        let error = bytes_at(&store_of(&writer), folder.path(), &format!("txid:{}", lie.0)).await.expect_err("a lie");
        let exit = error.exit();
        assert!(matches!(exit, ExitCode::Failed | ExitCode::Damaged), "{}", error.report());
        if length == LONGEST {
            assert!(error.report().contains("bytes are needed"), "{}", error.report());
        }
        // What comes before the lie is not touched by it.
        let bytes =
            bytes_at(&store_of(&writer), folder.path(), &format!("txid:{}", lie.0 - 1)).await.expect("restored");
        assert!(bytes == writer.model().newest().content);
        let said = verify::deep(&store_of(&writer)).await;
        let suspects = said["findings"].as_array().map_or(0, Vec::len) + said["notes"].as_array().map_or(0, Vec::len);
        assert!(suspects > 0, "{said:#}");
    }
}
