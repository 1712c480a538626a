//! Upload ids: a storage's own name of an upload, bound to bucket and key, with nothing to remember.
//!
//! An id is a function of bucket, key and the storage's name of the upload, so a listing gives the same id as
//! the call that began it, and a restart loses none.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use s3s::{S3Error, S3ErrorCode};
use serde::{Deserialize, Serialize};
use storage_core::checksum::Hasher;

#[derive(Serialize, Deserialize)]
struct Content {
    /// The storage's name of the upload.
    u: String,
    /// Which bucket and key it belongs to.
    k: String,
}

/// Makes the id that a client is given.
///
/// # Errors
/// An internal error when the storage's name cannot travel; see [`is_plain`].
pub(crate) fn encode(bucket: &str, key: &str, upload: &str) -> Result<String, S3Error> {
    let content = Content { u: upload.to_owned(), k: binding(bucket, key) };
    match serde_json::to_vec(&content) {
        Ok(json) if is_plain(upload) => Ok(BASE64.encode(json)),
        _ => {
            let message = "the storage names its uploads in a way that cannot be handed on";
            Err(S3Error::with_message(S3ErrorCode::InternalError, message))
        }
    }
}

/// Reads an id that a client sent, and returns the storage's name of the upload.
///
/// # Errors
/// `NoSuchUpload` for anything that [`encode`] would not have made for this bucket and key.
pub(crate) fn decode(bucket: &str, key: &str, id: &str) -> Result<String, S3Error> {
    BASE64
        .decode(id)
        .ok()
        .and_then(|json| serde_json::from_slice::<Content>(&json).ok())
        .filter(|content| content.k == binding(bucket, key) && is_plain(&content.u))
        .map(|content| content.u)
        .ok_or_else(no_such_upload)
}

/// Answers for an upload that is not there.
pub(crate) fn no_such_upload() -> S3Error {
    S3Error::with_message(S3ErrorCode::NoSuchUpload, "there is no such upload of this key")
}

/// A storage may use the name as that of a file: one that leads elsewhere is not let through.
fn is_plain(upload: &str) -> bool {
    !matches!(upload, "" | "." | "..") && !upload.contains(['/', '\\', '\0'])
}

fn binding(bucket: &str, key: &str) -> String {
    let mut hasher = Hasher::new();
    hasher.update(bucket.as_bytes());
    hasher.update(b"\0");
    hasher.update(key.as_bytes());
    let mut text = hasher.finish().to_string();
    text.truncate(24);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_works_for_its_bucket_and_key_alone() {
        let id = encode("bucket", "a/b", "upload-7").unwrap();
        assert_eq!(decode("bucket", "a/b", &id).unwrap(), "upload-7");
        for (bucket, key) in [("bucket", "a/c"), ("other", "a/b"), ("bucket\0a", "b")] {
            assert_eq!(decode(bucket, key, &id).unwrap_err().code(), &S3ErrorCode::NoSuchUpload);
        }
        assert!(decode("bucket", "a/b", "nonsense").is_err());
        assert!(decode("bucket", "a/b", "").is_err());
    }

    #[test]
    fn a_forged_id_never_leads_out_of_the_storage() {
        for upload in ["../../etc", "..", ".", "", "a\\b", "a\0"] {
            assert!(encode("bucket", "a", upload).is_err());
            let forged = Content { u: upload.to_owned(), k: binding("bucket", "a") };
            let forged = BASE64.encode(serde_json::to_vec(&forged).unwrap());
            assert!(decode("bucket", "a", &forged).is_err(), "{upload:?}");
        }
    }
}
