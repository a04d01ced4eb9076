//! A store in a bucket of S3 or of anything that speaks its protocol.
//!
//! Every request is made once and bounded in time; trying again is the wrapper's. Nothing is sent, no credential is read
//! and no certificate loaded before the first request.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use bytes::Bytes;

use super::requests::Kind;
use super::traffic::{Traffic, Waiting};
use super::{Body, Key, LIST_MAX, Limits, ObjectMeta, Outcome, PutMode, Store, StoreError, StoreOptions};

mod client;
mod delete;
mod download;
mod errors;
mod paced;
mod upload;

use client::Clients;

/// Time to the answer of one request, where nothing else is configured.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A line slower than this counts as none: bodies get this much time on top.
const SLOWEST_BYTES_PER_SECOND: u64 = 64 * 1024;
/// Pages of one listing, so that a server that goes on for ever is found out; also 10 million objects at 100 a page.
const PAGES_MAX: usize = 100_000;

/// A prefix in a bucket.
#[derive(Debug)]
pub struct S3Store {
    bucket: String,
    /// Empty or ending in a slash.
    prefix: String,
    clients: Clients,
    /// For messages.
    endpoint: Option<String>,
    request_timeout: Duration,
    upload: upload::Settings,
    traffic: Arc<Traffic>,
    /// The server does not know how to delete many objects at once.
    deletes_singly: AtomicBool,
}

impl S3Store {
    /// `prefix` without slashes at its ends. Sends nothing.
    pub fn new(bucket: String, prefix: String, options: &StoreOptions) -> S3Store {
        S3Store {
            bucket,
            prefix: if prefix.is_empty() { prefix } else { format!("{prefix}/") },
            // The limits are kept here; a client may serve stores with others.
            clients: Clients::new(StoreOptions { limits: Limits::default(), ..options.clone() }),
            endpoint: options.endpoint.clone(),
            request_timeout: options.request_timeout.unwrap_or(REQUEST_TIMEOUT),
            upload: upload::Settings::new(options),
            traffic: Arc::default(),
            deletes_singly: AtomicBool::new(false),
        }
    }

    /// The same with every request and every byte on this way.
    #[must_use]
    pub fn through(self, traffic: Arc<Traffic>) -> S3Store {
        S3Store { traffic, ..self }
    }

    fn name(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Sends one request with `body` bytes of body, with fresh credentials once more if those in use had expired.
    async fn send<T, E, F, Fut>(&self, what: What<'_>, body: u64, request: F) -> Result<T, StoreError>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        self.send_paced(what, body, |client, _| request(client)).await
    }

    /// The same for a request whose body waits for its turns, as it says to what it is given.
    async fn send_paced<T, E, F, Fut>(&self, what: What<'_>, body: u64, request: F) -> Result<T, StoreError>
    where
        F: Fn(Client, Arc<Waiting>) -> Fut,
        Fut: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let mut renewed = false;
        loop {
            let client = self.clients.get().await.map_err(|problem| what.error(problem.outcome, problem.detail))?;
            self.traffic.request(what.kind).await;
            let waiting = Arc::new(Waiting::default());
            let done = self.within(what, body, &waiting, request(client, waiting.clone())).await?;
            let error = match done {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let (error, expired) = errors::read(what, &error);
            if !expired || renewed {
                return Err(error);
            }
            tracing::info!("the credentials have expired and are read again");
            self.clients.forget().await;
            renewed = true;
        }
    }

    /// Bounds whatever moves `bytes` bytes; what it waits for its turns does not count.
    async fn within<T>(
        &self,
        what: What<'_>,
        bytes: u64,
        waiting: &Waiting,
        work: impl Future<Output = T>,
    ) -> Result<T, StoreError> {
        let time = self.request_timeout + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND);
        self.traffic.bounded(time, waiting, work).await.ok_or_else(|| {
            let detail = format!("no whole answer within {time:?}: is {} reachable?", self.describe());
            what.error(Outcome::Unavailable, detail)
        })
    }

    /// Pages through a listing; `page` takes what it needs from each.
    async fn pages(
        &self,
        what: What<'_>,
        delimiter: Option<&str>,
        after: Option<&str>,
        mut page: impl FnMut(aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut token: Option<String> = None;
        let mut seen = HashSet::new();
        for _ in 0..PAGES_MAX {
            let request = |client: Client| {
                let request =
                    client.list_objects_v2().bucket(&self.bucket).prefix(format!("{}{}", self.prefix, what.key));
                let request = request.set_delimiter(delimiter.map(str::to_owned));
                match &token {
                    Some(token) => request.continuation_token(token).send(),
                    None => request.set_start_after(after.map(|after| format!("{}{after}", self.prefix))).send(),
                }
            };
            let answer = self.send(what, 0, request).await?;
            token = answer.next_continuation_token().map(str::to_owned);
            let more = answer.is_truncated() == Some(true);
            page(answer)?;
            match &token {
                _ if !more => return Ok(()),
                None => return Err(what.error(Outcome::Invalid, "a listing was cut with no way to go on")),
                Some(token) if !seen.insert(token.clone()) => {
                    return Err(
                        what.error(Outcome::Invalid, "a listing goes in circles: the same page is announced twice")
                    );
                }
                Some(_) => {}
            }
        }
        Err(what.error(Outcome::Invalid, format!("a listing of more than {PAGES_MAX} pages")))
    }
}

/// What a request is about, for its errors.
#[derive(Debug, Clone, Copy)]
struct What<'a> {
    operation: &'static str,
    kind: Kind,
    key: &'a str,
}

impl What<'_> {
    fn error(self, outcome: Outcome, detail: impl Into<String>) -> StoreError {
        StoreError::new(outcome, self.operation, self.key, detail)
    }
}

#[async_trait]
impl Store for S3Store {
    async fn put(&self, key: &Key, body: Body, mode: PutMode) -> Result<(), StoreError> {
        upload::put(self, key, &body, mode).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        download::get(self, key, range).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>, StoreError> {
        let what = What { operation: "list", kind: Kind::List, key: prefix };
        let mut found: Vec<ObjectMeta> = Vec::new();
        let take = |page: aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output| {
            for object in page.contents() {
                let name = object.key().and_then(|name| name.strip_prefix(&self.prefix));
                let size = object.size().and_then(|size| u64::try_from(size).ok());
                match (name.and_then(|name| Key::new(name).ok()), size) {
                    // Not every server heeds `start-after`, nor the prefix to the letter.
                    (Some(key), Some(size)) => {
                        if key.as_str().starts_with(prefix) && after.is_none_or(|after| key.as_str() > after) {
                            found.push(ObjectMeta { key, size });
                        }
                    }
                    (_, None) => return Err(what.error(Outcome::Invalid, "an object without a length in a listing")),
                    (None, _) => {
                        tracing::warn!(name = object.key(), "not the name of an object: left out of the listing");
                    }
                }
            }
            match found.len() > LIST_MAX {
                true => Err(what.error(Outcome::Invalid, format!("more than {LIST_MAX} objects"))),
                false => Ok(()),
            }
        };
        self.pages(what, None, after, take).await?;
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        found.dedup_by(|a, b| a.key == b.key);
        Ok(found)
    }

    async fn list_folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let what = What { operation: "list", kind: Kind::List, key: folder };
        let begin = format!("{}{folder}", self.prefix);
        let mut found = Vec::new();
        let take = |page: aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output| {
            let names =
                page.common_prefixes().iter().filter_map(|p| p.prefix()?.strip_prefix(&begin)?.strip_suffix('/'));
            for name in names {
                match Key::new(name) {
                    Ok(_) if !name.contains('/') => found.push(name.to_owned()),
                    _ => tracing::warn!(name, "not the name of a folder: left out of the listing"),
                }
            }
            match found.len() > LIST_MAX {
                true => Err(what.error(Outcome::Invalid, format!("more than {LIST_MAX} folders"))),
                false => Ok(()),
            }
        };
        self.pages(what, Some("/"), None, take).await?;
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        if self.deletes_singly.load(Ordering::Relaxed) {
            return delete::singly(self, keys).await;
        }
        delete::in_batches(self, keys).await
    }

    fn describe(&self) -> String {
        let at = self.endpoint.as_ref().map_or(String::new(), |endpoint| format!(" at {endpoint}"));
        format!("s3://{}/{}{at}", self.bucket, self.prefix.trim_end_matches('/'))
    }
}
