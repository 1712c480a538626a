//! `migrator proof`

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde::Serialize;

use crate::cli::args;
use crate::cli::context::Context;
use crate::failure::{Exit, Failure};
use crate::quantity::{show_count, show_name, show_size, show_text};
use crate::report::proof::{Checked, ProofError, check};

#[derive(Serialize)]
struct ProofBody<'p> {
    file: &'p str,
    #[serde(flatten)]
    checked: &'p Checked,
}

/// Checks proofs, each for itself and each against the one before.
///
/// # Errors
/// The first that does not hold, and its first broken line.
pub(super) fn run(context: &Context, args: &args::Proof) -> Result<Exit, Failure> {
    let mut before: Option<Checked> = None;
    for (index, path) in args.files.iter().enumerate() {
        let shown = show_name(&path.to_string_lossy());
        let checked = open(path, &shown)?;
        if let Some(before) = &before
            && checked.header.previous != Some(before.head)
        {
            let message = format!("{shown} does not follow the proof before it: line 1 names another");
            return Err(Failure::new(Exit::Mismatch, message).with_hint(
                "name the proofs of all runs that wrote one (--report), in the order of the runs: one between these two \
                 is missing, or one of them was made anew",
            ));
        }
        if let Some(expected) = args.head.filter(|_| index + 1 == args.files.len())
            && checked.head != expected
        {
            return Err(mismatch(format!("the head of {shown} is {}, expected {expected}", checked.head)));
        }
        let (head, entries) = (checked.head, show_count(checked.entries.files, "line"));
        let compared = format!(
            "{} compared with their SHA-256 ({})",
            show_count(checked.compared.files, "file"),
            show_size(checked.compared.bytes)
        );
        let header = &checked.header;
        let previous = header.previous.map_or_else(|| "none".to_owned(), |previous| previous.to_string());
        context.output.text(&format!(
            "{shown}: the chain holds\n  run     {}, began {:.0}\n  from    {}\n  to      {}\n  files   {entries}, \
             {compared}\n  head    {head}\n  before  {previous}\n",
            header.run,
            header.started,
            show_text(&header.source),
            show_text(&header.target),
        ));
        context.output.event("proof", &ProofBody { file: &path.to_string_lossy(), checked: &checked });
        before = Some(checked);
    }
    Ok(Exit::Ok)
}

fn open(path: &Path, shown: &str) -> Result<Checked, Failure> {
    let opened = File::open(path).map_err(ProofError::from);
    let checked = opened.and_then(|file| check(BufReader::with_capacity(256 << 10, file)));
    checked.map_err(|error| match error {
        ProofError::Io(error) => Failure::new(Exit::Config, format!("{shown} cannot be read: {error}"))
            .with_hint("name proof.jsonl of a report that was written with --report DIR"),
        broken @ ProofError::Broken { .. } => mismatch(format!("{shown}: {broken}")),
    })
}

fn mismatch(message: String) -> Failure {
    Failure::new(Exit::Mismatch, message).with_hint(
        "the file was changed or cut off after it was written: use another copy of it; `migrator report --report DIR` \
         writes the proof of a run again from its ledger",
    )
}
