//! `migrator cleanup`

use storage_core::storage::Access;
use tokio_util::sync::CancellationToken;

use crate::cli::args;
use crate::cli::context::Context;
use crate::engine;
use crate::failure::{Exit, Failure, Side};
use crate::ledger::sqlite::OpenMode;
use crate::quantity::show_count;

/// Discards uploads that nobody will finish, and what has been in quarantine long enough.
///
/// # Errors
/// The ledger or the target cannot be used.
pub(super) async fn run(
    context: &Context,
    args: &args::Cleanup,
    stop: CancellationToken,
) -> Result<Exit, Failure> {
    let migration = context.without_source(&args.pair)?;
    let ledger = context.open_ledger(&migration, OpenMode::Existing).await?;
    let target = context.open(&migration.target, Side::Target, Access::ReadWrite).await?;
    let cleaned = engine::cleanup(&ledger, &*target.storage, args.older_than, &stop).await;
    drop(ledger);
    target.close().await;
    let cleaned = cleaned?;
    context.output.text(&format!("{} discarded\n", show_count(cleaned.uploads, "upload")));
    if cleaned.expired > 0 {
        context.output.text(&format!("{} deleted from quarantine\n", show_count(cleaned.expired, "file")));
    }
    context.output.event("cleanup", &cleaned);
    Ok(if stop.is_cancelled() { Exit::Interrupted } else { Exit::Ok })
}
