//! Storages as stores of the crate `object_store`: what that crate asks of a store, each of its functions by
//! itself, over memory, a directory and S3; and the promises of both sides there and back.
//!
//! All 19 functions of its module `integration` (version 0.14.2), and what became of each. "Refused" means that the
//! test sees the call refused with `NotImplemented`, as the place lacks what it would need.
//!
//! | function | memory | local | S3 (ours) | Garage | without parts |
//! |---|---|---|---|---|---|
//! | `put_get_delete_list` | passes | passes | passes | passes | passes |
//! | `put_get_attributes` | passes | passes | passes | passes | passes |
//! | `get_opts` | passes | passes | passes | passes | passes |
//! | `put_opts` | passes | passes | passes | refused: no preconditions | passes |
//! | `stream_get` | passes | passes | passes | passes | passes |
//! | `list_uses_directories_correctly` | passes | passes | passes | passes | passes |
//! | `list_with_delimiter` | passes | passes | passes | passes | passes |
//! | `list_with_offset_exclusivity` | passes | passes | passes | passes | passes |
//! | `list_paginated` | passes | passes | passes | passes | passes |
//! | `get_nonexistent_object` | passes | passes | passes | passes | passes |
//! | `rename_and_copy` | passes | passes | passes | passes | passes |
//! | `copy_if_not_exists` | passes | passes | passes | refused: no preconditions | passes |
//! | `copy_rename_nonexistent_object` | passes | passes | passes | refused: no preconditions | passes |
//! | `multipart` | passes | passes | passes | passes | refused: no parts |
//! | `multipart_with_opts` | passes | passes | passes | passes | refused: no parts |
//! | `multipart_put_part_out_of_order` | passes | passes | passes | passes | refused: no parts |
//! | `multipart_race_condition` | passes | passes | passes | passes | passes |
//! | `multipart_out_of_order` | passes | passes | passes | passes | passes |
//! | `response_extensions` | cannot apply | cannot apply | cannot apply | cannot apply | cannot apply |
//!
//! `response_extensions` wants a marker in each result, of a type that is private to that crate and that only its
//! `MarkerHttpConnector` puts there, into answers of that crate's own HTTP client. No request of ours goes through that
//! client (memory and local make none, `S3Storage` has its own), and the waist knows no extensions: there is nothing
//! that could be handed on. Our results' extensions are empty, which
//! [`results_carry_no_extensions`] holds.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::memory::InMemory;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    Attribute, Attributes, Error as StoreError, GetOptions, MultipartUpload, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, integration,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use s3_server::{Server, ServerConfig};
use storage_core::Result;
use storage_core::backend::local::{Durability, LocalConfig, LocalStorage};
use storage_core::backend::memory::MemoryStorage;
use storage_core::backend::object_store::{ListOrder, ObjectStoreConfig, ObjectStoreStorage, Presigner};
use storage_core::backend::s3::{S3Config, S3Storage};
use storage_core::compat::{ObjectStoreCompat, PartSize};
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
type Place = (Arc<ObjectStoreCompat>, Box<dyn Any + Send>);

fn over(storage: Arc<dyn FileStorage>) -> Arc<ObjectStoreCompat> {
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
        integration!($place, creates: true, updates: true, parts: true);
    };
    ($place:ident, creates: $creates:literal, updates: $updates:literal, parts: $parts:literal) => {
        mod $place {
            use super::*;

            integration!(@tests $place:
                put_get_delete_list(store) integration::put_get_delete_list(&*store).await;
                put_get_attributes(store) integration::put_get_attributes(&*store).await;
                get_opts(store) integration::get_opts(&*store).await;
                put_opts(store) if $creates {
                    integration::put_opts(&*store, $updates).await;
                } else {
                    refuses_to_create(&*store).await;
                };
                stream_get(store) integration::stream_get(&*store).await;
                list_uses_directories_correctly(store) integration::list_uses_directories_correctly(&*store).await;
                list_with_delimiter(store) integration::list_with_delimiter(&*store).await;
                get_nonexistent_object(store) {
                    let error = integration::get_nonexistent_object(&*store, None).await.unwrap_err();
                    assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
                };
                rename_and_copy(store) integration::rename_and_copy(&*store).await;
                copy_if_not_exists(store) if $creates {
                    integration::copy_if_not_exists(&*store).await;
                } else {
                    refuses_to_create(&*store).await;
                };
                copy_rename_nonexistent_object(store) if $creates {
                    integration::copy_rename_nonexistent_object(&*store).await;
                } else {
                    refuses_to_create(&*store).await;
                };
                multipart_race_condition(store) integration::multipart_race_condition(&*store, true).await;
                multipart_out_of_order(store) integration::multipart_out_of_order(&*store).await;
                list_paginated(store) integration::list_paginated(&*store, &*store).await;
                multipart(store) if $parts {
                    integration::multipart(&*store, &*store).await;
                } else {
                    refuses_parts(&*store).await;
                };
                multipart_with_opts(store) if $parts {
                    integration::multipart_with_opts(&*store, &*store).await;
                } else {
                    refuses_parts(&*store).await;
                };
                multipart_put_part_out_of_order(store) if $parts {
                    integration::multipart_put_part_out_of_order(&*store, &*store).await;
                } else {
                    refuses_parts(&*store).await;
                };
                list_with_offset_exclusivity(store) integration::list_with_offset_exclusivity(&*store).await;
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
integration!(garage, creates: false, updates: false, parts: true);
integration!(without_parts, creates: true, updates: true, parts: false);

/// A server that ignores preconditions is not asked for one: the functions that need one cannot be run.
async fn refuses_to_create(store: &dyn ObjectStore) {
    eprintln!("LEFT OUT: the server ignores preconditions, so a creation is refused");
    let refused = store.put_opts(&path("a"), "a".into(), PutMode::Create.into()).await.unwrap_err();
    assert!(matches!(refused, StoreError::NotImplemented { .. }), "{refused}");
    store.put(&path("a"), "a".into()).await.unwrap();
    let refused = store.copy_if_not_exists(&path("a"), &path("b")).await.unwrap_err();
    assert!(matches!(refused, StoreError::NotImplemented { .. }), "{refused}");
}

/// A storage without parts says so, and what to use instead.
async fn refuses_parts(store: &ObjectStoreCompat) {
    let refused = store.create_multipart(&path("a")).await.unwrap_err();
    assert!(matches!(refused, StoreError::NotImplemented { .. }), "{refused}");
    assert!(refused.to_string().contains("no uploads in parts; put_multipart gathers"), "{refused}");
}

/// Nothing here answers an HTTP request, so no result has extensions of one.
#[tokio::test]
async fn results_carry_no_extensions() {
    let (store, _guard) = memory().await.unwrap();
    assert!(store.put(&path("a/b"), "a".into()).await.unwrap().extensions.is_empty());
    assert!(store.get(&path("a/b")).await.unwrap().extensions.is_empty());
    assert!(store.list_with_delimiter(None).await.unwrap().extensions.is_empty());
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

fn filled(size: usize, with: u8) -> PutPayload {
    vec![with; size].into()
}

fn is_generic(error: &StoreError, text: &str) -> bool {
    matches!(error, StoreError::Generic { .. }) && error.to_string().contains(text)
}

/// Begins an upload in one process, and ends it in another, with what is in its ids alone.
async fn an_upload_outlives_its_process(open: impl AsyncFn() -> Arc<dyn FileStorage>) {
    let attributes = Attributes::from_iter([(Attribute::Metadata("k".into()), "v")]);
    let options = PutMultipartOptions { attributes: attributes.clone(), ..PutMultipartOptions::default() };
    let (begun, last, empty) = {
        let store = over(open().await);
        let begun = store.create_multipart_opts(&path("d/a"), options.clone()).await.unwrap();
        let last = store.put_part(&path("d/a"), &begun, 1, filled(77, 2)).await.unwrap();
        (begun, last, store.create_multipart_opts(&path("d/empty"), options).await.unwrap())
    };
    let store = over(open().await);
    let first = store.put_part(&path("d/a"), &begun, 0, filled(PART, 1)).await.unwrap();
    assert!(store.head(&path("d/a")).await.is_err());
    store.complete_multipart(&path("d/a"), &begun, vec![first, last]).await.unwrap();
    store.complete_multipart(&path("d/empty"), &empty, vec![]).await.unwrap();

    let storage = open().await;
    let bytes = storage.download_bytes(&id("d/a")).await.unwrap();
    assert_eq!(bytes.len(), PART + 77);
    assert!(bytes[..PART].iter().all(|byte| *byte == 1) && bytes[PART..].iter().all(|byte| *byte == 2));
    assert_eq!(storage.download_bytes(&id("d/empty")).await.unwrap(), "");
    for name in ["d/a", "d/empty"] {
        assert_eq!(storage.metadata(&id(name)).await.unwrap().tags["k"], "v", "{name}");
    }
    assert_eq!(open_uploads(&*storage).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_to_a_directory_outlives_its_process() {
    let root = TempDir::new().unwrap();
    an_upload_outlives_its_process(async || {
        let config = LocalConfig::new(root.path()).with_durability(Durability::Relaxed);
        Arc::new(LocalStorage::open(config).await.unwrap()) as Arc<dyn FileStorage>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_to_s3_outlives_its_process() {
    let (_server, config) = embedded().await;
    an_upload_outlives_its_process(async || {
        Arc::new(S3Storage::connect(config.clone()).await.unwrap()) as Arc<dyn FileStorage>
    })
    .await;
}

/// A composite of parts of another size than was announced is one that no reader can compute again: the file could
/// be written, and never be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_that_a_reader_could_not_cut_again_are_refused() {
    let (_server, config) = embedded().await;
    let storage: Arc<dyn FileStorage> = Arc::new(S3Storage::connect(config).await.unwrap());
    let store = ObjectStoreCompat::new(Arc::clone(&storage)).with_part_size(PART + 1);
    let name = path("a");

    let begun = store.create_multipart(&name).await.unwrap();
    let refused = store.put_part(&name, &begun, 0, filled(PART + 2, 1)).await.unwrap_err();
    assert!(is_generic(&refused, "the part of index 0 has"), "{refused}");
    // Parts such as S3 allows, as many as there would be of the announced size.
    let parts = [store.put_part(&name, &begun, 0, filled(PART, 1)).await.unwrap(), {
        store.put_part(&name, &begun, 1, filled(PART + 1, 2)).await.unwrap()
    }];
    let refused = store.complete_multipart(&name, &begun, parts.to_vec()).await.unwrap_err();
    assert!(is_generic(&refused, "the part of index 0 has 5242880 bytes"), "{refused}");
    assert!(store.head(&name).await.is_err());
    store.abort_multipart(&name, &begun).await.unwrap();

    // Who says so may have another size.
    let with = |size: usize| {
        let mut options = PutMultipartOptions::default();
        options.extensions.insert(PartSize(size as u64));
        options
    };
    let refused = store.create_multipart_opts(&name, with(PART - 1)).await.unwrap_err();
    assert!(is_generic(&refused, "a part size of 5242879 bytes is not within"), "{refused}");
    let begun = store.create_multipart_opts(&name, with(PART)).await.unwrap();
    let first = store.put_part(&name, &begun, 0, filled(PART, 1)).await.unwrap();
    let second = store.put_part(&name, &begun, 1, filled(9, 2)).await.unwrap();
    store.complete_multipart(&name, &begun, vec![first, second]).await.unwrap();
    let composite = storage.metadata(&id("a")).await.unwrap().composite.unwrap();
    assert_eq!((composite.part_size, composite.parts), (PART as u64, 2));
    assert_eq!(storage.download_bytes(&id("a")).await.unwrap().len(), PART + 9);
}

/// A disk need not know how large the parts will be.
#[tokio::test]
async fn a_directory_takes_parts_of_any_sizes() {
    let (store, _guard) = local().await.unwrap();
    let begun = store.create_multipart(&path("a")).await.unwrap();
    let mut parts = Vec::new();
    for (index, size) in [3, 1_000, 0, 5].into_iter().enumerate() {
        parts.push(store.put_part(&path("a"), &begun, index, filled(size, index as u8)).await.unwrap());
    }
    store.complete_multipart(&path("a"), &begun, parts).await.unwrap();
    let bytes = store.get(&path("a")).await.unwrap().bytes().await.unwrap();
    assert_eq!(bytes, [vec![0; 3], vec![1; 1_000], vec![3; 5]].concat());
}

/// Ids come from outside.
#[tokio::test]
async fn ids_that_belong_to_something_else_are_refused() {
    let (store, _guard) = memory().await.unwrap();
    let begun = store.create_multipart(&path("a")).await.unwrap();
    for wrong in ["", "x", "e30", "\u{1f600}"] {
        let refused = store.put_part(&path("a"), &wrong.to_owned(), 0, "x".into()).await.unwrap_err();
        assert!(is_generic(&refused, "no id of an upload"), "{refused}");
    }
    let refused = store.put_part(&path("b"), &begun, 0, "x".into()).await.unwrap_err();
    assert!(is_generic(&refused, "the upload is one of \"a\""), "{refused}");
    let refused = store.put_part(&path("a"), &begun, 10_000, "x".into()).await.unwrap_err();
    assert!(is_generic(&refused, "more than 10000 parts"), "{refused}");

    let first = store.put_part(&path("a"), &begun, 0, "x".into()).await.unwrap();
    let second = store.put_part(&path("a"), &begun, 1, "y".into()).await.unwrap();
    let swapped = store.complete_multipart(&path("a"), &begun, vec![second, first]).await.unwrap_err();
    assert!(is_generic(&swapped, "the part of index 0 was put as 1"), "{swapped}");
    let strange = PartId { content_id: begun.clone() };
    let refused = store.complete_multipart(&path("a"), &begun, vec![strange]).await.unwrap_err();
    assert!(is_generic(&refused, "no id of a part"), "{refused}");
    let forgotten = store.complete_multipart(&path("a"), &begun, vec![]).await.unwrap_err();
    assert!(is_generic(&forgotten, "2 parts were put, and none is named"), "{forgotten}");
    assert!(store.head(&path("a")).await.is_err());
}

/// Without a part, an upload is an empty file; one that was discarded is nothing.
#[tokio::test]
async fn a_discarded_upload_does_not_come_back_as_an_empty_file() {
    let (store, _guard) = memory().await.unwrap();
    store.put(&path("a"), "precious".into()).await.unwrap();
    let begun = store.create_multipart(&path("a")).await.unwrap();
    store.abort_multipart(&path("a"), &begun).await.unwrap();
    store.abort_multipart(&path("a"), &begun).await.unwrap();
    let gone = store.complete_multipart(&path("a"), &begun, vec![]).await.unwrap_err();
    assert!(matches!(gone, StoreError::NotFound { .. }), "{gone}");
    let gone = store.put_part(&path("a"), &begun, 0, "x".into()).await.unwrap_err();
    assert!(matches!(gone, StoreError::NotFound { .. }), "{gone}");
    assert_eq!(store.get(&path("a")).await.unwrap().bytes().await.unwrap(), "precious");
}

/// Lists by the page, each page asked of a store of its own, and checks each page's length.
async fn paged(storage: &Arc<dyn FileStorage>, prefix: &str, options: &PaginatedListOptions) -> Vec<String> {
    let (mut told, mut options) = (Vec::new(), options.clone());
    loop {
        let store = ObjectStoreCompat::new(Arc::clone(storage));
        let page = store.list_paginated(Some(prefix), options.clone()).await.unwrap();
        let directories = page.result.common_prefixes.iter().map(|path| format!("{path}/"));
        let files = page.result.objects.iter().map(|meta| meta.location.to_string());
        let mut entries: Vec<String> = directories.chain(files).collect();
        entries.sort();
        match &page.page_token {
            Some(_) => assert_eq!(Some(entries.len()), options.max_keys),
            None => assert!(Some(entries.len()) <= options.max_keys),
        }
        // A token is told only where something follows.
        assert!(!entries.is_empty() || told.is_empty());
        told.extend(entries);
        options.page_token = page.page_token;
        if options.page_token.is_none() {
            return told;
        }
    }
}

/// Whatever the prefix, the offset and the length of the pages: together they are the listing, in order, once.
#[tokio::test]
async fn pages_are_the_listing_once_and_in_order() {
    let seed = rand::random::<u64>();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let segments = ["a", "ab", "a-", "b", "\u{10ffff}", "é"];
    let name = |random: &mut StdRng| {
        let depth = random.random_range(1..4);
        (0..depth).map(|_| *segments.choose(random).unwrap()).collect::<Vec<_>>().join("/")
    };
    for _ in 0..20 {
        let storage: Arc<dyn FileStorage> = Arc::new(MemoryStorage::new());
        let names: BTreeSet<String> = (0..random.random_range(0..40)).map(|_| name(&mut random)).collect();
        for name in &names {
            storage.upload_bytes(&id(name), "x".into()).await.unwrap();
        }
        for _ in 0..30 {
            let prefix = *["", "a", "a/", "a/b", "b/\u{10ffff}/", "é/a"].choose(&mut random).unwrap();
            let offset = match random.random_range(0..4) {
                0 => Some(name(&mut random)),
                1 => Some(format!("{}/", name(&mut random))),
                _ => None,
            };
            let grouped = random.random::<bool>();
            let mut due: Vec<String> = names
                .iter()
                .filter(|name| {
                    name.starts_with(prefix) && offset.as_ref().is_none_or(|offset| *name > offset)
                })
                .map(|name| match name[prefix.len()..].find('/').filter(|_| grouped) {
                    Some(slash) => name[..=prefix.len() + slash].to_owned(),
                    None => name.clone(),
                })
                .collect();
            due.dedup();
            let options = PaginatedListOptions {
                offset,
                delimiter: grouped.then(|| "/".into()),
                max_keys: Some(random.random_range(1..6)),
                ..PaginatedListOptions::default()
            };
            assert_eq!(paged(&storage, prefix, &options).await, due, "{prefix:?} {options:?}");
        }
    }
}

/// A page that ends with a large directory does not walk through it, and neither does the next.
#[tokio::test]
async fn pages_leap_over_a_large_directory_and_have_an_end() {
    let memory = MemoryStorage::new();
    for number in 0..5_000 {
        memory.upload_bytes(&id(&format!("large/{number:04}")), "x".into()).await.unwrap();
    }
    memory.upload_bytes(&id("z"), "x".into()).await.unwrap();
    let flaky = FlakyStorage::new(Arc::new(memory));
    let storage: Arc<dyn FileStorage> = Arc::new(flaky.clone());
    let store = ObjectStoreCompat::new(Arc::clone(&storage));
    let options =
        PaginatedListOptions { delimiter: Some("/".into()), max_keys: Some(1), ..Default::default() };
    assert_eq!(paged(&storage, "", &options).await, ["large/", "z"]);
    // The first page leaps once, the second begins behind it.
    assert_eq!(flaky.calls(Op::List), 3);

    let page = store.list_paginated(None, PaginatedListOptions::default()).await.unwrap();
    assert_eq!(page.result.objects.len(), 999);
    let more = PaginatedListOptions { max_keys: Some(1 << 40), ..Default::default() };
    assert_eq!(store.list_paginated(None, more).await.unwrap().result.objects.len(), 999);
    for (options, text) in [
        (PaginatedListOptions { max_keys: Some(0), ..Default::default() }, "a page of 0 entries"),
        (PaginatedListOptions { page_token: Some("x".into()), ..Default::default() }, "no page token"),
    ] {
        let refused = store.list_paginated(None, options).await.unwrap_err();
        assert!(is_generic(&refused, text), "{refused}");
    }
    let options = PaginatedListOptions { delimiter: Some("-".into()), ..Default::default() };
    let refused = store.list_paginated(None, options).await.unwrap_err();
    assert!(matches!(refused, StoreError::NotImplemented { .. }), "{refused}");
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
