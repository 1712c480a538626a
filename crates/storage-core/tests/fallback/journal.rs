//! The journal: durable before anything is acknowledged, there after a restart, and nobody else's.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use storage_core::backend::memory::MemoryStorage;
use storage_core::error::ErrorKind;
use storage_core::layer::fallback::FallbackStorage;
use storage_core::layer::fallback::config::{FallbackConfig, Role};
use storage_core::storage::{FileStorage, Precondition};
use test_rig::Strace;
use test_rig::scratch::Scratch;

use crate::{Rig, get, heal, id, names, put};

#[tokio::test]
async fn a_restart_in_the_middle_of_an_outage_loses_nothing() {
    let rig = Rig::new(Role::Spare);
    let storage = rig.open().await;
    put(&storage, "a", "old").await;
    put(&storage, "b", "old").await;
    rig.primary.set_outage(true);
    put(&storage, "a", "new").await;
    storage.delete(&id("b"), Precondition::None).await.unwrap();
    for n in 0..50 {
        put(&storage, &format!("c/{n}"), &n.to_string()).await;
    }
    drop(storage);
    let storage = rig.open().await;
    assert_eq!(get(&storage, "a").await, Ok("new".to_owned()));
    assert_eq!(get(&storage, "b").await, Err(ErrorKind::NotFound));
    assert_eq!((storage.pending().files, storage.pending().tombstones), (51, 1));
    rig.primary.set_outage(false);
    heal(&storage).await;
    assert_eq!(names(&rig.inside.0).await.0.len(), 51);
    assert_eq!(get(&rig.inside.0, "c/49").await, Ok("49".to_owned()));
}

#[tokio::test]
async fn a_crash_at_the_acknowledgement_loses_nothing() {
    let rig = Rig::new(Role::Spare);
    let storage = rig.open().await;
    rig.primary.set_outage(true);
    for n in 0..20 {
        let name = format!("f{n}");
        put(&storage, &name, "x").await;
        // What the disk holds at this moment, as a killed process leaves it.
        let crashed = Rig::within(Role::Spare, tempfile::TempDir::new().unwrap());
        for suffix in ["", "-wal"] {
            let (from, to) = (rig.directory.path(), crashed.directory.path());
            fs::copy(from.join(format!("journal{suffix}")), to.join(format!("journal{suffix}"))).unwrap();
        }
        assert_eq!(crashed.open().await.pending().files, n + 1);
    }
}

#[tokio::test]
async fn a_second_process_is_told_who_holds_the_journal() {
    let rig = Rig::new(Role::Spare);
    let storage = rig.open().await;
    let error = rig.try_open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    let told = error.to_string();
    assert!(told.contains(&format!("process {}", std::process::id())) && told.contains("journal"), "{told}");
    drop(storage);
    rig.open().await;
}

#[tokio::test]
async fn a_journal_of_another_pair_or_another_program_is_refused() {
    let rig = Rig::new(Role::Spare);
    drop(rig.open().await);
    let other = MemoryStorage::named("other");
    let error = FallbackStorage::open(Arc::new(other), Arc::new(rig.secondary.clone()), rig.config.clone());
    let error = error.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    assert!(error.to_string().contains("other") && error.to_string().contains("main"), "{error}");

    let path = rig.directory.path().join("text");
    fs::write(&path, "no database, but long enough to be looked at as one".repeat(100)).unwrap();
    let open = |path: &Path| {
        let config = FallbackConfig::new(path);
        FallbackStorage::open(Arc::new(rig.primary.clone()), Arc::new(rig.secondary.clone()), config)
    };
    assert_eq!(open(&path).await.unwrap_err().kind(), ErrorKind::Integrity);
    let nowhere = rig.directory.path().join("missing/journal");
    let error = open(&nowhere).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Misconfigured && error.to_string().contains("missing"), "{error}");
    let same = FallbackStorage::open(
        Arc::new(rig.primary.clone()),
        Arc::new(rig.primary.clone()),
        FallbackConfig::new(rig.directory.path().join("same")),
    );
    assert_eq!(same.await.unwrap_err().kind(), ErrorKind::Misconfigured);
}

#[tokio::test]
async fn a_journal_that_cannot_be_written_acknowledges_nothing() {
    let rig = Rig::new(Role::Spare);
    let storage = rig.open().await;
    rig.primary.set_outage(true);
    put(&storage, "a", "one").await;
    // Another tool holds the database: no commit goes through.
    let lock = rusqlite::Connection::open(rig.directory.path().join("journal")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = storage.upload(&id("b"), Bytes::from("x").into(), Default::default()).await.unwrap_err();
    assert!(error.to_string().contains("journal"), "{error}");
    assert!(storage.delete(&id("a"), Precondition::None).await.is_err());
    lock.execute_batch("ROLLBACK").unwrap();
    assert_eq!(get(&storage, "a").await, Ok("one".to_owned()));
    assert_eq!(storage.pending().files, 1);
}

const CHILD: &str = "FALLBACK_TEST_JOURNAL_OF_CHILD";

/// Not a test of its own: what runs beneath strace.
#[tokio::test]
async fn child_writes_in_an_outage_and_says_so() {
    let Some(place) = std::env::var_os(CHILD) else { return };
    let mut rig = Rig::new(Role::Spare);
    rig.config.journal = Path::new(&place).join("journal");
    let storage = rig.open().await;
    rig.primary.set_outage(true);
    for n in 0..5 {
        put(&storage, "a", &n.to_string()).await;
        fs::write(Path::new(&place).join(format!("ACKNOWLEDGED-{n}")), "").unwrap();
    }
}

#[test]
fn a_degraded_write_is_synced_before_it_is_acknowledged() {
    let scratch = Scratch::new("fallback-sync").unwrap();
    let Some(strace) = Strace::new(scratch.join("trace")) else { return };
    let mut command: Command =
        strace.trace(&["fsync", "fdatasync", "openat", "pwrite64"]).command(std::env::current_exe().unwrap());
    command.args(["--exact", "journal::child_writes_in_an_outage_and_says_so"]).env(CHILD, scratch.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let trace = fs::read_to_string(scratch.join("trace")).unwrap();
    let mut log = BTreeMap::new();
    let (mut unsynced, mut synced, mut acknowledged) = (false, 0, 0);
    for line in trace.lines() {
        let descriptor = || line.split_once('(').and_then(|(_, rest)| rest.split([',', ')']).next());
        if line.contains("openat(") && line.contains("journal-wal") {
            if let Some((_, descriptor)) = line.rsplit_once("= ") {
                log.insert(descriptor.trim().to_owned(), ());
            }
        } else if line.contains("pwrite64(") && descriptor().is_some_and(|number| log.contains_key(number)) {
            unsynced = true;
        } else if line.contains("sync(") && descriptor().is_some_and(|number| log.contains_key(number)) {
            unsynced = false;
            synced += 1;
        } else if line.contains("openat(") && line.contains("ACKNOWLEDGED-") {
            assert!(!unsynced, "acknowledged before the log was synced:\n{trace}");
            acknowledged += 1;
            // The intent, and what became of it.
            assert!(synced >= 2 * acknowledged, "{synced} syncs for {acknowledged} writes:\n{trace}");
        }
    }
    assert_eq!(acknowledged, 5, "{trace}");
}
