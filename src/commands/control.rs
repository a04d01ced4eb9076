//! `replicate sync` and `replicate status`: a running replicator is asked.

use std::time::Duration;

use serde_json::Value;

use super::source::Source;
use super::{print, print_json};
use crate::cli::{PauseArgs, ReloadArgs, ResumeArgs, StatusArgs, SyncArgs};
use crate::config::units::{parse_duration, show_duration};
use crate::config::{DatabaseConfig, Environment};
use crate::control::{Answer, Request, ask};
use crate::error::Error;
use crate::position::whole_ms;

const WATCH: Duration = Duration::from_secs(1);

/// Asks the replicator of a database; `None` when none runs.
pub fn asked(database: &DatabaseConfig, request: &Request) -> Result<Option<Value>, Error> {
    let failed = |error| {
        Error::failed(format!("cannot ask the replicator of {}", database.path.display()))
            .because(error)
            .next_step("ask as the user that runs it")
    };
    match ask(&database.state_dir, request).map_err(failed)? {
        None => Ok(None),
        Some(Answer::Done(value)) => Ok(Some(value)),
        Some(Answer::Failed(text)) => Err(Error::failed(text)),
    }
}

fn running(database: &DatabaseConfig, request: &Request) -> Result<Value, Error> {
    asked(database, request)?.ok_or_else(|| {
        Error::failed(format!("no replicator of {} is running", database.path.display()))
            .next_step("start it: replicate run; or bring its replicas level once: replicate run --once")
    })
}

pub fn execute_sync(args: &SyncArgs, environment: Environment<'_>) -> Result<(), Error> {
    let database = Source::live(&args.source, environment)?;
    let timeout = parse_duration(&args.timeout).map_err(Error::usage)?;
    let timeout_ms = whole_ms(timeout);
    let place = running(&database, &Request::Sync { database: database.path.clone(), timeout_ms })?;
    match args.json.on {
        true => print_json(&place),
        false => print(&format!(
            "everything up to {}/{} is in every replica\n",
            place["generation"].as_str().unwrap_or_default(),
            place["txid"]
        )),
    }
}

pub fn execute_pause(args: &PauseArgs, environment: Environment<'_>) -> Result<(), Error> {
    let database = Source::live(&args.source, environment)?;
    let timeout = parse_duration(&args.timeout).map_err(Error::usage)?;
    let timeout_ms = whole_ms(timeout);
    let place = running(&database, &Request::Pause { database: database.path.clone(), timeout_ms })?;
    match args.json.on {
        true => print_json(&place),
        false => print(&format!(
            "let go of {} after commit {}; nothing is captured until: replicate resume\n",
            database.path.display(),
            place["txid"]
        )),
    }
}

pub fn execute_resume(args: &ResumeArgs, environment: Environment<'_>) -> Result<(), Error> {
    let database = Source::live(&args.source, environment)?;
    running(&database, &Request::Resume { database: database.path.clone() })?;
    print(&format!("capture of {} goes on\n", database.path.display()))
}

pub fn execute_reload(args: &ReloadArgs, environment: Environment<'_>) -> Result<(), Error> {
    let database = Source::live(&args.source, environment)?;
    let done = running(&database, &Request::Reload)?;
    if args.json.on {
        return print_json(&done);
    }
    let mut text = String::new();
    for what in ["added", "changed", "removed"] {
        for path in done[what].as_array().into_iter().flatten().filter_map(Value::as_str) {
            text.push_str(&format!("{what:<8} {path}\n"));
        }
    }
    print(&format!("{text}{} as before\n", done["unchanged"]))
}

pub fn execute_status(args: &StatusArgs, environment: Environment<'_>) -> Result<(), Error> {
    let database = Source::live(&args.source, environment)?;
    loop {
        let status = running(&database, &Request::Status)?;
        match args.json.on {
            true => print_json(&status)?,
            false => print(&text(&status))?,
        }
        if !args.watch {
            return Ok(());
        }
        std::thread::sleep(WATCH);
    }
}

fn text(status: &Value) -> String {
    let mut text = String::new();
    let shown = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    for database in status["databases"].as_array().into_iter().flatten() {
        text.push_str(&format!(
            "{}  {}  commit {}",
            shown(&database["database"]),
            shown(&database["state"]),
            database["captured"]
        ));
        if let Some(reason) = database["reason"].as_str() {
            text.push_str(&format!("  {reason}"));
        }
        text.push('\n');
        for replica in database["replicas"].as_array().into_iter().flatten() {
            let lag = Duration::from_millis(replica["lag_ms"].as_u64().unwrap_or(0));
            text.push_str(&format!(
                "  {}  {}  commit {}  lag {}  snapshot {}",
                shown(&replica["replica"]),
                shown(&replica["state"]),
                replica["shipped"],
                show_duration(lag),
                replica["snapshot"]["txid"].as_u64().map_or("none".to_owned(), |txid| format!("commit {txid}")),
            ));
            if let Some(reason) = replica["reason"].as_str() {
                text.push_str(&format!("  {reason}"));
            }
            text.push('\n');
            if replica["fencing"] == false {
                text.push_str("    this store does not keep two writers apart: see to it that only one runs\n");
            }
            for what in ["verify", "drill"] {
                if replica[what]["failing"] == true {
                    text.push_str(&format!("    {what} FAILED: {}\n", shown(&replica[what]["last_failure"]["text"])));
                }
            }
        }
    }
    text
}
