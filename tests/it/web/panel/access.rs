//! Who is let in, and from where.

use super::*;

/// Without a password, loopback may look by its own names and do nothing; a name that was rebound to it is refused; so is what comes
/// through a proxy.
#[test]
fn loopback_may_only_look() {
    let scene = Scene::new(1);
    let serving = scene.start(ONE);
    serving.wait_until_ready();
    let port = serving.address().port();
    for host in [format!("127.0.0.1:{port}"), format!("localhost:{port}"), format!("[::1]:{port}")] {
        let answer = Client { host: host.clone(), ..Client::new(&serving) }.get("/");
        assert!(answer.code == 200 && answer.body.contains("0.db"), "{host}: {answer:?}");
    }
    for host in ["evil.example".to_owned(), format!("evil.example:{port}"), format!("127.0.0.1.evil.example:{port}")] {
        let answer = Client { host: host.clone(), ..Client::new(&serving) }.get("/");
        assert!(answer.code == 403 && !answer.body.contains("0.db"), "{host}: {answer:?}");
    }
    let more = vec![("X-Forwarded-For", "203.0.113.7".to_owned())];
    assert_eq!(Client { more, ..Client::new(&serving) }.get("/").code, 403);
    let client = Client::new(&serving);
    let database = client.database();
    let page = client.get(&database).body;
    assert!(page.contains("read-only") && !page.contains("method=\"post\""), "{page}");
    for action in ["backup", "sync", "verify", "drill", "plan-prune", "prune", "pause", "resume"] {
        let answer = client.post(&format!("{database}/{action}"), "confirm=yes&word=x");
        assert_eq!(answer.code, 403, "{answer:?}");
    }
    assert_eq!(client.get("/jobs/1").code, 404, "nothing was begun");
    assert!(serving.is_ready(), "nothing was paused");
    serving.stop();
}

/// With a password nobody is let in without it, and what else is served stays as it was. Wrong ones are counted, and after ten of them nothing
/// is looked at for a while. No secret is in the log.
#[test]
fn a_password_is_asked_for() {
    let scene = Scene::new(1);
    let serving = scene.start(&guarded(ONE));
    serving.wait_until_ready();
    for path in ["/", "/db/0.db", "/jobs/1"] {
        let answer = Client::new(&serving).get(path);
        assert_eq!(answer.code, 401, "{path}: {answer:?}");
        assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"replicate\", charset=\"UTF-8\""));
        assert!(!answer.body.contains("0.db"), "{answer:?}");
    }
    assert_eq!(Client::with_password(&serving).get("/").code, 200);
    assert_eq!(Client::with_token(&serving).get("/db/0.db").code, 200);
    let wrong = Client { authorization: Some("Basic YWRtaW46d3Jvbmc=".to_owned()), ..Client::new(&serving) };
    let codes: Vec<u16> = (0..12).map(|_| wrong.get("/").code).collect();
    assert_eq!((codes[0], codes[9], codes.last()), (401, 401, Some(&429)), "{codes:?}");
    let answer = Client::with_password(&serving).get("/");
    assert!(answer.code == 429 && answer.header("retry-after").is_some(), "{answer:?}");
    assert!(serving.metric("replicate_panel_login_failures_total{reason=\"wrong\"}") >= 10.0);
    assert!(serving.metric("replicate_panel_login_failures_total{reason=\"too-many\"}") >= 1.0);
    assert!(serving.is_ready() && json(&serving.get("/status"))["ready"] == true);
    assert!(!serving.log().contains("correct horse") && !serving.log().contains(TOKEN));
    serving.stop();
}

/// Beyond loopback there is no panel without a password, and the log and the page say so; metrics are served all the same.
#[test]
fn beyond_loopback_needs_a_password() {
    let scene = Scene::new(1);
    let serving = scene.start(&format!("listen: 0.0.0.0:0\n{ONE}"));
    serving.wait_until_ready();
    let answer = Client::new(&serving).get("/");
    assert!(answer.code == 403 && answer.body.contains("panel.password"), "{answer:?}");
    assert!(serving.log().contains("listens beyond loopback without a password"), "{}", serving.log());
    assert_eq!(serving.get("/metrics").code, 200);
    serving.stop();
    let serving = scene.start(&format!("listen: 0.0.0.0:0\n{}", guarded(ONE)));
    serving.wait_until_ready();
    assert_eq!(Client::new(&serving).get("/").code, 401);
    assert_eq!(Client::with_password(&serving).get("/").code, 200);
    serving.stop();
    let serving = scene.start(&format!("panel: off\n{ONE}"));
    assert_eq!(Client::new(&serving).get("/").code, 404);
    serving.stop();
}

/// An action from another site, from an old page or without a form of ours does nothing, whoever is logged in; neither does one
/// that is too long or of another kind.
#[test]
fn actions_come_from_own_pages_only() {
    let scene = Scene::new(1);
    let serving = scene.start(&guarded(ONE));
    serving.wait_until_ready();
    let client = Client::with_password(&serving);
    let (path, word) = (format!("{}/pause", client.database()), client.word());
    let fields = format!("confirm=yes&word={word}");
    let kind = || ("Content-Type", "application/x-www-form-urlencoded".to_owned());
    let own = || ("Origin", format!("http://{}", serving.address()));
    let with = |more: Vec<(&'static str, String)>, fields: &str| {
        Client { more, ..Client::with_password(&serving) }.send("POST", &path, fields).code
    };
    assert_eq!(with(vec![kind(), ("Origin", "http://evil.example".to_owned())], &fields), 403);
    assert_eq!(with(vec![kind(), ("Origin", "null".to_owned())], &fields), 403);
    assert_eq!(with(vec![kind()], &fields), 403, "no browser leaves the origin out");
    assert_eq!(with(vec![kind(), own(), ("Sec-Fetch-Site", "cross-site".to_owned())], &fields), 403);
    assert_eq!(with(vec![kind(), own()], "confirm=yes"), 403, "no word");
    assert_eq!(with(vec![kind(), own()], &format!("confirm=yes&word={}", "0".repeat(64))), 403, "a wrong word");
    assert_eq!(with(vec![("Content-Type", "text/plain".to_owned()), own()], &fields), 415);
    assert_eq!(with(vec![kind(), own()], &format!("{fields}&x={}", "x".repeat(20_000))), 413);
    assert_eq!(with(vec![kind(), own()], &format!("word={word}")), 400, "not confirmed");
    assert_eq!(client.get(&path).code, 405, "a link does nothing");
    // What holds for one holds for all of them; and nothing else can be done here.
    let foreign = || ("Origin", "http://evil.example".to_owned());
    for action in ["backup", "sync", "verify", "drill", "plan-prune", "prune", "pause", "resume", "restore"] {
        let path = format!("{}/{action}", client.database());
        let code = |client: Client<'_>, fields: &str| client.send("POST", &path, fields).code;
        let own_page = || vec![kind(), own()];
        let (guest, admin, token) = (Client::new, Client::with_password, Client::with_token);
        let fields = format!("{fields}&plan=1");
        assert_eq!(code(Client { more: own_page(), ..guest(&serving) }, &fields), 401, "{action}");
        for more in [vec![kind(), foreign()], vec![kind()]] {
            assert_eq!(code(Client { more, ..admin(&serving) }, &fields), 403, "{action}");
        }
        assert_eq!(
            code(Client { more: own_page(), ..admin(&serving) }, "confirm=yes&plan=1"),
            403,
            "{action}: no word"
        );
        assert_eq!(code(Client { more: vec![kind(), foreign()], ..token(&serving) }, &fields), 403, "{action}");
    }
    assert_eq!(client.post(&format!("{}/restore", client.database()), &fields).code, 404, "only prepared");
    assert_eq!(client.get("/jobs/1").code, 404, "nothing was begun");
    assert!(serving.is_ready(), "nothing was paused");
    // A token is sent by no browser by itself.
    let script = Client { more: vec![kind()], ..Client::with_token(&serving) };
    assert_eq!(script.send("POST", &path, "confirm=yes").code, 303);
    serving.wait_for("paused", || json(&serving.get("/status"))["databases"][0]["state"] == "paused");
    assert_eq!(client.act("resume", "")["state"], "done");
    serving.wait_until_ready();
    serving.stop();
}
