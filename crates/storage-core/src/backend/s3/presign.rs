//! Presigned URLs.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::presigning::PresigningConfig;

use super::Inner;
use super::error::{Failure, Request};
use super::signing::unlogged;
use crate::disposition;
use crate::error::{Effect, ErrorKind, Op, Result};
use crate::id::FileId;
use crate::storage::{PresignMethod, PresignRequest, PresignedUrl};

impl Inner {
    pub(super) async fn presign(&self, id: &FileId, request: PresignRequest) -> Result<PresignedUrl> {
        let op = Op::Presign;
        let key = self.key(id, op)?;
        if self.storing.customer().is_some() {
            return Err(self.fail(ErrorKind::Unsupported, op).with_message(
                "an object that is encrypted with a customer key has no URL: who has the URL would need the key",
            ));
        }
        request.check().map_err(|error| error.with_storage(&self.config.name))?;
        // SigV4 counts whole seconds.
        let expires_in = Duration::from_secs(request.expires_in.as_secs());
        let now = SystemTime::now();
        let config = PresigningConfig::builder()
            .start_time(now)
            .expires_in(expires_in)
            .build()
            .map_err(|error| self.fail(ErrorKind::InvalidInput, op).with_message(error.to_string()))?;
        let client = self.clients.current();
        let presigned = match request.method {
            PresignMethod::Get => {
                let disposition = disposition::header(request.inline, request.save_as.as_deref());
                let read = client
                    .get_object()
                    .bucket(&self.config.bucket)
                    .key(key)
                    .response_content_disposition(disposition);
                unlogged(read.presigned(config)).await.map_err(|error| self.unsigned(&error))?
            }
            PresignMethod::Put => {
                self.writable(op)?;
                let length = request.content_length.map(i64::try_from).transpose().map_err(|error| {
                    self.fail(ErrorKind::InvalidInput, op).with_message(error.to_string())
                })?;
                let write = client
                    .put_object()
                    .bucket(&self.config.bucket)
                    .key(key)
                    .set_content_type(request.content_type)
                    .set_storage_class(self.storing.sdk_class())
                    .set_server_side_encryption(self.storing.sdk_encryption())
                    .set_ssekms_key_id(self.storing.kms_key().map(str::to_owned))
                    .set_content_length(length);
                unlogged(write.presigned(config)).await.map_err(|error| self.unsigned(&error))?
            }
        };
        let headers = presigned
            .headers()
            .filter(|(name, _)| !name.eq_ignore_ascii_case("host"))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Ok(PresignedUrl::new(request.method, presigned.uri().to_owned(), headers, now + expires_in))
    }

    fn unsigned<E>(&self, error: &SdkError<E, aws_sdk_s3::config::http::HttpResponse>) -> crate::error::Error
    where
        E: aws_sdk_s3::error::ProvideErrorMetadata + std::error::Error + 'static,
    {
        self.clients.error(Failure::of(error), Request::read(Op::Presign), Effect::None)
    }
}
