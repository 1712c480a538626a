//! Requests that store: whole objects and parts.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use md5::{Digest as _, Md5};
use sha2::Sha256;

use super::body::{Answer, Received, Wanted, receive};
use super::control::Operation;
use super::requests::{allowed, failure, insert, no_such_upload, parameter, plain, xml_answer};
use super::store::{Facts, Object, Part, Upload, is_reserved, now};
use super::{Check, Sink, xml};

const SHA256: HeaderName = HeaderName::from_static("x-amz-checksum-sha256");
const CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const CHECKSUM: &str = "x-amz-checksum-";

/// A canary has few bytes; one that has more is not read back.
const CANARY_BYTES: usize = 64 << 10;

impl Facts {
    fn of(headers: &HeaderMap) -> Self {
        let mut facts = Self::default();
        for (name, value) in headers {
            let text = name.as_str();
            if text.starts_with("x-amz-meta-")
                || matches!(text, "cache-control" | "content-disposition" | "content-language")
            {
                facts.headers.push((name.clone(), value.clone()));
            } else if name == header::CONTENT_ENCODING && value != "aws-chunked" {
                let value = value.to_str().unwrap_or_default().replace("aws-chunked,", "");
                if let Ok(value) = HeaderValue::from_str(value.trim()) {
                    facts.headers.push((name.clone(), value));
                }
            } else if name == header::CONTENT_TYPE {
                facts.content_type = Some(value.clone());
            } else if is_checksum(text) {
                facts.checksum = Some((name.clone(), value.clone()));
            }
        }
        facts
    }
}

fn is_checksum(name: &str) -> bool {
    name.strip_prefix(CHECKSUM).is_some_and(|name| !matches!(name, "algorithm" | "type" | "mode"))
}

impl Sink {
    fn etag(&self, md5: Option<[u8; 16]>) -> String {
        match md5 {
            Some(md5) => format!("\"{}\"", hex::encode(md5)),
            // Not 32 digits: nobody shall take it for an MD5.
            None => format!("\"{:016x}\"", self.store.number()),
        }
    }

    /// Reads a body and compares it with what the request says of it.
    async fn receive(&self, path: &str, request: Request<Incoming>) -> Result<Received, Response<Answer>> {
        let (head, body) = request.into_parts();
        let headers = head.headers;
        let reserved = is_reserved(path);
        let payload = headers.get(CONTENT_SHA256).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let trailer = headers.get("x-amz-trailer").is_some_and(|name| name == SHA256.as_str());
        let hex = Some(payload).filter(|text| text.len() == 64);
        let declared = hex.is_some() || trailer || headers.contains_key(SHA256);
        let check = match self.check {
            Check::None => false,
            Check::Canaries => reserved,
            Check::All => true,
        };
        let encoding = headers.get(header::CONTENT_ENCODING).map_or(&b""[..], HeaderValue::as_bytes);
        let wanted = Wanted {
            sha256: check && declared,
            md5: self.md5_etags,
            keep: if reserved { self.keep.max(CANARY_BYTES) } else { self.keep },
            chunked: payload.starts_with("STREAMING-") || encoding.starts_with(b"aws-chunked"),
        };
        let incomplete = |error: String| failure(StatusCode::BAD_REQUEST, "IncompleteBody", &error);
        let mut received = receive(body, wanted).await.map_err(incomplete)?;
        self.counts.received(received.size);
        let wrong = |code, what| failure(StatusCode::BAD_REQUEST, code, what);
        if let Some(sha256) = received.sha256 {
            if hex.is_some_and(|hex| hex != hex::encode(sha256)) {
                return Err(wrong("XAmzContentSHA256Mismatch", "the bytes are not those that were signed"));
            }
            let sums = headers
                .get(SHA256)
                .into_iter()
                .chain(received.trailer.as_ref().filter(|(name, _)| *name == SHA256).map(|(_, value)| value));
            for value in sums {
                if value.as_bytes() != BASE64.encode(sha256).as_bytes() {
                    return Err(wrong("BadDigest", "x-amz-checksum-sha256 does not match the bytes"));
                }
            }
        }
        if let (Some(md5), Some(declared)) = (received.md5, headers.get("content-md5"))
            && declared.as_bytes() != BASE64.encode(md5).as_bytes()
        {
            return Err(wrong("BadDigest", "Content-MD5 does not match the bytes"));
        }
        if received.trailer.is_none() {
            let sent = headers.iter().find(|(name, _)| is_checksum(name.as_str()));
            received.trailer = sent.map(|(name, value)| (name.clone(), value.clone()));
        }
        Ok(received)
    }

    pub(super) async fn put_object(&self, path: &str, request: Request<Incoming>) -> Response<Answer> {
        self.counts.request(Operation::PutObject);
        let (when, mut facts) = (conditions(request.headers()), Facts::of(request.headers()));
        let received = match self.receive(path, request).await {
            Ok(received) => received,
            Err(refusal) => return refusal,
        };
        let etag = self.etag(received.md5);
        let mut answer = plain(StatusCode::OK);
        insert(answer.headers_mut(), header::ETAG, &etag);
        facts.checksum = received.trailer;
        if let Some((name, value)) = &facts.checksum {
            answer.headers_mut().insert(name, value.clone());
            insert(answer.headers_mut(), HeaderName::from_static("x-amz-checksum-type"), "FULL_OBJECT");
        }
        let object = Object {
            size: received.size,
            etag,
            modified: now(),
            facts,
            checksum_type: "FULL_OBJECT",
            bytes: received.bytes,
        };
        if self.store.put(path, object, |old| allowed(&when, old)) { answer } else { refused() }
    }

    pub(super) fn create_upload(&self, path: &str, headers: &HeaderMap) -> Response<Answer> {
        self.counts.request(Operation::CreateMultipartUpload);
        let id = format!("{:016x}", self.store.number());
        let upload = Upload {
            path: path.to_owned(),
            begun: now(),
            facts: Facts::of(headers),
            parts: std::collections::BTreeMap::new(),
        };
        self.store.uploads().insert(id.clone(), upload);
        let mut writer = xml::Writer::new("InitiateMultipartUploadResult");
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        writer.text("Bucket", bucket);
        writer.text("Key", key);
        writer.text("UploadId", &id);
        let mut answer = xml_answer(writer);
        for name in ["x-amz-checksum-algorithm", "x-amz-checksum-type"] {
            if let Some(value) = headers.get(name) {
                answer.headers_mut().insert(HeaderName::from_static(name), value.clone());
            }
        }
        answer
    }

    pub(super) async fn upload_part(
        &self,
        path: &str,
        query: &str,
        request: Request<Incoming>,
    ) -> Response<Answer> {
        self.counts.request(Operation::UploadPart);
        let received = match self.receive(path, request).await {
            Ok(received) => received,
            Err(refusal) => return refusal,
        };
        let number = parameter(query, "partNumber").and_then(|number| number.parse().ok());
        let Some(number) = number.filter(|number| (1..=10_000).contains(number)) else {
            return failure(StatusCode::BAD_REQUEST, "InvalidArgument", "no part number");
        };
        let etag = self.etag(received.md5);
        let mut answer = plain(StatusCode::OK);
        insert(answer.headers_mut(), header::ETAG, &etag);
        if let Some((name, value)) = &received.trailer {
            answer.headers_mut().insert(name, value.clone());
        }
        let part = Part {
            size: received.size,
            etag,
            md5: received.md5,
            checksum: received.trailer,
            bytes: received.bytes,
        };
        let id = parameter(query, "uploadId").unwrap_or_default();
        match self.store.uploads().get_mut(id.as_ref()).filter(|upload| upload.path == path) {
            Some(upload) => {
                upload.parts.insert(number, part);
                answer
            }
            None => no_such_upload(),
        }
    }

    pub(super) async fn complete_upload(
        &self,
        path: &str,
        query: &str,
        request: Request<Incoming>,
    ) -> Response<Answer> {
        self.counts.request(Operation::CompleteMultipartUpload);
        let when = conditions(request.headers());
        let wanted = Wanted { keep: 8 << 20, ..Wanted::default() };
        let document = match receive(request.into_body(), wanted).await {
            Ok(Received { bytes: Some(bytes), .. }) => String::from_utf8_lossy(&bytes).into_owned(),
            _ => return failure(StatusCode::BAD_REQUEST, "MalformedXML", "no list of parts"),
        };
        let id = parameter(query, "uploadId").unwrap_or_default();
        let upload = self.store.uploads().get(id.as_ref()).filter(|upload| upload.path == path).cloned();
        let Some(upload) = upload else { return no_such_upload() };
        let numbers = xml::elements(&document, "PartNumber");
        let parts: Option<Vec<&Part>> =
            numbers.map(|number| upload.parts.get(&number.trim().parse().ok()?)).collect();
        let Some(parts) = parts.filter(|parts| !parts.is_empty()) else {
            return failure(StatusCode::BAD_REQUEST, "InvalidPart", "a part that was not sent");
        };
        let object = self.assemble(&upload, &parts);
        let mut writer = xml::Writer::new("CompleteMultipartUploadResult");
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        writer.text("Location", path);
        writer.text("Bucket", bucket);
        writer.text("Key", key);
        writer.text("ETag", &object.etag);
        if !self.store.put(path, object, |old| allowed(&when, old)) {
            return refused();
        }
        self.store.uploads().remove(id.as_ref());
        xml_answer(writer)
    }

    /// Makes the object of an upload: its checksum is that of the parts' checksums, as S3 has it.
    fn assemble(&self, upload: &Upload, parts: &[&Part]) -> Object {
        let mut facts = upload.facts.clone();
        let sums: Option<Vec<u8>> = parts.iter().try_fold(Vec::new(), |mut all, part| {
            let (_, value) = part.checksum.as_ref().filter(|(name, _)| *name == SHA256)?;
            all.extend(BASE64.decode(value.as_bytes()).ok()?);
            Some(all)
        });
        let composite = sums.and_then(|sums| {
            let mut text = BASE64.encode(Sha256::digest(&sums));
            let _ = write!(text, "-{}", parts.len());
            Some((SHA256, HeaderValue::from_str(&text).ok()?))
        });
        facts.checksum = composite;
        let md5s: Option<Vec<u8>> = parts.iter().try_fold(Vec::new(), |mut all, part| {
            all.extend(part.md5?);
            Some(all)
        });
        let etag = match md5s {
            Some(md5s) => format!("\"{}-{}\"", hex::encode(Md5::digest(md5s)), parts.len()),
            None => format!("\"{:016x}-{}\"", self.store.number(), parts.len()),
        };
        let mut kept = Vec::new();
        let bytes = parts.iter().try_for_each(|part| {
            kept.extend_from_slice(part.bytes.as_ref()?);
            Some(())
        });
        Object {
            size: parts.iter().map(|part| part.size).sum(),
            etag,
            modified: now(),
            facts,
            checksum_type: "COMPOSITE",
            bytes: bytes.map(|()| Bytes::from(kept)),
        }
    }
}

/// `If-Match` and `If-None-Match`.
pub(super) type Conditions = (Option<HeaderValue>, Option<HeaderValue>);

pub(super) fn conditions(headers: &HeaderMap) -> Conditions {
    (headers.get(header::IF_MATCH).cloned(), headers.get(header::IF_NONE_MATCH).cloned())
}

pub(super) fn refused() -> Response<Answer> {
    failure(StatusCode::PRECONDITION_FAILED, "PreconditionFailed", "the condition does not hold")
}
