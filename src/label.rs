//! Labels: names for commits that somebody wants to come back to, with who, why, and what became of them.
//!
//! A label is up to three objects in the replica, each created once and never changed: that it was created, that somebody
//! verified it, that it was retired. Nothing is forgotten: a name is used once.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::document::{self, Document};
use crate::layout::{LABEL_FOLDER, LabelEvent, LabelName};
use crate::position::{Generation, TimeMs, Txid};
use crate::store::{Body, Key, Outcome, PutMode, Store, StoreError};

/// Bytes of one object that are read; ours have some hundred, and what people write into them is bounded.
const MAX_LABEL_BYTES: usize = 64 * 1024;
/// Characters of what people write.
pub const MAX_TEXT: usize = 4000;

/// How long the commit of a label is kept, whatever the retention policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Retain {
    /// Until somebody says that what it was for has gone well.
    UntilVerified,
    Forever,
    /// Milliseconds from its creation.
    ForMs(u64),
}

/// What is said when a label is created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    pub created_by: String,
    pub ticket: Option<String>,
    pub purpose: Option<String>,
    pub description: Option<String>,
    pub retain: Retain,
}

/// The object that makes a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Created {
    generation: String,
    txid: u64,
    /// Time of the commit.
    time_ms: u64,
    created_ms: u64,
    #[serde(flatten)]
    description: Description,
}

/// Something that somebody did to a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    pub at_ms: u64,
    pub by: String,
}

/// The commit that a label names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    pub generation: Generation,
    pub txid: Txid,
    pub time: TimeMs,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    pub name: LabelName,
    pub commit: Named,
    pub created: TimeMs,
    pub description: Description,
    pub verified: Option<Act>,
    pub retired: Option<Act>,
}

impl Label {
    /// One word for where it stands.
    pub fn state(&self) -> &'static str {
        match (&self.retired, &self.verified) {
            (Some(_), _) => "retired",
            (None, Some(_)) => "verified",
            (None, None) => "pending-verification",
        }
    }

    /// Must its commit stay restorable?
    pub fn is_kept(&self, now: TimeMs) -> bool {
        self.retired.is_none()
            && match self.description.retain {
                Retain::Forever => true,
                Retain::UntilVerified => self.verified.is_none(),
                Retain::ForMs(ms) => now.0 < self.created.0.saturating_add(ms),
            }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LabelError {
    #[error("there is a label {0} already; names are used once")]
    Exists(LabelName),
    #[error("there is no label {0}")]
    Unknown(LabelName),
    #[error("the label {name} was {what} already")]
    Done { name: LabelName, what: &'static str },
    #[error("{key}: {problem}")]
    Damaged { key: Key, problem: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The labels of one replica.
#[derive(Debug, Clone)]
pub struct Labels {
    store: Arc<dyn Store>,
}

impl Labels {
    pub fn new(store: Arc<dyn Store>) -> Labels {
        Labels { store }
    }

    pub async fn create(
        &self,
        name: &LabelName,
        commit: Named,
        now: TimeMs,
        description: &Description,
    ) -> Result<(), LabelError> {
        let created = Created {
            generation: commit.generation.to_string(),
            txid: commit.txid.0,
            time_ms: commit.time.0,
            created_ms: now.0,
            description: description.clone(),
        };
        let exists = || LabelError::Exists(name.clone());
        self.put(name, LabelEvent::Created, &created, exists).await
    }

    /// Records that what the label was made for went well.
    pub async fn verify(&self, name: &LabelName, now: TimeMs, by: &str) -> Result<(), LabelError> {
        self.find(name).await?;
        let done = || LabelError::Done { name: name.clone(), what: "verified" };
        self.put(name, LabelEvent::Verified, &Act { at_ms: now.0, by: by.to_owned() }, done).await
    }

    /// Gives the label up: its commit is kept no longer for its sake.
    pub async fn retire(&self, name: &LabelName, now: TimeMs, by: &str) -> Result<(), LabelError> {
        self.find(name).await?;
        let done = || LabelError::Done { name: name.clone(), what: "retired" };
        self.put(name, LabelEvent::Retired, &Act { at_ms: now.0, by: by.to_owned() }, done).await
    }

    async fn put<T: Serialize>(
        &self,
        name: &LabelName,
        event: LabelEvent,
        value: &T,
        exists: impl FnOnce() -> LabelError,
    ) -> Result<(), LabelError> {
        let key = name.key(event);
        let bytes = document::encode(value);
        match self.store.put(&key, Body::Bytes(bytes.clone().into()), PutMode::Create).await {
            Ok(()) => Ok(()),
            // The answer to an attempt before may have been lost: then what stands there is what was to be written.
            Err(error) if error.outcome == Outcome::AlreadyExists => {
                if self.store.get(&key, None).await? == bytes {
                    Ok(())
                } else {
                    Err(exists())
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    pub async fn find(&self, name: &LabelName) -> Result<Label, LabelError> {
        let created = self.get::<Created>(name, LabelEvent::Created).await?;
        let created = created.ok_or_else(|| LabelError::Unknown(name.clone()))?.value;
        let generation = generation(name, &created)?;
        Ok(Label {
            name: name.clone(),
            commit: Named { generation, txid: Txid(created.txid), time: TimeMs(created.time_ms) },
            created: TimeMs(created.created_ms),
            description: created.description,
            verified: self.get(name, LabelEvent::Verified).await?.map(|act| act.value),
            retired: self.get(name, LabelEvent::Retired).await?.map(|act| act.value),
        })
    }

    /// Reads one object of a label: is it proven by a checksum of its own? `None` where there is none.
    pub async fn prove(&self, name: &LabelName, event: LabelEvent) -> Result<Option<bool>, LabelError> {
        if event != LabelEvent::Created {
            return Ok(self.get::<Act>(name, event).await?.map(|act| act.is_proven));
        }
        let Some(created) = self.get::<Created>(name, event).await? else { return Ok(None) };
        generation(name, &created.value).map(|_| Some(created.is_proven))
    }

    async fn get<T: DeserializeOwned>(
        &self,
        name: &LabelName,
        event: LabelEvent,
    ) -> Result<Option<Document<T>>, LabelError> {
        let key = name.key(event);
        match document::read(&*self.store, &key, MAX_LABEL_BYTES).await {
            Err(error) if error.outcome == Outcome::NotFound => Ok(None),
            read => match read?.and_then(Document::known) {
                Ok(document) => Ok(Some(document)),
                Err(problem) => Err(LabelError::Damaged { key, problem: problem.to_string() }),
            },
        }
    }

    /// Every label, by name.
    pub async fn all(&self) -> Result<Vec<Label>, LabelError> {
        let objects = self.store.list(LABEL_FOLDER, None).await?;
        let created = objects.iter().filter_map(|object| match LabelName::parse_key(object.key.as_str()) {
            Some((name, LabelEvent::Created)) => Some(name),
            _ => None,
        });
        let mut labels = Vec::new();
        for name in created {
            labels.push(self.find(&name).await?);
        }
        Ok(labels)
    }
}

fn generation(name: &LabelName, created: &Created) -> Result<Generation, LabelError> {
    created.generation.parse().map_err(|_| LabelError::Damaged {
        key: name.key(LabelEvent::Created),
        problem: format!("{:?} is no generation", created.generation),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    fn description(retain: Retain) -> Description {
        Description { created_by: "ann".into(), ticket: Some("T-1".into()), purpose: None, description: None, retain }
    }

    /// A label goes through its states once each, and what it holds comes back as it was written.
    #[tokio::test]
    async fn a_label_has_a_life() {
        let labels = Labels::new(Arc::new(MemoryStore::default()));
        let name: LabelName = "pre-migration-42".parse().unwrap();
        let commit = Named { generation: Generation(5 << 20), txid: Txid(7), time: TimeMs(70) };
        assert!(matches!(labels.find(&name).await, Err(LabelError::Unknown(_))));
        assert!(matches!(labels.verify(&name, TimeMs(1), "bob").await, Err(LabelError::Unknown(_))));
        labels.create(&name, commit, TimeMs(100), &description(Retain::UntilVerified)).await.unwrap();
        // The same again is a lost answer; anything else is another label.
        labels.create(&name, commit, TimeMs(100), &description(Retain::UntilVerified)).await.unwrap();
        let other = labels.create(&name, commit, TimeMs(101), &description(Retain::UntilVerified)).await;
        assert!(matches!(other, Err(LabelError::Exists(_))));
        let label = labels.find(&name).await.unwrap();
        assert_eq!((label.state(), label.commit, label.created), ("pending-verification", commit, TimeMs(100)));
        assert_eq!(label.description, description(Retain::UntilVerified));
        assert!(label.is_kept(TimeMs(u64::MAX)));
        labels.verify(&name, TimeMs(200), "bob").await.unwrap();
        assert!(matches!(labels.verify(&name, TimeMs(201), "eve").await, Err(LabelError::Done { .. })));
        let label = labels.find(&name).await.unwrap();
        assert_eq!((label.state(), label.verified.clone().unwrap().by.as_str()), ("verified", "bob"));
        assert!(!label.is_kept(TimeMs(0)));
        labels.retire(&name, TimeMs(300), "ann").await.unwrap();
        assert_eq!(labels.all().await.unwrap()[0].state(), "retired");
    }

    /// How long a label keeps its commit.
    #[tokio::test]
    async fn retention_of_a_label() {
        let labels = Labels::new(Arc::new(MemoryStore::default()));
        let commit = Named { generation: Generation(5 << 20), txid: Txid(7), time: TimeMs(70) };
        let (forever, day): (LabelName, LabelName) = ("a".parse().unwrap(), "b".parse().unwrap());
        labels.create(&forever, commit, TimeMs(100), &description(Retain::Forever)).await.unwrap();
        labels.create(&day, commit, TimeMs(100), &description(Retain::ForMs(50))).await.unwrap();
        let all = labels.all().await.unwrap();
        let kept = |now| all.iter().map(|label| label.is_kept(TimeMs(now))).collect::<Vec<_>>();
        assert_eq!((kept(149), kept(150)), (vec![true, true], vec![true, false]));
    }
}
