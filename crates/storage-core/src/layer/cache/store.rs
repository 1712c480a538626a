//! Where entries are kept: a small trait, and the store in this process.

use std::fmt;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use moka::Expiry;
use moka::future::Cache;

use super::entry::CacheEntry;
use crate::id::FileId;

/// What a store says when it fails: counted and logged, never shown to who reads a file.
pub type CacheError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Keeps entries for a while, in this process or elsewhere.
///
/// It may lose an entry at any time, fail or hang: whoever asks it waits no longer than a deadline and then does
/// without, and never believes an entry that a write has passed. It need not look into entries;
/// [`CacheEntry::to_bytes`] is for stores that are reached over a network.
#[async_trait]
pub trait CacheStore: fmt::Debug + Send + Sync + 'static {
    /// Returns the word that metrics know this kind of store by.
    fn tier(&self) -> &'static str;

    /// Returns the entry, unless it is older than its time to live or was lost.
    async fn get(&self, id: &FileId) -> Result<Option<CacheEntry>, CacheError>;

    /// Keeps the entry for at most `ttl`, in the place of an earlier one.
    async fn put(&self, id: &FileId, entry: CacheEntry, ttl: Duration) -> Result<(), CacheError>;

    /// Forgets the entry.
    async fn invalidate(&self, id: &FileId) -> Result<(), CacheError>;
}

/// Entries in the memory of this process, of a total size; what is asked for seldom goes first.
pub struct MemoryCache {
    entries: Cache<FileId, Kept>,
}

#[derive(Clone)]
struct Kept {
    entry: CacheEntry,
    ttl: Duration,
}

struct ByEntry;

impl Expiry<FileId, Kept> for ByEntry {
    fn expire_after_create(&self, _: &FileId, kept: &Kept, _: Instant) -> Option<Duration> {
        Some(kept.ttl)
    }

    fn expire_after_update(
        &self,
        _: &FileId,
        kept: &Kept,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(kept.ttl)
    }
}

impl MemoryCache {
    /// Makes an empty store for so many bytes.
    pub fn new(capacity: u64) -> Self {
        let entries = Cache::builder()
            .max_capacity(capacity)
            .weigher(|id: &FileId, kept: &Kept| {
                let weight = kept.entry.weight().saturating_add(id.as_str().len() as u64);
                u32::try_from(weight).unwrap_or(u32::MAX)
            })
            .expire_after(ByEntry)
            .build();
        Self { entries }
    }

    /// Returns how many bytes the entries take, after what is due has been done.
    pub async fn weight(&self) -> u64 {
        self.entries.run_pending_tasks().await;
        self.entries.weighted_size()
    }
}

impl fmt::Debug for MemoryCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryCache").field("entries", &self.entries.entry_count()).finish_non_exhaustive()
    }
}

#[async_trait]
impl CacheStore for MemoryCache {
    fn tier(&self) -> &'static str {
        "memory"
    }

    async fn get(&self, id: &FileId) -> Result<Option<CacheEntry>, CacheError> {
        Ok(self.entries.get(id).await.map(|kept| kept.entry))
    }

    async fn put(&self, id: &FileId, entry: CacheEntry, ttl: Duration) -> Result<(), CacheError> {
        self.entries.insert(id.clone(), Kept { entry, ttl }).await;
        Ok(())
    }

    async fn invalidate(&self, id: &FileId) -> Result<(), CacheError> {
        self.entries.invalidate(id).await;
        Ok(())
    }
}
