//! ConfigMaps, Secrets and trust bundles that pods of this node use, watched for as long as a pod needs them.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use corten_client::Api;
use corten_client::watcher;
use corten_client::{Informer, Key, Object};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Client, Resource};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::volume::trust::TrustBundles;

/// How long a pod waits for an object's first answer.
pub const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// Told when an object changes, with the uids of the pods that use it.
pub type Notify = Arc<dyn Fn(&BTreeSet<String>) + Send + Sync>;

struct Entry<K> {
    informer: Informer<K>,
    users: Arc<Mutex<BTreeSet<String>>>,
    _stop: DropGuard,
}

/// Objects of one kind.
pub struct Watched<K> {
    client: Client,
    entries: Mutex<HashMap<Key, Entry<K>>>,
    notify: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K> Watched<K>
where
    K: Object + Resource<Scope = NamespaceResourceScope>,
{
    /// Nothing is watched yet.
    pub fn new(client: Client, notify: Notify) -> Self {
        Self { client, entries: Mutex::default(), notify }
    }

    /// The object, for the pod with `uid`, which counts as its user from now on. `None` is "not there".
    pub async fn get(&self, uid: &str, namespace: &str, name: &str) -> Result<Option<Arc<K>>, String> {
        let key = Key::new(namespace, name);
        let informer = self.subscribe(uid, &key);
        if !tokio::time::timeout(FIRST_ANSWER, informer.synced()).await.unwrap_or(false) {
            return Err(format!(
                "failed to sync {} cache: timed out waiting for the condition",
                kind_word::<K>()
            ));
        }
        Ok(informer.get(&key))
    }

    fn subscribe(&self, uid: &str, key: &Key) -> Informer<K> {
        let mut entries = lock(&self.entries);
        let entry = entries.entry(key.clone()).or_insert_with(|| self.watch(key));
        lock(&entry.users).insert(uid.to_owned());
        entry.informer.clone()
    }

    fn watch(&self, key: &Key) -> Entry<K> {
        let stop = CancellationToken::new();
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.namespace);
        let config = watcher::Config::default().fields(&format!("metadata.name={}", key.name));
        let informer = Informer::start(api, config, stop.clone());
        let users: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let (of_entry, notify) = (users.clone(), self.notify.clone());
        let seen = informer.clone();
        informer.on_change(move |_| {
            // the first answer is no change: those who asked for it wait for it
            if seen.has_synced() {
                let users = lock(&of_entry).clone();
                notify(&users);
            }
        });
        Entry { informer, users, _stop: stop.drop_guard() }
    }

    /// The pod with `uid` is gone; objects that nobody else uses are no longer watched.
    pub fn release(&self, uid: &str) {
        lock(&self.entries).retain(|_, entry| {
            let mut users = lock(&entry.users);
            users.remove(uid);
            !users.is_empty()
        });
    }
}

fn kind_word<K: Resource<DynamicType = ()>>() -> String {
    K::kind(&()).to_lowercase()
}

/// All kinds.
pub struct ObjectCache {
    /// ConfigMaps.
    pub config_maps: Watched<ConfigMap>,
    /// Secrets.
    pub secrets: Watched<Secret>,
    /// ClusterTrustBundles.
    pub trust_bundles: TrustBundles,
}

impl ObjectCache {
    /// A cache that tells `notify` about changes.
    pub fn new(client: Client, notify: Notify) -> Self {
        Self {
            config_maps: Watched::new(client.clone(), notify.clone()),
            secrets: Watched::new(client.clone(), notify.clone()),
            trust_bundles: TrustBundles::new(client, notify),
        }
    }

    /// The pod with `uid` is gone.
    pub fn release(&self, uid: &str) {
        self.config_maps.release(uid);
        self.secrets.release(uid);
        self.trust_bundles.release(uid);
    }
}
