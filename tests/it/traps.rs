//! What has gone wrong for others while copying, each row once.

mod changing;
mod deletion;
mod odd;
mod outcomes;
mod requests;
mod roundtrip;
mod scale;
mod secrets;
mod signals;
mod unreadable;

/// A row whose test was renamed or removed is a promise that nobody keeps.
#[test]
fn every_row_names_tests_that_exist() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/it/traps");
    let rows = std::fs::read_to_string(directory.join("README.md")).unwrap();
    let mut source = String::new();
    let mut tests = 0;
    for word in rows.split('`').skip(1).step_by(2) {
        if word.ends_with(".rs") && word != "traps.rs" {
            source = std::fs::read_to_string(directory.join(word))
                .unwrap_or_else(|error| panic!("{word}: {error}"));
        } else if word.contains('_') {
            assert!(source.contains(&format!("fn {word}(")), "there is no test {word}");
            tests += 1;
        }
    }
    assert!(tests > 30, "{tests} only: is the table still read?");
}
