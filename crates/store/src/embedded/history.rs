//! The recent past: events in order, bounded by count, bytes and age, from which old revisions are read and watches
//! are caught up.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use crate::{Entry, Event, Revision};

/// What the history may keep.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub events: usize,
    pub bytes: usize,
    pub age: Duration,
}

/// All events with a revision above `floor`.
#[derive(Debug)]
pub(super) struct History {
    events: VecDeque<Arc<Event>>,
    /// When the events up to a revision were published; one element per batch.
    times: VecDeque<(Revision, Duration)>,
    /// Bytes of entries that were replaced or deleted by the kept events.
    bytes: usize,
    /// The oldest revision that can be reconstructed.
    floor: Revision,
    limits: Limits,
}

impl History {
    pub fn new(floor: Revision, limits: Limits) -> Self {
        Self { events: VecDeque::new(), times: VecDeque::new(), bytes: 0, floor, limits }
    }

    pub fn floor(&self) -> Revision {
        self.floor
    }

    pub fn len(&self) -> usize {
        self.events.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn push(&mut self, event: Arc<Event>) {
        self.bytes += held(&event);
        self.events.push_back(event);
    }

    /// Notes that everything pushed so far, up to `revision`, was published at `now`.
    pub fn stamp(&mut self, revision: Revision, now: Duration) {
        if self.times.back().is_none_or(|(at, _)| *at < revision) {
            self.times.push_back((revision, now));
        }
    }

    /// Events after a revision, oldest first.
    pub fn after(&self, revision: Revision) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        let start = self.events.partition_point(|e| e.revision <= revision);
        self.events.range(start..)
    }

    /// Forgets what is over a limit and returns it, oldest first.
    pub fn trim(&mut self, now: Duration) -> Vec<Arc<Event>> {
        let mut dropped = Vec::new();
        let oldest = now.saturating_sub(self.limits.age);
        while self.times.front().is_some_and(|(_, at)| *at < oldest) {
            if let Some((revision, _)) = self.times.pop_front() {
                self.drop_through(revision, &mut dropped);
            }
        }
        while self.events.len() > self.limits.events || self.bytes > self.limits.bytes {
            let Some(revision) = self.events.front().map(|e| e.revision) else { break };
            self.drop_through(revision, &mut dropped);
        }
        dropped
    }

    /// Forgets everything up to and including `revision`.
    pub fn compact(&mut self, revision: Revision) -> Vec<Arc<Event>> {
        let mut dropped = Vec::new();
        self.drop_through(revision, &mut dropped);
        dropped
    }

    // Whole revisions only: a transaction is never half in the history.
    fn drop_through(&mut self, revision: Revision, dropped: &mut Vec<Arc<Event>>) {
        let count = self.events.partition_point(|e| e.revision <= revision);
        for event in self.events.drain(..count) {
            self.bytes -= held(&event);
            dropped.push(event);
        }
        while self.times.front().is_some_and(|(at, _)| *at <= revision) {
            self.times.pop_front();
        }
        self.floor = self.floor.max(revision);
    }
}

/// Bytes that an event keeps alive beside the live data.
fn held(event: &Event) -> usize {
    event.previous.as_deref().map_or(0, entry_bytes)
}

/// Bytes of an entry: key and value.
pub(super) fn entry_bytes(entry: &Entry) -> usize {
    entry.key.len() + entry.value.len()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn event(revision: Revision, previous_bytes: usize) -> Arc<Event> {
        let entry = |mod_revision, bytes: usize| {
            let value = Bytes::from(vec![0; bytes]);
            Arc::new(Entry { key: "k".into(), value, create_revision: 1, mod_revision, version: 1 })
        };
        let previous = Some(entry(revision - 1, previous_bytes));
        Arc::new(Event { revision, key: "k".into(), entry: Some(entry(revision, 1)), previous })
    }

    fn history(events: usize, bytes: usize) -> History {
        History::new(1, Limits { events, bytes, age: Duration::from_secs(10) })
    }

    #[test]
    fn each_limit_drops_whole_revisions_from_the_front() {
        let secs = Duration::from_secs;
        // (limits, pushed (revision, bytes, time), trim time, kept revisions)
        type Case = ((usize, usize), &'static [(Revision, usize, u64)], u64, &'static [Revision]);
        let cases: &[Case] = &[
            ((9, 999), &[(2, 1, 0), (3, 1, 0)], 0, &[2, 3]),
            ((1, 999), &[(2, 1, 0), (3, 1, 0)], 0, &[3]),
            ((2, 999), &[(2, 1, 0), (2, 1, 0), (3, 1, 0)], 0, &[3]),
            ((9, 20), &[(2, 15, 0), (3, 15, 0)], 0, &[3]),
            ((9, 999), &[(2, 1, 0), (3, 1, 5)], 11, &[3]),
            ((9, 999), &[(2, 1, 0), (3, 1, 5)], 99, &[]),
        ];
        for ((events, bytes), pushed, now, kept) in cases {
            let mut history = history(*events, *bytes);
            for (revision, bytes, at) in *pushed {
                history.push(event(*revision, *bytes));
                history.stamp(*revision, secs(*at));
            }
            let dropped = history.trim(secs(*now));
            let revisions: Vec<_> = history.after(0).map(|e| e.revision).collect();
            assert_eq!(&revisions, kept);
            assert_eq!(dropped.len() + kept.len(), pushed.len());
            assert_eq!(history.floor(), dropped.last().map_or(1, |e| e.revision));
            assert_eq!(history.bytes(), history.after(0).map(|e| held(e)).sum::<usize>());
        }
    }
}
