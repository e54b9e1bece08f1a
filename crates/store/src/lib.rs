//! The revisioned key-value store under the API server.
//!
//! One global [`Revision`] counts transactions. Keys are read now or at a kept revision, changed by compare-and-swap
//! transactions, and watched from a revision without gaps. [`Store`] is the contract; [`Embedded`] keeps it with
//! memory for reads and SQLite for durability; the same contract suite (`tests/contract.rs`) runs on every back end.
//! The store knows keys and bytes, never kinds.

mod clock;
mod embedded;
mod entry;
mod error;
mod store;

pub use clock::{Clock, MonotonicClock};
pub use embedded::{Embedded, Options};
pub use entry::{
    Committed, Entry, Event, EventKind, Key, LeaseId, ListQuery, ListResult, Op, Precondition, Revision,
    Stats, SyncLatency, Txn,
};
pub use error::StoreError;
pub use store::{Store, Watch, Watcher};

/// Largest value in bytes; upstream's etcd default for one request (1.5 MiB).
pub const MAX_VALUE_BYTES: usize = 1536 * 1024;

/// Longest key in bytes; Kubernetes' longest names fit several times over.
pub const MAX_KEY_BYTES: usize = 2048;

/// Most operations (and most preconditions) of one transaction; etcd's default.
pub const MAX_TXN_OPS: usize = 128;
