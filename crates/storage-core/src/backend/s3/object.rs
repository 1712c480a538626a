//! Whole objects: put, get, head, delete.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::ChecksumMode;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};

use super::attributes::{self, Attributes, HEADER_PREFIX};
use super::carrier::{BoxError, Get, Got, Head, Of, Put, RawBody, Stored};
use super::encryption::Storing;
use super::error::{Request, innermost};
use super::facts::{Facts, version};
use super::{Inner, conditions};
use crate::body::{Body, ByteStream};
use crate::checksum::{Digest, Mismatch, VerifyingStream};
use crate::error::{Effect, Error, ErrorKind, Op, Result};
use crate::id::FileId;
use crate::metadata::{FileMetadata, Tags, guess_content_type};
use crate::storage::{
    ByteRange, Download, DownloadOptions, PartLimits, Precondition, Receipt, UploadOptions, Verified,
};

/// Bytes from which on hashing moves to a thread that may block: a millisecond's worth.
const HASH_AWAY: usize = 1 << 20;

/// Computes a SHA-256 without holding up the runtime.
pub(super) async fn sha256(bytes: Bytes) -> Digest {
    if bytes.len() < HASH_AWAY {
        return Digest::of(&bytes);
    }
    let copy = bytes.clone();
    match tokio::task::spawn_blocking(move || Digest::of(&bytes)).await {
        Ok(digest) => digest,
        // The runtime is shutting down.
        Err(_) => Digest::of(&copy),
    }
}

/// Reads a range of a body into one buffer of the right size. A body that has fewer or more bytes than it said
/// is an error: what would be published is no file.
pub(super) async fn read_range(body: &Body, range: Range<u64>) -> Result<Bytes> {
    if body.in_memory().is_some() {
        return body.read(range).await;
    }
    let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    let wrong = |found: &str| {
        Error::new(ErrorKind::SourceChanged, Op::ReadBody)
            .with_message(format!("the body has {found} than the {length} bytes of {range:?}"))
    };
    let mut buffer = BytesMut::with_capacity(length);
    let mut stream = body.open_range(range.clone()).await?;
    while let Some(piece) = stream.try_next().await? {
        if piece.len() > length - buffer.len() {
            return Err(wrong("more"));
        }
        buffer.extend_from_slice(&piece);
    }
    if buffer.len() < length {
        return Err(wrong("less"));
    }
    Ok(buffer.freeze())
}

/// Attributes of an upload in the form in which the server takes them.
#[derive(Debug)]
pub(super) struct Headers {
    pub(super) content_type: String,
    pub(super) metadata: BTreeMap<String, String>,
    /// The `x-amz-tagging` header, where tags are object tags.
    pub(super) tagging: Option<String>,
    pub(super) storing: Arc<Storing>,
}

impl Headers {
    pub(super) fn metadata(&self) -> Option<HashMap<String, String>> {
        Some(self.metadata.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
    }
}

impl Inner {
    /// Checks and writes out the attributes of an upload.
    pub(super) fn headers(
        &self,
        id: &FileId,
        options: &UploadOptions,
        digest: Option<Digest>,
        part_size: Option<u64>,
        op: Op,
    ) -> Result<Headers> {
        if options.tags.contains_key("") {
            return Err(self.fail(ErrorKind::InvalidInput, op).with_message("a tag has an empty key"));
        }
        let foreign = |key: &String| key.starts_with(HEADER_PREFIX);
        let (tags, tagging) = if self.config.object_tags {
            let (kept, object): (Tags, Tags) =
                options.tags.clone().into_iter().partition(|(key, _)| foreign(key));
            (kept, (!object.is_empty()).then(|| tagging(&object)))
        } else {
            (options.tags.clone(), None)
        };
        let metadata = attributes::encode(&Attributes {
            file_name: options.file_name.clone(),
            created: options.created,
            tags,
            digest,
            part_size,
        });
        attributes::check_size(&metadata, op).map_err(|error| error.with_storage(&self.config.name))?;
        let content_type = options.content_type.clone().unwrap_or_else(|| {
            guess_content_type(options.file_name.as_deref().unwrap_or_else(|| id.file_name()))
        });
        Ok(Headers { content_type, metadata, tagging, storing: Arc::clone(&self.storing) })
    }

    pub(super) async fn upload(
        self: &Arc<Self>,
        id: &FileId,
        body: Body,
        options: UploadOptions,
    ) -> Result<Receipt> {
        let key = self.key(id, Op::Upload)?;
        self.honours(&options.when, Op::Upload)?;
        let part_size = PartLimits::S3
            .part_size(body.size(), self.config.part_size)
            .map_err(|error| error.with_op(Op::Upload).with_storage(&self.config.name))?;
        if body.size() <= part_size {
            let bytes = read_range(&body, 0..body.size()).await?;
            self.put(id, key, bytes, body.known_digest(), options).await
        } else {
            // Boxed, so that what small files wait for stays small: it is moved for each of them.
            Box::pin(self.upload_in_parts(id, key, body, part_size, options)).await
        }
    }

    /// Stores bytes in one request, hashed once: the digest is the signature's payload hash, the checksum
    /// header, the metadata and the receipt.
    async fn put(
        &self,
        id: &FileId,
        key: String,
        bytes: Bytes,
        known: Option<Digest>,
        options: UploadOptions,
    ) -> Result<Receipt> {
        let digest = match (known, options.digest) {
            (Some(known), _) => known,
            // The server compares the bytes with it.
            (None, Some(expected)) if self.features().put_sha256 => expected,
            (None, _) => sha256(bytes.clone()).await,
        };
        if let Some(expected) = options.digest
            && expected != digest
        {
            return Err(Mismatch { expected, actual: digest }
                .into_error(Op::Upload)
                .with_storage(&self.config.name));
        }
        let headers = self.headers(id, &options, Some(digest), None, Op::Upload)?;
        let size = bytes.len() as u64;
        let answer =
            self.put_object(Op::Upload, &key, bytes, digest, digest, &headers, &options.when).await?;
        let mut file = FileMetadata::new(id.clone(), size);
        file.file_name = options.file_name;
        file.content_type = Some(headers.content_type);
        file.created = options.created;
        file.tags = options.tags;
        file.digest = Some(digest);
        file.version = answer.as_deref().map(version);
        let verified = if self.features().put_sha256 { Verified::Backend } else { Verified::No };
        Ok(Receipt::new(file, Some(digest), verified))
    }

    /// Sends one PUT and returns the ETag. `checksum` goes into the header, `payload` into the signature: they
    /// differ only where a probe lies.
    #[expect(clippy::too_many_arguments, reason = "one request, spelt out; the probes vary each")]
    pub(super) async fn put_object(
        &self,
        op: Op,
        key: &str,
        bytes: Bytes,
        payload: Digest,
        checksum: Digest,
        headers: &Headers,
        when: &Precondition,
    ) -> Result<Option<String>> {
        let put = Put {
            key,
            of: Of::Object { headers, when },
            bytes: &bytes,
            payload,
            checksum: self.features().sends_checksums.then_some(checksum),
            customer: self.storing.customer(),
        };
        let stored = self.carry(Request::write(op).with_when(when), put).await?;
        self.storing.check(&stored.protection, op, Effect::Applied).map_err(|error| self.ours(error))?;
        Ok(stored.etag)
    }

    /// Names the storage in an error that knows no storage.
    pub(super) fn ours(&self, error: Error) -> Error {
        error.with_storage(&self.config.name)
    }

    /// Sends a PUT, to the next endpoint where one cannot be reached.
    pub(super) async fn carry(&self, request: Request<'_>, put: Put<'_>) -> Result<Stored> {
        self.clients
            .each(request, |endpoint| self.carrier.put(endpoint, put))
            .await
            .map_err(|(failure, effect)| self.clients.error(failure, request, effect))
    }

    async fn facts(&self, key: &str, op: Op) -> Result<Facts> {
        let request = Request::read(op);
        let head = Head { key, customer: self.storing.customer() };
        self.clients
            .each(request, |endpoint| self.carrier.head(endpoint, head))
            .await
            .map_err(|(failure, effect)| self.clients.error(failure, request, effect))
    }

    /// Asks for all that the server says, for what goes on to another object.
    pub(super) async fn head(&self, key: &str, op: Op) -> Result<HeadObjectOutput> {
        self.clients
            .call(Request::read(op), |client| {
                client
                    .head_object()
                    .bucket(&self.config.bucket)
                    .key(key)
                    .checksum_mode(ChecksumMode::Enabled)
                    .set_sse_customer_algorithm(self.storing.algorithm())
                    .set_sse_customer_key(self.storing.key())
                    .set_sse_customer_key_md5(self.storing.md5())
                    .send()
            })
            .await
    }

    pub(super) fn file_of(&self, id: &FileId, head: &HeadObjectOutput, op: Op) -> Result<FileMetadata> {
        self.file_with(id, Facts::from(head), op)
    }

    fn file_with(&self, id: &FileId, facts: Facts, op: Op) -> Result<FileMetadata> {
        let size = self.size(facts.size, op)?;
        Ok(facts.file(id, size))
    }

    fn size(&self, length: Option<i64>, op: Op) -> Result<u64> {
        length.and_then(|length| u64::try_from(length).ok()).ok_or_else(|| {
            self.fail(ErrorKind::Other, op).with_message("the server's answer has no Content-Length")
        })
    }

    pub(super) async fn metadata(&self, id: &FileId) -> Result<FileMetadata> {
        let key = self.key(id, Op::Metadata)?;
        self.stored(id, &key, Op::Metadata).await
    }

    /// Asks for everything that is known of an object.
    pub(super) async fn stored(&self, id: &FileId, key: &str, op: Op) -> Result<FileMetadata> {
        if !self.config.object_tags {
            return self.file_with(id, self.facts(key, op).await?, op);
        }
        let (facts, tags) = futures::future::join(self.facts(key, op), self.object_tags(key, op)).await;
        let mut file = self.file_with(id, facts?, op)?;
        file.tags.extend(tags?);
        Ok(file)
    }

    pub(super) async fn object_tags(&self, key: &str, op: Op) -> Result<Tags> {
        let answer = self
            .clients
            .call(Request::read(op), |client| {
                client.get_object_tagging().bucket(&self.config.bucket).key(key).send()
            })
            .await?;
        Ok(answer.tag_set.into_iter().map(|tag| (tag.key, tag.value)).collect())
    }

    pub(super) async fn download(&self, id: &FileId, options: DownloadOptions) -> Result<Download> {
        let op = Op::Download;
        let key = self.key(id, op)?;
        let if_match = match &options.when {
            Precondition::None => None,
            Precondition::Version(version) => Some(version.as_str().to_owned()),
            Precondition::Absent => {
                return Err(self
                    .fail(ErrorKind::InvalidInput, op)
                    .with_message("a file that is absent has no bytes"));
            }
        };
        let range = match options.range {
            None => None,
            Some(range) => match range_header(range) {
                Some(header) => Some(header),
                None => {
                    self.head(&key, op).await?;
                    return Err(self.not_satisfiable(range));
                }
            },
        };
        let request = Request::read(op).with_when(&options.when);
        let get = Get {
            key: &key,
            range: range.as_deref(),
            if_match: if_match.as_deref(),
            customer: self.storing.customer(),
        };
        let answer = self
            .clients
            .each(request, |endpoint| self.carrier.get(endpoint, get))
            .await
            .map_err(|(failure, effect)| self.clients.error(failure, request, effect))
            .map_err(|error| match (error.kind(), options.range) {
                (ErrorKind::InvalidInput, Some(range)) => self.not_satisfiable(range).with_source(error),
                _ => error,
            })?;
        self.opened(id, answer, options).await
    }

    fn not_satisfiable(&self, range: ByteRange) -> Error {
        self.fail(ErrorKind::InvalidInput, Op::Download)
            .with_message(format!("the range {range:?} holds no byte of the file"))
    }

    /// Checks that the answer is to the question, and wraps its body.
    async fn opened(&self, id: &FileId, answer: Got, options: DownloadOptions) -> Result<Download> {
        let op = Op::Download;
        let Got { facts, content_range: told, body } = answer;
        let length = self.size(facts.size, op)?;
        let told = match (told.as_deref(), options.range) {
            // Garage answers 206 with a range that ends before its beginning.
            (Some(text), Some(range)) if text.ends_with("/0") => return Err(self.not_satisfiable(range)),
            (text, _) => text,
        };
        let told = match told {
            Some(text) => Some(content_range(text).ok_or_else(|| {
                self.fail(ErrorKind::Other, op).with_message(format!("no Content-Range: {text:?}"))
            })?),
            None => None,
        };
        let size = told.as_ref().map_or(length, |(_, size)| *size);
        let sent = told.map_or(0..size, |(range, _)| range);
        let wanted = match options.range {
            None => 0..size,
            Some(range) => range.resolve(size).ok_or_else(|| self.not_satisfiable(range))?,
        };
        // A server without ranges sends everything: what was asked for is cut out.
        if sent.end - sent.start != length || sent.start > wanted.start || sent.end < wanted.end {
            return Err(self.fail(ErrorKind::Other, op).with_message(format!(
                "asked for the bytes {wanted:?}, the server sent {length} as {sent:?}"
            )));
        }
        let mut file = facts.file(id, size);
        if let (Precondition::Version(wanted), Some(stored)) = (&options.when, &file.version)
            && wanted != stored
        {
            return Err(self.fail(ErrorKind::VersionMismatch, op));
        }
        if self.config.object_tags {
            let tags = self.object_tags(&self.any_key(id), op).await?;
            file.tags.extend(tags);
        }
        let expected = file.expected().filter(|_| wanted == (0..size) && !options.unverified);
        let mut pieces = self.pieces(id, body);
        let length = wanted.end - wanted.start;
        if sent != wanted {
            pieces = cut(pieces, wanted.start - sent.start, length);
        }
        let verified = VerifyingStream::new(pieces, length, expected, id.clone(), &self.config.name);
        Ok(Download::new(file, wanted, verified.boxed()))
    }

    fn pieces(&self, id: &FileId, body: RawBody) -> ByteStream {
        let (id, storage) = (id.clone(), self.config.name.clone());
        let broke_off = move |source: BoxError| {
            Error::new(ErrorKind::Unavailable, Op::Download)
                .with_id(&id)
                .with_storage(&storage)
                .with_message(format!("the body broke off: {}", innermost(&*source)))
                .with_source(source)
        };
        body.map_err(broke_off).boxed()
    }

    pub(super) async fn delete(&self, id: &FileId, when: Precondition) -> Result<bool> {
        let op = Op::Delete;
        let key = self.key(id, op)?;
        match &when {
            Precondition::None => {}
            Precondition::Absent => {
                return Err(self
                    .fail(ErrorKind::InvalidInput, op)
                    .with_message("nothing can be deleted that is absent"));
            }
            Precondition::Version(_) if !self.features().delete => {
                return Err(self.fail(ErrorKind::Unsupported, op).with_message(
                    "the server does not honour If-Match on DELETE, so the version would be ignored",
                ));
            }
            Precondition::Version(_) => {}
        }
        // DELETE answers 204 whether there was something or not.
        let head = match self.head(&key, op).await {
            Ok(head) => head,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if let Precondition::Version(wanted) = &when
            && head.e_tag.as_deref().map(version).as_ref() != Some(wanted)
        {
            return Err(self.fail(ErrorKind::VersionMismatch, op));
        }
        match self.delete_key(op, &key, &when).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends a DELETE, whatever is there.
    pub(super) async fn delete_key(&self, op: Op, key: &str, when: &Precondition) -> Result<()> {
        let (if_match, _) = conditions(when);
        self.clients
            .call(Request::write(op).with_when(when), |client| {
                client
                    .delete_object()
                    .bucket(&self.config.bucket)
                    .key(key)
                    .set_if_match(if_match.clone())
                    .send()
            })
            .await?;
        Ok(())
    }
}

/// Writes tags as the query string that `x-amz-tagging` is.
fn tagging(tags: &Tags) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(tags).finish()
}

/// Writes a `Range` header, or nothing for a range that never holds a byte.
fn range_header(range: ByteRange) -> Option<String> {
    match range {
        ByteRange::From(start) => Some(format!("bytes={start}-")),
        // Servers read offsets as signed.
        ByteRange::Between(start, end) if start < end && end > i64::MAX as u64 => {
            Some(format!("bytes={start}-"))
        }
        ByteRange::Between(start, end) => (start < end).then(|| format!("bytes={start}-{}", end - 1)),
        ByteRange::Last(count) => (count > 0).then(|| format!("bytes=-{count}")),
    }
}

/// Reads `bytes 2-5/10` (RFC 9110 section 14.4).
fn content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let size: u64 = size.parse().ok()?;
    let range = first.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?;
    (range.start < range.end && range.end <= size).then_some((range, size))
}

/// Leaves out the first `skip` bytes and ends after `length` more.
fn cut(pieces: ByteStream, skip: u64, length: u64) -> ByteStream {
    stream::try_unfold((pieces, skip, length), |(mut pieces, mut skip, mut left)| async move {
        while left > 0 {
            let Some(mut piece) = pieces.try_next().await? else { break };
            let drop = usize::try_from(skip).map_or(piece.len(), |skip| skip.min(piece.len()));
            let mut rest = piece.split_off(drop);
            skip -= drop as u64;
            rest.truncate(usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len())));
            if !rest.is_empty() {
                left -= rest.len() as u64;
                return Ok(Some((rest, (pieces, skip, left))));
            }
        }
        Ok(None)
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_or_refused() {
        assert_eq!(content_range("bytes 2-5/10"), Some((2..6, 10)));
        for text in ["bytes */10", "bytes 5-2/10", "bytes 0-10/10", "bytes 0-1/*", "2-5/10"] {
            assert_eq!(content_range(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn a_server_that_ignores_ranges_gives_no_wrong_bytes() {
        for (skip, length) in [(0, 10), (0, 3), (4, 6), (3, 4), (9, 1)] {
            let pieces = [b"012".as_slice(), b"3", b"456789"].map(|piece| Ok(Bytes::from_static(piece)));
            let all = crate::body::collect(cut(stream::iter(pieces).boxed(), skip, length)).await.unwrap();
            assert_eq!(all, b"0123456789"[skip as usize..][..length as usize], "{skip} {length}");
        }
    }
}
