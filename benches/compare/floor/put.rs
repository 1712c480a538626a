//! The migrator's requests by a bare HTTP client: what is left when there is no SDK, no ledger and no retry.
//!
//! One current-thread runtime per core, a connection per worker; a file up to the part size is one open, read and close
//! into a buffer that is used again, and one SHA-256 for the signature, the checksum and the metadata.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail, ensure};
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use clap::{Args, ValueEnum};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HOST, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use super::walk;
use crate::sink::elements;

const KEY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// How the files are sent.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// The directory whose files are sent
    directory: PathBuf,
    /// http://ADDRESS:PORT/BUCKET; credentials are those of the environment, or any
    target: Uri,
    /// Connections, over all threads
    #[arg(long, value_name = "N", default_value_t = 8)]
    connections: usize,
    /// A file up to this size is one request
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 20)]
    part_size: u64,
    /// What is hashed of a file in parts
    #[arg(long, value_enum, default_value_t = Hashes::Both)]
    hashes: Hashes,
}

/// Which hashes a file in parts gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Hashes {
    /// Each part's, for its signature and checksum.
    Parts,
    /// The whole file's as well, as the migrator's ledger has it.
    Both,
}

/// A file that is sent in parts, by whoever is free.
struct Large {
    path: String,
    upload: String,
    file: File,
    size: u64,
    /// The next part, and the hash of all before it.
    next: Mutex<(u32, Sha256)>,
    tags: Mutex<Vec<Option<String>>>,
}

struct Job {
    name: String,
    size: u64,
}

struct Shared {
    options: Options,
    credentials: Credentials,
    region: String,
    host: HeaderValue,
    address: String,
    prefix: String,
    small: Vec<Job>,
    next: AtomicUsize,
    large: Vec<Large>,
}

/// Sends everything.
///
/// # Errors
/// When a file cannot be read, or the server does not answer 200.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut small = Vec::new();
    let mut large = Vec::new();
    walk::files(&options.directory, |name, size| {
        let name = name.to_str().with_context(|| format!("{} is no key", name.display()))?.to_owned();
        let jobs = if size <= options.part_size { &mut small } else { &mut large };
        jobs.push(Job { name, size });
        Ok(())
    })?;
    let count = small.len() + large.len();
    let bytes = small.iter().chain(&large).map(|job| job.size).sum::<u64>();
    let variable = |name: &str, other: &str| std::env::var(name).unwrap_or_else(|_| other.to_owned());
    let authority = options.target.authority().context("the target is no http://ADDRESS:PORT/BUCKET")?;
    let mut shared = Shared {
        options: options.clone(),
        credentials: Credentials::new(
            variable("AWS_ACCESS_KEY_ID", "bench"),
            variable("AWS_SECRET_ACCESS_KEY", "bench"),
            None,
            None,
            "bench",
        ),
        region: variable("AWS_REGION", "us-east-1"),
        host: HeaderValue::from_str(authority.as_str())?,
        address: authority.to_string(),
        prefix: options.target.path().trim_end_matches('/').to_owned(),
        small,
        next: AtomicUsize::new(0),
        large: Vec::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    shared.large = runtime.block_on(begin(&shared, &large))?;
    let shared = Arc::new(shared);
    let threads = thread::available_parallelism().map_or(1, usize::from).min(options.connections.max(1));
    let running: Vec<_> = (0..threads)
        .map(|index| {
            let shared = Arc::clone(&shared);
            // As even as it gets.
            let workers = (options.connections.max(1) + index) / threads;
            thread::spawn(move || work(&shared, workers))
        })
        .collect();
    for thread in running {
        match thread.join() {
            Ok(result) => result?,
            Err(_) => bail!("a thread ended early"),
        }
    }
    runtime.block_on(complete(&shared))?;
    crate::say(format_args!("{count} files, {bytes} bytes"));
    Ok(())
}

fn work(shared: &Arc<Shared>, workers: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let tasks: Vec<_> = (0..workers).map(|_| tokio::spawn(worker(Arc::clone(shared)))).collect();
        for task in tasks {
            task.await??;
        }
        Ok(())
    })
}

async fn worker(shared: Arc<Shared>) -> Result<()> {
    let mut connection = Connection::open(&shared).await?;
    let mut buffer = BytesMut::new();
    while let Some(job) = shared.small.get(shared.next.fetch_add(1, Ordering::Relaxed)) {
        let file = File::open(shared.options.directory.join(&job.name))?;
        let bytes = read(&file, 0, job.size, &mut buffer)?;
        let digest = Sha256::digest(&bytes);
        let path = shared.path(&job.name);
        connection.put(&shared, &path, bytes, &digest, true).await.with_context(|| job.name.clone())?;
    }
    for large in &shared.large {
        send_parts(&shared, large, &mut connection, &mut buffer).await?;
    }
    Ok(())
}

/// Reads into the buffer, whose bytes are used again once the connection has let go of those before.
fn read(file: &File, at: u64, size: u64, buffer: &mut BytesMut) -> Result<Bytes> {
    buffer.resize(usize::try_from(size)?, 0);
    file.read_exact_at(buffer, at)?;
    Ok(buffer.split().freeze())
}

async fn send_parts(
    shared: &Shared,
    large: &Large,
    connection: &mut Connection,
    buffer: &mut BytesMut,
) -> Result<()> {
    loop {
        let mut next = large.next.lock().await;
        let number = next.0;
        let start = u64::from(number) * shared.options.part_size;
        if start >= large.size {
            return Ok(());
        }
        next.0 += 1;
        let bytes = read(&large.file, start, shared.options.part_size.min(large.size - start), buffer)?;
        if shared.options.hashes == Hashes::Both {
            next.1.update(&bytes);
        }
        drop(next);
        let digest = Sha256::digest(&bytes);
        let path = format!("{}?partNumber={}&uploadId={}", large.path, number + 1, large.upload);
        let tag = connection.put(shared, &path, bytes, &digest, false).await?;
        let mut tags = large.tags.lock().await;
        let slot = tags.get_mut(number as usize).context("more parts than there are")?;
        *slot = Some(format!(
            "<Part><PartNumber>{}</PartNumber><ETag>{tag}</ETag><ChecksumSHA256>{}</ChecksumSHA256></Part>",
            number + 1,
            BASE64.encode(digest),
        ));
    }
}

async fn begin(shared: &Shared, jobs: &[Job]) -> Result<Vec<Large>> {
    let mut all = Vec::new();
    if jobs.is_empty() {
        return Ok(all);
    }
    let mut connection = Connection::open(shared).await?;
    for job in jobs {
        let path = shared.path(&job.name);
        let mut request = shared.request(Method::POST, &format!("{path}?uploads="), Bytes::new())?;
        let headers = request.headers_mut();
        headers.insert("x-amz-checksum-algorithm", HeaderValue::from_static("SHA256"));
        headers.insert("x-amz-checksum-type", HeaderValue::from_static("COMPOSITE"));
        let (_, answer) = connection.send(shared, request, EMPTY_SHA256).await?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let upload = elements(&answer, "UploadId").next().context("the server named no upload")?.into_owned();
        let parts = usize::try_from(job.size.div_ceil(shared.options.part_size))?;
        all.push(Large {
            path,
            upload,
            file: File::open(shared.options.directory.join(&job.name))?,
            size: job.size,
            next: Mutex::new((0, Sha256::new())),
            tags: Mutex::new(vec![None; parts]),
        });
    }
    Ok(all)
}

async fn complete(shared: &Shared) -> Result<()> {
    if shared.large.is_empty() {
        return Ok(());
    }
    let mut connection = Connection::open(shared).await?;
    for large in &shared.large {
        let tags = large.tags.lock().await;
        let parts: String = tags.iter().flatten().map(String::as_str).collect();
        let body = Bytes::from(format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>"));
        let digest = hex::encode(Sha256::digest(&body));
        let path = format!("{}?uploadId={}", large.path, large.upload);
        let request = shared.request(Method::POST, &path, body)?;
        let (_, answer) = connection.send(shared, request, &digest).await?;
        ensure!(answer.windows(6).any(|bytes| bytes == b"<ETag>"), "{}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}

impl Shared {
    fn path(&self, name: &str) -> String {
        format!("{}/{}", self.prefix, utf8_percent_encode(name, KEY))
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>> {
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
struct Connection(SendRequest<Full<Bytes>>);

impl Connection {
    async fn open(shared: &Shared) -> Result<Self> {
        let stream = TcpStream::connect(&shared.address)
            .await
            .with_context(|| format!("cannot connect to {}", shared.address))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    async fn put(
        &mut self,
        shared: &Shared,
        path: &str,
        bytes: Bytes,
        digest: &[u8],
        whole: bool,
    ) -> Result<String> {
        let payload = hex::encode(digest);
        let mut request = shared.request(Method::PUT, path, bytes)?;
        let headers = request.headers_mut();
        let checksum = HeaderValue::from_str(&BASE64.encode(digest))?;
        headers.insert(HeaderName::from_static("x-amz-checksum-sha256"), checksum);
        if whole {
            headers.insert("content-type", HeaderValue::from_static("application/octet-stream"));
            headers.insert("x-amz-meta-sha256", HeaderValue::from_str(&payload)?);
        }
        let (answer, _) = self.send(shared, request, &payload).await?;
        let tag = answer.headers().get("etag").and_then(|tag| tag.to_str().ok());
        Ok(tag.context("the answer has no ETag")?.to_owned())
    }

    async fn send(
        &mut self,
        shared: &Shared,
        mut request: Request<Full<Bytes>>,
        payload: &str,
    ) -> Result<(Response<()>, Bytes)> {
        shared.sign(&mut request, payload)?;
        self.0.ready().await?;
        let (head, body) = self.0.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        ensure!(head.status.is_success(), "status {}: {}", head.status, String::from_utf8_lossy(&body));
        Ok((Response::from_parts(head, ()), body))
    }
}
