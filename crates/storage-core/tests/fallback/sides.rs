//! When a side is left alone, and when not: hung, busy, half open.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use storage_core::error::{ErrorKind, Op};
use storage_core::layer::breaker::{BreakerConfig, State};
use storage_core::layer::fallback::FallbackStorage;
use storage_core::layer::fallback::config::{OnMiss, ReadPolicy, Role};
use storage_core::layer::fallback::event::FallbackEvent;
use storage_core::layer::limit::{LimitConfig, LimitStorage};
use storage_core::layer::timeout::TimeoutConfig;
use storage_core::storage::{FileStorage, Precondition};
use storage_core::testkit::flaky::{Fault, FlakyStorage};
use tokio::time::{sleep, timeout};

use crate::{Rig, get, id, put};

/// A primary of which these operations hang.
async fn hanging(operations: &[Op]) -> (Rig, FallbackStorage) {
    let rig = Rig::new(Role::Spare).with(|config| config.with_breaker(BreakerConfig::default()));
    let storage = rig.open().await;
    for op in operations {
        (0..100).for_each(|_| rig.primary.fail_next(*op, Fault::Never));
    }
    // Not before: the journal is opened by a thread, and the clock would not wait for it.
    tokio::time::pause();
    (rig, storage)
}

/// An upload whose caller goes away after a second.
async fn impatient(storage: &FallbackStorage) {
    let (name, body) = (id("a"), Bytes::from("x"));
    let upload = storage.upload(&name, body.into(), Default::default());
    timeout(Duration::from_secs(1), upload).await.unwrap_err();
}

#[tokio::test]
async fn a_hung_primary_is_left_alone_although_no_caller_waits_for_its_answer() {
    let (rig, storage) = hanging(&[Op::Upload, Op::Probe]).await;
    let mut went = 0;
    while storage.circuits().0 == State::Closed {
        assert!(went < 30, "nobody found out");
        impatient(&storage).await;
        went += 1;
    }
    assert_eq!((storage.circuits().0, rig.primary.calls(Op::Probe)), (State::Open, 1));
    let asked = rig.primary.calls(Op::Upload);
    put(&storage, "later", "x").await;
    assert_eq!((storage.pending().files, rig.primary.calls(Op::Upload)), (1, asked));
}

#[tokio::test]
async fn callers_that_go_away_do_not_make_a_primary_that_answers_an_outage() {
    let (rig, storage) = hanging(&[Op::Upload]).await;
    for _ in 0..20 {
        impatient(&storage).await;
        assert_eq!(storage.circuits().0, State::Closed);
    }
    // One for as many as would be enough outages.
    tokio::task::yield_now().await;
    assert_eq!(rig.primary.calls(Op::Probe), 4);
}

#[tokio::test]
async fn a_hung_primary_is_found_out_however_seldom_it_is_asked() {
    let (rig, storage) = hanging(&[Op::Upload, Op::Probe]).await;
    let mut waited = 0;
    while storage.circuits().0 == State::Closed {
        assert!(waited < 10, "everybody waits for the deadline");
        put(&storage, "a", "x").await;
        waited += 1;
        // Longer than a probe may take.
        sleep(Duration::from_secs(11)).await;
    }
    assert_eq!(waited, 5);
    put(&storage, "later", "x").await;
    assert_eq!(rig.primary.calls(Op::Upload), 5);
}

/// A breaker that opens at the first outage and tries again at once.
fn quick() -> BreakerConfig {
    let short = Duration::from_millis(20);
    BreakerConfig::default().with_threshold(1, 0.0).with_open_for(short, short)
}

/// A primary that was out and has come back, and nobody has noticed.
async fn half_open() -> (Rig, FallbackStorage) {
    let rig = Rig::new(Role::Spare).with(|config| config.with_breaker(quick()));
    let storage = rig.open().await;
    put(&storage, "a", "one").await;
    rig.primary.set_outage(true);
    assert!(storage.metadata(&id("a")).await.is_err());
    assert_eq!(storage.circuits().0, State::Open);
    rig.primary.set_outage(false);
    while storage.circuits().0 != State::HalfOpen {
        sleep(Duration::from_millis(1)).await;
    }
    (rig, storage)
}

#[tokio::test]
async fn a_long_upload_does_not_keep_others_from_a_primary_that_has_come_back() {
    for op in [Op::Upload, Op::Copy] {
        let (rig, storage) = half_open().await;
        rig.primary.fail_next(op, Fault::Never);
        let asked = rig.primary.calls(op);
        let uploader = storage.clone();
        let hanging = tokio::spawn(async move {
            match op {
                Op::Upload => put(&uploader, "b", "large").await,
                _ => drop(uploader.copy(&id("a"), &id("b"), Default::default()).await),
            }
        });
        while rig.primary.calls(op) == asked {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(get(&storage, "a").await, Ok("one".to_owned()), "{op:?}");
        // Nor does it matter that its caller goes away.
        hanging.abort();
        drop(hanging.await);
        assert_eq!(storage.circuits().0, State::Closed, "{op:?}");
    }
}

#[tokio::test]
async fn an_upload_is_not_sent_to_a_primary_of_which_a_probe_says_that_it_is_out() {
    let (rig, storage) = half_open().await;
    rig.primary.fail_next(Op::Probe, Fault::Before(ErrorKind::Unavailable));
    let asked = rig.primary.calls(Op::Upload);
    put(&storage, "b", "x").await;
    assert_eq!((rig.primary.calls(Op::Upload), storage.pending().files), (asked, 1));
    assert_eq!(storage.circuits().0, State::Open);
}

/// A storage whose sides run one operation at a time, and a call to which may take a tenth of a second.
async fn one_at_a_time(rig: &Rig) -> FallbackStorage {
    let one = LimitConfig::default().with_concurrency(NonZeroU32::MIN);
    let side = |storage: &FlakyStorage| Arc::new(LimitStorage::new(Arc::new(storage.clone()), one));
    FallbackStorage::open(side(&rig.primary), side(&rig.secondary), rig.config.clone()).await.unwrap()
}

fn a_tenth() -> TimeoutConfig {
    TimeoutConfig::default().with_base(Duration::from_millis(100))
}

#[tokio::test]
async fn a_primary_whose_permits_are_held_by_slow_readers_is_not_out() {
    let rig = Rig::new(Role::Spare)
        .with(|config| config.with_breaker(BreakerConfig::default()).with_deadline(a_tenth()));
    let storage = one_at_a_time(&rig).await;
    put(&storage, "a", "one").await;
    let reader = storage.download(&id("a"), Default::default()).await.unwrap();
    let uploads: Vec<_> = (0..6)
        .map(|n| {
            let storage = storage.clone();
            tokio::spawn(async move { put(&storage, &format!("b{n}"), "x").await })
        })
        .collect();
    sleep(Duration::from_millis(400)).await;
    assert_eq!((storage.circuits().0, storage.pending().files), (State::Closed, 0));
    // What its caller gives up meanwhile was never sent: it says nothing of the primary either.
    uploads[0].abort();
    drop(reader);
    for (n, upload) in uploads.into_iter().enumerate() {
        assert_eq!(upload.await.is_ok(), n > 0);
    }
    assert_eq!((storage.circuits().0, storage.pending().files), (State::Closed, 0));
    assert_eq!((rig.primary.calls(Op::Upload), rig.secondary.calls(Op::Upload)), (6, 0));
}

#[tokio::test]
async fn who_waits_for_a_permit_of_a_side_that_is_found_out_goes_to_the_other() {
    let breaker = quick().with_open_for(Duration::from_secs(600), Duration::from_secs(600));
    let rig = Rig::new(Role::Spare).with(|config| config.with_breaker(breaker).with_deadline(a_tenth()));
    let storage = one_at_a_time(&rig).await;
    (0..10).for_each(|_| rig.primary.fail_next(Op::Upload, Fault::Never));
    let uploads = (0..10).map(|n| {
        let storage = storage.clone();
        async move { put(&storage, &format!("b{n}"), "x").await }
    });
    futures::future::join_all(uploads).await;
    assert_eq!(
        (rig.primary.calls(Op::Upload), storage.pending().files),
        (1, 10),
        "nobody else waited for it"
    );
}

#[tokio::test]
async fn a_promotion_does_not_wait_for_a_permit_that_its_own_read_holds() {
    let policy = ReadPolicy::default().with_miss(OnMiss::Promote);
    let rig = Rig::new(Role::Replica).with(|config| config.with_read(policy));
    let storage = one_at_a_time(&rig).await;
    put(&rig.inside.1, "a", "one").await;
    // Whoever asks for metadata waits for no bytes.
    storage.metadata(&id("a")).await.unwrap();
    assert_eq!((rig.secondary.calls(Op::Download), rig.primary.calls(Op::Upload)), (0, 0));
    let read = timeout(Duration::from_secs(5), get(&storage, "a")).await;
    assert_eq!(read, Ok(Ok("one".to_owned())));
    assert_eq!(get(&rig.inside.0, "a").await, Ok("one".to_owned()));
    // A file that nobody has costs no more than two questions.
    let asked =
        |rig: &Rig| [Op::Metadata, Op::Download].map(|op| rig.secondary.calls(op)).iter().sum::<u64>();
    let before = asked(&rig);
    assert_eq!(get(&storage, "missing").await, Err(ErrorKind::NotFound));
    assert_eq!(asked(&rig), before + 1);
}

#[tokio::test]
async fn with_the_secondary_out_a_heal_does_not_ask_the_primary_about_every_file() {
    let rig = Rig::new(Role::Spare);
    let failures: Arc<AtomicU64> = Arc::default();
    let told = Arc::clone(&failures);
    let (primary, secondary) = (Arc::new(rig.primary.clone()), Arc::new(rig.secondary.clone()));
    let storage = FallbackStorage::open_observed(primary, secondary, rig.config.clone(), move |event| {
        if matches!(event, FallbackEvent::HealFailed { .. }) {
            told.fetch_add(1, Ordering::Relaxed);
        }
    });
    let storage = storage.await.unwrap();
    put(&storage, "gone", "x").await;
    rig.primary.set_outage(true);
    for n in 0..50 {
        put(&storage, &format!("f{n}"), "x").await;
    }
    rig.secondary.set_outage(true);
    storage.delete(&id("gone"), Precondition::None).await.unwrap();
    rig.primary.set_outage(false);
    let asked = rig.primary.calls(Op::Metadata);
    let report = storage.heal().await;
    // A deletion needs the primary alone.
    assert_eq!((report.deleted, report.healed, report.left), (1, 0, 51), "{report:?}");
    assert_eq!(get(&rig.inside.0, "gone").await, Err(ErrorKind::NotFound));
    assert!(report.waiting.is_some_and(|outage| outage.storage() == Some("spare")));
    assert!(report.failed.is_empty() && report.stopped.is_none());
    assert_eq!((rig.primary.calls(Op::Metadata) - asked, failures.load(Ordering::Relaxed)), (2, 0));
    rig.secondary.set_outage(false);
    let report = storage.heal().await;
    assert_eq!((report.healed, report.left), (50, 0), "{report:?}");
}
