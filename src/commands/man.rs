//! `replicate man`: the manual, made from the same texts as `--help`.

use std::path::Path;

use clap::CommandFactory;
use clap_mangen::Man;

use super::print;
use crate::cli::{Cli, ManArgs};
use crate::error::Error;

pub fn execute(args: &ManArgs) -> Result<(), Error> {
    let pages = pages()?;
    match &args.directory {
        Some(directory) => write(directory, &pages),
        None => {
            let all: Vec<&str> = pages.iter().map(|(_, text)| text.as_str()).collect();
            print(&all.join("\n"))
        }
    }
}

/// One page per command: its name and its text.
fn pages() -> Result<Vec<(String, String)>, Error> {
    let mut root = Cli::command().disable_help_subcommand(true);
    // Gives every subcommand its full usage line.
    root.build();
    let visible = root.get_subcommands().filter(|command| !command.is_hide_set());
    let commands = std::iter::once(root.clone()).chain(visible.map(|command| {
        let name = format!("replicate-{}", command.get_name());
        command.clone().display_name(name)
    }));
    let mut pages = Vec::new();
    for command in commands {
        let man = Man::new(command);
        let mut text = Vec::new();
        man.render(&mut text).map_err(|error| Error::failed("cannot render the manual").because(error))?;
        // What stands below every help is the exit codes; a manual has a section for them.
        let text = String::from_utf8_lossy(&text).replace(".SH EXTRA\nExit codes:\n", ".SH \"EXIT STATUS\"\n");
        pages.push((man.get_filename(), text));
    }
    Ok(pages)
}

fn write(directory: &Path, pages: &[(String, String)]) -> Result<(), Error> {
    let failed = |error| Error::failed(format!("cannot write to {}", directory.display())).because(error);
    std::fs::create_dir_all(directory).map_err(failed)?;
    for (name, text) in pages {
        std::fs::write(directory.join(name), text).map_err(failed)?;
    }
    Ok(())
}
