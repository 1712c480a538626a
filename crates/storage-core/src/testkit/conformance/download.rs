//! Promises of [`FileStorage::download`].

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;

use super::Fixture;
use super::support::{assert_missing, data, fails, get, id, left_out, nothing_more, ok, put, same};
use crate::error::ErrorKind;
use crate::metadata::Version;
use crate::storage::{ByteRange, DownloadOptions, FileStorage, FileStorageExt, Precondition, UploadOptions};

/// Reads a range and compares bytes and offsets with what they should be.
async fn check(storage: &Arc<dyn FileStorage>, name: &str, all: &[u8], asked: ByteRange, due: Range<usize>) {
    let options = DownloadOptions::default().with_range(asked);
    let download = ok(storage.download(&id(name), options).await);
    assert_eq!(download.range, due.start as u64..due.end as u64, "{asked:?}");
    same(&ok(download.bytes().await), &all[due]);
}

async fn of_thousand(fixture: &Fixture, asked: ByteRange, due: Range<usize>) {
    let bytes = data(1_000, 1);
    put(fixture.storage(), "thousand", &bytes).await;
    check(fixture.storage(), "thousand", &bytes, asked, due).await;
}

/// A whole download tells the range and all metadata before the first byte.
pub async fn reports_the_whole_range_and_the_metadata(fixture: &Fixture) {
    let storage = fixture.storage();
    let options = UploadOptions::default().with_content_type("text/x-a").with_file_name("ä.txt");
    ok(storage.upload(&id("a"), data(1_000, 2).into(), options).await);
    let download = ok(storage.download(&id("a"), DownloadOptions::default()).await);
    assert_eq!(download.range, 0..1_000);
    assert_eq!(download.metadata.id, id("a"));
    assert_eq!(download.metadata.size, 1_000);
    assert_eq!(download.metadata.content_type.as_deref(), Some("text/x-a"));
    assert_eq!(download.metadata.file_name.as_deref(), Some("ä.txt"));
    assert!(download.metadata.version.is_some());
    same(&ok(download.bytes().await), &data(1_000, 2));
}

/// A missing file is `NotFound`, and the error names it.
pub async fn missing_is_not_found(fixture: &Fixture) {
    let storage = fixture.storage();
    for name in ["nothing", "deep/down/nothing"] {
        let error = fails(storage.download(&id(name), DownloadOptions::default()).await, ErrorKind::NotFound);
        assert_eq!(error.id(), Some(&id(name)));
        assert!(error.storage().is_some());
        let ranged = DownloadOptions::default().with_range(ByteRange::From(0));
        fails(storage.download(&id(name), ranged).await, ErrorKind::NotFound);
    }
}

/// `a/b` is missing, not broken, where `a` is a file.
pub async fn beneath_a_file_is_not_found(fixture: &Fixture) {
    put(fixture.storage(), "a", &data(10, 3)).await;
    assert_missing(fixture.storage().download_bytes(&id("a/b")).await);
    assert_missing(fixture.storage().download_bytes(&id("a/b/c")).await);
}

/// `From` reads to the end.
pub async fn from_an_offset(fixture: &Fixture) {
    of_thousand(fixture, ByteRange::From(0), 0..1_000).await;
    of_thousand(fixture, ByteRange::From(1), 1..1_000).await;
    of_thousand(fixture, ByteRange::From(999), 999..1_000).await;
}

/// `Between` leaves out its end.
pub async fn between_two_offsets(fixture: &Fixture) {
    of_thousand(fixture, ByteRange::Between(0, 1), 0..1).await;
    of_thousand(fixture, ByteRange::Between(100, 200), 100..200).await;
    of_thousand(fixture, ByteRange::Between(0, 1_000), 0..1_000).await;
}

/// An end too far is the end of the file.
pub async fn end_behind_the_last_byte_means_the_last_byte(fixture: &Fixture) {
    of_thousand(fixture, ByteRange::Between(990, 5_000), 990..1_000).await;
    of_thousand(fixture, ByteRange::Between(0, u64::MAX), 0..1_000).await;
}

/// `Last` counts from the end.
pub async fn last_bytes(fixture: &Fixture) {
    of_thousand(fixture, ByteRange::Last(1), 999..1_000).await;
    of_thousand(fixture, ByteRange::Last(1_000), 0..1_000).await;
}

/// More last bytes than there are is all of them.
pub async fn more_last_bytes_than_there_are_means_all(fixture: &Fixture) {
    of_thousand(fixture, ByteRange::Last(5_000), 0..1_000).await;
}

async fn invalid(fixture: &Fixture, size: usize, asked: ByteRange) {
    put(fixture.storage(), "f", &data(size, 4)).await;
    let options = DownloadOptions::default().with_range(asked);
    fails(fixture.storage().download(&id("f"), options).await, ErrorKind::InvalidInput);
}

/// A range that begins behind the last byte has no bytes, and is not the whole file either.
pub async fn range_behind_the_last_byte_is_invalid(fixture: &Fixture) {
    invalid(fixture, 1_000, ByteRange::From(1_000)).await;
    invalid(fixture, 1_000, ByteRange::Between(1_000, 2_000)).await;
    invalid(fixture, 1_000, ByteRange::From(u64::MAX)).await;
}

/// A range without bytes is a mistake.
pub async fn empty_range_is_invalid(fixture: &Fixture) {
    invalid(fixture, 1_000, ByteRange::Between(5, 5)).await;
    invalid(fixture, 1_000, ByteRange::Between(6, 5)).await;
    invalid(fixture, 1_000, ByteRange::Last(0)).await;
}

/// An empty file has no range; without one it reads as nothing.
pub async fn range_of_an_empty_file_is_invalid(fixture: &Fixture) {
    invalid(fixture, 0, ByteRange::From(0)).await;
    invalid(fixture, 0, ByteRange::Last(5)).await;
    same(&get(fixture.storage(), "f").await, b"");
}

/// Ranges across the parts of a large file.
pub async fn ranges_of_a_large_file(fixture: &Fixture) {
    let size = fixture.large + 1;
    let bytes = data(size, 5);
    put(fixture.storage(), "large", &bytes).await;
    let middle = size / 2;
    for (asked, due) in [
        (ByteRange::From(size as u64 - 3), size - 3..size),
        (ByteRange::Between(1, size as u64 - 1), 1..size - 1),
        (
            ByteRange::Between(middle as u64 - 70_000, middle as u64 + 70_000),
            middle - 70_000..middle + 70_000,
        ),
        (ByteRange::Last(5 << 20), size - (5 << 20).min(size)..size),
    ] {
        check(fixture.storage(), "large", &bytes, asked, due).await;
    }
}

/// A range is of a file: its metadata are those of the whole.
pub async fn range_carries_the_metadata_of_the_whole(fixture: &Fixture) {
    let storage = fixture.storage();
    let options = UploadOptions::default().with_content_type("text/x-a").with_file_name("a name");
    let receipt = ok(storage.upload(&id("a"), data(1_000, 6).into(), options).await);
    let options = DownloadOptions::default().with_range(ByteRange::Between(10, 20));
    let metadata = ok(storage.download(&id("a"), options).await).metadata;
    assert_eq!(metadata.size, 1_000);
    assert_eq!(metadata.version, receipt.metadata.version);
    assert_eq!(metadata.content_type.as_deref(), Some("text/x-a"));
    assert_eq!(metadata.file_name.as_deref(), Some("a name"));
}

fn when(version: &Version) -> DownloadOptions {
    DownloadOptions::default().with_when(Precondition::Version(version.clone()))
}

/// A named version is read as long as it is stored.
pub async fn that_version(fixture: &Fixture) {
    let storage = fixture.storage();
    let version = put(storage, "a", &data(1_000, 7)).await.metadata.version.expect("a version");
    let download = ok(storage.download(&id("a"), when(&version)).await);
    assert_eq!(download.metadata.version, Some(version));
    same(&ok(download.bytes().await), &data(1_000, 7));
}

/// A version that was replaced is not read.
pub async fn another_version_is_refused(fixture: &Fixture) {
    let storage = fixture.storage();
    let version = put(storage, "a", &data(1_000, 7)).await.metadata.version.expect("a version");
    put(storage, "a", &data(1_000, 8)).await;
    fails(storage.download(&id("a"), when(&version)).await, ErrorKind::VersionMismatch);
    let ranged = when(&version).with_range(ByteRange::From(5));
    fails(storage.download(&id("a"), ranged).await, ErrorKind::VersionMismatch);
    assert!(ok(storage.delete(&id("a"), Precondition::None).await));
    fails(storage.download(&id("a"), when(&version)).await, ErrorKind::NotFound);
}

/// Range and version together, as a broken download goes on.
pub async fn range_of_that_version(fixture: &Fixture) {
    let storage = fixture.storage();
    let bytes = data(1_000, 9);
    let version = put(storage, "a", &bytes).await.metadata.version.expect("a version");
    let options = when(&version).with_range(ByteRange::From(400));
    same(&ok(ok(storage.download(&id("a"), options).await).bytes().await), &bytes[400..]);
}

/// Stored bytes that changed by themselves are told, not handed out as if they were whole.
pub async fn whole_read_of_corrupt_bytes_never_ends_cleanly(fixture: &Fixture) {
    let storage = fixture.storage();
    for (name, size) in [("small", 1_000), ("large", fixture.large + 1)] {
        let bytes = data(size, 10);
        put(storage, name, &bytes).await;
        let Some(corrupt) = &fixture.corrupt else {
            return left_out(fixture.uncorrupted);
        };
        corrupt(&id(name));
        fails(storage.download_bytes(&id(name)).await, ErrorKind::Integrity);
    }
}

/// Whoever asks again after the end, or after the error that was the end, is told that there is nothing more, and does
/// not panic: adapters that poll once too often are many.
pub async fn ended_has_nothing_more(fixture: &Fixture) {
    let storage = fixture.storage();
    for (name, size) in [("empty", 0), ("small", 1_000), ("large", fixture.large + 1)] {
        put(storage, name, &data(size, 12)).await;
        let whole = DownloadOptions::default();
        let part = (size > 1).then(|| whole.clone().with_range(ByteRange::Between(1, size as u64)));
        for options in part.into_iter().chain([whole]) {
            let mut body = ok(storage.download(&id(name), options).await).body;
            while ok(body.try_next().await).is_some() {}
            nothing_more(&mut body).await;
        }
        let Some(corrupt) = fixture.corrupt.as_ref().filter(|_| size > 0) else { continue };
        corrupt(&id(name));
        let Ok(download) = storage.download(&id(name), DownloadOptions::default()).await else { continue };
        let mut body = download.body;
        // Unless it comes from a cache, it ends in an error.
        while let Ok(Some(_)) = body.try_next().await {}
        nothing_more(&mut body).await;
    }
}

/// A reader may lose interest.
pub async fn may_be_dropped_half_way(fixture: &Fixture) {
    let storage = fixture.storage();
    let bytes: Bytes = data(fixture.large + 1, 11);
    put(storage, "large", &bytes).await;
    for _ in 0..3 {
        let mut download = ok(storage.download(&id("large"), DownloadOptions::default()).await);
        let first = ok(download.body.try_next().await).expect("a first piece");
        same(&first, &bytes[..first.len()]);
    }
    same(&get(storage, "large").await, &bytes);
}
