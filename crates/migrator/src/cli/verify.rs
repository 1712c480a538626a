//! `migrator verify`

use std::sync::Arc;

use storage_core::storage::Access;

use crate::cli::args;
use crate::cli::context::{Context, filter, preserve, shown};
use crate::cli::run::{Drive, conclude, latest, prepare_report};
use crate::cli::watch::{Style, Watch};
use crate::engine::{self, Job, VerifyOptions};
use crate::failure::{Exit, Failure, Side};
use crate::ledger::sqlite::OpenMode;

/// Compares source, ledger and target.
///
/// # Errors
/// Whatever keeps the audit from its end; findings do not.
pub(super) async fn run(context: &Context, args: &args::Verify, drive: Drive) -> Result<Exit, Failure> {
    let settings = context.settings(Some(&args.pace), &args.which);
    let filter = filter(&settings, &args.which)?.with_subset(args.subset);
    let (migration, report) = context.migration(&args.pair, args.report.as_deref())?;
    let ledger = Arc::new(context.open_ledger(&migration, OpenMode::Existing).await?);
    let kept = preserve(&args.preserve, &migration)?;
    prepare_report(report.as_deref())?;
    let source = context.open(&migration.source, Side::Source, Access::ReadOnly).await?;
    let source = source.preserving(&migration.source, Side::Source, kept)?;
    let target = if args.read_back {
        context.open(&migration.target, Side::Target, Access::ReadOnly).await?
    } else {
        context.open_to_ask(&migration.target).await?
    };
    let target = target.preserving(&migration.target, Side::Target, kept)?;

    let options = VerifyOptions {
        allow_empty_source: args.allow_empty_source,
        read_back: args.read_back,
        read_source: args.read_source,
        concurrency: settings.concurrency,
        bandwidth: settings.bandwidth.clone(),
    };
    let mut job = Job::new(Arc::clone(&source.storage), Arc::clone(&target.storage), ledger);
    job.filter = filter;
    job.progress = drive.progress;
    job.settings = shown(&settings);
    job.settings.extend(kept.any().then(|| ("preserve".to_owned(), kept.to_string())));
    job.stop = drive.stop;

    let before = latest(&*job.ledger).await;
    let style = Style::of(&context.global, context.output.is_terminal());
    let watch = Watch::start(&context.output, &job.progress, style);
    let ended = engine::verify(&job, &options).await;
    watch.finish().await;
    conclude(context, job, [source, target], before, ended, report.as_deref()).await
}
