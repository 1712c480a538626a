//! Names that have broken copiers: byte-exact in the target, or listed with the reason.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::Command;

use test_rig::{Manifest, Tree, skip};

use crate::support::{Desk, Remote, Report, assert_same, bytes, entry, stored};

/// Keys that were encoded, normalised or trimmed on their way are other files, or none; what cannot be a key must be
/// said before and after, and the sums must add up.
#[test]
fn names_arrive_byte_for_byte_or_are_listed() {
    let Some(remote) = Remote::garage() else { return };
    let desk = Desk::new();
    let tree =
        Tree::new(desk.path("source"), 1).unwrap().odd_names("").unwrap().odd_names("deep/er").unwrap();
    let tree = tree.unnameable("bad").unwrap().finish();
    let bad = tree.unnameable().len() as u64;

    let plan = ["plan", "source", &remote.url(), "--json"];
    let plan = desk.migrator(plan).at(&remote.endpoint).run().exits(4).events().remove(0);
    assert_eq!(plan["to_copy"]["files"], tree.keys().len() as u64);
    let would_fail: BTreeMap<String, u64> = serde_json::from_value(plan["failed"].clone()).unwrap();
    assert_eq!(would_fail.values().sum::<u64>(), bad, "{plan:#}");
    assert!(!desk.path("state/migrator").exists(), "a plan writes nothing");
    assert!(remote.files().is_empty());

    let copy = desk.migrator(["copy", "source", &remote.url(), "--report", "report"]).at(&remote.endpoint);
    let ran = copy.run().exits(4);
    assert_same("Garage, seen by boto3", &remote.files(), &tree.keys());
    assert_eq!(Manifest::read(&desk.path("source")).unwrap(), tree, "the source was changed");
    let report = Report::read(&desk.path("report"));
    assert_eq!((report.sum("copied"), report.sum("failed")), (tree.keys().len() as u64, bad));
    assert_eq!(report.sum("planned"), tree.files.len() as u64);
    let failed: Vec<_> = report.rows.iter().filter(|row| row["outcome"] == "failed").collect();
    for (name, reason) in [
        (r"./bad/latin1-caf\xe9", "name_not_utf8"),
        (r"./bad/not-utf8-\xff\xfe", "name_not_utf8"),
        (r"./bad/bad-dir-\x80", "name_not_utf8"),
        ("bad/long/ddd", "name_too_long"),
    ] {
        let row = failed.iter().find(|row| row["id"].starts_with(name));
        let row = row.unwrap_or_else(|| panic!("{name} is not listed: {failed:#?}\n{ran}"));
        assert_eq!(row["reason"], reason, "{row:?}");
    }
    // What a terminal shows must not be what a file name makes of it.
    let odd = |char: char| char.is_control() && char != '\n';
    assert!(!ran.stdout.contains(odd) && !ran.stderr.contains(odd), "{ran}");
}

/// A name longer than the target can hold, in a source that can: from an object storage to a directory.
#[test]
fn a_key_that_no_directory_can_hold_is_listed_and_the_rest_arrives() {
    let Some(remote) = Remote::garage() else { return };
    let desk = Desk::new();
    let long = "k".repeat(300);
    for key in ["plain", "a/b", &long, "double//slash", "dot/../dot", "trailing/"] {
        remote.put(key, key.as_bytes());
    }
    let ran = desk
        .migrator(["copy", &remote.url(), "target", "--report", "report"])
        .at(&remote.endpoint)
        .run()
        .exits(4);
    let expected = ["plain", "a/b"].map(|key| (key.to_owned(), entry(key.as_bytes())));
    assert_same("target", &stored(&desk.path("target")), &expected.into());
    let report = Report::read(&desk.path("report"));
    assert_eq!((report.sum("planned"), report.sum("copied"), report.sum("failed")), (6, 2, 4), "{ran}");
    assert_eq!(report.row(&long).unwrap()["reason"], "name_too_long");
    assert!(!desk.path("dot").exists(), "a key led out of the target");
}

/// In an object storage `a` may stand beside `a/b`; in a directory one of them must be refused, and neither lost.
#[test]
fn a_file_that_is_also_a_directory_is_reported() {
    let Some(remote) = Remote::garage() else { return };
    let desk = Desk::new();
    for key in ["a", "a/b", "z"] {
        remote.put(key, key.as_bytes());
    }
    // Found before a byte moves.
    let plan = desk.migrator(["plan", &remote.url(), "target"]).at(&remote.endpoint).run().exits(4);
    assert!(
        plan.stdout.contains("beneath_a_file") && plan.stdout.contains("next to the file \"a\""),
        "{plan}"
    );
    let copy = ["copy", &remote.url(), "target", "--report", "report"];
    let ran = desk.migrator(copy).at(&remote.endpoint).run().exits(4);
    let report = Report::read(&desk.path("report"));
    assert_eq!((report.sum("copied"), report.sum("failed")), (2, 1), "{ran}");
    let target = stored(&desk.path("target"));
    assert_eq!(target.len(), 2, "{target:?}");
    let failed = report.rows.iter().find(|row| row["outcome"] == "failed").unwrap();
    assert_eq!((&failed["id"][..], &failed["reason"][..]), ("a/b", "beneath_a_file"), "{failed:?}");
}

/// rclone makes silent duplicates or overwrites, whichever comes last.
#[test]
fn names_that_are_alike_are_told_by_the_plan() {
    let desk = Desk::new();
    for name in ["README", "readme", "caf\u{e9}", "cafe\u{301}", "other"] {
        desk.write(&format!("source/{name}"), name);
    }
    let plan = desk.migrator(["plan", "source", "target"]).run().exits(0);
    assert!(plan.stdout.contains("the target keeps them apart\n"), "{plan}");
    assert!(plan.stdout.contains("  README  readme\n"), "{plan}");
    let plan = desk.migrator(["--json", "plan", "source", "embedded:target"]).run().exits(0);
    let twins = &plan.events()[0]["twins"];
    assert_eq!(twins[0]["kind"], "unicode", "{plan}");
    assert_eq!(twins[1]["names"][0], "README", "{plan}");
    desk.migrator(["copy", "source", "embedded:target"]).run().exits(0);
    assert_eq!(stored(&desk.path("target")).len(), 5);
}

/// What is kept is a file to the copy, and so it is to the plan.
#[test]
fn the_plan_sees_what_the_copy_sees() {
    let desk = Desk::new();
    desk.write("source/a", "a");
    std::os::unix::fs::symlink("a", desk.source("link")).unwrap();
    let plan = |more: &[&str]| {
        let ran =
            desk.migrator([&["--json", "plan", "source", "embedded:target"], more].concat()).run().exits(0);
        let told = ran.events().remove(0);
        (crate::support::count(&told["to_copy"]), told["skipped"].as_object().unwrap().len())
    };
    assert_eq!(plan(&[]), (1, 1));
    // The root is a directory as well.
    assert_eq!(plan(&["--preserve", "all"]), (3, 0));
    desk.migrator(["copy", "source", "embedded:target", "--preserve", "all"]).run().exits(0);
    assert_eq!(plan(&["--preserve", "all"]), (0, 0));
}

/// Mounts a file system whose directory `target` takes names of other case for one; nothing, and the test is reported as
/// skipped, where that cannot be done.
fn folding_target(desk: &Desk) -> Option<Mounted> {
    let (image, mounted) = (desk.path("image"), desk.path("mounted"));
    fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
    fs::create_dir(&mounted).unwrap();
    let run = |program: &str, words: &[&str]| {
        let command = Command::new(program).args(words).current_dir(desk.path("")).output();
        command.is_ok_and(|output| output.status.success())
    };
    if !run("mkfs.ext4", &["-q", "-O", "casefold", "-E", "encoding=utf8", "image"])
        || !run("mount", &["-o", "loop", "image", "mounted"])
    {
        skip::unable("this kernel has no file system that folds names, or only root may mount one");
        return None;
    }
    let mounted = Mounted(mounted);
    fs::create_dir(mounted.0.join("target")).unwrap();
    assert!(run("chattr", &["+F", "mounted/target"]));
    Some(mounted)
}

struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.0).status().ok();
    }
}

#[test]
fn a_target_that_folds_names_is_told_by_the_plan() {
    let desk = Desk::new();
    let Some(mounted) = folding_target(&desk) else { return };
    for name in ["README", "readme", "other"] {
        desk.write(&format!("source/{name}"), name);
    }
    let plan = desk.migrator(["plan", "source", "mounted/target"]).run();
    let beneath = desk.migrator(["plan", "source", "mounted/target/new"]).run();
    let copy = desk.migrator(["copy", "source", "mounted/target"]).run().exits(4);
    let arrived = stored(&mounted.0.join("target"));
    assert!(copy.stdout.contains("the same name as"), "{copy}");
    assert_eq!(arrived.into_keys().collect::<Vec<_>>(), ["other"], "{copy}");
    for plan in [plan, beneath] {
        let plan = plan.exits(4);
        assert!(plan.stdout.contains("takes these names for one"), "{plan}");
    }
    // Also with what is there already: its own copy under its own name is not in the way.
    fs::remove_file(desk.source("README")).unwrap();
    fs::write(mounted.0.join("target/ReadMe"), "of somebody else").unwrap();
    desk.write("source/other", "changed");
    let plan = desk.migrator(["plan", "source", "mounted/target", "--json"]).run().exits(4);
    assert_eq!(plan.events()[0]["failed"], serde_json::json!({"same_name": 1}), "{plan}");
    let ran = desk.migrator(["copy", "source", "mounted/target", "-n", "--json"]).run().exits(0);
    let told = |name: &str| ran.events().into_iter().find(|event| event["subject"] == name).unwrap();
    assert_eq!(
        (&told("readme")["action"], &told("readme")["reason"]),
        (&"replace".into(), &"same_name".into())
    );
    assert_eq!((&told("other")["action"], told("other").get("reason")), (&"replace".into(), None));
}

/// The target's copy of a file that was moved away may be the only one: no newcomer whose name is the same there takes
/// its place.
#[test]
fn a_name_that_the_target_takes_for_that_of_a_file_that_was_moved_away_is_refused() {
    let desk = Desk::new();
    let Some(mounted) = folding_target(&desk) else { return };
    desk.write("source/README", "moved");
    desk.write("source/other", "other");
    desk.migrator(["copy", "source", "mounted/target", "--remove-source"]).run().exits(0);
    desk.write("source/readme", "newer");
    // Its own name it may have.
    desk.write("source/other", "another");
    let plan = desk.migrator(["plan", "source", "mounted/target"]).run().exits(4);
    assert!(plan.stdout.contains("takes these names for one"), "{plan}");
    for _ in 0..2 {
        let copy = desk.migrator(["copy", "source", "mounted/target"]).run().exits(4);
        assert!(copy.stdout.contains("the same name as"), "{copy}");
        let target = mounted.0.join("target");
        assert_eq!(fs::read_to_string(target.join("README")).unwrap(), "moved", "{copy}");
        assert_eq!(fs::read_to_string(target.join("other")).unwrap(), "another", "{copy}");
    }
}

/// Directories whose own names are not UTF-8, as SOURCE and TARGET.
#[test]
fn a_source_whose_own_name_is_odd_is_a_source() {
    let desk = Desk::new();
    let odd = desk.path("").join(OsStr::from_bytes(b"caf\xe9 \n%41"));
    fs::create_dir(&odd).unwrap();
    fs::write(odd.join("file"), bytes(1, 100)).unwrap();
    let target = desk.path("").join(OsStr::from_bytes(b"target-\xff"));
    desk.migrator([OsStr::new("copy"), odd.as_os_str(), target.as_os_str()]).run().exits(0);
    assert_eq!(fs::read(target.join("file")).unwrap(), bytes(1, 100));
    let status = desk.migrator([OsStr::new("status"), odd.as_os_str(), target.as_os_str()]);
    status.run().exits(0);
}
