//! What a sync keeps beside the files: its candidates, and where the source was. Runs on the writer's thread.

use rusqlite::{Connection, named_params};
use storage_core::metadata::Version;

use super::failure::Failure;
use super::rows::signed;
use super::sql;
use crate::ledger::Candidate;

/// Forgets all candidates.
pub(super) fn clear(connection: &Connection) -> Result<(), Failure> {
    connection.prepare_cached(sql::CANDIDATES_CLEAR)?.execute(())?;
    Ok(())
}

/// Keeps candidates.
pub(super) fn add(connection: &Connection, candidates: &[Candidate]) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(sql::CANDIDATE_ADD)?;
    for candidate in candidates {
        statement.execute(named_params! {
            ":id": candidate.id.as_str(),
            ":size": signed(candidate.size)?,
            ":version": candidate.version.as_ref().map(Version::as_str),
            ":excluded": candidate.excluded,
        })?;
    }
    Ok(())
}

/// Keeps where the source is.
pub(super) fn set_source_place(connection: &Connection, place: &str) -> Result<(), Failure> {
    connection.prepare_cached(sql::SOURCE_PLACE_SET)?.execute(named_params! { ":place": place })?;
    Ok(())
}
