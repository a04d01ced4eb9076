//! Arguments of the commands for a live database and for labels.

use clap::{Args, Subcommand};

use super::{EXIT_CODES, JsonArg, SourceArgs};
use crate::layout::LabelName;

/// Take a snapshot now, and give its commit a name.
///
/// A running replicator of the database is asked; without one, the database is captured for as long as it takes. A label is
/// an object in every replica of the database; its name is used once.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
pub struct SnapshotArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// Name the commit, for `restore --at label:NAME`.
    #[arg(long, value_name = "NAME")]
    pub label: Option<LabelName>,
    #[command(flatten)]
    pub texts: LabelTexts,
    /// How long it may take.
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    pub timeout: String,
    #[command(flatten)]
    pub json: JsonArg,
}

/// What is written into a label.
#[derive(Debug, Clone, Args)]
pub struct LabelTexts {
    #[arg(long, value_name = "TEXT", requires = "label")]
    pub ticket: Option<String>,
    #[arg(long, value_name = "TEXT", requires = "label")]
    pub purpose: Option<String>,
    #[arg(long, value_name = "TEXT", requires = "label")]
    pub description: Option<String>,
    /// Who; default: the user.
    #[arg(long, value_name = "NAME", requires = "label")]
    pub created_by: Option<String>,
    /// How long its commit is kept whatever the retention policy says: until-verified, forever, or a duration (30d).
    #[arg(long, value_name = "HOW LONG", requires = "label", default_value = "until-verified")]
    pub retain: String,
}

/// Commits that have a name.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
pub struct LabelArgs {
    #[command(subcommand)]
    pub command: LabelCommand,
}

#[derive(Debug, Subcommand)]
pub enum LabelCommand {
    /// All labels of the first replica, with what became of them.
    #[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
    List {
        #[command(flatten)]
        source: SourceArgs,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Everything about one label.
    #[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
    Show {
        #[command(flatten)]
        source: SourceArgs,
        name: LabelName,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Record that what a label was made for has gone well.
    #[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
    Verify {
        #[command(flatten)]
        source: SourceArgs,
        name: LabelName,
        /// Who says so.
        #[arg(long, value_name = "NAME")]
        by: String,
    },
    /// Give a label up: its commit is no longer kept for its sake.
    #[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
    Retire {
        #[command(flatten)]
        source: SourceArgs,
        name: LabelName,
        /// Who says so; default: the user.
        #[arg(long, value_name = "NAME")]
        by: Option<String>,
    },
}

/// Wait until everything that is committed now is in every replica.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
pub struct SyncArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    #[arg(long, value_name = "DURATION", default_value = "1m")]
    pub timeout: String,
    #[command(flatten)]
    pub json: JsonArg,
}

/// Let a running replicator let go of the database.
///
/// After a last look every lock, connection and file of the database is given up, so that its application can do what it cannot while
/// somebody is attached: leave WAL mode, lock it for itself, move it. Nothing is captured until `replicate resume`, or until the replicator is
/// started again; what is committed meanwhile is then repaired from the file, as far as it cannot be read commit by commit.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
pub struct PauseArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    #[arg(long, value_name = "DURATION", default_value = "1m")]
    pub timeout: String,
    #[command(flatten)]
    pub json: JsonArg,
}

/// Let a paused replicator go on.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
pub struct ResumeArgs {
    #[command(flatten)]
    pub source: SourceArgs,
}

/// Have a running replicator read its configuration again.
///
/// Databases whose entries are the same go on untouched; what changed stops, ships its rest and starts again where it was; what is new
/// starts. A file with a mistake changes nothing. SOURCE is any database of that process. `listen` and
/// `active-databases` are read at the start only.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
pub struct ReloadArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub json: JsonArg,
}

/// Show where a running replicator stands.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
pub struct StatusArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// Show it again every second, until interrupted.
    #[arg(long)]
    pub watch: bool,
    #[command(flatten)]
    pub json: JsonArg,
}
