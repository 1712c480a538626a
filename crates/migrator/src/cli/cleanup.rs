//! `migrator cleanup`

use jiff::Timestamp;
use storage_core::storage::Access;
use tokio_util::sync::CancellationToken;

use crate::cli::args;
use crate::cli::context::{Context, Migration, open_attic};
use crate::cli::place::Place;
use crate::cli::plan::{of_pair, stand_in};
use crate::engine::{self, Cleaned, Foretold};
use crate::failure::{Exit, Failure, Side};
use crate::ledger::sqlite::{OpenMode, SqliteLedger};
use crate::preserve::Preserve;
use crate::quantity::{show_count, show_name};
use crate::retire::Attic;
use crate::retire::directory::DirectoryAttic;

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
    if args.dry_run {
        return Box::pin(rehearse(context, &migration)).await;
    }
    let ledger = context.open_ledger(&migration, OpenMode::Existing).await?;
    let target = context.open(&migration.target, Side::Target, Access::ReadWrite).await?;
    let attic = attic(&migration)?;
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
    context.output.text(&what_stays(&cleaned));
    context.output.event("cleanup", &cleaned);
    Ok(if stop.is_cancelled() { Exit::Interrupted } else { Exit::Ok })
}

/// Opens the source's quarantine; the source may be gone, and its quarantine with it.
fn attic(migration: &Migration) -> Result<Option<DirectoryAttic>, Failure> {
    match &migration.source {
        Place::Directory { path, .. } if path.is_dir() => open_attic(path, migration).map(Some),
        _ => Ok(None),
    }
}

/// Says until when what is in quarantine stays there.
fn what_stays(cleaned: &Cleaned) -> String {
    let mut text = String::new();
    for (staying, whose) in [(cleaned.staying, ""), (cleaned.staying_in_source, "the source's ")] {
        let (Some(earliest), Some(latest)) = (staying.earliest, staying.latest) else { continue };
        let time = |at: Timestamp| at.strftime("%Y-%m-%d %H:%M UTC").to_string();
        let until = match (time(earliest), time(latest)) {
            (one, other) if one == other => format!("until {one}"),
            (earliest, latest) => format!("the first until {earliest}, the last until {latest}"),
        };
        let (files, stay) =
            (show_count(staying.files, "file"), if staying.files == 1 { "stays" } else { "stay" });
        text.push_str(&format!("{files} {stay} in {whose}quarantine, {until}\n"));
    }
    text
}

/// Files that a dry run names.
const NAMED: usize = 20;

/// Says what a cleanup would delete from the quarantines.
async fn rehearse(context: &Context, migration: &Migration) -> Result<Exit, Failure> {
    let ledger = of_pair(SqliteLedger::open_unchanging(&migration.ledger).await?, migration)?;
    drop(ledger);
    let stand_in = stand_in(migration)?;
    let place = stand_in.as_ref().map_or(&migration.target, |(place, _)| place);
    let target = context.open(place, Side::Target, Access::ReadOnly).await?;
    let target = target.preserving(place, Side::Target, LINKS)?;
    let attic = attic(migration)?;
    let mut named = Vec::new();
    let mut tell = |foretold: &Foretold<'_>| {
        context.output.event("foretold", foretold);
        if named.len() < NAMED {
            named.push(show_name(foretold.subject));
        }
    };
    let attic = attic.as_ref().map(|attic| attic as &dyn Attic);
    let cleaned = engine::rehearse_cleanup(&*target.storage, attic, &mut tell).await;
    target.close().await;
    drop(stand_in);
    let cleaned = cleaned?;
    let due = [(cleaned.expired, ""), (cleaned.expired_in_source, "the source's ")];
    let mut text = "dry run of cleanup: nothing was changed\n".to_owned();
    for (files, whose) in due {
        text.push_str(&format!("{} would be deleted from {whose}quarantine\n", show_count(files, "file")));
    }
    named.iter().for_each(|name| text.push_str(&format!("  {name}\n")));
    let more = (cleaned.expired + cleaned.expired_in_source).saturating_sub(named.len() as u64);
    if more > 0 {
        text.push_str(&format!("  and {more} more: --json has all of them\n"));
    }
    context.output.text(&text);
    context.output.text(&what_stays(&cleaned));
    context.output.event("dry_run", &cleaned);
    Ok(Exit::Ok)
}
