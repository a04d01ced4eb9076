//! DuckDB itself. Runs in a child process only, on files that nobody else has open.

use std::path::Path;

use duckdb::{Config, Connection};

use super::check::{CHILD_CHECK, CHILD_FOLD};
use crate::engine::Answer;

/// What the child process does; the text of an error goes to its stderr.
pub fn run(task: &str, database: &Path, key: Option<&str>) -> Result<(), String> {
    match task {
        CHILD_CHECK => check(database, key).map_err(|error| error.to_string()),
        CHILD_FOLD => fold(database, key).map_err(|error| error.to_string()),
        other => Err(format!("{other:?} is no task of this command")),
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn identifier(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// Attaches the database, as `restored`, in a DuckDB that loads no extension by itself and touches no other file. `then` is
/// run before the configuration is locked.
fn attach(database: &Path, key: Option<&str>, read_only: bool, then: &str) -> duckdb::Result<Connection> {
    let path = database.to_str().ok_or_else(|| duckdb::Error::InvalidPath(database.to_owned()))?;
    let connection = Connection::open_in_memory_with_flags(Config::default().enable_autoload_extension(false)?)?;
    let mut options = Vec::new();
    if read_only {
        options.push("READ_ONLY".to_owned());
    }
    if let Some(key) = key {
        options.push(format!("ENCRYPTION_KEY {}", quoted(key)));
    }
    let options = if options.is_empty() { String::new() } else { format!(" ({})", options.join(", ")) };
    connection.execute_batch(&format!("ATTACH {} AS restored{options}; {then}", quoted(path)))?;
    // Whatever a stored view or default says, it reaches nothing.
    connection.execute_batch("SET enable_external_access = false; SET lock_configuration = true")?;
    Ok(connection)
}

/// Reads every value of every table. Opening and counting prove nothing: both are answered from statistics.
fn check(database: &Path, key: Option<&str>) -> duckdb::Result<()> {
    let connection = attach(database, key, true, "")?;
    let mut tables = connection.prepare(
        "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = 'restored' AND NOT internal",
    )?;
    let names = tables.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    let names: Vec<(String, String)> = names.collect::<duckdb::Result<_>>()?;
    for (schema, table) in names {
        let name = format!("restored.{}.{}", identifier(&schema), identifier(&table));
        // The name of a table as a value is the whole row, so its hash needs every column.
        let scan = format!("SELECT bit_xor(hash(scanned)) FROM {name} AS scanned");
        connection.query_row(&scan, [], |_| Ok(()))?;
    }
    Ok(())
}

/// Folds the WAL into the file. Its storage version stays what it is.
fn fold(database: &Path, key: Option<&str>) -> duckdb::Result<()> {
    let connection = attach(database, key, false, "")?;
    connection.execute_batch("FORCE CHECKPOINT restored; DETACH restored")?;
    connection.close().map_err(|(_, error)| error)
}

/// Puts each question to the database. An error of one is its answer.
pub fn ask(database: &Path, key: Option<&str>, questions: &[String]) -> Result<Vec<Answer>, String> {
    let connection = attach(database, key, true, "USE restored").map_err(|error| error.to_string())?;
    let answer =
        |question: &String| ask_one(&connection, question).unwrap_or_else(|error| Answer::Other(error.to_string()));
    Ok(questions.iter().map(answer).collect())
}

fn ask_one(connection: &Connection, question: &str) -> duckdb::Result<Answer> {
    // In parentheses only a query can stand. The end of the line ends a comment.
    let question = question.trim().trim_end_matches(';');
    let mut columns = connection.prepare(&format!("DESCRIBE SELECT * FROM ({question}\n)"))?;
    let columns = columns.query_map([], |_| Ok(()))?.count();
    let cast = format!("SELECT coalesce(CAST(v AS VARCHAR), 'NULL') FROM ({question}\n) AS asked(v) LIMIT 2");
    let mut statement = connection.prepare(&cast)?;
    let values = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<duckdb::Result<_>>()?;
    Ok(Answer::of(columns, values))
}
