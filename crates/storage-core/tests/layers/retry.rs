//! Trying again, without doing anything twice.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use storage_core::backend::memory::MemoryStorage;
use storage_core::checksum::Digest;
use storage_core::error::{Effect, ErrorKind, Op};
use storage_core::id::{FileId, Prefix};
use storage_core::layer::retry::RetryStorage;
use storage_core::layer::retry::policy::RetryConfig;
use storage_core::storage::{
    ByteRange, DownloadOptions, FileStorage, FileStorageExt, FinishOptions, ListOptions, PartNumber,
    Precondition, ResumableUpload, UploadOptions, Verified,
};
use storage_core::testkit::flaky::{Fault, FlakyStorage, Odds};
use tokio::time::Instant;

const LOST: Fault = Fault::After(ErrorKind::Unavailable);
const DOWN: Fault = Fault::Before(ErrorKind::Unavailable);

fn id(text: &str) -> FileId {
    FileId::parse(text).unwrap()
}

fn absent() -> UploadOptions {
    UploadOptions::default().with_when(Precondition::Absent)
}

fn retrying_with(config: RetryConfig) -> (MemoryStorage, FlakyStorage, RetryStorage) {
    let memory = MemoryStorage::new();
    let flaky = FlakyStorage::new(Arc::new(memory.clone()));
    let retry = RetryStorage::new(Arc::new(flaky.clone()), config).unwrap();
    (memory, flaky, retry)
}

fn retrying() -> (MemoryStorage, FlakyStorage, RetryStorage) {
    retrying_with(RetryConfig::default())
}

/// The file is there, and the caller is told that somebody else made it: whoever believes that never cleans it
/// up, or uploads it again under another name.
#[tokio::test(start_paused = true)]
async fn a_creation_whose_answer_was_lost_does_not_meet_itself_as_a_stranger() {
    let (memory, flaky, storage) = retrying();
    let options = absent().with_file_name("ä.txt").with_tag("k", "v");
    flaky.fail_next(Op::Upload, LOST);
    let receipt = storage.upload(&id("a"), Bytes::from("abc").into(), options).await.unwrap();
    assert_eq!(flaky.calls(Op::Upload), 2);
    assert_eq!(receipt.digest, Some(Digest::of(b"abc")));
    assert_eq!(receipt.verified, Verified::Backend);
    assert_eq!(receipt.metadata, memory.metadata(&id("a")).await.unwrap());
}

/// The reverse: somebody else's file must not be taken for one's own, be it as large.
#[tokio::test(start_paused = true)]
async fn a_creation_whose_answer_was_lost_does_not_take_a_stranger_for_itself() {
    for (theirs, options) in [
        ("xyz", UploadOptions::default()),
        ("longer", UploadOptions::default()),
        ("abc", UploadOptions::default().with_file_name("another name")),
    ] {
        let (memory, flaky, storage) = retrying();
        // It took effect, and somebody else replaced it before the next attempt.
        flaky.fail_next(Op::Upload, Fault::After(ErrorKind::Timeout));
        let id = id("a");
        let upload = storage.upload(&id, Bytes::from("abc").into(), absent());
        let theirs = Bytes::from(theirs);
        let other = async {
            tokio::task::yield_now().await;
            memory.upload(&id, theirs.clone().into(), options).await.unwrap()
        };
        let (ours, _) = tokio::join!(upload, other);
        let error = ours.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::AlreadyExists, Effect::Unknown));
        assert_eq!(memory.download_bytes(&id).await.unwrap(), theirs);
    }
}

/// Without a lost answer there is nothing to reconcile, equal bytes or not.
#[tokio::test(start_paused = true)]
async fn an_equal_file_that_was_there_before_is_told() {
    let (memory, flaky, storage) = retrying();
    memory.upload_bytes(&id("a"), "abc".into()).await.unwrap();
    flaky.fail_next(Op::Upload, DOWN);
    let error = storage.upload(&id("a"), Bytes::from("abc").into(), absent()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::AlreadyExists, Effect::None));
}

#[tokio::test(start_paused = true)]
async fn a_replacement_whose_answer_was_lost_knows_its_own_version() {
    let (memory, flaky, storage) = retrying();
    let version = memory.upload_bytes(&id("a"), "old".into()).await.unwrap().metadata.version.unwrap();
    let options = UploadOptions::default().with_when(Precondition::Version(version));
    flaky.fail_next(Op::Upload, LOST);
    flaky.fail_next(Op::Upload, DOWN);
    let receipt = storage.upload(&id("a"), Bytes::from("new").into(), options.clone()).await.unwrap();
    assert_eq!(receipt.metadata.version, memory.metadata(&id("a")).await.unwrap().version);
    // A second one, of a version that is no more, is refused.
    let error = storage.upload(&id("a"), Bytes::from("new").into(), options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::VersionMismatch);
}

#[tokio::test(start_paused = true)]
async fn a_copy_whose_answer_was_lost_knows_its_own_target() {
    let (memory, flaky, storage) = retrying();
    memory.upload_bytes(&id("a"), "abc".into()).await.unwrap();
    flaky.fail_next(Op::Copy, LOST);
    let options = absent().with_file_name("copy");
    let receipt = storage.copy(&id("a"), &id("b"), options.clone()).await.unwrap();
    assert_eq!(receipt.metadata, memory.metadata(&id("b")).await.unwrap());
    let error = storage.copy(&id("a"), &id("b"), options).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::AlreadyExists, Effect::None));
}

#[tokio::test(start_paused = true)]
async fn an_upload_in_parts_survives_a_lost_answer_at_every_step() {
    let (memory, flaky, storage) = retrying();
    for op in [Op::PutPart, Op::ListParts, Op::FinishUpload, Op::AbandonUpload] {
        flaky.fail_next(op, LOST);
        flaky.fail_next(op, DOWN);
    }
    let ticket = storage.begin(&id("a"), 3, UploadOptions::default()).await.unwrap();
    let first = storage.put_part(&ticket, PartNumber::MIN, "abc".into(), Digest::of(b"abc")).await.unwrap();
    assert_eq!(storage.parts(&ticket).await.unwrap(), std::slice::from_ref(&first));
    let finish = FinishOptions::default().with_when(Precondition::Absent);
    let receipt = storage.finish(&ticket, &[first], finish).await.unwrap();
    assert_eq!(receipt.metadata.version, memory.metadata(&id("a")).await.unwrap().version);
    storage.abandon(&ticket).await.unwrap();
    assert_eq!(storage.stale(Duration::ZERO).await.unwrap(), []);
}

/// A second upload would hide the first, which is billed until somebody finds it.
#[tokio::test(start_paused = true)]
async fn the_beginning_of_an_upload_is_not_repeated_after_a_lost_answer() {
    let (_, flaky, storage) = retrying();
    flaky.fail_next(Op::BeginUpload, DOWN);
    flaky.fail_next(Op::BeginUpload, LOST);
    let error = storage.begin(&id("a"), 3, UploadOptions::default()).await.unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown);
    assert_eq!(storage.stale(Duration::ZERO).await.unwrap().len(), 1);
}

/// Whoever keeps books must not read "no effect" from the last of several attempts.
#[tokio::test(start_paused = true)]
async fn the_last_error_says_what_is_known_of_all_attempts() {
    let (memory, flaky, storage) = retrying();
    flaky.fail_next(Op::Upload, LOST);
    (0..4).for_each(|_| flaky.fail_next(Op::Upload, DOWN));
    let error = storage.upload_bytes(&id("a"), "abc".into()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown));
    assert!(memory.exists(&id("a")).await.unwrap());
    flaky.set_outage(true);
    let error = storage.upload_bytes(&id("b"), "abc".into()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None));
    assert_eq!(flaky.calls(Op::Upload), 10);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_whose_answer_was_lost_has_deleted() {
    let (memory, flaky, storage) = retrying();
    let version = memory.upload_bytes(&id("a"), "abc".into()).await.unwrap().metadata.version.unwrap();
    flaky.fail_next(Op::Delete, LOST);
    assert!(storage.delete(&id("a"), Precondition::Version(version)).await.unwrap());
    assert!(!storage.delete(&id("a"), Precondition::None).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_help_is_not_repeated_and_a_probe_never() {
    let (_, flaky, storage) = retrying();
    storage.metadata(&id("a")).await.unwrap_err();
    flaky.fail_next(Op::Delete, Fault::Before(ErrorKind::Denied));
    storage.delete(&id("a"), Precondition::None).await.unwrap_err();
    flaky.fail_next(Op::Probe, DOWN);
    storage.probe(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!([Op::Metadata, Op::Delete, Op::Probe].map(|op| flaky.calls(op)), [1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn waits_as_long_as_the_storage_asks() {
    let (_, flaky, storage) = retrying();
    flaky.fail_next(Op::Upload, Fault::RetryAfter(ErrorKind::Throttled, Duration::from_secs(7)));
    let start = Instant::now();
    storage.upload_bytes(&id("a"), "abc".into()).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(7), "{:?}", start.elapsed());
    let long = Fault::RetryAfter(ErrorKind::Throttled, Duration::from_secs(3_600));
    flaky.fail_next(Op::Upload, long);
    assert!(storage.upload_bytes(&id("a"), "abc".into()).await.is_err());
}

/// Runs many operations, a few at a time, and returns calls per operation.
async fn amplification(config: RetryConfig, odds: f64) -> f64 {
    const OPERATIONS: u32 = 3_000;
    let seed = 7;
    let memory = MemoryStorage::new();
    memory.upload_bytes(&id("a"), "abc".into()).await.unwrap();
    let flaky = FlakyStorage::new(Arc::new(memory)).with_odds(Odds::default().with_before(odds), seed);
    let storage = Arc::new(RetryStorage::new(Arc::new(flaky.clone()), config).unwrap());
    let workers = (0..50).map(|_| {
        let storage = Arc::clone(&storage);
        tokio::spawn(async move {
            for _ in 0..OPERATIONS / 50 {
                // An operation takes time, or time would never pass.
                tokio::time::sleep(Duration::from_millis(20)).await;
                let _ = storage.metadata(&id("a")).await;
            }
        })
    });
    for worker in join_all(workers).await {
        worker.unwrap();
    }
    flaky.calls(Op::Metadata) as f64 / f64::from(OPERATIONS)
}

/// Retries without a budget double the load on a storage that fails under load.
#[tokio::test(start_paused = true)]
async fn a_storm_of_failures_is_not_amplified() {
    let config = RetryConfig::default();
    let half = amplification(config, 0.5).await;
    assert!((1.1..=1.5).contains(&half), "{half} calls per operation when half fail");
    let all = amplification(config, 1.0).await;
    assert!((1.1..=1.5).contains(&all), "{all} calls per operation when all fail");
    let none = amplification(config, 0.0).await;
    assert_eq!(none, 1.0);
    // The figure that the budget is there to prevent: the test can see it.
    let unbounded = amplification(config.with_budget(100.0, 1e6, 0.0), 1.0).await;
    assert!(unbounded > 4.9, "{unbounded}");
}

/// The budget must not stand in the way of a service with few operations.
#[tokio::test(start_paused = true)]
async fn a_rare_failure_is_always_repeated() {
    let (_, flaky, storage) = retrying_with(RetryConfig::default().with_budget(0.0, 1.0, 1.0));
    for _ in 0..20 {
        flaky.fail_next(Op::Upload, DOWN);
        storage.upload_bytes(&id("a"), "abc".into()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

fn content(size: usize) -> Bytes {
    (0..size).map(|at| (at * 31 / 7) as u8).collect()
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_goes_on_where_it_did() {
    let (memory, flaky, storage) = retrying_with(RetryConfig::default().with_budget(1.0, 100.0, 1.0));
    let bytes = content(1_000_000);
    memory.upload_bytes(&id("a"), bytes.clone()).await.unwrap();
    for at in [0, 1, 262_144, 300_000, 999_999] {
        flaky.fail_next(Op::Download, Fault::Broken(at));
        flaky.fail_next(Op::Download, DOWN);
        assert_eq!(storage.download_bytes(&id("a")).await.unwrap(), bytes, "broken at {at}");
        flaky.fail_next(Op::Download, Fault::Broken(at.min(400_000)));
        let range = DownloadOptions::default().with_range(ByteRange::Between(100_000, 700_000));
        let part = storage.download(&id("a"), range).await.unwrap().bytes().await.unwrap();
        assert_eq!(part, bytes[100_000..700_000], "broken at {at}");
    }
    // Progress resets the count of attempts: many breaks are not one failure.
    (0..20).for_each(|_| flaky.fail_next(Op::Download, Fault::Broken(10_000)));
    assert_eq!(storage.download_bytes(&id("a")).await.unwrap(), bytes);
}

/// The resumed rest is checked together with what came before: neither storage alone sees the whole.
#[tokio::test(start_paused = true)]
async fn a_resumed_body_is_still_compared_with_its_digest() {
    let (memory, flaky, storage) = retrying();
    memory.upload_bytes(&id("a"), content(1_000_000)).await.unwrap();
    flaky.fail_next(Op::Download, Fault::Broken(300_000));
    let mut body = storage.download(&id("a"), DownloadOptions::default()).await.unwrap().body;
    body.try_next().await.unwrap();
    assert!(memory.corrupt(&id("a")));
    let rest: Result<Vec<_>, _> = body.try_collect().await;
    assert_eq!(rest.unwrap_err().kind(), ErrorKind::Integrity);
}

/// Going on by offset alone gives the head of one file and the tail of another.
#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_is_not_completed_from_another_version() {
    let (memory, flaky, storage) = retrying();
    for size in [1_000_000, 2_000_000] {
        memory.upload_bytes(&id("a"), content(1_000_000)).await.unwrap();
        flaky.fail_next(Op::Download, Fault::Broken(300_000));
        let range = DownloadOptions::default().with_range(ByteRange::Between(0, 900_000));
        let mut body = storage.download(&id("a"), range).await.unwrap().body;
        body.try_next().await.unwrap();
        memory.upload_bytes(&id("a"), vec![9; size].into()).await.unwrap();
        let rest: Result<Vec<_>, _> = body.try_collect().await;
        assert_eq!(rest.unwrap_err().kind(), ErrorKind::SourceChanged);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_comes_ends_in_its_error() {
    let (memory, flaky, storage) = retrying();
    memory.upload_bytes(&id("a"), content(1_000)).await.unwrap();
    flaky.fail_next(Op::Download, Fault::Broken(10));
    (0..20).for_each(|_| flaky.fail_next(Op::Download, DOWN));
    let mut body = storage.download(&id("a"), DownloadOptions::default()).await.unwrap().body;
    assert_eq!(body.try_next().await.unwrap().unwrap().len(), 10);
    assert_eq!(body.try_next().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(body.next().await.is_none());
    // The first, and four that were to go on.
    assert_eq!(flaky.calls(Op::Download), 5);
}

/// A listing that begins again from the start doubles files; one that gives up is taken for the whole.
#[tokio::test(start_paused = true)]
async fn a_listing_that_breaks_off_goes_on_without_gap_or_double() {
    let (memory, flaky, storage) = retrying();
    let due: Vec<String> = (0..50).map(|number| format!("{number:03}")).collect();
    for name in &due {
        memory.upload_bytes(&id(name), "x".into()).await.unwrap();
    }
    for after in [Fault::Broken(0), Fault::Broken(1), Fault::Broken(20), DOWN, Fault::Broken(49)] {
        flaky.fail_next(Op::List, after);
    }
    let listed: Vec<_> = storage
        .list(&Prefix::all(), ListOptions::default())
        .map_ok(|file| file.id.to_string())
        .try_collect()
        .await
        .unwrap();
    assert_eq!(listed, due);
    flaky.set_outage(true);
    let listed: Vec<_> = storage.list(&Prefix::all(), ListOptions::default()).collect().await;
    assert_eq!(listed.len(), 1, "an error is the last item");
    assert_eq!(listed[0].as_ref().unwrap_err().kind(), ErrorKind::Unavailable);
}

/// Whatever is lost, and whenever: what was acknowledged is there.
#[tokio::test(start_paused = true)]
#[expect(clippy::print_stderr, reason = "the seed, for whoever repeats a failure")]
async fn what_was_acknowledged_is_there_whatever_was_lost() {
    let seed = rand::random();
    eprintln!("seed {seed}");
    let memory = MemoryStorage::new();
    let odds = Odds::default().with_before(0.2).with_after(0.2).with_broken(0.2);
    let flaky = FlakyStorage::new(Arc::new(memory.clone())).with_odds(odds, seed);
    let config = RetryConfig::default().with_max_attempts(NonZeroU32::new(4).unwrap());
    let storage = RetryStorage::new(Arc::new(flaky), config).unwrap();
    let (mut created, mut refused) = (0, 0);
    for number in 0..300 {
        let (name, bytes) = (id(&format!("{number:03}")), content(1_000 + number));
        match storage.upload(&name, bytes.clone().into(), absent()).await {
            Ok(receipt) => {
                created += 1;
                assert_eq!(receipt.digest, Some(Digest::of(&bytes)), "seed {seed}");
                assert_eq!(memory.download_bytes(&name).await.unwrap(), bytes, "seed {seed}");
            }
            Err(error) => {
                refused += 1;
                assert_ne!(error.kind(), ErrorKind::AlreadyExists, "its own file (seed {seed})");
                let stored = memory.exists(&name).await.unwrap();
                assert!(!stored || error.effect() != Effect::None, "seed {seed}: {error:?}");
            }
        }
    }
    assert!(created > 200 && refused > 0, "{created} created, {refused} refused (seed {seed})");
}
