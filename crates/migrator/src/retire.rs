//! A source whose files can be moved away: what a copy asks of it, and no more.

use std::fmt;

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;
use storage_core::checksum::Digest;
use storage_core::error::{Error, Result};
use storage_core::id::FileId;
use storage_core::metadata::Version;

use crate::quarantine::{Drawer, Mark};

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

    /// Yields the files whose time is over by `now`. After an error, which is about a part of them, it goes on.
    fn expired(&self, now: Timestamp) -> BoxStream<'static, Result<Expired>>;

    /// Deletes such a file if its bytes, read right before, are those of `digest`, and the directories that this leaves
    /// empty. A symbolic link is deleted if it says what [`Expired::link`] does, and `digest` is that of no bytes. Dropped,
    /// it may have deleted the file.
    ///
    /// # Errors
    /// Those of the storage.
    async fn delete(&self, expired: &Expired, digest: Digest) -> Result<Deletion>;

    /// Remembers, durably and for good, that a run moves files there; the marks that are replaced are of runs that
    /// whoever knows this one knows as well. To be called before the first file.
    ///
    /// # Errors
    /// Those of the storage; then the mark may be there.
    async fn mark(&self, mark: Mark, replaced: Vec<Mark>) -> Result<()>;

    /// Returns who has moved files of this source away, for whichever pair; nothing only where there is nobody.
    ///
    /// # Errors
    /// Those of the storage: then it is not known.
    async fn moves(&self) -> Result<Vec<Moves>>;
}

/// A file whose time in quarantine is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// The name that it had.
    pub id: FileId,
    /// As [`Attic::place`] said.
    pub place: String,
    /// What it says, where it is a symbolic link.
    pub link: Option<Vec<u8>>,
}

/// What became of a file that was to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// It is deleted.
    Deleted,
    /// There was none.
    Absent,
    /// It is not what was moved there, and stays.
    Changed,
}

/// Where files of a source were moved to for one pair of storages, and by which runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moves {
    /// The place.
    pub place: String,
    /// Whether it is that of this pair.
    pub own: bool,
    /// The pair in words, where they are known.
    pub pair: Option<String>,
    /// The last run of each ledger that moved files there; none where a run was killed before the first of them, or was
    /// one of a release that left no marks.
    pub marks: Vec<Mark>,
}
