//! Questions in SQL to a restored file.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::ValueRef;

use super::check::open_immutable;
use crate::engine::{Answer, EngineError};

/// Steps of SQLite's machine between two looks at the clock.
const STEPS: i32 = 100_000;
/// Bytes of a text that are looked at; an answer keeps fewer.
const MAX_TEXT_BYTES: usize = 4096;

/// Puts each question to a file that nobody else has open. Nothing is written, and no other file is reached.
pub(super) fn ask(database: &Path, questions: &[String], timeout: Duration) -> Result<Vec<Answer>, EngineError> {
    let failed =
        |error: rusqlite::Error| EngineError::Damaged(format!("SQLite cannot ask {}: {error}", database.display()));
    let mut connection = open_immutable(database).map_err(failed)?;
    connection.authorizer(Some(permit)).map_err(failed)?;
    let mut answers = Vec::new();
    for question in questions {
        let end = Instant::now() + timeout;
        connection.progress_handler(STEPS, Some(move || Instant::now() > end)).map_err(failed)?;
        let answer = ask_one(&connection, question).unwrap_or_else(|error| match Instant::now() > end {
            true => Answer::Other(format!("it took longer than {} s", timeout.as_secs())),
            false => Answer::Other(error.to_string()),
        });
        answers.push(answer);
    }
    Ok(answers)
}

/// The database that was opened, and only to read it.
fn permit(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Function { .. } | AuthAction::Recursive => {
            Authorization::Allow
        }
        _ => Authorization::Deny,
    }
}

fn ask_one(connection: &Connection, question: &str) -> rusqlite::Result<Answer> {
    let mut statement = connection.prepare(question)?;
    let columns = statement.column_count();
    if columns != 1 {
        return Ok(Answer::of(columns, Vec::new()));
    }
    let mut rows = statement.query([])?;
    let mut values = Vec::new();
    while values.len() < 2
        && let Some(row) = rows.next()?
    {
        values.push(shown(row.get_ref(0)?));
    }
    Ok(Answer::of(columns, values))
}

fn shown(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        // With its point, as SQLite writes it.
        ValueRef::Real(number) => format!("{number:?}"),
        ValueRef::Text(text) => String::from_utf8_lossy(&text[..text.len().min(MAX_TEXT_BYTES)]).into_owned(),
        ValueRef::Blob(bytes) => format!("a blob of {} bytes", bytes.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One value is an answer; everything else says what happened. Nothing is written, no other file is touched, and a question
    /// without an end is ended.
    #[test]
    fn questions_have_answers() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.db");
        let database = Connection::open(&path).expect("a database");
        let create = "PRAGMA journal_mode=WAL; CREATE TABLE users(name); INSERT INTO users VALUES ('ann'), ('bob')";
        database.execute_batch(create).expect("content");
        drop(database);
        let other = directory.path().join("other.db");
        let attach = format!("ATTACH '{}' AS o", other.display());
        let vacuum = format!("VACUUM INTO '{}'", other.display());
        let value = |text: &str| Answer::Value(text.to_owned());
        let all = [
            ("SELECT count(*) > 1 FROM users; ", Some(value("1"))),
            ("SELECT name FROM users WHERE name = 'ann'", Some(value("ann"))),
            ("SELECT NULL", Some(value("NULL"))),
            ("SELECT 1.0", Some(value("1.0"))),
            ("SELECT x'00ff'", Some(value("a blob of 2 bytes"))),
            (
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 9) SELECT sum(i) FROM n",
                Some(value("45")),
            ),
            ("SELECT name FROM users", Some(Answer::Other("several rows came".into()))),
            ("SELECT name FROM users WHERE name = 'eve'", Some(Answer::Other("no row came".into()))),
            ("SELECT 1, 2", Some(Answer::Other("2 columns came".into()))),
            ("SELECT * FROM nothing", None),
            ("DELETE FROM users", None),
            ("DELETE FROM users RETURNING name", None),
            ("PRAGMA user_version", None),
            ("CREATE TEMP TABLE t(x)", None),
            (attach.as_str(), None),
            (vacuum.as_str(), None),
            ("SELECT 1; DELETE FROM users", None),
            ("", None),
        ];
        let questions: Vec<String> = all.iter().map(|(question, _)| (*question).to_owned()).collect();
        let answers = ask(&path, &questions, Duration::from_secs(600)).expect("asked");
        assert_eq!(answers.len(), all.len());
        for ((question, expected), answer) in all.iter().zip(answers) {
            match expected {
                Some(expected) => assert_eq!(answer, *expected, "{question}"),
                None => assert!(matches!(answer, Answer::Other(_)), "{question}: {answer:?}"),
            }
        }
        assert_eq!(std::fs::read_dir(directory.path()).expect("a directory").count(), 1);
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT count(*) FROM n".to_owned();
        let answers = ask(&path, &[endless, "SELECT 1".to_owned()], Duration::from_millis(1)).expect("asked");
        assert!(matches!(&answers[0], Answer::Other(text) if text.contains("longer")), "{answers:?}");
    }
}
