//! Metadata and small files in memory, so that a hit costs no way to the storage.
//!
//! What a reader is shown was the storage's answer to a read that began after the last write through this layer
//! had ended. Order of effects, and each gap:
//! - A write ends the epoch of its id when it begins and again when it ends, whatever became of
//!   it: answered, failed, with unknown effect, or dropped by its caller. An entry of another epoch is not shown,
//!   be it that the store failed to forget it or that a slow read put it there after the write.
//! - While a write runs, readers ask the storage, which alone knows whether they see the old file or the new one.
//! - A read that began before a write and ends after it keeps nothing, and no reader that began after the write
//!   joins it.
//! - A write that lands after its caller gave up, and one of another process or through a presigned URL, is not
//!   seen here: the entry's time to live is the bound.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use self::entry::{Seen, Stamp};
use self::epochs::{Epoch, Epochs};
use self::flights::{Flights, Turn, What};
use self::guard::Guard;
use super::metered::names;
use super::parts_of;
use crate::body::{Body, collect};
use crate::checksum::Digest;
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::{FileId, Prefix};
use crate::metadata::FileMetadata;
use crate::storage::{
    Capabilities, Download, DownloadOptions, FileStorage, FinishOptions, ListOptions, PartLimits, PartNumber,
    PartReceipt, Precondition, PresignRequest, PresignedUrl, Receipt, ResumableUpload, UploadOptions,
    UploadTicket,
};

mod config;
mod entry;
mod epochs;
mod flights;
mod guard;
mod store;

pub use self::config::CacheConfig;
pub use self::entry::CacheEntry;
pub use self::store::{CacheError, CacheStore, MemoryCache};

/// Keeps metadata, the content of small files, and that there is no file, in front of a storage.
///
/// [`metadata`](FileStorage::metadata) and [`download`](FileStorage::download) are answered from the cache;
/// ranges and versions too, where the whole file is kept and its version is the one that was asked for. All else
/// goes to the storage. Of readers that miss at the same time one asks the storage for all. A small file is read
/// to its end before it is handed out, so that a body which breaks off or does not match its digest is an error
/// of the download itself. The cache may fail or hang: after its deadline the storage answers.
///
/// It is for storages that one process writes, or whose readers may see another's write late: not sooner than
/// after the entry's time to live can they be sure to. A listing is never cached.
#[derive(Debug)]
pub struct CachedStorage {
    inner: Arc<dyn FileStorage>,
    config: CacheConfig,
    guard: Guard,
    epochs: Epochs,
    flights: Flights<Seen>,
    maker: u64,
}

impl CachedStorage {
    /// Wraps a storage, with the entries in the memory of this process.
    ///
    /// # Errors
    /// Those of [`CacheConfig::validate`].
    pub fn new(inner: Arc<dyn FileStorage>, config: CacheConfig) -> Result<Self> {
        Self::with_store(inner, Arc::new(MemoryCache::new(config.capacity)), config)
    }

    /// Wraps a storage, with the entries in a store that keeps those of no other storage.
    ///
    /// # Errors
    /// Those of [`CacheConfig::validate`].
    pub fn with_store(
        inner: Arc<dyn FileStorage>,
        store: Arc<dyn CacheStore>,
        config: CacheConfig,
    ) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            inner,
            config,
            guard: Guard::new(store, &config),
            epochs: Epochs::new(),
            flights: Flights::new(),
            maker: rand::random(),
        })
    }

    /// Returns what the cache shows of the id in this epoch, or the word for why it shows nothing.
    async fn look(&self, id: &FileId) -> Result<Seen, &'static str> {
        // Memory never makes its caller wait: a task that reads in a loop would keep its thread for ever.
        tokio::task::coop::consume_budget().await;
        let Some(epoch) = self.epochs.now(id) else { return Err(names::BYPASSED) };
        let entry = self.guard.ask("get", |store| store.get(id)).await?;
        match entry {
            Some(entry) if entry.stamp == self.stamp(epoch) => Ok(entry.seen),
            _ => Err(names::MISS),
        }
    }

    /// Keeps what a read that began in `epoch` has seen, unless a write has begun since.
    async fn keep(&self, id: &FileId, epoch: Epoch, seen: Seen) {
        let ttl = match seen {
            Seen::Nothing => self.config.negative_ttl,
            Seen::File { .. } => self.config.ttl,
        };
        if !ttl.is_zero() && self.epochs.now(id) == Some(epoch) {
            let entry = CacheEntry { stamp: self.stamp(epoch), seen };
            // A cache that cannot keep it was reported by the guard; the reader has its answer.
            let _kept = self.guard.ask("put", |store| store.put(id, entry, ttl)).await;
        }
    }

    fn stamp(&self, epoch: Epoch) -> Stamp {
        Stamp { maker: self.maker, epoch }
    }

    /// Runs a write between the end of one epoch and the beginning of the next.
    async fn write<T>(&self, id: &FileId, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let writing = self.epochs.write(id);
        self.forget(id).await;
        let result = work.await;
        drop(writing);
        self.forget(id).await;
        result
    }

    /// Frees the memory. That the entry is not shown again is for the epoch to see to.
    async fn forget(&self, id: &FileId) {
        let _forgotten = self.guard.ask("invalidate", |store| store.invalidate(id)).await;
    }

    fn not_found(&self, op: Op, id: &FileId) -> Error {
        Error::new(ErrorKind::NotFound, op).with_id(id).with_storage(self.inner.name())
    }

    /// Asks the storage for the metadata, in the place of all who wait for them.
    async fn load_metadata(&self, id: &FileId) -> Result<FileMetadata> {
        let Some(epoch) = self.epochs.now(id) else { return self.inner.metadata(id).await };
        let leader = match self.flights.join(id, What::Metadata, epoch).await {
            Turn::Lead(leader) => leader,
            Turn::Share(Seen::File { metadata, .. }) => return Ok((*metadata).clone()),
            Turn::Share(Seen::Nothing) => return Err(self.not_found(Op::Metadata, id)),
            Turn::Alone => return self.inner.metadata(id).await,
        };
        let result = self.inner.metadata(id).await;
        let seen = match &result {
            Ok(metadata) => Seen::File { metadata: Arc::new(metadata.clone()), content: None },
            Err(error) if error.kind() == ErrorKind::NotFound => Seen::Nothing,
            Err(_) => {
                leader.fail();
                return result;
            }
        };
        leader.land(seen.clone());
        self.keep(id, epoch, seen).await;
        result
    }

    /// Reads the whole file, in the place of all who wait for it where it is small.
    async fn load_content(&self, id: &FileId) -> Result<Download> {
        let alone = || self.inner.download(id, DownloadOptions::default());
        let Some(epoch) = self.epochs.now(id) else { return alone().await };
        let leader = match self.flights.join(id, What::Content, epoch).await {
            Turn::Lead(leader) => leader,
            Turn::Share(Seen::File { metadata, content: Some(content) }) => {
                return Ok(whole(&metadata, &content));
            }
            Turn::Share(Seen::Nothing) => return Err(self.not_found(Op::Download, id)),
            Turn::Share(Seen::File { .. }) | Turn::Alone => return alone().await,
        };
        let download = match alone().await {
            Ok(download) => download,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                leader.land(Seen::Nothing);
                self.keep(id, epoch, Seen::Nothing).await;
                return Err(error);
            }
            Err(error) => {
                leader.fail();
                return Err(error);
            }
        };
        let metadata = Arc::new(download.metadata.clone());
        if metadata.size > self.config.max_file {
            leader.fail();
            self.keep(id, epoch, Seen::File { metadata, content: None }).await;
            return Ok(download);
        }
        // The copy is as large as the file; what came over a network is a slice of a larger buffer.
        let content = collect(download.body).await.map(|content| Bytes::copy_from_slice(&content));
        let content = content.inspect_err(|_| leader.fail())?;
        let seen = Seen::File { metadata, content: Some(content.clone()) };
        leader.land(seen.clone());
        self.keep(id, epoch, seen).await;
        let range = 0..content.len() as u64;
        Ok(part(download.metadata, &content, range))
    }
}

/// Hands out kept bytes.
fn part(metadata: FileMetadata, content: &Bytes, range: Range<u64>) -> Download {
    // Both ends lie within a buffer in memory, so they fit a usize.
    let bytes = content.slice(range.start as usize..range.end as usize);
    let body = if bytes.is_empty() { stream::empty().boxed() } else { stream::iter([Ok(bytes)]).boxed() };
    Download::new(metadata, range, body)
}

fn whole(metadata: &FileMetadata, content: &Bytes) -> Download {
    part(metadata.clone(), content, 0..content.len() as u64)
}

/// Answers a download from what is kept, or not at all where only the storage can.
fn answer(seen: &Seen, options: &DownloadOptions) -> Option<Download> {
    let Seen::File { metadata, content: Some(content) } = seen else { return None };
    match &options.when {
        Precondition::None => {}
        Precondition::Version(version) if metadata.version.as_ref() == Some(version) => {}
        Precondition::Version(_) | Precondition::Absent => return None,
    }
    match options.range {
        None => Some(whole(metadata, content)),
        Some(range) => {
            range.resolve(content.len() as u64).map(|range| part((**metadata).clone(), content, range))
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl FileStorage for CachedStorage {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn upload(&self, id: &FileId, body: Body, options: UploadOptions) -> Result<Receipt> {
        self.write(id, self.inner.upload(id, body, options)).await
    }

    async fn download(&self, id: &FileId, options: DownloadOptions) -> Result<Download> {
        let plain = options == DownloadOptions::default();
        let looked = self.look(id).await;
        match &looked {
            Ok(Seen::Nothing) if plain => {
                self.guard.count(names::HIT);
                return Err(self.not_found(Op::Download, id));
            }
            Ok(seen) => {
                if let Some(download) = answer(seen, &options) {
                    self.guard.count(names::HIT);
                    return Ok(download);
                }
                self.guard.count(names::MISS);
            }
            Err(why) => self.guard.count(why),
        }
        let large =
            matches!(&looked, Ok(Seen::File { metadata, .. }) if metadata.size > self.config.max_file);
        if plain && !large && self.config.max_file > 0 {
            self.load_content(id).await
        } else {
            self.inner.download(id, options).await
        }
    }

    async fn metadata(&self, id: &FileId) -> Result<FileMetadata> {
        match self.look(id).await {
            Ok(seen) => {
                self.guard.count(names::HIT);
                match seen {
                    Seen::File { metadata, .. } => Ok((*metadata).clone()),
                    Seen::Nothing => Err(self.not_found(Op::Metadata, id)),
                }
            }
            Err(why) => {
                self.guard.count(why);
                self.load_metadata(id).await
            }
        }
    }

    async fn delete(&self, id: &FileId, when: Precondition) -> Result<bool> {
        self.write(id, self.inner.delete(id, when)).await
    }

    fn list(&self, prefix: &Prefix, options: ListOptions) -> BoxStream<'static, Result<FileMetadata>> {
        self.inner.list(prefix, options)
    }

    async fn copy(&self, from: &FileId, to: &FileId, options: UploadOptions) -> Result<Receipt> {
        self.write(to, self.inner.copy(from, to, options)).await
    }

    /// What is written through the URL is not seen here before the entry's time to live has passed.
    async fn presigned_url(&self, id: &FileId, request: PresignRequest) -> Result<PresignedUrl> {
        self.inner.presigned_url(id, request).await
    }

    async fn probe(&self, deadline: Duration) -> Result<()> {
        self.inner.probe(deadline).await
    }

    fn resumable(&self) -> Option<&dyn ResumableUpload> {
        self.inner.resumable().map(|_| self as &dyn ResumableUpload)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ResumableUpload for CachedStorage {
    fn limits(&self) -> PartLimits {
        self.inner.resumable().map_or(PartLimits::S3, ResumableUpload::limits)
    }

    async fn begin(&self, id: &FileId, part_size: u64, options: UploadOptions) -> Result<UploadTicket> {
        parts_of(&self.inner, Op::BeginUpload)?.begin(id, part_size, options).await
    }

    async fn put_part(
        &self,
        ticket: &UploadTicket,
        number: PartNumber,
        bytes: Bytes,
        digest: Digest,
    ) -> Result<PartReceipt> {
        parts_of(&self.inner, Op::PutPart)?.put_part(ticket, number, bytes, digest).await
    }

    async fn parts(&self, ticket: &UploadTicket) -> Result<Vec<PartReceipt>> {
        parts_of(&self.inner, Op::ListParts)?.parts(ticket).await
    }

    async fn finish(
        &self,
        ticket: &UploadTicket,
        held: &[PartReceipt],
        finish: FinishOptions,
    ) -> Result<Receipt> {
        let parts = parts_of(&self.inner, Op::FinishUpload)?;
        self.write(&ticket.id, parts.finish(ticket, held, finish)).await
    }

    async fn abandon(&self, ticket: &UploadTicket) -> Result<()> {
        parts_of(&self.inner, Op::AbandonUpload)?.abandon(ticket).await
    }

    async fn stale(&self, older_than: Duration) -> Result<Vec<UploadTicket>> {
        parts_of(&self.inner, Op::ListUploads)?.stale(older_than).await
    }
}
