//! Proving that a replica can be restored: from its names and tables, or by reading and recomputing everything.
//!
//! | file | holds |
//! |---|---|
//! | `walk.rs` | every segment read, and the database checksum followed from commit to commit |
//! | `parts.rs` | the parts of every snapshot against its page map |
//! | `sample.rs` | which objects are read when not all are |
//! | `sets.rs` | file sets, and the content of their files |
//! | `records.rs` | claims, marks, records of drills, and labels |
//!
//! A replica may grow and be pruned meanwhile: what is written after the listing is not looked at, and an object that is gone
//! when it is asked for counts as missing only while it is still listed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::inventory::{Inventory, Listed, Moment};
use crate::layout::{ObjectName, SnapshotName};
use crate::position::{Generation, TimeMs, Txid};
use crate::restore::point::format_time;
use crate::restore::{Fault, Progress, Reading, RestoreError, no_object};
use crate::segment::Manifest;
use crate::store::Key;

mod parts;
mod records;
pub mod sample;
mod sets;
mod walk;

use sample::Sample;

/// How to verify.
#[derive(Debug, Clone)]
pub struct Verification {
    /// Read and recompute everything.
    pub deep: bool,
    /// Of what `deep` reads, only this.
    pub sample: Option<Sample>,
    /// The newest commit must not be older than this, where the caller knows that the database changes that often.
    pub max_age: Option<Duration>,
    /// The caller knows that everything up to here was shipped.
    pub shipped: Option<(Generation, Txid)>,
    /// Requests at a time.
    pub jobs: usize,
    pub now: TimeMs,
    pub progress: Arc<dyn Progress>,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub generation: Option<Generation>,
    /// The object at fault, where there is one.
    pub object: Option<Key>,
    pub problem: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.object, self.generation) {
            (Some(object), _) => write!(f, "{object}: {}", self.problem),
            (None, Some(generation)) => write!(f, "generation {generation}: {}", self.problem),
            (None, None) => f.write_str(&self.problem),
        }
    }
}

/// What was looked at and what was found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub findings: Vec<Finding>,
    /// What is worth knowing and not wrong.
    pub notes: Vec<String>,
    pub generations: u64,
    pub snapshots: u64,
    pub segments: u64,
    pub parts: u64,
    pub file_sets: u64,
    pub blobs: u64,
    pub commits: u64,
    pub read_bytes: u64,
    pub newest: Option<(Generation, Moment)>,
}

impl Report {
    pub fn to_json(&self, deep: bool, sample: Option<Sample>) -> Value {
        json!({
            "sound": self.findings.is_empty(),
            "deep": deep,
            "sample": sample.map(|sample| json!({
                "percent": f64::from(sample.share) / 100.0, "day": sample.day, "days": sample.days(),
            })),
            "findings": self.findings.iter().map(|finding| json!({
                "generation": finding.generation.map(|g| g.to_string()),
                "object": finding.object.as_ref().map(Key::as_str),
                "problem": finding.problem,
            })).collect::<Vec<_>>(),
            "notes": self.notes,
            "generations": self.generations,
            "snapshots": self.snapshots,
            "segments": self.segments,
            "parts": self.parts,
            "file_sets": self.file_sets,
            "blobs": self.blobs,
            "commits": self.commits,
            "read_bytes": self.read_bytes,
            "newest": self.newest.map(|(generation, moment)| json!({
                "generation": generation.to_string(),
                "txid": moment.txid.0,
                "time": format_time(moment.time),
            })),
        })
    }
}

/// Verifies one replica.
pub async fn verify(reading: &Reading, how: &Verification) -> Result<Report, RestoreError> {
    let mut verifier = Verifier { reading, how, report: Report::default(), unproven: Vec::new() };
    let generations = reading.generations().await.map_err(no_object)?;
    match reading.proven_marker().await {
        Ok(Some((_, is_proven))) => verifier.tell_unproven(ObjectName::Marker.key(), is_proven),
        Ok(None) if generations.is_empty() => {
            return Err(RestoreError::Nothing(format!("there is no replica in {}", reading.describe())));
        }
        Ok(None) => verifier.find(None, Some(ObjectName::Marker.key()), "is missing"),
        Err(fault) => verifier.fault(None, fault).await?,
    }
    for &generation in &generations {
        verifier.generation(generation, generations.last() == Some(&generation)).await?;
    }
    verifier.records().await?;
    verifier.end();
    Ok(verifier.report)
}

struct Verifier<'a> {
    reading: &'a Reading,
    how: &'a Verification,
    report: Report,
    /// Objects that were written before they carried checksums of their own.
    unproven: Vec<Key>,
}

/// A snapshot whose manifest could be read.
struct Known {
    snapshot: Listed<SnapshotName>,
    manifest: Manifest,
}

impl Verifier<'_> {
    /// Is this object read, when everything, or a part of it, is?
    fn is_chosen(&self, key: &Key) -> bool {
        self.how.sample.is_none_or(|sample| sample.holds(key))
    }

    fn find(&mut self, generation: Option<Generation>, object: Option<Key>, problem: impl fmt::Display) {
        let finding = Finding { generation, object, problem: problem.to_string() };
        if !self.report.findings.contains(&finding) {
            self.report.findings.push(finding);
        }
    }

    /// A fault of an object is a finding, unless the object was pruned meanwhile; any other ends the verification.
    async fn fault(&mut self, generation: Option<Generation>, fault: Fault) -> Result<(), RestoreError> {
        match fault {
            Fault::Object { object, problem } => {
                let listed = self.reading.is_listed(&object).await.map_err(no_object)?;
                let is_part = matches!(ObjectName::parse(object.as_str()), Some(ObjectName::Part { .. }));
                match listed || is_part {
                    true => self.find(generation, Some(object), problem),
                    false => self.report.notes.push(format!("{object} was removed meanwhile")),
                }
                Ok(())
            }
            Fault::Result(problem) => {
                self.find(generation, None, problem);
                Ok(())
            }
            fault => Err(no_object(fault)),
        }
    }

    async fn generation(&mut self, generation: Generation, is_newest: bool) -> Result<(), RestoreError> {
        let inventory = self.reading.inventory(generation).await.map_err(no_object)?;
        self.report.generations += 1;
        self.report.snapshots += inventory.snapshots.len() as u64;
        self.report.segments += inventory.segments.len() as u64;
        self.names(&inventory, is_newest).await?;
        let snapshots = self.snapshots(&inventory).await?;
        self.listed_parts(generation, &snapshots).await?;
        self.file_sets(&inventory).await?;
        self.claims_and_marks(&inventory).await?;
        match self.how.deep {
            true => {
                self.walk(&inventory, &snapshots).await?;
                self.parts(&inventory, &snapshots).await?;
            }
            false => self.newest_index(&inventory).await?,
        }
        if let Some(newest) = inventory.newest {
            self.report.newest = Some((generation, newest));
        }
        Ok(())
    }

    /// What names alone tell.
    async fn names(&mut self, inventory: &Inventory, is_newest: bool) -> Result<(), RestoreError> {
        let generation = Some(inventory.generation);
        let gaps = self.reading.gaps(inventory).await.map_err(no_object)?;
        if !gaps.pruned.is_empty() {
            let (count, generation) = (gaps.pruned.len(), inventory.generation);
            self.report.notes.push(format!("generation {generation}: {count} stretches of its history were pruned"));
        }
        for gap in gaps.lost {
            let (first, last) = (gap.first.0, gap.last.0);
            self.find(generation, None, format_args!("no segment holds the commits txid:{first} to txid:{last}"));
        }
        if inventory.snapshots.is_empty() {
            let which = if is_newest { "yet; it cannot be restored so far" } else { "; it never could be restored" };
            self.report.notes.push(format!("generation {} has no whole snapshot {which}", inventory.generation));
        }
        for object in &inventory.unknown {
            self.report.notes.push(format!("{} is no name of ours", object.key));
        }
        let dead = inventory.dead_segments.len() + inventory.dead_snapshots.len();
        if dead > 0 {
            let text = format!("generation {}: {dead} objects of dead terms are ignored", inventory.generation);
            self.report.notes.push(text);
        }
        Ok(())
    }

    /// Every snapshot must be readable and lead to its own commit.
    async fn snapshots(&mut self, inventory: &Inventory) -> Result<Vec<Known>, RestoreError> {
        let mut known = Vec::new();
        for snapshot in &inventory.snapshots {
            match self.reading.manifest(snapshot).await {
                Ok(manifest) => {
                    if let Err(gap) = inventory.chain(manifest.base, snapshot.name.txid) {
                        let key = ObjectName::Snapshot(snapshot.name).key();
                        let (first, last) = (gap.first.0, gap.last.0);
                        let problem = format!("cannot be made exact: no segment holds txid:{first} to txid:{last}");
                        self.find(Some(inventory.generation), Some(key), problem);
                    }
                    known.push(Known { snapshot: *snapshot, manifest });
                }
                Err(fault) => self.fault(Some(inventory.generation), fault).await?,
            }
        }
        Ok(known)
    }

    /// Every part that a snapshot names must be listed with its size. The listing comes after the manifests, so that parts put
    /// meanwhile are in it.
    async fn listed_parts(&mut self, generation: Generation, snapshots: &[Known]) -> Result<(), RestoreError> {
        let listing = self.reading.parts(generation).await.map_err(no_object)?;
        let sizes: BTreeMap<Key, u64> = listing.into_iter().map(|object| (object.key, object.size)).collect();
        let mut seen = BTreeSet::new();
        for Known { snapshot, manifest } in snapshots {
            let mut wrong = Vec::new();
            for (hash, stored_len) in manifest.objects() {
                let key = ObjectName::Part { generation, hash }.key();
                let size = sizes.get(&key).copied();
                if seen.insert(hash) && size != Some(stored_len) {
                    wrong.push((key, size, hash));
                }
            }
            if wrong.is_empty() {
                continue;
            }
            let manifest_key = ObjectName::Snapshot(snapshot.name).key();
            if !self.reading.is_listed(&manifest_key).await.map_err(no_object)? {
                self.report.notes.push(format!("{manifest_key} was removed meanwhile"));
                continue;
            }
            for (key, size, hash) in wrong {
                let fault = match size {
                    None => Fault::object(&key, format_args!("is missing; {manifest_key} needs it")),
                    // The same content may have been put earlier, compressed in another way; only reading it tells.
                    Some(_) => match parts::prove_object(self.reading, manifest, hash).await {
                        Ok(()) => continue,
                        Err(fault) => fault,
                    },
                };
                self.fault(Some(generation), fault).await?;
            }
        }
        self.report.parts += seen.len() as u64;
        Ok(())
    }

    /// The end of the newest segment proves the newest commit.
    async fn newest_index(&mut self, inventory: &Inventory) -> Result<(), RestoreError> {
        let Some(newest) = inventory.segments.iter().max_by_key(|s| s.name.last) else { return Ok(()) };
        match self.reading.index(newest).await {
            Ok(index) => self.report.commits += index.commits.len() as u64,
            Err(fault) => self.fault(Some(inventory.generation), fault).await?,
        }
        Ok(())
    }

    /// What the caller knows from elsewhere; and what nobody can know.
    fn end(&mut self) {
        if self.how.deep
            && let Some(first) = self.unproven.first()
        {
            let text = "objects have no checksum of their own, because an earlier version wrote them: what they say is unproven";
            self.report.notes.push(format!(
                "{} {text} ({first}{})",
                self.unproven.len(),
                if self.unproven.len() > 1 { ", …" } else { "" }
            ));
        }
        let newest = self.report.newest;
        if let Some((generation, txid)) = self.how.shipped {
            let held = newest.map(|(held, moment)| (held, moment.txid));
            if held.is_none_or(|held| held < (generation, txid)) {
                let problem = format!("lost its end: everything up to {generation}/{} was shipped", txid.0);
                self.find(held.map(|held| held.0), None, problem);
            }
        }
        let Some(max_age) = self.how.max_age else { return };
        let age = newest.map(|(_, moment)| Duration::from_millis(self.how.now.0.saturating_sub(moment.time.0)));
        if age.is_none_or(|age| age > max_age) {
            let age = age.map_or("there is none".to_owned(), |age| format!("is {} s old", age.as_secs()));
            let problem = format!("the newest commit {age}; {} s are allowed", max_age.as_secs());
            self.find(newest.map(|(generation, _)| generation), None, problem);
        }
    }
}
