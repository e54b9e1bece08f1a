//! The nouns of the store: entries, events, transactions, lists.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

/// The store's global clock: every transaction that changes something is one revision. Starts at 1 (the empty
/// store), as etcd does; 0 means "none" (an absent key in a [`Precondition`]).
pub type Revision = u64;

/// A key such as `/registry/pods/default/x`; shared, because index, history and events all name it.
pub type Key = Arc<str>;

/// A lease's identity; never 0.
pub type LeaseId = i64;

/// One key with its value and what the store knows about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The full key.
    pub key: Key,
    /// The stored bytes, exactly as written.
    pub value: Bytes,
    /// Revision of the transaction that created the key.
    pub create_revision: Revision,
    /// Revision of the transaction that wrote this value.
    pub mod_revision: Revision,
    /// How often the key was written since its creation, starting at 1.
    pub version: u64,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// The key did not exist before.
    Create,
    /// The key existed and has a new value.
    Update,
    /// The key is gone.
    Delete,
}

/// One change of one key. A transaction's events carry the same revision, in the order of its operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it happened.
    pub revision: Revision,
    /// To which key.
    pub key: Key,
    /// The entry after the change; `None` after a deletion.
    pub entry: Option<Arc<Entry>>,
    /// The entry before the change; `None` before a creation.
    pub previous: Option<Arc<Entry>>,
}

impl Event {
    /// Create, update or delete.
    pub fn kind(&self) -> EventKind {
        match (&self.entry, &self.previous) {
            (None, _) => EventKind::Delete,
            (Some(_), None) => EventKind::Create,
            (Some(_), Some(_)) => EventKind::Update,
        }
    }
}

/// What must hold for a transaction to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Precondition {
    /// The key to look at.
    pub key: Key,
    /// Its `mod_revision`; 0 = the key must not exist.
    pub mod_revision: Revision,
}

/// One change within a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Write a value.
    Put {
        /// Where.
        key: Key,
        /// What; copied by the store, so that it never pins a larger buffer.
        value: Bytes,
        /// The lease the key dies with; `None` detaches it from the lease it had.
        lease: Option<LeaseId>,
    },
    /// Remove a key. Removing an absent key changes nothing and makes no event.
    Delete {
        /// Which.
        key: Key,
    },
}

impl Op {
    /// The key it touches.
    pub fn key(&self) -> &Key {
        match self {
            Op::Put { key, .. } | Op::Delete { key } => key,
        }
    }
}

/// All or nothing: when every precondition holds, all operations happen at one revision. A key may occur in one
/// operation only. At most [`crate::MAX_TXN_OPS`] operations and as many preconditions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// Checked in this order; the first that fails is reported.
    pub preconditions: Vec<Precondition>,
    /// Done in this order.
    pub ops: Vec<Op>,
    /// Must get through on a full disk, too: what frees room, or keeps the cluster alive until there is some again.
    pub urgent: bool,
}

impl Txn {
    /// Writes a key that must not exist yet.
    pub fn create(key: impl Into<Key>, value: impl Into<Bytes>) -> Self {
        Self::update(key, value, 0)
    }

    /// Writes a key that must be at `mod_revision` (0 = absent).
    pub fn update(key: impl Into<Key>, value: impl Into<Bytes>, mod_revision: Revision) -> Self {
        let key = key.into();
        Self::default().expect(key.clone(), mod_revision).put(key, value)
    }

    /// Removes a key that must be at `mod_revision`.
    pub fn delete(key: impl Into<Key>, mod_revision: Revision) -> Self {
        let key = key.into();
        let mut txn = Self::default().expect(key.clone(), mod_revision);
        txn.ops.push(Op::Delete { key });
        txn
    }

    /// Adds a precondition.
    #[must_use]
    pub fn expect(mut self, key: impl Into<Key>, mod_revision: Revision) -> Self {
        self.preconditions.push(Precondition { key: key.into(), mod_revision });
        self
    }

    /// Adds a write.
    #[must_use]
    pub fn put(mut self, key: impl Into<Key>, value: impl Into<Bytes>) -> Self {
        self.ops.push(Op::Put { key: key.into(), value: value.into(), lease: None });
        self
    }

    /// Adds a removal.
    #[must_use]
    pub fn remove(mut self, key: impl Into<Key>) -> Self {
        self.ops.push(Op::Delete { key: key.into() });
        self
    }

    /// Lets it use the room that the store keeps for a full disk.
    #[must_use]
    pub fn urgent(mut self, urgent: bool) -> Self {
        self.urgent = urgent;
        self
    }

    /// Binds every write of this transaction to a lease.
    #[must_use]
    pub fn with_lease(mut self, id: LeaseId) -> Self {
        for op in &mut self.ops {
            if let Op::Put { lease, .. } = op {
                *lease = Some(id);
            }
        }
        self
    }
}

/// The answer to a transaction that is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its revision; the current revision when it changed nothing (only absent keys were removed).
    pub revision: Revision,
    /// Per operation: the entry it wrote, `None` for a removal.
    pub entries: Vec<Option<Arc<Entry>>>,
    /// Per operation: the entry it replaced or removed.
    pub previous: Vec<Option<Arc<Entry>>>,
}

/// Which entries to list, in key order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Keys that start with this; end it with `/` to keep `/registry/pods/` apart from `/registry/podsother/`.
    pub prefix: String,
    /// Only keys greater than this one (the last key of the page before).
    pub start_after: Option<Key>,
    /// Most entries to return; 0 = all.
    pub limit: usize,
    /// The revision to list at; `None` = now.
    pub at: Option<Revision>,
}

/// A page of entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListResult {
    /// The revision that the page shows: the asked one, else the current one. Pass it as `at` for the next page.
    pub revision: Revision,
    /// In key order.
    pub entries: Vec<Arc<Entry>>,
    /// How many more keys match after the last entry, at the same revision.
    pub remaining: u64,
}

impl ListResult {
    /// Whether there is another page.
    pub fn more(&self) -> bool {
        self.remaining > 0
    }
}

/// How long disk syncs took: counts per upper bound, and the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncLatency {
    /// `(upper bound, number of commits at or below it and above the bound before)`.
    pub buckets: Vec<(Duration, u64)>,
    /// Commits above the last bound.
    pub slower: u64,
    /// Sum of all.
    pub total: Duration,
}

/// The store's own figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Live keys.
    pub keys: u64,
    /// Bytes of live keys and values.
    pub bytes: u64,
    /// Current revision.
    pub revision: Revision,
    /// Oldest readable revision.
    pub compact_revision: Revision,
    /// Kept events.
    pub history_events: u64,
    /// Bytes that only the history keeps alive.
    pub history_bytes: u64,
    /// Open watchers.
    pub watchers: u64,
    /// Live leases.
    pub leases: u64,
    /// Transactions committed since the store was opened.
    pub transactions: u64,
    /// Batches (disk syncs) since the store was opened.
    pub batches: u64,
    /// Batches that the disk refused.
    pub failed_batches: u64,
    /// Duration of the batches' disk part.
    pub sync_latency: SyncLatency,
}
