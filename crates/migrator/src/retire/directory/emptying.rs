//! Empties the quarantine of a directory: finds what was there long enough, and deletes a file only as long as it has the
//! bytes that it was moved with.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use jiff::Timestamp;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use storage_core::checksum::{Digest, Hasher};
use storage_core::error::{Op, Result};
use storage_core::id::FileId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{BENEATH, failed, open_directory};
use crate::preserve::entries;
use crate::quarantine::expiry_of_drawer;
use crate::retire::{Deletion, Expired};

/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// Finds the files of all drawers whose time is over. A directory that cannot be read is told, and the rest is found.
pub(super) fn walk(
    root: &OwnedFd,
    home: &str,
    now: Timestamp,
    name: &str,
    found: &mpsc::Sender<Result<Expired>>,
) {
    let drawers = match list(root, home) {
        Ok(drawers) => drawers,
        Err(errno) => {
            // Nobody may listen any more.
            let _ = found.blocking_send(Err(failed(Op::List, errno).with_storage(name)));
            return;
        }
    };
    for (drawer, ..) in drawers {
        let Some(drawer) = drawer.to_str() else { continue };
        if expiry_of_drawer(drawer).is_none_or(|until| until > now) {
            continue;
        }
        let top = format!("{home}/{drawer}");
        let mut left = vec![String::new()];
        while let Some(beneath) = left.pop() {
            let path = format!("{top}/{beneath}");
            let path = path.trim_end_matches('/');
            let entries = list(root, path).unwrap_or_else(|errno| {
                let error = failed(Op::List, errno).with_storage(name);
                let _ = found.blocking_send(Err(error.with_message(format!("{path}: {errno}"))));
                Vec::new()
            });
            for (name, kind, link) in entries {
                // All names here were ids.
                let Some(name) = name.to_str() else { continue };
                if kind == FileType::Directory {
                    left.push(format!("{beneath}{name}/"));
                    continue;
                }
                let Ok(id) = FileId::parse(format!("{beneath}{name}")) else { continue };
                let place = format!("{top}/{id}");
                if found.blocking_send(Ok(Expired { id, place, link })).is_err() {
                    return;
                }
            }
        }
    }
}

/// A name, what has it, and what it says where that is a link.
type Listed = (PathBuf, FileType, Option<Vec<u8>>);

/// Lists a directory; one that is no more, or never was, has nothing.
fn list(root: &OwnedFd, path: &str) -> Result<Vec<Listed>, Errno> {
    let directory = match open_directory(root, path) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(errno) => return Err(errno),
    };
    let entries = entries(&directory)?.into_iter();
    let listed = entries.map(|(name, kind)| {
        let link = (kind == FileType::Symlink).then(|| read_link(&directory, &name)).transpose()?;
        Ok((name, kind, link))
    });
    listed.collect()
}

fn read_link(directory: &OwnedFd, name: impl rustix::path::Arg) -> Result<Vec<u8>, Errno> {
    rustix::fs::readlinkat(directory, name, Vec::new()).map(std::ffi::CString::into_bytes)
}

/// Deletes a file that was moved with bytes of this digest, right after it was read, and a link that says what it did when
/// it was found. The place of the pair stays, as it says that files were moved away.
pub(super) fn delete(
    root: &OwnedFd,
    home: &str,
    expired: &Expired,
    digest: Digest,
    given_up: &CancellationToken,
) -> Result<Deletion, Errno> {
    let within = expired.place.rsplit_once('/').filter(|(above, _)| above.starts_with(home));
    let Some((above, name)) = within else { return Err(Errno::INVAL) };
    let absent = |errno| if errno == Errno::NOENT { Ok(Deletion::Absent) } else { Err(errno) };
    let directory = match open_directory(root, above) {
        Ok(directory) => directory,
        Err(errno) => return absent(errno),
    };
    let look = || rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW);
    let seen = match look() {
        Ok(seen) => seen,
        Err(errno) => return absent(errno),
    };
    let is_it = match FileType::from_raw_mode(seen.st_mode) {
        FileType::RegularFile => {
            // Never waits for whoever would write into a fifo that took its place.
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat2(&directory, name, flags, Mode::empty(), BENEATH)?;
            let before = rustix::fs::fstat(&file)?;
            is_untouched(&seen, &before)
                && digest_of(&file, given_up)? == digest
                && is_untouched(&before, &rustix::fs::fstat(&file)?)
        }
        FileType::Symlink => digest == Digest::of(b"") && Some(read_link(&directory, name)?) == expired.link,
        _ => false,
    };
    if !is_it || !is_untouched(&seen, &look()?) {
        return Ok(Deletion::Changed);
    }
    if given_up.is_cancelled() {
        return Err(Errno::CANCELED);
    }
    match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
        Ok(()) => {}
        Err(errno) => return absent(errno),
    }
    let mut empty = above;
    while empty.len() > home.len()
        && let Some((above, name)) = empty.rsplit_once('/')
        && let Ok(directory) = open_directory(root, above)
        && rustix::fs::unlinkat(&directory, name, AtFlags::REMOVEDIR).is_ok()
    {
        empty = above;
    }
    Ok(Deletion::Deleted)
}

/// Tells whether it is the same file, and nobody has written to it or changed what is known of it.
fn is_untouched(one: &Stat, other: &Stat) -> bool {
    let what = |stat: &Stat| {
        let times = (stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec);
        (stat.st_dev, stat.st_ino, stat.st_size, times)
    };
    what(one) == what(other)
}

fn digest_of(file: &OwnedFd, given_up: &CancellationToken) -> Result<Digest, Errno> {
    let mut hasher = Hasher::new();
    let mut piece = vec![0; PIECE];
    loop {
        if given_up.is_cancelled() {
            return Err(Errno::CANCELED);
        }
        match rustix::io::read(file, &mut piece[..]) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(read) => hasher.update(&piece[..read]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
