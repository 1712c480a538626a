//! What an audit finds: everything that was planted, and nothing else.

#![allow(clippy::print_stderr, reason = "seeds are printed")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::support::{Desk, Ran, Remote, Report, bytes};

fn seeded() -> StdRng {
    let seed = rand::random();
    eprintln!("seed {seed}");
    StdRng::seed_from_u64(seed)
}

/// Flips one bit, as a disk does: size and modification time stay.
fn flip(path: &Path, random: &mut StdRng) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    let at = random.random_range(0..file.metadata().unwrap().len());
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 1 << random.random_range(0..8);
    file.write_all_at(&byte, at).unwrap();
    file.set_modified(modified).unwrap();
}

/// Returns what `files.csv` says of all files that are not as they should be.
fn findings(directory: &Path) -> BTreeMap<String, String> {
    let mut csv = csv::Reader::from_path(directory.join("files.csv")).unwrap();
    let rows = csv.records().map(|row| row.unwrap());
    rows.filter(|row| &row[3] != "matched").map(|row| (row[0].to_owned(), row[3].to_owned())).collect()
}

/// Several hundred damages of every kind at once: each is found, told by its right name, and no sound file is.
#[test]
fn an_audit_finds_every_damage_that_was_planted_in_one_run_and_in_parts() {
    let mut random = seeded();
    let desk = Desk::new();
    let mut names: Vec<_> = (0..900).map(|number| format!("{:02}/{number:03}", number % 13)).collect();
    for (number, name) in names.iter().enumerate() {
        let size = if number == 7 { 11 << 20 } else { random.random_range(1..6_000) };
        desk.write(&format!("source/{name}"), bytes((number % 251) as u8, size));
    }
    let pair = ["source", "embedded:bucket"];
    desk.migrator([&["copy", "--part-size", "5MiB", "-q"], &pair[..]].concat()).run().exits(0);
    let large = names.remove(7);
    names.shuffle(&mut random);
    names.truncate(600);
    names.push(large);
    let mut planted = BTreeMap::new();
    for (number, name) in names.iter().rev().enumerate() {
        let (here, there) = (desk.source(name), desk.path("bucket").join(name));
        let found = match number % 6 {
            0 | 1 => {
                flip(&there, &mut random);
                "different"
            }
            2 => {
                let length = fs::metadata(&there).unwrap().len();
                fs::OpenOptions::new().write(true).open(&there).unwrap().set_len(length - 1).unwrap();
                "different"
            }
            3 => {
                fs::remove_file(&there).unwrap();
                "missing"
            }
            4 => {
                flip(&here, &mut random);
                "outdated"
            }
            _ => {
                desk.write(&format!("bucket/{name}x"), "extra");
                planted.insert(format!("{name}x"), "extra".to_owned());
                continue;
            }
        };
        planted.insert(name.clone(), found.to_owned());
    }
    assert!(planted.len() > 600, "{}", planted.len());
    let audit = |more: &[&str]| -> Ran {
        let line = [&["verify", "--read-back", "--report", "report", "-q"], &pair[..], more].concat();
        desk.migrator(line).run().exits(5)
    };
    // In four parts first: what an audit finds missing or different is known to the ledger afterwards.
    let (mut parts, mut planned) = (BTreeMap::new(), 0);
    for part in ["1/4", "2/4", "3/4", "4/4"] {
        let ran = audit(&["--subset", part]);
        let report = Report::read(&desk.path("report"));
        let share = report.sum("planned");
        assert!((120..=330).contains(&share), "{part}: {share} of 900\n{ran}");
        planned += share;
        for (name, found) in findings(&desk.path("report")) {
            assert_eq!(parts.insert(name.clone(), found), None, "{name} is in two parts");
        }
    }
    assert_eq!(planned, 900, "four parts are the whole");
    assert_eq!(parts, planted);
    audit(&[]);
    assert_eq!(findings(&desk.path("report")), planted);
}

/// A source can rot as well, where nothing but its bytes tells: it must be found, and never be copied over the good
/// copy.
#[test]
fn a_source_that_rotted_is_found_by_reading_it_and_repairs_nothing() {
    let mut random = seeded();
    let desk = Desk::new();
    for number in 0..40 {
        desk.write(&format!("source/{number:02}"), bytes(number, 3_000));
    }
    desk.migrator(["copy", "source", "embedded:bucket", "-q"]).run().exits(0);
    let ledger = desk.ledger();
    let rotten: Vec<_> =
        (0..40).filter(|number| number % 3 == 0).map(|number| format!("{number:02}")).collect();
    for name in &rotten {
        flip(&desk.source(name), &mut random);
    }
    // A disk that rots changes no time. Here the write did: the ledger is given what the file now looks like.
    desk.migrator(["copy", "source", "other", "--ledger", "looks.sqlite", "-q"]).run().exits(0);
    let book = rusqlite::Connection::open(&ledger).unwrap();
    book.execute("ATTACH ?1 AS looks", [desk.path("looks.sqlite").to_str().unwrap()]).unwrap();
    book.execute(
        "UPDATE files SET source_version = (SELECT source_version FROM looks.files AS now WHERE now.id = files.id)",
        [],
    )
    .unwrap();
    drop(book);
    desk.migrator(["verify", "source", "embedded:bucket", "--read-back", "-q"]).run().exits(0);
    // One of them is damaged in the target too: it must not be mended from a rotten source.
    flip(&desk.path("bucket").join(&rotten[0]), &mut random);
    let line =
        ["verify", "source", "embedded:bucket", "--read-back", "--read-source", "--report", "report", "-q"];
    desk.migrator(line).run().exits(5);
    let expected = rotten.iter().map(|name| (name.clone(), "outdated".to_owned())).collect();
    assert_eq!(findings(&desk.path("report")), expected);
    let report = fs::read_to_string(desk.path("report/report.html")).unwrap();
    assert!(report.contains("restore this file from the target"), "{report}");
    let good = fs::read(desk.path("bucket").join(&rotten[1])).unwrap();
    desk.migrator(["copy", "source", "embedded:bucket", "-q"]).run().exits(0);
    assert_eq!(fs::read(desk.path("bucket").join(&rotten[1])).unwrap(), good, "the good copy stays");
}

/// The same against a server that is not ours.
#[test]
fn an_audit_of_garage_finds_every_damage_that_was_planted() {
    let Some(remote) = Remote::garage() else { return };
    let mut random = seeded();
    let desk = Desk::new();
    for number in 0..60 {
        desk.write(&format!("source/{number:02}"), bytes(number, random.random_range(2..9_000)));
    }
    let url = remote.url();
    desk.migrator(["copy", "source", &url, "-q"]).at(&remote.endpoint).run().exits(0);
    let mut planted = BTreeMap::new();
    for number in (0..60).step_by(4) {
        let name = format!("{number:02}");
        let mut data = fs::read(desk.source(&name)).unwrap();
        let found = match number % 3 {
            0 => {
                let at = random.random_range(0..data.len());
                data[at] ^= 1 << random.random_range(0..8);
                remote.put(&name, &data);
                "different"
            }
            1 => {
                remote.put(&name, &data[..data.len() - 1]);
                "different"
            }
            _ => {
                remote.delete(&name);
                "missing"
            }
        };
        planted.insert(name, found.to_owned());
    }
    remote.put("extra", b"extra");
    planted.insert("extra".to_owned(), "extra".to_owned());
    let line = ["verify", "source", &url, "--read-back", "--report", "report", "-q"];
    desk.migrator(line).at(&remote.endpoint).run().exits(5);
    assert_eq!(findings(&desk.path("report")), planted);
}

/// P1: what nobody has compared is not called migrated, in no file of the report.
#[test]
fn a_copy_that_compares_nothing_says_so_and_the_next_one_compares() {
    let desk = Desk::new();
    for name in ["a", "b"] {
        desk.write(&format!("source/{name}"), name);
    }
    let copy = |mode: &str| {
        desk.migrator(["copy", "source", "target", "--verify", mode, "--report", "report"]).run()
    };
    for _ in 0..2 {
        let ran = copy("none").exits(0);
        assert!(ran.stdout.contains("compared by nobody"), "{ran}");
        let report = Report::read(&desk.path("report"));
        assert_eq!(
            (report.sum("copied"), report.sum("unchanged"), report.sum("unverified")),
            (0, 0, 2),
            "{ran}"
        );
        assert_eq!(fs::read_to_string(desk.path("report/SHA256SUMS")).unwrap(), "");
        let proof = fs::read_to_string(desk.path("report/proof.jsonl")).unwrap();
        assert_eq!(
            proof.matches("\"outcome\":\"unverified\",\"verified\":null,\"by\":null").count(),
            2,
            "{proof}"
        );
        assert!(fs::read_to_string(desk.path("report/report.html")).unwrap().contains("NOT verified"));
    }
    // It rotted meanwhile: nobody has said that it was right.
    desk.write("target/a", "x");
    let ran = copy("transferred").exits(0);
    assert_eq!(Report::read(&desk.path("report")).sum("copied"), 2, "{ran}");
    assert_eq!(fs::read(desk.path("target/a")).unwrap(), b"a");

    // And all of the target, not only what was transferred.
    desk.write("target/b", "x");
    copy("transferred").exits(0);
    let ran = copy("all").exits(5);
    assert_eq!(Report::read(&desk.path("report/verify")).row("b").unwrap()["outcome"], "different", "{ran}");
    copy("all").exits(0);
}
