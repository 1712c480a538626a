//! Full disks, disks that cannot be written, and power cuts: on file systems that the tests mount. They need
//! root and say so where they cannot run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rand::Rng;
use tempfile::TempDir;

use super::super::{OpenMode, SqliteLedger};
use super::binding;
use super::process::{Other, assert_holds};
use crate::item::State;
use crate::ledger::conformance::{done, dump, id, intend};
use crate::ledger::{Change, Ledger, LedgerError, RunKind};

/// A mounted file system; unmounted when dropped.
struct Mount {
    directory: PathBuf,
    // Dropped after the unmounting.
    _parent: TempDir,
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

impl Mount {
    fn tmpfs(size: &str) -> Option<Self> {
        let parent = TempDir::new().unwrap();
        let directory = parent.path().join("mounted");
        fs::create_dir(&directory).unwrap();
        let options = format!("size={size}");
        let mounted = run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", directory.to_str().unwrap()]);
        if !mounted {
            skip("cannot mount a tmpfs here (needs root)");
        }
        mounted.then_some(Self { directory, _parent: parent })
    }

    fn remount(&self, options: &str) -> bool {
        run("mount", &["-o", &format!("remount,{options}"), self.directory.to_str().unwrap()])
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if !run("umount", &[self.directory.to_str().unwrap()]) {
            run("umount", &["-l", self.directory.to_str().unwrap()]);
        }
    }
}

#[expect(clippy::print_stdout, reason = "a skip is seen")]
fn skip(reason: &str) {
    println!("SKIPPED: {reason}");
}

fn big(number: usize) -> Vec<Change> {
    let name = format!("{number:06}");
    let failed = Change::Failed { id: id(&name), reason: "x".into(), detail: "y".repeat(4000), attempts: 1 };
    vec![intend(&name), failed]
}

#[tokio::test]
async fn a_full_disk_is_told_and_loses_nothing_that_was_answered() {
    let Some(mount) = Mount::tmpfs("2m") else { return };
    let filler = mount.directory.join("filler");
    fs::write(&filler, vec![1; 600 << 10]).unwrap();
    let path = mount.directory.join("ledger.db");
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
    let path = mount.directory.join("ledger.db");
    let ledger = SqliteLedger::open(&path, &binding(), OpenMode::Create).await.unwrap();
    let run = ledger.begin_run(RunKind::Copy, "0.0.0").await.unwrap();
    let mut recorded = 0;
    while ledger.record(run, big(recorded)).await.is_ok() {
        recorded += 1;
    }
    drop(ledger);
    assert!(mount.remount("size=8m"));
    let ledger = SqliteLedger::open(&path, &binding(), OpenMode::Existing).await.unwrap();
    assert_eq!(ledger.state_counts().await.unwrap()[&State::Failed].files, recorded as u64);
}

#[tokio::test]
async fn no_room_for_a_new_ledger_is_told() {
    let Some(mount) = Mount::tmpfs("1m") else { return };
    for room in [0, 4, 8, 12, 24, 40, 64] {
        let filler = mount.directory.join("filler");
        fs::write(&filler, vec![1; (1 << 20) - (room << 10)]).unwrap();
        let path = mount.directory.join(format!("{room}.db"));
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
        for entry in fs::read_dir(&mount.directory).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
}

#[tokio::test]
async fn a_medium_that_cannot_be_written_is_told_and_can_be_read() {
    let Some(mount) = Mount::tmpfs("8m") else { return };
    let path = mount.directory.join("ledger.db");
    let ledger = SqliteLedger::open(&path, &binding(), OpenMode::Create).await.unwrap();
    let run = ledger.begin_run(RunKind::Copy, "0.0.0").await.unwrap();
    done(&ledger, run, big(1)).await;
    // A copy as a crash leaves it: the log holds everything.
    let crashed = mount.directory.join("crashed.db");
    for suffix in ["", "-wal"] {
        let with = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
        fs::copy(with(&path), with(&crashed)).unwrap();
    }
    let before = dump(&ledger).await;
    drop(ledger);
    assert!(mount.remount("ro"));
    for mode in [OpenMode::Create, OpenMode::Existing] {
        for path in [&path, &crashed, &mount.directory.join("new.db")] {
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
    assert!(mount.remount("rw"));
    let reader = SqliteLedger::open_read_only(&crashed).await.unwrap();
    assert_eq!(dump(&reader).await, before);
}

/// A file system in a file, which can lose its power.
struct Image {
    mount: Mount,
    file: PathBuf,
    _parent: TempDir,
}

impl Image {
    fn new() -> Option<Self> {
        let parent = TempDir::new().unwrap();
        let file = parent.path().join("image");
        fs::File::create(&file).unwrap().set_len(64 << 20).unwrap();
        let directory = parent.path().join("mounted");
        fs::create_dir(&directory).unwrap();
        let image = Self {
            mount: Mount { directory, _parent: TempDir::new().unwrap() },
            file: file.clone(),
            _parent: parent,
        };
        if !run("mkfs.ext4", &["-q", "-F", file.to_str().unwrap()])
            || !image.mount()
            || !run("python3", &["-V"])
        {
            skip("cannot mount an ext4 image here (needs root, loop devices, mkfs.ext4 and python3)");
            return None;
        }
        Some(image)
    }

    fn mount(&self) -> bool {
        run("mount", &["-o", "loop", self.file.to_str().unwrap(), self.mount.directory.to_str().unwrap()])
    }

    /// Loses everything that was not synced: FS_IOC_SHUTDOWN without flushing the journal.
    fn cut_power(&self) -> bool {
        let script = "import fcntl, os, struct, sys\n\
                      fd = os.open(sys.argv[1], os.O_RDONLY)\n\
                      fcntl.ioctl(fd, 0x8004587D, struct.pack('I', 2))\n";
        run("python3", &["-c", script, self.mount.directory.to_str().unwrap()])
    }
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "shows what the trial was worth")]
async fn a_power_cut_loses_nothing_that_was_answered() {
    let Some(image) = Image::new() else { return };
    let answers = TempDir::new().unwrap();
    let path = image.mount.directory.join("deep/er/ledger.db");
    let mut answered = std::collections::BTreeSet::new();
    for round in 0..8 {
        let mut other = Other::start(&path, &answers.path().join("answers"), round * 1_000_000);
        std::thread::sleep(Duration::from_millis(rand::rng().random_range(50..300)));
        // Answers during the cut do not count: an fsync that is under way when the journal is shut down may
        // return success (a plain loop of write and fsync loses its last block to that as well).
        answered.extend(other.answered());
        if !image.cut_power() {
            skip("this kernel cannot shut a file system down");
            return;
        }
        other.kill();
        assert!(run("umount", &[image.mount.directory.to_str().unwrap()]));
        assert!(image.mount());
        assert_holds(&path, &answered, &format!("round {round}")).await;
    }
    println!("8 power cuts, {} answered calls, none lost", answered.len());
    assert!(!answered.is_empty());
}
