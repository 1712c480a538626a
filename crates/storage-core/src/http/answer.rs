//! Answers that are no file: a status, and a body that says no more than it.

use axum::body::Body;
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use crate::error::{Error, ErrorKind, Op};

/// A request that was not carried out.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    headers: HeaderMap,
}

impl Refusal {
    pub(super) fn new(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new() }
    }

    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// No permission, and no word on why.
    pub(super) fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN)
    }

    pub(super) fn method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED)
            .with(header::ALLOW, HeaderValue::from_static("GET, HEAD, PUT"))
    }

    /// Tells whether the client stopped sending.
    pub(super) fn is_timeout(&self) -> bool {
        self.status == StatusCode::REQUEST_TIMEOUT
    }

    pub(super) fn into_response(self) -> Response {
        let mut text = self.status.canonical_reason().unwrap_or("failed").to_lowercase();
        text.push('\n');
        // A 304 has no body (RFC 9110 section 15.4.5).
        let body = if self.status == StatusCode::NOT_MODIFIED { Body::empty() } else { Body::from(text) };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        if self.status != StatusCode::NOT_MODIFIED {
            let plain = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, plain);
        }
        guard(response.headers_mut());
        response
    }
}

/// A failure of the storage, or of the body that was to be stored.
impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let status = status(error.kind(), error.op());
        if status.is_server_error() {
            tracing::warn!(%error, status = status.as_u16(), "a presigned request failed");
        } else {
            tracing::debug!(%error, status = status.as_u16(), "a presigned request was refused");
        }
        let refusal = Self::new(status);
        match status {
            StatusCode::SERVICE_UNAVAILABLE => {
                refusal.with(header::RETRY_AFTER, HeaderValue::from_static("1"))
            }
            _ => refusal,
        }
    }
}

fn status(kind: ErrorKind, op: Op) -> StatusCode {
    let by_client = op == Op::ReadBody;
    match kind {
        // What is not a file is nobody's business.
        ErrorKind::NotFound | ErrorKind::NotAFile => StatusCode::NOT_FOUND,
        ErrorKind::AlreadyExists | ErrorKind::VersionMismatch => StatusCode::PRECONDITION_FAILED,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::Denied => StatusCode::FORBIDDEN,
        ErrorKind::InvalidInput => StatusCode::BAD_REQUEST,
        ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::SourceChanged if by_client => StatusCode::BAD_REQUEST,
        ErrorKind::Timeout if by_client => StatusCode::REQUEST_TIMEOUT,
        ErrorKind::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
        ErrorKind::Unavailable | ErrorKind::Throttled | ErrorKind::SourceChanged => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        // The service's own fault: its credentials, its configuration, its disk.
        ErrorKind::Unauthenticated
        | ErrorKind::Integrity
        | ErrorKind::NoSuchUpload
        | ErrorKind::Misconfigured
        | ErrorKind::Other => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Sets what every answer has: a browser takes the body for nothing but what it is said to be, runs nothing in it,
/// and tells no other site the URL.
pub(super) fn guard(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "sandbox"),
        (header::REFERRER_POLICY, "no-referrer"),
        // The URL expires; a shared cache would go on answering.
        (header::CACHE_CONTROL, "private, no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_told_whose_fault_it_is() {
        assert_eq!(status(ErrorKind::Timeout, Op::ReadBody), StatusCode::REQUEST_TIMEOUT);
        assert_eq!(status(ErrorKind::Timeout, Op::Upload), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(status(ErrorKind::SourceChanged, Op::ReadBody), StatusCode::BAD_REQUEST);
        assert_eq!(status(ErrorKind::Unauthenticated, Op::Download), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(status(ErrorKind::StorageFull, Op::ReadBody), StatusCode::INSUFFICIENT_STORAGE);
    }
}
