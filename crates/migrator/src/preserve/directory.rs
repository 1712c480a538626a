//! A directory whose files are read and written with their attributes.
//!
//! A file appears with its attributes, or not at all: its storage has them [set](super::preparation) while nobody sees it
//! yet. So a file that only its owner may read is at no moment open to others, and an attribute that cannot be set leaves
//! what was there. A symbolic link appears whole as well, by a rename. Directories are made and then told what they are.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use rustix::fs::{Mode, OFlags};
use storage_core::body::Body;
use storage_core::checksum::Digest;
use storage_core::error::{Effect, Error, ErrorKind, Op, Result};
use storage_core::id::{FileId, Prefix};
use storage_core::metadata::{FileMetadata, Version};
use storage_core::storage::{
    Capabilities, Download, DownloadOptions, FileStorage, FinishOptions, ListOptions, PartLimits, PartNumber,
    PartReceipt, Precondition, PresignRequest, PresignedUrl, Receipt, ResumableUpload, UploadOptions,
    UploadTicket, Verified,
};
use tokio::sync::RwLock;

use super::posix::{Refused, kind_of, read_file, read_link, remove_link, write_link};
use super::preparation::attributes_in;
use super::{Attributes, MARKER, Preserve, Special, TAG, tree};

/// A storage in a directory, and the directory. One that is written to was opened with
/// [`preparation`](super::preparation::preparation), which sets what comes with a file.
#[derive(Debug)]
pub struct PreservingDirectory {
    inner: Arc<dyn FileStorage>,
    root: Arc<OwnedFd>,
    what: Preserve,
    too_large: TooLarge,
    notice: Option<Notice>,
    /// Written to while a directory is, for a moment, open to files that it does not take.
    opening: RwLock<()>,
}

/// What becomes of extended attributes that an object cannot carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TooLarge {
    /// The target refuses the file, which fails.
    #[default]
    Fail,
    /// The largest are left behind until the rest fits into so many bytes, and it is said.
    Skip(usize),
}

/// Is told what was left behind.
#[derive(Clone)]
pub struct Notice(Arc<dyn Fn(&str) + Send + Sync>);

impl Notice {
    /// Takes whoever is to be told.
    pub fn new(tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }
}

impl fmt::Debug for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notice").finish_non_exhaustive()
    }
}

impl PreservingDirectory {
    /// Wraps the storage in the directory `root`.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn new(inner: Arc<dyn FileStorage>, root: &Path, what: Preserve) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty()).map_err(|error| {
            Error::new(kind_of(error), Op::Open).with_storage(inner.name()).with_source(error)
        })?;
        let (too_large, notice) = (TooLarge::default(), None);
        Ok(Self { inner, root: Arc::new(root), what, too_large, notice, opening: RwLock::default() })
    }

    /// Sets what becomes of extended attributes that are too large, and who is told.
    #[must_use]
    pub fn with_too_large(self, too_large: TooLarge, notice: Notice) -> Self {
        Self { too_large, notice: Some(notice), ..self }
    }

    /// Does something with the entry under `id`, where it may block.
    async fn at<T, E, W>(&self, id: &FileId, op: Op, work: W) -> Result<T>
    where
        T: Send + 'static,
        E: Into<Refused> + Send + 'static,
        W: FnOnce(&Arc<OwnedFd>, &Path) -> Result<T, E> + Send + 'static,
    {
        let (root, path) = (Arc::clone(&self.root), PathBuf::from(id.as_str()));
        let done = tokio::task::spawn_blocking(move || work(&root, &path)).await;
        let failed = |kind| Error::new(kind, op).with_id(id).with_storage(self.inner.name());
        match done.map(|done| done.map_err(Into::into)) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(refused)) => {
                Err(failed(refused.kind()).with_message(refused.to_string()).with_source(refused))
            }
            Err(error) => Err(failed(ErrorKind::Other).with_source(error)),
        }
    }

    /// Returns the link under `id`, where there is one and links are kept.
    async fn link(&self, id: &FileId, op: Op) -> Result<Option<FileMetadata>> {
        if !self.what.symlinks {
            return Ok(None);
        }
        let what = self.what;
        match self.at(id, op, move |root, path| read_link(root, path, what)).await {
            Ok(found) => Ok(found.map(|(attributes, version)| as_file(id, &attributes, version))),
            // The storage says itself what there is not.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the directory that `id` stands for, where directories are kept and it stands for one.
    async fn directory(&self, id: &FileId, op: Op) -> Result<Option<FileMetadata>> {
        let (what, Some(path)) = (self.what, tree::directory_of(id).filter(|_| self.what.directories)) else {
            return Ok(None);
        };
        let path = path.to_owned();
        let _as_it_is = self.opening.read().await;
        let (attributes, version) = self.at(id, op, move |root, _| tree::read(root, &path, what)).await?;
        Ok(Some(as_file(id, &attributes, version)))
    }

    async fn upload_directory(
        &self,
        id: &FileId,
        attributes: Attributes,
        options: &UploadOptions,
    ) -> Result<Receipt> {
        if options.when != Precondition::None {
            let refused = Error::new(ErrorKind::Unsupported, Op::Upload).with_id(id);
            return Err(refused.with_message("a directory is written without a precondition only"));
        }
        let Some(path) = tree::directory_of(id).map(str::to_owned) else {
            let message = format!("it stands for a directory, and its name does not end in /{MARKER}");
            return Err(Error::new(ErrorKind::InvalidInput, Op::Upload).with_id(id).with_message(message));
        };
        let what = self.what;
        let write = || {
            let (path, attributes) = (path.clone(), attributes.clone());
            self.at(id, Op::Upload, move |root, _| tree::write(root, &path, &attributes, what))
        };
        let written = if self.what.mode && attributes.mode.is_some_and(tree::is_closed) {
            // Not while somebody has it opened for a file.
            let _one_at_a_time = self.opening.write().await;
            match write().await {
                Err(error) if error.kind() == ErrorKind::Denied => {
                    self.while_open(id, Op::Upload, write).await
                }
                other => other,
            }
        } else {
            self.opened_up(id, Op::Upload, write).await
        };
        let version = written.map_err(|error| error.with_effect(Effect::Unknown))?;
        let mut metadata = FileMetadata::new(id.clone(), 0);
        metadata.version = Some(version);
        Ok(Receipt::new(metadata, Some(Digest::of(b"")), Verified::No))
    }

    /// Changes something beneath directories, which may have been told to take nothing: then they are opened for it.
    async fn opened_up<T, F>(&self, id: &FileId, op: Op, change: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        match change().await {
            Err(error) if error.kind() == ErrorKind::Denied && self.what.directories => {}
            other => return other,
        }
        let _one_at_a_time = self.opening.write().await;
        self.while_open(id, op, change).await
    }

    /// Opens directories for a change, for whoever has the lock.
    async fn while_open<T, F>(&self, id: &FileId, op: Op, change: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let above = id.clone();
        let _opened = self.at(id, op, move |root, _| Ok::<_, Refused>(tree::open_up(root, &above))).await?;
        change().await
    }

    /// Makes the directories above an entry what they are to be again, after it came or went.
    async fn settle(&self, id: &FileId, op: Op) -> Result<()> {
        if !self.what.directories {
            return Ok(());
        }
        let put = id.clone();
        let work = move |root: &Arc<OwnedFd>, _: &Path| {
            tree::settle(root, &put);
            Ok::<_, Refused>(tree::left_open(root, &put))
        };
        if self.at(id, op, work).await?.is_empty() {
            return Ok(());
        }
        // Whoever was at work on them has ended.
        let _one_at_a_time = self.opening.write().await;
        let put = id.clone();
        let work = move |root: &Arc<OwnedFd>, _: &Path| {
            tree::close(root, &tree::left_open(root, &put));
            Ok::<_, Refused>(())
        };
        self.at(id, op, work).await
    }

    /// Puts a file where a link may stand, which the storage does not take for its own: then the link goes first.
    async fn in_place_of_a_link<F>(&self, id: &FileId, put: impl Fn() -> F) -> Result<Receipt>
    where
        F: Future<Output = Result<Receipt>>,
    {
        match self.opened_up(id, Op::Upload, &put).await {
            Err(error) if error.kind() == ErrorKind::NotAFile && self.remove_link(id, Op::Upload).await? => {}
            other => return other,
        }
        self.opened_up(id, Op::Upload, &put).await
    }

    /// Removes the link under `id`; false where links are not kept, or none is there.
    async fn remove_link(&self, id: &FileId, op: Op) -> Result<bool> {
        let Some(version) = self.link(id, op).await?.and_then(|link| link.version) else { return Ok(false) };
        self.opened_up(id, op, || {
            let version = version.clone();
            self.at(id, op, move |root, path| remove_link(root, path, &version))
        })
        .await
    }

    /// Refuses what came with a file and cannot be made here, before its bytes come; returns what is made without bytes.
    fn special(&self, id: &FileId, options: &UploadOptions, op: Op) -> Result<Option<Attributes>> {
        let refused = |kind, message: String| Err(Error::new(kind, op).with_id(id).with_message(message));
        let Some(text) = options.tags.get(TAG) else {
            if self.what.directories && tree::directory_of(id).is_some() {
                return Err(tree::reserved(id, op));
            }
            return Ok(None);
        };
        let attributes = attributes_in(text).map_err(|error| error.with_op(op).with_id(id))?;
        let Some(there) = attributes.special() else { return Ok(None) };
        let (choice, kept) = match there {
            Special::Directory => ("directories", self.what.directories),
            Special::Link(_) => ("symlinks", self.what.symlinks),
        };
        if !kept {
            let message = format!("it stands for {there}: --preserve {choice} makes one of it");
            return refused(ErrorKind::NotAFile, message);
        }
        if op != Op::Upload {
            return refused(ErrorKind::InvalidInput, format!("it stands for {there}, which has no parts"));
        }
        Ok(Some(attributes))
    }

    /// Leaves behind what an object cannot carry, where that is wanted.
    fn lighten(&self, metadata: &FileMetadata, attributes: &mut Attributes) {
        let TooLarge::Skip(most) = self.too_large else { return };
        // What else travels with it; a byte of a name may take three.
        let tags = metadata.tags.iter().filter(|(key, _)| *key != TAG);
        let beside: usize = tags.map(|(key, value)| 3 * (key.len() + value.len())).sum();
        let beside = beside + 3 * metadata.file_name.as_ref().map_or(0, String::len);
        while attributes.to_text().len() + beside > most {
            let largest = attributes.xattrs.iter().max_by_key(|(name, value)| name.len() + value.len());
            let Some((name, size)) = largest.map(|(name, value)| (name.clone(), value.len())) else { return };
            attributes.xattrs.remove(&name);
            if let Some(Notice(tell)) = &self.notice {
                let (id, name) = (metadata.id.as_str(), String::from_utf8_lossy(&name));
                tell(&format!(
                    "{id}: its extended attribute {name} of {size} bytes does not fit an object and is left behind"
                ));
            }
        }
    }

    fn parts_of(&self, op: Op) -> Result<&dyn ResumableUpload> {
        self.inner.resumable().ok_or_else(|| Error::new(ErrorKind::Unsupported, op).with_storage(self.name()))
    }

    /// Adds the attributes of the file under `id` to what the storage knows of it.
    async fn describe(&self, metadata: &mut FileMetadata, op: Op) -> Result<()> {
        let what = self.what;
        let mut attributes = self.at(&metadata.id, op, move |root, path| read_file(root, path, what)).await?;
        if op == Op::Download {
            self.lighten(metadata, &mut attributes);
        }
        // One that came with the file from elsewhere is of another time.
        metadata.tags.remove(TAG);
        if attributes != Attributes::default() {
            metadata.tags.insert(TAG.to_owned(), attributes.to_text());
        }
        Ok(())
    }

    async fn upload_link(
        &self,
        id: &FileId,
        attributes: Attributes,
        options: &UploadOptions,
    ) -> Result<Receipt> {
        if options.when != Precondition::None {
            let refused = Error::new(ErrorKind::Unsupported, Op::Upload).with_id(id);
            return Err(refused.with_message("a symbolic link is written without a precondition only"));
        }
        let what = self.what;
        let version =
            self.at(id, Op::Upload, move |root, path| write_link(root, path, &attributes, what)).await;
        let version = version.map_err(|error| error.with_effect(Effect::Unknown))?;
        let mut metadata = FileMetadata::new(id.clone(), 0);
        metadata.version = Some(version);
        Ok(Receipt::new(metadata, Some(Digest::of(b"")), Verified::No))
    }
}

/// A link or a directory, as an object without bytes.
pub(super) fn as_file(id: &FileId, attributes: &Attributes, version: Version) -> FileMetadata {
    let mut file = FileMetadata::new(id.clone(), 0);
    file.digest = Some(Digest::of(b""));
    file.version = Some(version);
    file.tags.insert(TAG.to_owned(), attributes.to_text());
    file
}

fn check(id: &FileId, found: &FileMetadata, when: &Precondition) -> Result<()> {
    match when {
        Precondition::Version(version) if found.version.as_ref() != Some(version) => {
            Err(Error::new(ErrorKind::VersionMismatch, Op::Download).with_id(id))
        }
        _ => Ok(()),
    }
}

impl PreservingDirectory {
    /// The listing of files, and of links where they are kept.
    fn list_files(&self, prefix: &Prefix, options: ListOptions) -> BoxStream<'static, Result<FileMetadata>> {
        if !self.what.symlinks {
            return self.inner.list(prefix, options);
        }
        let told = options.report_foreign;
        let (root, what) = (Arc::clone(&self.root), self.what);
        let entries = self.inner.list(prefix, options.with_report_foreign());
        entries
            .filter_map(move |entry| {
                let root = Arc::clone(&root);
                async move {
                    let error = match entry {
                        Err(error) if error.kind() == ErrorKind::NotAFile => error,
                        other => return Some(other),
                    };
                    let id = error.id().cloned().or_else(|| FileId::parse(error.subject()?).ok());
                    let found = match &id {
                        Some(id) => {
                            let path = PathBuf::from(id.as_str());
                            tokio::task::spawn_blocking(move || read_link(&root, &path, what)).await.ok()
                        }
                        None => None,
                    };
                    match (id, found) {
                        (Some(id), Some(Ok(Some((attributes, version))))) => {
                            Some(Ok(as_file(&id, &attributes, version)))
                        }
                        _ if told => Some(Err(error)),
                        _ => None,
                    }
                }
            })
            .boxed()
    }

    /// As [`lighten`](Self::lighten), of what has its attributes in its tag already.
    fn lighten_object(&self, object: &mut FileMetadata) {
        let attributes = object.tags.get(TAG).and_then(|text| Attributes::parse(text));
        if let Some(mut attributes) = attributes {
            self.lighten(object, &mut attributes);
            object.tags.insert(TAG.to_owned(), attributes.to_text());
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl FileStorage for PreservingDirectory {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn upload(&self, id: &FileId, body: Body, options: UploadOptions) -> Result<Receipt> {
        let receipt = match self.special(id, &options, Op::Upload)? {
            Some(attributes) if attributes.directory => {
                return self.upload_directory(id, attributes, &options).await;
            }
            Some(link) => {
                let put = || self.upload_link(id, link.clone(), &options);
                self.opened_up(id, Op::Upload, put).await?
            }
            None => {
                let put = || self.inner.upload(id, body.clone(), options.clone());
                self.in_place_of_a_link(id, put).await?
            }
        };
        self.settle(id, Op::Upload).await?;
        Ok(receipt)
    }

    async fn download(&self, id: &FileId, options: DownloadOptions) -> Result<Download> {
        if let Some(mut directory) = self.directory(id, Op::Download).await? {
            // It has no bytes that could be of another version.
            self.lighten_object(&mut directory);
            return Ok(Download::new(directory, 0..0, stream::iter([Ok(Bytes::new())]).boxed()));
        }
        if let Some(link) = self.link(id, Op::Download).await? {
            check(id, &link, &options.when)?;
            return Ok(Download::new(link, 0..0, stream::iter([Ok(Bytes::new())]).boxed()));
        }
        let mut download = self.inner.download(id, options).await?;
        self.describe(&mut download.metadata, Op::Download).await?;
        Ok(download)
    }

    async fn metadata(&self, id: &FileId) -> Result<FileMetadata> {
        if let Some(directory) = self.directory(id, Op::Metadata).await? {
            return Ok(directory);
        }
        if let Some(link) = self.link(id, Op::Metadata).await? {
            return Ok(link);
        }
        let mut metadata = self.inner.metadata(id).await?;
        self.describe(&mut metadata, Op::Metadata).await?;
        Ok(metadata)
    }

    async fn delete(&self, id: &FileId, when: Precondition) -> Result<bool> {
        let op = Op::Delete;
        let link = self.link(id, op).await?;
        let directory = tree::directory_of(id).filter(|_| self.what.directories).map(str::to_owned);
        if let Some(link) = &link {
            check(id, link, &when).map_err(|error| error.with_op(op))?;
        }
        let version = link.and_then(|link| link.version);
        let change = async || match (&directory, &version) {
            (Some(path), _) => {
                let path = path.clone();
                self.at(id, op, move |root, _| tree::forget(root, &path)).await
            }
            (None, Some(version)) => {
                let (version, gone) = (version.clone(), id.clone());
                let work = move |root: &Arc<OwnedFd>, path: &Path| {
                    Ok::<_, Refused>(remove_link(root, path, &version)? && tree::prune(root, &gone).is_ok())
                };
                self.at(id, op, work).await
            }
            (None, None) => self.inner.delete(id, when.clone()).await,
        };
        let deleted = self.opened_up(id, op, change).await?;
        if directory.is_none() {
            self.settle(id, op).await?;
        }
        Ok(deleted)
    }

    fn list(&self, prefix: &Prefix, options: ListOptions) -> BoxStream<'static, Result<FileMetadata>> {
        if self.what.directories {
            let (root, name, after) =
                (Arc::clone(&self.root), self.name().to_owned(), options.start_after.clone());
            let directories = tree::list(root, name, self.what, prefix.clone(), after);
            return tree::merged(self.list_files(prefix, options), directories).boxed();
        }
        self.list_files(prefix, options)
    }

    async fn copy(&self, from: &FileId, to: &FileId, options: UploadOptions) -> Result<Receipt> {
        if let Some(mut directory) = self.directory(from, Op::Copy).await? {
            // Nothing of it is lost that could be kept elsewhere.
            directory.id = to.clone();
            return Ok(Receipt::new(directory, Some(Digest::of(b"")), Verified::No));
        }
        if let Some(link) = self.link(from, Op::Copy).await? {
            let text = link.tags.get(TAG).map(String::as_str).unwrap_or_default();
            let link = attributes_in(text).map_err(|error| error.with_op(Op::Copy).with_id(from))?;
            return self.opened_up(to, Op::Copy, || self.upload_link(to, link.clone(), &options)).await;
        }
        // The attributes travel as they do between storages.
        let stored = self.metadata(from).await?;
        let mut tags = if options.tags.is_empty() { stored.tags.clone() } else { options.tags.clone() };
        tags.extend(stored.tags.get_key_value(TAG).map(|(key, text)| (key.clone(), text.clone())));
        let mut options = options;
        options.tags = tags;
        self.opened_up(to, Op::Copy, || self.inner.copy(from, to, options.clone())).await
    }

    async fn presigned_url(&self, id: &FileId, request: PresignRequest) -> Result<PresignedUrl> {
        self.inner.presigned_url(id, request).await
    }

    async fn probe(&self, deadline: Duration) -> Result<()> {
        self.inner.probe(deadline).await
    }

    fn resumable(&self) -> Option<&dyn ResumableUpload> {
        self.inner.resumable().map(|_| self as &dyn ResumableUpload)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ResumableUpload for PreservingDirectory {
    fn limits(&self) -> PartLimits {
        self.inner.resumable().map_or(PartLimits::S3, ResumableUpload::limits)
    }

    async fn begin(&self, id: &FileId, part_size: u64, options: UploadOptions) -> Result<UploadTicket> {
        self.special(id, &options, Op::BeginUpload)?;
        self.parts_of(Op::BeginUpload)?.begin(id, part_size, options).await
    }

    async fn put_part(
        &self,
        ticket: &UploadTicket,
        number: PartNumber,
        bytes: Bytes,
        digest: Digest,
    ) -> Result<PartReceipt> {
        self.parts_of(Op::PutPart)?.put_part(ticket, number, bytes, digest).await
    }

    async fn parts(&self, ticket: &UploadTicket) -> Result<Vec<PartReceipt>> {
        self.parts_of(Op::ListParts)?.parts(ticket).await
    }

    async fn finish(
        &self,
        ticket: &UploadTicket,
        parts: &[PartReceipt],
        finish: FinishOptions,
    ) -> Result<Receipt> {
        let uploads = self.parts_of(Op::FinishUpload)?;
        let put = || uploads.finish(ticket, parts, finish.clone());
        let receipt = self.in_place_of_a_link(&ticket.id, put).await?;
        self.settle(&ticket.id, Op::FinishUpload).await?;
        Ok(receipt)
    }

    async fn abandon(&self, ticket: &UploadTicket) -> Result<()> {
        self.parts_of(Op::AbandonUpload)?.abandon(ticket).await
    }

    async fn stale(&self, older_than: Duration) -> Result<Vec<UploadTicket>> {
        self.parts_of(Op::ListUploads)?.stale(older_than).await
    }
}
