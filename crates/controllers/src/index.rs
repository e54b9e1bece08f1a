//! An index over an informer: which objects belong to a key, without going through all of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use corten_client::{Change, Informer, Key, Object};

type Entries = Arc<Mutex<HashMap<Key, BTreeSet<Key>>>>;

/// Objects of kind `K` by another key. Build it before the watches that wake those who read it.
pub struct Index<K> {
    informer: Informer<K>,
    entries: Entries,
}

impl<K> Index<K>
where
    K: Object,
{
    /// An index by the key that `key` gives an object, if any.
    pub fn of(informer: &Informer<K>, key: fn(&K) -> Option<Key>) -> Self {
        let entries = Entries::default();
        let fed = entries.clone();
        informer.on_change(move |change| {
            let mut entries = fed.lock().unwrap_or_else(PoisonError::into_inner);
            if let Change::Updated { old, .. } | Change::Deleted(old) = change {
                take_out(&mut entries, key(old), &Key::of(&**old));
            }
            if let Change::Added(new) | Change::Updated { new, .. } = change
                && let Some(at) = key(new)
            {
                entries.entry(at).or_default().insert(Key::of(&**new));
            }
        });
        Index { informer: informer.clone(), entries }
    }

    /// The objects of a key, by namespace and name.
    pub fn get(&self, key: &Key) -> Vec<Arc<K>> {
        let names = self.entries.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
        names.into_iter().flatten().filter_map(|name| self.informer.get(&name)).collect()
    }
}

fn take_out(entries: &mut HashMap<Key, BTreeSet<Key>>, at: Option<Key>, object: &Key) {
    let Some(at) = at else { return };
    if let Some(set) = entries.get_mut(&at) {
        set.remove(object);
        if set.is_empty() {
            entries.remove(&at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;

    fn pod(name: &str, node: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        pod.metadata.resource_version = Some(node.into());
        pod.spec.get_or_insert_default().node_name = Some(node.into());
        pod
    }

    #[test]
    fn objects_move_with_their_key() {
        let informer = Informer::detached();
        informer.apply(pod("a", "n1"));
        let index =
            Index::of(&informer, |p: &Pod| Some(Key::new("", p.spec.as_ref()?.node_name.as_deref()?)));
        informer.apply(pod("b", "n1"));
        let on = |node: &str| index.get(&Key::new("", node)).len();
        assert_eq!((on("n1"), on("n2")), (2, 0));
        informer.apply(pod("a", "n2"));
        assert_eq!((on("n1"), on("n2")), (1, 1));
        informer.delete(&Key::new("", "b"));
        assert_eq!((on("n1"), on("n2")), (0, 1));
    }
}
