//! Promises of [`FileStorage::delete`](crate::storage::FileStorage::delete).

use super::Fixture;
use super::support::{all, data, fails, get, id, missing, ok, put, same};
use crate::error::ErrorKind;
use crate::metadata::Version;
use crate::storage::{Precondition, UploadOptions};

/// What was deleted is gone, for every view.
pub async fn removes_the_file(fixture: &Fixture) {
    let storage = fixture.storage();
    for (name, size) in [("a/b", 100), ("large", fixture.large + 1)] {
        put(storage, name, &data(size, 1)).await;
        assert!(ok(storage.delete(&id(name), Precondition::None).await));
        missing(storage, name).await;
        missing(fixture.another(), name).await;
    }
    assert_eq!(all(storage).await, [""; 0]);
}

/// A missing file is no error.
pub async fn nothing_to_delete_is_false(fixture: &Fixture) {
    let storage = fixture.storage();
    assert!(!ok(storage.delete(&id("nothing"), Precondition::None).await));
    assert!(!ok(storage.delete(&id("deep/down/nothing"), Precondition::None).await));
    put(storage, "a", &data(100, 1)).await;
    assert!(ok(storage.delete(&id("a"), Precondition::None).await));
    assert!(!ok(storage.delete(&id("a"), Precondition::None).await));
    put(storage, "f", &data(100, 1)).await;
    assert!(!ok(storage.delete(&id("f/beneath"), Precondition::None).await));
    assert_eq!(all(storage).await, ["f"]);
}

/// Only the one file.
pub async fn leaves_siblings(fixture: &Fixture) {
    let storage = fixture.storage();
    for name in ["d/a", "d/ab", "d/b", "da"] {
        put(storage, name, &data(100, 2)).await;
    }
    assert!(ok(storage.delete(&id("d/a"), Precondition::None).await));
    assert_eq!(all(storage).await, ["d/ab", "d/b", "da"]);
    same(&get(storage, "d/ab").await, &data(100, 2));
}

/// Deleting `d` is not deleting a tree.
pub async fn leaves_what_lies_beneath(fixture: &Fixture) {
    let storage = fixture.storage();
    put(storage, "d/e/f", &data(100, 3)).await;
    assert!(!ok(storage.delete(&id("d"), Precondition::None).await));
    assert!(!ok(storage.delete(&id("d/e"), Precondition::None).await));
    same(&get(storage, "d/e/f").await, &data(100, 3));
    assert_eq!(all(storage).await, ["d/e/f"]);
}

/// Nothing of the old file sticks to its id.
pub async fn lets_the_id_be_used_again(fixture: &Fixture) {
    let storage = fixture.storage();
    let options = UploadOptions::default().with_file_name("old name").with_content_type("text/x-old");
    ok(storage.upload(&id("a"), data(100, 4).into(), options).await);
    assert!(ok(storage.delete(&id("a"), Precondition::None).await));
    put(storage, "a", &data(50, 5)).await;
    same(&get(storage, "a").await, &data(50, 5));
    let metadata = ok(storage.metadata(&id("a")).await);
    assert_eq!(metadata.file_name, None);
    assert_ne!(metadata.content_type.as_deref(), Some("text/x-old"));
}

/// An empty directory is no obstacle: ids are names, not places.
pub async fn lets_a_directory_become_a_file(fixture: &Fixture) {
    let storage = fixture.storage();
    put(storage, "d/e/f", &data(100, 6)).await;
    assert!(ok(storage.delete(&id("d/e/f"), Precondition::None).await));
    put(storage, "d", &data(100, 7)).await;
    assert!(ok(storage.delete(&id("d"), Precondition::None).await));
    put(storage, "d/e", &data(100, 8)).await;
    assert_eq!(all(storage).await, ["d/e"]);
}

async fn version_of(fixture: &Fixture, name: &str, seed: u64) -> Version {
    put(fixture.storage(), name, &data(100, seed)).await.metadata.version.expect("a version")
}

/// A named version is deleted.
pub async fn that_version(fixture: &Fixture) {
    let storage = fixture.storage();
    let version = version_of(fixture, "a", 9).await;
    let result = storage.delete(&id("a"), Precondition::Version(version)).await;
    if storage.capabilities().conditional_delete {
        assert!(ok(result));
        missing(storage, "a").await;
    } else {
        fails(result, ErrorKind::Unsupported);
        same(&get(storage, "a").await, &data(100, 9));
    }
}

/// A newer version stays.
pub async fn another_version_stays(fixture: &Fixture) {
    let storage = fixture.storage();
    let old = version_of(fixture, "a", 9).await;
    version_of(fixture, "a", 10).await;
    let kind = if storage.capabilities().conditional_delete {
        ErrorKind::VersionMismatch
    } else {
        ErrorKind::Unsupported
    };
    fails(storage.delete(&id("a"), Precondition::Version(old)).await, kind);
    same(&get(storage, "a").await, &data(100, 10));
}

/// "Delete it if it is not there" is a mistake.
pub async fn absent_is_invalid(fixture: &Fixture) {
    let storage = fixture.storage();
    fails(storage.delete(&id("a"), Precondition::Absent).await, ErrorKind::InvalidInput);
    put(storage, "a", &data(100, 11)).await;
    fails(storage.delete(&id("a"), Precondition::Absent).await, ErrorKind::InvalidInput);
    same(&get(storage, "a").await, &data(100, 11));
}

/// Where nothing is stored there is nothing to delete, whatever the version.
pub async fn version_of_a_missing_file(fixture: &Fixture) {
    let storage = fixture.storage();
    let version = version_of(fixture, "a", 12).await;
    assert!(ok(storage.delete(&id("a"), Precondition::None).await));
    let result = storage.delete(&id("a"), Precondition::Version(version)).await;
    if storage.capabilities().conditional_delete {
        assert!(!ok(result));
    } else {
        fails(result, ErrorKind::Unsupported);
    }
}
