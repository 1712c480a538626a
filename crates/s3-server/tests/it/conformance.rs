//! A storage behind this server is still a storage: the whole suite, by way of S3.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use s3_server::{RunningServer, Server, ServerConfig};
use storage_core::backend::local::{LocalConfig, LocalStorage};
use storage_core::backend::memory::MemoryStorage;
use storage_core::backend::s3::{S3Config, S3Storage};
use storage_core::body::Body;
use storage_core::error::Result;
use storage_core::id::{FileId, Prefix};
use storage_core::metadata::FileMetadata;
use storage_core::storage::{
    Access, Capabilities, Download, DownloadOptions, FileStorage, ListOptions, Precondition, PresignRequest,
    PresignedUrl, Receipt, ResumableUpload, UploadOptions,
};
use storage_core::testkit::conformance::Fixture;

const BUCKET: &str = "bucket";

async fn serve(storage: Arc<dyn FileStorage>) -> RunningServer {
    let config = ServerConfig::new().with_bucket(BUCKET, storage).with_random_credentials();
    Server::bind(config, ([127, 0, 0, 1], 0).into()).await.unwrap().spawn()
}

async fn client(server: &RunningServer, access: Access) -> Arc<dyn FileStorage> {
    let config = S3Config::new(BUCKET)
        .with_endpoint(server.endpoint())
        .with_region(server.region())
        .with_access(access)
        .with_part_size(5 << 20)
        .with_static_credentials(server.access_key(), server.secret_key());
    Arc::new(S3Storage::connect(config).await.unwrap())
}

async fn over_memory() -> Fixture {
    let server = serve(Arc::new(MemoryStorage::new())).await;
    // No corruption here: the server finds it first and breaks off, which a client cannot tell from an outage;
    // see `faults::corrupt_bytes_never_look_like_a_whole_file`.
    Fixture::new(client(&server, Access::ReadWrite).await)
        .with_another(client(&server, Access::ReadWrite).await)
        .with_read_only(client(&server, Access::ReadOnly).await)
        .with_guard(server)
        .with_many(1_100)
}

async fn over_local() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let storage = LocalStorage::open(LocalConfig::new(directory.path())).await.unwrap();
    let server = serve(Arc::new(storage)).await;
    Fixture::new(flat(client(&server, Access::ReadWrite).await))
        .with_another(flat(client(&server, Access::ReadWrite).await))
        .with_read_only(flat(client(&server, Access::ReadOnly).await))
        .with_guard((server, directory))
}

storage_core::conformance!(memory, over_memory);
storage_core::conformance!(local, over_local);

/// An S3 client cannot know that files and directories share their names behind the server.
#[derive(Debug)]
struct Flat(Arc<dyn FileStorage>);

fn flat(storage: Arc<dyn FileStorage>) -> Arc<dyn FileStorage> {
    Arc::new(Flat(storage))
}

#[async_trait::async_trait]
#[deny(clippy::missing_trait_methods)]
impl FileStorage for Flat {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.0.capabilities();
        capabilities.nested_ids = false;
        capabilities
    }

    async fn upload(&self, id: &FileId, body: Body, options: UploadOptions) -> Result<Receipt> {
        self.0.upload(id, body, options).await
    }

    async fn download(&self, id: &FileId, options: DownloadOptions) -> Result<Download> {
        self.0.download(id, options).await
    }

    async fn metadata(&self, id: &FileId) -> Result<FileMetadata> {
        self.0.metadata(id).await
    }

    async fn delete(&self, id: &FileId, when: Precondition) -> Result<bool> {
        self.0.delete(id, when).await
    }

    fn list(&self, prefix: &Prefix, options: ListOptions) -> BoxStream<'static, Result<FileMetadata>> {
        self.0.list(prefix, options)
    }

    async fn copy(&self, from: &FileId, to: &FileId, options: UploadOptions) -> Result<Receipt> {
        self.0.copy(from, to, options).await
    }

    async fn presigned_url(&self, id: &FileId, request: PresignRequest) -> Result<PresignedUrl> {
        self.0.presigned_url(id, request).await
    }

    async fn probe(&self, deadline: Duration) -> Result<()> {
        self.0.probe(deadline).await
    }

    fn resumable(&self) -> Option<&dyn ResumableUpload> {
        self.0.resumable()
    }
}
