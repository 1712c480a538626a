//! `migrator cleanup`

use storage_core::storage::Access;
use tokio_util::sync::CancellationToken;

use crate::cli::args;
use crate::cli::context::{Context, open_attic};
use crate::cli::place::Place;
use crate::engine;
use crate::failure::{Exit, Failure, Side};
use crate::ledger::sqlite::OpenMode;
use crate::preserve::Preserve;
use crate::quantity::show_count;
use crate::retire::Attic;

/// What is looked at of the target beside its files.
const LINKS: Preserve =
    Preserve { mode: false, owner: false, mtime: false, xattrs: false, symlinks: true, directories: false };

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
    // The source may be gone, and its quarantine with it.
    let attic = match &migration.source {
        Place::Directory { path, .. } if path.is_dir() => Some(open_attic(path, &migration)?),
        _ => None,
    };
    // Links are in quarantine as what they are, and compared as what they were copied as.
    let target = target.preserving(&migration.target, Side::Target, LINKS)?;
    let attic = attic.as_ref().map(|attic| attic as &dyn Attic);
    let cleaned = engine::cleanup(&ledger, &*target.storage, attic, args.older_than, &stop).await;
    drop(ledger);
    target.close().await;
    let cleaned = cleaned?;
    tracing::info!(?cleaned, "cleaned up");
    context.output.text(&format!("{} discarded\n", show_count(cleaned.uploads, "upload")));
    if cleaned.expired > 0 {
        context.output.text(&format!("{} deleted from quarantine\n", show_count(cleaned.expired, "file")));
    }
    if cleaned.expired_in_source > 0 {
        let files = show_count(cleaned.expired_in_source, "file");
        context.output.text(&format!("{files} deleted from the source's quarantine\n"));
    }
    if cleaned.kept_in_source > 0 {
        let files = show_count(cleaned.kept_in_source, "file");
        context.output.note(&format!(
            "{files} stay in the source's quarantine beyond their time: that nothing is lost with them is not proven; \
             the warnings say why"
        ));
    }
    context.output.event("cleanup", &cleaned);
    Ok(if stop.is_cancelled() { Exit::Interrupted } else { Exit::Ok })
}
