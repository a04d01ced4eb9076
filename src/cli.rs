//! The command line: types for clap, nothing else. What a command does with them is in `commands`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::units::parse_address;
use crate::engine::EngineKind;

mod audit;
mod cost;
mod drill;
mod live;

pub use audit::{ManifestArgs, ManifestFormat};
pub use cost::CostArgs;
pub use drill::DrillArgs;
pub use live::{
    LabelArgs, LabelCommand, LabelTexts, PauseArgs, ReloadArgs, ResumeArgs, SnapshotArgs, StatusArgs, SyncArgs,
};

/// Printed below the help of every command.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done; for `restore --if-missing` also: the target is there already
  1  failed; the message says what to do next
  2  wrong usage or configuration; nothing was touched
  3  nothing to restore: no such replica or point (with `--if-replica-exists` this is 0)
  4  refused: the target exists, or another writer holds the database or the replica
  5  the replica is damaged: which object, which commits are lost, which are still restorable
  6  the store could not be reached or denied access
  7  `run -- COMMAND`: the command ended well, but the final sync did not finish in time
  otherwise, with `run -- COMMAND`: the code of the command; 128+n when signal n ended it";

/// Continuously replicates live SQLite and DuckDB databases to S3 and directories, and restores them as they were after any commit.
#[derive(Debug, Parser)]
#[command(
    name = "replicate",
    version,
    after_help = EXIT_CODES,
    after_long_help = EXIT_CODES,
    arg_required_else_help = true,
    max_term_width = 120
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Replicate databases until told to stop.
    Run(RunArgs),
    /// Restore a database as it was after a commit.
    Restore(RestoreArgs),
    /// Show what a replica holds and what is restorable.
    List(ListArgs),
    /// Prove that a replica is whole.
    Verify(VerifyArgs),
    /// Print what a restore needs, with checksums, for an audit with other tools.
    Manifest(ManifestArgs),
    /// Restore to a scratch directory, check, assert, time it, and keep a record of it.
    Drill(DrillArgs),
    /// Take a snapshot now, and give its commit a name.
    Snapshot(SnapshotArgs),
    /// Commits that have a name.
    Label(LabelArgs),
    /// Wait until everything that is committed now is in every replica.
    Sync(SyncArgs),
    /// Let a running replicator let go of the database.
    Pause(PauseArgs),
    /// Let a paused replicator go on.
    Resume(ResumeArgs),
    Reload(ReloadArgs),
    /// Show where a running replicator stands.
    Status(StatusArgs),
    /// Delete what no retention rule keeps.
    Prune(PruneArgs),
    /// Show the configuration as understood, and the state of its databases.
    Check(CheckArgs),
    /// Estimate what a month costs, and tell what was really used.
    Cost(CostArgs),
    /// Replicate and restore a live database before your eyes.
    Demo(DemoArgs),
    /// The demo's writer: commits to a database and notes every commit in a ledger.
    #[command(hide = true)]
    DemoWriter(DemoWriterArgs),
    /// Print a completion script for a shell.
    Completions(CompletionsArgs),
    /// Print the manual.
    Man(ManArgs),
    #[command(name = "duckdb-child", hide = true)]
    DuckdbChild(DuckdbChildArgs),
}

/// Replicate databases until told to stop.
///
/// Without DATABASE, every database of the configuration. With DATABASE, only that one: its settings come from the
/// configuration if it is there, else from the configuration's `defaults`. Without URL and without replicas in the
/// configuration, the replica is the directory <DATABASE>.replica beside the database.
///
/// TERM or INT stops in good order: everything that was committed is shipped, for at most `shutdown-timeout` (30 s). A
/// second TERM or INT ends at once.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
pub struct RunArgs {
    /// Path of a database, or its name in the configuration.
    #[arg(value_name = "DATABASE", env = "REPLICATE_DATABASE")]
    pub database: Option<PathBuf>,
    /// Where to: s3://bucket/prefix, file:///directory or the path of a directory.
    #[arg(value_name = "URL", env = "REPLICATE_URL", hide_env_values = true)]
    pub urls: Vec<String>,
    #[command(flatten)]
    pub config: ConfigArg,
    /// Bring every replica level with the database, then end.
    #[arg(long, conflicts_with = "command")]
    pub once: bool,
    /// Where the database file is missing, first restore it from its first replica that has it.
    #[arg(long)]
    pub restore_if_missing: bool,
    /// Serve /metrics, /healthz, /readyz, /status and the ops panel here: 127.0.0.1:9187, or a port alone, on loopback. In the
    /// environment: REPLICATE_LISTEN.
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address, conflicts_with = "once")]
    pub listen: Option<SocketAddr>,
    /// Before the command starts, take a snapshot of every database that exists and label it `before-start-<time>`, kept
    /// for a week.
    #[arg(long, requires = "command")]
    pub label_before_start: bool,
    /// Start this once capture is running; end when it ends, after a final sync, with its exit code.
    #[arg(value_name = "COMMAND", last = true)]
    pub command: Vec<OsString>,
}

/// Restore a database as it was after a commit.
///
/// The file is written beside its target, proven against the checksum recorded at that commit and by the engine's own
/// check, and only then renamed. After an error nothing at the target has changed.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
pub struct RestoreArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// Where to write. Default: the configured database's path; for a URL, its last part, here.
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Which commit: `2026-11-20T10:15:00Z`, a local time, `now`, `5m ago`, `txid:123`, `GENERATION/123`. Default: the
    /// newest.
    #[arg(long, value_name = "POINT")]
    pub at: Option<String>,
    /// Only this generation.
    #[arg(long, value_name = "G")]
    pub generation: Option<String>,
    /// Where the target exists, do nothing and succeed.
    #[arg(long, conflicts_with = "overwrite")]
    pub if_missing: bool,
    /// Where there is no replica, do nothing and succeed.
    #[arg(long)]
    pub if_replica_exists: bool,
    /// Replace an existing target; the old file stays beside it as <name>.before-restore-<time>.
    #[arg(long)]
    pub overwrite: bool,
    /// Print the plan and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// Leave out the engine's own check of the restored file; its checksum is proven all the same.
    #[arg(long)]
    pub no_check: bool,
    /// DuckDB: leave the main file and its WAL as they were captured, instead of making one file of them.
    #[arg(long)]
    pub keep_wal: bool,
    /// Together with the files that `include` kept with the database, as they were at that commit: into its folder, all or nothing.
    #[arg(long)]
    pub with_files: bool,
    /// The same, but the files go into this directory.
    #[arg(long, value_name = "DIR")]
    pub files_to: Option<PathBuf>,
    /// Objects fetched at the same time.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: Option<u16>,
    #[command(flatten)]
    pub json: JsonArg,
}

/// Show what a replica holds and what is restorable.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
pub struct ListArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// One line per generation.
    #[arg(long, group = "what")]
    pub generations: bool,
    /// One line per snapshot.
    #[arg(long, group = "what")]
    pub snapshots: bool,
    /// One line per segment.
    #[arg(long, group = "what")]
    pub segments: bool,
    /// One line per commit: every point that `restore --at` can name.
    #[arg(long, group = "what")]
    pub commits: bool,
    /// What was kept of the files beside the database, and when it changed.
    #[arg(long, group = "what")]
    pub files: bool,
    /// One line per drill.
    #[arg(long, group = "what")]
    pub drills: bool,
    /// Leave out what is older.
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Leave out what is newer.
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    #[command(flatten)]
    pub json: JsonArg,
}

/// Prove that a replica is whole.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// Read every object, recompute every checksum over every commit, and restore the newest one for the engine to check;
    /// instead of names, sizes and tables.
    #[arg(long)]
    pub deep: bool,
    /// With --deep: read only so much of it, another part each day (UTC), so that 10% has read everything in ten days. No restore then.
    #[arg(long, value_name = "PERCENT", requires = "deep")]
    pub sample: Option<String>,
    /// A newest commit that is older than this (30m, 24h) is a finding.
    #[arg(long, value_name = "DURATION")]
    pub max_age: Option<String>,
    #[command(flatten)]
    pub json: JsonArg,
}

/// Delete what no retention rule keeps.
///
/// The rules are those of the configuration (`retention`), or those given here, which then stand alone. The first run marks what
/// may go; a run after the grace time looks again and deletes what both looks agree on. `run` does the same by itself.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
pub struct PruneArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// Print every decision with its reason and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// How long what is marked must wait; 0s deletes at once, for when nothing is being replicated to or restored from here.
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    pub grace: String,
    /// Every commit of this time (24h) stays individually restorable.
    #[arg(long, value_name = "DURATION")]
    pub commits: Option<String>,
    /// Every snapshot of this time (30d) stays, and the way from each to the next.
    #[arg(long, value_name = "DURATION")]
    pub keep_within: Option<String>,
    /// So many of the newest snapshots stay. Here and below: a number or `forever`.
    #[arg(long, value_name = "N")]
    pub keep_last: Option<String>,
    /// At least so many snapshots stay, whatever other rules say.
    #[arg(long, value_name = "N")]
    pub keep_min: Option<String>,
    /// The newest snapshot of so many hours stays.
    #[arg(long, value_name = "N")]
    pub hourly: Option<String>,
    #[arg(long, value_name = "N")]
    pub daily: Option<String>,
    #[arg(long, value_name = "N")]
    pub weekly: Option<String>,
    #[arg(long, value_name = "N")]
    pub monthly: Option<String>,
    #[arg(long, value_name = "N")]
    pub yearly: Option<String>,
    #[command(flatten)]
    pub json: JsonArg,
}

/// Show the configuration as understood, and the state of its databases.
///
/// Unknown keys and impossible values are errors. Secrets are shown as set or not set.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
pub struct CheckArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    /// Also ask every store whether it can be reached.
    #[arg(long)]
    pub connect: bool,
    /// Convert this configuration of Litestream instead: ours is printed on stdout, and what has no counterpart on stderr.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["connect", "on"])]
    pub litestream: Option<PathBuf>,
    #[command(flatten)]
    pub json: JsonArg,
}

/// Replicate and restore a live database before your eyes.
///
/// In a temporary directory: a live SQLite database with a writer in a process of its own, replicated into a directory,
/// restored to a moment in the middle and to its end, and compared with what the writer had noted.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
pub struct DemoArgs {
    /// Only this engine: sqlite or duckdb. Default: both, one after the other.
    #[arg(long)]
    pub engine: Option<EngineKind>,
    /// How long each writer writes.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=3600))]
    pub seconds: u32,
    /// Leave the temporary directory for a look around.
    #[arg(long)]
    pub keep: bool,
}

/// Print a completion script for a shell.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
pub struct CompletionsArgs {
    pub shell: clap_complete::Shell,
}

/// Print the manual: of `replicate` and all its commands, for `man -l -`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
pub struct ManArgs {
    /// Write one page per command into this directory instead.
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

/// Check a restored DuckDB database, or fold its WAL into it: the child process of `restore`.
#[derive(Debug, Args)]
pub struct DuckdbChildArgs {
    /// check, fold, ask or content.
    pub task: String,
    pub database: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
pub struct DemoWriterArgs {
    pub database: PathBuf,
    pub ledger: PathBuf,
    /// Of the database: sqlite or duckdb.
    #[arg(long, default_value_t = EngineKind::Sqlite)]
    pub engine: EngineKind,
    /// Commits in a second.
    #[arg(long, default_value_t = 50)]
    pub rate: u32,
    /// Makes the run repeatable.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Where to read from.
#[derive(Debug, Args)]
pub struct SourceArgs {
    /// URL of a replica, or the path or name of a configured database.
    #[arg(value_name = "SOURCE")]
    pub source: String,
    #[command(flatten)]
    pub config: ConfigArg,
}

#[derive(Debug, Args)]
pub struct ConfigArg {
    /// The configuration file.
    #[arg(long = "config", value_name = "FILE", env = "REPLICATE_CONFIG")]
    pub file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct JsonArg {
    /// Facts as JSON on stdout.
    #[arg(long = "json")]
    pub on: bool,
}
