//! `migrator plan`

use std::fmt::Write as _;

use serde::Serialize;
use storage_core::storage::{Access, Capabilities};

use crate::cli::args;
use crate::cli::context::{Context, Migration, Opened, filter, preserve};
use crate::cli::place::Place;
use crate::collide::Folding;
use crate::engine;
use crate::failure::{Exit, Failure, Side};
use crate::ledger::sqlite::SqliteLedger;
use crate::ledger::{Binding, Count, Ledger, LedgerError};
use crate::plan::Summary;
use crate::quantity::{show_count, show_name, show_size, show_subject, show_text};

#[derive(Serialize)]
struct PlanBody<'p> {
    pair: &'p Binding,
    /// Where it is, or would be.
    ledger: &'p str,
    ledger_exists: bool,
    to_copy: Count,
    #[serde(flatten)]
    summary: &'p Summary,
    target: &'p Capabilities,
    /// Which names the target takes for one.
    folding: Folding,
    /// Groups of names of which it can keep one only.
    collisions: usize,
}

/// Says what a copy would do.
///
/// # Errors
/// The source or the ledger cannot be read to its end. Entries that a copy would fail on are told, and exit with
/// [`Exit::SomeFailed`].
pub(super) async fn run(context: &Context, args: &args::Plan) -> Result<Exit, Failure> {
    let settings = context.settings(None, &args.which);
    let filter = filter(&settings, &args.which)?;
    let (migration, _) = context.migration(&args.pair, None)?;
    let ledger = existing_ledger(&migration).await?;
    let kept = preserve(&args.preserve, &migration)?;
    let source = context.open(&migration.source, Side::Source, Access::ReadOnly).await?;
    let source = source.preserving(&migration.source, Side::Source, kept)?;
    let (target, stand_in) = open_target(context, &migration).await?;
    let capabilities = target.storage.capabilities();

    let rows = ledger.as_ref().map(|ledger| ledger as &dyn Ledger);
    let folding = migration.target.folding();
    let summary = engine::plan(
        &*source.storage,
        &capabilities,
        Some(&*target.storage),
        folding,
        rows,
        &filter,
        args.list,
    )
    .await;
    source.close().await;
    target.close().await;
    drop(stand_in);
    let summary = summary?;

    let collisions = summary.twins.iter().filter(|twins| twins.kind.is_one_name(folding)).count();
    let location = migration.ledger.to_string_lossy();
    let binding = migration.binding();
    context.output.text(&human(&summary, &binding, &location, ledger.is_some(), folding));
    context.output.event(
        "plan",
        &PlanBody {
            pair: &binding,
            ledger: &location,
            ledger_exists: ledger.is_some(),
            to_copy: summary.to_copy(),
            summary: &summary,
            target: &capabilities,
            folding,
            collisions,
        },
    );
    Ok(if summary.failed.is_empty() && collisions == 0 { Exit::Ok } else { Exit::SomeFailed })
}

/// Opens the ledger of a pair to look at it; nothing where there is none.
///
/// # Errors
/// It cannot be read, or is about another pair.
async fn existing_ledger(migration: &Migration) -> Result<Option<SqliteLedger>, Failure> {
    match SqliteLedger::open_read_only(&migration.ledger).await {
        Ok(ledger) => of_pair(ledger, migration).map(Some),
        Err(LedgerError::Missing { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Refuses a ledger that is about another pair.
///
/// # Errors
/// It is.
pub(super) fn of_pair(ledger: SqliteLedger, migration: &Migration) -> Result<SqliteLedger, Failure> {
    let asked = migration.binding();
    if *ledger.binding() != asked {
        let location = ledger.location().to_owned();
        return Err(LedgerError::OtherPair { location, found: ledger.binding().clone(), asked }.into());
    }
    Ok(ledger)
}

/// Opens the target to see what it can hold. A directory that is not there yet is not made: a temporary one stands in,
/// as all that is asked of it is what a directory can hold.
async fn open_target(
    context: &Context,
    migration: &Migration,
) -> Result<(Opened, Option<tempfile::TempDir>), Failure> {
    match stand_in(migration)? {
        None => Ok((context.open_to_ask(&migration.target).await?, None)),
        Some((place, directory)) => {
            Ok((context.open(&place, Side::Target, Access::ReadWrite).await?, Some(directory)))
        }
    }
}

/// Makes an empty place that stands in for a target that is not there yet.
///
/// # Errors
/// There is no room for temporary files.
pub(super) fn stand_in(migration: &Migration) -> Result<Option<(Place, tempfile::TempDir)>, Failure> {
    if migration.target.directory().is_none_or(|path| path.exists()) {
        return Ok(None);
    }
    let directory = temporary()?;
    let path = directory.path().to_owned();
    let place = match &migration.target {
        Place::Embedded { .. } => Place::Embedded { path },
        _ => Place::Directory { path, relaxed: true },
    };
    Ok(Some((place, directory)))
}

/// Makes a temporary directory.
///
/// # Errors
/// There is no room for one.
pub(super) fn temporary() -> Result<tempfile::TempDir, Failure> {
    tempfile::tempdir()
        .map_err(|error| Failure::new(Exit::Config, format!("cannot make a temporary directory: {error}")))
}

/// Names that are alike and named one by one; the rest is counted.
const TWINS_NAMED: usize = 20;

fn human(
    summary: &Summary,
    binding: &Binding,
    ledger: &str,
    ledger_exists: bool,
    folding: Folding,
) -> String {
    let mut text = String::new();
    let mut line = |arguments: std::fmt::Arguments<'_>| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{arguments}");
    };
    let total = summary.to_copy();
    line(format_args!("plan: {}, {} to copy", show_count(total.files, "file"), show_size(total.bytes)));
    line(format_args!("  from    {}", show_text(&binding.source)));
    line(format_args!("  to      {}", show_text(&binding.target)));
    let first = if ledger_exists { "" } else { " (none yet: everything is new)" };
    line(format_args!("  ledger  {}{first}", show_name(ledger)));
    line(format_args!(""));
    for (decision, count) in &summary.files {
        let name = serde_json::to_value(decision);
        let name = name.as_ref().ok().and_then(|name| name.as_str()).unwrap_or("other");
        line(format_args!("  {name:<11}{:>9}  {:>11}", count.files, show_size(count.bytes)));
    }
    for (name, counts) in [("would be skipped", &summary.skipped), ("would fail", &summary.failed)] {
        if !counts.is_empty() {
            line(format_args!("\n{name}"));
            for (reason, files) in counts {
                line(format_args!("  {files:>9}  {}", show_text(reason)));
            }
        }
    }
    for (count, what) in [
        (summary.excluded, "left out by the filter"),
        (summary.gone, "in the ledger and gone from the source: their copies stay"),
        (summary.retired, "moved from the source to its quarantine after they were verified"),
        (summary.unseen, "in the ledger and in a part of the source that cannot be read"),
    ] {
        if count.files > 0 {
            line(format_args!("\n{}, {}, {what}", show_count(count.files, "file"), show_size(count.bytes)));
        }
    }
    for (one_name, what) in [
        (
            true,
            "the target takes these names for one: rename all but one of each, or files overwrite each other",
        ),
        (false, "these names differ in case or Unicode form only; the target keeps them apart"),
    ] {
        let alike = || summary.twins.iter().filter(|twins| twins.kind.is_one_name(folding) == one_name);
        let number = alike().count();
        if number > 0 {
            line(format_args!("\n{what}"));
        }
        for twins in alike().take(TWINS_NAMED) {
            let names: Vec<_> = twins.names.iter().map(|name| show_name(name.as_str())).collect();
            line(format_args!("  {}", names.join("  ")));
        }
        if number > TWINS_NAMED {
            line(format_args!("  and {} more groups: --json has all of them", number - TWINS_NAMED));
        }
    }
    if !summary.listed.is_empty() {
        line(format_args!("\nentries"));
        for entry in &summary.listed {
            let detail = entry.detail.as_deref().unwrap_or(&entry.reason);
            let (outcome, name) = (entry.outcome.as_str(), show_subject(&entry.subject));
            line(format_args!("  {outcome:<8} {name}: {}", show_text(detail)));
        }
    }
    line(format_args!("\nnothing was changed"));
    text
}
