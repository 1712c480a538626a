//! `migrator copy`

use std::sync::Arc;

use storage_core::storage::Access;

use crate::cli::args;
use crate::cli::context::{Context, filter};
use crate::cli::run::{Drive, conclude, latest, prepare_report};
use crate::cli::watch::{Style, Watch};
use crate::engine::{self, CopyOptions, Job};
use crate::failure::{Exit, Failure, Side};
use crate::ledger::sqlite::OpenMode;

/// Copies what is new or changed.
///
/// # Errors
/// Whatever keeps the run from its end; failed files do not.
pub(super) async fn run(context: &Context, args: &args::Copy, drive: Drive) -> Result<Exit, Failure> {
    let settings = context.settings(Some(&args.pace), &args.which);
    let filter = filter(&settings)?;
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
    job.progress = drive.progress;
    job.stop = drive.stop;
    job.only = drive.only;

    let before = latest(&*job.ledger).await;
    let style = Style::of(&context.global, context.output.is_terminal());
    let watch = Watch::start(&context.output, &job.progress, style);
    let ended = engine::copy(&job, &options).await;
    watch.finish().await;
    conclude(context, job, [source, target], before, ended, report.as_deref()).await
}
