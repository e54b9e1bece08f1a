//! Everything a read needs: the ordered index of live entries and the recent history, at one revision.

use std::{collections::BTreeMap, ops::Bound, sync::Arc, time::Duration};

use super::history::{History, Limits, entry_bytes};
use crate::{Entry, Event, Key, ListQuery, ListResult, Revision, Stats, StoreError};

#[derive(Debug)]
pub(super) struct State {
    index: BTreeMap<Key, Arc<Entry>>,
    /// Sum of the live entries' bytes.
    bytes: u64,
    revision: Revision,
    history: History,
}

impl State {
    /// An empty state whose history starts after `floor`.
    pub fn new(floor: Revision, limits: Limits) -> Self {
        // Revision 1 is the empty store, as in etcd, so that 0 stays free to mean "none".
        Self {
            index: BTreeMap::new(),
            bytes: 0,
            revision: floor.max(1),
            history: History::new(floor, limits),
        }
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn compact_revision(&self) -> Revision {
        self.history.floor()
    }

    pub fn current(&self, key: &str) -> Option<&Arc<Entry>> {
        self.index.get(key)
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    /// Puts an entry in or takes it out without making history; for what was on disk below the floor.
    pub fn restore(&mut self, key: &Key, entry: Option<Arc<Entry>>) {
        let added = entry.as_deref().map_or(0, entry_bytes) as u64;
        let removed = match entry {
            Some(entry) => self.index.insert(entry.key.clone(), entry),
            None => self.index.remove(key),
        };
        self.bytes += added;
        self.bytes -= removed.as_deref().map_or(0, entry_bytes) as u64;
    }

    /// Makes an event happen.
    pub fn apply(&mut self, event: Arc<Event>) {
        self.restore(&event.key, event.entry.clone());
        self.revision = event.revision;
        self.history.push(event);
    }

    /// Ends a batch: ages the history and returns the events it forgot.
    pub fn settle(&mut self, now: Duration) -> Vec<Arc<Event>> {
        self.history.stamp(self.revision, now);
        self.history.trim(now)
    }

    /// Forgets history up to `revision`; returns the forgotten events.
    pub fn compact(&mut self, revision: Revision) -> Result<Vec<Arc<Event>>, StoreError> {
        self.check_not_future(revision)?;
        Ok(self.history.compact(revision))
    }

    pub fn get(&self, key: &str, at: Option<Revision>) -> Result<Option<Arc<Entry>>, StoreError> {
        let now = || self.index.get(key).cloned();
        let Some(at) = self.past(at)? else { return Ok(now()) };
        // The first change after `at` knows what was there at `at`.
        let change = self.history.after(at).find(|e| &*e.key == key);
        Ok(change.map_or_else(now, |e| e.previous.clone()))
    }

    pub fn list(&self, query: &ListQuery) -> Result<ListResult, StoreError> {
        let past = self.past(query.at)?;
        let revision = query.at.unwrap_or(self.revision);
        let live = self.range(query).map(|(key, entry)| (key, Some(entry)));
        match past {
            None => Ok(page(revision, query.limit, live.filter_map(|(_, entry)| entry))),
            Some(at) => {
                let changed = self.changed_since(at, query);
                let changed = changed.iter().map(|(key, entry)| (*key, *entry));
                Ok(page(revision, query.limit, overlay(live, changed).filter_map(|(_, entry)| entry)))
            }
        }
    }

    pub fn stats(&self) -> Stats {
        Stats {
            keys: self.index.len() as u64,
            bytes: self.bytes,
            revision: self.revision,
            compact_revision: self.history.floor(),
            history_events: self.history.len() as u64,
            history_bytes: self.history.bytes() as u64,
            ..Stats::default()
        }
    }

    /// Whether a read at `at` needs history: `None` when it is the current revision.
    pub fn past(&self, at: Option<Revision>) -> Result<Option<Revision>, StoreError> {
        let Some(at) = at else { return Ok(None) };
        self.check_not_future(at)?;
        let compact_revision = self.history.floor();
        if at < compact_revision {
            return Err(StoreError::Compacted { asked: at, compact_revision });
        }
        Ok((at < self.revision).then_some(at))
    }

    fn check_not_future(&self, asked: Revision) -> Result<(), StoreError> {
        if asked > self.revision {
            return Err(StoreError::Future { asked, current_revision: self.revision });
        }
        Ok(())
    }

    fn range<'a>(&'a self, query: &'a ListQuery) -> impl Iterator<Item = (&'a Key, &'a Arc<Entry>)> {
        let from = match query.start_after.as_deref() {
            Some(key) if key >= query.prefix.as_str() => Bound::Excluded(key),
            _ => Bound::Included(query.prefix.as_str()),
        };
        let keys = self.index.range::<str, _>((from, Bound::Unbounded));
        keys.take_while(|(key, _)| key.starts_with(&query.prefix))
    }

    /// The keys of the query that were changed after `at`, with what they were at `at`.
    fn changed_since(&self, at: Revision, query: &ListQuery) -> BTreeMap<&Key, Option<&Arc<Entry>>> {
        let after = query.start_after.as_deref().unwrap_or("");
        let mut changed = BTreeMap::new();
        for event in self.history.after(at) {
            if event.key.starts_with(&query.prefix) && (query.start_after.is_none() || &*event.key > after) {
                changed.entry(&event.key).or_insert(event.previous.as_ref());
            }
        }
        changed
    }
}

type Item<'a> = (&'a Key, Option<&'a Arc<Entry>>);

/// Merges two ordered sequences; where both have a key, the second one counts.
fn overlay<'a>(
    under: impl Iterator<Item = Item<'a>>,
    over: impl Iterator<Item = Item<'a>>,
) -> impl Iterator<Item = Item<'a>> {
    let (mut under, mut over) = (under.peekable(), over.peekable());
    std::iter::from_fn(move || match (under.peek(), over.peek()) {
        (Some((low, _)), Some((high, _))) if low < high => under.next(),
        (Some((low, _)), Some((high, _))) => {
            if low == high {
                under.next();
            }
            over.next()
        }
        (Some(_), None) => under.next(),
        (None, _) => over.next(),
    })
}

fn page<'a>(
    revision: Revision,
    limit: usize,
    mut entries: impl Iterator<Item = &'a Arc<Entry>>,
) -> ListResult {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let page = entries.by_ref().take(limit).cloned().collect();
    ListResult { revision, entries: page, remaining: entries.count() as u64 }
}
