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
//! Bytes pass in pieces both ways. There is no login here: put your own in front of the routes.

#![expect(clippy::print_stdout, reason = "an example shows something")]

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{RequestExt, Router};
use futures::TryStreamExt;
use serde_json::json;
use storage_core::error::{Error, ErrorKind, Op};
use storage_core::http::{Presentation, ServeConfig, router, send_file};
use storage_core::presign::UrlSigner;
use storage_core::stack::{self, BackendConfig, StackConfig};
use storage_core::storage::PresignRequest;
use storage_core::{Body, FileId, FileStorage, FileStorageExt, UploadOptions};
use tokio::net::TcpListener;

/// Bytes of an upload that stay in memory; a larger one waits in a temporary file until it has come whole.
const IN_MEMORY: usize = 256 << 10;

/// Greatest upload in bytes.
const MAX_UPLOAD: usize = 5 << 30;

const JSON: [(header::HeaderName, &str); 1] = [(header::CONTENT_TYPE, "application/json")];

type Storage = Arc<dyn FileStorage>;

/// What went wrong, for the client: a status and no more. The rest is for the log.
struct Failure(Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match (self.0.kind(), self.0.op()) {
            (ErrorKind::NotFound | ErrorKind::NotAFile, _) => StatusCode::NOT_FOUND,
            (ErrorKind::InvalidInput, _) | (_, Op::ReadBody) => StatusCode::BAD_REQUEST,
            (ErrorKind::Unsupported, _) => StatusCode::NOT_IMPLEMENTED,
            (ErrorKind::Unavailable | ErrorKind::Throttled | ErrorKind::Timeout, _) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        tracing::warn!(error = %self.0, status = status.as_u16(), "a request failed");
        status.into_response()
    }
}

/// The routes: `POST /files/NAME`, `GET /files/ID`, `GET /links/ID`, and where the storage's URLs lead here, those.
pub(crate) fn app(storage: Storage, signer: Option<UrlSigner>) -> Router {
    let own = Router::new()
        .route("/files/{*path}", post(upload).get(download))
        .route("/links/{*id}", get(link))
        .layer(DefaultBodyLimit::max(MAX_UPLOAD))
        .with_state(Arc::clone(&storage));
    match signer {
        Some(signer) => own.merge(router(storage, signer, ServeConfig::default())),
        None => own,
    }
}

async fn upload(
    State(storage): State<Storage>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Failure> {
    let mut options = UploadOptions::default();
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    // What curl says of whatever it is given.
    options.content_type =
        content_type.filter(|given| *given != "application/x-www-form-urlencoded").map(str::to_owned);
    let pieces = request.with_limited_body().into_body().into_data_stream().map_err(|error| {
        Error::new(ErrorKind::SourceChanged, Op::ReadBody)
            .with_message("the body broke off")
            .with_source(error)
    });
    let body = Body::spool(pieces, IN_MEMORY, None).await?;
    let receipt = storage.upload_new(&name, body, options).await?;
    let (file, digest) = (receipt.metadata, receipt.digest);
    let answer = json!({"id": file.id, "size": file.size, "sha256": digest});
    Ok((StatusCode::CREATED, JSON, answer.to_string()).into_response())
}

async fn download(
    State(storage): State<Storage>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let id = parse(id, Op::Download)?;
    let shown = Presentation::default().with_save_as(id.file_name());
    Ok(send_file(&*storage, &id, &headers, &shown).await)
}

async fn link(State(storage): State<Storage>, Path(id): Path<String>) -> Result<Response, Failure> {
    let request = PresignRequest::get(Duration::from_secs(600));
    let presigned = storage.presigned_url(&parse(id, Op::Presign)?, request).await?;
    Ok((JSON, json!({"url": presigned.url}).to_string()).into_response())
}

fn parse(id: String, op: Op) -> Result<FileId, Failure> {
    FileId::parse(id).map_err(|error| Error::new(ErrorKind::InvalidInput, op).with_source(error).into())
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
    let app = app(stack::build(config).await?, signer);
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    axum::serve(listener, app).with_graceful_shutdown(stop).await?;
    Ok(())
}
