//! Opening a file to read it: one descriptor, and everything that is told of the file comes from it.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use rustix::fs::{AtFlags, FileType, OFlags, Stat, statat};
use rustix::io::Errno;

use super::attributes::{Attributes, metadata};
use super::error::failed;
use super::root::{Root, foreign_name, identity, not_a_file};
use super::xattr;
use crate::body::{READ_CHUNK, read_file, read_whole};
use crate::checksum::VerifyingStream;
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::FileId;
use crate::metadata::FileMetadata;
use crate::storage::{Download, DownloadOptions, Precondition};

/// Bytes up to which a file is copied out of the kernel's memory at once, without leaving the thread: some 20 us.
#[cfg(target_os = "linux")]
const CACHED_AT_MOST: usize = 64 << 10;

/// A regular file that is open.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) stat: Stat,
    pub(super) attributes: Option<Attributes>,
}

impl Opened {
    pub(super) fn metadata(&self, id: &FileId) -> FileMetadata {
        metadata(id, &self.stat, self.attributes.as_ref())
    }

    /// Makes the stream of what `options` ask for.
    pub(super) fn download(self, id: &FileId, options: &DownloadOptions, storage: &str) -> Result<Download> {
        let metadata = self.metadata(id);
        check_version(&options.when, &metadata)?;
        let size = metadata.size;
        let range = match options.range {
            None => 0..size,
            Some(range) => range.resolve(size).ok_or_else(|| {
                Error::new(ErrorKind::InvalidInput, Op::Download)
                    .with_message(format!("range {range:?} of a file of {size} bytes"))
            })?,
        };
        let expected = metadata.expected().filter(|_| range == (0..size) && !options.unverified);
        let (named, name) = (id.clone(), storage.to_owned());
        let told = move |error: Error| error.with_op(Op::Download).with_id(&named).with_storage(&name);
        let identity = identity(&self.stat);
        let bytes = if range.end - range.start <= READ_CHUNK as u64 {
            // Here is a thread that may block: one more hop for a single read would cost more than the read.
            let read = read_whole(&self.file, identity, range.clone()).map_err(told)?;
            stream::iter((!read.is_empty()).then_some(Ok(read))).boxed()
        } else {
            read_file(Arc::new(self.file), identity, range.clone()).map_err(told).boxed()
        };
        let body = match expected {
            Some(_) => VerifyingStream::new(bytes, size, expected, id.clone(), storage).boxed(),
            None => bytes,
        };
        Ok(Download::new(metadata, range, body))
    }
}

fn check_version(when: &Precondition, metadata: &FileMetadata) -> Result<()> {
    match when {
        Precondition::None => Ok(()),
        Precondition::Absent => Err(Error::new(ErrorKind::InvalidInput, Op::Download)
            .with_message("a file that is to be absent cannot be read")),
        Precondition::Version(version) if metadata.version.as_ref() == Some(version) => Ok(()),
        Precondition::Version(_) => Err(Error::new(ErrorKind::VersionMismatch, Op::Download)),
    }
}

/// A small file that the kernel has in memory, with its bytes.
#[derive(Debug)]
pub(super) struct Cached {
    opened: Opened,
    bytes: Bytes,
}

impl Cached {
    /// Makes the stream of the whole file.
    pub(super) fn download(self, id: &FileId, options: &DownloadOptions, storage: &str) -> Result<Download> {
        let Self { opened, bytes } = self;
        let metadata = opened.metadata(id);
        check_version(&options.when, &metadata)?;
        let size = metadata.size;
        let expected = metadata.expected().filter(|_| !options.unverified);
        let bytes = stream::iter((!bytes.is_empty()).then_some(Ok(bytes)));
        let body = match expected {
            Some(_) => VerifyingStream::new(bytes, size, expected, id.clone(), storage).boxed(),
            None => bytes.boxed(),
        };
        Ok(Download::new(metadata, 0..size, body))
    }
}

impl Root {
    /// Reads a small file, with its attributes, if that takes no wait for the disk: path, inode and pages are in
    /// memory. The way to a thread that may block and back costs several times as much as such a read.
    ///
    /// Nothing where it would wait, and wherever anything is out of the ordinary: the usual way then finds out what.
    #[cfg(target_os = "linux")]
    pub(super) fn read_cached(&self, id: &FileId) -> Option<Cached> {
        if self.sidecars().is_some() {
            // Attributes may be in a file of their own.
            return None;
        }
        let file = self.open_cached(id.as_str())?;
        let stat = rustix::fs::fstat(&file).ok()?;
        let size = usize::try_from(stat.st_size).ok().filter(|size| *size <= CACHED_AT_MOST)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return None;
        }
        let mut bytes = vec![0; size];
        if size > 0 {
            let mut into = [std::io::IoSliceMut::new(&mut bytes)];
            let read = rustix::io::preadv2(&file, &mut into, 0, rustix::io::ReadWriteFlags::NOWAIT).ok()?;
            if read != size {
                return None;
            }
        }
        let attributes = xattr::load(self, id, &file, &stat, Op::Download).ok()?;
        let opened = Opened { file, stat, attributes };
        // The same question as after any other read, asked of the same descriptor.
        let held = identity(&opened.stat).holds(&opened.file).ok()?;
        held.then(|| Cached { opened, bytes: bytes.into() })
    }

    /// Opens the file of this id, with its attributes.
    pub(super) fn open_file(&self, id: &FileId, op: Op) -> Result<Opened> {
        loop {
            let file = match self.open_at(id.as_str(), OFlags::RDONLY) {
                Ok(file) => file,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => return Err(self.not_found(op)),
                // A link somewhere on the path, or a socket, or a device without a driver.
                Err(errno @ (Errno::LOOP | Errno::NXIO | Errno::NODEV)) => {
                    return Err(self.explain(id, op, errno));
                }
                Err(errno) => return Err(failed(op, errno)),
            };
            let stat = rustix::fs::fstat(&file).map_err(|errno| failed(op, errno))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => {}
                FileType::Directory => return Err(self.not_found(op)),
                other => return Err(not_a_file(op, foreign_name(other).unwrap_or("device"))),
            }
            let attributes = xattr::load(self, id, &file, &stat, op)?;
            if attributes.is_none() && !self.is_current(&file, op)? {
                // Replaced since it was opened, and its sidecar went with it: the new version is what to read.
                continue;
            }
            return Ok(Opened { file, stat, attributes });
        }
    }

    fn is_current(&self, file: &File, op: Op) -> Result<bool> {
        if self.sidecars().is_none() {
            return Ok(true);
        }
        let stat = rustix::fs::fstat(file).map_err(|errno| failed(op, errno))?;
        Ok(stat.st_nlink > 0)
    }

    fn explain(&self, id: &FileId, op: Op, errno: Errno) -> Error {
        let Ok(parent) = self.parent(id) else { return self.not_found(op) };
        match statat(parent, id.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => match foreign_name(FileType::from_raw_mode(stat.st_mode)) {
                Some(what) => not_a_file(op, what),
                None => failed(op, errno),
            },
            Err(_) => self.not_found(op),
        }
    }
}
