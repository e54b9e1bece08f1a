//! How many objects of each kind every namespace has: the collector sees all of them anyway.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError, RwLock};

type Listener = Box<dyn Fn(&str, &str, bool) + Send + Sync>;

/// Counts by resource (`configmaps`, `deployments.apps`) and namespace.
#[derive(Default)]
pub struct Census {
    counts: Mutex<HashMap<(String, String), u64>>,
    listeners: RwLock<Vec<Listener>>,
}

impl Census {
    /// Objects of a resource in a namespace.
    pub fn count(&self, resource: &str, namespace: &str) -> u64 {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(&(resource.to_owned(), namespace.to_owned())).copied().unwrap_or_default()
    }

    /// Calls `listener` with resource, namespace and whether one came whenever a count changes. It must not block.
    pub fn on_change(&self, listener: impl Fn(&str, &str, bool) + Send + Sync + 'static) {
        self.listeners.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(listener));
    }

    /// An object came, or went.
    pub(super) fn note(&self, resource: &str, namespace: &str, came: bool) {
        {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            let count = counts.entry((resource.to_owned(), namespace.to_owned())).or_default();
            *count = if came { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                counts.remove(&(resource.to_owned(), namespace.to_owned()));
            }
        }
        for listener in self.listeners.read().unwrap_or_else(PoisonError::into_inner).iter() {
            listener(resource, namespace, came);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn counts_follow_what_comes_and_goes() {
        let (census, told) = (Census::default(), Arc::new(Mutex::new(0)));
        let log = told.clone();
        census.on_change(move |_, _, _| *log.lock().unwrap() += 1);
        for came in [true, true, false] {
            census.note("secrets", "ns", came);
        }
        assert_eq!((census.count("secrets", "ns"), census.count("secrets", "other")), (1, 0));
        assert_eq!(*told.lock().unwrap(), 3);
    }
}
