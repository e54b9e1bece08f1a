//! A batch in the making: transactions that were checked but are not on disk yet. Each sees the ones before it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    disk::{Changes, Row},
    leases::Leases,
    state::State,
};
use crate::{
    Committed, Entry, Event, Key, LeaseId, MAX_KEY_BYTES, MAX_TXN_OPS, MAX_VALUE_BYTES, Op, Precondition,
    Revision, StoreError, Txn,
};

/// Most commands of one batch.
const BATCH_COMMANDS: usize = 1024;

/// A batch takes no further command once its values have this many bytes: about what a disk writes in a few tens of
/// milliseconds, so that nobody waits longer for others.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Answers somebody once the disk has spoken.
type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

pub(super) struct Batch {
    pub changes: Changes,
    /// Forget history up to here when the batch is published.
    pub compact: Option<Revision>,
    pub transactions: usize,
    /// Something in it must get through on a full disk.
    pub urgent: bool,
    /// Revision after what is staged so far.
    revision: Revision,
    /// Keys as they will be; `None` = absent.
    staged: HashMap<Key, Option<Arc<Entry>>>,
    answers: Vec<Answer>,
    commands: usize,
    bytes: usize,
}

impl Batch {
    pub fn new(revision: Revision) -> Self {
        Self {
            changes: Changes::default(),
            compact: None,
            transactions: 0,
            urgent: false,
            revision,
            staged: HashMap::new(),
            answers: Vec::new(),
            commands: 0,
            bytes: 0,
        }
    }

    pub fn has_room(&self) -> bool {
        self.commands < BATCH_COMMANDS && self.bytes < BATCH_BYTES
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Sends `answer` when the batch is on disk, the disk's error otherwise.
    pub fn answer_later<T: Send + 'static>(
        &mut self,
        reply: oneshot::Sender<Result<T, StoreError>>,
        answer: Result<T, StoreError>,
    ) {
        self.commands += 1;
        // Nobody listens any more when the caller's future was dropped.
        self.answers.push(Box::new(move |disk| _ = reply.send(disk.and(answer))));
    }

    pub fn answer(self, disk: &Result<(), StoreError>) {
        for answer in self.answers {
            answer(disk.clone());
        }
    }

    pub fn txn(
        &mut self,
        state: &State,
        leases: &Leases,
        txn: Txn,
        reply: oneshot::Sender<Result<Committed, StoreError>>,
    ) {
        let urgent = txn.urgent;
        let outcome = self.try_txn(state, leases, txn);
        self.urgent |= urgent && outcome.is_ok();
        match &outcome {
            // Decided by what is on disk already, whatever becomes of this batch.
            Err(StoreError::Conflict { key, .. }) if !self.staged.contains_key(key) => {
                _ = reply.send(outcome)
            }
            _ => self.answer_later(reply, outcome),
        }
    }

    fn try_txn(&mut self, state: &State, leases: &Leases, txn: Txn) -> Result<Committed, StoreError> {
        for Precondition { key, mod_revision } in txn.preconditions {
            let current = self.current(state, &key);
            if current.map_or(0, |e| e.mod_revision) != mod_revision {
                return Err(StoreError::Conflict { current: current.cloned(), key });
            }
        }
        for op in &txn.ops {
            if let Op::Put { lease: Some(id), .. } = op
                && (!leases.contains(*id) || self.changes.revoked.contains(id))
            {
                return Err(StoreError::LeaseNotFound(*id));
            }
        }
        Ok(self.do_ops(state, txn.ops))
    }

    fn do_ops(&mut self, state: &State, ops: Vec<Op>) -> Committed {
        let revision = self.revision + 1;
        let mut committed = Committed { revision, entries: Vec::new(), previous: Vec::new() };
        let mut position = 0;
        for op in ops {
            let previous = self.current(state, op.key()).cloned();
            let (key, entry, lease) = match op {
                Op::Put { key, value, lease } => {
                    let entry = next_entry(key, value, previous.as_deref(), revision);
                    (entry.key.clone(), Some(Arc::new(entry)), lease)
                }
                Op::Delete { key } => (key, None, None),
            };
            committed.entries.push(entry.clone());
            committed.previous.push(previous.clone());
            if entry.is_some() || previous.is_some() {
                self.stage(Row {
                    event: Arc::new(Event { revision, key, entry, previous }),
                    position,
                    lease,
                });
                position += 1;
            }
        }
        if position == 0 {
            committed.revision = self.revision;
        } else {
            self.revision = revision;
        }
        self.transactions += 1;
        committed
    }

    /// Ends a lease and deletes its keys, in as many transactions as it takes.
    pub fn revoke(&mut self, state: &State, leases: &Leases, id: LeaseId) {
        // What this batch wrote counts: a key may have left the lease, or joined it.
        let rows = self.changes.rows.iter();
        let written: HashMap<Key, Option<LeaseId>> =
            rows.map(|row| (row.event.key.clone(), row.lease)).collect();
        let mut keys = leases.keys(id);
        keys.retain(|key| !written.contains_key(key));
        keys.extend(written.into_iter().filter(|(_, lease)| *lease == Some(id)).map(|(key, _)| key));
        for chunk in keys.chunks(MAX_TXN_OPS) {
            self.do_ops(state, chunk.iter().map(|key| Op::Delete { key: key.clone() }).collect());
        }
        self.changes.revoked.push(id);
    }

    pub fn grant(&mut self, id: LeaseId, ttl: Duration) {
        self.changes.granted.push((id, ttl));
    }

    fn stage(&mut self, row: Row) {
        self.bytes += row.event.entry.as_ref().map_or(0, |e| e.value.len());
        self.staged.insert(row.event.key.clone(), row.event.entry.clone());
        self.changes.rows.push(row);
    }

    fn current<'a>(&'a self, state: &'a State, key: &str) -> Option<&'a Arc<Entry>> {
        match self.staged.get(key) {
            Some(staged) => staged.as_ref(),
            None => state.current(key),
        }
    }
}

/// The transaction with values that are exactly as large as they say, whatever buffers the caller cut them from.
pub(super) fn detached(mut txn: Txn) -> Txn {
    for op in &mut txn.ops {
        if let Op::Put { value, .. } = op {
            *value = Bytes::copy_from_slice(value);
        }
    }
    txn
}

fn next_entry(key: Key, value: Bytes, previous: Option<&Entry>, revision: Revision) -> Entry {
    // Its versions share the key.
    let (key, create_revision, version) = match previous {
        Some(previous) => (previous.key.clone(), previous.create_revision, previous.version + 1),
        None => (key, revision, 1),
    };
    Entry { key, value, create_revision, mod_revision: revision, version }
}

/// Refuses what no state of the store could accept.
pub(super) fn check_shape(txn: &Txn) -> Result<(), StoreError> {
    let invalid = |text: String| Err(StoreError::Invalid(text));
    if txn.ops.len() > MAX_TXN_OPS || txn.preconditions.len() > MAX_TXN_OPS {
        return invalid(format!("more than {MAX_TXN_OPS} operations or preconditions"));
    }
    let mut keys = HashSet::new();
    for op in &txn.ops {
        let key = op.key();
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return invalid(format!("a key of {} bytes, it must have 1 to {MAX_KEY_BYTES}", key.len()));
        }
        if !keys.insert(key) {
            return invalid(format!("key {key} occurs twice"));
        }
        if let Op::Put { value, .. } = op
            && value.len() > MAX_VALUE_BYTES
        {
            let (key, bytes) = (key.clone(), value.len());
            return Err(StoreError::ValueTooLarge { key, bytes, limit: MAX_VALUE_BYTES });
        }
    }
    Ok(())
}
