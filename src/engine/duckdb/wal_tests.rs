use super::*;

const WALS: [(&str, &[u8], &[u64]); 5] = [
    ("1.1.3", include_bytes!("../../../fixtures/duckdb/1.1.3.db.wal"), &[133, 336, 747, 942]),
    ("1.2.2", include_bytes!("../../../fixtures/duckdb/1.2.2.db.wal"), &[133, 336, 747, 942]),
    ("1.4.5", include_bytes!("../../../fixtures/duckdb/1.4.5.db.wal"), &[133, 262, 673, 868]),
    ("1.5.6", include_bytes!("../../../fixtures/duckdb/1.5.6.db.wal"), &[133, 262, 663, 858]),
    ("2.0.0", include_bytes!("../../../fixtures/duckdb/2.0.0.db.wal"), &[172, 313, 768, 966]),
];

fn whole(wal: &[u8]) -> Scan {
    let header = parse_header(wal).unwrap().unwrap();
    scan(wal, Framing::Plain, header.len, wal.len() as u64, u64::MAX).unwrap()
}

fn entry(body: &[u8]) -> Vec<u8> {
    let mut sum = Checksum::default();
    sum.update(body);
    [&(body.len() as u64).to_le_bytes(), &sum.finish().to_le_bytes(), body].concat()
}

fn flush() -> Vec<u8> {
    entry(&[100, 0, 100, 0xff, 0xff])
}

/// As DuckDB writes it: a pointer of 0 is left out.
fn marker(meta: u8) -> Vec<u8> {
    let pointer: &[u8] = if meta == 0 { &[] } else { &[100, 0, meta] };
    let checkpoint = [&[100, 0, 99, 101, 0], pointer, &[101, 0, 8, 0xff, 0xff, 0xff, 0xff]].concat();
    [entry(&checkpoint), flush()].concat()
}

/// WALs of every version are cut where their commits end; the one with bulk rows is known.
#[test]
fn golden_wals_are_cut_at_their_commits() {
    for (version, wal, ends) in WALS {
        let found = whole(wal);
        assert_eq!(found.commits.iter().map(|commit| commit.end).collect::<Vec<_>>(), ends, "{version}");
        let bulk: Vec<bool> = found.commits.iter().map(|commit| commit.bulk).collect();
        assert_eq!(bulk, [false, false, true, false], "{version}");
        assert_eq!((found.unfinished, found.broken, found.marker), (0, false, None));
        assert_eq!(marker_at_end(wal, wal.len() as u64).unwrap(), None);
    }
}

/// A WAL cut anywhere shows exactly the commits that are whole; a changed byte hides its commit and all after it.
#[test]
fn torn_wals_show_whole_commits_only() {
    for (version, wal, ends) in WALS {
        for cut in 0..wal.len() {
            let Some(header) = parse_header(&wal[..cut]).unwrap() else { continue };
            let found = scan(&wal[..cut], Framing::Plain, header.len, cut as u64, u64::MAX).unwrap();
            assert_eq!(
                found.commits.len(),
                ends.iter().filter(|end| **end <= cut as u64).count(),
                "{version} at {cut}"
            );
            let mut bad = wal.to_vec();
            bad[cut] ^= 0x20;
            if (cut as u64) < header.len {
                continue;
            }
            assert_eq!(whole(&bad).commits.len(), ends.iter().filter(|end| **end <= cut as u64).count());
        }
    }
}

/// A marker at the end is found both ways; followed by commits it is passed over and is part of none.
#[test]
fn markers_are_no_commits() {
    let (_, wal, ends) = WALS[2];
    let mut marked = Vec::new();
    for meta_block in [0, 5] {
        marked = [wal, &marker(meta_block)].concat();
        let meta_block = u64::from(meta_block);
        let expected = Marker { start: ends[3], end: marked.len() as u64, meta_block };
        let found = whole(&marked);
        assert_eq!((found.marker, found.commits.len()), (Some(expected), 4));
        assert_eq!(marker_at_end(marked.as_slice(), marked.len() as u64).unwrap(), Some(expected));
    }
    let commit_at = marked.len() as u64;
    marked.extend_from_slice(&wal[8..133]);
    let found = whole(&marked);
    assert_eq!((found.marker, found.commits.len()), (None, 5));
    assert_eq!(found.commits[4].start, commit_at);
    assert_eq!(marker_at_end(marked.as_slice(), marked.len() as u64).unwrap(), None);
}

/// A budget ends the scan between commits, and it goes on from there.
#[test]
fn a_scan_goes_on_where_its_budget_ended() {
    let (_, wal, ends) = WALS[4];
    let (mut at, mut found) = (parse_header(wal).unwrap().unwrap().len, Vec::new());
    loop {
        let step = scan(wal, Framing::Plain, at, wal.len() as u64, 1).unwrap();
        found.extend(step.commits.iter().map(|commit| commit.end));
        at = step.end;
        if !step.more {
            break;
        }
    }
    assert_eq!(found, ends);
}

/// Entries larger than the window are proven piece by piece.
#[test]
fn large_entries_are_read_in_pieces() {
    let body: Vec<u8> = [100, 0, 26].into_iter().chain((0..WINDOW_BYTES * 3 + 5).map(|i| i as u8)).collect();
    let wal = [&[100, 0, 98, 101, 0, 2, 255, 255], entry(&body).as_slice(), &flush(), &entry(&body), &flush()].concat();
    assert_eq!(whole(&wal).commits.len(), 2);
    let mut bad = wal.clone();
    bad[WINDOW_BYTES * 2] ^= 1;
    let found = whole(&bad);
    assert_eq!((found.commits.len(), found.broken), (0, true));
}

/// Headers: every cut is incomplete, other versions and other files are refused.
#[test]
fn headers_are_parsed_or_refused() {
    let header = WALS[4].1;
    assert_eq!(parse_header(header).unwrap(), Some(WalHeader { version: 2, iteration: Some(2), len: 35 }));
    for cut in 0..35 {
        assert_eq!(parse_header(&header[..cut]).unwrap(), None);
    }
    assert_eq!(parse_header(&[100, 0, 98, 101, 0, 1, 255, 255]), Err(WalError::Version(1)));
    assert_eq!(parse_header(&[100, 0, 98, 101, 0, 9, 255, 255]), Err(WalError::Version(9)));
    assert_eq!(parse_header(b"SQLite format 3"), Err(WalError::NotAWal));
    assert!(parse_header(&[255; 100]).is_err());
}

proptest::proptest! {
    /// Any bytes are scanned to an end, and what is found lies within them and in order.
    #[test]
    fn any_bytes_are_scanned(which in 0usize..5, at in 0usize..900, bytes in proptest::collection::vec(0u8..=255, 0..60), overhead: bool) {
        let mut wal = WALS[which].1.to_vec();
        let end = (at + bytes.len()).min(wal.len());
        wal[at.min(end)..end].copy_from_slice(&bytes[..end - at.min(end)]);
        let framing = if overhead { Framing::Encrypted { overhead: 36 } } else { Framing::Plain };
        let from = parse_header(&wal).ok().flatten().map_or(8, |header| header.len);
        let found = scan(wal.as_slice(), framing, from, wal.len() as u64, u64::MAX).unwrap();
        let mut last = from;
        for commit in &found.commits {
            assert!(commit.start >= last && commit.end > commit.start && commit.end <= wal.len() as u64);
            last = commit.end;
        }
        assert!(found.end >= last && found.end <= wal.len() as u64);
        marker_at_end(wal.as_slice(), wal.len() as u64).unwrap();
    }
}
