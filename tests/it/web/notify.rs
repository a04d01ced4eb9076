//! What systemd hears, over a real notification socket.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{LONG, Scene};

/// systemd, as far as a service sees it.
pub struct Listener(UnixDatagram);

type Environment = Vec<(&'static str, String)>;

impl Listener {
    /// At a path, with a watchdog that wants to hear something every 200 ms.
    pub fn at_path(path: &Path, environment: &mut Environment) -> Listener {
        environment.push(("WATCHDOG_USEC", "200000".to_owned()));
        environment.push(("NOTIFY_SOCKET", path.display().to_string()));
        Listener(UnixDatagram::bind(path).expect("bound"))
    }

    /// At a name that no file has; without a watchdog.
    fn at_name(environment: &mut Environment) -> Listener {
        let name = format!("replicate-test-{:032x}", rand::random::<u128>());
        environment.push(("NOTIFY_SOCKET", format!("@{name}")));
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        Listener(UnixDatagram::bind_addr(&address).expect("bound"))
    }

    /// The next message within this time.
    fn next(&self, within: Duration) -> Option<String> {
        self.0.set_read_timeout(Some(within)).expect("set");
        let mut buffer = [0; 4096];
        let len = self.0.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..len]).into_owned())
    }

    /// The first message that begins like this; everything before it is dropped.
    pub fn wait_for(&self, beginning: &str) -> String {
        let end = Instant::now() + LONG;
        while Instant::now() < end {
            if let Some(message) = self.next(LONG).filter(|message| message.starts_with(beginning)) {
                return message;
            }
        }
        panic!("{beginning} was not heard");
    }

    /// Until no such message comes for many times as long as there should be between two of them.
    pub fn wait_for_silence_of(&self, beginning: &str) {
        let quiet = Duration::from_secs(2);
        let (end, mut since) = (Instant::now() + LONG, Instant::now());
        while since.elapsed() < quiet {
            assert!(Instant::now() < end, "{beginning} is still heard");
            if self.next(Duration::from_millis(100)).is_some_and(|message| message.starts_with(beginning)) {
                since = Instant::now();
            }
        }
    }
}

/// Ready is told once every database is captured and not before; then that all is well, again and again; a trouble in a line of
/// status; and at the end that it stops.
#[test]
fn ready_well_and_stopping_are_told() {
    let mut scene = Scene::new(1);
    let heard = Listener::at_path(&scene.path("notify"), &mut scene.environment);
    scene.apps[0].execute_batch("PRAGMA locking_mode=EXCLUSIVE; INSERT INTO t VALUES (1)").expect("locked");
    let serving =
        scene.start("databases: [{ path: DIR/0.db, max-lag: 2s, replicas: [DIR/r] }, { path: DIR/never.db }]");
    serving.wait_for("it tries", || serving.get("/readyz").body.contains("0.db"));
    assert_eq!(heard.next(Duration::from_secs(1)), None, "it is not captured");
    scene.apps.clear();
    let ready = heard.wait_for("READY=1");
    assert!(ready.contains("STATUS=2 databases"), "{ready}");
    for _ in 0..3 {
        heard.wait_for("WATCHDOG=1");
    }
    serving.wait_until_ready();
    for name in ["0.db", "0.db-wal", "0.db-shm"] {
        std::fs::remove_file(scene.path(name)).ok();
    }
    let status = heard.wait_for("STATUS=2 databases, 1 of them in trouble");
    assert!(status.contains("0.db: "), "{status}");
    serving.stop();
    heard.wait_for("STOPPING=1");
}

/// The socket may have an abstract name. Without a watchdog nothing is said in between. A command does not get to know of it.
#[test]
fn a_command_is_told_nothing_of_the_socket() {
    let mut scene = Scene::new(1);
    let heard = Listener::at_name(&mut scene.environment);
    let mut command = Command::new(env!("CARGO_BIN_EXE_replicate"));
    command.arg("run").arg(scene.database(0)).args(["--", "sh", "-c", "exit ${NOTIFY_SOCKET:+9}"]);
    command.env_remove("REPLICATE_LISTEN").envs(scene.environment.iter().map(|(name, value)| (name, value)));
    let output = command.stdin(Stdio::null()).output().expect("started");
    assert!(output.status.success(), "{output:?}");
    let first = heard.next(LONG).expect("a message");
    assert!(first.starts_with("READY=1"), "{first}");
    let second = heard.next(LONG).expect("a message");
    assert!(second.starts_with("STOPPING=1"), "{second}");
}
