//! What keeps the storage's own directory clean, and what tells whether it can be used.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, FileType, Stat, statat, unlinkat};
use rustix::io::Errno;

use super::attributes::from_parts;
use super::error::failed;
use super::owner::{self, Owner};
use super::resumable::{discard, without_ticket};
use super::root::{Root, modified_parts};
use super::sidecar::Sidecar;
use super::staged::Temp;
use crate::error::{Error, ErrorKind, Op, Result};

/// What a [`sweep`](super::LocalStorage::sweep) removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Swept {
    /// Temporary files that a crash left behind.
    pub temp_files: u64,
    /// Sidecars that describe no file.
    pub sidecars: u64,
    /// Directories of uploads in parts that were not fully begun or not fully removed. Open uploads are not
    /// touched: [`stale`](crate::storage::ResumableUpload::stale) lists them.
    pub uploads: u64,
}

/// Removes what crashes left behind; where it cannot be known who is writing, what nobody has touched for
/// `older_than`.
pub(super) fn sweep(root: &Root, older_than: Duration, op: Op) -> Result<Swept> {
    let private = root.private(op)?;
    let mut swept = sweep_temp(root, older_than, op)?;
    let before = SystemTime::now().checked_sub(older_than);
    swept.sidecars = each(&private.attributes, op, |name, stat| {
        if !is_old(stat, before) {
            return Ok(false);
        }
        match Sidecar::is_of_a_file(root, &private.attributes, name) {
            Ok(true) => Ok(false),
            Ok(false) => remove(&private.attributes, name, op),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(failed(op, errno)),
        }
    })?;
    Ok(swept)
}

/// The part of [`sweep`] whose cost does not grow with the number of files.
pub(super) fn sweep_temp(root: &Root, older_than: Duration, op: Op) -> Result<Swept> {
    let private = root.private(op)?;
    let before = SystemTime::now().checked_sub(older_than);
    let temp_files = each(&private.tmp, op, |name, stat| {
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(false);
        }
        match owner::look(&private.tmp, name, false) {
            Owner::Dead(_lock) => remove(&private.tmp, name, op),
            Owner::Unknown if is_old(stat, before) => remove(&private.tmp, name, op),
            Owner::Alive | Owner::Gone | Owner::Unknown => Ok(false),
        }
    })?;
    let uploads = each(&private.uploads, op, |name, stat| {
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory || !without_ticket(root, name, op)? {
            return Ok(false);
        }
        match owner::look(&private.uploads, name, true) {
            // Its ticket may have come since.
            Owner::Dead(_lock) if without_ticket(root, name, op)? => Ok(discarded(root, name, op)),
            Owner::Unknown if is_old(stat, before) => Ok(discarded(root, name, op)),
            _ => Ok(false),
        }
    })?;
    Ok(Swept { temp_files, sidecars: 0, uploads })
}

/// Removes an upload's directory. A part that arrives while it is removed keeps it: the next sweep is the next
/// chance, and nothing else depends on it.
fn discarded(root: &Root, upload: &str, op: Op) -> bool {
    match discard(root, upload, op) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(upload, %error, "the remains of an upload stay");
            false
        }
    }
}

fn remove(directory: &File, name: &str, op: Op) -> Result<bool> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(failed(op, errno)),
    }
}

fn is_old(stat: &Stat, before: Option<SystemTime>) -> bool {
    let modified = from_parts(modified_parts(stat));
    modified.zip(before).is_some_and(|(modified, before)| modified <= before)
}

/// Calls `work` with every entry, and counts what it says yes to.
fn each(directory: &File, op: Op, mut work: impl FnMut(&str, &Stat) -> Result<bool>) -> Result<u64> {
    let mut count = 0;
    for entry in Dir::read_from(directory).map_err(|errno| failed(op, errno))? {
        let entry = entry.map_err(|errno| failed(op, errno))?;
        // All names here are the storage's own, and ASCII.
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name == "." || name == ".." {
            continue;
        }
        let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(failed(op, errno)),
        };
        count += u64::from(work(name, &stat)?);
    }
    Ok(count)
}

/// Writes, reads back and removes a canary; a storage opened for reading only reads its root.
pub(super) fn probe(root: &Root) -> Result<()> {
    const CANARY: &[u8] = b"can this storage be used?";
    const OP: Op = Op::Probe;
    root.check(OP)?;
    if root.read_only() {
        return match Dir::read_from(&root.directory).map_err(|errno| failed(OP, errno))?.next() {
            Some(Err(errno)) => Err(failed(OP, errno)),
            _ => Ok(()),
        };
    }
    let mut temp = Temp::create(&root.private(OP)?.tmp, OP)?;
    temp.file.write_all(CANARY).map_err(|error| failed(OP, error))?;
    root.sync(&temp.file).map_err(|error| failed(OP, error))?;
    let mut read = [0; CANARY.len()];
    temp.file.read_exact_at(&mut read, 0).map_err(|error| failed(OP, error))?;
    if read != *CANARY {
        return Err(Error::new(ErrorKind::Integrity, OP).with_message("the canary came back changed"));
    }
    temp.remove().map_err(|errno| failed(OP, errno))
}
