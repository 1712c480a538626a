//! What is not well at this moment, over all runs: the files that the ledger holds as failed or damaged, and the
//! entries that no run could make a row of (a name that the target cannot hold, an unreadable directory).

use std::collections::BTreeSet;

use futures::TryStreamExt;
use jiff::Timestamp;
use serde::Serialize;
use storage_core::id::FileId;

use crate::item::State;
use crate::ledger::{FileFilter, FileRecord, Ledger, LedgerError, Outcome, OutcomeRecord, RunId, RunKind};
use crate::report::advice::next_step;

/// Runs that are looked back at for entries without a row.
const LOOK_BACK: u32 = 50;

/// Something that is not well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The id; or, for an entry that has none, its escaped path.
    pub subject: String,
    /// Whether it is a file that can be tried again alone.
    pub is_file: bool,
    /// `failed`, `damaged`, or as the row says.
    pub state: &'static str,
    /// A stable word; of a file with a row it is empty before [`explain`].
    pub reason: String,
    /// The error in full.
    pub detail: Option<String>,
    /// What to do about it.
    pub advice: Option<&'static str>,
    /// In bytes, where known.
    pub size: Option<u64>,
    /// Attempts since it was last well.
    pub attempts: u32,
    /// The run that says so.
    pub run: RunId,
    /// When.
    pub at: Timestamp,
}

/// Where a list of problems goes on: behind this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The run whose journal told it; nothing: it has a row.
    pub run: Option<RunId>,
    /// The subject.
    pub subject: String,
}

/// What is not well, at most so many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    /// Files with a row in order of their names, then the others, latest run first.
    pub problems: Vec<Problem>,
    /// Where the next ones begin; nothing where there are no more.
    pub next: Option<Place>,
}

impl Problems {
    /// Adds one, or, where there is no room, notes that there are more; false: no more are wanted.
    fn add(&mut self, limit: usize, last: &mut Option<Place>, place: Place, problem: Problem) -> bool {
        if self.problems.len() == limit {
            // With no room at all the list begins where it was asked to.
            self.next = Some(last.take().unwrap_or(Place { run: None, subject: String::new() }));
            return false;
        }
        self.problems.push(problem);
        *last = Some(place);
        true
    }
}

/// Finds what is in one of these states, and what failed without a row; at most `limit`, behind `after`.
///
/// Reads no journal but the lines that say that something is left undone, and those one by one.
///
/// # Errors
/// The ledger failed.
pub async fn current(
    ledger: &dyn Ledger,
    states: &[State],
    limit: usize,
    after: Option<&Place>,
) -> Result<Problems, LedgerError> {
    let mut found = Problems::default();
    let mut last = after.cloned();
    let begins_in = after.and_then(|place| place.run);
    if begins_in.is_none() {
        let behind = after.and_then(|place| FileId::parse(place.subject.as_str()).ok());
        let mut rows = ledger.files(FileFilter { states: states.to_vec(), after: behind });
        while let Some(row) = rows.try_next().await? {
            let place = Place { run: None, subject: row.id.as_str().to_owned() };
            if !found.add(limit, &mut last, place, of_row(row)) {
                return Ok(found);
            }
        }
    }
    let mut later = BTreeSet::new();
    for run in ledger.runs(LOOK_BACK, None).await?.into_iter().filter(|run| run.kind != RunKind::Verify) {
        let behind = match begins_in {
            Some(first) if run.id > first => None,
            Some(first) if run.id == first => after.map(|place| place.subject.as_str()),
            _ => Some(""),
        };
        if let Some(behind) = behind {
            let mut lines = ledger.left_undone(run.id);
            while let Some(line) = lines.try_next().await? {
                let is_behind = behind.is_empty() || line.subject.as_str() > behind;
                if !is_behind || is_settled(ledger, states, run.id, &line, &later).await? {
                    continue;
                }
                let place = Place { run: Some(run.id), subject: line.subject.clone() };
                if !found.add(limit, &mut last, place, of_line(run.id, line)) {
                    return Ok(found);
                }
            }
        }
        // A run that has looked at everything has told all that there is.
        if run.scanned_to.is_some() {
            break;
        }
        later.insert(run.id);
    }
    Ok(found)
}

/// Adds what only the journals have of files with a row: reason and advice. One look-up for each.
///
/// # Errors
/// The ledger failed.
pub async fn explain(ledger: &dyn Ledger, problems: &mut [Problem]) -> Result<(), LedgerError> {
    for problem in problems.iter_mut().filter(|problem| problem.advice.is_none()) {
        if let Some((_, line)) = ledger.history(&problem.subject).await?.pop() {
            problem.advice = next_step(line.outcome, &line.reason);
            problem.reason = line.reason;
        }
    }
    Ok(())
}

/// Tells whether what a run says is told by the file's row, or by one of the `later` runs.
async fn is_settled(
    ledger: &dyn Ledger,
    states: &[State],
    run: RunId,
    line: &OutcomeRecord,
    later: &BTreeSet<RunId>,
) -> Result<bool, LedgerError> {
    if !later.is_empty()
        && ledger.history(&line.subject).await?.iter().any(|(told_by, _)| later.contains(told_by))
    {
        return Ok(true);
    }
    let Ok(id) = FileId::parse(line.subject.as_str()) else { return Ok(false) };
    let row = ledger.file(&id).await?;
    Ok(row.is_some_and(|row| match line.outcome {
        Outcome::Unseen => true,
        Outcome::NotDeleted => row.run > run,
        _ => states.contains(&row.state) || row.run > run,
    }))
}

fn of_row(row: FileRecord) -> Problem {
    Problem {
        subject: row.id.as_str().to_owned(),
        is_file: true,
        state: row.state.as_str(),
        reason: String::new(),
        detail: row.error,
        advice: None,
        size: Some(row.size),
        attempts: row.attempts,
        run: row.run,
        at: row.updated,
    }
}

fn of_line(run: RunId, line: OutcomeRecord) -> Problem {
    let is_file = line.outcome != Outcome::NotDeleted && FileId::parse(line.subject.as_str()).is_ok();
    Problem {
        advice: next_step(line.outcome, &line.reason),
        subject: line.subject,
        is_file,
        state: line.outcome.as_str(),
        reason: line.reason,
        detail: line.detail,
        size: line.size,
        attempts: line.attempts,
        run,
        at: line.at,
    }
}
