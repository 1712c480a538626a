//! Uploads in parts: those of one call, and those that survive the process.
//!
//! Order of effects of an upload in one call: upload begun -> parts, each from the one buffer it was hashed in
//! -> completed -> asked for. Before the completion nothing is visible, and a failure or a dropped future
//! aborts. When the answer to the completion is lost, the completion is repeated; a server that then knows no
//! such upload is asked what it holds under the id, and an equal composite or digest is success.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::operation::list_parts::ListPartsOutput;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart, EncodingType,
};
use bytes::Bytes;
use rand::Rng as _;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;

use super::carrier::{Of, Put};
use super::encryption::Protection;
use super::error::Request;
use super::facts::{time, version};
use super::list::decode_key;
use super::object::{Headers, read_range, sha256};
use super::{Inner, conditions};
use crate::body::Body;
use crate::checksum::{CompositeDigest, Digest, Hasher, Mismatch};
use crate::error::{Effect, Error, ErrorKind, Op, Result, Retry};
use crate::id::FileId;
use crate::metadata::FileMetadata;
use crate::storage::Precondition;
use crate::storage::{
    FinishOptions, PartLimits, PartNumber, PartReceipt, Receipt, UploadOptions, UploadTicket, Verified,
};

/// Tries of one part, and of the completion, within one upload: enough for a node that restarts, while a server
/// that stays away is the retry layer's matter.
const TRIES: u32 = 4;

const FIRST_DELAY: Duration = Duration::from_millis(100);

/// A server that asks for more patience fails the upload, and the retry layer waits without its buffers.
const MAX_DELAY: Duration = Duration::from_secs(5);

/// The most that one page of a list of parts has ("ListParts", Amazon S3 API Reference).
const PARTS_PAGE: i32 = 1_000;

/// What completing an upload led to.
pub(super) enum Complete {
    /// It is published, under this ETag.
    Done(String),
    /// The server knows no such upload.
    Gone,
}

/// Returns the delay before the next try, or nothing when there shall be none.
fn delay(error: &Error, tries: u32, jitter: f64) -> Option<Duration> {
    let again = error.is_outage() || error.retry() == Retry::Now;
    if !again || tries >= TRIES {
        return None;
    }
    match error.retry() {
        Retry::Never => None,
        Retry::After(delay) => (delay <= MAX_DELAY).then_some(delay),
        Retry::Now => Some((FIRST_DELAY * 4u32.pow(tries - 1)).min(MAX_DELAY).mul_f64(0.5 + jitter / 2.0)),
    }
}

async fn retrying<T, Fut: Future<Output = Result<T>>>(mut call: impl FnMut() -> Fut) -> Result<T> {
    let mut tries = 0;
    loop {
        tries += 1;
        let error = match call().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let jitter = rand::rng().random_range(0.0..1.0);
        match delay(&error, tries, jitter) {
            Some(delay) => tokio::time::sleep(delay).await,
            None => return Err(error),
        }
    }
}

/// Aborts an upload that is not completed when the future that holds this ends or is dropped.
pub(super) struct AbortOnDrop(Option<Open>);

/// An upload that nobody has completed or aborted yet.
struct Open {
    inner: Arc<Inner>,
    key: String,
    upload: String,
}

impl AbortOnDrop {
    pub(super) fn new(inner: &Arc<Inner>, key: &str, upload: &str) -> Self {
        Self(Some(Open { inner: Arc::clone(inner), key: key.to_owned(), upload: upload.to_owned() }))
    }

    pub(super) fn disarm(mut self) {
        self.0 = None;
    }

    /// Aborts now, so that a caller who sees the error finds nothing left.
    pub(super) async fn abort(mut self) {
        if let Some(open) = &self.0 {
            open.abort().await;
        }
        self.0 = None;
    }
}

impl Open {
    async fn abort(&self) {
        if let Err(error) = self.inner.abort(Op::AbandonUpload, &self.key, &self.upload).await {
            tracing::warn!(storage = %self.inner.config.name, key = %self.key, %error, "an upload stays open");
        }
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let (Some(open), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            // Without the guard: a runtime that shuts down drops what is spawned at once, and the guard would
            // spawn again, for ever.
            runtime.spawn(async move { open.abort().await });
        }
    }
}

impl Inner {
    pub(super) async fn create_upload(&self, op: Op, key: &str, headers: &Headers) -> Result<String> {
        let answer = self
            .clients
            .call(Request::write(op).once(), |client| {
                let request = client
                    .create_multipart_upload()
                    .bucket(&self.config.bucket)
                    .key(key)
                    .content_type(&headers.content_type)
                    .set_metadata(headers.metadata())
                    .set_tagging(headers.tagging.clone())
                    .set_storage_class(headers.storing.sdk_class())
                    .set_server_side_encryption(headers.storing.sdk_encryption())
                    .set_ssekms_key_id(headers.storing.kms_key().map(str::to_owned))
                    .set_sse_customer_algorithm(headers.storing.algorithm())
                    .set_sse_customer_key(headers.storing.key())
                    .set_sse_customer_key_md5(headers.storing.md5());
                let request = if self.features().sends_checksums {
                    request
                        .checksum_algorithm(ChecksumAlgorithm::Sha256)
                        .checksum_type(ChecksumType::Composite)
                } else {
                    request
                };
                request.send()
            })
            .await?;
        let protection = Protection::new(
            answer.server_side_encryption(),
            answer.ssekms_key_id(),
            answer.sse_customer_key_md5(),
        );
        let upload = answer
            .upload_id
            .filter(|upload| !upload.is_empty())
            .ok_or_else(|| self.fail(ErrorKind::Other, op).with_message("the server named no upload"))?;
        // Before a byte moves.
        if let Err(error) = headers.storing.check(&protection, op, Effect::None) {
            if let Err(error) = self.abort(op, key, &upload).await {
                tracing::warn!(storage = %self.config.name, key, %error, "an upload stays open");
            }
            return Err(self.ours(error));
        }
        Ok(upload)
    }

    /// Sends one part and returns its ETag. The digest is the signature's payload hash and the checksum header.
    pub(super) async fn send_part(
        &self,
        op: Op,
        key: &str,
        upload: &str,
        number: PartNumber,
        bytes: Bytes,
        digest: Digest,
    ) -> Result<String> {
        let put = Put {
            key,
            of: Of::Part { upload, number },
            bytes: &bytes,
            payload: digest,
            checksum: self.features().sends_checksums.then_some(digest),
            customer: self.storing.customer(),
        };
        let stored = self.carry(Request::write(op), put).await?;
        stored.etag.ok_or_else(|| self.fail(ErrorKind::Other, op).with_message("the server named no part"))
    }

    /// Completes an upload. An error inside a 200 is an error here.
    pub(super) async fn complete(
        &self,
        op: Op,
        key: &str,
        upload: &str,
        parts: &[PartReceipt],
        when: &Precondition,
    ) -> Result<Complete> {
        let request = Request::write(op).with_when(when);
        let (if_match, if_none_match) = conditions(when);
        let completed = parts.iter().map(|part| {
            let checksum = part.digest.filter(|_| self.features().sends_checksums).map(Digest::to_base64);
            CompletedPart::builder()
                .part_number(part_number(part.number))
                .e_tag(&part.token)
                .set_checksum_sha256(checksum)
                .build()
        });
        let completed = CompletedMultipartUpload::builder().set_parts(Some(completed.collect())).build();
        let answer = self
            .clients
            .try_call(request, |client| {
                client
                    .complete_multipart_upload()
                    .bucket(&self.config.bucket)
                    .key(key)
                    .upload_id(upload)
                    .set_if_match(if_match.clone())
                    .set_if_none_match(if_none_match.clone())
                    .set_sse_customer_algorithm(self.storing.algorithm())
                    .set_sse_customer_key(self.storing.key())
                    .set_sse_customer_key_md5(self.storing.md5())
                    .multipart_upload(completed.clone())
                    .send()
            })
            .await;
        match answer {
            Ok(answer) => match answer.e_tag {
                Some(etag) => Ok(Complete::Done(etag)),
                None => Err(self
                    .fail(ErrorKind::Unavailable, op)
                    .with_effect(Effect::Unknown)
                    .with_message("the server answered neither a result nor an error")),
            },
            Err((failure, _)) if failure.code() == "NoSuchUpload" => Ok(Complete::Gone),
            Err((failure, effect)) => Err(self.clients.error(failure, request, effect)),
        }
    }

    /// Aborts an upload; one that is not there is aborted already.
    pub(super) async fn abort(&self, op: Op, key: &str, upload: &str) -> Result<()> {
        let answer = self
            .clients
            .call(Request::write(op), |client| {
                client.abort_multipart_upload().bucket(&self.config.bucket).key(key).upload_id(upload).send()
            })
            .await;
        match answer {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::NoSuchUpload | ErrorKind::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Uploads a body that is greater than a part.
    pub(super) async fn upload_in_parts(
        self: &Arc<Self>,
        id: &FileId,
        key: String,
        body: Body,
        part_size: u64,
        options: UploadOptions,
    ) -> Result<Receipt> {
        let headers = self.headers(id, &options, options.digest, Some(part_size), Op::Upload)?;
        let upload = self.create_upload(Op::Upload, &key, &headers).await?;
        let guard = AbortOnDrop::new(self, &key, &upload);
        let ticket = UploadTicket::new(id.clone(), upload, part_size, SystemTime::now());
        match self.send_and_complete(&key, &ticket, &body, &options).await {
            Ok(receipt) => {
                guard.disarm();
                Ok(receipt)
            }
            Err(error) => {
                guard.abort().await;
                Err(error)
            }
        }
    }

    async fn send_and_complete(
        self: &Arc<Self>,
        key: &str,
        ticket: &UploadTicket,
        body: &Body,
        options: &UploadOptions,
    ) -> Result<Receipt> {
        let (parts, digest) = self.send_parts(key, ticket, body).await?;
        if let Some(expected) = options.digest
            && expected != digest
        {
            return Err(Mismatch { expected, actual: digest }
                .into_error(Op::Upload)
                .with_storage(&self.config.name));
        }
        let finish = FinishOptions::default().with_digest(digest).with_when(options.when.clone());
        retrying(|| self.publish(Op::Upload, key, ticket, &parts, &finish)).await
    }

    /// Sends all parts of a body, as many at once as there are permits, and returns them with the digest of the
    /// whole. The parts are tasks, so a permit is never held by something that waits for another.
    async fn send_parts(
        self: &Arc<Self>,
        key: &str,
        ticket: &UploadTicket,
        body: &Body,
    ) -> Result<(Vec<PartReceipt>, Digest)> {
        let size = body.size();
        let count = u32::try_from(size.div_ceil(ticket.part_size)).unwrap_or(u32::MAX);
        let mut whole = Hasher::new();
        let mut running = JoinSet::new();
        let mut parts = Vec::with_capacity(count as usize);
        for index in 0..count {
            let permit = self.permit(Op::Upload).await?;
            while let Some(done) = running.try_join_next() {
                parts.push(self.joined(done)?);
            }
            let start = u64::from(index) * ticket.part_size;
            let bytes = read_range(body, start..(start + ticket.part_size).min(size)).await?;
            let part = Part {
                inner: Arc::clone(self),
                key: key.to_owned(),
                upload: ticket.upload.clone(),
                number: PartNumber::MIN.saturating_add(index),
                bytes: bytes.clone(),
                permit,
            };
            running.spawn(part.send());
            whole = tokio::task::spawn_blocking(move || {
                whole.update(&bytes);
                whole
            })
            .await
            .map_err(|error| self.fail(ErrorKind::Other, Op::Upload).with_source(error))?;
        }
        while let Some(done) = running.join_next().await {
            parts.push(self.joined(done)?);
        }
        parts.sort_by_key(|part| part.number);
        Ok((parts, whole.finish()))
    }

    pub(super) async fn permit(&self, op: Op) -> Result<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.part_permits).acquire_owned().await;
        permit.map_err(|error| self.fail(ErrorKind::Other, op).with_source(error))
    }

    pub(super) fn joined<T>(&self, done: Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
        match done {
            Ok(result) => result,
            Err(error) => Err(self
                .fail(ErrorKind::Other, Op::Upload)
                .with_message("a part's task ended early")
                .with_source(error)),
        }
    }

    /// Completes an upload, or finds that this has happened, and asks for what is stored.
    pub(super) async fn publish(
        &self,
        op: Op,
        key: &str,
        ticket: &UploadTicket,
        parts: &[PartReceipt],
        finish: &FinishOptions,
    ) -> Result<Receipt> {
        let size = parts.iter().map(|part| part.size).sum::<u64>();
        let digests: Option<Vec<Digest>> = parts.iter().map(|part| part.digest).collect();
        let composite = digests.map(|digests| CompositeDigest::of_parts(ticket.part_size, &digests));
        match self.complete(op, key, &ticket.upload, parts, &finish.when).await? {
            Complete::Done(etag) => {
                let mut file = self
                    .stored(&ticket.id, key, op)
                    .await
                    .map_err(|error| error.with_effect(Effect::Applied))?;
                let published = Some(version(&etag));
                if file.version == published {
                    self.compare(op, &file, size, composite, finish.digest)?;
                } else {
                    // Somebody else has written since: what is stored says nothing of this upload, whose receipt
                    // must not name a version that nobody has compared.
                    file = FileMetadata::new(ticket.id.clone(), size);
                    file.version = published;
                }
                Ok(self.receipt(file, composite.is_some(), finish.digest))
            }
            Complete::Gone => {
                let gone = || {
                    self.fail(ErrorKind::NoSuchUpload, op)
                        .with_message("neither the upload nor its result is there")
                };
                let file = match self.stored(&ticket.id, key, op).await {
                    Ok(file) => file,
                    Err(error) if error.kind() == ErrorKind::NotFound => return Err(gone()),
                    Err(error) => return Err(error),
                };
                let same = match (file.composite, composite, file.digest, finish.digest) {
                    (Some(stored), Some(sent), _, _) => stored == sent,
                    (_, _, Some(stored), Some(sent)) => stored == sent,
                    _ => false,
                };
                if same && file.size == size {
                    return Ok(self.receipt(file, composite.is_some(), finish.digest));
                }
                Err(gone())
            }
        }
    }

    /// Compares what the server says it published with what was sent.
    fn compare(
        &self,
        op: Op,
        file: &FileMetadata,
        size: u64,
        composite: Option<CompositeDigest>,
        digest: Option<Digest>,
    ) -> Result<()> {
        let wrong = |message: String| {
            Err(self.fail(ErrorKind::Integrity, op).with_effect(Effect::Applied).with_message(message))
        };
        if file.size != size {
            return wrong(format!("{size} bytes were sent, {} are stored", file.size));
        }
        if let (Some(stored), Some(sent)) = (file.composite, composite)
            && stored != sent
        {
            return wrong(format!(
                "the parts' composite is {}, the server has {}",
                sent.digest, stored.digest
            ));
        }
        if let (Some(stored), Some(sent)) = (file.digest, digest)
            && stored != sent
        {
            return wrong(format!("the bytes' SHA-256 is {sent}, the upload was begun for {stored}"));
        }
        Ok(())
    }

    fn receipt(&self, file: FileMetadata, all_parts_hashed: bool, digest: Option<Digest>) -> Receipt {
        let verified =
            if self.features().part_sha256 && all_parts_hashed { Verified::Backend } else { Verified::No };
        Receipt::new(file, digest, verified)
    }

    pub(super) async fn begin(
        &self,
        id: &FileId,
        part_size: u64,
        options: UploadOptions,
    ) -> Result<UploadTicket> {
        let op = Op::BeginUpload;
        let key = self.key(id, op)?;
        let limits = PartLimits::S3;
        if part_size < limits.min_part_size || part_size > limits.max_part_size {
            return Err(self.fail(ErrorKind::InvalidInput, op).with_message(format!(
                "a part size of {part_size} bytes is not within {} and {}",
                limits.min_part_size, limits.max_part_size
            )));
        }
        let headers = self.headers(id, &options, options.digest, Some(part_size), op)?;
        let upload = self.create_upload(op, &key, &headers).await?;
        Ok(UploadTicket::new(id.clone(), upload, part_size, SystemTime::now()))
    }

    pub(super) async fn put_part(
        &self,
        ticket: &UploadTicket,
        number: PartNumber,
        bytes: Bytes,
        digest: Digest,
    ) -> Result<PartReceipt> {
        let op = Op::PutPart;
        if number.get() > PartLimits::S3.max_parts {
            return Err(self.fail(ErrorKind::InvalidInput, op).with_message(format!("part number {number}")));
        }
        let size = bytes.len() as u64;
        let key = self.any_key(&ticket.id);
        match self.send_part(op, &key, &ticket.upload, number, bytes, digest).await {
            Ok(etag) => Ok(PartReceipt::new(number, size, Some(digest), etag)),
            Err(error) if size == 0 && error.kind() == ErrorKind::InvalidInput => {
                let message = "the server takes no empty part: upload an empty file in one piece";
                Err(self.fail(ErrorKind::Unsupported, op).with_message(message).with_source(error))
            }
            // A server that refuses early closes the connection while the part is still being sent, and the
            // refusal is lost.
            Err(error) if error.effect() == Effect::Unknown => {
                match self.parts_page(op, ticket, None, 1).await {
                    Err(gone) if gone.kind() == ErrorKind::NoSuchUpload => Err(gone),
                    _ => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    async fn parts_page(
        &self,
        op: Op,
        ticket: &UploadTicket,
        marker: Option<&str>,
        most: i32,
    ) -> Result<ListPartsOutput> {
        let key = self.any_key(&ticket.id);
        self.clients
            .call(Request::read(op), |client| {
                client
                    .list_parts()
                    .bucket(&self.config.bucket)
                    .key(&key)
                    .upload_id(&ticket.upload)
                    .max_parts(most)
                    .set_part_number_marker(marker.map(str::to_owned))
                    .set_sse_customer_algorithm(self.storing.algorithm())
                    .set_sse_customer_key(self.storing.key())
                    .set_sse_customer_key_md5(self.storing.md5())
                    .send()
            })
            .await
    }

    pub(super) async fn parts(&self, ticket: &UploadTicket) -> Result<Vec<PartReceipt>> {
        let op = Op::ListParts;
        let mut parts = Vec::new();
        let mut marker: Option<String> = None;
        loop {
            let page = self.parts_page(op, ticket, marker.as_deref(), PARTS_PAGE).await?;
            let strange =
                || self.fail(ErrorKind::Other, op).with_message("a part without number, size or ETag");
            for part in page.parts() {
                let number = part.part_number.and_then(|number| u32::try_from(number).ok());
                let number = number.and_then(PartNumber::new).ok_or_else(strange)?;
                let size = part.size.and_then(|size| u64::try_from(size).ok()).ok_or_else(strange)?;
                let digest = part.checksum_sha256().and_then(|text| Digest::from_base64(text).ok());
                let etag = part.e_tag().ok_or_else(strange)?;
                parts.push(PartReceipt::new(number, size, digest, etag));
            }
            if page.is_truncated != Some(true) {
                break;
            }
            let next = page.next_part_number_marker.filter(|next| Some(next) != marker.as_ref());
            marker = Some(next.ok_or_else(|| {
                self.fail(ErrorKind::Other, op).with_message("the server's list of parts does not end")
            })?);
        }
        parts.sort_by_key(|part| part.number);
        Ok(parts)
    }

    pub(super) async fn finish(
        &self,
        ticket: &UploadTicket,
        parts: &[PartReceipt],
        finish: FinishOptions,
    ) -> Result<Receipt> {
        let op = Op::FinishUpload;
        self.honours(&finish.when, op)?;
        let mut parts = parts.to_vec();
        parts.sort_by_key(|part| part.number);
        let complete = (1..).zip(&parts).all(|(number, part)| part.number.get() == number);
        if parts.is_empty() || !complete {
            return Err(self
                .fail(ErrorKind::InvalidInput, op)
                .with_message("the parts are not those from 1 on without a gap"));
        }
        self.publish(op, &self.any_key(&ticket.id), ticket, &parts, &finish).await
    }

    pub(super) async fn abandon(&self, ticket: &UploadTicket) -> Result<()> {
        self.abort(Op::AbandonUpload, &self.any_key(&ticket.id), &ticket.upload).await
    }

    pub(super) async fn stale(&self, older_than: Duration) -> Result<Vec<UploadTicket>> {
        let op = Op::ListUploads;
        let limit = SystemTime::now().checked_sub(older_than).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut tickets = Vec::new();
        let mut marker: (Option<String>, Option<String>) = (None, None);
        loop {
            let page = self
                .clients
                .call(Request::read(op), |client| {
                    client
                        .list_multipart_uploads()
                        .bucket(&self.config.bucket)
                        .prefix(&self.key_prefix)
                        .encoding_type(EncodingType::Url)
                        .set_key_marker(marker.0.clone())
                        .set_upload_id_marker(marker.1.clone())
                        .send()
                })
                .await?;
            let encoded = page.encoding_type == Some(EncodingType::Url);
            for upload in page.uploads() {
                let (Some(key), Some(name), Some(started)) =
                    (upload.key(), upload.upload_id(), upload.initiated.and_then(time))
                else {
                    continue;
                };
                let key = decode_key(key, encoded);
                // Not begun through this library: no id can name it.
                let id = key.strip_prefix(&self.key_prefix).and_then(|id| FileId::parse(id).ok());
                if let (Some(id), true) = (id, started <= limit) {
                    tickets.push(UploadTicket::new(id, name, 0, started));
                }
            }
            if page.is_truncated != Some(true) {
                return Ok(tickets);
            }
            let next_key = page.next_key_marker.map(|key| decode_key(&key, encoded));
            let next = (next_key, page.next_upload_id_marker);
            if next.0.is_none() || next == marker {
                return Err(self
                    .fail(ErrorKind::Other, op)
                    .with_message("the server's list of uploads does not end"));
            }
            marker = next;
        }
    }
}

/// One part on its way: it holds its bytes and a permit as long as it lives.
struct Part {
    inner: Arc<Inner>,
    key: String,
    upload: String,
    number: PartNumber,
    bytes: Bytes,
    permit: OwnedSemaphorePermit,
}

impl Part {
    async fn send(self) -> Result<PartReceipt> {
        let Self { inner, key, upload, number, bytes, permit } = self;
        let digest = sha256(bytes.clone()).await;
        let size = bytes.len() as u64;
        let etag =
            retrying(|| inner.send_part(Op::Upload, &key, &upload, number, bytes.clone(), digest)).await?;
        drop(bytes);
        drop(permit);
        Ok(PartReceipt::new(number, size, Some(digest), etag))
    }
}

/// Part numbers are at most 10,000, so they fit.
pub(super) fn part_number(number: PartNumber) -> i32 {
    i32::try_from(number.get()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_repeated_after_an_outage_only_and_not_for_ever() {
        let outage = Error::new(ErrorKind::Unavailable, Op::PutPart);
        assert_eq!(delay(&outage, 1, 1.0), Some(FIRST_DELAY));
        assert_eq!(delay(&outage, 2, 0.0), Some(FIRST_DELAY * 2));
        assert_eq!(delay(&outage, TRIES, 0.0), None);
        assert_eq!(delay(&Error::new(ErrorKind::Integrity, Op::PutPart), 1, 0.0), None);
        let patient = |seconds| {
            Error::new(ErrorKind::Throttled, Op::PutPart)
                .with_retry(Retry::After(Duration::from_secs(seconds)))
        };
        assert_eq!(delay(&patient(3), 1, 0.0), Some(Duration::from_secs(3)));
        assert_eq!(delay(&patient(60), 1, 0.0), None);
    }
}
