//! What a fallback tells: events as they happen, and the report of a heal.

use std::fmt;
use std::sync::Arc;

use super::super::breaker::State;
use super::entry::Entry;
use crate::checksum::Digest;
use crate::error::{Error, Op};
use crate::id::FileId;
use crate::metadata::Version;

/// Something that an operator may want to know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum FallbackEvent {
    /// The breaker of a side changed.
    Circuit {
        /// The side's name.
        storage: String,
        /// Its state now.
        state: State,
    },
    /// A write was acknowledged that the primary has not got.
    Degraded {
        /// The file.
        id: FileId,
        /// What was done to it.
        op: Op,
    },
    /// Both sides agree again about a file.
    Healed {
        /// The file.
        id: FileId,
    },
    /// A write could not be replayed, as somebody else wrote there. Both are kept.
    Conflict(Conflict),
    /// A file could not be healed this time.
    HealFailed {
        /// The file.
        id: FileId,
        /// Why.
        error: Arc<Error>,
    },
}

/// Two writes of one id that do not know of each other. The secondary keeps ours, which is what callers of this
/// storage are served; the primary keeps theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conflict {
    /// The file.
    pub id: FileId,
    /// What was found.
    pub reason: String,
    /// The digest of ours; nothing where ours is a deletion.
    pub ours: Option<Digest>,
    /// The primary's version; nothing where theirs is a deletion, or the primary tells no versions.
    pub theirs: Option<Version>,
}

impl Conflict {
    pub(super) fn of(entry: &Entry) -> Option<Self> {
        let clash = entry.clash.as_ref()?;
        Some(Self {
            id: entry.id.clone(),
            reason: clash.reason.clone(),
            ours: entry.file().map(|file| file.digest),
            theirs: clash.theirs.clone(),
        })
    }
}

/// Which of two conflicting writes is to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// That of this storage's callers: it replaces what was found on the primary, if that is still there.
    Ours,
    /// The primary's.
    Theirs,
}

/// What [`heal`](super::FallbackStorage::heal) did.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct HealReport {
    /// Files brought to the primary.
    pub healed: u64,
    /// Deletions brought to the primary.
    pub deleted: u64,
    /// Copies on the secondary brought up to date, or removed where nothing needs them.
    pub refreshed: u64,
    /// Writes that could not be replayed, those of earlier heals among them.
    pub conflicts: Vec<Conflict>,
    /// Files that failed, each with its reason. They are tried again.
    pub failed: Vec<(FileId, Error)>,
    /// What is still in the journal, conflicts and failures among them.
    pub left: usize,
    /// The outage of the primary that ended it early.
    pub stopped: Option<Error>,
    /// The outage of the secondary, without which nothing but deletions can be healed: the rest was left as it is.
    pub waiting: Option<Error>,
}

impl HealReport {
    /// Tells whether both sides agree about every file.
    pub fn is_complete(&self) -> bool {
        self.left == 0
    }
}

type Observer = Arc<dyn Fn(&FallbackEvent) + Send + Sync>;

/// Whom to tell.
#[derive(Clone, Default)]
pub(super) struct Events(Option<Observer>);

impl Events {
    pub(super) fn to(observer: impl Fn(&FallbackEvent) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(observer)))
    }

    pub(super) fn tell(&self, event: FallbackEvent) {
        if let Some(observer) = &self.0 {
            observer(&event);
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Events(observed)" } else { "Events" })
    }
}
