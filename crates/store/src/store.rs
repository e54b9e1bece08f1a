//! The contract of every back end.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{Committed, Entry, Event, LeaseId, ListQuery, ListResult, Revision, Stats, StoreError, Txn};

/// A revisioned key-value store. All reads are linearizable: what a finished transaction wrote is seen by every read
/// that starts later.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// One key, now or at a kept revision.
    ///
    /// Errors: `Compacted`, `Future`, `Closed`, `Io`.
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<Option<Arc<Entry>>, StoreError>;

    /// A page of keys, now or at a kept revision.
    ///
    /// Errors: as [`Store::get`].
    async fn list(&self, query: &ListQuery) -> Result<ListResult, StoreError>;

    /// Does a transaction, or nothing of it. `Ok` means it is on disk and visible. Dropping the future does not
    /// recall a transaction that has been handed over.
    ///
    /// Errors: `Conflict`, `ValueTooLarge`, `Invalid`, `LeaseNotFound`, `StorageFull`, `Io`, `Closed`.
    async fn txn(&self, txn: Txn) -> Result<Committed, StoreError>;

    /// All changes of keys under `prefix` with a revision greater than `after`, without a gap; `None` = from now on.
    /// (A Kubernetes watch at `resourceVersion=N` is `after = Some(N)`.)
    ///
    /// Errors: `Compacted` when `after` is below the compact revision, `Future` when it has not happened yet.
    async fn watch(&self, prefix: &str, after: Option<Revision>) -> Result<Watcher, StoreError>;

    /// The revision of the newest committed transaction.
    async fn current_revision(&self) -> Result<Revision, StoreError>;

    /// The oldest revision that can be read; changes after it can be watched.
    async fn compact_revision(&self) -> Result<Revision, StoreError>;

    /// Forgets history so that `revision` becomes the oldest readable one. Going back is no error and changes nothing.
    ///
    /// Errors: `Future`, `Closed`, `Io`.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;

    /// A new lease that expires `ttl` after its grant or its last keep-alive, and takes its keys with it.
    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Starts the lease's time again.
    ///
    /// Errors: `LeaseNotFound`.
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease now; its keys are deleted.
    ///
    /// Errors: `LeaseNotFound`.
    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError>;

    /// The back end's figures; what it cannot know is zero.
    fn stats(&self) -> Stats;

    /// Finishes what was handed over, syncs and closes. Everything after answers `Closed`.
    async fn close(&self) -> Result<(), StoreError>;
}

/// A stream of changes. Dropping it ends the watch.
#[async_trait]
pub trait Watch: Send {
    /// Waits for the next changes: at least one, in order, never a part of a transaction. Cancel safe. After an
    /// error the watcher is finished.
    ///
    /// Errors: `Lagged` when it read too slowly, `Closed`, `Io`.
    async fn next(&mut self) -> Result<Vec<Arc<Event>>, StoreError>;

    /// A revision up to which this watcher has returned everything: the current one when nothing is waiting. It is
    /// what a bookmark may say.
    fn progress(&self) -> Revision;
}

/// What [`Store::watch`] returns.
pub type Watcher = Box<dyn Watch>;
