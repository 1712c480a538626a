//! The quarantine of a directory: `.storage/quarantine/PAIR/until-TIME-run-N/` beneath its root, in which every file keeps
//! the path that it had. PAIR stands for source and target, so that no two migrations of one directory share a place.
//!
//! # Order of effects, for the files of one call
//!
//! 1. the directories of the quarantine are made, each synced in the one above it
//! 2. for each file: it is of the version asked for; it is renamed; what was renamed is what was looked at, and was not
//!    written to in between, or else it is renamed back
//! 3. the directories that files came to are synced, then those that they left
//!
//! A file is never in no place: a rename is one step, and what a power cut undoes of it is the whole. Nothing is
//! replaced, and no link on the way is followed.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use jiff::Timestamp;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use storage_core::body::Identity;
use storage_core::error::{Effect, Error, ErrorKind, Op, Result};
use storage_core::id::FileId;
use storage_core::metadata::Version;
use tokio::sync::mpsc;

use super::{Attic, Expired};
use crate::preserve::{MARKER, link_version};
use crate::quarantine::{Drawer, expiry_of_drawer};

/// The storage's own directory, which no listing shows, and the quarantine in it.
const HOME: [&str; 2] = [".storage", "quarantine"];

/// No link on the way is followed, and nothing leads out of the directory.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Expired files that are found ahead of their deletion.
const AHEAD: usize = 256;

/// The quarantine of a directory.
#[derive(Debug)]
pub struct DirectoryAttic {
    name: Arc<str>,
    root: Arc<OwnedFd>,
    pair: String,
}

impl DirectoryAttic {
    /// Opens the root of a source, for the migration of `source` to `target`, as the ledger knows them. Makes nothing.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn open(name: &str, root: &Path, source: &str, target: &str) -> Result<Self> {
        let root = rustix::fs::open(root, DIRECTORY, Mode::empty())
            .map_err(|errno| failed(Op::Open, errno).with_storage(name))?;
        let mut hasher = Sha256::new();
        // A separator that neither text can hold.
        hasher.update(source.as_bytes());
        hasher.update([0]);
        hasher.update(target.as_bytes());
        let pair = hex::encode(&hasher.finalize()[..8]);
        Ok(Self { name: name.into(), root: Arc::new(root), pair })
    }

    /// Tells whether files were ever moved away for this pair: its place is never removed.
    pub fn was_used(&self) -> bool {
        rustix::fs::openat2(&*self.root, self.home(), DIRECTORY, Mode::empty(), BENEATH).is_ok()
    }

    /// Returns the place of this pair, beneath the root.
    pub fn home(&self) -> String {
        format!("{}/{}/{}", HOME[0], HOME[1], self.pair)
    }

    fn named(&self, error: Error) -> Error {
        error.with_storage(&self.name)
    }
}

fn failed(op: Op, errno: Errno) -> Error {
    let kind = match errno {
        Errno::NOENT | Errno::NOTDIR => ErrorKind::NotFound,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => ErrorKind::Denied,
        Errno::LOOP => ErrorKind::NotAFile,
        Errno::EXIST | Errno::ISDIR | Errno::NOTEMPTY => ErrorKind::Conflict,
        Errno::NOSPC | Errno::DQUOT => ErrorKind::StorageFull,
        Errno::XDEV => ErrorKind::Unsupported,
        _ => ErrorKind::Other,
    };
    Error::new(kind, op).with_source(errno)
}

fn open_directory(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { "." } else { path };
    rustix::fs::openat2(root, path, DIRECTORY, Mode::empty(), BENEATH)
}

/// Opens a directory and makes it, and those above it, where there is none. The mode is that of the storage's own
/// directory for the first segment, and the owner's alone beneath.
fn create_directory(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    match open_directory(root, path) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mode = if above.is_empty() { 0o777 } else { 0o700 };
    let directory = create_directory(root, above)?;
    match rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(mode)) {
        Ok(()) => rustix::fs::fsync(&directory)?,
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    open_directory(root, path)
}

/// Returns what a storage in this directory takes for the version of an entry.
fn version(stat: &Stat) -> Option<Version> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Some(identity(stat).version()),
        FileType::Symlink => Some(link_version(stat)),
        _ => None,
    }
}

#[expect(clippy::unnecessary_cast, reason = "the types of the fields differ from system to system")]
fn identity(stat: &Stat) -> Identity {
    Identity::from_parts(
        stat.st_dev as u64,
        stat.st_ino as u64,
        stat.st_size as u64,
        (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
        (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
    )
}

/// Tells whether it is the same file, whose bytes nobody has written to. The change time is that of the rename.
fn is_same(one: &Stat, other: &Stat) -> bool {
    let what = |stat: &Stat| (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    what(one) == what(other)
}

/// Moves one file. What went wrong says whether it is still where it was.
fn move_one(root: &OwnedFd, drawer: &str, id: &FileId, asked: &Version) -> Result<()> {
    let op = Op::Delete;
    let kept = |errno| failed(op, errno);
    let parent = id.parent().unwrap_or_default();
    let above = open_directory(root, parent).map_err(kept)?;
    let look = |directory: &OwnedFd| rustix::fs::statat(directory, id.file_name(), AtFlags::SYMLINK_NOFOLLOW);
    // Made before the last look, which is to be the last thing before the move.
    let beneath = if parent.is_empty() { drawer.to_owned() } else { format!("{drawer}/{parent}") };
    look(&above).map_err(kept)?;
    let there = create_directory(root, &beneath).map_err(kept)?;
    let seen = look(&above).map_err(kept)?;
    let changed =
        || Error::new(ErrorKind::VersionMismatch, op).with_message("the source changed after it was copied");
    if version(&seen).as_ref() != Some(asked) {
        return Err(changed());
    }
    if let Err(errno) = rename(&above, id.file_name(), &there, id.file_name()) {
        // A server may have done it, and its answer was lost.
        let moved = look(&there).is_ok_and(|found| is_same(&found, &seen));
        let stays =
            look(&above).is_ok_and(|found| (found.st_dev, found.st_ino) == (seen.st_dev, seen.st_ino));
        return match (moved, stays) {
            (true, _) => Ok(()),
            (false, true) => Err(failed(op, errno).with_message(words(errno))),
            (false, false) => Err(failed(op, errno).with_effect(Effect::Unknown)),
        };
    }
    match look(&there) {
        Ok(found) if is_same(&found, &seen) => Ok(()),
        // Somebody wrote to it, or put another in its place, in between.
        _ => match rename(&there, id.file_name(), &above, id.file_name()) {
            Ok(()) => Err(changed()),
            Err(errno) => Err(failed(op, errno).with_effect(Effect::Applied).with_message(format!(
                "it changed while it was moved and cannot be put back: it is {beneath}/{}",
                id.file_name()
            ))),
        },
    }
}

fn words(errno: Errno) -> String {
    match errno {
        Errno::XDEV => "it is on another file system than the quarantine, and nothing is moved by copying: \
                        migrate what is mounted there by itself"
            .to_owned(),
        other => other.to_string(),
    }
}

/// Renames, and replaces nothing.
fn rename(from: &OwnedFd, name: &str, to: &OwnedFd, new: &str) -> Result<(), Errno> {
    match rustix::fs::renameat_with(from, name, to, new, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        result => return result,
    }
    // The file system cannot (NFS). Nobody else writes into the drawer of a run.
    match rustix::fs::statat(to, new, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => rustix::fs::renameat(from, name, to, new),
        Ok(_) => Err(Errno::EXIST),
        Err(errno) => Err(errno),
    }
}

fn move_all(root: &OwnedFd, drawer: &str, files: &[(FileId, Version)]) -> Vec<Result<()>> {
    let mut answers: Vec<_> = files.iter().map(|(id, version)| move_one(root, drawer, id, version)).collect();
    let moved = |answer: &Result<()>| match answer {
        Ok(()) => true,
        Err(error) => error.effect() != Effect::None || error.kind() == ErrorKind::VersionMismatch,
    };
    let parents: BTreeSet<&str> = files
        .iter()
        .zip(&answers)
        .filter(|(_, answer)| moved(answer))
        .map(|((id, _), _)| id.parent().unwrap_or_default())
        .collect();
    let mut unsynced = Vec::new();
    for parent in parents {
        let beneath = if parent.is_empty() { drawer.to_owned() } else { format!("{drawer}/{parent}") };
        // Where files came to first: they are in both places after a power cut rather than in none.
        for path in [beneath.as_str(), parent] {
            let synced = open_directory(root, path).and_then(|directory| rustix::fs::fsync(&directory));
            match synced {
                Ok(()) => {}
                // Nothing came to it, or it was removed with what had been in it.
                Err(Errno::NOENT) => {}
                Err(errno) => unsynced.push((parent.to_owned(), errno)),
            }
        }
    }
    for (parent, errno) in unsynced {
        for ((id, _), answer) in files.iter().zip(&mut answers) {
            if answer.is_ok() && id.parent().unwrap_or_default() == parent {
                let error = failed(Op::Delete, errno).with_effect(Effect::Applied);
                *answer = Err(error.with_message("it was moved, and that cannot be made durable"));
            }
        }
    }
    answers
}

#[async_trait]
impl Attic for DirectoryAttic {
    fn takes(&self, id: &FileId) -> bool {
        id.file_name() != MARKER
    }

    fn place(&self, drawer: &Drawer, id: &FileId) -> String {
        format!("{}/{}/{id}", self.home(), drawer.name())
    }

    async fn put_away(&self, drawer: &Drawer, files: Vec<(FileId, Version)>) -> Vec<Result<(), Error>> {
        let drawer = format!("{}/{}", self.home(), drawer.name());
        let (root, moving) = (Arc::clone(&self.root), files.clone());
        let moved = tokio::task::spawn_blocking(move || move_all(&root, &drawer, &moving)).await;
        let answers = moved.unwrap_or_else(|error| {
            let broken = |_| {
                let error = std::io::Error::other(error.to_string());
                Err(Error::new(ErrorKind::Other, Op::Delete).with_effect(Effect::Unknown).with_source(error))
            };
            files.iter().map(broken).collect()
        });
        let named = |((id, _), answer): (&(FileId, Version), Result<()>)| {
            answer.map_err(|error| self.named(error.with_id(id)))
        };
        files.iter().zip(answers).map(named).collect()
    }

    fn expired(&self, now: Timestamp) -> BoxStream<'static, Result<Expired>> {
        let (found, receiver) = mpsc::channel(AHEAD);
        let (root, home, name) = (Arc::clone(&self.root), self.home(), Arc::clone(&self.name));
        let walk = tokio::task::spawn_blocking(move || {
            if let Err(errno) = walk(&root, &home, now, &found) {
                // Nobody may listen any more.
                let _ = found.blocking_send(Err(failed(Op::List, errno).with_storage(&name)));
            }
        });
        let files = stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
        let ended = async move { walk.await.err() };
        let ended = ended.map(|error| {
            let error = std::io::Error::other(error?);
            Some(Err(Error::new(ErrorKind::Other, Op::List).with_source(error)))
        });
        files.chain(ended.into_stream().filter_map(std::future::ready)).boxed()
    }

    async fn delete(&self, expired: &Expired) -> Result<bool> {
        let (root, place, home) = (Arc::clone(&self.root), expired.place.clone(), self.home());
        let done = tokio::task::spawn_blocking(move || delete(&root, &home, &place)).await;
        match done {
            Ok(deleted) => {
                deleted.map_err(|errno| self.named(failed(Op::Delete, errno).with_id(&expired.id)))
            }
            Err(error) => {
                let error = std::io::Error::other(error);
                Err(self.named(Error::new(ErrorKind::Other, Op::Delete).with_source(error)))
            }
        }
    }
}

/// Finds the files of all drawers whose time is over.
fn walk(
    root: &OwnedFd,
    home: &str,
    now: Timestamp,
    found: &mpsc::Sender<Result<Expired>>,
) -> Result<(), Errno> {
    let drawers = match open_directory(root, home) {
        Ok(directory) => entries(&directory)?,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    for (drawer, _) in drawers {
        let Some(drawer) = drawer.to_str() else { continue };
        if expiry_of_drawer(drawer).is_none_or(|until| until > now) {
            continue;
        }
        let top = format!("{home}/{drawer}");
        let mut left = vec![String::new()];
        while let Some(beneath) = left.pop() {
            let path = format!("{top}/{beneath}");
            for (name, kind) in entries(&open_directory(root, path.trim_end_matches('/'))?)? {
                // All names here were ids.
                let Some(name) = name.to_str() else { continue };
                if kind == FileType::Directory {
                    left.push(format!("{beneath}{name}/"));
                    continue;
                }
                let Ok(id) = FileId::parse(format!("{beneath}{name}")) else { continue };
                let place = format!("{top}/{id}");
                if found.blocking_send(Ok(Expired { id, place })).is_err() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// Reads a directory whole, as its files may be deleted meanwhile.
fn entries(directory: &OwnedFd) -> Result<Vec<(PathBuf, FileType)>, Errno> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            kind => kind,
        };
        found.push((PathBuf::from(std::ffi::OsStr::from_bytes(name)), kind));
    }
    Ok(found)
}

fn delete(root: &OwnedFd, home: &str, place: &str) -> Result<bool, Errno> {
    let Some((above, name)) = place.rsplit_once('/').filter(|(above, _)| above.starts_with(home)) else {
        return Err(Errno::INVAL);
    };
    let directory = match open_directory(root, above) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(false),
        Err(errno) => return Err(errno),
    };
    match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(false),
        Err(errno) => return Err(errno),
    }
    // Up to the drawer: the place of the pair stays, as it says that files were moved away.
    let mut empty = above;
    while empty.len() > home.len()
        && let Some((above, name)) = empty.rsplit_once('/')
        && let Ok(directory) = open_directory(root, above)
        && rustix::fs::unlinkat(&directory, name, AtFlags::REMOVEDIR).is_ok()
    {
        empty = above;
    }
    Ok(true)
}
