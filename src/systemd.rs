//! Tells systemd, or whoever else started this process with a notification socket, that it is ready, well and stopping.
//! `man sd_notify`: one datagram per message, to a path or to an abstract name.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::config::Environment;

/// What tells a process of its notification socket. Not for the children of this one: what they say would be taken for ours.
pub const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// The sending end.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// `None`: nobody wants to know.
    pub fn from_environment(environment: Environment<'_>) -> io::Result<Option<Notifier>> {
        let Some(name) = environment("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return Ok(None) };
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None if name.starts_with('/') => SocketAddr::from_pathname(&name)?,
            None => {
                let problem = format!("NOTIFY_SOCKET={name:?} is neither a path nor an abstract name");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
            }
        };
        let socket = UnixDatagram::unbound()?;
        // Who does not read what is said must not hold anything up.
        socket.set_nonblocking(true)?;
        socket.connect_addr(&address)?;
        Ok(Some(Notifier { socket, watchdog: watchdog(environment, std::process::id()) }))
    }

    /// How often at least it wants to hear that all is well.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    pub fn well(&self) {
        self.send("WATCHDOG=1");
    }

    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={}", one_line(status)));
    }

    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=shipping what is captured");
    }

    fn send(&self, message: &str) {
        if let Err(error) = self.socket.send(message.as_bytes()) {
            tracing::debug!("the notification socket took nothing: {error}");
        }
    }
}

/// A line break would begin another message.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// Set for another process, it does not concern this one.
fn watchdog(environment: Environment<'_>, own: u32) -> Option<Duration> {
    let micros: u64 = environment("WATCHDOG_USEC")?.parse().ok().filter(|micros| *micros > 0)?;
    let is_other = environment("WATCHDOG_PID").is_some_and(|pid| pid.parse() != Ok(own));
    (!is_other).then(|| Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| pairs.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned())
    }

    /// Each message arrives as the protocol says, at a path and at an abstract name.
    #[test]
    fn messages_arrive() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("notify").display().to_string();
        let name = format!("@replicate-test-{:032x}", rand::random::<u128>());
        let abstract_name = SocketAddr::from_abstract_name(&name[1..]).expect("a name");
        for (text, socket) in [
            (path.as_str(), UnixDatagram::bind(&path).expect("bound")),
            (name.as_str(), UnixDatagram::bind_addr(&abstract_name).expect("bound")),
        ] {
            socket.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
            let notifier = Notifier::from_environment(&with(&[("NOTIFY_SOCKET", text)])).expect("connected");
            let notifier = notifier.expect("it is wanted");
            notifier.ready("two\nlines");
            notifier.well();
            notifier.stopping();
            for expected in ["READY=1\nSTATUS=two lines", "WATCHDOG=1", "STOPPING=1\nSTATUS=shipping what is captured"]
            {
                let mut buffer = [0; 1000];
                let len = socket.recv(&mut buffer).expect("a message");
                assert_eq!(std::str::from_utf8(&buffer[..len]).expect("text"), expected);
            }
        }
    }

    /// Without a socket nobody is told; what is no socket is an error; who listens no more, or slowly, does no harm.
    #[test]
    fn nobody_and_nonsense() {
        assert!(Notifier::from_environment(&with(&[])).expect("fine").is_none());
        assert!(Notifier::from_environment(&with(&[("NOTIFY_SOCKET", "")])).expect("fine").is_none());
        for wrong in ["vsock:2:1", "relative", "/no/such/socket"] {
            Notifier::from_environment(&with(&[("NOTIFY_SOCKET", wrong)])).expect_err(wrong);
        }
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("notify").display().to_string();
        let socket = UnixDatagram::bind(&path).expect("bound");
        let notifier = Notifier::from_environment(&with(&[("NOTIFY_SOCKET", &path)])).expect("connected");
        let notifier = notifier.expect("it is wanted");
        for _ in 0..10_000 {
            notifier.well();
        }
        drop(socket);
        notifier.well();
    }

    /// The watchdog is for the process that it names.
    #[test]
    fn the_watchdog_of_another_process_is_not_ours() {
        let watchdog = |pairs: &[(&str, &str)]| watchdog(&with(pairs), 7);
        let minute = Some(Duration::from_secs(60));
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "60000000")]), minute);
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "60000000"), ("WATCHDOG_PID", "7")]), minute);
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "60000000"), ("WATCHDOG_PID", "8")]), None);
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "0")]), None);
        assert_eq!(watchdog(&[]), None);
    }
}
