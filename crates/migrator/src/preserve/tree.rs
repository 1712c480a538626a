//! Directories as objects: each is an object without bytes, `PATH/.storage-directory`, whose tag says what it was.
//!
//! An id ends in no slash, so that a directory needs a name of its own, and one of the many that nobody gives a file. With
//! it a directory is a file to everything else: it is listed, copied, recorded, audited and removed as one, and an empty
//! one comes back. Its version is what is kept of it, and nothing that a file in it would change but the modification
//! time.
//!
//! Whatever is put into a directory changes that time, and a directory that may not be written to takes no file. So what a
//! directory is to be is kept on it (`user.storage.directory`), and set again after every file: whichever comes last, the
//! directory is what it was.

use std::cmp::Ordering;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use storage_core::checksum::Digest;
use storage_core::error::{Error, ErrorKind, Op, Result};
use storage_core::id::{FileId, Prefix};
use storage_core::metadata::{FileMetadata, Version};
use tokio::sync::mpsc;

use super::directory::as_file;
use super::posix::{
    BENEATH, Refused, entries, kind_of, names_of_xattrs, read_open, set_on_directory, set_times, set_xattr,
};
use super::{Attributes, MARKER, Preserve};

/// Where a directory that was written keeps what it is to be: mode and modification time, which files that come and go
/// change.
const KEPT: &str = "user.storage.directory";

/// The owner's right to put files into a directory.
const OPEN_TO_OWNER: u32 = 0o700;

/// Directories that are found ahead of the listing.
const AHEAD: usize = 256;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Returns the path of the directory that an id stands for: empty for the root.
pub(super) fn directory_of(id: &FileId) -> Option<&str> {
    (id.file_name() == MARKER).then(|| id.parent().unwrap_or_default())
}

fn open(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { "." } else { path };
    rustix::fs::openat2(root, path, DIRECTORY, Mode::empty(), BENEATH)
}

/// Reads what is kept of a directory.
pub(super) fn read(root: &OwnedFd, path: &str, what: Preserve) -> Result<(Attributes, Version), Errno> {
    described(&open(root, path)?, what)
}

fn described(directory: &OwnedFd, what: Preserve) -> Result<(Attributes, Version), Errno> {
    Ok(versioned(Attributes { directory: true, ..read_open(directory, what)? }))
}

fn versioned(attributes: Attributes) -> (Attributes, Version) {
    let text = hex::encode(&Digest::of(attributes.to_text().as_bytes()).as_bytes()[..16]);
    let version = Version::new(format!("directory-{text}"));
    (attributes, version)
}

/// Makes a directory, and those above it, where there is none, and sets what is kept of it.
pub(super) fn write(
    root: &OwnedFd,
    path: &str,
    attributes: &Attributes,
    what: Preserve,
) -> Result<Version, Refused> {
    let mode = attributes.mode.filter(|_| what.mode);
    let mtime = attributes.mtime.filter(|_| what.mtime);
    let due = Attributes { directory: true, mode, mtime, ..Attributes::default() }.to_text();
    let directory = loop {
        let directory = create(root, path)?;
        match set_xattr(directory.as_fd(), KEPT.as_bytes(), due.as_bytes()) {
            // Where there are none, the time is set once, and files that come later change it.
            Ok(()) | Err(Refused::Errno(Errno::OPNOTSUPP)) => {}
            Err(refused) => return Err(refused),
        }
        set_on_directory(&directory, attributes, what)?;
        // As long as it was empty and told to be nothing, a file that could not be put there took it away again.
        let found = open(root, path).and_then(|found| rustix::fs::fstat(&found));
        let written = rustix::fs::fstat(&directory)?;
        if found.is_ok_and(|found| (found.st_dev, found.st_ino) == (written.st_dev, written.st_ino)) {
            break directory;
        }
    };
    // Others may be putting files into it: for a moment it has another time, and perhaps another mode.
    let now = read_open(&directory, what)?;
    let (mode, mtime) = (mode.or(now.mode), mtime.or(now.mtime));
    Ok(versioned(Attributes { directory: true, mode, mtime, ..now }).1)
}

fn create(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    match open(root, path) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = create(root, above)?;
    match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o777)) {
        Ok(()) => rustix::fs::fsync(&parent)?,
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    again(root, above);
    open(root, path)
}

/// Reads what a directory was told to be when it was written.
fn kept(directory: &OwnedFd) -> Option<Attributes> {
    let mut text = vec![0; 64 << 10];
    let length = rustix::fs::fgetxattr(directory, KEPT, &mut text[..]).ok()?;
    text.truncate(length);
    Attributes::parse(std::str::from_utf8(&text).ok()?)
}

/// Returns the directories above an entry, the root first.
fn above(id: &FileId) -> impl DoubleEndedIterator<Item = &str> {
    let id = id.as_str();
    std::iter::once("").chain(id.match_indices('/').map(|(slash, _)| &id[..slash]))
}

/// Sets the modification times of the directories above an entry again, which may have been made for it.
pub(super) fn settle(root: &OwnedFd, id: &FileId) {
    for path in above(id).rev() {
        again(root, path);
    }
}

/// Sets the modification time of a directory again after its entries changed. Where that cannot be done it has another
/// time, and no file is the worse for it.
fn again(root: &OwnedFd, path: &str) {
    let set = || -> Option<()> {
        let directory = open(root, path).ok()?;
        let mut due = kept(&directory)?;
        loop {
            set_times(directory.as_fd(), &due, Preserve { mtime: true, ..Preserve::default() }).ok()?;
            // It may have been told to be something else in between, and been so already.
            let now = kept(&directory)?;
            if now == due {
                return Some(());
            }
            due = now;
        }
    };
    if set().is_none() {
        tracing::trace!(path, "the directory keeps the time of its last change");
    }
}

/// No longer keeps what a directory is to be, and removes it where it is empty: that its files go is for each of them.
pub(super) fn forget(root: &OwnedFd, path: &str) -> Result<bool, Errno> {
    let directory = match open(root, path) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(false),
        Err(errno) => return Err(errno),
    };
    match rustix::fs::fremovexattr(&directory, KEPT) {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
        Err(errno) => return Err(errno),
    }
    drop(directory);
    // Those above may wait for their last entry to go.
    remove_empty(root, path)?;
    Ok(true)
}

/// Removes the directories above an entry that is gone, as far as they are empty and were not told to be anything.
pub(super) fn prune(root: &OwnedFd, id: &FileId) -> Result<(), Errno> {
    let Some(path) = id.parent() else { return Ok(()) };
    match open(root, path) {
        Ok(directory) if is_only_a_path(&directory) => remove_empty(root, path),
        _ => Ok(()),
    }
}

/// Tells whether nobody told a directory to be anything, so that it goes with its last entry.
fn is_only_a_path(directory: &OwnedFd) -> bool {
    kept(directory).is_none() && names_of_xattrs(directory).is_ok_and(|names| names.is_empty())
}

fn remove_empty(root: &OwnedFd, mut path: &str) -> Result<(), Errno> {
    while !path.is_empty() {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = open(root, above)?;
        match rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => break,
            Err(errno) => return Err(errno),
        }
        if !is_only_a_path(&parent) {
            again(root, above);
            break;
        }
        path = above;
    }
    Ok(())
}

/// Tells whether a directory of this mode takes no file from its owner.
pub(super) fn is_closed(mode: u32) -> bool {
    mode & OPEN_TO_OWNER != OPEN_TO_OWNER
}

/// Directories that are open to their owner although they were told not to be; closed again when dropped, as whoever
/// opened them may be stopped in the middle.
#[derive(Debug)]
pub(super) struct Opened {
    root: Arc<OwnedFd>,
    paths: Vec<String>,
}

/// Gives the owner the right to put files into directories above `id` that were told not to have it.
pub(super) fn open_up(root: &Arc<OwnedFd>, id: &FileId) -> Opened {
    let mut opened = Opened { root: Arc::clone(root), paths: Vec::new() };
    for path in above(id) {
        let Ok(directory) = open(root, path) else { break };
        let Some(mode) = kept(&directory).and_then(|kept| kept.mode) else { continue };
        let wider = Mode::from_raw_mode(mode | OPEN_TO_OWNER);
        if is_closed(mode) && rustix::fs::fchmod(&directory, wider).is_ok() {
            opened.paths.push(path.to_owned());
        }
    }
    opened
}

impl Drop for Opened {
    fn drop(&mut self) {
        close(&self.root, &self.paths);
    }
}

/// Gives directories the mode that they were told to have.
pub(super) fn close(root: &OwnedFd, paths: &[String]) {
    for path in paths.iter().rev() {
        let closed =
            open(root, path).and_then(|directory| match kept(&directory).and_then(|kept| kept.mode) {
                Some(mode) => rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode)),
                None => Ok(()),
            });
        match closed {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => {
                tracing::warn!(path, %error, "the directory stays open to its owner, which it was not")
            }
        }
    }
}

/// Finds directories above an entry that are as [`open_up`] leaves them: by a process that was killed, or one that is at
/// work on them.
pub(super) fn left_open(root: &OwnedFd, id: &FileId) -> Vec<String> {
    let is_open = |path: &&str| -> Option<bool> {
        let directory = open(root, path).ok()?;
        let told = kept(&directory)?.mode?;
        let now = rustix::fs::fstat(&directory).ok()?.st_mode & 0o7777;
        Some(now != told && now == told | OPEN_TO_OWNER)
    };
    above(id).filter(|path| is_open(path).unwrap_or(false)).map(str::to_owned).collect()
}

/// Yields the directories beneath `prefix` and behind `after`, as the objects that they are, in the order of ids. What
/// cannot be read is left to the listing of files, which says so.
pub(super) fn list(
    root: Arc<OwnedFd>,
    storage: String,
    what: Preserve,
    prefix: Prefix,
    after: Option<FileId>,
) -> BoxStream<'static, Result<FileMetadata>> {
    let (found, receiver) = mpsc::channel(AHEAD);
    let walk = Walk { root, storage, what, prefix, after, found };
    tokio::task::spawn_blocking(move || walk.enter(""));
    stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver))).boxed()
}

struct Walk {
    root: Arc<OwnedFd>,
    storage: String,
    what: Preserve,
    prefix: Prefix,
    after: Option<FileId>,
    found: mpsc::Sender<Result<FileMetadata>>,
}

impl Walk {
    /// Walks a directory, whose path ends in a slash or is empty; false where nobody listens any more.
    fn enter(&self, path: &str) -> bool {
        let name = path.trim_end_matches('/');
        let directory = match open(&self.root, name) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS | Errno::PERM) => return true,
            Err(errno) => return self.tell(Err(self.failed(path, errno))),
        };
        let mut names = match subdirectories(&directory) {
            Ok(names) => names,
            Err(Errno::ACCESS | Errno::PERM) => return true,
            Err(errno) => return self.tell(Err(self.failed(path, errno))),
        };
        if path.is_empty() {
            // The storage's own, and where a sync puts what it removes.
            names.retain(|name| name != ".storage/" && name != ".quarantine/");
        }
        names.sort_unstable();
        // A directory sorts as its name with a slash behind it, and the object of this one among them.
        let own = names.partition_point(|name| name.as_str() < MARKER);
        for name in &names[..own] {
            if !self.descend(path, name) {
                return false;
            }
        }
        if !self.tell_of(path, &directory) {
            return false;
        }
        drop(directory);
        names[own..].iter().all(|name| self.descend(path, name))
    }

    fn descend(&self, path: &str, name: &str) -> bool {
        let path = format!("{path}{name}");
        let prefix = self.prefix.as_str();
        let wanted = path.starts_with(prefix) || prefix.starts_with(&path);
        let behind = |after: &FileId| path.as_str() > after.as_str() || after.as_str().starts_with(&path);
        // An id of this length is none: what lies there is told by the listing of files.
        let can_be = FileId::parse(format!("{path}{MARKER}")).is_ok();
        if !wanted || !can_be || !self.after.as_ref().is_none_or(behind) {
            return true;
        }
        self.enter(&path)
    }

    fn tell_of(&self, path: &str, directory: &OwnedFd) -> bool {
        let Ok(id) = FileId::parse(format!("{path}{MARKER}")) else { return true };
        if !self.prefix.matches(&id) || self.after.as_ref().is_some_and(|after| id <= *after) {
            return true;
        }
        match described(directory, self.what) {
            Ok((attributes, version)) => self.tell(Ok(as_file(&id, &attributes, version))),
            Err(errno) => self.tell(Err(self.failed(path, errno).with_id(&id))),
        }
    }

    fn failed(&self, path: &str, errno: Errno) -> Error {
        Error::new(kind_of(errno), Op::List)
            .with_subject(format!("{path}{MARKER}"))
            .with_storage(&self.storage)
            .with_source(errno)
    }

    fn tell(&self, found: Result<FileMetadata>) -> bool {
        self.found.blocking_send(found).is_ok()
    }
}

/// Returns the names of the directories in a directory, each with a slash behind it. Names that are not UTF-8 are told by
/// the listing of files.
fn subdirectories(directory: &OwnedFd) -> Result<Vec<String>, Errno> {
    let directories = entries(directory)?.into_iter().filter(|(_, kind)| *kind == FileType::Directory);
    Ok(directories.filter_map(|(name, _)| name.to_str().map(|name| format!("{name}/"))).collect())
}

/// Merges files and directories in the order of ids. A file that has the name of a directory's object is refused: it
/// cannot be told from one.
pub(super) fn merged(
    files: BoxStream<'static, Result<FileMetadata>>,
    directories: BoxStream<'static, Result<FileMetadata>>,
) -> impl Stream<Item = Result<FileMetadata>> {
    let sides = Sides { files, directories, file: None, directory: None, started: false };
    stream::unfold(sides, async |mut sides| Some((sides.next().await?, sides)))
}

struct Sides {
    files: BoxStream<'static, Result<FileMetadata>>,
    directories: BoxStream<'static, Result<FileMetadata>>,
    file: Option<Result<FileMetadata>>,
    directory: Option<Result<FileMetadata>>,
    started: bool,
}

/// What an entry sorts by, where it has it.
fn key(entry: &Result<FileMetadata>) -> Option<&str> {
    match entry {
        Ok(file) => Some(file.id.as_str()),
        Err(error) => error.id().map(FileId::as_str).or_else(|| error.subject()),
    }
}

impl Sides {
    async fn next(&mut self) -> Option<Result<FileMetadata>> {
        if !self.started {
            self.started = true;
            self.file = self.files.next().await;
            self.directory = self.directories.next().await;
        }
        let order = match (&self.file, &self.directory) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(file), Some(directory)) => match (key(file), key(directory)) {
                (Some(file), Some(directory)) => file.cmp(directory),
                // It says nothing about where it is: the sooner it is told the better.
                (None, _) => Ordering::Less,
                (_, None) => Ordering::Greater,
            },
        };
        if order == Ordering::Greater {
            return std::mem::replace(&mut self.directory, self.directories.next().await);
        }
        if order == Ordering::Equal {
            self.directory = self.directories.next().await;
        }
        let file = std::mem::replace(&mut self.file, self.files.next().await);
        Some(match file? {
            Ok(file) if file.id.file_name() == MARKER => Err(reserved(&file.id, Op::List)),
            other => other,
        })
    }
}

/// Refuses a file that would look like a directory.
pub(super) fn reserved(id: &FileId, op: Op) -> Error {
    Error::new(ErrorKind::InvalidInput, op)
        .with_id(id)
        .with_message(format!("{MARKER} stands for a directory where directories are kept: rename it"))
}
