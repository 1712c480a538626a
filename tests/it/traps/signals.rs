//! Stopping, and two at once.

use std::fs;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use rustix::process::Signal;
use test_rig::{Fault, Proxy};

use crate::support::{Desk, Remote, Report, assert_same, bytes, entry, stored};

/// What the documentation promises.
const GRACE: Duration = Duration::from_secs(10);

fn assert_sound(desk: &Desk) {
    let ledger = Connection::open_with_flags(desk.ledger(), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let sound: String = ledger.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
}

fn stops_in_order(signal: Signal) {
    let Some(remote) = Remote::garage() else { return };
    let desk = Desk::new();
    let large = bytes(1, 24 << 20);
    let path = desk.write("source/large", &large);
    for name in ["a", "b", "z"] {
        desk.write(&format!("source/{name}"), name);
    }
    let copy = desk
        .migrator(["copy", "source", &remote.url(), "--part-size", "5MiB", "--report", "report"])
        .at(&remote.endpoint);
    let mut running = copy.clone().args(["--bandwidth", "6MiB/s"]).start();
    running.until("the large file is open", |running| running.has_open(&path));
    let journal = || {
        let ledger = Connection::open_with_flags(desk.ledger(), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        ledger.query_row("SELECT count(*) FROM parts", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    running.until("a part is stored", |_| journal() > 0);
    let sent = Instant::now();
    running.signal(signal);
    let ran = running.wait().exits(130);
    assert!(sent.elapsed() < GRACE, "took {:?}\n{ran}", sent.elapsed());
    assert_sound(&desk);
    assert!(!remote.files().contains_key("large"), "{ran}");
    let status = desk.migrator(["status", "source", &remote.url()]).at(&remote.endpoint).run().exits(0);
    assert!(status.stdout.contains("interrupted") && status.stdout.contains("left: "), "{status}");

    let ran = copy.args(["--json"]).run().exits(0);
    let summary = ran.summary();
    assert!(summary["work"]["parts_resumed"].as_u64().unwrap() >= 1, "{ran}");
    let expected = ["a", "b", "z"].map(|name| (name.to_owned(), entry(name.as_bytes())));
    let mut expected: crate::support::Files = expected.into();
    expected.insert("large".to_owned(), entry(&large));
    assert_same("Garage, seen by boto3", &remote.files(), &expected);
    assert_eq!(remote.uploads(), []);
    assert_eq!(Report::read(&desk.path("report")).sum("failed"), 0);
}

/// aws, s5cmd and s3sync leave an orphan that is billed, and begin again at the first part.
#[test]
fn sigterm_stops_in_order_and_the_next_run_goes_on() {
    stops_in_order(Signal::TERM);
}

/// The same for a Ctrl-C.
#[test]
fn sigint_stops_in_order_and_the_next_run_goes_on() {
    stops_in_order(Signal::INT);
}

/// A server that does not answer must not keep the program from stopping. This takes longer than 5 seconds without a
/// terminal, so the progress must be told in lines.
#[test]
fn a_stop_does_not_wait_for_a_server_that_hangs() {
    let Some(remote) = Remote::garage() else { return };
    let desk = Desk::new();
    let proxy = Proxy::start(remote.endpoint.address()).unwrap();
    for number in 0..40 {
        desk.write(&format!("source/{number}"), bytes(number, 200_000));
    }
    let copy = desk
        .migrator(["copy", "source", &remote.url(), "--report", "report"])
        .at(&remote.endpoint.via(proxy.address()));
    let mut running = copy.clone().args(["--bandwidth", "2MiB/s"]).start();
    let before = proxy.counts().request_bytes;
    running.until("files are sent", |_| proxy.counts().request_bytes > before + 1_000_000);
    proxy.set(Fault::Stall);
    std::thread::sleep(Duration::from_millis(300));
    let sent = Instant::now();
    running.signal(Signal::TERM);
    let ran = running.wait().exits(130);
    assert!(sent.elapsed() < GRACE + Duration::from_secs(1), "took {:?}\n{ran}", sent.elapsed());
    assert!(ran.stderr.lines().any(|line| line.contains("s: files ")), "no progress\n{ran}");
    assert_sound(&desk);
    proxy.set(Fault::Pass);
    copy.run().exits(0);
    let expected = (0..40).map(|number| (number.to_string(), entry(&bytes(number, 200_000)))).collect();
    assert_same("Garage, seen by boto3", &remote.files(), &expected);
}

/// mc, aws and s5cmd let two runs over one pair overwrite each other's work.
#[test]
fn the_second_of_two_runs_says_who_the_first_is() {
    let desk = Desk::new();
    let path = desk.write("source/file", bytes(1, 2 << 20));
    let copy = desk.migrator(["copy", "source", "embedded:target", "--no-progress"]);
    let mut first = copy.clone().args(["--bandwidth", "512KiB/s"]).start();
    first.until("the file is open", |running| running.has_open(&path));
    let pid = first.pid().to_string();
    copy.clone().run().refuses(6, &["in use", &pid]);
    desk.migrator(["verify", "source", "embedded:target"]).run().refuses(6, &[&pid]);
    desk.migrator(["cleanup", "source", "embedded:target"]).run().refuses(6, &[&pid]);
    // Those who only look are not kept out.
    desk.migrator(["status", "source", "embedded:target"]).run().exits(0);
    // Nothing of the file is told yet.
    desk.migrator(["explain", "source", "embedded:target", "file"]).run().refuses(3, &["does not know"]);
    assert!(!first.has_ended());
    first.signal(Signal::KILL);
    first.wait();
    // The lock went with its holder.
    copy.run().exits(0);
    assert_eq!(stored(&desk.path("target"))["file"], entry(&bytes(1, 2 << 20)));
    assert!(fs::read_to_string(desk.ledger().with_extension("sqlite.lock")).unwrap().is_empty());
}
