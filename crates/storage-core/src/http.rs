//! A router (crate `axum`) that serves presigned URLs: whoever has one can read or write the one file.
//!
//! It serves any [`FileStorage`] for the URLs of one [`UrlSigner`]: a directory, or a whole stack around one. It
//! needs nothing else, no session and no state; the URL is the permission.
//!
//! ```
//! use std::sync::Arc;
//! use storage_core::backend::local::{LocalConfig, LocalStorage};
//! use storage_core::http::{ServeConfig, router};
//! use storage_core::presign::{SigningKey, UrlSigner};
//!
//! # async fn example(root: &std::path::Path, secret: &str) -> storage_core::Result<()> {
//! let signer = UrlSigner::new("https://files.example.org/files", SigningKey::new(secret)?)?;
//! let storage = LocalStorage::open(LocalConfig::new(root).with_signer(signer.clone())).await?;
//! // Serves the path of the base URL, here `/files/...`: merge it with the service's own routes.
//! let app = axum::Router::new().merge(router(Arc::new(storage), signer, ServeConfig::default()));
//! # let _ = app;
//! # Ok(())
//! # }
//! ```
//!
//! | request | answers |
//! |---|---|
//! | `GET`, `HEAD` | 200, or 206 for one range (RFC 9110 section 14); `If-Match`, `If-None-Match`, `If-Range` and the dates are honoured: 304, 412; 416 behind the last byte |
//! | `PUT` | 200 when the file is stored whole, 201 where `If-None-Match: *` made sure that it is new; 400 for a body that is shorter than announced, 413 for one that is longer than signed or than [`ServeConfig::max_upload`], 415 for another media type than signed |
//! | a URL that is no permission | 403, whatever is wrong with it |
//! | a failure of the storage | 404, 409, 412, 501, 503, 504, 507, else 500; the body says no more than the status |
//!
//! Nobody's file runs in the service's name: every answer has `X-Content-Type-Options: nosniff` and a `sandbox`
//! policy, and a browser saves the file unless the URL was signed with
//! [`inline`](crate::storage::PresignRequest::inline). Serving files from a host name of their own is still the
//! better wall. Pages of other origins may use the URLs where the service answers their preflight requests (CORS),
//! which this router leaves to it.
//!
//! Memory per request is bounded: bodies pass in pieces; one that is uploaded is kept in memory up to
//! [`ServeConfig::memory`], else in an unnamed temporary file until it is there and of its right length. Only then
//! is the storage asked, so a slow client holds no permit of a limit and uses up no deadline of the stack, a retry
//! can read the body again, and a client that goes away leaves nothing.

mod answer;
mod condition;
mod read;
mod write;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::BodyDataStream;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::response::Response;
use axum::routing::any;
use futures::StreamExt;

use self::answer::Refusal;
use crate::body::READ_CHUNK;
use crate::id::FileId;
use crate::presign::{Grant, UrlSigner};
use crate::storage::{FileStorage, PresignMethod};

/// A body that was refused is read on and thrown away up to this size and for this long: a client that sends first
/// and listens later sees the answer, and not a reset connection.
const DRAIN_BYTES: usize = 16 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// Bounds of what the router accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServeConfig {
    /// Greatest body in bytes of a `PUT` whose URL names no length. Default: 5 GiB, what S3 takes in one `PUT`.
    pub max_upload: u64,
    /// Bytes of a body that are kept in memory; larger ones go to a temporary file. Default: 256 KiB, so that a
    /// thousand uploads at a time take 256 MiB at most.
    pub memory: usize,
    /// Where temporary files are made; default: the system's directory for them, which may be memory.
    pub spool_directory: Option<PathBuf>,
    /// How long a client that uploads may send nothing; default: 30 s.
    pub idle: Duration,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self { max_upload: 5 << 30, memory: READ_CHUNK, spool_directory: None, idle: Duration::from_secs(30) }
    }
}

impl ServeConfig {
    /// Sets the greatest body of a `PUT` whose URL names no length.
    #[must_use]
    pub fn with_max_upload(mut self, bytes: u64) -> Self {
        self.max_upload = bytes;
        self
    }

    /// Sets how much of a body is kept in memory.
    #[must_use]
    pub fn with_memory(mut self, bytes: usize) -> Self {
        self.memory = bytes;
        self
    }

    /// Sets where temporary files are made.
    #[must_use]
    pub fn with_spool_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.spool_directory = Some(directory.into());
        self
    }

    /// Sets how long a client that uploads may send nothing.
    #[must_use]
    pub fn with_idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }
}

/// Makes the router. It answers beneath [`UrlSigner::base_path`], which the requests must still have when they come:
/// a proxy in front passes path and query on as they are.
///
/// `signer` is that of the storage ([`LocalConfig::signer`](crate::backend::local::LocalConfig::signer)).
pub fn router(storage: Arc<dyn FileStorage>, signer: UrlSigner, config: ServeConfig) -> Router {
    let path = format!("{}/{{*id}}", signer.base_path());
    Router::new().route(&path, any(handle)).with_state(Arc::new(Server { storage, signer, config }))
}

/// Answers a GET of a file, for services that decide by other means than a URL who may read it: with ranges,
/// conditions and the headers that the router sets, and its statuses where the file cannot be sent.
pub async fn send_file(
    storage: &dyn FileStorage,
    id: &FileId,
    request: &HeaderMap,
    shown: &Presentation,
) -> Response {
    read::read(storage, id, request, shown).await.unwrap_or_else(Refusal::into_response)
}

/// How a browser is to take a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Presentation {
    /// The name under which it saves the file; default: the last segment of the URL.
    pub save_as: Option<String>,
    /// It shows the file where it can; default: false, it saves it.
    pub inline: bool,
}

impl Presentation {
    /// Sets the name under which a browser saves the file.
    #[must_use]
    pub fn with_save_as(mut self, file_name: impl Into<String>) -> Self {
        self.save_as = Some(file_name.into());
        self
    }

    /// Has a browser show the file where it can.
    #[must_use]
    pub fn with_inline(mut self) -> Self {
        self.inline = true;
        self
    }
}

#[derive(Debug)]
struct Server {
    storage: Arc<dyn FileStorage>,
    signer: UrlSigner,
    config: ServeConfig,
}

async fn handle(State(server): State<Arc<Server>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let mut body = body.into_data_stream();
    match server.answer(&parts, &mut body).await {
        Ok(response) => response,
        Err(refusal) => {
            // A client that waits for leave to send has not sent anything, and one that stopped sending will not go
            // on.
            if !parts.headers.contains_key(header::EXPECT) && !refusal.is_timeout() {
                // Nothing is lost when this takes too long: the connection is closed then.
                let _ = tokio::time::timeout(DRAIN_TIME, drain(body)).await;
            }
            refusal.into_response()
        }
    }
}

impl Server {
    async fn answer(&self, parts: &Parts, body: &mut BodyDataStream) -> Result<Response, Refusal> {
        match parts.method {
            Method::GET | Method::HEAD => {
                let Grant { id, save_as, inline, .. } = self.grant(parts, PresignMethod::Get)?;
                let shown = Presentation { save_as, inline };
                if parts.method == Method::HEAD {
                    return read::look(&*self.storage, &id, &parts.headers, &shown).await;
                }
                read::read(&*self.storage, &id, &parts.headers, &shown).await
            }
            Method::PUT => self.write(&self.grant(parts, PresignMethod::Put)?, &parts.headers, body).await,
            _ => Err(Refusal::method()),
        }
    }

    fn grant(&self, parts: &Parts, method: PresignMethod) -> Result<Grant, Refusal> {
        let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
        let beneath =
            target.strip_prefix(self.signer.base_path()).and_then(|target| target.strip_prefix('/'));
        self.signer.verify(method, beneath.unwrap_or_default(), SystemTime::now()).map_err(|refused| {
            // The URL itself may be somebody's permission under another key, or nearly one.
            tracing::debug!(method = %parts.method, why = refused.as_str(), "a presigned URL was refused");
            Refusal::forbidden()
        })
    }
}

async fn drain(mut body: BodyDataStream) {
    let mut left = DRAIN_BYTES;
    while let Some(Ok(piece)) = body.next().await {
        left = left.saturating_sub(piece.len());
        if left == 0 {
            return;
        }
    }
}
