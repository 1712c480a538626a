//! Names of all metrics of this crate. Labels are bounded: `job` is the name of a job in the configuration file, the
//! others are words of the program, never an id or a path.

/// Counter: entries that runs have dealt with, by `job` and `state`: `copied`, `unchanged` (in an audit: that match),
/// `skipped` or `failed` (in an audit: findings); and, beside those, `quarantined`, `deleted` or `not_deleted` in the target
/// by a sync, and `source_removed`.
pub const OBJECTS: &str = "migrator_objects_total";
/// Gauge: entries that the run in progress has found and not dealt with, by `job`.
pub const PENDING: &str = "migrator_objects_pending";
/// Counter: bytes of contents, by `job` and `direction`: `read` or `sent`, attempts that failed included.
pub const BYTES: &str = "migrator_bytes_total";
/// Counter: attempts beyond the first, by `job`.
pub const RETRIES: &str = "migrator_retries_total";
/// Counter: parts of multipart uploads, by `result`: `sent`, or `resumed` as an earlier run had stored them.
pub const PARTS: &str = "migrator_parts_total";
/// Counter: files that an audit found missing or different in the target, by `job`.
pub const MISMATCHES: &str = "migrator_verify_mismatches_total";
/// Histogram: seconds until a batch of changes was durable in the ledger.
pub const LEDGER_COMMIT: &str = "migrator_ledger_commit_duration_seconds";
/// Gauge: when a run in progress last dealt with an entry or moved a byte, by `job`, in seconds since 1970.
pub const LAST_PROGRESS: &str = "migrator_last_progress_timestamp_seconds";
/// Gauge: 1, with the program's `version`.
pub const BUILD_INFO: &str = "migrator_build_info";
/// Counter: runs that have ended, by `job` and `result`: `ok`, `some_failed`, `mismatch`, `refused`, `interrupted` or
/// `error`.
pub const RUNS: &str = "migrator_runs_total";
/// Histogram: seconds from the start of a run to its end, by `job`.
pub const RUN_DURATION: &str = "migrator_run_duration_seconds";
/// Gauge: 1 while a run of the `job` is in progress, else 0.
pub const RUNNING: &str = "migrator_job_running";
/// Gauge: when the latest run without a failure ended, by `job`, in seconds since 1970; 0: none yet.
pub const LAST_SUCCESS: &str = "migrator_job_last_success_timestamp_seconds";
/// Gauge: when the next run is due, by `job`, in seconds since 1970; 0: none is.
pub const NEXT_RUN: &str = "migrator_job_next_run_timestamp_seconds";
/// Gauge: files in the ledger, by `job` and `state`, counted when a run begins and ends, and now and then in between.
/// `state="unrecorded"`: entries that failed in the latest copy of everything and could not be a file of the ledger.
pub const LEDGER_FILES: &str = "migrator_ledger_files";
/// Gauge: bytes of those.
pub const LEDGER_BYTES: &str = "migrator_ledger_bytes";
/// Gauge: 1 where the configuration is the one that was last read, 0 where the latest reading of it was refused.
pub const CONFIG_RELOADED: &str = "migrator_config_reload_success";
/// Counter: HTTP requests that were refused before they reached the API, by `reason`.
pub const HTTP_REFUSED: &str = "migrator_http_refused_total";

/// `state` of [`OBJECTS`]
pub const STATES: [&str; 8] =
    ["copied", "unchanged", "skipped", "failed", "quarantined", "deleted", "not_deleted", "source_removed"];
/// `state` of [`LEDGER_FILES`]
pub const UNRECORDED: &str = "unrecorded";
/// `direction` of [`BYTES`]
pub const READ: &str = "read";
/// `direction` of [`BYTES`], `result` of [`PARTS`]
pub const SENT: &str = "sent";
/// `result` of [`PARTS`]
pub const RESUMED: &str = "resumed";
/// `result` of [`RUNS`]
pub const RESULTS: [&str; 6] = ["ok", "some_failed", "mismatch", "refused", "interrupted", "error"];
/// `reason` of [`HTTP_REFUSED`]
pub const REFUSALS: [&str; 5] = ["host", "origin", "no_token", "token", "content_type"];
