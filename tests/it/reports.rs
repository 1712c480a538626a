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
