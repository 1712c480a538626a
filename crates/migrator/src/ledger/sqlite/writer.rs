//! The one thread that writes. Whatever waits when it looks up shares one commit.
//!
//! Order of effects: take what waits -> begin -> each job within its own savepoint -> commit, which syncs the
//! log -> answer. A job that is refused undoes its savepoint and leaves the others alone. A crash before the
//! commit forgets jobs that nobody was answered; a crash after it forgets none. An answer that cannot be
//! delivered (the caller was dropped) changes nothing: the job stays done.

use std::fmt;
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::failure::Failure;
use super::place::Lock;

/// Jobs that may wait; whoever comes later waits to be let in.
const WAITING: usize = 1024;

/// Changes in one commit. Bounds the log's growth and the time that the first caller waits for the last.
const GROUP: usize = 4096;

/// A unit of work that takes effect whole or not at all.
trait Job: Send {
    /// Returns how many changes it makes, for the bound of a commit.
    fn weight(&self) -> usize;
    /// Does the work, within a transaction.
    fn run(&mut self, connection: &Connection) -> Result<(), Failure>;
    /// Tells the caller.
    fn answer(self: Box<Self>, result: Result<(), Failure>);
}

struct Task<W, T> {
    weight: usize,
    work: W,
    value: Option<T>,
    caller: oneshot::Sender<Result<T, Failure>>,
}

impl<W, T> Job for Task<W, T>
where
    W: FnMut(&Connection) -> Result<T, Failure> + Send,
    T: Send,
{
    fn weight(&self) -> usize {
        self.weight
    }

    fn run(&mut self, connection: &Connection) -> Result<(), Failure> {
        self.value = Some((self.work)(connection)?);
        Ok(())
    }

    fn answer(self: Box<Self>, result: Result<(), Failure>) {
        let Self { value, caller, .. } = *self;
        // A caller that is gone needs no answer.
        drop(caller.send(result.and_then(|()| value.ok_or_else(stopped))));
    }
}

fn stopped() -> Failure {
    Failure::Other("its writer has stopped".to_owned())
}

/// Handle of the writer's thread. Dropping it finishes what waits, and blocks until the thread has put the log
/// back into the database and released the lock.
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(connection: Connection, lock: Lock) -> Result<Self, Failure> {
        let (jobs, waiting) = mpsc::channel(WAITING);
        let thread = std::thread::Builder::new().name("ledger".to_owned()).spawn(move || {
            serve(&connection, waiting);
            close(connection);
            drop(lock);
        })?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Does `work` in a transaction and returns when it is durable.
    pub(super) async fn submit<T, W>(&self, weight: usize, work: W) -> Result<T, Failure>
    where
        W: FnMut(&Connection) -> Result<T, Failure> + Send + 'static,
        T: Send + 'static,
    {
        let (caller, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(Box::new(Task { weight, work, value: None, caller })).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has failed its callers already.
            drop(thread.join());
        }
    }
}

fn serve(connection: &Connection, mut waiting: mpsc::Receiver<Box<dyn Job>>) {
    while let Some(first) = waiting.blocking_recv() {
        let mut weight = first.weight();
        let mut group = vec![first];
        while weight < GROUP {
            let Ok(next) = waiting.try_recv() else { break };
            weight += next.weight();
            group.push(next);
        }
        commit(connection, group);
    }
}

fn commit(connection: &Connection, group: Vec<Box<dyn Job>>) {
    let mut done = Vec::with_capacity(group.len());
    let mut refused = Vec::new();
    let mut lost = execute(connection, "BEGIN IMMEDIATE").err();
    for mut job in group {
        if lost.is_some() {
            done.push(job);
            continue;
        }
        match within_savepoint(connection, job.as_mut()) {
            Ok(Ok(())) => done.push(job),
            Ok(Err(failure)) => refused.push((job, failure)),
            Err(failure) => {
                lost = Some(failure);
                done.push(job);
            }
        }
    }
    let result = match lost {
        None => execute(connection, "COMMIT"),
        Some(failure) => Err(failure),
    };
    if result.is_err()
        && !connection.is_autocommit()
        && let Err(failure) = execute(connection, "ROLLBACK")
    {
        tracing::warn!(?failure, "the ledger could not roll back");
    }
    for (job, failure) in refused {
        job.answer(Err(failure));
    }
    for job in done {
        job.answer(result.clone());
    }
}

/// Runs a job. The outer error ends the whole transaction, the inner one is the job's own.
fn within_savepoint(connection: &Connection, job: &mut dyn Job) -> Result<Result<(), Failure>, Failure> {
    execute(connection, "SAVEPOINT job")?;
    let result = job.run(connection);
    if let Err(failure) = &result {
        // Some errors (a full disk) have rolled everything back.
        if connection.is_autocommit() {
            return Err(failure.clone());
        }
        execute(connection, "ROLLBACK TO job")?;
    }
    execute(connection, "RELEASE job")?;
    Ok(result)
}

fn execute(connection: &Connection, statement: &str) -> Result<(), Failure> {
    connection.prepare_cached(statement)?.execute([])?;
    Ok(())
}

/// Puts the log back into the database, so that a single file is left. Nothing is lost where that fails: the
/// log is read at the next opening.
fn close(connection: Connection) {
    let truncated = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    let closed = connection.close().map_err(|(_, error)| error);
    if let Err(error) = truncated.and(closed) {
        tracing::warn!(%error, "the ledger's log was not put back at its closing");
    }
}
