//! `migrator explain`

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;

use serde::Serialize;
use storage_core::id::FileId;
use storage_core::storage::Verified;

use crate::cli::args;
use crate::cli::context::Context;
use crate::failure::{Exit, Failure};
use crate::item::State;
use crate::ledger::{Attempt, FileRecord, Ledger, Outcome, OutcomeRecord, RunId};
use crate::quantity::{show_count, show_name, show_text};
use crate::report::advice::next_step;

#[derive(Serialize)]
struct ExplainBody<'e> {
    subject: &'e str,
    file: Option<FileBody<'e>>,
    history: Vec<HistoryBody<'e>>,
    attempts: &'e [Attempt],
    next: &'e str,
}

#[derive(Serialize)]
struct FileBody<'e> {
    state: State,
    size: u64,
    digest: Option<String>,
    source_version: &'e str,
    target_version: Option<&'e str>,
    verified: Option<Verified>,
    attempts: u32,
    error: Option<&'e str>,
    retired: Option<&'e str>,
    open_upload: bool,
    parts_stored: usize,
    run: RunId,
    updated: jiff::Timestamp,
}

#[derive(Serialize)]
struct HistoryBody<'e> {
    run: RunId,
    #[serde(flatten)]
    outcome: &'e OutcomeRecord,
}

/// Tells everything the ledger knows of one file. Exits with 0 also where it knows nothing: that is the answer.
///
/// # Errors
/// There is no ledger, or it cannot be read.
pub(super) async fn run(context: &Context, args: &args::Explain) -> Result<Exit, Failure> {
    let (source, target, subject) = words(args)?;
    let ledger = context.look_up(source, target, args.ledger.as_deref()).await?;
    let subject = subject.to_str().ok_or_else(|| {
        Failure::new(Exit::Usage, "the ID is not UTF-8, so it is no file's name here")
            .with_hint("entries whose name is not UTF-8 are in files.csv with odd bytes escaped")
    })?;
    // An entry that could not be a file has a journal and no row.
    let (row, parts, attempts) = match FileId::parse(subject) {
        Ok(id) => (ledger.file(&id).await?, ledger.parts(&id).await?.len(), ledger.attempts(&id).await?),
        Err(_) => (None, 0, Vec::new()),
    };
    let history = ledger.history(subject).await?;
    let story = Story { subject, row: row.as_ref(), parts, history: &history, attempts: &attempts };
    let body = ExplainBody {
        subject,
        file: row.as_ref().map(|row| file(row, parts)),
        history: history.iter().map(|(run, outcome)| HistoryBody { run: *run, outcome }).collect(),
        attempts: &attempts,
        next: story.next(),
    };
    context.output.event("explain", &body);
    context.output.text(&story.human());
    Ok(Exit::Ok)
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

fn file(row: &FileRecord, parts: usize) -> FileBody<'_> {
    FileBody {
        state: row.state,
        size: row.size,
        digest: row.digest.map(|digest| digest.to_string()),
        source_version: row.source_version.as_str(),
        target_version: row.target_version.as_ref().map(|version| version.as_str()),
        verified: row.verified,
        attempts: row.attempts,
        error: row.error.as_deref(),
        retired: row.retired.as_deref(),
        open_upload: row.ticket.is_some(),
        parts_stored: parts,
        run: row.run,
        updated: row.updated,
    }
}

/// Everything that is known of a file.
struct Story<'e> {
    subject: &'e str,
    row: Option<&'e FileRecord>,
    parts: usize,
    history: &'e [(RunId, OutcomeRecord)],
    attempts: &'e [Attempt],
}

impl Story<'_> {
    fn human(&self) -> String {
        let mut text = String::new();
        let mut line = |arguments: std::fmt::Arguments<'_>| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{arguments}");
        };
        line(format_args!("{}", show_name(self.subject)));
        match self.row {
            None if self.history.is_empty() => line(format_args!("  the ledger does not know it")),
            None => line(format_args!("  the ledger has no file of this name")),
            Some(row) => {
                line(format_args!("  {}: {}", row.state, in_words(row.state)));
                line(format_args!("  size      {}", show_count(row.size, "byte")));
                if let Some(digest) = &row.digest {
                    line(format_args!("  sha256    {digest}"));
                }
                line(format_args!("  verified  {}", verified(row.verified)));
                if row.ticket.is_some() {
                    let parts = u64::try_from(self.parts).unwrap_or(u64::MAX);
                    line(format_args!(
                        "  upload    open, {} stored: the next copy goes on with it",
                        show_count(parts, "part")
                    ));
                }
                if row.attempts > 1 {
                    line(format_args!("  attempts  {} since it was last verified", row.attempts));
                }
                if let Some(place) = &row.retired {
                    line(format_args!("  moved to  {}", show_name(place)));
                }
                if let Some(error) = &row.error {
                    line(format_args!("  error     {}", show_text(error)));
                }
                line(format_args!("  changed   in run {}, {:.0}", row.run, row.updated));
            }
        }
        if !self.history.is_empty() || !self.attempts.is_empty() {
            line(format_args!("\nhistory (runs in which it was unchanged are not noted)"));
        }
        for event in self.events() {
            line(format_args!("  {event}"));
        }
        line(format_args!("\nnext\n  {}", self.next()));
        text
    }

    /// What happened to it, oldest first: outcomes of runs, and before each the attempts that failed in that run.
    fn events(&self) -> Vec<String> {
        let mut attempts = self.attempts.iter().peekable();
        let mut events = Vec::new();
        let tried = |attempt: &Attempt| {
            let (at, run, number) = (attempt.at, attempt.run, attempt.number);
            format!("{at:.0}  run {run}: attempt {number} failed: {}", show_text(&attempt.detail))
        };
        for (run, told) in self.history {
            while let Some(attempt) = attempts.next_if(|attempt| attempt.run <= *run) {
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

    /// What comes next, or what to do.
    fn next(&self) -> &'static str {
        let last = self.history.last().map(|(_, told)| told);
        // The row says what the last copy came to; what an audit noted beside it is in the history alone.
        let noted = last.and_then(|told| next_step(told.outcome, &told.reason));
        match self.row.map(|row| row.state) {
            Some(State::Verified) => match last.map(|told| told.outcome) {
                Some(Outcome::Outdated | Outcome::Unverified | Outcome::Unseen) => noted.unwrap_or(""),
                _ => "Nothing: it is in the target and proven. The next copy looks whether it has changed.",
            },
            Some(State::Copied) => "Its bytes are compared by the next copy, which sends nothing for that.",
            Some(State::Copying) => "The next copy goes on with it.",
            Some(State::Retired) if self.row.is_some_and(|row| row.error.is_some()) => {
                "The target's copy is not what was verified: take the file out of the quarantine, put it back under its \
                 name, and copy again."
            }
            Some(State::Retired) => {
                "Nothing: the target has it, and no sync removes it there. Until `migrator cleanup` finds its time over, \
                 the source's file can be moved back from the quarantine."
            }
            Some(State::Gone) => "Nothing: the source no longer has it, and the target's copy stays.",
            Some(State::Failed | State::Damaged) => noted.unwrap_or("The next copy tries again."),
            None => match noted {
                Some(next) => next,
                None if last.is_some() => "Nothing.",
                None => "Check the name: it is the path beneath the source, byte for byte.",
            },
        }
    }
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
