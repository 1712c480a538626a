//! Who is let in, over real sockets.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::client::{Answer, request};
use super::hall::{Hall, Stage, TOKEN, job};

const READS: [&str; 8] = [
    "/",
    "/healthz",
    "/readyz",
    "/metrics",
    "/api/v1/jobs",
    "/api/v1/runs",
    "/api/v1/events",
    "/api/v1/openapi.json",
];

fn hall(token: bool) -> Hall {
    let stage = Stage::new(&job("files", ""));
    if !token {
        let text = fs::read_to_string(stage.config()).unwrap().replace("token_file = \"token\"\n", "");
        fs::write(stage.config(), text).unwrap();
    }
    stage.desk.write("source/a", "abc");
    stage.start()
}

fn assert_refused(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(answer.json()["error"]["message"].as_str().unwrap().len() > 10, "{answer:?}");
}

/// A name that an attacker points at 127.0.0.1 makes the user's browser send requests with that name.
#[test]
fn a_rebound_name_reads_nothing_and_changes_nothing() {
    let hall = hall(true);
    let port = hall.address.port();
    for host in ["evil.example".to_owned(), format!("evil.example:{port}"), "127.0.0.1:1".to_owned()] {
        for path in READS {
            let answer = request(hall.address, "GET", path, &[("Host", &host)], "");
            assert_refused(&answer, 421);
            assert!(!answer.body.contains("source"), "{answer:?}");
        }
        let bearer = format!("Bearer {TOKEN}");
        let headers = [
            ("Host", host.as_str()),
            ("Authorization", &bearer),
            ("Content-Type", "application/json"),
            ("Origin", "http://evil.example"),
        ];
        assert_refused(&request(hall.address, "POST", "/api/v1/jobs/files/run", &headers, "{}"), 421);
    }
    let own = format!("localhost:{port}");
    request(hall.address, "GET", "/api/v1/jobs", &[("Host", &own)], "").expect(200);
    assert!(hall.job("files")["last"].is_null() && !hall.desk().path("target").exists());
    assert!(hall.get("/metrics").body.contains("migrator_http_refused_total{reason=\"host\"} 27"));
}

#[test]
fn an_order_needs_the_token_and_json_and_no_other_origin() {
    let hall = hall(true);
    let bearer = format!("Bearer {TOKEN}");
    let (wrong, json) = (format!("Bearer {TOKEN}x"), ("Content-Type", "application/json"));
    let auth = ("Authorization", bearer.as_str());
    let own = format!("http://{}", hall.address);
    let cases: [(&[(&str, &str)], u16); 9] = [
        (&[json], 401),
        (&[json, ("Authorization", &wrong)], 401),
        (&[json, ("Authorization", TOKEN)], 401),
        (&[auth], 415),
        (&[auth, ("Content-Type", "text/plain")], 415),
        (&[auth, json, ("Origin", "http://evil.example")], 403),
        (&[auth, json, ("Origin", "null")], 403),
        (&[auth, json, ("Sec-Fetch-Site", "cross-site")], 403),
        (&[auth, json, ("Origin", &own), ("Sec-Fetch-Site", "same-origin")], 202),
    ];
    for (headers, status) in cases {
        for path in ["/api/v1/jobs/files/run", "/api/v1/jobs/files/retry", "/api/v1/jobs/files/cancel"] {
            if status != 202 {
                assert_refused(&request(hall.address, "POST", path, headers, "{}"), status);
            }
        }
    }
    assert!(hall.job("files")["last"].is_null() && hall.job("files")["run"].is_null());
    request(hall.address, "POST", "/api/v1/jobs/files/run", cases[8].0, "{}").expect(202);
    // An order that says what nobody understands is no order.
    for body in ["{\"id\": \"a\"}", "[", "{\"ids\": []}", "{\"ids\": [\"../x\"]}", "{\"ids\": \"a\"}"] {
        assert_refused(&hall.order("/api/v1/jobs/files/retry", body), 400);
    }
    // Other methods and places.
    for (method, path, status) in [
        ("GET", "/api/v1/jobs/files/run", 405),
        ("GET", "/api/v1/none", 404),
        ("GET", "/api/v1/runs?limit=x", 400),
        ("GET", "/api/v1/runs?limt=1", 400),
    ] {
        assert_refused(&request(hall.address, method, path, &[], ""), status);
    }
    // What is no GET passes for an order.
    for method in ["PUT", "DELETE", "OPTIONS"] {
        assert_refused(&request(hall.address, method, "/api/v1/jobs", &[], ""), 401);
    }
}

#[test]
fn a_daemon_without_a_token_takes_no_orders() {
    let hall = hall(false);
    assert_refused(&hall.order("/api/v1/jobs/files/run", "{}"), 403);
    hall.get("/api/v1/jobs").expect(200);
}

#[test]
fn every_answer_forbids_frames_caches_and_guesses() {
    let hall = hall(true);
    for path in ["/", "/metrics", "/api/v1/jobs", "/nowhere"] {
        let answer = hall.get(path);
        for (name, value) in [
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}");
        }
        let policy = answer.header("content-security-policy").unwrap();
        assert!(
            policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
}

#[test]
fn other_machines_are_let_in_only_on_purpose_and_with_the_token() {
    let stage = Stage::new(&job("files", ""));
    stage.command().args(["--listen", "0.0.0.0:0"]).run().exits(6);
    let text = fs::read_to_string(stage.config()).unwrap();
    fs::write(stage.config(), text.replace("token_file = \"token\"\n", "")).unwrap();
    let open = ["--listen", "0.0.0.0:0", "--allow-remote"];
    let ran = stage.command().args(open).run().exits(6);
    assert!(ran.stderr.contains("there is no token"), "{ran}");
    fs::write(stage.config(), text).unwrap();
    let command = stage.command().args(open);
    let mut hall = stage.start_as(command);
    // Reached by the loopback interface: the tests leave the machine alone.
    hall.address = std::net::SocketAddr::from(([127, 0, 0, 1], hall.address.port()));
    let bearer = format!("Bearer {TOKEN}");
    for path in READS.into_iter().filter(|path| *path != "/api/v1/events") {
        let open = path == "/" || path == "/healthz";
        assert_eq!(hall.get(path).status, if open { 200 } else { 401 }, "{path}");
        let answer = request(hall.address, "GET", path, &[("Authorization", &bearer)], "");
        assert_eq!(answer.status, 200, "{path}");
    }
    assert_eq!(request(hall.address, "GET", "/api/v1/events", &[], "").status, 401);
    assert_refused(&request(hall.address, "GET", "/", &[("Host", "evil.example")], ""), 421);
}

#[test]
fn the_token_is_kept_where_only_its_owner_reads_it_and_told_to_nobody() {
    let stage = Stage::new(&job("files", ""));
    let token = stage.desk.path("token");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).unwrap();
    let ran = stage.command().run().exits(3);
    assert!(ran.stderr.contains("can be read by everybody"), "{ran}");
    fs::write(&token, "short\n").unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let ran = stage.command().run().exits(3);
    assert!(ran.stderr.contains("shorter than 16") && !ran.stderr.contains("short\n"), "{ran}");
    // The environment serves as well, and overrules.
    stage.desk.write("source/a", "a");
    let other = stage.desk.write("other-token", TOKEN);
    fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
    let command = stage.command().env("MIGRATOR_TOKEN_FILE", &other).env("MIGRATOR_LOG", "trace");
    let hall = stage.start_as(command);
    hall.run("files");
    request(
        hall.address,
        "POST",
        "/api/v1/jobs/files/run",
        &[("Authorization", "Bearer hunter2-wrong-hunter2")],
        "",
    );
    let shown =
        format!("{}{}{}", hall.get("/metrics").body, hall.get("/api/v1/jobs").body, hall.get("/").body);
    let (_, ran) = hall.stop();
    let ran = ran.exits(0);
    for text in [shown, ran.stdout, ran.stderr] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}
