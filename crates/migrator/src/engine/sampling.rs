//! Looks at a run's numbers now and then, and notes how it goes: a look costs the run nothing that a file would feel.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::course::{Course, Point, Timeline};
use crate::ledger::{Ledger, RunId};
use crate::progress::{Progress, Snapshot};

/// How often the ledger is told, so that a run that is killed has its course until then.
const NOTE: Duration = Duration::from_secs(10);

/// The task that looks. Dropped, it ends.
pub(super) struct Sampler {
    over: DropGuard,
    task: JoinHandle<()>,
}

impl Sampler {
    /// Starts looking at the numbers of a run, whose settings are noted at once.
    pub(super) fn start(
        ledger: Arc<dyn Ledger>,
        run: RunId,
        progress: Progress,
        settings: BTreeMap<String, String>,
    ) -> Self {
        let over = CancellationToken::new();
        let task = tokio::spawn(sample(ledger, run, progress, settings, over.clone()));
        Self { over: over.drop_guard(), task }
    }

    /// Takes the last look and notes it. To be called before the run is closed.
    pub(super) async fn finish(self) {
        drop(self.over);
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "how the run went is not known to its end");
        }
    }
}

async fn sample(
    ledger: Arc<dyn Ledger>,
    run: RunId,
    progress: Progress,
    settings: BTreeMap<String, String>,
    over: CancellationToken,
) {
    let mut timeline = Timeline::default();
    let (mut before, mut since, mut noted) = (progress.snapshot(), Instant::now(), None);
    loop {
        let ended = tokio::select! {
            biased;
            () = over.cancelled() => true,
            () = tokio::time::sleep_until(since + timeline.interval()) => false,
        };
        let (now, at) = (progress.snapshot(), Instant::now());
        timeline.push(between(&before, &now, at - since));
        (before, since) = (now, at);
        if ended || noted.is_none_or(|noted: Instant| noted.elapsed() >= NOTE) {
            noted = Some(at);
            let mut course = Course::default();
            course.settings.clone_from(&settings);
            course.timeline = timeline.points().to_vec();
            course.slowest = progress.slowest();
            if let Err(error) = ledger.note_course(run, course).await {
                // What counts fails the run by itself where the ledger is broken.
                tracing::warn!(%error, "how the run goes cannot be noted");
            }
        }
        if ended {
            return;
        }
    }
}

fn between(before: &Snapshot, now: &Snapshot, took: Duration) -> Point {
    Point {
        ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        read: now.bytes_read.saturating_sub(before.bytes_read),
        sent: now.bytes_sent.saturating_sub(before.bytes_sent),
        done: now.done.saturating_sub(before.done),
    }
}
