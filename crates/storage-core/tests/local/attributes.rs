use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::{Duration, UNIX_EPOCH};

use storage_core::body::Body;
use storage_core::checksum::Digest;
use storage_core::error::ErrorKind;
use storage_core::storage::{FileStorage, FileStorageExt, Precondition, UploadOptions, Verified};

use super::*;

pub(crate) fn odd_options() -> UploadOptions {
    UploadOptions::default()
        .with_content_type("text/x-odd; charset=\"utf-8\"")
        .with_file_name("Übersicht \"2024\"\n.txt")
        .with_created(UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789))
        .with_tag("k=&", "ü v")
        .with_tag("second", "")
}

/// More than any file system keeps in an extended attribute.
fn large_options() -> UploadOptions {
    odd_options().with_tag("large", "x".repeat(100_000))
}

/// What must hold of attributes wherever they are kept.
pub(crate) async fn attributes_travel(root: &Path, storage: &LocalStorage, options: UploadOptions) {
    let (file, copy) = (id("d/file.bin"), id("copy"));
    let receipt = storage.upload(&file, Body::from_bytes("abc"), options.clone()).await.unwrap();
    assert_eq!(receipt.digest, Some(Digest::of(b"abc")));
    assert_eq!(receipt.verified, Verified::No);
    let metadata = storage.metadata(&file).await.unwrap();
    assert_eq!(receipt.metadata, metadata);
    assert_eq!(metadata.content_type, options.content_type);
    assert_eq!(metadata.file_name, options.file_name);
    assert_eq!(metadata.created, options.created);
    assert_eq!(metadata.tags, options.tags);
    assert_eq!(metadata.digest, Some(Digest::of(b"abc")));
    let reopened = open(root).await;
    assert_eq!(reopened.metadata(&file).await.unwrap(), metadata);
    assert_eq!(list(storage).await[0].version, metadata.version);

    // A copy takes them along, but for those it is given.
    let receipt =
        storage.copy(&file, &copy, UploadOptions::default().with_content_type("x/y")).await.unwrap();
    let copied = storage.metadata(&copy).await.unwrap();
    assert_eq!(receipt.metadata, copied);
    assert_eq!(copied.content_type.as_deref(), Some("x/y"));
    assert_eq!((copied.tags, copied.created), (options.tags.clone(), options.created));
    assert_eq!(copied.digest, Some(Digest::of(b"abc")));
    assert_eq!(storage.download_bytes(&copy).await.unwrap(), "abc");

    // A failed upload changes nothing.
    let refused = UploadOptions::default().with_tag("new", "new").with_digest(Digest::of(b"else"));
    assert_eq!(kind(storage.upload(&file, Body::from_bytes("new"), refused).await), ErrorKind::Integrity);
    let refused = UploadOptions::default().with_tag("new", "new").with_when(Precondition::Absent);
    assert_eq!(kind(storage.upload(&file, Body::from_bytes("new"), refused).await), ErrorKind::AlreadyExists);
    assert_eq!(storage.metadata(&file).await.unwrap(), metadata);

    // A new file inherits nothing.
    storage.upload_bytes(&file, bytes("abc")).await.unwrap();
    assert!(storage.metadata(&file).await.unwrap().tags.is_empty());
    for name in [&file, &copy] {
        assert!(storage.delete(name, Precondition::None).await.unwrap());
    }
    assert_eq!(own(root, "attributes"), Vec::<String>::new());
    assert_eq!(own(root, "tmp"), Vec::<String>::new());
}

#[tokio::test]
async fn attributes_are_not_dropped_or_mangled() {
    let (root, storage) = storage().await;
    attributes_travel(root.path(), &storage, odd_options()).await;
}

#[tokio::test]
async fn attributes_too_large_for_the_file_system_are_kept_all_the_same() {
    let (root, storage) = storage().await;
    storage.upload(&id("a"), Body::from_bytes("abc"), large_options()).await.unwrap();
    assert_eq!(own(root.path(), "attributes").len(), 1);
    storage.delete(&id("a"), Precondition::None).await.unwrap();
    attributes_travel(root.path(), &storage, large_options()).await;
}

#[tokio::test]
async fn versions_within_one_tick_of_the_clock_keep_their_own_sidecars() {
    let (root, storage) = storage().await;
    for round in 0..200 {
        let content = format!("{round:04}");
        let options = large_options().with_tag("round", &content);
        storage.upload(&id("a"), Body::from_bytes(content.clone()), options).await.unwrap();
        assert_eq!(storage.metadata(&id("a")).await.unwrap().tags["round"], content);
        assert_eq!(storage.download_bytes(&id("a")).await.unwrap(), content);
        assert_eq!(own(root.path(), "attributes").len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_a_replaced_file_does_not_lose_its_sidecar() {
    let (_root, storage) = storage().await;
    storage.upload(&id("a"), Body::from_bytes("abc"), large_options()).await.unwrap();
    let writer = tokio::spawn({
        let storage = storage.clone();
        async move {
            for _ in 0..200 {
                storage.upload(&id("a"), Body::from_bytes("abc"), large_options()).await.unwrap();
            }
        }
    });
    while !writer.is_finished() {
        assert_eq!(storage.metadata(&id("a")).await.unwrap().tags["second"], "");
        assert_eq!(storage.download_bytes(&id("a")).await.unwrap(), "abc");
    }
    writer.await.unwrap();
}

#[tokio::test]
async fn an_orphan_sidecar_is_not_inherited_and_is_swept() {
    let (root, storage) = storage().await;
    storage.upload(&id("a"), Body::from_bytes("abc"), large_options()).await.unwrap();
    storage.upload(&id("b"), Body::from_bytes("abc"), large_options()).await.unwrap();
    // A crash between the sidecar and its file, or a file that somebody removed or replaced by hand.
    std::fs::remove_file(root.path().join("a")).unwrap();
    std::fs::write(root.path().join("a"), "xyz").unwrap();
    std::fs::write(root.path().join(".storage/attributes/cut-short"), "{\"id\":").unwrap();
    let metadata = storage.metadata(&id("a")).await.unwrap();
    assert!(metadata.tags.is_empty() && metadata.digest.is_none());
    assert_eq!(storage.download_bytes(&id("a")).await.unwrap(), "xyz");
    assert_eq!(storage.sweep(Duration::from_secs(3600)).await.unwrap().sidecars, 0);
    assert_eq!(storage.sweep(Duration::ZERO).await.unwrap().sidecars, 2);
    assert_eq!(storage.metadata(&id("b")).await.unwrap().tags["second"], "");
}

#[tokio::test]
async fn a_file_edited_in_place_is_a_file_without_digest_and_not_broken_for_ever() {
    let (root, storage) = storage().await;
    storage.upload(&id("a"), Body::from_bytes("abc"), odd_options()).await.unwrap();
    let before = storage.metadata(&id("a")).await.unwrap();
    std::thread::sleep(Duration::from_millis(20));
    // Of the same size, through the same inode: the extended attributes stay.
    OpenOptions::new().write(true).open(root.path().join("a")).unwrap().write_all_at(b"X", 1).unwrap();
    let metadata = storage.metadata(&id("a")).await.unwrap();
    assert_eq!((metadata.digest, &metadata.tags), (None, &before.tags));
    assert_ne!(metadata.version, before.version);
    assert_eq!(storage.download_bytes(&id("a")).await.unwrap(), "aXc");
    let receipt = storage.copy(&id("a"), &id("b"), UploadOptions::default()).await.unwrap();
    assert_eq!(receipt.digest, Some(Digest::of(b"aXc")));
}

#[tokio::test]
async fn a_bit_that_flipped_silently_never_reads_cleanly() {
    let (root, storage) = storage().await;
    storage.upload_bytes(&id("a"), bytes("abc")).await.unwrap();
    let file = OpenOptions::new().write(true).open(root.path().join("a")).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(b"X", 1).unwrap();
    file.set_modified(modified).unwrap();
    assert_eq!(kind(storage.download_bytes(&id("a")).await), ErrorKind::Integrity);
    assert_eq!(kind(storage.copy(&id("a"), &id("b"), UploadOptions::default()).await), ErrorKind::Integrity);
    assert_eq!(ids(&storage).await, ["a"]);
}

#[tokio::test]
async fn a_file_put_there_by_other_means_is_a_file_of_the_storage() {
    let (root, storage) = storage().await;
    std::fs::write(root.path().join("photo.jpg"), "jpeg").unwrap();
    let metadata = storage.metadata(&id("photo.jpg")).await.unwrap();
    assert_eq!(metadata.content_type.as_deref(), Some("image/jpeg"));
    assert_eq!((metadata.digest, metadata.created, metadata.file_name), (None, None, None));
    assert!(metadata.modified.is_some() && metadata.version.is_some());
    storage.copy(&id("photo.jpg"), &id("copy"), UploadOptions::default()).await.unwrap();
    assert_eq!(storage.metadata(&id("copy")).await.unwrap().content_type.as_deref(), Some("image/jpeg"));
}

#[tokio::test]
async fn a_published_file_has_the_usual_permissions_and_a_staged_one_none() {
    let (root, storage) = storage().await;
    std::fs::write(root.path().join("usual"), "x").unwrap();
    storage.upload_bytes(&id("a"), bytes("x")).await.unwrap();
    let mode = |name| std::fs::metadata(root.path().join(name)).unwrap().permissions().mode();
    assert_eq!(mode("a"), mode("usual"));
    assert_eq!(mode(".storage/tmp") & 0o777, 0o700);
}
