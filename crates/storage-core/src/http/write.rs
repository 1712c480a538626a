//! PUT.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::header::{self, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};

use super::Server;
use super::answer::{Refusal, guard};
use super::condition::{self, Validators, Verdict};
use crate::error::{Error, ErrorKind, Op, Result as StorageResult};
use crate::presign::Grant;
use crate::storage::{Precondition, UploadOptions};

impl Server {
    pub(super) async fn write(
        &self,
        grant: &Grant,
        headers: &HeaderMap,
        body: &mut BodyDataStream,
    ) -> Result<Response, Refusal> {
        let length = Length::of(grant, headers, self.config.max_upload)?;
        let mut options = UploadOptions::default().with_when(self.condition(grant, headers).await?);
        options.content_type = content_type(grant, headers)?;
        let created = options.when == Precondition::Absent;
        let bytes = received(body, length.most, self.config.idle);
        let directory = self.config.spool_directory.as_deref();
        let body = crate::body::Body::spool(bytes, self.config.memory, directory).await?;
        if length.exact.is_some_and(|exact| body.size() != exact) {
            return Err(early_end().into());
        }
        let receipt = self.storage.upload(&grant.id, body, options).await?;
        let mut response = Response::new(Body::empty());
        if created {
            *response.status_mut() = StatusCode::CREATED;
        }
        guard(response.headers_mut());
        let etag = Validators::of(&receipt.metadata).etag();
        if let Some(etag) = etag.and_then(|etag| HeaderValue::try_from(etag).ok()) {
            response.headers_mut().insert(header::ETAG, etag);
        }
        Ok(response)
    }

    /// Turns the preconditions into one of the storage, which it checks in the same step as it publishes.
    async fn condition(&self, grant: &Grant, headers: &HeaderMap) -> Result<Precondition, Refusal> {
        let conditions = [header::IF_MATCH, header::IF_UNMODIFIED_SINCE, header::IF_NONE_MATCH];
        let given = conditions.iter().filter(|name| headers.contains_key(*name)).count();
        if given == 0 {
            return Ok(Precondition::None);
        }
        if given == 1 && condition::any(headers, header::IF_NONE_MATCH) {
            return Ok(Precondition::Absent);
        }
        let stored = match self.storage.metadata(&grant.id).await {
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let validators = stored.as_ref().map(Validators::of);
        if condition::evaluate(headers, validators.as_ref(), false) != Verdict::Go {
            return Err(Refusal::new(StatusCode::PRECONDITION_FAILED));
        }
        match stored {
            None => Ok(Precondition::Absent),
            Some(metadata) => match metadata.version {
                Some(version) => Ok(Precondition::Version(version)),
                // What was compared cannot be held on to.
                None => Err(Refusal::new(StatusCode::NOT_IMPLEMENTED)),
            },
        }
    }
}

/// How many bytes are to come.
struct Length {
    exact: Option<u64>,
    most: u64,
}

impl Length {
    /// Takes what was signed and what is announced; refuses before a byte was read where they do not agree.
    fn of(grant: &Grant, headers: &HeaderMap, max_upload: u64) -> Result<Self, Refusal> {
        // A part of a file is not what is to be stored (RFC 9110 section 14.5).
        if headers.contains_key(header::CONTENT_RANGE) {
            return Err(Refusal::new(StatusCode::BAD_REQUEST));
        }
        let announced = match headers.get(header::CONTENT_LENGTH) {
            None => None,
            Some(length) => Some(
                length
                    .to_str()
                    .ok()
                    .and_then(|length| length.parse().ok())
                    .ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST))?,
            ),
        };
        let most = grant.content_length.unwrap_or(max_upload);
        match (announced, grant.content_length) {
            (Some(announced), _) if announced > most => Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE)),
            (Some(announced), Some(signed)) if announced < signed => {
                Err(Refusal::new(StatusCode::BAD_REQUEST))
            }
            _ => Ok(Self { exact: announced.or(grant.content_length), most }),
        }
    }
}

/// Returns the media type to store, or nothing where the client gives none: then it is guessed.
fn content_type(grant: &Grant, headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let refused = || Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    // What is stored would not be what its media type says.
    if headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return Err(refused());
    }
    let given = match headers.get(header::CONTENT_TYPE) {
        None => None,
        Some(value) => Some(value.to_str().map_err(|_| refused())?),
    };
    match &grant.content_type {
        Some(signed) if given != Some(signed) => Err(refused()),
        _ => Ok(given.map(str::to_owned)),
    }
}

/// Passes the body on, and breaks it off behind `most` bytes, or when nothing comes for too long.
fn received(
    body: &mut BodyDataStream,
    most: u64,
    idle: Duration,
) -> impl Stream<Item = StorageResult<Bytes>> + Send + Unpin {
    stream::try_unfold((body, 0u64), move |(body, received)| async move {
        let Ok(piece) = tokio::time::timeout(idle, body.next()).await else {
            return Err(Error::new(ErrorKind::Timeout, Op::ReadBody)
                .with_message(format!("the client sent nothing for {idle:?}")));
        };
        let Some(piece) = piece.transpose().map_err(|error| early_end().with_source(error))? else {
            return Ok(None);
        };
        let received = received + piece.len() as u64;
        if received > most {
            return Err(
                Error::new(ErrorKind::TooLarge, Op::ReadBody).with_message(format!("more than {most} bytes"))
            );
        }
        Ok(Some((piece, (body, received))))
    })
    .into_stream()
    .boxed()
}

fn early_end() -> Error {
    Error::new(ErrorKind::SourceChanged, Op::ReadBody).with_message("the body ended early")
}
