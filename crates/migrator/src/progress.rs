//! Where a run stands at this moment: numbers that the engine adds to and renderers look at.
//!
//! Nothing here decides anything: the report and the exit code come from the ledger.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use serde::Serialize;

use crate::course::{Slow, Slowest};
use crate::ledger::{Outcome, RunId, RunKind};

pub mod meter;

/// Something that happened, for whoever follows a run line by line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event<'a> {
    /// A run began.
    Run {
        /// Its number.
        run: RunId,
        /// What it does.
        kind: RunKind,
    },
    /// One entry is dealt with. Unchanged files and matches are counted, not told one by one.
    File {
        /// The id, or the escaped path.
        subject: &'a str,
        /// What became of it.
        outcome: Outcome,
        /// A stable word, empty for success.
        #[serde(skip_serializing_if = "str::is_empty")]
        reason: &'a str,
        /// In bytes, where known.
        #[serde(skip_serializing_if = "Option::is_none")]
        size: Option<u64>,
    },
    /// A file is tried again.
    Retry {
        /// The file.
        subject: &'a str,
        /// The attempt that failed, from 1.
        attempt: u32,
        /// Why.
        detail: &'a str,
    },
    /// Something whoever runs the tool should know.
    Notice {
        /// In words.
        message: &'a str,
    },
}

/// The reason of a file that was copied, and that nobody was to compare.
pub const NOT_COMPARED: &str = "not_compared";

type Limit = Box<dyn Fn() -> u32 + Send + Sync>;

type Sink = Box<dyn Fn(&Event<'_>) + Send + Sync>;

/// A handle on the numbers of a run. A clone shares them.
#[derive(Clone, Default)]
pub struct Progress(Arc<Inner>);

#[derive(Default)]
struct Inner {
    numbers: Numbers,
    sink: Option<Sink>,
    limit: OnceLock<Limit>,
    slowest: Mutex<Slowest>,
    /// Microseconds that a file must exceed to be among the slowest: nearly all files read this and nothing else.
    slow: AtomicU64,
}

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        #[derive(Default)]
        struct Numbers { $($name: AtomicU64),* }

        /// The numbers of a run at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        #[non_exhaustive]
        pub struct Snapshot { $($(#[$doc])* pub $name: u64),* }

        impl Numbers {
            fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.load(Ordering::Relaxed)),* }
            }
        }
    };
}

numbers! {
    /// Entries found that are to be dealt with.
    planned,
    /// Bytes of those.
    planned_bytes,
    /// 1 once the scan has seen everything: only then are the planned numbers final.
    scan_done,
    /// Entries dealt with, whatever became of them.
    done,
    /// Bytes of the files dealt with.
    done_bytes,
    /// Files copied.
    copied,
    /// Files that needed nothing (in an audit: that match).
    unchanged,
    /// Entries skipped.
    skipped,
    /// Entries failed (in an audit: findings).
    failed,
    /// Sync: files of the target moved to the quarantine there.
    quarantined,
    /// Sync: files of the target deleted at once.
    deleted,
    /// Sync: files of the target that were to be removed and were not.
    not_deleted,
    /// Files of the source moved to the quarantine there.
    source_removed,
    /// Audit: files missing or different in the target; among those failed.
    mismatched,
    /// Bytes sent, attempts that failed included.
    bytes_sent,
    /// Bytes read, of the source and of what is read back.
    bytes_read,
    /// Bytes read of the source by a copy: ahead of those sent by what waits in buffers.
    bytes_taken,
    /// Attempts beyond the first.
    retries,
    /// Files in work.
    active,
    /// Requests at a time that the target is held to as it said that more are too many; 0: as many as were allowed.
    held_to,
}

impl Progress {
    /// Makes numbers that nobody follows line by line.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes numbers whose events go to `sink` as they happen. The sink is called from many threads and must
    /// be quick.
    pub fn with_sink(sink: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner { sink: Some(Box::new(sink)), ..Inner::default() }))
    }

    /// Returns the numbers at this moment.
    pub fn snapshot(&self) -> Snapshot {
        let mut now = self.0.numbers.snapshot();
        now.held_to = self.0.limit.get().map_or(0, |limit| limit().into());
        now
    }

    /// Asks `limit` from now on how many requests at a time the target is held to; 0: as many as were allowed. The
    /// first to be asked stays.
    pub fn watch_limit(&self, limit: impl Fn() -> u32 + Send + Sync + 'static) {
        let _ = self.0.limit.set(Box::new(limit));
    }

    /// Tells an event.
    pub fn tell(&self, event: &Event<'_>) {
        if let Some(sink) = &self.0.sink {
            sink(event);
        }
    }

    /// Counts an entry that is to be dealt with.
    pub fn planned(&self, bytes: u64) {
        add(&self.0.numbers.planned, 1);
        add(&self.0.numbers.planned_bytes, bytes);
    }

    /// Notes that the scan has seen everything.
    pub fn scan_done(&self) {
        self.0.numbers.scan_done.store(1, Ordering::Relaxed);
    }

    /// Counts a file that needs nothing.
    pub fn unchanged(&self, bytes: u64) {
        add(&self.0.numbers.unchanged, 1);
        add(&self.0.numbers.done, 1);
        add(&self.0.numbers.done_bytes, bytes);
    }

    /// Counts and tells what became of an entry.
    pub fn outcome(&self, subject: &str, outcome: Outcome, reason: &str, size: Option<u64>) {
        let numbers = &self.0.numbers;
        let number = match outcome {
            Outcome::Copied => Some(&numbers.copied),
            // Nobody was to compare it.
            Outcome::Unverified if reason == NOT_COMPARED => Some(&numbers.copied),
            Outcome::Unchanged | Outcome::Matched => Some(&numbers.unchanged),
            Outcome::Skipped => Some(&numbers.skipped),
            Outcome::Failed
            | Outcome::Missing
            | Outcome::Different
            | Outcome::Unverified
            | Outcome::Outdated => Some(&numbers.failed),
            Outcome::Gone
            | Outcome::Unseen
            | Outcome::Excluded
            | Outcome::Extra
            | Outcome::Quarantined
            | Outcome::Deleted
            | Outcome::NotDeleted
            | Outcome::Kept => None,
        };
        if let Some(number) = number {
            add(number, 1);
            add(&numbers.done, 1);
            add(&numbers.done_bytes, size.unwrap_or(0));
        }
        let beside = match outcome {
            Outcome::Quarantined => Some(&numbers.quarantined),
            Outcome::Deleted => Some(&numbers.deleted),
            Outcome::NotDeleted => Some(&numbers.not_deleted),
            Outcome::Missing | Outcome::Different => Some(&numbers.mismatched),
            _ => None,
        };
        if let Some(number) = beside {
            add(number, 1);
        }
        self.tell(&Event::File { subject, outcome, reason, size });
    }

    /// Counts a file of the source that was moved away.
    pub fn source_removed(&self) {
        add(&self.0.numbers.source_removed, 1);
    }

    /// Counts bytes read, of the source and of what is read back.
    pub fn bytes_read(&self, bytes: u64) {
        add(&self.0.numbers.bytes_read, bytes);
    }

    /// Counts bytes read of the source by a copy.
    pub fn bytes_taken(&self, bytes: u64) {
        self.bytes_read(bytes);
        add(&self.0.numbers.bytes_taken, bytes);
    }

    /// Counts bytes sent.
    pub fn bytes_sent(&self, bytes: u64) {
        add(&self.0.numbers.bytes_sent, bytes);
    }

    /// Counts and tells another attempt.
    pub fn retry(&self, subject: &str, attempt: u32, detail: &str) {
        add(&self.0.numbers.retries, 1);
        self.tell(&Event::Retry { subject, attempt, detail });
    }

    /// Counts a file as in work until the guard is dropped, which also tells how long it took.
    pub fn active<'a>(&'a self, subject: &'a str, size: u64) -> Active<'a> {
        add(&self.0.numbers.active, 1);
        Active { progress: self, subject, size, since: Instant::now() }
    }

    /// Returns the files that took longest, the slowest first.
    pub fn slowest(&self) -> Vec<Slow> {
        self.0.slowest.lock().unwrap_or_else(PoisonError::into_inner).list().to_vec()
    }
}

fn add(number: &AtomicU64, by: u64) {
    number.fetch_add(by, Ordering::Relaxed);
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Progress").field(&self.snapshot()).finish()
    }
}

/// A file in work; dropped when it is done.
#[derive(Debug)]
pub struct Active<'a> {
    progress: &'a Progress,
    subject: &'a str,
    size: u64,
    since: Instant,
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        let inner = &self.progress.0;
        inner.numbers.active.fetch_sub(1, Ordering::Relaxed);
        let took = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        if took > inner.slow.load(Ordering::Relaxed) {
            let mut slowest = inner.slowest.lock().unwrap_or_else(PoisonError::into_inner);
            inner.slow.store(slowest.take(self.subject, self.size, took), Ordering::Relaxed);
        }
    }
}
