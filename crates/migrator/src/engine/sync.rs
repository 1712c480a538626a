//! A sync: a copy, and then, where nothing failed and everything was seen, the removal of what is in the target only.

use std::time::Duration;

use crate::ledger::RunKind;
use crate::safeguard::{Limit, Refusal, is_elsewhere};

use super::copy::copy_within;
use super::rehearsal::with_removal;
use super::{CopyOptions, Ended, EngineError, Job, delete, memory};

/// How a sync works.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SyncOptions {
    /// How it copies.
    pub copy: CopyOptions,
    /// How it removes; default: not at all.
    pub removal: Option<Removal>,
}

/// How a sync removes what is in the target only.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Removal {
    /// How many files at most; default: 10 % of the target or 1,000, whichever is more.
    pub limit: Limit,
    /// How long removed files stay in quarantine; default: 7 days, a week in which somebody misses them. Zero: they are
    /// deleted at once.
    pub quarantine: Duration,
    /// Remove also what the filter leaves out, whether the source has it or not; default: no.
    pub excluded: bool,
    /// Accept a source on another file system than before; default: no, as it is rather one that is not mounted.
    pub allow_other_filesystem: bool,
}

impl Default for Removal {
    fn default() -> Self {
        Self {
            limit: Limit::default(),
            quarantine: Duration::from_secs(7 * 24 * 3600),
            excluded: false,
            allow_other_filesystem: false,
        }
    }
}

/// Copies as [`copy`](super::copy) does, and then removes what is in the target only.
///
/// Nothing is removed unless both storages were seen whole and nothing failed; the ledger says why not. What is removed
/// goes into quarantine first.
///
/// # Errors
/// Those of [`copy`](super::copy); [`EngineError::Refused`] where a safeguard refused: before anything was done where
/// the source is elsewhere, else after the copy, and then the run is complete in the ledger.
pub async fn sync(job: &Job, options: &SyncOptions) -> Result<Ended, EngineError> {
    if let Some(removal) = &options.removal {
        check_place(job, removal).await?;
        memory::check(job).await?;
    }
    let mut copied = copy_within(job, &options.copy, RunKind::Sync)
        .await
        .map_err(|error| with_removal(error, options.removal.as_ref()))?;
    let mut refusal = None;
    if let Some(removal) = &options.removal
        && copied.failure.is_none()
        && !job.stop.is_cancelled()
    {
        // Once more: the copy may have taken hours.
        let removed = async {
            memory::check(job).await?;
            delete::delete(job, &options.copy, removal, &mut copied).await
        };
        match removed.await {
            Ok(refused) => refusal = refused,
            Err(EngineError::Refused(refused)) => refusal = Some(refused),
            Err(error) => copied.failure = Some(error),
        }
    }
    let ended = copied.close(job).await?;
    refusal.map_or(Ok(ended), |refusal| Err(refusal.into()))
}

/// Refuses a source that is not where it was, and keeps where it is now where that is accepted.
async fn check_place(job: &Job, removal: &Removal) -> Result<(), EngineError> {
    match refuse_other_place(job, removal).await? {
        Some(now) => Ok(job.ledger.set_source_place(now).await?),
        None => Ok(()),
    }
}

/// Refuses a source that is not where it was. Returns where it is now, where that is accepted.
pub(super) async fn refuse_other_place<'j>(
    job: &'j Job,
    removal: &Removal,
) -> Result<Option<&'j str>, EngineError> {
    let Some(now) = &job.source_place else { return Ok(None) };
    let before = job.ledger.source_place().await?;
    match before.filter(|before| is_elsewhere(Some(before), Some(now))) {
        None => Ok(None),
        Some(_) if removal.allow_other_filesystem => Ok(Some(now)),
        Some(before) => {
            let path = job.source_path.clone();
            Err(Refusal::Elsewhere { path, before, now: now.clone() }.into())
        }
    }
}
