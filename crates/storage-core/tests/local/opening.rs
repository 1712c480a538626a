use std::path::Path;
use std::time::Duration;

use storage_core::backend::local::{LocalConfig, LocalStorage};
use storage_core::error::ErrorKind;
use storage_core::id::Prefix;
use storage_core::storage::{
    Access, DownloadOptions, FileStorage, FileStorageExt, ListOptions, Precondition, PresignRequest,
    UploadOptions,
};
use tempfile::TempDir;

use super::*;

#[tokio::test]
async fn a_root_that_is_missing_or_a_file_is_no_empty_storage() {
    let directory = TempDir::new().unwrap();
    let missing = directory.path().join("a/b");
    let error = LocalStorage::open(LocalConfig::new(&missing)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    assert!(error.to_string().contains("does not exist"), "{error}");
    assert!(!missing.exists());

    let file = directory.path().join("file");
    std::fs::write(&file, "x").unwrap();
    for config in [LocalConfig::new(&file), LocalConfig::new(&file).with_create_root()] {
        assert_eq!(kind(LocalStorage::open(config).await), ErrorKind::Misconfigured);
    }

    let storage = LocalStorage::open(LocalConfig::new(&missing).with_create_root()).await.unwrap();
    assert_eq!(ids(&storage).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_root_that_went_away_is_an_error_and_not_an_empty_listing() {
    let directory = TempDir::new().unwrap();
    let root = directory.path().join("root");
    let storage = LocalStorage::open(LocalConfig::new(&root).with_create_root()).await.unwrap();
    storage.upload_bytes(&id("a"), bytes("x")).await.unwrap();
    for replaced in [false, true] {
        std::fs::rename(&root, directory.path().join(format!("elsewhere-{replaced}"))).unwrap();
        if replaced {
            std::fs::create_dir(&root).unwrap();
        }
        let listed: Vec<_> = storage.list(&Prefix::all(), ListOptions::default()).collect().await;
        let error = listed.into_iter().next().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured);
        assert!(error.id().is_none() && error.subject().is_none(), "it ends the listing");
        assert_eq!(kind(storage.metadata(&id("missing")).await), ErrorKind::Misconfigured);
        assert_eq!(kind(storage.delete(&id("missing"), Precondition::None).await), ErrorKind::Misconfigured);
        assert_eq!(kind(storage.probe(Duration::from_secs(10)).await), ErrorKind::Misconfigured);
        if !replaced {
            std::fs::rename(directory.path().join("elsewhere-false"), &root).unwrap();
            assert_eq!(ids(&storage).await, ["a"]);
        }
    }
}

#[tokio::test]
async fn a_storage_opened_for_reading_writes_nothing() {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("a"), "abc").unwrap();
    let config = LocalConfig::new(directory.path()).with_access(Access::ReadOnly);
    let storage = LocalStorage::open(config).await.unwrap();
    assert!(storage.capabilities().read_only && !storage.capabilities().conditional_create);
    assert!(storage.resumable().is_none());
    assert_eq!(storage.download_bytes(&id("a")).await.unwrap(), "abc");
    assert_eq!(ids(&storage).await, ["a"]);
    storage.probe(Duration::from_secs(10)).await.unwrap();
    assert_eq!(kind(storage.upload_bytes(&id("b"), bytes("x")).await), ErrorKind::Denied);
    assert_eq!(kind(storage.delete(&id("a"), Precondition::None).await), ErrorKind::Denied);
    assert_eq!(kind(storage.copy(&id("a"), &id("b"), UploadOptions::default()).await), ErrorKind::Denied);
    assert_eq!(kind(storage.sweep(Duration::ZERO).await), ErrorKind::Denied);
    let names: Vec<_> =
        std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["a"]);
}

#[tokio::test]
async fn a_link_in_the_place_of_the_own_directory_is_refused() {
    let (root, outside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    std::os::unix::fs::symlink(outside.path(), root.path().join(".storage")).unwrap();
    assert_eq!(kind(LocalStorage::open(LocalConfig::new(root.path())).await), ErrorKind::Misconfigured);
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_crash_s_leftovers_are_removed_by_age_and_not_sooner() {
    let (root, storage) = storage().await;
    let resumable = storage.resumable().unwrap();
    let kept = resumable.begin(&id("open"), 5, UploadOptions::default()).await.unwrap();
    drop(storage);
    let tmp = root.path().join(".storage/tmp");
    for name in ["young", "old"] {
        std::fs::write(tmp.join(name), "half a fi").unwrap();
    }
    let broken = root.path().join(".storage/uploads").join("0".repeat(32));
    std::fs::create_dir(&broken).unwrap();
    std::fs::write(broken.join("00001-1-x"), "x").unwrap();
    for path in [tmp.join("old"), broken.clone()] {
        make_old(&path, Duration::from_secs(25 * 3600));
    }
    let storage = open(root.path()).await;
    assert_eq!(own(root.path(), "tmp"), ["young"]);
    assert_eq!(own(root.path(), "uploads"), [kept.upload.as_str()], "an open upload is not the janitor's");
    let swept = storage.sweep(Duration::ZERO).await.unwrap();
    assert_eq!((swept.temp_files, swept.sidecars, swept.uploads), (1, 0, 0));
    assert_eq!(own(root.path(), "tmp"), Vec::<String>::new());
}

fn make_old(path: &Path, age: Duration) {
    let time = std::time::SystemTime::now() - age;
    std::fs::File::open(path).unwrap().set_modified(time).unwrap();
}

#[tokio::test]
async fn what_a_directory_does_not_have_is_an_error() {
    let (root, storage) = storage().await;
    let request = PresignRequest::get(Duration::from_secs(60));
    assert_eq!(kind(storage.presigned_url(&id("a"), request).await), ErrorKind::Unsupported);
    let absent = DownloadOptions::default().with_when(Precondition::Absent);
    std::fs::write(root.path().join("a"), "x").unwrap();
    assert_eq!(kind(storage.download(&id("a"), absent).await), ErrorKind::InvalidInput);
    let empty_key = UploadOptions::default().with_tag("", "x");
    let body = storage_core::body::Body::from_bytes("x");
    assert_eq!(kind(storage.upload(&id("b"), body, empty_key).await), ErrorKind::InvalidInput);
    storage.probe(Duration::from_secs(10)).await.unwrap();
    assert_eq!(own(root.path(), "tmp"), Vec::<String>::new());
}
