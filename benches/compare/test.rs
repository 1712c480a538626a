//! The smallest comparison, once, with whatever peers are installed: that everything arrives, and never a time.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

use std::path::Path;
use std::process::Command;

#[test]
fn a_quick_comparison_is_right_in_all_its_parts() {
    let program = Path::new(env!("CARGO_BIN_EXE_compare"));
    let migrator = program.with_file_name("migrator");
    if !migrator.is_file() {
        test_rig::skip::missing("migrator, beside the tests (cargo build -p migrator)");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let results = directory.path().join("results.md");
    let output = Command::new(program)
        .args(["run", "--quick", "--dir"])
        .arg(directory.path())
        .arg("--results")
        .arg(&results)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    eprintln!("{said}");
    assert!(output.status.success(), "{said}");
    let text = std::fs::read_to_string(&results).unwrap();
    for part in ["upload", "unchanged", "restore", "verify"] {
        assert!(text.contains(&format!("### quick, {part}, sink")), "{text}");
    }
    assert!(!text.contains("failed:"), "{text}");
    // Nothing but the set's own place is left: no ledger, no copy.
    let left = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(left, 1, "{:?}", std::fs::read_dir(directory.path()).unwrap().collect::<Vec<_>>());
}
