//! The way of outcomes into the ledger, in batches: what is told is durable.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use storage_core::storage::Verified;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::ledger::{Change, Ledger, LedgerError, Outcome, OutcomeRecord, Recorded, RunId};
use crate::metrics::names;
use crate::progress::Progress;

use super::EngineError;

/// Changes on their way; beyond that, workers wait for the disk.
const QUEUE: usize = 1024;

/// Largest batch handed to the ledger at once.
const BATCH: usize = 512;

/// How long a batch waits for more: a commit costs the disk and the processor the same whether it is of one change
/// or of hundreds, and nobody waits for these. What a kill in this time forgets is sent again.
const GATHER: Duration = Duration::from_millis(10);

enum Message {
    /// A change, and the size of its file in bytes for whoever watches; nobody is told of a quiet one.
    Note { change: Change, size: Option<u64>, quiet: bool },
    /// Answered once everything before it is durable.
    Flush(oneshot::Sender<()>),
}

/// Takes changes without waiting for the disk; they are durable, in order, when [`Recorder::close`] has returned.
#[derive(Clone, Debug)]
pub(super) struct Recorder(mpsc::Sender<Message>);

/// The task behind a [`Recorder`].
pub(super) struct Recording(JoinHandle<Result<(), EngineError>>);

impl Recorder {
    /// Starts the task.
    pub(super) fn start(
        ledger: Arc<dyn Ledger>,
        run: RunId,
        progress: Progress,
        halt: CancellationToken,
    ) -> (Self, Recording) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let task = tokio::spawn(async move {
            let result = record_all(&*ledger, run, &progress, receiver).await;
            if result.is_err() {
                // What cannot be recorded must not be done.
                halt.cancel();
            }
            result
        });
        (Self(sender), Recording(task))
    }

    /// Hands a change over. After the ledger failed nothing is recorded any more; the failure is what
    /// [`Recording::close`] returns.
    pub(super) async fn note(&self, change: Change, size: Option<u64>) {
        let _ = self.0.send(Message::Note { change, size, quiet: false }).await;
    }

    /// Hands over a change that is counted already.
    pub(super) async fn note_quietly(&self, change: Change) {
        let _ = self.0.send(Message::Note { change, size: None, quiet: true }).await;
    }

    /// Waits until everything handed over before is durable, or the ledger has failed.
    pub(super) async fn flush(&self) {
        let (sender, receiver) = oneshot::channel();
        if self.0.send(Message::Flush(sender)).await.is_ok() {
            let _ = receiver.await;
        }
    }
}

impl Recording {
    /// Waits until everything handed over is durable. All recorders must have been dropped.
    pub(super) async fn close(self) -> Result<(), EngineError> {
        match self.0.await {
            Ok(result) => result,
            Err(error) => Err(EngineError::Internal(format!("the recorder ended early: {error}"))),
        }
    }
}

async fn record_all(
    ledger: &dyn Ledger,
    run: RunId,
    progress: &Progress,
    mut receiver: mpsc::Receiver<Message>,
) -> Result<(), EngineError> {
    let mut batch = Vec::new();
    while gather(&mut receiver, &mut batch).await {
        let mut notes = Vec::with_capacity(batch.len());
        let mut waiting = Vec::new();
        for message in batch.drain(..) {
            match message {
                Message::Note { change, size, quiet } => notes.push((change, size, quiet)),
                Message::Flush(sender) => waiting.push(sender),
            }
        }
        let changes = notes.iter().map(|(change, ..)| change.clone()).collect();
        let began = Instant::now();
        let recorded = ledger.record(run, changes).await?;
        metrics::histogram!(names::LEDGER_COMMIT).record(began.elapsed());
        for ((change, size, quiet), recorded) in notes.iter().zip(recorded) {
            match (recorded, change) {
                (Recorded::Done, _) if *quiet => {}
                (Recorded::Done, _) => tell(progress, change, *size),
                // A worker was ended between its last note and its end: that note stands.
                (Recorded::Stale, Change::Failed { .. }) => {}
                // All changes follow from what the ledger has told.
                (Recorded::Stale, _) => {
                    return Err(EngineError::Ledger(LedgerError::Corrupt {
                        location: ledger.location().to_owned(),
                        reason: format!("it contradicts itself: it does not expect {change:?}"),
                    }));
                }
            }
        }
        for sender in waiting {
            let _ = sender.send(());
        }
    }
    Ok(())
}

/// Waits for the next message, and a moment for more; false when there are no more. Nobody is woken in that moment,
/// so that a message costs no change of threads.
async fn gather(receiver: &mut mpsc::Receiver<Message>, batch: &mut Vec<Message>) -> bool {
    let Some(first) = receiver.recv().await else { return false };
    batch.push(first);
    tokio::time::sleep(GATHER).await;
    while batch.len() < BATCH
        && let Ok(next) = receiver.try_recv()
    {
        batch.push(next);
    }
    true
}

/// Makes a line of the journal.
pub(super) fn line(
    subject: &str,
    outcome: Outcome,
    reason: &str,
    detail: Option<String>,
    size: Option<u64>,
) -> OutcomeRecord {
    OutcomeRecord {
        subject: subject.to_owned(),
        outcome,
        reason: reason.to_owned(),
        detail,
        size,
        digest: None,
        verified: None,
        attempts: 0,
        at: Timestamp::now(),
    }
}

fn tell(progress: &Progress, change: &Change, size: Option<u64>) {
    let say = |subject: &str, outcome, reason: &str| progress.outcome(subject, outcome, reason, size);
    match change {
        Change::Published { id, published, .. } | Change::Arrived { id, published, .. }
            if published.verified != Verified::No =>
        {
            say(id.as_str(), Outcome::Copied, "");
        }
        Change::Confirmed { id, attempts: Some(_), .. } => say(id.as_str(), Outcome::Copied, ""),
        Change::Failed { id, reason, .. } => say(id.as_str(), Outcome::Failed, reason),
        Change::Damaged { id, outcome, .. } => say(id.as_str(), *outcome, ""),
        Change::Gone { id } => say(id.as_str(), Outcome::Gone, ""),
        Change::Noted(line) => say(&line.subject, line.outcome, &line.reason),
        _ => {}
    }
}
