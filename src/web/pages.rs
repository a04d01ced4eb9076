//! What is answered to which path.

use hyper::StatusCode;
use serde_json::json;

use super::{Watched, metrics};
use crate::control::status_value;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const INDEX: &str = "/         the ops panel\n/metrics  for Prometheus\n/healthz  does the process live?\n\
    /readyz   is every database within its max-lag?\n/status   where everything stands, as JSON\n";

#[derive(Debug)]
pub struct Page {
    pub status: StatusCode,
    pub kind: &'static str,
    pub body: String,
}

impl Page {
    pub fn text(status: StatusCode, body: impl Into<String>) -> Page {
        Page { status, kind: PLAIN, body: body.into() }
    }
}

/// `watched` is `None` until the databases are started; `failures` are the panel's logins that were wrong, and that were not looked at.
pub fn page(path: &str, watched: Option<&[Watched]>, failures: (u64, u64)) -> Page {
    let Some(all) = watched else {
        return match path {
            "/healthz" => Page::text(StatusCode::OK, "alive\n"),
            "/readyz" | "/metrics" | "/status" => Page::text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
            _ => unknown(),
        };
    };
    match path {
        "/healthz" => judged("alive", all.iter().filter_map(hang).collect()),
        "/readyz" => judged("ready", all.iter().flat_map(troubles).collect()),
        "/metrics" => Page { status: StatusCode::OK, kind: METRICS, body: metrics::render(all, VERSION, failures) },
        "/status" => {
            let databases: Vec<_> = all.iter().map(|one| status_value(&one.path, &one.handle)).collect();
            let ready = databases.iter().all(|database| database["ready"] == true);
            let value = json!({ "version": VERSION, "ready": ready, "databases": databases });
            Page { status: StatusCode::OK, kind: JSON, body: format!("{value:#}\n") }
        }
        _ => unknown(),
    }
}

fn unknown() -> Page {
    Page::text(StatusCode::NOT_FOUND, format!("there is no such page\n\n{INDEX}"))
}

/// Good with one word, or everything that is not.
fn judged(good: &str, troubles: Vec<String>) -> Page {
    match troubles.is_empty() {
        true => Page::text(StatusCode::OK, format!("{good}\n")),
        false => Page::text(StatusCode::SERVICE_UNAVAILABLE, troubles.concat()),
    }
}

fn hang(watched: &Watched) -> Option<String> {
    let status = watched.handle.status().snapshot();
    status.hangs().then(|| format!("{}: capture hangs\n", watched.path.display()))
}

fn troubles(watched: &Watched) -> Vec<String> {
    let troubles = watched.handle.status().snapshot().troubles();
    troubles.into_iter().map(|trouble| format!("{}: {trouble}\n", watched.path.display())).collect()
}
