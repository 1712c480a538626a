//! `migrator copy`

use std::sync::Arc;

use storage_core::storage::Access;
use tokio_util::sync::CancellationToken;

use crate::cli::args;
use crate::cli::context::{Context, filter};
use crate::cli::run::{conclude, latest, prepare_report};
use crate::cli::watch::{Style, Watch, progress};
use crate::engine::{self, CopyOptions, Job, Removal, SyncOptions};
use crate::failure::{Exit, Failure, Side};
use crate::ledger::sqlite::OpenMode;

/// Copies what is new or changed.
///
/// # Errors
/// Whatever keeps the run from its end; failed files do not.
pub(super) async fn run(
    context: &Context,
    args: &args::Copy,
    stop: CancellationToken,
) -> Result<Exit, Failure> {
    carry_out(context, args, Task::Copy, stop).await
}

/// What is to be done with the pair.
pub(super) enum Task {
    /// Copy.
    Copy,
    /// Copy, and remove what is only in the target, where that was asked for.
    Sync(Option<Removal>),
}

/// Carries out a copy or a sync, from the opening of the pair to the report.
///
/// # Errors
/// Whatever keeps the run from its end; failed files do not.
pub(super) async fn carry_out(
    context: &Context,
    args: &args::Copy,
    task: Task,
    stop: CancellationToken,
) -> Result<Exit, Failure> {
    let settings = context.settings(Some(&args.pace), &args.which);
    let filter = filter(&settings, &args.which)?;
    let (migration, report) = context.migration(&args.pair, args.report.as_deref())?;
    // The lock first: nobody else changes the target from here on.
    let ledger = Arc::new(context.open_ledger(&migration, OpenMode::Create).await?);
    prepare_report(report.as_deref())?;
    let source = context.open(&migration.source, Side::Source, Access::ReadOnly).await?;
    let target = context.open(&migration.target, Side::Target, Access::ReadWrite).await?;

    let mut options = CopyOptions::default();
    options.concurrency = settings.concurrency.unwrap_or(options.concurrency);
    options.part_size = args.part_size.or(settings.part_size).unwrap_or(options.part_size);
    options.bandwidth = settings.bandwidth;
    options.allow_empty_source = args.allow_empty_source;
    let mut job = Job::new(Arc::clone(&source.storage), Arc::clone(&target.storage), ledger);
    job.filter = filter;
    // Asked of what was opened: nothing can be mounted there meanwhile without the storage noticing.
    job.source_place = migration.source.file_system();
    job.progress = progress(context.output.clone());
    job.stop = stop;

    let before = latest(&*job.ledger).await;
    let style = Style::of(&context.global, context.output.is_terminal());
    let watch = Watch::start(&context.output, &job.progress, style);
    let ended = match task {
        Task::Copy => engine::copy(&job, &options).await,
        Task::Sync(removal) => {
            let mut sync = SyncOptions::default();
            (sync.copy, sync.removal) = (options, removal);
            engine::sync(&job, &sync).await
        }
    };
    watch.finish().await;
    conclude(context, job, [source, target], before, ended, report.as_deref()).await
}
