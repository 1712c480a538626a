//! Promises of [`FileStorage::metadata`].

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::Fixture;
use super::support::{data, fails, id, ok, put};
use crate::checksum::Digest;
use crate::error::ErrorKind;
use crate::metadata::FileMetadata;
use crate::storage::{DownloadOptions, FileStorage, UploadOptions};

/// Uploads a small file and asks for its metadata.
async fn stored(storage: &Arc<dyn FileStorage>, name: &str, options: UploadOptions) -> FileMetadata {
    ok(storage.upload(&id(name), data(100, 1).into(), options).await);
    ok(storage.metadata(&id(name)).await)
}

/// A missing file is `NotFound`, and the error names it.
pub async fn missing_is_not_found(fixture: &Fixture) {
    for name in ["nothing", "deep/down/nothing"] {
        let error = fails(fixture.storage().metadata(&id(name)).await, ErrorKind::NotFound);
        assert_eq!(error.id(), Some(&id(name)));
        assert!(error.storage().is_some());
    }
}

/// `a/b` is missing where `a` is a file; `a` is missing where there is only `a/b`.
pub async fn beneath_a_file_is_not_found(fixture: &Fixture) {
    put(fixture.storage(), "a", &data(10, 3)).await;
    put(fixture.storage(), "d/e", &data(10, 3)).await;
    fails(fixture.storage().metadata(&id("a/b")).await, ErrorKind::NotFound);
    fails(fixture.storage().metadata(&id("d")).await, ErrorKind::NotFound);
}

fn full() -> UploadOptions {
    UploadOptions::default()
        .with_content_type("application/x-report; charset=utf-8")
        .with_file_name("Report 2024 (final).txt")
        .with_created(SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5))
}

#[track_caller]
fn assert_full(metadata: &FileMetadata) {
    assert_eq!(metadata.content_type.as_deref(), Some("application/x-report; charset=utf-8"));
    assert_eq!(metadata.file_name.as_deref(), Some("Report 2024 (final).txt"));
    assert_eq!(metadata.created, Some(SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5)));
}

/// What was given is kept.
pub async fn keeps_every_attribute(fixture: &Fixture) {
    let metadata = stored(fixture.storage(), "a.jpg", full()).await;
    assert_full(&metadata);
    assert_eq!((metadata.id, metadata.size), (id("a.jpg"), 100));
    assert!(metadata.modified.is_some() && metadata.version.is_some());
    assert_full(&ok(fixture.another().metadata(&id("a.jpg")).await));
}

/// Names as users type them.
pub async fn keeps_names_of_every_script(fixture: &Fixture) {
    let names = [
        "élan +1%.jpg",
        "e\u{301}.txt",
        "договор.pdf",
        "契約書 最終.docx",
        "🦀 & co;=?\"'<>.md",
        "  two  ",
        "%41",
        "a/b\\c",
        "=?UTF-8?Q?=C3=A9?=",
        "tab\there",
        "line\nbreak",
    ];
    for (count, name) in names.into_iter().enumerate() {
        let options = UploadOptions::default().with_file_name(name);
        let metadata = stored(fixture.storage(), &format!("name-{count}"), options).await;
        assert_eq!(metadata.file_name.as_deref(), Some(name));
    }
}

async fn keeps_created(fixture: &Fixture, created: SystemTime) {
    let metadata = stored(fixture.storage(), "c", UploadOptions::default().with_created(created)).await;
    assert_eq!(metadata.created, Some(created));
}

/// A time is not rounded.
pub async fn keeps_created_to_the_nanosecond(fixture: &Fixture) {
    for nanoseconds in [0, 1, 123_456_789, 999_999_999] {
        keeps_created(fixture, SystemTime::UNIX_EPOCH + Duration::new(1_600_000_000, nanoseconds)).await;
    }
}

/// Old photographs are older than the epoch.
pub async fn keeps_created_before_1970(fixture: &Fixture) {
    keeps_created(fixture, SystemTime::UNIX_EPOCH - Duration::new(86_400 * 3_650, 1)).await;
}

/// What was not given is not there.
pub async fn makes_up_no_name_and_no_time(fixture: &Fixture) {
    let metadata = stored(fixture.storage(), "a/b.txt", UploadOptions::default()).await;
    assert_eq!((metadata.file_name, metadata.created), (None, None));
    assert!(metadata.tags.is_empty());
}

async fn guesses(fixture: &Fixture, name: &str, options: UploadOptions, due: &str) {
    let metadata = stored(fixture.storage(), name, options).await;
    assert_eq!(metadata.content_type.as_deref(), Some(due));
}

/// The user's name of the file goes before its id.
pub async fn content_type_is_guessed_from_the_file_name(fixture: &Fixture) {
    guesses(fixture, "x.png", UploadOptions::default().with_file_name("a.pdf"), "application/pdf").await;
}

/// The id is the next best.
pub async fn content_type_is_guessed_from_the_id(fixture: &Fixture) {
    guesses(fixture, "some/dir.txt/x.png", UploadOptions::default(), "image/png").await;
}

/// RFC 2046 section 4.5.1.
pub async fn content_type_of_an_unknown_extension(fixture: &Fixture) {
    guesses(fixture, "x.no-such-thing", UploadOptions::default(), "application/octet-stream").await;
    guesses(fixture, "plain", UploadOptions::default(), "application/octet-stream").await;
}

/// Tags of any text are kept, where tags are.
pub async fn keeps_tags(fixture: &Fixture) {
    let storage = fixture.storage();
    let options = UploadOptions::default()
        .with_tag("owner", "Ann")
        .with_tag("with space", "")
        .with_tag("ключ", "значение = + % & 🦀")
        .with_tag("Owner", "another case");
    let result = storage.upload(&id("t"), data(100, 1).into(), options.clone()).await;
    if !storage.capabilities().tags {
        fails(result, ErrorKind::Unsupported);
        return;
    }
    assert_eq!(ok(result).metadata.tags, options.tags);
    assert_eq!(ok(storage.metadata(&id("t")).await).tags, options.tags);
    assert_eq!(ok(storage.download(&id("t"), DownloadOptions::default()).await).metadata.tags, options.tags);
}

/// A digest that the caller knew beforehand can be asked for, whatever the way the file was stored.
pub async fn keeps_the_digest_that_was_given(fixture: &Fixture) {
    for (name, size) in [("small", 1_000), ("large", fixture.large + 1)] {
        let bytes = data(size, 2);
        let digest = Digest::of(&bytes);
        let options = UploadOptions::default().with_digest(digest);
        ok(fixture.storage().upload(&id(name), bytes.into(), options).await);
        assert_eq!(ok(fixture.storage().metadata(&id(name)).await).digest, Some(digest), "{name}");
    }
}

/// A storage may not know a digest, but what it tells is that of the bytes.
pub async fn digest_never_lies(fixture: &Fixture) {
    let storage = fixture.storage();
    for (seed, size) in [(3, 1_000), (4, fixture.large + 1), (5, 10)] {
        let bytes = data(size, seed);
        put(storage, "d", &bytes).await;
        if let Some(digest) = ok(storage.metadata(&id("d")).await).digest {
            assert_eq!(digest, Digest::of(&bytes), "{size} bytes");
        }
    }
}

/// Receipt, download and metadata are three views of one thing.
pub async fn is_the_same_in_receipt_and_download(fixture: &Fixture) {
    let storage = fixture.storage();
    for (name, size) in [("small", 1_000), ("large", fixture.large + 1)] {
        let mut receipt = ok(storage.upload(&id(name), data(size, 6).into(), full()).await).metadata;
        let mut downloaded = ok(storage.download(&id(name), DownloadOptions::default()).await).metadata;
        let mut metadata = ok(storage.metadata(&id(name)).await);
        // Servers tell times in different precision, and no time with the answer to a write.
        for metadata in [&mut receipt, &mut downloaded, &mut metadata] {
            (metadata.modified, metadata.stored) = (None, None);
        }
        assert_eq!(receipt, metadata, "{name}: receipt and metadata");
        assert_eq!(downloaded, metadata, "{name}: download and metadata");
    }
}

/// Other bytes are another version, even of the same size.
pub async fn version_changes_with_the_bytes(fixture: &Fixture) {
    let storage = fixture.storage();
    let mut seen = Vec::new();
    for seed in 0..4 {
        let version = put(storage, "v", &data(1_000, seed)).await.metadata.version.expect("a version");
        assert!(!seen.contains(&version), "{version} was the version of other bytes");
        seen.push(version);
    }
}

/// Reading, listing and writing elsewhere change nothing.
pub async fn version_stays_while_nothing_changes(fixture: &Fixture) {
    let storage = fixture.storage();
    let version = put(storage, "v", &data(1_000, 1)).await.metadata.version;
    put(storage, "w", &data(1_000, 2)).await;
    super::support::get(storage, "v").await;
    super::support::all(storage).await;
    assert!(version.is_some());
    assert_eq!(ok(storage.metadata(&id("v")).await).version, version);
    assert_eq!(ok(fixture.another().metadata(&id("v")).await).version, version);
}

/// Attributes take the way of large files too.
pub async fn large_files_keep_every_attribute(fixture: &Fixture) {
    let storage = fixture.storage();
    let bytes: Bytes = data(fixture.large + 1, 7);
    let mut options = full();
    if storage.capabilities().tags {
        options = options.with_tag("size", "large");
    }
    ok(storage.upload(&id("l"), bytes.into(), options.clone()).await);
    let metadata = ok(storage.metadata(&id("l")).await);
    assert_full(&metadata);
    assert_eq!(metadata.tags, options.tags);
}
