//! What carries the requests that come once per file or part: `PutObject`, `UploadPart`, `GetObject` and `HeadObject`.
//!
//! Everything else goes through the SDK, which spends 50 to 80 us of CPU on a request: for a listing that is nothing,
//! for a file of 4 KiB it is more than all the rest. [`Direct`](super::direct::Direct) sends the same requests
//! with the pieces that the SDK itself is made of (`aws-sigv4`, the credential chain, hyper), and a test compares
//! both byte for byte.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_s3::primitives::ByteStream as SdkStream;
use aws_sdk_s3::types::ChecksumMode;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use tokio::sync::OnceCell;

use super::client::Clients;
use super::conditions;
use super::direct::Direct;
use super::encryption::{AES256, CustomerKey, Protection};
use super::error::Failure;
use super::facts::Facts;
use super::multipart::part_number;
use super::object::Headers;
use super::signing::PayloadDigest;
use crate::checksum::Digest;
use crate::storage::{PartNumber, Precondition};

/// One PUT: of an object, or of a part of one.
#[derive(Clone, Copy)]
pub(super) struct Put<'a> {
    pub(super) key: &'a str,
    pub(super) of: Of<'a>,
    pub(super) bytes: &'a Bytes,
    /// SHA-256 of the bytes, for the signature.
    pub(super) payload: Digest,
    /// For `x-amz-checksum-sha256`. Differs from `payload` only where a probe lies.
    pub(super) checksum: Option<Digest>,
    /// What the server shall encrypt with.
    pub(super) customer: Option<&'a CustomerKey>,
}

/// The answer to a [`Put`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) etag: Option<String>,
    pub(super) protection: Protection,
}

/// What a PUT stores.
#[derive(Clone, Copy)]
pub(super) enum Of<'a> {
    Object { headers: &'a Headers, when: &'a Precondition },
    Part { upload: &'a str, number: PartNumber },
}

/// One GET of an object.
#[derive(Clone, Copy)]
pub(super) struct Get<'a> {
    pub(super) key: &'a str,
    /// As `Range` has it.
    pub(super) range: Option<&'a str>,
    pub(super) if_match: Option<&'a str>,
    /// What it was encrypted with.
    pub(super) customer: Option<&'a CustomerKey>,
}

/// One HEAD of an object.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) key: &'a str,
    pub(super) customer: Option<&'a CustomerKey>,
}

/// The answer to a [`Get`].
pub(super) struct Got {
    pub(super) facts: Facts,
    /// As it came.
    pub(super) content_range: Option<String>,
    pub(super) body: RawBody,
}

/// The bytes of an answer, as they come. A body that does not move for
/// [`STALL_GRACE`](super::client::STALL_GRACE) ends in an error.
pub(super) type RawBody = BoxStream<'static, Result<Bytes, BoxError>>;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Sends a request to one endpoint, once.
#[async_trait]
pub(super) trait Carrier: fmt::Debug + Send + Sync {
    /// Returns the ETag, and what became of the encryption.
    async fn put(&self, endpoint: usize, put: Put<'_>) -> Result<Stored, Failure>;

    /// Asks for the checksum as well.
    async fn get(&self, endpoint: usize, get: Get<'_>) -> Result<Got, Failure>;

    /// Asks what is known of an object, its checksum as well.
    async fn head(&self, endpoint: usize, head: Head<'_>) -> Result<Facts, Failure>;
}

/// Sends through the SDK.
#[derive(Debug)]
pub(super) struct Sdk {
    pub(super) clients: Arc<Clients>,
    pub(super) bucket: String,
}

#[async_trait]
impl Carrier for Sdk {
    async fn put(&self, endpoint: usize, put: Put<'_>) -> Result<Stored, Failure> {
        let client = self.clients.client(endpoint);
        let algorithm = put.customer.map(|_| AES256.to_owned());
        let key = put.customer.map(|key| key.header().to_owned());
        let md5 = put.customer.map(|key| key.md5().to_owned());
        let body = SdkStream::from(put.bytes.clone());
        let checksum = put.checksum.map(Digest::to_base64);
        match put.of {
            Of::Object { headers, when } => {
                let (if_match, if_none_match) = conditions(when);
                let request = client
                    .put_object()
                    .bucket(&self.bucket)
                    .key(put.key)
                    .content_type(&headers.content_type)
                    .set_metadata(headers.metadata())
                    .set_tagging(headers.tagging.clone())
                    .set_storage_class(headers.storing.sdk_class())
                    .set_server_side_encryption(headers.storing.sdk_encryption())
                    .set_ssekms_key_id(headers.storing.kms_key().map(str::to_owned))
                    .set_sse_customer_algorithm(algorithm)
                    .set_sse_customer_key(key)
                    .set_sse_customer_key_md5(md5)
                    .set_if_match(if_match)
                    .set_if_none_match(if_none_match)
                    .set_checksum_sha256(checksum)
                    .body(body)
                    .customize()
                    .interceptor(PayloadDigest(put.payload))
                    .send();
                let answer = self.clients.discreet(Box::pin(request)).await;
                let answer = answer.map_err(|error| Failure::of(&error))?;
                let protection = Protection::new(
                    answer.server_side_encryption(),
                    answer.ssekms_key_id(),
                    answer.sse_customer_key_md5(),
                );
                Ok(Stored { etag: answer.e_tag, protection })
            }
            Of::Part { upload, number } => {
                let request = client
                    .upload_part()
                    .bucket(&self.bucket)
                    .key(put.key)
                    .upload_id(upload)
                    .part_number(part_number(number))
                    .set_checksum_sha256(checksum)
                    .set_sse_customer_algorithm(algorithm)
                    .set_sse_customer_key(key)
                    .set_sse_customer_key_md5(md5)
                    .body(body)
                    .customize()
                    .interceptor(PayloadDigest(put.payload))
                    .send();
                let answer = self.clients.discreet(Box::pin(request)).await;
                let answer = answer.map_err(|error| Failure::of(&error))?;
                let protection = Protection::new(
                    answer.server_side_encryption(),
                    answer.ssekms_key_id(),
                    answer.sse_customer_key_md5(),
                );
                Ok(Stored { etag: answer.e_tag, protection })
            }
        }
    }

    async fn get(&self, endpoint: usize, get: Get<'_>) -> Result<Got, Failure> {
        let client = self.clients.client(endpoint);
        let request = client
            .get_object()
            .bucket(&self.bucket)
            .key(get.key)
            .set_range(get.range.map(str::to_owned))
            .set_if_match(get.if_match.map(str::to_owned))
            .set_sse_customer_algorithm(get.customer.map(|_| AES256.to_owned()))
            .set_sse_customer_key(get.customer.map(|key| key.header().to_owned()))
            .set_sse_customer_key_md5(get.customer.map(|key| key.md5().to_owned()))
            .customize()
            // Not by `checksum_mode`, with which the SDK would hash the bytes itself.
            .mutate_request(|request| {
                request.headers_mut().insert("x-amz-checksum-mode", "ENABLED");
            })
            .send();
        let answer = self.clients.discreet(Box::pin(request)).await;
        let mut answer = answer.map_err(|error| Failure::of(&error))?;
        let body = std::mem::take(&mut answer.body);
        let body = stream::try_unfold(body, |mut body| async {
            Ok::<_, BoxError>(body.try_next().await?.map(|piece| (piece, body)))
        });
        Ok(Got {
            facts: Facts::from(&answer),
            content_range: answer.content_range.take(),
            body: body.boxed(),
        })
    }

    async fn head(&self, endpoint: usize, head: Head<'_>) -> Result<Facts, Failure> {
        let client = self.clients.client(endpoint);
        let request = client
            .head_object()
            .bucket(&self.bucket)
            .key(head.key)
            .checksum_mode(ChecksumMode::Enabled)
            .set_sse_customer_algorithm(head.customer.map(|_| AES256.to_owned()))
            .set_sse_customer_key(head.customer.map(|key| key.header().to_owned()))
            .set_sse_customer_key_md5(head.customer.map(|key| key.md5().to_owned()))
            .send();
        let answer = self.clients.discreet(Box::pin(request)).await;
        answer.map(|head| Facts::from(&head)).map_err(|error| Failure::of(&error))
    }
}

/// Sends directly where that is possible, else through the SDK.
#[derive(Debug)]
pub(super) struct Fastest {
    sdk: Sdk,
    /// Nothing where what the SDK would sign is not plain SigV4 for S3 (access points of several regions, S3
    /// Express). Found out at the first request.
    direct: OnceCell<Option<Direct>>,
}

impl Fastest {
    pub(super) fn new(sdk: Sdk) -> Self {
        Self { sdk, direct: OnceCell::new() }
    }

    async fn direct(&self) -> Option<&Direct> {
        let found = self.direct.get_or_init(|| async {
            Direct::find(&self.sdk.clients, &self.sdk.bucket)
                .await
                .inspect_err(|reason| tracing::debug!(reason, "uploads and downloads go through the SDK"))
                .ok()
        });
        found.await.as_ref()
    }
}

#[async_trait]
impl Carrier for Fastest {
    async fn put(&self, endpoint: usize, put: Put<'_>) -> Result<Stored, Failure> {
        match self.direct().await {
            Some(direct) => direct.put(endpoint, put).await,
            None => self.sdk.put(endpoint, put).await,
        }
    }

    async fn get(&self, endpoint: usize, get: Get<'_>) -> Result<Got, Failure> {
        match self.direct().await {
            Some(direct) => direct.get(endpoint, get).await,
            None => self.sdk.get(endpoint, get).await,
        }
    }

    async fn head(&self, endpoint: usize, head: Head<'_>) -> Result<Facts, Failure> {
        match self.direct().await {
            Some(direct) => direct.head(endpoint, head).await,
            None => self.sdk.head(endpoint, head).await,
        }
    }
}
