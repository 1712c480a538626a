//! An audit: source, ledger and target side by side, in order. Changes nothing in either storage.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering as Atomic};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::stream::{BoxStream, Fuse};
use futures::{StreamExt, TryStreamExt};
use storage_core::checksum::Digest;
use storage_core::error::{Error, ErrorKind};
use storage_core::id::{FileId, Prefix};
use storage_core::metadata::FileMetadata;
use storage_core::storage::{FileStorage, ListOptions, Precondition, Verified};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::item::State;
use crate::ledger::{Change, FileRecord, Outcome, OutcomeRecord, RunKind, Tally};
use crate::plan::{Merge, Step, identity};
use crate::progress::{Event, Progress};
use crate::quarantine;
use crate::scan::Entry;
use crate::throttle::{Bandwidth, Throttle};
use crate::verify::{Claim, Verdict, by_checksum, by_reading, digest_of};

use super::recorder::{Recorder, line};
use super::sampling::Sampler;
use super::{
    CopyOptions, Ended, EngineError, Job, OUTAGE_LIMIT, VerifyOptions, claim_of, close, open_merge,
    refuse_empty_source, with_bytes,
};

/// Compares every file of the source, by way of the ledger, with the target, and notes what is missing,
/// different, extra or unproven. What is missing or different is copied again by the next copy.
///
/// A file that the ledger has verified counts as it was then: its identity in the source says that it is still
/// that version. With [`VerifyOptions::read_back`] every byte of the target is read; a file that the ledger
/// does not know is then read on both sides.
///
/// # Errors
/// When source, target or ledger cannot be read to their end.
pub async fn verify(job: &Job, options: &VerifyOptions) -> Result<Ended, EngineError> {
    let mut merge = open_merge(job);
    if !options.allow_empty_source {
        refuse_empty_source(&mut merge, job).await?;
    }
    let before = job.progress.snapshot();
    let run = job.ledger.begin_run(RunKind::Verify, env!("CARGO_PKG_VERSION")).await?;
    job.progress.tell(&Event::Run { run, kind: RunKind::Verify });
    let sampler = Sampler::start(Arc::clone(&job.ledger), run, job.progress.clone(), settings(job, options));
    let halt = job.stop.child_token();
    let (recorder, recording) =
        Recorder::start(Arc::clone(&job.ledger), run, job.progress.clone(), halt.clone());
    let concurrency = options.concurrency.unwrap_or(CopyOptions::default().concurrency).get() as usize;
    let auditor = Auditor {
        source: Arc::clone(&job.source),
        target: Arc::clone(&job.target),
        throttle: options.bandwidth.clone().map(Throttle::following),
        read_back: options.read_back,
        read_source: options.read_source,
        recorder,
        progress: job.progress.clone(),
        shared: Arc::default(),
    };
    let mut audit = Audit {
        job,
        auditor,
        admission: Arc::new(Semaphore::new(concurrency)),
        workers: JoinSet::new(),
        tally: Tally { subset: job.filter.subset(), ..Tally::default() },
        scanned_to: None,
        usable: true,
    };
    let walked = tokio::select! {
        biased;
        () = halt.cancelled() => Ok(false),
        walked = audit.walk(merge) => walked,
    };
    if matches!(walked, Ok(true)) {
        job.progress.scan_done();
        loop {
            tokio::select! {
                biased;
                () = halt.cancelled() => break,
                done = audit.workers.join_next() => if done.is_none() { break },
            }
        }
    }
    // Reading only: what is in flight can be dropped at any point.
    audit.workers.shutdown().await;
    audit.auditor.give_up_in_flight().await;
    let Audit { auditor, mut tally, scanned_to, usable, .. } = audit;
    let shared = Arc::clone(&auditor.shared);
    drop(auditor);
    let recorded = recording.close().await;
    tally.unchanged = shared.matched.load(Atomic::Relaxed);
    tally.unchanged_bytes = shared.matched_bytes.load(Atomic::Relaxed);
    let outage = shared.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
    let scan_complete = matches!(walked, Ok(true)) && usable;
    let failure = walked.err().or(recorded.err()).or(outage.map(EngineError::Target));
    sampler.finish().await;
    let tally = with_bytes(tally, &job.progress, &before);
    close(job, run, tally, scanned_to, scan_complete, failure).await
}

/// What the report is to show of how the run was asked for.
fn settings(job: &Job, options: &VerifyOptions) -> BTreeMap<String, String> {
    let mut settings = job.settings.clone();
    let mut set = |name: &str, value: String| settings.insert(name.to_owned(), value);
    let concurrency = options.concurrency.unwrap_or(CopyOptions::default().concurrency);
    set("concurrency", concurrency.to_string());
    set("bandwidth", options.bandwidth.as_ref().map_or_else(|| "no limit".to_owned(), Bandwidth::to_string));
    set("read-source", if options.read_source { "yes" } else { "no" }.to_owned());
    if let Some(subset) = job.filter.subset() {
        set("subset", subset.to_string());
    }
    set("read-back", if options.read_back { "yes" } else { "no" }.to_owned());
    if options.allow_empty_source {
        set("allow-empty-source", "yes".to_owned());
    }
    settings
}

/// The run as a whole: one task walks the three sides and hands files to workers.
struct Audit<'a> {
    job: &'a Job,
    auditor: Auditor,
    admission: Arc<Semaphore>,
    workers: JoinSet<()>,
    tally: Tally,
    scanned_to: Option<FileId>,
    usable: bool,
}

impl Audit<'_> {
    /// Walks source, ledger and target to their ends; `Ok(false)` where the target is out of reach.
    async fn walk(&mut self, mut merge: Merge) -> Result<bool, EngineError> {
        let mut target = Target::new(self.job.target.list(&Prefix::all(), ListOptions::default()));
        while let Some(step) = merge.next().await? {
            let id = match &step {
                Step::Entry(entry, _) => entry.id(),
                Step::Absent(row, _) => Some(&row.id),
            };
            let stored = match id {
                Some(id) => self.up_to(&mut target, Some(id)).await?,
                None => None,
            };
            if !self.take(step, stored).await {
                return Ok(false);
            }
            while self.workers.try_join_next().is_some() {}
        }
        self.up_to(&mut target, None).await?;
        Ok(true)
    }

    /// Notes what the target has before `id` and nobody else as extra; returns what it has under `id`.
    async fn up_to(
        &mut self,
        target: &mut Target,
        id: Option<&FileId>,
    ) -> Result<Option<FileMetadata>, EngineError> {
        while let Some(stored) = target.peek().await.map_err(EngineError::Target)? {
            match id.map_or(Ordering::Less, |id| stored.id.cmp(id)) {
                Ordering::Less => {
                    let stored = target.take();
                    let counts = |stored: &FileMetadata| {
                        self.job.filter.takes_of_target(stored) && !quarantine::holds(&stored.id)
                    };
                    if let Some(stored) = stored.filter(counts) {
                        self.auditor
                            .note(stored.id.as_str(), Outcome::Extra, "", None, Some(stored.size))
                            .await;
                    }
                }
                Ordering::Equal => return Ok(target.take()),
                Ordering::Greater => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Hands a file to a worker, or notes an entry that is none. False where the target is out of reach.
    async fn take(&mut self, step: Step, stored: Option<FileMetadata>) -> bool {
        match step {
            Step::Entry(Entry::File(file), row) => return self.start(file, row, stored).await,
            Step::Entry(Entry::Foreign { subject, reason, .. }, _) => {
                self.plan_entry();
                self.auditor.note(&subject, Outcome::Skipped, &reason, None, None).await;
            }
            Step::Entry(Entry::Unusable { subject, reason, detail, .. }, _) => {
                self.plan_entry();
                self.usable = false;
                self.auditor.note(&subject, Outcome::Failed, &reason, Some(detail), None).await;
            }
            Step::Entry(Entry::Excluded(file, why), row) => {
                self.tally.excluded += 1;
                // Of a part that the run is not about, nothing is told.
                if row.is_some() && self.job.filter.in_subset(&file.id) {
                    let (id, size) = (file.id.as_str(), Some(file.size));
                    self.auditor.note(id, Outcome::Excluded, why.as_str(), None, size).await;
                }
                self.scanned_to = Some(file.id);
            }
            Step::Absent(row, _) if !self.job.filter.in_subset(&row.id) => {}
            // Nobody else has it: its copy is audited above all.
            Step::Absent(row, _) if row.state == State::Retired => {
                let mut file = FileMetadata::new(row.id.clone(), row.size);
                file.version = Some(row.source_version.clone());
                if self.job.filter.takes_of_target(&file) {
                    return self.start(file, Some(row), stored).await;
                }
                self.tally.excluded += 1;
                self.auditor.note(row.id.as_str(), Outcome::Excluded, "", None, Some(row.size)).await;
                self.scanned_to = Some(file.id);
            }
            Step::Absent(row, outcome) => {
                // A row without a line would be taken for one that matches.
                if row.state != State::Gone || stored.is_some() {
                    self.auditor.note(row.id.as_str(), outcome, "", None, Some(row.size)).await;
                }
            }
        }
        true
    }

    /// Hands a file to a worker. False where the target is out of reach.
    async fn start(
        &mut self,
        file: FileMetadata,
        row: Option<Box<FileRecord>>,
        stored: Option<FileMetadata>,
    ) -> bool {
        self.tally.planned += 1;
        self.tally.planned_bytes += file.size;
        self.scanned_to = Some(file.id.clone());
        self.job.progress.planned(file.size);
        let Ok(permit) = Arc::clone(&self.admission).acquire_owned().await else { return false };
        let auditor = self.auditor.clone();
        auditor.shared.in_flight().insert(file.id.clone(), file.size);
        self.workers.spawn(async move {
            let active = auditor.progress.active(file.id.as_str(), file.size);
            auditor.compare(&file, row.as_deref(), stored.as_ref()).await;
            auditor.shared.in_flight().remove(&file.id);
            drop(active);
            drop(permit);
        });
        self.auditor.shared.outages.load(Atomic::Relaxed) < OUTAGE_LIMIT
    }

    fn plan_entry(&mut self) {
        self.tally.planned += 1;
        self.job.progress.planned(0);
    }
}

/// The target's listing, one file ahead.
struct Target {
    /// Asked again after its end, once per file that the source has more.
    files: Fuse<BoxStream<'static, Result<FileMetadata, Error>>>,
    next: Option<FileMetadata>,
}

impl Target {
    fn new(files: BoxStream<'static, Result<FileMetadata, Error>>) -> Self {
        Self { files: files.fuse(), next: None }
    }

    async fn peek(&mut self) -> Result<Option<&FileMetadata>, Error> {
        if self.next.is_none() {
            self.next = self.files.try_next().await?;
        }
        Ok(self.next.as_ref())
    }

    fn take(&mut self) -> Option<FileMetadata> {
        self.next.take()
    }
}

#[derive(Debug, Default)]
struct Shared {
    matched: AtomicU64,
    matched_bytes: AtomicU64,
    outages: AtomicU32,
    failure: Mutex<Option<Error>>,
    /// Files that are being compared, with their sizes.
    in_flight: Mutex<BTreeMap<FileId, u64>>,
}

impl Shared {
    fn in_flight(&self) -> MutexGuard<'_, BTreeMap<FileId, u64>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Compares one file at a time.
#[derive(Clone, Debug)]
struct Auditor {
    source: Arc<dyn FileStorage>,
    target: Arc<dyn FileStorage>,
    throttle: Option<Arc<Throttle>>,
    read_back: bool,
    read_source: bool,
    recorder: Recorder,
    progress: Progress,
    shared: Arc<Shared>,
}

impl Auditor {
    async fn compare(&self, file: &FileMetadata, row: Option<&FileRecord>, stored: Option<&FileMetadata>) {
        let id = file.id.as_str();
        let proven = row.filter(|row| {
            matches!(row.state, State::Copied | State::Verified | State::Damaged | State::Retired)
        });
        if let Some(row) = proven
            && (row.size != file.size || row.source_version != identity(file))
        {
            let detail = "the source changed after it was copied".to_owned();
            return self.note(id, Outcome::Outdated, "changed", Some(detail), Some(file.size)).await;
        }
        if let Some((row, digest)) = proven.and_then(|row| Some((row, row.digest?)))
            && self.read_source
            && row.state != State::Retired
        {
            match self.rotted(file, row, digest).await {
                Ok(None) => {}
                Ok(Some(detail)) => {
                    // Also where the target is damaged: it must not be repaired from this source.
                    return self
                        .note(id, Outcome::Outdated, "source_damaged", Some(detail), Some(file.size))
                        .await;
                }
                Err(error) => return self.failed(file, error).await,
            }
        }
        let verdict = match (stored, proven.and_then(|row| Some((row, row.digest?)))) {
            (None, _) => Ok(Verdict::Missing),
            (Some(_), Some((row, digest))) => self.by_ledger(row, &claim_of(row, digest)).await,
            (Some(_), None) if proven.is_some_and(|row| row.state == State::Retired) => {
                let detail = "the source's file was moved away, and a newer one was begun and not copied";
                Ok(Verdict::Unproven(detail.to_owned()))
            }
            (Some(_), None) if self.read_back => self.by_source(file).await,
            (Some(_), None) => Ok(Verdict::Unproven("the ledger has not copied it".to_owned())),
        };
        let verdict = match verdict {
            Ok(verdict) => verdict,
            Err(error) => return self.failed(file, error).await,
        };
        self.shared.outages.store(0, Atomic::Relaxed);
        match verdict {
            Verdict::Match(by) => self.matched(file, row, by).await,
            Verdict::Missing => {
                self.damaged(file, proven, Outcome::Missing, "not in the target".into()).await
            }
            Verdict::Different(detail) => self.damaged(file, proven, Outcome::Different, detail).await,
            Verdict::Unproven(detail) => {
                self.note(id, Outcome::Unverified, "unproven", Some(detail), Some(file.size)).await;
            }
        }
    }

    async fn by_ledger(&self, row: &FileRecord, claim: &Claim) -> Result<Verdict, Error> {
        if self.read_back {
            return by_reading(&*self.target, &row.id, None, claim, self.throttle.as_ref(), &self.progress)
                .await;
        }
        by_checksum(&*self.target, &row.id, claim).await
    }

    /// Reads the source's bytes; says so where they are no longer those that were copied.
    async fn rotted(
        &self,
        file: &FileMetadata,
        row: &FileRecord,
        digest: Digest,
    ) -> Result<Option<String>, Error> {
        let when = file.version.clone().map_or(Precondition::None, Precondition::Version);
        match digest_of(&*self.source, &file.id, when, self.throttle.as_ref(), &self.progress).await {
            Ok(read) if read == (row.size, digest) => Ok(None),
            Ok((_, found)) => Ok(Some(format!(
                "the source has not been written to and its bytes are others: SHA-256 {found}, copied was {digest}"
            ))),
            Err(error) if error.kind() == ErrorKind::Integrity => {
                Ok(Some(format!("the source's bytes are damaged: {error}")))
            }
            Err(error) => Err(error),
        }
    }

    /// A file that the ledger has not copied: both sides are read.
    async fn by_source(&self, file: &FileMetadata) -> Result<Verdict, Error> {
        let when = file.version.clone().map_or(Precondition::None, Precondition::Version);
        let throttle = self.throttle.as_ref();
        let (size, digest) = digest_of(&*self.source, &file.id, when, throttle, &self.progress).await?;
        let claim = Claim { size, digest, composite: None, compared: None };
        by_reading(&*self.target, &file.id, None, &claim, throttle, &self.progress).await
    }

    async fn matched(&self, file: &FileMetadata, row: Option<&FileRecord>, by: Verified) {
        // Counted, it is no longer in flight: nothing is awaited in between.
        self.shared.in_flight().remove(&file.id);
        self.shared.matched.fetch_add(1, Atomic::Relaxed);
        self.shared.matched_bytes.fetch_add(file.size, Atomic::Relaxed);
        self.progress.unchanged(file.size);
        let news = |row: &&FileRecord| match row.state {
            State::Copied | State::Damaged => true,
            State::Verified => by == Verified::ReadBack && row.verified != Some(by),
            State::Retired => {
                row.verified.is_none() || (by == Verified::ReadBack && row.verified != Some(by))
            }
            _ => false,
        };
        match row {
            Some(row) if news(&row) => {
                let change = Change::Confirmed { id: row.id.clone(), by, attempts: None };
                self.recorder.note(change, None).await;
            }
            Some(row) if matches!(row.state, State::Verified | State::Retired) => {}
            // No verified row says it.
            _ => {
                let line = line(file.id.as_str(), Outcome::Matched, "", None, Some(file.size));
                let change = Change::Noted(OutcomeRecord { verified: Some(by), ..line });
                self.recorder.note_quietly(change).await;
            }
        }
    }

    /// What was dropped has to have an outcome.
    async fn give_up_in_flight(&self) {
        let left = std::mem::take(&mut *self.shared.in_flight());
        for (id, size) in left {
            let detail = "the run stopped while it was compared".to_owned();
            self.note(id.as_str(), Outcome::Unverified, "interrupted", Some(detail), Some(size)).await;
        }
    }

    /// What the ledger holds as copied is to be copied again; what it does not is only noted.
    async fn damaged(&self, file: &FileMetadata, row: Option<&FileRecord>, outcome: Outcome, detail: String) {
        match row {
            Some(row) => {
                let change = Change::Damaged { id: row.id.clone(), outcome, detail };
                self.recorder.note(change, Some(file.size)).await;
            }
            None => self.note(file.id.as_str(), outcome, "", Some(detail), Some(file.size)).await,
        }
    }

    async fn failed(&self, file: &FileMetadata, error: Error) {
        let id = file.id.as_str();
        let reason = match error.kind() {
            ErrorKind::SourceChanged | ErrorKind::VersionMismatch => "changing",
            kind => kind.as_str(),
        };
        self.note(id, Outcome::Failed, reason, Some(error.to_string()), Some(file.size)).await;
        if error.is_outage() && self.shared.outages.fetch_add(1, Atomic::Relaxed) + 1 >= OUTAGE_LIMIT {
            let mut failure = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner);
            failure.get_or_insert(error);
        }
    }

    async fn note(
        &self,
        subject: &str,
        outcome: Outcome,
        reason: &str,
        detail: Option<String>,
        size: Option<u64>,
    ) {
        self.recorder.note(Change::Noted(line(subject, outcome, reason, detail, size)), size).await;
    }
}
