//! Arguments of `cost`.

use clap::Args;

use super::{ConfigArg, EXIT_CODES, JsonArg};

/// Estimate what a month costs, and tell what was really used.
///
/// From the configuration and from what is assumed of the writes: requests, bytes and money of every replica. Where a replicator
/// runs, also what it has asked its stores since it started. Nothing is sent to a store without --stored.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
pub struct CostArgs {
    /// Path or name of a database. Default: every database of the configuration.
    #[arg(value_name = "DATABASE")]
    pub database: Option<std::path::PathBuf>,
    #[command(flatten)]
    pub config: ConfigArg,
    /// On average over day and night; 0 is a database at rest.
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    pub commits_per_second: f64,
    /// Of one commit, as it is shipped.
    #[arg(long, value_name = "SIZE", default_value = "1KiB")]
    pub bytes_per_commit: String,
    /// Default: what the file has now, and 1GiB where there is none.
    #[arg(long, value_name = "SIZE")]
    pub database_size: Option<String>,
    /// How much of the database is not the same after a day.
    #[arg(long, value_name = "PERCENT", default_value = "10%")]
    pub changed_per_day: String,
    /// Example prices: aws-s3, cloudflare-r2, backblaze-b2, google-storage or none. Default: what fits the endpoint.
    #[arg(long, value_name = "NAME")]
    pub prices: Option<String>,
    /// One price of your own: write, list or read (for 1,000 requests), stored (for a GB and month) or download (for a GB).
    #[arg(long = "price", value_name = "KEY=NUMBER")]
    pub own_prices: Vec<String>,
    /// Also list every replica and tell what is stored in it now.
    #[arg(long)]
    pub stored: bool,
    #[command(flatten)]
    pub json: JsonArg,
}
