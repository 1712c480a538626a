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
async fn a_crash_s_leftovers_are_removed_at_the_next_opening_and_what_is_being_written_is_not() {
    let (root, storage) = storage().await;
    let resumable = storage.resumable().unwrap();
    let open_upload = resumable.begin(&id("open"), 5, UploadOptions::default()).await.unwrap();
    let tmp = root.path().join(".storage/tmp");
    std::fs::write(tmp.join("left"), "half a fi").unwrap();
    // As its writer would: locked, and quiet for longer than any age.
    let written = std::fs::File::create(tmp.join("written")).unwrap();
    written.lock().unwrap();
    make_old(&tmp.join("written"), Duration::from_secs(25 * 3600));
    let broken = root.path().join(".storage/uploads").join("0".repeat(32));
    std::fs::create_dir(&broken).unwrap();
    std::fs::write(broken.join("00001-1-x"), "x").unwrap();
    let begun = root.path().join(".storage/uploads").join("1".repeat(32));
    std::fs::create_dir(&begun).unwrap();
    let beginning = std::fs::File::open(&begun).unwrap();
    beginning.lock().unwrap();

    let again = open(root.path()).await;
    assert_eq!(own(root.path(), "tmp"), ["written"]);
    let mut uploads = ["1".repeat(32), open_upload.upload.clone()];
    uploads.sort();
    assert_eq!(own(root.path(), "uploads"), uploads, "an open upload is not the janitor's");
    assert_eq!(again.sweep(Duration::ZERO).await.unwrap(), Default::default());
    drop((written, beginning));
    let swept = again.sweep(Duration::from_secs(3600)).await.unwrap();
    assert_eq!((swept.temp_files, swept.sidecars, swept.uploads), (1, 0, 1));
    assert_eq!(own(root.path(), "tmp"), Vec::<String>::new());
    assert_eq!(own(root.path(), "uploads"), [open_upload.upload]);
}

#[tokio::test]
async fn an_upload_goes_on_while_others_open_the_directory() {
    let (root, storage) = storage().await;
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    let second = futures::stream::once(async move {
        receiver.await.unwrap();
        Ok(bytes("second"))
    });
    let stream = futures::StreamExt::chain(futures::stream::iter([Ok(bytes("first "))]), second);
    let body = storage_core::body::Body::from_source(Once(std::sync::Mutex::new(Some(Box::pin(stream)))));
    let key = id("a");
    let writing = storage.upload(&key, body, UploadOptions::default());
    let opening = async {
        while own(root.path(), "tmp").is_empty() {
            tokio::task::yield_now().await;
        }
        let _other = open(root.path()).await;
        assert_eq!(own(root.path(), "tmp").len(), 1);
        sender.send(()).unwrap();
    };
    let (receipt, ()) = futures::join!(writing, opening);
    receipt.unwrap();
    assert_eq!(storage.download_bytes(&id("a")).await.unwrap(), "first second");
}

/// Twelve bytes that come when the test wants them.
struct Once(std::sync::Mutex<Option<storage_core::body::ByteStream>>);

impl std::fmt::Debug for Once {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Once")
    }
}

#[async_trait::async_trait]
impl storage_core::body::BodySource for Once {
    fn size(&self) -> u64 {
        12
    }

    async fn open(
        &self,
        _: std::ops::Range<u64>,
    ) -> storage_core::error::Result<storage_core::body::ByteStream> {
        Ok(self.0.lock().unwrap().take().unwrap())
    }

    fn in_memory(&self) -> Option<&bytes::Bytes> {
        None
    }
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
