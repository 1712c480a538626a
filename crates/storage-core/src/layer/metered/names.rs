//! Names of all metrics of this crate. Labels are bounded: `backend` is the configured name of a storage,
//! `operation` an [`Op`](crate::error::Op), `outcome` and `reason` an [`ErrorKind`](crate::error::ErrorKind) or
//! one of the words below, never an id or a path.

/// Counter: operations that have ended, by `backend`, `operation` and `outcome`.
pub const OPERATIONS: &str = "storage_operations_total";
/// Histogram: seconds until the answer, by `backend`, `operation` and `outcome`; of a download until its first
/// byte can be read, of a listing until its first file.
pub const DURATION: &str = "storage_operation_duration_seconds";
/// Counter: bytes of contents, by `backend` and `direction`.
pub const BYTES: &str = "storage_bytes_total";
/// Gauge: operations that are running, by `backend` and `operation`; a download until its body has ended.
pub const INFLIGHT: &str = "storage_inflight_operations";
/// Gauge: operations that may run at a time, by `backend`, where the layer `limit` follows what the storage can take.
pub const CONCURRENCY_LIMIT: &str = "storage_concurrency_limit";
/// Counter: attempts beyond the first, by `backend`, `operation` and `reason`.
pub const RETRIES: &str = "storage_retries_total";
/// Counter: lookups of a cache, by `tier` (where the cache keeps its entries) and `result`: [`HIT`], [`MISS`],
/// [`ERROR`], [`TIMEOUT`] or [`BYPASSED`].
pub const CACHE_REQUESTS: &str = "storage_cache_requests_total";
/// Histogram: seconds until a cache answered, by `tier`, `operation` (`get`, `put` or `invalidate`) and `result`:
/// [`OK`], [`ERROR`] or [`TIMEOUT`].
pub const CACHE_DURATION: &str = "storage_cache_duration_seconds";
/// Gauge: circuit breaker, by `backend`, the side's name: 0 closed, 1 half open, 2 open.
pub const CIRCUIT: &str = "storage_circuit_state";
/// Counter: operations that a fallback served from its secondary, by `backend`, `operation` and `reason`: `outage`
/// of the primary, `miss` there, or `journal` as the newest version was on the secondary.
pub const FALLBACKS: &str = "storage_fallback_operations_total";
/// Gauge: ids in a fallback's journal, by `backend` and `state`: `file`, `tombstone`, `stale`, `open`, and
/// `conflict`, which counts some of these again.
pub const JOURNAL: &str = "storage_fallback_journal_entries";
/// Counter: ids that a fallback tried to heal, by `backend` and `outcome`: `healed`, `outage`, `failed`, and `conflict`,
/// which is counted once, when the conflict begins; how many there are is in [`JOURNAL`].
pub const HEALS: &str = "storage_fallback_heals_total";

/// Outcome of an operation that succeeded.
pub const OK: &str = "ok";
/// Outcome of an operation that its caller dropped.
pub const DROPPED: &str = "dropped";
/// Result of a lookup that a cache answered.
pub const HIT: &str = "hit";
/// Result of a lookup that a cache had no answer to.
pub const MISS: &str = "miss";
/// Result of a request that a cache failed at.
pub const ERROR: &str = "error";
/// Result of a request that a cache did not answer in time.
pub const TIMEOUT: &str = "timeout";
/// Result of a lookup that was not made: a write was running, or the cache had just failed.
pub const BYPASSED: &str = "bypassed";
/// Direction of an upload.
pub const WRITE: &str = "write";
/// Direction of a download.
pub const READ: &str = "read";
