//! Options that no storage behind this server can honour: refused, never dropped.

use hyper::{HeaderMap, Uri};
use s3s::{S3Error, S3ErrorCode, S3Result};

use crate::error::not_implemented;

/// The canonical id of the one owner of all buckets.
pub(crate) const OWNER: &str = "s3-server";

/// Parameters of a presigned URL, or of a client's own, that ask for nothing.
const HARMLESS: [&str; 10] = [
    "x-amz-algorithm",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-expires",
    "x-amz-signedheaders",
    "x-amz-signature",
    "x-amz-security-token",
    "x-amz-content-sha256",
    "x-amz-user-agent",
    "x-amz-checksum-mode",
];

/// Checks the headers and the query of any request on an object.
///
/// # Errors
/// `NotImplemented`, naming the option; `AccessDenied` when another owner is expected.
pub(crate) fn check(headers: &HeaderMap, uri: &Uri) -> S3Result<()> {
    for (name, value) in headers {
        let name = name.as_str();
        if !name.starts_with("x-amz-") {
            continue;
        }
        let allowed = match name {
            "x-amz-storage-class" => value == "STANDARD",
            "x-amz-acl" => value == "private" || value == "bucket-owner-full-control",
            "x-amz-expected-bucket-owner" | "x-amz-source-expected-bucket-owner" => {
                if value != OWNER {
                    let message = "the bucket has another owner than the request expects";
                    return Err(S3Error::with_message(S3ErrorCode::AccessDenied, message));
                }
                true
            }
            "x-amz-tagging"
            | "x-amz-website-redirect-location"
            | "x-amz-write-offset-bytes"
            | "x-amz-mfa" => value.is_empty(),
            _ => ![
                "x-amz-server-side-encryption",
                "x-amz-copy-source-server-side-encryption",
                "x-amz-grant-",
                "x-amz-object-lock-",
            ]
            .iter()
            .any(|prefix| name.starts_with(prefix)),
        };
        if !allowed {
            return Err(not_implemented(format!("{name} with this value")));
        }
    }
    check_query(uri)
}

/// Some clients move `x-amz-` headers into the query of a presigned URL, where nobody would see them.
fn check_query(uri: &Uri) -> S3Result<()> {
    for pair in uri.query().unwrap_or_default().split('&') {
        let name = pair.split('=').next().unwrap_or_default();
        let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy().to_ascii_lowercase();
        if name.starts_with("x-amz-") && !HARMLESS.contains(&name.as_str()) {
            return Err(not_implemented(format!("{name} in a query")));
        }
        if name == "versionid" && pair.split_once('=').is_some_and(|(_, value)| value != "null") {
            return Err(not_implemented("a version id"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(name: &'static str, value: &'static str) -> Option<S3ErrorCode> {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        check(&headers, &Uri::from_static("/b/k")).err().map(|error| error.code().clone())
    }

    #[test]
    fn an_option_that_cannot_be_honoured_is_never_dropped() {
        for (name, value) in [
            ("x-amz-server-side-encryption", "AES256"),
            ("x-amz-server-side-encryption-customer-key", "abc"),
            ("x-amz-storage-class", "GLACIER"),
            ("x-amz-acl", "public-read"),
            ("x-amz-grant-read", "id=1"),
            ("x-amz-tagging", "a=b"),
            ("x-amz-object-lock-mode", "GOVERNANCE"),
            ("x-amz-website-redirect-location", "/x"),
        ] {
            assert_eq!(code(name, value), Some(S3ErrorCode::NotImplemented), "{name}");
        }
        assert_eq!(code("x-amz-expected-bucket-owner", "111122223333"), Some(S3ErrorCode::AccessDenied));
    }

    #[test]
    fn what_ordinary_clients_send_is_let_through() {
        for (name, value) in [
            ("x-amz-storage-class", "STANDARD"),
            ("x-amz-acl", "private"),
            ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
            ("x-amz-meta-a", "b"),
            ("x-amz-sdk-checksum-algorithm", "CRC32"),
        ] {
            assert_eq!(code(name, value), None, "{name}");
        }
    }

    #[test]
    fn an_option_hidden_in_a_presigned_url_is_found() {
        let refused = Uri::from_static("/b/k?X-Amz-Signature=1&X-Amz-Acl=public-read");
        assert!(check(&HeaderMap::new(), &refused).is_err());
        assert!(check(&HeaderMap::new(), &Uri::from_static("/b/k?versionId=3")).is_err());
        let plain = Uri::from_static("/b/k?X-Amz-Signature=1&X-Amz-Expires=60&versionId=null&x-id=PutObject");
        assert!(check(&HeaderMap::new(), &plain).is_ok());
    }
}
