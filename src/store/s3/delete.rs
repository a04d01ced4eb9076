//! Deleting objects, many in one request where the server knows how.

use std::sync::atomic::Ordering;

use aws_sdk_s3::Client;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use futures_util::{StreamExt, stream};

use super::{S3Store, What, errors};
use crate::store::requests::Kind;
use crate::store::{Key, Outcome, StoreError};

/// What one request may name, by the protocol.
const BATCH: usize = 1000;
/// Single deletions under way at once.
const AT_ONCE: usize = 8;

pub(super) async fn in_batches(store: &S3Store, keys: &[Key]) -> Result<(), StoreError> {
    let mut first_error = None;
    for batch in keys.chunks(BATCH) {
        match batch_at_once(store, batch).await {
            // Old servers want another checksum than the SDK sends, simple ones do not know the request at all.
            Err(e) if e.outcome == Outcome::Invalid => {
                tracing::info!(error = %e, "the server does not delete in batches: objects are deleted one by one");
                store.deletes_singly.store(true, Ordering::Relaxed);
                singly(store, batch).await?;
            }
            Err(e) => first_error = first_error.or(Some(e)),
            Ok(()) => {}
        }
    }
    first_error.map_or(Ok(()), Err)
}

async fn batch_at_once(store: &S3Store, batch: &[Key]) -> Result<(), StoreError> {
    let what = What { operation: "delete", kind: Kind::DeleteMany, key: batch.first().map_or("", Key::as_str) };
    let named: Result<Vec<_>, _> =
        batch.iter().map(|key| ObjectIdentifier::builder().key(store.name(key)).build()).collect();
    let delete = named.and_then(|named| Delete::builder().set_objects(Some(named)).quiet(true).build());
    let delete = delete.map_err(|e| what.error(Outcome::Invalid, e.to_string()))?;
    let request = |client: Client| client.delete_objects().bucket(&store.bucket).delete(delete.clone()).send();
    let answer = store.send(what, 0, request).await?;
    for error in answer.errors() {
        // The name alone has no status; anything that is not known by its code may be asked again.
        let (outcome, step) = errors::judge("delete", 500, error.code());
        if outcome == Outcome::NotFound {
            continue;
        }
        let name = error.key().and_then(|name| name.strip_prefix(&store.prefix)).unwrap_or(what.key);
        let mut detail = format!("{}: {}", error.code().unwrap_or("no code"), error.message().unwrap_or("no message"));
        if let Some(step) = step {
            detail = format!("{detail} ({step})");
        }
        return Err(What { key: name, ..what }.error(outcome, detail));
    }
    Ok(())
}

pub(super) async fn singly(store: &S3Store, keys: &[Key]) -> Result<(), StoreError> {
    let deletions: Vec<_> = keys.iter().map(|key| delete_one(store, key)).collect();
    let errors = stream::iter(deletions)
        .buffer_unordered(AT_ONCE)
        .filter_map(|done| async { done.err() })
        .collect::<Vec<_>>()
        .await;
    errors.into_iter().next().map_or(Ok(()), Err)
}

async fn delete_one(store: &S3Store, key: &Key) -> Result<(), StoreError> {
    let what = What { operation: "delete", kind: Kind::Delete, key: key.as_str() };
    let request = |client: Client| client.delete_object().bucket(&store.bucket).key(store.name(key)).send();
    match store.send(what, 0, request).await {
        Err(e) if e.outcome == Outcome::NotFound => Ok(()),
        done => done.map(|_| ()),
    }
}
