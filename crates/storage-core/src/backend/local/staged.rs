//! From the first byte to the published file.
//!
//! Order of effects: temporary file in `.storage/tmp` -> bytes, hashed as they are written -> attributes on it
//! (or in a sidecar, synced) -> file synced -> directories made -> renamed into place -> directory synced, and
//! the one above every new directory -> sidecar of the replaced file removed. A crash anywhere before the rename
//! leaves a temporary file, which the next opening removes, and perhaps a sidecar that describes nothing, which the
//! janitor removes by age, or an empty directory, which is no file.
//! A crash after the rename and before the last sync leaves the old file or the new one, each with its attributes,
//! and the caller has not been told which.
//!
//! An error before the rename leaves nothing; a sync that fails after it is told as [`Effect::Applied`]: readers see
//! the new file, and a power cut may bring the old one back. No file is synced a second time after a failure, as
//! the second call would answer for bytes that the first one has lost: the temporary file is given up.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, Stat, fstat, linkat, openat, statat, unlinkat,
};
use rustix::io::Errno;

use super::attributes::{Attributes, metadata};
use super::error::failed;
use super::root::{PRUNE_RACES, Root, foreign_name, identity, lock, not_a_file, pruned_again};
use super::sidecar::Sidecar;
use super::{owner, preparation, xattr};
use crate::checksum::{Digest, Hasher, Mismatch};
use crate::error::{Effect, Error, ErrorKind, Op, Result};
use crate::id::FileId;
use crate::storage::{Precondition, Receipt, Verified};

/// A temporary file that is being written; removed when dropped, unless it was published.
pub(super) struct Staged {
    root: Arc<Root>,
    temp: Temp,
    hasher: Hasher,
    /// Of all bytes, where it was given with them.
    known: Option<Digest>,
    size: u64,
}

/// What is to become of a [`Staged`].
pub(super) struct Publication {
    pub(super) id: FileId,
    pub(super) op: Op,
    pub(super) attributes: Attributes,
    pub(super) when: Precondition,
    /// What the bytes must give, wherever that is known from.
    pub(super) expected: Vec<Digest>,
    pub(super) permit: Permit,
}

impl Staged {
    pub(super) fn create(root: &Arc<Root>, op: Op) -> Result<Self> {
        let temp = Temp::create(&root.private(op)?.tmp, op)?;
        Ok(Self { root: Arc::clone(root), temp, hasher: Hasher::new(), known: None, size: 0 })
    }

    /// Takes a file that has all its bytes, of this digest.
    pub(super) fn of(root: &Arc<Root>, temp: Temp, digest: Digest, size: u64) -> Self {
        Self { root: Arc::clone(root), temp, hasher: Hasher::new(), known: Some(digest), size }
    }

    /// Adds the next bytes.
    pub(super) fn write(&mut self, bytes: &[u8], op: Op) -> Result<()> {
        (&self.temp.file).write_all(bytes).map_err(|error| failed(op, error))?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Writes all bytes, of which the digest may be known.
    pub(super) fn write_all(&mut self, bytes: &[u8], digest: Option<Digest>, op: Op) -> Result<()> {
        if digest.is_none() {
            return self.write(bytes, op);
        }
        (&self.temp.file).write_all(bytes).map_err(|error| failed(op, error))?;
        self.known = digest;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Returns the number of bytes so far.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Puts the file in its place, whole and with its attributes, or leaves everything as it was.
    pub(super) fn publish(self, publication: Publication) -> Result<Receipt> {
        let Self { root, mut temp, hasher, known, .. } = self;
        let Publication { id, op, mut attributes, when, expected, permit } = publication;
        let digest = known.unwrap_or_else(|| hasher.finish());
        if let Some(&expected) = expected.iter().find(|&&expected| expected != digest) {
            return Err(Mismatch { expected, actual: digest }.into_error(op));
        }
        attributes.digest = Some(digest);
        // Sooner than the bytes are synced, which is the dear part; what counts is the check in `place`.
        check_early(&root, &id, &when, op)?;
        // Before the attributes are bound to the modification time.
        let permissions =
            root.prepare(&temp.file, &mut attributes.tags).map_err(|error| error.with_op(op))?;
        let sidecar = xattr::store(&mut attributes, &root, &id, &temp.file, op)?;
        preparation::set(permissions, &temp.file, root.private(op)?.file_mode(op)?, op)?;
        root.sync(&temp.file).map_err(|error| failed(op, error))?;
        let placed = place(&root, &id, &mut temp, &when, sidecar, &permit, op).inspect_err(|error| {
            if error.effect() == Effect::None {
                // Directories that were made for it.
                root.prune(&id);
            }
        })?;
        root.sync_parents(&id, &placed.parent)
            .map_err(|error| failed(op, error).with_effect(Effect::Applied))?;
        placed.forget_old(&root, &id);
        // Only now: the rename has changed the change time, which is a part of the version.
        let stat = fstat(&temp.file).map_err(|errno| failed(op, errno).with_effect(Effect::Applied))?;
        Ok(Receipt::new(metadata(&id, &stat, Some(&attributes)), Some(digest), Verified::No))
    }
}

fn check_early(root: &Root, id: &FileId, when: &Precondition, op: Op) -> Result<()> {
    if *when == Precondition::None {
        return Ok(());
    }
    let stored = match root.parent(id) {
        Ok(parent) => stored_at(&parent, id, op)?,
        Err(_) => None,
    };
    check(when, stored.as_ref(), op)
}

fn check(when: &Precondition, stored: Option<&Stat>, op: Op) -> Result<()> {
    match (when, stored) {
        (Precondition::None, _) | (Precondition::Absent, None) => Ok(()),
        (Precondition::Absent, Some(_)) => Err(Error::new(ErrorKind::AlreadyExists, op)),
        (Precondition::Version(version), Some(stat)) if identity(stat).version() == *version => Ok(()),
        (Precondition::Version(_), _) => Err(Error::new(ErrorKind::VersionMismatch, op)),
    }
}

/// Returns what is stored under the last segment of `id`: a regular file, or nothing (or a directory, which
/// the rename has to deal with).
fn stored_at(parent: &File, id: &FileId, op: Op) -> Result<Option<Stat>> {
    match statat(parent, id.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(Some(stat)),
            FileType::Directory => Ok(None),
            // Never replaced: it is not ours.
            other => Err(not_a_file(op, foreign_name(other).unwrap_or("device"))),
        },
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(failed(op, errno)),
    }
}

/// A file in its place.
struct Placed {
    parent: File,
    /// Name of its sidecar.
    sidecar: Option<String>,
    /// What it replaced.
    old: Option<Stat>,
}

impl Placed {
    /// Removes the sidecar of what was replaced: only when that cannot come back any more.
    fn forget_old(&self, root: &Root, id: &FileId) {
        if let Some(old) = &self.old {
            Sidecar::remove(root, id, old, self.sidecar.as_deref());
        }
    }
}

/// Compares and renames as one step for all users of this process.
fn place(
    root: &Root,
    id: &FileId,
    temp: &mut Temp,
    when: &Precondition,
    sidecar: Option<Sidecar>,
    permit: &Permit,
    op: Op,
) -> Result<Placed> {
    for _ in 0..PRUNE_RACES {
        let parent = match root.create_parent(id, op) {
            Ok(parent) => parent,
            // A concurrent delete pruned the directories while they were made.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                root.check(op)?;
                continue;
            }
            Err(error) => return Err(error),
        };
        let _one_at_a_time = root.lock(id);
        let stored = stored_at(&parent, id, op)?;
        check(when, stored.as_ref(), op)?;
        let name = id.file_name();
        match permit.use_for(|| temp.rename(&parent, name, *when == Precondition::Absent)) {
            None => return Err(Error::new(ErrorKind::Other, op).with_message("the caller gave up")),
            Some(Ok(())) => {
                return Ok(Placed { parent, sidecar: sidecar.map(Sidecar::keep), old: stored });
            }
            Some(Err(Errno::NOENT)) => root.check(op)?,
            Some(Err(Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR)) => {
                match unlinkat(&parent, name, AtFlags::REMOVEDIR) {
                    // An empty directory is no file and keeps nobody's.
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(Errno::NOTDIR) => return Err(Error::new(ErrorKind::AlreadyExists, op)),
                    Err(_) => {
                        return Err(Error::new(ErrorKind::Conflict, op)
                            .with_message("there are files beneath this id"));
                    }
                }
            }
            Some(Err(errno)) => {
                let effect = temp.renamed(&parent, name);
                if effect != Effect::None {
                    sidecar.map(Sidecar::keep);
                }
                return Err(failed(op, errno).with_effect(effect));
            }
        }
    }
    Err(pruned_again(op))
}

/// A file in a directory of the storage's own; removed when dropped, unless it was renamed away or is to be kept.
#[derive(Debug)]
pub(super) struct Temp {
    directory: File,
    name: Option<String>,
    kept: bool,
    pub(super) file: File,
}

impl Temp {
    pub(super) fn create(directory: &File, op: Op) -> Result<Self> {
        let directory = directory.try_clone().map_err(|error| failed(op, error))?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            let name = uuid::Uuid::new_v4().simple().to_string();
            let file: File = openat(&directory, &name, flags, Mode::from_raw_mode(0o600))
                .map_err(|errno| failed(op, errno))?
                .into();
            if owner::claim(&directory, &name, &file).map_err(|errno| failed(op, errno))? {
                return Ok(Self { directory, name: Some(name), kept: false, file });
            }
        }
    }

    /// Takes a file that stays where it is until it is renamed.
    pub(super) fn kept(directory: File, name: &str, file: File) -> Self {
        Self { directory, name: Some(name.to_owned()), kept: true, file }
    }

    /// Moves the file to its place: over what is there, or, with `new`, only where nothing is.
    pub(super) fn rename(&mut self, parent: &File, to: &str, new: bool) -> Result<(), Errno> {
        let Some(name) = self.name.as_deref() else { return Err(Errno::NOENT) };
        if new {
            rename_new(&self.directory, name, parent, to)?;
        } else {
            rustix::fs::renameat(&self.directory, name, parent, to)?;
        }
        self.name = None;
        Ok(())
    }

    /// Looks what a [`rename`](Self::rename) has done that failed: on a network the answer can be lost.
    fn renamed(&self, parent: &File, to: &str) -> Effect {
        let is_here = |directory: &File, name: &str| {
            let (Ok(ours), Ok(there)) =
                (fstat(&self.file), statat(directory, name, AtFlags::SYMLINK_NOFOLLOW))
            else {
                return false;
            };
            (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)
        };
        if is_here(parent, to) {
            Effect::Applied
        } else if self.name.as_deref().is_some_and(|name| is_here(&self.directory, name)) {
            Effect::None
        } else {
            Effect::Unknown
        }
    }

    /// Removes the file, and says where that fails.
    pub(super) fn remove(mut self) -> Result<(), Errno> {
        let Some(name) = self.name.take() else { return Ok(()) };
        unlinkat(&self.directory, name, AtFlags::empty())
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if let Some(name) = self.name.as_ref().filter(|_| !self.kept) {
            // One that cannot be removed is left to the janitor.
            let _ = unlinkat(&self.directory, name, AtFlags::empty());
        }
    }
}

fn rename_new(from: &File, name: &str, parent: &File, to: &str) -> Result<(), Errno> {
    match rustix::fs::renameat_with(from, name, parent, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        result => return result,
    }
    // The file system cannot (NFS): a second name is refused as well where there is one. Taking the first name
    // away moves the change time, so a reader that came in between sees a change where there is none.
    linkat(from, name, parent, to, AtFlags::empty())?;
    unlinkat(from, name, AtFlags::empty())
}

/// Leave to publish, which ends when the caller's future is dropped: afterwards nothing appears any more.
#[derive(Clone, Debug)]
pub(super) struct Permit(Arc<Mutex<bool>>);

impl Permit {
    /// Does `work` unless the caller has given up; the caller waits for it in giving up.
    fn use_for<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let granted = lock(&self.0);
        granted.then(work)
    }
}

/// The caller's side of a [`Permit`].
#[derive(Debug)]
pub(super) struct Intent(Permit);

impl Intent {
    pub(super) fn new() -> Self {
        Self(Permit(Arc::new(Mutex::new(true))))
    }

    pub(super) fn permit(&self) -> Permit {
        self.0.clone()
    }
}

impl Drop for Intent {
    fn drop(&mut self) {
        *lock(&self.0.0) = false;
    }
}

/// Removes the file of this id, and the directories that it leaves empty; tells whether there was one.
pub(super) fn delete(root: &Root, id: &FileId, when: &Precondition, permit: &Permit) -> Result<bool> {
    let op = Op::Delete;
    root.private(op)?;
    if *when == Precondition::Absent {
        return Err(Error::new(ErrorKind::InvalidInput, op)
            .with_message("a file that is to be absent cannot be deleted"));
    }
    let parent = match root.parent(id) {
        Ok(parent) => parent,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => {
            root.check(op)?;
            return Ok(false);
        }
        Err(errno) => return Err(failed(op, errno)),
    };
    let stored = {
        let _one_at_a_time = root.lock(id);
        let stored =
            if id.file_name().len() > root.max_segment as usize { None } else { stored_at(&parent, id, op)? };
        let Some(stored) = stored else {
            root.check(op)?;
            return Ok(false);
        };
        check(when, Some(&stored), op)?;
        match permit.use_for(|| unlinkat(&parent, id.file_name(), AtFlags::empty())) {
            None => return Err(Error::new(ErrorKind::Other, op).with_message("the caller gave up")),
            Some(Ok(())) => stored,
            Some(Err(Errno::NOENT)) => return Ok(false),
            Some(Err(errno)) => {
                let gone = matches!(stored_at(&parent, id, op), Ok(None));
                let effect = if gone { Effect::Applied } else { Effect::None };
                return Err(failed(op, errno).with_effect(effect));
            }
        }
    };
    let synced = root.sync(&parent);
    if synced.is_ok() {
        // Only when the file cannot come back any more.
        Sidecar::remove(root, id, &stored, None);
    }
    root.prune(id);
    synced.map_err(|error| failed(op, error).with_effect(Effect::Applied))?;
    Ok(true)
}

/// Runs blocking work on tokio's pool for it. The work goes on when the future is dropped; what it owns is
/// dropped when it ends.
pub(super) async fn blocking<T: Send + 'static>(
    op: Op,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(failed(op, io::Error::other(error))),
    }
}
