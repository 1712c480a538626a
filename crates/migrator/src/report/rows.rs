//! One row per file: the run's journal and the ledger's files side by side, in order.

use futures::TryStreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;
use storage_core::checksum::Digest;
use storage_core::id::FileId;
use storage_core::storage::Verified;

use crate::item::State;
use crate::ledger::{
    self, FileFilter, FileRecord, Ledger, LedgerError, Outcome, OutcomeRecord, RunId, RunKind, RunRecord,
};

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// As the journal has it, or [`Unchanged`](Outcome::Unchanged) or [`Matched`](Outcome::Matched) as follows
    /// from what it does not have.
    Outcome(Outcome),
    /// The run began with it and was stopped.
    Unfinished,
}

impl Fate {
    /// Returns the name that reports show.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Outcome(outcome) => outcome.as_str(),
            Self::Unfinished => "unfinished",
        }
    }

    /// Tells whether the target's copy was compared with the source's digest and found right.
    pub const fn is_good(self) -> bool {
        matches!(self, Self::Outcome(Outcome::Copied | Outcome::Unchanged | Outcome::Matched))
    }
}

/// One file of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The id; or, for an entry that has none, its escaped path.
    pub subject: String,
    /// In bytes, where known.
    pub size: Option<u64>,
    /// SHA-256, where known.
    pub digest: Option<Digest>,
    /// What became of it.
    pub fate: Fate,
    /// Who compared the target's bytes.
    pub verified: Option<Verified>,
    /// Attempts in this run.
    pub attempts: u32,
    /// A stable word, empty for success.
    pub reason: String,
    /// The error in full.
    pub detail: Option<String>,
    /// The run in which it became so: of an unchanged file, the one that last touched its row.
    pub run: RunId,
    /// When it became so: of an unchanged file, when its row was last touched.
    pub at: Timestamp,
}

/// The rows of a run in ascending byte order of subjects. Holds two rows at a time.
pub struct Rows<'l> {
    ledger: &'l dyn Ledger,
    run: RunRecord,
    outcomes: BoxStream<'static, ledger::Result<OutcomeRecord>>,
    files: BoxStream<'static, ledger::Result<FileRecord>>,
    outcome: Option<OutcomeRecord>,
    file: Option<FileRecord>,
    started: bool,
}

impl<'l> Rows<'l> {
    /// Opens the rows of a run.
    pub fn new(ledger: &'l dyn Ledger, run: RunRecord) -> Self {
        let outcomes = ledger.outcomes(run.id);
        let files = ledger.files(FileFilter::default());
        Self { ledger, run, outcomes, files, outcome: None, file: None, started: false }
    }

    /// Returns the next row.
    ///
    /// # Errors
    /// The ledger failed.
    pub async fn next(&mut self) -> Result<Option<Row>, LedgerError> {
        if !self.started {
            self.started = true;
            self.outcome = self.outcomes.try_next().await?;
            self.file = self.files.try_next().await?;
        }
        loop {
            let journal_first = match (&self.outcome, &self.file) {
                (None, None) => return Ok(None),
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some(outcome), Some(file)) => outcome.subject.as_str() <= file.id.as_str(),
            };
            if journal_first {
                let next = self.outcomes.try_next().await?;
                let Some(outcome) = std::mem::replace(&mut self.outcome, next) else { continue };
                if self.file.as_ref().is_some_and(|file| file.id.as_str() == outcome.subject) {
                    self.file = self.files.try_next().await?;
                }
                return Ok(Some(told(self.run.id, outcome)));
            }
            let next = self.files.try_next().await?;
            let Some(file) = std::mem::replace(&mut self.file, next) else { continue };
            if let Some(row) = self.untold(file).await? {
                return Ok(Some(row));
            }
        }
    }

    /// Says what became of a file that the run's journal has no line of. Exclusive, as streams cannot be shared by
    /// threads, and whoever waits for a report may change threads.
    async fn untold(&mut self, file: FileRecord) -> Result<Option<Row>, LedgerError> {
        if self.run.tally.subset.is_some_and(|subset| !subset.takes(&file.id)) {
            return Ok(None);
        }
        let seen = self.run.scanned_to.as_ref().is_some_and(|last| file.id <= *last);
        if file.run == self.run.id && matches!(file.state, State::Copying | State::Copied) {
            return Ok(Some(row(file, Fate::Unfinished)));
        }
        if !seen {
            return Ok(None);
        }
        let calm = Fate::Outcome(match self.run.kind {
            RunKind::Copy | RunKind::Sync => Outcome::Unchanged,
            RunKind::Verify => Outcome::Matched,
        });
        if file.run <= self.run.id {
            // What was moved away from the source is audited still.
            let audited = file.state == State::Retired && self.run.kind == RunKind::Verify;
            return Ok((audited || file.state == State::Verified).then(|| row(file, calm)));
        }
        // A later run touched the row: what it was at the time of this one is in the journal of the runs before.
        let history = self.ledger.history(file.id.as_str()).await?;
        let mut before = history.into_iter().filter(|(run, _)| *run < self.run.id);
        let last = before.rfind(|(_, outcome)| outcome.outcome != Outcome::Excluded);
        let good = |outcome: &OutcomeRecord| matches!(outcome.outcome, Outcome::Copied | Outcome::Unchanged);
        Ok(last.filter(|(_, outcome)| good(outcome)).map(|(run, outcome)| Row {
            fate: calm,
            attempts: 0,
            ..told(run, outcome)
        }))
    }
}

fn told(run: RunId, outcome: OutcomeRecord) -> Row {
    Row {
        subject: outcome.subject,
        size: outcome.size,
        digest: outcome.digest,
        fate: Fate::Outcome(outcome.outcome),
        verified: outcome.verified,
        attempts: outcome.attempts,
        reason: outcome.reason,
        detail: outcome.detail,
        run,
        at: outcome.at,
    }
}

fn row(file: FileRecord, fate: Fate) -> Row {
    let unfinished = fate == Fate::Unfinished;
    Row {
        subject: file.id.as_str().to_owned(),
        size: Some(file.size),
        digest: file.digest.filter(|_| !unfinished),
        fate,
        verified: file.verified.filter(|_| !unfinished),
        attempts: if unfinished { file.attempts } else { 0 },
        reason: String::new(),
        detail: None,
        run: file.run,
        at: file.updated,
    }
}

/// Writes a line of `SHA256SUMS` as GNU `sha256sum` does.
///
/// A name with a backslash, newline or carriage return is escaped and its line begins with a backslash. A name
/// that is `-` would mean standard input to `sha256sum -c`: it gets `./` in front.
pub fn checksum_line(digest: &Digest, id: &FileId) -> String {
    let name = id.as_str();
    let prefix = if name == "-" { "./" } else { "" };
    if name.contains(['\\', '\n', '\r']) {
        let escaped = name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
        format!("\\{digest}  {prefix}{escaped}\n")
    } else {
        format!("{digest}  {prefix}{name}\n")
    }
}
