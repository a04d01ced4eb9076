//! Every action does its thing, to a database that is really replicated.

use super::*;

/// Create backup, with a label and without; sync; verify; drill; a plan and a prune; pause and resume: each does what it says, and its page says what
/// came of it.
#[test]
fn every_action_does_its_thing() {
    let scene = Scene::new(1);
    let config = "defaults: { sync-interval: 10ms, poll-interval: 100ms, retention: { keep-last: 1 } }\n\
        databases: [{ path: DIR/0.db, replicas: [DIR/one, DIR/two] }]";
    let serving = scene.start(&guarded(config));
    serving.wait_until_ready();
    let client = Client::with_password(&serving);
    let done = |action: &str, fields: &str| {
        let job = client.act(action, fields);
        assert_eq!((&job["state"], &job["by"]), (&"done".into(), &"admin".into()), "{job}");
        job["said"].as_str().expect("a text").to_owned()
    };
    scene.insert(0);
    assert!(done("sync", "").contains("is in every replica"));
    scene.insert(0);
    let said = done("backup", "label=by-hand");
    assert!(said.contains("--at label:by-hand"), "{said}");
    assert!(
        scene.path("one/label/by-hand/created.json").exists() && scene.path("two/label/by-hand/created.json").exists()
    );
    let again = client.act("backup", "label=by-hand");
    assert_eq!(again["state"], "failed", "a name is used once: {again}");
    let said = done("verify", "");
    assert!(said.contains("sound by names"), "{said}");
    let verified = |replica: &str| {
        let dir = scene.folder.path().display();
        serving.metric(&format!(
            "replicate_verify_last_success_timestamp_seconds{{database=\"DB\",replica=\"{dir}/{replica}\"}}"
        ))
    };
    assert!(verified("one") > 0.0 && verified("two") > 0.0);
    let said = done("drill", "");
    assert!(said.matches("passed in").count() == 2, "{said}");
    assert_eq!(std::fs::read_dir(scene.path("one/drill")).expect("records").count(), 1);
    done("pause", "confirm=yes");
    assert_eq!(json(&serving.get("/status"))["databases"][0]["state"], "paused");
    let page = client.get(&client.database()).body;
    assert!(page.contains(">Resume</button>") && page.contains("Resume it when"), "{page}");
    done("resume", "");
    serving.wait_until_ready();
    serving.stop();
}

/// Nothing is deleted that was not shown before: a prune needs a plan of that database, and to be confirmed.
#[test]
fn a_prune_shows_its_plan_first() {
    let scene = Scene::new(1);
    let config = "defaults: { sync-interval: 10ms, poll-interval: 100ms, retention: { keep-last: 1 } }\ndatabases: [{ path: DIR/0.db }]";
    let serving = scene.start(&guarded(config));
    serving.wait_until_ready();
    let client = Client::with_password(&serving);
    for _ in 0..3 {
        scene.insert(0);
        client.act("backup", "");
    }
    // The process prunes by itself after a snapshot, and its marks would hide those of the panel.
    client.act("pause", "confirm=yes");
    let marks = || {
        let generations = std::fs::read_dir(scene.path("0.db.replica")).expect("a replica");
        let folders = generations.filter_map(|entry| std::fs::read_dir(entry.ok()?.path().join("prune")).ok());
        folders.flatten().map(|entry| entry.expect("a mark").path()).collect::<Vec<_>>()
    };
    assert!(eventually(LONG, || !marks().is_empty()), "{}", serving.log());
    marks().iter().for_each(|mark| std::fs::remove_file(mark).expect("removed"));
    let path = format!("{}/prune", client.database());
    let word = client.word();
    for fields in ["confirm=yes", "confirm=yes&plan=1", "confirm=yes&plan=999", "plan=4"] {
        let answer = client.post(&path, &format!("{fields}&word={word}"));
        assert_eq!(answer.code, 400, "{fields}: {answer:?}");
    }
    let plan = client.act("plan-prune", "");
    let (said, number) = (plan["said"].as_str().expect("a text"), &plan["number"]);
    assert!(plan["state"] == "done" && said.contains("delete") && said.contains("nothing was changed"), "{said}");
    let page = client.get(&format!("/jobs/{number}")).body;
    assert!(page.contains(&format!("name=\"plan\" value=\"{number}\"")) && page.contains("required"), "{page}");
    assert_eq!(client.post(&path, &format!("plan={number}&word={word}")).code, 400, "not confirmed");
    let prune = client.act("prune", &format!("confirm=yes&plan={number}"));
    assert!(prune["state"] == "done" && prune["said"].as_str().expect("a text").contains("marked"), "{prune}");
    assert!(!marks().is_empty(), "{prune}");
    serving.stop();
}
