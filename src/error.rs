//! What a command ends with when it fails: an exit code that scripts can rely on, what happened, and what to do next.

use std::error::Error as StdError;
use std::fmt;

use crate::engine::EngineError;
use crate::store::{Outcome, StoreError};

/// The exit codes. They are a promise: documented in every command's help and in the man page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCode {
    /// 1: failed; the message says what to do next.
    Failed,
    /// 2: wrong usage or configuration; nothing was touched.
    Usage,
    /// 3: nothing to restore: no such replica or point.
    NothingToRestore,
    /// 4: the target exists, or another writer holds the database or the replica.
    Refused,
    /// 5: the replica is damaged.
    Damaged,
    /// 6: the store could not be reached or denied access.
    Unreachable,
    /// 7: `run -- COMMAND`: the command ended well, but the final sync did not finish in time.
    FinalSync,
}

impl ExitCode {
    pub fn code(self) -> u8 {
        match self {
            ExitCode::Failed => 1,
            ExitCode::Usage => 2,
            ExitCode::NothingToRestore => 3,
            ExitCode::Refused => 4,
            ExitCode::Damaged => 5,
            ExitCode::Unreachable => 6,
            ExitCode::FinalSync => 7,
        }
    }
}

/// The error of a command. `main` prints its message, the chain of its causes and the next step.
#[derive(Debug)]
pub struct Error {
    exit: ExitCode,
    message: String,
    next_step: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub fn new(exit: ExitCode, message: impl Into<String>) -> Self {
        Error { exit, message: message.into(), next_step: None, source: None }
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Error::new(ExitCode::Failed, message)
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Error::new(ExitCode::Usage, message)
    }

    /// What caused it; printed below the message.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What the operator can do about it; printed last.
    #[must_use]
    pub fn next_step(mut self, text: impl Into<String>) -> Self {
        self.next_step = Some(text.into());
        self
    }

    /// Puts what was being done in front; what it was becomes the cause, exit code and next step stay.
    #[must_use]
    pub fn context(self, message: impl Into<String>) -> Self {
        let (exit, next_step) = (self.exit, self.next_step.clone());
        Error { exit, message: message.into(), next_step, source: Some(Box::new(self)) }
    }

    pub fn exit(&self) -> ExitCode {
        self.exit
    }

    /// The operator's next step, where one is known.
    pub fn advice(&self) -> Option<&str> {
        self.next_step.as_deref()
    }

    /// Message, causes and next step, one per line, as `main` prints them. A cause whose text already stands in the line
    /// above it is left out.
    pub fn report(&self) -> String {
        let mut text = self.message.clone();
        let mut last = self.message.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            let line = error.to_string();
            if !last.contains(&line) {
                text.push_str("\n  because: ");
                text.push_str(&line);
            }
            last = line;
            cause = error.source();
        }
        if let Some(step) = &self.next_step {
            text.push_str("\n  next: ");
            text.push_str(step);
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn StdError + 'static))
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let (exit, message, step) = match error.outcome {
            Outcome::Denied => (
                ExitCode::Unreachable,
                "the store denied access",
                Some("check the credentials and what they permit on this bucket and prefix"),
            ),
            Outcome::Unavailable => (
                ExitCode::Unreachable,
                "the store could not be reached",
                Some("check the endpoint, the network and the service, then try again"),
            ),
            Outcome::NotFound => (ExitCode::Failed, "something that should be in the store is missing", None),
            Outcome::AlreadyExists => (ExitCode::Refused, "the store already holds something under that name", None),
            Outcome::Invalid => (ExitCode::Failed, "the store did not understand the request", None),
        };
        let mut result = Error::new(exit, message).because(error);
        result.next_step = step.map(str::to_owned);
        result
    }
}

impl From<EngineError> for Error {
    fn from(error: EngineError) -> Self {
        let (message, step) = match &error {
            EngineError::Absent { .. } => ("there is no database to read", Some("check the path")),
            EngineError::NotCapturable { .. } => ("the database cannot be captured as it is", None),
            EngineError::Busy(_) => ("the database is busy", Some("try again")),
            EngineError::Damaged(_) => {
                ("the database is damaged", Some("check it with the engine's own tools before anything else"))
            }
            EngineError::Gap { .. } | EngineError::Io { .. } | EngineError::Sink(_) => ("capture failed", None),
        };
        let mut result = Error::failed(message).because(error);
        result.next_step = step.map(str::to_owned);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The report names every cause once and ends with the next step.
    #[test]
    fn the_report_has_message_causes_and_next_step() {
        let inner = Error::failed("no route to host").because(std::io::Error::other("connect"));
        let error = Error::new(ExitCode::Unreachable, "cannot list").because(inner).next_step("plug it in");
        assert_eq!(error.report(), "cannot list\n  because: no route to host\n  because: connect\n  next: plug it in");
        let error = error.context("restore failed");
        assert_eq!(error.exit(), ExitCode::Unreachable);
        assert!(error.report().ends_with("next: plug it in"));
    }

    /// Outcomes of a store lead to the exit code that the documentation promises.
    #[test]
    fn store_outcomes_have_their_exit_codes() {
        for (outcome, code) in [
            (Outcome::Denied, 6),
            (Outcome::Unavailable, 6),
            (Outcome::NotFound, 1),
            (Outcome::AlreadyExists, 4),
            (Outcome::Invalid, 1),
        ] {
            let error = Error::from(StoreError::new(outcome, "get", "x", "detail"));
            assert_eq!(error.exit().code(), code, "{outcome:?}");
        }
    }
}
