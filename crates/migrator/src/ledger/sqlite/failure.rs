//! What SQLite and the file system refuse, told as a [`LedgerError`]. The only place that reads their codes.

use std::io;
use std::path::Path;

use rusqlite::ErrorCode;
use rusqlite::ffi;

use crate::ledger::{Binding, LedgerError};

/// Why something failed, before it is known which ledger it is about. A clone goes to each caller that shared
/// a commit.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// Another process works with it.
    Locked(String),
    /// It is about another pair.
    OtherPair(Box<(Binding, Binding)>),
    /// A later release wrote it.
    Newer { found: u32, supported: u32 },
    /// There is none.
    Missing,
    /// It is no ledger, or a damaged one.
    Corrupt(String),
    /// It cannot be written.
    ReadOnly(String),
    /// The disk is full.
    Full,
    /// An error of input and output that a full disk may explain.
    Device(String),
    /// Anything else.
    Other(String),
}

impl Failure {
    /// Names the ledger. `path` is where it is; `location` is what it is called.
    pub(super) fn into_error(self, path: &Path, location: &str) -> LedgerError {
        let location = location.to_owned();
        match self {
            Self::Locked(holder) => LedgerError::Locked { location, holder },
            Self::OtherPair(pair) => {
                let (found, asked) = *pair;
                LedgerError::OtherPair { location, found, asked }
            }
            Self::Newer { found, supported } => LedgerError::Newer { location, found, supported },
            Self::Missing => LedgerError::Missing { location },
            Self::Corrupt(reason) => LedgerError::Corrupt { location, reason },
            Self::ReadOnly(reason) => LedgerError::ReadOnly { location, reason },
            Self::Full => LedgerError::Full { location },
            Self::Device(_) if is_full(path) => LedgerError::Full { location },
            Self::Device(reason) | Self::Other(reason) => LedgerError::Other { location, reason },
        }
    }
}

/// SQLite has other names than "full" for some of what fails on a full disk: a sync, a truncation.
fn is_full(path: &Path) -> bool {
    let directory = path.parent().unwrap_or(path);
    rustix::fs::statvfs(directory).is_ok_and(|stat| stat.f_bavail == 0)
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error;
        let reason = error.to_string();
        match error {
            Error::SqliteFailure(code, _) | Error::SqlInputError { error: code, .. } => match code.code {
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Self::Corrupt(reason),
                ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied => {
                    Self::ReadOnly(reason)
                }
                ErrorCode::DiskFull => Self::Full,
                ErrorCode::SystemIoFailure => match code.extended_code {
                    ffi::SQLITE_IOERR_CORRUPTFS | ffi::SQLITE_IOERR_DATA | ffi::SQLITE_IOERR_SHORT_READ => {
                        Self::Corrupt(reason)
                    }
                    // The shared index could not grow.
                    ffi::SQLITE_IOERR_SHMSIZE => Self::Full,
                    _ => Self::Device(reason),
                },
                _ => Self::Other(reason),
            },
            // A value in a row that this program would not have written.
            Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::InvalidColumnType(..)
            | Error::Utf8Error(..) => Self::Corrupt(reason),
            _ => Self::Other(reason),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::ReadOnly(error.to_string())
            }
            _ => Self::Other(error.to_string()),
        }
    }
}
