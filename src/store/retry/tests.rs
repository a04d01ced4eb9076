use std::collections::VecDeque;
use std::sync::Mutex;

use futures_util::FutureExt;

use super::*;
use crate::store::memory::MemoryStore;

/// A clock that only moves by sleeping on it, which takes no time, and full jitter that is always the whole wait.
#[derive(Default)]
struct TestPace(Mutex<Duration>);

#[async_trait]
impl Pace for TestPace {
    fn now(&self) -> Duration {
        *self.0.lock().unwrap()
    }
    async fn sleep(&self, time: Duration) {
        *self.0.lock().unwrap() += time;
    }
    fn random(&self) -> f64 {
        1.0
    }
}

/// What happens to the next request, whatever it is.
#[derive(Debug, Clone)]
enum Fault {
    Pass,
    Before(Option<Duration>),
    /// Carried out, but the answer is lost.
    After,
    Denied,
    Hang,
}

/// A memory store with a script of faults.
#[derive(Debug)]
struct Scripted {
    memory: MemoryStore,
    script: Mutex<VecDeque<Fault>>,
    tries: Mutex<usize>,
}

impl Scripted {
    fn new(script: impl IntoIterator<Item = Fault>) -> Arc<Scripted> {
        let script = Mutex::new(script.into_iter().collect());
        Arc::new(Scripted { memory: MemoryStore::new(), script, tries: Mutex::default() })
    }

    async fn through<T>(&self, carried_out: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        *self.tries.lock().unwrap() += 1;
        let fault = self.script.lock().unwrap().pop_front().unwrap_or(Fault::Pass);
        let error = |outcome| StoreError::new(outcome, "put", "k", "scripted");
        match fault {
            Fault::Pass => carried_out.await,
            Fault::Before(retry_after) => Err(StoreError { retry_after, ..error(Outcome::Unavailable) }),
            Fault::After => carried_out.await.and(Err(error(Outcome::Unavailable))),
            Fault::Denied => Err(error(Outcome::Denied)),
            Fault::Hang => std::future::pending().await,
        }
    }

    fn tries(&self) -> usize {
        *self.tries.lock().unwrap()
    }
}

#[async_trait]
impl Store for Scripted {
    async fn put(&self, key: &Key, body: Body, mode: PutMode) -> Result<(), StoreError> {
        self.through(self.memory.put(key, body, mode)).await
    }
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        self.through(self.memory.get(key, range)).await
    }
    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>, StoreError> {
        self.through(self.memory.list(prefix, after)).await
    }
    async fn list_folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        self.through(self.memory.list_folders(folder)).await
    }
    async fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        self.through(self.memory.delete(keys)).await
    }
    fn describe(&self) -> String {
        "scripted".to_owned()
    }
}

const POLICY: RetryPolicy = RetryPolicy {
    max_tries: 4,
    first_delay: Duration::from_millis(100),
    max_delay: Duration::from_secs(10),
    max_total: Duration::from_secs(60),
    breaker_after: 100,
    breaker_pause: Duration::from_secs(15),
};

fn key() -> Key {
    Key::new("k").unwrap()
}

fn retrying(inner: &Arc<Scripted>, policy: RetryPolicy) -> Retrying {
    Retrying::new(inner.clone(), policy, Arc::new(TestPace::default()))
}

fn body(text: &'static str) -> Body {
    Body::Bytes(text.into())
}

/// The waits double, nothing but `Unavailable` is tried again, and the number of tries is bounded.
#[tokio::test]
async fn backs_off_and_gives_up() {
    let inner = Scripted::new(vec![Fault::Before(None); 9]);
    let store = retrying(&inner, POLICY);
    let error = store.get(&key(), None).await.unwrap_err();
    assert_eq!((error.outcome, inner.tries()), (Outcome::Unavailable, 4));
    assert_eq!(store.pace.now(), Duration::from_millis(100 + 200 + 400));
    assert_eq!(store.delay(31), POLICY.max_delay);

    let inner = Scripted::new([Fault::Denied]);
    assert_eq!(retrying(&inner, POLICY).get(&key(), None).await.unwrap_err().outcome, Outcome::Denied);
    assert_eq!(inner.tries(), 1);
}

/// What the store asks to wait is waited; when that is longer than the time left, the caller is told instead.
#[tokio::test]
async fn honours_retry_after() {
    let inner = Scripted::new([Fault::Before(Some(Duration::from_secs(20))), Fault::Pass]);
    let store = retrying(&inner, POLICY);
    store.list("", None).await.unwrap();
    assert_eq!(store.pace.now(), Duration::from_secs(20));

    let inner = Scripted::new([Fault::Before(Some(Duration::from_secs(90)))]);
    let error = retrying(&inner, POLICY).list("", None).await.unwrap_err();
    assert_eq!((error.retry_after, inner.tries()), (Some(Duration::from_secs(90)), 1));
}

/// loss 13: a create that was carried out although its answer was lost is success, and only then.
#[tokio::test]
async fn loss_13_lost_response_to_a_create() {
    let inner = Scripted::new([Fault::After, Fault::Pass, Fault::Before(None)]);
    retrying(&inner, POLICY).put(&key(), body("mine"), PutMode::Create).await.unwrap();
    assert_eq!(inner.memory.get(&key(), None).await.unwrap(), "mine");

    // Somebody else won while our first try was lost on its way: that is no success.
    let inner = Scripted::new([Fault::Before(None)]);
    inner.memory.put(&key(), body("them"), PutMode::Create).await.unwrap();
    let error = retrying(&inner, POLICY).put(&key(), body("mine"), PutMode::Create).await.unwrap_err();
    assert_eq!(error.outcome, Outcome::AlreadyExists);

    // The first try was answered: the name was taken before us, whatever it holds.
    let inner = Scripted::new([]);
    inner.memory.put(&key(), body("mine"), PutMode::Create).await.unwrap();
    let error = retrying(&inner, POLICY).put(&key(), body("mine"), PutMode::Create).await.unwrap_err();
    assert_eq!((error.outcome, inner.tries()), (Outcome::AlreadyExists, 1));
}

/// The breaker opens after so many unanswered tries, lets one through after the pause, and closes when it is answered.
#[tokio::test]
async fn the_breaker_spares_a_dead_store() {
    let policy = RetryPolicy { max_tries: 1, breaker_after: 3, max_total: Duration::from_secs(5), ..POLICY };
    let inner = Scripted::new(vec![Fault::Before(None); 4]);
    let store = retrying(&inner, policy);
    for _ in 0..3 {
        store.list("", None).await.unwrap_err();
    }
    for _ in 0..10 {
        let error = store.list("", None).await.unwrap_err();
        assert!(error.is_retryable() && error.retry_after.is_some(), "{error}");
    }
    assert_eq!(inner.tries(), 3);
    store.pace.sleep(policy.breaker_pause).await;
    store.list("", None).await.unwrap_err();
    store.list("", None).await.unwrap_err();
    assert_eq!(inner.tries(), 4);
    store.pace.sleep(policy.breaker_pause).await;
    store.list("", None).await.unwrap();
    store.list("", None).await.unwrap();
    assert_eq!(inner.tries(), 6);
}

/// A request waits for the breaker where its time allows, and a probe that is dropped does not block the others.
#[tokio::test]
async fn waiting_for_the_breaker_and_a_dropped_probe() {
    let policy = RetryPolicy { max_tries: 3, breaker_after: 1, ..POLICY };
    let inner = Scripted::new([Fault::Before(None), Fault::Hang]);
    let store = retrying(&inner, policy);
    // The first try fails, the second is the probe after the pause; it hangs and its caller goes away.
    assert!(store.list("", None).now_or_never().is_none());
    assert_eq!(inner.tries(), 2);
    store.list("", None).await.unwrap();
    assert_eq!(inner.tries(), 3);
}
