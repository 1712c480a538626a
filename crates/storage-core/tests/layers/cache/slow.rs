//! A storage whose answers to reads are late: they were true when they were given.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::stream::BoxStream;
use storage_core::body::Body;
use storage_core::error::Result;
use storage_core::id::{FileId, Prefix};
use storage_core::metadata::FileMetadata;
use storage_core::storage::{
    Capabilities, Download, DownloadOptions, FileStorage, ListOptions, Precondition, PresignRequest,
    PresignedUrl, Receipt, ResumableUpload, UploadOptions,
};
use tokio::sync::Semaphore;

/// Holds answers back until the gate is opened, or for a random while.
#[derive(Clone)]
pub(super) struct SlowStorage {
    inner: Arc<dyn FileStorage>,
    held: Option<Arc<Semaphore>>,
    waiting: Arc<AtomicU64>,
}

impl SlowStorage {
    pub(super) fn gated(inner: Arc<dyn FileStorage>) -> Self {
        Self { inner, held: Some(Arc::new(Semaphore::new(0))), waiting: Arc::default() }
    }

    pub(super) fn random(inner: Arc<dyn FileStorage>) -> Self {
        Self { inner, held: None, waiting: Arc::default() }
    }

    /// Waits until so many answers have been held back in all.
    pub(super) async fn wait_for(&self, count: u64) {
        let start = Instant::now();
        while self.waiting.load(Ordering::SeqCst) < count {
            assert!(start.elapsed() < Duration::from_secs(60), "the storage was not asked {count} times");
            tokio::task::yield_now().await;
        }
    }

    pub(super) fn open(&self) {
        self.held.as_ref().unwrap().close();
    }

    async fn hold(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        match &self.held {
            // The error says that the gate was opened for good.
            Some(held) => drop(held.acquire().await),
            None if rand::random_ratio(1, 4) => {
                tokio::time::sleep(Duration::from_micros(rand::random_range(0..2_000))).await;
            }
            None => tokio::task::yield_now().await,
        }
    }
}

impl fmt::Debug for SlowStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlowStorage").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl FileStorage for SlowStorage {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn upload(&self, id: &FileId, body: Body, options: UploadOptions) -> Result<Receipt> {
        self.inner.upload(id, body, options).await
    }

    async fn download(&self, id: &FileId, options: DownloadOptions) -> Result<Download> {
        let answer = self.inner.download(id, options).await;
        self.hold().await;
        answer
    }

    async fn metadata(&self, id: &FileId) -> Result<FileMetadata> {
        let answer = self.inner.metadata(id).await;
        self.hold().await;
        answer
    }

    async fn delete(&self, id: &FileId, when: Precondition) -> Result<bool> {
        self.inner.delete(id, when).await
    }

    fn list(&self, prefix: &Prefix, options: ListOptions) -> BoxStream<'static, Result<FileMetadata>> {
        self.inner.list(prefix, options)
    }

    async fn copy(&self, from: &FileId, to: &FileId, options: UploadOptions) -> Result<Receipt> {
        self.inner.copy(from, to, options).await
    }

    async fn presigned_url(&self, id: &FileId, request: PresignRequest) -> Result<PresignedUrl> {
        self.inner.presigned_url(id, request).await
    }

    async fn probe(&self, deadline: Duration) -> Result<()> {
        self.inner.probe(deadline).await
    }

    fn resumable(&self) -> Option<&dyn ResumableUpload> {
        self.inner.resumable()
    }
}
