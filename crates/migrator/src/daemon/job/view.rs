//! How a job stands, as others are told.

use jiff::Timestamp;
use serde::Serialize;

use crate::daemon::job::outcome::{Coverage, Last};
use crate::daemon::schedule::{Due, Why};
use crate::ledger::RunId;
use crate::progress::Snapshot;

/// What a job is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Doing {
    /// Nothing; see when it is due.
    Idle,
    /// A run is in progress.
    Running,
    /// Nothing yet: what failed is tried again soon.
    Waiting,
    /// A run is in progress and has been asked to end.
    Stopping,
}

/// The run in progress.
#[derive(Clone, Debug, Serialize)]
pub struct RunView {
    /// Its number in the ledger; nothing before it has one.
    pub run: Option<RunId>,
    /// Why it began.
    pub why: Why,
    /// `all`, `failed` or `files`.
    pub scope: &'static str,
    /// When.
    pub started: Timestamp,
    /// Its numbers.
    pub numbers: Snapshot,
    /// Nothing before the second look.
    pub bytes_per_second: Option<u64>,
    /// Nothing while the scan goes on, or nothing moves.
    pub eta_seconds: Option<u64>,
}

/// How the source is watched.
#[derive(Clone, Debug, Serialize)]
pub struct WatchView {
    /// `starting`, `on`, or `off` as it cannot be.
    pub state: &'static str,
    /// Why it is off.
    pub message: Option<String>,
    /// Changes that no run has looked at.
    pub changes: bool,
}

/// How a job stands.
#[derive(Clone, Debug, Serialize)]
pub struct View {
    /// Its name.
    pub name: String,
    /// `copy`, `sync`, `verify` or `cleanup`.
    pub mode: &'static str,
    /// As the configuration has it.
    pub source: String,
    /// As the configuration has it.
    pub target: String,
    /// As the configuration has it.
    pub schedule: Option<String>,
    /// What it is doing.
    pub state: Doing,
    /// When it is due next, and why; nothing while it runs, or where nothing but a request starts it.
    pub due: Option<Due>,
    /// The run in progress.
    pub run: Option<RunView>,
    /// The latest that has ended.
    pub last: Option<Last>,
    /// Runs in a row that failed.
    pub failures: u32,
    /// What the ledger holds; nothing before the first run.
    pub coverage: Option<Coverage>,
    /// Bytes sent in each of the last seconds of the run in progress, or of the latest; the last is now.
    pub speeds: Vec<u64>,
    /// How the source is watched; nothing where it is not.
    pub watch: Option<WatchView>,
    /// Whether a run can be about some files only.
    pub partial: bool,
}
