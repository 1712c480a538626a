//! As little of an S3 client as it takes: signed requests on a connection of hyper's.

use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HOST, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::net::TcpStream;

const KEY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The SHA-256 of no bytes.
pub(crate) const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Where requests go, and who signs them.
pub(crate) struct Client {
    credentials: Credentials,
    region: String,
    host: HeaderValue,
    address: String,
    /// `/BUCKET`.
    prefix: String,
}

impl Client {
    /// For `http://ADDRESS:PORT/BUCKET`, with the credentials and the region of the environment, or any.
    ///
    /// # Errors
    /// When the target is something else.
    pub(crate) fn new(target: &Uri) -> Result<Self> {
        let variable = |name: &str, other: &str| std::env::var(name).unwrap_or_else(|_| other.to_owned());
        let (key, secret) = (variable("AWS_ACCESS_KEY_ID", "any"), variable("AWS_SECRET_ACCESS_KEY", "any"));
        let authority = target.authority().context("the target is no http://ADDRESS:PORT/BUCKET")?;
        Ok(Self {
            credentials: Credentials::new(key, secret, None, None, "environment"),
            region: variable("AWS_REGION", "us-east-1"),
            host: HeaderValue::from_str(authority.as_str())?,
            address: authority.to_string(),
            prefix: target.path().trim_end_matches('/').to_owned(),
        })
    }

    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}/{}", self.prefix, utf8_percent_encode(name, KEY))
    }

    pub(crate) fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>> {
        let request = Request::builder().method(method).uri(path).header(HOST, self.host.clone());
        Ok(request.body(Full::new(body))?)
    }

    fn sign(&self, request: &mut Request<Full<Bytes>>, payload: &str) -> Result<()> {
        let mut settings = SigningSettings::default();
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        let identity = self.credentials.clone().into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("s3")
            .time(SystemTime::now())
            .settings(settings)
            .build()?
            .into();
        let uri = request.uri().to_string();
        let headers =
            request.headers().iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let body = SignableBody::Precomputed(payload.to_owned());
        let signable = SignableRequest::new(request.method().as_str(), uri, headers, body)?;
        let (instructions, _) = sign(signable, &params)?.into_parts();
        instructions.apply_to_request_http1x(request);
        Ok(())
    }
}

/// One connection, on which one request waits for the answer to the one before.
pub(crate) struct Connection(SendRequest<Full<Bytes>>);

impl Connection {
    /// # Errors
    /// When there is nobody.
    pub(crate) async fn open(client: &Client) -> Result<Self> {
        let stream = TcpStream::connect(&client.address)
            .await
            .with_context(|| format!("cannot connect to {}", client.address))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// Signs and sends a request whose body has this SHA-256.
    ///
    /// # Errors
    /// When the answer is not in the two hundreds; the message holds the body.
    pub(crate) async fn send(
        &mut self,
        client: &Client,
        mut request: Request<Full<Bytes>>,
        payload: &str,
    ) -> Result<(Response<()>, Bytes)> {
        client.sign(&mut request, payload)?;
        self.0.ready().await?;
        let (head, body) = self.0.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        ensure!(head.status.is_success(), "status {}: {}", head.status, String::from_utf8_lossy(&body));
        Ok((Response::from_parts(head, ()), body))
    }
}
