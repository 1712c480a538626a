//! What a storage knows of a file besides its bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::checksum::{CompositeDigest, Digest, Expected};
use crate::id::FileId;

/// Free key-value pairs of a file, in the order of their keys.
pub type Tags = BTreeMap<String, String>;

/// A token that is equal as long as the stored bytes and attributes of an id are the same.
///
/// Opaque: an S3 ETag, a local file's identity (device, inode, size, modification and change time in
/// nanoseconds), a counter. Never a checksum. Only the storage that gave it can compare it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(Box<str>);

impl Version {
    /// Takes the storage's own token.
    pub fn new(token: impl Into<Box<str>>) -> Self {
        Self(token.into())
    }

    /// Returns the storage's own token.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// What a storage knows of a file besides its bytes.
///
/// [`metadata`](crate::storage::FileStorage::metadata), [`download`](crate::storage::FileStorage::download) and
/// receipts fill every field that the storage has; a listing fills `id`, `size`, `modified` and `version` and
/// may leave the rest out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileMetadata {
    /// The file.
    pub id: FileId,
    /// Size of the content in bytes.
    pub size: u64,
    /// The name the user knows the file by, where one was given at upload.
    pub file_name: Option<String>,
    /// Media type (RFC 9110 section 8.3.1): as given at upload, else guessed from the file name.
    pub content_type: Option<String>,
    /// When the content came into being, where that was given at upload; kept to the nanosecond.
    pub created: Option<SystemTime>,
    /// When the storage last stored it; S3 servers keep it to the second or millisecond.
    pub modified: Option<SystemTime>,
    /// When the storage last stored it, by a clock of its own that no writer can set, as some can `modified`. Nothing
    /// where the storage cannot vouch for that. To be compared with another of the same storage, and no other clock.
    pub stored: Option<SystemTime>,
    /// As given at upload.
    pub tags: Tags,
    /// SHA-256 of the content, where it was known when the file was stored.
    pub digest: Option<Digest>,
    /// Composite of the parts, where the file was stored in parts.
    pub composite: Option<CompositeDigest>,
    /// Token for preconditions.
    pub version: Option<Version>,
}

impl FileMetadata {
    /// Makes metadata that knows an id and a size.
    pub fn new(id: FileId, size: u64) -> Self {
        Self {
            id,
            size,
            file_name: None,
            content_type: None,
            created: None,
            modified: None,
            stored: None,
            tags: Tags::new(),
            digest: None,
            composite: None,
            version: None,
        }
    }

    /// Returns what a whole read of the file is compared with: the digest, else the composite.
    pub fn expected(&self) -> Option<Expected> {
        self.digest.map(Expected::Whole).or(self.composite.map(Expected::Composite))
    }
}

/// Guesses the media type of a file from the extension of its name, for uploads that do not say.
///
/// `application/octet-stream` (RFC 2046 section 4.5.1) where the extension is unknown.
pub fn guess_content_type(file_name: &str) -> String {
    mime_guess::from_path(file_name).first_or_octet_stream().essence_str().to_owned()
}
