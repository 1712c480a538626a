//! The daemon: jobs that run when they are due, one run of each at a time.
//!
//! A run is what the command of the same name does; the daemon knows it as [`Work`] and decides only when it begins,
//! about which files, and when it is tried again ([`schedule`]). It keeps no state of its own: when a job last ran, and
//! what failed, is in the job's ledger.
//!
//! [`Daemon::run`] ends when its token is cancelled and all runs have ended; it knows no signals.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use storage_core::id::FileId;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::daemon::job::view::View;
use crate::daemon::job::{Job, Next};
use crate::daemon::schedule::{Times, Why};
use crate::failure::{Exit, Failure};
use crate::ledger::Ledger;
use crate::progress::Progress;

pub mod job;
pub mod schedule;
mod source;
pub mod systemd;

/// Longest sleep of the scheduler, so that a clock that is set is noticed, and whoever watches the scheduler knows
/// that it lives.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// How often the files of a ledger are counted while a run changes them: it reads all of them.
const COUNT_EVERY: u32 = 30;

/// What a run is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    All,
    /// What the ledger says has failed or was not finished.
    Failed,
    /// These files, in ascending order.
    Files(Arc<[FileId]>),
}

impl fmt::Display for Scope {
    /// Without names: there may be thousands, and a log line is none for each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Failed => f.write_str("failed"),
            Self::Files(files) => write!(f, "{} changed", files.len()),
        }
    }
}

/// A run that is to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Why it begins.
    pub why: Why,
    /// What it is about.
    pub scope: Scope,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Ended {
    /// As the command would have ended.
    pub exit: Exit,
    /// Why it could not go on.
    pub failure: Option<Failure>,
}

/// What a job does, composed by whoever knows its storages.
#[async_trait]
pub trait Work: std::fmt::Debug + Send + Sync + 'static {
    /// Runs it to its end, on a thread that may block.
    fn run(&self, scope: &Scope, progress: &Progress, stop: &CancellationToken) -> Ended;

    /// Opens the ledger for reading; nothing where no run has made it yet.
    ///
    /// # Errors
    /// It cannot be read.
    async fn ledger(&self) -> Result<Option<Arc<dyn Ledger>>, Failure>;
}

/// A job as the configuration has it.
#[derive(Clone, Debug)]
pub struct JobSpec {
    /// Its name: letters, digits, `_` and `-`.
    pub name: String,
    /// `copy`, `sync`, `verify` or `cleanup`.
    pub mode: &'static str,
    /// The source as the configuration has it.
    pub source: String,
    /// The target likewise.
    pub target: String,
    /// When it runs.
    pub times: Times,
    /// Whether a slot that passed while the daemon was not there is served when it comes back, once.
    pub catch_up: bool,
    /// Whether a run can be about some files only. Others always look at everything.
    pub partial: bool,
    /// The directory whose changes make it run.
    pub watch: Option<std::path::PathBuf>,
    /// What it does.
    pub work: Arc<dyn Work>,
}

/// Why the daemon does not do what it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such job.
    #[error("there is no job of this name")]
    NoJob,
    /// A run of the job is in progress.
    #[error("the job is running")]
    Running,
    /// No run of the job is in progress.
    #[error("the job is not running")]
    NotRunning,
    /// A run of this job is always about everything.
    #[error("a run of this job is about all files: run it instead")]
    NotPartial,
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
}

/// A handle on the daemon. A clone shares it.
#[derive(Clone, Debug)]
pub struct Daemon(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    jobs: Mutex<BTreeMap<String, Arc<Job>>>,
    zone: Mutex<TimeZone>,
    /// Tells this machine's jitter from others'.
    seed: u64,
    wake: Notify,
    /// Grows whenever a view has changed.
    changed: watch::Sender<u64>,
    beat: Mutex<Instant>,
    stop: CancellationToken,
    runs: TaskTracker,
}

impl Daemon {
    /// Makes a daemon of these jobs; nothing begins before [`run`](Self::run).
    pub fn new(specs: Vec<JobSpec>, zone: TimeZone, seed: u64, stop: CancellationToken) -> Self {
        let daemon = Self(Arc::new(Inner {
            jobs: Mutex::default(),
            zone: Mutex::new(zone.clone()),
            seed,
            wake: Notify::new(),
            changed: watch::Sender::new(0),
            beat: Mutex::new(Instant::now()),
            stop,
            runs: TaskTracker::new(),
        }));
        daemon.replace(specs, zone);
        daemon
    }

    /// Runs jobs as they are due until the daemon is stopped and every run has ended.
    pub async fn run(&self) {
        let ticking = tokio::spawn(self.clone().tick());
        loop {
            *lock(&self.0.beat) = Instant::now();
            let now = Timestamp::now();
            let mut sleep = LONGEST_SLEEP;
            for job in self.jobs() {
                match job.next(now, &self.zone(), self.0.seed) {
                    Next::Start(order) => {
                        // Whoever was quicker has begun it.
                        let _ = self.begin(&job, order);
                    }
                    Next::At(at) => {
                        let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
                        sleep = sleep.min(wait);
                    }
                    Next::Nothing => {}
                }
            }
            tokio::select! {
                biased;
                () = self.0.stop.cancelled() => break,
                () = self.0.wake.notified() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
        for job in self.jobs() {
            job.stop_watching();
        }
        self.0.runs.close();
        self.0.runs.wait().await;
        ticking.abort();
        self.bump();
    }

    /// Takes these jobs instead of those before. A run in progress goes on to its end as it began; a job that is no
    /// longer there is gone then.
    pub fn replace(&self, specs: Vec<JobSpec>, zone: TimeZone) {
        *lock(&self.0.zone) = zone;
        let mut jobs = lock(&self.0.jobs);
        let mut before = std::mem::take(&mut *jobs);
        for spec in specs {
            let name = spec.name.clone();
            let job = match before.remove(&name) {
                Some(job) => {
                    job.replace(spec);
                    job
                }
                None => Arc::new(Job::new(spec)),
            };
            jobs.insert(name, job);
        }
        for (name, job) in before {
            if job.retire() {
                jobs.insert(name, job);
            }
        }
        let present: Vec<_> = jobs.values().cloned().collect();
        drop(jobs);
        for job in present {
            self.prepare(job);
        }
        self.bump();
    }

    /// Reads what the ledger knows of a job, and begins to watch its source.
    fn prepare(&self, job: Arc<Job>) {
        let daemon = self.clone();
        if !job.needs_preparation() {
            self.0.wake.notify_one();
            return;
        }
        // Within a runtime; without one (a test of `new`) nothing runs either.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            job.recall().await;
            if let Some(root) = job.to_watch() {
                let weak = Arc::downgrade(&job);
                let told = daemon.clone();
                let tell = move |seen| {
                    if let Some(job) = weak.upgrade()
                        && job.note_change(seen, Timestamp::now())
                    {
                        told.0.wake.notify_one();
                        told.bump();
                    }
                };
                // Adds a watch per directory, which for a large tree takes its time.
                let watched = tokio::task::spawn_blocking(move || source::watch(&root, tell)).await;
                job.watching(
                    watched.unwrap_or_else(|error| Err(format!("cannot watch the source: {error}"))),
                );
            }
            daemon.0.wake.notify_one();
            daemon.bump();
        });
    }

    /// Begins a run of a job now, whatever its schedule says.
    ///
    /// # Errors
    /// There is no such job, it is running, or it cannot be about some files only.
    pub fn ask(&self, name: &str, scope: Scope) -> Result<(), Refusal> {
        let job = self.job(name).ok_or(Refusal::NoJob)?;
        if scope != Scope::All && !job.is_partial() {
            return Err(Refusal::NotPartial);
        }
        self.begin(&job, Order { why: Why::Asked, scope })
    }

    /// Stops the run of a job: what is in flight has a few seconds to end.
    ///
    /// # Errors
    /// There is no such job, or it is not running.
    pub fn cancel(&self, name: &str) -> Result<(), Refusal> {
        let job = self.job(name).ok_or(Refusal::NoJob)?;
        if job.cancel() { Ok(()) } else { Err(Refusal::NotRunning) }
    }

    fn begin(&self, job: &Arc<Job>, order: Order) -> Result<(), Refusal> {
        if self.0.stop.is_cancelled() {
            return Err(Refusal::Stopping);
        }
        let stop = self.0.stop.child_token();
        let began = job.begin(&order, stop.clone(), Timestamp::now()).ok_or(Refusal::Running)?;
        tracing::info!(job = job.name(), why = order.why.as_str(), scope = %began.scope, "a run begins");
        let (daemon, job) = (self.clone(), Arc::clone(job));
        self.0.runs.spawn(async move {
            let progress = began.progress.clone();
            let running =
                tokio::task::spawn_blocking(move || began.work.run(&began.scope, &progress, &stop)).await;
            let ended = running.unwrap_or_else(|error| Ended {
                exit: Exit::Internal,
                failure: Some(Failure::internal(format!("the run ended early: {error}"))),
            });
            let now = Timestamp::now();
            // First, so that whoever sees the end sees what it has come to.
            job.count().await;
            // An audit of the pair shows what the copy has changed, too.
            for other in daemon.jobs().into_iter().filter(|other| other.shares_files_with(&job)) {
                other.count().await;
            }
            job.end(ended, now);
            if job.is_retired() {
                lock(&daemon.0.jobs).remove(job.name());
            }
            daemon.0.wake.notify_one();
            daemon.bump();
        });
        self.bump();
        Ok(())
    }

    async fn tick(self) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut since_count = 0;
        loop {
            ticks.tick().await;
            let mut busy = false;
            for job in self.jobs() {
                busy |= job.look(Timestamp::now(), &self.zone(), self.0.seed);
            }
            since_count = if busy { since_count + 1 } else { 0 };
            if since_count >= COUNT_EVERY {
                since_count = 0;
                for job in self.jobs().into_iter().filter(|job| job.is_running()) {
                    job.count().await;
                }
            }
            if busy {
                self.bump();
            }
        }
    }

    /// Returns how all jobs stand, by name.
    pub fn views(&self) -> Vec<View> {
        let (zone, now) = (self.zone(), Timestamp::now());
        self.jobs().iter().map(|job| job.view(now, &zone, self.0.seed)).collect()
    }

    /// Returns a job.
    pub fn job(&self, name: &str) -> Option<Arc<Job>> {
        lock(&self.0.jobs).get(name).cloned()
    }

    /// Returns all jobs, by name.
    pub fn jobs(&self) -> Vec<Arc<Job>> {
        lock(&self.0.jobs).values().cloned().collect()
    }

    /// Follows changes: the number grows with each.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Tells whether the scheduler is alive, and not about to stop.
    pub fn is_well(&self) -> bool {
        !self.0.stop.is_cancelled() && lock(&self.0.beat).elapsed() < LONGEST_SLEEP * 3
    }

    /// Returns the token that ends the daemon.
    pub fn stop(&self) -> &CancellationToken {
        &self.0.stop
    }

    fn zone(&self) -> TimeZone {
        lock(&self.0.zone).clone()
    }

    fn bump(&self) {
        self.0.changed.send_modify(|version| *version += 1);
    }
}

/// Nothing panics while it holds one of these.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
