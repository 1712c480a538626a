//! One job: what is known of it, what it is doing, when it is due.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use storage_core::id::FileId;
use tokio_util::sync::CancellationToken;

use crate::daemon::schedule::{self, Due, Past, Why};
use crate::daemon::source::{Seen, Watching};
use crate::daemon::{Ended, JobSpec, Order, Scope, Work};
use crate::failure::{Exit, Failure};
use crate::item::State;
use crate::ledger::{Count, Ledger, RunEnd, RunId, RunKind};
use crate::metrics::{self, Sampler, names};
use crate::progress::meter::{Meter, Pace};
use crate::progress::{Event, Progress, Snapshot};
use crate::report::{Report, Verdict};

/// Seconds of throughput that are kept.
const SPEEDS: usize = 120;

/// Changed files that are kept one by one; with more, everything is looked at.
const MOST_CHANGES: usize = 10_000;

/// A job of the daemon.
#[derive(Debug)]
pub struct Job {
    name: String,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    spec: JobSpec,
    /// Whether the configuration no longer has it.
    retired: bool,
    prepared: bool,
    past: Past,
    /// Files that changed; nothing: everything may have.
    changes: Option<BTreeSet<FileId>>,
    retry: Scope,
    running: Option<Running>,
    last: Option<Last>,
    coverage: Option<Coverage>,
    sampler: Sampler,
    speeds: VecDeque<u64>,
    watching: Option<Result<Watching, String>>,
}

#[derive(Debug)]
struct Running {
    order: Order,
    started: Timestamp,
    began: Instant,
    progress: Progress,
    /// Its number in the ledger; 0 before it has one.
    run: Arc<AtomicI64>,
    stop: CancellationToken,
    meter: Meter,
    pace: Pace,
    sent: u64,
}

/// A run that has begun.
#[derive(Debug)]
pub(super) struct Began {
    pub(super) work: Arc<dyn Work>,
    pub(super) scope: Scope,
    pub(super) progress: Progress,
}

/// What the scheduler is to do with a job.
#[derive(Debug)]
pub(super) enum Next {
    Start(Order),
    At(Timestamp),
    Nothing,
}

/// The latest run that has ended.
#[derive(Clone, Debug, Serialize)]
pub struct Last {
    /// Its number in the ledger; nothing where it never began.
    pub run: Option<RunId>,
    /// As metrics have it: `ok`, `some_failed`, `mismatch`, `refused`, `interrupted`, `error`; `nothing_to_do`.
    pub result: &'static str,
    /// As the command would have exited; nothing where a former process ran it.
    pub exit_code: Option<u8>,
    /// When it ended.
    pub ended: Timestamp,
    /// From begin to end.
    pub seconds: f64,
    /// Why it could not go on.
    pub message: Option<String>,
    /// What to do about it.
    pub hints: Vec<String>,
}

/// What the ledger holds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Coverage {
    /// Files of the source that are verified.
    pub verified: Count,
    /// Files of the source, as far as they were seen.
    pub total: Count,
    /// All by state.
    pub states: BTreeMap<State, Count>,
}

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
    /// `copy`, `sync` or `verify`.
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

impl Job {
    pub(super) fn new(spec: JobSpec) -> Self {
        let name = spec.name.clone();
        let kept = Kept {
            sampler: Sampler::new(&name),
            spec,
            retired: false,
            prepared: false,
            past: Past { base: Timestamp::now(), ..Past::default() },
            changes: Some(BTreeSet::new()),
            retry: Scope::All,
            running: None,
            last: None,
            coverage: None,
            speeds: VecDeque::new(),
            watching: None,
        };
        Self { name, kept: Mutex::new(kept) }
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns what its runs are in the ledger.
    pub fn kind(&self) -> RunKind {
        kind_of(self.kept().spec.mode)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        super::lock(&self.kept)
    }

    pub(super) fn replace(&self, spec: JobSpec) {
        let mut kept = self.kept();
        if kept.spec.watch != spec.watch {
            kept.watching = None;
            kept.prepared = false;
        }
        kept.spec = spec;
        kept.retired = false;
    }

    /// Makes it end with its run; false where nothing runs and it can go at once.
    pub(super) fn retire(&self) -> bool {
        let mut kept = self.kept();
        kept.retired = true;
        kept.watching = None;
        kept.running.is_some()
    }

    pub(super) fn is_retired(&self) -> bool {
        self.kept().retired
    }

    pub(super) fn needs_preparation(&self) -> bool {
        !std::mem::replace(&mut self.kept().prepared, true)
    }

    pub(super) fn is_partial(&self) -> bool {
        self.kept().spec.partial
    }

    /// Tells whether a run is in progress.
    pub fn is_running(&self) -> bool {
        self.kept().running.is_some()
    }

    /// Opens the ledger for reading; nothing where no run has made it yet.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn ledger(&self) -> Result<Option<Arc<dyn Ledger>>, Failure> {
        let work = Arc::clone(&self.kept().spec.work);
        work.ledger().await
    }

    /// Reads from the ledger what was before this process, so that downtime is caught up on.
    pub(super) async fn recall(&self) {
        let ledger = match self.ledger().await {
            Ok(Some(ledger)) => ledger,
            Ok(None) => return,
            Err(failure) => {
                tracing::warn!(job = self.name, %failure, "what was before cannot be read");
                return;
            }
        };
        let report = Report::of(&*ledger, None).await.ok();
        self.recount(&*ledger).await;
        let Some(report) = report else { return };
        let mut kept = self.kept();
        if kept.running.is_some() {
            return;
        }
        let ended = report.run.finished.unwrap_or(report.run.started);
        let is_ours = report.run.kind == kind_of(kept.spec.mode);
        if kept.spec.catch_up && is_ours {
            kept.past.base = report.run.started.min(kept.past.base);
        }
        if is_ours && report.run.end == Some(RunEnd::Complete) && report.run.scanned_to.is_some() {
            kept.past.whole = Some(ended);
        }
        let result = match report.result {
            Verdict::Clean | Verdict::Unverified => "ok",
            Verdict::Refused => "refused",
            Verdict::SomeFailed => "some_failed",
            Verdict::Mismatch => "mismatch",
            Verdict::Interrupted | Verdict::Running => "interrupted",
            Verdict::Aborted => "error",
        };
        if is_ours && matches!(report.result, Verdict::SomeFailed | Verdict::Aborted | Verdict::Running) {
            kept.past.failures = Some((1, ended));
            let one_by_one = kept.spec.partial && report.result == Verdict::SomeFailed;
            kept.retry = if one_by_one { Scope::Failed } else { Scope::All };
        }
        if result == "ok" {
            metrics::seconds_of(names::LAST_SUCCESS, &self.name, ended);
        }
        kept.last = Some(Last {
            run: Some(report.run.id),
            result,
            exit_code: None,
            ended,
            seconds: report.run.seconds.unwrap_or(0.0),
            message: None,
            hints: Vec::new(),
        });
    }

    /// Counts the files of the ledger anew.
    pub(super) async fn count(&self) {
        match self.ledger().await {
            Ok(Some(ledger)) => self.recount(&*ledger).await,
            Ok(None) => {}
            Err(failure) => tracing::warn!(job = self.name, %failure, "the ledger's files cannot be counted"),
        }
    }

    async fn recount(&self, ledger: &dyn Ledger) {
        let states = match ledger.state_counts().await {
            Ok(states) => states,
            Err(error) => {
                tracing::warn!(job = self.name, %error, "the ledger's files cannot be counted");
                return;
            }
        };
        let mut coverage = Coverage { states, ..Coverage::default() };
        for state in State::ALL {
            let count = coverage.states.get(&state).copied().unwrap_or_default();
            if matches!(state, State::Verified | State::Retired) {
                coverage.verified.files += count.files;
                coverage.verified.bytes += count.bytes;
            }
            if state != State::Gone {
                coverage.total.files += count.files;
                coverage.total.bytes += count.bytes;
            }
            metrics::ledger_files(&self.name, state.as_str(), count.files, count.bytes);
        }
        self.kept().coverage = Some(coverage);
    }

    pub(super) fn to_watch(&self) -> Option<PathBuf> {
        self.kept().spec.watch.clone()
    }

    pub(super) fn watching(&self, watching: Result<Watching, String>) {
        if let Err(message) = &watching {
            tracing::error!(job = self.name, "{message}");
        }
        self.kept().watching = Some(watching);
    }

    pub(super) fn stop_watching(&self) {
        let watching = self.kept().watching.take();
        // Waits for a thread that may be waiting for the lock.
        drop(watching);
    }

    /// Notes a change; true where the scheduler does not know of any yet.
    pub(super) fn note_change(&self, seen: Seen, at: Timestamp) -> bool {
        let mut kept = self.kept();
        match (seen, &mut kept.changes) {
            (Seen::File(id), Some(changes)) if changes.len() < MOST_CHANGES => {
                changes.insert(id);
            }
            _ => kept.changes = None,
        }
        let first = kept.past.changes.map_or(at, |(first, _)| first);
        kept.past.changes.replace((first, at)).is_none()
    }

    pub(super) fn next(&self, now: Timestamp, zone: &TimeZone, seed: u64) -> Next {
        let kept = self.kept();
        match kept.due(zone, seed) {
            Some(due) if due.at <= now => {
                let scope = match due.why {
                    Why::Retry => kept.retry.clone(),
                    Why::Change => match &kept.changes {
                        Some(changes) if kept.spec.partial => Scope::Files(changes.iter().cloned().collect()),
                        _ => Scope::All,
                    },
                    Why::Schedule | Why::Reconcile | Why::Asked => Scope::All,
                };
                Next::Start(Order { why: due.why, scope })
            }
            Some(due) => Next::At(due.at),
            None => Next::Nothing,
        }
    }

    /// Begins a run; nothing where one is in progress.
    pub(super) fn begin(&self, order: &Order, stop: CancellationToken, now: Timestamp) -> Option<Began> {
        let mut kept = self.kept();
        if kept.running.is_some() || kept.retired {
            return None;
        }
        if order.why == Why::Change || order.scope == Scope::All {
            kept.changes = Some(BTreeSet::new());
            kept.past.changes = None;
        }
        let run = Arc::new(AtomicI64::new(0));
        let progress = Progress::with_sink({
            let (job, number) = (self.name.clone(), Arc::clone(&run));
            move |event| {
                if let Event::Run { run, .. } = event {
                    number.store(run.0, Ordering::Relaxed);
                }
                tracing::debug!(job, ?event);
            }
        });
        kept.running = Some(Running {
            order: order.clone(),
            started: now,
            began: Instant::now(),
            progress: progress.clone(),
            run,
            stop,
            meter: Meter::default(),
            pace: Pace::default(),
            sent: 0,
        });
        kept.speeds.clear();
        kept.sampler.restart();
        metrics::set(names::RUNNING, &self.name, 1.0);
        Some(Began { work: Arc::clone(&kept.spec.work), scope: order.scope.clone(), progress })
    }

    pub(super) fn end(&self, ended: Ended, now: Timestamp) {
        let mut kept = self.kept();
        let Some(running) = kept.running.take() else { return };
        kept.sampler.sample(now, &running.progress.snapshot());
        kept.sampler.rest();
        kept.note_end(&running.order, &ended, now);
        let run = running.number();
        let idle = ended.exit == Exit::Ok && run.is_none();
        let result = if idle { "nothing_to_do" } else { result_of(ended.exit) };
        let seconds = running.began.elapsed().as_secs_f64();
        metrics::set(names::RUNNING, &self.name, 0.0);
        if !idle {
            metrics::run_ended(&self.name, result, seconds);
        }
        if ended.exit == Exit::Ok {
            metrics::seconds_of(names::LAST_SUCCESS, &self.name, now);
        }
        match &ended.failure {
            Some(failure) => {
                tracing::error!(job = self.name, result, %failure, hints = ?failure.hints, "a run has ended")
            }
            None if ended.exit == Exit::Ok => tracing::info!(job = self.name, result, "a run has ended"),
            None => tracing::warn!(job = self.name, result, ?run, "a run has ended"),
        }
        let (message, hints) =
            ended.failure.map_or((None, Vec::new()), |failure| (Some(failure.message), failure.hints));
        kept.last = Some(Last {
            run,
            result,
            exit_code: Some(ended.exit.code()),
            ended: now,
            seconds,
            message,
            hints,
        });
    }

    pub(super) fn cancel(&self) -> bool {
        let kept = self.kept();
        kept.running.as_ref().is_some_and(|running| {
            running.stop.cancel();
            true
        })
    }

    /// Looks at the numbers of the run in progress, once a second; false where there is none.
    pub(super) fn look(&self, now: Timestamp, zone: &TimeZone, seed: u64) -> bool {
        let mut kept = self.kept();
        let due = kept.due(zone, seed).map_or(0.0, |due| metrics::seconds(due.at));
        metrics::set(names::NEXT_RUN, &self.name, due);
        let kept = &mut *kept;
        let Some(running) = &mut kept.running else { return false };
        let numbers = running.progress.snapshot();
        kept.sampler.sample(now, &numbers);
        running.pace = running.meter.measure(running.began.elapsed(), &numbers);
        if kept.speeds.len() == SPEEDS {
            kept.speeds.pop_front();
        }
        // An audit sends nothing: what it reads is its throughput.
        let moved = numbers.bytes_sent.max(numbers.bytes_read);
        kept.speeds.push_back(moved.saturating_sub(running.sent));
        running.sent = moved;
        true
    }

    /// Returns how it stands.
    pub fn view(&self, now: Timestamp, zone: &TimeZone, seed: u64) -> View {
        let kept = self.kept();
        let due = kept.due(zone, seed);
        let failures = kept.past.failures.map_or(0, |(failures, _)| failures);
        let state = match (&kept.running, due) {
            (Some(running), _) if running.stop.is_cancelled() => Doing::Stopping,
            (Some(_), _) => Doing::Running,
            (None, Some(Due { why: Why::Retry, .. })) => Doing::Waiting,
            (None, _) => Doing::Idle,
        };
        let watch = kept.spec.watch.as_ref().map(|_| {
            let (state, message) = match &kept.watching {
                None => ("starting", None),
                Some(Ok(_)) => ("on", None),
                Some(Err(message)) => ("off", Some(message.clone())),
            };
            WatchView { state, message, changes: kept.past.changes.is_some() }
        });
        View {
            name: self.name.clone(),
            mode: kept.spec.mode,
            source: kept.spec.source.clone(),
            target: kept.spec.target.clone(),
            schedule: kept.spec.times.schedule.as_ref().map(ToString::to_string),
            state,
            due: due.map(|due| Due { at: due.at.max(now), ..due }),
            run: kept.running.as_ref().map(Running::view),
            last: kept.last.clone(),
            failures,
            coverage: kept.coverage.clone(),
            speeds: kept.speeds.iter().copied().collect(),
            watch,
            partial: kept.spec.partial,
        }
    }
}

impl Running {
    fn number(&self) -> Option<RunId> {
        Some(RunId(self.run.load(Ordering::Relaxed))).filter(|run| run.0 > 0)
    }

    fn view(&self) -> RunView {
        RunView {
            run: self.number(),
            why: self.order.why,
            scope: match self.order.scope {
                Scope::All => "all",
                Scope::Failed => "failed",
                Scope::Files(_) => "files",
            },
            started: self.started,
            numbers: self.progress.snapshot(),
            bytes_per_second: self.pace.rate,
            eta_seconds: self.pace.left.map(|left| left.as_secs()),
        }
    }
}

impl Kept {
    fn due(&self, zone: &TimeZone, seed: u64) -> Option<Due> {
        if self.running.is_some() || self.retired {
            return None;
        }
        // What changes while the watch is being set up would be missed by a run that looks now.
        if self.spec.watch.is_some() && self.watching.is_none() {
            return None;
        }
        schedule::due(&self.spec.times, &self.past, zone, seed ^ seed_of(&self.spec.name))
    }

    /// Moves on what the next run depends on.
    fn note_end(&mut self, order: &Order, ended: &Ended, now: Timestamp) {
        self.past.base = now;
        if order.scope == Scope::All && matches!(ended.exit, Exit::Ok | Exit::SomeFailed | Exit::Mismatch) {
            self.past.whole = Some(now);
        }
        let failed =
            |past: &Past| Some((past.failures.map_or(1, |(failures, _)| failures.saturating_add(1)), now));
        match ended.exit {
            // That some files are well says nothing of those that have failed.
            Exit::Ok if matches!(order.scope, Scope::Files(_)) => {}
            Exit::Ok | Exit::Mismatch => self.past.failures = None,
            Exit::Interrupted => {}
            Exit::SomeFailed => {
                self.past.failures = failed(&self.past);
                self.retry = if self.spec.partial { Scope::Failed } else { Scope::All };
            }
            Exit::Internal | Exit::Usage | Exit::Config | Exit::Refused => {
                self.past.failures = failed(&self.past);
                // What could not be looked at for want of a storage is looked at when it is back.
                self.retry = Scope::All;
            }
        }
    }
}

fn kind_of(mode: &str) -> RunKind {
    match mode {
        "verify" => RunKind::Verify,
        "sync" => RunKind::Sync,
        _ => RunKind::Copy,
    }
}

fn result_of(exit: Exit) -> &'static str {
    match exit {
        Exit::Ok => "ok",
        Exit::SomeFailed => "some_failed",
        Exit::Mismatch => "mismatch",
        Exit::Refused => "refused",
        Exit::Interrupted => "interrupted",
        Exit::Internal | Exit::Usage | Exit::Config => "error",
    }
}

/// FNV-1a: the same for the same name in every process.
fn seed_of(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct NoWork;

    #[async_trait::async_trait]
    impl Work for NoWork {
        fn run(&self, _: &Scope, _: &Progress, _: &CancellationToken) -> Ended {
            ended(Exit::Ok)
        }
        async fn ledger(&self) -> Result<Option<Arc<dyn Ledger>>, Failure> {
            Ok(None)
        }
    }

    fn ended(exit: Exit) -> Ended {
        Ended { exit, failure: None }
    }

    fn job() -> Job {
        Job::new(JobSpec {
            name: "j".to_owned(),
            mode: "copy",
            source: "s".to_owned(),
            target: "t".to_owned(),
            times: schedule::Times::default(),
            catch_up: true,
            partial: true,
            watch: None,
            work: Arc::new(NoWork),
        })
    }

    fn run(job: &Job, why: Why, scope: Scope, exit: Exit) {
        let order = Order { why, scope };
        job.begin(&order, CancellationToken::new(), Timestamp::UNIX_EPOCH).unwrap();
        job.end(ended(exit), Timestamp::UNIX_EPOCH);
    }

    fn file(name: &str) -> FileId {
        FileId::parse(name).unwrap()
    }

    fn due(job: &Job) -> Option<Order> {
        match job.next(Timestamp::MAX, &TimeZone::UTC, 0) {
            Next::Start(order) => Some(order),
            _ => None,
        }
    }

    #[test]
    fn a_job_that_runs_is_not_begun_again() {
        let job = job();
        let order = Order { why: Why::Asked, scope: Scope::All };
        let begin = || job.begin(&order, CancellationToken::new(), Timestamp::UNIX_EPOCH);
        assert!(begin().is_some());
        assert!(begin().is_none());
        assert!(due(&job).is_none());
        job.end(ended(Exit::Ok), Timestamp::UNIX_EPOCH);
        assert!(begin().is_some());
    }

    #[test]
    fn what_failed_is_tried_again_and_what_could_not_begin_as_a_whole() {
        let job = job();
        run(&job, Why::Schedule, Scope::All, Exit::SomeFailed);
        assert_eq!(due(&job), Some(Order { why: Why::Retry, scope: Scope::Failed }));
        // A run about other files does not make the failed ones forgotten.
        run(&job, Why::Change, Scope::Files(Arc::from([file("b")])), Exit::Ok);
        assert_eq!(due(&job), Some(Order { why: Why::Retry, scope: Scope::Failed }));
        run(&job, Why::Retry, Scope::Failed, Exit::Config);
        assert_eq!(due(&job), Some(Order { why: Why::Retry, scope: Scope::All }));
        run(&job, Why::Retry, Scope::All, Exit::Ok);
        assert_eq!(due(&job), None);
    }

    #[test]
    fn changes_during_a_run_are_for_the_next_one() {
        let job = job();
        assert!(job.note_change(Seen::File(file("b")), Timestamp::UNIX_EPOCH));
        assert!(!job.note_change(Seen::File(file("a")), Timestamp::UNIX_EPOCH));
        let order = due(&job).unwrap();
        assert_eq!(order, Order { why: Why::Change, scope: Scope::Files(Arc::from([file("a"), file("b")])) });
        job.begin(&order, CancellationToken::new(), Timestamp::UNIX_EPOCH).unwrap();
        job.note_change(Seen::File(file("c")), Timestamp::UNIX_EPOCH);
        job.end(ended(Exit::Ok), Timestamp::UNIX_EPOCH);
        assert_eq!(due(&job).unwrap().scope, Scope::Files(Arc::from([file("c")])));
        job.note_change(Seen::Everything, Timestamp::UNIX_EPOCH);
        assert_eq!(due(&job).unwrap().scope, Scope::All);
    }

    #[test]
    fn a_flood_of_changes_is_a_look_at_everything_and_no_flood_of_memory() {
        let job = job();
        for number in 0..=MOST_CHANGES {
            job.note_change(Seen::File(file(&number.to_string())), Timestamp::UNIX_EPOCH);
        }
        assert_eq!(due(&job).unwrap().scope, Scope::All);
    }

    #[test]
    fn a_retired_job_runs_no_more() {
        let job = job();
        assert!(!job.retire());
        job.note_change(Seen::Everything, Timestamp::UNIX_EPOCH);
        assert!(due(&job).is_none());
        let order = Order { why: Why::Asked, scope: Scope::All };
        assert!(job.begin(&order, CancellationToken::new(), Timestamp::UNIX_EPOCH).is_none());
    }

    #[test]
    fn waiting_for_a_retry_is_shown() {
        let job = job();
        run(&job, Why::Schedule, Scope::All, Exit::SomeFailed);
        let view = job.view(Timestamp::UNIX_EPOCH, &TimeZone::UTC, 0);
        assert_eq!((view.state, view.failures), (Doing::Waiting, 1));
        assert_eq!(view.due.unwrap().at, Timestamp::from_second(60).unwrap());
        assert_eq!(view.last.unwrap().exit_code, Some(4));
    }
}
