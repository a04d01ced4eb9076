//! The objects, behind the trait of the `s3s` crate.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use super::{BUCKET, Manners};

#[derive(Clone)]
pub struct Backend {
    state: Arc<Mutex<State>>,
    manners: Arc<Manners>,
}

#[derive(Default)]
struct State {
    bucket_is_gone: bool,
    objects: BTreeMap<String, Object>,
    uploads: HashMap<String, Upload>,
    overwrites: usize,
    /// Makes ids of uploads and ETags unique.
    counter: u64,
}

#[derive(Clone)]
struct Object {
    bytes: Bytes,
    etag: String,
    encryption: Option<String>,
}

struct Upload {
    name: String,
    encryption: Option<String>,
    parts: BTreeMap<i32, (String, Bytes)>,
}

impl State {
    fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn store(&mut self, name: &str, bytes: Bytes, encryption: Option<String>) -> String {
        let etag = format!("{:032x}", self.next());
        let object = Object { bytes, etag: etag.clone(), encryption };
        if let Some(before) = self.objects.insert(name.to_owned(), object) {
            self.overwrites += usize::from(before.bytes != self.objects[name].bytes);
        }
        etag
    }
}

impl Backend {
    pub fn new(manners: Arc<Manners>) -> Backend {
        Backend { state: Arc::default(), manners }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the state is locked")
    }

    /// The state, if the bucket is there.
    fn bucket(&self, bucket: &str) -> S3Result<MutexGuard<'_, State>> {
        let state = self.state();
        match bucket == BUCKET && !state.bucket_is_gone {
            true => Ok(state),
            false => Err(s3_error!(NoSuchBucket)),
        }
    }

    /// Fails where the condition of a write does. Returns whether the caller may rely on nobody coming between.
    async fn check(&self, bucket: &str, name: &str, condition: Option<&IfNoneMatch>) -> S3Result<bool> {
        if self.manners.ignores_conditions.load(Ordering::SeqCst) || condition.is_none() {
            return Ok(true);
        }
        if self.manners.checks_then_writes.load(Ordering::SeqCst) {
            let taken = self.bucket(bucket)?.objects.contains_key(name);
            tokio::time::sleep(Duration::from_millis(20)).await;
            return if taken { Err(s3_error!(PreconditionFailed)) } else { Ok(true) };
        }
        Ok(false)
    }

    pub fn object(&self, name: &str) -> Option<Bytes> {
        self.state().objects.get(name).map(|object| object.bytes.clone())
    }

    pub fn names(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    pub fn put_raw(&self, name: &str, bytes: Bytes) {
        self.state().store(name, bytes, None);
    }

    pub fn remove_raw(&self, name: &str) {
        self.state().objects.remove(name);
    }

    pub fn set_bucket_exists(&self, exists: bool) {
        self.state().bucket_is_gone = !exists;
    }

    pub fn overwrites(&self) -> usize {
        self.state().overwrites
    }

    pub fn unfinished_uploads(&self) -> usize {
        self.state().uploads.len()
    }

    pub fn encryption(&self, name: &str) -> Option<String> {
        self.state().objects.get(name)?.encryption.clone()
    }
}

async fn collect(body: Option<StreamingBlob>) -> S3Result<Bytes> {
    let mut bytes = BytesMut::new();
    let Some(mut body) = body else { return Ok(Bytes::new()) };
    while let Some(piece) = body.next().await {
        bytes.extend_from_slice(&piece.map_err(|_| s3_error!(IncompleteBody))?);
    }
    Ok(bytes.freeze())
}

#[async_trait::async_trait]
impl S3 for Backend {
    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        drop(self.bucket(&input.bucket)?);
        let announced = input.content_length;
        let bytes = collect(input.body).await?;
        if announced.is_some_and(|len| len != bytes.len() as i64) {
            return Err(s3_error!(IncompleteBody));
        }
        let checked = self.check(&input.bucket, &input.key, input.if_none_match.as_ref()).await?;
        let mut state = self.bucket(&input.bucket)?;
        if !checked && state.objects.contains_key(&input.key) {
            return Err(s3_error!(PreconditionFailed));
        }
        let encryption = input.server_side_encryption.map(|sse| sse.as_str().to_owned());
        let etag = state.store(&input.key, bytes, encryption);
        Ok(S3Response::new(PutObjectOutput { e_tag: Some(ETag::Strong(etag)), ..Default::default() }))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let state = self.bucket(&input.bucket)?;
        let object = state.objects.get(&input.key).cloned().ok_or_else(|| s3_error!(NoSuchKey))?;
        let len = object.bytes.len() as u64;
        let range = input.range.filter(|_| !self.manners.ignores_ranges.load(Ordering::SeqCst));
        let (bytes, content_range) = match range {
            None => (object.bytes, None),
            Some(range) => {
                let range = range.check(len).map_err(|_| s3_error!(InvalidRange))?;
                let text = format!("bytes {}-{}/{len}", range.start, range.end - 1);
                (object.bytes.slice(range.start as usize..range.end as usize), Some(text))
            }
        };
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some(bytes.len() as i64),
            content_range,
            body: Some(StreamingBlob::from(s3s::Body::from(bytes))),
            e_tag: Some(ETag::Strong(object.etag)),
            ..Default::default()
        }))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let state = self.bucket(&request.input.bucket)?;
        let object = state.objects.get(&request.input.key).ok_or_else(|| s3_error!(NoSuchKey))?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(object.bytes.len() as i64),
            e_tag: Some(ETag::Strong(object.etag.clone())),
            ..Default::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let state = self.bucket(&input.bucket)?;
        let (prefix, delimiter) =
            (input.prefix.clone().unwrap_or_default(), input.delimiter.clone().unwrap_or_default());
        let start_after = input.start_after.filter(|_| !self.manners.ignores_start_after.load(Ordering::SeqCst));
        let after = input.continuation_token.or(start_after).unwrap_or_default();
        let asked = input.max_keys.map_or(1000, |max| max.clamp(0, 1000) as usize);
        let page = asked.min(self.manners.page_size.load(Ordering::SeqCst));
        let (mut contents, mut folders, mut last) = (Vec::new(), BTreeSet::new(), None);
        let mut truncated = false;
        for (name, object) in state.objects.range(prefix.clone()..).take_while(|(name, _)| name.starts_with(&prefix)) {
            let rest = &name[prefix.len()..];
            let folder = rest.split_once(&delimiter).filter(|_| !delimiter.is_empty());
            let entry = folder.map_or(name.clone(), |(folder, _)| format!("{prefix}{folder}{delimiter}"));
            if entry <= after || folders.contains(&entry) {
                continue;
            }
            if contents.len() + folders.len() == page {
                truncated = true;
                break;
            }
            last = Some(entry.clone());
            if folder.is_some() {
                folders.insert(entry);
            } else {
                let (key, size) = (Some(entry), Some(object.bytes.len() as i64));
                contents.push(s3s::dto::Object { key, size, ..Default::default() });
            }
        }
        let circles = self.manners.lists_in_circles.load(Ordering::SeqCst);
        let token = if circles { Some("again".to_owned()) } else { last.filter(|_| truncated) };
        let folders: Vec<_> = folders.into_iter().map(|p| CommonPrefix { prefix: Some(p) }).collect();
        Ok(S3Response::new(ListObjectsV2Output {
            key_count: Some((contents.len() + folders.len()) as i32),
            contents: Some(contents),
            common_prefixes: Some(folders),
            is_truncated: Some(truncated || circles),
            next_continuation_token: token,
            ..Default::default()
        }))
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.bucket(&request.input.bucket)?.objects.remove(&request.input.key);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let mut state = self.bucket(&request.input.bucket)?;
        let objects = request.input.delete.objects;
        if objects.len() > 1000 {
            return Err(s3_error!(MalformedXML));
        }
        let mut errors = Vec::new();
        for object in objects {
            // One name that nobody may delete, as under a retention lock.
            if object.key.ends_with("/locked") {
                let code = Some("AccessDenied".to_owned());
                errors.push(s3s::dto::Error { code, key: Some(object.key), ..Default::default() });
            } else {
                state.objects.remove(&object.key);
            }
        }
        Ok(S3Response::new(DeleteObjectsOutput { errors: Some(errors), ..Default::default() }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = request.input;
        let mut state = self.bucket(&input.bucket)?;
        let id = format!("upload-{}", state.next());
        let encryption = input.server_side_encryption.map(|sse| sse.as_str().to_owned());
        state.uploads.insert(id.clone(), Upload { name: input.key, encryption, parts: BTreeMap::new() });
        Ok(S3Response::new(CreateMultipartUploadOutput { upload_id: Some(id), ..Default::default() }))
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let input = request.input;
        let (crc32, bytes) = (input.checksum_crc32, collect(input.body).await?);
        let mut state = self.bucket(&input.bucket)?;
        let etag = format!("{:032x}", state.next());
        let upload = state.uploads.get_mut(&input.upload_id).filter(|upload| upload.name == input.key);
        let upload = upload.ok_or_else(|| s3_error!(NoSuchUpload))?;
        upload.parts.insert(input.part_number, (etag.clone(), bytes));
        let e_tag = Some(ETag::Strong(etag));
        Ok(S3Response::new(UploadPartOutput { e_tag, checksum_crc32: crc32, ..Default::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = request.input;
        let checked = self.check(&input.bucket, &input.key, input.if_none_match.as_ref()).await?;
        let mut state = self.bucket(&input.bucket)?;
        if !checked && state.objects.contains_key(&input.key) {
            return Err(s3_error!(PreconditionFailed));
        }
        let upload = state.uploads.get(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let named = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let mut bytes = BytesMut::new();
        for part in named {
            let number = part.part_number.ok_or_else(|| s3_error!(InvalidPart))?;
            let (etag, part_bytes) = upload.parts.get(&number).ok_or_else(|| s3_error!(InvalidPart))?;
            if part.e_tag.as_ref().map(|e| e.value()) != Some(etag.as_str()) {
                return Err(s3_error!(InvalidPart));
            }
            bytes.extend_from_slice(part_bytes);
        }
        let upload = state.uploads.remove(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let etag = state.store(&input.key, bytes.freeze(), upload.encryption);
        let e_tag = Some(ETag::Strong(etag));
        Ok(S3Response::new(CompleteMultipartUploadOutput { e_tag, ..Default::default() }))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let mut state = self.bucket(&request.input.bucket)?;
        state.uploads.remove(&request.input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}
