//! A checksum manifest: every object that a restore to one point needs, with its size and its SHA-256, so that a replica can be
//! audited by hand with tools that know nothing of it.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use crate::checksum::Sha256;
use crate::layout::ObjectName;
use crate::position::TimeMs;
use crate::restore::point::format_time;
use crate::restore::{
    Fault, KeptFiles, PIECE_BYTES, Progress, Reading, RestoreError, RestorePlan, commit_json, in_background, no_object,
};
use crate::store::Key;

/// The form of the JSON document.
const FORMAT: u32 = 1;

/// One object as it is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digested {
    pub key: Key,
    pub bytes: u64,
    pub sha256: [u8; 32],
}

impl Digested {
    pub fn sha256_hex(&self) -> String {
        self.sha256.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What a restore reads, as the checksum manifest lists it: in the order of the names.
#[derive(Debug, Clone)]
pub struct ChecksumManifest {
    pub plan: RestorePlan,
    /// The files that are restored with it, where they are asked for.
    pub files: Option<KeptFiles>,
    pub made: TimeMs,
    pub objects: Vec<Digested>,
}

impl ChecksumManifest {
    pub fn total_bytes(&self) -> u64 {
        self.objects.iter().map(|object| object.bytes).fold(0, u64::saturating_add)
    }

    pub fn to_json(&self) -> Value {
        let plan = &self.plan;
        json!({
            "format": FORMAT,
            "made": format_time(self.made),
            "source": plan.source,
            "engine": plan.engine.to_string(),
            "generation": plan.generation.to_string(),
            "commit": commit_json(&plan.commit),
            "snapshot": { "txid": plan.snapshot.name.txid.0, "time": format_time(plan.snapshot.name.time) },
            "file_set": self.files.as_ref().map(|files| ObjectName::FileSet(files.name).key().to_string()),
            "total_bytes": self.total_bytes(),
            "objects": self.objects.iter().map(|object| json!({
                "key": object.key.as_str(),
                "bytes": object.bytes,
                "sha256": object.sha256_hex(),
            })).collect::<Vec<_>>(),
            "notes": plan.notes,
        })
    }

    /// As `sha256sum --check` reads it. Names of objects hold nothing that would have to be escaped.
    pub fn to_sha256sum(&self) -> String {
        self.objects.iter().map(|object| format!("{}  {}\n", object.sha256_hex(), object.key)).collect()
    }
}

/// Reads every object that the plan needs, the marker and the snapshot's own among them.
pub async fn checksum_manifest(
    reading: &Reading,
    plan: RestorePlan,
    files: Option<KeptFiles>,
    jobs: usize,
    made: TimeMs,
    progress: Arc<dyn Progress>,
) -> Result<ChecksumManifest, RestoreError> {
    progress.begin("reading", plan.fetch_bytes().saturating_add(plan.snapshot.size));
    let digest = |(key, size): (Key, Option<u64>)| {
        let (reading, progress) = (reading.clone(), progress.clone());
        async move {
            let digested = digest(&reading, key, size, &*progress).await?;
            Ok::<_, Fault>(digested)
        }
    };
    let digests: Vec<_> = needed(&plan, files.as_ref()).into_iter().map(digest).collect();
    let digests = stream::iter(digests).buffer_unordered(jobs.max(1));
    let mut objects: Vec<Digested> = digests.try_collect().await.map_err(no_object)?;
    objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    Ok(ChecksumManifest { plan, files, made, objects })
}

/// Names, each once, and their sizes where a listing told them. A part may have been stored in another size than its snapshot
/// says, and is of a bounded one.
fn needed(plan: &RestorePlan, files: Option<&KeptFiles>) -> Vec<(Key, Option<u64>)> {
    let part = |hash| (ObjectName::Part { generation: plan.generation, hash }.key(), None);
    let mut needed = vec![
        (ObjectName::Marker.key(), None),
        (ObjectName::Snapshot(plan.snapshot.name).key(), Some(plan.snapshot.size)),
    ];
    needed.extend(plan.parts.iter().map(|one| part(one.hash)));
    needed.extend(plan.layers.patches.iter().map(|one| part(one.hash)));
    needed.extend(plan.segments.iter().map(|one| (ObjectName::Segment(one.name).key(), Some(one.size))));
    if let Some(KeptFiles { name, set, .. }) = files {
        let blob = |hash| (ObjectName::Blob { generation: name.generation, hash }.key(), None);
        needed.push((ObjectName::FileSet(*name).key(), None));
        needed.extend(set.blobs().into_iter().map(blob));
    }
    needed.sort_unstable();
    needed.dedup();
    needed
}

/// A large object is read in pieces: memory is bounded by the number of jobs.
async fn digest(reading: &Reading, key: Key, size: Option<u64>, progress: &dyn Progress) -> Result<Digested, Fault> {
    let mut hash = Sha256::default();
    let (mut at, end) = (0, size);
    loop {
        let bytes = match end {
            Some(end) => reading.range(&key, at..end.min(at + PIECE_BYTES)).await?,
            None => reading.part(&key).await?,
        };
        at += bytes.len() as u64;
        progress.advance(bytes.len() as u64);
        hash = in_background(move || {
            hash.update(&bytes);
            Ok(hash)
        })
        .await?;
        if end.is_none_or(|end| at >= end) {
            return Ok(Digested { key, bytes: at, sha256: hash.finish() });
        }
    }
}
