//! The duty of process 1: whatever loses its parent becomes its child, and stays a zombie until it is waited for.

use std::time::Duration;

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpgid, getpgrp};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::error::Error;

/// One of our own children stands before the orphans until whoever started it has waited for it.
const OWN_FIRST: Duration = Duration::from_millis(50);

/// Reaps until it is dropped.
#[derive(Debug)]
pub struct Reaper(JoinHandle<()>);

impl Drop for Reaper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Reaper {
    /// For process 1 only: others never get orphans. `command` is waited for elsewhere. Needs a tokio runtime.
    pub fn start(command: Option<Pid>) -> Result<Option<Reaper>, Error> {
        if std::process::id() != 1 {
            return Ok(None);
        }
        let failed = |error| Error::failed("cannot listen to SIGCHLD").because(error);
        let mut ended = signal(SignalKind::child()).map_err(failed)?;
        Ok(Some(Reaper(tokio::spawn(async move {
            loop {
                while reap(command) == Next::Own {
                    tokio::time::sleep(OWN_FIRST).await;
                }
                if ended.recv().await.is_none() {
                    return;
                }
            }
        }))))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Nobody is left to be waited for.
    Nobody,
    /// A child of our own is the next: it is not for us.
    Own,
}

/// Waits for every orphan that has ended, up to the first child of our own.
fn reap(command: Option<Pid>) -> Next {
    loop {
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let pid = match waitid(Id::All, look) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) => pid,
            Err(Errno::EINTR) => continue,
            Ok(_) | Err(_) => return Next::Nobody,
        };
        // What this process starts for itself stays in its group; a command and what comes of it never are in that.
        let is_helper = getpgid(Some(pid)).is_ok_and(|group| group == getpgrp());
        if is_helper || Some(pid) == command {
            return Next::Own;
        }
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(_) => tracing::debug!(pid = pid.as_raw(), "an orphan ended"),
            Err(error) => tracing::debug!(pid = pid.as_raw(), %error, "an orphan could not be waited for"),
        }
    }
}
