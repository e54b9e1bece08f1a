//! A controller's own writes that its cache does not show yet.
//!
//! Whoever counts pods right after creating three must not create three more because the watch is slow. A controller notes
//! what it is about to write, the watch crosses it off, and the object is left alone until nothing is outstanding (or
//! [`FORGET_AFTER`] has passed, for watches that lost something).

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use corten_client::Key;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
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

    /// How long to wait for what has not come back yet; `None`: everything has, or will not. Nobody else may wake the owner when a
    /// watch has lost something.
    pub fn missing(&self, owner: &Key) -> Option<Duration> {
        let all = self.lock();
        let outstanding = all.get(owner).filter(|o| o.creations > 0 || !o.deletions.is_empty())?;
        FORGET_AFTER.checked_sub(outstanding.since.elapsed()).filter(|left| !left.is_zero())
    }

    /// The owner is gone.
    pub fn forget(&self, owner: &Key) {
        self.lock().remove(owner);
    }
}

/// How long a cache may take to show a write of ours before we look at it as it is.
const SHOWN_WITHIN: Duration = Duration::from_secs(5);

/// The cache must show this version, or a later one; `None`: it must not show the object any more.
type Version = Option<u64>;

/// A controller's own writes of named objects, by the key that they were written for: to plan over a cache that does not show
/// them would write them again.
#[derive(Debug, Default)]
pub struct Written {
    by_owner: Mutex<HashMap<Key, HashMap<String, (Version, Instant)>>>,
}

impl Written {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, HashMap<String, (Version, Instant)>>> {
        self.by_owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The API answered a create or an update with this.
    pub fn wrote(&self, owner: &Key, answer: &ObjectMeta) {
        let version = answer.resource_version.as_deref().and_then(|v| v.parse().ok());
        if let (Some(uid), Some(version)) = (answer.uid.clone(), version) {
            self.lock().entry(owner.clone()).or_default().insert(uid, (Some(version), Instant::now()));
        }
    }

    /// The API took the deletion of this.
    pub fn deleted(&self, owner: &Key, object: &ObjectMeta) {
        if let Some(uid) = object.uid.clone() {
            self.lock().entry(owner.clone()).or_default().insert(uid, (None, Instant::now()));
        }
    }

    /// The cache says that an object is gone: whatever was written of it is over.
    pub fn gone(&self, owner: &Key, object: &ObjectMeta) {
        if let (Some(writes), Some(uid)) = (self.lock().get_mut(owner), &object.uid) {
            writes.remove(uid);
        }
    }

    /// How long to wait for the cache, which shows these objects; `None`: it is up to date (or took too long).
    pub fn missing<'a>(
        &self,
        owner: &Key,
        shown: impl IntoIterator<Item = &'a ObjectMeta>,
    ) -> Option<Duration> {
        let mut all = self.lock();
        let writes = all.get_mut(owner)?;
        let version =
            |meta: &ObjectMeta| meta.resource_version.as_deref().and_then(|v| v.parse::<u64>().ok());
        let shown: HashMap<_, _> =
            shown.into_iter().filter_map(|m| Some((m.uid.as_deref()?, version(m)))).collect();
        writes.retain(|uid, (wanted, at)| {
            let is_shown = match wanted {
                Some(wanted) => shown.get(uid.as_str()).is_some_and(|v| *v >= Some(*wanted)),
                None => !shown.contains_key(uid.as_str()),
            };
            !is_shown && at.elapsed() < SHOWN_WITHIN
        });
        let oldest = writes.values().map(|(_, at)| *at).min();
        if oldest.is_none() {
            all.remove(owner);
        }
        oldest.map(|at| SHOWN_WITHIN.saturating_sub(at.elapsed()))
    }

    /// The owner is gone.
    pub fn forget(&self, owner: &Key) {
        self.lock().remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(uid: &str, version: &str) -> ObjectMeta {
        ObjectMeta { uid: Some(uid.into()), resource_version: Some(version.into()), ..ObjectMeta::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn writes_are_missing_until_shown_gone_or_too_old() {
        let (written, owner) = (Written::default(), Key::new("ns", "s"));
        assert_eq!(written.missing(&owner, []), None);
        written.wrote(&owner, &meta("a", "7"));
        assert!(written.missing(&owner, [&meta("a", "6")]).is_some());
        assert_eq!(written.missing(&owner, [&meta("a", "8")]), None);
        written.deleted(&owner, &meta("a", "8"));
        assert!(written.missing(&owner, [&meta("a", "8")]).is_some());
        assert_eq!(written.missing(&owner, []), None);
        written.wrote(&owner, &meta("b", "9"));
        written.gone(&owner, &meta("b", "9"));
        assert_eq!(written.missing(&owner, []), None);
        written.wrote(&owner, &meta("c", "10"));
        tokio::time::advance(SHOWN_WITHIN).await;
        assert_eq!(written.missing(&owner, []), None);
    }

    #[tokio::test(start_paused = true)]
    async fn met_when_all_came_back_or_too_long_ago() {
        let (all, owner) = (Expectations::default(), Key::new("ns", "rs"));
        assert_eq!(all.missing(&owner), None);
        all.expect(&owner, 1, ["uid".to_owned()]);
        all.created(&owner);
        assert_eq!(all.missing(&owner), Some(FORGET_AFTER));
        all.deleted(&owner, "uid");
        assert_eq!(all.missing(&owner), None);
        all.expect(&owner, 1, []);
        tokio::time::advance(all.missing(&owner).unwrap()).await;
        assert_eq!(all.missing(&owner), None, "whoever waited so long is not told to wait on");
    }
}
