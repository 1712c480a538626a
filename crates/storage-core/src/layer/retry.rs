//! Trying again, without doing anything twice.
//!
//! Order of effects, and each gap:
//! - An attempt failed before its effect: the next one is the first.
//! - It took effect and its answer was lost ([`Effect::Unknown`]): an unconditional write is repeated, which
//!   leaves the same file. A conditional one may now meet its own file; what is stored decides, by size, digest
//!   and attributes, never the error alone. When no attempt is left, the error says `Unknown`, even when the
//!   last attempt by itself had no effect.
//! - The beginning of an upload in parts is not repeated after a lost answer: it would leave an upload that
//!   nobody knows. The caller is told, who can look for it.
//! - A body broke off: it goes on from there with the version it began with.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use tokio::time::Instant;

use self::pace::{Pace, Turn};
use self::policy::{Budget, RetryConfig, delay};
use self::resume::{Relisting, Resuming};
use super::metered::names;
use super::parts_of;
use crate::body::{Body, ByteStream};
use crate::checksum::{CompositeDigest, Digest, Hasher, Verifier, VerifyingStream};
use crate::error::{Effect, Error, ErrorKind, Op, Result};
use crate::id::{FileId, Prefix};
use crate::metadata::FileMetadata;
use crate::storage::{
    Capabilities, Download, DownloadOptions, FileStorage, FinishOptions, ListOptions, PartLimits, PartNumber,
    PartReceipt, Precondition, PresignRequest, PresignedUrl, Receipt, ResumableUpload, UploadOptions,
    UploadTicket, Verified,
};

mod pace;
pub mod policy;
mod resume;

/// Repeats the operations of a storage that failed for a while.
///
/// What may be repeated is for the storage to say ([`Error::retry`]); how often and when is for the
/// [policy](RetryConfig); how many retries all operations together may make, for its [budget](Budget). While the
/// storage asks to slow down, first attempts wait as well, so that it is not asked for more than it gives. A probe
/// is not repeated: whoever asks wants to know how it is now.
pub struct RetryStorage {
    inner: Arc<dyn FileStorage>,
    shared: Arc<Shared>,
}

struct Shared {
    config: RetryConfig,
    name: String,
    budget: Mutex<Budget>,
    pace: Mutex<Pace>,
    start: Instant,
}

/// The attempts at one operation.
struct Attempts {
    shared: Arc<Shared>,
    op: Op,
    made: u32,
    /// When the last one began.
    begun: Duration,
    /// An answer was lost: the operation may have taken effect.
    lost: bool,
}

impl Shared {
    fn budget<T>(&self, act: impl FnOnce(&mut Budget) -> T) -> T {
        act(&mut self.budget.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn pace<T>(&self, act: impl FnOnce(&mut Pace) -> T) -> T {
        act(&mut self.pace.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Attempts {
    fn new(shared: &Arc<Shared>, op: Op) -> Self {
        shared.budget(|budget| budget.deposit(&shared.config));
        Self::unpaid(shared, op)
    }

    /// As [`new`](Self::new), for what is counted as an operation elsewhere.
    fn unpaid(shared: &Arc<Shared>, op: Op) -> Self {
        Self { shared: Arc::clone(shared), op, made: 0, begun: shared.start.elapsed(), lost: false }
    }

    /// Waits until the storage may be asked.
    async fn begin(&mut self) {
        loop {
            let now = self.shared.start.elapsed();
            match self.shared.pace(|pace| pace.begin(now)) {
                Turn::In(wait) => {
                    self.begun = now + wait;
                    if !wait.is_zero() {
                        tokio::time::sleep(wait).await;
                    }
                    return;
                }
                Turn::AskAgain(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// Waits until the next attempt is due, or fails with what the caller is to know.
    async fn after(&mut self, error: Error) -> Result<()> {
        self.made = self.made.saturating_add(1);
        self.lost |= error.effect() != Effect::None;
        if error.kind() == ErrorKind::Throttled {
            let now = self.shared.start.elapsed();
            self.shared.pace(|pace| pace.throttled(now, self.begun));
        }
        if self.lost && self.op == Op::BeginUpload {
            // The one operation that does something else each time.
            return Err(error);
        }
        let shared = &self.shared;
        let Some(delay) = delay(&shared.config, self.made, &error, rand::random()) else {
            return Err(self.last(error));
        };
        if !shared.budget(|budget| budget.withdraw(&shared.config, shared.start.elapsed())) {
            return Err(self.last(error));
        }
        metrics::counter!(
            names::RETRIES,
            "backend" => shared.name.clone(),
            "operation" => self.op.as_str(),
            "reason" => error.kind().as_str(),
        )
        .increment(1);
        tokio::time::sleep(delay).await;
        Ok(())
    }

    /// Says of the last error what is known of all attempts.
    fn last(&self, error: Error) -> Error {
        if self.lost && error.effect() == Effect::None { error.with_effect(Effect::Unknown) } else { error }
    }

    /// Tells whether the error may be about this operation's own, earlier effect.
    fn may_be_own(&self, error: &Error) -> bool {
        self.lost && matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::VersionMismatch)
    }
}

impl RetryStorage {
    /// Wraps a storage.
    ///
    /// # Errors
    /// Those of [`RetryConfig::validate`].
    pub fn new(inner: Arc<dyn FileStorage>, config: RetryConfig) -> Result<Self> {
        config.validate()?;
        let shared = Shared {
            config,
            name: inner.name().to_owned(),
            budget: Mutex::new(Budget::new(&config)),
            pace: Mutex::default(),
            start: Instant::now(),
        };
        Ok(Self { inner, shared: Arc::new(shared) })
    }

    async fn run<T, W>(&self, op: Op, mut attempt: impl FnMut() -> W + Send) -> Result<T>
    where
        W: Future<Output = Result<T>> + Send,
    {
        let mut attempts = Attempts::new(&self.shared, op);
        loop {
            attempts.begin().await;
            match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => attempts.after(error).await?,
            }
        }
    }

    /// Runs a conditional write; where it may have met its own file, `own` decides.
    async fn write<W, O>(
        &self,
        op: Op,
        mut attempt: impl FnMut() -> W + Send,
        own: impl FnOnce() -> O + Send,
    ) -> Result<Receipt>
    where
        W: Future<Output = Result<Receipt>> + Send,
        O: Future<Output = Result<Option<Receipt>>> + Send,
    {
        let mut attempts = Attempts::new(&self.shared, op);
        loop {
            attempts.begin().await;
            match attempt().await {
                Ok(receipt) => return Ok(receipt),
                Err(error) if attempts.may_be_own(&error) => {
                    return match own().await {
                        Ok(Some(receipt)) => Ok(receipt),
                        Ok(None) => Err(attempts.last(error)),
                        Err(gone) if gone.kind() == ErrorKind::NotFound => Err(attempts.last(error)),
                        // "It exists" would be taken for "it is not yours", which nobody knows.
                        Err(unknown) => Err(attempts.last(unknown.with_op(op))),
                    };
                }
                Err(error) => attempts.after(error).await?,
            }
        }
    }

    fn verified(&self) -> Verified {
        if self.inner.capabilities().verifies_sha256 { Verified::Backend } else { Verified::No }
    }

    /// Returns the receipt of the stored file if it is the one that was to be uploaded.
    async fn own_upload(&self, id: &FileId, body: &Body, options: &UploadOptions) -> Result<Option<Receipt>> {
        let metadata = self.metadata(id).await?;
        let attributes = metadata.file_name == options.file_name
            && metadata.created == options.created
            && metadata.tags == options.tags
            && (options.content_type.is_none() || metadata.content_type == options.content_type);
        if metadata.size != body.size() || !attributes {
            return Ok(None);
        }
        let expected = metadata.expected();
        let mut verifier = Verifier::new(expected);
        let mut stream = body.open().await?;
        while let Some(piece) = stream.try_next().await? {
            verifier.update(&piece);
        }
        let Ok(digest) = verifier.finish() else { return Ok(None) };
        let verified = match expected {
            Some(_) => self.verified(),
            None if self.read_back(&metadata).await? == digest => Verified::ReadBack,
            None => return Ok(None),
        };
        Ok(Some(Receipt::new(metadata, Some(digest), verified)))
    }

    async fn read_back(&self, metadata: &FileMetadata) -> Result<Digest> {
        let when = metadata.version.clone().map_or(Precondition::None, Precondition::Version);
        let options = DownloadOptions::default().with_when(when);
        let mut body = self.download(&metadata.id, options).await?.body;
        let mut hasher = Hasher::new();
        while let Some(piece) = body.try_next().await? {
            hasher.update(&piece);
        }
        Ok(hasher.finish())
    }

    /// Returns the receipt of the stored file if it is the copy that was to be made.
    async fn own_copy(&self, from: &FileId, to: &FileId, options: &UploadOptions) -> Result<Option<Receipt>> {
        let (source, target) = (self.metadata(from).await?, self.metadata(to).await?);
        let content_type = options.content_type.as_ref().or(source.content_type.as_ref());
        let file_name = options.file_name.as_ref().or(source.file_name.as_ref());
        let tags = if options.tags.is_empty() { &source.tags } else { &options.tags };
        let attributes = target.content_type.as_ref() == content_type
            && target.file_name.as_ref() == file_name
            && target.created == options.created.or(source.created)
            && target.tags == *tags;
        if source.size != target.size || !attributes {
            return Ok(None);
        }
        let (digest, verified) = if source.expected().is_some() && source.expected() == target.expected() {
            (target.digest, self.verified())
        } else {
            let digest = self.read_back(&target).await?;
            if self.read_back(&source).await? != digest {
                return Ok(None);
            }
            (Some(digest), Verified::ReadBack)
        };
        Ok(Some(Receipt::new(target, digest, verified)))
    }

    /// Returns the receipt of the stored file if it is made of these parts.
    async fn own_parts(
        &self,
        ticket: &UploadTicket,
        parts: &[PartReceipt],
        finish: &FinishOptions,
    ) -> Result<Option<Receipt>> {
        let metadata = self.metadata(&ticket.id).await?;
        let digests: Option<Vec<Digest>> = parts.iter().map(|part| part.digest).collect();
        let composite = digests.map(|digests| CompositeDigest::of_parts(ticket.part_size, &digests));
        let same_parts = composite.is_some() && composite == metadata.composite;
        let same_whole = finish.digest.is_some() && finish.digest == metadata.digest;
        if metadata.size != parts.iter().map(|part| part.size).sum::<u64>() || !(same_parts || same_whole) {
            return Ok(None);
        }
        let digest = metadata.digest.or(finish.digest);
        Ok(Some(Receipt::new(metadata, digest, self.verified())))
    }
}

impl fmt::Debug for RetryStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryStorage")
            .field("inner", &self.inner)
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl FileStorage for RetryStorage {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn upload(&self, id: &FileId, body: Body, options: UploadOptions) -> Result<Receipt> {
        self.write(
            Op::Upload,
            || self.inner.upload(id, body.clone(), options.clone()),
            || self.own_upload(id, &body, &options),
        )
        .await
    }

    async fn download(&self, id: &FileId, options: DownloadOptions) -> Result<Download> {
        if !self.shared.config.resume_downloads {
            return self.run(Op::Download, || self.inner.download(id, options.clone())).await;
        }
        // What is put together here is compared here, and once.
        let whole = options.range.is_none();
        let inner = options.clone().with_unverified(options.unverified || whole);
        let mut download = self.run(Op::Download, || self.inner.download(id, inner.clone())).await?;
        let verified = |body: ByteStream, metadata: &FileMetadata| {
            if !whole {
                return body;
            }
            let expected = metadata.expected().filter(|_| !options.unverified);
            VerifyingStream::new(body, metadata.size, expected, id.clone(), self.inner.name()).boxed()
        };
        let Some(version) = download.metadata.version.clone() else {
            download.body = verified(download.body, &download.metadata);
            return Ok(download);
        };
        let resuming = Resuming {
            inner: Arc::clone(&self.inner),
            attempts: Attempts::unpaid(&self.shared, Op::Download),
            id: id.clone(),
            version,
            body: download.body,
            position: download.range.start,
            end: download.range.end,
        };
        download.body = verified(resuming.into_stream(), &download.metadata);
        Ok(download)
    }

    async fn metadata(&self, id: &FileId) -> Result<FileMetadata> {
        self.run(Op::Metadata, || self.inner.metadata(id)).await
    }

    /// After a lost answer, a repeated deletion that finds nothing is told as `Ok(true)`: it was most likely
    /// this one that deleted, and nobody can tell.
    async fn delete(&self, id: &FileId, when: Precondition) -> Result<bool> {
        let mut attempts = Attempts::new(&self.shared, Op::Delete);
        loop {
            attempts.begin().await;
            match self.inner.delete(id, when.clone()).await {
                Ok(deleted) => return Ok(deleted || attempts.lost),
                Err(error) => attempts.after(error).await?,
            }
        }
    }

    fn list(&self, prefix: &Prefix, options: ListOptions) -> BoxStream<'static, Result<FileMetadata>> {
        let relisting = Relisting {
            inner: Arc::clone(&self.inner),
            attempts: Attempts::new(&self.shared, Op::List),
            prefix: prefix.clone(),
            listing: self.inner.list(prefix, options.clone()),
            options,
            told: 0,
            repeated: 0,
        };
        relisting.into_stream()
    }

    async fn copy(&self, from: &FileId, to: &FileId, options: UploadOptions) -> Result<Receipt> {
        self.write(
            Op::Copy,
            || self.inner.copy(from, to, options.clone()),
            || self.own_copy(from, to, &options),
        )
        .await
    }

    async fn presigned_url(&self, id: &FileId, request: PresignRequest) -> Result<PresignedUrl> {
        self.run(Op::Presign, || self.inner.presigned_url(id, request.clone())).await
    }

    async fn probe(&self, deadline: Duration) -> Result<()> {
        self.inner.probe(deadline).await
    }

    fn resumable(&self) -> Option<&dyn ResumableUpload> {
        self.inner.resumable().map(|_| self as &dyn ResumableUpload)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ResumableUpload for RetryStorage {
    fn limits(&self) -> PartLimits {
        self.inner.resumable().map_or(PartLimits::S3, ResumableUpload::limits)
    }

    /// After a lost answer there may be two open uploads; the one nobody knows is found by
    /// [`stale`](ResumableUpload::stale).
    async fn begin(&self, id: &FileId, part_size: u64, options: UploadOptions) -> Result<UploadTicket> {
        let parts = parts_of(&self.inner, Op::BeginUpload)?;
        self.run(Op::BeginUpload, || parts.begin(id, part_size, options.clone())).await
    }

    async fn put_part(
        &self,
        ticket: &UploadTicket,
        number: PartNumber,
        bytes: Bytes,
        digest: Digest,
    ) -> Result<PartReceipt> {
        let parts = parts_of(&self.inner, Op::PutPart)?;
        self.run(Op::PutPart, || parts.put_part(ticket, number, bytes.clone(), digest)).await
    }

    async fn parts(&self, ticket: &UploadTicket) -> Result<Vec<PartReceipt>> {
        let parts = parts_of(&self.inner, Op::ListParts)?;
        self.run(Op::ListParts, || parts.parts(ticket)).await
    }

    async fn finish(
        &self,
        ticket: &UploadTicket,
        held: &[PartReceipt],
        finish: FinishOptions,
    ) -> Result<Receipt> {
        let parts = parts_of(&self.inner, Op::FinishUpload)?;
        self.write(
            Op::FinishUpload,
            || parts.finish(ticket, held, finish.clone()),
            || self.own_parts(ticket, held, &finish),
        )
        .await
    }

    async fn abandon(&self, ticket: &UploadTicket) -> Result<()> {
        let parts = parts_of(&self.inner, Op::AbandonUpload)?;
        self.run(Op::AbandonUpload, || parts.abandon(ticket)).await
    }

    async fn stale(&self, older_than: Duration) -> Result<Vec<UploadTicket>> {
        let parts = parts_of(&self.inner, Op::ListUploads)?;
        self.run(Op::ListUploads, || parts.stale(older_than)).await
    }
}
