//! What has already gone wrong for others, each as a test.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use storage_core::body::Body;
use storage_core::checksum::Digest;
use storage_core::error::{ErrorKind, Op};
use storage_core::layer::breaker::{BreakerConfig, State};
use storage_core::layer::fallback::FallbackStorage;
use storage_core::layer::fallback::config::{ListPolicy, OnMiss, OnOutage, ReadPolicy, Role};
use storage_core::layer::fallback::event::FallbackEvent;
use storage_core::layer::timeout::TimeoutConfig;
use storage_core::storage::{FileStorage, FileStorageExt, Precondition, UploadOptions};
use storage_core::testkit::flaky::Fault;

use crate::{Rig, attributes, get, heal, id, names, put};

#[tokio::test]
async fn a_primary_that_is_down_does_not_take_not_founds_place_or_the_reverse() {
    let rig = Rig::new(Role::Spare);
    let storage = rig.open().await;
    // Answers of the primary stay answers.
    put(&rig.inside.1, "a", "left over").await;
    assert_eq!(get(&storage, "a").await, Err(ErrorKind::NotFound));
    rig.primary.fail_next(Op::Download, Fault::Before(ErrorKind::Denied));
    assert_eq!(get(&storage, "a").await, Err(ErrorKind::Denied));
    assert_eq!(rig.secondary.calls(Op::Download), 0, "neither a miss nor a refusal falls back");
    // What nobody can know is not "not found".
    rig.primary.set_outage(true);
    assert_eq!(get(&storage, "a").await, Err(ErrorKind::Unavailable));
    assert_eq!(storage.metadata(&id("b")).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(storage.exists(&id("b")).await.is_err());
}

#[tokio::test]
async fn miss_and_outage_are_two_policies() {
    for (miss, outage) in [
        (OnMiss::Fail, OnOutage::Fail),
        (OnMiss::Fail, OnOutage::Secondary),
        (OnMiss::Secondary, OnOutage::Fail),
        (OnMiss::Secondary, OnOutage::Secondary),
    ] {
        let policy = ReadPolicy::default().with_miss(miss).with_outage(outage);
        let rig = Rig::new(Role::Replica).with(|config| config.with_read(policy));
        let storage = rig.open().await;
        put(&rig.inside.1, "a", "of the secondary").await;
        let there = Ok("of the secondary".to_owned());
        let expected = if miss == OnMiss::Secondary { there.clone() } else { Err(ErrorKind::NotFound) };
        assert_eq!(get(&storage, "a").await, expected, "miss: {miss:?} {outage:?}");
        rig.primary.set_outage(true);
        let expected = if outage == OnOutage::Secondary { there } else { Err(ErrorKind::Unavailable) };
        assert_eq!(get(&storage, "a").await, expected, "outage: {miss:?} {outage:?}");
    }
}

#[tokio::test]
async fn a_miss_with_the_secondary_out_is_not_a_not_found() {
    let policy = ReadPolicy::default().with_miss(OnMiss::Secondary);
    let rig = Rig::new(Role::Replica).with(|config| config.with_read(policy));
    let storage = rig.open().await;
    rig.secondary.set_outage(true);
    assert_eq!(get(&storage, "a").await, Err(ErrorKind::Unavailable));
}

#[tokio::test]
async fn a_deleted_file_does_not_come_back_from_the_other_side() {
    let policy = ReadPolicy::default().with_miss(OnMiss::Promote);
    let both = ListPolicy::default().with_both_sides(true);
    for (primary_out, secondary_out) in [(true, false), (false, true), (true, true)] {
        let rig = Rig::new(Role::Replica).with(|config| config.with_read(policy).with_list(both));
        let storage = rig.open().await;
        put(&storage, "a", "one").await;
        rig.primary.set_outage(primary_out);
        rig.secondary.set_outage(secondary_out);
        assert!(storage.delete(&id("a"), Precondition::None).await.unwrap());
        // Neither in the outage, nor when the sides return one by one, nor after a restart.
        assert_eq!(get(&storage, "a").await, Err(ErrorKind::NotFound));
        drop(storage);
        let storage = rig.open().await;
        rig.secondary.set_outage(false);
        assert_eq!(get(&storage, "a").await, Err(ErrorKind::NotFound));
        rig.primary.set_outage(false);
        assert_eq!(get(&storage, "a").await, Err(ErrorKind::NotFound));
        assert_eq!(names(&storage).await, (vec![], None));
        heal(&storage).await;
        assert_eq!(get(&rig.inside.0, "a").await, Err(ErrorKind::NotFound));
        assert_eq!(get(&rig.inside.1, "a").await, Err(ErrorKind::NotFound));
        assert_eq!(names(&storage).await, (vec![], None));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_that_races_a_delete_brings_nothing_back() {
    let policy = ReadPolicy::default().with_miss(OnMiss::Promote);
    let rig = Rig::new(Role::Replica).with(|config| config.with_read(policy));
    let storage = rig.open().await;
    for round in 0..100 {
        put(&rig.inside.1, "a", "old").await;
        let (reader, deleter) = (storage.clone(), storage.clone());
        let read = tokio::spawn(async move { get(&reader, "a").await });
        let delete = tokio::spawn(async move { deleter.delete(&id("a"), Precondition::None).await });
        let (read, delete) = (read.await.unwrap(), delete.await.unwrap());
        delete.unwrap();
        assert!(read == Ok("old".to_owned()) || read == Err(ErrorKind::NotFound), "{read:?}");
        assert_eq!(get(&rig.inside.0, "a").await, Err(ErrorKind::NotFound), "round {round}");
        assert_eq!(get(&storage, "a").await, Err(ErrorKind::NotFound), "round {round}");
    }
}

#[tokio::test]
async fn a_promotion_never_replaces_what_is_there() {
    let policy = ReadPolicy::default().with_miss(OnMiss::Promote);
    let rig = Rig::new(Role::Replica).with(|config| config.with_read(policy));
    let storage = rig.open().await;
    rig.inside.1.upload(&id("a"), Bytes::from("old").into(), attributes()).await.unwrap();
    let other = rig.inside.0.clone();
    // Somebody else writes between the look and the upload.
    rig.primary.before_next(Op::Upload, move || {
        let options = UploadOptions::default();
        let write = async move { other.upload(&id("a"), Bytes::from("new").into(), options).await };
        futures::FutureExt::now_or_never(write).unwrap().unwrap();
    });
    assert_eq!(get(&storage, "a").await, Ok("old".to_owned()));
    assert_eq!(get(&storage, "a").await, Ok("new".to_owned()));
    // Undisturbed it promotes, with every attribute.
    rig.inside.0.delete(&id("a"), Precondition::None).await.unwrap();
    assert_eq!(get(&storage, "a").await, Ok("old".to_owned()));
    let promoted = rig.inside.0.metadata(&id("a")).await.unwrap();
    assert_eq!(promoted.tags, attributes().tags);
    assert_eq!(promoted.file_name, attributes().file_name);
}

#[tokio::test]
async fn a_degraded_write_does_not_stay_on_the_secondary_for_ever() {
    let rig = Rig::new(Role::Spare);
    let storage = rig.open().await;
    rig.primary.set_outage(true);
    put(&storage, "a", "one").await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let healer = storage.clone();
    let running = tokio::spawn(async move { healer.run(async { drop(stopped.await) }).await });
    rig.primary.set_outage(false);
    while storage.pending().files + storage.pending().stale > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.send(()).unwrap();
    running.await.unwrap();
    assert_eq!(get(&rig.inside.0, "a").await, Ok("one".to_owned()));
    assert_eq!(get(&rig.inside.1, "a").await, Err(ErrorKind::NotFound), "a spare keeps nothing");
}

#[tokio::test]
async fn the_older_copy_of_the_primary_does_not_win_on_its_return() {
    for role in [Role::Spare, Role::Replica] {
        let rig = Rig::new(role);
        let storage = rig.open().await;
        put(&storage, "a", "older").await;
        rig.primary.set_outage(true);
        put(&storage, "a", "newer").await;
        rig.primary.set_outage(false);
        assert_eq!(get(&storage, "a").await, Ok("newer".to_owned()));
        assert_eq!(storage.metadata(&id("a")).await.unwrap().digest, Some(Digest::of(b"newer")));
        // Nor while the side that has the newest is out.
        rig.secondary.set_outage(true);
        assert_eq!(get(&storage, "a").await, Err(ErrorKind::Unavailable));
        rig.secondary.set_outage(false);
        drop(storage);
        let storage = rig.open().await;
        assert_eq!(get(&storage, "a").await, Ok("newer".to_owned()));
        heal(&storage).await;
        assert_eq!(get(&rig.inside.0, "a").await, Ok("newer".to_owned()));
        assert_eq!(get(&storage, "a").await, Ok("newer".to_owned()));
    }
}

#[tokio::test]
async fn attributes_travel_with_the_bytes() {
    for role in [Role::Spare, Role::Replica] {
        let rig = Rig::new(role);
        let storage = rig.open().await;
        rig.primary.set_outage(true);
        storage.upload(&id("a"), Bytes::from("one").into(), attributes()).await.unwrap();
        storage.copy(&id("a"), &id("b"), UploadOptions::default().with_tag("a", "2")).await.unwrap();
        drop(storage);
        let storage = rig.open().await;
        rig.primary.set_outage(false);
        heal(&storage).await;
        for (name, tag) in [("a", "1"), ("b", "2")] {
            let there = rig.inside.0.metadata(&id(name)).await.unwrap();
            assert_eq!(there.content_type, attributes().content_type);
            assert_eq!(there.file_name, attributes().file_name);
            assert_eq!(there.created, attributes().created);
            assert_eq!(there.tags["a"], tag);
            assert_eq!(there.digest, Some(Digest::of(b"one")));
        }
        // A replica has them too, whoever wrote first.
        if role == Role::Replica {
            storage.upload(&id("c"), Bytes::from("two").into(), attributes()).await.unwrap();
            let copy = rig.inside.1.metadata(&id("c")).await.unwrap();
            assert_eq!((copy.tags, copy.created), (attributes().tags, attributes().created));
        }
    }
}

#[tokio::test]
async fn a_one_shot_stream_is_not_empty_on_the_second_try() {
    let rig = Rig::new(Role::Spare);
    let storage = rig.open().await;
    let pieces = stream::iter((0..100).map(|_| Ok(Bytes::from(vec![7; 100_000]))));
    let body = Body::spool(pieces, 1 << 20, None).await.unwrap();
    // The primary reads it all, and then its answer is lost.
    rig.primary.fail_next(Op::Upload, Fault::After(ErrorKind::Timeout));
    storage.upload(&id("a"), body, UploadOptions::default()).await.unwrap();
    assert_eq!(rig.inside.1.metadata(&id("a")).await.unwrap().size, 10_000_000);
    assert_eq!(storage.download_bytes(&id("a")).await.unwrap().len(), 10_000_000);
}

#[tokio::test]
async fn a_listing_shows_both_sides_in_order_without_what_was_deleted() {
    let rig = Rig::new(Role::Spare);
    let storage = rig.open().await;
    for name in ["b", "d", "f"] {
        put(&storage, name, "before").await;
    }
    rig.primary.set_outage(true);
    for name in ["a", "d", "e", "g"] {
        put(&storage, name, "during").await;
    }
    storage.delete(&id("b"), Precondition::None).await.unwrap();
    // A spare has not got what was written before: nobody may take this for everything.
    let during: Vec<_> = ["a", "d", "e", "g"].map(str::to_owned).into();
    assert_eq!(names(&storage).await, (during, Some(ErrorKind::Unavailable)));
    rig.primary.set_outage(false);
    let all: Vec<_> = ["a", "d", "e", "f", "g"].map(str::to_owned).into();
    assert_eq!(names(&storage).await, (all.clone(), None));
    heal(&storage).await;
    assert_eq!(names(&storage).await, (all.clone(), None));
    assert_eq!(names(&rig.inside.0).await, (all, None));
}

#[tokio::test]
async fn a_replica_lists_everything_in_an_outage_even_one_that_begins_half_way() {
    let rig = Rig::new(Role::Replica);
    let storage = rig.open().await;
    for name in ["a", "b", "c", "d"] {
        put(&storage, name, "before").await;
    }
    let all: Vec<_> = ["a", "b", "c", "d"].map(str::to_owned).into();
    for fault in [Fault::Broken(2), Fault::Before(ErrorKind::Timeout)] {
        rig.primary.fail_next(Op::List, fault);
        assert_eq!(names(&storage).await, (all.clone(), None), "{fault:?}");
    }
    // What it has missed is named, not shown as it was.
    rig.secondary.set_outage(true);
    put(&storage, "c", "after").await;
    rig.secondary.set_outage(false);
    rig.primary.set_outage(true);
    let listing = storage.list(&storage_core::Prefix::all(), Default::default());
    let items: Vec<_> = futures::StreamExt::collect::<Vec<_>>(listing).await;
    assert_eq!(items.len(), 4);
    assert_eq!(items[2].as_ref().unwrap_err().id(), Some(&id("c")));
    assert_eq!(get(&storage, "c").await, Err(ErrorKind::Unavailable));
    assert_eq!(get(&storage, "d").await, Ok("before".to_owned()));
}

#[tokio::test]
async fn a_hung_primary_does_not_hang_everything() {
    let mut deadline = TimeoutConfig::default().with_base(Duration::from_millis(50));
    deadline.stall = Duration::from_millis(50);
    deadline.server_side = Duration::from_millis(50);
    let breaker = BreakerConfig::default().with_open_for(Duration::from_secs(600), Duration::from_secs(600));
    let rig = Rig::new(Role::Replica).with(|config| config.with_deadline(deadline).with_breaker(breaker));
    let events: Arc<Mutex<Vec<FallbackEvent>>> = Arc::default();
    let (seen, primary) = (Arc::clone(&events), rig.primary.clone());
    let storage = FallbackStorage::open_observed(
        Arc::new(primary),
        Arc::new(rig.secondary.clone()),
        rig.config.clone(),
        move |event| seen.lock().unwrap().push(event.clone()),
    )
    .await
    .unwrap();
    put(&storage, "a", "one").await;
    for op in [Op::Upload, Op::Download, Op::Metadata, Op::Delete, Op::List, Op::Copy] {
        (0..10).for_each(|_| rig.primary.fail_next(op, Fault::Never));
    }
    // No side has a timeout layer of its own here, and every call ends.
    assert_eq!(get(&storage, "a").await, Ok("one".to_owned()));
    put(&storage, "b", "two").await;
    assert_eq!(names(&storage).await.0, ["a", "b"]);
    storage.copy(&id("a"), &id("c"), UploadOptions::default()).await.unwrap();
    storage.delete(&id("a"), Precondition::None).await.unwrap();
    put(&storage, "d", "three").await;
    // By now it is left alone: nobody waits for it any more.
    assert_eq!(storage.circuits().0, State::Open);
    let asked = rig.primary.calls(Op::Upload);
    for n in 0..20 {
        put(&storage, "e", &n.to_string()).await;
    }
    assert_eq!(rig.primary.calls(Op::Upload), asked);
    let opened = |event: &FallbackEvent| matches!(event, FallbackEvent::Circuit { storage, state: State::Open } if storage == "main");
    assert!(events.lock().unwrap().iter().any(opened));
}

#[tokio::test]
async fn a_breaker_that_tries_again_is_told_as_half_open() {
    let short = Duration::from_millis(20);
    let breaker = BreakerConfig::default().with_threshold(1, 0.1).with_open_for(short, short);
    let rig = Rig::new(Role::Spare).with(|config| config.with_breaker(breaker));
    let events: Arc<Mutex<Vec<State>>> = Arc::default();
    let told = Arc::clone(&events);
    let storage = FallbackStorage::open_observed(
        Arc::new(rig.primary.clone()),
        Arc::new(rig.secondary.clone()),
        rig.config.clone(),
        move |event| {
            if let FallbackEvent::Circuit { state, .. } = event {
                told.lock().unwrap().push(*state);
            }
        },
    )
    .await
    .unwrap();
    rig.primary.set_outage(true);
    put(&storage, "a", "one").await;
    tokio::time::sleep(short * 2).await;
    rig.primary.set_outage(false);
    heal(&storage).await;
    assert_eq!(*events.lock().unwrap(), [State::Open, State::HalfOpen, State::Closed]);
}
