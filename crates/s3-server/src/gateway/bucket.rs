//! Buckets: as configured, neither made nor removed by clients.

use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Response, S3Result};

use crate::error;
use crate::gateway::{Gateway, owner};

impl Gateway {
    pub(super) fn all_buckets(&self, input: ListBucketsInput) -> S3Result<S3Response<ListBucketsOutput>> {
        let prefix = input.prefix.clone().unwrap_or_default();
        let after = input.continuation_token.unwrap_or_default();
        let most = input.max_buckets.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
        let mut names = self.buckets.keys().filter(|name| name.starts_with(&prefix) && **name > after);
        let buckets: Vec<Bucket> = names
            .by_ref()
            .take(most)
            .map(|name| Bucket {
                name: Some(name.clone()),
                bucket_region: Some(self.region.clone()),
                // A storage does not know since when it is one; clients insist on a date.
                creation_date: Some(std::time::UNIX_EPOCH.into()),
            })
            .collect();
        let more = names.next().is_some();
        let last = buckets.last().and_then(|bucket| bucket.name.clone());
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(buckets),
            continuation_token: last.filter(|_| more),
            owner: Some(owner()),
            prefix: input.prefix,
        }))
    }

    pub(super) fn describe_bucket(&self, name: &str) -> S3Result<S3Response<HeadBucketOutput>> {
        self.bucket(name)?;
        let output = HeadBucketOutput { bucket_region: Some(self.region.clone()), ..Default::default() };
        Ok(S3Response::new(output))
    }

    pub(super) fn refuse_bucket(&self, name: &str) -> S3Result<S3Response<CreateBucketOutput>> {
        if self.buckets.contains_key(name) {
            return Err(S3Error::new(S3ErrorCode::BucketAlreadyOwnedByYou));
        }
        Err(error::not_implemented("making a bucket"))
    }

    pub(super) fn locate_bucket(&self, name: &str) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.bucket(name)?;
        // The first region of S3 has no location constraint.
        let location = (self.region != "us-east-1").then(|| self.region.clone().into());
        Ok(S3Response::new(GetBucketLocationOutput { location_constraint: location }))
    }
}
