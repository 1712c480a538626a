//! The directory tree: everything is resolved from one descriptor, and no symbolic link is ever followed.
//!
//! An id and a path beneath the root are one and the same, so a link, even one that stays inside, would give
//! a file a second id that no listing shows. Names never hold `..` ([`FileId`]), so walking from descriptor to
//! descriptor with `O_NOFOLLOW` cannot leave the root whatever is swapped meanwhile; `openat2(2)` does the same
//! in one call where the kernel has it.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, flistxattr, mkdirat, openat, statat, unlinkat};
use rustix::io::Errno;

use super::config::{Durability, LocalConfig};
use super::error::failed;
use super::in_place::Seen;
use super::preparation::Preparer;
use super::syncer::Syncer;
use crate::body::Identity;
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::FileId;
use crate::metadata::Tags;
use crate::preparation::Permissions;
use crate::storage::Access;

/// The one segment that no id begins with: what the storage keeps for itself.
pub(super) const RESERVED: &str = ".storage";

/// How directories are opened: never through a link.
pub(super) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The storage's own directories, all on the file system of the root.
#[derive(Debug)]
pub(super) struct Private {
    /// Temporary files.
    pub(super) tmp: File,
    /// Sidecars.
    pub(super) attributes: File,
    /// Uploads in parts.
    pub(super) uploads: File,
    /// Permission bits of published files: 0666 without the umask. Learnt by the first one, as a full disk must not
    /// keep a storage from being opened.
    file_mode: OnceLock<Mode>,
}

/// An open root.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) path: PathBuf,
    pub(super) directory: File,
    /// Device and inode.
    place: (u64, u64),
    /// Longest segment in bytes.
    pub(super) max_segment: u32,
    pub(super) durability: Durability,
    syncer: Syncer,
    /// Parts of uploads.
    pub(super) seen: Seen,
    /// Nothing where the storage is read only.
    private: Option<Private>,
    /// Sidecars, where there are any and they can be read.
    sidecars: Option<File>,
    /// Directories that were made and not yet synced, with a mark that tells one making from the next. Whoever
    /// puts a file beneath one must sync it too: its maker may not have come to it yet.
    unsynced: Mutex<HashMap<String, u64>>,
    preparer: Option<Preparer>,
}

impl Root {
    pub(super) fn open(config: &LocalConfig) -> Result<Self> {
        let shown = config.root.display();
        let misconfigured =
            |message: String| Error::new(ErrorKind::Misconfigured, Op::Open).with_message(message);
        if config.create_root && config.access == Access::ReadWrite {
            create_root(config)?;
        }
        let path = std::fs::canonicalize(&config.root).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => misconfigured(format!("the root {shown} does not exist")),
            io::ErrorKind::NotADirectory => misconfigured(format!("the root {shown} is not a directory")),
            _ => failed(Op::Open, error).with_message(format!("the root {shown} cannot be opened")),
        })?;
        let directory =
            openat(rustix::fs::CWD, &path, DIRECTORY, Mode::empty()).map_err(|errno| match errno {
                Errno::NOTDIR => misconfigured(format!("the root {shown} is not a directory")),
                _ => failed(Op::Open, errno)
                    .with_message(format!("the root {shown} cannot be opened: {errno}")),
            })?;
        let directory = File::from(directory);
        let stat = rustix::fs::fstat(&directory).map_err(|errno| failed(Op::Open, errno))?;
        let limits = rustix::fs::fstatvfs(&directory).map_err(|errno| failed(Op::Open, errno))?;
        let private = match config.access {
            Access::ReadWrite => Some(Private::open(&directory, place(&stat).0, config.durability)?),
            Access::ReadOnly => None,
        };
        let sidecars = open_sidecars(&directory)?;
        let syncer = Syncer::new(config.durability, &directory);
        Ok(Self {
            path,
            directory,
            place: place(&stat),
            max_segment: u32::try_from(limits.f_namemax).unwrap_or(255),
            durability: config.durability,
            syncer,
            seen: Seen::default(),
            private,
            sidecars,
            unsynced: Mutex::default(),
            preparer: config.preparer.clone(),
        })
    }

    /// Has a file prepared that is about to be published.
    pub(super) fn prepare(&self, file: &File, tags: &mut Tags) -> Result<Permissions> {
        self.preparer.as_ref().map_or(Ok(Permissions::default()), |preparer| preparer.0.prepare(file, tags))
    }

    /// Returns the storage's own directories, or the refusal to write.
    pub(super) fn private(&self, op: Op) -> Result<&Private> {
        self.private.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Denied, op).with_message("the storage was opened for reading only")
        })
    }

    pub(super) fn read_only(&self) -> bool {
        self.private.is_none()
    }

    pub(super) fn sidecars(&self) -> Option<&File> {
        self.private.as_ref().map(|private| &private.attributes).or(self.sidecars.as_ref())
    }

    /// Fails where the root is no longer what was opened: an unmounted file system must not look like an empty
    /// storage.
    pub(super) fn check(&self, op: Op) -> Result<()> {
        let gone = |how: &str| {
            Error::new(ErrorKind::Misconfigured, op)
                .with_message(format!("the root {} {how}", self.path.display()))
        };
        match rustix::fs::stat(&self.path) {
            Ok(stat) if place(&stat) == self.place => Ok(()),
            Ok(_) => Err(gone("is another directory than the one that was opened")),
            Err(Errno::NOENT | Errno::NOTDIR) => Err(gone("does not exist any more")),
            Err(errno) => Err(failed(op, errno)),
        }
    }

    /// Makes the error for a file that is not there, or that of a root which is not.
    pub(super) fn not_found(&self, op: Op) -> Error {
        self.check(op).err().unwrap_or_else(|| Error::new(ErrorKind::NotFound, op))
    }

    /// Refuses ids that no file here has or can have.
    pub(super) fn check_id(&self, id: &FileId, op: Op) -> Result<()> {
        if id.segments().next() == Some(RESERVED) {
            return Err(Error::new(ErrorKind::InvalidInput, op)
                .with_message(format!("ids that begin with {RESERVED}/ are the storage's own")));
        }
        Ok(())
    }

    /// Refuses segments that the file system cannot keep.
    pub(super) fn check_segments(&self, id: &FileId, op: Op) -> Result<()> {
        match id.segments().map(str::len).max() {
            Some(longest) if longest > self.max_segment as usize => {
                Err(Error::new(ErrorKind::InvalidInput, op).with_message(format!(
                    "a segment of {longest} bytes; the file system takes at most {}",
                    self.max_segment
                )))
            }
            _ => Ok(()),
        }
    }

    /// Opens whatever has this path, never through a link and never waiting (a fifo without a writer opens).
    pub(super) fn open_at(&self, path: &str, flags: OFlags) -> Result<File, Errno> {
        resolve(&self.directory, path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK)
    }

    /// Opens a file as [`open_at`](Self::open_at) does, but only where the kernel has the whole path in memory; nothing
    /// where it would have to wait for the disk, or cannot tell.
    #[cfg(target_os = "linux")]
    pub(super) fn open_cached(&self, path: &str) -> Option<File> {
        use rustix::fs::ResolveFlags;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let how = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::CACHED;
        rustix::fs::openat2(&self.directory, path, flags, Mode::empty(), how).ok().map(File::from)
    }

    /// Opens a directory; the root for the empty path.
    pub(super) fn open_directory(&self, path: &str) -> Result<File, Errno> {
        let path = if path.is_empty() { "." } else { path };
        resolve(&self.directory, path, DIRECTORY)
    }

    /// Opens the directory that `id` is in.
    pub(super) fn parent(&self, id: &FileId) -> Result<File, Errno> {
        self.open_directory(id.parent().unwrap_or_default())
    }

    /// Opens the directory that `id` is in, and makes it where there is none.
    pub(super) fn create_parent(&self, id: &FileId, op: Op) -> Result<File> {
        match self.parent(id) {
            Ok(directory) => return Ok(directory),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(failed(op, errno)),
        }
        let mut directory = self.open_directory("").map_err(|errno| failed(op, errno))?;
        for path in ancestors(id) {
            directory = self.create_directory(&directory, path, op)?;
        }
        Ok(directory)
    }

    fn create_directory(&self, parent: &File, path: &str, op: Op) -> Result<File> {
        let name = last_segment(path);
        // A concurrent delete may prune the directory between the two calls; it cannot go on for ever.
        for _ in 0..PRUNE_RACES {
            match openat(parent, name, DIRECTORY, Mode::empty()) {
                Ok(directory) => return Ok(directory.into()),
                Err(Errno::NOENT) => {}
                Err(Errno::NOTDIR | Errno::LOOP) => return Err(in_the_way(parent, path, op)),
                Err(errno) => return Err(failed(op, errno)),
            }
            self.mark_unsynced(path);
            match mkdirat(parent, name, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                // The parent itself was pruned: the caller starts again from the root.
                Err(errno) => return Err(failed(op, errno)),
            }
        }
        Err(pruned_again(op))
    }

    fn mark_unsynced(&self, path: &str) {
        if self.durability == Durability::Durable {
            let mut unsynced = lock(&self.unsynced);
            *unsynced.entry(path.to_owned()).or_default() += 1;
        }
    }

    /// Syncs a file or directory of a durable storage.
    pub(super) fn sync(&self, file: &File) -> io::Result<()> {
        self.syncer.sync(file)
    }

    /// Syncs the bytes of a large file, which is worth a sync of its own, and what is needed to find them.
    pub(super) fn sync_data(&self, file: &File) -> io::Result<()> {
        match self.durability {
            Durability::Durable => file.sync_data(),
            Durability::Relaxed => Ok(()),
        }
    }

    /// Makes everything that has been done above `id` survive a power cut, whoever has done it.
    pub(super) fn sync_all_parents(&self, id: &FileId) -> io::Result<()> {
        self.sync(&self.directory)?;
        for path in ancestors(id) {
            match self.open_directory(path) {
                Ok(directory) => self.sync(&directory)?,
                Err(Errno::NOENT) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Makes a new or removed entry of `parent`, and every new directory above it, survive a power cut.
    pub(super) fn sync_parents(&self, id: &FileId, parent: &File) -> io::Result<()> {
        if self.durability == Durability::Relaxed {
            return Ok(());
        }
        self.sync(parent)?;
        let marks: Vec<_> = {
            let unsynced = lock(&self.unsynced);
            if unsynced.is_empty() {
                return Ok(());
            }
            ancestors(id).filter_map(|path| Some((path, *unsynced.get(path)?))).collect()
        };
        for (path, mark) in marks {
            match self.open_directory(path.rsplit_once('/').map_or("", |(above, _)| above)) {
                Ok(above) => self.sync(&above)?,
                // Pruned meanwhile, together with what was to be kept.
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
            let mut unsynced = lock(&self.unsynced);
            if unsynced.get(path) == Some(&mark) {
                unsynced.remove(path);
            }
        }
        Ok(())
    }

    /// Removes the directories above `id` that are empty, up to the root. `rmdir` refuses the others. One that has
    /// extended attributes of users is more than the path to a file, and stays.
    pub(super) fn prune(&self, id: &FileId) {
        for path in ancestors(id).collect::<Vec<_>>().into_iter().rev() {
            let Ok(directory) = self.open_directory(path) else { return };
            if has_user_attributes(&directory) {
                return;
            }
            let above = path.rsplit_once('/').map_or("", |(above, _)| above);
            let Ok(above) = self.open_directory(above) else { return };
            if unlinkat(&above, last_segment(path), AtFlags::REMOVEDIR).is_err() {
                return;
            }
        }
    }

    /// Serialises changes to one id between all users of this process: what makes a comparison of versions and
    /// the change that depends on it one step.
    pub(super) fn lock(&self, id: &FileId) -> MutexGuard<'static, ()> {
        // One table for all storages: two that are opened on the same root must share their locks.
        static LOCKS: [Mutex<()>; 256] = [const { Mutex::new(()) }; 256];
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one((self.place, id));
        lock(&LOCKS[(hash % LOCKS.len() as u64) as usize])
    }
}

fn has_user_attributes(directory: &File) -> bool {
    let mut names = vec![0; 64 << 10];
    match flistxattr(directory, &mut names[..]) {
        Ok(length) => names[..length].split(|byte| *byte == 0).any(|name| name.starts_with(b"user.")),
        // Where there are none; more than the kernel gives at once are some.
        Err(errno) => errno == Errno::RANGE,
    }
}

/// How often a directory may be pruned under a writer before it gives up.
pub(super) const PRUNE_RACES: usize = 100;

pub(super) fn pruned_again(op: Op) -> Error {
    Error::new(ErrorKind::Other, op)
        .with_message("the directory was removed again and again while the file was put into it")
        .with_retry(crate::error::Retry::Now)
}

impl Private {
    fn open(root: &File, device: u64, durability: Durability) -> Result<Self> {
        let own = own_directory(root, RESERVED, 0o777)?;
        let tmp = own_directory(&own, "tmp", 0o700)?;
        let attributes = own_directory(&own, "attributes", 0o777)?;
        let uploads = own_directory(&own, "uploads", 0o700)?;
        for (directory, name) in [(&tmp, "tmp"), (&attributes, "attributes"), (&uploads, "uploads")] {
            let stat = rustix::fs::fstat(directory).map_err(|errno| failed(Op::Open, errno))?;
            if place(&stat).0 != device {
                return Err(Error::new(ErrorKind::Misconfigured, Op::Open).with_message(format!(
                    "{RESERVED}/{name} is on another file system than the root: a file cannot be renamed from there"
                )));
            }
        }
        if durability == Durability::Durable {
            // Perhaps made by a process that did not come to it.
            for directory in [&own, root] {
                directory.sync_all().map_err(|error| failed(Op::Open, error))?;
            }
        }
        Ok(Self { tmp, attributes, uploads, file_mode: OnceLock::new() })
    }

    pub(super) fn file_mode(&self, op: Op) -> Result<Mode> {
        if let Some(&mode) = self.file_mode.get() {
            return Ok(mode);
        }
        let mode = default_file_mode(&self.tmp, op)?;
        Ok(*self.file_mode.get_or_init(|| mode))
    }
}

fn create_root(config: &LocalConfig) -> Result<()> {
    let path = std::path::absolute(&config.root).map_err(|error| failed(Op::Open, error))?;
    let missing: Vec<&Path> = path.ancestors().take_while(|path| !path.exists()).collect();
    std::fs::create_dir_all(&path).map_err(|error| {
        let message = format!("the root {} cannot be created: {error}", path.display());
        match error.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                Error::new(ErrorKind::Misconfigured, Op::Open).with_message(message)
            }
            _ => failed(Op::Open, error).with_message(message),
        }
    })?;
    if config.durability == Durability::Durable {
        for parent in missing.into_iter().filter_map(Path::parent) {
            File::open(parent)
                .and_then(|parent| parent.sync_all())
                .map_err(|error| failed(Op::Open, error))?;
        }
    }
    Ok(())
}

fn own_directory(parent: &File, name: &str, mode: u32) -> Result<File> {
    let unusable = |errno: Errno| {
        let error =
            failed(Op::Open, errno).with_message(format!("the storage's own directory {name}: {errno}"));
        match errno {
            Errno::NOTDIR | Errno::LOOP => Error::new(ErrorKind::Misconfigured, Op::Open).with_message(
                format!("{name} is the storage's own directory, and something else has its name"),
            ),
            _ => error,
        }
    };
    match mkdirat(parent, name, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(unusable(errno)),
    }
    openat(parent, name, DIRECTORY, Mode::empty()).map(File::from).map_err(unusable)
}

fn open_sidecars(root: &File) -> Result<Option<File>> {
    match resolve(root, &format!("{RESERVED}/attributes"), DIRECTORY) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(errno) => {
            Err(failed(Op::Open, errno)
                .with_message(format!("{RESERVED}/attributes cannot be read: {errno}")))
        }
    }
}

/// Learns the umask by making a file: reading it without changing it is not to be had portably.
fn default_file_mode(tmp: &File, op: Op) -> Result<Mode> {
    let name = format!("mode-{}", uuid::Uuid::new_v4().simple());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = openat(tmp, &name, flags, Mode::from_raw_mode(0o666)).map_err(|errno| failed(op, errno))?;
    let mode = rustix::fs::fstat(&file).map(|stat| Mode::from_raw_mode(stat.st_mode));
    match unlinkat(tmp, &name, AtFlags::empty()) {
        // Another process that opens the storage took it for a leftover.
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(failed(op, errno)),
    }
    mode.map_err(|errno| failed(op, errno))
}

/// Opens a path of names beneath `directory` without following a link.
#[cfg(target_os = "linux")]
fn resolve(directory: &File, path: &str, flags: OFlags) -> Result<File, Errno> {
    use rustix::fs::ResolveFlags;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(directory, path, flags, Mode::empty(), how) {
        Ok(file) => Ok(file.into()),
        // Kernels before 5.6, and sandboxes that do not know the call.
        Err(Errno::NOSYS | Errno::PERM) => resolve_by_steps(directory, path, flags),
        Err(errno) => Err(errno),
    }
}

#[cfg(not(target_os = "linux"))]
fn resolve(directory: &File, path: &str, flags: OFlags) -> Result<File, Errno> {
    resolve_by_steps(directory, path, flags)
}

fn resolve_by_steps(directory: &File, path: &str, flags: OFlags) -> Result<File, Errno> {
    let Some((parent, name)) = path.rsplit_once('/') else {
        return openat(directory, path, flags, Mode::empty()).map(File::from);
    };
    let mut at: Option<File> = None;
    for segment in parent.split('/') {
        at = Some(openat(at.as_ref().unwrap_or(directory), segment, DIRECTORY, Mode::empty())?.into());
    }
    openat(at.as_ref().unwrap_or(directory), name, flags, Mode::empty()).map(File::from)
}

/// Says what has the name of a directory that is needed.
fn in_the_way(parent: impl AsFd, path: &str, op: Op) -> Error {
    let what = match statat(parent, last_segment(path), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => foreign_name(FileType::from_raw_mode(stat.st_mode)).unwrap_or("file"),
        Err(_) => "file",
    };
    Error::new(ErrorKind::Conflict, op).with_message(format!("\"{}\" is a {what}", path.escape_debug()))
}

/// Names what is neither a file nor a directory.
pub(super) fn foreign_name(kind: FileType) -> Option<&'static str> {
    match kind {
        FileType::RegularFile | FileType::Directory => None,
        FileType::Symlink => Some("symbolic link"),
        FileType::Fifo => Some("fifo"),
        FileType::Socket => Some("socket"),
        _ => Some("device"),
    }
}

/// Makes the error for an entry that is no file.
pub(super) fn not_a_file(op: Op, what: &str) -> Error {
    Error::new(ErrorKind::NotAFile, op).with_message(what)
}

/// Takes the identity from `stat(2)`.
pub(super) fn identity(stat: &Stat) -> Identity {
    let (device, inode) = place(stat);
    Identity::from_parts(device, inode, stat.st_size as u64, modified_parts(stat), changed_parts(stat))
}

/// Device and inode.
#[expect(clippy::unnecessary_cast, reason = "the types of the fields differ from system to system")]
fn place(stat: &Stat) -> (u64, u64) {
    (stat.st_dev as u64, stat.st_ino as u64)
}

/// Seconds and nanoseconds of the modification time.
#[expect(clippy::unnecessary_cast, reason = "the types of the fields differ from system to system")]
pub(super) fn modified_parts(stat: &Stat) -> (i64, i64) {
    (stat.st_mtime as i64, stat.st_mtime_nsec as i64)
}

/// Seconds and nanoseconds of the change time.
#[expect(clippy::unnecessary_cast, reason = "the types of the fields differ from system to system")]
pub(super) fn changed_parts(stat: &Stat) -> (i64, i64) {
    (stat.st_ctime as i64, stat.st_ctime_nsec as i64)
}

/// Returns the directories above `id`, outermost first, as paths from the root.
fn ancestors(id: &FileId) -> impl Iterator<Item = &str> {
    id.as_str().match_indices('/').map(|(slash, _)| &id.as_str()[..slash])
}

pub(super) fn last_segment(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Takes a lock whose data no panic can leave half changed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
