//! A small upload and download service on whatever storage the configuration names.
//!
//! ```sh
//! axum_service CONFIG.json [ADDRESS]
//!
//! curl --data-binary @report.pdf http://127.0.0.1:8080/files/report.pdf       # {"id": "UUID/report.pdf", ...}
//! curl --remote-name http://127.0.0.1:8080/files/UUID/report.pdf
//! curl http://127.0.0.1:8080/links/UUID/report.pdf                            # {"url": ...}, good for 10 minutes
//! ```
//!
//! `CONFIG.json` is a `StackConfig`; for a directory with URLs that this service serves itself:
//!
//! ```json
//! {"backend": {"type": "local", "root": "/srv/files",
//!              "presign": {"base_url": "http://127.0.0.1:8080/shared", "key_file": "/run/secrets/files"}}}
//! ```
//!
//! Bytes pass in pieces both ways. There is no login here: put your own in front of the routes. What goes wrong has a
//! status that tells whose turn it is:
//!
//! | status | when |
//! |---|---|
//! | 400 | the id or the name is none, and the answer says why; the body broke off |
//! | 403 | the storage does not permit it, or the id is one that storages keep for themselves |
//! | 404, 412 | there is no such file; a condition of the request does not hold |
//! | 413 | the upload is too large: nothing more of it is read |
//! | 503, with `Retry-After` | the storage is out of reach, or asks to slow down |
//! | 504, 507 | the storage did not answer in time; it is full |
//!
//! SIGTERM, or Ctrl-C, ends it: no new connection is taken, and requests that are under way have 30 seconds.

#![expect(clippy::print_stdout, reason = "an example shows something")]

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use serde_json::json;
use storage_core::error::{Error, ErrorKind, Op, Retry};
use storage_core::http::{Presentation, ServeConfig, router, send_file};
use storage_core::id::InvalidId;
use storage_core::presign::UrlSigner;
use storage_core::stack::{self, BackendConfig, StackConfig};
use storage_core::storage::PresignRequest;
use storage_core::{Body, FileId, FileStorage, FileStorageExt, UploadOptions};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Bytes of an upload that stay in memory; a larger one waits in a temporary file until it has come whole.
const IN_MEMORY: usize = 256 << 10;

/// Greatest upload in bytes.
const MAX_UPLOAD: u64 = 5 << 30;

/// How long requests that are under way may take when the service is to end.
const DRAIN: Duration = Duration::from_secs(30);

const JSON: [(header::HeaderName, &str); 1] = [(header::CONTENT_TYPE, "application/json")];

#[derive(Clone)]
struct Service {
    storage: Arc<dyn FileStorage>,
    max_upload: u64,
}

/// What went wrong, for the client: a status, and what to do about it where that is the client's turn. The rest is for
/// the log.
struct Failure {
    status: StatusCode,
    text: Option<String>,
    retry_after: Option<u64>,
}

impl Failure {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: Some(text.into()), retry_after: None }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let by_client = error.op() == Op::ReadBody;
        let status = match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotAFile => StatusCode::NOT_FOUND,
            ErrorKind::AlreadyExists | ErrorKind::VersionMismatch => StatusCode::PRECONDITION_FAILED,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Denied if !by_client => StatusCode::FORBIDDEN,
            ErrorKind::InvalidInput => StatusCode::BAD_REQUEST,
            ErrorKind::SourceChanged if by_client => StatusCode::BAD_REQUEST,
            ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
            ErrorKind::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
            ErrorKind::Unavailable | ErrorKind::Throttled => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
            // The service's own: its credentials, its configuration, its disk.
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        tracing::warn!(%error, status = status.as_u16(), "a request failed");
        let told = matches!(status, StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE);
        let retry_after = (status == StatusCode::SERVICE_UNAVAILABLE).then(|| match error.retry() {
            Retry::After(delay) => delay.as_secs_f64().ceil().max(1.0) as u64,
            _ => 1,
        });
        Self { status, text: error.message().filter(|_| told).map(str::to_owned), retry_after }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let reason = || self.status.canonical_reason().unwrap_or("failed").to_lowercase();
        let text = self.text.unwrap_or_else(reason);
        let mut response = (self.status, format!("{text}\n")).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// The routes: `POST /files/NAME`, `GET /files/ID`, `GET /links/ID`, and where the storage's URLs lead here, those.
pub(crate) fn app(storage: Arc<dyn FileStorage>, signer: Option<UrlSigner>, max_upload: u64) -> Router {
    let own = Router::new()
        .route("/files/{*path}", post(upload).get(download))
        .route("/links/{*id}", get(link))
        // The limit is `max_upload`.
        .layer(DefaultBodyLimit::disable())
        .with_state(Service { storage: Arc::clone(&storage), max_upload });
    match signer {
        Some(signer) => own.merge(router(storage, signer, ServeConfig::default())),
        None => own,
    }
}

async fn upload(
    State(service): State<Service>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Failure> {
    // Before a byte is read.
    FileId::unique(&name).map_err(bad_id)?;
    let length =
        request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > service.max_upload) {
        return Err(too_large(service.max_upload).into());
    }
    let mut options = UploadOptions::default();
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    // What curl says of whatever it is given.
    options.content_type =
        content_type.filter(|given| *given != "application/x-www-form-urlencoded").map(str::to_owned);
    let body = Body::spool(pieces(request, service.max_upload), IN_MEMORY, None).await?;
    let receipt = service.storage.upload_new(&name, body, options).await?;
    let (file, digest) = (receipt.metadata, receipt.digest);
    let answer = json!({"id": file.id, "size": file.size, "sha256": digest});
    Ok((StatusCode::CREATED, JSON, answer.to_string()).into_response())
}

/// The body's bytes, until there are too many.
fn pieces(request: Request, most: u64) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
    let broke_off = |error| {
        Error::new(ErrorKind::SourceChanged, Op::ReadBody)
            .with_message("the body broke off")
            .with_source(error)
    };
    let mut left = most;
    request.into_body().into_data_stream().map_err(broke_off).and_then(move |piece| {
        let rest = left.checked_sub(piece.len() as u64);
        left = rest.unwrap_or(0);
        std::future::ready(if rest.is_some() { Ok(piece) } else { Err(too_large(most)) })
    })
}

fn too_large(most: u64) -> Error {
    Error::new(ErrorKind::TooLarge, Op::ReadBody).with_message(format!("an upload has at most {most} bytes"))
}

async fn download(
    State(service): State<Service>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let id = parse(id)?;
    let shown = Presentation::default().with_save_as(id.file_name());
    Ok(send_file(&*service.storage, &id, &headers, &shown).await)
}

async fn link(State(service): State<Service>, Path(id): Path<String>) -> Result<Response, Failure> {
    let request = PresignRequest::get(Duration::from_secs(600));
    let presigned = service.storage.presigned_url(&parse(id)?, request).await?;
    Ok((JSON, json!({"url": presigned.url}).to_string()).into_response())
}

fn parse(id: String) -> Result<FileId, Failure> {
    let id = FileId::parse(id).map_err(bad_id)?;
    if id.is_reserved() {
        return Err(Failure::new(StatusCode::FORBIDDEN, "the storage keeps this id for itself"));
    }
    Ok(id)
}

fn bad_id(error: InvalidId) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, error.to_string())
}

/// Serves until it is told to end, and then what was begun before.
pub(crate) async fn serve(listener: TcpListener, app: Router) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let (ends, ended) = oneshot::channel::<()>();
    let told = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        drop(ends);
    };
    tokio::select! {
        result = axum::serve(listener, app).with_graceful_shutdown(told).into_future() => result,
        () = async { drop(ended.await); tokio::time::sleep(DRAIN).await } => Ok(()),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let config = arguments.next().ok_or("usage: axum_service CONFIG.json [ADDRESS]")?;
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let config: StackConfig = serde_json::from_slice(&std::fs::read(config)?)?;
    let signer = match &config.backend {
        BackendConfig::Local(local) => local.signer()?,
        _ => None,
    };
    let app = app(stack::build(config).await?, signer, MAX_UPLOAD);
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    serve(listener, app).await?;
    Ok(())
}
