//! What the SDK and the server say, as [`Error`]: the one place where S3's error codes are known.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::dns::ResolveDnsError;

use crate::error::{Effect, Error, ErrorKind, Op, Retry};
use crate::storage::Precondition;

/// Longest delay taken from `Retry-After`: a server that asks for more is treated as if it had said this.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// What went wrong with one request, without anything of the request: no header, no signature, no URL.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    stage: Stage,
    status: Option<u16>,
    code: Option<String>,
    message: Option<String>,
    retry_after: Option<Duration>,
}

/// How far the request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It was not made: no credentials, an invalid header.
    NotBuilt,
    /// No connection came about, so nothing was sent.
    NotConnected,
    /// It was sent, in part or whole, and no answer came.
    NoAnswer,
    /// It was answered.
    Answered,
}

/// What the request was about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) op: Op,
    /// It changes what is stored.
    pub(super) writes: bool,
    /// What it carries as `If-Match` or `If-None-Match`.
    pub(super) when: &'a Precondition,
    /// Carried out twice it does two things.
    pub(super) once: bool,
}

impl Request<'static> {
    pub(super) const fn read(op: Op) -> Self {
        Self { op, writes: false, when: &Precondition::None, once: false }
    }

    pub(super) const fn write(op: Op) -> Self {
        Self { op, writes: true, when: &Precondition::None, once: false }
    }
}

impl<'a> Request<'a> {
    /// For a request that must not be repeated when its answer was lost.
    pub(super) const fn once(self) -> Self {
        Self { once: true, ..self }
    }

    pub(super) const fn with_when(self, when: &'a Precondition) -> Self {
        Self { when, ..self }
    }
}

impl Failure {
    pub(super) fn of<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        let mut failure =
            Self { stage: Stage::NoAnswer, status: None, code: None, message: None, retry_after: None };
        match error {
            SdkError::ConstructionFailure(_) => {
                failure.stage = Stage::NotBuilt;
                failure.message = Some(not_built(error));
            }
            SdkError::TimeoutError(_) => failure.message = Some(innermost(error)),
            SdkError::DispatchFailure(dispatch) => {
                failure.message = Some(innermost(error));
                // The one time limit the client has is that on connecting.
                if dispatch.is_timeout() || chain(error).any(not_connected) {
                    failure.stage = Stage::NotConnected;
                } else if dispatch.is_user() || (dispatch.is_other() && no_credentials(error)) {
                    failure.stage = Stage::NotBuilt;
                    failure.message = Some(not_built(error));
                }
            }
            SdkError::ResponseError(response) => {
                failure.message = Some(innermost(error));
                failure.status = Some(response.raw().status().as_u16());
            }
            SdkError::ServiceError(service) => {
                failure.stage = Stage::Answered;
                failure.status = Some(service.raw().status().as_u16());
                failure.code = service.err().code().map(str::to_owned);
                failure.message = service.err().message().map(str::to_owned);
                if service.raw().status().is_success() && failure.code.is_none() {
                    failure.message =
                        Some(format!("the answer makes no sense: {}", innermost(service.err())));
                }
                failure.retry_after = service
                    .raw()
                    .headers()
                    .get("retry-after")
                    .and_then(|value| value.trim().parse().ok())
                    .map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
            }
            _ => failure.message = Some(innermost(error)),
        }
        failure
    }

    /// Of a request that could not be made.
    pub(super) fn not_built(message: String) -> Self {
        Self::without_answer(Stage::NotBuilt, message)
    }

    /// Of a request for which no connection came about.
    pub(super) fn not_connected(message: String) -> Self {
        Self::without_answer(Stage::NotConnected, message)
    }

    /// Of a request that was sent, in part or whole, and of whose answer nothing came.
    pub(super) fn unanswered(message: String) -> Self {
        Self::without_answer(Stage::NoAnswer, message)
    }

    fn without_answer(stage: Stage, message: String) -> Self {
        Self { stage, status: None, code: None, message: Some(message), retry_after: None }
    }

    /// Of a request that was answered with no success.
    pub(super) fn answered(
        status: u16,
        code: Option<String>,
        message: Option<String>,
        retry_after: Option<u64>,
    ) -> Self {
        let retry_after = retry_after.map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
        Self { stage: Stage::Answered, status: Some(status), code, message, retry_after }
    }

    pub(super) fn status(&self) -> Option<u16> {
        self.status
    }

    pub(super) fn code(&self) -> &str {
        self.code.as_deref().unwrap_or_default()
    }

    /// Only its words tell it from other bad requests.
    fn is_about_encryption(&self) -> bool {
        self.message.as_deref().is_some_and(|message| message.to_ascii_lowercase().contains("encrypt"))
    }

    fn is_throttle(&self) -> bool {
        self.status == Some(429)
            || matches!(
                self.code(),
                "SlowDown"
                    | "SlowDownRead"
                    | "SlowDownWrite"
                    | "Throttling"
                    | "ThrottlingException"
                    | "RequestLimitExceeded"
                    | "TooManyRequests"
                    | "BandwidthLimitExceeded"
            )
    }

    /// Tells whether the request may be sent to another node of the cluster at once.
    pub(super) fn moves_on(&self, request: Request<'_>) -> bool {
        let conditional = request.writes && *request.when != Precondition::None;
        match self.stage {
            Stage::NotBuilt => false,
            Stage::NotConnected => true,
            // A request that may have been carried out must not meet its own object as somebody else's; without
            // a condition it does the same once more.
            Stage::NoAnswer => !conditional && !request.once,
            Stage::Answered => self.status == Some(503) && !self.is_throttle() && !conditional,
        }
    }

    /// Tells whether the request may have been carried out although it failed.
    pub(super) fn effect(&self, request: Request<'_>) -> Effect {
        let unknown = request.writes
            && match self.stage {
                Stage::NotBuilt | Stage::NotConnected => false,
                Stage::NoAnswer => true,
                Stage::Answered => {
                    let server_error = matches!(self.status, Some(500..=599) | Some(200..=299));
                    server_error && !self.is_throttle() && self.kind(request).0 != ErrorKind::Unsupported
                }
            };
        if unknown { Effect::Unknown } else { Effect::None }
    }

    /// Returns what a caller is told, and the next step where the server's own words do not say it.
    fn kind(&self, request: Request<'_>) -> (ErrorKind, Option<&'static str>) {
        match self.stage {
            Stage::NotBuilt if self.message.as_deref().is_some_and(|text| text.contains("redential")) => {
                return (
                    ErrorKind::Unauthenticated,
                    Some(
                        "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile",
                    ),
                );
            }
            Stage::NotBuilt => return (ErrorKind::InvalidInput, None),
            Stage::NotConnected | Stage::NoAnswer if self.status.is_none() => {
                return (ErrorKind::Unavailable, None);
            }
            _ => {}
        }
        if self.is_throttle() {
            return (ErrorKind::Throttled, None);
        }
        if let Some(found) = self.kind_of_code() {
            return found;
        }
        match (self.status.unwrap_or_default(), request.when) {
            (412, Precondition::Absent) => (ErrorKind::AlreadyExists, None),
            (412, _) => (ErrorKind::VersionMismatch, None),
            (304, _) => (ErrorKind::VersionMismatch, None),
            (404, Precondition::Version(_)) if request.writes => (ErrorKind::VersionMismatch, None),
            (404, _) => (ErrorKind::NotFound, None),
            (401, _) => (ErrorKind::Unauthenticated, None),
            (403, _) => (ErrorKind::Denied, None),
            (301 | 307, _) => (ErrorKind::Misconfigured, Some(OTHER_REGION)),
            (409, _) => (ErrorKind::Conflict, None),
            (413, _) => (ErrorKind::TooLarge, None),
            (405 | 501, _) => (ErrorKind::Unsupported, None),
            (507, _) => (ErrorKind::StorageFull, None),
            (408, _) => (ErrorKind::Timeout, None),
            (500 | 502 | 503 | 504, _) => (ErrorKind::Unavailable, None),
            (400 | 416, _) => (ErrorKind::InvalidInput, None),
            // A success whose answer broke off.
            (200..=299, _) if self.code.is_none() => (ErrorKind::Unavailable, None),
            _ => (ErrorKind::Other, None),
        }
    }

    fn kind_of_code(&self) -> Option<(ErrorKind, Option<&'static str>)> {
        let message = self.message.as_deref().unwrap_or_default();
        Some(match self.code() {
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "ExpiredToken"
            | "InvalidToken"
            | "TokenRefreshRequired"
            | "InvalidSecurity"
            | "AuthFailure"
            | "UnrecognizedClientException"
            | "NotSignedUp"
            | "MissingSecurityHeader" => (ErrorKind::Unauthenticated, None),
            // Garage has one code for all refusals; only its words tell a wrong key from a missing permission.
            "AccessDenied"
                if message.ends_with("Invalid signature") || message.contains("Forbidden: No such key:") =>
            {
                (ErrorKind::Unauthenticated, None)
            }
            "RequestTimeTooSkewed" => (
                ErrorKind::Misconfigured,
                Some("this machine's clock and the server's are more than 15 minutes apart"),
            ),
            "NoSuchBucket" => (
                ErrorKind::Misconfigured,
                Some("the bucket does not exist: create it, or correct `bucket` and `endpoints`"),
            ),
            "PermanentRedirect"
            | "TemporaryRedirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException"
            | "InvalidRegionName" => (ErrorKind::Misconfigured, Some(OTHER_REGION)),
            "NoSuchUpload" => (ErrorKind::NoSuchUpload, None),
            "BadDigest"
            | "InvalidDigest"
            | "XAmzContentChecksumMismatch"
            | "XAmzContentSHA256Mismatch"
            | "ChecksumMismatch" => (ErrorKind::Integrity, None),
            "ObjectCorrupt" | "XMinioObjectTampered" => {
                (ErrorKind::Integrity, Some("the server found that stored bytes are not what was stored"))
            }
            "EntityTooLarge" => (ErrorKind::TooLarge, None),
            "StorageFull" | "XMinioStorageFull" | "QuotaExceeded" | "XMinioAdminBucketQuotaExceeded" => {
                (ErrorKind::StorageFull, None)
            }
            "NotImplemented" | "XNotImplemented" => (ErrorKind::Unsupported, None),
            "ConditionalRequestConflict" | "OperationAborted" => (ErrorKind::Conflict, None),
            "ObjectNameConflict" | "XMinioParentIsObject" | "XMinioObjectExistsAsDirectory" => (
                ErrorKind::Conflict,
                Some("the server keeps objects as files, where no name is that of a file and a directory"),
            ),
            "RequestTimeout" => (ErrorKind::Timeout, None),
            "InternalError" | "ServiceUnavailable" => (ErrorKind::Unavailable, None),
            "MetadataTooLarge" | "KeyTooLongError" | "InvalidRange" => (ErrorKind::InvalidInput, None),
            "InvalidObjectState" => {
                (ErrorKind::Unsupported, Some("the object is archived: restore it before reading"))
            }
            _ => return None,
        })
    }

    /// Makes the error that a caller sees.
    pub(super) fn into_error(self, request: Request<'_>, effect: Effect) -> Error {
        let (kind, hint) = self.kind(request);
        let retry = match (self.retry_after, self.code()) {
            (_, "ConditionalRequestConflict" | "OperationAborted") => Some(Retry::Now),
            (Some(delay), _) if matches!(kind, ErrorKind::Throttled | ErrorKind::Unavailable) => {
                Some(Retry::After(delay))
            }
            _ => None,
        };
        // HEAD answers have no body, so nothing says which kind of 403 it is.
        let hint = hint.or_else(|| match (self.code.is_none(), kind, self.status) {
            (true, ErrorKind::Denied, _) => Some(
                "HTTP 403 without a reason; S3 also answers so for a missing key when the caller may not list",
            ),
            (true, ErrorKind::InvalidInput, Some(400)) => Some(
                "HTTP 400 without a reason; S3 answers so when an object is encrypted with a customer key, and that key \
                 is not the one that was sent, or none was",
            ),
            (false, ErrorKind::InvalidInput, Some(400)) if self.is_about_encryption() => {
                Some("the object is encrypted with a customer key, and that is not the one that was sent, or none was")
            }
            _ => None,
        });
        let mut message = self.to_string();
        if let Some(hint) = hint {
            message = format!("{hint} ({message})");
        }
        let error = Error::new(kind, request.op).with_effect(effect).with_message(message).with_source(self);
        match retry {
            Some(retry) => error.with_retry(retry),
            None => error,
        }
    }
}

const OTHER_REGION: &str = "the bucket is in another region, or behind another endpoint: correct `region`";

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        if let Some(status) = self.status {
            write!(f, "HTTP {status}")?;
            gap = " ";
        }
        if let Some(code) = &self.code {
            write!(f, "{gap}{code}")?;
            gap = ": ";
        }
        match &self.message {
            Some(message) => write!(f, "{gap}{message}"),
            None if gap.is_empty() => f.write_str("no answer"),
            None => Ok(()),
        }
    }
}

impl StdError for Failure {}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| (*error).source())
}

fn not_connected(error: &(dyn StdError + 'static)) -> bool {
    use std::io::ErrorKind as Io;
    error.is::<ResolveDnsError>()
        || error.downcast_ref::<std::io::Error>().is_some_and(|error| {
            matches!(
                error.kind(),
                Io::ConnectionRefused | Io::HostUnreachable | Io::NetworkUnreachable | Io::AddrNotAvailable
            )
        })
}

fn no_credentials(error: &(dyn StdError + 'static)) -> bool {
    chain(error).any(|error| error.to_string().contains("redential"))
}

/// Says why a request could not be made. That credentials are missing may be said by any cause, and the last one is then the
/// answer of whoever was asked for them.
fn not_built(error: &(dyn StdError + 'static)) -> String {
    let cause = innermost(error);
    match no_credentials(error) && !cause.contains("redential") {
        true => format!("no credentials: {cause}"),
        false => cause,
    }
}

/// The last cause's words on one line: what actually happened, without the request around it.
pub(super) fn innermost(error: &(dyn StdError + 'static)) -> String {
    let text = chain(error).last().map_or_else(String::new, ToString::to_string);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    // Who looked for credentials at many places tells of each on a line of its own, beneath a heading.
    lines.join("; ").replace(":; ", ": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "invalid input" and "check the address", where the machine's metadata service had answered 403.
    #[test]
    fn that_credentials_are_missing_is_seen_whichever_cause_says_it() {
        #[derive(Debug)]
        struct Cause(&'static str, Option<Box<Cause>>);
        impl std::fmt::Display for Cause {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.0)
            }
        }
        impl StdError for Cause {
            fn source(&self) -> Option<&(dyn StdError + 'static)> {
                self.1.as_deref().map(|cause| cause as _)
            }
        }
        let refused = Cause("the instance metadata service answered 403", None);
        let error =
            Cause("other", Some(Box::new(Cause("failed to load credentials", Some(Box::new(refused))))));
        let request = Request::read(Op::List);
        let failure = Failure::not_built(not_built(&error));
        assert_eq!(failure.kind(request).0, ErrorKind::Unauthenticated);
        assert!(failure.message.as_deref().is_some_and(|text| text.contains("answered 403")));
        let other = Failure::not_built(not_built(&Cause("no such header", None)));
        assert_eq!(other.kind(request).0, ErrorKind::InvalidInput);
        // A log has one line for it.
        let many = Cause("no credentials found. Attempted:\n  Environment: not set\n  Profile: none\n", None);
        assert_eq!(not_built(&many), "no credentials found. Attempted: Environment: not set; Profile: none");
    }

    fn answered(status: u16, code: &str) -> Failure {
        Failure {
            stage: Stage::Answered,
            status: Some(status),
            code: (!code.is_empty()).then(|| code.to_owned()),
            message: None,
            retry_after: None,
        }
    }

    fn kind(status: u16, code: &str) -> ErrorKind {
        let request = Request::write(Op::Upload);
        let failure = answered(status, code);
        let effect = failure.effect(request);
        failure.into_error(request, effect).kind()
    }

    #[test]
    fn slow_down_is_throttled_and_never_not_found() {
        assert_eq!(kind(503, "SlowDown"), ErrorKind::Throttled);
        assert_eq!(kind(429, ""), ErrorKind::Throttled);
        assert_eq!(kind(503, "ServiceUnavailable"), ErrorKind::Unavailable);
        assert_eq!(kind(503, ""), ErrorKind::Unavailable);
        assert!(!answered(503, "SlowDown").moves_on(Request::read(Op::Metadata)));
        assert!(answered(503, "ServiceUnavailable").moves_on(Request::read(Op::Metadata)));
    }

    #[test]
    fn a_refusal_is_never_taken_for_a_missing_file() {
        assert_eq!(kind(403, ""), ErrorKind::Denied);
        assert_eq!(kind(403, "AccessDenied"), ErrorKind::Denied);
        assert_eq!(kind(403, "SignatureDoesNotMatch"), ErrorKind::Unauthenticated);
        assert_eq!(kind(404, "NoSuchKey"), ErrorKind::NotFound);
        assert_eq!(kind(404, "NoSuchBucket"), ErrorKind::Misconfigured);
        assert_eq!(kind(404, "NoSuchUpload"), ErrorKind::NoSuchUpload);
        assert_eq!(kind(400, "AuthorizationHeaderMalformed"), ErrorKind::Misconfigured);
        assert_eq!(kind(301, ""), ErrorKind::Misconfigured);
    }

    #[test]
    fn a_name_that_is_taken_is_a_conflict_which_no_retry_resolves() {
        let request = Request::write(Op::Upload);
        for (status, code) in [(409, "ObjectNameConflict"), (400, "XMinioParentIsObject")] {
            let error = answered(status, code).into_error(request, Effect::None);
            assert_eq!((error.kind(), error.retry()), (ErrorKind::Conflict, Retry::Never), "{code}");
        }
    }

    #[test]
    fn corruption_that_the_server_found_is_no_outage() {
        let failure = answered(500, "ObjectCorrupt");
        assert!(!failure.moves_on(Request::read(Op::Download)));
        let error = failure.into_error(Request::read(Op::Download), Effect::None);
        assert_eq!((error.kind(), error.is_outage()), (ErrorKind::Integrity, false));
    }

    #[test]
    fn an_error_inside_a_200_keeps_its_own_kind_and_leaves_the_effect_open() {
        let request = Request::write(Op::FinishUpload);
        let failure = answered(200, "InternalError");
        assert_eq!(failure.effect(request), Effect::Unknown);
        assert_eq!(failure.into_error(request, Effect::Unknown).kind(), ErrorKind::Unavailable);
        assert_eq!(kind(200, "SlowDown"), ErrorKind::Throttled);
    }

    #[test]
    fn failed_preconditions_are_named_after_what_was_asked() {
        let absent = Precondition::Absent;
        let version = Precondition::Version(crate::metadata::Version::new("\"x\""));
        for (when, expected) in [(&absent, ErrorKind::AlreadyExists), (&version, ErrorKind::VersionMismatch)]
        {
            let request = Request::write(Op::Upload).with_when(when);
            assert_eq!(
                answered(412, "PreconditionFailed").into_error(request, Effect::None).kind(),
                expected
            );
            assert!(!answered(503, "").moves_on(request));
        }
        let conflict = answered(409, "ConditionalRequestConflict");
        let error = conflict.into_error(Request::write(Op::Upload).with_when(&absent), Effect::None);
        assert_eq!(error.retry(), Retry::Now);
    }

    #[test]
    fn retry_after_is_kept_and_bounded_to_outages() {
        let mut failure = answered(503, "SlowDown");
        failure.retry_after = Some(Duration::from_secs(7));
        let error = failure.into_error(Request::read(Op::List), Effect::None);
        assert_eq!(error.retry(), Retry::After(Duration::from_secs(7)));
        let mut failure = answered(403, "AccessDenied");
        failure.retry_after = Some(Duration::from_secs(7));
        assert_eq!(failure.into_error(Request::read(Op::List), Effect::None).retry(), Retry::Never);
    }
}
