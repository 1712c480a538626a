use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::course::Course;
use crate::ledger::{Binding, Outcome};
use crate::report::rows::Fate;
use crate::report::{RunSummary, SCHEMA_VERSION, Sums, Verdict, Work};

fn report() -> Report {
    Report {
        schema_version: SCHEMA_VERSION,
        result: Verdict::Clean,
        run: RunSummary {
            id: RunId(3),
            kind: RunKind::Copy,
            started: Timestamp::UNIX_EPOCH,
            finished: Some(Timestamp::UNIX_EPOCH),
            seconds: Some(0.0),
            end: Some(RunEnd::Complete),
            scan_complete: true,
            scanned_to: None,
            program: "1".to_owned(),
        },
        pair: Binding { source: "dir:/s".to_owned(), target: "s3://b".to_owned() },
        ledger: "l".to_owned(),
        sums: Sums::default(),
        candidates: 0,
        withheld: None,
        reasons: Vec::new(),
        work: Work { bytes_read: 0, bytes_sent: 0, parts_sent: 0, parts_resumed: 0, retries: 0 },
        states: BTreeMap::new(),
        problems: Vec::new(),
        course: Course::default(),
    }
}

fn row(id: &str, outcome: Outcome) -> Row {
    Row {
        subject: id.to_owned(),
        size: Some(id.len() as u64),
        digest: Some(Digest::of(id.as_bytes())),
        fate: Fate::Outcome(outcome),
        verified: Some(Verified::ReadBack),
        attempts: 1,
        reason: String::new(),
        detail: None,
        run: RunId(3),
        at: Timestamp::UNIX_EPOCH,
    }
}

fn proof(rows: &[Row]) -> (Digest, Vec<u8>) {
    let mut writer = Writer::begin(Vec::new(), &report(), Some(Digest::of(b"before"))).unwrap();
    rows.iter().for_each(|row| writer.file(row).unwrap());
    writer.finish().unwrap()
}

fn rows() -> Vec<Row> {
    let mut rows: Vec<_> =
        ["a", "b\"\\", "c\n<é>", "d\u{1b}", "e,\"hash\":\""].map(|id| row(id, Outcome::Copied)).into();
    rows.push(row("f", Outcome::Failed));
    rows
}

#[test]
fn a_proof_that_nobody_touched_holds() {
    let (head, text) = proof(&rows());
    let checked = check(text.as_slice()).unwrap();
    assert_eq!((checked.head, checked.entries.files, checked.compared.files), (head, 6, 5));
    assert_eq!((checked.header.run, checked.header.previous), (RunId(3), Some(Digest::of(b"before"))));
    let (_, none) = proof(&[]);
    assert_eq!(check(none.as_slice()).unwrap().entries.files, 0);
    // A failed file is in it, and is no proof of anything.
    let failed =
        String::from_utf8(text).unwrap().lines().find(|line| line.contains("\"failed\"")).unwrap().to_owned();
    assert!(failed.contains("\"verified\":null,\"by\":null"), "{failed}");
}

/// As the documentation says, with nothing but a SHA-256.
#[test]
fn a_line_is_hashed_as_documented() {
    let (head, text) = proof(&rows());
    let mut before = "0".repeat(64);
    for line in String::from_utf8(text).unwrap().lines() {
        let (own, hash) = line.split_at(line.len() - ",\"hash\":\"\"}".len() - 64);
        before = Digest::of(format!("{before}{own}").as_bytes()).to_string();
        assert_eq!(hash, format!(",\"hash\":\"{before}\"}}"));
    }
    assert_eq!(head.to_string(), before);
}

#[test]
fn any_byte_that_is_changed_is_found_in_its_line() {
    let (_, text) = proof(&rows());
    let seed = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..400 {
        let at = random.random_range(0..text.len());
        let mut changed = text.clone();
        changed[at] ^= 1 << random.random_range(0..8);
        let line = text[..at].iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
        match check(changed.as_slice()) {
            // A new end of a line makes two of one; one that is lost makes one of two.
            Err(ProofError::Broken { line: found, why }) => {
                assert!(
                    found == line || found == line + 1 && text[at] == b'\n',
                    "seed {seed}, byte {at}: {found}: {why}"
                );
            }
            other => panic!("seed {seed}, byte {at} of line {line}: {other:?}"),
        }
    }
}

#[test]
fn lines_that_are_dropped_moved_added_or_cut_off_are_found() {
    let (_, text) = proof(&rows());
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let line_of = |lines: &[&[u8]]| match check(lines.concat().as_slice()) {
        Err(ProofError::Broken { line, .. }) => line,
        other => panic!("{other:?}"),
    };
    for number in 0..lines.len() {
        let mut without = lines.clone();
        without.remove(number);
        assert_eq!(line_of(&without), number as u64 + 1, "without {number}");
        let mut twice = lines.clone();
        twice.insert(number, lines[number]);
        assert_eq!(line_of(&twice), number as u64 + 2, "twice {number}");
        if number + 1 < lines.len() {
            let mut swapped = lines.clone();
            swapped.swap(number, number + 1);
            assert_eq!(line_of(&swapped), number as u64 + 1, "swapped {number}");
        }
    }
    let cut = &text[..text.len() - 1];
    assert!(matches!(check(cut), Err(ProofError::Broken { line: 8, .. })));
}

/// Whoever hashes everything anew can make a proof that holds: of another head, and of lines in one form only.
#[test]
fn a_line_that_was_hashed_anew_still_has_to_be_true_to_form() {
    let forge = |from: &str, to: &str| {
        let text = String::from_utf8(proof(&rows()).1).unwrap();
        let (mut before, mut forged) = (start(), String::new());
        for line in text.lines() {
            let mut own = line.rsplit_once(SEAL).unwrap().0.replace(from, to);
            if let Some((rest, _)) = own.split_once(",\"last\":") {
                own = format!("{rest},\"last\":\"{before}\"");
            }
            before = link(&before, &own).to_string();
            forged.push_str(&format!("{own}{SEAL}{before}\"}}\n"));
        }
        check(forged.as_bytes())
    };
    for (from, to) in [
        ("\"n\":2", "\"n\":3"),
        ("\"n\":2", "\"n\": 2"),
        ("\"id\":\"a\"", "\"id\":\"z\""),
        ("\"verified\":null,\"by\":null", "\"verified\":null,\"by\":\"target\""),
        ("\"by\":\"migrator\"", "\"by\":\"target\""),
        ("\"size\":1,", "\"size\":2,"),
        ("\"v\":1", "\"v\":2"),
        ("\"line\":\"file\"", "\"line\":\"file\",\"x\":1"),
    ] {
        assert!(forge(from, to).is_err(), "{from} -> {to}");
    }
    let honest = proof(&rows()).0;
    assert_ne!(forge("dir:/s", "dir:/t").unwrap().head, honest);
}
