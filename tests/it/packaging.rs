//! What is packaged is there, and systemd understands it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use test_rig::tools;

/// The most that `systemd-analyze security` may find, of 100: what it shows as 1.5.
const MOST_EXPOSED: &str = "15";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Copies the units to where nothing else is, with the program that was built.
fn units() -> (tempfile::TempDir, Vec<PathBuf>) {
    let directory = tempfile::tempdir().unwrap();
    let units = [
        ("daemon/migrator-daemon.service", "migrator-daemon.service"),
        ("once/migrator@.service", "migrator@x.service"),
        ("once/migrator@.timer", "migrator@x.timer"),
    ];
    let copy = |(from, to): (&str, &str)| {
        let text = fs::read_to_string(root().join("packaging/systemd").join(from)).unwrap();
        let path = directory.path().join(to);
        fs::write(&path, text.replace("/usr/bin/migrator ", &format!("{} ", env!("CARGO_BIN_EXE_migrator"))))
            .unwrap();
        path
    };
    let units = units.map(copy).to_vec();
    (directory, units)
}

fn analyze(arguments: &[&str], unit: &Path) -> Result<(), String> {
    let analyze = tools::find("systemd-analyze").expect("looked for before");
    let output = Command::new(analyze).args(arguments).arg(unit).output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    if output.status.success() { Ok(()) } else { Err(said) }
}

/// Without `--recursive-errors` a misspelt key is no error.
#[test]
fn systemd_understands_the_units() {
    if tools::require("systemd-analyze").is_none() {
        return;
    }
    let verify = ["verify", "--man=no", "--recursive-errors=yes"];
    let (directory, units) = units();
    for unit in &units {
        analyze(&verify, unit).unwrap_or_else(|said| panic!("{}: {said}", unit.display()));
    }
    // The judge sees what is wrong.
    let wrong = directory.path().join("wrong.service");
    let text = fs::read_to_string(&units[0]).unwrap().replace("ProtectSystem=strict", "ProtektSystem=strict");
    fs::write(&wrong, text).unwrap();
    assert!(analyze(&verify, &wrong).is_err());
}

#[test]
fn the_services_can_reach_no_more_than_they_need() {
    if tools::require("systemd-analyze").is_none() {
        return;
    }
    let threshold = format!("--threshold={MOST_EXPOSED}");
    let (_directory, units) = units();
    for unit in units.iter().filter(|unit| unit.extension().is_some_and(|kind| kind == "service")) {
        analyze(&["security", "--offline=true", &threshold], unit)
            .unwrap_or_else(|said| panic!("{}: {said}", unit.display()));
    }
}

/// The manifest of the package names files by paths that nothing else looks at.
#[test]
fn every_asset_of_the_package_is_there() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(manifest.join("Cargo.toml")).unwrap();
    let parsed: toml::Value = toml::from_str(&text).unwrap();
    let deb = &parsed["package"]["metadata"]["deb"];
    let assets = deb["assets"].as_array().unwrap().iter().map(|asset| asset[0].as_str().unwrap());
    let scripts = [deb["maintainer-scripts"].as_str().unwrap()];
    let units =
        deb["systemd-units"].as_array().unwrap().iter().map(|unit| unit["unit-scripts"].as_str().unwrap());
    // What is built and generated is not in the repository.
    let mut looked_at = 0;
    for asset in assets.chain(scripts).chain(units).filter(|asset| !asset.starts_with("target/")) {
        let path = manifest.join(asset.trim_end_matches('*'));
        assert!(path.exists(), "{asset}");
        looked_at += 1;
    }
    assert!(looked_at > 8, "{looked_at}");
}
