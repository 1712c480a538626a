//! When jobs run, and about what.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use serde_json::Value;

use super::hall::{Stage, job};
use crate::support::{assert_same, bytes, count, stored};

fn close(path: &std::path::Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A run of the daemon is the command's: the same ledger, the same rows, nothing sent twice.
#[test]
fn a_job_runs_when_it_is_due_and_the_command_finds_nothing_left() {
    let stage = Stage::new(&job("files", "schedule = \"every 1s\"\noptions = [\"--exclude\", \"*.tmp\"]"));
    stage.desk.write("source/a", "abc");
    stage.desk.write("source/sub/b", bytes(1, 200_000));
    stage.desk.write("source/c.tmp", "not this");
    let hall = stage.start();
    hall.until("files", "a run has ended", |view| view["last"]["result"] == "ok");
    assert_eq!(hall.stored().keys().collect::<Vec<_>>(), ["a", "sub/b"]);
    let later = hall.desk().write("source/later", "later");
    hall.until("files", "a later run has copied it", |view| view["coverage"]["verified"]["files"] == 3);
    assert_eq!(hall.stored()["later"].size, fs::metadata(later).unwrap().len());
    let (stage, ran) = hall.stop();
    ran.exits(0);
    let ran =
        stage.desk.migrator(["copy", "source", "target", "--exclude", "*.tmp", "--json"]).run().exits(0);
    let summary = ran.summary();
    assert_eq!((count(&summary["sums"]["unchanged"]), count(&summary["sums"]["copied"])), (3, 0));
}

/// The whole way of an operator: see the failure, mend it, retry that file alone, see it gone.
#[test]
fn a_failed_file_is_found_mended_and_retried_alone() {
    let stage = Stage::new(&job("files", "retries = 0"));
    for name in ["a", "b", "odd name/ü \"x\""] {
        stage.desk.write(&format!("source/{name}"), name);
    }
    close(&stage.desk.source("b"), 0o000);
    stage.desk.give_to_nobody();
    let command = stage.command().by_nobody();
    let hall = stage.start_as(command);
    let view = hall.run("files");
    assert_eq!((&view["last"]["result"], &view["last"]["exit_code"]), (&"some_failed".into(), &4.into()));
    assert_eq!(view["coverage"]["unrecorded"]["files"], 0, "it has a row: {view:#}");
    let failures = hall.get("/api/v1/failures").expect(200).json();
    let failure = &failures["failures"][0];
    assert_eq!(failures["failures"].as_array().unwrap().len(), 1, "{failures:#}");
    assert_eq!((&failure["subject"], &failure["can_retry"]), (&"b".into(), &true.into()));
    assert!(failure["detail"].as_str().unwrap().contains("ermission"), "{failure:#}");

    // Not mended yet: it fails again, and nothing else is touched.
    hall.ask("files", "retry", "{\"ids\": [\"b\"]}");
    let run = hall.latest_run("files");
    assert_eq!((count(&run["sums"]["planned"]), count(&run["sums"]["failed"])), (1, 1), "{run:#}");

    close(&hall.desk().source("b"), 0o644);
    hall.ask("files", "retry", "{\"ids\": [\"b\"]}");
    let run = hall.latest_run("files");
    assert_eq!((count(&run["sums"]["planned"]), count(&run["sums"]["copied"])), (1, 1), "{run:#}");
    assert_eq!(run["result"], "clean");
    assert_eq!(hall.get("/api/v1/failures").json()["failures"].as_array().unwrap().len(), 0);
    let files = hall.get("/api/v1/files/odd%20name/%C3%BC%20%22x%22").expect(200).json();
    assert_eq!(files["files"][0]["file"]["state"], "verified", "{files:#}");
    assert_same("target", &hall.stored(), &stored(&hall.desk().path("source")));
}

/// Nobody asks: what failed is tried again after a wait, and only that.
#[test]
fn what_failed_is_tried_again_by_itself_and_alone() {
    let stage = Stage::new(&job("files", "retry = \"1s\"\nretries = 1000"));
    for name in ["a", "b", "c"] {
        stage.desk.write(&format!("source/{name}"), name);
    }
    close(&stage.desk.source("b"), 0o000);
    stage.desk.give_to_nobody();
    let command = stage.command().by_nobody();
    let hall = stage.start_as(command);
    hall.order("/api/v1/jobs/files/run", "").expect(202);
    hall.until("files", "it waits for a retry", |view| {
        view["state"] == "waiting" && view["due"]["why"] == "retry"
    });
    hall.until("files", "it was tried again", |view| view["failures"].as_u64() >= Some(2));
    close(&hall.desk().source("b"), 0o644);
    let view = hall.until("files", "it is mended", |view| view["failures"] == 0);
    assert_eq!((&view["state"], &view["coverage"]["verified"]["files"]), (&"idle".into(), &3.into()));
    let runs = hall.runs("files");
    assert_eq!(count(&runs.last().unwrap()["sums"]["planned"]), 3, "the first run looks at everything");
    for retry in &runs[..runs.len() - 1] {
        assert_eq!(count(&retry["sums"]["planned"]), 1, "{retry:#}");
    }
}

/// A directory that cannot be read has no names to try again: then everything is looked at.
#[test]
fn an_unreadable_directory_is_retried_by_looking_at_everything() {
    let stage = Stage::new(&job("files", "retry = \"1s\"\nretries = 1000"));
    stage.desk.write("source/a", "a");
    stage.desk.write("source/dark/b", "b");
    close(&stage.desk.source("dark"), 0o000);
    stage.desk.give_to_nobody();
    let command = stage.command().by_nobody();
    let hall = stage.start_as(command);
    let view = hall.run("files");
    assert_eq!(view["last"]["result"], "some_failed");
    let failure = hall.get("/api/v1/failures").json()["failures"][0].clone();
    assert_eq!((&failure["subject"], &failure["can_retry"]), (&"dark/".into(), &false.into()));
    close(&hall.desk().source("dark"), 0o755);
    hall.until("files", "it is mended", |view| {
        view["failures"] == 0 && view["coverage"]["verified"]["files"] == 2
    });
    assert_eq!(hall.get("/api/v1/failures").json()["failures"].as_array().unwrap().len(), 0);
}

#[test]
fn a_job_that_runs_is_not_begun_again_and_can_be_stopped() {
    let stage = Stage::new(&job("files", "options = [\"--bandwidth\", \"100KiB/s\"]"));
    stage.desk.write("source/large", bytes(1, 20 << 20));
    let hall = stage.start();
    hall.order("/api/v1/jobs/files/run", "{}").expect(202);
    hall.until("files", "bytes move", |view| view["run"]["numbers"]["bytes_read"].as_u64() > Some(0));
    let refused = hall.order("/api/v1/jobs/files/run", "{}").expect(409).json();
    assert_eq!(refused["error"]["message"], "the job is running");
    hall.order("/api/v1/jobs/files/cancel", "{}").expect(202);
    let view = hall.until("files", "it has ended", |view| view["run"].is_null());
    assert_eq!(view["last"]["result"], "interrupted");
    hall.order("/api/v1/jobs/files/cancel", "{}").expect(409);
    hall.order("/api/v1/jobs/none/run", "{}").expect(404);
    assert!(hall.stored().is_empty());
    assert_eq!(hall.runs("files").len(), 1);
}

/// The lock of the ledger holds between the daemon and the command.
#[test]
fn a_command_that_works_on_the_pair_is_waited_for() {
    let stage = Stage::new(&job("files", "retry = \"1s\"\nretries = 1000"));
    stage.desk.write("source/large", bytes(1, 4 << 20));
    let mut command = stage.desk.migrator(["copy", "source", "target", "--bandwidth", "512KiB/s"]).start();
    let ledgers = stage.desk.path("state/migrator");
    command.until("it has the lock", |_| {
        fs::read_dir(&ledgers).is_ok_and(|mut entries| entries.next().is_some())
    });
    let hall = stage.start();
    let view = hall.run("files");
    assert_eq!(
        (&view["last"]["result"], &view["last"]["exit_code"]),
        (&"refused".into(), &6.into()),
        "{view:#}"
    );
    assert!(view["last"]["message"].as_str().unwrap().contains("in use by"), "{view:#}");
    command.wait().exits(0);
    let view = hall.until("files", "it has run", |view| view["last"]["result"] == "ok");
    assert_eq!(view["failures"], 0);
}

/// Moves the latest run of the ledger into the past, as if the daemon had been away since.
fn let_time_go_by(stage: &Stage, days: i64) {
    let script = "import sqlite3, sys\n\
        db = sqlite3.connect(sys.argv[1])\n\
        by = int(sys.argv[2]) * 86400 * 10**9\n\
        db.execute('UPDATE runs SET started = started - ?, finished = finished - ?', (by, by))\n\
        db.commit()\n";
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(stage.desk.ledger()).arg(days.to_string());
    assert!(python.status().unwrap().success());
}

fn whys(hall: &super::hall::Hall) -> (usize, Value) {
    (hall.runs("files").len(), hall.job("files")["due"]["why"].clone())
}

/// Three slots passed while the daemon was away: one run, and the next is in the future.
#[test]
fn what_downtime_missed_is_run_once() {
    let stage = Stage::new(&job("files", "schedule = \"daily\""));
    stage.desk.write("source/a", "a");
    stage.desk.migrator(["copy", "source", "target"]).run().exits(0);
    let_time_go_by(&stage, 3);
    let hall = stage.start();
    hall.until("files", "it has caught up", |view| view["last"]["exit_code"] == 0);
    assert_eq!(whys(&hall), (2, "schedule".into()));
    let due = hall.job("files")["due"]["at"].as_str().unwrap().to_owned();
    let at: jiff::Timestamp = due.parse().unwrap();
    assert!(at > jiff::Timestamp::now(), "{due}");

    // Told not to, it waits for its time.
    let (stage, ran) = hall.stop();
    ran.exits(0);
    let_time_go_by(&stage, 3);
    stage.configure(&job("files", "schedule = \"daily\"\ncatch_up = false"));
    let hall = stage.start();
    hall.until("files", "it has looked", |view| view["last"]["run"] == 2 && !view["due"].is_null());
    assert_eq!(whys(&hall), (2, "schedule".into()));
}

/// An audit is a job like any other, and what it finds is told.
#[test]
fn an_audit_as_a_job_finds_what_was_planted() {
    let audit = "[job.audit]\nsource = \"./source\"\ntarget = \"./target\"\nmode = \"verify\"\noptions = [\"--read-back\"]\n";
    let stage = Stage::new(&format!("{}{audit}", job("files", "")));
    stage.desk.write("source/a", "abc");
    stage.desk.write("source/b", "xyz");
    let hall = stage.start();
    hall.run("files");
    fs::write(hall.desk().path("target/b"), "xyZ").unwrap();
    let view = hall.run("audit");
    assert_eq!((&view["last"]["result"], &view["last"]["exit_code"]), (&"mismatch".into(), &5.into()));
    // What the audit found is shown by the copy as well: nobody reads "100 %" of a damaged target.
    hall.until("files", "it knows", |view| view["coverage"]["verified"]["files"] == 1);
    assert!(view["due"].is_null(), "an audit that found something is not repeated by itself: {view:#}");
    let metrics = hall.get("/metrics").expect(200).body;
    assert!(metrics.contains("migrator_verify_mismatches_total{job=\"audit\"} 1\n"), "{metrics}");
    let failures = hall.get("/api/v1/failures?job=files").expect(200).json();
    assert_eq!(
        (&failures["failures"][0]["subject"], &failures["failures"][0]["state"]),
        (&"b".into(), &"damaged".into())
    );
    hall.ask("files", "retry", "{}");
    assert_eq!(hall.run("audit")["last"]["result"], "ok");
    hall.order("/api/v1/jobs/audit/retry", "{}").expect(409);
}

/// A copy and an audit of one pair share a ledger: that the audit ran last must not hide when the copy last did.
#[test]
fn what_downtime_missed_is_run_although_an_audit_ran_later() {
    let audit = "[job.audit]\nsource = \"./source\"\ntarget = \"./target\"\nmode = \"verify\"\n";
    let stage = Stage::new(&format!("{}{audit}", job("files", "schedule = \"daily\"")));
    stage.desk.write("source/a", "a");
    stage.desk.migrator(["copy", "source", "target"]).run().exits(0);
    stage.desk.migrator(["verify", "source", "target"]).run().exits(0);
    let_time_go_by(&stage, 3);
    let hall = stage.start();
    let view = hall.until("files", "it has caught up", |view| view["last"]["exit_code"] == 0);
    assert_eq!((&view["last"]["run"], view["failures"].as_u64()), (&3.into(), Some(0)), "{view:#}");
    assert_eq!(hall.job("audit")["last"]["run"], 2);
}

/// A retry of what a sync failed with was a conflict; and its failures were told by the audit, which mends nothing.
#[test]
fn what_a_sync_failed_with_is_retried_alone_and_deletes_nothing() {
    let of = |name: &str, mode: &str, more: &str| {
        job(name, more).replace("mode = \"copy\"", &format!("mode = \"{mode}\""))
    };
    let options = "retries = 0\noptions = [\"--delete\"]";
    let stage =
        Stage::new(&format!("{}{}", of("audit", "verify", "retries = 0"), of("mirror", "sync", options)));
    for name in ["a", "b"] {
        stage.desk.write(&format!("source/{name}"), name);
    }
    stage.desk.write("target/old", "old");
    close(&stage.desk.source("b"), 0o000);
    stage.desk.give_to_nobody();
    let command = stage.command().by_nobody();
    let hall = stage.start_as(command);
    let view = hall.run("mirror");
    assert_eq!((&view["last"]["result"], &view["partial"]), (&"some_failed".into(), &true.into()));
    let failures = hall.get("/api/v1/failures").expect(200).json();
    let failure = &failures["failures"][0];
    assert_eq!((&failure["job"], &failure["can_retry"]), (&"mirror".into(), &true.into()), "{failures:#}");
    close(&hall.desk().source("b"), 0o644);
    hall.ask("mirror", "retry", "{\"ids\": [\"b\"]}");
    let run = hall.latest_run("mirror");
    let sums = ["planned", "copied", "quarantined"].map(|name| count(&run["sums"][name]));
    assert_eq!(sums, [1, 1, 0], "{run:#}");
    assert!(hall.stored().contains_key("old"));
    // The whole of it removes what is to be removed, and its metrics say so.
    hall.run("mirror");
    assert!(!hall.stored().contains_key("old"));
    let metrics = hall.get("/metrics").expect(200).body;
    let counted = "migrator_objects_total{job=\"mirror\",state=\"quarantined\"} 1\n";
    assert!(metrics.contains(counted), "{metrics}");
    assert!(metrics.contains("\nmigrator_config_reload_success 1\n"), "{metrics}");
}

/// Nothing else empties a quarantine, and a daemon has nobody who would give the command.
#[test]
fn a_cleanup_as_a_job_empties_the_quarantine_of_a_sync() {
    let of = |name: &str, mode: &str, more: &str| {
        job(name, more).replace("mode = \"copy\"", &format!("mode = \"{mode}\""))
    };
    let mirror = of("mirror", "sync", "options = [\"--delete\", \"--max-delete\", \"100%\"]");
    let stage = Stage::new(&format!("{mirror}{}", of("tidy", "cleanup", "")));
    stage.desk.write("source/a", "a");
    stage.desk.write("target/old", "old");
    let away = |hall: &super::hall::Hall| {
        let names = hall.stored().into_keys().filter(|name| name != "a");
        names.map(|name| name.rsplit_once('/').unwrap().1.to_owned()).collect::<Vec<_>>()
    };
    let hall = stage.start();
    hall.run("mirror");
    let view = hall.run("tidy");
    assert_eq!(away(&hall), ["old"], "its time is not over: {view:#}");
    let (stage, ran) = hall.stop();
    ran.exits(0);
    for drawer in fs::read_dir(stage.desk.path("target/.quarantine")).unwrap() {
        let drawer = drawer.unwrap().path();
        let over = drawer.with_file_name("until-20200101T000000.000000000Z-run-1");
        fs::rename(drawer, over).unwrap();
    }

    // What nobody knows to have been done is done when the daemon comes back.
    stage.configure(&format!("{mirror}{}", of("tidy", "cleanup", "schedule = \"daily\"")));
    let hall = stage.start();
    let view = hall.until("tidy", "it has caught up", |view| !view["last"].is_null());
    let last = &view["last"];
    assert_eq!((&last["result"], &last["exit_code"]), (&"ok".into(), &0.into()), "{view:#}");
    assert!(last["run"].is_null(), "its runs are in no ledger: {view:#}");
    assert_eq!((&view["mode"], &view["due"]["why"]), (&"cleanup".into(), &"schedule".into()));
    let due: jiff::Timestamp = view["due"]["at"].as_str().unwrap().parse().unwrap();
    assert!(due > jiff::Timestamp::now(), "{view:#}");
    assert_eq!(hall.stored().into_keys().collect::<Vec<_>>(), ["a"]);
    assert!(hall.running.stderr().contains("expired: 1"), "{}", hall.running.stderr());
    let metrics = hall.get("/metrics").expect(200).body;
    assert!(metrics.contains("migrator_job_last_success_timestamp_seconds{job=\"tidy\"}"), "{metrics}");
    // The run of the sync is told by the sync alone, and there is no file to retry.
    assert_eq!((hall.runs("mirror").len(), hall.runs("tidy").len()), (1, 0));
    assert_eq!(hall.get("/api/v1/runs").expect(200).json()["runs"][0]["job"], "mirror");
    hall.order("/api/v1/jobs/tidy/retry", "{}").expect(409);
}
