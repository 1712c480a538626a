//! What each change does to the tables. Everything here runs on the writer's thread, within its transaction.
//!
//! Each change is one compare-and-set: the statement names the states in which the event can happen, and no
//! row touched means [`Recorded::Stale`].

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, named_params};
use storage_core::checksum::Digest;
use storage_core::id::FileId;
use storage_core::metadata::Version;
use storage_core::storage::{PartReceipt, UploadTicket, Verified};

use super::failure::Failure;
use super::rows::{self, nanoseconds, signed, sources, system_nanoseconds, verified_name};
use super::sql;
use crate::item::{Event, State};
use crate::ledger::{Change, Outcome, OutcomeRecord, Published, Recorded, RunId};

/// Applies the changes of one call, in order.
pub(super) fn apply_all(
    connection: &Connection,
    run: RunId,
    changes: &[Change],
) -> Result<Vec<Recorded>, Failure> {
    let open = connection.prepare_cached(sql::RUN_IS_OPEN)?.exists(named_params! { ":run": run.0 })?;
    if !open {
        return Err(Failure::Other(format!("run {run} is not open")));
    }
    let book = Book { connection, run, now: Timestamp::now() };
    changes.iter().map(|change| book.apply(change)).collect()
}

/// What a statement found in the row it changed.
struct Row {
    size: u64,
    digest: Option<Digest>,
}

struct Book<'a> {
    connection: &'a Connection,
    run: RunId,
    now: Timestamp,
}

impl Book<'_> {
    fn apply(&self, change: &Change) -> Result<Recorded, Failure> {
        let done = match change {
            Change::Intend { id, size, source_version } => self.intend(id, *size, source_version)?,
            Change::UploadBegun { ticket } => self.upload_begun(ticket)?,
            Change::PartStored { id, part } => self.part_stored(id, part)?,
            Change::UploadEnded { id } => self.upload_ended(id)?,
            Change::Published { id, published, attempts } => self.published(id, published, *attempts)?,
            Change::Arrived { id, size, source_version, published, attempts } => {
                self.arrived(id, *size, source_version, published, *attempts)?
            }
            Change::Confirmed { id, by, attempts } => self.confirmed(id, *by, *attempts)?,
            Change::Tried { id, number, reason, detail } => {
                self.tried(id, *number, reason, detail)?;
                true
            }
            Change::Failed { id, reason, detail, attempts } => self.failed(id, reason, detail, *attempts)?,
            Change::Damaged { id, outcome, detail } => self.damaged(id, *outcome, detail)?,
            Change::Gone { id } => self.gone(id)?,
            Change::Retired { id, place } => self.retired(id, place)?,
            Change::Returned { id } => self.returned(id)?,
            Change::Noted(record) => {
                self.journal(record)?;
                true
            }
        };
        Ok(if done { Recorded::Done } else { Recorded::Stale })
    }

    fn intend(&self, id: &FileId, size: u64, source_version: &Version) -> Result<bool, Failure> {
        let size = signed(size)?;
        self.drop_upload(id, Event::Intend, None, Some((size, source_version)))?;
        let changed = self.connection.prepare_cached(sql::INTEND)?.execute(named_params! {
            ":id": id.as_str(),
            ":state": State::Copying.as_str(),
            ":size": size,
            ":source_version": source_version.as_str(),
            ":sources": sources(Event::Intend),
            ":run": self.run.0,
            ":at": nanoseconds(self.now),
        })?;
        Ok(changed > 0)
    }

    /// Makes the file's open upload an orphan and forgets its parts, unless it is `keep` or of the same bytes.
    /// To be called before the change itself, which forgets the ticket.
    fn drop_upload(
        &self,
        id: &FileId,
        event: Event,
        keep: Option<&str>,
        same: Option<(i64, &Version)>,
    ) -> Result<(), Failure> {
        let dropped = self.connection.prepare_cached(sql::ORPHAN_UPLOAD)?.execute(named_params! {
            ":id": id.as_str(),
            ":sources": sources(event),
            ":upload": keep,
            ":size": same.map(|(size, _)| size),
            ":source_version": same.map(|(_, version)| version.as_str()),
        })?;
        if dropped > 0 {
            self.forget_parts(id)?;
        }
        Ok(())
    }

    fn forget_parts(&self, id: &FileId) -> Result<(), Failure> {
        self.connection.prepare_cached(sql::PARTS_FORGET)?.execute(named_params! { ":id": id.as_str() })?;
        Ok(())
    }

    fn upload_begun(&self, ticket: &UploadTicket) -> Result<bool, Failure> {
        self.drop_upload(&ticket.id, Event::Upload, Some(&ticket.upload), None)?;
        let changed = self.connection.prepare_cached(sql::UPLOAD_BEGUN)?.execute(named_params! {
            ":id": ticket.id.as_str(),
            ":upload": ticket.upload,
            ":part_size": signed(ticket.part_size)?,
            ":started": system_nanoseconds(ticket.started),
            ":sources": sources(Event::Upload),
            ":run": self.run.0,
            ":at": nanoseconds(self.now),
        })?;
        if changed > 0 {
            // What is open is wanted: it must not be abandoned as an orphan.
            forget_orphan(self.connection, ticket)?;
        }
        Ok(changed > 0)
    }

    fn part_stored(&self, id: &FileId, part: &PartReceipt) -> Result<bool, Failure> {
        let changed = self.connection.prepare_cached(sql::PART_STORED)?.execute(named_params! {
            ":id": id.as_str(),
            ":number": part.number.get(),
            ":size": signed(part.size)?,
            ":digest": part.digest.as_ref().map(Digest::as_bytes),
            ":token": part.token,
            ":sources": sources(Event::Upload),
        })?;
        Ok(changed > 0)
    }

    fn upload_ended(&self, id: &FileId) -> Result<bool, Failure> {
        let changed = self.connection.prepare_cached(sql::UPLOAD_ENDED)?.execute(named_params! {
            ":id": id.as_str(),
            ":sources": sources(Event::Upload),
            ":run": self.run.0,
            ":at": nanoseconds(self.now),
        })?;
        if changed > 0 {
            self.forget_parts(id)?;
        }
        Ok(changed > 0)
    }

    fn published(&self, id: &FileId, published: &Published, attempts: u32) -> Result<bool, Failure> {
        let verified = (published.verified != Verified::No).then_some(published.verified);
        let state = if verified.is_some() { State::Verified } else { State::Copied };
        let composite = published.composite.as_ref();
        let row = self.change(
            sql::PUBLISHED,
            named_params! {
                ":id": id.as_str(),
                ":state": state.as_str(),
                ":digest": published.digest.as_bytes(),
                ":composite": composite.map(|composite| composite.digest.as_bytes()),
                ":composite_part_size": composite.map(|composite| signed(composite.part_size)).transpose()?,
                ":composite_parts": composite.map(|composite| composite.parts),
                ":target_version": published.target_version.as_ref().map(Version::as_str),
                ":verified": verified.map(verified_name),
                ":sources": sources(Event::Publish),
                ":run": self.run.0,
                ":at": nanoseconds(self.now),
            },
        )?;
        let Some(row) = row else { return Ok(false) };
        self.forget_parts(id)?;
        if verified.is_some() {
            self.journal(&OutcomeRecord { verified, attempts, ..self.line(id, Outcome::Copied, &row) })?;
        }
        Ok(true)
    }

    fn arrived(
        &self,
        id: &FileId,
        size: u64,
        source_version: &Version,
        published: &Published,
        attempts: u32,
    ) -> Result<bool, Failure> {
        let verified = (published.verified != Verified::No).then_some(published.verified);
        let state = if verified.is_some() { State::Verified } else { State::Copied };
        let composite = published.composite.as_ref();
        let inserted = self.connection.prepare_cached(sql::ARRIVED)?.execute(named_params! {
            ":id": id.as_str(),
            ":state": state.as_str(),
            ":size": signed(size)?,
            ":source_version": source_version.as_str(),
            ":digest": published.digest.as_bytes(),
            ":composite": composite.map(|composite| composite.digest.as_bytes()),
            ":composite_part_size": composite.map(|composite| signed(composite.part_size)).transpose()?,
            ":composite_parts": composite.map(|composite| composite.parts),
            ":target_version": published.target_version.as_ref().map(Version::as_str),
            ":verified": verified.map(verified_name),
            // An intent counts until the file is verified.
            ":attempts": u32::from(verified.is_none()),
            ":run": self.run.0,
            ":at": nanoseconds(self.now),
        })?;
        if inserted > 0 && verified.is_some() {
            let row = Row { size, digest: Some(published.digest) };
            self.journal(&OutcomeRecord { verified, attempts, ..self.line(id, Outcome::Copied, &row) })?;
        }
        Ok(inserted > 0)
    }

    fn confirmed(&self, id: &FileId, by: Verified, attempts: Option<u32>) -> Result<bool, Failure> {
        if by == Verified::No {
            return Err(Failure::Other(format!("{id} was confirmed by nobody")));
        }
        let row = self.change(
            sql::CONFIRMED,
            named_params! {
                ":id": id.as_str(),
                ":state": State::Verified.as_str(),
                ":verified": verified_name(by),
                ":sources": sources(Event::Confirm),
                ":run": self.run.0,
                ":at": nanoseconds(self.now),
            },
        )?;
        let Some(row) = row else { return Ok(false) };
        if let Some(attempts) = attempts {
            let line = self.line(id, Outcome::Copied, &row);
            self.journal(&OutcomeRecord { verified: Some(by), attempts, ..line })?;
        }
        Ok(true)
    }

    fn tried(&self, id: &FileId, number: u32, reason: &str, detail: &str) -> Result<(), Failure> {
        self.connection.prepare_cached(sql::ATTEMPT)?.execute(named_params! {
            ":id": id.as_str(),
            ":run": self.run.0,
            ":number": number,
            ":reason": reason,
            ":detail": detail,
            ":at": nanoseconds(self.now),
        })?;
        Ok(())
    }

    fn failed(&self, id: &FileId, reason: &str, detail: &str, attempts: u32) -> Result<bool, Failure> {
        let row = self.change(
            sql::FAILED,
            named_params! {
                ":id": id.as_str(),
                ":state": State::Failed.as_str(),
                ":error": detail,
                ":sources": sources(Event::Fail),
                ":run": self.run.0,
                ":at": nanoseconds(self.now),
            },
        )?;
        let Some(row) = row else { return Ok(false) };
        self.journal(&OutcomeRecord {
            reason: reason.to_owned(),
            detail: Some(detail.to_owned()),
            attempts,
            ..self.line(id, Outcome::Failed, &row)
        })?;
        Ok(true)
    }

    fn damaged(&self, id: &FileId, outcome: Outcome, detail: &str) -> Result<bool, Failure> {
        if !matches!(outcome, Outcome::Missing | Outcome::Different) {
            return Err(Failure::Other(format!("{id} cannot be damaged and {}", outcome.as_str())));
        }
        let row = self.change(
            sql::DAMAGED,
            named_params! {
                ":id": id.as_str(),
                ":state": State::Damaged.as_str(),
                ":error": detail,
                ":sources": sources(Event::Damage),
                ":run": self.run.0,
                ":at": nanoseconds(self.now),
            },
        )?;
        let Some(row) = row else { return Ok(false) };
        self.journal(&OutcomeRecord {
            reason: outcome.as_str().to_owned(),
            detail: Some(detail.to_owned()),
            ..self.line(id, outcome, &row)
        })?;
        Ok(true)
    }

    fn gone(&self, id: &FileId) -> Result<bool, Failure> {
        self.drop_upload(id, Event::Vanish, None, None)?;
        let row = self.change(
            sql::GONE,
            named_params! {
                ":id": id.as_str(),
                ":state": State::Gone.as_str(),
                ":sources": sources(Event::Vanish),
                ":run": self.run.0,
                ":at": nanoseconds(self.now),
            },
        )?;
        let Some(row) = row else { return Ok(false) };
        self.journal(&self.line(id, Outcome::Gone, &row))?;
        Ok(true)
    }

    fn retired(&self, id: &FileId, place: &str) -> Result<bool, Failure> {
        let changed = self.connection.prepare_cached(sql::RETIRED)?.execute(named_params! {
            ":id": id.as_str(),
            ":state": State::Retired.as_str(),
            ":place": place,
            ":sources": sources(Event::Retire),
            ":run": self.run.0,
            ":at": nanoseconds(self.now),
        })?;
        Ok(changed > 0)
    }

    fn returned(&self, id: &FileId) -> Result<bool, Failure> {
        let changed = self.connection.prepare_cached(sql::RETURNED)?.execute(named_params! {
            ":id": id.as_str(),
            ":state": State::Verified.as_str(),
            ":sources": sources(Event::Return),
            ":run": self.run.0,
            ":at": nanoseconds(self.now),
        })?;
        Ok(changed > 0)
    }

    /// Executes a compare-and-set; nothing where it found no row to change.
    fn change(
        &self,
        statement: &str,
        params: &[(&str, &dyn rusqlite::ToSql)],
    ) -> Result<Option<Row>, Failure> {
        let row = self
            .connection
            .prepare_cached(statement)?
            .query_row(params, |row| Ok((row.get::<_, i64>("size")?, rows::digest(row, "digest")?)))
            .optional()?;
        Ok(row.map(|(size, digest)| Row { size: size.unsigned_abs(), digest }))
    }

    /// A line about a file, without what only some lines have.
    fn line(&self, id: &FileId, outcome: Outcome, row: &Row) -> OutcomeRecord {
        OutcomeRecord {
            subject: id.as_str().to_owned(),
            outcome,
            reason: String::new(),
            detail: None,
            size: Some(row.size),
            digest: row.digest,
            verified: None,
            attempts: 0,
            at: self.now,
        }
    }

    fn journal(&self, record: &OutcomeRecord) -> Result<(), Failure> {
        self.connection.prepare_cached(sql::JOURNAL)?.execute(named_params! {
            ":run": self.run.0,
            ":subject": record.subject,
            ":outcome": record.outcome.as_str(),
            ":reason": record.reason,
            ":detail": record.detail,
            ":size": record.size.map(signed).transpose()?,
            ":digest": record.digest.as_ref().map(Digest::as_bytes),
            ":verified": record.verified.map(verified_name),
            ":attempts": record.attempts,
            ":at": nanoseconds(record.at),
        })?;
        Ok(())
    }
}

/// Forgets an orphan; one that is not there is forgotten already.
pub(super) fn forget_orphan(connection: &Connection, ticket: &UploadTicket) -> Result<(), Failure> {
    connection
        .prepare_cached(sql::ORPHAN_FORGET)?
        .execute(named_params! { ":id": ticket.id.as_str(), ":upload": ticket.upload })?;
    Ok(())
}
