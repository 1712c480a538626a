//! Servers, storages on them, and a client of Amazon's own beside ours.

use std::collections::HashMap;
use std::sync::Arc;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Credentials, Region, RequestChecksumCalculation};
use bytes::Bytes;
use storage_core::backend::memory::MemoryStorage;
use storage_core::backend::s3::{S3Config, S3Storage};
use storage_core::checksum::Digest;
use storage_core::id::FileId;
use storage_core::storage::{Access, FileStorage};
use storage_core::testkit::conformance::Fixture;
use test_rig::{S3Endpoint, shared};

/// The least part that S3 allows, so that parts come up soon.
pub(crate) const PART: u64 = 5 << 20;

pub(crate) fn id(name: &str) -> FileId {
    FileId::parse(name).unwrap()
}

/// Bytes that differ everywhere.
pub(crate) fn data(size: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

/// A storage beneath a prefix that no other test has.
pub(crate) fn config(server: &S3Endpoint) -> S3Config {
    S3Config::new(&server.bucket)
        .with_endpoint(&server.endpoint)
        .with_region(&server.region)
        .with_static_credentials(&server.access_key, &server.secret_key)
        .with_prefix(shared::unique_prefix())
        .with_part_size(PART)
}

/// Opens a storage.
pub(crate) async fn connect(config: &S3Config) -> S3Storage {
    S3Storage::connect(config.clone()).await.unwrap_or_else(|error| panic!("{error}"))
}

/// All servers that run here, each with a storage of its own.
pub(crate) async fn everywhere() -> Vec<(S3Endpoint, S3Config, S3Storage)> {
    let mut all = Vec::new();
    for server in [shared::garage(), shared::moto()].into_iter().flatten() {
        let config = config(&server);
        let storage = connect(&config).await;
        all.push((server, config, storage));
    }
    all
}

/// A plain client of the SDK, to see and to do what our own does not.
pub(crate) fn raw_client(server: &S3Endpoint) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version_latest()
        .endpoint_url(&server.endpoint)
        .region(Region::new(server.region.clone()))
        .credentials_provider(Credentials::new(&server.access_key, &server.secret_key, None, None, "test"))
        .force_path_style(true)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .build();
    Client::from_conf(config)
}

/// Changes one byte of an object and keeps its metadata, as a broken disk would. What was stored in parts comes
/// back in one piece, so its digest takes the composite's place.
pub(crate) async fn corrupt(client: &Client, bucket: &str, key: &str) {
    let old = client.get_object().bucket(bucket).key(key).send().await.unwrap();
    let (mut metadata, content_type) = (old.metadata.unwrap_or_default(), old.content_type);
    let mut bytes = old.body.collect().await.unwrap().to_vec();
    metadata.entry("sha256".into()).or_insert_with(|| Digest::of(&bytes).to_string());
    bytes[0] ^= 1;
    put_raw(client, bucket, key, bytes, Some(metadata), content_type).await;
}

pub(crate) async fn put_raw(
    client: &Client,
    bucket: &str,
    key: &str,
    bytes: Vec<u8>,
    metadata: Option<HashMap<String, String>>,
    content_type: Option<String>,
) {
    client
        .put_object()
        .bucket(bucket)
        .key(key)
        .set_metadata(metadata)
        .set_content_type(content_type)
        .body(bytes.into())
        .send()
        .await
        .unwrap_or_else(|error| panic!("{key}: {error:?}"));
}

/// The key prefix of a storage made from [`config`], with its `/`.
pub(crate) fn key_prefix(config: &S3Config) -> String {
    format!("{}/", config.prefix.trim_end_matches('/'))
}

pub(crate) async fn fixture_on_garage() -> Fixture {
    let garage = shared::garage();
    let runs = garage.is_some();
    let fixture = fixture(garage).await;
    // What stands in for a Garage that is not there takes them.
    if runs { fixture.without_empty_parts() } else { fixture }
}

pub(crate) async fn fixture_on_moto() -> Fixture {
    fixture(shared::moto()).await
}

async fn fixture(server: Option<S3Endpoint>) -> Fixture {
    let Some(server) = server else {
        // The skip has been reported; the case needs something to pass on.
        return Fixture::new(Arc::new(MemoryStorage::new()));
    };
    let config = config(&server);
    let storage = connect(&config).await;
    let another = S3Storage::with_capabilities(config.clone(), &storage.capabilities()).await.unwrap();
    let read_only = connect(&config.clone().with_access(Access::ReadOnly)).await;
    let (bucket, prefix) = (server.bucket.clone(), key_prefix(&config));
    let runtime = tokio::runtime::Handle::current();
    let client = raw_client(&server);
    let corruption = move |id: &FileId| {
        let key = format!("{prefix}{id}");
        tokio::task::block_in_place(|| runtime.block_on(corrupt(&client, &bucket, &key)));
    };
    Fixture::new(Arc::new(storage))
        .with_another(Arc::new(another))
        .with_read_only(Arc::new(read_only))
        .with_corruption(corruption)
        .with_many(1_001)
}
