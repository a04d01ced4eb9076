//! `run --label-before-start`: a named way back to how things were before the command started.

use std::time::Duration;

use super::Working;
use crate::error::Error;
use crate::label::{Description, Retain};
use crate::layout::LabelName;
use crate::position::{ParseError, whole_ms};
use crate::restore::point::format_time;
use crate::status::{State, system_clock};

/// A first copy takes as long as it takes, and the command waits for it: that is what the option is for.
const TIMEOUT: Duration = Duration::from_secs(24 * 3600);
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

pub async fn label(all: &[Working]) -> Result<(), Error> {
    let stamp: String = format_time(system_clock()()).chars().filter(char::is_ascii_alphanumeric).collect();
    let stamp = stamp.to_ascii_lowercase();
    let name: LabelName =
        format!("before-start-{stamp}").parse().map_err(|error: ParseError| Error::failed(error.to_string()))?;
    let description = Description {
        created_by: "replicate run --label-before-start".to_owned(),
        ticket: None,
        purpose: Some("the state before the command started".to_owned()),
        description: None,
        retain: Retain::ForMs(whole_ms(KEPT)),
    };
    for working in all {
        if working.replicator.status().state() != State::Running {
            tracing::warn!(database = %working.path.display(), "not labelled: there is nothing captured yet");
            continue;
        }
        let made = working.replicator.snapshot_labelled(&name, &description, TIMEOUT).await;
        made.map_err(|error| {
            Error::failed(format!("{}: cannot label what is there before the command starts", working.path.display()))
                .because(error)
                .next_step("make every replica reachable, or start without --label-before-start")
        })?;
        tracing::info!(database = %working.path.display(), "labelled as {name}");
    }
    Ok(())
}
