//! Bytes and CPU of each codec on the three things that are stored: page deltas, joined segments, parts of snapshots.
//!
//! `cargo bench --no-default-features --bench codec` prints the table of docs/benchmarks.md and then times encoding and
//! decoding. Everything is generated from a fixed seed. Bytes are exact; CPU is that of this thread, so that other work on
//! the machine disturbs it little.

use std::collections::HashMap;
use std::hint::black_box;
use std::io::Cursor;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use replicate::checksum::page_hash;
use replicate::engine::{EngineKind, SNAPSHOT_SLICE_BYTES};
use replicate::extent::{Extent, FileId, PageGrid};
use replicate::layout::Level;
use replicate::position::{Commit, CommitKind, Generation, Lengths, Term, TimeMs, Txid};
use replicate::segment::{Codec, PartRef, PartWriter, SegmentHeader, SegmentReader, SegmentWriter, decode_part};

const PAGE: usize = 4096;
const SEED: u64 = 20_261_120;
/// Rows before the first captured transaction: about 70 MB.
const ROWS: u64 = 150_000;
const TRANSACTIONS: u64 = 6_000;
/// Transactions in one segment as shipped: a second of an application with 50 commits a second.
const PER_SEGMENT: usize = 50;

const CODECS: [(&str, Codec); 6] = [
    ("stored", Codec::Stored),
    ("LZ4", Codec::Lz4),
    ("zstd -1", Codec::Zstd { level: -1 }),
    ("zstd 1", Codec::Zstd { level: 1 }),
    ("zstd 3", Codec::Zstd { level: 3 }),
    ("zstd 6", Codec::Zstd { level: 6 }),
];

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Small numbers often, large ones rarely, as words in a language.
    fn skewed(&mut self, limit: u64) -> u64 {
        let (a, b) = (self.below(limit), self.below(limit));
        a * b / limit
    }

    fn word(&mut self) -> String {
        const SYLLABLES: [&str; 24] = [
            "an", "ber", "co", "den", "el", "fi", "gra", "hin", "is", "jo", "ka", "len", "mor", "ne", "or", "pa",
            "qui", "ra", "ster", "ti", "un", "ver", "wo", "zu",
        ];
        let mut number = self.skewed(8_000);
        let mut word = String::new();
        loop {
            word.push_str(SYLLABLES[(number % 24) as usize]);
            number /= 24;
            if number == 0 {
                return word;
            }
        }
    }

    fn text(&mut self, words: u64) -> String {
        (0..words).map(|_| self.word()).collect::<Vec<_>>().join(" ")
    }

    fn blob(&mut self, length: u64) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// A shop's orders: numbers, times, names, JSON, free text, and a thumbnail in every eighth row.
fn insert(statement: &mut rusqlite::CachedStatement<'_>, random: &mut Random, row: u64) -> rusqlite::Result<()> {
    let body = format!(
        r#"{{"sku":"{:06}","quantity":{},"colour":"{}","paid":{}}}"#,
        random.skewed(40_000),
        1 + random.skewed(9),
        random.word(),
        random.below(2) == 0
    );
    let mail = format!("{}.{}@{}.example", random.word(), random.word(), random.word());
    let words = 5 + random.skewed(60);
    let note = random.text(words);
    let size = 300 + random.below(900);
    let thumbnail = if random.below(8) == 0 { Some(random.blob(size)) } else { None };
    let (price, time) = (random.skewed(100_000), 1_700_000_000_000 + row * 731);
    statement.execute(rusqlite::params![mail, price as i64, time as i64, body, note, thumbnail]).map(|_| ())
}

fn build(path: &Path, random: &mut Random) -> rusqlite::Result<()> {
    const INSERT: &str =
        "insert into orders (mail, price, time, body, note, thumbnail) values (?1, ?2, ?3, ?4, ?5, ?6)";
    let mut db = rusqlite::Connection::open(path)?;
    db.execute_batch(
        "pragma page_size = 4096; pragma journal_mode = wal; pragma synchronous = off; pragma wal_autocheckpoint = 0;
         create table orders (id integer primary key, mail text, price int, time int, body text, note text, thumbnail blob);
         create index by_mail on orders (mail); create index by_time on orders (time);",
    )?;
    let load = db.transaction()?;
    for row in 0..ROWS {
        insert(&mut load.prepare_cached(INSERT)?, random, row)?;
    }
    load.commit()?;
    db.query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(()))?;
    // 60 % inserts, 35 % updates, 5 % deletes, one to four of them in a transaction.
    for number in 0..TRANSACTIONS {
        let tx = db.transaction()?;
        for _ in 0..=random.skewed(4) {
            let id = random.below(ROWS) as i64;
            match random.below(100) {
                0..60 => insert(&mut tx.prepare_cached(INSERT)?, random, ROWS + number)?,
                60..95 => {
                    let (price, note) = (random.skewed(100_000) as i64, random.text(12));
                    tx.prepare_cached("update orders set price = ?2, note = ?3 where id = ?1")?
                        .execute(rusqlite::params![id, price, note])?;
                }
                _ => {
                    tx.prepare_cached("delete from orders where id = ?1")?.execute([id])?;
                }
            }
        }
        tx.commit()?;
    }
    // Left as they are: the main file as of the load, every transaction in the WAL.
    std::mem::forget(db);
    Ok(())
}

/// One transaction as captured: sparse extents and page hashes.
struct Transaction {
    extents: Vec<(u64, Vec<u8>)>,
    pages: Vec<(u64, u64)>,
    length: u64,
}

/// The bytes of `new` that differ from `old`; unchanged stretches shorter than 8 bytes do not end a run.
fn changed(old: &[u8], new: &[u8], offset: u64, out: &mut Vec<(u64, Vec<u8>)>) {
    let different: Vec<usize> = (0..new.len()).filter(|&at| old[at] != new[at]).collect();
    if different.len() * 10 > new.len() * 6 {
        return out.push((offset, new.to_vec()));
    }
    for run in different.chunk_by(|a, b| b - a <= 8) {
        let (start, end) = (run[0], run[run.len() - 1] + 1);
        out.push((offset + start as u64, new[start..end].to_vec()));
    }
}

/// Reads the WAL that `build` left, which is all of one generation, against the main file.
fn transactions(main: &[u8], wal: &[u8]) -> Vec<Transaction> {
    let mut pages: HashMap<u64, &[u8]> = HashMap::new();
    let (mut all, mut newest) = (Vec::new(), HashMap::new());
    for frame in wal[32..].chunks_exact(24 + PAGE) {
        let number = |at: usize| u64::from(u32::from_be_bytes(frame[at..at + 4].try_into().expect("four bytes")));
        newest.insert(number(0) - 1, &frame[24..]);
        if number(4) == 0 {
            continue;
        }
        let mut tx = Transaction { extents: Vec::new(), pages: Vec::new(), length: number(4) * PAGE as u64 };
        let mut touched: Vec<(u64, &[u8])> = newest.drain().collect();
        touched.sort_by_key(|&(page, _)| page);
        for (page, data) in touched {
            let at = page as usize * PAGE;
            let old = pages.get(&page).copied().or_else(|| main.get(at..at + PAGE)).unwrap_or(&[0; PAGE]);
            changed(old, data, at as u64, &mut tx.extents);
            tx.pages.push((page, page_hash(page, data)));
            pages.insert(page, data);
        }
        all.push(tx);
    }
    all
}

fn segment(all: &[Transaction], codec: Codec, level: u8) -> Bytes {
    let grid = PageGrid::new(0, PAGE as u32).expect("a grid");
    let header = SegmentHeader {
        generation: Generation(1),
        term: Term(1),
        engine: EngineKind::Sqlite,
        level: Level(level),
        grid,
        first: Txid(1),
        checksum_before: 0,
    };
    let mut writer = SegmentWriter::new(Cursor::new(Vec::new()), header, codec).expect("a writer");
    for (number, tx) in all.iter().enumerate() {
        let number = number as u64;
        writer.begin_transaction().expect("begins");
        for &(page, hash) in &tx.pages {
            writer.page(page, hash).expect("fits");
        }
        for (offset, data) in &tx.extents {
            writer.extent(Extent { file: FileId::Main, offset: *offset, data }).expect("fits");
        }
        let commit = Commit {
            txid: Txid(number + 1),
            time: TimeMs(1_700_000_000_000 + number * 20),
            lengths: Lengths { main: tx.length, wal: 0 },
            checksum: Random(number).next(),
            kind: CommitKind::Captured,
            grid,
        };
        // As long as SQLite's position, most of which is the same from commit to commit.
        writer.commit(&commit, &[number.to_le_bytes(); 12].concat()).expect("commits");
    }
    writer.finish().expect("finishes");
    Bytes::from(writer.into_file().into_inner())
}

/// What is encoded, one object at a time.
enum Subject<'a> {
    Segments { of: Vec<&'a [Transaction]>, level: u8 },
    Parts { main: &'a [u8] },
}

impl Subject<'_> {
    fn encode(&self, codec: Codec) -> Vec<(Option<PartRef>, Bytes)> {
        match self {
            Subject::Segments { of, level } => of.iter().map(|all| (None, segment(all, codec, *level))).collect(),
            Subject::Parts { main } => {
                let slices = main.chunks(SNAPSHOT_SLICE_BYTES as usize).enumerate();
                slices.map(|(number, slice)| part(number as u64 * SNAPSHOT_SLICE_BYTES, slice, codec)).collect()
            }
        }
    }
}

fn part(start: u64, slice: &[u8], codec: Codec) -> (Option<PartRef>, Bytes) {
    let mut writer = PartWriter::new(FileId::Main, start, codec).expect("a writer");
    for (page, data) in slice.chunks(PAGE).enumerate() {
        let offset = start + (page * PAGE) as u64;
        writer.extent(Extent { file: FileId::Main, offset, data }).expect("in order");
    }
    let (part, object) = writer.finish(start + slice.len() as u64).expect("finishes");
    (Some(part), object)
}

fn decode(objects: &[(Option<PartRef>, Bytes)]) -> u64 {
    let mut bytes = 0;
    for (part, object) in objects {
        if let Some(part) = part {
            let count = |extent: Extent<'_>| {
                bytes += extent.data.len() as u64;
                Ok(())
            };
            decode_part(object, part, count).expect("whole");
        } else {
            let reader = SegmentReader::open(object.clone()).expect("whole");
            for block in reader.blocks() {
                bytes += block.expect("whole").ops().map(|op| op.map_or(0, |_| 1)).sum::<u64>();
            }
        }
    }
    bytes
}

fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on every Linux, and `time` is a valid place for its answer.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(failed, 0, "no CPU clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The least of three runs.
fn cpu<T>(mut work: impl FnMut() -> T) -> (Duration, T) {
    let mut run = || {
        let start = cpu_time();
        let value = black_box(work());
        (cpu_time() - start, value)
    };
    let runs = [run(), run(), run()];
    runs.into_iter().min_by_key(|(time, _)| *time).expect("three runs")
}

fn table(name: &str, raw: u64, subject: &Subject<'_>) {
    println!("\n{name}: {:.1} MB before compression\n", raw as f64 / 1e6);
    println!("| codec | bytes (MB) | ratio | encode CPU (ms) | decode CPU (ms) | encode MB/s | decode MB/s |");
    println!("|---|---|---|---|---|---|---|");
    for (name, codec) in CODECS {
        let (encode, objects) = cpu(|| subject.encode(codec));
        let (decode, _) = cpu(|| decode(&objects));
        let bytes: usize = objects.iter().map(|(_, object)| object.len()).sum();
        let speed = |time: Duration| raw as f64 / 1e6 / time.as_secs_f64();
        println!(
            "| {name} | {:.2} | {:.2} | {:.0} | {:.0} | {:.0} | {:.0} |",
            bytes as f64 / 1e6,
            raw as f64 / bytes as f64,
            encode.as_secs_f64() * 1e3,
            decode.as_secs_f64() * 1e3,
            speed(encode),
            speed(decode)
        );
    }
}

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("orders.db");
    build(&path, &mut Random(SEED)).expect("a database");
    let main = std::fs::read(&path).expect("the main file");
    let wal = std::fs::read(folder.path().join("orders.db-wal")).expect("the WAL");
    let all = transactions(&main, &wal);
    let raw: u64 = all.iter().flat_map(|tx| &tx.extents).map(|(_, data)| data.len() as u64).sum();
    println!(
        "seed {SEED}: {} transactions, {:.1} MB of WAL, {:.1} MB of database",
        all.len(),
        wal.len() as f64 / 1e6,
        main.len() as f64 / 1e6
    );

    let subjects = [
        (
            format!("deltas ({PER_SEGMENT} commits in each segment)"),
            raw,
            Subject::Segments { of: all.chunks(PER_SEGMENT).collect(), level: 0 },
        ),
        ("joined (all commits in one segment)".to_owned(), raw, Subject::Segments { of: vec![&all], level: 1 }),
        ("parts (4 MiB each)".to_owned(), main.len() as u64, Subject::Parts { main: &main }),
    ];
    if std::env::args().all(|argument| argument != "--test") {
        subjects.iter().for_each(|(name, raw, subject)| table(name, *raw, subject));
    }

    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let chosen = [Codec::for_deltas(), Codec::for_joined(), Codec::for_parts()];
    for ((name, raw, subject), codec) in subjects.iter().zip(chosen) {
        let mut group = criterion.benchmark_group(name.split(' ').next().unwrap_or(name));
        group.throughput(Throughput::Bytes(*raw));
        group.bench_function(BenchmarkId::new("encode", format!("{codec:?}")), |b| b.iter(|| subject.encode(codec)));
        let objects = subject.encode(codec);
        group.bench_function(BenchmarkId::new("decode", format!("{codec:?}")), |b| b.iter(|| decode(&objects)));
        group.finish();
    }
    criterion.final_summary();
}
