//! Who may touch the store: file locks between processes, keyed locks between tasks of one process.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nix::fcntl::{Flock, FlockArg};

use super::ImageError;

/// Held while content is added or stood on; nothing is collected meanwhile.
pub(super) struct Adding(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

/// Held while content is collected; nobody is adding.
pub(super) struct Collecting(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

/// Held while the index is read, changed and replaced.
pub(super) struct Changing(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

fn lock(dir: &Path, name: &str, how: FlockArg) -> Result<Flock<File>, (bool, ImageError)> {
    let path = dir.join(name);
    // Each lock has its own open file: the kernel then keeps threads of one process apart as well.
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| (false, ImageError::io(format!("open {}", path.display()))(error)))?;
    Flock::lock(file, how).map_err(|(_, errno)| {
        let busy = errno == nix::errno::Errno::EWOULDBLOCK;
        (busy, ImageError::io(format!("lock {}", path.display()))(errno.into()))
    })
}

impl Adding {
    /// Waits while something is being collected, which takes as long as removing files does. Blocking.
    pub fn begin(dir: &Path) -> Result<Self, ImageError> {
        lock(dir, "content.lock", FlockArg::LockShared).map(Self).map_err(|(_, error)| error)
    }
}

impl Collecting {
    /// `None` when content is being added.
    pub fn try_begin(dir: &Path) -> Result<Option<Self>, ImageError> {
        match lock(dir, "content.lock", FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(Self(lock))),
            Err((true, _)) => Ok(None),
            Err((false, error)) => Err(error),
        }
    }
}

impl Changing {
    /// Waits for other changes, which take milliseconds. Blocking.
    pub fn begin(dir: &Path) -> Result<Self, ImageError> {
        lock(dir, "index.lock", FlockArg::LockExclusive).map(Self).map_err(|(_, error)| error)
    }
}

/// One asynchronous lock a key; a key that nobody holds costs nothing.
#[derive(Default)]
pub(super) struct Keyed {
    locks: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Keyed {
    /// Waits until nobody else works on `key`.
    pub async fn lock(&self, key: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| lock.strong_count() > 0);
            let entry = locks.entry(key.to_owned()).or_default();
            entry.upgrade().unwrap_or_else(|| {
                let fresh = Arc::new(tokio::sync::Mutex::new(()));
                *entry = Arc::downgrade(&fresh);
                fresh
            })
        };
        lock.lock_owned().await
    }
}
