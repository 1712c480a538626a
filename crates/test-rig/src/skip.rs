//! Tests that cannot run here say so.
//!
//! A test runner hides what a passing test prints, so a skip is also appended to the file named by `RIG_SKIPS`,
//! which `rig exec` prints when all is over.

use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::thread;

/// Set to `1` where every program is installed: a missing one is then a failure and no skip.
pub const REQUIRED: &str = "RIG_REQUIRED";

/// Names the file that skips are appended to.
pub const SKIPS: &str = "RIG_SKIPS";

/// Reports that the running test is skipped because `what` is not installed. The caller returns.
///
/// # Panics
/// When [`REQUIRED`] is set: there, a test that does not run is a test that fails.
pub fn missing(what: &str) {
    let required = env::var_os(REQUIRED).is_some_and(|value| value == "1");
    assert!(!required, "{}: needs {what}, which is not installed although {REQUIRED}=1", test_name());
    report(&format!("needs {what}, which is not installed (tests/run installs it)"));
}

/// Reports that the running test is skipped because this machine cannot do what it needs (not root, no loop
/// devices): nothing that could be installed. The caller returns.
pub fn unable(why: &str) {
    report(why);
}

#[expect(clippy::print_stderr, reason = "a skip must be seen")]
fn report(why: &str) {
    let line = format!("SKIP {}: {why}\n", test_name());
    eprint!("{line}");
    if let Some(path) = env::var_os(SKIPS)
        && let Err(error) = append(&path, &line)
    {
        eprintln!("cannot write {}: {error}", path.display());
    }
}

fn append(path: &std::ffi::OsStr, line: &str) -> std::io::Result<()> {
    OpenOptions::new().append(true).create(true).open(path)?.write_all(line.as_bytes())
}

/// Returns the name of the running test.
pub fn test_name() -> String {
    let of_runner = env::var("NEXTEST_TEST_NAME").ok().filter(|name| !name.is_empty());
    of_runner.or_else(|| thread::current().name().map(str::to_owned)).unwrap_or_else(|| "a test".to_owned())
}
