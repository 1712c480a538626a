use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use storage_core::checksum::Digest;
use storage_core::metadata::Version;
use storage_core::storage::Verified;
use tempfile::TempDir;

use super::rows::checksum_line;
use super::*;
use crate::ledger::sqlite::{OpenMode, SqliteLedger};
use crate::ledger::{Change, Published};

/// Names that tools have stumbled over.
const ODD: [&str; 14] = [
    "a",
    "-",
    "-rf",
    " sp ",
    "*star",
    "a\\nb",
    "back\\slash",
    "cr\r",
    "deep/-/x",
    "new\nline",
    "quote\"s, comma",
    "tab\there",
    "\u{1b}[2Jclear",
    "é/e\u{301}",
];

struct Book {
    ledger: SqliteLedger,
    directory: TempDir,
}

impl Book {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let binding = Binding { source: "dir:/s".to_owned(), target: "s3://b".to_owned() };
        let ledger =
            SqliteLedger::open(directory.path().join("l.sqlite"), &binding, OpenMode::Create).await.unwrap();
        Self { ledger, directory }
    }

    fn out(&self) -> std::path::PathBuf {
        self.directory.path().join("report")
    }

    async fn begin(&self, kind: RunKind) -> RunId {
        self.ledger.begin_run(kind, "test").await.unwrap()
    }

    async fn record(&self, run: RunId, changes: Vec<Change>) {
        self.ledger.record(run, changes).await.unwrap();
    }

    async fn finish(&self, run: RunId, end: RunEnd, planned: u64, unchanged: u64) {
        let tally = Tally { planned, unchanged, ..Tally::default() };
        let last = FileId::parse("\u{10ffff}").unwrap();
        self.ledger.checkpoint(run, tally, Some(last)).await.unwrap();
        self.ledger.finish_run(run, end, tally, end == RunEnd::Complete).await.unwrap();
    }

    async fn write(&self, run: Option<RunId>) -> Result<Report, ReportError> {
        files::write(&self.ledger, run, &self.out()).await.map(|written| written.report)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.out().join(name)).unwrap()
    }

    /// Outcome by id, of `files.csv`.
    fn rows(&self) -> BTreeMap<String, String> {
        let mut csv = csv::Reader::from_reader(std::fs::File::open(self.out().join("files.csv")).unwrap());
        assert_eq!(csv.headers().unwrap().iter().collect::<Vec<_>>(), files::COLUMNS);
        csv.records().map(|row| row.unwrap()).map(|row| (row[0].to_owned(), row[3].to_owned())).collect()
    }
}

fn id(name: &str) -> FileId {
    FileId::parse(name).unwrap()
}

fn intend(name: &str) -> Change {
    Change::Intend { id: id(name), size: name.len() as u64, source_version: Version::new("v1") }
}

fn copied(name: &str) -> [Change; 2] {
    let published = Published {
        digest: Digest::of(name.as_bytes()),
        composite: None,
        target_version: None,
        verified: Verified::Backend,
    };
    [intend(name), Change::Published { id: id(name), published, attempts: 1 }]
}

fn failed(name: &str) -> [Change; 2] {
    let failed =
        Change::Failed { id: id(name), reason: "denied".into(), detail: "no \u{1b}[31m".into(), attempts: 3 };
    [intend(name), failed]
}

fn skipped(subject: &str) -> Change {
    Change::Noted(OutcomeRecord {
        subject: subject.to_owned(),
        outcome: Outcome::Skipped,
        reason: "fifo".to_owned(),
        detail: None,
        size: None,
        digest: None,
        verified: None,
        attempts: 0,
        at: Timestamp::now(),
    })
}

#[tokio::test]
async fn planned_is_what_became_of_it_in_every_run_however_late_it_is_told() {
    let book = Book::new().await;
    let first = book.begin(RunKind::Copy).await;
    let changes = [copied("a"), copied("b"), failed("c")].concat();
    book.record(first, changes).await;
    book.record(first, vec![skipped("pipe")]).await;
    book.finish(first, RunEnd::Complete, 4, 0).await;
    let told = book.write(None).await.unwrap();
    assert_eq!(told.result, Verdict::SomeFailed);
    assert_eq!((told.sums.planned.files, told.sums.copied.files, told.sums.failed.files), (4, 2, 1));
    let rows = book.rows();
    assert_eq!(rows["a"], "copied");
    assert_eq!(rows["c"], "failed");
    assert_eq!(rows["pipe"], "skipped");
    assert!(!book.read("SHA256SUMS").contains("  c\n"));

    let second = book.begin(RunKind::Copy).await;
    book.record(second, copied("c").to_vec()).await;
    book.record(second, vec![skipped("pipe")]).await;
    book.finish(second, RunEnd::Complete, 4, 2).await;
    assert_eq!(book.write(None).await.unwrap().result, Verdict::Clean);
    let rows = book.rows();
    assert_eq!((rows["a"].as_str(), rows["c"].as_str()), ("unchanged", "copied"));
    assert_eq!(book.read("SHA256SUMS").lines().count(), 3);

    // A third run changes what the second left: the report of the second stays what it was.
    let third = book.begin(RunKind::Copy).await;
    book.record(third, [copied("a"), copied("new")].concat()).await;
    book.finish(third, RunEnd::Complete, 4, 2).await;
    book.write(Some(second)).await.unwrap();
    assert_eq!(book.rows(), rows);
    let absent = book.write(Some(RunId(9))).await.unwrap_err();
    assert!(absent.to_string().ends_with("has no run 9"), "{absent}");
}

#[tokio::test]
async fn sums_that_do_not_add_up_are_told_and_not_written() {
    let book = Book::new().await;
    let run = book.begin(RunKind::Copy).await;
    book.record(run, copied("a").to_vec()).await;
    book.finish(run, RunEnd::Complete, 3, 1).await;
    let error = book.write(None).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("3 planned") && text.contains("1 copied + 1 unchanged"), "{text}");
    assert_eq!(crate::failure::Failure::from(error).exit.code(), 1);
    assert!(!book.out().exists());

    // The sums agree with each other, and not with the rows.
    let run = book.begin(RunKind::Copy).await;
    book.finish(run, RunEnd::Complete, 2, 2).await;
    let error = book.write(None).await.unwrap_err();
    assert!(error.to_string().contains("1 rows are unchanged, the sums say 2"), "{error}");
    assert_eq!(std::fs::read_dir(book.out()).unwrap().count(), 0, "nothing is left half written");
}

#[tokio::test]
async fn what_a_stopped_run_had_begun_is_unfinished_and_not_vouched_for() {
    let book = Book::new().await;
    let run = book.begin(RunKind::Copy).await;
    book.record(run, copied("a").to_vec()).await;
    book.record(run, vec![intend("b")]).await;
    book.finish(run, RunEnd::Interrupted, 2, 0).await;
    let report = book.write(None).await.unwrap();
    assert_eq!((report.result, report.sums.unfinished.files), (Verdict::Interrupted, 1));
    assert_eq!(book.rows()["b"], "unfinished");
    assert_eq!(book.read("SHA256SUMS").lines().count(), 1);
}

#[tokio::test]
async fn an_audit_is_a_mismatch_for_findings_and_not_for_files_of_the_target_alone() {
    let book = Book::new().await;
    let copy = book.begin(RunKind::Copy).await;
    book.record(copy, [copied("a"), copied("b")].concat()).await;
    book.finish(copy, RunEnd::Complete, 2, 0).await;

    let extra = |outcome| {
        let Change::Noted(mut noted) = skipped("x") else { unreachable!() };
        noted.outcome = outcome;
        Change::Noted(noted)
    };
    let audit = book.begin(RunKind::Verify).await;
    book.record(audit, vec![extra(Outcome::Extra)]).await;
    book.finish(audit, RunEnd::Complete, 2, 2).await;
    let report = book.write(None).await.unwrap();
    assert_eq!((report.result, report.sums.extra.files), (Verdict::Clean, 1));
    assert_eq!(book.rows()["a"], "matched");

    for (outcome, what) in [(Outcome::Missing, "missing"), (Outcome::Different, "different")] {
        let audit = book.begin(RunKind::Verify).await;
        book.record(audit, vec![Change::Damaged { id: id("b"), outcome, detail: "x".into() }]).await;
        book.finish(audit, RunEnd::Complete, 2, 1).await;
        assert_eq!(book.write(None).await.unwrap().result, Verdict::Mismatch);
        assert_eq!(book.rows()["b"], what);
        assert!(!book.read("SHA256SUMS").contains("  b\n"));
        let copy = book.begin(RunKind::Copy).await;
        book.record(copy, copied("b").to_vec()).await;
        book.finish(copy, RunEnd::Complete, 2, 1).await;
    }
}

#[tokio::test]
async fn odd_names_come_through_every_file_of_a_report() {
    let book = Book::new().await;
    let run = book.begin(RunKind::Copy).await;
    for name in ODD {
        book.record(run, copied(name).to_vec()).await;
    }
    book.record(run, failed("\u{1b}]0;title\u{7}").to_vec()).await;
    book.finish(run, RunEnd::Complete, ODD.len() as u64 + 1, 0).await;
    let report = book.write(None).await.unwrap();
    let rows = book.rows();
    for name in ODD {
        assert_eq!(rows[name], "copied", "{name:?}");
    }
    let source = book.directory.path().join("source");
    for name in ODD {
        let path = source.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, name).unwrap();
    }
    accepted(&source, &book.out().join("SHA256SUMS"));
    let text = text::human(&report);
    assert!(!text.contains('\u{1b}') && text.contains("\\u{1b}]0;title"), "{text}");
}

#[tokio::test]
async fn the_schema_names_every_field_and_no_other() {
    let book = Book::new().await;
    let run = book.begin(RunKind::Copy).await;
    book.record(run, [copied("a"), failed("b")].concat()).await;
    book.finish(run, RunEnd::Complete, 2, 0).await;
    book.write(None).await.unwrap();
    let report: serde_json::Value = serde_json::from_str(&book.read("report.json")).unwrap();
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../../../docs/report.schema.json")).unwrap();
    same_fields(&report, &schema, &schema, "report");
}

fn same_fields(value: &serde_json::Value, schema: &serde_json::Value, root: &serde_json::Value, at: &str) {
    let schema = match schema["$ref"].as_str() {
        Some(name) => &root["$defs"][name.rsplit('/').next().unwrap()],
        None => schema,
    };
    if let (Some(items), Some(array)) = (schema.get("items"), value.as_array()) {
        array.iter().for_each(|value| same_fields(value, items, root, at));
    }
    let Some(object) = value.as_object() else { return };
    if let Some(each) = schema.get("additionalProperties").filter(|each| each.is_object()) {
        object.values().for_each(|value| same_fields(value, each, root, at));
        return;
    }
    let known = schema["properties"].as_object().unwrap_or_else(|| panic!("{at} is not in the schema"));
    assert_eq!(object.keys().collect::<Vec<_>>(), known.keys().collect::<Vec<_>>(), "{at}");
    for (key, value) in object {
        same_fields(value, &known[key], root, &format!("{at}.{key}"));
    }
}

/// Runs `sha256sum --check --strict` inside `directory`.
fn accepted(directory: &Path, sums: &Path) {
    let output = Command::new("sha256sum")
        .args(["--check", "--strict", "--quiet"])
        .arg(sums)
        .current_dir(directory)
        .output()
        .expect("sha256sum is part of every Linux system");
    assert!(output.status.success(), "{output:?}\n{}", std::fs::read_to_string(sums).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn sha256sum_accepts_any_name(names in proptest::collection::btree_set("[-\\\\ *\n\r\ta#é\u{1b}.]{1,12}", 1..8)) {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        std::fs::create_dir(&source).unwrap();
        let mut sums = String::new();
        for name in names {
            let Ok(id) = FileId::parse(name.as_str()) else { continue };
            std::fs::write(source.join(&name), &name).unwrap();
            sums.push_str(&checksum_line(&Digest::of(name.as_bytes()), &id));
        }
        if !sums.is_empty() {
            let path = directory.path().join("SHA256SUMS");
            std::fs::write(&path, sums).unwrap();
            accepted(&source, &path);
        }
    }
}
