use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use storage_core::error::ErrorKind;
use storage_core::storage::{ByteRange, DownloadOptions, FileStorage, FileStorageExt, Precondition};

use super::*;

#[tokio::test]
async fn a_range_gives_its_bytes_or_an_error() {
    let (_root, storage) = storage().await;
    storage.upload_bytes(&id("a"), bytes("0123456789")).await.unwrap();
    storage.upload_bytes(&id("empty"), Bytes::new()).await.unwrap();
    for (range, expected) in [
        (ByteRange::From(7), "789"),
        (ByteRange::Between(2, 5), "234"),
        (ByteRange::Between(8, 99), "89"),
        (ByteRange::Last(3), "789"),
        (ByteRange::Last(30), "0123456789"),
    ] {
        let options = DownloadOptions::default().with_range(range);
        let download = storage.download(&id("a"), options).await.unwrap();
        assert_eq!(download.metadata.size, 10);
        assert_eq!(download.range.end - download.range.start, expected.len() as u64);
        assert_eq!(download.bytes().await.unwrap(), expected);
    }
    let behind = DownloadOptions::default().with_range(ByteRange::From(10));
    assert_eq!(kind(storage.download(&id("a"), behind.clone()).await), ErrorKind::InvalidInput);
    assert_eq!(kind(storage.download(&id("empty"), behind).await), ErrorKind::InvalidInput);
    assert_eq!(storage.download_bytes(&id("empty")).await.unwrap(), "");
    assert_eq!(kind(storage.download_bytes(&id("missing")).await), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_version_that_is_not_stored_any_more_is_not_read() {
    let (_root, storage) = storage().await;
    let old = storage.upload_bytes(&id("a"), bytes("old")).await.unwrap().metadata.version.unwrap();
    let options = DownloadOptions::default().with_when(Precondition::Version(old));
    assert_eq!(storage.download(&id("a"), options.clone()).await.unwrap().bytes().await.unwrap(), "old");
    storage.upload_bytes(&id("a"), bytes("new")).await.unwrap();
    assert_eq!(kind(storage.download(&id("a"), options).await), ErrorKind::VersionMismatch);
}

#[tokio::test]
async fn a_file_replaced_or_deleted_under_the_reader_is_read_to_its_end() {
    let (_root, storage) = storage().await;
    for replace in [true, false] {
        let old = Bytes::from(vec![1; 2_000_000]);
        storage.upload_bytes(&id("a"), old.clone()).await.unwrap();
        let mut download = storage.download(&id("a"), DownloadOptions::default()).await.unwrap();
        let first = download.body.try_next().await.unwrap().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        if replace {
            storage.upload_bytes(&id("a"), bytes("new")).await.unwrap();
        } else {
            storage.delete(&id("a"), Precondition::None).await.unwrap();
        }
        assert_eq!(first.len() + download.bytes().await.unwrap().len(), old.len());
    }
}

#[tokio::test]
async fn a_file_changed_in_place_under_the_reader_is_an_error_and_no_endless_loop() {
    let (root, storage) = storage().await;
    for shrink in [true, false] {
        storage.upload_bytes(&id("a"), Bytes::from(vec![1; 2_000_000])).await.unwrap();
        let mut download = storage.download(&id("a"), DownloadOptions::default()).await.unwrap();
        download.body.try_next().await.unwrap().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let file = OpenOptions::new().write(true).open(root.path().join("a")).unwrap();
        if shrink {
            file.set_len(10).unwrap();
        } else {
            file.write_all_at(b"x", 5).unwrap();
        }
        let error = download.bytes().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceChanged);
        assert!(error.to_string().starts_with("download \"a\" on local: "), "{error}");
    }
}
