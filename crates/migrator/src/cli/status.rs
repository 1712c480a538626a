//! `migrator status`

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::cli::args;
use crate::cli::context::Context;
use crate::failure::{Exit, Failure};
use crate::item::State;
use crate::ledger::sqlite::SqliteLedger;
use crate::ledger::{Binding, Count, Ledger, RunEnd, RunRecord};
use crate::quantity::{show_count, show_name, show_size, show_text};
use crate::report::unrecorded::unrecorded;

#[derive(Serialize)]
struct StatusBody<'s> {
    pair: &'s Binding,
    ledger: &'s str,
    run: Option<&'s RunRecord>,
    states: &'s BTreeMap<State, Count>,
    verified: Count,
    left: Count,
    unrecorded: Count,
    orphaned_uploads: usize,
    /// Who writes the ledger at this moment.
    writer: Option<&'s str>,
}

/// Shows where a migration stands.
///
/// # Errors
/// There is no ledger, or it cannot be read.
pub(super) async fn run(context: &Context, args: &args::Lookup) -> Result<Exit, Failure> {
    let ledger =
        context.look_up(args.source.as_deref(), args.target.as_deref(), args.ledger.as_deref()).await?;
    // Before the run: one that ends in between is told as ended.
    let writer = SqliteLedger::holder(ledger.location()).await?;
    let run = ledger.run(None).await?;
    let states = ledger.state_counts().await?;
    let orphans = ledger.orphans().await?.len();
    let unrecorded = unrecorded(&ledger).await?;
    let verified = count(&states, &[State::Verified]);
    let left = sum(count(&states, &LEFT), unrecorded);
    context.output.event(
        "status",
        &StatusBody {
            pair: ledger.binding(),
            ledger: ledger.location(),
            run: run.as_ref(),
            states: &states,
            verified,
            left,
            unrecorded,
            orphaned_uploads: orphans,
            writer: writer.as_deref(),
        },
    );
    context.output.text(&human(&ledger, run.as_ref(), writer.as_deref(), &states, unrecorded, orphans));
    Ok(Exit::Ok)
}

/// States in which the next copy has something to do.
const LEFT: [State; 4] = [State::Copying, State::Copied, State::Failed, State::Damaged];

fn count(states: &BTreeMap<State, Count>, of: &[State]) -> Count {
    of.iter().filter_map(|state| states.get(state)).copied().fold(Count::default(), sum)
}

const fn sum(one: Count, other: Count) -> Count {
    Count { files: one.files + other.files, bytes: one.bytes + other.bytes }
}

fn human(
    ledger: &dyn Ledger,
    run: Option<&RunRecord>,
    writer: Option<&str>,
    states: &BTreeMap<State, Count>,
    unrecorded: Count,
    orphans: usize,
) -> String {
    let mut text = String::new();
    let mut line = |arguments: std::fmt::Arguments<'_>| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{arguments}");
    };
    line(format_args!("from    {}", show_text(&ledger.binding().source)));
    line(format_args!("to      {}", show_text(&ledger.binding().target)));
    line(format_args!("ledger  {}", show_name(ledger.location())));
    match run {
        None => line(format_args!("run     none yet")),
        Some(run) => {
            let kind = run.kind.as_str();
            let end = match run.end {
                None => match writer {
                    Some(writer) => format!("is running ({})", show_text(writer)),
                    None => "was killed: the next copy goes on".to_owned(),
                },
                Some(RunEnd::Complete) => "complete".to_owned(),
                Some(RunEnd::Interrupted) => "interrupted".to_owned(),
                Some(RunEnd::Aborted) => "broke off".to_owned(),
            };
            let when = run.finished.unwrap_or(run.started);
            line(format_args!("run     {} ({kind}), {end}, {when:.0}", run.id));
            let tally = &run.tally;
            line(format_args!(
                "        {} planned, {} unchanged, {} sent",
                show_count(tally.planned, "entry").replace("entrys", "entries"),
                tally.unchanged,
                show_size(tally.bytes_sent)
            ));
            if !run.scan_complete && run.end.is_some() {
                line(format_args!("        the source was not seen as a whole"));
            }
        }
    }
    line(format_args!(""));
    for (state, count) in states.iter().filter(|(_, count)| count.files > 0) {
        line(format_args!("  {:<9}{:>9}  {:>11}", state.as_str(), count.files, show_size(count.bytes)));
    }
    let left = sum(count(states, &LEFT), unrecorded);
    match left.files {
        0 => line(format_args!("\nnothing is left of what the latest scan has seen")),
        files => line(format_args!(
            "\nleft: {}, {}; `migrator copy` goes on with them",
            show_count(files, "file"),
            show_size(left.bytes)
        )),
    }
    if unrecorded.files > 0 {
        line(format_args!(
            "of these, {} a name or a directory that could not be used: `migrator report --report DIR` lists each, and why",
            match unrecorded.files {
                1 => "1 has".to_owned(),
                more => format!("{more} have"),
            }
        ));
    }
    if orphans > 0 {
        line(format_args!(
            "{} nobody will finish; `migrator copy` and `migrator cleanup` discard them",
            show_count(u64::try_from(orphans).unwrap_or(u64::MAX), "upload")
        ));
    }
    text
}
