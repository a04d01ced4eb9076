//! What happens at the target path.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use replicate::error::ExitCode;

use super::*;

/// An existing file is refused, left alone by a failing restore, and kept by one that replaces it, with what belongs to it.
#[tokio::test]
async fn loss_24_the_old_file_survives() {
    let writer = history(41, 1, 20).await;
    let folder = scratch();
    let target = folder.path().join("a.db");
    fs::write(&target, "old").expect("written");
    fs::write(folder.path().join("a.db-wal"), "old wal").expect("written");
    fs::set_permissions(&target, fs::Permissions::from_mode(0o640)).expect("set");
    let error = restore(store_of(&writer), &options(&target)).await.expect_err("refused");
    assert_eq!(error.exit(), ExitCode::Refused);
    let overwrite = RestoreOptions { overwrite: true, ..options(&target) };

    let broken = damage::copy(&*writer.store).await;
    let first = damage::keys(&*broken).await.into_iter().find(|key| key.as_str().contains("/part/")).expect("a part");
    let parts: Vec<_> =
        damage::keys(&*broken).await.into_iter().filter(|key| key.as_str().contains("/part/")).collect();
    broken.delete(&parts).await.expect("deleted");
    let error = restore(broken, &overwrite).await.expect_err("damaged");
    assert_eq!(error.exit(), ExitCode::Damaged);
    assert!(error.report().contains("/part/"), "{first}: {}", error.report());
    assert_eq!(files(folder.path()), ["a.db", "a.db-wal"]);
    assert_eq!(fs::read(&target).expect("there"), b"old");

    let said = restore(store_of(&writer), &overwrite).await.expect("restored");
    assert!(fs::read(&target).expect("there") == writer.model().newest().content);
    let kept = PathBuf::from(said["kept"].as_str().expect("kept"));
    assert_eq!(fs::read(&kept).expect("kept"), b"old");
    assert_eq!(fs::read(format!("{}-wal", kept.display())).expect("kept"), b"old wal");
    assert_eq!(files(folder.path()).len(), 3);
    assert_eq!(fs::metadata(&target).expect("there").permissions().mode() & 0o777, 0o640);
}

/// A WAL or journal without its database would be applied to the restored file: refused, or moved away.
#[tokio::test]
async fn stale_companions_are_never_applied() {
    let writer = history(42, 1, 10).await;
    for ending in ["-wal", "-journal", "-shm"] {
        let folder = scratch();
        let target = folder.path().join("a.db");
        fs::write(folder.path().join(format!("a.db{ending}")), "stale").expect("written");
        let error = restore(store_of(&writer), &options(&target)).await.expect_err("refused");
        assert_eq!(error.exit(), ExitCode::Refused, "{ending}");
        restore(store_of(&writer), &RestoreOptions { overwrite: true, ..options(&target) }).await.expect("restored");
        let names = files(folder.path());
        assert_eq!(names.len(), 2);
        assert!(names[1].starts_with("a.db.before-restore-") && names[1].ends_with(ending), "{names:?}");
    }
}

/// `--if-missing` leaves an existing target alone and succeeds; a missing one is restored.
#[tokio::test]
async fn if_missing_restores_only_what_is_missing() {
    let writer = history(43, 1, 10).await;
    let folder = scratch();
    let target = folder.path().join("a.db");
    let options = RestoreOptions { if_missing: true, ..options(&target) };
    assert_eq!(restore(store_of(&writer), &options).await.expect("restored")["restored"], true);
    fs::write(&target, "mine").expect("written");
    assert_eq!(restore(store_of(&writer), &options).await.expect("left alone")["restored"], false);
    assert_eq!(fs::read(&target).expect("there"), b"mine");
}

/// A link is followed, a directory and a missing folder are refused.
#[tokio::test]
async fn odd_targets() {
    let writer = history(44, 1, 10).await;
    let folder = scratch();
    let (real, link) = (folder.path().join("real.db"), folder.path().join("link.db"));
    fs::write(&real, "old").expect("written");
    std::os::unix::fs::symlink(&real, &link).expect("linked");
    restore(store_of(&writer), &RestoreOptions { overwrite: true, ..options(&link) }).await.expect("restored");
    assert!(link.is_symlink());
    assert!(fs::read(&real).expect("there") == writer.model().newest().content);
    for target in [folder.path().to_owned(), folder.path().join("no/such/a.db")] {
        let error = restore(store_of(&writer), &options(&target)).await.expect_err("refused");
        assert_eq!(error.exit(), ExitCode::Refused, "{}", target.display());
    }
}

/// A file that another process has open and locked, as databases are, is not replaced.
#[tokio::test]
async fn a_database_in_use_is_not_replaced() {
    let writer = history(45, 1, 10).await;
    let folder = scratch();
    let target = folder.path().join("a.db");
    fs::write(&target, "in use").expect("written");
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "restore::target::holds_a_lock", "--ignored", "--nocapture"])
        .env("REPLICATE_TEST_LOCK", &target)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map(|line| line.expect("read"));
    assert!(lines.any(|line| line.contains("locked")));
    let overwrite = RestoreOptions { overwrite: true, ..options(&target) };
    let error = restore(store_of(&writer), &overwrite).await.expect_err("in use");
    assert_eq!(error.exit(), ExitCode::Refused);
    assert!(error.report().contains(&format!("in use by process {}", child.id())), "{}", error.report());
    child.stdin.take().expect("piped").write_all(b"done\n").expect("told");
    lines.for_each(drop);
    child.wait().expect("ended");
    restore(store_of(&writer), &overwrite).await.expect("restored");
}

/// Not a test of its own: the other process of the test above.
#[test]
#[ignore = "run by a_database_in_use_is_not_replaced"]
fn holds_a_lock() {
    let Some(path) = std::env::var_os("REPLICATE_TEST_LOCK") else { return };
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("opened");
    let (l_type, l_whence) = (nix::libc::F_WRLCK as _, nix::libc::SEEK_SET as _);
    let lock = nix::libc::flock { l_type, l_whence, l_start: 0x4000_0000, l_len: 512, l_pid: 0 };
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETLK(&lock)).expect("locked");
    println!("locked");
    std::io::stdin().lines().next();
}
