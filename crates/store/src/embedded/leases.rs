//! Leases: which keys die together, and when. Owned by the writer; changed only after the change is on disk.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use crate::{Key, LeaseId};

#[derive(Debug, Default)]
pub(super) struct Leases {
    by_id: HashMap<LeaseId, Lease>,
    by_key: HashMap<Key, LeaseId>,
    /// Leases by deadline.
    due: BTreeSet<(Duration, LeaseId)>,
    last_id: LeaseId,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    deadline: Duration,
    keys: BTreeSet<Key>,
}

impl Leases {
    /// No lease yet; new ones get ids above `last_id`, so that an old id never means a new lease.
    pub fn new(last_id: LeaseId) -> Self {
        Self { last_id, ..Self::default() }
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn contains(&self, id: LeaseId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// An id for a lease to be granted. Ids of refused grants are not used again.
    pub fn next_id(&mut self) -> LeaseId {
        self.last_id += 1;
        self.last_id
    }

    pub fn grant(&mut self, id: LeaseId, ttl: Duration, now: Duration) {
        let deadline = now.saturating_add(ttl);
        self.by_id.insert(id, Lease { ttl, deadline, keys: BTreeSet::new() });
        self.due.insert((deadline, id));
    }

    /// Starts the lease's time again; false when there is no such lease.
    pub fn keep_alive(&mut self, id: LeaseId, now: Duration) -> bool {
        let Some(lease) = self.by_id.get_mut(&id) else { return false };
        self.due.remove(&(lease.deadline, id));
        lease.deadline = now.saturating_add(lease.ttl);
        self.due.insert((lease.deadline, id));
        true
    }

    /// Records a write (or removal) of a key: it leaves its old lease and joins the new one.
    pub fn bind(&mut self, key: &Key, lease: Option<LeaseId>) {
        if let Some(old) = self.by_key.remove(key)
            && let Some(old) = self.by_id.get_mut(&old)
        {
            old.keys.remove(key);
        }
        if let Some(id) = lease
            && let Some(lease) = self.by_id.get_mut(&id)
        {
            lease.keys.insert(key.clone());
            self.by_key.insert(key.clone(), id);
        }
    }

    pub fn revoke(&mut self, id: LeaseId) {
        let Some(lease) = self.by_id.remove(&id) else { return };
        self.due.remove(&(lease.deadline, id));
        for key in lease.keys {
            self.by_key.remove(&key);
        }
    }

    pub fn keys(&self, id: LeaseId) -> Vec<Key> {
        self.by_id.get(&id).map(|lease| lease.keys.iter().cloned().collect()).unwrap_or_default()
    }

    /// Leases whose time is over, the longest over first.
    pub fn expired(&self, now: Duration) -> Vec<LeaseId> {
        self.due.iter().take_while(|(deadline, _)| *deadline <= now).map(|(_, id)| *id).collect()
    }

    pub fn next_deadline(&self) -> Option<Duration> {
        self.due.first().map(|(deadline, _)| *deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn keep_alive_moves_the_deadline() {
        let mut leases = Leases::new(7);
        let (a, b) = (leases.next_id(), leases.next_id());
        assert_eq!((a, b), (8, 9));
        leases.grant(a, secs(10), secs(0));
        leases.grant(b, secs(20), secs(0));
        assert_eq!(leases.next_deadline(), Some(secs(10)));
        assert!(leases.keep_alive(a, secs(9)));
        assert!(!leases.keep_alive(99, secs(9)));
        assert_eq!(leases.expired(secs(18)), Vec::<LeaseId>::new());
        assert_eq!(leases.expired(secs(20)), vec![a, b]);
    }

    #[test]
    fn a_key_belongs_to_the_lease_of_its_last_write() {
        let mut leases = Leases::new(0);
        let (a, b) = (leases.next_id(), leases.next_id());
        leases.grant(a, secs(1), secs(0));
        leases.grant(b, secs(1), secs(0));
        let key: Key = "k".into();
        leases.bind(&key, Some(a));
        leases.bind(&key, Some(b));
        assert_eq!((leases.keys(a).len(), leases.keys(b).len()), (0, 1));
        leases.bind(&key, None);
        assert_eq!(leases.keys(b).len(), 0);
        leases.bind(&key, Some(a));
        leases.revoke(a);
        leases.bind(&key, None);
        assert_eq!(leases.len(), 1);
    }
}
