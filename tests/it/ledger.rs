//! What becomes of a migration whose ledger meets a bad disk: it refuses or recovers, never forgets a file that it told
//! as copied, and never deletes what is in the source.
//!
//! The ledger's own tests are beside it, in crate migrator, power cuts among them; here are whole runs.

#![allow(clippy::print_stderr, reason = "seeds and figures are printed")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::{Connection, OpenFlags};
use rustix::process::Signal;
use test_rig::Strace;

use crate::support::{Desk, Files, Migrator, Ran, Report, assert_same, count, entry, stored};

const FILES: usize = 60;

fn name(number: usize) -> String {
    format!("{}/{number:03}", number % 7)
}

/// A desk with a source of sixty small files, and what they are.
fn desk() -> (Desk, Files) {
    let desk = Desk::new();
    let mut files = Files::new();
    for number in 0..FILES {
        let text = format!("file number {number}");
        desk.write(&format!("source/{}", name(number)), &text);
        files.insert(name(number), entry(text.as_bytes()));
    }
    fs::create_dir(desk.path("book")).unwrap();
    (desk, files)
}

fn run(desk: &Desk, command: &str) -> Migrator {
    let line = [command, "source", "embedded:target", "--json", "--no-progress", "--concurrency", "2"];
    desk.migrator(line).args(["--ledger", "book/ledger.sqlite"])
}

/// Returns what a run told as copied; its last line may have been cut off.
fn told(output: &str) -> BTreeSet<String> {
    let events = output.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let copied = events.filter(|event| event["event"] == "file" && event["outcome"] == "copied");
    copied.map(|event| event["subject"].as_str().unwrap().to_owned()).collect()
}

/// Returns the files of the target; a run that was refused has not even made it.
fn files_of(desk: &Desk) -> Files {
    let target = desk.path("target");
    let mut files = if target.exists() { stored(&target) } else { Files::new() };
    files.retain(|name, _| !name.starts_with(".quarantine/"));
    files
}

fn copy_tree(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

fn seeded() -> StdRng {
    let seed = std::env::var("LEDGER_SEED").ok().map_or_else(rand::random, |seed| seed.parse().unwrap());
    eprintln!("LEDGER_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// Asserts that a run which could not go on said why, in the right words, and that the next one goes on without copying
/// anything again that this one told as copied.
#[track_caller]
fn goes_on(desk: &Desk, files: &Files, what: &str, broken: &Ran) {
    assert!(!broken.stderr.contains("panicked"), "{what}: {broken}");
    assert!(broken.stderr.contains("ledger.sqlite") && broken.stderr.contains("hint: "), "{what}: {broken}");
    let told_before = told(&broken.stdout);
    let there = files_of(desk);
    for name in &told_before {
        assert_eq!(there.get(name), files.get(name), "{what}: {name} was told as copied");
    }
    let ran = run(desk, "sync").args(["--delete"]).run().exits(0);
    assert_same(what, &files_of(desk), files);
    let again: Vec<_> = told(&ran.stdout).intersection(&told_before).cloned().collect();
    assert!(again.is_empty(), "{what}: forgotten, and copied again: {again:?}\n{ran}");
    let summary = ran.summary();
    let sums = &summary["sums"];
    assert_eq!(count(&sums["planned"]), count(&sums["copied"]) + count(&sums["unchanged"]), "{what}: {ran}");
}

/// A disk that fails under the ledger, at every sync and at every write, for once and from then on.
#[test]
fn an_error_of_the_disk_at_any_step_of_the_ledger_stops_the_run_and_the_next_goes_on() {
    for (calls, errno, stride, least) in [
        ("fsync,fdatasync", "EIO", 2, 2),
        ("pwrite64,pwritev", "EIO", 9, 2),
        ("pwrite64,pwritev", "ENOSPC", 11, 2),
    ] {
        for more in ["", "+"] {
            let mut broken = 0;
            for when in (1_usize..80).step_by(stride) {
                let (desk, files) = desk();
                let Some(mut strace) = Strace::new("/dev/null") else { return };
                strace = strace.fail_at(calls, errno, &format!("{when}{more}"));
                for file in ["ledger.sqlite", "ledger.sqlite-wal"] {
                    strace = strace.path(desk.path("book").join(file));
                }
                let ran = run(&desk, "copy").under(strace).run();
                let what = format!("{errno} at {calls} #{when}{more}");
                match ran.status.code() {
                    // Through before that call, or the log was not put back at the end, which loses nothing.
                    Some(0) => {
                        assert_same(&what, &files_of(&desk), &files);
                        let told = told(&ran.stdout);
                        assert_eq!(told.len(), FILES, "{what}: {ran}");
                        let again = run(&desk, "copy").run().exits(0).summary();
                        assert_eq!(count(&again["sums"]["unchanged"]), FILES as u64, "{what}");
                        if broken >= least {
                            break;
                        }
                    }
                    Some(3) => {
                        goes_on(&desk, &files, &what, &ran);
                        broken += 1;
                    }
                    _ => panic!("{what}: {ran}"),
                }
            }
            assert!(
                broken >= least,
                "{errno} at {calls}{more}: {broken} runs only: is it still these calls?"
            );
        }
    }
}

/// One bit, or a whole sector, anywhere in the file: it is told, or it does no harm. Never does a mirror lose what the
/// source has.
#[test]
fn damage_anywhere_in_the_ledger_is_told_or_does_no_harm() {
    let mut random = seeded();
    let (desk, mut files) = desk();
    run(&desk, "copy").run().exits(0);
    fs::remove_file(desk.source(&name(3))).unwrap();
    files.remove(&name(3));
    desk.write("source/new", "new");
    files.insert("new".to_owned(), entry(b"new"));
    for kept in ["book", "target"] {
        copy_tree(&desk.path(kept), &desk.path(&format!("kept-{kept}")));
    }
    let path = desk.path("book/ledger.sqlite");
    let length = fs::metadata(&path).unwrap().len();
    let (mut refused, mut healed) = (0, 0);
    for trial in 0..3 * length / 4096 {
        for kept in ["book", "target"] {
            copy_tree(&desk.path(&format!("kept-{kept}")), &desk.path(kept));
        }
        // Each page three times: a bit, a bit of its header, a sector of rubbish or zeros.
        let page = trial / 3 * 4096;
        let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let (at, size) = match trial % 3 {
            0 => (page + random.random_range(0..4096), 1),
            1 => (page + random.random_range(0..16), 1),
            _ => (page + 512 * random.random_range(0..8), 512),
        };
        let mut piece = vec![0; size];
        file.read_exact_at(&mut piece, at).unwrap();
        match (size, random.random()) {
            (1, _) => piece[0] ^= 1 << random.random_range(0..8),
            (_, true) => piece.fill(0),
            (_, false) => random.fill(&mut piece[..]),
        }
        file.write_all_at(&piece, at).unwrap();
        drop(file);
        let what = format!("{size} bytes at {at} of {length}");
        let ran = run(&desk, "sync").args(["--delete"]).run();
        assert!(!ran.stderr.contains("panicked"), "{what}: {ran}");
        let after = files_of(&desk);
        for (name, expected) in &files {
            assert!(name == "new" || after.get(name) == Some(expected), "{what}: {name} is lost\n{ran}");
        }
        match ran.status.code() {
            Some(0) => {
                assert_same(&what, &after, &files);
                healed += 1;
            }
            Some(3 | 6) => {
                assert!(ran.stderr.contains("ledger") && ran.stderr.contains("hint: "), "{what}: {ran}");
                refused += 1;
            }
            // What was damaged reads like rows of another kind: the sums tell.
            Some(1) if ran.stderr.contains("do not add up") => refused += 1,
            _ => panic!("{what}: {ran}"),
        }
    }
    eprintln!("{refused} damages were told, {healed} did no harm");
    assert!(refused > 0 && healed > 0);
}

/// A crash leaves the log, and a bad disk half of it: what it still holds is taken, and the rest is copied again.
#[test]
fn a_torn_log_is_taken_as_far_as_it_is_whole() {
    let mut random = seeded();
    let (desk, files) = desk();
    let mut running = run(&desk, "copy").args(["--bandwidth", "20KiB/s"]).start();
    running.until("some files are copied", |running| told(&running.stdout()).len() >= 20);
    running.signal(Signal::KILL);
    let killed = running.wait();
    let promised = told(&killed.stdout);
    copy_tree(&desk.path("book"), &desk.path("kept"));
    let log = desk.path("book/ledger.sqlite-wal");
    let length = fs::metadata(&log).unwrap().len();
    assert!(length > 4096, "nothing is in the log");
    for trial in 0..24 {
        copy_tree(&desk.path("kept"), &desk.path("book"));
        let at = if trial == 0 { length } else { random.random_range(0..length) };
        let file = fs::OpenOptions::new().read(true).write(true).open(&log).unwrap();
        let what = if trial % 2 == 0 {
            file.set_len(at).unwrap();
            format!("cut at {at} of {length}")
        } else {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 8], at).unwrap();
            format!("flipped at {at} of {length}")
        };
        drop(file);
        let ran = run(&desk, "sync").args(["--delete"]).run();
        match ran.status.code() {
            Some(0) => assert_same(&what, &files_of(&desk), &files),
            // Not even the beginning of it: there is no ledger in what is left.
            Some(3) => {
                assert!(ran.stderr.contains("ledger.sqlite") && ran.stderr.contains("hint: "), "{ran}")
            }
            _ => panic!("{what}: {ran}"),
        }
        let there = files_of(&desk);
        assert!(promised.iter().all(|name| there.contains_key(name)), "{what}: {ran}");
        if trial == 0 {
            let again: Vec<_> = told(&ran.stdout).intersection(&promised).cloned().collect();
            assert!(again.is_empty(), "a whole log was not taken: {again:?}\n{ran}");
        }
    }
}

/// Makes of this release's ledger what the first release would have written: its tables alone, with the same rows.
fn of_the_first_schema(now: &Path, first: &Path) {
    let book = Connection::open(first).unwrap();
    book.execute_batch(include_str!("../../crates/migrator/src/ledger/sql/sqlite/0001_ledger.sql")).unwrap();
    book.pragma_update(None, "foreign_keys", false).unwrap();
    book.execute("ATTACH ?1 AS now", [now.to_str().unwrap()]).unwrap();
    for table in ["binding", "runs", "files", "parts", "orphans", "outcomes"] {
        let names: String = book
            .query_row("SELECT group_concat(name) FROM pragma_table_info(?1, 'main')", [table], |row| {
                row.get(0)
            })
            .unwrap();
        book.execute(&format!("INSERT INTO main.{table} ({names}) SELECT {names} FROM now.{table}"), [])
            .unwrap();
    }
    // `MIGL`, which marks a ledger.
    book.pragma_update(None, "application_id", 0x4D49_474C).unwrap();
    book.pragma_update(None, "user_version", 1).unwrap();
}

/// An update of the program must not cost a migration of a month: everything that the older ledger knows is known.
#[test]
fn a_ledger_of_the_first_release_is_taken_over_with_all_it_knows() {
    let (desk, mut files) = desk();
    desk.write("source/big", crate::support::bytes(1, 11 << 20));
    files.insert("big".to_owned(), entry(&crate::support::bytes(1, 11 << 20)));
    let copy =
        |more: &[&str]| run(&desk, "copy").args(["--part-size", "5MiB", "--report", "report"]).args(more);
    copy(&["--exclude", "big"]).run().exits(0);
    // An upload in parts that is to go on, too.
    let mut running = copy(&["--bandwidth", "4MiB/s"]).start();
    let parts = || {
        let book =
            Connection::open_with_flags(desk.path("book/ledger.sqlite"), OpenFlags::SQLITE_OPEN_READ_ONLY);
        book.unwrap().query_row("SELECT count(*) FROM parts", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    running.until("a part is stored", |_| parts() > 0);
    running.signal(Signal::TERM);
    running.wait().exits(130);
    let (now, first) = (desk.path("book/ledger.sqlite"), desk.path("first.sqlite"));
    of_the_first_schema(&now, &first);
    fs::rename(&first, &now).unwrap();

    // Whoever only looks changes nothing, and says what to do.
    let status = desk.migrator(["status", "--ledger", "book/ledger.sqlite"]).run();
    assert!(matches!(status.status.code(), Some(0 | 3)), "{status}");
    let ran = copy(&[]).run().exits(0);
    let summary = ran.summary();
    assert_eq!(count(&summary["sums"]["unchanged"]), FILES as u64, "{ran}");
    assert_eq!(told(&ran.stdout), BTreeSet::from(["big".to_owned()]), "{ran}");
    assert!(summary["work"]["parts_resumed"].as_u64().unwrap() >= 1, "{ran}");
    assert_same("target", &files_of(&desk), &files);
    // The history before the update is told as well.
    let earlier = desk.migrator([
        "report",
        "source",
        "embedded:target",
        "--ledger",
        "book/ledger.sqlite",
        "--run",
        "1",
        "--json",
    ]);
    assert_eq!(count(&earlier.run().exits(0).summary()["sums"]["copied"]), FILES as u64);
    let explained = desk
        .migrator(["explain", "source", "embedded:target", &name(5), "--ledger", "book/ledger.sqlite"])
        .run()
        .exits(0);
    assert!(explained.stdout.contains("copied"), "{explained}");
    run(&desk, "verify").args(["--read-back"]).run().exits(0);
    assert_eq!(Report::read(&desk.path("report")).sum("failed"), 0);
}
