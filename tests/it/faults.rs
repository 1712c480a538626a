//! Everything that a network and an ailing server do to requests, between the program and a real server.
//!
//! Whatever happens: nothing that is reported or in the ledger as verified is wrong or missing, every run ends in time
//! ([`Running::wait`](crate::support::Running::wait) has the limit), and running it again ends well.

#![allow(clippy::print_stderr, reason = "seeds and figures are printed")]

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::{Connection, OpenFlags};
use test_rig::{Asked, Fate, Meddler};

use crate::support::{Desk, Files, Migrator, Ran, Remote, assert_same, bytes, entry, stored};

/// Runs of which the last must end well.
const RUNS: usize = 12;

struct Bench {
    desk: Desk,
    remote: Remote,
    meddler: Meddler,
    files: Files,
}

impl Bench {
    fn new(remote: Remote) -> Self {
        let meddler = Meddler::start(remote.endpoint.address(), |_| Fate::Pass).unwrap();
        Self { desk: Desk::new(), remote, meddler, files: Files::new() }
    }

    fn write(&mut self, name: &str, data: &[u8]) {
        self.desk.write(&format!("source/{name}"), data);
        self.files.insert(name.to_owned(), entry(data));
    }

    fn run(&self, command: &str) -> Migrator {
        let line = [command, "source", &self.remote.url(), "--part-size", "5MiB", "--json", "--no-progress"];
        self.desk
            .migrator(line)
            .args(["--ledger", "ledger.sqlite"])
            .at(&self.remote.endpoint.via(self.meddler.address()))
    }

    /// Asserts that what the run tells as copied, and what the ledger has as verified, is there with these bytes.
    #[track_caller]
    fn assert_true(&self, ran: &Ran) -> Files {
        let there = self.remote.files();
        let events = ran.events();
        let copied = events.iter().filter(|event| event["event"] == "file" && event["outcome"] == "copied");
        for name in copied.map(|event| event["subject"].as_str().unwrap()) {
            assert_eq!(there.get(name), self.files.get(name), "{name} is told as copied\n{ran}");
        }
        if self.desk.path("ledger.sqlite").exists() {
            for (name, digest) in verified(&self.desk) {
                let found = there.get(&name).map(|entry| &entry.sha256);
                assert_eq!(found, Some(&digest), "{name} is verified in the ledger\n{ran}");
            }
        }
        there
    }

    /// Runs until a run ends well, checks after each, and returns how many it took.
    fn until_well(&self, run: impl Fn() -> Migrator) -> usize {
        self.until_well_within(Duration::from_secs(100), run)
    }

    /// As [`until_well`](Self::until_well), of runs that may take so long.
    fn until_well_within(&self, limit: Duration, run: impl Fn() -> Migrator) -> usize {
        for number in 1..=RUNS {
            if number == RUNS {
                self.meddler.set(|_| Fate::Pass);
            }
            let ran = run().start().wait_at_most(limit);
            assert!(!ran.stderr.contains("panicked"), "{ran}");
            let there = self.assert_true(&ran);
            match ran.status.code() {
                Some(0) => {
                    let kept =
                        |name: &String| !name.starts_with(".quarantine/") && !name.starts_with(".storage/");
                    let there: Files = there.into_iter().filter(|(name, _)| kept(name)).collect();
                    assert_same("Garage, seen by boto3", &there, &self.files);
                    return number;
                }
                // Out of reach from the start, or some files failed.
                Some(3 | 4) => {}
                _ => panic!("{ran}"),
            }
        }
        panic!("it never ends well");
    }
}

fn verified(desk: &Desk) -> BTreeMap<String, String> {
    let path = desk.path("ledger.sqlite");
    let ledger = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut rows =
        ledger.prepare("SELECT id, lower(hex(digest)) FROM files WHERE state = 'verified'").unwrap();
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

/// The first request of that kind about a file meets this fate.
fn first(operation: &'static str, fate: Fate) -> impl FnMut(&Asked) -> Fate + Send {
    let mut met = false;
    move |asked| {
        // The look at a bucket before the first file has tests of its own.
        let of_files = !asked.is_internal() && !asked.target.contains("max-keys=1&");
        if met || !of_files || asked.operation() != operation {
            return Fate::Pass;
        }
        met = true;
        fate
    }
}

fn seed() -> u64 {
    let seed = std::env::var("FAULTS_SEED").ok().map_or_else(rand::random, |seed| seed.parse().unwrap());
    eprintln!("FAULTS_SEED={seed}");
    seed
}

/// A sync of a small file, one in parts and one that left the source; each of these requests goes wrong once.
fn one_fault_costs_nothing(faults: &[(&'static str, &[Fate])]) {
    for (operation, fates) in faults {
        for fate in *fates {
            let Some(remote) = Remote::garage() else { return };
            let mut bench = Bench::new(remote);
            bench.write("a", b"a");
            bench.write("leaves", b"leaves");
            bench.run("copy").run().exits(0);
            fs::remove_file(bench.desk.source("leaves")).unwrap();
            bench.files.remove("leaves");
            bench.write("b", &bytes(1, 70_000));
            bench.write("big", &bytes(2, (11 << 20) + 1));
            bench.meddler.set(first(operation, *fate));
            let runs = bench.until_well(|| bench.run("sync").args(["--delete"]));
            assert!(
                bench.meddler.log().iter().any(|(_, met)| met == fate),
                "no {operation} met {fate:?}: this proves nothing"
            );
            assert!(runs <= 2, "{operation}, {fate:?}: {runs} runs");
            let away = bench.remote.files().into_keys().filter(|name| name.starts_with(".quarantine/"));
            assert_eq!(away.count(), 1, "{operation}, {fate:?}: in quarantine before it is deleted");
            assert_eq!(bench.remote.uploads(), [], "{operation}, {fate:?}");
        }
    }
}

/// A lost answer after a committed write among them, and the error that hides in a 200.
#[test]
fn one_fault_at_any_request_of_a_sync_costs_nothing() {
    use Fate::{CutAnswer, CutRequest, FlipRequest, Lie, LoseAnswer, Refuse};
    one_fault_costs_nothing(&[
        ("PutObject", &[LoseAnswer, Refuse(503, "SlowDown"), CutRequest(100), FlipRequest(7)]),
        ("CopyObject", &[LoseAnswer, Lie(200, "InternalError"), Refuse(503, "SlowDown")]),
        ("DeleteObject", &[LoseAnswer, Refuse(500, "InternalError"), CutAnswer(10)]),
        ("ListObjects", &[LoseAnswer, CutAnswer(200)]),
    ]);
}

/// MinIO's client and object_store report a failure where the answer to CompleteMultipartUpload was lost.
#[test]
fn one_fault_at_any_request_of_an_upload_in_parts_costs_nothing() {
    use Fate::{CutRequest, FlipRequest, Lie, LoseAnswer, Refuse};
    one_fault_costs_nothing(&[
        ("CreateMultipartUpload", &[LoseAnswer, Refuse(503, "ServiceUnavailable")]),
        ("UploadPart", &[LoseAnswer, CutRequest(1 << 20), FlipRequest(999_999)]),
        (
            "CompleteMultipartUpload",
            &[LoseAnswer, Lie(200, "InternalError"), Refuse(503, "SlowDown"), CutRequest(10)],
        ),
    ]);
}

/// All of it at once, at random, run after run.
#[test]
fn faults_at_random_between_program_and_server_lose_nothing_and_lie_about_nothing() {
    let Some(remote) = Remote::garage() else { return };
    let mut random = StdRng::seed_from_u64(seed());
    let mut bench = Bench::new(remote);
    for number in 0..40_u8 {
        bench.write(&format!("small/{number}"), &bytes(number, random.random_range(0..40_000)));
    }
    for number in 0..2_u8 {
        bench.write(&format!("large/{number}"), &bytes(100 + number, (11 << 20) + usize::from(number)));
    }
    bench.meddler.set(move |asked| {
        // A connection that cannot be begun has tests of its own.
        if asked.is_internal() || random.random_bool(0.8) {
            return Fate::Pass;
        }
        let place = random.random_range(0..6 << 20);
        match random.random_range(0..9) {
            0 | 1 => Fate::Refuse(503, "SlowDown"),
            2 => Fate::Refuse(500, "InternalError"),
            3 => Fate::LoseAnswer,
            4 => Fate::CutRequest(place),
            5 => Fate::CutAnswer(place % 400),
            6 => Fate::FlipRequest(place),
            7 if asked.operation() == "CompleteMultipartUpload" => Fate::Lie(200, "InternalError"),
            _ => Fate::Stall(Duration::from_millis(500)),
        }
    });
    let runs = bench.until_well(|| bench.run("copy"));
    let log = bench.meddler.log();
    let faults = log.iter().filter(|(_, fate)| *fate != Fate::Pass).count();
    eprintln!("{faults} faults in {} requests, {runs} runs", log.len());
    assert!(faults > 5, "{faults} faults only: is it still between them?");
    assert_eq!(bench.remote.uploads(), []);
    bench.meddler.set(|_| Fate::Pass);
    let line = ["verify", "source", &bench.remote.url(), "--ledger", "ledger.sqlite", "--read-back"];
    bench.desk.migrator(line).at(&bench.remote.endpoint.via(bench.meddler.address())).run().exits(0);
}

/// A server that does not look at checksums (moto is one) stores whatever arrives: only reading it back tells.
#[test]
fn a_bit_that_was_flipped_on_the_way_to_a_server_that_does_not_look_is_found() {
    for (operation, name, size) in [("PutObject", "small", 5_000), ("UploadPart", "large", 11 << 20)] {
        let Some(remote) = Remote::moto() else { return };
        let mut bench = Bench::new(remote);
        bench.write(name, &bytes(1, size));
        bench.write("other", b"other");
        bench.meddler.set(first(operation, Fate::FlipRequest(4_321)));
        let ran = bench.run("copy").run().exits(0);
        let retries = ran.events().into_iter().filter(|event| event["event"] == "retry").count();
        assert!(retries >= 1, "{operation}: was it flipped?\n{ran}");
        assert_same("moto, seen by boto3", &bench.assert_true(&ran), &bench.files);

        // Each time: then it is told, and nothing calls it copied.
        bench.write(name, &bytes(2, size));
        bench.meddler.set(move |asked| match asked.operation() == operation && asked.target.contains(name) {
            true => Fate::FlipRequest(4_321),
            false => Fate::Pass,
        });
        let ran = bench.run("copy").run().exits(4);
        assert_eq!(ran.summary()["sums"]["copied"]["files"], 0, "{ran}");
        assert!(!verified(&bench.desk).contains_key(name), "{ran}");
        bench.meddler.set(|_| Fate::Pass);
        bench.run("copy").run().exits(0);
        assert_same("moto, seen by boto3", &bench.remote.files(), &bench.files);
    }
}

/// The way back: what is fetched may be cut, flipped or held back, and no wrong byte may end in a file.
#[test]
fn one_fault_at_any_request_of_a_restore_costs_nothing() {
    use Fate::{CutAnswer, FlipAnswer, LoseAnswer, Refuse, Stall};
    let Some(remote) = Remote::garage() else { return };
    let mut bench = Bench::new(remote);
    bench.write("a", b"a");
    bench.write("b", &bytes(1, 70_000));
    bench.write("big", &bytes(2, (11 << 20) + 1));
    bench.run("copy").run().exits(0);
    let short = Stall(Duration::from_secs(1));
    for (operation, fate) in [
        ("GetObject", CutAnswer(5_000)),
        ("GetObject", FlipAnswer(60_000)),
        ("GetObject", LoseAnswer),
        ("GetObject", Refuse(503, "SlowDown")),
        ("GetObject", short),
        ("ListObjects", CutAnswer(300)),
        ("ListObjects", Refuse(503, "SlowDown")),
        ("ListObjects", short),
    ] {
        bench.meddler.set(first(operation, fate));
        let target = format!("back-{}", bench.meddler.log().len());
        let line = ["copy", &bench.remote.url(), &target, "--no-progress"];
        let endpoint = bench.remote.endpoint.via(bench.meddler.address());
        bench.desk.migrator(line).at(&endpoint).run().exits(0);
        assert_same(&format!("{operation}, {fate:?}"), &stored(&bench.desk.path(&target)), &bench.files);
        assert!(bench.meddler.log().iter().any(|(_, met)| *met == fate), "no {operation} met {fate:?}");
    }
}

/// One request that is never answered: its deadline ends it, and not the run.
#[test]
fn a_request_that_hangs_is_given_up_at_its_deadline() {
    let Some(remote) = Remote::garage() else { return };
    let mut bench = Bench::new(remote);
    bench.write("a", b"a");
    bench.write("b", b"b");
    bench.meddler.set(first("PutObject", Fate::Stall(Duration::from_secs(600))));
    let began = Instant::now();
    let ran = bench.run("copy").run().exits(0);
    assert!(began.elapsed() >= Duration::from_secs(25), "was it held back?\n{ran}");
    assert_same("Garage, seen by boto3", &bench.assert_true(&ran), &bench.files);
}

/// Half of all requests are answered with 503 for a while: the program must wait rather than knock. Counted are the
/// requests until everything has arrived, beside those of a run without a storm.
#[test]
fn a_storm_of_503s_is_waited_for_and_not_fed() {
    let seconds = std::env::var("STORM_SECONDS").ok().map_or(10, |text| text.parse().unwrap());
    let Some(remote) = Remote::garage() else { return };
    let mut random = StdRng::seed_from_u64(seed());
    let mut bench = Bench::new(remote);
    let (files, size) = (40 * seconds as usize, 8 << 10);
    for number in 0..files {
        bench.write(&format!("{:02}/{number:05}", number % 20), &bytes((number % 251) as u8, size));
    }
    // Without the storm the copy would take as long as the storm does.
    let rate = (files * size) as u64 / seconds;
    let about_files = |log: &[(Asked, Fate)]| log.iter().filter(|(asked, _)| !asked.is_internal()).count();
    let copy = || bench.run("copy").args(["--bandwidth", &rate.to_string()]);
    let needed = {
        let calm = Remote::new(&bench.remote.endpoint);
        let line = ["copy", "source", &calm.url(), "--no-progress"];
        let endpoint = calm.endpoint.via(bench.meddler.address());
        bench.desk.migrator(line).at(&endpoint).run().exits(0);
        about_files(&bench.meddler.log())
    };
    let before = bench.meddler.log().len();
    let mut begin = None;
    bench.meddler.set(move |asked| {
        if asked.is_internal() || asked.operation() != "PutObject" {
            return Fate::Pass;
        }
        let begin = *begin.get_or_insert_with(Instant::now);
        match begin.elapsed() < Duration::from_secs(seconds) && random.random_bool(0.5) {
            true => Fate::Refuse(503, "SlowDown"),
            false => Fate::Pass,
        }
    });
    let began = Instant::now();
    // As long as the storm, as long again for what it kept waiting, and the time of any run.
    let runs = bench.until_well_within(Duration::from_secs(100 + 2 * seconds), copy);
    let log = bench.meddler.log().split_off(before);
    let (sent, refused) = (about_files(&log), log.iter().filter(|(_, fate)| *fate != Fate::Pass).count());
    let amplification = sent as f64 / needed as f64;
    eprintln!(
        "{seconds} s of 50 % 503s: {sent} requests sent, {refused} refused, {needed} needed: {amplification:.2}; {runs} runs, {:.0?}",
        began.elapsed()
    );
    assert!(amplification <= 1.5, "{amplification:.2}");
}
