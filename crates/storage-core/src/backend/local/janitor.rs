//! What keeps the storage's own directory clean, and what tells whether it can be used.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, FileType, Stat, statat, unlinkat};
use rustix::io::Errno;

use super::attributes::from_parts;
use super::config::Durability;
use super::error::failed;
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

/// Removes what crashes left behind and nobody has touched for `older_than`.
pub(super) fn sweep(root: &Root, older_than: Duration, op: Op) -> Result<Swept> {
    let private = root.private(op)?;
    let mut swept = sweep_temp(root, older_than, op)?;
    swept.sidecars = each_old(&private.attributes, older_than, op, |name, _| {
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
    let temp_files = each_old(&private.tmp, older_than, op, |name, stat| {
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            return remove(&private.tmp, name, op);
        }
        Ok(false)
    })?;
    let broken = without_ticket(root, op)?;
    let uploads = each_old(&private.uploads, older_than, op, |name, _| {
        if broken.iter().any(|upload| upload == name) {
            discard(root, name, op)?;
            return Ok(true);
        }
        Ok(false)
    })?;
    Ok(Swept { temp_files, sidecars: 0, uploads })
}

fn remove(directory: &File, name: &str, op: Op) -> Result<bool> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(failed(op, errno)),
    }
}

/// Calls `work` with every old entry, and counts what it says yes to.
fn each_old(
    directory: &File,
    older_than: Duration,
    op: Op,
    mut work: impl FnMut(&str, &Stat) -> Result<bool>,
) -> Result<u64> {
    let Some(before) = SystemTime::now().checked_sub(older_than) else { return Ok(0) };
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
        let modified = from_parts(modified_parts(&stat));
        if modified.is_some_and(|modified| modified <= before) && work(name, &stat)? {
            count += 1;
        }
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
    if root.durability == Durability::Durable {
        temp.file.sync_all().map_err(|error| failed(OP, error))?;
    }
    let mut read = [0; CANARY.len()];
    temp.file.read_exact_at(&mut read, 0).map_err(|error| failed(OP, error))?;
    if read != *CANARY {
        return Err(Error::new(ErrorKind::Integrity, OP).with_message("the canary came back changed"));
    }
    temp.remove().map_err(|errno| failed(OP, errno))
}
