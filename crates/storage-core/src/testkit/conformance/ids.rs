//! Promises about [`FileId`](crate::id::FileId): kept byte for byte, or refused.

use super::Fixture;
use super::support::{all, data, fails, get, id, missing, names, ok, put, put_all, same};
use crate::error::{ErrorKind, Result};
use crate::id::MAX_ID_BYTES;
use crate::storage::{
    DownloadOptions, FileStorageExt, ListOptions, Precondition, PresignRequest, UploadOptions,
};

const ODD: [&str; 36] = [
    " leading",
    "trailing ",
    "two  spaces",
    "a b/c d",
    "plus+sign",
    "per%cent",
    "%2F",
    "%",
    "ques?tion",
    "ha#sh",
    "am&per=sand",
    "semi;colon,comma",
    "quote'\"",
    "<angle>",
    "back\\slash",
    "co:lon",
    "st*ar",
    "pi|pe",
    "{br}[ack]",
    "^`~",
    "$(dollar)",
    "!bang",
    "@at",
    "-rf",
    "--",
    ".hidden",
    "...",
    "a..b",
    ".tmp",
    "new\nline",
    "tab\there",
    "\u{7f}",
    "日本語",
    "🦀",
    "\u{200b}zero",
    "e\u{301}",
];

/// What is stored under an odd name is found under it, and listed as it is.
pub async fn are_kept_byte_for_byte(fixture: &Fixture) {
    let storage = fixture.storage();
    let mut due = ODD.to_vec();
    due.sort_unstable();
    put_all(storage, ODD).await;
    assert_eq!(all(storage).await, due);
    for name in ODD {
        same(&get(storage, name).await, name.as_bytes());
        assert_eq!(ok(storage.metadata(&id(name)).await).id.as_str(), name);
        assert_eq!(
            names(storage, name, ListOptions::default()).await.first().map(String::as_str),
            Some(name)
        );
        let copy = format!("copies/{name}");
        ok(storage.copy(&id(name), &id(&copy), UploadOptions::default()).await);
        same(&get(storage, &copy).await, name.as_bytes());
        assert!(ok(storage.delete(&id(&copy), Precondition::None).await), "{copy:?}");
        assert!(ok(storage.delete(&id(name), Precondition::None).await), "{name:?}");
    }
    assert_eq!(all(storage).await, [""; 0]);
}

/// Nothing is folded: not case, not Unicode forms, not escapes.
pub async fn differ_by_every_byte(fixture: &Fixture) {
    let storage = fixture.storage();
    let mut alike =
        ["File", "file", "FILE", "é", "e\u{301}", "a b", "a+b", "a%20b", "a%2520b", "x", "x ", " x"];
    put_all(storage, alike).await;
    alike.sort_unstable();
    assert_eq!(all(storage).await, alike);
    for name in alike {
        same(&get(storage, name).await, name.as_bytes());
    }
}

/// Makes an id of so many bytes, of segments that the storage takes.
fn long(length: usize, segment: usize) -> String {
    let mut text = String::new();
    while text.len() < length {
        let rest = length - text.len();
        let take = rest.min(segment);
        // A `/` must not be the last byte.
        let take = if rest == take + 1 { take - 1 } else { take };
        text.push_str(&"x".repeat(take));
        if text.len() < length {
            text.push('/');
        }
    }
    text
}

/// The limits in the capabilities are what they say.
pub async fn of_the_greatest_length(fixture: &Fixture) {
    let storage = fixture.storage();
    let capabilities = storage.capabilities();
    let most = capabilities.max_id_bytes.map_or(MAX_ID_BYTES, |most| most as usize);
    let segment = capabilities.max_segment_bytes.map_or(200, |most| most as usize);
    let mut due = vec![long(most, segment.min(most)), "y".repeat(segment.min(most)), long(most, 50)];
    put_all(storage, due.iter().map(String::as_str)).await;
    due.sort_unstable();
    assert_eq!(all(storage).await, due);
    for name in &due {
        same(&get(storage, name).await, name.as_bytes());
        assert!(ok(storage.delete(&id(name), Precondition::None).await));
    }
}

/// What is too long is refused as such, and by every operation that writes.
pub async fn longer_than_the_storage_takes_are_refused(fixture: &Fixture) {
    let storage = fixture.storage();
    let capabilities = storage.capabilities();
    let mut refused = Vec::new();
    if let Some(most) = capabilities.max_id_bytes {
        refused.push(long(most as usize + 1, 50));
    }
    if let Some(most) = capabilities.max_segment_bytes {
        refused.push(format!("a/{}", "x".repeat(most as usize + 1)));
        refused.push(format!("{}/a", "x".repeat(most as usize + 1)));
    }
    put(storage, "source", &data(10, 1)).await;
    for name in refused {
        fails(storage.upload_bytes(&id(&name), data(10, 1)).await, ErrorKind::InvalidInput);
        let copy = storage.copy(&id("source"), &id(&name), UploadOptions::default()).await;
        fails(copy, ErrorKind::InvalidInput);
    }
    assert_eq!(all(storage).await, ["source"]);
    assert!(crate::id::FileId::parse("x".repeat(MAX_ID_BYTES + 1)).is_err());
}

/// The storage's own corner is out of bounds for every operation, and out of sight.
pub async fn reserved_are_refused(fixture: &Fixture) {
    fn refused<T: std::fmt::Debug>(result: Result<T>) {
        fails(result, ErrorKind::InvalidInput);
    }
    let storage = fixture.storage();
    put(storage, "a", &data(10, 1)).await;
    for name in [".storage", ".storage/x", ".storage/tmp/x"] {
        let name = id(name);
        refused(storage.upload_bytes(&name, data(10, 1)).await);
        refused(storage.download(&name, DownloadOptions::default()).await);
        refused(storage.metadata(&name).await);
        refused(storage.delete(&name, Precondition::None).await);
        refused(storage.copy(&name, &id("b"), UploadOptions::default()).await);
        refused(storage.copy(&id("a"), &name, UploadOptions::default()).await);
        let request = PresignRequest::get(std::time::Duration::from_secs(60));
        refused(storage.presigned_url(&name, request).await);
    }
    assert_eq!(names(storage, ".storage", ListOptions::default()).await, [""; 0]);
    assert_eq!(all(storage).await, ["a"]);
}

/// Only the first segment is reserved, and only as a whole.
pub async fn close_to_reserved_are_ordinary(fixture: &Fixture) {
    let storage = fixture.storage();
    let near = [".Storage", ".storage-x", ".storage0/x", ".storag", "a/.storage", "storage"];
    put_all(storage, near).await;
    let mut due = near.to_vec();
    due.sort_unstable();
    assert_eq!(all(storage).await, due);
    assert_eq!(names(storage, ".storage", ListOptions::default()).await, [".storage-x", ".storage0/x"]);
}

/// `a` next to `a/b`: both, or a conflict that leaves what was there.
pub async fn nested_or_in_conflict(fixture: &Fixture) {
    let storage = fixture.storage();
    put(storage, "a", &data(10, 1)).await;
    put(storage, "d/e", &data(10, 2)).await;
    let below = storage.upload_bytes(&id("a/b"), data(10, 3)).await;
    let above = storage.upload_bytes(&id("d"), data(10, 4)).await;
    if storage.capabilities().nested_ids {
        ok(below);
        ok(above);
        assert_eq!(all(storage).await, ["a", "a/b", "d", "d/e"]);
        same(&get(storage, "a/b").await, &data(10, 3));
        assert!(ok(storage.delete(&id("a"), Precondition::None).await));
        same(&get(storage, "a/b").await, &data(10, 3));
    } else {
        fails(below, ErrorKind::Conflict);
        fails(above, ErrorKind::Conflict);
        fails(storage.upload_bytes(&id("a/b/c"), data(10, 5)).await, ErrorKind::Conflict);
        let onto = storage.copy(&id("d/e"), &id("a/b"), UploadOptions::default()).await;
        fails(onto, ErrorKind::Conflict);
        missing(storage, "a/b").await;
        missing(storage, "d").await;
        assert_eq!(all(storage).await, ["a", "d/e"]);
    }
    same(&get(storage, "d/e").await, &data(10, 2));
}
