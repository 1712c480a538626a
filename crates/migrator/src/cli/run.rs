//! What copy and verify share: from the opened pair to the report and the exit code.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use storage_core::id::FileId;
use tokio_util::sync::CancellationToken;

use crate::cli::context::{Context, Opened};
use crate::cli::watch::progress;
use crate::course::Named;
use crate::engine::{Ended, EngineError, Job};
use crate::failure::{Exit, Failure};
use crate::ledger::{Ledger, RunId};
use crate::progress::Progress;
use crate::report::files::Proven;
use crate::report::{Report, files, text};

/// Who follows a run and may end it, and what it is about.
#[derive(Debug)]
pub(super) struct Drive {
    /// Its numbers.
    pub progress: Progress,
    /// Cancelled when it is to stop.
    pub stop: CancellationToken,
    /// The files that a copy is about; nothing: all.
    pub only: Option<Arc<[FileId]>>,
}

impl Drive {
    /// A run that the command line asked for: about everything, told on standard output and standard error.
    pub(super) fn by_hand(context: &Context, stop: CancellationToken) -> Self {
        Self { progress: progress(context.output.clone()), stop, only: None }
    }
}

/// The last event of a run.
#[derive(Serialize)]
pub(super) struct SummaryBody<'r> {
    /// Of the process.
    pub exit_code: u8,
    /// As `report.json` has it.
    #[serde(flatten)]
    pub report: &'r Report,
    /// Of those in the target only that a safeguard kept there, the first.
    pub withheld_files: &'r [Named],
}

/// Makes sure that the report can be written: hours of copying must not end in a report that never could be.
///
/// # Errors
/// It cannot.
pub(super) fn prepare_report(directory: Option<&Path>) -> Result<(), Failure> {
    directory.map_or(Ok(()), files::try_directory).map_err(|error| {
        Failure::new(Exit::Config, format!("the report cannot be written: {error}"))
            .with_hint("name a directory that can be written, or one that can be made, with --report DIR")
    })
}

/// Ends a run: tells its report from the ledger, whatever the run itself thinks, and returns the exit code.
///
/// # Errors
/// The run could not go on; the report cannot be made or written.
pub(super) async fn conclude(
    context: &Context,
    job: Job,
    storages: [Opened; 2],
    before: Option<RunId>,
    ended: Result<Ended, EngineError>,
    directory: Option<&Path>,
) -> Result<Exit, Failure> {
    let told = outcome(context, &*job.ledger, before, ended, directory).await;
    close(job, storages).await;
    told
}

/// Lets go of the storages of a run.
pub(super) async fn close(job: Job, storages: [Opened; 2]) {
    drop(job);
    for storage in storages {
        storage.close().await;
    }
}

/// Tells the report of a run that ended from the ledger, whatever the run itself thinks, and returns the exit code.
///
/// # Errors
/// As [`conclude`].
pub(super) async fn outcome(
    context: &Context,
    ledger: &dyn Ledger,
    before: Option<RunId>,
    ended: Result<Ended, EngineError>,
    directory: Option<&Path>,
) -> Result<Exit, Failure> {
    let (run, failure) = match ended {
        Ok(ended) => (Some(ended.run), None),
        // Where the run had begun, what it did before it broke off is in the ledger, and is told.
        Err(error) => {
            let latest = latest(ledger).await.filter(|latest| Some(*latest) != before);
            (latest, Some(Failure::from(error)))
        }
    };
    let told = match run {
        Some(run) => {
            tell(context, ledger, run, directory, failure.as_ref().map(|failure| failure.exit)).await
        }
        None => Ok(Exit::Internal),
    };
    match failure {
        Some(failure) => {
            // The first failure is the one to act on.
            if let Err(second) = told {
                context.output.note(&format!("besides: {second}"));
            }
            Err(failure)
        }
        None => told,
    }
}

/// Returns the latest run of a ledger; nothing where it has none or cannot be asked.
pub(super) async fn latest(ledger: &dyn Ledger) -> Option<RunId> {
    ledger.run(None).await.ok().flatten().map(|run| run.id)
}

async fn tell(
    context: &Context,
    ledger: &dyn Ledger,
    run: RunId,
    directory: Option<&Path>,
    exit: Option<Exit>,
) -> Result<Exit, Failure> {
    let mut proven = None;
    let report = match directory {
        Some(directory) => {
            let written = files::write(ledger, Some(run), directory).await?;
            let Proven { head, previous } = written.proof;
            ledger.note_proof(run, previous, head).await?;
            proven = Some(head);
            written.report
        }
        None => Report::of(ledger, Some(run)).await?,
    };
    let exit = exit.unwrap_or_else(|| report.result.into());
    context.output.text(&text::human(&report));
    if let Some(directory) = directory {
        let shown = crate::quantity::show_name(&directory.to_string_lossy());
        context.output.text(&format!("report: {shown}\n"));
    }
    if let Some(head) = proven {
        context.output.text(&format!("proof:  {head}\n"));
    }
    context.output.event(
        "summary",
        &SummaryBody { exit_code: exit.code(), report: &report, withheld_files: &report.course.withheld },
    );
    Ok(exit)
}
