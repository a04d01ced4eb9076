//! An S3 server in this process, for tests: real HTTP on a loopback port, real signatures, atomic conditional writes,
//! parts, pages, ranges; and faults on demand. It has its own threads, so that blocking tests and child processes can
//! use it.

#![allow(dead_code, reason = "each of the test modules needs another part of it")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use replicate::store::{Secret, StoreOptions};
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

mod backend;
mod faults;
mod layer;

#[allow(unused_imports, reason = "each of the test modules needs another part of it")]
pub use faults::{Fault, Op, Rule, When};

use backend::Backend;
use faults::Faults;
use layer::Layer;

pub const BUCKET: &str = "bucket";
pub const ACCESS_KEY: &str = "REPLICATETESTKEY";
pub const SECRET_KEY: &str = "replicate/test/secret/key";
/// A key that is good only with the session token.
pub const SESSION_ACCESS_KEY: &str = "REPLICATETESTSESSION";
pub const SESSION_TOKEN: &str = "replicate-test-session-token";

/// What the server does unlike AWS, changeable while it runs.
#[derive(Debug)]
pub struct Manners {
    /// Overwrites whatever `If-None-Match` says, and answers 200.
    pub ignores_conditions: AtomicBool,
    /// Looks first and writes later, as servers do that answer 412 only in sequence.
    pub checks_then_writes: AtomicBool,
    /// Refuses checksums in headers and trailers with 400, as servers from before 2025 do.
    pub refuses_checksums: AtomicBool,
    /// Ignores `start-after`.
    pub ignores_start_after: AtomicBool,
    /// Announces the same next page for ever.
    pub lists_in_circles: AtomicBool,
    /// Answers a range with the whole object.
    pub ignores_ranges: AtomicBool,
    /// Temporary credentials are told to have expired.
    pub session_expired: AtomicBool,
    /// No connection is answered.
    pub outage: AtomicBool,
    /// The most entries of one page.
    pub page_size: AtomicUsize,
}

impl Default for Manners {
    fn default() -> Self {
        Manners {
            ignores_conditions: AtomicBool::new(false),
            checks_then_writes: AtomicBool::new(false),
            refuses_checksums: AtomicBool::new(false),
            ignores_start_after: AtomicBool::new(false),
            lists_in_circles: AtomicBool::new(false),
            ignores_ranges: AtomicBool::new(false),
            session_expired: AtomicBool::new(false),
            outage: AtomicBool::new(false),
            page_size: AtomicUsize::new(1000),
        }
    }
}

/// A running server, stopped when dropped.
pub struct S3Server {
    address: SocketAddr,
    backend: Backend,
    manners: Arc<Manners>,
    faults: Arc<Faults>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl S3Server {
    /// Starts on a free loopback port; `seed` decides about faults with a probability.
    pub fn start(seed: u64) -> S3Server {
        let manners = Arc::new(Manners::default());
        let faults = Arc::new(Faults::new(seed));
        let backend = Backend::new(manners.clone());
        let mut service = S3ServiceBuilder::new(backend.clone());
        let mut auth = s3s::auth::SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY);
        auth.register(SESSION_ACCESS_KEY.into(), SECRET_KEY.into());
        service.set_auth(auth);
        let layer = Layer::new(service.build(), manners.clone(), faults.clone());
        let (stop, stopped) = oneshot::channel();
        let (listening, address) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("s3-server".into()).spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
                listening.send(listener.local_addr().expect("a bound port")).expect("the starter waits");
                tokio::select! {
                    () = serve(listener, layer) => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        });
        let thread = Some(thread.expect("a thread"));
        let address = address.recv().expect("the server listens");
        S3Server { address, backend, manners, faults, stop: Some(stop), thread }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The URL of a replica on this server; the credentials are in `env` or `options`.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}?endpoint={}&region=us-east-1", self.endpoint())
    }

    /// For a child process.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            // No profile, no metadata service and no certificate of this machine has a part in the test.
            ("AWS_CONFIG_FILE", "/dev/null".to_owned()),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]
    }

    /// For a store in this process.
    pub fn options(&self) -> StoreOptions {
        StoreOptions {
            access_key_id: Some(ACCESS_KEY.to_owned()),
            secret_access_key: Some(Secret::new(SECRET_KEY)),
            ..StoreOptions::default()
        }
    }

    pub fn manners(&self) -> &Manners {
        &self.manners
    }

    pub fn set(&self, manner: impl Fn(&Manners) -> &AtomicBool, on: bool) {
        manner(&self.manners).store(on, Ordering::SeqCst);
    }

    /// Rules are tried in order; the first that fits a request has its fault happen.
    pub fn inject(&self, rule: Rule) {
        self.faults.add(rule);
    }

    pub fn clear_faults(&self) {
        self.faults.clear();
    }

    /// Requests that arrived, whatever became of them.
    pub fn requests(&self) -> usize {
        self.faults.total()
    }

    pub fn requests_of(&self, op: Op) -> usize {
        self.faults.count(op)
    }

    /// Faults that did happen.
    pub fn faults_injected(&self) -> usize {
        self.faults.injected()
    }

    /// Operation and name of every request, in order.
    pub fn log(&self) -> Vec<(Op, String)> {
        self.faults.log()
    }

    /// The bytes of an object as they are stored.
    pub fn object(&self, name: &str) -> Option<bytes::Bytes> {
        self.backend.object(name)
    }

    pub fn names(&self) -> Vec<String> {
        self.backend.names()
    }

    /// Changes what is stored behind everybody's back.
    pub fn put_raw(&self, name: &str, bytes: impl Into<bytes::Bytes>) {
        self.backend.put_raw(name, bytes.into());
    }

    pub fn remove_raw(&self, name: &str) {
        self.backend.remove_raw(name);
    }

    /// The bucket is gone, or there again.
    pub fn set_bucket_exists(&self, exists: bool) {
        self.backend.set_bucket_exists(exists);
    }

    /// Times an object got other bytes than it had.
    pub fn overwrites(&self) -> usize {
        self.backend.overwrites()
    }

    /// Uploads in parts that were neither completed nor aborted.
    pub fn unfinished_uploads(&self) -> usize {
        self.backend.unfinished_uploads()
    }

    /// Encryption that the last writer of an object asked for.
    pub fn encryption(&self, name: &str) -> Option<String> {
        self.backend.encryption(name)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// For other processes: prints how it is reached, as lines for a shell, and serves until this process is killed.
pub fn serve_until_killed() -> ! {
    let server = S3Server::start(1);
    for (name, value) in server.env() {
        println!("export {name}={value}");
    }
    println!("export S3_BUCKET={BUCKET} S3_ENDPOINT={}", server.endpoint());
    loop {
        std::thread::park();
    }
}

async fn serve(listener: TcpListener, layer: Layer) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let layer = layer.clone();
        tokio::spawn(async move {
            // An error is a fault on purpose, or a client that went away.
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), layer).await;
        });
    }
}
