//! Any sequence of operations gives what a list of snapshots gives.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeMap;

use corten_store::{Embedded, Event, ListQuery, Op, Options, Revision, Store, StoreError, Txn};
use proptest::prelude::*;

/// What a step does; numbers are reduced to what exists when the step is done.
#[derive(Clone, Debug)]
enum Step {
    /// Per key: put a value or delete; and whether its precondition is the right one (`None` = no precondition).
    Txn(BTreeMap<u8, (Option<u8>, Option<bool>)>),
    Compact(u8),
    Read {
        back: u8,
        start_after: Option<u8>,
        limit: u8,
    },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let change = (
        proptest::option::weighted(0.7, any::<u8>()),
        proptest::option::weighted(0.5, prop::bool::weighted(0.8)),
    );
    prop_oneof![
        8 => prop::collection::btree_map(0..6u8, change, 1..4).prop_map(Step::Txn),
        1 => any::<u8>().prop_map(Step::Compact),
        4 => (any::<u8>(), proptest::option::of(0..6u8), 0..4u8)
            .prop_map(|(back, start_after, limit)| Step::Read { back, start_after, limit }),
        1 => Just(Step::Reopen),
    ]
}

/// (value, create revision, mod revision, version) by key.
type Snapshot = BTreeMap<String, (String, Revision, Revision, u64)>;

struct Model {
    snapshots: BTreeMap<Revision, Snapshot>,
    compacted: Revision,
}

impl Model {
    fn last(&self) -> (Revision, &Snapshot) {
        let (revision, snapshot) = self.snapshots.last_key_value().unwrap();
        (*revision, snapshot)
    }

    /// The key whose precondition fails, else the new revision.
    fn txn(&mut self, txn: &Txn) -> Result<Revision, String> {
        let (revision, snapshot) = self.last();
        let mut next = snapshot.clone();
        for p in &txn.preconditions {
            if snapshot.get(&*p.key).map_or(0, |e| e.2) != p.mod_revision {
                return Err(p.key.to_string());
            }
        }
        let mut changed = false;
        for op in &txn.ops {
            match op {
                Op::Put { key, value, .. } => {
                    let (created, version) = snapshot.get(&**key).map_or((revision + 1, 0), |e| (e.1, e.3));
                    let value = String::from_utf8(value.to_vec()).unwrap();
                    next.insert(key.to_string(), (value, created, revision + 1, version + 1));
                    changed = true;
                }
                Op::Delete { key } => changed |= next.remove(&**key).is_some(),
            }
        }
        if !changed {
            return Ok(revision);
        }
        self.snapshots.insert(revision + 1, next);
        Ok(revision + 1)
    }
}

fn key(n: u8) -> String {
    format!("/m/{n}")
}

fn transaction(changes: &BTreeMap<u8, (Option<u8>, Option<bool>)>, now: &Snapshot) -> Txn {
    let mut txn = Txn::default();
    for (n, (value, precondition)) in changes {
        let key = key(*n);
        let at = now.get(&key).map_or(0, |e| e.2);
        if let Some(right) = precondition {
            txn = txn.expect(&*key, if *right { at } else { at + 1 });
        }
        txn = match value {
            Some(value) => txn.put(key, value.to_string()),
            None => txn.remove(key),
        };
    }
    txn
}

fn snapshot<'a>(entries: impl IntoIterator<Item = &'a corten_store::Entry>) -> Snapshot {
    let row = |e: &corten_store::Entry| {
        let value = String::from_utf8(e.value.to_vec()).unwrap();
        (e.key.to_string(), (value, e.create_revision, e.mod_revision, e.version))
    };
    entries.into_iter().map(row).collect()
}

async fn run(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new(dir.path());
    let mut store = Embedded::open(options.clone()).unwrap();
    let start = store.current_revision().await.unwrap();
    let mut model = Model { snapshots: BTreeMap::from([(start, Snapshot::new())]), compacted: 0 };
    for step in steps {
        match step {
            Step::Txn(changes) => {
                let txn = transaction(&changes, model.last().1);
                match (store.txn(txn.clone()).await, model.txn(&txn)) {
                    (Ok(done), Ok(revision)) => assert_eq!(done.revision, revision),
                    (Err(StoreError::Conflict { key, .. }), Err(expected)) => assert_eq!(*key, *expected),
                    (found, expected) => panic!("{found:?} is not {expected:?}"),
                }
            }
            Step::Compact(n) => {
                let (last, _) = model.last();
                let revision = start + Revision::from(n) % (last - start + 1);
                store.compact(revision).await.unwrap();
                model.compacted = model.compacted.max(revision);
            }
            Step::Read { back, start_after, limit } => {
                check_read(&store, &model, back, start_after, limit).await
            }
            Step::Reopen => {
                drop(store);
                store = Embedded::open(options.clone()).unwrap();
            }
        }
        check_now(&store, &model).await;
    }
    check_watch(&store, &model, start).await;
}

async fn check_now(store: &Embedded, model: &Model) {
    let (revision, expected) = model.last();
    let list = store.list(&ListQuery::default()).await.unwrap();
    assert_eq!((list.revision, list.remaining), (revision, 0));
    assert_eq!(&snapshot(list.entries.iter().map(|e| &**e)), expected);
    assert_eq!(store.compact_revision().await.unwrap(), model.compacted);
    let stats = store.stats();
    let bytes: usize = list.entries.iter().map(|e| e.key.len() + e.value.len()).sum();
    assert_eq!((stats.keys, stats.bytes, stats.revision), (expected.len() as u64, bytes as u64, revision));
}

async fn check_read(store: &Embedded, model: &Model, back: u8, start_after: Option<u8>, limit: u8) {
    let (first, (last, _)) = (*model.snapshots.first_key_value().unwrap().0, model.last());
    let at = last - Revision::from(back) % (last - first + 1);
    let start_after = start_after.map(key);
    let query = ListQuery {
        prefix: "/m/".into(),
        start_after: start_after.as_deref().map(Into::into),
        limit: limit.into(),
        at: Some(at),
    };
    let found = store.list(&query).await;
    if at < model.compacted {
        let compacted = StoreError::Compacted { asked: at, compact_revision: model.compacted };
        return assert_eq!(found.unwrap_err().to_string(), compacted.to_string());
    }
    let page = found.unwrap();
    let mut expected = model.snapshots[&at].clone();
    expected.retain(|key, _| start_after.as_ref().is_none_or(|after| key > after));
    let remaining = if limit == 0 { 0 } else { expected.len().saturating_sub(limit.into()) };
    let expected: Snapshot = expected.into_iter().take(if limit == 0 { 99 } else { limit.into() }).collect();
    assert_eq!((page.revision, page.remaining), (at, remaining as u64));
    assert_eq!(snapshot(page.entries.iter().map(|e| &**e)), expected);
    let one = store.get(&key(0), Some(at)).await.unwrap();
    assert_eq!(snapshot(one.as_deref()).get(&key(0)), model.snapshots[&at].get(&key(0)));
}

/// Playing the watched events on the oldest snapshot gives every later one.
async fn check_watch(store: &Embedded, model: &Model, start: Revision) {
    let from = model.compacted.max(start);
    let (last, _) = model.last();
    let mut watcher = store.watch("", Some(from)).await.unwrap();
    let mut now = model.snapshots[&from].clone();
    let mut at = from;
    while at < last {
        for event in watcher.next().await.unwrap() {
            if event.revision != at {
                assert_eq!((event.revision, &now), (at + 1, &model.snapshots[&at]));
                at = event.revision;
            }
            play(&mut now, &event);
        }
    }
    assert_eq!(now, model.snapshots[&last]);
    assert_eq!(watcher.progress(), last);
}

fn play(now: &mut Snapshot, event: &Event) {
    let previous = snapshot(event.previous.as_deref());
    assert_eq!(now.remove(&*event.key), previous.get(&*event.key).cloned());
    now.extend(snapshot(event.entry.as_deref()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_a_list_of_snapshots(steps in prop::collection::vec(step(), 1..60)) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run(steps));
    }
}
