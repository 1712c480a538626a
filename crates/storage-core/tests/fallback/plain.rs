//! A server that compares nothing: what it is asked to compare it refuses, and it says so.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use storage_core::body::Body;
use storage_core::error::{Error, ErrorKind, Op, Result};
use storage_core::id::{FileId, Prefix};
use storage_core::metadata::FileMetadata;
use storage_core::storage::{
    Capabilities, Download, DownloadOptions, FileStorage, ListOptions, Precondition, PresignRequest,
    PresignedUrl, Receipt, ResumableUpload, UploadOptions, Verified,
};

#[derive(Clone, Debug)]
pub(crate) struct Plain {
    inner: Arc<dyn FileStorage>,
    versions: bool,
    verifies: bool,
}

impl Plain {
    pub(crate) fn around(inner: Arc<dyn FileStorage>) -> Self {
        Self { inner, versions: true, verifies: true }
    }

    /// It has no versions either.
    pub(crate) fn without_versions(self) -> Self {
        Self { versions: false, ..self }
    }

    /// Nor does it check what it has stored.
    pub(crate) fn without_verification(self) -> Self {
        Self { verifies: false, ..self }
    }

    fn show(&self, mut metadata: FileMetadata) -> FileMetadata {
        metadata.version = metadata.version.filter(|_| self.versions);
        metadata
    }

    fn check(&self, when: &Precondition, op: Op) -> Result<()> {
        if *when == Precondition::None {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unsupported, op).with_storage(self.inner.name()))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl FileStorage for Plain {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        let mut can = self.inner.capabilities();
        (can.conditional_create, can.conditional_replace, can.conditional_delete) = (false, false, false);
        can
    }

    async fn upload(&self, id: &FileId, body: Body, options: UploadOptions) -> Result<Receipt> {
        self.check(&options.when, Op::Upload)?;
        let mut receipt = self.inner.upload(id, body, options).await?;
        receipt.metadata = self.show(receipt.metadata);
        if !self.verifies {
            receipt.verified = Verified::No;
        }
        Ok(receipt)
    }

    async fn download(&self, id: &FileId, options: DownloadOptions) -> Result<Download> {
        let mut download = self.inner.download(id, options).await?;
        download.metadata = self.show(download.metadata);
        Ok(download)
    }

    async fn metadata(&self, id: &FileId) -> Result<FileMetadata> {
        Ok(self.show(self.inner.metadata(id).await?))
    }

    async fn delete(&self, id: &FileId, when: Precondition) -> Result<bool> {
        self.check(&when, Op::Delete)?;
        self.inner.delete(id, when).await
    }

    fn list(&self, prefix: &Prefix, options: ListOptions) -> BoxStream<'static, Result<FileMetadata>> {
        let plain = self.clone();
        self.inner.list(prefix, options).map_ok(move |file| plain.show(file)).boxed()
    }

    async fn copy(&self, from: &FileId, to: &FileId, options: UploadOptions) -> Result<Receipt> {
        self.check(&options.when, Op::Copy)?;
        let mut receipt = self.inner.copy(from, to, options).await?;
        receipt.metadata = self.show(receipt.metadata);
        Ok(receipt)
    }

    async fn presigned_url(&self, id: &FileId, request: PresignRequest) -> Result<PresignedUrl> {
        self.inner.presigned_url(id, request).await
    }

    async fn probe(&self, deadline: Duration) -> Result<()> {
        self.inner.probe(deadline).await
    }

    fn resumable(&self) -> Option<&dyn ResumableUpload> {
        None
    }
}
