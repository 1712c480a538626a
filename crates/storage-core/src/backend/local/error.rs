//! What the operating system says, in the library's words.

use std::io;

use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Op, Retry};

/// Converts an error of a system call. Calls whose errors mean something particular to them (`ENOENT` while a
/// file is looked for, `ENOTDIR` while a directory is made) look at the number first.
pub(super) fn failed(op: Op, error: impl Into<io::Error>) -> Error {
    let error = error.into();
    let errno = Errno::from_io_error(&error);
    let kind = errno.map_or(ErrorKind::Other, kind_of);
    let converted = Error::new(kind, op).with_message(error.to_string()).with_source(error);
    match errno {
        // The process ran out of descriptors or memory: not the storage's fault, and it passes.
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::BUSY | Errno::AGAIN) => {
            converted.with_retry(Retry::Now)
        }
        _ => converted,
    }
}

fn kind_of(errno: Errno) -> ErrorKind {
    match errno {
        Errno::NOENT => ErrorKind::NotFound,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => ErrorKind::Denied,
        Errno::NOSPC | Errno::DQUOT => ErrorKind::StorageFull,
        Errno::FBIG => ErrorKind::TooLarge,
        Errno::NAMETOOLONG => ErrorKind::InvalidInput,
        Errno::NOTDIR | Errno::ISDIR | Errno::NOTEMPTY => ErrorKind::Conflict,
        Errno::LOOP => ErrorKind::NotAFile,
        // A directory inside the root where another file system is mounted: the temporary file cannot be
        // renamed into it.
        Errno::XDEV => ErrorKind::Misconfigured,
        // A network file system whose server went away.
        Errno::TIMEDOUT | Errno::HOSTDOWN | Errno::HOSTUNREACH | Errno::NOTCONN => ErrorKind::Unavailable,
        _ => ErrorKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_refusal_are_told_apart() {
        assert_eq!(failed(Op::Upload, Errno::NOSPC).kind(), ErrorKind::StorageFull);
        assert_eq!(failed(Op::Upload, Errno::ACCESS).kind(), ErrorKind::Denied);
        assert_eq!(failed(Op::Upload, Errno::ROFS).kind(), ErrorKind::Denied);
        let exhausted = failed(Op::Upload, Errno::MFILE);
        assert_eq!((exhausted.kind(), exhausted.retry()), (ErrorKind::Other, Retry::Now));
    }
}
