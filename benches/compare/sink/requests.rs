//! Which request is which, and the answers to those that store nothing.

use std::borrow::Cow;
use std::fs::File;
use std::ops::Range;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;

use super::Sink;
use super::body::{Answer, Received, Wanted, receive};
use super::control::Operation;
use super::store::{Entry, Object, Query};
use super::upload::{Conditions, conditions, refused};
use super::xml::{self, Writer};

/// Files up to this size are read at once.
const WHOLE: u64 = 1 << 20;

pub(crate) fn plain(status: StatusCode) -> Response<Answer> {
    let mut answer = Response::new(Answer::Bytes(None));
    *answer.status_mut() = status;
    answer
}

pub(super) fn failure(status: StatusCode, code: &str, message: &str) -> Response<Answer> {
    let mut answer = Response::new(Answer::from(Bytes::from(xml::error(code, message))));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    answer
}

pub(super) fn xml_answer(writer: Writer) -> Response<Answer> {
    let mut answer = Response::new(Answer::from(Bytes::from(writer.finish())));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    answer
}

pub(super) fn no_such_upload() -> Response<Answer> {
    failure(StatusCode::NOT_FOUND, "NoSuchUpload", "no such upload")
}

pub(super) fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Returns the value of a parameter, decoded; empty for one without a value.
pub(crate) fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| match value.contains('+') {
            true => Cow::Owned(decode(&value.replace('+', " ")).into_owned()),
            false => decode(value),
        })
    })
}

fn decode(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

/// Tells whether `If-Match` and `If-None-Match` hold of the object that is there.
pub(super) fn allowed((if_match, if_none_match): &Conditions, old: Option<&Object>) -> bool {
    let same = |wanted: &HeaderValue, old: &Object| wanted == "*" || wanted.as_bytes() == old.etag.as_bytes();
    if_match.as_ref().is_none_or(|wanted| old.is_some_and(|old| same(wanted, old)))
        && if_none_match.as_ref().is_none_or(|wanted| !old.is_some_and(|old| same(wanted, old)))
}

impl Sink {
    /// Answers a request.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Answer> {
        let uri = request.uri().clone();
        let path = decode(uri.path().trim_start_matches('/'));
        let query = uri.query().unwrap_or_default();
        let has = |name| parameter(query, name).is_some();
        if path.starts_with("-/") {
            return self.control(&request);
        }
        match path.split_once('/').filter(|(_, key)| !key.is_empty()) {
            Some(_) => match *request.method() {
                Method::PUT if has("partNumber") => self.upload_part(&path, query, request).await,
                Method::PUT if request.headers().contains_key("x-amz-copy-source") || has("tagging") => {
                    self.not_implemented()
                }
                Method::PUT => self.put_object(&path, request).await,
                Method::POST if has("uploads") => self.create_upload(&path, request.headers()),
                Method::POST if has("uploadId") => self.complete_upload(&path, query, request).await,
                Method::DELETE if has("uploadId") => self.abort_upload(query),
                Method::DELETE => self.delete_object(&path, request.headers()),
                Method::GET if has("uploadId") => self.list_parts(&path, query),
                Method::GET if has("tagging") || has("acl") || has("attributes") => self.not_implemented(),
                Method::GET | Method::HEAD => self.get_object(&path, &request),
                _ => self.not_implemented(),
            },
            None => {
                let bucket = path.trim_end_matches('/');
                match *request.method() {
                    Method::POST if has("delete") => self.delete_objects(bucket, request).await,
                    Method::GET if has("uploads") => self.list_uploads(bucket, query),
                    Method::GET if has("location") => {
                        self.counts.request(Operation::Bucket);
                        xml_answer(Writer::new("LocationConstraint"))
                    }
                    Method::GET if has("versioning") => {
                        self.counts.request(Operation::Bucket);
                        xml_answer(Writer::new("VersioningConfiguration"))
                    }
                    Method::GET if !bucket.is_empty() => self.list_objects(bucket, query),
                    Method::HEAD | Method::PUT => {
                        self.counts.request(Operation::Bucket);
                        plain(StatusCode::OK)
                    }
                    _ => self.not_implemented(),
                }
            }
        }
    }

    fn not_implemented(&self) -> Response<Answer> {
        self.counts.request(Operation::Other);
        failure(StatusCode::NOT_IMPLEMENTED, "NotImplemented", "the sink does not do this")
    }

    fn get_object<B>(&self, path: &str, request: &Request<B>) -> Response<Answer> {
        let head = request.method() == Method::HEAD;
        self.counts.request(if head { Operation::HeadObject } else { Operation::GetObject });
        let Some(object) = self.store.get(path) else {
            return match head {
                true => plain(StatusCode::NOT_FOUND),
                false => failure(StatusCode::NOT_FOUND, "NoSuchKey", "no such key"),
            };
        };
        let headers = request.headers();
        if !allowed(&conditions(headers), Some(&object)) {
            let unchanged = headers.contains_key(header::IF_NONE_MATCH);
            return if unchanged { plain(StatusCode::NOT_MODIFIED) } else { refused() };
        }
        let wanted = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
        let range = match wanted.map(|wanted| range(wanted, object.size)) {
            Some(None) => {
                return failure(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange", "no byte in that range");
            }
            Some(Some(range)) => range,
            None => 0..object.size,
        };
        let body = if head { Ok(Answer::Bytes(None)) } else { self.bytes(path, &object, range.clone()) };
        let mut answer = match body {
            Ok(body) => Response::new(body),
            Err(message) => return failure(StatusCode::NOT_IMPLEMENTED, "NotImplemented", &message),
        };
        let length = range.end - range.start;
        if !head {
            self.counts.sent(length);
        }
        if wanted.is_some() {
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            let (start, end) = (range.start, range.end.saturating_sub(1));
            let told = format!("bytes {start}-{end}/{}", object.size);
            insert(answer.headers_mut(), header::CONTENT_RANGE, &told);
        }
        let all = answer.headers_mut();
        all.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        describe(&object, headers, all);
        answer
    }

    /// Returns the bytes of an object: those that were kept, or those of the file they came from.
    fn bytes(&self, path: &str, object: &Object, range: Range<u64>) -> Result<Answer, String> {
        let length = range.end - range.start;
        if let Some(bytes) = &object.bytes {
            let range = usize::try_from(range.start).and_then(|start| Ok(start..usize::try_from(range.end)?));
            let range = range.map_err(|error| error.to_string())?;
            return Ok(Answer::from(bytes.slice(range)));
        }
        let (Some(directory), Some((_, key))) = (&self.contents, path.split_once('/')) else {
            return Err("the bytes were not kept: start the sink with --contents or --keep".to_owned());
        };
        let told = |error: std::io::Error| format!("{}: {error}", directory.join(key).display());
        let file = File::open(directory.join(key)).map_err(told)?;
        if length > WHOLE {
            return Ok(Answer::file(file, range.start, length));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, range.start).map_err(told)?;
        Ok(Answer::from(Bytes::from(bytes)))
    }

    fn delete_object(&self, path: &str, headers: &HeaderMap) -> Response<Answer> {
        self.counts.request(Operation::DeleteObject);
        let when = conditions(headers);
        match self.store.remove(path, |old| allowed(&when, old)) {
            true => plain(StatusCode::NO_CONTENT),
            false => refused(),
        }
    }

    async fn delete_objects(&self, bucket: &str, request: Request<Incoming>) -> Response<Answer> {
        self.counts.request(Operation::DeleteObjects);
        let wanted = Wanted { keep: 8 << 20, ..Wanted::default() };
        let Ok(Received { bytes: Some(bytes), .. }) = receive(request.into_body(), wanted).await else {
            return failure(StatusCode::BAD_REQUEST, "MalformedXML", "no list of keys");
        };
        let document = String::from_utf8_lossy(&bytes);
        let quiet = xml::elements(&document, "Quiet").any(|quiet| quiet == "true");
        let mut writer = Writer::new("DeleteResult");
        for key in xml::elements(&document, "Key") {
            self.store.remove(&format!("{bucket}/{key}"), |_| true);
            if !quiet {
                writer.open("Deleted");
                writer.text("Key", &key);
                writer.close("Deleted");
            }
        }
        xml_answer(writer)
    }

    fn abort_upload(&self, query: &str) -> Response<Answer> {
        self.counts.request(Operation::AbortMultipartUpload);
        let id = parameter(query, "uploadId").unwrap_or_default();
        match self.store.uploads().remove(id.as_ref()) {
            Some(_) => plain(StatusCode::NO_CONTENT),
            None => no_such_upload(),
        }
    }

    fn list_parts(&self, path: &str, query: &str) -> Response<Answer> {
        self.counts.request(Operation::ListParts);
        let id = parameter(query, "uploadId").unwrap_or_default();
        let uploads = self.store.uploads();
        let Some(upload) = uploads.get(id.as_ref()).filter(|upload| upload.path == path) else {
            return no_such_upload();
        };
        let mut writer = Writer::new("ListPartsResult");
        writer.text("UploadId", &id);
        writer.text("IsTruncated", "false");
        for (number, part) in &upload.parts {
            writer.open("Part");
            writer.number("PartNumber", u64::from(*number));
            writer.number("Size", part.size);
            writer.text("ETag", &part.etag);
            if let Some((name, value)) = &part.checksum {
                let value = value.to_str().unwrap_or_default();
                if name == "x-amz-checksum-sha256" {
                    writer.text("ChecksumSHA256", value);
                }
            }
            writer.close("Part");
        }
        xml_answer(writer)
    }

    fn list_uploads(&self, bucket: &str, query: &str) -> Response<Answer> {
        self.counts.request(Operation::ListMultipartUploads);
        let prefix = format!("{bucket}/{}", parameter(query, "prefix").unwrap_or_default());
        let url = parameter(query, "encoding-type").is_some_and(|kind| kind == "url");
        let mut writer = Writer::new("ListMultipartUploadsResult");
        writer.text("Bucket", bucket);
        writer.text("IsTruncated", "false");
        if url {
            writer.text("EncodingType", "url");
        }
        let uploads = self.store.uploads();
        let mut found: Vec<_> =
            uploads.iter().filter(|(_, upload)| upload.path.starts_with(&prefix)).collect();
        found.sort_by(|one, other| (&one.1.path, one.0).cmp(&(&other.1.path, other.0)));
        for (id, upload) in found {
            writer.open("Upload");
            writer.key("Key", upload.path.get(bucket.len() + 1..).unwrap_or_default(), url);
            writer.text("UploadId", id);
            writer.time("Initiated", upload.begun);
            writer.close("Upload");
        }
        xml_answer(writer)
    }

    /// Both versions of listings: they differ in how the next page is asked for.
    fn list_objects(&self, bucket: &str, query: &str) -> Response<Answer> {
        self.counts.request(Operation::ListObjects);
        let second = parameter(query, "list-type").is_some_and(|kind| kind == "2");
        let url = parameter(query, "encoding-type").is_some_and(|kind| kind == "url");
        let prefix = parameter(query, "prefix").unwrap_or_default();
        let delimiter = parameter(query, "delimiter").filter(|delimiter| !delimiter.is_empty());
        let names: &[&str] = if second { &["continuation-token", "start-after"] } else { &["marker"] };
        let after = names.iter().find_map(|name| parameter(query, name)).filter(|after| !after.is_empty());
        let limit = parameter(query, "max-keys").and_then(|limit| limit.parse().ok());
        let after = after.map(|after| format!("{bucket}/{after}"));
        let page = self.store.page(&Query {
            prefix: &format!("{bucket}/{prefix}"),
            after: after.as_deref(),
            delimiter: delimiter.as_deref(),
            limit: limit.unwrap_or(1000).clamp(1, 1000),
        });
        let mut writer = Writer::new("ListBucketResult");
        writer.text("Name", bucket);
        writer.key("Prefix", &prefix, url);
        writer.text("IsTruncated", if page.truncated { "true" } else { "false" });
        if url {
            writer.text("EncodingType", "url");
        }
        if second {
            writer.number("KeyCount", page.entries.len() as u64);
        }
        let key = |path: &str| path.get(bucket.len() + 1..).unwrap_or_default().to_owned();
        if let Some(last) = page.entries.last().filter(|_| page.truncated) {
            let last = match last {
                Entry::Object(path, _) => key(path),
                Entry::Common(path) => key(path),
            };
            match second {
                true => writer.text("NextContinuationToken", &last),
                false => writer.key("NextMarker", &last, url),
            }
        }
        for entry in &page.entries {
            match entry {
                Entry::Object(path, object) => {
                    writer.open("Contents");
                    writer.key("Key", path.get(bucket.len() + 1..).unwrap_or_default(), url);
                    writer.time("LastModified", object.modified);
                    writer.text("ETag", &object.etag);
                    writer.number("Size", object.size);
                    writer.text("StorageClass", "STANDARD");
                    writer.close("Contents");
                }
                Entry::Common(path) => {
                    writer.open("CommonPrefixes");
                    writer.key("Prefix", &key(path), url);
                    writer.close("CommonPrefixes");
                }
            }
        }
        xml_answer(writer)
    }
}

/// Writes what is known of an object into the headers of an answer.
fn describe(object: &Object, asked: &HeaderMap, headers: &mut HeaderMap) {
    insert(headers, header::ETAG, &object.etag);
    insert(headers, header::LAST_MODIFIED, &xml::http_date(object.modified));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let octets = HeaderValue::from_static("binary/octet-stream");
    headers.insert(header::CONTENT_TYPE, object.facts.content_type.clone().unwrap_or(octets));
    for (name, value) in &object.facts.headers {
        headers.insert(name, value.clone());
    }
    // It is that of the whole: an answer with a part of it would contradict itself.
    if let Some((name, value)) = &object.facts.checksum
        && !asked.contains_key(header::RANGE)
        && asked
            .get("x-amz-checksum-mode")
            .is_some_and(|mode| mode.as_bytes().eq_ignore_ascii_case(b"enabled"))
    {
        headers.insert(name, value.clone());
        let kind = HeaderValue::from_static(object.checksum_type);
        headers.insert(HeaderName::from_static("x-amz-checksum-type"), kind);
    }
}

/// Reads `bytes=A-B`, `bytes=A-` and `bytes=-N`; nothing where no byte is in it.
fn range(text: &str, size: u64) -> Option<Range<u64>> {
    let (start, end) = text.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (start.parse::<u64>(), end.parse::<u64>()) {
        (Ok(start), Ok(end)) => start..end.checked_add(1)?.min(size),
        (Ok(start), Err(_)) if end.is_empty() => start..size,
        (Err(_), Ok(last)) if start.is_empty() => size.saturating_sub(last)..size,
        _ => return None,
    };
    (range.start < range.end).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_at_the_end() {
        assert_eq!(range("bytes=0-0", 10), Some(0..1));
        assert_eq!(range("bytes=5-99", 10), Some(5..10));
        assert_eq!(range("bytes=5-", 10), Some(5..10));
        assert_eq!(range("bytes=-3", 10), Some(7..10));
        for none in ["bytes=10-", "bytes=-0", "bytes=4-3", "bytes=a-b", "lines=0-1", "bytes=-"] {
            assert_eq!(range(none, 10), None, "{none}");
        }
    }

    #[test]
    fn parameters_are_decoded() {
        assert_eq!(parameter("a=1&prefix=x%2Fy+z&uploads", "prefix").unwrap(), "x/y z");
        assert_eq!(parameter("a=1&uploads", "uploads").unwrap(), "");
        assert_eq!(parameter("", "uploads"), None);
    }

    #[test]
    fn conditions_hold_of_what_is_there() {
        let object = Object { etag: "\"1\"".to_owned(), ..Object::default() };
        let value = |text| Some(HeaderValue::from_static(text));
        assert!(allowed(&(None, None), None) && allowed(&(None, None), Some(&object)));
        assert!(allowed(&(None, value("*")), None) && !allowed(&(None, value("*")), Some(&object)));
        assert!(allowed(&(value("\"1\""), None), Some(&object)) && !allowed(&(value("\"1\""), None), None));
        assert!(!allowed(&(value("\"2\""), None), Some(&object)));
    }
}
