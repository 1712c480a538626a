//! Reports and exit codes follow from what happened, not from what was planned.

use std::fs;
use std::process::Command;

use test_rig::{Manifest, Tree};

use crate::support::{Desk, Ran, Remote, Report, assert_same, entry, stored};

/// mc, rclone sync and s5cmd write "done" before it is; mc and s5cmd exit with 0 although files failed.
#[test]
fn the_report_and_the_exit_code_tell_what_happened() {
    let desk = Desk::new();
    let tree = Tree::new(desk.path("source"), 8).unwrap().odd_names("names").unwrap();
    let tree = tree.unnameable("bad").unwrap().symlinks("links").unwrap().finish();
    let copy = desk.migrator(["copy", "source", "embedded:target", "--report", "report"]);
    let ran = copy.clone().run().exits(4);
    let report = Report::read(&desk.path("report"));
    assert_eq!(report.sum("copied"), tree.keys().len() as u64);
    assert_eq!(report.sum("skipped"), tree.foreign.len() as u64);
    assert_eq!(report.sum("failed"), tree.unnameable().len() as u64, "{ran}");
    assert_eq!(report.json["result"], "some_failed");
    let copied: Vec<_> = report.rows.iter().filter(|row| row["outcome"] == "copied").collect();
    for row in copied {
        let expected = &tree.keys()[&row["id"]];
        assert_eq!((&row["size"], &row["sha256"]), (&expected.size.to_string(), &expected.sha256));
        assert!(!row["verified_by"].is_empty(), "{row:?}");
    }
    assert!(report.rows.iter().filter(|row| row["outcome"] == "failed").all(|row| !row["reason"].is_empty()));

    // What the command says, what the file says and what `report` says later is the same.
    let json = copy.clone().args(["--json"]).run().exits(4).summary();
    assert_eq!(json["exit_code"], 4);
    let second = Report::read(&desk.path("report"));
    assert_eq!(json["sums"], second.json["sums"]);
    assert_eq!((second.sum("copied"), second.sum("unchanged")), (0, tree.keys().len() as u64));
    let later = desk.migrator(["report", "source", "embedded:target", "--json"]).run().exits(0).summary();
    assert_eq!((&later["sums"], &later["exit_code"]), (&json["sums"], &json["exit_code"]));
    let first = desk.migrator(["report", "source", "embedded:target", "--run", "1", "--json"]);
    assert_eq!(first.run().exits(0).summary()["sums"], report.json["sums"]);
}

/// A checksum file that the standard tool does not take proves nothing.
#[test]
fn the_checksums_are_accepted_by_sha256sum() {
    let desk = Desk::new();
    let tree = Tree::new(desk.path("source"), 9).unwrap().odd_names("").unwrap().finish();
    desk.migrator(["copy", "source", "embedded:target", "--report", "report"]).run().exits(0);
    let sums = Report::read(&desk.path("report")).sums;
    assert_eq!(sums.lines().count(), tree.files.len());
    for directory in ["source", "target"] {
        let output = Command::new("sha256sum")
            .args(["--check", "--strict", "--quiet"])
            .arg(desk.path("report/SHA256SUMS"))
            .current_dir(desk.path(directory))
            .output()
            .unwrap();
        assert!(output.status.success(), "{directory}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn is_event_stream(ran: &Ran) {
    for event in ran.events() {
        assert_eq!(event["v"], 1, "{ran}");
        assert!(event["event"].is_string(), "{ran}");
    }
}

/// A program that reads the events must learn of every failure and of the end, also where the run never began.
#[test]
fn events_tell_failures_and_the_end() {
    let desk = Desk::new();
    desk.write("source/a", "a");
    Tree::new(desk.path("source"), 1).unwrap().unnameable("bad").unwrap();
    let ran = desk.migrator(["--json", "copy", "source", "embedded:target"]).run().exits(4);
    is_event_stream(&ran);
    let events = ran.events();
    assert_eq!(events[0]["event"], "run");
    let failed = events.iter().filter(|event| event["event"] == "file" && event["outcome"] == "failed");
    assert_eq!(failed.count() as u64, ran.summary()["sums"]["failed"]["files"].as_u64().unwrap());

    let ran = desk.migrator(["--json", "copy", "nowhere", "embedded:target"]).run().exits(3);
    is_event_stream(&ran);
    let last = ran.events().pop().unwrap();
    assert_eq!((&last["event"], &last["exit_code"]), (&"error".into(), &3.into()), "{ran}");
    assert!(!last["hints"].as_array().unwrap().is_empty(), "{ran}");
}

/// Somebody removed or damaged the copy: the ledger must not go on saying that all is well after an audit.
#[test]
fn an_audit_finds_what_was_damaged_and_the_next_copy_repairs_it() {
    let desk = Desk::new();
    for name in ["good", "lost", "flipped", "short"] {
        desk.write(&format!("source/{name}"), name.repeat(100));
    }
    let copy = desk.migrator(["copy", "source", "target"]);
    copy.clone().run().exits(0);
    fs::remove_file(desk.path("target/lost")).unwrap();
    let mut flipped = fs::read(desk.path("target/flipped")).unwrap();
    flipped[17] ^= 1;
    fs::write(desk.path("target/flipped"), flipped).unwrap();
    fs::write(desk.path("target/short"), "short").unwrap();
    desk.write("target/stranger", "not ours");

    let ran = desk.migrator(["verify", "source", "target", "--read-back", "--json"]).run().exits(5);
    let summary = ran.summary();
    let counts = ["missing", "different", "unchanged", "extra"].map(|name| &summary["sums"][name]["files"]);
    assert_eq!(counts, [1, 2, 1, 1], "{ran}");
    copy.run().exits(0);
    desk.migrator(["verify", "source", "target", "--read-back"]).run().exits(0);
    let target = stored(&desk.path("target"));
    assert_eq!(target["flipped"], entry("flipped".repeat(100).as_bytes()));
    assert_eq!(target["stranger"], entry(b"not ours"), "copy deletes and replaces nothing else");
}

/// aws and s5cmd compare the file's time with that of the object, on another clock: an object that was written later is
/// taken for good for ever, whatever is in it.
#[test]
fn a_bad_copy_that_is_newer_than_the_file_heals() {
    let Some(remote) = Remote::garage() else { return };
    let desk = Desk::new();
    let path = desk.write("source/file", "good".repeat(1000));
    let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    fs::File::options().write(true).open(path).unwrap().set_modified(hour_ago).unwrap();
    let copy = desk.migrator(["copy", "source", &remote.url(), "--verify", "all"]).at(&remote.endpoint);
    copy.clone().run().exits(0);
    // Of the same size, and newer.
    remote.put("file", "evil".repeat(1000).as_bytes());
    copy.clone().run().exits(5);
    copy.run().exits(0);
    let expected = [("file".to_owned(), entry("good".repeat(1000).as_bytes()))].into();
    assert_same("Garage, seen by boto3", &remote.files(), &expected);
}

/// GitLab, Moodle and Synapse remove the local file because something of its name "exists" in the bucket.
#[test]
fn no_command_touches_the_source() {
    let desk = Desk::new();
    let tree = Tree::new(desk.path("source"), 10).unwrap().odd_names("").unwrap();
    let tree = tree.symlinks("links").unwrap().finish();
    desk.write("target/links/target/file", "exists, and is something else");
    for command in ["plan", "copy", "sync", "verify", "cleanup", "status"] {
        let line: &[&str] = if command == "sync" { &["--delete"] } else { &[] };
        desk.migrator([command, "source", "target"]).args(line).run();
        assert_eq!(Manifest::read(&desk.path("source")).unwrap(), tree, "{command}");
    }
}
