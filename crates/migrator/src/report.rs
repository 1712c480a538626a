//! What a run did, told from the ledger alone.
//!
//! A report is five files and a text: `report.html` (for people; one file, no script, nothing is loaded),
//! `report.json` (sums; its schema is `docs/report.schema.json`), `files.csv` (one row per file), `SHA256SUMS` (for
//! `sha256sum -c` inside the source directory), `proof.jsonl` (every file, chained by SHA-256: [`proof`]). Each is written beside its place and renamed, so that a reader sees a
//! whole report or the former one. Memory does not grow with the number of files.
//!
//! **The sums are checked, not trusted.** The scan counts what is planned; the journal counts what became of it;
//! the two meet here. Of a run that ended, `planned = copied + unchanged + skipped + failed` must hold (of an
//! interrupted one, plus what was not finished), and the rows of `files.csv` must add up to the same numbers.
//! Where they do not, the tool has a bug, and says so instead of writing a report that looks right.
//!
//! *Unchanged* files have no line in the journal, or ten million of them would cost ten million lines per run:
//! they are the rows that are verified, have no other outcome in the run, and lie within what its scan has seen.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use futures::TryStreamExt;
use jiff::Timestamp;
use serde::Serialize;
use storage_core::id::FileId;

use crate::course::Course;
use crate::item::State;
use crate::ledger::{
    Binding, Count, Ledger, LedgerError, Outcome, OutcomeRecord, RunEnd, RunId, RunKind, RunRecord, Tally,
    Withheld,
};

pub mod advice;
pub mod failures;
pub mod files;
pub mod html;
pub mod proof;
pub mod rows;
pub mod story;
pub mod survey;
pub mod text;
pub mod unrecorded;

/// Version of `report.json`; grows when a field changes its meaning or goes.
pub const SCHEMA_VERSION: u32 = 1;

/// Problems that `report.json` names; all of them are in `files.csv`.
pub const MAX_PROBLEMS: usize = 100;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The ledger has no such run, or none at all.
    #[error("the ledger {location} has no {}", run.map_or("run".to_owned(), |run| format!("run {run}")))]
    NoRun {
        /// The ledger.
        location: String,
        /// The run that was asked for; nothing: the latest.
        run: Option<RunId>,
    },
    /// The sums do not add up.
    #[error("the sums of run {run} do not add up: {planned} planned, and {told}")]
    Sums {
        /// The run.
        run: RunId,
        /// What the scan counted.
        planned: u64,
        /// What became of it, in words and numbers.
        told: String,
    },
    /// The rows are not those that the sums say.
    #[error("the files of run {run} do not add up: {rows} rows are {outcome}, the sums say {counted}")]
    Rows {
        /// The run.
        run: RunId,
        /// Of which outcome.
        outcome: &'static str,
        /// Rows found.
        rows: u64,
        /// What the sums say.
        counted: u64,
    },
    /// A file of the report cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What a run comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything is as it should be.
    Clean,
    /// Some files failed, or a part of the source could not be seen.
    SomeFailed,
    /// Everything is copied; a safeguard refused to delete what is in the target only.
    Refused,
    /// An audit found files missing, different, outdated or unproven.
    Mismatch,
    /// Everything is in the target, and of some files nobody compared the bytes, as it was asked for.
    Unverified,
    /// It was asked to stop.
    Interrupted,
    /// It could not go on, or was killed.
    Aborted,
    /// It has not ended.
    Running,
}

/// What became of the planned entries. Only the fields of the run's kind are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Sums {
    /// Found in the source, the filter's exclusions left out.
    pub planned: Count,
    /// Copied and verified.
    pub copied: Count,
    /// Needed nothing; in an audit: source, ledger and target agree.
    pub unchanged: Count,
    /// Left alone, for a reason that is no failure.
    pub skipped: Count,
    /// Not copied, or not audited, although they should have been.
    pub failed: Count,
    /// Audit: not in the target.
    pub missing: Count,
    /// Audit: the target's bytes are not those of the source.
    pub different: Count,
    /// Audit: nothing proves the target's bytes.
    pub unverified: Count,
    /// Audit: the source changed after it was copied.
    pub outdated: Count,
    /// Planned, and not dealt with before the run was stopped. Bytes of those are not known.
    pub unfinished: Count,
    /// Not planned: audit: in the target, and neither in the source nor in the ledger.
    pub extra: Count,
    /// Not planned: in the ledger, and no longer in the source.
    pub gone: Count,
    /// Not planned: in the ledger, and in a part of the source that could not be read.
    pub unseen: Count,
    /// Not planned: left out by the filter.
    pub excluded: Count,
    /// Not planned: sync: was in the target only, and is in quarantine there.
    pub quarantined: Count,
    /// Not planned: sync: was in the target only, and was deleted at once.
    pub deleted: Count,
    /// Not planned: sync: in the target only, and could not be removed.
    pub not_deleted: Count,
    /// Not planned: sync: in the target only, where the source has something that is no file.
    pub kept: Count,
    /// Of those copied and unchanged: whose source was moved to quarantine.
    pub source_removed: Count,
}

/// How often a reason was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// For this outcome.
    pub outcome: Outcome,
    /// A stable word.
    pub reason: String,
    /// Number of entries.
    pub files: u64,
}

/// What the run moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Work {
    /// Bytes read, of the source and of what is read back.
    pub bytes_read: u64,
    /// Bytes sent to the target, attempts that failed included.
    pub bytes_sent: u64,
    /// Parts sent.
    pub parts_sent: u64,
    /// Parts found stored by an earlier run and not sent again.
    pub parts_resumed: u64,
    /// Attempts beyond the first.
    pub retries: u64,
}

/// The run itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunSummary {
    /// Its number in the ledger.
    pub id: RunId,
    /// What it did.
    pub kind: RunKind,
    /// When it began.
    pub started: Timestamp,
    /// When it ended; nothing while it runs.
    pub finished: Option<Timestamp>,
    /// From begin to end.
    pub seconds: Option<f64>,
    /// How it ended; nothing while it runs.
    pub end: Option<RunEnd>,
    /// Whether the scan saw the end of the source without an error.
    pub scan_complete: bool,
    /// The last id that the scan has seen.
    pub scanned_to: Option<FileId>,
    /// Version of the program that ran it.
    pub program: String,
}

/// A run in one line: what can be told without reading its journal line by line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunTotals {
    /// What the run comes to.
    pub result: Verdict,
    /// The run.
    pub run: RunSummary,
    /// What became of the entries.
    pub sums: Sums,
    /// What the run moved.
    pub work: Work,
}

impl RunTotals {
    /// Adds a run up.
    ///
    /// # Errors
    /// The ledger failed; the sums do not add up.
    pub async fn of(ledger: &dyn Ledger, record: RunRecord) -> Result<Self, ReportError> {
        let counts = ledger.outcome_counts(record.id).await?;
        let sums = sums(&record, &counts)?;
        Ok(Self { result: verdict(&record, &sums), sums, work: record.tally.into(), run: record.into() })
    }
}

impl From<Tally> for Work {
    fn from(tally: Tally) -> Self {
        let Tally { bytes_read, bytes_sent, parts_sent, parts_resumed, retries, .. } = tally;
        Self { bytes_read, bytes_sent, parts_sent, parts_resumed, retries }
    }
}

/// The content of `report.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// [`SCHEMA_VERSION`]
    pub schema_version: u32,
    /// What the run comes to.
    pub result: Verdict,
    /// The run.
    pub run: RunSummary,
    /// Source and target.
    pub pair: Binding,
    /// The ledger that all of this comes from.
    pub ledger: String,
    /// What became of the entries.
    pub sums: Sums,
    /// Sync: files of the target that were to be removed.
    pub candidates: u64,
    /// Sync: why none of them was removed, where it is so.
    pub withheld: Option<Withheld>,
    /// Reasons of what was not copied, most frequent first.
    pub reasons: Vec<Reason>,
    /// What the run moved.
    pub work: Work,
    /// All files of the ledger by state, at the time of the report.
    pub states: BTreeMap<State, Count>,
    /// The first [`MAX_PROBLEMS`] failures and findings, in order of their names.
    pub problems: Vec<OutcomeRecord>,
    /// How it went; in the files of the report alone.
    #[serde(skip)]
    pub course: Course,
}

impl Report {
    /// Tells a run, or the latest, from the ledger.
    ///
    /// # Errors
    /// There is no such run; the ledger failed; the sums do not add up.
    pub async fn of(ledger: &dyn Ledger, run: Option<RunId>) -> Result<Self, ReportError> {
        let no_run = || ReportError::NoRun { location: ledger.location().to_owned(), run };
        let record = ledger.run(run).await?.ok_or_else(no_run)?;
        let counts = ledger.outcome_counts(record.id).await?;
        let sums = sums(&record, &counts)?;
        let reasons = ledger.reason_counts(record.id).await?;
        let reasons = reasons
            .into_iter()
            .filter(|(outcome, reason, _)| {
                !matches!(outcome, Outcome::Copied | Outcome::Unchanged) && !reason.is_empty()
            })
            .map(|(outcome, reason, files)| Reason { outcome, reason, files })
            .collect();
        let mut problems = Vec::new();
        if counts.keys().any(|outcome| is_problem(*outcome)) {
            let mut outcomes = ledger.outcomes(record.id);
            while problems.len() < MAX_PROBLEMS
                && let Some(outcome) = outcomes.try_next().await?
            {
                if is_problem(outcome.outcome) {
                    problems.push(outcome);
                }
            }
        }
        let Tally { candidates, withheld, .. } = record.tally;
        Ok(Self {
            schema_version: SCHEMA_VERSION,
            result: verdict(&record, &sums),
            pair: ledger.binding().clone(),
            ledger: ledger.location().to_owned(),
            sums,
            candidates,
            withheld,
            reasons,
            work: record.tally.into(),
            states: ledger.state_counts().await?,
            problems,
            course: ledger.course(record.id).await?.unwrap_or_default(),
            run: record.into(),
        })
    }
}

impl From<RunRecord> for RunSummary {
    fn from(record: RunRecord) -> Self {
        let seconds = record.finished.map(|end| end.duration_since(record.started).as_secs_f64());
        Self {
            id: record.id,
            kind: record.kind,
            started: record.started,
            finished: record.finished,
            seconds,
            end: record.end,
            scan_complete: record.scan_complete,
            scanned_to: record.scanned_to,
            program: record.program,
        }
    }
}

/// Tells whether an outcome is something that whoever runs the tool should look at.
pub const fn is_problem(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Failed
        | Outcome::Missing
        | Outcome::Different
        | Outcome::Extra
        | Outcome::Unverified
        | Outcome::Outdated
        | Outcome::NotDeleted
        | Outcome::Unseen => true,
        Outcome::Copied
        | Outcome::Unchanged
        | Outcome::Skipped
        | Outcome::Gone
        | Outcome::Excluded
        | Outcome::Quarantined
        | Outcome::Deleted
        | Outcome::Kept
        | Outcome::Matched => false,
    }
}

/// Adds a run up and checks that nothing is lost.
fn sums(run: &RunRecord, counts: &BTreeMap<Outcome, Count>) -> Result<Sums, ReportError> {
    let count = |outcome| counts.get(&outcome).copied().unwrap_or_default();
    let tally = &run.tally;
    let mut sums = Sums {
        planned: Count { files: tally.planned, bytes: tally.planned_bytes },
        copied: count(Outcome::Copied),
        unchanged: Count { files: tally.unchanged, bytes: tally.unchanged_bytes },
        skipped: count(Outcome::Skipped),
        failed: count(Outcome::Failed),
        missing: count(Outcome::Missing),
        different: count(Outcome::Different),
        unverified: count(Outcome::Unverified),
        outdated: count(Outcome::Outdated),
        unfinished: Count::default(),
        extra: count(Outcome::Extra),
        gone: count(Outcome::Gone),
        unseen: count(Outcome::Unseen),
        excluded: Count { files: tally.excluded, bytes: count(Outcome::Excluded).bytes },
        quarantined: count(Outcome::Quarantined),
        deleted: count(Outcome::Deleted),
        not_deleted: count(Outcome::NotDeleted),
        kept: count(Outcome::Kept),
        source_removed: Count { files: tally.retired, bytes: tally.retired_bytes },
    };
    let told = sums.dealt_with();
    let left = tally.planned.checked_sub(told);
    let adds_up = match run.end {
        Some(RunEnd::Complete) => left == Some(0),
        Some(RunEnd::Interrupted) => left.is_some(),
        // A killed run's last numbers are older than its last outcomes.
        Some(RunEnd::Aborted) | None => true,
    };
    if !adds_up {
        return Err(ReportError::Sums { run: run.id, planned: tally.planned, told: sums.to_words() });
    }
    let removed = sums.quarantined.files + sums.deleted.files + sums.not_deleted.files;
    let expected = if tally.withheld.is_some() { 0 } else { tally.candidates };
    if run.end == Some(RunEnd::Complete) && removed != expected {
        let told = format!("{} of {expected} files in the target only were dealt with", removed);
        return Err(ReportError::Sums { run: run.id, planned: tally.planned, told });
    }
    sums.unfinished.files = left.unwrap_or(0);
    Ok(sums)
}

impl Sums {
    /// The terms of the sum, each with its name.
    fn terms(&self) -> [(&'static str, Count); 8] {
        [
            ("copied", self.copied),
            ("unchanged", self.unchanged),
            ("skipped", self.skipped),
            ("failed", self.failed),
            ("missing", self.missing),
            ("different", self.different),
            ("unverified", self.unverified),
            ("outdated", self.outdated),
        ]
    }

    fn dealt_with(&self) -> u64 {
        self.terms().iter().map(|(_, count)| count.files).sum()
    }

    fn to_words(self) -> String {
        let terms: Vec<_> =
            self.terms().iter().map(|(name, count)| format!("{} {name}", count.files)).collect();
        terms.join(" + ")
    }
}

/// Says what a run comes to. What is only in the target ([`Outcome::Extra`]) is told and is no mismatch: the
/// target may have had files of its own before.
fn verdict(run: &RunRecord, sums: &Sums) -> Verdict {
    match run.end {
        None => Verdict::Running,
        Some(RunEnd::Interrupted) => Verdict::Interrupted,
        Some(RunEnd::Aborted) => Verdict::Aborted,
        Some(RunEnd::Complete) => {
            let audit = run.kind == RunKind::Verify;
            let findings = [sums.missing, sums.different, sums.outdated];
            let findings = findings.iter().chain(audit.then_some(&sums.unverified));
            if findings.into_iter().any(|count| count.files > 0) {
                Verdict::Mismatch
            } else if sums.failed.files > 0
                || sums.unseen.files > 0
                || sums.not_deleted.files > 0
                || !run.scan_complete
                || run.tally.withheld.is_some_and(|withheld| !withheld.is_refusal())
            {
                Verdict::SomeFailed
            } else if run.tally.withheld.is_some() {
                Verdict::Refused
            } else if sums.unverified.files > 0 {
                Verdict::Unverified
            } else {
                Verdict::Clean
            }
        }
    }
}

#[cfg(test)]
mod tests;
