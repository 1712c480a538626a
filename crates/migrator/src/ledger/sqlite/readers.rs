//! Connections that read, and the queries on them. A page is a short transaction of its own, so that the log
//! can be put back while someone reads on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Params, Row, named_params};
use storage_core::id::FileId;
use storage_core::storage::{Capabilities, PartReceipt, UploadTicket};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinHandle};

use super::connection::{View, open_reader};
use super::failure::Failure;
use super::{rows, sql};
use crate::course::Course;
use crate::item::State;
use crate::ledger::{
    Attempt, Candidate, Count, FileFilter, FileRecord, LedgerError, Outcome, OutcomeRecord, ProofRecord,
    Result, RunId, RunRecord,
};

/// Rows that a stream reads ahead: some hundred kilobytes.
const PAGE: u32 = 1000;

/// Connections at a time. Reads are short; more would only hold file descriptors.
const CONNECTIONS: usize = 4;

/// Where a stream of pages is.
enum Pages<T> {
    /// Nothing was asked for yet.
    First(String),
    Next(Reading<Page<T>>),
    End,
}

/// The rows of a page, and where the next one begins.
type Page<T> = (Vec<T>, Option<String>);

/// A page that is being read, until nobody waits for it any more.
struct Reading<T>(JoinHandle<Result<T>>);

impl<T> Drop for Reading<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A small pool of reading connections, each used by one blocking thread at a time.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    location: String,
    view: View,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    /// Makes a pool that has no connection yet.
    pub(super) fn new(path: PathBuf, location: String, view: View) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        Arc::new(Self { path, location, view, idle: Mutex::default(), permits })
    }

    /// Returns how they see the database.
    pub(super) const fn view(&self) -> View {
        self.view
    }

    /// Closes the connections that nobody uses at the moment.
    pub(super) fn close_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Puts a connection into the pool.
    pub(super) fn put(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }

    /// Names the ledger in a failure.
    pub(super) fn name(&self, failure: Failure) -> LedgerError {
        failure.into_error(&self.path, &self.location)
    }

    /// Runs a query on a thread that may block. Dropped, it finishes there unheard.
    async fn read<T, Q>(self: &Arc<Self>, query: Q) -> Result<T>
    where
        T: Send + 'static,
        Q: FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    {
        let readers = Arc::clone(self);
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let idle = readers.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let result = idle
                .map_or_else(|| open_reader(&readers.path, readers.view), Ok)
                .and_then(|connection| Ok((query(&connection)?, connection)));
            match result {
                Ok((value, connection)) => {
                    readers.put(connection);
                    Ok(value)
                }
                Err(failure) => Err(readers.name(failure)),
            }
        });
        match task.await {
            Ok(result) => result,
            Err(error) => Err(self.unended(&error)),
        }
    }

    fn unended(&self, error: &JoinError) -> LedgerError {
        self.name(Failure::Other(format!("a query did not end: {error}")))
    }

    pub(super) async fn run(self: &Arc<Self>, run: Option<RunId>) -> Result<Option<RunRecord>> {
        self.read(move |connection| {
            let run = run.map(|run| run.0);
            let mut statement = connection.prepare_cached(sql::RUN)?;
            Ok(statement.query_row(named_params! { ":run": run }, rows::run).optional()?)
        })
        .await
    }

    pub(super) async fn runs(
        self: &Arc<Self>,
        limit: u32,
        before: Option<Timestamp>,
    ) -> Result<Vec<RunRecord>> {
        self.read(move |connection| {
            let params = named_params! { ":limit": limit, ":before": before.map(rows::nanoseconds) };
            all(connection, sql::RUNS, params, rows::run)
        })
        .await
    }

    pub(super) async fn file(self: &Arc<Self>, id: &FileId) -> Result<Option<FileRecord>> {
        let id = id.clone();
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(sql::FILE)?;
            Ok(statement.query_row(named_params! { ":id": id.as_str() }, rows::file).optional()?)
        })
        .await
    }

    pub(super) fn files(self: &Arc<Self>, filter: FileFilter) -> BoxStream<'static, Result<FileRecord>> {
        let states = (!filter.states.is_empty()).then(|| rows::join_states(filter.states));
        let after = filter.after.map_or_else(String::new, |id| id.as_str().to_owned());
        self.pages(after, move |connection, after| {
            let params = named_params! { ":after": after, ":states": states, ":limit": PAGE };
            let page: Vec<FileRecord> = all(connection, sql::FILES_PAGE, params, rows::file)?;
            let last = page.last().map(|file| file.id.as_str().to_owned());
            Ok((page, last))
        })
    }

    /// Streams a run's journal by `statement`, which yields it whole or in part.
    pub(super) fn outcomes(
        self: &Arc<Self>,
        run: RunId,
        statement: &'static str,
    ) -> BoxStream<'static, Result<OutcomeRecord>> {
        self.pages(String::new(), move |connection, from| {
            let params = named_params! { ":run": run.0, ":from": from, ":limit": PAGE };
            let page: Vec<OutcomeRecord> = all(connection, statement, params, rows::outcome_record)?;
            // The least text behind another is that text and a NUL.
            let next = page.last().map(|record| format!("{}\0", record.subject));
            Ok((page, next))
        })
    }

    /// Streams the rows of pages, each of which begins where the one before says; a short page is the last. The next
    /// page is read while the present one is consumed.
    fn pages<T, Q>(self: &Arc<Self>, first: String, query: Q) -> BoxStream<'static, Result<T>>
    where
        T: Send + 'static,
        Q: Fn(&Connection, &str) -> Result<(Vec<T>, Option<String>), Failure> + Send + Sync + 'static,
    {
        let (readers, query) = (Arc::clone(self), Arc::new(query));
        let this = Arc::clone(self);
        let read = move |from: String| {
            let (readers, query) = (Arc::clone(&this), Arc::clone(&query));
            async move { readers.read(move |connection| query(connection, &from)).await }
        };
        stream::try_unfold(Pages::First(first), move |coming| {
            let (read, readers) = (read.clone(), Arc::clone(&readers));
            async move {
                let (page, next) = match coming {
                    Pages::First(from) => read(from).await?,
                    Pages::Next(mut reading) => match (&mut reading.0).await {
                        Ok(page) => page?,
                        Err(error) => return Err(readers.unended(&error)),
                    },
                    Pages::End => return Ok(None),
                };
                let next = next.filter(|_| page.len() >= PAGE as usize);
                let coming = next.map_or(Pages::End, |from| Pages::Next(Reading(tokio::spawn(read(from)))));
                Ok::<_, LedgerError>(Some((stream::iter(page.into_iter().map(Ok)), coming)))
            }
        })
        .try_flatten()
        .boxed()
    }

    pub(super) async fn parts(self: &Arc<Self>, id: &FileId) -> Result<Vec<PartReceipt>> {
        let id = id.clone();
        self.read(move |connection| {
            all(connection, sql::PARTS, named_params! { ":id": id.as_str() }, rows::part)
        })
        .await
    }

    pub(super) async fn orphans(self: &Arc<Self>) -> Result<Vec<UploadTicket>> {
        self.read(|connection| all(connection, sql::ORPHANS, (), rows::orphan)).await
    }

    pub(super) async fn outcome_counts(self: &Arc<Self>, run: RunId) -> Result<BTreeMap<Outcome, Count>> {
        self.read(move |connection| {
            all(connection, sql::OUTCOME_COUNTS, named_params! { ":run": run.0 }, |row| {
                Ok((rows::outcome(row)?, count(row)?))
            })
        })
        .await
    }

    pub(super) async fn unrecorded(self: &Arc<Self>, run: RunId) -> Result<Count> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(sql::UNRECORDED)?;
            Ok(statement.query_row(named_params! { ":run": run.0 }, count).optional()?.unwrap_or_default())
        })
        .await
    }

    pub(super) async fn reason_counts(self: &Arc<Self>, run: RunId) -> Result<Vec<(Outcome, String, u64)>> {
        self.read(move |connection| {
            all(connection, sql::REASON_COUNTS, named_params! { ":run": run.0 }, |row| {
                Ok((rows::outcome(row)?, row.get("reason")?, row.get::<_, i64>("number")?.unsigned_abs()))
            })
        })
        .await
    }

    pub(super) async fn history(self: &Arc<Self>, subject: &str) -> Result<Vec<(RunId, OutcomeRecord)>> {
        let subject = subject.to_owned();
        self.read(move |connection| {
            all(connection, sql::HISTORY, named_params! { ":subject": subject }, |row| {
                Ok((RunId(row.get("run")?), rows::outcome_record(row)?))
            })
        })
        .await
    }

    pub(super) async fn attempts(self: &Arc<Self>, id: &FileId) -> Result<Vec<Attempt>> {
        let id = id.clone();
        self.read(move |connection| {
            all(connection, sql::ATTEMPTS, named_params! { ":id": id.as_str() }, rows::attempt)
        })
        .await
    }

    pub(super) async fn course(self: &Arc<Self>, run: RunId) -> Result<Option<Course>> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(sql::COURSE)?;
            Ok(statement.query_row(named_params! { ":run": run.0 }, rows::course).optional()?)
        })
        .await
    }

    pub(super) async fn proof(self: &Arc<Self>, run: Option<RunId>) -> Result<Option<ProofRecord>> {
        self.read(move |connection| {
            let run = run.map(|run| run.0);
            let mut statement = connection.prepare_cached(sql::PROOF)?;
            Ok(statement.query_row(named_params! { ":run": run }, rows::proof).optional()?)
        })
        .await
    }

    pub(super) fn candidates(self: &Arc<Self>) -> BoxStream<'static, Result<Candidate>> {
        self.pages(String::new(), |connection, after| {
            let params = named_params! { ":after": after, ":limit": PAGE };
            let page: Vec<Candidate> = all(connection, sql::CANDIDATES_PAGE, params, rows::candidate)?;
            let last = page.last().map(|candidate| candidate.id.as_str().to_owned());
            Ok((page, last))
        })
    }

    pub(super) async fn source_place(self: &Arc<Self>) -> Result<Option<String>> {
        self.read(|connection| {
            Ok(connection.prepare_cached(sql::SOURCE_PLACE)?.query_row((), |row| row.get(0))?)
        })
        .await
    }

    pub(super) async fn target_capabilities(self: &Arc<Self>) -> Result<Option<Capabilities>> {
        self.read(|connection| {
            let json: Option<String> =
                connection.prepare_cached(sql::TARGET_CAPABILITIES)?.query_row((), |row| row.get(0))?;
            // What another version wrote and this one cannot read is asked anew.
            Ok(json.and_then(|json| serde_json::from_str(&json).ok()))
        })
        .await
    }

    pub(super) async fn state_counts(self: &Arc<Self>) -> Result<BTreeMap<State, Count>> {
        self.read(|connection| {
            all(connection, sql::STATE_COUNTS, (), |row| Ok((rows::state(row, "state")?, count(row)?)))
        })
        .await
    }
}

/// Reads number and bytes from the second and third column.
fn count(row: &Row<'_>) -> rusqlite::Result<Count> {
    Ok(Count { files: row.get::<_, i64>(1)?.unsigned_abs(), bytes: row.get::<_, i64>(2)?.unsigned_abs() })
}

fn all<T, C: FromIterator<T>>(
    connection: &Connection,
    statement: &str,
    params: impl Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<C, Failure> {
    let mut statement = connection.prepare_cached(statement)?;
    let rows = statement.query_map(params, read)?;
    Ok(rows.collect::<rusqlite::Result<C>>()?)
}
