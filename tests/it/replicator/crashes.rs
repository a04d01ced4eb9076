//! The whole replicator stopped at any step on its disk.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use replicate::position::Txid;
use replicate::replica::Replica;
use replicate::replicator::{Crew, Replicator};
use replicate::spool::Disk;

use super::rig::{Rig, newest};

/// Stopped at the n-th step on its disk and started again, it goes on in the same generation without a hole, and what was
/// shipped stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_step_leaves_no_hole() {
    for stop_at in (0..90).step_by(3) {
        let rig = Rig::new(1);
        let first = rig.once().await;
        let steps = Arc::new(AtomicU64::new(0));
        let disk = {
            let steps = steps.clone();
            Disk::with_hook(move |_| match steps.fetch_add(1, Ordering::SeqCst) {
                step if step >= stop_at => Err(io::Error::other("stopped")),
                _ => Ok(()),
            })
        };
        let started = Replicator::start_on(
            disk,
            Crew::unlimited(),
            rig.settings.clone(),
            rig.engine(),
            rig.replicas(),
            rig.clock(),
        );
        if let Ok(replicator) = started {
            for n in 0..2000u64 {
                if n >= 12 && steps.load(Ordering::SeqCst) >= stop_at {
                    break;
                }
                rig.database.commit(&[(n % 4, n as u8 + 60)], 4 + n % 2);
                tokio::time::sleep(Duration::from_millis(6)).await;
            }
            replicator.stop(Duration::from_millis(50)).await;
        }
        let shipped = newest(&rig.stores[0]).await.0;
        rig.database.commit(&[(1, 200)], 4);
        let last = rig.once().await;
        assert_eq!(last.generation, first.generation, "stopped at {stop_at}");
        assert!(last.txid > shipped.txid, "{last} is not behind {shipped}");
        assert!(steps.load(Ordering::SeqCst) >= stop_at, "the crash at {stop_at} never came");
        assert_eq!(newest(&rig.stores[0]).await, (last, rig.database.content()), "stopped at {stop_at}");
        let replica = Replica::new(Arc::new(rig.stores[0].clone()));
        let inventory = replica.inventory(last.generation).await.expect("listed");
        assert_eq!((inventory.gaps(), inventory.reach(Txid::ZERO)), (vec![], last.txid), "stopped at {stop_at}");
    }
}
