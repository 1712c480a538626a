//! How much is kept, how long, and how long the cache itself may take.

use std::time::Duration;

use serde::Deserialize;

use crate::error::{Error, ErrorKind, Op, Result};

/// How a [`CachedStorage`](super::CachedStorage) keeps metadata and small files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct CacheConfig {
    /// Bytes of memory for all entries, their keys and metadata counted. Default 64 MiB: some 100,000 metadata
    /// or 1,000 files of the greatest size, and no burden for a service.
    pub capacity: u64,
    /// Greatest file in bytes whose content is kept; 0 keeps metadata alone. Default 64 KiB: avatars,
    /// thumbnails and settings, for which the way to the storage costs more than the bytes.
    pub max_file: u64,
    /// How long an entry is kept. Default 30 s: it is also how long a write of another process, of a presigned
    /// URL or one that landed after its caller gave up may stay unseen.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::required")]
    pub ttl: Duration,
    /// How long it is kept that there is no file; 0 does not keep it. Default 1 s: a client that waits for
    /// another process to make a file asks again soon, and should soon see it.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::required")]
    pub negative_ttl: Duration,
    /// How long the cache may take for one answer; then the storage is asked as if there were none. Default
    /// 50 ms: a shared cache answers in less than one, and a storage seldom takes more than this.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::required")]
    pub deadline: Duration,
    /// How long the cache is left alone after it failed or missed its deadline. Default 1 s: without it, every
    /// operation would wait for a cache that is down.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::required")]
    pub pause: Duration,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            capacity: 64 << 20,
            max_file: 64 << 10,
            ttl: Duration::from_secs(30),
            negative_ttl: Duration::from_secs(1),
            deadline: Duration::from_millis(50),
            pause: Duration::from_secs(1),
        }
    }
}

impl CacheConfig {
    /// Sets the bytes of memory for all entries.
    #[must_use]
    pub fn with_capacity(mut self, capacity: u64) -> Self {
        self.capacity = capacity;
        self
    }

    /// Sets the greatest file whose content is kept.
    #[must_use]
    pub fn with_max_file(mut self, max_file: u64) -> Self {
        self.max_file = max_file;
        self
    }

    /// Sets how long an entry is kept.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets how long it is kept that there is no file.
    #[must_use]
    pub fn with_negative_ttl(mut self, negative_ttl: Duration) -> Self {
        self.negative_ttl = negative_ttl;
        self
    }

    /// Sets how long the cache may take for one answer.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets how long the cache is left alone after a failure.
    #[must_use]
    pub fn with_pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Refuses what keeps nothing, or could never keep what it is to keep.
    ///
    /// # Errors
    /// [`ErrorKind::Misconfigured`] when capacity, ttl or deadline is 0, or when a file of the greatest size is
    /// larger than the capacity.
    pub fn validate(&self) -> Result<()> {
        let wrong = |message: String| {
            Err(Error::new(ErrorKind::Misconfigured, Op::Open).with_message(format!("cache: {message}")))
        };
        for (name, zero) in [
            ("capacity", self.capacity == 0),
            ("ttl", self.ttl.is_zero()),
            ("deadline", self.deadline.is_zero()),
        ] {
            if zero {
                return wrong(format!("{name} is 0; leave the layer out to cache nothing"));
            }
        }
        if self.max_file > self.capacity {
            return wrong(format!(
                "max_file is {} bytes, more than the capacity of {}",
                self.max_file, self.capacity
            ));
        }
        Ok(())
    }
}
