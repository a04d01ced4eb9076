//! Names in a store and in the spool: the only place that makes and reads them.
//!
//! ```text
//! replicate.json                                        what this is; checked before anything
//! <generation>/term/<term>                              the claim of a writer
//! <generation>/<level>/<first>-<last>-<term>-<ms>.seg   segment of commits first..=last; ms = time of the last
//! <generation>/part/<hash>.seg                          part of snapshots, named by its content
//! <generation>/snapshot/<txid>-<term>-<ms>.seg          the list of parts; without it the snapshot does not exist
//! <generation>/file/<sha256>.seg                        blob: content of included files, named by its SHA-256
//! <generation>/files/<txid>-<term>-<ms>-<hash>.json     the included files as they were at ms, at or after commit txid
//! <generation>/prune/<ms>.json                          what is to be deleted, and what was; made at ms
//! label/<name>/{created,verified,retired}.json          a name for a commit, and what became of it
//! drill/<ms>-{passed,failed}-<hash>.json                what a drill came to; begun at ms
//! ```

use std::fmt;
use std::str::FromStr;

use crate::position::{Generation, ParseError, Term, TimeMs, Txid};
use crate::store::Key;

/// The format marker of a replica.
pub const MARKER: &str = "replicate.json";

/// Level of a segment: 0 as shipped, 1 joined, 2 and 3 merged over an hour and a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(pub u8);

impl Level {
    pub const MAX: Level = Level(3);
}

/// The name of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    pub generation: Generation,
    pub level: Level,
    pub first: Txid,
    pub last: Txid,
    pub term: Term,
    /// Time of the last commit.
    pub time: TimeMs,
}

/// The name of a snapshot: exact from `txid` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotName {
    pub generation: Generation,
    pub txid: Txid,
    pub term: Term,
    /// Time of the commit `txid`.
    pub time: TimeMs,
}

/// Hash of a part's content (XXH3-128 of offset, length and bytes; `segment::snapshot`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartHash(pub u128);

/// SHA-256 of the content of an included file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobHash(pub [u8; 32]);

impl fmt::Display for BlobHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BlobHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobHash({self})")
    }
}

impl FromStr for BlobHash {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<BlobHash, ParseError> {
        let error =
            || ParseError { expected: "a SHA-256 (64 hexadecimal digits)", found: text.chars().take(80).collect() };
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 64 || !text.bytes().all(lower_hex) {
            return Err(error());
        }
        let mut hash = [0; 32];
        for (at, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| error())?;
        }
        Ok(BlobHash(hash))
    }
}

/// The name of a file set. The order is that in which they count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileSetName {
    pub generation: Generation,
    /// The newest captured commit when the files were looked at.
    pub txid: Txid,
    pub term: Term,
    /// When they were looked at; later than every set before it.
    pub time: TimeMs,
    /// XXH3-64 of the object's bytes: what is read is what was written.
    pub hash: u64,
}

/// Any name in a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectName {
    Marker,
    Term {
        generation: Generation,
        term: Term,
    },
    Segment(SegmentName),
    Part {
        generation: Generation,
        hash: PartHash,
    },
    Snapshot(SnapshotName),
    /// What somebody is about to prune in this generation, and which commits were. Readers need it for nothing but telling
    /// what was pruned from what was lost.
    Mark {
        generation: Generation,
        time: TimeMs,
    },
    /// What a drill came to.
    Drill(DrillName),
    /// The content of an included file.
    Blob {
        generation: Generation,
        hash: BlobHash,
    },
    FileSet(FileSetName),
}

/// The name of the record of a drill. A listing alone tells when the last one passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DrillName {
    /// When it began.
    pub time: TimeMs,
    pub passed: bool,
    /// XXH3-64 of the record's bytes: what is read is what was written.
    pub hash: u64,
}

impl ObjectName {
    pub fn key(&self) -> Key {
        let text = match self {
            ObjectName::Marker => MARKER.to_owned(),
            ObjectName::Term { generation, term } => format!("{generation}/term/{term}"),
            ObjectName::Segment(s) => {
                format!("{}{}-{}-{}-{}.seg", level_folder(s.generation, s.level), s.first, s.last, s.term, s.time)
            }
            ObjectName::Part { generation, hash } => format!("{generation}/part/{:032x}.seg", hash.0),
            ObjectName::Snapshot(s) => {
                format!("{}{}-{}-{}.seg", snapshot_folder(s.generation), s.txid, s.term, s.time)
            }
            ObjectName::Mark { generation, time } => format!("{}{time}.json", mark_folder(*generation)),
            ObjectName::Drill(drill) => {
                let outcome = if drill.passed { "passed" } else { "failed" };
                format!("{DRILL_FOLDER}{}-{outcome}-{:016x}.json", drill.time, drill.hash)
            }
            ObjectName::Blob { generation, hash } => format!("{}{hash}.seg", blob_folder(*generation)),
            ObjectName::FileSet(s) => {
                format!("{}{}-{}-{}-{:016x}.json", file_set_folder(s.generation), s.txid, s.term, s.time, s.hash)
            }
        };
        Key::new(text).expect("our own names are valid keys")
    }

    /// `None` for a name that this version does not know: a reader must not guess what it holds.
    pub fn parse(text: &str) -> Option<ObjectName> {
        if text == MARKER {
            return Some(ObjectName::Marker);
        }
        let name = match text.strip_prefix(DRILL_FOLDER) {
            Some(file) => ObjectName::Drill(parse_drill(file)?),
            None => ObjectName::parse_in_generation(text)?,
        };
        // One value, one name: anything that does not print back the same is not ours.
        (name.key().as_str() == text).then_some(name)
    }

    fn parse_in_generation(text: &str) -> Option<ObjectName> {
        let mut parts = text.split('/');
        let (generation, folder, file) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
        Some(match (folder, parts.next()) {
            (_, Some(_)) => return None,
            ("term", None) => ObjectName::Term { generation, term: file.parse().ok()? },
            ("part", None) => ObjectName::Part { generation, hash: parse_part_hash(file)? },
            ("prune", None) => ObjectName::Mark { generation, time: file.strip_suffix(".json")?.parse().ok()? },
            ("snapshot", None) => parse_snapshot(generation, file)?,
            ("file", None) => ObjectName::Blob { generation, hash: file.strip_suffix(".seg")?.parse().ok()? },
            ("files", None) => parse_file_set(generation, file)?,
            (level, None) => parse_segment(generation, level, file)?,
        })
    }
}

fn parse_drill(file: &str) -> Option<DrillName> {
    let mut fields = file.strip_suffix(".json")?.splitn(3, '-');
    let (time, outcome, hash) = (fields.next()?.parse().ok()?, fields.next()?, fields.next()?);
    let passed = [("passed", true), ("failed", false)].into_iter().find(|(word, _)| *word == outcome)?.1;
    Some(DrillName { time, passed, hash: u64::from_str_radix(hash, 16).ok()? })
}

fn parse_part_hash(file: &str) -> Option<PartHash> {
    let digits = file.strip_suffix(".seg")?;
    (digits.len() == 32).then(|| u128::from_str_radix(digits, 16).ok().map(PartHash))?
}

fn parse_snapshot(generation: Generation, file: &str) -> Option<ObjectName> {
    let mut fields = file.strip_suffix(".seg")?.split('-');
    let (txid, term, time) = (fields.next()?, fields.next()?, fields.next()?);
    let name =
        SnapshotName { generation, txid: txid.parse().ok()?, term: term.parse().ok()?, time: time.parse().ok()? };
    Some(ObjectName::Snapshot(name))
}

fn parse_file_set(generation: Generation, file: &str) -> Option<ObjectName> {
    let mut fields = file.strip_suffix(".json")?.splitn(4, '-');
    let (txid, term, time, hash) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let (txid, term, time) = (txid.parse().ok()?, term.parse().ok()?, time.parse().ok()?);
    let name = FileSetName { generation, txid, term, time, hash: u64::from_str_radix(hash, 16).ok()? };
    Some(ObjectName::FileSet(name))
}

fn parse_segment(generation: Generation, level: &str, file: &str) -> Option<ObjectName> {
    let level = Level(level.parse().ok()?);
    let mut fields = file.strip_suffix(".seg")?.split('-');
    let (first, last, term, time) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let name = SegmentName {
        generation,
        level,
        first: first.parse().ok()?,
        last: last.parse().ok()?,
        term: term.parse().ok()?,
        time: time.parse().ok()?,
    };
    let good = level <= Level::MAX && name.first > Txid::ZERO && name.first <= name.last;
    good.then_some(ObjectName::Segment(name))
}

/// The folder of the records of all drills.
pub const DRILL_FOLDER: &str = "drill/";

/// The folder of all labels.
pub const LABEL_FOLDER: &str = "label/";
/// Characters of a label's name.
const MAX_LABEL_NAME: usize = 100;

/// The name of a label: lower-case letters, digits, `.`, `_` and `-`, not beginning with `.`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelName(String);

/// What became of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelEvent {
    Created,
    Verified,
    Retired,
}

impl LabelEvent {
    const ALL: [(LabelEvent, &str); 3] = [
        (LabelEvent::Created, "created.json"),
        (LabelEvent::Verified, "verified.json"),
        (LabelEvent::Retired, "retired.json"),
    ];
}

impl LabelName {
    pub fn key(&self, event: LabelEvent) -> Key {
        let file = LabelEvent::ALL.iter().find(|(one, _)| *one == event).map_or("", |(_, file)| file);
        Key::new(format!("{LABEL_FOLDER}{}/{file}", self.0)).expect("our own names are valid keys")
    }

    /// `None` for what is no object of a label.
    pub fn parse_key(text: &str) -> Option<(LabelName, LabelEvent)> {
        let (name, file) = text.strip_prefix(LABEL_FOLDER)?.split_once('/')?;
        let (event, _) = LabelEvent::ALL.iter().find(|(_, known)| *known == file)?;
        Some((name.parse().ok()?, *event))
    }
}

impl FromStr for LabelName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<LabelName, ParseError> {
        let fits = (1..=MAX_LABEL_NAME).contains(&text.len()) && !text.starts_with('.');
        if fits && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte))
        {
            return Ok(LabelName(text.to_owned()));
        }
        let expected =
            "the name of a label (1 to 100 lower-case letters, digits, '.', '_' and '-', not beginning with '.')";
        Err(ParseError { expected, found: text.chars().take(120).collect() })
    }
}

impl fmt::Display for LabelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The folder of everything in a generation, with its slash.
pub fn generation_folder(generation: Generation) -> String {
    format!("{generation}/")
}

pub fn level_folder(generation: Generation, level: Level) -> String {
    format!("{generation}/{}/", level.0)
}

pub fn term_folder(generation: Generation) -> String {
    format!("{generation}/term/")
}

pub fn snapshot_folder(generation: Generation) -> String {
    format!("{generation}/snapshot/")
}

pub fn part_folder(generation: Generation) -> String {
    format!("{generation}/part/")
}

pub fn blob_folder(generation: Generation) -> String {
    format!("{generation}/file/")
}

pub fn file_set_folder(generation: Generation) -> String {
    format!("{generation}/files/")
}

pub fn mark_folder(generation: Generation) -> String {
    format!("{generation}/prune/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every name reads back as the value it was made from.
        #[test]
        fn names_round_trip(g in any::<u64>(), t in any::<u32>(), a in 1u64.., b in 0u64..1000, ms in 0u64..(1 << 48),
                            level in 0u8..=3, hash in any::<u128>()) {
            let (generation, term, time) = (Generation(g), Term(t), TimeMs(ms));
            let (first, last) = (Txid(a), Txid(a.saturating_add(b)));
            for name in [
                ObjectName::Marker,
                ObjectName::Term { generation, term },
                ObjectName::Segment(SegmentName { generation, level: Level(level), first, last, term, time }),
                ObjectName::Part { generation, hash: PartHash(hash) },
                ObjectName::Snapshot(SnapshotName { generation, txid: first, term, time }),
                ObjectName::Mark { generation, time },
                ObjectName::Drill(DrillName { time, passed: t % 2 == 0, hash: g }),
                ObjectName::Blob { generation, hash: BlobHash([hash as u8; 32]) },
                ObjectName::FileSet(FileSetName { generation, txid: first, term, time, hash: a }),
            ] {
                prop_assert_eq!(ObjectName::parse(name.key().as_str()), Some(name));
            }
        }

        /// No text makes the parser panic, and what it takes prints back the same.
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-f/.+-]{0,90}|drill/[0-9a-f]{12}-(passed|failed)-[0-9a-f]{16}[.json]{5}|.{0,40}") {
            if let Some(name) = ObjectName::parse(&text) {
                let key = name.key();
                prop_assert_eq!(key.as_str(), text.as_str());
            }
        }
    }
}
