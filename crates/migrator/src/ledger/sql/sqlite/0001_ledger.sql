-- Times are nanoseconds since the Unix epoch, digests are the 32 bytes of a SHA-256. Texts compare by their
-- bytes (BINARY, SQLite's default), which is the order that listings have.

CREATE TABLE binding (
    one     INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    source  TEXT    NOT NULL,
    target  TEXT    NOT NULL,
    created INTEGER NOT NULL
) STRICT;

CREATE TABLE runs (
    id            INTEGER NOT NULL PRIMARY KEY,
    kind          TEXT    NOT NULL,
    program       TEXT    NOT NULL,
    started       INTEGER NOT NULL,
    finished      INTEGER,
    ended         TEXT,
    tally         TEXT    NOT NULL,
    scanned_to    TEXT,
    scan_complete INTEGER NOT NULL DEFAULT 0,
    CHECK ((finished IS NULL) = (ended IS NULL))
) STRICT;

CREATE TABLE files (
    id                  TEXT    NOT NULL PRIMARY KEY,
    state               TEXT    NOT NULL,
    size                INTEGER NOT NULL,
    source_version      TEXT    NOT NULL,
    digest              BLOB,
    composite           BLOB,
    composite_part_size INTEGER,
    composite_parts     INTEGER,
    target_version      TEXT,
    verified            TEXT,
    upload              TEXT,
    upload_part_size    INTEGER,
    upload_started      INTEGER,
    attempts            INTEGER NOT NULL,
    error               TEXT,
    run                 INTEGER NOT NULL REFERENCES runs (id),
    updated             INTEGER NOT NULL,
    CHECK (state <> 'verified' OR (digest IS NOT NULL AND verified IS NOT NULL))
) STRICT, WITHOUT ROWID;

CREATE TABLE parts (
    id     TEXT    NOT NULL REFERENCES files (id),
    number INTEGER NOT NULL,
    size   INTEGER NOT NULL,
    digest BLOB,
    token  TEXT    NOT NULL,
    PRIMARY KEY (id, number)
) STRICT, WITHOUT ROWID;

-- Uploads that were begun and are no longer wanted. Not bound to a row of files: they outlive it.
CREATE TABLE orphans (
    id        TEXT    NOT NULL,
    upload    TEXT    NOT NULL,
    part_size INTEGER NOT NULL,
    started   INTEGER NOT NULL,
    PRIMARY KEY (id, upload)
) STRICT, WITHOUT ROWID;

CREATE TABLE outcomes (
    run      INTEGER NOT NULL REFERENCES runs (id),
    subject  TEXT    NOT NULL,
    outcome  TEXT    NOT NULL,
    reason   TEXT    NOT NULL,
    detail   TEXT,
    size     INTEGER,
    digest   BLOB,
    verified TEXT,
    attempts INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    PRIMARY KEY (run, subject)
) STRICT, WITHOUT ROWID;
