//! What beginning, noting and ending a run does to the tables. Runs on the writer's thread.

use jiff::Timestamp;
use rusqlite::{Connection, named_params};
use storage_core::checksum::Digest;
use storage_core::id::FileId;

use super::failure::Failure;
use super::rows::{end_name, nanoseconds};
use super::sql;
use crate::course::Course;
use crate::ledger::{Recorded, RunEnd, RunId, RunKind, Tally};

fn tally_text(tally: &Tally) -> Result<String, Failure> {
    serde_json::to_string(tally).map_err(|error| Failure::Other(error.to_string()))
}

/// Closes what a kill left open, and begins a run.
pub(super) fn begin(connection: &Connection, kind: RunKind, program: &str) -> Result<RunId, Failure> {
    let at = nanoseconds(Timestamp::now());
    connection
        .prepare_cached(sql::RUN_CLOSE_OPEN)?
        .execute(named_params! { ":at": at, ":ended": end_name(RunEnd::Aborted) })?;
    let id = connection.prepare_cached(sql::RUN_BEGIN)?.query_row(
        named_params! {
            ":kind": kind.as_str(),
            ":program": program,
            ":at": at,
            ":tally": tally_text(&Tally::default())?,
        },
        |row| row.get("id"),
    )?;
    Ok(RunId(id))
}

/// Notes how far an open run is.
pub(super) fn checkpoint(
    connection: &Connection,
    run: RunId,
    tally: &Tally,
    scanned_to: Option<&FileId>,
) -> Result<(), Failure> {
    let changed = connection.prepare_cached(sql::RUN_CHECKPOINT)?.execute(named_params! {
        ":run": run.0,
        ":tally": tally_text(tally)?,
        ":scanned_to": scanned_to.map(FileId::as_str),
    })?;
    open_only(run, changed)
}

/// Ends an open run.
pub(super) fn finish(
    connection: &Connection,
    run: RunId,
    end: RunEnd,
    tally: &Tally,
    scan_complete: bool,
) -> Result<(), Failure> {
    let changed = connection.prepare_cached(sql::RUN_FINISH)?.execute(named_params! {
        ":run": run.0,
        ":at": nanoseconds(Timestamp::now()),
        ":ended": end_name(end),
        ":tally": tally_text(tally)?,
        ":scan_complete": scan_complete,
    })?;
    open_only(run, changed)
}

/// Notes how an open run goes.
pub(super) fn note_course(connection: &Connection, run: RunId, course: &Course) -> Result<(), Failure> {
    let course = serde_json::to_string(course).map_err(|error| Failure::Other(error.to_string()))?;
    let changed = connection
        .prepare_cached(sql::COURSE_NOTE)?
        .execute(named_params! { ":run": run.0, ":course": course })?;
    open_only(run, changed)
}

/// Notes the first proof of a run.
pub(super) fn note_proof(
    connection: &Connection,
    run: RunId,
    previous: Option<Digest>,
    head: Digest,
) -> Result<Recorded, Failure> {
    let changed = connection.prepare_cached(sql::PROOF_NOTE)?.execute(named_params! {
        ":run": run.0,
        ":previous": previous.as_ref().map(Digest::as_bytes),
        ":head": head.as_bytes(),
        ":at": nanoseconds(Timestamp::now()),
    })?;
    Ok(if changed > 0 { Recorded::Done } else { Recorded::Stale })
}

fn open_only(run: RunId, changed: usize) -> Result<(), Failure> {
    if changed > 0 { Ok(()) } else { Err(Failure::Other(format!("run {run} is not open"))) }
}
