//! `sync --delete` and everything that must keep it from deleting.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::process::geteuid;
use test_rig::{Strace, skip, strace};

use crate::support::{Desk, Files, Migrator, Ran, Remote, Report, assert_same, entry, stored};

const SYNCS: &str = "fsync,fdatasync";

const NAMES: [&str; 6] = ["a", "b", "d/1", "d/2", "e/deep/3", "zz"];

/// A desk whose target has six files that came from the source.
fn mirrored() -> Desk {
    let desk = Desk::new();
    for name in NAMES {
        desk.write(&format!("source/{name}"), name);
    }
    sync(&desk).run().exits(0);
    assert_eq!(stored(&desk.path("target")).len(), 6);
    desk
}

fn sync(desk: &Desk) -> Migrator {
    desk.migrator(["sync", "source", "embedded:target", "--delete", "--report", "report"])
}

/// Takes the files in quarantine out, and returns them under the names that they had.
fn put_away(files: &mut Files) -> Files {
    let away = files.extract_if(.., |name, _| name.starts_with(".quarantine/"));
    away.map(|(name, entry)| (name.splitn(3, '/').nth(2).unwrap().to_owned(), entry)).collect()
}

/// Asserts that all six files are where they were, and none is in quarantine.
#[track_caller]
fn nothing_is_deleted(desk: &Desk, ran: &Ran) {
    let files = stored(&desk.path("target"));
    let missing: Vec<_> = NAMES.iter().filter(|name| !files.contains_key(**name)).collect();
    assert!(missing.is_empty(), "deleted: {missing:?}\n{ran}");
    assert!(!files.keys().any(|name| name.starts_with(".quarantine/")), "{files:?}\n{ran}");
}

/// Asserts that a refusal names what would have been removed, to people and to programs, and how many there are.
#[track_caller]
fn names_what_stays(desk: &Desk, ran: &Ran, names: &[&str]) {
    let count = if names.len() == 1 { "1 file".to_owned() } else { format!("{} files", names.len()) };
    assert!(ran.stdout.contains(&format!("would have been removed from the target ({count}):\n")), "{ran}");
    let report = Report::read(&desk.path("report"));
    let page = fs::read_to_string(desk.path("report/report.html")).unwrap();
    assert!(page.contains("Not removed from the target"), "{page}");
    assert_eq!(report.json["candidates"], names.len(), "{ran}");
    let told: Vec<_> = report.json["withheld_files"].as_array().unwrap().iter().collect();
    assert_eq!(told.iter().map(|file| file["id"].as_str().unwrap()).collect::<Vec<_>>(), names, "{ran}");
    for name in names {
        assert!(ran.stdout.contains(&format!("\n  {name}  ")), "{name}\n{ran}");
        assert!(page.contains(&format!("<bdi class=\"name\">{name}</bdi>")), "{name}\n{page}");
    }
}

#[test]
fn what_left_the_source_is_moved_to_the_quarantine_and_the_sums_say_so() {
    let desk = mirrored();
    fs::remove_file(desk.source("a")).unwrap();
    fs::remove_dir_all(desk.source("d")).unwrap();
    desk.write("source/new", "new");
    let ran = sync(&desk).run().exits(0);
    let mut files = stored(&desk.path("target"));
    let away = put_away(&mut files);
    let of = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), entry(name.as_bytes()))).collect();
    assert_same("target", &files, &of(&["b", "e/deep/3", "new", "zz"]));
    assert_same("quarantine", &away, &of(&["a", "d/1", "d/2"]));
    let report = Report::read(&desk.path("report"));
    let sums =
        ["planned", "copied", "unchanged", "quarantined", "deleted", "gone"].map(|name| report.sum(name));
    assert_eq!(sums, [4, 1, 3, 3, 0, 0], "{ran}");
    assert_eq!(report.json["candidates"], 3);
    assert!(report.row("d/1").unwrap()["error"].starts_with(".quarantine/until-"), "{:?}", report.row("d/1"));
    assert!(ran.stdout.contains("quarantined"), "{ran}");
    // What was removed is said, and spoils no figure of what is there.
    let page = fs::read_to_string(desk.path("report/report.html")).unwrap();
    assert!(page.contains("Removed from the target") && page.contains("Stays until"), "{page}");
    assert!(page.contains("100 % of the files of this run are proven"), "{page}");

    // It is no file any more: not copied back, not deleted, not extra.
    let ran = sync(&desk).run().exits(0);
    assert_eq!(put_away(&mut stored(&desk.path("target"))).len(), 3, "{ran}");
    desk.migrator(["verify", "source", "embedded:target", "--report", "report"]).run().exits(0);
    assert_eq!(Report::read(&desk.path("report")).sum("extra"), 0);
    desk.migrator(["copy", "embedded:target", "back"]).run().exits(0);
    assert_eq!(stored(&desk.path("back")).len(), 4);

    // What is back in the source is copied again.
    desk.write("source/a", "a");
    sync(&desk).run().exits(0);
    assert_eq!(stored(&desk.path("target"))["a"], entry(b"a"));
}

#[test]
fn without_delete_a_sync_deletes_nothing() {
    let desk = mirrored();
    fs::remove_file(desk.source("a")).unwrap();
    let ran = desk.migrator(["sync", "source", "embedded:target"]).run().exits(0);
    nothing_is_deleted(&desk, &ran);
}

/// s5cmd: one dangling link or unreadable directory, and 6 of 9 good objects are deleted, exit 0.
#[test]
fn one_unreadable_directory_and_nothing_is_deleted() {
    let desk = mirrored();
    desk.give_to_nobody();
    fs::remove_file(desk.source("a")).unwrap();
    fs::set_permissions(desk.source("d"), Permissions::from_mode(0o000)).unwrap();
    let ran = sync(&desk).by_nobody().run();
    fs::set_permissions(desk.source("d"), Permissions::from_mode(0o755)).unwrap();
    let ran = ran.exits(4);
    nothing_is_deleted(&desk, &ran);
    let report = Report::read(&desk.path("report"));
    assert_eq!(report.json["withheld"], "source_incomplete");
    // What lies in the part that could not be read is not among it.
    names_what_stays(&desk, &ran, &["a"]);
    assert!(ran.stdout.contains("nothing was deleted: a part of the source could not be read"), "{ran}");
    // Readable again, it goes on.
    sync(&desk).by_nobody().run().exits(0);
    assert!(!stored(&desk.path("target")).contains_key("a"));
}

#[test]
fn one_dangling_link_is_skipped_and_nothing_good_is_deleted() {
    let desk = mirrored();
    symlink("nowhere", desk.source("link")).unwrap();
    let ran = sync(&desk).run().exits(0);
    nothing_is_deleted(&desk, &ran);
    // Where a directory became a link, what is behind it was not seen.
    fs::rename(desk.source("d"), desk.path("elsewhere")).unwrap();
    symlink(desk.path("elsewhere"), desk.source("d")).unwrap();
    let ran = sync(&desk).run().exits(0);
    nothing_is_deleted(&desk, &ran);
    let report = Report::read(&desk.path("report"));
    assert_eq!((report.sum("kept"), report.json["candidates"].as_u64()), (2, Some(0)), "{ran}");
}

/// s3sync removes the copy of a file that it cannot read.
#[test]
fn an_unreadable_file_whose_copy_exists_keeps_it() {
    let desk = mirrored();
    desk.give_to_nobody();
    fs::set_permissions(desk.source("b"), Permissions::from_mode(0o000)).unwrap();
    fs::remove_file(desk.source("a")).unwrap();
    let ran = sync(&desk).by_nobody().run().exits(4);
    nothing_is_deleted(&desk, &ran);
    assert!(ran.stderr.contains('b'), "{ran}");
}

#[test]
fn one_failed_copy_and_nothing_is_deleted() {
    let desk = mirrored();
    fs::remove_file(desk.source("a")).unwrap();
    // A directory target cannot have a file where it has a directory.
    let sync = desk.migrator(["sync", "source", "plain", "--delete", "--report", "report"]);
    desk.write("plain/x/1", "only in the target");
    desk.write("source/x", "a file");
    let ran = sync.run().exits(4);
    assert!(stored(&desk.path("plain")).contains_key("x/1"), "{ran}");
    assert_eq!(Report::read(&desk.path("report")).json["withheld"], "copy_failed");
    names_what_stays(&desk, &ran, &["x/1"]);
    assert!(ran.stdout.contains("nothing was deleted: files failed to be copied"), "{ran}");
}

#[test]
fn a_target_that_cannot_be_read_as_a_whole_loses_nothing() {
    let desk = Desk::new();
    desk.write("source/a", "a");
    desk.write("plain/old", "old");
    desk.write("plain/closed/x", "x");
    desk.give_to_nobody();
    fs::set_permissions(desk.path("plain/closed"), Permissions::from_mode(0o000)).unwrap();
    let sync = desk.migrator(["sync", "source", "plain", "--delete", "--report", "report"]);
    let ran = sync.by_nobody().run();
    fs::set_permissions(desk.path("plain/closed"), Permissions::from_mode(0o755)).unwrap();
    let ran = ran.exits(4);
    assert!(stored(&desk.path("plain")).contains_key("old"), "{ran}");
    assert_eq!(Report::read(&desk.path("report")).json["withheld"], "target_incomplete");
    assert!(ran.stderr.contains("closed"), "{ran}");
}

/// aws, s5cmd, rclone and s3sync all wipe the target, exit 0.
#[test]
fn an_empty_source_deletes_nothing() {
    let desk = mirrored();
    fs::rename(desk.path("source"), desk.path("unmounted")).unwrap();
    fs::create_dir(desk.path("source")).unwrap();
    let ran = sync(&desk).run().refuses(6, &["the source is empty", "--allow-empty-source"]);
    nothing_is_deleted(&desk, &ran);
    // What the option would do is said before it is used.
    assert!(!ran.stderr.contains("stays") && ran.stderr.contains("ALL files of the target"), "{ran}");
    assert!(ran.stderr.contains("moved to its quarantine"), "{ran}");
    let named = "would have been removed from the target (6 files):\n  a  1 B\n  b  1 B\n  d/1  3 B\n";
    assert!(ran.stderr.contains(named), "{ran}");
    let told = desk.migrator(["sync", "source", "embedded:target", "--delete", "--json"]).run().exits(6);
    let told = told.events().into_iter().find(|event| event["event"] == "withheld").unwrap();
    assert_eq!((&told["candidates"], told["files"].as_array().unwrap().len()), (&6.into(), 6));
    let ran = sync(&desk).args(["--quarantine-days", "0"]).run().refuses(6, &["deleted at once"]);
    nothing_is_deleted(&desk, &ran);
    let copy = desk.migrator(["copy", "source", "embedded:target"]);
    copy.run().refuses(6, &["what is in the target stays"]);
    // Also where no ledger knows that there was something.
    let fresh = sync(&desk).args(["--ledger", "fresh.sqlite"]);
    let ran = fresh.clone().run().exits(6);
    assert!(ran.stderr.contains("6 files") && ran.stderr.contains("--allow-empty-source"), "{ran}");
    nothing_is_deleted(&desk, &ran);
    let ran = fresh.args(["--allow-empty-source"]).run().exits(0);
    assert_eq!(put_away(&mut stored(&desk.path("target"))).len(), 6, "{ran}");
}

#[test]
fn a_source_that_is_not_there_deletes_nothing() {
    let desk = mirrored();
    fs::rename(desk.path("source"), desk.path("unmounted")).unwrap();
    let ran = sync(&desk).run().refuses(3, &["source", "does not exist", "mounted"]);
    nothing_is_deleted(&desk, &ran);
}

/// A mount point without its file system may still have a file or two in it.
#[test]
fn a_source_on_another_filesystem_than_before_deletes_nothing() {
    if !geteuid().is_root() {
        return skip::unable("only root may mount a file system");
    }
    struct Mounted<'p>(&'p Path);
    impl Drop for Mounted<'_> {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(self.0).status();
        }
    }
    let desk = mirrored();
    let source = desk.path("source");
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&source).status();
    if !mount.unwrap().success() {
        return skip::unable("this machine mounts no tmpfs");
    }
    let _mounted = Mounted(&source);
    desk.write("source/stray", "stray");
    let ran = sync(&desk).run().refuses(6, &["another file system", "--allow-other-filesystem"]);
    nothing_is_deleted(&desk, &ran);
    assert!(!stored(&desk.path("target")).contains_key("stray"), "{ran}");
    assert!(ran.stderr.contains("would have been removed from the target (6 files):"), "{ran}");
    let mounted = format!("the source {0}, mounted at {0}, is on another file system", source.display());
    let ids = ran.stderr.matches("file system ").count() + ran.stderr.matches("device ").count();
    assert!(ran.stderr.contains(&mounted) && ids >= 2, "{ran}");
    // A copy in between does not make it right.
    desk.migrator(["copy", "source", "embedded:target"]).run().exits(0);
    let ran = sync(&desk).run().refuses(6, &["--allow-other-filesystem"]);
    nothing_is_deleted(&desk, &ran);
    sync(&desk).args(["--allow-other-filesystem"]).run().exits(0);
    let ran = sync(&desk).run().exits(0);
    assert_eq!(put_away(&mut stored(&desk.path("target"))).len(), 6, "{ran}");
}

#[test]
fn more_than_max_delete_deletes_nothing() {
    let desk = mirrored();
    for name in ["a", "b", "zz"] {
        fs::remove_file(desk.source(name)).unwrap();
    }
    desk.write("source/new", "new");
    for limit in ["2", "0", "40%"] {
        let ran = sync(&desk).args(["--max-delete", limit]).run().exits(6);
        assert!(ran.stderr.contains("3 of 7 files") && ran.stderr.contains("--max-delete 3"), "{ran}");
        nothing_is_deleted(&desk, &ran);
        let report = Report::read(&desk.path("report"));
        assert_eq!(
            (&report.json["withheld"], &report.json["result"]),
            (&"too_many".into(), &"refused".into())
        );
        names_what_stays(&desk, &ran, &["a", "b", "zz"]);
    }
    assert!(stored(&desk.path("target")).contains_key("new"), "what could be copied is copied");
    for wrong in ["many", "101%", "-1"] {
        sync(&desk).args([format!("--max-delete={wrong}")]).run().exits(2);
    }
    desk.migrator(["sync", "source", "embedded:target", "--max-delete", "3"]).run().exits(2);
    let ran = sync(&desk).args(["--max-delete", "3"]).run().exits(0);
    assert_eq!(put_away(&mut stored(&desk.path("target"))).len(), 3, "{ran}");
}

#[test]
fn more_than_a_thousand_files_need_leave() {
    let desk = Desk::new();
    desk.write("source/kept", "kept");
    for number in 0..1001 {
        desk.write(&format!("plain/{number}"), "");
    }
    let sync = desk.migrator(["sync", "source", "plain", "--delete", "--quarantine-days", "0"]);
    let ran = sync.clone().run().exits(6);
    assert!(ran.stderr.contains("the limit is 1000"), "{ran}");
    assert!(ran.stdout.contains("and 981 more: `migrator sync --delete --dry-run --json`"), "{ran}");
    assert_eq!(stored(&desk.path("plain")).len(), 1002);
    sync.args(["--max-delete", "1001"]).run().exits(0);
    assert_eq!(stored(&desk.path("plain")).len(), 1);
}

#[test]
fn zero_quarantine_days_delete_at_once() {
    let desk = mirrored();
    fs::remove_file(desk.source("a")).unwrap();
    let ran = sync(&desk).args(["--quarantine-days", "0"]).run().exits(0);
    assert_eq!(stored(&desk.path("target")).len(), 5, "{ran}");
    assert_eq!(Report::read(&desk.path("report")).sum("deleted"), 1);
}

#[test]
fn the_quarantine_is_emptied_by_cleanup_when_its_time_is_over() {
    let desk = mirrored();
    fs::remove_file(desk.source("a")).unwrap();
    sync(&desk).run().exits(0);
    let old = ".quarantine/until-20200101T000000.000000000Z-run-1";
    desk.write(&format!("target/{old}/x/y"), "old");
    // A user's own, which only looks like it.
    desk.write("target/.quarantine/until-2020/z", "own");
    let later = ".quarantine/until-29990102T030405.000000000Z-run-1";
    desk.write(&format!("target/{later}/later"), "later");
    let cleanup = desk.migrator(["cleanup", "source", "embedded:target"]);
    let ran = cleanup.clone().args(["--dry-run"]).run().exits(0);
    assert!(ran.stdout.contains("1 file would be deleted from quarantine\n"), "{ran}");
    assert!(ran.stdout.contains(&format!("  {old}/x/y\n")), "{ran}");
    assert_eq!(put_away(&mut stored(&desk.path("target"))).len(), 4, "{ran}");
    let ran = cleanup.clone().run().exits(0);
    assert!(ran.stdout.contains("1 file deleted from quarantine"), "{ran}");
    // The one of this run stays a week, the other for long.
    assert!(ran.stdout.contains("2 files stay in quarantine, the first until 20"), "{ran}");
    assert!(ran.stdout.contains(", the last until 2999-01-02 03:04 UTC\n"), "{ran}");
    let ran = cleanup.args(["--json"]).run().exits(0);
    let staying = &ran.events()[0]["staying"];
    assert_eq!((&staying["files"], &staying["latest"]), (&2.into(), &"2999-01-02T03:04:05Z".into()), "{ran}");
    fs::remove_dir_all(desk.path(&format!("target/{later}"))).unwrap();
    let mut files = stored(&desk.path("target"));
    let away = put_away(&mut files);
    assert_eq!(away.keys().collect::<Vec<_>>(), ["a", "z"], "{ran}");
}

#[test]
fn what_the_filter_leaves_out_is_not_deleted_unless_it_is_to_be() {
    let desk = mirrored();
    fs::remove_dir_all(desk.source("d")).unwrap();
    fs::remove_file(desk.source("a")).unwrap();
    let filtered = || sync(&desk).args(["--exclude", "/d/**"]);
    let ran = filtered().run().exits(0);
    let mut files = stored(&desk.path("target"));
    assert_eq!(put_away(&mut files).into_keys().collect::<Vec<_>>(), ["a"], "{ran}");
    assert!(files.contains_key("d/1"), "{ran}");
    // Left out, it goes although the source has it; and comes again when it is no longer left out.
    desk.write("source/d/1", "d/1");
    let ran = filtered().args(["--delete-excluded"]).run().exits(0);
    let mut files = stored(&desk.path("target"));
    assert_eq!(put_away(&mut files).into_keys().collect::<Vec<_>>(), ["a", "d/1", "d/2"], "{ran}");
    sync(&desk).run().exits(0);
    assert!(stored(&desk.path("target")).contains_key("d/1"));
}

/// A directory where a file was, and a file where a directory was.
#[test]
fn a_file_that_became_a_directory_is_deleted_and_its_files_are_copied() {
    let desk = mirrored();
    fs::remove_file(desk.source("a")).unwrap();
    desk.write("source/a/inside", "inside");
    let Some(remote) = Remote::garage() else { return };
    let sync = desk.migrator(["sync", "source", &remote.url(), "--delete"]).at(&remote.endpoint);
    remote.put("a", b"a");
    sync.run().exits(0);
    let mut files = remote.files();
    assert_eq!(put_away(&mut files).into_keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(files.keys().collect::<Vec<_>>(), ["a/inside", "b", "d/1", "d/2", "e/deep/3", "zz"]);
}

/// Garage cannot compare a version when it deletes: what was listed is looked at once more.
#[test]
fn a_real_server_is_mirrored_and_keeps_what_was_removed() {
    let Some(remote) = Remote::garage() else { return };
    let desk = mirrored();
    let sync = || {
        desk.migrator(["sync", "source", &remote.url(), "--delete", "--report", "report"])
            .at(&remote.endpoint)
    };
    sync().run().exits(0);
    remote.put("only/there +1%.txt", b"there");
    fs::remove_file(desk.source("b")).unwrap();
    let ran = sync().run().exits(0);
    let mut files = remote.files();
    let away = put_away(&mut files);
    assert_eq!(away.keys().collect::<Vec<_>>(), ["b", "only/there +1%.txt"], "{ran}");
    assert_eq!(away["only/there +1%.txt"], entry(b"there"));
    assert_eq!(files.len(), 5, "{ran}");
    let verify = desk.migrator(["verify", "source", &remote.url(), "--report", "report"]);
    verify.at(&remote.endpoint).run().exits(0);
    assert_eq!(Report::read(&desk.path("report")).sum("extra"), 0);
}

/// Whatever the moment, a file that was to be removed is where it was or in quarantine, and the next run goes on.
#[test]
fn a_kill_between_quarantine_and_deletion_loses_nothing() {
    let kept = mirrored();
    for name in ["a", "d/1", "zz"] {
        fs::remove_file(kept.source(name)).unwrap();
    }
    let copy = |from: &Path, to: &Path| {
        assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
    };
    for name in ["target", "state"] {
        fs::create_dir_all(kept.path("kept")).unwrap();
        copy(&kept.path(name), &kept.path("kept"));
    }
    for (calls, stride) in [("?rename,?renameat,?renameat2,?linkat", 1), ("?unlink,?unlinkat", 2), (SYNCS, 5)]
    {
        let mut kills = 0;
        for when in (1..).step_by(stride) {
            for name in ["target", "state"] {
                fs::remove_dir_all(kept.path(name)).unwrap();
                copy(&kept.path("kept").join(name), &kept.path(""));
            }
            let Some(strace) = Strace::new("/dev/null") else { return };
            let line = ["sync", "source", "embedded:target", "--delete", "--concurrency", "1"];
            let run = kept.migrator(line).env("TOKIO_WORKER_THREADS", "1");
            let ran = run.clone().under(strace.kill_at(calls, when)).run();
            let killed = strace::was_killed(ran.status);
            assert!(killed || ran.status.success(), "{ran}");
            let what = format!("{calls} #{when}\n{ran}");
            let mut files = stored(&kept.path("target"));
            let away = put_away(&mut files);
            for name in NAMES {
                let whole = entry(name.as_bytes());
                let found = [files.get(name), away.get(name)];
                assert!(found.contains(&Some(&whole)), "{name} is lost: {what}");
                assert!(
                    found.iter().all(|found| found.is_none_or(|found| *found == whole)),
                    "{name}: {what}"
                );
            }
            let again = run.run().exits(0);
            let mut files = stored(&kept.path("target"));
            let away = put_away(&mut files);
            assert_eq!(files.into_keys().collect::<Vec<_>>(), ["b", "d/2", "e/deep/3"], "{what}{again}");
            assert_eq!(away.into_keys().collect::<Vec<_>>(), ["a", "d/1", "zz"], "{what}{again}");
            if !killed {
                break;
            }
            kills += 1;
            assert!(kills < 500, "every run is killed");
        }
        assert!(kills >= 2, "{calls}: {kills} kills only");
    }
}
