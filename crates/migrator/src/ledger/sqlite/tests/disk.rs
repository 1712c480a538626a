//! Full disks, disks that cannot be written, and power cuts: on file systems that the tests mount. They need
//! root and say so where they cannot run.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::Rng;
use tempfile::TempDir;
use test_rig::disk::{FileSystem, Image, Mount};

use super::super::{OpenMode, SqliteLedger};
use super::binding;
use super::process::{Other, assert_holds};
use crate::item::State;
use crate::ledger::conformance::{done, dump, id, intend};
use crate::ledger::{Change, Ledger, LedgerError, RunKind};

fn big(number: usize) -> Vec<Change> {
    let name = format!("{number:06}");
    let failed = Change::Failed { id: id(&name), reason: "x".into(), detail: "y".repeat(4000), attempts: 1 };
    vec![intend(&name), failed]
}

#[tokio::test]
async fn a_full_disk_is_told_and_loses_nothing_that_was_answered() {
    let Some(mount) = Mount::tmpfs("2m") else { return };
    let filler = mount.path().join("filler");
    fs::write(&filler, vec![1; 600 << 10]).unwrap();
    let path = mount.path().join("ledger.db");
    let ledger = SqliteLedger::open(&path, &binding(), OpenMode::Create).await.unwrap();
    let run = ledger.begin_run(RunKind::Copy, "0.0.0").await.unwrap();
    let mut recorded = 0;
    let error = loop {
        match ledger.record(run, big(recorded)).await {
            Ok(_) => recorded += 1,
            Err(error) => break error,
        }
        assert!(recorded < 1000, "the disk is never full");
    };
    assert!(matches!(error, LedgerError::Full { .. }), "{error:?}");
    assert!(recorded > 10);
    assert!(matches!(ledger.record(run, big(recorded)).await, Err(LedgerError::Full { .. })));
    assert_eq!(ledger.state_counts().await.unwrap()[&State::Failed].files, recorded as u64, "reads go on");
    let before = dump(&ledger).await;
    fs::remove_file(&filler).unwrap();
    done(&ledger, run, big(recorded)).await;
    drop(ledger);
    let ledger = SqliteLedger::open(&path, &binding(), OpenMode::Existing).await.unwrap();
    assert_eq!(ledger.state_counts().await.unwrap()[&State::Failed].files, recorded as u64 + 1);
    assert_ne!(dump(&ledger).await, before);
    ledger.begin_run(RunKind::Copy, "0.0.0").await.unwrap();
}

#[tokio::test]
async fn a_ledger_that_was_closed_on_a_full_disk_opens_when_there_is_room() {
    let Some(mount) = Mount::tmpfs("2m") else { return };
    let path = mount.path().join("ledger.db");
    let ledger = SqliteLedger::open(&path, &binding(), OpenMode::Create).await.unwrap();
    let run = ledger.begin_run(RunKind::Copy, "0.0.0").await.unwrap();
    let mut recorded = 0;
    while ledger.record(run, big(recorded)).await.is_ok() {
        recorded += 1;
    }
    drop(ledger);
    mount.remount("size=8m").unwrap();
    let ledger = SqliteLedger::open(&path, &binding(), OpenMode::Existing).await.unwrap();
    assert_eq!(ledger.state_counts().await.unwrap()[&State::Failed].files, recorded as u64);
}

#[tokio::test]
async fn no_room_for_a_new_ledger_is_told() {
    let Some(mount) = Mount::tmpfs("1m") else { return };
    for room in [0, 4, 8, 12, 24, 40, 64] {
        let filler = mount.path().join("filler");
        fs::write(&filler, vec![1; (1 << 20) - (room << 10)]).unwrap();
        let path = mount.path().join(format!("{room}.db"));
        match SqliteLedger::open(&path, &binding(), OpenMode::Create).await {
            Ok(ledger) => {
                assert!(room >= 24, "{room} KiB");
                drop(ledger);
            }
            Err(error) => assert!(matches!(error, LedgerError::Full { .. }), "{room} KiB: {error:?}"),
        }
        fs::remove_file(&filler).unwrap();
        let ledger = SqliteLedger::open(&path, &binding(), OpenMode::Create).await;
        ledger.expect("what was begun without room is taken up with room");
        for entry in fs::read_dir(mount.path()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
}

#[tokio::test]
async fn a_medium_that_cannot_be_written_is_told_and_can_be_read() {
    let Some(mount) = Mount::tmpfs("8m") else { return };
    let path = mount.path().join("ledger.db");
    let ledger = SqliteLedger::open(&path, &binding(), OpenMode::Create).await.unwrap();
    let run = ledger.begin_run(RunKind::Copy, "0.0.0").await.unwrap();
    done(&ledger, run, big(1)).await;
    // A copy as a crash leaves it: the log holds everything.
    let crashed = mount.path().join("crashed.db");
    for suffix in ["", "-wal"] {
        let with = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
        fs::copy(with(&path), with(&crashed)).unwrap();
    }
    let before = dump(&ledger).await;
    drop(ledger);
    mount.remount("ro").unwrap();
    for mode in [OpenMode::Create, OpenMode::Existing] {
        for path in [&path, &crashed, &mount.path().join("new.db")] {
            match (SqliteLedger::open(path, &binding(), mode).await, mode) {
                (Err(LedgerError::ReadOnly { .. }), _) => {}
                (Err(LedgerError::Missing { .. }), OpenMode::Existing) => {}
                (result, _) => panic!("{result:?}"),
            }
        }
    }
    let reader = SqliteLedger::open_read_only(&path).await.unwrap();
    assert_eq!(dump(&reader).await, before);
    drop(reader);
    match SqliteLedger::open_read_only(&crashed).await {
        Err(LedgerError::Other { reason, .. }) => assert!(reason.contains("crash"), "{reason}"),
        result => panic!("half of the story must not be told as the whole: {result:?}"),
    }
    mount.remount("rw").unwrap();
    let reader = SqliteLedger::open_read_only(&crashed).await.unwrap();
    assert_eq!(dump(&reader).await, before);
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "shows what the trial was worth")]
async fn a_power_cut_loses_nothing_that_was_answered() {
    let Some(image) = Image::new(FileSystem::Ext4) else { return };
    let answers = TempDir::new().unwrap();
    let path = image.path().join("deep/er/ledger.db");
    let mut answered = std::collections::BTreeSet::new();
    for round in 0..8 {
        let Some(power) = image.power() else { return };
        let mut other = Other::start(&path, &answers.path().join("answers"), round * 1_000_000);
        std::thread::sleep(Duration::from_millis(rand::rng().random_range(50..300)));
        // Answers during the cut do not count: an fsync that is under way when the journal is shut down may
        // return success (a plain loop of write and fsync loses its last block to that as well).
        answered.extend(other.answered());
        power.cut().unwrap();
        other.kill();
        image.restart().unwrap();
        assert_holds(&path, &answered, &format!("round {round}")).await;
    }
    println!("8 power cuts, {} answered calls, none lost", answered.len());
    assert!(!answered.is_empty());
}
