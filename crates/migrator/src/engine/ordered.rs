//! Files that are copied in another order than the source lists them.
//!
//! The listing goes on to its end first, and what is to be copied waits in temporary files; then it is handed over in
//! order. Of a file only its identity waits: what the ledger knows of it is asked for when its turn comes. Files whose
//! turn does not come because the run is stopped are unfinished in its report.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use storage_core::id::FileId;
use storage_core::metadata::{FileMetadata, Version};

use crate::ledger::Ledger;
use crate::order::Order;
use crate::order::spool::{Sorted, Spool};
use crate::plan::Decision;

use super::EngineError;
use super::worker::Work;

/// Files that are handed over at a time.
const BATCH: usize = 128;

/// A file that waits for its turn.
#[derive(Debug, Serialize, Deserialize)]
struct Waiting {
    id: String,
    size: u64,
    /// Seconds since 1970, and nanoseconds on top.
    modified: Option<(i64, u32)>,
    version: Option<String>,
    decision: Decision,
    /// Whether the ledger had a row of it.
    row: bool,
    known: bool,
}

/// What is put off until the source has been listed whole.
#[derive(Debug)]
pub(super) struct Later {
    order: Order,
    spool: Spool,
}

/// What was put off, in order.
pub(super) struct Turns(Sorted);

impl Later {
    /// Puts nothing off in the order in which the source is listed.
    pub(super) fn new(order: Order) -> Option<Self> {
        (order != Order::Name).then(|| Self { order, spool: Spool::default() })
    }

    /// Puts files off.
    pub(super) async fn add(self, works: Vec<Work>) -> Result<Self, EngineError> {
        blocking(move || {
            let Self { order, mut spool } = self;
            for work in &works {
                spool.add(order.key(&work.file), &Waiting::of(work))?;
            }
            Ok(Self { order, spool })
        })
        .await
    }

    pub(super) async fn in_order(self) -> Result<Turns, EngineError> {
        blocking(move || self.spool.sorted().map(Turns)).await
    }
}

impl Turns {
    /// Returns the next files; none once all had their turn.
    pub(super) async fn next(self, ledger: &dyn Ledger) -> Result<(Self, Vec<Work>), EngineError> {
        let (turns, waiting) = blocking(move || {
            let Self(mut sorted) = self;
            let waiting: Vec<Waiting> = sorted.take(BATCH)?;
            Ok((Self(sorted), waiting))
        })
        .await?;
        let mut works = Vec::with_capacity(waiting.len());
        for waiting in waiting {
            works.push(waiting.work(ledger).await?);
        }
        Ok((turns, works))
    }
}

impl Waiting {
    fn of(work: &Work) -> Self {
        let since = |time: std::time::SystemTime| match time.duration_since(UNIX_EPOCH) {
            Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
            Err(before) => {
                let before = before.duration();
                let seconds = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
                // Nanoseconds count upward.
                match before.subsec_nanos() {
                    0 => (-seconds, 0),
                    nanos => (-seconds - 1, 1_000_000_000 - nanos),
                }
            }
        };
        Self {
            id: work.file.id.to_string(),
            size: work.file.size,
            modified: work.file.modified.map(since),
            version: work.file.version.as_ref().map(|version| version.as_str().to_owned()),
            decision: work.decision,
            row: work.row.is_some(),
            known: work.is_known(),
        }
    }

    async fn work(self, ledger: &dyn Ledger) -> Result<Work, EngineError> {
        let id = FileId::parse(self.id.as_str())
            .map_err(|error| EngineError::Internal(format!("a temporary file was changed: {error}")))?;
        // Since it was put off, only its intent was recorded.
        let row = if self.row { ledger.file(&id).await? } else { None };
        let mut file = FileMetadata::new(id, self.size);
        file.modified = self.modified.and_then(|(seconds, nanos)| {
            let distance = Duration::from_secs(seconds.unsigned_abs());
            let whole =
                if seconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
            whole?.checked_add(Duration::from_nanos(nanos.into()))
        });
        file.version = self.version.map(Version::new);
        let known = Arc::new(AtomicBool::new(self.known));
        Ok(Work { file, decision: self.decision, row, attempt: 1, known })
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, EngineError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| EngineError::Internal(error.to_string()))?
        .map_err(|error| EngineError::Internal(format!("temporary files: {error}")))
}
