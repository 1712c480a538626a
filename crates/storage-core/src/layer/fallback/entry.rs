//! What the journal says of an id, and what follows from it. Values only: nothing here does anything.

use std::time::{Duration, SystemTime};

use crate::checksum::Digest;
use crate::id::FileId;
use crate::metadata::{FileMetadata, Tags, Version};
use crate::storage::{Precondition, UploadOptions};

/// Own writes that are remembered per id; an older one that comes to light is a conflict, which loses nothing.
const MOST_OURS: usize = 64;

/// Marks the versions of files that are served from the secondary.
const SECONDARY: &str = "secondary:";
/// Marks those of the primary where they look like one of the marks (one fallback within another).
const PRIMARY: &str = "primary:";

/// What the primary held before the first write that it missed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// This process had not seen the id lately.
    Unseen(Trace),
    /// Nothing.
    Absent,
    /// This version.
    Version(Version),
}

impl Default for Base {
    fn default() -> Self {
        Self::Unseen(Trace::default())
    }
}

/// By what a file that was not seen shows that it was there before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trace {
    /// Not stored later than this, by the primary's own clock: before the write began that it missed.
    pub(super) before: Option<SystemTime>,
    /// What a replica held of it, of the two the same.
    pub(super) digest: Option<Digest>,
}

/// A file on the secondary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) size: u64,
    pub(super) digest: Digest,
    pub(super) content_type: Option<String>,
    pub(super) file_name: Option<String>,
    pub(super) created: Option<SystemTime>,
    pub(super) tags: Tags,
    /// The secondary's own token.
    pub(super) version: Option<Version>,
}

/// Where the newest state of an id is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// On the secondary.
    File(Stored),
    /// Nowhere: it was deleted; either side may still hold a copy.
    Tombstone,
    /// On the primary; the secondary's copy must not be used. With [`Base::Absent`] that is not certain yet: where the
    /// primary has nothing, the write came to nothing, and the copy is as good as it was.
    Stale,
}

/// Why a write could not be replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clash {
    pub(super) reason: String,
    /// The version on the primary, where there is one.
    pub(super) theirs: Option<Version>,
}

/// An id of which the two sides differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: FileId,
    pub(super) what: What,
    pub(super) base: Base,
    /// Whether an own deletion may have taken the base away.
    pub(super) deleted: bool,
    /// Digests of own writes that may have reached the primary although nobody was told.
    pub(super) ours: Vec<Digest>,
    pub(super) clash: Option<Clash>,
    pub(super) at: SystemTime,
}

/// A write to the secondary that was begun and not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Intent {
    pub(super) id: FileId,
    pub(super) size: u64,
    pub(super) digest: Digest,
    pub(super) base: Base,
    pub(super) deleted: bool,
    pub(super) ours: Vec<Digest>,
    pub(super) at: SystemTime,
}

impl Entry {
    /// Says that the secondary's copy must not be used.
    pub(super) fn stale(id: &FileId) -> Self {
        Self {
            id: id.clone(),
            what: What::Stale,
            base: Base::default(),
            deleted: false,
            ours: Vec::new(),
            clash: None,
            at: SystemTime::now(),
        }
    }

    /// Says that there is no such file, whatever the sides hold.
    pub(super) fn tombstone(id: &FileId, base: Base, ours: Vec<Digest>) -> Self {
        Self { what: What::Tombstone, base, deleted: true, ours, ..Self::stale(id) }
    }

    /// Says that a write to the primary begins, after which the secondary's copy must not be used.
    pub(super) fn begun(id: &FileId) -> Self {
        Self { base: Base::Absent, ..Self::stale(id) }
    }

    pub(super) fn file(&self) -> Option<&Stored> {
        match &self.what {
            What::File(stored) => Some(stored),
            What::Tombstone | What::Stale => None,
        }
    }

    pub(super) fn is_stale(&self) -> bool {
        self.what == What::Stale
    }

    /// Tells whether the write that made it stale may have come to nothing.
    pub(super) fn is_begun(&self) -> bool {
        self.is_stale() && self.base == Base::Absent
    }

    /// The base of a write that follows this entry, which begins where `trace` was taken. An unconditional one is meant
    /// for whatever is there, so that it ends a conflict: what was then on the primary is known. One with a precondition
    /// is about our file, and says nothing of theirs.
    pub(super) fn next_base(&self, when: &Precondition, trace: Trace) -> Base {
        match &self.clash {
            Some(Clash { theirs: Some(theirs), .. }) if *when == Precondition::None => {
                Base::Version(theirs.clone())
            }
            Some(Clash { theirs: None, .. }) if *when == Precondition::None => Base::Unseen(trace),
            _ => self.base.clone(),
        }
    }
}

impl Stored {
    pub(super) fn of(metadata: &FileMetadata, digest: Digest) -> Self {
        Self {
            size: metadata.size,
            digest,
            content_type: metadata.content_type.clone(),
            file_name: metadata.file_name.clone(),
            created: metadata.created,
            tags: metadata.tags.clone(),
            version: metadata.version.clone(),
        }
    }

    /// What a listing says of the file.
    pub(super) fn metadata(&self, id: &FileId, at: SystemTime) -> FileMetadata {
        let mut metadata = FileMetadata::new(id.clone(), self.size);
        metadata.content_type.clone_from(&self.content_type);
        metadata.file_name.clone_from(&self.file_name);
        metadata.created = self.created;
        metadata.modified = Some(at);
        metadata.tags.clone_from(&self.tags);
        metadata.digest = Some(self.digest);
        metadata.version = self.version.clone().map(from_secondary);
        metadata
    }

    /// How the file is uploaded to the other side.
    pub(super) fn options(&self) -> UploadOptions {
        let mut options = UploadOptions::default().with_digest(self.digest);
        options.content_type.clone_from(&self.content_type);
        options.file_name.clone_from(&self.file_name);
        options.created = self.created;
        options.tags.clone_from(&self.tags);
        options
    }

    /// Tells whether `other` is this file, as far as attributes go.
    pub(super) fn attributes_of(&self, other: &FileMetadata) -> bool {
        self.size == other.size
            && self.content_type == other.content_type
            && self.file_name == other.file_name
            && self.created == other.created
            && self.tags == other.tags
    }
}

/// Adds a digest to those of own writes.
pub(super) fn with_own(ours: &[Digest], digest: Digest) -> Vec<Digest> {
    let mut ours: Vec<_> = ours.iter().copied().filter(|own| *own != digest).collect();
    ours.push(digest);
    ours.split_off(ours.len().saturating_sub(MOST_OURS))
}

/// Returns the version under which callers know a file of the secondary.
pub(super) fn from_secondary(version: Version) -> Version {
    Version::new(format!("{SECONDARY}{version}"))
}

/// Returns the version under which callers know a file of the primary: its own, in all but odd cases.
pub(super) fn from_primary(version: Version) -> Version {
    if [SECONDARY, PRIMARY].iter().any(|mark| version.as_str().starts_with(mark)) {
        return Version::new(format!("{PRIMARY}{version}"));
    }
    version
}

/// Whose version a caller named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// The primary's, by its own token.
    Primary(Version),
    /// The secondary's, by its own token.
    Secondary(Version),
}

/// Tells whose version it is.
pub(super) fn named(version: &Version) -> Named {
    let text = version.as_str();
    if let Some(own) = text.strip_prefix(SECONDARY) {
        Named::Secondary(Version::new(own))
    } else {
        Named::Primary(Version::new(text.strip_prefix(PRIMARY).unwrap_or(text)))
    }
}

/// What is on the primary when an entry is to be replayed.
#[derive(Clone, Debug)]
pub(super) struct Present<'a> {
    pub(super) metadata: &'a FileMetadata,
    /// Its digest, as recorded or read back, as far as it was needed.
    pub(super) digest: Option<Digest>,
}

/// What replaying an entry comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// The primary holds it already.
    Done,
    /// Bring it there, under this precondition.
    Go(Precondition),
    /// Somebody else wrote there: both are kept.
    Clash,
}

impl Base {
    /// Tells whether `present` is what was there before, by all but its digest.
    pub(super) fn is(&self, present: &FileMetadata) -> bool {
        match self {
            Self::Absent => false,
            Self::Version(base) => present.version.as_ref() == Some(base),
            Self::Unseen(trace) => {
                present.stored.zip(trace.before).is_some_and(|(stored, before)| stored <= before)
            }
        }
    }

    /// Learns what a replica holds, which is what the primary held when both were last written.
    pub(super) fn with_copy(self, copy: Option<&FileMetadata>) -> Self {
        match (self, copy.and_then(|copy| copy.digest)) {
            (Self::Unseen(trace), Some(digest)) => Self::Unseen(Trace { digest: Some(digest), ..trace }),
            (base, _) => base,
        }
    }

    /// What is left of it where the caller said what the write is to replace, and the secondary has compared that: no
    /// time makes more of it.
    pub(super) fn asserted(self, when: &Precondition) -> Self {
        match (when, self) {
            (Precondition::Absent, _) => Self::Absent,
            (Precondition::Version(_), Self::Unseen(trace)) => Self::Unseen(Trace { before: None, ..trace }),
            (_, base) => base,
        }
    }

    fn has_digest(&self, digest: Digest) -> bool {
        matches!(self, Self::Unseen(trace) if trace.digest == Some(digest))
    }
}

/// Decides what to do about an entry when the primary holds `present`.
///
/// What is there may be replaced when it is proven to be what was there before, or a write of our own whose answer was
/// lost; the precondition keeps a write that comes in between. Everything else may be a stranger's, and is kept.
///
/// What was there before is proven by its version, where this process saw it. Where it did not, by its time: it was
/// stored when the primary's clock had not yet come to where it was seen before the write began, less a margin; or by
/// its digest, where a replica held the same.
pub(super) fn decide(entry: &Entry, present: Option<&Present<'_>>) -> Decision {
    let Some(present) = present else {
        return match entry.what {
            // It was there, and somebody deleted it.
            What::File(_) if matches!(entry.base, Base::Version(_)) && !entry.deleted => Decision::Clash,
            What::File(_) => Decision::Go(Precondition::Absent),
            What::Tombstone | What::Stale => Decision::Done,
        };
    };
    let same =
        |stored: &Stored| Some(stored.digest) == present.digest && stored.attributes_of(present.metadata);
    if entry.file().is_some_and(same) {
        return Decision::Done;
    }
    let version = present.metadata.version.as_ref();
    let known = |digest| entry.ours.contains(&digest) || entry.base.has_digest(digest);
    if entry.base.is(present.metadata) || present.digest.is_some_and(known) {
        Decision::Go(version.cloned().map_or(Precondition::None, Precondition::Version))
    } else {
        Decision::Clash
    }
}

/// Nanoseconds since the epoch, for the journal; what does not fit is the nearest that does.
pub(super) fn nanoseconds(at: SystemTime) -> i64 {
    let clamp = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => clamp(after),
        Err(before) => -clamp(before.duration()),
    }
}

/// The reverse of [`nanoseconds`].
pub(super) fn time(nanoseconds: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanoseconds.unsigned_abs());
    let time = if nanoseconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    };
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}
