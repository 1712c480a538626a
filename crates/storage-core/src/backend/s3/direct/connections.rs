//! Connections, one pool per runtime thread.
//!
//! A connection is driven by a task of the runtime that opened it. Used from another thread, each request would wake
//! that thread and be woken by it: measured, that costs more than the request. So every single-threaded runtime has
//! connections of its own, and all threads of a multi-threaded one share theirs.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::ThreadId;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::Instant;

use crate::backend::s3::client::{CONNECT_TIMEOUT, STALL_GRACE};
use crate::backend::s3::error::{Failure, innermost};

/// A body is handed over in pieces of this size, so that it can be seen whether it moves.
const PIECE: usize = 256 << 10;

/// Idle connections are closed after this time: most servers and balancers do so after a minute or more.
const IDLE: Duration = Duration::from_secs(50);

/// Pools of threads that are gone are dropped when there are more than this.
const POOLS: usize = 256;

/// A pool of connections.
#[derive(Clone)]
enum Pool {
    Plain(Client<HttpConnector, Payload>),
    Tls(Client<HttpsConnector<HttpConnector>, Payload>),
}

/// The pools of all threads.
pub(super) struct Connections {
    connector: Connector,
    pools: Mutex<HashMap<Option<ThreadId>, Pool>>,
}

#[derive(Clone)]
enum Connector {
    Plain(HttpConnector),
    Tls(HttpsConnector<HttpConnector>),
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

impl Connections {
    /// Makes no connection yet. The system's certificates are read only where they are needed.
    pub(super) fn new(tls: bool) -> Result<Self, &'static str> {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = if tls {
            tcp.enforce_http(false);
            let provider = rustls::crypto::aws_lc_rs::default_provider();
            let builder = HttpsConnectorBuilder::new()
                .with_provider_and_native_roots(provider)
                .map_err(|_| "the system's certificates cannot be read")?;
            Connector::Tls(builder.https_or_http().enable_http1().wrap_connector(tcp))
        } else {
            Connector::Plain(tcp)
        };
        Ok(Self { connector, pools: Mutex::default() })
    }

    fn pool(&self) -> Pool {
        let multi = Handle::try_current()
            .is_ok_and(|runtime| runtime.runtime_flavor() != RuntimeFlavor::CurrentThread);
        let thread = (!multi).then(|| std::thread::current().id());
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(&thread) {
            return pool.clone();
        }
        if pools.len() >= POOLS {
            pools.clear();
        }
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE).retry_canceled_requests(true);
        let pool = match &self.connector {
            Connector::Plain(connector) => Pool::Plain(builder.build(connector.clone())),
            Connector::Tls(connector) => Pool::Tls(builder.build(connector.clone())),
        };
        pools.insert(thread, pool.clone());
        pool
    }

    /// Sends a request and returns the head of its answer. A body that does not move for
    /// [`STALL_GRACE`] ends the request.
    pub(super) async fn send(&self, parts: Parts, body: Payload) -> Result<Response<Incoming>, Failure> {
        let watch = body.watch();
        let request = Request::from_parts(parts, body);
        let answer = async {
            match self.pool() {
                Pool::Plain(client) => client.request(request).await,
                Pool::Tls(client) => client.request(request).await,
            }
        };
        let answer = match watch {
            None => answer.await,
            Some(watch) => tokio::select! {
                biased;
                answer = answer => answer,
                () = watch.stalled() => {
                    return Err(Failure::unanswered(format!("no byte was taken for {STALL_GRACE:?}")));
                }
            },
        };
        answer.map_err(|error| match error.is_connect() {
            true => Failure::not_connected(innermost(&error)),
            false => Failure::unanswered(innermost(&error)),
        })
    }
}

/// The bytes of a request.
pub(super) struct Payload {
    rest: Bytes,
    taken: Arc<AtomicU64>,
}

impl Payload {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { rest: bytes, taken: Arc::default() }
    }

    /// Nothing for a body that is one piece: it is in the socket's buffer, or the deadline of the call ends it.
    fn watch(&self) -> Option<Watch> {
        (self.rest.len() > PIECE)
            .then(|| Watch { taken: Arc::clone(&self.taken), total: self.rest.len() as u64 })
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(length);
        self.taken.fetch_add(length as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

/// Sees whether a body moves.
struct Watch {
    taken: Arc<AtomicU64>,
    total: u64,
}

impl Watch {
    /// Returns when no piece was taken for the grace time. Once all were, the server has its time to answer.
    async fn stalled(self) {
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            tokio::time::sleep(STALL_GRACE / 4).await;
            let taken = self.taken.load(Ordering::Relaxed);
            if taken == self.total {
                return std::future::pending().await;
            }
            if taken != seen {
                (seen, since) = (taken, Instant::now());
            } else if since.elapsed() >= STALL_GRACE {
                return;
            }
        }
    }
}
