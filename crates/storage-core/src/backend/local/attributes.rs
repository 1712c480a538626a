//! What is kept of a file besides its bytes: one extended attribute, set before the file is published.
//!
//! A file can be edited in place by whoever has the directory, and its extended attributes stay. So the
//! attributes say which bytes they describe, by size and modification time (both survive the `rename` that
//! publishes, which the change time does not): of an edited file digest and composite are ignored. A change
//! that keeps both is what the digest is there to find.

use std::fs::File;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{Stat, XattrFlags, fgetxattr, fgetxattr_query, fsetxattr};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::error::failed;
use super::root::{Root, identity, modified_parts};
use super::sidecar::Sidecar;
use crate::checksum::{CompositeDigest, Digest};
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::FileId;
use crate::metadata::{FileMetadata, Tags, guess_content_type};
use crate::storage::UploadOptions;

const NAME: &str = "user.storage.attributes";

/// As stored, in compact JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attributes {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) file_name: Option<String>,
    /// Seconds and nanoseconds since 1970; the seconds are negative before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) created: Option<(i64, u32)>,
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub(super) tags: Tags,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) digest: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) composite: Option<CompositeDigest>,
    /// The upload in parts that it came from: a repeated finish knows its own result by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) upload: Option<String>,
    /// Of the bytes that are described.
    pub(super) size: u64,
    /// Of the bytes that are described.
    pub(super) modified: (i64, i64),
}

impl Attributes {
    /// Takes what an upload was told, and what is guessed where it was not.
    pub(super) fn new(id: &FileId, options: &UploadOptions, op: Op) -> Result<Self> {
        if options.tags.keys().any(String::is_empty) {
            return Err(Error::new(ErrorKind::InvalidInput, op).with_message("a tag with an empty key"));
        }
        Ok(Self {
            content_type: Some(options.content_type.clone().unwrap_or_else(|| guess(id, options))),
            file_name: options.file_name.clone(),
            created: options.created.map(to_parts),
            tags: options.tags.clone(),
            ..Self::default()
        })
    }

    /// Replaces what `options` give, for a copy.
    pub(super) fn override_with(&mut self, options: &UploadOptions, op: Op) -> Result<()> {
        if options.tags.keys().any(String::is_empty) {
            return Err(Error::new(ErrorKind::InvalidInput, op).with_message("a tag with an empty key"));
        }
        if options.content_type.is_some() {
            self.content_type.clone_from(&options.content_type);
        }
        if options.file_name.is_some() {
            self.file_name.clone_from(&options.file_name);
        }
        if options.created.is_some() {
            self.created = options.created.map(to_parts);
        }
        if !options.tags.is_empty() {
            self.tags.clone_from(&options.tags);
        }
        Ok(())
    }

    /// Makes them those of the bytes that `stat` tells of.
    pub(super) fn bind(&mut self, stat: &Stat) {
        self.size = stat.st_size as u64;
        self.modified = modified_parts(stat);
    }

    /// Tells whether they are those of the bytes that `stat` tells of.
    pub(super) fn describe(&self, stat: &Stat) -> bool {
        self.size == stat.st_size as u64 && self.modified == modified_parts(stat)
    }

    /// Puts them on a file that is not published yet. Where the file system has no extended attributes, or no
    /// room for these, they go into a sidecar.
    pub(super) fn store(&mut self, root: &Root, id: &FileId, file: &File, op: Op) -> Result<Option<Sidecar>> {
        let stat = rustix::fs::fstat(file).map_err(|errno| failed(op, errno))?;
        self.bind(&stat);
        let json = serde_json::to_vec(self).map_err(|error| unwritable(op, error))?;
        match fsetxattr(file, NAME, &json, XattrFlags::empty()) {
            Ok(()) => Ok(None),
            // Not supported; or larger than a block of ext4, the 64 KiB of xfs, the limit of the kernel.
            Err(
                Errno::NOTSUP | Errno::NOSYS | Errno::NOSPC | Errno::TOOBIG | Errno::RANGE | Errno::DQUOT,
            ) => Sidecar::create(root, id, self, file, op).map(Some),
            Err(errno) => Err(failed(op, errno)),
        }
    }

    /// Reads those of an open file; nothing where it has none, as a file that was put there by other means.
    pub(super) fn load(root: &Root, id: &FileId, file: &File, stat: &Stat, op: Op) -> Result<Option<Self>> {
        let json = match read(file) {
            Ok(json) => json,
            Err(Errno::NODATA | Errno::NOTSUP | Errno::NOSYS) => return Sidecar::load(root, id, stat, op),
            Err(errno) => return Err(failed(op, errno)),
        };
        match serde_json::from_slice(&json) {
            Ok(attributes) => Ok(Some(attributes)),
            Err(error) => {
                tracing::warn!(id = id.as_str(), %error, "extended attribute {NAME} is not readable, ignored");
                Ok(None)
            }
        }
    }
}

fn read(file: &File) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 1024];
    loop {
        match fgetxattr(file, NAME, &mut buffer[..]) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) => buffer.resize(fgetxattr_query(file, NAME)?, 0),
            Err(errno) => return Err(errno),
        }
    }
}

fn guess(id: &FileId, options: &UploadOptions) -> String {
    guess_content_type(options.file_name.as_deref().unwrap_or_else(|| id.file_name()))
}

pub(super) fn unwritable(op: Op, error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Other, op)
        .with_message("the attributes cannot be written as JSON")
        .with_source(error)
}

/// Puts together what the file system and the attributes know.
pub(super) fn metadata(id: &FileId, stat: &Stat, attributes: Option<&Attributes>) -> FileMetadata {
    let mut metadata = FileMetadata::new(id.clone(), stat.st_size as u64);
    metadata.modified = from_parts(modified_parts(stat));
    metadata.version = Some(identity(stat).version());
    match attributes {
        Some(attributes) => {
            metadata.content_type.clone_from(&attributes.content_type);
            metadata.file_name.clone_from(&attributes.file_name);
            metadata.created =
                attributes.created.and_then(|(seconds, nanos)| from_parts((seconds, nanos.into())));
            metadata.tags.clone_from(&attributes.tags);
            if attributes.describe(stat) {
                metadata.digest = attributes.digest;
                metadata.composite = attributes.composite;
            }
        }
        None => metadata.content_type = Some(guess_content_type(id.file_name())),
    }
    metadata
}

fn to_parts(time: SystemTime) -> (i64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (since.as_secs() as i64, since.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            match before.subsec_nanos() {
                0 => (-(before.as_secs() as i64), 0),
                nanos => (-(before.as_secs() as i64) - 1, 1_000_000_000 - nanos),
            }
        }
    }
}

/// Seconds and nanoseconds since 1970 as a time.
pub(super) fn from_parts((seconds, nanos): (i64, i64)) -> Option<SystemTime> {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let second = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    second?.checked_add(Duration::from_nanos(u64::try_from(nanos).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_come_back_to_the_nanosecond() {
        for offset in [Duration::ZERO, Duration::new(1, 0), Duration::new(86_400, 123_456_789)] {
            for time in [UNIX_EPOCH + offset, UNIX_EPOCH - offset] {
                let (seconds, nanos) = to_parts(time);
                assert_eq!(from_parts((seconds, nanos.into())), Some(time));
            }
        }
    }
}
