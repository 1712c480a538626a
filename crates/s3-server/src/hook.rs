//! Faults on purpose: a hook sees every request before it is carried out and may have it go wrong.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use hyper::{HeaderMap, Method, Uri};

/// Decides what becomes of a request. To delay one, the hook sleeps before it answers.
#[async_trait]
pub trait RequestHook: Send + Sync + 'static {
    /// Decides. Called before the signature is checked and before any byte of the body is read.
    async fn decide(&self, request: &RequestInfo) -> Verdict;
}

#[async_trait]
impl<F> RequestHook for F
where
    F: Fn(&RequestInfo) -> Verdict + Send + Sync + 'static,
{
    async fn decide(&self, request: &RequestInfo) -> Verdict {
        self(request)
    }
}

/// What becomes of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It is carried out.
    #[default]
    Serve,
    /// It is not carried out; this is answered instead, once the request's body was read and thrown away (a
    /// client that is still sending might not see the answer otherwise).
    Answer(Answer),
    /// It is not carried out; the connection is closed without an answer.
    CloseBefore,
    /// It is carried out; the connection is closed without an answer.
    CloseAfter,
    /// It is carried out; this is answered instead of what came of it.
    AnswerAfter(Answer),
    /// It is carried out; the connection is closed after so many bytes of the answer's body.
    CutAfter(u64),
}

/// An answer that a hook gives.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers besides `Content-Length`.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// Answers with a status alone.
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// Answers with an S3 error, as a server would: `Answer::error(503, "SlowDown")`; with status 200 it is the
    /// error that hides behind a success.
    pub fn error(status: u16, code: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>made by a hook</Message></Error>"
        );
        Self::new(status).with_header("content-type", "application/xml").with_body(body)
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}

/// A request as a hook sees it. Its `Debug` shows neither headers nor query, which may hold signatures.
#[non_exhaustive]
pub struct RequestInfo {
    /// Counts the requests of the server, from 1.
    pub number: u64,
    /// HTTP method.
    pub method: Method,
    /// Path and query as sent, percent-encoded.
    pub uri: Uri,
    /// Headers as sent.
    pub headers: HeaderMap,
}

impl RequestInfo {
    pub(crate) fn new(number: u64, method: Method, uri: Uri, headers: HeaderMap) -> Self {
        Self { number, method, uri, headers }
    }

    /// Returns the name of the S3 operation, as far as method, path and query tell it; otherwise `Other`.
    pub fn operation(&self) -> &'static str {
        let object = self.key().is_some();
        let copy = self.headers.contains_key("x-amz-copy-source");
        match (self.method.as_str(), object) {
            ("PUT", true) if self.has_query("uploadId") => {
                if copy {
                    "UploadPartCopy"
                } else {
                    "UploadPart"
                }
            }
            ("PUT", true) if copy => "CopyObject",
            ("PUT", true) => "PutObject",
            ("GET", true) if self.has_query("uploadId") => "ListParts",
            ("GET", true) if self.has_query("attributes") => "GetObjectAttributes",
            ("GET", true) => "GetObject",
            ("HEAD", true) => "HeadObject",
            ("DELETE", true) if self.has_query("uploadId") => "AbortMultipartUpload",
            ("DELETE", true) => "DeleteObject",
            ("POST", true) if self.has_query("uploads") => "CreateMultipartUpload",
            ("POST", true) if self.has_query("uploadId") => "CompleteMultipartUpload",
            ("POST", false) if self.has_query("delete") => "DeleteObjects",
            ("GET", false) if self.uri.path() == "/" => "ListBuckets",
            ("GET", false) if self.has_query("uploads") => "ListMultipartUploads",
            ("GET", false) if self.has_query("location") => "GetBucketLocation",
            ("GET", false) if self.has_query("list-type") => "ListObjectsV2",
            ("GET", false) => "ListObjects",
            ("HEAD", false) => "HeadBucket",
            ("PUT", false) => "CreateBucket",
            _ => "Other",
        }
    }

    /// Returns the key, decoded, where the request names one.
    pub fn key(&self) -> Option<String> {
        let (_, key) = self.uri.path().strip_prefix('/')?.split_once('/')?;
        if key.is_empty() {
            return None;
        }
        Some(percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned())
    }

    /// Tells whether the query has a parameter of this name.
    pub fn has_query(&self, name: &str) -> bool {
        self.uri
            .query()
            .is_some_and(|query| query.split('&').any(|pair| pair.split('=').next() == Some(name)))
    }
}

impl fmt::Debug for RequestInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestInfo")
            .field("number", &self.number)
            .field("operation", &self.operation())
            .field("path", &self.uri.path())
            .finish_non_exhaustive()
    }
}
