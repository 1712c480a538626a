//! One request on its way through: the hook, what is refused before S3 is spoken, and bodies left unread.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::{Method, Request, Response, StatusCode, header};
use s3s::service::S3Service;
use s3s::{Body, S3Error, S3ErrorCode, StdError};

use crate::checksum::{BodyCheck, Declared};
use crate::error;
use crate::hook::{Answer, RequestHook, RequestInfo, Verdict};
use crate::receive::BrokenOff;

/// A body that was refused is read on and thrown away up to this size and for this long: a client that sends
/// first and listens later sees the answer, and not a reset connection.
const DRAIN_BYTES: u64 = 16 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// The connection is closed without an answer.
#[derive(Debug)]
pub(crate) struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("closed without an answer")
    }
}

impl std::error::Error for Closed {}

/// What every request passes.
pub(crate) struct Front {
    service: S3Service,
    hook: Option<Arc<dyn RequestHook>>,
    requests: AtomicU64,
}

impl Front {
    pub(crate) fn new(service: S3Service, hook: Option<Arc<dyn RequestHook>>) -> Self {
        Self { service, hook, requests: AtomicU64::new(0) }
    }

    /// Answers a request.
    ///
    /// # Errors
    /// [`Closed`] when there is to be no answer.
    pub(crate) async fn handle(&self, request: Request<Incoming>) -> Result<Response<Body>, Closed> {
        let (parts, body) = request.into_parts();
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let verdict = match &self.hook {
            Some(hook) => {
                let (method, uri) = (parts.method.clone(), parts.uri.clone());
                hook.decide(&RequestInfo::new(number, method, uri, parts.headers.clone())).await
            }
            None => Verdict::Serve,
        };
        let body = SharedBody::new(body);
        // There is nothing to continue with, so no interim answer is sent; botocore then takes the status of
        // this answer for that of the next one on the same connection, and waits for its end.
        let close = parts.headers.contains_key(header::EXPECT) && hyper::body::Body::is_end_stream(&body);
        match verdict {
            Verdict::CloseBefore => return Err(Closed),
            Verdict::Answer(answer) => {
                body.drain(u64::MAX).await;
                return Ok(response(&answer));
            }
            _ => {}
        }
        let mut answer = self.serve(Request::from_parts(parts, body.clone())).await?;
        if close {
            answer.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        }
        if answer.status().is_client_error() || answer.status().is_server_error() {
            // Nothing is lost when this takes too long: the connection is closed then.
            let _ = tokio::time::timeout(DRAIN_TIME, body.drain(DRAIN_BYTES)).await;
        }
        match verdict {
            Verdict::CloseAfter => Err(Closed),
            Verdict::AnswerAfter(answer) => Ok(response(&answer)),
            Verdict::CutAfter(bytes) => Ok(answer.map(|body| cut(body, bytes))),
            _ => Ok(answer),
        }
    }

    async fn serve(&self, mut request: Request<SharedBody>) -> Result<Response<Body>, Closed> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let refusal = match body_check(&request) {
            Ok(check) => {
                request.body_mut().check = check;
                refuse(&request)
            }
            Err(refusal) => Some(refusal),
        };
        let mut answer = match refusal {
            Some(refusal) => refusal.to_http_response().map_err(|_| Closed)?,
            None => {
                let (broken_off, check) = (request.body().broken_off.clone(), request.body().check.clone());
                let mut request = request.map(Body::http_body_unsync);
                request.extensions_mut().insert(broken_off);
                if let Some(check) = check {
                    request.extensions_mut().insert(check);
                }
                self.service.call(request).await.map_err(|error| {
                    tracing::warn!(%method, path, ?error, "no answer could be made");
                    Closed
                })?
            }
        };
        if method == Method::HEAD
            && answer.status() == StatusCode::OK
            && answer.headers().contains_key(header::CONTENT_RANGE)
        {
            // The S3 layer has one status for every HEAD.
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        tracing::debug!(%method, path, status = answer.status().as_u16(), "answered");
        Ok(answer)
    }
}

/// Refuses what the S3 layer would take and should not: the older signature, which covers neither body nor
/// headers, and browser forms, which it reads into memory whole.
fn refuse(request: &Request<SharedBody>) -> Option<S3Error> {
    let headers = request.headers();
    let begins = |name: header::HeaderName, start: &str| {
        headers.get(name).is_some_and(|value| value.as_bytes().starts_with(start.as_bytes()))
    };
    let query = request.uri().query().unwrap_or_default();
    let old =
        query.split('&').any(|pair| matches!(pair.split('=').next(), Some("Signature" | "AWSAccessKeyId")));
    if old || begins(header::AUTHORIZATION, "AWS ") {
        let message = "requests are signed with AWS4-HMAC-SHA256 here";
        return Some(S3Error::with_message(S3ErrorCode::InvalidRequest, message));
    }
    if request.method() == Method::POST && begins(header::CONTENT_TYPE, "multipart/form-data") {
        return Some(S3Error::with_message(S3ErrorCode::NotImplemented, "browser forms are not supported"));
    }
    None
}

/// Prepares to compare the body of a request that is XML; those of objects and parts are compared where they are
/// received.
fn body_check(request: &Request<SharedBody>) -> Result<Option<BodyCheck>, S3Error> {
    let query = request.uri().query().unwrap_or_default();
    let named = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    if request.method() != Method::POST || !(named("delete") || named("uploadId")) {
        return Ok(None);
    }
    let mut declared = Declared::from_headers(request.headers())?;
    if !named("delete") {
        // The checksums of a completion are those of the object.
        declared = declared.of_the_body_alone();
    }
    if declared.is_empty() {
        return Ok(None);
    }
    let content = request.headers().get("x-amz-content-sha256");
    if content.is_some_and(|content| content.as_bytes().starts_with(b"STREAMING-")) {
        return Err(error::not_implemented("a checksum of an XML body that comes in signed chunks"));
    }
    Ok(Some(BodyCheck::new(declared)))
}

fn response(answer: &Answer) -> Response<Body> {
    let mut response = Response::new(Body::from(answer.body.clone()));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in &answer.headers {
        if let (Ok(name), Ok(value)) =
            (header::HeaderName::try_from(name.as_str()), header::HeaderValue::try_from(value.as_str()))
        {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// Passes on so many bytes of a body, then fails, which closes the connection.
fn cut(body: Body, bytes: u64) -> Body {
    let left = futures::stream::unfold((Some(body), bytes), |(body, left)| async move {
        let mut body = body?;
        match body.next().await? {
            Ok(mut piece) if piece.len() as u64 <= left => {
                let piece = piece.split_to(piece.len());
                let left = left - piece.len() as u64;
                Some((Ok(Frame::data(piece)), (Some(body), left)))
            }
            Ok(mut piece) if left > 0 => {
                // Less than the piece's length, so it fits.
                let piece = piece.split_to(left as usize);
                Some((Ok(Frame::data(piece)), (Some(body), 0)))
            }
            Ok(_) => Some((Err(StdError::from(Closed)), (None, 0))),
            Err(error) => Some((Err(error), (None, 0))),
        }
    });
    Body::http_body_unsync(StreamBody::new(left))
}

/// A request's body that can be read on by whoever answers, once the reader has dropped it.
#[derive(Clone)]
struct SharedBody {
    inner: Arc<Mutex<Incoming>>,
    broken_off: BrokenOff,
    check: Option<BodyCheck>,
}

impl SharedBody {
    fn new(body: Incoming) -> Self {
        Self { inner: Arc::new(Mutex::new(body)), broken_off: BrokenOff::default(), check: None }
    }

    fn lock(&self) -> MutexGuard<'_, Incoming> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn drain(mut self, most: u64) {
        let mut left = most;
        while let Some(Ok(frame)) = self.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len) as u64);
            if left == 0 {
                return;
            }
        }
    }
}

impl hyper::body::Body for SharedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut *self.lock()).poll_frame(cx);
        match (&polled, &self.check) {
            (Poll::Ready(Some(Err(_))), _) => self.broken_off.set(),
            (Poll::Ready(Some(Ok(frame))), Some(check)) => {
                if let Some(bytes) = frame.data_ref() {
                    check.update(bytes);
                }
            }
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().size_hint()
    }
}
