use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::position::TimeMs;
use crate::store::limits::{Rate, Rates, Window};

const SECOND: Duration = Duration::from_secs(1);
const MIB: u64 = 1 << 20;
/// A Monday, at midnight.
const BEGIN: TimeMs = TimeMs(1_790_553_600_000);

/// A clock that moves to the next sleeper's time when nothing else can be done.
#[derive(Default)]
struct Fake {
    now: Mutex<Duration>,
    sleepers: Mutex<BTreeMap<Duration, Vec<Waker>>>,
}

#[async_trait::async_trait]
impl Pace for Fake {
    fn now(&self) -> Duration {
        *self.now.lock().unwrap()
    }
    async fn sleep(&self, time: Duration) {
        let until = self.now() + time;
        std::future::poll_fn(|cx| {
            if self.now() >= until {
                return Poll::Ready(());
            }
            self.sleepers.lock().unwrap().entry(until).or_default().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
    fn random(&self) -> f64 {
        0.5
    }
}

impl Fake {
    fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(done) = work.as_mut().poll(&mut cx) {
                return done;
            }
            let (until, wakers) = self.sleepers.lock().unwrap().pop_first().expect("nothing will ever happen");
            let mut now = self.now.lock().unwrap();
            *now = until.max(*now);
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// What `work` took.
    fn time(&self, work: impl Future<Output = ()>) -> Duration {
        let began = self.now();
        self.run(work);
        self.now() - began
    }
}

fn every_second(units: u64) -> Option<Rate> {
    Rate::new(units, SECOND)
}

fn limited(always: Rates, windows: Vec<Window>) -> (Arc<Fake>, Traffic) {
    let fake = Arc::new(Fake::default());
    let of_clock = fake.clone();
    let clock: Clock = Arc::new(move || TimeMs(BEGIN.0 + of_clock.now().as_millis() as u64));
    let limiter = Limiter::new(Limits { always, windows }, clock, fake.clone());
    (fake, Traffic::new(Arc::default(), Some(Arc::new(limiter))))
}

/// Bytes and requests take the time that their limits say, to the piece, also from several tasks together; the wait is told; each
/// limit is its own.
#[test]
fn nothing_goes_before_its_time() {
    let (fake, traffic) = limited([every_second(MIB), None, every_second(10)], vec![]);
    let both = [traffic.moved_all(Unit::Upload, 5 * MIB), traffic.moved_all(Unit::Upload, 5 * MIB)];
    // The last piece goes when those before it are done.
    let took = fake.time(async { _ = futures_util::future::join_all(both).await });
    assert!(took > Duration::from_millis(9_900) && took <= 10 * SECOND, "{took:?}");
    assert!(traffic.requests.waiting_time() > 9 * SECOND);
    assert_eq!(traffic.requests.bytes_moved(Unit::Upload), 10 * MIB);
    assert_eq!(fake.time(traffic.moved_all(Unit::Download, 100 * MIB)), Duration::ZERO, "this one has no limit");
    let took = fake.time(async {
        for _ in 0..21 {
            traffic.request(Kind::Get).await;
        }
    });
    assert_eq!((took, traffic.requests.of_kind(Kind::Get)), (2 * SECOND, 21));
}

/// No second, wherever it begins, moves more than its limit and a piece: time in which nothing went saves nothing up.
#[test]
fn there_are_no_bursts() {
    let (fake, traffic) = limited([every_second(MIB), None, None], vec![]);
    let mut moved = Vec::new();
    fake.run(async {
        for round in 0..60 {
            fake.sleep(Duration::from_millis(700 * (round / 20 % 2) * (round % 3))).await;
            let piece = traffic.piece(Unit::Upload);
            traffic.moved(Unit::Upload, piece, None).await;
            moved.push((fake.now(), piece));
        }
    });
    for (from, _) in &moved {
        let within = moved.iter().filter(|(at, _)| at >= from && *at < *from + SECOND);
        let bytes: u64 = within.map(|(_, piece)| piece).sum();
        assert!(bytes <= MIB + (64 << 10), "{bytes} in a second");
    }
}

/// At the hours of a window its limit counts, and before and after it the usual one.
#[test]
fn windows_come_and_go() {
    let rates = [Some(every_second(1 << 10)), None, None];
    let night = Window { between: (60, 120), days: [true; 7], zone: crate::cron::Zone::UTC, rates };
    let (fake, traffic) = limited([every_second(10 * MIB), None, None], vec![night]);
    let mut took = Vec::new();
    for _ in 0..3 {
        took.push(fake.time(traffic.moved_all(Unit::Upload, 100 << 10)).as_secs());
        fake.run(fake.sleep(Duration::from_secs(3600)));
    }
    assert_eq!((took[0], took[2]), (0, 0));
    assert!((98..=100).contains(&took[1]), "{took:?}");
}

/// A time-out counts only the time in which a request is free to go, and still ends one that hangs.
#[test]
fn waiting_is_not_hanging() {
    let (fake, traffic) = limited([every_second(1 << 10), None, None], vec![]);
    let waiting = Waiting::default();
    let slow = async {
        for _ in 0..100 {
            traffic.moved(Unit::Upload, 1 << 10, Some(&waiting)).await;
        }
    };
    assert!(fake.run(traffic.bounded(SECOND, &waiting, slow)).is_some());
    assert!(fake.now() >= 99 * SECOND);
    let (began, waiting) = (fake.now(), Waiting::default());
    let hangs = async {
        traffic.moved(Unit::Upload, 10 << 10, Some(&waiting)).await;
        traffic.moved(Unit::Upload, 1, Some(&waiting)).await;
        std::future::pending::<()>().await
    };
    assert!(fake.run(traffic.bounded(SECOND, &waiting, hangs)).is_none());
    // What was left of the piece before, ten seconds for its own, and the second that it may take.
    assert_eq!(fake.now() - began, 12 * SECOND);
}

/// Replicas in one store share what they may; another store, or another limit, is for itself.
#[test]
fn one_store_has_one_limiter() {
    let limits = |units| Limits { always: [every_second(units), None, None], ..Limits::default() };
    let first = Limiter::shared("a bucket", &limits(1));
    assert!(Arc::ptr_eq(&first, &Limiter::shared("a bucket", &limits(1))));
    assert!(!Arc::ptr_eq(&first, &Limiter::shared("a bucket", &limits(2))));
    assert!(!Arc::ptr_eq(&first, &Limiter::shared("another", &limits(1))));
}
