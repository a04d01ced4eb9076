//! The panel in a real browser: nothing is complained about, everything fits, and everybody can reach everything.

use super::webdriver::{self, Browser};
use super::*;

/// Everything that can be said of a page by looking at it, as a list of what is wrong.
const AUDIT: &str = r#"
const wrong = [], seen = new Set();
const name = (e) => (e.labels && e.labels.length ? e.labels[0].innerText : '') || e.getAttribute('aria-label') || e.innerText || '';
const visible = (e) => e.getClientRects().length > 0 && e.type !== 'hidden';
for (const e of document.querySelectorAll('input, textarea, select, button, a[href]')) {
  if (visible(e) && !name(e).trim()) wrong.push('no name: ' + e.outerHTML);
}
for (const e of document.querySelectorAll('[id]')) { if (seen.has(e.id)) wrong.push('twice: ' + e.id); seen.add(e.id); }
for (const e of document.querySelectorAll('[aria-labelledby]')) {
  for (const id of e.getAttribute('aria-labelledby').split(' ')) if (!document.getElementById(id)) wrong.push('no such id: ' + id);
}
for (const e of document.querySelectorAll('th:not([scope])')) wrong.push('no scope: ' + e.outerHTML);
for (const e of document.querySelectorAll('svg:not([aria-hidden])')) if (!e.querySelector('title')) wrong.push('no title: svg');
if (document.querySelectorAll('h1').length !== 1 || document.querySelectorAll('main').length !== 1) wrong.push('h1 or main');
let level = 1;
for (const e of document.querySelectorAll('h1, h2, h3, h4')) { const own = +e.tagName[1]; if (own > level + 1) wrong.push('skips: ' + e.innerText); level = own; }
if (document.documentElement.lang !== 'en') wrong.push('lang');
if (document.querySelectorAll('script, link[rel=stylesheet], img, iframe').length) wrong.push('something from elsewhere');
if (document.documentElement.scrollWidth > innerWidth) {
  wrong.push('wider than ' + innerWidth + ': ' + document.documentElement.scrollWidth);
  for (const e of document.querySelectorAll('main *')) if (e.getBoundingClientRect().right > innerWidth + 1) wrong.push('too wide: ' + e.outerHTML.slice(0, 200));
}
for (const e of document.querySelectorAll('textarea')) if (e.scrollHeight > e.clientHeight + 1) wrong.push('text is cut off: ' + e.value);
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node; (node = texts.nextNode());) {
  if (!visible(node.parentElement) || node.parentElement.closest('pre, style, textarea')) continue;
  for (const word of node.data.matchAll(/(?<!\S)[A-Za-z]{2,14}(?!\S)/g)) {
    const range = document.createRange();
    range.setStart(node, word.index);
    range.setEnd(node, word.index + word[0].length);
    if (new Set([...range.getClientRects()].map((r) => Math.round(r.top))).size > 1) wrong.push('broken word: ' + word[0]);
  }
}
const rgb = (c) => (c.match(/[\d.]+/g) || []).map(Number);
const light = (c) => { const [r, g, b] = c.slice(0, 3).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const ground = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
for (const e of document.querySelectorAll('body *')) {
  if (!visible(e) || ![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
  const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))], contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (contrast < 4.5) wrong.push('contrast ' + contrast.toFixed(2) + ': ' + e.outerHTML.slice(0, 100));
}
return wrong;
"#;

/// Two databases with some history, one of them with something to look at on every part of its page.
fn lively() -> (Scene, Serving) {
    let mut scene = Scene::new(0);
    for name in ["orders", "customers"] {
        let app = rusqlite::Connection::open(scene.path(&format!("{name}.db"))).expect("opened");
        app.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(v)").expect("made");
        scene.apps.push(app);
    }
    let config = "defaults: { sync-interval: 10ms, poll-interval: 100ms, retention: { keep-last: 1 } }\n\
        databases: [{ path: DIR/orders.db, replicas: [DIR/backup/orders] }, { path: DIR/customers.db, rpo: 5m, rto: 1h, replicas: [DIR/backup/customers, DIR/mirror/customers] }]";
    let serving = scene.start(&guarded(config));
    serving.wait_until_ready();
    (scene, serving)
}

impl Browser {
    /// Opens a page with the password, which is asked for once.
    pub fn enter(&self, serving: &Serving, path: &str) {
        let password: String = url::form_urlencoded::byte_serialize(PASSWORD.as_bytes()).collect();
        self.open(&format!("http://admin:{}@{}{path}", password.replace('+', "%20"), serving.address()));
    }

    #[track_caller]
    pub fn wait_for(&self, part: &str) {
        assert!(eventually(LONG, || self.text().contains(part)), "{part:?} is not in\n{}", self.text());
    }

    #[track_caller]
    fn audit(&self, what: &str) {
        let wrong = self.ask(AUDIT);
        assert_eq!(wrong.as_array().map(Vec::len), Some(0), "{what}: {wrong:#}");
    }
}

/// Somebody with a mouse: opens a database, creates a labelled backup, looks at the plan of a prune and does it, prepares a restore, pauses and
/// resumes. At each step the browser has nothing to complain about, on a desktop and on phones of 360 and 320 pixels, light and dark.
#[test]
fn a_visit_with_a_mouse() {
    if !webdriver::is_there("a_visit_with_a_mouse") {
        return;
    }
    let (scene, serving) = lively();
    let browser = Browser::start();
    let everywhere = |page: &str| {
        for (width, height, is_dark) in
            [(1280, 900, false), (1280, 900, true), (360, 740, false), (360, 740, true), (320, 640, false)]
        {
            browser.screen(width, height, is_dark);
            browser.audit(&format!("{page} at {width}, dark: {is_dark}"));
        }
        browser.screen(1280, 900, false);
    };
    browser.screen(1280, 900, false);
    browser.enter(&serving, "/");
    browser.wait_for("all as they should be");
    browser.click("tbody th a");
    browser.wait_for("What can be restored");
    assert!(browser.text().contains("customers.db"), "by path, where all are well");
    let database = browser.url();
    for n in 0..3 {
        scene.apps[1].execute("INSERT INTO t VALUES (1)", []).expect("inserted");
        browser.type_into("input[name=label]", &format!("release-{n}"));
        browser.click("form[action$='/backup'] button");
        browser.wait_for(&format!("--at label:release-{n}"));
        browser.click("main a[href^='/db/']");
        browser.wait_for("Asked for here");
    }
    browser.click("form[action$='/drill'] button");
    browser.wait_for("passed in");
    browser.open(&database);
    everywhere("database");
    browser.click("form[action$='/plan-prune'] button");
    browser.wait_for("nothing was changed");
    everywhere("plan");
    browser.click("input[name=confirm]");
    browser.click("button.danger");
    browser.wait_for("deleted 0 objects");
    browser.open(&database);
    browser.type_into("input[name=at]", "label:release-1");
    browser.click("form[action$='#restore'] button");
    browser.wait_for("This restores commit");
    let command = browser.ask("return document.querySelectorAll('textarea')[1].value");
    let command = command.as_str().expect("a text");
    assert!(command.starts_with("replicate restore ") && command.contains(" --at label:release-1 -o "), "{command}");
    everywhere("restore");
    browser.click("input[name=confirm]");
    browser.click("form[action$='/pause'] button");
    browser.wait_for("let go of it after commit");
    browser.open(&database);
    browser.wait_for("Resume it when");
    everywhere("paused");
    browser.enter(&serving, "/");
    browser.wait_for("1 with trouble");
    everywhere("overview");
    browser.open(&database);
    browser.click("form[action$='/resume'] button");
    browser.wait_for("capture goes on");
    serving.wait_until_ready();
    assert_eq!(browser.complaints(), Vec::<String>::new());
    drop(browser);
    serving.stop();
}

/// Somebody with a keyboard reaches everything in the order of the page, and sees where the focus is; somebody with a screen reader finds a table
/// with its rows also where it is laid out as cards.
#[test]
fn a_visit_without_a_mouse() {
    if !webdriver::is_there("a_visit_without_a_mouse") {
        return;
    }
    let (_scene, serving) = lively();
    let browser = Browser::start();
    browser.screen(360, 740, false);
    browser.enter(&serving, "/");
    let tree = browser.cdp("Accessibility.getFullAXTree", serde_json::json!({}));
    let role = |name: &str| {
        let nodes = tree["nodes"].as_array().expect("nodes").iter();
        nodes.filter(|node| node["role"]["value"] == name && node["ignored"] == false).count()
    };
    assert_eq!((role("table"), role("columnheader"), role("rowheader")), (1, 7, 3), "{tree}");
    browser.click("tbody th a");
    browser.wait_for("What can be restored");
    let mut reached = Vec::new();
    for _ in 0..60 {
        browser.press("\u{e004}");
        let focus = browser.ask(
            "const e = document.activeElement, s = getComputedStyle(e); \
             return e === document.body ? ['BODY'] : \
             [(e.labels && e.labels.length ? e.labels[0].innerText : e.innerText || e.tagName).trim(), s.outlineStyle !== 'none']",
        );
        let name = focus[0].as_str().expect("a name").to_owned();
        if name == "BODY" || (reached.len() > 5 && name == reached[0]) {
            break;
        }
        assert_eq!(focus[1], true, "the focus is seen on {name}");
        reached.push(name);
    }
    assert_eq!(reached[0], "Skip to content", "{reached:?}");
    let mut from = 0;
    for part in [
        "Load again",
        "restorable stretch",
        "Point:",
        "Write it to",
        "Prepare",
        "Label",
        "Create backup",
        "Sync",
        "Verify",
        "Drill",
        "Plan a prune",
        "Nothing is captured",
        "Pause",
    ] {
        let at = reached[from..].iter().position(|name| name.contains(part));
        from += at.unwrap_or_else(|| panic!("{part} is not reached after {from}: {reached:?}"));
    }
    browser.ask("document.querySelector(\"form[action$='/sync'] button\").focus()");
    browser.press("\u{e007}");
    browser.wait_for("everything up to");
    assert_eq!(browser.complaints(), Vec::<String>::new());
    drop(browser);
    serving.stop();
}
