//! What a heal brings over, what it leaves alone, and what it tells.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use storage_core::backend::memory::MemoryStorage;
use storage_core::checksum::Digest;
use storage_core::error::{ErrorKind, Op};
use storage_core::layer::fallback::FallbackStorage;
use storage_core::layer::fallback::config::{OnMiss, OnOutage, ReadPolicy, Role};
use storage_core::layer::fallback::event::{FallbackEvent, Keep};
use storage_core::storage::{FileStorage, FileStorageExt, Precondition, UploadOptions};
use storage_core::testkit::flaky::Fault;

use crate::{Rig, attributes, get, heal, id, names, put};

/// What somebody else writes past us.
pub(crate) fn foreign(memory: &MemoryStorage, name: &'static str, text: &'static str) {
    let memory = memory.clone();
    let write = async move { memory.upload_bytes(&id(name), Bytes::from(text)).await };
    write.now_or_never().unwrap().unwrap();
}

/// A spare's pair in which `a` was overwritten by us in an outage and by a stranger, which a heal has found.
async fn in_conflict() -> (Rig, FallbackStorage) {
    let rig = Rig::new(Role::Spare);
    let storage = rig.open().await;
    put(&storage, "a", "base").await;
    rig.primary.set_outage(true);
    put(&storage, "a", "ours").await;
    foreign(&rig.inside.0, "a", "theirs");
    rig.primary.set_outage(false);
    assert_eq!(storage.heal().await.conflicts.len(), 1);
    (rig, storage)
}

#[tokio::test]
async fn a_conflict_is_kept_on_both_sides_and_reported() {
    for role in [Role::Spare, Role::Replica] {
        let rig = Rig::new(role);
        let events: Arc<Mutex<Vec<FallbackEvent>>> = Arc::default();
        let seen = Arc::clone(&events);
        let storage = FallbackStorage::open_observed(
            Arc::new(rig.primary.clone()),
            Arc::new(rig.secondary.clone()),
            rig.config.clone(),
            move |event| seen.lock().unwrap().push(event.clone()),
        )
        .await
        .unwrap();
        put(&storage, "a", "base").await;
        rig.primary.set_outage(true);
        put(&storage, "a", "ours").await;
        foreign(&rig.inside.0, "a", "theirs");
        rig.primary.set_outage(false);
        let report = storage.heal().await;
        assert_eq!((report.conflicts.len(), report.left, report.failed.len()), (1, 1, 0));
        let conflict = &report.conflicts[0];
        assert_eq!((&conflict.id, conflict.ours), (&id("a"), Some(Digest::of(b"ours"))));
        assert!(conflict.theirs.is_some());
        let told = |event: &FallbackEvent| matches!(event, FallbackEvent::Conflict(told) if told == conflict);
        assert_eq!(events.lock().unwrap().iter().filter(|event| told(event)).count(), 1);
        assert_eq!(get(&rig.inside.0, "a").await, Ok("theirs".to_owned()));
        assert_eq!(get(&rig.inside.1, "a").await, Ok("ours".to_owned()));
        assert_eq!(get(&storage, "a").await, Ok("ours".to_owned()), "the last acknowledged write here");
        drop(storage);
        let storage = rig.open().await;
        assert_eq!(storage.conflicts(), report.conflicts, "after a restart");
        assert_eq!(storage.heal().await.conflicts.len(), 1);

        let keep = if role == Role::Spare { Keep::Ours } else { Keep::Theirs };
        storage.resolve(&id("a"), keep).await.unwrap();
        let expected = if keep == Keep::Ours { "ours" } else { "theirs" };
        assert_eq!(get(&storage, "a").await, Ok(expected.to_owned()));
        assert_eq!(get(&rig.inside.0, "a").await, Ok(expected.to_owned()));
        heal(&storage).await;
        assert_eq!(storage.resolve(&id("a"), keep).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
}

#[tokio::test]
async fn a_deletion_does_not_take_a_strangers_file_with_it() {
    let rig = Rig::new(Role::Spare);
    let storage = rig.open().await;
    put(&storage, "a", "base").await;
    rig.primary.set_outage(true);
    storage.delete(&id("a"), Precondition::None).await.unwrap();
    foreign(&rig.inside.0, "a", "theirs");
    rig.primary.set_outage(false);
    let report = storage.heal().await;
    assert_eq!((report.conflicts.len(), report.conflicts[0].ours), (1, None));
    assert_eq!(get(&rig.inside.0, "a").await, Ok("theirs".to_owned()));
    assert_eq!(get(&storage, "a").await, Err(ErrorKind::NotFound));
    storage.resolve(&id("a"), Keep::Theirs).await.unwrap();
    assert_eq!(get(&storage, "a").await, Ok("theirs".to_owned()));
}

#[tokio::test]
async fn a_strangers_write_in_the_middle_of_a_heal_is_not_lost() {
    for known in [true, false] {
        for deletion in [true, false] {
            let rig = Rig::new(Role::Spare).with(|config| config.with_clock_margin(Duration::ZERO));
            let storage = rig.open().await;
            put(&storage, "a", "base").await;
            drop(storage);
            let storage = rig.open().await;
            if known {
                storage.metadata(&id("a")).await.unwrap();
            }
            rig.primary.set_outage(true);
            if deletion {
                storage.delete(&id("a"), Precondition::None).await.unwrap();
            } else {
                put(&storage, "a", "ours").await;
            }
            rig.primary.set_outage(false);
            // After the look at the primary, before the write to it: only a precondition can see that.
            let (there, op) = (rig.inside.0.clone(), if deletion { Op::Delete } else { Op::Upload });
            rig.primary.before_next(op, move || foreign(&there, "a", "theirs"));
            let report = storage.heal().await;
            assert_eq!(report.conflicts.len(), 1, "known {known}, deletion {deletion}: {report:?}");
            assert_eq!(get(&rig.inside.0, "a").await, Ok("theirs".to_owned()));
        }
    }
}

#[tokio::test]
async fn our_own_write_whose_answer_was_lost_is_no_conflict() {
    for role in [Role::Spare, Role::Replica] {
        let rig = Rig::new(role);
        let storage = rig.open().await;
        put(&storage, "a", "base").await;
        // The first lands unseen, the second replaces it in the journal.
        rig.primary.fail_next(Op::Upload, Fault::After(ErrorKind::Timeout));
        put(&storage, "a", "first").await;
        assert_eq!(get(&rig.inside.0, "a").await, Ok("first".to_owned()));
        rig.primary.set_outage(true);
        put(&storage, "a", "second").await;
        rig.primary.set_outage(false);
        // And the heal's own answer is lost as well.
        rig.primary.fail_next(Op::Upload, Fault::After(ErrorKind::Timeout));
        let report = storage.heal().await;
        assert!(report.stopped.is_some() && report.left == 1, "{report:?}");
        assert_eq!(get(&storage, "a").await, Ok("second".to_owned()));
        heal(&storage).await;
        assert_eq!(get(&rig.inside.0, "a").await, Ok("second".to_owned()));
        // A deletion likewise.
        rig.primary.fail_next(Op::Delete, Fault::After(ErrorKind::Timeout));
        assert!(storage.delete(&id("a"), Precondition::None).await.unwrap());
        heal(&storage).await;
        assert_eq!(get(&storage, "a").await, Err(ErrorKind::NotFound));
    }
}

#[tokio::test]
async fn bytes_that_are_not_those_of_the_journal_are_not_brought_over() {
    let rig = Rig::new(Role::Spare);
    let storage = rig.open().await;
    put(&storage, "a", "base").await;
    rig.primary.set_outage(true);
    put(&storage, "a", "ours").await;
    assert!(rig.inside.1.corrupt(&id("a")));
    rig.primary.set_outage(false);
    let report = storage.heal().await;
    assert_eq!((report.failed.len(), report.left), (1, 1));
    assert_eq!(report.failed[0].1.kind(), ErrorKind::Integrity);
    assert_eq!(get(&rig.inside.0, "a").await, Ok("base".to_owned()));
}

#[tokio::test]
async fn a_new_write_ends_a_conflict() {
    let (rig, storage) = in_conflict().await;
    put(&storage, "a", "newest").await;
    assert_eq!(storage.conflicts(), []);
    heal(&storage).await;
    assert_eq!(get(&rig.inside.0, "a").await, Ok("newest".to_owned()));
    assert_eq!(names(&rig.inside.1).await.0, [""; 0]);
}

#[tokio::test]
async fn a_file_can_take_the_place_of_a_directory_that_was_deleted_in_the_outage() {
    let rig = Rig::new(Role::Spare);
    let storage = rig.open().await;
    put(&storage, "z/b", "one").await;
    put(&storage, "a", "one").await;
    rig.primary.set_outage(true);
    storage.delete(&id("z/b"), Precondition::None).await.unwrap();
    storage.delete(&id("a"), Precondition::None).await.unwrap();
    put(&storage, "z", "two").await;
    put(&storage, "a/b", "two").await;
    rig.primary.set_outage(false);
    // On a file system the deletions must come first, whatever the order of the names.
    heal(&storage).await;
    assert_eq!(names(&rig.inside.0).await.0, ["a/b", "z"]);
    let uploads = rig.primary.calls(Op::Upload);
    assert_eq!((uploads, rig.primary.calls(Op::Delete)), (6, 4));
}

#[tokio::test]
async fn a_replica_that_was_out_is_brought_up_to_date_and_not_read_until_then() {
    let rig = Rig::new(Role::Replica);
    let storage = rig.open().await;
    put(&storage, "a", "old").await;
    put(&storage, "b", "old").await;
    put(&storage, "c", "old").await;
    rig.secondary.set_outage(true);
    storage.upload(&id("a"), Bytes::from("new").into(), attributes()).await.unwrap();
    storage.delete(&id("b"), Precondition::None).await.unwrap();
    storage.copy(&id("a"), &id("c"), UploadOptions::default()).await.unwrap();
    rig.secondary.set_outage(false);
    assert_eq!(storage.pending().stale, 3);
    rig.primary.set_outage(true);
    for name in ["a", "b", "c"] {
        assert_eq!(get(&storage, name).await, Err(ErrorKind::Unavailable), "{name}");
    }
    rig.primary.set_outage(false);
    drop(storage);
    let storage = rig.open().await;
    heal(&storage).await;
    rig.primary.set_outage(true);
    assert_eq!(get(&storage, "a").await, Ok("new".to_owned()));
    assert_eq!(get(&storage, "b").await, Err(ErrorKind::NotFound));
    assert_eq!(storage.metadata(&id("c")).await.unwrap().tags, attributes().tags);
}

#[tokio::test]
async fn a_file_healed_during_a_listing_is_in_it() {
    let rig = Rig::new(Role::Spare);
    let storage = rig.open().await;
    rig.primary.set_outage(true);
    put(&storage, "m", "one").await;
    rig.primary.set_outage(false);
    for name in ["a", "z"] {
        put(&storage, name, "one").await;
    }
    let mut listing = storage.list(&storage_core::Prefix::all(), Default::default());
    let first = futures::TryStreamExt::try_next(&mut listing).await.unwrap().unwrap();
    assert_eq!(first.id, id("a"));
    // The primary's page was read before, and the journal forgets the file now.
    heal(&storage).await;
    let rest: Vec<_> = futures::TryStreamExt::try_collect(listing).await.unwrap();
    assert_eq!(rest.iter().map(|file| file.id.as_str()).collect::<Vec<_>>(), ["m", "z"]);
}

/// Of a file that the secondary alone has, an upload that the caller gave up, or whose answer was lost, must not take
/// the only copy.
#[tokio::test]
async fn a_write_that_came_to_nothing_takes_no_file_of_the_secondary_with_it() {
    for fault in [Fault::Never, Fault::After(ErrorKind::Timeout), Fault::Before(ErrorKind::Timeout)] {
        let read = ReadPolicy::default().with_miss(OnMiss::Secondary);
        let rig = Rig::new(Role::Replica).with(|config| config.with_read(read).with_write(OnOutage::Fail));
        let storage = rig.open().await;
        foreign(&rig.inside.1, "x", "only");
        rig.primary.fail_next(Op::Upload, fault);
        let name = id("x");
        let upload = storage.upload_bytes(&name, Bytes::from("new"));
        let ended = tokio::time::timeout(Duration::from_millis(100), upload).await;
        assert_eq!(ended.is_err(), fault == Fault::Never);
        let there = if fault == Fault::After(ErrorKind::Timeout) { "new" } else { "only" };
        assert_eq!(get(&storage, "x").await, Ok(there.to_owned()), "{fault:?}, before the heal");
        heal(&storage).await;
        assert_eq!(get(&storage, "x").await, Ok(there.to_owned()), "{fault:?}");
        assert_eq!(get(&rig.inside.1, "x").await, Ok(there.to_owned()), "{fault:?}");
    }
}

#[tokio::test]
async fn a_copy_that_an_acknowledged_write_has_passed_does_not_come_back() {
    let read = ReadPolicy::default().with_miss(OnMiss::Secondary);
    let rig = Rig::new(Role::Replica).with(|config| config.with_read(read));
    let storage = rig.open().await;
    foreign(&rig.inside.1, "x", "older");
    rig.secondary.set_outage(true);
    put(&storage, "x", "newer").await;
    rig.secondary.set_outage(false);
    assert!(rig.inside.0.delete(&id("x"), Precondition::None).await.unwrap());
    assert_eq!(get(&storage, "x").await, Err(ErrorKind::NotFound));
    heal(&storage).await;
    assert_eq!(get(&storage, "x").await, Err(ErrorKind::NotFound));
}

/// A caller who names our file has not seen theirs.
#[tokio::test]
async fn a_write_with_a_precondition_leaves_a_conflict() {
    for deletion in [false, true] {
        let (rig, storage) = in_conflict().await;
        let version = storage.metadata(&id("a")).await.unwrap().version.unwrap();
        if deletion {
            storage.delete(&id("a"), Precondition::Version(version)).await.unwrap();
            assert_eq!(storage.conflicts()[0].ours, None);
            assert_eq!(storage.heal().await.conflicts.len(), 1);
            assert_eq!(get(&storage, "a").await, Err(ErrorKind::NotFound));
        }
        let when = if deletion {
            Precondition::Absent
        } else {
            Precondition::Version(version_of(&storage, "a").await)
        };
        let options = UploadOptions::default().with_when(when);
        storage.upload(&id("a"), Bytes::from("newest").into(), options).await.unwrap();
        assert_eq!(storage.conflicts()[0].ours, Some(Digest::of(b"newest")));
        drop(storage);
        let storage = rig.open().await;
        assert_eq!(storage.heal().await.conflicts.len(), 1, "deletion {deletion}");
        assert_eq!(get(&rig.inside.0, "a").await, Ok("theirs".to_owned()));
        assert_eq!(get(&storage, "a").await, Ok("newest".to_owned()));
        storage.resolve(&id("a"), Keep::Ours).await.unwrap();
        assert_eq!(get(&rig.inside.0, "a").await, Ok("newest".to_owned()));
    }
}

async fn version_of(storage: &FallbackStorage, name: &str) -> storage_core::metadata::Version {
    storage.metadata(&id(name)).await.unwrap().version.unwrap()
}

/// To keep theirs is to give ours up, and what was looked at may be gone.
#[tokio::test]
async fn ours_is_not_given_up_for_a_file_that_is_no_more() {
    let (rig, storage) = in_conflict().await;
    foreign(&rig.inside.0, "a", "another");
    let error = storage.resolve(&id("a"), Keep::Theirs).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::VersionMismatch, "{error}");
    assert!(rig.inside.0.delete(&id("a"), Precondition::None).await.unwrap());
    let error = storage.resolve(&id("a"), Keep::Theirs).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::VersionMismatch, "{error}");
    assert_eq!(get(&storage, "a").await, Ok("ours".to_owned()));
    assert_eq!(storage.conflicts()[0].theirs, None);
    // Now that it was told, there is nothing more to be seen.
    storage.resolve(&id("a"), Keep::Theirs).await.unwrap();
    assert_eq!(get(&storage, "a").await, Err(ErrorKind::NotFound));
}

/// The secondary may hold what nobody here wrote there: an old write that came late, a restored backup.
#[tokio::test]
async fn another_file_is_not_served_for_the_one_that_the_journal_names() {
    let rig = Rig::new(Role::Spare);
    let storage = rig.open().await;
    rig.primary.set_outage(true);
    put(&storage, "a", "ours").await;
    foreign(&rig.inside.1, "a", "late");
    assert_eq!(get(&storage, "a").await, Err(ErrorKind::Integrity));
    let error = storage.metadata(&id("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
}
