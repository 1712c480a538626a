//! The API. Its description is `openapi.json`.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use storage_core::id::FileId;

use crate::daemon::Scope;
use crate::daemon::job::Job;
use crate::daemon::job::view::View;
use crate::item;
use crate::ledger::{Ledger, RunId, RunKind, RunRecord};
use crate::report::failures::{Place, Problem as Found, current, explain};
use crate::report::story::Story;
use crate::report::{Report, RunSummary, RunTotals, Sums, Verdict, Work, files, html};
use crate::web::Site;
use crate::web::answer::{Problem, json, order};

/// Entries of a list, unless the request says otherwise.
const USUAL: usize = 20;

/// Entries of a list at most.
const MOST: usize = 500;

/// Files that are named in a retry at most.
const MOST_NAMED: usize = 10_000;

type Answer = Result<Response, Problem>;

fn limit(asked: Option<usize>) -> usize {
    asked.unwrap_or(USUAL).min(MOST)
}

impl Site {
    /// Returns the jobs that are meant: one, or all.
    fn meant(&self, job: Option<&str>) -> Result<Vec<Arc<Job>>, Problem> {
        match job {
            Some(name) => Ok(vec![self.job(name)?]),
            None => Ok(self.daemon.jobs()),
        }
    }

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

/// Which runs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunsAsked {
    job: Option<String>,
    limit: Option<usize>,
    /// Only those that began before.
    before: Option<Timestamp>,
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

pub(super) async fn runs(
    State(site): State<Site>,
    asked: Result<Query<RunsAsked>, QueryRejection>,
) -> Answer {
    let RunsAsked { job, limit: most, before } = query(asked)?;
    let limit = limit(most);
    let ledgers = ledgers(site.meant(job.as_deref())?).await?;
    let mut found = Vec::new();
    for (job, ledger) in &ledgers {
        // A copy and an audit of one pair share a ledger: each run is told once, by the job that is of its kind. None is
        // a cleanup's.
        let others: Vec<_> = ledgers
            .iter()
            .filter(|(job, other)| job.kind().is_some() && other.location() == ledger.location())
            .collect();
        for run in ledger.runs(u32::try_from(limit).unwrap_or(u32::MAX), before).await? {
            let teller =
                others.iter().find(|(job, _)| job.kind() == Some(run.kind)).or_else(|| others.first());
            if teller.is_some_and(|(teller, _)| teller.name() == job.name()) {
                found.push((job, ledger, run));
            }
        }
    }
    found.sort_by_key(|(_, _, run)| std::cmp::Reverse(run.started));
    found.truncate(limit);
    let mut runs = Vec::with_capacity(found.len());
    for (job, ledger, run) in found {
        runs.push(line(&site, job.name(), &**ledger, run).await);
    }
    Ok(json(&Runs { runs }))
}

/// Opens the ledgers of jobs that have one, copies first, then syncs.
async fn ledgers(mut jobs: Vec<Arc<Job>>) -> Result<Vec<(Arc<Job>, Arc<dyn Ledger>)>, Problem> {
    // What failed is told by the job that can try it again.
    jobs.sort_by_key(|job| match job.kind() {
        Some(RunKind::Copy) => 0,
        Some(RunKind::Sync) => 1,
        Some(RunKind::Verify) => 2,
        None => 3,
    });
    let mut ledgers = Vec::new();
    for job in jobs {
        if let Some(ledger) = job.ledger().await? {
            ledgers.push((job, ledger));
        }
    }
    Ok(ledgers)
}

async fn line(site: &Site, job: &str, ledger: &dyn Ledger, run: RunRecord) -> RunLine {
    let job = job.to_owned();
    match site.totals.of(ledger, run.clone()).await {
        Ok(RunTotals { result, run, sums, work }) => {
            RunLine { job, result: Some(result), message: None, run, sums: Some(sums), work: Some(work) }
        }
        Err(error) => RunLine {
            job,
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

/// Which failures.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FailuresAsked {
    job: Option<String>,
    limit: Option<usize>,
    /// As `next` of the part before.
    after: Option<String>,
}

/// A report to look at. It reads all rows of the ledger, so that one is made at a time.
pub(super) async fn page(
    State(site): State<Site>,
    place: Result<Path<(String, i64)>, PathRejection>,
) -> Answer {
    let (name, run) = path(place)?;
    let ledger = site.job(&name)?.ledger().await?;
    let missing = || Problem::new(StatusCode::NOT_FOUND, "the job has not run yet");
    let _alone = site.reporting.lock().await;
    let page = files::page(&*ledger.ok_or_else(missing)?, Some(RunId(run))).await?;
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CONTENT_SECURITY_POLICY, format!("{}; frame-ancestors 'none'", html::policy())),
    ];
    Ok((headers, page).into_response())
}

#[derive(Serialize)]
struct Failures {
    failures: Vec<FailureLine>,
    more: bool,
    /// What to ask for as `after`; nothing where there are no more.
    next: Option<String>,
}

#[derive(Serialize)]
struct FailureLine {
    job: String,
    /// Whether a retry can be about it alone.
    can_retry: bool,
    #[serde(flatten)]
    found: Found,
}

/// Where a list of failures goes on, as the next request says it: `JOB/RUN/SUBJECT`, and 0 for no run.
struct Cursor {
    job: String,
    place: Place,
}

impl Cursor {
    fn parse(text: &str) -> Result<Self, Problem> {
        let wrong = || Problem::new(StatusCode::BAD_REQUEST, "after: it is `next` of the answer before");
        let mut parts = text.splitn(3, '/');
        let (Some(job), Some(run), Some(subject)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(wrong());
        };
        let run: i64 = run.parse().map_err(|_| wrong())?;
        let run = Some(RunId(run)).filter(|run| run.0 > 0);
        Ok(Self { job: job.to_owned(), place: Place { run, subject: subject.to_owned() } })
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let run = self.place.run.map_or(0, |run| run.0);
        write!(f, "{}/{run}/{}", self.job, self.place.subject)
    }
}

pub(super) async fn failures(
    State(site): State<Site>,
    asked: Result<Query<FailuresAsked>, QueryRejection>,
) -> Answer {
    let FailuresAsked { job, limit: most, after } = query(asked)?;
    let limit = limit(most);
    let mut after = after.as_deref().map(Cursor::parse).transpose()?;
    let mut all = Failures { failures: Vec::new(), more: false, next: None };
    let mut told = BTreeSet::new();
    for (job, ledger) in ledgers(site.meant(job.as_deref())?).await? {
        if !told.insert(ledger.location().to_owned()) {
            continue;
        }
        // What comes before the job that the part before ended in has been told.
        let behind = match after.take() {
            Some(cursor) if cursor.job != job.name() => {
                after = Some(cursor);
                continue;
            }
            cursor => cursor.map(|cursor| cursor.place),
        };
        let room = limit.saturating_sub(all.failures.len());
        let states = [item::State::Failed, item::State::Damaged];
        let mut found = current(&*ledger, &states, room, behind.as_ref()).await?;
        explain(&*ledger, &mut found.problems).await?;
        let partial = site.view(job.name()).is_ok_and(|view| view.partial);
        all.failures.extend(found.problems.into_iter().map(|found| FailureLine {
            job: job.name().to_owned(),
            can_retry: partial && found.is_file,
            found,
        }));
        if let Some(place) = found.next {
            all.more = true;
            all.next = Some(Cursor { job: job.name().to_owned(), place }.to_string());
            break;
        }
    }
    Ok(json(&all))
}

#[derive(Serialize)]
struct Files {
    id: String,
    files: Vec<FileStory>,
}

/// Everything that a job's ledger knows of one file.
#[derive(Serialize)]
struct FileStory {
    job: String,
    #[serde(flatten)]
    story: Story,
}

/// Which job; nothing: all that know the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfJob {
    job: Option<String>,
}

pub(super) async fn file(
    State(site): State<Site>,
    id: Result<Path<String>, PathRejection>,
    of: Result<Query<OfJob>, QueryRejection>,
) -> Answer {
    let (id, OfJob { job }) = (path(id)?, query(of)?);
    let mut files = Vec::new();
    for job in site.meant(job.as_deref())? {
        let Some(ledger) = job.ledger().await? else { continue };
        let story = Story::find(&*ledger, &id).await?;
        if story.is_known() {
            files.push(FileStory { job: job.name().to_owned(), story });
        }
    }
    Ok(json(&Files { id, files }))
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
