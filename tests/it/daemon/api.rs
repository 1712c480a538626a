//! The API is what its description says.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use serde_json::Value;

use super::client::{Events, request};
use super::hall::{Hall, Stage, TOKEN, job};

/// A daemon with a job that has run twice, with a failure, and one that never has.
fn hall() -> Hall {
    let never = "[job.never]\nsource = \"./source\"\ntarget = \"./elsewhere\"\nmode = \"copy\"\nwatch = true\nschedule = \"0 0 1 1 *\"\nreconcile = \"2d\"\n";
    let stage = Stage::new(&format!(
        "{}{}",
        job("files", "retries = 3"),
        never.replace("watch = true\n", "").replace("reconcile = \"2d\"\n", "")
    ));
    stage.desk.write("source/a", "abc");
    stage.desk.write("source/b/c d", "xyz");
    // No target can hold it beside the file of the same name.
    stage.desk.write("target/b", "in the way");
    let hall = stage.start();
    hall.run("files");
    hall.run("files");
    hall
}

/// Checks a value against a schema, as far as the description uses them.
fn check(document: &Value, schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.strip_prefix("#/components/schemas/").expect("a schema of this document");
        let schema = &document["components"]["schemas"][name];
        assert!(schema.is_object(), "{name} is not described");
        return check(document, schema, value, at, wrong);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let fits = choices.iter().filter(|choice| {
            let mut wrong = Vec::new();
            check(document, choice, value, at, &mut wrong);
            wrong.is_empty()
        });
        if fits.count() != 1 {
            // The first choice is the thing itself, the second null.
            check(document, &choices[0], value, at, wrong);
        }
        return;
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        other => panic!("{at}: no type: {other}"),
    };
    let own = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let fits = types.contains(&own) || own == "integer" && types.contains(&"number");
    if !fits {
        wrong.push(format!("{at}: {own}, not {types:?}: {value}"));
        return;
    }
    if let Some(known) = schema["enum"].as_array()
        && !known.contains(value)
    {
        wrong.push(format!("{at}: {value} is none of {known:?}"));
    }
    if schema["format"] == "date-time"
        && !value.is_null()
        && value.as_str().unwrap().parse::<jiff::Timestamp>().is_err()
    {
        wrong.push(format!("{at}: {value} is no time"));
    }
    if let Some(items) = value.as_array() {
        for (index, item) in items.iter().enumerate() {
            check(document, &schema["items"], item, &format!("{at}[{index}]"), wrong);
        }
    }
    if let Some(fields) = value.as_object() {
        for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(required) {
                wrong.push(format!("{at}: no {required}"));
            }
        }
        for (name, field) in fields {
            let at = format!("{at}.{name}");
            match (&schema["properties"][name], &schema["additionalProperties"]) {
                (Value::Null, Value::Bool(false)) => wrong.push(format!("{at}: not described")),
                (Value::Null, Value::Object(_)) => {
                    check(document, &schema["additionalProperties"], field, &at, wrong)
                }
                (Value::Null, _) => {}
                (described, _) => check(document, described, field, &at, wrong),
            }
        }
    }
}

#[test]
fn every_route_answers_as_it_is_described() {
    let hall = hall();
    let answer = hall.get("/api/v1/openapi.json").expect(200);
    let document = answer.json();
    assert_eq!(document["openapi"], "3.1.0");
    let bearer = format!("Bearer {TOKEN}");
    let mut answered = 0;
    let paths = document["paths"].as_object().unwrap();
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().unwrap() {
            let all = path.replace("{id}", "b/c%20d");
            // What is there, and what is not.
            let mut asked = vec![all.replace("{job}", "files").replace("{run}", "1")];
            if path.contains("{job}") {
                asked.push(all.replace("{job}", "none").replace("{run}", "1"));
            }
            if path.contains("{run}") {
                asked.push(all.replace("{job}", "files").replace("{run}", "99"));
                asked.push(all.replace("{job}", "never").replace("{run}", "1"));
            }
            let has = |name: &str| {
                operation["parameters"]
                    .as_array()
                    .is_some_and(|all| all.iter().any(|own| own["name"] == name && own["in"] == "query"))
            };
            if has("job") {
                asked.extend([
                    format!("{all}?job=files"),
                    format!("{all}?job=never"),
                    format!("{all}?job=none"),
                ]);
            }
            if has("limit") {
                asked.extend([format!("{all}?limit=1"), format!("{all}?limit=-1")]);
            }
            for path in asked {
                if path == "/api/v1/events" {
                    let (event, data) = Events::open(hall.address, &[]).next().unwrap();
                    assert_eq!(event, "jobs");
                    let mut wrong = Vec::new();
                    let jobs = serde_json::json!({"$ref": "#/components/schemas/Jobs"});
                    check(&document, &jobs, &data, "event", &mut wrong);
                    assert_eq!(wrong, [""; 0]);
                    answered += 1;
                    continue;
                }
                let headers: &[(&str, &str)] = match method.as_str() {
                    "post" => &[("Authorization", &bearer), ("Content-Type", "application/json")],
                    _ => &[],
                };
                let body = if method == "post" { "{}" } else { "" };
                let answer = request(hall.address, &method.to_uppercase(), &path, headers, body);
                let described = &operation["responses"][answer.status.to_string()];
                assert!(
                    described.is_object(),
                    "{method} {path}: {} is not described\n{answer:?}",
                    answer.status
                );
                let kinds = described["content"].as_object().unwrap();
                let (kind, content) = kinds.iter().next().unwrap();
                let told = answer.header("content-type").unwrap().split(';').next().unwrap();
                assert_eq!(told, kind, "{method} {path}");
                if kind == "application/json" {
                    let mut wrong = Vec::new();
                    check(&document, &content["schema"], &answer.json(), "", &mut wrong);
                    assert_eq!(wrong, [""; 0], "{method} {path}\n{:#}", answer.json());
                }
                answered += 1;
                if method == "post" {
                    hall.until_calm();
                }
            }
        }
    }
    assert!(answered >= 30, "{answered}");
}

impl Hall {
    fn until_calm(&self) {
        self.until("files", "it rests", |view| view["run"].is_null());
    }
}

/// As it stands in the query of an address.
fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// A client that reads a long list in parts must get each line once.
#[test]
fn lists_are_read_in_parts_and_nothing_is_told_twice_or_left_out() {
    let stage = Stage::new(&job("files", "retries = 0"));
    for index in 0..7 {
        stage.desk.write(&format!("source/b/{index}"), "x");
    }
    stage.desk.write("target/b", "in the way");
    // No ledger has a row of what has no name.
    fs::write(stage.desk.path("source").join(OsStr::from_bytes(b"odd \xff name")), "x").unwrap();
    fs::write(stage.desk.path("source").join(OsStr::from_bytes(b"so is \xff")), "x").unwrap();
    let hall = stage.start();
    for _ in 0..3 {
        hall.run("files");
    }
    let whole = hall.get("/api/v1/failures?limit=500").expect(200).json();
    assert_eq!(whole["next"], Value::Null);
    assert_eq!(whole["failures"].as_array().unwrap().len(), 9, "{whole:#}");
    for limit in [1, 2, 7, 8, 9] {
        let (mut parts, mut after) = (Vec::new(), String::new());
        loop {
            let part = hall.get(&format!("/api/v1/failures?limit={limit}{after}")).expect(200).json();
            parts.extend(part["failures"].as_array().unwrap().clone());
            assert_eq!(part["more"], !part["next"].is_null());
            let Some(next) = part["next"].as_str() else { break };
            after = format!("&after={}", escaped(next));
        }
        assert_eq!(Value::Array(parts), whole["failures"], "{limit} at a time");
    }
    hall.get("/api/v1/failures?after=files").expect(400);

    let whole = hall.runs("files");
    let (mut parts, mut before) = (Vec::new(), String::new());
    loop {
        let part = hall.get(&format!("/api/v1/runs?limit=1{before}")).expect(200).json();
        let Some(run) = part["runs"].as_array().unwrap().first().cloned() else { break };
        before = format!("&before={}", escaped(run["run"]["started"].as_str().unwrap()));
        parts.push(run);
    }
    assert_eq!((parts.len(), parts), (3, whole));
}

/// Who has found a failed run in the history wants to read its report there.
#[test]
fn a_report_is_a_page_that_loads_nothing() {
    let hall = hall();
    let page = hall.get("/api/v1/runs/files/1/report.html").expect(200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    assert!(page.body.contains("b/c d") && page.body.contains("some files failed"), "{}", page.body);
}

#[test]
fn events_tell_of_a_run_from_its_begin_to_its_end() {
    let stage = Stage::new(&job("files", "options = [\"--bandwidth\", \"1MiB/s\"]"));
    for index in 0..6 {
        stage.desk.write(&format!("source/{index}"), crate::support::bytes(index, 700_000));
    }
    let hall = stage.start();
    let mut events = Events::open(hall.address, &[]);
    let first = events.next().unwrap().1;
    assert!(first["jobs"][0]["run"].is_null() && first["jobs"][0]["last"].is_null());
    hall.order("/api/v1/jobs/files/run", "{}").expect(202);
    let (mut rated, mut shares) = (false, Vec::new());
    let last = loop {
        let (event, data) = events.next().expect("the stream goes on");
        assert_eq!(event, "jobs");
        let job = &data["jobs"][0];
        if !job["last"].is_null() {
            break job.clone();
        }
        rated |= job["run"]["bytes_per_second"].as_u64() > Some(0);
        shares.push(job["run"]["numbers"]["done"].as_u64().unwrap_or(0));
    };
    assert!(rated, "a rate was told");
    assert!(shares.windows(2).all(|pair| pair[0] <= pair[1]), "{shares:?}");
    assert_eq!((&last["last"]["result"], &last["run"]), (&"ok".into(), &Value::Null));
    assert!(last["speeds"].as_array().unwrap().iter().any(|speed| speed.as_u64() > Some(0)));
    hall.until_calm();
}

#[test]
fn metrics_say_what_the_runs_did() {
    let hall = hall();
    fs::remove_file(hall.desk().path("target/b")).unwrap();
    hall.run("files");
    let text = hall.get("/metrics").expect(200).body;
    let report = hall.get("/api/v1/runs?job=files").json();
    let sum = |name: &str| -> u64 {
        report["runs"].as_array().unwrap().iter().map(|run| crate::support::count(&run["sums"][name])).sum()
    };
    for (state, sums) in
        [("copied", sum("copied")), ("unchanged", sum("unchanged")), ("failed", sum("failed"))]
    {
        let line = format!("migrator_objects_total{{job=\"files\",state=\"{state}\"}} {sums}\n");
        assert!(text.contains(&line), "no {line}\n{text}");
    }
    for part in [
        "migrator_build_info{version=",
        "migrator_runs_total{job=\"files\",result=\"some_failed\"} 2",
        "migrator_runs_total{job=\"files\",result=\"ok\"} 1",
        "migrator_ledger_commit_duration_seconds_bucket{le=\"0.2\"}",
        "migrator_run_duration_seconds_count{job=\"files\"} 3",
        "migrator_ledger_files{job=\"files\",state=\"verified\"} 2",
        "storage_operation_duration_seconds_bucket{",
        "migrator_objects_total{job=\"never\",state=\"copied\"} 0",
        "# TYPE migrator_objects_total counter",
        "# HELP migrator_objects_total ",
    ] {
        assert!(text.contains(part), "no {part}\n{text}");
    }
}
