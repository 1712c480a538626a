use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::time::Duration;

use storage_core::error::ErrorKind;
use storage_core::storage::{FileStorage, FileStorageExt, Precondition, UploadOptions};
use tempfile::TempDir;

use super::*;

#[tokio::test]
async fn an_id_is_a_path_byte_for_byte() {
    let (root, storage) = storage().await;
    let mut names: Vec<String> = [
        " sp ",
        "\u{e9}",
        "e\u{301}",
        "a\nb",
        "-rf",
        ".tmp",
        "...",
        "a+b%20c",
        "A",
        "a",
        "x\\y",
        "~",
        "*",
        "\u{1}",
        ".storage2",
        "b/.storage",
    ]
    .map(str::to_owned)
    .into();
    names.push("x".repeat(255));
    names.push(format!("{}/{}/{}", "d".repeat(255), "e".repeat(255), "f".repeat(255)));
    for name in &names {
        storage.upload_bytes(&id(name), bytes(name)).await.unwrap();
    }
    for name in &names {
        assert_eq!(storage.download_bytes(&id(name)).await.unwrap(), name.as_bytes());
        assert_eq!(std::fs::read(root.path().join(name)).unwrap(), name.as_bytes(), "{name:?}");
    }
    names.sort();
    assert_eq!(ids(&storage).await, names);
    for name in &names {
        assert!(storage.delete(&id(name), Precondition::None).await.unwrap());
    }
    assert_eq!(ids(&storage).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_segment_of_256_bytes_is_a_clear_error() {
    let (_root, storage) = storage().await;
    for name in ["x".repeat(256), format!("a/{}/b", "x".repeat(256))] {
        let error = storage.upload_bytes(&id(&name), bytes("x")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("256 bytes; the file system takes at most 255"), "{error}");
        assert_eq!(kind(storage.metadata(&id(&name)).await), ErrorKind::NotFound);
        assert!(!storage.delete(&id(&name), Precondition::None).await.unwrap());
    }
    assert_eq!(storage.capabilities().max_segment_bytes, Some(255));
}

#[tokio::test]
async fn the_storage_s_own_directory_holds_no_files_of_users() {
    let (_root, storage) = storage().await;
    storage.upload_bytes(&id("a"), bytes("x")).await.unwrap();
    for name in [".storage", ".storage/tmp/x"] {
        let own = id(name);
        assert_eq!(kind(storage.upload_bytes(&own, bytes("x")).await), ErrorKind::InvalidInput);
        assert_eq!(kind(storage.metadata(&own).await), ErrorKind::InvalidInput);
        assert_eq!(kind(storage.download_bytes(&own).await), ErrorKind::InvalidInput);
        assert_eq!(kind(storage.delete(&own, Precondition::None).await), ErrorKind::InvalidInput);
        let options = UploadOptions::default;
        assert_eq!(kind(storage.copy(&id("a"), &own, options()).await), ErrorKind::InvalidInput);
        assert_eq!(kind(storage.copy(&own, &id("b"), options()).await), ErrorKind::InvalidInput);
        let begun = storage.resumable().unwrap().begin(&own, 5, options()).await;
        assert_eq!(kind(begun), ErrorKind::InvalidInput);
    }
    for prefix in ["", ".", ".storage", ".storage/", ".storage/uploads/"] {
        let prefix = Prefix::parse(prefix).unwrap();
        let listed: Vec<_> = storage.list(&prefix, ListOptions::default()).try_collect().await.unwrap();
        assert_eq!(listed.len(), usize::from(prefix.as_str().is_empty()), "{prefix}");
    }
}

#[tokio::test]
async fn a_file_next_to_a_directory_of_its_name_is_a_typed_conflict() {
    let (root, storage) = storage().await;
    storage.upload_bytes(&id("a"), bytes("file")).await.unwrap();
    let error = storage.upload_bytes(&id("a/b/c"), bytes("x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("\"a\" is a file"), "{error}");
    assert_eq!(kind(storage.metadata(&id("a/b")).await), ErrorKind::NotFound);
    assert_eq!(kind(storage.download_bytes(&id("a/b")).await), ErrorKind::NotFound);
    assert!(!storage.delete(&id("a/b"), Precondition::None).await.unwrap());

    storage.upload_bytes(&id("d/e/f"), bytes("x")).await.unwrap();
    for when in [Precondition::None, Precondition::Absent] {
        let options = UploadOptions::default().with_when(when);
        let body = storage_core::body::Body::from_bytes("x");
        assert_eq!(kind(storage.upload(&id("d/e"), body, options).await), ErrorKind::Conflict);
    }
    assert_eq!(kind(storage.metadata(&id("d/e")).await), ErrorKind::NotFound);
    assert_eq!(kind(storage.download_bytes(&id("d")).await), ErrorKind::NotFound);
    assert_eq!(ids(&storage).await, ["a", "d/e/f"]);
    assert_eq!(own(root.path(), "tmp"), Vec::<String>::new());
}

#[tokio::test]
async fn an_empty_directory_left_behind_takes_no_id() {
    let (root, storage) = storage().await;
    for when in [Precondition::None, Precondition::Absent] {
        std::fs::create_dir(root.path().join("a")).unwrap();
        let body = storage_core::body::Body::from_bytes("x");
        storage.upload(&id("a"), body, UploadOptions::default().with_when(when)).await.unwrap();
        assert!(storage.delete(&id("a"), Precondition::None).await.unwrap());
    }
}

#[tokio::test]
async fn deleting_a_prefix_never_removes_a_tree() {
    let (root, storage) = storage().await;
    for name in ["a/b/c", "a/b/d", "a/e"] {
        storage.upload_bytes(&id(name), bytes("x")).await.unwrap();
    }
    assert!(!storage.delete(&id("a"), Precondition::None).await.unwrap());
    assert!(!storage.delete(&id("a/b"), Precondition::None).await.unwrap());
    assert_eq!(ids(&storage).await, ["a/b/c", "a/b/d", "a/e"]);
    assert!(storage.delete(&id("a/b/c"), Precondition::None).await.unwrap());
    assert!(root.path().join("a/b").exists());
    assert!(storage.delete(&id("a/b/d"), Precondition::None).await.unwrap());
    assert!(!root.path().join("a/b").exists(), "empty directories are pruned");
    assert!(storage.delete(&id("a/e"), Precondition::None).await.unwrap());
    assert!(!root.path().join("a").exists());
    assert!(root.path().exists());
    assert!(!storage.delete(&id("a/e"), Precondition::None).await.unwrap());
}

#[tokio::test]
async fn no_link_is_followed_wherever_it_leads() {
    let (root, storage) = storage().await;
    let outside = TempDir::new().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    storage.upload_bytes(&id("inside/file"), bytes("x")).await.unwrap();
    symlink(outside.path().join("secret"), root.path().join("file-link")).unwrap();
    symlink(outside.path(), root.path().join("directory-link")).unwrap();
    symlink("inside", root.path().join("inner-link")).unwrap();
    symlink("nowhere", root.path().join("dangling")).unwrap();
    symlink("loop", root.path().join("loop")).unwrap();

    for name in ["file-link", "directory-link", "inner-link", "dangling", "loop"] {
        let link = id(name);
        assert_eq!(kind(storage.metadata(&link).await), ErrorKind::NotAFile, "{name}");
        assert_eq!(kind(storage.download_bytes(&link).await), ErrorKind::NotAFile);
        assert_eq!(kind(storage.upload_bytes(&link, bytes("x")).await), ErrorKind::NotAFile);
        assert_eq!(kind(storage.delete(&link, Precondition::None).await), ErrorKind::NotAFile);
        assert_eq!(
            kind(storage.copy(&link, &id("copy"), UploadOptions::default()).await),
            ErrorKind::NotAFile
        );
        let options = UploadOptions::default().with_when(Precondition::Absent);
        let body = storage_core::body::Body::from_bytes("x");
        assert!(storage.upload(&link, body, options).await.is_err());
        assert!(root.path().join(name).is_symlink());
    }
    for name in ["directory-link/secret", "inner-link/file", "loop/x"] {
        let beneath = id(name);
        assert_eq!(kind(storage.metadata(&beneath).await), ErrorKind::NotFound, "{name}");
        assert_eq!(kind(storage.download_bytes(&beneath).await), ErrorKind::NotFound);
        assert!(!storage.delete(&beneath, Precondition::None).await.unwrap());
        let error = storage.upload_bytes(&beneath, bytes("x")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("is a symbolic link"), "{error}");
    }
    assert_eq!(ids(&storage).await, ["inside/file"]);
    let prefix = Prefix::parse("directory-link/").unwrap();
    let listed: Vec<_> = storage.list(&prefix, ListOptions::default()).collect().await;
    assert_eq!(listed.len(), 0);
    assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"secret");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_fifo_or_socket_is_never_waited_for() {
    let (root, storage) = storage().await;
    let directory = std::fs::File::open(root.path()).unwrap();
    rustix::fs::mknodat(
        &directory,
        "fifo",
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.path().join("socket")).unwrap();
    for name in ["fifo", "socket"] {
        let odd = id(name);
        let answer = async {
            assert_eq!(kind(storage.metadata(&odd).await), ErrorKind::NotAFile);
            let error = storage.download_bytes(&odd).await.unwrap_err();
            assert_eq!(error.message(), Some(name));
            assert_eq!(kind(storage.upload_bytes(&odd, bytes("x")).await), ErrorKind::NotAFile);
            assert_eq!(kind(storage.delete(&odd, Precondition::None).await), ErrorKind::NotAFile);
        };
        if tokio::time::timeout(Duration::from_secs(30), answer).await.is_err() {
            // A writer ends the wait of the blocked thread, without which the test would never end.
            let _writer = std::fs::OpenOptions::new().read(true).write(true).open(root.path().join("fifo"));
            panic!("waited for a {name}");
        }
    }
    let names: Vec<_> = std::fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.iter().filter(|name| name.as_bytes() != b".storage").count(), 2);
}
