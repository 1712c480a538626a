//! A file's attributes as those of an object, and back.
//!
//! The media type is the object's own. Name, time, digest and tags are one metadata value under [`KEY`], as a
//! query string (`name=a%20b&tag.owner=ann`): ASCII alone, as HTTP headers are, and a key that every store takes
//! (Azure wants identifiers, S3 folds the case). What else the object has belongs to others and stays with it
//! when it is copied.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use object_store::{Attribute, AttributeValue, Attributes, ObjectMeta};
use url::form_urlencoded;

use crate::checksum::Digest;
use crate::id::FileId;
use crate::metadata::{FileMetadata, Version, guess_content_type};
use crate::storage::UploadOptions;

/// Key of the metadata value that holds what an object store has no place for.
pub(super) const KEY: &str = "filestorage";

const NAME: &str = "name";
const CREATED: &str = "created";
const SHA256: &str = "sha256";
const TAG: &str = "tag.";

/// Writes the attributes of a new file into those that the object is to have.
pub(super) fn write(
    attributes: &mut Attributes,
    id: &FileId,
    options: &UploadOptions,
    digest: Option<Digest>,
) {
    let name = options.file_name.as_deref().unwrap_or(id.file_name());
    let content_type = options.content_type.clone().unwrap_or_else(|| guess_content_type(name));
    attributes.insert(Attribute::ContentType, AttributeValue::from(content_type));
    let mut text = form_urlencoded::Serializer::new(String::new());
    if let Some(file_name) = &options.file_name {
        text.append_pair(NAME, file_name);
    }
    if let Some(created) = options.created {
        text.append_pair(CREATED, &write_time(created));
    }
    if let Some(digest) = digest {
        text.append_pair(SHA256, &digest.to_string());
    }
    for (key, value) in &options.tags {
        text.append_pair(&format!("{TAG}{key}"), value);
    }
    attributes.insert(Attribute::Metadata(KEY.into()), AttributeValue::from(text.finish()));
}

/// Describes an object by what a listing tells of it.
pub(super) fn listed(id: FileId, meta: &ObjectMeta) -> FileMetadata {
    let mut metadata = FileMetadata::new(id, meta.size);
    metadata.modified = Some(meta.last_modified.into());
    metadata.version = version(meta.e_tag.as_deref());
    metadata
}

/// Describes an object with all its attributes.
pub(super) fn read(id: FileId, meta: &ObjectMeta, attributes: &Attributes) -> FileMetadata {
    let mut metadata = listed(id, meta);
    if let Some(text) = attributes.get(&Attribute::Metadata(KEY.into())) {
        for (key, value) in form_urlencoded::parse(text.as_bytes()) {
            match &*key {
                NAME => metadata.file_name = Some(value.into_owned()),
                CREATED => metadata.created = read_time(&value),
                SHA256 => metadata.digest = value.parse().ok(),
                key => {
                    if let Some(key) = key.strip_prefix(TAG) {
                        metadata.tags.insert(key.to_owned(), value.into_owned());
                    }
                }
            }
        }
    }
    let given = attributes.get(&Attribute::ContentType).map(|value| value.to_string());
    metadata.content_type = Some(given.unwrap_or_else(|| {
        guess_content_type(metadata.file_name.as_deref().unwrap_or(metadata.id.file_name()))
    }));
    metadata
}

pub(super) fn version(e_tag: Option<&str>) -> Option<Version> {
    e_tag.map(Version::new)
}

/// Seconds from the epoch, either way, and nanoseconds of that second.
fn write_time(time: SystemTime) -> String {
    match Timestamp::try_from(time) {
        Ok(time) => format!("{time:.9}"),
        // Beyond the year 9999, or before -9999.
        Err(_) => match time.duration_since(UNIX_EPOCH) {
            Ok(after) => format!("+{}.{:09}", after.as_secs(), after.subsec_nanos()),
            Err(before) => {
                let before = before.duration();
                format!("-{}.{:09}", before.as_secs(), before.subsec_nanos())
            }
        },
    }
}

fn read_time(text: &str) -> Option<SystemTime> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time.into());
    }
    let (sign, number) = text.split_at_checked(1)?;
    let (seconds, nanoseconds) = number.split_once('.')?;
    let nanoseconds = nanoseconds.parse().ok().filter(|nanoseconds| *nanoseconds < 1_000_000_000)?;
    let distance = Duration::new(seconds.parse().ok()?, nanoseconds);
    match sign {
        "+" => UNIX_EPOCH.checked_add(distance),
        "-" => UNIX_EPOCH.checked_sub(distance),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back_whatever_they_hold() {
        let id = FileId::parse("d/x.bin").unwrap();
        for created in [
            UNIX_EPOCH,
            UNIX_EPOCH - Duration::new(1, 1),
            UNIX_EPOCH + Duration::new(1_700_000_000, 999_999_999),
            UNIX_EPOCH + Duration::new(1 << 40, 7),
            UNIX_EPOCH - Duration::new(1 << 40, 7),
        ] {
            let digest = Digest::of(b"x");
            let options = UploadOptions::default()
                .with_file_name(" ä&=%+\n.txt")
                .with_created(created)
                .with_tag("k&=", "")
                .with_tag("tag.", "ключ");
            let mut attributes = Attributes::new();
            write(&mut attributes, &id, &options, Some(digest));
            let text = attributes.get(&Attribute::Metadata(KEY.into())).unwrap();
            assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{}", &**text);
            let meta = ObjectMeta {
                location: object_store::path::Path::parse(id.as_str()).unwrap(),
                last_modified: UNIX_EPOCH.into(),
                size: 1,
                e_tag: None,
                version: None,
            };
            let metadata = read(id.clone(), &meta, &attributes);
            assert_eq!(metadata.file_name, options.file_name);
            assert_eq!(metadata.created, Some(created));
            assert_eq!((metadata.tags, metadata.digest), (options.tags, Some(digest)));
            assert_eq!(metadata.content_type.as_deref(), Some("text/plain"));
        }
    }
}
