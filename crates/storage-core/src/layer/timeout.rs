//! Deadlines: a call that hangs becomes a call that fails.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use super::parts_of;
use super::queue::Queue;
use crate::body::Body;
use crate::checksum::Digest;
use crate::error::{Effect, Error, ErrorKind, Op, Result};
use crate::id::{FileId, Prefix};
use crate::metadata::FileMetadata;
use crate::storage::{
    Capabilities, Download, DownloadOptions, FileStorage, FinishOptions, ListOptions, PartLimits, PartNumber,
    PartReceipt, Precondition, PresignRequest, PresignedUrl, Receipt, ResumableUpload, UploadOptions,
    UploadTicket,
};

/// How long operations may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct TimeoutConfig {
    /// For any operation, besides what its bytes take. Default 30 s: servers under load answer small
    /// requests late, and a first connection may try several addresses.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::required")]
    pub base: Duration,
    /// Least bytes per second; an upload of `n` bytes may take `base + n / rate`. Default 131,072 (1 Mbit/s):
    /// slower links exist, but not between a service and its storage.
    pub min_bytes_per_second: u64,
    /// Between two pieces of a body or two files of a listing. Default 30 s, as `base`.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::required")]
    pub stall: Duration,
    /// For what the server does by itself with bytes it has: a copy, the joining of parts. Default 10 min: a
    /// copy of 5 GiB, the most in one request, takes minutes.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::required")]
    pub server_side: Duration,
}

impl Default for TimeoutConfig {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(30),
            min_bytes_per_second: 128 << 10,
            stall: Duration::from_secs(30),
            server_side: Duration::from_secs(600),
        }
    }
}

impl TimeoutConfig {
    /// Sets the time for any operation.
    #[must_use]
    pub fn with_base(mut self, base: Duration) -> Self {
        self.base = base;
        self
    }

    /// Sets the time between two pieces of a body.
    #[must_use]
    pub fn with_stall(mut self, stall: Duration) -> Self {
        self.stall = stall;
        self
    }

    /// Refuses what is no deadline.
    ///
    /// # Errors
    /// [`ErrorKind::Misconfigured`] when a time or the rate is 0.
    pub fn validate(&self) -> Result<()> {
        for (name, zero) in [
            ("base", self.base.is_zero()),
            ("stall", self.stall.is_zero()),
            ("server_side", self.server_side.is_zero()),
            ("min_bytes_per_second", self.min_bytes_per_second == 0),
        ] {
            if zero {
                return Err(Error::new(ErrorKind::Misconfigured, Op::Open)
                    .with_message(format!("timeout: {name} is 0")));
            }
        }
        Ok(())
    }

    fn transfer(&self, bytes: u64) -> Duration {
        self.base + Duration::from_secs(bytes / self.min_bytes_per_second)
    }
}

/// Puts a deadline on every operation of a storage.
///
/// What ran out of time is dropped and fails with [`Timeout`](ErrorKind::Timeout); where it would have written,
/// its effect is [`Unknown`](Effect::Unknown). The deadline of a read is for its answer, then each piece of the
/// body has the stall time, which runs only while a reader waits: a slow reader is no slow storage. The clock of a
/// side of a fallback stands still while the call waits for a permit of a limit within.
#[derive(Debug)]
pub struct TimeoutStorage {
    inner: Arc<dyn FileStorage>,
    config: TimeoutConfig,
}

impl TimeoutStorage {
    /// Wraps a storage.
    ///
    /// # Errors
    /// Those of [`TimeoutConfig::validate`].
    pub fn new(inner: Arc<dyn FileStorage>, config: TimeoutConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self { inner, config })
    }

    async fn within<T>(
        &self,
        limit: Duration,
        effect: Effect,
        op: Op,
        id: Option<&FileId>,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let result = match Queue::current() {
            None => timeout(limit, work).await.ok(),
            Some(queue) => within_turns(limit, &queue, work).await,
        };
        result.unwrap_or_else(|| Err(timed_out(self.inner.name(), limit, op, id).with_effect(effect)))
    }
}

/// Runs `work` for at most `limit`, without the time that it waits for its turns. Nothing where that was over.
async fn within_turns<T>(limit: Duration, queue: &Queue, work: impl Future<Output = T>) -> Option<T> {
    let (mut work, mut sleep) = (pin!(work), pin!(sleep(limit)));
    let (ends, before) = (sleep.deadline(), queue.waited());
    poll_fn(|context| {
        if let Poll::Ready(result) = work.as_mut().poll(context) {
            return Poll::Ready(Some(result));
        }
        // The turn that is waited for wakes this task.
        if queue.is_waiting() {
            return Poll::Pending;
        }
        let deadline = ends + queue.waited().saturating_sub(before);
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(context).map(|()| None)
    })
    .await
}

fn timed_out(storage: &str, limit: Duration, op: Op, id: Option<&FileId>) -> Error {
    let error = Error::new(ErrorKind::Timeout, op)
        .with_storage(storage)
        .with_message(format!("no answer within {limit:?}"));
    match id {
        Some(id) => error.with_id(id),
        None => error,
    }
}

/// Ends a stream in `error` when an item takes longer than `limit` to come.
fn unstalled<T: Send + 'static>(
    inner: BoxStream<'static, Result<T>>,
    limit: Duration,
    error: impl FnOnce() -> Error + Send + 'static,
) -> BoxStream<'static, Result<T>> {
    stream::unfold(Some((inner, error)), move |state| async move {
        let (mut inner, error) = state?;
        match timeout(limit, inner.next()).await {
            Ok(item) => item.map(|item| (item, Some((inner, error)))),
            Err(_) => Some((Err(error()), None)),
        }
    })
    .fuse()
    .boxed()
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl FileStorage for TimeoutStorage {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn upload(&self, id: &FileId, body: Body, options: UploadOptions) -> Result<Receipt> {
        let limit = self.config.transfer(body.size());
        let work = self.inner.upload(id, body, options);
        self.within(limit, Effect::Unknown, Op::Upload, Some(id), work).await
    }

    async fn download(&self, id: &FileId, options: DownloadOptions) -> Result<Download> {
        let work = self.inner.download(id, options);
        let mut download = self.within(self.config.base, Effect::None, Op::Download, Some(id), work).await?;
        let (limit, id, storage) = (self.config.stall, id.clone(), self.inner.name().to_owned());
        download.body =
            unstalled(download.body, limit, move || timed_out(&storage, limit, Op::Download, Some(&id)));
        Ok(download)
    }

    async fn metadata(&self, id: &FileId) -> Result<FileMetadata> {
        let work = self.inner.metadata(id);
        self.within(self.config.base, Effect::None, Op::Metadata, Some(id), work).await
    }

    async fn delete(&self, id: &FileId, when: Precondition) -> Result<bool> {
        let work = self.inner.delete(id, when);
        self.within(self.config.base, Effect::Unknown, Op::Delete, Some(id), work).await
    }

    fn list(&self, prefix: &Prefix, options: ListOptions) -> BoxStream<'static, Result<FileMetadata>> {
        let (limit, storage) = (self.config.stall, self.inner.name().to_owned());
        unstalled(self.inner.list(prefix, options), limit, move || timed_out(&storage, limit, Op::List, None))
    }

    async fn copy(&self, from: &FileId, to: &FileId, options: UploadOptions) -> Result<Receipt> {
        let work = self.inner.copy(from, to, options);
        self.within(self.config.server_side, Effect::Unknown, Op::Copy, Some(to), work).await
    }

    async fn presigned_url(&self, id: &FileId, request: PresignRequest) -> Result<PresignedUrl> {
        let work = self.inner.presigned_url(id, request);
        self.within(self.config.base, Effect::None, Op::Presign, Some(id), work).await
    }

    /// The caller's deadline is the limit: it holds even where the storage does not keep to it.
    async fn probe(&self, deadline: Duration) -> Result<()> {
        self.within(deadline, Effect::Unknown, Op::Probe, None, self.inner.probe(deadline)).await
    }

    fn resumable(&self) -> Option<&dyn ResumableUpload> {
        self.inner.resumable().map(|_| self as &dyn ResumableUpload)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ResumableUpload for TimeoutStorage {
    fn limits(&self) -> PartLimits {
        self.inner.resumable().map_or(PartLimits::S3, ResumableUpload::limits)
    }

    async fn begin(&self, id: &FileId, part_size: u64, options: UploadOptions) -> Result<UploadTicket> {
        let work = parts_of(&self.inner, Op::BeginUpload)?.begin(id, part_size, options);
        self.within(self.config.base, Effect::Unknown, Op::BeginUpload, Some(id), work).await
    }

    async fn put_part(
        &self,
        ticket: &UploadTicket,
        number: PartNumber,
        bytes: Bytes,
        digest: Digest,
    ) -> Result<PartReceipt> {
        let limit = self.config.transfer(bytes.len() as u64);
        let work = parts_of(&self.inner, Op::PutPart)?.put_part(ticket, number, bytes, digest);
        self.within(limit, Effect::Unknown, Op::PutPart, Some(&ticket.id), work).await
    }

    async fn parts(&self, ticket: &UploadTicket) -> Result<Vec<PartReceipt>> {
        let work = parts_of(&self.inner, Op::ListParts)?.parts(ticket);
        self.within(self.config.base, Effect::None, Op::ListParts, Some(&ticket.id), work).await
    }

    async fn finish(
        &self,
        ticket: &UploadTicket,
        parts: &[PartReceipt],
        finish: FinishOptions,
    ) -> Result<Receipt> {
        let limit = self.config.server_side;
        let work = parts_of(&self.inner, Op::FinishUpload)?.finish(ticket, parts, finish);
        self.within(limit, Effect::Unknown, Op::FinishUpload, Some(&ticket.id), work).await
    }

    async fn abandon(&self, ticket: &UploadTicket) -> Result<()> {
        let work = parts_of(&self.inner, Op::AbandonUpload)?.abandon(ticket);
        self.within(self.config.base, Effect::Unknown, Op::AbandonUpload, Some(&ticket.id), work).await
    }

    async fn stale(&self, older_than: Duration) -> Result<Vec<UploadTicket>> {
        // A listing of all open uploads takes many requests on a large bucket.
        let work = parts_of(&self.inner, Op::ListUploads)?.stale(older_than);
        self.within(self.config.server_side, Effect::None, Op::ListUploads, None, work).await
    }
}
