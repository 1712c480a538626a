-- The file system that the source was on when a run of this pair first saw it, or was last told to accept it.
ALTER TABLE binding ADD COLUMN source_place TEXT;

-- What a sync found in the target only: written by its first pass, acted on by its second.
CREATE TABLE candidates (
    id       TEXT    NOT NULL PRIMARY KEY,
    size     INTEGER NOT NULL,
    version  TEXT,
    excluded INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
