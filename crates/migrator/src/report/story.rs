//! Everything that a ledger knows of one file: how it stands, what became of it in each run, and what comes next.

use futures::TryStreamExt;
use jiff::Timestamp;
use serde::Serialize;
use storage_core::id::FileId;
use storage_core::storage::Verified;

use crate::item::State;
use crate::ledger::{Attempt, FileFilter, FileRecord, Ledger, LedgerError, Outcome, OutcomeRecord, RunId};
use crate::report::advice::next_step;

/// The story of a file, or of an entry that could not be one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Story {
    /// The id; or, for an entry that has none, its escaped path.
    pub subject: String,
    /// How it stands; nothing where the ledger has no row of it.
    pub file: Option<FileView>,
    /// What the runs say, oldest first. Those in which it was unchanged say nothing.
    pub history: Vec<HistoryLine>,
    /// Attempts that were followed by another, oldest first.
    pub attempts: Vec<Attempt>,
    /// What comes next, or what to do.
    pub next: &'static str,
}

/// How a file stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileView {
    /// Where it stands.
    pub state: State,
    /// In bytes, of the source when it was last intended.
    pub size: u64,
    /// SHA-256 of the source's bytes, once published.
    pub digest: Option<String>,
    /// The source's identity when it was last intended.
    pub source_version: String,
    /// The target's version, once published.
    pub target_version: Option<String>,
    /// Who compared the target's bytes.
    pub verified: Option<Verified>,
    /// Intents since it was last verified.
    pub attempts: u32,
    /// Why it failed or is damaged.
    pub error: Option<String>,
    /// Where in quarantine the source's file was moved, once its copy was proven.
    pub retired: Option<String>,
    /// Whether an upload in parts is open.
    pub open_upload: bool,
    /// How many parts of it are stored.
    pub parts_stored: usize,
    /// The run that last changed it.
    pub run: RunId,
    /// When.
    pub updated: Timestamp,
}

/// What a run says of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HistoryLine {
    /// The run.
    pub run: RunId,
    /// What it says.
    #[serde(flatten)]
    pub outcome: OutcomeRecord,
}

impl Story {
    /// Tells a file's story. One that the ledger does not know has one, too: that is the answer.
    ///
    /// # Errors
    /// The ledger failed.
    pub async fn of(ledger: &dyn Ledger, subject: &str) -> Result<Self, LedgerError> {
        let mut story = Self {
            subject: subject.to_owned(),
            file: None,
            history: Vec::new(),
            attempts: Vec::new(),
            next: "",
        };
        // An entry that could not be a file has a journal and no row.
        if let Ok(id) = FileId::parse(subject) {
            if let Some(row) = ledger.file(&id).await? {
                story.file = Some(FileView::of(row, ledger.parts(&id).await?.len()));
            }
            story.attempts = ledger.attempts(&id).await?;
        }
        let history = ledger.history(subject).await?.into_iter();
        story.history = history.map(|(run, outcome)| HistoryLine { run, outcome }).collect();
        story.next = story.next_step();
        Ok(story)
    }

    /// Tells the story of the file that whoever asks means: by its name, by a path that begins with `./`, or by the whole
    /// path of a file in a source that is a directory.
    ///
    /// # Errors
    /// The ledger failed.
    pub async fn find(ledger: &dyn Ledger, asked: &str) -> Result<Self, LedgerError> {
        let story = Self::of(ledger, asked).await?;
        let root = ledger.binding().source.split_once(':').map_or("", |(_, path)| path);
        let beneath = asked.strip_prefix(root).filter(|_| !root.is_empty());
        let beneath = beneath.and_then(|rest| rest.strip_prefix('/'));
        let Some(meant) = beneath.or_else(|| asked.strip_prefix("./")).filter(|_| !story.is_known()) else {
            return Ok(story);
        };
        let found = Self::of(ledger, meant).await?;
        Ok(if found.is_known() { found } else { story })
    }

    /// Finds names that begin with or end in what was asked for, at most `most`. Reads rows until it has them.
    ///
    /// # Errors
    /// The ledger failed.
    pub async fn similar(ledger: &dyn Ledger, asked: &str, most: usize) -> Result<Vec<String>, LedgerError> {
        let mut found = Vec::new();
        let end = format!("/{}", asked.trim_start_matches("./").trim_start_matches('/'));
        let mut rows = ledger.files(FileFilter::default());
        while found.len() < most
            && let Some(row) = rows.try_next().await?
        {
            let id = row.id.as_str();
            if id.starts_with(asked) || id.ends_with(&end) {
                found.push(id.to_owned());
            }
        }
        Ok(found)
    }

    /// Tells whether the ledger knows anything of it.
    pub fn is_known(&self) -> bool {
        self.file.is_some() || !self.history.is_empty()
    }

    /// Tells whether a sync has removed it from the target since it left the source.
    pub fn is_removed(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.state == State::Gone) && self.removal().is_some()
    }

    /// What the removal by a sync was told as. An audit may have noted something else since.
    fn removal(&self) -> Option<&OutcomeRecord> {
        self.latest(&[Outcome::Quarantined, Outcome::Deleted, Outcome::Copied])
            .filter(|told| told.outcome != Outcome::Copied)
    }

    /// Returns the latest line that says one of these.
    fn latest(&self, outcomes: &[Outcome]) -> Option<&OutcomeRecord> {
        self.history.iter().map(|line| &line.outcome).rfind(|told| outcomes.contains(&told.outcome))
    }

    fn next_step(&self) -> &'static str {
        let last = self.history.last().map(|line| &line.outcome);
        // The row says what the last copy came to; what an audit noted beside it is in the history alone.
        let noted = last.and_then(|told| next_step(told.outcome, &told.reason));
        match self.file.as_ref().map(|file| file.state) {
            Some(State::Verified) => match last.map(|told| told.outcome) {
                Some(Outcome::Outdated | Outcome::Unverified | Outcome::Unseen) => noted.unwrap_or(""),
                _ => "Nothing: it is in the target and proven. The next copy looks whether it has changed.",
            },
            Some(State::Copied) => "Its bytes are compared by the next copy, which sends nothing for that.",
            Some(State::Copying) => "The next copy goes on with it.",
            Some(State::Retired) if self.file.as_ref().is_some_and(|file| file.error.is_some()) => {
                "The target's copy is not what was verified: take the file out of the quarantine, put it back under its \
                 name, and copy again."
            }
            Some(State::Retired) => {
                "Nothing: the target has it, and no sync removes it there. Until `migrator cleanup` finds its time over, \
                 the source's file can be moved back from the quarantine."
            }
            Some(State::Gone) => match self.removal() {
                None => "Nothing: the source no longer has it, and the target's copy stays.",
                Some(told) => next_step(told.outcome, &told.reason).unwrap_or(
                    "Nothing: the source no longer has it, and a sync deleted it from the target.",
                ),
            },
            // An audit after the copy says what it found, and not what to do about the failure.
            Some(State::Failed) => advised(self.latest(&[Outcome::Failed])),
            Some(State::Damaged) => advised(self.latest(&[Outcome::Missing, Outcome::Different])),
            None => match noted {
                Some(next) => next,
                None if last.is_some() => "Nothing.",
                None => "Check the name: it is the path beneath the source, byte for byte.",
            },
        }
    }
}

fn advised(told: Option<&OutcomeRecord>) -> &'static str {
    told.and_then(|told| next_step(told.outcome, &told.reason)).unwrap_or("The next copy tries again.")
}

impl FileView {
    fn of(row: FileRecord, parts_stored: usize) -> Self {
        Self {
            state: row.state,
            size: row.size,
            digest: row.digest.map(|digest| digest.to_string()),
            source_version: row.source_version.as_str().to_owned(),
            target_version: row.target_version.map(|version| version.as_str().to_owned()),
            verified: row.verified,
            attempts: row.attempts,
            error: row.error,
            retired: row.retired,
            open_upload: row.ticket.is_some(),
            parts_stored,
            run: row.run,
            updated: row.updated,
        }
    }
}
