//! `migrator explain`

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;

use storage_core::storage::Verified;

use crate::cli::args;
use crate::cli::context::Context;
use crate::failure::{Exit, Failure};
use crate::item::State;
use crate::ledger::{Attempt, Outcome};
use crate::quantity::{show_count, show_name, show_text};
use crate::report::story::Story;

/// Names that are offered for one that is not known.
const SIMILAR: usize = 5;

/// Tells everything the ledger knows of one file.
///
/// # Errors
/// There is no ledger, or it cannot be read; it knows nothing of the file.
pub(super) async fn run(context: &Context, args: &args::Explain) -> Result<Exit, Failure> {
    let (source, target, subject) = words(args)?;
    let ledger = context.look_up(source, target, args.ledger.as_deref()).await?;
    let subject = subject.to_str().ok_or_else(|| {
        Failure::new(Exit::Usage, "the ID is not UTF-8, so it is no file's name here")
            .with_hint("entries whose name is not UTF-8 are in files.csv with odd bytes escaped")
    })?;
    let story = Story::find(&ledger, subject).await?;
    context.output.event("explain", &story);
    if story.is_known() {
        context.output.text(&human(&story));
        return Ok(Exit::Ok);
    }
    let failure = Failure::new(Exit::Config, format!("the ledger does not know {}", show_name(subject)));
    let similar = Story::similar(&ledger, subject, SIMILAR).await?;
    Err(match similar.as_slice() {
        [] => failure.with_hint("an ID is the path beneath the source, byte for byte"),
        similar => similar
            .iter()
            .fold(failure, |failure, id| failure.with_hint(format!("did you mean {}?", show_name(id)))),
    })
}

fn words(args: &args::Explain) -> Result<(Option<&OsStr>, Option<&OsStr>, &OsStr), Failure> {
    let words: Vec<&OsStr> = args.words.iter().map(OsString::as_os_str).collect();
    match (words.as_slice(), &args.ledger) {
        ([source, target, id], _) => Ok((Some(source), Some(target), id)),
        ([id], Some(_)) => Ok((None, None, id)),
        _ => Err(Failure::new(Exit::Usage, "explain takes SOURCE TARGET ID, or --ledger PATH and ID")
            .with_hint("migrator help explain")),
    }
}

fn human(story: &Story) -> String {
    let mut text = String::new();
    let mut line = |arguments: std::fmt::Arguments<'_>| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{arguments}");
    };
    line(format_args!("{}", show_name(&story.subject)));
    match &story.file {
        None => line(format_args!("  the ledger has no file of this name")),
        Some(file) => {
            let words = match story.is_removed() {
                true => "the source no longer has it, and a sync removed it from the target",
                false => in_words(file.state),
            };
            line(format_args!("  {}: {words}", file.state));
            line(format_args!("  size      {}", show_count(file.size, "byte")));
            if let Some(digest) = &file.digest {
                line(format_args!("  sha256    {digest}"));
            }
            line(format_args!("  verified  {}", verified(file.verified)));
            if file.open_upload {
                let parts = u64::try_from(file.parts_stored).unwrap_or(u64::MAX);
                line(format_args!(
                    "  upload    open, {} stored: the next copy goes on with it",
                    show_count(parts, "part")
                ));
            }
            if file.attempts > 1 {
                line(format_args!("  attempts  {} since it was last verified", file.attempts));
            }
            if let Some(place) = &file.retired {
                line(format_args!("  moved to  {}", show_name(place)));
            }
            if let Some(error) = &file.error {
                line(format_args!("  error     {}", show_text(error)));
            }
            line(format_args!("  changed   in run {}, {:.0}", file.run, file.updated));
        }
    }
    if !story.history.is_empty() || !story.attempts.is_empty() {
        line(format_args!("\nhistory (runs in which it was unchanged are not noted)"));
    }
    for event in events(story) {
        line(format_args!("  {event}"));
    }
    line(format_args!("\nnext\n  {}", story.next));
    text
}

/// What happened to it, oldest first: outcomes of runs, and before each the attempts that failed in that run.
fn events(story: &Story) -> Vec<String> {
    let mut attempts = story.attempts.iter().peekable();
    let mut events = Vec::new();
    let tried = |attempt: &Attempt| {
        let (at, run, number) = (attempt.at, attempt.run, attempt.number);
        format!("{at:.0}  run {run}: attempt {number} failed: {}", show_text(&attempt.detail))
    };
    for noted in &story.history {
        let (run, told) = (noted.run, &noted.outcome);
        while let Some(attempt) = attempts.next_if(|attempt| attempt.run <= run) {
            events.push(tried(attempt));
        }
        let detail = told.detail.as_deref().unwrap_or(&told.reason);
        let colon = if detail.is_empty() { "" } else { ": " };
        let by = match (told.outcome, told.verified) {
            (Outcome::Copied | Outcome::Matched, Some(by)) => {
                format!(", verified {}", verified(Some(by)))
            }
            _ => String::new(),
        };
        let number = match told.attempts {
            0 | 1 => String::new(),
            more => format!(" at attempt {more}"),
        };
        let (outcome, at) = (told.outcome.as_str(), told.at);
        events.push(format!("{at:.0}  run {run}: {outcome}{number}{by}{colon}{}", show_text(detail)));
    }
    events.extend(attempts.map(tried));
    events
}

const fn in_words(state: State) -> &'static str {
    match state {
        State::Copying => "a copy was begun and has not ended",
        State::Copied => "the target has it, nobody has compared its bytes yet",
        State::Verified => "the target's bytes were compared with the source's and are right",
        State::Failed => "the last attempt failed; the next copy tries again",
        State::Damaged => "an audit found the target's copy missing or different; the next copy repairs it",
        State::Retired => "the source's file was moved to quarantine after the target's was verified",
        State::Gone => "the source no longer has it; the target's copy stays, unless a sync removes it",
    }
}

const fn verified(by: Option<Verified>) -> &'static str {
    match by {
        Some(Verified::Backend) => "by the target, which refuses wrong bytes",
        Some(Verified::ReadBack) => "by reading every byte back",
        Some(Verified::No) | None => "not yet",
    }
}
