//! Kills at every step of the removal of sources. Whatever the step: no file is nowhere, and a sync that runs next, before
//! anything else, deletes nothing.

use std::fs;
use std::path::PathBuf;

use test_rig::{Strace, strace};

use crate::removal::away;
use crate::support::{Desk, Files, Migrator, Report, assert_same, bytes, entry, stored};

const SYNCS: &str = "fsync,fdatasync";
const WRITES: &str = "pwrite64,pwritev";
const RENAMES: &str = "?renameat2";
const DIRECTORIES: &str = "?mkdir,?mkdirat";

struct Move {
    desk: Desk,
    files: Files,
}

impl Move {
    /// A source of three files, copied before where the removal alone is to be killed.
    fn new(copied: bool) -> Self {
        let desk = Desk::new();
        let mut files = Files::new();
        for (number, name) in ["a", "d/1", "d/e/2"].into_iter().enumerate() {
            let data = bytes(number as u8, 3_000 + number);
            desk.write(&format!("source/{name}"), &data);
            files.insert(name.to_owned(), entry(&data));
        }
        let it = Self { desk, files };
        if copied {
            it.migrator(&["copy"], &[]).run().exits(0);
        }
        it
    }

    fn migrator(&self, command: &[&str], more: &[&str]) -> Migrator {
        let pair = ["source", "embedded:target", "--ledger", "state/ledger.sqlite"];
        self.desk.migrator([command, &pair, more].concat())
    }

    fn ledger_files(&self) -> Vec<PathBuf> {
        ["ledger.sqlite", "ledger.sqlite-wal"].map(|name| self.desk.path("state").join(name)).into()
    }

    /// Asserts that every file is whole in the source or its quarantine, and, once it left, in the target.
    fn nothing_is_lost(&self, what: &str) {
        let source = stored(&self.desk.path("source"));
        let away = away(&self.desk.path("source"));
        let target = self.desk.path("target");
        let target = if target.exists() { stored(&target) } else { Files::new() };
        for (name, file) in &self.files {
            let left = source.get(name) != Some(file);
            assert!(!left || away.get(name) == Some(file), "{what}: {name} is nowhere");
            assert!(!left || target.get(name) == Some(file), "{what}: {name} left before it was there");
        }
    }

    /// Kills at the `when`-th call; false where the run was through before that.
    fn kill_at(&self, calls: &str, paths: &[PathBuf], when: u32) -> bool {
        let Some(mut strace) = Strace::new("/dev/null") else { return false };
        strace = strace.kill_at(calls, when);
        for path in paths {
            strace = strace.path(path);
        }
        let run = self.migrator(&["copy"], &["--remove-source", "--concurrency", "1"]);
        let run = run.env("TOKIO_WORKER_THREADS", "1").under(strace).run();
        let killed = strace::was_killed(run.status);
        assert!(killed || run.status.success(), "{run}");
        let what = format!("{calls} #{when}\n{run}");
        self.nothing_is_lost(&what);
        let more = ["--delete", "--allow-empty-source", "--max-delete", "100%", "--quarantine-days", "0"];
        for _ in 0..2 {
            let ran = self.migrator(&["sync"], &more).run().exits(0);
            self.nothing_is_lost(&format!("{what}\nafter a sync\n{ran}"));
            assert_same(
                &format!("{what}\nafter a sync\n{ran}"),
                &stored(&self.desk.path("target")),
                &self.files,
            );
        }
        let ran = self.migrator(&["copy"], &["--remove-source"]).run().exits(0);
        assert_eq!(stored(&self.desk.path("source")), Files::new(), "{what}\n{ran}");
        assert_same(&what, &away(&self.desk.path("source")), &self.files);
        let ran = self.migrator(&["verify"], &["--read-back", "--report", "report"]).run().exits(0);
        assert_eq!(Report::read(&self.desk.path("report")).sum("unchanged"), 3, "{what}\n{ran}");
        fs::remove_dir_all(self.desk.path("report")).unwrap();
        killed
    }
}

#[expect(clippy::print_stderr, reason = "how many kills there were tells whether the sweep sees anything")]
fn walk(copied: bool, calls: &str, on_ledger: bool, stride: usize, at_least: u32) {
    if Strace::new("/dev/null").is_none() {
        return;
    }
    let stride = if std::env::var_os("KILLS_EVERY").is_some() { 1 } else { stride };
    let mut kills = 0;
    for when in (1..).step_by(stride) {
        let it = Move::new(copied);
        let paths = if on_ledger { it.ledger_files() } else { Vec::new() };
        if !it.kill_at(calls, &paths, when) {
            break;
        }
        kills += 1;
        assert!(kills < 1000, "every run is killed");
    }
    eprintln!("{calls}: {kills} kills");
    assert!(kills >= at_least, "{calls}: {kills} kills only: is it still these calls?");
}

#[test]
fn killed_at_every_move_of_a_source() {
    walk(true, RENAMES, false, 1, 3);
}

#[test]
fn killed_at_every_directory_of_the_quarantine() {
    walk(true, DIRECTORIES, false, 1, 5);
}

#[test]
fn killed_at_syncs_of_source_and_quarantine() {
    walk(true, SYNCS, false, 2, 4);
}

#[test]
fn killed_at_every_commit_of_the_ledger_while_sources_are_moved() {
    walk(true, SYNCS, true, 1, 4);
}

#[test]
fn killed_at_writes_to_the_ledger_while_sources_are_copied_and_moved() {
    walk(false, WRITES, true, 4, 4);
}
