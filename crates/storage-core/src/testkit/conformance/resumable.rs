//! Promises of [`ResumableUpload`]. A storage without them passes, once it has said so in its capabilities and
//! has none to offer.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::join_all;

use super::Fixture;
use super::support::{all, assert_missing, data, fails, get, id, left_out, missing, ok, put, same};
use crate::checksum::{CompositeDigest, Digest};
use crate::error::{ErrorKind, Result};
use crate::storage::{
    FileStorage, FileStorageExt, FinishOptions, PartNumber, PartReceipt, Precondition, Receipt,
    ResumableUpload, UploadOptions, UploadTicket,
};

/// Part-wise uploads of a fixture, with the least part size that is not absurd.
struct Parts<'a> {
    resumable: &'a dyn ResumableUpload,
    part_size: usize,
}

fn number(number: u32) -> PartNumber {
    PartNumber::new(number).expect("parts count from 1")
}

impl<'a> Parts<'a> {
    fn of(fixture: &'a Fixture) -> Option<Self> {
        let Some(resumable) = fixture.resumable() else {
            left_out("the storage has no uploads in parts, and says so");
            return None;
        };
        let part_size = resumable.limits().min_part_size.max(64 << 10) as usize;
        Some(Self { resumable, part_size })
    }

    /// Two whole parts and a short one.
    fn bytes(&self, seed: u64) -> Bytes {
        data(self.part_size * 2 + 1_001, seed)
    }

    fn part(&self, bytes: &Bytes, number: u32) -> Bytes {
        let start = self.part_size * (number as usize - 1);
        bytes.slice(start..bytes.len().min(start + self.part_size))
    }

    async fn begin(&self, name: &str) -> UploadTicket {
        self.begin_with(name, UploadOptions::default()).await
    }

    async fn begin_with(&self, name: &str, options: UploadOptions) -> UploadTicket {
        let ticket = ok(self.resumable.begin(&id(name), self.part_size as u64, options).await);
        assert_eq!((ticket.id.as_str(), ticket.part_size), (name, self.part_size as u64));
        ticket
    }

    async fn try_put(&self, ticket: &UploadTicket, at: u32, bytes: Bytes) -> Result<PartReceipt> {
        let digest = Digest::of(&bytes);
        self.resumable.put_part(ticket, number(at), bytes, digest).await
    }

    async fn put(&self, ticket: &UploadTicket, at: u32, bytes: Bytes) -> PartReceipt {
        let (size, digest) = (bytes.len() as u64, Digest::of(&bytes));
        let receipt = ok(self.try_put(ticket, at, bytes).await);
        assert_eq!((receipt.number, receipt.size), (number(at), size));
        assert!(receipt.digest.is_none_or(|told| told == digest));
        receipt
    }

    async fn put_all(&self, ticket: &UploadTicket, bytes: &Bytes) -> Vec<PartReceipt> {
        let mut parts = Vec::new();
        for at in 1..=bytes.len().div_ceil(self.part_size) as u32 {
            parts.push(self.put(ticket, at, self.part(bytes, at)).await);
        }
        parts
    }

    async fn finish(&self, ticket: &UploadTicket, parts: &[PartReceipt]) -> Result<Receipt> {
        self.resumable.finish(ticket, parts, FinishOptions::default()).await
    }
}

/// Capabilities and `resumable` agree, and the limits make sense.
pub async fn is_there_when_the_capabilities_say_so(fixture: &Fixture) {
    if let Some(resumable) = fixture.resumable() {
        let limits = resumable.limits();
        assert!(limits.min_part_size <= limits.max_part_size, "{limits:?}");
        assert!(limits.max_parts >= 1 && limits.max_size >= limits.max_part_size, "{limits:?}");
    }
}

/// Parts in, file out.
pub async fn publishes_the_parts_as_one_file(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let bytes = parts.bytes(1);
    let ticket = parts.begin("d/file.txt").await;
    let held = parts.put_all(&ticket, &bytes).await;
    let finish = FinishOptions::default().with_digest(Digest::of(&bytes));
    let receipt = ok(parts.resumable.finish(&ticket, &held, finish).await);
    assert_eq!(receipt.digest, Some(Digest::of(&bytes)), "the caller gave the digest of the whole");
    assert_eq!((receipt.metadata.id, receipt.metadata.size), (id("d/file.txt"), bytes.len() as u64));
    same(&get(fixture.storage(), "d/file.txt").await, &bytes);
    let metadata = ok(fixture.storage().metadata(&id("d/file.txt")).await);
    assert_eq!(metadata.version, receipt.metadata.version);
    assert_eq!(metadata.content_type.as_deref(), Some("text/plain"));
    assert!(metadata.digest.is_none_or(|digest| digest == Digest::of(&bytes)));
    assert_eq!(all(fixture.storage()).await, ["d/file.txt"]);
}

/// An upload that is not finished is no file.
pub async fn shows_nothing_before_finish(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let ticket = parts.begin("f").await;
    missing(fixture.storage(), "f").await;
    parts.put_all(&ticket, &parts.bytes(2)).await;
    missing(fixture.storage(), "f").await;
    assert_eq!(all(fixture.storage()).await, [""; 0]);
    assert!(!ok(fixture.storage().delete(&id("f"), Precondition::None).await));
}

/// The old file is there, whole, until the new one is.
pub async fn keeps_what_was_there_until_finish(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    put(fixture.storage(), "f", &data(1_000, 3)).await;
    let ticket = parts.begin("f").await;
    let held = parts.put_all(&ticket, &parts.bytes(3)).await;
    same(&get(fixture.storage(), "f").await, &data(1_000, 3));
    ok(parts.finish(&ticket, &held).await);
    same(&get(fixture.storage(), "f").await, &parts.bytes(3));
}

/// Attributes are given at the beginning and are there at the end.
pub async fn keeps_every_attribute(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let mut options = UploadOptions::default()
        .with_content_type("text/x-parts")
        .with_file_name("Teile é +%.txt")
        .with_created(SystemTime::UNIX_EPOCH + Duration::new(1_500_000_000, 9));
    if fixture.storage().capabilities().tags {
        options = options.with_tag("in", "parts");
    }
    let ticket = parts.begin_with("f", options.clone()).await;
    let held = parts.put_all(&ticket, &parts.bytes(4)).await;
    ok(parts.finish(&ticket, &held).await);
    let metadata = ok(fixture.storage().metadata(&id("f")).await);
    assert_eq!(metadata.content_type, options.content_type);
    assert_eq!((metadata.file_name, metadata.created), (options.file_name, options.created));
    assert_eq!(metadata.tags, options.tags);
}

/// The number is the place, not the time.
pub async fn takes_parts_in_any_order(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let bytes = parts.bytes(5);
    let ticket = parts.begin("f").await;
    let mut held = Vec::new();
    for at in [3, 1, 2] {
        held.push(parts.put(&ticket, at, parts.part(&bytes, at)).await);
    }
    held.sort_by_key(|part| part.number);
    ok(parts.finish(&ticket, &held).await);
    same(&get(fixture.storage(), "f").await, &bytes);
}

/// Parts may travel side by side.
pub async fn takes_parts_at_the_same_time(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let bytes = parts.bytes(6);
    let ticket = parts.begin("f").await;
    let puts = (1..=3).map(|at| parts.put(&ticket, at, parts.part(&bytes, at)));
    let held = join_all(puts).await;
    ok(parts.finish(&ticket, &held).await);
    same(&get(fixture.storage(), "f").await, &bytes);
}

/// The same number again replaces, so a part may be repeated after a lost answer.
pub async fn a_part_that_was_put_again_replaces_itself(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let bytes = parts.bytes(7);
    let ticket = parts.begin("f").await;
    parts.put(&ticket, 2, data(parts.part_size, 99)).await;
    parts.put(&ticket, 1, parts.part(&bytes, 1)).await;
    let mut held = parts.put_all(&ticket, &bytes).await;
    held[0] = parts.put(&ticket, 1, parts.part(&bytes, 1)).await;
    assert_eq!(ok(parts.resumable.parts(&ticket).await).len(), 3);
    ok(parts.finish(&ticket, &held).await);
    same(&get(fixture.storage(), "f").await, &bytes);
}

/// A part whose bytes are not those of its digest is not held.
pub async fn refuses_a_part_that_does_not_have_its_digest(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let ticket = parts.begin("f").await;
    let wrong = Digest::of(b"something else");
    let result = parts.resumable.put_part(&ticket, number(1), data(parts.part_size, 8), wrong).await;
    if fixture.storage().capabilities().verifies_sha256 {
        fails(result, ErrorKind::Integrity);
        assert_eq!(ok(parts.resumable.parts(&ticket).await), []);
    } else if let Ok(receipt) = result {
        left_out("the storage does not compare digests, and says so");
        assert_eq!(receipt.number, number(1));
    }
    ok(parts.resumable.abandon(&ticket).await);
}

/// The storage knows what it holds, in order.
pub async fn lists_the_parts_it_holds(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let bytes = parts.bytes(9);
    let ticket = parts.begin("f").await;
    assert_eq!(ok(parts.resumable.parts(&ticket).await), []);
    let third = parts.put(&ticket, 3, parts.part(&bytes, 3)).await;
    let first = parts.put(&ticket, 1, parts.part(&bytes, 1)).await;
    let listed = ok(parts.resumable.parts(&ticket).await);
    assert_eq!(listed.len(), 2);
    for (listed, put) in listed.iter().zip([first, third]) {
        assert_eq!((listed.number, listed.size, &listed.token), (put.number, put.size, &put.token));
        let digest = Digest::of(&parts.part(&bytes, put.number.get()));
        assert!(listed.digest.is_none_or(|told| told == digest));
    }
}

/// A ticket on paper and the storage's own list of parts are enough to go on.
pub async fn goes_on_from_another_process(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let bytes = parts.bytes(10);
    let ticket = parts.begin("f").await;
    parts.put(&ticket, 1, parts.part(&bytes, 1)).await;
    let paper = serde_json::to_string(&ticket).expect("a ticket is serialisable");
    drop(ticket);

    let ticket: UploadTicket = serde_json::from_str(&paper).expect("a ticket can be read back");
    let resumable = fixture.another().resumable().expect("the same storage has the same abilities");
    let there = Parts { resumable, part_size: parts.part_size };
    assert_eq!(ok(resumable.parts(&ticket).await).len(), 1);
    for at in [2, 3] {
        there.put(&ticket, at, parts.part(&bytes, at)).await;
    }
    let held = ok(resumable.parts(&ticket).await);
    let finish = FinishOptions::default().with_digest(Digest::of(&bytes));
    ok(resumable.finish(&ticket, &held, finish).await);
    same(&get(fixture.storage(), "f").await, &bytes);
}

/// The last part may be short, also when it is the only one.
pub async fn takes_one_short_part(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let ticket = parts.begin("f").await;
    let held = parts.put(&ticket, 1, data(10, 11)).await;
    ok(parts.finish(&ticket, &[held]).await);
    same(&get(fixture.storage(), "f").await, &data(10, 11));
}

/// An empty file is one empty part.
pub async fn takes_an_empty_file(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let ticket = parts.begin("f").await;
    let held = parts.try_put(&ticket, 1, Bytes::new()).await;
    if !fixture.empty_parts {
        fails(held, ErrorKind::Unsupported);
        return missing(fixture.storage(), "f").await;
    }
    let receipt = ok(parts.finish(&ticket, &[ok(held)]).await);
    assert_eq!(receipt.metadata.size, 0);
    same(&get(fixture.storage(), "f").await, b"");
}

/// Limits hold at the beginning, before bytes were sent in vain.
pub async fn refuses_part_sizes_out_of_range(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let limits = parts.resumable.limits();
    for part_size in [0, limits.min_part_size.saturating_sub(1), limits.max_part_size.saturating_add(1)] {
        if (limits.min_part_size..=limits.max_part_size).contains(&part_size) {
            continue;
        }
        let result = parts.resumable.begin(&id("f"), part_size, UploadOptions::default()).await;
        fails(result, ErrorKind::InvalidInput);
    }
    assert_eq!(ok(parts.resumable.stale(Duration::ZERO).await), []);
}

/// A gap is not closed by leaving it out.
pub async fn refuses_to_finish_with_a_part_missing(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let bytes = parts.bytes(12);
    let ticket = parts.begin("f").await;
    let first = parts.put(&ticket, 1, parts.part(&bytes, 1)).await;
    let third = parts.put(&ticket, 3, parts.part(&bytes, 3)).await;
    let gap = [first.clone(), third.clone()];
    fails(parts.finish(&ticket, &gap).await, ErrorKind::InvalidInput);
    fails(parts.finish(&ticket, std::slice::from_ref(&third)).await, ErrorKind::InvalidInput);
    let invented = PartReceipt { number: number(2), ..first.clone() };
    let invented = [first.clone(), invented, third.clone()];
    fails(parts.finish(&ticket, &invented).await, ErrorKind::InvalidInput);
    missing(fixture.storage(), "f").await;
    let second = parts.put(&ticket, 2, parts.part(&bytes, 2)).await;
    ok(parts.finish(&ticket, &[first, second, third]).await);
    same(&get(fixture.storage(), "f").await, &bytes);
}

/// A caller who believes in other bytes than are held is told.
pub async fn refuses_to_finish_with_a_part_replaced_since(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let bytes = parts.bytes(13);
    let ticket = parts.begin("f").await;
    let held = parts.put_all(&ticket, &bytes).await;
    parts.put(&ticket, 2, data(parts.part_size, 99)).await;
    fails(parts.finish(&ticket, &held).await, ErrorKind::InvalidInput);
    missing(fixture.storage(), "f").await;
    ok(parts.resumable.abandon(&ticket).await);
}

/// No parts are no file.
pub async fn refuses_to_finish_without_parts(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let ticket = parts.begin("f").await;
    fails(parts.finish(&ticket, &[]).await, ErrorKind::InvalidInput);
    missing(fixture.storage(), "f").await;
    ok(parts.resumable.abandon(&ticket).await);
}

/// `Absent` is checked when the file would appear.
pub async fn finish_absent_creates_and_refuses_to_replace(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let storage = fixture.storage();
    let bytes = parts.bytes(14);
    let absent = FinishOptions::default().with_when(Precondition::Absent);
    let ticket = parts.begin("f").await;
    let held = parts.put_all(&ticket, &bytes).await;
    put(storage, "f", &Bytes::from_static(b"first")).await;
    let result = parts.resumable.finish(&ticket, &held, absent.clone()).await;
    if !storage.capabilities().conditional_create {
        fails(result, ErrorKind::Unsupported);
        return same(&get(storage, "f").await, b"first");
    }
    fails(result, ErrorKind::AlreadyExists);
    same(&get(storage, "f").await, b"first");
    ok(parts.resumable.abandon(&ticket).await);

    let ticket = parts.begin("g").await;
    let held = parts.put_all(&ticket, &bytes).await;
    ok(parts.resumable.finish(&ticket, &held, absent).await);
    same(&get(storage, "g").await, &bytes);
}

/// `Version` is checked when the file would be replaced.
pub async fn finish_version_replaces_that_version_only(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let storage = fixture.storage();
    let bytes = parts.bytes(15);
    let first = put(storage, "f", &Bytes::from_static(b"first")).await.metadata.version;
    let when = |version: Option<_>| {
        FinishOptions::default().with_when(Precondition::Version(version.expect("a version")))
    };
    let ticket = parts.begin("f").await;
    let held = parts.put_all(&ticket, &bytes).await;
    let second = put(storage, "f", &Bytes::from_static(b"second")).await.metadata.version;
    let stale = parts.resumable.finish(&ticket, &held, when(first)).await;
    if !storage.capabilities().conditional_replace {
        fails(stale, ErrorKind::Unsupported);
        return same(&get(storage, "f").await, b"second");
    }
    fails(stale, ErrorKind::VersionMismatch);
    same(&get(storage, "f").await, b"second");
    ok(parts.resumable.abandon(&ticket).await);

    let ticket = parts.begin("f").await;
    let held = parts.put_all(&ticket, &bytes).await;
    ok(parts.resumable.finish(&ticket, &held, when(second)).await);
    same(&get(storage, "f").await, &bytes);
}

/// A finish whose answer was lost may be repeated.
pub async fn finish_again_is_success(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let bytes = parts.bytes(16);
    let ticket = parts.begin("f").await;
    let held = parts.put_all(&ticket, &bytes).await;
    let finish = FinishOptions::default().with_digest(Digest::of(&bytes));
    let first = ok(parts.resumable.finish(&ticket, &held, finish.clone()).await);
    let again = ok(parts.resumable.finish(&ticket, &held, finish).await);
    assert_eq!(again.metadata.version, first.metadata.version);
    assert_eq!(again.metadata.size, first.metadata.size);
    assert_eq!(again.digest, first.digest);
    same(&get(fixture.storage(), "f").await, &bytes);
}

/// Where something else is stored by now, a repeated finish must not call it its own.
pub async fn finish_again_after_a_replacement_is_not(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let bytes = parts.bytes(17);
    let ticket = parts.begin("f").await;
    let held = parts.put_all(&ticket, &bytes).await;
    let finish = FinishOptions::default().with_digest(Digest::of(&bytes));
    ok(parts.resumable.finish(&ticket, &held, finish.clone()).await);
    // As many bytes, other bytes.
    put(fixture.storage(), "f", &data(bytes.len(), 98)).await;
    fails(parts.resumable.finish(&ticket, &held, finish).await, ErrorKind::NoSuchUpload);
    same(&get(fixture.storage(), "f").await, &data(bytes.len(), 98));
}

/// What was abandoned is gone, parts and all.
pub async fn abandoned_is_no_such_upload(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let bytes = parts.bytes(18);
    let ticket = parts.begin("f").await;
    let held = parts.put_all(&ticket, &bytes).await;
    ok(parts.resumable.abandon(&ticket).await);
    fails(parts.resumable.parts(&ticket).await, ErrorKind::NoSuchUpload);
    fails(parts.try_put(&ticket, 1, parts.part(&bytes, 1)).await, ErrorKind::NoSuchUpload);
    fails(parts.finish(&ticket, &held).await, ErrorKind::NoSuchUpload);
    assert_missing(fixture.storage().download_bytes(&id("f")).await);
}

/// An upload that is not there is abandoned already.
pub async fn abandoned_twice_is_fine(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let ticket = parts.begin("f").await;
    ok(parts.resumable.abandon(&ticket).await);
    ok(parts.resumable.abandon(&ticket).await);
    let ticket = parts.begin("g").await;
    let held = parts.put(&ticket, 1, data(10, 19)).await;
    ok(parts.finish(&ticket, &[held]).await);
    ok(parts.resumable.abandon(&ticket).await);
    same(&get(fixture.storage(), "g").await, &data(10, 19));
}

/// Two uploads of one id are two uploads.
pub async fn two_uploads_of_one_id_do_not_mix(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let (ours, theirs) = (parts.bytes(20), parts.bytes(21));
    let (one, two) = (parts.begin("f").await, parts.begin("f").await);
    assert_ne!(one.upload, two.upload);
    let mut held = (Vec::new(), Vec::new());
    for at in 1..=3 {
        held.0.push(parts.put(&one, at, parts.part(&ours, at)).await);
        held.1.push(parts.put(&two, at, parts.part(&theirs, at)).await);
    }
    ok(parts.finish(&one, &held.0).await);
    same(&get(fixture.storage(), "f").await, &ours);
    ok(parts.finish(&two, &held.1).await);
    same(&get(fixture.storage(), "f").await, &theirs);
}

/// Whoever cleans up finds what was left, whoever left it, and nothing that is young.
pub async fn stale_finds_open_uploads_by_age(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let mut begun = Vec::new();
    for name in ["d/a b+é%", "f", "f"] {
        let ticket = parts.begin(name).await;
        begun.push((ticket.id, ticket.upload));
    }
    // Servers tell the time of the beginning in seconds.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let another = fixture.another().resumable().expect("the same storage has the same abilities");
    let stale = ok(another.stale(Duration::ZERO).await);
    let mut found: Vec<_> = stale.iter().map(|ticket| (ticket.id.clone(), ticket.upload.clone())).collect();
    begun.sort();
    found.sort();
    assert_eq!(found, begun);
    assert_eq!(ok(another.stale(Duration::from_secs(3_600)).await), []);
    for ticket in stale {
        ok(another.abandon(&ticket).await);
    }
    assert_eq!(ok(another.stale(Duration::ZERO).await), []);
}

/// What has ended is not open.
pub async fn stale_forgets_what_ended(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let finished = parts.begin("f").await;
    let held = parts.put(&finished, 1, data(10, 22)).await;
    ok(parts.finish(&finished, &[held]).await);
    let abandoned = parts.begin("g").await;
    parts.put(&abandoned, 1, data(10, 23)).await;
    ok(parts.resumable.abandon(&abandoned).await);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(ok(parts.resumable.stale(Duration::ZERO).await), []);
}

/// The composite that a storage tells is that of the parts, and large enough to check a read by.
pub async fn composite_is_that_of_the_parts(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let storage = fixture.storage();
    let bytes = parts.bytes(24);
    let digests: Vec<_> = (1..=3).map(|at| Digest::of(&parts.part(&bytes, at))).collect();
    let due = CompositeDigest::of_parts(parts.part_size as u64, &digests);
    let ticket = parts.begin("f").await;
    let held = parts.put_all(&ticket, &bytes).await;
    ok(parts.finish(&ticket, &held).await);
    let told = ok(storage.metadata(&id("f")).await).composite;
    if storage.capabilities().composite_sha256 {
        assert_eq!(told, Some(due));
    } else if let Some(told) = told {
        assert_eq!(told, due);
    }
    if let Some(corrupt) = fixture.corrupt.as_ref().filter(|_| told.is_some()) {
        corrupt(&id("f"));
        fails(storage.download_bytes(&id("f")).await, ErrorKind::Integrity);
    } else if told.is_some() {
        left_out(fixture.uncorrupted);
    }
}

/// The storage's own corner is closed to this way in too.
pub async fn refuses_reserved_ids(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let reserved = id(".storage/x");
    let begin = parts.resumable.begin(&reserved, parts.part_size as u64, UploadOptions::default());
    fails(begin.await, ErrorKind::InvalidInput);
}

/// Tags are kept or refused, never dropped, and refused before bytes were sent in vain.
pub async fn refuses_tags_it_cannot_keep(fixture: &Fixture) {
    let Some(parts) = Parts::of(fixture) else { return };
    let storage: &Arc<dyn FileStorage> = fixture.storage();
    let options = UploadOptions::default().with_tag("owner", "ann");
    let result = parts.resumable.begin(&id("f"), parts.part_size as u64, options).await;
    if !storage.capabilities().tags {
        fails(result, ErrorKind::Unsupported);
        return;
    }
    let ticket = ok(result);
    let held = parts.put(&ticket, 1, data(10, 25)).await;
    ok(parts.finish(&ticket, &[held]).await);
    let tags = ok(storage.metadata(&id("f")).await).tags;
    assert_eq!(tags.get("owner").map(String::as_str), Some("ann"));
}
