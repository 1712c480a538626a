//! What a server's answer says of an object, as the metadata of a file.

use std::collections::HashMap;
use std::time::SystemTime;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use aws_sdk_s3::types::ChecksumType;
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, LAST_MODIFIED};

use super::attributes::{self, HEADER_PREFIX};
use crate::checksum::{CompositeDigest, Digest};
use crate::id::FileId;
use crate::metadata::{FileMetadata, Version};

/// What the server says of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Facts {
    pub(super) size: Option<i64>,
    pub(super) etag: Option<String>,
    modified: Option<DateTime>,
    content_type: Option<String>,
    metadata: Option<HashMap<String, String>>,
    checksum: Option<String>,
    checksum_type: Option<ChecksumType>,
}

impl From<&HeadObjectOutput> for Facts {
    fn from(head: &HeadObjectOutput) -> Self {
        Self {
            size: head.content_length,
            etag: head.e_tag.clone(),
            modified: head.last_modified,
            content_type: head.content_type.clone(),
            metadata: head.metadata.clone(),
            checksum: head.checksum_sha256.clone(),
            checksum_type: head.checksum_type.clone(),
        }
    }
}

impl From<&GetObjectOutput> for Facts {
    fn from(get: &GetObjectOutput) -> Self {
        Self {
            size: get.content_length,
            etag: get.e_tag.clone(),
            modified: get.last_modified,
            content_type: get.content_type.clone(),
            metadata: get.metadata.clone(),
            checksum: get.checksum_sha256.clone(),
            checksum_type: get.checksum_type.clone(),
        }
    }
}

/// Of an answer to a GET that nobody but hyper has read.
impl TryFrom<&HeaderMap> for Facts {
    type Error = String;

    fn try_from(headers: &HeaderMap) -> Result<Self, String> {
        let mut facts = Self::default();
        for (name, value) in headers {
            // Servers send bytes beyond ASCII, which `HeaderValue::to_str` does not take.
            let text = || {
                std::str::from_utf8(value.as_bytes()).map_err(|_| format!("the header {name} is no UTF-8"))
            };
            if let Some(name) = name.as_str().strip_prefix(HEADER_PREFIX) {
                facts.metadata.get_or_insert_default().insert(name.to_owned(), text()?.to_owned());
            } else if name == CONTENT_LENGTH {
                facts.size = text()?.parse().ok();
            } else if name == ETAG {
                facts.etag = Some(text()?.to_owned());
            } else if name == LAST_MODIFIED {
                facts.modified = DateTime::from_str(text()?, DateTimeFormat::HttpDate).ok();
            } else if name == CONTENT_TYPE {
                facts.content_type = Some(text()?.to_owned());
            } else if name == "x-amz-checksum-sha256" {
                facts.checksum = Some(text()?.to_owned());
            } else if name == "x-amz-checksum-type" {
                facts.checksum_type = Some(ChecksumType::from(text()?));
            }
        }
        Ok(facts)
    }
}

/// Tells whether the object was stored by one request, whose time it has then: an upload in parts has that of its
/// beginning, however late it was finished ("Working with object metadata", Amazon S3 User Guide), and an ETag with
/// the number of its parts. Other ETags are of servers that may show a time which is not theirs.
fn is_of_one_request(etag: &str) -> bool {
    let etag = etag.trim_matches('"');
    etag.len() == 32 && etag.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl Facts {
    /// Puts them together, for a file of `size` bytes: those of an answer with a range are not the file's.
    pub(super) fn file(self, id: &FileId, size: u64) -> FileMetadata {
        let attributes = attributes::decode(&self.metadata.unwrap_or_default().into_iter().collect());
        let mut file = FileMetadata::new(id.clone(), size);
        file.file_name = attributes.file_name;
        file.content_type = self.content_type;
        file.created = attributes.created;
        file.modified = self.modified.and_then(time);
        file.stored = file.modified.filter(|_| self.etag.as_deref().is_some_and(is_of_one_request));
        file.tags = attributes.tags;
        file.version = self.etag.as_deref().map(version);
        let checksum = checksum(self.checksum.as_deref(), self.checksum_type.as_ref());
        let told = match checksum {
            Some(Checksum::Whole(digest)) => Some(digest),
            _ => None,
        };
        // The server's own word on the bytes goes before what whoever wrote them says: attributes may be copied along.
        file.digest = told.or(attributes.digest);
        if let (Some(Checksum::Composite(digest, told)), Some(part_size)) = (checksum, attributes.part_size) {
            let parts = u32::try_from(size.div_ceil(part_size).max(1)).ok();
            file.composite = parts
                .filter(|parts| told.is_none_or(|told| told == *parts))
                .map(|parts| CompositeDigest { digest, part_size, parts });
        }
        file
    }
}

#[derive(Clone, Copy)]
enum Checksum {
    Whole(Digest),
    /// With the number of parts, where the server tells it.
    Composite(Digest, Option<u32>),
}

/// Tells the two kinds of SHA-256 apart: by the type, or by the number of parts behind a `-`. Without either it is
/// not known which it is, and a wrong guess would make a good file unreadable.
fn checksum(value: Option<&str>, kind: Option<&ChecksumType>) -> Option<Checksum> {
    let value = value?;
    if let Some((value, parts)) = value.rsplit_once('-') {
        return Some(Checksum::Composite(Digest::from_base64(value).ok()?, Some(parts.parse().ok()?)));
    }
    let digest = Digest::from_base64(value).ok()?;
    match kind {
        Some(ChecksumType::Composite) => Some(Checksum::Composite(digest, None)),
        Some(ChecksumType::FullObject) => Some(Checksum::Whole(digest)),
        _ => None,
    }
}

pub(super) fn time(time: DateTime) -> Option<SystemTime> {
    SystemTime::try_from(time).ok()
}

/// Takes an ETag as a token, with its quotes: some listings leave them out.
pub(super) fn version(etag: &str) -> Version {
    if etag.ends_with('"') { Version::new(etag) } else { Version::new(format!("\"{etag}\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_composite_is_never_taken_for_the_digest_of_the_whole() {
        let digest = Digest::of(b"x");
        let text = digest.to_base64();
        let composite = |checksum| matches!(checksum, Some(Checksum::Composite(found, _)) if found == digest);
        assert!(composite(checksum(Some(&format!("{text}-2")), None)));
        assert!(composite(checksum(Some(&text), Some(&ChecksumType::Composite))));
        let whole = checksum(Some(&text), Some(&ChecksumType::FullObject));
        assert!(matches!(whole, Some(Checksum::Whole(found)) if found == digest));
        // A copy of a multipart object on a server that forgets the type.
        assert!(checksum(Some(&text), None).is_none());
        assert!(checksum(Some("x"), None).is_none());
    }

    #[test]
    fn what_the_server_computed_goes_before_what_was_written_beside_the_bytes() {
        let (right, stale) = (Digest::of(b"right"), Digest::of(b"stale"));
        let written = attributes::Attributes { digest: Some(stale), ..Default::default() };
        let facts = |told: Option<Digest>, kind| Facts {
            metadata: Some(attributes::encode(&written).into_iter().collect()),
            checksum: told.map(|digest| digest.to_base64()),
            checksum_type: kind,
            ..Facts::default()
        };
        let digest = |facts: Facts| facts.file(&FileId::parse("a").unwrap(), 5).digest;
        assert_eq!(digest(facts(Some(right), Some(ChecksumType::FullObject))), Some(right));
        assert_eq!(digest(facts(Some(right), Some(ChecksumType::Composite))), Some(stale));
        assert_eq!(digest(facts(None, None)), Some(stale));
    }
}
