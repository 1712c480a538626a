//! What becomes of a migration whose machine loses its power, again and again: target and ledger are on one file system
//! that is cut off between two system calls, and what is there afterwards is what was on the disk.
//!
//! Whatever the run had told as copied before the cut is in the target then, whole; the next run takes up the ledger as
//! it is and ends with everything copied; and nothing is copied again of what was told, as the ledger remembers it.
//!
//! `POWER_CUTS` sets the number of cuts of each file system, `POWER_SEED` the seed, which is printed.

#![allow(clippy::print_stderr, reason = "seeds and figures are printed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use test_rig::disk::{FileSystem, Image};

use crate::support::{Desk, Files, Migrator, assert_same, bytes, count, entry, stored};

const SMALL: usize = 300;

/// A few that go in parts, which a cut may find half put.
const LARGE: usize = 2;
const PART: usize = 5 << 20;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

/// A desk with a source, and what its files are.
fn desk() -> (Desk, Files) {
    let (desk, mut files) = (Desk::new(), Files::new());
    let mut write = |name: String, data: &[u8]| {
        desk.write(&format!("source/{name}"), data);
        files.insert(name, entry(data));
    };
    for number in 0..SMALL {
        let seed = u8::try_from(number % 251).unwrap();
        write(format!("{}/{number:03}", number % 9), &bytes(seed, 100 + 17 * number));
    }
    for number in 0..LARGE {
        write(format!("large/{number}"), &bytes(u8::try_from(number).unwrap(), 2 * PART + 12_345));
    }
    (desk, files)
}

fn copy(desk: &Desk, disk: &Path) -> Migrator {
    run(desk, "copy", disk).args(["--part-size", "5MiB"])
}

fn run(desk: &Desk, command: &str, disk: &Path) -> Migrator {
    let line = desk.migrator([command, "source"]).args([disk.join("target")]);
    let line = line.args(["--json", "--no-progress", "--concurrency", "2"]);
    line.args(["--ledger"]).args([disk.join("book/ledger.sqlite")])
}

/// Returns what a run told as copied; its last line may have been cut off.
fn told(output: &str) -> BTreeSet<String> {
    let events = output.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let copied = events.filter(|event| event["event"] == "file" && event["outcome"] == "copied");
    copied.map(|event| event["subject"].as_str().unwrap().to_owned()).collect()
}

mod heavy {
    use super::*;

    fn power_cuts(kind: FileSystem) {
        let Some(image) = Image::with(kind, 320 << 20, &[]) else { return };
        let (cuts, seed) =
            (number("POWER_CUTS").unwrap_or(4), number("POWER_SEED").unwrap_or_else(rand::random));
        eprintln!("POWER_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let (desk, files) = desk();
        let disk = image.path();
        fs::create_dir(disk.join("book")).unwrap();
        // That the directories are there is not what is tried here.
        fs::File::open(disk).unwrap().sync_all().unwrap();
        let mut known = BTreeSet::new();
        for cut in 0..cuts {
            let Some(power) = image.power() else { return };
            let mut running = copy(&desk, disk).start();
            // Somewhere in what is left, the opening of the ledger among it.
            let left = files.len() - known.len();
            let enough = random.random_range(0..=left / 3);
            // Some of them may be there although it was not told.
            while told(&running.stdout()).len() < enough && !running.has_ended() {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_micros(random.random_range(0..20_000)));
            // What is told later may be of an fsync that the cut has answered.
            let before = told(&running.stdout());
            power.cut().unwrap();
            drop(running);
            image.restart().unwrap();
            let what = format!("{kind:?}, cut {cut}, seed {seed}");
            let again: Vec<_> = before.intersection(&known).collect();
            assert!(again.is_empty(), "{what}: forgotten, and copied again: {again:?}");
            known.extend(before);
            let target = disk.join("target");
            let there = if target.exists() { stored(&target) } else { Files::new() };
            for name in &known {
                assert_eq!(there.get(name), files.get(name), "{what}: {name} was told as copied");
            }
            for (name, found) in &there {
                assert_eq!(Some(found), files.get(name), "{what}: {name} is torn or nobody's");
            }
        }
        let ran = copy(&desk, disk).run().exits(0);
        let again: Vec<_> = told(&ran.stdout).intersection(&known).cloned().collect();
        assert!(again.is_empty(), "{kind:?}, seed {seed}: forgotten, and copied again: {again:?}");
        assert_same("after the last run", &stored(&disk.join("target")), &files);
        let verified = run(&desk, "verify", disk).run().exits(0).summary();
        assert_eq!(count(&verified["sums"]["different"]), 0, "{verified}");
        let unchanged = copy(&desk, disk).run().exits(0).summary();
        assert_eq!(count(&unchanged["sums"]["unchanged"]), files.len() as u64, "{unchanged}");
        eprintln!("{kind:?}: {cuts} power cuts, {} files told before them, none lost", known.len());
        assert!(!known.is_empty(), "{kind:?}: every cut came before the first file");
    }

    #[test]
    fn a_run_on_ext4_that_loses_its_power_forgets_nothing_that_it_told() {
        power_cuts(FileSystem::Ext4);
    }

    #[test]
    fn a_run_on_xfs_that_loses_its_power_forgets_nothing_that_it_told() {
        power_cuts(FileSystem::Xfs);
    }
}
