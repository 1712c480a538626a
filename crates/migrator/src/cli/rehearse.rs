//! `--dry-run` of `copy` and `sync`, and what a refused sync would have removed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use serde::Serialize;
use storage_core::storage::Access;

use crate::cli::args;
use crate::cli::context::{Context, filter, preserve};
use crate::cli::copy::{Task, away, job, options};
use crate::cli::plan::stand_in;
use crate::course::Named;
use crate::engine::{self, Action, EngineError, Foretold, Job, Rehearsed, Removal};
use crate::failure::{Exit, Failure, Side};
use crate::ledger::{Binding, Ledger};
use crate::quantity::{show_count, show_name, show_size, show_subject, show_text};
use crate::report::text::{what_stays, why};
use crate::safeguard::Refusal;

/// Files of each kind that are named on a terminal.
const NAMED: usize = 20;

#[derive(Serialize)]
struct RehearsalBody<'r> {
    pair: &'r Binding,
    /// Where it is, or would be.
    ledger: &'r str,
    ledger_exists: bool,
    #[serde(flatten)]
    rehearsed: &'r Rehearsed,
    /// What the run would end with.
    exit_code: u8,
}

/// Says what a copy or a sync would do, and does nothing.
///
/// # Errors
/// Those with which the run itself would end; a safeguard would refuse.
pub(super) async fn rehearse(context: &Context, args: &args::Copy, task: Task) -> Result<Exit, Failure> {
    let settings = context.settings(Some(&args.pace), &args.which);
    let filter = filter(&settings, &args.which)?;
    let (migration, _) = context.migration(&args.pair, None)?;
    let away = away(&task, &migration)?;
    let (ledger, no_ledger) = context.open_ledger_to_foretell(&migration).await?;
    let kept = preserve(&args.preserve, &migration)?;
    let source = context.open(&migration.source, Side::Source, Access::ReadOnly).await?;
    let source = source.preserving(&migration.source, Side::Source, kept)?;
    let stand_in = stand_in(&migration)?;
    let place = stand_in.as_ref().map_or(&migration.target, |(place, _)| place);
    let target = context.open(place, Side::Target, Access::ReadOnly).await?;
    let target = target.preserving(place, Side::Target, kept)?;
    let options = options(args, &settings, &migration, away)?;
    let remembered = ledger.target_capabilities().await?;
    let ledger = Arc::new(ledger);
    let job = job(&migration, [&source, &target], Arc::clone(&ledger) as Arc<dyn Ledger>, filter, kept)?;
    let (name, removal) = match &task {
        Task::Copy(None) => ("copy", None),
        Task::Copy(Some(_)) => ("copy --remove-source", None),
        Task::Sync(None) => ("sync", None),
        Task::Sync(Some(removal)) => ("sync --delete", Some(removal)),
    };
    let mut named = BTreeMap::<Action, Vec<String>>::new();
    let mut tell = |foretold: &Foretold<'_>| {
        context.output.event("foretold", foretold);
        let names = named.entry(foretold.action).or_default();
        if names.len() < NAMED {
            names.push(in_a_line(foretold));
        }
    };
    let rehearsed = engine::rehearse(&job, &options, removal, remembered.as_ref(), &mut tell).await;
    if let (Err(error), Some(removal)) = (&rehearsed, removal) {
        tell_what_stays(context, &job, removal, error).await;
    }
    // First: whatever else was found out from it may be wrong.
    let unchanged = ledger.check_unchanged().await;
    drop((job, ledger, no_ledger));
    for storage in [source, target] {
        storage.close().await;
    }
    drop(stand_in);
    unchanged?;
    let rehearsed = rehearsed?;

    let exit = exit_of(&rehearsed);
    let (binding, location) = (migration.binding(), migration.ledger.to_string_lossy());
    let exists = migration.ledger.exists();
    let places = Places { binding: &binding, ledger: &location, exists };
    context.output.text(&human(name, &places, &rehearsed, &named));
    context.output.event(
        "dry_run",
        &RehearsalBody {
            pair: &binding,
            ledger: &location,
            ledger_exists: exists,
            rehearsed: &rehearsed,
            exit_code: exit.code(),
        },
    );
    match rehearsed.refusal {
        Some(refusal) => Err(EngineError::from(refusal).into()),
        None => Ok(exit),
    }
}

/// What the run itself would end with.
fn exit_of(rehearsed: &Rehearsed) -> Exit {
    if rehearsed.refusal.is_some() {
        Exit::Refused
    } else if rehearsed.count(Action::Fail).files > 0
        || rehearsed.unseen.files > 0
        || rehearsed.withheld.is_some()
    {
        Exit::SomeFailed
    } else {
        Exit::Ok
    }
}

fn in_a_line(foretold: &Foretold<'_>) -> String {
    let size = foretold.size.map(|size| format!("  {}", show_size(size))).unwrap_or_default();
    let why = foretold.detail.unwrap_or(foretold.reason);
    let why = if why.is_empty() { String::new() } else { format!(": {}", show_text(&why.replace('_', " "))) };
    format!("{}{size}{why}", show_subject(foretold.subject))
}

struct Places<'p> {
    binding: &'p Binding,
    ledger: &'p str,
    exists: bool,
}

/// Every action, and how its files are announced.
const ANNOUNCED: [(Action, &str); 9] = [
    (Action::Fail, "would fail"),
    (Action::Copy, "would be copied"),
    (Action::Replace, "would be replaced in the target"),
    (Action::Compare, "would be read back and compared"),
    (Action::MoveAway, "would be moved from the source to its quarantine"),
    (Action::Quarantine, "would be removed from the target, to its quarantine"),
    (Action::Delete, "would be DELETED from the target at once"),
    (Action::Keep, "would stay in the target, as the source has something there that is no file"),
    (Action::Skip, "would be skipped"),
];

fn human(
    name: &str,
    places: &Places<'_>,
    rehearsed: &Rehearsed,
    named: &BTreeMap<Action, Vec<String>>,
) -> String {
    let mut text = String::new();
    let mut line = |arguments: std::fmt::Arguments<'_>| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{arguments}");
    };
    line(format_args!("dry run of {name}: nothing was changed"));
    line(format_args!("  from    {}", show_text(&places.binding.source)));
    line(format_args!("  to      {}", show_text(&places.binding.target)));
    let first = if places.exists { "" } else { " (none yet, and none was made)" };
    line(format_args!("  ledger  {}{first}", show_name(places.ledger)));
    line(format_args!(""));
    let withheld = rehearsed.withheld.is_some();
    let removal = |action| matches!(action, Action::Quarantine | Action::Delete);
    for (action, count) in &rehearsed.actions {
        let shown = action.as_str().replace('_', " ");
        let stays = if withheld && removal(*action) { "  none of them: see below" } else { "" };
        line(format_args!("  {shown:<11}{:>9}  {:>11}{stays}", count.files, show_size(count.bytes)));
    }
    let unchanged = rehearsed.unchanged;
    line(format_args!("  {:<11}{:>9}  {:>11}", "unchanged", unchanged.files, show_size(unchanged.bytes)));
    for (count, what) in [
        (rehearsed.excluded, "left out by the filter"),
        (rehearsed.gone, "in the ledger and gone from the source"),
        (rehearsed.unseen, "in the ledger and in a part of the source that cannot be read"),
    ] {
        if count.files > 0 {
            line(format_args!("  besides: {}, {what}", show_count(count.files, "file")));
        }
    }
    for (action, what) in ANNOUNCED {
        let Some(names) = named.get(&action) else { continue };
        let but = if withheld && removal(action) { ", were it not refused" } else { "" };
        line(format_args!("\n{what}{but}"));
        for name in names {
            line(format_args!("  {name}"));
        }
        let all = rehearsed.count(action).files;
        let more = all.saturating_sub(names.len() as u64);
        if more > 0 {
            line(format_args!("  and {more} more: --json has all of them"));
        }
    }
    if let Some(withheld) = rehearsed.withheld {
        line(format_args!("\nnothing would be deleted: {}", why(withheld)));
    }
    text
}

#[derive(Serialize)]
struct StaysBody<'s> {
    candidates: u64,
    files: &'s [Named],
}

/// Says what a sync would have removed that a safeguard refused before it began. That this cannot be found out is no
/// failure of its own.
pub(super) async fn tell_what_stays(context: &Context, job: &Job, removal: &Removal, error: &EngineError) {
    let before =
        matches!(error, EngineError::EmptySource { .. } | EngineError::Refused(Refusal::Elsewhere { .. }));
    if !before {
        return;
    }
    let found = tokio::select! {
        biased;
        () = job.stop.cancelled() => return,
        found = engine::would_remove(job, removal) => found,
    };
    match found {
        Ok((candidates, files)) => {
            // Standard output is for what was done.
            what_stays(candidates, &files).lines().for_each(|line| context.output.note(line));
            context.output.event("withheld", &StaysBody { candidates, files: &files });
        }
        Err(error) => tracing::warn!(%error, "what would have been removed cannot be told"),
    }
}
