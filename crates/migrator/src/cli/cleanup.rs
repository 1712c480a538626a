//! `migrator cleanup`

use std::sync::Arc;

use storage_core::storage::Access;
use tokio_util::sync::CancellationToken;

use crate::cli::args;
use crate::cli::context::Context;
use crate::cli::watch::progress;
use crate::engine::{self, Job};
use crate::failure::{Exit, Failure, Side};
use crate::ledger::sqlite::OpenMode;
use crate::quantity::show_count;

/// Discards uploads that nobody will finish.
///
/// # Errors
/// The ledger or the target cannot be used.
pub(super) async fn run(
    context: &Context,
    args: &args::Cleanup,
    stop: CancellationToken,
) -> Result<Exit, Failure> {
    let (migration, _) = context.migration(&args.pair, None)?;
    let ledger = Arc::new(context.open_ledger(&migration, OpenMode::Existing).await?);
    let source = context.open(&migration.source, Side::Source, Access::ReadOnly).await?;
    let target = context.open(&migration.target, Side::Target, Access::ReadWrite).await?;
    let mut job = Job::new(Arc::clone(&source.storage), Arc::clone(&target.storage), ledger);
    job.progress = progress(context.output.clone());
    job.stop = stop;
    let cleaned = engine::cleanup(&job, args.older_than).await;
    drop(job);
    source.close().await;
    target.close().await;
    let cleaned = cleaned?;
    context.output.text(&format!("{} discarded\n", show_count(cleaned.uploads, "upload")));
    context.output.event("cleanup", &cleaned);
    Ok(Exit::Ok)
}
