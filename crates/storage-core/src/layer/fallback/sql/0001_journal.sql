-- Times are nanoseconds since the Unix epoch, digests are the 32 bytes of a SHA-256, lists and maps are JSON.

-- The pair of storages that the journal is about, by name, and what they were found to be capable of: who starts while
-- one of them is out cannot find out.
CREATE TABLE binding (
    one          INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    primary_name TEXT    NOT NULL,
    secondary    TEXT    NOT NULL,
    primary_can  TEXT    NOT NULL,
    secondary_can TEXT   NOT NULL
) STRICT;

-- Ids of which the two sides differ, or may. What holds:
--   file       the newest version is on the secondary
--   tombstone  the file was deleted; either side may still hold a copy
--   stale      the newest state is that of the primary; the secondary's copy must not be used
-- base: what the primary held before the first write that it missed. ours: digests of our own writes that may
-- have reached the primary all the same.
CREATE TABLE entries (
    id             TEXT    NOT NULL PRIMARY KEY,
    what           TEXT    NOT NULL CHECK (what IN ('file', 'tombstone', 'stale')),
    size           INTEGER,
    digest         BLOB,
    content_type   TEXT,
    file_name      TEXT,
    created_secs   INTEGER,
    created_nanos  INTEGER,
    tags           TEXT,
    version        TEXT,
    base           TEXT    NOT NULL CHECK (base IN ('unknown', 'absent', 'version')),
    base_version   TEXT,
    ours           TEXT    NOT NULL,
    conflict       TEXT,
    theirs         TEXT,
    at             INTEGER NOT NULL,
    CHECK (what <> 'file' OR (size IS NOT NULL AND digest IS NOT NULL)),
    CHECK ((base = 'version') = (base_version IS NOT NULL))
) STRICT, WITHOUT ROWID;

-- Writes to the secondary that were begun and not acknowledged.
CREATE TABLE intents (
    id             TEXT    NOT NULL PRIMARY KEY,
    size           INTEGER NOT NULL,
    digest         BLOB    NOT NULL,
    base           TEXT    NOT NULL CHECK (base IN ('unknown', 'absent', 'version')),
    base_version   TEXT,
    ours           TEXT    NOT NULL,
    at             INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
