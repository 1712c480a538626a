//! The waist: what every storage is, and the words in which it is asked.

use std::fmt;
use std::num::NonZeroU32;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::body::{Body, ByteStream, collect};
use crate::checksum::Digest;
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::{FileId, Prefix};
use crate::metadata::{FileMetadata, Tags, Version};

/// A place that keeps files whole.
///
/// Every promise below has its own test in [`testkit`](crate::testkit), which runs over every implementation
/// and every layer around one. Futures may be dropped at any point: a dropped upload publishes nothing and
/// leaves nothing that [`ResumableUpload::stale`] or the storage's own janitor does not find.
#[async_trait]
pub trait FileStorage: fmt::Debug + Send + Sync + 'static {
    /// Returns the name that errors, spans and metrics know this storage by. Holds no secret.
    fn name(&self) -> &str;

    /// Returns what this storage, with the layers around it, can do. Facts: where servers differ they were
    /// found by trying.
    fn capabilities(&self) -> Capabilities;

    /// Publishes the whole body under `id`, with its attributes, or nothing. Replaces what is there, unless
    /// `options.when` says otherwise. Readers see the old file or the new one, never a mixture.
    ///
    /// The receipt's digest was computed from the very bytes that were stored.
    ///
    /// # Errors
    /// - [`AlreadyExists`](ErrorKind::AlreadyExists) or [`VersionMismatch`](ErrorKind::VersionMismatch):
    ///   `options.when` does not hold. Of two creators with [`Precondition::Absent`] exactly one succeeds.
    /// - [`Integrity`](ErrorKind::Integrity): the bytes are not those of `options.digest`.
    /// - [`Conflict`](ErrorKind::Conflict): this storage cannot keep `a` next to `a/b`.
    /// - [`Unsupported`](ErrorKind::Unsupported): an option that this storage cannot honour.
    /// - [`SourceChanged`](ErrorKind::SourceChanged): the body changed while it was read.
    async fn upload(&self, id: &FileId, body: Body, options: UploadOptions) -> Result<Receipt>;

    /// Opens the file's bytes, all of one version.
    ///
    /// A whole read is compared with the stored digest or composite, where there is one, and its size: bytes
    /// that do not match end in [`Integrity`](ErrorKind::Integrity) instead of a clean end. A file that is
    /// rewritten in place under the reader ends in [`SourceChanged`](ErrorKind::SourceChanged).
    ///
    /// # Errors
    /// - [`NotFound`](ErrorKind::NotFound): there is no such file; also where `a/b` is asked for and `a` is a
    ///   file.
    /// - [`InvalidInput`](ErrorKind::InvalidInput): the range begins behind the last byte.
    /// - [`VersionMismatch`](ErrorKind::VersionMismatch): `options.when` names another version.
    async fn download(&self, id: &FileId, options: DownloadOptions) -> Result<Download>;

    /// Returns everything that is known of the file.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound): there is no such file.
    async fn metadata(&self, id: &FileId) -> Result<FileMetadata>;

    /// Deletes the file; `Ok(false)` when there was nothing to delete. Deletes a file only: never what lies
    /// beneath an id.
    ///
    /// # Errors
    /// - [`VersionMismatch`](ErrorKind::VersionMismatch): another version is stored, which stays.
    /// - [`InvalidInput`](ErrorKind::InvalidInput): `when` is [`Precondition::Absent`].
    /// - [`Unsupported`](ErrorKind::Unsupported): a version was named and the storage cannot compare it.
    async fn delete(&self, id: &FileId, when: Precondition) -> Result<bool>;

    /// Lists the files whose ids begin with `prefix`, in ascending byte order of ids: merges and audits rely
    /// on it. Files written or deleted meanwhile may be in it or not; all others are, once.
    ///
    /// An `Err` that names an entry ([`Error::id`] or [`Error::subject`]) is about that entry alone (an
    /// unreadable directory, a name that is no id) and the listing goes on: whoever counts on a complete view
    /// has none. Any other `Err` is the last item. Entries that are not files (symbolic links, fifos) are left
    /// out, or reported as [`NotAFile`](ErrorKind::NotAFile) when [`ListOptions::report_foreign`] is set.
    fn list(&self, prefix: &Prefix, options: ListOptions) -> BoxStream<'static, Result<FileMetadata>>;

    /// Copies a file within the storage, with its attributes; attributes given in `options` replace those of
    /// the source. Publishes the whole copy or nothing.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) for `from`; otherwise those of [`upload`](Self::upload).
    async fn copy(&self, from: &FileId, to: &FileId, options: UploadOptions) -> Result<Receipt>;

    /// Makes a URL with which anyone can perform the one request until it expires.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported): this storage has none;
    /// [`InvalidInput`](ErrorKind::InvalidInput): the expiry is out of its range, or an option is for the other
    /// method; [`Denied`](ErrorKind::Denied): a URL that writes, and the storage was opened for reading only.
    async fn presigned_url(&self, id: &FileId, request: PresignRequest) -> Result<PresignedUrl>;

    /// Writes, reads back and deletes a canary under a reserved id, within `deadline`: can this storage be
    /// used now, by this caller? A storage opened for reading only reads.
    ///
    /// # Errors
    /// What went wrong first; [`Timeout`](ErrorKind::Timeout) when the deadline passed.
    async fn probe(&self, deadline: Duration) -> Result<()>;

    /// Returns the part-wise uploads, where this storage has them.
    fn resumable(&self) -> Option<&dyn ResumableUpload>;
}

/// Uploads in parts that survive the process: begin, put parts in any order and from any process, finish.
///
/// Nothing is visible under the id before `finish`. A part that was put again replaces itself.
#[async_trait]
pub trait ResumableUpload: Send + Sync {
    /// Returns the sizes and the number of parts this storage takes.
    fn limits(&self) -> PartLimits;

    /// Begins an upload. `options.when` is checked at [`finish`](Self::finish), not here. All parts but the
    /// last will have `part_size` bytes; 0, where [`limits`](Self::limits) allow it, says that the caller does
    /// not know: the parts say it themselves, and uneven ones have no composite.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput): a part size outside [`limits`](Self::limits).
    async fn begin(&self, id: &FileId, part_size: u64, options: UploadOptions) -> Result<UploadTicket>;

    /// Stores one part; the same number again replaces it. The storage has compared the bytes with `digest`
    /// where its capabilities say so.
    ///
    /// # Errors
    /// [`NoSuchUpload`](ErrorKind::NoSuchUpload); [`Integrity`](ErrorKind::Integrity).
    async fn put_part(
        &self,
        ticket: &UploadTicket,
        number: PartNumber,
        bytes: Bytes,
        digest: Digest,
    ) -> Result<PartReceipt>;

    /// Lists the parts the storage holds, by number: its truth, whatever the caller remembers.
    ///
    /// # Errors
    /// [`NoSuchUpload`](ErrorKind::NoSuchUpload).
    async fn parts(&self, ticket: &UploadTicket) -> Result<Vec<PartReceipt>>;

    /// Publishes the parts, which are all parts from 1 on, as one file, or nothing.
    ///
    /// When the answer to an earlier `finish` of this ticket was lost, the call tells so by what is stored:
    /// an equal composite or digest is success.
    ///
    /// # Errors
    /// Those of [`FileStorage::upload`]; [`NoSuchUpload`](ErrorKind::NoSuchUpload) when neither the upload nor
    /// its result is there.
    async fn finish(
        &self,
        ticket: &UploadTicket,
        parts: &[PartReceipt],
        finish: FinishOptions,
    ) -> Result<Receipt>;

    /// Discards the upload and its parts. An upload that is not there is discarded already.
    async fn abandon(&self, ticket: &UploadTicket) -> Result<()>;

    /// Lists the open uploads begun longer ago than `older_than`, whoever began them.
    async fn stale(&self, older_than: Duration) -> Result<Vec<UploadTicket>>;
}

/// Number of a part, from 1.
pub type PartNumber = NonZeroU32;

/// Sizes and number of parts of a [`ResumableUpload`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartLimits {
    /// Least size in bytes of every part but the last.
    pub min_part_size: u64,
    /// Greatest size in bytes of a part.
    pub max_part_size: u64,
    /// Greatest number of parts.
    pub max_parts: u32,
    /// Greatest size in bytes of the whole.
    pub max_size: u64,
}

impl PartLimits {
    /// The limits of S3: parts of 5 MiB to 5 GiB, 10,000 of them, 5 TiB in all ("Amazon S3 multipart upload
    /// limits", Amazon S3 User Guide).
    pub const S3: Self =
        Self { min_part_size: 5 << 20, max_part_size: 5 << 30, max_parts: 10_000, max_size: 5 << 40 };

    /// Makes limits.
    pub const fn new(min_part_size: u64, max_part_size: u64, max_parts: u32, max_size: u64) -> Self {
        Self { min_part_size, max_part_size, max_parts, max_size }
    }

    /// Returns the part size for a file of `size` bytes: `wanted`, grown to a whole MiB with which
    /// `max_parts` suffice, within the least and the greatest part.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] when no part size will do.
    pub fn part_size(&self, size: u64, wanted: u64) -> Result<u64> {
        let needed = size.div_ceil(u64::from(self.max_parts).max(1));
        let part_size = if needed > wanted { needed.next_multiple_of(1 << 20) } else { wanted };
        let part_size = part_size.max(self.min_part_size).min(self.max_part_size);
        if size > self.max_size || size.div_ceil(part_size.max(1)) > u64::from(self.max_parts) {
            return Err(Error::new(ErrorKind::TooLarge, Op::BeginUpload)
                .with_message(format!("{size} bytes, the storage takes at most {}", self.max_size)));
        }
        Ok(part_size)
    }
}

/// An upload in parts that was begun: enough to go on with it from another process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct UploadTicket {
    /// The file it will become.
    pub id: FileId,
    /// The storage's own name of the upload.
    pub upload: String,
    /// Size in bytes of every part but the last; 0 where the storage no longer knows (in a listing).
    pub part_size: u64,
    /// When it was begun.
    pub started: SystemTime,
}

impl UploadTicket {
    /// Makes a ticket.
    pub fn new(id: FileId, upload: impl Into<String>, part_size: u64, started: SystemTime) -> Self {
        Self { id, upload: upload.into(), part_size, started }
    }
}

/// A part that a storage holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PartReceipt {
    /// From 1.
    pub number: PartNumber,
    /// In bytes.
    pub size: u64,
    /// SHA-256 of the part; nothing where a listing of parts does not tell it.
    pub digest: Option<Digest>,
    /// The storage's own token of the part (an ETag).
    pub token: String,
}

impl PartReceipt {
    /// Makes a receipt.
    pub fn new(number: PartNumber, size: u64, digest: Option<Digest>, token: impl Into<String>) -> Self {
        Self { number, size, digest, token: token.into() }
    }
}

/// What [`ResumableUpload::finish`] is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FinishOptions {
    /// SHA-256 of the whole, where the caller computed it. Storages that see the whole compare it; S3 servers
    /// see parts only.
    pub digest: Option<Digest>,
    /// The caller computed the digest from the very bytes of the parts, as it put them, each with the digest of the
    /// part: a storage that has compared each part need not compute that of the whole again. Default: no.
    pub computed: bool,
    /// Default: none.
    pub when: Precondition,
}

impl FinishOptions {
    /// Sets the digest of the whole.
    #[must_use]
    pub fn with_digest(mut self, digest: Digest) -> Self {
        self.digest = Some(digest);
        self
    }

    /// Sets the digest of the whole, and that it was [`computed`](Self::computed) from the parts.
    #[must_use]
    pub fn with_computed_digest(self, digest: Digest) -> Self {
        Self { computed: true, ..self.with_digest(digest) }
    }

    /// Sets the precondition.
    #[must_use]
    pub fn with_when(mut self, when: Precondition) -> Self {
        self.when = when;
        self
    }
}

/// Facts about a storage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Capabilities {
    /// [`Precondition::Absent`] on upload, copy and finish: exactly one creator wins.
    pub conditional_create: bool,
    /// [`Precondition::Version`] on upload, copy and finish.
    pub conditional_replace: bool,
    /// [`Precondition::Version`] on delete.
    pub conditional_delete: bool,
    /// The storage compares what it stores with the SHA-256 it is given, and refuses what does not match;
    /// receipts then say [`Verified::Backend`].
    pub verifies_sha256: bool,
    /// The storage keeps the composite checksum of multipart uploads and tells it.
    pub composite_sha256: bool,
    /// Tags are stored.
    pub tags: bool,
    /// Presigned URLs for reading.
    pub presigned_get: bool,
    /// Presigned URLs for writing.
    pub presigned_put: bool,
    /// [`FileStorage::resumable`] is there.
    pub resumable: bool,
    /// `a` and `a/b` can both exist.
    pub nested_ids: bool,
    /// Opened for reading only: everything that writes is refused with [`ErrorKind::Denied`].
    pub read_only: bool,
    /// Longest segment of an id in bytes, where there is a limit.
    pub max_segment_bytes: Option<u32>,
    /// Longest id in bytes, where it is less than [`MAX_ID_BYTES`](crate::id::MAX_ID_BYTES).
    pub max_id_bytes: Option<u32>,
    /// Greatest file in bytes, where there is a limit.
    pub max_size: Option<u64>,
}

/// What a storage is opened for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Reading and writing.
    #[default]
    ReadWrite,
    /// Reading only: nothing is created or probed by writing, and everything that writes is refused with
    /// [`ErrorKind::Denied`].
    ReadOnly,
}

/// What must hold of the stored file for a call to take effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    #[default]
    None,
    /// No file is stored under the id.
    Absent,
    /// This version is stored.
    Version(Version),
}

/// How a file is to be stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UploadOptions {
    /// Media type; default: guessed from the file name, else from the id.
    pub content_type: Option<String>,
    /// The name the user knows the file by; default: none.
    pub file_name: Option<String>,
    /// When the content came into being; default: none.
    pub created: Option<SystemTime>,
    /// Key-value pairs; default: none. Keys are not empty.
    pub tags: Tags,
    /// SHA-256 that the caller knows: a body that differs is refused. Default: not known.
    pub digest: Option<Digest>,
    /// Default: none.
    pub when: Precondition,
}

impl UploadOptions {
    /// Sets the media type.
    #[must_use]
    pub fn with_content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// Sets the name the user knows the file by.
    #[must_use]
    pub fn with_file_name(mut self, file_name: impl Into<String>) -> Self {
        self.file_name = Some(file_name.into());
        self
    }

    /// Sets when the content came into being.
    #[must_use]
    pub fn with_created(mut self, created: SystemTime) -> Self {
        self.created = Some(created);
        self
    }

    /// Adds a tag.
    #[must_use]
    pub fn with_tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(key.into(), value.into());
        self
    }

    /// Sets the digest that the bytes must have.
    #[must_use]
    pub fn with_digest(mut self, digest: Digest) -> Self {
        self.digest = Some(digest);
        self
    }

    /// Sets the precondition.
    #[must_use]
    pub fn with_when(mut self, when: Precondition) -> Self {
        self.when = when;
        self
    }

    /// Takes the attributes of a stored file, for a copy into another storage: content type, name, created and
    /// tags; where it has no name of its own, none is made up.
    #[must_use]
    pub fn with_attributes_of(mut self, metadata: &FileMetadata) -> Self {
        self.content_type.clone_from(&metadata.content_type);
        self.file_name.clone_from(&metadata.file_name);
        self.created = metadata.created;
        self.tags.clone_from(&metadata.tags);
        self
    }
}

/// Which bytes to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// From this offset to the end.
    From(u64),
    /// From the first to before the second; an end behind the last byte means the last byte.
    Between(u64, u64),
    /// The last bytes, at most so many.
    Last(u64),
}

impl ByteRange {
    /// Returns the offsets in a file of `size` bytes, or nothing when the range begins behind its last byte or
    /// is empty (RFC 9110 section 14.1.2: not satisfiable).
    pub fn resolve(self, size: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::From(start) => start..size,
            Self::Between(start, end) => start..end.min(size),
            Self::Last(count) => size.saturating_sub(count)..size,
        };
        (range.start < range.end).then_some(range)
    }
}

/// How a file is to be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DownloadOptions {
    /// Default: all bytes.
    pub range: Option<ByteRange>,
    /// [`Precondition::Version`] reads that version or fails; default: none.
    pub when: Precondition,
    /// The caller compares all bytes with [`FileMetadata::expected`] itself, so a storage that would do so may
    /// leave it out; default: false. For layers and copiers, which hash what they read anyway.
    pub unverified: bool,
}

impl DownloadOptions {
    /// Sets the range.
    #[must_use]
    pub fn with_range(mut self, range: ByteRange) -> Self {
        self.range = Some(range);
        self
    }

    /// Sets the precondition.
    #[must_use]
    pub fn with_when(mut self, when: Precondition) -> Self {
        self.when = when;
        self
    }

    /// Sets whether the caller compares the bytes itself.
    #[must_use]
    pub fn with_unverified(mut self, unverified: bool) -> Self {
        self.unverified = unverified;
        self
    }
}

/// A file that is being read.
pub struct Download {
    /// Of the whole file.
    pub metadata: FileMetadata,
    /// The offsets that `body` holds.
    pub range: Range<u64>,
    /// The bytes.
    pub body: ByteStream,
}

impl Download {
    /// Makes a download.
    pub fn new(metadata: FileMetadata, range: Range<u64>, body: ByteStream) -> Self {
        Self { metadata, range, body }
    }

    /// Reads all bytes into memory.
    ///
    /// # Errors
    /// Those of the body.
    pub async fn bytes(self) -> Result<Bytes> {
        collect(self.body).await
    }
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download")
            .field("metadata", &self.metadata)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

/// Which files a listing yields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListOptions {
    /// Only ids behind this one; default: all. To go on with a listing that broke off.
    pub start_after: Option<FileId>,
    /// Report entries that are not files as errors of kind [`NotAFile`](ErrorKind::NotAFile), each naming its
    /// entry; default: leave them out, as a service has no use for them.
    pub report_foreign: bool,
}

impl ListOptions {
    /// Sets the id behind which the listing begins.
    #[must_use]
    pub fn with_start_after(mut self, id: FileId) -> Self {
        self.start_after = Some(id);
        self
    }

    /// Asks for entries that are not files.
    #[must_use]
    pub fn with_report_foreign(mut self) -> Self {
        self.report_foreign = true;
        self
    }
}

/// Who compared the stored bytes with the digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verified {
    /// The storage did, before it answered.
    Backend,
    /// Every byte was read back.
    ReadBack,
    /// Nobody yet.
    No,
}

/// What a storage answers to an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// As stored, with its version.
    pub metadata: FileMetadata,
    /// SHA-256 of the bytes that were stored, where they passed as a whole: always, except for a finished
    /// upload in parts whose caller did not give it.
    pub digest: Option<Digest>,
    /// Who compared it with what is stored.
    pub verified: Verified,
}

impl Receipt {
    /// Makes a receipt.
    pub fn new(metadata: FileMetadata, digest: Option<Digest>, verified: Verified) -> Self {
        Self { metadata, digest, verified }
    }
}

/// The request that a presigned URL allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresignMethod {
    /// Reading the file.
    Get,
    /// Writing the file.
    Put,
}

/// What a presigned URL is to allow.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PresignRequest {
    /// The one request.
    pub method: PresignMethod,
    /// For how long, from [`MIN_EXPIRY`](Self::MIN_EXPIRY) to [`MAX_EXPIRY`](Self::MAX_EXPIRY).
    pub expires_in: Duration,
    /// For a PUT: the media type that the request must carry. Default: any.
    pub content_type: Option<String>,
    /// For a PUT: the number of bytes that the request must carry. Default: any.
    pub content_length: Option<u64>,
    /// For a GET: the name under which a browser saves the file (RFC 6266). Default: the last segment of the id,
    /// which is what a browser takes from the URL.
    pub save_as: Option<String>,
    /// For a GET: a browser shows the file where it can. Default: false, it saves the file, as one that somebody
    /// uploaded may hold scripts.
    pub inline: bool,
}

impl PresignRequest {
    /// Least expiry: storages count whole seconds.
    pub const MIN_EXPIRY: Duration = Duration::from_secs(1);

    /// Greatest expiry: the limit of SigV4 ("Authenticating requests: using query parameters", Amazon S3 API
    /// Reference).
    pub const MAX_EXPIRY: Duration = Duration::from_secs(7 * 24 * 3600);

    /// Refuses what no storage can sign, for those that sign.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput): the expiry is out of its range, or something was set that is
    /// for the other method.
    pub fn check(&self) -> Result<()> {
        let refused =
            |message: String| Err(Error::new(ErrorKind::InvalidInput, Op::Presign).with_message(message));
        if !(Self::MIN_EXPIRY..=Self::MAX_EXPIRY).contains(&self.expires_in) {
            return refused(format!("an expiry of {:?} is not within 1 second and 7 days", self.expires_in));
        }
        match self.method {
            PresignMethod::Get if self.content_type.is_some() || self.content_length.is_some() => {
                refused("a content type or length is for a URL that writes, this one reads".to_owned())
            }
            PresignMethod::Put if self.save_as.is_some() || self.inline => {
                refused("how a browser takes the file is for a URL that reads, this one writes".to_owned())
            }
            PresignMethod::Get | PresignMethod::Put => Ok(()),
        }
    }

    /// Asks for a URL that reads the file.
    pub fn get(expires_in: Duration) -> Self {
        Self {
            method: PresignMethod::Get,
            expires_in,
            content_type: None,
            content_length: None,
            save_as: None,
            inline: false,
        }
    }

    /// Asks for a URL that writes the file.
    pub fn put(expires_in: Duration) -> Self {
        Self { method: PresignMethod::Put, ..Self::get(expires_in) }
    }

    /// Sets the media type that a PUT must carry.
    #[must_use]
    pub fn with_content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// Sets the number of bytes that a PUT must carry.
    #[must_use]
    pub fn with_content_length(mut self, content_length: u64) -> Self {
        self.content_length = Some(content_length);
        self
    }

    /// Sets the name under which a browser saves the file.
    #[must_use]
    pub fn with_save_as(mut self, file_name: impl Into<String>) -> Self {
        self.save_as = Some(file_name.into());
        self
    }

    /// Has a browser show the file where it can.
    #[must_use]
    pub fn with_inline(mut self) -> Self {
        self.inline = true;
        self
    }
}

/// A URL that is a permission: whoever has it can use it. Its `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PresignedUrl {
    /// The request it allows.
    pub method: PresignMethod,
    /// The URL, with its signature.
    pub url: String,
    /// Headers that the request must carry, besides `Host`.
    pub headers: Vec<(String, String)>,
    /// When it ceases to work.
    pub expires: SystemTime,
}

impl PresignedUrl {
    /// Makes a presigned URL.
    pub fn new(
        method: PresignMethod,
        url: String,
        headers: Vec<(String, String)>,
        expires: SystemTime,
    ) -> Self {
        Self { method, url, headers, expires }
    }
}

impl fmt::Debug for PresignedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PresignedUrl")
            .field("method", &self.method)
            .field("url", &"(a permission, not shown)")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// What is made of [`FileStorage`] alone, for every storage.
#[async_trait]
pub trait FileStorageExt: FileStorage {
    /// Uploads under a new id, `"{random UUID}/{file_name}"`, that nobody else has.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) when `file_name` cannot be a segment of an id; those of
    /// [`upload`](FileStorage::upload).
    async fn upload_new(&self, file_name: &str, body: Body, mut options: UploadOptions) -> Result<Receipt> {
        let id = FileId::unique(file_name).map_err(|error| {
            Error::new(ErrorKind::InvalidInput, Op::Upload)
                .with_subject(file_name)
                .with_storage(self.name())
                .with_message(error.to_string())
        })?;
        options.file_name.get_or_insert_with(|| file_name.to_owned());
        self.upload(&id, body, options).await
    }

    /// Uploads bytes that are in memory, with default options.
    ///
    /// # Errors
    /// Those of [`upload`](FileStorage::upload).
    async fn upload_bytes(&self, id: &FileId, bytes: Bytes) -> Result<Receipt> {
        self.upload(id, Body::from_bytes(bytes), UploadOptions::default()).await
    }

    /// Downloads the whole file into memory.
    ///
    /// # Errors
    /// Those of [`download`](FileStorage::download) and of its body.
    async fn download_bytes(&self, id: &FileId) -> Result<Bytes> {
        self.download(id, DownloadOptions::default()).await?.bytes().await
    }

    /// Tells whether the file exists.
    ///
    /// # Errors
    /// Those of [`metadata`](FileStorage::metadata), except `NotFound`.
    async fn exists(&self, id: &FileId) -> Result<bool> {
        match self.metadata(id).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Copies the file with its attributes into another storage, under the same id. The bytes are spooled
    /// (memory up to 8 MiB, then a temporary file), so that the other side may read them again.
    ///
    /// # Errors
    /// Those of [`download`](FileStorage::download) here and of [`upload`](FileStorage::upload) there.
    async fn copy_to(&self, id: &FileId, other: &dyn FileStorage) -> Result<Receipt> {
        let download = self.download(id, DownloadOptions::default()).await?;
        let mut options = UploadOptions::default().with_attributes_of(&download.metadata);
        options.digest = download.metadata.digest;
        let body = Body::spool(download.body, 8 << 20, None).await?;
        other.upload(id, body, options).await
    }
}

impl<T: FileStorage + ?Sized> FileStorageExt for T {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_size_grows_until_ten_thousand_parts_suffice() {
        let limits = PartLimits::S3;
        let mib = 1u64 << 20;
        for size in [0, 1, 16 * mib, 160_000 * mib, 160_000 * mib + 1, 5 << 40] {
            let part_size = limits.part_size(size, 16 * mib).unwrap();
            assert!(size.div_ceil(part_size) <= 10_000, "{size}");
            assert!(part_size >= 16 * mib && part_size <= limits.max_part_size);
        }
        assert_eq!(limits.part_size(1, mib).unwrap(), 5 * mib);
        assert_eq!(limits.part_size((5 << 40) + 1, 16 * mib).unwrap_err().kind(), ErrorKind::TooLarge);
    }

    #[test]
    fn ranges_resolve_as_rfc_9110_says() {
        assert_eq!(ByteRange::From(3).resolve(10), Some(3..10));
        assert_eq!(ByteRange::From(10).resolve(10), None);
        assert_eq!(ByteRange::Between(2, 99).resolve(10), Some(2..10));
        assert_eq!(ByteRange::Between(2, 2).resolve(10), None);
        assert_eq!(ByteRange::Last(3).resolve(10), Some(7..10));
        assert_eq!(ByteRange::Last(30).resolve(10), Some(0..10));
        assert_eq!(ByteRange::Last(0).resolve(10), None);
    }

    #[test]
    fn a_presigned_url_is_not_in_its_debug_output() {
        let url =
            PresignedUrl::new(PresignMethod::Get, "http://x/?sig=s3cret".into(), vec![], SystemTime::now());
        assert!(!format!("{url:?}").contains("s3cret"));
    }
}
