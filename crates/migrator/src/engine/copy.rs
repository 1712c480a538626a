//! A copy: source and ledger are merged, what needs it is sent, and every outcome is durable before it counts.
//!
//! # Order of effects, for one file
//!
//! 1. intent: row `Copying` with size and identity; not for a file without a row that goes in one request
//! 2. the bytes move ([`transfer`](crate::transfer), with an order of its own for parts)
//! 3. the target has published the file
//! 4. row `Copied` with digest and version, made in this step where there was none; `Verified` at once where the
//!    target compared the bytes
//! 5. else the bytes are read back and compared: row `Verified`
//!
//! | ends between | what remains | the next run |
//! |---|---|---|
//! | 1 and 3 | an intent or no row; the target holds the old file or none, perhaps parts | resumes the parts, or sends again |
//! | 3 and 4 | an intent or no row; the target holds the new file | in parts: asks the target, which says so; else sends again |
//! | 4 and 5 | `Copied`, also when the comparison failed for an outage or a stop | reads back and compares, sends nothing |
//!
//! An intent says two things that nothing else does: that what an older row says of the target no longer holds, and
//! whose an open upload is. A file that the ledger does not know and that no storage sends in parts needs neither: it
//! is the same unknown file to the next run, which saves half of what small files cost the ledger.
//!
//! Nothing is ever deleted from the target here: that is `delete`, after a copy in which nothing failed. Nor is a file of
//! the source moved away: that is `retire`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use storage_core::error::{Error, ErrorKind, Op};
use storage_core::id::FileId;
use storage_core::metadata::FileMetadata;
use storage_core::storage::PartLimits;
use tokio::time::Instant;

use crate::item::State;
use crate::lanes::Lanes;
use crate::ledger::{Change, FileRecord, Outcome, RunId, RunKind, Tally};
use crate::plan::{Decision, Gate, Merge, MergeError, Step, decide};
use crate::progress::{Event, Snapshot};
use crate::scan::Entry;
use crate::throttle::{Bandwidth, Throttle};
use crate::transfer::{Mover, MoverOptions};

use super::crew::Crew;
use super::ordered::Later;
use super::recorder::{Recorder, line};
use super::sampling::Sampler;
use super::worker::{Again, Work, Worker, intent};
use super::{
    CopyOptions, Ended, EngineError, Job, clashes, close, open_merge, open_merge_of, refuse_empty_source,
    retire, sweep, with_bytes,
};

/// How long the target may take to answer the canary before the first file is sent.
pub(super) const PROBE_DEADLINE: Duration = Duration::from_secs(30);

/// Steps of the merge whose intents are made durable together.
const BATCH: usize = 128;

/// Least time between two attempts at a file, so that a file that is being written has a chance to be done.
const PAUSE: Duration = Duration::from_secs(1);

/// How often the ledger is told how far the run is.
const CHECKPOINT: Duration = Duration::from_secs(5);

/// Copies what is new, changed, unfinished or damaged from the source to the target, and verifies it. Deletes
/// nothing; with [`CopyOptions::retirement`], what was verified is then moved away from the source.
///
/// Single files may fail; the ledger says which and why.
///
/// # Errors
/// When the run cannot go on: the source's listing broke off, the target refuses everything, the ledger
/// failed. What was done until then is in the ledger, and the next run goes on from there.
pub async fn copy(job: &Job, options: &CopyOptions) -> Result<Ended, EngineError> {
    let mut copied = copy_within(job, options, RunKind::Copy).await?;
    if let Some(retirement) = &options.retirement
        && copied.failure.is_none()
        && !job.stop.is_cancelled()
    {
        copied.failure = retire::retire(job, options, retirement, &mut copied).await.err();
    }
    copied.close(job).await
}

/// A run whose files are copied and that is not closed yet.
pub(super) struct Copied {
    pub(super) run: RunId,
    pub(super) tally: Tally,
    pub(super) scanned_to: Option<FileId>,
    pub(super) scan_complete: bool,
    /// What the run could not go on with.
    pub(super) failure: Option<EngineError>,
}

impl Copied {
    pub(super) async fn close(self, job: &Job) -> Result<Ended, EngineError> {
        let Self { run, tally, scanned_to, scan_complete, failure } = self;
        close(job, run, tally, scanned_to, scan_complete, failure).await
    }
}

/// Begins a run and copies what is to be copied.
pub(super) async fn copy_within(
    job: &Job,
    options: &CopyOptions,
    kind: RunKind,
) -> Result<Copied, EngineError> {
    options.rules.check(&job.target.capabilities()).map_err(|error| {
        EngineError::Target(Error::new(ErrorKind::Unsupported, Op::Upload).with_message(error.to_string()))
    })?;
    let left_over = sweep::before_copy(&*job.ledger, &*job.target, options.part_size.get()).await?;
    if left_over > 0 {
        tracing::info!(uploads = left_over, "abandoned open uploads of earlier runs");
    }
    let mut merge = match &job.only {
        Some(only) => open_merge_of(job, only),
        None => open_merge(job),
    };
    if job.only.is_none() && !options.allow_empty_source {
        refuse_empty_source(&mut merge, job).await?;
    }
    let clashes = clashes(&*job.source, &*job.ledger, &job.filter, job.folding).await?;
    let concurrency = options.concurrency.get() as usize;
    let lanes = Lanes::start(concurrency).map_err(EngineError::Threads)?;
    let before = job.progress.snapshot();
    let run = job.ledger.begin_run(kind, env!("CARGO_PKG_VERSION")).await?;
    job.progress.tell(&Event::Run { run, kind });
    remember_place(job).await?;
    let sampler = Sampler::start(Arc::clone(&job.ledger), run, job.progress.clone(), settings(job, options));
    let halt = job.stop.child_token();
    let (recorder, recording) =
        Recorder::start(Arc::clone(&job.ledger), run, job.progress.clone(), halt.clone());
    let throttle = options.bandwidth.clone().map(Throttle::following);
    let worker = Worker {
        mover: Mover::new(
            Arc::clone(&job.source),
            Arc::clone(&job.target),
            MoverOptions {
                concurrency: options.concurrency,
                part_buffers: options.part_buffers.unwrap_or(options.concurrency),
                part_size: options.part_size,
                throttle: throttle.clone(),
                rules: options.rules.clone(),
                only_files: job.only_files,
                lanes: lanes.clone(),
            },
            job.progress.clone(),
            halt.clone(),
        ),
        source: Arc::clone(&job.source),
        target: Arc::clone(&job.target),
        ledger: Arc::clone(&job.ledger),
        throttle,
        attempts: options.attempts.get(),
        compare: options.compare,
        run,
        recorder,
        progress: job.progress.clone(),
        halt: halt.clone(),
        shared: Arc::default(),
    };
    let mut copying = Copying {
        job,
        worker,
        crew: None,
        lanes,
        concurrency,
        in_one_request: options.part_size.get().min(PartLimits::S3.min_part_size),
        scanned_to: None,
        gate: Gate::new(job.target.capabilities(), clashes),
        usable: true,
        answers: false,
        later: Later::new(options.order),
        told: Instant::now(),
        before,
    };
    copying.crew = Some(copying.new_crew());
    let scanned = copying.scan(merge).await;
    let scan_complete = matches!(scanned, Ok(true)) && copying.usable;
    if matches!(scanned, Ok(true)) {
        job.progress.scan_done();
    }
    let scanned = match scanned {
        Ok(true) => copying.copy_in_order().await,
        other => other,
    };
    if scanned.is_err() {
        halt.cancel();
    }
    if let Err(error) = copying.finish_all().await {
        copying.worker.fail_run(error);
        copying.finish_all().await.ok();
    }
    // A file that is gone leaves its upload to be swept below.
    copying.worker.recorder.flush().await;
    let swept = match halt.is_cancelled() {
        // Also those of files that changed since an earlier run began to send them.
        false => sweep::recorded_orphans(&*job.ledger, &*job.target).await.err(),
        true => None,
    };
    let Copying { worker, scanned_to, .. } = copying;
    let shared = Arc::clone(&worker.shared);
    drop(worker);
    let recorded = recording.close().await;
    let failure = scanned.err().or(recorded.err()).or(shared.take_failure()).or(swept);
    sampler.finish().await;
    let tally = with_bytes(shared.tally(), &job.progress, &before);
    Ok(Copied { run, tally, scanned_to, scan_complete, failure })
}

/// Keeps where the source is, unless the ledger knows: another place is accepted by a sync only.
async fn remember_place(job: &Job) -> Result<(), EngineError> {
    if let Some(place) = &job.source_place
        && job.ledger.source_place().await?.is_none()
    {
        job.ledger.set_source_place(place).await?;
    }
    Ok(())
}

/// What the report is to show of how the run was asked for.
fn settings(job: &Job, options: &CopyOptions) -> BTreeMap<String, String> {
    let mut settings = job.settings.clone();
    let mut set = |name: &str, value: String| settings.insert(name.to_owned(), value);
    set("attempts", options.attempts.to_string());
    set("concurrency", options.concurrency.to_string());
    set("part-size", options.part_size.to_string());
    set("bandwidth", options.bandwidth.as_ref().map_or_else(|| "no limit".to_owned(), Bandwidth::to_string));
    set("order", options.order.to_string());
    if !options.rules.is_empty() {
        set("rules", options.rules.to_string());
    }
    set("verify", if options.compare { "transferred" } else { "none" }.to_owned());
    if options.allow_empty_source {
        set("allow-empty-source", "yes".to_owned());
    }
    if let Some(retirement) = &options.retirement {
        let days = retirement.quarantine.as_secs() / (24 * 3600);
        set("remove-source", format!("to quarantine, {days} days"));
    }
    settings
}

/// The run as a whole: one task reads the merge and hands files to workers.
struct Copying<'a> {
    job: &'a Job,
    worker: Worker,
    lanes: Lanes,
    concurrency: usize,
    /// Files of up to this many bytes are sent in one request, whoever the target is.
    in_one_request: u64,
    /// Nothing between two rounds.
    crew: Option<Crew>,
    scanned_to: Option<FileId>,
    gate: Gate,
    usable: bool,
    /// The target has answered the canary.
    answers: bool,
    /// Where files wait that are not copied in the order of the listing.
    later: Option<Later>,
    told: Instant,
    before: Snapshot,
}

impl Copying<'_> {
    fn new_crew(&self) -> Crew {
        Crew::start(&self.worker, &self.lanes, self.concurrency)
    }

    /// Reads the merge to its end, or until the run is to stop (`Ok(false)`).
    async fn scan(&mut self, merge: Merge) -> Result<bool, EngineError> {
        let halt = self.worker.halt.clone();
        let steps = stream::unfold(Some(merge), async |merge| {
            let mut merge = merge?;
            match merge.next().await {
                Ok(Some(step)) => Some((Ok(step), Some(merge))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        let mut batches = std::pin::pin!(steps.ready_chunks(BATCH));
        loop {
            let batch = tokio::select! {
                biased;
                () = halt.cancelled() => return Ok(false),
                batch = batches.next() => batch,
            };
            let Some(batch) = batch else { return Ok(true) };
            if !self.take(batch).await? {
                return Ok(false);
            }
        }
    }

    /// Decides about a batch, makes its intents durable, and hands it to the workers. `Ok(false)`: the run is
    /// to stop.
    async fn take(&mut self, batch: Vec<Result<Step, MergeError>>) -> Result<bool, EngineError> {
        let mut works = Vec::new();
        let mut intents = Vec::new();
        let mut broken = None;
        for step in batch {
            match step {
                Ok(Step::Entry(Entry::File(file), row)) => {
                    let row = row.as_deref();
                    self.seen(&file.id);
                    self.worker.shared.add(|tally| {
                        tally.planned += 1;
                        tally.planned_bytes += file.size;
                    });
                    self.job.progress.planned(file.size);
                    let decision = decide(&file, row);
                    if let Some((reason, detail)) = self.gate.refuses(&file, decision) {
                        let line =
                            line(file.id.as_str(), Outcome::Failed, reason, Some(detail), Some(file.size));
                        self.worker.recorder.note(Change::Noted(line), Some(file.size)).await;
                    } else if decision == Decision::Unchanged {
                        if row.is_some_and(|row| row.state == State::Retired) {
                            let id = file.id.clone();
                            self.worker.recorder.note_quietly(Change::Returned { id }).await;
                        }
                        self.worker.shared.add(|tally| {
                            tally.unchanged += 1;
                            tally.unchanged_bytes += file.size;
                        });
                        self.job.progress.unchanged(file.size);
                        self.note_unchanged(&file, row).await;
                    } else {
                        let known = row.is_some() || file.size > self.in_one_request;
                        if known && decision != Decision::Confirm {
                            intents.push(intent(&file));
                        }
                        let known = Arc::new(AtomicBool::new(known));
                        works.push(Work { file, decision, row: row.cloned(), attempt: 1, known });
                    }
                }
                Ok(step) => self.note(step).await,
                Err(error) => broken = Some(EngineError::from(error)),
            }
        }
        if !works.is_empty() && !self.answers {
            // Not before: a run with nothing to send costs the target nothing.
            self.job.target.probe(PROBE_DEADLINE).await.map_err(EngineError::Target)?;
            self.answers = true;
        }
        if !intents.is_empty() {
            self.worker.intend(intents).await?;
        }
        if let Some(later) = self.later.take() {
            self.later = Some(later.add(works).await?);
        } else if !self.hand_over(&works).await {
            return Ok(false);
        }
        self.checkpoint().await?;
        broken.map_or(Ok(true), Err)
    }

    /// Hands files to the workers; false where the run is to stop instead.
    async fn hand_over(&mut self, works: &[Work]) -> bool {
        let Some(crew) = &mut self.crew else { return false };
        for (index, work) in works.iter().enumerate() {
            if !crew.take(work.clone()).await {
                // Their intents are recorded, so their outcome must be.
                for work in &works[index..] {
                    self.worker.give_up(work, "interrupted", "the run stopped before its turn").await;
                }
                return false;
            }
        }
        true
    }

    /// Hands over what waits for its turn. `Ok(false)`: the run is to stop.
    async fn copy_in_order(&mut self) -> Result<bool, EngineError> {
        let Some(later) = self.later.take() else { return Ok(true) };
        let halt = self.worker.halt.clone();
        let ledger = Arc::clone(&self.job.ledger);
        let mut turns = later.in_order().await?;
        loop {
            let next = tokio::select! {
                biased;
                () = halt.cancelled() => return Ok(false),
                next = turns.next(&*ledger) => next?,
            };
            if next.1.is_empty() {
                return Ok(true);
            }
            turns = next.0;
            if !self.hand_over(&next.1).await {
                return Ok(false);
            }
            self.checkpoint().await?;
        }
    }

    /// Tells the ledger how far the run is, where that is due.
    async fn checkpoint(&mut self) -> Result<(), EngineError> {
        if self.told.elapsed() >= CHECKPOINT {
            self.told = Instant::now();
            let tally = with_bytes(self.worker.shared.tally(), &self.job.progress, &self.before);
            self.job.ledger.checkpoint(self.worker.run, tally, self.scanned_to.clone()).await?;
        }
        Ok(())
    }

    /// Notes an entry that is no file to be copied.
    async fn note(&mut self, step: Step) {
        let change = match step {
            Step::Entry(Entry::Foreign { subject, reason, .. }, row) => {
                self.plan_entry();
                // It was a file once. Noted first, as what it is now is what the run tells of it.
                if let Some(row) = row.filter(|row| !matches!(row.state, State::Gone | State::Retired)) {
                    self.worker.recorder.note(Change::Gone { id: row.id }, None).await;
                }
                Change::Noted(line(&subject, Outcome::Skipped, &reason, None, None))
            }
            Step::Entry(Entry::Unusable { subject, reason, detail, .. }, _) => {
                self.plan_entry();
                self.usable = false;
                Change::Noted(line(&subject, Outcome::Failed, &reason, Some(detail), None))
            }
            Step::Entry(Entry::Excluded(file, why), row) => {
                self.seen(&file.id);
                self.worker.shared.add(|tally| tally.excluded += 1);
                // Without a row nobody would take it for unchanged.
                if row.is_none() {
                    return;
                }
                Change::Noted(line(file.id.as_str(), Outcome::Excluded, why.as_str(), None, Some(file.size)))
            }
            // It is where this program has put it, and not gone.
            Step::Absent(row, _) if row.state == State::Retired => return,
            Step::Absent(row, Outcome::Gone) => {
                if row.state == State::Gone {
                    return;
                }
                Change::Gone { id: row.id }
            }
            Step::Absent(row, outcome) => {
                Change::Noted(line(row.id.as_str(), outcome, "", None, Some(row.size)))
            }
            Step::Entry(Entry::File(_), _) => return,
        };
        self.worker.recorder.note(change, None).await;
    }

    /// Notes how far the listing is; a run that names its files has none.
    fn seen(&mut self, id: &FileId) {
        if self.job.only.is_none() {
            self.scanned_to = Some(id.clone());
        }
    }

    /// Without a listing, that a file needed nothing does not follow from how far that was.
    async fn note_unchanged(&self, file: &FileMetadata, row: Option<&FileRecord>) {
        if self.job.only.is_some() {
            let mut line = line(file.id.as_str(), Outcome::Unchanged, "", None, Some(file.size));
            line.digest = row.and_then(|row| row.digest);
            line.verified = row.and_then(|row| row.verified);
            self.worker.recorder.note_quietly(Change::Noted(line)).await;
        }
    }

    fn plan_entry(&self) {
        self.worker.shared.add(|tally| tally.planned += 1);
        self.job.progress.planned(0);
    }

    /// Waits for the workers, and goes through the files that are to be tried again.
    async fn finish_all(&mut self) -> Result<(), EngineError> {
        let halt = self.worker.halt.clone();
        loop {
            if let Some(crew) = self.crew.take() {
                crew.finish().await;
            }
            let again = self.worker.shared.take_again();
            if again.is_empty() {
                return Ok(());
            }
            // What the failed attempts noted comes before the intents of the next, and so do the uploads that
            // they may have left: once a file is copied nobody would look for them.
            self.worker.recorder.flush().await;
            tokio::select! {
                biased;
                () = halt.cancelled() => {}
                () = self.sweep_unanswered() => {}
            }
            let mut crew = self.new_crew();
            for Again { work, since } in again {
                let due = since + PAUSE * work.attempt;
                let next = tokio::select! {
                    biased;
                    () = halt.cancelled() => Err((work.clone(), "interrupted", "the run stopped before its turn".to_owned())),
                    next = self.next_attempt(work.clone(), due) => match next {
                        Ok(next) => next,
                        Err(error) => {
                            // What is in hand is waited for, as after any other failure.
                            self.crew = Some(crew);
                            return Err(error);
                        }
                    },
                };
                match next {
                    Ok(Some(work)) => {
                        if !crew.take(work.clone()).await {
                            self.worker
                                .give_up(&work, "interrupted", "the run stopped before its turn")
                                .await;
                        }
                    }
                    Ok(None) => self.worker.vanished(&work).await,
                    Err((work, reason, detail)) => self.worker.give_up(&work, reason, &detail).await,
                }
            }
            self.crew = Some(crew);
        }
    }

    /// Looks at the file again when it is due; nothing where it is no more, `Err` where there is no next attempt.
    async fn next_attempt(&self, mut work: Work, due: Instant) -> Result<NextAttempt, EngineError> {
        tokio::time::sleep_until(due).await;
        if self.worker.shared.unanswered().contains(&work.file.id) {
            // Unfinished, it is swept by the next run before that begins another upload.
            let detail = "cannot look for the upload whose beginning was not answered";
            return Ok(Err((work, ErrorKind::Unavailable.as_str(), detail.to_owned())));
        }
        match self.worker.look_again(&work.file).await {
            Ok(Some(file)) => work.file = file,
            Ok(None) => return Ok(Ok(None)),
            Err(error) => return Ok(Err((work, error.kind().as_str(), error.to_string()))),
        }
        // What is stored is known to the ledger only.
        work.row = self.job.ledger.file(&work.file.id).await?;
        work.attempt += 1;
        work.decision = match decide(&work.file, work.row.as_ref()) {
            Decision::Confirm => Decision::Confirm,
            _ => Decision::Resume,
        };
        if work.decision == Decision::Resume {
            self.worker.intend(vec![intent(&work.file)]).await?;
            work.make_known();
        }
        Ok(Ok(Some(work)))
    }

    /// Looks for uploads whose beginning was not answered; files for which that fails stay marked.
    async fn sweep_unanswered(&self) {
        let files = self.worker.shared.unanswered().clone();
        match sweep::unanswered(&*self.job.ledger, &*self.job.target, &files).await {
            Ok(()) => self.worker.shared.unanswered().retain(|id| !files.contains(id)),
            Err(error) => {
                tracing::warn!(%error, "cannot look for uploads whose beginning was not answered");
            }
        }
    }
}

/// The next attempt at a file; nothing where the file is no more; or why there is none.
type NextAttempt = Result<Option<Work>, (Work, &'static str, String)>;
