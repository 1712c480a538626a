//! Files that change while they are copied, or changed since: one version, whole, or reported.
//!
//! The program reads 256 KiB at a time; a bandwidth of 1 MiB/s leaves a quarter of a second between two reads, in
//! which the test changes the file.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use test_rig::{Fate, Meddler};

use crate::support::{Desk, Files, Ran, Remote, Report, assert_same, bytes, entry, staged, stored};

const SIZE: usize = 1 << 20;

/// Starts a slow copy of `source/file` to `embedded:target`, does something to the file while it is read, and
/// returns what the copy came to.
fn meddled(desk: &Desk, meddle: impl FnOnce(&Path)) -> Ran {
    let file = desk.source("file");
    let arguments = ["copy", "source", "embedded:target", "--bandwidth", "1MiB/s", "--report", "report"];
    let mut running = desk.migrator(arguments).args(["--json"]).start();
    running.until("the file is open", |running| running.has_open(&file));
    // The first piece has been read; the next one waits for its turn.
    thread::sleep(Duration::from_millis(100));
    meddle(&file);
    running.wait()
}

fn one(data: &[u8]) -> Files {
    [("file".to_owned(), entry(data))].into()
}

fn retries(ran: &Ran) -> Vec<Value> {
    ran.events().into_iter().filter(|event| event["event"] == "retry").collect()
}

/// aws, s5cmd and s3sync publish the first half of one version and the second half of the other.
#[test]
fn a_file_rewritten_in_place_while_copied_is_one_version() {
    let desk = Desk::new();
    desk.write("source/file", bytes(1, SIZE));
    let new = bytes(2, SIZE);
    let ran = meddled(&desk, |path| {
        let mut file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all(&new).unwrap();
    })
    .exits(0);
    assert_same("target", &stored(&desk.path("target")), &one(&new));
    assert_eq!(retries(&ran).len(), 1, "{ran}");
    assert!(staged(&desk.path("target")).is_empty());
}

/// The same in parts, where those already sent are of the version that is no more.
#[test]
fn a_file_rewritten_in_place_between_its_parts_is_one_version() {
    let Some(remote) = Remote::garage() else { return };
    let desk = Desk::new();
    let file = desk.write("source/file", bytes(1, 12 << 20));
    let new = bytes(2, 12 << 20);
    let mut running = desk
        .migrator(["copy", "source", &remote.url(), "--part-size", "5MiB", "--bandwidth", "4MiB/s", "--json"])
        .args(["--report", "report"])
        .at(&remote.endpoint)
        .start();
    running.until("the file is open", |running| running.has_open(&file));
    // Past the first part, which is stored by then.
    thread::sleep(Duration::from_millis(1700));
    File::options().write(true).open(&file).unwrap().write_all(&new).unwrap();
    let ran = running.wait().exits(0);
    assert_same("Garage, seen by boto3", &remote.files(), &one(&new));
    assert_eq!(remote.uploads(), [], "{ran}");
    assert_eq!(retries(&ran).len(), 1, "{ran}");
    assert_eq!(Report::read(&desk.path("report")).sum("copied"), 1);
}

/// azcopy sends a part again from the disk, which by then has another file. What is sent again here is the buffer that
/// was hashed; and the file that changed meanwhile is copied afresh, whole.
#[test]
fn a_part_that_is_sent_again_is_of_the_version_that_is_published() {
    let Some(remote) = Remote::garage() else { return };
    let desk = Desk::new();
    let file = desk.write("source/file", bytes(1, 12 << 20));
    let new = bytes(2, 12 << 20);
    let (path, data) = (file.clone(), new.clone());
    let mut cuts = 0;
    let meddler = Meddler::start(remote.endpoint.address(), move |asked| {
        if asked.operation() != "UploadPart" || !asked.target.contains("partNumber=2") || cuts == 1 {
            return Fate::Pass;
        }
        cuts += 1;
        File::options().write(true).open(&path).unwrap().write_all(&data).unwrap();
        Fate::CutRequest(1 << 20)
    })
    .unwrap();
    let ran = desk
        .migrator(["copy", "source", &remote.url(), "--part-size", "5MiB", "--concurrency", "1", "--json"])
        .at(&remote.endpoint.via(meddler.address()))
        .run()
        .exits(0);
    assert_same("Garage, seen by boto3", &remote.files(), &one(&new));
    assert_eq!(remote.uploads(), [], "{ran}");
    assert!(meddler.log().iter().any(|(_, fate)| *fate == Fate::CutRequest(1 << 20)), "{ran}");
}

/// s3sync opens the file again for each part: 45 MiB of the old one and 55 MiB of the new.
#[test]
fn a_file_replaced_by_rename_while_copied_is_the_old_or_the_new_one() {
    let desk = Desk::new();
    desk.write("source/file", bytes(1, SIZE));
    let new = bytes(2, SIZE + 77);
    desk.write("next", &new);
    let ran = meddled(&desk, |path| fs::rename(desk.path("next"), path).unwrap()).exits(0);
    let target = stored(&desk.path("target"));
    assert!(target == one(&new) || target == one(&bytes(1, SIZE)), "{target:?}\n{ran}");
    // Whichever it was, the next run ends with the new one.
    desk.migrator(["copy", "source", "embedded:target"]).run().exits(0);
    assert_same("target", &stored(&desk.path("target")), &one(&new));
}

/// aws, s5cmd and s3sync publish what the file was when they looked at its size, and exit with 0.
#[test]
fn a_file_appended_to_while_copied_is_copied_again_whole() {
    let desk = Desk::new();
    desk.write("source/file", bytes(1, SIZE));
    let ran = meddled(&desk, |path| {
        OpenOptions::new().append(true).open(path).unwrap().write_all(b"one more line\n").unwrap();
    })
    .exits(0);
    let mut whole = bytes(1, SIZE);
    whole.extend_from_slice(b"one more line\n");
    assert_same("target", &stored(&desk.path("target")), &one(&whole));
    assert_eq!(retries(&ran).len(), 1, "{ran}");
}

/// A reader that waits for the bytes it was promised spins for ever; aws ends with a backtrace.
#[test]
fn a_file_truncated_while_copied_is_copied_afresh() {
    let desk = Desk::new();
    desk.write("source/file", bytes(1, SIZE));
    let ran = meddled(&desk, |path| {
        OpenOptions::new().write(true).open(path).unwrap().set_len(1000).unwrap();
    })
    .exits(0);
    assert_same("target", &stored(&desk.path("target")), &one(&bytes(1, SIZE)[..1000]));
    let retries = retries(&ran);
    assert!(retries.len() == 1 && retries[0]["detail"].as_str().unwrap().contains("source"), "{ran}");
}

/// A file that somebody never stops writing must end up in the report, and never half in the target; the older
/// copy stays.
#[test]
fn a_file_that_never_stops_changing_is_reported_and_not_published() {
    let desk = Desk::new();
    let old = bytes(1, SIZE);
    let path = desk.write("source/file", &old);
    desk.write("source/calm", "calm");
    let copy = desk.migrator(["copy", "source", "embedded:target", "--report", "report"]);
    copy.clone().run().exits(0);
    let over = AtomicBool::new(false);
    let ran = thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = OpenOptions::new().write(true).open(&path).unwrap();
            let mut turn = 2_u8;
            while !over.load(Ordering::Relaxed) {
                file.seek(SeekFrom::Start(0)).unwrap();
                file.write_all(&bytes(turn, 4096)).unwrap();
                turn = turn.wrapping_add(1);
                thread::sleep(Duration::from_millis(10));
            }
        });
        let ran = copy.clone().args(["--bandwidth", "512KiB/s"]).run();
        over.store(true, Ordering::Relaxed);
        ran
    });
    let ran = ran.exits(4);
    let mut expected = one(&old);
    expected.insert("calm".to_owned(), entry(b"calm"));
    assert_same("target", &stored(&desk.path("target")), &expected);
    assert!(staged(&desk.path("target")).is_empty());
    let report = Report::read(&desk.path("report"));
    assert_eq!((report.sum("unchanged"), report.sum("failed")), (1, 1));
    let row = report.row("file").unwrap();
    assert_eq!((row["reason"].as_str(), row["attempts"].as_str()), ("changing", "3"), "{row:?}");
    assert!(ran.stdout.contains("changing") && ran.stderr.contains("failed: file"), "{ran}");
    // It is quiet now: the same command heals it.
    copy.run().exits(0);
    expected.insert("file".to_owned(), entry(&fs::read(&path).unwrap()));
    assert_same("target", &stored(&desk.path("target")), &expected);
}

/// Copies `source/file`, changes it to what looks the same to a naive comparison, and copies again.
fn seen_by_the_second_run(change: impl FnOnce(&Path, SystemTime, &[u8])) {
    let desk = Desk::new();
    let path = desk.write("source/file", bytes(1, 5000));
    desk.write("source/other", "never touched");
    let copy = desk.migrator(["copy", "source", "embedded:target", "--report", "report"]);
    copy.clone().run().exits(0);
    let modified = path.metadata().unwrap().modified().unwrap();
    // The clock of change times may tick only 100 times a second.
    thread::sleep(Duration::from_millis(20));
    let new = bytes(2, 5000);
    change(&path, modified, &new);
    copy.clone().run().exits(0);
    assert_eq!(stored(&desk.path("target"))["file"], entry(&new));
    let report = Report::read(&desk.path("report"));
    assert_eq!((report.sum("copied"), report.sum("unchanged")), (1, 1));
    copy.run().exits(0);
    let report = Report::read(&desk.path("report"));
    assert_eq!((report.sum("copied"), report.sum("unchanged")), (0, 2));
}

/// A restore from a backup brings older times: aws, s5cmd and s3sync see nothing new.
#[test]
fn same_size_and_an_older_time_is_another_file() {
    seen_by_the_second_run(|path, modified, new| {
        fs::write(path, new).unwrap();
        let older = modified - Duration::from_secs(86_400);
        File::options().write(true).open(path).unwrap().set_modified(older).unwrap();
    });
}

/// rclone does not see it either; the change time cannot be set back.
#[test]
fn same_size_and_the_same_time_is_another_file() {
    seen_by_the_second_run(|path, modified, new| {
        fs::write(path, new).unwrap();
        File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
        assert_eq!(path.metadata().unwrap().modified().unwrap(), modified);
    });
}

/// `mv` of a file with the same size and time over the old one: only the inode tells.
#[test]
fn another_inode_of_the_same_size_and_time_is_another_file() {
    seen_by_the_second_run(|path, modified, new| {
        let beside = path.with_file_name("beside");
        fs::write(&beside, new).unwrap();
        File::options().write(true).open(&beside).unwrap().set_modified(modified).unwrap();
        fs::rename(&beside, path).unwrap();
    });
}

/// Starts a copy of `a` (slow) and `z`, does something to `z` after it was listed, and returns the rows.
fn between_listing_and_copying(meddle: impl FnOnce(&Desk, &Path)) -> (Desk, Ran, Report) {
    let desk = Desk::new();
    let first = desk.write("source/a", bytes(1, SIZE));
    let last = desk.write("source/z", "last");
    let mut running = desk
        .migrator(["copy", "source", "embedded:target", "--bandwidth", "1MiB/s", "--concurrency", "1"])
        .args(["--report", "report"])
        .start();
    running.until("the first file is open", |running| running.has_open(&first));
    meddle(&desk, &last);
    let ran = running.wait();
    let report = Report::read(&desk.path("report"));
    assert_eq!((report.sum("planned"), report.row("a").unwrap()["outcome"].as_str()), (2, "copied"));
    (desk, ran, report)
}

/// The user deleted it: nothing failed, and the sums must still add up.
#[test]
fn a_file_that_vanishes_between_listing_and_copying_is_no_failure() {
    let (desk, ran, report) = between_listing_and_copying(|_, path| fs::remove_file(path).unwrap());
    let ran = ran.exits(0);
    let row = report.row("z").unwrap();
    assert_eq!((row["outcome"].as_str(), row["reason"].as_str()), ("skipped", "vanished"), "{row:?}\n{ran}");
    assert!(!stored(&desk.path("target")).contains_key("z"));
}

/// A file that becomes a link while the copy runs must not lead the copy out of the source.
#[test]
fn a_file_that_becomes_a_link_is_not_followed() {
    let (desk, ran, report) = between_listing_and_copying(|desk, path| {
        desk.write("secret", "not of the source");
        fs::remove_file(path).unwrap();
        std::os::unix::fs::symlink(desk.path("secret"), path).unwrap();
    });
    let row = report.row("z").unwrap();
    assert!(row["outcome"] == "failed" || row["outcome"] == "skipped", "{row:?}\n{ran}");
    assert!(!stored(&desk.path("target")).contains_key("z"));
    assert_eq!(ran.status.code(), Some(if row["outcome"] == "failed" { 4 } else { 0 }));
}

/// Opening a fifo for reading waits for a writer: for ever.
#[test]
fn a_file_that_becomes_a_fifo_does_not_hang_the_copy() {
    let (desk, ran, report) = between_listing_and_copying(|_, path| {
        fs::remove_file(path).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    });
    let row = report.row("z").unwrap();
    assert!(row["outcome"] == "failed" || row["outcome"] == "skipped", "{row:?}\n{ran}");
    assert!(!stored(&desk.path("target")).contains_key("z"));
}

/// The same for a directory in its place.
#[test]
fn a_file_that_becomes_a_directory_is_not_copied() {
    let (desk, ran, _) = between_listing_and_copying(|_, path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
        fs::write(path.join("inside"), "inside").unwrap();
    });
    let ran = ran.exits(0);
    assert!(!stored(&desk.path("target")).contains_key("z"), "{ran}");
    desk.migrator(["copy", "source", "embedded:target"]).run().exits(0);
    assert_eq!(stored(&desk.path("target"))["z/inside"], entry(b"inside"));
}
