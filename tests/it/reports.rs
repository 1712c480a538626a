//! What a run leaves for people and for auditors: the page, the proof, a file's story.

use std::fs;

use crate::support::{Desk, Report, bytes};

/// Whoever can name a file must not be able to write into the page that an operator opens.
#[test]
fn names_of_files_cannot_reach_the_reader_of_the_page() {
    let desk = Desk::new();
    let names =
        ["<script>alert(1)<script>", "\"onload=\"alert(1)", "txt.\u{202e}exe", "\u{1b}[2J\nb", "&amp;"];
    for name in names {
        desk.write(&format!("source/{name}"), "x");
        std::os::unix::fs::symlink("nowhere", desk.source(&format!("link {name}"))).unwrap();
    }
    desk.migrator(["copy", "source", "target", "--report", "report"]).run().exits(0);
    // Each is damaged, so that each is named among the problems.
    for name in names {
        desk.write(&format!("target/{name}"), "y");
    }
    let line = ["verify", "source", "target", "--read-back", "--report", "report"];
    let ran = desk.migrator(line).run().exits(5);
    assert_eq!(Report::read(&desk.path("report")).sum("different"), 5, "{ran}");
    let page = fs::read_to_string(desk.path("report/report.html")).unwrap();
    assert!(page.contains("&lt;script&gt;alert(1)&lt;script&gt;") && page.contains("\\u{202e}"), "{page}");
    assert!(!page.contains("<script") && !page.contains('\u{202e}') && !page.contains('\u{1b}'), "{page}");
    assert!(page.contains("read-back") && page.contains("http-equiv=\"Content-Security-Policy\""));
}

/// The runs of a ledger are one chain, and a chain that was touched names the line.
#[test]
fn a_proof_that_was_touched_names_its_first_broken_line() {
    let desk = Desk::new();
    for number in 0..30 {
        desk.write(&format!("source/{number:02}"), bytes(number, 100));
    }
    for report in ["one", "two"] {
        desk.migrator(["copy", "source", "embedded:bucket", "--report", report]).run().exits(0);
        desk.write("source/more", report);
    }
    let [one, two] = ["one", "two"].map(|report| format!("{report}/proof.jsonl"));
    let both = desk.migrator(["proof", &one, &two, "--json"]).run().exits(0);
    let [first, second] = &both.events()[..] else { panic!("{both}") };
    assert_eq!(first["previous"], serde_json::Value::Null, "{both}");
    assert_eq!(second["previous"], first["head"], "{both}");
    assert_eq!(second["entries"]["files"], 31, "{both}");
    assert_eq!(second["compared"]["files"], 31, "{both}");
    let head = first["head"].as_str().unwrap();
    desk.migrator(["proof", &one, "--head", head]).run().exits(0);
    desk.migrator(["proof", &two, "--head", head]).run().refuses(5, &["expected"]);
    let turned = desk.migrator(["proof", &two, &one]).run().exits(5);
    assert!(turned.stderr.contains("does not follow"), "{turned}");

    // Written again from the ledger, it is the same.
    desk.migrator(["report", "source", "embedded:bucket", "--run", "2", "--report", "again"]).run().exits(0);
    assert_eq!(fs::read(desk.path("again/proof.jsonl")).unwrap(), fs::read(desk.path(&two)).unwrap());

    let text = fs::read_to_string(desk.path(&two)).unwrap();
    // The header is line 1, so "09" is on line 11.
    desk.write("touched", text.replacen("\"id\":\"09\"", "\"id\":\"9z\"", 1));
    desk.migrator(["proof", "touched"]).run().refuses(5, &["line 11 is broken"]);
    let cut = text.lines().take(20).map(|line| format!("{line}\n")).collect::<String>();
    desk.write("cut", cut);
    desk.migrator(["proof", "cut"]).run().refuses(5, &["line 21 is broken", "cut off"]);
    desk.migrator(["proof", "absent"]).run().refuses(3, &["cannot be read"]);
}

/// Everything that is known of a file, and what to do about it.
#[test]
fn explain_tells_the_whole_story_of_a_file() {
    let desk = Desk::new();
    desk.write("source/a", "abc");
    desk.migrator(["copy", "source", "target"]).run().exits(0);
    desk.write("target/a", "abd");
    desk.migrator(["verify", "source", "target", "--read-back"]).run().exits(5);
    let explain = || desk.migrator(["explain", "source", "target", "a"]).run().exits(0);
    let told = explain().stdout;
    for part in [
        "run 1: copied, verified by reading every byte back",
        "run 2: different: SHA-256 ",
        "next\n  The next copy sends it again",
    ] {
        assert!(told.contains(part), "no {part:?}\n{told}");
    }
    desk.migrator(["copy", "source", "target"]).run().exits(0);
    let told = explain().stdout;
    assert!(
        told.contains("run 3: copied") && told.contains("next\n  Nothing: it is in the target and proven"),
        "{told}"
    );
    let events = desk.migrator(["explain", "source", "target", "a", "--json"]).run().exits(0).events();
    assert_eq!(events[0]["history"].as_array().unwrap().len(), 3);
    assert!(events[0]["next"].as_str().unwrap().starts_with("Nothing"));
}

/// "100 % verified", "nothing is left" and no alert, while a whole directory had not arrived.
#[test]
fn what_could_not_be_a_file_is_in_every_figure() {
    use std::os::unix::ffi::OsStrExt as _;
    let desk = Desk::new();
    desk.write("source/good", "good");
    let odd = desk.source("").join(std::ffi::OsStr::from_bytes(b"odd\xff"));
    fs::write(&odd, "odd").unwrap();
    let copy = desk.migrator(["copy", "source", "target", "--report", "report"]);
    copy.clone().run().exits(4);
    let page = fs::read_to_string(desk.path("report/report.html")).unwrap();
    assert!(page.contains("50.0 % of the files of this run are proven"), "{page}");
    let status = desk.migrator(["status", "source", "target"]);
    let ran = status.clone().run().exits(0);
    assert!(ran.stdout.contains("left: 1 file") && !ran.stdout.contains("nothing is left"), "{ran}");
    let told = status.clone().args(["--json"]).run().exits(0).events().remove(0);
    assert_eq!((&told["unrecorded"]["files"], &told["left"]["files"]), (&1.into(), &1.into()));
    // Mended, it is gone from them.
    fs::rename(&odd, desk.source("even")).unwrap();
    copy.run().exits(0);
    let ran = status.run().exits(0);
    assert!(ran.stdout.contains("nothing is left"), "{ran}");
}

/// "The target's copy stays", of a file that a sync had removed; and the advice of an audit for what a copy is to mend.
#[test]
fn a_story_says_what_became_of_the_targets_copy() {
    let desk = Desk::new();
    for name in ["a", "b", "c"] {
        desk.write(&format!("source/{name}"), name);
    }
    let sync = desk.migrator(["sync", "source", "embedded:bucket", "--delete"]);
    sync.clone().run().exits(0);
    let explain = |name: &str| desk.migrator(["explain", "source", "embedded:bucket", name]).run().exits(0);
    fs::remove_file(desk.source("a")).unwrap();
    sync.clone().run().exits(0);
    let ran = explain("a");
    assert!(ran.stdout.contains("removed it from the target") && !ran.stdout.contains("stays"), "{ran}");
    assert!(ran.stdout.contains("out of the quarantine"), "{ran}");
    fs::remove_file(desk.source("b")).unwrap();
    sync.args(["--quarantine-days", "0"]).run().exits(0);
    let ran = explain("b");
    assert!(ran.stdout.contains("deleted it from the target") && !ran.stdout.contains("stays"), "{ran}");
    // What only left the source is still there.
    fs::remove_file(desk.source("c")).unwrap();
    desk.write("source/d", "d");
    desk.migrator(["copy", "source", "embedded:bucket"]).run().exits(0);
    assert!(explain("c").stdout.contains("copy stays"));
}

/// Whoever asks for a file has a path at hand, not an ID.
#[test]
fn a_file_is_found_by_the_path_that_one_has() {
    let desk = Desk::new();
    desk.write("source/photos/a.jpg", "a");
    desk.migrator(["copy", "source", "target"]).run().exits(0);
    let explain = |name: &str| desk.migrator(["explain", "source", "target", name]).run();
    for name in ["photos/a.jpg", "./photos/a.jpg", desk.source("photos/a.jpg").to_str().unwrap()] {
        let ran = explain(name).exits(0);
        assert!(ran.stdout.starts_with("photos/a.jpg\n  verified"), "{ran}");
    }
    for name in ["a.jpg", "photos/a"] {
        explain(name).refuses(3, &["does not know", "did you mean photos/a.jpg?"]);
    }
    explain("other").refuses(3, &["does not know other", "path beneath the source"]);
}
