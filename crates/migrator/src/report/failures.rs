//! What is not well at this moment, over all runs: the files that the ledger holds as failed or damaged, and the
//! entries that no run could make a row of (a name that the target cannot hold, an unreadable directory).

use std::collections::BTreeSet;

use futures::TryStreamExt;
use jiff::Timestamp;
use serde::Serialize;
use storage_core::id::FileId;

use crate::item::State;
use crate::ledger::{FileFilter, Ledger, LedgerError, Outcome, RunId, RunKind};

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
    /// A stable word, where the journal has one; empty otherwise.
    pub reason: String,
    /// The error in full.
    pub detail: Option<String>,
    /// In bytes, where known.
    pub size: Option<u64>,
    /// Attempts since it was last well.
    pub attempts: u32,
    /// The run that says so.
    pub run: RunId,
    /// When.
    pub at: Timestamp,
}

/// What is not well, at most so many.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Problems {
    /// Files with a row in order of their names, then the others, latest run first.
    pub problems: Vec<Problem>,
    /// Whether there are more.
    pub more: bool,
}

/// Finds what is in one of these states, and what failed without a row.
///
/// # Errors
/// The ledger failed.
pub async fn current(ledger: &dyn Ledger, states: &[State], limit: usize) -> Result<Problems, LedgerError> {
    let mut found = Problems::default();
    let mut rows = ledger.files(FileFilter { states: states.to_vec(), ..FileFilter::default() });
    while let Some(row) = rows.try_next().await? {
        if found.problems.len() == limit {
            found.more = true;
            return Ok(found);
        }
        found.problems.push(Problem {
            subject: row.id.as_str().to_owned(),
            is_file: true,
            state: row.state.as_str(),
            reason: String::new(),
            detail: row.error,
            size: Some(row.size),
            attempts: row.attempts,
            run: row.run,
            at: row.updated,
        });
    }
    drop(rows);
    // What a later run says of an entry counts.
    let mut told = BTreeSet::new();
    for run in ledger.runs(LOOK_BACK).await?.into_iter().filter(|run| run.kind == RunKind::Copy) {
        let whole = run.scanned_to.is_some();
        let counts = ledger.outcome_counts(run.id).await?;
        let wrong = counts.contains_key(&Outcome::Failed) || counts.contains_key(&Outcome::Unseen);
        if wrong || !whole {
            let mut outcomes = ledger.outcomes(run.id);
            while let Some(line) = outcomes.try_next().await? {
                let is_new = whole || told.insert(line.subject.clone());
                if !matches!(line.outcome, Outcome::Failed | Outcome::Unseen)
                    || !is_new
                    || (whole && told.contains(&line.subject))
                {
                    continue;
                }
                let id = FileId::parse(line.subject.as_str()).ok();
                if let Some(id) = &id
                    && let Some(row) = ledger.file(id).await?
                    && (states.contains(&row.state) || row.run > run.id || line.outcome == Outcome::Unseen)
                {
                    continue;
                }
                if found.problems.len() == limit {
                    found.more = true;
                    return Ok(found);
                }
                found.problems.push(Problem {
                    subject: line.subject,
                    is_file: id.is_some(),
                    state: line.outcome.as_str(),
                    reason: line.reason,
                    detail: line.detail,
                    size: line.size,
                    attempts: line.attempts,
                    run: run.id,
                    at: line.at,
                });
            }
        }
        if whole {
            break;
        }
    }
    Ok(found)
}
