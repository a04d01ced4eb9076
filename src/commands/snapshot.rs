//! `replicate snapshot`: a snapshot now, and a name for its commit.

use std::time::Duration;

use serde_json::Value;

use super::control::asked;
use super::label::who;
use super::run::with_replicator;
use super::source::Source;
use super::{print, print_json};
use crate::cli::{LabelTexts, SnapshotArgs};
use crate::config::Environment;
use crate::config::units::parse_duration;
use crate::control::{NewLabel, Request, snapshot};
use crate::error::Error;
use crate::label::{Description, MAX_TEXT, Retain};
use crate::position::whole_ms;

pub fn execute(args: &SnapshotArgs, environment: Environment<'_>) -> Result<(), Error> {
    let database = Source::live(&args.source, environment)?;
    let timeout = parse_duration(&args.timeout).map_err(Error::usage)?;
    let label = match &args.label {
        Some(name) => Some(NewLabel { name: name.to_string(), description: description(&args.texts, environment)? }),
        None => None,
    };
    let timeout_ms = whole_ms(timeout);
    let request = Request::Snapshot { database: database.path.clone(), timeout_ms, label: label.clone() };
    let taken = match asked(&database, &request)? {
        Some(taken) => taken,
        None => with_replicator(&database, async |handle| {
            snapshot(handle, label.as_ref(), timeout).await.map_err(Error::failed)
        })?,
    };
    match args.json.on {
        true => print_json(&taken),
        false => print(&text(&taken, label.as_ref())),
    }
}

fn text(taken: &Value, label: Option<&NewLabel>) -> String {
    let mut text = String::new();
    for one in taken["snapshots"].as_array().into_iter().flatten() {
        let shown = |key: &str| one[key].as_str().unwrap_or("-").to_owned();
        text.push_str(&format!("{}  snapshot of commit {}/{}\n", shown("replica"), shown("generation"), one["txid"]));
    }
    if let Some(label) = label {
        text.push_str(&format!("restore it with --at label:{}\n", label.name));
    }
    text
}

fn description(texts: &LabelTexts, environment: Environment<'_>) -> Result<Description, Error> {
    let description = Description {
        created_by: who(texts.created_by.clone(), environment),
        ticket: texts.ticket.clone(),
        purpose: texts.purpose.clone(),
        description: texts.description.clone(),
        retain: retain(&texts.retain)?,
    };
    let all = [&description.ticket, &description.purpose, &description.description];
    let longest = all.into_iter().flatten().map(|text| text.chars().count()).max().unwrap_or(0);
    if longest.max(description.created_by.chars().count()) > MAX_TEXT {
        return Err(Error::usage(format!("a text of a label has more than {MAX_TEXT} characters")));
    }
    Ok(description)
}

fn retain(text: &str) -> Result<Retain, Error> {
    match text {
        "until-verified" => Ok(Retain::UntilVerified),
        "forever" => Ok(Retain::Forever),
        text => parse_duration(text)
            .map(|time: Duration| Retain::ForMs(whole_ms(time)))
            .map_err(|error| Error::usage(format!("--retain: until-verified, forever, or a duration: {error}"))),
    }
}
