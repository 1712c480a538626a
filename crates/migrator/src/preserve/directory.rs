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
use std::fmt;
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
use tokio::sync::RwLock;

use super::{Attributes, MARKER, Preserve, TAG, tree};

/// Where the storage keeps what it knows of a file itself.
const OWN_XATTRS: &[u8] = b"user.storage.";

/// No link on the way is followed, and nothing leads out of the directory.
pub(super) const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

/// A storage in a directory, and the directory.
///
/// Files are sent whole, not in parts: attributes come with the beginning of an upload and are set at its end.
#[derive(Debug)]
pub struct PreservingDirectory {
    inner: Arc<dyn FileStorage>,
    root: Arc<OwnedFd>,
    what: Preserve,
    too_large: TooLarge,
    notice: Option<Notice>,
    /// Written to while a directory is, for a moment, not what it is to be: open to files that it does not take, or taken
    /// away with its last file.
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
        let version = self.opened_up(id, write).await.map_err(|error| error.with_effect(Effect::Unknown))?;
        let mut metadata = FileMetadata::new(id.clone(), 0);
        metadata.version = Some(version);
        Ok(Receipt::new(metadata, Some(Digest::of(b"")), Verified::No))
    }

    /// Puts something beneath directories, which may have been told to take nothing: then they are opened for it.
    async fn opened_up<T, F>(&self, id: &FileId, put: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        match put().await {
            Err(error) if error.kind() == ErrorKind::Denied && self.what.directories => {}
            other => return other,
        }
        let _one_at_a_time = self.opening.write().await;
        let above = id.clone();
        let opened = self.at(id, Op::Upload, move |root, _| Ok(tree::open_up(root, &above))).await?;
        let done = put().await;
        self.at(id, Op::Upload, move |root, _| {
            tree::close(root, &opened);
            Ok(())
        })
        .await?;
        done
    }

    /// Sets the times of the directories above an entry that was put there again.
    async fn settle(&self, id: &FileId, op: Op) -> Result<()> {
        if !self.what.directories {
            return Ok(());
        }
        let put = id.clone();
        self.at(id, op, move |root, _| {
            tree::settle(root, &put);
            Ok(())
        })
        .await
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

pub(super) fn kind_of(error: Errno) -> ErrorKind {
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

/// A link or a directory, as an object without bytes.
pub(super) fn as_file(id: &FileId, attributes: &Attributes, version: Version) -> FileMetadata {
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
    read_open(&open(root, path)?, what)
}

/// Reads the attributes of an open file or directory.
pub(super) fn read_open(file: &OwnedFd, what: Preserve) -> Result<Attributes, Errno> {
    let mut attributes = stat_attributes(&rustix::fs::fstat(file)?, what);
    if what.xattrs {
        for name in names_of_xattrs(file)? {
            let mut value = vec![0; 64 << 10];
            let length = rustix::fs::fgetxattr(file, name.as_slice(), &mut value[..])?;
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
    apply_to(&open(root, path)?, attributes, what)
}

/// As [`apply`], of an open file or directory.
pub(super) fn apply_to(file: &OwnedFd, attributes: &Attributes, what: Preserve) -> Result<(), Errno> {
    if let Some((user, group)) = attributes.owner.filter(|_| what.owner) {
        let stat = rustix::fs::fstat(file)?;
        // Who may not change owners may still keep them.
        if (stat.st_uid, stat.st_gid) != (user, group) {
            rustix::fs::fchown(file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
        }
    }
    if what.xattrs {
        for (name, value) in &attributes.xattrs {
            rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty())?;
        }
    }
    if let Some(mode) = attributes.mode.filter(|_| what.mode) {
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
    }
    if let Some(times) = times(attributes, what) {
        rustix::fs::futimens(file, &times)?;
    }
    rustix::fs::fsync(file)
}

pub(super) fn times(attributes: &Attributes, what: Preserve) -> Option<Timestamps> {
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
        let mut capabilities = self.inner.capabilities();
        capabilities.resumable = false;
        capabilities
    }

    async fn upload(&self, id: &FileId, body: Body, mut options: UploadOptions) -> Result<Receipt> {
        if self.what.directories && tree::directory_of(id).is_some() && !options.tags.contains_key(TAG) {
            return Err(tree::reserved(id, Op::Upload));
        }
        let Some(text) = options.tags.remove(TAG) else {
            let put = || self.inner.upload(id, body.clone(), options.clone());
            let receipt = self.opened_up(id, put).await?;
            self.settle(id, Op::Upload).await?;
            return Ok(receipt);
        };
        let attributes = Attributes::parse(&text).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, Op::Upload)
                .with_id(id)
                .with_message(format!("the tag {TAG:?} does not hold attributes of a file: {text:?}"))
        })?;
        if attributes.directory && self.what.directories {
            return self.upload_directory(id, attributes, &options).await;
        }
        if attributes.directory {
            return Err(Error::new(ErrorKind::NotAFile, Op::Upload)
                .with_id(id)
                .with_message("it stands for a directory: --preserve directories makes one of it"));
        }
        if attributes.link.is_some() && self.what.symlinks {
            let put = || self.upload_link(id, attributes.clone(), &options);
            let receipt = self.opened_up(id, put).await?;
            self.settle(id, Op::Upload).await?;
            return Ok(receipt);
        }
        if attributes.link.is_some() {
            return Err(Error::new(ErrorKind::NotAFile, Op::Upload)
                .with_id(id)
                .with_message("it stands for a symbolic link: --preserve symlinks makes one of it"));
        }
        let put = || self.inner.upload(id, body.clone(), options.clone());
        let mut receipt = self.opened_up(id, put).await?;
        let what = self.what;
        let applied = self.at(id, Op::Upload, move |root, path| apply(root, path, &attributes, what)).await;
        applied.map_err(|error| {
            error
                .with_effect(Effect::Applied)
                .with_message("its bytes are there, its attributes cannot be set")
        })?;
        self.settle(id, Op::Upload).await?;
        let stored = self.inner.metadata(id).await?;
        receipt.metadata.version = stored.version;
        receipt.metadata.modified = stored.modified;
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
        if !self.what.directories {
            return self.inner.delete(id, when).await;
        }
        let what = self.what;
        let _one_at_a_time = self.opening.write().await;
        if let Some(path) = tree::directory_of(id).map(str::to_owned) {
            return self.at(id, Op::Delete, move |root, _| tree::forget(root, &path)).await;
        }
        let above = id.clone();
        let kept = self.at(id, Op::Delete, move |root, _| Ok(tree::remembered(root, &above))).await?;
        let deleted = self.inner.delete(id, when).await?;
        let work = move |root: &OwnedFd, _: &Path| {
            tree::restore(root, &kept, what);
            Ok(())
        };
        self.at(id, Op::Delete, work).await?;
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
