//! `cleanup` of a source's quarantine: what it may delete, and what stays there however old it is.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::{away, drawers, furnished, no_sync_deletes, remove, run};
use crate::support::{Desk, Files, Ran, Remote, Report, assert_same, bytes, stored};

/// Puts the time of what is in quarantine over: on the disk, and in the ledger that has moved it there.
fn grow_old(desk: &Desk, ledger: &Path) {
    let book = Connection::open(ledger).unwrap();
    for drawer in drawers(&desk.path("source")) {
        let name = drawer.file_name().unwrap().to_str().unwrap();
        let (time, run) = name.split_once("-run-").unwrap();
        // The end of the name, so that no two are the same.
        let old = format!("until-20200101T000000.{}-run-{run}", time.rsplit_once('.').unwrap().1);
        let renames = [
            "UPDATE files SET retired = replace(retired, ?1, ?2)",
            "UPDATE outcomes SET detail = replace(detail, ?1, ?2)",
        ];
        for rename in renames {
            book.execute(rename, [name, &old]).unwrap();
        }
        fs::rename(&drawer, drawer.with_file_name(old)).unwrap();
    }
}

fn cleanup(desk: &Desk) -> Ran {
    run(desk, &["cleanup", "source", "embedded:target"]).run().exits(0)
}

/// The names of the files that are in quarantine.
fn left(desk: &Desk) -> Vec<String> {
    away(&desk.path("source")).into_keys().collect()
}

/// Where a file is in quarantine.
fn place(desk: &Desk, name: &str) -> PathBuf {
    let places = drawers(&desk.path("source")).into_iter().map(|drawer| drawer.join(name));
    places.into_iter().find(|place| place.symlink_metadata().is_ok()).unwrap()
}

#[test]
fn cleanup_empties_the_quarantine_of_what_the_target_still_has() {
    let (desk, files) = furnished();
    remove(&desk).run().exits(0);
    let ran = cleanup(&desk);
    assert_same(&format!("its time is not over\n{ran}"), &away(&desk.path("source")), &files);
    grow_old(&desk, &desk.ledger());
    // The only good copies of these two are in quarantine.
    fs::remove_file(desk.path("target/a")).unwrap();
    fs::write(desk.path("target/d/1"), "other").unwrap();
    let ran = cleanup(&desk);
    assert!(ran.stdout.contains("3 files deleted from the source's quarantine"), "{ran}");
    assert!(ran.stderr.contains("2 files stay in the source's quarantine"), "{ran}");
    assert_eq!(away(&desk.path("source")).into_keys().collect::<Vec<_>>(), ["a", "d/1"], "{ran}");
    // The audit says so, again and again, and no sync removes what is left.
    for _ in 0..2 {
        let line = ["verify", "source", "embedded:target", "--read-back", "--report", "report"];
        let ran = run(&desk, &line).run().exits(5);
        let report = Report::read(&desk.path("report"));
        assert_eq!(["missing", "different", "unchanged"].map(|name| report.sum(name)), [1, 1, 3], "{ran}");
    }
    let told = run(&desk, &["explain", "source", "embedded:target", "d/1"]).run().exits(0);
    assert!(told.stdout.contains("take the file out of the quarantine"), "{told}");
    let line =
        ["sync", "source", "embedded:target", "--delete", "--allow-empty-source", "--max-delete", "100%"];
    run(&desk, &line).run().exits(0);
    assert!(desk.path("target/d/1").exists());
    cleanup(&desk);
    assert_eq!(away(&desk.path("source")).len(), 2);
    // As it says: back, copied again, and moved.
    for drawer in drawers(&desk.path("source")) {
        for name in ["a", "d/1"] {
            fs::rename(drawer.join(name), desk.source(name)).unwrap();
        }
    }
    let ran = remove(&desk).run().exits(0);
    assert_same(&format!("target\n{ran}"), &stored(&desk.path("target")), &files);
    grow_old(&desk, &desk.ledger());
    cleanup(&desk);
    assert_eq!(away(&desk.path("source")), Files::new());
    assert_same("target", &stored(&desk.path("target")), &files);
    no_sync_deletes(&desk, &files);
}

/// A program that kept the file open writes to it for days: what it wrote is nowhere else.
#[test]
fn what_was_written_to_a_file_in_quarantine_is_not_deleted_on_the_proof_of_what_it_was() {
    let (desk, _) = furnished();
    let mut writer = OpenOptions::new().append(true).open(desk.source("a")).unwrap();
    remove(&desk).run().exits(0);
    writer.write_all(b"more").unwrap();
    // Neither size nor time tells.
    let rewritten = place(&desk, "d/1");
    let modified = rewritten.metadata().unwrap().modified().unwrap();
    let file = OpenOptions::new().write(true).open(&rewritten).unwrap();
    file.write_all_at(b"?", 500).unwrap();
    file.set_modified(modified).unwrap();
    // And of these a newer version takes the place, in the target as well.
    fs::write(place(&desk, "d/deep/2"), "other").unwrap();
    for name in ["d/deep/2", "-rf"] {
        desk.write(&format!("source/{name}"), "newer");
    }
    run(&desk, &["copy", "source", "embedded:target"]).run().exits(0);
    grow_old(&desk, &desk.ledger());
    let ran = cleanup(&desk);
    assert_eq!(left(&desk), ["a", "d/1", "d/deep/2"], "{ran}");
    assert!(ran.stderr.contains("3 files stay in the source's quarantine"), "{ran}");
    assert!(ran.stderr.contains("not the bytes that were moved"), "{ran}");
    let mut expected = bytes(0, 1000);
    expected.extend(b"more");
    assert_eq!(fs::read(place(&desk, "a")).unwrap(), expected);
}

/// Another ledger of the pair, or an older copy of the one that moved the files, knows them as verified or gone.
#[test]
fn a_ledger_that_did_not_move_a_file_deletes_none() {
    let (desk, files) = furnished();
    let with = |ledger: &str, line: &[&str]| {
        run(&desk, &[line, &["source", "embedded:target", "--ledger", ledger]].concat()).run().exits(0)
    };
    with("one.sqlite", &["copy"]);
    with("two.sqlite", &["copy", "--remove-source"]);
    grow_old(&desk, &desk.path("two.sqlite"));
    fs::remove_file(desk.path("target/a")).unwrap();
    let ran = with("one.sqlite", &["cleanup"]);
    assert_same(&format!("verified\n{ran}"), &away(&desk.path("source")), &files);
    with("one.sqlite", &["copy", "--allow-empty-source"]);
    let ran = with("one.sqlite", &["cleanup"]);
    assert_same(&format!("gone\n{ran}"), &away(&desk.path("source")), &files);
    assert!(ran.stderr.contains("5 files stay in the source's quarantine"), "{ran}");
    with("two.sqlite", &["cleanup"]);
    assert_eq!(left(&desk), ["a"]);
}

#[test]
fn an_older_version_stays_as_long_as_the_target_lacks_the_newer_one() {
    let (desk, _) = furnished();
    remove(&desk).run().exits(0);
    for name in ["a", "d/1"] {
        desk.write(&format!("source/{name}"), "newer");
    }
    run(&desk, &["copy", "source", "embedded:target"]).run().exits(0);
    fs::remove_file(desk.path("target/a")).unwrap();
    grow_old(&desk, &desk.ledger());
    let ran = cleanup(&desk);
    assert_eq!(left(&desk), ["a"], "{ran}");
}

/// The copy says of itself what it was, and is not that any more.
#[test]
fn a_copy_that_was_tampered_with_is_read_before_the_last_good_bytes_are_deleted() {
    let (desk, _) = furnished();
    remove(&desk).run().exits(0);
    let path = desk.path("target/a");
    let modified = path.metadata().unwrap().modified().unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"?", 500).unwrap();
    file.set_modified(modified).unwrap();
    drop(file);
    grow_old(&desk, &desk.ledger());
    let ran = cleanup(&desk);
    assert_eq!(left(&desk), ["a"], "{ran}");
}

/// One name in the target that leads elsewhere, or may not be read, must not keep the quarantine full for good.
#[test]
fn a_copy_that_cannot_be_looked_at_keeps_its_file_and_no_other() {
    let (desk, _) = furnished();
    for name in ["link", "other"] {
        symlink("a", desk.source(name)).unwrap();
    }
    let pair = ["source", "target"];
    let line = ["copy", pair[0], pair[1], "--preserve", "symlinks", "--remove-source"];
    run(&desk, &line).run().exits(0);
    assert_eq!(stored(&desk.path("source")), Files::new());
    grow_old(&desk, &desk.ledger());
    // The first that is looked at, and one that says something else now.
    fs::rename(desk.path("target/d"), desk.path("elsewhere")).unwrap();
    symlink("../elsewhere", desk.path("target/d")).unwrap();
    fs::remove_file(desk.path("target/other")).unwrap();
    symlink("b", desk.path("target/other")).unwrap();
    let ran = run(&desk, &["cleanup", pair[0], pair[1]]).run().exits(0);
    assert_eq!(left(&desk), ["d/1", "d/deep/2"], "{ran}");
    assert!(ran.stdout.contains("4 files deleted from the source's quarantine"), "{ran}");
    assert!(ran.stderr.contains("3 files stay in the source's quarantine"), "{ran}");
    assert_eq!(fs::read_link(place(&desk, "other")).unwrap(), Path::new("a"));
    fs::remove_file(desk.path("target/d")).unwrap();
    fs::rename(desk.path("elsewhere"), desk.path("target/d")).unwrap();
    run(&desk, &["cleanup", pair[0], pair[1]]).run().exits(0);
    assert_eq!(left(&desk), Vec::<String>::new());
}

/// An object without bytes is the copy of a link only as long as it says where the link leads.
#[test]
fn an_object_that_lost_the_text_of_a_link_is_no_copy_of_it() {
    let Some(remote) = Remote::garage() else { return };
    let (desk, _) = furnished();
    for name in ["early", "late"] {
        symlink("a", desk.source(name)).unwrap();
    }
    let pair = ["source", &remote.url()];
    let at = |line: &[&str]| run(&desk, line).at(&remote.endpoint).run();
    at(&["copy", pair[0], pair[1], "--preserve", "symlinks"]).exits(0);
    remote.put("early", b"");
    let line = ["copy", pair[0], pair[1], "--preserve", "symlinks", "--remove-source", "--report", "report"];
    let ran = at(&line).exits(4);
    assert!(desk.source("early").is_symlink(), "{ran}");
    assert!(!desk.source("late").is_symlink(), "{ran}");
    assert_eq!(Report::read(&desk.path("report")).row("early").unwrap()["reason"], "different", "{ran}");
    remote.put("late", b"");
    grow_old(&desk, &desk.ledger());
    let ran = at(&["cleanup", pair[0], pair[1]]).exits(0);
    assert!(place(&desk, "late").is_symlink(), "{ran}");
    assert_eq!(left(&desk), Vec::<String>::new(), "{ran}");
}
