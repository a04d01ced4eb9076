//! Marks for pruning: what stands in a replica before anything is deleted.

use bytes::Bytes;

use super::{Replica, ReplicaError};
use crate::document::{self, Document, DocumentError};
use crate::layout::{self, ObjectName};
use crate::position::{Generation, TimeMs};
use crate::retention::{MAX_MARK_BYTES, Mark, Range, union};
use crate::store::{Body, Key, Outcome, PutMode, StoreError};

/// Marks of the same millisecond that are stepped over: two that prune at once.
const MAX_SAME_TIME: u64 = 16;

/// A mark with the moment at which it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    pub time: TimeMs,
    pub mark: Mark,
}

impl Marked {
    pub fn key(&self, generation: Generation) -> Key {
        ObjectName::Mark { generation, time: self.time }.key()
    }
}

impl Replica {
    /// The moments of the marks in a generation, from the oldest on.
    pub async fn mark_times(&self, generation: Generation) -> Result<Vec<TimeMs>, StoreError> {
        let listing = self.store.list(&layout::mark_folder(generation), None).await?;
        let time = |key: &Key| match ObjectName::parse(key.as_str()) {
            Some(ObjectName::Mark { time, .. }) => Some(time),
            _ => None,
        };
        Ok(listing.iter().filter_map(|object| time(&object.key)).collect())
    }

    pub async fn read_mark(
        &self,
        generation: Generation,
        time: TimeMs,
    ) -> Result<Result<Document<Mark>, DocumentError>, StoreError> {
        let read = document::read(&*self.store, &ObjectName::Mark { generation, time }.key(), MAX_MARK_BYTES).await?;
        Ok(read.and_then(Document::known))
    }

    /// The marks in a generation, from the oldest on. What this version cannot read is never acted on.
    pub async fn marks(&self, generation: Generation) -> Result<Vec<Marked>, ReplicaError> {
        let mut times = self.mark_times(generation).await?;
        let mut marks: Vec<Marked> = Vec::new();
        while !times.is_empty() {
            let mut is_gone = false;
            for time in std::mem::take(&mut times) {
                if marks.iter().any(|read| read.time == time) {
                    continue;
                }
                match self.read_mark(generation, time).await {
                    Err(error) if error.outcome == Outcome::NotFound => is_gone = true,
                    read => match read? {
                        Ok(document) => marks.push(Marked { time, mark: document.value }),
                        Err(problem) => {
                            let key = ObjectName::Mark { generation, time }.key();
                            tracing::warn!(object = %key, %problem, "this mark for pruning cannot be read; it is ignored");
                        }
                    },
                }
            }
            // A newer mark has taken its place, and is in the next listing.
            if is_gone {
                times = self.mark_times(generation).await?;
            }
        }
        Ok(marks)
    }

    /// The commits of a generation that were pruned.
    pub async fn pruned(&self, generation: Generation) -> Result<Vec<Range>, ReplicaError> {
        Ok(union(self.marks(generation).await?.into_iter().flat_map(|marked| marked.mark.pruned).collect()))
    }

    /// Creates a mark, and says which moment its name got.
    pub async fn put_mark(&self, generation: Generation, now: TimeMs, mark: &Mark) -> Result<TimeMs, ReplicaError> {
        let bytes = Bytes::from(document::encode(mark));
        for later in 0..MAX_SAME_TIME {
            let time = TimeMs(now.0.saturating_add(later).min(TimeMs::MAX.0));
            let key = ObjectName::Mark { generation, time }.key();
            match self.store.put(&key, Body::Bytes(bytes.clone()), PutMode::Create).await {
                Ok(()) => return Ok(time),
                Err(error) if error.outcome == Outcome::AlreadyExists => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ReplicaError::Conflict { name: ObjectName::Mark { generation, time: now }.key().to_string() })
    }
}
