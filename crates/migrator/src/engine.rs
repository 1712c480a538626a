//! Runs: plan, copy, sync, verify and cleanup, from the first entry of the scan to the last row of the ledger.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use storage_core::checksum::Digest;
use storage_core::id::FileId;
use storage_core::metadata::FileMetadata;
use storage_core::storage::{Capabilities, FileStorage};
use tokio_util::sync::CancellationToken;

use crate::collide::{Clashes, Folding, Search, Twins};
use crate::filter::Filter;
use crate::item::State;
use crate::ledger::{FileFilter, FileRecord, Ledger, LedgerError, RunEnd, RunId, Tally};
use crate::order::Order;
use crate::plan::{Decision, Gate, Merge, MergeError, Obstacle, SAME_NAME, Step, Summary, decide};
use crate::progress::{Progress, Snapshot};
use crate::retire::Attic;
use crate::rules::Rules;
use crate::safeguard::Refusal;
use crate::scan::{self, Entry};
use crate::throttle::Bandwidth;
use crate::verify::Claim;

pub use self::copy::copy;
use self::recorder::{Recorder, Recording};
use self::rehearsal::InTarget;
pub use self::rehearsal::{Action, Foretold, Rehearsed, Tell, rehearse, would_remove};
pub use self::sweep::{Cleaned, cleanup, rehearse_cleanup};
pub use self::sync::{Removal, SyncOptions, sync};
pub use self::verify::verify;

mod ahead;
mod copy;
mod crew;
mod delete;
mod emptying;
mod memory;
mod ordered;
mod proving;
mod recorder;
mod rehearsal;
mod retire;
mod sampling;
mod sweep;
mod sync;
mod verify;
mod worker;

/// Files in a row that fail because the target is out of reach before a run gives up.
const OUTAGE_LIMIT: u32 = 16;

/// What a run works with.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Job {
    /// Read only.
    pub source: Arc<dyn FileStorage>,
    /// Written to by copies.
    pub target: Arc<dyn FileStorage>,
    /// Which file system the source is on, where it is on one: equal as long as the same one is mounted there.
    pub source_place: Option<String>,
    /// The source's path and where its file system is mounted, in words, where it is a directory: for a refusal.
    pub source_path: Option<String>,
    /// Whether the files of the source are all that shows that it is there, as of a prefix on a server: a name that is not
    /// right then looks like an empty source. Default: no.
    pub source_shows_by_files: bool,
    /// Whether the target is a directory that is to make no links and no directories of objects that stand for such: they
    /// fail instead of becoming empty files. Default: no.
    pub only_files: bool,
    /// Whether objects that stand for directories are part of the run. Default: no; then a sync leaves those in the target
    /// alone that an earlier run has made.
    pub directories: bool,
    /// Which names the target takes for one; default: none. Where it does, the source is listed up to twice before the
    /// first file, and none of such names is copied.
    pub folding: Folding,
    /// Where files of the source may have been moved away to, by runs of whichever pair: nothing is removed from the target
    /// while this ledger does not know of all of them. Default: nowhere, as nothing can be moved away in other sources.
    pub moved_away: Option<Arc<dyn Attic>>,
    /// The book of this pair.
    pub ledger: Arc<dyn Ledger>,
    /// Which files.
    pub filter: Filter,
    /// The files that a copy is about, in ascending order and each once: the source is asked for each, and nothing is
    /// listed, so that what failed or has just changed is dealt with at the cost of itself. Nothing (the default): all.
    /// An audit is about all files.
    pub only: Option<Arc<[FileId]>>,
    /// Numbers for whoever watches.
    pub progress: Progress,
    /// Settings that the report is to show beside those of the options, each by its name: nothing else is done
    /// with them.
    pub settings: BTreeMap<String, String>,
    /// Cancelled when the run is to stop: what is in flight has 8 seconds to end, the rest is not begun.
    pub stop: CancellationToken,
}

impl Job {
    /// Makes a job over all files that nobody watches or stops.
    pub fn new(source: Arc<dyn FileStorage>, target: Arc<dyn FileStorage>, ledger: Arc<dyn Ledger>) -> Self {
        Self {
            source,
            target,
            source_place: None,
            source_path: None,
            source_shows_by_files: false,
            only_files: false,
            directories: false,
            folding: Folding::default(),
            moved_away: None,
            ledger,
            filter: Filter::default(),
            only: None,
            progress: Progress::new(),
            settings: BTreeMap::new(),
            stop: CancellationToken::new(),
        }
    }
}

impl Job {
    /// Starts what takes the outcomes of a run into the ledger.
    fn recorder(&self, run: RunId) -> (Recorder, Recording) {
        Recorder::start(Arc::clone(&self.ledger), run, self.progress.clone(), self.stop.child_token())
    }
}

/// How a copy works.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CopyOptions {
    /// Requests at a time, 1 to 256; default 8.
    pub concurrency: NonZeroU32,
    /// Part buffers at a time, at most as many; default: as many. Memory is about this times the part size.
    pub part_buffers: Option<NonZeroU32>,
    /// Bytes per part, and the greatest file that is sent in one request; default 16 MiB: large enough that a
    /// request's overhead is noise, small enough that little is sent again.
    pub part_size: NonZeroU64,
    /// Bytes per second read from the source; default: no limit.
    pub bandwidth: Option<Bandwidth>,
    /// Attempts per file and run; default 3.
    pub attempts: NonZeroU32,
    /// In which order files are copied; default: as the source lists them, by name. In every other order copying begins
    /// once the source was listed whole.
    pub order: Order,
    /// What files are given whose names match; default: what they have in the source.
    pub rules: Rules,
    /// Read back and compare what the target did not compare itself; default: yes. Without it such a file is told as
    /// unverified, and the next copy compares it.
    pub compare: bool,
    /// Accept a source without any entry although the ledger holds files of it. Default: no, as it is rather a
    /// directory that is not mounted.
    pub allow_empty_source: bool,
    /// Move files of the source to quarantine once they are in the target and were verified again; default: no.
    pub retirement: Option<Retirement>,
}

impl CopyOptions {
    /// Returns the defaults for a target that is a directory: 32 small files at a time, as one sync of its file system
    /// serves all that wait for one, and memory as for other targets.
    pub fn into_a_directory() -> Self {
        let options = Self::default();
        let many = options.concurrency.saturating_mul(const { NonZeroU32::MIN.saturating_add(3) });
        Self { part_buffers: Some(options.concurrency), concurrency: many, ..options }
    }

    /// Sets the requests, and with them the part buffers, at a time.
    #[must_use]
    pub fn with_concurrency(self, concurrency: NonZeroU32) -> Self {
        Self { concurrency, part_buffers: None, ..self }
    }
}

impl Default for CopyOptions {
    fn default() -> Self {
        const fn or_one(number: Option<NonZeroU32>) -> NonZeroU32 {
            match number {
                Some(number) => number,
                None => NonZeroU32::MIN,
            }
        }
        Self {
            concurrency: const { or_one(NonZeroU32::new(8)) },
            part_buffers: None,
            part_size: const { NonZeroU64::MIN.saturating_add((16 << 20) - 1) },
            bandwidth: None,
            attempts: const { or_one(NonZeroU32::new(3)) },
            order: Order::default(),
            rules: Rules::default(),
            compare: true,
            allow_empty_source: false,
            retirement: None,
        }
    }
}

/// How files of the source are moved away once they are in the target.
#[derive(Clone, Debug)]
pub struct Retirement {
    /// The source's quarantine.
    pub attic: Arc<dyn Attic>,
    /// How long they stay there. A week, usually, in which somebody misses them.
    pub quarantine: Duration,
    /// Read every byte of the target right before; default: only where nothing else proves them.
    pub read_back: bool,
}

/// What an audit looks at.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifyOptions {
    /// Read every byte of the target. Default: no; then its checksums are trusted where it has been shown that
    /// they can be, and a copy that was not written since it was compared counts as it was then.
    pub read_back: bool,
    /// As for copies; default 8.
    pub concurrency: Option<NonZeroU32>,
    /// Bytes per second read back; default: no limit.
    pub bandwidth: Option<Bandwidth>,
    /// Read every byte of the source as well, and compare it with what was copied. Default: no; then a source that
    /// rotted on its disk, where nothing else tells it, is not found.
    pub read_source: bool,
    /// As for copies; default: no.
    pub allow_empty_source: bool,
}

/// A run that came to an end; everything else about it is in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its number.
    pub run: RunId,
    /// How.
    pub end: RunEnd,
}

/// Why a run could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The source cannot be used at all.
    #[error("source: {0}")]
    Source(#[source] storage_core::error::Error),
    /// The target cannot be used at all.
    #[error("target: {0}")]
    Target(#[source] storage_core::error::Error),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The source has no entry at all, although the ledger holds files of it.
    #[error("the source is empty, and the ledger holds {files} files of it")]
    EmptySource {
        /// That the ledger does not hold as gone already.
        files: u64,
        /// What would become of the target's files were the source accepted as empty; nothing: they would stay.
        removal: Option<Removal>,
    },
    /// The source has no entry at all, and nobody has ever seen one in it: a name that is not right looks alike.
    #[error("the source has nothing, and this ledger never saw anything in it")]
    NothingThere,
    /// A safeguard refused; what is in the target stays.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The system has no thread or descriptor left.
    #[error("cannot start the threads of the run: {0}")]
    Threads(#[source] std::io::Error),
    /// A part of the program ended early: a defect.
    #[error("internal error: {0}")]
    Internal(String),
}

impl From<MergeError> for EngineError {
    fn from(error: MergeError) -> Self {
        match error {
            MergeError::Source(error) => Self::Source(error),
            MergeError::Ledger(error) => Self::Ledger(error),
        }
    }
}

/// Counts what a copy would do, and writes nothing anywhere but temporary files of its own. Without a ledger, everything is
/// new. Where names are alike, the source is listed twice, and where the target takes them for one, once more. A target
/// that cannot have `a` and `a/b`, or takes names for one, is listed as well where it is given as `held`, for what it has in
/// the way of the source's.
///
/// # Errors
/// [`EngineError::Source`] and [`EngineError::Ledger`], when either cannot be read to its end.
pub async fn plan(
    source: &dyn FileStorage,
    target: &Capabilities,
    held: Option<&dyn FileStorage>,
    folding: Folding,
    ledger: Option<&dyn Ledger>,
    filter: &Filter,
    list_at_most: usize,
) -> Result<Summary, EngineError> {
    let rows: BoxStream<'static, Result<FileRecord, LedgerError>> = match ledger {
        Some(ledger) => ledger.files(FileFilter::default()),
        None => stream::empty().boxed(),
    };
    // Where they are one name to the target they must be known before the first decision.
    let known = if folding.any() { Some(twins(source, ledger, filter).await?) } else { None };
    let held = held.filter(|_| !target.nested_ids || folding.any());
    let mut held = held.map(|held| InTarget::new(held, target));
    let mut gate = Gate::new(target.clone(), Clashes::of(known.as_deref().unwrap_or_default(), folding));
    let mut search = Search::new().map_err(no_room)?;
    let mut merge = Merge::new(scan::entries(source, filter.clone()), rows);
    let mut summary = Summary::default();
    while let Some(step) = merge.next().await? {
        if let Step::Entry(Entry::File(file), _) = &step
            && known.is_none()
        {
            search.add(&file.id).map_err(no_room)?;
        }
        let obstacle = match (&step, &mut held) {
            (Step::Entry(Entry::File(file), row), Some(held)) => {
                obstacle(file, row.as_deref(), held, folding).await?
            }
            _ => None,
        };
        summary.add(step, &mut gate, obstacle, list_at_most);
    }
    summary.twins = match known {
        Some(twins) => twins,
        None => look_again(source, None, filter, search).await?,
    };
    Ok(summary)
}

/// Says what a target has in the way of a file that would be sent.
async fn obstacle(
    file: &FileMetadata,
    row: Option<&FileRecord>,
    held: &mut InTarget<'_>,
    folding: Folding,
) -> Result<Option<Obstacle>, EngineError> {
    let decision = decide(file, row);
    let sent = !matches!(decision, Decision::Unchanged | Decision::Confirm);
    if held.at(&file.id).await?.is_some() || !sent {
        return Ok(None);
    }
    if let Some(obstacle) = held.in_the_way(&file.id).await {
        return Ok(Some(obstacle));
    }
    // What was copied before may be there in another form of its own name.
    let alias = folding.any() && decision == Decision::New && held.takes_for_another(&file.id).await;
    let detail = "the target takes it for the name of another file that it has, which a copy would replace";
    Ok(alias.then(|| (SAME_NAME, detail.to_owned())))
}

fn no_room(error: std::io::Error) -> EngineError {
    EngineError::Internal(format!("temporary files: {error}"))
}

/// Finds the names that a target takes for one.
async fn clashes(
    source: &dyn FileStorage,
    ledger: &dyn Ledger,
    filter: &Filter,
    folding: Folding,
) -> Result<Clashes, EngineError> {
    if !folding.any() {
        return Ok(Clashes::default());
    }
    Ok(Clashes::of(&twins(source, Some(ledger), filter).await?, folding))
}

/// Finds names that are alike, also those of files that were moved away from the source, where a ledger has such.
async fn twins(
    source: &dyn FileStorage,
    ledger: Option<&dyn Ledger>,
    filter: &Filter,
) -> Result<Vec<Twins>, EngineError> {
    let mut search = Search::new().map_err(no_room)?;
    let mut names = names(source, ledger, filter);
    while let Some(name) = names.try_next().await? {
        search.add(&name).map_err(no_room)?;
    }
    look_again(source, ledger, filter, search).await
}

/// The second round of a search, where it has anything to find.
async fn look_again(
    source: &dyn FileStorage,
    ledger: Option<&dyn Ledger>,
    filter: &Filter,
    search: Search,
) -> Result<Vec<Twins>, EngineError> {
    let mut suspects = search.suspects().map_err(no_room)?;
    if !suspects.is_empty() {
        let mut names = names(source, ledger, filter);
        while let Some(name) = names.try_next().await? {
            suspects.look(&name);
        }
    }
    Ok(suspects.twins())
}

/// The names that may get into each other's way in the target: a copy whose file was moved away must not be replaced.
fn names(
    source: &dyn FileStorage,
    ledger: Option<&dyn Ledger>,
    filter: &Filter,
) -> BoxStream<'static, Result<FileId, EngineError>> {
    let files = scan::entries(source, filter.clone()).filter_map(async |entry| match entry {
        Ok(Entry::File(file)) => Some(Ok(file.id)),
        Ok(_) => None,
        Err(error) => Some(Err(EngineError::Source(error))),
    });
    let Some(ledger) = ledger else { return files.boxed() };
    let moved = ledger.files(FileFilter::default()).filter_map(async |row| match row {
        Ok(row) => (row.state == State::Retired || row.retired.is_some()).then_some(Ok(row.id)),
        Err(error) => Some(Err(EngineError::Ledger(error))),
    });
    files.chain(moved).boxed()
}

/// Counts bytes where they pass, failed attempts included; `before` is where the run began.
fn with_bytes(mut tally: Tally, progress: &Progress, before: &Snapshot) -> Tally {
    let now = progress.snapshot();
    tally.bytes_read = now.bytes_read.saturating_sub(before.bytes_read);
    tally.bytes_sent = now.bytes_sent.saturating_sub(before.bytes_sent);
    tally
}

/// What the ledger says of a file's bytes.
fn claim_of(row: &FileRecord, digest: Digest) -> Claim {
    let compared = row.target_version.clone().zip(row.verified);
    Claim { size: row.size, digest, composite: row.composite, compared }
}

/// Ends a run in the ledger; what the run failed with counts before what the ledger says to its end.
async fn close(
    job: &Job,
    run: RunId,
    tally: Tally,
    scanned_to: Option<FileId>,
    scan_complete: bool,
    failure: Option<EngineError>,
) -> Result<Ended, EngineError> {
    let end = match (&failure, job.stop.is_cancelled()) {
        (Some(_), _) => RunEnd::Aborted,
        (None, true) => RunEnd::Interrupted,
        (None, false) => RunEnd::Complete,
    };
    let closed = async {
        job.ledger.checkpoint(run, tally, scanned_to).await?;
        job.ledger.finish_run(run, end, tally, scan_complete).await
    };
    let closed = closed.await;
    match failure {
        Some(failure) => Err(failure),
        None => closed.map(|()| Ended { run, end }).map_err(EngineError::Ledger),
    }
}

/// Opens source and ledger side by side, of the files that the job names.
fn open_merge_of(job: &Job, only: &Arc<[FileId]>) -> Merge {
    let ledger = Arc::clone(&job.ledger);
    let rows = stream::iter(named(only))
        .then(move |id| {
            let ledger = Arc::clone(&ledger);
            async move { ledger.file(&id).await.transpose() }
        })
        .filter_map(async |row| row);
    Merge::new(scan::named(&job.source, job.filter.clone(), named(only)), rows.boxed())
}

fn named(only: &Arc<[FileId]>) -> impl Iterator<Item = FileId> + Send + use<> {
    let only = Arc::clone(only);
    (0..only.len()).filter_map(move |index| only.get(index).cloned())
}

/// Opens source and ledger side by side.
fn open_merge(job: &Job) -> Merge {
    Merge::new(scan::entries(&*job.source, job.filter.clone()), job.ledger.files(FileFilter::default()))
}

/// An empty source is rather one that is not mounted: nothing is then taken for gone.
async fn refuse_empty_source(merge: &mut Merge, job: &Job) -> Result<(), EngineError> {
    if !merge.source_is_empty().await? {
        return Ok(());
    }
    let held = job.ledger.state_counts().await?;
    if job.source_shows_by_files && held.values().all(|count| count.files == 0) {
        return Err(EngineError::NothingThere);
    }
    // What this program has moved away is not missing.
    let missing = |state: &State| !matches!(state, State::Gone | State::Retired);
    let files = held.iter().filter(|(state, _)| missing(state)).map(|(_, count)| count.files).sum();
    if files > 0 { Err(EngineError::EmptySource { files, removal: None }) } else { Ok(()) }
}
