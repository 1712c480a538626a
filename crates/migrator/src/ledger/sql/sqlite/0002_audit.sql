-- What only reports and questions about single files ask for: how a run went (JSON), attempts that were followed by
-- another, proofs that were handed out.

CREATE TABLE courses (
    run    INTEGER NOT NULL PRIMARY KEY REFERENCES runs (id),
    course TEXT    NOT NULL
) STRICT;

CREATE TABLE attempts (
    id     TEXT    NOT NULL,
    run    INTEGER NOT NULL REFERENCES runs (id),
    number INTEGER NOT NULL,
    reason TEXT    NOT NULL,
    detail TEXT    NOT NULL,
    at     INTEGER NOT NULL,
    PRIMARY KEY (id, run, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE proofs (
    run      INTEGER NOT NULL PRIMARY KEY REFERENCES runs (id),
    previous BLOB,
    head     BLOB    NOT NULL,
    at       INTEGER NOT NULL
) STRICT;
