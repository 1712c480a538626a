//! No secret and no signature in anything that is written, whatever is asked to be written.

use std::fs;
use std::path::Path;

use test_rig::S3Endpoint;

use crate::support::{Desk, Ran, Remote, bytes};

const SECRET: &str = "canarySecret0123456789abcdefABCDEF+/canary";
const TOKEN: &str = "canaryToken0123456789abcdefABCDEF+/canary";

fn with_secret(endpoint: &S3Endpoint) -> S3Endpoint {
    let mut endpoint = endpoint.clone();
    endpoint.secret_key = SECRET.to_owned();
    endpoint
}

/// What must not be found: secrets as they are and as they are encoded, and anything that signs a request.
fn check(what: &str, bytes: &[u8], secrets: &[&str]) {
    let text = String::from_utf8_lossy(bytes);
    for secret in secrets {
        assert!(!text.contains(secret), "{what} has a secret");
        assert!(!text.contains(&secret.replace('+', "%2B").replace('/', "%2F")), "{what} has a secret");
    }
    for sign in ["Signature=", "x-amz-signature", "X-Amz-Signature", "x-amz-security-token: ", "AWS4-HMAC"] {
        if let Some(at) = text.find(sign) {
            let around: String = text[at..].chars().take(160).collect();
            panic!("{what} has a signature: {around}");
        }
    }
}

fn check_all(desk: &Desk, ran: &Ran, secrets: &[&str]) {
    check("standard output", ran.stdout.as_bytes(), secrets);
    check("standard error", ran.stderr.as_bytes(), secrets);
    fn walk(path: &Path, secrets: &[&str]) {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, secrets);
            } else {
                check(&path.display().to_string(), &fs::read(&path).unwrap(), secrets);
            }
        }
    }
    for directory in ["state", "report", "home"] {
        if desk.path(directory).exists() {
            walk(&desk.path(directory), secrets);
        }
    }
}

/// CVE-2024-41178 and RUSTSEC-2023-0125: credentials in what was logged.
#[test]
fn no_secret_is_logged_at_any_level_or_kept_anywhere() {
    let Some(moto) = Remote::moto() else { return };
    let desk = Desk::new();
    desk.write("source/small", "small");
    desk.write("source/large", bytes(1, 11 << 20));
    let endpoint = with_secret(&moto.endpoint);
    for format in ["text", "json"] {
        for (level, words) in [("-vv", "debug"), ("-v", "trace")] {
            let target = Remote::new(&endpoint);
            let arguments = ["copy", "source", &target.url(), "--part-size", "5MiB", "--report", "report"];
            let mut running = desk
                .migrator(arguments)
                .args([level, "--log-format", format])
                .at(&endpoint)
                .env("AWS_SESSION_TOKEN", TOKEN)
                .env("MIGRATOR_LOG", if level == "-v" { words } else { "" })
                .start();
            let mut command_line = String::new();
            running.until("it runs", |running| {
                command_line = fs::read_to_string(format!("/proc/{}/cmdline", running.pid())).unwrap();
                command_line.contains("migrator")
            });
            check("the process list", command_line.as_bytes(), &[SECRET, TOKEN]);
            let ran = running.wait().exits(0);
            assert!(
                words == "debug" || ran.stderr.lines().count() > 20,
                "logs nothing, so this proves nothing\n{ran}"
            );
            check_all(&desk, &ran, &[SECRET, TOKEN]);
        }
    }
}

/// A refusal is where URLs, headers and answers end up in messages.
#[test]
fn no_secret_is_told_when_the_server_refuses_it() {
    let Some(garage) = Remote::garage() else { return };
    let desk = Desk::new();
    desk.write("source/a", "a");
    let endpoint = with_secret(&garage.endpoint);
    for format in ["text", "json"] {
        let ran = desk
            .migrator(["copy", "source", &garage.url(), "-vv", "--log-format", format, "--report", "report"])
            .at(&endpoint)
            .env("MIGRATOR_LOG", "trace")
            .run()
            .exits(3);
        check_all(&desk, &ran, &[SECRET]);
    }
}
