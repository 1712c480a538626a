//! CopyObject, and what a copy takes from its source.

use std::sync::Arc;

use hyper::header;
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Response, S3Result};
use storage_core::id::FileId;
use storage_core::metadata::{FileMetadata, guess_content_type};
use storage_core::storage::{
    ByteRange, Download, DownloadOptions, FileStorage, Precondition, Receipt, UploadOptions,
};

use crate::condition::{self, ReadConditions};
use crate::gateway::{Envelope, Gateway};
use crate::{attributes, error, etag};

impl Gateway {
    pub(super) async fn copy(
        &self,
        input: CopyObjectInput,
        envelope: Envelope,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let headers = &envelope.headers;
        let if_match = condition::from_header(headers, &header::IF_MATCH)?;
        let if_none_match = condition::from_header(headers, &header::IF_NONE_MATCH)?;
        let replace = match headers.get("x-amz-metadata-directive").map(|value| value.as_bytes()) {
            None | Some(b"COPY") => false,
            Some(b"REPLACE") => true,
            Some(_) => return Err(error::invalid_argument("x-amz-metadata-directive is COPY or REPLACE")),
        };
        if input.tagging_directive.as_ref().is_some_and(|one| one.as_str() != TaggingDirective::COPY) {
            return Err(error::not_implemented("replacing tags"));
        }
        if let Some(algorithm) = &input.checksum_algorithm
            && algorithm.as_str() != ChecksumAlgorithm::SHA256
        {
            return Err(error::not_implemented("a checksum of a copy other than SHA256"));
        }
        let (from_storage, from) = self.source(&input.copy_source)?;
        let (to_storage, to) = self.object(&input.bucket, &input.key)?;
        let same_storage = Arc::ptr_eq(from_storage, to_storage);
        if same_storage && from == to && !replace {
            let message = "a copy of an object onto itself that changes nothing";
            return Err(S3Error::with_message(S3ErrorCode::InvalidRequest, message));
        }
        let conditions = ReadConditions {
            if_match: input.copy_source_if_match,
            if_none_match: input.copy_source_if_none_match,
            if_modified_since: input.copy_source_if_modified_since,
            if_unmodified_since: input.copy_source_if_unmodified_since,
        };
        let source = from_storage.metadata(&from).await.map_err(error::outbound)?;
        conditions.check_source(&source)?;
        let mut options = if replace { attributes::read(headers)?.options } else { UploadOptions::default() };
        options.when =
            condition::for_write(&**to_storage, &to, if_match.as_ref(), if_none_match.as_ref()).await?;
        if replace && options.content_type.is_none() {
            let name = options.file_name.as_deref().unwrap_or(to.file_name());
            options.content_type = Some(guess_content_type(name));
        }
        let receipt = if same_storage && conditions.is_empty() && !(replace && leaves_out(&options, &source))
        {
            to_storage.copy(&from, &to, options).await.map_err(error::inbound)?
        } else {
            if !replace {
                options = options.with_attributes_of(&source);
            }
            self.copy_bytes(&**from_storage, &source, &**to_storage, &to, options).await?
        };
        let asked = input.checksum_algorithm.is_some();
        let sha256 = receipt.metadata.digest.or(receipt.digest).filter(|_| asked);
        Ok(S3Response::new(CopyObjectOutput {
            copy_object_result: Some(CopyObjectResult {
                e_tag: Some(etag::of(&receipt.metadata)),
                last_modified: receipt.metadata.modified.map(Into::into),
                checksum_sha256: sha256.map(|digest| digest.to_base64()),
                checksum_type: sha256.map(|_| super::checksum_type(ChecksumType::FULL_OBJECT)),
                ..Default::default()
            }),
            ..Default::default()
        }))
    }

    /// Copies by way of this server: between storages, from one certain version, or with attributes taken away.
    async fn copy_bytes(
        &self,
        from: &dyn FileStorage,
        source: &FileMetadata,
        to_storage: &dyn FileStorage,
        to: &FileId,
        mut options: UploadOptions,
    ) -> S3Result<Receipt> {
        let download = open_version(from, source, None).await?;
        options.digest = options.digest.or(source.digest);
        let limit = self.receiver.limits().spool_bytes as u64;
        let _permit = self.receiver.reserve(source.size.min(limit)).await?;
        let body = self.receiver.replayable(download.body).await?;
        to_storage.upload(to, body, options).await.map_err(error::inbound)
    }

    /// Finds what a copy source names.
    pub(super) fn source(&self, source: &CopySource) -> S3Result<(&Arc<dyn FileStorage>, FileId)> {
        let CopySource::Bucket { bucket, key, version_id } = source else {
            return Err(error::not_implemented("an access point as the source of a copy"));
        };
        if version_id.as_deref().is_some_and(|version| version != "null") {
            return Err(error::not_implemented("a version id"));
        }
        self.existing(bucket, key)
    }
}

/// Opens the version that was looked at, and no other.
pub(super) async fn open_version(
    storage: &dyn FileStorage,
    file: &FileMetadata,
    range: Option<ByteRange>,
) -> S3Result<Download> {
    let mut options = DownloadOptions::default();
    options.range = range;
    options.when = file.version.clone().map_or(Precondition::None, Precondition::Version);
    storage.download(&file.id, options).await.map_err(error::outbound)
}

/// Tells whether the source has an attribute that the new ones leave out: a copy within the storage would keep it.
fn leaves_out(options: &UploadOptions, source: &FileMetadata) -> bool {
    (options.file_name.is_none() && source.file_name.is_some())
        || (options.created.is_none() && source.created.is_some())
        || (options.tags.is_empty() && !source.tags.is_empty())
}
