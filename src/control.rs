//! Control of a running `replicate run`, over a Unix socket that only its own user and root can talk to.
//!
//! One request per connection: a line of JSON each way. The socket belongs to the process; every state directory holds a
//! file with its path, so that whoever knows the database finds the process.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::label::Description;
use crate::layout::LabelName;
use crate::position::ParseError;
use crate::replicator::{Handle, SyncError};
use crate::store::Requests;

mod facts;

pub use facts::{state_word, status_value};

/// A socket's name is bounded by the system, at 108 bytes with its end.
const MAX_SOCKET_PATH: usize = 100;
const MAX_REQUEST_BYTES: u64 = 64 * 1024;
const MAX_ANSWER_BYTES: u64 = 64 * 1024 * 1024;
/// What an answer may take beyond the time that was asked for.
const ANSWER_GRACE: Duration = Duration::from_secs(10);

/// What a running process can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Where every database stands.
    Status,
    /// Answers when everything that was committed before is in every replica.
    Sync {
        database: PathBuf,
        timeout_ms: u64,
    },
    /// Answers when the database was let go of.
    Pause {
        database: PathBuf,
        timeout_ms: u64,
    },
    Resume {
        database: PathBuf,
    },
    /// The configuration is read again; answers with what that changed.
    Reload,
    /// Like `Sync`, with a snapshot of that commit or a later one in every replica.
    Snapshot {
        database: PathBuf,
        timeout_ms: u64,
        label: Option<NewLabel>,
    },
}

/// A label to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewLabel {
    pub name: String,
    pub description: Description,
}

impl Request {
    fn timeout(&self) -> Duration {
        match self {
            Request::Status | Request::Resume { .. } | Request::Reload => Duration::ZERO,
            Request::Sync { timeout_ms, .. }
            | Request::Pause { timeout_ms, .. }
            | Request::Snapshot { timeout_ms, .. } => Duration::from_millis(*timeout_ms),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Done(Value),
    Failed(String),
}

/// Where what came of a reload is told: what changed, or why nothing did.
pub type ReloadAnswer = oneshot::Sender<Result<Value, String>>;

/// The databases that can be asked about, as they come and go.
type Databases = Arc<RwLock<Arc<Vec<Asked>>>>;

/// A database, its handle, and what each of its replicas was asked.
pub type Asked = (PathBuf, Handle, Vec<Arc<Requests>>);

/// The listening end. Dropping it removes what it left in the file system.
#[derive(Debug)]
pub struct Control {
    task: JoinHandle<()>,
    socket: PathBuf,
    databases: Databases,
    left: BTreeSet<PathBuf>,
}

impl Control {
    /// From now on these are asked about, given with their paths and state directories.
    pub fn show(&mut self, databases: Vec<(PathBuf, Asked)>) -> io::Result<()> {
        for (state_dir, _) in &databases {
            let note = note_in(state_dir);
            if !self.left.contains(&note) {
                std::fs::write(&note, self.socket.as_os_str().as_bytes())?;
                self.left.insert(note);
            }
        }
        let shown = Arc::new(databases.into_iter().map(|(_, asked)| asked).collect());
        *self.databases.write().unwrap_or_else(PoisonError::into_inner) = shown;
        Ok(())
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
        for path in &self.left {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::debug!("cannot remove {}: {error}", path.display());
            }
        }
    }
}

fn note_in(state_dir: &Path) -> PathBuf {
    state_dir.join("control")
}

/// Listens for the databases of this process, given with their state directories. The first state directory, which
/// this process has locked, gets the socket. Who asks for a reload is handed to `reload`. Must be called within a tokio runtime.
pub fn listen(databases: Vec<(PathBuf, Asked)>, reload: mpsc::Sender<ReloadAnswer>) -> io::Result<Control> {
    let Some((first, _)) = databases.first() else { return Err(io::Error::other("there is no database")) };
    let mut socket = std::path::absolute(first)?.join("control.sock");
    if socket.as_os_str().as_bytes().len() > MAX_SOCKET_PATH {
        socket =
            std::env::temp_dir().join(format!("replicate-{}-{:08x}.sock", std::process::id(), rand::random::<u32>()));
    }
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&socket)?;
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600))?;
    let own = std::fs::metadata(&socket)?.uid();
    let shown = Databases::default();
    let asked = shown.clone();
    let task = tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let databases = asked.read().unwrap_or_else(PoisonError::into_inner).clone();
                    tokio::spawn(serve(stream, own, databases, reload.clone()));
                }
                Err(error) => {
                    tracing::warn!("the control socket: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    });
    let left = [socket.clone()].into();
    let mut control = Control { task, socket, databases: shown, left };
    control.show(databases)?;
    Ok(control)
}

async fn serve(stream: UnixStream, own: u32, databases: Arc<Vec<Asked>>, reload: mpsc::Sender<ReloadAnswer>) {
    if let Err(error) = answer(stream, own, &databases, &reload).await {
        tracing::debug!("a control connection ended: {error}");
    }
}

async fn answer(
    mut stream: UnixStream,
    own: u32,
    databases: &[Asked],
    reload: &mpsc::Sender<ReloadAnswer>,
) -> io::Result<()> {
    // The permissions of the socket say the same; but it exists for a moment before it has them.
    let peer = stream.peer_cred()?.uid();
    let (reading, mut writing) = stream.split();
    let mut line = Vec::new();
    tokio::io::BufReader::new(reading.take(MAX_REQUEST_BYTES)).read_until(b'\n', &mut line).await?;
    let answer = match serde_json::from_slice::<Request>(&line) {
        _ if peer != own && peer != 0 => Answer::Failed("only the user that runs it may ask".to_owned()),
        Ok(Request::Reload) => reloaded(reload).await,
        Ok(request) => carry_out(request, databases).await,
        Err(error) => Answer::Failed(format!("not understood: {error}")),
    };
    let mut text = serde_json::to_vec(&answer).map_err(io::Error::other)?;
    text.push(b'\n');
    writing.write_all(&text).await?;
    writing.shutdown().await
}

async fn reloaded(reload: &mpsc::Sender<ReloadAnswer>) -> Answer {
    let (answer, done) = oneshot::channel();
    let refused = || Answer::Failed("this process does not read its configuration again".to_owned());
    if reload.send(answer).await.is_err() {
        return refused();
    }
    match done.await {
        Ok(Ok(value)) => Answer::Done(value),
        Ok(Err(text)) => Answer::Failed(text),
        Err(_) => refused(),
    }
}

async fn carry_out(request: Request, databases: &[Asked]) -> Answer {
    let timeout = request.timeout();
    let result = match &request {
        Request::Status => {
            return Answer::Done(json!({
                "databases": databases.iter().map(facts::asked_value).collect::<Vec<_>>()
            }));
        }
        Request::Sync { database, .. } => match find(database, databases) {
            Ok(handle) => handle.sync(timeout).await.map(|place| facts::place_value(&place)),
            Err(answer) => return answer,
        },
        Request::Pause { database, .. } => match find(database, databases) {
            Ok(handle) => handle.pause(timeout).await.map(|place| facts::place_value(&place)),
            Err(answer) => return answer,
        },
        Request::Reload => return Answer::Failed("a reload is asked of the process, not of a database".to_owned()),
        Request::Resume { database } => match find(database, databases) {
            Ok(handle) => {
                handle.resume();
                return Answer::Done(json!({}));
            }
            Err(answer) => return answer,
        },
        Request::Snapshot { database, label, .. } => {
            let handle = match find(database, databases) {
                Ok(handle) => handle,
                Err(answer) => return answer,
            };
            return match snapshot(handle, label.as_ref(), timeout).await {
                Ok(value) => Answer::Done(value),
                Err(text) => Answer::Failed(text),
            };
        }
    };
    result.map_or_else(|error: SyncError| Answer::Failed(error.to_string()), Answer::Done)
}

/// A snapshot in every replica, with a label if that is asked for.
pub async fn snapshot(handle: &Handle, label: Option<&NewLabel>, timeout: Duration) -> Result<Value, String> {
    let taken = match label {
        None => handle.snapshot(timeout).await.map_err(|error| error.to_string())?,
        Some(label) => {
            let name: LabelName = label.name.parse().map_err(|error: ParseError| error.to_string())?;
            let made = handle.snapshot_labelled(&name, &label.description, timeout).await;
            made.map_err(|error| error.to_string())?
        }
    };
    Ok(facts::taken_value(&taken))
}

fn find<'a>(path: &Path, databases: &'a [Asked]) -> Result<&'a Handle, Answer> {
    let same = |other: &Path| other == path || std::fs::canonicalize(other).ok() == std::fs::canonicalize(path).ok();
    let found = databases.iter().find(|(other, ..)| same(other));
    found
        .map(|(_, handle, _)| handle)
        .ok_or_else(|| Answer::Failed(format!("{} is not replicated here", path.display())))
}

/// Asks the process that replicates the database with this state directory. `None`: none runs.
pub fn ask(state_dir: &Path, request: &Request) -> io::Result<Option<Answer>> {
    let socket = match std::fs::read(note_in(state_dir)) {
        Ok(bytes) => PathBuf::from(std::ffi::OsStr::from_bytes(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut stream = match std::os::unix::net::UnixStream::connect(&socket) {
        Ok(stream) => stream,
        // Left behind by a process that was killed.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(request.timeout() + ANSWER_GRACE))?;
    stream.write_all(&serde_json::to_vec(request).map_err(io::Error::other)?)?;
    stream.write_all(b"\n")?;
    let mut line = Vec::new();
    io::BufReader::new(stream.take(MAX_ANSWER_BYTES)).read_until(b'\n', &mut line)?;
    serde_json::from_slice(&line).map(Some).map_err(|error| io::Error::other(format!("not an answer: {error}")))
}
