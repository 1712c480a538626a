//! Headers that describe a file, and the attributes a storage keeps.
//!
//! `Content-Type` is an attribute of its own and `x-amz-meta-*` is read and written by the S3 backend's module;
//! the other descriptive headers of HTTP are kept as tags under the names `http:<header>` and answered as
//! headers again.

use std::collections::BTreeMap;

use hyper::{HeaderMap, header};
use s3s::{S3Error, S3ErrorCode, S3Result};
use storage_core::backend::s3::attributes::{self as meta, Attributes, HEADER_PREFIX};
use storage_core::error::Op;
use storage_core::metadata::{FileMetadata, Tags};
use storage_core::storage::UploadOptions;

use crate::error;

const KEPT: [header::HeaderName; 5] = [
    header::CACHE_CONTROL,
    header::CONTENT_DISPOSITION,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::EXPIRES,
];

const TAG_PREFIX: &str = "http:";

/// What a request says of the file it brings.
#[derive(Debug)]
pub(crate) struct Described {
    pub(crate) options: UploadOptions,
    /// Size of every part but the last, where the client tells it.
    pub(crate) part_size: Option<u64>,
}

/// Reads the describing headers of an upload.
///
/// # Errors
/// `MetadataTooLarge`; `InvalidArgument` for a value that is not UTF-8.
pub(crate) fn read(headers: &HeaderMap) -> S3Result<Described> {
    let mut map = BTreeMap::new();
    for (name, value) in headers {
        if let Some(name) = name.as_str().strip_prefix(HEADER_PREFIX).filter(|name| !name.is_empty()) {
            map.insert(name.to_owned(), text(name, value)?);
        }
    }
    meta::check_size(&map, Op::Upload).map_err(|error| {
        S3Error::with_message(S3ErrorCode::MetadataTooLarge, error.message().unwrap_or_default().to_owned())
    })?;
    let Attributes { file_name, created, tags, digest, part_size, .. } = meta::decode(&map);
    let mut options = UploadOptions::default();
    options.file_name = file_name;
    options.created = created;
    options.tags = tags;
    options.digest = digest;
    for name in &KEPT {
        if let Some(value) = headers.get(name) {
            let value = text(name.as_str(), value)?;
            let value = if *name == header::CONTENT_ENCODING { without_chunking(&value) } else { value };
            if !value.is_empty() {
                options.tags.insert(format!("{TAG_PREFIX}{name}"), value);
            }
        }
    }
    if let Some(value) = headers.get(header::CONTENT_TYPE) {
        options.content_type = Some(text("content-type", value)?).filter(|value| !value.is_empty());
    }
    Ok(Described { options, part_size })
}

/// Writes the describing headers of an answer, all but `Content-Type`.
///
/// # Errors
/// An internal error for an attribute that no header can carry.
pub(crate) fn write(file: &FileMetadata) -> S3Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    let mut attributes = Attributes::default();
    attributes.file_name.clone_from(&file.file_name);
    attributes.created = file.created;
    attributes.digest = file.digest;
    attributes.part_size = file.composite.map(|composite| composite.part_size).filter(|size| *size > 0);
    attributes.tags = file.tags.iter().filter(|(key, _)| kept(key).is_none()).map(owned).collect::<Tags>();
    for (key, value) in &file.tags {
        if let (Some(name), Ok(value)) = (kept(key), header::HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
    for (name, value) in meta::encode(&attributes) {
        let name = header::HeaderName::try_from(format!("{HEADER_PREFIX}{name}"));
        let value = header::HeaderValue::try_from(value);
        let (Ok(name), Ok(value)) = (name, value) else {
            let message = "an attribute of the file cannot be a header";
            return Err(S3Error::with_message(S3ErrorCode::InternalError, message));
        };
        headers.insert(name, value);
    }
    Ok(headers)
}

fn owned((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}

fn kept(tag: &str) -> Option<header::HeaderName> {
    let name = tag.strip_prefix(TAG_PREFIX)?;
    KEPT.iter().find(|header| header.as_str() == name).cloned()
}

/// `aws-chunked` says how the request was framed and is no property of the file.
fn without_chunking(encoding: &str) -> String {
    let codings =
        encoding.split(',').map(str::trim).filter(|coding| !coding.eq_ignore_ascii_case("aws-chunked"));
    codings.collect::<Vec<_>>().join(",")
}

fn text(name: &str, value: &header::HeaderValue) -> S3Result<String> {
    std::str::from_utf8(value.as_bytes())
        .map(str::to_owned)
        .map_err(|_| error::invalid_argument(format!("the value of {name} is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use storage_core::id::FileId;

    use super::*;

    #[test]
    fn describing_headers_come_back_as_they_went_in() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("cache-control", "no-cache"),
            ("content-encoding", "aws-chunked, gzip"),
            ("content-type", "text/plain; charset=utf-8"),
            ("x-amz-meta-mtime", "1700000000.5"),
            ("x-amz-meta-tag-a", "b%20c"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        let described = read(&headers).unwrap();
        assert_eq!(described.options.tags["a"], "b c");
        let mut file = FileMetadata::new(FileId::parse("x").unwrap(), 0);
        file.tags = described.options.tags;
        let answer = write(&file).unwrap();
        assert_eq!(answer["cache-control"], "no-cache");
        assert_eq!(answer["content-encoding"], "gzip");
        assert_eq!(answer["x-amz-meta-mtime"], "1700000000.5");
        assert_eq!(answer["x-amz-meta-tag-a"], "b%20c");
        assert_eq!(answer.len(), 4);
    }

    #[test]
    fn framing_alone_is_no_encoding_of_the_file() {
        let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, "aws-chunked".parse().unwrap())]);
        assert!(read(&headers).unwrap().options.tags.is_empty());
    }

    #[test]
    fn metadata_beyond_the_limit_is_refused() {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-meta-a", "x".repeat(meta::MAX_BYTES).parse().unwrap());
        assert_eq!(read(&headers).unwrap_err().code(), &S3ErrorCode::MetadataTooLarge);
    }
}
