//! Watches. All watchers of one prefix share a [`Group`]: the kept events under that prefix. A watcher is a cursor into
//! it, so a thousand watchers cost a thousand numbers, a slow one holds nothing up and keeps nothing alive, and no
//! event can fall between catching up and following.
//!
//! Groups forget exactly what the history forgets. A watcher that had not read a forgotten event has lagged; one on a
//! quiet prefix has not, however far the global revision moved on.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use async_trait::async_trait;
use tokio::sync::watch;

use super::{Shared, state::State};
use crate::{Event, Key, Revision, StoreError, Watch};

/// Most events of one answer, a transaction that straddles it excepted.
const WATCH_BATCH_EVENTS: usize = 1024;

#[derive(Default)]
pub(super) struct Groups {
    map: Mutex<GroupMap>,
}

#[derive(Default)]
struct GroupMap {
    by_prefix: HashMap<Key, (Arc<Group>, usize)>,
    /// How many groups have a prefix of this length; an event's groups are found by one look-up per length.
    lengths: BTreeMap<usize, usize>,
    closed: bool,
}

struct Group {
    prefix: Key,
    log: Mutex<GroupLog>,
    /// Says only "look again"; the value is the revision that was published last for this group.
    wake: watch::Sender<Revision>,
}

struct GroupLog {
    events: VecDeque<Arc<Event>>,
    /// The newest revision of an event of this group that was forgotten.
    dropped_through: Revision,
    closed: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Group {
    fn new(prefix: &str, state: &State) -> Self {
        let history = state.history();
        let events = history.after(0).filter(|e| e.key.starts_with(prefix)).cloned().collect();
        let log = GroupLog { events, dropped_through: history.floor(), closed: false };
        Self { prefix: prefix.into(), log: Mutex::new(log), wake: watch::Sender::new(state.revision()) }
    }
}

impl GroupMap {
    fn of<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a Arc<Group>> {
        let lengths = self.lengths.range(..=key.len()).map(|(length, _)| *length);
        lengths.filter_map(move |length| self.by_prefix.get(key.get(..length)?)).map(|(group, _)| group)
    }

    fn join(&mut self, prefix: &str, state: &State) -> Arc<Group> {
        if let Some((group, watchers)) = self.by_prefix.get_mut(prefix) {
            *watchers += 1;
            return group.clone();
        }
        let group = Arc::new(Group::new(prefix, state));
        self.by_prefix.insert(group.prefix.clone(), (group.clone(), 1));
        *self.lengths.entry(prefix.len()).or_default() += 1;
        group
    }

    fn leave(&mut self, prefix: &str) {
        let Some((_, watchers)) = self.by_prefix.get_mut(prefix) else { return };
        *watchers -= 1;
        if *watchers > 0 {
            return;
        }
        self.by_prefix.remove(prefix);
        if let Some(count) = self.lengths.get_mut(&prefix.len()) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&prefix.len());
            }
        }
    }
}

/// Groups that have news; they are woken when no lock is held any more.
pub(super) struct Touched(Vec<Arc<Group>>);

impl Touched {
    pub fn wake(self, revision: Revision) {
        for group in self.0 {
            group.wake.send_replace(revision);
        }
    }
}

impl Groups {
    /// Gives each group its new events and takes the forgotten ones away. Called with the state locked.
    pub fn publish(&self, events: &[Arc<Event>], dropped: &[Arc<Event>]) -> Touched {
        let map = lock(&self.map);
        let mut touched: Vec<Arc<Group>> = Vec::new();
        for event in events {
            for group in map.of(&event.key) {
                lock(&group.log).events.push_back(event.clone());
                if !touched.iter().any(|t| Arc::ptr_eq(t, group)) {
                    touched.push(group.clone());
                }
            }
        }
        for event in dropped {
            map.of(&event.key).for_each(|group| forget(group, event.revision));
        }
        Touched(touched)
    }

    pub fn watchers(&self) -> u64 {
        lock(&self.map).by_prefix.values().map(|(_, watchers)| *watchers as u64).sum()
    }

    /// Ends every watch after what it still has to read, and refuses new ones.
    pub fn close(&self) {
        let mut map = lock(&self.map);
        map.closed = true;
        for (group, _) in map.by_prefix.values() {
            lock(&group.log).closed = true;
            group.wake.send_modify(|_| ());
        }
    }
}

fn forget(group: &Group, revision: Revision) {
    let mut log = lock(&group.log);
    log.dropped_through = log.dropped_through.max(revision);
    while log.events.front().is_some_and(|e| e.revision <= revision) {
        log.events.pop_front();
    }
}

/// One watcher: everything under its prefix up to `seen` has been returned.
pub(super) struct Cursor {
    shared: Arc<Shared>,
    group: Arc<Group>,
    wake: watch::Receiver<Revision>,
    seen: Revision,
}

impl Cursor {
    pub fn start(shared: &Arc<Shared>, prefix: &str, after: Option<Revision>) -> Result<Self, StoreError> {
        // The state stays locked until the group is registered: no batch is published in between.
        let state = shared.read();
        state.past(after)?;
        let mut map = lock(&shared.groups.map);
        if map.closed {
            return Err(StoreError::Closed);
        }
        let group = map.join(prefix, &state);
        let seen = after.unwrap_or(state.revision());
        let wake = group.wake.subscribe();
        drop(map);
        drop(state);
        Ok(Self { shared: shared.clone(), group, wake, seen })
    }

    /// What is there to return now; `None` = wait.
    fn take(&mut self) -> Result<Option<Vec<Arc<Event>>>, StoreError> {
        let log = lock(&self.group.log);
        if self.seen < log.dropped_through {
            return Err(StoreError::Lagged { progress: self.seen, compact_revision: log.dropped_through });
        }
        let events = unread(&log, self.seen);
        if let Some(last) = events.last() {
            self.seen = last.revision;
            return Ok(Some(events));
        }
        if log.closed { Err(StoreError::Closed) } else { Ok(None) }
    }
}

fn unread(log: &GroupLog, seen: Revision) -> Vec<Arc<Event>> {
    let start = log.events.partition_point(|e| e.revision <= seen);
    let mut end = log.events.len().min(start + WATCH_BATCH_EVENTS);
    // A cursor is a revision, so a transaction must not be cut in two.
    while end > start && end < log.events.len() && log.events[end].revision == log.events[end - 1].revision {
        end += 1;
    }
    log.events.range(start..end).cloned().collect()
}

#[async_trait]
impl Watch for Cursor {
    async fn next(&mut self) -> Result<Vec<Arc<Event>>, StoreError> {
        loop {
            self.wake.borrow_and_update();
            if let Some(events) = self.take()? {
                return Ok(events);
            }
            self.wake.changed().await.map_err(|_| StoreError::Closed)?;
        }
    }

    fn progress(&self) -> Revision {
        // Read before the log: all events up to `published` are in it by then.
        let published = self.shared.published.load(Ordering::Acquire);
        let log = lock(&self.group.log);
        let waiting = log.events.back().is_some_and(|e| e.revision > self.seen);
        if waiting || self.seen < log.dropped_through { self.seen } else { self.seen.max(published) }
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        lock(&self.shared.groups.map).leave(&self.group.prefix);
    }
}
