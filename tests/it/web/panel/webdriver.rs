//! As much of a WebDriver client as these tests need: a headless Chromium, driven over HTTP.
//! <https://www.w3.org/TR/webdriver2/>

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use base64::Engine;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::LONG;
use crate::ledger::rig::eventually;

/// The key by which the protocol names an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Ends with the browser.
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    _profile: tempfile::TempDir,
}

/// Are the browser and its driver installed? What is missing is told. One that is there and does not work fails the test.
pub fn is_there(test: &str) -> bool {
    let is_missing = |name: &&str| {
        let asked = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        asked.is_err_and(|error| error.kind() == ErrorKind::NotFound)
    };
    let missing: Vec<&str> = ["chromium", "chromedriver"].into_iter().filter(is_missing).collect();
    if !missing.is_empty() {
        eprintln!("{test} is LEFT OUT: there is no {} (Debian: chromium, chromium-driver)", missing.join(" and no "));
    }
    missing.is_empty()
}

impl Browser {
    pub fn start() -> Browser {
        let profile = tempfile::tempdir().expect("a directory");
        let mut command = Command::new("chromedriver");
        // A group of its own, so that the browser ends with it however the test ends; and nothing is left in the home directory.
        command.arg("--port=0").process_group(0).env("HOME", profile.path()).env("TMPDIR", profile.path());
        let mut driver = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a driver");
        let mut said = BufReader::new(driver.stdout.take().expect("its stdout"));
        let mut line = String::new();
        let port = loop {
            line.clear();
            assert!(said.read_line(&mut line).expect("a line") > 0, "the driver ended");
            if let Some((_, port)) = line.split_once("successfully on port ") {
                break port.trim().trim_end_matches('.').parse().expect("a port");
            }
        };
        // What is not read would stop it one day.
        std::thread::spawn(move || said.read_to_end(&mut Vec::new()));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut browser = Browser { driver, address, session: String::new(), _profile: profile };
        let data = format!("--user-data-dir={}", browser._profile.path().display());
        let args = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-breakpad",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            &data,
        ];
        let most = LONG.as_millis();
        let capabilities = json!({ "alwaysMatch": {
            "timeouts": { "script": most, "pageLoad": most },
            "goog:chromeOptions": { "args": args }, "goog:loggingPrefs": { "browser": "ALL" },
        } });
        let made = browser.request("POST", "/session", &json!({ "capabilities": capabilities }));
        browser.session = format!("/session/{}", made["sessionId"].as_str().expect("a session"));
        browser
    }

    /// What a command gives back, or why it failed.
    fn try_request(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let (path, body) = (format!("{}{path}", self.session), body.to_string());
        let (code, answer) = exchange(self.address, method, &path, &body)
            .map_err(|error| format!("{method} {path}: no answer of the driver: {error}"))?;
        let mut value: Value = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
        match code {
            200 => Ok(value["value"].take()),
            _ => Err(format!("{method} {path} {body}: {:#}", value["value"])),
        }
    }

    #[track_caller]
    fn request(&self, method: &str, path: &str, body: &Value) -> Value {
        self.try_request(method, path, body).unwrap_or_else(|error| panic!("{error}"))
    }

    #[track_caller]
    fn post(&self, path: &str, body: &Value) -> Value {
        self.request("POST", path, body)
    }

    pub fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    pub fn url(&self) -> String {
        self.request("GET", "/url", &json!({})).as_str().expect("a URL").to_owned()
    }

    /// What a function body gives back in the page.
    #[track_caller]
    pub fn ask(&self, script: &str) -> Value {
        self.ask_with(script, &json!([]))
    }

    #[track_caller]
    pub fn ask_with(&self, script: &str, arguments: &Value) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": arguments }))
    }

    /// What a page shows; nothing while it is on its way.
    pub fn text(&self) -> String {
        let body = json!({ "script": "return document.body.innerText", "args": [] });
        let text = self.try_request("POST", "/execute/sync", &body).unwrap_or_default();
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Clicks the first one that matches, as somebody with a mouse does: it must be visible.
    #[track_caller]
    pub fn click(&self, css: &str) {
        self.with(css, "click", &json!({}));
    }

    #[track_caller]
    pub fn type_into(&self, css: &str, text: &str) {
        self.with(css, "value", &json!({ "text": text }));
    }

    /// Does something with an element as soon as it is there: a page may be on its way.
    #[track_caller]
    fn with(&self, css: &str, command: &str, body: &Value) {
        let mut last = String::new();
        let is_done = eventually(LONG, || {
            let how = json!({ "using": "css selector", "value": css });
            let done = self.try_request("POST", "/element", &how).and_then(|found| {
                let id = found[ELEMENT].as_str().ok_or("no element")?;
                self.try_request("POST", &format!("/element/{id}/{command}"), body)
            });
            last = done.as_ref().err().cloned().unwrap_or_default();
            done.is_ok()
        });
        assert!(is_done, "{command} {css}: {last}\n{}", self.text());
    }

    /// Presses and releases one key, wherever the focus is.
    pub fn press(&self, key: &str) {
        let strokes = json!([{ "type": "keyDown", "value": key }, { "type": "keyUp", "value": key }]);
        self.post("/actions", &json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": strokes }] }));
    }

    /// A command of Chromium's own protocol.
    pub fn cdp(&self, command: &str, parameters: Value) -> Value {
        self.post("/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    /// A screen of this size; `is_dark`: its owner prefers dark pages.
    pub fn screen(&self, width: u32, height: u32, is_dark: bool) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.cdp("Emulation.setDeviceMetricsOverride", size);
        let scheme = if is_dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.cdp("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// What the browser had to complain about since it was last asked.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.post("/se/log", &json!({ "type": "browser" }));
        log.as_array().expect("a log").iter().map(|entry| entry["message"].to_string()).collect()
    }

    /// What is on the screen, as PNG.
    pub fn picture(&self) -> Vec<u8> {
        let coded = self.request("GET", "/screenshot", &json!({}));
        base64::engine::general_purpose::STANDARD.decode(coded.as_str().expect("a text")).expect("base64")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            self.try_request("DELETE", "", &json!({})).ok();
        }
        let group = Pid::from_raw(i32::try_from(self.driver.id()).expect("a pid"));
        killpg(group, Signal::SIGKILL).ok();
        self.driver.wait().ok();
    }
}

/// One request and its answer: code and body. The driver leaves connections open, whatever is asked for.
fn exchange(address: SocketAddr, method: &str, path: &str, body: &str) -> std::io::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(2 * LONG))?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    let head = format!("{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes())?;
    let mut reader = BufReader::new(stream);
    let (mut line, mut code, mut length) = (String::new(), 0, 0);
    while line != "\r\n" {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        match line.split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().map_err(std::io::Error::other)?;
            }
            None if code == 0 => code = line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok((code, body))
}
