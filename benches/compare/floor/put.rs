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

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use clap::{Args, ValueEnum};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Uri};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use super::client::{Client, Connection, EMPTY_SHA256};
use super::walk;
use crate::sink::elements;

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
    client: Client,
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
    let mut shared = Shared {
        options: options.clone(),
        client: Client::new(&options.target)?,
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
    let mut connection = Connection::open(&shared.client).await?;
    let mut buffer = BytesMut::new();
    while let Some(job) = shared.small.get(shared.next.fetch_add(1, Ordering::Relaxed)) {
        let file = File::open(shared.options.directory.join(&job.name))?;
        let bytes = read(&file, 0, job.size, &mut buffer)?;
        let digest = Sha256::digest(&bytes);
        let path = shared.client.path(&job.name);
        put(&mut connection, &shared.client, &path, bytes, &digest, true)
            .await
            .with_context(|| job.name.clone())?;
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
        let tag = put(connection, &shared.client, &path, bytes, &digest, false).await?;
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
    let mut connection = Connection::open(&shared.client).await?;
    for job in jobs {
        let path = shared.client.path(&job.name);
        let mut request = shared.client.request(Method::POST, &format!("{path}?uploads="), Bytes::new())?;
        let headers = request.headers_mut();
        headers.insert("x-amz-checksum-algorithm", HeaderValue::from_static("SHA256"));
        headers.insert("x-amz-checksum-type", HeaderValue::from_static("COMPOSITE"));
        let (_, answer) = connection.send(&shared.client, request, EMPTY_SHA256).await?;
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
    let mut connection = Connection::open(&shared.client).await?;
    for large in &shared.large {
        let tags = large.tags.lock().await;
        let parts: String = tags.iter().flatten().map(String::as_str).collect();
        let body = Bytes::from(format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>"));
        let digest = hex::encode(Sha256::digest(&body));
        let path = format!("{}?uploadId={}", large.path, large.upload);
        let request = shared.client.request(Method::POST, &path, body)?;
        let (_, answer) = connection.send(&shared.client, request, &digest).await?;
        ensure!(answer.windows(6).any(|bytes| bytes == b"<ETag>"), "{}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}

async fn put(
    connection: &mut Connection,
    client: &Client,
    path: &str,
    bytes: Bytes,
    digest: &[u8],
    whole: bool,
) -> Result<String> {
    let payload = hex::encode(digest);
    let mut request = client.request(Method::PUT, path, bytes)?;
    let headers = request.headers_mut();
    let checksum = HeaderValue::from_str(&BASE64.encode(digest))?;
    headers.insert(HeaderName::from_static("x-amz-checksum-sha256"), checksum);
    if whole {
        headers.insert("content-type", HeaderValue::from_static("application/octet-stream"));
        headers.insert("x-amz-meta-sha256", HeaderValue::from_str(&payload)?);
    }
    let (answer, _) = connection.send(client, request, &payload).await?;
    let tag = answer.headers().get("etag").and_then(|tag| tag.to_str().ok());
    Ok(tag.context("the answer has no ETag")?.to_owned())
}
