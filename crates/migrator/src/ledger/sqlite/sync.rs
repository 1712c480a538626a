//! What is kept beside the files: a sync's candidates, where the source was, and what the target can do. Runs on the
//! writer's thread.

use rusqlite::{Connection, named_params};
use storage_core::metadata::Version;
use storage_core::storage::Capabilities;

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

/// Keeps what the target can do.
pub(super) fn set_target_capabilities(
    connection: &Connection,
    capabilities: &Capabilities,
) -> Result<(), Failure> {
    let json = serde_json::to_string(capabilities).map_err(|error| Failure::Other(error.to_string()))?;
    connection
        .prepare_cached(sql::TARGET_CAPABILITIES_SET)?
        .execute(named_params! { ":capabilities": json })?;
    Ok(())
}
