//! Filters mean what they mean to rclone, which is asked.

use std::collections::BTreeSet;
use std::process::Command;

use test_rig::tools;

use crate::support::{Desk, Report, stored};

const NAMES: [&str; 14] = [
    "a.jpg",
    "a.JPG",
    "b.txt",
    "d/a.jpg",
    "d/e/a.jpg",
    "d/e/b.txt",
    "dd/x",
    "e",
    "x/e",
    "a+b (1).txt",
    "[x].txt",
    "é/ü.jpg",
    "d e/f",
    "x/y/z/deep.txt",
];

fn desk() -> Desk {
    let desk = Desk::new();
    for (number, name) in NAMES.iter().enumerate() {
        desk.write(&format!("source/{name}"), "x".repeat(number * 700));
    }
    desk
}

/// Somebody who moves here from rclone brings the filters along; one that means something else copies the wrong files.
#[test]
fn a_filter_takes_what_rclone_takes() {
    let Some(rclone) = tools::require("rclone") else { return };
    let desk = desk();
    desk.write("rules", "# comment\n- /d/e/**\n+ *.jpg\n+ e\n- *\n");
    desk.write("list", "a.jpg\n/d/e/b.txt\n; comment\nabsent\n");
    for (number, options) in [
        &["--include", "*.jpg"][..],
        &["--include", "/*.jpg"],
        &["--include", "*.{jpg,txt}", "--include", "e"],
        &["--include", "/d/**"],
        &["--exclude", "d/"],
        &["--exclude", "e/**"],
        &["--include", "d/e/*.txt"],
        &["--include", "**/e/**"],
        &["--include", "[ab].*"],
        &["--include", "[^a].*"],
        &["--include", "?/*"],
        &["--include", r"\[x\].txt"],
        &["--include", "{{[a-d]+}}/x"],
        &["--include", "a+b (1).txt"],
        &["--exclude", "d/**"],
        &["--exclude", "*.jpg", "--exclude", "/x/"],
        &["--exclude", "d**t"],
        &["--filter", "+ *.jpg", "--filter", "- d/**", "--filter", "- *.JPG"],
        &["--filter-from", "rules"],
        &["--files-from", "list"],
        &["--min-size", "2100b"],
        &["--max-size", "2100b"],
        &["--min-age", "1h"],
        &["--max-age", "1h"],
    ]
    .into_iter()
    .enumerate()
    {
        let mut judge = Command::new(&rclone);
        judge
            .args(["lsf", "--recursive", "--files-only", "--config", "/dev/null"])
            .args(options)
            .arg("source");
        let output = judge.current_dir(desk.path("")).env("HOME", desk.path("home")).output().unwrap();
        let listed = String::from_utf8(output.stdout).unwrap();
        let expected: BTreeSet<String> = listed.lines().map(str::to_owned).collect();
        let target = format!("target-{number}");
        desk.migrator(["copy", "source", &target]).args(options).run().exits(0);
        let found: BTreeSet<String> = stored(&desk.path(&target)).into_keys().collect();
        assert_eq!(found, expected, "{options:?} {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn what_is_left_out_is_counted_and_the_reason_is_told() {
    let desk = desk();
    desk.migrator(["copy", "source", "target"]).run().exits(0);
    let copy = desk.migrator([
        "copy",
        "source",
        "target",
        "--report",
        "report",
        "--exclude",
        "*.jpg",
        "--max-size",
        "7k",
    ]);
    copy.run().exits(0);
    let report = Report::read(&desk.path("report"));
    assert_eq!(report.row("a.jpg").unwrap()["reason"], "pattern");
    assert_eq!(report.row("x/y/z/deep.txt").unwrap()["reason"], "max_size");
    assert_eq!(report.sum("planned") + report.sum("excluded"), NAMES.len() as u64);
    let plan = desk.migrator(["plan", "source", "target", "--json", "--exclude", "*.jpg"]).run().exits(0);
    assert_eq!(plan.events()[0]["excluded_by"]["pattern"], 4, "{plan}");
}

#[test]
fn a_filter_that_cannot_be_understood_is_named_and_nothing_is_done() {
    let desk = desk();
    for (options, code) in [
        (["--include", "a{b"], 2),
        (["--filter", "*.jpg"], 2),
        (["--filter-from", "absent"], 3),
        (["--files-from", "absent"], 3),
        (["--min-size", "big"], 2),
        (["--max-age", "old"], 2),
    ] {
        let ran = desk.migrator(["copy", "source", "target"]).args(options).run().exits(code);
        assert!(ran.stderr.contains(options[1]), "{ran}");
    }
    assert!(!desk.path("target").exists());
}
