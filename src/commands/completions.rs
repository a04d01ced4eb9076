//! `replicate completions SHELL`.

use clap::CommandFactory;

use super::print;
use crate::cli::{Cli, CompletionsArgs};
use crate::error::Error;

pub fn execute(args: &CompletionsArgs) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "replicate", &mut script);
    print(&String::from_utf8_lossy(&script))
}
