//! Runs: copy, verify, plan and cleanup, from the first entry of the scan to the last row of the ledger.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

use storage_core::storage::FileStorage;
use tokio_util::sync::CancellationToken;

use crate::ledger::{Ledger, LedgerError, RunEnd, RunId};
use crate::progress::Progress;
use crate::scan::Filter;

/// What a run works with.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Job {
    /// Read only.
    pub source: Arc<dyn FileStorage>,
    /// Written to by copies.
    pub target: Arc<dyn FileStorage>,
    /// The book of this pair.
    pub ledger: Arc<dyn Ledger>,
    /// Which files.
    pub filter: Filter,
    /// Numbers for whoever watches.
    pub progress: Progress,
    /// Cancelled when the run is to stop: what is in flight is given up within `grace`, the rest not begun.
    pub stop: CancellationToken,
}

impl Job {
    /// Makes a job over all files that nobody watches or stops.
    pub fn new(source: Arc<dyn FileStorage>, target: Arc<dyn FileStorage>, ledger: Arc<dyn Ledger>) -> Self {
        Self {
            source,
            target,
            ledger,
            filter: Filter::default(),
            progress: Progress::new(),
            stop: CancellationToken::new(),
        }
    }
}

/// How a copy works.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CopyOptions {
    /// Requests and part buffers at a time, 1 to 256; default 8. Memory is about this times the part size.
    pub concurrency: NonZeroU32,
    /// Bytes per part, and the greatest file that is sent in one request; default 16 MiB: large enough that a
    /// request's overhead is noise, small enough that little is sent again.
    pub part_size: NonZeroU64,
    /// Bytes per second read from the source; default: no limit.
    pub bandwidth: Option<NonZeroU64>,
    /// Attempts per file and run; default 3.
    pub attempts: NonZeroU32,
}

/// What an audit looks at.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifyOptions {
    /// Read every byte of the target, instead of trusting its checksums where it has been shown that they can
    /// be trusted. Default: no.
    pub read_back: bool,
    /// As for copies; default 8.
    pub concurrency: Option<NonZeroU32>,
    /// Bytes per second read back; default: no limit.
    pub bandwidth: Option<NonZeroU64>,
}

/// A run that came to an end; everything else about it is in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its number.
    pub run: RunId,
    /// How.
    pub end: RunEnd,
}

/// Why a run could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The source cannot be used at all.
    #[error("source: {0}")]
    Source(#[source] storage_core::error::Error),
    /// The target cannot be used at all.
    #[error("target: {0}")]
    Target(#[source] storage_core::error::Error),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}
