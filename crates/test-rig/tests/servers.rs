//! The servers start, keep objects, and end with whoever started them.
#![expect(clippy::disallowed_methods, reason = "damages a file on purpose")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use test_rig::{Fault, Garage, Moto, Proxy, S3Endpoint, Tree, Way, tools, unique_prefix};

const RIG: &str = env!("CARGO_BIN_EXE_rig");

fn s5cmd(endpoint: &S3Endpoint) -> Option<Command> {
    let mut command = Command::new(tools::require("s5cmd")?);
    command.env_clear().envs(endpoint.env()).arg("--endpoint-url").arg(&endpoint.endpoint);
    command.args(["--retry-count", "0"]);
    Some(command)
}

fn put_and_get(endpoint: &S3Endpoint) {
    let Some(mut put) = s5cmd(endpoint) else { return };
    let url = format!("s3://{}/{}file", endpoint.bucket, unique_prefix());
    let mut put = put.args(["pipe", &url]).stdin(Stdio::piped()).spawn().unwrap();
    put.stdin.take().unwrap().write_all(b"the content").unwrap();
    assert!(put.wait().unwrap().success());
    let output = s5cmd(endpoint).unwrap().args(["cat", &url]).output().unwrap();
    assert_eq!(output.stdout, b"the content", "{}", String::from_utf8_lossy(&output.stderr));
}

fn exists(pid: u32) -> bool {
    // A zombie is dead, whoever forgot to wait for it.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn children(pid: u32) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((head, tail)) = stat.rsplit_once(") ") else { continue };
        if tail.split(' ').nth(1) == Some(&pid.to_string()) {
            found.push((child, head.split_once('(').unwrap().1.to_owned()));
        }
    }
    found
}

fn gone_soon(pid: u32) -> bool {
    let start = Instant::now();
    while exists(pid) {
        if start.elapsed() > Duration::from_secs(20) {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
    true
}

#[test]
fn garage_keeps_objects_makes_buckets_and_ends_when_dropped() {
    if tools::require("garage").is_none() {
        return;
    }
    let mut garage = Garage::start().unwrap();
    put_and_get(garage.endpoint());
    let other = garage.create_bucket("another-bucket").unwrap();
    assert_eq!(other.bucket, "another-bucket");
    put_and_get(&other);
    assert!(garage.create_bucket("another-bucket").is_err(), "the name is taken");
    if let Some(mut own) = s5cmd(garage.endpoint()) {
        assert!(own.args(["mb", "s3://made-by-the-test"]).status().unwrap().success());
    }

    let pid = garage.server().pid();
    assert!(exists(pid));
    drop(garage);
    assert!(!exists(pid));
}

#[test]
fn garage_refuses_a_wrong_secret() {
    let Some(mut endpoint) = test_rig::garage() else { return };
    endpoint.secret_key = "0".repeat(64);
    let Some(mut list) = s5cmd(&endpoint) else { return };
    let output = list.args(["ls", &format!("s3://{}/", endpoint.bucket)]).output().unwrap();
    assert!(!output.status.success(), "a server that takes any secret proves nothing");
}

#[test]
fn moto_keeps_objects_makes_buckets_and_ends_when_dropped() {
    if tools::require("moto_server").is_none() {
        return;
    }
    let mut moto = Moto::start().unwrap();
    put_and_get(moto.endpoint());
    put_and_get(&moto.endpoint().create_bucket("another-bucket").unwrap());
    let pid = moto.server().pid();
    drop(moto);
    assert!(!exists(pid));
}

#[test]
fn a_test_shares_the_server_that_it_runs_beneath() {
    let (Some(garage), Some(moto)) = (test_rig::garage(), test_rig::moto()) else { return };
    put_and_get(&garage);
    put_and_get(&moto);
    put_and_get(&garage.create_bucket(&unique_prefix().replace('/', "")).unwrap());
    assert_eq!(test_rig::garage().unwrap(), garage);
}

/// The judge of the end-to-end tests must see what is wrong, else its "0 differences" means nothing.
#[test]
fn rclone_check_sees_a_changed_byte_through_odd_names() {
    let (Some(garage), Some(rclone)) = (test_rig::garage(), tools::require("rclone")) else { return };
    let dir = tempfile::tempdir().unwrap();
    let keys = ["a b", "100%", "+", "caf\u{e9}", "cafe\u{301}", "line\nbreak", "dir/-rf"];
    let mut tree = Tree::new(dir.path(), 1).unwrap();
    for key in keys {
        tree = tree.file(key, 1000).unwrap();
    }
    let manifest = tree.finish();
    assert_eq!(manifest.files.len(), keys.len());
    let remote = format!("rig:{}/{}", garage.bucket, unique_prefix());
    let run = |verb: &str, from: &Path| {
        let mut command = Command::new(&rclone);
        command.env_clear().envs(garage.rclone_env()).arg(verb).arg(from).arg(&remote);
        if verb == "check" {
            command.arg("--download");
        }
        command.output().unwrap()
    };
    let copied = run("copy", dir.path());
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    assert!(run("check", dir.path()).status.success());
    let mut bytes = fs::read(dir.path().join("100%")).unwrap();
    bytes[500] ^= 1;
    fs::write(dir.path().join("100%"), bytes).unwrap();
    assert!(!run("check", dir.path()).status.success());
}

#[test]
fn a_flipped_bit_on_the_way_is_refused_by_garage() {
    let (Some(garage), Some(aws)) = (test_rig::garage(), tools::require("aws")) else { return };
    let proxy = Proxy::start(garage.address()).unwrap();
    let through = garage.via(proxy.address());
    let dir = tempfile::tempdir().unwrap();
    Tree::new(dir.path(), 1).unwrap().file("file", 200_000).unwrap();
    let put = || {
        let mut command = Command::new(&aws);
        command.env_clear().envs(through.env()).env("AWS_MAX_ATTEMPTS", "1").env("HOME", dir.path());
        command.args(["s3api", "put-object", "--bucket", &through.bucket]);
        command.args(["--key", &format!("{}file", unique_prefix()), "--body"]).arg(dir.path().join("file"));
        command.output().unwrap()
    };
    let passed = put();
    assert!(passed.status.success(), "{}", String::from_utf8_lossy(&passed.stderr));
    // Behind the head, within the body.
    proxy.set_times(Fault::FlipBit { way: Way::Request, offset: 100_000 }, 1);
    assert!(!put().status.success());
    assert_eq!(proxy.counts().faults, 1);
}

#[test]
fn exec_gives_its_command_the_servers_and_ends_as_it_does() {
    if tools::require("garage").is_none() || tools::require("moto_server").is_none() {
        return;
    }
    let script = r#"echo "$RIG_GARAGE_ENDPOINT $RIG_MOTO_ENDPOINT $RIG_REQUIRED"; echo "SKIP this" >> "$RIG_SKIPS"; exit 7"#;
    let output = Command::new(RIG).args(["exec", "--", "sh", "-c", script]).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(7), "{stderr}");
    let mut words = stdout.split_whitespace();
    for _ in 0..2 {
        let address = words.next().unwrap().strip_prefix("http://").unwrap();
        assert!(std::net::TcpStream::connect(address).is_err(), "stopped");
    }
    assert_eq!(words.next(), Some("1"));
    assert!(stderr.contains("1 skipped\nSKIP this"), "{stderr}");
}

/// Killed with signal 9 when dropped, so that a failing test leaves nothing either.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A killed test run that leaves its servers behind fills the machine.
#[test]
fn servers_and_command_end_with_a_rig_that_is_killed() {
    if tools::require("garage").is_none() || tools::require("moto_server").is_none() {
        return;
    }
    let mut rig = Command::new(RIG);
    rig.args(["exec", "--", "sh", "-c", "echo up; exec sleep 600"]).stdout(Stdio::piped());
    let mut rig = Killed(rig.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(rig.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let children = children(rig.0.id());
    let names: Vec<&str> = children.iter().map(|(_, name)| name.as_str()).collect();
    assert!(names.contains(&"garage") && names.len() == 3, "{names:?}");
    drop(rig);
    for (pid, name) in children {
        assert!(gone_soon(pid), "{name} is still there");
    }
}
