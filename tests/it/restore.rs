//! The way back: a tree that was migrated, lost and restored is what it was.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustix::fs::{XattrFlags, getxattr, setxattr};
use rustix::process::geteuid;

use crate::support::{Desk, Migrator, Remote, Report, bytes};

/// Everything that is to come back, by path.
fn inventory(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let stat = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if name == ".storage" {
                continue;
            }
            let what = if stat.is_dir() {
                left.push(path);
                continue;
            } else if stat.is_symlink() {
                format!("-> {:?} {}:{}", fs::read_link(&path).unwrap(), stat.uid(), stat.gid())
            } else {
                let mut value = [0; 256];
                let xattr =
                    getxattr(&path, "user.note", &mut value[..]).map(|length| value[..length].to_vec());
                let sum = storage_core::checksum::Digest::of(&fs::read(&path).unwrap());
                format!("{:o} {}:{} {sum} {:?}", stat.mode(), stat.uid(), stat.gid(), xattr.ok())
            };
            found.insert(name, format!("{what} {}.{:09}", stat.mtime(), stat.mtime_nsec()));
        }
    }
    found
}

/// Makes files of every kind that can come back.
fn plant(desk: &Desk) {
    let names = [
        "a",
        "deep/er/-rf",
        "new\nline",
        "é",
        "e\u{301}",
        " sp ",
        "percent %41+",
        "\"q\"\\",
        "x;y=z",
        "empty",
    ];
    for (number, name) in names.iter().enumerate() {
        let size = if *name == "empty" { 0 } else { 1_000 * number + 1 };
        let path = desk.write(&format!("source/{name}"), bytes(number as u8, size));
        let modes = [0o600, 0o644, 0o755, 0o444, 0o640, 0o4755, 0o2711, 0o1700, 0o604, 0o666];
        if geteuid().is_root() {
            chown(&path, Some(1_000 + number as u32), Some(2_000)).unwrap();
        }
        if number % 2 == 0
            && let Err(error) =
                setxattr(&path, "user.note", format!("{name}\0").as_bytes(), XattrFlags::empty())
        {
            test_rig::skip::unable(&format!("no extended attributes here: {error}"));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(modes[number])).unwrap();
        let modified = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000 + number as u64, 123_456_789);
        fs::File::open(&path).unwrap().set_modified(modified).unwrap();
    }
    desk.write("source/large", bytes(99, 12 << 20));
    for (name, to) in
        [("link", "a"), ("deep/dangling", "../no\nwhere"), ("loop", "loop"), ("abroad", "/etc/passwd")]
    {
        symlink(OsStr::from_bytes(to.as_bytes()), desk.source(name)).unwrap();
        if geteuid().is_root() {
            lchown(desk.source(name), Some(77), Some(88)).unwrap();
        }
    }
    std::thread::sleep(Duration::from_millis(20));
}

/// Migrates, loses and restores.
fn there_and_back(desk: &Desk, target: &str, run: impl Fn(Migrator) -> Migrator) {
    plant(desk);
    let before = inventory(&desk.path("source"));
    assert_eq!(before.len(), 15);
    let keep = ["--preserve", "all", "--part-size", "5MiB", "--report", "report"];
    let there = [&["copy", "source", target], &keep[..]].concat();
    let ran = run(desk.migrator(&there)).run().exits(0);
    assert_eq!(Report::read(&desk.path("report")).sum("copied"), 15, "{ran}");
    let again = run(desk.migrator(&there)).run().exits(0);
    assert_eq!(Report::read(&desk.path("report")).sum("unchanged"), 15, "{again}");
    let audit = ["verify", "source", target, "--preserve", "all", "--read-back"];
    run(desk.migrator(audit)).run().exits(0);

    // What is lost, and where it comes back to.
    fs::rename(desk.path("source"), desk.path("lost")).unwrap();
    let back = [&["restore", target, "source"], &keep[..]].concat();
    let ran = run(desk.migrator(&back)).run().exits(0);
    assert_eq!(inventory(&desk.path("source")), before, "{ran}");
    let ran = run(desk.migrator(&back)).run().exits(0);
    assert_eq!(Report::read(&desk.path("report")).sum("unchanged"), 15, "{ran}");

    let rsync = Command::new("rsync")
        .args(["-acniO", "--delete", "--exclude=/.storage", "lost/", "source/"])
        .current_dir(desk.path(""))
        .output();
    match rsync {
        Ok(output) => {
            let differences = String::from_utf8_lossy(&output.stdout);
            // Directories have the mode that whoever restores gives them.
            let files: Vec<_> = differences.lines().filter(|line| !line.starts_with(".d")).collect();
            assert!(output.status.success() && files.is_empty(), "{output:?}");
        }
        Err(error) => test_rig::skip::unable(&format!("rsync, the second judge, is not here: {error}")),
    }
}

#[test]
fn a_tree_that_was_lost_comes_back_from_the_embedded_server_as_it_was() {
    let desk = Desk::new();
    there_and_back(&desk, "embedded:bucket", |run| run);
}

#[test]
fn a_tree_that_was_lost_comes_back_from_garage_as_it_was() {
    let Some(remote) = Remote::garage() else { return };
    let desk = Desk::new();
    there_and_back(&desk, &remote.url(), |run| run.at(&remote.endpoint));
}

/// P6: an attribute that an object cannot carry is not dropped; its file fails, and says why.
#[test]
fn attributes_that_do_not_fit_an_object_fail_their_file_alone() {
    let desk = Desk::new();
    for name in ["fits", "heavy"] {
        desk.write(&format!("source/{name}"), name);
    }
    if let Err(error) = setxattr(desk.source("heavy"), "user.note", &[b'x'; 1_500], XattrFlags::empty()) {
        return test_rig::skip::unable(&format!("no extended attributes here: {error}"));
    }
    let line = ["copy", "source", "embedded:bucket", "--preserve", "mode,xattrs", "--report", "report"];
    let ran = desk.migrator(line).run().exits(4);
    let report = Report::read(&desk.path("report"));
    assert_eq!((report.sum("copied"), report.sum("failed")), (1, 1), "{ran}");
    assert_eq!(report.row("heavy").unwrap()["outcome"], "failed", "{ran}");
    assert!(!desk.path("bucket/heavy").exists());
}

/// Without a word nothing is kept, and a link stays a thing that is skipped.
#[test]
fn nothing_is_kept_that_was_not_asked_for() {
    let desk = Desk::new();
    desk.write("source/a", "a");
    symlink("a", desk.source("link")).unwrap();
    desk.migrator(["copy", "source", "embedded:bucket", "--report", "report"]).run().exits(0);
    let report = Report::read(&desk.path("report"));
    assert_eq!((report.sum("copied"), report.sum("skipped")), (1, 1));
    let refused = desk.migrator(["copy", "embedded:bucket", "embedded:other", "--preserve", "mode"]).run();
    refused.refuses(2, &["neither storage is a directory"]);
}
