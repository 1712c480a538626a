//! Any S3-compatible server as a storage.
//!
//! **What is where.** A key is the configured prefix, `/` and the id. Attributes are user metadata
//! ([`attributes`]), tags too unless [`S3Config::object_tags`] is set. The digest of a file that was stored in
//! one piece is in its metadata and is the object's SHA-256 checksum; a file that was stored in parts has the
//! parts' composite checksum, and their size in its metadata.
//!
//! **What is believed.** An ETag is a token for preconditions, never a hash. What a server can do is found by
//! requests that must fail ([`S3Storage::connect`]): there are servers that answer 200 to a condition they do
//! not know. Ids whose first segment is `.storage` are kept for these probes.
//!
//! **What is repeated.** Nothing but the parts of an upload: whole calls are the retry layer's. A request that
//! found no connection, or a node that answered 503, goes to the next endpoint of the cluster at once.

pub mod attributes;
mod canary;
mod capabilities;
mod carrier;
mod client;
mod config;
mod copy;
mod direct;
mod encryption;
mod error;
mod facts;
mod list;
mod multipart;
mod object;
mod presign;
mod signing;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::{OnceCell, Semaphore};

pub use self::config::S3Config;
pub use self::encryption::{CustomerKey, Encryption};

use self::capabilities::Features;
use self::carrier::{Carrier, Fastest, Sdk};
use self::client::Clients;
use self::encryption::Storing;
use self::error::Request;
use crate::body::Body;
use crate::checksum::Digest;
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::{FileId, MAX_ID_BYTES, Prefix};
use crate::metadata::FileMetadata;
use crate::storage::{
    Access, Capabilities, Download, DownloadOptions, FileStorage, FinishOptions, ListOptions, PartLimits,
    PartNumber, PartReceipt, Precondition, PresignRequest, PresignedUrl, Receipt, ResumableUpload,
    UploadOptions, UploadTicket,
};

/// First segment of the ids that are the storage's own.
const RESERVED: &str = ".storage";

/// How long is waited before a server that answered the questions of an opening with an error of its own is asked again:
/// they are some thirty requests, and one 503 among them is no reason to give up.
const OPENING_WAITS: [Duration; 2] = [Duration::from_millis(250), Duration::from_millis(500)];

/// Greatest object that one `CopyObject` takes ("Copying objects", Amazon S3 User Guide).
const MAX_COPY: u64 = 5 << 30;

/// A bucket, or the part of it beneath a prefix, of any S3-compatible server. A clone shares everything.
///
/// ```no_run
/// # async fn example() -> storage_core::error::Result<()> {
/// use storage_core::backend::s3::{S3Config, S3Storage};
/// use storage_core::id::FileId;
/// use storage_core::storage::FileStorageExt;
///
/// let storage = S3Storage::connect(S3Config::new("photos").with_endpoint("http://127.0.0.1:9000")).await?;
/// storage.upload_bytes(&FileId::parse("a.txt").unwrap(), "hello".into()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct S3Storage {
    inner: Arc<Inner>,
}

/// What the operations share.
struct Inner {
    config: S3Config,
    key_prefix: String,
    clients: Arc<Clients>,
    carrier: Arc<dyn Carrier>,
    /// As remembered, or nothing but what is S3 itself.
    assumed: Features,
    /// As found.
    asked: Arc<OnceCell<Features>>,
    part_permits: Arc<Semaphore>,
    /// What every object is stored with.
    storing: Arc<Storing>,
    /// Objects greater than this are copied in parts.
    copy_limit: u64,
}

impl S3Storage {
    /// Reaches the server, checks that the bucket is there and the credentials are accepted, and, unless opened
    /// for reading only, finds out what the server can do: about ten small requests under
    /// `<prefix>/.storage/probe/`, most of them at once, which leave nothing behind. What a process that was killed
    /// in between left there is removed.
    ///
    /// A server that is out, or has too much to do, is asked twice more within a second.
    ///
    /// With [`S3Config::remembered`] all of that is left for the first operation that writes, which then fails with
    /// the errors below, and the next one asks again.
    ///
    /// # Errors
    /// - [`Misconfigured`](ErrorKind::Misconfigured): the configuration is wrong, the bucket does not exist, or
    ///   is in another region.
    /// - [`Unauthenticated`](ErrorKind::Unauthenticated): there are no credentials, or the server does not know
    ///   them.
    /// - [`Denied`](ErrorKind::Denied): the caller may not write beneath the prefix.
    /// - [`Unsupported`](ErrorKind::Unsupported): [`S3Config::object_tags`] is set and the server keeps none; it does
    ///   not store as [`S3Config::storage_class`] or [`S3Config::encryption`] say.
    /// - [`Unavailable`](ErrorKind::Unavailable): no endpoint can be reached.
    pub async fn connect(config: S3Config) -> Result<Self> {
        let read_only = config.access == Access::ReadOnly;
        let remembered = config.remembered.as_deref().filter(|_| !read_only).map(Features::from_capabilities);
        let inner = Inner::new(config, remembered.unwrap_or(Features::UNPROBED)).await?;
        let storage = Self { inner: Arc::new(inner) };
        let mut waits = OPENING_WAITS.iter();
        loop {
            let asked = if read_only {
                storage.inner.check_bucket(Op::Open).await.map_err(|error| storage.inner.explain_open(error))
            } else if remembered.is_none() {
                storage.ask().await
            } else {
                Ok(())
            };
            match (asked, waits.next()) {
                (Err(error), Some(wait)) if error.is_outage() => {
                    tracing::info!(%error, "the storage is opened once more");
                    tokio::time::sleep(*wait).await;
                }
                (asked, _) => return asked.map(|()| storage),
            }
        }
    }

    /// Asks the server what it can do, unless that was done.
    async fn ask(&self) -> Result<()> {
        if !self.inner.asked.initialized() {
            self.inner.asked.get_or_try_init(|| Box::pin(ask(&self.inner))).await?;
        }
        Ok(())
    }

    /// What every operation that writes begins with.
    async fn writable(&self, op: Op) -> Result<()> {
        self.inner.writable(op)?;
        self.ask().await
    }

    /// Takes the capabilities of the server as known, without a request: for those who have connected before
    /// and kept what [`capabilities`](FileStorage::capabilities) said.
    ///
    /// # Errors
    /// [`Misconfigured`](ErrorKind::Misconfigured): the configuration is wrong.
    pub async fn with_capabilities(config: S3Config, capabilities: &Capabilities) -> Result<Self> {
        let known = Features::from_capabilities(capabilities);
        let inner =
            Inner { asked: Arc::new(OnceCell::new_with(Some(known))), ..Inner::new(config, known).await? };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Copies objects greater than `bytes` in parts; default: 5 GiB, the greatest that one request copies.
    ///
    /// For servers behind proxies that give up before a long copy answers.
    #[must_use]
    pub fn with_copy_limit(self, bytes: u64) -> Self {
        Self { inner: Arc::new(Inner { copy_limit: bytes.min(MAX_COPY), ..self.inner.share() }) }
    }
}

impl fmt::Debug for S3Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Storage")
            .field("name", &self.inner.config.name)
            .field("bucket", &self.inner.config.bucket)
            .field("prefix", &self.inner.config.prefix)
            .field("endpoints", &self.inner.config.endpoints)
            .finish_non_exhaustive()
    }
}

/// Finds out what the server can do; nothing of what is assumed has a part in it.
async fn ask(inner: &Inner) -> Result<Features> {
    let inner = Inner { assumed: Features::UNPROBED, asked: Arc::default(), ..inner.share() };
    inner.check_bucket(Op::Open).await.map_err(|error| inner.explain_open(error))?;
    let inner = Arc::new(inner);
    let (features, ()) = futures::join!(Box::pin(Features::probe(&inner)), canary::sweep(&inner));
    features.map_err(|error| inner.explain_open(error))
}

impl Inner {
    async fn new(config: S3Config, assumed: Features) -> Result<Self> {
        config.check()?;
        let clients = Arc::new(Clients::build(&config).await);
        let sdk = Sdk { clients: Arc::clone(&clients), bucket: config.bucket.clone() };
        Ok(Self {
            key_prefix: config.key_prefix(),
            carrier: Arc::new(Fastest::new(sdk)),
            clients,
            assumed,
            asked: Arc::default(),
            part_permits: Arc::new(Semaphore::new(config.parts_in_flight)),
            storing: Arc::new(Storing {
                class: config.storage_class.clone(),
                encryption: config.encryption.clone(),
            }),
            copy_limit: MAX_COPY,
            config,
        })
    }

    fn share(&self) -> Self {
        Self {
            config: self.config.clone(),
            key_prefix: self.key_prefix.clone(),
            clients: Arc::clone(&self.clients),
            carrier: Arc::clone(&self.carrier),
            assumed: self.assumed,
            asked: Arc::clone(&self.asked),
            part_permits: Arc::clone(&self.part_permits),
            storing: Arc::clone(&self.storing),
            copy_limit: self.copy_limit,
        }
    }

    fn features(&self) -> &Features {
        self.asked.get().unwrap_or(&self.assumed)
    }

    /// Lists one key: the answer to a HEAD would not say what is wrong. A caller who may not list is let
    /// through.
    async fn check_bucket(&self, op: Op) -> Result<()> {
        let request = Request::read(op);
        let answer = self
            .clients
            .call(request, |client| {
                client
                    .list_objects_v2()
                    .bucket(&self.config.bucket)
                    .prefix(&self.key_prefix)
                    .max_keys(1)
                    .send()
            })
            .await;
        match answer {
            Err(error) if error.kind() == ErrorKind::Denied && self.config.access == Access::ReadWrite => {
                tracing::warn!(storage = %self.config.name, %error, "the bucket cannot be listed");
                Ok(())
            }
            other => other.map(|_| ()),
        }
    }

    fn explain_open(&self, error: Error) -> Error {
        let place = match self.config.endpoints.as_slice() {
            [] => format!("bucket \"{}\"", self.config.bucket),
            endpoints => format!("bucket \"{}\" at {}", self.config.bucket, endpoints.join(", ")),
        };
        match error.message() {
            Some(message) => {
                let message = format!("{place}: {message}");
                error.with_message(message)
            }
            None => error.with_message(place),
        }
    }

    fn fail(&self, kind: ErrorKind, op: Op) -> Error {
        Error::new(kind, op).with_storage(&self.config.name)
    }

    /// Returns the key of a user's file.
    fn key(&self, id: &FileId, op: Op) -> Result<String> {
        if id.segments().next() == Some(RESERVED) {
            return Err(self
                .fail(ErrorKind::InvalidInput, op)
                .with_id(id)
                .with_message(format!("ids beneath `{RESERVED}` are the storage's own")));
        }
        let key = self.any_key(id);
        if key.len() > MAX_ID_BYTES {
            return Err(self.fail(ErrorKind::InvalidInput, op).with_id(id).with_message(format!(
                "with its prefix the key has {} bytes, {MAX_ID_BYTES} are allowed",
                key.len()
            )));
        }
        Ok(key)
    }

    /// Returns the key of any file, the storage's own included.
    fn any_key(&self, id: &FileId) -> String {
        format!("{}{id}", self.key_prefix)
    }

    fn writable(&self, op: Op) -> Result<()> {
        match self.config.access {
            Access::ReadOnly => {
                Err(self.fail(ErrorKind::Denied, op).with_message("the storage is opened for reading only"))
            }
            Access::ReadWrite => Ok(()),
        }
    }

    /// Refuses a precondition that the server would ignore.
    fn honours(&self, when: &Precondition, op: Op) -> Result<()> {
        let (honoured, header) = match when {
            Precondition::None => return Ok(()),
            Precondition::Absent => (self.features().create, "If-None-Match"),
            Precondition::Version(_) => (self.features().replace, "If-Match"),
        };
        if honoured {
            return Ok(());
        }
        Err(self.fail(ErrorKind::Unsupported, op).with_message(format!(
            "the server does not honour {header} on everything that writes, so the precondition would be ignored"
        )))
    }
}

/// The `If-Match` and `If-None-Match` of a precondition.
fn conditions(when: &Precondition) -> (Option<String>, Option<String>) {
    match when {
        Precondition::None => (None, None),
        Precondition::Absent => (None, Some("*".to_owned())),
        Precondition::Version(version) => (Some(version.as_str().to_owned()), None),
    }
}

#[async_trait]
impl FileStorage for S3Storage {
    fn name(&self) -> &str {
        &self.inner.config.name
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.features().capabilities(&self.inner.config)
    }

    async fn upload(&self, id: &FileId, body: Body, options: UploadOptions) -> Result<Receipt> {
        self.writable(Op::Upload).await.map_err(|error| named(error, id))?;
        self.inner.upload(id, body, options).await.map_err(|error| named(error, id))
    }

    async fn download(&self, id: &FileId, options: DownloadOptions) -> Result<Download> {
        self.inner.download(id, options).await.map_err(|error| named(error, id))
    }

    async fn metadata(&self, id: &FileId) -> Result<FileMetadata> {
        self.inner.metadata(id).await.map_err(|error| named(error, id))
    }

    async fn delete(&self, id: &FileId, when: Precondition) -> Result<bool> {
        self.writable(Op::Delete).await.map_err(|error| named(error, id))?;
        self.inner.delete(id, when).await.map_err(|error| named(error, id))
    }

    fn list(&self, prefix: &Prefix, options: ListOptions) -> BoxStream<'static, Result<FileMetadata>> {
        list::list(Arc::clone(&self.inner), prefix, options)
    }

    async fn copy(&self, from: &FileId, to: &FileId, options: UploadOptions) -> Result<Receipt> {
        self.writable(Op::Copy).await.map_err(|error| named(error, to))?;
        Box::pin(copy::copy(self, from, to, options)).await
    }

    async fn presigned_url(&self, id: &FileId, request: PresignRequest) -> Result<PresignedUrl> {
        self.inner.presign(id, request).await.map_err(|error| named(error, id))
    }

    async fn probe(&self, deadline: Duration) -> Result<()> {
        let asked = async {
            if self.inner.config.access == Access::ReadWrite {
                self.ask().await?;
            }
            capabilities::round_trip(&self.inner).await
        };
        match tokio::time::timeout(deadline, asked).await {
            Ok(result) => result,
            Err(_) => Err(self
                .inner
                .fail(ErrorKind::Timeout, Op::Probe)
                .with_message(format!("the canary was not back within {deadline:?}"))),
        }
    }

    fn resumable(&self) -> Option<&dyn ResumableUpload> {
        Some(self)
    }
}

#[async_trait]
impl ResumableUpload for S3Storage {
    fn limits(&self) -> PartLimits {
        PartLimits::S3
    }

    async fn begin(&self, id: &FileId, part_size: u64, options: UploadOptions) -> Result<UploadTicket> {
        self.writable(Op::BeginUpload).await.map_err(|error| named(error, id))?;
        self.inner.begin(id, part_size, options).await.map_err(|error| named(error, id))
    }

    async fn put_part(
        &self,
        ticket: &UploadTicket,
        number: PartNumber,
        bytes: Bytes,
        digest: Digest,
    ) -> Result<PartReceipt> {
        self.writable(Op::PutPart).await.map_err(|error| named(error, &ticket.id))?;
        self.inner.put_part(ticket, number, bytes, digest).await.map_err(|error| named(error, &ticket.id))
    }

    async fn parts(&self, ticket: &UploadTicket) -> Result<Vec<PartReceipt>> {
        self.inner.parts(ticket).await.map_err(|error| named(error, &ticket.id))
    }

    async fn finish(
        &self,
        ticket: &UploadTicket,
        parts: &[PartReceipt],
        finish: FinishOptions,
    ) -> Result<Receipt> {
        self.writable(Op::FinishUpload).await.map_err(|error| named(error, &ticket.id))?;
        self.inner.finish(ticket, parts, finish).await.map_err(|error| named(error, &ticket.id))
    }

    async fn abandon(&self, ticket: &UploadTicket) -> Result<()> {
        self.writable(Op::AbandonUpload).await.map_err(|error| named(error, &ticket.id))?;
        self.inner.abandon(ticket).await.map_err(|error| named(error, &ticket.id))
    }

    async fn stale(&self, older_than: Duration) -> Result<Vec<UploadTicket>> {
        self.inner.stale(older_than).await
    }
}

fn named(error: Error, id: &FileId) -> Error {
    if error.id().is_some() { error } else { error.with_id(id) }
}
