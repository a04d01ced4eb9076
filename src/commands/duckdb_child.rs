//! `replicate duckdb-child`: the DuckDB library at work on a restored database, apart from everything else.

use crate::cli::DuckdbChildArgs;
use crate::config::Environment;
use crate::error::Error;

#[cfg(feature = "duckdb")]
pub fn execute(args: &DuckdbChildArgs, environment: Environment<'_>) -> Result<(), Error> {
    use crate::engine::duckdb::{check::KEY_VARIABLE, library};
    let key = environment(KEY_VARIABLE).filter(|key| !key.is_empty());
    library::run(&args.task, &args.database, key.as_deref()).map_err(Error::failed)
}

#[cfg(not(feature = "duckdb"))]
pub fn execute(args: &DuckdbChildArgs, _environment: Environment<'_>) -> Result<(), Error> {
    Err(Error::usage(format!("this build has no DuckDB library to {} a database with", args.task)))
}
