//! A restore, prepared as a command: it is never run from here.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use maud::{Markup, html};
use url::form_urlencoded;

use super::listing::Read;
use super::words;
use crate::label::Labels;
use crate::layout::LabelName;
use crate::position::{ParseError, TimeMs};
use crate::restore::point::{self, Point, format_time};
use crate::restore::{Planner, Reading, Request};
use crate::store::Store;

const READ_TIME: Duration = Duration::from_secs(8);
const MAX_TEXT_CHARS: usize = 1000;

/// What was asked for, and what came of it.
#[derive(Debug, Default)]
pub struct Prepared {
    pub at: String,
    pub output: String,
    /// `None`: nothing was asked for yet.
    pub result: Option<Result<Commands, String>>,
}

#[derive(Debug)]
pub struct Commands {
    /// What the commands will restore, or that this could not be told.
    pub finding: Result<String, String>,
    pub dry_run: String,
    pub restore: String,
}

/// Prepares what the query asks for. `path` is that of the database, `source` how the command line finds it; `stores` are asked in this order
/// whether they have that point.
pub async fn prepare(
    query: &str,
    path: &str,
    source: &[String],
    stores: Vec<Result<Arc<dyn Store>, String>>,
    now: TimeMs,
) -> Prepared {
    let mut prepared = Prepared { output: format!("{path}.restored"), ..Prepared::default() };
    let mut is_asked = false;
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let value: String = value.trim().chars().take(MAX_TEXT_CHARS).collect();
        match &*key {
            "at" => (prepared.at, is_asked) = (value, true),
            "output" if !value.is_empty() => prepared.output = value,
            _ => {}
        }
    }
    if is_asked {
        prepared.result = Some(commands(&prepared, source, stores, now).await);
    }
    prepared
}

async fn commands(
    prepared: &Prepared,
    source: &[String],
    stores: Vec<Result<Arc<dyn Store>, String>>,
    now: TimeMs,
) -> Result<Commands, String> {
    if prepared.output.starts_with('-') || prepared.output.chars().any(char::is_control) {
        return Err("A path must not begin with a hyphen or have control characters.".to_owned());
    }
    let asked = if prepared.at.is_empty() { "now" } else { &prepared.at };
    // What is said to the command line means the same at any time and in any place.
    let (wanted, at) = match point::label(asked) {
        Some(name) => {
            let name: LabelName = name.parse().map_err(|error: ParseError| error.to_string())?;
            (Wanted::Label(name.clone()), format!("label:{name}"))
        }
        None => {
            let point = point::parse(asked, now, &TimeZone::system()).map_err(|error| error.to_string())?;
            let at = match point {
                Point::Newest => "now".to_owned(),
                Point::At(time) => format_time(time),
                Point::Txid(_) | Point::Commit(..) => point.to_string(),
            };
            (Wanted::Point(point), at)
        }
    };
    let mut words: Vec<&str> = vec!["replicate", "restore"];
    words.extend(source.iter().map(String::as_str));
    words.extend(["--at", &at]);
    let line = |more: &[&str]| words.iter().chain(more).map(|word| words::quoted(word)).collect::<Vec<_>>().join(" ");
    let (dry_run, restore) = (line(&["--dry-run"]), line(&["-o", &prepared.output]));
    let finding = tokio::time::timeout(READ_TIME, find(wanted, stores)).await;
    let slow = || Err(format!("The store did not answer within {} s.", READ_TIME.as_secs()));
    Ok(Commands { finding: finding.unwrap_or_else(|_| slow()), dry_run, restore })
}

enum Wanted {
    Label(LabelName),
    Point(Point),
}

/// What the first replica that has the point says of it.
async fn find(wanted: Wanted, stores: Vec<Result<Arc<dyn Store>, String>>) -> Result<String, String> {
    let mut problem = "There is no replica.".to_owned();
    for store in stores {
        let found = async {
            let store = store?;
            let point = match &wanted {
                Wanted::Point(point) => *point,
                Wanted::Label(name) => {
                    let label = Labels::new(store.clone()).find(name).await.map_err(|error| error.to_string())?;
                    Point::Commit(label.commit.generation, label.commit.txid)
                }
            };
            let request = Request { point, generation: None };
            Planner::new(Reading::new(store)).plan(&request).await.map_err(|error| error.to_string())
        };
        match found.await {
            Ok(plan) => {
                let (commit, bytes) = (&plan.commit, words::size(plan.target_bytes()));
                let (generation, txid, time) = (plan.generation, commit.txid.0, format_time(commit.time));
                return Ok(format!("This restores commit {generation}/{txid} of {time}: {bytes}."));
            }
            Err(error) => problem = error,
        }
    }
    Err(problem)
}

pub fn section(prepared: &Prepared, held: &[Read], id: u64) -> Markup {
    let labels =
        held.iter().flatten().flat_map(|held| held.labels.iter().rev()).map(|label| format!("label:{}", label.name));
    let ends =
        held.iter().flatten().flat_map(|held| held.windows.iter().rev()).map(|(_, window)| format_time(window.to.time));
    let mut offered: Vec<String> = labels.chain(ends).collect();
    offered.dedup();
    html! {
        section aria-labelledby="restore" {
            h2 id="restore" { "Prepare a restore" }
            p { "Nothing is restored from here: you get the command, for a shell on this machine." }
            form class="row" method="get" action=(format!("/db/{id:016x}#restore")) {
                label class="field" {
                    span { "Point: a time, label:NAME, 5m ago, txid:123 or now" }
                    input type="text" name="at" list="points" size="30" maxlength="200" autocomplete="off" value=(prepared.at);
                }
                datalist id="points" { @for one in &offered { option value=(one) {} } }
                label class="field" {
                    span { "Write it to" }
                    input type="text" name="output" size="40" maxlength=(MAX_TEXT_CHARS) autocomplete="off" value=(prepared.output);
                }
                button type="submit" { "Prepare" }
            }
            @match &prepared.result {
                None => {}
                Some(Err(problem)) => { p class="note wrong" role="alert" { (problem) } }
                Some(Ok(commands)) => {
                    @match &commands.finding {
                        Ok(finding) => { p class="note" role="status" { (finding) } }
                        Err(problem) => { p class="note wrong" role="alert" { (problem) } }
                    }
                    label class="field" { span { "See what would be done" } textarea readonly rows="2" spellcheck="false" { (commands.dry_run) } }
                    label class="field" { span { "Restore" } textarea readonly rows="2" spellcheck="false" { (commands.restore) } }
                    p class="dim" { "To put it in the place of the live database, first stop the application and replicate: docs/operations.md, Restoring." }
                }
            }
        }
    }
}
