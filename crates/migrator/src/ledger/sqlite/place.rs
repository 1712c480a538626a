//! Where a ledger lies: its path, its directory, its lock. The only file here that touches the file system
//! itself; everything else goes through SQLite.
//!
//! Nothing here opens an existing database: closing any descriptor of it drops the POSIX locks that SQLite
//! holds in this process ("How to corrupt an SQLite database file", section 2.2).

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use super::failure::Failure;

/// File names are users' data: nobody else reads them.
const MODE: u32 = 0o600;

/// Returns the one name of the ledger at `path`: links resolved, so that two names are one lock.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, Failure> {
    match fs::canonicalize(path) {
        Ok(path) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let name = path.file_name().ok_or_else(|| Failure::Other("the path names no file".to_owned()))?;
            Ok(fs::canonicalize(directory_of(path))?.join(name))
        }
        Err(error) => Err(error.into()),
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// What lies at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// A file without a byte.
    Empty,
    /// A file.
    File,
}

/// Looks at what lies at `path`, without opening it.
pub(super) fn look(path: &Path) -> Result<Found, Failure> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(Failure::Corrupt("it is not a regular file".to_owned())),
        Ok(metadata) if metadata.len() == 0 => Ok(Found::Empty),
        Ok(_) => Ok(Found::File),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Found::Nothing)
        }
        Err(error) => Err(error.into()),
    }
}

/// What shows that a ledger that nobody was writing was not written since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    size: u64,
    modified: SystemTime,
    log: Found,
}

impl Stamp {
    /// Looks at the ledger at `path`.
    pub(super) fn of(path: &Path) -> Result<Self, Failure> {
        let stat = fs::metadata(path)?;
        // An empty log is one that a reader has left.
        let log = match look(&beside(path, "-wal"))? {
            Found::File => Found::File,
            Found::Empty | Found::Nothing => Found::Nothing,
        };
        Ok(Self { size: stat.len(), modified: stat.modified()?, log })
    }
}

/// Makes the directory of `path` and its parents, each durable.
pub(super) fn create_directory(path: &Path) -> Result<(), Failure> {
    let mut missing = Vec::new();
    let mut directory = directory_of(path);
    while !directory.try_exists()? {
        missing.push(directory);
        directory = directory_of(directory);
    }
    for directory in missing.into_iter().rev() {
        match fs::create_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => sync_directory(directory_of(directory))?,
        }
    }
    Ok(())
}

/// Makes an empty file at `path`, where there is none, that only its owner can read; durable in its directory.
/// SQLite gives its own files the same mode.
pub(super) fn create_file(path: &Path) -> Result<(), Failure> {
    OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    sync_directory(directory_of(path))
}

fn sync_directory(directory: &Path) -> Result<(), Failure> {
    Ok(File::open(directory)?.sync_all()?)
}

/// The right to write the ledger: an advisory lock (flock) on the file beside it, which names its holder. The
/// kernel releases it when the process ends, however it ends; the file stays, and what it says means nothing
/// while nobody holds the lock.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock of the ledger at `path`, at once or not at all.
    pub(super) fn take(path: &Path) -> Result<Self, Failure> {
        let name = beside(path, ".lock");
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).mode(MODE).open(&name)?;
        let mut looks = LOOKS.iter();
        loop {
            match (file.try_lock(), looks.next()) {
                (Ok(()), _) => break,
                // Whoever only looks has it for a moment, too.
                (Err(TryLockError::WouldBlock), Some(look)) => std::thread::sleep(*look),
                (Err(TryLockError::WouldBlock), None) => {
                    return Err(Failure::Locked(read_holder(&mut file)));
                }
                (Err(TryLockError::Error(error)), _) => return Err(error.into()),
            }
        }
        file.set_len(0)?;
        file.write_all(describe_self().as_bytes())?;
        Ok(Self { file })
    }
}

/// How long is waited for somebody who only looks whether there is a holder ([`holder`]).
const LOOKS: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(20)];

/// Returns who holds the lock of the ledger at `path`, where somebody does. Changes nothing.
pub(super) fn holder(path: &Path) -> Result<Option<String>, Failure> {
    let mut file = match File::open(beside(path, ".lock")) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(read_holder(&mut file))),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // So that the next holder is never taken for this one. Nothing depends on it.
        drop(self.file.set_len(0));
    }
}

/// Returns the path of a file that belongs to the ledger at `path`.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

fn describe_self() -> String {
    let uname = rustix::system::uname();
    format!(
        "process {} on {}, since {:.0} (version {})\n",
        std::process::id(),
        uname.nodename().to_string_lossy(),
        Timestamp::now(),
        env!("CARGO_PKG_VERSION")
    )
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
