//! Signed URLs for storages that have no server of their own: a [`UrlSigner`] makes and checks them.
//!
//! Pure: no clock, no storage and no network; keys and time are passed in. [`LocalStorage`] signs with it, the
//! router of feature `http` checks with it, and whoever serves files in another way can do so too.
//!
//! # What a URL looks like
//!
//! ```text
//! BASE/ID?v=1&key=KEY&expires=TIME[&type=TYPE][&length=BYTES][&save-as=NAME][&inline=1]&signature=MAC
//! ```
//!
//! `ID` is the id, `TYPE` and `NAME` are texts, each with all bytes but letters, digits and `-._~` (and `/` in the
//! id) percent-encoded in upper case. `KEY` says which key signed, `TIME` is in milliseconds since 1970, and `MAC` is
//! in lower-case hex. Fields come in this order. A permission has this one spelling: a proxy in front must pass
//! path and query on as they are.
//!
//! # What is signed
//!
//! `MAC` is the HMAC-SHA256 (RFC 2104) of these lines, joined by line feeds:
//!
//! ```text
//! storage-core presigned url v1
//! GET or PUT
//! BASE
//! ID?v=1&key=KEY&expires=TIME...      all of the URL between BASE/ and &signature
//! ```
//!
//! None of the first three lines can hold a line feed and the last is the URL itself, so two different permissions
//! never give one text. The base is a part of it: where two storages share a key, neither opens the other's files.
//! A URL for `GET` is good for `HEAD` as well.
//!
//! [`LocalStorage`]: crate::backend::local::LocalStorage

mod config;
mod key;
mod query;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use url::Url;

pub use self::config::PresignConfig;
pub use self::key::{MIN_KEY_BYTES, SigningKey};
use self::query::Query;
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::FileId;
use crate::storage::{PresignMethod, PresignRequest, PresignedUrl};

/// Longest URL in bytes that is made: what every recipient should take (RFC 9110 section 4.1).
pub const MAX_URL_BYTES: usize = 8000;

/// First line of what is signed: a key that also signs something else cannot be made to sign a URL.
const CONTEXT: &str = "storage-core presigned url v1";

/// Makes URLs that are permissions, and checks them. A clone is a reference count.
#[derive(Clone, PartialEq, Eq)]
pub struct UrlSigner(Arc<Inner>);

#[derive(PartialEq, Eq)]
struct Inner {
    base: String,
    /// Length of the base without its path.
    origin: usize,
    current: SigningKey,
    previous: Option<SigningKey>,
}

impl UrlSigner {
    /// Takes the URL beneath which the files are served, and the key to sign with.
    ///
    /// # Errors
    /// [`Misconfigured`](ErrorKind::Misconfigured): the base is no `http` or `https` URL, or has a user, a query,
    /// a fragment, or a path with anything but letters, digits, `-._~` and `/`.
    pub fn new(base_url: &str, key: SigningKey) -> Result<Self> {
        let (base, origin) = base(base_url)?;
        Ok(Self(Arc::new(Inner { base, origin, current: key, previous: None })))
    }

    /// Keeps accepting what was signed with an earlier key. To replace a key: make the new one current and the
    /// old one previous everywhere, and leave the old one out when the last URL made with it has expired, 7 days
    /// later at most. Where several processes check, give the new key to all as previous first, so that none
    /// meets a URL whose key it does not know.
    #[must_use]
    pub fn with_previous(self, key: SigningKey) -> Self {
        let Inner { base, origin, current, .. } = &*self.0;
        let (base, origin, current) = (base.clone(), *origin, current.clone());
        Self(Arc::new(Inner { base, origin, current, previous: Some(key) }))
    }

    /// Returns the URL beneath which the files are served, without a `/` at its end.
    pub fn base_url(&self) -> &str {
        &self.0.base
    }

    /// Returns the path of the base URL, without a `/` at its end: empty where files are served from the top.
    pub fn base_path(&self) -> &str {
        &self.0.base[self.0.origin..]
    }

    /// Makes the URL, which works from `now` until the request's expiry has passed.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput): those of [`PresignRequest::check`]; a content type that is no
    /// header value; a URL of more than [`MAX_URL_BYTES`].
    pub fn sign(&self, id: &FileId, request: &PresignRequest, now: SystemTime) -> Result<PresignedUrl> {
        let refused =
            |message: String| Error::new(ErrorKind::InvalidInput, Op::Presign).with_message(message);
        request.check()?;
        if let Some(content_type) = request.content_type.as_deref().filter(|text| !is_header_value(text)) {
            return Err(refused(format!(
                "the content type \"{}\" cannot be sent as a header",
                content_type.escape_debug()
            )));
        }
        let expires = since_1970(now)
            .and_then(|now| now.checked_add(request.expires_in))
            .and_then(|expires| u64::try_from(expires.as_millis()).ok())
            .ok_or_else(|| refused("the clock is not within the times that a URL can tell".to_owned()))?;
        let query = Query {
            expires,
            content_type: request.content_type.clone(),
            content_length: request.content_length,
            save_as: request.save_as.clone(),
            inline: request.inline,
        };
        let key = &self.0.current;
        let target = format!("{}?v=1&key={}&{query}", query::encode_id(id), key.id());
        let mac = key.mac(&self.text(request.method, &target));
        let url = format!("{}/{target}&signature={mac}", self.0.base);
        if url.len() > MAX_URL_BYTES {
            return Err(refused(format!(
                "a URL of {} bytes; not every browser and server takes more than {MAX_URL_BYTES}",
                url.len()
            )));
        }
        let mut headers = Vec::new();
        headers.extend(query.content_type.map(|value| ("content-type".to_owned(), value)));
        headers.extend(query.content_length.map(|value| ("content-length".to_owned(), value.to_string())));
        Ok(PresignedUrl::new(request.method, url, headers, UNIX_EPOCH + Duration::from_millis(expires)))
    }

    /// Checks what came: `target` is path and query of the request as they were sent, without the base path and
    /// the `/` behind it.
    ///
    /// The grant binds the caller: the request must have its content type and length, where it names them.
    ///
    /// # Errors
    /// [`Refused`], for logs and metrics: a client should not be told which.
    pub fn verify(&self, method: PresignMethod, target: &str, now: SystemTime) -> Result<Grant, Refused> {
        let (target, mac) = target.rsplit_once("&signature=").ok_or(Refused::Malformed)?;
        let (id, query) = target.split_once('?').ok_or(Refused::Malformed)?;
        let query = query.strip_prefix("v=1&key=").ok_or(Refused::Malformed)?;
        let (key, query) = query.split_once('&').ok_or(Refused::Malformed)?;
        let key = [Some(&self.0.current), self.0.previous.as_ref()]
            .into_iter()
            .flatten()
            .find(|own| own.id() == key)
            .ok_or(Refused::UnknownKey)?;
        if !key.verifies(&self.text(method, target), mac) {
            return Err(Refused::Signature);
        }
        // From here on it is what this signer, or one with the same key, has made.
        let query = Query::parse(query).ok_or(Refused::Malformed)?;
        let id = query::decode_id(id).ok_or(Refused::Malformed)?;
        let expires =
            UNIX_EPOCH.checked_add(Duration::from_millis(query.expires)).ok_or(Refused::Malformed)?;
        if now >= expires {
            return Err(Refused::Expired);
        }
        let Query { content_type, content_length, save_as, inline, .. } = query;
        Ok(Grant { id, method, expires, content_type, content_length, save_as, inline })
    }

    fn text(&self, method: PresignMethod, target: &str) -> String {
        let method = match method {
            PresignMethod::Get => "GET",
            PresignMethod::Put => "PUT",
        };
        format!("{CONTEXT}\n{method}\n{}\n{target}", self.0.base)
    }
}

impl fmt::Debug for UrlSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UrlSigner")
            .field("base", &self.0.base)
            .field("current", &self.0.current)
            .field("previous", &self.0.previous)
            .finish()
    }
}

/// What a URL allows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grant {
    /// The file.
    pub id: FileId,
    /// The request.
    pub method: PresignMethod,
    /// When it ceases to work.
    pub expires: SystemTime,
    /// For a PUT: what the request's `Content-Type` must be.
    pub content_type: Option<String>,
    /// For a PUT: the number of bytes that the request must carry.
    pub content_length: Option<u64>,
    /// For a GET: the name under which a browser saves the file.
    pub save_as: Option<String>,
    /// For a GET: a browser shows the file where it can.
    pub inline: bool,
}

/// Why a URL is no permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// It is not spelt as a URL of this version.
    Malformed,
    /// It was signed with a key that is not, or no longer, accepted.
    UnknownKey,
    /// The signature is that of something else.
    Signature,
    /// It has expired.
    Expired,
}

impl Refused {
    /// Returns a stable lower-case name, fit for a log or a metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Expired => "expired",
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "not a presigned URL",
            Self::UnknownKey => "signed with an unknown key",
            Self::Signature => "the signature does not match",
            Self::Expired => "expired",
        })
    }
}

impl std::error::Error for Refused {}

/// Parses the base URL; returns it in its one spelling, with the length of what stands before its path.
fn base(text: &str) -> Result<(String, usize)> {
    let refused = |why: &str| {
        Err(Error::new(ErrorKind::Misconfigured, Op::Open).with_message(format!(
            "the base URL of presigned URLs {why}; it is like https://files.example.org/files"
        )))
    };
    let Ok(url) = Url::parse(text) else { return refused("is no URL") };
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return refused("is neither http nor https");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refused("must not hold a user or a password");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return refused("must not have a query or a fragment");
    }
    let path = url.path().trim_end_matches('/');
    if !path.bytes().all(|byte| byte == b'/' || query::is_plain(byte)) || path.contains("//") {
        return refused("has a path with other characters than letters, digits, - . _ ~ and single /");
    }
    let origin = &url[..url::Position::BeforePath];
    Ok((format!("{origin}{path}"), origin.len()))
}

/// Visible ASCII and spaces between: what every server and client passes on unchanged (RFC 9110 section 5.5).
fn is_header_value(text: &str) -> bool {
    !text.is_empty() && text.trim() == text && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

fn since_1970(time: SystemTime) -> Option<Duration> {
    time.duration_since(UNIX_EPOCH).ok()
}

#[cfg(test)]
mod tests;
