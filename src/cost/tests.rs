use super::prices::{KEYS, per_month};
use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn terms() -> Terms {
    Terms {
        sync_interval: Duration::from_secs(1),
        segment_size: 4 << 20,
        snapshot_interval: DAY,
        snapshot_after: Some(1 << 30),
        snapshot_spacing: HOUR / 4,
        commits: Some(DAY),
        keep: Some(30 * DAY),
    }
}

fn workload(commits_per_second: f64) -> Workload {
    Workload { database_bytes: 1 << 30, commits_per_second, bytes_per_commit: 600, changed_bytes_per_day: 100 << 20 }
}

/// An idle database costs no request and no transfer, only what is stored.
#[test]
fn an_idle_database_costs_its_bytes() {
    let month = Estimate::new(&workload(0.0), &terms());
    assert_eq!(month.requests.iter().sum::<f64>(), 0.0);
    assert_eq!((month.uploaded_bytes, month.downloaded_bytes), (0.0, 0.0));
    assert!(month.stored_bytes > 0.0);
}

/// More work costs more; a longer interval, and a shorter retention, less; and nothing is ever negative or endless.
#[test]
fn costs_follow_the_settings() {
    let puts = |workload: &Workload, terms: &Terms| Estimate::new(workload, terms).of_kind(Kind::Put);
    let mut before = 0.0;
    for commits in [0.0001, 0.01, 0.1, 1.0, 10.0, 1000.0, 100_000.0] {
        let month = Estimate::new(&workload(commits), &terms());
        assert!(month.requests.iter().all(|n| n.is_finite() && *n >= 0.0), "{month:?}");
        assert!(month.stored_bytes.is_finite() && month.uploaded_bytes > 0.0, "{month:?}");
        assert!(month.of_kind(Kind::Put) >= before, "{commits}");
        before = month.of_kind(Kind::Put);
    }
    let slow = Terms { sync_interval: Duration::from_secs(60), ..terms() };
    assert!(puts(&workload(1.0), &slow) * 20.0 < puts(&workload(1.0), &terms()));
    // One commit in a minute is one segment in a minute, whatever the interval.
    let rare = puts(&workload(1.0 / 60.0), &terms());
    assert!((40_000.0..60_000.0).contains(&rare), "{rare}");
    let short = Terms { commits: Some(HOUR), keep: Some(DAY), ..terms() };
    let stored = |terms: &Terms| Estimate::new(&workload(10.0), terms).stored_bytes;
    assert!(stored(&short) < stored(&terms()) / 2.0);
    let forever = Terms { commits: None, keep: None, ..terms() };
    assert!(stored(&forever) > stored(&terms()) * 1.5);
}

/// Bills are the sums of their parts, examples are found by endpoint, and each price can be set.
#[test]
fn money_adds_up() {
    let month = Estimate {
        requests: Kind::ALL.map(|kind| if kind == Kind::Put { 1e6 } else { 0.0 }),
        uploaded_bytes: 1e12,
        downloaded_bytes: 1e9,
        stored_bytes: 1e11,
        stored_objects: 1.0,
    };
    let bill = Prices::named("aws-s3").unwrap().bill(&month);
    assert!((bill.requests - 5.0).abs() < 1e-9 && (bill.stored - 2.3).abs() < 1e-9, "{bill:?}");
    assert!((bill.total() - 7.39).abs() < 1e-9);
    for (url, endpoint, name) in [
        ("s3://b/p", None, "aws-s3"),
        ("s3://b/p", Some("https://x.r2.cloudflarestorage.com"), "cloudflare-r2"),
        ("s3://b/p", Some("https://s3.eu.backblazeb2.com"), "backblaze-b2"),
        ("/mnt/b", None, "none"),
    ] {
        assert_eq!(Prices::guess(url, endpoint).name, name);
    }
    let mut prices = EXAMPLES[0];
    assert!(KEYS.iter().all(|key| prices.set(key, 0.0)) && !prices.set("other", 1.0));
    assert_eq!(prices.bill(&month).total(), 0.0);
    assert_eq!((per_month(10.0, 3600.0), per_month(1.0, 0.0)), (7200.0, 0.0));
}
