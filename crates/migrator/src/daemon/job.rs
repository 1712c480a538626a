//! One job: what is known of it, what it is doing, when it is due.
//!
//! When it runs next, and about what, is decided in `agenda`; what its runs came to is told in `outcome`.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio_util::sync::CancellationToken;

use crate::daemon::job::agenda::Agenda;
use crate::daemon::job::outcome::{Coverage, Last};
use crate::daemon::job::view::{Doing, RunView, View, WatchView};
use crate::daemon::schedule::{Due, Why};
use crate::daemon::source::{Seen, Watching};
use crate::daemon::{Ended, JobSpec, Order, Scope, Work};
use crate::failure::Failure;
use crate::item::State;
use crate::ledger::{Ledger, LedgerError, RunId, RunKind};
use crate::metrics::{self, Sampler, names};
use crate::progress::meter::{Meter, Pace};
use crate::progress::{Event, Progress};
use crate::report::RunTotals;
use crate::report::unrecorded::unrecorded;

mod agenda;
pub mod outcome;
pub mod view;

/// Seconds of throughput that are kept.
const SPEEDS: usize = 120;

/// Runs that are looked back at for the latest of a job's kind.
const LOOK_BACK: u32 = 100;

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
    agenda: Agenda,
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

impl Job {
    pub(super) fn new(spec: JobSpec) -> Self {
        let name = spec.name.clone();
        let kept = Kept {
            sampler: Sampler::new(&name),
            spec,
            retired: false,
            prepared: false,
            agenda: Agenda::new(Timestamp::now()),
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

    /// Returns what its runs are in the ledger; nothing where they are not in there, as those of a cleanup.
    pub fn kind(&self) -> Option<RunKind> {
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

    /// Tells whether what failed can be tried again alone: of a sync by a copy of that.
    pub(super) fn is_partial(&self) -> bool {
        self.kept().is_partial()
    }

    /// Tells whether another job is about the same pair of storages, and so works with the same ledger.
    pub(super) fn shares_files_with(&self, other: &Self) -> bool {
        let pair = |job: &Self| {
            let kept = job.kept();
            (kept.spec.source.clone(), kept.spec.target.clone())
        };
        self.name != other.name && pair(self) == pair(other)
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
        self.recount(&*ledger).await;
        let Some(kind) = self.kind() else {
            let mut kept = self.kept();
            if kept.spec.catch_up && kept.running.is_none() && kept.last.is_none() {
                kept.agenda.catch_up();
            }
            return;
        };
        // A copy and an audit of one pair share a ledger.
        let runs = ledger.runs(LOOK_BACK, None).await.unwrap_or_default();
        let Some(latest) = runs.into_iter().find(|run| run.kind == kind) else { return };
        let Ok(totals) = RunTotals::of(&*ledger, latest).await else { return };
        let mut kept = self.kept();
        // A run of this process is newer, also one that has ended while the ledger was read.
        if kept.running.is_some() || kept.last.is_some() {
            return;
        }
        let mut before = outcome::before(&totals, kept.spec.partial);
        let catch_up = kept.spec.catch_up;
        // What changed while nobody watched is found by looking at everything.
        before.whole &= !(catch_up && kept.spec.watch.is_some());
        kept.agenda.recall(before, catch_up);
        let last = Last::recalled(&totals);
        if last.is_ok() {
            metrics::seconds_of(names::LAST_SUCCESS, &self.name, last.ended);
        }
        kept.last = Some(last);
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
        let counted = async { Ok((ledger.state_counts().await?, unrecorded(ledger).await?)) };
        let (states, unrecorded) = match counted.await {
            Ok(counted) => counted,
            Err::<_, LedgerError>(error) => {
                tracing::warn!(job = self.name, %error, "the ledger's files cannot be counted");
                return;
            }
        };
        for state in State::ALL {
            let count = states.get(&state).copied().unwrap_or_default();
            metrics::ledger_files(&self.name, state.as_str(), count.files, count.bytes);
        }
        metrics::ledger_files(&self.name, names::UNRECORDED, unrecorded.files, unrecorded.bytes);
        self.kept().coverage = Some(Coverage::of(states, unrecorded));
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
        self.kept().agenda.note_change(seen, at)
    }

    pub(super) fn next(&self, now: Timestamp, zone: &TimeZone, seed: u64) -> Next {
        let kept = self.kept();
        match kept.due(zone, seed) {
            Some(due) if due.at <= now => Next::Start(kept.agenda.order(due.why, kept.spec.partial)),
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
        kept.agenda.begin(order);
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
        kept.sampler.begin(now);
        metrics::set(names::RUNNING, &self.name, 1.0);
        Some(Began { work: Arc::clone(&kept.spec.work), scope: order.scope.clone(), progress })
    }

    pub(super) fn end(&self, ended: Ended, now: Timestamp) {
        let mut kept = self.kept();
        let Some(running) = kept.running.take() else { return };
        kept.sampler.sample(now, &running.progress.snapshot());
        kept.sampler.rest();
        let partial = kept.spec.partial;
        kept.agenda.end(&running.order, ended.exit, partial, now);
        let recorded = kind_of(kept.spec.mode).is_some();
        let seconds = running.began.elapsed().as_secs_f64();
        let last = Last::of(ended.clone(), running.number(), recorded, now, seconds);
        metrics::set(names::RUNNING, &self.name, 0.0);
        if last.was_a_run() {
            metrics::run_ended(&self.name, last.result, last.seconds);
        }
        let (result, run) = (last.result, last.run);
        if last.is_ok() {
            metrics::seconds_of(names::LAST_SUCCESS, &self.name, now);
            tracing::info!(job = self.name, result, "a run has ended");
        } else if let Some(failure) = &ended.failure {
            tracing::error!(job = self.name, result, %failure, hints = ?failure.hints, "a run has ended");
        } else {
            tracing::warn!(job = self.name, result, run = run.map(|run| run.0), "a run has ended");
        }
        kept.last = Some(last);
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
            WatchView { state, message, changes: kept.agenda.has_changes() }
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
            failures: kept.agenda.failures(),
            coverage: kept.coverage.clone(),
            speeds: kept.speeds.iter().copied().collect(),
            watch,
            partial: kept.is_partial(),
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
    /// See [`Job::is_partial`]. By itself a sync looks at everything, so that it removes what it is to remove.
    fn is_partial(&self) -> bool {
        self.spec.partial || kind_of(self.spec.mode) == Some(RunKind::Sync)
    }

    fn due(&self, zone: &TimeZone, seed: u64) -> Option<Due> {
        if self.running.is_some() || self.retired {
            return None;
        }
        // What changes while the watch is being set up would be missed by a run that looks now.
        if self.spec.watch.is_some() && self.watching.is_none() {
            return None;
        }
        self.agenda.due(&self.spec.times, zone, seed ^ seed_of(&self.spec.name))
    }
}

fn kind_of(mode: &str) -> Option<RunKind> {
    RunKind::ALL.into_iter().find(|kind| kind.as_str() == mode)
}

/// FNV-1a: the same for the same name in every process.
fn seed_of(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::schedule::Times;
    use crate::failure::Exit;

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
            times: Times::default(),
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
