//! Uploads and copies in parts.

use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use storage_core::body::{Body, BodySource, ByteStream};
use storage_core::checksum::{CompositeDigest, Digest};
use storage_core::error::{ErrorKind, Result};
use storage_core::storage::{
    FileStorage, FileStorageExt, FinishOptions, PartReceipt, ResumableUpload, UploadOptions,
};

use crate::common::{PART, connect, data, everywhere, id, key_prefix, raw_client};

#[tokio::test]
async fn a_large_file_keeps_its_composite() {
    for (server, _, storage) in everywhere().await {
        let bytes = data(2 * PART as usize + 7, 1);
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        let body = Body::from_file(file).unwrap();
        let receipt = storage.upload(&id("f"), body, UploadOptions::default()).await.unwrap();
        assert_eq!(receipt.digest, Some(Digest::of(&bytes)));
        let digests: Vec<_> = bytes.chunks(PART as usize).map(Digest::of).collect();
        let due = CompositeDigest::of_parts(PART, &digests);
        let read = storage.metadata(&id("f")).await.unwrap();
        assert_eq!(read.composite, Some(due), "{:?}", server.kind);
        assert_eq!(read, receipt.metadata);
        assert_eq!(storage.download_bytes(&id("f")).await.unwrap(), bytes);
    }
}

/// A body of three parts whose second never comes.
#[derive(Debug)]
struct Stuck(Arc<tokio::sync::Notify>);

#[async_trait]
impl BodySource for Stuck {
    fn size(&self) -> u64 {
        3 * PART
    }

    async fn open(&self, _: Range<u64>) -> Result<ByteStream> {
        let waits = Arc::clone(&self.0);
        let never = stream::once(async move {
            waits.notify_one();
            std::future::pending().await
        });
        Ok(stream::once(async { Ok(data(PART as usize, 1)) }).chain(never).boxed())
    }

    fn in_memory(&self) -> Option<&Bytes> {
        None
    }
}

/// A runtime that ends drops at once what is spawned on it: a clean-up that began another when it was dropped
/// overflowed the stack.
#[test]
fn a_runtime_may_end_in_the_middle_of_an_upload() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let outside = runtime();
    for (server, config, _) in outside.block_on(everywhere()) {
        let waits = Arc::new(tokio::sync::Notify::new());
        let body = Body::from_source(Stuck(Arc::clone(&waits)));
        let inside = runtime();
        let connected = config.clone();
        inside.spawn(async move {
            let storage = connect(&connected).await;
            storage.upload(&id("f"), body, UploadOptions::default()).await
        });
        outside.block_on(async {
            tokio::time::timeout(Duration::from_secs(60), waits.notified()).await.unwrap()
        });
        inside.shutdown_timeout(Duration::from_secs(10));
        outside.block_on(async {
            let storage = connect(&config).await;
            assert!(!storage.exists(&id("f")).await.unwrap(), "{:?}", server.kind);
        });
    }
}

/// Two projects deadlocked where uploads waited for permits that they held themselves.
#[tokio::test]
async fn uploads_share_one_permit_and_all_end() {
    for (_, config, _) in everywhere().await {
        let storage = connect(&config.with_parts_in_flight(1)).await;
        let upload = |name: &'static str, seed| {
            let storage = storage.clone();
            async move { storage.upload_bytes(&id(name), data(2 * PART as usize + 1, seed)).await }
        };
        let all = futures::future::try_join3(upload("a", 1), upload("b", 2), upload("c", 3));
        tokio::time::timeout(Duration::from_secs(60), all).await.expect("a deadlock").unwrap();
        assert_eq!(storage.download_bytes(&id("b")).await.unwrap(), data(2 * PART as usize + 1, 2));
    }
}

#[tokio::test]
async fn a_copy_in_parts_keeps_bytes_digest_and_attributes() {
    for (server, _, storage) in everywhere().await {
        let storage = storage.with_copy_limit(PART);
        let bytes = data(2 * PART as usize + 9, 4);
        let options = UploadOptions::default()
            .with_digest(Digest::of(&bytes))
            .with_file_name("Größe.bin")
            .with_tag("k", "v");
        storage.upload(&id("a b+%"), bytes.clone().into(), options.clone()).await.unwrap();
        let receipt = storage.copy(&id("a b+%"), &id("b"), UploadOptions::default()).await.unwrap();
        assert_eq!(receipt.digest, Some(Digest::of(&bytes)));
        let read = storage.metadata(&id("b")).await.unwrap();
        assert_eq!(read.digest, Some(Digest::of(&bytes)));
        assert_eq!((&read.file_name, &read.tags), (&options.file_name, &options.tags));
        assert_eq!(storage.download_bytes(&id("b")).await.unwrap(), bytes, "{:?}", server.kind);
        assert!(storage.stale(Duration::ZERO).await.unwrap().is_empty());
        let version = read.version.unwrap();
        assert!(version.as_str().ends_with("-3\""), "not copied in three parts: {version}");
    }
}

/// Also what another tool began, and what is beneath another prefix is not ours.
#[tokio::test]
async fn stale_lists_all_pages_of_its_prefix_and_nothing_else() {
    for (server, config, storage) in everywhere().await {
        let client = raw_client(&server);
        let prefix = key_prefix(&config);
        let begin = async |key: String| {
            client.create_multipart_upload().bucket(&server.bucket).key(key).send().await.unwrap();
        };
        begin(format!("{prefix}a b+%é")).await;
        begin(format!("{}-beside", prefix.trim_end_matches('/'))).await;
        storage.begin(&id("c"), PART, UploadOptions::default()).await.unwrap();
        let found = storage.stale(Duration::ZERO).await.unwrap();
        let mut ids: Vec<_> = found.iter().map(|ticket| ticket.id.as_str().to_owned()).collect();
        ids.sort();
        assert_eq!(ids, ["a b+%é", "c"], "{:?}", server.kind);
        for ticket in &found {
            storage.abandon(ticket).await.unwrap();
            storage.abandon(ticket).await.unwrap();
        }
        assert!(storage.stale(Duration::ZERO).await.unwrap().is_empty());
    }
}

/// More parts than one page of a listing has, in one go with a resume from another client.
#[tokio::test(flavor = "multi_thread")]
async fn more_parts_than_a_page_are_all_listed() {
    let Some(server) = test_rig::shared::garage() else { return };
    let config = crate::common::config(&server);
    let storage = connect(&config).await;
    let ticket = storage.begin(&id("f"), PART, UploadOptions::default()).await.unwrap();
    let bytes = data(10, 5);
    let digest = Digest::of(&bytes);
    let numbers = 1..=1_001u32;
    let puts = futures::stream::iter(numbers.clone().map(|number| {
        let number = NonZeroU32::new(number).unwrap();
        storage.put_part(&ticket, number, bytes.clone(), digest)
    }));
    use futures::{StreamExt, TryStreamExt};
    let mut held: Vec<PartReceipt> = puts.buffer_unordered(16).try_collect().await.unwrap();
    held.sort_by_key(|part| part.number);
    let other = connect(&config).await;
    let listed = other.parts(&ticket).await.unwrap();
    assert_eq!(listed, held);
    other.abandon(&ticket).await.unwrap();
    assert_eq!(other.parts(&ticket).await.unwrap_err().kind(), ErrorKind::NoSuchUpload);
}

#[tokio::test]
async fn a_finish_that_knows_another_digest_than_the_beginning_is_refused() {
    for (_, _, storage) in everywhere().await {
        let bytes = data(100, 6);
        let options = UploadOptions::default().with_digest(Digest::of(b"other"));
        let ticket = storage.begin(&id("f"), PART, options).await.unwrap();
        let part =
            storage.put_part(&ticket, NonZeroU32::MIN, bytes.clone(), Digest::of(&bytes)).await.unwrap();
        let finish = FinishOptions::default().with_digest(Digest::of(&bytes));
        let error = storage.finish(&ticket, &[part], finish).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity);
    }
}
