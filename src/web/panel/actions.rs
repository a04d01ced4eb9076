//! What can be done on the panel: the forms for it, what they begin, and how that is told.

use std::sync::Arc;
use std::time::Duration;

use maud::{Markup, html};
use serde_json::{Value, json};

use super::desk::{Desk, Task};
use super::frame::Page;
use super::jobs::{Action, Job};
use super::words;
use crate::control::{NewLabel, snapshot};
use crate::label::{Description, Retain};
use crate::layout::LabelName;
use crate::position::{ParseError, TimeMs};
use crate::replicator::Handle;
use crate::restore::point::format_time;

/// How long a sync may take before it is given up; it goes on by itself.
const SYNC_TIME: Duration = Duration::from_secs(600);
const BACKUP_TIME: Duration = Duration::from_secs(24 * 3600);
const PAUSE_TIME: Duration = Duration::from_secs(60);
/// A plan to prune that is older has to be made again.
const PLAN_TIME_MS: u64 = 15 * 60 * 1000;

/// The page of a database.
pub fn home(id: u64) -> String {
    format!("/db/{id:016x}")
}

fn form(id: u64, action: Action, form_word: &str, inner: &Markup) -> Markup {
    html! {
        form method="post" action=(format!("/db/{id:016x}/{}", action.word())) {
            input type="hidden" name="word" value=(form_word);
            (inner)
        }
    }
}

pub fn forms(id: u64, word: &str, is_paused: bool) -> Markup {
    let button = |action: Action| form(id, action, word, &html! { button type="submit" { (action.title()) } });
    let backup = html! {
        div class="row" {
            label class="field" {
                span { "Label (optional: a-z, 0-9, dot, hyphen)" }
                input type="text" name="label" maxlength="100" autocomplete="off" pattern="[a-z0-9_\\-][a-z0-9._\\-]*";
            }
            button type="submit" { (Action::Backup.title()) }
        }
    };
    let pause = html! {
        label { input type="checkbox" name="confirm" value="yes" required; " Nothing is captured until it is resumed" }
        button type="submit" class="danger" { (Action::Pause.title()) }
    };
    html! {
        (form(id, Action::Backup, word, &backup))
        div class="row" {
            (button(Action::Sync))
            (button(Action::Verify))
            (button(Action::Drill))
            (button(Action::PlanPrune))
            @if is_paused { (button(Action::Resume)) }
        }
        @if !is_paused { (form(id, Action::Pause, word, &pause)) }
        details {
            summary { "What these do" }
            dl {
                dt { "Create backup" } dd { "Takes a snapshot into every replica now; with a label, its commit has a name." }
                dt { "Sync" } dd { "Waits until everything committed by now is in every replica." }
                dt { "Verify" } dd { "Proves every replica, as configured under verify." }
                dt { "Drill" } dd { "Restores the newest commit of every replica to a scratch directory, checks it and removes it." }
                dt { "Plan a prune" } dd { "Shows what no retention rule keeps. Nothing goes before you say so on the page with the plan." }
                dt { "Pause" } dd { "Lets go of every lock, connection and file of the database." }
            }
        }
    }
}

/// What a form said.
#[derive(Debug, Default)]
pub struct Said {
    pub label: Option<String>,
    pub confirm: bool,
    /// The number of the job that showed the plan.
    pub plan: Option<u64>,
}

/// Is what the form said enough for this? The page that showed a plan is `plan`.
pub fn check(action: Action, said: &Said, plan: Option<&Job>, id: u64, now: TimeMs) -> Result<(), String> {
    if let Some(label) = &said.label {
        label.parse::<LabelName>().map_err(|error: ParseError| error.to_string())?;
    }
    match action {
        Action::Pause if !said.confirm => Err("Confirm that nothing is captured until it is resumed.".to_owned()),
        Action::Prune if !said.confirm => Err("Confirm that the objects of the plan may go.".to_owned()),
        Action::Prune => {
            let is_plan = |job: &&Job| job.action == Action::PlanPrune && job.id == id;
            let made = plan.filter(is_plan).and_then(|job| job.end.as_ref());
            match made {
                Some((time, Ok(_))) if now.0.saturating_sub(time.0) <= PLAN_TIME_MS => Ok(()),
                _ => Err("First look at a plan; one that is older than 15 minutes has to be made again.".to_owned()),
            }
        }
        _ => Ok(()),
    }
}

/// Does it: what came of it, in words.
pub async fn run(
    action: Action,
    said: Said,
    by: String,
    handle: Handle,
    desk: Arc<dyn Desk>,
) -> Result<String, String> {
    match action {
        Action::Sync => match handle.sync(SYNC_TIME).await {
            Ok(place) => Ok(format!("everything up to {place} is in every replica")),
            Err(error) => Err(error.to_string()),
        },
        Action::Pause => match handle.pause(PAUSE_TIME).await {
            Ok(place) => Ok(format!("let go of it after commit {place}; nothing is captured until it is resumed")),
            Err(error) => Err(error.to_string()),
        },
        Action::Resume => {
            handle.resume();
            Ok("capture goes on".to_owned())
        }
        Action::Backup => {
            let description = Description {
                created_by: by,
                ticket: None,
                purpose: None,
                description: None,
                retain: Retain::UntilVerified,
            };
            let label = said.label.map(|name| NewLabel { name, description });
            let taken = snapshot(&handle, label.as_ref(), BACKUP_TIME).await?;
            let text = |one: &Value, key: &str| one[key].as_str().unwrap_or("-").to_owned();
            let snapshots = taken["snapshots"].as_array().into_iter().flatten();
            let mut lines: Vec<String> = snapshots
                .map(|one| {
                    format!("{}: snapshot of commit {}/{}", text(one, "replica"), text(one, "generation"), one["txid"])
                })
                .collect();
            lines.extend(label.map(|label| format!("restore it with --at label:{}", label.name)));
            Ok(lines.join("\n"))
        }
        Action::Verify => desk.work(Task::Verify).await,
        Action::Drill => desk.work(Task::Drill).await,
        Action::PlanPrune => desk.work(Task::PlanPrune).await,
        Action::Prune => desk.work(Task::Prune).await,
    }
}

fn outcome(job: &Job) -> Markup {
    html! {
        @match &job.end {
            None => { span class="dim" { "… under way" } }
            Some((_, Ok(_))) => { span class="good" { "✓ done" } }
            Some((_, Err(_))) => { span class="bad" { "✗ failed" } }
        }
    }
}

/// One line of the list of jobs.
pub fn line(job: &Job, now: TimeMs) -> Markup {
    html! {
        a href=(format!("/jobs/{}", job.number)) { (job.action.title()) } ", " (words::moment(job.began, now)) " by " (job.by) ": " (outcome(job))
    }
}

/// `/jobs/<number>`: what was asked for, and what came of it. While it is under way, the page asks again by itself.
pub fn page(job: &Job, form_word: Option<&str>, now: TimeMs) -> Page {
    let main = html! {
        h1 { (job.action.title()) }
        p { a href=(home(job.id)) { (words::place(&job.path)) } }
        div role="status" {
            p { (outcome(job)) ", asked for " (words::moment(job.began, now)) " by " (job.by)
                @if let Some((ended, _)) = job.end { ", took " (words::length(Duration::from_millis(ended.0.saturating_sub(job.began.0)))) }
            }
            @match &job.end {
                None => { p { "This page loads itself again until it is done. " a href=(format!("/jobs/{}", job.number)) { "Load now" } } }
                Some((_, Ok(text) | Err(text))) => { @if !text.is_empty() { pre tabindex="0" aria-label="What it said" { (text) } } }
            }
        }
        @if let (Action::PlanPrune, Some((_, Ok(_))), Some(word)) = (job.action, &job.end, form_word) {
            (form(job.id, Action::Prune, word, &html! {
                input type="hidden" name="plan" value=(job.number);
                p { label { input type="checkbox" name="confirm" value="yes" required; " What the plan says may go, may go" } }
                button type="submit" class="danger" { (Action::Prune.title()) }
                p class="dim" { "Objects are marked first, and deleted by a prune after the grace time of an hour, which replicate run does by itself." }
            }))
        }
    };
    Page { waits: job.end.is_none(), ..Page::new(format!("{} {}", job.action.title(), job.path), main) }
}

/// The same for scripts.
pub fn value(job: &Job) -> Value {
    let (state, said, ended) = match &job.end {
        None => ("under-way", None, None),
        Some((time, Ok(said))) => ("done", Some(said), Some(format_time(*time))),
        Some((time, Err(said))) => ("failed", Some(said), Some(format_time(*time))),
    };
    json!({
        "number": job.number, "database": job.path, "action": job.action.word(), "by": job.by, "state": state,
        "began": format_time(job.began), "ended": ended, "said": said,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only the confirmed plan of the same database, made well and not long ago, is a plan to prune by; a pause is confirmed, and a label is one.
    #[test]
    fn what_a_form_must_say() {
        let now = TimeMs(1_000_000_000);
        let made = |ago: u64| Some((TimeMs(now.0 - ago), Ok("a plan".to_owned())));
        let (path, by) = ("a.db".to_owned(), "ann".to_owned());
        let plan = Job { number: 7, id: 1, path, action: Action::PlanPrune, by, began: now, end: made(0) };
        let said = |confirm| Said { label: None, confirm, plan: Some(7) };
        let prune = |plan: Option<&Job>| check(Action::Prune, &said(true), plan, 1, now).is_ok();
        assert!(prune(Some(&plan)) && prune(Some(&Job { end: made(PLAN_TIME_MS), ..plan.clone() })));
        assert!(check(Action::Prune, &said(false), Some(&plan), 1, now).is_err(), "not confirmed");
        assert!(!prune(None), "no plan");
        for no_plan in [
            Job { id: 2, ..plan.clone() },
            Job { action: Action::Backup, ..plan.clone() },
            Job { end: None, ..plan.clone() },
            Job { end: Some((now, Err("it failed".to_owned()))), ..plan.clone() },
            Job { end: made(PLAN_TIME_MS + 1), ..plan.clone() },
        ] {
            assert!(!prune(Some(&no_plan)), "{no_plan:?}");
        }
        assert!(check(Action::Pause, &said(false), None, 1, now).is_err());
        assert!(check(Action::Pause, &said(true), None, 1, now).is_ok());
        for (label, is_one) in [("release-1.2", true), ("../../etc", false), ("", false), ("a b", false)] {
            let said = Said { label: Some(label.to_owned()), ..Said::default() };
            assert_eq!(check(Action::Backup, &said, None, 1, now).is_ok(), is_one, "{label}");
        }
    }
}
