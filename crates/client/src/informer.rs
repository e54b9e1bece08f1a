//! A shared informer: one list-and-watch per kind and process, a cache of the objects, and handlers told of each change.
//!
//! Handlers run on the informer's task, one change at a time in the order of the server, and must not block: they put keys
//! into a [`WorkQueue`](crate::WorkQueue) or wake a task. Whoever reads the cache from a handler sees the change already.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use kube::ResourceExt;
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::watcher::{self, Feed, Watcher};
use crate::{Api, Object};

/// Namespace (empty for cluster-scoped objects) and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
pub struct Key {
    /// Namespace, `""` for cluster-scoped objects.
    #[serde(default)]
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// A key of its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Key { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object.
    pub fn of<K: ResourceExt>(object: &K) -> Self {
        Key { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// One change of the cache. A deletion and re-creation under the same name that the watch missed comes as
/// `Updated` with different UIDs.
#[derive(Debug)]
pub enum Change<K> {
    /// The object was not in the cache before.
    Added(Arc<K>),
    /// The object replaces an older one.
    Updated {
        /// What the cache held.
        old: Arc<K>,
        /// What it holds now.
        new: Arc<K>,
    },
    /// The object is gone; this is its last known state.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The object as it is now (or was last).
    pub fn object(&self) -> &Arc<K> {
        match self {
            Change::Added(object) | Change::Updated { new: object, .. } | Change::Deleted(object) => object,
        }
    }
}

type Handler<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

struct Shared<K> {
    objects: RwLock<BTreeMap<Key, Arc<K>>>,
    handlers: RwLock<Vec<Handler<K>>>,
    first_list: watch::Sender<FirstList>,
}

/// Where the first list is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FirstList {
    Awaited,
    Arrived,
    /// The informer was stopped before.
    Never,
}

impl<K> Default for Shared<K> {
    fn default() -> Self {
        Shared {
            objects: RwLock::default(),
            handlers: RwLock::default(),
            first_list: watch::Sender::new(FirstList::Awaited),
        }
    }
}

/// A handle to the cache of one kind. Clones share it.
pub struct Informer<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Informer { shared: self.shared.clone() }
    }
}

impl<K: Object> Informer<K> {
    /// Starts watching on a task that ends with `stop`. `config` may narrow by label or field selector.
    pub fn start(api: Api<K>, config: watcher::Config, stop: CancellationToken) -> Self {
        let informer = Self::detached();
        let (client, request) = api.into_parts();
        let feed = Box::new(InformerFeed { informer: informer.clone(), listed: HashSet::new() });
        spawn(Watcher { client, request, config, feed, version: None }, informer.shared.clone(), stop);
        informer
    }

    /// Without a watch behind it: tests feed it with [`Informer::apply`] and [`Informer::delete`].
    pub fn detached() -> Self {
        Informer { shared: Arc::default() }
    }

    /// The objects that `wanted` chooses: a cache of its own over the same objects in memory, told by this one. An object that
    /// is no longer chosen counts as deleted.
    pub fn narrowed(&self, wanted: impl Fn(&K) -> bool + Send + Sync + 'static) -> Self {
        let part = Informer {
            shared: Arc::new(Shared { first_list: self.shared.first_list.clone(), ..Shared::default() }),
        };
        let told = part.clone();
        self.on_change(move |change| match change {
            Change::Added(object) | Change::Updated { new: object, .. } if wanted(object) => {
                told.put(object.clone())
            }
            gone => told.delete(&Key::of(&**gone.object())),
        });
        part
    }

    fn finish_list(&self, listed: &HashSet<Key>) {
        let vanished: Vec<Key> =
            read(&self.shared.objects).keys().filter(|k| !listed.contains(k)).cloned().collect();
        for key in vanished {
            self.delete(&key);
        }
        self.mark_synced();
    }

    #[cfg(test)]
    fn ended(&self) {
        self.shared.ended();
    }

    /// Puts an object into the cache and tells the handlers. `managedFields` are dropped: no component
    /// reads them, and they are half of a pod's memory; an update that has none keeps those of the stored object.
    pub fn apply(&self, mut object: K) {
        object.meta_mut().managed_fields = None;
        self.put(Arc::new(object));
    }

    fn put(&self, new: Arc<K>) {
        let old = write(&self.shared.objects).insert(Key::of(&*new), new.clone());
        match old {
            None => self.tell(&Change::Added(new)),
            Some(old)
                if old.meta().resource_version == new.meta().resource_version
                    && old.meta().resource_version.is_some() => {}
            Some(old) => self.tell(&Change::Updated { old, new }),
        }
    }

    /// Takes an object out of the cache and tells the handlers.
    pub fn delete(&self, key: &Key) {
        let old = write(&self.shared.objects).remove(key);
        if let Some(old) = old {
            self.tell(&Change::Deleted(old));
        }
    }

    fn tell(&self, change: &Change<K>) {
        for handler in read(&self.shared.handlers).iter() {
            handler(change);
        }
    }

    /// Calls `handler` for every object that is in the cache (as added) and for each change from then on; an object that
    /// arrives meanwhile may be told twice.
    pub fn on_change(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) {
        let mut handlers = write(&self.shared.handlers);
        for object in self.list() {
            handler(&Change::Added(object));
        }
        handlers.push(Box::new(handler));
    }

    /// The object of that key.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        read(&self.shared.objects).get(key).cloned()
    }

    /// All objects, by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        read(&self.shared.objects).values().cloned().collect()
    }

    /// The objects of one namespace, by name.
    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let first = Key::new(namespace, "");
        let objects = read(&self.shared.objects);
        objects.range(first..).take_while(|(k, _)| k.namespace == namespace).map(|(_, o)| o.clone()).collect()
    }

    /// Has the first list arrived?
    pub fn has_synced(&self) -> bool {
        *self.shared.first_list.borrow() == FirstList::Arrived
    }

    /// Waits for the first list. `false`: the informer was stopped before it came, and the cache says nothing.
    pub async fn synced(&self) -> bool {
        let mut first_list = self.shared.first_list.subscribe();
        // The sender lives in `self`: waiting for it cannot fail.
        let first = first_list.wait_for(|first| *first != FirstList::Awaited).await;
        first.is_ok_and(|first| *first == FirstList::Arrived)
    }

    /// Says that the cache is complete: for tests that feed it by hand.
    pub fn mark_synced(&self) {
        self.shared.first_list.send_replace(FirstList::Arrived);
    }
}

/// Whoever must know that nobody will list any more.
trait Ended: Send + Sync {
    fn ended(&self);
}

impl<K: Object> Ended for Shared<K> {
    /// Whoever waits for the first list must not wait for ever.
    fn ended(&self) {
        self.first_list.send_if_modified(|first| {
            let awaited = *first == FirstList::Awaited;
            if awaited {
                *first = FirstList::Never;
            }
            awaited
        });
    }
}

/// One task for all kinds: each kind of future would be a runtime of its own in the program.
fn spawn(watcher: Watcher, shared: Arc<dyn Ended>, stop: CancellationToken) {
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = watcher.run() => {}
        }
        shared.ended();
    });
}

/// So much can be read of every object.
#[derive(Deserialize)]
struct Named {
    metadata: Key,
}

/// Reads what is watched into the cache.
struct InformerFeed<K> {
    informer: Informer<K>,
    listed: HashSet<Key>,
}

impl<K: Object> Feed for InformerFeed<K> {
    fn list_begins(&mut self) {
        self.listed.clear();
    }

    fn listed(&mut self, json: &[u8]) -> serde_json::Result<()> {
        match K::from_json(json) {
            Ok(object) => {
                self.listed.insert(Key::of(&object));
                self.informer.apply(object);
            }
            // It is there, whatever it says, and must not keep the others from being known.
            Err(error) => {
                tracing::warn!(%error, "an object of a list cannot be read");
                self.listed.insert(serde_json::from_slice::<Named>(json)?.metadata);
            }
        }
        Ok(())
    }

    fn list_ends(&mut self) {
        self.informer.finish_list(&std::mem::take(&mut self.listed));
    }

    fn changed(&mut self, json: &[u8]) -> serde_json::Result<Option<String>> {
        let object = K::from_json(json)?;
        let version = object.resource_version();
        self.informer.apply(object);
        Ok(version)
    }

    fn deleted(&mut self, json: &[u8]) -> serde_json::Result<Option<String>> {
        let object = K::from_json(json)?;
        self.informer.delete(&Key::of(&object));
        Ok(object.resource_version())
    }
}

// A handler that panicked leaves the map whole: changes are single inserts and removes.
fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use std::sync::Mutex;

    fn config_map(name: &str, version: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.namespace = Some("ns".into());
        object.metadata.name = Some(name.into());
        object.metadata.resource_version = Some(version.into());
        object
    }

    #[test]
    fn handlers_see_each_change_once_and_what_was_there_before() {
        let informer = Informer::<ConfigMap>::detached();
        informer.apply(config_map("a", "1"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        informer.on_change(move |change| {
            let word = match change {
                Change::Added(_) => "added",
                Change::Updated { .. } => "updated",
                Change::Deleted(_) => "deleted",
            };
            log.lock().unwrap().push(format!("{word} {}", change.object().name_any()));
        });
        informer.apply(config_map("a", "1"));
        informer.apply(config_map("a", "2"));
        informer.apply(config_map("b", "3"));
        informer.delete(&Key::new("ns", "a"));
        informer.delete(&Key::new("ns", "a"));
        assert_eq!(*seen.lock().unwrap(), ["added a", "updated a", "added b", "deleted a"]);
        assert_eq!(informer.list_namespace("ns").len(), 1);
    }

    #[tokio::test]
    async fn nobody_waits_for_a_list_that_never_comes() {
        let informer = Informer::<ConfigMap>::detached();
        let waiting = tokio::spawn({
            let informer = informer.clone();
            async move { informer.synced().await }
        });
        informer.ended();
        assert!(!waiting.await.unwrap());
        assert!(!informer.has_synced());
        informer.mark_synced();
        informer.ended();
        assert!(informer.synced().await);
    }

    #[test]
    fn a_narrowed_informer_has_what_is_wanted_only() {
        let all = Informer::<ConfigMap>::detached();
        all.apply(config_map("a", "1"));
        let part = all.narrowed(|object| object.data.is_none());
        let names = || part.list().iter().map(|object| object.name_any()).collect::<Vec<_>>();
        assert_eq!(names(), ["a"]);
        all.apply(config_map("b", "2"));
        assert_eq!(names(), ["a", "b"]);
        let mut unwanted = config_map("a", "3");
        unwanted.data = Some(BTreeMap::default());
        all.apply(unwanted);
        assert_eq!(names(), ["b"]);
        all.delete(&Key::new("ns", "b"));
        assert!(names().is_empty() && !part.has_synced());
        all.mark_synced();
        assert!(part.has_synced());
    }

    #[test]
    fn objects_missing_from_a_new_list_are_deleted() {
        let informer = Informer::<ConfigMap>::detached();
        informer.apply(config_map("a", "1"));
        informer.apply(config_map("b", "2"));
        informer.finish_list(&HashSet::from([Key::new("ns", "b")]));
        assert!(informer.get(&Key::new("ns", "a")).is_none());
        assert!(informer.has_synced());
    }
}
