//! The work queue of controllers: a key is handed out to one worker at a time, and a key added while it is worked on is
//! handed out again afterwards. Failed keys come back later and later.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// First delay after a failure; doubles with each one (upstream's item exponential failure rate limiter).
const FIRST_RETRY: Duration = Duration::from_millis(5);
/// The longest delay after failures.
const LAST_RETRY: Duration = Duration::from_secs(1000);

/// No delay is longer: what is to be done in a year (the time of an object may say so) is looked at sooner and put off again.
const LONGEST_DELAY: Duration = Duration::from_secs(24 * 3600);

/// A queue of keys. Clones share it.
pub struct WorkQueue<K> {
    inner: Arc<Inner<K>>,
}

struct Inner<K> {
    state: Mutex<State<K>>,
    ready: Notify,
}

struct State<K> {
    waiting: VecDeque<K>,
    dirty: HashSet<K>,
    working: HashSet<K>,
    failures: HashMap<K, u32>,
    /// When the key's timer rings: one timer a key, the earliest.
    timers: HashMap<K, Instant>,
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        WorkQueue { inner: self.inner.clone() }
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> Default for WorkQueue<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> WorkQueue<K> {
    /// An empty queue.
    pub fn new() -> Self {
        let state = State {
            waiting: VecDeque::new(),
            dirty: HashSet::new(),
            working: HashSet::new(),
            failures: HashMap::new(),
            timers: HashMap::new(),
        };
        WorkQueue { inner: Arc::new(Inner { state: Mutex::new(state), ready: Notify::new() }) }
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a key unless it waits already.
    pub fn add(&self, key: K) {
        let mut state = self.state();
        if !state.dirty.insert(key.clone()) || state.working.contains(&key) {
            return;
        }
        state.waiting.push_back(key);
        drop(state);
        self.inner.ready.notify_one();
    }

    /// Adds a key after a delay. Of several delays of one key the one that ends first counts.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let rings_at = Instant::now() + delay.min(LONGEST_DELAY);
        {
            let mut state = self.state();
            if state.timers.get(&key).is_some_and(|earlier| *earlier <= rings_at) {
                return;
            }
            state.timers.insert(key.clone(), rings_at);
        }
        let weak = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            tokio::time::sleep_until(rings_at).await;
            if let Some(inner) = weak.upgrade() {
                WorkQueue { inner }.rang(key, rings_at);
            }
        });
    }

    /// A timer that an earlier one replaced has nothing to say.
    fn rang(&self, key: K, rings_at: Instant) {
        let current = {
            let mut state = self.state();
            let current = state.timers.get(&key) == Some(&rings_at);
            if current {
                state.timers.remove(&key);
            }
            current
        };
        if current {
            self.add(key);
        }
    }

    /// Adds a key after a delay that doubles with each failure since the last [`WorkQueue::forget`].
    pub fn retry(&self, key: K) {
        let failures = {
            let mut state = self.state();
            let count = state.failures.entry(key.clone()).or_default();
            *count = count.saturating_add(1);
            *count
        };
        let delay =
            FIRST_RETRY.saturating_mul(1u32.checked_shl(failures - 1).unwrap_or(u32::MAX)).min(LAST_RETRY);
        self.add_after(key, delay);
    }

    /// The key's failures are over.
    pub fn forget(&self, key: &K) {
        self.state().failures.remove(key);
    }

    /// How often the key failed in a row.
    pub fn failures(&self, key: &K) -> u32 {
        self.state().failures.get(key).copied().unwrap_or_default()
    }

    /// How many keys wait.
    pub fn len(&self) -> usize {
        self.state().waiting.len()
    }

    /// No key waits?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the next key; the caller says [`WorkQueue::done`] when it is through with it.
    pub async fn next(&self) -> K {
        loop {
            let notified = self.inner.ready.notified();
            if let Some(key) = self.take() {
                return key;
            }
            notified.await;
        }
    }

    fn take(&self) -> Option<K> {
        let mut state = self.state();
        let key = state.waiting.pop_front()?;
        state.dirty.remove(&key);
        state.working.insert(key.clone());
        if !state.waiting.is_empty() {
            self.inner.ready.notify_one();
        }
        Some(key)
    }

    /// The work on a key is over; it goes back into the queue if it was added meanwhile.
    pub fn done(&self, key: &K) {
        let mut state = self.state();
        state.working.remove(key);
        if state.dirty.contains(key) {
            state.waiting.push_back(key.clone());
            drop(state);
            self.inner.ready.notify_one();
        }
    }

    /// Runs `workers` workers until `stop`: each takes a key, calls `reconcile`, and retries it with back-off on an error.
    /// `Ok(Some(delay))` asks to be called again after that time.
    pub async fn run<F, Fut, E>(&self, workers: usize, stop: CancellationToken, reconcile: F)
    where
        F: Fn(K) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<Duration>, E>> + Send,
        E: std::fmt::Display + Send,
        K: std::fmt::Debug + Sync,
    {
        let worker = || async {
            loop {
                let key = tokio::select! {
                    () = stop.cancelled() => return,
                    key = self.next() => key,
                };
                match reconcile(key.clone()).await {
                    Ok(again) => {
                        self.forget(&key);
                        if let Some(delay) = again {
                            self.add_after(key.clone(), delay);
                        }
                    }
                    Err(error) => {
                        tracing::debug!(?key, %error, "will be tried again");
                        self.retry(key.clone());
                    }
                }
                self.done(&key);
            }
        };
        futures::future::join_all((0..workers.max(1)).map(|_| worker())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_added_while_worked_on_comes_again_once() {
        let queue = WorkQueue::new();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        queue.add("a");
        assert!(queue.is_empty());
        queue.done(&"a");
        assert_eq!(queue.next().await, "a");
        queue.done(&"a");
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_timer_of_a_key_counts() {
        let (queue, start) = (WorkQueue::new(), tokio::time::Instant::now());
        for seconds in [50, 20, 30] {
            queue.add_after("a", Duration::from_secs(seconds));
        }
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed().as_secs(), 20);
        queue.done(&"a");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(queue.is_empty(), "the others came to nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn no_delay_is_too_long_to_be_said() {
        let queue = WorkQueue::new();
        queue.add_after("a", Duration::MAX);
        assert_eq!(queue.next().await, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn retries_wait_longer_each_time() {
        let queue = WorkQueue::new();
        for expected in [5, 10, 20] {
            let start = tokio::time::Instant::now();
            queue.retry("a");
            queue.next().await;
            assert_eq!(start.elapsed().as_millis(), expected);
            queue.done(&"a");
        }
        queue.forget(&"a");
        assert_eq!(queue.failures(&"a"), 0);
    }
}
