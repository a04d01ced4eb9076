//! `/db/<number>`: one database, what is wrong with it, what can be restored, and what can be done.

use maud::{Markup, html};

use super::frame::Page;
use super::history::History;
use super::jobs::Job;
use super::listing::{Held, Read};
use super::{actions, chart, id_of, restoring, words};
use crate::control::state_word;
use crate::position::TimeMs;
use crate::status::{Proofs, ReplicaStatus, State, StatusSnapshot};
use crate::web::Watched;

/// Everything that the page shows.
pub struct View<'a> {
    pub watched: &'a Watched,
    pub status: StatusSnapshot,
    /// Of each replica.
    pub held: Vec<Read>,
    pub history: &'a History,
    pub jobs: Vec<Job>,
    /// For forms; `None`: nothing may be done here.
    pub form_word: Option<&'a str>,
    pub restoring: restoring::Prepared,
    pub now: TimeMs,
}

impl View<'_> {
    pub fn page(&self) -> Page {
        let path = self.watched.path.display().to_string();
        let troubles = self.status.troubles();
        let main = html! {
            h1 { (words::place(&path)) }
            p {
                @if troubles.is_empty() { span class="good" { "✓ replicated as it should be" } }
                @else { span class="bad" { "✗ needs attention" } }
                " " a href=(actions::home(self.id())) { "Load again" }
            }
            @if !troubles.is_empty() { (self.wrong(&troubles)) }
            (self.facts())
            (self.jobs())
            (self.replicas())
            (self.restorable())
            (restoring::section(&self.restoring, &self.held, self.id()))
            (self.actions())
            (self.errors())
        };
        Page::new(path, main)
    }

    fn id(&self) -> u64 {
        id_of(&self.watched.path)
    }

    fn wrong(&self, troubles: &[String]) -> Markup {
        let advice = words::advice(&self.status);
        html! {
            section class="note wrong" aria-labelledby="wrong" {
                h2 id="wrong" { "What is wrong" }
                ul { @for trouble in troubles { li { (trouble) } } }
                @if !advice.is_empty() { h3 { "What to do" } ul { @for text in advice { li { (text) } } } }
            }
        }
    }

    fn facts(&self) -> Markup {
        let status = &self.status;
        html! {
            dl {
                dt { "Capture" }
                dd { (state_word(&status.state)) @if let State::FirstRead { done, total } = status.state { " (" (words::size(done)) " of " (words::size(total)) ")" } }
                dt { "Last commit" }
                dd {
                    @match status.captured_time {
                        Some(time) => { "txid:" (status.captured.0) ", " (words::moment(time, self.now)) }
                        None => { "txid:" (status.captured.0) }
                    }
                }
                @if let Some(generation) = status.generation { dt { "Generation" } dd { (generation) ", begun " (words::moment(generation.began(), self.now)) } }
                dt { "Size" }
                dd { (words::size(status.database_bytes)) ", and " (words::size(status.wal_bytes)) " of log" }
                dt { "Waiting in the spool" }
                dd { (words::size(status.spool_bytes)) " of " (words::size(status.spool_limit_bytes)) }
                dt { "Allowed lag" }
                dd {
                    (words::length(status.aims.max_lag))
                    @if let Some(rpo) = status.aims.rpo { "; RPO " (words::length(rpo)) }
                    @if let Some(rto) = status.aims.rto { "; RTO " (words::length(rto)) }
                }
            }
        }
    }

    fn replicas(&self) -> Markup {
        html! {
            section aria-labelledby="replicas" {
                h2 id="replicas" { "Replicas" }
                @for (number, replica) in self.status.replicas.iter().enumerate() {
                    h3 { (words::place(&replica.name)) }
                    (chart::lag(&self.history.read(self.id(), number), self.status.aims.max_lag, &format!("lag-{number}")))
                    dl {
                        dt { "State" }
                        dd { (words::replica_word(&replica.state)) }
                        dt { "Lag" }
                        dd { (words::length(replica.lag)) ", " (words::size(replica.lag_bytes)) }
                        dt { "Has" }
                        dd { "commit txid:" (replica.shipped.txid.0) }
                        dt { "Snapshot" }
                        dd { (self.snapshot(replica)) }
                        dt { "Verified" }
                        dd { (self.proofs(&replica.verify, self.watched.handle.verified(number).max(replica.verify.last_success))) }
                        dt { "Drill" }
                        dd { (self.proofs(&replica.drill, self.last_drill(number, replica))) }
                    }
                }
            }
        }
    }

    /// As this process knows, or as the replica's own records tell.
    fn last_drill(&self, number: usize, replica: &ReplicaStatus) -> Option<TimeMs> {
        let held = self.held.get(number).and_then(|read| read.as_ref().ok());
        let recorded =
            held.and_then(|held| held.drills.iter().rev().find(|drill| drill.passed)).map(|drill| drill.time);
        recorded.max(replica.drill.last_success)
    }

    fn snapshot(&self, replica: &ReplicaStatus) -> Markup {
        html! {
            @match replica.snapshot {
                Some((txid, time)) => { "of commit txid:" (txid.0) ", " (words::moment(time, self.now)) }
                None => { "none yet, as far as is known" }
            }
            @if let Some(progress) = replica.snapshot_progress {
                "; one is under way: " (words::size(progress.done_bytes)) " of " (words::size(progress.total_bytes))
            }
        }
    }

    fn proofs(&self, proofs: &Proofs, last: Option<TimeMs>) -> Markup {
        html! {
            @match last { Some(time) => { "passed " (words::moment(time, self.now)) } None => { "never, as far as is known" } }
            @if let Some(took) = proofs.last_duration { "; the last one took " (words::length(took)) }
            @if let Some(since) = proofs.running_since { "; one is under way since " (words::moment(since, self.now)) }
            @if proofs.is_failing() && let Some((time, why)) = &proofs.last_failure {
                div { span class="bad" { "✗ failed" } " " (words::moment(*time, self.now)) ": " (why) }
            }
        }
    }

    fn restorable(&self) -> Markup {
        html! {
            section aria-labelledby="restorable" {
                h2 id="restorable" { "What can be restored" }
                @for (number, (replica, read)) in self.status.replicas.iter().zip(&self.held).enumerate() {
                    h3 { (words::place(&replica.name)) }
                    @match read {
                        Ok(held) => { (held_in(held, number, self.now)) }
                        Err(why) => { p class="note wrong" { "This replica cannot be read now: " (why) } }
                    }
                }
            }
        }
    }

    fn actions(&self) -> Markup {
        html! {
            section aria-labelledby="actions" {
                h2 id="actions" { "Actions" }
                @match self.form_word {
                    Some(word) => { (actions::forms(self.id(), word, self.status.state == State::Paused)) }
                    None => { p class="note" { "This panel is read-only, because no password is configured: see panel.password in docs/panel.md. The commands of replicate do the same." } }
                }
            }
        }
    }

    fn jobs(&self) -> Markup {
        html! {
            section aria-labelledby="jobs" aria-live="polite" {
                @if !self.jobs.is_empty() {
                    h2 id="jobs" { "Asked for here" }
                    ul class="plain" { @for job in self.jobs.iter().take(10) { li { (actions::line(job, self.now)) } } }
                } @else { span id="jobs" hidden { "Asked for here" } }
            }
        }
    }

    fn errors(&self) -> Markup {
        let errors: Vec<_> = self.status.errors.iter().filter(|(_, count)| **count > 0).collect();
        html! {
            section aria-labelledby="errors" {
                h2 id="errors" { "Errors since the start" }
                @if errors.is_empty() { p { "None." } }
                @else {
                    @if let Some((time, text)) = &self.status.last_error { p { "The last one, " (words::moment(*time, self.now)) ": " (text) } }
                    table class="cards" role="table" {
                        caption { "By kind; most are tried again by themselves." }
                        thead role="rowgroup" { tr role="row" { @for name in ["Kind", "Count", "What to do"] { th role="columnheader" scope="col" { (name) } } } }
                        tbody role="rowgroup" {
                            @for (kind, count) in errors {
                                tr role="row" {
                                    th role="rowheader" scope="row" { (kind) }
                                    td role="cell" data-name="Count" { (count) }
                                    td role="cell" data-name="What to do" { (words::error_advice(kind)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn held_in(held: &Held, number: usize, now: TimeMs) -> Markup {
    html! {
        (chart::timeline(held, &format!("timeline-{number}"), now))
        p class="dim" { "As it was listed " (words::brief(Some(held.read), now)) "." }
        @for problem in &held.problems { p class="note" { (problem) } }
        details {
            summary {
                (words::count(held.windows.len(), "restorable stretch", "restorable stretches")) ", "
                (words::count(held.gaps.len(), "gap", "gaps"))
            }
            ul {
                @for (generation, window) in held.windows.iter().rev() {
                    li { (words::moment(window.from.time, now)) " to " (words::moment(window.to.time, now)) ": "
                        (generation) ", txid:" (window.from.txid.0) " to txid:" (window.to.txid.0) }
                }
                @for (generation, gap) in held.gaps.iter().rev() {
                    li { span class="bad" { "✗ gap" } ": " (generation) ", txid:" (gap.first.0) " to txid:" (gap.last.0) " are missing"
                        @if let Some(before) = gap.before { ", after " (words::moment(before.time, now)) } }
                }
            }
        }
        details {
            summary { (words::count(held.snapshots.len(), "snapshot", "snapshots")) }
            ul { @for (generation, snapshot) in held.snapshots.iter().rev() { li { (words::moment(snapshot.time, now)) ": " (generation) "/" (snapshot.txid.0) } } }
        }
        details {
            summary { (words::count(held.labels.len(), "label", "labels")) }
            ul {
                @for label in held.labels.iter().rev() {
                    li { strong { (label.name) } ", " (label.state()) ": " (words::moment(label.commit.time, now)) ", by " (label.description.created_by)
                        @if let Some(purpose) = &label.description.purpose { ", for " (purpose) } }
                }
            }
        }
        details {
            summary { (words::count(held.drills.len(), "drill", "drills")) }
            ul {
                @for drill in held.drills.iter().rev() {
                    li { (words::moment(drill.time, now)) ": " @if drill.passed { span class="good" { "✓ passed" } } @else { span class="bad" { "✗ failed" } } }
                }
            }
        }
    }
}
