//! Storages as stores of the crate `object_store`: what that crate asks of a store, each of its functions by
//! itself, over memory, a directory and S3; and the promises of both sides there and back.
//!
//! Of its module `integration` those functions are not called that need what is not offered: a `MultipartStore`
//! (`multipart`, `multipart_with_opts`, `multipart_put_part_out_of_order`), a `PaginatedListStore`
//! (`list_paginated`), and an HTTP client (`response_extensions`).

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    Attribute, Attributes, Error as StoreError, GetOptions, MultipartUpload, ObjectStore, ObjectStoreExt,
    PutMode, PutOptions, integration,
};
use s3_server::{Server, ServerConfig};
use storage_core::Result;
use storage_core::backend::local::{Durability, LocalConfig, LocalStorage};
use storage_core::backend::memory::MemoryStorage;
use storage_core::backend::object_store::{ListOrder, ObjectStoreConfig, ObjectStoreStorage, Presigner};
use storage_core::backend::s3::{S3Config, S3Storage};
use storage_core::compat::ObjectStoreCompat;
use storage_core::error::{ErrorKind, Op};
use storage_core::id::FileId;
use storage_core::stack::{LayersConfig, layered};
use storage_core::storage::{Access, FileStorage, FileStorageExt, PresignRequest};
use storage_core::testkit::conformance::{CASES, Fixture};
use storage_core::testkit::flaky::{Fault, FlakyStorage};
use tempfile::TempDir;
use test_rig::shared;

const PART: usize = 5 << 20;

fn id(text: &str) -> FileId {
    FileId::parse(text).unwrap()
}

fn path(text: &str) -> Path {
    Path::parse(text).unwrap()
}

/// A store, and what must live as long.
type Place = (Arc<dyn ObjectStore>, Box<dyn Any + Send>);

fn over(storage: Arc<dyn FileStorage>) -> Arc<dyn ObjectStore> {
    let stack = layered(storage, &LayersConfig::default()).unwrap();
    Arc::new(ObjectStoreCompat::new(stack).with_part_size(PART))
}

async fn memory() -> Option<Place> {
    Some((over(Arc::new(MemoryStorage::new())), Box::new(())))
}

async fn local() -> Option<Place> {
    let root = TempDir::new().unwrap();
    let config = LocalConfig::new(root.path()).with_durability(Durability::Relaxed);
    Some((over(Arc::new(LocalStorage::open(config).await.unwrap())), Box::new(root)))
}

/// The server of our own.
async fn s3() -> Option<Place> {
    let (server, config) = embedded().await;
    Some((over(Arc::new(S3Storage::connect(config).await.unwrap())), Box::new(server)))
}

async fn embedded() -> (s3_server::RunningServer, S3Config) {
    let memory = Arc::new(MemoryStorage::new());
    let config =
        ServerConfig::new().with_bucket("files", memory).with_credentials("AKIDEMBEDDED", "a-secret");
    let server = Server::bind(config, ([127, 0, 0, 1], 0).into()).await.unwrap().spawn();
    let config = S3Config::new("files")
        .with_endpoint(server.endpoint())
        .with_static_credentials("AKIDEMBEDDED", "a-secret")
        .with_prefix("a prefix/ü")
        .with_part_size(PART as u64);
    (server, config)
}

/// Nothing where it does not run here, which has been reported.
async fn garage() -> Option<Place> {
    let server = shared::garage()?;
    let config = S3Config::new(&server.bucket)
        .with_endpoint(&server.endpoint)
        .with_region(&server.region)
        .with_static_credentials(&server.access_key, &server.secret_key)
        .with_prefix(shared::unique_prefix())
        .with_part_size(PART as u64);
    Some((over(Arc::new(S3Storage::connect(config).await.unwrap())), Box::new(())))
}

/// A storage without parts of its own: what is written in parts is spooled.
async fn without_parts() -> Option<Place> {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let config = ObjectStoreConfig::default().with_order(ListOrder::Ascending);
    let storage = ObjectStoreStorage::open(store, config).await.unwrap();
    assert!(storage.resumable().is_none());
    Some((over(Arc::new(storage)), Box::new(())))
}

/// Runs each function of their module in a test of its own.
macro_rules! integration {
    ($place:ident) => {
        integration!($place, creates: true, updates: true);
    };
    ($place:ident, creates: $creates:literal, updates: $updates:literal) => {
        mod $place {
            use super::*;

            integration!(@tests $place:
                put_get_delete_list(store) integration::put_get_delete_list(&store).await;
                put_get_attributes(store) integration::put_get_attributes(&store).await;
                get_opts(store) integration::get_opts(&store).await;
                put_opts(store) if $creates {
                    integration::put_opts(&store, $updates).await;
                } else {
                    refuses_to_create(&*store).await;
                };
                stream_get(store) integration::stream_get(&store).await;
                list_uses_directories_correctly(store) integration::list_uses_directories_correctly(&store).await;
                list_with_delimiter(store) integration::list_with_delimiter(&store).await;
                get_nonexistent_object(store) {
                    let error = integration::get_nonexistent_object(&store, None).await.unwrap_err();
                    assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
                };
                rename_and_copy(store) integration::rename_and_copy(&store).await;
                copy_if_not_exists(store) if $creates {
                    integration::copy_if_not_exists(&store).await;
                } else {
                    refuses_to_create(&*store).await;
                };
                copy_rename_nonexistent_object(store) if $creates {
                    integration::copy_rename_nonexistent_object(&store).await;
                } else {
                    refuses_to_create(&*store).await;
                };
                multipart_race_condition(store) integration::multipart_race_condition(&store, true).await;
                multipart_out_of_order(store) integration::multipart_out_of_order(&store).await;
                list_with_offset_exclusivity(store) integration::list_with_offset_exclusivity(&store).await;
            );
        }
    };
    (@tests $place:ident: $($name:ident($store:ident) $work:expr;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let Some(($store, _guard)) = super::$place().await else { return };
                $work;
            }
        )*
    };
}

integration!(memory);
integration!(local);
integration!(s3);
integration!(garage, creates: false, updates: false);
integration!(without_parts);

/// A server that ignores preconditions is not asked for one: the functions that need one cannot be run.
async fn refuses_to_create(store: &dyn ObjectStore) {
    eprintln!("LEFT OUT: the server ignores preconditions, so a creation is refused");
    let refused = store.put_opts(&path("a"), "a".into(), PutMode::Create.into()).await.unwrap_err();
    assert!(matches!(refused, StoreError::NotImplemented { .. }), "{refused}");
    store.put(&path("a"), "a".into()).await.unwrap();
    let refused = store.copy_if_not_exists(&path("a"), &path("b")).await.unwrap_err();
    assert!(matches!(refused, StoreError::NotImplemented { .. }), "{refused}");
}

/// What a storage has no place for is refused, and not kept half.
#[tokio::test]
async fn attributes_without_a_place_are_refused() {
    let (store, _guard) = memory().await.unwrap();
    let with = |attribute: Attribute| PutOptions {
        attributes: Attributes::from_iter([(attribute, "x")]),
        ..PutOptions::default()
    };
    for attribute in [Attribute::CacheControl, Attribute::ContentEncoding, Attribute::StorageClass] {
        let refused = store.put_opts(&path("a"), "a".into(), with(attribute.clone())).await.unwrap_err();
        assert!(matches!(refused, StoreError::NotImplemented { .. }), "{attribute:?}: {refused}");
        assert!(store.head(&path("a")).await.is_err());
    }
    store.put_opts(&path("a"), "a".into(), with(Attribute::Metadata("k".into()))).await.unwrap();
    let got = store.get(&path("a")).await.unwrap().attributes;
    assert_eq!(got.get(&Attribute::Metadata("k".into())).map(|value| &**value), Some("x"));
    let options = GetOptions::new().with_version(Some("1"));
    assert!(matches!(
        store.get_opts(&path("a"), options).await.unwrap_err(),
        StoreError::NotImplemented { .. }
    ));
}

/// The copy would be deleted as its own source.
#[tokio::test]
async fn a_rename_onto_itself_deletes_nothing() {
    let (store, _guard) = memory().await.unwrap();
    store.put(&path("a"), "abc".into()).await.unwrap();
    store.rename(&path("a"), &path("a")).await.unwrap();
    let refused = store.rename_if_not_exists(&path("a"), &path("a")).await.unwrap_err();
    assert!(matches!(refused, StoreError::AlreadyExists { .. }), "{refused}");
    assert_eq!(store.get(&path("a")).await.unwrap().bytes().await.unwrap(), "abc");
}

/// A directory of more files than are passed over is left by a new listing, once.
#[tokio::test]
async fn a_large_directory_is_one_prefix_and_hides_no_neighbour() {
    let memory = MemoryStorage::new();
    let flaky = FlakyStorage::new(Arc::new(memory.clone()));
    let store = ObjectStoreCompat::new(Arc::new(flaky.clone()));
    for number in 0..5_000 {
        memory.upload_bytes(&id(&format!("d/large/{number}")), "x".into()).await.unwrap();
    }
    let neighbours = ["d/a", "d/b/1", "d/large", "d/large-", "d/large/\u{10ffff}/a", "d/large0", "d/z/1"];
    for name in neighbours {
        memory.upload_bytes(&id(name), "x".into()).await.unwrap();
    }
    let result = store.list_with_delimiter(Some(&path("d"))).await.unwrap();
    let objects: Vec<_> = result.objects.iter().map(|meta| meta.location.as_ref()).collect();
    assert_eq!(objects, ["d/a", "d/large", "d/large-", "d/large0"]);
    assert_eq!(result.common_prefixes, [path("d/b"), path("d/large"), path("d/z")]);
    assert_eq!(flaky.calls(Op::List), 2);
}

/// Pages of two versions of one file make a table that never was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_are_of_one_version() {
    let memory = MemoryStorage::new();
    let store = ObjectStoreCompat::new(Arc::new(memory.clone()));
    let version = |number: u8| Bytes::from(vec![number; 4 << 20]);
    memory.upload_bytes(&id("a"), version(0)).await.unwrap();
    let writer = tokio::spawn(async move {
        for number in 1..200 {
            memory.upload_bytes(&id("a"), version(number)).await.unwrap();
        }
    });
    // Far enough apart to be read one by one.
    let ranges = [0..10, 2_000_000..2_000_010, 4_000_000..4_000_010];
    while !writer.is_finished() {
        match store.get_ranges(&path("a"), &ranges).await {
            Ok(bytes) => {
                assert_eq!(bytes.len(), 3);
                assert!(bytes.iter().all(|part| part == &bytes[0]), "{bytes:?}");
            }
            Err(error) => assert!(matches!(error, StoreError::Generic { .. }), "{error}"),
        }
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
}

async fn open_uploads(storage: &dyn FileStorage) -> usize {
    storage.resumable().unwrap().stale(Duration::ZERO).await.unwrap().len()
}

/// Parts of any sizes are one file, and nothing is left open, however it ends.
#[tokio::test]
async fn parts_of_any_sizes_become_one_file_and_nothing_stays_open() {
    let memory = MemoryStorage::new();
    let flaky = FlakyStorage::new(Arc::new(memory.clone()));
    let store = ObjectStoreCompat::new(Arc::new(flaky.clone())).with_part_size(1_000);
    let bytes: Vec<u8> = (0..20_000_u32).map(|number| number as u8).collect();
    let write = async |upload: &mut Box<dyn MultipartUpload>| {
        let mut at = 0;
        for size in [1, 999, 1_000, 1_001, 0, 7, 5_000, 11_992] {
            upload.put_part(bytes[at..at + size].to_vec().into()).await?;
            at += size;
        }
        assert_eq!(at, bytes.len());
        Ok::<_, StoreError>(())
    };
    let mut upload = store.put_multipart(&path("a")).await.unwrap();
    write(&mut upload).await.unwrap();
    upload.complete().await.unwrap();
    assert_eq!(memory.download_bytes(&id("a")).await.unwrap(), bytes);
    assert!(upload.put_part("x".into()).await.is_err() && upload.complete().await.is_err());

    let mut aborted = store.put_multipart(&path("b")).await.unwrap();
    write(&mut aborted).await.unwrap();
    aborted.abort().await.unwrap();
    let mut dropped = store.put_multipart(&path("b")).await.unwrap();
    write(&mut dropped).await.unwrap();
    assert_eq!(open_uploads(&memory).await, 1);
    drop(dropped);
    while open_uploads(&memory).await > 0 {
        tokio::task::yield_now().await;
    }

    let mut unsent = store.put_multipart(&path("b")).await.unwrap();
    drop(unsent.put_part(vec![1; 1_500].into()));
    unsent.put_part(vec![1; 1_500].into()).await.unwrap();
    let error = unsent.complete().await.unwrap_err();
    assert!(error.to_string().contains("2 of 3 parts"), "{error}");
    flaky.fail_next(Op::FinishUpload, Fault::Before(ErrorKind::Unavailable));
    let mut failed = store.put_multipart(&path("b")).await.unwrap();
    write(&mut failed).await.unwrap();
    failed.complete().await.unwrap_err();
    failed.complete().await.unwrap();
    assert_eq!(memory.download_bytes(&id("b")).await.unwrap(), bytes);
}

/// Presigned URLs of the storage at the far end.
#[derive(Debug)]
struct Through(Arc<dyn FileStorage>);

#[async_trait]
impl Presigner for Through {
    async fn presign(
        &self,
        path: &Path,
        request: &PresignRequest,
    ) -> Result<(String, Vec<(String, String)>)> {
        let url = self.0.presigned_url(&id(&format!("inner/{path}")), request.clone()).await?;
        Ok((url.url, url.headers))
    }
}

/// There and back: our storage as their store as our storage, over S3, with its presigned URLs.
async fn there_and_back() -> Fixture {
    let (server, config) = embedded().await;
    let storage: Arc<dyn FileStorage> = Arc::new(S3Storage::connect(config).await.unwrap());
    let store = ObjectStoreCompat::new(Arc::clone(&storage)).with_part_size(PART);
    // Each side keeps `.storage` to itself, and a prefix keeps them apart.
    let store: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(store, "inner"));
    let config = ObjectStoreConfig::default().with_order(ListOrder::Ascending).with_part_size(PART);
    let open = async |access| {
        let config = config.clone().with_access(access);
        let presigner = Arc::new(Through(Arc::clone(&storage)));
        let opened = ObjectStoreStorage::open(Arc::clone(&store), config).await.unwrap();
        Arc::new(opened.with_presigner(presigner)) as Arc<dyn FileStorage>
    };
    Fixture::new(open(Access::ReadWrite).await)
        .with_another(open(Access::ReadWrite).await)
        .with_read_only(open(Access::ReadOnly).await)
        .without_corruption("the server compares what it reads")
        .with_guard(server)
}

/// Cases that cannot pass there and back, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("ids::are_kept_byte_for_byte", "paths take no control characters"),
    ("ids::of_the_greatest_length", "the prefix takes its share of the bytes"),
];

/// Runs every fourth case: each has a server of its own, and all of them take longer than a test should.
async fn a_quarter(first: usize) {
    for case in CASES.iter().skip(first).step_by(4) {
        if let Some((_, why)) = LEFT_OUT.iter().find(|(other, _)| *other == case.name) {
            eprintln!("LEFT OUT: {}: {why}", case.name);
            continue;
        }
        eprintln!("{}", case.name);
        (case.run)(there_and_back().await).await;
    }
}

macro_rules! quarters {
    ($($name:ident $first:literal)*) => {
        mod the_promises_hold_there_and_back {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::a_quarter($first).await;
                }
            )*
        }
    };
}

quarters!(first 0 second 1 third 2 fourth 3);
