//! One file of a copy: the attempt at it, and what its failure means for the file and for the run.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use storage_core::checksum::Digest;
use storage_core::error::{Effect, Error, ErrorKind, Op, Retry};
use storage_core::id::FileId;
use storage_core::metadata::{FileMetadata, Version};
use storage_core::storage::{FileStorage, PartReceipt, UploadTicket, Verified};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ledger::{Change, FileRecord, Ledger, Outcome, OutcomeRecord, Published, Recorded, RunId, Tally};
use crate::metrics::names;
use crate::plan::{Decision, identity};
use crate::progress::{NOT_COMPARED, Progress};
use crate::throttle::Throttle;
use crate::transfer::{Arrived, Journal, Mover, Resume, TransferError};
use crate::verify::{Claim, Verdict, by_checksum, by_reading};

use super::recorder::{Recorder, line};
use super::{EngineError, OUTAGE_LIMIT, claim_of};

/// Files that wait for another attempt; beyond that a failed attempt is final, so that memory stays bounded.
const AGAIN_AT_MOST: usize = 10_000;

/// A file and what is to be done with it.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub(super) file: FileMetadata,
    pub(super) decision: Decision,
    pub(super) row: Option<FileRecord>,
    pub(super) attempt: u32,
    /// Whether the ledger has a row of the file, or will have by what was noted: else nobody intended it yet. All
    /// clones see it.
    pub(super) known: Arc<AtomicBool>,
}

impl Work {
    pub(super) fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    pub(super) fn make_known(&self) {
        self.known.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub(super) struct Again {
    pub(super) work: Work,
    pub(super) since: Instant,
}

/// What the workers of a run have in common.
#[derive(Debug, Default)]
pub(super) struct Shared {
    tally: Mutex<Tally>,
    again: Mutex<Vec<Again>>,
    /// Files of which an upload may have begun that nobody knows.
    unanswered: Mutex<BTreeSet<FileId>>,
    failure: Mutex<Option<EngineError>>,
    outages: AtomicU32,
}

impl Shared {
    pub(super) fn add(&self, change: impl FnOnce(&mut Tally)) {
        change(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn tally(&self) -> Tally {
        *self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take_again(&self) -> Vec<Again> {
        std::mem::take(&mut *self.again.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps a file for another attempt, or gives it back where there are too many.
    fn keep_again(&self, work: Work) -> Option<Work> {
        let mut again = self.again.lock().unwrap_or_else(PoisonError::into_inner);
        if again.len() >= AGAIN_AT_MOST {
            return Some(work);
        }
        again.push(Again { work, since: Instant::now() });
        None
    }

    pub(super) fn unanswered(&self) -> MutexGuard<'_, BTreeSet<FileId>> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take_failure(&self) -> Option<EngineError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Copies one file at a time.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) mover: Mover,
    pub(super) source: Arc<dyn FileStorage>,
    pub(super) target: Arc<dyn FileStorage>,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) throttle: Option<Arc<Throttle>>,
    pub(super) attempts: u32,
    pub(super) compare: bool,
    pub(super) run: RunId,
    pub(super) recorder: Recorder,
    pub(super) progress: Progress,
    pub(super) halt: CancellationToken,
    pub(super) shared: Arc<Shared>,
}

impl Worker {
    pub(super) async fn run(&self, work: &Work) {
        let _active = self.progress.active(work.file.id.as_str(), work.file.size);
        match self.attempt(work).await {
            Ok(()) => self.shared.outages.store(0, Ordering::Relaxed),
            Err(error) => self.failed(work.clone(), error).await,
        }
    }

    async fn attempt(&self, work: &Work) -> Result<(), TransferError> {
        if let (Decision::Confirm, false, Some(row)) = (work.decision, self.compare, &work.row) {
            self.not_compared(&work.file, row.digest).await;
            return Ok(());
        }
        if work.decision == Decision::Confirm && self.confirm_earlier(work).await? {
            return Ok(());
        }
        let file = &work.file;
        let resume = self.resume(work).await?;
        let journal: Arc<dyn Journal> =
            Arc::new(LedgerJournal { ledger: Arc::clone(&self.ledger), run: self.run });
        let arrived = self.mover.transfer(file, resume, &journal).await?;
        // Files in one request are not counted here: nothing is looked up for them.
        for (parts, result) in [(arrived.parts_sent, names::SENT), (arrived.parts_resumed, names::RESUMED)] {
            if parts > 0 {
                metrics::counter!(names::PARTS, "result" => result).increment(parts);
            }
        }
        self.shared.add(|tally| {
            tally.parts_sent += arrived.parts_sent;
            tally.parts_resumed += arrived.parts_resumed;
        });
        self.published(work, &arrived).await
    }

    /// Records what arrived, and compares its bytes where the target did not.
    async fn published(&self, work: &Work, arrived: &Arrived) -> Result<(), TransferError> {
        let file = &work.file;
        let published = Published {
            digest: arrived.digest,
            composite: arrived.composite,
            target_version: arrived.version.clone(),
            verified: arrived.verified,
        };
        let (id, attempts) = (file.id.clone(), work.attempt);
        if work.is_known() {
            self.recorder.note(Change::Published { id, published, attempts }, Some(file.size)).await;
        } else {
            let (size, source_version) = (file.size, identity(file));
            let change = Change::Arrived { id, size, source_version, published, attempts };
            self.recorder.note(change, Some(file.size)).await;
            work.make_known();
        }
        if arrived.verified != Verified::No {
            return Ok(());
        }
        if !self.compare {
            self.not_compared(file, Some(arrived.digest)).await;
            return Ok(());
        }
        let claim =
            Claim { size: file.size, digest: arrived.digest, composite: arrived.composite, compared: None };
        match self.read_back(&file.id, arrived.version.as_ref(), &claim).await? {
            Verdict::Match(by) => {
                self.confirmed(work, by).await;
                Ok(())
            }
            other => {
                // What is published is not what was sent: it is no longer something that only has to be compared.
                self.recorder.note(intent(file), None).await;
                Err(TransferError::Target(
                    Error::new(ErrorKind::Integrity, Op::Download)
                        .with_id(&file.id)
                        .with_message(format!("read back after the copy: {other}")),
                ))
            }
        }
    }

    /// It was asked not to be compared: nobody may call it verified.
    async fn not_compared(&self, file: &FileMetadata, digest: Option<Digest>) {
        let detail = "published, and nobody has compared its bytes".to_owned();
        let line = line(file.id.as_str(), Outcome::Unverified, NOT_COMPARED, Some(detail), Some(file.size));
        let line = OutcomeRecord { digest, verified: Some(Verified::No), ..line };
        self.recorder.note(Change::Noted(line), Some(file.size)).await;
    }

    async fn confirmed(&self, work: &Work, by: Verified) {
        let change = Change::Confirmed { id: work.file.id.clone(), by, attempts: Some(work.attempt) };
        self.recorder.note(change, Some(work.file.size)).await;
    }

    async fn read_back(
        &self,
        id: &FileId,
        version: Option<&Version>,
        claim: &Claim,
    ) -> Result<Verdict, TransferError> {
        tokio::select! {
            biased;
            () = self.halt.cancelled() => Err(TransferError::Interrupted),
            verdict = by_reading(&*self.target, id, version, claim, self.throttle.as_ref(), &self.progress) => {
                verdict.map_err(TransferError::Target)
            }
        }
    }

    /// An earlier run published the file and ended before its bytes were compared. False: they are not right,
    /// and the file is to be copied.
    async fn confirm_earlier(&self, work: &Work) -> Result<bool, TransferError> {
        let Some(row) = &work.row else { return Ok(false) };
        if let Some(digest) = row.digest {
            let claim = claim_of(row, digest);
            let id = &work.file.id;
            let mut verdict = by_checksum(&*self.target, id, &claim).await.map_err(TransferError::Target)?;
            if matches!(verdict, Verdict::Unproven(_)) {
                verdict = self.read_back(id, None, &claim).await?;
            }
            if let Verdict::Match(by) = verdict {
                self.confirmed(work, by).await;
                return Ok(true);
            }
        }
        let recorded = self.ledger.record(self.run, vec![intent(&work.file)]).await;
        match recorded.map_err(|error| TransferError::Journal(Box::new(error)))?.as_slice() {
            [Recorded::Done] => Ok(false),
            _ => Err(TransferError::Journal("the ledger refused an intent".into())),
        }
    }

    /// Returns what the ledger knows of an open upload of this very version.
    async fn resume(&self, work: &Work) -> Result<Option<Resume>, TransferError> {
        let Some(row) = &work.row else { return Ok(None) };
        let same = row.size == work.file.size && row.source_version == identity(&work.file);
        let Some(ticket) = row.ticket.clone().filter(|_| same) else { return Ok(None) };
        let parts = self
            .ledger
            .parts(&work.file.id)
            .await
            .map_err(|error| TransferError::Journal(Box::new(error)))?;
        Ok(Some(Resume { ticket, parts }))
    }

    async fn failed(&self, work: Work, error: TransferError) {
        if let TransferError::Target(error) = &error
            && error.op() == Op::BeginUpload
            && error.effect() != Effect::None
        {
            self.shared.unanswered().insert(work.file.id.clone());
        }
        let next = self.next_step(&work, &error);
        let (reason, detail) = words(&error);
        if let Next::Again = next {
            self.progress.retry(work.file.id.as_str(), work.attempt, &detail);
            self.shared.add(|tally| tally.retries += 1);
            let (id, number) = (work.file.id.clone(), work.attempt);
            let tried = Change::Tried { id, number, reason: reason.clone(), detail: detail.clone() };
            self.recorder.note_quietly(tried).await;
            if let Some(work) = self.shared.keep_again(work) {
                self.give_up(&work, &reason, &detail).await;
            }
            return;
        }
        if let Next::Vanished = next {
            return self.vanished(&work).await;
        }
        self.give_up(&work, &reason, &detail).await;
        if let Next::Halt = next {
            self.fail_run(match error {
                TransferError::Source(error) => EngineError::Source(error),
                TransferError::Target(error) => EngineError::Target(error),
                TransferError::Journal(error) => match error.downcast() {
                    Ok(error) => EngineError::Ledger(*error),
                    Err(error) => EngineError::Internal(error.to_string()),
                },
                TransferError::Interrupted => return,
            });
        }
    }

    fn next_step(&self, work: &Work, error: &TransferError) -> Next {
        let more = work.attempt < self.attempts && !self.halt.is_cancelled();
        let again = if more { Next::Again } else { Next::GiveUp };
        match error {
            TransferError::Interrupted => Next::GiveUp,
            TransferError::Journal(_) => Next::Halt,
            TransferError::Source(error) => match error.kind() {
                // Wrong bytes may have become so on their way.
                ErrorKind::SourceChanged | ErrorKind::VersionMismatch | ErrorKind::Integrity => again,
                ErrorKind::NotFound => Next::Vanished,
                _ if error.retry() != Retry::Never => again,
                _ => Next::GiveUp,
            },
            TransferError::Target(error) => match error.kind() {
                // Every further file would fail alike.
                ErrorKind::Unauthenticated | ErrorKind::Misconfigured | ErrorKind::StorageFull => Next::Halt,
                ErrorKind::NoSuchUpload | ErrorKind::Integrity => again,
                _ if error.is_outage() => {
                    let outages = self.shared.outages.fetch_add(1, Ordering::Relaxed) + 1;
                    if outages >= OUTAGE_LIMIT { Next::Halt } else { again }
                }
                _ if error.retry() != Retry::Never => again,
                _ => Next::GiveUp,
            },
        }
    }

    pub(super) async fn intend(&self, intents: Vec<Change>) -> Result<(), EngineError> {
        let recorded = self.ledger.record(self.run, intents).await?;
        if recorded.contains(&Recorded::Stale) {
            return Err(EngineError::Internal("the ledger refused an intent".to_owned()));
        }
        Ok(())
    }

    pub(super) async fn give_up(&self, work: &Work, reason: &str, detail: &str) {
        if !work.is_known() {
            self.recorder.note_quietly(intent(&work.file)).await;
            work.make_known();
        }
        let change = Change::Failed {
            id: work.file.id.clone(),
            reason: reason.to_owned(),
            detail: detail.to_owned(),
            attempts: work.attempt,
        };
        self.recorder.note(change, Some(work.file.size)).await;
    }

    /// The file was there when the source was listed and is no more: nothing of it is left to copy.
    pub(super) async fn vanished(&self, work: &Work) {
        let file = &work.file;
        if work.is_known() {
            self.recorder.note(Change::Gone { id: file.id.clone() }, None).await;
        }
        let line = line(file.id.as_str(), Outcome::Skipped, "vanished", None, Some(file.size));
        self.recorder.note(Change::Noted(line), Some(file.size)).await;
    }

    /// Ends the run; the first reason counts.
    pub(super) fn fail_run(&self, error: EngineError) {
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.halt.cancel();
    }

    pub(super) async fn look_again(&self, file: &FileMetadata) -> Result<Option<FileMetadata>, Error> {
        match self.source.metadata(&file.id).await {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

enum Next {
    Again,
    GiveUp,
    Vanished,
    Halt,
}

fn words(error: &TransferError) -> (String, String) {
    match error {
        TransferError::Source(error) => match error.kind() {
            ErrorKind::SourceChanged | ErrorKind::VersionMismatch => {
                ("changing".to_owned(), format!("source: {error}"))
            }
            kind => (kind.as_str().to_owned(), format!("source: {error}")),
        },
        TransferError::Target(error) => (error.kind().as_str().to_owned(), format!("target: {error}")),
        TransferError::Journal(error) => ("ledger".to_owned(), error.to_string()),
        TransferError::Interrupted => ("interrupted".to_owned(), "the run was stopped".to_owned()),
    }
}

pub(super) fn intent(file: &FileMetadata) -> Change {
    Change::Intend { id: file.id.clone(), size: file.size, source_version: identity(file) }
}

/// The steps of an upload in parts, in the ledger.
#[derive(Debug)]
struct LedgerJournal {
    ledger: Arc<dyn Ledger>,
    run: RunId,
}

impl LedgerJournal {
    async fn record(&self, change: Change) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        match self.ledger.record(self.run, vec![change]).await?.first() {
            Some(Recorded::Done) => Ok(()),
            _ => Err("the ledger does not expect this step of an upload".into()),
        }
    }
}

#[async_trait]
impl Journal for LedgerJournal {
    async fn begun(&self, ticket: &UploadTicket) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.record(Change::UploadBegun { ticket: ticket.clone() }).await
    }

    async fn stored(
        &self,
        ticket: &UploadTicket,
        part: &PartReceipt,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.record(Change::PartStored { id: ticket.id.clone(), part: part.clone() }).await
    }

    async fn ended(&self, ticket: &UploadTicket) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.record(Change::UploadEnded { id: ticket.id.clone() }).await
    }
}
