//! Pictures of the panel for its documentation, after some lively minutes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::webdriver::Browser;
use super::*;

const NAMES: [&str; 4] = ["customers", "invoices", "orders", "sessions"];
/// How long there is something to see before the pictures are taken.
const LENGTH: Duration = Duration::from_secs(20 * 60);
/// Shown in the place of the temporary directory.
const FOLDER: &str = "/srv/shop";
const SHOWN: &str = r#"
const shown = (text) => text.replaceAll(arguments[0], arguments[1]);
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
// A path stands in several texts, between which a line may break.
for (let node; (node = texts.nextNode());) {
  if (node.data.startsWith('.tmp')) node.data = 'shop/';
  else if (node.data === 'tmp/') node.data = 'srv/';
  else node.data = shown(node.data);
}
for (const e of document.querySelectorAll('input, textarea')) e.value = shown(e.value);
"#;

/// A client of the panel that waits for what it asked for.
struct Operator<'a>(Client<'a>);

impl Operator<'_> {
    fn does(&self, name: &str, action: &str, fields: &str) {
        let page = format!("/db/{name}.db");
        let answer = self.0.send_form(&format!("{page}/{action}"), fields);
        assert_eq!(answer.code, 303, "{action}: {answer:?}");
        let job = answer.header("location").expect("where to go").to_owned();
        let is_done = eventually(LONG, || !self.0.get(&job).body.contains("under way"));
        assert!(is_done, "{action}: {}", self.0.get(&job).body);
    }
}

impl Client<'_> {
    fn send_form(&self, path: &str, fields: &str) -> Answer {
        self.post(path, &format!("{fields}&word={}", self.word_of("/db/orders.db")))
    }
}

/// Takes some commits of a database out of its replica: a gap.
fn lose(server: &S3Server, database: &str, share: std::ops::Range<f64>) {
    let txids = |name: &str| {
        let mut numbers = name.rsplit('/').next()?.split('-').map(|part| u64::from_str_radix(part, 16).ok());
        Some((numbers.next()??, numbers.next()??))
    };
    let is_segment = |name: &String| name.contains(database) && (name.contains("/0/") || name.contains("/1/"));
    let segments: Vec<_> =
        server.names().into_iter().filter(is_segment).filter_map(|n| Some((txids(&n)?, n))).collect();
    let all = segments.iter().map(|((_, last), _)| *last).max().expect("there are some") as f64;
    for ((first, last), name) in segments {
        if (first as f64) < all * share.end && last as f64 > all * share.start {
            server.remove_raw(&name);
        }
    }
}

/// What happens in those minutes: commits, backups, drills, a store that is down, a pause, and at the end a gap.
fn live(scene: &Scene, server: &S3Server, operator: &Operator<'_>) {
    let began = Instant::now();
    let mut events: Vec<(f64, Box<dyn Fn() + '_>)> = vec![
        (0.08, Box::new(|| operator.does("orders", "backup", "label=release-41"))),
        (0.15, Box::new(|| operator.does("customers", "verify", ""))),
        (0.20, Box::new(|| server.manners().outage.store(true, Ordering::SeqCst))),
        (0.24, Box::new(|| server.manners().outage.store(false, Ordering::SeqCst))),
        (0.35, Box::new(|| operator.does("orders", "pause", "confirm=yes"))),
        (0.40, Box::new(|| operator.does("orders", "resume", ""))),
        (0.60, Box::new(|| operator.does("orders", "backup", "label=before-migration"))),
        (0.70, Box::new(|| server.manners().outage.store(true, Ordering::SeqCst))),
        (0.73, Box::new(|| server.manners().outage.store(false, Ordering::SeqCst))),
        (0.80, Box::new(|| operator.does("orders", "backup", "label=release-42"))),
        (0.85, Box::new(|| operator.does("orders", "verify", ""))),
        (0.88, Box::new(|| operator.does("orders", "drill", ""))),
        (0.90, Box::new(|| NAMES[..2].iter().for_each(|name| operator.does(name, "drill", "")))),
        (0.95, Box::new(|| lose(server, "orders", 0.5..0.56))),
        (0.98, Box::new(|| operator.does("sessions", "pause", "confirm=yes"))),
    ];
    events.reverse();
    while began.elapsed() < LENGTH {
        (0..NAMES.len()).for_each(|n| scene.insert(n));
        std::thread::sleep(Duration::from_millis(700));
        while events.last().is_some_and(|(at, _)| began.elapsed() >= LENGTH.mul_f64(*at)) {
            events.pop().expect("there is one").1();
        }
    }
}

/// Takes a picture that begins where `from` is found.
fn take(browser: &Browser, scene: &Scene, (target, from): (&Path, &str), (width, height, is_dark): (u32, u32, bool)) {
    browser.screen(width, height, is_dark);
    browser.ask_with(SHOWN, &serde_json::json!([scene.folder.path(), FOLDER]));
    browser.ask_with("document.querySelector(arguments[0]).scrollIntoView()", &serde_json::json!([from]));
    std::fs::write(target, browser.picture()).expect("written");
}

/// Makes docs/images/panel-*.png: no proof of anything. docs/panel.md says how.
#[test]
#[ignore = "takes twenty minutes, and makes pictures for docs/panel.md"]
fn pictures() {
    let folder =
        std::env::var_os("REPLICATE_SCREENSHOTS").expect("REPLICATE_SCREENSHOTS names the folder for the pictures");
    let target = PathBuf::from(folder);
    let server = S3Server::start(5);
    let mut scene = Scene::new(0);
    scene.environment = server.env();
    let mut config = "defaults: { sync-interval: 1s, poll-interval: 1s, max-lag: 30s }\ndatabases:\n".to_owned();
    for name in NAMES {
        let app = rusqlite::Connection::open(scene.path(&format!("{name}.db"))).expect("opened");
        app.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(v)").expect("made");
        scene.apps.push(app);
        config += &format!("  - {{ path: DIR/{name}.db, rpo: 5m, rto: 1h, replicas: ['{}'] }}\n", server.url(name));
    }
    let serving = scene.start(&guarded(&config));
    serving.wait_until_ready();
    live(&scene, &server, &Operator(Client::with_password(&serving)));
    let browser = Browser::start();
    let file = |name: &str| target.join(format!("panel-{name}.png"));
    browser.screen(1100, 660, false);
    browser.enter(&serving, "/");
    browser.wait_for("1 with trouble");
    take(&browser, &scene, (&file("overview"), "body"), (1100, 660, false));
    take(&browser, &scene, (&file("phone"), "body"), (390, 844, false));
    browser.screen(1100, 900, false);
    browser.enter(&serving, "/db/orders.db?at=label:before-migration");
    browser.wait_for("This restores commit");
    let height = browser.ask("return document.documentElement.scrollHeight").as_u64().expect("a number");
    take(&browser, &scene, (&file("database"), "body"), (1100, u32::try_from(height).expect("a height"), false));
    take(&browser, &scene, (&file("database-dark"), "#restorable"), (1100, 820, true));
    drop(browser);
    serving.stop();
}
