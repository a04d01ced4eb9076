//! The series of `/metrics`: complete from the start, well-formed, documented, and the only ones that rules and panels use.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use super::{Scene, repository};

const TWO: &str = "
defaults: { rpo: 5m }
databases:
  - { path: DIR/0.db, replicas: [DIR/a, 's3://127.0.0.1/never?endpoint=http://127.0.0.1:1&region=x'] }
  - { path: DIR/not-yet.db, rto: 1h, replicas: ['file://DIR/b?', 'file://DIR/c'] }
";

/// Name and labels of every sample.
fn series(body: &str) -> BTreeSet<(String, String)> {
    let lines = body.lines().filter(|line| !line.starts_with('#'));
    let split = |line: &str| {
        let series = line.rsplit_once(' ').expect("a value").0.to_owned();
        match series.split_once('{') {
            Some((name, labels)) => (name.to_owned(), labels.trim_end_matches('}').to_owned()),
            None => (series, String::new()),
        }
    };
    let all: Vec<_> = lines.map(split).collect();
    let distinct: BTreeSet<_> = all.iter().cloned().collect();
    assert_eq!(all.len(), distinct.len(), "a series stands there twice");
    distinct
}

/// Runs promtool; `None`, said loudly, where there is none.
fn promtool(test: &str, arguments: &[&str], input: &str) -> Option<String> {
    let tool = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut tool) = tool else {
        eprintln!("{test}: SKIPPED, because promtool is not installed (Debian: prometheus)");
        return None;
    };
    tool.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("written");
    let output = tool.wait_with_output().expect("it ends");
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {arguments:?}: {told}");
    Some(told)
}

/// Every series of every database and replica of the configuration is there from the first answer on, also of those where
/// nothing has happened; and the tool that checks such texts has nothing to say.
#[test]
fn every_series_is_there_from_the_start() {
    let scene = Scene::new(1);
    let serving = scene.start(TWO);
    serving.wait_for("databases", || serving.get("/metrics").code == 200);
    let first = serving.get("/metrics").body;
    let names = |database: &str, replica: &str| -> BTreeSet<String> {
        let all = series(&first).into_iter();
        let own = all.filter(|(_, labels)| {
            labels.contains(&format!("database=\"{database}\"")) && labels.contains(&format!("replica=\"{replica}\""))
        });
        own.map(|(name, labels)| format!("{name} {}", labels.split(&format!("{replica}\"")).nth(1).unwrap_or_default()))
            .collect()
    };
    let path = |name: &str| scene.path(name).display().to_string();
    let (one, other) = (path("0.db"), path("not-yet.db"));
    let here = names(&one, &path("a"));
    assert!(here.len() > 60, "{here:?}");
    assert_eq!(here, names(&one, "s3://127.0.0.1/never"));
    assert_eq!(here, names(&other, &format!("file://{}", path("b"))));
    assert_eq!(here, names(&other, &format!("file://{}", path("c"))));
    serving.wait_for("a snapshot", || {
        serving
            .metric(&format!("replicate_snapshot_last_timestamp_seconds{{database=\"DB\",replica=\"{}\"}}", path("a")))
            > 0.0
    });
    scene.insert(0);
    serving.wait_for("shipped", || {
        serving
            .metric(&format!("replicate_capture_to_store_seconds_count{{database=\"DB\",replica=\"{}\"}}", path("a")))
            > 0.0
    });
    let later = serving.get("/metrics").body;
    assert_eq!(series(&first), series(&later), "series come and go");
    assert_eq!(serving.metric("replicate_rpo_target_seconds{database=\"DB\"}"), 300.0);
    assert_eq!(serving.metric("replicate_rto_target_seconds{database=\"DB\"}"), 0.0);
    assert!(serving.metric("replicate_database_size_bytes{database=\"DB\"}") > 0.0);
    for body in [first, later] {
        if let Some(told) = promtool("every_series_is_there_from_the_start", &["check", "metrics"], &body) {
            assert_eq!(told, "");
        }
    }
}

/// A `verify` that found a replica whole is seen by the running process; checkpoints of the engine are counted.
#[test]
fn verify_and_checkpoints_are_seen() {
    let scene = Scene::new(1);
    let serving = scene.start("databases: [{ path: DIR/0.db, sync-interval: 10ms, replicas: [DIR/r] }]");
    serving.wait_until_ready();
    let replica = scene.path("r").display().to_string();
    let verified = format!("replicate_verify_last_success_timestamp_seconds{{database=\"DB\",replica=\"{replica}\"}}");
    assert_eq!(serving.metric(&verified), 0.0);
    serving.wait_for("a snapshot", || serving.log().contains("the replica has a whole snapshot"));
    let mut verify = Command::new(env!("CARGO_BIN_EXE_replicate"));
    verify.args(["verify", "0.db", "--config"]).arg(scene.path("replicate.yml")).stdout(Stdio::null());
    assert!(verify.status().expect("started").success());
    assert!(serving.metric(&verified) > 1e9);
    // Long enough a WAL is folded, and begins anew.
    serving.wait_for("a checkpoint", || {
        scene.insert_mib(0, 8);
        serving.metric("replicate_checkpoint_total{database=\"DB\"}") > 0.0
    });
    assert!(serving.metric("replicate_wal_size_bytes{database=\"DB\"}") > 0.0);
    serving.stop();
}

/// Names that look like ours in a text.
fn named(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_part(c)).filter(|word| word.starts_with("replicate_"));
    let base = |word: &str| {
        let ends = ["_bucket", "_sum", "_count"];
        ends.iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word).to_owned()
    };
    words.map(base).collect()
}

/// Rules, dashboard and documentation name no metric that does not exist; the documentation names every one. Each rule's
/// runbook exists.
#[test]
fn rules_dashboard_and_docs_fit_the_metrics() {
    let scene = Scene::new(1);
    let serving = scene.start(TWO);
    serving.wait_for("databases", || serving.get("/metrics").code == 200);
    let body = serving.get("/metrics").body;
    serving.stop();
    let exist: BTreeSet<String> =
        body.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned)).collect();
    let read = |name: &str| std::fs::read_to_string(repository(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let (docs, rules, dashboard) = (read("docs/metrics.md"), read("ops/alerts.yml"), read("ops/dashboard.json"));
    assert_eq!(named(&docs), exist);
    for (name, text) in [("alerts", &rules), ("dashboard", &dashboard)] {
        let used = named(text);
        assert!(used.len() > 5 && used.is_subset(&exist), "{name}: {:?}", used.difference(&exist));
    }
    serde_json::from_str::<serde_json::Value>(&dashboard).expect("JSON");
    let anchors: BTreeSet<String> =
        docs.lines().filter_map(|l| l.strip_prefix("### ")).map(|l| l.trim().to_lowercase()).collect();
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let links: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("runbook_url: ")).collect();
    assert!(alerts.len() >= 6 && alerts.len() == links.len(), "{alerts:?} {links:?}");
    for (alert, link) in alerts.iter().zip(&links) {
        let (page, anchor) = link.trim_matches('"').split_once('#').expect("an anchor");
        assert!(page.ends_with("docs/metrics.md") && anchor == alert.to_lowercase(), "{alert}: {link}");
        assert!(anchors.contains(anchor), "{alert}: docs/metrics.md has no runbook for it");
    }
}

/// The rules are well-formed, and every alert is raised by what it is for, and not by what looks like it.
#[test]
fn every_alert_is_raised_once() {
    let path = |name: &str| repository(name).to_str().expect("text").to_owned();
    for arguments in [["check", "rules", &path("ops/alerts.yml")], ["test", "rules", &path("ops/alerts_test.yml")]] {
        if let Some(told) = promtool("every_alert_is_raised_once", &arguments, "") {
            assert!(told.contains("SUCCESS"), "{told}");
        }
    }
    let read = |name: &str| std::fs::read_to_string(repository(name)).expect("there");
    let (rules, tests) = (read("ops/alerts.yml"), read("ops/alerts_test.yml"));
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        let raised = format!("alertname: {alert}\n        exp_alerts: [{{");
        assert!(tests.contains(&raised), "no test raises {alert}");
    }
}
