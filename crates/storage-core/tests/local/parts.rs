use std::num::NonZeroU32;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use storage_core::body::Body;
use storage_core::checksum::{CompositeDigest, Digest};
use storage_core::error::{ErrorKind, Result};
use storage_core::storage::{
    FileStorage, FileStorageExt, FinishOptions, PartReceipt, Precondition, ResumableUpload, UploadOptions,
    UploadTicket, Verified,
};

use super::attributes::odd_options;
use super::*;

fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

async fn put(storage: &LocalStorage, ticket: &UploadTicket, part: u32, content: &str) -> Result<PartReceipt> {
    storage.put_part(ticket, number(part), bytes(content), Digest::of(content.as_bytes())).await
}

/// Begins an upload of `a` and puts `abcde`, `fghij`, `kl`.
async fn begun(storage: &LocalStorage, options: UploadOptions) -> UploadTicket {
    let ticket = storage.begin(&id("d/a"), 5, options).await.unwrap();
    for (part, content) in [(3, "kl"), (1, "abcde"), (2, "fghij")] {
        put(storage, &ticket, part, content).await.unwrap();
    }
    ticket
}

fn composite() -> CompositeDigest {
    let digests = [b"abcde".as_slice(), b"fghij", b"kl"].map(Digest::of);
    CompositeDigest::of_parts(5, &digests)
}

#[tokio::test]
async fn parts_from_two_processes_become_one_file_with_its_attributes() {
    let (root, storage) = storage().await;
    let ticket = begun(&storage, odd_options()).await;
    assert_eq!(ids(&storage).await, Vec::<String>::new());
    assert_eq!(own(root.path(), "tmp"), Vec::<String>::new());
    // All that the other process has is the ticket's text.
    let text = serde_json::to_string(&ticket).unwrap();
    let ticket: UploadTicket = serde_json::from_str(&text).unwrap();
    let other = open(root.path()).await;
    let parts = other.parts(&ticket).await.unwrap();
    assert_eq!(parts.iter().map(|part| part.number.get()).collect::<Vec<_>>(), [1, 2, 3]);
    let finish = FinishOptions::default().with_digest(Digest::of(b"abcdefghijkl"));
    let receipt = other.finish(&ticket, &parts, finish.clone()).await.unwrap();
    assert_eq!(receipt.digest, Some(Digest::of(b"abcdefghijkl")));
    let metadata = storage.metadata(&id("d/a")).await.unwrap();
    assert_eq!(receipt.metadata, metadata);
    assert_eq!(metadata.composite, Some(composite()));
    assert_eq!((&metadata.tags, &metadata.file_name), (&odd_options().tags, &odd_options().file_name));
    assert_eq!(storage.download_bytes(&id("d/a")).await.unwrap(), "abcdefghijkl");
    assert_eq!(own(root.path(), "uploads"), Vec::<String>::new());

    // The answer was lost: the same finish again, with or without the digest.
    assert_eq!(other.finish(&ticket, &parts, finish).await.unwrap().metadata, metadata);
    assert_eq!(other.finish(&ticket, &parts, FinishOptions::default()).await.unwrap().metadata, metadata);
    // But not where something else is stored by now.
    storage.upload_bytes(&id("d/a"), bytes("else")).await.unwrap();
    let again = other.finish(&ticket, &parts, FinishOptions::default()).await;
    assert_eq!(kind(again), ErrorKind::NoSuchUpload);
    assert_eq!(kind(other.parts(&ticket).await), ErrorKind::NoSuchUpload);
    assert_eq!(kind(put(&other, &ticket, 1, "x").await), ErrorKind::NoSuchUpload);
    assert_eq!(own(root.path(), "tmp"), Vec::<String>::new());
}

#[tokio::test]
async fn a_finish_that_crashed_after_publishing_knows_its_own_result() {
    let (root, storage) = storage().await;
    let absent = UploadOptions::default().with_when(Precondition::Absent);
    let ticket = begun(&storage, absent.clone()).await;
    let parts = storage.parts(&ticket).await.unwrap();
    let directory = root.path().join(".storage/uploads").join(&ticket.upload);
    let saved = TempDir::new().unwrap();
    copy_directory(&directory, saved.path());
    let receipt = storage.finish(&ticket, &parts, FinishOptions::default()).await.unwrap();
    std::fs::create_dir(&directory).unwrap();
    copy_directory(saved.path(), &directory);
    let again = storage.finish(&ticket, &parts, FinishOptions::default()).await.unwrap();
    assert_eq!(again.metadata, receipt.metadata);
    assert!(!directory.exists());
    // Its bytes are where they were published.
    std::fs::create_dir(&directory).unwrap();
    copy_directory(saved.path(), &directory);
    std::fs::remove_file(directory.join("whole")).unwrap();
    let again = storage.finish(&ticket, &parts, FinishOptions::default()).await.unwrap();
    assert_eq!(again.metadata, receipt.metadata);
    assert!(!directory.exists());

    // Another upload of the very same bytes is another creator, and loses.
    let ticket = begun(&storage, absent).await;
    let lost = storage.finish(&ticket, &parts, FinishOptions::default()).await;
    assert_eq!(kind(lost), ErrorKind::AlreadyExists);
    assert_eq!(storage.parts(&ticket).await.unwrap().len(), 3, "the parts stay until they are abandoned");
}

fn copy_directory(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test]
async fn a_part_put_again_replaces_itself() {
    let (_root, storage) = storage().await;
    let ticket = storage.begin(&id("a"), 0, UploadOptions::default()).await.unwrap();
    put(&storage, &ticket, 1, "first").await.unwrap();
    put(&storage, &ticket, 2, "x").await.unwrap();
    let stale = storage.parts(&ticket).await.unwrap();
    put(&storage, &ticket, 1, "second").await.unwrap();
    put(&storage, &ticket, 1, "second").await.unwrap();
    let parts = storage.parts(&ticket).await.unwrap();
    assert_eq!(parts.iter().map(|part| part.size).collect::<Vec<_>>(), [6, 1]);
    let replaced = storage.finish(&ticket, &stale, FinishOptions::default()).await;
    assert_eq!(kind(replaced), ErrorKind::InvalidInput, "a part that is not there as the caller knows it");
    storage.finish(&ticket, &parts, FinishOptions::default()).await.unwrap();
    assert_eq!(storage.download_bytes(&id("a")).await.unwrap(), "secondx");
}

#[tokio::test]
async fn parts_of_odd_sizes_have_no_composite_that_a_reader_could_not_compute() {
    let (_root, storage) = storage().await;
    for (sizes, part_size) in [
        (vec![3, 5], None),
        (vec![5, 3, 5], None),
        (vec![5, 5, 0], None),
        (vec![5, 5], Some(5)),
        (vec![5, 1], Some(5)),
        (vec![3], Some(4)),
        (vec![9], Some(9)),
        (vec![0], Some(4)),
    ] {
        let ticket = storage.begin(&id("a"), 4, UploadOptions::default()).await.unwrap();
        for (part, size) in (1..).zip(&sizes) {
            put(&storage, &ticket, part, &"x".repeat(*size)).await.unwrap();
        }
        let parts = storage.parts(&ticket).await.unwrap();
        let receipt = storage.finish(&ticket, &parts, FinishOptions::default()).await.unwrap();
        let composite = receipt.metadata.composite;
        assert_eq!(composite.map(|composite| composite.part_size), part_size, "{sizes:?}");
        if let Some(composite) = composite {
            let content = storage.download_bytes(&id("a")).await.unwrap();
            let mut verifier = storage_core::checksum::Verifier::new(Some(
                storage_core::checksum::Expected::Composite(composite),
            ));
            verifier.update(&content);
            assert!(verifier.finish().is_ok(), "{sizes:?}");
        }
    }
}

#[tokio::test]
async fn wrong_bytes_never_get_into_a_finished_file() {
    let (root, storage) = storage().await;
    let ticket = storage.begin(&id("a"), 5, UploadOptions::default()).await.unwrap();
    let wrong = storage.put_part(&ticket, number(1), bytes("abcde"), Digest::of(b"other")).await;
    assert_eq!(kind(wrong), ErrorKind::Integrity);
    let part = put(&storage, &ticket, 1, "abcde").await.unwrap();
    let wrong = FinishOptions::default().with_digest(Digest::of(b"other"));
    assert_eq!(kind(storage.finish(&ticket, std::slice::from_ref(&part), wrong).await), ErrorKind::Integrity);
    // The disk changes a part.
    let path = root.path().join(".storage/uploads").join(&ticket.upload).join("whole.done");
    for content in ["abXde", "abc"] {
        std::fs::write(&path, content).unwrap();
        let rotten = storage.finish(&ticket, std::slice::from_ref(&part), FinishOptions::default()).await;
        assert_eq!(kind(rotten), ErrorKind::Integrity, "{content}");
    }
    assert_eq!(ids(&storage).await, Vec::<String>::new());
    assert_eq!(own(root.path(), "tmp"), Vec::<String>::new());
    // A digest that was given at the beginning holds at the end.
    let options = UploadOptions::default().with_digest(Digest::of(b"other"));
    let ticket = storage.begin(&id("a"), 5, options).await.unwrap();
    let part = put(&storage, &ticket, 1, "abcde").await.unwrap();
    assert_eq!(kind(storage.finish(&ticket, &[part], FinishOptions::default()).await), ErrorKind::Integrity);
}

#[tokio::test]
async fn a_finish_takes_all_parts_from_one_on() {
    let (_root, storage) = storage().await;
    let ticket = begun(&storage, UploadOptions::default()).await;
    let parts = storage.parts(&ticket).await.unwrap();
    let swapped = [parts[1].clone(), parts[0].clone()];
    for wrong in [&[][..], &parts[1..], &swapped] {
        assert_eq!(
            kind(storage.finish(&ticket, wrong, FinishOptions::default()).await),
            ErrorKind::InvalidInput
        );
    }
    assert_eq!(kind(put(&storage, &ticket, 10_001, "x").await), ErrorKind::InvalidInput);
    let too_large = storage.begin(&id("a"), (5 << 30) + 1, UploadOptions::default()).await;
    assert_eq!(kind(too_large), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_name_of_an_upload_leads_to_no_other_directory() {
    let (root, storage) = storage().await;
    std::fs::create_dir(root.path().join("victim")).unwrap();
    std::fs::write(root.path().join("victim/file"), "x").unwrap();
    let ticket = begun(&storage, UploadOptions::default()).await;
    let spelt = [
        "../../victim".to_owned(),
        "/etc".to_owned(),
        String::new(),
        ".".to_owned(),
        ticket.upload.to_uppercase(),
        "0".repeat(32),
    ];
    for upload in spelt {
        let forged = UploadTicket::new(ticket.id.clone(), upload, 5, ticket.started);
        assert_eq!(kind(storage.parts(&forged).await), ErrorKind::NoSuchUpload);
        assert_eq!(kind(put(&storage, &forged, 1, "x").await), ErrorKind::NoSuchUpload);
        storage.abandon(&forged).await.unwrap();
    }
    let other_id = UploadTicket::new(id("b"), ticket.upload.clone(), 5, ticket.started);
    assert_eq!(kind(storage.parts(&other_id).await), ErrorKind::NoSuchUpload);
    assert!(root.path().join("victim/file").exists());
    assert_eq!(storage.parts(&ticket).await.unwrap().len(), 3);
}

#[tokio::test]
async fn an_abandoned_upload_leaves_nothing_and_an_open_one_is_found() {
    let (root, storage) = storage().await;
    let ticket = begun(&storage, UploadOptions::default()).await;
    assert_eq!(storage.stale(Duration::ZERO).await.unwrap(), std::slice::from_ref(&ticket));
    assert_eq!(storage.stale(Duration::from_secs(3600)).await.unwrap(), []);
    assert_eq!(storage.stale(Duration::MAX).await.unwrap(), []);
    storage.abandon(&ticket).await.unwrap();
    storage.abandon(&ticket).await.unwrap();
    assert_eq!(storage.stale(Duration::ZERO).await.unwrap(), []);
    assert_eq!(own(root.path(), "uploads"), Vec::<String>::new());
    let parts = [PartReceipt::new(number(1), 5, None, "x")];
    let gone = storage.finish(&ticket, &parts, FinishOptions::default()).await;
    assert_eq!(kind(gone), ErrorKind::NoSuchUpload);
}

#[tokio::test]
async fn a_finish_honours_its_precondition() {
    let (_root, storage) = storage().await;
    let ticket = begun(&storage, UploadOptions::default()).await;
    let parts = storage.parts(&ticket).await.unwrap();
    let receipt =
        storage.upload(&id("d/a"), Body::from_bytes("old"), UploadOptions::default()).await.unwrap();
    let absent = FinishOptions::default().with_when(Precondition::Absent);
    assert_eq!(kind(storage.finish(&ticket, &parts, absent).await), ErrorKind::AlreadyExists);
    assert_eq!(storage.download_bytes(&id("d/a")).await.unwrap(), "old");
    let version =
        FinishOptions::default().with_when(Precondition::Version(receipt.metadata.version.unwrap()));
    storage.finish(&ticket, &parts, version).await.unwrap();
    assert_eq!(storage.download_bytes(&id("d/a")).await.unwrap(), "abcdefghijkl");
}

/// Where the bytes of an upload are, and how many writers have said that they write there.
fn whole(root: &Path, ticket: &UploadTicket) -> PathBuf {
    root.join(".storage/uploads").join(&ticket.upload).join("whole")
}

async fn three_parts(storage: &LocalStorage) -> (UploadTicket, Vec<PartReceipt>) {
    let ticket = begun(storage, UploadOptions::default()).await;
    let parts = storage.parts(&ticket).await.unwrap();
    (ticket, parts)
}

const TWELVE: &str = "abcdefghijkl";

#[tokio::test]
async fn parts_of_one_size_are_never_copied() {
    let (root, storage) = storage().await;
    let computed = FinishOptions::default().with_computed_digest(Digest::of(TWELVE.as_bytes()));
    for (finish, other_process) in
        [(FinishOptions::default(), false), (computed.clone(), false), (computed, true)]
    {
        let (ticket, parts) = three_parts(&storage).await;
        let written = std::fs::metadata(whole(root.path(), &ticket)).unwrap();
        let finisher = if other_process { open(root.path()).await } else { storage.clone() };
        let receipt = finisher.finish(&ticket, &parts, finish).await.unwrap();
        assert_eq!(receipt.verified, Verified::ReadBack);
        assert_eq!(receipt.digest, Some(Digest::of(TWELVE.as_bytes())));
        assert_eq!(receipt.metadata, storage.metadata(&id("d/a")).await.unwrap());
        let published = std::fs::metadata(root.path().join("d/a")).unwrap();
        assert_eq!((published.ino(), published.len()), (written.ino(), 12));
        assert_eq!(storage.download_bytes(&id("d/a")).await.unwrap(), TWELVE);
    }
    assert_eq!(own(root.path(), "uploads"), Vec::<String>::new());
}

/// What this process has read back it need not read again, unless somebody has changed it since.
#[tokio::test]
async fn a_whole_that_was_changed_after_its_parts_were_compared_is_not_published() {
    let (root, storage) = storage().await;
    let (ticket, parts) = three_parts(&storage).await;
    let path = whole(root.path(), &ticket);
    // A clock that ticks every few milliseconds gives two changes one time.
    std::thread::sleep(std::time::Duration::from_millis(20));
    std::fs::write(&path, "abcdeXghijkl").unwrap();
    let computed = FinishOptions::default().with_computed_digest(Digest::of(TWELVE.as_bytes()));
    let finished = storage.finish(&ticket, &parts, computed).await;
    assert_eq!(kind(finished), ErrorKind::Integrity);
    assert_eq!(ids(&storage).await, Vec::<String>::new());
    // The part is put again, and the others are as good as they were.
    put(&storage, &ticket, 2, "fghij").await.unwrap();
    let parts = storage.parts(&ticket).await.unwrap();
    storage.finish(&ticket, &parts, FinishOptions::default()).await.unwrap();
    assert_eq!(storage.download_bytes(&id("d/a")).await.unwrap(), TWELVE);
}

/// A writer that may still write must not be able to write into a file that readers see.
#[tokio::test]
async fn a_whole_that_somebody_may_still_write_to_is_copied() {
    let (root, storage) = storage().await;
    let (ticket, parts) = three_parts(&storage).await;
    let path = whole(root.path(), &ticket);
    let late = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let claim = std::fs::File::create(path.with_file_name("00004.claim")).unwrap();
    claim.lock().unwrap();
    let receipt = storage.finish(&ticket, &parts, FinishOptions::default()).await.unwrap();
    assert_eq!(receipt.verified, Verified::No);
    late.write_all_at(b"late", 15).unwrap();
    late.write_all_at(b"late", 0).unwrap();
    assert_eq!(storage.download_bytes(&id("d/a")).await.unwrap(), TWELVE);
}

#[tokio::test]
async fn a_claim_of_the_dead_is_taken_over_and_one_of_the_living_is_left() {
    let (root, storage) = storage().await;
    let ticket = storage.begin(&id("a"), 5, UploadOptions::default()).await.unwrap();
    let path = whole(root.path(), &ticket);
    for name in ["00001.claim", "00002.claim"] {
        std::fs::write(path.with_file_name(name), "").unwrap();
    }
    let alive = std::fs::File::open(path.with_file_name("00002.claim")).unwrap();
    alive.lock().unwrap();
    let first = put(&storage, &ticket, 1, "abcde").await.unwrap();
    let second = put(&storage, &ticket, 2, "fg").await.unwrap();
    assert!(first.token.ends_with(".in-place"), "{}", first.token);
    assert!(!second.token.ends_with(".in-place"), "{}", second.token);
    drop(alive);
    let receipt = storage.finish(&ticket, &[first, second], FinishOptions::default()).await.unwrap();
    assert_eq!(receipt.verified, Verified::No, "put together from two files");
    assert_eq!(storage.download_bytes(&id("a")).await.unwrap(), "abcdefg");
}

/// A finish that fails has cut nothing off: the next one may want more.
#[tokio::test]
async fn parts_that_a_failed_finish_did_not_want_are_there_for_the_next() {
    let (_root, storage) = storage().await;
    let (ticket, parts) = three_parts(&storage).await;
    let wrong = FinishOptions::default().with_digest(Digest::of(b"other"));
    assert_eq!(kind(storage.finish(&ticket, &parts[..2], wrong).await), ErrorKind::Integrity);
    storage.finish(&ticket, &parts, FinishOptions::default()).await.unwrap();
    assert_eq!(storage.download_bytes(&id("d/a")).await.unwrap(), TWELVE);
}
