//! A day in the life of the daemon, shortened: files come, change and go under it, and the server dies twice.
//!
//! Half a minute in every run of the tests; `tests/soak 30` is half an hour.

#![expect(clippy::print_stderr, reason = "the seed, and the figures of a long run")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use serde_json::Value;
use test_rig::{Garage, tools};

use super::hall::{Hall, Stage};
use crate::support::{Files, Remote, assert_same, judge, stored};

/// Files that there are at most: then more go than come.
const MOST_FILES: usize = 1_500;

/// Between two changes.
const PACE: Duration = Duration::from_millis(15);

/// What the memory may grow by between the first quarter and the last, in KiB: the daemon's own counters, and what the
/// allocator keeps after the largest files.
const MAY_GROW: u64 = 64 << 10;

/// A copy that only adds, and a sync that removes, of the same source, both watching it.
fn jobs(copied: &Remote, mirrored: &Remote) -> String {
    let common = "source = \"./source\"\nwatch = true\ndebounce = \"1s\"\nretry = \"2s\"\nretries = 1000";
    format!(
        "[job.copy]\nmode = \"copy\"\ntarget = \"{}\"\n{common}\n\
         [job.mirror]\nmode = \"sync\"\ntarget = \"{}\"\noptions = [\"--delete\", \"--max-delete\", \"100%\"]\n{common}\n",
        copied.url(),
        mirrored.url(),
    )
}

#[test]
fn after_all_that_happens_the_target_is_the_source() {
    if tools::require("garage").is_none() || judge().is_none() {
        return;
    }
    let length = Duration::from_secs(number("SOAK_SECONDS").unwrap_or(30));
    let seed = number("SOAK_SEED").unwrap_or_else(rand::random);
    eprintln!("soak: {length:?}, SOAK_SEED={seed}");

    let mut garage = Garage::start().unwrap();
    let copied = Remote::new(garage.endpoint());
    let mirrored = Remote::new(garage.endpoint());
    let stage = Stage::new(&jobs(&copied, &mirrored));
    let source = stage.desk.path("source");
    let mut user = User::new(&source, seed);
    (0..300).for_each(|_| user.create());
    let command = stage.command().at(garage.endpoint());
    let hall = stage.start_as(command);

    let over = AtomicBool::new(false);
    let (user, memory) = thread::scope(|scope| {
        let user = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                user.act();
                thread::sleep(PACE);
            }
            user
        });
        let memory = scope.spawn(|| watch_memory(hall.running.pid(), &over));
        // The server is there for a third, away, there, away, and there for the rest.
        let away = (length / 15).min(Duration::from_secs(60));
        for _ in 0..2 {
            thread::sleep(length / 3 - away);
            garage.server().kill().unwrap();
            thread::sleep(away);
            garage.restart().unwrap();
        }
        thread::sleep(length / 3);
        over.store(true, Ordering::Relaxed);
        (user.join().unwrap(), memory.join().unwrap())
    });

    for job in ["copy", "mirror"] {
        hall.until(job, "it comes to rest", at_rest);
    }
    let failures = hall.get("/api/v1/failures").expect(200).json();
    assert_eq!(failures["failures"], Value::Array(Vec::new()), "{failures:#}");
    let expected = stored(&source);
    let mirror = of_users(mirrored.files());
    assert_same("mirror", &mirror, &expected);
    let copy: Files = copied.files().into_iter().filter(|(name, _)| expected.contains_key(name)).collect();
    assert_same("copy", &copy, &expected);

    let (first, last, most) = memory.told();
    eprintln!(
        "soak: {} changes, {} files at the end, {} runs; memory {} MiB in the first quarter, {} in the last, {} at most",
        user.changes,
        expected.len(),
        runs(&hall),
        first >> 10,
        last >> 10,
        most >> 10,
    );
    assert!(last < first + MAY_GROW, "the memory grows: {first} KiB, then {last} KiB");
    hall.stop().1.exits(0);
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

fn at_rest(view: &Value) -> bool {
    view["run"].is_null()
        && view["watch"]["changes"] == false
        && view["last"]["result"] == "ok"
        && view["failures"] == 0
}

/// Leaves out the quarantine, and what the server's death kept the daemon from clearing away: that is of a process that
/// lives, and goes an hour later.
fn of_users(files: Files) -> Files {
    let own = [".quarantine/", ".storage/probe/"];
    files.into_iter().filter(|(name, _)| !own.iter().any(|own| name.starts_with(own))).collect()
}

fn runs(hall: &Hall) -> String {
    ["copy", "mirror"].map(|job| hall.latest_run(job)["run"]["id"].to_string()).join(" + ")
}

/// Somebody who works in the source as people and programs do.
struct User {
    source: PathBuf,
    chance: StdRng,
    files: Vec<PathBuf>,
    made: u64,
    changes: u64,
}

impl User {
    fn new(source: &Path, seed: u64) -> Self {
        let chance = StdRng::seed_from_u64(seed);
        Self { source: source.to_owned(), chance, files: Vec::new(), made: 0, changes: 0 }
    }

    fn act(&mut self) {
        self.changes += 1;
        let full = self.files.len() > MOST_FILES;
        match self.chance.random_range(0..100) {
            0..40 if !full => self.create(),
            0..60 => self.remove(),
            60..75 => self.rewrite(),
            75..85 => self.append(),
            85..95 => self.replace(),
            95..99 => self.rename(),
            _ => self.remove_directory(),
        }
    }

    /// Mostly small, now and then one that goes in parts.
    fn content(&mut self) -> Vec<u8> {
        let size = match self.chance.random_range(0..1000) {
            0 => self.chance.random_range(16 << 20..20 << 20),
            1..20 => self.chance.random_range(0..1 << 20),
            _ => self.chance.random_range(0..8 << 10),
        };
        let mut content = vec![0; size];
        self.chance.fill_bytes(&mut content);
        content
    }

    fn fresh(&mut self) -> PathBuf {
        self.made += 1;
        let directory = self.source.join(format!("d{}/ü {}", self.made % 7, self.made % 13));
        fs::create_dir_all(&directory).unwrap();
        directory.join(format!("file {}", self.made))
    }

    fn create(&mut self) {
        let (path, content) = (self.fresh(), self.content());
        fs::write(&path, content).unwrap();
        self.files.push(path);
    }

    fn any(&mut self) -> Option<PathBuf> {
        self.files.choose(&mut self.chance).cloned()
    }

    fn take(&mut self) -> Option<PathBuf> {
        let count = self.files.len();
        (count > 0).then(|| self.files.swap_remove(self.chance.random_range(0..count)))
    }

    fn remove(&mut self) {
        if let Some(path) = self.take() {
            fs::remove_file(path).unwrap();
        }
    }

    fn rewrite(&mut self) {
        if let Some(path) = self.any() {
            fs::write(path, self.content()).unwrap();
        }
    }

    fn append(&mut self) {
        use std::io::Write as _;
        if let Some(path) = self.any() {
            let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
            file.write_all(b"and one more line\n").unwrap();
        }
    }

    /// As editors do.
    fn replace(&mut self) {
        if let Some(path) = self.any() {
            let draft = path.with_extension("swp");
            fs::write(&draft, self.content()).unwrap();
            fs::rename(draft, path).unwrap();
        }
    }

    fn rename(&mut self) {
        if let Some(path) = self.take() {
            let to = self.fresh();
            fs::rename(path, &to).unwrap();
            self.files.push(to);
        }
    }

    fn remove_directory(&mut self) {
        if let Some(directory) = self.any().and_then(|path| path.parent().map(Path::to_owned)) {
            fs::remove_dir_all(&directory).unwrap();
            self.files.retain(|path| !path.starts_with(&directory));
        }
    }
}

/// Resident memory over time, in KiB.
struct Memory(Vec<u64>);

fn watch_memory(pid: u32, over: &AtomicBool) -> Memory {
    let mut seen = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        seen.push(line.split_whitespace().nth(1).unwrap().parse().unwrap());
        thread::sleep(Duration::from_millis(250));
    }
    Memory(seen)
}

impl Memory {
    /// The medians of the first and the last quarter, and the most.
    fn told(&self) -> (u64, u64, u64) {
        let quarter = self.0.len().div_ceil(4);
        let median = |part: &[u64]| {
            let mut sorted = part.to_vec();
            sorted.sort_unstable();
            sorted[sorted.len() / 2]
        };
        let most = self.0.iter().copied().max().unwrap_or_default();
        (median(&self.0[..quarter]), median(&self.0[self.0.len() - quarter..]), most)
    }
}
