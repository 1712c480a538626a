//! A cleanup: uploads that nobody will finish, found by the ledger, abandoned, forgotten; and what was in quarantine long
//! enough.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use serde::Serialize;
use storage_core::id::FileId;
use storage_core::storage::{FileStorage, UploadTicket};
use tokio_util::sync::CancellationToken;

use crate::item::State;
use crate::ledger::{FileFilter, FileRecord, Ledger};
use crate::quarantine::{self, Staying};
use crate::retire::Attic;

use super::rehearsal::{Action, Foretold, Tell};
use super::{EngineError, delete, emptying};

/// How far the clocks of this machine and of the target may differ for an upload to be known as begun after
/// the intent that the ledger holds.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// Files up to this size are never sent in parts, whatever an earlier run's part size was: no server takes less.
const LEAST_PART: u64 = 5 << 20;

/// What a cleanup did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Cleaned {
    /// Open multipart uploads of this ledger that were abandoned, with their parts.
    pub uploads: u64,
    /// Files that were in the target's quarantine long enough, and were deleted.
    pub expired: u64,
    /// Files that were in the source's quarantine long enough, and were deleted.
    pub expired_in_source: u64,
    /// Files that were there long enough, and stay: that nothing is lost with them could not be proven.
    pub kept_in_source: u64,
    /// What stays in the target's quarantine, as its time is not over.
    pub staying: Staying,
    /// Likewise in the source's.
    pub staying_in_source: Staying,
}

/// Abandons the open uploads of this ledger that no run will resume: those of files that changed or are gone,
/// those that were begun and never recorded, and those begun longer ago than `older_than`. Deletes the files whose
/// time in quarantine is over, those of the source's only where they are what was moved there and the target still has
/// their copies, for which the symbolic links of `target` are to be shown as files. Once `stop` is cancelled no further
/// one.
///
/// Uploads of files that the ledger does not know are somebody else's and stay.
///
/// # Errors
/// [`EngineError::Source`], [`EngineError::Target`] and [`EngineError::Ledger`].
pub async fn cleanup(
    ledger: &dyn Ledger,
    target: &dyn FileStorage,
    attic: Option<&dyn Attic>,
    older_than: Duration,
    stop: &CancellationToken,
) -> Result<Cleaned, EngineError> {
    let now = Timestamp::now();
    let (expired, staying) = delete::expire(target, now, stop).await.map_err(EngineError::Target)?;
    let mut cleaned = Cleaned { expired, staying, ..Cleaned::default() };
    cleaned.uploads = abandon_unfinished(ledger, target, older_than, stop).await?;
    if let Some(attic) = attic {
        let emptied = emptying::empty(ledger, target, attic, now, stop).await?;
        (cleaned.expired_in_source, cleaned.kept_in_source) = (emptied.deleted, emptied.kept);
        cleaned.staying_in_source = staying_in(attic, now, stop).await?;
    }
    Ok(cleaned)
}

/// Counts what stays in a source's quarantine.
async fn staying_in(
    attic: &dyn Attic,
    now: Timestamp,
    stop: &CancellationToken,
) -> Result<Staying, EngineError> {
    let mut staying = Staying::default();
    // By then the time of all is over.
    let mut files = attic.expired(Timestamp::MAX);
    while let Some(file) = files.next().await {
        if stop.is_cancelled() {
            break;
        }
        let file = file.map_err(EngineError::Source)?;
        if let Some(until) = quarantine::expiry_of_place(&file.place).filter(|until| *until > now) {
            staying.add(until);
        }
    }
    Ok(staying)
}

/// Foretells what a cleanup would delete from the quarantines, and what stays there; writes nothing, and does not look at
/// uploads. Of the source's quarantine, what is due is told: what of it is proven is looked at by the cleanup itself.
///
/// # Errors
/// [`EngineError::Source`] and [`EngineError::Target`].
pub async fn rehearse_cleanup(
    target: &dyn FileStorage,
    attic: Option<&dyn Attic>,
    tell: Tell<'_>,
) -> Result<Cleaned, EngineError> {
    let now = Timestamp::now();
    let mut cleaned = Cleaned::default();
    let mut files = delete::in_quarantine(target);
    while let Some((file, until)) = files.try_next().await.map_err(EngineError::Target)? {
        if until > now {
            cleaned.staying.add(until);
        } else {
            cleaned.expired += 1;
            tell(&due(file.id.as_str(), Some(file.size), "target_quarantine"));
        }
    }
    if let Some(attic) = attic {
        let mut files = attic.expired(now);
        while let Some(file) = files.next().await {
            let file = file.map_err(EngineError::Source)?;
            cleaned.expired_in_source += 1;
            tell(&due(&file.place, None, "source_quarantine"));
        }
        cleaned.staying_in_source = staying_in(attic, now, &CancellationToken::new()).await?;
    }
    Ok(cleaned)
}

fn due<'f>(subject: &'f str, size: Option<u64>, reason: &'f str) -> Foretold<'f> {
    Foretold { action: Action::Delete, subject, size, reason, detail: None }
}

async fn abandon_unfinished(
    ledger: &dyn Ledger,
    target: &dyn FileStorage,
    older_than: Duration,
    stop: &CancellationToken,
) -> Result<u64, EngineError> {
    let Some(uploads) = target.resumable() else { return Ok(0) };
    let mut abandoned = recorded_orphans(ledger, target).await?;
    let aged = SystemTime::now().checked_sub(older_than);
    for ticket in uploads.stale(Duration::ZERO).await.map_err(EngineError::Target)? {
        if stop.is_cancelled() {
            break;
        }
        let Some(row) = ledger.file(&ticket.id).await? else { continue };
        let resumable = row.ticket.as_ref().is_some_and(|open| open.upload == ticket.upload);
        let old = aged.is_some_and(|aged| ticket.started < aged);
        if resumable && !old {
            continue;
        }
        if !resumable && row.state == State::Verified && !old {
            // Begun by somebody else after this ledger was done with the file.
            continue;
        }
        uploads.abandon(&ticket).await.map_err(EngineError::Target)?;
        abandoned += 1;
    }
    Ok(abandoned)
}

/// What a copy does before it begins: a kill may have left uploads that no row will lead back to.
///
/// Costs the target nothing when the last run left no large file unfinished.
pub(super) async fn before_copy(
    ledger: &dyn Ledger,
    target: &dyn FileStorage,
    part_size: u64,
) -> Result<u64, EngineError> {
    let Some(uploads) = target.resumable() else { return Ok(0) };
    let mut swept = recorded_orphans(ledger, target).await?;
    let states = vec![State::Copying, State::Failed];
    let unfinished = ledger
        .files(FileFilter { states, after: None })
        .try_filter(|row| std::future::ready(row.size > part_size.min(LEAST_PART)));
    if std::pin::pin!(unfinished).try_next().await?.is_none() {
        return Ok(swept);
    }
    for ticket in uploads.stale(Duration::ZERO).await.map_err(EngineError::Target)? {
        if let Some(row) = ledger.file(&ticket.id).await?
            && is_unrecorded(ledger, &row, &ticket).await?
        {
            uploads.abandon(&ticket).await.map_err(EngineError::Target)?;
            swept += 1;
        }
    }
    Ok(swept)
}

/// Abandons the open uploads of these files that the ledger has no ticket of: their beginning was not answered.
pub(super) async fn unanswered(
    ledger: &dyn Ledger,
    target: &dyn FileStorage,
    files: &BTreeSet<FileId>,
) -> Result<(), EngineError> {
    let Some(uploads) = target.resumable().filter(|_| !files.is_empty()) else { return Ok(()) };
    for ticket in uploads.stale(Duration::ZERO).await.map_err(EngineError::Target)? {
        if files.contains(&ticket.id)
            && let Some(row) = ledger.file(&ticket.id).await?
            && is_unrecorded(ledger, &row, &ticket).await?
        {
            uploads.abandon(&ticket).await.map_err(EngineError::Target)?;
        }
    }
    Ok(())
}

/// Abandons the uploads that the ledger knows as no longer wanted.
pub(super) async fn recorded_orphans(
    ledger: &dyn Ledger,
    target: &dyn FileStorage,
) -> Result<u64, EngineError> {
    let Some(uploads) = target.resumable() else { return Ok(0) };
    let mut abandoned = 0;
    for ticket in ledger.orphans().await? {
        uploads.abandon(&ticket).await.map_err(EngineError::Target)?;
        ledger.forget_orphan(&ticket).await?;
        abandoned += 1;
    }
    Ok(abandoned)
}

/// Tells whether an open upload was begun for this unfinished row and its ticket never recorded: it is not older
/// than the run that recorded the intent.
async fn is_unrecorded(
    ledger: &dyn Ledger,
    row: &FileRecord,
    ticket: &UploadTicket,
) -> Result<bool, EngineError> {
    let recorded = row.ticket.as_ref().is_some_and(|open| open.upload == ticket.upload);
    if recorded || !matches!(row.state, State::Copying | State::Failed) {
        return Ok(false);
    }
    let Some(run) = ledger.run(Some(row.run)).await? else { return Ok(false) };
    Ok(Timestamp::try_from(ticket.started + CLOCK_SKEW).is_ok_and(|latest| latest >= run.started))
}
