//! Moves files to the quarantine of a directory.
//!
//! # Order of effects, for the files of one call
//!
//! 1. the directories of the quarantine are made, each synced in the one above it
//! 2. for each file: it is of the version asked for; it is renamed; what was renamed is what was looked at, and was not
//!    written to in between, or else it is renamed back
//! 3. the directories that files came to are synced, then those that they left
//!
//! A file is never in no place: a rename is one step, and what a power cut undoes of it is the whole. Nothing is replaced.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, RenameFlags, Stat};
use rustix::io::Errno;
use storage_core::body::Identity;
use storage_core::error::{Effect, Error, ErrorKind, Op, Result};
use storage_core::id::FileId;
use storage_core::metadata::Version;

use super::{create_directory, failed, open_directory};
use crate::preserve::link_version;

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
        _ => match put_back(&there, id.file_name(), &above) {
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

/// Renames back, and replaces nothing on any file system: others write where it was.
fn put_back(from: &OwnedFd, name: &str, to: &OwnedFd) -> Result<(), Errno> {
    match rustix::fs::renameat_with(from, name, to, name, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        result => return result,
    }
    // The file system cannot (NFS): a second name is refused as well where there is one.
    rustix::fs::linkat(from, name, to, name, AtFlags::empty())?;
    rustix::fs::unlinkat(from, name, AtFlags::empty())
}

pub(super) fn move_all(root: &OwnedFd, drawer: &str, files: &[(FileId, Version)]) -> Vec<Result<()>> {
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
