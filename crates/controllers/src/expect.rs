//! A controller's own writes that its cache does not show yet.
//!
//! Whoever counts pods right after creating three must not create three more because the watch is slow. A controller notes
//! what it is about to write, the watch crosses it off, and the object is left alone until nothing is outstanding (or
//! [`FORGET_AFTER`] has passed, for watches that lost something).

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use corten_client::Key;
use tokio::time::Instant;

/// Outstanding writes are forgotten after this time.
const FORGET_AFTER: Duration = Duration::from_secs(5 * 60);

#[derive(Debug)]
struct Outstanding {
    creations: usize,
    deletions: HashSet<String>,
    since: Instant,
}

/// Outstanding writes by owner.
#[derive(Debug, Default)]
pub struct Expectations {
    by_owner: Mutex<HashMap<Key, Outstanding>>,
}

impl Expectations {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Outstanding>> {
        self.by_owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// About to create so many objects and to delete those with these UIDs.
    pub fn expect(&self, owner: &Key, creations: usize, deletions: impl IntoIterator<Item = String>) {
        let deletions = deletions.into_iter().collect();
        self.lock().insert(owner.clone(), Outstanding { creations, deletions, since: Instant::now() });
    }

    /// A creation came back, or failed.
    pub fn created(&self, owner: &Key) {
        if let Some(outstanding) = self.lock().get_mut(owner) {
            outstanding.creations = outstanding.creations.saturating_sub(1);
        }
    }

    /// A deletion came back, or failed.
    pub fn deleted(&self, owner: &Key, uid: &str) {
        if let Some(outstanding) = self.lock().get_mut(owner) {
            outstanding.deletions.remove(uid);
        }
    }

    /// Has everything come back?
    pub fn met(&self, owner: &Key) -> bool {
        self.lock()
            .get(owner)
            .is_none_or(|o| (o.creations == 0 && o.deletions.is_empty()) || o.since.elapsed() > FORGET_AFTER)
    }

    /// The owner is gone.
    pub fn forget(&self, owner: &Key) {
        self.lock().remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn met_when_all_came_back_or_too_long_ago() {
        let (all, owner) = (Expectations::default(), Key::new("ns", "rs"));
        assert!(all.met(&owner));
        all.expect(&owner, 1, ["uid".to_owned()]);
        all.created(&owner);
        assert!(!all.met(&owner));
        all.deleted(&owner, "uid");
        assert!(all.met(&owner));
        all.expect(&owner, 1, []);
        tokio::time::advance(FORGET_AFTER + Duration::from_secs(1)).await;
        assert!(all.met(&owner));
    }
}
