//! One file per command; here is only the way to them, and what they share.

use std::io::Write;
use std::sync::Arc;

use crate::cli::Command;
use crate::config::Environment;
use crate::engine::duckdb::Duckdb;
use crate::engine::sqlite::Sqlite;
use crate::engine::{Engine, EngineKind};
use crate::error::Error;

pub mod check;
pub mod completions;
pub mod control;
pub mod cost;
pub mod demo;
pub mod drill;
pub mod duckdb_child;
pub mod label;
pub mod list;
pub mod litestream;
pub mod man;
pub mod manifest;
pub mod progress;
pub mod prune;
pub mod reading;
pub mod restore;
pub mod run;
pub mod snapshot;
pub mod source;
pub mod verify;

/// Exit code of a command that did what it was asked to.
pub const DONE: u8 = 0;

/// Runs one command to its end. The exit code is that of success, or of the child process of `run -- COMMAND`.
pub fn execute(command: Command, environment: Environment<'_>) -> Result<u8, Error> {
    match command {
        Command::Run(args) => run::execute(args, environment),
        Command::Restore(args) => reading::execute_restore(args, environment).map(|()| DONE),
        Command::List(args) => reading::execute_list(args, environment).map(|()| DONE),
        Command::Verify(args) => reading::execute_verify(args, environment).map(|()| DONE),
        Command::Manifest(args) => manifest::execute(&args, environment).map(|()| DONE),
        Command::Drill(args) => drill::execute(args, environment),
        Command::Snapshot(args) => snapshot::execute(&args, environment).map(|()| DONE),
        Command::Label(args) => label::execute(args.command, environment).map(|()| DONE),
        Command::Pause(args) => control::execute_pause(&args, environment).map(|()| DONE),
        Command::Resume(args) => control::execute_resume(&args, environment).map(|()| DONE),
        Command::Reload(args) => control::execute_reload(&args, environment).map(|()| DONE),
        Command::Sync(args) => control::execute_sync(&args, environment).map(|()| DONE),
        Command::Status(args) => control::execute_status(&args, environment).map(|()| DONE),
        Command::Prune(args) => prune::execute(&args, environment).map(|()| DONE),
        Command::Check(args) => check::execute(&args, environment).map(|()| DONE),
        Command::Cost(args) => cost::execute(&args, environment).map(|()| DONE),
        Command::Demo(args) => demo::execute(&args).map(|()| DONE),
        Command::DemoWriter(args) => demo::execute_writer(&args).map(|()| DONE),
        Command::Completions(args) => completions::execute(&args).map(|()| DONE),
        Command::DuckdbChild(args) => duckdb_child::execute(&args, environment).map(|()| DONE),
        Command::Man(args) => man::execute(&args).map(|()| DONE),
    }
}

/// The engines of this build.
pub fn engine_of(kind: EngineKind) -> Option<Arc<dyn Engine>> {
    match kind {
        EngineKind::Sqlite => Some(Arc::new(Sqlite)),
        EngineKind::Duckdb => Some(Arc::new(Duckdb::default())),
    }
}

/// Prints a result. A reader that has gone away (`| head`) is no error of ours.
pub fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::failed("cannot write to stdout").because(error))
        }
        _ => Ok(()),
    }
}

/// Prints a fact as one JSON document.
pub fn print_json(value: &serde_json::Value) -> Result<(), Error> {
    print(&format!("{value:#}\n"))
}

/// The threads of a command that talks to stores. Two suffice: what takes long waits for the network or runs in a thread of
/// its own.
pub fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(64)
        .enable_all()
        .build()
        .map_err(|error| Error::failed("cannot start threads").because(error))
}
