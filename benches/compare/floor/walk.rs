//! A walk over a directory by descriptors, and the reading of what it finds.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, statat};
use rustix::io::read as read_fd;
use sha2::{Digest as _, Sha256};

/// What is read at once.
const STEP: usize = 256 << 10;

/// Calls `found` with each regular file beneath `root`: its path there, and its size.
///
/// # Errors
/// When a directory cannot be read, and those of `found`.
pub(crate) fn files(root: &Path, mut found: impl FnMut(&Path, u64) -> Result<()>) -> Result<()> {
    walk(root, &mut |_, _, path, size| found(Path::new(OsStr::from_bytes(path)), size))
}

type Found<'a> = &'a mut dyn FnMut(BorrowedFd<'_>, &std::ffi::CStr, &[u8], u64) -> Result<()>;

fn walk(root: &Path, found: Found<'_>) -> Result<()> {
    let context = || format!("cannot read {}", root.display());
    let directory =
        openat(CWD, root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).with_context(context)?;
    descend(directory, &mut Vec::new(), found)
}

fn descend(directory: OwnedFd, path: &mut Vec<u8>, found: Found<'_>) -> Result<()> {
    let here = |path: &[u8]| format!("cannot read {:?} in the tree", OsStr::from_bytes(path));
    let entries = Dir::read_from(&directory).with_context(|| here(path))?;
    for entry in entries {
        let entry = entry.with_context(|| here(path))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let length = path.len();
        if length > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        // The kind is known from the entry on all file systems that matter; the size is not.
        let kind = match entry.file_type() {
            FileType::Directory => FileType::Directory,
            FileType::RegularFile | FileType::Unknown => {
                let stat = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW).with_context(|| here(path))?;
                let kind = FileType::from_raw_mode(stat.st_mode);
                if kind == FileType::RegularFile {
                    found(directory.as_fd(), name, path, u64::try_from(stat.st_size).unwrap_or(0))?;
                }
                kind
            }
            other => other,
        };
        if kind == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let inner = openat(&directory, name, flags, Mode::empty()).with_context(|| here(path))?;
            descend(inner, path, found)?;
        }
        path.truncate(length);
    }
    Ok(())
}

/// Walks and looks at each file, and prints their number and size.
///
/// # Errors
/// Those of the walk.
pub(crate) fn stat(root: &Path) -> Result<()> {
    let (mut count, mut bytes) = (0_u64, 0);
    files(root, |_, size| {
        count += 1;
        bytes += size;
        Ok(())
    })?;
    crate::say(format_args!("{count} files, {bytes} bytes"));
    Ok(())
}

/// Walks, reads each file once and hashes it, on one thread, and prints the number and size of files with a hash of
/// all hashes. `twice` is for a file in parts, which has a hash of each part and one of the whole.
///
/// # Errors
/// Those of the walk and of reading.
pub(crate) fn read(root: &Path, twice: bool) -> Result<()> {
    let (mut count, mut bytes) = (0_u64, 0);
    let mut all = [0_u8; 32];
    let mut buffer = vec![0; STEP];
    walk(root, &mut |directory, name, _, _| {
        let file = openat(directory, name, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty())?;
        let size = usize::try_from(fstat(&file)?.st_size)?;
        let mut hasher = Sha256::new();
        let mut parts = twice.then(Sha256::new);
        let mut done = 0;
        while done < size {
            let read = read_fd(&file, &mut buffer[..])?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            if let Some(parts) = &mut parts {
                parts.update(&buffer[..read]);
            }
            done += read;
        }
        count += 1;
        bytes += done as u64;
        if let Some(parts) = parts {
            std::hint::black_box(parts.finalize());
        }
        // In no order.
        for (sum, byte) in all.iter_mut().zip(hasher.finalize()) {
            *sum ^= byte;
        }
        Ok(())
    })?;
    crate::say(format_args!("{count} files, {bytes} bytes, {}", hex::encode(all)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_at_all_depths_are_found_and_links_are_not() {
        let root = tempfile::tempdir().unwrap();
        for name in ["a", "d/b", "d/e/c"] {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        std::os::unix::fs::symlink("a", root.path().join("link")).unwrap();
        std::os::unix::fs::symlink("..", root.path().join("d/loop")).unwrap();
        let mut found = Vec::new();
        files(root.path(), |path, size| {
            found.push((path.to_str().unwrap().to_owned(), size));
            Ok(())
        })
        .unwrap();
        found.sort();
        assert_eq!(found, [("a".to_owned(), 1), ("d/b".to_owned(), 3), ("d/e/c".to_owned(), 5)]);
    }
}
