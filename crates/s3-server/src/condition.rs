//! Conditional requests: the order of RFC 9110 section 13.2.2, and S3's conditional writes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::{HeaderMap, header};
use s3s::dto::{ETagCondition, Timestamp, TimestampFormat};
use s3s::{S3Error, S3ErrorCode, S3Result};
use storage_core::error::ErrorKind;
use storage_core::id::FileId;
use storage_core::metadata::FileMetadata;
use storage_core::storage::{FileStorage, Precondition};

use crate::{error, etag};

/// Conditions on the file that is read.
#[derive(Debug, Default)]
pub(crate) struct ReadConditions {
    pub(crate) if_match: Option<ETagCondition>,
    pub(crate) if_none_match: Option<ETagCondition>,
    pub(crate) if_modified_since: Option<Timestamp>,
    pub(crate) if_unmodified_since: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Holds,
    NotModified,
    Failed,
}

impl ReadConditions {
    pub(crate) fn is_empty(&self) -> bool {
        self.if_match.is_none()
            && self.if_none_match.is_none()
            && self.if_modified_since.is_none()
            && self.if_unmodified_since.is_none()
    }

    fn evaluate(&self, file: &FileMetadata) -> Outcome {
        let etag = etag::of(file);
        let modified = file.modified.map(whole_seconds);
        if let Some(condition) = &self.if_match {
            if !etag::matches(condition, &etag) {
                return Outcome::Failed;
            }
        } else if let (Some(since), Some(modified)) = (&self.if_unmodified_since, modified)
            && Timestamp::from(modified) > *since
        {
            return Outcome::Failed;
        }
        if let Some(condition) = &self.if_none_match {
            if etag::matches(condition, &etag) {
                return Outcome::NotModified;
            }
        } else if let (Some(since), Some(modified)) = (&self.if_modified_since, modified)
            && Timestamp::from(modified) <= *since
        {
            return Outcome::NotModified;
        }
        Outcome::Holds
    }

    /// Checks the conditions of a GET or HEAD.
    ///
    /// # Errors
    /// `NotModified` (304) with the ETag, or `PreconditionFailed`.
    pub(crate) fn check(&self, file: &FileMetadata) -> S3Result<()> {
        match self.evaluate(file) {
            Outcome::Holds => Ok(()),
            Outcome::Failed => Err(failed()),
            Outcome::NotModified => {
                let mut answer = S3Error::new(S3ErrorCode::NotModified);
                let mut headers = HeaderMap::new();
                if let Ok(value) = etag::of(file).to_http_header() {
                    headers.insert(header::ETAG, value);
                }
                if let Some(value) = file.modified.and_then(http_date) {
                    headers.insert(header::LAST_MODIFIED, value);
                }
                answer.set_headers(headers);
                Err(answer)
            }
        }
    }

    /// Checks the conditions on the source of a copy, all of which fail alike.
    ///
    /// # Errors
    /// `PreconditionFailed`.
    pub(crate) fn check_source(&self, file: &FileMetadata) -> S3Result<()> {
        if self.evaluate(file) == Outcome::Holds { Ok(()) } else { Err(failed()) }
    }
}

/// Reads a condition that the typed input of an operation does not have.
///
/// # Errors
/// `InvalidArgument` for a value that is no ETag.
pub(crate) fn from_header(headers: &HeaderMap, name: &header::HeaderName) -> S3Result<Option<ETagCondition>> {
    let parse = |value: &header::HeaderValue| ETagCondition::parse_http_header(value.as_bytes());
    headers
        .get(name)
        .map(parse)
        .transpose()
        .map_err(|_| error::invalid_argument(format!("{name} is no ETag")))
}

/// Turns the conditions of a write into one that the storage itself holds, so that no other writer comes between.
///
/// # Errors
/// `PreconditionFailed` when it does not hold already; `NotImplemented` where the storage cannot hold it, or S3
/// does not define it.
pub(crate) async fn for_write(
    storage: &dyn FileStorage,
    id: &FileId,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<Precondition> {
    let capabilities = storage.capabilities();
    match (if_match, if_none_match) {
        (None, None) => Ok(Precondition::None),
        (None, Some(ETagCondition::Any)) if capabilities.conditional_create => Ok(Precondition::Absent),
        (None, Some(ETagCondition::Any)) => Err(error::not_implemented("If-None-Match on this storage")),
        (Some(ETagCondition::ETag(_)), None) if capabilities.conditional_replace => {
            for_version(storage, id, if_match).await
        }
        (Some(ETagCondition::ETag(_)), None) => Err(error::not_implemented("If-Match on this storage")),
        _ => Err(error::not_implemented(
            "a write with conditions other than If-None-Match: * or If-Match: ETAG",
        )),
    }
}

/// Finds the version that an `If-Match` names.
///
/// # Errors
/// `NoSuchKey`; `PreconditionFailed` when another version is stored; `NotImplemented` without versions.
pub(crate) async fn for_version(
    storage: &dyn FileStorage,
    id: &FileId,
    if_match: Option<&ETagCondition>,
) -> S3Result<Precondition> {
    let Some(condition) = if_match else { return Ok(Precondition::None) };
    let file = storage.metadata(id).await.map_err(error::outbound)?;
    if !etag::matches(condition, &etag::of(&file)) {
        return Err(failed());
    }
    match file.version {
        Some(version) => Ok(Precondition::Version(version)),
        None => Err(error::not_implemented("If-Match on this storage")),
    }
}

/// Says that a condition does not hold.
pub(crate) fn failed() -> S3Error {
    S3Error::with_message(S3ErrorCode::PreconditionFailed, "a condition of the request does not hold")
}

/// Tells whether the file became another one between two looks at it.
pub(crate) fn changed_meanwhile(error: &storage_core::error::Error) -> bool {
    error.kind() == ErrorKind::VersionMismatch
}

/// HTTP dates have no fractions: a file is not newer than the date that was told of it.
fn whole_seconds(time: SystemTime) -> SystemTime {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => UNIX_EPOCH + Duration::from_secs(since.as_secs()),
        Err(_) => time,
    }
}

fn http_date(time: SystemTime) -> Option<header::HeaderValue> {
    let mut text = Vec::new();
    Timestamp::from(time).format(TimestampFormat::HttpDate, &mut text).ok()?;
    header::HeaderValue::from_bytes(&text).ok()
}

#[cfg(test)]
mod tests {
    use s3s::dto::ETag;
    use storage_core::metadata::Version;

    use super::*;

    fn file() -> FileMetadata {
        let mut file = FileMetadata::new(FileId::parse("a").unwrap(), 1);
        file.version = Some(Version::new("1"));
        file.modified = Some(UNIX_EPOCH + Duration::from_millis(1_000_500));
        file
    }

    fn at(seconds: u64) -> Option<Timestamp> {
        Some(Timestamp::from(UNIX_EPOCH + Duration::from_secs(seconds)))
    }

    fn other() -> Option<ETagCondition> {
        Some(ETagCondition::ETag(ETag::Strong("other".into())))
    }

    fn same() -> Option<ETagCondition> {
        Some(ETagCondition::ETag(etag::of(&file())))
    }

    #[test]
    fn an_etag_outranks_a_date() {
        let both = ReadConditions { if_match: same(), if_unmodified_since: at(1), ..Default::default() };
        assert_eq!(both.evaluate(&file()), Outcome::Holds);
        let both =
            ReadConditions { if_none_match: other(), if_modified_since: at(9999), ..Default::default() };
        assert_eq!(both.evaluate(&file()), Outcome::Holds);
    }

    #[test]
    fn a_file_is_not_newer_than_the_date_that_was_told_of_it() {
        let condition = ReadConditions { if_modified_since: at(1000), ..Default::default() };
        assert_eq!(condition.evaluate(&file()), Outcome::NotModified);
        let condition = ReadConditions { if_unmodified_since: at(1000), ..Default::default() };
        assert_eq!(condition.evaluate(&file()), Outcome::Holds);
        let condition = ReadConditions { if_unmodified_since: at(999), ..Default::default() };
        assert_eq!(condition.evaluate(&file()), Outcome::Failed);
    }

    #[test]
    fn each_etag_condition_is_checked() {
        let condition = ReadConditions { if_match: other(), ..Default::default() };
        assert_eq!(condition.evaluate(&file()), Outcome::Failed);
        let condition = ReadConditions { if_none_match: same(), ..Default::default() };
        assert_eq!(condition.evaluate(&file()), Outcome::NotModified);
        let condition = ReadConditions { if_none_match: Some(ETagCondition::Any), ..Default::default() };
        assert_eq!(condition.evaluate(&file()), Outcome::NotModified);
    }
}
