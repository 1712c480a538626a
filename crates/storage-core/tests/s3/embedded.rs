//! The server of our own, in front of memory: all capabilities at once, and answers that can be made to order.

use std::sync::Arc;
use std::time::Duration;

use s3_server::{RunningServer, Server, ServerConfig};
use storage_core::backend::memory::MemoryStorage;
use storage_core::backend::s3::{S3Config, S3Storage};
use storage_core::storage::{Access, FileStorage};
use storage_core::testkit::conformance::Fixture;

use crate::common::{PART, connect, id};

const BUCKET: &str = "files";
const SECRET: &str = "a-secret-of-the-embedded-server";

async fn start(memory: MemoryStorage) -> RunningServer {
    let config =
        ServerConfig::new().with_bucket(BUCKET, Arc::new(memory)).with_credentials("AKIDEMBEDDED", SECRET);
    Server::bind(config, ([127, 0, 0, 1], 0).into()).await.unwrap().spawn()
}

fn config(server: &RunningServer) -> S3Config {
    S3Config::new(BUCKET)
        .with_endpoint(server.endpoint())
        .with_static_credentials("AKIDEMBEDDED", SECRET)
        .with_prefix("a prefix/ü")
        .with_part_size(PART)
}

pub(crate) async fn fixture() -> Fixture {
    let server = start(MemoryStorage::new()).await;
    let config = config(&server);
    let storage = connect(&config).await;
    let another = S3Storage::with_capabilities(config.clone(), &storage.capabilities()).await.unwrap();
    let read_only = connect(&config.clone().with_access(Access::ReadOnly)).await;
    Fixture::new(Arc::new(storage))
        .with_another(Arc::new(another))
        .with_read_only(Arc::new(read_only))
        .without_corruption("the server compares what it reads, and breaks off a large file like an outage")
        .with_many(1_001)
        .with_guard(server)
}

#[tokio::test]
async fn a_server_that_keeps_all_promises_is_found_to() {
    let server = start(MemoryStorage::new()).await;
    let storage = connect(&config(&server)).await;
    let found = storage.capabilities();
    eprintln!("embedded: {found:#?}");
    assert!(found.conditional_create && found.conditional_replace && found.conditional_delete);
    assert!(found.verifies_sha256 && found.composite_sha256);
    storage.probe(Duration::from_secs(10)).await.unwrap();
    assert!(storage.metadata(&id("none")).await.is_err());
    server.shutdown().await;
}
