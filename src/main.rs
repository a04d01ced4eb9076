//! The program: reads the command line, starts the log, runs one command, prints what went wrong, sets the exit code.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use replicate::cli::{Cli, Command};
use replicate::commands;
use replicate::error::Error;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // Wrong usage ends here, with 2.
    let cli = Cli::parse();
    let end = start_log(&cli.command).and_then(|()| commands::execute(cli.command, &environment));
    match end {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {}", error.report());
            ExitCode::from(error.exit().code())
        }
    }
}

/// The one place that reads the environment (but for what the SDK of a store reads by itself).
#[expect(clippy::disallowed_methods, reason = "the environment comes in here and is handed down")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The log goes to stderr; results alone go to stdout.
fn start_log(command: &Command) -> Result<(), Error> {
    let default = match command {
        Command::Run(_) => "warn,replicate=info",
        // It says itself what happens, and where the first start of everything is no news.
        Command::Demo(_) => "error",
        _ => "warn",
    };
    let text = environment("REPLICATE_LOG").filter(|text| !text.is_empty()).unwrap_or_else(|| default.to_owned());
    let filter = EnvFilter::try_new(&text).map_err(|error| {
        Error::usage(format!("REPLICATE_LOG={text:?} is not a filter"))
            .because(error)
            .next_step("use a level such as debug, or module=level pairs such as warn,replicate=debug")
    })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match environment("REPLICATE_LOG_FORMAT").as_deref() {
        Some("json") => log.json().flatten_event(true).init(),
        None | Some("" | "text") => log.with_ansi(std::io::stderr().is_terminal()).with_target(false).init(),
        Some(other) => return Err(Error::usage(format!("REPLICATE_LOG_FORMAT={other:?} is neither text nor json"))),
    }
    Ok(())
}
