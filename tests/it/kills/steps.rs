//! Kills at the n-th call of a kind, for every n until a run gets through.
//!
//! strace counts per thread. What is swept is therefore done by one thread: the ledger's writer (found by its file),
//! and the network's (the runtime is given one worker); the target's own calls are spread over few threads, whose
//! counts are walked one kind of call at a time.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use test_rig::tree::Entry;
use test_rig::{Strace, strace};

use crate::kills::parts::{big_file, seed};
use crate::support::{Desk, Files, Migrator, Ran, Remote, assert_same, bytes, count, entry, stored};

const PART: &str = "5MiB";
const BIG: u64 = (11 << 20) + 1;

/// Where a sweep copies to.
enum Target {
    /// The program's own server, which dies with it.
    Embedded,
    Garage(Remote),
}

/// What is done over and over: a copy of three files, one of them in parts.
struct Sweep {
    desk: Desk,
    target: Target,
    /// What is in the target before, and what is to be there after.
    old: Files,
    new: Files,
}

impl Sweep {
    /// Prepares a copy over nothing, or over older versions of all files.
    fn new(target: Target, overwrite: bool) -> Self {
        let mut sweep = Self { desk: Desk::new(), target, old: Files::new(), new: Files::new() };
        if overwrite {
            sweep.old = sweep.write(1);
            sweep.copy().run().exits(0);
            fs::create_dir_all(sweep.desk.path("kept")).unwrap();
            fs::rename(sweep.desk.path("source"), sweep.desk.path("kept/source")).unwrap();
        }
        sweep.new = sweep.write(2);
        sweep.keep();
        sweep
    }

    fn write(&self, version: u8) -> Files {
        let mut files = BTreeMap::new();
        for (name, size) in [("a", 3), ("dir/b", 70_000)] {
            let data = bytes(version, size + usize::from(version));
            self.desk.write(&format!("source/{name}"), &data);
            files.insert(name.to_owned(), entry(&data));
        }
        let big: Entry = big_file(&self.desk.source("big"), BIG + u64::from(version), version.into());
        files.insert("big".to_owned(), big);
        files
    }

    fn url(&self) -> String {
        match &self.target {
            Target::Embedded => format!("embedded:{}", self.desk.path("target").display()),
            Target::Garage(remote) => remote.url(),
        }
    }

    fn copy(&self) -> Migrator {
        let ledger = self.desk.path("state/ledger.sqlite");
        let line =
            ["copy", "source", &self.url(), "--json", "--no-progress", "--part-size", PART, "--ledger"];
        let run = self.desk.migrator(line).args([&ledger]).args(["--concurrency", "1"]);
        match &self.target {
            Target::Embedded => run,
            Target::Garage(remote) => run.at(&remote.endpoint),
        }
    }

    /// Keeps target and ledger as they are now, for [`back`](Self::back).
    fn keep(&self) {
        fs::create_dir_all(self.desk.path("target")).unwrap();
        self.copy_tree("", "kept");
    }

    /// Puts target and ledger back to what they were before the copy.
    fn back(&self) {
        for name in ["target", "state"] {
            fs::remove_dir_all(self.desk.path(name)).unwrap();
        }
        self.copy_tree("kept", "");
        if let Target::Garage(remote) = &self.target {
            for name in self.new.keys() {
                match self.old.contains_key(name) {
                    true => remote.put(name, &fs::read(self.desk.path("kept/source").join(name)).unwrap()),
                    false => remote.delete(name),
                }
            }
        }
    }

    /// With attributes and times: the ledger knows files by them.
    fn copy_tree(&self, from: &str, to: &str) {
        fs::create_dir_all(self.desk.path(to)).unwrap();
        for name in ["target", "state"] {
            let mut copy = Command::new("cp");
            copy.arg("-a").arg(self.desk.path(from).join(name)).arg(self.desk.path(to));
            assert!(copy.status().unwrap().success());
        }
    }

    fn files(&self) -> Files {
        match &self.target {
            Target::Embedded => stored(&self.desk.path("target")),
            Target::Garage(remote) => remote.files(),
        }
    }

    /// Kills at the `when`-th call, and runs again; false where the run was through before that.
    fn kill_at(&self, calls: &str, paths: &[PathBuf], when: u32) -> bool {
        let Some(mut strace) = Strace::new("/dev/null") else { return false };
        strace = strace.kill_at(calls, when);
        for path in paths {
            strace = strace.path(path);
        }
        let run = self.copy().env("TOKIO_WORKER_THREADS", "1").under(strace).run();
        let killed = strace::was_killed(run.status);
        assert!(killed || run.status.success(), "{run}");
        self.check(&format!("{calls} #{when}"), &run);
        killed
    }

    /// What the program keeps for itself while it runs is no file: see [`nothing_left`](Self::nothing_left).
    fn shown(&self) -> Files {
        let mut files = self.files();
        files.retain(|name, _| !name.starts_with(".storage"));
        files
    }

    /// Looks at the target as a kill has left it, runs again, and looks at everything.
    fn check(&self, what: &str, killed: &Ran) {
        let shown = self.shown();
        for (name, found) in &shown {
            let whole = [self.old.get(name), self.new.get(name)].contains(&Some(found));
            assert!(whole, "{what}: torn: {name} is {found:?}\n{killed}");
        }
        for name in self.old.keys() {
            assert!(shown.contains_key(name), "{what}: {name} is gone\n{killed}");
        }
        for name in reported(killed) {
            assert_eq!(shown.get(&name), self.new.get(&name), "{what}: reported and lost: {name}\n{killed}");
        }
        let again = self.copy().run().exits(0);
        assert_same(&format!("{what}: after the next run"), &self.files(), &self.new);
        self.nothing_left(what);
        self.all_verified(what);
        let summary = again.summary();
        let sums = &summary["sums"];
        assert_eq!(count(&sums["planned"]), count(&sums["copied"]) + count(&sums["unchanged"]), "{again}");
    }

    fn nothing_left(&self, what: &str) {
        match &self.target {
            Target::Embedded => {
                for name in ["tmp", "uploads"] {
                    let directory = self.desk.path("target/.storage").join(name);
                    assert_eq!(names(&directory), Vec::<String>::new(), "{what}: left in {name}");
                }
            }
            Target::Garage(remote) => assert_eq!(remote.uploads(), [], "{what}"),
        }
        for name in names(&self.desk.path("state")) {
            assert!(name.starts_with("ledger.sqlite"), "{what}: left beside the ledger: {name}");
        }
    }

    fn all_verified(&self, what: &str) {
        let ledger = self.desk.path("state/ledger.sqlite");
        let status = self.desk.migrator(["status", "--json", "--ledger"]).args([&ledger]).run().exits(0);
        let told: Value = serde_json::from_str(status.stdout.trim()).unwrap();
        assert_eq!(count(&told["verified"]), 3, "{what}: {told:#}");
        assert_eq!(count(&told["left"]), 0, "{what}: {told:#}");
        assert_eq!(told["orphaned_uploads"], 0, "{what}: {told:#}");
    }

    /// Kills at every n-th call for each n of a progression, until a run gets through.
    #[expect(
        clippy::print_stderr,
        reason = "how many kills there were tells whether the sweep sees anything"
    )]
    fn walk(&self, calls: &str, paths: &[PathBuf], stride: u32, at_least: u32) {
        if Strace::new("/dev/null").is_none() {
            return;
        }
        let stride = if std::env::var_os("KILLS_EVERY").is_some() { 1 } else { stride };
        let first = 1 + u32::try_from(seed() % u64::from(stride)).unwrap();
        let mut kills = 0;
        for when in (first..).step_by(stride as usize) {
            self.back();
            if !self.kill_at(calls, paths, when) {
                break;
            }
            kills += 1;
            assert!(kills < 1000, "every run is killed");
        }
        eprintln!("{calls}: {kills} kills");
        assert!(kills * stride >= at_least, "{calls}: {kills} kills only: is it still these calls?");
    }

    fn ledger_files(&self) -> Vec<PathBuf> {
        ["ledger.sqlite", "ledger.sqlite-wal"].map(|name| self.desk.path("state").join(name)).into()
    }
}

/// Returns what a run said to be copied. Its last line may have been cut off.
fn reported(run: &Ran) -> Vec<String> {
    let events = run.stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events
        .filter(|event| event["event"] == "file" && event["outcome"] == "copied")
        .map(|event| event["subject"].as_str().unwrap().to_owned())
        .collect()
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

const SYNCS: &str = "fsync,fdatasync";
const WRITES: &str = "pwrite64,pwritev";
const SENDS: &str = "writev,sendto,sendmsg";
const RENAMES: &str = "?rename,?renameat,?renameat2,?linkat";
const REMOVALS: &str = "?unlink,?unlinkat,?rmdir";
const DIRECTORIES: &str = "?mkdir,?mkdirat";

#[test]
fn killed_at_every_commit_of_the_ledger() {
    let sweep = Sweep::new(Target::Embedded, false);
    sweep.walk(SYNCS, &sweep.ledger_files(), 1, 8);
}

#[test]
fn killed_at_every_commit_of_the_ledger_while_older_versions_are_replaced() {
    let sweep = Sweep::new(Target::Embedded, true);
    sweep.walk(SYNCS, &sweep.ledger_files(), 1, 8);
}

#[test]
fn killed_at_writes_to_the_ledger() {
    let sweep = Sweep::new(Target::Embedded, true);
    sweep.walk(WRITES, &sweep.ledger_files(), 3, 15);
}

#[test]
fn killed_at_what_is_sent() {
    let sweep = Sweep::new(Target::Embedded, false);
    sweep.walk(SENDS, &[], 4, 30);
}

#[test]
fn killed_at_what_is_sent_while_older_versions_are_replaced() {
    let sweep = Sweep::new(Target::Embedded, true);
    sweep.walk(SENDS, &[], 4, 30);
}

#[test]
fn killed_at_every_publication_of_the_target() {
    let sweep = Sweep::new(Target::Embedded, true);
    sweep.walk(RENAMES, &[], 1, 3);
}

#[test]
fn killed_at_removals_and_new_directories_of_the_target() {
    let sweep = Sweep::new(Target::Embedded, false);
    sweep.walk(REMOVALS, &[], 2, 4);
    sweep.walk(DIRECTORIES, &[], 1, 2);
}

#[test]
fn killed_at_syncs_of_the_target() {
    let sweep = Sweep::new(Target::Embedded, true);
    sweep.walk(SYNCS, &[], 3, 9);
}

#[test]
fn killed_at_what_is_sent_to_a_real_server() {
    let Some(remote) = Remote::garage() else { return };
    let sweep = Sweep::new(Target::Garage(remote), false);
    sweep.walk(SENDS, &[], 5, 10);
}

#[test]
fn killed_at_commits_of_the_ledger_before_a_real_server_while_older_versions_are_replaced() {
    let Some(remote) = Remote::garage() else { return };
    let sweep = Sweep::new(Target::Garage(remote), true);
    sweep.walk(SYNCS, &sweep.ledger_files(), 3, 6);
}
