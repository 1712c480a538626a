//! What is promised in an outage, what is refused, and how that is told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use storage_core::error::{Effect, ErrorKind, Op};
use storage_core::layer::breaker::{BreakerConfig, State};
use storage_core::layer::fallback::FallbackStorage;
use storage_core::layer::fallback::config::{FallbackConfig, ListPolicy, OnMiss, OnOutage, ReadPolicy, Role};
use storage_core::layer::metered::names;
use storage_core::storage::{FileStorage, Precondition, PresignRequest, ResumableUpload, UploadOptions};
use storage_core::testkit::flaky::Fault;

use crate::{Rig, get, heal, id, put};

fn absent() -> UploadOptions {
    UploadOptions::default().with_when(Precondition::Absent)
}

#[tokio::test]
async fn both_sides_down_is_one_error_that_names_both() {
    for role in [Role::Spare, Role::Replica] {
        let rig = Rig::new(role);
        let storage = rig.open().await;
        rig.primary.set_outage(true);
        rig.secondary.set_outage(true);
        let error =
            storage.upload(&id("a"), Bytes::from("x").into(), UploadOptions::default()).await.unwrap_err();
        let told = error.to_string();
        assert_eq!(
            (error.kind(), error.effect(), error.is_outage()),
            (ErrorKind::Unavailable, Effect::None, true)
        );
        for part in ["upload", "\"a\"", "on files", "on main", "on spare"] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let error = storage.probe(Duration::from_secs(1)).await.unwrap_err().to_string();
        assert!(error.contains("on main") && error.contains("on spare"), "{error}");
        let error = storage.download(&id("a"), Default::default()).await.unwrap_err().to_string();
        assert!(error.contains("main") && error.contains("spare"), "{error}");
        assert_eq!(storage.pending().open, 0, "nothing was begun");
    }
}

#[tokio::test]
async fn what_a_lost_answer_may_have_done_is_said() {
    let rig = Rig::new(Role::Spare);
    let storage = rig.open().await;
    rig.secondary.set_outage(true);
    rig.primary.fail_next(Op::Upload, Fault::After(ErrorKind::Timeout));
    let error =
        storage.upload(&id("a"), Bytes::from("x").into(), UploadOptions::default()).await.unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown);
    rig.secondary.set_outage(false);
    rig.primary.set_outage(true);
    rig.secondary.fail_next(Op::Upload, Fault::After(ErrorKind::Timeout));
    let error =
        storage.upload(&id("b"), Bytes::from("x").into(), UploadOptions::default()).await.unwrap_err();
    assert_eq!((error.effect(), storage.pending().open), (Effect::Unknown, 1));
    // It did happen: metadata and digest say so, and the heal makes it count.
    rig.primary.set_outage(false);
    heal(&storage).await;
    assert_eq!(get(&rig.inside.0, "b").await, Ok("x".to_owned()));
}

#[tokio::test]
async fn a_write_that_did_not_reach_the_secondary_comes_to_nothing() {
    let rig = Rig::new(Role::Spare);
    let storage = rig.open().await;
    put(&storage, "a", "old").await;
    rig.primary.set_outage(true);
    rig.secondary.fail_next(Op::Upload, Fault::Never);
    let name = id("a");
    let upload = storage.upload(&name, Bytes::from("new").into(), UploadOptions::default());
    let mut upload = Box::pin(upload);
    while storage.pending().open == 0 {
        assert!(futures::poll!(&mut upload).is_pending());
        tokio::task::yield_now().await;
    }
    drop(upload);
    drop(storage);
    let storage = rig.open().await;
    assert_eq!(storage.pending().open, 1);
    rig.primary.set_outage(false);
    assert_eq!(get(&storage, "a").await, Ok("old".to_owned()));
    heal(&storage).await;
    assert_eq!(get(&storage, "a").await, Ok("old".to_owned()));
}

#[tokio::test]
async fn a_lost_write_does_not_outlive_the_deletion_that_follows() {
    // Found by the model: the second deletion was answered with "nothing to delete", and then the write counted.
    let rig = Rig::new(Role::Spare);
    let storage = rig.open().await;
    rig.primary.set_outage(true);
    storage.delete(&id("a"), Precondition::None).await.unwrap();
    rig.secondary.fail_next(Op::Upload, Fault::After(ErrorKind::Timeout));
    let upload = storage.upload(&id("a"), Bytes::from("x").into(), UploadOptions::default()).await;
    assert_eq!(upload.unwrap_err().effect(), Effect::Unknown);
    rig.secondary.set_outage(true);
    storage.delete(&id("a"), Precondition::None).await.unwrap();
    rig.primary.set_outage(false);
    rig.secondary.set_outage(false);
    heal(&storage).await;
    assert_eq!(get(&storage, "a").await, Err(ErrorKind::NotFound));
    assert_eq!(get(&rig.inside.1, "a").await, Err(ErrorKind::NotFound));
}

#[tokio::test]
async fn a_lost_write_does_not_outlive_the_write_that_follows() {
    // Found by the model: the replica's copy of the lost write was brought over the acknowledged one.
    for role in [Role::Spare, Role::Replica] {
        let rig = Rig::new(role);
        let storage = rig.open().await;
        rig.primary.fail_next(Op::Upload, Fault::After(ErrorKind::Timeout));
        rig.secondary.fail_next(Op::Upload, Fault::After(ErrorKind::Timeout));
        let upload = storage.upload(&id("a"), Bytes::from("lost").into(), UploadOptions::default()).await;
        assert_eq!(upload.unwrap_err().effect(), Effect::Unknown);
        rig.secondary.set_outage(true);
        put(&storage, "a", "acknowledged").await;
        rig.secondary.set_outage(false);
        heal(&storage).await;
        assert_eq!(get(&storage, "a").await, Ok("acknowledged".to_owned()));
        assert_eq!(get(&rig.inside.0, "a").await, Ok("acknowledged".to_owned()));
    }
}

#[tokio::test]
async fn a_precondition_that_nobody_can_check_is_refused_and_not_guessed() {
    let rig = Rig::new(Role::Spare);
    let storage = rig.open().await;
    put(&storage, "a", "one").await;
    let version = storage.metadata(&id("a")).await.unwrap().version.unwrap();
    rig.primary.set_outage(true);
    let body = || Bytes::from("two").into();
    let when = UploadOptions::default().with_when(Precondition::Version(version.clone()));
    for options in [absent(), when] {
        let error = storage.upload(&id("a"), body(), options).await.unwrap_err();
        assert!(error.is_outage() && error.to_string().contains("precondition"), "{error}");
    }
    let error = storage.delete(&id("a"), Precondition::Version(version)).await.unwrap_err();
    assert!(error.is_outage(), "{error}");
    assert_eq!(storage.pending().files, 0);

    // What the journal knows can be checked.
    let receipt = storage.upload(&id("a"), body(), UploadOptions::default()).await.unwrap();
    let kind = storage.upload(&id("a"), body(), absent()).await.unwrap_err().kind();
    assert_eq!(kind, ErrorKind::AlreadyExists);
    let version = Precondition::Version(receipt.metadata.version.unwrap());
    let options = UploadOptions::default().with_when(version.clone());
    storage.upload(&id("a"), body(), options.clone()).await.unwrap();
    let kind = storage.upload(&id("a"), body(), options).await.unwrap_err().kind();
    assert_eq!(kind, ErrorKind::VersionMismatch);
    assert_eq!(storage.delete(&id("a"), version).await.unwrap_err().kind(), ErrorKind::VersionMismatch);
    assert!(storage.delete(&id("a"), Precondition::None).await.unwrap());
    assert!(!storage.delete(&id("a"), Precondition::None).await.unwrap());
    storage.upload(&id("a"), body(), absent()).await.unwrap();
}

#[tokio::test]
async fn versions_of_the_two_sides_are_never_taken_for_each_other() {
    let rig = Rig::new(Role::Spare);
    let storage = rig.open().await;
    // Both storages in memory count from 1.
    put(&storage, "a", "one").await;
    let ours = storage.metadata(&id("a")).await.unwrap().version.unwrap();
    rig.primary.set_outage(true);
    put(&storage, "a", "two").await;
    let theirs = storage.metadata(&id("a")).await.unwrap().version.unwrap();
    assert_ne!(ours, theirs);
    let options = UploadOptions::default().with_when(Precondition::Version(ours));
    let error = storage.upload(&id("a"), Bytes::from("x").into(), options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::VersionMismatch);
    rig.primary.set_outage(false);
    heal(&storage).await;
    let when = Precondition::Version(theirs);
    let options = UploadOptions::default().with_when(when.clone());
    let error = storage.upload(&id("a"), Bytes::from("x").into(), options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::VersionMismatch);
    assert_eq!(storage.delete(&id("a"), when).await.unwrap_err().kind(), ErrorKind::VersionMismatch);
}

#[tokio::test]
async fn policies_that_say_fail_fail() {
    let rig = Rig::new(Role::Replica).with(|config| {
        config
            .with_read(ReadPolicy::default().with_outage(OnOutage::Fail))
            .with_write(OnOutage::Fail)
            .with_delete(OnOutage::Fail)
            .with_list(ListPolicy::default().with_outage(OnOutage::Fail))
    });
    let storage = rig.open().await;
    put(&storage, "a", "one").await;
    rig.primary.set_outage(true);
    assert_eq!(get(&storage, "a").await, Err(ErrorKind::Unavailable));
    assert!(storage.upload(&id("a"), Bytes::from("x").into(), Default::default()).await.is_err());
    assert!(storage.delete(&id("a"), Precondition::None).await.is_err());
    assert!(storage.copy(&id("a"), &id("b"), Default::default()).await.is_err());
    assert!(storage.probe(Duration::from_secs(1)).await.is_err());
    assert_eq!(crate::names(&storage).await, (vec![], Some(ErrorKind::Unavailable)));
    assert_eq!(get(&rig.inside.1, "a").await, Ok("one".to_owned()));
    let pending = storage.pending();
    assert_eq!((pending.files, pending.tombstones, pending.stale, pending.open), (0, 0, 0, 0));
}

#[tokio::test]
async fn a_spare_with_a_policy_for_misses_is_refused() {
    let policy = ReadPolicy::default().with_miss(OnMiss::Secondary);
    let rig = Rig::new(Role::Spare).with(|config| config.with_read(policy));
    let error = rig.try_open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    assert!(error.to_string().contains("replica"), "{error}");
}

#[tokio::test]
async fn the_journal_does_not_grow_without_bound() {
    let rig = Rig::new(Role::Spare).with(|config| config.with_max_journalled(2));
    let storage = rig.open().await;
    rig.primary.set_outage(true);
    put(&storage, "a", "1").await;
    put(&storage, "b", "1").await;
    let error = storage.upload(&id("c"), Bytes::from("x").into(), Default::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert!(error.to_string().contains("max_journalled"), "{error}");
    let error = storage.delete(&id("c"), Precondition::None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    put(&storage, "a", "2").await;
    storage.delete(&id("b"), Precondition::None).await.unwrap();
}

#[tokio::test]
async fn a_dropped_probe_counts_as_failed_and_the_next_one_closes_the_circuit() {
    let first = Duration::from_millis(20);
    let breaker = BreakerConfig::default().with_threshold(1, 0.0).with_open_for(first, first);
    let rig = Rig::new(Role::Spare).with(|config| config.with_breaker(breaker));
    let storage = rig.open().await;
    rig.primary.set_outage(true);
    assert!(storage.metadata(&id("a")).await.is_err());
    assert_eq!(storage.circuits().0, State::Open);
    rig.primary.set_outage(false);
    let half_open = async || {
        while storage.circuits().0 != State::HalfOpen {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    half_open().await;
    rig.primary.fail_next(Op::Metadata, Fault::Never);
    let name = id("a");
    let mut hanging = Box::pin(storage.metadata(&name));
    assert!(futures::poll!(&mut hanging).is_pending());
    let asked = rig.primary.calls(Op::Metadata);
    let refused = storage.metadata(&id("a")).await.unwrap_err();
    assert!(refused.to_string().contains("left alone"), "{refused}");
    assert_eq!(rig.primary.calls(Op::Metadata), asked, "one probe at a time");
    drop(hanging);
    assert_eq!(storage.circuits().0, State::Open);
    half_open().await;
    assert_eq!(storage.metadata(&id("a")).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(storage.circuits().0, State::Closed, "an answer is an answer");
}

#[tokio::test]
async fn parts_and_urls_have_policies_of_their_own() {
    let rig = Rig::new(Role::Spare);
    let storage = rig.open().await;
    let parts: &dyn ResumableUpload = storage.resumable().unwrap();
    let ticket = parts.begin(&id("a"), 5 << 20, UploadOptions::default()).await.unwrap();
    let bytes = Bytes::from("in parts");
    let digest = storage_core::Digest::of(&bytes);
    let part = parts.put_part(&ticket, std::num::NonZeroU32::MIN, bytes, digest).await.unwrap();
    rig.primary.set_outage(true);
    assert!(
        parts.finish(&ticket, std::slice::from_ref(&part), Default::default()).await.unwrap_err().is_outage()
    );
    assert!(parts.begin(&id("b"), 5 << 20, UploadOptions::default()).await.unwrap_err().is_outage());
    // A whole upload of the same id in between is the older one when the parts are finished.
    put(&storage, "a", "whole").await;
    let get_url = PresignRequest::get(Duration::from_secs(60));
    let put_url = PresignRequest::put(Duration::from_secs(60));
    assert_eq!(storage.presigned_url(&id("a"), put_url).await.unwrap_err().kind(), ErrorKind::Unsupported);
    storage.delete(&id("c"), Precondition::None).await.unwrap();
    assert_eq!(storage.presigned_url(&id("c"), get_url).await.unwrap_err().kind(), ErrorKind::NotFound);
    rig.primary.set_outage(false);
    parts.finish(&ticket, &[part], Default::default()).await.unwrap();
    assert_eq!(get(&storage, "a").await, Ok("in parts".to_owned()));
    heal(&storage).await;
    assert_eq!(get(&rig.inside.0, "a").await, Ok("in parts".to_owned()));
}

#[test]
fn what_happens_is_counted() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let breaker = BreakerConfig::default().with_threshold(2, 0.0);
            let rig = Rig::new(Role::Spare).with(|config| config.with_breaker(breaker));
            let storage = rig.open().await;
            put(&storage, "b", "one").await;
            rig.primary.fail_next(Op::Upload, Fault::Before(ErrorKind::Timeout));
            put(&storage, "a", "one").await;
            get(&storage, "a").await.unwrap();
            rig.inside.0.upload(&id("b"), Bytes::from("theirs").into(), Default::default()).await.unwrap();
            rig.primary.fail_next(Op::Upload, Fault::Before(ErrorKind::Timeout));
            put(&storage, "b", "two").await;
            drop(storage);
            let other = FallbackStorage::open(
                Arc::new(rig.primary.clone()),
                Arc::new(rig.secondary.clone()),
                rig.config.clone(),
            );
            let other = other.await.unwrap();
            // It stands until somebody ends it, and began once.
            for _ in 0..3 {
                assert_eq!(other.heal().await.conflicts.len(), 1);
            }
        });
    });
    let series: BTreeMap<String, f64> = snapshotter
        .snapshot()
        .into_vec()
        .into_iter()
        .map(|(key, _, _, value)| {
            let labels: Vec<_> = key.key().labels().map(|label| label.value().to_owned()).collect();
            let value = match value {
                DebugValue::Counter(count) => count as f64,
                DebugValue::Gauge(value) => value.into_inner(),
                DebugValue::Histogram(values) => values.len() as f64,
            };
            (format!("{} {}", key.key().name(), labels.join(" ")), value)
        })
        .collect();
    for (name, labels, value) in [
        (names::FALLBACKS, "files upload outage", 2.0),
        (names::FALLBACKS, "files download journal", 1.0),
        (names::HEALS, "files healed", 1.0),
        (names::HEALS, "files conflict", 1.0),
        (names::JOURNAL, "files conflict", 1.0),
        (names::JOURNAL, "files file", 1.0),
        // A new handle begins with a closed breaker.
        (names::CIRCUIT, "main", 0.0),
        (names::CIRCUIT, "spare", 0.0),
    ] {
        assert_eq!(series.get(&format!("{name} {labels}")), Some(&value), "{name} {labels}: {series:#?}");
    }
}

/// By the effect the caller decides whether to look before it repeats: a journal that fails must not hide that a side
/// may have the file.
#[tokio::test]
async fn a_journal_that_fails_beside_a_write_does_not_hide_that_it_may_have_taken_place() {
    type Held = Arc<Mutex<Option<rusqlite::Connection>>>;
    let rig = Rig::new(Role::Spare);
    let path = rig.directory.path().join("journal");
    // Another tool holds the database: no commit goes through.
    let hold = |held: &Held| {
        let (held, path) = (Arc::clone(held), path.clone());
        move || {
            let connection = rusqlite::Connection::open(path).unwrap();
            connection.execute_batch("BEGIN IMMEDIATE").unwrap();
            *held.lock().unwrap() = Some(connection);
        }
    };
    let held = Held::default();
    let storage = rig.open().await;
    let write = async |name: &str| {
        let error = storage.upload(&id(name), Bytes::from("x").into(), Default::default()).await.unwrap_err();
        assert!(error.to_string().contains("journal"), "{error}");
        assert!(held.lock().unwrap().take().is_some());
        error.effect()
    };
    put(&storage, "lost", "old").await;
    rig.primary.fail_next(Op::Upload, Fault::After(ErrorKind::Timeout));
    hold(&held)();
    assert_eq!(write("lost").await, Effect::Unknown, "the primary has it, and the intent cannot be written");

    rig.primary.set_outage(true);
    rig.secondary.before_next(Op::Upload, hold(&held));
    assert_eq!(
        write("degraded").await,
        Effect::Unknown,
        "the secondary has it, and the row cannot be written"
    );

    put(&storage, "over", "old").await;
    rig.primary.set_outage(false);
    rig.primary.before_next(Op::Upload, hold(&held));
    assert_eq!(write("over").await, Effect::Unknown, "the primary has it, and the row still says otherwise");

    hold(&held)();
    rig.primary.set_outage(true);
    assert_eq!(write("nowhere").await, Effect::None);
}

#[tokio::test]
async fn a_deletion_that_a_full_journal_refuses_leaves_the_replica_readable() {
    let rig = Rig::new(Role::Replica).with(|config| config.with_max_journalled(2));
    let storage = rig.open().await;
    for name in ["a", "b", "c"] {
        put(&storage, name, "one").await;
    }
    rig.primary.set_outage(true);
    put(&storage, "b", "two").await;
    put(&storage, "c", "two").await;
    let error = storage.delete(&id("a"), Precondition::None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    assert_eq!(get(&storage, "a").await, Ok("one".to_owned()));
    assert_eq!((storage.pending().files, storage.pending().stale), (2, 0));
}

#[tokio::test]
async fn a_deletion_in_an_outage_takes_the_room_of_one_row() {
    let rig = Rig::new(Role::Replica).with(|config| config.with_max_journalled(2));
    let storage = rig.open().await;
    put(&storage, "a", "one").await;
    put(&storage, "b", "one").await;
    rig.primary.set_outage(true);
    for name in ["a", "b"] {
        assert!(storage.delete(&id(name), Precondition::None).await.unwrap());
    }
    assert_eq!(storage.pending().tombstones, 2);
}

#[tokio::test]
async fn a_deletion_by_the_replicas_version_follows_the_policy_and_the_bound() {
    type Change = fn(FallbackConfig) -> FallbackConfig;
    let cases: [(Change, ErrorKind); 2] = [
        (|config| config.with_delete(OnOutage::Fail), ErrorKind::Unavailable),
        (|config| config.with_max_journalled(1), ErrorKind::StorageFull),
    ];
    for (change, kind) in cases {
        let rig = Rig::new(Role::Replica).with(change);
        let storage = rig.open().await;
        put(&storage, "a", "one").await;
        put(&storage, "b", "one").await;
        rig.primary.set_outage(true);
        put(&storage, "b", "two").await;
        let version = storage.metadata(&id("a")).await.unwrap().version.unwrap();
        let error = storage.delete(&id("a"), Precondition::Version(version)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(get(&storage, "a").await, Ok("one".to_owned()));
    }
}
