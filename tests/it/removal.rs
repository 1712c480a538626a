//! `copy --remove-source`: what is moved away, what must stay, and that nothing takes the only copy for left over.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::geteuid;
use serde_json::Value;
use test_rig::{Manifest, Strace, skip};

mod emptying;
mod ledgers;

use crate::support::{Desk, Files, Migrator, Ran, Remote, Report, assert_same, bytes, count, entry, stored};

const NAMES: [&str; 5] = ["a", "d/1", "d/deep/2", "new\nline é", "-rf"];

/// A desk with five files in its source.
fn furnished() -> (Desk, Files) {
    let desk = Desk::new();
    let mut files = Files::new();
    for (number, name) in NAMES.iter().enumerate() {
        let data = bytes(number as u8, 1000 + number);
        desk.write(&format!("source/{name}"), &data);
        files.insert((*name).to_owned(), entry(&data));
    }
    (desk, files)
}

fn run(desk: &Desk, line: &[&str]) -> Migrator {
    desk.migrator(line)
}

fn remove(desk: &Desk) -> Migrator {
    run(desk, &["copy", "source", "embedded:target", "--remove-source", "--report", "report"])
}

/// The files in the source's quarantine, under the names that they had; of several versions one.
pub(crate) fn away(source: &Path) -> Files {
    let home = source.join(".storage/quarantine");
    let Ok(found) = Manifest::read(&home) else { return Files::new() };
    // Beside the drawers are the marks of runs.
    let name = |path: Vec<u8>| {
        let path = String::from_utf8(path).unwrap();
        path.splitn(3, '/').nth(2).map(str::to_owned)
    };
    found.files.into_iter().filter_map(|(path, entry)| Some((name(path)?, entry))).collect()
}

/// The drawers of the source's quarantine.
fn drawers(source: &Path) -> Vec<PathBuf> {
    let entries = |path: &Path| -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let pairs = entries(&source.join(".storage/quarantine"));
    pairs.iter().flat_map(|pair| entries(pair)).filter(|path| path.is_dir()).collect()
}

fn states(desk: &Desk) -> BTreeMap<String, u64> {
    let ran = run(desk, &["status", "source", "embedded:target", "--json"]).run().exits(0);
    let told: Value = serde_json::from_str(ran.stdout.trim()).unwrap();
    told["states"].as_object().unwrap().iter().map(|(name, sum)| (name.clone(), count(sum))).collect()
}

/// Whatever a sync is allowed: the copies stay.
#[track_caller]
fn no_sync_deletes(desk: &Desk, files: &Files) {
    for more in [
        &["--max-delete", "100%"][..],
        &["--max-delete", "100%", "--allow-empty-source"],
        &["--max-delete", "100%", "--allow-empty-source", "--quarantine-days", "0"],
        &["--max-delete", "100%", "--allow-empty-source", "--exclude", "d/**", "--delete-excluded"],
    ] {
        let line = [&["sync", "source", "embedded:target", "--delete", "--report", "report"], more].concat();
        let ran = run(desk, &line).run().exits(0);
        assert_same(&format!("target after {more:?}\n{ran}"), &stored(&desk.path("target")), files);
        let report = Report::read(&desk.path("report"));
        assert_eq!(report.json["candidates"], 0, "{ran}");
    }
}

#[test]
fn what_is_in_the_target_is_moved_away_and_no_sync_takes_its_copy_for_left_over() {
    let (desk, files) = furnished();
    let ran = remove(&desk).run().exits(0);
    assert_eq!(stored(&desk.path("source")), Files::new(), "{ran}");
    assert_same("quarantine", &away(&desk.path("source")), &files);
    assert_same("target", &stored(&desk.path("target")), &files);
    assert!(desk.source("d/deep").is_dir(), "directories stay");
    let report = Report::read(&desk.path("report"));
    let sums = ["planned", "copied", "unchanged", "failed", "source_removed"].map(|name| report.sum(name));
    assert_eq!(sums, [5, 5, 0, 0, 5], "{ran}");
    assert!(ran.stdout.contains("5 files, moved from the source to its quarantine"), "{ran}");
    let row = report.row("d/1").unwrap();
    assert_eq!((&row["outcome"][..], &row["reason"][..]), ("copied", "source_removed"));
    assert!(row["error"].starts_with("moved to .storage/quarantine/"), "{row:?}");
    assert_eq!(report.sums.lines().count(), 5, "{}", report.sums);
    assert_eq!(states(&desk), [("retired".to_owned(), 5)].into());

    no_sync_deletes(&desk, &files);

    // An empty source is what was made of it, and no second copy finds anything.
    let ran = remove(&desk).run().exits(0);
    assert_eq!(Report::read(&desk.path("report")).sum("planned"), 0, "{ran}");
    // Audited as before.
    for read_back in [&[][..], &["--read-back"]] {
        let line = [&["verify", "source", "embedded:target", "--report", "report"], read_back].concat();
        let ran = run(&desk, &line).run().exits(0);
        let report = Report::read(&desk.path("report"));
        let sums = ["planned", "unchanged", "extra", "gone"].map(|name| report.sum(name));
        assert_eq!(sums, [5, 5, 0, 0], "{ran}");
        assert_eq!(report.rows.iter().filter(|row| row["outcome"] == "matched").count(), 5, "{ran}");
    }
    assert_eq!(states(&desk), [("retired".to_owned(), 5)].into());
    let told = run(&desk, &["explain", "source", "embedded:target", "d/1"]).run().exits(0);
    assert!(
        told.stdout.contains("retired") && told.stdout.contains("moved to  .storage/quarantine/"),
        "{told}"
    );
    let plan = run(&desk, &["plan", "source", "embedded:target"]).run().exits(0);
    assert!(plan.stdout.contains("5 files") && !plan.stdout.contains("gone from the source"), "{plan}");
    no_sync_deletes(&desk, &files);
}

#[test]
fn a_real_server_is_moved_to_and_looked_at_again() {
    let Some(remote) = Remote::garage() else { return };
    let (desk, files) = furnished();
    let pair = ["source", &remote.url()];
    let at = |line: &[&str]| run(&desk, line).at(&remote.endpoint);
    at(&["copy", pair[0], pair[1]]).run().exits(0);
    // The object exists, with the right size: other programs delete the local file now.
    remote.put("a", &bytes(99, 1000));
    remote.delete("d/1");
    let line = ["copy", pair[0], pair[1], "--remove-source", "--report", "report"];
    let ran = at(&line).run().exits(4);
    let left: Vec<_> = stored(&desk.path("source")).into_keys().collect();
    assert_eq!(left, ["a", "d/1"], "{ran}");
    let report = Report::read(&desk.path("report"));
    let sums = ["unchanged", "failed", "source_removed"].map(|name| report.sum(name));
    assert_eq!(sums, [3, 2, 3], "{ran}");
    for (name, reason) in [("a", "different"), ("d/1", "missing")] {
        let row = report.row(name).unwrap();
        assert_eq!((&row["outcome"][..], &row["reason"][..]), ("failed", reason), "{ran}");
        assert!(row["error"].starts_with("it stays in the source: "), "{row:?}");
    }
    // They are copied again, and go then.
    let ran = at(&line).run().exits(0);
    assert_eq!(stored(&desk.path("source")), Files::new(), "{ran}");
    assert_same("Garage", &remote.files(), &files);
    let sync = ["sync", pair[0], pair[1], "--delete", "--allow-empty-source", "--max-delete", "100%"];
    let ran = at(&sync).run().exits(0);
    assert_same(&format!("Garage\n{ran}"), &remote.files(), &files);
    at(&["verify", pair[0], pair[1], "--read-back"]).run().exits(0);
    // The way back.
    at(&["restore", pair[1], "back"]).run().exits(0);
    assert_same("back", &stored(&desk.path("back")), &files);
}

/// GitLab, Moodle and Synapse delete the local file because there is an object.
#[test]
fn a_copy_that_was_tampered_with_keeps_the_source_whatever_its_attributes_say() {
    let (desk, files) = furnished();
    run(&desk, &["copy", "source", "embedded:target"]).run().exits(0);
    // Size, time and attributes stay; the bytes do not.
    let path = desk.path("target/a");
    let modified = path.metadata().unwrap().modified().unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"?", 500).unwrap();
    file.set_modified(modified).unwrap();
    drop(file);
    let ran = remove(&desk).run().exits(4);
    assert_eq!(stored(&desk.path("source")).into_keys().collect::<Vec<_>>(), ["a"], "{ran}");
    assert_eq!(Report::read(&desk.path("report")).row("a").unwrap()["reason"], "different", "{ran}");
    remove(&desk).run().exits(0);
    assert_same("target", &stored(&desk.path("target")), &files);
}

/// With `--verify all` nothing but reading is believed.
#[test]
fn every_byte_is_read_before_a_file_is_moved_where_that_is_asked_for() {
    let (desk, _) = furnished();
    run(&desk, &["copy", "source", "embedded:target"]).run().exits(0);
    let ran = remove(&desk).args(["--verify", "all"]).run().exits(0);
    let report = Report::read(&desk.path("report"));
    assert_eq!(report.sum("source_removed"), 5, "{ran}");
    assert!(report.json["work"]["bytes_read"].as_u64().unwrap() >= 5000, "{ran}");
    assert_eq!(Report::read(&desk.path("report/verify")).sum("unchanged"), 5, "{ran}");
}

#[test]
fn a_file_that_comes_again_under_the_name_is_a_new_version() {
    let (desk, mut files) = furnished();
    remove(&desk).run().exits(0);
    desk.write("source/a", "newer");
    files.insert("a".to_owned(), entry(b"newer"));
    let ran = run(&desk, &["copy", "source", "embedded:target"]).run().exits(0);
    assert_same(&format!("target\n{ran}"), &stored(&desk.path("target")), &files);
    no_sync_deletes(&desk, &files);
    remove(&desk).run().exits(0);
    assert_eq!(stored(&desk.path("source")), Files::new());
    assert_eq!(drawers(&desk.path("source")).len(), 2, "both versions are in quarantine");
    no_sync_deletes(&desk, &files);
    // Moved back by hand, it is copied again, as nobody can tell what it is.
    let kept = drawers(&desk.path("source")).into_iter().map(|drawer| drawer.join("d/1"));
    fs::rename(kept.into_iter().find(|path| path.exists()).unwrap(), desk.source("d/1")).unwrap();
    run(&desk, &["copy", "source", "embedded:target"]).run().exits(0);
    assert_same("target", &stored(&desk.path("target")), &files);
    // What its owner removes now is gone, as any file is.
    fs::remove_file(desk.source("d/1")).unwrap();
    let line = ["sync", "source", "embedded:target", "--delete", "--allow-empty-source"];
    let ran = run(&desk, &line).run().exits(0);
    let target = stored(&desk.path("target"));
    assert!(!target.contains_key("d/1") && target.contains_key("d/deep/2"), "{ran}");
}

/// A newer version that came, failed to be copied and went again: the target has what was moved away, still.
#[test]
fn a_newer_version_that_never_arrived_does_not_cost_the_older_one() {
    let (desk, files) = furnished();
    remove(&desk).run().exits(0);
    desk.write("source/a", "newer");
    desk.give_to_nobody();
    fs::set_permissions(desk.source("a"), Permissions::from_mode(0o000)).unwrap();
    run(&desk, &["copy", "source", "embedded:target"]).by_nobody().run().exits(4);
    fs::remove_file(desk.source("a")).unwrap();
    let line =
        ["sync", "source", "embedded:target", "--delete", "--allow-empty-source", "--max-delete", "100%"];
    for _ in 0..2 {
        let ran = run(&desk, &line).by_nobody().run().exits(0);
        assert_same(&format!("target\n{ran}"), &stored(&desk.path("target")), &files);
    }
}

/// The ledger is lost with the machine's state directory: nobody knows any more what was moved away.
#[test]
fn a_ledger_that_knows_nothing_of_it_deletes_nothing() {
    let (desk, files) = furnished();
    remove(&desk).run().exits(0);
    desk.write("source/other", "other");
    let line =
        ["sync", "source", "embedded:target", "--delete", "--ledger", "fresh.sqlite", "--max-delete", "100%"];
    let ran = run(&desk, &line).run().refuses(6, &["moved away", ".storage/quarantine/", "--ledger"]);
    assert_same(&format!("target\n{ran}"), &stored(&desk.path("target")), &files);
}

#[test]
fn what_failed_is_left_out_or_is_of_another_file_system_stays() {
    let (desk, _) = furnished();
    desk.write("source/unreadable", "x");
    desk.write("source/left/out", "x");
    desk.give_to_nobody();
    fs::set_permissions(desk.source("unreadable"), Permissions::from_mode(0o000)).unwrap();
    let ran = remove(&desk).args(["--exclude", "left/**"]).by_nobody().run();
    fs::set_permissions(desk.source("unreadable"), Permissions::from_mode(0o644)).unwrap();
    let ran = ran.exits(4);
    let left: Vec<_> = stored(&desk.path("source")).into_keys().collect();
    assert_eq!(left, ["left/out", "unreadable"], "{ran}");

    if !geteuid().is_root() {
        return skip::unable("only root may mount a file system");
    }
    let mount = desk.source("mounted");
    fs::create_dir(&mount).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&mount).status();
    if !mounted.unwrap().success() {
        return skip::unable("this machine mounts no tmpfs");
    }
    fs::write(mount.join("there"), "there").unwrap();
    let ran = remove(&desk).args(["--include", "mounted/**"]).run();
    let stays = mount.join("there").exists();
    Command::new("umount").arg(&mount).status().unwrap();
    let ran = ran.exits(4);
    assert!(stays, "{ran}");
    assert!(ran.stdout.contains("on another file system than the quarantine"), "{ran}");
}

/// A writer that has the file open writes to it between the last look and the rename.
#[test]
fn a_file_that_is_written_to_while_it_is_moved_comes_back() {
    let (desk, _) = furnished();
    run(&desk, &["copy", "source", "embedded:target"]).run().exits(0);
    let Some(strace) = Strace::new("/dev/null") else { return };
    let slow = strace.inject("renameat2", "delay_enter=1500000");
    let mut moving = remove(&desk).args(["--include", "/a"]).under(slow).start();
    let mut writer = OpenOptions::new().append(true).open(desk.source("a")).unwrap();
    moving.until("the quarantine is there", |_| !drawers(&desk.path("source")).is_empty());
    thread::sleep(Duration::from_millis(400));
    writer.write_all(b"more").unwrap();
    let ran = moving.wait().exits(4);
    let mut expected = bytes(0, 1000);
    expected.extend(b"more");
    assert_eq!(stored(&desk.path("source")).get("a"), Some(&entry(&expected)), "{ran}");
    assert_eq!(Report::read(&desk.path("report")).row("a").unwrap()["reason"], "changing", "{ran}");
    // It is what it is: a changed file.
    remove(&desk).run().exits(0);
    assert_eq!(stored(&desk.path("target"))["a"], entry(&expected));
}

/// As above, on a file system that cannot refuse to replace a name (NFS), and somebody takes the name meanwhile.
#[test]
fn a_file_that_comes_back_replaces_none_that_came_meanwhile() {
    let (desk, _) = furnished();
    run(&desk, &["copy", "source", "embedded:target"]).run().exits(0);
    let Some(mut strace) = Strace::new("/dev/null") else { return };
    strace = strace.path(desk.path("source")).inject("renameat2", "error=EINVAL");
    for call in ["?renameat", "linkat"] {
        strace = strace.inject(call, "delay_enter=1500000");
    }
    let mut moving = remove(&desk).args(["--include", "/a"]).under(strace).start();
    let mut writer = OpenOptions::new().append(true).open(desk.source("a")).unwrap();
    moving.until("the quarantine is there", |_| !drawers(&desk.path("source")).is_empty());
    thread::sleep(Duration::from_millis(400));
    writer.write_all(b"more").unwrap();
    moving.until("it is moved", |_| !desk.source("a").exists());
    desk.write("source/a", "came meanwhile");
    let ran = moving.wait().exits(4);
    assert_eq!(fs::read_to_string(desk.source("a")).unwrap(), "came meanwhile", "{ran}");
    let mut expected = bytes(0, 1000);
    expected.extend(b"more");
    assert_eq!(away(&desk.path("source")).get("a"), Some(&entry(&expected)), "{ran}");
}

#[test]
fn links_are_moved_as_links_and_hard_links_one_name_a_run() {
    let (desk, _) = furnished();
    symlink("a", desk.source("link")).unwrap();
    fs::hard_link(desk.source("a"), desk.source("twin")).unwrap();
    let line = ["--preserve", "symlinks"];
    // Moving one name changes the change time of the other: it is looked at as any changed file.
    let ran = remove(&desk).args(line).run().exits(4);
    assert_eq!(Report::read(&desk.path("report")).row("twin").unwrap()["reason"], "changing", "{ran}");
    let ran = remove(&desk).args(line).run().exits(0);
    assert!(desk.source("link").symlink_metadata().is_err(), "{ran}");
    assert_eq!(stored(&desk.path("source")), Files::new(), "{ran}");
    let link = drawers(&desk.path("source")).into_iter().map(|drawer| drawer.join("link"));
    let link = link.into_iter().find(|path| path.is_symlink()).unwrap();
    assert_eq!(fs::read_link(link).unwrap(), Path::new("a"));
}

#[test]
fn what_it_cannot_do_is_refused_before_anything_is_done() {
    let (desk, files) = furnished();
    desk.write("bucket/a", "a");
    for (line, words) in [
        (&["copy", "embedded:bucket", "back", "--remove-source"][..], &["--remove-source", "embedded:"][..]),
        (&["copy", "s3://bucket/p", "back", "--remove-source"], &["--remove-source", "s3://bucket/p"]),
        (&["copy", "source", "embedded:target", "--remove-source", "--verify", "none"], &["--verify none"]),
    ] {
        run(&desk, line).run().refuses(2, words);
    }
    for line in [
        &["sync", "source", "embedded:target", "--remove-source"][..],
        &["copy", "source", "embedded:target", "--quarantine-days", "3"],
        &["copy", "source", "embedded:target", "--remove-source", "--quarantine-days", "0"],
    ] {
        run(&desk, line).run().exits(2);
    }
    assert_same("source", &stored(&desk.path("source")), &files);
    assert!(!desk.path("target").exists() && !desk.path("back").exists());
}

/// What a run has told of a file is followed by what it told later: the last line counts.
#[test]
fn events_tell_where_a_file_went() {
    let (desk, _) = furnished();
    let ran: Ran = remove(&desk).args(["--json"]).run().exits(0);
    let told = |reason: &str| {
        ran.events().iter().filter(|event| event["event"] == "file" && event["reason"] == reason).count()
    };
    assert_eq!(told("source_removed"), 5, "{ran}");
    assert_eq!(count(&ran.summary()["sums"]["source_removed"]), 5, "{ran}");
}
