//! A source whose files can be moved away: what a copy asks of it, and no more.

use std::fmt;

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;
use storage_core::error::{Error, Result};
use storage_core::id::FileId;
use storage_core::metadata::Version;

use crate::quarantine::Drawer;

pub mod directory;

/// The quarantine of a source, for one pair of storages.
#[async_trait]
pub trait Attic: fmt::Debug + Send + Sync {
    /// Tells whether what has this id can be moved at all: what stands for a directory cannot, and stays.
    fn takes(&self, id: &FileId) -> bool;

    /// Returns where a file of this id will be.
    fn place(&self, drawer: &Drawer, id: &FileId) -> String;

    /// Moves files there, each in one step and only if it is of this very version right before and was not written to
    /// right after; answers for each, in order.
    ///
    /// `Ok` means durable. An error whose effect is [`None`](storage_core::error::Effect::None) means that the file is
    /// where it was; any other, that it may be in either place, and is in one of them.
    ///
    /// # Errors
    /// [`VersionMismatch`](storage_core::error::ErrorKind::VersionMismatch): it is of another version;
    /// [`NotFound`](storage_core::error::ErrorKind::NotFound); those of the storage.
    async fn put_away(&self, drawer: &Drawer, files: Vec<(FileId, Version)>) -> Vec<Result<(), Error>>;

    /// Yields the files whose time is over by `now`.
    fn expired(&self, now: Timestamp) -> BoxStream<'static, Result<Expired>>;

    /// Deletes such a file, and the directories that this leaves empty; false where there was none.
    ///
    /// # Errors
    /// Those of the storage.
    async fn delete(&self, expired: &Expired) -> Result<bool>;
}

/// A file whose time in quarantine is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// The name that it had.
    pub id: FileId,
    /// As [`Attic::place`] said.
    pub place: String,
}
