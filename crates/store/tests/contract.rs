//! What every back end of the store must do, whatever it is made of. A back end is one row at the end of this file.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use corten_store::{
    Entry, Event, EventKind, ListQuery, MAX_KEY_BYTES, MAX_TXN_OPS, MAX_VALUE_BYTES, Revision, Store,
    StoreError, Txn, Watcher,
};

async fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    store.txn(Txn::default().put(key, value.to_owned())).await.unwrap().revision
}

async fn value(store: &dyn Store, key: &str, at: Option<Revision>) -> Option<String> {
    store.get(key, at).await.unwrap().map(|e| text(&e))
}

fn text(entry: &Entry) -> String {
    String::from_utf8(entry.value.to_vec()).unwrap()
}

fn query(prefix: &str) -> ListQuery {
    ListQuery { prefix: prefix.into(), ..ListQuery::default() }
}

async fn keys(store: &dyn Store, query: &ListQuery) -> Vec<String> {
    store.list(query).await.unwrap().entries.iter().map(|e| e.key.to_string()).collect()
}

/// Reads at least `count` events.
async fn read(watcher: &mut Watcher, count: usize) -> Vec<Arc<Event>> {
    let mut events = Vec::new();
    while events.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(120), watcher.next());
        events.extend(next.await.expect("events within 20 s").unwrap());
    }
    events
}

async fn cas_create_update_delete(store: Arc<dyn Store>) {
    let created = store.txn(Txn::create("/a/x", "1")).await.unwrap();
    let entry = created.entries[0].clone().unwrap();
    let revision = created.revision;
    assert_eq!((entry.create_revision, entry.mod_revision, entry.version), (revision, revision, 1));
    assert_eq!(created.previous, vec![None]);
    assert_eq!(store.get("/a/x", None).await.unwrap(), Some(entry.clone()));

    let again = store.txn(Txn::create("/a/x", "2")).await.unwrap_err();
    assert!(matches!(again, StoreError::Conflict { current: Some(ref e), .. } if **e == *entry), "{again}");

    let updated = store.txn(Txn::update("/a/x", "2", revision)).await.unwrap();
    let second = updated.entries[0].clone().unwrap();
    assert_eq!(
        (second.create_revision, second.mod_revision, second.version),
        (revision, updated.revision, 2)
    );
    assert_eq!(updated.previous, vec![Some(entry)]);

    let stale = store.txn(Txn::delete("/a/x", revision)).await.unwrap_err();
    assert!(matches!(stale, StoreError::Conflict { current: Some(ref e), .. } if **e == *second), "{stale}");
    let deleted = store.txn(Txn::delete("/a/x", updated.revision)).await.unwrap();
    assert_eq!((deleted.entries, deleted.previous), (vec![None], vec![Some(second)]));
    assert_eq!(store.get("/a/x", None).await.unwrap(), None);

    let gone = store.txn(Txn::update("/a/x", "3", updated.revision)).await.unwrap_err();
    assert!(matches!(gone, StoreError::Conflict { current: None, .. }), "{gone}");
    let reborn = store.txn(Txn::create("/a/x", "3")).await.unwrap();
    let third = reborn.entries[0].clone().unwrap();
    assert_eq!((third.create_revision, third.version), (reborn.revision, 1));
}

async fn a_transaction_is_all_or_nothing_at_one_revision(store: Arc<dyn Store>) {
    let old = put(&*store, "/t/old", "o").await;
    let txn = Txn::default().expect("/t/new", 0).expect("/t/old", old).put("/t/new", "n").remove("/t/old");
    let done = store.txn(txn.clone()).await.unwrap();
    assert_eq!(done.revision, old + 1);
    assert_eq!(value(&*store, "/t/new", None).await.as_deref(), Some("n"));
    assert_eq!(value(&*store, "/t/old", None).await, None);

    let refused = store.txn(txn).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { ref key, .. } if &**key == "/t/new"), "{refused}");
    assert_eq!(store.current_revision().await.unwrap(), done.revision);
}

async fn removing_what_is_absent_changes_nothing(store: Arc<dyn Store>) {
    let before = put(&*store, "/r/x", "1").await;
    let done = store.txn(Txn::default().remove("/r/absent")).await.unwrap();
    assert_eq!((done.revision, done.previous), (before, vec![None]));
    assert_eq!(store.current_revision().await.unwrap(), before);
}

async fn bad_transactions_are_refused(store: Arc<dyn Store>) {
    let before = store.current_revision().await.unwrap();
    let long = "k".repeat(MAX_KEY_BYTES + 1);
    let many = (0..=MAX_TXN_OPS).fold(Txn::default(), |txn, i| txn.put(format!("/b/{i}"), ""));
    let invalid = [
        Txn::default().put("", "x"),
        Txn::default().put(long, "x"),
        Txn::default().put("/b/x", "1").put("/b/x", "2"),
        Txn::default().put("/b/x", "1").remove("/b/x"),
        many,
    ];
    for txn in invalid {
        assert!(matches!(store.txn(txn).await, Err(StoreError::Invalid(_))));
    }
    let large = store.txn(Txn::default().put("/b/x", vec![0; MAX_VALUE_BYTES + 1])).await;
    assert!(matches!(large, Err(StoreError::ValueTooLarge { bytes, .. }) if bytes == MAX_VALUE_BYTES + 1));
    let unknown = store.txn(Txn::default().put("/b/x", "1").with_lease(987_654_321)).await;
    assert!(matches!(unknown, Err(StoreError::LeaseNotFound(987_654_321))));
    assert_eq!(store.current_revision().await.unwrap(), before);
    store.txn(Txn::default().put("/b/x", vec![0; MAX_VALUE_BYTES])).await.unwrap();
}

async fn values_are_bytes(store: Arc<dyn Store>) {
    for value in [&b""[..], &[0], &[0xff, 0, 0xfe], "Grüße".as_bytes()] {
        store.txn(Txn::default().put("/v/x", Bytes::copy_from_slice(value))).await.unwrap();
        assert_eq!(store.get("/v/x", None).await.unwrap().unwrap().value, value);
    }
}

async fn lists_are_pages_of_a_prefix(store: Arc<dyn Store>) {
    for key in ["/l/pods/a", "/l/pods/b", "/l/pods/c", "/l/podsother/a", "/l/p", "/l/q"] {
        put(&*store, key, key).await;
    }
    let revision = store.current_revision().await.unwrap();
    let all = store.list(&query("/l/pods/")).await.unwrap();
    assert_eq!((all.revision, all.remaining, all.more()), (revision, 0, false));
    assert_eq!(keys(&*store, &query("/l/pods/")).await, ["/l/pods/a", "/l/pods/b", "/l/pods/c"]);
    assert_eq!(keys(&*store, &query("/l/none/")).await, Vec::<String>::new());

    // (start after, limit, keys, remaining)
    type Case = (Option<&'static str>, usize, &'static [&'static str], u64);
    let cases: &[Case] = &[
        (None, 2, &["/l/pods/a", "/l/pods/b"], 1),
        (Some("/l/pods/b"), 2, &["/l/pods/c"], 0),
        (Some("/l/pods/b"), 0, &["/l/pods/c"], 0),
        (Some("/l/pods/aa"), 1, &["/l/pods/b"], 1),
        (Some("/l/pods/c"), 1, &[], 0),
        (Some("/a"), 1, &["/l/pods/a"], 2),
        (Some("/z"), 1, &[], 0),
    ];
    for (start_after, limit, expected, remaining) in cases {
        let query =
            ListQuery { start_after: start_after.map(Into::into), limit: *limit, ..query("/l/pods/") };
        for at in [None, Some(revision)] {
            let page = store.list(&ListQuery { at, ..query.clone() }).await.unwrap();
            let found: Vec<_> = page.entries.iter().map(|e| &*e.key).collect();
            assert_eq!((&*found, page.remaining), (*expected, *remaining), "{start_after:?} {limit} {at:?}");
        }
    }
}

async fn old_revisions_can_be_read(store: Arc<dyn Store>) {
    let one = put(&*store, "/o/a", "a1").await;
    let two = put(&*store, "/o/b", "b1").await;
    let three = put(&*store, "/o/a", "a2").await;
    let four = store.txn(Txn::default().remove("/o/b").put("/o/c", "c1")).await.unwrap().revision;
    let five = put(&*store, "/o/b", "b2").await;
    let expected: &[(Revision, &[&str])] = &[
        (one - 1, &[]),
        (one, &["a1"]),
        (two, &["a1", "b1"]),
        (three, &["a2", "b1"]),
        (four, &["a2", "c1"]),
        (five, &["a2", "b2", "c1"]),
    ];
    for (at, values) in expected {
        let list = store.list(&ListQuery { at: Some(*at), ..query("/o/") }).await.unwrap();
        assert_eq!(list.revision, *at);
        assert_eq!(list.entries.iter().map(|e| text(e)).collect::<Vec<_>>(), *values, "at {at}");
    }
    assert_eq!(value(&*store, "/o/b", Some(two)).await.as_deref(), Some("b1"));
    assert_eq!(value(&*store, "/o/b", Some(four)).await, None);
    assert_eq!(value(&*store, "/o/b", None).await.as_deref(), Some("b2"));
    // The second page shows the first one's revision, whatever happened in between.
    let page = store.list(&ListQuery { at: Some(two), limit: 1, ..query("/o/") }).await.unwrap();
    assert_eq!((page.entries.len(), page.remaining), (1, 1));
    let start_after = Some(page.entries[0].key.clone());
    let page = store.list(&ListQuery { at: Some(two), start_after, ..query("/o/") }).await.unwrap();
    assert_eq!(page.entries.iter().map(|e| text(e)).collect::<Vec<_>>(), ["b1"]);
}

async fn compaction_forgets(store: Arc<dyn Store>) {
    put(&*store, "/c/a", "1").await;
    let kept = put(&*store, "/c/a", "2").await;
    let last = put(&*store, "/c/a", "3").await;
    store.compact(kept).await.unwrap();
    store.compact(kept - 1).await.unwrap();
    assert_eq!(store.compact_revision().await.unwrap(), kept);
    assert_eq!(value(&*store, "/c/a", Some(kept)).await.as_deref(), Some("2"));
    let expired = |e: StoreError| matches!(e, StoreError::Compacted { compact_revision, .. } if compact_revision == kept);
    assert!(expired(store.get("/c/a", Some(kept - 1)).await.unwrap_err()));
    assert!(expired(store.list(&ListQuery { at: Some(kept - 1), ..query("/c/") }).await.unwrap_err()));
    assert!(expired(store.watch("/c/", Some(kept - 1)).await.err().unwrap()));
    let mut watcher = store.watch("/c/", Some(kept)).await.unwrap();
    assert_eq!(read(&mut watcher, 1).await[0].revision, last);

    let future =
        |e: StoreError| matches!(e, StoreError::Future { current_revision, .. } if current_revision == last);
    assert!(future(store.get("/c/a", Some(last + 1)).await.unwrap_err()));
    assert!(future(store.list(&ListQuery { at: Some(last + 1), ..query("/c/") }).await.unwrap_err()));
    assert!(future(store.watch("/c/", Some(last + 1)).await.err().unwrap()));
    assert!(future(store.compact(last + 1).await.unwrap_err()));
}

async fn watches_tell_every_change(store: Arc<dyn Store>) {
    let before = put(&*store, "/w/pods/old", "0").await;
    let mut all = store.watch("/w/", Some(before)).await.unwrap();
    let mut now = store.watch("/w/pods/", None).await.unwrap();
    let created = put(&*store, "/w/pods/a", "1").await;
    let updated = put(&*store, "/w/pods/a", "2").await;
    put(&*store, "/w/nodes/n", "n").await;
    let deleted = store.txn(Txn::default().remove("/w/pods/a").remove("/w/pods/old")).await.unwrap().revision;

    let events = read(&mut now, 4).await;
    let told: Vec<_> = events.iter().map(|e| (e.revision, &*e.key, e.kind())).collect();
    assert_eq!(
        told,
        [
            (created, "/w/pods/a", EventKind::Create),
            (updated, "/w/pods/a", EventKind::Update),
            (deleted, "/w/pods/a", EventKind::Delete),
            (deleted, "/w/pods/old", EventKind::Delete),
        ]
    );
    let values = |e: &Event| (e.entry.as_deref().map(text), e.previous.as_deref().map(text));
    let text = |s: &str| Some(s.to_owned());
    assert_eq!(values(&events[0]), (text("1"), None));
    assert_eq!(values(&events[1]), (text("2"), text("1")));
    assert_eq!(values(&events[2]), (None, text("2")));
    assert_eq!(events[2].previous.as_ref().unwrap().create_revision, created);

    assert_eq!(read(&mut all, 5).await.len(), 5);
    // The late one sees the same as the early one.
    let mut late = store.watch("/w/pods/", Some(before)).await.unwrap();
    assert_eq!(read(&mut late, 4).await, events);
}

async fn a_prefix_need_not_end_at_a_slash(store: Arc<dyn Store>) {
    let mut watcher = store.watch("/p/ab", None).await.unwrap();
    for key in ["/p/a", "/p/ab", "/p/abc", "/p/b"] {
        put(&*store, key, "").await;
    }
    let events = read(&mut watcher, 2).await;
    assert_eq!(events.iter().map(|e| &*e.key).collect::<Vec<_>>(), ["/p/ab", "/p/abc"]);
}

async fn progress_moves_on_a_quiet_prefix(store: Arc<dyn Store>) {
    let mut watcher = store.watch("/quiet/", None).await.unwrap();
    let noise = put(&*store, "/noise/x", "").await;
    assert_eq!(watcher.progress(), noise);
    let event = put(&*store, "/quiet/x", "").await;
    assert!(watcher.progress() < event);
    assert_eq!(read(&mut watcher, 1).await[0].revision, event);
    assert_eq!(watcher.progress(), event);
}

async fn concurrent_writers_lose_no_update(store: Arc<dyn Store>) {
    const WRITERS: usize = 8;
    const EACH: usize = 25;
    let start = put(&*store, "/n/counter", "0").await;
    let mut watcher = store.watch("/n/", Some(start)).await.unwrap();
    let writers = (0..WRITERS).map(|_| tokio::spawn(count_up(store.clone(), EACH)));
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!(value(&*store, "/n/counter", None).await, Some((WRITERS * EACH).to_string()));
    let events = read(&mut watcher, WRITERS * EACH).await;
    let values: Vec<_> = events.iter().map(|e| text(e.entry.as_ref().unwrap())).collect();
    assert_eq!(values, (1..=WRITERS * EACH).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(events.is_sorted_by(|a, b| a.revision < b.revision));
}

async fn count_up(store: Arc<dyn Store>, times: usize) {
    for _ in 0..times {
        let mut current = store.get("/n/counter", None).await.unwrap();
        loop {
            let entry = current.expect("nobody deletes it");
            let next = text(&entry).parse::<u64>().unwrap() + 1;
            match store.txn(Txn::update("/n/counter", next.to_string(), entry.mod_revision)).await {
                Ok(_) => break,
                Err(StoreError::Conflict { current: newer, .. }) => current = newer,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

async fn a_revoked_lease_takes_its_keys(store: Arc<dyn Store>) {
    let hour = Duration::from_secs(3600);
    let (one, two) = (store.lease_grant(hour).await.unwrap(), store.lease_grant(hour).await.unwrap());
    assert_ne!(one, two);
    for key in ["/e/a", "/e/b", "/e/freed", "/e/moved"] {
        store.txn(Txn::default().put(key, "").with_lease(one)).await.unwrap();
    }
    put(&*store, "/e/freed", "").await;
    store.txn(Txn::default().put("/e/moved", "").with_lease(two)).await.unwrap();
    store.lease_keep_alive(one).await.unwrap();
    let mut watcher = store.watch("/e/", None).await.unwrap();
    store.lease_revoke(one).await.unwrap();
    let events = read(&mut watcher, 2).await;
    let deleted: BTreeMap<_, _> = events.iter().map(|e| (&*e.key, e.kind())).collect();
    assert_eq!(deleted, BTreeMap::from([("/e/a", EventKind::Delete), ("/e/b", EventKind::Delete)]));
    assert_eq!(keys(&*store, &query("/e/")).await, ["/e/freed", "/e/moved"]);
    assert!(matches!(store.lease_keep_alive(one).await, Err(StoreError::LeaseNotFound(_))));
    assert!(matches!(store.lease_revoke(one).await, Err(StoreError::LeaseNotFound(_))));
}

async fn a_closed_store_says_so(store: Arc<dyn Store>) {
    let mut watcher = store.watch("/x/", None).await.unwrap();
    let last = put(&*store, "/x/a", "1").await;
    store.close().await.unwrap();
    assert_eq!(read(&mut watcher, 1).await[0].revision, last);
    assert!(matches!(watcher.next().await, Err(StoreError::Closed)));
    assert!(matches!(store.get("/x/a", None).await, Err(StoreError::Closed)));
    assert!(matches!(store.txn(Txn::default().put("/x/a", "2")).await, Err(StoreError::Closed)));
    assert!(matches!(store.watch("/x/", None).await, Err(StoreError::Closed)));
    assert!(matches!(store.close().await, Err(StoreError::Closed)));
}

/// Runs every case on a back end; `$open` makes an empty store and whatever must live as long as it.
macro_rules! contract {
    ($backend:ident, $open:expr, [$($case:ident),* $(,)?]) => {
        mod $backend {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let (store, _alive): (Arc<dyn Store>, _) = $open;
                    super::$case(store).await;
                }
            )*
        }
    };
}

macro_rules! all_cases {
    ($backend:ident, $open:expr) => {
        contract!(
            $backend,
            $open,
            [
                cas_create_update_delete,
                a_transaction_is_all_or_nothing_at_one_revision,
                removing_what_is_absent_changes_nothing,
                bad_transactions_are_refused,
                values_are_bytes,
                lists_are_pages_of_a_prefix,
                old_revisions_can_be_read,
                compaction_forgets,
                watches_tell_every_change,
                a_prefix_need_not_end_at_a_slash,
                progress_moves_on_a_quiet_prefix,
                concurrent_writers_lose_no_update,
                a_revoked_lease_takes_its_keys,
                a_closed_store_says_so,
            ]
        );
    };
}

all_cases!(embedded, {
    let dir = tempfile::tempdir().unwrap();
    (Arc::new(corten_store::Embedded::open(corten_store::Options::new(dir.path())).unwrap()), dir)
});
