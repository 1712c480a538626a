//! The one error type of the library: what happened, to what, and whether it left a trace.
//!
//! Callers branch on [`Error::kind`]; a retry layer asks [`Error::retry`]; whoever keeps books asks
//! [`Error::effect`]. Backends convert their vendor's errors once, in one file each.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::id::FileId;

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync + 'static>;

/// What went wrong, as far as a caller can act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no file with this id.
    NotFound,
    /// [`Precondition::Absent`](crate::storage::Precondition::Absent) did not hold: the file exists.
    AlreadyExists,
    /// [`Precondition::Version`](crate::storage::Precondition::Version) did not hold: another version is stored.
    VersionMismatch,
    /// The id cannot live next to what is stored: `a` is a file and `a/b` was to be written, or the reverse.
    Conflict,
    /// The entry under this name is no regular file: a symbolic link, a fifo, a socket, a device.
    NotAFile,
    /// The storage knows the caller and refuses.
    Denied,
    /// The storage does not accept the caller's credentials, or there are none.
    Unauthenticated,
    /// The request itself is wrong (an id, a range, an option's value); repeating it cannot help.
    InvalidInput,
    /// The storage does not have what an option or a call asks for.
    Unsupported,
    /// The body is larger than the storage, or a limit of the caller, allows.
    TooLarge,
    /// Bytes do not match their checksum.
    Integrity,
    /// The source's identity changed while it was being read.
    SourceChanged,
    /// A multipart upload that the caller named does not exist (any more).
    NoSuchUpload,
    /// The storage has no room left.
    StorageFull,
    /// The storage, or the way to it, is down.
    Unavailable,
    /// No answer within the time allowed.
    Timeout,
    /// The storage asks to slow down.
    Throttled,
    /// The storage is not set up as the caller thinks: a missing bucket, a wrong region, a root that is a file.
    Misconfigured,
    /// Anything else: an I/O error of the disk, an answer that makes no sense.
    Other,
}

impl ErrorKind {
    /// Returns a stable lower-case name, fit for a metric label or a report.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::VersionMismatch => "version_mismatch",
            Self::Conflict => "conflict",
            Self::NotAFile => "not_a_file",
            Self::Denied => "denied",
            Self::Unauthenticated => "unauthenticated",
            Self::InvalidInput => "invalid_input",
            Self::Unsupported => "unsupported",
            Self::TooLarge => "too_large",
            Self::Integrity => "integrity",
            Self::SourceChanged => "source_changed",
            Self::NoSuchUpload => "no_such_upload",
            Self::StorageFull => "storage_full",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Throttled => "throttled",
            Self::Misconfigured => "misconfigured",
            Self::Other => "other",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::VersionMismatch => "another version is stored",
            Self::Conflict => "conflicts with what is stored",
            Self::NotAFile => "not a regular file",
            Self::Denied => "permission denied",
            Self::Unauthenticated => "credentials not accepted",
            Self::InvalidInput => "invalid input",
            Self::Unsupported => "not supported",
            Self::TooLarge => "too large",
            Self::Integrity => "checksum mismatch",
            Self::SourceChanged => "changed while it was read",
            Self::NoSuchUpload => "no such multipart upload",
            Self::StorageFull => "no space left",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timed out",
            Self::Throttled => "asked to slow down",
            Self::Misconfigured => "misconfigured",
            Self::Other => "failed",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// Whether repeating the call can help, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same call will fail again.
    Never,
    /// The call may be repeated; the caller's policy chooses the delay.
    Now,
    /// The storage named the least delay (`Retry-After`, RFC 9110 section 10.2.3).
    After(Duration),
}

/// Whether the failed call may have changed the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing was changed.
    None,
    /// The change took place although the call failed.
    Applied,
    /// The request was sent and its answer was lost: metadata and digest decide, never the error alone.
    Unknown,
}

/// The operation that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Op {
    /// Building or opening a storage.
    Open,
    /// [`FileStorage::upload`](crate::storage::FileStorage::upload)
    Upload,
    /// [`FileStorage::download`](crate::storage::FileStorage::download), or reading its body
    Download,
    /// [`FileStorage::metadata`](crate::storage::FileStorage::metadata)
    Metadata,
    /// [`FileStorage::delete`](crate::storage::FileStorage::delete)
    Delete,
    /// [`FileStorage::list`](crate::storage::FileStorage::list)
    List,
    /// [`FileStorage::copy`](crate::storage::FileStorage::copy)
    Copy,
    /// [`FileStorage::presigned_url`](crate::storage::FileStorage::presigned_url)
    Presign,
    /// [`FileStorage::probe`](crate::storage::FileStorage::probe)
    Probe,
    /// [`ResumableUpload::begin`](crate::storage::ResumableUpload::begin)
    BeginUpload,
    /// [`ResumableUpload::put_part`](crate::storage::ResumableUpload::put_part)
    PutPart,
    /// [`ResumableUpload::parts`](crate::storage::ResumableUpload::parts)
    ListParts,
    /// [`ResumableUpload::finish`](crate::storage::ResumableUpload::finish)
    FinishUpload,
    /// [`ResumableUpload::abandon`](crate::storage::ResumableUpload::abandon)
    AbandonUpload,
    /// [`ResumableUpload::stale`](crate::storage::ResumableUpload::stale)
    ListUploads,
    /// Reading the body that is to be uploaded.
    ReadBody,
}

impl Op {
    /// Returns a stable lower-case name, fit for a metric label or a report.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Upload => "upload",
            Self::Download => "download",
            Self::Metadata => "metadata",
            Self::Delete => "delete",
            Self::List => "list",
            Self::Copy => "copy",
            Self::Presign => "presign",
            Self::Probe => "probe",
            Self::BeginUpload => "begin_upload",
            Self::PutPart => "put_part",
            Self::ListParts => "list_parts",
            Self::FinishUpload => "finish_upload",
            Self::AbandonUpload => "abandon_upload",
            Self::ListUploads => "list_uploads",
            Self::ReadBody => "read_body",
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failed operation: kind, context and certainty.
///
/// The message is lower-case, names the operation, the file and the storage, and holds no secret.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    op: Op,
    subject: Option<String>,
    id: Option<FileId>,
    storage: Option<String>,
    message: Option<String>,
    retry: Retry,
    effect: Effect,
    source: Option<Source>,
}

impl Error {
    /// Makes an error that says `kind` of `op`. Throttled, unavailable and timed-out operations may be
    /// repeated unless [`with_retry`](Self::with_retry) says otherwise; the effect is [`Effect::None`].
    pub fn new(kind: ErrorKind, op: Op) -> Self {
        let retry = match kind {
            ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Throttled => Retry::Now,
            _ => Retry::Never,
        };
        Self(Box::new(Inner {
            kind,
            op,
            subject: None,
            id: None,
            storage: None,
            message: None,
            retry,
            effect: Effect::None,
            source: None,
        }))
    }

    /// Names the file.
    #[must_use]
    pub fn with_id(mut self, id: &FileId) -> Self {
        self.0.id = Some(id.clone());
        self
    }

    /// Names something that is not a valid [`FileId`]: a path that cannot be one, a directory, an upload.
    #[must_use]
    pub fn with_subject(mut self, subject: impl Into<String>) -> Self {
        self.0.subject = Some(subject.into());
        self
    }

    /// Names the storage, unless it is named already (the innermost knows best).
    #[must_use]
    pub fn with_storage(mut self, storage: &str) -> Self {
        self.0.storage.get_or_insert_with(|| storage.to_owned());
        self
    }

    /// Says in words what the kind alone does not.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.0.message = Some(message.into());
        self
    }

    /// Says whether repeating can help.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// Says whether the storage may have changed.
    #[must_use]
    pub fn with_effect(mut self, effect: Effect) -> Self {
        self.0.effect = effect;
        self
    }

    /// Keeps the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Replaces the operation: a wrapper that composes calls names what its own caller asked for.
    #[must_use]
    pub fn with_op(mut self, op: Op) -> Self {
        self.0.op = op;
        self
    }

    /// Returns what went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the operation that failed.
    pub fn op(&self) -> Op {
        self.0.op
    }

    /// Returns the file, where one was involved.
    pub fn id(&self) -> Option<&FileId> {
        self.0.id.as_ref()
    }

    /// Returns what the error is about when it is no [`FileId`].
    pub fn subject(&self) -> Option<&str> {
        self.0.subject.as_deref()
    }

    /// Returns the name of the storage.
    pub fn storage(&self) -> Option<&str> {
        self.0.storage.as_deref()
    }

    /// Returns the words that go beyond the kind.
    pub fn message(&self) -> Option<&str> {
        self.0.message.as_deref()
    }

    /// Returns whether repeating can help.
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// Returns whether the storage may have changed.
    pub fn effect(&self) -> Effect {
        self.0.effect
    }

    /// Tells whether the storage is out of reach, as opposed to answering with a refusal.
    ///
    /// True for [`ErrorKind::Unavailable`], [`ErrorKind::Timeout`] and [`ErrorKind::Throttled`] only: what a
    /// breaker counts and a fallback reacts to. `NotFound`, `Denied` and `Integrity` are answers.
    pub fn is_outage(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Throttled)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        write!(f, "{}", inner.op)?;
        if let Some(id) = &inner.id {
            // Escaped: a name may hold newlines or terminal control codes.
            write!(f, " \"{}\"", id.as_str().escape_debug())?;
        } else if let Some(subject) = &inner.subject {
            // Bytes that are no text are escaped in it already.
            write!(f, " \"{}\"", subject.escape_debug().to_string().replace("\\\\", "\\"))?;
        }
        if let Some(storage) = &inner.storage {
            write!(f, " on {storage}")?;
        }
        write!(f, ": {}", inner.kind)?;
        if let Some(message) = &inner.message {
            write!(f, ": {message}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("op", &self.0.op)
            .field("id", &self.0.id)
            .field("subject", &self.0.subject)
            .field("storage", &self.0.storage)
            .field("message", &self.0.message)
            .field("retry", &self.0.retry)
            .field("effect", &self.0.effect)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_operation_file_storage_and_reason() {
        let id = FileId::parse("a\nb").unwrap();
        let error = Error::new(ErrorKind::Conflict, Op::Upload)
            .with_id(&id)
            .with_storage("disk")
            .with_message("\"a\" is a directory");
        assert_eq!(
            error.to_string(),
            "upload \"a\\nb\" on disk: conflicts with what is stored: \"a\" is a directory"
        );
    }

    #[test]
    fn the_innermost_storage_keeps_its_name() {
        let error = Error::new(ErrorKind::NotFound, Op::Metadata).with_storage("s3").with_storage("retry");
        assert_eq!(error.storage(), Some("s3"));
    }

    #[test]
    fn only_outages_are_outages() {
        for kind in [ErrorKind::Unavailable, ErrorKind::Timeout, ErrorKind::Throttled] {
            assert!(Error::new(kind, Op::Probe).is_outage());
            assert_eq!(Error::new(kind, Op::Probe).retry(), Retry::Now);
        }
        for kind in [ErrorKind::NotFound, ErrorKind::Denied, ErrorKind::Integrity, ErrorKind::Other] {
            assert!(!Error::new(kind, Op::Probe).is_outage());
            assert_eq!(Error::new(kind, Op::Probe).retry(), Retry::Never);
        }
    }
}
