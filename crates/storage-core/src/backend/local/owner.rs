//! Who is writing: the writer of a temporary file, and of an upload that is being begun, holds a lock (`flock`) on
//! it until it has its place. The kernel drops the locks of a process that ends, however it ends, so a free lock
//! says that nobody will go on.
//!
//! Between making and locking, another process may take the lock and remove what it believes abandoned; the maker
//! sees that its name is gone ([`claim`]) and makes another.

use std::fs::File;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, fstat, openat, statat};
use rustix::io::Errno;

/// What a lock says of its writer.
#[derive(Debug)]
pub(super) enum Owner {
    /// Somebody is writing.
    Alive,
    /// Nobody is, and nobody can begin to while this is held.
    Dead(File),
    /// There is nothing under this name any more.
    Gone,
    /// The file system has no such locks, or this process may not take them: only age tells.
    Unknown,
}

/// Marks what was just made at `name` as being written by this process, for as long as `file` is open. False:
/// somebody has removed it before that.
pub(super) fn claim(directory: &File, name: &str, file: &File) -> Result<bool, Errno> {
    // Without locks nobody removes what is young.
    if flock(file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
        return Ok(false);
    }
    let ours = fstat(file)?;
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) => Ok((there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Looks who is writing the file or directory at `name`.
pub(super) fn look(directory: &File, name: &str, is_directory: bool) -> Owner {
    // Network file systems lock for writing only what is open for writing; a directory cannot be.
    let flags = if is_directory { OFlags::RDONLY | OFlags::DIRECTORY } else { OFlags::RDWR };
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file: File = match openat(directory, name, flags, Mode::empty()) {
        Ok(file) => file.into(),
        Err(Errno::NOENT) => return Owner::Gone,
        Err(_) => return Owner::Unknown,
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Owner::Dead(file),
        Err(Errno::WOULDBLOCK) => Owner::Alive,
        Err(_) => Owner::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_written_is_told_from_what_was_left() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = File::open(scratch.path()).unwrap();
        let file = File::create(scratch.path().join("a")).unwrap();
        assert!(claim(&directory, "a", &file).unwrap());
        assert!(matches!(look(&directory, "a", false), Owner::Alive));
        drop(file);
        assert!(matches!(look(&directory, "a", false), Owner::Dead(_)));
        assert!(matches!(look(&directory, "b", false), Owner::Gone));
        fs::create_dir(scratch.path().join("d")).unwrap();
        let made = File::open(scratch.path().join("d")).unwrap();
        assert!(claim(&directory, "d", &made).unwrap());
        assert!(matches!(look(&directory, "d", true), Owner::Alive));
    }

    #[test]
    fn a_file_that_was_swept_before_it_was_locked_is_made_again() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = File::open(scratch.path()).unwrap();
        let make = || File::create(scratch.path().join("a")).unwrap();
        let file = make();
        let sweeper = look(&directory, "a", false);
        assert!(!claim(&directory, "a", &file).unwrap(), "locked by the one who removes it");
        fs::remove_file(scratch.path().join("a")).unwrap();
        drop(sweeper);
        assert!(!claim(&directory, "a", &file).unwrap(), "removed");
        let _other = make();
        assert!(!claim(&directory, "a", &file).unwrap(), "another one of that name");
    }
}
