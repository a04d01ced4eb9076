//! Arguments of `manifest`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{EXIT_CODES, SourceArgs};

/// Print what a restore needs, with checksums, for an audit with other tools.
///
/// Reads every object that a restore to the point needs and prints its name, its size and its SHA-256. It says what the bytes
/// are now: `replicate verify --deep` tells whether they are right. With several replicas, the first one that can.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
pub struct ManifestArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// Which commit, as in `restore`. Default: the newest.
    #[arg(long, value_name = "POINT")]
    pub at: Option<String>,
    /// Only this generation.
    #[arg(long, value_name = "G")]
    pub generation: Option<String>,
    /// Also the files that `include` kept with the database, as `restore --with-files` would read them.
    #[arg(long)]
    pub with_files: bool,
    /// Write to this file, which must not exist, instead of stdout.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// `sha256sum`: lines for `sha256sum --check`, in the top folder of a copy of the replica.
    #[arg(long, value_name = "FORMAT", default_value = "json")]
    pub format: ManifestFormat,
    /// Objects read at the same time.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ManifestFormat {
    Json,
    Sha256sum,
}
