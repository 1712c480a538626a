//! Multipart uploads over the storage's part-wise uploads. Nothing is remembered here: ids carry the storage's
//! own name of the upload, and the parts are what the storage says they are.

use std::num::NonZeroU32;
use std::time::{Duration, UNIX_EPOCH};

use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Response, S3Result};
use storage_core::body::collect;
use storage_core::checksum::{CompositeDigest, Digest};
use storage_core::error::ErrorKind;
use storage_core::id::FileId;
use storage_core::storage::{
    ByteRange, FileStorage, FinishOptions, PartNumber, PartReceipt, ResumableUpload, UploadTicket,
};

use crate::condition::{self, ReadConditions};
use crate::error::invalid_part;
use crate::gateway::copy::open_version;
use crate::gateway::read::told_checksum;
use crate::gateway::{Envelope, Gateway, checksum_type, owner, size};
use crate::listing::{self, Names, common_prefix};
use crate::part_tag::PartTag;
use crate::{attributes, error, etag, keys, upload_id};

/// Least size of every part but the last, greatest number of a part ("Amazon S3 multipart upload limits", Amazon
/// S3 User Guide): held here, whatever the storage takes, so that what works here works elsewhere.
const MIN_PART_BYTES: u64 = 5 << 20;
const MAX_PARTS: u32 = 10_000;

fn resumable(storage: &dyn FileStorage) -> S3Result<&dyn ResumableUpload> {
    storage.resumable().ok_or_else(|| error::not_implemented("a multipart upload to this storage"))
}

fn part_number(number: i32) -> S3Result<PartNumber> {
    u32::try_from(number)
        .ok()
        .and_then(NonZeroU32::new)
        .filter(|number| number.get() <= MAX_PARTS)
        .ok_or_else(|| error::invalid_argument(format!("part numbers are 1 to {MAX_PARTS}, not {number}")))
}

impl Gateway {
    fn upload(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
    ) -> S3Result<(&dyn FileStorage, &dyn ResumableUpload, UploadTicket)> {
        let (storage, id) = self.object(bucket, key)?;
        let resumable = resumable(&**storage)?;
        let upload = upload_id::decode(bucket, key, upload)?;
        // Part size and time are the storage's to know; it is asked by the name of the upload.
        Ok((&**storage, resumable, UploadTicket::new(id, upload, 0, UNIX_EPOCH)))
    }

    pub(super) async fn create_upload(
        &self,
        input: CreateMultipartUploadInput,
        envelope: Envelope,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let (storage, id) = self.object(&input.bucket, &input.key)?;
        let resumable = resumable(&**storage)?;
        check_kind(input.checksum_algorithm.as_ref(), input.checksum_type.as_ref())?;
        let described = attributes::read(&envelope.headers)?;
        // 0: an S3 client does not say how large its parts will be.
        let part_size = described.part_size.unwrap_or(0);
        let begun = resumable.begin(&id, part_size, described.options).await;
        let ticket = begun.map_err(|failed| match failed.kind() {
            ErrorKind::InvalidInput if part_size == 0 && resumable.limits().min_part_size > 0 => {
                error::not_implemented("a multipart upload to this storage without x-amz-meta-part-size")
            }
            _ => error::inbound(failed),
        })?;
        let upload_id = upload_id::encode(&input.bucket, &input.key, &ticket.upload)?;
        // Told only where it is what will be kept: the composite of the parts' SHA-256.
        let sha256 = input.checksum_algorithm.filter(|one| one.as_str() == ChecksumAlgorithm::SHA256);
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(upload_id),
            checksum_type: sha256.is_some().then(|| checksum_type(ChecksumType::COMPOSITE)),
            checksum_algorithm: sha256,
            ..Default::default()
        }))
    }

    pub(super) async fn put_part(
        &self,
        input: UploadPartInput,
        envelope: Envelope,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let (_, resumable, ticket) = self.upload(&input.bucket, &input.key, &input.upload_id)?;
        let number = part_number(input.part_number)?;
        let part = self.receiver.part(envelope.incoming(input.body, input.content_length)).await?;
        let receipt =
            resumable.put_part(&ticket, number, part.bytes, part.digest).await.map_err(error::inbound)?;
        let sums = part.checksums;
        Ok(S3Response::new(UploadPartOutput {
            e_tag: Some(PartTag::write(&receipt, &sums)),
            checksum_crc32: sums.checksum_crc32,
            checksum_crc32c: sums.checksum_crc32c,
            checksum_crc64nvme: sums.checksum_crc64nvme,
            checksum_sha1: sums.checksum_sha1,
            checksum_sha256: sums.checksum_sha256,
            ..Default::default()
        }))
    }

    pub(super) async fn copy_part(
        &self,
        input: UploadPartCopyInput,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        let (_, resumable, ticket) = self.upload(&input.bucket, &input.key, &input.upload_id)?;
        let number = part_number(input.part_number)?;
        let (from_storage, from) = self.source(&input.copy_source)?;
        let conditions = ReadConditions {
            if_match: input.copy_source_if_match,
            if_none_match: input.copy_source_if_none_match,
            if_modified_since: input.copy_source_if_modified_since,
            if_unmodified_since: input.copy_source_if_unmodified_since,
        };
        let source = from_storage.metadata(&from).await.map_err(error::outbound)?;
        conditions.check_source(&source)?;
        let range =
            input.copy_source_range.as_deref().map(|text| copy_range(text, source.size)).transpose()?;
        let length = range.map_or(source.size, |(start, end)| end - start);
        let most = self.receiver.limits().max_part_bytes;
        if length > most {
            let message = format!("a part of {length} bytes, at most {most} are taken");
            return Err(S3Error::with_message(S3ErrorCode::EntityTooLarge, message));
        }
        let _permit = self.receiver.reserve(length).await?;
        let range = range.map(|(start, end)| ByteRange::Between(start, end));
        let download = open_version(&**from_storage, &source, range).await?;
        let bytes = collect(download.body).await.map_err(error::outbound)?;
        let digest = Digest::of(&bytes);
        let receipt = resumable.put_part(&ticket, number, bytes, digest).await.map_err(error::inbound)?;
        Ok(S3Response::new(UploadPartCopyOutput {
            copy_part_result: Some(CopyPartResult {
                e_tag: Some(PartTag::write(&receipt, &Checksum::default())),
                checksum_sha256: Some(digest.to_base64()),
                last_modified: Some(std::time::SystemTime::now().into()),
                ..Default::default()
            }),
            ..Default::default()
        }))
    }

    pub(super) async fn complete_upload(
        &self,
        input: CompleteMultipartUploadInput,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let (storage, resumable, mut ticket) = self.upload(&input.bucket, &input.key, &input.upload_id)?;
        let named = input.multipart_upload.as_ref().and_then(|upload| upload.parts.as_deref());
        let named = named.filter(|parts| !parts.is_empty());
        let named =
            named.ok_or_else(|| S3Error::with_message(S3ErrorCode::MalformedXML, "no parts are named"))?;
        let held = match resumable.parts(&ticket).await {
            Ok(held) => Some(held),
            // Discarded, or completed by a request whose answer was lost; that comes out below.
            Err(error) if error.kind() == ErrorKind::NoSuchUpload => None,
            Err(error) => return Err(error::outbound(error)),
        };
        let parts = chosen(named, held.as_deref())?;
        let total = parts.iter().map(|part| part.size).sum::<u64>();
        if input.mpu_object_size.is_some_and(|wanted| wanted != size(total)) {
            let message = format!("the parts have {total} bytes, another size was announced");
            return Err(S3Error::with_message(S3ErrorCode::InvalidRequest, message));
        }
        check_whole(&input, &parts)?;
        ticket.part_size = parts.first().map_or(0, |part| part.size);
        let mut finish = FinishOptions::default();
        if held.is_some() {
            let (if_match, if_none_match) = (input.if_match.as_ref(), input.if_none_match.as_ref());
            finish.when = condition::for_write(storage, &ticket.id, if_match, if_none_match).await?;
        } else {
            // Nothing will be written, and conditions would meet their own result.
            ticket.part_size = made_of(storage, &ticket.id, &parts).await?;
        }
        let receipt = resumable.finish(&ticket, &parts, finish).await.map_err(error::inbound)?;
        let (checksum_sha256, checksum_type) = told_checksum(&receipt.metadata);
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            location: Some(format!("/{}/{}", input.bucket, input.key)),
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(etag::of(&receipt.metadata)),
            checksum_sha256,
            checksum_type,
            ..Default::default()
        }))
    }

    pub(super) async fn abort_upload(
        &self,
        input: AbortMultipartUploadInput,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        if input.if_match_initiated_time.is_some() {
            return Err(error::not_implemented("aborting on the condition of a time"));
        }
        let (_, resumable, ticket) = self.upload(&input.bucket, &input.key, &input.upload_id)?;
        // The storage forgives what is not there; S3 does not.
        resumable.parts(&ticket).await.map_err(error::outbound)?;
        resumable.abandon(&ticket).await.map_err(error::outbound)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    pub(super) async fn list_upload_parts(
        &self,
        input: ListPartsInput,
    ) -> S3Result<S3Response<ListPartsOutput>> {
        let (_, resumable, ticket) = self.upload(&input.bucket, &input.key, &input.upload_id)?;
        let most = listing::max_items(input.max_parts)?;
        let after = u32::try_from(input.part_number_marker.unwrap_or(0))
            .map_err(|_| error::invalid_argument("the marker must not be negative"))?;
        let mut held = resumable.parts(&ticket).await.map_err(error::outbound)?;
        held.sort_by_key(|part| part.number);
        held.retain(|part| part.number.get() > after);
        let truncated = held.len() > most;
        held.truncate(most);
        let number = |part: &PartReceipt| i32::try_from(part.number.get()).ok();
        let parts: Vec<Part> = held
            .iter()
            .map(|part| Part {
                part_number: number(part),
                size: Some(size(part.size)),
                e_tag: Some(PartTag::write(part, &Checksum::default())),
                checksum_sha256: part.digest.map(Digest::to_base64),
                ..Default::default()
            })
            .collect();
        Ok(S3Response::new(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            is_truncated: Some(truncated),
            max_parts: i32::try_from(most).ok(),
            part_number_marker: i32::try_from(after).ok(),
            next_part_number_marker: held.last().and_then(number),
            checksum_algorithm: Some(ChecksumAlgorithm::from_static(ChecksumAlgorithm::SHA256)),
            checksum_type: Some(checksum_type(ChecksumType::COMPOSITE)),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            owner: Some(owner()),
            parts: Some(parts),
            ..Default::default()
        }))
    }

    pub(super) async fn list_uploads(
        &self,
        input: ListMultipartUploadsInput,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let storage = self.bucket(&input.bucket)?;
        let names = Names::new(input.encoding_type.as_ref())?;
        let most = listing::max_items(input.max_uploads)?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let delimiter = input.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty());
        let mut open = Vec::new();
        for ticket in resumable(&**storage)?.stale(Duration::ZERO).await.map_err(error::listing)? {
            let key = keys::key_of(&ticket.id);
            if key.starts_with(&prefix) {
                let id = upload_id::encode(&input.bucket, &key, &ticket.upload)?;
                open.push((key, id, ticket.started));
            }
        }
        open.sort();
        let after = input.key_marker.clone().unwrap_or_default();
        // Without a key, the marker of an upload means nothing.
        let after_id = input.upload_id_marker.clone().filter(|id| !after.is_empty() && !id.is_empty());
        let behind = |key: &str, id: &str| match &after_id {
            Some(after_id) => (key, id) > (after.as_str(), after_id.as_str()),
            None => {
                key > after.as_str()
                    && !(delimiter.is_some_and(|end| after.ends_with(end)) && key.starts_with(&after))
            }
        };
        let mut uploads = Vec::new();
        let mut prefixes: Vec<String> = Vec::new();
        let (mut truncated, mut next) = (false, None);
        for (key, id, started) in open {
            if !(behind(&key, &id) || after.is_empty()) {
                continue;
            }
            let common = common_prefix(&key, &prefix, delimiter).map(str::to_owned);
            if common.is_some() && common.as_ref() == prefixes.last() {
                continue;
            }
            if uploads.len() + prefixes.len() == most {
                truncated = true;
                break;
            }
            if let Some(common) = common {
                next = Some((common.clone(), String::new()));
                prefixes.push(common);
                continue;
            }
            next = Some((key.clone(), id.clone()));
            uploads.push(MultipartUpload {
                key: Some(names.write(&key)?),
                upload_id: Some(id),
                initiated: Some(started.into()),
                storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
                owner: Some(owner()),
                ..Default::default()
            });
        }
        let common_prefixes =
            prefixes.iter().map(|prefix| Ok(CommonPrefix { prefix: Some(names.write(prefix)?) }));
        let common_prefixes = common_prefixes.collect::<S3Result<Vec<_>>>()?;
        let next = next.filter(|_| truncated);
        let write = |text: Option<String>| text.map(|text| names.write(&text)).transpose();
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            key_marker: write(input.key_marker)?,
            upload_id_marker: input.upload_id_marker,
            next_upload_id_marker: next.as_ref().map(|(_, id)| id.clone()).filter(|id| !id.is_empty()),
            next_key_marker: write(next.map(|(key, _)| key))?,
            prefix: write(input.prefix)?,
            delimiter: write(input.delimiter)?,
            encoding_type: input.encoding_type,
            max_uploads: i32::try_from(most).ok(),
            is_truncated: Some(truncated),
            uploads: Some(uploads),
            common_prefixes: Some(common_prefixes),
            ..Default::default()
        }))
    }
}

/// Picks the parts that a client names out of those the storage holds; where the upload is no longer there, out of
/// what their ETags say.
fn chosen(named: &[CompletedPart], held: Option<&[PartReceipt]>) -> S3Result<Vec<PartReceipt>> {
    let mut parts: Vec<PartReceipt> = Vec::with_capacity(named.len());
    for wanted in named {
        let number = wanted.part_number.ok_or_else(|| S3Error::new(S3ErrorCode::MalformedXML))?;
        let number = part_number(number)?;
        if parts.last().is_some_and(|last| last.number >= number) {
            return Err(S3Error::new(S3ErrorCode::InvalidPartOrder));
        }
        let tag = wanted.e_tag.as_ref().and_then(|etag| PartTag::parse(etag.value()));
        let part = match (held, tag) {
            (Some(held), tag) => {
                let part = held.iter().find(|part| part.number == number);
                let part = part.ok_or_else(|| invalid_part(format!("part {number} was not uploaded")))?;
                let tag = tag.filter(|tag| tag.names(part));
                let tag = tag.ok_or_else(|| invalid_part(format!("part {number} has another ETag")))?;
                tag.compare(part, wanted)?;
                tag.describe(part)
            }
            (None, tag) => {
                let gone = upload_id::no_such_upload;
                let tag = tag.ok_or_else(gone)?;
                let part = tag.remember(number).ok_or_else(gone)?;
                tag.compare(&part, wanted)?;
                part
            }
        };
        parts.push(part);
    }
    if let [but_last @ .., _] = parts.as_slice()
        && let Some(small) = but_last.iter().find(|part| part.size < MIN_PART_BYTES)
    {
        let message = format!("part {} has {} bytes and is not the last", small.number, small.size);
        return Err(S3Error::with_message(S3ErrorCode::EntityTooSmall, message));
    }
    if parts.iter().zip(1..).any(|(part, number)| part.number.get() != number) {
        return Err(error::not_implemented("leaving out part numbers"));
    }
    Ok(parts)
}

/// Checks that what is stored may be made of these parts, and returns the part size that it was stored with.
async fn made_of(storage: &dyn FileStorage, id: &FileId, parts: &[PartReceipt]) -> S3Result<u64> {
    let stored = storage.metadata(id).await.map_err(|error| match error.kind() {
        ErrorKind::NotFound => upload_id::no_such_upload(),
        _ => error::outbound(error),
    })?;
    let digests: Vec<Digest> = parts.iter().filter_map(|part| part.digest).collect();
    let total = parts.iter().map(|part| part.size).sum::<u64>();
    let part_size = match stored.composite {
        Some(stored) if stored != CompositeDigest::of_parts(stored.part_size, &digests) => {
            return Err(upload_id::no_such_upload());
        }
        Some(stored) => stored.part_size,
        None => parts.first().map_or(0, |part| part.size),
    };
    if stored.size == total { Ok(part_size) } else { Err(upload_id::no_such_upload()) }
}

/// Checks which checksum of the whole a client wants kept. The composite SHA-256 is; the checksums of its parts are
/// compared whatever the algorithm, and that of the whole is not made of the others.
fn check_kind(algorithm: Option<&ChecksumAlgorithm>, kind: Option<&ChecksumType>) -> S3Result<()> {
    let Some(kind) = kind else { return Ok(()) };
    let Some(algorithm) = algorithm else {
        let message = "x-amz-checksum-type needs x-amz-checksum-algorithm";
        return Err(S3Error::with_message(S3ErrorCode::InvalidRequest, message));
    };
    match (algorithm.as_str(), kind.as_str()) {
        (ChecksumAlgorithm::SHA256, ChecksumType::COMPOSITE) => Ok(()),
        // As Amazon S3 has it: only a CRC of the whole can be made from those of the parts, and the CRC64NVME is
        // always that of the whole.
        (ChecksumAlgorithm::SHA256 | ChecksumAlgorithm::SHA1, ChecksumType::FULL_OBJECT)
        | (ChecksumAlgorithm::CRC64NVME, ChecksumType::COMPOSITE) => {
            let message = format!("the {} type cannot be used with {}", kind.as_str(), algorithm.as_str());
            Err(S3Error::with_message(S3ErrorCode::InvalidRequest, message))
        }
        (algorithm, kind) => {
            Err(error::not_implemented(format!("keeping a {kind} {algorithm} of a multipart upload")))
        }
    }
}

/// Checks what a client says of the whole: the composite SHA-256 can be compared, other checksums of the whole
/// would need its bytes again.
fn check_whole(input: &CompleteMultipartUploadInput, parts: &[PartReceipt]) -> S3Result<()> {
    if input.checksum_crc32.is_some()
        || input.checksum_crc32c.is_some()
        || input.checksum_crc64nvme.is_some()
        || input.checksum_sha1.is_some()
    {
        return Err(error::not_implemented("a checksum of the whole upload other than the composite SHA256"));
    }
    let composite = super::checksum_type(ChecksumType::COMPOSITE);
    if input.checksum_type.as_ref().is_some_and(|kind| *kind != composite) {
        return Err(error::not_implemented("a checksum of the bytes of the whole upload"));
    }
    let Some(wanted) = &input.checksum_sha256 else { return Ok(()) };
    let digests: Option<Vec<Digest>> = parts.iter().map(|part| part.digest).collect();
    let Some(digests) = digests else {
        return Err(error::not_implemented("a checksum of the whole upload to this storage"));
    };
    let composite = CompositeDigest::of_parts(0, &digests);
    let plain = composite.digest.to_base64();
    if *wanted == plain || *wanted == format!("{plain}-{}", composite.parts) {
        return Ok(());
    }
    Err(S3Error::with_message(S3ErrorCode::BadDigest, "the parts have another composite SHA-256"))
}

/// Reads `bytes=FIRST-LAST` of a source.
fn copy_range(text: &str, size: u64) -> S3Result<(u64, u64)> {
    let offsets = text.strip_prefix("bytes=").and_then(|text| text.split_once('-'));
    let offsets =
        offsets.and_then(|(first, last)| Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?)));
    match offsets {
        Some((first, last)) if first <= last && last < size => Ok((first, last + 1)),
        Some((first, last)) if first <= last => Err(S3Error::new(S3ErrorCode::InvalidRange)),
        _ => Err(error::invalid_argument("x-amz-copy-source-range is bytes=FIRST-LAST")),
    }
}
