//! The API. Its description is `openapi.json`.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use storage_core::id::FileId;
use storage_core::storage::Verified;

use crate::daemon::Scope;
use crate::daemon::job::{Job, View};
use crate::item;
use crate::ledger::{FileRecord, Ledger, OutcomeRecord, RunId, RunKind, RunRecord};
use crate::report::failures::{Problem as Found, current};
use crate::report::{Report, RunSummary, Sums, Verdict, Work};
use crate::web::Site;
use crate::web::answer::{Problem, json, order};

/// Entries of a list, unless the request says otherwise.
const USUAL: usize = 20;

/// Entries of a list at most.
const MOST: usize = 500;

/// Files that are named in a retry at most.
const MOST_NAMED: usize = 10_000;

type Answer = Result<Response, Problem>;

/// Which part of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    job: Option<String>,
    limit: Option<usize>,
}

impl Part {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(USUAL).min(MOST)
    }

    /// Returns the jobs that are meant.
    fn jobs(&self, site: &Site) -> Result<Vec<Arc<Job>>, Problem> {
        match &self.job {
            Some(name) => Ok(vec![site.job(name)?]),
            None => Ok(site.daemon.jobs()),
        }
    }
}

impl Site {
    fn job(&self, name: &str) -> Result<Arc<Job>, Problem> {
        let missing = || Problem::new(StatusCode::NOT_FOUND, "there is no job of this name");
        self.daemon.job(name).ok_or_else(missing)
    }

    fn view(&self, name: &str) -> Result<View, Problem> {
        let missing = || Problem::new(StatusCode::NOT_FOUND, "there is no job of this name");
        self.daemon.views().into_iter().find(|view| view.name == name).ok_or_else(missing)
    }
}

#[derive(Serialize)]
pub(super) struct Jobs {
    now: Timestamp,
    version: &'static str,
    jobs: Vec<View>,
}

pub(super) fn all_jobs(site: &Site) -> Jobs {
    Jobs { now: Timestamp::now(), version: env!("CARGO_PKG_VERSION"), jobs: site.daemon.views() }
}

pub(super) async fn jobs(State(site): State<Site>) -> Response {
    json(&all_jobs(&site))
}

pub(super) async fn job(State(site): State<Site>, name: Result<Path<String>, PathRejection>) -> Answer {
    Ok(json(&site.view(&path(name)?)?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

pub(super) async fn run(
    State(site): State<Site>,
    name: Result<Path<String>, PathRejection>,
    body: Bytes,
) -> Answer {
    let (name, Nothing {}) = (path(name)?, order(&body)?);
    site.daemon.ask(&name, Scope::All)?;
    accepted(&site, &name)
}

pub(super) async fn cancel(
    State(site): State<Site>,
    name: Result<Path<String>, PathRejection>,
    body: Bytes,
) -> Answer {
    let (name, Nothing {}) = (path(name)?, order(&body)?);
    site.daemon.cancel(&name)?;
    accepted(&site, &name)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Retry {
    /// Nothing: all that failed.
    ids: Option<Vec<String>>,
}

pub(super) async fn retry(
    State(site): State<Site>,
    name: Result<Path<String>, PathRejection>,
    body: Bytes,
) -> Answer {
    let (name, Retry { ids }) = (path(name)?, order(&body)?);
    let scope = match ids {
        None => Scope::Failed,
        Some(ids) if ids.is_empty() || ids.len() > MOST_NAMED => {
            let message = format!("ids: name 1 to {MOST_NAMED} files, or leave it out for all that failed");
            return Err(Problem::new(StatusCode::BAD_REQUEST, message));
        }
        Some(ids) => {
            let parsed = ids.iter().map(|id| {
                FileId::parse(id.as_str())
                    .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("ids: {error}")))
            });
            let mut files = parsed.collect::<Result<Vec<_>, _>>()?;
            files.sort();
            files.dedup();
            Scope::Files(files.into())
        }
    };
    site.daemon.ask(&name, scope)?;
    accepted(&site, &name)
}

fn accepted(site: &Site, name: &str) -> Answer {
    Ok((StatusCode::ACCEPTED, json(&site.view(name)?)).into_response())
}

#[derive(Serialize)]
struct Runs {
    runs: Vec<RunLine>,
}

/// A run of a job.
#[derive(Serialize)]
struct RunLine {
    job: String,
    /// Nothing where its sums cannot be told; `message` says why.
    result: Option<Verdict>,
    message: Option<String>,
    run: RunSummary,
    sums: Option<Sums>,
    work: Option<Work>,
}

pub(super) async fn runs(State(site): State<Site>, part: Result<Query<Part>, QueryRejection>) -> Answer {
    let part = query(part)?;
    let mut runs = Vec::new();
    let ledgers = ledgers(part.jobs(&site)?).await?;
    for (job, ledger) in &ledgers {
        // A copy and an audit of one pair share a ledger: each run is told once, by the job that is of its kind.
        let others: Vec<_> =
            ledgers.iter().filter(|(_, other)| other.location() == ledger.location()).collect();
        let limit = u32::try_from(part.limit()).unwrap_or(u32::MAX);
        for run in ledger.runs(limit).await? {
            let teller = others.iter().find(|(job, _)| job.kind() == run.kind).or_else(|| others.first());
            if teller.is_some_and(|(teller, _)| teller.name() == job.name()) {
                runs.push(line(job.name(), &**ledger, run).await);
            }
        }
    }
    runs.sort_by_key(|line| std::cmp::Reverse(line.run.started));
    runs.truncate(part.limit());
    Ok(json(&Runs { runs }))
}

/// Opens the ledgers of jobs that have one, copies first.
async fn ledgers(mut jobs: Vec<Arc<Job>>) -> Result<Vec<(Arc<Job>, Arc<dyn Ledger>)>, Problem> {
    jobs.sort_by_key(|job| job.kind() != RunKind::Copy);
    let mut ledgers = Vec::new();
    for job in jobs {
        if let Some(ledger) = job.ledger().await? {
            ledgers.push((job, ledger));
        }
    }
    Ok(ledgers)
}

async fn line(job: &str, ledger: &dyn Ledger, run: RunRecord) -> RunLine {
    match Report::of(ledger, Some(run.id)).await {
        Ok(report) => RunLine {
            job: job.to_owned(),
            result: Some(report.result),
            message: None,
            run: report.run,
            sums: Some(report.sums),
            work: Some(report.work),
        },
        Err(error) => RunLine {
            job: job.to_owned(),
            result: None,
            message: Some(error.to_string()),
            run: run.into(),
            sums: None,
            work: None,
        },
    }
}

pub(super) async fn report(
    State(site): State<Site>,
    place: Result<Path<(String, i64)>, PathRejection>,
) -> Answer {
    let (name, run) = path(place)?;
    let ledger = site.job(&name)?.ledger().await?;
    let missing = || Problem::new(StatusCode::NOT_FOUND, "the job has not run yet");
    let report = Report::of(&*ledger.ok_or_else(missing)?, Some(RunId(run))).await?;
    Ok(json(&report))
}

#[derive(Serialize)]
struct Failures {
    failures: Vec<FailureLine>,
    more: bool,
}

#[derive(Serialize)]
struct FailureLine {
    job: String,
    /// Whether a retry can be about it alone.
    can_retry: bool,
    #[serde(flatten)]
    found: Found,
}

pub(super) async fn failures(State(site): State<Site>, part: Result<Query<Part>, QueryRejection>) -> Answer {
    let part = query(part)?;
    let mut all = Failures { failures: Vec::new(), more: false };
    let mut told = BTreeSet::new();
    for (job, ledger) in ledgers(part.jobs(&site)?).await? {
        if !told.insert(ledger.location().to_owned()) {
            continue;
        }
        let room = part.limit().saturating_sub(all.failures.len());
        let found = current(&*ledger, &[item::State::Failed, item::State::Damaged], room).await?;
        all.more |= found.more;
        let partial = site.view(job.name()).is_ok_and(|view| view.partial);
        all.failures.extend(found.problems.into_iter().map(|found| FailureLine {
            job: job.name().to_owned(),
            can_retry: partial && found.is_file,
            found,
        }));
    }
    Ok(json(&all))
}

#[derive(Serialize)]
struct Files {
    id: String,
    files: Vec<Story>,
}

/// Everything that a job's ledger knows of one file.
#[derive(Serialize)]
struct Story {
    job: String,
    file: Option<FileView>,
    history: Vec<HistoryLine>,
}

#[derive(Serialize)]
struct FileView {
    state: item::State,
    size: u64,
    digest: Option<String>,
    verified: Option<Verified>,
    attempts: u32,
    error: Option<String>,
    open_upload: bool,
    parts_stored: usize,
    run: RunId,
    updated: Timestamp,
}

#[derive(Serialize)]
struct HistoryLine {
    run: RunId,
    #[serde(flatten)]
    outcome: OutcomeRecord,
}

/// Which job; nothing: all that know the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfJob {
    job: Option<String>,
}

pub(super) async fn files(
    State(site): State<Site>,
    id: Result<Path<String>, PathRejection>,
    of: Result<Query<OfJob>, QueryRejection>,
) -> Answer {
    let (id, OfJob { job }) = (path(id)?, query(of)?);
    let mut files = Vec::new();
    for job in (Part { job, limit: None }).jobs(&site)? {
        let Some(ledger) = job.ledger().await? else { continue };
        let story = story(job.name(), &*ledger, &id).await?;
        if story.file.is_some() || !story.history.is_empty() {
            files.push(story);
        }
    }
    Ok(json(&Files { id, files }))
}

async fn story(job: &str, ledger: &dyn Ledger, subject: &str) -> Result<Story, Problem> {
    // An entry that could not be a file has a journal and no row.
    let file = match FileId::parse(subject) {
        Ok(id) => match ledger.file(&id).await? {
            Some(row) => Some(file_view(row, ledger.parts(&id).await?.len())),
            None => None,
        },
        Err(_) => None,
    };
    let history = ledger.history(subject).await?;
    let history = history.into_iter().map(|(run, outcome)| HistoryLine { run, outcome }).collect();
    Ok(Story { job: job.to_owned(), file, history })
}

fn file_view(row: FileRecord, parts_stored: usize) -> FileView {
    FileView {
        state: row.state,
        size: row.size,
        digest: row.digest.map(|digest| digest.to_string()),
        verified: row.verified,
        attempts: row.attempts,
        error: row.error,
        open_upload: row.ticket.is_some(),
        parts_stored,
        run: row.run,
        updated: row.updated,
    }
}

fn path<T>(extracted: Result<Path<T>, PathRejection>) -> Result<T, Problem> {
    match extracted {
        Ok(Path(value)) => Ok(value),
        Err(error) => Err(Problem::new(StatusCode::BAD_REQUEST, error.body_text())),
    }
}

fn query<T>(extracted: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    match extracted {
        Ok(Query(value)) => Ok(value),
        Err(error) => Err(Problem::new(StatusCode::BAD_REQUEST, error.body_text())),
    }
}
