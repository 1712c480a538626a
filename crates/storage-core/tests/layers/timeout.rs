//! A call that hangs becomes a call that fails.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use storage_core::backend::memory::MemoryStorage;
use storage_core::body::{Body, BodySource, ByteStream};
use storage_core::checksum::Digest;
use storage_core::error::{Effect, ErrorKind, Op, Result};
use storage_core::id::{FileId, Prefix};
use storage_core::layer::limit::{LimitConfig, LimitStorage};
use storage_core::layer::timeout::{TimeoutConfig, TimeoutStorage};
use storage_core::storage::{
    DownloadOptions, FileStorage, FileStorageExt, FinishOptions, ListOptions, PartNumber, Precondition,
    PresignRequest, ResumableUpload, UploadOptions,
};
use storage_core::testkit::flaky::{Fault, FlakyStorage};
use tokio::time::Instant;

fn id(text: &str) -> FileId {
    FileId::parse(text).unwrap()
}

fn flaky() -> FlakyStorage {
    FlakyStorage::new(Arc::new(MemoryStorage::new()))
}

fn with_timeout(inner: &FlakyStorage) -> TimeoutStorage {
    TimeoutStorage::new(Arc::new(inner.clone()), TimeoutConfig::default()).unwrap()
}

#[track_caller]
fn timed_out<T: std::fmt::Debug>(result: Result<T>, effect: Effect) {
    let error = result.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, effect), "{error:?}");
    assert_eq!(error.storage(), Some("memory"));
}

/// A hung primary hangs everything behind it unless every operation has an end.
#[tokio::test(start_paused = true)]
async fn a_hung_operation_fails_and_says_whether_it_may_have_written() {
    let (inner, a, b) = (flaky(), id("a"), id("b"));
    let storage = with_timeout(&inner);
    let ticket = storage.begin(&a, 10, UploadOptions::default()).await.unwrap();
    let hang = |op| inner.fail_next(op, Fault::Never);

    hang(Op::Upload);
    timed_out(storage.upload_bytes(&a, "x".into()).await, Effect::Unknown);
    hang(Op::Download);
    timed_out(storage.download(&a, DownloadOptions::default()).await, Effect::None);
    hang(Op::Metadata);
    timed_out(storage.metadata(&a).await, Effect::None);
    hang(Op::Delete);
    timed_out(storage.delete(&a, Precondition::None).await, Effect::Unknown);
    hang(Op::Copy);
    timed_out(storage.copy(&a, &b, UploadOptions::default()).await, Effect::Unknown);
    hang(Op::Presign);
    let request = PresignRequest::get(Duration::from_secs(60));
    timed_out(storage.presigned_url(&a, request).await, Effect::None);
    hang(Op::List);
    let listed: Result<Vec<_>> = storage.list(&Prefix::all(), ListOptions::default()).try_collect().await;
    timed_out(listed, Effect::None);
    hang(Op::Probe);
    timed_out(storage.probe(Duration::from_secs(2)).await, Effect::Unknown);
    hang(Op::BeginUpload);
    timed_out(storage.begin(&a, 10, UploadOptions::default()).await, Effect::Unknown);
    hang(Op::PutPart);
    let part = storage.put_part(&ticket, PartNumber::MIN, "x".into(), Digest::of(b"x")).await;
    timed_out(part, Effect::Unknown);
    hang(Op::ListParts);
    timed_out(storage.parts(&ticket).await, Effect::None);
    hang(Op::FinishUpload);
    timed_out(storage.finish(&ticket, &[], FinishOptions::default()).await, Effect::Unknown);
    hang(Op::AbandonUpload);
    timed_out(storage.abandon(&ticket).await, Effect::Unknown);
    hang(Op::ListUploads);
    timed_out(storage.stale(Duration::ZERO).await, Effect::None);
    assert_eq!(inner.running(), 0, "a hung call was left running");
}

/// A probe keeps to the deadline of its caller, not to its own.
#[tokio::test(start_paused = true)]
async fn a_hung_probe_ends_at_the_deadline_that_was_asked_for() {
    let inner = flaky();
    inner.fail_next(Op::Probe, Fault::Never);
    let start = Instant::now();
    timed_out(with_timeout(&inner).probe(Duration::from_secs(2)).await, Effect::Unknown);
    assert_eq!(start.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_ends_in_a_timeout() {
    let inner = flaky();
    let storage = with_timeout(&inner);
    storage.upload_bytes(&id("a"), vec![1; 1_000_000].into()).await.unwrap();
    inner.fail_next(Op::Download, Fault::Stalled(300_000));
    let mut body = storage.download(&id("a"), DownloadOptions::default()).await.unwrap().body;
    let mut seen = 0;
    let error = loop {
        match body.next().await.expect("a stalled body has no clean end") {
            Ok(piece) => seen += piece.len(),
            Err(error) => break error,
        }
    };
    assert_eq!((seen, error.kind(), error.effect()), (300_000, ErrorKind::Timeout, Effect::None));
    assert!(body.next().await.is_none());
    drop(body);
    assert_eq!(inner.running(), 0);
}

/// Whoever reads slowly is not cut off: only waiting for the storage counts.
#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_no_slow_storage() {
    let storage = with_timeout(&flaky());
    storage.upload_bytes(&id("a"), vec![1; 1_000_000].into()).await.unwrap();
    let mut body = storage.download(&id("a"), DownloadOptions::default()).await.unwrap().body;
    let mut seen = 0;
    while let Some(piece) = body.try_next().await.unwrap() {
        seen += piece.len();
        tokio::time::sleep(Duration::from_secs(3_600)).await;
    }
    assert_eq!(seen, 1_000_000);
}

/// Gives a piece every so often.
#[derive(Debug)]
struct Trickle {
    pieces: u64,
    every: Duration,
}

const PIECE: u64 = 1 << 20;

#[async_trait]
impl BodySource for Trickle {
    fn size(&self) -> u64 {
        self.pieces * PIECE
    }

    async fn open(&self, _range: Range<u64>) -> Result<ByteStream> {
        let every = self.every;
        let pieces = stream::iter(0..self.pieces).then(move |_| async move {
            tokio::time::sleep(every).await;
            Ok(Bytes::from(vec![7; PIECE as usize]))
        });
        Ok(pieces.boxed())
    }

    fn in_memory(&self) -> Option<&Bytes> {
        None
    }
}

/// A fixed deadline would fail every large file on a slow link, and none would fail a tiny one soon.
#[tokio::test(start_paused = true)]
async fn an_upload_has_time_for_its_bytes_and_no_more() {
    let storage = with_timeout(&flaky());
    let upload = async |seconds| {
        let body = Body::from_source(Trickle { pieces: 64, every: Duration::from_secs(seconds) });
        storage.upload(&id("a"), body, UploadOptions::default()).await
    };
    // 64 MiB at 1 Mbit/s and the base make 542 s.
    upload(8).await.unwrap();
    timed_out(upload(9).await, Effect::Unknown);
}

/// Operations that hang must not keep their permits, or the storage never comes back.
#[tokio::test(start_paused = true)]
async fn hung_operations_give_their_permits_back() {
    let inner = flaky();
    let one = LimitConfig::default().with_concurrency(std::num::NonZeroU32::MIN);
    let storage = LimitStorage::new(Arc::new(with_timeout(&inner)), one);
    for _ in 0..3 {
        inner.fail_next(Op::Metadata, Fault::Never);
        timed_out(storage.metadata(&id("a")).await, Effect::None);
    }
    storage.upload_bytes(&id("a"), "x".into()).await.unwrap();
    inner.fail_next(Op::Download, Fault::Stalled(0));
    timed_out(storage.download_bytes(&id("a")).await, Effect::None);
    assert_eq!(storage.download_bytes(&id("a")).await.unwrap(), "x");
}
