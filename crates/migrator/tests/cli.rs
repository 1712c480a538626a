//! The command line as a user sees it: help, usage errors and refusals that need no server.
//!
//! Every test has its own HOME and an otherwise empty environment.

#![expect(clippy::disallowed_methods, reason = "fixtures: nobody reads them meanwhile")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A directory with nothing in it but a HOME and a source with one file.
struct Place {
    root: TempDir,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for directory in ["home", "source/sub"] {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        std::fs::write(root.path().join("source/a"), "abc").unwrap();
        Self { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().canonicalize().unwrap().join(name)
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_migrator"));
        command.env_clear().env("HOME", self.path("home")).current_dir(self.path("")).args(line);
        command
    }

    /// Runs a command and returns what a terminal would show, with this place's path as `ROOT`.
    fn run(&self, line: &[&str]) -> String {
        self.show(&self.command(line).output().unwrap())
    }

    fn show(&self, output: &Output) -> String {
        let text = |bytes: &[u8]| {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            text.replace(self.path("").to_str().unwrap().trim_end_matches('/'), "ROOT")
        };
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        let code = output.status.code().map_or("a signal".to_owned(), |code| code.to_string());
        let mut shown = format!("exit {code}\n");
        for (name, text) in [("stdout", out), ("stderr", err)] {
            if !text.is_empty() {
                shown.push_str(&format!("--- {name}\n{text}"));
            }
        }
        shown
    }
}

#[test]
fn help() {
    let place = Place::new();
    insta::assert_snapshot!("help", place.run(&["--help"]));
    insta::assert_snapshot!("help_short", place.run(&["-h"]));
    for command in
        ["plan", "copy", "sync", "verify", "status", "report", "proof", "explain", "cleanup", "daemon"]
    {
        insta::assert_snapshot!(format!("help_{command}"), place.run(&["help", command]));
    }
}

#[test]
fn usage_errors_exit_with_2() {
    let place = Place::new();
    let lines: &[&[&str]] = &[
        &["copy", "source"],
        &["status"],
        &["copy", "source", "target", "--part-size", "4MiB"],
        &["copy", "source", "target", "--part-size", "6GiB"],
        &["copy", "source", "target", "--concurrency", "0"],
        &["copy", "source", "target", "--bandwidth", "fast"],
        &["copy", "source", "target", "--exclude", "a{b"],
        &["copy", "source", "gs://bucket"],
        &["copy", "source", "minio:bucket"],
        &["explain", "source", "target"],
        &["cleanup", "source", "target", "--older-than", "3"],
    ];
    let shown: Vec<String> =
        lines.iter().map(|line| format!("$ migrator {}\n{}", line.join(" "), place.run(line))).collect();
    assert!(shown.iter().all(|text| text.contains("\nexit 2\n")), "{shown:#?}");
    insta::assert_snapshot!(shown.join("\n"));
    assert!(!place.path("target").exists() && !place.path("home/.local").exists());
}

#[test]
fn a_secret_on_the_command_line_is_refused_and_never_repeated() {
    let place = Place::new();
    for line in [
        &["copy", "source", "s3://AKIAX:hunter2@bucket"][..],
        &["copy", "s3://AKIAX:hunter2@bucket/p", "target"],
        &["s3://AKIAX:hunter2@bucket", "target"],
        &["copy", "source", "target", "https://AKIAX:hunter2@host/"],
        &["-vv", "--json", "copy", "source", "https://AKIAX:hunter2@host/"],
    ] {
        let shown = place.run(line);
        assert!(shown.starts_with("exit 2\n"), "{shown}");
        assert!(!shown.contains("hunter2") && !shown.contains("AKIAX"), "{shown}");
    }
    insta::assert_snapshot!(place.run(&["copy", "source", "s3://AKIAX:hunter2@bucket"]));
}

#[test]
fn places_that_cannot_be_used_exit_with_3() {
    let place = Place::new();
    std::fs::write(place.path("home/file"), "").unwrap();
    std::os::unix::fs::symlink("nowhere", place.path("dangling")).unwrap();
    let lines: &[&[&str]] = &[
        &["copy", "absent", "target"],
        &["copy", "source/a", "target"],
        &["copy", "source", "source/a"],
        &["copy", "source", "dangling"],
        &["verify", "source", "target"],
        &["status", "source", "target"],
        &["status", "--ledger", "source/a"],
        &["report", "--ledger", "absent.sqlite"],
    ];
    let shown: Vec<String> =
        lines.iter().map(|line| format!("$ migrator {}\n{}", line.join(" "), place.run(line))).collect();
    assert!(shown.iter().all(|text| text.contains("\nexit 3\n")), "{shown:#?}");
    // The hash in a ledger's name depends on the path of this place.
    insta::with_settings!({filters => vec![(r"[^\s/]*--[^\s/]*-[0-9a-f]{8}\.sqlite", "LEDGER.sqlite")]}, {
        insta::assert_snapshot!(shown.join("\n"));
    });
    assert!(!place.path("target").exists());
}

#[test]
fn safeguards_exit_with_6_and_touch_nothing() {
    let place = Place::new();
    std::os::unix::fs::symlink("source/sub", place.path("link")).unwrap();
    let lines: &[&[&str]] = &[
        &["copy", "source", "source"],
        &["copy", "source", "source/sub/new"],
        &["copy", "source", "link"],
        &["copy", "source/sub", "."],
        &["copy", "source", "embedded:source/sub"],
        &["plan", "source", "embedded:link/deep"],
        &["copy", "source", "target", "--ledger", "source/l.sqlite"],
        &["copy", "source", "target", "--ledger", "target/l.sqlite"],
        &["copy", "source", "target", "--report", "source/sub/report"],
        &["copy", "s3://b/p", "s3://b/p/q"],
    ];
    let shown: Vec<String> =
        lines.iter().map(|line| format!("$ migrator {}\n{}", line.join(" "), place.run(line))).collect();
    assert!(shown.iter().all(|text| text.contains("\nexit 6\n")), "{shown:#?}");
    insta::assert_snapshot!(shown.join("\n"));
    assert_eq!(names(&place.path("source")), ["a", "sub"]);
    assert!(names(&place.path("source/sub")).is_empty());
    assert!(!place.path("target").exists() && !place.path("home/.local").exists());
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_configuration_file_that_is_wrong_exits_with_3_and_its_line() {
    let place = Place::new();
    let config = place.path("home/.config/migrator/config.toml");
    std::fs::create_dir_all(config.parent().unwrap()).unwrap();
    std::fs::write(&config, "exclude = []\n[storage.archive]\nkind = \"s3\"\nbuckett = \"b\"\n").unwrap();
    let mut shown = place.run(&["plan", "source", "archive"]);
    std::fs::write(&config, "concurrency = 0\n").unwrap();
    shown.push_str(&place.run(&["plan", "source", "target"]));
    shown.push_str(&place.run(&["plan", "source", "target", "--config", "absent.toml"]));
    insta::assert_snapshot!(shown);
}

#[test]
fn a_copy_of_a_directory_is_told_to_people_and_to_programs() {
    let place = Place::new();
    std::fs::write(place.path("source/sub/\u{1b}[2J"), "x").unwrap();
    let line = ["copy", "source", "target", "--report", "report", "--no-progress"];
    let filters = vec![
        (r"[^\s/]*--[^\s/]*-[0-9a-f]{8}\.sqlite", "LEDGER.sqlite"),
        (r"\(\d+s\)", "(TIME)"),
        (r"proof:  [0-9a-f]{64}", "proof:  HEAD"),
        (r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "WHEN"),
        (r#""seconds":[0-9.e-]+"#, r#""seconds":SECONDS"#),
    ];
    let mut shown = place.run(&["plan", "source", "target"]);
    assert!(!place.path("target").exists(), "a plan changes nothing");
    for line in [
        &line[..],
        &["copy", "source", "target", "--json", "--no-progress"],
        &["verify", "source", "target", "--read-back", "--no-progress"],
        &["status", "source", "target"],
        &["explain", "source", "target", "sub/\u{1b}[2J"],
    ] {
        shown.push_str(&format!("\n$ migrator {}\n{}", line.join(" ").escape_debug(), place.run(line)));
    }
    assert!(!shown.contains('\u{1b}'), "a name drives the terminal");
    insta::with_settings!({filters => filters}, { insta::assert_snapshot!(shown); });

    let check = Command::new("sha256sum")
        .args(["--check", "--strict", "--quiet"])
        .arg(place.path("report/SHA256SUMS"))
        .current_dir(place.path("source"))
        .output()
        .unwrap();
    assert!(check.status.success(), "{check:?}");
    std::fs::write(place.path("target/a"), "abd").unwrap();
    let shown = place.run(&["verify", "source", "target", "--read-back", "--no-progress"]);
    assert!(shown.starts_with("exit 5\n"), "{shown}");
}

#[test]
fn an_interrupted_copy_exits_with_130_and_goes_on_and_nobody_else_copies_meanwhile() {
    let place = Place::new();
    for number in 0..40 {
        std::fs::write(place.path(&format!("source/f{number}")), vec![number; 64 << 10]).unwrap();
    }
    let line = ["copy", "source", "target", "--bandwidth", "256k", "--concurrency", "2", "--json"];
    let mut first = place.command(&line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(first.stdout.take().unwrap()).lines();
    let begun = |line: &String| line.contains(r#""event":"file""#);
    assert!(lines.by_ref().map_while(Result::ok).any(|line| begun(&line)), "no file was copied");

    let second = place.run(&["copy", "source", "target"]);
    assert!(second.starts_with("exit 6\n"), "{second}");
    let holder = format!("process {} on ", first.id());
    assert!(second.contains("is in use by") && second.contains(&holder), "{second}");

    let pid = rustix::process::Pid::from_child(&first);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let told: Vec<String> = lines.map_while(Result::ok).collect();
    assert_eq!(first.wait().unwrap().code(), Some(130));
    let summary: serde_json::Value = serde_json::from_str(told.last().unwrap()).unwrap();
    assert_eq!(
        (summary["event"].as_str(), summary["result"].as_str()),
        (Some("summary"), Some("interrupted"))
    );
    let copied = summary["sums"]["copied"]["files"].as_u64().unwrap();
    assert!((1..41).contains(&copied), "{summary}");

    let rest = place.run(&["copy", "source", "target", "--json", "--no-progress"]);
    let summary: serde_json::Value = serde_json::from_str(rest.trim_end().lines().last().unwrap()).unwrap();
    assert_eq!(summary["result"], "clean", "{rest}");
    assert_eq!(summary["sums"]["unchanged"]["files"].as_u64().unwrap(), copied);
    assert_eq!(summary["sums"]["copied"]["files"].as_u64().unwrap(), 41 - copied);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let place = Place::new();
    let mut child = place
        .command(&["plan", "source", "target"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(place.show(&output), "exit 0\n");
}
