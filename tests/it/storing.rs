//! How a server stores: storage classes, and encryption with keys that stay secret.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::support::{Desk, Migrator, Ran, Remote, Report, assert_same, bytes, stored};

const KEY: [u8; 32] = [0xc7; 32];

fn desk() -> Desk {
    let desk = Desk::new();
    for (number, name) in ["a", "deep/er/b", "é"].iter().enumerate() {
        desk.write(&format!("source/{name}"), bytes(number as u8, 1_000));
    }
    desk.write("source/large", bytes(9, 11 << 20));
    desk.write("key", format!("{}\n", BASE64.encode(KEY)));
    desk
}

/// Asserts that nothing that was written anywhere holds the key, in any form.
#[track_caller]
fn says_no_key(desk: &Desk, ran: &Ran) {
    let mut said = format!("{ran}");
    let mut reports = vec![desk.path("report"), desk.path("state")];
    while let Some(path) = reports.pop() {
        if path.is_dir() {
            reports.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if let Ok(content) = fs::read(&path) {
            said.push_str(&String::from_utf8_lossy(&content));
        }
    }
    for secret in [BASE64.encode(KEY), hex::encode(KEY)] {
        assert!(!said.contains(&secret), "the key was told");
    }
}

#[test]
fn a_tree_is_encrypted_with_a_customer_key_audited_and_brought_back() {
    let Some(remote) = Remote::garage() else { return };
    let (desk, url) = (desk(), remote.url());
    let run = |line: &[&str]| -> Migrator {
        let more = ["--part-size", "5MiB", "--report", "report"];
        let more = if line[0] == "copy" { &more[..] } else { &more[2..] };
        desk.migrator([line, more].concat())
            .at(&remote.endpoint)
            .env("VAULT", BASE64.encode(KEY))
            .env("MIGRATOR_LOG", "trace,hyper=off")
    };
    let ran = run(&["copy", "source", &url, "--customer-key", "key"]).run().exits(0);
    says_no_key(&desk, &ran);
    let report = Report::read(&desk.path("report"));
    assert_eq!(report.sum("copied"), 4);
    assert!(report.json.to_string().contains("customer key"), "the report does not say how: {}", report.json);

    let ran = run(&["verify", "source", &url, "--customer-key", "env:VAULT", "--read-back"]).run().exits(0);
    says_no_key(&desk, &ran);
    // Without the key, and with another, nothing is had: told as what it is, and no file is taken for missing.
    desk.write("other", [7; 32]);
    for other in [&[][..], &["--customer-key", "other"]] {
        let line = [&["verify", "source", &url, "--read-back"][..], other].concat();
        let ran = run(&line).run();
        assert!(!ran.status.success(), "{ran}");
        says_no_key(&desk, &ran);
    }
    let ran = run(&["copy", &url, "open", "--ledger", "open.sqlite"]).run().exits(4);
    let told = Report::read(&desk.path("report")).json.to_string();
    assert!(told.contains("customer key"), "{ran}\n{told}");
    assert!(stored(&desk.path("open")).is_empty(), "{ran}");

    run(&["copy", &url, "back", "--source-customer-key", "env:VAULT"]).run().exits(0);
    assert_same("what came back", &stored(&desk.path("back")), &stored(&desk.path("source")));
}

/// A configuration file holds where the key is, from its own place on.
#[test]
fn a_storage_of_the_configuration_has_its_key_in_a_file_beside_it() {
    let Some(remote) = Remote::garage() else { return };
    let desk = desk();
    desk.write("etc/vault.key", hex::encode(KEY));
    let (bucket, prefix) = (&remote.endpoint.bucket, remote.prefix.trim_end_matches('/'));
    let config = format!(
        "[storage.vault]\nkind = \"s3\"\nbucket = \"{bucket}\"\nprefix = \"{prefix}\"\ncustomer_key = \"vault.key\"\n"
    );
    desk.write("etc/config.toml", config);
    let line = ["copy", "source", "vault", "--config", "etc/config.toml"];
    desk.migrator(line).at(&remote.endpoint).run().exits(0);
    let url = remote.url();
    let line = ["copy", &url, "back", "--source-customer-key", "key"];
    desk.migrator(line).at(&remote.endpoint).run().exits(0);
    assert_same("what came back", &stored(&desk.path("back")), &stored(&desk.path("source")));
}

/// P6: Garage answers 200 to both and does neither.
#[test]
fn a_target_that_does_not_store_as_asked_is_refused_before_a_file_moves() {
    let Some(remote) = Remote::garage() else { return };
    let (desk, url) = (desk(), remote.url());
    for (options, word) in [
        (["--storage-class", "STANDARD_IA"], "STANDARD_IA"),
        (["--sse", "s3"], "SSE-S3"),
        (["--sse", "kms:1234"], "SSE-KMS"),
    ] {
        let line = [&["copy", "source", &url][..], &options[..]].concat();
        let ran = desk.migrator(line).at(&remote.endpoint).run();
        assert!(!ran.status.success() && ran.stderr.contains(word), "{ran}");
    }
    assert!(remote.files().is_empty() && remote.uploads().is_empty());
}

#[test]
fn the_storage_class_is_that_of_every_object() {
    let Some(remote) = Remote::moto() else { return };
    let (desk, url) = (desk(), remote.url());
    let options = ["--storage-class", "STANDARD_IA", "--sse", "s3", "--part-size", "5MiB"];
    let line = [&["copy", "source", &url][..], &options[..]].concat();
    desk.migrator(line).at(&remote.endpoint).run().exits(0);
    let classes = remote.classes();
    assert_eq!(classes.len(), 4, "{classes:?}");
    assert!(classes.values().all(|class| class == "STANDARD_IA"), "{classes:?}");
}

/// Whoever takes an option for the key itself is told so, and the key is not told again.
#[test]
fn a_key_on_the_command_line_is_not_repeated() {
    let desk = desk();
    let key = hex::encode(KEY);
    for place in [&key, &format!("env:{key}"), &format!("env:{key}=")] {
        let line = ["copy", "source", "s3://bucket", "--customer-key", place];
        let ran = desk.migrator(line).env("AWS_ENDPOINT_URL", "http://127.0.0.1:9").run();
        let said = format!("{} {}", ran.stdout, ran.stderr);
        assert!(ran.status.code() == Some(3) && said.contains("env:NAME"), "no next step");
        assert!(!said.contains(&key), "the key was repeated");
    }
    let line = ["copy", "source", "s3://bucket", "--customer-key", "key"];
    let ran = desk
        .migrator(line)
        .env("AWS_ENDPOINT_URL", "http://192.0.2.1:9000")
        .run()
        .refuses(3, &["without TLS"]);
    assert!(ran.stderr.contains("192.0.2.1"), "{ran}");
}
