//! `PutObject`, `UploadPart`, `GetObject` and `HeadObject` over bare HTTP/1.1 connections, signed with `aws-sigv4`.
//!
//! Where to send and what to sign for is not guessed: the SDK presigns a URL, without a request and without
//! credentials that are any, and its host, path and credential scope are taken over ([`Base::of`]). So virtual hosts,
//! path style, dual stack, FIPS and custom endpoints are what they are for the SDK.
//!
//! Nothing is repeated here, and no redirect is followed: a [`Failure`] says what happened, as the SDK's would.

mod connections;
mod identity;

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::Credentials;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sigv4::http_request::{
    self, PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode,
};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::identity::Identity;
use aws_smithy_xml::decode::{Document, try_data};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::header::{
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, RANGE, RETRY_AFTER,
    USER_AGENT,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use self::connections::{Connections, Payload};
use self::identity::IdentityCache;
use super::attributes::HEADER_PREFIX;
use super::carrier::{BoxError, Carrier, Get, Got, Head, Of, Put, RawBody, Stored};
use super::client::{Clients, STALL_GRACE};
use super::conditions;
use super::encryption::{
    AES256, CLASS_HEADER, CUSTOMER_ALGORITHM_HEADER, CUSTOMER_KEY_HEADER, CUSTOMER_MD5_HEADER, CustomerKey,
    KMS_KEY_HEADER, Protection, SSE_HEADER,
};
use super::error::Failure;
use super::facts::Facts;
use super::signing::{silently, unlogged};
use crate::checksum::Digest;

/// What an error's answer may have; more is not read.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// All but the unreserved characters of RFC 3986 section 2.3: what SigV4 encodes ("Create a canonical request", AWS
/// IAM User Guide).
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Keys keep their slashes.
const PATH: &AsciiSet = &QUERY.remove(b'/');

const AGENT: &str = concat!("storage-core/", env!("CARGO_PKG_VERSION"));

const CHECKSUM: HeaderName = HeaderName::from_static("x-amz-checksum-sha256");
const CHECKSUM_MODE: HeaderName = HeaderName::from_static("x-amz-checksum-mode");
const TAGGING: HeaderName = HeaderName::from_static("x-amz-tagging");

/// The key that is presigned to learn what stands before it.
const MARK: &str = "key";

/// Sends the requests itself.
#[derive(Debug)]
pub(super) struct Direct {
    /// One per endpoint.
    bases: Vec<Base>,
    identity: IdentityCache,
    connections: Connections,
}

/// What all requests to one endpoint have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Base {
    /// `https://host:port/` and what else stands before a key.
    url: String,
    /// The region of the credential scope.
    region: String,
}

impl Base {
    /// Reads it out of a URL that the SDK presigned for the key [`MARK`].
    fn of(presigned: &str) -> Result<Self, &'static str> {
        let url = url::Url::parse(presigned).map_err(|_| "the SDK's URL cannot be read")?;
        let query = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value);
        if query("X-Amz-Algorithm").as_deref() != Some("AWS4-HMAC-SHA256") {
            return Err("the bucket is signed for by another algorithm than SigV4");
        }
        let credential = query("X-Amz-Credential").ok_or("the SDK's URL names no credential")?;
        let scope: Vec<&str> = credential.rsplitn(4, '/').collect();
        let [terminator, service, region, _] = scope[..] else {
            return Err("the SDK's URL has another credential scope than SigV4's");
        };
        if (terminator, service) != ("aws4_request", "s3") || query("X-Amz-S3session-Token").is_some() {
            return Err("the bucket is signed for by another scope than S3's");
        }
        let before = url.path().strip_suffix(MARK).ok_or("the SDK's URL does not end in the key")?;
        let origin = url.origin().ascii_serialization();
        Ok(Self { url: format!("{origin}{before}"), region: region.to_owned() })
    }
}

impl Direct {
    /// Finds out where the SDK would send to; a reason where what it would send is not what is sent here.
    pub(super) async fn find(clients: &Clients, bucket: &str) -> Result<Self, &'static str> {
        let provider = clients.credentials().ok_or("there is no credential chain")?;
        let expiry = PresigningConfig::expires_in(Duration::from_secs(60)).map_err(|_| "no expiry")?;
        let mut bases = Vec::new();
        for endpoint in 0..clients.count() {
            // With credentials that are none.
            let config = clients.client(endpoint).config().to_builder();
            let nobody = Credentials::new("nobody", "nobody", None, None, "nobody");
            let client = Client::from_conf(config.credentials_provider(nobody).build());
            let request = client.put_object().bucket(bucket).key(MARK);
            let presigned = unlogged(request.presigned(expiry.clone())).await;
            bases.push(Base::of(presigned.map_err(|_| "the SDK cannot sign")?.uri())?);
        }
        let tls = bases.iter().any(|base| base.url.starts_with("https:"));
        Ok(Self { bases, identity: IdentityCache::new(provider), connections: Connections::new(tls)? })
    }
}

#[async_trait]
impl Carrier for Direct {
    async fn put(&self, endpoint: usize, put: Put<'_>) -> Result<Stored, Failure> {
        let identity = self.identity.get().await?;
        let base = &self.bases[endpoint % self.bases.len()];
        let parts = put_request(base, &put, &identity, SystemTime::now()).map_err(Failure::not_built)?;
        let answer = self.connections.send(parts, Payload::new(put.bytes.clone())).await?;
        if answer.status().is_success() {
            let etag = answer.headers().get(ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
            let protection = Protection::from(answer.headers());
            // The connection is free for the next request once the answer has been read.
            let rest = Limited::new(answer.into_body(), MAX_ERROR_BYTES).collect().await;
            drop(rest);
            return Ok(Stored { etag, protection });
        }
        Err(refusal(answer).await)
    }

    async fn get(&self, endpoint: usize, get: Get<'_>) -> Result<Got, Failure> {
        let identity = self.identity.get().await?;
        let base = &self.bases[endpoint % self.bases.len()];
        let parts = get_request(base, &get, &identity, SystemTime::now()).map_err(Failure::not_built)?;
        let answer = self.connections.send(parts, Payload::new(Bytes::new())).await?;
        if !answer.status().is_success() {
            return Err(refusal(answer).await);
        }
        let facts = Facts::try_from(answer.headers()).map_err(Failure::unanswered)?;
        let content_range = answer.headers().get(CONTENT_RANGE);
        let content_range = content_range.and_then(|text| text.to_str().ok()).map(str::to_owned);
        Ok(Got { facts, content_range, body: received(answer.into_body()) })
    }

    async fn head(&self, endpoint: usize, head: Head<'_>) -> Result<Facts, Failure> {
        let identity = self.identity.get().await?;
        let base = &self.bases[endpoint % self.bases.len()];
        let parts = head_request(base, &head, &identity, SystemTime::now()).map_err(Failure::not_built)?;
        let answer = self.connections.send(parts, Payload::new(Bytes::new())).await?;
        if !answer.status().is_success() {
            return Err(refusal(answer).await);
        }
        Facts::try_from(answer.headers()).map_err(Failure::unanswered)
    }
}

/// The bytes of an answer, until it ends or stalls.
fn received(body: Incoming) -> RawBody {
    let pieces = stream::try_unfold(body, |mut body| async {
        loop {
            let Ok(frame) = tokio::time::timeout(STALL_GRACE, body.frame()).await else {
                return Err(format!("no byte came for {STALL_GRACE:?}").into());
            };
            let Some(frame) = frame else { return Ok(None) };
            // Trailers are nothing to us.
            if let Ok(piece) = frame?.into_data() {
                return Ok::<_, BoxError>(Some((piece, body)));
            }
        }
    });
    pieces.boxed()
}

fn get_request(base: &Base, get: &Get<'_>, identity: &Identity, time: SystemTime) -> Result<Parts, String> {
    let mut parts = unsigned(Method::GET, base, get.key, "?x-id=GetObject")?;
    let headers = &mut parts.headers;
    headers.insert(CHECKSUM_MODE, HeaderValue::from_static("ENABLED"));
    for (name, text) in [(RANGE, get.range), (IF_MATCH, get.if_match)] {
        if let Some(text) = text {
            headers.insert(name, value(text)?);
        }
    }
    let discreet = customer(headers, get.customer)?;
    sign(parts, base, Digest::of(b""), identity, time, discreet)
}

fn head_request(
    base: &Base,
    head: &Head<'_>,
    identity: &Identity,
    time: SystemTime,
) -> Result<Parts, String> {
    let mut parts = unsigned(Method::HEAD, base, head.key, "")?;
    let headers = &mut parts.headers;
    headers.insert(CHECKSUM_MODE, HeaderValue::from_static("ENABLED"));
    let discreet = customer(headers, head.customer)?;
    sign(parts, base, Digest::of(b""), identity, time, discreet)
}

/// Writes out and signs a request, but for its body.
fn put_request(base: &Base, put: &Put<'_>, identity: &Identity, time: SystemTime) -> Result<Parts, String> {
    let mut parts = match put.of {
        Of::Object { .. } => unsigned(Method::PUT, base, put.key, "?x-id=PutObject")?,
        Of::Part { upload, number } => {
            let upload = utf8_percent_encode(upload, QUERY);
            let call = format!("?x-id=UploadPart&partNumber={number}&uploadId={upload}");
            unsigned(Method::PUT, base, put.key, &call)?
        }
    };
    let headers = &mut parts.headers;
    headers.insert(CONTENT_LENGTH, put.bytes.len().into());
    match put.of {
        Of::Object { headers: attributes, when } => {
            headers.insert(CONTENT_TYPE, value(&attributes.content_type)?);
            for (name, text) in &attributes.metadata {
                let name = HeaderName::try_from(format!("{HEADER_PREFIX}{name}"))
                    .map_err(|_| format!("{name:?} cannot be the name of metadata"))?;
                headers.insert(name, value(text)?);
            }
            if let Some(tagging) = &attributes.tagging {
                headers.insert(TAGGING, value(tagging)?);
            }
            let storing = &attributes.storing;
            for (name, text) in [
                (CLASS_HEADER, storing.class.as_deref()),
                (SSE_HEADER, storing.encryption_header()),
                (KMS_KEY_HEADER, storing.kms_key()),
            ] {
                if let Some(text) = text {
                    headers.insert(name, value(text)?);
                }
            }
            let (if_match, if_none_match) = conditions(when);
            for (name, condition) in [(IF_MATCH, if_match), (IF_NONE_MATCH, if_none_match)] {
                if let Some(condition) = condition {
                    headers.insert(name, value(&condition)?);
                }
            }
        }
        Of::Part { .. } => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        }
    }
    if let Some(checksum) = put.checksum {
        headers.insert(CHECKSUM, value(&checksum.to_base64())?);
    }
    let discreet = customer(headers, put.customer)?;
    sign(parts, base, put.payload, identity, time, discreet)
}

/// Adds a customer's key, and tells whether there is one: signing must then leave no trace.
fn customer(headers: &mut HeaderMap, key: Option<&CustomerKey>) -> Result<bool, String> {
    let Some(key) = key else { return Ok(false) };
    headers.insert(CUSTOMER_ALGORITHM_HEADER, HeaderValue::from_static(AES256));
    for (name, text) in [(CUSTOMER_KEY_HEADER, key.header()), (CUSTOMER_MD5_HEADER, key.md5())] {
        let mut text = value(text)?;
        text.set_sensitive(true);
        headers.insert(name, text);
    }
    Ok(true)
}

/// Begins a request for a key. The query has its `?`, and names in `x-id` what the SDK does.
fn unsigned(method: Method, base: &Base, key: &str, query: &str) -> Result<Parts, String> {
    let key = utf8_percent_encode(key, PATH);
    let uri = format!("{}{key}{query}", base.url);
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = method;
    parts.uri = uri.parse().map_err(|error| format!("the URL cannot be made: {error}"))?;
    // `User-Agent` is not signed: proxies change it.
    parts.headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    Ok(parts)
}

fn value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|_| "an attribute cannot be a header's value".to_owned())
}

fn sign(
    mut parts: Parts,
    base: &Base,
    payload: Digest,
    identity: &Identity,
    time: SystemTime,
    discreet: bool,
) -> Result<Parts, String> {
    let sign = || signature(base, payload, identity, time, &parts);
    let signature = if discreet { silently(sign) } else { sign() }?;
    for (name, text) in signature {
        let name = HeaderName::try_from(name).map_err(|error| error.to_string())?;
        let mut text = value(&text)?;
        text.set_sensitive(true);
        parts.headers.insert(name, text);
    }
    Ok(parts)
}

fn signature(
    base: &Base,
    payload: Digest,
    identity: &Identity,
    time: SystemTime,
    parts: &Parts,
) -> Result<Vec<(&'static str, String)>, String> {
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    let params = v4::SigningParams::builder()
        .identity(identity)
        .region(&base.region)
        .name("s3")
        .time(time)
        .settings(settings)
        .build()
        .map_err(|error| error.to_string())?
        .into();
    let headers = parts.headers.iter().filter_map(|(name, text)| Some((name.as_str(), text.to_str().ok()?)));
    let body = SignableBody::Precomputed(payload.to_string());
    let signable = SignableRequest::new(parts.method.as_str(), parts.uri.to_string(), headers, body)
        .map_err(|error| error.to_string())?;
    let (instructions, _) =
        http_request::sign(signable, &params).map_err(|error| error.to_string())?.into_parts();
    let (headers, _) = instructions.into_parts();
    Ok(headers.into_iter().map(|header| (header.name(), header.value().to_owned())).collect())
}

/// Reads what a server says with a status that is no success.
async fn refusal(answer: Response<Incoming>) -> Failure {
    let status = answer.status().as_u16();
    let retry_after =
        answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    // Without its text the answer is still one: the status says most of it.
    let text = match Limited::new(answer.into_body(), MAX_ERROR_BYTES).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::new(),
    };
    let (code, message) = std::str::from_utf8(&text).ok().and_then(error_of).unwrap_or_default();
    Failure::answered(status, code, message, retry_after)
}

/// Reads `<Error><Code>..</Code><Message>..</Message></Error>` ("Error responses", Amazon S3 API Reference).
fn error_of(text: &str) -> Option<(Option<String>, Option<String>)> {
    let mut document = Document::try_from(text.as_bytes()).ok()?;
    let mut root = document.root_element().ok()?;
    if !root.start_el().matches("Error") {
        return None;
    }
    let (mut code, mut message) = (None, None);
    while let Some(mut tag) = root.next_tag() {
        if tag.start_el().matches("Code") {
            code = try_data(&mut tag).ok().map(|text| text.trim().to_owned());
        } else if tag.start_el().matches("Message") {
            message = try_data(&mut tag).ok().map(|text| text.into_owned());
        }
    }
    Some((code, message))
}

#[cfg(test)]
mod tests;
