//! A disk that has no room for what is restored.

use replicate::restore::point::Point;
use replicate::restore::{Execution, Progress, Reading, Request};

use super::*;
use crate::small_disk::SmallDisk;

/// Takes the last room on the disk when the restore begins to write.
#[derive(Debug)]
struct Filling(Arc<SmallDisk>);

impl Progress for Filling {
    fn begin(&self, _: &'static str, _: u64) {
        if !self.0.path().join("filler").exists() {
            self.0.fill();
        }
    }
    fn advance(&self, _: u64) {}
    fn note(&self, _: &str) {}
}

/// Room that is missing from the beginning is told before anything is written; room that vanishes on the way ends the
/// restore with that error and not as damage. The old file stays, and nothing else is left.
#[tokio::test]
async fn loss_18_a_restore_without_room_says_so() {
    let Some(disk) = SmallDisk::mount("loss_18_a_restore_without_room_says_so", 1 << 20) else { return };
    let disk = Arc::new(disk);
    let mut writer = history(46, 1, 5).await;
    writer.bulk(1000).await;
    writer.seal().await;
    let target = disk.path().join("a.db");
    std::fs::write(&target, "old").expect("written");
    let how = Execution {
        target: target.clone(),
        overwrite: true,
        jobs: 2,
        engine: |_| None,
        check: false,
        fold: true,
        spare_bytes: 0,
        now: TimeMs(1),
        random: 1,
        progress: Arc::new(Filling(disk.clone())),
    };
    let request = Request { point: Point::Newest, generation: None };
    for what in ["on the way", "from the beginning"] {
        let error = replicate::restore::restore(&Reading::new(store_of(&writer)), &request, &how).await;
        let error = error.expect_err("there is no room");
        let (shown, debug) = (error.to_string(), format!("{error:?}"));
        assert_ne!(Error::from(error).exit(), replicate::error::ExitCode::Damaged, "{what}: {shown}");
        assert!(debug.contains("StorageFull") || shown.contains("free"), "{what}: {shown} {debug}");
        assert_eq!(files(disk.path()), ["a.db", "filler"], "{what}");
        assert_eq!(std::fs::read(&target).expect("there"), b"old", "{what}");
    }
    std::fs::remove_file(disk.path().join("filler")).expect("removed");
    let plain = RestoreOptions { overwrite: true, ..options(&target) };
    restore(store_of(&writer), &plain).await.expect("restored");
    assert!(std::fs::read(&target).expect("there") == writer.model().newest().content);
}
