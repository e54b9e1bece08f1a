-- The store's one file. To look inside, stop the store (or copy store.db together with store.db-wal) and:
--
--     sqlite3 store.db "SELECT key, mod_revision, value FROM current WHERE key LIKE '/registry/pods/%'"
--
-- The log holds one row for each change. A row that was replaced stays for as long as the history needs it and is
-- deleted then, so the file stays near the size of the live data; freed pages are used again.

CREATE TABLE log (
    -- revision * 128 + position within the transaction: rows are appended in order, no other index is needed.
    id              INTEGER PRIMARY KEY,
    key             TEXT    NOT NULL,
    value           BLOB,              -- NULL: the key was deleted
    create_revision INTEGER NOT NULL,
    version         INTEGER NOT NULL,
    lease           INTEGER
);

CREATE TABLE lease (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    ttl_ms INTEGER NOT NULL
);

-- compact_revision: the oldest revision that the log can still tell.
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;

-- What a read now returns.
CREATE VIEW current AS
    SELECT key, id / 128 AS mod_revision, create_revision, version, lease, CAST(value AS TEXT) AS value
    FROM (SELECT key, max(id) AS id, create_revision, version, lease, value FROM log GROUP BY key)
    WHERE value IS NOT NULL;

PRAGMA user_version = 1;
