//! PUT.

use s3s::dto::*;
use s3s::{S3Response, S3Result};

use crate::gateway::{Envelope, Gateway, checksum_type, size};
use crate::{attributes, condition, error, etag};

impl Gateway {
    pub(super) async fn put(
        &self,
        input: PutObjectInput,
        envelope: Envelope,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let (storage, id) = self.object(&input.bucket, &input.key)?;
        let mut options = attributes::read(&envelope.headers)?.options;
        options.when =
            condition::for_write(&**storage, &id, input.if_match.as_ref(), input.if_none_match.as_ref())
                .await?;
        let received = self.receiver.object(envelope.incoming(input.body, input.content_length)).await?;
        // Both the header and the attribute must be true of the bytes; the storage compares the second.
        options.digest = options.digest.or(received.digest);
        let receipt = storage.upload(&id, received.body, options).await.map_err(error::inbound)?;
        let sums = received.checksums;
        let told = sums.checksum_crc32.is_some()
            || sums.checksum_crc32c.is_some()
            || sums.checksum_crc64nvme.is_some()
            || sums.checksum_sha1.is_some()
            || sums.checksum_sha256.is_some();
        Ok(S3Response::new(PutObjectOutput {
            e_tag: Some(etag::of(&receipt.metadata)),
            size: Some(size(receipt.metadata.size)),
            checksum_crc32: sums.checksum_crc32,
            checksum_crc32c: sums.checksum_crc32c,
            checksum_crc64nvme: sums.checksum_crc64nvme,
            checksum_sha1: sums.checksum_sha1,
            checksum_sha256: sums.checksum_sha256,
            checksum_type: told.then(|| checksum_type(ChecksumType::FULL_OBJECT)),
            ..Default::default()
        }))
    }
}
