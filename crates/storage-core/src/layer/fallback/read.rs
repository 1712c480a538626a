//! Reads: from where the newest version is.
//!
//! | what the journal says | what is asked |
//! |---|---|
//! | file | the secondary only: what the primary holds is older |
//! | tombstone | nobody: there is no such file |
//! | nothing, or that the secondary's copy is stale | the primary; what follows a miss is for a copy that is not stale, or that a write was only begun over |
//!
//! In an outage of the primary a [replica](Role::Replica) answers, unless its copy is stale; a spare has nothing to
//! say of an id that the journal does not name, and neither "not found" nor an older file takes the place of the
//! outage. A miss on the primary is an answer, and what follows from it is a policy of its own.
//!
//! No read waits for a write. An id may move while it is looked for (a degraded write begins to count, a heal ends):
//! a read that failed looks again when the journal says something else than before.

use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};

use super::config::{OnMiss, OnOutage, Role};
use super::entry::{Entry, Named, Stored, What, from_primary, from_secondary, named};
use super::side::{Side, is_outage};
use super::{Inner, both_out};
use crate::body::{Body, ByteStream};
use crate::checksum::{Digest, Hasher};
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::FileId;
use crate::metadata::{FileMetadata, Version};
use crate::storage::{
    Download, DownloadOptions, FileStorage, Precondition, PresignMethod, PresignRequest, PresignedUrl,
};

/// How often an id may move while one read looks for it. Each move takes a commit of the journal.
const MOVES: usize = 16;

/// Bytes of a file on its way between the sides that are kept in memory; beyond, a temporary file.
const SPOOL: usize = 8 << 20;

/// An answer that tells a version.
pub(super) trait Versioned {
    fn metadata_mut(&mut self) -> &mut FileMetadata;
}

impl Versioned for FileMetadata {
    fn metadata_mut(&mut self) -> &mut FileMetadata {
        self
    }
}

impl Versioned for Download {
    fn metadata_mut(&mut self) -> &mut FileMetadata {
        &mut self.metadata
    }
}

pub(super) fn marked<T: Versioned>(mut answer: T, mark: fn(Version) -> Version) -> T {
    let metadata = answer.metadata_mut();
    metadata.version = metadata.version.take().map(mark);
    answer
}

/// Asks one side, under a precondition in that side's own words.
type Ask<'a, T> = dyn Fn(Arc<Side>, Precondition) -> BoxFuture<'a, Result<T>> + Send + Sync + 'a;

fn same_entry(before: Option<&Arc<Entry>>, after: Option<&Arc<Entry>>) -> bool {
    match (before, after) {
        (None, None) => true,
        (Some(before), Some(after)) => Arc::ptr_eq(before, after),
        _ => false,
    }
}

impl Inner {
    pub(super) async fn metadata(&self, id: &FileId) -> Result<FileMetadata> {
        self.read(Op::Metadata, id, &Precondition::None, &|side, _| ask_metadata(side, id)).await
    }

    pub(super) async fn download(&self, id: &FileId, options: &DownloadOptions) -> Result<Download> {
        self.download_for(Op::Download, id, options).await
    }

    pub(super) async fn download_for(
        &self,
        op: Op,
        id: &FileId,
        options: &DownloadOptions,
    ) -> Result<Download> {
        let ask = |side: Arc<Side>, when: Precondition| {
            let options = DownloadOptions { when, ..options.clone() };
            async move {
                let mut download = side.call(op, Some(id), side.storage().download(id, options)).await?;
                download.body = side.watch(download.body);
                Ok(download)
            }
            .boxed()
        };
        self.read(op, id, &options.when, &ask).await
    }

    async fn read<T: Versioned>(
        &self,
        op: Op,
        id: &FileId,
        when: &Precondition,
        ask: &Ask<'_, T>,
    ) -> Result<T> {
        let wanted = match when {
            Precondition::None => None,
            Precondition::Version(version) => Some(named(version)),
            Precondition::Absent => {
                return Err(self
                    .error(ErrorKind::InvalidInput, op, id)
                    .with_message("an absent file cannot be read"));
            }
        };
        let mut entry = self.journal.entry(id);
        for _ in 0..MOVES {
            let result = match entry.as_deref() {
                None => self.read_primary(op, id, wanted.as_ref(), None, ask).await,
                Some(stale @ Entry { what: What::Stale, .. }) => {
                    self.read_primary(op, id, wanted.as_ref(), Some(stale), ask).await
                }
                Some(Entry { what: What::Tombstone, .. }) => Err(self.error(ErrorKind::NotFound, op, id)),
                Some(Entry { what: What::File(stored), .. }) => {
                    self.read_journalled(op, id, stored, wanted.as_ref(), ask).await
                }
            };
            let error = match result {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let now = self.journal.entry(id);
            if same_entry(entry.as_ref(), now.as_ref()) {
                return Err(error);
            }
            entry = now;
        }
        Err(self
            .error(ErrorKind::Unavailable, op, id)
            .with_message("the file is being written again and again; try again"))
    }

    /// Reads a file whose newest version is on the secondary, and nowhere else.
    async fn read_journalled<T: Versioned>(
        &self,
        op: Op,
        id: &FileId,
        stored: &Stored,
        wanted: Option<&Named>,
        ask: &Ask<'_, T>,
    ) -> Result<T> {
        let when = match wanted {
            None => Precondition::None,
            Some(Named::Secondary(version)) => Precondition::Version(version.clone()),
            Some(Named::Primary(_)) => return Err(self.error(ErrorKind::VersionMismatch, op, id)),
        };
        match ask(Arc::clone(&self.secondary), when).await {
            Ok(mut answer) => {
                if let Some(found) = answer.metadata_mut().digest.filter(|found| *found != stored.digest)
                    // A later write that is not acknowledged yet may be seen, as any may.
                    && self.journal.get(id).intent.is_none_or(|intent| intent.digest != found)
                {
                    return Err(self.error(ErrorKind::Integrity, op, id).with_message(format!(
                        "the journal says that {} holds SHA-256 {}, and it holds {found}",
                        self.secondary.name(),
                        stored.digest
                    )));
                }
                self.count(op, "journal");
                Ok(marked(answer, from_secondary))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Err(self
                .error(ErrorKind::Integrity, op, id)
                .with_message(format!(
                    "the journal says that {} holds it ({} bytes, SHA-256 {}), and it is not there",
                    self.secondary.name(),
                    stored.size,
                    stored.digest
                ))
                .with_source(error)),
            Err(error) if is_outage(&error) => Err(self
                .error(error.kind(), op, id)
                .with_message(format!(
                    "its newest version is on {} alone, which is out of reach: {error}",
                    self.secondary.name()
                ))
                .with_retry(error.retry())
                .with_source(error)),
            Err(error) => Err(error),
        }
    }

    /// Reads a file whose newest version is on the primary.
    async fn read_primary<T: Versioned>(
        &self,
        op: Op,
        id: &FileId,
        wanted: Option<&Named>,
        stale: Option<&Entry>,
        ask: &Ask<'_, T>,
    ) -> Result<T> {
        let began = self.seen.writes();
        let primary = Arc::clone(&self.primary);
        let result = match wanted {
            None => ask(primary, Precondition::None).await,
            Some(Named::Primary(version)) => ask(primary, Precondition::Version(version.clone())).await,
            // No version of the primary has that name: what is left to ask is whether there is a file at all.
            Some(Named::Secondary(_)) => ask_metadata(primary, id)
                .await
                .and_then(|_| Err(self.error(ErrorKind::VersionMismatch, op, id))),
        };
        match result {
            Ok(mut answer) => {
                self.seen.note_read(began, id, Some(answer.metadata_mut()));
                Ok(marked(answer, from_primary))
            }
            Err(missing) if missing.kind() == ErrorKind::NotFound => {
                self.seen.note_read(began, id, None);
                let older = stale.is_some_and(|row| !row.is_begun());
                if older || self.config.read.miss == OnMiss::Fail {
                    return Err(missing);
                }
                self.read_missing(op, id, wanted, missing, ask).await
            }
            Err(outage) if is_outage(&outage) && self.config.read.outage == OnOutage::Secondary => {
                self.read_in_outage(op, id, wanted, stale.is_some(), outage, ask).await
            }
            Err(error) => Err(error),
        }
    }

    /// Reads a file that the primary does not have.
    async fn read_missing<T: Versioned>(
        &self,
        op: Op,
        id: &FileId,
        wanted: Option<&Named>,
        missing: Error,
        ask: &Ask<'_, T>,
    ) -> Result<T> {
        let Some(when) = of_secondary(wanted) else { return Err(missing) };
        let answer = async {
            // A copy has the turn of its target, and waits for no other; who asks for no bytes waits for none.
            if self.config.read.miss == OnMiss::Promote && op == Op::Download {
                // Before the bytes are asked for: whoever holds them holds a permit, and must not wait for another.
                ask_metadata(Arc::clone(&self.secondary), id).await?;
                if let Err(error) = self.promote(id).await {
                    tracing::warn!(%error, "a file that the secondary alone has could not be promoted");
                }
            }
            ask(Arc::clone(&self.secondary), when).await
        };
        match answer.await {
            Ok(answer) => {
                self.count(op, "miss");
                Ok(marked(answer, from_secondary))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Err(missing),
            // The secondary may have it: nobody can say that it is not there.
            Err(error) if is_outage(&error) => Err(both_out(self, op, Some(id), missing, error)),
            Err(error) => Err(error),
        }
    }

    /// Reads from a replica while the primary is out.
    async fn read_in_outage<T: Versioned>(
        &self,
        op: Op,
        id: &FileId,
        wanted: Option<&Named>,
        stale: bool,
        outage: Error,
        ask: &Ask<'_, T>,
    ) -> Result<T> {
        let why = match self.config.role {
            Role::Spare => "holds no copy of it",
            Role::Replica if stale => "holds an older copy",
            Role::Replica if of_secondary(wanted).is_none() => "cannot tell the version that was named",
            Role::Replica => {
                let when = of_secondary(wanted).unwrap_or_default();
                return match ask(Arc::clone(&self.secondary), when).await {
                    Ok(answer) => {
                        self.count(op, "outage");
                        Ok(marked(answer, from_secondary))
                    }
                    // A replica is complete: this is an answer.
                    Err(error) if error.kind() == ErrorKind::NotFound => Err(error),
                    Err(error) if is_outage(&error) => Err(both_out(self, op, Some(id), outage, error)),
                    Err(error) => Err(error),
                };
            }
        };
        let message = format!("{outage}; the secondary {} {why}", self.secondary.name());
        let retry = outage.retry();
        Err(self.error(outage.kind(), op, id).with_message(message).with_retry(retry).with_source(outage))
    }

    /// Copies a file that the secondary alone has to the primary, unless it is there meanwhile, or was deleted or
    /// written.
    async fn promote(&self, id: &FileId) -> Result<()> {
        let _turn = self.turns.take(id).await;
        self.journal.quiet(Op::Upload).await?;
        if self.journal.get(id).entry.is_some() {
            return Ok(());
        }
        match ask_metadata(Arc::clone(&self.primary), id).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => return other.map(drop),
        }
        let (body, stored) = match self.spool_secondary(id).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        self.seen.take(id);
        let options = stored.options().with_when(self.primary_can(Precondition::Absent));
        match self.publish(id, &body, options, stored.digest).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            other => other.map(drop),
        }
    }

    /// Takes a whole file from the secondary, with its attributes and the digest of its bytes.
    pub(super) async fn spool_secondary(&self, id: &FileId) -> Result<(Body, Stored)> {
        self.spool(&self.secondary, id).await
    }

    /// Takes a whole file from a side; where the side does not tell its digest, that is of the bytes.
    pub(super) async fn spool(&self, side: &Arc<Side>, id: &FileId) -> Result<(Body, Stored)> {
        let (metadata, bytes) = take(side, id).await?;
        let body = self.spooled(bytes).await?;
        let digest = match metadata.digest {
            Some(digest) => digest,
            None => body.digest().await?,
        };
        Ok((body, Stored::of(&metadata, digest)))
    }

    /// Keeps bytes on their way between the sides.
    pub(super) async fn spooled(&self, bytes: ByteStream) -> Result<Body> {
        Body::spool(bytes, SPOOL, Some(self.config.spool_directory())).await
    }

    /// A URL of the side that holds the newest version. Nobody is asked whether it is in reach: a URL outlives an
    /// outage. A spare keeps its copy until the URL ceases to work, unless the file is written or deleted before, or
    /// the process ends. One for writing is refused while the id could not be written to the primary: what it did there
    /// would be unknown to the journal.
    pub(super) async fn presigned_url(&self, id: &FileId, request: PresignRequest) -> Result<PresignedUrl> {
        let mut entry = self.journal.entry(id);
        if request.method == PresignMethod::Put {
            if !self.capabilities.presigned_put {
                return Err(self.error(ErrorKind::Unsupported, Op::Presign, id).with_message(
                    "a write past this storage would not reach both sides, or the primary has no such URLs",
                ));
            }
            if entry.is_some_and(|entry| !entry.is_stale()) {
                return Err(self
                    .error(ErrorKind::Unavailable, Op::Presign, id)
                    .with_message("a newer version awaits its healing; try again after it"));
            }
            return self.primary.storage().presigned_url(id, request).await;
        }
        let side_can = |side: &Side| side.storage().capabilities().presigned_get;
        if side_can(&self.primary) != side_can(&self.secondary) && !id.is_reserved() {
            let without = if side_can(&self.primary) { &self.secondary } else { &self.primary };
            return Err(self.error(ErrorKind::Unsupported, Op::Presign, id).with_message(format!(
                "{} signs no URLs, and one of an outage would be its own: give it what it signs with",
                without.name()
            )));
        }
        let spares =
            self.config.role == Role::Spare && entry.as_deref().is_some_and(|row| row.file().is_some());
        if let (true, Some(expires)) = (spares, SystemTime::now().checked_add(request.expires_in)) {
            // A heal that ends after the second look knows of it.
            self.urls.note(id, expires);
            entry = self.journal.entry(id);
        }
        match entry.as_deref().map(|entry| &entry.what) {
            Some(What::Tombstone) => Err(self.error(ErrorKind::NotFound, Op::Presign, id)),
            Some(What::File(_)) => {
                let url = self.secondary.storage().presigned_url(id, request).await?;
                if spares {
                    self.urls.note(id, url.expires);
                }
                Ok(url)
            }
            Some(What::Stale) | None => self.primary.storage().presigned_url(id, request).await,
        }
    }
}

/// The secondary's own precondition, where it can compare what was named.
fn of_secondary(wanted: Option<&Named>) -> Option<Precondition> {
    match wanted {
        None => Some(Precondition::None),
        Some(Named::Secondary(version)) => Some(Precondition::Version(version.clone())),
        Some(Named::Primary(_)) => None,
    }
}

/// Asks a side for what it knows of a file.
pub(super) fn ask_metadata(side: Arc<Side>, id: &FileId) -> BoxFuture<'_, Result<FileMetadata>> {
    async move { side.call(Op::Metadata, Some(id), side.storage().metadata(id)).await }.boxed()
}

/// Reads a whole file of a side, and returns the digest of its bytes, which are kept nowhere.
pub(super) async fn read_digest(side: &Arc<Side>, id: &FileId) -> Result<(FileMetadata, Digest)> {
    let (metadata, mut bytes) = take(side, id).await?;
    let mut hasher = Hasher::new();
    while let Some(piece) = bytes.try_next().await? {
        hasher.update(&piece);
    }
    Ok((metadata, hasher.finish()))
}

/// Begins to read a whole file of a side.
fn take<'a>(
    side: &'a Arc<Side>,
    id: &'a FileId,
) -> impl Future<Output = Result<(FileMetadata, ByteStream)>> + Send + 'a {
    async move {
        let storage: &dyn FileStorage = &**side.storage();
        let download = side.call(Op::Download, Some(id), storage.download(id, DownloadOptions::default()));
        let download = download.await?;
        Ok((download.metadata, side.watch(download.body)))
    }
    .boxed()
}
