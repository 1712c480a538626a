//! A directory of files as a storage.
//!
//! An id is the path of its file beneath the root, byte for byte; nothing is escaped, and files that were put
//! there by other means are files of the storage. What it keeps for itself is in `.storage`: temporary files,
//! uploads in parts, and attributes where the file system has no extended attributes.

mod attributes;
mod config;
mod error;
mod in_place;
mod janitor;
mod owner;
mod preparation;
mod read;
mod resumable;
mod root;
mod sidecar;
mod staged;
mod syncer;
mod walk;
mod xattr;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{TryStream, TryStreamExt, future};

use self::attributes::Attributes;
pub use self::config::{Durability, LocalConfig};
pub use self::janitor::Swept;
use self::root::Root;
use self::staged::{Intent, Publication, Staged, blocking};
use crate::body::{Body, READ_CHUNK, read_file};
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::{FileId, Prefix};
use crate::metadata::FileMetadata;
use crate::presign::UrlSigner;
use crate::storage::{
    Capabilities, Download, DownloadOptions, FileStorage, ListOptions, Precondition, PresignMethod,
    PresignRequest, PresignedUrl, Receipt, ResumableUpload, UploadOptions,
};

/// A directory of files.
///
/// Uploads are written to a temporary file, synced and renamed into place, so readers see whole files only and
/// an acknowledged one survives a power cut ([`Durability`]). Content type, original name, times, tags and
/// digest are an extended attribute of the file. A file that is edited in place by other means keeps them,
/// except for the digest, which no longer describes it; a silent change of its bytes is found when it is read.
///
/// No symbolic link is followed, wherever it leads: as the last segment it is
/// [`NotAFile`](ErrorKind::NotAFile), and nothing is found beneath it. `a` and `a/b` cannot both exist
/// ([`Conflict`](ErrorKind::Conflict)). Ids that begin with `.storage/` are refused.
///
/// [`Precondition::Absent`] holds between all users of the directory; [`Precondition::Version`] between the
/// users within one process, as a file system has no rename that compares. Several machines may write to one
/// directory only where file locks hold between them (not on NFS mounted with `local_lock`): else one would remove
/// the temporary files of another, whose uploads would fail.
///
/// With a base URL and a key ([`LocalConfig::presign`]) it has presigned URLs, which a router serves (module `http`,
/// with the feature of that name).
///
/// A clone is a reference count.
#[derive(Clone, Debug)]
pub struct LocalStorage {
    root: Arc<Root>,
    name: Arc<str>,
    signer: Option<UrlSigner>,
}

impl LocalStorage {
    /// Opens the directory. For writing, the storage's own directory is made where there is none, and temporary
    /// files left behind by a crash are removed.
    ///
    /// # Errors
    /// - [`Misconfigured`](ErrorKind::Misconfigured): the root does not exist or is no directory, or the
    ///   storage's own directory lies on another file system, or a key file holds no key.
    /// - [`Denied`](ErrorKind::Denied): the process may not read it, or write where that is asked for.
    pub async fn open(config: LocalConfig) -> Result<Self> {
        let name: Arc<str> = config.name.as_str().into();
        let work = move || {
            let signer = config.signer()?;
            let root = Root::open(&config)?;
            if !root.read_only() {
                let swept = janitor::sweep_temp(&root, config.temp_age, Op::Open)?;
                if swept != Swept::default() {
                    tracing::info!(?swept, root = %root.path.display(), "removed what a crash left behind");
                }
            }
            Ok((root, signer))
        };
        let (root, signer) = blocking(Op::Open, work).await.map_err(|error| error.with_storage(&name))?;
        Ok(Self { root: Arc::new(root), name, signer })
    }

    /// Removes what dead writers left: temporary files and remains of uploads in parts, and sidecars that describe
    /// nothing and were untouched for `older_than`. Opening does so for all but the sidecars, of which there may be
    /// as many as files. Where the file system cannot tell who is writing, `older_than` counts for all.
    ///
    /// # Errors
    /// [`Denied`](ErrorKind::Denied) where the storage was opened for reading only; those of the file system.
    pub async fn sweep(&self, older_than: Duration) -> Result<Swept> {
        let root = Arc::clone(&self.root);
        blocking(Op::Delete, move || janitor::sweep(&root, older_than, Op::Delete))
            .await
            .map_err(|error| error.with_storage(&self.name))
    }

    fn named(&self, error: Error, id: &FileId) -> Error {
        // The reading of a body that comes from elsewhere is not this storage's failure.
        match error.op() {
            Op::ReadBody => error.with_id(id),
            _ => error.with_id(id).with_storage(&self.name),
        }
    }

    async fn put(&self, id: &FileId, body: Body, options: UploadOptions) -> Result<Receipt> {
        const OP: Op = Op::Upload;
        self.check_target(id, OP)?;
        let intent = Intent::new();
        let publication = Publication {
            id: id.clone(),
            op: OP,
            attributes: Attributes::new(id, &options, OP)?,
            when: options.when,
            expected: options.digest.into_iter().collect(),
            permit: intent.permit(),
        };
        let root = Arc::clone(&self.root);
        if let Some(bytes) = body.in_memory().cloned() {
            let known = body.known_digest();
            return blocking(OP, move || {
                let mut staged = Staged::create(&root, OP)?;
                staged.write_all(&bytes, known, OP)?;
                staged.publish(publication)
            })
            .await;
        }
        let staged = stage(&root, body.open().await?, OP).await?;
        if staged.size() != body.size() {
            return Err(Error::new(ErrorKind::SourceChanged, Op::ReadBody).with_message(format!(
                "{} bytes came where {} were announced",
                staged.size(),
                body.size()
            )));
        }
        blocking(OP, move || staged.publish(publication)).await
    }

    async fn copy_file(&self, from: &FileId, to: &FileId, options: UploadOptions) -> Result<Receipt> {
        const OP: Op = Op::Copy;
        self.root.check_id(from, OP)?;
        self.check_target(to, OP)?;
        let intent = Intent::new();
        let (root, source) = (Arc::clone(&self.root), from.clone());
        let opened =
            blocking(OP, move || root.open_file(&source, OP)).await.map_err(|error| error.with_id(from))?;
        let known = opened.metadata(from);
        let mut attributes = match opened.attributes {
            Some(attributes) => Attributes { composite: known.composite, upload: None, ..attributes },
            None => Attributes::new(from, &UploadOptions::default(), OP)?,
        };
        attributes.override_with(&options, OP)?;
        let bytes = read_file(Arc::new(opened.file), root::identity(&opened.stat), 0..known.size)
            .map_err(|error| error.with_op(OP));
        let staged = stage(&self.root, bytes, OP).await?;
        let publication = Publication {
            id: to.clone(),
            op: OP,
            attributes,
            when: options.when,
            // A copy of rotten bytes would be a file that nobody doubts.
            expected: known.digest.into_iter().chain(options.digest).collect(),
            permit: intent.permit(),
        };
        blocking(OP, move || staged.publish(publication)).await
    }

    fn sign(&self, id: &FileId, request: &PresignRequest) -> Result<PresignedUrl> {
        self.root.check_id(id, Op::Presign)?;
        let signer = self.signer.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, Op::Presign).with_message(
                "a directory has URLs only where `presign` names the base URL and the file with the key",
            )
        })?;
        if request.method == PresignMethod::Put {
            self.check_target(id, Op::Presign)?;
        }
        signer.sign(id, request, SystemTime::now())
    }

    fn check_target(&self, id: &FileId, op: Op) -> Result<()> {
        self.root.private(op)?;
        self.root.check_id(id, op)?;
        self.root.check_segments(id, op)
    }
}

/// Writes a stream to a temporary file; the next bytes are fetched while the last ones are written.
async fn stage<S>(root: &Arc<Root>, mut bytes: S, op: Op) -> Result<Staged>
where
    S: TryStream<Ok = Bytes, Error = Error> + Unpin,
{
    let root = Arc::clone(root);
    let (staged, batch) =
        future::join(blocking(op, move || Staged::create(&root, op)), next_batch(&mut bytes)).await;
    let (mut staged, mut batch) = (staged?, batch?);
    while !batch.is_empty() {
        let writing = blocking(op, move || {
            batch.iter().try_for_each(|piece| staged.write(piece, op))?;
            Ok(staged)
        });
        let (written, next) = future::join(writing, next_batch(&mut bytes)).await;
        (staged, batch) = (written?, next?);
    }
    Ok(staged)
}

/// Gathers pieces until the hop to a blocking thread is worth it; nothing at the end.
async fn next_batch<S>(bytes: &mut S) -> Result<Vec<Bytes>>
where
    S: TryStream<Ok = Bytes, Error = Error> + Unpin,
{
    let (mut batch, mut length) = (Vec::new(), 0);
    while length < READ_CHUNK {
        match bytes.try_next().await? {
            Some(piece) if piece.is_empty() => {}
            Some(piece) => {
                length += piece.len();
                batch.push(piece);
            }
            None => break,
        }
    }
    Ok(batch)
}

#[async_trait]
impl FileStorage for LocalStorage {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        let writable = !self.root.read_only();
        Capabilities {
            conditional_create: writable,
            conditional_replace: writable,
            conditional_delete: writable,
            composite_sha256: true,
            tags: true,
            presigned_get: self.signer.is_some(),
            presigned_put: self.signer.is_some() && writable,
            resumable: writable,
            read_only: !writable,
            max_segment_bytes: Some(self.root.max_segment),
            ..Capabilities::default()
        }
    }

    async fn upload(&self, id: &FileId, body: Body, options: UploadOptions) -> Result<Receipt> {
        self.put(id, body, options).await.map_err(|error| self.named(error, id))
    }

    async fn download(&self, id: &FileId, options: DownloadOptions) -> Result<Download> {
        #[cfg(target_os = "linux")]
        if options.range.is_none()
            && self.root.check_id(id, Op::Download).is_ok()
            && let Some(cached) = self.root.read_cached(id)
        {
            return cached.download(id, &options, &self.name).map_err(|error| self.named(error, id));
        }
        let (root, name, asked) = (Arc::clone(&self.root), Arc::clone(&self.name), id.clone());
        blocking(Op::Download, move || {
            root.check_id(&asked, Op::Download)?;
            root.open_file(&asked, Op::Download)?.download(&asked, &options, &name)
        })
        .await
        .map_err(|error| self.named(error, id))
    }

    async fn metadata(&self, id: &FileId) -> Result<FileMetadata> {
        let (root, asked) = (Arc::clone(&self.root), id.clone());
        blocking(Op::Metadata, move || {
            root.check_id(&asked, Op::Metadata)?;
            Ok(root.open_file(&asked, Op::Metadata)?.metadata(&asked))
        })
        .await
        .map_err(|error| self.named(error, id))
    }

    async fn delete(&self, id: &FileId, when: Precondition) -> Result<bool> {
        let intent = Intent::new();
        let (root, asked, permit) = (Arc::clone(&self.root), id.clone(), intent.permit());
        blocking(Op::Delete, move || {
            root.check_id(&asked, Op::Delete)?;
            staged::delete(&root, &asked, &when, &permit)
        })
        .await
        .map_err(|error| self.named(error, id))
    }

    fn list(&self, prefix: &Prefix, options: ListOptions) -> BoxStream<'static, Result<FileMetadata>> {
        walk::list(Arc::clone(&self.root), self.name.to_string(), prefix, options)
    }

    async fn copy(&self, from: &FileId, to: &FileId, options: UploadOptions) -> Result<Receipt> {
        self.copy_file(from, to, options).await.map_err(|error| match error.id() {
            Some(_) => error.with_storage(&self.name),
            None => self.named(error, to),
        })
    }

    async fn presigned_url(&self, id: &FileId, request: PresignRequest) -> Result<PresignedUrl> {
        self.sign(id, &request).map_err(|error| self.named(error, id))
    }

    async fn probe(&self, deadline: Duration) -> Result<()> {
        let root = Arc::clone(&self.root);
        let work = blocking(Op::Probe, move || janitor::probe(&root));
        match tokio::time::timeout(deadline, work).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(ErrorKind::Timeout, Op::Probe)
                .with_message(format!("no answer within {deadline:?}"))),
        }
        .map_err(|error| error.with_storage(&self.name))
    }

    fn resumable(&self) -> Option<&dyn ResumableUpload> {
        if self.root.read_only() {
            return None;
        }
        Some(self)
    }
}
