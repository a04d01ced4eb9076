//! What is told while something is wrong: the lag rises, and health turns red without delay and green again.

use std::sync::atomic::Ordering;

use super::notify::Listener;
use super::{LONG, Scene, Serving};
use crate::ledger::rig::eventually;
use crate::s3_server::S3Server;
use crate::small_disk::SmallDisk;

const ONE: &str = "defaults: { sync-interval: 10ms, poll-interval: 100ms, max-lag: 3s }\ndatabases:\n";

/// The lag at two moments: it must have risen in between.
fn assert_lag_rises(serving: &Serving, lag: &str) {
    let first = serving.metric(lag);
    serving.wait_for("the lag rises", || serving.metric(lag) > first + 0.5);
    serving.wait_for("not ready", || !serving.is_ready());
}

/// The store does not answer: the lag rises from the first commit on that is not in it, and readiness ends with `max-lag`. The
/// process lives all the while. When the store is back, so is readiness.
#[test]
fn a_store_that_is_down_is_told() {
    let server = S3Server::start(5);
    let mut scene = Scene::new(1);
    scene.environment = server.env();
    let url = server.url("p");
    let serving = scene.start(&format!("{ONE}  - {{ path: DIR/0.db, replicas: ['{url}'] }}\n"));
    serving.wait_until_ready();
    let lag = format!("replicate_lag_seconds{{database=\"DB\",replica=\"{}\"}}", url.split('?').next().expect("text"));
    scene.insert(0);
    serving.wait_for("level", || serving.metric(&lag) == 0.0);
    server.manners().outage.store(true, Ordering::SeqCst);
    assert!(serving.is_ready(), "nothing is missing yet");
    scene.insert(0);
    assert_lag_rises(&serving, &lag);
    assert!(serving.metric(&lag) >= 3.0);
    assert!(serving.metric(&lag.replace("seconds", "bytes")) > 0.0);
    let body = serving.get("/readyz").body;
    assert!(body.contains("0.db: s3://bucket/p: lag"), "{body}");
    assert_eq!(serving.get("/healthz").code, 200);
    assert_eq!(serving.metric("replicate_ready{database=\"DB\"}"), 0.0);
    assert_eq!(serving.metric("replicate_up{database=\"DB\"}"), 1.0, "capture goes on");
    server.manners().outage.store(false, Ordering::SeqCst);
    serving.wait_until_ready();
    serving.wait_for("level", || serving.metric(&lag) == 0.0);
    serving.stop();
}

/// The spool has no room because the store is down: capture pauses and that is told at once; commits that nobody captures make
/// the lag rise too. Afterwards everything is captured again, with a gap.
#[test]
fn a_full_spool_is_told() {
    let server = S3Server::start(6);
    let mut scene = Scene::new(1);
    scene.environment = server.env();
    let url = server.url("p");
    let config = ONE.replace("max-lag: 3s", "max-lag: 1h, spool-limit: 16MiB, segment-size: 1MiB");
    let serving = scene.start(&format!("{config}  - {{ path: DIR/0.db, replicas: ['{url}'] }}\n"));
    serving.wait_until_ready();
    server.manners().outage.store(true, Ordering::SeqCst);
    scene.insert_mib(0, 24);
    serving.wait_for("not ready", || serving.get("/readyz").body.contains("the spool is full"));
    assert_eq!(serving.metric("replicate_up{database=\"DB\"}"), 0.0);
    assert!(serving.metric("replicate_errors_total{database=\"DB\",kind=\"spool-full\"}") >= 1.0);
    assert_eq!(serving.get("/healthz").code, 200);
    server.manners().outage.store(false, Ordering::SeqCst);
    serving.wait_until_ready();
    assert!(serving.metric("replicate_gaps_total{database=\"DB\"}") >= 1.0);
    serving.stop();
}

/// The disk of the state directory is full although the store is well: nothing can be captured, the lag rises although nothing
/// waits in the spool, and readiness ends at once. With room again, it comes back.
#[test]
fn a_full_disk_is_told() {
    let Some(disk) = SmallDisk::mount("a_full_disk_is_told", 32 << 20) else { return };
    let scene = Scene::new(1);
    let config = ONE.replace("max-lag: 3s", "max-lag: 1h, spool-limit: 16MiB, segment-size: 1MiB");
    let state = disk.path().join("state");
    let config = format!("{config}  - {{ path: DIR/0.db, state-dir: {}, replicas: [DIR/r] }}\n", state.display());
    let serving = scene.start(&config);
    serving.wait_until_ready();
    let filler = disk.fill();
    scene.insert_mib(0, 2);
    serving.wait_for("not ready", || !serving.is_ready());
    let replica = scene.path("r").display().to_string();
    let lag = format!("replicate_lag_seconds{{database=\"DB\",replica=\"{replica}\"}}");
    assert_lag_rises(&serving, &lag);
    assert_eq!(serving.metric("replicate_up{database=\"DB\"}"), 0.0);
    std::fs::remove_file(filler).expect("removed");
    serving.wait_until_ready();
    serving.stop();
}

/// A thread of another process that stands still, as one does that waits for a disk that does not answer. Goes on when dropped.
struct Halted(libc::pid_t);

impl Halted {
    /// `None`, said loudly, where this process may not do that.
    fn halt(test: &str, pid: u32, name: &str) -> Option<Halted> {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
        let named = |task: &std::fs::DirEntry| {
            std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let task = tasks.into_iter().find(named).unwrap_or_else(|| panic!("no thread {name:?}"));
        let tid: libc::pid_t = task.file_name().to_str().expect("digits").parse().expect("digits");
        // SAFETY: both requests take no pointers to our memory; they only stop the thread of a child of this process.
        let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, tid, 0, 0) };
        if seized != 0 {
            let why = std::io::Error::last_os_error();
            eprintln!("{test}: SKIPPED, because this process may not trace its child: {why}");
            return None;
        }
        // SAFETY: as above.
        assert_eq!(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, tid, 0, 0) }, 0);
        Some(Halted(tid))
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        // SAFETY: the thread was seized by this one. It must have stopped before it can be let go; `__WALL` finds threads.
        unsafe {
            libc::waitpid(self.0, std::ptr::null_mut(), libc::__WALL);
            libc::ptrace(libc::PTRACE_DETACH, self.0, 0, 0);
        }
    }
}

/// The capturing thread hangs: nothing tells so but that it does not come back. The lag rises from its last look on, readiness
/// ends with `max-lag`, and after a minute the process counts as dead and systemd hears no more that all is well. When it goes on, all is well again.
#[test]
fn a_capture_that_is_stuck_is_told() {
    let mut scene = Scene::new(1);
    let heard = Listener::at_path(&scene.path("notify"), &mut scene.environment);
    let serving = scene.start(&format!("{ONE}  - {{ path: DIR/0.db, replicas: [DIR/r] }}\n"));
    serving.wait_until_ready();
    heard.wait_for("WATCHDOG=1");
    let replica = scene.path("r").display().to_string();
    let lag = format!("replicate_lag_seconds{{database=\"DB\",replica=\"{replica}\"}}");
    serving.wait_for("level", || serving.metric(&lag) == 0.0);
    let Some(halted) = Halted::halt("a_capture_that_is_stuck_is_told", serving.pid(), "capture") else { return };
    scene.insert(0);
    serving.wait_for("a lag", || serving.metric(&lag) > 0.0);
    assert_lag_rises(&serving, &lag);
    serving.wait_for("not alive", || serving.get("/healthz").code == 503);
    heard.wait_for_silence_of("WATCHDOG=1");
    assert_eq!(serving.metric("replicate_up{database=\"DB\"}"), 0.0);
    assert!(serving.get("/readyz").body.contains("capture stands still"), "{}", serving.get("/readyz").body);
    drop(halted);
    serving.wait_until_ready();
    assert_eq!(serving.get("/healthz").code, 200);
    heard.wait_for("WATCHDOG=1");
    serving.stop();
}

/// Another process holds the database for itself: it cannot be captured, and that is told; so is a database that was captured
/// and is gone. One that never existed is no trouble.
#[test]
fn a_database_that_cannot_be_captured_is_told() {
    let mut scene = Scene::new(1);
    let serving = scene.start(&format!("{ONE}  - path: DIR/0.db\n  - path: DIR/never.db\n"));
    serving.wait_until_ready();
    serving.stop();
    scene.apps[0].execute_batch("PRAGMA locking_mode=EXCLUSIVE; INSERT INTO t VALUES (2)").expect("locked");
    let serving = scene.start(&format!("{ONE}  - path: DIR/0.db\n"));
    let replica = scene.path("0.db.replica").display().to_string();
    let lag = format!("replicate_lag_seconds{{database=\"DB\",replica=\"{replica}\"}}");
    serving.wait_for("a status", || serving.get("/metrics").code == 200);
    assert_lag_rises(&serving, &lag);
    assert_eq!(serving.metric("replicate_up{database=\"DB\"}"), 0.0);
    scene.apps.clear();
    serving.wait_until_ready();
    for name in ["0.db", "0.db-wal", "0.db-shm"] {
        std::fs::remove_file(scene.path(name)).ok();
    }
    let is_told = eventually(LONG, || serving.get("/readyz").body.contains("the database is gone"));
    assert!(is_told, "{}", serving.get("/readyz").body);
    serving.stop();
}

/// A store where of several creators of one object more than one wins, because it ignores the condition or asks before it writes, is
/// seen by the first claim; one that keeps them apart is, too. The replica is whole all the same.
#[test]
fn a_store_that_cannot_fence_is_told() {
    let server = S3Server::start(7);
    let mut scene = Scene::new(1);
    scene.environment = server.env();
    let serve = |prefix: &str, can_fence: bool| {
        let url = server.url(prefix);
        let config = format!("{ONE}  - {{ path: DIR/0.db, state-dir: DIR/{prefix}, replicas: ['{url}'] }}\n");
        let serving = scene.start(&config);
        serving.wait_until_ready();
        scene.insert(0);
        let replica = url.split('?').next().expect("text");
        let of = |metric: &str| serving.metric(&format!("{metric}{{database=\"DB\",replica=\"{replica}\"}}"));
        serving.wait_for("shipped", || of("replicate_shipped_txid") >= 2.0 && of("replicate_lag_seconds") == 0.0);
        assert_eq!(of("replicate_fencing_available"), f64::from(u8::from(can_fence)), "{prefix}");
        let status: serde_json::Value = serde_json::from_str(&serving.get("/status").body).expect("JSON");
        assert_eq!(status["databases"][0]["replicas"][0]["fencing"], can_fence, "{status}");
        let log = serving.log();
        assert_eq!(log.contains("DOES NOT KEEP WRITERS APART"), !can_fence, "{log}");
        serving.stop();
    };
    serve("apart", true);
    server.manners().checks_then_writes.store(true, Ordering::SeqCst);
    serve("asks", false);
    server.manners().ignores_conditions.store(true, Ordering::SeqCst);
    serve("ignores", false);
}
