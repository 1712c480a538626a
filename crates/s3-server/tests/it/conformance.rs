//! A storage behind this server is still a storage: the whole suite, by way of S3.

use std::sync::Arc;

use s3_server::{RunningServer, Server, ServerConfig};
use storage_core::backend::local::{LocalConfig, LocalStorage};
use storage_core::backend::memory::MemoryStorage;
use storage_core::backend::s3::{S3Config, S3Storage};
use storage_core::storage::{Access, FileStorage};
use storage_core::testkit::conformance::Fixture;

const BUCKET: &str = "bucket";

const NOT_CORRUPT: &str = "the server compares first, and breaks off a large file, which looks like an outage to its \
    client; see faults::corrupt_bytes_never_look_like_a_whole_file";

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
    Fixture::new(client(&server, Access::ReadWrite).await)
        .with_another(client(&server, Access::ReadWrite).await)
        .with_read_only(client(&server, Access::ReadOnly).await)
        .without_corruption(NOT_CORRUPT)
        .with_guard(server)
        .with_many(1_100)
}

async fn over_local() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let storage = LocalStorage::open(LocalConfig::new(directory.path())).await.unwrap();
    let server = serve(Arc::new(storage)).await;
    Fixture::new(client(&server, Access::ReadWrite).await)
        .with_another(client(&server, Access::ReadWrite).await)
        .with_read_only(client(&server, Access::ReadOnly).await)
        .without_corruption(NOT_CORRUPT)
        .with_guard((server, directory))
}

storage_core::conformance!(memory, over_memory);
storage_core::conformance!(local, over_local);
