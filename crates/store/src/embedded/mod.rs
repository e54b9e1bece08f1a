//! The embedded store: memory for reads and watches, one writer thread, SQLite for what must survive.
//!
//! ```text
//! txn ──► bounded queue ──► writer thread: take all waiting ─► check against index + what this batch already did
//!                                          ─► one SQLite transaction, one sync ─► publish ─► answer
//! get, list ──► State (index + history) behind a lock that is never held during a sync
//! watch ──► Group (events of one prefix, shared by its watchers), each watcher a cursor
//! ```

mod batch;
mod disk;
mod groups;
mod history;
mod leases;
mod reserve;
mod state;
mod writer;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{Semaphore, oneshot};

use crate::{
    Clock, Committed, Entry, LeaseId, ListQuery, ListResult, MonotonicClock, Revision, Stats, Store,
    StoreError, SyncLatency, Txn, Watcher,
};
use groups::Groups;
use history::Limits;
use state::State;
use writer::{Command, Request, Writer};

/// Transactions that may wait for the writer; more callers wait for a place.
const QUEUE_REQUESTS: usize = 1024;

/// Kept events, whatever their size.
const HISTORY_EVENTS: usize = 50_000;

/// Bytes of replaced and deleted values that the history may keep alive.
const HISTORY_BYTES: usize = 32 * 1024 * 1024;

/// Age after which an event may be forgotten: as long as upstream keeps between two compactions.
const HISTORY_AGE: Duration = Duration::from_secs(300);

/// Upper bounds of the buckets of [`SyncLatency`].
const LATENCY_BOUNDS_US: [u64; 12] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000];

/// How to open an [`Embedded`] store.
#[derive(Clone)]
pub struct Options {
    /// Directory of the store's files; made (mode 0700) when absent.
    pub dir: PathBuf,
    /// Time for leases and for the history's age.
    pub clock: Arc<dyn Clock>,
    /// Most kept events.
    pub history_events: usize,
    /// Most bytes of replaced values that the kept events hold.
    pub history_bytes: usize,
    /// How long events are kept.
    pub history_age: Duration,
}

impl Options {
    /// The store in `dir` with the usual bounds.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            clock: Arc::new(MonotonicClock::new()),
            history_events: HISTORY_EVENTS,
            history_bytes: HISTORY_BYTES,
            history_age: HISTORY_AGE,
        }
    }

    fn limits(&self) -> Limits {
        Limits { events: self.history_events, bytes: self.history_bytes, age: self.history_age }
    }
}

/// What readers, watchers and the writer share.
struct Shared {
    state: RwLock<State>,
    groups: Groups,
    /// The state's revision, readable without its lock; stored after the groups have the events.
    published: AtomicU64,
    counters: Mutex<Counters>,
    closed: AtomicBool,
}

#[derive(Default)]
struct Counters {
    transactions: u64,
    batches: u64,
    failed_batches: u64,
    leases: u64,
    latency_counts: [u64; LATENCY_BOUNDS_US.len()],
    latency_slower: u64,
    latency_total: Duration,
}

impl Counters {
    fn batch_synced(&mut self, took: Duration, transactions: usize) {
        self.batches += 1;
        self.transactions += transactions as u64;
        self.latency_total += took;
        let bucket = LATENCY_BOUNDS_US.iter().position(|us| took <= Duration::from_micros(*us));
        match bucket {
            Some(at) => self.latency_counts[at] += 1,
            None => self.latency_slower += 1,
        }
    }

    fn latency(&self) -> SyncLatency {
        let bounds = LATENCY_BOUNDS_US.iter().map(|us| Duration::from_micros(*us));
        SyncLatency {
            buckets: bounds.zip(self.latency_counts).collect(),
            slower: self.latency_slower,
            total: self.latency_total,
        }
    }
}

// A panic while a lock is held cannot leave these structures half changed in a way that later readers notice less than
// a poisoned lock would cost them: the writer thread is the only one that changes them, and it ends when it panics.
impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn counters(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_open(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Acquire) { Err(StoreError::Closed) } else { Ok(()) }
    }

    /// Ends all watches after what they still have to read.
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.groups.close();
    }
}

/// The store of `corten up`: one process, one directory.
pub struct Embedded {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    /// Bounds `requests`; a channel with its own bound would block the async callers' threads.
    places: Arc<Semaphore>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Embedded {
    /// Opens or creates the store and reads it into memory. Blocks for as long as the disk needs.
    ///
    /// Errors: `Locked`, `Corrupt`, `StorageFull`, `Io`.
    pub fn open(options: Options) -> Result<Self, StoreError> {
        let (requests, queue) = mpsc::channel();
        let (writer, shared) = Writer::open(&options, queue)?;
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run())
            .map_err(|e| StoreError::Io(format!("cannot start the writer thread: {e}")))?;
        let places = Arc::new(Semaphore::new(QUEUE_REQUESTS));
        Ok(Self { shared, requests, places, writer: Mutex::new(Some(thread)) })
    }

    /// Lets the writer look at the clock now instead of when the real time of the next deadline has passed. For
    /// tests that hold the clock.
    ///
    /// Errors: `Closed`.
    pub async fn tick(&self) -> Result<(), StoreError> {
        self.ask(|reply| Command::Tick { reply }).await
    }

    /// Hands a command to the writer and waits for its answer.
    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, StoreError> {
        self.shared.check_open()?;
        let place = self.places.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let request = Request { command: command(reply), place: Some(place) };
        self.requests.send(request).map_err(|_| StoreError::Closed)?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        let (reply, _) = oneshot::channel();
        let request = Request { command: Command::Close { reply }, place: None };
        // An error means that the writer has ended already.
        let _ = self.requests.send(request);
        let thread = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the store's writer thread panicked");
        }
    }
}

#[async_trait]
impl Store for Embedded {
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<Option<Arc<Entry>>, StoreError> {
        self.shared.check_open()?;
        self.shared.read().get(key, at)
    }

    async fn list(&self, query: &ListQuery) -> Result<ListResult, StoreError> {
        self.shared.check_open()?;
        self.shared.read().list(query)
    }

    async fn txn(&self, txn: Txn) -> Result<Committed, StoreError> {
        batch::check_shape(&txn)?;
        // Here and not in the writer thread, which everybody waits for.
        let txn = batch::detached(txn);
        self.ask(|reply| Command::Txn { txn, reply }).await
    }

    async fn watch(&self, prefix: &str, after: Option<Revision>) -> Result<Watcher, StoreError> {
        self.shared.check_open()?;
        Ok(Box::new(groups::Cursor::start(&self.shared, prefix, after)?))
    }

    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.shared.check_open()?;
        Ok(self.shared.published.load(Ordering::Acquire))
    }

    async fn compact_revision(&self) -> Result<Revision, StoreError> {
        self.shared.check_open()?;
        Ok(self.shared.read().compact_revision())
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.ask(|reply| Command::Compact { revision, reply }).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.ask(|reply| Command::LeaseGrant { ttl, reply }).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<(), StoreError> {
        self.ask(|reply| Command::LeaseKeepAlive { id, reply }).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        self.ask(|reply| Command::LeaseRevoke { id, reply }).await
    }

    fn stats(&self) -> Stats {
        let mut stats = self.shared.read().stats();
        let counters = self.shared.counters();
        stats.watchers = self.shared.groups.watchers();
        stats.leases = counters.leases;
        stats.transactions = counters.transactions;
        stats.batches = counters.batches;
        stats.failed_batches = counters.failed_batches;
        stats.sync_latency = counters.latency();
        stats
    }

    async fn close(&self) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        let request = Request { command: Command::Close { reply }, place: None };
        self.requests.send(request).map_err(|_| StoreError::Closed)?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }
}
