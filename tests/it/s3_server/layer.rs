//! What stands between the connection and the S3 service: the request log, faults, and manners that are no business of
//! S3 itself.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response};
use s3s::Body;
use s3s::service::S3Service;

use super::faults::{Fault, Faults, Op, When};
use super::{BUCKET, Manners, SESSION_ACCESS_KEY, SESSION_TOKEN};

#[derive(Clone)]
pub struct Layer {
    service: S3Service,
    manners: Arc<Manners>,
    faults: Arc<Faults>,
}

impl Layer {
    pub fn new(service: S3Service, manners: Arc<Manners>, faults: Arc<Faults>) -> Layer {
        Layer { service, manners, faults }
    }

    async fn answer(self, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let (op, name) = read(&request);
        let decided = self.faults.decide(op, &name);
        if self.manners.outage.load(Ordering::SeqCst) {
            return Err(closed());
        }
        if let Some(refusal) = self.refuse(&request) {
            drain(request).await;
            return Ok(refusal);
        }
        if let Some((When::Before, fault)) = decided {
            match fault {
                Fault::Answer(status, code, retry_after) => {
                    drain(request).await;
                    return Ok(error(status, code, retry_after));
                }
                Fault::Reset => return Err(closed()),
                Fault::Hang => return std::future::pending().await,
                Fault::Slow(time) => tokio::time::sleep(time).await,
                Fault::Truncate | Fault::FlipByte => {}
            }
        }
        let answer = hyper::service::Service::call(&self.service, request).await;
        let answer = answer.map_err(|_| io::Error::other("the S3 service failed"))?;
        match decided {
            Some((When::After, Fault::Answer(status, code, retry_after))) => Ok(error(status, code, retry_after)),
            Some((When::After, Fault::Reset)) => Err(closed()),
            Some((When::After, Fault::Hang)) => std::future::pending().await,
            Some((When::After, Fault::Slow(time))) => {
                tokio::time::sleep(time).await;
                Ok(answer)
            }
            Some((_, Fault::Truncate)) => truncate(answer).await,
            Some((_, Fault::FlipByte)) => self.flip_byte(answer).await,
            _ => Ok(answer),
        }
    }

    /// Refusals that depend on headers alone.
    fn refuse(&self, request: &Request<Incoming>) -> Option<Response<Body>> {
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let has_checksum = || {
            let mut names = request.headers().keys().map(|name| name.as_str());
            names.any(|name| {
                name.starts_with("x-amz-checksum-") || matches!(name, "x-amz-trailer" | "x-amz-sdk-checksum-algorithm")
            })
        };
        if self.manners.refuses_checksums.load(Ordering::SeqCst) && has_checksum() {
            return Some(error(400, "InvalidArgument", None));
        }
        if header("authorization").contains(SESSION_ACCESS_KEY) {
            if self.manners.session_expired.load(Ordering::SeqCst) {
                return Some(error(400, "ExpiredToken", None));
            }
            if header("x-amz-security-token") != SESSION_TOKEN {
                return Some(error(403, "InvalidToken", None));
            }
        }
        None
    }

    async fn flip_byte(&self, answer: Response<Body>) -> io::Result<Response<Body>> {
        let (head, bytes) = whole(answer).await?;
        let mut bytes = bytes.to_vec();
        let at = self.faults.below(bytes.len());
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << self.faults.below(8);
        }
        Ok(Response::from_parts(head, Body::from(Bytes::from(bytes))))
    }
}

impl hyper::service::Service<Request<Incoming>> for Layer {
    type Response = Response<Body>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Response<Body>>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        Box::pin(self.clone().answer(request))
    }
}

/// An error of the service closes the connection without an answer.
fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "closed on purpose")
}

/// Reads what the client sends, so that it sees the answer and not a broken pipe.
async fn drain(request: Request<Incoming>) {
    let _ = request.into_body().collect().await;
}

fn error(status: u16, code: &str, retry_after: Option<u64>) -> Response<Body> {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>injected</Message></Error>"
    );
    let mut response = Response::builder().status(status).header("content-type", "application/xml");
    if let Some(seconds) = retry_after {
        response = response.header("retry-after", seconds);
    }
    response.body(Body::from(Bytes::from(text))).expect("a valid answer")
}

async fn whole(answer: Response<Body>) -> io::Result<(hyper::http::response::Parts, Bytes)> {
    let (head, body) = answer.into_parts();
    let bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
    Ok((head, bytes))
}

/// Announces the whole body, sends the first half of it and closes the connection.
async fn truncate(answer: Response<Body>) -> io::Result<Response<Body>> {
    let (mut head, bytes) = whole(answer).await?;
    head.headers.insert("content-length", bytes.len().into());
    let half = Frame::data(bytes.slice(..bytes.len() / 2));
    let body = StreamBody::new(stream::iter([Ok(half), Err(closed())]));
    Ok(Response::from_parts(head, Body::http_body_unsync(body)))
}

fn read(request: &Request<Incoming>) -> (Op, String) {
    let name = request.uri().path().trim_start_matches('/');
    let name = name.strip_prefix(BUCKET).unwrap_or(name).trim_start_matches('/').to_owned();
    let query = request.uri().query().unwrap_or_default();
    let has = |parameter: &str| query.split('&').any(|p| p.split('=').next() == Some(parameter));
    let op = match *request.method() {
        Method::PUT if has("partNumber") => Op::Part,
        Method::PUT if !name.is_empty() => Op::Put,
        Method::GET if name.is_empty() => Op::List,
        Method::GET => Op::Get,
        Method::HEAD => Op::Head,
        Method::POST if has("delete") => Op::DeleteMany,
        Method::POST if has("uploads") => Op::BeginUpload,
        Method::POST if has("uploadId") => Op::Complete,
        Method::DELETE if has("uploadId") => Op::Abort,
        Method::DELETE => Op::Delete,
        _ => Op::Other,
    };
    (op, name)
}
