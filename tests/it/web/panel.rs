//! The ops panel of the whole program: who is let in, what is shown, and that every action does what it says.

use std::sync::atomic::Ordering;

use base64::Engine;

use super::{Answer, LONG, Scene, Serving, json, raw};
use crate::ledger::rig::eventually;
use crate::s3_server::S3Server;

mod access;
mod actions;
mod browser;
mod pages;
mod pictures;
mod webdriver;

const PASSWORD: &str = "correct horse battery";
const TOKEN: &str = "a token of many letters";
const ONE: &str = "defaults: { sync-interval: 10ms, poll-interval: 100ms }\ndatabases: [{ path: DIR/0.db }]";

/// With a password and a token.
fn guarded(config: &str) -> String {
    format!("panel: {{ password: '{PASSWORD}', token: '{TOKEN}' }}\n{config}")
}

/// A browser that asks for pages and sends forms, without being one.
struct Client<'a> {
    serving: &'a Serving,
    host: String,
    authorization: Option<String>,
    more: Vec<(&'static str, String)>,
}

impl<'a> Client<'a> {
    fn new(serving: &'a Serving) -> Client<'a> {
        Client { serving, host: serving.address().to_string(), authorization: None, more: Vec::new() }
    }

    fn with_password(serving: &'a Serving) -> Client<'a> {
        let said = base64::engine::general_purpose::STANDARD.encode(format!("admin:{PASSWORD}"));
        Client { authorization: Some(format!("Basic {said}")), ..Client::new(serving) }
    }

    fn with_token(serving: &'a Serving) -> Client<'a> {
        Client { authorization: Some(format!("Bearer {TOKEN}")), ..Client::new(serving) }
    }

    fn send(&self, method: &str, path: &str, body: &str) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n", self.host, body.len());
        if let Some(authorization) = &self.authorization {
            head.push_str(&format!("Authorization: {authorization}\r\n"));
        }
        for (name, value) in &self.more {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let mut answer = raw(self.serving.address(), format!("{head}\r\n{body}").as_bytes()).expect("an answer");
        // Of no interest where a test shows what it found.
        if let (Some(begin), Some(end)) = (answer.body.find("<style"), answer.body.find("</style>")) {
            let begin = begin + answer.body[begin..].find('>').map_or(0, |at| at + 1);
            answer.body.replace_range(begin..end, "");
        }
        answer
    }

    fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "")
    }

    /// As a browser does on our own page.
    fn post(&self, path: &str, fields: &str) -> Answer {
        let origin = ("Origin", format!("http://{}", self.host));
        let kind = ("Content-Type", "application/x-www-form-urlencoded".to_owned());
        let more = self.more.iter().cloned().chain([origin, kind]).collect();
        let (host, authorization) = (self.host.clone(), self.authorization.clone());
        Client { serving: self.serving, host, authorization, more }.send("POST", path, fields)
    }

    /// The page of the only database.
    fn database(&self) -> String {
        let body = self.get("/").body;
        let (_, rest) = body.split_once("href=\"/db/").unwrap_or_else(|| panic!("no database in {body}"));
        format!("/db/{}", rest.split('"').next().expect("an end"))
    }

    /// What the forms of this process carry.
    fn word(&self) -> String {
        self.word_of(&self.database())
    }

    fn word_of(&self, database: &str) -> String {
        let body = self.get(database).body;
        let (_, rest) = body.split_once("name=\"word\" value=\"").unwrap_or_else(|| panic!("no form in {body}"));
        rest.split('"').next().expect("an end").to_owned()
    }

    /// Does something, as a script does it, and waits for its end: the job.
    #[track_caller]
    fn act(&self, action: &str, fields: &str) -> serde_json::Value {
        let answer = self.post(&format!("{}/{action}", self.database()), &format!("{fields}&word={}", self.word()));
        assert_eq!(answer.code, 303, "{action}: {answer:?}");
        let location = answer.header("location").expect("where to go").to_owned();
        let (host, authorization) = (self.host.clone(), self.authorization.clone());
        let more = vec![("Accept", "application/json".to_owned())];
        let script = Client { serving: self.serving, host, authorization, more };
        let mut job = serde_json::Value::Null;
        self.serving.wait_for(action, || {
            job = json(&script.get(&location));
            job["state"] != "under-way"
        });
        job
    }
}
