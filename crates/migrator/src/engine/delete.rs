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

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::stream::{self, BoxStream, Fuse};
use futures::{StreamExt, TryStreamExt};
use jiff::{SignedDuration, Timestamp};
use storage_core::error::{Error, ErrorKind, Op};
use storage_core::id::{FileId, Prefix};
use storage_core::metadata::FileMetadata;
use storage_core::storage::{FileStorage, ListOptions, Precondition, Receipt, UploadOptions};
use tokio_util::sync::CancellationToken;

use crate::item::State;
use crate::ledger::{Candidate, Change, FileRecord, LedgerError, Outcome, OutcomeRecord, RunId, Withheld};
use crate::progress::Event;
use crate::quarantine::{self, Drawer};
use crate::safeguard::{Judgement, Refusal, View, judge};
use crate::scan::{self, Entry};

use super::copy::Copied;
use super::recorder::{Recorder, line};
use super::sync::Removal;
use super::{CopyOptions, EngineError, Job, OUTAGE_LIMIT};

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
    let mut view = View { source_complete: copied.scan_complete, failed, ..View::default() };
    // What the copy has seen may suffice to see that nothing will be removed.
    if view.source_complete && view.failed == 0 {
        let (recorder, recording) = job.recorder(copied.run);
        let surveyed = tokio::select! {
            biased;
            () = job.stop.cancelled() => None,
            surveyed = Survey { job, removal, run: copied.run, recorder }.walk() => Some(surveyed),
        };
        recording.close().await?;
        let Some(surveyed) = surveyed else { return Ok(None) };
        view = surveyed?;
    } else {
        view.target_complete = true;
    }
    copied.tally.candidates = view.candidates;
    match judge(&view, removal.limit, options.allow_empty_source) {
        Judgement::Withhold(withheld) => {
            copied.tally.withheld = Some(withheld);
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
    let until = SignedDuration::try_from(removal.quarantine)
        .and_then(|stay| Timestamp::now().checked_add(stay))
        .map_err(|error| {
            EngineError::Internal(format!("the quarantine ends beyond all calendars: {error}"))
        })?;
    Ok(Some(Drawer::new(until, run)))
}

/// The first pass.
struct Survey<'a> {
    job: &'a Job,
    removal: &'a Removal,
    run: RunId,
    recorder: Recorder,
}

impl Survey<'_> {
    /// Walks both sides to their ends and keeps the candidates.
    async fn walk(self) -> Result<View, EngineError> {
        let Job { source, target, ledger, filter, .. } = self.job;
        ledger.clear_candidates().await?;
        let mut view = View { source_complete: true, target_complete: true, ..View::default() };
        let mut source = Source::new(scan::entries(&**source, filter.clone()));
        let mut rows = Ahead::new(ledger.files(Default::default()), |row: &FileRecord| row.id.as_str());
        let mut told = Ahead::new(ledger.outcomes(self.run), |line: &OutcomeRecord| line.subject.as_str());
        let mut files = target.list(&Prefix::all(), ListOptions::default());
        let mut last: Option<FileId> = None;
        let mut batch = Vec::new();
        while let Some(listed) = files.next().await {
            let file = match listed {
                Ok(file) => file,
                Err(error) => {
                    self.cannot_read("target", &error);
                    view.target_complete = false;
                    match error.id().is_some() || error.subject().is_some() {
                        true => continue,
                        false => break,
                    }
                }
            };
            if last.as_ref().is_some_and(|last| file.id <= *last) {
                view.target_complete = false;
                break;
            }
            last = Some(file.id.clone());
            if quarantine::holds(&file.id) {
                continue;
            }
            let excluded = !filter.takes_of_target(&file);
            if !excluded || self.removal.excluded {
                view.target += 1;
            }
            let presence = source.look_for(&file.id).await;
            let row = rows.at(file.id.as_str()).await?;
            let line = told.at(file.id.as_str()).await?;
            match class(presence, excluded, self.removal.excluded, row.as_ref(), line.as_ref()) {
                Class::Stays => {}
                Class::BeneathForeign => {
                    let line = line_of(&file, Outcome::Kept, "not_a_file_in_the_source", None);
                    self.recorder.note(Change::Noted(line), Some(file.size)).await;
                }
                Class::Candidate => {
                    view.candidates += 1;
                    let FileMetadata { id, size, version, .. } = file;
                    batch.push(Candidate { id, size, version, excluded: presence == Presence::Excluded });
                    if batch.len() >= BATCH {
                        ledger.add_candidates(std::mem::take(&mut batch)).await?;
                    }
                }
            }
        }
        ledger.add_candidates(batch).await?;
        source.drain().await;
        if let Some(error) = &source.error {
            self.cannot_read("source", error);
        }
        view.source = source.seen;
        view.source_complete = source.complete;
        Ok(view)
    }

    fn cannot_read(&self, side: &str, error: &Error) {
        let message = format!("{side}: {error}");
        self.job.progress.tell(&Event::Notice { message: &message });
    }
}

/// What the source has under an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    /// Nothing.
    Absent,
    /// A file, or something else of that very name.
    Present,
    /// A file that the filter leaves out.
    Excluded,
    /// Something that is no file, above it: a symbolic link where a directory was.
    BeneathForeign,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Stays,
    BeneathForeign,
    Candidate,
}

/// Decides about one file of the target. Pure.
fn class(
    presence: Presence,
    excluded: bool,
    delete_excluded: bool,
    row: Option<&FileRecord>,
    line: Option<&OutcomeRecord>,
) -> Class {
    if excluded || presence == Presence::Excluded {
        return if delete_excluded { Class::Candidate } else { Class::Stays };
    }
    if presence == Presence::Present {
        return Class::Stays;
    }
    // The copy has seen it in the source, and has told what became of it.
    let copied = row.is_some_and(|row| row.state != State::Gone);
    let planned = line.is_some_and(|line| {
        matches!(line.outcome, Outcome::Copied | Outcome::Skipped | Outcome::Failed | Outcome::Unseen)
    });
    match presence {
        _ if copied || planned => Class::Stays,
        Presence::BeneathForeign => Class::BeneathForeign,
        _ => Class::Candidate,
    }
}

/// The source's entries, one ahead.
struct Source {
    entries: Fuse<BoxStream<'static, Result<Entry, Error>>>,
    next: Option<Entry>,
    last: Option<FileId>,
    /// Names of what is no file and may stand where a directory was, each with a `/`, as long as files may lie beneath.
    foreign: Vec<String>,
    seen: u64,
    complete: bool,
    error: Option<Error>,
}

impl Source {
    fn new(entries: BoxStream<'static, Result<Entry, Error>>) -> Self {
        let entries = entries.fuse();
        Self { entries, next: None, last: None, foreign: Vec::new(), seen: 0, complete: true, error: None }
    }

    /// Goes on to the first entry at or behind `id`. Ids must ascend.
    async fn look_for(&mut self, id: &FileId) -> Presence {
        loop {
            if self.next.is_none() && !self.advance().await {
                break;
            }
            match self.next.as_ref().and_then(Entry::id) {
                Some(own) if own > id => break,
                Some(own) if own == id => {
                    return match self.next {
                        Some(Entry::Excluded(..)) => Presence::Excluded,
                        _ => Presence::Present,
                    };
                }
                _ => self.next = None,
            }
        }
        let id = id.as_str();
        self.foreign.retain(|above| above.as_str() > id || id.starts_with(above.as_str()));
        match self.foreign.iter().any(|above| id.starts_with(above.as_str())) {
            true => Presence::BeneathForeign,
            false => Presence::Absent,
        }
    }

    /// Reads to the end: only then is the view complete.
    async fn drain(&mut self) {
        while self.advance().await {}
    }

    async fn advance(&mut self) -> bool {
        let entry = match self.entries.next().await {
            Some(Ok(entry)) => entry,
            Some(Err(error)) => {
                self.complete = false;
                self.error = Some(error);
                return false;
            }
            None => return false,
        };
        self.seen += 1;
        match &entry {
            Entry::Unusable { .. } => self.complete = false,
            Entry::Foreign { id: Some(id), .. } => self.foreign.push(format!("{id}/")),
            _ => {}
        }
        if let Some(id) = entry.id() {
            // Out of order, what is there would look as if it were not.
            if self.last.as_ref().is_some_and(|last| id <= last) {
                self.complete = false;
            }
            self.last = Some(id.clone());
        }
        self.next = Some(entry);
        true
    }
}

/// A stream of the ledger, one ahead, that is asked for ascending keys.
struct Ahead<T> {
    items: Fuse<BoxStream<'static, Result<T, LedgerError>>>,
    next: Option<T>,
    key: fn(&T) -> &str,
}

impl<T: Send + 'static> Ahead<T> {
    fn new(items: BoxStream<'static, Result<T, LedgerError>>, key: fn(&T) -> &str) -> Self {
        Self { items: items.fuse(), next: None, key }
    }

    async fn at(&mut self, key: &str) -> Result<Option<T>, LedgerError> {
        loop {
            if self.next.is_none() {
                self.next = self.items.try_next().await?;
            }
            match &self.next {
                None => return Ok(None),
                Some(item) if (self.key)(item) < key => self.next = None,
                Some(item) if (self.key)(item) == key => return Ok(self.next.take()),
                Some(_) => return Ok(None),
            }
        }
    }
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

/// Deletes the files of a storage whose time in quarantine is over by `now`, whichever run put them there. Once `stop` is
/// cancelled no further one.
pub(super) async fn expire(
    storage: &dyn FileStorage,
    now: Timestamp,
    stop: &CancellationToken,
) -> Result<u64, Error> {
    let Ok(prefix) = Prefix::parse(format!("{}/", quarantine::ROOT)) else { return Ok(0) };
    let mut files = storage.list(&prefix, ListOptions::default());
    let mut expired = 0;
    while let Some(file) = files.try_next().await? {
        if stop.is_cancelled() {
            break;
        }
        if quarantine::expiry(&file.id).is_some_and(|until| until <= now)
            && storage.delete(&file.id, Precondition::None).await?
        {
            expired += 1;
        }
    }
    Ok(expired)
}

fn line_of(file: &FileMetadata, outcome: Outcome, reason: &str, detail: Option<String>) -> OutcomeRecord {
    line(file.id.as_str(), outcome, reason, detail, Some(file.size))
}
