//! What is kept of a file.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::epochs::Epoch;
use crate::checksum::{CompositeDigest, Digest};
use crate::id::FileId;
use crate::metadata::{FileMetadata, Tags, Version};

/// What an entry costs besides its texts and bytes: the structures around them, here and in the store.
const OVERHEAD: u64 = 512;

/// What a [`CacheStore`](super::CacheStore) keeps under a name, and does not look into. A clone is a reference
/// count.
///
/// It says which [`CachedStorage`](super::CachedStorage) made it, and when between two writes; no other one shows
/// it, and neither does its maker after the next write.
#[derive(Clone, Debug, PartialEq)]
pub struct CacheEntry {
    pub(super) stamp: Stamp,
    pub(super) seen: Seen,
}

/// By whom and when an entry was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    pub(super) maker: u64,
    pub(super) epoch: Epoch,
}

/// What a read of the storage has seen.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Seen {
    /// There is no such file.
    Nothing,
    /// There is one; its content where that is small and was read.
    File { metadata: Arc<FileMetadata>, content: Option<Bytes> },
}

/// An entry without its content, as it travels.
#[derive(Serialize, Deserialize)]
struct Wire {
    stamp: Stamp,
    file: Option<WireFile>,
}

#[derive(Serialize, Deserialize)]
struct WireFile {
    id: FileId,
    size: u64,
    file_name: Option<String>,
    content_type: Option<String>,
    created: Option<WireTime>,
    modified: Option<WireTime>,
    #[serde(default)]
    stored: Option<WireTime>,
    tags: Tags,
    digest: Option<Digest>,
    composite: Option<CompositeDigest>,
    version: Option<Version>,
    has_content: bool,
}

/// Seconds and nanoseconds from the epoch, either way: `SystemTime`'s own form knows no time before 1970.
#[derive(Serialize, Deserialize)]
struct WireTime {
    before: bool,
    seconds: u64,
    nanoseconds: u32,
}

impl WireTime {
    fn of(time: SystemTime) -> Self {
        let (before, distance) = match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => (false, after),
            Err(error) => (true, error.duration()),
        };
        Self { before, seconds: distance.as_secs(), nanoseconds: distance.subsec_nanos() }
    }

    fn time(&self) -> Option<SystemTime> {
        if self.nanoseconds >= 1_000_000_000 {
            return None;
        }
        let distance = std::time::Duration::new(self.seconds, self.nanoseconds);
        if self.before {
            SystemTime::UNIX_EPOCH.checked_sub(distance)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(distance)
        }
    }
}

impl CacheEntry {
    /// Returns how many bytes of memory the entry takes, about.
    pub fn weight(&self) -> u64 {
        let Seen::File { metadata, content } = &self.seen else { return OVERHEAD };
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let tags: usize = metadata.tags.iter().map(|(key, value)| key.len() + value.len() + 64).sum();
        let version = metadata.version.as_ref().map_or(0, |version| version.as_str().len());
        let texts = metadata.id.as_str().len()
            + text(&metadata.file_name)
            + text(&metadata.content_type)
            + tags
            + version;
        OVERHEAD + texts as u64 + content.as_ref().map_or(0, |content| content.len() as u64)
    }

    /// Writes the entry as bytes, for a store that is not in this process.
    ///
    /// # Errors
    /// None that can be met; it is for the encoder to say so.
    pub fn to_bytes(&self) -> Result<Bytes, super::CacheError> {
        let (file, content) = match &self.seen {
            Seen::Nothing => (None, None),
            Seen::File { metadata, content } => {
                let file = WireFile {
                    id: metadata.id.clone(),
                    size: metadata.size,
                    file_name: metadata.file_name.clone(),
                    content_type: metadata.content_type.clone(),
                    created: metadata.created.map(WireTime::of),
                    modified: metadata.modified.map(WireTime::of),
                    stored: metadata.stored.map(WireTime::of),
                    tags: metadata.tags.clone(),
                    digest: metadata.digest,
                    composite: metadata.composite,
                    version: metadata.version.clone(),
                    has_content: content.is_some(),
                };
                (Some(file), content.as_ref())
            }
        };
        let head = serde_json::to_vec(&Wire { stamp: self.stamp, file })?;
        let length = u32::try_from(head.len())?;
        let mut bytes = BytesMut::with_capacity(4 + head.len() + content.map_or(0, Bytes::len));
        bytes.put_u32(length);
        bytes.put_slice(&head);
        if let Some(content) = content {
            bytes.put_slice(content);
        }
        Ok(bytes.freeze())
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// Bytes that are something else, or not all of it.
    pub fn from_bytes(bytes: &Bytes) -> Result<Self, super::CacheError> {
        let length = bytes.first_chunk::<4>().ok_or("an entry of less than 4 bytes")?;
        let end = usize::try_from(u32::from_be_bytes(*length))?.saturating_add(4);
        let head = bytes.get(4..end).ok_or("an entry that is cut off")?;
        let Wire { stamp, file } = serde_json::from_slice(head)?;
        let Some(file) = file else { return Ok(Self { stamp, seen: Seen::Nothing }) };
        let content = file.has_content.then(|| bytes.slice(end..));
        if content.as_ref().is_some_and(|content| content.len() as u64 != file.size) {
            return Err("an entry whose content is cut off".into());
        }
        let time = |time: Option<WireTime>| match time {
            Some(time) => time.time().ok_or("a time that cannot be").map(Some),
            None => Ok(None),
        };
        let mut metadata = FileMetadata::new(file.id, file.size);
        metadata.file_name = file.file_name;
        metadata.content_type = file.content_type;
        metadata.created = time(file.created)?;
        metadata.modified = time(file.modified)?;
        metadata.stored = time(file.stored)?;
        metadata.tags = file.tags;
        metadata.digest = file.digest;
        metadata.composite = file.composite;
        metadata.version = file.version;
        Ok(Self { stamp, seen: Seen::File { metadata: Arc::new(metadata), content } })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::epochs::Epochs;
    use super::*;

    fn entry(content: Option<&'static str>) -> CacheEntry {
        let id = FileId::parse("ä/b\n").unwrap();
        let epochs = Epochs::new();
        drop(epochs.write(&id));
        let stamp = Stamp { maker: u64::MAX, epoch: epochs.now(&id).unwrap() };
        let mut metadata = FileMetadata::new(id, content.map_or(9, |content| content.len() as u64));
        metadata.file_name = Some("ä \0".to_owned());
        metadata.content_type = Some("text/plain".to_owned());
        metadata.created = Some(SystemTime::UNIX_EPOCH - Duration::new(5, 7));
        metadata.modified = Some(SystemTime::UNIX_EPOCH + Duration::new(5, 999_999_999));
        metadata.stored = Some(SystemTime::UNIX_EPOCH + Duration::new(6, 1));
        metadata.tags.insert("k".to_owned(), String::new());
        metadata.digest = Some(Digest::of(b"x"));
        metadata.composite = Some(CompositeDigest::of_parts(5, &[Digest::of(b"y")]));
        metadata.version = Some(Version::new("\"v\""));
        CacheEntry {
            stamp,
            seen: Seen::File {
                metadata: Arc::new(metadata),
                content: content.map(|content| Bytes::from_static(content.as_bytes())),
            },
        }
    }

    #[test]
    fn an_entry_comes_back_from_bytes_as_it_was() {
        let nothing = CacheEntry { seen: Seen::Nothing, ..entry(None) };
        for entry in [nothing, entry(None), entry(Some("")), entry(Some("content"))] {
            let bytes = entry.to_bytes().unwrap();
            assert_eq!(CacheEntry::from_bytes(&bytes).unwrap(), entry);
        }
    }

    /// A shared cache may lose the end of a value; half a file must not be shown as whole.
    #[test]
    fn bytes_that_are_cut_off_are_no_entry() {
        let bytes = entry(Some("content")).to_bytes().unwrap();
        for end in 0..bytes.len() {
            assert!(CacheEntry::from_bytes(&bytes.slice(..end)).is_err(), "{end} of {}", bytes.len());
        }
    }

    #[test]
    fn content_weighs() {
        assert!(entry(Some("0123456789")).weight() >= entry(None).weight() + 10);
    }
}
