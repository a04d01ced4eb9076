//! `replicate duckdb-child`: the DuckDB library at work on a restored database, apart from everything else.

use crate::cli::DuckdbChildArgs;
use crate::config::Environment;
use crate::error::Error;

/// The task that says what a database of the demo's writer holds.
pub const CONTENT: &str = "content";

#[cfg(feature = "duckdb")]
pub fn execute(args: &DuckdbChildArgs, environment: Environment<'_>) -> Result<(), Error> {
    use crate::engine::duckdb::check::{CHILD_ASK, KEY_VARIABLE};
    use crate::engine::duckdb::{is_encrypted, library, workload};
    if args.task == CONTENT {
        let content = workload::read(&args.database)?;
        return super::print(&format!("{content}\n"));
    }
    let key = environment(KEY_VARIABLE).filter(|key| !key.is_empty());
    let encrypted = is_encrypted(&args.database).map_err(|error| Error::failed(error.to_string()))?;
    if encrypted && key.is_none() {
        // Its exit code tells the parent so.
        return Err(Error::usage("the database is encrypted, and its rows cannot be checked without the key"));
    }
    let key = key.as_deref().filter(|_| encrypted);
    if args.task == CHILD_ASK {
        let questions: Vec<String> = serde_json::from_reader(std::io::stdin().lock())
            .map_err(|error| Error::failed("the questions on stdin are not a list of texts in JSON").because(error))?;
        let answers = library::ask(&args.database, key, &questions).map_err(Error::failed)?;
        return super::print_json(&serde_json::json!(answers));
    }
    library::run(&args.task, &args.database, key).map_err(Error::failed)
}

#[cfg(not(feature = "duckdb"))]
pub fn execute(args: &DuckdbChildArgs, _environment: Environment<'_>) -> Result<(), Error> {
    Err(Error::usage(format!("this build has no DuckDB library to {} a database with", args.task)))
}
