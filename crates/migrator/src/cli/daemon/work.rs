//! From the jobs of the configuration file to what the daemon runs: the very commands that the command line has.

use std::ffi::OsString;
use std::sync::Arc;

use async_trait::async_trait;
use clap::Parser as _;
use storage_core::id::FileId;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::cli::args::{Args, Command, Global, LogFormat, Pair};
use crate::cli::context::{Context, filter};
use crate::cli::run::Drive;
use crate::cli::{cleanup, copy, has_credentials, sync, verify};
use crate::config::jobs::Job;
use crate::daemon::{Ended, JobSpec, Scope, Work};
use crate::failure::{Exit, Failure};
use crate::item::State;
use crate::ledger::sqlite::SqliteLedger;
use crate::ledger::{Ledger, LedgerError};
use crate::progress::Progress;
use crate::quantity::show_name;
use crate::report::failures;

/// Files that are tried again one by one; beyond that, everything is looked at.
const MOST_LEFT: usize = 100_000;

/// States in which the next copy has something to do.
const LEFT: [State; 4] = [State::Copying, State::Copied, State::Failed, State::Damaged];

/// Makes the jobs of the configuration, and refuses what could never run.
///
/// # Errors
/// The first job that is wrong, with its line.
pub(super) fn specs(context: &Context) -> Result<Vec<JobSpec>, Failure> {
    let mut quiet = context.clone();
    quiet.output = context.output.muted();
    quiet.global.json = false;
    quiet.global.no_progress = true;
    let quiet = Arc::new(quiet);
    let spec = |(name, job): (&String, &Job)| {
        spec(&quiet, name, job).map_err(|mut failure| {
            let path =
                context.config.path.as_deref().map(|path| path.display().to_string()).unwrap_or_default();
            failure.message = format!("{path}:{}: [job.{name}] {}", job.line, failure.message);
            failure
        })
    };
    context.config.jobs.iter().map(spec).collect()
}

/// Says which jobs have a source that is not there at this moment: a run would fail, and all else is right.
pub(super) fn absent_sources(context: &Context) -> Vec<String> {
    let absent = |(name, job): (&String, &Job)| {
        let places = context.without_source(Task::parse(job).ok()?.pair()).ok()?;
        let path = places.source.directory().filter(|path| !path.is_dir())?;
        Some(format!(
            "warning: [job.{name}] source: the directory {} does not exist: is its file system mounted?",
            show_name(&path.to_string_lossy())
        ))
    };
    context.config.jobs.iter().filter_map(absent).collect()
}

fn spec(context: &Arc<Context>, name: &str, job: &Job) -> Result<JobSpec, Failure> {
    let task = Task::parse(job)?;
    task.check(context)?;
    let places = context.without_source(task.pair())?;
    let watch = match (job.watch, places.source.directory()) {
        (false, _) => None,
        (true, Some(directory)) => Some(directory.to_owned()),
        (true, None) => {
            return Err(Failure::new(Exit::Config, "watch: only a directory can be watched")
                .with_hint("give the job a schedule instead"));
        }
    };
    Ok(JobSpec {
        name: name.to_owned(),
        mode: job.mode.as_str(),
        source: job.source.clone(),
        target: job.target.clone(),
        times: job.times.clone(),
        catch_up: job.catch_up,
        partial: job.mode.is_partial(),
        watch,
        work: Arc::new(CommandWork { context: Arc::clone(context), task }),
    })
}

/// A command that a job can be. A new mode is a variant here, and its arms below.
#[derive(Clone, Debug)]
enum Task {
    Copy(Arc<crate::cli::args::CopyCommand>),
    Sync(Arc<crate::cli::args::Sync>),
    Verify(Arc<crate::cli::args::Verify>),
    Cleanup(Arc<crate::cli::args::Cleanup>),
}

impl Task {
    /// Understands a job as its command line.
    fn parse(job: &Job) -> Result<Self, Failure> {
        let words = ["migrator", job.mode.as_str()].into_iter().chain(job.options.iter().map(String::as_str));
        let words = words.chain(["--", &job.source, &job.target]).map(OsString::from);
        let wrong = |message: String| {
            Failure::new(Exit::Config, message)
                .with_hint(format!("options are those of `migrator help {}`", job.mode.as_str()))
        };
        let args = Args::try_parse_from(words).map_err(|error| {
            if job.options.iter().any(|option| has_credentials(option)) {
                return wrong("options: an address with credentials (not shown)".to_owned());
            }
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            wrong(first)
        })?;
        if !is_default(&args.global) {
            return Err(wrong(
                "options: those of every command belong to the daemon's own command line".to_owned(),
            ));
        }
        match args.command {
            Command::Copy(args) => Ok(Self::Copy(Arc::new(args))),
            Command::Sync(args) => Ok(Self::Sync(Arc::new(args))),
            Command::Verify(args) => Ok(Self::Verify(Arc::new(args))),
            Command::Cleanup(args) => Ok(Self::Cleanup(Arc::new(args))),
            _ => Err(wrong(format!("mode: this release cannot run {:?} as a job", job.mode.as_str()))),
        }
    }

    fn pair(&self) -> &Pair {
        match self {
            Self::Copy(args) => &args.copy.pair,
            Self::Sync(args) => &args.copy.pair,
            Self::Verify(args) => &args.pair,
            Self::Cleanup(args) => &args.pair,
        }
    }

    /// Refuses what no run could do; that a source is not there now is for the run to say.
    fn check(&self, context: &Context) -> Result<(), Failure> {
        let (which, report) = match self {
            Self::Copy(args) => {
                copy::check(args)?;
                (Some(&args.copy.which), args.copy.report.as_deref())
            }
            Self::Sync(args) => (Some(&args.copy.which), args.copy.report.as_deref()),
            Self::Verify(args) => (Some(&args.which), args.report.as_deref()),
            Self::Cleanup(_) => (None, None),
        };
        let dry = match self {
            Self::Copy(args) => args.copy.dry_run,
            Self::Sync(args) => args.copy.dry_run,
            Self::Cleanup(args) => args.dry_run,
            Self::Verify(_) => false,
        };
        if dry {
            return Err(Failure::new(Exit::Config, "options: --dry-run: a job that does nothing")
                .with_hint("rehearse it by the command of the same name, and leave the option out here"));
        }
        if let Some(which) = which {
            filter(&context.settings(None, which), which)?;
        }
        context.without_source(self.pair())?;
        match context.migration(self.pair(), report) {
            Err(failure) if failure.exit == Exit::Refused => Err(failure),
            _ => Ok(()),
        }
    }

    async fn run(&self, context: &Context, drive: Drive) -> Result<Exit, Failure> {
        match self {
            Self::Copy(args) => Box::pin(copy::run(context, args, drive)).await,
            Self::Sync(args) => Box::pin(sync::run(context, args, drive)).await,
            Self::Verify(args) => Box::pin(verify::run(context, args, drive)).await,
            Self::Cleanup(args) => Box::pin(cleanup::run(context, args, drive.stop)).await,
        }
    }
}

fn is_default(global: &Global) -> bool {
    let Global { config, json, no_progress, log_format, verbose, quiet } = global;
    config.is_none() && !json && !no_progress && *log_format == LogFormat::Text && *verbose == 0 && !quiet
}

#[derive(Debug)]
struct CommandWork {
    context: Arc<Context>,
    task: Task,
}

#[async_trait]
impl Work for CommandWork {
    fn run(&self, scope: &Scope, progress: &Progress, stop: &CancellationToken) -> Ended {
        let run = async {
            let only = match scope {
                Scope::All => None,
                Scope::Files(files) => Some(Arc::clone(files)),
                Scope::Failed => match self.left().await? {
                    Left::Everything => None,
                    Left::Files(files) if files.is_empty() => return Ok(Exit::Ok),
                    Left::Files(files) => Some(files),
                },
            };
            let drive = Drive { progress: progress.clone(), stop: stop.clone(), only };
            self.task.run(&self.context, drive).await
        };
        match Handle::current().block_on(run) {
            Ok(exit) => Ended { exit, failure: None },
            Err(failure) => Ended { exit: failure.exit, failure: Some(failure) },
        }
    }

    async fn ledger(&self) -> Result<Option<Arc<dyn Ledger>>, Failure> {
        let path = self.context.without_source(self.task.pair())?.ledger;
        match SqliteLedger::open_read_only(&path).await {
            Ok(ledger) => Ok(Some(Arc::new(ledger))),
            Err(LedgerError::Missing { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

enum Left {
    Files(Arc<[FileId]>),
    Everything,
}

impl CommandWork {
    /// Finds what a retry is about.
    async fn left(&self) -> Result<Left, Failure> {
        let Some(ledger) = self.ledger().await? else { return Ok(Left::Everything) };
        let found = failures::current(&*ledger, &LEFT, MOST_LEFT, None).await?;
        // What lies beneath an unreadable directory has no name yet.
        if found.next.is_some() || found.problems.iter().any(|problem| !problem.is_file) {
            return Ok(Left::Everything);
        }
        let mut files: Vec<FileId> = found
            .problems
            .iter()
            .filter_map(|problem| FileId::parse(problem.subject.as_str()).ok())
            .collect();
        files.sort();
        files.dedup();
        Ok(Left::Files(files.into()))
    }
}
