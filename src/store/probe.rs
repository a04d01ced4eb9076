//! Does a store really honour create-only puts? Some ignore the condition, some check it but not atomically.

use bytes::Bytes;
use futures_util::future::join_all;

use super::{Body, Key, Outcome, PutMode, Store, StoreError};

/// What a store was seen to do when several create one name at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateOnly {
    /// One won, the others were told so, and what is stored is the winner's: conditional puts can fence writers.
    Atomic,
    /// More than one was told that it won, or what is stored is not the winner's. Names that hold the term still keep
    /// writers from replacing each other's objects, but two of them may not learn of each other.
    NotHonoured,
    /// Nobody won: the store asked everybody to come again.
    Unknown,
}

/// Creators at once, in each of several rounds: a server that checks first and writes later shows it.
const RACERS: usize = 8;
const ROUNDS: usize = 3;

/// Races create-only puts on names that begin with `probe`, which nothing else may use, and removes them. Costs about 30
/// small requests.
pub async fn probe(store: &dyn Store, probe: &Key) -> Result<CreateOnly, StoreError> {
    let mut seen = CreateOnly::Unknown;
    for round in 0..ROUNDS {
        let key = Key::new(format!("{probe}-{round}"))
            .map_err(|e| StoreError::new(Outcome::Invalid, "put", probe, e.to_string()))?;
        let bodies: Vec<Bytes> = (0..RACERS).map(|racer| Bytes::from(format!("probe, racer {racer:03}"))).collect();
        let raced = race(store, &key, &bodies).await;
        // Whatever was seen, the name is not left behind.
        store.delete(std::slice::from_ref(&key)).await?;
        match raced {
            Ok(CreateOnly::NotHonoured) => return Ok(CreateOnly::NotHonoured),
            Ok(CreateOnly::Atomic) => seen = CreateOnly::Atomic,
            Ok(CreateOnly::Unknown) => {}
            // A server that refuses the condition by name does not honour it.
            Err(error) if error.outcome == Outcome::Invalid => return Ok(CreateOnly::NotHonoured),
            Err(error) if error.is_retryable() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(seen)
}

/// Creates `key` with each of `bodies`, which all differ, at once. One of them stays, unless it is an error or something else had that name;
/// with one body nothing is told of the store.
pub async fn race(store: &dyn Store, key: &Key, bodies: &[Bytes]) -> Result<CreateOnly, StoreError> {
    let puts = bodies.iter().map(|body| store.put(key, Body::Bytes(body.clone()), PutMode::Create));
    let (mut winners, mut unanswered) = (Vec::new(), None);
    for (body, done) in bodies.iter().zip(join_all(puts).await) {
        match done {
            Ok(()) => winners.push(body),
            Err(error) if error.outcome == Outcome::AlreadyExists => {}
            Err(error) if error.is_retryable() => _ = unanswered.get_or_insert(error),
            Err(error) => return Err(error),
        }
    }
    match winners[..] {
        [] => unanswered.map_or(Ok(CreateOnly::Unknown), Err),
        [_] if bodies.len() == 1 => Ok(CreateOnly::Unknown),
        [winner] => {
            let honoured = store.get(key, None).await? == winner;
            // An unanswered racer may have won unseen, with nobody told twice: that proves nothing.
            Ok(match (honoured, unanswered) {
                (true, _) => CreateOnly::Atomic,
                (false, None) => CreateOnly::NotHonoured,
                (false, Some(_)) => CreateOnly::Unknown,
            })
        }
        _ => Ok(CreateOnly::NotHonoured),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    /// A store that honours the condition is told from nothing else, and no probe object stays.
    #[tokio::test]
    async fn memory_is_atomic() {
        let store = MemoryStore::new();
        let key = Key::new("probe-1").unwrap();
        assert_eq!(probe(&store, &key).await.unwrap(), CreateOnly::Atomic);
        assert_eq!(store.list("", None).await.unwrap(), []);
    }
}
