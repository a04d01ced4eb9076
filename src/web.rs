//! The HTTP server of a running `replicate run`: `/metrics`, `/healthz`, `/readyz` and `/status`, as renderings of status, and
//! the ops panel.
//!
//! Every connection is for one request and has a bounded time and size; when too many are open, the oldest gives way, so that
//! clients which do nothing cannot keep one out that asks.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::replicator::{Handle, release_memory};
use crate::store::Requests;

mod metrics;
mod pages;
mod panel;
mod text;

use pages::Page;
pub use panel::{Desk, Panel, Task};

/// Connections at the same time.
const MAX_CONNECTIONS: usize = 64;
/// From the first byte of a request to the end of its head.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// From the beginning of a connection to its end, the answer included.
const CONNECTION_TIME: Duration = Duration::from_secs(30);
/// Bytes of a request's head.
const MAX_HEAD_BYTES: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;
/// When a connection could not be accepted (too many open files), the next attempt waits.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// Bytes of an answer after which memory is given back to the system.
const MUCH: usize = 4 << 20;

/// One database of this process.
#[derive(Debug, Clone)]
pub struct Watched {
    pub path: PathBuf,
    pub handle: Handle,
    /// Of its replicas, in their order.
    pub requests: Vec<Arc<Requests>>,
    /// Who does what the panel asks for.
    pub desk: Arc<dyn Desk>,
}

/// What is served: nothing but that the process lives, until its databases are started.
#[derive(Debug)]
struct Board {
    watched: RwLock<Option<Arc<Vec<Watched>>>>,
    panel: Arc<Panel>,
    /// One rendering at a time bounds memory, whatever is asked.
    rendering: Mutex<()>,
    /// A large answer was given, and what it took can be given back.
    gave_much: AtomicBool,
}

impl Board {
    fn watched(&self) -> Option<Arc<Vec<Watched>>> {
        self.watched.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An address that is taken and nobody is answered at yet.
#[derive(Debug)]
pub struct Bound(StdListener);

impl Bound {
    pub fn new(address: SocketAddr) -> io::Result<Bound> {
        let listener = StdListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Bound(listener))
    }

    /// With the port that the system chose where that was 0.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Answers from now on. Must be called within a tokio runtime.
    pub fn serve(self, panel: Panel) -> io::Result<Server> {
        let listener = TcpListener::from_std(self.0)?;
        let board = Arc::new(Board {
            watched: RwLock::default(),
            panel: Arc::new(panel),
            rendering: Mutex::default(),
            gave_much: AtomicBool::new(false),
        });
        let tasks = [tokio::spawn(accept(listener, board.clone())), tokio::spawn(sample(board.clone()))];
        Ok(Server { tasks, board })
    }
}

/// Answers until it is dropped.
#[derive(Debug)]
pub struct Server {
    tasks: [JoinHandle<()>; 2],
    board: Arc<Board>,
}

impl Server {
    /// These databases are started: from now on they are told about.
    pub fn show(&self, watched: Vec<Watched>) {
        *self.board.watched.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(watched));
    }

    /// Gives up what was asked for on the panel and is not done.
    pub async fn stop_jobs(&self) {
        self.board.panel.stop().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Remembers now and then how things stand.
async fn sample(board: Arc<Board>) {
    let mut steps = tokio::time::interval(Panel::STEP);
    steps.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        steps.tick().await;
        if let Some(all) = board.watched() {
            let panel = board.panel.clone();
            // Some thousand databases are some milliseconds.
            tokio::task::spawn_blocking(move || panel.sample(&all)).await.ok();
        }
    }
}

async fn accept(listener: TcpListener, board: Arc<Board>) {
    let mut open: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok((stream, peer)) => (stream, peer.ip()),
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= MAX_CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            tracing::debug!("more than {MAX_CONNECTIONS} connections: the oldest is closed");
            oldest.abort();
        }
        open.push_back(tokio::spawn(converse(stream, peer, board.clone())));
    }
}

/// One connection: one request, one answer.
async fn converse(stream: TcpStream, peer: IpAddr, board: Arc<Board>) {
    let service = service_fn(|request| answer(request, peer, &board));
    let mut server = http1::Builder::new();
    server.keep_alive(false).max_buf_size(MAX_HEAD_BYTES).max_headers(MAX_HEADERS);
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
    let connection = server.serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIME, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("a connection failed: {error}"),
        Err(_) => tracing::debug!("a connection took longer than {CONNECTION_TIME:?}"),
    }
    if board.gave_much.swap(false, Ordering::SeqCst) {
        release_memory();
    }
}

async fn answer(
    request: Request<Incoming>,
    peer: IpAddr,
    board: &Arc<Board>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if Panel::is_page(request.uri().path()) {
        return Ok(board.panel.answer(request, peer, board.watched(), &board.rendering).await);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = respond(Page::text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are known here\n"));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    let path = request.uri().path().to_owned();
    let board = board.clone();
    let _turn = board.rendering.lock().await;
    let watched = board.watched();
    let failures = board.panel.failures();
    // It may read files and take a while where there are thousands of databases.
    let page = move || pages::page(&path, watched.as_ref().map(|all| all.as_slice()), failures);
    let rendered = tokio::task::spawn_blocking(page).await;
    if rendered.as_ref().is_ok_and(|page| page.body.len() > MUCH) {
        board.gave_much.store(true, Ordering::SeqCst);
    }
    Ok(respond(rendered.unwrap_or_else(|error| {
        tracing::error!("a page could not be rendered: {error}");
        Page::text(StatusCode::INTERNAL_SERVER_ERROR, "this page could not be rendered; the log says why\n")
    })))
}

fn respond(page: Page) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(page.body)));
    *response.status_mut() = page.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(page.kind));
    plain_headers(headers);
    response
}

/// Kept by nobody, and taken for nothing else.
fn plain_headers(headers: &mut HeaderMap) {
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}
