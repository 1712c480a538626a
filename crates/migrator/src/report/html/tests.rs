use std::collections::BTreeMap;

use jiff::Timestamp;

use super::*;
use crate::course::Slow;
use crate::ledger::{Binding, Outcome, RunId};
use crate::report::{Reason, RunSummary, SCHEMA_VERSION, Work};

/// Names that would do something if they were not escaped.
const HOSTILE: [&str; 6] = [
    "<script>alert(1)</script>",
    "\"><img src=//evil.example/x onerror=alert(1)>",
    "a\u{1b}[2J\u{0}\nb",
    "photo\u{202e}gpj.exe",
    "x\u{200f}\u{61c}\u{ad}\u{feff}y",
    "</style><style>*{display:none}",
];

const PROOF: Proven = Proven { head: Digest::from_bytes([0; 32]), previous: None };

fn report(text: &str) -> Report {
    let problem = |outcome| OutcomeRecord {
        subject: text.to_owned(),
        outcome,
        reason: text.to_owned(),
        detail: Some(text.to_owned()),
        size: Some(1),
        digest: None,
        verified: None,
        attempts: 1,
        at: Timestamp::UNIX_EPOCH,
    };
    let mut course = Course::default();
    course.settings.insert(text.to_owned(), text.to_owned());
    course.slowest.push(Slow { id: text.to_owned(), size: 1, micros: 1 });
    course.timeline.push(Point { ms: 250, read: 1, sent: 1, done: 1 });
    let planned = Count { files: 1_234_567, bytes: u64::MAX };
    Report {
        schema_version: SCHEMA_VERSION,
        result: Verdict::SomeFailed,
        run: RunSummary {
            id: RunId(7),
            kind: RunKind::Copy,
            started: Timestamp::UNIX_EPOCH,
            finished: Some(Timestamp::UNIX_EPOCH),
            seconds: Some(0.0),
            end: Some(RunEnd::Complete),
            scan_complete: true,
            scanned_to: None,
            program: text.to_owned(),
        },
        pair: Binding { source: text.to_owned(), target: text.to_owned() },
        ledger: text.to_owned(),
        sums: Sums { planned, failed: planned, ..Sums::default() },
        candidates: 0,
        withheld: None,
        reasons: vec![Reason { outcome: Outcome::Failed, reason: text.to_owned(), files: 1 }],
        work: Work { bytes_read: 1, bytes_sent: 1, parts_sent: 0, parts_resumed: 0, retries: 0 },
        states: BTreeMap::new(),
        problems: vec![problem(Outcome::Failed), problem(Outcome::Different)],
        course,
    }
}

#[test]
fn no_name_reaches_the_page_as_anything_but_text() {
    let plain = page(&report("plain"), &Survey::default(), Some(&PROOF));
    let elements = |page: &str| page.matches('<').count();
    for name in HOSTILE {
        let page = page(&report(name), &Survey::default(), Some(&PROOF));
        assert_eq!(elements(&page), elements(&plain), "{name:?} adds an element");
        let odd = |char: char| {
            char.is_control() && char != '\n'
                || matches!(char, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{61c}' | '\u{ad}' | '\u{feff}')
        };
        let found: Vec<_> = page.chars().filter(|char| odd(*char)).collect();
        assert!(found.is_empty(), "{name:?}: {found:?}");
    }
}

#[test]
fn the_page_asks_nobody_for_anything() {
    let page = page(&report("plain"), &Survey::default(), Some(&PROOF));
    for word in ["http:", "https:", "//", "url(", "@import", "<script", "src=", "style=\"", " on"] {
        let found = page.match_indices(word).filter(|(at, _)| {
            // Words of the text, as in "on average".
            word != " on"
                || page[at + 3..]
                    .split('=')
                    .next()
                    .is_some_and(|rest| !rest.is_empty() && rest.chars().all(char::is_alphabetic))
        });
        let found: Vec<_> = found.map(|(at, _)| &page[at.saturating_sub(20)..at + 20]).collect();
        assert!(found.is_empty(), "{word}: {found:?}");
    }
    assert_eq!(page.matches("href=").count(), 1, "the icon, which is empty");
}

/// What the browser compares is the text between the tags, byte for byte.
#[test]
fn the_policy_allows_the_style_sheet_of_the_page_and_no_other() {
    let page = page(&report("plain"), &Survey::default(), Some(&PROOF));
    let style = page.split("<style>").nth(1).unwrap().split("</style>").next().unwrap();
    let hash = Digest::of(style.as_bytes()).to_base64();
    assert!(page.contains(&format!("style-src 'sha256-{hash}'")), "{hash}");
    assert!(page.contains("default-src 'none'") && !page.contains("unsafe"));
}

#[test]
fn what_is_not_all_is_not_shown_as_all() {
    assert_eq!(percent(999_999, 1_000_000), "> 99.9 %");
    assert_eq!(percent(1, 1_000_000), "< 0.1 %");
    assert_eq!(
        (percent(5, 5).as_str(), percent(0, 5).as_str(), percent(0, 0).as_str()),
        ("100 %", "0 %", "")
    );
    assert_eq!(
        (grouped(0), grouped(999), grouped(1_000), grouped(1_234_567)),
        ("0".into(), "999".into(), "1,000".into(), "1,234,567".into())
    );
}
