//! Promises about callers that act at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::join_all;

use super::Fixture;
use super::support::{all, data, fails, get, id, left_out, ok, put, same};
use crate::error::{ErrorKind, Result};
use crate::storage::{DownloadOptions, FileStorageExt, Precondition, Receipt, UploadOptions};

const CONTENDERS: u64 = 8;

/// Lets contenders write under one precondition, half of them through another handle.
async fn contend(fixture: &Fixture, name: &'static str, when: Precondition) -> Vec<Result<Receipt>> {
    let tasks = (0..CONTENDERS).map(|seed| {
        let storage = if seed % 2 == 0 { fixture.storage() } else { fixture.another() };
        let storage = Arc::clone(storage);
        let options = UploadOptions::default().with_when(when.clone());
        tokio::spawn(async move { storage.upload(&id(name), data(20_000, seed).into(), options).await })
    });
    join_all(tasks).await.into_iter().map(|task| task.expect("a contender panicked")).collect()
}

/// Exactly one wins, the others are told why not, and the winner's bytes are there.
async fn one_wins(fixture: &Fixture, name: &str, results: Vec<Result<Receipt>>, loss: ErrorKind) {
    let mut winners = Vec::new();
    for (seed, result) in (0..).zip(results) {
        match result {
            Ok(receipt) => winners.push((seed, receipt)),
            Err(error) => assert_eq!(error.kind(), loss, "{error:?}"),
        }
    }
    assert_eq!(winners.len(), 1, "winners: {winners:?}");
    let (seed, receipt) = &winners[0];
    same(&get(fixture.storage(), name).await, &data(20_000, *seed));
    assert_eq!(ok(fixture.storage().metadata(&id(name)).await).version, receipt.metadata.version);
}

/// Of many creators exactly one succeeds.
pub async fn one_creator_wins(fixture: &Fixture) {
    for name in ["a", "d/e/f"] {
        let results = contend(fixture, name, Precondition::Absent).await;
        if fixture.storage().capabilities().conditional_create {
            one_wins(fixture, name, results, ErrorKind::AlreadyExists).await;
        } else {
            results.into_iter().for_each(|result| {
                fails(result, ErrorKind::Unsupported);
            });
        }
    }
}

/// Of many that replace one version exactly one succeeds: no update is lost.
pub async fn one_replacer_of_a_version_wins(fixture: &Fixture) {
    let version = put(fixture.storage(), "a", &data(10, 99)).await.metadata.version.expect("a version");
    let results = contend(fixture, "a", Precondition::Version(version)).await;
    if fixture.storage().capabilities().conditional_replace {
        one_wins(fixture, "a", results, ErrorKind::VersionMismatch).await;
    } else {
        results.into_iter().for_each(|result| {
            fails(result, ErrorKind::Unsupported);
        });
    }
}

/// Of many copies onto a free id exactly one succeeds.
pub async fn one_copy_wins(fixture: &Fixture) {
    let storage = fixture.storage();
    for seed in 0..CONTENDERS {
        put(storage, &format!("source-{seed}"), &data(20_000, seed)).await;
    }
    let tasks = (0..CONTENDERS).map(|seed| {
        let storage = Arc::clone(storage);
        let options = UploadOptions::default().with_when(Precondition::Absent);
        tokio::spawn(async move { storage.copy(&id(&format!("source-{seed}")), &id("to"), options).await })
    });
    let results: Vec<_> =
        join_all(tasks).await.into_iter().map(|task| task.expect("a contender panicked")).collect();
    if storage.capabilities().conditional_create {
        one_wins(fixture, "to", results, ErrorKind::AlreadyExists).await;
    } else {
        results.into_iter().for_each(|result| {
            fails(result, ErrorKind::Unsupported);
        });
    }
}

fn version(number: u8) -> Bytes {
    // Versions differ in every byte and in size, so that no mixture of two looks like one.
    vec![number; 300_000 + usize::from(number) * 10_007].into()
}

#[track_caller]
fn assert_one_version(bytes: &Bytes) {
    let number = *bytes.first().expect("a version has bytes");
    same(bytes, &version(number));
}

/// Readers beside a writer see one version each, whole, and never a gap between two.
pub async fn readers_see_old_or_new(fixture: &Fixture) {
    put(fixture.storage(), "f", &version(0)).await;
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..4)
        .map(|number| {
            let storage = if number % 2 == 0 { fixture.storage() } else { fixture.another() };
            let (storage, done) = (Arc::clone(storage), Arc::clone(&done));
            tokio::spawn(async move {
                let mut reads = 0;
                while !done.load(Ordering::Relaxed) || reads == 0 {
                    let download = ok(storage.download(&id("f"), DownloadOptions::default()).await);
                    let size = download.metadata.size;
                    let bytes = ok(download.bytes().await);
                    assert_eq!(bytes.len() as u64, size, "metadata of another version than the bytes");
                    assert_one_version(&bytes);
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    for number in 1..30 {
        put(fixture.storage(), "f", &version(number)).await;
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.expect("a reader panicked") > 0);
    }
    assert_one_version(&get(fixture.storage(), "f").await);
}

/// A replacement does not reach into a body that is being read.
pub async fn a_reader_ends_with_the_version_it_began(fixture: &Fixture) {
    if fixture.concurrency < 2 {
        return left_out("the storage runs one operation at a time");
    }
    let storage = fixture.storage();
    let old = data(fixture.large + 1, 1);
    put(storage, "f", &old).await;
    let mut download = ok(storage.download(&id("f"), DownloadOptions::default()).await);
    let first = ok(download.body.try_next().await).expect("a first piece");
    put(storage, "f", &data(fixture.large / 2, 2)).await;
    let rest = ok(crate::body::collect(download.body).await);
    same(&[first, rest].concat(), &old);
    same(&get(storage, "f").await, &data(fixture.large / 2, 2));
}

/// A deletion may end a read, but not so that it looks complete.
pub async fn a_reader_of_a_deleted_file_sees_the_whole_or_an_error(fixture: &Fixture) {
    if fixture.concurrency < 2 {
        return left_out("the storage runs one operation at a time");
    }
    let storage = fixture.storage();
    let bytes = data(fixture.large + 1, 3);
    put(storage, "f", &bytes).await;
    let mut download = ok(storage.download(&id("f"), DownloadOptions::default()).await);
    let first = ok(download.body.try_next().await).expect("a first piece");
    assert!(ok(storage.delete(&id("f"), Precondition::None).await));
    if let Ok(rest) = crate::body::collect(download.body).await {
        same(&[first, rest].concat(), &bytes);
    }
}

/// Without preconditions the last writer wins, whoever that is, with all its bytes and attributes.
pub async fn many_writers_leave_one_whole_file(fixture: &Fixture) {
    let tasks = (0..CONTENDERS as u8).map(|number| {
        let storage = if number % 2 == 0 { fixture.storage() } else { fixture.another() };
        let storage = Arc::clone(storage);
        let options = UploadOptions::default().with_file_name(number.to_string());
        tokio::spawn(async move { storage.upload(&id("f"), version(number).into(), options).await })
    });
    for task in join_all(tasks).await {
        ok(task.expect("a writer panicked"));
    }
    let bytes = ok(fixture.storage().download_bytes(&id("f")).await);
    assert_one_version(&bytes);
    let metadata = ok(fixture.storage().metadata(&id("f")).await);
    assert_eq!(metadata.file_name, Some(bytes[0].to_string()));
    assert_eq!(all(fixture.storage()).await, ["f"]);
}
