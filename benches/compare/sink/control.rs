//! What the driver asks the sink.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::Sink;
use super::body::Answer;
use super::requests::{parameter, plain};

macro_rules! operations {
    ($($name:ident),* $(,)?) => {
        /// An operation of S3.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Operation {
            $(
                #[doc = stringify!($name)]
                $name
            ),*
        }

        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

operations! {
    PutObject, HeadObject, GetObject, DeleteObject, DeleteObjects, ListObjects, CreateMultipartUpload, UploadPart,
    CompleteMultipartUpload, AbortMultipartUpload, ListParts, ListMultipartUploads, Bucket, Other,
}

/// How many requests there were, and how many bytes of payload.
pub(crate) struct Counts {
    requests: [AtomicU64; NAMES.len()],
    received: AtomicU64,
    sent: AtomicU64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            requests: std::array::from_fn(|_| AtomicU64::new(0)),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        }
    }
}

impl Counts {
    pub(crate) fn request(&self, operation: Operation) {
        self.requests[operation as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    fn reset(&self) {
        for counter in self.requests.iter().chain([&self.received, &self.sent]) {
            counter.store(0, Ordering::Relaxed);
        }
    }

    fn json(&self) -> Value {
        let counts = self.requests.iter().map(|counter| counter.load(Ordering::Relaxed));
        let total = counts.clone().sum::<u64>();
        let named: Map<String, Value> = NAMES
            .iter()
            .zip(counts)
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| ((*name).to_owned(), json!(count)))
            .collect();
        json!({
            "requests": named,
            "total": total,
            "received": self.received.load(Ordering::Relaxed),
            "sent": self.sent.load(Ordering::Relaxed),
        })
    }
}

impl Sink {
    /// Answers a path beneath `/-/`, which no bucket can be called.
    pub(crate) fn control<B>(&self, request: &Request<B>) -> Response<Answer> {
        let query = request.uri().query().unwrap_or_default();
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/-/counts") => json_answer(&self.counts.json()),
            (&Method::GET, "/-/sums") => {
                let prefix = parameter(query, "prefix").unwrap_or_default();
                let (count, bytes) = self.store.sums(&prefix);
                json_answer(&json!({ "count": count, "bytes": bytes }))
            }
            (&Method::POST, "/-/reset") => {
                self.counts.reset();
                if parameter(query, "objects").is_some() {
                    self.store.clear();
                }
                plain(StatusCode::NO_CONTENT)
            }
            _ => plain(StatusCode::NOT_FOUND),
        }
    }
}

fn json_answer(value: &Value) -> Response<Answer> {
    Response::new(Answer::from(Bytes::from(value.to_string())))
}
