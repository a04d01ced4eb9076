//! `run -- COMMAND`: the command lives while its databases are replicated, and what it committed last is shipped when it has ended.

use std::ffi::OsString;
use std::time::Instant;

use nix::sys::signal::Signal;

use super::fleet::{Event, Fleet, Working};
use super::{Run, before_start, settled};
use crate::cli::RunArgs;
use crate::config::{Config, OnError};
use crate::error::{Error, ExitCode};
use crate::status::State;
use crate::supervisor::{STOPPING, Supervised, exit_code};

impl Run<'_> {
    pub(super) async fn with_command(
        mut self,
        mut fleet: Fleet,
        args: &RunArgs,
        command: &[OsString],
        config: &Config,
    ) -> Result<u8, Error> {
        for working in &fleet.all {
            tokio::select! {
                ready = ready(working) => ready?,
                which = self.signals.next_stop() => {
                    tracing::info!("{which} before the command was started");
                    self.stops.asked();
                    self.stop(fleet).await?;
                    return Ok(128 + which as u8);
                }
            }
        }
        if args.label_before_start {
            before_start::label(&fleet.all).await?;
        }
        let mut child = Supervised::start(command)?;
        tracing::info!(command = %command[0].to_string_lossy(), "started");
        let on_error = config.on_error;
        let (mut replication_ended, mut kill_at) = (None, None);
        let status = loop {
            tokio::select! {
                status = child.wait() => break status?,
                which = self.signals.next() => {
                    if STOPPING.contains(&which) {
                        self.stops.asked();
                        kill_at = kill_at.or(config.kill_after.map(|after| Instant::now() + after));
                    }
                    child.forward(which);
                }
                () = until(kill_at), if kill_at.is_some() => {
                    tracing::error!("the command has not ended within kill-after: it gets KILL, so that there is time to ship the rest");
                    child.forward(Signal::SIGKILL);
                    kill_at = None;
                }
                event = fleet.event(), if replication_ended.is_none() => {
                    let error = match event {
                        Event::Ended(error) => error,
                        Event::Reload(answer) => {
                            self.reload(&mut fleet, Some(answer));
                            continue;
                        }
                    };
                    let what = if on_error == OnError::Stop { "is stopped" } else { "goes on" };
                    tracing::error!("NOTHING IS REPLICATED ANY MORE; the command {what}. {}", error.report());
                    if on_error == OnError::Stop {
                        child.forward(Signal::SIGTERM);
                        kill_at = kill_at.or(config.kill_after.map(|after| Instant::now() + after));
                    }
                    replication_ended = Some(error);
                }
            }
        };
        self.end(fleet, exit_code(status), replication_ended.filter(|_| on_error == OnError::Stop)).await
    }

    /// Ships what the command committed last. Its exit code is ours, unless replication failed and nothing else tells so.
    async fn end(mut self, fleet: Fleet, code: u8, replication_failed: Option<Error>) -> Result<u8, Error> {
        tracing::info!(code, "the command ended; shipping what is captured, for at most {:?}", self.shutdown_timeout);
        let stopped = self.stop(fleet).await;
        if let Some(error) = replication_failed {
            return Err(error);
        }
        match stopped {
            Ok(()) => Ok(code),
            Err(error) if code == 0 => Err(Error::new(ExitCode::FinalSync, error.to_string())
                .next_step(error.advice().unwrap_or_default().to_owned())),
            Err(error) => {
                tracing::error!("{}", error.report());
                Ok(code)
            }
        }
    }
}

async fn until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at.into()).await;
    }
}

/// Waits until the command may be started: every commit is captured as it comes, or will be from the first one on.
async fn ready(working: &Working) -> Result<(), Error> {
    match settled(working.replicator.status()).await {
        State::Failed(text) => Err(Error::failed(text)),
        // A database that its application switches to WAL mode when it starts: waiting here would be waiting for ever.
        State::NotCapturable(why) => {
            tracing::warn!(database = %working.path.display(), "NOT CAPTURED YET, the command starts all the same: {why}");
            Ok(())
        }
        _ => Ok(()),
    }
}
