//! A directory whose files are read and written with their attributes.
//!
//! # Order of effects, for one file that is written
//!
//! 1. the file is published, with its bytes and without its attributes
//! 2. owner, mode, extended attributes and, last, the modification time are set on it
//! 3. the caller has the receipt, whose version is the one after that
//!
//! A kill between 1 and 2, or an attribute that may not be set, leaves a whole file with other attributes that no ledger
//! calls copied: the next run writes it again. A symbolic link appears whole, by a rename.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid,
    XattrFlags,
};
use rustix::io::Errno;
use storage_core::body::Body;
use storage_core::checksum::Digest;
use storage_core::error::{Effect, Error, ErrorKind, Op, Result};
use storage_core::id::{FileId, Prefix};
use storage_core::metadata::{FileMetadata, Version};
use storage_core::storage::{
    Capabilities, Download, DownloadOptions, FileStorage, ListOptions, Precondition, PresignRequest,
    PresignedUrl, Receipt, ResumableUpload, UploadOptions, Verified,
};

use super::{Attributes, Preserve, TAG};

/// Where the storage keeps what it knows of a file itself.
const OWN_XATTRS: &[u8] = b"user.storage.";

/// No link on the way is followed, and nothing leads out of the directory.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

/// A storage in a directory, and the directory.
///
/// Files are sent whole, not in parts: attributes come with the beginning of an upload and are set at its end.
#[derive(Debug)]
pub struct PreservingDirectory {
    inner: Arc<dyn FileStorage>,
    root: Arc<OwnedFd>,
    what: Preserve,
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
        Ok(Self { inner, root: Arc::new(root), what })
    }

    /// Does something with the entry under `id`, where it may block.
    async fn at<T, W>(&self, id: &FileId, op: Op, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: FnOnce(&OwnedFd, &Path) -> Result<T, Errno> + Send + 'static,
    {
        let (root, path) = (Arc::clone(&self.root), PathBuf::from(id.as_str()));
        let done = tokio::task::spawn_blocking(move || work(&root, &path)).await;
        let failed = |kind| Error::new(kind, op).with_id(id).with_storage(self.inner.name());
        match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(failed(kind_of(error)).with_source(error)),
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

    /// Adds the attributes of the file under `id` to what the storage knows of it.
    async fn describe(&self, metadata: &mut FileMetadata, op: Op) -> Result<()> {
        let what = self.what;
        let attributes = self.at(&metadata.id, op, move |root, path| read_file(root, path, what)).await?;
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

fn kind_of(error: Errno) -> ErrorKind {
    match error {
        Errno::NOENT | Errno::NOTDIR => ErrorKind::NotFound,
        Errno::ACCESS | Errno::PERM => ErrorKind::Denied,
        Errno::LOOP => ErrorKind::NotAFile,
        Errno::EXIST | Errno::ISDIR | Errno::NOTEMPTY => ErrorKind::Conflict,
        Errno::NOSPC | Errno::DQUOT => ErrorKind::StorageFull,
        Errno::OPNOTSUPP => ErrorKind::Unsupported,
        _ => ErrorKind::Other,
    }
}

/// A link, as an object without bytes.
fn as_file(id: &FileId, attributes: &Attributes, version: Version) -> FileMetadata {
    let mut file = FileMetadata::new(id.clone(), 0);
    file.digest = Some(Digest::of(b""));
    file.version = Some(version);
    file.tags.insert(TAG.to_owned(), attributes.to_text());
    file
}

fn stat_attributes(stat: &Stat, what: Preserve) -> Attributes {
    Attributes {
        mode: what.mode.then_some(stat.st_mode & 0o7777),
        owner: what.owner.then_some((stat.st_uid, stat.st_gid)),
        mtime: what.mtime.then(|| (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0))),
        ..Attributes::default()
    }
}

/// What tells one version of a link from another.
pub(crate) fn link_version(stat: &Stat) -> Version {
    Version::new(format!(
        "link-{:x}-{:x}-{:x}.{:x}-{:x}.{:x}",
        stat.st_dev, stat.st_ino, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec
    ))
}

/// Opens the directory above an entry, and returns the entry's own name.
fn parent<'p>(root: &OwnedFd, path: &'p Path) -> Result<(OwnedFd, &'p OsStr), Errno> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok((rustix::fs::openat2(root, above, flags, Mode::empty(), BENEATH)?, name))
}

fn open(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    // Never waits for whoever would write into a fifo.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(root, path, flags, Mode::empty(), BENEATH)
}

fn read_file(root: &OwnedFd, path: &Path, what: Preserve) -> Result<Attributes, Errno> {
    let file = open(root, path)?;
    let mut attributes = stat_attributes(&rustix::fs::fstat(&file)?, what);
    if what.xattrs {
        for name in names_of_xattrs(&file)? {
            let mut value = vec![0; 64 << 10];
            let length = rustix::fs::fgetxattr(&file, name.as_slice(), &mut value[..])?;
            value.truncate(length);
            attributes.xattrs.insert(name, value);
        }
    }
    Ok(attributes)
}

/// Returns the names of the extended attributes that are users' own.
fn names_of_xattrs(file: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut list = vec![0u8; 64 << 10];
    let length = match rustix::fs::flistxattr(file, &mut list[..]) {
        Ok(length) => length,
        // A file system without them has none.
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error),
    };
    list.truncate(length);
    let names = list.split(|byte| *byte == 0);
    let own = names.filter(|name| name.starts_with(b"user.") && !name.starts_with(OWN_XATTRS));
    Ok(own.map(<[u8]>::to_vec).collect())
}

fn read_link(root: &OwnedFd, path: &Path, what: Preserve) -> Result<Option<(Attributes, Version)>, Errno> {
    let (above, name) = parent(root, path)?;
    let stat = rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        return Ok(None);
    }
    let link = rustix::fs::readlinkat(&above, name, Vec::new())?;
    // A link has no mode of its own.
    let attributes = Attributes { mode: None, link: Some(link.into_bytes()), ..stat_attributes(&stat, what) };
    Ok(Some((attributes, link_version(&stat))))
}

/// Sets the attributes of a file that was just published, the modification time last, as the others change nothing of
/// it, and owner before mode, as a change of owner takes set-user-id away.
fn apply(root: &OwnedFd, path: &Path, attributes: &Attributes, what: Preserve) -> Result<(), Errno> {
    let file = open(root, path)?;
    if let Some((user, group)) = attributes.owner.filter(|_| what.owner) {
        let stat = rustix::fs::fstat(&file)?;
        // Who may not change owners may still keep them.
        if (stat.st_uid, stat.st_gid) != (user, group) {
            rustix::fs::fchown(&file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
        }
    }
    if what.xattrs {
        for (name, value) in &attributes.xattrs {
            rustix::fs::fsetxattr(&file, name.as_slice(), value, XattrFlags::empty())?;
        }
    }
    if let Some(mode) = attributes.mode.filter(|_| what.mode) {
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    }
    if let Some(times) = times(attributes, what) {
        rustix::fs::futimens(&file, &times)?;
    }
    rustix::fs::fsync(&file)
}

fn times(attributes: &Attributes, what: Preserve) -> Option<Timestamps> {
    let (seconds, nanoseconds) = attributes.mtime.filter(|_| what.mtime)?;
    Some(Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() },
    })
}

fn write_link(
    root: &OwnedFd,
    path: &Path,
    attributes: &Attributes,
    what: Preserve,
) -> Result<Version, Errno> {
    let mut above = PathBuf::new();
    for segment in path.parent().into_iter().flat_map(Path::components) {
        above.push(segment);
        let (directory, name) = parent(root, &above)?;
        match rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(0o777)) {
            Ok(()) => rustix::fs::fsync(&directory)?,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    let (above, name) = parent(root, path)?;
    let link = OsStr::from_bytes(attributes.link.as_deref().unwrap_or_default());
    // The storage's own directory for what is not whole yet, which no listing shows.
    let made = rustix::fs::openat2(
        root,
        ".storage/tmp",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        BENEATH,
    )?;
    let temporary = format!("link-{}", hex::encode(Digest::of(path.as_os_str().as_bytes()).as_bytes()));
    match rustix::fs::unlinkat(&made, temporary.as_str(), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    rustix::fs::symlinkat(link, &made, temporary.as_str())?;
    if let Some((user, group)) = attributes.owner.filter(|_| what.owner) {
        let owner = (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
        rustix::fs::chownat(&made, temporary.as_str(), owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    if let Some(times) = times(attributes, what) {
        rustix::fs::utimensat(&made, temporary.as_str(), &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    rustix::fs::renameat(&made, temporary.as_str(), &above, name)?;
    rustix::fs::fsync(&above)?;
    Ok(link_version(&rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW)?))
}

fn check(id: &FileId, found: &FileMetadata, when: &Precondition) -> Result<()> {
    match when {
        Precondition::Version(version) if found.version.as_ref() != Some(version) => {
            Err(Error::new(ErrorKind::VersionMismatch, Op::Download).with_id(id))
        }
        _ => Ok(()),
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl FileStorage for PreservingDirectory {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.inner.capabilities();
        capabilities.resumable = false;
        capabilities
    }

    async fn upload(&self, id: &FileId, body: Body, mut options: UploadOptions) -> Result<Receipt> {
        let Some(text) = options.tags.remove(TAG) else { return self.inner.upload(id, body, options).await };
        let attributes = Attributes::parse(&text).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, Op::Upload)
                .with_id(id)
                .with_message(format!("the tag {TAG:?} does not hold attributes of a file: {text:?}"))
        })?;
        if attributes.link.is_some() && self.what.symlinks {
            return self.upload_link(id, attributes, &options).await;
        }
        if attributes.link.is_some() {
            return Err(Error::new(ErrorKind::NotAFile, Op::Upload)
                .with_id(id)
                .with_message("it stands for a symbolic link: --preserve symlinks makes one of it"));
        }
        let mut receipt = self.inner.upload(id, body, options).await?;
        let what = self.what;
        let applied = self.at(id, Op::Upload, move |root, path| apply(root, path, &attributes, what)).await;
        applied.map_err(|error| {
            error
                .with_effect(Effect::Applied)
                .with_message("its bytes are there, its attributes cannot be set")
        })?;
        let stored = self.inner.metadata(id).await?;
        receipt.metadata.version = stored.version;
        receipt.metadata.modified = stored.modified;
        Ok(receipt)
    }

    async fn download(&self, id: &FileId, options: DownloadOptions) -> Result<Download> {
        if let Some(link) = self.link(id, Op::Download).await? {
            check(id, &link, &options.when)?;
            return Ok(Download::new(link, 0..0, stream::iter([Ok(Bytes::new())]).boxed()));
        }
        let mut download = self.inner.download(id, options).await?;
        self.describe(&mut download.metadata, Op::Download).await?;
        Ok(download)
    }

    async fn metadata(&self, id: &FileId) -> Result<FileMetadata> {
        if let Some(link) = self.link(id, Op::Metadata).await? {
            return Ok(link);
        }
        let mut metadata = self.inner.metadata(id).await?;
        self.describe(&mut metadata, Op::Metadata).await?;
        Ok(metadata)
    }

    async fn delete(&self, id: &FileId, when: Precondition) -> Result<bool> {
        self.inner.delete(id, when).await
    }

    fn list(&self, prefix: &Prefix, options: ListOptions) -> BoxStream<'static, Result<FileMetadata>> {
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

    async fn copy(&self, from: &FileId, to: &FileId, options: UploadOptions) -> Result<Receipt> {
        self.inner.copy(from, to, options).await
    }

    async fn presigned_url(&self, id: &FileId, request: PresignRequest) -> Result<PresignedUrl> {
        self.inner.presigned_url(id, request).await
    }

    async fn probe(&self, deadline: Duration) -> Result<()> {
        self.inner.probe(deadline).await
    }

    fn resumable(&self) -> Option<&dyn ResumableUpload> {
        None
    }
}
