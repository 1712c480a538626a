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

/// The number falls while the storage asks for less, holds for what waits, and comes back to the cap and no further.
#[tokio::test]
async fn a_storage_that_asks_for_less_is_sent_less() {
    let flaky = FlakyStorage::new(Arc::new(MemoryStorage::new()));
    let config = LimitConfig::default().with_concurrency(NonZeroU32::new(8).unwrap()).with_adaptive(true);
    let storage = Arc::new(LimitStorage::new(Arc::new(flaky.clone()), config));
    let bound = storage.bound();
    storage.upload_bytes(&id("a"), vec![1; 1_000_000].into()).await.unwrap();
    // Permits that are out when the number falls are kept when they come back.
    let mut held = Vec::new();
    for _ in 0..7 {
        held.push(storage.download(&id("a"), DownloadOptions::default()).await.unwrap());
    }
    for expected in [4, 2, 1] {
        flaky.fail_next(Op::Metadata, Fault::Before(ErrorKind::Throttled));
        if expected < 4 {
            held.clear();
        }
        storage.metadata(&id("a")).await.unwrap_err();
        assert_eq!((bound.now(), bound.cap()), (expected, 8));
    }
    let at_once = async |count: usize| {
        let file = id("a");
        let bodies = (0..count).map(|_| storage.download_bytes(&file));
        join_all(bodies).await.into_iter().for_each(|body| assert_eq!(body.unwrap().len(), 1_000_000));
    };
    let waiting = tokio::spawn({
        let storage = Arc::clone(&storage);
        async move {
            let held = storage.download(&id("a"), DownloadOptions::default()).await.unwrap();
            std::future::pending::<()>().await;
            drop(held);
        }
    });
    settle().await;
    let other = tokio::spawn({
        let storage = Arc::clone(&storage);
        async move { storage.download_bytes(&id("a")).await }
    });
    settle().await;
    assert_eq!(flaky.running(), 1, "more than the lowered number ran");
    waiting.abort();
    other.await.unwrap().unwrap();
    at_once(100).await;
    assert_eq!(bound.now(), 8);
    let before = flaky.peak();
    at_once(50).await;
    assert!(flaky.peak() <= before.max(8), "{} at a time", flaky.peak());
    assert_eq!(bound.now(), 8);
}

/// An outage and a refusal say nothing of how many there were.
#[tokio::test]
async fn what_fewer_operations_would_not_mend_changes_nothing() {
    let flaky = FlakyStorage::new(Arc::new(MemoryStorage::new()));
    let config = LimitConfig::default().with_concurrency(NonZeroU32::new(8).unwrap()).with_adaptive(true);
    let storage = LimitStorage::new(Arc::new(flaky.clone()), config);
    for kind in [ErrorKind::Unavailable, ErrorKind::Denied, ErrorKind::Integrity] {
        flaky.fail_next(Op::Metadata, Fault::Before(kind));
        storage.metadata(&id("a")).await.unwrap_err();
        assert_eq!(storage.bound().now(), 8, "{kind:?}");
    }
    storage.metadata(&id("a")).await.unwrap_err();
    assert_eq!(storage.bound().now(), 8, "not found");
}
