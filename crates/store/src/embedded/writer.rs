//! The one thread that changes anything: it takes all waiting commands, puts them on disk together, publishes, answers.

use std::{
    sync::{Arc, Mutex, RwLock, atomic::AtomicBool, atomic::AtomicU64, atomic::Ordering, mpsc},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    Counters, Options, Shared,
    batch::Batch,
    disk::{Changes, Dead, Disk, Loaded},
    groups::Groups,
    history::entry_bytes,
    leases::Leases,
    state::State,
};
use crate::{Clock, Committed, Event, LeaseId, Revision, StoreError, Txn};

/// Useless rows are deleted this many at a time, with the next batch: they lie close together then, and the floor is
/// written once for all of them.
const TRIM_ROWS: usize = 512;

/// Or when they have this many bytes.
const TRIM_BYTES: usize = 4 * 1024 * 1024;

/// Most rows deleted with one batch, so that nobody waits for long.
const TRIM_MAX_ROWS: usize = 4096;

/// On a full disk history becomes this short, so that its rows make room for deletions.
const KEPT_WHEN_FULL: Revision = 64;

/// And so many useless rows go with every batch: few, because deleting needs room in the write-ahead log.
const TRIM_WHEN_FULL: usize = 32;

/// Rows between two looks at the history's bounds while loading.
const LOAD_SETTLE_ROWS: usize = 1024;

/// Expired leases wait this long for their next try when the disk refused to end them.
const EXPIRY_RETRY: Duration = Duration::from_secs(1);

/// Expiry stops taking leases into a batch that deletes this many keys.
const EXPIRY_ROWS: usize = 1024;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

pub(super) enum Command {
    Txn { txn: Txn, reply: Reply<Committed> },
    Compact { revision: Revision, reply: Reply<()> },
    LeaseGrant { ttl: Duration, reply: Reply<LeaseId> },
    LeaseKeepAlive { id: LeaseId, reply: Reply<()> },
    LeaseRevoke { id: LeaseId, reply: Reply<()> },
    Tick { reply: Reply<()> },
    Close { reply: Reply<()> },
}

pub(super) struct Request {
    pub command: Command,
    /// The place in the queue, given back when the writer takes the request.
    pub place: Option<OwnedSemaphorePermit>,
}

pub(super) struct Writer {
    queue: mpsc::Receiver<Request>,
    shared: Arc<Shared>,
    disk: Disk,
    leases: Leases,
    clock: Arc<dyn Clock>,
    /// Rows to delete from the log.
    dead: Vec<Dead>,
    /// No lease is expired before this time.
    expiry_after: Duration,
    /// The disk is full: only urgent transactions are taken.
    full: bool,
}

impl Writer {
    /// Opens the disk and reads it into memory.
    pub fn open(
        options: &Options,
        queue: mpsc::Receiver<Request>,
    ) -> Result<(Self, Arc<Shared>), StoreError> {
        let disk = Disk::open(&options.dir)?;
        let now = options.clock.now();
        let (granted, last_lease) = disk.leases()?;
        let mut leases = Leases::new(last_lease);
        // Their time starts again: nobody could keep them alive while the store was closed.
        granted.into_iter().for_each(|(id, ttl)| leases.grant(id, ttl, now));
        let (state, dead) = load(&disk, &mut leases, options, now)?;
        let shared = Arc::new(Shared {
            published: AtomicU64::new(state.revision()),
            state: RwLock::new(state),
            groups: Groups::default(),
            counters: Mutex::new(Counters { leases: leases.len() as u64, ..Counters::default() }),
            closed: AtomicBool::new(false),
        });
        let clock = options.clock.clone();
        let expiry_after = Duration::ZERO;
        let writer =
            Self { queue, shared: shared.clone(), disk, leases, clock, dead, expiry_after, full: false };
        Ok((writer, shared))
    }

    /// Works until the store is closed.
    pub fn run(mut self) {
        let close = loop {
            let first = match self.wait() {
                Ok(first) => Some(first),
                Err(mpsc::RecvTimeoutError::Timeout) => None,
                Err(mpsc::RecvTimeoutError::Disconnected) => break None,
            };
            if let Some(reply) = self.round(first) {
                break Some(reply);
            }
        };
        self.shared.close();
        let closed = self.disk.close();
        if let Some(reply) = close {
            // Nobody listens when the store was dropped instead of closed.
            let _ = reply.send(closed);
        }
    }

    fn wait(&self) -> Result<Request, mpsc::RecvTimeoutError> {
        match self.leases.next_deadline() {
            None => self.queue.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
            Some(deadline) => {
                let deadline = deadline.max(self.expiry_after);
                self.queue.recv_timeout(deadline.saturating_sub(self.clock.now()))
            }
        }
    }

    /// One batch: `first` and all that waits. Returns whom to tell when the store is to be closed.
    fn round(&mut self, first: Option<Request>) -> Option<Reply<()>> {
        let now = self.clock.now();
        let mut close = None;
        self.full = self.disk.reserve.is_closed(now);
        let shared = self.shared.clone();
        let state = shared.read();
        let mut batch = Batch::new(state.revision());
        if self.full {
            batch.compact = Some(state.revision().saturating_sub(KEPT_WHEN_FULL));
        }
        self.expire(&mut batch, &state, now);
        let mut next = first;
        while let Some(Request { command, place }) = next {
            drop(place);
            close = match (self.full, command) {
                (true, Command::Txn { txn, reply }) if !txn.urgent => refuse(reply),
                (true, Command::LeaseGrant { reply, .. }) => refuse(reply),
                (_, command) => self.stage(&mut batch, &state, command, now),
            };
            let more = close.is_none() && batch.has_room();
            next = if more { self.queue.try_recv().ok() } else { None };
        }
        drop(state);
        self.commit(batch, now);
        self.disk.checkpoint_when_due();
        close
    }

    fn expire(&mut self, batch: &mut Batch, state: &State, now: Duration) {
        if now < self.expiry_after {
            return;
        }
        for id in self.leases.expired(now) {
            batch.urgent = true;
            batch.revoke(state, &self.leases, id);
            if batch.changes.rows.len() >= EXPIRY_ROWS {
                break;
            }
        }
    }

    fn stage(
        &mut self,
        batch: &mut Batch,
        state: &State,
        command: Command,
        now: Duration,
    ) -> Option<Reply<()>> {
        match command {
            Command::Txn { txn, reply } => batch.txn(state, &self.leases, txn, reply),
            Command::Compact { revision, reply } => {
                let current_revision = batch.revision();
                let future = revision > current_revision;
                if !future {
                    batch.compact = batch.compact.max(Some(revision));
                }
                let error = StoreError::Future { asked: revision, current_revision };
                batch.answer_later(reply, if future { Err(error) } else { Ok(()) });
            }
            Command::LeaseGrant { ttl, reply } => {
                let id = self.leases.next_id();
                batch.grant(id, ttl);
                batch.answer_later(reply, Ok(id));
            }
            Command::LeaseKeepAlive { id, reply } => {
                let alive = !batch.changes.revoked.contains(&id) && self.leases.keep_alive(id, now);
                batch.answer_later(reply, if alive { Ok(()) } else { Err(StoreError::LeaseNotFound(id)) });
            }
            Command::LeaseRevoke { id, reply } => {
                let known = self.leases.contains(id) && !batch.changes.revoked.contains(&id);
                if known {
                    batch.revoke(state, &self.leases, id);
                }
                batch.answer_later(reply, if known { Ok(()) } else { Err(StoreError::LeaseNotFound(id)) });
            }
            Command::Tick { reply } => batch.answer_later(reply, Ok(())),
            Command::Close { reply } => return Some(reply),
        }
        None
    }

    fn commit(&mut self, batch: Batch, now: Duration) {
        let synced = self.sync(&batch);
        if let Err(error) = &synced {
            tracing::warn!(%error, transactions = batch.transactions, "the disk refused a batch");
            self.shared.counters().failed_batches += 1;
            self.expiry_after = now.saturating_add(EXPIRY_RETRY);
            return batch.answer(&synced);
        }
        self.publish(batch, now);
    }

    fn sync(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if batch.changes.is_empty() {
            return Ok(());
        }
        let started = self.clock.now();
        let bytes: usize = self.dead.iter().map(|dead| dead.bytes).sum();
        let trim = match self.dead.len() {
            rows if self.full => rows.min(TRIM_WHEN_FULL),
            rows if rows >= TRIM_ROWS || bytes >= TRIM_BYTES => rows.min(TRIM_MAX_ROWS),
            _ => 0,
        };
        let floor = self.shared.read().compact_revision();
        let dead = (trim > 0).then_some((&self.dead[..trim], floor));
        self.disk.write(&batch.changes, dead, batch.urgent)?;
        self.dead.drain(..trim);
        let took = self.clock.now().saturating_sub(started);
        self.shared.counters().batch_synced(took, batch.transactions);
        Ok(())
    }

    fn publish(&mut self, batch: Batch, now: Duration) {
        let events: Vec<Arc<Event>> = batch.changes.rows.iter().map(|row| row.event.clone()).collect();
        let mut state = self.shared.write();
        events.iter().for_each(|event| state.apply(event.clone()));
        let mut dropped = state.settle(now);
        // Staged only when not in the future.
        dropped.extend(batch.compact.and_then(|revision| state.compact(revision).ok()).unwrap_or_default());
        let touched = self.shared.groups.publish(&events, &dropped);
        let revision = state.revision();
        self.shared.published.store(revision, Ordering::Release);
        drop(state);
        self.update_leases(&batch.changes, now);
        dropped.iter().for_each(|event| bury(event, &mut self.dead));
        if batch.compact.is_some() && !self.full {
            self.trim_now();
        }
        batch.answer(&Ok(()));
        touched.wake(revision);
    }

    fn update_leases(&mut self, changes: &Changes, now: Duration) {
        for row in &changes.rows {
            self.leases.bind(&row.event.key, row.lease);
        }
        changes.granted.iter().for_each(|(id, ttl)| self.leases.grant(*id, *ttl, now));
        changes.revoked.iter().for_each(|id| self.leases.revoke(*id));
        self.shared.counters().leases = self.leases.len() as u64;
    }

    /// Makes a compaction felt on disk at once; what fails is done with a later batch.
    fn trim_now(&mut self) {
        let floor = self.shared.read().compact_revision();
        match self.disk.write(&Changes::default(), Some((&self.dead, floor)), false) {
            Ok(()) => self.dead.clear(),
            Err(error) => tracing::warn!(%error, "cannot delete compacted rows yet"),
        }
    }
}

/// Answers what a full disk has no room for.
fn refuse<T>(reply: Reply<T>) -> Option<Reply<()>> {
    // Nobody listens any more when the caller's future was dropped.
    let _ = reply.send(Err(StoreError::StorageFull("database or disk is full".into())));
    None
}

/// Notes which rows a forgotten event makes useless: the one it replaced, and its own when it was a deletion.
fn bury(event: &Event, dead: &mut Vec<Dead>) {
    if let Some(previous) = &event.previous {
        let (revision, key) = (previous.mod_revision, event.key.clone());
        dead.push(Dead { revision, key, bytes: entry_bytes(previous) });
    }
    if event.entry.is_none() {
        dead.push(Dead { revision: event.revision, key: event.key.clone(), bytes: event.key.len() });
    }
}

/// Plays the log back: what is above the floor becomes history again, what is below only counts as it ended.
fn load(
    disk: &Disk,
    leases: &mut Leases,
    options: &Options,
    now: Duration,
) -> Result<(State, Vec<Dead>), StoreError> {
    let floor = disk.floor()?;
    let mut state = State::new(floor, options.limits());
    let mut dead = Vec::new();
    let mut rows = 0;
    disk.load(|row| {
        leases.bind(&row.key, row.lease);
        replay(&mut state, row, floor, &mut dead);
        rows += 1;
        if rows % LOAD_SETTLE_ROWS == 0 {
            state.settle(now).iter().for_each(|event| bury(event, &mut dead));
        }
    })?;
    state.settle(now).iter().for_each(|event| bury(event, &mut dead));
    Ok((state, dead))
}

fn replay(state: &mut State, row: Loaded, floor: Revision, dead: &mut Vec<Dead>) {
    let Loaded { key, revision, entry, .. } = row;
    let previous = state.current(&key).cloned();
    let event = Event { revision, key, entry, previous };
    if revision > floor {
        state.apply(Arc::new(event));
    } else {
        // It was deleted from the log in part, or its turn had not come when the store was closed.
        bury(&event, dead);
        state.restore(&event.key, event.entry.clone());
    }
}
