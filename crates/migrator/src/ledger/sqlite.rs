//! The ledger in one SQLite file.
//!
//! One process writes: it holds the lock beside the file, and one thread of it makes the changes, so that
//! calls made at the same time share a commit (`writer`). Anyone may read meanwhile, in this process or in
//! another ([`SqliteLedger::open_read_only`]).
//!
//! Order of effects at opening: lock -> make the file -> look whether it is a ledger -> write-ahead log ->
//! schema and pair in one transaction. Each gap leaves an empty database, which the next creation takes over.
//! Dropping the ledger finishes what was submitted, puts the log back and releases the lock, in this order.

mod changes;
mod connection;
mod failure;
mod place;
mod readers;
mod rows;
mod runs;
mod sql;
mod sync;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;
use rusqlite::Connection;
use storage_core::checksum::Digest;
use storage_core::id::FileId;
use storage_core::storage::{Capabilities, PartReceipt, UploadTicket};

use self::connection::{Kind, View};
use self::failure::Failure;
use self::place::{Found, Lock, Stamp};
use self::readers::Readers;
use self::writer::Writer;
use crate::course::Course;
use crate::item::State;
use crate::ledger::{
    Attempt, Binding, Candidate, Change, Count, FileFilter, FileRecord, Ledger, LedgerError, Outcome,
    OutcomeRecord, ProofRecord, Recorded, Result, RunEnd, RunId, RunKind, RunRecord, Tally,
};

/// Whether opening may make a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Makes the ledger, and its directory, where there is none.
    Create,
    /// The ledger must exist.
    Existing,
}

/// A [`Ledger`] in one SQLite file. Only its owner can read it: names of files are users' data.
///
/// While it is open there are `-wal` and `-shm` beside it, which belong to it: whoever copies a ledger copies
/// all three, or closes it first. Dropping it blocks until everything is in the one file and the lock is free.
#[derive(Debug)]
pub struct SqliteLedger {
    location: String,
    binding: Binding,
    readers: Arc<Readers>,
    writer: Option<Writer>,
    /// Of a ledger that is read as a file that nobody changes.
    stamp: Option<(PathBuf, Stamp)>,
}

impl SqliteLedger {
    /// Opens the ledger at `path` for reading and writing, and brings an older schema to this release's.
    ///
    /// # Errors
    /// - [`LedgerError::Locked`]: another process, or this one, has it open.
    /// - [`LedgerError::OtherPair`]: it is about other storages than `binding`.
    /// - [`LedgerError::Missing`]: there is none, with [`OpenMode::Existing`].
    /// - [`LedgerError::Newer`], [`LedgerError::Corrupt`], [`LedgerError::ReadOnly`], [`LedgerError::Full`].
    pub async fn open(path: impl AsRef<Path>, binding: &Binding, mode: OpenMode) -> Result<Self> {
        let binding = binding.clone();
        in_background(path.as_ref(), move |path| {
            let (path, connection, lock) = open_writable(path, &binding, mode)?;
            Ok((path, View::Live, binding, Opened::Writer(connection, lock)))
        })
        .await
    }

    /// Opens the ledger at `path` for reading, whoever else has it open. Everything that writes is then refused
    /// with [`LedgerError::ReadOnly`].
    ///
    /// # Errors
    /// [`LedgerError::Missing`], [`LedgerError::Newer`], [`LedgerError::Corrupt`]; [`LedgerError::Other`] where
    /// the schema is older than this release's, which only a writer may change.
    pub async fn open_read_only(path: impl AsRef<Path>) -> Result<Self> {
        in_background(path.as_ref(), |path| {
            if place::look(path)? == Found::Nothing {
                return Err(Failure::Missing);
            }
            let path = place::resolve(path)?;
            let (connection, view) = connection::open_read_only(&path)?;
            let binding = connection::read_binding(&connection)?;
            Ok((path, view, binding, Opened::Reader(connection)))
        })
        .await
    }

    /// Opens the ledger at `path` for reading, and makes nothing beside it, as other readers do. Whoever uses what was read
    /// asks [`check_unchanged`](Self::check_unchanged) afterwards.
    ///
    /// # Errors
    /// [`LedgerError::Locked`]: somebody writes it. Those of [`open_read_only`](Self::open_read_only).
    pub async fn open_unchanging(path: impl AsRef<Path>) -> Result<Self> {
        let mut ledger = in_background(path.as_ref(), |path| {
            if place::look(path)? == Found::Nothing {
                return Err(Failure::Missing);
            }
            let path = place::resolve(path)?;
            let stamp = Stamp::of(&path)?;
            if let Some(holder) = place::holder(&path)? {
                return Err(Failure::Locked(holder));
            }
            let (connection, view) = connection::open_unchanging(&path)?;
            let binding = connection::read_binding(&connection)?;
            Ok((path, view, binding, Opened::Frozen(connection, stamp)))
        })
        .await?;
        if ledger.readers.view() == View::Live {
            ledger.stamp = None;
        }
        Ok(ledger)
    }

    /// Refuses what was read of a ledger that somebody has written since [`open_unchanging`](Self::open_unchanging).
    ///
    /// # Errors
    /// [`LedgerError::Locked`].
    pub async fn check_unchanged(&self) -> Result<()> {
        let Some((path, before)) = self.stamp.clone() else { return Ok(()) };
        let now = tokio::task::spawn_blocking(move || Stamp::of(&path)).await;
        match now {
            Ok(Ok(now)) if now == before => Ok(()),
            _ => Err(self.readers.name(Failure::Locked("a run that began meanwhile".to_owned()))),
        }
    }

    /// Returns who writes the ledger at `path`, where somebody does; nobody also where there is none. Changes nothing.
    ///
    /// # Errors
    /// [`LedgerError::Other`]: its lock cannot be looked at.
    pub async fn holder(path: impl AsRef<Path>) -> Result<Option<String>> {
        let (path, location) = (path.as_ref().to_owned(), path.as_ref().display().to_string());
        let name = location.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let look = || match place::look(&path)? {
                Found::Nothing => Ok(None),
                Found::Empty | Found::File => place::holder(&place::resolve(&path)?),
            };
            look().map_err(|failure: Failure| failure.into_error(&path, &name))
        });
        looked.await.unwrap_or_else(|error| {
            Err(LedgerError::Other { location, reason: format!("a look at its lock did not end: {error}") })
        })
    }

    fn writer(&self) -> Result<&Writer> {
        self.writer
            .as_ref()
            .ok_or_else(|| self.readers.name(Failure::ReadOnly("it was opened for reading only".to_owned())))
    }

    async fn write<T: Send + 'static>(
        &self,
        weight: usize,
        work: impl FnMut(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T> {
        self.writer()?.submit(weight, work).await.map_err(|failure| self.readers.name(failure))
    }
}

impl Drop for SqliteLedger {
    fn drop(&mut self) {
        // The last connection to close is the writer's, which then leaves the one file alone.
        self.readers.close_idle();
        self.writer = None;
    }
}

enum Opened {
    Writer(Connection, Lock),
    Reader(Connection),
    Frozen(Connection, Stamp),
}

async fn in_background(
    path: &Path,
    open: impl FnOnce(&Path) -> Result<(PathBuf, View, Binding, Opened), Failure> + Send + 'static,
) -> Result<SqliteLedger> {
    let location = path.display().to_string();
    let asked = path.to_owned();
    let task = tokio::task::spawn_blocking(move || {
        let name = |failure: Failure| failure.into_error(&asked, &location);
        let (path, view, binding, opened) = open(&asked).map_err(name)?;
        let readers = Readers::new(path.clone(), location.clone(), view);
        let (mut writer, mut stamp) = (None, None);
        match opened {
            Opened::Writer(connection, lock) => {
                writer = Some(Writer::start(connection, lock).map_err(name)?);
            }
            Opened::Reader(connection) => readers.put(connection),
            Opened::Frozen(connection, found) => {
                readers.put(connection);
                stamp = Some((path, found));
            }
        }
        Ok(SqliteLedger { location, binding, readers, writer, stamp })
    });
    match task.await {
        Ok(result) => result,
        Err(error) => Err(LedgerError::Other {
            location: path.display().to_string(),
            reason: format!("opening did not end: {error}"),
        }),
    }
}

fn open_writable(
    path: &Path,
    binding: &Binding,
    mode: OpenMode,
) -> Result<(PathBuf, Connection, Lock), Failure> {
    match mode {
        OpenMode::Create => place::create_directory(path)?,
        OpenMode::Existing if place::look(path)? == Found::Nothing => return Err(Failure::Missing),
        OpenMode::Existing => {}
    }
    let path = place::resolve(path)?;
    let lock = Lock::take(&path)?;
    match (place::look(&path)?, mode) {
        (Found::Nothing, OpenMode::Create) => place::create_file(&path)?,
        (Found::Nothing, OpenMode::Existing) => return Err(Failure::Missing),
        (Found::Empty | Found::File, _) => {}
    }
    let mut connection = connection::open_writer(&path)?;
    let kind = connection::inspect(&connection)?;
    // SQLite opens for reading what it may not write.
    if connection.is_readonly("main")? {
        return Err(Failure::ReadOnly("permission denied".to_owned()));
    }
    match (kind, mode) {
        (Kind::Blank, OpenMode::Existing) => {
            return Err(Failure::Corrupt("its tables are missing".to_owned()));
        }
        (Kind::Blank, OpenMode::Create) => {}
        (Kind::Ledger(_), _) => {
            let found = connection::read_binding(&connection)?;
            if found != *binding {
                return Err(Failure::OtherPair(Box::new((found, binding.clone()))));
            }
        }
    }
    connection::prepare_writer(&connection)?;
    connection::migrate(&mut connection, sql::MIGRATIONS, kind, binding)?;
    Ok((path, connection, lock))
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Ledger for SqliteLedger {
    fn location(&self) -> &str {
        &self.location
    }

    fn binding(&self) -> &Binding {
        &self.binding
    }

    async fn begin_run(&self, kind: RunKind, program: &str) -> Result<RunId> {
        let program = program.to_owned();
        self.write(1, move |connection| runs::begin(connection, kind, &program)).await
    }

    async fn checkpoint(&self, run: RunId, tally: Tally, scanned_to: Option<FileId>) -> Result<()> {
        self.write(1, move |connection| runs::checkpoint(connection, run, &tally, scanned_to.as_ref())).await
    }

    async fn finish_run(&self, run: RunId, end: RunEnd, tally: Tally, scan_complete: bool) -> Result<()> {
        self.write(1, move |connection| runs::finish(connection, run, end, &tally, scan_complete)).await
    }

    async fn run(&self, run: Option<RunId>) -> Result<Option<RunRecord>> {
        self.readers.run(run).await
    }

    async fn runs(&self, limit: u32, before: Option<Timestamp>) -> Result<Vec<RunRecord>> {
        self.readers.runs(limit, before).await
    }

    async fn record(&self, run: RunId, changes: Vec<Change>) -> Result<Vec<Recorded>> {
        self.write(changes.len(), move |connection| changes::apply_all(connection, run, &changes)).await
    }

    async fn file(&self, id: &FileId) -> Result<Option<FileRecord>> {
        self.readers.file(id).await
    }

    fn files(&self, filter: FileFilter) -> BoxStream<'static, Result<FileRecord>> {
        self.readers.files(filter)
    }

    async fn parts(&self, id: &FileId) -> Result<Vec<PartReceipt>> {
        self.readers.parts(id).await
    }

    async fn orphans(&self) -> Result<Vec<UploadTicket>> {
        self.readers.orphans().await
    }

    async fn forget_orphan(&self, ticket: &UploadTicket) -> Result<()> {
        let ticket = ticket.clone();
        self.write(1, move |connection| changes::forget_orphan(connection, &ticket)).await
    }

    fn outcomes(&self, run: RunId) -> BoxStream<'static, Result<OutcomeRecord>> {
        self.readers.outcomes(run, sql::OUTCOMES_PAGE)
    }

    fn left_undone(&self, run: RunId) -> BoxStream<'static, Result<OutcomeRecord>> {
        self.readers.outcomes(run, sql::LEFT_UNDONE_PAGE)
    }

    async fn outcome_counts(&self, run: RunId) -> Result<BTreeMap<Outcome, Count>> {
        self.readers.outcome_counts(run).await
    }

    async fn unrecorded(&self, run: RunId) -> Result<Count> {
        self.readers.unrecorded(run).await
    }

    async fn reason_counts(&self, run: RunId) -> Result<Vec<(Outcome, String, u64)>> {
        self.readers.reason_counts(run).await
    }

    async fn history(&self, subject: &str) -> Result<Vec<(RunId, OutcomeRecord)>> {
        self.readers.history(subject).await
    }

    async fn attempts(&self, id: &FileId) -> Result<Vec<Attempt>> {
        self.readers.attempts(id).await
    }

    async fn note_course(&self, run: RunId, course: Course) -> Result<()> {
        self.write(1, move |connection| runs::note_course(connection, run, &course)).await
    }

    async fn course(&self, run: RunId) -> Result<Option<Course>> {
        self.readers.course(run).await
    }

    async fn note_proof(&self, run: RunId, previous: Option<Digest>, head: Digest) -> Result<Recorded> {
        self.write(1, move |connection| runs::note_proof(connection, run, previous, head)).await
    }

    async fn proof(&self, run: Option<RunId>) -> Result<Option<ProofRecord>> {
        self.readers.proof(run).await
    }

    async fn state_counts(&self) -> Result<BTreeMap<State, Count>> {
        self.readers.state_counts().await
    }

    async fn clear_candidates(&self) -> Result<()> {
        self.write(1, sync::clear).await
    }

    async fn add_candidates(&self, candidates: Vec<Candidate>) -> Result<()> {
        self.write(candidates.len(), move |connection| sync::add(connection, &candidates)).await
    }

    fn candidates(&self) -> BoxStream<'static, Result<Candidate>> {
        self.readers.candidates()
    }

    async fn source_place(&self) -> Result<Option<String>> {
        self.readers.source_place().await
    }

    async fn set_source_place(&self, place: &str) -> Result<()> {
        let place = place.to_owned();
        self.write(1, move |connection| sync::set_source_place(connection, &place)).await
    }

    async fn target_capabilities(&self) -> Result<Option<Capabilities>> {
        self.readers.target_capabilities().await
    }

    async fn set_target_capabilities(&self, capabilities: &Capabilities) -> Result<()> {
        let capabilities = capabilities.clone();
        self.write(1, move |connection| sync::set_target_capabilities(connection, &capabilities)).await
    }
}
