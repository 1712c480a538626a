use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures::{FutureExt, StreamExt, stream};
use storage_core::backend::local::{LocalConfig, LocalStorage};
use storage_core::body::{Body, BodySource, ByteStream};
use storage_core::checksum::Digest;
use storage_core::error::{Error, ErrorKind, Op};
use storage_core::storage::{FileStorage, FileStorageExt, Precondition, UploadOptions};

use super::*;

fn when(when: Precondition) -> UploadOptions {
    UploadOptions::default().with_when(when)
}

/// Pieces of one byte value, then what the test wants.
#[derive(Debug)]
struct Pieces {
    pieces: usize,
    then: Then,
}

#[derive(Clone, Copy, Debug)]
enum Then {
    End,
    EndShort,
    Fail,
    Hang,
}

const PIECE: usize = 100_000;

#[async_trait]
impl BodySource for Pieces {
    fn size(&self) -> u64 {
        (self.pieces * PIECE) as u64
    }

    async fn open(&self, _range: Range<u64>) -> storage_core::error::Result<ByteStream> {
        let pieces = self.pieces - usize::from(!matches!(self.then, Then::End));
        let bytes = stream::iter((0..pieces).map(|_| Ok(Bytes::from(vec![7; PIECE]))));
        Ok(match self.then {
            Then::End | Then::EndShort => bytes.boxed(),
            Then::Fail => {
                let error = Error::new(ErrorKind::SourceChanged, Op::ReadBody);
                bytes.chain(stream::once(std::future::ready(Err(error)))).boxed()
            }
            Then::Hang => bytes.chain(stream::pending()).boxed(),
        })
    }

    fn in_memory(&self) -> Option<&Bytes> {
        None
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_during_overwrites_sees_the_old_file_or_the_new_one_whole() {
    const SIZE: usize = 600_000;
    let (_root, storage) = storage().await;
    storage.upload_bytes(&id("a"), Bytes::from(vec![0; SIZE])).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (storage, stop) = (storage.clone(), Arc::clone(&stop));
        async move {
            for round in 1..=100u8 {
                storage.upload_bytes(&id("a"), Bytes::from(vec![round; SIZE])).await.unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        }
    });
    let mut readers = Vec::new();
    for _ in 0..3 {
        let (storage, stop) = (storage.clone(), Arc::clone(&stop));
        readers.push(tokio::spawn(async move {
            let mut last = 0;
            while !stop.load(Ordering::Relaxed) {
                let read = storage.download_bytes(&id("a")).await.unwrap();
                assert_eq!(read.len(), SIZE);
                assert!(read.iter().all(|&byte| byte == read[0]), "a mixture of versions");
                assert!(read[0] >= last, "an older version came back");
                last = read[0];
                assert_eq!(storage.metadata(&id("a")).await.unwrap().size, SIZE as u64);
            }
        }));
    }
    writer.await.unwrap();
    for reader in readers {
        reader.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_creators_exactly_one_wins() {
    let (root, one) = storage().await;
    let two = open(root.path()).await;
    for round in 0..300 {
        let file = id(&format!("d{}/{round}", round % 7));
        let create = |storage: LocalStorage, content: &'static str| {
            let file = file.clone();
            tokio::spawn(async move {
                storage.upload(&file, Body::from_bytes(content), when(Precondition::Absent)).await
            })
        };
        let (first, second) = (create(one.clone(), "first"), create(two.clone(), "second"));
        let results = [first.await.unwrap(), second.await.unwrap()];
        let winners: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
        assert_eq!(winners.len(), 1, "round {round}");
        let loser = results.iter().find_map(|result| result.as_ref().err()).unwrap();
        assert_eq!(loser.kind(), ErrorKind::AlreadyExists);
        let stored = one.download_bytes(&file).await.unwrap();
        assert_eq!(Some(Digest::of(&stored)), winners[0].digest);
    }
    assert_eq!(own(root.path(), "tmp"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creator_outside_of_this_process_is_not_overwritten() {
    let (root, storage) = storage().await;
    let prepared = root.path().join("prepared");
    std::fs::write(&prepared, "theirs").unwrap();
    for round in 0..500 {
        let file = id(&round.to_string());
        // `link` knows nothing of this library's locks.
        let (from, to) = (prepared.clone(), root.path().join(file.as_str()));
        let theirs = tokio::task::spawn_blocking(move || {
            std::thread::sleep(std::time::Duration::from_micros(round % 10 * 20));
            std::fs::hard_link(from, to)
        });
        let ours = storage.upload(&file, Body::from_bytes("ours"), when(Precondition::Absent)).await;
        let theirs = theirs.await.unwrap();
        assert_ne!(ours.is_ok(), theirs.is_ok(), "round {round}: {ours:?} {theirs:?}");
        let expected = if ours.is_ok() { "ours" } else { "theirs" };
        assert_eq!(storage.download_bytes(&file).await.unwrap(), expected, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_replace_one_version_exactly_one_wins() {
    let (root, one) = storage().await;
    // A second storage on the same root, in the same process.
    let two = open(root.path()).await;
    one.upload_bytes(&id("a"), bytes("0")).await.unwrap();
    for round in 0..400 {
        let version = one.metadata(&id("a")).await.unwrap().version.unwrap();
        let contenders: Vec<_> = (0..6)
            .map(|contender| {
                let storage = if contender % 2 == 0 { one.clone() } else { two.clone() };
                let options = when(Precondition::Version(version.clone()));
                let body = Body::from_bytes(format!("{contender} in {round}"));
                tokio::spawn(async move { storage.upload(&id("a"), body, options).await })
            })
            .collect();
        let mut winners = 0;
        for contender in contenders {
            match contender.await.unwrap() {
                Ok(_) => winners += 1,
                Err(error) => assert_eq!(error.kind(), ErrorKind::VersionMismatch),
            }
        }
        assert_eq!(winners, 1, "round {round}");
    }
}

#[tokio::test]
async fn a_precondition_that_does_not_hold_changes_nothing() {
    let (_root, storage) = storage().await;
    let a = id("a");
    let old = storage.upload_bytes(&a, bytes("old")).await.unwrap().metadata.version.unwrap();
    let new = storage.upload_bytes(&a, bytes("new")).await.unwrap().metadata.version.unwrap();
    assert_ne!(old, new);
    let upload = |when: Precondition| {
        storage.upload(&a, Body::from_bytes("x"), UploadOptions::default().with_when(when))
    };
    assert_eq!(kind(upload(Precondition::Absent).await), ErrorKind::AlreadyExists);
    assert_eq!(kind(upload(Precondition::Version(old.clone())).await), ErrorKind::VersionMismatch);
    let options = when(Precondition::Version(new.clone()));
    let missing = storage.upload(&id("b"), Body::from_bytes("x"), options).await;
    assert_eq!(kind(missing), ErrorKind::VersionMismatch);
    let copied = storage.copy(&a, &a, when(Precondition::Absent)).await;
    assert_eq!(kind(copied), ErrorKind::AlreadyExists);
    assert_eq!(kind(storage.delete(&a, Precondition::Version(old)).await), ErrorKind::VersionMismatch);
    assert_eq!(kind(storage.delete(&a, Precondition::Absent).await), ErrorKind::InvalidInput);
    assert_eq!(storage.download_bytes(&a).await.unwrap(), "new");
    assert!(storage.delete(&a, Precondition::Version(new)).await.unwrap());
    assert_eq!(ids(&storage).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_body_that_fails_or_differs_publishes_nothing() {
    let (root, storage) = storage().await;
    storage.upload_bytes(&id("d/a"), bytes("old")).await.unwrap();
    for (then, expected) in
        [(Then::Fail, ErrorKind::SourceChanged), (Then::EndShort, ErrorKind::SourceChanged)]
    {
        for name in ["d/a", "new/b"] {
            let body = Body::from_source(Pieces { pieces: 9, then });
            let error = storage.upload(&id(name), body, UploadOptions::default()).await.unwrap_err();
            assert_eq!(error.kind(), expected);
        }
    }
    let wrong = UploadOptions::default().with_digest(Digest::of(b"other"));
    let body = Body::from_source(Pieces { pieces: 9, then: Then::End });
    assert_eq!(kind(storage.upload(&id("d/a"), body.clone(), wrong.clone()).await), ErrorKind::Integrity);
    assert_eq!(kind(storage.upload(&id("d/a"), Body::from_bytes("x"), wrong).await), ErrorKind::Integrity);
    assert_eq!(storage.download_bytes(&id("d/a")).await.unwrap(), "old");
    assert_eq!(ids(&storage).await, ["d/a"]);
    assert_eq!(own(root.path(), "tmp"), Vec::<String>::new());

    let right = UploadOptions::default().with_digest(body.digest().await.unwrap());
    let receipt = storage.upload(&id("d/a"), body, right).await.unwrap();
    assert_eq!(receipt.metadata.size, 900_000);
    assert_eq!(storage.download_bytes(&id("d/a")).await.unwrap(), vec![7; 900_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_upload_publishes_nothing_and_leaves_no_temporary_file() {
    let (root, storage) = storage().await;
    let mut states = Vec::new();
    for round in 0..40 {
        let file = id(&format!("d/{round}"));
        // Dropped while it waits for bytes; and, from memory, wherever its one hop to the disk has come to.
        let hanging = Body::from_source(Pieces { pieces: 9, then: Then::Hang });
        let waits = storage.upload(&file, hanging, UploadOptions::default());
        assert!(tokio::time::timeout(std::time::Duration::from_millis(round), waits).await.is_err());

        let whole = Body::from_bytes(vec![7; 200_000]);
        let mut upload = storage.upload(&file, whole, UploadOptions::default());
        if (&mut upload).now_or_never().is_none() {
            tokio::time::sleep(std::time::Duration::from_micros(20 * round)).await;
            drop(upload);
            states.push((file.clone(), root.path().join(file.as_str()).exists()));
        }
    }
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    settle(root.path()).await;
    for (file, there) in states {
        assert_eq!(root.path().join(file.as_str()).exists(), there, "published after the drop");
    }
}

/// Waits until the work of dropped futures, which ends by itself, has ended.
async fn settle(root: &Path) {
    for _ in 0..1_000 {
        if own(root, "tmp").is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("temporary files remain: {:?}", own(root, "tmp"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_into_a_directory_that_is_being_pruned_does_not_fail() {
    let (_root, storage) = storage().await;
    let mut tasks = Vec::new();
    for task in 0..4 {
        let storage = storage.clone();
        tasks.push(tokio::spawn(async move {
            for _ in 0..300 {
                let file = id(&format!("a/b/{task}"));
                storage.upload_bytes(&file, bytes("x")).await.unwrap();
                assert!(storage.delete(&file, Precondition::None).await.unwrap());
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(ids(&storage).await, Vec::<String>::new());
}

#[tokio::test]
async fn hard_links_and_sparse_files_are_copied_right() {
    let (root, storage) = storage().await;
    storage.upload_bytes(&id("a"), bytes("abc")).await.unwrap();
    std::fs::hard_link(root.path().join("a"), root.path().join("b")).unwrap();
    storage.upload_bytes(&id("a"), bytes("new")).await.unwrap();
    assert_eq!(storage.download_bytes(&id("b")).await.unwrap(), "abc", "the other name keeps its bytes");
    std::fs::File::create(root.path().join("sparse")).unwrap().set_len(3 << 20).unwrap();
    let receipt = storage.copy(&id("sparse"), &id("dense"), UploadOptions::default()).await.unwrap();
    assert_eq!(receipt.digest, Some(Digest::of(&vec![0; 3 << 20])));
}

#[tokio::test]
async fn a_durable_storage_works_like_a_relaxed_one() {
    let root = TempDir::new().unwrap();
    let storage = LocalStorage::open(LocalConfig::new(root.path())).await.unwrap();
    for name in ["a", "b/c/d", "b/c/e"] {
        storage.upload_bytes(&id(name), bytes(name)).await.unwrap();
        assert_eq!(storage.download_bytes(&id(name)).await.unwrap(), name);
    }
    assert!(storage.delete(&id("b/c/d"), Precondition::None).await.unwrap());
    assert_eq!(ids(&storage).await, ["a", "b/c/e"]);
}
