//! GET, HEAD and GetObjectAttributes.

use std::ops::Range as Offsets;

use futures::stream::{self, StreamExt as _};
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::{HeaderMap, header};
use s3s::dto::*;
use s3s::{Body, S3Error, S3ErrorCode, S3Response, S3Result, StdError};
use storage_core::body::{ByteStream, collect, held_back};
use storage_core::error::ErrorKind;
use storage_core::id::FileId;
use storage_core::metadata::FileMetadata;
use storage_core::storage::{ByteRange, Download, DownloadOptions, FileStorage, Precondition};

use crate::condition::{ReadConditions, changed_meanwhile};
use crate::gateway::{Gateway, checksum_type, size};
use crate::{attributes, error, etag};

/// How often a conditional read starts over because the file became another one between look and read.
const TRIES: usize = 3;

/// Greatest body that is read whole before the answer begins: no more than the pieces that are held anyway.
const LOOK_AHEAD_BYTES: u64 = 64 << 10;

/// Which part of a file is asked for.
enum Wanted {
    All,
    Range(ByteRange),
    /// One of so many parts, if the file was stored in parts; the first part of any other file is the file.
    Part(i32),
}

impl Wanted {
    fn new(range: Option<Range>, part: Option<i32>) -> S3Result<Self> {
        match (range, part) {
            (Some(_), Some(_)) => {
                let message = "a range and a part number exclude each other";
                Err(S3Error::with_message(S3ErrorCode::InvalidRequest, message))
            }
            (None, Some(part)) => Ok(Self::Part(part)),
            (Some(range), None) => Ok(Self::Range(byte_range(range))),
            (None, None) => Ok(Self::All),
        }
    }

    /// Returns the range to read, and how many parts there are.
    fn resolve(&self, file: &FileMetadata) -> S3Result<(Option<ByteRange>, Option<i32>)> {
        let part = match self {
            Self::All => return Ok((None, None)),
            Self::Range(range) => return Ok((Some(*range), None)),
            Self::Part(part) => *part,
        };
        let invalid = || {
            let mut error = S3Error::with_message(
                S3ErrorCode::Custom("InvalidPartNumber".into()),
                "there is no such part",
            );
            error.set_status_code(hyper::StatusCode::RANGE_NOT_SATISFIABLE);
            error
        };
        let index = u64::try_from(part).ok().and_then(|part| part.checked_sub(1)).ok_or_else(invalid)?;
        match file.composite {
            Some(composite) if composite.part_size > 0 => {
                if index >= u64::from(composite.parts) {
                    return Err(invalid());
                }
                let start = index * composite.part_size;
                let parts = i32::try_from(composite.parts).ok();
                if file.size == 0 {
                    return Ok((None, parts));
                }
                Ok((Some(ByteRange::Between(start, start + composite.part_size)), parts))
            }
            _ if index == 0 => Ok((None, None)),
            _ => Err(invalid()),
        }
    }
}

impl Gateway {
    pub(super) async fn get(
        &self,
        input: GetObjectInput,
        signed: bool,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let overrides = input.response_cache_control.is_some()
            || input.response_content_disposition.is_some()
            || input.response_content_encoding.is_some()
            || input.response_content_language.is_some()
            || input.response_content_type.is_some()
            || input.response_expires.is_some();
        check_overrides(overrides, signed)?;
        let (storage, id) = self.existing(&input.bucket, &input.key)?;
        let wanted = Wanted::new(input.range, input.part_number)?;
        let conditions = ReadConditions {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            if_modified_since: input.if_modified_since,
            if_unmodified_since: input.if_unmodified_since,
        };
        let (download, parts_count) = open(&**storage, &id, &wanted, &conditions).await?;
        let Download { metadata: file, range, body, .. } = download;
        let body = look_ahead(body, range.end - range.start).await?;
        let partial = !matches!(wanted, Wanted::All) && range != (0..file.size);
        let mut headers = attributes::write(&file)?;
        // What the client asked to be answered instead was set already.
        for (asked, name) in [
            (input.response_cache_control.is_some(), header::CACHE_CONTROL),
            (input.response_content_disposition.is_some(), header::CONTENT_DISPOSITION),
            (input.response_content_encoding.is_some(), header::CONTENT_ENCODING),
            (input.response_content_language.is_some(), header::CONTENT_LANGUAGE),
            (input.response_expires.is_some(), header::EXPIRES),
        ] {
            if asked {
                headers.remove(name);
            }
        }
        let mut output = GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(size(range.end - range.start)),
            content_range: (partial || matches!(wanted, Wanted::Range(_)))
                .then(|| content_range(&range, &file)),
            content_type: file.content_type.clone(),
            e_tag: Some(etag::of(&file)),
            last_modified: file.modified.map(Into::into),
            parts_count,
            body: Some(to_the_end(body).into()),
            ..Default::default()
        };
        if !partial && wants_checksum(input.checksum_mode.as_ref()) {
            let (sha256, kind) = told_checksum(&file);
            (output.checksum_sha256, output.checksum_type) = (sha256, kind);
        }
        Ok(S3Response::with_headers(output, headers))
    }

    pub(super) async fn head(
        &self,
        input: HeadObjectInput,
        signed: bool,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let overrides = [
            (header::CACHE_CONTROL, input.response_cache_control),
            (header::CONTENT_DISPOSITION, input.response_content_disposition),
            (header::CONTENT_ENCODING, input.response_content_encoding),
            (header::CONTENT_LANGUAGE, input.response_content_language),
            (header::CONTENT_TYPE, input.response_content_type),
        ];
        let asked = overrides.iter().any(|(_, value)| value.is_some()) || input.response_expires.is_some();
        check_overrides(asked, signed)?;
        let (storage, id) = self.existing(&input.bucket, &input.key)?;
        let wanted = Wanted::new(input.range, input.part_number)?;
        let conditions = ReadConditions {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            if_modified_since: input.if_modified_since,
            if_unmodified_since: input.if_unmodified_since,
        };
        let file = storage.metadata(&id).await.map_err(error::outbound)?;
        conditions.check(&file)?;
        let (range, parts_count) = wanted.resolve(&file)?;
        let offsets = match range {
            Some(range) => range.resolve(file.size).ok_or_else(|| unsatisfiable(file.size))?,
            None => 0..file.size,
        };
        let mut output = HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(size(offsets.end - offsets.start)),
            content_range: range.map(|_| content_range(&offsets, &file)),
            content_type: file.content_type.clone(),
            e_tag: Some(etag::of(&file)),
            last_modified: file.modified.map(Into::into),
            parts_count,
            expires: input.response_expires.clone(),
            ..Default::default()
        };
        if range.is_none() && wants_checksum(input.checksum_mode.as_ref()) {
            (output.checksum_sha256, output.checksum_type) = told_checksum(&file);
        }
        let mut headers = attributes::write(&file)?;
        for (name, value) in overrides {
            if let Some(value) = value {
                let value = header::HeaderValue::from_str(&value);
                headers.insert(
                    name,
                    value.map_err(|_| error::invalid_argument("a header that cannot be answered"))?,
                );
            }
        }
        if input.response_expires.is_some() {
            headers.remove(header::EXPIRES);
        }
        Ok(S3Response::with_headers(output, headers))
    }

    pub(super) async fn attributes(
        &self,
        input: GetObjectAttributesInput,
    ) -> S3Result<S3Response<GetObjectAttributesOutput>> {
        let (storage, id) = self.existing(&input.bucket, &input.key)?;
        let file = storage.metadata(&id).await.map_err(error::outbound)?;
        let asked = |name: &str| input.object_attributes.iter().any(|one| one.as_str() == name);
        let mut output =
            GetObjectAttributesOutput { last_modified: file.modified.map(Into::into), ..Default::default() };
        if asked(ObjectAttributes::ETAG) {
            output.e_tag = Some(etag::of(&file));
        }
        if asked(ObjectAttributes::OBJECT_SIZE) {
            output.object_size = Some(size(file.size));
        }
        if asked(ObjectAttributes::STORAGE_CLASS) {
            output.storage_class = Some(StorageClass::from_static(StorageClass::STANDARD));
        }
        if asked(ObjectAttributes::CHECKSUM) {
            let (checksum_sha256, checksum_type) = told_checksum(&file);
            output.checksum = checksum_sha256.is_some().then(|| Checksum {
                checksum_sha256,
                checksum_type,
                ..Default::default()
            });
        }
        if asked(ObjectAttributes::OBJECT_PARTS) {
            output.object_parts = file.composite.map(|composite| GetObjectAttributesParts {
                total_parts_count: i32::try_from(composite.parts).ok(),
                ..Default::default()
            });
        }
        Ok(S3Response::new(output))
    }
}

/// Opens a file under conditions: what is read is what they were checked against.
async fn open(
    storage: &dyn FileStorage,
    id: &FileId,
    wanted: &Wanted,
    conditions: &ReadConditions,
) -> S3Result<(Download, Option<i32>)> {
    let mut tries = 0;
    loop {
        tries += 1;
        let mut options = DownloadOptions::default();
        let mut parts_count = None;
        if !conditions.is_empty() || matches!(wanted, Wanted::Part(_)) {
            let file = storage.metadata(id).await.map_err(error::outbound)?;
            conditions.check(&file)?;
            (options.range, parts_count) = wanted.resolve(&file)?;
            options.when = file.version.map_or(Precondition::None, Precondition::Version);
        } else if let Wanted::Range(range) = wanted {
            options.range = Some(*range);
        }
        let range = options.range;
        match storage.download(id, options).await {
            Ok(download) => return Ok((download, parts_count)),
            Err(error) if changed_meanwhile(&error) && tries < TRIES => {}
            Err(error) if error.kind() == ErrorKind::InvalidInput && range.is_some() => {
                let file = storage.metadata(id).await.map_err(error::outbound)?;
                return Err(unsatisfiable(file.size));
            }
            Err(error) => return Err(error::outbound(error)),
        }
    }
}

/// Reads a small body whole before anything is answered: bytes that turn out wrong are an error then, where
/// otherwise only the connection can be broken off.
async fn look_ahead(body: ByteStream, length: u64) -> S3Result<ByteStream> {
    if length > LOOK_AHEAD_BYTES {
        return Ok(body);
    }
    let bytes = collect(body).await.map_err(error::outbound)?;
    Ok(stream::once(async { Ok(bytes) }).boxed())
}

/// A body for the connection, which is broken off where the bytes turn out wrong.
fn to_the_end(body: ByteStream) -> Body {
    let pieces = held_back(body).map(|piece| match piece {
        Ok(piece) => Ok(Frame::data(piece)),
        Err(error) => {
            tracing::warn!(%error, "a download was cut off");
            Err(StdError::from(error))
        }
    });
    Body::http_body_unsync(StreamBody::new(pieces))
}

fn byte_range(range: Range) -> ByteRange {
    match range {
        Range::Int { first, last: None } => ByteRange::From(first),
        Range::Int { first, last: Some(last) } => ByteRange::Between(first, last.saturating_add(1)),
        Range::Suffix { length } => ByteRange::Last(length),
    }
}

fn content_range(range: &Offsets<u64>, file: &FileMetadata) -> String {
    format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), file.size)
}

fn unsatisfiable(size: u64) -> S3Error {
    let mut error = S3Error::new(S3ErrorCode::InvalidRange);
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/xml"));
    if let Ok(value) = header::HeaderValue::try_from(format!("bytes */{size}")) {
        headers.insert(header::CONTENT_RANGE, value);
    }
    error.set_headers(headers);
    error
}

fn check_overrides(asked: bool, signed: bool) -> S3Result<()> {
    if asked && !signed {
        let message = "response headers can be chosen by signed requests only";
        return Err(S3Error::with_message(S3ErrorCode::InvalidRequest, message));
    }
    Ok(())
}

fn wants_checksum(mode: Option<&ChecksumMode>) -> bool {
    mode.is_some_and(|mode| mode.as_str().eq_ignore_ascii_case(ChecksumMode::ENABLED))
}

/// Returns the SHA-256 that is told of a file: the composite of one that was stored in parts, as S3 does.
pub(super) fn told_checksum(file: &FileMetadata) -> (Option<String>, Option<ChecksumType>) {
    if let Some(composite) = file.composite {
        let text = format!("{}-{}", composite.digest.to_base64(), composite.parts);
        return (Some(text), Some(checksum_type(ChecksumType::COMPOSITE)));
    }
    let text = file.digest.map(|digest| digest.to_base64());
    let kind = text.is_some().then(|| checksum_type(ChecksumType::FULL_OBJECT));
    (text, kind)
}
