//! Writing an object: in one request, or in parts where it is large.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::RequestChecksumCalculation;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, ServerSideEncryption};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::paced::Pacing;
use super::{S3Store, What};
use crate::store::requests::Kind;
use crate::store::traffic::Traffic;
use crate::store::{Body, Key, Outcome, PutMode, Sse, StoreError, StoreOptions};

/// Larger objects go up in parts.
const PARTS_ABOVE_BYTES: u64 = 16 << 20;
/// One part; together with `PARTS_AT_ONCE` the memory that a large upload takes.
const PART_BYTES: u64 = 8 << 20;
const PARTS_AT_ONCE: usize = 3;
/// By the protocol. Larger objects than this many parts make have larger parts.
const PARTS_MAX: u64 = 10_000;

#[derive(Debug)]
pub(super) struct Settings {
    sse: Option<ServerSideEncryption>,
    kms_key_id: Option<String>,
}

impl Settings {
    pub(super) fn new(options: &StoreOptions) -> Settings {
        Settings {
            sse: options.sse.map(|sse| match sse {
                Sse::Aes256 => ServerSideEncryption::Aes256,
                Sse::AwsKms => ServerSideEncryption::AwsKms,
            }),
            kms_key_id: options.kms_key_id.clone(),
        }
    }
}

pub(super) async fn put(store: &S3Store, key: &Key, body: &Body, mode: PutMode) -> Result<(), StoreError> {
    match body.len() > PARTS_ABOVE_BYTES {
        true => put_in_parts(store, key, body, mode).await,
        false => put_at_once(store, key, body, mode).await,
    }
}

fn condition(mode: PutMode) -> Option<String> {
    (mode == PutMode::Create).then(|| "*".to_owned())
}

/// The whole body is in memory, so that it is signed, and sent with its length, as the oldest servers expect.
async fn put_at_once(store: &S3Store, key: &Key, body: &Body, mode: PutMode) -> Result<(), StoreError> {
    let what = What { operation: "put", kind: Kind::Put, key: key.as_str() };
    let bytes = piece(what, body, 0, body.len()).await?;
    let request = |client: Client, waiting| {
        let request = client.put_object().bucket(&store.bucket).key(store.name(key));
        let request = request.set_if_none_match(condition(mode)).content_length(bytes.len() as i64);
        let request = request.set_server_side_encryption(store.upload.sse.clone());
        let request = request.set_ssekms_key_id(store.upload.kms_key_id.clone());
        let request = request.body(ByteStream::from(bytes.clone()));
        request.customize().interceptor(Pacing::new(&store.traffic, waiting)).send()
    };
    store.send_paced(what, body.len(), request).await.map(|_| ())
}

async fn put_in_parts(store: &S3Store, key: &Key, body: &Body, mode: PutMode) -> Result<(), StoreError> {
    let what = What { operation: "put", kind: Kind::CreateUpload, key: key.as_str() };
    // Some servers know no condition at the end of an upload, and hundreds of MB need not go up to be refused.
    if mode == PutMode::Create && exists(store, key).await? {
        return Err(what.error(Outcome::AlreadyExists, "something has that name"));
    }
    let client = store.clients.get().await.map_err(|problem| what.error(problem.outcome, problem.detail))?;
    // The SDK adds checksums to requests by itself; an upload in parts has to announce them.
    let with_checksums =
        client.config().request_checksum_calculation() == Some(&RequestChecksumCalculation::WhenSupported);
    let algorithm = with_checksums.then_some(ChecksumAlgorithm::Crc32);
    let begin = |client: Client| {
        let request = client.create_multipart_upload().bucket(&store.bucket).key(store.name(key));
        let request = request.set_checksum_algorithm(algorithm.clone());
        let request = request.set_server_side_encryption(store.upload.sse.clone());
        request.set_ssekms_key_id(store.upload.kms_key_id.clone()).send()
    };
    let begun = store.send(what, 0, begin).await?;
    let id = begun.upload_id().ok_or_else(|| what.error(Outcome::Invalid, "an upload without an id"))?;
    let (bucket, name, traffic) = (store.bucket.clone(), store.name(key), store.traffic.clone());
    let mut unfinished = Unfinished { client: Some(client), bucket, name, id: id.to_owned(), traffic };
    let upload = Upload { store, key, body, id, algorithm };
    let done = upload.send_parts_and_complete(what, mode).await;
    match done {
        Ok(()) => unfinished.client = None,
        Err(_) => unfinished.abort().await,
    }
    done
}

async fn exists(store: &S3Store, key: &Key) -> Result<bool, StoreError> {
    let what = What { operation: "get", kind: Kind::Head, key: key.as_str() };
    let request = |client: Client| client.head_object().bucket(&store.bucket).key(store.name(key)).send();
    match store.send(what, 0, request).await {
        Ok(_) => Ok(true),
        Err(e) if e.outcome == Outcome::NotFound => Ok(false),
        // Credentials that may write but not read are no reason not to write.
        Err(e) if e.outcome == Outcome::Denied => Ok(false),
        Err(e) => Err(StoreError { operation: "put", ..e }),
    }
}

struct Upload<'a> {
    store: &'a S3Store,
    key: &'a Key,
    body: &'a Body,
    id: &'a str,
    algorithm: Option<ChecksumAlgorithm>,
}

impl Upload<'_> {
    async fn send_parts_and_complete(&self, what: What<'_>, mode: PutMode) -> Result<(), StoreError> {
        let len = self.body.len();
        let part_bytes = PART_BYTES.max(len.div_ceil(PARTS_MAX));
        let numbers = 0..len.div_ceil(part_bytes);
        let parts = stream::iter(numbers).map(|n| {
            let start = n * part_bytes;
            self.send_part(what, n + 1, start, len.min(start + part_bytes))
        });
        let mut parts: Vec<CompletedPart> = parts.buffer_unordered(PARTS_AT_ONCE).try_collect().await?;
        parts.sort_unstable_by_key(|part| part.part_number());
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = |client: Client| {
            let request = client.complete_multipart_upload().bucket(&self.store.bucket).key(self.store.name(self.key));
            let request = request.upload_id(self.id).set_if_none_match(condition(mode));
            request.multipart_upload(parts.clone()).send()
        };
        // Some servers copy the parts together before they answer.
        self.store.send(What { kind: Kind::CompleteUpload, ..what }, len, complete).await.map(|_| ())
    }

    async fn send_part(&self, what: What<'_>, number: u64, start: u64, end: u64) -> Result<CompletedPart, StoreError> {
        let bytes = piece(what, self.body, start, end).await?;
        let number = i32::try_from(number).expect("there are at most PARTS_MAX parts");
        let request = |client: Client, waiting| {
            let request = client.upload_part().bucket(&self.store.bucket).key(self.store.name(self.key));
            let request = request.upload_id(self.id).part_number(number).content_length(bytes.len() as i64);
            let request = request.set_checksum_algorithm(self.algorithm.clone()).body(ByteStream::from(bytes.clone()));
            request.customize().interceptor(Pacing::new(&self.store.traffic, waiting)).send()
        };
        let what = What { kind: Kind::UploadPart, ..what };
        let answer = self.store.send_paced(what, end - start, request).await?;
        let part = CompletedPart::builder().part_number(number).set_e_tag(answer.e_tag().map(str::to_owned));
        Ok(part.set_checksum_crc32(answer.checksum_crc32().map(str::to_owned)).build())
    }
}

/// Bytes of a body. A file is read where it may block.
async fn piece(what: What<'_>, body: &Body, start: u64, end: u64) -> Result<Bytes, StoreError> {
    let path = match body {
        Body::Bytes(bytes) => return Ok(bytes.slice(start as usize..end as usize)),
        Body::File { path, .. } => path.clone(),
    };
    let read = tokio::task::spawn_blocking(move || {
        let mut piece = vec![0; (end - start) as usize];
        std::fs::File::open(&path)
            .and_then(|file| file.read_exact_at(&mut piece, start))
            .map(|()| Bytes::from(piece))
            .map_err(|e| format!("reading {}: {e}", path.display()))
    });
    let read = read.await.map_err(|e| what.error(Outcome::Unavailable, e.to_string()))?;
    read.map_err(|detail| what.error(Outcome::Invalid, detail))
}

/// An upload that is not complete, which would be paid for until somebody aborts it.
struct Unfinished {
    /// `None` once there is nothing left to abort.
    client: Option<Client>,
    bucket: String,
    name: String,
    id: String,
    traffic: Arc<Traffic>,
}

impl Unfinished {
    /// As good as can be: the error that led here is what the caller hears of.
    async fn abort(&mut self) {
        if let Some(client) = self.client.take() {
            abort(client, &self.traffic, &self.bucket, &self.name, &self.id).await;
        }
    }
}

impl Drop for Unfinished {
    /// The caller went away in the middle.
    fn drop(&mut self) {
        let Some(client) = self.client.take() else { return };
        let (bucket, name, id) = (self.bucket.clone(), self.name.clone(), self.id.clone());
        let traffic = self.traffic.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { abort(client, &traffic, &bucket, &name, &id).await });
        }
    }
}

async fn abort(client: Client, traffic: &Traffic, bucket: &str, name: &str, id: &str) {
    traffic.request(Kind::AbortUpload).await;
    let request = client.abort_multipart_upload().bucket(bucket).key(name).upload_id(id).send();
    match tokio::time::timeout(super::REQUEST_TIMEOUT, request).await {
        Ok(Ok(_)) => {}
        // Complete after all: only the answer was lost.
        Ok(Err(e)) if e.raw_response().is_some_and(|r| r.status().as_u16() == 404) => {}
        _ => tracing::warn!(name, "an unfinished upload stays in the bucket; a lifecycle rule should abort such"),
    }
}
