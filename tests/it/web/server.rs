//! The server itself: what it answers to whom, and that nobody can keep it from answering.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use super::{Scene, json, raw};

const QUIET: &str = "databases: [{ path: DIR/0.db }]";

/// Every page has its kind and its code; what does not exist, is not GET, or is no HTTP gets 4xx.
#[test]
fn every_request_gets_the_right_answer() {
    let scene = Scene::new(1);
    let serving = scene.start(QUIET);
    serving.wait_until_ready();
    for (path, code, kind) in [
        // Not its own name: see the tests of the panel.
        ("/", 403, "text/html; charset=utf-8"),
        ("/metrics", 200, "text/plain; version=0.0.4; charset=utf-8"),
        ("/metrics?x=y", 200, "text/plain; version=0.0.4; charset=utf-8"),
        ("/healthz", 200, "text/plain; charset=utf-8"),
        ("/readyz", 200, "text/plain; charset=utf-8"),
        ("/status", 200, "application/json"),
        ("/metrics/", 404, "text/plain; charset=utf-8"),
        ("/../etc/passwd", 404, "text/plain; charset=utf-8"),
    ] {
        let answer = serving.get(path);
        assert_eq!(answer.code, code, "{path}: {answer:?}");
        assert!(answer.head.contains(&format!("content-type: {kind}")), "{path}: {answer:?}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(100));
    for (request, codes) in [
        ("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", &[405][..]),
        ("DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n", &[405]),
        ("nonsense\r\n\r\n", &[400]),
        ("GET / HTTP/9.9\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\n: x\r\n\r\n", &[400]),
        (&long, &[414, 431, 400]),
        (&many, &[431]),
    ] {
        // What does not read to the end before it answers may find that its answer is not heard.
        let Ok(answer) = raw(serving.address(), request.as_bytes()) else { continue };
        assert!(codes.contains(&answer.code), "{request:.40}: {answer:?}");
    }
    let head = raw(serving.address(), b"HEAD /metrics HTTP/1.0\r\n\r\n").expect("an answer");
    assert!(head.code == 200 && head.body.is_empty() && head.head.contains("content-length: "), "{head:?}");
    serving.stop();
}

/// `/status` says what `replicate status` says, of the same databases.
#[test]
fn status_is_that_of_the_command() {
    let scene = Scene::new(2);
    let serving = scene.start("databases: [{ path: DIR/0.db, max-lag: 7s }, { path: DIR/1.db }]");
    serving.wait_until_ready();
    let status = json(&serving.get("/status"));
    assert_eq!((&status["ready"], &status["version"]), (&true.into(), &env!("CARGO_PKG_VERSION").into()), "{status}");
    let output = Command::new(env!("CARGO_BIN_EXE_replicate"))
        .args(["status", "--json", "--config"])
        .arg(scene.path("replicate.yml"))
        .arg(scene.database(0))
        .output()
        .expect("started");
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for n in 0..2 {
        for key in ["database", "state", "generation", "max_lag_ms", "ready", "spool_limit_bytes"] {
            assert_eq!(status["databases"][n][key], told["databases"][n][key], "{key}: {status} {told}");
        }
        assert_eq!(status["databases"][n]["state"], "running");
    }
    assert_eq!(status["databases"][0]["max_lag_ms"], 7000);
    serving.stop();
}

/// Clients that say nothing, that say it slowly or that do not listen keep nobody else from being answered, however many they
/// are; nor do they keep the program from ending.
#[test]
fn slow_clients_stall_nobody() {
    let scene = Scene::new(1);
    let serving = scene.start(QUIET);
    serving.wait_until_ready();
    let mut slow = Vec::new();
    for n in 0..200 {
        let Ok(mut stream) = TcpStream::connect(serving.address()) else { continue };
        let said: &[u8] = [&b""[..], b"GET /metr", b"GET /metrics HTTP/1.1\r\nHost: x\r\nSlow: "][n % 3];
        // The server may have closed it already.
        stream.write_all(said).ok();
        slow.push(stream);
        if n % 20 == 0 {
            assert_eq!(serving.get("/metrics").code, 200);
        }
    }
    assert!(serving.is_ready());
    let open = std::fs::read_dir(format!("/proc/{}/fd", serving.pid())).expect("it runs").count();
    assert!(open < 150, "{open} descriptors: connections are bounded");
    // The oldest were closed.
    slow[0].set_read_timeout(Some(super::LONG)).expect("set");
    assert!(matches!(slow[0].read(&mut [0; 1024]), Ok(0) | Err(_)), "the first one gave way");
    serving.stop();
}

/// An address that is taken is told at once, with what to do, and nothing was touched; so is one that is none.
#[test]
fn an_address_that_is_taken_is_told() {
    let scene = Scene::new(1);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let run = |how: &str, code: i32, part: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_replicate"));
        command.env_remove("REPLICATE_LISTEN").arg("run").arg(scene.database(0)).stdin(Stdio::null());
        match how {
            "argument" => _ = command.args(["--listen", &address]),
            "environment" => _ = command.env("REPLICATE_LISTEN", &address),
            other => _ = command.args(["--listen", other]),
        }
        let output = command.output().expect("started");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && told.contains(part), "{how}: {told}");
    };
    run("argument", 1, &format!("cannot listen on {address}"));
    run("environment", 1, "another process listens there");
    run("nonsense", 2, "is not an address to listen on");
    assert!(!scene.path(".0.db-replicate").exists());
}
