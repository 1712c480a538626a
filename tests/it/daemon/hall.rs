//! A desk with a daemon on it.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::{Answer, request};
use crate::support::{Desk, Files, Migrator, Ran, Running, stored};

/// The token of all tests.
pub(crate) const TOKEN: &str = "hunter2-hunter2-hunter2";

/// How long something may take before the test fails: far longer than anything does.
const LIMIT: Duration = Duration::from_secs(100);

/// A job from `source` to `target`, with more lines of its section.
pub(crate) fn job(name: &str, more: &str) -> String {
    format!("[job.{name}]\nsource = \"./source\"\ntarget = \"./target\"\nmode = \"copy\"\n{more}\n")
}

/// A place with a configuration, before a daemon is there.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) desk: Desk,
}

impl Stage {
    pub(crate) fn new(jobs: &str) -> Self {
        let desk = Desk::new();
        let token = desk.write("token", format!("{TOKEN}\n"));
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
        let stage = Self { desk };
        stage.configure(jobs);
        stage
    }

    /// Writes the configuration anew.
    pub(crate) fn configure(&self, jobs: &str) {
        let head = "[daemon]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"token\"\n\n";
        self.desk.write("config.toml", format!("{head}{jobs}"));
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.desk.path("config.toml")
    }

    pub(crate) fn command(&self) -> Migrator {
        let config = self.config();
        self.desk.migrator(["daemon", "--json", "--config", config.to_str().unwrap()])
    }

    pub(crate) fn start(self) -> Hall {
        let command = self.command();
        self.start_as(command)
    }

    pub(crate) fn start_as(self, command: Migrator) -> Hall {
        let mut running = command.start();
        running.until("it says where it listens", |running| running.stdout().contains('\n'));
        let line: Value = serde_json::from_str(running.stdout().lines().next().unwrap()).unwrap();
        assert_eq!(line["event"], "listening");
        let address = line["address"].as_str().unwrap().parse().unwrap();
        Hall { stage: self, running, address }
    }
}

/// A desk with a daemon that runs.
#[derive(Debug)]
pub(crate) struct Hall {
    pub(crate) stage: Stage,
    pub(crate) running: Running,
    pub(crate) address: SocketAddr,
}

impl Hall {
    pub(crate) fn desk(&self) -> &Desk {
        &self.stage.desk
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        request(self.address, "GET", path, &[], "")
    }

    /// Sends an order with everything that it needs.
    pub(crate) fn order(&self, path: &str, body: &str) -> Answer {
        let token = format!("Bearer {TOKEN}");
        let headers = [("Authorization", token.as_str()), ("Content-Type", "application/json")];
        request(self.address, "POST", path, &headers, body)
    }

    pub(crate) fn job(&self, name: &str) -> Value {
        self.get(&format!("/api/v1/jobs/{name}")).expect(200).json()
    }

    /// Waits until a job's view is as it should be, and returns it.
    #[track_caller]
    pub(crate) fn until(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let view = self.job(name);
            if holds(&view) {
                return view;
            }
            assert!(
                start.elapsed() < LIMIT,
                "{what}: not within {LIMIT:?}\n{view:#}\n{}",
                self.running.stderr()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Begins a run and waits for its end.
    #[track_caller]
    pub(crate) fn run(&self, name: &str) -> Value {
        self.ask(name, "run", "{}")
    }

    /// Gives an order that begins a run, and waits for its end.
    #[track_caller]
    pub(crate) fn ask(&self, name: &str, order: &str, body: &str) -> Value {
        let before = self.job(name)["last"]["ended"].clone();
        self.order(&format!("/api/v1/jobs/{name}/{order}"), body).expect(202);
        self.until(name, "the run ends", |view| view["run"].is_null() && view["last"]["ended"] != before)
    }

    /// The latest run of a job, as the API tells it.
    pub(crate) fn latest_run(&self, name: &str) -> Value {
        self.get(&format!("/api/v1/runs?job={name}&limit=1")).expect(200).json()["runs"][0].clone()
    }

    pub(crate) fn runs(&self, name: &str) -> Vec<Value> {
        let runs = self.get(&format!("/api/v1/runs?job={name}&limit=500")).expect(200).json();
        runs["runs"].as_array().unwrap().clone()
    }

    pub(crate) fn stored(&self) -> Files {
        stored(&self.desk().path("target"))
    }

    /// Ends it as a service manager does.
    pub(crate) fn stop(self) -> (Stage, Ran) {
        self.running.signal(rustix::process::Signal::TERM);
        (self.stage, self.running.wait())
    }
}
