//! A plain HTTP client: one connection for each request.

use std::fmt;
use std::pin::Pin;

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use storage_core::storage::{PresignMethod, PresignedUrl};
use tokio::net::TcpStream;

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Body = BoxBody<Bytes, Failure>;
pub(crate) type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, Failure>> + Send + Sync>>;

/// What a server answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// Returns a header; nothing where there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(500)]);
        write!(f, "{} {:?} {} bytes: {body}", self.status, self.headers, self.body.len())
    }
}

pub(crate) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A body of unknown length: it is sent in chunks.
pub(crate) fn chunked(pieces: Pieces) -> Body {
    BodyExt::boxed(StreamBody::new(pieces.map_ok(Frame::data)))
}

/// Sends a request and returns the head of the answer.
pub(crate) async fn open(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: Body,
) -> Result<Response<Incoming>, Failure> {
    // Not by a parser of URLs, which would tidy up what a test sends on purpose.
    let (address, _) = url.strip_prefix("http://").and_then(|url| url.split_once('/')).expect("an http URL");
    let target = &url["http://".len() + address.len()..];
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(target).header("host", address);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Ok(sender.send_request(request.body(body)?).await?)
}

/// Sends a request and returns the whole answer.
pub(crate) async fn send(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: Body,
) -> Result<Answer, Failure> {
    let (head, body) = open(method, url, headers, body).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
}

pub(crate) async fn get(url: &str, headers: &[(&str, &str)]) -> Answer {
    send("GET", url, headers, whole("")).await.unwrap()
}

/// Does what the URL allows, with the headers that it asks for and others.
pub(crate) async fn perform(
    presigned: &PresignedUrl,
    more: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    let method = match presigned.method {
        PresignMethod::Get => "GET",
        PresignMethod::Put => "PUT",
    };
    let own = presigned.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let headers: Vec<_> = own.chain(more.iter().copied()).collect();
    send(method, &presigned.url, &headers, whole(body)).await.unwrap()
}
