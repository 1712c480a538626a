//! A bound on how many operations a storage runs at the same time.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use serde::Deserialize;

use super::parts_of;
use crate::body::{Body, ByteStream};
use crate::checksum::Digest;
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::{FileId, Prefix};
use crate::metadata::FileMetadata;
use crate::storage::{
    Capabilities, Download, DownloadOptions, FileStorage, FinishOptions, ListOptions, PartLimits, PartNumber,
    PartReceipt, Precondition, PresignRequest, PresignedUrl, Receipt, ResumableUpload, UploadOptions,
    UploadTicket,
};

pub use self::permit::Bound;

use self::permit::Permit;

mod aimd;
mod permit;

/// How many operations run at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct LimitConfig {
    /// Operations at a time. Default 64: more keep no disk and no server busier, and each may hold a
    /// connection and the buffers of one part.
    pub concurrency: NonZeroU32,
    /// Lower the number when the storage says that it is too many ([`ErrorKind::Throttled`]), does not answer in time or
    /// answers much later than it does at best, and raise it again when it no longer does. Default: false, as whoever
    /// shares the storage with others may want his full share.
    pub adaptive: bool,
}

impl LimitConfig {
    /// Sets how many operations run at a time.
    #[must_use]
    pub fn with_concurrency(mut self, concurrency: NonZeroU32) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// Sets whether the number follows what the storage can take.
    #[must_use]
    pub fn with_adaptive(mut self, adaptive: bool) -> Self {
        self.adaptive = adaptive;
        self
    }
}

impl Default for LimitConfig {
    fn default() -> Self {
        const DEFAULT: NonZeroU32 = NonZeroU32::new(64).unwrap();
        Self { concurrency: DEFAULT, adaptive: false }
    }
}

/// Lets so many operations of a storage run at the same time; the others wait in turn.
///
/// The permit of a download lives until its body has ended or is dropped: whoever holds a body holds a permit,
/// and must not wait for another operation of the same storage meanwhile when the limit is 1. A listing takes
/// no permit: it is one request per page, and a consumer that acts on each file it sees would otherwise wait
/// for itself. Neither does a probe, which asks whether the storage answers and not how long the queue is, nor
/// a presigned URL, which asks nobody. No path takes two permits.
#[derive(Debug)]
pub struct LimitStorage {
    inner: Arc<dyn FileStorage>,
    bound: Bound,
}

impl LimitStorage {
    /// Wraps a storage.
    pub fn new(inner: Arc<dyn FileStorage>, config: LimitConfig) -> Self {
        let bound = Bound::new(config.concurrency.get(), config.adaptive, inner.name());
        Self { inner, bound }
    }

    /// Returns a handle on how many operations may run, to watch it.
    pub fn bound(&self) -> Bound {
        self.bound.clone()
    }

    async fn permit(&self, op: Op) -> Result<Permit> {
        self.bound.acquire().await.map_err(|error| {
            // Nobody closes the semaphore.
            Error::new(ErrorKind::Other, op).with_storage(self.inner.name()).with_source(error)
        })
    }

    /// Carries out an operation with a permit, and takes what came of it.
    async fn bounded<T>(&self, op: Op, bytes: u64, work: impl Future<Output = Result<T>>) -> Result<T> {
        let permit = self.permit(op).await?;
        let result = work.await;
        permit.answered(op, bytes, &result);
        result
    }
}

/// Keeps the permit until the last item, an error or the drop.
fn holding(body: ByteStream, permit: Permit) -> ByteStream {
    stream::unfold(Some((body, permit)), |state| async move {
        let (mut body, permit) = state?;
        match body.next().await? {
            Ok(piece) => Some((Ok(piece), Some((body, permit)))),
            Err(error) => Some((Err(error), None)),
        }
    })
    .fuse()
    .boxed()
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl FileStorage for LimitStorage {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn upload(&self, id: &FileId, body: Body, options: UploadOptions) -> Result<Receipt> {
        let bytes = body.size();
        self.bounded(Op::Upload, bytes, self.inner.upload(id, body, options)).await
    }

    async fn download(&self, id: &FileId, options: DownloadOptions) -> Result<Download> {
        let permit = self.permit(Op::Download).await?;
        let result = self.inner.download(id, options).await;
        permit.answered(Op::Download, 0, &result);
        let mut download = result?;
        download.body = holding(download.body, permit);
        Ok(download)
    }

    async fn metadata(&self, id: &FileId) -> Result<FileMetadata> {
        self.bounded(Op::Metadata, 0, self.inner.metadata(id)).await
    }

    async fn delete(&self, id: &FileId, when: Precondition) -> Result<bool> {
        self.bounded(Op::Delete, 0, self.inner.delete(id, when)).await
    }

    fn list(&self, prefix: &Prefix, options: ListOptions) -> BoxStream<'static, Result<FileMetadata>> {
        self.inner.list(prefix, options)
    }

    async fn copy(&self, from: &FileId, to: &FileId, options: UploadOptions) -> Result<Receipt> {
        self.bounded(Op::Copy, 0, self.inner.copy(from, to, options)).await
    }

    async fn presigned_url(&self, id: &FileId, request: PresignRequest) -> Result<PresignedUrl> {
        self.inner.presigned_url(id, request).await
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
impl ResumableUpload for LimitStorage {
    fn limits(&self) -> PartLimits {
        self.inner.resumable().map_or(PartLimits::S3, ResumableUpload::limits)
    }

    async fn begin(&self, id: &FileId, part_size: u64, options: UploadOptions) -> Result<UploadTicket> {
        self.bounded(
            Op::BeginUpload,
            0,
            parts_of(&self.inner, Op::BeginUpload)?.begin(id, part_size, options),
        )
        .await
    }

    async fn put_part(
        &self,
        ticket: &UploadTicket,
        number: PartNumber,
        bytes: Bytes,
        digest: Digest,
    ) -> Result<PartReceipt> {
        let size = bytes.len() as u64;
        self.bounded(
            Op::PutPart,
            size,
            parts_of(&self.inner, Op::PutPart)?.put_part(ticket, number, bytes, digest),
        )
        .await
    }

    async fn parts(&self, ticket: &UploadTicket) -> Result<Vec<PartReceipt>> {
        self.bounded(Op::ListParts, 0, parts_of(&self.inner, Op::ListParts)?.parts(ticket)).await
    }

    async fn finish(
        &self,
        ticket: &UploadTicket,
        parts: &[PartReceipt],
        finish: FinishOptions,
    ) -> Result<Receipt> {
        self.bounded(
            Op::FinishUpload,
            0,
            parts_of(&self.inner, Op::FinishUpload)?.finish(ticket, parts, finish),
        )
        .await
    }

    async fn abandon(&self, ticket: &UploadTicket) -> Result<()> {
        self.bounded(Op::AbandonUpload, 0, parts_of(&self.inner, Op::AbandonUpload)?.abandon(ticket)).await
    }

    async fn stale(&self, older_than: Duration) -> Result<Vec<UploadTicket>> {
        self.bounded(Op::ListUploads, 0, parts_of(&self.inner, Op::ListUploads)?.stale(older_than)).await
    }
}
