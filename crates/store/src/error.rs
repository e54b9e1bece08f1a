//! Everything a store can answer instead of a result.

use std::{path::PathBuf, sync::Arc};

use crate::{Entry, Key, Revision};

/// Why the store refused or failed. Cheap to clone: one failed sync answers every transaction of its batch.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// A precondition does not hold; nothing of the transaction was done.
    #[error("conflict on {key}: {}", found(.current))]
    Conflict {
        /// The key whose precondition failed first, in the order they were given.
        key: Key,
        /// What the store holds under that key now; `None` when it is absent.
        current: Option<Arc<Entry>>,
    },
    /// The asked revision is older than the kept history (HTTP 410, reason `Expired`).
    #[error("revision {asked} has been compacted, the oldest kept one is {compact_revision}")]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// The oldest revision that can still be read, and after which can still be watched.
        compact_revision: Revision,
    },
    /// The asked revision has not happened yet.
    #[error("revision {asked} is in the future, the current one is {current_revision}")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// The newest revision.
        current_revision: Revision,
    },
    /// The watcher was too slow: events it has not read are no longer kept (HTTP 410, reason `Expired`).
    #[error("watcher at revision {progress} is too far behind, the oldest kept one is {compact_revision}")]
    Lagged {
        /// Up to here the watcher has seen everything.
        progress: Revision,
        /// The oldest revision after which a new watch may start.
        compact_revision: Revision,
    },
    /// A value above [`crate::MAX_VALUE_BYTES`].
    #[error("value of {key} has {bytes} bytes, the limit is {limit}")]
    ValueTooLarge {
        /// The key of the value.
        key: Key,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A transaction that no store state could accept: bad key, key written twice, too many operations.
    #[error("invalid transaction: {0}")]
    Invalid(String),
    /// The lease is unknown or has expired.
    #[error("lease {0} not found")]
    LeaseNotFound(i64),
    /// No space left on the disk; the transaction was not done. The store works again when there is space.
    #[error("no space left for the store: {0}")]
    StorageFull(String),
    /// The disk failed; the transaction was not published. After a crash it may turn out to have reached the disk.
    #[error("store i/o: {0}")]
    Io(String),
    /// The data on disk is not a store that this version understands.
    #[error("store damaged: {0}")]
    Corrupt(String),
    /// Another process has the data directory open.
    #[error("store {} is in use by {holder}", .path.display())]
    Locked {
        /// The data directory.
        path: PathBuf,
        /// Who holds it (`pid N`), as far as the lock file tells.
        holder: String,
    },
    /// The store was closed.
    #[error("store is closed")]
    Closed,
}

fn found(current: &Option<Arc<Entry>>) -> String {
    match current {
        Some(entry) => format!("it is at revision {}", entry.mod_revision),
        None => "it does not exist".into(),
    }
}
