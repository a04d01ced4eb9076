//! The child process of `run -- COMMAND`, and the signals that reach this process.

use std::ffi::OsString;
use std::process::ExitStatus;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::error::Error;
use crate::systemd::VARIABLES;
use reaper::Reaper;

mod reaper;

/// Signals that ask this process to stop.
pub const STOPPING: [Signal; 2] = [Signal::SIGTERM, Signal::SIGINT];
/// Signals that the child gets to see when this process receives them.
pub const FORWARDED: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGQUIT,
    Signal::SIGWINCH,
];

/// Signals wait here until they are looked at; more than this many at once say nothing new.
const WAITING_SIGNALS: usize = 64;

/// The signals that reach this process, in order. From the moment it exists, they no longer end the process by themselves.
#[derive(Debug)]
pub struct Signals {
    received: mpsc::Receiver<Signal>,
}

impl Signals {
    /// Needs a tokio runtime.
    pub fn listen(to: &[Signal]) -> Result<Signals, Error> {
        let (sender, received) = mpsc::channel(WAITING_SIGNALS);
        for &which in to {
            let mut stream = signal(SignalKind::from_raw(which as i32))
                .map_err(|error| Error::failed(format!("cannot listen to {which}")).because(error))?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    if let Err(mpsc::error::TrySendError::Closed(_)) = sender.try_send(which) {
                        return;
                    }
                }
            });
        }
        Ok(Signals { received })
    }

    /// The next one. Never ends: without signals it waits for ever.
    pub async fn next(&mut self) -> Signal {
        match self.received.recv().await {
            Some(which) => which,
            None => std::future::pending().await,
        }
    }

    /// The next one that asks to stop.
    pub async fn next_stop(&mut self) -> Signal {
        loop {
            let which = self.next().await;
            if STOPPING.contains(&which) {
                return which;
            }
        }
    }
}

/// A command that runs in a process group of its own.
#[derive(Debug)]
pub struct Supervised {
    child: Child,
    /// Of the command; also that of its process group.
    group: Option<Pid>,
    _reaper: Option<Reaper>,
}

impl Supervised {
    /// Starts `command`: the program and its arguments. It inherits stdin, stdout, stderr and the environment.
    pub fn start(command: &[OsString]) -> Result<Supervised, Error> {
        let [program, arguments @ ..] = command else { return Err(Error::usage("there is no command after `--`")) };
        let mut command = Command::new(program);
        VARIABLES.iter().for_each(|variable| _ = command.env_remove(variable));
        let child = command.args(arguments).process_group(0).spawn().map_err(|error| {
            Error::failed(format!("cannot start {}", program.to_string_lossy()))
                .because(error)
                .next_step("check the command after `--`: its path, and that it may be executed")
        })?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Ok(Supervised { child, group, _reaper: Reaper::start(group)? })
    }

    /// Sends a signal to everything in the command's process group.
    pub fn forward(&self, which: Signal) {
        if let Some(group) = self.group
            && let Err(error) = killpg(group, which)
        {
            // ESRCH: it has just ended, and `wait` will say so.
            tracing::debug!(signal = %which, %error, "the signal found no receiver");
        }
    }

    /// Waits for the command to end. May be dropped and called again.
    pub async fn wait(&mut self) -> Result<ExitStatus, Error> {
        let ended = self.child.wait().await;
        // Its number may belong to another process from now on.
        self.group = None;
        ended.map_err(|error| Error::failed("cannot wait for the command").because(error))
    }
}

/// The exit code that stands for how a command ended: its own, or 128+n when signal n ended it.
pub fn exit_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|number| 128 + number));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Supervised {
        let command: Vec<OsString> = ["/bin/sh", "-c", script].map(OsString::from).to_vec();
        Supervised::start(&command).expect("sh starts")
    }

    /// A command's own exit code is passed on; one that a signal ended counts as 128+n.
    #[tokio::test]
    async fn exit_codes_are_passed_on() {
        for (script, code) in [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill -15 $$", 143)] {
            assert_eq!(exit_code(shell(script).wait().await.expect("it ends")), code, "{script}");
        }
    }

    /// A signal reaches the whole process group, the command's own children too.
    #[tokio::test]
    async fn signals_reach_the_group() {
        let mut supervised = shell("(sleep 100; exit 0) & wait");
        supervised.forward(Signal::SIGTERM);
        assert_eq!(exit_code(supervised.wait().await.expect("it ends")), 143);
        supervised.forward(Signal::SIGTERM);
    }

    /// A command that does not exist is an error that names it.
    #[tokio::test]
    async fn a_missing_command_is_named() {
        let error = Supervised::start(&["/no/such/program".into()]).expect_err("it is missing");
        assert!(error.report().contains("/no/such/program"), "{}", error.report());
    }
}
