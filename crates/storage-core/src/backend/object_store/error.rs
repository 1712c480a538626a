//! What an object store answers, in the words of this library. The only place where its errors are read.

use std::error::Error as StdError;
use std::io;

use object_store::Error as StoreError;

use crate::error::{Effect, Error, ErrorKind, Op};

/// Converts the error of a call. One that changes something and neither was refused nor came through may have
/// taken effect.
///
/// A store says `Generic` of nearly everything; where an I/O error of the system is its cause, that one decides.
pub(super) fn convert(op: Op, error: StoreError) -> Error {
    let writes = matches!(op, Op::Upload | Op::Copy | Op::Delete | Op::Probe);
    let (kind, refused) = match &error {
        StoreError::NotFound { .. } => (ErrorKind::NotFound, true),
        StoreError::AlreadyExists { .. } => (ErrorKind::AlreadyExists, true),
        StoreError::Precondition { .. } | StoreError::NotModified { .. } => {
            (ErrorKind::VersionMismatch, true)
        }
        StoreError::NotSupported { .. } | StoreError::NotImplemented { .. } => (ErrorKind::Unsupported, true),
        StoreError::InvalidPath { .. } => (ErrorKind::InvalidInput, true),
        StoreError::PermissionDenied { .. } => (ErrorKind::Denied, true),
        StoreError::Unauthenticated { .. } => (ErrorKind::Unauthenticated, true),
        StoreError::UnknownConfigurationKey { .. } => (ErrorKind::Misconfigured, true),
        other => cause(other).map_or((ErrorKind::Other, false), |cause| by_io(cause.kind(), writes)),
    };
    let effect = if writes && !refused { Effect::Unknown } else { Effect::None };
    Error::new(kind, op).with_effect(effect).with_message(error.to_string()).with_source(error)
}

/// Returns the I/O error that is the cause, however deep.
fn cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a io::Error> {
    let mut link = Some(error);
    let mut deepest = None;
    while let Some(error) = link {
        link = match error.downcast_ref::<io::Error>() {
            // It may only wrap another one, which knows more, and which `source` would leave out.
            Some(io) => {
                deepest = Some(io);
                io.get_ref().map(|inner| inner as &(dyn StdError + 'static))
            }
            None => error.source(),
        };
    }
    deepest
}

fn by_io(kind: io::ErrorKind, writes: bool) -> (ErrorKind, bool) {
    match kind {
        io::ErrorKind::NotFound => (ErrorKind::NotFound, true),
        // `a/b` where `a` is a file, and `d` where there is `d/e`.
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::DirectoryNotEmpty => {
            (if writes { ErrorKind::Conflict } else { ErrorKind::NotFound }, true)
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => (ErrorKind::Denied, true),
        io::ErrorKind::InvalidFilename => (ErrorKind::InvalidInput, true),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (ErrorKind::StorageFull, true),
        io::ErrorKind::TimedOut => (ErrorKind::Timeout, false),
        io::ErrorKind::ConnectionRefused => (ErrorKind::Unavailable, true),
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::NotConnected
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown
        | io::ErrorKind::UnexpectedEof => (ErrorKind::Unavailable, false),
        _ => (ErrorKind::Other, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(kind: io::ErrorKind) -> StoreError {
        let deep = io::Error::other(io::Error::from(kind));
        StoreError::Generic { store: "test", source: Box::new(deep) }
    }

    /// An outage that looks like any failure never trips a breaker; a refusal that looks like an outage does.
    #[test]
    fn the_cause_decides_what_a_generic_error_is() {
        for (cause, kind, effect) in [
            (io::ErrorKind::ConnectionRefused, ErrorKind::Unavailable, Effect::None),
            (io::ErrorKind::ConnectionReset, ErrorKind::Unavailable, Effect::Unknown),
            (io::ErrorKind::TimedOut, ErrorKind::Timeout, Effect::Unknown),
            (io::ErrorKind::StorageFull, ErrorKind::StorageFull, Effect::None),
            (io::ErrorKind::NotADirectory, ErrorKind::Conflict, Effect::None),
            (io::ErrorKind::InvalidData, ErrorKind::Other, Effect::Unknown),
        ] {
            let error = convert(Op::Upload, generic(cause));
            assert_eq!((error.kind(), error.effect()), (kind, effect), "{cause:?}");
        }
        let error = convert(Op::Download, generic(io::ErrorKind::NotADirectory));
        assert_eq!((error.kind(), error.effect()), (ErrorKind::NotFound, Effect::None));
    }
}
