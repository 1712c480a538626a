//! Bodies of uploads: read once, within bounds, compared with everything the client declared, replayable after.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use hyper::HeaderMap;
use s3s::dto::{Checksum, StreamingBlob};
use s3s::stream::ByteStream as _;
use s3s::{S3Error, S3ErrorCode, S3Result, TrailingHeaders};
use storage_core::body::Body;
use storage_core::checksum::Digest;
use storage_core::error::{Error, ErrorKind, Op};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::checksum::{Declared, Sums};
use crate::config::Limits;
use crate::error;

/// Bytes that one permit of the memory budget stands for.
const PERMIT_BYTES: u64 = 64 << 10;

/// Set when the connection broke in the midst of a body; travels with the request's extensions.
///
/// A body that ends early and a body whose signature is wrong reach the reader as the same opaque error.
#[derive(Clone, Debug, Default)]
pub(crate) struct BrokenOff(Arc<AtomicBool>);

impl BrokenOff {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A request's body and what the request says of it.
pub(crate) struct Incoming {
    pub(crate) stream: Option<StreamingBlob>,
    pub(crate) length: Option<i64>,
    pub(crate) headers: HeaderMap,
    pub(crate) trailers: Option<TrailingHeaders>,
    pub(crate) broken_off: Option<BrokenOff>,
}

/// Bytes that came whole and match all that was declared. They count towards the memory budget until dropped.
pub(crate) struct Received {
    pub(crate) body: Body,
    /// The checksums that the client declared.
    pub(crate) checksums: Checksum,
    /// SHA-256, where it was computed.
    pub(crate) digest: Option<Digest>,
    _permit: Option<OwnedSemaphorePermit>,
}

/// A part in memory; counts towards the memory budget until dropped.
pub(crate) struct ReceivedPart {
    pub(crate) bytes: Bytes,
    pub(crate) checksums: Checksum,
    pub(crate) digest: Digest,
    _permit: OwnedSemaphorePermit,
}

/// Reads bodies within the bounds of one server.
#[derive(Debug)]
pub(crate) struct Receiver {
    limits: Limits,
    directory: Option<PathBuf>,
    memory: Arc<Semaphore>,
    permits: u32,
}

impl Receiver {
    pub(crate) fn new(limits: Limits, directory: Option<PathBuf>) -> Self {
        let permits = permits(limits.memory_bytes);
        // A semaphore holds fewer permits than a u32 can count on 32-bit machines only.
        let memory = Arc::new(Semaphore::new(permits as usize));
        Self { limits, directory, memory, permits }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Waits until so many bytes may be in memory. No request holds two permits, so waiting always ends.
    pub(crate) async fn reserve(&self, bytes: u64) -> S3Result<OwnedSemaphorePermit> {
        let wanted = permits(bytes).min(self.permits);
        Arc::clone(&self.memory).acquire_many_owned(wanted).await.map_err(S3Error::internal_error)
    }

    /// Reads the body of a single PUT: into memory up to the spool limit, else into a temporary file.
    ///
    /// # Errors
    /// `EntityTooLarge`, `MissingContentLength`, `IncompleteBody`, `BadDigest`, and what a wrong signature gives.
    pub(crate) async fn object(&self, mut incoming: Incoming) -> S3Result<Received> {
        let declared = Declared::from_headers(&incoming.headers)?;
        let length = incoming.checked_length(self.limits.max_put_bytes)?;
        let spool = self.limits.spool_bytes;
        let permit = self.reserve(length.min(spool as u64)).await?;
        let sums = declared.hasher(false);
        let mut reading = Reading::new(&mut incoming, length, sums, &self.limits);
        let body = reading.spool(spool, self.directory.as_ref()).await?;
        let sums = reading.sums;
        let (checksums, digest) = incoming.verify(declared, sums)?;
        let permit = body.in_memory().is_some().then_some(permit);
        Ok(Received { body, checksums, digest, _permit: permit })
    }

    /// Reads a part: small ones into memory at once, others by way of a temporary file, so that a slow client
    /// holds no memory.
    ///
    /// # Errors
    /// Those of [`object`](Self::object).
    pub(crate) async fn part(&self, mut incoming: Incoming) -> S3Result<ReceivedPart> {
        let declared = Declared::from_headers(&incoming.headers)?;
        let length = incoming.checked_length(self.limits.max_part_bytes)?;
        let at_once = length <= 8 * self.limits.spool_bytes as u64;
        let (spool, early) =
            if at_once { (usize::MAX, Some(self.reserve(length).await?)) } else { (0, None) };
        let sums = declared.hasher(true);
        let mut reading = Reading::new(&mut incoming, length, sums, &self.limits);
        let body = reading.spool(spool, self.directory.as_ref()).await?;
        let sums = reading.sums;
        let (checksums, digest) = incoming.verify(declared, sums)?;
        let permit = match early {
            Some(permit) => permit,
            None => self.reserve(length).await?,
        };
        let bytes = body.read(0..body.size()).await.map_err(error::outbound)?;
        let digest = digest.unwrap_or_else(|| Digest::of(&bytes));
        Ok(ReceivedPart { bytes, checksums, digest, _permit: permit })
    }

    /// Reads a stream of the storage itself, so that it can be uploaded again.
    pub(crate) async fn replayable(&self, stream: storage_core::body::ByteStream) -> S3Result<Body> {
        Body::spool(stream, self.limits.spool_bytes, self.directory.as_deref()).await.map_err(error::outbound)
    }
}

fn permits(bytes: u64) -> u32 {
    let permits = bytes.div_ceil(PERMIT_BYTES).clamp(1, u64::from(u32::MAX >> 3));
    permits as u32
}

impl Incoming {
    /// Returns the number of bytes that the client announces.
    fn checked_length(&self, most: u64) -> S3Result<u64> {
        let exact = || match &self.stream {
            Some(stream) => stream.remaining_length().exact().map(|length| length as u64),
            None => Some(0),
        };
        let length = match self.length {
            Some(length) => {
                Some(u64::try_from(length).map_err(|_| error::invalid_argument("a negative length"))?)
            }
            None => exact(),
        };
        let length = length.ok_or_else(|| S3Error::new(S3ErrorCode::MissingContentLength))?;
        if length > most {
            let message = format!("{length} bytes, at most {most} are taken");
            return Err(S3Error::with_message(S3ErrorCode::EntityTooLarge, message));
        }
        Ok(length)
    }

    fn verify(&self, declared: Declared, sums: Sums) -> S3Result<(Checksum, Option<Digest>)> {
        let trailers = self.trailers.as_ref().and_then(TrailingHeaders::take);
        declared.verify(sums, trailers.as_ref())
    }

    /// Says why reading broke off.
    fn failure(&self, source: s3s::StdError) -> S3Error {
        let code = if self.broken_off.as_ref().is_some_and(BrokenOff::is_set) {
            S3ErrorCode::IncompleteBody
        } else if self.trailers.is_some() {
            // The chunks' signatures, or their framing.
            S3ErrorCode::SignatureDoesNotMatch
        } else {
            S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into())
        };
        let mut failure = S3Error::with_source(code, source);
        if failure.status_code().is_none() {
            failure.set_status_code(hyper::StatusCode::BAD_REQUEST);
        }
        failure.set_message("the body is not what the request announced and signed");
        failure
    }
}

/// A body that is being read.
struct Reading<'a> {
    incoming: &'a mut Incoming,
    length: u64,
    received: u64,
    sums: Sums,
    limits: &'a Limits,
    failure: Option<S3Error>,
}

impl<'a> Reading<'a> {
    fn new(incoming: &'a mut Incoming, length: u64, sums: Sums, limits: &'a Limits) -> Self {
        Self { incoming, length, received: 0, sums, limits, failure: None }
    }

    async fn spool(&mut self, memory: usize, directory: Option<&PathBuf>) -> S3Result<Body> {
        let pieces = stream::unfold(&mut *self, |reading| async move {
            match reading.next().await {
                Ok(Some(bytes)) => Some((Ok(bytes), reading)),
                Ok(None) => None,
                Err(failure) => {
                    reading.failure = Some(failure);
                    // The answer is the failure kept aside; this only ends the spooling.
                    Some((Err(Error::new(ErrorKind::Other, Op::ReadBody)), reading))
                }
            }
        });
        let spooled = Body::spool(pieces.boxed(), memory, directory.map(PathBuf::as_path)).await;
        match (spooled, self.failure.take()) {
            (_, Some(failure)) => Err(failure),
            (Ok(body), None) => Ok(body),
            (Err(failed), None) => Err(error::outbound(failed)),
        }
    }

    async fn next(&mut self) -> S3Result<Option<Bytes>> {
        let Some(stream) = &mut self.incoming.stream else { return Ok(None) };
        let Ok(item) = tokio::time::timeout(self.limits.idle, stream.next()).await else {
            let message = "nothing came for too long";
            return Err(S3Error::with_message(S3ErrorCode::RequestTimeout, message));
        };
        match item {
            Some(Ok(bytes)) => {
                self.received += bytes.len() as u64;
                if self.received > self.length {
                    return Err(self.incomplete());
                }
                self.sums.update(&bytes);
                Ok(Some(bytes))
            }
            Some(Err(source)) => Err(self.incoming.failure(source)),
            None if self.received != self.length => Err(self.incomplete()),
            None => Ok(None),
        }
    }

    fn incomplete(&self) -> S3Error {
        let message = format!("{} bytes were announced, {} came", self.length, self.received);
        S3Error::with_message(S3ErrorCode::IncompleteBody, message)
    }
}
