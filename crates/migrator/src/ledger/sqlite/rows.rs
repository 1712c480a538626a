//! Values and rows as the database keeps them, and back.

use std::str::FromStr;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Row, RowIndex};
use storage_core::checksum::{CompositeDigest, Digest};
use storage_core::id::FileId;
use storage_core::metadata::Version;
use storage_core::storage::{PartNumber, PartReceipt, UploadTicket, Verified};

use super::failure::Failure;
use crate::course::Course;
use crate::item::{self, Event, State};
use crate::ledger::{
    Attempt, Candidate, FileRecord, Outcome, OutcomeRecord, ProofRecord, RunEnd, RunId, RunKind, RunRecord,
};

/// Returns the states of [`item::sources`] as the statements compare them: `|copied|verified|`.
pub(super) fn sources(event: Event) -> &'static str {
    static SOURCES: LazyLock<Vec<(Event, String)>> =
        LazyLock::new(|| Event::ALL.map(|event| (event, join_states(item::sources(event)))).into());
    SOURCES.iter().find(|(known, _)| *known == event).map_or("|", |(_, states)| states)
}

/// Joins states as the statements compare them.
pub(super) fn join_states(states: impl IntoIterator<Item = State>) -> String {
    states.into_iter().fold("|".to_owned(), |text, state| text + state.as_str() + "|")
}

/// Turns a number into what the database can hold.
pub(super) fn signed(number: u64) -> Result<i64, Failure> {
    i64::try_from(number).map_err(|_| Failure::Other(format!("{number} is more than the ledger can hold")))
}

/// Nanoseconds since the epoch. The years 1677 to 2262 are kept exactly; others become the nearest of these.
pub(super) fn nanoseconds(at: Timestamp) -> i64 {
    let nanoseconds = at.as_nanosecond();
    i64::try_from(nanoseconds).unwrap_or(if nanoseconds < 0 { i64::MIN } else { i64::MAX })
}

/// As [`nanoseconds`].
pub(super) fn system_nanoseconds(at: SystemTime) -> i64 {
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(error) => i64::try_from(error.duration().as_nanos()).map_or(i64::MIN, |before| -before),
    }
}

/// Returns the name of a verifier.
pub(super) const fn verified_name(verified: Verified) -> &'static str {
    match verified {
        Verified::Backend => "backend",
        Verified::ReadBack => "read_back",
        Verified::No => "no",
    }
}

/// Returns the name of an end.
pub(super) const fn end_name(end: RunEnd) -> &'static str {
    match end {
        RunEnd::Complete => "complete",
        RunEnd::Interrupted => "interrupted",
        RunEnd::Aborted => "aborted",
    }
}

/// A column by name, or by its place where rows are read by the hundred thousand: a name is looked for among all names,
/// for each value again.
pub(super) trait Column: RowIndex + Copy + std::fmt::Display {}

impl Column for &str {}

impl Column for usize {}

/// Places of the columns in the statements that read files.
pub(super) mod place {
    /// Their names, in order.
    #[cfg(test)]
    pub(in crate::ledger::sqlite) const NAMES: [&str; 18] = [
        "id",
        "state",
        "size",
        "source_version",
        "digest",
        "composite",
        "composite_part_size",
        "composite_parts",
        "target_version",
        "verified",
        "upload",
        "upload_part_size",
        "upload_started",
        "attempts",
        "error",
        "run",
        "updated",
        "retired",
    ];

    pub(super) const ID: usize = 0;
    pub(super) const STATE: usize = 1;
    pub(super) const SIZE: usize = 2;
    pub(super) const SOURCE_VERSION: usize = 3;
    pub(super) const DIGEST: usize = 4;
    pub(super) const COMPOSITE: usize = 5;
    pub(super) const COMPOSITE_PART_SIZE: usize = 6;
    pub(super) const COMPOSITE_PARTS: usize = 7;
    pub(super) const TARGET_VERSION: usize = 8;
    pub(super) const VERIFIED: usize = 9;
    pub(super) const UPLOAD: usize = 10;
    pub(super) const UPLOAD_PART_SIZE: usize = 11;
    pub(super) const UPLOAD_STARTED: usize = 12;
    pub(super) const ATTEMPTS: usize = 13;
    pub(super) const ERROR: usize = 14;
    pub(super) const RUN: usize = 15;
    pub(super) const UPDATED: usize = 16;
    pub(super) const RETIRED: usize = 17;
}

/// A value that this program would not have written.
fn odd(row: &Row<'_>, column: impl Column, kind: Type, value: impl std::fmt::Display) -> rusqlite::Error {
    let index = column.idx(row.as_ref()).unwrap_or(0);
    rusqlite::Error::FromSqlConversionFailure(index, kind, format!("{column} {value}").into())
}

fn parsed<T>(row: &Row<'_>, column: impl Column, parse: impl Fn(&str) -> Option<T>) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str().map_err(|error| odd(row, column, Type::Text, error))?;
    parse(text).ok_or_else(|| odd(row, column, Type::Text, format_args!("{text:?} is not known")))
}

fn parsed_option<T>(
    row: &Row<'_>,
    column: impl Column,
    parse: impl Fn(&str) -> Option<T>,
) -> rusqlite::Result<Option<T>> {
    match row.get_ref(column)? {
        rusqlite::types::ValueRef::Null => Ok(None),
        _ => parsed(row, column, parse).map(Some),
    }
}

fn number<T: TryFrom<i64>>(row: &Row<'_>, column: impl Column) -> rusqlite::Result<T> {
    let number: i64 = row.get(column)?;
    T::try_from(number).map_err(|_| odd(row, column, Type::Integer, number))
}

fn number_option<T: TryFrom<i64>>(row: &Row<'_>, column: impl Column) -> rusqlite::Result<Option<T>> {
    row.get::<_, Option<i64>>(column)?
        .map(|number| T::try_from(number).map_err(|_| odd(row, column, Type::Integer, number)))
        .transpose()
}

fn time(row: &Row<'_>, column: impl Column) -> rusqlite::Result<Timestamp> {
    let nanoseconds: i64 = row.get(column)?;
    Timestamp::from_nanosecond(nanoseconds.into()).map_err(|error| odd(row, column, Type::Integer, error))
}

fn system_time(row: &Row<'_>, column: impl Column) -> rusqlite::Result<SystemTime> {
    let nanoseconds: i64 = row.get(column)?;
    let distance = Duration::from_nanos(nanoseconds.unsigned_abs());
    let time = if nanoseconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    };
    time.ok_or_else(|| odd(row, column, Type::Integer, nanoseconds))
}

/// Reads the column `digest`, or another of the kind.
pub(super) fn digest(row: &Row<'_>, column: impl Column) -> rusqlite::Result<Option<Digest>> {
    Ok(row.get::<_, Option<[u8; 32]>>(column)?.map(Digest::from_bytes))
}

fn id(row: &Row<'_>, column: impl Column) -> rusqlite::Result<FileId> {
    parsed(row, column, |text| FileId::parse(text).ok())
}

fn verified(row: &Row<'_>, column: impl Column) -> rusqlite::Result<Option<Verified>> {
    parsed_option(row, column, |text| {
        [Verified::Backend, Verified::ReadBack, Verified::No]
            .into_iter()
            .find(|one| verified_name(*one) == text)
    })
}

/// Reads the column `outcome`.
pub(super) fn outcome(row: &Row<'_>) -> rusqlite::Result<Outcome> {
    parsed(row, "outcome", |text| Outcome::ALL.into_iter().find(|outcome| outcome.as_str() == text))
}

/// Reads a column of states.
pub(super) fn state(row: &Row<'_>, column: impl Column) -> rusqlite::Result<State> {
    parsed(row, column, |text| State::from_str(text).ok())
}

/// Reads a row of `runs`.
pub(super) fn run(row: &Row<'_>) -> rusqlite::Result<RunRecord> {
    let finished = row.get::<_, Option<i64>>("finished")?.map(|_| time(row, "finished")).transpose()?;
    Ok(RunRecord {
        id: RunId(row.get("id")?),
        kind: parsed(row, "kind", |text| RunKind::ALL.into_iter().find(|kind| kind.as_str() == text))?,
        started: time(row, "started")?,
        finished,
        end: parsed_option(row, "ended", |text| {
            [RunEnd::Complete, RunEnd::Interrupted, RunEnd::Aborted]
                .into_iter()
                .find(|end| end_name(*end) == text)
        })?,
        tally: parsed(row, "tally", |text| serde_json::from_str(text).ok())?,
        scanned_to: parsed_option(row, "scanned_to", |text| FileId::parse(text).ok())?,
        scan_complete: row.get("scan_complete")?,
        program: row.get("program")?,
    })
}

/// Reads a row of `files`, with the columns of [`place`].
pub(super) fn file(row: &Row<'_>) -> rusqlite::Result<FileRecord> {
    let id = id(row, place::ID)?;
    let composite = match digest(row, place::COMPOSITE)? {
        None => None,
        Some(digest) => Some(CompositeDigest {
            digest,
            part_size: number(row, place::COMPOSITE_PART_SIZE)?,
            parts: number(row, place::COMPOSITE_PARTS)?,
        }),
    };
    let ticket = match row.get::<_, Option<String>>(place::UPLOAD)? {
        None => None,
        Some(upload) => Some(UploadTicket::new(
            id.clone(),
            upload,
            number(row, place::UPLOAD_PART_SIZE)?,
            system_time(row, place::UPLOAD_STARTED)?,
        )),
    };
    Ok(FileRecord {
        state: state(row, place::STATE)?,
        size: number(row, place::SIZE)?,
        source_version: Version::new(row.get::<_, String>(place::SOURCE_VERSION)?),
        digest: digest(row, place::DIGEST)?,
        composite,
        target_version: row.get::<_, Option<String>>(place::TARGET_VERSION)?.map(Version::new),
        verified: verified(row, place::VERIFIED)?,
        ticket,
        attempts: number(row, place::ATTEMPTS)?,
        error: row.get(place::ERROR)?,
        retired: row.get(place::RETIRED)?,
        run: RunId(row.get(place::RUN)?),
        updated: time(row, place::UPDATED)?,
        id,
    })
}

/// Reads a row of `candidates`.
pub(super) fn candidate(row: &Row<'_>) -> rusqlite::Result<Candidate> {
    Ok(Candidate {
        id: id(row, "id")?,
        size: number(row, "size")?,
        version: row.get::<_, Option<String>>("version")?.map(Version::new),
        excluded: row.get("excluded")?,
    })
}

/// Reads a row of `parts`.
pub(super) fn part(row: &Row<'_>) -> rusqlite::Result<PartReceipt> {
    let part_number: u32 = number(row, "number")?;
    let part_number =
        PartNumber::new(part_number).ok_or_else(|| odd(row, "number", Type::Integer, part_number))?;
    Ok(PartReceipt::new(
        part_number,
        number(row, "size")?,
        digest(row, "digest")?,
        row.get::<_, String>("token")?,
    ))
}

/// Reads a row of `orphans`.
pub(super) fn orphan(row: &Row<'_>) -> rusqlite::Result<UploadTicket> {
    Ok(UploadTicket::new(
        id(row, "id")?,
        row.get::<_, String>("upload")?,
        number(row, "part_size")?,
        system_time(row, "started")?,
    ))
}

/// Reads a row of `outcomes`.
pub(super) fn outcome_record(row: &Row<'_>) -> rusqlite::Result<OutcomeRecord> {
    Ok(OutcomeRecord {
        subject: row.get("subject")?,
        outcome: outcome(row)?,
        reason: row.get("reason")?,
        detail: row.get("detail")?,
        size: number_option(row, "size")?,
        digest: digest(row, "digest")?,
        verified: verified(row, "verified")?,
        attempts: number(row, "attempts")?,
        at: time(row, "at")?,
    })
}

/// Reads a row of `attempts`.
pub(super) fn attempt(row: &Row<'_>) -> rusqlite::Result<Attempt> {
    Ok(Attempt {
        run: RunId(row.get("run")?),
        number: number(row, "number")?,
        reason: row.get("reason")?,
        detail: row.get("detail")?,
        at: time(row, "at")?,
    })
}

/// Reads a row of `courses`.
pub(super) fn course(row: &Row<'_>) -> rusqlite::Result<Course> {
    parsed(row, "course", |text| serde_json::from_str(text).ok())
}

/// Reads a row of `proofs`.
pub(super) fn proof(row: &Row<'_>) -> rusqlite::Result<ProofRecord> {
    Ok(ProofRecord {
        run: RunId(row.get("run")?),
        previous: digest(row, "previous")?,
        head: Digest::from_bytes(row.get::<_, [u8; 32]>("head")?),
        at: time(row, "at")?,
    })
}
