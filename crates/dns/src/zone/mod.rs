//! The zone: everything that is answered from, indexed by name and by address, and changed object by object.
//!
//! A Service and its slices are one immutable [`Entry`]. A change builds the new entry beside the old one and swaps it in: who
//! looks up takes one of many read locks for the time of writing its answer, and never waits for more than such a swap.

pub mod facts;
mod reverse;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use corten_client::{Change, Informer, Key};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use facts::{Kind, ServiceKey, Slice};
pub use reverse::Pointers;
use reverse::Reverse;

use crate::wire::Name;

/// So many locks share the entries: two threads seldom meet at one.
const SHARDS: usize = 64;

/// A Service, or slices whose Service is not there (yet).
#[derive(Debug, Default)]
pub struct Entry {
    /// What the Service says; `None` while it is unknown.
    pub kind: Option<Kind>,
    /// Its slices, by name.
    pub slices: Vec<Arc<Slice>>,
    /// Of a headless service: all ready addresses, each once.
    pub v4: Vec<Ipv4Addr>,
    /// As `v4`.
    pub v6: Vec<Ipv6Addr>,
}

impl Entry {
    fn new(kind: Option<Kind>, slices: Vec<Arc<Slice>>) -> Entry {
        let headless = kind == Some(Kind::Headless);
        let addresses = slices.iter().filter(|_| headless).flat_map(|slice| &slice.endpoints);
        let (v4, v6) = facts::split(addresses.map(|endpoint| endpoint.address));
        Entry { kind, slices, v4, v6 }
    }
}

type Entries = HashMap<ServiceKey, Arc<Entry>>;

/// The index. Shared by the threads that answer and the informers that change it.
#[derive(Debug)]
pub struct Zone {
    name: Name,
    hasher: RandomState,
    shards: Vec<RwLock<Entries>>,
    namespaces: RwLock<HashSet<Box<[u8]>>>,
    reverse: RwLock<Reverse>,
    /// Of slices by namespace and name, the Service whose entry they are in. Held while an entry is replaced.
    placed: Mutex<HashMap<Key, ServiceKey>>,
    serial: AtomicU32,
    synced: AtomicBool,
}

impl Zone {
    /// An empty zone of that name (`cluster.local`).
    pub fn new(name: Name) -> Zone {
        Zone {
            name,
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            namespaces: RwLock::default(),
            reverse: RwLock::default(),
            placed: Mutex::default(),
            serial: AtomicU32::new(0),
            synced: AtomicBool::new(false),
        }
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Time of the last change, in seconds since 1970: the serial of the SOA record.
    pub fn serial(&self) -> u32 {
        self.serial.load(Ordering::Relaxed)
    }

    /// Is everything known, so that what is not found does not exist?
    pub fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// Says that everything is known.
    pub fn mark_synced(&self) {
        self.synced.store(true, Ordering::Release);
    }

    /// Follows the informers from now on. Handlers run on the informers' tasks, so a change that a watch brought is
    /// answered from at once.
    pub fn follow(
        self: &Arc<Self>,
        services: &Informer<Service>,
        slices: &Informer<EndpointSlice>,
        namespaces: &Informer<Namespace>,
    ) {
        let zone = self.clone();
        namespaces.on_change(move |change| match change {
            Change::Deleted(object) => zone.remove_namespace(&name_of(&object.metadata.name)),
            _ => zone.put_namespace(&name_of(&change.object().metadata.name)),
        });
        let zone = self.clone();
        services.on_change(move |change| match change {
            Change::Deleted(object) => zone.remove_service(object),
            _ => zone.put_service(change.object()),
        });
        let zone = self.clone();
        slices.on_change(move |change| match change {
            Change::Deleted(object) => zone.remove_slice(object),
            _ => zone.put_slice(change.object()),
        });
    }

    /// Gives `look` the entry of a Service (`\x03svc\x02ns`), if there is one.
    pub fn with<T>(&self, key: &[u8], look: impl FnOnce(Option<&Entry>) -> T) -> T {
        look(read(self.shard(key)).get(key).map(|entry| &**entry))
    }

    /// Does the namespace (a label in lower case) exist?
    pub fn has_namespace(&self, label: &[u8]) -> bool {
        read(&self.namespaces).contains(label)
    }

    /// Gives `look` the names of an address, if it has any.
    pub fn with_pointers<T>(&self, address: IpAddr, look: impl FnOnce(Option<&Pointers>) -> T) -> T {
        look(read(&self.reverse).get(address))
    }

    /// How many Services are known.
    pub fn services(&self) -> usize {
        self.shards.iter().map(|shard| read(shard).values().filter(|e| e.kind.is_some()).count()).sum()
    }

    fn shard(&self, key: &[u8]) -> &RwLock<Entries> {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }

    /// A namespace is there.
    pub fn put_namespace(&self, name: &str) {
        write(&self.namespaces).insert(name.to_ascii_lowercase().into_bytes().into());
        self.touch();
    }

    /// A namespace is gone.
    pub fn remove_namespace(&self, name: &str) {
        write(&self.namespaces).remove(name.to_ascii_lowercase().as_bytes());
        self.touch();
    }

    /// A Service is new or changed.
    pub fn put_service(&self, service: &Service) {
        let Some(key) = key_of(service) else { return };
        let kind = Kind::of(service);
        let _order = self.order();
        self.change_kind(&key, Some(kind));
    }

    /// A Service is gone.
    pub fn remove_service(&self, service: &Service) {
        let Some(key) = key_of(service) else { return };
        let _order = self.order();
        self.change_kind(&key, None);
    }

    fn change_kind(&self, key: &ServiceKey, kind: Option<Kind>) {
        let old = self.entry(key);
        if old.kind == kind {
            return;
        }
        {
            let mut reverse = write(&self.reverse);
            old.kind
                .iter()
                .flat_map(Kind::addresses)
                .for_each(|address| reverse.remove_service(*address, key));
            kind.iter().flat_map(Kind::addresses).for_each(|address| reverse.put_service(*address, key));
        }
        self.replace(key, Entry::new(kind, old.slices.clone()));
    }

    /// A slice is new or changed.
    pub fn put_slice(&self, object: &EndpointSlice) {
        let (id, slice) = (slice_key(object), Slice::of(object));
        let mut placed = self.order();
        let before = match &slice {
            Some(slice) => placed.insert(id.clone(), slice.service.clone()),
            None => placed.remove(&id),
        };
        // A slice that was given to another Service leaves the first.
        if let Some(before) = before.filter(|before| slice.as_ref().is_none_or(|s| s.service != *before)) {
            self.change_slice(&before, &id.name, None);
        }
        if let Some(slice) = slice {
            self.change_slice(&slice.service, &id.name, Some(&slice));
        }
    }

    /// A slice is gone.
    pub fn remove_slice(&self, object: &EndpointSlice) {
        let id = slice_key(object);
        let mut placed = self.order();
        if let Some(service) = placed.remove(&id) {
            self.change_slice(&service, &id.name, None);
        }
    }

    fn change_slice(&self, key: &ServiceKey, name: &str, new: Option<&Arc<Slice>>) {
        let old = self.entry(key);
        let mut slices = old.slices.clone();
        let place = slices.binary_search_by(|slice| slice.name.as_str().cmp(name));
        let before = match (place, new) {
            (Ok(at), Some(new)) if slices[at] == *new => return,
            (Ok(at), Some(new)) => Some(std::mem::replace(&mut slices[at], new.clone())),
            (Ok(at), None) => Some(slices.remove(at)),
            (Err(at), Some(new)) => {
                slices.insert(at, new.clone());
                None
            }
            (Err(_), None) => return,
        };
        write(&self.reverse).change_slice(before.as_deref(), new.map(|new| &**new));
        self.replace(key, Entry::new(old.kind.clone(), slices));
    }

    fn entry(&self, key: &ServiceKey) -> Arc<Entry> {
        read(self.shard(key)).get(key).cloned().unwrap_or_default()
    }

    fn replace(&self, key: &ServiceKey, entry: Entry) {
        let empty = entry.kind.is_none() && entry.slices.is_empty();
        let old = match empty {
            true => write(self.shard(key)).remove(key),
            false => write(self.shard(key)).insert(key.clone(), Arc::new(entry)),
        };
        // Freed outside of the lock.
        drop(old);
        self.touch();
    }

    fn touch(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.serial.store(now as u32, Ordering::Relaxed);
    }

    fn order(&self) -> std::sync::MutexGuard<'_, HashMap<Key, ServiceKey>> {
        self.placed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key_of(service: &Service) -> Option<ServiceKey> {
    facts::service_key(service.metadata.namespace.as_deref()?, service.metadata.name.as_deref()?)
}

fn slice_key(slice: &EndpointSlice) -> Key {
    Key::new(name_of(&slice.metadata.namespace), name_of(&slice.metadata.name))
}

fn name_of(name: &Option<String>) -> String {
    name.clone().unwrap_or_default()
}

// A thread that panicked leaves the maps whole: changes are single inserts and removes.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
