//! GET and HEAD.

use axum::body::Body;
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::Presentation;
use super::answer::{Refusal, guard};
use super::condition::{self, Part, Validators, Verdict};
use crate::body::held_back;
use crate::disposition;
use crate::error::ErrorKind;
use crate::id::FileId;
use crate::metadata::FileMetadata;
use crate::storage::{Download, DownloadOptions, FileStorage, Precondition};

/// How often a file may be replaced between looking at it and opening it.
const REPLACED: usize = 5;

const OCTET_STREAM: HeaderValue = HeaderValue::from_static("application/octet-stream");

pub(super) async fn read(
    storage: &dyn FileStorage,
    id: &FileId,
    headers: &HeaderMap,
    shown: &Presentation,
) -> Result<Response, Refusal> {
    let (download, whole) = if condition::is_plain(headers) {
        (storage.download(id, DownloadOptions::default()).await?, true)
    } else {
        open(storage, id, headers).await?
    };
    let Download { metadata, range, body } = download;
    let mut response = describe(&metadata, shown).map(|()| Body::from_stream(held_back(body)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    if !whole {
        // Never empty: a range that holds nothing is not satisfiable.
        let range = format!("bytes {}-{}/{}", range.start, range.end - 1, metadata.size);
        set(headers, header::CONTENT_RANGE, Some(range));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

pub(super) async fn look(
    storage: &dyn FileStorage,
    id: &FileId,
    headers: &HeaderMap,
    shown: &Presentation,
) -> Result<Response, Refusal> {
    let metadata = storage.metadata(id).await?;
    check(headers, &metadata)?;
    let mut response = describe(&metadata, shown);
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(metadata.size));
    Ok(response.map(|()| Body::empty()))
}

/// Looks at the file, and opens the very version that the conditions were compared with; tells whether all of it was
/// asked for.
async fn open(
    storage: &dyn FileStorage,
    id: &FileId,
    headers: &HeaderMap,
) -> Result<(Download, bool), Refusal> {
    let mut tries = REPLACED;
    loop {
        let metadata = storage.metadata(id).await?;
        let validators = check(headers, &metadata)?;
        let mut options = DownloadOptions::default();
        match condition::part(headers, &validators, metadata.size) {
            Part::All => {}
            Part::One(range) => options = options.with_range(range),
            Part::Unsatisfiable => {
                let mut refusal = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE);
                if let Ok(size) = HeaderValue::try_from(format!("bytes */{}", metadata.size)) {
                    refusal = refusal.with(header::CONTENT_RANGE, size);
                }
                return Err(refusal);
            }
        }
        let whole = options.range.is_none();
        if let Some(version) = metadata.version {
            options = options.with_when(Precondition::Version(version));
        }
        match storage.download(id, options).await {
            Err(error) if error.kind() == ErrorKind::VersionMismatch && tries > 0 => tries -= 1,
            download => return Ok((download?, whole)),
        }
    }
}

fn check(headers: &HeaderMap, metadata: &FileMetadata) -> Result<Validators, Refusal> {
    let validators = Validators::of(metadata);
    match condition::evaluate(headers, Some(&validators), true) {
        Verdict::Go => Ok(validators),
        Verdict::Failed => Err(Refusal::new(StatusCode::PRECONDITION_FAILED)),
        Verdict::NotModified => {
            let mut refusal = Refusal::new(StatusCode::NOT_MODIFIED);
            if let Some(etag) = validators.etag().and_then(|etag| HeaderValue::try_from(etag).ok()) {
                refusal = refusal.with(header::ETAG, etag);
            }
            Err(refusal)
        }
    }
}

/// Writes what is known of the file.
fn describe(metadata: &FileMetadata, shown: &Presentation) -> Response<()> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    guard(headers);
    let content_type = metadata.content_type.as_deref().and_then(|text| HeaderValue::try_from(text).ok());
    let content_type = content_type.unwrap_or(OCTET_STREAM);
    // The viewers of browsers do not work in a sandbox, and run nothing of the document in the site's name.
    if shown.inline && content_type == "application/pdf" {
        headers.remove(header::CONTENT_SECURITY_POLICY);
    }
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let validators = Validators::of(metadata);
    set(headers, header::ETAG, validators.etag());
    set(headers, header::LAST_MODIFIED, validators.last_modified());
    set(
        headers,
        header::CONTENT_DISPOSITION,
        Some(disposition::header(shown.inline, shown.save_as.as_deref())),
    );
    response
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: Option<String>) {
    if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
        headers.insert(name, value);
    }
}
