//! What is packaged for those who watch the daemon: checked by Prometheus's own tools, and by a real Prometheus that
//! scrapes a real daemon.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use test_rig::process::{DeathSignal, Server, command, with_fresh_ports};
use test_rig::tools;

use super::client::request;
use super::hall::{Stage, job};
use crate::support::bytes;

fn packaged(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging").join(name)
}

#[track_caller]
fn succeeds(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{text}");
    text
}

#[test]
fn the_alerts_are_right_and_fire_when_they_should() {
    let Some(promtool) = tools::require("promtool") else { return };
    let directory = packaged("observability");
    let promtool = |arguments: &[&str]| {
        succeeds(Command::new(&promtool).args(arguments).current_dir(&directory));
    };
    promtool(&["check", "rules", "--lint=all", "--lint-fatal", "alerts.yml"]);
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["test", "rules", "alerts.test.yml"]);
}

fn query(address: SocketAddr, expression: &str) -> Value {
    let encoded: String =
        expression
            .bytes()
            .map(|byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            })
            .collect();
    let answer = request(address, "GET", &format!("/api/v1/query?query={encoded}"), &[], "");
    assert_eq!(answer.status, 200, "{expression}\n{}", answer.body);
    answer.json()["data"]["result"].clone()
}

/// Every expression of the dashboard, and every metric that an alert names, has data.
#[test]
fn every_expression_of_the_dashboard_returns_data() {
    let (Some(prometheus), Some(promtool)) = (tools::require("prometheus"), tools::require("promtool"))
    else {
        return;
    };
    let audit = "[job.audit]\nsource = \"./source\"\ntarget = \"./target\"\nmode = \"verify\"\n";
    let options = "schedule = \"hourly\"\noptions = [\"--part-size\", \"5MiB\", \"--bandwidth\", \"3MiB/s\"]";
    let stage = Stage::new(&format!("{}{audit}", job("files", options)));
    stage.desk.write("source/large", bytes(1, 12 << 20));
    for index in 0..20 {
        stage.desk.write(&format!("source/{index}"), bytes(index, 1_000));
    }
    let hall = stage.start();

    let dir = tempfile::tempdir().unwrap();
    let config = format!(
        "global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}\nrule_files: [{}]\nscrape_configs:\n- job_name: migrator\n  static_configs: [{{targets: [\"{}\"]}}]\n",
        packaged("observability/alerts.yml").display(),
        hall.address
    );
    std::fs::write(dir.path().join("prometheus.yml"), config).unwrap();
    let (at, _server) = with_fresh_ports(|[port]| {
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        let mut command = command(&prometheus, DeathSignal::Kill);
        command.current_dir(dir.path()).arg("--config.file=prometheus.yml").arg("--storage.tsdb.path=data");
        command.arg(format!("--web.listen-address={at}"));
        let mut server = Server::start("prometheus", command, dir.path().join("log"))?;
        server.wait_until(Duration::from_secs(60), || test_rig::http::answers_ok(at, "/-/ready"))?;
        Ok((at, server))
    })
    .unwrap();

    let scraped =
        |expression: &str| query(at, expression).as_array().is_some_and(|series| !series.is_empty());
    let start = Instant::now();
    while !scraped("up{job=\"migrator\"} == 1") {
        assert!(start.elapsed() < Duration::from_secs(60), "not scraped");
        thread::sleep(Duration::from_millis(200));
    }
    hall.run("files");
    hall.run("audit");
    thread::sleep(Duration::from_secs(2));

    let text = std::fs::read_to_string(packaged("observability/grafana-dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let targets =
        dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let expressions: Vec<String> = targets
        .map(|target| {
            let expression = target["expr"].as_str().unwrap();
            let filled = expression.replace("$instance", ".*").replace("$migration", ".*");
            filled.replace("$__rate_interval", "5m")
        })
        .collect();
    assert!(expressions.len() >= 20, "{}", expressions.len());
    for expression in &expressions {
        assert!(!expression.contains('$'), "{expression}");
        assert!(scraped(expression), "no data: {expression}\n{}", hall.get("/metrics").body);
    }
    // What no expression may be without: what alerts compare is there.
    let rules = request(at, "GET", "/api/v1/rules", &[], "").json();
    let rules = rules["data"]["groups"][0]["rules"].as_array().unwrap().clone();
    assert_eq!(rules.len(), 10);
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule:#}");
        assert_ne!(rule["state"], "firing", "{rule:#}");
    }
    let path = dir.path().join("metrics");
    std::fs::write(&path, hall.get("/metrics").body).unwrap();
    let output =
        Command::new(promtool).args(["check", "metrics"]).stdin(std::fs::File::open(&path).unwrap()).output();
    let output = output.unwrap();
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}
