//! `migrator completions` and `migrator man`: what packages install beside the program.

use clap::CommandFactory as _;

use crate::cli::args::{self, Args};
use crate::cli::output::Output;
use crate::failure::{Exit, Failure};
use crate::quantity::show_name;

/// Writes the completions of a shell to standard output.
///
/// # Errors
/// None: a reader that has gone away has seen enough.
pub(super) fn completions(output: &Output, args: &args::Completions) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "migrator", &mut script);
    output.text(&String::from_utf8_lossy(&script));
    Ok(Exit::Ok)
}

/// Writes the manual pages, one for the program and one per command.
///
/// # Errors
/// The directory cannot be written.
pub(super) fn man(args: &args::Man) -> Result<Exit, Failure> {
    clap_mangen::generate_to(Args::command(), &args.directory).map_err(|error| {
        let shown = show_name(&args.directory.to_string_lossy());
        Failure::new(Exit::Config, format!("the manual pages cannot be written into {shown}: {error}"))
            .with_hint("name a directory that exists and can be written")
    })?;
    Ok(Exit::Ok)
}
