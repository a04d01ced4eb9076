//! The store contract against a server that is not ours: ministack, from PyPI. Skipped, loudly, where it cannot be had.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use replicate::store::{self, Secret, StoreOptions};

fn install() -> Result<PathBuf, String> {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (venv, binary) = (tmp.join("ministack"), tmp.join("ministack/bin/ministack"));
    if binary.exists() {
        return Ok(venv);
    }
    let _ = std::fs::remove_dir_all(&venv);
    run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    run(Command::new(venv.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check", "ministack"]))?;
    Ok(venv)
}

fn run(command: &mut Command) -> Result<(), String> {
    let done = command.stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
    let complaint = String::from_utf8_lossy(&done.stderr);
    done.status.success().then_some(()).ok_or_else(|| format!("{command:?}: {}", complaint.trim()))
}

struct Ministack {
    process: Child,
    port: u16,
}

impl Drop for Ministack {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Ministack {
    fn start(venv: &Path) -> Result<Ministack, String> {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(|e| e.to_string())?.port();
        let mut command = Command::new(venv.join("bin/python"));
        command.arg(venv.join("bin/ministack")).current_dir(venv);
        command.env("GATEWAY_PORT", port.to_string()).env("BIND_HOST", "127.0.0.1").env("SERVICES", "s3");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().map_err(|e| e.to_string())?;
        let mut server = Ministack { process, port };
        for _ in 0..300 {
            if server.process.try_wait().is_ok_and(|ended| ended.is_some()) {
                return Err("it ended at once".to_owned());
            }
            if server.create_bucket().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                return Ok(server);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err("it does not answer".to_owned())
    }

    /// It checks no signature, so that this needs none.
    fn create_bucket(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "PUT /contract HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

/// Every behaviour of the contract, from a server that was written by somebody else.
#[tokio::test]
async fn ministack() {
    let server = match install().and_then(|venv| Ministack::start(&venv)) {
        Ok(server) => server,
        Err(why) => {
            eprintln!("SKIPPED: ministack cannot be had here, the contract ran only against our own server: {why}");
            return;
        }
    };
    let url = format!("s3://contract/some/prefix?endpoint=http://127.0.0.1:{}&region=us-east-1", server.port);
    let options = StoreOptions {
        access_key_id: Some("test".to_owned()),
        secret_access_key: Some(Secret::new("test")),
        ..StoreOptions::default()
    };
    crate::store_contract::whole_contract(&store::open(&url, &options).unwrap()).await;
    let with_checksums = format!("{url}&checksum=when-supported").replace("some/prefix", "with/checksums");
    crate::store_contract::whole_contract(&store::open(&with_checksums, &options).unwrap()).await;
}
