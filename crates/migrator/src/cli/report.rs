//! `migrator report`

use crate::cli::args;
use crate::cli::context::Context;
use crate::cli::place::resolve_missing;
use crate::cli::run::SummaryBody;
use crate::failure::{Exit, Failure};
use crate::ledger::RunId;
use crate::quantity::show_name;
use crate::report::{Report, files, text};

/// Shows or writes the report of a run. Exits with 0 whatever the run came to: the report is what was asked for.
///
/// # Errors
/// There is no such run; the report cannot be made or written.
pub(super) async fn run(context: &Context, args: &args::Report) -> Result<Exit, Failure> {
    let args::Lookup { source, target, ledger } = &args.lookup;
    let ledger = context.look_up(source.as_deref(), target.as_deref(), ledger.as_deref()).await?;
    let run = args.run.map(RunId);
    let report = match &args.report {
        Some(directory) => {
            let directory = resolve_missing(directory).map_err(|error| {
                let shown = show_name(&directory.to_string_lossy());
                Failure::new(Exit::Config, format!("the report {shown} cannot be written: {error}"))
            })?;
            files::write(&ledger, run, &directory).await?.report
        }
        None => Report::of(&ledger, run).await?,
    };
    let exit = Exit::from(report.result);
    context.output.text(&text::human(&report));
    context.output.event(
        "summary",
        &SummaryBody { exit_code: exit.code(), report: &report, withheld_files: &report.course.withheld },
    );
    Ok(Exit::Ok)
}
