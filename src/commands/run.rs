//! `replicate run`: databases are replicated until a signal, the end of a command, or the end of everything.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{engine_of, reading, runtime};
use crate::cli::RunArgs;
use crate::config::{Config, DatabaseConfig, Environment};
use crate::control::ReloadAnswer;
use crate::engine::EngineError;
use crate::engine::choice::Choice;
use crate::error::Error;
use crate::replicator::{Crew, Handle, StopReport};
use crate::status::{State, Status};
use crate::supervisor::{FORWARDED, STOPPING, Signals};
use crate::systemd::Notifier;
use discovery::Discovery;
use fleet::{Event, Fleet, Stopping, Working, start};
use memory::Activity;
use schedule::Scheduled;
use serving::Serving;

mod announce;
mod before_start;
mod desk;
mod discovery;
mod fleet;
mod limits;
mod memory;
mod once;
mod proving;
mod reload;
mod report;
mod schedule;
mod serving;
mod supervised;

pub fn execute(args: RunArgs, environment: Environment<'_>) -> Result<u8, Error> {
    let config = configured(&args, environment)?;
    memory::share_heaps();
    let runtime = runtime()?;
    let end = runtime.block_on(async {
        let signals = Signals::listen(if args.command.is_empty() { &HEARD } else { &FORWARDED })?;
        let (shutdown_timeout, notifier) = (config.shutdown_timeout, announce::notifier(environment));
        let reread = &|| configured(&args, environment);
        Run { signals, stops: Stops::default(), shutdown_timeout, notifier, reread }.run(&args, &config).await
    });
    // A request that hangs must not keep the process from ending.
    runtime.shutdown_background();
    end
}

/// What is to be replicated: the arguments beat the environment, the environment beats the file.
fn configured(args: &RunArgs, environment: Environment<'_>) -> Result<Config, Error> {
    let mut config = Config::load(args.config.file.as_deref(), environment)?.with_environment(environment)?;
    config.listen = args.listen.or(config.listen);
    if let Some(path) = &args.database {
        config = config.only(path, &args.urls)?;
    }
    if config.databases.is_empty() && config.groups.is_empty() {
        return Err(Error::usage("no database is named").next_step(
            "name one: `replicate run DATABASE [URL…]`, or a configuration: `replicate run --config FILE`",
        ));
    }
    if args.once && args.restore_if_missing {
        return Err(Error::usage("--once and --restore-if-missing contradict each other"));
    }
    Ok(config)
}

/// The engine that a file belongs to; told later for one that is still missing or empty.
fn engine_for(path: &Path) -> Result<Choice, Error> {
    let by_content = Choice::ByContent(engine_of);
    match by_content.look(path) {
        Ok(engine) => Ok(engine.map_or(by_content, Choice::Known)),
        Err(EngineError::NotCapturable { reason, next_step }) => Err(Error::failed(reason).next_step(next_step)),
        Err(error) => {
            Err(Error::failed(error.to_string()).next_step("run replicate as the user that owns the database"))
        }
    }
}

/// TERM and INT so far: the second one ends at once.
#[derive(Debug, Default)]
struct Stops {
    count: u32,
    last: Option<Instant>,
}

impl Stops {
    /// One more was asked for; how many that makes. What stops a whole process group, or forwards what it gets, sends the same wish
    /// twice within moments.
    fn asked(&mut self) -> u32 {
        let is_echo = self.last.is_some_and(|last| last.elapsed() < ECHO);
        self.count += u32::from(!is_echo);
        self.last.get_or_insert_with(Instant::now);
        self.count
    }
}

const ECHO: Duration = Duration::from_millis(300);

/// Without a command: those that ask to stop, and the one that asks to read the configuration again.
const HEARD: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

struct Run<'a> {
    signals: Signals,
    stops: Stops,
    shutdown_timeout: Duration,
    notifier: Option<Arc<Notifier>>,
    /// The configuration as it is now.
    reread: &'a dyn Fn() -> Result<Config, Error>,
}

impl Run<'_> {
    async fn run(mut self, args: &RunArgs, config: &Config) -> Result<u8, Error> {
        let scheduled = (!args.once).then(Scheduled::default);
        let turn = scheduled.as_ref().map(Scheduled::turn);
        let listen = config.listen.zip(turn);
        let served = |(address, turn)| Serving::start(address, &config.panel, args.config.file.clone(), turn);
        let server = listen.map(served).transpose()?;
        if args.restore_if_missing {
            for database in &config.databases {
                if let Some(code) = self.restore_if_missing(database).await? {
                    return Ok(code);
                }
            }
        }
        // Before anything is opened through an engine: from then on a raw look at the file would drop its locks.
        let named = config.databases.iter().map(|d| Ok((d.clone(), engine_for(&d.path)?)));
        let named = named.collect::<Result<Vec<_>, Error>>()?;
        let crew = limits::crew(config.active_databases);
        let fleet = Fleet::start(
            named,
            Discovery::new(config, BTreeMap::new())?,
            server,
            scheduled,
            crew,
            self.shutdown_timeout,
        )?;
        let _announcing = announce::announce(self.notifier.as_ref(), fleet.statuses());
        if args.once {
            return self.once(fleet).await;
        }
        match args.command.as_slice() {
            [] => self.until_stopped(fleet).await,
            command => self.with_command(fleet, args, command, config).await,
        }
    }

    /// An exit code where a signal came first.
    async fn restore_if_missing(&mut self, database: &DatabaseConfig) -> Result<Option<u8>, Error> {
        tokio::select! {
            done = reading::restore_if_missing(&database.path, &database.replicas) => done.map(|()| None),
            which = self.signals.next_stop() => {
                tracing::warn!("{which} while restoring: nothing at {} was changed", database.path.display());
                Ok(Some(128 + which as u8))
            }
        }
    }

    async fn until_stopped(mut self, mut fleet: Fleet) -> Result<u8, Error> {
        let end = loop {
            tokio::select! {
                which = self.signals.next() => {
                    if !STOPPING.contains(&which) {
                        self.reload(&mut fleet, None);
                        continue;
                    }
                    tracing::info!("{which}: shipping what is captured, for at most {:?}", self.shutdown_timeout);
                    self.stops.asked();
                    break None;
                }
                event = fleet.event() => match event {
                    Event::Ended(error) => break Some(error),
                    Event::Reload(answer) => self.reload(&mut fleet, Some(answer)),
                },
            }
        };
        let stopped = self.stop(fleet).await;
        match end {
            // That it could not ship everything either is no news then.
            Some(error) => Err(error),
            None => stopped.map(|()| super::DONE),
        }
    }

    /// Reads the configuration again. A bad one changes nothing.
    fn reload(&mut self, fleet: &mut Fleet, answer: Option<ReloadAnswer>) {
        let done = (self.reread)().and_then(|config| fleet.reload(&config));
        self.shutdown_timeout = fleet.shutdown_timeout;
        if let Err(error) = &done {
            tracing::error!("THE CONFIGURATION WAS NOT TAKEN OVER, everything goes on as before: {}", error.report());
        }
        if let Some(answer) = answer {
            // Whoever asked may have gone.
            answer.send(done.map_err(|error| error.report())).ok();
        }
    }

    async fn once(mut self, fleet: Fleet) -> Result<u8, Error> {
        let settled = tokio::select! {
            settled = once::settle_all(&fleet.all) => settled,
            which = self.signals.next_stop() => {
                self.stops.asked();
                Err(Error::failed(format!("{which} before every replica was level with its database"))
                    .next_step("run it again: it goes on where it was"))
            }
        };
        let stopped = self.stop(fleet).await;
        settled.and(stopped).map(|()| super::DONE)
    }

    /// A last look at every database, and everything shipped, within the shutdown time-out; a second TERM or INT ends it
    /// at once.
    async fn stop(&mut self, mut fleet: Fleet) -> Result<(), Error> {
        self.notifier.iter().for_each(|notifier| notifier.stopping());
        fleet.stop_scheduled().await;
        let mut stopping = std::mem::take(&mut fleet.resting);
        stopping.extend(std::mem::take(&mut fleet.all).into_iter().map(|working| working.stop(self.shutdown_timeout)));
        let mut first_error = None;
        for Stopping { path, state_dir, report: mut stop } in stopping {
            let report = loop {
                tokio::select! {
                    report = &mut stop => break report.ok(),
                    which = self.signals.next_stop() => {
                        if self.stops.asked() >= 2 {
                            break None;
                        }
                        tracing::info!("{which}: already shipping the rest; once more ends at once");
                    }
                }
            };
            if let Err(error) = judge(&path, &state_dir, report) {
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }
}

/// Runs a replicator for as long as `work` takes, where none runs already.
pub fn with_replicator<T>(
    database: &DatabaseConfig,
    work: impl AsyncFnOnce(&Handle) -> Result<T, Error>,
) -> Result<T, Error> {
    let engine = engine_for(&database.path)?;
    let runtime = runtime()?;
    let done = runtime.block_on(async {
        let working = start(&Arc::new(database.clone()), engine, Crew::unlimited(), Activity::default())?;
        let done = work(working.replicator.handle()).await;
        let report = working.replicator.stop(STOP_AFTER_WORK).await;
        done.and_then(|done| judge(&working.path, &working.state_dir, Some(report)).map(|()| done))
    });
    runtime.shutdown_background();
    done
}

/// For the final sync of a replicator that was started for one task.
const STOP_AFTER_WORK: Duration = Duration::from_secs(30);

/// Waits until capture has begun, or cannot without somebody else's doing.
async fn settled(status: &Status) -> State {
    let is_settled = |state: &State| {
        matches!(state, State::Running | State::Absent | State::NotCapturable(_) | State::Failed(_) | State::Stopped)
    };
    status.wait_for(|now| is_settled(&now.state)).await;
    status.state()
}

/// `None`: it was ended before it could say how far it came.
fn judge(path: &Path, state_dir: &Path, report: Option<StopReport>) -> Result<(), Error> {
    let next = format!(
        "what is captured is safe in {}; the next start ships it, before anything is lost by it",
        state_dir.display()
    );
    let failed = |what: String| Err(Error::failed(what).next_step(next.clone()));
    let Some(report) = report else {
        return failed(format!("{}: ended before everything was shipped", path.display()));
    };
    if report.is_complete() {
        if let Some(place) = report.captured {
            tracing::info!(database = %path.display(), commit = place.txid.0, "everything is in every replica");
        }
        return Ok(());
    }
    let captured = report.captured.map_or("unknown".to_owned(), |place| place.txid.0.to_string());
    let behind = report.replicas.iter().filter(|(_, _, complete)| !complete);
    let behind: Vec<_> = behind.map(|(name, place, _)| format!("{name} has commit {}", place.txid.0)).collect();
    failed(format!(
        "{}: not everything was shipped in time, or a first snapshot is not whole yet: captured commit {captured}, {}",
        path.display(),
        behind.join(", ")
    ))
}
