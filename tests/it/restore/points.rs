//! Every point restores exactly, and an impossible one is refused with its neighbours.

use replicate::error::ExitCode;
use replicate::restore::point::format_time;

use super::*;

/// Every commit of random histories restores byte for byte, by its number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_commit_restores_exactly() {
    let mut points = 0;
    for seed in 0..12 {
        let writer = history(seed, 1 + seed % 3, 60).await;
        let (store, folder) = (store_of(&writer), scratch());
        for model in &writer.models {
            for state in &model.states[oldest(model).0 as usize - 1..] {
                let at = format!("{}/{}", model.generation, state.commit.txid.0);
                let bytes = bytes_at(&store, folder.path(), &at).await;
                let bytes = bytes.unwrap_or_else(|e| panic!("seed {seed}, {at}: {}", e.report()));
                assert!(bytes == state.content, "seed {seed}, {at}: other bytes");
                points += 1;
            }
        }
    }
    assert!(points > 1000, "{points}");
}

/// Every moment restores the last commit seen at or before it, across generations.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_time_restores_the_last_commit_before_it() {
    for seed in 100..108 {
        let writer = history(seed, 1 + seed % 2, 40).await;
        let (store, folder) = (store_of(&writer), scratch());
        let mut times: Vec<u64> = writer.models.iter().flat_map(|m| m.states.iter().map(|s| s.commit.time.0)).collect();
        times.extend(times.clone().iter().flat_map(|time| [time - 1, time + 1]));
        times.sort_unstable();
        times.dedup();
        let newest = writer.model().newest().commit.time;
        for time in times {
            let covers = |m: &&GenerationModel| m.at(oldest(m).0).commit.time.0 <= time;
            let model = writer.models.iter().rev().find(covers);
            let last = |m: &GenerationModel| m.states.iter().rfind(|s| s.commit.time.0 <= time).cloned();
            let expected = model.and_then(last).filter(|_| time <= newest.0);
            let at = format_time(TimeMs(time));
            let found = bytes_at(&store, folder.path(), &at).await;
            match (expected, found) {
                (Some(state), Ok(bytes)) => assert!(bytes == state.content, "seed {seed}, {at}: other bytes"),
                (None, Err(error)) => assert_eq!(error.exit(), ExitCode::NothingToRestore, "seed {seed}, {at}"),
                (expected, found) => {
                    let found = found.map(|b| b.len()).map_err(|e| e.report());
                    panic!("seed {seed}, {at}: {:?} and {found:?}", expected.map(|s| s.commit))
                }
            }
        }
    }
}

/// Without a point, and with `now`, the newest commit is restored, and it is said which.
#[tokio::test]
async fn the_newest_commit_is_the_default() {
    let writer = history(1, 2, 30).await;
    let folder = scratch();
    let target = folder.path().join("a.db");
    let said = restore(store_of(&writer), &options(&target)).await.expect("restored");
    let newest = writer.model().newest();
    assert!(std::fs::read(&target).expect("there") == newest.content);
    assert_eq!(said["commit"]["txid"], newest.commit.txid.0);
    assert_eq!(said["commit"]["time"], format_time(newest.commit.time));
    assert_eq!(said["commit"]["bytes"], newest.content.len());
    assert_eq!(said["commit"]["checksum"], format!("{:016x}", newest.commit.checksum));
    assert_eq!(said["generation"], writer.model().generation.to_string());
}

/// Points before, after and between what is there are refused, and their neighbours are named.
#[tokio::test]
async fn loss_23_an_impossible_point_is_not_rounded() {
    let writer = history(3, 1, 40).await;
    let (store, folder) = (store_of(&writer), scratch());
    let newest = writer.model().newest().commit.clone();
    let late = [format_time(TimeMs(newest.time.0 + 1)), format!("txid:{}", newest.txid.0 + 1)];
    for at in late {
        let error = bytes_at(&store, folder.path(), &at).await.expect_err("after the newest");
        assert_eq!(error.exit(), ExitCode::NothingToRestore);
        let named = format!("txid:{} ({})", newest.txid.0, format_time(newest.time));
        assert!(error.report().contains(&named), "{}", error.report());
    }
    let error = bytes_at(&store, folder.path(), "2001-01-01T00:00:00Z").await.expect_err("before the oldest");
    assert_eq!(error.exit(), ExitCode::NothingToRestore);
    assert!(error.report().contains("after it: txid:1 "), "{}", error.report());
    for at in ["txid:0", "label:X", "tomorrow-ish"] {
        let error = bytes_at(&store, folder.path(), at).await.expect_err("no point");
        assert_eq!(error.exit(), ExitCode::Usage, "{at}");
    }
    let error = bytes_at(&store, folder.path(), "0000000000000001/1").await.expect_err("no such generation");
    assert_eq!(error.exit(), ExitCode::NothingToRestore);
}

/// A moment between a repair and the commit before it restores that commit, and it is said that more was committed then.
#[tokio::test]
async fn a_time_before_a_repair_says_so() {
    let writer = history(5, 1, 80).await;
    let (store, folder) = (store_of(&writer), scratch());
    let states = &writer.model().states;
    let is_repair = |w: &&[history::State]| {
        matches!(w[1].commit.kind, replicate::position::CommitKind::Repair(_)) && w[0].commit.time < w[1].commit.time
    };
    let pair = states.windows(2).find(is_repair).expect("a repair in this history");
    let target = folder.path().join("a.db");
    let at = Some(format_time(TimeMs(pair[1].commit.time.0 - 1)));
    let said = restore(store, &RestoreOptions { at, ..options(&target) }).await.expect("restored");
    assert!(std::fs::read(&target).expect("there") == pair[0].content);
    assert!(said["notes"].to_string().contains("single commits were not captured"), "{said}");
}

/// A plan is printed and nothing is written.
#[tokio::test]
async fn a_dry_run_writes_nothing() {
    let writer = history(6, 1, 40).await;
    let folder = scratch();
    let target = folder.path().join("a.db");
    let options = RestoreOptions { dry_run: true, ..options(&target) };
    let said = restore(store_of(&writer), &options).await.expect("planned");
    assert_eq!(said["plan"]["commit"]["txid"], writer.model().newest().commit.txid.0);
    assert_eq!(files(folder.path()), [""; 0]);
    let mut out = Vec::new();
    let text = RestoreOptions { json: false, ..options };
    run(store_of(&writer), &text, &around(0), &mut out).await.expect("planned");
    assert!(String::from_utf8_lossy(&out).contains("snapshot   txid:"));
}

/// A large segment is read in ranges, from the middle of its blocks to the middle of its blocks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_segments_are_read_in_ranges() {
    let mut writer = Writer::new(8).await;
    writer.begin_generation(replicate::extent::PageGrid::new(0, 4096).expect("a grid")).await;
    writer.snapshot(0).await;
    for _ in 0..6 {
        writer.bulk(1000).await;
    }
    writer.seal().await;
    let (store, folder) = (store_of(&writer), scratch());
    let largest = store.list("", None).await.expect("listed").iter().map(|object| object.size).max();
    assert!(largest > Some(2 * replicate::restore::PIECE_BYTES), "{largest:?}");
    for txid in [1, 2, 4, 7] {
        let bytes = bytes_at(&store, folder.path(), &format!("txid:{txid}")).await.expect("restored");
        assert!(bytes == writer.model().at(txid).content, "{txid}");
    }
    let found = verify::deep(&store).await;
    assert_eq!(found["findings"].as_array().map(Vec::len), Some(0), "{found}");
    let lost = store.list("", None).await.expect("listed").into_iter().max_by_key(|object| object.size).expect("one");
    let mut bytes = store.get(&lost.key, None).await.expect("read").to_vec();
    let at = bytes.len() * 2 / 3;
    bytes[at] ^= 4;
    let body = replicate::store::Body::Bytes(bytes.into());
    store.put(&lost.key, body, replicate::store::PutMode::Replace).await.expect("put");
    assert!(
        bytes_at(&store, folder.path(), "txid:2").await.expect("before the damage") == writer.model().at(2).content
    );
    let error = bytes_at(&store, folder.path(), "txid:7").await.expect_err("damaged");
    assert_eq!(error.exit(), ExitCode::Damaged, "{}", error.report());
    assert_ne!(verify::deep(&store).await["findings"].as_array().map(Vec::len), Some(0));
}

/// A plan needs a handful of requests, however long the history.
#[tokio::test]
async fn a_plan_needs_few_requests() {
    let writer = history(7, 3, 300).await;
    let requests = Arc::new(replicate::store::requests::Requests::default());
    let counted = replicate::store::requests::Counted::new(store_of(&writer), requests.clone());
    let folder = scratch();
    let dry = RestoreOptions { dry_run: true, ..options(&folder.path().join("a.db")) };
    restore(Arc::new(counted), &dry).await.expect("planned");
    let count = requests.total();
    assert!(count <= 12, "{count} requests");
}

/// A part that was put earlier in another compression, and so in another size, serves as well.
#[tokio::test]
async fn a_part_may_be_compressed_in_another_way() {
    use replicate::extent::{Extent, FileId};
    use replicate::layout::ObjectName;
    use replicate::segment::{Codec, PartWriter, decode_part, read_part_ref};
    let writer = history(9, 1, 30).await;
    let store = damage::copy(&*writer.store).await;
    let mut changed = 0;
    for key in damage::keys(&*store).await {
        if !matches!(ObjectName::parse(key.as_str()), Some(ObjectName::Part { .. })) {
            continue;
        }
        let object = store.get(&key, None).await.expect("read");
        let part = read_part_ref(&object).expect("a part");
        let mut again = PartWriter::new(FileId::Main, part.offset, Codec::Stored).expect("a part");
        decode_part(&object, &part, |Extent { offset, data, file }| {
            again.extent(Extent { offset, data, file }).map_err(std::io::Error::other)
        })
        .expect("a part");
        let (other, object) = again.finish(part.end()).expect("a part");
        changed += u32::from(other.stored_len != part.stored_len);
        let body = replicate::store::Body::Bytes(object);
        store.put(&key, body, replicate::store::PutMode::Replace).await.expect("put");
    }
    assert!(changed > 0);
    let (store, folder) = (store as Arc<dyn Store>, scratch());
    assert!(bytes_at(&store, folder.path(), "now").await.expect("restored") == writer.model().newest().content);
    let said = verify::deep(&store).await;
    assert_eq!(said["sound"], true, "{said:#}");
}
