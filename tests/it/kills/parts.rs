//! A kill in the middle of an upload in parts costs the parts in flight and no more.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use rustix::process::Signal;
use sha2::{Digest as _, Sha256};
use test_rig::tree::Entry;

use crate::kills::tap::Tap;
use crate::support::{Desk, Migrator, Remote, assert_same};

/// Writes `size` bytes, no two blocks of which are alike, fast.
pub(super) fn big_file(path: &Path, size: u64, seed: u64) -> Entry {
    let mut block = vec![0; 1 << 20];
    StdRng::seed_from_u64(seed).fill_bytes(&mut block);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let (mut file, mut hasher) = (File::create(path).unwrap(), Sha256::new());
    let mut left = size;
    for number in 0_u64.. {
        if left == 0 {
            break;
        }
        for page in block.chunks_mut(4096) {
            page[..8].copy_from_slice(&number.to_le_bytes());
        }
        let count = usize::try_from(left.min(block.len() as u64)).unwrap();
        hasher.update(&block[..count]);
        file.write_all(&block[..count]).unwrap();
        left -= count as u64;
    }
    Entry { size, sha256: hex::encode(hasher.finalize()) }
}

pub(super) fn seed() -> u64 {
    let seed = std::env::var("KILLS_SEED").ok().map_or_else(rand::random, |seed| seed.parse().unwrap());
    #[expect(clippy::print_stderr, reason = "a failure is repeated by its seed")]
    {
        eprintln!("KILLS_SEED={seed}");
    }
    seed
}

struct Size {
    file: u64,
    part: u64,
    concurrency: u64,
    kills: u64,
}

/// Kills runs until there were so many kills, lets one end, and returns how many parts were begun to be sent.
fn kill_again_and_again(size: &Size) -> Option<u64> {
    let remote = Remote::garage()?;
    let mut random = StdRng::seed_from_u64(seed());
    let desk = Desk::new();
    let big = big_file(&desk.source("big"), size.file, random.random());
    let tap = Tap::start(remote.endpoint.address());
    let endpoint = remote.endpoint.via(tap.address());
    let copy = || -> Migrator {
        let line = ["copy", "source", &remote.url(), "--json", "--part-size", &size.part.to_string()]
            .map(str::to_owned);
        desk.migrator(line).args(["--concurrency", &size.concurrency.to_string()]).at(&endpoint)
    };
    let parts = size.file.div_ceil(size.part);
    for kill in 0..size.kills {
        let before = tap.parts();
        // So few that the file is not done before the last kill.
        let enough = before + random.random_range(1..=(parts / size.kills / 2).max(1));
        let mut run = copy().start();
        run.until("parts are sent", |_| tap.parts() >= enough);
        thread::sleep(Duration::from_millis(random.random_range(0..60)));
        run.signal(Signal::KILL);
        let ran = run.wait();
        assert_eq!(ran.status.code(), None, "ended by itself before kill {kill}: {ran}");
        assert_eq!(remote.uploads().len(), 1, "one upload is gone on with");
    }
    let summary = copy().run().exits(0).summary();
    assert_same("after the kills", &remote.files(), &BTreeMap::from([("big".to_owned(), big)]));
    assert_eq!(remote.uploads(), []);
    assert!(summary["transferred"]["parts_resumed"].as_u64().unwrap_or(1) >= 1, "{summary:#}");
    nothing_beside_the_ledger(&desk.path("state"));
    let sent = tap.parts();
    let again = copy().run().exits(0);
    assert_eq!(tap.parts(), sent, "a run over what is done sends nothing: {again}");
    assert!(sent >= parts, "{sent} of {parts}");
    assert!(
        sent <= parts + size.kills * size.concurrency,
        "{sent} parts were sent for {parts}: more than {} in flight at each of {} kills",
        size.concurrency,
        size.kills
    );
    Some(sent - parts)
}

/// Asserts that the state directory holds ledgers, and no temporary file.
#[track_caller]
pub(super) fn nothing_beside_the_ledger(state: &Path) {
    let known = [".sqlite", ".sqlite-wal", ".sqlite-shm", ".sqlite.lock", ".sqlite-lock"];
    for entry in std::fs::read_dir(state.join("migrator")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(known.iter().any(|end| name.ends_with(end)), "left behind: {name}");
    }
}

#[test]
fn ten_kills_cost_no_more_than_the_parts_in_flight() {
    let size = Size { file: 192 << 20, part: 5 << 20, concurrency: 4, kills: 10 };
    kill_again_and_again(&size);
}

mod heavy {
    use super::*;

    #[test]
    #[ignore = "needs 6 GiB of disk and a minute"]
    #[expect(clippy::print_stderr, reason = "a figure for the record")]
    fn ten_kills_in_2_gib() {
        let size = Size { file: 2 << 30, part: 16 << 20, concurrency: 8, kills: 10 };
        if let Some(again) = kill_again_and_again(&size) {
            eprintln!("2 GiB, 128 parts of 16 MiB, ten kills: {again} parts sent again");
        }
    }
}

#[test]
fn a_stopped_run_ends_in_time_and_the_next_resumes_its_parts() {
    let Some(remote) = Remote::garage() else { return };
    let desk = Desk::new();
    let (size, part, concurrency) = (96 << 20, 5 << 20, 4);
    let big = big_file(&desk.source("big"), size, seed());
    let tap = Tap::start(remote.endpoint.address());
    let endpoint = remote.endpoint.via(tap.address());
    let copy = || {
        desk.migrator([
            "copy",
            "source",
            &remote.url(),
            "--json",
            "--part-size",
            "5MiB",
            "--concurrency",
            "4",
        ])
        .at(&endpoint)
    };
    let mut run = copy().args(["--bandwidth", "30MiB/s"]).start();
    run.until("parts are sent", |_| tap.parts() > concurrency);
    let running = std::time::Instant::now();
    run.signal(Signal::TERM);
    let ran = run.wait().exits(130);
    // The contract's ten seconds, and one for a busy machine to see the end.
    assert!(running.elapsed() < Duration::from_secs(11), "{ran}");
    let uploads = remote.uploads();
    assert_eq!(uploads.len(), 1, "{uploads:?}");
    assert!(uploads[0].parts > 0);
    assert_eq!(remote.files(), BTreeMap::new(), "nothing is published before it is whole");

    let before = tap.parts();
    copy().run().exits(0);
    assert_same("after the stop", &remote.files(), &BTreeMap::from([("big".to_owned(), big)]));
    assert_eq!(remote.uploads(), []);
    let (parts, sent) = (size.div_ceil(part), tap.parts());
    assert!(sent - before < parts, "nothing was resumed: {sent} parts sent, {before} before the stop");
    assert!(sent <= parts + concurrency, "{sent} parts sent for {parts}");
    nothing_beside_the_ledger(&desk.path("state"));
}

/// What the first run began and did not record, because it was killed there, must be found by a run that would send
/// the file in one request.
#[test]
fn a_run_with_larger_parts_leaves_no_upload_of_one_with_smaller_parts() {
    let Some(remote) = Remote::garage() else { return };
    let desk = Desk::new();
    let big = big_file(&desk.source("big"), 11 << 20, seed());
    let tap = Tap::start(remote.endpoint.address());
    let copy = |size: &str| {
        desk.migrator(["copy", "source", &remote.url(), "--part-size", size])
            .at(&remote.endpoint.via(tap.address()))
    };
    // Begun, and perhaps not recorded: the kill comes with the request.
    let begun =
        |tap: &Tap| tap.count(|request| request.starts_with("POST ") && request.contains("uploads")) > 0;
    let mut run = copy("5MiB").start();
    run.until("an upload is begun", |_| begun(&tap));
    run.signal(Signal::KILL);
    run.wait();
    copy("16MiB").run().exits(0);
    assert_same("after the kill", &remote.files(), &BTreeMap::from([("big".to_owned(), big)]));
    assert_eq!(remote.uploads(), []);
}
