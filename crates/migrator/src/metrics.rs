//! Metrics for Prometheus: what is described, the exporter, and the way of a run's numbers into counters.
//!
//! The hot path of small files takes no part in this: what a run counts is in [`Progress`](crate::progress::Progress)
//! anyway, and a [`Sampler`] adds what has changed since it last looked. What the engine itself records (commits of the
//! ledger, parts, findings) costs a look-up per batch or per large file.

use jiff::Timestamp;
use metrics::{Counter, Gauge, Unit};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use storage_core::layer::metered::names as storage;

use crate::progress::Snapshot;

pub mod names;

/// Upper bounds of durations in seconds. 0.2 and 2 are there because people alert on them.
pub const DURATIONS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];

/// Upper bounds of the durations of runs in seconds: from an unchanged tree to a week.
pub const RUN_DURATIONS: [f64; 10] =
    [1.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 14400.0, 43200.0, 86400.0, 604_800.0];

/// A handle on the metrics of this process. A clone shares them.
#[derive(Clone)]
pub struct Exporter(PrometheusHandle);

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exporter")
    }
}

impl Exporter {
    /// Records metrics from now on. Once per process.
    ///
    /// # Errors
    /// Something else records already.
    pub fn install() -> Result<Self, BuildError> {
        use metrics_exporter_prometheus::Matcher;
        let handle = PrometheusBuilder::new()
            .set_buckets(&DURATIONS)?
            .set_buckets_for_metric(Matcher::Full(names::RUN_DURATION.to_owned()), &RUN_DURATIONS)?
            .install_recorder()?;
        describe();
        // What was never counted is 0 and not missing, so that the first event is an increase.
        for result in [names::SENT, names::RESUMED] {
            metrics::counter!(names::PARTS, "result" => result).increment(0);
        }
        for reason in names::REFUSALS {
            metrics::counter!(names::HTTP_REFUSED, "reason" => reason).increment(0);
        }
        config_reloaded(true);
        metrics::gauge!(names::BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(Self(handle))
    }

    /// Returns all metrics as Prometheus reads them (text format 0.0.4).
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Moves what was recorded to where it is kept: to be called every few seconds, or histograms grow.
    pub fn upkeep(&self) {
        self.0.run_upkeep();
    }
}

fn describe() {
    let counters = [
        (names::OBJECTS, Unit::Count, "Entries that runs have dealt with."),
        (names::BYTES, Unit::Bytes, "Bytes of contents that runs have read and sent."),
        (names::RETRIES, Unit::Count, "Attempts at files beyond the first."),
        (names::PARTS, Unit::Count, "Parts of multipart uploads, sent or found stored."),
        (names::MISMATCHES, Unit::Count, "Files that an audit found missing or different in the target."),
        (names::RUNS, Unit::Count, "Runs that have ended."),
        (names::HTTP_REFUSED, Unit::Count, "HTTP requests that were refused before they reached the API."),
        (storage::OPERATIONS, Unit::Count, "Operations of storages that have ended."),
        (storage::BYTES, Unit::Bytes, "Bytes of contents that storages have taken and given."),
        (storage::RETRIES, Unit::Count, "Attempts at operations of storages beyond the first."),
    ];
    for (name, unit, text) in counters {
        metrics::describe_counter!(name, unit, text);
    }
    let gauges = [
        (names::PENDING, Unit::Count, "Entries that the run in progress has found and not dealt with."),
        (names::LAST_PROGRESS, Unit::Seconds, "When a run in progress last moved."),
        (names::BUILD_INFO, Unit::Count, "1, with the program's version."),
        (
            names::CONFIG_RELOADED,
            Unit::Count,
            "1: the configuration is the one last read; 0: that was refused.",
        ),
        (names::RUNNING, Unit::Count, "1 while a run of the job is in progress."),
        (names::LAST_SUCCESS, Unit::Seconds, "When the latest run without a failure ended; 0: none yet."),
        (names::NEXT_RUN, Unit::Seconds, "When the next run is due; 0: none is."),
        (names::LEDGER_FILES, Unit::Count, "Files in the ledger by state."),
        (names::LEDGER_BYTES, Unit::Bytes, "Bytes of the files in the ledger by state."),
        (storage::INFLIGHT, Unit::Count, "Operations of storages that are running."),
        (
            storage::CONCURRENCY_LIMIT,
            Unit::Count,
            "Operations at a time that a storage is held to; falls while it asks for less.",
        ),
        (storage::CIRCUIT, Unit::Count, "Circuit breaker of a storage: 0 closed, 1 half open, 2 open."),
    ];
    for (name, unit, text) in gauges {
        metrics::describe_gauge!(name, unit, text);
    }
    let histograms = [
        (names::LEDGER_COMMIT, "Seconds until a batch of changes was durable in the ledger."),
        (names::RUN_DURATION, "Seconds from the start of a run to its end."),
        (storage::DURATION, "Seconds until a storage answered."),
    ];
    for (name, text) in histograms {
        metrics::describe_histogram!(name, Unit::Seconds, text);
    }
}

/// Adds what a job's run has counted since the last look to the counters of the job.
pub struct Sampler {
    last: Snapshot,
    objects: [Counter; 8],
    mismatches: Counter,
    read: Counter,
    sent: Counter,
    retries: Counter,
    pending: Gauge,
    progress: Gauge,
}

impl std::fmt::Debug for Sampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sampler").field("last", &self.last).finish_non_exhaustive()
    }
}

impl Sampler {
    /// Makes the counters of a job; they are there from now on, with 0 where nothing was counted before.
    pub fn new(job: &str) -> Self {
        let object = |state: &'static str| {
            let counter = metrics::counter!(names::OBJECTS, "job" => job.to_owned(), "state" => state);
            counter.increment(0);
            counter
        };
        let bytes = |direction: &'static str| {
            let counter = metrics::counter!(names::BYTES, "job" => job.to_owned(), "direction" => direction);
            counter.increment(0);
            counter
        };
        for result in names::RESULTS {
            metrics::counter!(names::RUNS, "job" => job.to_owned(), "result" => result).increment(0);
        }
        for name in [names::RUNNING, names::LAST_SUCCESS, names::NEXT_RUN] {
            set(name, job, 0.0);
        }
        let retries = metrics::counter!(names::RETRIES, "job" => job.to_owned());
        retries.increment(0);
        // What was never counted is 0 and not missing, so that the first event is an increase.
        let mismatches = metrics::counter!(names::MISMATCHES, "job" => job.to_owned());
        mismatches.increment(0);
        let pending = metrics::gauge!(names::PENDING, "job" => job.to_owned());
        pending.set(0.0);
        Self {
            last: Snapshot::default(),
            objects: names::STATES.map(object),
            mismatches,
            read: bytes(names::READ),
            sent: bytes(names::SENT),
            retries,
            pending,
            progress: metrics::gauge!(names::LAST_PROGRESS, "job" => job.to_owned()),
        }
    }

    /// Begins a run, whose numbers begin at 0. It has moved by beginning: what was before is no rest of its own.
    pub fn begin(&mut self, at: Timestamp) {
        self.restart();
        self.progress.set(seconds(at));
    }

    fn restart(&mut self) {
        self.last = Snapshot::default();
    }

    /// Adds what `now` has beyond the last look; true where anything moved.
    pub fn sample(&mut self, at: Timestamp, now: &Snapshot) -> bool {
        let last = std::mem::replace(&mut self.last, *now);
        let states = [
            (now.copied, last.copied),
            (now.unchanged, last.unchanged),
            (now.skipped, last.skipped),
            (now.failed, last.failed),
            (now.quarantined, last.quarantined),
            (now.deleted, last.deleted),
            (now.not_deleted, last.not_deleted),
            (now.source_removed, last.source_removed),
        ];
        // A long deletion reads and sends nothing.
        let removed = states.iter().skip(4).any(|(now, last)| now != last);
        for (counter, (now, last)) in self.objects.iter().zip(states) {
            counter.increment(now.saturating_sub(last));
        }
        self.mismatches.increment(now.mismatched.saturating_sub(last.mismatched));
        self.read.increment(now.bytes_read.saturating_sub(last.bytes_read));
        self.sent.increment(now.bytes_sent.saturating_sub(last.bytes_sent));
        self.retries.increment(now.retries.saturating_sub(last.retries));
        self.pending.set(as_number(now.planned.saturating_sub(now.done)));
        let moved = (now.done, now.planned, now.bytes_read, now.bytes_sent)
            != (last.done, last.planned, last.bytes_read, last.bytes_sent)
            || removed;
        if moved {
            self.progress.set(seconds(at));
        }
        moved
    }

    /// Notes that no run is in progress.
    pub fn rest(&mut self) {
        self.pending.set(0.0);
        self.restart();
    }
}

/// Sets a gauge of a job.
pub fn set(name: &'static str, job: &str, value: f64) {
    metrics::gauge!(name, "job" => job.to_owned()).set(value);
}

/// Sets a gauge of a job to a time.
pub fn seconds_of(name: &'static str, job: &str, at: Timestamp) {
    set(name, job, seconds(at));
}

/// Notes how many files the ledger of a job holds in a state.
pub fn ledger_files(job: &str, state: &'static str, files: u64, bytes: u64) {
    for (name, number) in [(names::LEDGER_FILES, files), (names::LEDGER_BYTES, bytes)] {
        metrics::gauge!(name, "job" => job.to_owned(), "state" => state).set(as_number(number));
    }
}

/// Notes whether the latest reading of the configuration was accepted.
pub fn config_reloaded(accepted: bool) {
    metrics::gauge!(names::CONFIG_RELOADED).set(if accepted { 1.0 } else { 0.0 });
}

/// Counts a run that has ended.
pub fn run_ended(job: &str, result: &'static str, seconds: f64) {
    metrics::counter!(names::RUNS, "job" => job.to_owned(), "result" => result).increment(1);
    metrics::histogram!(names::RUN_DURATION, "job" => job.to_owned()).record(seconds);
}

/// Returns a time as metrics have it.
pub fn seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}

/// Returns a count as metrics have it: exact up to 2^53.
pub fn as_number(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "metrics are floating point numbers")]
    let number = count as f64;
    number
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Outcome;
    use crate::progress::Progress;

    /// Recorders of one thread, so that tests do not see each other.
    fn rendered(work: impl FnOnce()) -> String {
        let recorder = PrometheusBuilder::new().set_buckets(&DURATIONS).unwrap().build_recorder();
        metrics::with_local_recorder(&recorder, work);
        recorder.handle().render()
    }

    #[test]
    fn a_run_that_is_looked_at_twice_is_counted_once() {
        let text = rendered(|| {
            let mut sampler = Sampler::new("photos");
            let progress = Progress::new();
            let at = Timestamp::UNIX_EPOCH;
            progress.planned(10);
            progress.planned(20);
            progress.outcome("a", Outcome::Copied, "", Some(10));
            progress.bytes_sent(10);
            assert!(sampler.sample(at, &progress.snapshot()));
            assert!(!sampler.sample(at, &progress.snapshot()), "nothing moved");
            progress.outcome("b", Outcome::Failed, "denied", Some(20));
            sampler.sample(at, &progress.snapshot());
            // A deletion moves nothing but itself.
            progress.outcome("old", Outcome::Quarantined, "", Some(5));
            assert!(sampler.sample(at, &progress.snapshot()), "a removal is progress");
            progress.source_removed();
            assert!(sampler.sample(at, &progress.snapshot()), "and so is a removal of a source");
            progress.outcome("c", Outcome::Different, "", Some(5));
            sampler.sample(at, &progress.snapshot());
            // The numbers of the next run begin at 0 again, the counters go on.
            sampler.rest();
            sampler.begin(Timestamp::from_second(100).unwrap());
            let next = Progress::new();
            next.outcome("b", Outcome::Copied, "", Some(20));
            sampler.sample(Timestamp::from_second(100).unwrap(), &next.snapshot());
        });
        for line in [
            "migrator_objects_total{job=\"photos\",state=\"copied\"} 2",
            "migrator_objects_total{job=\"photos\",state=\"failed\"} 2",
            "migrator_objects_total{job=\"photos\",state=\"quarantined\"} 1",
            "migrator_objects_total{job=\"photos\",state=\"deleted\"} 0",
            "migrator_objects_total{job=\"photos\",state=\"source_removed\"} 1",
            "migrator_verify_mismatches_total{job=\"photos\"} 1",
            "migrator_last_progress_timestamp_seconds{job=\"photos\"} 100",
            "migrator_objects_total{job=\"photos\",state=\"skipped\"} 0",
            "migrator_bytes_total{job=\"photos\",direction=\"sent\"} 10",
            "migrator_objects_pending{job=\"photos\"} 0",
        ] {
            assert!(text.contains(line), "no {line}\n{text}");
        }
    }
}
