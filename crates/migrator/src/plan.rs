//! What is to be done with each entry: the source and the ledger side by side, in order.
//!
//! The decision is a pure function of the source's metadata and the ledger's row. Neither side is held in
//! memory: both are read in ascending order and merged.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use futures::TryStreamExt;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use storage_core::error::Error;
use storage_core::id::FileId;
use storage_core::metadata::{FileMetadata, Version};
use storage_core::storage::Capabilities;

use crate::collide::{Clashes, Nesting, Twins};
use crate::item::State;
use crate::ledger::{self, Count, FileRecord, LedgerError, Outcome};
use crate::scan::Entry;

/// What is to be done with a file of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The ledger does not know it, or knows it as gone.
    New,
    /// Its identity is not the one in the ledger.
    Changed,
    /// An earlier run did not finish it.
    Resume,
    /// An earlier run failed on it.
    Retry,
    /// An audit found the target's copy missing or different.
    Repair,
    /// Published, and its bytes were never compared.
    Confirm,
    /// Verified, and its identity is the one in the ledger; also where it was to be moved away and was not.
    Unchanged,
}

/// Returns what tells one version of a source file from another: the storage's token, else size and time.
pub fn identity(file: &FileMetadata) -> Version {
    file.version.clone().unwrap_or_else(|| {
        let modified = file
            .modified
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
            .map_or(0, |since| since.as_nanos());
        Version::new(format!("{:x}@{modified:x}", file.size))
    })
}

/// Decides about one file.
pub fn decide(file: &FileMetadata, row: Option<&FileRecord>) -> Decision {
    let Some(row) = row else { return Decision::New };
    let same = row.size == file.size && row.source_version == identity(file);
    match (row.state, same) {
        (State::Gone, _) => Decision::New,
        (State::Verified, true) => Decision::Unchanged,
        (State::Copied, true) => Decision::Confirm,
        (State::Copying, _) => Decision::Resume,
        (State::Failed, _) => Decision::Retry,
        (State::Damaged, _) => Decision::Repair,
        // Killed between the row and the move.
        (State::Retired, true) if row.verified.is_some() => Decision::Unchanged,
        (State::Retired, true) => Decision::Repair,
        (State::Verified | State::Copied | State::Retired, false) => Decision::Changed,
    }
}

/// Says why a target cannot hold a file, before a byte moves.
fn unfit(file: &FileMetadata, target: &Capabilities) -> Option<(&'static str, String)> {
    let id = file.id.as_str();
    if let Some(limit) = target.max_id_bytes.filter(|limit| id.len() > *limit as usize) {
        return Some((
            "name_too_long",
            format!("the target's names have at most {limit} bytes, this one {}", id.len()),
        ));
    }
    if let Some(limit) = target.max_segment_bytes
        && let Some(segment) = file.id.segments().find(|segment| segment.len() > limit as usize)
    {
        return Some((
            "name_too_long",
            format!(
                "the target's names have at most {limit} bytes between slashes, this one {}",
                segment.len()
            ),
        ));
    }
    let limit = target.max_size.filter(|limit| file.size > *limit)?;
    Some((
        "too_large",
        format!("the target takes files of at most {limit} bytes, this one has {}", file.size),
    ))
}

/// Says why a target that cannot keep `a` next to `a/b` cannot hold a file, before a byte moves. To be asked for all
/// files in order.
fn blocked(id: &FileId, target: &Capabilities, nesting: &mut Nesting) -> Option<(&'static str, String)> {
    if target.nested_ids {
        return None;
    }
    let above = nesting.above(id)?;
    Some((
        "beneath_a_file",
        format!("the target cannot keep it next to the file \"{}\"", above.as_str().escape_debug()),
    ))
}

/// The reason of a name that the target takes for that of another file.
pub const SAME_NAME: &str = "same_name";

/// Why a target cannot take a file: a stable word, and the reason in full.
pub type Obstacle = (&'static str, String);

/// What a target cannot hold, found before a byte moves. To be asked for all files in order.
#[derive(Debug)]
pub struct Gate {
    target: Capabilities,
    clashes: Clashes,
    nesting: Nesting,
}

impl Gate {
    /// Takes what the target can hold, and the names of the source that it takes for one.
    pub fn new(target: Capabilities, clashes: Clashes) -> Self {
        Self { target, clashes, nesting: Nesting::default() }
    }

    /// Says why the target cannot hold a file: a stable word, and the reason in full.
    pub fn refuses(&mut self, file: &FileMetadata, decision: Decision) -> Option<(&'static str, String)> {
        unfit(file, &self.target)
            .or_else(|| blocked(&file.id, &self.target, &mut self.nesting))
            .or_else(|| self.clashes(&file.id, decision))
    }

    /// Of names that are one to the target none is sent: each would replace the other, and which of them is wanted is
    /// not for a program to guess. One that is there already stays what it is.
    fn clashes(&self, id: &FileId, decision: Decision) -> Option<(&'static str, String)> {
        if matches!(decision, Decision::Unchanged | Decision::Confirm) {
            return None;
        }
        let other = self.clashes.other(id)?;
        Some((
            SAME_NAME,
            format!("the target takes it for the same name as \"{}\"", other.as_str().escape_debug()),
        ))
    }
}

/// One step of the merge.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly every step is the large one")]
pub enum Step {
    /// An entry of the source, with the ledger's row where there is one.
    Entry(Entry, Option<Box<FileRecord>>),
    /// A row whose file is not in the source: [`Outcome::Gone`], or [`Outcome::Unseen`] where it lies in a part
    /// of the source that could not be read.
    Absent(Box<FileRecord>, Outcome),
}

/// Why a merge broke off.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// The listing of the source did.
    #[error(transparent)]
    Source(Error),
    /// The ledger did.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// The source and the ledger side by side.
pub struct Merge {
    entries: BoxStream<'static, Result<Entry, Error>>,
    rows: BoxStream<'static, ledger::Result<FileRecord>>,
    entry: Option<Entry>,
    row: Option<Box<FileRecord>>,
    started: bool,
    unreadable: Vec<String>,
}

impl Merge {
    /// Takes both sides, each in ascending byte order of ids.
    pub fn new(
        entries: BoxStream<'static, Result<Entry, Error>>,
        rows: BoxStream<'static, ledger::Result<FileRecord>>,
    ) -> Self {
        Self { entries, rows, entry: None, row: None, started: false, unreadable: Vec::new() }
    }

    /// Tells whether the source has no entry at all. To be asked before the first step.
    ///
    /// # Errors
    /// Those of [`next`](Self::next).
    pub async fn source_is_empty(&mut self) -> Result<bool, MergeError> {
        self.start().await?;
        Ok(self.entry.is_none())
    }

    async fn start(&mut self) -> Result<(), MergeError> {
        if !self.started {
            self.started = true;
            self.advance_entry().await?;
            self.row = self.rows.try_next().await?.map(Box::new);
        }
        Ok(())
    }

    /// Returns the next step, or nothing once both sides were seen whole.
    ///
    /// # Errors
    /// Where either side broke off: rows that were not reached say nothing about the source.
    pub async fn next(&mut self) -> Result<Option<Step>, MergeError> {
        self.start().await?;
        let order = match (&self.entry, &self.row) {
            (None, None) => return Ok(None),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(entry), Some(row)) => entry.id().map_or(Ordering::Less, |id| id.cmp(&row.id)),
        };
        let entry = if order.is_le() { self.entry.take() } else { None };
        let row = if order.is_ge() { self.row.take() } else { None };
        if entry.is_some() {
            self.advance_entry().await?;
        }
        if row.is_some() {
            self.row = self.rows.try_next().await?.map(Box::new);
        }
        Ok(match (entry, row) {
            (Some(entry), row) => Some(Step::Entry(entry, row)),
            (None, Some(row)) => {
                let outcome = self.absence(&row.id);
                Some(Step::Absent(row, outcome))
            }
            (None, None) => None,
        })
    }

    async fn advance_entry(&mut self) -> Result<(), MergeError> {
        self.entry = self.entries.try_next().await.map_err(MergeError::Source)?;
        if let Some(Entry::Unusable { subject, .. }) = &self.entry
            && subject.ends_with('/')
        {
            let directory = subject.clone();
            if let Some(row) = &self.row {
                self.unreadable.retain(|earlier| concerns_from(earlier, row.id.as_str()));
            }
            self.unreadable.push(directory);
        }
        Ok(())
    }

    fn absence(&mut self, id: &FileId) -> Outcome {
        let id = id.as_str();
        self.unreadable.retain(|directory| concerns_from(directory, id));
        let unseen = self.unreadable.iter().any(|directory| id.starts_with(directory.as_str()));
        if unseen { Outcome::Unseen } else { Outcome::Gone }
    }
}

/// Tells whether a directory that could not be read still matters for rows from `id` on.
fn concerns_from(directory: &str, id: &str) -> bool {
    directory >= id || id.starts_with(directory)
}

impl fmt::Debug for Merge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Merge").field("entry", &self.entry).field("row", &self.row).finish_non_exhaustive()
    }
}

/// What a copy would do, counted.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// Files by decision.
    pub files: BTreeMap<Decision, Count>,
    /// Entries that would be skipped, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Entries that could not be copied, by reason.
    pub failed: BTreeMap<String, u64>,
    /// Files that the filter leaves out.
    pub excluded: Count,
    /// Of those, how many by which part of it.
    pub excluded_by: BTreeMap<String, u64>,
    /// Files in the ledger that are no longer in the source.
    pub gone: Count,
    /// Files in the ledger in a part of the source that could not be read.
    pub unseen: Count,
    /// Files whose source was moved to quarantine after they were verified.
    pub retired: Count,
    /// Names that differ in their case or Unicode form only.
    pub twins: Vec<Twins>,
    /// The first entries that would be skipped or could not be copied: path, reason, the error in full.
    pub listed: Vec<Listed>,
}

/// An entry that a plan names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Its path.
    pub subject: String,
    /// What would become of it.
    pub outcome: Outcome,
    /// A stable word.
    pub reason: String,
    /// The error in full.
    pub detail: Option<String>,
}

impl Summary {
    /// Adds a step, with what the target has in the way of its file; lists at most `limit` entries.
    pub fn add(&mut self, step: Step, gate: &mut Gate, in_the_way: Option<Obstacle>, limit: usize) {
        let list = |listed: &mut Vec<Listed>, entry: Listed| {
            if listed.len() < limit {
                listed.push(entry);
            }
        };
        match step {
            Step::Entry(Entry::File(file), row) => {
                let decision = decide(&file, row.as_deref());
                match gate.refuses(&file, decision).or(in_the_way) {
                    Some((reason, detail)) => {
                        *self.failed.entry(reason.to_owned()).or_default() += 1;
                        let subject = file.id.as_str().to_owned();
                        let reason = reason.to_owned();
                        list(
                            &mut self.listed,
                            Listed { subject, outcome: Outcome::Failed, reason, detail: Some(detail) },
                        );
                    }
                    None => self.files.entry(decision).or_default().add(file.size),
                }
            }
            Step::Entry(Entry::Excluded(file, why), _) => {
                self.excluded.add(file.size);
                *self.excluded_by.entry(why.as_str().to_owned()).or_default() += 1;
            }
            Step::Entry(Entry::Foreign { subject, reason, .. }, _) => {
                *self.skipped.entry(reason.clone()).or_default() += 1;
                list(&mut self.listed, Listed { subject, outcome: Outcome::Skipped, reason, detail: None });
            }
            Step::Entry(Entry::Unusable { subject, reason, detail, .. }, _) => {
                *self.failed.entry(reason.clone()).or_default() += 1;
                let detail = Some(detail);
                list(&mut self.listed, Listed { subject, outcome: Outcome::Failed, reason, detail });
            }
            Step::Absent(row, _) if row.state == State::Gone => {}
            Step::Absent(row, _) if row.state == State::Retired => self.retired.add(row.size),
            Step::Absent(row, Outcome::Unseen) => self.unseen.add(row.size),
            Step::Absent(row, _) => self.gone.add(row.size),
        }
    }

    /// Returns how many files a copy would send, and their bytes.
    pub fn to_copy(&self) -> Count {
        let mut total = Count::default();
        for (decision, count) in &self.files {
            if !matches!(decision, Decision::Unchanged | Decision::Confirm) {
                total.files += count.files;
                total.bytes += count.bytes;
            }
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};
    use jiff::Timestamp;
    use storage_core::error::{ErrorKind, Op};
    use storage_core::storage::Verified;

    use super::*;
    use crate::ledger::RunId;

    fn file(id: &str, version: &str) -> FileMetadata {
        let mut file = FileMetadata::new(FileId::parse(id).unwrap(), 3);
        file.version = Some(Version::new(version));
        file
    }

    fn row(id: &str, state: State, version: &str) -> FileRecord {
        FileRecord {
            id: FileId::parse(id).unwrap(),
            state,
            size: 3,
            source_version: Version::new(version),
            digest: None,
            composite: None,
            target_version: None,
            verified: None,
            ticket: None,
            attempts: 1,
            error: None,
            retired: None,
            run: RunId(1),
            updated: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn only_a_verified_file_of_the_same_identity_is_unchanged() {
        for state in State::ALL {
            for version in ["v1", "v2"] {
                let mut row = row("a", state, version);
                row.verified = Some(Verified::Backend);
                let decision = decide(&file("a", "v1"), Some(&row));
                let verified = matches!(state, State::Verified | State::Retired);
                assert_eq!(decision == Decision::Unchanged, verified && version == "v1", "{state}");
            }
        }
        assert_eq!(decide(&file("a", "v1"), None), Decision::New);
        // An audit has found the target's copy to be wrong.
        assert_eq!(decide(&file("a", "v1"), Some(&row("a", State::Retired, "v1"))), Decision::Repair);
    }

    async fn merged(entries: Vec<Result<Entry, Error>>, rows: Vec<FileRecord>) -> Vec<String> {
        let rows = stream::iter(rows.into_iter().map(Ok)).boxed();
        let mut merge = Merge::new(stream::iter(entries).boxed(), rows);
        let mut seen = Vec::new();
        loop {
            match merge.next().await {
                Ok(Some(Step::Entry(entry, row))) => {
                    let name = entry.id().map_or("-".to_owned(), ToString::to_string);
                    seen.push(format!("{name}{}", if row.is_some() { "+row" } else { "" }));
                }
                Ok(Some(Step::Absent(row, outcome))) => seen.push(format!("{} {}", row.id, outcome.as_str())),
                Ok(None) => return seen,
                Err(error) => {
                    seen.push(error.to_string());
                    return seen;
                }
            }
        }
    }

    fn unreadable(subject: &str) -> Result<Entry, Error> {
        Ok(Entry::Unusable {
            id: FileId::parse(subject).ok(),
            subject: subject.into(),
            reason: "denied".into(),
            detail: String::new(),
        })
    }

    #[tokio::test]
    async fn rows_beneath_an_unreadable_directory_are_unseen_and_not_gone() {
        let entries = vec![
            Ok(Entry::File(file("a", "v1"))),
            unreadable("d/"),
            Ok(Entry::File(file("d0", "v1"))),
            unreadable("x"),
            Ok(Entry::File(file("z", "v1"))),
        ];
        let rows = ["a", "b", "d/x", "d/y/z", "d0", "e", "x", "zz"];
        let rows = rows.map(|id| row(id, State::Verified, "v1")).to_vec();
        assert_eq!(
            merged(entries, rows).await,
            [
                "a+row",
                "-",
                "b gone",
                "d/x unseen",
                "d/y/z unseen",
                "d0+row",
                "e gone",
                "x+row",
                "z",
                "zz gone"
            ]
        );
    }

    #[tokio::test]
    async fn a_listing_that_broke_off_makes_nothing_gone() {
        let broken = Error::new(ErrorKind::Unavailable, Op::List);
        let entries = vec![Ok(Entry::File(file("a", "v1"))), Err(broken)];
        let rows = ["a", "b", "c"].map(|id| row(id, State::Verified, "v1")).to_vec();
        let seen = merged(entries, rows).await;
        assert!(!seen.iter().any(|step| step.contains("gone")), "{seen:?}");
        assert!(seen.last().unwrap().contains("unavailable"), "{seen:?}");
    }
}
