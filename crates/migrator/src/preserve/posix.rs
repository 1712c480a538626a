//! The system calls that read and set what is kept of files, directories and links.

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid,
    XattrFlags,
};
use rustix::io::Errno;
use storage_core::checksum::Digest;
use storage_core::error::ErrorKind;
use storage_core::metadata::Version;

use super::{Attributes, Preserve, is_kept_xattr};

/// No link on the way is followed, and nothing leads out of the directory.
pub(super) const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

/// Set-user-id and set-group-id.
const OF_THE_OWNER: u32 = 0o6000;

/// Why something could not be read or set.
#[derive(Debug)]
pub(super) enum Refused {
    /// A system call failed.
    Errno(Errno),
    /// The file system has no room for an extended attribute; which says nothing of its room for files.
    Xattr { name: Vec<u8>, size: usize, errno: Errno },
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(errno) => errno.fmt(f),
            Self::Xattr { name, size, errno } => write!(
                f,
                "the file system takes no extended attribute {} of {size} bytes: {errno}",
                String::from_utf8_lossy(name)
            ),
        }
    }
}

impl std::error::Error for Refused {}

impl Refused {
    pub(super) fn kind(&self) -> ErrorKind {
        match self {
            Self::Errno(errno) => kind_of(*errno),
            Self::Xattr { .. } => ErrorKind::TooLarge,
        }
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

/// Opens the directory above an entry, and returns the entry's own name.
fn parent<'p>(root: &OwnedFd, path: &'p Path) -> Result<(OwnedFd, &'p OsStr), Errno> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok((rustix::fs::openat2(root, above, flags, Mode::empty(), BENEATH)?, name))
}

/// Reads the attributes of a file.
pub(super) fn read_file(root: &OwnedFd, path: &Path, what: Preserve) -> Result<Attributes, Errno> {
    // Never waits for whoever would write into a fifo.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    read_open(&rustix::fs::openat2(root, path, flags, Mode::empty(), BENEATH)?, what)
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

fn stat_attributes(stat: &Stat, what: Preserve) -> Attributes {
    Attributes {
        mode: what.mode.then_some(stat.st_mode & 0o7777),
        owner: what.owner.then_some((stat.st_uid, stat.st_gid)),
        mtime: what.mtime.then(|| (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0))),
        ..Attributes::default()
    }
}

/// Returns the names of the extended attributes that are users' own.
pub(super) fn names_of_xattrs(file: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut list = vec![0u8; 64 << 10];
    let length = match rustix::fs::flistxattr(file, &mut list[..]) {
        Ok(length) => length,
        // A file system without them has none.
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error),
    };
    list.truncate(length);
    Ok(list.split(|byte| *byte == 0).filter(|name| is_kept_xattr(name)).map(<[u8]>::to_vec).collect())
}

/// Sets extended attributes.
pub(super) fn set_xattrs(
    file: BorrowedFd<'_>,
    attributes: &Attributes,
    what: Preserve,
) -> Result<(), Refused> {
    if !what.xattrs {
        return Ok(());
    }
    for (name, value) in &attributes.xattrs {
        set_xattr(file, name, value)?;
    }
    Ok(())
}

/// Sets an extended attribute.
pub(super) fn set_xattr(file: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> Result<(), Refused> {
    rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()).map_err(|errno| match errno {
        // More than a block of ext4, or than the kernel takes.
        Errno::NOSPC | Errno::DQUOT | Errno::TOOBIG | Errno::RANGE => {
            Refused::Xattr { name: name.to_vec(), size: value.len(), errno }
        }
        _ => Refused::Errno(errno),
    })
}

/// Sets the modification time.
pub(super) fn set_times(file: BorrowedFd<'_>, attributes: &Attributes, what: Preserve) -> Result<(), Errno> {
    times(attributes, what).map_or(Ok(()), |times| rustix::fs::futimens(file, &times))
}

/// The mode that a file is to have: with set-user-id and set-group-id only where its owner comes along, as they
/// would make it a program of whoever restores it.
pub(super) fn mode_of_file(attributes: &Attributes, what: Preserve) -> Option<u32> {
    let mode = attributes.mode.filter(|_| what.mode)?;
    let whose = attributes.owner.filter(|_| what.owner);
    Some(if whose.is_some() { mode } else { mode & !OF_THE_OWNER })
}

/// Sets all attributes of a directory: the owner before the mode, as a change of owner takes set-group-id away, the
/// modification time last.
pub(super) fn set_on_directory(
    directory: &OwnedFd,
    attributes: &Attributes,
    what: Preserve,
) -> Result<(), Refused> {
    set_xattrs(directory.as_fd(), attributes, what)?;
    if let Some((user, group)) = attributes.owner.filter(|_| what.owner) {
        let stat = rustix::fs::fstat(directory)?;
        // Who may not change owners may still keep them.
        if (stat.st_uid, stat.st_gid) != (user, group) {
            rustix::fs::fchown(directory, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
        }
    }
    if let Some(mode) = attributes.mode.filter(|_| what.mode) {
        rustix::fs::fchmod(directory, Mode::from_raw_mode(mode))?;
    }
    set_times(directory.as_fd(), attributes, what)?;
    Ok(rustix::fs::fsync(directory)?)
}

/// The modification time as a system call takes it.
pub(super) fn times(attributes: &Attributes, what: Preserve) -> Option<Timestamps> {
    let (seconds, nanoseconds) = attributes.mtime.filter(|_| what.mtime)?;
    Some(Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() },
    })
}

/// What tells one version of a link from another.
pub(crate) fn link_version(stat: &Stat) -> Version {
    Version::new(format!(
        "link-{:x}-{:x}-{:x}.{:x}-{:x}.{:x}",
        stat.st_dev, stat.st_ino, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec
    ))
}

/// Reads a symbolic link; nothing where something else is there.
pub(super) fn read_link(
    root: &OwnedFd,
    path: &Path,
    what: Preserve,
) -> Result<Option<(Attributes, Version)>, Errno> {
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

/// Makes a symbolic link, which appears whole, by a rename, over a file or link that is there.
pub(super) fn write_link(
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
    match rustix::fs::renameat(&made, temporary.as_str(), &above, name) {
        Err(Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY) => {
            // An empty directory is no file and keeps nobody's.
            rustix::fs::unlinkat(&above, name, AtFlags::REMOVEDIR)?;
            rustix::fs::renameat(&made, temporary.as_str(), &above, name)?;
        }
        renamed => renamed?,
    }
    rustix::fs::fsync(&above)?;
    Ok(link_version(&rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW)?))
}

/// Removes the symbolic link of this version; false where something else is there, or nothing.
pub(super) fn remove_link(root: &OwnedFd, path: &Path, version: &Version) -> Result<bool, Errno> {
    let (above, name) = parent(root, path)?;
    let stat = match rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(false),
        stat => stat?,
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink || link_version(&stat) != *version {
        return Ok(false);
    }
    rustix::fs::unlinkat(&above, name, AtFlags::empty())?;
    rustix::fs::fsync(&above)?;
    Ok(true)
}

/// Reads a directory whole, as its files may be deleted meanwhile.
pub(crate) fn entries(directory: &OwnedFd) -> Result<Vec<(PathBuf, FileType)>, Errno> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno),
            },
            kind => kind,
        };
        found.push((PathBuf::from(OsStr::from_bytes(name.to_bytes())), kind));
    }
    Ok(found)
}
