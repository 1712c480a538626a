//! Promises of [`FileStorage::copy`](crate::storage::FileStorage::copy).

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::Fixture;
use super::support::{all, data, fails, get, id, missing, ok, put, same};
use crate::checksum::Digest;
use crate::error::ErrorKind;
use crate::storage::{Precondition, UploadOptions};

fn attributes(fixture: &Fixture) -> UploadOptions {
    let options = UploadOptions::default()
        .with_content_type("text/x-source")
        .with_file_name("Quelle é.txt")
        .with_created(SystemTime::UNIX_EPOCH + Duration::new(1_500_000_000, 7));
    if fixture.storage().capabilities().tags { options.with_tag("from", "source") } else { options }
}

/// A copy without options is the same file under another id.
pub async fn copies_bytes_and_attributes(fixture: &Fixture) {
    let storage = fixture.storage();
    let bytes = data(1_000, 1);
    let given = attributes(fixture);
    ok(storage.upload(&id("from dir/ü+%.txt"), bytes.clone().into(), given.clone()).await);
    let receipt = ok(storage.copy(&id("from dir/ü+%.txt"), &id("to/copy"), UploadOptions::default()).await);
    assert_eq!((receipt.metadata.id, receipt.metadata.size), (id("to/copy"), 1_000));
    assert!(receipt.metadata.version.is_some());
    if let Some(digest) = receipt.digest {
        assert_eq!(digest, Digest::of(&bytes));
    }
    same(&get(storage, "to/copy").await, &bytes);
    let metadata = ok(storage.metadata(&id("to/copy")).await);
    assert_eq!(metadata.content_type, given.content_type);
    assert_eq!(metadata.file_name, given.file_name);
    assert_eq!(metadata.created, given.created);
    assert_eq!(metadata.tags, given.tags);
}

/// What is given replaces, what is not given stays.
pub async fn replaces_given_attributes(fixture: &Fixture) {
    let storage = fixture.storage();
    let given = attributes(fixture);
    ok(storage.upload(&id("a"), data(1_000, 2).into(), given.clone()).await);
    let options = UploadOptions::default().with_content_type("text/x-target");
    ok(storage.copy(&id("a"), &id("b"), options).await);
    let metadata = ok(storage.metadata(&id("b")).await);
    assert_eq!(metadata.content_type.as_deref(), Some("text/x-target"));
    assert_eq!((metadata.file_name, metadata.created), (given.file_name, given.created));
    assert_eq!(metadata.tags, given.tags);

    let later = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    let mut options = UploadOptions::default().with_file_name("another").with_created(later);
    if storage.capabilities().tags {
        options = options.with_tag("only", "this");
    }
    let tags = options.tags.clone();
    ok(storage.copy(&id("a"), &id("c"), options).await);
    let metadata = ok(storage.metadata(&id("c")).await);
    assert_eq!(metadata.content_type.as_deref(), Some("text/x-source"));
    assert_eq!(metadata.file_name.as_deref(), Some("another"));
    assert_eq!((metadata.created, metadata.tags), (Some(later), tags));
    assert_eq!(ok(storage.metadata(&id("a")).await).content_type.as_deref(), Some("text/x-source"));
}

/// Large files may take another way.
pub async fn copies_a_large_file(fixture: &Fixture) {
    let storage = fixture.storage();
    let bytes = data(fixture.large + 1, 3);
    let given = attributes(fixture);
    ok(storage.upload(&id("a"), bytes.clone().into(), given.clone()).await);
    ok(storage.copy(&id("a"), &id("b"), UploadOptions::default()).await);
    same(&get(storage, "b").await, &bytes);
    let metadata = ok(storage.metadata(&id("b")).await);
    assert_eq!((metadata.file_name, metadata.content_type), (given.file_name, given.content_type));
}

/// Copying does not touch the source.
pub async fn leaves_the_source(fixture: &Fixture) {
    let storage = fixture.storage();
    put(storage, "a", &data(1_000, 4)).await;
    let before = ok(storage.metadata(&id("a")).await);
    ok(storage.copy(&id("a"), &id("b"), UploadOptions::default().with_file_name("b")).await);
    assert_eq!(ok(storage.metadata(&id("a")).await), before);
    same(&get(storage, "a").await, &data(1_000, 4));
    assert_eq!(all(storage).await, ["a", "b"]);
}

/// A copy without precondition replaces all of the target.
pub async fn replaces_the_target(fixture: &Fixture) {
    let storage = fixture.storage();
    put(storage, "a", &data(1_000, 5)).await;
    let options = UploadOptions::default().with_file_name("old name");
    ok(storage.upload(&id("b"), data(2_000, 6).into(), options).await);
    ok(storage.copy(&id("a"), &id("b"), UploadOptions::default()).await);
    same(&get(storage, "b").await, &data(1_000, 5));
    assert_eq!(ok(storage.metadata(&id("b")).await).file_name, None);
}

/// Nothing is made of nothing.
pub async fn missing_source_is_not_found(fixture: &Fixture) {
    let storage = fixture.storage();
    let copy =
        |from: &'static str| async move { storage.copy(&id(from), &id("b"), UploadOptions::default()).await };
    fails(copy("a").await, ErrorKind::NotFound);
    missing(storage, "b").await;
    put(storage, "f", &data(10, 7)).await;
    put(storage, "d/e", &data(10, 7)).await;
    fails(copy("f/beneath").await, ErrorKind::NotFound);
    fails(copy("d").await, ErrorKind::NotFound);
    assert_eq!(all(storage).await, ["d/e", "f"]);
}

/// The way to change attributes.
pub async fn onto_itself_changes_attributes(fixture: &Fixture) {
    let storage = fixture.storage();
    let bytes = data(1_000, 8);
    put(storage, "a.txt", &bytes).await;
    let options = UploadOptions::default().with_content_type("text/x-new").with_file_name("new");
    ok(storage.copy(&id("a.txt"), &id("a.txt"), options).await);
    same(&get(storage, "a.txt").await, &bytes);
    let metadata = ok(storage.metadata(&id("a.txt")).await);
    assert_eq!(metadata.content_type.as_deref(), Some("text/x-new"));
    assert_eq!(metadata.file_name.as_deref(), Some("new"));
}

/// `Absent` holds for the target.
pub async fn absent_creates_and_refuses_to_replace(fixture: &Fixture) {
    let storage = fixture.storage();
    put(storage, "a", &data(1_000, 9)).await;
    let options = UploadOptions::default().with_when(Precondition::Absent);
    let result = storage.copy(&id("a"), &id("b"), options.clone()).await;
    if !storage.capabilities().conditional_create {
        fails(result, ErrorKind::Unsupported);
        return missing(storage, "b").await;
    }
    ok(result);
    same(&get(storage, "b").await, &data(1_000, 9));
    put(storage, "c", &Bytes::from_static(b"first")).await;
    fails(storage.copy(&id("a"), &id("c"), options).await, ErrorKind::AlreadyExists);
    same(&get(storage, "c").await, b"first");
}

/// `Version` is that of the target.
pub async fn version_replaces_that_version_only(fixture: &Fixture) {
    let storage = fixture.storage();
    put(storage, "a", &data(1_000, 10)).await;
    let first = put(storage, "b", &Bytes::from_static(b"first")).await.metadata.version;
    let second = put(storage, "b", &Bytes::from_static(b"second")).await.metadata.version;
    let when = |version: &Option<_>| {
        UploadOptions::default().with_when(Precondition::Version(Option::clone(version).expect("a version")))
    };
    let stale = storage.copy(&id("a"), &id("b"), when(&first)).await;
    if !storage.capabilities().conditional_replace {
        fails(stale, ErrorKind::Unsupported);
        return same(&get(storage, "b").await, b"second");
    }
    fails(stale, ErrorKind::VersionMismatch);
    same(&get(storage, "b").await, b"second");
    ok(storage.copy(&id("a"), &id("b"), when(&second)).await);
    same(&get(storage, "b").await, &data(1_000, 10));
}

/// A digest in the options is that of the bytes, or the copy is refused.
pub async fn refuses_bytes_that_do_not_have_the_given_digest(fixture: &Fixture) {
    let storage = fixture.storage();
    let bytes = data(1_000, 11);
    put(storage, "a", &bytes).await;
    let wrong = UploadOptions::default().with_digest(Digest::of(b"something else"));
    fails(storage.copy(&id("a"), &id("b"), wrong).await, ErrorKind::Integrity);
    missing(storage, "b").await;
    let right = UploadOptions::default().with_digest(Digest::of(&bytes));
    ok(storage.copy(&id("a"), &id("b"), right).await);
    same(&get(storage, "b").await, &bytes);
}

/// Tags are kept or refused, never dropped.
pub async fn refuses_tags_it_cannot_keep(fixture: &Fixture) {
    let storage = fixture.storage();
    put(storage, "a", &data(1_000, 12)).await;
    let options = UploadOptions::default().with_tag("owner", "ann");
    let result = storage.copy(&id("a"), &id("b"), options).await;
    if storage.capabilities().tags {
        ok(result);
        let tags = ok(storage.metadata(&id("b")).await).tags;
        assert_eq!(tags.get("owner").map(String::as_str), Some("ann"));
    } else {
        fails(result, ErrorKind::Unsupported);
        missing(storage, "b").await;
    }
}

/// A copy is no link.
pub async fn is_independent_of_its_source(fixture: &Fixture) {
    let storage = fixture.storage();
    put(storage, "a", &data(1_000, 13)).await;
    ok(storage.copy(&id("a"), &id("b"), UploadOptions::default()).await);
    ok(storage.copy(&id("a"), &id("c"), UploadOptions::default()).await);
    put(storage, "a", &data(500, 14)).await;
    same(&get(storage, "b").await, &data(1_000, 13));
    assert!(ok(storage.delete(&id("a"), Precondition::None).await));
    same(&get(storage, "c").await, &data(1_000, 13));
}
