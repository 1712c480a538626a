//! What somebody else writes past us is never overwritten in silence, whatever we know of what was there before; and
//! what was there before is no stranger's.

use std::sync::Arc;
use std::time::Duration;

use storage_core::checksum::Digest;
use storage_core::error::{ErrorKind, Op};
use storage_core::layer::fallback::FallbackStorage;
use storage_core::layer::fallback::config::{OnOutage, Role};
use storage_core::layer::fallback::event::Keep;
use storage_core::storage::{FileStorage, Precondition, UploadOptions};
use storage_core::testkit::flaky::Fault;

use crate::healing::foreign;
use crate::plain::Plain;
use crate::{Rig, get, heal, id, put};

/// How the outage finds the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knows {
    /// It has written the file itself.
    Version,
    /// It began before the outage, and has not seen the file.
    Restarted,
    /// It begins in the outage.
    BegunInIt,
    /// Its journal was lost with its disk.
    NoClock,
}

const ALL: [Knows; 4] = [Knows::Version, Knows::Restarted, Knows::BegunInIt, Knows::NoClock];

/// A rig in whose outage a file `a` that was there before is deleted or overwritten. `margin` decides whether it is
/// old enough to be told from a stranger's.
async fn degraded(role: Role, knows: Knows, deletion: bool, margin: Duration) -> (Rig, FallbackStorage) {
    let mut rig = Rig::new(role).with(|config| config.with_clock_margin(margin));
    let mut storage = rig.open().await;
    put(&storage, "a", "base").await;
    // The clock is seen to have gone on.
    put(&storage, "b", "later").await;
    if knows == Knows::BegunInIt {
        rig.primary.set_outage(true);
    }
    if knows != Knows::Version {
        drop(storage);
        if knows == Knows::NoClock {
            rig.config.journal = rig.directory.path().join("another");
        }
        storage = rig.open().await;
    }
    rig.primary.set_outage(true);
    if deletion {
        storage.delete(&id("a"), Precondition::None).await.unwrap();
    } else {
        put(&storage, "a", "ours").await;
    }
    (rig, storage)
}

#[tokio::test]
async fn a_strangers_file_of_the_outage_is_kept_whatever_was_known() {
    for role in [Role::Spare, Role::Replica] {
        for knows in ALL {
            for deletion in [false, true] {
                for restart in [false, true] {
                    let case = format!("{role:?}, {knows:?}, deletion {deletion}, restart {restart}");
                    let (rig, mut storage) = degraded(role, knows, deletion, Duration::ZERO).await;
                    foreign(&rig.inside.0, "a", "theirs");
                    if restart {
                        drop(storage);
                        storage = rig.open().await;
                    }
                    rig.primary.set_outage(false);
                    for _ in 0..2 {
                        let report = storage.heal().await;
                        assert_eq!(
                            (report.conflicts.len(), report.failed.len()),
                            (1, 0),
                            "{case}: {report:?}"
                        );
                        assert_eq!(get(&rig.inside.0, "a").await, Ok("theirs".to_owned()), "{case}");
                    }
                    let ours = if deletion { Err(ErrorKind::NotFound) } else { Ok("ours".to_owned()) };
                    assert_eq!(get(&storage, "a").await, ours, "{case}");
                    let keep = if restart { Keep::Ours } else { Keep::Theirs };
                    storage.resolve(&id("a"), keep).await.unwrap();
                    let left = if restart { ours } else { Ok("theirs".to_owned()) };
                    assert_eq!(get(&rig.inside.0, "a").await, left, "{case}");
                    heal(&storage).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn what_was_there_before_is_no_strangers() {
    for role in [Role::Spare, Role::Replica] {
        for knows in ALL {
            for deletion in [false, true] {
                let case = format!("{role:?}, {knows:?}, deletion {deletion}");
                let (rig, storage) = degraded(role, knows, deletion, Duration::ZERO).await;
                rig.primary.set_outage(false);
                let report = storage.heal().await;
                // Where nothing is known at all, it may be somebody's: it is kept, and told.
                let doubted = role == Role::Spare && knows == Knows::NoClock;
                assert_eq!(report.conflicts.len(), usize::from(doubted), "{case}: {report:?}");
                let there = match (doubted, deletion) {
                    (true, _) => Ok("base".to_owned()),
                    (false, true) => Err(ErrorKind::NotFound),
                    (false, false) => Ok("ours".to_owned()),
                };
                assert_eq!(get(&rig.inside.0, "a").await, there, "{case}");
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_is_hardly_older_than_the_outage_may_be_a_strangers() {
    let hour = Duration::from_secs(3_600);
    for deletion in [false, true] {
        // Its version, or a replica's copy, proves it whatever the clocks say.
        for (role, knows) in [(Role::Spare, Knows::Version), (Role::Replica, Knows::Restarted)] {
            let (rig, storage) = degraded(role, knows, deletion, hour).await;
            rig.primary.set_outage(false);
            heal(&storage).await;
        }
        let (rig, storage) = degraded(Role::Spare, Knows::Restarted, deletion, hour).await;
        rig.primary.set_outage(false);
        assert_eq!(storage.heal().await.conflicts.len(), 1);
        assert_eq!(get(&rig.inside.0, "a").await, Ok("base".to_owned()));
    }
}

#[tokio::test]
async fn a_strangers_file_of_before_our_write_is_replaced_as_by_any_write() {
    let rig = Rig::new(Role::Spare).with(|config| config.with_clock_margin(Duration::ZERO));
    put(&rig.inside.0, "a", "theirs").await;
    let storage = rig.open().await;
    put(&storage, "b", "later").await;
    rig.primary.set_outage(true);
    put(&storage, "a", "ours").await;
    rig.primary.set_outage(false);
    heal(&storage).await;
    assert_eq!(get(&rig.inside.0, "a").await, Ok("ours".to_owned()));
}

#[tokio::test]
async fn a_stranger_after_our_own_lost_heal_is_kept() {
    for knows in ALL {
        for deletion in [false, true] {
            let (rig, storage) = degraded(Role::Replica, knows, deletion, Duration::ZERO).await;
            rig.primary.set_outage(false);
            let op = if deletion { Op::Delete } else { Op::Upload };
            rig.primary.fail_next(op, Fault::After(ErrorKind::Timeout));
            assert!(storage.heal().await.stopped.is_some());
            foreign(&rig.inside.0, "a", "theirs");
            let report = storage.heal().await;
            assert_eq!(report.conflicts.len(), 1, "{knows:?}, deletion {deletion}: {report:?}");
            assert_eq!(get(&rig.inside.0, "a").await, Ok("theirs".to_owned()));
        }
    }
}

#[tokio::test]
async fn an_own_write_that_failed_with_its_answer_lost_is_no_strangers() {
    for known in [true, false] {
        let rig = Rig::new(Role::Spare);
        let storage = rig.open().await;
        if known {
            put(&storage, "a", "base").await;
        }
        // Neither side could, and the primary has it all the same.
        rig.primary.fail_next(Op::Upload, Fault::After(ErrorKind::Timeout));
        rig.secondary.set_outage(true);
        let lost = storage.upload(&id("a"), bytes::Bytes::from("first").into(), Default::default()).await;
        assert!(lost.unwrap_err().is_outage());
        rig.secondary.set_outage(false);
        rig.primary.set_outage(true);
        put(&storage, "a", "second").await;
        rig.primary.set_outage(false);
        heal(&storage).await;
        assert_eq!(get(&rig.inside.0, "a").await, Ok("second".to_owned()), "known {known}");
    }
}

#[tokio::test]
async fn a_primary_without_preconditions_and_versions_keeps_a_strangers_file_as_well() {
    for deletion in [false, true] {
        for theirs in [None, Some("theirs")] {
            let rig = Rig::new(Role::Spare).with(|config| config.with_clock_margin(Duration::ZERO));
            let primary = Plain::around(Arc::new(rig.primary.clone())).without_versions();
            let open = || {
                let sides = (Arc::new(primary.clone()), Arc::new(rig.secondary.clone()));
                FallbackStorage::open(sides.0, sides.1, rig.config.clone())
            };
            let storage = open().await.unwrap();
            put(&storage, "a", "base").await;
            put(&storage, "b", "later").await;
            drop(storage);
            let storage = open().await.unwrap();
            rig.primary.set_outage(true);
            if deletion {
                storage.delete(&id("a"), Precondition::None).await.unwrap();
            } else {
                put(&storage, "a", "ours").await;
            }
            if let Some(theirs) = theirs {
                foreign(&rig.inside.0, "a", theirs);
            }
            rig.primary.set_outage(false);
            let ours = if deletion { Err(ErrorKind::NotFound) } else { Ok("ours".to_owned()) };
            let conflicts = storage.heal().await.conflicts;
            assert_eq!(conflicts.len(), usize::from(theirs.is_some()), "{deletion}: {conflicts:?}");
            if theirs.is_some() {
                assert_eq!(get(&rig.inside.0, "a").await, Ok("theirs".to_owned()));
                assert_eq!(conflicts[0].ours, (!deletion).then(|| Digest::of(b"ours")));
                storage.resolve(&id("a"), Keep::Ours).await.unwrap();
            }
            assert_eq!(get(&rig.inside.0, "a").await, ours, "{deletion} {theirs:?}");
        }
    }
}

/// What a caller named is what may be replaced, and no time makes more of it.
#[tokio::test]
async fn what_a_caller_asserted_is_not_widened_by_what_time_proves() {
    for absent in [true, false] {
        let rig = Rig::new(Role::Replica).with(|config| config.with_clock_margin(Duration::ZERO));
        let mut storage = rig.open().await;
        if !absent {
            put(&storage, "a", "base").await;
            drop(storage);
            storage = rig.open().await;
        }
        foreign(&rig.inside.0, "a", "theirs");
        // The clock is seen to have gone on.
        put(&storage, "b", "later").await;
        rig.primary.set_outage(true);
        let when = if absent {
            Precondition::Absent
        } else {
            Precondition::Version(storage.metadata(&id("a")).await.unwrap().version.unwrap())
        };
        let options = UploadOptions::default().with_when(when);
        storage.upload(&id("a"), bytes::Bytes::from("ours").into(), options).await.unwrap();
        rig.primary.set_outage(false);
        let report = storage.heal().await;
        assert_eq!(report.conflicts.len(), 1, "absent {absent}: {report:?}");
        assert_eq!(get(&rig.inside.0, "a").await, Ok("theirs".to_owned()));
    }
}

/// An overwriting of ours and a deletion of theirs do not know of each other.
#[tokio::test]
async fn a_strangers_deletion_is_told_and_our_own_is_none() {
    for role in [Role::Spare, Role::Replica] {
        for keep in [Keep::Ours, Keep::Theirs] {
            let (rig, storage) = degraded(role, Knows::Version, false, Duration::ZERO).await;
            assert!(rig.inside.0.delete(&id("a"), Precondition::None).await.unwrap());
            rig.primary.set_outage(false);
            let report = storage.heal().await;
            assert_eq!(report.conflicts.len(), 1, "{role:?}: {report:?}");
            assert_eq!(get(&storage, "a").await, Ok("ours".to_owned()));
            storage.resolve(&id("a"), keep).await.unwrap();
            let left = if keep == Keep::Ours { Ok("ours".to_owned()) } else { Err(ErrorKind::NotFound) };
            assert_eq!(get(&rig.inside.0, "a").await, left);
            assert_eq!(get(&storage, "a").await, left);
            heal(&storage).await;
        }
        // Ours has taken the file away and was not told so; then it is written again.
        for tombstone in [true, false] {
            let on = if tombstone { OnOutage::Secondary } else { OnOutage::Fail };
            let rig = Rig::new(role).with(|config| config.with_delete(on));
            let storage = rig.open().await;
            put(&storage, "a", "base").await;
            rig.primary.fail_next(Op::Delete, Fault::After(ErrorKind::Timeout));
            let deleted = storage.delete(&id("a"), Precondition::None).await;
            assert_eq!(deleted.is_ok(), tombstone);
            rig.primary.set_outage(true);
            put(&storage, "a", "ours").await;
            drop(storage);
            let storage = rig.open().await;
            rig.primary.set_outage(false);
            heal(&storage).await;
            assert_eq!(get(&rig.inside.0, "a").await, Ok("ours".to_owned()));
        }
    }
}

/// As when the disk of the journal is not mounted: the writes of an outage would be nobody's.
#[tokio::test]
async fn a_new_journal_over_a_spare_that_holds_files_is_refused() {
    let mut rig = Rig::new(Role::Spare);
    let storage = rig.open().await;
    rig.primary.set_outage(true);
    put(&storage, "a", "ours").await;
    drop(storage);
    let right = std::mem::replace(&mut rig.config.journal, rig.directory.path().join("another"));
    for _ in 0..2 {
        let error = rig.try_open().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
        assert!(error.to_string().contains("the journal is new"), "{error}");
    }
    rig.secondary.set_outage(true);
    drop(rig.open().await);
    rig.secondary.set_outage(false);
    rig.config.journal = right;
    assert_eq!(get(&rig.open().await, "a").await, Ok("ours".to_owned()));
}
