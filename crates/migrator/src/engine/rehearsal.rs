//! A rehearsal: what a copy or a sync would do, told entry by entry, and nothing written anywhere but temporary files.
//!
//! It goes the way of the run itself, with the same decisions, safeguards and limits: source and ledger are merged, then
//! both sides are walked to their ends. What a run writes into its ledger on the way is told instead. Beyond that it lists
//! the target, which says what would be replaced, what is no longer there to be moved away from, and what stands in the
//! way of a file in a directory. Memory does not grow with the number of files.
//!
//! What shows only when a file is read or written is not foretold: a file that cannot be opened, a full disk, a server
//! that fails.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use futures::stream::{BoxStream, Fuse};
use serde::Serialize;
use storage_core::error::{Error, ErrorKind, Op};
use storage_core::id::{FileId, Prefix};
use storage_core::metadata::FileMetadata;
use storage_core::storage::{Capabilities, FileStorage, ListOptions};

use crate::collide::Nesting;
use crate::course::{MAX_WITHHELD, Named};
use crate::item::State;
use crate::ledger::{Count, Outcome, Withheld};
use crate::plan::{Decision, Gate, Obstacle, SAME_NAME, Step, decide};
use crate::quarantine;
use crate::safeguard::{Judgement, Refusal, View, judge};
use crate::scan::Entry;

use super::delete::survey::{BENEATH_FOREIGN, Findings, Found, Survey};
use super::sync::{Removal, refuse_other_place};
use super::{CopyOptions, EngineError, Job, clashes, memory, open_merge, refuse_empty_source};

/// What would be done with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Copied to where the target has nothing.
    Copy,
    /// Copied over what the target has.
    Replace,
    /// Read back and compared; nothing is sent.
    Compare,
    /// Moved from the source to its quarantine.
    MoveAway,
    /// Moved to the target's quarantine.
    Quarantine,
    /// Deleted from the target at once.
    Delete,
    /// Left in the target, as the source has something there that is no file.
    Keep,
    /// Left alone: no file.
    Skip,
    /// It would fail.
    Fail,
}

impl Action {
    /// Returns the name that is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Replace => "replace",
            Self::Compare => "compare",
            Self::MoveAway => "move_away",
            Self::Quarantine => "quarantine",
            Self::Delete => "delete",
            Self::Keep => "keep",
            Self::Skip => "skip",
            Self::Fail => "fail",
        }
    }
}

/// What would become of one entry. Unchanged files are counted, not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Foretold<'f> {
    /// What would be done.
    pub action: Action,
    /// The id, or the escaped path.
    pub subject: &'f str,
    /// In bytes, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// A stable word, where there is a reason.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: &'f str,
    /// The reason in full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'f str>,
}

/// Takes what is foretold.
pub type Tell<'t> = &'t mut (dyn FnMut(&Foretold<'_>) + Send);

/// What a run would do, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Rehearsed {
    /// Entries by what would be done. Where the removal is withheld, what is to be removed is counted and stays.
    pub actions: BTreeMap<Action, Count>,
    /// Files that need nothing.
    pub unchanged: Count,
    /// Files that the filter leaves out.
    pub excluded: Count,
    /// Files in the ledger that are no longer in the source.
    pub gone: Count,
    /// Files in the ledger in a part of the source that cannot be read.
    pub unseen: Count,
    /// Files of the target that a removal is about.
    pub target: u64,
    /// Those that are in the target only.
    pub candidates: u64,
    /// How many of them may be removed at most; nothing without a removal.
    pub limit: Option<u64>,
    /// Why none of them would be removed, where it is so.
    pub withheld: Option<Withheld>,
    /// The safeguard that would refuse.
    #[serde(skip)]
    pub refusal: Option<Refusal>,
}

impl Rehearsed {
    fn tell(&mut self, tell: Tell<'_>, foretold: &Foretold<'_>) {
        self.actions.entry(foretold.action).or_default().add(foretold.size.unwrap_or(0));
        tell(foretold);
    }

    /// Returns how often something would be done.
    pub fn count(&self, action: Action) -> Count {
        self.actions.get(&action).copied().unwrap_or_default()
    }
}

/// Foretells a copy, or, with a removal, a sync that removes. `remembered` is what the ledger knows of the target, which
/// is not asked what it can do.
///
/// # Errors
/// Those with which the run itself would end before it began: [`EngineError::EmptySource`], [`EngineError::NothingThere`],
/// [`EngineError::Refused`], a rule that the target cannot keep. [`EngineError::Source`], [`EngineError::Target`] and
/// [`EngineError::Ledger`] where one of them cannot be read. What would be refused after the copy is in the answer.
pub async fn rehearse(
    job: &Job,
    options: &CopyOptions,
    removal: Option<&Removal>,
    remembered: Option<&Capabilities>,
    tell: Tell<'_>,
) -> Result<Rehearsed, EngineError> {
    if let Some(removal) = removal {
        refuse_other_place(job, removal).await?;
        memory::check(job).await?;
    }
    if let Some(target) = remembered {
        options.rules.check(target).map_err(|error| {
            EngineError::Target(
                Error::new(ErrorKind::Unsupported, Op::Upload).with_message(error.to_string()),
            )
        })?;
    }
    let mut rehearsed = Rehearsed::default();
    let source_complete = copying(job, options, removal, tell, &mut rehearsed).await?;
    if let Some(removal) = removal {
        let view = survey(job, removal, |foretold| rehearsed.tell(tell, foretold)).await?;
        let mut view = view.after_copy(source_complete, rehearsed.count(Action::Fail).files);
        // The copy comes first, and limits are shares of what is there then.
        view.target += rehearsed.count(Action::Copy).files;
        (rehearsed.target, rehearsed.candidates) = (view.target, view.candidates);
        rehearsed.limit = Some(removal.limit.of(view.target));
        if let Judgement::Withhold(withheld) = judge(&view, removal.limit, options.allow_empty_source) {
            rehearsed.withheld = Some(withheld);
            rehearsed.refusal = Refusal::of(withheld, &view, removal.limit);
        }
    }
    Ok(rehearsed)
}

/// Foretells the copy; tells whether the source was seen as a whole.
async fn copying(
    job: &Job,
    options: &CopyOptions,
    removal: Option<&Removal>,
    tell: Tell<'_>,
    rehearsed: &mut Rehearsed,
) -> Result<bool, EngineError> {
    let mut merge = open_merge(job);
    if !options.allow_empty_source {
        refuse_empty_source(&mut merge, job).await.map_err(|error| with_removal(error, removal))?;
    }
    let clashes = clashes(&*job.source, &*job.ledger, &job.filter, job.folding).await?;
    let capabilities = job.target.capabilities();
    let mut target = InTarget::new(&*job.target, &capabilities);
    let mut gate = Gate::new(capabilities, clashes);
    let folding = job.folding.any();
    let mut usable = true;
    while let Some(step) = merge.next().await? {
        match step {
            Step::Entry(Entry::File(file), row) => {
                let decision = decide(&file, row.as_deref());
                let (subject, size) = (file.id.as_str(), Some(file.size));
                let stored = target.at(&file.id).await?;
                let sent = !matches!(decision, Decision::Unchanged | Decision::Confirm);
                let mut refused = gate.refuses(&file, decision);
                if refused.is_none() && sent && stored.is_none() {
                    refused = target.in_the_way(&file.id).await;
                }
                if let Some((reason, detail)) = refused {
                    rehearsed.tell(tell, &fail(subject, size, reason, &detail));
                    continue;
                }
                let alias = stored.is_none() && sent && folding && target.takes_for_another(&file.id).await;
                let action = match decision {
                    Decision::Unchanged => None,
                    Decision::Confirm => Some(Action::Compare),
                    _ if stored.is_some() || alias => Some(Action::Replace),
                    _ => Some(Action::Copy),
                };
                match action {
                    None => rehearsed.unchanged.add(file.size),
                    Some(action) => {
                        let reason = if alias { SAME_NAME } else { "" };
                        rehearsed.tell(tell, &Foretold { action, subject, size, reason, detail: None });
                    }
                }
                let Some(retirement) = &options.retirement else { continue };
                if !retirement.attic.takes(&file.id) {
                    continue;
                }
                let foretold = match (sent, stored) {
                    (false, None) => {
                        let detail = "it stays in the source: the target no longer has its copy";
                        fail(subject, size, "missing", detail)
                    }
                    _ => Foretold { action: Action::MoveAway, subject, size, reason: "", detail: None },
                };
                rehearsed.tell(tell, &foretold);
            }
            Step::Entry(Entry::Excluded(file, _), _) => rehearsed.excluded.add(file.size),
            Step::Entry(Entry::Foreign { subject, reason, .. }, _) => {
                let (action, subject, reason) = (Action::Skip, subject.as_str(), reason.as_str());
                rehearsed.tell(tell, &Foretold { action, subject, size: None, reason, detail: None });
            }
            Step::Entry(Entry::Unusable { subject, reason, detail, .. }, _) => {
                usable = false;
                rehearsed.tell(tell, &fail(&subject, None, &reason, &detail));
            }
            Step::Absent(row, _) if matches!(row.state, State::Gone | State::Retired) => {}
            Step::Absent(row, Outcome::Unseen) => rehearsed.unseen.add(row.size),
            Step::Absent(row, _) => rehearsed.gone.add(row.size),
        }
    }
    Ok(usable)
}

fn fail<'f>(subject: &'f str, size: Option<u64>, reason: &'f str, detail: &'f str) -> Foretold<'f> {
    Foretold { action: Action::Fail, subject, size, reason, detail: Some(detail) }
}

/// Foretells the removal.
async fn survey(
    job: &Job,
    removal: &Removal,
    mut tell: impl FnMut(&Foretold<'_>) + Send,
) -> Result<View, EngineError> {
    let action = if removal.quarantine.is_zero() { Action::Delete } else { Action::Quarantine };
    let mut tell = |found: Found<'_>| {
        let (action, file, reason) = match found {
            Found::Candidate(file) => (action, file, ""),
            Found::BeneathForeign(file) => (Action::Keep, file, BENEATH_FOREIGN),
        };
        let (subject, size) = (file.id.as_str(), Some(file.size));
        tell(&Foretold { action, subject, size, reason, detail: None });
    };
    Survey { job, removal, findings: Findings::Told(&mut tell) }.walk().await
}

/// What a sync that was refused before it began would have removed: how many files, and the first of them by name.
///
/// # Errors
/// As for [`rehearse`].
pub async fn would_remove(job: &Job, removal: &Removal) -> Result<(u64, Vec<Named>), EngineError> {
    let mut first = Vec::new();
    let tell = |foretold: &Foretold<'_>| {
        if first.len() < MAX_WITHHELD && foretold.action != Action::Keep {
            first.push(Named { id: foretold.subject.to_owned(), size: foretold.size.unwrap_or(0) });
        }
    };
    let view = survey(job, removal, tell).await?;
    Ok((view.candidates, first))
}

/// What accepting an empty source would cost is for whoever asks to know.
pub(super) fn with_removal(error: EngineError, removal: Option<&Removal>) -> EngineError {
    match error {
        EngineError::EmptySource { files, .. } => {
            EngineError::EmptySource { files, removal: removal.cloned() }
        }
        other => other,
    }
}

/// What the target has, beside the source and in step with it.
pub(super) struct InTarget<'t> {
    storage: &'t dyn FileStorage,
    files: Fuse<BoxStream<'static, Result<FileMetadata, Error>>>,
    next: Option<FileMetadata>,
    /// The target's files that others cannot lie beneath, where the target is one that cannot have them so.
    nesting: Option<Nesting>,
    /// Whether it has anything.
    any: bool,
}

impl<'t> InTarget<'t> {
    pub(super) fn new(storage: &'t dyn FileStorage, capabilities: &Capabilities) -> Self {
        let files = storage.list(&Prefix::all(), ListOptions::default()).fuse();
        let nesting = (!capabilities.nested_ids).then(Nesting::default);
        Self { storage, files, next: None, nesting, any: false }
    }

    /// Returns what the target has under this id; ids must ascend.
    pub(super) async fn at(&mut self, id: &FileId) -> Result<Option<FileMetadata>, EngineError> {
        loop {
            if self.next.is_none() {
                match self.files.next().await {
                    None => return Ok(None),
                    Some(Ok(file)) => {
                        self.any = true;
                        self.next = Some(file);
                    }
                    // One entry cannot be read: whether it is in the way is not known.
                    Some(Err(error)) if error.id().is_some() || error.subject().is_some() => continue,
                    Some(Err(error)) => return Err(EngineError::Target(error)),
                }
            }
            match &self.next {
                Some(file) if file.id > *id => return Ok(None),
                Some(file) if file.id == *id => return Ok(self.next.take()),
                Some(file) => {
                    if let Some(nesting) = &mut self.nesting
                        && !quarantine::holds(&file.id)
                    {
                        nesting.above(&file.id);
                    }
                    self.next = None;
                }
                None => {}
            }
        }
    }

    /// Tells whether the target takes another name of its own for this one, of which [`at`](Self::at) found nothing.
    pub(super) async fn takes_for_another(&self, id: &FileId) -> bool {
        self.any && self.storage.metadata(id).await.is_ok()
    }

    /// Says what keeps a directory from taking a file of this id, of which [`at`](Self::at) found nothing.
    pub(super) async fn in_the_way(&self, id: &FileId) -> Option<Obstacle> {
        let nesting = self.nesting.as_ref().filter(|_| self.any)?;
        if let Some(above) = nesting.over(id) {
            let detail = format!("the target has the file \"{}\" above it", above.as_str().escape_debug());
            return Some((ErrorKind::Conflict.as_str(), detail));
        }
        let conflict = |detail: String| Some((ErrorKind::Conflict.as_str(), detail));
        match self.storage.metadata(id).await {
            Err(error) if matches!(error.kind(), ErrorKind::NotAFile | ErrorKind::Conflict) => {
                return conflict(format!("the target has something there that is no file: {error}"));
            }
            _ => {}
        }
        // The listing is just behind the id: nothing that begins like it, and nothing is beneath it.
        self.next.as_ref().filter(|next| next.id.as_str().starts_with(id.as_str()))?;
        let beneath = Prefix::parse(format!("{id}/")).ok()?;
        let first = self.storage.list(&beneath, ListOptions::default()).next().await?;
        let first = first
            .map_or_else(|_| String::new(), |file| format!(", with \"{}\"", file.id.as_str().escape_debug()));
        conflict(format!("the target has a directory there{first}"))
    }
}
