//! How an object store is used.

use crate::error::{Error, ErrorKind, Op, Result};
use crate::storage::Access;

/// How an [`ObjectStoreStorage`](super::ObjectStoreStorage) uses its store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ObjectStoreConfig {
    /// Name for errors, spans and metrics; default: `object-store`.
    pub name: String,
    /// Default: reading and writing.
    pub access: Access,
    /// In which order the store lists. Default: none that could be relied on.
    pub order: ListOrder,
    /// Greatest file in bytes that goes in one request, and the size of the parts of a larger one. Default
    /// 16 MiB, as for S3. An upload holds up to four parts in memory.
    pub part_size: usize,
    /// Greatest file in bytes of an upload with a precondition: parts know none, so it goes in one request from
    /// memory. Default 64 MiB, as much as the parts of an upload without one.
    pub max_conditional: u64,
}

/// In which order a store lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListOrder {
    /// Nobody knows: the listing walks from directory to directory, each of which is read whole and sorted. Takes
    /// a request per directory, and memory for the largest directory and those above it.
    #[default]
    Unknown,
    /// Ascending byte order of whole keys, as general purpose buckets of S3, Google Cloud Storage and the store
    /// in memory have it: the listing is a stream of pages, of which only one is in memory. It is checked: what
    /// comes out of order ends the listing in an error.
    Ascending,
}

impl Default for ObjectStoreConfig {
    fn default() -> Self {
        Self {
            name: "object-store".to_owned(),
            access: Access::ReadWrite,
            order: ListOrder::Unknown,
            part_size: 16 << 20,
            max_conditional: 64 << 20,
        }
    }
}

impl ObjectStoreConfig {
    /// Sets the name for errors, spans and metrics.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets what the storage is opened for.
    #[must_use]
    pub fn with_access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Says in which order the store lists.
    #[must_use]
    pub fn with_order(mut self, order: ListOrder) -> Self {
        self.order = order;
        self
    }

    /// Sets the size of a part.
    #[must_use]
    pub fn with_part_size(mut self, part_size: usize) -> Self {
        self.part_size = part_size;
        self
    }

    /// Sets the greatest file of an upload with a precondition.
    #[must_use]
    pub fn with_max_conditional(mut self, max_conditional: u64) -> Self {
        self.max_conditional = max_conditional;
        self
    }

    /// Refuses parts that a store would refuse.
    ///
    /// # Errors
    /// [`ErrorKind::Misconfigured`] when a part is smaller than 5 MiB, the least of S3, or larger than what a
    /// conditional upload may hold in memory.
    pub fn validate(&self) -> Result<()> {
        let least = 5 << 20;
        if self.part_size < least || self.part_size as u64 > self.max_conditional {
            return Err(Error::new(ErrorKind::Misconfigured, Op::Open)
                .with_storage(&self.name)
                .with_message(format!(
                    "part_size is {}; it must be from {least} to max_conditional, which is {}",
                    self.part_size, self.max_conditional
                )));
        }
        Ok(())
    }
}
