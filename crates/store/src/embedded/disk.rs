//! The durable part: a log in SQLite (see `schema.sql`), one SQLite transaction and one sync for each batch.
//!
//! SQLite keeps the file exclusively locked, so nobody can change it behind the index, and needs no shared memory.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior, params};

use super::reserve::Reserve;
use crate::{Entry, Event, Key, LeaseId, MAX_TXN_OPS, Revision, StoreError};

/// The layout that `schema.sql` makes.
const SCHEMA_VERSION: i64 = 1;

/// Checkpoint when about this many pages are in the write-ahead log (4 MiB): small enough to keep the file small,
/// large enough that a page that changes often is copied rarely. Small disks have fewer.
const CHECKPOINT_PAGES: usize = 1000;
const LEAST_CHECKPOINT_PAGES: usize = 16;

const PAGE_BYTES: usize = 4096;

/// `locking_mode` comes before `journal_mode`: only then does SQLite keep the log's index in its own memory.
/// The automatic checkpoint is the second line behind [`Disk::checkpoint_when_due`], which runs between batches.
const SETTINGS: &str = "
    PRAGMA page_size = 4096;
    PRAGMA locking_mode = EXCLUSIVE;
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA cache_size = -1024;
    PRAGMA mmap_size = 0;
    PRAGMA temp_store = MEMORY;
    PRAGMA wal_autocheckpoint = 4000;
    PRAGMA journal_size_limit = 16777216;
";

const INSERT: &str =
    "INSERT INTO log (id, key, value, create_revision, version, lease) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
const DELETE: &str = "DELETE FROM log WHERE id BETWEEN ?1 AND ?2 AND key = ?3";
const SET_FLOOR: &str =
    "INSERT INTO meta VALUES ('compact_revision', ?1) ON CONFLICT DO UPDATE SET value = ?1";

/// An event on its way to the log.
pub(super) struct Row {
    pub event: Arc<Event>,
    /// Place within its transaction.
    pub position: usize,
    pub lease: Option<LeaseId>,
}

/// A row that nobody needs any more.
pub(super) struct Dead {
    pub revision: Revision,
    pub key: Key,
    /// Its size, to bound how much waits to be deleted.
    pub bytes: usize,
}

/// What one batch does to the disk.
#[derive(Default)]
pub(super) struct Changes {
    pub rows: Vec<Row>,
    pub granted: Vec<(LeaseId, Duration)>,
    pub revoked: Vec<LeaseId>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.granted.is_empty() && self.revoked.is_empty()
    }
}

/// A row as read back at the start.
pub(super) struct Loaded {
    pub key: Key,
    pub revision: Revision,
    /// `None` = deleted.
    pub entry: Option<Arc<Entry>>,
    pub lease: Option<LeaseId>,
}

pub(super) struct Disk {
    conn: Connection,
    /// Estimated pages in the write-ahead log since the last checkpoint.
    wal_pages: usize,
    /// How many there may be.
    checkpoint_pages: usize,
    /// What is kept for a full disk.
    pub reserve: Reserve,
    /// Held for as long as the store is open.
    _lock: File,
}

impl Disk {
    /// Opens or creates the store's files and locks them.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        // Secrets lie in here.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| io_error(&format!("cannot create {}", dir.display()), &e))?;
        let lock = lock(dir)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut conn = Connection::open_with_flags(dir.join("store.db"), flags).map_err(disk_error)?;
        conn.execute_batch(SETTINGS).map_err(disk_error)?;
        check_durable(&conn)?;
        prepare_schema(&mut conn)?;
        let reserve = Reserve::open(dir);
        let pages = usize::try_from(reserve.log_bytes()).unwrap_or(usize::MAX) / PAGE_BYTES;
        let checkpoint_pages = pages.clamp(LEAST_CHECKPOINT_PAGES, CHECKPOINT_PAGES);
        Ok(Self { conn, wal_pages: 0, checkpoint_pages, reserve, _lock: lock })
    }

    /// The oldest revision that the log can tell.
    pub fn floor(&self) -> Result<Revision, StoreError> {
        let query = "SELECT value FROM meta WHERE name = 'compact_revision'";
        let floor: Option<i64> =
            self.conn.query_row(query, [], |row| row.get(0)).optional().map_err(disk_error)?;
        unsigned(floor.unwrap_or(0))
    }

    /// The leases with their times to live, and the highest lease id ever given.
    pub fn leases(&self) -> Result<(Vec<(LeaseId, Duration)>, LeaseId), StoreError> {
        let mut query = self.conn.prepare("SELECT id, ttl_ms FROM lease").map_err(disk_error)?;
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?))).map_err(disk_error)?;
        let mut leases = Vec::new();
        for row in rows {
            let (id, ttl_ms) = row.map_err(disk_error)?;
            leases.push((id, Duration::from_millis(unsigned(ttl_ms)?)));
        }
        let query = "SELECT seq FROM sqlite_sequence WHERE name = 'lease'";
        let last: Option<i64> =
            self.conn.query_row(query, [], |row| row.get(0)).optional().map_err(disk_error)?;
        Ok((leases, last.unwrap_or(0)))
    }

    /// Reads the whole log, oldest row first.
    pub fn load(&self, mut each: impl FnMut(Loaded)) -> Result<(), StoreError> {
        let query = "SELECT id, key, value, create_revision, version, lease FROM log ORDER BY id";
        let mut query = self.conn.prepare(query).map_err(disk_error)?;
        let mut rows = query.query([]).map_err(disk_error)?;
        while let Some(row) = rows.next().map_err(disk_error)? {
            each(loaded(row)?);
        }
        Ok(())
    }

    /// Writes a batch and syncs. With `trim`, also deletes those rows and notes the floor that made them useless.
    /// An urgent batch may use the reserve. On an error nothing of it was done.
    pub fn write(
        &mut self,
        changes: &Changes,
        trim: Option<(&[Dead], Revision)>,
        urgent: bool,
    ) -> Result<(), StoreError> {
        let full = |result: &Result<(), StoreError>| matches!(result, Err(StoreError::StorageFull(_)));
        let mut result = write(&mut self.conn, changes, trim).map_err(disk_error);
        // Once it is checkpointed, the write-ahead log's own space serves again.
        if full(&result) && self.wal_pages > 0 && self.checkpoint() {
            result = write(&mut self.conn, changes, trim).map_err(disk_error);
        }
        if full(&result) {
            self.reserve.close();
        }
        while urgent && full(&result) && self.reserve.give() {
            self.checkpoint();
            result = write(&mut self.conn, changes, trim).map_err(disk_error);
        }
        let trimmed = trim.map_or(0, |(dead, _)| dead.len() / 2);
        self.wal_pages += changes.rows.iter().map(pages).sum::<usize>() + trimmed + 2;
        result
    }

    /// Moves the write-ahead log into the file when it has grown. Called when nobody waits for an answer.
    pub fn checkpoint_when_due(&mut self) {
        if self.wal_pages >= self.checkpoint_pages {
            self.checkpoint();
        }
    }

    /// Whether the write-ahead log is in the file now.
    fn checkpoint(&mut self) -> bool {
        match self.conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
            Ok(()) => {
                self.wal_pages = 0;
                true
            }
            // It costs only space: everything stays in the write-ahead log.
            Err(error) => {
                self.wal_pages = self.checkpoint_pages / 2;
                tracing::warn!(%error, "cannot checkpoint the store");
                false
            }
        }
    }

    /// Closes the file; SQLite checkpoints and removes the write-ahead log.
    pub fn close(self) -> Result<(), StoreError> {
        self.conn.close().map_err(|(_, error)| disk_error(error))
    }
}

fn write(
    conn: &mut Connection,
    changes: &Changes,
    trim: Option<(&[Dead], Revision)>,
) -> Result<(), rusqlite::Error> {
    // Dropped without a commit, it rolls back.
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    insert_rows(&tx, &changes.rows)?;
    for (id, ttl) in &changes.granted {
        let ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        tx.prepare_cached("INSERT INTO lease (id, ttl_ms) VALUES (?1, ?2)")?.execute(params![id, ttl_ms])?;
    }
    for id in &changes.revoked {
        tx.prepare_cached("DELETE FROM lease WHERE id = ?1")?.execute(params![id])?;
    }
    if let Some((dead, floor)) = trim {
        delete_rows(&tx, dead)?;
        tx.prepare_cached(SET_FLOOR)?.execute(params![signed(floor)])?;
    }
    tx.commit()
}

fn insert_rows(conn: &Connection, rows: &[Row]) -> Result<(), rusqlite::Error> {
    let mut insert = conn.prepare_cached(INSERT)?;
    for Row { event, position, lease } in rows {
        let id = row_id(event.revision, *position);
        let key = &*event.key;
        match &event.entry {
            Some(entry) => {
                let (created, version) = (signed(entry.create_revision), signed(entry.version));
                insert.execute(params![id, key, &*entry.value, created, version, lease])?
            }
            None => insert.execute(params![id, key, None::<&[u8]>, 0, 0, lease])?,
        };
    }
    Ok(())
}

fn delete_rows(conn: &Connection, dead: &[Dead]) -> Result<(), rusqlite::Error> {
    let mut delete = conn.prepare_cached(DELETE)?;
    for Dead { revision, key, .. } in dead {
        let (first, last) = (row_id(*revision, 0), row_id(*revision, MAX_TXN_OPS - 1));
        delete.execute(params![first, last, &**key])?;
    }
    Ok(())
}

fn loaded(row: &rusqlite::Row<'_>) -> Result<Loaded, StoreError> {
    let text = |e: std::str::Utf8Error| StoreError::Corrupt(format!("key is not text: {e}"));
    let get = |column| row.get::<_, i64>(column).map_err(disk_error).and_then(unsigned);
    let revision = get(0)? / MAX_TXN_OPS as u64;
    let key =
        row.get_ref(1).map_err(disk_error)?.as_bytes().map_err(|e| StoreError::Corrupt(e.to_string()))?;
    let key: Key = std::str::from_utf8(key).map_err(text)?.into();
    let value = row.get_ref(2).map_err(disk_error)?;
    let value = value.as_blob_or_null().map_err(|e| StoreError::Corrupt(e.to_string()))?;
    let (create_revision, version) = (get(3)?, get(4)?);
    let entry = value.map(|value| {
        let (key, value) = (key.clone(), Bytes::copy_from_slice(value));
        Arc::new(Entry { key, value, create_revision, mod_revision: revision, version })
    });
    Ok(Loaded { key, revision, entry, lease: row.get(5).map_err(disk_error)? })
}

/// SQLite ignores settings that it cannot follow; these two are what an acknowledgement rests on.
fn check_durable(conn: &Connection) -> Result<(), StoreError> {
    const FULL: i64 = 2;
    let journal: String = conn.query_row("PRAGMA journal_mode", [], |row| row.get(0)).map_err(disk_error)?;
    let synchronous: i64 = conn.query_row("PRAGMA synchronous", [], |row| row.get(0)).map_err(disk_error)?;
    if journal != "wal" || synchronous != FULL {
        return Err(StoreError::Io(format!(
            "SQLite would run with journal {journal}, synchronous {synchronous}"
        )));
    }
    Ok(())
}

fn prepare_schema(conn: &mut Connection) -> Result<(), StoreError> {
    let found: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(disk_error)?;
    match found {
        0 => {
            let tx = conn.transaction().map_err(disk_error)?;
            tx.execute_batch(include_str!("schema.sql")).map_err(disk_error)?;
            tx.commit().map_err(disk_error)
        }
        SCHEMA_VERSION => Ok(()),
        other => Err(StoreError::Corrupt(format!(
            "layout {other} is not {SCHEMA_VERSION}, the one this version knows"
        ))),
    }
}

/// Takes the directory's lock file, which names its holder for those who come second.
fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let error = |e: &std::io::Error| io_error(&format!("cannot lock {}", path.display()), e);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&path).map_err(|e| error(&e))?;
    match file.try_lock() {
        Ok(()) => (),
        Err(TryLockError::WouldBlock) => {
            return Err(StoreError::Locked { path: dir.into(), holder: holder(&mut file) });
        }
        Err(TryLockError::Error(e)) => return Err(error(&e)),
    }
    // The name is a courtesy: a full disk must not keep the store from opening.
    let _ = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| write!(file, "pid {}", std::process::id()));
    Ok(file)
}

fn holder(file: &mut File) -> String {
    /// A pid and some slack; the file is ours, but nobody is stopped from writing to it.
    const HOLDER_BYTES: u64 = 64;
    let mut holder = String::new();
    match file.take(HOLDER_BYTES).read_to_string(&mut holder) {
        Ok(n) if n > 0 => holder.trim().to_owned(),
        _ => "another process".to_owned(),
    }
}

fn pages(row: &Row) -> usize {
    1 + (row.event.key.len() + row.event.entry.as_ref().map_or(0, |e| e.value.len())) / PAGE_BYTES
}

fn row_id(revision: Revision, position: usize) -> i64 {
    signed(revision * MAX_TXN_OPS as u64 + position as u64)
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).expect("2^56 transactions take longer than a computer lives")
}

fn unsigned(n: i64) -> Result<u64, StoreError> {
    u64::try_from(n).map_err(|_| StoreError::Corrupt(format!("negative number {n}")))
}

fn io_error(what: &str, error: &std::io::Error) -> StoreError {
    let text = format!("{what}: {error}");
    if error.kind() == std::io::ErrorKind::StorageFull {
        StoreError::StorageFull(text)
    } else {
        StoreError::Io(text)
    }
}

fn disk_error(error: rusqlite::Error) -> StoreError {
    let text = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::StorageFull(text),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Corrupt(text),
        Some(_) => StoreError::Io(text),
        // Not from SQLite but from reading its columns: the table holds what we never wrote.
        None => StoreError::Corrupt(text),
    }
}
