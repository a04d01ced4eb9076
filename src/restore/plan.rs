//! What a restore is going to do, as data that `--dry-run` prints.

use std::fmt;

use serde_json::{Value, json};

use crate::engine::EngineKind;
use crate::inventory::Listed;
use crate::layout::{ObjectName, SegmentName, SnapshotName};
use crate::position::{Commit, CommitKind, Generation, RepairReason, Txid};
use crate::restore::point::format_time;
use crate::segment::{Layers, PartRef};

/// A snapshot, what leads from it to one commit, and that commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePlan {
    /// The replica's URL, without secrets.
    pub source: String,
    pub engine: EngineKind,
    pub generation: Generation,
    pub snapshot: Listed<SnapshotName>,
    /// The copy behind the snapshot began here: what came after is laid over its parts.
    pub base: Txid,
    /// The commit at which the snapshot is exact.
    pub snapshot_commit: Commit,
    pub parts: Vec<PartRef>,
    /// What is laid over them before any segment.
    pub layers: Layers,
    /// In order, each joined to the one before it. Only the transactions after `base` and up to `commit` count.
    pub segments: Vec<Listed<SegmentName>>,
    /// Where it stops.
    pub commit: Commit,
    /// What somebody who asked for this point should know.
    pub notes: Vec<String>,
}

impl RestorePlan {
    /// Bytes that will be fetched.
    pub fn fetch_bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.size).fold(self.snapshot_bytes(), u64::saturating_add)
    }

    /// Bytes that will be fetched of the snapshot.
    fn snapshot_bytes(&self) -> u64 {
        let parts = self.parts.iter().map(|part| part.stored_len);
        parts.chain(self.layers.patches.iter().map(|patch| patch.stored_len)).fold(0, u64::saturating_add)
    }

    /// Bytes of the restored files.
    pub fn target_bytes(&self) -> u64 {
        self.commit.lengths.main.saturating_add(self.commit.lengths.wal)
    }

    pub fn to_json(&self) -> Value {
        json!({
            "source": self.source,
            "engine": self.engine.to_string(),
            "generation": self.generation.to_string(),
            "commit": commit_json(&self.commit),
            "snapshot": {
                "object": ObjectName::Snapshot(self.snapshot.name).key().as_str(),
                "base": self.base.0,
                "txid": self.snapshot.name.txid.0,
                "time": format_time(self.snapshot.name.time),
                "parts": self.parts.len(),
                "patches": self.layers.patches.len(),
            },
            "segments": self.segments.iter().map(|s| json!({
                "object": ObjectName::Segment(s.name).key().as_str(),
                "bytes": s.size,
            })).collect::<Vec<_>>(),
            "fetch_bytes": self.fetch_bytes(),
            "target_bytes": self.target_bytes(),
            "notes": self.notes,
        })
    }
}

impl fmt::Display for RestorePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let segment_bytes: u64 = self.segments.iter().map(|s| s.size).fold(0, u64::saturating_add);
        writeln!(f, "from       {} ({})", self.source, self.engine)?;
        writeln!(f, "generation {}", self.generation)?;
        writeln!(f, "commit     txid:{} of {}", self.commit.txid.0, format_time(self.commit.time))?;
        writeln!(f, "size       {} bytes, checksum {:016x}", self.target_bytes(), self.commit.checksum)?;
        writeln!(
            f,
            "snapshot   txid:{} of {}: {} parts, {} patches, {} bytes",
            self.snapshot.name.txid.0,
            format_time(self.snapshot.name.time),
            self.parts.len(),
            self.layers.patches.len(),
            self.snapshot_bytes(),
        )?;
        write!(f, "segments   {}, {segment_bytes} bytes", self.segments.len())?;
        if let (Some(first), Some(last)) = (self.segments.first(), self.segments.last()) {
            write!(f, ", from txid:{} to txid:{}", first.name.first.0, last.name.last.0)?;
        }
        for note in &self.notes {
            write!(f, "\nnote       {note}")?;
        }
        Ok(())
    }
}

/// A commit as every command with `--json` prints it.
pub fn commit_json(commit: &Commit) -> Value {
    json!({
        "txid": commit.txid.0,
        "time": format_time(commit.time),
        "bytes": commit.lengths.main,
        "wal_bytes": commit.lengths.wal,
        "checksum": format!("{:016x}", commit.checksum),
        "kind": kind_word(commit.kind),
        "reason": reason(commit.kind),
    })
}

/// The word for a kind of commit.
pub fn kind_word(kind: CommitKind) -> &'static str {
    match kind {
        CommitKind::Captured => "captured",
        CommitKind::Initial => "initial",
        CommitKind::Repair(_) => "repair",
    }
}

/// Why single commits before this one are missing, for a repair.
pub fn reason(kind: CommitKind) -> Option<&'static str> {
    let CommitKind::Repair(reason) = kind else { return None };
    Some(match reason {
        RepairReason::Away => "the replicator was not running and log was discarded meanwhile",
        RepairReason::LogDiscarded => "log was discarded before it was captured",
        RepairReason::FileReplaced => "the file was replaced or rewritten with another page size",
        RepairReason::ReplicaAhead => "the replica held commits that the database no longer had",
        RepairReason::SpoolFull => "the spool was full",
    })
}
