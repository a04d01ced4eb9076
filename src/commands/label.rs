//! `replicate label`: commits that have a name.

use std::sync::Arc;

use serde_json::{Value, json};

use super::source::{Source, open};
use super::{print, print_json, runtime};
use crate::cli::LabelCommand;
use crate::config::units::show_duration;
use crate::config::{Environment, ReplicaConfig};
use crate::error::{Error, ExitCode};
use crate::label::{Act, Label, LabelError, Labels, Retain};
use crate::layout::LabelName;
use crate::position::TimeMs;
use crate::restore::point::format_time;
use crate::status::system_clock;
use crate::store::Store;

pub fn execute(command: LabelCommand, environment: Environment<'_>) -> Result<(), Error> {
    let runtime = runtime()?;
    match command {
        LabelCommand::List { source, json } => {
            let labels = runtime.block_on(first(&Source::resolve(&source, environment)?)?.all())?;
            match json.on {
                true => print_json(&json!({ "labels": labels.iter().map(value).collect::<Vec<_>>() })),
                false => print(&labels.iter().map(|label| format!("{}\n", line(label))).collect::<String>()),
            }
        }
        LabelCommand::Show { source, name, json } => {
            let label = runtime.block_on(first(&Source::resolve(&source, environment)?)?.find(&name))?;
            match json.on {
                true => print_json(&value(&label)),
                false => print(&text(&label)),
            }
        }
        LabelCommand::Verify { source, name, by } => {
            let source = Source::resolve(&source, environment)?;
            runtime
                .block_on(in_every(&source.replicas, &name, async |labels, now| labels.verify(&name, now, &by).await))
        }
        LabelCommand::Retire { source, name, by } => {
            let source = Source::resolve(&source, environment)?;
            let by = who(by, environment);
            runtime
                .block_on(in_every(&source.replicas, &name, async |labels, now| labels.retire(&name, now, &by).await))
        }
    }
}

/// Who does something to a label: as given, else the user.
pub fn who(given: Option<String>, environment: Environment<'_>) -> String {
    given.or_else(|| environment("USER")).unwrap_or_else(|| "unknown".to_owned())
}

fn labels_of(replica: &ReplicaConfig) -> Result<Labels, Error> {
    let store: Arc<dyn Store> = open(replica)?;
    Ok(Labels::new(store))
}

fn first(source: &Source) -> Result<Labels, Error> {
    let replica = source.replicas.first().ok_or_else(|| Error::usage("no replica is configured"))?;
    labels_of(replica)
}

/// Does something to a label in every replica. What was done before in some of them is no failure if it is done in all now.
async fn in_every(
    replicas: &[ReplicaConfig],
    name: &LabelName,
    act: impl AsyncFn(Labels, TimeMs) -> Result<(), LabelError>,
) -> Result<(), Error> {
    let now = system_clock()();
    let mut done = Vec::new();
    let mut before = None;
    for replica in replicas {
        match act(labels_of(replica)?, now).await {
            Ok(()) => done.push(replica.shown_url().to_owned()),
            Err(error @ LabelError::Done { .. }) => before = Some(error),
            Err(error) => return Err(Error::from(error).context(replica.shown_url().to_owned())),
        }
    }
    match before {
        Some(error) if done.is_empty() => Err(error.into()),
        _ => print(&format!("{name}: noted in {}\n", done.join(", "))),
    }
}

fn line(label: &Label) -> String {
    let Label { name, commit, .. } = label;
    format!("{name}  {}  {}/{}  {}", label.state(), commit.generation, commit.txid.0, format_time(commit.time))
}

fn retain_text(retain: Retain) -> String {
    match retain {
        Retain::UntilVerified => "until-verified".to_owned(),
        Retain::Forever => "forever".to_owned(),
        Retain::ForMs(ms) => show_duration(std::time::Duration::from_millis(ms)),
    }
}

fn text(label: &Label) -> String {
    let said = &label.description;
    let mut text = format!("{}\n  created      {} by {}\n", line(label), format_time(label.created), said.created_by);
    for (name, value) in [("ticket", &said.ticket), ("purpose", &said.purpose), ("description", &said.description)] {
        if let Some(value) = value {
            text.push_str(&format!("  {name:<12} {value}\n"));
        }
    }
    text.push_str(&format!("  retain       {}\n", retain_text(said.retain)));
    for (name, act) in [("verified", &label.verified), ("retired", &label.retired)] {
        if let Some(act) = act {
            text.push_str(&format!("  {name:<12} {} by {}\n", format_time(TimeMs(act.at_ms)), act.by));
        }
    }
    text
}

fn value(label: &Label) -> Value {
    let said = &label.description;
    let act =
        |act: &Option<Act>| act.as_ref().map(|act| json!({ "time": format_time(TimeMs(act.at_ms)), "by": act.by }));
    json!({
        "name": label.name.to_string(),
        "state": label.state(),
        "generation": label.commit.generation.to_string(),
        "txid": label.commit.txid.0,
        "time": format_time(label.commit.time),
        "created": { "time": format_time(label.created), "by": said.created_by },
        "ticket": said.ticket,
        "purpose": said.purpose,
        "description": said.description,
        "retain": retain_text(said.retain),
        "verified": act(&label.verified),
        "retired": act(&label.retired),
    })
}

impl From<LabelError> for Error {
    fn from(error: LabelError) -> Error {
        let text = error.to_string();
        match error {
            LabelError::Unknown(_) => {
                Error::new(ExitCode::NothingToRestore, text).next_step("see what there is: replicate label list")
            }
            LabelError::Exists(_) | LabelError::Done { .. } => Error::new(ExitCode::Refused, text),
            LabelError::Damaged { .. } => Error::new(ExitCode::Damaged, text),
            LabelError::Store(error) => error.into(),
        }
    }
}
