//! What is kept of a file besides its bytes.
//!
//! A file can be edited in place by whoever has the directory, and its extended attributes stay. So the
//! attributes say which bytes they describe, by size and modification time (both survive the `rename` that
//! publishes, which the change time does not): of an edited file digest and composite are ignored. A change
//! that keeps both is what the digest is there to find.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::Stat;
use serde::{Deserialize, Serialize};

use super::root::{changed_parts, identity, modified_parts};
use crate::checksum::{CompositeDigest, Digest};
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::FileId;
use crate::metadata::{FileMetadata, Tags, guess_content_type};
use crate::storage::UploadOptions;

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
    // The modification time is the user's to set, the change time is the kernel's.
    metadata.stored = from_parts(changed_parts(stat));
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
