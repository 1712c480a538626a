//! The durable book of what the two sides do not have in common.
//!
//! # Order of effects
//!
//! Take what waits, begin, apply, commit (which syncs the log), bring the index in memory up to date, answer. A
//! crash before the commit forgets changes that nobody was answered; a crash after it forgets none. A caller that
//! goes away meanwhile changes nothing: what was sent is done, and the index says so.
//!
//! All entries are in memory, as every operation asks for its id; their number is bounded by the configuration.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;
use std::time::SystemTime;

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};

use self::place::Lock;
use super::entry::{Entry, Intent, What};
use super::seen::Clock;
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::{FileId, Prefix};
use crate::storage::Capabilities;

mod place;
mod sql;
mod store;

/// Changes that may wait; whoever comes later waits to be let in.
const WAITING: usize = 1024;

/// Changes in one commit.
const GROUP: usize = 512;

/// The storages that a journal is about, by name, and what each can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binding {
    pub(super) primary: String,
    pub(super) secondary: String,
    pub(super) can: (Capabilities, Capabilities),
}

/// Returns what the two storages of a journal were last found capable of; nothing where there is no journal, or none
/// that can be read.
pub(super) fn remembered(path: &Path) -> Option<(Capabilities, Capabilities)> {
    let path = place::resolve(path).ok().filter(|path| path.is_file())?;
    match store::look(&path) {
        Ok(binding) => Some(binding.can),
        Err(failure) => {
            tracing::debug!(?failure, "the journal does not say what its storages can do");
            None
        }
    }
}

/// Tells whether there is a journal, or anything else, at `path`.
pub(super) async fn is_there(path: PathBuf) -> bool {
    let look = move || place::resolve(&path).is_ok_and(|path| path.exists());
    // What is wrong with the path is told by the opening.
    tokio::task::spawn_blocking(look).await.unwrap_or(true)
}

/// A change of the book. Each takes effect whole or not at all.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// Replaces what is said of an id, and ends its intent.
    Put(Arc<Entry>),
    /// The same, and leaves the intent as it is.
    Amend(Arc<Entry>),
    /// Takes back what is said of an id.
    Remove(FileId),
    /// A write to the secondary begins.
    Intend(Arc<Intent>),
    /// It came to nothing.
    DropIntent(FileId),
    /// None: answered when everything sent before is done.
    Nothing,
}

/// Why something failed. A clone goes to each caller that shared a commit.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// Another process uses it.
    Locked(String),
    /// It cannot be used as it is.
    Place(String),
    /// What is in it makes no sense.
    Corrupt(String),
    /// The disk is full.
    Full,
    /// Anything else.
    Other(String),
}

impl Failure {
    fn into_error(self, path: &Path, op: Op) -> Error {
        let (kind, reason) = match self {
            Self::Locked(holder) => {
                (ErrorKind::Misconfigured, format!("is in use by {holder}; one process per journal"))
            }
            Self::Place(reason) => (ErrorKind::Misconfigured, format!("cannot be used: {reason}")),
            Self::Corrupt(reason) => (ErrorKind::Integrity, format!("is damaged: {reason}")),
            Self::Full => (ErrorKind::StorageFull, "cannot be written: the disk is full".to_owned()),
            Self::Other(reason) => (ErrorKind::Other, format!("failed: {reason}")),
        };
        Error::new(kind, op).with_message(format!("the journal {} {reason}", path.display()))
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        let reason = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt(reason),
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                Self::Place(reason)
            }
            Some(_) => Self::Other(reason),
            // A value in a row that this program would not have written.
            None => Self::Corrupt(reason),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::Full,
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                Self::Place(error.to_string())
            }
            _ => Self::Other(error.to_string()),
        }
    }
}

/// What is known of one id.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) entry: Option<Arc<Entry>>,
    pub(super) intent: Option<Arc<Intent>>,
}

#[derive(Debug, Default)]
struct Index {
    entries: BTreeMap<FileId, Arc<Entry>>,
    intents: BTreeMap<FileId, Arc<Intent>>,
}

#[derive(Debug, Default)]
struct Shared {
    index: RwLock<Index>,
    /// Entries and intents, so that an empty book costs one load.
    len: AtomicUsize,
    /// Changes that were sent and are not done.
    in_flight: AtomicUsize,
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, changes: &[Change]) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            match change {
                Change::Put(entry) => {
                    index.intents.remove(&entry.id);
                    index.entries.insert(entry.id.clone(), Arc::clone(entry));
                }
                Change::Amend(entry) => {
                    index.entries.insert(entry.id.clone(), Arc::clone(entry));
                }
                Change::Remove(id) => {
                    index.entries.remove(id);
                }
                Change::Intend(intent) => {
                    index.intents.insert(intent.id.clone(), Arc::clone(intent));
                }
                Change::DropIntent(id) => {
                    index.intents.remove(id);
                }
                Change::Nothing => {}
            }
        }
        self.len.store(index.entries.len() + index.intents.len(), Ordering::Release);
    }
}

struct Job {
    change: Change,
    caller: oneshot::Sender<Result<(), Failure>>,
}

/// How many entries of each kind there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) files: usize,
    pub(super) tombstones: usize,
    pub(super) stale: usize,
    pub(super) conflicts: usize,
    pub(super) intents: usize,
}

/// A journal that is open. Dropping it finishes what waits, and blocks until its thread has put the log back into
/// the database and released the lock.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    shared: Arc<Shared>,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Journal {
    /// Opens the journal at `path`, or makes it. To be called where blocking is allowed.
    ///
    /// Keeps the clock that it returns: with every commit, and at the closing.
    pub(super) fn open(path: &Path, binding: &Binding) -> Result<(Self, Clock)> {
        Self::start(path, binding).map_err(|failure| failure.into_error(path, Op::Open))
    }

    fn start(path: &Path, binding: &Binding) -> Result<(Self, Clock), Failure> {
        let path = place::resolve(path)?;
        let lock = Lock::take(&path)?;
        place::create(&path)?;
        let connection = store::open(&path, binding)?;
        let (entries, intents) = store::load(&connection)?;
        let kept = store::clock(&connection)?;
        let clock = Clock::new(kept);
        let shared = Arc::new(Shared::default());
        let entries = entries.into_iter().map(|entry| Change::Put(Arc::new(entry)));
        let intents = intents.into_iter().map(|intent| Change::Intend(Arc::new(intent)));
        shared.apply(&entries.chain(intents).collect::<Vec<_>>());
        let (jobs, waiting) = mpsc::channel(WAITING);
        let thread = std::thread::Builder::new().name("fallback-journal".to_owned()).spawn({
            let (shared, clock) = (Arc::clone(&shared), clock.clone());
            move || {
                serve(connection, &shared, waiting, &clock, kept);
                drop(lock);
            }
        })?;
        Ok((Self { path, shared, jobs: Some(jobs), thread: Some(thread) }, clock))
    }

    /// Makes a change durable.
    pub(super) async fn record(&self, change: Change, op: Op) -> Result<()> {
        self.send(change).await.map_err(|failure| failure.into_error(&self.path, op))
    }

    /// Waits for changes that were sent by callers who are gone: whoever has an id's turn must see them, or would
    /// decide by what they are about to undo.
    pub(super) async fn quiet(&self, op: Op) -> Result<()> {
        if self.shared.in_flight.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        self.record(Change::Nothing, op).await
    }

    async fn send(&self, change: Change) -> Result<(), Failure> {
        let stopped = || Failure::Other("its writer has stopped".to_owned());
        let (caller, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        let place = jobs.reserve().await.map_err(|_| stopped())?;
        self.shared.in_flight.fetch_add(1, Ordering::AcqRel);
        place.send(Job { change, caller });
        answer.await.map_err(|_| stopped())?
    }

    /// Tells whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of entries and intents.
    pub(super) fn len(&self) -> usize {
        self.shared.len.load(Ordering::Acquire)
    }

    /// Returns what is known of an id.
    pub(super) fn get(&self, id: &FileId) -> Known {
        if self.is_empty() {
            return Known::default();
        }
        let index = self.shared.read();
        Known { entry: index.entries.get(id).cloned(), intent: index.intents.get(id).cloned() }
    }

    /// Returns what is acknowledged of an id.
    pub(super) fn entry(&self, id: &FileId) -> Option<Arc<Entry>> {
        if self.is_empty() { None } else { self.shared.read().entries.get(id).cloned() }
    }

    /// Returns the entries beneath a prefix and behind an id, in order, as they are now.
    pub(super) fn snapshot(&self, prefix: &Prefix, after: Option<&FileId>) -> Vec<Arc<Entry>> {
        if self.is_empty() {
            return Vec::new();
        }
        let from = match after {
            Some(after) if after.as_str() >= prefix.as_str() => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix.as_str()),
        };
        let index = self.shared.read();
        let entries = index.entries.range::<str, _>((from, Bound::Unbounded));
        entries.take_while(|(id, _)| prefix.matches(id)).map(|(_, entry)| Arc::clone(entry)).collect()
    }

    /// Returns the ids that something is known of, in the order in which they are to be replayed: deletions before
    /// files, so that `a/b` can follow where `a` was.
    pub(super) fn ids(&self) -> Vec<FileId> {
        let index = self.shared.read();
        let rank = |id: &FileId| match index.entries.get(id).map(|entry| &entry.what) {
            Some(What::Tombstone) => 0,
            Some(What::Stale) => 1,
            Some(What::File(_)) | None => 2,
        };
        let mut ids: Vec<_> = index.entries.keys().chain(index.intents.keys()).cloned().collect();
        ids.sort_unstable_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.cmp(b)));
        ids.dedup();
        ids
    }

    /// Returns the entries that could not be replayed.
    pub(super) fn conflicts(&self) -> Vec<Arc<Entry>> {
        self.shared.read().entries.values().filter(|entry| entry.clash.is_some()).cloned().collect()
    }

    /// Counts what is in it.
    pub(super) fn counts(&self) -> Counts {
        let index = self.shared.read();
        let mut counts = Counts { intents: index.intents.len(), ..Counts::default() };
        for entry in index.entries.values() {
            match entry.what {
                What::File(_) => counts.files += 1,
                What::Tombstone => counts.tombstones += 1,
                What::Stale => counts.stale += 1,
            }
            counts.conflicts += usize::from(entry.clash.is_some());
        }
        counts
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has failed its callers already.
            drop(thread.join());
        }
    }
}

/// `kept` is what the database says of the clock.
fn serve(
    mut connection: Connection,
    shared: &Shared,
    mut waiting: mpsc::Receiver<Job>,
    clock: &Clock,
    mut kept: Option<SystemTime>,
) {
    let mut commit = |connection: &mut Connection, changes: &[Change]| {
        let seen = clock.seen();
        let new = seen.filter(|_| seen != kept);
        let result = store::commit(connection, changes, new);
        if result.is_ok() {
            kept = seen;
        }
        result
    };
    while let Some(first) = waiting.blocking_recv() {
        let mut group = vec![first];
        while group.len() < GROUP {
            let Ok(next) = waiting.try_recv() else { break };
            group.push(next);
        }
        let (changes, callers): (Vec<_>, Vec<_>) =
            group.into_iter().map(|job| (job.change, job.caller)).unzip();
        let result = commit(&mut connection, &changes);
        if result.is_ok() {
            shared.apply(&changes);
        }
        shared.in_flight.fetch_sub(changes.len(), Ordering::AcqRel);
        for caller in callers {
            // A caller that is gone needs no answer.
            drop(caller.send(result.clone()));
        }
    }
    // What was seen of the clock is worth a commit, and its loss costs doubts only.
    if let Err(failure) = commit(&mut connection, &[]) {
        tracing::debug!(?failure, "how far the primary's clock has come was not kept");
    }
    // Nothing is lost where this fails: the log is read at the next opening.
    let truncated = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    if let Err(error) = truncated.and(connection.close().map_err(|(_, error)| error)) {
        tracing::warn!(%error, "the log of the fallback's journal was not put back at its closing");
    }
}
