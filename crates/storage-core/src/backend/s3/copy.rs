//! Copies within the bucket: by the server where it can, in parts where the object is too great, through this
//! machine where a condition would be ignored.

use std::sync::Arc;
use std::time::SystemTime;

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::{MetadataDirective, TaggingDirective};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::task::JoinSet;

use super::encryption::Protection;
use super::error::Request;
use super::multipart::{AbortOnDrop, Complete, part_number};
use super::object::Headers;
use super::{Inner, S3Storage, conditions, named};
use crate::body::Body;
use crate::checksum::{Digest, Mismatch};
use crate::error::{Effect, Error, ErrorKind, Op, Result};
use crate::id::FileId;
use crate::metadata::FileMetadata;
use crate::storage::{
    DownloadOptions, FileStorage, PartLimits, PartNumber, PartReceipt, Precondition, Receipt, UploadOptions,
    UploadTicket, Verified,
};

/// Everything but the unreserved characters of RFC 3986 section 2.3, and the `/` between segments: some servers
/// read a `+` as a space here.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// Memory that a copy through this machine takes before it becomes a temporary file.
const SPOOL: usize = 8 << 20;

/// Size of the parts of a copy in parts: the server moves them, so they may be few. 10,000 are 5 TiB.
const COPY_PART: u64 = 512 << 20;

pub(super) async fn copy(
    storage: &S3Storage,
    from: &FileId,
    to: &FileId,
    options: UploadOptions,
) -> Result<Receipt> {
    let inner = &storage.inner;
    let (source, target) = async {
        inner.honours(&options.when, Op::Copy)?;
        Ok((inner.key(from, Op::Copy)?, inner.key(to, Op::Copy)?))
    }
    .await
    .map_err(|error: Error| named(error, to))?;
    let head = inner.head(&source, Op::Copy).await.map_err(|error| named(error, from))?;
    let mut file = inner.file_of(from, &head, Op::Copy).map_err(|error| named(error, from))?;
    if inner.config.object_tags {
        let tags = inner.object_tags(&source, Op::Copy).await.map_err(|error| named(error, from))?;
        file.tags.extend(tags);
    }
    if let (Some(expected), Some(actual)) = (options.digest, file.digest)
        && expected != actual
    {
        return Err(Mismatch { expected, actual }
            .into_error(Op::Copy)
            .with_storage(&inner.config.name)
            .with_id(from));
    }
    let conditional = options.when != Precondition::None;
    let unknown = options.digest.is_some() && file.digest.is_none();
    if unknown || (conditional && (!inner.features().copy || file.size > inner.copy_limit)) {
        return through_here(storage, from, to, options).await;
    }
    let source = Source { key: source, head, file };
    inner.copy_there(source, to, target, options).await.map_err(|error| named(error, to))
}

/// Reads the source, compares it with its digest, and uploads it.
async fn through_here(
    storage: &S3Storage,
    from: &FileId,
    to: &FileId,
    options: UploadOptions,
) -> Result<Receipt> {
    let as_copy = |error: Error| error.with_op(Op::Copy);
    let download = storage.download(from, DownloadOptions::default()).await.map_err(as_copy)?;
    let mut merged = merge(&download.metadata, &options);
    merged.digest = options.digest.or(download.metadata.digest);
    let body = Body::spool(download.body, SPOOL, None).await.map_err(as_copy)?;
    storage.upload(to, body, merged).await.map_err(as_copy)
}

/// Takes the source's attributes where the options have none.
fn merge(source: &FileMetadata, options: &UploadOptions) -> UploadOptions {
    let mut merged = UploadOptions::default().with_attributes_of(source).with_when(options.when.clone());
    if options.content_type.is_some() {
        merged.content_type.clone_from(&options.content_type);
    }
    if options.file_name.is_some() {
        merged.file_name.clone_from(&options.file_name);
    }
    if options.created.is_some() {
        merged.created = options.created;
    }
    if !options.tags.is_empty() {
        merged.tags.clone_from(&options.tags);
    }
    merged
}

struct Source {
    key: String,
    head: HeadObjectOutput,
    file: FileMetadata,
}

impl Inner {
    async fn copy_there(
        self: &Arc<Self>,
        source: Source,
        to: &FileId,
        target: String,
        options: UploadOptions,
    ) -> Result<Receipt> {
        let changes = options.content_type.is_some()
            || options.file_name.is_some()
            || options.created.is_some()
            || !options.tags.is_empty();
        let merged = merge(&source.file, &options);
        let digest = source.file.digest;
        if source.file.size > self.copy_limit {
            self.copy_in_parts(&source, to, &target, &merged).await?;
        } else {
            // S3 refuses to copy an object onto itself unless something is replaced.
            let replace = changes || source.key == target;
            // The part size is that of the composite, which a copy in one piece may not have any more.
            let headers = self.headers(to, &merged, digest, None, Op::Copy)?;
            let headers = (replace || source.file.composite.is_some()).then_some(&headers);
            self.copy_object(Op::Copy, &source.key, &target, Some(&source.head), headers, &options.when)
                .await?;
        }
        let file =
            self.stored(to, &target, Op::Copy).await.map_err(|error| error.with_effect(Effect::Applied))?;
        if file.size != source.file.size {
            return Err(self
                .fail(ErrorKind::Integrity, Op::Copy)
                .with_effect(Effect::Applied)
                .with_message(format!("{} bytes became {}", source.file.size, file.size)));
        }
        // The server copied bytes that it had checked when they came; nobody has looked since.
        Ok(Receipt::new(file, digest, Verified::No))
    }

    /// Sends one `CopyObject`. Without `headers` the attributes are the source's; with a `head` its version is.
    pub(super) async fn copy_object(
        &self,
        op: Op,
        source: &str,
        target: &str,
        head: Option<&HeadObjectOutput>,
        headers: Option<&Headers>,
        when: &Precondition,
    ) -> Result<()> {
        let request = Request::write(op).with_when(when);
        let (if_match, if_none_match) = conditions(when);
        // With a condition on the target, a 412 must be about that.
        let pinned = head.filter(|_| *when == Precondition::None).and_then(|head| head.e_tag.clone());
        let answer = self
            .clients
            .try_call(request, |client| {
                let request = client
                    .copy_object()
                    .bucket(&self.config.bucket)
                    .key(target)
                    .copy_source(self.copy_source(source))
                    .set_copy_source_if_match(pinned.clone())
                    .set_if_match(if_match.clone())
                    .set_if_none_match(if_none_match.clone())
                    .set_storage_class(self.storing.sdk_class())
                    .set_server_side_encryption(self.storing.sdk_encryption())
                    .set_ssekms_key_id(self.storing.kms_key().map(str::to_owned))
                    .set_sse_customer_algorithm(self.storing.algorithm())
                    .set_sse_customer_key(self.storing.key())
                    .set_sse_customer_key_md5(self.storing.md5())
                    .set_copy_source_sse_customer_algorithm(self.storing.algorithm())
                    .set_copy_source_sse_customer_key(self.storing.key())
                    .set_copy_source_sse_customer_key_md5(self.storing.md5());
                let request = match headers {
                    None => request,
                    Some(headers) => request
                        .metadata_directive(MetadataDirective::Replace)
                        .content_type(&headers.content_type)
                        .set_metadata(headers.metadata())
                        .set_tagging_directive(self.config.object_tags.then_some(TaggingDirective::Replace))
                        .set_tagging(headers.tagging.clone())
                        .set_cache_control(head.and_then(|head| head.cache_control.clone()))
                        .set_content_disposition(head.and_then(|head| head.content_disposition.clone()))
                        .set_content_encoding(head.and_then(|head| head.content_encoding.clone()))
                        .set_content_language(head.and_then(|head| head.content_language.clone())),
                };
                request.send()
            })
            .await;
        match answer {
            Ok(answer) if answer.copy_object_result().is_some_and(|result| result.e_tag().is_some()) => {
                let protection = Protection::new(
                    answer.server_side_encryption(),
                    answer.ssekms_key_id(),
                    answer.sse_customer_key_md5(),
                );
                self.storing.check(&protection, op, Effect::Applied).map_err(|error| self.ours(error))
            }
            Ok(_) => Err(self
                .fail(ErrorKind::Unavailable, op)
                .with_effect(Effect::Unknown)
                .with_message("the server answered neither a result nor an error")),
            Err((failure, _)) if pinned.is_some() && failure.status() == Some(412) => Err(self
                .fail(ErrorKind::SourceChanged, op)
                .with_message("the source was replaced while it was copied")),
            Err((failure, effect)) => Err(self.clients.error(failure, request, effect)),
        }
    }

    fn copy_source(&self, key: &str) -> String {
        format!("{}/{}", self.config.bucket, utf8_percent_encode(key, PATH))
    }

    async fn copy_in_parts(
        self: &Arc<Self>,
        source: &Source,
        to: &FileId,
        target: &str,
        options: &UploadOptions,
    ) -> Result<()> {
        let size = source.file.size;
        let wanted = COPY_PART.min(self.copy_limit);
        let part_size = PartLimits::S3.part_size(size, wanted).map_err(|error| error.with_op(Op::Copy))?;
        let headers = self.headers(to, options, source.file.digest, Some(part_size), Op::Copy)?;
        let upload = self.create_upload(Op::Copy, target, &headers).await?;
        let guard = AbortOnDrop::new(self, target, &upload);
        let ticket = UploadTicket::new(to.clone(), upload, part_size, SystemTime::now());
        let result = async {
            let parts = self.copy_parts(source, target, &ticket).await?;
            self.complete(Op::Copy, target, &ticket.upload, &parts, &Precondition::None).await
        };
        match result.await {
            Ok(Complete::Done(_)) => {
                guard.disarm();
                Ok(())
            }
            Ok(Complete::Gone) => {
                guard.disarm();
                Err(self
                    .fail(ErrorKind::NoSuchUpload, Op::Copy)
                    .with_message("the copy's upload was aborted"))
            }
            Err(error) => {
                guard.abort().await;
                Err(error)
            }
        }
    }

    async fn copy_parts(
        self: &Arc<Self>,
        source: &Source,
        target: &str,
        ticket: &UploadTicket,
    ) -> Result<Vec<PartReceipt>> {
        let size = source.file.size;
        let count = u32::try_from(size.div_ceil(ticket.part_size)).unwrap_or(u32::MAX);
        let mut running = JoinSet::new();
        let mut parts = Vec::new();
        for index in 0..count {
            let permit = self.permit(Op::Copy).await?;
            while let Some(done) = running.try_join_next() {
                parts.push(self.joined(done)?);
            }
            let start = u64::from(index) * ticket.part_size;
            let end = (start + ticket.part_size).min(size);
            let number = PartNumber::MIN.saturating_add(index);
            let inner = Arc::clone(self);
            let copy_source = self.copy_source(&source.key);
            let etag = source.head.e_tag.clone();
            let (target, upload) = (target.to_owned(), ticket.upload.clone());
            running.spawn(async move {
                let answer = inner
                    .clients
                    .call(Request::write(Op::Copy), |client| {
                        client
                            .upload_part_copy()
                            .bucket(&inner.config.bucket)
                            .key(&target)
                            .upload_id(&upload)
                            .part_number(part_number(number))
                            .copy_source(&copy_source)
                            .copy_source_range(format!("bytes={start}-{}", end - 1))
                            .set_copy_source_if_match(etag.clone())
                            .set_sse_customer_algorithm(inner.storing.algorithm())
                            .set_sse_customer_key(inner.storing.key())
                            .set_sse_customer_key_md5(inner.storing.md5())
                            .set_copy_source_sse_customer_algorithm(inner.storing.algorithm())
                            .set_copy_source_sse_customer_key(inner.storing.key())
                            .set_copy_source_sse_customer_key_md5(inner.storing.md5())
                            .send()
                    })
                    .await;
                drop(permit);
                let result = answer?.copy_part_result;
                let etag = result.as_ref().and_then(|result| result.e_tag.clone());
                let digest = result
                    .and_then(|result| result.checksum_sha256)
                    .and_then(|text| Digest::from_base64(&text).ok());
                match etag {
                    Some(etag) => Ok(PartReceipt::new(number, end - start, digest, etag)),
                    None => Err(inner
                        .fail(ErrorKind::Unavailable, Op::Copy)
                        .with_message("the server answered neither a part nor an error")),
                }
            });
        }
        while let Some(done) = running.join_next().await {
            parts.push(self.joined(done)?);
        }
        parts.sort_by_key(|part| part.number);
        Ok(parts)
    }
}
