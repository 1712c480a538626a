//! Presigned URLs.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::presigning::PresigningConfig;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::Inner;
use super::error::{Failure, Request};
use crate::error::{Effect, ErrorKind, Op, Result};
use crate::id::FileId;
use crate::storage::{PresignMethod, PresignRequest, PresignedUrl};

/// The limit of SigV4 ("Authenticating requests: using query parameters", Amazon S3 API Reference).
const MAX_EXPIRY: Duration = Duration::from_secs(7 * 24 * 3600);

/// All but `attr-char` of RFC 5987 section 3.2.1.
const ATTR_CHAR: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

impl Inner {
    pub(super) async fn presign(&self, id: &FileId, request: PresignRequest) -> Result<PresignedUrl> {
        let op = Op::Presign;
        let key = self.key(id, op)?;
        // SigV4 counts whole seconds.
        let expires_in = Duration::from_secs(request.expires_in.as_secs());
        if expires_in.is_zero() || request.expires_in > MAX_EXPIRY {
            return Err(self.fail(ErrorKind::InvalidInput, op).with_message(format!(
                "an expiry of {:?} is not within 1 second and 7 days",
                request.expires_in
            )));
        }
        let now = SystemTime::now();
        let config = PresigningConfig::builder()
            .start_time(now)
            .expires_in(expires_in)
            .build()
            .map_err(|error| self.fail(ErrorKind::InvalidInput, op).with_message(error.to_string()))?;
        let client = self.clients.current();
        let presigned = match request.method {
            PresignMethod::Get => client
                .get_object()
                .bucket(&self.config.bucket)
                .key(key)
                .set_response_content_disposition(request.save_as.as_deref().map(content_disposition))
                .presigned(config)
                .await
                .map_err(|error| self.unsigned(&error))?,
            PresignMethod::Put => {
                self.writable(op)?;
                let length = request.content_length.map(i64::try_from).transpose().map_err(|error| {
                    self.fail(ErrorKind::InvalidInput, op).with_message(error.to_string())
                })?;
                client
                    .put_object()
                    .bucket(&self.config.bucket)
                    .key(key)
                    .set_content_type(request.content_type)
                    .set_content_length(length)
                    .presigned(config)
                    .await
                    .map_err(|error| self.unsigned(&error))?
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

/// Writes `attachment` with the name in both forms of RFC 6266: ASCII for old browsers, RFC 5987 for all.
fn content_disposition(file_name: &str) -> String {
    let fallback: String = file_name
        .chars()
        .map(|char| match char {
            '"' | '\\' | '/' | '%' => '_',
            ' '..='~' => char,
            _ => '_',
        })
        .collect();
    let encoded = utf8_percent_encode(file_name, ATTR_CHAR);
    format!("attachment; filename=\"{fallback}\"; filename*=UTF-8''{encoded}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_cannot_leave_its_quotes() {
        assert_eq!(
            content_disposition("a\"; x=\"\r\n\u{e9}.txt"),
            "attachment; filename=\"a_; x=____.txt\"; filename*=UTF-8''a%22%3B%20x%3D%22%0D%0A%C3%A9.txt"
        );
    }
}
