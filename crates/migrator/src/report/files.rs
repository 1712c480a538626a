//! Writing a report: `report.html`, `report.json`, `files.csv`, `SHA256SUMS` and `proof.jsonl` in a directory.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use storage_core::checksum::Digest;
use storage_core::id::FileId;
use storage_core::storage::Verified;
use tempfile::NamedTempFile;

use crate::course::Course;
use crate::ledger::{Ledger, Outcome, RunEnd, RunId, RunKind, RunRecord};
use crate::report::rows::{Fate, Row, Rows, checksum_line};
use crate::report::survey::Survey;
use crate::report::{Report, ReportError, html, proof};

/// The columns of `files.csv` (RFC 4180, UTF-8, with this line as its first).
pub const COLUMNS: [&str; 9] =
    ["id", "size", "sha256", "outcome", "verified_by", "attempts", "reason", "error", "at"];

/// Makes the directory of a report and tries to write into it, before a run whose report it is to hold.
///
/// # Errors
/// [`ReportError::Io`].
pub fn try_directory(directory: &Path) -> Result<(), ReportError> {
    let tried = fs::create_dir_all(directory).and_then(|()| tempfile::tempfile_in(directory));
    tried.map(drop).map_err(|source| ReportError::Io { path: directory.to_owned(), source })
}

/// Writes the report of a run, or of the latest, into `directory`, which is made when it is missing.
///
/// The files appear under their names only when all of them are whole. Blocks the thread while it writes:
/// it runs after a run, when nothing else does.
///
/// # Errors
/// Those of [`Report::of`]; a file cannot be written; the rows do not add up to the sums.
pub async fn write(
    ledger: &dyn Ledger,
    run: Option<RunId>,
    directory: &Path,
) -> Result<Written, ReportError> {
    let report = Report::of(ledger, run).await?;
    let missing = || ReportError::NoRun { location: ledger.location().to_owned(), run: Some(report.run.id) };
    let record = ledger.run(Some(report.run.id)).await?.ok_or_else(missing)?;
    let _alone =
        prepare(directory).map_err(|source| ReportError::Io { path: directory.to_owned(), source })?;

    let mut csv = csv::Writer::from_writer(Output::create(directory, "files.csv")?);
    let csv_failed = |error: csv::Error| ReportError::Io {
        path: directory.join("files.csv"),
        source: io::Error::other(error),
    };
    csv.write_record(COLUMNS).map_err(csv_failed)?;
    let mut checksums = Output::create(directory, "SHA256SUMS")?;
    let previous = previous_head(ledger, record.id).await?;
    let proof = Output::create(directory, "proof.jsonl")?;
    let proof_failed = |source| ReportError::Io { path: directory.join("proof.jsonl"), source };
    let mut proof = proof::Writer::begin(proof, &report, previous).map_err(proof_failed)?;
    let mut counts = BTreeMap::<Fate, u64>::new();
    let mut survey = Survey::default();
    let mut rows = Rows::new(ledger, record.clone());
    while let Some(row) = rows.next().await? {
        *counts.entry(row.fate).or_default() += 1;
        survey.add(&row);
        proof.file(&row).map_err(proof_failed)?;
        write_row(&mut csv, &row).map_err(csv_failed)?;
        if row.fate.is_good()
            && let (Some(digest), Ok(id)) = (&row.digest, FileId::parse(row.subject.as_str()))
        {
            checksums.write_all(checksum_line(digest, &id).as_bytes()).map_err(checksums.failed())?;
        }
    }
    check(&report, &record, &counts, ledger).await?;

    let (head, proof) = proof.finish().map_err(proof_failed)?;
    let proven = Proven { head, previous };

    let mut json = Output::create(directory, "report.json")?;
    let whole = Whole { report: &report, survey: &survey, course: &report.course, proof: proven };
    serde_json::to_writer_pretty(&mut json, &whole).map_err(|error| json.failed()(error.into()))?;
    json.write_all(b"\n").map_err(json.failed())?;
    let mut html = Output::create(directory, "report.html")?;
    html.write_all(html::page(&report, &survey, Some(&proven)).as_bytes()).map_err(html.failed())?;
    let csv = csv.into_inner().map_err(|error| ReportError::Io {
        path: directory.join("files.csv"),
        source: io::Error::other(error.to_string()),
    })?;
    let done = [csv.finish()?, checksums.finish()?, proof.finish()?, json.finish()?, html.finish()?];
    for (file, path) in done {
        file.persist(&path).map_err(|error| ReportError::Io { path, source: error.error })?;
    }
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|source| ReportError::Io { path: directory.to_owned(), source })?;
    Ok(Written { report, proof: proven })
}

/// Makes the page of a run's report, or of the latest, and nothing else.
///
/// # Errors
/// Those of [`Report::of`].
pub async fn page(ledger: &dyn Ledger, run: Option<RunId>) -> Result<String, ReportError> {
    let report = Report::of(ledger, run).await?;
    let missing = || ReportError::NoRun { location: ledger.location().to_owned(), run: Some(report.run.id) };
    let record = ledger.run(Some(report.run.id)).await?.ok_or_else(missing)?;
    let mut survey = Survey::default();
    let mut rows = Rows::new(ledger, record);
    while let Some(row) = rows.next().await? {
        survey.add(&row);
    }
    Ok(html::page(&report, &survey, None))
}

/// Returns the head of the proof that the one of `run` follows: of the proof that was handed out for it before, the
/// same; else that of the latest before it.
async fn previous_head(ledger: &dyn Ledger, run: RunId) -> Result<Option<Digest>, ReportError> {
    if let Some(known) = ledger.proof(Some(run)).await? {
        return Ok(known.previous);
    }
    match ledger.proof(None).await? {
        None => Ok(None),
        Some(latest) if latest.run < run => Ok(Some(latest.head)),
        Some(_) => {
            for earlier in (1..run.0).rev().map(RunId) {
                if let Some(proof) = ledger.proof(Some(earlier)).await? {
                    return Ok(Some(proof.head));
                }
            }
            Ok(None)
        }
    }
}

/// A report that was written.
#[derive(Debug)]
pub struct Written {
    /// What it says.
    pub report: Report,
    /// Its proof.
    pub proof: Proven,
}

/// The proof of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Proven {
    /// Hash of its last line.
    pub head: Digest,
    /// Head of the proof before it.
    pub previous: Option<Digest>,
}

/// The files of a report.
const NAMES: [&str; 5] = ["files.csv", "SHA256SUMS", "proof.jsonl", "report.json", "report.html"];

/// The content of `report.json`.
#[derive(Serialize)]
struct Whole<'r> {
    #[serde(flatten)]
    report: &'r Report,
    #[serde(flatten)]
    survey: &'r Survey,
    #[serde(flatten)]
    course: &'r Course,
    proof: Proven,
}

/// Makes the directory, waits until nobody else writes a report there, and removes what a killed writer left. The
/// next one waits until the result is dropped.
#[expect(clippy::disallowed_methods, reason = "only names that the writer below gives its temporary files")]
fn prepare(directory: &Path) -> io::Result<File> {
    fs::create_dir_all(directory)?;
    let lock = File::open(directory)?;
    match lock.lock() {
        Ok(()) => {}
        // Nobody can be told from anybody on a file system without locks: nothing is removed there.
        Err(_) => return Ok(lock),
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_left_over = name.to_str().is_some_and(|name| NAMES.iter().any(|of| is_temporary(name, of)));
        if is_left_over && entry.file_type()?.is_file() {
            match fs::remove_file(entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(lock)
}

/// Tells whether `name` is one under which [`Output::create`] writes the file `of`.
fn is_temporary(name: &str, of: &str) -> bool {
    let random = name.strip_prefix('.').and_then(|name| name.strip_prefix(of)?.strip_prefix('.'));
    random.is_some_and(|random| {
        random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// Random characters in the name of a temporary file.
const RANDOM: usize = 12;

/// Compares the rows with the sums, where both are final: of a run that saw everything and is the latest.
async fn check(
    report: &Report,
    record: &RunRecord,
    counts: &BTreeMap<Fate, u64>,
    ledger: &dyn Ledger,
) -> Result<(), ReportError> {
    let latest = ledger.run(None).await?.is_some_and(|latest| latest.id == record.id);
    if record.end != Some(RunEnd::Complete) || !latest {
        return Ok(());
    }
    let calm = match record.kind {
        RunKind::Copy | RunKind::Sync => Outcome::Unchanged,
        RunKind::Verify => Outcome::Matched,
    };
    let sums = &report.sums;
    for (fate, counted) in [
        (Fate::Outcome(calm), sums.unchanged.files),
        (Fate::Outcome(Outcome::Copied), sums.copied.files),
        (Fate::Outcome(Outcome::Skipped), sums.skipped.files),
        (Fate::Outcome(Outcome::Failed), sums.failed.files),
        (Fate::Outcome(Outcome::Quarantined), sums.quarantined.files),
        (Fate::Outcome(Outcome::Deleted), sums.deleted.files),
        (Fate::Unfinished, 0),
    ] {
        let rows = counts.get(&fate).copied().unwrap_or(0);
        if rows != counted {
            return Err(ReportError::Rows { run: record.id, outcome: fate.as_str(), rows, counted });
        }
    }
    Ok(())
}

fn write_row(csv: &mut csv::Writer<Output>, row: &Row) -> csv::Result<()> {
    let verified_by = match row.verified {
        Some(Verified::Backend) => "backend",
        Some(Verified::ReadBack) => "read_back",
        Some(Verified::No) | None => "",
    };
    csv.write_record([
        row.subject.as_str(),
        &row.size.map(|size| size.to_string()).unwrap_or_default(),
        &row.digest.map(|digest| digest.to_string()).unwrap_or_default(),
        row.fate.as_str(),
        verified_by,
        &row.attempts.to_string(),
        &row.reason,
        row.detail.as_deref().unwrap_or_default(),
        &row.at.to_string(),
    ])
}

/// A file that is being written beside its place.
struct Output {
    file: BufWriter<NamedTempFile>,
    path: PathBuf,
}

impl Output {
    fn create(directory: &Path, name: &str) -> Result<Self, ReportError> {
        let path = directory.join(name);
        // 0666 less the umask, as any file a tool writes; the default of temporary files is 0600.
        let file = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .rand_bytes(RANDOM)
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(directory)
            .map_err(|source| ReportError::Io { path: path.clone(), source })?;
        Ok(Self { file: BufWriter::with_capacity(256 << 10, file), path })
    }

    fn failed(&self) -> impl FnOnce(io::Error) -> ReportError + use<> {
        let path = self.path.clone();
        move |source| ReportError::Io { path, source }
    }

    fn finish(self) -> Result<(NamedTempFile, PathBuf), ReportError> {
        let failed = self.failed();
        let finished = self.file.into_inner().map_err(io::IntoInnerError::into_error);
        match finished.and_then(|file| file.as_file().sync_all().map(|()| file)) {
            Ok(file) => Ok((file, self.path)),
            Err(error) => Err(failed(error)),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
