//! The ops panel: pages rendered here and now, without scripts and without anything from elsewhere, and the actions on them.
//!
//! It shows what status says and what replicas hold, and does what the control socket and the commands do. A restore is only
//! prepared as a command.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use url::form_urlencoded;

use super::Watched;
use crate::checksum::content_hash;
use crate::config::panel::{Credentials, PanelConfig};
use crate::status::{Clock, system_clock};
use actions::Said;
use frame::Page;
use gate::{Gate, Refusal, Visitor};
use history::History;
use jobs::{Action, Jobs};
use listing::Listings;

mod actions;
mod chart;
mod database;
mod desk;
mod frame;
mod gate;
mod history;
mod jobs;
mod listing;
mod overview;
mod restoring;
mod throttle;
mod words;

pub use desk::{Desk, Task};

/// Bytes of a form, and the time in which it must come.
const MAX_FORM_BYTES: usize = 16 * 1024;
const FORM_TIME: Duration = Duration::from_secs(10);

/// The number by which pages name a database.
fn id_of(path: &Path) -> u64 {
    content_hash(path.as_os_str().as_bytes())
}

pub struct Panel {
    gate: Gate,
    history: Mutex<History>,
    jobs: Jobs,
    listings: Listings,
    clock: Clock,
}

impl fmt::Debug for Panel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Panel").finish_non_exhaustive()
    }
}

/// A path of the panel, as far as it is one.
enum Place<'a> {
    Overview,
    Database(&'a str),
    Action(&'a str, &'a str),
    Job(&'a str),
}

impl Place<'_> {
    fn of(path: &str) -> Option<Place<'_>> {
        if path == "/" {
            return Some(Place::Overview);
        }
        if let Some(number) = path.strip_prefix("/jobs/") {
            return Some(Place::Job(number));
        }
        let rest = path.strip_prefix("/db/")?;
        Some(rest.split_once('/').map_or(Place::Database(rest), |(id, action)| Place::Action(id, action)))
    }
}

type All = Option<Arc<Vec<Watched>>>;

impl Panel {
    pub fn new(config: &PanelConfig, credentials: &Credentials, address: SocketAddr) -> Panel {
        let gate = Gate::new(config, credentials, address, rand::random());
        let clock = system_clock();
        let (history, jobs, listings) = (Mutex::default(), Jobs::new(clock.clone()), Listings::default());
        match gate.is_closed() {
            Some(Refusal::Off) => tracing::info!("the panel is switched off"),
            Some(_) => tracing::warn!(
                "the panel at / is off: it listens beyond loopback without a password; set panel.password or panel.token"
            ),
            None if !gate.may_act() => tracing::info!("the panel at / is read-only: no password is configured"),
            None => tracing::info!("the panel at / asks for a password or a token"),
        }
        Panel { gate, history, jobs, listings, clock }
    }

    pub fn is_page(path: &str) -> bool {
        Place::of(path).is_some()
    }

    /// Logins that failed, and those that were refused because there were too many.
    pub fn failures(&self) -> (u64, u64) {
        self.gate.failures()
    }

    /// Remembers the lag of all databases as it is now.
    pub fn sample(&self, all: &[Watched]) {
        if self.gate.is_closed().is_none() {
            let lags = all.iter().map(|watched| (id_of(&watched.path), watched.handle.status().lags()));
            self.history().sample(lags);
        }
    }

    /// Between two samples.
    pub const STEP: Duration = history::STEP;

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up what was asked for and is not done.
    pub async fn stop(&self) {
        self.jobs.stop().await;
    }

    /// `turn` is held while much is rendered; `all` is `None` until the databases are started.
    pub async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        peer: IpAddr,
        all: All,
        turn: &tokio::sync::Mutex<()>,
    ) -> Response<Full<Bytes>> {
        let visitor = match self.gate.admit(request.headers(), peer, (self.clock)()) {
            Ok(visitor) => visitor,
            Err(refusal) => return Page::refused(&refusal).send(rand::random()),
        };
        let wants_json = request.headers().get(ACCEPT).is_some_and(|accept| accept == "application/json");
        let path = request.uri().path().to_owned();
        let Some(place) = Place::of(&path) else { return not_found().send(rand::random()) };
        let page = match (place, request.method()) {
            (Place::Action(id, action), &Method::POST) => self.act(request, &visitor, all, id, action).await,
            (Place::Action(..), _) => not_allowed("POST"),
            (_, method) if !matches!(*method, Method::GET | Method::HEAD) => not_allowed("GET, HEAD"),
            (Place::Job(number), _) if wants_json => return self.job_value(number),
            (Place::Job(number), _) => self.job(number),
            (Place::Overview, _) => self.overview(request.uri().query().unwrap_or_default(), all, turn).await,
            (Place::Database(id), _) => self.database(request.uri().query().unwrap_or_default(), all, id).await,
        };
        page.send(rand::random())
    }

    async fn overview(self: &Arc<Self>, query: &str, all: All, turn: &tokio::sync::Mutex<()>) -> Page {
        let Some(all) = all else { return starting() };
        let (panel, asked, now) = (self.clone(), overview::Asked::parse(query), (self.clock)());
        let _turn = turn.lock().await;
        // It takes a while where there are thousands of databases.
        let page = tokio::task::spawn_blocking(move || overview::page(&all, &panel.history(), &asked, now));
        page.await.unwrap_or_else(|error| {
            tracing::error!("a page could not be rendered: {error}");
            Page::problem(StatusCode::INTERNAL_SERVER_ERROR, "Not rendered", "The log says why.")
        })
    }

    async fn database(&self, query: &str, all: All, id: &str) -> Page {
        let Some(all) = all else { return starting() };
        let Some(watched) = find(&all, id) else { return not_found() };
        let (id, now) = (id_of(&watched.path), (self.clock)());
        let status = watched.handle.status().snapshot();
        let stores = || (0..status.replicas.len()).map(|number| watched.desk.store(number));
        let reads = stores().enumerate().map(|(number, store)| self.listings.of(id, number, store, now));
        let (path, source) = (watched.path.to_string_lossy(), watched.desk.source());
        let restoring = restoring::prepare(query, &path, &source, stores().collect(), now);
        let (held, restoring) = tokio::join!(join_all(reads), restoring);
        let form_word = self.gate.may_act().then(|| self.gate.form_word());
        let (jobs, history) = (self.jobs.of(id), self.history());
        let view = database::View { watched, status, held, history: &history, jobs, form_word, restoring, now };
        view.page()
    }

    fn job(&self, number: &str) -> Page {
        let form_word = self.gate.may_act().then(|| self.gate.form_word());
        match number.parse().ok().and_then(|number| self.jobs.find(number)) {
            Some(job) => actions::page(&job, form_word, (self.clock)()),
            None => not_found(),
        }
    }

    fn job_value(&self, number: &str) -> Response<Full<Bytes>> {
        let Some(job) = number.parse().ok().and_then(|number| self.jobs.find(number)) else {
            return not_found().send(rand::random());
        };
        let mut response = Response::new(Full::new(Bytes::from(format!("{:#}\n", actions::value(&job)))));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        super::plain_headers(response.headers_mut());
        response
    }

    /// Begins what a form asks for, in the background.
    async fn act(
        self: &Arc<Self>,
        request: Request<Incoming>,
        visitor: &Visitor,
        all: All,
        id: &str,
        action: &str,
    ) -> Page {
        let (parts, body) = request.into_parts();
        let form = match form(&parts.headers, body).await {
            Ok(form) => form,
            Err(page) => return page,
        };
        let value = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        if let Err(refusal) = self.gate.permit(visitor, &parts.headers, value("word")) {
            tracing::warn!(by = visitor.name, "an action on the panel was refused: {refusal:?}");
            return Page::refused(&refusal);
        }
        let Some(all) = all else { return starting() };
        let (Some(watched), Some(action)) = (find(&all, id), Action::parse(action)) else { return not_found() };
        let said = Said {
            label: value("label").map(str::trim).filter(|label| !label.is_empty()).map(str::to_owned),
            confirm: value("confirm") == Some("yes"),
            plan: value("plan").and_then(|number| number.parse().ok()),
        };
        let (id, by) = (id_of(&watched.path), visitor.name.clone());
        let plan = said.plan.and_then(|number| self.jobs.find(number));
        if let Err(problem) = actions::check(action, &said, plan.as_ref(), id, (self.clock)()) {
            return Page::problem(StatusCode::BAD_REQUEST, "Not done", &problem);
        }
        let path = watched.path.display().to_string();
        tracing::info!(database = path, by, "{} was asked for on the panel", action.word());
        let work = {
            let (panel, by) = (self.clone(), by.clone());
            let (handle, desk) = (watched.handle.clone(), watched.desk.clone());
            async move {
                let done = actions::run(action, said, by, handle, desk).await;
                panel.listings.forget(id);
                done
            }
        };
        match self.jobs.begin((id, path), action, by, work) {
            Ok(number) => Page::see(format!("/jobs/{number}")),
            Err(busy) => Page::problem(StatusCode::CONFLICT, "Not now", &busy.to_string()),
        }
    }
}

/// The fields of a form, in bounded size and time.
async fn form(headers: &HeaderMap, body: Incoming) -> Result<Vec<(String, String)>, Page> {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().map(str::trim) != Some("application/x-www-form-urlencoded") {
        let text = "Forms are sent as application/x-www-form-urlencoded.";
        return Err(Page::problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Not understood", text));
    }
    let read = tokio::time::timeout(FORM_TIME, Limited::new(body, MAX_FORM_BYTES).collect()).await;
    match read {
        Ok(Ok(body)) => Ok(form_urlencoded::parse(&body.to_bytes()).into_owned().collect()),
        Ok(Err(error)) => Err(Page::problem(StatusCode::PAYLOAD_TOO_LARGE, "Not understood", &error.to_string())),
        Err(_) => Err(Page::problem(StatusCode::REQUEST_TIMEOUT, "Too slow", "The form did not come in time.")),
    }
}

/// The database with this number; or with this file name, where it is the only one.
fn find<'a>(all: &'a [Watched], id: &str) -> Option<&'a Watched> {
    if let Some(found) = u64::from_str_radix(id, 16).ok().and_then(|id| all.iter().find(|w| id_of(&w.path) == id)) {
        return Some(found);
    }
    let mut named = all.iter().filter(|watched| watched.path.file_name().is_some_and(|name| name == id));
    named.next().filter(|_| named.next().is_none())
}

fn starting() -> Page {
    let mut page = Page::problem(StatusCode::SERVICE_UNAVAILABLE, "Starting", "The databases are not started yet.");
    page.waits = true;
    page
}

fn not_found() -> Page {
    Page::problem(StatusCode::NOT_FOUND, "Not found", "There is no such page, or not any more.")
}

fn not_allowed(methods: &'static str) -> Page {
    let mut page =
        Page::problem(StatusCode::METHOD_NOT_ALLOWED, "Not allowed", "This is not how this page is asked for.");
    page.headers.push((ALLOW, methods.to_owned()));
    page
}
