//! So many at a time, and nobody waits for himself.

use std::num::NonZeroU32;
use std::sync::Arc;

use futures::TryStreamExt;
use futures::future::join_all;
use storage_core::backend::memory::MemoryStorage;
use storage_core::error::{ErrorKind, Op};
use storage_core::id::{FileId, Prefix};
use storage_core::layer::limit::{LimitConfig, LimitStorage};
use storage_core::storage::{DownloadOptions, FileStorage, FileStorageExt, ListOptions, Precondition};
use storage_core::testkit::flaky::{Fault, FlakyStorage};

fn id(text: &str) -> FileId {
    FileId::parse(text).unwrap()
}

fn limited(concurrency: u32) -> (FlakyStorage, Arc<LimitStorage>) {
    let flaky = FlakyStorage::new(Arc::new(MemoryStorage::new()));
    let config = LimitConfig::default().with_concurrency(NonZeroU32::new(concurrency).unwrap());
    (flaky.clone(), Arc::new(LimitStorage::new(Arc::new(flaky), config)))
}

/// Lets every task that can run do so.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// A permit that ended with the headers would let any number of bodies run.
#[tokio::test]
async fn a_body_that_is_held_holds_its_permit() {
    let (inner, storage) = limited(3);
    storage.upload_bytes(&id("a"), vec![1; 1_000_000].into()).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(storage.download(&id("a"), DownloadOptions::default()).await.unwrap());
    }
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let storage = Arc::clone(&storage);
            tokio::spawn(async move { storage.download_bytes(&id("a")).await.map(|bytes| bytes.len()) })
        })
        .collect();
    settle().await;
    assert_eq!(inner.calls(Op::Download), 3, "an operation ran without a permit");
    assert_eq!(inner.running(), 3);
    held.clear();
    for waited in join_all(waiting).await {
        assert_eq!(waited.unwrap().unwrap(), 1_000_000);
    }
    assert!(inner.peak() <= 3, "{} at a time", inner.peak());
    assert_eq!(inner.running(), 0);
}

/// Every way in which a download ends frees its permit.
#[tokio::test]
async fn a_permit_comes_back_however_the_download_ends() {
    let (inner, storage) = limited(1);
    storage.upload_bytes(&id("a"), vec![1; 1_000_000].into()).await.unwrap();
    let open = async || storage.download(&id("a"), DownloadOptions::default()).await.unwrap();

    drop(open().await);
    let mut half = open().await;
    half.body.try_next().await.unwrap();
    drop(half);
    // Read to its end, and still held.
    let mut read = open().await;
    while read.body.try_next().await.unwrap().is_some() {}
    // Failed half way, and still held.
    inner.fail_next(Op::Download, Fault::Broken(10));
    let mut failed = open().await;
    while let Ok(Some(_)) = failed.body.try_next().await {}
    // Failed at once.
    inner.fail_next(Op::Download, Fault::Before(ErrorKind::Unavailable));
    storage.download(&id("a"), DownloadOptions::default()).await.unwrap_err();
    storage.metadata(&id("a")).await.unwrap();
    drop((read, failed));
}

/// A caller that gives up must neither keep a permit nor a place in the queue.
#[tokio::test]
async fn canceled_callers_leave_nothing_behind() {
    let (inner, storage) = limited(1);
    storage.upload_bytes(&id("a"), "x".into()).await.unwrap();
    inner.fail_next(Op::Metadata, Fault::Never);
    let hung = tokio::spawn({
        let storage = Arc::clone(&storage);
        async move { storage.metadata(&id("a")).await }
    });
    settle().await;
    let queued: Vec<_> = (0..3)
        .map(|_| {
            let storage = Arc::clone(&storage);
            tokio::spawn(async move { storage.metadata(&id("a")).await })
        })
        .collect();
    settle().await;
    assert_eq!(inner.calls(Op::Metadata), 1);
    queued.iter().for_each(tokio::task::JoinHandle::abort);
    hung.abort();
    settle().await;
    assert_eq!(inner.running(), 0);
    storage.metadata(&id("a")).await.unwrap();
    assert_eq!(inner.calls(Op::Metadata), 2, "an operation ran that nobody waits for");
}

/// A consumer that acts on each file it lists would wait for its own listing.
#[tokio::test]
async fn whoever_lists_may_act_on_each_file() {
    let (_, storage) = limited(1);
    for name in ["a", "b", "c"] {
        storage.upload_bytes(&id(name), "x".into()).await.unwrap();
    }
    let mut listing = storage.list(&Prefix::all(), ListOptions::default());
    while let Some(file) = listing.try_next().await.unwrap() {
        assert!(storage.delete(&file.id, Precondition::None).await.unwrap());
    }
}

/// The question whether a storage is up is not how long its queue is.
#[tokio::test]
async fn a_probe_does_not_queue() {
    let (_, storage) = limited(1);
    storage.upload_bytes(&id("a"), "x".into()).await.unwrap();
    let held = storage.download(&id("a"), DownloadOptions::default()).await.unwrap();
    storage.probe(std::time::Duration::from_secs(30)).await.unwrap();
    drop(held);
}
