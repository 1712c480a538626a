//! What a service manager sends and is told.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;

use super::client::Events;
use super::hall::{Stage, job};
use crate::support::{bytes, staged};

/// The limit of 10 seconds ends the process with 130: 0 says that it ended by itself.
#[test]
fn a_run_in_progress_is_drained_and_everything_is_closed() {
    let stage = Stage::new(&job("files", "options = [\"--bandwidth\", \"200KiB/s\"]"));
    for index in 0..8 {
        stage.desk.write(&format!("source/{index}"), bytes(index, 4 << 20));
    }
    let hall = stage.start();
    let mut events = Events::open(hall.address, &[]);
    hall.order("/api/v1/jobs/files/run", "{}").expect(202);
    hall.until("files", "bytes move", |view| view["run"]["numbers"]["bytes_read"].as_u64() > Some(0));
    let (stage, ran) = hall.stop();
    ran.exits(0);
    while events.next().is_some() {}
    assert_eq!(staged(&stage.desk.path("target")).len(), 0);
    let status = stage.desk.migrator(["status", "source", "target", "--json"]).run().exits(0);
    assert_eq!(status.events()[0]["run"]["end"], "interrupted", "{status}");
    // What was stopped goes on.
    stage.desk.migrator(["copy", "source", "target"]).run().exits(0);
}

#[test]
fn a_new_configuration_is_taken_and_a_wrong_one_is_not() {
    let stage = Stage::new(&job("files", ""));
    stage.desk.write("source/a", "a");
    let mut hall = stage.start();
    hall.run("files");
    hall.stage.configure(&format!("{}{}", job("files", "schedule = \"hourly\""), job("more", "")));
    hall.running.signal(Signal::HUP);
    hall.running.until("it is read", |running| running.stderr().contains("was read again: 2 jobs"));
    let view = hall.job("files");
    assert_eq!((&view["schedule"], &view["last"]["result"]), (&"hourly".into(), &"ok".into()), "{view:#}");
    hall.get("/api/v1/jobs/more").expect(200);

    for (wrong, why) in [
        (job("files", "schedule = \"sometimes\""), ":9: [job.files] schedule: \"sometimes\" is no schedule"),
        (job("files", "options = [\"--exlude\", \"x\"]"), ":5: [job.files] unexpected argument '--exlude'"),
        (job("files", "").replace("./target", "./source/inside"), "[job.files] "),
        ("not TOML".to_owned(), "config.toml:5: "),
        (String::new(), "has no job"),
    ] {
        let before = hall.running.stderr().matches("the former one stays").count();
        hall.stage.configure(&wrong);
        hall.running.signal(Signal::HUP);
        hall.running.until("it says why not", |running| {
            running.stderr().matches("the former one stays").count() > before
                && running.stderr().contains(why)
        });
        assert_eq!(hall.job("files")["schedule"], "hourly");
    }
    // A job that is no longer there is gone.
    hall.stage.configure(&job("more", ""));
    hall.running.signal(Signal::HUP);
    hall.running.until("it is read", |running| running.stderr().contains("was read again: 1 job\n"));
    hall.get("/api/v1/jobs/files").expect(404);
    hall.run("more");
    hall.stop().1.exits(0);
}

#[test]
fn a_service_manager_is_told_ready_alive_reloading_and_stopping() {
    let stage = Stage::new(&job("files", ""));
    let path = stage.desk.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let next = |words: &str| {
        let mut buffer = [0; 4096];
        loop {
            let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {words}: {error}"));
            let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
            if text.lines().any(|line| line == words) {
                return text;
            }
        }
    };
    let command = stage.command().env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let hall = stage.start_as(command);
    assert!(next("READY=1").contains("STATUS=dashboard at http://127.0.0.1:"));
    next("WATCHDOG=1");
    next("WATCHDOG=1");
    hall.running.signal(Signal::HUP);
    assert!(next("RELOADING=1").contains("MONOTONIC_USEC="));
    next("READY=1");
    hall.get("/readyz").expect(200);
    hall.running.signal(Signal::TERM);
    next("STOPPING=1");
    hall.running.wait().exits(0);
}

#[test]
fn a_configuration_is_checked_without_a_daemon() {
    let stage = Stage::new(&job("files", "schedule = \"hourly\""));
    let config = stage.config();
    let check = || stage.desk.migrator(["daemon", "--check", "--config", config.to_str().unwrap()]).run();
    assert_eq!(check().exits(0).stdout, "the configuration is right: 1 job\n");
    stage.configure(&job("files", "").replace("\"copy\"", "\"copi\""));
    check().refuses(3, &["config.toml:8: [job.files] mode: ", "did you mean \"copy\"?"]);
    stage.configure(&job("files", "options = [\"--json\"]"));
    check().refuses(3, &["[job.files] options: those of every command"]);
    stage.configure(&job("files", "options = [\"s3://AKIA:hunter2@b\"]"));
    let ran = check().refuses(3, &["not shown"]);
    assert!(!ran.stderr.contains("hunter2"));
    stage.configure(
        &job("files", "").replace("./source", "s3://bucket").replace("mode", "watch = true\nmode"),
    );
    check().refuses(3, &["watch: only a directory can be watched"]);
    stage.desk.migrator(["daemon"]).run().refuses(3, &["no configuration file"]);
}
