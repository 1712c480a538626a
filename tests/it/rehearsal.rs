//! `--dry-run`: nothing is changed, and the run itself then does what was foretold.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Desk, Migrator, Ran, Remote, entry, stored};

/// Everything that lies beneath a path, the storages' own directories included: kind, bytes, times and mode.
type Frozen = BTreeMap<PathBuf, (Option<Vec<u8>>, (i64, i64), (i64, i64), u32)>;

fn frozen(path: &Path) -> Frozen {
    fn add(path: &Path, all: &mut Frozen) {
        let stat = fs::symlink_metadata(path).unwrap();
        let bytes = stat.is_file().then(|| fs::read(path).unwrap());
        let times = ((stat.mtime(), stat.mtime_nsec()), (stat.ctime(), stat.ctime_nsec()));
        all.insert(path.to_owned(), (bytes, times.0, times.1, stat.mode()));
        if stat.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                add(&entry.unwrap().path(), all);
            }
        }
    }
    let mut all = Frozen::new();
    if path.exists() {
        add(path, &mut all);
    }
    all
}

/// Source, target with its quarantine and its own directory, and the ledger with all that is beside it.
fn everything(desk: &Desk) -> Frozen {
    let parts = ["source", "target", "plain", "state"].map(|name| frozen(&desk.path(name)));
    parts.into_iter().flatten().collect()
}

/// Runs it dry, and asserts that it changed nothing.
#[track_caller]
fn dry(desk: &Desk, run: &Migrator, code: i32) -> Ran {
    let before = everything(desk);
    let ran = run.clone().args(["--dry-run", "--json"]).run().exits(code);
    let after = everything(desk);
    let changed: Vec<_> = before
        .keys()
        .chain(after.keys())
        .filter(|path| before.get(*path) != after.get(*path))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    assert!(changed.is_empty(), "changed: {changed:?}\n{ran}");
    ran
}

/// The names that events of a run give, by what they say of them.
fn named(events: &[Value], event: &str, key: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut named = BTreeMap::<_, BTreeSet<_>>::new();
    for found in events.iter().filter(|found| found["event"] == event) {
        let subject = found["subject"].as_str().unwrap().to_owned();
        named.entry(found[key].as_str().unwrap().to_owned()).or_default().insert(subject);
    }
    named
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn one(events: &[Value], event: &str) -> Value {
    events.iter().find(|found| found["event"] == event).unwrap_or_else(|| panic!("no {event}")).clone()
}

/// A desk whose target has what the source had, and both have changed since.
fn drifted(target: &str) -> Desk {
    let desk = Desk::new();
    for name in ["a", "b", "d/1", "d/2", "e/deep/3", "zz"] {
        desk.write(&format!("source/{name}"), name);
    }
    desk.migrator(["sync", "source", target, "--delete"]).run().exits(0);
    desk.write("source/b", "b, longer than before");
    desk.write("source/new", "new");
    desk.write("source/d-new/x", "x");
    fs::remove_file(desk.source("a")).unwrap();
    fs::remove_dir_all(desk.source("e")).unwrap();
    symlink("b", desk.source("link")).unwrap();
    let directory = target.trim_start_matches("embedded:");
    desk.write(&format!("{directory}/only/there"), "there");
    // Nobody but the target knows it, and the source has it as well.
    desk.write("source/there", "of the source");
    desk.write(&format!("{directory}/there"), "of the target");
    desk
}

#[test]
fn a_dry_run_changes_nothing_and_the_run_does_what_was_foretold() {
    for target in ["embedded:target", "plain"] {
        let desk = drifted(target);
        let sync = desk.migrator(["sync", "source", target, "--delete"]);
        let ran = dry(&desk, &sync, 0);
        let events = ran.events();
        let foretold = named(&events, "foretold", "action");
        let of = |action: &str| foretold.get(action).cloned().unwrap_or_default();
        assert_eq!(of("copy"), names(&["new", "d-new/x"]), "{ran}");
        assert_eq!(of("replace"), names(&["b", "there"]), "{ran}");
        assert_eq!(of("quarantine"), names(&["a", "e/deep/3", "only/there"]), "{ran}");
        assert_eq!(of("skip"), names(&["link"]), "{ran}");
        let told = one(&events, "dry_run");
        assert_eq!((&told["exit_code"], &told["candidates"]), (&0.into(), &3.into()), "{ran}");
        assert_eq!(told["unchanged"]["files"], 3, "{ran}");

        let ran = sync.args(["--json"]).run().exits(0);
        let done = named(&ran.events(), "file", "outcome");
        assert_eq!(done["copied"], &of("copy") | &of("replace"), "{ran}");
        assert_eq!(done["quarantined"], of("quarantine"), "{ran}");
        assert_eq!(done["skipped"], of("skip"), "{ran}");
        assert_eq!(ran.summary()["sums"]["unchanged"]["files"], 3, "{ran}");
    }
}

#[test]
fn a_dry_run_makes_no_ledger_and_no_target() {
    let desk = Desk::new();
    desk.write("source/d/a", "a");
    for target in ["embedded:target", "plain"] {
        let ran = dry(&desk, &desk.migrator(["sync", "source", target, "--delete"]), 0);
        assert_eq!(one(&ran.events(), "dry_run")["ledger_exists"], false, "{ran}");
        let ran = desk.migrator(["copy", "-n", "source", target]).run().exits(0);
        assert!(ran.stdout.contains("dry run of copy: nothing was changed"), "{ran}");
        assert!(ran.stdout.contains("none yet, and none was made"), "{ran}");
        assert!(ran.stdout.contains("would be copied\n  d/a  1 B\n"), "{ran}");
    }
    assert!(!desk.path("target").exists() && !desk.path("plain").exists());
    assert!(!desk.path("state/migrator").exists());
    // A report of nothing is none.
    desk.migrator(["copy", "-n", "source", "plain", "--report", "report"]).run().exits(2);
}

/// What a safeguard refuses is refused before it is done, in the same words and with the same exit code.
#[test]
fn a_dry_run_is_refused_as_the_run_would_be() {
    let target = "embedded:target";
    let desk = drifted(target);
    let sync = desk.migrator(["sync", "source", target, "--delete"]);
    let few = sync.clone().args(["--max-delete", "1"]);
    let ran = dry(&desk, &few, 6);
    assert!(ran.stderr.contains("3 of 10 files") && ran.stderr.contains("--max-delete 3"), "{ran}");
    let events = ran.events();
    let told = one(&events, "dry_run");
    assert_eq!((&told["withheld"], &told["exit_code"]), (&"too_many".into(), &6.into()), "{ran}");
    assert_eq!(events.last().unwrap()["event"], "error", "{ran}");
    let ran = few.clone().args(["-n"]).run().exits(6);
    assert!(
        ran.stdout.contains("were it not refused\n  a  1 B\n  e/deep/3  8 B\n  only/there  5 B\n"),
        "{ran}"
    );
    assert!(ran.stdout.contains("nothing would be deleted"), "{ran}");
    let refused = few.run().exits(6);
    assert!(
        refused.stderr.contains("3 of 10 files") && refused.stderr.contains("--max-delete 3"),
        "{refused}"
    );

    // An unreadable directory: nothing beneath it is a candidate, and nothing would be deleted.
    desk.give_to_nobody();
    fs::set_permissions(desk.source("d"), Permissions::from_mode(0o000)).unwrap();
    let closed = sync.clone().args(["-n"]).by_nobody().run();
    fs::set_permissions(desk.source("d"), Permissions::from_mode(0o755)).unwrap();
    let closed = closed.exits(4);
    assert!(closed.stdout.contains("nothing would be deleted: a part of the source"), "{closed}");
    assert!(!closed.stdout.contains("d/1"), "{closed}");

    fs::rename(desk.path("source"), desk.path("unmounted")).unwrap();
    fs::create_dir(desk.path("source")).unwrap();
    let ran = dry(&desk, &sync, 6);
    assert!(ran.stderr.contains("--allow-empty-source"), "{ran}");
    let fresh = sync.args(["--ledger", "fresh.sqlite"]);
    let ran = dry(&desk, &fresh, 6);
    assert!(ran.stderr.contains("--allow-empty-source"), "{ran}");
    assert!(!desk.path("fresh.sqlite").exists(), "{ran}");
}

#[test]
fn a_dry_run_waits_for_no_ledger_that_is_in_use() {
    let desk = drifted("plain");
    let held = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(desk.ledger().with_extension("sqlite.lock"))
        .unwrap();
    held.lock().unwrap();
    let ran = dry(&desk, &desk.migrator(["copy", "source", "plain"]), 6);
    assert!(ran.stderr.contains("in use"), "{ran}");
}

#[test]
fn files_that_would_be_moved_away_are_foretold() {
    let desk = Desk::new();
    for name in ["a", "b", "lost"] {
        desk.write(&format!("source/{name}"), name);
    }
    desk.migrator(["copy", "source", "embedded:target"]).run().exits(0);
    desk.write("source/new", "new");
    fs::remove_file(desk.path("target/lost")).unwrap();
    let copy = desk.migrator(["copy", "source", "embedded:target", "--remove-source"]);
    let ran = dry(&desk, &copy, 4);
    let foretold = named(&ran.events(), "foretold", "action");
    assert_eq!(foretold["move_away"], names(&["a", "b", "new"]), "{ran}");
    assert_eq!(foretold["fail"], names(&["lost"]), "{ran}");
    let ran = copy.args(["--json"]).run().exits(4);
    let events = ran.events();
    let moved: Vec<_> = events.iter().filter(|event| event["reason"] == "source_removed").cloned().collect();
    let moved: BTreeSet<_> = named(&moved, "file", "outcome").into_values().flatten().collect();
    assert_eq!(moved, foretold["move_away"], "{ran}");
    assert_eq!(named(&events, "file", "outcome")["failed"], foretold["fail"], "{ran}");
}

/// A directory cannot hold `x` and `x/1`: what is in the way there shows before a byte moves.
#[test]
fn what_is_in_the_way_in_a_directory_is_foretold() {
    let desk = Desk::new();
    desk.write("source/x", "a file");
    desk.write("source/y/1", "beneath");
    desk.write("source/good", "good");
    desk.write("plain/x/1", "only in the target");
    desk.write("plain/y", "a file there");
    let sync = desk.migrator(["sync", "source", "plain", "--delete"]);
    let ran = dry(&desk, &sync, 4);
    let foretold = named(&ran.events(), "foretold", "action");
    assert_eq!(foretold["fail"], names(&["x", "y/1"]), "{ran}");
    assert_eq!(one(&ran.events(), "dry_run")["withheld"], "copy_failed", "{ran}");
    let plan = desk.migrator(["plan", "source", "plain", "--json"]).run().exits(4);
    assert_eq!(plan.events()[0]["failed"], serde_json::json!({"conflict": 2}), "{plan}");
    let ran = sync.args(["--json"]).run().exits(4);
    assert_eq!(named(&ran.events(), "file", "outcome")["failed"], foretold["fail"], "{ran}");
}

#[test]
fn a_real_server_is_not_written_to() {
    let Some(remote) = Remote::garage() else { return };
    let desk = Desk::new();
    desk.write("source/a", "a");
    remote.put("only", b"there");
    let sync = desk.migrator(["sync", "source", &remote.url(), "--delete"]).at(&remote.endpoint);
    let ran = dry(&desk, &sync, 0);
    let foretold = named(&ran.events(), "foretold", "action");
    assert_eq!((&foretold["copy"], &foretold["quarantine"]), (&names(&["a"]), &names(&["only"])), "{ran}");
    assert_eq!(remote.files(), [("only".to_owned(), entry(b"there"))].into(), "{ran}");
    sync.run().exits(0);
    assert!(remote.files().contains_key("a"));
}

/// The ledger's lock tells what its last line cannot.
#[test]
fn status_tells_a_run_that_goes_on_from_one_that_was_killed() {
    let desk = Desk::new();
    desk.write("source/large", vec![7; 8 << 20]);
    let status = || desk.migrator(["status", "source", "embedded:target"]).run();
    let copy = desk.migrator(["copy", "source", "embedded:target", "--bandwidth", "64KiB/s"]);
    let mut running = copy.start();
    running.until("a run has begun", |_| status().stdout.contains("is running"));
    let told = status().exits(0);
    assert!(told.stdout.contains(&format!("is running (process {} on ", running.pid())), "{told}");
    running.signal(rustix::process::Signal::KILL);
    running.wait();
    let told = status().exits(0);
    assert!(told.stdout.contains("was killed: the next copy goes on"), "{told}");
}

/// A name that is no UTF-8 is shown escaped, once.
#[test]
fn a_name_that_is_no_name_is_escaped_once() {
    use std::os::unix::ffi::OsStrExt as _;
    let desk = Desk::new();
    fs::write(desk.source("").join(std::ffi::OsStr::from_bytes(b"bad\xff")), "x").unwrap();
    for line in [
        vec!["plan", "source", "plain"],
        vec!["copy", "source", "plain"],
        vec!["copy", "source", "plain", "-n"],
    ] {
        let ran = desk.migrator(line).run().exits(4);
        assert!(ran.stdout.contains("./bad\\xff"), "{ran}");
        assert!(!ran.stdout.contains("bad\\\\xff") && !ran.stderr.contains("bad\\\\xff"), "{ran}");
    }
}

#[test]
fn tags_that_links_do_not_keep_are_told_once() {
    let desk = Desk::new();
    desk.write("source/a", "a");
    for name in ["b", "c"] {
        symlink("a", desk.source(name)).unwrap();
    }
    let copy = desk.migrator(["copy", "source", "plain", "--tag", "project=x"]);
    let ran = copy.clone().args(["--preserve", "all"]).run().exits(0);
    assert_eq!(ran.stderr.matches("are not kept for symbolic links and directories").count(), 1, "{ran}");
    let ran = copy.run().exits(0);
    assert!(!ran.stderr.contains("are not kept"), "{ran}");
}

#[test]
fn a_job_that_does_nothing_is_refused() {
    let desk = Desk::new();
    let job = |options: &str| {
        let text = "source = \"source\"\ntarget = \"plain\"\nmode = \"copy\"\nschedule = \"daily\"\n";
        desk.write("config.toml", format!("[job.a]\n{text}options = [{options}]\n"));
        desk.migrator(["daemon", "--check", "--config", "config.toml"]).run()
    };
    job("\"--dry-run\"").refuses(3, &["[job.a]", "--dry-run"]);
    let ran = job("").exits(0);
    assert!(!ran.stderr.contains("warning"), "{ran}");
    // It may be there when the job is due, and is worth a word until then.
    fs::remove_dir(desk.path("source")).unwrap();
    let ran = job("").exits(0);
    assert!(ran.stderr.contains("warning: [job.a] source: the directory"), "{ran}");
    assert!(ran.stderr.contains("does not exist"), "{ran}");
}

/// Of thousands, a terminal is shown a few; programs are told all.
#[test]
fn a_terminal_is_shown_a_few_and_programs_are_told_all() {
    let desk = Desk::new();
    for number in 0..1500 {
        desk.write(&format!("source/{number:04}"), "");
    }
    let copy = desk.migrator(["copy", "source", "embedded:target"]);
    let ran = dry(&desk, &copy, 0);
    assert_eq!(named(&ran.events(), "foretold", "action")["copy"].len(), 1500);
    let ran = copy.args(["--dry-run"]).run().exits(0);
    assert!(ran.stdout.contains("and 1480 more: --json has all of them"), "{ran}");
    assert!(ran.stdout.lines().count() < 40, "{ran}");
    assert!(stored(&desk.path("source")).len() == 1500);
}
