//! Two storages as one: what the primary misses in an outage goes to the secondary, and comes back.
//!
//! | operation | primary answers | primary is out |
//! |---|---|---|
//! | upload | primary (and a replica) | secondary and journal |
//! | download, metadata | primary; a miss is an answer, or the secondary is asked ([`OnMiss`](config::OnMiss)) | journalled: secondary; else a replica, or the outage |
//! | delete | primary (and a replica) | tombstone in the journal |
//! | list | primary and journal merged, on request the secondary too | a replica and the journal; of a spare what was written since, ended by the outage |
//! | copy | the primary's own | read the newest, upload as above |
//! | presigned URL | of the side with the newest version | the same: a URL outlives an outage |
//! | uploads in parts | primary | the outage |
//! | probe | primary | secondary, as writes are taken |
//!
//! An outage is [`Error::is_outage`] and nothing else: `Denied` and `NotFound` are answers, and never fall back. Each
//! side has a breaker and a deadline of its own, so that a side that hangs fails, whatever is around it.
//!
//! An id that the journal names is served from where its newest version is, whatever else is in reach. The orders of
//! effects and their gaps are at the heads of `write.rs` and `heal.rs`.
//!
//! **Versions.** A version that callers see is the primary's own token, or that of the secondary with a mark, so that
//! neither is taken for the other's. A heal gives a file a new version; a precondition that names the old one fails,
//! and nothing is lost.
//!
//! **Processes.** A journal belongs to one process and one pair of storages; a second process is told who holds it.
//! Several processes over one primary need journals, and secondaries or prefixes of them, of their own: each serves
//! its own degraded writes until they are healed.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;

use self::config::{FallbackConfig, OnOutage, Role};
use self::event::{Conflict, Events, FallbackEvent, HealReport, Keep};
use self::journal::{Binding, Change, Journal};
use self::seen::Seen;
use self::side::{Side, is_outage};
use self::turns::Turns;
use self::urls::Urls;
use super::breaker::State;
use super::metered::names;
use crate::body::Body;
use crate::error::{Effect, Error, ErrorKind, Op, Result};
use crate::id::{FileId, Prefix};
use crate::metadata::FileMetadata;
use crate::storage::{
    Capabilities, Download, DownloadOptions, FileStorage, ListOptions, Precondition, PresignMethod,
    PresignRequest, PresignedUrl, Receipt, ResumableUpload, UploadOptions,
};

pub mod config;
mod copy;
mod delete;
mod entry;
pub mod event;
mod heal;
mod journal;
mod listing;
mod parts;
mod read;
mod seen;
mod settle;
mod side;
mod turns;
mod urls;
mod write;

/// Two storages as one; see the [module](self). A clone is a handle on the same pair.
///
/// The journal is closed, and its lock released, when the last handle and the last listing are dropped.
#[derive(Clone)]
pub struct FallbackStorage {
    inner: Arc<Inner>,
}

impl fmt::Debug for FallbackStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackStorage")
            .field("primary", self.inner.primary.storage())
            .field("secondary", self.inner.secondary.storage())
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}

struct Inner {
    config: FallbackConfig,
    primary: Arc<Side>,
    secondary: Arc<Side>,
    capabilities: Capabilities,
    journal: Journal,
    turns: Turns,
    seen: Seen,
    urls: Urls,
    events: Events,
    /// One heal at a time.
    healing: tokio::sync::Mutex<()>,
}

/// What the two sides do not have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pending {
    /// Files whose newest version is on the secondary.
    pub files: usize,
    /// Deletions that the primary has missed.
    pub tombstones: usize,
    /// Copies on the secondary that are not used until they are refreshed or removed.
    pub stale: usize,
    /// Of all these, those that await [`resolve`](FallbackStorage::resolve).
    pub conflicts: usize,
    /// Writes to the secondary of which it is not known whether they took place.
    pub open: usize,
}

impl FallbackStorage {
    /// Puts two storages together and opens the journal, with whatever an earlier process left in it.
    ///
    /// # Errors
    /// [`Misconfigured`](ErrorKind::Misconfigured): the configuration contradicts itself, the sides have one name,
    /// the journal cannot be used, is about another pair, or is in use, by whom is said; or it is new although the
    /// spare holds files, as when the disk of the journal is not mounted: they are writes of an outage, which nobody
    /// would be served and nothing would bring to the primary.
    pub async fn open(
        primary: Arc<dyn FileStorage>,
        secondary: Arc<dyn FileStorage>,
        config: FallbackConfig,
    ) -> Result<Self> {
        Self::open_with(primary, secondary, config, Events::default()).await
    }

    /// As [`open`](Self::open), and tells `observer` what happens. It is called where things happen, and must not
    /// block.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub async fn open_observed(
        primary: Arc<dyn FileStorage>,
        secondary: Arc<dyn FileStorage>,
        config: FallbackConfig,
        observer: impl Fn(&FallbackEvent) + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::open_with(primary, secondary, config, Events::to(observer)).await
    }

    async fn open_with(
        primary: Arc<dyn FileStorage>,
        secondary: Arc<dyn FileStorage>,
        config: FallbackConfig,
        events: Events,
    ) -> Result<Self> {
        config.validate().map_err(|error| error.with_storage(&config.name))?;
        if primary.name() == secondary.name() {
            return Err(Error::new(ErrorKind::Misconfigured, Op::Open)
                .with_storage(&config.name)
                .with_message(format!("both sides are named {:?}: give one another name", primary.name())));
        }
        let capabilities = together(&primary.capabilities(), &secondary.capabilities(), config.role);
        let binding = Binding {
            primary: primary.name().to_owned(),
            secondary: secondary.name().to_owned(),
            can: (primary.capabilities(), secondary.capabilities()),
        };
        if config.role == Role::Spare && !journal::is_there(config.journal.clone()).await {
            nobodys_files(&*secondary).await.map_err(|error| error.with_storage(&config.name))?;
        }
        let (path, spool) = (config.journal.clone(), config.spool_directory().to_owned());
        let open = move || {
            if !spool.is_dir() {
                return Err(Error::new(ErrorKind::Misconfigured, Op::Open).with_message(format!(
                    "fallback: {} is no directory: see spool and journal",
                    spool.display()
                )));
            }
            Journal::open(&path, &binding)
        };
        let (journal, clock) = tokio::task::spawn_blocking(open)
            .await
            .map_err(|error| Error::new(ErrorKind::Other, Op::Open).with_source(error))?
            .map_err(|error| error.with_storage(&config.name))?;
        let side =
            |storage| Side::new(storage, config.deadline, config.breaker, events.clone()).map(Arc::new);
        let (primary, secondary) = (side(primary)?, side(secondary)?);
        let seen = Seen::new(clock, config.clock_margin);
        let inner = Inner {
            config,
            primary,
            secondary,
            capabilities,
            journal,
            turns: Turns::default(),
            seen,
            urls: Urls::default(),
            events,
            healing: tokio::sync::Mutex::new(()),
        };
        inner.show();
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Returns what primary and secondary of the journal at `path` were last found capable of: for a service that
    /// starts while one of them is out and cannot be asked. Nothing where there is no journal that says so.
    pub async fn remembered(path: impl Into<PathBuf>) -> Option<(Capabilities, Capabilities)> {
        let path = path.into();
        tokio::task::spawn_blocking(move || journal::remembered(&path)).await.ok()?
    }

    /// Brings to each side what it has missed, as far as that is possible now. Files that fail are in the report.
    pub async fn heal(&self) -> HealReport {
        self.inner.heal().await
    }

    /// Heals in the background until `shutdown` is ready. A heal that is under way is dropped then, which leaves
    /// nothing that the next one does not find.
    pub async fn run(&self, shutdown: impl Future<Output = ()> + Send) {
        let rounds = async {
            loop {
                tokio::time::sleep(self.inner.config.heal_every).await;
                self.inner.round().await;
            }
        };
        tokio::select! {
            () = shutdown => {}
            () = rounds => {}
        }
    }

    /// Heals in the background, on the present runtime, until the last handle is dropped. One that is dropped in the
    /// middle of a heal is closed, and its lock released, when that has ended. See [`run`](Self::run) for a task that
    /// ends when it is told to.
    pub fn heal_while_in_use(&self) {
        let (inner, interval) = (Arc::downgrade(&self.inner), self.inner.config.heal_every);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(interval).await;
                let Some(inner) = inner.upgrade() else { return };
                inner.round().await;
            }
        });
    }

    /// Counts what the two sides do not have in common.
    pub fn pending(&self) -> Pending {
        let counts = self.inner.journal.counts();
        Pending {
            files: counts.files,
            tombstones: counts.tombstones,
            stale: counts.stale,
            conflicts: counts.conflicts,
            open: counts.intents,
        }
    }

    /// Returns the writes that could not be replayed.
    pub fn conflicts(&self) -> Vec<Conflict> {
        self.inner.journal.conflicts().iter().filter_map(|entry| Conflict::of(entry)).collect()
    }

    /// Ends a conflict: what is not kept is replaced. Any unconditional upload or deletion of the id ends it too, but
    /// not one with a precondition, which is about ours alone, and an upload in parts cannot be finished before.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound): there is none; [`VersionMismatch`](ErrorKind::VersionMismatch): the
    /// primary's file has changed again; those of the sides, and the conflict is no more, but the file awaits its
    /// healing.
    pub async fn resolve(&self, id: &FileId, keep: Keep) -> Result<()> {
        self.inner.resolve(id, keep).await
    }

    /// Returns the states of the breakers of primary and secondary.
    pub fn circuits(&self) -> (State, State) {
        (self.inner.primary.state(), self.inner.secondary.state())
    }
}

/// How long a spare may take to say whether it holds a file.
const LOOK: Duration = Duration::from_secs(10);

/// Refuses a spare whose files no journal knows. One that cannot be asked is taken: a service must start in its outage.
async fn nobodys_files(spare: &dyn FileStorage) -> Result<()> {
    let mut files = spare.list(&Prefix::all(), ListOptions::default());
    match tokio::time::timeout(LOOK, files.next()).await {
        Ok(None) => Ok(()),
        Ok(Some(Ok(file))) => {
            Err(Error::new(ErrorKind::Misconfigured, Op::Open).with_id(&file.id).with_message(format!(
                "the journal is new and the spare {} holds files: name the journal that knows them; where that is lost, \
                 move them out of the spare, as the primary may not have them",
                spare.name()
            )))
        }
        Ok(Some(Err(error))) => {
            tracing::warn!(%error, "whether the spare holds files that the new journal does not know is not known");
            Ok(())
        }
        Err(_) => {
            tracing::warn!("whether the spare holds files that the new journal does not know is not known: it hangs");
            Ok(())
        }
    }
}

/// What both can do. Whatever one side refuses is refused from the start, so that an outage changes nothing.
fn together(primary: &Capabilities, secondary: &Capabilities, role: Role) -> Capabilities {
    let least = |a: Option<u32>, b: Option<u32>| a.into_iter().chain(b).min();
    Capabilities {
        conditional_create: primary.conditional_create && secondary.conditional_create,
        conditional_replace: primary.conditional_replace && secondary.conditional_replace,
        conditional_delete: primary.conditional_delete && secondary.conditional_delete,
        verifies_sha256: primary.verifies_sha256 && secondary.verifies_sha256,
        composite_sha256: primary.composite_sha256,
        tags: primary.tags && secondary.tags,
        presigned_get: primary.presigned_get && secondary.presigned_get,
        // What a URL writes reaches the primary alone.
        presigned_put: primary.presigned_put && role == Role::Spare,
        resumable: primary.resumable,
        nested_ids: primary.nested_ids && secondary.nested_ids,
        read_only: primary.read_only,
        max_segment_bytes: least(primary.max_segment_bytes, secondary.max_segment_bytes),
        max_id_bytes: least(primary.max_id_bytes, secondary.max_id_bytes),
        max_size: primary.max_size.into_iter().chain(secondary.max_size).min(),
    }
}

/// What is known of two calls together.
fn worst(one: Effect, other: Effect) -> Effect {
    match (one, other) {
        (Effect::Unknown, _) | (_, Effect::Unknown) => Effect::Unknown,
        (Effect::Applied, _) | (_, Effect::Applied) => Effect::Applied,
        (Effect::None, Effect::None) => Effect::None,
    }
}

/// The one error for "neither side could": it names both.
fn both_out(inner: &Inner, op: Op, id: Option<&FileId>, primary: Error, secondary: Error) -> Error {
    let effect = worst(primary.effect(), secondary.effect());
    let error = Error::new(ErrorKind::Unavailable, op)
        .with_storage(&inner.config.name)
        .with_message(format!("neither side could: {primary}; {secondary}"))
        .with_effect(effect)
        .with_source(primary);
    match id {
        Some(id) => error.with_id(id),
        None => error,
    }
}

impl Inner {
    fn error(&self, kind: ErrorKind, op: Op, id: &FileId) -> Error {
        Error::new(kind, op).with_id(id).with_storage(&self.config.name)
    }

    async fn record(&self, change: Change, op: Op) -> Result<()> {
        self.journal.record(change, op).await.map_err(|error| error.with_storage(&self.config.name))
    }

    /// Records what follows from a write that took place: without the row it may yet be undone, or not be seen.
    async fn record_after_write(&self, change: Change, op: Op) -> Result<()> {
        self.record(change, op).await.map_err(|error| error.with_effect(Effect::Unknown))
    }

    /// Refuses what every storage refuses, before anything is journalled about it.
    fn check_write(&self, id: &FileId, op: Op) -> Result<()> {
        if id.is_reserved() {
            let error = self.error(ErrorKind::InvalidInput, op, id);
            return Err(error.with_message("the id is reserved for the storage itself"));
        }
        if self.capabilities.read_only {
            let error = self.error(ErrorKind::Denied, op, id);
            return Err(error.with_message("the primary is opened for reading only"));
        }
        Ok(())
    }

    /// Refuses what one of the two sides could not keep.
    fn check_fits(&self, id: &FileId, options: &UploadOptions, size: Option<u64>, op: Op) -> Result<()> {
        let can = &self.capabilities;
        let over = |length: usize, most: Option<u32>| most.is_some_and(|most| length > most as usize);
        let (kind, message) = if !options.tags.is_empty() && !can.tags {
            (ErrorKind::Unsupported, "one of the two sides keeps no tags")
        } else if over(id.as_str().len(), can.max_id_bytes)
            || id.segments().any(|segment| over(segment.len(), can.max_segment_bytes))
        {
            (ErrorKind::InvalidInput, "the id is longer than one of the two sides can keep")
        } else if size.is_some_and(|size| can.max_size.is_some_and(|most| size > most)) {
            (ErrorKind::TooLarge, "one of the two sides takes no file of this size")
        } else {
            return Ok(());
        };
        Err(self.error(kind, op, id).with_message(message))
    }

    /// The precondition, or none where the primary cannot compare.
    fn primary_can(&self, when: Precondition) -> Precondition {
        let can = self.primary.storage().capabilities();
        match when {
            Precondition::Absent if !can.conditional_create => Precondition::None,
            Precondition::Version(_) if !can.conditional_replace => Precondition::None,
            when => when,
        }
    }

    fn count(&self, op: Op, reason: &'static str) {
        metrics::counter!(
            names::FALLBACKS,
            "backend" => self.config.name.clone(),
            "operation" => op.as_str(),
            "reason" => reason,
        )
        .increment(1);
    }

    fn count_heal(&self, outcome: &'static str) {
        metrics::counter!(names::HEALS, "backend" => self.config.name.clone(), "outcome" => outcome)
            .increment(1);
    }

    /// Shows what is in the journal.
    fn show(&self) {
        let counts = self.journal.counts();
        for (state, count) in [
            ("file", counts.files),
            ("tombstone", counts.tombstones),
            ("stale", counts.stale),
            ("conflict", counts.conflicts),
            ("open", counts.intents),
        ] {
            metrics::gauge!(names::JOURNAL, "backend" => self.config.name.clone(), "state" => state)
                .set(count as f64);
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl FileStorage for FallbackStorage {
    fn name(&self) -> &str {
        &self.inner.config.name
    }

    /// What both sides can do, outage or not; uploads in parts and URLs that write are the primary's.
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities.clone()
    }

    async fn upload(&self, id: &FileId, body: Body, options: UploadOptions) -> Result<Receipt> {
        self.inner.upload(id, body, options).await
    }

    async fn download(&self, id: &FileId, options: DownloadOptions) -> Result<Download> {
        self.inner.download(id, &options).await
    }

    async fn metadata(&self, id: &FileId) -> Result<FileMetadata> {
        self.inner.metadata(id).await
    }

    /// In an outage of a spare's primary nobody can tell whether there was a file: `Ok(true)` then says that there
    /// is none now.
    async fn delete(&self, id: &FileId, when: Precondition) -> Result<bool> {
        self.inner.delete(id, when).await
    }

    fn list(&self, prefix: &Prefix, options: ListOptions) -> BoxStream<'static, Result<FileMetadata>> {
        listing::list(Arc::clone(&self.inner), prefix.clone(), options)
    }

    async fn copy(&self, from: &FileId, to: &FileId, options: UploadOptions) -> Result<Receipt> {
        self.inner.copy(from, to, options).await
    }

    async fn presigned_url(&self, id: &FileId, request: PresignRequest) -> Result<PresignedUrl> {
        let capabilities = self.capabilities();
        let capable = match request.method {
            PresignMethod::Get => capabilities.presigned_get,
            PresignMethod::Put => capabilities.presigned_put,
        };
        let refusal = match capable {
            true => request.check().err(),
            false => {
                Some(Error::new(ErrorKind::Unsupported, Op::Presign).with_message("it signs no such URLs"))
            }
        };
        match (self.inner.presigned_url(id, request).await, refusal) {
            // What cannot be signed at all is no matter of who is in reach: another try would be in vain.
            (Err(error), Some(refusal)) if error.is_outage() => {
                Err(refusal.with_id(id).with_storage(self.name()))
            }
            (answer, _) => answer,
        }
    }

    async fn probe(&self, deadline: Duration) -> Result<()> {
        let Inner { primary, secondary, config, .. } = &*self.inner;
        match primary.call(Op::Probe, None, primary.storage().probe(deadline)).await {
            Err(outage) if is_outage(&outage) && config.write == OnOutage::Secondary => {
                let probe = secondary.call(Op::Probe, None, secondary.storage().probe(deadline)).await;
                probe.map_err(|error| both_out(&self.inner, Op::Probe, None, outage, error))
            }
            result => result,
        }
    }

    fn resumable(&self) -> Option<&dyn ResumableUpload> {
        self.inner.primary.storage().resumable().map(|_| self as &dyn ResumableUpload)
    }
}
