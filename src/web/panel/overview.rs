//! `/`: every database and replica, those with trouble first.

use maud::{Markup, html};
use url::form_urlencoded;

use super::frame::Page;
use super::history::History;
use super::{chart, id_of, words};
use crate::control::state_word;
use crate::position::TimeMs;
use crate::status::{Proofs, StatusSnapshot};
use crate::web::Watched;

/// Databases on a page.
const ON_A_PAGE: usize = 50;
const MAX_SEARCH_CHARS: usize = 200;

/// One database, ready to be sorted.
struct Row<'a> {
    watched: &'a Watched,
    status: StatusSnapshot,
    troubles: Vec<String>,
}

impl Row<'_> {
    /// The less the worse.
    fn rank(&self) -> u8 {
        let is_failing = |proofs: &Proofs| proofs.is_failing();
        let unproven = self.status.replicas.iter().any(|r| is_failing(&r.verify) || is_failing(&r.drill));
        match (self.troubles.is_empty(), unproven) {
            (false, _) => 0,
            (true, true) => 1,
            (true, false) => 2,
        }
    }
}

/// What a page of the list is asked for with.
#[derive(Debug, Default)]
pub struct Asked {
    search: String,
    page: usize,
}

impl Asked {
    pub fn parse(query: &str) -> Asked {
        let mut asked = Asked { page: 1, ..Asked::default() };
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "q" => asked.search = value.trim().chars().take(MAX_SEARCH_CHARS).collect(),
                "page" => asked.page = value.parse().unwrap_or(1).max(1),
                _ => {}
            }
        }
        asked
    }

    fn link(&self, page: usize) -> String {
        let mut query = form_urlencoded::Serializer::new(String::from("/?"));
        if !self.search.is_empty() {
            query.append_pair("q", &self.search);
        }
        query.append_pair("page", &page.to_string()).finish()
    }
}

pub fn page(all: &[Watched], history: &History, asked: &Asked, now: TimeMs) -> Page {
    let wanted = asked.search.to_lowercase();
    let is_wanted =
        |watched: &&Watched| wanted.is_empty() || watched.path.to_string_lossy().to_lowercase().contains(&wanted);
    let mut rows: Vec<Row<'_>> = all
        .iter()
        .filter(is_wanted)
        .map(|watched| {
            let status = watched.handle.status().snapshot();
            Row { watched, troubles: status.troubles(), status }
        })
        .collect();
    rows.sort_by(|a, b| (a.rank(), &a.watched.path).cmp(&(b.rank(), &b.watched.path)));
    let troubled = rows.iter().filter(|row| row.rank() == 0).count();
    let pages = rows.len().div_ceil(ON_A_PAGE).max(1);
    let page = asked.page.min(pages);
    let shown = &rows[(page - 1) * ON_A_PAGE..rows.len().min(page * ON_A_PAGE)];
    let title = match troubled {
        0 => "All is well".to_owned(),
        troubled => format!("{troubled} with trouble"),
    };
    let main = html! {
        h1 { "Databases" }
        p {
            @if wanted.is_empty() { (words::count(rows.len(), "database", "databases")) ", " }
            @else { (rows.len()) " of " (words::count(all.len(), "database", "databases")) " match, " }
            @if troubled == 0 { span class="good" { "✓ all as they should be" } }
            @else { span class="bad" { "✗ " (troubled) " with trouble" } }
        }
        (search(asked))
        @if shown.is_empty() { p class="note" { @if all.is_empty() { "No database is replicated yet." } @else { "No path contains this." } } }
        @else { (table(shown, history, now)) }
        @if pages > 1 { (pager(asked, page, pages)) }
    };
    Page::new(title, main)
}

fn search(asked: &Asked) -> Markup {
    html! {
        form class="row" method="get" action="/" role="search" {
            label class="field" { span { "Part of the path" } input type="search" name="q" maxlength=(MAX_SEARCH_CHARS) value=(asked.search); }
            button type="submit" { "Search" }
            @if !asked.search.is_empty() { a href="/" { "Show all" } }
        }
    }
}

fn pager(asked: &Asked, page: usize, pages: usize) -> Markup {
    html! {
        nav class="row" aria-label="Pages of the list" {
            @if page > 1 { a rel="prev" href=(asked.link(page - 1)) { "Previous" } }
            span aria-current="page" { "Page " (page) " of " (pages) }
            @if page < pages { a rel="next" href=(asked.link(page + 1)) { "Next" } }
        }
    }
}

/// The roles say again what the elements are, because as cards on a phone they are not laid out as a table.
fn table(rows: &[Row<'_>], history: &History, now: TimeMs) -> Markup {
    html! {
        table class="cards" role="table" {
            caption { "Those with trouble come first." }
            thead role="rowgroup" {
                tr role="row" {
                    @for name in ["Database", "State", "Replica", "Lag", "Snapshot", "Verified", "Drill"] {
                        th role="columnheader" scope="col" { (name) }
                    }
                }
            }
            tbody role="rowgroup" { @for row in rows { (lines(row, history, now)) } }
        }
    }
}

fn lines(row: &Row<'_>, history: &History, now: TimeMs) -> Markup {
    let id = id_of(&row.watched.path);
    html! {
        @for (number, replica) in row.status.replicas.iter().enumerate() {
            @let samples = history.read(id, number);
            @let verified = row.watched.handle.verified(number).max(replica.verify.last_success);
            tr role="row" {
                th role="rowheader" scope="row" { a href=(format!("/db/{id:016x}")) { (words::place(&row.watched.path.to_string_lossy())) } }
                td role="cell" data-name="State" {
                    @if row.troubles.is_empty() { span class="good" { "✓ " (state_word(&row.status.state)) } }
                    @else { span class="bad" { "✗ " (state_word(&row.status.state)) } }
                    @if number == 0 { @for trouble in row.troubles.iter().take(3) { div class="dim" { (trouble) } } }
                }
                td role="cell" data-name="Replica" { (words::place(&replica.name)) div class="dim" { (words::replica_word(&replica.state)) } }
                td role="cell" data-name="Lag" { (words::length(replica.lag)) (chart::sparkline(&samples)) }
                td role="cell" data-name="Snapshot" { (words::brief(replica.snapshot.map(|(_, time)| time), now)) }
                td role="cell" data-name="Verified" { (proven(&replica.verify, verified, now)) }
                td role="cell" data-name="Drill" { (proven(&replica.drill, replica.drill.last_success, now)) }
            }
        }
    }
}

fn proven(proofs: &Proofs, last: Option<TimeMs>, now: TimeMs) -> Markup {
    html! {
        (words::brief(last, now))
        @if proofs.is_failing() { " " span class="bad" { "✗ failing" } }
        @if proofs.running_since.is_some() { " " span class="dim" { "(under way)" } }
    }
}
