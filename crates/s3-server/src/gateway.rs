//! The operations of S3: one file for each family, and this table of all.

mod bucket;
mod copy;
mod delete;
mod list;
mod multipart;
mod read;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use hyper::{HeaderMap, Uri};
use s3s::dto::{self, *};
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, TrailingHeaders};
use storage_core::id::FileId;
use storage_core::storage::FileStorage;

use crate::checksum::BodyCheck;
use crate::config::ServerConfig;
use crate::receive::{BrokenOff, Incoming, Receiver};
use crate::{keys, refuse};

/// All buckets of a server.
#[derive(Debug)]
pub(crate) struct Gateway {
    buckets: BTreeMap<String, Arc<dyn FileStorage>>,
    region: String,
    receiver: Receiver,
}

/// What a request carries besides its typed input.
struct Envelope {
    headers: HeaderMap,
    trailers: Option<TrailingHeaders>,
    broken_off: Option<BrokenOff>,
    signed: bool,
}

impl Envelope {
    /// Takes a request apart, and refuses what cannot be honoured, or came with other bytes than it says.
    fn open<T>(request: S3Request<T>) -> S3Result<(T, Self)> {
        check(&request.headers, &request.uri)?;
        if let Some(body) = request.extensions.get::<BodyCheck>() {
            body.verify()?;
        }
        let envelope = Self {
            broken_off: request.extensions.get().cloned(),
            headers: request.headers,
            trailers: request.trailing_headers,
            signed: request.credentials.is_some(),
        };
        Ok((request.input, envelope))
    }

    fn incoming(self, stream: Option<StreamingBlob>, length: Option<i64>) -> Incoming {
        Incoming {
            stream,
            length,
            headers: self.headers,
            trailers: self.trailers,
            broken_off: self.broken_off,
        }
    }
}

fn check(headers: &HeaderMap, uri: &Uri) -> S3Result<()> {
    refuse::check(headers, uri)
}

impl Gateway {
    pub(crate) fn new(config: ServerConfig) -> Self {
        let receiver = Receiver::new(config.limits, config.spool_directory);
        Self { buckets: config.buckets, region: config.region, receiver }
    }

    fn bucket(&self, name: &str) -> S3Result<&Arc<dyn FileStorage>> {
        self.buckets.get(name).ok_or_else(|| S3Error::new(S3ErrorCode::NoSuchBucket))
    }

    fn object(&self, bucket: &str, key: &str) -> S3Result<(&Arc<dyn FileStorage>, FileId)> {
        let storage = self.bucket(bucket)?;
        Ok((storage, keys::id_of(key)?))
    }

    /// As [`object`](Self::object), for calls that change nothing: tools ask for directory markers, `a/`, and no
    /// file has such a name.
    fn existing(&self, bucket: &str, key: &str) -> S3Result<(&Arc<dyn FileStorage>, FileId)> {
        let storage = self.bucket(bucket)?;
        match (keys::id_of(key), key.strip_suffix('/')) {
            (Ok(id), _) => Ok((storage, id)),
            (Err(_), Some(name)) if keys::id_of(name).is_ok() => Err(S3Error::new(S3ErrorCode::NoSuchKey)),
            (Err(error), _) => Err(error),
        }
    }
}

#[async_trait]
impl S3 for Gateway {
    async fn list_buckets(
        &self,
        req: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        self.all_buckets(req.input)
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        check(&req.headers, &req.uri)?;
        self.describe_bucket(&req.input.bucket)
    }

    async fn create_bucket(
        &self,
        req: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        self.refuse_bucket(&req.input.bucket)
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.locate_bucket(&req.input.bucket)
    }

    async fn get_bucket_versioning(
        &self,
        req: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        self.bucket(&req.input.bucket)?;
        Ok(S3Response::new(GetBucketVersioningOutput::default()))
    }

    async fn list_objects(
        &self,
        req: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        let (input, _) = Envelope::open(req)?;
        self.list_v1(input).await
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let (input, _) = Envelope::open(req)?;
        self.list_v2(input).await
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let (input, envelope) = Envelope::open(req)?;
        self.get(input, envelope.signed).await
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let (input, envelope) = Envelope::open(req)?;
        self.head(input, envelope.signed).await
    }

    async fn get_object_attributes(
        &self,
        req: S3Request<GetObjectAttributesInput>,
    ) -> S3Result<S3Response<GetObjectAttributesOutput>> {
        let (input, _) = Envelope::open(req)?;
        self.attributes(input).await
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let (input, envelope) = Envelope::open(req)?;
        self.put(input, envelope).await
    }

    async fn copy_object(&self, req: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        let (input, envelope) = Envelope::open(req)?;
        self.copy(input, envelope).await
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let (input, _) = Envelope::open(req)?;
        self.delete_one(input).await
    }

    async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let (input, _) = Envelope::open(req)?;
        self.delete_many(input).await
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let (input, envelope) = Envelope::open(req)?;
        self.create_upload(input, envelope).await
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let (input, envelope) = Envelope::open(req)?;
        self.put_part(input, envelope).await
    }

    async fn upload_part_copy(
        &self,
        req: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        let (input, _) = Envelope::open(req)?;
        self.copy_part(input).await
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let (input, _) = Envelope::open(req)?;
        self.complete_upload(input).await
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let (input, _) = Envelope::open(req)?;
        self.abort_upload(input).await
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        let (input, _) = Envelope::open(req)?;
        self.list_upload_parts(input).await
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let (input, _) = Envelope::open(req)?;
        self.list_uploads(input).await
    }
}

fn checksum_type(value: &'static str) -> ChecksumType {
    ChecksumType::from_static(value)
}

fn owner() -> dto::Owner {
    dto::Owner { id: Some(refuse::OWNER.to_owned()), display_name: None }
}

/// Sizes fit: no file has 8 EiB.
fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
