//! Arguments of `replicate drill`.

use std::path::PathBuf;

use clap::Args;

use super::{EXIT_CODES, JsonArg, SourceArgs};

/// Restore to a scratch directory, check, assert, time it, and keep a record of it.
///
/// Of every replica of the source, one after the other: the point is restored as `restore` would, the engine checks it, and the
/// assertions of the configuration (`drill: assertions:`) are put to it, read-only. The record is an object in the replica; `list
/// --drills` shows them all. The scratch directory is removed, also after a failure.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
pub struct DrillArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// Which commit, as in `restore --at`. Default: the newest.
    #[arg(long, value_name = "POINT")]
    pub at: Option<String>,
    /// Where to restore to for a while. Default: `scratch` in the state directory of a configured database that has one,
    /// else the system's directory for temporary files.
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// A query that must give one row with one true value; besides those of the configuration. Can be repeated.
    #[arg(long = "assert", value_name = "SQL")]
    pub assertions: Vec<String>,
    /// Keep no record in the replica: for credentials that may only read.
    #[arg(long)]
    pub no_record: bool,
    #[command(flatten)]
    pub json: JsonArg,
}
