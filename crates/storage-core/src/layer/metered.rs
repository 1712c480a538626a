//! Counters, durations and spans of whole operations.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::parts_of;
use crate::body::Body;
use crate::checksum::Digest;
use crate::error::{Error, Op, Result};
use crate::id::{FileId, Prefix};
use crate::metadata::FileMetadata;
use crate::storage::{
    Capabilities, Download, DownloadOptions, FileStorage, FinishOptions, ListOptions, PartLimits, PartNumber,
    PartReceipt, Precondition, PresignRequest, PresignedUrl, Receipt, ResumableUpload, UploadOptions,
    UploadTicket,
};

pub mod names;

/// Counts and traces every operation of a storage; the names are in [`names`].
///
/// Uses the `metrics` facade and `tracing`: without a recorder and a subscriber both do next to nothing. Each
/// operation has a span `storage` at level DEBUG with the fields `storage`, `op`, `id` and `outcome`. An
/// operation that its caller dropped is counted as such; a download and a listing end with their stream.
#[derive(Debug)]
pub struct MeteredStorage {
    inner: Arc<dyn FileStorage>,
    name: Arc<str>,
}

impl MeteredStorage {
    /// Wraps a storage.
    pub fn new(inner: Arc<dyn FileStorage>) -> Self {
        let name = Arc::from(inner.name());
        Self { inner, name }
    }

    async fn measure<T>(
        &self,
        op: Op,
        id: Option<&FileId>,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let mut running = Running::new(&self.name, op, id);
        let result = work.instrument(running.span.clone()).await;
        running.answered(outcome(&result));
        running.end(outcome(&result));
        result
    }

    async fn write<T>(
        &self,
        op: Op,
        id: &FileId,
        bytes: u64,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let result = self.measure(op, Some(id), work).await;
        if result.is_ok() {
            count_bytes(&self.name, names::WRITE, bytes);
        }
        result
    }
}

fn outcome<T>(result: &Result<T>) -> &'static str {
    result.as_ref().map_or_else(|error: &Error| error.kind().as_str(), |_| names::OK)
}

fn count_bytes(storage: &Arc<str>, direction: &'static str, bytes: u64) {
    metrics::counter!(names::BYTES, "backend" => Arc::clone(storage), "direction" => direction)
        .increment(bytes);
}

/// An operation that runs until it is ended or dropped.
struct Running {
    storage: Arc<str>,
    op: Op,
    span: Span,
    start: Instant,
    answered: bool,
    ended: bool,
}

impl Running {
    fn new(storage: &Arc<str>, op: Op, id: Option<&FileId>) -> Self {
        let span = tracing::debug_span!(
            "storage",
            storage = &**storage,
            op = op.as_str(),
            id = Empty,
            outcome = Empty
        );
        if let Some(id) = id {
            // Escaped: a name may hold newlines or terminal control codes.
            span.record("id", tracing::field::debug(id));
        }
        let running = Self {
            storage: Arc::clone(storage),
            op,
            span,
            start: Instant::now(),
            answered: false,
            ended: false,
        };
        running.inflight().increment(1.0);
        running
    }

    fn inflight(&self) -> metrics::Gauge {
        metrics::gauge!(
            names::INFLIGHT, "backend" => Arc::clone(&self.storage), "operation" => self.op.as_str()
        )
    }

    /// Records the time until the answer, once.
    fn answered(&mut self, outcome: &'static str) {
        if !std::mem::replace(&mut self.answered, true) {
            metrics::histogram!(
                names::DURATION,
                "backend" => Arc::clone(&self.storage),
                "operation" => self.op.as_str(),
                "outcome" => outcome,
            )
            .record(self.start.elapsed().as_secs_f64());
        }
    }

    /// Counts the operation, once.
    fn end(&mut self, outcome: &'static str) {
        if !std::mem::replace(&mut self.ended, true) {
            self.span.record("outcome", outcome);
            self.inflight().decrement(1.0);
            metrics::counter!(
                names::OPERATIONS,
                "backend" => Arc::clone(&self.storage),
                "operation" => self.op.as_str(),
                "outcome" => outcome,
            )
            .increment(1);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end(names::DROPPED);
    }
}

/// Ends the operation with its stream.
fn measured<T: Send + 'static>(
    inner: BoxStream<'static, Result<T>>,
    running: Running,
    count: impl Fn(&Running, &T) + Send + 'static,
) -> BoxStream<'static, Result<T>> {
    stream::unfold((inner, running, count), |(mut inner, mut running, count)| async move {
        let item = inner.next().instrument(running.span.clone()).await;
        match &item {
            Some(Ok(value)) => {
                running.answered(names::OK);
                count(&running, value);
            }
            // An error about one entry of a listing does not end it.
            Some(Err(error))
                if running.op == Op::List && (error.id().is_some() || error.subject().is_some()) => {}
            Some(Err(error)) => {
                running.answered(error.kind().as_str());
                running.end(error.kind().as_str());
            }
            None => {
                running.answered(names::OK);
                running.end(names::OK);
            }
        }
        item.map(|item| (item, (inner, running, count)))
    })
    .fuse()
    .boxed()
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl FileStorage for MeteredStorage {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn upload(&self, id: &FileId, body: Body, options: UploadOptions) -> Result<Receipt> {
        let size = body.size();
        self.write(Op::Upload, id, size, self.inner.upload(id, body, options)).await
    }

    async fn download(&self, id: &FileId, options: DownloadOptions) -> Result<Download> {
        let mut running = Running::new(&self.name, Op::Download, Some(id));
        let span = running.span.clone();
        let result = self.inner.download(id, options).instrument(span).await;
        running.answered(outcome(&result));
        match result {
            Ok(mut download) => {
                download.body = measured(download.body, running, |running, piece: &Bytes| {
                    count_bytes(&running.storage, names::READ, piece.len() as u64);
                });
                Ok(download)
            }
            Err(error) => {
                running.end(error.kind().as_str());
                Err(error)
            }
        }
    }

    async fn metadata(&self, id: &FileId) -> Result<FileMetadata> {
        self.measure(Op::Metadata, Some(id), self.inner.metadata(id)).await
    }

    async fn delete(&self, id: &FileId, when: Precondition) -> Result<bool> {
        self.measure(Op::Delete, Some(id), self.inner.delete(id, when)).await
    }

    fn list(&self, prefix: &Prefix, options: ListOptions) -> BoxStream<'static, Result<FileMetadata>> {
        let running = Running::new(&self.name, Op::List, None);
        let listing = running.span.in_scope(|| self.inner.list(prefix, options));
        measured(listing, running, |_, _| {})
    }

    async fn copy(&self, from: &FileId, to: &FileId, options: UploadOptions) -> Result<Receipt> {
        self.measure(Op::Copy, Some(to), self.inner.copy(from, to, options)).await
    }

    async fn presigned_url(&self, id: &FileId, request: PresignRequest) -> Result<PresignedUrl> {
        self.measure(Op::Presign, Some(id), self.inner.presigned_url(id, request)).await
    }

    async fn probe(&self, deadline: Duration) -> Result<()> {
        self.measure(Op::Probe, None, self.inner.probe(deadline)).await
    }

    fn resumable(&self) -> Option<&dyn ResumableUpload> {
        self.inner.resumable().map(|_| self as &dyn ResumableUpload)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ResumableUpload for MeteredStorage {
    fn limits(&self) -> PartLimits {
        self.inner.resumable().map_or(PartLimits::S3, ResumableUpload::limits)
    }

    async fn begin(&self, id: &FileId, part_size: u64, options: UploadOptions) -> Result<UploadTicket> {
        let parts = parts_of(&self.inner, Op::BeginUpload)?;
        self.measure(Op::BeginUpload, Some(id), parts.begin(id, part_size, options)).await
    }

    async fn put_part(
        &self,
        ticket: &UploadTicket,
        number: PartNumber,
        bytes: Bytes,
        digest: Digest,
    ) -> Result<PartReceipt> {
        let size = bytes.len() as u64;
        let work = parts_of(&self.inner, Op::PutPart)?.put_part(ticket, number, bytes, digest);
        self.write(Op::PutPart, &ticket.id, size, work).await
    }

    async fn parts(&self, ticket: &UploadTicket) -> Result<Vec<PartReceipt>> {
        let parts = parts_of(&self.inner, Op::ListParts)?;
        self.measure(Op::ListParts, Some(&ticket.id), parts.parts(ticket)).await
    }

    async fn finish(
        &self,
        ticket: &UploadTicket,
        held: &[PartReceipt],
        finish: FinishOptions,
    ) -> Result<Receipt> {
        let parts = parts_of(&self.inner, Op::FinishUpload)?;
        self.measure(Op::FinishUpload, Some(&ticket.id), parts.finish(ticket, held, finish)).await
    }

    async fn abandon(&self, ticket: &UploadTicket) -> Result<()> {
        let parts = parts_of(&self.inner, Op::AbandonUpload)?;
        self.measure(Op::AbandonUpload, Some(&ticket.id), parts.abandon(ticket)).await
    }

    async fn stale(&self, older_than: Duration) -> Result<Vec<UploadTicket>> {
        let parts = parts_of(&self.inner, Op::ListUploads)?;
        self.measure(Op::ListUploads, None, parts.stale(older_than)).await
    }
}
