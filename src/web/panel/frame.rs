//! What every page of the panel has in common, and how it is sent: nothing from elsewhere, no script, kept by nobody.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, REFERRER_POLICY,
    RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::{Response, StatusCode};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::gate::Refusal;

const STYLE: &str = include_str!("style.css");
/// Seconds after which a page that waits for something asks again.
const REFRESH_S: u32 = 2;

/// A page, or where to go instead.
#[derive(Debug)]
pub struct Page {
    pub status: StatusCode,
    pub title: String,
    pub main: Markup,
    /// It shows something that is not done yet.
    pub waits: bool,
    pub headers: Vec<(HeaderName, String)>,
}

impl Page {
    pub fn new(title: impl Into<String>, main: Markup) -> Page {
        Page { status: StatusCode::OK, title: title.into(), main, waits: false, headers: Vec::new() }
    }

    /// Something went another way than was asked for.
    pub fn problem(status: StatusCode, title: &str, text: &str) -> Page {
        let main = html! { h1 { (title) } p { (text) } p { a href="/" { "All databases" } } };
        Page { status, ..Page::new(title, main) }
    }

    pub fn see(location: String) -> Page {
        let main = html! { p { a href=(location) { "Go on" } } };
        Page { status: StatusCode::SEE_OTHER, headers: vec![(LOCATION, location)], ..Page::new("Go on", main) }
    }

    pub fn refused(refusal: &Refusal) -> Page {
        let (status, text) = match refusal {
            Refusal::Off => (StatusCode::NOT_FOUND, "The panel is switched off in the configuration (panel: off)."),
            Refusal::NeedsSecret => (
                StatusCode::FORBIDDEN,
                "The panel is off: this process listens beyond loopback, and neither panel.password nor panel.token is configured \
                 (see docs/panel.md). /metrics, /healthz, /readyz and /status are served all the same.",
            ),
            Refusal::Proxied => (
                StatusCode::FORBIDDEN,
                "The panel is not served through a proxy without a password: anybody could be behind it. Set panel.password.",
            ),
            Refusal::ForeignHost => (
                StatusCode::FORBIDDEN,
                "This host name is none of this panel's. Ask for localhost, or name the host in panel.hosts.",
            ),
            Refusal::Unauthorized { with_password: true } => (
                StatusCode::UNAUTHORIZED,
                "A user name and a password are needed: those of panel in the configuration.",
            ),
            Refusal::Unauthorized { with_password: false } => (
                StatusCode::UNAUTHORIZED,
                "A token is needed (Authorization: Bearer …); for a browser, set panel.password.",
            ),
            Refusal::TooOften { .. } => (
                StatusCode::TOO_MANY_REQUESTS,
                "Too many wrong passwords came from this address. Wait, then try again.",
            ),
            Refusal::ReadOnly => {
                (StatusCode::FORBIDDEN, "Nothing can be done here without a password or a token: set panel.password.")
            }
            Refusal::ForeignOrigin => (
                StatusCode::FORBIDDEN,
                "This did not come from a page of this panel. Behind a proxy, pass the Host header on, or name the host in panel.hosts.",
            ),
            Refusal::StaleForm => (
                StatusCode::FORBIDDEN,
                "This page is older than the process that answers. Go back, load it again, and try again.",
            ),
        };
        let mut page = Page::problem(status, "Not allowed", text);
        match refusal {
            Refusal::Unauthorized { with_password } => {
                let basic = r#"Basic realm="replicate", charset="UTF-8""#;
                let scheme = if *with_password { basic } else { r#"Bearer realm="replicate""# };
                page.headers.push((WWW_AUTHENTICATE, scheme.to_owned()));
            }
            Refusal::TooOften { wait } => page.headers.push((RETRY_AFTER, (wait.as_secs() + 1).to_string())),
            _ => {}
        }
        page
    }

    /// `nonce` is nobody's guess, and another one for every page.
    pub fn send(self, nonce: u128) -> Response<Full<Bytes>> {
        let nonce = format!("{nonce:032x}");
        let policy = format!(
            "default-src 'none'; style-src 'nonce-{nonce}'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        );
        let mut response = Response::new(Full::new(Bytes::from(self.html(&nonce).into_string())));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        for (name, value) in [
            (CONTENT_TYPE, "text/html; charset=utf-8"),
            (CACHE_CONTROL, "no-store"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (X_FRAME_OPTIONS, "DENY"),
            // With less than that, browsers do not say where a form came from.
            (REFERRER_POLICY, "same-origin"),
            (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
            (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
            (CONTENT_SECURITY_POLICY, policy.as_str()),
        ] {
            headers.insert(name, HeaderValue::from_str(value).expect("our own texts are printable"));
        }
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
        response
    }

    fn html(&self, nonce: &str) -> Markup {
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    @if self.waits { meta http-equiv="refresh" content=(REFRESH_S); }
                    title { (self.title) " – replicate" }
                    link rel="icon" href="data:,";
                    style nonce=(nonce) { (PreEscaped(STYLE)) }
                }
                body {
                    a class="skip" href="#main" { "Skip to content" }
                    header {
                        nav aria-label="Pages" { a href="/" { "replicate" } }
                        span { "ops panel" }
                    }
                    main id="main" { (self.main) }
                    footer {
                        span { "replicate " (env!("CARGO_PKG_VERSION")) }
                        a href="/status" { "status as JSON" }
                        a href="/metrics" { "metrics" }
                    }
                }
            }
        }
    }
}
