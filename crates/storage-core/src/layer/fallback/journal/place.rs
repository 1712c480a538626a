//! Where a journal lies: its file, its directory, its lock.
//!
//! Nothing here opens an existing database: closing any descriptor of it drops the POSIX locks that SQLite holds
//! in this process ("How to corrupt an SQLite database file", section 2.2).
//!
//! The migrator's ledger has much of the same, on purpose: what both share would be public here, and is no business of
//! a storage library; and the ledger makes its directories, tells an empty file from none and names its host.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Failure;

/// Ids are users' data: nobody else reads them.
const MODE: u32 = 0o600;

/// Returns the one name of the journal at `path`: links resolved, so that two names are one lock.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, Failure> {
    if let Ok(path) = fs::canonicalize(path) {
        return Ok(path);
    }
    let name = path.file_name().ok_or_else(|| Failure::Place("the path names no file".to_owned()))?;
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let directory = fs::canonicalize(directory).map_err(|error| {
        Failure::Place(format!("its directory {} cannot be used: {error}", directory.display()))
    })?;
    Ok(directory.join(name))
}

/// Makes an empty file at `path`, where there is none, that only its owner can read; durable in its directory.
/// SQLite gives its own files the same mode.
pub(super) fn create(path: &Path) -> Result<(), Failure> {
    match OpenOptions::new().write(true).create_new(true).mode(MODE).open(path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let directory = path.parent().unwrap_or(path);
    Ok(File::open(directory)?.sync_all()?)
}

/// The right to use the journal: an advisory lock (flock) on the file beside it, which names its holder. The
/// kernel releases it when the process ends, however it ends; the file stays, and what it says means nothing
/// while nobody holds the lock.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock of the journal at `path`, at once or not at all.
    pub(super) fn take(path: &Path) -> Result<Self, Failure> {
        let mut name = OsString::from(path);
        name.push(".lock");
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).mode(MODE).open(&name)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Failure::Locked(read_holder(&mut file))),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        file.set_len(0)?;
        let (process, since) = (std::process::id(), jiff::Timestamp::now());
        file.write_all(format!("process {process}, since {since:.0}\n").as_bytes())?;
        Ok(Self { file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // So that the next holder is never taken for this one. Nothing depends on it.
        drop(self.file.set_len(0));
    }
}

/// Reads who holds the lock. The holder writes its name just after it has the lock: an empty file is given a
/// moment.
fn read_holder(file: &mut File) -> String {
    for wait in [0, 10, 100] {
        std::thread::sleep(Duration::from_millis(wait));
        let mut text = String::new();
        if file.rewind().and_then(|()| file.take(1024).read_to_string(&mut text)).is_ok() {
            let text = text.trim();
            if !text.is_empty() {
                return text.chars().filter(|char| !char.is_control()).collect();
            }
        }
    }
    "another process".to_owned()
}
