//! What is shown: everything, of every database, and nothing that somebody else wrote as markup.

use super::*;

/// The pages have what an operator looks for, with headers that let a browser do nothing else with them.
#[test]
fn pages_show_what_there_is() {
    let scene = Scene::new(2);
    let config =
        "defaults: { sync-interval: 10ms, poll-interval: 100ms }\ndatabases: [{ path: DIR/0.db }, { path: DIR/1.db }]";
    let serving = scene.start(&guarded(config));
    serving.wait_until_ready();
    let client = Client::with_password(&serving);
    let overview = client.get("/");
    for part in
        ["0.db", "1.db", "all as they should be", "name=\"q\"", "lang=\"en\"", "scope=\"col\"", "href=\"#main\""]
    {
        assert!(overview.body.contains(part), "{part}: {}", overview.body);
    }
    let policy = overview.header("content-security-policy").expect("a policy").to_owned();
    let nonce = policy.split("'nonce-").nth(1).and_then(|rest| rest.split('\'').next()).expect("a nonce").to_owned();
    assert!(policy.starts_with("default-src 'none';") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert!(overview.body.contains(&format!("<style nonce=\"{nonce}\">")) && !overview.body.contains("<script"));
    assert_ne!(client.get("/").header("content-security-policy"), Some(policy.as_str()), "a nonce is used once");
    for (name, value) in
        [("cache-control", "no-store"), ("x-frame-options", "DENY"), ("referrer-policy", "same-origin")]
    {
        assert_eq!(overview.header(name), Some(value), "{overview:?}");
    }
    assert!(!client.get("/?q=1.db").body.contains("0.db"), "the search finds what is asked for");
    assert!(client.get("/?q=nothing-like-that&page=7").body.contains("No path contains this"));
    scene.insert(0);
    // Before the first snapshot is whole there is nothing to tell of.
    serving.wait_for("a listing", || client.get("/db/0.db").body.contains("restorable stretch"));
    let database = client.get("/db/0.db");
    for part in
        ["0.db", "Lag in the last hour", "restorable stretch", "Create backup", "Prepare a restore", "Errors since"]
    {
        assert!(database.body.contains(part), "{part}: {}", database.body);
    }
    for unknown in ["/db/none", "/db/ffffffffffffffff", "/jobs/1", "/jobs/x", "/db/", "/jobs/"] {
        assert_eq!(client.get(unknown).code, 404, "{unknown}");
    }
    serving.stop();
}

/// A name that is markup is shown as text, wherever it stands, and its restore command is safe to paste.
#[test]
fn hostile_names_stay_text() {
    let scene = Scene::new(0);
    let name = "<script>alert(1)</script>'\"&.db";
    // A slash ends the name of a folder.
    let name = name.replace('/', "∕");
    let path = scene.path(&name);
    rusqlite::Connection::open(&path)
        .expect("opened")
        .execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(v)")
        .expect("made");
    let yaml = serde_json::to_string(&path.to_string_lossy()).expect("a text");
    let serving = scene.start(&guarded(&format!("databases: [{{ path: {yaml} }}]")));
    serving.wait_until_ready();
    let client = Client::with_password(&serving);
    let hostile = "%3Cb%3E%22x";
    for page in [
        "/".to_owned(),
        format!("/?q={hostile}"),
        client.database(),
        format!("{}?at={hostile}&output={hostile}", client.database()),
        format!("{}?at=label:{hostile}", client.database()),
    ] {
        let body = client.get(&page).body;
        assert!(!body.contains("<script") && !body.contains("<b>"), "{page}: {body}");
    }
    assert!(client.get("/").body.contains("&lt;script&gt;alert(1)"));
    let job = client.act("sync", "");
    let body = client.get(&format!("/jobs/{}", job["number"])).body;
    assert!(body.contains("&lt;script&gt;") && !body.contains("<script"), "{body}");
    serving.stop();
}

/// The command that is prepared does what it says, in a shell, for a time, a commit and a label; what names no point is told.
#[test]
fn a_prepared_restore_restores() {
    let scene = Scene::new(1);
    let serving = scene.start(&guarded(ONE));
    serving.wait_until_ready();
    let client = Client::with_password(&serving);
    scene.insert(0);
    assert_eq!(client.act("backup", "label=before")["state"], "done");
    scene.insert(0);
    assert_eq!(client.act("sync", "")["state"], "done");
    let output = scene.path("it's restored.db");
    let encoded: String = url::form_urlencoded::byte_serialize(output.display().to_string().as_bytes()).collect();
    let count = |at: &str| -> i64 {
        let body = client.get(&format!("{}?at={at}&output={encoded}", client.database())).body;
        assert!(body.contains("This restores commit"), "{body}");
        let command =
            body.split("<textarea").nth(2).and_then(|rest| rest.split_once('>')?.1.split("</textarea>").next());
        let command = command.expect("a command").replace("&amp;", "&").replace("&quot;", "\"").replace("&#39;", "'");
        let command = command.replacen("replicate", env!("CARGO_BIN_EXE_replicate"), 1);
        let done = std::process::Command::new("sh").arg("-c").arg(&command).output().expect("a shell");
        assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
        let restored = rusqlite::Connection::open(&output).expect("opened");
        let count = restored.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("a count");
        drop(restored);
        std::fs::remove_file(&output).expect("removed");
        count
    };
    // The end of what can be restored is offered.
    let body = client.get(&client.database()).body;
    let ends =
        body.split("<option value=\"").filter(|option| option.starts_with("20")).map(|option| option.split('"').next());
    let newest = ends.flatten().next().unwrap_or_else(|| panic!("no time in {body}"));
    assert_eq!((count("label:before"), count("now"), count(newest)), (1, 2, 2));
    for (at, part) in
        [("yesterday-ish", "is no point in time"), ("label:none", "there is no label none"), ("txid:999999", "999999")]
    {
        let body = client.get(&format!("{}?at={at}", client.database())).body;
        assert!(body.contains(part) && body.contains("role=\"alert\""), "{at}: {body}");
    }
    serving.stop();
}

/// While the store is down the pages come all the same, and say so.
#[test]
fn a_store_that_is_down_is_told() {
    let server = S3Server::start(5);
    let mut scene = Scene::new(1);
    scene.environment = server.env();
    let url = server.url("p");
    let config = format!(
        "defaults: {{ sync-interval: 10ms, poll-interval: 100ms, max-lag: 3s }}\ndatabases: [{{ path: DIR/0.db, replicas: ['{url}'] }}]"
    );
    let serving = scene.start(&guarded(&config));
    serving.wait_until_ready();
    let client = Client::with_password(&serving);
    serving.wait_for("a listing", || client.get("/db/0.db").body.contains("restorable stretch"));
    server.manners().outage.store(true, Ordering::SeqCst);
    scene.insert(0);
    serving.wait_for("trouble", || client.get("/").body.contains("with trouble"));
    let is_told = || client.get("/db/0.db").body.contains("This replica cannot be read now");
    assert!(eventually(LONG, is_told), "{}", client.get("/db/0.db").body);
    let body = client.get("/db/0.db").body;
    assert!(body.contains("What to do") && body.contains("needs attention"), "{body}");
    assert!(!body.contains("secret"), "{body}");
    server.manners().outage.store(false, Ordering::SeqCst);
    serving.wait_until_ready();
    serving.stop();
}
