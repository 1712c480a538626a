//! The removal of what is in the target only: the one place of the migrator that deletes files of a target.
//!
//! The first pass walks source and target to their ends, in order and side by side, counts, and writes the candidates
//! into the ledger. [`safeguard`](crate::safeguard) judges what was seen. The second pass acts on exactly those
//! candidates. Memory does not grow with any of them.
//!
//! # Order of effects, for one candidate
//!
//! 1. the source is asked again, and lacks the file
//! 2. the target still has the version that the walk has seen
//! 3. a copy is in quarantine, of the same size and digest
//! 4. that version is deleted: where the target can compare it, it does, else it is looked at once more
//! 5. the outcome is in the journal
//!
//! | ends between | what remains | the next run |
//! |---|---|---|
//! | 3 and 4 | the file, and a copy in quarantine that expires | finds the file again and removes it |
//! | 4 and 5 | the copy in quarantine | has nothing to do |
//!
//! A file that left the source while the run went on has an outcome of this run already: it is the next run's.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use jiff::{SignedDuration, Timestamp};
use storage_core::error::{Error, ErrorKind, Op};
use storage_core::id::{FileId, Prefix};
use storage_core::metadata::FileMetadata;
use storage_core::storage::{FileStorage, ListOptions, Precondition, Receipt, UploadOptions};
use tokio_util::sync::CancellationToken;

use crate::course::{MAX_WITHHELD, Named};
use crate::ledger::{Candidate, Change, Outcome, RunId, Withheld};
use crate::progress::Event;
use crate::quarantine::{self, Drawer, Staying};
use crate::safeguard::{Judgement, Refusal, judge};

use super::copy::Copied;
use super::recorder::{Recorder, line};
use super::sync::Removal;
use super::{CopyOptions, EngineError, Job, OUTAGE_LIMIT};

use self::survey::{Findings, Survey};

pub(super) mod survey;

/// Candidates that are written together, and acted on together.
const BATCH: usize = 512;

/// Removes what is in the target only, and counts it in the run. Returns what a safeguard refused.
pub(super) async fn delete(
    job: &Job,
    options: &CopyOptions,
    removal: &Removal,
    copied: &mut Copied,
) -> Result<Option<Refusal>, EngineError> {
    let counts = job.ledger.outcome_counts(copied.run).await?;
    let failed = counts.get(&Outcome::Failed).map_or(0, |count| count.files);
    let (recorder, recording) = job.recorder(copied.run);
    let findings = Findings::Kept(copied.run, recorder);
    // Also where the copy has seen enough to know that nothing will be removed: what would have been is told.
    let surveyed = tokio::select! {
        biased;
        () = job.stop.cancelled() => None,
        surveyed = Survey { job, removal, findings }.walk() => Some(surveyed),
    };
    recording.close().await?;
    let Some(surveyed) = surveyed else { return Ok(None) };
    let view = surveyed?.after_copy(copied.scan_complete, failed);
    copied.tally.candidates = view.candidates;
    match judge(&view, removal.limit, options.allow_empty_source) {
        Judgement::Withhold(withheld) => {
            copied.tally.withheld = Some(withheld);
            note_withheld(job, copied.run).await?;
            let refusal = Refusal::of(withheld, &view, removal.limit);
            if refusal.is_none() {
                let message = format!("nothing was deleted: {}", in_words(withheld));
                job.progress.tell(&Event::Notice { message: &message });
            }
            Ok(refusal)
        }
        Judgement::Remove => {
            let (recorder, recording) = job.recorder(copied.run);
            let drawer = drawer(removal, copied.run)?;
            let concurrency = options.concurrency.get() as usize;
            let remover =
                Remover { job, recorder, drawer, outages: AtomicU32::new(0), failure: Mutex::default() };
            let removed = remover.all(copied.run, concurrency).await;
            // The recording ends with the last recorder.
            let Remover { failure, recorder, .. } = remover;
            drop(recorder);
            recording.close().await?;
            removed?;
            let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
            failure.map_or(Ok(None), |error| Err(EngineError::Target(error)))
        }
    }
}

/// Notes the first of the candidates that stay.
async fn note_withheld(job: &Job, run: RunId) -> Result<(), EngineError> {
    let first: Vec<Candidate> = job.ledger.candidates().take(MAX_WITHHELD).try_collect().await?;
    if first.is_empty() {
        return Ok(());
    }
    let mut course = job.ledger.course(run).await?.unwrap_or_default();
    course.withheld =
        first.into_iter().map(|file| Named { id: file.id.as_str().to_owned(), size: file.size }).collect();
    Ok(job.ledger.note_course(run, course).await?)
}

const fn in_words(withheld: Withheld) -> &'static str {
    match withheld {
        Withheld::CopyFailed => "files failed to be copied, and nothing is deleted beside a failure",
        Withheld::SourceIncomplete => {
            "a part of the source could not be read, and what is in it is not known"
        }
        Withheld::TargetIncomplete => "a part of the target could not be read",
        Withheld::SourceEmpty => "the source is empty",
        Withheld::TooMany => "more files than the limit allows",
    }
}

/// Returns the drawer of the run, or nothing where files are deleted at once.
fn drawer(removal: &Removal, run: RunId) -> Result<Option<Drawer>, EngineError> {
    if removal.quarantine.is_zero() {
        return Ok(None);
    }
    drawer_until(removal.quarantine, run).map(Some)
}

/// Returns the drawer of a run whose files stay for so long.
fn drawer_until(stay: Duration, run: RunId) -> Result<Drawer, EngineError> {
    let until = SignedDuration::try_from(stay).and_then(|stay| Timestamp::now().checked_add(stay)).map_err(
        |error| EngineError::Internal(format!("the quarantine ends beyond all calendars: {error}")),
    )?;
    Ok(Drawer::new(until, run))
}

/// What became of a candidate.
enum Removed {
    Quarantined(FileId),
    /// At once; or it was gone already.
    Deleted(Option<&'static str>),
    Not(&'static str, String),
}

/// The second pass.
struct Remover<'a> {
    job: &'a Job,
    recorder: Recorder,
    drawer: Option<Drawer>,
    outages: AtomicU32,
    failure: Mutex<Option<Error>>,
}

impl Remover<'_> {
    async fn all(&self, run: RunId, concurrency: usize) -> Result<(), EngineError> {
        let mut batches = self.job.ledger.candidates().try_ready_chunks(BATCH);
        loop {
            let batch = match batches.next().await {
                None => return Ok(()),
                Some(Ok(batch)) => batch,
                Some(Err(error)) => return Err(error.1.into()),
            };
            // A row that says `Verified` must not outlive the file: the next copy would take it for unchanged.
            let gone = |candidate: &Candidate| Change::Gone { id: candidate.id.clone() };
            let excluded: Vec<_> = batch.iter().filter(|candidate| candidate.excluded).map(gone).collect();
            if !excluded.is_empty() {
                self.job.ledger.record(run, excluded).await?;
            }
            stream::iter(batch).for_each_concurrent(concurrency, |candidate| self.one(candidate)).await;
            if self.is_to_stop() {
                return Ok(());
            }
        }
    }

    fn is_to_stop(&self) -> bool {
        self.job.stop.is_cancelled() || self.outages.load(Ordering::Relaxed) >= OUTAGE_LIMIT
    }

    async fn one(&self, candidate: Candidate) {
        if self.is_to_stop() {
            return;
        }
        let (outcome, reason, detail) = match self.remove(&candidate).await {
            Ok(removed) => {
                self.outages.store(0, Ordering::Relaxed);
                match removed {
                    Removed::Quarantined(at) => (Outcome::Quarantined, "", Some(at.as_str().to_owned())),
                    Removed::Deleted(detail) => (Outcome::Deleted, "", detail.map(str::to_owned)),
                    Removed::Not(reason, detail) => (Outcome::NotDeleted, reason, Some(detail)),
                }
            }
            Err(error) => {
                let told = (Outcome::NotDeleted, error.kind().as_str(), Some(error.to_string()));
                if error.is_outage() && self.outages.fetch_add(1, Ordering::Relaxed) + 1 >= OUTAGE_LIMIT {
                    self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
                told
            }
        };
        let line = line(candidate.id.as_str(), outcome, reason, detail, Some(candidate.size));
        self.recorder.note(Change::Noted(line), Some(candidate.size)).await;
    }

    async fn remove(&self, candidate: &Candidate) -> Result<Removed, Error> {
        let Candidate { id, size, version, excluded } = candidate;
        let target = &*self.job.target;
        if !excluded && is_there(&*self.job.source, id).await? {
            return Ok(Removed::Not("in_source", "it is in the source again".to_owned()));
        }
        let changed = || Removed::Not("changed", "the target's file changed after it was listed".to_owned());
        let stored = match target.metadata(id).await {
            Ok(stored) => stored,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Removed::Deleted(Some("it was gone already")));
            }
            Err(error) => return Err(error),
        };
        let same = |stored: &FileMetadata| stored.size == *size && stored.version == *version;
        if !same(&stored) {
            return Ok(changed());
        }
        let mut kept = None;
        if let Some(drawer) = &self.drawer {
            let Ok(place) = drawer.place(id) else {
                let detail =
                    "its name is too long to be moved to the quarantine; --quarantine-days 0 deletes at once";
                return Ok(Removed::Not("name_too_long", detail.to_owned()));
            };
            put_away(target, &stored, &place).await?;
            kept = Some(place);
        }
        let when = match version {
            Some(version) if target.capabilities().conditional_delete => {
                Precondition::Version(version.clone())
            }
            _ => {
                // Nobody compares for us: looked at as late as can be.
                match target.metadata(id).await {
                    Ok(stored) if same(&stored) => Precondition::None,
                    Ok(_) => return Ok(changed()),
                    Err(error) if error.kind() == ErrorKind::NotFound => Precondition::None,
                    Err(error) => return Err(error),
                }
            }
        };
        match target.delete(id, when).await {
            Ok(_) => Ok(kept.map_or(Removed::Deleted(None), Removed::Quarantined)),
            Err(error) if error.kind() == ErrorKind::VersionMismatch => Ok(changed()),
            Err(error) => Err(error),
        }
    }
}

/// Tells whether the source has the file; whatever else it answers is an error, and no proof of absence.
async fn is_there(source: &dyn FileStorage, id: &FileId) -> Result<bool, Error> {
    match source.metadata(id).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Copies a file into the quarantine of its storage, and makes sure that the copy is one.
async fn put_away(target: &dyn FileStorage, stored: &FileMetadata, place: &FileId) -> Result<(), Error> {
    let mut options = UploadOptions::default();
    options.digest = stored.digest;
    let Receipt { metadata: copy, digest, .. } = target.copy(&stored.id, place, options).await?;
    let other = |digest| stored.digest.is_some_and(|own| digest != Some(own));
    if copy.size != stored.size
        || (digest.is_some() && other(digest))
        || (copy.digest.is_some() && other(copy.digest))
    {
        return Err(Error::new(ErrorKind::Integrity, Op::Copy)
            .with_id(&stored.id)
            .with_message("the copy in quarantine is not what was to be kept"));
    }
    Ok(())
}

/// Deletes the files of a storage whose time in quarantine is over by `now`, whichever run put them there; counts them, and
/// what stays. Once `stop` is cancelled no further one.
pub(super) async fn expire(
    storage: &dyn FileStorage,
    now: Timestamp,
    stop: &CancellationToken,
) -> Result<(u64, Staying), Error> {
    let mut files = in_quarantine(storage);
    let (mut expired, mut staying) = (0, Staying::default());
    while let Some((file, until)) = files.try_next().await? {
        if stop.is_cancelled() {
            break;
        }
        if until > now {
            staying.add(until);
        } else if storage.delete(&file.id, Precondition::None).await? {
            expired += 1;
        }
    }
    Ok((expired, staying))
}

/// Yields the files in quarantine, and until when each stays.
pub(super) fn in_quarantine(
    storage: &dyn FileStorage,
) -> BoxStream<'static, Result<(FileMetadata, Timestamp), Error>> {
    let Ok(prefix) = Prefix::parse(format!("{}/", quarantine::ROOT)) else { return stream::empty().boxed() };
    let files = storage.list(&prefix, ListOptions::default());
    files.try_filter_map(async |file| Ok(quarantine::expiry(&file.id).map(|until| (file, until)))).boxed()
}
