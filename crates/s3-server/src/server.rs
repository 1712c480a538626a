//! The server itself: a listener, its connections, and an orderly end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::auth::SimpleAuth;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Credentials, Limits, ServerConfig};
use crate::gateway::Gateway;
use crate::http::Front;

/// Greatest XML body: 10,000 parts with two checksums each take 4 MiB.
const XML_BYTES: usize = 8 << 20;

/// A server that is bound to its address and not yet running.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    front: Arc<Front>,
    limits: Limits,
    credentials: Option<Credentials>,
    region: String,
}

impl Server {
    /// Binds to `address`; port 0 is any free one.
    ///
    /// # Errors
    /// Those of binding.
    pub async fn bind(config: ServerConfig, address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let hook = config.hook.clone();
        let (limits, credentials) = (config.limits.clone(), config.credentials.clone());
        let region = config.region.clone();
        let front = Arc::new(Front::new(service(config), hook));
        Ok(Self { listener, address, front, limits, credentials, region })
    }

    /// Returns the address that it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Returns the URL that clients are given; buckets are the first segment of the path.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Serves until `shutdown` is cancelled; then accepts no more connections, lets requests that are under way
    /// end within [`Limits::grace`], and closes the rest.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { listener, front, limits, .. } = self;
        let connections = TaskTracker::new();
        let permits = Arc::new(Semaphore::new(limits.max_connections));
        // Cancelled when the grace time is over.
        let abort = CancellationToken::new();
        let _abort_when_dropped = abort.clone().drop_guard();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = accept(&listener, &permits) => accepted,
            };
            match accepted {
                Ok((stream, permit)) => {
                    let connection = connection(stream, Arc::clone(&front), shutdown.clone(), abort.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of descriptors, mostly: wait until some are given back.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
        drop(listener);
        connections.close();
        if tokio::time::timeout(limits.grace, connections.wait()).await.is_err() {
            tracing::warn!(left = connections.len(), "requests are cut off at shutdown");
            abort.cancel();
            connections.wait().await;
        }
    }

    /// Runs on the current tokio runtime until the handle is shut down or dropped.
    pub fn spawn(self) -> RunningServer {
        let shutdown = CancellationToken::new();
        let (address, credentials, region) = (self.address, self.credentials.clone(), self.region.clone());
        let task = tokio::spawn(self.run(shutdown.clone()));
        RunningServer { address, credentials, region, shutdown, task: Some(task) }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A server that runs in the background. Dropped, it stops at once: the listener and all connections are closed.
#[derive(Debug)]
pub struct RunningServer {
    address: SocketAddr,
    credentials: Option<Credentials>,
    region: String,
    shutdown: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl RunningServer {
    /// Returns the address that it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Returns the URL that clients are given; buckets are the first segment of the path.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the key pair that requests must be signed with.
    pub fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// Returns the access key, or nothing at all where none is asked for.
    pub fn access_key(&self) -> &str {
        self.credentials.as_ref().map_or("", Credentials::access_key)
    }

    /// Returns the secret key, or nothing at all where none is asked for.
    pub fn secret_key(&self) -> &str {
        self.credentials.as_ref().map_or("", Credentials::secret_key)
    }

    /// Returns the region that clients are told.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Shuts down: requests that are under way end within the grace time; see [`Server::run`].
    pub async fn shutdown(mut self) {
        self.shutdown.cancel();
        if let Some(task) = self.task.take()
            && let Err(error) = task.await
        {
            tracing::warn!(%error, "the server ended early");
        }
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(task) = self.task.take() {
            // Drops the listener and the guard that aborts the connections.
            task.abort();
        }
    }
}

fn service(config: ServerConfig) -> S3Service {
    let credentials = config.credentials.clone();
    let mut builder = S3ServiceBuilder::new(Gateway::new(config));
    if let Some(credentials) = credentials {
        builder.set_auth(SimpleAuth::from_single(credentials.access_key(), credentials.secret_key()));
    }
    let mut s3 = S3Config::default();
    s3.xml_max_body_size = XML_BYTES;
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(s3))));
    builder.build()
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

async fn connection(
    stream: TcpStream,
    front: Arc<Front>,
    shutdown: CancellationToken,
    abort: CancellationToken,
) {
    // Answers are small or written in large pieces: waiting to fill a packet only delays them.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let front = Arc::clone(&front);
        async move { front.handle(request).await }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(std::time::Duration::from_secs(60))
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut leaving = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended");
                }
                return;
            }
            () = shutdown.cancelled(), if !leaving => {
                leaving = true;
                connection.as_mut().graceful_shutdown();
            }
            () = abort.cancelled() => return,
        }
    }
}
