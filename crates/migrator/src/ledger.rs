//! The durable book of a migration: one row per file, one journal of outcomes per run.
//!
//! Every answer of [`Ledger::record`] means *durable*: a power cut after it forgets nothing. State changes are
//! compare-and-set along [`item::next`](crate::item::next): a change that finds the file in a state it cannot
//! happen in is [`Recorded::Stale`], a value and not an error.

#[cfg(test)]
mod conformance;
pub mod sqlite;

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use storage_core::checksum::{CompositeDigest, Digest};
use storage_core::id::FileId;
use storage_core::metadata::Version;
use storage_core::storage::{Capabilities, PartReceipt, UploadTicket, Verified};

use crate::course::Course;
use crate::item::State;
use crate::subset::Subset;

/// The ledger's result.
pub type Result<T, E = LedgerError> = std::result::Result<T, E>;

/// What a ledger cannot do, in words for whoever runs the tool.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// Another process works with this ledger.
    #[error("the ledger {location} is in use by {holder}")]
    Locked {
        /// The ledger.
        location: String,
        /// Who holds it: host, process id, since when.
        holder: String,
    },
    /// The ledger belongs to another pair of storages.
    #[error("the ledger {location} belongs to {found}, not to {asked}")]
    OtherPair {
        /// The ledger.
        location: String,
        /// What the ledger says.
        found: Binding,
        /// What was asked for.
        asked: Binding,
    },
    /// A later release wrote the ledger.
    #[error(
        "the ledger {location} has schema version {found}, this release knows versions up to {supported}"
    )]
    Newer {
        /// The ledger.
        location: String,
        /// What the ledger says.
        found: u32,
        /// What this release supports.
        supported: u32,
    },
    /// There is no ledger, and the command does not make one.
    #[error("there is no ledger at {location}")]
    Missing {
        /// Where it was looked for.
        location: String,
    },
    /// The file is no ledger, or a damaged one.
    #[error("the ledger {location} cannot be read: {reason}")]
    Corrupt {
        /// The ledger.
        location: String,
        /// What the database says.
        reason: String,
    },
    /// The ledger, or its directory, cannot be written.
    #[error("the ledger {location} cannot be written: {reason}")]
    ReadOnly {
        /// The ledger.
        location: String,
        /// What the database says.
        reason: String,
    },
    /// The disk under the ledger is full.
    #[error("no space left for the ledger {location}")]
    Full {
        /// The ledger.
        location: String,
    },
    /// Anything else.
    #[error("the ledger {location} failed: {reason}")]
    Other {
        /// The ledger.
        location: String,
        /// What the database says.
        reason: String,
    },
}

/// The pair of storages that a ledger is about. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Describes the source so that the same place is the same text: an absolute path, a bucket with endpoint
    /// and prefix.
    pub source: String,
    /// Describes the target likewise.
    pub target: String,
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.source, self.target)
    }
}

/// Number of a run within its ledger, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub i64);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunKind {
    /// Copies files.
    Copy,
    /// Compares source, ledger and target.
    Verify,
    /// Copies files, and removes from the target what the source no longer has.
    Sync,
}

impl RunKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Copy, Self::Verify, Self::Sync];

    /// Returns the name that the ledger stores and reports show.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Verify => "verify",
            Self::Sync => "sync",
        }
    }
}

/// Why a sync that was to remove files removed none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Withheld {
    /// A file failed to be copied.
    CopyFailed,
    /// A part of the source could not be read.
    SourceIncomplete,
    /// A part of the target could not be read.
    TargetIncomplete,
    /// The source has no entry.
    SourceEmpty,
    /// More files than the limit allows.
    TooMany,
}

impl Withheld {
    /// Tells whether a safeguard refused, which an option can allow; else the view was incomplete, which none can.
    pub const fn is_refusal(self) -> bool {
        matches!(self, Self::SourceEmpty | Self::TooMany)
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunEnd {
    /// It saw everything and did what it was to do; single files may have failed.
    Complete,
    /// It was asked to stop.
    Interrupted,
    /// It could not go on.
    Aborted,
}

/// What only the run itself can count; the rest is counted from its outcomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// Entries that were to be dealt with: files, and entries that cannot be one.
    pub planned: u64,
    /// Bytes of the planned files.
    pub planned_bytes: u64,
    /// Files that needed nothing.
    pub unchanged: u64,
    /// Bytes of those.
    pub unchanged_bytes: u64,
    /// Files left out by filters; not planned.
    pub excluded: u64,
    /// Bytes read: from the source, and of the target where it is read back. Failed attempts included.
    pub bytes_read: u64,
    /// Bytes that the target took, failed attempts included.
    pub bytes_sent: u64,
    /// Parts sent.
    pub parts_sent: u64,
    /// Parts found stored by an earlier run and not sent again.
    pub parts_resumed: u64,
    /// Attempts beyond the first, over all files.
    pub retries: u64,
    /// The part of all files that an audit was about; nothing: all.
    pub subset: Option<Subset>,
    /// Sync: files that are in the target only and were to be removed; each has an outcome, unless they were withheld.
    pub candidates: u64,
    /// Sync: why none of them was removed, where it is so.
    pub withheld: Option<Withheld>,
    /// Whether the run was to move source files to quarantine: noted before the first of them.
    pub retires: bool,
    /// Source files that were moved to quarantine, of those that were copied or unchanged.
    pub retired: u64,
    /// Bytes of those.
    pub retired_bytes: u64,
}

/// One execution of copy, verify or sync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Its number.
    pub id: RunId,
    /// What it does.
    pub kind: RunKind,
    /// When it began.
    pub started: Timestamp,
    /// When it ended; nothing while it runs, or when it was killed.
    pub finished: Option<Timestamp>,
    /// How it ended.
    pub end: Option<RunEnd>,
    /// What it counted.
    pub tally: Tally,
    /// The last id that the scan has seen; nothing before the first. Files behind it were not reached.
    pub scanned_to: Option<FileId>,
    /// Whether the scan saw the end of the source without an error.
    pub scan_complete: bool,
    /// Version of the program.
    pub program: String,
}

/// What became of one entry in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Copied and verified.
    Copied,
    /// Needed nothing. Not kept per file: everything verified that has no other outcome in the run.
    Unchanged,
    /// Not copied, for a reason that is no failure (a symbolic link, a fifo).
    Skipped,
    /// Not copied although it should have been.
    Failed,
    /// In the ledger and no longer in the source.
    Gone,
    /// In the ledger, and in a part of the source that could not be read.
    Unseen,
    /// In the ledger, and left out by this run's filters.
    Excluded,
    /// Audit: source, ledger and target agree. Not kept per file.
    Matched,
    /// Audit: not in the target.
    Missing,
    /// Audit: the target's bytes are not those of the source.
    Different,
    /// Audit: in the target, and neither in the source nor in the ledger.
    Extra,
    /// Audit: in the target, and nothing proves its bytes.
    Unverified,
    /// Audit: the source changed after it was copied.
    Outdated,
    /// Sync: was in the target only, and was moved to the quarantine there.
    Quarantined,
    /// Sync: was in the target only, and was deleted at once.
    Deleted,
    /// Sync: is in the target only, and could not be removed, or is no longer what the scan saw.
    NotDeleted,
    /// Sync: is in the target only, and stays: it lies where the source now has something that is no file.
    Kept,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Self; 17] = [
        Self::Copied,
        Self::Unchanged,
        Self::Skipped,
        Self::Failed,
        Self::Gone,
        Self::Unseen,
        Self::Excluded,
        Self::Matched,
        Self::Missing,
        Self::Different,
        Self::Extra,
        Self::Unverified,
        Self::Outdated,
        Self::Quarantined,
        Self::Deleted,
        Self::NotDeleted,
        Self::Kept,
    ];

    /// Returns the name that the ledger stores and reports show.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Copied => "copied",
            Self::Unchanged => "unchanged",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
            Self::Gone => "gone",
            Self::Unseen => "unseen",
            Self::Excluded => "excluded",
            Self::Matched => "matched",
            Self::Missing => "missing",
            Self::Different => "different",
            Self::Extra => "extra",
            Self::Unverified => "unverified",
            Self::Outdated => "outdated",
            Self::Quarantined => "quarantined",
            Self::Deleted => "deleted",
            Self::NotDeleted => "not_deleted",
            Self::Kept => "kept",
        }
    }

    /// Tells whether something was to be done and was not: a file not copied, not seen, not removed.
    pub const fn is_left_undone(self) -> bool {
        matches!(self, Self::Failed | Self::Unseen | Self::NotDeleted)
    }
}

/// A line of a run's journal. A later one for the same subject in the same run replaces it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeRecord {
    /// The id; or, for an entry that has none, its path with odd bytes escaped: it begins with `./` or ends in
    /// `/`, as no id does.
    pub subject: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Why: a stable word (`symbolic link`, `name_not_utf8`, an error kind), empty for success.
    pub reason: String,
    /// The error in full, for a reader.
    pub detail: Option<String>,
    /// Size in bytes, where known.
    pub size: Option<u64>,
    /// SHA-256, where known.
    pub digest: Option<Digest>,
    /// Who compared the target's bytes.
    pub verified: Option<Verified>,
    /// Attempts in this run.
    pub attempts: u32,
    /// When.
    pub at: Timestamp,
}

/// An attempt at a file that failed and was followed by another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// In this run.
    pub run: RunId,
    /// Its number in the run, from 1.
    pub number: u32,
    /// Why it failed: a stable word.
    pub reason: String,
    /// The error in full.
    pub detail: String,
    /// When.
    pub at: Timestamp,
}

/// A proof of a run that was handed out: the next one names its head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofRecord {
    /// The run.
    pub run: RunId,
    /// Head of the proof before it, where there was one.
    pub previous: Option<Digest>,
    /// Hash of its last line.
    pub head: Digest,
    /// When it was made.
    pub at: Timestamp,
}

/// The row of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRecord {
    /// The file.
    pub id: FileId,
    /// Where it stands.
    pub state: State,
    /// Size in bytes of the source when it was last intended.
    pub size: u64,
    /// The source's identity when it was last intended.
    pub source_version: Version,
    /// SHA-256 of the source's bytes, once published.
    pub digest: Option<Digest>,
    /// Composite of the parts, where it was sent in parts.
    pub composite: Option<CompositeDigest>,
    /// The target's version, once published.
    pub target_version: Option<Version>,
    /// Who compared the target's bytes, once verified.
    pub verified: Option<Verified>,
    /// The open multipart upload, while there is one.
    pub ticket: Option<UploadTicket>,
    /// Intents since the file was last verified.
    pub attempts: u32,
    /// Why it failed or is damaged.
    pub error: Option<String>,
    /// Where the source's file went when it was moved to quarantine, as long as no newer version was published.
    pub retired: Option<String>,
    /// The run that last changed the row.
    pub run: RunId,
    /// When the row last changed.
    pub updated: Timestamp,
}

/// What the target published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// SHA-256 of the source's bytes.
    pub digest: Digest,
    /// Composite of the parts, where it was sent in parts.
    pub composite: Option<CompositeDigest>,
    /// The target's version.
    pub target_version: Option<Version>,
    /// [`Verified::No`] leads to `Copied`; anything else to `Verified`, and is the file's outcome.
    pub verified: Verified,
}

/// A change of one file, and what it means for the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// `Copying` from now on, with this size and identity. Keeps an open upload's ticket and parts only if the
    /// row's size and identity are the same; a ticket that is dropped here goes to [`Ledger::orphans`]. What was
    /// published before (digest, composite, target's version, verifier) and the error are forgotten: the journal
    /// has them.
    Intend {
        /// The file.
        id: FileId,
        /// In bytes.
        size: u64,
        /// The source's identity.
        source_version: Version,
    },
    /// A multipart upload began. Another that was open goes to [`Ledger::orphans`], and its parts are forgotten.
    UploadBegun {
        /// The file, size of parts, the storage's name of the upload.
        ticket: UploadTicket,
    },
    /// A part is stored; the same number again replaces it. Stale where no upload is open.
    PartStored {
        /// The file.
        id: FileId,
        /// The part, with its digest.
        part: PartReceipt,
    },
    /// The open upload is no more: its ticket and parts are forgotten.
    UploadEnded {
        /// The file.
        id: FileId,
    },
    /// The target published the file; ticket and parts are forgotten. When verified, journals `Copied`.
    Published {
        /// The file.
        id: FileId,
        /// What the target published.
        published: Published,
        /// Attempts in this run.
        attempts: u32,
    },
    /// Intent and publication in one step, for a file that has no row and was sent in one request: what a kill in
    /// between would leave is a file that the ledger does not know, which is copied again. Stale where there is a
    /// row. When verified, journals `Copied`.
    Arrived {
        /// The file.
        id: FileId,
        /// In bytes.
        size: u64,
        /// The source's identity.
        source_version: Version,
        /// What the target published.
        published: Published,
        /// Attempts in this run.
        attempts: u32,
    },
    /// The target's bytes were compared and are right. In a copy run, journals `Copied`.
    Confirmed {
        /// The file.
        id: FileId,
        /// By whom.
        by: Verified,
        /// Attempts in this run; nothing in an audit, which journals no match.
        attempts: Option<u32>,
    },
    /// An attempt failed and another follows: kept for whoever asks what happened to the file. Never stale.
    Tried {
        /// The file.
        id: FileId,
        /// The attempt that failed, from 1.
        number: u32,
        /// A stable word.
        reason: String,
        /// The error in full.
        detail: String,
    },
    /// This run gives up on the file; journals `Failed`. An open upload stays, to be resumed, and what is
    /// published stays `Copied`, to be compared.
    Failed {
        /// The file.
        id: FileId,
        /// A stable word.
        reason: String,
        /// The error in full.
        detail: String,
        /// Attempts in this run.
        attempts: u32,
    },
    /// An audit found it so; journals `outcome`, which is `Missing` or `Different`.
    Damaged {
        /// The file.
        id: FileId,
        /// `Missing` or `Different`.
        outcome: Outcome,
        /// The finding in full.
        detail: String,
    },
    /// The source no longer has it; journals `Gone`. An open upload's ticket goes to [`Ledger::orphans`]. A file whose
    /// source was moved away, and of which no newer version was published since, is `Retired` again and not `Gone`:
    /// the target may hold the only copy.
    Gone {
        /// The file.
        id: FileId,
    },
    /// The source's file is about to be moved to quarantine. Journals nothing: that it was moved is for the caller to
    /// say.
    Retired {
        /// The file.
        id: FileId,
        /// Where it will be.
        place: String,
    },
    /// The source's file was not moved: `Verified` again. Stale where an audit has found the target's copy to be
    /// wrong meanwhile. Journals nothing.
    Returned {
        /// The file.
        id: FileId,
    },
    /// Only a line in the journal: an entry that is skipped, cannot be a file, or was found in an audit.
    Noted(OutcomeRecord),
}

/// Whether a change took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It is durable.
    Done,
    /// The file is in a state in which the change cannot happen; nothing was changed.
    Stale,
}

/// Number and bytes of files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Number.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Count {
    /// Adds a file.
    pub fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// A file of the target that a sync means to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The file.
    pub id: FileId,
    /// In bytes.
    pub size: u64,
    /// The target's version that was seen, where the target has versions.
    pub version: Option<Version>,
    /// Whether the filter leaves it out: then the source may have it all the same.
    pub excluded: bool,
}

/// Which files [`Ledger::files`] yields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileFilter {
    /// Only these states; empty: all.
    pub states: Vec<State>,
    /// Only ids behind this one.
    pub after: Option<FileId>,
}

/// The durable book of a migration.
#[async_trait]
pub trait Ledger: fmt::Debug + Send + Sync + 'static {
    /// Returns where it is, for messages. Holds no secret.
    fn location(&self) -> &str;

    /// Returns the pair of storages it is about.
    fn binding(&self) -> &Binding;

    /// Begins a run. Runs that a kill left open are closed as [`RunEnd::Aborted`]: their outcomes stay.
    async fn begin_run(&self, kind: RunKind, program: &str) -> Result<RunId>;

    /// Notes how far the run is: its tally and the last id its scan has seen; with no id, the one noted before
    /// stays.
    ///
    /// # Errors
    /// [`LedgerError::Other`]: the run is not open.
    async fn checkpoint(&self, run: RunId, tally: Tally, scanned_to: Option<FileId>) -> Result<()>;

    /// Ends a run.
    ///
    /// # Errors
    /// [`LedgerError::Other`]: the run is not open.
    async fn finish_run(&self, run: RunId, end: RunEnd, tally: Tally, scan_complete: bool) -> Result<()>;

    /// Returns a run, or the latest.
    async fn run(&self, run: Option<RunId>) -> Result<Option<RunRecord>>;

    /// Returns the latest runs, or the latest of those that began before a time, latest first.
    async fn runs(&self, limit: u32, before: Option<Timestamp>) -> Result<Vec<RunRecord>>;

    /// Makes changes durable, in order, and answers for each. All of one call become durable together or not
    /// at all; calls made at the same time share one commit. A call that is dropped may have taken effect.
    ///
    /// # Errors
    /// [`LedgerError::Other`]: the run is not open, so that no outcome is added to a run that was reported; or a
    /// change contradicts itself (confirmed by [`Verified::No`], damaged and neither `Missing` nor `Different`).
    async fn record(&self, run: RunId, changes: Vec<Change>) -> Result<Vec<Recorded>>;

    /// Returns the row of a file.
    async fn file(&self, id: &FileId) -> Result<Option<FileRecord>>;

    /// Yields rows in ascending byte order of ids, reading ahead a bounded number.
    fn files(&self, filter: FileFilter) -> BoxStream<'static, Result<FileRecord>>;

    /// Returns the recorded parts of a file's open upload, by number.
    async fn parts(&self, id: &FileId) -> Result<Vec<PartReceipt>>;

    /// Returns uploads that were begun and are no longer wanted: to be abandoned, then forgotten.
    async fn orphans(&self) -> Result<Vec<UploadTicket>>;

    /// Forgets an orphan.
    async fn forget_orphan(&self, ticket: &UploadTicket) -> Result<()>;

    /// Yields a run's journal in ascending byte order of subjects.
    fn outcomes(&self, run: RunId) -> BoxStream<'static, Result<OutcomeRecord>>;

    /// Yields the lines of a run's journal that say [`Outcome::is_left_undone`], in ascending byte order of subjects. The
    /// others are not read into memory.
    fn left_undone(&self, run: RunId) -> BoxStream<'static, Result<OutcomeRecord>>;

    /// Counts a run's journal.
    async fn outcome_counts(&self, run: RunId) -> Result<BTreeMap<Outcome, Count>>;

    /// Counts the entries that failed in a run and of which the ledger has no row, as no file could be made of them: a name
    /// that the target cannot have, a directory that cannot be read. No count of states has them.
    async fn unrecorded(&self, run: RunId) -> Result<Count>;

    /// Counts a run's journal by outcome and reason, most frequent first.
    async fn reason_counts(&self, run: RunId) -> Result<Vec<(Outcome, String, u64)>>;

    /// Returns what every run noted of one subject, oldest first.
    async fn history(&self, subject: &str) -> Result<Vec<(RunId, OutcomeRecord)>>;

    /// Returns the attempts at a file that were followed by another, oldest first.
    async fn attempts(&self, id: &FileId) -> Result<Vec<Attempt>>;

    /// Notes how a run goes; a later note replaces the earlier.
    ///
    /// # Errors
    /// [`LedgerError::Other`]: the run is not open.
    async fn note_course(&self, run: RunId, course: Course) -> Result<()>;

    /// Returns how a run went; nothing where nobody noted it.
    async fn course(&self, run: RunId) -> Result<Option<Course>>;

    /// Notes the proof of a run that ended. The first one stays: a later one is [`Recorded::Stale`].
    async fn note_proof(&self, run: RunId, previous: Option<Digest>, head: Digest) -> Result<Recorded>;

    /// Returns the proof of a run, or, with no run, the latest; nothing where none was handed out.
    async fn proof(&self, run: Option<RunId>) -> Result<Option<ProofRecord>>;

    /// Counts the files by state.
    async fn state_counts(&self) -> Result<BTreeMap<State, Count>>;

    /// Forgets all candidates of an earlier sync.
    async fn clear_candidates(&self) -> Result<()>;

    /// Keeps candidates, all or none; one of the same id is replaced.
    async fn add_candidates(&self, candidates: Vec<Candidate>) -> Result<()>;

    /// Yields the candidates in ascending byte order of ids, reading ahead a bounded number.
    fn candidates(&self) -> BoxStream<'static, Result<Candidate>>;

    /// Returns the file system that the source is known to be on; nothing before the first
    /// [`set_source_place`](Self::set_source_place).
    async fn source_place(&self) -> Result<Option<String>>;

    /// Keeps the file system that the source is on.
    async fn set_source_place(&self, place: &str) -> Result<()>;

    /// Returns what the target was found capable of when it was last asked; nothing before the first
    /// [`set_target_capabilities`](Self::set_target_capabilities).
    async fn target_capabilities(&self) -> Result<Option<Capabilities>>;

    /// Keeps what the target was found capable of.
    async fn set_target_capabilities(&self, capabilities: &Capabilities) -> Result<()>;
}
