//! Promises of [`FileStorage::upload`].

use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;

use super::Fixture;
use super::support::{Ending, TestBody, all, data, fails, get, id, left_out, missing, ok, put, same};
use crate::body::Body;
use crate::checksum::Digest;
use crate::error::ErrorKind;
use crate::storage::{FileStorage, FileStorageExt, Precondition, UploadOptions, Verified};

/// What went up comes down.
pub async fn gives_back_the_bytes(fixture: &Fixture) {
    let bytes = data(100_000, 1);
    put(fixture.storage(), "a/file.bin", &bytes).await;
    same(&get(fixture.storage(), "a/file.bin").await, &bytes);
    same(&get(fixture.another(), "a/file.bin").await, &bytes);
}

/// A file without bytes is a file.
pub async fn gives_back_an_empty_file(fixture: &Fixture) {
    let receipt = put(fixture.storage(), "empty", &Bytes::new()).await;
    assert_eq!((receipt.metadata.size, receipt.digest), (0, Some(Digest::of(b""))));
    same(&get(fixture.storage(), "empty").await, b"");
    assert_eq!(ok(fixture.storage().metadata(&id("empty")).await).size, 0);
    assert_eq!(all(fixture.storage()).await, ["empty"]);
}

/// A file of several parts comes down as one.
pub async fn gives_back_a_large_file(fixture: &Fixture) {
    let bytes = data(fixture.large + 1, 2);
    let receipt = put(fixture.storage(), "large", &bytes).await;
    assert_eq!(receipt.metadata.size, bytes.len() as u64);
    assert_eq!(receipt.digest, Some(Digest::of(&bytes)));
    same(&get(fixture.storage(), "large").await, &bytes);
}

/// The pieces of a body are nobody's business.
pub async fn takes_a_body_in_small_pieces(fixture: &Fixture) {
    let bytes = data(10_007, 3);
    let body = Body::from_source(TestBody { piece: 13, ..TestBody::new(bytes.clone(), Ending::Clean) });
    let receipt = ok(fixture.storage().upload(&id("pieces"), body, UploadOptions::default()).await);
    assert_eq!(receipt.digest, Some(Digest::of(&bytes)));
    same(&get(fixture.storage(), "pieces").await, &bytes);
}

/// A body may be an open file.
pub async fn takes_a_file_as_body(fixture: &Fixture) {
    let bytes = data(fixture.large / 2 + 3, 4);
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(&bytes).expect("writing a temporary file");
    let body = ok(Body::from_file(file));
    let receipt = ok(fixture.storage().upload(&id("file"), body, UploadOptions::default()).await);
    assert_eq!(receipt.digest, Some(Digest::of(&bytes)));
    same(&get(fixture.storage(), "file").await, &bytes);
}

/// The receipt's digest is that of the bytes, whether the caller knew it or not.
pub async fn answers_with_the_digest_of_the_stored_bytes(fixture: &Fixture) {
    let bytes = data(5_000, 5);
    let digest = Digest::of(&bytes);
    assert_eq!(put(fixture.storage(), "unknown", &bytes).await.digest, Some(digest));
    let options = UploadOptions::default().with_digest(digest);
    let receipt = ok(fixture.storage().upload(&id("known"), bytes.into(), options).await);
    assert_eq!(receipt.digest, Some(digest));
}

/// A receipt says `Backend` exactly where the storage compares.
pub async fn says_who_verified(fixture: &Fixture) {
    let compares = fixture.storage().capabilities().verifies_sha256;
    for (name, size) in [("small", 1_000), ("large", fixture.large + 1)] {
        let receipt = put(fixture.storage(), name, &data(size, 6)).await;
        assert_eq!(receipt.verified == Verified::Backend, compares, "{name}: {:?}", receipt.verified);
    }
}

/// An upload without precondition replaces all of the old file.
pub async fn replaces_bytes_and_attributes(fixture: &Fixture) {
    let storage = fixture.storage();
    let options = UploadOptions::default().with_content_type("text/x-old").with_file_name("old name");
    ok(storage.upload(&id("r.txt"), data(9_000, 7).into(), options).await);
    let new = data(4_000, 8);
    put(storage, "r.txt", &new).await;
    same(&get(storage, "r.txt").await, &new);
    let metadata = ok(storage.metadata(&id("r.txt")).await);
    assert_eq!(metadata.size, 4_000);
    assert_eq!(metadata.file_name, None, "an attribute of the old file is left");
    assert_eq!(metadata.content_type.as_deref(), Some("text/plain"));
    assert_eq!(all(storage).await, ["r.txt"]);
}

async fn refuses_a_wrong_digest(fixture: &Fixture, size: usize) {
    let storage = fixture.storage();
    let options = UploadOptions::default().with_digest(Digest::of(b"something else"));
    let body = || Body::from_bytes(data(size, 9));
    fails(storage.upload(&id("new"), body(), options.clone()).await, ErrorKind::Integrity);
    missing(storage, "new").await;
    put(storage, "old", &Bytes::from_static(b"old")).await;
    fails(storage.upload(&id("old"), body(), options).await, ErrorKind::Integrity);
    same(&get(storage, "old").await, b"old");
    assert_eq!(all(storage).await, ["old"]);
}

/// Bytes that are not those of the given digest are not published.
pub async fn refuses_bytes_that_do_not_have_the_given_digest(fixture: &Fixture) {
    refuses_a_wrong_digest(fixture, 3_000).await;
}

/// The same on the way of large files.
pub async fn refuses_a_large_body_that_does_not_have_the_given_digest(fixture: &Fixture) {
    refuses_a_wrong_digest(fixture, fixture.large + 1).await;
}

/// Uploads a body that must fail, small and large, as a new file and over an old one.
async fn publishes_nothing(fixture: &Fixture, body: impl Fn(usize) -> TestBody, kind: Option<ErrorKind>) {
    let storage = fixture.storage();
    put(storage, "old", &Bytes::from_static(b"old")).await;
    for size in [1_000, fixture.large + 1] {
        for name in ["old", "new"] {
            let body = Body::from_source(body(size));
            let error = storage
                .upload(&id(name), body, UploadOptions::default())
                .await
                .expect_err("the body was not what it said");
            if let Some(kind) = kind {
                assert_eq!(error.kind(), kind, "{error:?}");
            }
        }
        missing(storage, "new").await;
        same(&get(storage, "old").await, b"old");
        assert_eq!(all(storage).await, ["old"]);
    }
}

/// A source that changes under the reader is told as such.
pub async fn publishes_nothing_when_the_body_changes(fixture: &Fixture) {
    let body = |size| TestBody::new(data(size, 10), Ending::Error(ErrorKind::SourceChanged));
    publishes_nothing(fixture, body, Some(ErrorKind::SourceChanged)).await;
}

/// A body of fewer bytes than it said is not published as a prefix.
pub async fn publishes_nothing_when_the_body_ends_early(fixture: &Fixture) {
    let body = |size| TestBody { size: size as u64 + 10, ..TestBody::new(data(size, 11), Ending::Clean) };
    publishes_nothing(fixture, body, None).await;
}

/// A body of more bytes than it said is not cut.
pub async fn publishes_nothing_when_the_body_is_too_long(fixture: &Fixture) {
    let body = |size| TestBody { size: size as u64 - 10, ..TestBody::new(data(size, 12), Ending::Clean) };
    publishes_nothing(fixture, body, None).await;
}

/// A body that cannot be read to its end is not published.
pub async fn publishes_nothing_when_the_body_fails(fixture: &Fixture) {
    let body = |size| TestBody::new(data(size, 13), Ending::Error(ErrorKind::Other));
    publishes_nothing(fixture, body, None).await;
}

/// Drops an upload that waits for the last bytes of its body.
async fn drop_an_upload(storage: &Arc<dyn FileStorage>, name: &'static str, size: usize) {
    let waits = Arc::new(Notify::new());
    let body = TestBody {
        size: size as u64 + 10,
        ..TestBody::new(data(size, 14), Ending::Never(Arc::clone(&waits)))
    };
    let task = tokio::spawn({
        let storage = Arc::clone(storage);
        async move { storage.upload(&id(name), Body::from_source(body), UploadOptions::default()).await }
    });
    waits.notified().await;
    task.abort();
    let ended = task.await.expect_err("an upload without the end of its body cannot succeed");
    assert!(ended.is_cancelled(), "{ended:?}");
}

/// A dropped upload is none.
pub async fn dropped_publishes_nothing(fixture: &Fixture) {
    drop_an_upload(fixture.storage(), "dropped", 1_000).await;
    missing(fixture.storage(), "dropped").await;
    assert_eq!(all(fixture.storage()).await, [""; 0]);
}

/// The same in the middle of several parts.
pub async fn dropped_large_publishes_nothing(fixture: &Fixture) {
    drop_an_upload(fixture.storage(), "dropped", fixture.large).await;
    missing(fixture.storage(), "dropped").await;
    assert_eq!(all(fixture.storage()).await, [""; 0]);
}

/// A dropped replacement leaves the old file, whole.
pub async fn dropped_keeps_what_was_there(fixture: &Fixture) {
    let old = data(50_000, 15);
    put(fixture.storage(), "kept", &old).await;
    drop_an_upload(fixture.storage(), "kept", 1_000).await;
    same(&get(fixture.storage(), "kept").await, &old);
    assert_eq!(all(fixture.storage()).await, ["kept"]);
}

/// `Absent` on a free id creates.
pub async fn absent_creates(fixture: &Fixture) {
    let storage = fixture.storage();
    let options = UploadOptions::default().with_when(Precondition::Absent);
    for (name, size) in [("a", 500), ("b", fixture.large + 1)] {
        let result = storage.upload(&id(name), data(size, 16).into(), options.clone()).await;
        if storage.capabilities().conditional_create {
            ok(result);
            same(&get(storage, name).await, &data(size, 16));
        } else {
            fails(result, ErrorKind::Unsupported);
            missing(storage, name).await;
        }
    }
}

/// `Absent` on a taken id leaves what is there.
pub async fn absent_refuses_to_replace(fixture: &Fixture) {
    let storage = fixture.storage();
    put(storage, "a", &Bytes::from_static(b"first")).await;
    let options = UploadOptions::default().with_when(Precondition::Absent);
    let kind = if storage.capabilities().conditional_create {
        ErrorKind::AlreadyExists
    } else {
        ErrorKind::Unsupported
    };
    for size in [500, fixture.large + 1] {
        fails(storage.upload(&id("a"), data(size, 17).into(), options.clone()).await, kind);
        same(&get(storage, "a").await, b"first");
    }
}

/// `Version` of what is stored replaces it.
pub async fn version_replaces_that_version(fixture: &Fixture) {
    let storage = fixture.storage();
    let mut receipt = put(storage, "a", &Bytes::from_static(b"first")).await;
    for size in [500, fixture.large + 1] {
        let version = receipt.metadata.version.clone().expect("a version in the receipt");
        let options = UploadOptions::default().with_when(Precondition::Version(version));
        let result = storage.upload(&id("a"), data(size, 18).into(), options).await;
        if !storage.capabilities().conditional_replace {
            fails(result, ErrorKind::Unsupported);
            same(&get(storage, "a").await, b"first");
            return;
        }
        receipt = ok(result);
        same(&get(storage, "a").await, &data(size, 18));
    }
}

/// `Version` of what was stored before leaves what is stored now.
pub async fn version_refuses_another_version(fixture: &Fixture) {
    let storage = fixture.storage();
    let old = put(storage, "a", &Bytes::from_static(b"first")).await.metadata.version;
    put(storage, "a", &Bytes::from_static(b"second")).await;
    let version = old.expect("a version in the receipt");
    let options = UploadOptions::default().with_when(Precondition::Version(version));
    let kind = if storage.capabilities().conditional_replace {
        ErrorKind::VersionMismatch
    } else {
        ErrorKind::Unsupported
    };
    for size in [500, fixture.large + 1] {
        fails(storage.upload(&id("a"), data(size, 19).into(), options.clone()).await, kind);
        same(&get(storage, "a").await, b"second");
    }
}

/// `Version` of a file that is gone creates nothing.
pub async fn version_refuses_where_nothing_is_stored(fixture: &Fixture) {
    let storage = fixture.storage();
    let old = put(storage, "a", &Bytes::from_static(b"first")).await.metadata.version;
    assert!(ok(storage.delete(&id("a"), Precondition::None).await));
    let version = old.expect("a version in the receipt");
    let options = UploadOptions::default().with_when(Precondition::Version(version));
    let kind = if storage.capabilities().conditional_replace {
        ErrorKind::VersionMismatch
    } else {
        ErrorKind::Unsupported
    };
    fails(storage.upload(&id("a"), data(500, 20).into(), options).await, kind);
    missing(storage, "a").await;
}

/// Tags are kept or refused, never dropped.
pub async fn refuses_tags_it_cannot_keep(fixture: &Fixture) {
    let storage = fixture.storage();
    let options = UploadOptions::default().with_tag("owner", "ann");
    let result = storage.upload(&id("tagged"), data(100, 21).into(), options).await;
    if storage.capabilities().tags {
        assert_eq!(ok(result).metadata.tags.get("owner").map(String::as_str), Some("ann"));
    } else {
        fails(result, ErrorKind::Unsupported);
        missing(storage, "tagged").await;
    }
}

/// A tag has a key.
pub async fn refuses_an_empty_tag_key(fixture: &Fixture) {
    let storage = fixture.storage();
    let options = UploadOptions::default().with_tag("", "value");
    let kind = if storage.capabilities().tags { ErrorKind::InvalidInput } else { ErrorKind::Unsupported };
    fails(storage.upload(&id("tagged"), data(100, 22).into(), options).await, kind);
    missing(storage, "tagged").await;
}

/// What is opened for reading only reads, and refuses all else.
pub async fn read_only_refuses_to_write(fixture: &Fixture) {
    put(fixture.storage(), "a", &Bytes::from_static(b"first")).await;
    assert!(!fixture.storage().capabilities().read_only, "the fixture's storage must be writable");
    let Some(storage) = &fixture.read_only else {
        return left_out("the fixture has no opening for reading only");
    };
    assert!(storage.capabilities().read_only);
    let options = UploadOptions::default;
    fails(storage.upload_bytes(&id("a"), data(10, 23)).await, ErrorKind::Denied);
    fails(storage.upload_bytes(&id("b"), data(10, 23)).await, ErrorKind::Denied);
    fails(storage.copy(&id("a"), &id("b"), options()).await, ErrorKind::Denied);
    fails(storage.delete(&id("a"), Precondition::None).await, ErrorKind::Denied);
    if let Some(resumable) = storage.resumable() {
        let part_size = resumable.limits().min_part_size;
        fails(resumable.begin(&id("b"), part_size, options()).await, ErrorKind::Denied);
    }
    same(&get(storage, "a").await, b"first");
    assert_eq!(all(storage).await, ["a"]);
}
