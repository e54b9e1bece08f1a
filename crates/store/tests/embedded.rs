//! What only the embedded store promises: it comes back as it was, stays within its bounds and holds nobody up.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use corten_store::{Clock, Embedded, ListQuery, Options, Revision, Store, StoreError, Txn, Watch};

fn open(dir: &Path) -> Embedded {
    Embedded::open(Options::new(dir)).unwrap()
}

async fn put(store: &Embedded, key: &str, value: &str) -> Revision {
    store.txn(Txn::default().put(key, value.to_owned())).await.unwrap().revision
}

#[derive(Default)]
struct HeldClock(AtomicU64);

impl HeldClock {
    fn advance(&self, secs: u64) {
        self.0.fetch_add(secs, Ordering::SeqCst);
    }
}

impl Clock for HeldClock {
    fn now(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

#[tokio::test]
async fn everything_comes_back_history_included() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let first = put(&store, "/r/a", "1").await;
    put(&store, "/r/a", "2").await;
    put(&store, "/r/empty", "").await;
    put(&store, "/r/gone", "x").await;
    let last = store.txn(Txn::default().remove("/r/gone")).await.unwrap().revision;
    let before = store.list(&ListQuery::default()).await.unwrap();
    let mut watcher = store.watch("", Some(first)).await.unwrap();
    let events = watcher.next().await.unwrap();
    drop((store, watcher));

    let store = open(dir.path());
    assert_eq!(store.list(&ListQuery::default()).await.unwrap(), before);
    assert_eq!(store.current_revision().await.unwrap(), last);
    let mut watcher = store.watch("", Some(first)).await.unwrap();
    assert_eq!(watcher.next().await.unwrap(), events);
    assert_eq!(&store.get("/r/a", Some(first)).await.unwrap().unwrap().value[..], b"1");
    assert_eq!(put(&store, "/r/a", "3").await, last + 1);
}

#[tokio::test]
async fn the_revision_never_goes_back_when_the_last_rows_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, "/x", "").await;
    let last = store.txn(Txn::default().remove("/x")).await.unwrap().revision;
    store.compact(last).await.unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.current_revision().await.unwrap(), last);
    assert_eq!(store.compact_revision().await.unwrap(), last);
    assert_eq!(store.stats().keys, 0);
}

#[tokio::test]
async fn only_one_process_has_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let second = Embedded::open(Options::new(dir.path())).err().unwrap();
    let pid = format!("pid {}", std::process::id());
    assert!(matches!(second, StoreError::Locked { ref holder, .. } if *holder == pid), "{second}");
    store.close().await.unwrap();
    open(dir.path());
}

#[tokio::test]
async fn a_strange_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("store.db"), vec![b'x'; 8192]).unwrap();
    assert!(matches!(Embedded::open(Options::new(dir.path())), Err(StoreError::Corrupt(_))));
}

#[tokio::test]
async fn a_slow_watcher_lags_and_a_quiet_one_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(Options { history_events: 10, ..Options::new(dir.path()) }).unwrap();
    let start = put(&store, "/slow/x", "0").await;
    let mut slow = store.watch("/slow/", None).await.unwrap();
    let mut quiet = store.watch("/quiet/", None).await.unwrap();
    for n in 1..=11 {
        put(&store, "/slow/x", &n.to_string()).await;
    }
    let lagged = slow.next().await.unwrap_err();
    let StoreError::Lagged { progress, compact_revision } = lagged else { panic!("{lagged}") };
    assert_eq!((progress, compact_revision), (start, start + 1));
    let event = put(&store, "/quiet/x", "").await;
    assert_eq!(quiet.next().await.unwrap()[0].revision, event);
    let mut again = store.watch("/slow/", Some(store.compact_revision().await.unwrap())).await.unwrap();
    assert_eq!(again.next().await.unwrap().len(), 9);
}

#[tokio::test]
async fn a_watch_that_is_waited_for_in_pieces_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut watcher = store.watch("/", None).await.unwrap();
    for n in 0..50 {
        let revision = put(&store, "/x", &n.to_string()).await;
        // Polled once and dropped, as a select! does.
        let polled = futures_poll_once(&mut *watcher).await;
        let events = match polled {
            Some(events) => events,
            None => watcher.next().await.unwrap(),
        };
        assert_eq!(events.iter().map(|e| e.revision).collect::<Vec<_>>(), [revision]);
        assert!(futures_poll_once(&mut *watcher).await.is_none());
    }
}

async fn futures_poll_once(watcher: &mut dyn Watch) -> Option<Vec<Arc<corten_store::Event>>> {
    tokio::select! {
        biased;
        events = watcher.next() => Some(events.unwrap()),
        () = std::future::ready(()) => None,
    }
}

#[tokio::test]
async fn leases_expire_by_the_given_clock_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(HeldClock::default());
    let options = Options { clock: clock.clone(), ..Options::new(dir.path()) };
    let store = Embedded::open(options.clone()).unwrap();
    let lease = store.lease_grant(Duration::from_secs(10)).await.unwrap();
    store.txn(Txn::create("/l/x", "").with_lease(lease)).await.unwrap();
    clock.advance(9);
    store.lease_keep_alive(lease).await.unwrap();
    clock.advance(9);
    store.tick().await.unwrap();
    assert_eq!((store.stats().keys, store.stats().leases), (1, 1));
    drop(store);

    let store = Embedded::open(options.clone()).unwrap();
    clock.advance(9);
    store.tick().await.unwrap();
    assert_eq!((store.stats().keys, store.stats().leases), (1, 1));
    let mut watcher = store.watch("/l/", None).await.unwrap();
    clock.advance(1);
    store.tick().await.unwrap();
    assert_eq!(watcher.next().await.unwrap()[0].entry, None);
    assert_eq!((store.stats().keys, store.stats().leases), (0, 0));
    drop((store, watcher));

    let store = Embedded::open(options).unwrap();
    assert_eq!((store.stats().keys, store.stats().leases), (0, 0));
    assert!(store.lease_grant(Duration::from_secs(1)).await.unwrap() > lease);
}

#[tokio::test]
async fn a_lease_expires_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut watcher = store.watch("/l/", None).await.unwrap();
    let lease = store.lease_grant(Duration::from_millis(30)).await.unwrap();
    // It may be gone before the write.
    match store.txn(Txn::create("/l/x", "").with_lease(lease)).await {
        Ok(_) => {
            let mut events = watcher.next().await.unwrap();
            if events.len() == 1 {
                events.extend(watcher.next().await.unwrap());
            }
            assert_eq!(events[1].entry, None);
        }
        Err(error) => assert!(matches!(error, StoreError::LeaseNotFound(_)), "{error}"),
    }
}

#[tokio::test]
async fn waiting_transactions_share_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(dir.path()));
    let writes = (0..500).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { store.txn(Txn::create(format!("/g/{n}"), "x")).await.unwrap().revision })
    });
    let mut revisions = Vec::new();
    for write in writes.collect::<Vec<_>>() {
        revisions.push(write.await.unwrap());
    }
    revisions.sort_unstable();
    revisions.dedup();
    let stats = store.stats();
    assert_eq!((revisions.len(), stats.transactions, stats.keys), (500, 500, 500));
    assert!(stats.batches < 250, "{} syncs for 500 transactions", stats.batches);
    let latency = stats.sync_latency;
    assert_eq!(latency.buckets.iter().map(|(_, n)| n).sum::<u64>() + latency.slower, stats.batches);
}

#[tokio::test]
async fn the_file_stays_near_the_live_data() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { history_events: 200, ..Options::new(dir.path()) };
    let store = Arc::new(Embedded::open(options).unwrap());
    let value = "v".repeat(2000);
    for _ in 0..60 {
        let writes = (0..200).map(|n| {
            let (store, value) = (store.clone(), value.clone());
            tokio::spawn(
                async move { store.txn(Txn::default().put(format!("/f/{n}"), value)).await.unwrap() },
            )
        });
        for write in writes.collect::<Vec<_>>() {
            write.await.unwrap();
        }
    }
    let stats = store.stats();
    assert_eq!((stats.keys, stats.history_events), (200, 200));
    assert!(stats.history_bytes < 500_000, "{stats:?}");
    store.close().await.unwrap();
    // 12,000 writes of 2 KB; 200 live ones, 200 in history, and at most two trims' worth waiting.
    let bytes = std::fs::metadata(dir.path().join("store.db")).unwrap().len();
    assert!(bytes < 8_000_000, "{bytes}");
}

#[tokio::test]
async fn compaction_leaves_only_live_rows_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..5 {
        put(&store, "/c/kept", &n.to_string()).await;
    }
    put(&store, "/c/gone", "").await;
    let last = store.txn(Txn::default().remove("/c/gone")).await.unwrap().revision;
    store.compact(last).await.unwrap();
    store.close().await.unwrap();
    let file = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    let keys: String = file.query_row("SELECT group_concat(key) FROM log", [], |row| row.get(0)).unwrap();
    assert_eq!(keys, "/c/kept");
}

#[tokio::test]
async fn a_view_shows_what_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, "/v/a", "1").await;
    let revision = put(&store, "/v/a", "2").await;
    put(&store, "/v/b", "1").await;
    store.txn(Txn::default().remove("/v/b")).await.unwrap();
    store.close().await.unwrap();
    let file = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    let mut query = file.prepare("SELECT key, mod_revision, value FROM current").unwrap();
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    let rows: Vec<(String, i64, String)> = rows.map(Result::unwrap).collect();
    assert_eq!(rows, [("/v/a".into(), i64::try_from(revision).unwrap(), "2".into())]);
}
