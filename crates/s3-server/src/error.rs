//! The storage's errors as S3 answers: the one place where kinds become codes.

use std::time::Duration;

use hyper::{HeaderMap, StatusCode, header};
use s3s::{S3Error, S3ErrorCode};
use storage_core::error::{Error, ErrorKind, Retry};
use storage_core::id::InvalidId;

/// Says that stored bytes are not those that were stored. No code of Amazon's says so; a client of this library
/// understands it, others see a server error.
const CORRUPT: &str = "ObjectCorrupt";

/// Which way the bytes went when the error arose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the client: bytes that do not match their checksum are the client's.
    In,
    /// To the client, or none: they are ours.
    Out,
}

/// Answers for a call that brought bytes in.
pub(crate) fn inbound(error: Error) -> S3Error {
    answer(error, Way::In)
}

/// Answers for every other call.
pub(crate) fn outbound(error: Error) -> S3Error {
    answer(error, Way::Out)
}

/// Answers for a listing: an entry that cannot be read must not vanish from an audit, so anything but an outage
/// is an internal error, whatever its kind.
pub(crate) fn listing(error: Error) -> S3Error {
    if error.is_outage() {
        return answer(error, Way::Out);
    }
    let message = format!("the listing is incomplete: {error}");
    tracing::warn!(%error, "listing failed");
    S3Error::with_message(S3ErrorCode::InternalError, message)
}

fn answer(error: Error, way: Way) -> S3Error {
    let (code, status) = match error.kind() {
        ErrorKind::NotFound => (S3ErrorCode::NoSuchKey, None),
        ErrorKind::AlreadyExists | ErrorKind::VersionMismatch => (S3ErrorCode::PreconditionFailed, None),
        ErrorKind::Conflict | ErrorKind::NotAFile => {
            (S3ErrorCode::Custom("ObjectNameConflict".into()), Some(StatusCode::CONFLICT))
        }
        ErrorKind::Denied => (S3ErrorCode::AccessDenied, None),
        ErrorKind::InvalidInput => (S3ErrorCode::InvalidArgument, None),
        ErrorKind::Unsupported => (S3ErrorCode::NotImplemented, None),
        ErrorKind::TooLarge => (S3ErrorCode::EntityTooLarge, None),
        ErrorKind::Integrity if way == Way::In => (S3ErrorCode::BadDigest, None),
        ErrorKind::Integrity => {
            tracing::warn!(%error, "stored bytes are not what was stored");
            (S3ErrorCode::Custom(CORRUPT.into()), Some(StatusCode::INTERNAL_SERVER_ERROR))
        }
        ErrorKind::NoSuchUpload => (S3ErrorCode::NoSuchUpload, None),
        ErrorKind::StorageFull => {
            (S3ErrorCode::Custom("InsufficientStorage".into()), Some(StatusCode::INSUFFICIENT_STORAGE))
        }
        ErrorKind::Unavailable | ErrorKind::Timeout => (S3ErrorCode::ServiceUnavailable, None),
        ErrorKind::Throttled => (S3ErrorCode::SlowDown, None),
        // The storage's own credentials, set-up or disk: nothing that this client did.
        _ => (S3ErrorCode::InternalError, None),
    };
    let mut answer = if code == S3ErrorCode::InternalError {
        tracing::warn!(%error, "the storage failed");
        S3Error::with_message(code, "the storage failed; its log says why")
    } else {
        S3Error::with_message(code, error.to_string())
    };
    if let Some(status) = status {
        answer.set_status_code(status);
    }
    if let Retry::After(delay) = error.retry() {
        answer.set_headers(retry_after(delay));
    }
    answer
}

fn retry_after(delay: Duration) -> HeaderMap {
    let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
    HeaderMap::from_iter([
        (header::RETRY_AFTER, seconds.into()),
        (header::CONTENT_TYPE, header::HeaderValue::from_static("application/xml")),
    ])
}

/// Answers for a key that no file can have, naming the rule.
pub(crate) fn invalid_key(reason: InvalidId) -> S3Error {
    match reason {
        InvalidId::TooLong(_) => S3Error::with_message(S3ErrorCode::KeyTooLongError, reason.to_string()),
        _ => {
            S3Error::with_message(S3ErrorCode::InvalidArgument, format!("the key is no file name: {reason}"))
        }
    }
}

/// Refuses an option that cannot be honoured: dropping it silently would be a lie.
pub(crate) fn not_implemented(what: impl std::fmt::Display) -> S3Error {
    S3Error::with_message(S3ErrorCode::NotImplemented, format!("{what} is not supported"))
}

/// Refuses a part of a completion.
pub(crate) fn invalid_part(message: String) -> S3Error {
    S3Error::with_message(S3ErrorCode::InvalidPart, message)
}

/// Refuses a value.
pub(crate) fn invalid_argument(message: impl Into<String>) -> S3Error {
    S3Error::with_message(S3ErrorCode::InvalidArgument, message.into())
}

#[cfg(test)]
mod tests {
    use storage_core::error::Op;

    use super::*;

    #[test]
    fn a_throttled_storage_says_slow_down_and_when() {
        let error = Error::new(ErrorKind::Throttled, Op::Upload)
            .with_retry(Retry::After(Duration::from_millis(1500)));
        let answer = inbound(error);
        assert_eq!(answer.code(), &S3ErrorCode::SlowDown);
        assert_eq!(answer.status_code(), Some(StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(answer.headers().unwrap()[header::RETRY_AFTER], "2");
    }

    #[test]
    fn bad_bytes_are_the_clients_on_the_way_in_and_ours_on_the_way_out() {
        let error = || Error::new(ErrorKind::Integrity, Op::Upload);
        assert_eq!(inbound(error()).code(), &S3ErrorCode::BadDigest);
        assert_eq!(outbound(error()).code().as_str(), CORRUPT);
        assert_eq!(outbound(error()).status_code(), Some(StatusCode::INTERNAL_SERVER_ERROR));
    }

    #[test]
    fn a_denied_entry_of_a_listing_is_no_answer_to_the_client() {
        let error = Error::new(ErrorKind::Denied, Op::List).with_subject("locked/");
        assert_eq!(listing(error).code(), &S3ErrorCode::InternalError);
        let outage = Error::new(ErrorKind::Unavailable, Op::List);
        assert_eq!(listing(outage).code(), &S3ErrorCode::ServiceUnavailable);
    }
}
